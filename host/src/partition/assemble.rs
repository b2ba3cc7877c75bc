//! Records of a batch → the columns of one call. Groups events by key, and stops where a record
//! cannot go into a plugin at all.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::step::{Poison, States};
use crate::limits;
use crate::log::{Partitioner, RecordBatch, RecordRef};
use crate::plugin::{FoldInput, HeadersColumn};
use crate::types::{Offset, Partition};

/// What every record of a partition is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Number of the partition.
    pub partition: Partition,
    /// How many partitions its topic has.
    pub partitions: u32,
    /// How its keys were spread.
    pub partitioner: Partitioner,
    /// Whether the plugin asked for headers.
    pub headers: bool,
}

/// One call's columns, with what is needed to read its answer.
#[derive(Debug, Default)]
pub(super) struct Assembled {
    /// The columns.
    pub(super) input: FoldInput,
    /// Per key of the input: offset and timestamp of its last event in this call.
    pub(super) last_events: Vec<(Offset, i64)>,
    /// Keys of the input by their hash.
    entities: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Assembled {
    /// Fills the columns with the records from `from` on, at most `events_max`, and fewer where
    /// their states would not fit. Returns how many went in and, if it stopped at one that cannot
    /// be folded, why.
    pub(super) fn fill(
        &mut self,
        batch: &RecordBatch,
        from: usize,
        events_max: usize,
        states: &dyn States,
        source: Source,
    ) -> (usize, Option<Poison>) {
        self.input.clear();
        self.last_events.clear();
        self.entities.clear();
        self.input.partition = source.partition.0;
        if source.headers {
            self.input.headers = Some(HeadersColumn::default());
        }
        let until = batch.len().min(from + events_max);
        for index in from..until {
            let record = batch.get(index);
            let key = match check_key(&record, source) {
                Ok(key) => key,
                Err((code, reason)) => {
                    return (
                        index - from,
                        Some(Poison {
                            index,
                            code: code.to_owned(),
                            reason,
                        }),
                    );
                }
            };
            let hash = self.hasher.hash_one(key);
            let entity = if let Some(entity) = self.entity(hash, key) {
                entity
            } else {
                let full = self.input.states.items.data.len() >= limits::BATCH_STATE_BYTES_MAX;
                if full && index > from {
                    return (index - from, None);
                }
                self.push_key(hash, key, states.state(key))
            };
            self.push_event(&record, entity);
        }
        (until - from, None)
    }

    fn entity(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let keys = &self.input.keys;
        let found = self
            .entities
            .find(hash, |entity| keys.get(*entity as usize) == key);
        found.copied()
    }

    fn push_key(&mut self, hash: u64, key: &[u8], state: Option<&[u8]>) -> u32 {
        let entity = u32::try_from(self.input.keys.len()).expect("a batch is bounded");
        self.input.keys.push(key);
        self.input.states.push(state);
        let (keys, hasher) = (&self.input.keys, &self.hasher);
        let hash_of = |entity: &u32| hasher.hash_one(keys.get(*entity as usize));
        self.entities.insert_unique(hash, entity, hash_of);
        self.last_events.push((Offset(0), 0));
        entity
    }

    fn push_event(&mut self, record: &RecordRef<'_>, entity: u32) {
        self.last_events[entity as usize] = (record.offset, record.timestamp_ms);
        self.input.entities.push(entity);
        self.input.values.push(record.value);
        self.input.inputs.push(0);
        self.input.timestamps_ms.push(record.timestamp_ms);
        self.input.offsets.push(record.offset.0);
        if let Some(headers) = &mut self.input.headers {
            let of_record = record.headers();
            headers
                .counts
                .push(u32::try_from(of_record.len()).expect("a record is bounded"));
            for (name, value) in of_record {
                headers.names.push(name.as_bytes());
                headers.values.push(value);
            }
        }
    }
}

fn check_key<'a>(
    record: &RecordRef<'a>,
    source: Source,
) -> Result<&'a [u8], (&'static str, String)> {
    let Some(key) = record.key else {
        return Err((
            "event-without-key",
            "the record has no key, so it belongs to no state; write records with keys to this topic"
                .to_owned(),
        ));
    };
    if key.len() > limits::KEY_BYTES_MAX {
        return Err((
            "key-too-long",
            format!(
                "its key has {} bytes, more than {}",
                key.len(),
                limits::KEY_BYTES_MAX
            ),
        ));
    }
    let expected = source.partitioner.partition(key, source.partitions);
    if expected != source.partition {
        return Err((
            "key-not-of-partition",
            format!(
                "its key belongs to partition {expected} by the input's partitioner; whoever writes \
                 this topic spreads keys in another way: set `partitioner` of the input"
            ),
        ));
    }
    Ok(key)
}
