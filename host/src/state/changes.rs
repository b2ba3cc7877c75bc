//! Changed states on their way to a store. Built by `partition`, written by the adapters beside it.
//!
//! Invariant: the bytes of all keys and states lie in one allocation, in the form in which stores keep
//! them, so that a commit copies each state once, however many layers it passes, and frees all of them
//! in one go.

use bytes::{BufMut as _, Bytes};

use super::checkpoint::{STATE_HEADER_BYTES, decode_state, encode_state};
use super::{KeyState, StateRef};

/// Changes that are looked at together.
const AHEAD: usize = 32;
/// In place of the length of a state: the key has none any more.
const DELETED: u32 = u32::MAX;

/// Changed states, each key once (`None` = the key has no state any more).
///
/// ```
/// use foldhost::state::StateChanges;
/// # use foldhost::{state::KeyState, types::Offset};
/// # use bytes::Bytes;
/// let state = KeyState { state: Bytes::from_static(b"3"), changed_at: Offset(7), changed_at_ms: 0 };
/// let changes: StateChanges = [("a".into(), Some(state)), ("b".into(), None)].into_iter().collect();
/// let keys: Vec<Bytes> = changes.iter().map(|(key, _)| key).collect();
/// assert_eq!(keys, ["a", "b"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateChanges {
    bytes: Bytes,
    entries: Vec<Entry>,
}

/// Where a change lies: the key, and the stored state behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    from: usize,
    key_bytes: u32,
    state_bytes: u32,
}

/// Collects changed states.
#[derive(Debug, Default)]
pub struct StateChangesBuilder {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl StateChangesBuilder {
    /// Room for `changes` whose keys and states have `bytes` in all.
    #[must_use]
    pub fn with_capacity(changes: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes + changes * STATE_HEADER_BYTES),
            entries: Vec::with_capacity(changes),
        }
    }

    /// Appends a change of a key that has none yet.
    pub fn push(&mut self, key: &[u8], state: Option<StateRef<'_>>) {
        let from = self.bytes.len();
        self.bytes.put_slice(key);
        let state_from = self.bytes.len();
        if let Some(state) = state {
            encode_state(state, &mut self.bytes);
        }
        let bounded = |bytes| u32::try_from(bytes).expect("keys and states are bounded");
        self.entries.push(Entry {
            from,
            key_bytes: bounded(state_from - from),
            state_bytes: match state {
                Some(_) => bounded(self.bytes.len() - state_from),
                None => DELETED,
            },
        });
    }

    /// What was collected.
    #[must_use]
    pub fn finish(self) -> StateChanges {
        StateChanges {
            bytes: Bytes::from(self.bytes),
            entries: self.entries,
        }
    }
}

impl StateChanges {
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

    /// Keys and their states, in the order in which they were collected; they share the memory of all.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Bytes, Option<KeyState>)> {
        self.entries.iter().map(|entry| {
            let (key, state) = self.stored(*entry);
            let state = state.map(|state| decode_state(&state).expect("it was just encoded"));
            (key, state)
        })
    }

    /// Bytes of all keys and stored states.
    pub(super) fn stored_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of all keys.
    pub(super) fn key_bytes(&self) -> usize {
        self.entries
            .iter()
            .map(|entry| entry.key_bytes as usize)
            .sum()
    }

    /// Keys and stored states, in order of key; they share the memory of all.
    pub(super) fn in_order(&self) -> impl ExactSizeIterator<Item = (Bytes, Option<Bytes>)> {
        let order = self.order().into_iter();
        order.map(|(_, index)| self.stored(self.entries[index as usize]))
    }

    /// Calls `take` with all keys and stored states, in order of key.
    ///
    /// In that order, each lies somewhere else in memory. So some are looked at together before they are taken: the
    /// processor then waits for all of them at once.
    pub(super) fn for_each_in_order<'c>(
        &'c self,
        mut take: impl FnMut(&'c [u8], Option<&'c [u8]>),
    ) {
        let mut ahead = Vec::with_capacity(AHEAD);
        for order in self.order().chunks(AHEAD) {
            ahead.clear();
            ahead.extend(order.iter().map(|(_, index)| {
                let entry = self.entries[*index as usize];
                (entry, &self.bytes[entry.from..])
            }));
            let first_bytes = ahead.iter().filter_map(|(_, bytes)| bytes.first());
            std::hint::black_box(first_bytes.fold(0, |all, byte| all ^ byte));
            for (entry, bytes) in &ahead {
                let (key, state) = bytes.split_at(entry.key_bytes as usize);
                let has_state = entry.state_bytes != DELETED;
                take(key, has_state.then(|| &state[..entry.state_bytes as usize]));
            }
        }
    }

    /// Which entry comes when, each with the bytes of its key that most differ in.
    fn order(&self) -> Vec<(u64, u32)> {
        let key = |entry: &Entry| &self.bytes[entry.from..entry.from + entry.key_bytes as usize];
        // Most keys differ in the first bytes behind what all have in common: those are compared in a
        // register, without a look at the keys.
        let first = self.entries.first().map_or(&[][..], key);
        let common = self
            .entries
            .iter()
            .map(|entry| common_bytes(first, key(entry)));
        let common = common.min().unwrap_or_default();
        let mut order: Vec<(u64, u32)> = (0_u32..)
            .zip(&self.entries)
            .map(|(index, entry)| (leading(&key(entry)[common..]), index))
            .collect();
        order.sort_unstable_by(|left, right| {
            let keys = |(_, index): &(u64, u32)| key(&self.entries[*index as usize]);
            left.0
                .cmp(&right.0)
                .then_with(|| keys(left).cmp(keys(right)))
        });
        order
    }

    fn stored(&self, entry: Entry) -> (Bytes, Option<Bytes>) {
        let state_from = entry.from + entry.key_bytes as usize;
        let state = (entry.state_bytes != DELETED).then(|| {
            self.bytes
                .slice(state_from..state_from + entry.state_bytes as usize)
        });
        (self.bytes.slice(entry.from..state_from), state)
    }
}

impl FromIterator<(Bytes, Option<KeyState>)> for StateChanges {
    fn from_iter<I: IntoIterator<Item = (Bytes, Option<KeyState>)>>(changes: I) -> Self {
        let mut builder = StateChangesBuilder::default();
        for (key, state) in changes {
            builder.push(&key, state.as_ref().map(KeyState::as_ref));
        }
        builder.finish()
    }
}

/// How many bytes both begin with.
fn common_bytes(left: &[u8], right: &[u8]) -> usize {
    let pairs = left.iter().zip(right);
    pairs.take_while(|(left, right)| left == right).count()
}

/// The first eight bytes as a number that is ordered as they are; what is missing counts as zero.
fn leading(bytes: &[u8]) -> u64 {
    let mut eight = [0; 8];
    let found = bytes.len().min(8);
    eight[..found].copy_from_slice(&bytes[..found]);
    u64::from_be_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;

    fn changes(keys: &[&'static [u8]]) -> StateChanges {
        let changes = keys.iter().enumerate().map(|(index, key)| {
            let state = KeyState {
                state: Bytes::from_static(key),
                changed_at: Offset(index as u64),
                changed_at_ms: -1,
            };
            (Bytes::from_static(key), Some(state))
        });
        changes.collect()
    }

    #[test]
    fn what_was_collected_comes_out() {
        let mut builder = StateChangesBuilder::with_capacity(2, 3);
        let state = StateRef {
            state: b"",
            changed_at: Offset(7),
            changed_at_ms: 9,
        };
        builder.push(b"k", Some(state));
        builder.push(b"", None);
        let changes = builder.finish();
        let all: Vec<_> = changes.iter().collect();
        assert_eq!(
            all,
            [
                (Bytes::from_static(b"k"), Some(state.to_owned())),
                (Bytes::new(), None)
            ]
        );
    }

    #[test]
    fn stored_keys_come_in_order_whatever_they_share() {
        for keys in [
            &[][..],
            &[&b"key-2"[..], b"key-10", b"key-1", b"key-"],
            &[b"a\0", b"a", b"a\0\0\0\0\0\0\0\0", b"a\0\0\0\0\0\0\0\0\0"],
            &[
                b"common-12345678-b",
                b"common-12345678-a",
                b"common-12345678",
            ],
            &[b"", b"b", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"a"],
        ] {
            let mut expected: Vec<_> = keys.iter().map(|key| key.to_vec()).collect();
            expected.sort();
            let changes = changes(keys);
            let found: Vec<_> = changes.in_order().map(|(key, _)| key.to_vec()).collect();
            assert_eq!(found, expected);
        }
    }
}
