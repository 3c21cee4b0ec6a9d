//! A template that can be rendered.

use std::ops::Range;

use minijinja::machinery::{CompiledTemplate, eval, make_string_output};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Error, ErrorKind, Value};
use serde_json::Map;

use super::error::TemplateError;
use super::jinja2;

/// The variables of a template: `messages`, `tools`, `bos_token` and others.
pub type Scope = Map<String, serde_json::Value>;

pub struct Compiled<'a> {
    source: &'a str,
    template: CompiledTemplate<'a>,
    fuel: u64,
}

impl<'a> Compiled<'a> {
    /// Compiles a template, which [`jinja2::source`] has prepared. Each rendering has this much fuel.
    pub fn new(source: &'a str, fuel: u64) -> Result<Self, TemplateError> {
        let template = jinja2::compile(source);
        let template =
            template.map_err(|error| TemplateError::Syntax(described(&error, source)))?;
        Ok(Self {
            source,
            template,
            fuel,
        })
    }

    pub fn source(&self) -> &str {
        self.source
    }

    pub fn render(&self, scope: &Scope) -> Result<String, TemplateError> {
        let environment = jinja2::environment(self.fuel);
        let mut text = String::new();
        let rendered = eval(
            &environment,
            &self.template.instructions,
            Value::from(Serde(scope)),
            &self.template.blocks,
            &mut make_string_output(&mut text),
            AutoEscape::None,
        );
        match rendered {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::OutOfFuel => {
                return Err(TemplateError::OutOfFuel);
            }
            Err(error) => {
                return Err(match jinja2::raised(&error) {
                    Some(message) => TemplateError::Raised(message),
                    None => TemplateError::Failed(described(&error, self.source)),
                });
            }
        }
        Ok(text)
    }
}

/// The error with its line, and the expression if that is known.
fn described(error: &Error, source: &str) -> String {
    /// In characters.
    const MOST: usize = 80;
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    let Some(line) = error.line() else {
        return what;
    };
    let whole_line = || source.lines().nth(line.checked_sub(1)?);
    let of_range = |range: Range<usize>| source.get(range);
    let expression = error.range().and_then(of_range).or_else(whole_line);
    match expression.map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) if text.chars().count() <= MOST => format!("{what} (line {line}: `{text}`)"),
        Some(text) => {
            let start: String = text.chars().take(MOST).collect();
            format!("{what} (line {line}: `{start}…`)")
        }
        None => format!("{what} (line {line})"),
    }
}
