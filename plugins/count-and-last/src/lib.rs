//! Counts the records of each key and keeps the last value: the fold that every contestant of the benchmark does.
//!
//! Deliberately not idempotent: whatever is folded twice, or not at all, shows in the count.

use foldhost_sdk::{Codec, CodecError, Event, NoArguments, Queries, Query, Raw, Reject, View};
use serde::Serialize;

pub struct CountAndLast;

/// What is known of a key. Written as in the benchmark's Kafka Streams: the count (8 bytes, little-endian), then the
/// last value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    count: u64,
    last: Vec<u8>,
}

impl Codec for Seen {
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (count, last) = bytes
            .split_first_chunk()
            .ok_or_else(|| CodecError::new("a state has eight bytes at least"))?;
        Ok(Self {
            count: u64::from_le_bytes(*count),
            last: last.to_vec(),
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.last);
    }
}

#[derive(Serialize)]
struct Answer {
    count: u64,
    last: String,
}

#[derive(Serialize)]
struct Count {
    count: u64,
}

impl View for CountAndLast {
    type State = Seen;
    type Event = Raw;

    fn fold(state: &mut Option<Seen>, event: &Event<Raw>) -> Result<(), Reject> {
        let seen = state.get_or_insert_default();
        seen.count += 1;
        seen.last.clear();
        if let Some(Raw(value)) = event.value() {
            seen.last.extend_from_slice(value);
        }
        Ok(())
    }
}

impl Query for CountAndLast {
    fn queries(on: &mut Queries<Self>) {
        on.default("How many records this key has had, and the last value as text")
            .answer(|question, NoArguments {}| {
                let seen = question.state()?;
                Ok(Answer {
                    count: seen.count,
                    last: String::from_utf8_lossy(&seen.last).into_owned(),
                })
            });
        on.query("count", "How many records this key has had")
            .answer(|question, NoArguments {}| {
                let count = question.state()?.count;
                Ok(Count { count })
            });
    }
}

foldhost_sdk::export!(CountAndLast: View + Query);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};
    use serde_json::json;

    use super::CountAndLast;

    #[test]
    fn counts_and_keeps_the_last_value() {
        let mut driver = Driver::<CountAndLast>::new();
        driver.send(Record::raw("a", "one")).unwrap();
        driver.send(Record::raw("b", "two")).unwrap();
        driver.send(Record::raw("a", "three")).unwrap();
        let answer = driver.query("a", "", &[]).unwrap();
        assert_eq!(answer, json!({"count": 2, "last": "three"}));
        driver.send(Record::tombstone("a")).unwrap();
        let answer = driver.query("a", "", &[]).unwrap();
        assert_eq!(answer, json!({"count": 3, "last": ""}));
        let answer = driver.query("a", "count", &[]).unwrap();
        assert_eq!(answer, json!({"count": 3}));
        driver.assert_deterministic();
    }
}
