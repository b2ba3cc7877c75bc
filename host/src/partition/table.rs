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
#[cfg(test)]
mod tests;

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use hashbrown::{DefaultHashBuilder, HashTable};

pub(super) use self::budget::SharedTable;
pub use self::budget::StateBudget;
use crate::state::KeyState;

/// Fixed cost of a state beside the bytes of its key and itself: slot, index, the allocations'
/// rounding. Measured: 100 bytes for the slot and the index, 20 for rounding.
const ENTRY_OVERHEAD_BYTES: usize = 128;
/// Slots of one page.
const PAGE_SLOTS: usize = 1_024;
/// Keys and states up to this size are copied for a commit rather than shared: a share costs an allocation
/// that stays.
const COPIED_BYTES_MAX: usize = 1_024;

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
struct Slot {
    key: Bytes,
    state: Option<KeyState>,
    freshness: Freshness,
    /// Read or written since the hand last came by.
    touched: AtomicBool,
}

impl Slot {
    fn bytes(&self) -> usize {
        entry_bytes(&self.key, self.state.as_ref())
    }
}

fn entry_bytes(key: &[u8], state: Option<&KeyState>) -> usize {
    ENTRY_OVERHEAD_BYTES + key.len() + state.map_or(0, |state| state.state.len())
}

/// States of one partition.
#[derive(Debug)]
pub(super) struct StateTable {
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    slots: Slots,
    hand: usize,
    /// Slots that changed since the last commit began, each once.
    dirty: Vec<u32>,
    /// Slots that the commit under way holds; some are dirty again.
    frozen: Vec<u32>,
    dirty_bytes: usize,
    frozen_bytes: usize,
    bytes: usize,
    /// Of `bytes`, and of dirty and frozen ones, what the budget has been told.
    told_bytes: usize,
    told_dirty_bytes: usize,
    largest_state_bytes: usize,
    /// Every key that has a state is here: a key that is missing has none.
    complete: bool,
    budget: StateBudget,
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
            bytes: 0,
            told_bytes: 0,
            told_dirty_bytes: 0,
            largest_state_bytes: 0,
            complete,
            budget,
        }
    }

    /// State of a key: `None` = ask the store.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&KeyState>> {
        match self.find(key) {
            Some(at) => {
                let slot = self.slots.get(at);
                if !slot.touched.load(Ordering::Relaxed) {
                    slot.touched.store(true, Ordering::Relaxed);
                }
                Some(slot.state.as_ref())
            }
            None => self.complete.then_some(None),
        }
    }

    /// Whether every key that has a state is here: nobody need ask the store.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Puts what the store holds for keys that are not here.
    pub(super) fn load_all<'k>(
        &mut self,
        states: impl IntoIterator<Item = (&'k Bytes, Option<KeyState>)>,
    ) {
        for (key, state) in states {
            debug_assert!(self.find(key).is_none(), "only unknown keys are loaded");
            self.insert(key, state, Freshness::Clean);
        }
        self.tell_budget();
    }

    /// Changes states.
    pub(super) fn change_all(
        &mut self,
        changes: impl IntoIterator<Item = (Bytes, Option<KeyState>)>,
    ) {
        for (key, state) in changes {
            self.change(&key, state);
        }
        self.tell_budget();
    }

    fn change(&mut self, key: &[u8], state: Option<KeyState>) {
        let state_bytes = state.as_ref().map_or(0, |state| state.state.len());
        self.largest_state_bytes = self.largest_state_bytes.max(state_bytes);
        let after = entry_bytes(key, state.as_ref());
        let Some(at) = self.find(key) else {
            let at = self.insert(key, state, Freshness::Dirty);
            self.dirty.push(at);
            self.dirty_bytes += after;
            return;
        };
        let slot = self.slots.get_mut(at);
        let before = slot.bytes();
        slot.state = state;
        *slot.touched.get_mut() = true;
        if slot.freshness == Freshness::Dirty {
            self.dirty_bytes = self.dirty_bytes + after - before;
        } else {
            slot.freshness = Freshness::Dirty;
            self.dirty.push(at);
            self.dirty_bytes += after;
        }
        self.bytes = self.bytes + after - before;
    }

    /// Whether as much has changed as may wait for a commit: then one begins, and folding waits
    /// while another is under way.
    pub(super) fn is_full(&self) -> bool {
        self.dirty_bytes >= self.budget.dirty_share_bytes()
    }

    /// Bytes of all states here, with their keys and overhead.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The largest state that was folded here, in bytes.
    pub(super) fn largest_state_bytes(&self) -> usize {
        self.largest_state_bytes
    }

    /// Takes all changes for a commit. Small keys and states are copied into one allocation, which goes with
    /// the commit.
    pub(super) fn freeze(&mut self) -> Vec<(Bytes, Option<KeyState>)> {
        assert!(self.frozen.is_empty(), "one commit at a time");
        self.frozen = std::mem::take(&mut self.dirty);
        self.frozen_bytes = std::mem::take(&mut self.dirty_bytes);
        let slots = &mut self.slots;
        let mut copied = BytesMut::with_capacity(self.frozen_bytes);
        let mut copy = |bytes: &Bytes| {
            if bytes.len() > COPIED_BYTES_MAX {
                return bytes.clone();
            }
            copied.extend_from_slice(bytes);
            copied.split().freeze()
        };
        let changes = self.frozen.iter().map(|at| {
            let slot = slots.get_mut(*at);
            assert!(slot.freshness == Freshness::Dirty, "a key is listed once");
            slot.freshness = Freshness::Frozen;
            let state = slot.state.as_ref().map(|state| KeyState {
                state: copy(&state.state),
                ..*state
            });
            (copy(&slot.key), state)
        });
        changes.collect()
    }

    /// The commit of what was frozen is durable.
    pub(super) fn committed(&mut self) {
        for at in std::mem::take(&mut self.frozen) {
            let slot = self.slots.get_mut(at);
            if slot.freshness == Freshness::Frozen {
                slot.freshness = Freshness::Clean;
                if slot.state.is_none() {
                    self.remove(at);
                }
            }
        }
        self.frozen_bytes = 0;
        self.tell_budget();
    }

    /// Changes that are in no finished commit, in order of key, behind `after`, with `prefix`.
    pub(super) fn uncommitted(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> Vec<(Bytes, Option<KeyState>)> {
        let slots = |list: &'_ [u32], freshness| {
            let found = list.iter().map(|at| self.slots.get(*at));
            found
                .filter(|slot| {
                    slot.freshness == freshness
                        && slot.key.starts_with(prefix)
                        && after.is_none_or(|after| slot.key.as_ref() > after)
                })
                .map(|slot| (slot.key.clone(), slot.state.clone()))
                .collect::<Vec<_>>()
        };
        let mut found = slots(&self.dirty, Freshness::Dirty);
        found.extend(slots(&self.frozen, Freshness::Frozen));
        found.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        found
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
            if slot.freshness != Freshness::Clean || std::mem::take(slot.touched.get_mut()) {
                continue;
            }
            freed += slot.bytes();
            self.complete = false;
            self.remove(at);
        }
        self.tell_budget();
        freed
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        let found = self
            .index
            .find(hash, |at| self.slots.get(*at).key.as_ref() == key);
        found.copied()
    }

    fn insert(&mut self, key: &[u8], state: Option<KeyState>, freshness: Freshness) -> u32 {
        let slot = Slot {
            // Cut out of what many keys share: a copy keeps none of that.
            key: Bytes::copy_from_slice(key),
            state,
            freshness,
            touched: AtomicBool::new(true),
        };
        self.bytes += slot.bytes();
        let at = self.slots.push(slot);
        let (slots, hasher) = (&self.slots, &self.hasher);
        let hash = |at: &u32| hasher.hash_one(slots.get(*at).key.as_ref());
        self.index.insert_unique(hash(&at), at, hash);
        at
    }

    fn remove(&mut self, at: u32) {
        let slot = self.slots.take(at);
        let hash = self.hasher.hash_one(slot.key.as_ref());
        match self.index.find_entry(hash, |other| *other == at) {
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

/// Slots in pages: growing copies nothing, and the numbers of slots stay.
#[derive(Debug, Default)]
struct Slots {
    pages: Vec<Vec<Option<Slot>>>,
    free: Vec<u32>,
    len: usize,
}

impl Slots {
    /// How many there are, free ones included.
    fn len(&self) -> usize {
        self.len
    }

    fn look(&mut self, at: u32) -> Option<&mut Slot> {
        let at = at as usize;
        self.pages[at / PAGE_SLOTS][at % PAGE_SLOTS].as_mut()
    }

    fn get(&self, at: u32) -> &Slot {
        let at = at as usize;
        let slot = self.pages[at / PAGE_SLOTS][at % PAGE_SLOTS].as_ref();
        slot.expect("a slot that is listed is in use")
    }

    fn get_mut(&mut self, at: u32) -> &mut Slot {
        self.look(at).expect("a slot that is listed is in use")
    }

    fn push(&mut self, slot: Slot) -> u32 {
        if let Some(at) = self.free.pop() {
            let place = at as usize;
            self.pages[place / PAGE_SLOTS][place % PAGE_SLOTS] = Some(slot);
            return at;
        }
        if self.len.is_multiple_of(PAGE_SLOTS) {
            self.pages.push(Vec::with_capacity(PAGE_SLOTS));
        }
        let page = self
            .pages
            .last_mut()
            .expect("just pushed if there was none");
        page.push(Some(slot));
        self.len += 1;
        u32::try_from(self.len - 1).expect("memory ends before 2^32 slots of 100 bytes")
    }

    fn take(&mut self, at: u32) -> Slot {
        let place = at as usize;
        let slot = self.pages[place / PAGE_SLOTS][place % PAGE_SLOTS].take();
        self.free.push(at);
        slot.expect("a slot that is listed is in use")
    }
}
