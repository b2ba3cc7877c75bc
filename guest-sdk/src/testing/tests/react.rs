//! A republisher's records are as pure as its states, and come in the order of the events.

use super::*;
use crate::{NoArguments, Outputs, Queries, Republisher};

/// Sums numbers; tells every sum under the key of its last digit, and refuses odd sums after it has
/// changed the state and emitted two records.
struct Sums;

impl Republisher for Sums {
    type State = Json<i64>;
    type Event = Json<i64>;
    type Output = Json<i64>;

    fn react(
        state: &mut Option<Json<i64>>,
        event: &Event<'_, Json<i64>>,
        out: &mut Outputs<'_, Json<i64>>,
    ) -> Result<(), Reject> {
        let Some(number) = event.value() else {
            *state = None;
            out.tombstone(event.key()).null_header("gone");
            return Ok(());
        };
        let sum = state.get_or_insert_default();
        sum.0 += number.0;
        out.emit(sum.0 % 10, sum).header("of", event.key());
        if sum.0 % 2 != 0 {
            out.emit("odd", sum).at(Timestamp::from_millis(-1));
            return Err(Reject::new("odd", format!("{} is odd", sum.0)));
        }
        Ok(())
    }
}

fn sum(of: &str, sum: i64, at: i64) -> Record {
    Record::new(sum % 10, &Json(sum)).header("of", of).at(at)
}

#[test]
fn a_rejected_event_emits_nothing() {
    let mut driver = Driver::<Sums>::new();
    let rejected = driver.send_all([
        number("a", 3).at(1),
        number("a", 2).at(2),
        number("b", 4).at(3),
        number("a", 5).at(4),
        number("a", 12).at(5),
        Record::raw("a", "no number"),
        number("b", 1).at(6),
        Record::tombstone("b").at(7),
        number("a", 6).at(8),
    ]);
    let rejected: Vec<_> = rejected.iter().map(|r| r.record).collect();
    assert_eq!(rejected, [0, 3, 5, 6]);
    assert_eq!(
        driver.outputs(),
        [
            sum("a", 2, 2),
            sum("b", 4, 3),
            sum("a", 14, 5),
            Record::tombstone("b").null_header("gone").at(7),
            sum("a", 20, 8),
        ]
    );
    assert_eq!(driver.state("a"), Some(Json(20)));
    assert_eq!(driver.state("b"), None);
    driver.assert_deterministic();
}

#[test]
fn react_gives_what_one_record_causes() {
    let mut driver = Driver::<Sums>::new();
    assert_eq!(
        driver.react(number("a", 2).at(1)).unwrap(),
        [sum("a", 2, 1)]
    );
    assert_eq!(driver.react(number("a", 1)).unwrap_err().code(), "odd");
    assert_eq!(driver.outputs().len(), 1);
    let gone = &driver.react(Record::tombstone("a")).unwrap()[0];
    assert_eq!((gone.key(), gone.value()), (Some(&b"a"[..]), None));
    assert_eq!(gone.headers().next(), Some(("gone", None)));
}

#[test]
fn fold_is_react_without_its_records() {
    struct Both;
    impl View for Both {
        type State = Json<i64>;
        type Event = Json<i64>;
        fn fold(state: &mut Option<Json<i64>>, event: &Event<'_, Json<i64>>) -> Result<(), Reject> {
            <Sums as View>::fold(state, event)
        }
    }
    let numbers = || (0..20).map(|n| number(["a", "b", "c"][n % 3], n as i64));
    let (mut sums, mut both) = (Driver::<Sums>::new(), Driver::<Both>::new());
    assert_eq!(sums.send_all(numbers()), both.send_all(numbers()));
    assert_eq!(sums.states(), both.states());
    assert_eq!(sums.states().len(), 3);
}

/// A republisher that keeps the newest value, and emits what `emit` says.
macro_rules! republisher {
    ($name:ident, |$state:ident, $event:ident, $out:ident| $emit:expr) => {
        struct $name;
        impl Republisher for $name {
            type State = Raw;
            type Event = Raw;
            type Output = Raw;
            fn react(
                $state: &mut Option<Raw>,
                $event: &Event<'_, Raw>,
                $out: &mut Outputs<'_, Raw>,
            ) -> Result<(), Reject> {
                $emit;
                *$state = $event.value().cloned();
                Ok(())
            }
        }
    };
}

thread_local! {
    static EMITTED: Cell<u32> = const { Cell::new(0) };
}
republisher!(Numbering, |_state, _event, out| {
    let number = EMITTED.replace(EMITTED.get() + 1);
    out.emit(number.to_string(), &Raw::default())
});

#[test]
#[should_panic(expected = "output 0 (from 0) differs")]
fn a_hidden_number_in_an_output_is_found() {
    let mut driver = Driver::<Numbering>::new();
    driver.send(Record::raw("a", "")).unwrap();
    driver.assert_idempotent(); // the state is pure
    driver.assert_deterministic();
}

republisher!(Reserved, |_state, event, out| out
    .emit("k", event.required()?)
    .header("foldhost-plugin", "me"));

#[test]
#[should_panic(expected = "the header `foldhost-plugin` cannot be emitted")]
fn a_header_of_the_host_is_a_trap() {
    let _ = Driver::<Reserved>::new().send(Record::raw("a", ""));
}

// Tells the newest value with every event: the state is the same after a duplicate.
republisher!(Loud, |_state, event, out| out.emit("k", event.required()?));

// Tells it when it changes.
republisher!(Quiet, |state, event, out| {
    let value = event.required()?;
    if state.as_ref() != Some(value) {
        out.emit("k", value);
    }
});

#[test]
#[should_panic(expected = "a record that comes again must cause nothing")]
fn an_output_for_a_duplicate_is_found() {
    let mut driver = Driver::<Loud>::new();
    driver.send(Record::raw("a", "1")).unwrap();
    driver.assert_idempotent();
    driver.assert_deterministic();
    driver.assert_idempotent_outputs();
}

#[test]
fn a_republisher_that_is_silent_about_duplicates_passes() {
    let mut driver = Driver::<Quiet>::new();
    driver.send(Record::raw("a", "1")).unwrap();
    driver.send(Record::raw("b", "2")).unwrap();
    driver.assert_idempotent();
    driver.assert_idempotent_outputs();
}

#[test]
#[should_panic(expected = "the log twice")]
fn a_log_that_is_played_again_is_no_duplicate_in_a_row() {
    let mut driver = Driver::<Quiet>::new();
    driver.send(Record::raw("a", "1")).unwrap();
    driver.send(Record::raw("a", "2")).unwrap();
    driver.assert_idempotent_outputs();
}

/// A republisher can all that a view can.
struct Complete;

impl Republisher for Complete {
    type State = Json<u64>;
    type Event = Raw;
    type Output = Raw;
    fn react(
        state: &mut Option<Json<u64>>,
        event: &Event<'_, Raw>,
        out: &mut Outputs<'_, Raw>,
    ) -> Result<(), Reject> {
        let count = state.get_or_insert_default();
        count.0 += 1;
        if count.0 == Self::parameters().every {
            *state = None;
            out.emit(event.key_as::<i64>()?, event.required()?);
        }
        Ok(())
    }
}

#[derive(serde::Deserialize)]
struct Every {
    every: u64,
}

impl Configure for Complete {
    type Parameters = Every;
}

impl Query for Complete {
    fn queries(on: &mut Queries<'_, Self>) {
        on.default("How many have come")
            .answer(|question, NoArguments {}| Ok(question.state()?.0));
    }
}

impl Migrate for Complete {
    fn schemas(from: &mut Schemas<'_, Self>) {
        from.schema("complete/1", |_, text: Raw| {
            Ok(Some(Json(text.0.len() as u64)))
        });
    }
}

crate::export!(Complete: Republisher + Query + Migrate + Configure);

#[test]
fn a_republisher_is_asked_migrated_and_configured() {
    let mut driver = Driver::<Complete>::configured(&[("every", "3")]).unwrap();
    driver
        .migrate("complete/1", [(7_i64.to_key(), "1")])
        .unwrap();
    assert!(driver.react(Record::raw(7_i64, "x")).unwrap().is_empty());
    assert_eq!(driver.query(7_i64, "", &[]).unwrap(), 2);
    assert_eq!(
        driver.react(Record::raw(7_i64, "y")).unwrap(),
        [Record::raw(7_i64, "y")]
    );
    assert_eq!(driver.state(7_i64), None);
    for _ in 0..3 {
        driver.send_all([Record::raw("short", "z")]);
    }
    assert_eq!(driver.rejections()[0].reject.code(), "bad-key");
    assert_eq!(driver.outputs().len(), 1);
    driver.assert_deterministic();
}
