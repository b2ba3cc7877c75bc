//! Records that several readers want, read from the log once: whoever is first leaves what it reads for those
//! behind it. Used by `partition`, where many plugins fold the same topics.
//!
//! Readers of a partition that are behind meet in its [window](window). One that finds nothing there reads on from
//! the log, unless another one is about to read just that; then it waits, if it has the [patience](patience). So those
//! that come near each other go on together, with one fetch for all of them, and at the pace of the quickest.
//!
//! Invariants: what a reader finds here is all that the log has between its position and the one that it is told;
//! what was read of a topic is found by nobody who reads another one of that name; all that lies here stays within a
//! bound; a reader that has met the end of its partition reads for itself from then on.

mod patience;
mod window;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;

use self::patience::Patience;
use self::window::{Next, Room, Seat, Window};
use super::{LogError, PartitionReader, Read, ReadLimits, ReaderSet, RecordBatch};
use crate::clock::Clock;
use crate::telemetry::Level;
use crate::types::{Offset, TopicPartition};

/// What readers of a host leave for each other. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedReads {
    clock: Clock,
    room: Arc<Room>,
    windows: Arc<Mutex<HashMap<Identity, Weak<Window>>>>,
}

/// A partition of one topic; another topic of the same name has another id.
type Identity = (TopicPartition, [u8; 16]);

impl SharedReads {
    /// At most so many bytes of records are left for others.
    #[must_use]
    pub fn new(bytes_max: usize, clock: Clock) -> Self {
        Self::counted(bytes_max, Level::default(), clock)
    }

    /// As [`new`](Self::new); `used` tells how many bytes there are.
    #[must_use]
    pub fn counted(bytes_max: usize, used: Level, clock: Clock) -> Self {
        Self {
            clock,
            room: Arc::new(Room::new(bytes_max, used)),
            windows: Arc::default(),
        }
    }

    /// Reads a partition of the topic with this id from `from` on, together with whoever else does. Nothing is shared
    /// where the log cannot tell the id.
    ///
    /// # Errors
    /// As [`ReaderSet::open`]. Where others have what comes next, the first call that reads from the log has them.
    pub async fn open(
        &self,
        set: &Arc<dyn ReaderSet>,
        of: &TopicPartition,
        topic: Option<[u8; 16]>,
        from: Offset,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        let Some(topic) = topic else {
            return set.open(of, from).await;
        };
        let seat = self.seat(of, topic, from);
        let opened = match seat.next(true) {
            Next::Left | Next::Awaited => None,
            Next::Log => Some(set.open(of, from).await?),
        };
        Ok(self.reader(set, of, seat, from, opened))
    }

    /// Goes on with a reader of the set that is at `from`, as [`open`](Self::open).
    #[must_use]
    pub fn join(
        &self,
        set: &Arc<dyn ReaderSet>,
        of: &TopicPartition,
        topic: Option<[u8; 16]>,
        from: Offset,
        opened: Box<dyn PartitionReader>,
    ) -> Box<dyn PartitionReader> {
        match topic {
            Some(topic) => {
                let seat = self.seat(of, topic, from);
                self.reader(set, of, seat, from, Some(opened))
            }
            None => opened,
        }
    }

    fn reader(
        &self,
        set: &Arc<dyn ReaderSet>,
        of: &TopicPartition,
        seat: Seat,
        next: Offset,
        opened: Option<Box<dyn PartitionReader>>,
    ) -> Box<dyn PartitionReader> {
        seat.moves(next, opened.is_some());
        Box::new(SharedReader {
            reader: opened,
            seat: Some(seat),
            set: Arc::clone(set),
            of: of.clone(),
            next,
            patience: Patience::new(self.clock.clone()),
        })
    }

    fn seat(&self, of: &TopicPartition, topic: [u8; 16], from: Offset) -> Seat {
        let identity = (of.clone(), topic);
        let mut windows = self.windows.lock();
        let window = windows.get(&identity).and_then(Weak::upgrade);
        let window = window.unwrap_or_else(|| {
            windows.retain(|_, window| window.strong_count() > 0);
            let window = Arc::new(Window::new(Arc::clone(&self.room)));
            windows.insert(identity, Arc::downgrade(&window));
            window
        });
        Seat::take(window, from)
    }
}

/// Reads a partition, together with others as long as it is behind. Fields are dropped in order: others are told that
/// it reads no more when it does not.
struct SharedReader {
    /// Reads from the log, and is at `next`; dropped when others have what comes next.
    reader: Option<Box<dyn PartitionReader>>,
    /// Until the end of the partition is met.
    seat: Option<Seat>,
    set: Arc<dyn ReaderSet>,
    of: TopicPartition,
    next: Offset,
    patience: Patience,
}

impl SharedReader {
    /// Takes what others have left, or waits for it; whether there was anything.
    async fn follow(&mut self, into: &mut RecordBatch, limits: ReadLimits) -> bool {
        let Some(seat) = &self.seat else { return false };
        loop {
            // What happens between a look and the wait for a change must not be missed.
            let mut moved = pin!(seat.moved());
            moved.as_mut().enable();
            match seat.next(!into.leaves_headers_out()) {
                Next::Log => return false,
                Next::Left => {
                    let Some(next) = seat.copy_left(self.next, into, limits) else {
                        return false;
                    };
                    self.reader = None;
                    self.next = next;
                    seat.moves(next, false);
                    return true;
                }
                Next::Awaited => {
                    if !self.patience.wait(moved).await {
                        return false;
                    }
                }
            }
        }
    }
}

#[async_trait]
impl PartitionReader for SharedReader {
    async fn read(&mut self, into: &mut RecordBatch, limits: ReadLimits) -> Result<Read, LogError> {
        self.patience.read_begins();
        if self.follow(into, limits).await {
            self.patience.read_ends();
            return Ok(Read::Records);
        }
        if self.reader.is_none() {
            self.patience.passes();
            self.reader = Some(self.set.open(&self.of, self.next).await?);
            if let Some(seat) = &self.seat {
                seat.moves(self.next, true);
            }
        }
        let reader = self.reader.as_mut().expect("just opened");
        let before = into.len();
        let read = reader.read(into, limits).await?;
        match (read, &self.seat) {
            (Read::Records, Some(seat)) => {
                let from = self.next;
                self.next = Offset(into.offsets()[into.len() - 1]).next();
                seat.leave(from, self.next, into, before..into.len());
            }
            (Read::EndOfPartition, _) => self.seat = None,
            (Read::Records, None) => {}
        }
        self.patience.read_ends();
        Ok(read)
    }
}

impl fmt::Debug for SharedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedReader")
            .field("of", &self.of)
            .field("next", &self.next)
            .field("is_behind", &self.seat.is_some())
            .finish_non_exhaustive()
    }
}
