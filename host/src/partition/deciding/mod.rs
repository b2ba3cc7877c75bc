//! Commands of a command handler's partition: what is asked, what comes of it, and the outcomes that are kept so
//! that a repeat gets the first answer. The worker decides them (`worker/deciding.rs`); `http` asks.
//!
//! Invariants: of a key, commands are decided one after the other, each on the state that the events of the one
//! before have made; nothing is answered before its events and its outcome are one durable transaction; an
//! outcome is kept for as long as it was promised, or no new command is taken.

mod bootstrap;
mod outcomes;
mod round;

use bytes::Bytes;
use tokio::sync::oneshot;

pub use bootstrap::{Bootstrap, Bootstrapped};
pub(super) use bootstrap::{Untold, tell};
pub(super) use outcomes::Outcomes;
pub(super) use round::{Asked, RecordPolicy, Round, Speculation};

use crate::plugin::{Command, Payload};
use crate::types::RecordPosition;

/// A command about a key, as it comes from outside.
#[derive(Debug, Clone)]
pub struct CommandRequest {
    /// The key.
    pub key: Bytes,
    /// What is commanded; its `id` is the idempotency key.
    pub command: Command,
    /// Which version of the key's state it is meant for.
    pub expects: Expects,
    /// Headers that travel from here to the events that it causes.
    pub travelling: Vec<(String, Bytes)>,
}

/// Which version of a state a command is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expects {
    /// Whatever there is.
    Anything,
    /// There must be no state (`If-None-Match: *`).
    Absent,
    /// There must be a state, whatever its version (`If-Match: *`).
    Present,
    /// One of these (`If-Match`).
    OneOf(Vec<u64>),
}

impl Expects {
    /// Whether a key with this version, or none, is what is expected.
    #[must_use]
    pub fn holds(&self, version: Option<u64>) -> bool {
        match self {
            Self::Anything => true,
            Self::Absent => version.is_none(),
            Self::Present => version.is_some(),
            Self::OneOf(versions) => version.is_some_and(|version| versions.contains(&version)),
        }
    }
}

/// What came of a command; the same for every repeat of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What.
    pub what: Settled,
    /// Version of the key's state after it; `None` = it has none.
    pub version: Option<u64>,
    /// When it was decided, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Identity of what was asked: key, command, and body.
    pub request: [u8; 32],
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It is done.
    Accepted {
        /// How many events it caused.
        events: u32,
        /// The plugin's answer.
        reply: Option<Payload>,
    },
    /// The rules say no.
    Refused {
        /// Stable code, the plugin's own.
        code: String,
        /// A sentence.
        reason: String,
        /// JSON; empty = none.
        details: String,
    },
    /// It was meant for another version.
    Stale,
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What came of it.
    pub outcome: Outcome,
    /// The last record of the owned topic that whoever reads the events must have folded.
    pub position: Option<RecordPosition>,
    /// Whether it was decided before, and this is its first answer again.
    pub is_repeat: bool,
}

/// Why a command has no outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandFault {
    /// The partition does not take commands now; why is in its status.
    NotDeciding,
    /// As many commands wait as may.
    QueueFull,
    /// As many outcomes are kept as may be: until one may be forgotten, no command is taken.
    OutcomesFull,
    /// Whether it was written is unknown; a repeat under the same id tells.
    Unknown(String),
    /// The id belongs to another command.
    OtherRequest,
    /// The plugin has no such command.
    UnknownCommand,
    /// What is wrong with the body.
    BadBody {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The plugin failed: nothing was written.
    Failed {
        /// Stable code.
        code: String,
        /// What happened.
        detail: String,
    },
}

/// A command that waits for its turn, and who waits for its answer.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) request: CommandRequest,
    pub(super) answer: oneshot::Sender<Result<Answer, CommandFault>>,
}

impl Queued {
    /// Gives an answer; nobody may be waiting any more.
    pub(super) fn answer(self, answer: Result<Answer, CommandFault>) {
        let _ = self.answer.send(answer);
    }
}
