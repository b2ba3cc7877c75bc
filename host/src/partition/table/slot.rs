//! Where a table keeps one key with its state. Part of `table`.
//!
//! A key and a small state lie in one allocation: whoever finds the key has the state in the same lines of the
//! processor's cache. A state that stays as long as it was is changed in place.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::state::{KeyState, StateRef};
use crate::types::Offset;

/// Fixed cost of a state beside the bytes of its key and itself: 64 for the slot, 9 in an index that is half
/// to seven eighths full, the rounding of one allocation.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 96;
/// Slots of one page.
const PAGE_SLOTS: usize = 1_024;
/// States up to this size lie behind their key, and are copied for whoever asks for them. Larger ones are shared.
const INLINE_BYTES_MAX: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// As in the store.
    Clean,
    /// In a commit that has not ended.
    Frozen,
    /// Changed since.
    Dirty,
}

/// A key with its state, in one line of the processor's cache.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Slot {
    /// The key, and behind it the state where that is inline.
    bytes: Box<[u8]>,
    state: State,
    key_bytes: u32,
    pub(super) freshness: Freshness,
    /// Read or written since the hand last came by.
    used: AtomicBool,
    changed_at: Offset,
    changed_at_ms: i64,
}

#[derive(Debug)]
enum State {
    None,
    Inline,
    Large(Box<Bytes>),
}

const _: () = assert!(size_of::<Option<Slot>>() == 64);

impl Slot {
    /// A key with its state, just used.
    pub(super) fn new(key: &[u8], state: Option<StateRef<'_>>, freshness: Freshness) -> Self {
        let mut slot = Self {
            bytes: joined(key, inline(state)),
            state: State::None,
            key_bytes: u32::try_from(key.len()).expect("keys are bounded"),
            freshness,
            used: AtomicBool::new(true),
            changed_at: Offset(0),
            changed_at_ms: 0,
        };
        slot.set(state);
        slot
    }

    /// Changes the state, and says that it was used.
    pub(super) fn set(&mut self, state: Option<StateRef<'_>>) {
        let key_bytes = self.key_bytes as usize;
        let inline = inline(state);
        if self.bytes.len() == key_bytes + inline.len() {
            self.bytes[key_bytes..].copy_from_slice(inline);
        } else {
            self.bytes = joined(&self.bytes[..key_bytes], inline);
        }
        self.state = match state {
            None => State::None,
            Some(state) if state.state.len() <= INLINE_BYTES_MAX => State::Inline,
            Some(state) => State::Large(Box::new(Bytes::copy_from_slice(state.state))),
        };
        self.changed_at = state.map_or(Offset(0), |state| state.changed_at);
        self.changed_at_ms = state.map_or(0, |state| state.changed_at_ms);
        *self.used.get_mut() = true;
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_bytes as usize]
    }

    /// The state, as it goes to whoever asks.
    pub(super) fn state(&self) -> Option<KeyState> {
        match &self.state {
            State::Large(state) => Some(KeyState {
                state: Bytes::clone(state),
                changed_at: self.changed_at,
                changed_at_ms: self.changed_at_ms,
            }),
            State::None | State::Inline => self.state_ref().map(StateRef::to_owned),
        }
    }

    /// The state, borrowed.
    pub(super) fn state_ref(&self) -> Option<StateRef<'_>> {
        self.state_bytes().map(|state| StateRef {
            state,
            changed_at: self.changed_at,
            changed_at_ms: self.changed_at_ms,
        })
    }

    /// The plugin's bytes.
    pub(super) fn state_bytes(&self) -> Option<&[u8]> {
        match &self.state {
            State::None => None,
            State::Inline => Some(&self.bytes[self.key_bytes as usize..]),
            State::Large(state) => Some(state),
        }
    }

    /// What it takes of the budget.
    pub(super) fn bytes(&self) -> usize {
        let large = match &self.state {
            State::Large(state) => state.len(),
            State::None | State::Inline => 0,
        };
        ENTRY_OVERHEAD_BYTES + self.bytes.len() + large
    }

    /// Whether it was used since this was last asked.
    pub(super) fn take_used(&mut self) -> bool {
        std::mem::take(self.used.get_mut())
    }
}

/// What of a state lies behind its key.
fn inline(state: Option<StateRef<'_>>) -> &[u8] {
    match state {
        Some(StateRef { state, .. }) if state.len() <= INLINE_BYTES_MAX => state,
        _ => &[],
    }
}

fn joined(key: &[u8], state: &[u8]) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(key.len() + state.len());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(state);
    bytes.into_boxed_slice()
}

/// Slots in pages: growing copies nothing, and the numbers of slots stay.
#[derive(Debug, Default)]
pub(super) struct Slots {
    pages: Vec<Vec<Option<Slot>>>,
    free: Vec<u32>,
    len: usize,
}

impl Slots {
    /// How many there are, free ones included.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn look(&mut self, at: u32) -> Option<&mut Slot> {
        let at = at as usize;
        self.pages[at / PAGE_SLOTS][at % PAGE_SLOTS].as_mut()
    }

    pub(super) fn get(&self, at: u32) -> &Slot {
        let at = at as usize;
        let slot = self.pages[at / PAGE_SLOTS][at % PAGE_SLOTS].as_ref();
        slot.expect("a slot that is listed is in use")
    }

    /// Looks at the slots, and then at what they point to.
    pub(super) fn look_at(&self, slots: &[u32]) {
        let bytes: Vec<&[u8]> = slots.iter().map(|at| &*self.get(*at).bytes).collect();
        let ends = bytes.iter().map(|bytes| (bytes.first(), bytes.last()));
        let seen = ends.filter_map(|(first, last)| Some(first? ^ last?));
        std::hint::black_box(seen.fold(0, |all, byte| all ^ byte));
    }

    /// As [`get`](Self::get), and says that it was used.
    pub(super) fn used(&self, at: u32) -> &Slot {
        let slot = self.get(at);
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        slot
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Slot {
        self.look(at).expect("a slot that is listed is in use")
    }

    pub(super) fn push(&mut self, slot: Slot) -> u32 {
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

    pub(super) fn take(&mut self, at: u32) -> Slot {
        let place = at as usize;
        let slot = self.pages[place / PAGE_SLOTS][place % PAGE_SLOTS].take();
        self.free.push(at);
        slot.expect("a slot that is listed is in use")
    }
}
