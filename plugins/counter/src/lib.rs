//! Counts the records of each key, tombstones and all, whatever they hold.
//!
//! Deliberately not idempotent: whatever is folded twice, or not at all, shows. For tests of the host.

use foldhost_sdk::{Event, Json, NoArguments, Queries, Query, Raw, Reject, View};
use serde::{Deserialize, Serialize};

pub struct Counter;

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Count {
    count: u64,
}

impl View for Counter {
    type State = Json<Count>;
    type Event = Raw;

    fn fold(state: &mut Option<Json<Count>>, _event: &Event<Raw>) -> Result<(), Reject> {
        state.get_or_insert_default().count += 1;
        Ok(())
    }
}

impl Query for Counter {
    fn queries(on: &mut Queries<Self>) {
        on.default("How many records this key has had")
            .answer(|question, NoArguments {}| Ok(question.state()?.0));
    }
}

foldhost_sdk::export!(Counter: View + Query);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};
    use serde_json::json;

    use super::Counter;

    #[test]
    fn every_record_counts() {
        let mut driver = Driver::<Counter>::new();
        driver.send(Record::raw("a", *b"\xff\x00")).unwrap();
        driver.send(Record::tombstone("a")).unwrap();
        driver.send(Record::raw("b", "")).unwrap();
        assert_eq!(driver.query("a", "", &[]).unwrap(), json!({"count": 2}));
        assert_eq!(driver.query("b", "", &[]).unwrap(), json!({"count": 1}));
        driver.assert_deterministic();
    }

    #[test]
    #[should_panic(expected = "differs")]
    fn a_record_that_comes_twice_shows() {
        let mut driver = Driver::<Counter>::new();
        driver.send(Record::raw("a", "")).unwrap();
        driver.assert_idempotent();
    }
}
