//! From records to chunks: checks everything about an append that can be checked before it queues,
//! and encodes it in the caller's task, so that the writer thread only joins and writes.
//! Called by `EmbeddedLog::append` and the transactional writer.
//!
//! Invariant: what is prepared is valid; only a topic that is deleted meanwhile can refuse it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::catalog::TopicState;
use super::format::{self, Chunk};
use crate::limits;
use crate::log::{Header, HeaderRef, LogError, NewRecord};
use crate::types::{Offset, Partition};

/// A chunk for one partition.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) topic: Arc<TopicState>,
    pub(super) partition: Partition,
    pub(super) chunk: Chunk,
}

/// Where each record of an append went, once it is known where each piece did.
#[derive(Debug)]
pub(super) struct Places(Vec<(Partition, usize, u32)>);

impl Places {
    /// Partition and offset of each record, in order; `bases` holds the offset of each piece's
    /// first record.
    pub(super) fn resolve(&self, bases: &[Offset]) -> Vec<(Partition, Offset)> {
        self.0
            .iter()
            .map(|(partition, piece, index)| {
                (*partition, Offset(bases[*piece].0 + u64::from(*index)))
            })
            .collect()
    }
}

/// Checks records, and returns the bytes that they will take in the queue.
///
/// # Errors
/// [`LogError::RecordTooLarge`]; [`LogError::Rejected`] for a key that is too long;
/// [`LogError::UnknownPartition`].
pub(super) fn check(
    records: &[(Arc<TopicState>, NewRecord)],
    record_bytes_max: usize,
) -> Result<usize, LogError> {
    let mut total = 0_usize;
    for (index, (topic, record)) in records.iter().enumerate() {
        let bytes = size(record);
        if bytes > record_bytes_max {
            return Err(LogError::RecordTooLarge {
                index,
                bytes,
                bytes_max: record_bytes_max,
            });
        }
        let key_bytes = record.key.as_ref().map_or(0, Bytes::len);
        if key_bytes > limits::KEY_BYTES_MAX {
            return Err(LogError::Rejected(format!(
                "the key of record {index} has {key_bytes} bytes, more than the {} that a key may \
                 have: use a shorter key",
                limits::KEY_BYTES_MAX
            )));
        }
        if record.partition.is_some() {
            topic.choose(record)?;
        }
        total = total.saturating_add(bytes + record_overhead(record));
    }
    Ok(total)
}

/// Encodes checked records; `now_ms` is the time of those that have none.
///
/// # Errors
/// None for records that [`check`] has passed.
pub(super) fn encode(
    records: &[(Arc<TopicState>, NewRecord)],
    now_ms: i64,
) -> Result<(Vec<Piece>, Places), LogError> {
    let mut pieces: Vec<Piece> = Vec::new();
    // The piece of each partition that still has room.
    let mut open: HashMap<(u32, Partition), usize> = HashMap::new();
    let mut places = Vec::with_capacity(records.len());
    for (topic, record) in records {
        let partition = topic.choose(record)?;
        let bytes = size(record) + record_overhead(record);
        let place = (topic.entry.number, partition);
        let fits = |piece: &usize| {
            pieces[*piece].chunk.bytes() + bytes <= limits::EMBEDDED_CHUNK_BYTES_MAX
        };
        let piece = match open.get(&place).copied().filter(fits) {
            Some(piece) => piece,
            None => {
                let chunk = Chunk::with_capacity(bytes);
                pieces.push(Piece {
                    topic: Arc::clone(topic),
                    partition,
                    chunk,
                });
                open.insert(place, pieces.len() - 1);
                pieces.len() - 1
            }
        };
        let chunk = &mut pieces[piece].chunk;
        places.push((partition, piece, chunk.count()));
        chunk.push(
            record.timestamp_ms.unwrap_or(now_ms),
            record.key.as_deref(),
            record.value.as_deref(),
            record.headers.iter().map(header_ref),
        );
    }
    Ok((pieces, Places(places)))
}

fn size(record: &NewRecord) -> usize {
    format::record_bytes(
        record.key.as_deref(),
        record.value.as_deref(),
        record.headers.iter().map(header_ref),
    )
}

/// Most bytes that encoding adds to a record: timestamp and lengths.
fn record_overhead(record: &NewRecord) -> usize {
    32 + 10 * record.headers.len()
}

fn header_ref((name, value): &Header) -> HeaderRef<'_> {
    (name, value.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::embedded::format::TopicEntry;
    use crate::types::TopicName;

    fn records(values: &[usize]) -> Vec<(Arc<TopicState>, NewRecord)> {
        let entry = TopicEntry {
            number: 1,
            id: [0; 16],
            partitions: 2,
            compact: false,
            created_ms: 0,
        };
        let topic = Arc::new(TopicState::new(
            TopicName::new("t").unwrap(),
            entry,
            &[0, 0],
        ));
        let record = |(index, length): (usize, &usize)| NewRecord {
            value: Some(vec![0; *length].into()),
            partition: Some(Partition(index as u32 % 2)),
            ..NewRecord::default()
        };
        values
            .iter()
            .enumerate()
            .map(record)
            .map(|record| (Arc::clone(&topic), record))
            .collect()
    }

    #[test]
    fn records_are_grouped_by_partition_and_split_by_size() {
        let large = limits::EMBEDDED_CHUNK_BYTES_MAX;
        let (pieces, places) = encode(&records(&[10, 10, 10, large, 10, 10]), 0).unwrap();
        let shape: Vec<(u32, u32)> = pieces
            .iter()
            .map(|piece| (piece.partition.0, piece.chunk.count()))
            .collect();
        assert_eq!(shape, [(0, 3), (1, 1), (1, 1), (1, 1)]);
        let bases = [Offset(100), Offset(7), Offset(8), Offset(9)];
        let placed: Vec<(u32, u64)> = places
            .resolve(&bases)
            .iter()
            .map(|(partition, at)| (partition.0, at.0))
            .collect();
        assert_eq!(
            placed,
            [(0, 100), (1, 7), (0, 101), (1, 8), (0, 102), (1, 9)]
        );
    }

    #[test]
    fn too_large_records_and_keys_are_refused_by_their_index() {
        let refused = check(&records(&[10, 101]), 100).unwrap_err();
        assert!(
            matches!(
                refused,
                LogError::RecordTooLarge {
                    index: 1,
                    bytes: 101,
                    bytes_max: 100
                }
            ),
            "{refused:?}"
        );
        let mut keyed = records(&[1]);
        keyed[0].1.key = Some(vec![0; limits::KEY_BYTES_MAX + 1].into());
        assert!(matches!(
            check(&keyed, usize::MAX),
            Err(LogError::Rejected(_))
        ));
    }
}
