//! The newest JSON value of each key, and when it came: the ten-line plugin.

use foldhost_sdk::{Event, Json, NoArguments, Queries, Query, Reject, Timestamp, View};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub struct Latest;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Newest {
    value: Box<RawValue>, // as it came: no number is rounded, no field moves
    at: Timestamp,
}

impl View for Latest {
    type State = Json<Newest>;
    type Event = Json<Box<RawValue>>;

    fn fold(state: &mut Option<Self::State>, event: &Event<Self::Event>) -> Result<(), Reject> {
        let at = event.timestamp();
        *state = event.value().map(|value| {
            Json(Newest {
                value: value.0.clone(),
                at,
            })
        });
        Ok(())
    }
}

impl Query for Latest {
    fn queries(on: &mut Queries<Self>) {
        on.default("The newest value, and when it came")
            .answer(|question, NoArguments {}| Ok(question.state()?.0.clone()));
    }
}

foldhost_sdk::export!(Latest: View + Query);

#[cfg(test)]
mod tests {
    use foldhost_sdk::QueryError;
    use foldhost_sdk::testing::{Driver, Record};
    use serde_json::json;

    use super::Latest;

    fn record(text: &str, at: &str) -> Record {
        Record::raw("sensor-1", text).at(at)
    }

    #[test]
    fn the_last_value_of_the_log_wins() {
        let mut driver = Driver::<Latest>::new();
        driver
            .send(record(r#"{"degrees":20}"#, "2013-01-01T05:00:00Z"))
            .unwrap();
        driver
            .send(record(r#"{"degrees":21}"#, "2013-01-01T04:00:00Z"))
            .unwrap();
        assert_eq!(
            driver.query("sensor-1", "", &[]).unwrap(),
            json!({"value": {"degrees": 21}, "at": "2013-01-01T04:00:00Z"})
        );
        driver.assert_deterministic();
        driver.assert_idempotent();
    }

    #[test]
    fn the_value_stays_as_it_came() {
        let mut driver = Driver::<Latest>::new();
        let text = r#"{"z":12345678901234567890123,"a":1.10}"#;
        driver.send(record(text, "2013-01-01")).unwrap();
        let answer = driver.ask("sensor-1", "", &[], None).unwrap();
        let answer = String::from_utf8(answer.body).unwrap();
        assert_eq!(
            answer,
            format!(r#"{{"value":{text},"at":"2013-01-01T00:00:00Z"}}"#)
        );
    }

    #[test]
    fn a_tombstone_forgets_the_key() {
        let mut driver = Driver::<Latest>::new();
        driver.send(record("1", "2013-01-01")).unwrap();
        driver.send(Record::tombstone("sensor-1")).unwrap();
        assert_eq!(driver.query("sensor-1", "", &[]), Err(QueryError::NotFound));
    }

    #[test]
    fn what_is_not_json_is_rejected() {
        let mut driver = Driver::<Latest>::new();
        driver.send(record("1", "2013-01-01")).unwrap();
        let reject = driver.send(record("{", "2013-01-02")).unwrap_err();
        assert_eq!(reject.code(), "bad-event");
        assert_eq!(driver.query("sensor-1", "", &[]).unwrap()["value"], 1);
    }
}
