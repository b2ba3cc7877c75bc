//! What the misbehaving plugins do while they behave: they count the records of each key, with the
//! states and the answer of `counter`, so that it is the corrected version of each of them.
//!
//! The JSON is written by hand: that keeps a component at half the size.

use foldhost_sdk::{Codec, CodecError, Event, NoArguments, Payload, Queries, Query, Raw, Reject};

/// Value of an event at which a plugin misbehaves.
pub const POISON: &[u8] = b"poison";

/// How many records a key has had: `{"count":7}`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Count(pub u64);

impl Codec for Count {
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let number = bytes.strip_prefix(b"{\"count\":");
        let number = number.and_then(|rest| rest.strip_suffix(b"}"));
        number
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
            .map(Self)
            .ok_or_else(|| CodecError::new("it is no {\"count\":…}"))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{{\"count\":{}}}", self.0).as_bytes());
    }
}

/// Whether the event is marked.
pub fn is_poison(event: &Event<Raw>) -> bool {
    event.value().is_some_and(|value| value.0 == POISON)
}

/// Counts one record.
///
/// # Errors
/// Never; it is the end of a `fold`.
pub fn count(state: &mut Option<Count>) -> Result<(), Reject> {
    state.get_or_insert_default().0 += 1;
    Ok(())
}

/// The default query of a plugin that counts: the answer of `counter`.
pub fn answer<V: Query<State = Count>>(on: &mut Queries<V>) {
    on.default("How many records this key has had")
        .answer_raw(|question, NoArguments {}| {
            let json = question.state()?.to_bytes();
            Ok(Payload::new("application/json", json))
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_written_as_counter_writes_it() {
        assert_eq!(Count(7).to_bytes(), br#"{"count":7}"#);
        assert_eq!(Count::decode(br#"{"count":7}"#), Ok(Count(7)));
        assert!(Count::decode(b"garbage").is_err());
    }
}
