//! The table against a plain map, and evictions across the tables of a budget.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::types::Offset;

fn state(text: &str) -> Option<KeyState> {
    Some(KeyState {
        state: Bytes::copy_from_slice(text.as_bytes()),
        changed_at: Offset(1),
        changed_at_ms: 1,
    })
}

fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Changes states, as a step that found them here does.
fn change(table: &mut StateTable, key: &[u8], state: Option<KeyState>) {
    let mut changes = Changes::default();
    let hash = table.hash(key);
    let at = table.find(hash, key);
    changes.push(hash, key, at, state.as_ref().map(KeyState::as_ref));
    table.change_all(&changes);
}

/// What a commit takes.
fn frozen(table: &mut StateTable) -> Vec<(Bytes, Option<KeyState>)> {
    table.freeze().iter().collect()
}

/// All changes that are in no finished commit.
fn uncommitted(table: &StateTable, after: Option<&[u8]>) -> Vec<(Bytes, Option<KeyState>)> {
    table.uncommitted(b"", after, usize::MAX).0
}

/// What a state of `key` with a value of one letter takes.
fn cost(key: &str) -> usize {
    ENTRY_OVERHEAD_BYTES + key.len() + 1
}

/// A table of a budget, and what the store behind it holds.
fn table_with(budget: &StateBudget, keys: &[&str]) -> Arc<SharedTable> {
    let table = budget.open_table();
    for name in keys {
        table.write().load_all([(&key(name), state("1"))]);
    }
    table
}

#[test]
fn a_change_during_a_commit_stays_dirty() {
    let mut table = StateTable::new(true, StateBudget::new(1 << 20));
    change(&mut table, b"a", state("1"));
    assert_eq!(frozen(&mut table), [(key("a"), state("1"))]);
    change(&mut table, b"a", state("2"));
    assert_eq!(uncommitted(&table, None), [(key("a"), state("2"))]);
    table.committed();
    assert_eq!(frozen(&mut table), [(key("a"), state("2"))]);
}

#[test]
fn a_key_that_changes_often_counts_once() {
    let budget = StateBudget::new(4 * cost("a") + 8);
    let mut table = StateTable::new(true, budget.clone());
    for _ in 0..100 {
        change(&mut table, b"a", state("1"));
        assert!(!table.is_full(0));
    }
    change(&mut table, b"b", state("1"));
    assert!(
        table.is_full(0),
        "an eighth of what may change is left for what changes during the commit"
    );
    drop(table.freeze());
    assert!(!table.is_full(0));
    table.committed();
    drop(table);
    assert_eq!((budget.used_bytes(), budget.dirty_bytes()), (0, 0));
}

#[test]
fn a_commit_begins_early_enough_for_what_changes_beside_it() {
    let mut table = StateTable::new(true, StateBudget::new(32 * cost("a")));
    let mut names = ('a'..='z').map(String::from);
    let mut change_some = |table: &mut StateTable, count| {
        for name in names.by_ref().take(count) {
            assert!(!table.is_full(0), "before {name} changes");
            change(table, name.as_bytes(), state("1"));
        }
    };
    change_some(&mut table, 10);
    drop(table.freeze());
    change_some(&mut table, 6);
    assert!(table.is_full(0), "half of the budget has changed");
    table.committed();
    // A quarter more than the six may come during the next commit.
    change_some(&mut table, 3);
    assert!(table.is_full(0));
}

#[test]
fn what_changes_again_during_a_commit_counts_once() {
    let budget = StateBudget::new(8 * cost("a"));
    let mut table = StateTable::new(true, budget.clone());
    let change_all = |table: &mut StateTable| {
        for name in ["a", "b", "c"] {
            assert!(!table.is_full(0), "before {name} changes");
            change(table, name.as_bytes(), state("1"));
        }
        assert_eq!(budget.dirty_bytes(), 3 * cost("a"));
    };
    for _ in 0..3 {
        change_all(&mut table);
        drop(table.freeze());
        change_all(&mut table);
        assert!(
            !table.is_full(0),
            "there is room for one that is not there yet"
        );
        table.committed();
    }
    change(&mut table, b"d", state("1"));
    assert!(table.is_full(0));
}

#[test]
fn a_partition_may_change_what_others_leave() {
    let budget = StateBudget::new(64 * cost("00"));
    let tables: Vec<_> = (0..4).map(|_| budget.open_table()).collect();
    let fill = |table: &Arc<SharedTable>| {
        let mut table = table.write();
        let mut changed = 0;
        while !table.is_full(0) {
            change(&mut table, format!("{changed:02}").as_bytes(), state("1"));
            changed += 1;
        }
        changed
    };
    assert_eq!(fill(&tables[0]), 28, "all but what is left for the commit");
    assert_eq!(fill(&tables[1]), 7, "its own share at least");
    assert_eq!(fill(&tables[2]), 7);
    assert!(budget.dirty_bytes() <= 64 * cost("00"));
    for table in &tables {
        drop(table.write().freeze());
        table.write().committed();
    }
    assert_eq!(budget.dirty_bytes(), 0);
    assert_eq!(fill(&tables[3]), 28);
}

#[test]
fn only_clean_states_leave_and_an_incomplete_table_asks_the_store() {
    let budget = StateBudget::new(0);
    let table = budget.open_table();
    *table.write() = StateTable::new(true, budget.clone());
    change(&mut table.write(), b"clean", state("1"));
    drop(table.write().freeze());
    table.write().committed();
    change(&mut table.write(), b"dirty", state("2"));
    assert_eq!(
        table.read().get(b"none"),
        Some(None),
        "the table is complete"
    );
    let in_use = table.use_for_batch();
    drop(table.use_for_batch());
    assert!(table.read().get(b"dirty").is_some());
    drop(in_use);
    assert_eq!(table.read().get(b"clean"), None);
    assert_eq!(table.read().get(b"none"), None);
    assert_eq!(table.read().get(b"dirty"), Some(state("2")));
    drop(table);
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn what_a_batch_uses_stays_until_it_is_folded() {
    let budget = StateBudget::new(0);
    let other = table_with(&budget, &["x"]);
    let table = budget.open_table();
    let in_use = table.use_for_batch();
    assert_eq!(other.read().get(b"x"), None, "room is made before");
    for name in ["a", "b", "c"] {
        table.write().load_all([(&key(name), state("1"))]);
    }
    drop(other.use_for_batch());
    assert_eq!(table.read().get(b"a"), Some(state("1")));
    drop(in_use);
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn one_that_is_free_gives_for_those_that_are_in_use() {
    let budget = StateBudget::new(2_000 * cost("0000"));
    let folding: Vec<_> = (0..8).map(|_| budget.open_table()).collect();
    let _in_use: Vec<_> = folding.iter().map(SharedTable::use_for_batch).collect();
    let table = budget.open_table();
    let in_use = table.use_for_batch();
    for number in 0..10_000 {
        let states = [(&key(&format!("{number:04}")), state("1"))];
        table.write().load_all(states);
    }
    drop(in_use);
    assert!(budget.used_bytes() <= 2_000 * cost("0000"));
}

#[test]
fn an_idle_partition_gives_before_a_busy_one() {
    let budget = StateBudget::new(4 * cost("a"));
    let idle = table_with(&budget, &["a", "b"]);
    let busy = table_with(&budget, &["c", "d"]);
    // Once round, so that only what is used from now on counts as used.
    busy.write().load_all([(&key("e"), state("1"))]);
    drop(busy.use_for_batch());
    for _ in 0..20 {
        for name in [b"c", b"d", b"e"] {
            let _used = busy.read().get(name).is_some();
        }
        let missing: Vec<_> = ["c", "d", "e", "f"]
            .into_iter()
            .filter(|name| busy.read().get(name.as_bytes()).is_none())
            .collect();
        let in_use = busy.use_for_batch();
        for name in missing {
            if busy.read().get(name.as_bytes()).is_none() {
                busy.write().load_all([(&key(name), state("1"))]);
            }
        }
        drop(in_use);
    }
    assert_eq!(idle.read().bytes(), 0);
    assert!(budget.used_bytes() <= 4 * cost("a"));
}

#[test]
fn a_deleted_state_is_an_uncommitted_change() {
    let mut table = StateTable::new(false, StateBudget::new(1 << 20));
    table.load_all([(&key("a"), state("1"))]);
    change(&mut table, b"a", None);
    assert_eq!(uncommitted(&table, None), [(key("a"), None)]);
    assert_eq!(uncommitted(&table, Some(b"a")), []);
    drop(table.freeze());
    assert_eq!(table.get(b"a"), Some(None));
    table.committed();
    assert_eq!(table.get(b"a"), None, "the store knows");
}

#[test]
fn with_a_store_behind_it_it_is_a_map() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let budget = StateBudget::new(40 * cost("00"));
    let table = budget.open_table();
    *table.write() = StateTable::new(true, budget.clone());
    let (mut store, mut model) = (BTreeMap::new(), BTreeMap::new());
    let mut commit = None;
    let mut loaded = 0;
    for _ in 0..20_000 {
        let name = key(&format!("{:02}", random.random_range(0..200)));
        let in_use = table.use_for_batch();
        if table.read().get(&name).is_none() {
            table.write().load_all([(&name, store.get(&name).cloned())]);
            loaded += 1;
        }
        let found = table.read().get(&name).expect("just loaded");
        assert_eq!(found, model.get(&name).cloned());
        if random.random_bool(0.3) {
            let new = state("n").filter(|_| random.random_bool(0.8));
            change(&mut table.write(), &name, new.clone());
            match new {
                Some(new) => model.insert(name, new),
                None => model.remove(&name),
            };
        }
        drop(in_use);
        match commit.take() {
            None if table.read().is_full(0) => commit = Some(frozen(&mut table.write())),
            Some(changes) if random.random_bool(0.2) => {
                for (name, state) in changes {
                    match state {
                        Some(state) => store.insert(name, state),
                        None => store.remove(&name),
                    };
                }
                table.write().committed();
            }
            under_way => commit = under_way,
        }
        // Changed ones stay, and one is evicted at most later than one comes.
        assert!(table.read().bytes() <= 80 * cost("00"));
    }
    assert!(
        loaded > 1_000,
        "most of them were evicted and read again: {loaded}"
    );
}

#[test]
fn a_state_may_grow_shrink_and_be_shared() {
    let mut table = StateTable::new(true, StateBudget::new(1 << 20));
    let small = "s".repeat(10);
    let large = "l".repeat(5_000);
    let mut before = 0;
    for text in [&*small, "", &large, &small, &large] {
        change(&mut table, b"key", state(text));
        assert_eq!(table.get(b"key"), Some(state(text)));
        assert_eq!(table.bytes(), cost("key") - 1 + text.len());
        assert_ne!(table.bytes(), before);
        before = table.bytes();
    }
    assert_eq!(frozen(&mut table), [(key("key"), state(&large))]);
    change(&mut table, b"key", None);
    assert_eq!(table.get(b"key"), Some(None));
    assert_eq!(table.bytes(), cost("key") - 1);
}
