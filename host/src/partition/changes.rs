//! What a step changed: states on their way from the plugin's columns into the table. Made by `step`, taken
//! over by `table`.
//!
//! Invariants: each key once, with its last state; what a call returned is kept as it came, and not copied.

use std::ops::Range;

use hashbrown::HashTable;

use crate::state::StateRef;
use crate::types::Offset;

/// Where the states before a batch have a key; valid until something is added or removed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub u32);

/// Places that are looked at together, so that memory is waited for once for all of them; what is done with them
/// then finds them in the nearest cache, which a whole batch does not fit into.
pub(super) const LOOKED_AT: usize = 64;

/// Changed states, each key once.
#[derive(Debug, Default)]
pub struct Changes {
    /// Keys, and states that were copied.
    bytes: Vec<u8>,
    /// States as calls returned them.
    columns: Vec<Vec<u8>>,
    entries: Vec<Entry>,
    /// Where the changes of earlier calls are. Most batches are one call, and need none of this.
    earlier: HashTable<u32>,
    /// How many changes are in `earlier`.
    indexed: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u64,
    at: Option<Place>,
    key: Span,
    state: Option<EntryState>,
}

#[derive(Debug, Clone, Copy)]
struct EntryState {
    /// What the bytes lie in; `None` = they were copied.
    column: Option<Column>,
    bytes: Span,
    changed_at: Offset,
    changed_at_ms: i64,
}

/// Bytes from here until there.
type Span = (usize, usize);

/// States that a call returned, by their number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column(usize);

/// A state within what a call returned.
#[derive(Debug)]
pub(super) struct ColumnState {
    pub(super) column: Column,
    /// Where it lies there.
    pub(super) bytes: Range<usize>,
    pub(super) changed_at: Offset,
    pub(super) changed_at_ms: i64,
}

/// A changed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// As the states before the batch hash it.
    pub hash: u64,
    /// Where they have it.
    pub at: Option<Place>,
    /// The key.
    pub key: &'a [u8],
    /// Its state from now on; `None` = it has none any more.
    pub state: Option<StateRef<'a>>,
}

impl Changes {
    /// How many keys changed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All changes, in no order that means anything.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Change<'_>> + Clone {
        self.entries.iter().map(|entry| self.change(entry))
    }

    /// Says that the keys of the next call may be among those that changed so far.
    pub(super) fn begin_call(&mut self) {
        let Self {
            entries,
            earlier,
            indexed,
            ..
        } = self;
        for at in *indexed..entries.len() {
            let hash_of = |at: &u32| entries[*at as usize].hash;
            let number = u32::try_from(at).expect("a batch is bounded");
            earlier.insert_unique(entries[at].hash, number, hash_of);
        }
        *indexed = entries.len();
    }

    /// Says that up to so many changes come, and that so many bytes are to be copied for them.
    pub(super) fn reserve(&mut self, changes: usize, bytes: usize) {
        self.entries.reserve(changes);
        self.bytes.reserve(bytes);
    }

    /// What earlier calls changed about a key.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<Change<'_>> {
        let at = self.find_entry(hash, key)?;
        Some(self.change(&self.entries[at]))
    }

    /// Keeps the bytes of the states that a call returned, for [`push_of`](Self::push_of).
    pub(super) fn keep(&mut self, states: Vec<u8>) -> Column {
        self.columns.push(states);
        Column(self.columns.len() - 1)
    }

    /// The bytes that were kept.
    pub(super) fn kept(&self, column: Column) -> &[u8] {
        &self.columns[column.0]
    }

    /// Adds a change, or replaces that of an earlier call; the state is copied.
    pub(super) fn push(
        &mut self,
        hash: u64,
        key: &[u8],
        at: Option<Place>,
        state: Option<StateRef<'_>>,
    ) {
        let state = state.map(|state| EntryState {
            column: None,
            bytes: self.copy(state.state),
            changed_at: state.changed_at,
            changed_at_ms: state.changed_at_ms,
        });
        self.put(hash, key, at, state);
    }

    /// As [`push`](Self::push), for a state whose bytes are kept.
    pub(super) fn push_of(
        &mut self,
        hash: u64,
        key: &[u8],
        at: Option<Place>,
        state: Option<ColumnState>,
    ) {
        let state = state.map(|state| EntryState {
            column: Some(state.column),
            bytes: (state.bytes.start, state.bytes.end),
            changed_at: state.changed_at,
            changed_at_ms: state.changed_at_ms,
        });
        self.put(hash, key, at, state);
    }

    fn put(&mut self, hash: u64, key: &[u8], at: Option<Place>, state: Option<EntryState>) {
        let earlier = self.find_entry(hash, key);
        let entry = Entry {
            hash,
            at,
            key: match earlier {
                Some(earlier) => self.entries[earlier].key,
                None => self.copy(key),
            },
            state,
        };
        match earlier {
            Some(earlier) => self.entries[earlier] = entry,
            None => self.entries.push(entry),
        }
    }

    fn find_entry(&self, hash: u64, key: &[u8]) -> Option<usize> {
        if self.indexed == 0 {
            return None;
        }
        let found = self.earlier.find(hash, |at| {
            self.bytes_at(self.entries[*at as usize].key) == key
        });
        found.map(|at| *at as usize)
    }

    fn change<'a>(&'a self, entry: &Entry) -> Change<'a> {
        Change {
            hash: entry.hash,
            at: entry.at,
            key: self.bytes_at(entry.key),
            state: entry.state.map(|state| StateRef {
                state: match state.column {
                    Some(column) => &self.kept(column)[state.bytes.0..state.bytes.1],
                    None => self.bytes_at(state.bytes),
                },
                changed_at: state.changed_at,
                changed_at_ms: state.changed_at_ms,
            }),
        }
    }

    fn bytes_at(&self, (from, until): Span) -> &[u8] {
        &self.bytes[from..until]
    }

    fn copy(&mut self, bytes: &[u8]) -> Span {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        (from, self.bytes.len())
    }
}
