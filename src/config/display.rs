//! Settings as text: the output of `candor config`, and values in messages. Secrets are hidden.

use toml::Value;

use super::entry::Entry;
use super::settings::{Allowed, Setting};

/// Printed in place of a secret.
const HIDDEN: &str = "***";

/// A settings file with the origin of each value as a comment.
pub(super) fn settings_file(effective: &[&Entry], tables: &[Vec<Entry>]) -> String {
    let mut lines = Vec::new();
    let mut last_section = "";
    for entry in effective {
        let (section, _) = entry.setting.section_and_field();
        if section != last_section {
            if !last_section.is_empty() {
                lines.push(String::new());
            }
            lines.push(format!("[{section}]"));
            last_section = section;
        }
        lines.push(line(entry));
    }
    for table in tables {
        lines.extend([String::new(), "[[models]]".to_owned()]);
        let mut last_section = "model";
        for entry in table {
            let (section, _) = entry.setting.section_and_field();
            if section != last_section {
                lines.push(format!("[models.{section}]"));
                last_section = section;
            }
            lines.push(line(entry));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

fn line(entry: &Entry) -> String {
    let (_, field) = entry.setting.section_and_field();
    let assignment = format!("{field} = {}", shown(entry.setting, &entry.value));
    format!("{assignment:<40} # {}", entry.origin)
}

/// A value as TOML writes it, on one line. Settings that are not whole numbers get a decimal point.
pub(super) fn shown(setting: &Setting, value: &Value) -> String {
    match (setting.allowed, value) {
        (Allowed::Keys, Value::Array(items)) => {
            format!("[{}]", vec![format!("{HIDDEN:?}"); items.len()].join(", "))
        }
        (Allowed::Keys, _) => HIDDEN.to_owned(),
        (Allowed::Number(..), Value::Integer(whole)) => {
            format!("{:?}", *whole as f64)
        }
        _ => on_one_line(value),
    }
}

/// As TOML writes it, but for strings with line breaks, which it would spread over several lines.
pub(super) fn on_one_line(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains(['\n', '\r']) => quoted(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(on_one_line).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(fields) => {
            let fields = fields.iter();
            let fields: Vec<_> = fields
                .map(|(name, value)| format!("{} = {}", quoted(name), on_one_line(value)))
                .collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
