//! What a republisher may emit, and what is refused.

use super::*;
use crate::plugin::{BytesColumn, OptionalColumn};

const EVENTS: usize = 4;

/// A record for each cause, with one header.
fn records(causes: &[u32]) -> Emitted {
    let mut records = Emitted {
        causes: causes.to_vec(),
        timestamps_ms: Some(vec![7; causes.len()]),
        headers: Some(HeadersColumn::default()),
        ..Emitted::default()
    };
    for (index, _) in causes.iter().enumerate() {
        records.keys.push(b"key");
        records.values.push((index > 0).then_some(b"value"));
        let headers = records.headers.as_mut().unwrap();
        headers.counts.push(1);
        headers.names.push("naïve".as_bytes());
        headers.values.push(None);
    }
    records
}

fn rejection(index: u32) -> Rejection {
    Rejection {
        index,
        code: "bad-event".to_owned(),
        reason: String::new(),
    }
}

fn check(records: Emitted) -> Result<Emitted, CallError> {
    emitted(records, &[rejection(0), rejection(2)], EVENTS)
}

/// What is said of broken columns.
fn broken(change: impl FnOnce(&mut Emitted)) -> String {
    let mut records = records(&[1, 1, 3]);
    change(&mut records);
    match check(records) {
        Err(CallError::BadColumns(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn headers(records: &mut Emitted) -> &mut HeadersColumn {
    records.headers.as_mut().unwrap()
}

#[test]
fn good_records_pass_unchanged() {
    for good in [
        records(&[1, 1, 3]),
        records(&[]),
        Emitted {
            timestamps_ms: None,
            headers: None,
            ..records(&[3, 3])
        },
        Emitted::default(),
    ] {
        assert_eq!(check(good.clone()), Ok(good));
    }
}

#[test]
fn causes_are_events_in_order_that_were_not_rejected() {
    for (causes, said) in [
        ([1, 3, 1], "causes never decrease"),
        ([1, 1, 4], "record 2 is caused by event 4, but there are 4"),
        ([0, 1, 1], "event 0, which is rejected"),
        (
            [1, 2, 3],
            "record 1 is caused by event 2, which is rejected",
        ),
    ] {
        let text = broken(|records| records.causes = causes.to_vec());
        assert!(text.contains(said), "{causes:?}: {text}");
    }
}

#[test]
fn every_column_has_one_item_for_each_record() {
    type Change = fn(&mut Emitted);
    let changes: [(&str, Change); 12] = [
        ("3 records, but 2 ends of keys", |it| it.keys.truncate(2)),
        ("3 records, but 2 ends and 3 marks of values", |it| {
            it.values.items.truncate(2);
        }),
        ("3 records, but 3 ends and 4 marks of values", |it| {
            it.values.marks.push(0);
        }),
        ("3 records, but 2 timestamps", |it| {
            it.timestamps_ms.as_mut().unwrap().truncate(2);
        }),
        ("3 records, but 4 header counts", |it| {
            headers(it).counts.push(0);
        }),
        ("make 4 together, but there are 3 names", |it| {
            headers(it).counts[0] = 2;
        }),
        ("make 4294967297 together", |it| {
            headers(it).counts[0] = u32::MAX;
        }),
        ("3 headers, but 2 ends and 2 marks of header values", |it| {
            headers(it).values.items.truncate(2);
            headers(it).values.marks.truncate(2);
        }),
        ("the end of key 1 (2) lies before its begin (3)", |it| {
            it.keys.ends[1] = 2;
        }),
        ("the last key ends at 9 of 10 bytes", |it| {
            it.keys.data.push(b'x');
        }),
        ("the mark of value 1 is 2; 0 and 1 are known", |it| {
            it.values.marks[1] = 2;
        }),
        ("value 1 is marked 0, but it has bytes", |it| {
            it.values.marks[1] = 0;
        }),
    ];
    for (said, change) in changes {
        let text = broken(change);
        assert!(text.contains(said), "not '{said}': {text}");
    }
}

#[test]
fn a_headers_name_is_text_that_belongs_to_the_plugin() {
    let long = "x".repeat(limits::EMITTED_HEADER_NAME_BYTES_MAX + 1);
    for (name, said) in [
        (&b""[..], "has 0 bytes; it may have 1 to 1024"),
        (long.as_bytes(), "has 1025 bytes"),
        (b"\xff", "the name of header 2 is not UTF-8"),
        (b"a\0b", "zero byte"),
        (b"foldhost-cause", "header 2 is named 'foldhost-cause'"),
        (b"foldhost-", "belong to the host"),
    ] {
        let text = broken(|records| {
            let names = &mut headers(records).names;
            names.truncate(2);
            names.push(name);
        });
        assert!(text.contains(said), "{name:?}: {text}");
    }
    for name in ["foldhost", "Foldhost-Cause", &long[1..]] {
        let mut records = records(&[1]);
        headers(&mut records).names.clear();
        headers(&mut records).names.push(name.as_bytes());
        assert!(check(records).is_ok(), "{name}");
    }
}

#[test]
fn a_key_is_no_longer_than_keys_may_be() {
    let with_key = |bytes: usize| {
        let mut records = records(&[1]);
        records.keys.clear();
        records.keys.push(&vec![b'k'; bytes]);
        check(records)
    };
    assert!(with_key(0).is_ok());
    assert!(with_key(limits::KEY_BYTES_MAX).is_ok());
    let error = with_key(limits::KEY_BYTES_MAX + 1).unwrap_err();
    assert_eq!(
        error,
        CallError::BadColumns(
            "key 0 has 32769 bytes, more than the 32768 that a key may have".to_owned()
        )
    );
}

#[test]
fn one_call_emits_so_much_and_no_more() {
    let too_much = |result: Result<Emitted, CallError>, said: &str| {
        let error = result.unwrap_err();
        assert!(error.is_about_size(), "{error}");
        let text = error.to_string();
        assert!(text.contains(said), "{text}");
    };
    let max = limits::EMITTED_RECORDS_MAX;
    assert!(check(records(&vec![1; max])).is_ok());
    too_much(check(records(&vec![1; max + 1])), "made 65537 records");

    let with_value = |bytes: usize| {
        let mut large = records(&[1]);
        large.headers = None;
        large.values = OptionalColumn::default();
        large.values.push(Some(&vec![b'v'; bytes - 3]));
        check(large)
    };
    let max = limits::EMITTED_BYTES_MAX;
    assert!(with_value(max).is_ok());
    too_much(with_value(max + 1), "made 16777217 bytes of records");

    let with_headers = |count: usize| {
        let mut many = records(&[1]);
        let ends = (1..=u32::try_from(count).unwrap()).collect();
        let data = vec![b'h'; count];
        *headers(&mut many) = HeadersColumn {
            counts: vec![u32::try_from(count).unwrap()],
            names: BytesColumn { data, ends },
            values: OptionalColumn {
                items: BytesColumn {
                    data: Vec::new(),
                    ends: vec![0; count],
                },
                marks: vec![0; count],
            },
        };
        check(many)
    };
    let max = limits::EMITTED_HEADERS_MAX;
    assert!(with_headers(max).is_ok());
    too_much(with_headers(max + 1), "made 262145 headers");
}
