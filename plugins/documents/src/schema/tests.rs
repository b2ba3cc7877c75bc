//! Every keyword, on what it allows and what it does not; and what is no schema that can be checked.

use super::*;

/// What is wrong with the document: place, keyword, problem.
fn wrong(schema: &str, document: &str) -> Vec<(String, &'static str, String)> {
    let schema = Schema::read(schema).unwrap();
    let mut violations = Vec::new();
    schema.check(
        &crate::json::read(document.as_bytes()).unwrap(),
        &mut violations,
    );
    let violations = violations.into_iter();
    violations
        .map(|it| (it.path, it.keyword, it.problem))
        .collect()
}

fn ok(schema: &str, documents: &[&str]) {
    for document in documents {
        assert_eq!(wrong(schema, document), [], "{schema} {document}");
    }
}

fn bad(schema: &str, documents: &[(&str, &'static str, &str, &str)]) {
    for (document, keyword, path, problem) in documents {
        let expected = (path.to_string(), *keyword, problem.to_string());
        assert_eq!(wrong(schema, document), [expected], "{schema} {document}");
    }
}

#[test]
fn types() {
    for (name, values) in [
        ("object", &["{}"][..]),
        ("array", &["[]"]),
        ("string", &["\"\""]),
        (
            "integer",
            &[
                "1",
                "-0",
                "1.0",
                "1e3",
                "12345678901234567890123456789012345678901234",
            ],
        ),
        ("boolean", &["true", "false"]),
        ("null", &["null"]),
    ] {
        let schema = format!(r#"{{"type":"{name}"}}"#);
        ok(&schema, values);
        for other in ["{}", "[]", "\"x\"", "1.5", "true", "null"] {
            let same = values.contains(&other) || (name, other) == ("string", "\"x\"");
            assert_eq!(wrong(&schema, other).is_empty(), same, "{schema} {other}");
        }
    }
    ok(r#"{"type":"number"}"#, &["1", "1.5", "1e400"]);
    ok(r#"{"type":["integer","null"]}"#, &["1", "null"]);
    let problem = "expected integer or null, not \"x\"";
    bad(
        r#"{"type":["integer","null"]}"#,
        &[("\"x\"", "type", "", problem)],
    );
    bad(
        r#"{"type":"string"}"#,
        &[
            ("{\"a\":1}", "type", "", "expected string, not an object"),
            ("[1]", "type", "", "expected string, not an array"),
            ("true", "type", "", "expected string, not true"),
        ],
    );
}

#[test]
fn numbers() {
    let schema = r#"{"minimum":1,"maximum":9007199254740993}"#;
    ok(schema, &["1", "1.0", "9007199254740993", "\"0\"", "null"]);
    bad(
        schema,
        &[
            ("0", "minimum", "", "expected at least 1, not 0"),
            ("0.99", "minimum", "", "expected at least 1, not 0.99"),
            ("-1e400", "minimum", "", "expected at least 1, not -1e400"),
            // One more than double precision can tell apart.
            (
                "9007199254740994",
                "maximum",
                "",
                "expected at most 9007199254740993, not 9007199254740994",
            ),
        ],
    );
    bad(
        r#"{"maximum":0.5}"#,
        &[("0.75", "maximum", "", "expected at most 0.5, not 0.75")],
    );
}

#[test]
fn texts_and_lists() {
    let schema = r#"{"minLength":2,"maxLength":3}"#;
    ok(
        schema,
        &["\"ab\"", "\"äöü\"", "\"\\u00e4\\ud83d\\ude00\"", "7"],
    );
    bad(
        schema,
        &[
            (
                "\"a\"",
                "minLength",
                "",
                "expected at least 2 characters, not 1",
            ),
            (
                "\"abcd\"",
                "maxLength",
                "",
                "expected at most 3 characters, not 4",
            ),
        ],
    );
    let schema = r#"{"minItems":1,"maxItems":2.0,"items":{"type":"integer"}}"#;
    ok(schema, &["[1]", "[1,2]", "{}"]);
    bad(
        schema,
        &[
            ("[]", "minItems", "", "expected at least 1 items, not 0"),
            ("[1,2,3]", "maxItems", "", "expected at most 2 items, not 3"),
            ("[1,\"x\"]", "type", "/1", "expected integer, not \"x\""),
        ],
    );
}

#[test]
fn members() {
    let schema = r#"{
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "a/b~": {"maximum": 1}},
        "additionalProperties": false
    }"#;
    ok(
        schema,
        &[
            r#"{"name":"x"}"#,
            r#"{"a/b~":1,"name":""}"#,
            r#"{"na\u006de":""}"#,
        ],
    );
    bad(
        schema,
        &[
            ("{}", "required", "", "the member `name` is missing"),
            (r#"{"name":1}"#, "type", "/name", "expected string, not 1"),
            (
                r#"{"name":"","a/b~":2}"#,
                "maximum",
                "/a~1b~0",
                "expected at most 1, not 2",
            ),
            (
                r#"{"name":"","x":2}"#,
                "additionalProperties",
                "/x",
                "there is no such member",
            ),
        ],
    );
    let schema = r#"{"properties":{"a":true,"b":false},"additionalProperties":{"type":"null"}}"#;
    ok(schema, &[r#"{"a":[],"c":null}"#]);
    bad(
        schema,
        &[
            (r#"{"b":1}"#, "false", "/b", "nothing is allowed here"),
            (r#"{"c":1}"#, "type", "/c", "expected null, not 1"),
        ],
    );
}

#[test]
fn values() {
    let schema = r#"{"enum":["a",1,null,{"x":[1,{"y":2}],"z":true}]}"#;
    ok(
        schema,
        &[
            "\"a\"",
            "\"\\u0061\"",
            "1",
            "1.0",
            "null",
            r#"{"z":true,"x":[1.0,{"y":2}]}"#,
        ],
    );
    bad(
        schema,
        &[
            (
                "\"b\"",
                "enum",
                "",
                "\"b\" is none of the values that are allowed",
            ),
            ("2", "enum", "", "2 is none of the values that are allowed"),
            (
                "[]",
                "enum",
                "",
                "an array is none of the values that are allowed",
            ),
            (
                r#"{"x":[1]}"#,
                "enum",
                "",
                "an object is none of the values that are allowed",
            ),
        ],
    );
    let long = format!("\"{}\"", "é".repeat(100));
    let (_, _, problem) = &wrong(r#"{"enum":[]}"#, &long)[0];
    assert!(
        problem.starts_with("\"ééé") && problem.contains("é… is none"),
        "{problem}"
    );
}

#[test]
fn all_that_is_wrong_is_told_up_to_a_bound() {
    let schema = r#"{"properties":{"a":{"type":"string","enum":[1]},"b":{"items":{"minimum":1}}}}"#;
    let found = wrong(schema, r#"{"a":2,"b":[0,1,0]}"#);
    let found: Vec<_> = found
        .iter()
        .map(|(path, keyword, _)| format!("{path} {keyword}"))
        .collect();
    assert_eq!(
        found,
        ["/a type", "/a enum", "/b/0 minimum", "/b/2 minimum"]
    );
    let many = format!("[{}0]", "0,".repeat(999));
    assert_eq!(
        wrong(r#"{"items":{"minimum":1}}"#, &many).len(),
        VIOLATIONS_MAX
    );
}

#[test]
fn what_cannot_be_checked_is_refused_by_its_name() {
    for (schema, fault) in [
        ("{", "expected JSON, and this is none: EOF"),
        ("7", "expected a schema: an object, `true` or `false`"),
        (
            r#"{"properties":{"a":{"pattern":"^x"}}}"#,
            "`/properties/a/pattern`: the keyword `pattern` is not supported, so nothing would check it; \
             supported are `type`, `enum`,",
        ),
        (
            r##"{"items":{"$ref":"#"}}"##,
            "`/items/$ref`: the keyword `$ref` is not supported",
        ),
        (
            r#"{"format":"date"}"#,
            "`/format`: the keyword `format` is not supported",
        ),
        (
            r#"{"allOf":[]}"#,
            "`/allOf`: the keyword `allOf` is not supported",
        ),
        (
            r#"{"additionalProperties":{"not":{}}}"#,
            "`/additionalProperties/not`: the keyword `not` is not supported",
        ),
        (
            r#"{"type":"text"}"#,
            "`/type`: expected one of `object`, `array`, `string`, `number`,",
        ),
        (r#"{"type":["null",7]}"#, "`/type/1`: expected one of"),
        (r#"{"type":[]}"#, "`/type`: expected one of"),
        (r#"{"minimum":"1"}"#, "`/minimum`: expected a number"),
        (
            r#"{"minLength":-1}"#,
            "`/minLength`: expected a whole number from 0",
        ),
        (
            r#"{"maxItems":1.5}"#,
            "`/maxItems`: expected a whole number from 0",
        ),
        (
            r#"{"required":"a"}"#,
            "`/required`: expected a list of names",
        ),
        (r#"{"required":["a",1]}"#, "`/required/1`: expected a name"),
        (r#"{"enum":{}}"#, "`/enum`: expected a list of values"),
        (
            r#"{"properties":[]}"#,
            "`/properties`: expected an object: a schema for each member",
        ),
        (
            r#"{"type":"null","type":"object"}"#,
            "`/type`: this name occurs more than once",
        ),
    ] {
        let found = Schema::read(schema).unwrap_err().to_string();
        assert!(found.starts_with(fault), "{schema}: {found}");
    }
}

#[test]
fn what_tells_people_something_is_let_through() {
    ok(
        r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","$id":"x","$comment":"c","title":"t",
            "description":"d","default":1,"examples":[1],"deprecated":true,"readOnly":true,"writeOnly":true}"#,
        &["{}", "[]", "1"],
    );
    ok("true", &["{}"]);
    assert_eq!(wrong("false", "{}").len(), 1);
}
