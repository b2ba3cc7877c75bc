//! Records get their keys before they are folded, from the plugin.

use super::*;
use crate::{Incoming, Keys, Outputs, Republisher, Route};

crate::inputs! {
    /// Words to count, and words to leave out.
    #[derive(Debug)]
    enum Text {
        Words(Raw),
        Ignored(Json<String>),
    }
}

/// Counts words: a record is folded under each of its words. Tells every count.
struct Words;

impl Route for Words {
    fn route(record: &Incoming<'_, Text>, keys: &mut Keys<'_>) -> Result<(), Reject> {
        match record.value() {
            None => keys.add(record.required_key()?),
            Some(Text::Ignored(word)) => keys.add(&word.0),
            Some(Text::Words(text)) => {
                for word in text.0.split(|byte| *byte == b' ') {
                    keys.add(word);
                    if word == b"?" {
                        return Err(Reject::new("no-word", "there is a question"));
                    }
                }
                if let Some(more) = record.header("more") {
                    keys.add(more);
                }
            }
        }
        Ok(())
    }
}

impl Republisher for Words {
    type State = Json<Vec<String>>;
    type Event = Text;
    type Output = Json<u64>;

    fn react(
        state: &mut Option<Self::State>,
        event: &Event<'_, Text>,
        out: &mut Outputs<'_, Json<u64>>,
    ) -> Result<(), Reject> {
        match event.value() {
            None => *state = None,
            Some(Text::Ignored(_)) => return Err(Reject::new("ignored", "not this one")),
            Some(Text::Words(_)) => {
                let from = event.record_key().map(|key| key.escape_ascii().to_string());
                let origin = event.origin().unwrap();
                let seen = state.get_or_insert_default();
                seen.push(format!("{from:?}@{}:{:?}", origin.offset, event.offset()));
                out.emit(event.key(), &Json(seen.len() as u64));
            }
        }
        Ok(())
    }
}

crate::export!(Words: Republisher + Route);

fn words(text: &str) -> Record {
    Record::raw("k", text)
}

fn count(word: &str, count: u64) -> Record {
    Record::new(word, &Json(count))
}

#[test]
fn a_record_is_folded_under_all_its_keys() {
    let mut driver = Driver::<Words>::new().routed();
    let rejected = driver.send_all([
        words("a b a"),
        words("b ? c"),
        words("b").without_key().header("more", "d"),
        Record::new("k", &Text::Ignored(Json("b".into()))),
        Record::tombstone("a"),
        Record::raw("k", "{").input(1),
        Record::tombstone("").without_key(),
    ]);
    let rejected: Vec<_> = rejected
        .iter()
        .map(|r| (r.record, r.key.as_slice(), r.reject.code()))
        .collect();
    assert_eq!(
        rejected,
        [
            (1, &b"k"[..], "no-word"),
            (3, b"b", "ignored"),
            (5, b"k", "bad-event"),
            (6, b"", "no-key"),
        ]
    );
    let outputs = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("d", 1)];
    assert_eq!(driver.outputs(), outputs.map(|(w, n)| count(w, n)));
    assert_eq!(
        driver.state("b").unwrap().0,
        [r#"Some("k")@0:Some(1)"#, "None@2:Some(3)"]
    );
    assert_eq!(driver.state("a"), None, "the tombstone is routed too");
    assert_eq!(driver.state("c"), None, "its record is rejected");
    driver.assert_deterministic();
}

#[test]
fn without_route_a_record_without_a_key_is_rejected() {
    let mut driver = Driver::<Sum>::new();
    let reject = driver.send(number("a", 1).without_key()).unwrap_err();
    assert_eq!(reject.code(), "no-key");
    driver.send(number("a", 1)).unwrap();
    driver.assert_deterministic();
}

thread_local! {
    static ROUTED: Cell<u32> = const { Cell::new(0) };
}

/// Routes in turn, whatever the record.
struct Turns;

impl View for Turns {
    type State = Raw;
    type Event = Raw;
    fn fold(state: &mut Option<Raw>, event: &Event<'_, Raw>) -> Result<(), Reject> {
        *state = event.value().cloned();
        Ok(())
    }
}

impl Route for Turns {
    fn route(_record: &Incoming<'_, Raw>, keys: &mut Keys<'_>) -> Result<(), Reject> {
        keys.add((ROUTED.replace(ROUTED.get() + 1) % 3).to_string());
        Ok(())
    }
}

#[test]
#[should_panic(expected = "must depend on its arguments only")]
fn a_route_that_depends_on_more_than_the_record_is_found() {
    let mut driver = Driver::<Turns>::new().routed();
    for n in ["1", "2", "3", "4"] {
        driver.send(Record::raw("k", n)).unwrap();
    }
    driver.assert_deterministic();
}

#[test]
#[should_panic(expected = "call `routed` first")]
fn records_are_routed_from_the_first_one() {
    let mut driver = Driver::<Turns>::new();
    driver.send(Record::raw("k", "1")).unwrap();
    let _ = driver.routed();
}
