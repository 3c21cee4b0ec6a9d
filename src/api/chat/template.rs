//! Chat templates: messages become the text that a model was trained with. They are Jinja as Hugging Face's transformers
//! runs it (`apply_chat_template`), which is Jinja2 in a sandbox with a few functions of its own.
//!
//! A template may come from a client. Its fuel bounds what it may take, time and memory alike; it reaches nothing but
//! what it is given.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde::Serialize;
use serde_json::Map;

/// About 64 bytes, or an instruction, each: a conversation of megabytes fits, and nothing takes more than a moment.
const FUEL: u64 = 1_000_000;
/// Calls within calls.
const RECURSION: usize = 100;

/// Why a template gave no text; goes on from "the template", for the person who sent the request.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// What the template itself says of the messages, by `raise_exception`.
    #[error("says: {0}")]
    Raised(String),
    #[error("cannot be read: {0}")]
    Syntax(String),
    #[error("took too much time or memory")]
    OutOfFuel,
    #[error("failed: {0}")]
    Failed(String),
}

/// What is in scope of a template: `messages`, `tools`, `bos_token` and their like.
pub type Scope = Map<String, serde_json::Value>;

/// The text that the template makes of what is in scope.
pub fn render(template: &str, scope: &Scope) -> Result<String, TemplateError> {
    let source = without_generation_tags(template);
    let environment = environment().map_err(|error| TemplateError::Failed(described(&error)))?;
    let template = environment
        .template_from_named_str("chat_template", &source)
        .map_err(|error| TemplateError::Syntax(described(&error)))?;
    template
        .render(Value::from(Serde(scope)))
        .map_err(|error| match error.kind() {
            ErrorKind::OutOfFuel => TemplateError::OutOfFuel,
            _ => match raised(&error) {
                Some(message) => TemplateError::Raised(message),
                None => TemplateError::Failed(described(&error)),
            },
        })
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", to_json);
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()?;
    environment.set_syntax(syntax);
    Ok(environment)
}

/// transformers marks what an assistant said by `{% generation %}`, for training. Here it is said without.
fn without_generation_tags(template: &str) -> String {
    let mut rest = template;
    let mut source = String::with_capacity(template.len());
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        source.push_str(before);
        let word = tag
            .trim_start_matches("{%")
            .trim_end_matches("%}")
            .trim_matches(['-', '+'])
            .trim();
        match word {
            "generation" => source.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => source.push_str(&tag.replace("endgeneration", "endif")),
            _ => source.push_str(tag),
        }
        rest = after;
    }
    source.push_str(rest);
    source
}

/// What [`raise_exception`] puts before its message, to tell it from other errors.
const RAISED: &str = "raised: ";

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("{RAISED}{message}"),
    ))
}

fn raised(error: &Error) -> Option<String> {
    error
        .detail()
        .and_then(|detail| detail.strip_prefix(RAISED))
        .map(str::to_owned)
}

/// The time on this machine.
fn strftime_now(format: &str) -> Result<String, Error> {
    let now = jiff::ZonedDateTime::now();
    jiff::fmt::strtime::format(format, &now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// JSON as Python writes it: a space after comma and colon, nothing escaped that need not be.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Others change nothing that a prompt shows.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let wrong =
        |error: serde_json::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let mut bytes = Vec::new();
    match indent {
        Some(spaces) => {
            let spaces = " ".repeat(spaces.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
            value.serialize(&mut serializer).map_err(wrong)?;
        }
        None => {
            let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Python);
            value.serialize(&mut serializer).map_err(wrong)?;
        }
    }
    Ok(Value::from_safe_string(
        String::from_utf8_lossy(&bytes).into_owned(),
    ))
}

/// `json.dumps` without options.
struct Python;

impl serde_json::ser::Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The error with its line.
fn described(error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(template: &str, scope: serde_json::Value) -> Result<String, TemplateError> {
        render(template, scope.as_object().expect("an object"))
    }

    #[test]
    fn templates_as_transformers_renders_them() {
        let check = |template: &str, scope: serde_json::Value, expect: &str| {
            assert_eq!(rendered(template, scope).expect(template), expect);
        };
        // ChatML, as of SmolLM2.
        check(
            "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nHi<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
            json!({"messages": [{"role": "user", "content": "a<b"}], "add_generation_prompt": true}),
            "<|im_start|>system\nHi<|im_end|>\n<|im_start|>user\na<b<|im_end|>\n<|im_start|>assistant\n",
        );
        // Blocks on lines of their own leave nothing.
        check(
            "a\n    {% if true %}\nb\n    {% endif %}\nc\n",
            json!({}),
            "a\nb\nc",
        );
        // Python's methods, slices, namespaces, loop controls.
        check(
            "{% set ns = namespace(n=0) %}{% for m in messages[1:] %}{% if m.role == 'x' %}{% continue %}{% endif %}{% set ns.n = ns.n + 1 %}{{ m.content.strip().split('|')[-1] | trim }}{% endfor %}{{ ns.n }}",
            json!({"messages": [{"role": "a"}, {"role": "x"}, {"role": "b", "content": " 1|2 "}]}),
            "21",
        );
        check(
            "{{ tools | tojson }}{{ tools[0] | tojson(indent=2) }}",
            json!({"tools": [{"a": 1, "b": ["<", "é"]}]}),
            "[{\"a\": 1, \"b\": [\"<\", \"é\"]}]{\n  \"a\": 1,\n  \"b\": [\n    \"<\",\n    \"é\"\n  ]\n}",
        );
        check("{%- generation -%} a {%- endgeneration -%}", json!({}), "a");
        check(
            "{{ nothing }}{% if nothing is defined %}x{% endif %}",
            json!({}),
            "",
        );
        check(
            "{{ d.items() | list | length }}{{ d.get('z', 3) }}",
            json!({"d": {"a": 1}}),
            "13",
        );
        assert_eq!(
            rendered("{{ strftime_now('%Y') }}", json!({}))
                .expect("a year")
                .len(),
            4
        );
    }

    #[test]
    fn what_goes_wrong_is_said() {
        let check = |template: &str, part: &str| {
            let message = rendered(template, json!({"messages": [1]}))
                .expect_err(template)
                .to_string();
            assert!(message.contains(part), "{template}: {message}");
        };
        check(
            "{{ raise_exception('Roles must alternate') }}",
            "says: Roles must alternate",
        );
        check("{% if %}", "cannot be read: syntax error");
        check("{{ messages[0].a.b.c }}", "failed: undefined value");
        check("{{ open('/etc/passwd') }}", "failed: unknown function");
        check("{% include '/etc/passwd' %}", "failed:");
        check(
            "{{ messages.__class__.__mro__ }}",
            "failed: undefined value",
        );
    }

    #[test]
    fn no_template_takes_more_than_its_fuel() {
        for template in [
            "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}",
            "{{ 'a' * 1000000000 }}",
            "{% set ns = namespace(a='aaaaaaaa') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a }}",
            "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
            "{{ ('a' * 1000000).replace('a', 'b' * 1000) }}",
            "{{ 'a' | indent(1000000000) }}",
            "{{ [1] * 100000000 | length }}{{ ([1] * 100000000) | join('x') }}",
            "{{ '%1000000000d' | format(1) }}",
            "{{ '{:>1000000000}'.format('a') }}",
            "{{ 'a'.center(1000000000) }}",
            "{{ range(100000000) | list }}",
            "{{ 'a,' * 1000000 | tojson }}{{ ('a,' * 10000000).split(',') | length }}",
        ] {
            assert!(rendered(template, json!({})).is_err(), "{template}");
        }
        let deep = format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000));
        assert!(rendered(&format!("{{{{ {deep} }}}}"), json!({})).is_err());
        let nested = "{% if true %}".repeat(20_000);
        assert!(rendered(&nested, json!({})).is_err());
    }
}
