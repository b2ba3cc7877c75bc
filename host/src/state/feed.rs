//! The feed of a store's changes: for each key the number of its last change, in the order of the commits.
//! Written with the states of the same commit, and read by whoever follows the changes.
//!
//! Invariant: a key has one entry, that of its last change; so there are as many as keys have changed, and one
//! more for each deletion that is still remembered. Numbers only ever grow, and none is given twice.
//!
//! The entries of a store, each with a version byte in front of what is stored, numbers big-endian:
//!
//! | key | what is stored |
//! |---|---|
//! | `0x03`, number, key | whether it is deleted, place and timestamp of the event |
//! | `0x04`, key | number, and whether it is deleted |
//! | `0x05`, number, key | when it was deleted, by the clock of the host; only of deletions |
//! | `0x00 "feed"` | the protobuf message [`HeadV1`] |

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::StateError;
use super::checkpoint::check_entry;
use crate::types::Offset;

const VERSION: u8 = 1;
/// First byte of the key of every entry that holds a change.
pub(super) const CHANGE_PREFIX: u8 = 0x03;
/// First byte of the key of every entry that tells the number of a key's last change.
pub(super) const NUMBER_PREFIX: u8 = 0x04;
/// First byte of the key of every entry that tells when a key was deleted.
pub(super) const DELETION_PREFIX: u8 = 0x05;
/// Key of the entry that tells where the feed is; behind that of the checkpoint, which comes first.
pub(super) const HEAD_KEY: &[u8] = b"\x00feed";
/// Bytes of the key of an entry before the plugin's own.
const NUMBERED_BYTES: usize = 9;

/// Number of a change in the feed of its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChangeNumber(pub u64);

impl ChangeNumber {
    /// Before every change.
    pub const FIRST: Self = Self(1);

    /// The number that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// That the changes of a commit are remembered, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedTerms {
    /// When the commit was made, in milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// How long deletions are remembered.
    pub keep_deletions: Duration,
}

/// The last change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// Its number.
    pub number: ChangeNumber,
    /// The key.
    pub key: Bytes,
    /// Whether it left no state.
    pub deleted: bool,
    /// As in [`KeyState`](super::KeyState), but for the mark of one that is gone. Of a view's key that was deleted,
    /// it means nothing.
    pub changed_at: Offset,
    /// Timestamp of the event, in milliseconds since the Unix epoch; of a view's key that was deleted, when that
    /// was committed.
    pub changed_at_ms: i64,
}

/// Changes of a store, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedPage {
    /// The changes.
    pub changes: Vec<KeyChange>,
    /// Whoever reads on from an earlier number has missed deletions.
    pub kept_from: ChangeNumber,
    /// What the next change will have.
    pub next: ChangeNumber,
}

/// Where the feed of a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FeedHead {
    pub(super) kept_from: ChangeNumber,
    pub(super) next: ChangeNumber,
    /// Of the checkpoint of the same commit. Where the store has another one, changes were committed that the feed
    /// does not know.
    pub(super) checkpoint_hash: u64,
}

impl FeedHead {
    /// The feed of a store that had none.
    pub(super) fn new() -> Self {
        Self {
            kept_from: ChangeNumber::FIRST,
            next: ChangeNumber::FIRST,
            checkpoint_hash: 0,
        }
    }

    /// The feed goes on behind a commit that it does not know: whoever has read it so far begins again.
    pub(super) fn interrupted(self) -> Self {
        let next = self.next.next();
        Self {
            kept_from: next,
            next,
            ..self
        }
    }

    /// By what a stored checkpoint is recognised, in whichever version it is stored.
    pub(super) fn hash(checkpoint: &[u8]) -> u64 {
        let content = checkpoint.get(1..).unwrap_or_default();
        xxh3_64(&[b"\x01", content].concat())
    }
}

#[derive(Clone, PartialEq, Message)]
struct HeadV1 {
    #[prost(uint64, tag = "1")]
    kept_from: u64,
    #[prost(uint64, tag = "2")]
    next: u64,
    #[prost(fixed64, tag = "3")]
    checkpoint_hash: u64,
}

/// The number of a key's last change, as its entry tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbered {
    pub(super) number: ChangeNumber,
    pub(super) deleted: bool,
}

/// First key of the entries of a kind from `number` on.
pub(super) fn from_number(prefix: u8, number: ChangeNumber) -> Bytes {
    numbered_key(prefix, number, &[])
}

/// Key of an entry of a kind that is found by its number.
pub(super) fn numbered_key(prefix: u8, number: ChangeNumber, key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(NUMBERED_BYTES + key.len());
    bytes.put_u8(prefix);
    bytes.put_u64(number.0);
    bytes.put_slice(key);
    bytes.freeze()
}

/// Key of the entry that tells the number of a key's last change.
pub(super) fn number_key(key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + key.len());
    bytes.put_u8(NUMBER_PREFIX);
    bytes.put_slice(key);
    bytes.freeze()
}

pub(super) fn encode_change(change: &KeyChange) -> Bytes {
    let mut bytes = BytesMut::with_capacity(18);
    bytes.put_u8(VERSION);
    bytes.put_u8(change.deleted.into());
    bytes.put_u64(change.changed_at.0);
    bytes.put_i64(change.changed_at_ms);
    bytes.freeze()
}

/// The change of an entry; nothing of it shares memory with the entry.
pub(super) fn decode_change(key: &[u8], bytes: &[u8]) -> Result<KeyChange, StateError> {
    let (number, key) = split(key)?;
    let mut rest = stored(bytes, 17)?;
    Ok(KeyChange {
        number,
        key,
        deleted: rest.get_u8() != 0,
        changed_at: Offset(rest.get_u64()),
        changed_at_ms: rest.get_i64(),
    })
}

pub(super) fn encode_number(numbered: Numbered) -> Bytes {
    let mut bytes = BytesMut::with_capacity(10);
    bytes.put_u8(VERSION);
    bytes.put_u64(numbered.number.0);
    bytes.put_u8(numbered.deleted.into());
    bytes.freeze()
}

pub(super) fn decode_number(bytes: &[u8]) -> Result<Numbered, StateError> {
    let mut rest = stored(bytes, 9)?;
    Ok(Numbered {
        number: ChangeNumber(rest.get_u64()),
        deleted: rest.get_u8() != 0,
    })
}

pub(super) fn encode_deletion(deleted_at_ms: i64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(9);
    bytes.put_u8(VERSION);
    bytes.put_i64(deleted_at_ms);
    bytes.freeze()
}

/// Number and key of a deletion, and when it was.
pub(super) fn decode_deletion(
    key: &[u8],
    bytes: &[u8],
) -> Result<(ChangeNumber, Bytes, i64), StateError> {
    let (number, key) = split(key)?;
    Ok((number, key, stored(bytes, 8)?.get_i64()))
}

pub(super) fn encode_head(head: &FeedHead) -> Bytes {
    let message = HeadV1 {
        kept_from: head.kept_from.0,
        next: head.next.0,
        checkpoint_hash: head.checkpoint_hash,
    };
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(VERSION);
    message
        .encode(&mut bytes)
        .expect("a growing buffer takes every message");
    bytes.freeze()
}

pub(super) fn decode_head(bytes: &[u8]) -> Result<FeedHead, StateError> {
    check_entry(bytes)?;
    let message = HeadV1::decode(&bytes[1..]).map_err(|it| damaged(&it.to_string()))?;
    Ok(FeedHead {
        kept_from: ChangeNumber(message.kept_from),
        next: ChangeNumber(message.next),
        checkpoint_hash: message.checkpoint_hash,
    })
}

/// Number and key of an entry.
fn split(key: &[u8]) -> Result<(ChangeNumber, Bytes), StateError> {
    let mut number = key
        .get(1..NUMBERED_BYTES)
        .ok_or_else(|| damaged("an entry has no number"))?;
    let key = Bytes::copy_from_slice(&key[NUMBERED_BYTES..]);
    Ok((ChangeNumber(number.get_u64()), key))
}

/// What is stored behind the version.
fn stored(bytes: &[u8], bytes_min: usize) -> Result<&[u8], StateError> {
    check_entry(bytes)?;
    let rest = &bytes[1..];
    if rest.len() < bytes_min {
        return Err(damaged("an entry is too short"));
    }
    Ok(rest)
}

fn damaged(what: &str) -> StateError {
    StateError::Corrupt(format!("the feed of changes cannot be read: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> KeyChange {
        KeyChange {
            number: ChangeNumber(77),
            key: Bytes::from_static(b"k"),
            deleted: true,
            changed_at: Offset(5),
            changed_at_ms: -2,
        }
    }

    #[test]
    fn version_1_is_written_and_read_as_ever() {
        let key = numbered_key(CHANGE_PREFIX, ChangeNumber(77), b"k");
        assert_eq!(&key[..], b"\x03\0\0\0\0\0\0\0\x4dk");
        let bytes = encode_change(&change());
        assert_eq!(
            &bytes[..],
            b"\x01\x01\0\0\0\0\0\0\0\x05\xff\xff\xff\xff\xff\xff\xff\xfe"
        );
        assert_eq!(decode_change(&key, &bytes).unwrap(), change());

        assert_eq!(&number_key(b"k")[..], b"\x04k");
        let numbered = Numbered {
            number: ChangeNumber(77),
            deleted: false,
        };
        let bytes = encode_number(numbered);
        assert_eq!(&bytes[..], b"\x01\0\0\0\0\0\0\0\x4d\0");
        assert_eq!(decode_number(&bytes).unwrap(), numbered);

        let key = numbered_key(DELETION_PREFIX, ChangeNumber(77), b"");
        let bytes = encode_deletion(3);
        assert_eq!(&bytes[..], b"\x01\0\0\0\0\0\0\0\x03");
        let read = decode_deletion(&key, &bytes).unwrap();
        assert_eq!(read, (ChangeNumber(77), Bytes::new(), 3));

        let head = FeedHead {
            kept_from: ChangeNumber(2),
            next: ChangeNumber(77),
            checkpoint_hash: 0x0102_0304_0506_0708,
        };
        let bytes = encode_head(&head);
        assert_eq!(
            &bytes[..],
            b"\x01\x08\x02\x10\x4d\x19\x08\x07\x06\x05\x04\x03\x02\x01"
        );
        assert_eq!(decode_head(&bytes).unwrap(), head);
    }

    #[test]
    fn newer_formats_and_damage_are_told_apart() {
        let key = numbered_key(CHANGE_PREFIX, ChangeNumber(1), b"k");
        let newer = decode_change(&key, b"\x02whatever");
        assert!(matches!(newer, Err(StateError::Newer { found: 2, .. })));
        for damaged in [&b""[..], b"\0", b"\x01short"] {
            let read = decode_change(&key, damaged);
            assert!(matches!(read, Err(StateError::Corrupt(_))), "{damaged:?}");
            assert!(decode_deletion(&key, damaged).is_err(), "{damaged:?}");
            assert!(decode_number(damaged).is_err(), "{damaged:?}");
        }
        assert!(decode_change(b"\x03short", &encode_change(&change())).is_err());
        assert!(decode_head(b"\x01\x08").is_err());
    }
}
