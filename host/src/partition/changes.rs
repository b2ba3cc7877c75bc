//! What a step changed: states on their way from the plugin's columns into the table. Made by `step`, taken
//! over by `table`.
//!
//! Invariants: each key once, with its last state; all bytes in one allocation.

use hashbrown::HashTable;

use crate::state::StateRef;
use crate::types::Offset;

/// Where the states before a batch have a key; valid until something is added or removed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub u32);

/// Changed states, each key once.
#[derive(Debug, Default)]
pub struct Changes {
    bytes: Vec<u8>,
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
    state: Option<Span>,
    changed_at: Offset,
    changed_at_ms: i64,
}

/// Bytes from here until there.
type Span = (usize, usize);

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
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Change<'_>> {
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

    /// Says that up to so many changes come, of so many bytes together.
    pub(super) fn reserve(&mut self, changes: usize, bytes: usize) {
        self.entries.reserve(changes);
        self.bytes.reserve(bytes);
    }

    /// What earlier calls changed about a key.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<Change<'_>> {
        let at = self.find_entry(hash, key)?;
        Some(self.change(&self.entries[at]))
    }

    /// Adds a change, or replaces that of an earlier call.
    pub(super) fn push(
        &mut self,
        hash: u64,
        key: &[u8],
        at: Option<Place>,
        state: Option<StateRef<'_>>,
    ) {
        let earlier = self.find_entry(hash, key);
        let entry = Entry {
            hash,
            at,
            key: match earlier {
                Some(earlier) => self.entries[earlier].key,
                None => self.copy(key),
            },
            state: state.map(|state| self.copy(state.state)),
            changed_at: state.map_or(Offset(0), |state| state.changed_at),
            changed_at_ms: state.map_or(0, |state| state.changed_at_ms),
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
            state: entry.state.map(|range| StateRef {
                state: self.bytes_at(range),
                changed_at: entry.changed_at,
                changed_at_ms: entry.changed_at_ms,
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
