//! Counts the records of each key, as `counter` does, and publishes each count under the same key.
//!
//! For tests of the host: whatever is published twice, not at all, or in another order, shows in the owned
//! topic alone. A word in each record, from the parameters, tells which deployment made it.

use foldhost_sdk::{
    Configure, Event, Json, NoArguments, Outputs, Queries, Query, Raw, Reject, Republisher,
};
use serde::{Deserialize, Serialize};

pub struct RunningCount;

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Count {
    count: u64,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    count: u64,
    word: String,
}

#[derive(Debug, Deserialize)]
pub struct Parameters {
    #[serde(default = "counted")]
    word: String,
}

fn counted() -> String {
    "counted".to_owned()
}

impl Configure for RunningCount {
    type Parameters = Parameters;
}

impl Republisher for RunningCount {
    type State = Json<Count>;
    type Event = Raw;
    type Output = Json<Counted>;

    fn react(
        state: &mut Option<Json<Count>>,
        event: &Event<Raw>,
        out: &mut Outputs<Json<Counted>>,
    ) -> Result<(), Reject> {
        let state = state.get_or_insert_default();
        state.count += 1;
        let counted = Counted {
            count: state.count,
            word: Self::parameters().word.clone(),
        };
        out.emit(event.key(), &Json(counted));
        Ok(())
    }
}

impl Query for RunningCount {
    fn queries(on: &mut Queries<Self>) {
        on.default("How many records this key has had")
            .answer(|question, NoArguments {}| Ok(question.state()?.0));
    }
}

foldhost_sdk::export!(RunningCount: Republisher + Query + Configure);

#[cfg(test)]
mod tests {
    use foldhost_sdk::Json;
    use foldhost_sdk::testing::{Driver, Record};
    use serde_json::json;

    use super::{Counted, RunningCount};

    fn record(key: &str, count: u64, word: &str) -> Record {
        let word = word.to_owned();
        Record::new(key, &Json(Counted { count, word }))
    }

    #[test]
    fn every_count_is_published_under_its_key() {
        let mut driver = Driver::<RunningCount>::configured(&[]).unwrap();
        let records = [
            Record::raw("a", *b"\xff\x00"),
            Record::raw("b", ""),
            Record::tombstone("a"),
        ];
        assert!(driver.send_all(records).is_empty());
        let expected = [
            record("a", 1, "counted"),
            record("b", 1, "counted"),
            record("a", 2, "counted"),
        ];
        assert_eq!(driver.outputs(), expected);
        assert_eq!(driver.query("a", "", &[]).unwrap(), json!({"count": 2}));
        driver.assert_deterministic();
    }

    #[test]
    fn the_word_is_a_parameter() {
        let mut driver = Driver::<RunningCount>::configured(&[("word", "other")]).unwrap();
        let published = driver.react(Record::raw("a", "")).unwrap();
        assert_eq!(published, [record("a", 1, "other")]);
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn a_record_that_comes_twice_shows() {
        let mut driver = Driver::<RunningCount>::configured(&[]).unwrap();
        driver.send(Record::raw("a", "")).unwrap();
        driver.assert_idempotent_outputs();
    }
}
