//! What the port says about commands: one about a key, what comes of it, and why nothing does. Part of the
//! port; made by `partition`, and by `instance` of what a plugin returned.
//!
//! Invariant: what [`PluginInstance::decide`](super::PluginInstance::decide) gave was checked, so events can
//! be written, and replies and refusals told, as they are.

use super::{CallContext, Payload};

/// One command about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Name of the command.
    pub name: String,
    /// The same for every repeat of one command.
    pub id: String,
    /// Its body.
    pub content: Payload,
    /// What the host knows about the call.
    pub context: CallContext,
}

/// One record of the owned topic, about the key that was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventOut {
    /// `None` = tombstone.
    pub value: Option<Vec<u8>>,
    /// In order; a name may occur more than once, and a value may be null. None is the host's.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Events for the owned topic, in order; none = nothing changes, which is a success.
    pub events: Vec<EventOut>,
    /// The answer to the caller; `None` = the host says what was appended.
    pub reply: Option<Payload>,
}

/// Why nothing happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No command of this name.
    UnknownCommand,
    /// The body does not fit.
    BadBody {
        /// Path of the field; empty = the body as a whole.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The rules say no.
    Refused {
        /// Stable code.
        code: String,
        /// A sentence.
        reason: String,
        /// JSON for programs; empty = none.
        details: String,
    },
}
