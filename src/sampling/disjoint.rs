//! Whether two JSON schemas exclude each other, as far as that is easily seen.

use std::collections::BTreeSet;

use serde_json::Value;

/// How deep references, combinations and properties are followed.
const DEPTH: usize = 12;
/// How many schemas are looked at for one answer.
const MOST_STEPS: usize = 20_000;

const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];

/// Compares the schemas of a document, with bounded work in all.
pub struct Comparison<'a> {
    /// What references refer to.
    root: &'a Value,
    steps_left: usize,
}

impl<'a> Comparison<'a> {
    pub fn within(root: &'a Value) -> Self {
        Self {
            root,
            steps_left: MOST_STEPS,
        }
    }

    /// The numbers of two schemas that may both be valid for one value, to which another schema applies, too. `None`: they
    /// exclude each other.
    pub fn overlap(&mut self, schemas: &[Value], beside: &Value) -> Option<(usize, usize)> {
        let numbers = (0..schemas.len()).flat_map(|one| (0..one).map(move |other| (other, one)));
        numbers.into_iter().find(|&(one, other)| {
            !self.are_disjoint(&[&schemas[one], beside], &[&schemas[other], beside], DEPTH)
        })
    }

    /// Whether no value is valid for all of both; `false` may also mean that it is not known.
    fn are_disjoint(&mut self, one: &[&Value], other: &[&Value], depth: usize) -> bool {
        if depth == 0 || self.steps_left == 0 {
            return false;
        }
        let root = self.root;
        let a = Said::of(one, root, depth, &mut self.steps_left);
        let b = Said::of(other, root, depth, &mut self.steps_left);
        if a.is_never || b.is_never {
            return true;
        }
        let common: Vec<&str> = TYPES
            .into_iter()
            .filter(|name| a.allows_type(name) && b.allows_type(name))
            .collect();
        if common.is_empty() || self.have_no_value_in_common(&a, &b) {
            return true;
        }
        if common == ["object"] && self.have_no_object_in_common(&a, &b, depth) {
            return true;
        }
        let mut is_apart = |choices: &[Value], others: &[&Value]| {
            let mut choices = choices.iter();
            choices.all(|choice| self.are_disjoint(&[choice], others, depth - 1))
        };
        a.choices.iter().any(|choices| is_apart(choices, other))
            || b.choices.iter().any(|choices| is_apart(choices, one))
    }

    fn have_no_value_in_common(&mut self, a: &Said, b: &Said) -> bool {
        let (Some(one), Some(other)) = (&a.values, &b.values) else {
            return false;
        };
        let Some(left) = self.steps_left.checked_sub(one.len() * other.len() / 16) else {
            return false;
        };
        self.steps_left = left;
        !one.iter()
            .any(|value| other.iter().any(|other| is_same(value, other)))
    }

    /// Whether a property that one of them requires excludes all objects.
    fn have_no_object_in_common(&mut self, a: &Said, b: &Said, depth: usize) -> bool {
        a.required.union(&b.required).any(|name| {
            let is_closed = |said: &Said| said.closed.iter().any(|known| !known.contains(name));
            if is_closed(a) || is_closed(b) {
                return true;
            }
            let (ours, theirs) = (a.property(name), b.property(name));
            self.are_disjoint(&ours, &theirs, depth - 1)
        })
    }
}

/// What the `$ref` of a schema points to, within the same document.
pub fn resolve<'a>(schema: &Value, root: &'a Value) -> Option<&'a Value> {
    let pointer = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
    root.pointer(pointer)
}

/// What a schema says in all its parts that hold together.
#[derive(Default)]
struct Said<'a> {
    types: Option<BTreeSet<&'static str>>,
    /// The only values, if it lists them.
    values: Option<Vec<&'a Value>>,
    required: BTreeSet<&'a str>,
    properties: Vec<(&'a str, &'a Value)>,
    /// Objects that have no properties but these.
    closed: Vec<BTreeSet<&'a str>>,
    /// Groups of schemas of which one holds.
    choices: Vec<&'a Vec<Value>>,
    /// Nothing is valid.
    is_never: bool,
}

impl<'a> Said<'a> {
    fn of(schemas: &[&'a Value], root: &'a Value, depth: usize, steps: &mut usize) -> Self {
        let mut said = Self::default();
        for schema in schemas {
            said.add(schema, root, depth, steps);
        }
        said
    }

    fn add(&mut self, schema: &'a Value, root: &'a Value, depth: usize, steps: &mut usize) {
        if depth == 0 || *steps == 0 {
            return;
        }
        *steps -= 1;
        let fields = match schema {
            Value::Bool(false) => {
                self.is_never = true;
                return;
            }
            Value::Object(fields) => fields,
            _ => return,
        };
        if let Some(target) = resolve(schema, root) {
            self.add(target, root, depth - 1, steps);
        }
        for (keyword, value) in fields {
            match (keyword.as_str(), value) {
                ("type", Value::String(name)) => self.only_types(kind(name).into_iter().collect()),
                ("type", Value::Array(names)) => {
                    let names = names.iter().filter_map(Value::as_str);
                    self.only_types(names.filter_map(kind).collect());
                }
                ("const", value) => self.only_values(vec![value]),
                ("enum", Value::Array(values)) => self.only_values(values.iter().collect()),
                ("required", Value::Array(names)) => {
                    self.required.extend(names.iter().filter_map(Value::as_str));
                }
                ("properties", Value::Object(properties)) => {
                    let properties = properties.iter();
                    self.properties
                        .extend(properties.map(|(name, schema)| (name.as_str(), schema)));
                }
                ("additionalProperties", Value::Bool(false))
                    if !fields.contains_key("patternProperties") =>
                {
                    let known = fields.get("properties").and_then(Value::as_object);
                    let names = known.into_iter().flat_map(|known| known.keys());
                    self.closed.push(names.map(String::as_str).collect());
                }
                ("allOf", Value::Array(parts)) => {
                    for part in parts {
                        self.add(part, root, depth - 1, steps);
                    }
                }
                ("anyOf" | "oneOf", Value::Array(choices)) => self.choices.push(choices),
                _ => {}
            }
        }
    }

    fn only_types(&mut self, types: BTreeSet<&'static str>) {
        self.types = Some(match self.types.take() {
            None => types,
            Some(before) => before.intersection(&types).copied().collect(),
        });
    }

    fn only_values(&mut self, values: Vec<&'a Value>) {
        self.only_types(values.iter().map(|value| kind_of(value)).collect());
        self.values = Some(match self.values.take() {
            None => values,
            Some(before) => {
                let is_among = |value: &&Value| values.iter().any(|other| is_same(value, other));
                before.into_iter().filter(is_among).collect()
            }
        });
    }

    /// All schemas of a property.
    fn property(&self, name: &str) -> Vec<&'a Value> {
        let named = self.properties.iter().filter(|(other, _)| *other == name);
        named.map(|&(_, schema)| schema).collect()
    }

    fn allows_type(&self, name: &'static str) -> bool {
        self.types.as_ref().is_none_or(|types| types.contains(name))
    }
}

/// Whether two values are the same in JSON Schema: 1 and 1.0 are.
pub fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64() == other.as_f64()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(name, value)| other.get(name).is_some_and(|other| is_same(value, other)))
        }
        _ => one == other,
    }
}

/// A whole number is a number, and JSON does not tell them apart.
fn kind(name: &str) -> Option<&'static str> {
    let name = if name == "integer" { "number" } else { name };
    TYPES.into_iter().find(|other| *other == name)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_that_exclude_each_other_are_told_apart() {
        let root = json!({"$defs": {
            "a": {"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]},
            "b": {"type": "object", "properties": {"k": {"enum": ["b", "c"]}}, "required": ["k"]},
            "loop": {"$ref": "#/$defs/loop"},
        }});
        for (one, other, expect) in [
            (
                json!({"type": "string"}),
                json!({"type": ["null", "array"]}),
                true,
            ),
            (json!({"type": "integer"}), json!({"type": "number"}), false),
            (json!({"const": 1}), json!({"enum": [2, "1"]}), true),
            (json!({"enum": [1, 2]}), json!({"enum": [2, 3]}), false),
            (json!({"const": [1]}), json!({"const": [1.0]}), false),
            (json!({"const": 1}), json!({"type": "string"}), true),
            (
                json!({"$ref": "#/$defs/a"}),
                json!({"$ref": "#/$defs/b"}),
                true,
            ),
            (
                json!({"$ref": "#/$defs/a"}),
                json!({"$ref": "#/$defs/a"}),
                false,
            ),
            (
                json!({"$ref": "#/$defs/loop"}),
                json!({"$ref": "#/$defs/loop"}),
                false,
            ),
            // What is no object is valid for both.
            (
                json!({"properties": {"k": {"const": 1}}, "required": ["k"]}),
                json!({"properties": {"k": {"const": 2}}, "required": ["k"]}),
                false,
            ),
            // Neither requires it.
            (
                json!({"type": "object", "properties": {"k": {"const": 1}}}),
                json!({"type": "object", "properties": {"k": {"const": 2}}}),
                false,
            ),
            (
                json!({"type": "object", "required": ["x"]}),
                json!({"type": "object", "properties": {"y": {}}, "additionalProperties": false}),
                true,
            ),
            (
                json!({"anyOf": [{"type": "null"}, {"type": "boolean"}]}),
                json!({"oneOf": [{"type": "string"}, {"type": "object"}]}),
                true,
            ),
            (
                json!({"anyOf": [{"type": "null"}, {}]}),
                json!({"type": "string"}),
                false,
            ),
            (
                json!({"allOf": [{"type": ["string", "null"]}, {"type": ["null", "array"]}]}),
                json!({"type": ["string", "array"]}),
                true,
            ),
            (json!(false), json!({}), true),
            (json!(true), json!({}), false),
        ] {
            let overlap = |schemas: [&Value; 2]| {
                let schemas = schemas.map(Value::clone);
                Comparison::within(&root).overlap(&schemas, &json!({}))
            };
            let expect = (!expect).then_some((0, 1));
            assert_eq!(overlap([&one, &other]), expect, "{one} {other}");
            assert_eq!(overlap([&other, &one]), expect, "{other} {one}");
        }
    }
}
