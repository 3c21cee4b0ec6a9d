//! The field `reasoning_effort`: how much a model reasons, as far as its template can say it.

use serde_json::{Map, Value, json};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong};
use crate::config::UnknownFields;

/// The field, and the variable of templates.
pub const NAME: &str = "reasoning_effort";

/// OpenAI's.
pub const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// What a model without a choice of efforts does anyway: it does not reason, or as much as it does by default.
const NEUTRAL: [&str; 2] = ["none", "medium"];

/// The template variables for it: gpt-oss' and others', which has the effort, and those that turn reasoning on or off.
const SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];

pub fn read(fields: &mut Fields) -> Result<Option<&'static str>, ApiError> {
    let value = fields
        .field(
            NAME,
            "How much the model reasons, if its template can say it: it is the template variable `reasoning_effort`, and \
             `enable_thinking` and `thinking` are false for \"none\" and true otherwise, unless `chat_template_kwargs` has \
             them. Without such variables \"none\" and \"medium\" have no effect, and others are rejected.",
        )
        .value(|| json!({"type": "string", "enum": EFFORTS}));
    let Some(value) = value else {
        return Ok(None);
    };
    let effort = EFFORTS.into_iter().find(|effort| value == **effort);
    effort.map(Some).ok_or_else(|| {
        let efforts = EFFORTS.map(|effort| format!("\"{effort}\""));
        wrong(NAME, &format!("one of {}", efforts.join(", ")), &value)
    })
}

/// Sets the variables by which a template learns of it, except those that the request sets itself. 400 if this template
/// knows none, and the effort is not what its model does anyway.
pub fn set(
    effort: &str,
    field: &'static str,
    template: &str,
    kwargs: &mut Map<String, Value>,
    how: UnknownFields,
) -> Result<(), ApiError> {
    if is_known(template) {
        kwargs.entry(NAME).or_insert_with(|| effort.into());
        for name in SWITCHES {
            kwargs
                .entry(name)
                .or_insert_with(|| (effort != "none").into());
        }
        return Ok(());
    }
    if NEUTRAL.contains(&effort) {
        return Ok(());
    }
    let message = format!(
        "`{field}` must be \"none\" or \"medium\", which have no effect, but it is \"{effort}\": this model's template reads \
         none of the variables `reasoning_effort`, `enable_thinking` and `thinking`."
    );
    let ignored = "a field is ignored that the chat template does not know";
    refuse(field, message, ignored, how)
}

/// Whether a template can say how much the model reasons.
pub fn is_known(template: &str) -> bool {
    template.contains(NAME) || SWITCHES.iter().any(|name| reads(template, name))
}

/// 400 if a request asks for no reasoning and its prompt expects some.
pub fn check_none(field: &'static str, how: UnknownFields) -> Result<(), ApiError> {
    let message = format!(
        "`{field}` is \"none\", but this model reasons anyway: its template writes a prompt that expects reasoning. Leave \
         `{field}` out."
    );
    let ignored = "a field is ignored: this model reasons anyway";
    refuse(field, message, ignored, how)
}

/// 400 with this message; or a warning that the field is ignored, where unknown fields are.
fn refuse(
    field: &'static str,
    message: String,
    ignored: &str,
    how: UnknownFields,
) -> Result<(), ApiError> {
    match how {
        UnknownFields::Reject => Err(ApiError::field(field, message)),
        UnknownFields::Warn => {
            tracing::warn!(names = field, "{ignored}");
            Ok(())
        }
    }
}

/// Whether an expression of the template reads a variable of this name: not a field of a message, nor a text.
fn reads(template: &str, name: &str) -> bool {
    let is_whole = |c: char| !c.is_alphanumeric() && !"_.'\"".contains(c);
    let (mut inside, mut before) = (false, '\0');
    template.char_indices().any(|(place, character)| {
        let rest = &template[place..];
        if rest.starts_with("{{") || rest.starts_with("{%") {
            inside = true;
        } else if rest.starts_with("}}") || rest.starts_with("%}") {
            inside = false;
        }
        let begins = is_whole(std::mem::replace(&mut before, character));
        let after = rest.strip_prefix(name).filter(|_| inside && begins);
        after.is_some_and(|after| after.starts_with(is_whole))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_learn_of_the_effort_by_their_variables() {
        let check = |template: &str, effort: &str, expect: Result<Value, ()>| {
            let mut kwargs = Map::new();
            kwargs.insert("thinking".to_owned(), 5.into());
            let set = set(effort, NAME, template, &mut kwargs, UnknownFields::Reject);
            let got = set.map(|()| kwargs.into()).map_err(|_| ());
            assert_eq!(got, expect, "{template} {effort}");
        };
        let none = json!({"thinking": 5});
        let low = json!({"thinking": 5, "reasoning_effort": "low", "enable_thinking": true});
        let off = json!({"thinking": 5, "reasoning_effort": "none", "enable_thinking": false});
        check("{{ messages }}", "medium", Ok(none.clone()));
        check("{{ messages }}", "none", Ok(none));
        check("{{ messages }}", "low", Err(()));
        check(
            "{{ 'Effort: ' + reasoning_effort }}",
            "low",
            Ok(low.clone()),
        );
        check("{% if not enable_thinking %}", "none", Ok(off));
        check("{%- if thinking is defined -%}", "low", Ok(low));
        for other in [
            "{{ message.thinking }}",
            "{{ message['thinking'] }}",
            "Be thinking of {{ this }} while thinking of that",
            "{{ rethinking }}",
        ] {
            check(other, "high", Err(()));
        }
    }

    #[test]
    fn a_long_template_is_read_once() {
        // Before: each of many names was looked for from the start.
        let many = "thinking ".repeat(200_000);
        assert!(!reads(&many, "thinking"));
        assert!(reads(&format!("{many}{{{{ thinking }}}}"), "thinking"));
        let fields = format!("{{{{ {} }}}}", "x.thinking ".repeat(100_000));
        assert!(!reads(&fields, "thinking"));
    }

    #[test]
    fn what_may_be_asked_for() {
        let read = |value: Value| {
            let body = json!({"reasoning_effort": value});
            read(&mut Fields::new(
                body.as_object().cloned().unwrap_or_default(),
            ))
        };
        assert_eq!(read(json!(null)), Ok(None));
        assert_eq!(read(json!("xhigh")), Ok(Some("xhigh")));
        assert!(read(json!("most")).is_err());
        assert!(read(json!(0.5)).is_err());
    }
}
