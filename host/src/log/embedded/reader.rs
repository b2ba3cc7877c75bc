//! Reads a partition of the embedded log: decodes stored chunks straight into the caller's batch,
//! and waits on the partition's tail when there is nothing left. Opened by the reader set.
//!
//! Reading happens in the caller's task: it is bounded by the caller's limits and mostly a copy from
//! memory; handing it to another thread would cost more than it saves.
//!
//! Invariant: only what is in front of the tail is read, so everything read is durable; a record that
//! should be there and is not stops the reader, it is never skipped.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::Shared;
use super::catalog::{Tail, TopicState};
use super::format::{ChunkCursor, Damaged};
use super::store::{Store, StoredChunk};
use crate::log::{LogError, PartitionReader, Read, ReadLimits, ReaderSet, RecordBatch};
use crate::types::{Offset, Partition, TopicPartition};

/// Opens readers. On the embedded log they share nothing but the log.
#[derive(Debug)]
pub(super) struct EmbeddedReaderSet(pub(super) Arc<Shared>);

#[async_trait]
impl ReaderSet for EmbeddedReaderSet {
    async fn open(
        &self,
        of: &TopicPartition,
        from: Offset,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        let topic = self.0.catalog.get(&of.topic)?;
        let range = Offset(0)..topic.end(of.partition)?;
        if from > range.end {
            return Err(LogError::OffsetOutOfRange {
                of: of.clone(),
                wanted: from,
                range,
            });
        }
        let tail = topic.watch(of.partition)?;
        let log = Arc::clone(&self.0);
        let reader = EmbeddedReader {
            log,
            topic,
            partition: of.partition,
            tail,
            next: from.0,
            rest: None,
            sought: false,
            end_told: false,
        };
        Ok(Box::new(reader))
    }
}

/// A reader of one partition.
#[derive(Debug)]
struct EmbeddedReader {
    log: Arc<Shared>,
    topic: Arc<TopicState>,
    partition: Partition,
    tail: watch::Receiver<Tail>,
    /// The next offset to deliver.
    next: u64,
    /// A chunk that was delivered in part.
    rest: Option<(StoredChunk, ChunkCursor)>,
    /// Whether `next` is known to be the base of a chunk, or in a gap in front of one.
    sought: bool,
    /// Whether the end was told since the last record.
    end_told: bool,
}

#[async_trait]
impl PartitionReader for EmbeddedReader {
    async fn read(&mut self, into: &mut RecordBatch, limits: ReadLimits) -> Result<Read, LogError> {
        loop {
            if self.fill(into, limits)? {
                self.end_told = false;
                return Ok(Read::Records);
            }
            if !self.end_told {
                self.end_told = true;
                return Ok(Read::EndOfPartition);
            }
            // The topic is held by this reader, so its tails stay.
            self.tail
                .changed()
                .await
                .map_err(|_| super::catalog::closed())?;
        }
    }
}

impl EmbeddedReader {
    /// Copies what is there, up to the limits; false when nothing is.
    fn fill(&mut self, into: &mut RecordBatch, limits: ReadLimits) -> Result<bool, LogError> {
        let end = self.topic.end_in(*self.tail.borrow_and_update())?.0;
        if self.next >= end {
            return Ok(false);
        }
        let mut room = Room::new(limits);
        match self.fill_until(end, into, &mut room) {
            // What was copied before an error is delivered first; the next call meets it again.
            Err(_) if room.records > 0 => Ok(true),
            // A topic that was deleted meanwhile loses its chunks: that is no damage.
            Err(LogError::Corrupt(_)) if self.topic.end(self.partition).is_err() => {
                self.topic.end(self.partition).map(|_| false)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    }

    fn fill_until(
        &mut self,
        end: u64,
        into: &mut RecordBatch,
        room: &mut Room,
    ) -> Result<(), LogError> {
        let store = self.log.store()?;
        if !self.sought {
            self.seek(&store)?;
        }
        if !self.deliver_rest(into, room)? {
            return Ok(());
        }
        for chunk in store.chunks(self.topic.entry.number, self.partition.0, self.next, end) {
            let chunk = chunk?;
            // Only compaction leaves gaps.
            if chunk.base != self.next && !self.topic.entry.compact {
                return Err(self.missing());
            }
            let cursor = ChunkCursor::new(chunk.base, chunk.header);
            self.rest = Some((chunk, cursor));
            if !self.deliver_rest(into, room)? {
                return Ok(());
            }
        }
        if room.records == 0 {
            return Err(self.missing());
        }
        // The last record of a partition is never compacted away, so the end was delivered.
        Ok(())
    }

    /// Finds the chunk that `next` lies in, unless it starts one.
    fn seek(&mut self, store: &Store) -> Result<(), LogError> {
        let number = self.topic.entry.number;
        let found = store.chunk_at_or_before(number, self.partition.0, self.next)?;
        if let Some(chunk) = found.filter(|chunk| chunk.header.last >= self.next) {
            let mut cursor = ChunkCursor::new(chunk.base, chunk.header);
            while let Some((record, behind)) = cursor
                .next(&chunk.value)
                .map_err(|damaged| self.damaged(damaged))?
            {
                if record.offset >= self.next {
                    break;
                }
                cursor = behind;
            }
            self.rest = Some((chunk, cursor));
        }
        self.sought = true;
        Ok(())
    }

    /// Copies from the chunk that is open; false when the limits are reached.
    fn deliver_rest(&mut self, into: &mut RecordBatch, room: &mut Room) -> Result<bool, LogError> {
        let Some((chunk, mut cursor)) = self.rest.take() else {
            return Ok(true);
        };
        let last = chunk.header.last;
        loop {
            let next = cursor
                .next(&chunk.value)
                .map_err(|damaged| self.damaged(damaged));
            let (record, behind) = match next {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(error) => {
                    self.rest = Some((chunk, cursor));
                    return Err(error);
                }
            };
            if !room.take(record.size()) {
                self.rest = Some((chunk, cursor));
                return Ok(false);
            }
            into.push(
                Offset(record.offset),
                record.timestamp_ms,
                record.key,
                record.value,
                record.headers,
            );
            self.next = record.offset + 1;
            cursor = behind;
        }
        self.next = last + 1;
        Ok(!room.is_full())
    }

    fn damaged(&self, damaged: Damaged) -> LogError {
        LogError::Corrupt(format!(
            "{}/{} near offset {}: {damaged}",
            self.topic.name, self.partition, self.next
        ))
    }

    fn missing(&self) -> LogError {
        LogError::Corrupt(format!(
            "{}/{} lacks the record {}: restore the log's folder from a backup",
            self.topic.name, self.partition, self.next
        ))
    }
}

/// What a read may still append.
#[derive(Debug)]
struct Room {
    limits: ReadLimits,
    records: usize,
    bytes: usize,
}

impl Room {
    fn new(limits: ReadLimits) -> Self {
        Self {
            limits,
            records: 0,
            bytes: 0,
        }
    }

    /// Takes room for a record; the first one always fits.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.records == 0
            || (self.records < self.limits.records_max
                && self.bytes + bytes <= self.limits.bytes_max);
        if fits {
            self.records += 1;
            self.bytes += bytes;
        }
        fits
    }

    fn is_full(&self) -> bool {
        self.records >= self.limits.records_max || self.bytes >= self.limits.bytes_max
    }
}

/// Offset of the first record with at least this timestamp, or `end`. Reads the headers of all
/// chunks in front of it: timestamps may go back, so there is nothing to search by.
///
/// # Errors
/// [`LogError::Corrupt`], [`LogError::Unavailable`].
pub(super) fn offset_at(
    store: &Store,
    topic: &TopicState,
    partition: Partition,
    end: Offset,
    timestamp_ms: i64,
) -> Result<Offset, LogError> {
    for chunk in store.chunks(topic.entry.number, partition.0, 0, end.0) {
        let chunk = chunk?;
        if chunk.header.timestamp_max_ms < timestamp_ms {
            continue;
        }
        let mut cursor = ChunkCursor::new(chunk.base, chunk.header);
        while let Some((record, behind)) = cursor.next(&chunk.value).map_err(|damaged| {
            LogError::Corrupt(format!("{}/{partition}: {damaged}", topic.name))
        })? {
            if record.timestamp_ms >= timestamp_ms {
                return Ok(Offset(record.offset));
            }
            cursor = behind;
        }
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_always_fits_and_then_the_limits_hold() {
        let mut room = Room::new(ReadLimits {
            records_max: 3,
            bytes_max: 100,
        });
        assert!(room.take(500));
        assert!(!room.take(0));
        let mut room = Room::new(ReadLimits {
            records_max: 3,
            bytes_max: 100,
        });
        assert!(room.take(60));
        assert!(!room.take(41));
        assert!(room.take(40));
        assert!(room.is_full());
        let mut room = Room::new(ReadLimits {
            records_max: 2,
            bytes_max: 100,
        });
        assert!(room.take(0) && room.take(0) && !room.take(0));
    }
}
