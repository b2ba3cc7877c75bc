//! What a command may cause, how it may be refused, and what is not believed.

use super::*;
use crate::plugin::Payload;

const KEY: &[u8] = b"key";
const LIMITS: Limits = Limits {
    memory_bytes: 1 << 20,
    fuel_per_call: 1,
    state_bytes: 4,
    answer_bytes: 4,
};

fn event(value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> EventOut {
    let headers = headers.iter();
    EventOut {
        value: value.map(<[u8]>::to_vec),
        headers: headers
            .map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec)))
            .collect(),
    }
}

fn of(events: Vec<EventOut>) -> Decision {
    Decision {
        events,
        reply: None,
    }
}

fn check(events: Vec<EventOut>) -> Result<Decision, CallError> {
    decision(of(events), KEY, &LIMITS)
}

fn replied(content_type: &str, body: &[u8]) -> Decision {
    let reply = Payload {
        content_type: content_type.to_owned(),
        body: body.to_vec(),
    };
    Decision {
        events: vec![event(Some(b"value"), &[])],
        reply: Some(reply),
    }
}

fn refused(code: &str, reason: &str, details: &str) -> Refusal {
    Refusal::Refused {
        code: code.to_owned(),
        reason: reason.to_owned(),
        details: details.to_owned(),
    }
}

#[track_caller]
fn too_much<T: std::fmt::Debug>(result: Result<T, CallError>, said: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, CallError::TooMuch { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(said), "not '{said}': {text}");
}

#[track_caller]
fn broken<T: std::fmt::Debug>(result: Result<T, CallError>, said: &str) {
    let error = result.unwrap_err();
    assert!(
        matches!(&error, CallError::BadColumns(text) if text.contains(said)),
        "not '{said}': {error:?}"
    );
}

#[test]
fn good_decisions_pass_unchanged() {
    let headers: [(&str, Option<&[u8]>); 3] =
        [("unit", Some(b"EUR")), ("unit", None), ("naïve", Some(b""))];
    for good in [
        Decision::default(),
        of(vec![event(Some(b""), &[]), event(None, &headers)]),
        replied("application/json", b"1234"),
    ] {
        assert_eq!(decision(good.clone(), KEY, &LIMITS), Ok(good));
    }
}

#[test]
fn one_command_causes_so_much_and_no_more() {
    let max = limits::COMMAND_EVENTS_MAX;
    assert!(check(vec![event(None, &[]); max]).is_ok());
    too_much(check(vec![event(None, &[]); max + 1]), "made 1001 events");

    let sized = |bytes: usize| check(vec![event(Some(&vec![b'v'; bytes - KEY.len()]), &[])]);
    let max = limits::COMMAND_EVENTS_BYTES_MAX;
    assert!(sized(max).is_ok());
    too_much(sized(max + 1), "made 1048577 bytes of events");

    // The key counts for each event, and so do the headers of each.
    let key = vec![b'k'; limits::KEY_BYTES_MAX];
    let all = |count: usize| decision(of(vec![event(None, &[]); count]), &key, &LIMITS);
    assert!(all(32).is_ok());
    too_much(all(33), "made 1081344 bytes of events");
    let value = vec![b'v'; (1 << 20) - 4];
    let header = |value| check(vec![event(None, &[("h", value)])]);
    assert!(header(Some(&value)).is_ok());
    too_much(header(Some(&[0; 1 << 20])), "bytes of events");

    let max = limits::COMMAND_HEADERS_MAX;
    let many = |count: usize| check(vec![event(None, &vec![("h", None); count / 2]); 2]);
    assert!(many(max).is_ok());
    too_much(many(max + 2), "made 16386 headers");
}

#[test]
fn a_header_belongs_to_the_plugin() {
    for (name, said) in [
        ("", "the name of header 1 has 0 bytes"),
        ("a\0b", "zero byte"),
        ("foldhost-version", "header 1 is named 'foldhost-version'"),
        ("foldhost-", "belong to the host"),
    ] {
        let events = vec![event(None, &[("a", None)]), event(None, &[(name, None)])];
        broken(check(events), said);
    }
    assert!(check(vec![event(None, &[("Foldhost-Version", None)])]).is_ok());
}

#[test]
fn a_reply_is_an_answer() {
    let error = decision(replied("text/plain", b"12345"), KEY, &LIMITS).unwrap_err();
    let (bytes, bytes_max) = (5, 4);
    assert_eq!(error, CallError::AnswerTooLarge { bytes, bytes_max });
    broken(
        decision(replied("a\r\nb", b""), KEY, &LIMITS),
        "not a content type",
    );
}

#[test]
fn good_refusals_pass_unchanged() {
    for good in [
        Refusal::UnknownCommand,
        Refusal::BadBody {
            field: String::new(),
            problem: "it is empty".to_owned(),
        },
        refused("sold-out", "", ""),
        refused("sold-out", "two are left", "{\"left\":2}"),
        refused("no", "", " [null, -1.5e300, \"ä\"]\n"),
    ] {
        assert_eq!(refusal(good.clone()), Ok(good));
    }
}

#[test]
fn a_refusal_has_a_code_and_details_that_are_json() {
    for code in ["", "Sold out", "sold_out", &"c".repeat(65)] {
        broken(refusal(refused(code, "", "")), "is not a code");
    }
    let deep = "[".repeat(1_000) + &"]".repeat(1_000);
    for details in [
        "{",
        "{} {}",
        "left: 2",
        "NaN",
        "1e999",
        "\"\\ud800\"",
        &*deep,
    ] {
        broken(refusal(refused("no", "", details)), "are not JSON");
    }
    let sized = |bytes: usize| refused("no", "", &format!("\"{}\"", "d".repeat(bytes - 2)));
    let max = limits::PLUGIN_DETAILS_BYTES_MAX;
    assert!(refusal(sized(max)).is_ok());
    too_much(refusal(sized(max + 1)), "made 16385 bytes of details");
}

#[test]
fn sentences_are_cut() {
    let long = "ä".repeat(5_000);
    let bad_body = Refusal::BadBody {
        field: long.clone(),
        problem: long.clone(),
    };
    let cut = "ä".repeat(limits::PLUGIN_REASON_BYTES_MAX / 2);
    assert_eq!(
        refusal(refused("no", &long, "")),
        Ok(refused("no", &cut, ""))
    );
    assert_eq!(
        refusal(bad_body),
        Ok(Refusal::BadBody {
            field: cut.clone(),
            problem: cut
        })
    );
}
