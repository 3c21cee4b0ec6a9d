//! minijinja, set up so that it renders as Jinja2 3.1 does in transformers: an immutable sandbox with `trim_blocks`,
//! `lstrip_blocks` and loop controls. Wherever minijinja does otherwise, a module beside this one overrides it.

use std::sync::Arc;

use minijinja::machinery::{CompiledTemplate, TemplateConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, Output, State, UndefinedBehavior, Value};

use super::{filters, functions, json, methods, operators, text};

/// The depth of nested calls, each of which counts several times: schemas within schemas are often written by macros.
const RECURSION: usize = 500;

/// An environment whose templates may use this much fuel: a unit is about 64 bytes or one instruction.
pub fn environment<'source>(fuel: u64) -> Environment<'source> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(fuel));
    environment.set_recursion_limit(RECURSION);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(methods::call);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(print);
    environment.add_filter("tojson", json::to_json);
    filters::add(&mut environment);
    functions::add(&mut environment);
    operators::add(&mut environment);
    environment
}

/// Compiles a template. Its line ends are those of Jinja2, and what minijinja cannot read is rewritten (`source`).
pub fn compile(source: &str) -> Result<CompiledTemplate<'_>, Error> {
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()?;
    let config = TemplateConfig {
        syntax_config: syntax,
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    let mut compiled = CompiledTemplate::new("chat_template", source, &config)?;
    operators::replace(&mut compiled.instructions);
    for block in compiled.blocks.values_mut() {
        operators::replace(block);
    }
    Ok(compiled)
}

/// `{{ value }}`.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) if value.kind() == ValueKind::String => out.write_str(text),
        _ => out.write_str(&text::text(state, value)?),
    };
    written.map_err(Error::from)
}
