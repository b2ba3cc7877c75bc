//! States of a partition in memory: what is hot, and everything that is not committed yet.
//! Filled by the worker, read by queries.
//!
//! Invariants: a dirty state is never dropped; a clean one equals what the store holds; after
//! [`StateTable::freeze`] the frozen changes are exactly the dirty ones, until
//! [`StateTable::committed`] says that it is durable; a commit that fails ends the worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hashbrown::HashMap;

use crate::state::KeyState;

/// Fixed cost of an entry beside its key and state, in bytes: the slot of the table and the two
/// allocations' headers, rounded up.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// Memory for states, shared by all partitions of a host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StateBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    bytes_max: usize,
    used: AtomicUsize,
}

impl StateBudget {
    /// A budget of `bytes_max`.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Budget {
            bytes_max,
            used: AtomicUsize::new(0),
        }))
    }

    /// Bytes in use by all partitions.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    fn is_exceeded(&self) -> bool {
        self.used_bytes() > self.0.bytes_max
    }

    fn add(&self, bytes: usize) {
        self.0.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    /// As in the store.
    Clean,
    /// In a commit that has not ended.
    Frozen,
    /// Changed since.
    Dirty,
}

#[derive(Debug)]
struct Entry {
    state: Option<KeyState>,
    freshness: Freshness,
    /// Read or written since the last sweep.
    touched: bool,
}

impl Entry {
    fn bytes(&self, key: &[u8]) -> usize {
        ENTRY_OVERHEAD_BYTES + key.len() + self.state.as_ref().map_or(0, |state| state.state.len())
    }
}

/// States of one partition.
#[derive(Debug)]
pub(super) struct StateTable {
    entries: HashMap<Bytes, Entry>,
    dirty: Vec<Bytes>,
    dirty_bytes: usize,
    bytes: usize,
    largest_state_bytes: usize,
    /// Every key that has a state is here: a key that is missing has none.
    complete: bool,
    budget: StateBudget,
}

impl StateTable {
    /// An empty table; `complete` says that the store behind it is empty too.
    pub(super) fn new(complete: bool, budget: StateBudget) -> Self {
        Self {
            entries: HashMap::new(),
            dirty: Vec::new(),
            dirty_bytes: 0,
            bytes: 0,
            largest_state_bytes: 0,
            complete,
            budget,
        }
    }

    /// State of a key: `None` = ask the store.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&KeyState>> {
        match self.entries.get(key) {
            Some(entry) => Some(entry.state.as_ref()),
            None => self.complete.then_some(None),
        }
    }

    /// Puts what the store holds for a key that is not here.
    pub(super) fn load(&mut self, key: Bytes, state: Option<KeyState>) {
        debug_assert!(
            !self.entries.contains_key(&key),
            "only unknown keys are loaded"
        );
        self.insert(
            key,
            Entry {
                state,
                freshness: Freshness::Clean,
                touched: true,
            },
        );
    }

    /// Changes the state of a key.
    pub(super) fn change(&mut self, key: &Bytes, state: Option<KeyState>) {
        let state_bytes = state.as_ref().map_or(0, |state| state.state.len());
        self.largest_state_bytes = self.largest_state_bytes.max(state_bytes);
        self.dirty_bytes += ENTRY_OVERHEAD_BYTES + key.len() + state_bytes;
        if let Some(entry) = self.entries.get_mut(key) {
            let before = entry.bytes(key);
            entry.state = state;
            entry.touched = true;
            if entry.freshness != Freshness::Dirty {
                entry.freshness = Freshness::Dirty;
                self.dirty.push(key.clone());
            }
            let after = entry.bytes(key);
            self.account(before, after);
        } else {
            self.dirty.push(key.clone());
            self.insert(
                key.clone(),
                Entry {
                    state,
                    freshness: Freshness::Dirty,
                    touched: true,
                },
            );
        }
    }

    /// Bytes of changes that no commit holds yet; counts a key again each time it changes.
    pub(super) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    /// Bytes of all states here, with their keys and overhead.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The largest state that was folded here, in bytes.
    pub(super) fn largest_state_bytes(&self) -> usize {
        self.largest_state_bytes
    }

    /// Takes all changes for a commit.
    pub(super) fn freeze(&mut self) -> Vec<(Bytes, Option<KeyState>)> {
        self.dirty_bytes = 0;
        let keys = std::mem::take(&mut self.dirty);
        let changes = keys.into_iter().map(|key| {
            let entry = self
                .entries
                .get_mut(&key)
                .expect("a dirty key is never dropped");
            assert!(entry.freshness == Freshness::Dirty, "a key is listed once");
            entry.freshness = Freshness::Frozen;
            let state = entry.state.clone();
            (key, state)
        });
        changes.collect()
    }

    /// The commit of these keys is durable.
    pub(super) fn committed<'k>(&mut self, keys: impl IntoIterator<Item = &'k Bytes>) {
        for key in keys {
            let Some(entry) = self.entries.get_mut(key) else {
                continue;
            };
            if entry.freshness == Freshness::Frozen {
                entry.freshness = Freshness::Clean;
                if entry.state.is_none() {
                    self.drop_entry(key);
                }
            }
        }
        self.sweep();
    }

    /// Changes that are in no finished commit, in order of key, behind `after`, with `prefix`.
    pub(super) fn uncommitted(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> Vec<(Bytes, Option<KeyState>)> {
        let mut found: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, entry)| {
                entry.freshness != Freshness::Clean
                    && key.starts_with(prefix)
                    && after.is_none_or(|after| key.as_ref() > after)
            })
            .map(|(key, entry)| (key.clone(), entry.state.clone()))
            .collect();
        found.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        found
    }

    /// Drops clean states that were not touched since the last sweep while the host is over budget.
    fn sweep(&mut self) {
        if !self.budget.is_exceeded() {
            return;
        }
        let mut freed = 0;
        self.entries.retain(|key, entry| {
            let keep = entry.freshness != Freshness::Clean || entry.touched;
            entry.touched = false;
            if !keep {
                freed += entry.bytes(key);
            }
            keep
        });
        if freed > 0 {
            self.complete = false;
            self.account(freed, 0);
        }
    }

    fn insert(&mut self, key: Bytes, entry: Entry) {
        let bytes = entry.bytes(&key);
        self.entries.insert(key, entry);
        self.account(0, bytes);
    }

    fn drop_entry(&mut self, key: &Bytes) {
        if let Some(entry) = self.entries.remove(key) {
            let bytes = entry.bytes(key);
            self.account(bytes, 0);
        }
    }

    fn account(&mut self, before: usize, after: usize) {
        self.bytes = self.bytes + after - before;
        if after >= before {
            self.budget.add(after - before);
        } else {
            self.budget.remove(before - after);
        }
    }
}

impl Drop for StateTable {
    fn drop(&mut self) {
        self.budget.remove(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;

    fn state(text: &'static str) -> Option<KeyState> {
        Some(KeyState {
            state: Bytes::from_static(text.as_bytes()),
            changed_at: Offset(1),
            changed_at_ms: 1,
        })
    }

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_change_during_a_commit_stays_dirty() {
        let mut table = StateTable::new(true, StateBudget::new(1 << 20));
        table.change(&key("a"), state("1"));
        let frozen = table.freeze();
        table.change(&key("a"), state("2"));
        table.committed(frozen.iter().map(|(key, _)| key));
        assert_eq!(table.freeze(), [(key("a"), state("2"))]);
    }

    #[test]
    fn only_clean_states_leave_and_an_incomplete_table_asks_the_store() {
        let budget = StateBudget::new(0);
        let mut table = StateTable::new(true, budget.clone());
        table.change(&key("clean"), state("1"));
        let frozen = table.freeze();
        table.change(&key("dirty"), state("2"));
        table.committed(frozen.iter().map(|(key, _)| key));
        assert!(
            table.get(b"clean").is_some(),
            "touched since the last sweep"
        );
        table.committed([]);
        assert_eq!(table.get(b"clean"), None);
        assert_eq!(table.get(b"dirty"), Some(state("2").as_ref()));
        drop(table);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_deleted_state_is_an_uncommitted_change() {
        let mut table = StateTable::new(false, StateBudget::new(1 << 20));
        table.load(key("a"), state("1"));
        table.change(&key("a"), None);
        assert_eq!(table.uncommitted(b"", None), [(key("a"), None)]);
        assert_eq!(table.uncommitted(b"", Some(b"a")), []);
        let frozen = table.freeze();
        assert_eq!(table.get(b"a"), Some(None));
        table.committed(frozen.iter().map(|(key, _)| key));
        assert_eq!(table.get(b"a"), None, "the store knows");
    }
}
