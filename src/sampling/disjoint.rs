//! Whether two JSON schemas exclude each other, as far as that is easily seen.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};

use serde_json::Value;

/// How deep references, combinations and properties are followed.
const DEPTH: usize = 12;
/// How many schemas are looked at for one answer.
const MOST_STEPS: usize = 20_000;
/// How many values that tell schemas apart are looked up for one answer.
const MOST_LOOKUPS: usize = 1_000_000;
/// How many values are read in the time of one step.
const VALUES_PER_STEP: usize = 16;

const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];

/// Whether the schemas of a group exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    None,
    /// One value may be valid for the two with these numbers.
    Between(usize, usize),
    /// It would take too long to know.
    TooMany,
}

/// Compares the schemas of a document, with bounded work in all.
pub struct Comparison<'a> {
    /// What references refer to.
    root: &'a Value,
    steps_left: usize,
    lookups_left: usize,
}

impl<'a> Comparison<'a> {
    pub fn within(root: &'a Value) -> Self {
        Self {
            root,
            steps_left: MOST_STEPS,
            lookups_left: MOST_LOOKUPS,
        }
    }

    /// Whether two of these schemas may both be valid for one value, to which another schema applies, too.
    pub fn overlap(&mut self, schemas: &[Value], beside: &Value) -> Overlap {
        let signs = schemas.iter().map(|schema| self.signs(&[schema, beside]));
        let signs: Vec<Signs> = signs.collect();
        for one in 0..schemas.len() {
            for other in 0..one {
                if self.have_different_signs(&signs[one], &signs[other]) {
                    continue;
                }
                if !self.are_disjoint(&[&schemas[one], beside], &[&schemas[other], beside], DEPTH) {
                    return match self.steps_left {
                        0 => Overlap::TooMany,
                        _ => Overlap::Between(other, one),
                    };
                }
            }
        }
        Overlap::None
    }

    /// What tells values of all of these schemas from others at a glance.
    fn signs<'s>(&mut self, schemas: &[&'s Value]) -> Signs<'s>
    where
        'a: 's,
    {
        let said = Said::of(schemas, self.root, DEPTH, &mut self.steps_left);
        let mut properties = HashMap::new();
        let is_object = said
            .types
            .as_ref()
            .is_some_and(|types| types.iter().eq(&["object"]));
        for &name in said.required.iter().filter(|_| is_object) {
            let schemas = said.property(name);
            let property = Said::of(&schemas, self.root, DEPTH - 1, &mut self.steps_left);
            if let Some(values) = property.values {
                properties.insert(name, values);
            }
        }
        Signs {
            types: said.types,
            values: said.values,
            properties,
        }
    }

    /// `false` may also mean that there are too many to look at.
    fn have_different_signs(&mut self, one: &Signs, other: &Signs) -> bool {
        if let (Some(types), Some(others)) = (&one.types, &other.types)
            && types.is_disjoint(others)
        {
            return true;
        }
        let (fewer, more) = if one.properties.len() < other.properties.len() {
            (one, other)
        } else {
            (other, one)
        };
        let properties = fewer.properties.iter();
        let properties = properties.map(|(name, values)| (Some(values), more.properties.get(name)));
        let itself = (one.values.as_ref(), other.values.as_ref());
        for values in std::iter::once(itself).chain(properties) {
            let (ours, theirs) = match values {
                (Some(ours), Some(theirs)) => (ours, theirs),
                _ => continue,
            };
            let lookups = ours.len().min(theirs.len()).max(1);
            let Some(left) = self.lookups_left.checked_sub(lookups) else {
                return false;
            };
            self.lookups_left = left;
            if ours.is_disjoint(theirs) {
                return true;
            }
        }
        false
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
        let has_other_values = match (&a.values, &b.values) {
            (Some(one), Some(other)) => one.is_disjoint(other),
            _ => false,
        };
        if common.is_empty() || has_other_values {
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

/// Values by their hashes. Two values of one hash are taken as the same, which only makes it seem that schemas overlap.
type Values = HashSet<u64>;

/// What tells the values of a schema from others at a glance.
struct Signs<'a> {
    types: Option<BTreeSet<&'static str>>,
    values: Option<Values>,
    /// The values of properties that all of them have, as they are objects.
    properties: HashMap<&'a str, Values>,
}

/// What a schema says in all its parts that hold together.
#[derive(Default)]
struct Said<'a> {
    types: Option<BTreeSet<&'static str>>,
    /// The only values, if it lists them.
    values: Option<Values>,
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
                ("const", value) => self.only_values(std::slice::from_ref(value)),
                ("enum", Value::Array(values)) => {
                    *steps = steps.saturating_sub(values.len() / VALUES_PER_STEP);
                    self.only_values(values);
                }
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

    fn only_values(&mut self, values: &[Value]) {
        self.only_types(values.iter().map(kind_of).collect());
        let mut values: Values = values.iter().map(hash).collect();
        if let Some(before) = &self.values {
            values.retain(|value| before.contains(value));
        }
        self.values = Some(values);
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

/// The same for values that are the same.
fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    kind_of(value).hash(&mut hasher);
    match value {
        Value::Null => {}
        Value::Bool(value) => value.hash(&mut hasher),
        // 0 and -0 are equal.
        Value::Number(number) => {
            let number = number.as_f64().map(|number| (number + 0.0).to_bits());
            number.hash(&mut hasher);
        }
        Value::String(text) => text.hash(&mut hasher),
        Value::Array(items) => items.iter().for_each(|item| hash(item).hash(&mut hasher)),
        // In any order.
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let mut hasher = DefaultHasher::new();
                (name, hash(value)).hash(&mut hasher);
                hasher.finish()
            });
            fields.fold(0, u64::wrapping_add).hash(&mut hasher);
        }
    }
    hasher.finish()
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
            let expect = if expect {
                Overlap::None
            } else {
                Overlap::Between(0, 1)
            };
            assert_eq!(overlap([&one, &other]), expect, "{one} {other}");
            assert_eq!(overlap([&other, &one]), expect, "{other} {one}");
        }
    }

    fn overlap(schemas: &[Value]) -> Overlap {
        Comparison::within(&json!({})).overlap(schemas, &json!({}))
    }

    fn kinds(count: usize) -> Vec<Value> {
        let kinds = (0..count).map(|kind| {
            json!({"type": "object", "required": ["kind", "size"], "properties": {
                "kind": {"const": kind}, "size": {"enum": [1, 2]}, "name": {"type": "string"}}})
        });
        kinds.collect()
    }

    #[test]
    fn hundreds_of_schemas_are_told_apart_by_their_values() {
        let mut schemas = kinds(600);
        schemas.push(json!({"type": "null"}));
        assert_eq!(overlap(&schemas), Overlap::None);
        schemas.push(kinds(1).remove(0));
        assert_eq!(overlap(&schemas), Overlap::Between(0, 601));
        let enums = (0..20).map(|from| {
            let values: Vec<usize> = (500 * from..500 * (from + 1)).collect();
            json!({"enum": values})
        });
        let mut enums: Vec<Value> = enums.collect();
        assert_eq!(overlap(&enums), Overlap::None);
        enums.push(json!({"enum": ["a", 7777.0]}));
        assert_eq!(overlap(&enums), Overlap::Between(15, 20));
    }

    #[test]
    fn what_would_take_too_long_is_no_overlap() {
        // Each forbids what the others require.
        let closed = (0..400).map(|number| {
            let name = format!("p{number}");
            json!({"type": "object", "required": [name], "properties": {name: {}}, "additionalProperties": false})
        });
        let closed: Vec<Value> = closed.collect();
        assert_eq!(overlap(&closed[..50]), Overlap::None);
        assert_eq!(overlap(&closed), Overlap::TooMany);
    }

    #[test]
    fn values_that_are_the_same_have_one_hash() {
        for (one, other, expect) in [
            (json!(1), json!(1.0), true),
            (json!(0.0), json!(-0.0), true),
            (
                json!({"a": [1], "b": null}),
                json!({"b": null, "a": [1.0]}),
                true,
            ),
            (json!({"a": 1, "b": 2}), json!({"a": 2, "b": 1}), false),
            (json!("1"), json!(1), false),
            (json!([[], 1]), json!([[1]]), false),
            (json!(null), json!(false), false),
        ] {
            assert_eq!(is_same(&one, &other), expect, "{one} {other}");
            assert_eq!(hash(&one) == hash(&other), expect, "{one} {other}");
        }
    }
}
