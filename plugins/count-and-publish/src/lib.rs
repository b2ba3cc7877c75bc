//! Publishes the running count of each key: one record for each event, under its key. What every contestant of
//! the benchmark's republish path does.
//!
//! Deliberately not idempotent: whatever is folded or published twice, or not at all, shows in the counts.

use foldhost_sdk::{Codec, CodecError, Event, Outputs, Raw, Reject, Republisher};

pub struct CountAndPublish;

/// How many records a key has had; state and output alike, as Kafka's `LongSerializer` writes it.
#[derive(Debug, Default, PartialEq)]
pub struct Count(i64);

impl Codec for Count {
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let bytes = bytes
            .try_into()
            .map_err(|_| CodecError::new("a count has eight bytes"))?;
        Ok(Self(i64::from_be_bytes(bytes)))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }
}

impl Republisher for CountAndPublish {
    type State = Count;
    type Event = Raw;
    type Output = Count;

    fn react(
        state: &mut Option<Count>,
        event: &Event<Raw>,
        out: &mut Outputs<Count>,
    ) -> Result<(), Reject> {
        let count = state.get_or_insert_default();
        count.0 += 1;
        out.emit(event.key(), count);
        Ok(())
    }
}

foldhost_sdk::export!(CountAndPublish: Republisher);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};

    use super::{Count, CountAndPublish};

    #[test]
    fn each_record_is_answered_by_the_count_of_its_key() {
        let mut driver = Driver::<CountAndPublish>::new();
        for (key, count) in [("a", 1), ("b", 1), ("a", 2)] {
            let record = Record::raw(key, "x").at("2013-07-01T12:00:00Z");
            let wanted = Record::new(key, &Count(count)).at("2013-07-01T12:00:00Z");
            assert_eq!(driver.react(record).unwrap(), [wanted]);
        }
        driver.assert_deterministic();
    }
}
