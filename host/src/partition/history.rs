//! Where the events of a command handler's keys lie, as far as no commit holds it yet. Kept by the worker of a handler
//! whose manifest says `history = true`, read with what the store has by `http`.
//!
//! Invariants: an event that was folded is here or in the store, from `from` on; what was frozen stays until its
//! commit is durable. What it takes counts among the changed states, so it is bounded as they are.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::table::StateBudget;
use crate::state::IndexedEvent;
use crate::types::Offset;

/// What an event takes in memory besides its key.
const EVENT_OVERHEAD_BYTES: usize = 128;

/// By key and version: where an event is, and its timestamp.
type Places = BTreeMap<(Bytes, u64), (Offset, i64)>;

/// See the module.
#[derive(Debug)]
pub(super) struct History {
    /// From which offset on all events are indexed; `None` = none is.
    from: Option<Offset>,
    /// Those that were folded since the last commit began.
    waiting: Places,
    waiting_bytes: usize,
    /// Those of the commit under way.
    frozen: Places,
    frozen_bytes: usize,
    budget: StateBudget,
}

impl History {
    pub(super) fn new(from: Option<Offset>, budget: StateBudget) -> Self {
        Self {
            from,
            waiting: Places::new(),
            waiting_bytes: 0,
            frozen: Places::new(),
            frozen_bytes: 0,
            budget,
        }
    }

    /// From which offset on all events are indexed, if any are.
    pub(super) fn from(&self) -> Option<Offset> {
        self.from
    }

    /// Other code is in use, which indexes events from here on, or not.
    pub(super) fn set_from(&mut self, from: Option<Offset>) {
        self.from = from;
    }

    /// Takes note of an event that was folded; of its key, the version is higher than any before.
    pub(super) fn add(&mut self, event: IndexedEvent) {
        let bytes = EVENT_OVERHEAD_BYTES + event.key.len();
        let place = (event.offset, event.timestamp_ms);
        if self
            .waiting
            .insert((event.key, event.version), place)
            .is_none()
        {
            self.tell(|it| it.waiting_bytes += bytes);
        }
    }

    /// What no commit under way holds, in bytes.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Takes what is to be committed.
    pub(super) fn freeze(&mut self) -> Vec<IndexedEvent> {
        assert!(self.frozen.is_empty(), "one commit at a time");
        self.frozen = std::mem::take(&mut self.waiting);
        self.frozen_bytes = std::mem::take(&mut self.waiting_bytes);
        self.frozen.iter().map(event_of).collect()
    }

    /// The commit of what was frozen is durable.
    pub(super) fn committed(&mut self) {
        self.frozen = Places::new();
        self.tell(|it| it.frozen_bytes = 0);
    }

    /// Events of a key that are in no finished commit, of these versions, in their order.
    pub(super) fn of_key(&self, key: &[u8], versions: &Range<u64>) -> Vec<IndexedEvent> {
        let key = Bytes::copy_from_slice(key);
        let range = (key.clone(), versions.start)..(key, versions.end);
        let frozen = self.frozen.range(range.clone());
        frozen
            .chain(self.waiting.range(range))
            .map(event_of)
            .collect()
    }

    /// Changes figures, and tells the budget.
    fn tell(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.waiting_bytes + self.frozen_bytes;
        change(self);
        let after = self.waiting_bytes + self.frozen_bytes;
        self.budget.account(before, after);
        self.budget.account_dirty(before, after);
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.tell(|it| (it.waiting_bytes, it.frozen_bytes) = (0, 0));
    }
}

fn event_of(
    ((key, version), (offset, timestamp_ms)): (&(Bytes, u64), &(Offset, i64)),
) -> IndexedEvent {
    IndexedEvent {
        key: key.clone(),
        version: *version,
        offset: *offset,
        timestamp_ms: *timestamp_ms,
    }
}

/// Merges what the store has of a key with what waits, both in order; at most `limit`.
pub(super) fn merge(
    stored: Vec<IndexedEvent>,
    mut waiting: Vec<IndexedEvent>,
    newest_first: bool,
    limit: usize,
) -> Vec<IndexedEvent> {
    if newest_first {
        waiting.reverse();
    }
    // Behind the last stored one of a full page, the store may hold more than was read.
    let until = (stored.len() >= limit).then(|| stored.last().map(|it| it.version));
    let mut all: BTreeMap<u64, IndexedEvent> =
        stored.into_iter().map(|it| (it.version, it)).collect();
    let within = |version: u64| match (until.flatten(), newest_first) {
        (None, _) => true,
        (Some(until), true) => version >= until,
        (Some(until), false) => version <= until,
    };
    let more = waiting.into_iter().filter(|it| within(it.version));
    all.extend(more.map(|it| (it.version, it)));
    match newest_first {
        true => all.into_values().rev().take(limit).collect(),
        false => all.into_values().take(limit).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: &'static str, version: u64) -> IndexedEvent {
        IndexedEvent {
            key: Bytes::from_static(key.as_bytes()),
            version,
            offset: Offset(10 * version),
            timestamp_ms: 1,
        }
    }

    fn versions(events: &[IndexedEvent]) -> Vec<u64> {
        events.iter().map(|it| it.version).collect()
    }

    #[test]
    fn what_waits_is_seen_until_its_commit_is_durable_and_counted_as_changed() {
        let budget = StateBudget::new(1 << 20);
        let mut history = History::new(Some(Offset(0)), budget.clone());
        for added in [event("a", 1), event("ab", 1), event("a", 2)] {
            history.add(added);
        }
        let bytes = 3 * EVENT_OVERHEAD_BYTES + 4;
        assert_eq!(
            (
                history.waiting_bytes(),
                budget.dirty_bytes(),
                budget.used_bytes()
            ),
            (bytes, bytes, bytes)
        );
        assert_eq!(history.freeze().len(), 3);
        history.add(event("a", 3));
        assert_eq!(versions(&history.of_key(b"a", &(0..u64::MAX))), [1, 2, 3]);
        assert_eq!(versions(&history.of_key(b"a", &(2..3))), [2]);
        history.committed();
        assert_eq!(versions(&history.of_key(b"a", &(0..u64::MAX))), [3]);
        assert_eq!(budget.dirty_bytes(), EVENT_OVERHEAD_BYTES + 1);
        drop(history);
        assert_eq!((budget.dirty_bytes(), budget.used_bytes()), (0, 0));
    }

    #[test]
    fn a_page_has_no_gap_between_what_is_stored_and_what_waits() {
        let stored = |of: &[u64]| of.iter().map(|it| event("a", *it)).collect::<Vec<_>>();
        let waiting = stored(&[4, 5, 6]);
        let page = |of: &[u64], newest, limit| {
            versions(&merge(stored(of), waiting.clone(), newest, limit))
        };
        assert_eq!(page(&[3, 2, 1], true, 10), [6, 5, 4, 3, 2, 1]);
        assert_eq!(page(&[3, 2], true, 2), [6, 5]);
        assert_eq!(page(&[1, 2], false, 2), [1, 2], "3 was not read");
        assert_eq!(page(&[1, 2, 3, 4], false, 5), [1, 2, 3, 4, 5]);
        assert_eq!(page(&[], false, 2), [4, 5]);
    }
}
