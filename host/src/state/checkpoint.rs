//! The bytes that stores hold: [`KeyState`] and [`Checkpoint`]. Called by the adapters beside it.
//!
//! Invariant: the first byte is the format's version. What a released version wrote stays readable;
//! what a newer one wrote is refused with [`StateError::Newer`], never guessed at.
//!
//! Version 1 of a state, read on every cache miss, has a fixed layout, all numbers big-endian:
//!
//! | bytes | |
//! |---|---|
//! | 0 | version, 1 |
//! | 1..9 | offset of the last event that changed it |
//! | 9..17 | that event's timestamp, milliseconds since the Unix epoch, signed |
//! | 17.. | the plugin's bytes |
//!
//! A checkpoint is its version byte and the protobuf message [`CheckpointV1`]: fields may be added, none may change its
//! meaning without a new version. Version 1 stands where each state is an entry of its own; version 2 says that states
//! lie in [pages](super::pages).

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::{ActionPoint, Checkpoint, KeyState, LastRecord, StateError, StateRef};
use crate::types::{DeploymentId, Digest, Epoch, Offset};

const STATE_VERSION: u8 = 1;
const CHECKPOINT_VERSION: u8 = 2;
/// First byte of the stored key of a state, where states are entries of their own.
pub(super) const STATE_PREFIX_V1: u8 = 0x01;
/// Bytes of a stored state before the plugin's own.
pub(super) const STATE_HEADER_BYTES: usize = 17;

#[derive(Clone, PartialEq, Message)]
struct CheckpointV1 {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    deployment: u64,
    #[prost(bytes = "bytes", tag = "3")]
    digest: Bytes,
    #[prost(uint64, tag = "4")]
    next: u64,
    #[prost(message, optional, tag = "5")]
    last: Option<LastRecordV1>,
    #[prost(uint64, tag = "6")]
    start: u64,
    #[prost(bool, tag = "7")]
    history_complete: bool,
    #[prost(bytes = "bytes", optional, tag = "8")]
    topic_id: Option<Bytes>,
    #[prost(uint32, tag = "9")]
    partitions: u32,
    /// Absent = `start`.
    #[prost(uint64, optional, tag = "10")]
    folds_from: Option<u64>,
    #[prost(uint64, tag = "11")]
    gaps: u64,
    #[prost(bool, tag = "12")]
    incomplete: bool,
    #[prost(bool, tag = "13")]
    published: bool,
    #[prost(uint64, tag = "14")]
    action: u64,
    /// Absent = all of it.
    #[prost(uint64, optional, tag = "15")]
    action_until: Option<u64>,
    /// Absent = no events are indexed.
    #[prost(uint64, optional, tag = "17")]
    indexed_from: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct LastRecordV1 {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(sint64, tag = "2")]
    timestamp_ms: i64,
    #[prost(fixed64, tag = "3")]
    hash: u64,
}

/// Appends a state as a store keeps it.
pub(super) fn encode_state(state: StateRef<'_>, into: &mut Vec<u8>) {
    into.put_u8(STATE_VERSION);
    into.put_u64(state.changed_at.0);
    into.put_i64(state.changed_at_ms);
    into.put_slice(state.state);
}

/// The state in `bytes`; its own bytes are shared, not copied.
pub(super) fn decode_state(bytes: &Bytes) -> Result<KeyState, StateError> {
    let too_short =
        || StateError::Corrupt(format!("a state of {} bytes is too short", bytes.len()));
    check_version(bytes, STATE_VERSION)?;
    let header = bytes.get(..STATE_HEADER_BYTES).ok_or_else(too_short)?;
    Ok(KeyState {
        state: bytes.slice(STATE_HEADER_BYTES..),
        changed_at: Offset(u64::from_be_bytes(
            header[1..9].try_into().expect("8 bytes"),
        )),
        changed_at_ms: i64::from_be_bytes(header[9..17].try_into().expect("8 bytes")),
    })
}

/// Bytes of a checkpoint as a store keeps them.
pub(super) fn encode_checkpoint(checkpoint: &Checkpoint) -> Bytes {
    let message = CheckpointV1 {
        epoch: checkpoint.epoch.0,
        deployment: checkpoint.deployment.0,
        digest: Bytes::copy_from_slice(checkpoint.digest.as_bytes()),
        next: checkpoint.next.0,
        last: checkpoint.last.map(|last| LastRecordV1 {
            offset: last.offset.0,
            timestamp_ms: last.timestamp_ms,
            hash: last.hash,
        }),
        start: checkpoint.start.0,
        history_complete: checkpoint.history_complete,
        topic_id: checkpoint.topic_id.map(|id| Bytes::copy_from_slice(&id)),
        partitions: checkpoint.partitions,
        folds_from: Some(checkpoint.folds_from.0).filter(|from| *from != checkpoint.start.0),
        gaps: checkpoint.gaps,
        incomplete: checkpoint.incomplete,
        published: checkpoint.published,
        action: checkpoint.action.number,
        action_until: (!checkpoint.action.is_done()).then_some(checkpoint.action.until.0),
        indexed_from: checkpoint.indexed_from.map(|from| from.0),
    };
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(CHECKPOINT_VERSION);
    message
        .encode(&mut bytes)
        .expect("a growing buffer takes every message");
    bytes.freeze()
}

/// The checkpoint in `bytes`.
pub(super) fn decode_checkpoint(bytes: &Bytes) -> Result<Checkpoint, StateError> {
    check_checkpoint(bytes)?;
    let damaged =
        |what: &str| StateError::Corrupt(format!("the checkpoint cannot be read: {what}"));
    let message =
        CheckpointV1::decode(bytes.slice(1..)).map_err(|error| damaged(&error.to_string()))?;
    let digest = message.digest[..]
        .try_into()
        .map_err(|_| damaged("its digest has no 32 bytes"))?;
    let topic_id = match &message.topic_id {
        Some(id) => Some(
            id[..]
                .try_into()
                .map_err(|_| damaged("its topic id has no 16 bytes"))?,
        ),
        None => None,
    };
    Ok(Checkpoint {
        epoch: Epoch(message.epoch),
        deployment: DeploymentId(message.deployment),
        digest: Digest::from_bytes(digest),
        next: Offset(message.next),
        last: message.last.map(|last| LastRecord {
            offset: Offset(last.offset),
            timestamp_ms: last.timestamp_ms,
            hash: last.hash,
        }),
        start: Offset(message.start),
        history_complete: message.history_complete,
        topic_id,
        partitions: message.partitions,
        folds_from: Offset(message.folds_from.unwrap_or(message.start)),
        gaps: message.gaps,
        incomplete: message.incomplete,
        published: message.published,
        action: ActionPoint {
            number: message.action,
            until: Offset(message.action_until.unwrap_or(u64::MAX)),
        },
        indexed_from: message.indexed_from.map(Offset),
    })
}

/// Whether this version reads a checkpoint that begins like this, and the store around it.
pub(super) fn check_checkpoint(bytes: &[u8]) -> Result<(), StateError> {
    check_version(bytes, CHECKPOINT_VERSION)
}

/// Whether this version reads an entry of another kind, of each of which there has been one version.
pub(super) fn check_entry(bytes: &[u8]) -> Result<(), StateError> {
    check_version(bytes, 1)
}

fn check_version(bytes: &[u8], known: u8) -> Result<(), StateError> {
    match bytes.first() {
        Some(&found) if (1..=known).contains(&found) => Ok(()),
        Some(&found) if found > known => Err(StateError::Newer { found, known }),
        Some(&found) => Err(StateError::Corrupt(format!("there is no format {found}"))),
        None => Err(StateError::Corrupt("an entry is empty".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1 wrote for [`state`]; never changes.
    const STATE_V1: &[u8] = b"\x01\0\0\0\0\0\0\0\x4d\xff\xff\xff\xff\xff\xff\xff\xfestate";

    /// What version 2 writes for [`checkpoint`], and version 1 wrote but for the first byte; never changes.
    const CHECKPOINT_V2: &[u8] = b"\x02\x08\x07\x10\x2a\x1a\x20\
        \x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\
        \x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\
        \x20\x4e\x2a\x0d\x08\x4d\x10\x03\x19\x08\x07\x06\x05\x04\x03\x02\x01\
        \x30\x0c\x38\x01\x42\x10\
        \x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x48\x04";

    fn encoded(state: &KeyState) -> Bytes {
        let mut bytes = Vec::new();
        encode_state(state.as_ref(), &mut bytes);
        assert_eq!(bytes.len(), STATE_HEADER_BYTES + state.state.len());
        Bytes::from(bytes)
    }

    fn state() -> KeyState {
        KeyState {
            state: Bytes::from_static(b"state"),
            changed_at: Offset(77),
            changed_at_ms: -2,
        }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            epoch: Epoch(7),
            deployment: DeploymentId(42),
            digest: Digest::from_bytes([9; 32]),
            next: Offset(78),
            last: Some(LastRecord {
                offset: Offset(77),
                timestamp_ms: -2,
                hash: 0x0102_0304_0506_0708,
            }),
            start: Offset(12),
            history_complete: true,
            topic_id: Some([5; 16]),
            partitions: 4,
            folds_from: Offset(12),
            gaps: 0,
            incomplete: false,
            published: false,
            action: ActionPoint::done(0),
            indexed_from: None,
        }
    }

    #[test]
    fn released_versions_are_read_as_ever() {
        assert_eq!(encoded(&state()), STATE_V1);
        assert_eq!(
            decode_state(&Bytes::from_static(STATE_V1)).unwrap(),
            state()
        );
        assert_eq!(encode_checkpoint(&checkpoint()), CHECKPOINT_V2);
        let version_1 = [b"\x01", &CHECKPOINT_V2[1..]].concat();
        for stored in [Bytes::from_static(CHECKPOINT_V2), Bytes::from(version_1)] {
            assert_eq!(decode_checkpoint(&stored).unwrap(), checkpoint());
        }
    }

    #[test]
    fn what_may_be_absent_stays_absent() {
        let checkpoint = Checkpoint {
            last: None,
            topic_id: None,
            folds_from: Offset(50),
            gaps: 3,
            incomplete: true,
            published: true,
            action: ActionPoint {
                number: 9,
                until: Offset(0),
            },
            indexed_from: Some(Offset(0)),
            ..checkpoint()
        };
        assert_eq!(
            decode_checkpoint(&encode_checkpoint(&checkpoint)).unwrap(),
            checkpoint
        );
        let state = KeyState {
            state: Bytes::new(),
            ..state()
        };
        assert_eq!(decode_state(&encoded(&state)).unwrap(), state);
    }

    #[test]
    fn newer_formats_and_damage_are_told_apart() {
        let newer = Bytes::from_static(b"\x03whatever");
        assert!(matches!(
            decode_state(&newer),
            Err(StateError::Newer { found: 3, known: 1 })
        ));
        assert!(matches!(
            decode_checkpoint(&newer),
            Err(StateError::Newer { found: 3, known: 2 })
        ));
        for damaged in [
            &b""[..],
            b"\0",
            b"\x01short",
            b"\x01\x08",
            b"\x01\x1a\x01\x09",
        ] {
            let damaged = Bytes::from_static(damaged);
            assert!(
                matches!(decode_state(&damaged), Err(StateError::Corrupt(_))),
                "{damaged:?}"
            );
            assert!(
                matches!(decode_checkpoint(&damaged), Err(StateError::Corrupt(_))),
                "{damaged:?}"
            );
        }
    }
}
