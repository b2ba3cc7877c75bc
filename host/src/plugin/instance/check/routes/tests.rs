//! Which keys a record may be routed to, and which are refused.

use super::*;
use crate::plugin::{BytesColumn, OptionalColumn, Rejection};

/// As many records, each with a value of so many bytes and a header of ten.
fn records(count: usize, value_bytes: usize) -> RouteInput {
    let mut records = RouteInput::default();
    let mut headers = HeadersColumn::default();
    for _ in 0..count {
        records.inputs.push(0);
        records.keys.push(None);
        records.values.push(Some(&vec![b'v'; value_bytes]));
        records.timestamps_ms.push(0);
        headers.counts.push(1);
        headers.names.push(b"trace");
        headers.values.push(Some(b"value"));
    }
    records.headers = Some(headers);
    records
}

fn routed(causes: &[u32], rejected: &[u32]) -> Routes {
    let mut keys = BytesColumn::default();
    for _ in causes {
        keys.push(b"key");
    }
    let rejection = |&index: &u32| Rejection {
        index,
        code: "no-carrier".to_owned(),
        reason: "r".repeat(2_000),
    };
    Routes {
        causes: causes.to_vec(),
        keys,
        rejected: rejected.iter().map(rejection).collect(),
    }
}

/// What is said of keys for four records.
fn broken(answer: Routes) -> String {
    match routes(answer, &records(4, 1)) {
        Err(CallError::BadColumns(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_has_any_number_of_keys() {
    for causes in [&[][..], &[3], &[0, 0, 2, 3, 3, 3]] {
        let answer = routed(causes, &[]);
        assert_eq!(routes(answer.clone(), &records(4, 1)), Ok(answer));
    }
    let answer = routes(routed(&[0, 2], &[1, 3]), &records(4, 1)).unwrap();
    assert_eq!(answer.causes, [0, 2]);
    let reason = &answer.rejected[1].reason;
    assert_eq!(reason.len(), limits::PLUGIN_REASON_BYTES_MAX, "it is cut");
}

#[test]
fn broken_routes_are_refused() {
    for (answer, said) in [
        (
            routed(&[0, 4], &[]),
            "key 1 is caused by record 4, but there are 4",
        ),
        (routed(&[2, 1], &[]), "causes never decrease"),
        (
            routed(&[0, 1], &[1]),
            "key 1 is caused by record 1, which is rejected",
        ),
        (routed(&[], &[4]), "record 4 is rejected, but there are 4"),
        (routed(&[], &[2, 2]), "rejected records are not in order"),
    ] {
        let text = broken(answer);
        assert!(text.contains(said), "not '{said}': {text}");
    }
    let mut short = routed(&[0, 1], &[]);
    short.keys.ends.pop();
    assert!(broken(short).contains("2 causes, but 1 ends of keys"));
    let mut decreasing = routed(&[0, 1], &[]);
    decreasing.keys.ends.swap(0, 1);
    assert!(broken(decreasing).contains("the end of key 1 (3) lies before its begin (6)"));
    let mut long = routed(&[0], &[]);
    long.keys.clear();
    long.keys.push(&vec![b'k'; limits::KEY_BYTES_MAX + 1]);
    assert!(broken(long).contains("key 0 has 32769 bytes"));
}

#[test]
fn the_copies_of_one_call_are_bounded() {
    let too_much = |answer: Routes, records: &RouteInput, said: &str| {
        let error = routes(answer, records).unwrap_err();
        assert!(error.is_about_size(), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    };
    let max = limits::ROUTED_KEYS_MAX;
    let few = records(1, 1);
    assert!(routes(routed(&vec![0; max], &[]), &few).is_ok());
    too_much(routed(&vec![0; max + 1], &[]), &few, "65537 keys");

    // Each copy has a key of 3 bytes, a value and headers of 10; the first record is not copied.
    let copies = 32;
    let value_bytes = limits::ROUTED_BYTES_MAX / copies - 13;
    let many = vec![1; copies];
    assert!(routes(routed(&many, &[]), &records(2, value_bytes)).is_ok());
    too_much(
        routed(&many, &[]),
        &records(2, value_bytes + 1),
        "33554464 bytes of routed records",
    );
}

#[test]
fn a_record_may_be_without_value_and_headers() {
    let mut bare = records(1, 1);
    bare.headers = None;
    bare.values = OptionalColumn::default();
    bare.values.push(None);
    assert!(routes(routed(&[0, 0], &[]), &bare).is_ok());
}
