//! The manifest, `plugin.toml`: parsed, checked, with its defaults filled in.
//! Called by the engine on deploy and by `plugin build`.
//!
//! Invariant: a [`Manifest`] is within the bounds of `limits`; whoever holds one checks nothing
//! again. Parsing reports every fault that it finds, not only the first ([`parse`] does the work).

use std::fmt;
use std::time::Duration;

use crate::limits;
use crate::log::Partitioner;
use crate::types::{KeyFormat, PluginName, TopicName};

mod fit;
mod parse;
mod units;

pub use crate::log::Framing;

/// Name of the custom section that holds the manifest's TOML.
pub const SECTION: &str = "foldhost:manifest";

/// A checked manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Name, unique in the cluster.
    pub name: PluginName,
    /// The plugin's own version.
    pub version: String,
    /// Topics whose events it folds; at least one, but for a command handler: that folds its output, and
    /// its inputs are topics that commands come from.
    pub inputs: Vec<Input>,
    /// The one topic that it owns.
    pub output: Option<Output>,
    /// Same id = the keys of records are named alike; means nothing without `route`.
    pub route_schema: String,
    /// Partitions of its merge topic; `None` = those of the largest input.
    pub merge_partitions: Option<u32>,
    /// Same id = the state can be read by this code.
    pub state_schema: String,
    /// How its keys are written in URLs and JSON.
    pub key: KeyFormat,
    /// How often states are committed once it is live. Unless it says so, a plugin that writes to the
    /// log commits more often than one that does not.
    pub commit_interval: Duration,
    /// What happens with an event that cannot be applied.
    pub on_error: OnError,
    /// Whether a command must say which version of its key it is about.
    pub expected_version: ExpectedVersion,
    /// What becomes of a command from a topic that is refused.
    pub on_refusal: OnRefusal,
    /// That its changes can be followed, and how; `None` = they cannot.
    pub changes: Option<ChangesFeed>,
    /// How long the outcome of a command is kept, so that a repeat gets the first answer.
    pub keep_outcomes: Duration,
    /// Whether the host keeps, for each key of a command handler, where its events lie.
    pub history: bool,
    /// Whether events carry their headers into the plugin.
    pub headers: bool,
    /// Whether events carry the key that their record had before it was routed.
    pub record_keys: bool,
    /// Whether events carry where their record was before a merge topic.
    pub origins: bool,
    /// Whether a republisher emits what it makes of events that only tell a state again (`emit-state`); it folds
    /// them either way.
    pub bootstrap: bool,
    /// How many generations are kept beside the serving one, for a rollback without a rebuild.
    pub keep_generations: u8,
    /// Bounds of a call.
    pub limits: Limits,
}

/// How the changes of a plugin's states are remembered for whoever follows them: `changes = true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangesFeed {
    /// How long deletions are: who comes later has to begin again.
    pub keep_deletions: Duration,
}

/// The topic that a plugin owns: `output = "name"`, or an `[output]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub topic: TopicName,
    /// Partitions it is created with; `None` = as many as the states have.
    pub partitions: Option<u32>,
    /// Whether only the newest record of each key stays in it (`cleanup = "compact"`); else records
    /// leave it as the log's own default says (`"delete"`).
    pub compact: bool,
}

/// One input topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Its name inside the plugin, by which `--topic name=topic` maps it.
    pub name: String,
    /// Topic it reads.
    pub topic: TopicName,
    /// Where a new generation begins.
    pub start: Start,
    /// What happens when records were removed before they were folded.
    pub on_gap: OnGap,
    /// How the topic's keys were spread over its partitions.
    pub partitioner: Partitioner,
    /// What lies around its values.
    pub framing: Framing,
}

impl Input {
    /// The topic that a plugin owns, as what it folds.
    #[must_use]
    pub fn own(topic: &TopicName) -> Self {
        Self {
            name: topic.to_string(),
            topic: topic.clone(),
            start: Start::Earliest,
            on_gap: OnGap::Stop,
            partitioner: Partitioner::default(),
            framing: Framing::default(),
        }
    }
}

/// Where a new generation begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// The first record that the log still has.
    #[default]
    Earliest,
    /// Behind the last record at the time of the deployment.
    Latest,
    /// The first record with at least this timestamp, in milliseconds since the Unix epoch.
    At(i64),
}

/// What happens with an event that cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// Its partition stops before it.
    #[default]
    Stop,
    /// It goes to the dead-letter topic.
    DeadLetter,
    /// It and every later event of its key are set aside in order, until an operator has them folded again or
    /// does without them. One without a key, or that a larger limit could apply, stops its partition.
    ParkKey,
}

/// Whether a command must say which version of its key it is about (`If-Match`, `If-None-Match`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpectedVersion {
    /// One without a condition is decided on whatever version there is.
    #[default]
    Optional,
    /// One without a condition is not decided.
    Required,
}

/// What becomes of a command from a topic that is refused; whoever commands over HTTP is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRefusal {
    /// It is counted, and that is all.
    #[default]
    Ignore,
    /// It goes to the dead-letter topic, with the code and the reason.
    DeadLetter,
}

/// What happens when records were removed before they were folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnGap {
    /// The partition stops.
    #[default]
    Stop,
    /// It goes on behind the gap, counted.
    Continue,
}

/// One thing that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ManifestFault {
    /// Where: a path such as `limits.memory` or `inputs[1].start`; empty = the text as a whole.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl fmt::Display for ManifestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

impl Manifest {
    /// Parses and checks the text of a `plugin.toml`.
    ///
    /// # Errors
    /// Every fault that was found, in the order of the fields.
    pub fn from_toml(text: &str) -> Result<Self, Vec<ManifestFault>> {
        parse::manifest(text)
    }

    /// What lies around the values of each input.
    #[must_use]
    pub fn framings(&self) -> Vec<Framing> {
        self.inputs.iter().map(|input| input.framing).collect()
    }

    /// How long outcomes of commands are kept, as the manifest writes it.
    #[must_use]
    pub fn keep_outcomes_text(&self) -> String {
        units::display_duration(self.keep_outcomes)
    }

    /// Whether it writes to the log, in transactions: it owns a topic, or events that it cannot apply
    /// go there.
    #[must_use]
    pub fn writes_to_log(&self) -> bool {
        writes_to_log(self.output.as_ref(), self.on_error)
    }
}

fn writes_to_log(output: Option<&Output>, on_error: OnError) -> bool {
    // What is parked lies with the states.
    output.is_some() || on_error == OnError::DeadLetter
}

/// Bounds of a plugin's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance, in bytes.
    pub memory_bytes: usize,
    /// Fuel of one call.
    pub fuel_per_call: u64,
    /// Largest state of one key, in bytes.
    pub state_bytes: usize,
    /// Largest answer, in bytes.
    pub answer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: limits::PLUGIN_MEMORY_BYTES_DEFAULT,
            fuel_per_call: limits::PLUGIN_FUEL_DEFAULT,
            state_bytes: limits::STATE_BYTES_DEFAULT,
            answer_bytes: limits::ANSWER_BYTES_DEFAULT,
        }
    }
}

#[cfg(test)]
mod tests;
