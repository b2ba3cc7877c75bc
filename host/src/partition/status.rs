//! What a partition says about itself. Written by its worker, read by `http` and `telemetry`.

use crate::types::{Offset, RecordPosition};

/// Where a partition is in its life, from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It cannot go on by itself; it answers from the state it has.
    Blocked,
    /// Its store and reader are being opened.
    Opening,
    /// It has not read its backlog yet.
    Replaying,
    /// It has read its backlog.
    Live,
}

/// Why a partition cannot go on, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Stable code: `event-rejected`, `event-trapped`, `event-without-key`, `key-not-of-partition`,
    /// `partitions-changed`, `topic-replaced`, `topic-missing`, `position-past-end`, `history-gap`, …
    pub code: String,
    /// What happened and what to do.
    pub detail: String,
    /// The event before which it stopped, if it is about one.
    pub at: Option<RecordPosition>,
}

/// A consistent picture of a partition.
#[derive(Debug, Clone)]
pub struct PartitionStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// Why it is blocked.
    pub blocked: Option<Blocked>,
    /// First offset that is not folded.
    pub next: Offset,
    /// First offset that is not committed to the store.
    pub committed: Offset,
    /// One past the last record of the log, as last seen.
    pub end: Offset,
    /// How many offsets it is behind; 0 at the end of the partition.
    pub lag_events: u64,
    /// Whether the log reached back to its first record when this generation began.
    pub history_complete: bool,
    /// Offset of the first record of this generation.
    pub start: Offset,
    /// The last fault of the log or the store; the worker keeps trying.
    pub last_error: Option<String>,
    /// Whether the assignment is lost for now: it answers, but does not fold.
    pub degraded: bool,
}

impl PartitionStatus {
    /// A partition that is about to open.
    #[must_use]
    pub fn opening() -> Self {
        Self {
            phase: Phase::Opening,
            blocked: None,
            next: Offset(0),
            committed: Offset(0),
            end: Offset(0),
            lag_events: 0,
            history_complete: true,
            start: Offset(0),
            last_error: None,
            degraded: false,
        }
    }

    /// Offset of the last folded record, if any was folded: the public *position*.
    #[must_use]
    pub fn position(&self) -> Option<Offset> {
        (self.next > self.start).then(|| Offset(self.next.0 - 1))
    }
}
