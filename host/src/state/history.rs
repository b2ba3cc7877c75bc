//! Events of a command handler, found by their keys: where each of a key's events lies in the log. A store keeps them
//! with the states and the position of the same commit.
//!
//! The key of an entry is [`HISTORY_PREFIX`], the length of the event's key (16 bits), the key itself, and the version
//! that the event has made (64 bits), all numbers big-endian: the events of a key lie beside one another, in their
//! order. The entry itself is a version byte, the offset (64 bits) and the timestamp (64 bits, signed).

use std::ops::{Bound, Range};

use bytes::{BufMut, Bytes, BytesMut};

use super::checkpoint::check_entry;
use super::{StateError, all_of};
use crate::limits;
use crate::types::Offset;

/// First byte of the key of every entry that says where an event is.
pub(super) const HISTORY_PREFIX: u8 = 0x06;
const VERSION: u8 = 1;
/// Prefix, length of the key, and version.
const KEY_OVERHEAD_BYTES: usize = 1 + 2 + 8;
const ENTRY_BYTES: usize = 1 + 8 + 8;

const _: () = assert!(limits::KEY_BYTES_MAX <= u16::MAX as usize);

/// Where an event of a key lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedEvent {
    /// The key.
    pub key: Bytes,
    /// The version that the event has made.
    pub version: u64,
    /// Its offset in the topic that the handler owns.
    pub offset: Offset,
    /// Its timestamp, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

impl IndexedEvent {
    /// What a store keeps of it, in bytes.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        KEY_OVERHEAD_BYTES + self.key.len() + ENTRY_BYTES
    }

    /// Key and entry as a store keeps them.
    pub(super) fn encode(&self) -> (Bytes, Bytes) {
        let mut entry = BytesMut::with_capacity(ENTRY_BYTES);
        entry.put_u8(VERSION);
        entry.put_u64(self.offset.0);
        entry.put_i64(self.timestamp_ms);
        (stored_key(&self.key, self.version), entry.freeze())
    }

    /// The event of a stored key and entry.
    pub(super) fn decode(key: &Bytes, entry: &[u8]) -> Result<Self, StateError> {
        let damaged = |what: &str| {
            StateError::Corrupt(format!("a place in the history cannot be read: {what}"))
        };
        check_entry(entry)?;
        let entry: &[u8; ENTRY_BYTES] = entry
            .try_into()
            .map_err(|_| damaged("its entry has another length"))?;
        let until = key.len().checked_sub(8).filter(|until| *until >= 3);
        let until = until.ok_or_else(|| damaged("its key is too short"))?;
        let number = |bytes: &[u8]| bytes.try_into().expect("8 bytes");
        Ok(Self {
            key: key.slice(3..until),
            version: u64::from_be_bytes(number(&key[until..])),
            offset: Offset(u64::from_be_bytes(number(&entry[1..9]))),
            timestamp_ms: i64::from_be_bytes(number(&entry[9..])),
        })
    }
}

fn stored_key(key: &[u8], version: u64) -> Bytes {
    let length = u16::try_from(key.len()).expect("a key that has a state is bounded");
    let mut bytes = BytesMut::with_capacity(KEY_OVERHEAD_BYTES + key.len());
    bytes.put_u8(HISTORY_PREFIX);
    bytes.put_u16(length);
    bytes.put_slice(key);
    bytes.put_u64(version);
    bytes.freeze()
}

/// Keys of the events of a key with these versions.
pub(super) fn range_of(key: &[u8], versions: &Range<u64>) -> (Bound<Bytes>, Bound<Bytes>) {
    (
        Bound::Included(stored_key(key, versions.start)),
        Bound::Excluded(stored_key(key, versions.end)),
    )
}

/// Keys of all events, behind one.
pub(super) fn range_behind(after: Option<&IndexedEvent>) -> (Bound<Bytes>, Bound<Bytes>) {
    let (first, end) = all_of(HISTORY_PREFIX);
    let behind = after.map(|after| Bound::Excluded(stored_key(&after.key, after.version)));
    (behind.unwrap_or(first), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1 wrote for [`event`]; never changes.
    const KEY_V1: &[u8] = b"\x06\0\x02ab\0\0\0\0\0\0\0\x07";
    const ENTRY_V1: &[u8] = b"\x01\0\0\0\0\0\0\0\x4d\xff\xff\xff\xff\xff\xff\xff\xfe";

    fn event() -> IndexedEvent {
        IndexedEvent {
            key: Bytes::from_static(b"ab"),
            version: 7,
            offset: Offset(77),
            timestamp_ms: -2,
        }
    }

    #[test]
    fn version_1_is_written_and_read_as_ever() {
        let (key, entry) = event().encode();
        assert_eq!((&*key, &*entry), (KEY_V1, ENTRY_V1));
        assert_eq!(event().stored_bytes(), key.len() + entry.len());
        let read = IndexedEvent::decode(&Bytes::from_static(KEY_V1), ENTRY_V1);
        assert_eq!(read.unwrap(), event());
        for (key, entry) in [
            (KEY_V1, &ENTRY_V1[..16]),
            (&KEY_V1[..10], ENTRY_V1),
            (KEY_V1, b""),
        ] {
            let read = IndexedEvent::decode(&Bytes::from_static(key), entry);
            assert!(matches!(read, Err(StateError::Corrupt(_))), "{read:?}");
        }
    }

    #[test]
    fn the_events_of_a_key_lie_in_their_order_and_apart_from_those_of_others() {
        let (from, until) = range_of(b"a", &(1..u64::MAX));
        let within = |key: &[u8], version| {
            let key = stored_key(key, version);
            let is_behind = matches!(&from, Bound::Included(from) if *from <= key);
            is_behind && matches!(&until, Bound::Excluded(until) if key < *until)
        };
        assert!(within(b"a", 1) && within(b"a", 1 << 40));
        assert!(!within(b"a", 0) && !within(b"", 5) && !within(b"ab", 5) && !within(b"b", 5));
        assert!(stored_key(b"a", 255) < stored_key(b"a", 256));
    }
}
