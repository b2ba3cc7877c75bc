//! The records of a partition that are set aside under `on-error = "park-key"`: an event that could not be
//! applied, and every later one of its key. Kept by the worker, committed with the states, read by `http`.
//!
//! Invariants: of a key, what is parked is all that came since the first; what lies in it is what the
//! log had up to the position that is folded, and no further; it is bounded in records and bytes.

mod action;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

pub use action::{Action, Actions, Discarded};

use super::merged;
use super::publish::Ahead;
use crate::limits;
use crate::log::{RecordBatch, RecordRef};
use crate::state::{ActionPoint, ParkedCause, ParkedRecord};
use crate::types::{Offset, RecordPosition};

/// Records of one key, in order.
type OfKey = BTreeMap<Offset, Arc<ParkedRecord>>;

/// A key that is parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedKey {
    /// It.
    pub key: Bytes,
    /// How many of its records are.
    pub records: usize,
    /// The first of them: the event that could not be applied.
    pub first: Arc<ParkedRecord>,
    /// Offset of the last.
    pub last: Offset,
}

/// The parked records of a partition.
#[derive(Debug)]
pub(super) struct Parking {
    keys: BTreeMap<Bytes, OfKey>,
    records: usize,
    bytes: usize,
    records_max: usize,
    bytes_max: usize,
    /// What changed since the last commit began.
    changed: BTreeMap<Offset, Option<Arc<ParkedRecord>>>,
}

/// Parked records that an action folds in one go.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// They, in the order of the log.
    pub(super) records: Vec<Arc<ParkedRecord>>,
    /// Whether the action has more to do behind them.
    pub(super) is_last: bool,
}

impl Default for Parking {
    fn default() -> Self {
        Self::with_room(limits::PARKED_RECORDS_MAX, limits::PARKED_BYTES_MAX)
    }
}

impl Parking {
    fn with_room(records_max: usize, bytes_max: usize) -> Self {
        Self {
            keys: BTreeMap::new(),
            records: 0,
            bytes: 0,
            records_max,
            bytes_max,
            changed: BTreeMap::new(),
        }
    }

    /// What a store has.
    pub(super) fn stored(records: Vec<ParkedRecord>) -> Self {
        let mut parking = Self::default();
        for record in records {
            parking.park(record);
        }
        parking.changed.clear();
        parking
    }

    /// Whether nothing is parked.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys are parked.
    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// How many records are parked.
    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// Whether later records of this key are to be set aside.
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    /// Whether these many records more, of so many bytes, may be parked.
    pub(super) fn has_room(&self, records: usize, bytes: usize) -> bool {
        self.records + records <= self.records_max && self.bytes + bytes <= self.bytes_max
    }

    /// Sets a record aside.
    ///
    /// # Panics
    /// If it lies before the last of its key: a key's records are parked in order.
    pub(super) fn park(&mut self, record: ParkedRecord) {
        let record = Arc::new(record);
        let of_key = self.keys.entry(record.key.clone()).or_default();
        let last = of_key.last_key_value();
        assert!(
            last.is_none_or(|(last, _)| *last < record.offset),
            "the records of a key are parked once, in order"
        );
        self.records += 1;
        self.bytes += record.bytes();
        self.changed.insert(record.offset, Some(record.clone()));
        of_key.insert(record.offset, record);
    }

    /// A record is not parked any more.
    pub(super) fn remove(&mut self, record: &ParkedRecord) {
        let Some(of_key) = self.keys.get_mut(&record.key) else {
            return;
        };
        if let Some(removed) = of_key.remove(&record.offset) {
            self.records -= 1;
            self.bytes -= removed.bytes();
            self.changed.insert(record.offset, None);
        }
        if of_key.is_empty() {
            self.keys.remove(&record.key);
        }
    }

    /// A record that is parked could not be applied, now for this reason.
    pub(super) fn failed(&mut self, record: &ParkedRecord, cause: ParkedCause) {
        let Some(of_key) = self.keys.get_mut(&record.key) else {
            return;
        };
        if let Some(known) = of_key.get_mut(&record.offset) {
            let failed = ParkedRecord {
                cause: Some(cause),
                ..(**known).clone()
            };
            self.bytes = self.bytes - known.bytes() + failed.bytes();
            *known = Arc::new(failed);
            self.changed.insert(record.offset, Some(known.clone()));
        }
    }

    /// For each key, the first record whose outputs are published when it is folded, and not before; in order.
    pub(super) fn held(&self) -> Vec<Offset> {
        let firsts = self.keys.values().filter_map(|of_key| {
            let mut held = of_key.values().filter(|it| !it.withheld);
            held.next().map(|first| first.offset)
        });
        let mut held: Vec<_> = firsts.collect();
        held.sort_unstable();
        held
    }

    /// Notes which records another generation has published the outputs of: of each key, those before the one
    /// that it still held.
    pub(super) fn take_over(&mut self, ahead: &Ahead) {
        let mut changed = Vec::new();
        for record in self.keys.values().flat_map(|of_key| {
            let first_held = of_key.keys().find(|offset| ahead.holds(**offset)).copied();
            let is_withheld = move |at: Offset| first_held.is_none_or(|held| at < held);
            of_key
                .values()
                .filter(move |it| it.withheld != is_withheld(it.offset))
        }) {
            changed.push(Arc::new(ParkedRecord {
                withheld: !record.withheld,
                ..(**record).clone()
            }));
        }
        for record in changed {
            self.changed.insert(record.offset, Some(record.clone()));
            if let Some(of_key) = self.keys.get_mut(&record.key) {
                of_key.insert(record.offset, record);
            }
        }
    }

    /// What changed since the last commit began.
    pub(super) fn freeze(&mut self) -> Vec<(Offset, Option<Arc<ParkedRecord>>)> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    /// Keys behind `after` in order, at most `limit`.
    pub(super) fn list(&self, after: Option<&[u8]>, limit: usize) -> Vec<ParkedKey> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let keys = self.keys.range::<[u8], _>((from, Bound::Unbounded));
        keys.take(limit).filter_map(|it| parked_key(it.1)).collect()
    }

    /// A key, if it is parked.
    pub(super) fn find(&self, key: &[u8]) -> Option<ParkedKey> {
        parked_key(self.keys.get(key)?)
    }

    /// Records of a key from an offset on, at most `limit`.
    pub(super) fn of_key(&self, key: &[u8], from: Offset, limit: usize) -> Vec<Arc<ParkedRecord>> {
        let of_key = self.keys.get(key).into_iter();
        let records = of_key.flat_map(|of_key| of_key.range(from..));
        records.take(limit).map(|(_, it)| it.clone()).collect()
    }

    /// The records that an action discards.
    pub(super) fn discarded(
        &self,
        action: &Action,
        topic_id: Option<[u8; 16]>,
    ) -> Vec<Arc<ParkedRecord>> {
        let records = self.of_action(action);
        let is_discarded = |it: &&Arc<ParkedRecord>| action.discards(&it.key, it.offset, topic_id);
        records.filter(is_discarded).cloned().collect()
    }

    /// The next records that an action folds, when it has come to `point`. A key of which one has failed in
    /// this action waits for the next, and what the generation that is `ahead` still holds waits for that.
    pub(super) fn chunk(
        &self,
        action: &Action,
        point: ActionPoint,
        topic_id: Option<[u8; 16]>,
        ahead: Option<&Ahead>,
    ) -> Chunk {
        let passed = (point.number == action.number).then_some(point.until);
        let mut due: Vec<_> = self
            .keys_of(action)
            .flat_map(|of_key| {
                let mut left = of_key
                    .values()
                    .filter(|it| !action.discards(&it.key, it.offset, topic_id))
                    .peekable();
                let has_failed =
                    passed.is_some_and(|passed| left.peek().is_some_and(|it| it.offset <= passed));
                left.take(if has_failed { 0 } else { usize::MAX })
                    .take_while(|it| ahead.is_none_or(|ahead| !ahead.holds(it.offset)))
            })
            .collect();
        due.sort_unstable_by_key(|record| record.offset);
        let mut bytes = 0;
        let fits = due.iter().take_while(|record| {
            let is_first = bytes == 0;
            bytes += record.bytes();
            is_first || bytes <= limits::BATCH_BYTES_MAX
        });
        let fits = fits.take(limits::BATCH_EVENTS_MAX).count();
        Chunk {
            is_last: fits == due.len(),
            records: due.into_iter().take(fits).cloned().collect(),
        }
    }

    fn keys_of<'a>(&'a self, action: &'a Action) -> impl Iterator<Item = &'a OfKey> {
        let one = action.key.as_ref().map(|key| self.keys.get(key));
        let all = one.is_none().then(|| self.keys.values());
        one.flatten().into_iter().chain(all.into_iter().flatten())
    }

    fn of_action<'a>(&'a self, action: &'a Action) -> impl Iterator<Item = &'a Arc<ParkedRecord>> {
        self.keys_of(action).flat_map(BTreeMap::values)
    }
}

fn parked_key(of_key: &OfKey) -> Option<ParkedKey> {
    let (_, first) = of_key.first_key_value()?;
    let (last, _) = of_key.last_key_value()?;
    Some(ParkedKey {
        key: first.key.clone(),
        records: of_key.len(),
        first: first.clone(),
        last: *last,
    })
}

/// A record of a batch as it is parked; `None` = it has no key that it could be parked under.
pub(super) fn parked(record: &RecordRef<'_>, cause: Option<ParkedCause>) -> Option<ParkedRecord> {
    let headers = record.headers();
    Some(ParkedRecord {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: Bytes::copy_from_slice(record.key?),
        value: record.value.map(Bytes::copy_from_slice),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.map(Bytes::copy_from_slice)))
            .collect(),
        cause,
        withheld: false,
    })
}

/// Where a parked record was before it was merged; `None` = it lies in an input itself.
#[must_use]
pub fn origin_of(record: &ParkedRecord) -> Option<RecordPosition> {
    merged::origin(&batch_of([record]).get(0))
}

/// Parked records as a batch, in the order in which they come: that of the log.
#[must_use]
pub fn batch_of<'a>(records: impl IntoIterator<Item = &'a ParkedRecord>) -> RecordBatch {
    let mut batch = RecordBatch::new();
    for record in records {
        let headers = record.headers.iter();
        batch.push(
            record.offset,
            record.timestamp_ms,
            Some(&record.key),
            record.value.as_deref(),
            headers.map(|(name, value)| (name.as_str(), value.as_deref())),
        );
    }
    batch
}

#[cfg(test)]
mod tests;
