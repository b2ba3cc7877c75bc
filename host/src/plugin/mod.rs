//! The plugin port: components as pure functions over columns. Called by `partition` (folding, deciding),
//! `manager` (inspection) and `http` (queries); the adapter lies beside it and alone knows wasmtime.
//!
//! Invariants: a call is synchronous, bounded in fuel, memory and size, and sees nothing but its
//! arguments; whatever comes back was checked against the limits; after a [`CallError`] the instance
//! is used up and is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::types::Digest;

pub mod bindings;
mod command;
pub mod component;
pub mod engine;
pub mod instance;
pub mod limits;
pub mod manifest;

pub use command::{Command, Decision, EventOut, Refusal};
pub use manifest::{Manifest, ManifestFault};

pub use crate::types::{BytesColumn, HeadersColumn, Mark, OptionalColumn};

/// Input of one `fold`: the distinct keys of a batch with their states, and its events. Borrowed from where it
/// lies, which for values, timestamps and offsets is mostly the batch as it was read.
#[derive(Debug, Clone, Copy)]
pub struct FoldInput<'a> {
    /// Number of the partition.
    pub partition: u32,
    /// Distinct keys of the batch.
    pub keys: &'a BytesColumn,
    /// State of each key before the batch.
    pub states: &'a OptionalColumn,
    /// Index into `keys`, per event.
    pub entities: &'a [u32],
    /// Value of each event; absent = tombstone.
    pub values: &'a OptionalColumn,
    /// Index of each event's topic in the manifest's inputs.
    pub inputs: &'a [u8],
    /// Timestamp of each event, in milliseconds since the Unix epoch.
    pub timestamps_ms: &'a [i64],
    /// Offset of each event, strictly increasing. Empty = the plugin is told none, however many events there
    /// are: a command handler folds an event before it has an offset, and reads it back as it was folded.
    pub offsets: &'a [u64],
    /// Headers of the events, only where the manifest asks.
    pub headers: Option<&'a HeadersColumn>,
    /// Keys that the records had where `route` named another; only where the manifest asks.
    pub record_keys: Option<&'a OptionalColumn>,
    /// Where the records were before a merge topic; only where the manifest asks.
    pub origins: Option<&'a OriginsColumn>,
}

/// Where each record of a batch was before a merge topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OriginsColumn {
    /// Its partition in its input topic.
    pub partitions: Vec<u32>,
    /// Its offset in that partition.
    pub offsets: Vec<u64>,
}

impl FoldInput<'_> {
    /// How many events.
    #[must_use]
    pub fn events(&self) -> usize {
        self.entities.len()
    }
}

/// The plugin's word that one record cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Index of the event in the batch.
    pub index: u32,
    /// Stable code.
    pub code: String,
    /// A sentence.
    pub reason: String,
}

/// Output of one `fold`; as many items as the input has keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Folded {
    /// State of each key after the batch: present, absent, or [`Mark::Unchanged`].
    pub states: OptionalColumn,
    /// Rejected events, in order of index.
    pub rejected: Vec<Rejection>,
    /// Records for the owned topic; a view emits none.
    pub emitted: Emitted,
}

/// Records for the owned topic, in the order of their causes. One item per record in each list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Emitted {
    /// Index of the event that caused each; never decreases.
    pub causes: Vec<u32>,
    /// Key of each.
    pub keys: BytesColumn,
    /// Value of each; absent = tombstone.
    pub values: OptionalColumn,
    /// Milliseconds since the Unix epoch; `None` = those of the causes.
    pub timestamps_ms: Option<Vec<i64>>,
    /// `None` = no record has any.
    pub headers: Option<HeadersColumn>,
}

impl Emitted {
    /// How many records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.causes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }
}

/// Records before they have an entity: input of one `route`. One item per record in each list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteInput {
    /// Index of each record's topic in the manifest's inputs.
    pub inputs: Vec<u8>,
    /// The records' own keys; a record may have none.
    pub keys: OptionalColumn,
    /// Values; absent = tombstone.
    pub values: OptionalColumn,
    /// Milliseconds since the Unix epoch.
    pub timestamps_ms: Vec<i64>,
    /// Headers, only where the manifest asks.
    pub headers: Option<HeadersColumn>,
}

impl RouteInput {
    /// How many records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Empties all columns and keeps their memory.
    pub fn clear(&mut self) {
        self.inputs.clear();
        self.keys.clear();
        self.values.clear();
        self.timestamps_ms.clear();
        self.headers = None;
    }
}

/// The keys of records: output of one `route`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// Index of the record that each key belongs to; never decreases.
    pub causes: Vec<u32>,
    /// One per cause.
    pub keys: BytesColumn,
    /// Rejected records, in order of index; none of them has a key.
    pub rejected: Vec<Rejection>,
}

/// A body with its content type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Media type.
    pub content_type: String,
    /// Bytes.
    pub body: Vec<u8>,
}

/// What the host knows about a call from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallContext {
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// The key's version.
    pub version: Option<u64>,
    /// When the key last changed, in milliseconds since the Unix epoch.
    pub changed_at_ms: Option<i64>,
    /// Name of the caller's token.
    pub principal: Option<String>,
    /// The request's headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// A question about the state of one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Question {
    /// Name of the query; empty = the default one.
    pub name: String,
    /// Arguments, in the order given.
    pub arguments: Vec<(String, String)>,
    /// Body, where one was sent.
    pub content: Option<Payload>,
    /// What the caller accepts.
    pub accept: String,
    /// What the host knows about the call.
    pub context: CallContext,
}

/// The plugin's word that a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryError {
    /// No query of this name.
    UnknownQuery,
    /// Name of the argument, and what would be right.
    BadArgument(String, String),
    /// The key has nothing to say.
    NotFound,
    /// A stable code and a sentence.
    Other(String, String),
}

/// A fault of a call. The instance is used up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It panicked or trapped otherwise.
    #[error("the plugin trapped: {0}")]
    Trap(String),
    /// The call used up its fuel.
    #[error("the plugin used more than its {fuel} units of fuel in one call")]
    OutOfFuel {
        /// The budget.
        fuel: u64,
    },
    /// The call wanted more memory than it may have.
    #[error("the plugin wanted more than its {bytes_max} bytes of memory")]
    OutOfMemory {
        /// The bound.
        bytes_max: usize,
    },
    /// A state came back larger than it may be.
    #[error("the state of one key grew to {bytes} bytes, more than the {bytes_max} it may have")]
    StateTooLarge {
        /// Index of the key in the batch.
        key_index: u32,
        /// Size of the state.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// An answer came back larger than it may be.
    #[error("the answer has {bytes} bytes, more than the {bytes_max} it may have")]
    AnswerTooLarge {
        /// Size of the answer.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// A call emitted, routed to or decided more than it may.
    #[error("the plugin made {what} in one call, more than the {max} it may make")]
    TooMuch {
        /// What and how much, such as `70000 records` or `20000000 bytes of records`.
        what: String,
        /// The bound.
        max: usize,
    },
    /// A record came back larger than the topic takes.
    #[error("the plugin emitted a record of {bytes} bytes, more than the {bytes_max} it may have")]
    RecordTooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// What came back breaks the ABI.
    #[error("the plugin answered with broken columns: {0}")]
    BadColumns(String),
    /// The watchdog stopped a call; it decides nothing, so the call is repeated.
    #[error("the call was stopped after {seconds} s of wall-clock time")]
    Interrupted {
        /// The bound.
        seconds: u64,
    },
    /// The host could not make an instance.
    #[error("the plugin could not be started: {0}")]
    Instantiate(String),
}

impl CallError {
    /// Whether a smaller batch may succeed where this one failed.
    #[must_use]
    pub fn is_about_size(&self) -> bool {
        matches!(
            self,
            Self::OutOfFuel { .. } | Self::OutOfMemory { .. } | Self::TooMuch { .. }
        )
    }
}

/// What a plugin is, from its exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Exports `fold`, and neither `react` nor `decide`.
    View,
    /// Exports `react`.
    Republisher,
    /// Exports `decide`.
    CommandHandler,
}

/// What a component exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of independent capabilities"
)]
pub struct Capabilities {
    /// Folds events into states.
    pub fold: bool,
    /// Folds, and emits events.
    pub react: bool,
    /// Decides commands.
    pub decide: bool,
    /// Answers questions.
    pub query: bool,
    /// Names the keys of a record.
    pub route: bool,
    /// Reads states of another schema.
    pub migrate: bool,
    /// Takes parameters.
    pub configure: bool,
    /// Emits full-state events.
    pub emit_state: bool,
}

impl Capabilities {
    /// Kind of plugin, or `None` if it exports nothing that makes one.
    #[must_use]
    pub fn kind(self) -> Option<Kind> {
        match (self.fold, self.react, self.decide) {
            (_, true, false) => Some(Kind::Republisher),
            (_, false, true) => Some(Kind::CommandHandler),
            (true, false, false) => Some(Kind::View),
            _ => None,
        }
    }
}

/// A query or command that a plugin offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operation {
    /// Its name; empty = the default one.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// JSON Schema of the arguments, or empty.
    pub arguments_schema: String,
    /// JSON Schema of the body, or empty.
    pub body_schema: String,
    /// JSON Schema of the answer, or empty.
    pub answer_schema: String,
    /// Whether the answer depends on the clock or the caller.
    pub uses_context: bool,
}

/// What a plugin says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Queries on offer.
    pub queries: Vec<Operation>,
    /// Commands on offer.
    pub commands: Vec<Operation>,
}

/// A component that was checked: everything that is known without running it on data.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Its identity.
    pub digest: Digest,
    /// From its custom section.
    pub manifest: Manifest,
    /// From its exports.
    pub capabilities: Capabilities,
    /// From its exports.
    pub kind: Kind,
    /// From its `describe`.
    pub description: Description,
}

/// One reason why a component is refused, with a stable code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Fault {
    /// Stable code, as in a problem document: `not-wasm`, `not-a-component`, `no-manifest`,
    /// `bad-manifest`, `forbidden-import`, `wrong-abi`, `no-kind`, `too-large`, `bad-parameters`,
    /// `bad-description`, `does-not-start`, `no-inputs`, `no-output`, `output-of-a-view`,
    /// `output-is-input`, `nothing-to-merge`, `route-of-a-handler`, `on-error-of-a-handler`, `no-state`,
    /// `no-commands`, `no-outputs`.
    pub code: &'static str,
    /// What is wrong and what to do.
    pub detail: String,
}

/// Deploy-time parameters, as `--set` gives them.
pub type Parameters = BTreeMap<String, String>;

/// Compiles and checks components.
pub trait PluginEngine: Send + Sync + fmt::Debug {
    /// Checks a component without keeping it, and runs `describe` and `configure`.
    ///
    /// # Errors
    /// Every fault that was found.
    fn inspect(&self, component: &[u8], parameters: &Parameters) -> Result<Inspection, Vec<Fault>>;

    /// Compiles a component, or takes its machine code from the cache.
    ///
    /// # Errors
    /// Every fault that was found.
    fn load(
        &self,
        component: &[u8],
        parameters: &Parameters,
    ) -> Result<Arc<dyn PluginCode>, Vec<Fault>>;
}

/// Compiled code of one plugin with its parameters.
pub trait PluginCode: Send + Sync + fmt::Debug {
    /// What the component is.
    fn inspection(&self) -> &Inspection;

    /// A fresh instance, configured, with nothing of any earlier call in it.
    ///
    /// # Errors
    /// [`CallError::Instantiate`], or what `configure` did.
    fn instance(&self) -> Result<Box<dyn PluginInstance>, CallError>;
}

/// An instance: made on demand, dropped after any [`CallError`].
pub trait PluginInstance: Send + fmt::Debug {
    /// Folds one batch, through `react` where the plugin exports that. The answer is checked: as many
    /// items as keys, ends that never decrease, indices in range, sizes within the manifest's limits;
    /// emitted records in the order of their causes, none for a rejected event, within bounds.
    ///
    /// # Errors
    /// Any [`CallError`].
    fn fold(&mut self, input: &FoldInput<'_>) -> Result<Folded, CallError>;

    /// Names the keys of records, or rejects them. The answer is checked as that of `fold`; keys are
    /// within [`crate::limits::KEY_BYTES_MAX`], and the copies that it asks for within
    /// [`crate::limits::ROUTED_BYTES_MAX`] together.
    ///
    /// # Errors
    /// Any [`CallError`].
    fn route(&mut self, records: &RouteInput) -> Result<Routes, CallError>;

    /// Answers one question, with at most `fuel_max` of the fuel that the manifest allows. Less than that is an
    /// attempt: where it runs out of fuel or time, nothing is decided, and the question is to be asked again.
    ///
    /// # Errors
    /// Any [`CallError`]; the plugin's own word is the inner result.
    fn answer(
        &mut self,
        key: &[u8],
        state: Option<&[u8]>,
        question: &Question,
        fuel_max: u64,
    ) -> Result<Result<Payload, QueryError>, CallError>;

    /// Decides one command on the state of its key, which is the fold of every earlier event of the key.
    /// The answer is checked: at most [`crate::limits::COMMAND_EVENTS_MAX`] events of
    /// [`crate::limits::COMMAND_EVENTS_BYTES_MAX`] together, headers that are the plugin's own, a reply within
    /// the manifest's limits, or a refusal with a proper code and with details that are JSON.
    ///
    /// # Errors
    /// Any [`CallError`]; the plugin's own word is the inner result.
    fn decide(
        &mut self,
        key: &[u8],
        state: Option<&[u8]>,
        command: &Command,
    ) -> Result<Result<Decision, Refusal>, CallError>;

    /// Tells the state of a key in events, whose fold, beginning with no state, gives it again. The answer is
    /// checked as the events of [`decide`](Self::decide) are.
    ///
    /// # Errors
    /// Any [`CallError`]; [`CallError::BadColumns`] where the plugin does not export it.
    fn emit_state(&mut self, _key: &[u8], _state: &[u8]) -> Result<Vec<EventOut>, CallError> {
        let missing = "the plugin does not export emit-state".to_owned();
        Err(CallError::BadColumns(missing))
    }

    /// Makes states of today's schema from those that were written under `from_schema`. The answer is
    /// checked: as many items as keys, each present or absent (never [`Mark::Unchanged`]: the bytes
    /// of two schemas have nothing in common), sizes within the manifest's limits. With no keys at
    /// all it tells whether the plugin reads that schema.
    ///
    /// `partition` is where the keys live; the ABI does not carry it, so that no migration depends on
    /// it.
    ///
    /// # Errors
    /// Any [`CallError`]; the plugin's own word is the inner result, a sentence for people.
    fn migrate(
        &mut self,
        from_schema: &str,
        partition: u32,
        keys: &BytesColumn,
        states: &OptionalColumn,
    ) -> Result<Result<OptionalColumn, String>, CallError>;

    /// Fuel that the last call used; 0 before the first.
    fn fuel_used(&self) -> u64;
}
