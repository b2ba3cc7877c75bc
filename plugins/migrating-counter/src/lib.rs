//! Counts the records of each key, as `counter` does, with states of another schema: eight bytes in
//! place of JSON. The states of `counter` are taken over by `migrate`.
//!
//! For tests of the host: deployed with `--state keep` over `counter` it goes on counting where that
//! one was.

use foldhost_sdk::{
    Codec, CodecError, Event, Json, Migrate, NoArguments, Queries, Query, Raw, Reject, Schemas,
    View,
};
use serde::{Deserialize, Serialize};

pub struct Counter;

/// How many records a key has had, as eight big-endian bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Count(u64);

impl Codec for Count {
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let bytes = bytes.try_into();
        let bytes = bytes.map_err(|_| CodecError::new("a count has eight bytes"))?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }
}

/// What `counter` keeps, and what both answer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Counted {
    count: u64,
}

impl View for Counter {
    type State = Count;
    type Event = Raw;

    fn fold(state: &mut Option<Count>, _event: &Event<Raw>) -> Result<(), Reject> {
        state.get_or_insert_default().0 += 1;
        Ok(())
    }
}

impl Query for Counter {
    fn queries(on: &mut Queries<Self>) {
        on.default("How many records this key has had")
            .answer(|question, NoArguments {}| {
                let count = question.state()?.0;
                Ok(Counted { count })
            });
    }
}

impl Migrate for Counter {
    fn schemas(from: &mut Schemas<Self>) {
        from.schema("counter/1", |_key, old: Json<Counted>| {
            Ok(Some(Count(old.count)))
        });
    }
}

foldhost_sdk::export!(Counter: View + Query + Migrate);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};
    use serde_json::json;

    use super::Counter;

    #[test]
    fn it_goes_on_where_the_old_one_was() {
        let mut driver = Driver::<Counter>::new();
        driver
            .migrate("counter/1", [("a", r#"{"count":41}"#)])
            .unwrap();
        driver.send(Record::raw("a", "")).unwrap();
        driver.send(Record::tombstone("b")).unwrap();
        assert_eq!(driver.query("a", "", &[]).unwrap(), json!({"count": 42}));
        assert_eq!(driver.query("b", "", &[]).unwrap(), json!({"count": 1}));
        driver.assert_deterministic();
    }

    #[test]
    fn what_counter_did_not_write_is_refused() {
        let mut driver = Driver::<Counter>::new();
        let error = driver.migrate("counter/1", [("a", "{}")]).unwrap_err();
        assert!(
            error.contains("key `a`") && error.contains("count"),
            "{error}"
        );
        let error = driver.migrate("latest/1", [("a", "{}")]).unwrap_err();
        assert!(error.contains("`counter/1`"), "{error}");
    }
}
