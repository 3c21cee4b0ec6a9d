//! Chat templates render messages as the text that a model was trained with. They are Jinja as in Hugging Face's
//! transformers (`apply_chat_template`): Jinja2 in a sandbox with a few more functions.
//!
//! A client may send its own template. It can access only its variables, and fuel limits most of what it may use. But
//! nested lists cost no fuel until they are printed, and can then be of any size. So templates of clients are rendered in
//! a process of their own, with limits on its memory and time.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::program;

/// A unit is about 64 bytes or one instruction: enough for a conversation of megabytes, and used up in a moment.
const FUEL: u64 = 200_000;
/// Nested values are dropped recursively, and fuel allows about ten thousand levels.
const STACK_BYTES: usize = 128 << 20;
/// The depth of nested calls.
const RECURSION: usize = 100;

/// Why a template did not render, as the rest of a sentence that begins with "the template". For the person who sent the
/// request.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum TemplateError {
    /// The template rejects the messages by `raise_exception`.
    #[error("says: {0}")]
    Raised(String),
    #[error("cannot be read: {0}")]
    Syntax(String),
    #[error("took too much time or memory")]
    OutOfFuel,
    #[error("failed: {0}")]
    Failed(String),
}

/// The variables of a template: `messages`, `tools`, `bos_token` and others.
pub type Scope = Map<String, serde_json::Value>;

/// Renders a template.
pub fn render(template: &str, scope: &Scope) -> Result<String, TemplateError> {
    std::thread::scope(|threads| {
        let thread = std::thread::Builder::new()
            .name("template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(threads, || render_here(template, scope));
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(outcome)) => outcome,
            _ => Err(TemplateError::Failed("it could not be run".to_owned())),
        }
    })
}

/// The input of the process that renders a client's template.
#[derive(Serialize, Deserialize)]
struct Order {
    template: String,
    scope: Scope,
}

/// Maximum memory of such a process, with its program and stack.
const PROCESS_BYTES: u64 = 1 << 30;
/// Maximum CPU time of it, in seconds.
const PROCESS_SECONDS: u64 = 3;
/// The only environment variable of the server that it inherits: others may contain keys.
const TIME_ZONE: &str = "TZ";
/// Maximum number of bytes of its output.
const PROCESS_ANSWER_BYTES: u64 = 32 << 20;

/// Like [`render`], in its own process.
pub fn render_apart(template: &str, scope: Scope) -> Result<String, TemplateError> {
    let order = Order {
        template: template.to_owned(),
        scope,
    };
    let run = || -> std::io::Result<Option<Result<String, TemplateError>>> {
        let mut command = Command::new(program::path()?);
        command.arg("render-template").env_clear();
        // So that `strftime_now` returns the same time as in the server.
        if let Some(zone) = std::env::var_os(TIME_ZONE) {
            command.env(TIME_ZONE, zone);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // It reads all input before it writes. If it ends earlier, there is no output.
        if let Some(mut input) = child.stdin.take() {
            let _ = input.write_all(serde_json::to_string(&order)?.as_bytes());
        }
        let mut answer = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(PROCESS_ANSWER_BYTES).read_to_end(&mut answer)?;
        }
        let _ = child.kill();
        child.wait()?;
        Ok(serde_json::from_slice(&answer).ok())
    };
    match run() {
        Ok(Some(outcome)) => outcome,
        // The operating system killed it.
        Ok(None) => Err(TemplateError::OutOfFuel),
        Err(error) => {
            tracing::error!(%error, "cannot run the process for a chat template");
            Err(TemplateError::Failed("it could not be run".to_owned()))
        }
    }
}

/// The main function of that process: an [`Order`] in, a text or a [`TemplateError`] out, in JSON.
pub fn render_template(order: &str) -> String {
    // On systems without such limits there is only fuel.
    for (resource, most) in [
        (rlimit::Resource::AS, PROCESS_BYTES),
        (rlimit::Resource::CPU, PROCESS_SECONDS),
        (rlimit::Resource::CORE, 0),
    ] {
        let _ = resource.set(most, most);
    }
    let outcome = match serde_json::from_str::<Order>(order) {
        Ok(Order { template, scope }) => render(&template, &scope),
        Err(error) => Err(TemplateError::Failed(error.to_string())),
    };
    serde_json::to_string(&outcome).unwrap_or_default()
}

fn render_here(template: &str, scope: &Scope) -> Result<String, TemplateError> {
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

/// Removes `{% generation %}`, with which transformers marks the assistant's text for training.
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

/// The prefix that tells messages of [`raise_exception`] from other errors.
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

/// The local time of this machine.
fn strftime_now(format: &str) -> Result<String, Error> {
    let now = jiff::ZonedDateTime::now();
    jiff::fmt::strtime::format(format, &now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// JSON in Python's format: a space after each comma and colon, and only necessary escapes.
fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Other options have no effect on a prompt.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let wrong =
        |error: serde_json::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    // A value may contain itself many times over, so the output is limited while it is written.
    let fuel = state.fuel_levels().map_or(0, |(_, left)| left);
    let mut bytes = Bounded {
        written: Vec::new(),
        most: usize::try_from(fuel.saturating_mul(64)).unwrap_or(usize::MAX),
    };
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
        String::from_utf8_lossy(&bytes.written).into_owned(),
    ))
}

/// A writer that fails beyond a number of bytes.
struct Bounded {
    written: Vec<u8>,
    most: usize,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.written.len() + bytes.len() > self.most {
            return Err(std::io::Error::other("the JSON is too long"));
        }
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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
    fn errors_say_what_is_wrong() {
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
            "{% set ns=namespace(a=[1,1]) %}{% for i in range(40) %}{% set ns.a=[ns.a,ns.a] %}{% endfor %}{{ ns.a|tojson }}",
            "{% set ns=namespace(a=[1,1]) %}{% for i in range(40) %}{% set ns.a=[ns.a,ns.a] %}{% endfor %}{{ ns.a|tojson(indent=2) }}",
            "{{ 'a,' * 1000000 | tojson }}{{ ('a,' * 10000000).split(',') | length }}",
        ] {
            assert!(rendered(template, json!({})).is_err(), "{template}");
        }
        // It ends, with enough fuel or not.
        for last in [
            "",
            "{{ ns.a }}",
            "{{ ns.a|tojson }}",
            "{{ ns.a == ns.a }}",
            "{{ ns.a|string|length }}",
        ] {
            for levels in [1_000, 10_000, 100_000] {
                let nests = "{% set ns.a=[ns.a] %}{% endfor %}";
                let template = format!(
                    "{{% set ns=namespace(a=[]) %}}{{% for i in range({levels}) %}}{nests}{last}"
                );
                let _ = rendered(&template, json!({}));
            }
        }
        let deep = format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000));
        assert!(rendered(&format!("{{{{ {deep} }}}}"), json!({})).is_err());
        let nested = "{% if true %}".repeat(20_000);
        assert!(rendered(&nested, json!({})).is_err());
    }
}
