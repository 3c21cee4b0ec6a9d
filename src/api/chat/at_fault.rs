//! Which tool's schema is at fault where calls cannot be forced.

use serde_json::Value;

use super::conversation::Names;
use super::tool_choice::ToolChoice;
use super::tools::parameters;
use super::writes::Writes;
use crate::api::error::ApiError;
use crate::api::served::Served;
use crate::sampling::{Constraint, InvalidConstraint};

/// The error about the first tool whose schema is refused by itself, or of which no call can be forced.
pub fn at_fault(
    tools: &[Value],
    choice: &ToolChoice,
    writes: &Writes,
    names: Names,
    served: &Served,
) -> Option<ApiError> {
    let model = &served.model;
    // A grammar has only what the form writes of a schema, which may be longer.
    let mut left = served.config.limits.grammar_bytes;
    tools.iter().enumerate().find_map(|(place, tool)| {
        let function = &tool["function"];
        let name = function["name"].as_str().unwrap_or_default();
        if matches!(choice, ToolChoice::Named(named) if named != name) {
            return None;
        }
        let schema = parameters(function);
        left = left.checked_sub(schema.to_string().len())?;
        let mut checked = Constraint::json_schema(model, &schema).map(drop);
        if checked.is_ok() {
            let grammar = writes.grammar(std::slice::from_ref(tool), false, None, served)?;
            checked = Constraint::lark_of_json(model, &grammar).map(drop);
        }
        let error = checked
            .err()
            .filter(|error| *error != InvalidConstraint::Panicked)?;
        Some(ApiError::field(
            "tools",
            format!(
                "`tools[{place}].{}parameters`, of `{name}`, was rejected: {error}.",
                names.function
            ),
        ))
    })
}
