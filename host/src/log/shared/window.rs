//! Where readers of a partition meet: where each of them is, and what was left for those behind. Part of `shared`.
//!
//! Invariants: a chunk holds every record from its position up to its last one; one that everybody has passed
//! is dropped; when there is no room, what is needed last goes first, or is not taken in.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::limits;
use crate::log::{ReadLimits, RecordBatch};
use crate::telemetry::Level;
use crate::types::Offset;

/// What a record takes beside its key, value and headers.
const RECORD_OVERHEAD_BYTES: usize = 36;

/// Bytes for all windows; those in which somebody is share them equally.
#[derive(Debug)]
pub(super) struct Room {
    bytes_max: usize,
    used: Level,
    windows: AtomicUsize,
}

impl Room {
    pub(super) fn new(bytes_max: usize, used: Level) -> Self {
        Self {
            bytes_max,
            used,
            windows: AtomicUsize::new(0),
        }
    }

    /// Whether a window that has so many bytes may have so many more.
    fn is_there(&self, window_bytes: usize, more_bytes: usize) -> bool {
        let share = self.bytes_max / self.windows.load(Ordering::Relaxed).max(1);
        window_bytes + more_bytes <= share && self.used.get() + more_bytes <= self.bytes_max
    }
}

/// Where readers of a partition meet.
pub(super) struct Window {
    state: Mutex<State>,
    /// Something was left, or somebody reads no more.
    moved: Notify,
    room: Arc<Room>,
}

#[derive(Default)]
struct State {
    /// What was left, by the position at which it was read.
    chunks: BTreeMap<Offset, Chunk>,
    bytes: usize,
    seats: BTreeMap<u64, Position>,
    next_seat: u64,
}

/// What one call read: one record at least.
struct Chunk {
    /// Position behind the last record.
    until: Offset,
    records: Arc<RecordBatch>,
    bytes: usize,
}

/// Where a reader is.
#[derive(Debug, Clone, Copy)]
struct Position {
    next: Offset,
    /// It reads from the log.
    reads: bool,
}

impl Window {
    pub(super) fn new(room: Arc<Room>) -> Self {
        room.windows.fetch_add(1, Ordering::Relaxed);
        Self {
            state: Mutex::default(),
            moved: Notify::new(),
            room,
        }
    }

    /// Drops what everybody has passed.
    fn drop_passed(&self, state: &mut State) {
        let first = state.seats.values().map(|at| at.next).min();
        while let Some((from, chunk)) = state.chunks.first_key_value() {
            if first.is_some_and(|first| chunk.until > first) {
                break;
            }
            let from = *from;
            self.remove(state, from);
        }
    }

    /// Makes room for what lies between two positions, where it is needed earlier than what is there; whether there
    /// is any.
    fn make_room(&self, state: &mut State, from: Offset, until: Offset, bytes: usize) -> bool {
        let Some(distance) = state.distance(from, until) else {
            return false;
        };
        while !self.room.is_there(state.bytes, bytes) {
            let chunks = state.chunks.iter();
            let farthest = chunks
                .filter_map(|(from, chunk)| Some((state.distance(*from, chunk.until)?, *from)))
                .max();
            match farthest {
                Some((farther, from)) if farther > distance => self.remove(state, from),
                _ => return false,
            }
        }
        true
    }

    fn put(&self, state: &mut State, from: Offset, chunk: Chunk) {
        self.remove(state, from);
        state.bytes += chunk.bytes;
        self.room.used.change(0, chunk.bytes);
        state.chunks.insert(from, chunk);
    }

    fn remove(&self, state: &mut State, from: Offset) {
        if let Some(chunk) = state.chunks.remove(&from) {
            state.bytes -= chunk.bytes;
            self.room.used.change(chunk.bytes, 0);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.room.used.change(self.state.get_mut().bytes, 0);
        self.room.windows.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Window")
            .field("bytes", &state.bytes)
            .field("seats", &state.seats)
            .finish_non_exhaustive()
    }
}

impl State {
    /// What lies at a position, for a reader that wants headers or not, and the position behind it.
    fn left(&self, next: Offset, with_headers: bool) -> Option<(&Arc<RecordBatch>, Offset)> {
        let (_, chunk) = self.chunks.range(..=next).next_back()?;
        let has_all = !with_headers || !chunk.records.leaves_headers_out();
        (next < chunk.until && has_all).then_some((&chunk.records, chunk.until))
    }

    /// Whether another one than `seat` reads from the log at a position.
    fn is_read_at(&self, next: Offset, seat: u64) -> bool {
        let mut seats = self.seats.iter();
        seats.any(|(other, at)| *other != seat && at.reads && at.next == next)
    }

    /// Whether it is worth while to stop reading from the log for what lies ahead: because it is much, or because
    /// another one reads on behind it.
    fn reaches_far(&self, next: Offset, with_headers: bool, seat: u64) -> bool {
        let (mut next, mut bytes) = (next, 0);
        while let Some((records, until)) = self.left(next, with_headers) {
            bytes += records.bytes();
            if bytes >= limits::SHARED_READ_AHEAD_BYTES || self.is_read_at(until, seat) {
                return true;
            }
            next = until;
        }
        false
    }

    /// How far the nearest reader is from what lies between two positions; `None` = nobody comes there any more.
    fn distance(&self, from: Offset, until: Offset) -> Option<u64> {
        let behind = self.seats.values().filter(|at| at.next < until);
        behind.map(|at| from.0.saturating_sub(at.next.0)).min()
    }
}

/// A reader's place in a window; it is gone when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    window: Arc<Window>,
    number: u64,
}

/// What there is to do for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Others have left what comes next.
    Left,
    /// Another one is about to read it.
    Awaited,
    /// It reads from the log.
    Log,
}

impl Seat {
    /// A place of a reader that does not read from the log yet.
    pub(super) fn take(window: Arc<Window>, next: Offset) -> Self {
        let mut state = window.state.lock();
        let number = state.next_seat;
        state.next_seat += 1;
        let reads = false;
        state.seats.insert(number, Position { next, reads });
        drop(state);
        Self { window, number }
    }

    /// Says where the reader is, and whether it reads from the log.
    pub(super) fn moves(&self, next: Offset, reads: bool) {
        let mut state = self.window.state.lock();
        let before = self.sits(&mut state, next, reads);
        drop(state);
        if before.is_some_and(|before| before.reads) && !reads {
            self.window.moved.notify_waiters();
        }
    }

    /// The reader is there now; where it was before.
    fn sits(&self, state: &mut State, next: Offset, reads: bool) -> Option<Position> {
        let before = state.seats.insert(self.number, Position { next, reads });
        self.window.drop_passed(state);
        before
    }

    /// What there is to do at the reader's position.
    pub(super) fn next(&self, with_headers: bool) -> Next {
        let state = self.window.state.lock();
        let Position { next, reads } = state.seats[&self.number];
        if reads {
            return match state.reaches_far(next, with_headers, self.number) {
                true => Next::Left,
                false => Next::Log,
            };
        }
        if state.left(next, with_headers).is_some() {
            Next::Left
        } else if state.is_read_at(next, self.number) {
            Next::Awaited
        } else {
            Next::Log
        }
    }

    /// Tells when something was left, or somebody reads no more, from when it is first polled or enabled.
    pub(super) fn moved(&self) -> Notified<'_> {
        self.window.moved.notified()
    }

    /// Copies what was left at a position into a batch, up to `limits`, and returns the position behind that;
    /// `None` = it is gone.
    pub(super) fn copy_left(
        &self,
        next: Offset,
        into: &mut RecordBatch,
        limits: ReadLimits,
    ) -> Option<Offset> {
        let with_headers = !into.leaves_headers_out();
        let records = {
            let state = self.window.state.lock();
            Arc::clone(state.left(next, with_headers)?.0)
        };
        let from = records.offsets().partition_point(|offset| *offset < next.0);
        let until = from + fitting(&records, from, limits);
        into.push_part(&records, from..until);
        Some(Offset(records.offsets()[until - 1]).next())
    }

    /// Leaves what was read from the log at `from` for those behind, if there are any. The reader is at `until`.
    pub(super) fn leave(
        &self,
        from: Offset,
        until: Offset,
        batch: &RecordBatch,
        read: Range<usize>,
    ) {
        let mut state = self.window.state.lock();
        self.sits(&mut state, until, true);
        let with_headers = !batch.leaves_headers_out();
        let is_there = (state.left(from, with_headers)).is_some_and(|(_, end)| end >= until);
        let bytes = batch.part_bytes(read.clone()) + read.len() * RECORD_OVERHEAD_BYTES;
        if !is_there && self.window.make_room(&mut state, from, until, bytes) {
            let mut records = RecordBatch::new();
            records.leave_headers_out(batch.leaves_headers_out());
            records.push_part(batch, read);
            let records = Arc::new(records);
            let chunk = Chunk {
                until,
                records,
                bytes,
            };
            self.window.put(&mut state, from, chunk);
        }
        drop(state);
        self.window.moved.notify_waiters();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.window.state.lock();
        state.seats.remove(&self.number);
        self.window.drop_passed(&mut state);
        drop(state);
        self.window.moved.notify_waiters();
    }
}

/// How many records from `from` on are within limits; one at least.
fn fitting(records: &RecordBatch, from: usize, limits: ReadLimits) -> usize {
    let most = (records.len() - from).min(limits.records_max);
    if records.part_bytes(from..from + most) <= limits.bytes_max {
        return most;
    }
    let mut bytes = 0;
    let fits = (from..from + most).take_while(|index| {
        bytes += records.get(*index).bytes();
        bytes <= limits.bytes_max
    });
    fits.count().max(1)
}
