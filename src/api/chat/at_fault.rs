//! Which tool's schema is at fault where calls cannot be forced.

use serde_json::Value;

use super::request::ToolChoice;
use super::tools::parameters;
use crate::api::error::ApiError;
use crate::api::served::Served;
use crate::sampling::{Constraint, InvalidConstraint};

/// The error about the first tool whose schema is refused by itself.
pub fn at_fault(tools: &[Value], choice: &ToolChoice, served: &Served) -> Option<ApiError> {
    tools.iter().enumerate().find_map(|(place, tool)| {
        let function = &tool["function"];
        let name = function["name"].as_str().unwrap_or_default();
        if matches!(choice, ToolChoice::Named(named) if named != name) {
            return None;
        }
        let checked = Constraint::json_schema(&served.model, &parameters(function));
        let error = checked
            .err()
            .filter(|error| *error != InvalidConstraint::Panicked)?;
        Some(ApiError::field(
            "tools",
            format!("`tools[{place}].function.parameters`, of `{name}`, was rejected: {error}."),
        ))
    })
}
