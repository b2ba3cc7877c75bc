//! The driver must find every kind of impurity, and the glue must keep its promises; of republishers, handlers and
//! routes in modules of their own.

mod command;
mod react;
mod route;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{Codec, CodecError, Event, Json, Migrate, Raw, Schemas};

/// Sums numbers; refuses to go below zero, after having changed the state.
struct Sum;

impl View for Sum {
    type State = Json<Vec<i64>>;
    type Event = Json<i64>;

    fn fold(state: &mut Option<Self::State>, event: &Event<'_, Json<i64>>) -> Result<(), Reject> {
        let Some(number) = event.value() else {
            *state = None;
            return Ok(());
        };
        crate::log::info(format_args!("adding {}", number.0));
        let numbers = state.get_or_insert_default();
        numbers.push(number.0);
        match numbers.iter().sum::<i64>() {
            0.. => Ok(()),
            sum => Err(Reject::new("negative", format!("the sum would be {sum}"))),
        }
    }
}

fn number(key: &str, number: i64) -> Record {
    Record::new(key, &Json(number))
}

#[test]
fn a_rejected_record_leaves_no_trace() {
    let mut driver = Driver::<Sum>::new();
    let rejected = driver.send_all([
        number("a", -1),
        number("a", 5),
        number("b", -2),
        number("a", -7),
        number("a", -8),
        Record::raw("a", "no number"),
        number("a", -3),
        number("a", -4),
        number("b", 9),
    ]);
    let codes: Vec<_> = rejected
        .iter()
        .map(|r| (r.record, r.reject.code()))
        .collect();
    assert_eq!(
        codes,
        [
            (0, "negative"),
            (2, "negative"),
            (3, "negative"),
            (4, "negative"),
            (5, "bad-event"),
            (7, "negative")
        ]
    );
    assert_eq!(driver.state("a"), Some(Json(vec![5, -3])));
    assert_eq!(driver.state("b"), Some(Json(vec![9])));
    assert_eq!(driver.rejections().len(), 6);
    // Folding again after a rejection is no event of its own.
    let added = |n: &str| {
        driver
            .logs()
            .iter()
            .filter(|(_, line)| *line == format!("adding {n}"))
            .count()
    };
    assert_eq!((added("5"), added("-3"), added("9")), (1, 1, 1));
    driver.assert_deterministic();
}

#[test]
fn a_key_whose_only_record_is_rejected_has_no_state() {
    let mut driver = Driver::<Sum>::new();
    assert_eq!(driver.send(number("a", -1)).unwrap_err().code(), "negative");
    assert!(driver.states().is_empty());
    driver.send(number("a", 1)).unwrap();
    driver.send_all([Record::tombstone("a"), number("a", -1)]);
    assert!(driver.states().is_empty());
    driver.assert_deterministic();
}

#[test]
#[should_panic(expected = "differs")]
fn a_sum_is_not_idempotent() {
    let mut driver = Driver::<Sum>::new();
    driver.send(number("a", 1)).unwrap();
    driver.assert_idempotent();
}

/// A view whose state is the text that `f` makes of every event.
macro_rules! texts {
    ($name:ident, $event:ident, $text:expr) => {
        struct $name;
        impl View for $name {
            type State = Raw;
            type Event = Raw;
            fn fold(state: &mut Option<Raw>, $event: &Event<'_, Raw>) -> Result<(), Reject> {
                let text: String = $text;
                let state = state.get_or_insert_default();
                state.0.extend_from_slice(text.as_bytes());
                Ok(())
            }
        }
    };
}

fn check<V: View>() {
    let mut driver = Driver::<V>::new();
    for position in 0..6 {
        let key = ["a", "b"][position % 2];
        driver.send(Record::raw(key, position.to_string())).unwrap();
    }
    driver.assert_deterministic();
}

static COUNTED: AtomicU64 = AtomicU64::new(0);
texts!(
    Counter,
    _event,
    COUNTED.fetch_add(1, Ordering::Relaxed).to_string()
);

#[test]
#[should_panic(expected = "must depend on its arguments only")]
fn a_global_counter_is_found() {
    check::<Counter>();
}

thread_local! {
    static PARITY: Cell<bool> = const { Cell::new(false) };
    static SEEN: RefCell<BTreeSet<Vec<u8>>> = const { RefCell::new(BTreeSet::new()) };
    static PREVIOUS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
texts!(Parity, _event, PARITY.replace(!PARITY.get()).to_string());

#[test]
#[should_panic(expected = "must depend on its arguments only")]
fn a_hidden_parity_is_found() {
    check::<Parity>();
}

texts!(Seen, event, {
    let value = event.value().map(|raw| raw.0.clone()).unwrap_or_default();
    SEEN.with_borrow_mut(|seen| seen.insert(value)).to_string()
});

#[test]
#[should_panic(expected = "must depend on its arguments only")]
fn a_hidden_set_of_what_was_seen_is_found() {
    check::<Seen>();
}

texts!(Previous, event, {
    let previous = PREVIOUS.replace(event.key().to_vec());
    String::from_utf8_lossy(&previous).into_owned()
});

#[test]
#[should_panic(expected = "must depend on its arguments only")]
fn a_look_at_the_neighbour_is_found() {
    check::<Previous>();
}

#[allow(
    clippy::disallowed_methods,
    reason = "what a view must not do, shown to be caught"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
texts!(Clock, _event, format!("{:?}", now()));

#[test]
#[should_panic(expected = "must depend on its arguments only")]
fn a_clock_is_found() {
    check::<Clock>();
}

/// Keeps its values in a map without order.
struct Unordered;

impl View for Unordered {
    type State = Json<HashMap<String, u32>>;
    type Event = Raw;
    fn fold(state: &mut Option<Self::State>, _event: &Event<'_, Raw>) -> Result<(), Reject> {
        let map = state.get_or_insert_default();
        let next = map.len() as u32;
        map.insert(format!("{next}"), next);
        Ok(())
    }
}

#[test]
#[should_panic(expected = "must depend on its arguments only")]
fn a_hash_map_is_found() {
    let mut driver = Driver::<Unordered>::new();
    for _ in 0..16 {
        driver.send(Record::raw("a", "")).unwrap();
    }
    driver.assert_deterministic();
}

/// A state with a part that the codec does not write.
#[derive(Default)]
struct Forgetful {
    written: u8,
    not_written: u8,
}

impl Codec for Forgetful {
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let [written] = bytes else {
            return Err(CodecError::new("one byte"));
        };
        Ok(Self {
            written: *written,
            not_written: 0,
        })
    }
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.written);
    }
}

struct Forgets;

impl View for Forgets {
    type State = Forgetful;
    type Event = Raw;
    fn fold(state: &mut Option<Forgetful>, _event: &Event<'_, Raw>) -> Result<(), Reject> {
        let state = state.get_or_insert_default();
        state.not_written += 1;
        state.written = state.not_written;
        Ok(())
    }
}

#[test]
#[should_panic(expected = "must depend on its arguments only")]
fn a_codec_that_loses_something_is_found() {
    check::<Forgets>();
}

#[test]
#[should_panic(expected = "cannot be decoded: one byte")]
fn a_state_that_cannot_be_read_is_a_trap() {
    let mut driver = Driver::<Forgets>::new();
    driver
        .partition
        .states
        .insert(b"a".to_vec(), b"xx".to_vec());
    let _ = driver.send(Record::raw("a", ""));
}

/// Writes down all that an event tells.
struct Told;

impl View for Told {
    type State = Json<Vec<String>>;
    type Event = Raw;
    fn fold(state: &mut Option<Self::State>, event: &Event<'_, Raw>) -> Result<(), Reject> {
        let headers = event.headers().map(|header| {
            let value = header.value.map(|v| v.escape_ascii().to_string());
            format!("{}={value:?}", header.name.escape_ascii())
        });
        let headers: Vec<_> = headers.collect();
        state.get_or_insert_default().push(format!(
            "{} @{:?} input {} partition {} at {} x={:?} {headers:?}",
            event.key_str()?,
            event.offset(),
            event.input(),
            event.partition(),
            event.timestamp(),
            event.header_str("x"),
        ));
        Ok(())
    }
}

#[test]
fn an_event_tells_all_it_knows() {
    let mut driver = Driver::<Told>::new();
    let rejected = driver.send_all([
        Record::raw("a", ""),
        Record::raw("b", "")
            .at(1500)
            .input(1)
            .header("x", "1")
            .null_header("y")
            .header("x", "2"),
        Record::tombstone("a").header("z", *b"\xff"),
        Record::raw(*b"\xff", ""),
    ]);
    assert_eq!(rejected[0].reject.code(), "bad-key");
    assert_eq!(
        driver.state("a").unwrap().0,
        [
            "a @Some(0) input 0 partition 0 at 1970-01-01T00:00:00Z x=None []",
            r#"a @Some(2) input 0 partition 0 at 1970-01-01T00:00:00Z x=None ["z=Some(\"\\\\xff\")"]"#,
        ]
    );
    assert_eq!(
        driver.state("b").unwrap().0,
        [
            r#"b @Some(1) input 1 partition 0 at 1970-01-01T00:00:01.500Z x=Some("2") ["x=Some(\"1\")", "y=None", "x=Some(\"2\")"]"#
        ]
    );
}

#[test]
fn a_state_that_stays_the_same_is_unchanged() {
    struct Constant;
    impl View for Constant {
        type State = Raw;
        type Event = Raw;
        fn fold(state: &mut Option<Raw>, event: &Event<'_, Raw>) -> Result<(), Reject> {
            *state = event.value().cloned();
            Ok(())
        }
    }
    let mut driver = Driver::<Constant>::new();
    driver.send(Record::raw("a", "1")).unwrap();
    driver.send(Record::raw("a", "1")).unwrap();
    assert_eq!(driver.partition.changes[&b"a"[..]].offset, 0);
    driver.send(Record::raw("a", "")).unwrap();
    assert_eq!(driver.partition.changes[&b"a"[..]].offset, 2);
    assert_eq!(driver.state_bytes("a"), Some(&b""[..]));
    driver.assert_idempotent();
}

/// Numbers as eight bytes; they were JSON before, and hexadecimal at first.
struct Binary;

#[derive(Debug, PartialEq)]
struct Eight(u64);

impl Codec for Eight {
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let bytes = bytes.try_into();
        let bytes = bytes.map_err(|_| CodecError::new("a number has eight bytes"))?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }
}

impl View for Binary {
    type State = Eight;
    type Event = Raw;
    fn fold(state: &mut Option<Eight>, _event: &Event<'_, Raw>) -> Result<(), Reject> {
        state.get_or_insert(Eight(0)).0 += 1;
        Ok(())
    }
}

thread_local! {
    static MIGRATED: Cell<u64> = const { Cell::new(0) };
}

impl Migrate for Binary {
    fn schemas(from: &mut Schemas<'_, Self>) {
        from.schema("n/2", |_, number: Json<u64>| {
            Ok((number.0 > 0).then_some(Eight(number.0)))
        });
        from.schema("n/1", |key, text: Raw| {
            crate::log::info(format_args!("reading {}", key.escape_ascii()));
            let text = String::from_utf8_lossy(&text.0).into_owned();
            let number = u64::from_str_radix(&text, 16);
            Ok(Some(Eight(
                number.map_err(|_| format!("`{text}` is no number"))?,
            )))
        });
        from.schema("n/impure", |_, _: Raw| {
            Ok(Some(Eight(MIGRATED.replace(MIGRATED.get() + 1))))
        });
    }
}

#[test]
fn states_are_migrated_and_folded_on() {
    let mut driver = Driver::<Binary>::new();
    driver
        .migrate("n/2", [("a", "41"), ("b", "0"), ("c", "7")])
        .unwrap();
    assert_eq!(driver.states().len(), 2, "b has no state any more");
    driver.send(Record::raw("a", "")).unwrap();
    driver.send(Record::raw("b", "")).unwrap();
    let numbers = ["a", "b", "c"].map(|key| driver.state(key));
    assert_eq!(numbers, [Some(Eight(42)), Some(Eight(1)), Some(Eight(7))]);
    driver.assert_deterministic();
}

#[test]
fn states_of_another_driver_are_migrated() {
    let mut old = Driver::<Sum>::new();
    old.send(number("a", 5)).unwrap();
    let mut driver = Driver::<Binary>::new();
    driver.migrate("n/1", [("c", "ff"), ("a", "1")]).unwrap();
    let error = driver.migrate("n/2", old.states()).unwrap_err();
    assert!(
        error.starts_with("the state of key `a` (3 bytes) cannot be migrated: "),
        "{error}"
    );
    assert_eq!(
        driver.state("c"),
        Some(Eight(255)),
        "an error changes nothing"
    );
    assert!(driver.logs().iter().any(|(_, line)| line == "reading c"));
    driver.migrate("n/2", [("c", "0")]).unwrap();
    assert_eq!(driver.states().len(), 1);
}

#[test]
fn a_schema_that_is_not_known_is_refused() {
    let nothing: [(&str, &str); 0] = [];
    let error = Driver::<Binary>::new().migrate("n/9", nothing).unwrap_err();
    assert_eq!(
        error,
        "states of schema `n/9` cannot be read; known are `n/2`, `n/1`, `n/impure`"
    );
}

#[test]
#[should_panic(expected = "must depend on key and state only")]
fn a_migration_that_counts_is_found() {
    let _ = Driver::<Binary>::new().migrate("n/impure", [("a", ""), ("b", "")]);
}

#[test]
#[should_panic(expected = "before anything is folded")]
fn nothing_is_migrated_after_a_record() {
    let mut driver = Driver::<Binary>::new();
    driver.send(Record::raw("a", "")).unwrap();
    let _ = driver.migrate("n/2", [("a", "1")]);
}
