//! Background work of the writer thread, in bounded steps between groups of appends: removing the
//! chunks of deleted topics, and compacting topics that only need the newest record of a key.
//!
//! Invariant: whatever step a crash interrupts, every reader still sees a correct log; work that was
//! not finished is found again when the log is opened.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::catalog::TopicState;
use super::format::{self, Chunk, ChunkCursor, Damaged, Stored};
use super::store::{Batch, Store, StoredChunk};
use crate::limits;
use crate::log::LogError;
use crate::types::Partition;

/// What is still to be done.
#[derive(Debug, Default)]
pub(super) struct Chores {
    queue: VecDeque<Chore>,
    growth: HashMap<(u32, Partition), Growth>,
}

#[derive(Debug)]
enum Chore {
    /// Remove the chunks of a deleted topic.
    Remove(u32),
    Compact(Compaction),
}

/// How much a partition of a compacted topic has grown since it was last compacted.
#[derive(Debug, Default)]
struct Growth {
    new_bytes: usize,
    /// What the last pass left: waiting for as much again makes the work linear.
    kept_bytes: usize,
    queued: bool,
}

impl Chores {
    /// The work that is due when a log is opened: what was interrupted, and one pass over every
    /// compacted topic, since how far it has grown is not known.
    pub(super) fn new(doomed: &[u32], topics: &[Arc<TopicState>]) -> Self {
        let mut chores = Self::default();
        chores
            .queue
            .extend(doomed.iter().copied().map(Chore::Remove));
        for topic in topics {
            for partition in (0..topic.entry.partitions).map(Partition) {
                if topic.end(partition).is_ok_and(|end| end.0 > 0) {
                    chores.grown(topic, partition, limits::EMBEDDED_COMPACT_BYTES_MIN);
                }
            }
        }
        chores
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Gives everything up.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    /// A topic was deleted.
    pub(super) fn doom(&mut self, topic: u32) {
        self.growth.retain(|(number, _), _| *number != topic);
        self.queue.push_back(Chore::Remove(topic));
    }

    /// A partition has grown.
    pub(super) fn grown(&mut self, topic: &Arc<TopicState>, partition: Partition, bytes: usize) {
        if !topic.entry.compact {
            return;
        }
        let growth = self
            .growth
            .entry((topic.entry.number, partition))
            .or_default();
        growth.new_bytes += bytes;
        let due = growth.new_bytes >= growth.kept_bytes.max(limits::EMBEDDED_COMPACT_BYTES_MIN);
        if due && !growth.queued {
            *growth = Growth {
                new_bytes: 0,
                kept_bytes: 0,
                queued: true,
            };
            let compaction = Compaction::new(Arc::clone(topic), partition);
            self.queue.push_back(Chore::Compact(compaction));
        }
    }

    /// Does a bounded step of the first chore, if there is one. A chore that fails is dropped.
    ///
    /// # Errors
    /// What the store says.
    pub(super) fn step(&mut self, store: &Store) -> Result<(), LogError> {
        let Some(chore) = self.queue.pop_front() else {
            return Ok(());
        };
        match chore {
            Chore::Remove(topic) => {
                if !remove_step(store, topic)? {
                    self.queue.push_front(Chore::Remove(topic));
                }
            }
            Chore::Compact(mut compaction) => {
                let place = (compaction.topic.entry.number, compaction.partition);
                let step = compaction.step(store);
                if matches!(step, Ok(false)) {
                    self.queue.push_front(Chore::Compact(compaction));
                } else if let Some(growth) = self.growth.get_mut(&place) {
                    growth.kept_bytes = compaction.kept_bytes;
                    growth.queued = false;
                }
                step?;
            }
        }
        Ok(())
    }
}

/// Removes some chunks of a deleted topic; true when none is left.
fn remove_step(store: &Store, topic: u32) -> Result<bool, LogError> {
    let keys = store.chunk_keys(topic, limits::EMBEDDED_CHORE_CHUNKS_MAX)?;
    let mut batch = store.batch();
    for key in &keys {
        store.remove(&mut batch, key);
    }
    if keys.is_empty() {
        store.remove(&mut batch, &format::doomed_key(topic));
    }
    store.commit(batch)?;
    Ok(keys.is_empty())
}

/// One pass over a partition: first it learns the newest offset of each key, then it takes out what
/// is superseded. Records without a key and tombstones stay; so does the last record of the
/// partition, whose offset says where the next one goes.
#[derive(Debug)]
struct Compaction {
    topic: Arc<TopicState>,
    partition: Partition,
    /// Records from here on are left alone.
    until: u64,
    /// By a hash of the key, seeded with the topic's random id. At 128 bits two keys do not meet.
    newest: HashMap<u128, u64>,
    phase: Phase,
    kept_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Learning, from this offset on.
    Learn(u64),
    /// Taking out, from this offset on.
    Rewrite(u64),
}

impl Compaction {
    fn new(topic: Arc<TopicState>, partition: Partition) -> Self {
        let until = topic.end(partition).map_or(0, |end| end.0);
        let newest = HashMap::new();
        Self {
            topic,
            partition,
            until,
            newest,
            phase: Phase::Learn(0),
            kept_bytes: 0,
        }
    }

    /// Does a bounded part; true when the pass is over.
    fn step(&mut self, store: &Store) -> Result<bool, LogError> {
        if self.topic.end(self.partition).is_err() {
            return Ok(true);
        }
        match self.phase {
            Phase::Learn(from) => {
                let behind = self.learn(store, from)?;
                self.phase = behind.map_or(Phase::Rewrite(0), Phase::Learn);
                Ok(false)
            }
            Phase::Rewrite(from) => {
                let behind = self.rewrite(store, from)?;
                if let Some(from) = behind {
                    self.phase = Phase::Rewrite(from);
                }
                Ok(behind.is_none())
            }
        }
    }

    /// Reads on from `from`; returns where to go on, or `None` at the end.
    fn learn(&mut self, store: &Store, from: u64) -> Result<Option<u64>, LogError> {
        let mut bytes = 0;
        for chunk in store.chunks(self.topic.entry.number, self.partition.0, from, self.until) {
            let chunk = chunk?;
            let full = self
                .learn_chunk(&chunk)
                .map_err(|damaged| self.corrupt(damaged))?;
            if full {
                return Ok(None);
            }
            bytes += chunk.value.len();
            if bytes >= limits::EMBEDDED_CHORE_BYTES_MAX {
                return Ok(Some(chunk.header.last + 1));
            }
        }
        Ok(None)
    }

    /// Learns a chunk's keys; true when no more fit, and then the pass ends in front of the first
    /// one that did not.
    fn learn_chunk(&mut self, chunk: &StoredChunk) -> Result<bool, Damaged> {
        let mut cursor = ChunkCursor::new(chunk.base, chunk.header);
        while let Some((record, behind)) = cursor.next(&chunk.value)? {
            cursor = behind;
            let Some(key) = record.key else { continue };
            let hash = self.hash(key);
            let room = self.newest.len() < limits::EMBEDDED_COMPACT_KEYS_MAX;
            if !room && !self.newest.contains_key(&hash) {
                self.until = record.offset;
                return Ok(true);
            }
            self.newest.insert(hash, record.offset);
        }
        Ok(false)
    }

    /// Rewrites from `from` on; returns where to go on, or `None` at the end.
    fn rewrite(&mut self, store: &Store, from: u64) -> Result<Option<u64>, LogError> {
        let mut batch = store.batch();
        let (mut bytes, mut changed, mut behind) = (0, false, None);
        for chunk in store.chunks(self.topic.entry.number, self.partition.0, from, self.until) {
            let chunk = chunk?;
            changed |= self.rewrite_chunk(store, &mut batch, &chunk)?;
            bytes += chunk.value.len();
            if bytes >= limits::EMBEDDED_CHORE_BYTES_MAX {
                behind = Some(chunk.header.last + 1);
                break;
            }
        }
        if changed {
            store.commit(batch)?;
        }
        Ok(behind)
    }

    /// Adds to the batch what becomes of a chunk; false when it stays.
    fn rewrite_chunk(
        &mut self,
        store: &Store,
        batch: &mut Batch,
        chunk: &StoredChunk,
    ) -> Result<bool, LogError> {
        let (kept, superseded_bytes) = self.keep(chunk).map_err(|damaged| self.corrupt(damaged))?;
        // Rewriting a chunk for a few records would cost more than it gives back.
        if kept.count() > 0 && superseded_bytes * 2 < chunk.value.len() {
            self.kept_bytes += chunk.value.len();
            return Ok(false);
        }
        let key = format::chunk_key(self.topic.entry.number, self.partition.0, chunk.base);
        if kept.count() == 0 {
            store.remove(batch, &key);
        } else {
            self.kept_bytes += kept.bytes();
            store.insert(batch, &key, kept.into_value());
        }
        Ok(true)
    }

    /// The records of a chunk that stay, and the bytes of those that do not.
    fn keep(&self, chunk: &StoredChunk) -> Result<(Chunk, usize), Damaged> {
        let mut kept = Chunk::with_capacity(chunk.value.len());
        let mut superseded_bytes = 0;
        let mut next = chunk.base;
        let mut cursor = ChunkCursor::new(chunk.base, chunk.header);
        while let Some((record, behind)) = cursor.next(&chunk.value)? {
            cursor = behind;
            if self.is_superseded(&record) {
                superseded_bytes += record.encoded_bytes();
                continue;
            }
            let gap = u32::try_from(record.offset - next).map_err(|_| Damaged::Content("gap"))?;
            kept.push_stored(gap, &record);
            next = record.offset + 1;
        }
        Ok((kept, superseded_bytes))
    }

    fn is_superseded(&self, record: &Stored<'_>) -> bool {
        record.key.is_some_and(|key| {
            self.newest
                .get(&self.hash(key))
                .is_some_and(|newest| *newest > record.offset)
        })
    }

    fn hash(&self, key: &[u8]) -> u128 {
        let seed = self.topic.entry.id[..8].try_into().expect("8 of 16 bytes");
        xxh3_128_with_seed(key, u64::from_le_bytes(seed))
    }

    fn corrupt(&self, damaged: Damaged) -> LogError {
        LogError::Corrupt(format!("{}/{}: {damaged}", self.topic.name, self.partition))
    }
}
