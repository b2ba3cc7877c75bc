//! Records that a partition has set aside because their key waits for an operator (`on-error =
//! "park-key"`). They belong to the state: a store keeps them with the states and the position of the
//! same commit.
//!
//! A store finds them by their offset, so the key of an entry is [`PARKED_PREFIX`] and the offset,
//! big-endian: they come in the order of the log, and there is one of each. The entry itself is a version
//! byte and the protobuf message [`ParkedV1`]: fields may be added, none may change its meaning without a
//! new version.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::StateError;
use super::checkpoint::check_entry;
use crate::types::Offset;

/// First byte of the key of every entry that holds a parked record.
pub(super) const PARKED_PREFIX: u8 = 0x02;
const VERSION: u8 = 1;
/// What a parked record takes in memory besides its own bytes, and more than an index entry needs.
const RECORD_OVERHEAD_BYTES: usize = 256;
/// What each of its headers takes besides its own bytes.
const HEADER_OVERHEAD_BYTES: usize = 64;

/// A record that is set aside, as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedRecord {
    /// Its offset in the topic that is folded.
    pub offset: Offset,
    /// Its timestamp, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The key that it is parked under: its own.
    pub key: Bytes,
    /// `None` = tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Why it could not be applied; `None` = it was set aside because it lies behind one that could not.
    pub cause: Option<ParkedCause>,
    /// What it makes is withheld when it is folded: a generation before has published that.
    pub withheld: bool,
}

/// Why a record could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedCause {
    /// Stable code: the plugin's own behind `rejected:`, or the host's.
    pub code: String,
    /// What is wrong.
    pub reason: String,
}

impl ParkedRecord {
    /// What it takes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| {
            HEADER_OVERHEAD_BYTES + name.len() + value.as_ref().map_or(0, Bytes::len)
        });
        let cause = self.cause.as_ref();
        RECORD_OVERHEAD_BYTES
            + self.key.len()
            + self.value.as_ref().map_or(0, Bytes::len)
            + headers.sum::<usize>()
            + cause.map_or(0, |cause| cause.code.len() + cause.reason.len())
    }
}

/// How far the operator's actions on parked records are applied: of the last one that was begun, the
/// records up to an offset. Points are ordered as they are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActionPoint {
    /// Number of the action.
    pub number: u64,
    /// The last record that it has come to; the highest there is = all, it is done.
    pub until: Offset,
}

impl ActionPoint {
    /// The action of this number, and every one before it, is done.
    #[must_use]
    pub fn done(number: u64) -> Self {
        Self {
            number,
            until: Offset(u64::MAX),
        }
    }

    /// Whether nothing of the action is left.
    #[must_use]
    pub fn is_done(self) -> bool {
        self == Self::done(self.number)
    }
}

#[derive(Clone, PartialEq, Message)]
struct ParkedV1 {
    #[prost(sint64, tag = "1")]
    timestamp_ms: i64,
    #[prost(bytes = "bytes", tag = "2")]
    key: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    value: Option<Bytes>,
    #[prost(message, repeated, tag = "4")]
    headers: Vec<HeaderV1>,
    #[prost(message, optional, tag = "5")]
    cause: Option<CauseV1>,
    #[prost(bool, tag = "6")]
    withheld: bool,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderV1 {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", optional, tag = "2")]
    value: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct CauseV1 {
    #[prost(string, tag = "1")]
    code: String,
    #[prost(string, tag = "2")]
    reason: String,
}

/// Key of the entry of a parked record.
pub(super) fn parked_key(offset: Offset) -> Bytes {
    let mut key = BytesMut::with_capacity(9);
    key.put_u8(PARKED_PREFIX);
    key.put_u64(offset.0);
    key.freeze()
}

/// A parked record as a store keeps it under [`parked_key`].
pub(super) fn encode_parked(record: &ParkedRecord) -> Bytes {
    let headers = record.headers.iter().map(|(name, value)| HeaderV1 {
        name: name.clone(),
        value: value.clone(),
    });
    let message = ParkedV1 {
        timestamp_ms: record.timestamp_ms,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: headers.collect(),
        cause: record.cause.as_ref().map(|cause| CauseV1 {
            code: cause.code.clone(),
            reason: cause.reason.clone(),
        }),
        withheld: record.withheld,
    };
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(VERSION);
    message
        .encode(&mut bytes)
        .expect("a growing buffer takes every message");
    bytes.freeze()
}

/// The parked record of an entry; nothing of it shares memory with the entry.
pub(super) fn decode_parked(key: &[u8], bytes: &[u8]) -> Result<ParkedRecord, StateError> {
    let damaged =
        |what: &str| StateError::Corrupt(format!("a parked record cannot be read: {what}"));
    let offset = key.get(1..).and_then(|offset| offset.try_into().ok());
    let offset = offset.ok_or_else(|| damaged("its entry names no offset"))?;
    check_entry(bytes)?;
    let message = ParkedV1::decode(Bytes::copy_from_slice(&bytes[1..]))
        .map_err(|it| damaged(&it.to_string()))?;
    let headers = message.headers.into_iter();
    Ok(ParkedRecord {
        offset: Offset(u64::from_be_bytes(offset)),
        timestamp_ms: message.timestamp_ms,
        key: message.key,
        value: message.value,
        headers: headers.map(|header| (header.name, header.value)).collect(),
        cause: message.cause.map(|cause| ParkedCause {
            code: cause.code,
            reason: cause.reason,
        }),
        withheld: message.withheld,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1 wrote for [`record`]; never changes.
    const PARKED_V1: &[u8] = b"\x01\x08\x03\x12\x01k\x1a\x01v\x22\x06\x0a\x01a\x12\x01\x31\x22\x03\
        \x0a\x01b\x2a\x1c\x0a\x0frejected:marked\x12\x09it is bad";

    fn record() -> ParkedRecord {
        ParkedRecord {
            offset: Offset(77),
            timestamp_ms: -2,
            key: Bytes::from_static(b"k"),
            value: Some(Bytes::from_static(b"v")),
            headers: vec![
                ("a".to_owned(), Some(Bytes::from_static(b"1"))),
                ("b".to_owned(), None),
            ],
            cause: Some(ParkedCause {
                code: "rejected:marked".to_owned(),
                reason: "it is bad".to_owned(),
            }),
            withheld: false,
        }
    }

    #[test]
    fn version_1_is_written_and_read_as_ever() {
        assert_eq!(encode_parked(&record()), PARKED_V1);
        let key = parked_key(Offset(77));
        assert_eq!(&key[..], b"\x02\0\0\0\0\0\0\0\x4d");
        assert_eq!(decode_parked(&key, PARKED_V1).unwrap(), record());
    }

    #[test]
    fn what_may_be_absent_stays_absent() {
        let record = ParkedRecord {
            key: Bytes::new(),
            value: None,
            headers: Vec::new(),
            cause: None,
            withheld: true,
            ..record()
        };
        let key = parked_key(record.offset);
        assert_eq!(
            decode_parked(&key, &encode_parked(&record)).unwrap(),
            record
        );
    }

    #[test]
    fn newer_formats_and_damage_are_told_apart() {
        let key = parked_key(Offset(1));
        let newer = decode_parked(&key, b"\x02whatever");
        assert!(matches!(newer, Err(StateError::Newer { found: 2, .. })));
        for damaged in [&b""[..], b"\0", b"\x01\x12\x05k"] {
            let read = decode_parked(&key, damaged);
            assert!(matches!(read, Err(StateError::Corrupt(_))), "{damaged:?}");
        }
        assert!(decode_parked(b"\x02short", PARKED_V1).is_err());
    }

    #[test]
    fn points_are_ordered_as_they_are_reached() {
        let within = |until| ActionPoint {
            number: 4,
            until: Offset(until),
        };
        assert!(ActionPoint::done(3) < within(0) && within(0) < within(9));
        assert!(within(9) < ActionPoint::done(4) && !within(9).is_done());
    }
}
