//! A partition in a test: routes, folds and keeps, as the host does.
//!
//! Called by the driver and its checks. Invariant: nothing that the glue returns is taken over before
//! [`pack`] has checked it.

use std::collections::BTreeMap;

use super::route::{Arrival, RouteFn, arrivals};
use super::{Record, pack};
use crate::abi::types::Rejection;
use crate::columns::{ABSENT, UNCHANGED};
use crate::fold::step;
use crate::{Reject, Timestamp, View};

/// The states of a partition and where it stands.
#[derive(Default)]
pub(super) struct Partition {
    pub(super) states: BTreeMap<Vec<u8>, Vec<u8>>,
    /// When each key changed last; of keys that have no state any more too.
    pub(super) changes: BTreeMap<Vec<u8>, Change>,
    /// Names the keys of a record, if the driver is asked to route.
    pub(super) route: Option<RouteFn>,
    /// What is folded are the events of a command handler: before they have offsets.
    pub(super) own_topic: bool,
    /// How many events each key of a command handler has had.
    versions: BTreeMap<Vec<u8>, u64>,
    /// Of the input: how many records have come.
    received: u64,
    /// Of what is folded: a record that has several keys has several offsets.
    next_offset: u64,
}

/// The last record of the batch that changed a key.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) offset: u64,
    pub(super) timestamp: Timestamp,
}

/// What comes of a batch, beside new states.
#[derive(Default)]
pub(super) struct Outcome {
    /// In the order of the records.
    pub(super) rejected: Vec<Rejected>,
    /// In the order of publishing.
    pub(super) outputs: Vec<Record>,
}

/// A record of a batch that was not applied.
pub(super) struct Rejected {
    pub(super) index: usize,
    /// The key under which it would have been folded; its own, if it has no other.
    pub(super) key: Vec<u8>,
    pub(super) reject: Reject,
}

impl Partition {
    /// A partition that begins with some states.
    pub(super) fn new(
        states: BTreeMap<Vec<u8>, Vec<u8>>,
        route: Option<RouteFn>,
        own_topic: bool,
    ) -> Self {
        Self {
            states,
            route,
            own_topic,
            ..Self::default()
        }
    }

    /// The version of a key that has a state: the offset of the last change, or of a command handler the
    /// number of its events.
    pub(super) fn version(&self, key: &[u8]) -> Option<u64> {
        self.states.get(key)?;
        if self.own_topic {
            return Some(self.versions.get(key).copied().unwrap_or(0));
        }
        self.changes.get(key).map(|change| change.offset)
    }

    /// Folds one batch.
    pub(super) fn fold<V: View>(&mut self, batch: &[Record]) -> Outcome {
        let (arrivals, unplaced) = arrivals(batch, self.received, self.route);
        self.received += batch.len() as u64;
        let rejected = unplaced.into_iter().map(|(index, reject)| Rejected {
            index,
            key: batch[index].key().unwrap_or_default().to_vec(),
            reject,
        });
        let mut outcome = Outcome {
            rejected: rejected.collect(),
            outputs: Vec::new(),
        };
        if arrivals.is_empty() {
            return outcome;
        }
        let routed = self.route.is_some();
        let offset = (!self.own_topic).then_some(self.next_offset);
        let (states, events) = pack::events(&arrivals, &self.states, offset, routed);
        let (folded, emitted) = step::<V>(&states, &events);
        pack::check(&states, &folded);
        outcome.outputs = pack::unpack(&emitted, &events, &folded);
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
                timestamp: arrivals[last].record.timestamp,
            };
            self.changes.insert(key.to_vec(), change);
        }
        self.next_offset += arrivals.len() as u64;
        if self.own_topic {
            self.count(&arrivals, &folded.rejected);
        }
        let rejected = folded.rejected.into_iter().map(|rejection| {
            let arrival = &arrivals[rejection.index as usize];
            Rejected {
                index: arrival.index,
                key: arrival.key.clone(),
                reject: Reject::new(rejection.code, rejection.reason),
            }
        });
        outcome.rejected.extend(rejected);
        outcome.rejected.sort_by_key(|rejected| rejected.index);
        outcome
    }

    /// Counts the events that were applied.
    fn count(&mut self, arrivals: &[Arrival<'_>], rejected: &[Rejection]) {
        for (index, arrival) in arrivals.iter().enumerate() {
            if rejected.iter().all(|r| r.index as usize != index) {
                *self.versions.entry(arrival.key.clone()).or_default() += 1;
            }
        }
    }
}
