//! States of a partition in memory: what is hot, and everything that is not committed yet.
//! Filled by the worker, read by queries. The memory is shared by all partitions: see [`budget`].
//!
//! Invariants: a dirty state is never dropped; a clean one equals what the store holds; after
//! [`StateTable::freeze`] the frozen changes are exactly the dirty ones, until
//! [`StateTable::committed`] says that it is durable; a commit that fails ends the worker. What a
//! batch needs is not evicted while the batch is folded.
//!
//! States lie in pages of slots that never move, so that a hand can go round them as on a clock:
//! a state that was used since the hand last came by stays, one that was not goes. An eviction looks
//! at a few slots, however many there are.

mod budget;
mod slot;
#[cfg(test)]
mod tests;

use std::hash::BuildHasher as _;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};

pub(super) use self::budget::SharedTable;
pub use self::budget::StateBudget;
use self::slot::{ENTRY_OVERHEAD_BYTES, Freshness, Slot, Slots};
use super::changes::{Change, Changes, LOOKED_AT, Place};
use crate::limits;
use crate::state::{KeyState, StateChanges, StateChangesBuilder, StateRef};

/// States of one partition.
#[derive(Debug)]
pub(super) struct StateTable {
    index: HashTable<Indexed>,
    hasher: DefaultHashBuilder,
    slots: Slots,
    hand: usize,
    /// Slots that changed since the last commit began, each once.
    dirty: Vec<u32>,
    /// Slots that the commit under way holds; some are dirty again.
    frozen: Vec<u32>,
    dirty_bytes: usize,
    /// Of frozen ones that are not dirty again.
    frozen_bytes: usize,
    /// What the commit under way began with.
    freezing_bytes: usize,
    /// By how much more was dirty or frozen when the last commit ended than when it began: as much has to fit beside
    /// the next one.
    grown_beside_bytes: usize,
    bytes: usize,
    /// Of `bytes`, and of dirty and frozen ones, what the budget has been told.
    told_bytes: usize,
    told_dirty_bytes: usize,
    largest_state_bytes: usize,
    /// Every key that has a state is here: a key that is missing has none.
    complete: bool,
    budget: StateBudget,
}

/// A slot in the index.
#[derive(Debug, Clone, Copy)]
struct Indexed {
    /// Tells most other keys apart without a look at their slots, and lets the index grow without one.
    tag: u32,
    slot: u32,
}

impl Indexed {
    fn tag_of(hash: u64) -> u32 {
        #[allow(clippy::cast_possible_truncation, reason = "the half that counts")]
        let tag = (hash >> 32) as u32;
        tag
    }

    /// What the index takes for the key's hash: it looks at the lowest bits and at the highest.
    fn hash_of(tag: u32) -> u64 {
        u64::from(tag) << 32 | u64::from(tag)
    }
}

impl StateTable {
    /// An empty table; `complete` says that the store behind it is empty too.
    pub(super) fn new(complete: bool, budget: StateBudget) -> Self {
        Self {
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            slots: Slots::default(),
            hand: 0,
            dirty: Vec::new(),
            frozen: Vec::new(),
            dirty_bytes: 0,
            frozen_bytes: 0,
            freezing_bytes: 0,
            grown_beside_bytes: 0,
            bytes: 0,
            told_bytes: 0,
            told_dirty_bytes: 0,
            largest_state_bytes: 0,
            complete,
            budget,
        }
    }

    /// State of a key: `None` = ask the store.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<KeyState>> {
        match self.find(self.hash(key), key) {
            Some(at) => Some(self.slots.used(at.0).state()),
            None => self.complete.then_some(None),
        }
    }

    /// Whether the store need not be asked for a key; one that is here counts as used.
    pub(super) fn knows(&self, key: &[u8]) -> bool {
        match self.find(self.hash(key), key) {
            Some(at) => {
                self.slots.used(at.0);
                true
            }
            None => self.complete,
        }
    }

    /// Whether every key that has a state is here: nobody need ask the store.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Number under which a key is looked up.
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Where a key is.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<Place> {
        let tag = Indexed::tag_of(hash);
        let found = self.index.find(Indexed::hash_of(tag), |indexed| {
            indexed.tag == tag && self.slots.get(indexed.slot).key() == key
        });
        found.map(|indexed| Place(indexed.slot))
    }

    /// Looks at what lies under these hashes, step by step for all of them: the processor waits for many at once,
    /// where a lookup waits for one thing after the other.
    pub(super) fn look_ahead(&self, hashes: impl Iterator<Item = u64>) {
        let slots = hashes.filter_map(|hash| {
            let tag = Indexed::tag_of(hash);
            let found = self
                .index
                .find(Indexed::hash_of(tag), |indexed| indexed.tag == tag);
            found.map(|indexed| indexed.slot)
        });
        let slots: Vec<u32> = slots.collect();
        self.slots.look_at(&slots);
    }

    /// State at a place, which counts as used.
    pub(super) fn state_at(&self, at: Place) -> Option<&[u8]> {
        let slot = self.slots.used(at.0);
        slot.state_ref()
            .filter(|it| !it.is_gone())
            .map(|it| it.state)
    }

    /// Puts what the store holds for keys that are not here.
    pub(super) fn load_all<'k>(
        &mut self,
        states: impl IntoIterator<Item = (&'k Bytes, Option<KeyState>)>,
    ) {
        for (key, state) in states {
            let hash = self.hash(key);
            debug_assert!(
                self.find(hash, key).is_none(),
                "only unknown keys are loaded"
            );
            let state = state.as_ref().map(KeyState::as_ref);
            self.insert(hash, key, state, Freshness::Clean);
        }
        self.tell_budget();
    }

    /// Takes over what a step changed.
    pub(super) fn change_all(&mut self, changes: &Changes) {
        let mut changes = changes.iter();
        let mut places = Vec::with_capacity(LOOKED_AT);
        while changes.len() > 0 {
            let some = changes.clone().take(LOOKED_AT);
            places.extend(some.filter_map(|change| change.at.map(|Place(at)| at)));
            self.slots.look_at(&places);
            places.clear();
            for change in changes.by_ref().take(LOOKED_AT) {
                self.change(change);
            }
        }
        self.tell_budget();
    }

    fn change(&mut self, change: Change<'_>) {
        let Change {
            hash,
            at,
            key,
            state,
        } = change;
        let state_bytes = state.map_or(0, |state| state.state.len());
        self.largest_state_bytes = self.largest_state_bytes.max(state_bytes);
        let Some(Place(at)) = at else {
            let at = self.insert(hash, key, state, Freshness::Dirty);
            self.dirty.push(at);
            self.dirty_bytes += self.slots.get(at).bytes();
            return;
        };
        let slot = self.slots.get_mut(at);
        debug_assert_eq!(slot.key(), key, "what a step found stays where it is");
        let before = slot.bytes();
        slot.set(state);
        let after = slot.bytes();
        match std::mem::replace(&mut slot.freshness, Freshness::Dirty) {
            Freshness::Dirty => self.dirty_bytes = self.dirty_bytes + after - before,
            other => {
                if other == Freshness::Frozen {
                    self.frozen_bytes -= before;
                }
                self.dirty.push(at);
                self.dirty_bytes += after;
            }
        }
        self.bytes = self.bytes + after - before;
    }

    /// Whether as much has changed, with so many bytes beside the states, as may wait for a commit: then one begins,
    /// and folding waits while another is under way.
    ///
    /// The later a commit begins, the more often what it writes has changed. It leaves room for what will change
    /// while it is written, going by the last one.
    pub(super) fn is_full(&self, beside_bytes: usize) -> bool {
        let share = self.budget.dirty_share_bytes(self.told_dirty_bytes);
        let room = if self.frozen.is_empty() {
            let beside = self.grown_beside_bytes + self.grown_beside_bytes / 4;
            share - beside.clamp(share / 8, share / 2)
        } else {
            share.saturating_sub(self.frozen_bytes)
        };
        self.dirty_bytes + beside_bytes >= room.clamp(1, limits::DIRTY_BYTES_MAX)
    }

    /// Keys that changed since the last commit began.
    pub(super) fn dirty_keys(&self) -> usize {
        self.dirty.len()
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
    pub(super) fn freeze(&mut self) -> StateChanges {
        assert!(self.frozen.is_empty(), "one commit at a time");
        self.frozen = std::mem::take(&mut self.dirty);
        self.frozen_bytes = std::mem::take(&mut self.dirty_bytes);
        self.freezing_bytes = self.frozen_bytes;
        let overhead = self.frozen.len() * ENTRY_OVERHEAD_BYTES;
        let mut changes =
            StateChangesBuilder::with_capacity(self.frozen.len(), self.frozen_bytes - overhead);
        for some in self.frozen.chunks(LOOKED_AT) {
            self.slots.look_at(some);
            for at in some {
                let slot = self.slots.get_mut(*at);
                assert!(slot.freshness == Freshness::Dirty, "a key is listed once");
                slot.freshness = Freshness::Frozen;
                changes.push(slot.key(), slot.state_ref());
            }
        }
        changes.finish()
    }

    /// The commit of what was frozen is durable.
    pub(super) fn committed(&mut self) {
        for at in std::mem::take(&mut self.frozen) {
            let slot = self.slots.get_mut(at);
            if slot.freshness == Freshness::Frozen {
                slot.freshness = Freshness::Clean;
                if slot.state_bytes().is_none() {
                    self.remove(at);
                }
            }
        }
        let until_now = self.dirty_bytes + self.frozen_bytes;
        self.grown_beside_bytes = until_now.saturating_sub(self.freezing_bytes);
        self.frozen_bytes = 0;
        self.tell_budget();
    }

    /// Changes that are in no finished commit, in order of key, behind `after`, with `prefix`, the first `limit` of
    /// them; and whether these are all.
    pub(super) fn uncommitted(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> (Vec<(Bytes, Option<KeyState>)>, bool) {
        let slots = |list: &'_ [u32], freshness| {
            let found = list.iter().map(|at| self.slots.get(*at));
            found
                .filter(|slot| {
                    slot.freshness == freshness
                        && slot.key().starts_with(prefix)
                        && after.is_none_or(|after| slot.key() > after)
                })
                .collect::<Vec<_>>()
        };
        let mut found = slots(&self.dirty, Freshness::Dirty);
        found.extend(slots(&self.frozen, Freshness::Frozen));
        let in_order = |left: &&Slot, right: &&Slot| left.key().cmp(right.key());
        let is_all = found.len() <= limit;
        if !is_all {
            found.select_nth_unstable_by(limit, in_order);
            found.truncate(limit);
        }
        found.sort_unstable_by(in_order);
        let copies = found
            .into_iter()
            .map(|slot| (Bytes::copy_from_slice(slot.key()), slot.state()));
        (copies.collect(), is_all)
    }

    /// Goes on round the slots, at most `slots_max` of them, and drops clean states that were not
    /// used since the last time, until `wanted_bytes` are free. Returns how many are.
    fn evict(&mut self, wanted_bytes: usize, slots_max: usize) -> usize {
        let mut freed = 0;
        for _ in 0..slots_max.min(self.slots.len()) {
            if freed >= wanted_bytes {
                break;
            }
            self.hand = (self.hand + 1) % self.slots.len();
            let at = u32::try_from(self.hand).expect("slots are numbered in 32 bits");
            let Some(slot) = self.slots.look(at) else {
                continue;
            };
            if slot.freshness != Freshness::Clean || slot.take_used() {
                continue;
            }
            freed += slot.bytes();
            self.complete = false;
            self.remove(at);
        }
        self.tell_budget();
        freed
    }

    fn insert(
        &mut self,
        hash: u64,
        key: &[u8],
        state: Option<StateRef<'_>>,
        freshness: Freshness,
    ) -> u32 {
        let slot = Slot::new(key, state, freshness);
        self.bytes += slot.bytes();
        let slot = self.slots.push(slot);
        let tag = Indexed::tag_of(hash);
        let hash_of = |indexed: &Indexed| Indexed::hash_of(indexed.tag);
        self.index
            .insert_unique(Indexed::hash_of(tag), Indexed { tag, slot }, hash_of);
        slot
    }

    fn remove(&mut self, at: u32) {
        let slot = self.slots.take(at);
        let tag = Indexed::tag_of(self.hash(slot.key()));
        let found = self
            .index
            .find_entry(Indexed::hash_of(tag), |indexed| indexed.slot == at);
        match found {
            Ok(entry) => drop(entry.remove()),
            Err(_) => unreachable!("every slot is in the index"),
        }
        self.bytes -= slot.bytes();
    }

    /// Tells the budget what has changed. The partitions share its figures: once a batch, not once a state.
    fn tell_budget(&mut self) {
        self.budget.account(self.told_bytes, self.bytes);
        self.told_bytes = self.bytes;
        let dirty_bytes = self.dirty_bytes + self.frozen_bytes;
        self.budget
            .account_dirty(self.told_dirty_bytes, dirty_bytes);
        self.told_dirty_bytes = dirty_bytes;
    }
}

impl Drop for StateTable {
    fn drop(&mut self) {
        self.budget.account(self.told_bytes, 0);
        self.budget.account_dirty(self.told_dirty_bytes, 0);
    }
}
