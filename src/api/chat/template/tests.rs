//! Templates, rendered as transformers renders them; the expected texts are those of Jinja2 3.1.6 in transformers 5.24.0.

use serde_json::{Value, json};

use super::{Order, TemplateError, render};

const FUEL: u64 = 200_000;

fn order(template: &str, scope: Value) -> Order {
    Order {
        template: template.to_owned(),
        scope: scope.as_object().expect("an object").clone(),
        instructions: None,
        continues: false,
    }
}

fn rendered(template: &str, scope: Value) -> Result<String, TemplateError> {
    render(&order(template, scope), FUEL)
}

/// The variables of [`EXPRESSIONS`] and [`TEMPLATES`].
fn variables() -> Value {
    json!({
        "x1": 5,
        "fl": 2.5,
        "d": {"key": {"y": 1}},
        "s": "Hello world\nsecond",
        "lst": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "big": 9_223_372_036_854_775_808_u64,
    })
}

/// Where minijinja alone has another result, or none.
const EXPRESSIONS: &[(&str, &str)] = &[
    ("none is iterable", "False"),
    (r#""text" is sequence"#, "True"),
    ("{} is sequence", "True"),
    ("range is callable", "True"),
    (r#""a" is callable"#, "False"),
    (r#""x" | int"#, "0"),
    (r#""" | float"#, "0.0"),
    ("[] | int", "0"),
    (r#""  12 " | int"#, "12"),
    (r#""nan" | float"#, "nan"),
    (r#""12_000" | int"#, "12000"),
    (r#""foo bar baz" | truncate(9)"#, "foo bar baz"),
    (r#""foo bar baz qux" | truncate(9)"#, "foo..."),
    (r#""foo bar baz qux" | truncate(9, true)"#, "foo ba..."),
    (r#""foo bar baz qux" | truncate(11)"#, "foo bar baz qux"),
    (
        r#""foo bar baz qux" | truncate(11, false, '...', 0)"#,
        "foo bar...",
    ),
    (
        r#""foo bar baz qux" | truncate(5, end='!', leeway=0)"#,
        "foo!",
    ),
    (r#""a b, c-d" | wordcount"#, "4"),
    (r#"{"a": 1, "b c": "d&e"} | urlencode"#, "a=1&b+c=d%26e"),
    (r#"[["a",1]] | urlencode"#, "a=1"),
    (
        r#"[1, 2.5, true, none, "a'b"] | tojson"#,
        r#"[1, 2.5, true, null, "a'b"]"#,
    ),
    (
        r#"{"b": 1, "a": [1,2]} | tojson(sort_keys=true)"#,
        r#"{"a": [1, 2], "b": 1}"#,
    ),
    (
        r#"{"b": 1, "a": [1,2]} | tojson(separators=(",", ":"))"#,
        r#"{"b":1,"a":[1,2]}"#,
    ),
    (
        r#"{"b": 1, "a": [1,2]} | tojson(2)"#,
        r#"{"b": 1, "a": [1, 2]}"#,
    ),
    (
        r#"{"b": 1, "a": [1]} | tojson(indent="\t")"#,
        "{\n\t\"b\": 1,\n\t\"a\": [\n\t\t1\n\t]\n}",
    ),
    (
        r#"{"b": 1, "a": [1]} | tojson(false, 2)"#,
        "{\n  \"b\": 1,\n  \"a\": [\n    1\n  ]\n}",
    ),
    (
        r#""ü\u2028\u0007😀</a>'" | tojson"#,
        "\"ü\u{2028}\\u0007😀</a>'\"",
    ),
    (
        r#""ü\u2028\u0007😀</a>'" | tojson(ensure_ascii=true)"#,
        r#""\u00fc\u2028\u0007\ud83d\ude00</a>'""#,
    ),
    (r#""ü" | tojson(true)"#, r#""\u00fc""#),
    (
        "[1e-7, 1e16, 1.0, 1e22, 123456789012345680.0, 1.5e300, 0.1, -0.0] | tojson",
        "[1e-07, 1e+16, 1.0, 1e+22, 1.2345678901234568e+17, 1.5e+300, 0.1, -0.0]",
    ),
    (
        "{1: 2, none: 3, true: 4, 1.5: 6} | tojson",
        r#"{"1": 4, "null": 3, "1.5": 6}"#,
    ),
    (
        r#"{"a": 1, "b": [1]} | tojson(indent=2, separators=(',', ': '))"#,
        "{\n  \"a\": 1,\n  \"b\": [\n    1\n  ]\n}",
    ),
    ("1e16", "1e+16"),
    ("1.5e-7", "1.5e-07"),
    ("1e22", "1e+22"),
    ("1e100", "1e+100"),
    ("+1", "1"),
    ("+x1", "5"),
    (r#""%s-%d" % ("a", 3)"#, "a-3"),
    (r#""%s" % "a""#, "a"),
    (r#""%s" % 5"#, "5"),
    (r#""%5.2f|" % 3.14159"#, " 3.14|"),
    (r#""%-5s|" % "ab""#, "ab   |"),
    (r#""%05d" % 42"#, "00042"),
    (r#""%x %X %o" % (255, 255, 8)"#, "ff FF 10"),
    (r#""%e" % 12345.678"#, "1.234568e+04"),
    (r#""%g" % 0.00001"#, "1e-05"),
    (r#""%(a)s" % {"a": 1}"#, "1"),
    (r#""%r" % "a""#, "'a'"),
    (r#""%%" % ()"#, "%"),
    (r#""%s" % none"#, "None"),
    (r#""%s" % [1,"a"]"#, "[1, 'a']"),
    (r#""%c" % 65"#, "A"),
    (r#""%+d" % 5"#, "+5"),
    (
        r#"["it's", 'say "x"', 'both \' and "', "a\nb\t\\", "é", "\u0007", "\u200b", "😀"]"#,
        r#"["it's", 'say "x"', 'both \' and "', 'a\nb\t\\', 'é', '\x07', '\u200b', '😀']"#,
    ),
    (r#""a-b-c".rsplit("-", 1)"#, "['a-b', 'c']"),
    (r#""a b  c".rsplit()"#, "['a', 'b', 'c']"),
    (r#"" a b  c ".rsplit(none, 1)"#, "[' a b', 'c']"),
    (r#""a-b-c".split(sep="-", maxsplit=1)"#, "['a', 'b-c']"),
    (r#""a-b-c".partition("-")"#, "('a', '-', 'b-c')"),
    (r#""a-b-c".rpartition("-")"#, "('a-b', '-', 'c')"),
    (r#""abc".partition("x")"#, "('abc', '', '')"),
    (r#""abc".rpartition("x")"#, "('', '', 'abc')"),
    (r#""abcabc".removeprefix("abc")"#, "abc"),
    (r#""abcabc".removesuffix("abc")"#, "abc"),
    (r#""abc".removeprefix("x")"#, "abc"),
    (r#""abc".index("c")"#, "2"),
    (r#""abcabc".rindex("c")"#, "5"),
    (r#""abcabc".find("c", 3)"#, "5"),
    (r#""abcabc".find("a", 1, 4)"#, "3"),
    (r#""42".zfill(5)"#, "00042"),
    (r#""-42".zfill(5)"#, "-0042"),
    (r#""+4".zfill(4)"#, "+004"),
    (r#""ab".ljust(5, ".")"#, "ab..."),
    (r#""ab".rjust(5)"#, "   ab"),
    (r#""ab".center(5, "*")"#, "**ab*"),
    (r#""abc".center(6, "*")"#, "*abc**"),
    (r#""Straße".casefold()"#, "strasse"),
    (r#""they're bill's".title()"#, "They'Re Bill'S"),
    (r#""hELLO".swapcase()"#, "Hello"),
    (r#""a\tb".expandtabs(4)"#, "a   b"),
    (r#""abc".startswith("b", 1)"#, "True"),
    (r#""a\nb\x0bc\u2028d".splitlines()"#, "['a', 'b', 'c', 'd']"),
    (r#""123".isdecimal()"#, "True"),
    (r#""Abc Def".istitle()"#, "True"),
    (r#""a1".isidentifier()"#, "True"),
    (r#""1a".isidentifier()"#, "False"),
    (r#""abc".isprintable()"#, "True"),
    (r#""{a}".format_map({"a": 2})"#, "2"),
    (r#""abc".encode("utf-8")"#, "b'abc'"),
    (r#""aé".encode()"#, r#"b'a\xc3\xa9'"#),
    (r#"{"a": 1}.copy()"#, "{'a': 1}"),
    (r#"{"type": 5}.values is defined"#, "True"),
    ("[1,2].index(2)", "1"),
    ("[1,2].copy()", "[1, 2]"),
    ("(1,2).index(2)", "1"),
    ("(5).bit_length()", "3"),
    ("(1.5).is_integer()", "False"),
    (r#"dict([("a", 1), ("b", 2)])"#, "{'a': 1, 'b': 2}"),
    (r#"dict([["x", 1]]).x"#, "1"),
    (r#"cycler("a","b").next()"#, "a"),
    ("[3,1,2] | sort(true)", "[3, 2, 1]"),
    (r#"{"b":1,"A":2} | dictsort(true)"#, "[('A', 2), ('b', 1)]"),
    (
        r#"{"b":1,"a":2} | dictsort(false, "value", true)"#,
        "[('a', 2), ('b', 1)]",
    ),
    (
        r#"[{"a":1},{"b":2}] | map(attribute="a") | list"#,
        "[1, Undefined]",
    ),
    (r#"none | d("b", boolean=true)"#, "b"),
    (r#""a\nb" | indent("> ")"#, "a\n> b"),
    (r#""a<b>&\"'" | e"#, "a&lt;b&gt;&amp;&#34;&#39;"),
    (r#""a<b>" | forceescape"#, "a&lt;b&gt;"),
    (r#""foo bar baz" | wordwrap(7)"#, "foo bar\nbaz"),
    (r#""foobarbaz" | wordwrap(4)"#, "foob\narba\nz"),
    (
        r#""foo bar baz" | wordwrap(7, wrapstring="|")"#,
        "foo bar|baz",
    ),
    (r#""ab" | center(6)"#, "  ab  "),
    (r#"{"a": 1} | attr("a")"#, ""),
    ("[1,2] | pprint", "[1, 2]"),
    (r#"{"b":1,"a":"x"} | pprint"#, "{'a': 'x', 'b': 1}"),
    (r#""\a\b\f\v\0" | length"#, "5"),
    (r#""\U0001F600""#, "😀"),
    ("\"a\\\nb\"", "ab"),
    ("[1e400] | tojson", "[Infinity]"),
    (r#""abc" | float"#, "0.0"),
    ("[x, none]", "[Undefined, None]"),
    (r#"{"a": x}"#, "{'a': Undefined}"),
    (r#""%d" % 3.7"#, "3"),
    (r#""%i" % 3"#, "3"),
    (r#""%5s|%-5s|" % ("a", "b")"#, "    a|b    |"),
    (r#""%.3s" % "abcdef""#, "abc"),
    (r#""%*d" % (5, 3)"#, "    3"),
    (r#""%s" % d.items()|list"#, "[('key', {'y': 1})]"),
    ("s | wordcount", "3"),
    (r#"x | default(default_value="q")"#, "q"),
    (r#""" | default(default_value="q", boolean=true)"#, "q"),
    (r#""abc" | replace(old="a", new="z")"#, "zbc"),
    ("[1,2,3] | batch(linecount=2) | list", "[[1, 2], [3]]"),
    (
        "[1,2,3] | batch(linecount=2, fill_with=0) | list",
        "[[1, 2], [3, 0]]",
    ),
    (
        "[1,2,3] | slice(slices=2, fill_with=0) | list",
        "[[1, 2], [3, 0]]",
    ),
    (r#""xax" | trim(chars="x")"#, "a"),
    (r#"["a","A"] | unique(true) | list"#, "['a', 'A']"),
    (
        r#"[{"a":1},{"a":1}] | unique(false, "a") | list"#,
        "[{'a': 1}]",
    ),
    (r#"[{"a":1},{"a":2}] | min(false, "a")"#, "{'a': 1}"),
    (
        r#"[{"a":2},{"a":1}] | sort(false, false, "a")"#,
        "[{'a': 1}, {'a': 2}]",
    ),
    (r#""abc" | center(width=7)"#, "  abc  "),
    (r#""abc" | wordcount"#, "1"),
    (r#"s[s.index("w"):]"#, "world\nsecond"),
    ("[1,2,3].index(3)", "2"),
    (r#""abc".split("b", maxsplit=1)"#, "['a', 'c']"),
    (r#""a b c".split(maxsplit=1)"#, "['a', 'b c']"),
    (r#""a,b".rsplit(sep=",", maxsplit=1)"#, "['a', 'b']"),
    (r#""\x1ca".strip() "#, "a"),
    (r#""a\x1cb".split()"#, "['a', 'b']"),
    (r#""½".isdigit()"#, "False"),
    (r#""٣".isdecimal()"#, "True"),
    (r#""a_b".isidentifier()"#, "True"),
    (r#""\n".isprintable()"#, "False"),
    (r#""Hello World".istitle()"#, "True"),
    (r#""abc".center(8, "é")"#, "ééabcééé"),
    ("[0.1, 1e300] | string", "[0.1, 1e+300]"),
    ("1e17 | string", "1e+17"),
    (r#""</script>" | tojson"#, r#""</script>""#),
    (
        r#"{"z": 1, "a": {"y": 1, "b": 2}} | tojson(sort_keys=true)"#,
        r#"{"a": {"b": 2, "y": 1}, "z": 1}"#,
    ),
    (
        r#"{"z": 1, "a": {"y": 1, "b": 2}} | tojson(indent=1, sort_keys=true, separators=(",", ": "), ensure_ascii=false)"#,
        "{\n \"a\": {\n  \"b\": 2,\n  \"y\": 1\n },\n \"z\": 1\n}",
    ),
    (
        "lst | tojson(separators=(',', ':'))",
        r#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]"#,
    ),
    (
        r#"lst | tojson(separators=[",", ":"])"#,
        r#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]"#,
    ),
    (
        "lst | tojson(indent=2, ensure_ascii=False)",
        "[\n  {\n    \"role\": \"user\",\n    \"content\": \"a\"\n  },\n  {\n    \"role\": \"assistant\",\n    \"content\": \"b\"\n  }\n]",
    ),
    (
        "lst | tojson(ensure_ascii=False)",
        r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#,
    ),
    (r#"namespace({"a": 1}, b=2).a"#, "1"),
    ("'%s: %s' % (lst[0].role, lst[0].content)", "user: a"),
    (
        "[1.0, 1e20, 1e-5, 12345678901234567890]",
        "[1.0, 1e+20, 1e-05, 12345678901234567890]",
    ),
];

const TEMPLATES: &[(&str, &str)] = &[
    ("{% generation %}abc{% endgeneration %}d", "abcd"),
    ("{%- generation -%}\n abc\n{%- endgeneration -%}\nd", "abcd"),
    ("{% generation %}\nabc\n{% endgeneration %}\nd", "abc\nd"),
    (
        "  {% generation %}\nabc{% set z = 1 %}\n  {% endgeneration %}\nd{{ z }}",
        "abcd",
    ),
    (
        "{% for m in lst %}{% generation %}{% set q = m.role %}{{ q }}{{ loop.index }}{% endgeneration %}{% endfor %}",
        "user1assistant2",
    ),
    (
        r#"{% set ns = namespace(a=1) %}{{ ns["a"] }}{{ ns is mapping }}{{ ns.b }}"#,
        "1False",
    ),
    (
        r#"{% set x = "é" %}{{ x|length }}{{ x|upper }}{{ x.encode("utf-8")|length }}"#,
        "1É2",
    ),
    (
        "{{ m is defined }}{% macro m() %}{% endmacro %}{{ m is defined }}{{ m is callable }}",
        "FalseTrueTrue",
    ),
    (
        r#"{{ "x" if d.items else "y" }}{{ d.items is defined }}{{ d.items is callable }}{{ d["items"] is defined }}"#,
        "xTrueTrueTrue",
    ),
    (
        r#"{% set p = {"items": {"type": "s"}, "type": "array"} %}{{ p.items.type }}|{{ p["items"].type }}|{{ p.items is mapping }}|{{ p.items is string }}"#,
        "|s|False|False",
    ),
    (
        r#"{{ {"a": 1e20}|tojson }} {{ 3.0|tojson }} {{ 1e5|tojson }} {{ 0.0001|tojson }} {{ 0.00001|tojson }}"#,
        r#"{"a": 1e+20} 3.0 100000.0 0.0001 1e-05"#,
    ),
    (
        r#"{{ 3.14159 | round(2) }}{{ 3 | round }}{{ 2.675 | round(2) }}{{ 1e20 | round }}{{ 3.7 | int }}{{ "3.7" | float | round | int }}"#,
        "3.1432.671e+2034",
    ),
    // What the tag of a raw block does not remove.
    ("a{% raw %}\nb{% endraw %}\nc", "a\nbc"),
    (
        "a{% raw %}\n\n {{ b }}\n  {% endraw %}\nc",
        "a\n\n {{ b }}\nc",
    ),
    ("a {%- raw -%}\n b {%- endraw -%}\nc", "abc"),
    // What is added to HTML is escaped.
    (
        r#"{{ "<" | safe + "<b>" + "x" | safe + '"' }}"#,
        "<&lt;b&gt;x&#34;",
    ),
    (
        r#"{{ "<" + ("<" | e) }}{{ "a" | safe + "b" }}{{ [1] + [2] }}"#,
        "&lt;&lt;ab[1, 2]",
    ),
];

#[test]
fn expressions_have_the_values_of_jinja2() {
    let mut wrong = Vec::new();
    let expressions = EXPRESSIONS.iter();
    let expressions = expressions.map(|(one, expect)| (format!("{{{{ {one} }}}}"), expect));
    let templates = TEMPLATES
        .iter()
        .map(|(one, expect)| ((*one).to_owned(), expect));
    for (template, expect) in expressions.chain(templates) {
        let outcome = rendered(&template, variables());
        if outcome.as_deref().ok() != Some(expect) {
            wrong.push(format!("{template}: {outcome:?}, not {expect:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_cannot_be_had_is_named() {
    for (template, parts) in [
        ("a\n{{ 'a' | urlize }}", ["urlize", "line 2"]),
        ("{{ 'a'.translate({}) }}", ["translate", "line 1"]),
        ("{{ '{!r}'.format(1) }}", [".format(1)", "line 1"]),
        ("{{ '\\N{BULLET}' }}", ["cannot be read", "\\N{BULLET}"]),
        (
            "{% for a in 1, 2 %}{% endfor %}",
            ["cannot be read", "unexpected `,`"],
        ),
        ("{{ lst.append(1) }}", ["append", "line 1"]),
        ("{{ nothing | tojson }}", ["undefined", "tojson"]),
        ("{{ '%d' % 'a' }}", ["%d", "line 1"]),
    ] {
        let message = rendered(template, variables())
            .expect_err(template)
            .to_string();
        for part in parts {
            assert!(message.contains(part), "{template}: {message}");
        }
    }
}

#[test]
fn templates_as_transformers_renders_them() {
    let check = |template: &str, scope: Value, expect: &str| {
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

/// A template that handles neither parts, system messages, tools nor results, and wants the roles to alternate.
const PLAIN: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no turns') }}{% endif %}[{{ m.role + ':' + m.content }}]{% endfor %}";

/// A template that handles parts of users, calls and their results, but no tools.
const CALLS: &str = "{% for m in messages %}[{{ m.role }}:{% if m.role == 'user' and m.content is not string %}{% for part in m.content %}{{ part.text }}{% endfor %}{% else %}{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %}<{{ c.function.name }} {{ c.function.arguments | tojson }}>{% endfor %}]{% endfor %}";

fn parts(texts: &[&str]) -> Value {
    texts
        .iter()
        .map(|text| json!({"type": "text", "text": text}))
        .collect()
}

fn call(content: &str, arguments: Value) -> Value {
    json!({"role": "assistant", "content": content, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]})
}

fn fitted(template: &str, messages: Value, instructions: Option<&str>) -> String {
    let mut order = order(template, json!({"messages": messages}));
    order.instructions = instructions.map(str::to_owned);
    render(&order, FUEL).unwrap_or_else(|error| panic!("{messages}: {error}"))
}

#[test]
fn parts_are_joined_unless_the_template_handles_them() {
    let messages = json!([
        {"role": "user", "content": parts(&["a", "b"])},
        {"role": "assistant", "content": parts(&["c", "d"])},
    ]);
    let check = |template: &str, expect: &str| {
        assert_eq!(
            fitted(template, messages.clone(), None),
            expect,
            "{template}"
        );
    };
    check(PLAIN, "[user:a\nb][assistant:c\nd]");
    // Each role for itself.
    check(CALLS, "[user:ab][assistant:c\nd]");
    check(
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "a\nbc\nd",
    );
    check(
        "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
        "\"a\\nb\"\"c\\nd\"",
    );
    check(
        "{% for m in messages %}{{ m.content[0].text or m.content }}{% endfor %}",
        "ac",
    );
}

#[test]
fn arguments_are_a_string_for_templates_that_need_one() {
    let text = r#"{"a": "b c"}"#;
    let check = |template: &str, expect: &str| {
        for arguments in [text.into(), serde_json::from_str(text).expect("JSON")] {
            let messages = json!([{"role": "user", "content": "q"}, call("", arguments)]);
            let written = fitted(template, messages, None).replace("\":\"", "\": \"");
            assert_eq!(written, expect, "{template}");
        }
    };
    let each = |printed: &str| {
        format!(
            "{{% for m in messages %}}{{% for c in m.tool_calls or [] %}}{{{{ {printed} }}}}{{% endfor %}}{{% endfor %}}"
        )
    };
    check(&each("c.function.arguments | tojson"), text);
    check(&each("c.function.arguments.a"), "b c");
    // Fails with an object.
    check(&each("'>' + c.function.arguments"), &format!(">{text}"));
    // Python's spelling of an object is not JSON.
    check(&each("c.function.arguments"), text);
    check(
        &each(
            "c.function.arguments if c.function.arguments is string else c.function.arguments | tojson",
        ),
        text,
    );
}

#[test]
fn tools_are_described_where_a_template_does_not_know_them() {
    let ask = json!({"role": "user", "content": "q"});
    let result = |text| json!({"role": "tool", "content": text});
    let check = |template: &str, messages: Value, expect: &str| {
        assert_eq!(fitted(template, messages, Some("TOOLS")), expect);
    };
    check(PLAIN, json!([ask]), "[user:TOOLS\n\nq]");
    check(CALLS, json!([ask]), "[system:TOOLS][user:q]");
    check(
        CALLS,
        json!([{"role": "system", "content": "s"}, ask]),
        "[system:s\n\nTOOLS][user:q]",
    );
    // Calls that the template shows itself are not written twice.
    check(
        CALLS,
        json!([ask, call("c", json!({"a": 1})), result("r")]),
        r#"[system:TOOLS][user:q][assistant:c<f {"a": 1}>][tool:r]"#,
    );
    // The results of one turn are one message.
    let messages = json!([
        ask,
        call("c", json!("{\"a\": 1}")),
        result("r"),
        result("s")
    ]);
    check(
        PLAIN,
        messages,
        "[user:TOOLS\n\nq][assistant:c<tool_call>\n{\"name\":\"f\",\"arguments\":{\"a\":1}}\n</tool_call>][user:<tool_response>\nr\n</tool_response>\n<tool_response>\ns\n</tool_response>]",
    );
    // Of parts, too.
    let parts = json!([{"type": "text", "text": "r"}, {"type": "text", "text": "s"}]);
    let results = json!([ask, {"role": "tool", "content": parts}, {"role": "tool", "content": parts}, result("t")]);
    let response = |text: &str| format!("<tool_response>\n{text}\n</tool_response>");
    let expect = [response("r\ns"), response("r\ns"), response("t")].join("\n");
    check(
        "{% for m in messages %}[{{ m.role }}:{% if m.content is string %}{{ m.content }}{% else %}\
         {% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}]{% endfor %}",
        results,
        &format!("[system:TOOLS][user:q][user:{expect}]"),
    );
}

#[test]
fn messages_without_content_render() {
    let mut message = call("", json!({"a": 1}));
    message
        .as_object_mut()
        .expect("an object")
        .remove("content");
    let messages = json!([{"role": "user", "content": "q"}, message]);
    assert_eq!(
        fitted(CALLS, messages.clone(), None),
        "[user:q][assistant:<f {\"a\": 1}>]"
    );
    // This template fails without one.
    assert_eq!(fitted(PLAIN, messages, None), "[user:q][assistant:]");
    let defined = "{% for m in messages %}{{ m.content is defined }}{% endfor %}";
    let messages = json!([{"role": "assistant"}, {"role": "assistant", "content": ""}]);
    assert_eq!(fitted(defined, messages, None), "FalseTrue");
}

/// ChatML, with calls as Hermes writes them.
const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}";

fn continued(template: &str, messages: Value) -> Result<String, TemplateError> {
    let mut order = order(template, json!({"messages": messages}));
    order.continues = true;
    render(&order, FUEL)
}

#[test]
fn the_last_message_is_continued_wherever_else_its_text_is() {
    let trimming = CHATML.replace("m.content }}", "m.content | trim }}");
    let start = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n";
    for last in [
        "<",
        "|",
        "n",
        "end",
        "Answer:\n",
        "Answer: ",
        "CandorContinuesHere",
        "CandorContinuesHereX CandorContinuesHereXXX",
        "",
        "x\n\n \t",
    ] {
        let messages =
            json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": last}]);
        for template in [CHATML, &trimming] {
            let prompt = continued(template, messages.clone()).expect(last);
            assert_eq!(prompt, format!("{start}{last}"), "{template}");
        }
        let messages = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": parts(&["a", last])}]);
        let prompt = continued(CHATML, messages).expect(last);
        assert_eq!(prompt, format!("{start}a\n{last}"));
    }
    // Blanks before a text are the template's business.
    let messages = json!([{"role": "assistant", "content": "  a "}]);
    let prompt = continued(&trimming, messages).expect("a prompt");
    assert_eq!(prompt, "<|im_start|>assistant\na ");
}

#[test]
fn long_texts_are_continued_as_fast_as_short_ones() {
    // Milliseconds; a word that grows until it is unused takes hours.
    let text = format!("CandorContinuesHere{}", "X".repeat(4 << 20));
    let messages =
        json!([{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]);
    let prompt = continued(CHATML, messages).expect("a prompt");
    assert!(prompt.ends_with("assistant\na"));
}

#[test]
fn calls_of_a_continued_message_stay() {
    let messages = json!([{"role": "user", "content": "Q"}, call("Look: ", json!({"a": 1}))]);
    let prompt = continued(CHATML, messages.clone()).expect("a prompt");
    let end = "Look: <tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>";
    assert!(prompt.ends_with(end), "{prompt}");
    // gpt-oss ends a call with a token of its own.
    let other = CHATML.replace(
        "{% endfor %}<|im_end|>",
        "{% endfor %}{{ '<|call|>' if m.tool_calls else '<|im_end|>' }}",
    );
    let error = continued(&other, messages).expect_err("not possible");
    assert!(matches!(error, TemplateError::NotContinued(_)), "{error}");
}

#[test]
fn a_text_that_the_template_changes_is_not_continued() {
    let messages = json!([{"role": "assistant", "content": "a b"}]);
    for template in [
        "{{ messages[0].role }}",
        "{{ messages[0].content | upper }}",
        "{{ messages[0].content | replace(' ', '') }}",
        "{{ messages[0].content[:3] }}",
    ] {
        let error = continued(template, messages.clone()).expect_err(template);
        assert!(
            matches!(error, TemplateError::NotContinued(_)),
            "{template}: {error}"
        );
    }
    let error = continued("{{ raise_exception('no') }}", messages).expect_err("raised");
    assert_eq!(error, TemplateError::Raised("no".to_owned()));
}

/// As Gemma 4's: for each message, those before it are looked through.
#[test]
fn a_long_conversation_renders_with_a_quadratic_template() {
    let template = "{% for m in messages %}{% set ns = namespace(last=none) %}{% for before in messages[:loop.index0] | reverse %}{% if before.role == 'system' %}{% set ns.last = before %}{% endif %}{% endfor %}{{ m.content }}{% endfor %}";
    let count = 1_000;
    let messages: Vec<Value> = (0..count)
        .map(|_| json!({"role": "user", "content": "a"}))
        .collect();
    let order = order(template, json!({"messages": messages}));
    let text = render(&order, super::super::prompt::FUEL).expect("a prompt");
    assert_eq!(text.len(), count);
}

/// Many templates describe schemas by a macro that calls itself.
#[test]
fn deep_schemas_render() {
    let template = "{% macro show(schema) %}{% if schema.properties %}{% for name, inner in schema.properties.items() %}{{ name }}{{ show(inner) }}{% endfor %}{% endif %}{% endmacro %}{{ show(schema) }}";
    let mut schema = json!({"type": "string"});
    for _ in 0..50 {
        schema = json!({"type": "object", "properties": {"a": schema}});
    }
    let text = rendered(template, json!({"schema": schema})).expect("a text");
    assert_eq!(text, "a".repeat(50));
}
