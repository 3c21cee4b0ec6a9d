//! The tables of the pages, made from `/openapi.json`: what is documented once is not written twice.

use std::collections::BTreeSet;

use serde_json::Value;

use super::markdown::Page;

/// A route's operation in the document.
fn operation<'a>(document: &'a Value, method: &str, path: &str) -> &'a Value {
    let found = &document["paths"][path][method.to_lowercase()];
    assert!(found.is_object(), "there is no {method} {path}");
    found
}

/// The fields of a route's body, each with its schema; none, if it has no body. Those of other servers that are taken at some
/// values have one table for all routes.
pub fn fields<'a>(document: &'a Value, method: &str, path: &str) -> Vec<(&'a str, &'a Value)> {
    let body =
        &operation(document, method, path)["requestBody"]["content"]["application/json"]["schema"];
    let fields = body["properties"].as_object().into_iter().flatten();
    let own = fields.filter(|(_, schema)| {
        schema["description"] != "No effect." || schema.get("enum").is_none()
    });
    own.map(|(name, schema)| (name.as_str(), schema)).collect()
}

/// The name of what a route answers with, and that of the events of its stream.
pub fn answers<'a>(document: &'a Value, method: &str, path: &str) -> Vec<&'a str> {
    let content = &operation(document, method, path)["responses"]["200"]["content"];
    let kinds = ["application/json", "text/event-stream"];
    let schemas = kinds.iter().map(|kind| &content[kind]["schema"]);
    schemas
        .filter_map(|schema| schema["$ref"].as_str().or(schema["items"]["$ref"].as_str()))
        .filter_map(|reference| reference.rsplit('/').next())
        .collect()
}

/// A row of a table is one line.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

/// Whether a comment is the title of a table.
pub fn is_title(comment: &str) -> bool {
    ["routes", "neutral fields"].contains(&comment)
        || ["answer: ", "fields of ", "index of "]
            .iter()
            .any(|kind| comment.starts_with(kind))
}

/// What a table is to hold, by its title.
pub fn table(title: &str, document: &Value, pages: &[&Page]) -> Option<String> {
    if title == "routes" {
        return Some(routes(document, pages));
    }
    if title == "neutral fields" {
        return Some(neutral_fields(document));
    }
    if let Some(name) = title.strip_prefix("answer: ") {
        let rows = rows_of(name, document);
        assert!(!rows.is_empty(), "there is no answer {name}");
        return Some(format!(
            "\n| part of the answer | value | |\n|---|---|---|\n{}\n",
            rows.concat()
        ));
    }
    if let Some(index) = title.strip_prefix("index of ") {
        let (route, file) = index.split_once(": ")?;
        return Some(index_of(route, file, document, pages));
    }
    let (route, names) = title.strip_prefix("fields of ")?.split_once(": ")?;
    let (method, path) = route.split_once(' ')?;
    let known = fields(document, method, path);
    if let Some(other) = names.strip_prefix("as in ") {
        let (method, path) = other.split_once(' ')?;
        let others = fields(document, method, path);
        let shared = known.iter().filter(|field| others.contains(field));
        let names: Vec<String> = shared.map(|(name, _)| format!("`{name}`")).collect();
        return Some(format!("\n{}\n\n", names.join(", ")));
    }
    let rows: String = names
        .split(", ")
        .map(|name| row(&field_cells(name, method, path, document)))
        .collect();
    Some(format!(
        "\n| field | value | default | |\n|---|---|---|---|\n{rows}\n"
    ))
}

/// A field's name, value, default and description.
fn field_cells(name: &str, method: &str, path: &str, document: &Value) -> [String; 4] {
    let known = fields(document, method, path);
    let (_, schema) = known
        .iter()
        .find(|(other, _)| *other == name)
        .unwrap_or_else(|| panic!("{method} {path} has no field {name}"));
    let required = &operation(document, method, path)["requestBody"]["content"]["application/json"]
        ["schema"]["required"];
    let is_required = required
        .as_array()
        .is_some_and(|all| all.contains(&name.into()));
    let default = match schema.get("default") {
        _ if is_required => "required".to_owned(),
        None => String::new(),
        Some(default) => format!("`{}`", super::shown::line(default)),
    };
    let about = one_line(schema["description"].as_str().unwrap_or_default());
    [format!("`{name}`"), words(schema), default, about]
}

/// The fields of a route that a page's tables describe: a short row for each, with a link to the table.
fn index_of(route: &str, file: &str, document: &Value, pages: &[&Page]) -> String {
    let (method, path) = route.split_once(' ').expect("a method and a path");
    let page = pages
        .iter()
        .find(|page| page.path.file_name().is_some_and(|name| name == file))
        .unwrap_or_else(|| panic!("there is no page {file}"));
    let prefix = format!("fields of {route}: ");
    let mut rows = String::new();
    for table in &page.tables {
        let names = table.title.strip_prefix(&prefix).unwrap_or_default();
        for name in names.split(", ").filter(|name| !name.is_empty()) {
            let [field, value, default, about] = field_cells(name, method, path, document);
            let link = format!("[{field}]({file}{})", anchor(&table.heading));
            let first = match about.split_once(". ") {
                Some((first, _)) => format!("{first}."),
                None => about,
            };
            rows.push_str(&row(&[link, value, default, first]));
        }
    }
    assert!(!rows.is_empty(), "{file} has no fields of {route}");
    format!("\n| field | value | default | |\n|---|---|---|---|\n{rows}\n")
}

/// The link to a heading within its page; none to the page's title.
fn anchor(heading: &str) -> String {
    let Some(text) = heading.strip_prefix("##") else {
        return String::new();
    };
    let text = text.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|&c| c.is_alphanumeric() || "-_ ".contains(c));
    format!("#{}", kept.collect::<String>().replace(' ', "-"))
}

/// The fields that a page's tables show, for a route.
pub fn shown_fields(title: &str, document: &Value, route: &str) -> Vec<String> {
    let Some(names) = title.strip_prefix(&format!("fields of {route}: ")) else {
        return Vec::new();
    };
    match names.strip_prefix("as in ") {
        None => names.split(", ").map(str::to_owned).collect(),
        Some(_) => {
            let written = table(title, document, &[]).unwrap_or_default();
            written
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        }
    }
}

/// Each route with the page that has a heading for it.
fn routes(document: &Value, pages: &[&Page]) -> String {
    let mut text = "\n| route | |\n|---|---|\n".to_owned();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let route = format!("`{} {path}`", method.to_uppercase());
            let page = pages
                .iter()
                .find(|page| page.headings.iter().any(|heading| heading.contains(&route)))
                .unwrap_or_else(|| panic!("no page has a heading for {route}"));
            let file = page.path.file_name().expect("a file").to_string_lossy();
            let about = operation["summary"].as_str().expect("a summary");
            text.push_str(&row(&[format!("[{route}]({file})"), about.to_owned()]));
        }
    }
    text + "\n"
}

/// The fields of other APIs that are taken at some values only.
fn neutral_fields(document: &Value) -> String {
    let mut text = "\n| field | of | taken | other values |\n|---|---|---|---|\n".to_owned();
    for neutral in document["x-candor-neutral"].as_array().expect("rows") {
        let Some(values) = neutral["values"].as_array() else {
            continue;
        };
        let [name, of, otherwise] =
            ["name", "of", "otherwise"].map(|key| neutral[key].as_str().expect("a text"));
        let values = either(values.iter().map(|value| format!("`{value}`")));
        let cells = [
            format!("`{name}`"),
            of.to_owned(),
            values,
            otherwise.to_owned(),
        ];
        text.push_str(&row(&cells));
    }
    text + "\n"
}

/// A row for each part of an answer of that name.
fn rows_of(name: &str, document: &Value) -> Vec<String> {
    let mut rows = Vec::new();
    let schema = &document["components"]["schemas"][name];
    collect(schema, document, "", &mut rows);
    rows
}

/// What has many parts, and a table of its own for them.
const APART: &str = "#/components/schemas/Receipt";

/// The parts of an answer, by their paths.
fn collect(schema: &Value, document: &Value, path: &str, rows: &mut Vec<String>) {
    let schema = follow(schema, document);
    for part in schema["allOf"].as_array().into_iter().flatten() {
        collect(part, document, path, rows);
    }
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        let mut path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let mut inner = part;
        let mut nullable = false;
        let own = inner["description"].as_str();
        let mut is_apart = false;
        loop {
            is_apart |= inner["$ref"] == APART;
            let option = inner["oneOf"]
                .as_array()
                .and_then(|options| match &options[..] {
                    [one, null] if null["type"] == "null" => Some(one),
                    _ => None,
                });
            if let Some(option) = option {
                (inner, nullable) = (option, true);
            } else if inner["type"] == "array"
                && follow(&inner["items"], document).get("oneOf").is_none()
            {
                let items = follow(&inner["items"], document);
                if items.get("properties").or(items.get("allOf")).is_none() {
                    break;
                }
                path.push_str("[]");
                inner = items;
            } else if inner.get("$ref").is_some() {
                inner = follow(inner, document);
            } else {
                break;
            }
        }
        let about = one_line(own.or(inner["description"].as_str()).unwrap_or_default());
        let has_parts = inner.get("properties").or(inner.get("allOf")).is_some();
        if is_apart || !has_parts {
            let kinds = inner["type"].as_array();
            nullable |= kinds.is_some_and(|kinds| kinds.contains(&"null".into()));
            let value = if is_apart {
                "object".to_owned()
            } else {
                unbounded(&words_of(inner, document)) + if nullable { " or null" } else { "" }
            };
            rows.push(row(&[format!("`{path}`"), value, about]));
        }
        if !is_apart {
            collect(inner, document, &path, rows);
        }
    }
}

/// The names of all parts of an answer.
pub fn parts(name: &str, document: &Value) -> BTreeSet<String> {
    let rows = rows_of(name, document);
    let paths = rows.iter().filter_map(|row| row.split('`').nth(1));
    paths
        .flat_map(|path| {
            path.split('.')
                .map(|name| name.trim_end_matches("[]").to_owned())
        })
        .collect()
}

fn follow<'a>(schema: &'a Value, document: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        None => schema,
        Some(target) => document
            .pointer(target.trim_start_matches('#'))
            .expect("it leads somewhere"),
    }
}

fn row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// What a value may be, in words.
fn words(schema: &Value) -> String {
    words_of(schema, &Value::Null)
}

fn words_of(schema: &Value, document: &Value) -> String {
    let schema = follow(schema, document);
    if let Some(values) = schema["enum"].as_array() {
        return either(values.iter().map(|value| format!("`{value}`")));
    }
    if let Some(kinds) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let kinds = kinds.iter().filter(|kind| kind["type"] != "null");
        return either(kinds.map(|kind| words_of(kind, document)));
    }
    if let Some(kinds) = schema["type"].as_array() {
        let of = |kind: &Value| {
            let mut schema = schema.clone();
            schema["type"] = kind.clone();
            words_of(&schema, document)
        };
        return either(kinds.iter().filter(|kind| **kind != "null").map(of));
    }
    let bounds = |word: &str| match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        // Whatever fits into the number's type.
        (Some(least), Some(most)) if most < 2_147_483_647.0 => format!("{word}, {least} to {most}"),
        (Some(least), _) => format!("{word}, {least} or more"),
        _ => word.to_owned(),
    };
    match schema["type"].as_str() {
        Some("array") => format!(
            "array of {}",
            several(&words_of(&schema["items"], document))
        ),
        Some("object") => match schema["properties"].as_object() {
            Some(fields) => {
                let names: Vec<String> = fields.keys().map(|name| format!("`{name}`")).collect();
                format!("object of {}", names.join(", "))
            }
            None => "object".to_owned(),
        },
        Some("string") => "string".to_owned(),
        Some("integer") => bounds("whole number"),
        Some("number") => bounds("number"),
        Some("boolean") => "true or false".to_owned(),
        _ if schema.get("allOf").is_some() => "object".to_owned(),
        _ => "anything".to_owned(),
    }
}

fn either(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(" or ")
}

/// The plural. How small a number may be is said of one only.
fn several(words: &str) -> String {
    let words = unbounded(words);
    for word in ["string", "whole number", "number", "array", "object"] {
        if let Some(rest) = words.strip_prefix(word) {
            return format!("{word}s{rest}");
        }
    }
    words
}

/// Without a bound that goes without saying.
fn unbounded(words: &str) -> String {
    words.replace(", 0 or more", "")
}
