//! Records of a merge topic: copies of the inputs' records, each with where it was and which key it had.
//! Written by the merge stage, read wherever a partition's records are.
//!
//! Invariant: the marks are headers of the host's own, and no plugin sees them.

use bytes::Bytes;
use prost::Message as _;

use crate::limits;
use crate::log::{Header, RecordRef};
use crate::types::{Offset, Partition, RecordPosition, TopicName};

#[allow(
    unreachable_pub,
    clippy::doc_markdown,
    reason = "generated from proto/merge.proto"
)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/foldhost.merge.v1.rs"));
}

/// Header of a copy: where the record was.
const ORIGIN: &str = "foldhost-origin";
/// Header of a copy under another key: the record's own, or null.
const RECORD_KEY: &str = "foldhost-record-key";

/// Most bytes that the marks add to a record, besides its key.
pub(super) const MARKS_BYTES_MAX: usize =
    ORIGIN.len() + RECORD_KEY.len() + limits::TOPIC_NAME_LENGTH_MAX + 32;

/// Whether a header is one of the marks.
pub(super) fn is_mark(name: &str) -> bool {
    name == ORIGIN || name == RECORD_KEY
}

/// The marks of a copy of the record at `origin`, which had `record_key` if the copy has another.
pub(super) fn marks(
    origin: &RecordPosition,
    record_key: Option<Option<&[u8]>>,
) -> impl Iterator<Item = Header> {
    let wire = proto::Origin {
        topic: origin.topic.to_string(),
        partition: origin.partition.0,
        offset: origin.offset.0,
    };
    let origin = (ORIGIN.into(), Some(Bytes::from(wire.encode_to_vec())));
    let record_key = record_key.map(|key| (RECORD_KEY.into(), key.map(Bytes::copy_from_slice)));
    std::iter::once(origin).chain(record_key)
}

/// Where a copied record was; `None` for what is no copy.
pub(super) fn origin(record: &RecordRef<'_>) -> Option<RecordPosition> {
    let (_, mark) = record.headers().find(|(name, _)| *name == ORIGIN)?;
    let origin = proto::Origin::decode(mark?).ok()?;
    Some(RecordPosition {
        topic: TopicName::new(&origin.topic).ok()?,
        partition: Partition(origin.partition),
        offset: Offset(origin.offset),
    })
}

/// The key that a record had in its input.
pub(super) fn record_key<'a>(record: &RecordRef<'a>) -> Option<&'a [u8]> {
    let mut headers = record.headers();
    match headers.find(|(name, _)| *name == RECORD_KEY) {
        Some((_, key)) => key,
        None => record.key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::RecordBatch;

    #[test]
    fn a_copy_says_where_it_was_and_which_key_it_had() {
        let at = RecordPosition {
            topic: TopicName::new("groups").unwrap(),
            partition: Partition(2),
            offset: Offset(77),
        };
        for had in [None, Some(None), Some(Some(&b"own"[..]))] {
            let marks: Vec<Header> = marks(&at, had).collect();
            let marks = marks.iter();
            let mut batch = RecordBatch::new();
            let headers: Vec<_> = marks
                .map(|(name, value)| (&**name, value.as_deref()))
                .collect();
            batch.push(Offset(3), 0, Some(b"routed"), None, headers.iter().copied());
            let copy = batch.get(0);
            assert_eq!(origin(&copy), Some(at.clone()));
            let own = had.unwrap_or(Some(b"routed"));
            assert_eq!(record_key(&copy), own);
            assert!(copy.headers().all(|(name, _)| is_mark(name)));
        }
    }

    #[test]
    fn what_is_no_copy_has_its_own_key() {
        let mut batch = RecordBatch::new();
        batch.push(
            Offset(3),
            0,
            Some(b"key"),
            None,
            [(ORIGIN, Some(&b"\xff"[..]))],
        );
        assert_eq!(origin(&batch.get(0)), None);
        assert_eq!(record_key(&batch.get(0)), Some(&b"key"[..]));
    }
}
