//! Commands of a command handler's partition: what is asked, what comes of it, and the outcomes that are kept so
//! that a repeat gets the first answer. The worker decides them (`worker/deciding.rs`); `http` asks.
//!
//! Invariants: of a key, commands are decided one after the other, each on the state that the events of the one
//! before have made; nothing is answered before its events and its outcome are one durable transaction; an
//! outcome is kept for as long as it was promised, or no new command is taken.

mod bootstrap;
mod outcomes;
mod round;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;

pub use bootstrap::{Bootstrap, Bootstrapped};
pub(super) use bootstrap::{Untold, tell};
pub(super) use outcomes::Outcomes;
pub(super) use round::{Asked, RecordPolicy, Round, Speculation};

use crate::limits;
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
    /// One that was given before it has no outcome; what is in order stays in order.
    Behind,
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

impl CommandFault {
    /// Whether the same command may still come to an outcome, or has one that nobody knows.
    fn is_open(&self) -> bool {
        match self {
            Self::NotDeciding
            | Self::QueueFull
            | Self::OutcomesFull
            | Self::Behind
            | Self::Unknown(_) => true,
            Self::Failed { code, .. } => code == TRY_AGAIN,
            Self::OtherRequest | Self::UnknownCommand | Self::BadBody { .. } => false,
        }
    }
}

/// What is wrong with a body, for people; without a `field` it is the whole of it.
#[must_use]
pub fn bad_body(field: &str, problem: &str) -> String {
    match field {
        "" => format!("the body: {problem}"),
        field => format!("{field}: {problem}"),
    }
}

/// Code of a failure that says nothing about the command.
pub const TRY_AGAIN: &str = "try-again";

/// Commands that are decided in the order in which they were given, or not at all: once one of them has no outcome,
/// none behind it is decided, so that whoever gives those without one again keeps the order. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sequence(Arc<AtomicBool>);

impl Sequence {
    /// Whether one of them has no outcome.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Says that one of them has none.
    pub fn break_off(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A command that waits for its turn, and who waits for its answer.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) request: CommandRequest,
    pub(super) asker: Asker,
}

impl Queued {
    pub(super) fn new(request: CommandRequest, sequence: Option<Sequence>) -> (Self, Waiting) {
        let (answer, answered) = oneshot::channel();
        let asker = Asker {
            answer: Some(answer),
            sequence,
        };
        (Self { request, asker }, Waiting(answered))
    }

    /// Gives an answer; nobody may be waiting any more.
    pub(super) fn answer(self, answer: Result<Answer, CommandFault>) {
        self.asker.answer(answer);
    }
}

/// Who has asked for a command. Whoever drops it without an answer has done nothing.
#[derive(Debug)]
pub(super) struct Asker {
    answer: Option<oneshot::Sender<Result<Answer, CommandFault>>>,
    sequence: Option<Sequence>,
}

impl Asker {
    /// Whether one before it, that it must not overtake, has no outcome.
    fn is_behind(&self) -> bool {
        self.sequence.as_ref().is_some_and(Sequence::is_broken)
    }

    /// Gives an answer; nobody may be waiting any more.
    fn answer(mut self, answer: Result<Answer, CommandFault>) {
        let is_open = answer.as_ref().is_err_and(CommandFault::is_open);
        if let Some(sequence) = self.sequence.take().filter(|_| is_open) {
            sequence.break_off();
        }
        if let Some(waiting) = self.answer.take() {
            let _ = waiting.send(answer);
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        if let (Some(_), Some(sequence)) = (&self.answer, &self.sequence) {
            sequence.break_off();
        }
    }
}

/// The wait for the answer to a command that is in its partition's queue.
#[derive(Debug)]
pub struct Waiting(oneshot::Receiver<Result<Answer, CommandFault>>);

impl Waiting {
    /// Waits for what comes of it.
    ///
    /// # Errors
    /// [`CommandFault`]: there is no outcome.
    pub async fn answered(self) -> Result<Answer, CommandFault> {
        match tokio::time::timeout(limits::COMMAND_WAIT_MAX, self.0).await {
            Ok(Ok(answer)) => answer,
            // It was dropped before its turn.
            Ok(Err(_)) => Err(CommandFault::NotDeciding),
            Err(_) => Err(CommandFault::Unknown(format!(
                "no answer within {} s",
                limits::COMMAND_WAIT_MAX.as_secs()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> CommandRequest {
        CommandRequest {
            key: Bytes::new(),
            command: Command {
                name: "add".to_owned(),
                id: "1".to_owned(),
                content: Payload {
                    content_type: "text/plain".to_owned(),
                    body: Vec::new(),
                },
                context: crate::plugin::CallContext::default(),
            },
            expects: Expects::Anything,
            travelling: Vec::new(),
        }
    }

    #[test]
    fn a_sequence_breaks_where_a_command_has_no_outcome() {
        let failed = |code: &str| CommandFault::Failed {
            code: code.to_owned(),
            detail: String::new(),
        };
        for (fault, breaks) in [
            (CommandFault::UnknownCommand, false),
            (CommandFault::OtherRequest, false),
            (failed("plugin-trapped"), false),
            (failed(TRY_AGAIN), true),
            (CommandFault::NotDeciding, true),
            (CommandFault::OutcomesFull, true),
            (CommandFault::Unknown("gone".to_owned()), true),
        ] {
            let sequence = Sequence::default();
            let (queued, _waiting) = Queued::new(request(), Some(sequence.clone()));
            let (behind, _waits_too) = Queued::new(request(), Some(sequence.clone()));
            queued.answer(Err(fault.clone()));
            assert_eq!(sequence.is_broken(), breaks, "{fault:?}");
            assert_eq!(behind.asker.is_behind(), breaks, "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_command_that_is_dropped_is_not_done_and_breaks_its_sequence() {
        let sequence = Sequence::default();
        let (queued, waiting) = Queued::new(request(), Some(sequence.clone()));
        drop(queued);
        assert!(sequence.is_broken());
        assert_eq!(waiting.answered().await, Err(CommandFault::NotDeciding));
    }
}
