//! The manifest, `plugin.toml`: parsed, checked, with its defaults filled in.
//! Called by the engine on deploy and by `plugin build`.

use std::time::Duration;

use crate::log::Partitioner;
use crate::types::{KeyFormat, PluginName, TopicName};

/// Name of the custom section that holds the manifest's TOML.
pub const SECTION: &str = "foldhost:manifest";

/// A checked manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Name, unique in the cluster.
    pub name: PluginName,
    /// The plugin's own version.
    pub version: String,
    /// Topics whose events it folds; at least one.
    pub inputs: Vec<Input>,
    /// The one topic that it owns.
    pub output: Option<TopicName>,
    /// Same id = the state can be read by this code.
    pub state_schema: String,
    /// How its keys are written in URLs and JSON.
    pub key: KeyFormat,
    /// How often states are committed once it is live.
    pub commit_interval: Duration,
    /// What happens with an event that cannot be applied.
    pub on_error: OnError,
    /// Whether events carry their headers into the plugin.
    pub headers: bool,
    /// Bounds of a call.
    pub limits: Limits,
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
    /// It and later events of its key are set aside.
    ParkKey,
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
