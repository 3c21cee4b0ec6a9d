//! JSON schemas, rewritten to mean the same in forms that llguidance follows rightly. What cannot be rewritten is refused,
//! with what to write instead.

use llguidance::derivre::{RegexAst, RegexBuilder};
use llguidance::regex_to_lark;
use serde_json::{Map, Value, json};

use super::disjoint::{Comparison, Overlap, is_same, resolve};
use super::error::InvalidConstraint;
use super::look_ahead::conditions;

type Fields = Map<String, Value>;

/// The formats that llguidance follows. Others say nothing about what is valid.
const FORMATS: [&str; 10] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
];

/// Maximum number of arrays that are written out for `uniqueItems` of a schema, and of their bytes.
const MOST_ARRAYS: usize = 1_000;
const MOST_ARRAY_BYTES: usize = 1 << 20;

/// Maximum number of expressions and names of a schema that are compared.
const MOST_REGEXES: usize = 4_000;
/// The work for one of them.
const REGEX_FUEL: u64 = 10_000;

/// Rewrites a schema and all within it. Takes milliseconds; some tenths of a second at worst.
pub fn rewritten(schema: &Value) -> Result<Value, InvalidConstraint> {
    let mut rewriter = Rewriter {
        root: schema,
        comparison: Comparison::within(schema),
        arrays_left: MOST_ARRAYS,
        array_bytes_left: MOST_ARRAY_BYTES,
        regexes_left: MOST_REGEXES,
    };
    rewriter.rewritten(schema, "#")
}

struct Rewriter<'a> {
    /// What references refer to.
    root: &'a Value,
    comparison: Comparison<'a>,
    arrays_left: usize,
    array_bytes_left: usize,
    regexes_left: usize,
}

impl Rewriter<'_> {
    fn rewritten(&mut self, schema: &Value, place: &str) -> Result<Value, InvalidConstraint> {
        let Value::Object(fields) = schema else {
            return Ok(schema.clone());
        };
        let mut fields = fields.clone();
        let refused = |why: String| InvalidConstraint::Schema(why, place.to_owned());
        check_keywords(&fields).map_err(refused)?;
        bounds(&mut fields).map_err(refused)?;
        format(&mut fields);
        self.unique_items(&mut fields).map_err(refused)?;
        self.one_of(&mut fields).map_err(refused)?;
        look_ahead(&mut fields).map_err(refused)?;
        self.pattern_properties(&mut fields);
        for (keyword, value) in &mut fields {
            let within = |step: &str| format!("{place}/{keyword}{step}");
            match (keyword.as_str(), &mut *value) {
                (
                    "properties" | "patternProperties" | "$defs" | "definitions",
                    Value::Object(inner),
                ) => {
                    for (name, schema) in inner {
                        let step = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
                        *schema = self.rewritten(schema, &within(&step))?;
                    }
                }
                ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(inner)) => {
                    for (number, schema) in inner.iter_mut().enumerate() {
                        *schema = self.rewritten(schema, &within(&format!("/{number}")))?;
                    }
                }
                ("items" | "additionalItems" | "additionalProperties", Value::Object(_)) => {
                    *value = self.rewritten(value, &within(""))?;
                }
                _ => {}
            }
        }
        Ok(fields.into())
    }

    /// Writes out all arrays of different items, if there are few.
    fn unique_items(&mut self, fields: &mut Fields) -> Result<(), String> {
        let Some(unique) = fields.get("uniqueItems") else {
            return Ok(());
        };
        let count = |name: &str| fields.get(name).and_then(Value::as_u64);
        let most = count("maxItems");
        if unique == &Value::Bool(false) || most.is_some_and(|most| most < 2) {
            fields.shift_remove("uniqueItems");
            return Ok(());
        }
        let known = [
            "type",
            "items",
            "uniqueItems",
            "minItems",
            "maxItems",
            "title",
            "description",
            "default",
            "examples",
        ];
        let is_plain = fields.get("type").is_some_and(|kind| kind == "array")
            && fields
                .keys()
                .all(|keyword| known.contains(&keyword.as_str()));
        let items = fields.get("items").filter(|_| is_plain);
        let Some(values) = items.and_then(|items| values(items, self.root)) else {
            return Err(
                "`uniqueItems` is supported only for arrays whose `items` are an `enum`; leave it out".to_owned(),
            );
        };
        let as_usize = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let least = count("minItems").map_or(0, as_usize);
        let arrays = self.arrangements(&values, most.map_or(usize::MAX, as_usize));
        let arrays = arrays.ok_or_else(|| {
            format!(
                "`uniqueItems` allows more than {MOST_ARRAYS} arrays here; send a smaller `maxItems`, or leave it out"
            )
        })?;
        let arrays = arrays.into_iter().filter(|array| array.len() >= least);
        *fields = Map::new();
        fields.insert("enum".to_owned(), arrays.map(Value::from).collect());
        Ok(())
    }

    /// All arrays of different values, up to a length; `None`: there are too many.
    fn arrangements(&mut self, values: &[Value], most: usize) -> Option<Vec<Vec<Value>>> {
        let sizes: Vec<usize> = values.iter().map(|value| value.to_string().len()).collect();
        // As indices of values, each with its size.
        let mut arrays: Vec<(Vec<usize>, usize)> = vec![(Vec::new(), 0)];
        let mut from = 0;
        while from < arrays.len() {
            let (array, size) = arrays[from].clone();
            from += 1;
            if array.len() >= most {
                continue;
            }
            for index in (0..values.len()).filter(|index| !array.contains(index)) {
                let size = size + sizes[index];
                self.arrays_left = self.arrays_left.checked_sub(1)?;
                self.array_bytes_left = self.array_bytes_left.checked_sub(size)?;
                arrays.push(([&array[..], &[index]].concat(), size));
            }
        }
        let written = arrays.into_iter().map(|(array, _)| {
            let items = array.into_iter().map(|index| values[index].clone());
            items.collect()
        });
        Some(written.collect())
    }

    /// `oneOf` becomes `anyOf` where no value is valid for two of its schemas. llguidance does not look behind `$ref`.
    fn one_of(&mut self, fields: &mut Fields) -> Result<(), String> {
        let Some(Value::Array(schemas)) = fields.get("oneOf") else {
            return Ok(());
        };
        let mut beside = fields.clone();
        beside.shift_remove("oneOf");
        let beside = Value::Object(beside);
        match self.comparison.overlap(schemas, &beside) {
            Overlap::None => {}
            Overlap::Between(one, other) => {
                return Err(format!(
                    "one value may be valid for both schemas {one} and {other} of `oneOf`; write `anyOf`, or give each a \
                     required property with a `const` of its own"
                ));
            }
            Overlap::TooMany => {
                return Err(
                    "the schemas of `oneOf` are too many to compare; write `anyOf`, or give each a required property with a \
                     `const` of its own"
                        .to_owned(),
                );
            }
        }
        if fields.contains_key("anyOf") {
            let schemas = fields.shift_remove("oneOf").unwrap_or_default();
            add_to_all_of(fields, vec![json!({"anyOf": schemas})]);
            return Ok(());
        }
        // In its place: the order of properties follows that of keywords.
        let renamed = std::mem::take(fields).into_iter();
        *fields = renamed
            .map(|(keyword, value)| match keyword.as_str() {
                "oneOf" => ("anyOf".to_owned(), value),
                _ => (keyword, value),
            })
            .collect();
        Ok(())
    }

    /// Patterns that match no names but those of properties become part of these properties, and other properties that no
    /// name is left for are forbidden. llguidance offers a comma before them, after which nothing can follow.
    fn pattern_properties(&mut self, fields: &mut Fields) {
        let Some(Value::Object(patterns)) = fields.get("patternProperties") else {
            return;
        };
        let mut patterns = patterns.clone();
        let mut properties = match fields.get("properties") {
            Some(Value::Object(properties)) => properties.clone(),
            _ => Map::new(),
        };
        let required = fields.get("required").and_then(Value::as_array);
        let required = required.into_iter().flatten().filter_map(Value::as_str);
        let mut names: Vec<String> = properties.keys().cloned().collect();
        names.extend(
            required
                .filter(|name| !properties.contains_key(*name))
                .map(str::to_owned),
        );
        let is_name = RegexAst::Or(names.iter().cloned().map(RegexAst::Literal).collect());
        let no_name = RegexAst::Not(Box::new(is_name.clone()));
        patterns.retain(|pattern, schema| {
            let others = RegexAst::And(vec![search(pattern), no_name.clone()]);
            if self.regexes_left < 2 * names.len() + 2
                || self.matches_something(&others, names.len())
            {
                return true;
            }
            for name in &names {
                let named = RegexAst::And(vec![search(pattern), RegexAst::Literal(name.clone())]);
                if !self.matches_something(&named, 0) {
                    continue;
                }
                let property = properties.get_mut(name).map(Value::take);
                let both = match property {
                    Some(property) => json!({"allOf": [property, schema]}),
                    None => schema.clone(),
                };
                properties.insert(name.clone(), both);
            }
            false
        });
        let mut taken = vec![is_name];
        taken.extend(patterns.keys().map(|pattern| search(pattern)));
        let others = RegexAst::Not(Box::new(RegexAst::Or(taken)));
        if !self.matches_something(&others, names.len()) {
            fields.insert("additionalProperties".to_owned(), false.into());
        }
        if !properties.is_empty() {
            fields.insert("properties".to_owned(), properties.into());
        }
        if patterns.is_empty() {
            fields.shift_remove("patternProperties");
        } else {
            fields.insert("patternProperties".to_owned(), patterns.into());
        }
    }

    /// Whether an expression, which has so many names, matches any text. If that takes too long to find out, or the
    /// expression is wrong, it does.
    fn matches_something(&mut self, expression: &RegexAst, names: usize) -> bool {
        let Some(left) = self.regexes_left.checked_sub(names + 1) else {
            return true;
        };
        self.regexes_left = left;
        // In any text, not in any bytes.
        let text = RegexAst::Regex("(?s:.*)".to_owned());
        let expression = RegexAst::And(vec![text, expression.clone()]);
        let mut builder = RegexBuilder::new();
        let regex = builder
            .mk(&expression)
            .and_then(|expression| builder.to_regex_limited(expression, REGEX_FUEL));
        regex.map_or(true, |mut regex| !regex.always_empty())
    }
}

/// What llguidance does not implement, and what to write instead.
const UNSUPPORTED: [(&str, &str); 13] = [
    (
        "not",
        "say what is allowed instead, with `enum`, `pattern` or `anyOf`",
    ),
    ("if", "write the cases with `anyOf`"),
    ("then", "write the cases with `anyOf`"),
    ("else", "write the cases with `anyOf`"),
    ("dependentRequired", "write the cases with `anyOf`"),
    ("dependentSchemas", "write the cases with `anyOf`"),
    ("dependencies", "write the cases with `anyOf`"),
    (
        "propertyNames",
        "list the names under `properties`, or write `patternProperties`, with `additionalProperties: false`",
    ),
    ("unevaluatedProperties", "write `additionalProperties`"),
    ("unevaluatedItems", "write `items`"),
    ("contains", "leave it out"),
    ("$dynamicRef", "write `$ref`"),
    ("$recursiveRef", "write `$ref`"),
];

fn check_keywords(fields: &Fields) -> Result<(), String> {
    match UNSUPPORTED
        .iter()
        .find(|(keyword, _)| fields.contains_key(*keyword))
    {
        Some((keyword, instead)) => Err(format!("`{keyword}` is not supported; {instead}")),
        None => Ok(()),
    }
}

/// Bounds that are excluded become such that are not. llguidance takes a whole excluded bound as allowed if the other is
/// within 1 of it.
fn bounds(fields: &mut Fields) -> Result<(), String> {
    // For whole numbers it is right, and they have more digits.
    if fields.get("type").is_some_and(|kind| kind == "integer") {
        return Ok(());
    }
    let has_any = has_numbers(fields);
    let written = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"]
        .into_iter()
        .filter_map(|bound| Some(format!("`{bound}: {}`", fields.get(bound)?)));
    let written: Vec<String> = written.collect();
    for (excluded, included, sign) in [
        ("exclusiveMinimum", "minimum", 1.0),
        ("exclusiveMaximum", "maximum", -1.0),
    ] {
        let bound = match fields.get(excluded) {
            // As in draft 4.
            Some(Value::Bool(true)) => fields.get(included),
            other => other,
        };
        let Some(nearest) = bound
            .and_then(Value::as_f64)
            .and_then(|bound| beyond(bound, sign))
        else {
            continue;
        };
        let other = fields.get(included).and_then(Value::as_f64);
        let stricter = other.map_or(nearest, |other| (sign * nearest).max(sign * other) * sign);
        fields.shift_remove(excluded);
        fields.insert(included.to_owned(), json!(stricter));
    }
    if has_any && !has_numbers(fields) {
        return Err(format!(
            "only numbers of too many digits are within {}; write bounds that are farther apart",
            written.join(", ")
        ));
    }
    Ok(())
}

/// Whether any number is within the bounds.
fn has_numbers(fields: &Fields) -> bool {
    let bounds = |included: &str, excluded: &str, sign: f64| {
        let included = fields.get(included).and_then(Value::as_f64);
        let excluded = match fields.get(excluded) {
            // As in draft 4.
            Some(Value::Bool(true)) => included,
            other => other.and_then(Value::as_f64),
        };
        // The strictest, and of the same number the one that is excluded.
        let bounds = [
            included.map(|it| (it, false)),
            excluded.map(|it| (it, true)),
        ];
        let bounds = bounds.into_iter().flatten();
        bounds.max_by(|(one, excludes), (other, also)| {
            (sign * one)
                .total_cmp(&(sign * other))
                .then(excludes.cmp(also))
        })
    };
    let least = bounds("minimum", "exclusiveMinimum", 1.0);
    let most = bounds("maximum", "exclusiveMaximum", -1.0);
    match (least, most) {
        (Some((least, excludes)), Some((most, also))) => {
            least < most || least == most && !excludes && !also
        }
        _ => true,
    }
}

/// The number next to a whole one, in this direction, that has at most 15 digits, so that it is read as it is written;
/// next to 0 the least that numbers of 20 digits reach. `None`: there is none.
fn beyond(whole: f64, sign: f64) -> Option<f64> {
    const DIGITS: usize = 15;
    if whole == 0.0 {
        return Some(sign * 1e-20);
    }
    if whole.fract() != 0.0 {
        return None;
    }
    let before_point = format!("{:.0}", whole.abs()).len();
    let after_point = DIGITS
        .checked_sub(before_point)
        .filter(|&digits| digits > 0)?;
    let step = 10_f64.powi(-i32::try_from(after_point).ok()?);
    // As it is printed and read, not as it is added.
    format!("{:.after_point$}", whole + sign * step)
        .parse()
        .ok()
}

/// Drops a format that is not known: JSON Schema takes it as a comment.
fn format(fields: &mut Fields) {
    let format = fields.get("format").and_then(Value::as_str);
    if format.is_some_and(|format| !FORMATS.contains(&format)) {
        fields.shift_remove("format");
    }
}

/// The values that a schema allows, each once, if it lists them.
fn values(schema: &Value, root: &Value) -> Option<Vec<Value>> {
    let schema = match schema.get("$ref") {
        Some(_) => resolve(schema, root)?,
        None => schema,
    };
    let listed = match schema.get("enum") {
        Some(Value::Array(values)) => values.clone(),
        Some(_) => return None,
        None => match schema.get("const") {
            Some(value) => vec![value.clone()],
            None if schema.get("type").is_some_and(|kind| kind == "boolean") => {
                vec![false.into(), true.into()]
            }
            None => return None,
        },
    };
    let mut values: Vec<Value> = Vec::new();
    for value in listed.into_iter().take(MOST_ARRAYS) {
        if !values.iter().any(|other| is_same(other, &value)) {
            values.push(value);
        }
    }
    Some(values)
}

/// Adds schemas to those of `allOf`.
fn add_to_all_of(fields: &mut Fields, schemas: Vec<Value>) {
    let all = fields.entry("allOf").or_insert_with(|| json!([]));
    // Anything else is refused by llguidance.
    if let Value::Array(all) = all {
        all.extend(schemas);
    }
}

/// A pattern that begins with look-aheads becomes several patterns.
fn look_ahead(fields: &mut Fields) -> Result<(), String> {
    let pattern = fields.get("pattern").and_then(Value::as_str);
    let Some(pattern) = pattern else {
        return Ok(());
    };
    let mut all = conditions(pattern).ok_or(
        "look-around is supported only as `(?=…)` at the beginning of a pattern, after `^`; write what is allowed as an \
         expression, or as an `enum`",
    )?;
    let rest = all.pop();
    if !all.is_empty() {
        let required = all.iter().map(|pattern| json!({"pattern": pattern}));
        add_to_all_of(fields, required.collect());
        fields.insert("pattern".to_owned(), rest.into());
    }
    Ok(())
}

/// Names with a match of the pattern, as llguidance finds them.
fn search(pattern: &str) -> RegexAst {
    RegexAst::SearchRegex(regex_to_lark(pattern, "dw"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(schema: Value) -> Value {
        rewritten(&schema).unwrap_or_else(|error| panic!("{schema}: {error}"))
    }

    fn refused(schema: Value) -> String {
        let error = rewritten(&schema).expect_err("refused");
        error.to_string()
    }

    #[test]
    fn whole_bounds_that_are_excluded_become_such_that_are_not() {
        for (schema, expect) in [
            (
                json!({"exclusiveMinimum": 0, "maximum": 0.5}),
                json!({"maximum": 0.5, "minimum": 1e-20}),
            ),
            (
                json!({"exclusiveMaximum": -3, "minimum": -3.5, "maximum": 4}),
                json!({"minimum": -3.5, "maximum": -3.00000000000001}),
            ),
            (
                json!({"minimum": 3, "exclusiveMinimum": true}),
                json!({"minimum": 3.00000000000001}),
            ),
            (
                json!({"minimum": 7, "exclusiveMinimum": 3}),
                json!({"minimum": 7.0}),
            ),
            (
                json!({"exclusiveMinimum": 0.25, "maximum": 0.5}),
                json!({"exclusiveMinimum": 0.25, "maximum": 0.5}),
            ),
            (
                json!({"type": "integer", "exclusiveMinimum": 0}),
                json!({"type": "integer", "exclusiveMinimum": 0}),
            ),
        ] {
            assert_eq!(after(schema.clone()), expect, "{schema}");
        }
        // Printed and read, the numbers are the same, and beyond the bound.
        for whole in [
            1.0,
            2.0,
            9.0,
            10.0,
            99.0,
            123_456_789.0,
            99_999_999_999_999.0,
        ] {
            for (bound, sign) in [(whole, 1.0), (-whole, 1.0), (whole, -1.0), (-whole, -1.0)] {
                let next = beyond(bound, sign).expect("a number");
                assert!(sign * (next - bound) > 0.0, "{bound} {next}");
                let read: f64 = serde_json::from_str(&json!(next).to_string()).expect("a number");
                assert_eq!(read.to_bits(), next.to_bits(), "{bound}");
            }
        }
        assert_eq!(beyond(1e15, 1.0), None);
        // What nobody wrote is not what is wrong.
        assert_eq!(
            refused(json!({"exclusiveMinimum": 0, "exclusiveMaximum": 1e-25})),
            "only numbers of too many digits are within `exclusiveMinimum: 0`, `exclusiveMaximum: 1e-25`; write bounds that are \
             farther apart, in the schema at #",
        );
        assert!(
            refused(
                json!({"minimum": 3, "exclusiveMinimum": true, "maximum": 3.000_000_000_000_002})
            )
            .contains(
                "within `minimum: 3`, `exclusiveMinimum: true`, `maximum: 3.000000000000002`;"
            )
        );
        // As written, there is none: that is said of these bounds.
        let none = json!({"exclusiveMinimum": 0.5, "maximum": 0.5});
        assert_eq!(after(none.clone()), none);
    }

    #[test]
    fn patterns_of_known_names_become_properties() {
        assert_eq!(
            after(
                json!({"properties": {"ok": {"type": "boolean"}}, "additionalProperties": false,
                "patternProperties": {"^ok$": {}, "^(a|b)$": {"type": "null"}, "^x": {}}, "required": ["b", "a"]})
            ),
            json!({"properties": {"ok": {"allOf": [{"type": "boolean"}, {}]}, "b": {"type": "null"}, "a": {"type": "null"}},
                "additionalProperties": false, "patternProperties": {"^x": {}}, "required": ["b", "a"]}),
        );
        // Every name is taken by a pattern.
        assert_eq!(
            after(json!({"patternProperties": {"": {"type": "null"}}}))["additionalProperties"],
            false
        );
        let schema =
            json!({"patternProperties": {"^x": {"type": "null"}}, "properties": {"x": {}}});
        assert_eq!(after(schema.clone()), schema);
    }

    #[test]
    fn different_items_are_written_out_if_they_are_few() {
        let array = |items: Value| json!({"type": "array", "items": items, "uniqueItems": true});
        assert_eq!(
            after(array(json!({"enum": ["a", "b", "a"]}))),
            json!({"enum": [[], ["a"], ["b"], ["a", "b"], ["b", "a"]]}),
        );
        let mut bounded = array(json!({"$ref": "#/$defs/flag"}));
        bounded["minItems"] = 1.into();
        let schema = json!({"$defs": {"flag": {"type": "boolean"}}, "items": bounded});
        assert_eq!(
            after(schema)["items"],
            json!({"enum": [[false], [true], [false, true], [true, false]]}),
        );
        assert_eq!(
            after(json!({"type": "array", "uniqueItems": false})),
            json!({"type": "array"})
        );
        assert_eq!(
            after(json!({"uniqueItems": true, "maxItems": 1})),
            json!({"maxItems": 1})
        );
        assert_eq!(
            refused(json!({"properties": {"a": array(json!({"type": "string"}))}})),
            "`uniqueItems` is supported only for arrays whose `items` are an `enum`; leave it out, in the schema at \
             #/properties/a",
        );
        let many: Vec<u32> = (0..9).collect();
        assert!(refused(array(json!({"enum": many}))).contains("more than 1000 arrays here"));
    }

    #[test]
    fn one_of_several_becomes_any_of_them_if_they_exclude_each_other() {
        let pets = json!({
            "cat": {"type": "object", "required": ["kind"], "properties": {"kind": {"const": "cat"}}},
            "dog": {"type": "object", "required": ["kind"], "properties": {"kind": {"const": "dog"}}},
        });
        let refs = json!([{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}]);
        let schema = json!({"$defs": pets, "title": "Pet", "oneOf": refs, "discriminator": {"propertyName": "kind"}});
        let expect = json!({"$defs": pets, "title": "Pet", "anyOf": refs, "discriminator": {"propertyName": "kind"}});
        assert_eq!(after(schema), expect);
        assert_eq!(
            after(json!({"anyOf": [{}], "oneOf": [{"type": "null"}, {"type": "string"}]})),
            json!({"anyOf": [{}], "allOf": [{"anyOf": [{"type": "null"}, {"type": "string"}]}]}),
        );
        // What stands beside them tells them apart.
        let schema = json!({"type": "string", "oneOf": [{"pattern": "a"}, {"type": "number"}]});
        assert!(after(schema).get("anyOf").is_some());
        assert_eq!(
            refused(
                json!({"items": {"oneOf": [{"type": "integer"}, {"type": "null"}, {"type": "number"}]}})
            ),
            "one value may be valid for both schemas 0 and 2 of `oneOf`; write `anyOf`, or give each a required property \
             with a `const` of its own, in the schema at #/items",
        );
    }

    #[test]
    fn look_aheads_at_the_beginning_become_patterns() {
        assert_eq!(
            after(json!({"type": "string", "pattern": r"^(?=.*[)\d])(?=(a|b)).{8,}$"})),
            json!({"type": "string", "pattern": ".{8,}$".replacen("", "^", 1),
                "allOf": [{"pattern": r"^(?:.*[)\d])"}, {"pattern": "^(?:(a|b))"}]}),
        );
        let schema = json!({"pattern": r"^\(?=a$"});
        assert_eq!(after(schema.clone()), schema);
        for pattern in ["^a(?=b)", "(?=a)", "^(?!a)b", "^(?=a)b|c"] {
            assert!(
                refused(json!({"pattern": pattern}))
                    .starts_with("look-around is supported only as"),
                "{pattern}"
            );
        }
    }

    #[test]
    fn unknown_formats_say_nothing_and_values_are_no_schemas() {
        assert_eq!(
            after(
                json!({"items": {"type": "string", "format": "binary"}, "default": {"format": "binary"}})
            ),
            json!({"items": {"type": "string"}, "default": {"format": "binary"}}),
        );
        let schema = json!({"format": "date-time"});
        assert_eq!(after(schema.clone()), schema);
        assert_eq!(
            refused(json!({"properties": {"a/b": {"not": {}}}})),
            "`not` is not supported; say what is allowed instead, with `enum`, `pattern` or `anyOf`, in the schema at \
             #/properties/a~1b",
        );
        // A property may have such a name.
        let schema = json!({"properties": {"not": {"type": "null"}}});
        assert_eq!(after(schema.clone()), schema);
    }
}
