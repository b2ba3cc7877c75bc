//! Memory for states, shared by all partitions of a host: how much there is, who has it, and who
//! gives some back. Part of `table`.
//!
//! Invariants: evicting starts when more is in use than there is, before the states of a batch are
//! loaded and after it is folded, so that no long replay and no scan of cold keys goes beyond it by
//! more than a batch; it goes round the partitions as its hand goes round the states of one, so that
//! an idle partition gives up its states before a busy one loses what it uses. Half of the memory is
//! for changed states: what waits for a commit and what is in one. Each partition has an equal share of it, and
//! what others leave; who has less than its share may fill it even so, until those who have more have committed.
//! So all together never have more than there is for all states, but for a batch each.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::StateTable;
use crate::config::MemoryPlan;
use crate::telemetry::Level;

/// Slots that one visit to a table looks at, with the table locked.
const VISIT_SLOTS_MAX: usize = 2_048;
/// Fewest visits before an eviction gives up for now.
const VISITS_MIN: usize = 8;

/// Memory for states, shared by all partitions of a host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StateBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    bytes_max: usize,
    dirty_bytes_max: usize,
    used: Level,
    dirty: Level,
    open: AtomicUsize,
    ring: Mutex<Ring>,
}

/// The tables, and which of them gives next.
#[derive(Debug, Default)]
struct Ring {
    tables: Vec<Weak<SharedTable>>,
    hand: usize,
}

impl StateBudget {
    /// A budget of `bytes_max`, half of it for changed states.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let (used, dirty) = (Level::default(), Level::default());
        Self::counted(bytes_max, bytes_max / 2, used, dirty)
    }

    /// The budget of a plan, counted in these figures.
    #[must_use]
    pub fn planned(plan: &MemoryPlan, used: Level, dirty: Level) -> Self {
        Self::counted(plan.states_bytes, plan.dirty_states_bytes, used, dirty)
    }

    fn counted(bytes_max: usize, dirty_bytes_max: usize, used: Level, dirty: Level) -> Self {
        Self(Arc::new(Budget {
            bytes_max,
            dirty_bytes_max,
            used,
            dirty,
            open: AtomicUsize::new(0),
            ring: Mutex::default(),
        }))
    }

    /// Bytes in use by all partitions.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.0.used.get()
    }

    /// Bytes of changes in all partitions that are in no finished commit.
    #[cfg(test)]
    pub(in crate::partition) fn dirty_bytes(&self) -> usize {
        self.0.dirty.get()
    }

    /// A table of a partition that is about to be opened.
    pub(in crate::partition) fn open_table(&self) -> Arc<SharedTable> {
        let table = Arc::new(SharedTable {
            states: RwLock::new(StateTable::new(false, self.clone())),
            in_use: AtomicBool::new(false),
            budget: self.clone(),
        });
        self.0.open.fetch_add(1, Ordering::Relaxed);
        let mut ring = self.0.ring.lock();
        ring.tables.retain(|table| table.strong_count() > 0);
        ring.tables.push(Arc::downgrade(&table));
        drop(ring);
        table
    }

    /// Bytes of changes that a partition that has so many may hold, those in a commit included.
    pub(super) fn dirty_share_bytes(&self, own_bytes: usize) -> usize {
        let open = self.0.open.load(Ordering::Relaxed).max(1);
        let share = self.0.dirty_bytes_max / open;
        let left = self.0.dirty_bytes_max.saturating_sub(self.0.dirty.get());
        share.max(own_bytes + left)
    }

    pub(in crate::partition) fn account(&self, before: usize, after: usize) {
        self.0.used.change(before, after);
    }

    pub(in crate::partition) fn account_dirty(&self, before: usize, after: usize) {
        self.0.dirty.change(before, after);
    }

    fn excess_bytes(&self) -> usize {
        self.used_bytes().saturating_sub(self.0.bytes_max)
    }

    /// Evicts until the host is within its budget, or nobody has anything to give just now.
    fn reclaim(&self) {
        if self.excess_bytes() == 0 {
            return;
        }
        let mut ring = self.0.ring.lock();
        let mut visits = (2 * ring.tables.len()).max(VISITS_MIN);
        let mut passed = 0;
        while visits > 0 && passed < ring.tables.len() {
            let excess = self.excess_bytes();
            if excess == 0 {
                return;
            }
            ring.hand = (ring.hand + 1) % ring.tables.len();
            let hand = ring.hand;
            match ring.tables[hand].upgrade() {
                Some(table) if table.give(excess) => {
                    visits -= 1;
                    passed = 0;
                }
                Some(_) => passed += 1,
                None => drop(ring.tables.swap_remove(hand)),
            }
        }
    }
}

/// The states of a partition, for its worker and for queries.
#[derive(Debug)]
pub(in crate::partition) struct SharedTable {
    states: RwLock<StateTable>,
    /// Whether a batch is between loading its states and having folded them. Set before the table is
    /// looked at for them, and looked at by evictions that hold the table: so that either the
    /// eviction came first, or it sees this.
    in_use: AtomicBool,
    budget: StateBudget,
}

impl SharedTable {
    /// Makes room, and keeps the states of the batch that is folded next until it is folded.
    pub(in crate::partition) fn use_for_batch(self: &Arc<Self>) -> InUse {
        self.budget.reclaim();
        self.in_use.store(true, Ordering::SeqCst);
        InUse(Arc::clone(self))
    }

    /// Looks for what can go, unless somebody uses the table: then there is another one, or another time.
    fn give(&self, wanted_bytes: usize) -> bool {
        match self.states.try_write() {
            Some(mut states) if !self.in_use.load(Ordering::SeqCst) => {
                states.evict(wanted_bytes, VISIT_SLOTS_MAX);
                true
            }
            _ => false,
        }
    }
}

impl Deref for SharedTable {
    type Target = RwLock<StateTable>;

    fn deref(&self) -> &Self::Target {
        &self.states
    }
}

impl Drop for SharedTable {
    fn drop(&mut self) {
        self.budget.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// While this lives, no state of a table is evicted.
#[derive(Debug)]
pub(in crate::partition) struct InUse(Arc<SharedTable>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.in_use.store(false, Ordering::SeqCst);
        self.0.budget.reclaim();
    }
}
