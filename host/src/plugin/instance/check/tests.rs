//! What a component may return, and what is refused.

use super::*;

const LIMITS: Limits = Limits {
    memory_bytes: 1 << 20,
    fuel_per_call: 1,
    state_bytes: 4,
    answer_bytes: 4,
};

fn states(data: &[u8], ends: &[u32], marks: &[u8]) -> OptionalColumn {
    OptionalColumn {
        items: BytesColumn {
            data: data.to_vec(),
            ends: ends.to_vec(),
        },
        marks: marks.to_vec(),
    }
}

fn rejection(index: u32) -> Rejection {
    Rejection {
        index,
        code: "bad-event".to_owned(),
        reason: "because".to_owned(),
    }
}

fn check(states: OptionalColumn, keys: usize) -> Result<Folded, CallError> {
    folded(states, Vec::new(), keys, 9, &LIMITS)
}

#[test]
fn good_columns_pass_unchanged() {
    let column = states(b"abcd", &[1, 1, 4, 4, 4], &[1, 2, 1, 0, 1]);
    let checked = folded(
        column.clone(),
        vec![rejection(0), rejection(8)],
        5,
        9,
        &LIMITS,
    );
    let checked = checked.unwrap();
    assert_eq!(checked.states, column);
    assert_eq!(checked.rejected.len(), 2);
    assert!(check(states(b"", &[], &[]), 0).is_ok());
}

#[test]
fn broken_columns_are_refused() {
    for (what, column) in [
        ("too few ends", states(b"ab", &[2], &[1, 0])),
        ("too few marks", states(b"ab", &[1, 2], &[1])),
        ("too many items", states(b"ab", &[1, 2, 2], &[1, 1, 1])),
        ("ends decrease", states(b"ab", &[2, 1], &[1, 1])),
        ("ends stop short", states(b"abc", &[1, 2], &[1, 1])),
        ("ends beyond data", states(b"a", &[1, 2], &[1, 1])),
        ("unknown mark", states(b"ab", &[1, 2], &[1, 3])),
        ("absent with bytes", states(b"ab", &[1, 2], &[1, 0])),
        ("unchanged with bytes", states(b"ab", &[1, 2], &[2, 1])),
    ] {
        assert!(
            matches!(check(column, 2), Err(CallError::BadColumns(_))),
            "{what}"
        );
    }
}

#[test]
fn migrated_states_are_present_or_absent() {
    let check = |column| migrated(column, 2, &LIMITS);
    let good = states(b"ab", &[2, 2], &[1, 0]);
    assert_eq!(check(good.clone()), Ok(good));
    assert!(migrated(states(b"", &[], &[]), 0, &LIMITS).is_ok());
    for (what, column) in [
        ("unchanged", states(b"ab", &[2, 2], &[1, 2])),
        ("too few", states(b"ab", &[2], &[1])),
        ("too many", states(b"ab", &[2, 2, 2], &[1, 0, 0])),
        ("ends decrease", states(b"ab", &[2, 1], &[1, 1])),
    ] {
        let error = check(column).unwrap_err();
        assert!(matches!(error, CallError::BadColumns(_)), "{what}: {error}");
    }
    let error = check(states(b"abbbbb", &[1, 6], &[1, 1])).unwrap_err();
    assert!(
        matches!(
            error,
            CallError::StateTooLarge {
                key_index: 1,
                bytes: 5,
                ..
            }
        ),
        "{error}"
    );
    assert!(reason("x".repeat(9_999)).len() <= limits::PLUGIN_REASON_BYTES_MAX);
}

#[test]
fn a_too_large_state_is_named_by_its_key() {
    let error = check(states(b"aabbbbb", &[2, 7], &[1, 1]), 2).unwrap_err();
    assert_eq!(
        error,
        CallError::StateTooLarge {
            key_index: 1,
            bytes: 5,
            bytes_max: 4
        }
    );
    assert!(check(states(b"aaaabbbb", &[4, 8], &[1, 1]), 2).is_ok());
}

#[test]
fn rejections_are_in_range_in_order_and_short() {
    let with = |rejected| folded(states(b"", &[0], &[0]), rejected, 1, 3, &LIMITS);
    assert!(with(vec![rejection(0), rejection(2)]).is_ok());
    for (what, bad) in [
        ("out of range", vec![rejection(3)]),
        ("twice", vec![rejection(1), rejection(1)]),
        ("back", vec![rejection(2), rejection(1)]),
        (
            "code",
            vec![Rejection {
                code: "Bad Event".to_owned(),
                ..rejection(0)
            }],
        ),
        (
            "no code",
            vec![Rejection {
                code: String::new(),
                ..rejection(0)
            }],
        ),
    ] {
        assert!(matches!(with(bad), Err(CallError::BadColumns(_))), "{what}");
    }
    let long = Rejection {
        reason: "ä".repeat(5_000),
        ..rejection(0)
    };
    let reason = &with(vec![long]).unwrap().rejected[0].reason;
    assert_eq!(reason.len(), limits::PLUGIN_REASON_BYTES_MAX);
}

#[test]
fn answers_are_bounded_and_have_a_type() {
    let answer = |body: &[u8], content_type: &str| {
        payload(
            Payload {
                content_type: content_type.to_owned(),
                body: body.to_vec(),
            },
            &LIMITS,
        )
    };
    assert!(answer(b"1234", "application/json; charset=utf-8").is_ok());
    assert_eq!(
        answer(b"12345", "application/json"),
        Err(CallError::AnswerTooLarge {
            bytes: 5,
            bytes_max: 4
        })
    );
    for bad in ["", "a\r\nset-cookie: b", &"a".repeat(257)] {
        assert!(
            matches!(answer(b"", bad), Err(CallError::BadColumns(_))),
            "{bad}"
        );
    }
    assert!(query_error(QueryError::Other("no route".to_owned(), String::new())).is_err());
    assert!(query_error(QueryError::Other("no-route".to_owned(), String::new())).is_ok());
}

#[test]
fn operations_have_distinct_names() {
    let named = |name: &str| Operation {
        name: name.to_owned(),
        ..Operation::default()
    };
    assert!(operations(&[named(""), named("by-day")]).is_ok());
    assert!(operations(&[named("a"), named("a")]).is_err());
    assert!(operations(&[named("By Day")]).is_err());
    assert!(operations(&vec![named(""); limits::PLUGIN_OPERATIONS_MAX + 1]).is_err());
    assert!(commands(&[named("open"), named("close")]).is_ok());
    assert!(commands(&[named("open"), named("open")]).is_err());
    assert_eq!(
        commands(&[named("")]),
        Err("it offers a command without a name".to_owned())
    );
}
