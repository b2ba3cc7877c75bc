//! Packing records into a batch and taking the folded states back, as the host does.
//!
//! Called by the driver and its checks. Invariant: nothing that the glue returns is believed before
//! its columns are checked.

use std::collections::BTreeMap;

use super::Record;
use crate::abi::types::{BytesColumn, Events, Folded, Headers, OptionalColumn, States};
use crate::columns::{ABSENT, PRESENT, UNCHANGED};
use crate::fold::fold_batch;
use crate::{Reject, Timestamp, View};

/// The states of a partition and where it stands.
#[derive(Default)]
pub(super) struct Partition {
    pub(super) states: BTreeMap<Vec<u8>, Vec<u8>>,
    /// When each key changed last; of keys that have no state any more too.
    pub(super) changes: BTreeMap<Vec<u8>, Change>,
    next_offset: u64,
}

/// The last record of the batch that changed a key.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) offset: u64,
    pub(super) timestamp: Timestamp,
}

impl Partition {
    /// Folds one batch, and gives the rejected records by their index in it.
    pub(super) fn fold<V: View>(&mut self, batch: &[Record]) -> Vec<(usize, Reject)> {
        if batch.is_empty() {
            return Vec::new();
        }
        let (states, events) = self.pack(batch);
        let folded = fold_batch::<V>(&states, &events);
        check(&states, &folded);
        for (entity, mark) in folded.values.marks.iter().enumerate() {
            let key = states.keys.item(entity);
            match *mark {
                UNCHANGED => continue,
                ABSENT => self.states.remove(key),
                _ => {
                    let state = folded.values.item(entity).unwrap_or_default();
                    self.states.insert(key.to_vec(), state.to_vec())
                }
            };
            let last = events.entities.iter().rposition(|e| *e as usize == entity);
            let last = last.expect("every key of a batch has an event");
            let change = Change {
                offset: self.next_offset + last as u64,
                timestamp: batch[last].timestamp,
            };
            self.changes.insert(key.to_vec(), change);
        }
        self.next_offset += batch.len() as u64;
        let rejected = folded.rejected.into_iter();
        rejected
            .map(|r| (r.index as usize, Reject::new(r.code, r.reason)))
            .collect()
    }

    fn pack(&self, batch: &[Record]) -> (States, Events) {
        let mut states = States {
            keys: BytesColumn::empty(),
            values: OptionalColumn::with_capacity(0, 0),
        };
        let mut headers = Headers {
            counts: Vec::new(),
            names: BytesColumn::empty(),
            values: OptionalColumn::with_capacity(0, 0),
        };
        let mut values = OptionalColumn::with_capacity(batch.len(), 0);
        let mut entities = Vec::new();
        let mut known = BTreeMap::new();
        for record in batch {
            let next = states.keys.len() as u32;
            let entity = *known.entry(&record.key).or_insert(next);
            if entity == next {
                states.keys.push(&record.key);
                let state = self.states.get(&record.key);
                states.values.push(state.map(Vec::as_slice));
            }
            entities.push(entity);
            values.push(record.value.as_deref());
            headers.counts.push(record.headers.len() as u32);
            for (name, value) in &record.headers {
                headers.names.push(name.as_bytes());
                headers.values.push(value.as_deref());
            }
        }
        let offsets = (self.next_offset..).take(batch.len()).collect();
        let events = Events {
            partition: 0,
            entities,
            values,
            inputs: batch.iter().map(|record| record.input).collect(),
            timestamps: batch.iter().map(|r| r.timestamp.millis()).collect(),
            offsets: Some(offsets),
            record_keys: None,
            origins: None,
            headers: Some(headers),
        };
        (states, events)
    }
}

/// What the host checks before it believes an answer.
fn check(states: &States, folded: &Folded) {
    let values = &folded.values;
    let keys = states.keys.len();
    assert_eq!(values.ends.len(), keys, "one end per key");
    assert_eq!(values.marks.len(), keys, "one mark per key");
    assert_eq!(
        values.ends.last().copied().unwrap_or(0) as usize,
        values.data.len(),
        "the last end is the length of the data"
    );
    let mut start = 0;
    for (entity, (&end, &mark)) in values.ends.iter().zip(&values.marks).enumerate() {
        assert!(end >= start, "ends never decrease");
        match mark {
            PRESENT => {}
            UNCHANGED => {
                assert_eq!(end, start, "an unchanged state has no bytes");
                assert_ne!(
                    states.values.marks[entity], ABSENT,
                    "what changed not must be there"
                );
            }
            ABSENT => assert_eq!(end, start, "an absent state has no bytes"),
            mark => panic!("{mark} is no mark"),
        }
        start = end;
    }
    let ordered = folded.rejected.windows(2);
    assert!(
        ordered
            .into_iter()
            .all(|pair| pair[0].index < pair[1].index),
        "rejections come by increasing index, at most one per event"
    );
}
