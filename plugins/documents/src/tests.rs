//! The store, through its commands; and documents and patches at random, against `serde_json`.

use foldhost_sdk::QueryError;
use foldhost_sdk::testing::{Driver, Record};
use serde_json::{Map, Value, json};

use super::*;

type Store = Driver<Documents>;

fn store() -> Store {
    Driver::configured(&[]).unwrap()
}

fn text(store: &mut Store, id: &str) -> Option<String> {
    match store.ask(id, "", &[], None) {
        Ok(answer) => {
            assert_eq!(answer.content_type, "application/json");
            Some(String::from_utf8(answer.body).unwrap())
        }
        Err(QueryError::NotFound) => None,
        Err(other) => panic!("{other}"),
    }
}

fn raw(store: &mut Store, id: &str, command: &str, body: &str) -> Result<Option<u64>, Refusal> {
    let body = Payload::new("application/json", body);
    store
        .command_raw(id, command, body)
        .map(|decided| decided.version)
}

#[test]
fn a_document_lives() {
    let mut store = store();
    let decided = store
        .command("d", "put", json!({"a": 1, "b": {"c": 2}}))
        .unwrap();
    let event = Record::raw("d", r#"{"a":1,"b":{"c":2}}"#).header("change", "put");
    assert_eq!(
        (&decided.events[..], decided.version),
        (&[event][..], Some(1))
    );

    let patch = json!({"a": null, "b": {"d": 3}});
    let decided = store.command("d", "merge-patch", patch).unwrap();
    let event = Record::raw("d", r#"{"b":{"c":2,"d":3}}"#).header("change", "merge-patch");
    assert_eq!(
        (&decided.events[..], decided.version),
        (&[event][..], Some(2))
    );
    assert_eq!(text(&mut store, "d").unwrap(), r#"{"b":{"c":2,"d":3}}"#);

    let decided = store.command("d", "delete", ()).unwrap();
    assert_eq!(
        decided.events,
        [Record::tombstone("d").header("change", "delete")]
    );
    assert_eq!(text(&mut store, "d"), None);
    for command in ["merge-patch", "delete"] {
        let refusal = store.command("d", command, json!({})).unwrap_err();
        assert_eq!(refusal.code(), "not-found");
    }
    let decided = store.command("d", "put", json!({})).unwrap();
    assert_eq!(decided.version, Some(4));
    store.assert_deterministic();
}

#[test]
fn the_newest_event_of_a_key_is_its_state() {
    let mut store = store();
    for (id, command, body) in [
        ("a", "put", json!({"n": 1})),
        ("b", "put", json!({"n": 2})),
        ("a", "merge-patch", json!({"m": 3})),
        ("c", "put", json!({})),
        ("c", "delete", json!({})),
    ] {
        store.command(id, command, body).unwrap();
    }
    // As compaction leaves the topic.
    let events = store.events();
    let newest = |(at, event): (usize, &Record)| {
        let later = &events[at + 1..];
        later
            .iter()
            .all(|other| other.key() != event.key())
            .then(|| event.clone())
    };
    let compacted: Vec<_> = events.iter().enumerate().filter_map(newest).collect();
    assert_eq!(compacted.len(), 3);
    let mut rebuilt = self::store();
    rebuilt.given(compacted);
    assert_eq!(rebuilt.states(), store.states());
    store.assert_emit_state();
    store.assert_idempotent();
}

#[test]
fn writing_what_is_there_already_is_a_change_with_a_version() {
    let mut store = store();
    assert_eq!(raw(&mut store, "d", "put", "{}").unwrap(), Some(1));
    assert_eq!(raw(&mut store, "d", "put", "{}").unwrap(), Some(2));
    assert_eq!(raw(&mut store, "d", "merge-patch", "{}").unwrap(), Some(3));
}

#[test]
fn a_document_stays_as_it_came() {
    let mut store = store();
    let body = " { \"z\" : 12345678901234567890123, \"a\":1.10 ,\"\\u00e9\":\"\\u00e9\" }\n";
    raw(&mut store, "d", "put", body).unwrap();
    let expected = r#"{"z":12345678901234567890123,"a":1.10,"\u00e9":"\u00e9"}"#;
    assert_eq!(text(&mut store, "d").unwrap(), expected);
    raw(&mut store, "d", "merge-patch", r#"{"é":null,"b":2.50}"#).unwrap();
    let expected = r#"{"z":12345678901234567890123,"a":1.10,"b":2.50}"#;
    assert_eq!(text(&mut store, "d").unwrap(), expected);
    store.assert_deterministic();
}

#[test]
fn what_is_no_document_is_refused() {
    let mut store = store();
    raw(&mut store, "d", "put", "{}").unwrap();
    for (command, body, expected) in [
        (
            "put",
            "[1]",
            "the body: expected an object: a document is one",
        ),
        (
            "put",
            "",
            "the body: expected JSON, and this is none: EOF while parsing a value",
        ),
        (
            "put",
            "{",
            "the body: expected JSON, and this is none: EOF while parsing an object",
        ),
        (
            "put",
            r#"{"a":{"b":1,"b":2}}"#,
            "field `/a/b`: this name occurs more than once",
        ),
        (
            "put",
            r#"{"a":"\ud800"}"#,
            "field `/a`: this text is no Unicode",
        ),
        (
            "merge-patch",
            "null",
            "the body: expected an object: a document is one",
        ),
        (
            "merge-patch",
            "{]",
            "the body: expected JSON, and this is none: key must be a string",
        ),
        (
            "delete",
            r#"{"a":1}"#,
            "field `a`: no such field; there are none",
        ),
    ] {
        let refusal = raw(&mut store, "d", command, body).unwrap_err();
        assert!(refusal.to_string().starts_with(expected), "{refusal}");
    }
    let deep = format!("{}1{}", r#"{"a":"#.repeat(65), "}".repeat(65));
    let refusal = raw(&mut store, "d", "put", &deep).unwrap_err();
    assert!(
        refusal.to_string().contains("it lies too deep"),
        "{refusal}"
    );
    assert_eq!(store.version("d"), Some(1));
    store.assert_deterministic();
}

const PERSON: &str = r#"{
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "children": {"type": "array", "items": {"properties": {"age": {"minimum": 0}}}}
    }
}"#;

#[test]
fn schemas_are_constraints() {
    let parameters = [
        ("schema", r#"{"properties":{"version":false}}"#),
        ("schema.person-", PERSON),
    ];
    let mut store = Store::configured(&parameters).unwrap();
    store.command("other", "put", json!({"name": 7})).unwrap();
    store
        .command("person-1", "put", json!({"name": "Ann"}))
        .unwrap();

    let wrong = json!({"children": [{"age": 3}, {"age": -1}], "version": 1});
    let refusal = store.command("person-2", "put", wrong).unwrap_err();
    assert_eq!(refusal.code(), "schema-violation");
    let details: Value = serde_json::from_str(refusal.details_json().unwrap()).unwrap();
    let violation = |path: &str, keyword: &str, problem: &str| json!({"path": path, "keyword": keyword, "problem": problem});
    let expected = json!({"violations": [
        violation("/version", "false", "nothing is allowed here"),
        violation("", "required", "the member `name` is missing"),
        violation("/children/1/age", "minimum", "expected at least 0, not -1"),
    ]});
    assert_eq!(details, expected);

    // What a patch makes of the document is checked, not the patch.
    let patch = json!({"name": null});
    let refusal = store.command("person-1", "merge-patch", patch).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "schema-violation: the document: the member `name` is missing"
    );
    let patch = json!({"children": [{"age": "?"}]});
    store.command("person-1", "merge-patch", patch).unwrap();
    store.command("person-1", "delete", ()).unwrap();
    store.assert_deterministic();
}

#[test]
fn parameters_that_cannot_hold_refuse_the_deployment() {
    for (name, value, expected) in [
        (
            "schema",
            r#"{"properties":{"a":{"pattern":"x"}}}"#,
            "`schema`, at `/properties/a/pattern`: the keyword `pattern` is not supported",
        ),
        (
            "schema.a",
            "{",
            "`schema.a`: expected JSON, and this is none: EOF",
        ),
        (
            "schemas",
            "{}",
            "`schemas`: no such name; there is `schema`, and `schema.PREFIX` for documents whose ids begin",
        ),
        ("schema.", "{}", "`schema.`: no such name;"),
        ("other", "{}", "`other`: no such name;"),
    ] {
        let error = Store::configured(&[(name, value)]).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

/// Numbers without pattern (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn value(&mut self, depth: u64) -> Value {
        match self.below(if depth == 0 { 4 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.below(3)),
            2 => json!(["a", "é\n\"\\", ""][self.below(3) as usize]),
            3 => json!(self.below(2) == 0),
            4 => (0..self.below(3)).map(|_| self.value(depth - 1)).collect(),
            _ => self.object(depth),
        }
    }

    fn object(&mut self, depth: u64) -> Value {
        let mut members = Map::new();
        for _ in 0..self.below(4) {
            let name = ["a", "b", "c/~", "é"][self.below(4) as usize];
            members.insert(name.to_owned(), self.value(depth.saturating_sub(1)));
        }
        Value::Object(members)
    }
}

/// The RFC's algorithm, on values of `serde_json`.
fn expected(target: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let members = target.as_object_mut().unwrap();
    for (name, change) in changes {
        if change.is_null() {
            members.remove(name);
        } else {
            expected(members.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

#[test]
fn patches_at_random_do_what_the_rfc_says() {
    let mut store = store();
    let mut random = Random(0x5EED);
    let mut document = random.object(4);
    store.command("d", "put", &document).unwrap();
    for _ in 0..2000 {
        let patch = random.object(4);
        expected(&mut document, &patch);
        store.command("d", "merge-patch", &patch).unwrap();
        assert_eq!(
            store.query("d", "", &[]).unwrap(),
            document,
            "after {patch}"
        );
    }
    assert_eq!(store.version("d"), Some(2001));
    store.assert_deterministic();
}
