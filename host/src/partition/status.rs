//! What a partition says about itself. Written by its worker, read by `http` and `telemetry`.

use std::sync::Arc;

use super::deciding::Bootstrapped;
use crate::state::ActionPoint;
use crate::types::{DeploymentId, Offset, RecordPosition};

/// Where a partition is in its life, from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It cannot go on by itself; it answers from the state it has.
    Blocked,
    /// Folding stands still until somebody says otherwise; it answers from the state it has.
    Paused,
    /// Its store and reader are being opened.
    Opening,
    /// It has not read its backlog yet.
    Replaying,
    /// It has read its backlog.
    Live,
}

impl Phase {
    /// Its number in the metrics.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Blocked => 0,
            Self::Opening => 1,
            Self::Replaying => 2,
            Self::Live => 3,
            Self::Paused => 4,
        }
    }
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

/// Code of a [`Blocked`] whose topic is not the one that was folded.
pub(super) const TOPIC_REPLACED: &str = "topic-replaced";

impl Blocked {
    /// Whether other code, or skipping the event, may get it going.
    #[must_use]
    pub fn is_about_event(&self) -> bool {
        self.at.is_some() && self.code != TOPIC_REPLACED
    }
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
    /// First offset whose outputs are not published; `None` until something was, since it was opened.
    pub published: Option<Offset>,
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
    /// Why the commit under way has not ended yet; it is tried until it has.
    pub commit_error: Option<String>,
    /// Whether the assignment is lost for now: it answers, but does not fold.
    pub degraded: bool,
    /// Whether it may be asked: it was live, blocked or paused since it was opened.
    pub answers: bool,
    /// Deployment whose code folds.
    pub deployment: Option<DeploymentId>,
    /// First offset that this code folded, in place of earlier code.
    pub folds_from: Offset,
    /// Offsets that were removed before they were folded, and that were allowed to be missing.
    pub gaps: u64,
    /// Identity of the input's topic, where the log can tell.
    pub topic_id: Option<[u8; 16]>,
    /// Events that were folded in a second, lately.
    pub rate_per_second: f64,
    /// How many keys are parked.
    pub parked_keys: usize,
    /// How many records are parked.
    pub parked_records: usize,
    /// How far the operator's actions on parked records are applied, durably.
    pub action: ActionPoint,
    /// How far its states are told in events, by the last decision that the journal knows of.
    pub bootstrap: Option<Arc<Bootstrapped>>,
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
            published: None,
            end: Offset(0),
            lag_events: 0,
            history_complete: true,
            start: Offset(0),
            last_error: None,
            commit_error: None,
            degraded: false,
            answers: false,
            deployment: None,
            folds_from: Offset(0),
            gaps: 0,
            topic_id: None,
            rate_per_second: 0.0,
            parked_keys: 0,
            parked_records: 0,
            action: ActionPoint::done(0),
            bootstrap: None,
        }
    }

    /// What is wrong and tried again: a commit, else whatever else it was.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        let fault = self.commit_error.as_ref().or(self.last_error.as_ref());
        fault.map(String::as_str)
    }

    /// Offset of the last folded record, if any was folded: the public *position*.
    #[must_use]
    pub fn position(&self) -> Option<Offset> {
        (self.next > self.start).then(|| Offset(self.next.0 - 1))
    }
}
