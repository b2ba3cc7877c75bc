//! Bodies that are right come out typed; of those that are wrong, the field is named.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::*;
use crate::{NoArguments, Timestamp};

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Speed {
    Normal,
    Express,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Payment {
    Cash,
    Card { number: String },
    Voucher(u32),
    Split(u32, u32),
}

#[derive(Debug, PartialEq, Deserialize)]
struct Line {
    article: String,
    pieces: u8,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Order {
    lines: Vec<Line>,
    speed: Option<Speed>,
    payment: Payment,
    #[serde(default)]
    due: Option<Timestamp>,
    #[serde(default)]
    notes: BTreeMap<String, Json>,
    #[serde(default)]
    share: f64,
    #[serde(default)]
    initial: Option<char>,
    #[serde(default, rename = "gift-wrap")]
    gift_wrap: bool,
}

fn least() -> Json {
    json!({"lines": [], "payment": "cash"})
}

fn order(body: Json) -> Result<Order, Refusal> {
    read(body.to_string().as_bytes())
}

/// Field and problem of the least order with one field in another way.
fn fault(field: &str, value: Json) -> (String, String) {
    let mut body = least();
    body[field] = value;
    match order(body) {
        Err(Refusal::BadBody { field, problem }) => (field, problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn typed_fields_come_out() {
    let body = json!({
        "lines": [{"article": "tea", "pieces": 2}],
        "speed": "express",
        "payment": {"card": {"number": "1"}},
        "due": "2013-01-01",
        "notes": {"a": [1, -2, 1.5, {"b": null}], "c": "\u{e9}\n"},
        "share": 1,
        "initial": "x",
        "gift-wrap": true,
    });
    let found = order(body.clone()).unwrap();
    assert_eq!(found.lines[0].pieces, 2);
    assert_eq!(found.speed, Some(Speed::Express));
    let number = "1".to_owned();
    assert_eq!(found.payment, Payment::Card { number });
    assert_eq!(found.due, Some("2013-01-01".parse().unwrap()));
    assert_eq!(json!(found.notes), body["notes"]);
    assert_eq!((found.share, found.initial), (1.0, Some('x')));
    assert!(found.gift_wrap);

    let mut body = least();
    body["speed"] = Json::Null;
    for (payment, expected) in [
        (json!({"voucher": 7}), Payment::Voucher(7)),
        (json!({"split": [1, 2]}), Payment::Split(1, 2)),
        (json!({"cash": null}), Payment::Cash),
    ] {
        body["payment"] = payment;
        assert_eq!(order(body.clone()).unwrap().payment, expected);
    }
    assert_eq!(order(body).unwrap().speed, None);
}

#[test]
fn every_fault_names_its_field() {
    let byte = "expected an integer from 0 to 255, not";
    for (field, value, name, problem) in [
        ("lines", json!(5), "lines", "expected a list, not `5`"),
        (
            "lines",
            json!([5]),
            "lines[0]",
            "expected an object, not `5`",
        ),
        (
            "lines",
            json!([{"article": "a", "pieces": 1}, {"article": "b", "pieces": 256}]),
            "lines[1].pieces",
            &format!("{byte} `256`"),
        ),
        (
            "lines",
            json!([{"article": "a", "pieces": 1.5}]),
            "lines[0].pieces",
            &format!("{byte} `1.5`"),
        ),
        (
            "lines",
            json!([{"article": "a"}]),
            "lines[0].pieces",
            "missing",
        ),
        (
            "lines",
            json!([{"article": "a", "pieces": 1, "colour": ""}]),
            "lines[0].colour",
            "no such field; there is `article` and `pieces`",
        ),
        (
            "lines",
            json!([{"article": 7, "pieces": 1}]),
            "lines[0].article",
            "expected a text, not `7`",
        ),
        (
            "speed",
            json!("slow"),
            "speed",
            "expected one of `normal` or `express`, not `slow`",
        ),
        (
            "speed",
            json!(1),
            "speed",
            "expected one of `normal` or `express`, not `1`",
        ),
        (
            "payment",
            json!({"card": {"number": 1}}),
            "payment.card.number",
            "expected a text, not `1`",
        ),
        (
            "payment",
            json!({}),
            "payment",
            "expected an object with one of `cash`, `card`, `voucher` or `split`, not `{}`",
        ),
        (
            "gift-wrap",
            json!("yes"),
            "gift-wrap",
            "expected `true` or `false`, not `\"yes\"`",
        ),
        (
            "share",
            json!("1"),
            "share",
            "expected a number, not `\"1\"`",
        ),
        (
            "initial",
            json!("xy"),
            "initial",
            "expected a character, not `xy`",
        ),
        (
            "total",
            json!(1),
            "total",
            "no such field; there is `lines`, `speed`, `payment`, `due`, `notes`, `share`, \
             `initial` and `gift-wrap`",
        ),
    ] {
        let found = fault(field, value.clone());
        assert_eq!(found, (name.to_owned(), problem.to_owned()), "{value}");
    }
    let (name, problem) = fault("due", json!("today"));
    assert_eq!(name, "due");
    assert!(
        problem.starts_with("expected an RFC 3339 instant"),
        "{problem}"
    );
}

#[test]
fn what_is_missing_says_what_it_is() {
    let missing = order(json!({})).unwrap_err();
    assert_eq!(
        missing,
        Refusal::bad_body("lines", "missing; expected a list")
    );
    let missing = order(json!({"lines": []})).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "field `payment`: missing; expected one of `cash`, `card`, `voucher` or `split`"
    );
}

#[test]
fn what_is_no_json_is_the_fault_of_the_whole() {
    for body in [&b"{"[..], b"{} {}", b"lines=1", b"\xff", b"\"\xff\""] {
        match read::<Order>(body) {
            Err(Refusal::BadBody { field, problem }) => {
                assert_eq!(field, "");
                assert!(
                    problem.starts_with("expected JSON, and this is none: "),
                    "{problem}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    let refusal = order(json!([1])).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::bad_body("", "expected an object, not `[1]`")
    );
}

#[test]
fn an_empty_body_is_an_empty_object() {
    assert!(read::<NoArguments>(b"").is_ok());
    assert!(read::<NoArguments>(b" \n").is_ok());
    assert!(read::<NoArguments>(b" {} ").is_ok());
    let refusal = read::<NoArguments>(br#"{"a":1}"#).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::bad_body("a", "no such field; there are none")
    );
}

#[test]
fn raw_values_stay_as_they_came() {
    let text = r#"{"z": 12345678901234567890123, "a":1.10}"#;
    let raw: Box<RawValue> = read(text.as_bytes()).unwrap();
    assert_eq!(raw.get(), text);
    let inside: BTreeMap<String, Box<RawValue>> = read(text.as_bytes()).unwrap();
    assert_eq!(inside["a"].get(), "1.10");
}

#[test]
fn a_long_wrong_value_is_cut_and_a_deep_one_is_an_error() {
    for field in ["payment", "lines"] {
        let (_, problem) = fault(field, json!("\u{e9}".repeat(100)));
        assert!(problem.ends_with("\u{e9}\u{2026}`"), "{problem}");
        assert!(problem.len() < 250, "{problem}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let refusal = read::<Json>(deep.as_bytes()).unwrap_err();
    assert!(refusal.to_string().ends_with("it lies too deep"));
}

#[test]
fn a_text_that_is_no_unicode_is_wrong() {
    let refusal = read::<String>(br#""\ud800""#).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        r#"the body: expected a text that is Unicode, not `"\ud800"`"#
    );
}

#[test]
fn a_body_tells_its_schema() {
    let schema: Json = serde_json::from_str(&schema::of_body::<Order>()).unwrap();
    let properties = &schema["properties"];
    assert_eq!(
        properties["lines"],
        json!({"type": "array", "items": {"type": "object"}})
    );
    assert_eq!(
        properties["speed"],
        json!({"anyOf": [{"type": "string", "enum": ["normal", "express"]}, {"type": "null"}]})
    );
    assert_eq!(properties["payment"], json!({}));
    assert_eq!(properties["notes"], json!({"type": "object"}));
    assert_eq!(properties["gift-wrap"], json!({"type": "boolean"}));
    assert_eq!(schema["required"], json!(["lines", "payment"]));
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(schema::of_body::<Json>(), "");
}
