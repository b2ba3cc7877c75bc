//! The configuration of a host: a TOML file, environment variables and flags, in that order of
//! precedence from lowest to highest. Loaded by `cli`, handed to `node`.
//!
//! Invariant: a [`Config`] is checked as a whole; whoever holds one checks nothing again.
//!
//! Every field can be written as `FOLDHOST__SECTION__FIELD` in the environment; under `KAFKA` single
//! underscores become dots.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::types::ClusterName;

mod checked;
mod fields;
mod http;
mod kafka;
mod memory;
mod raw;
mod sources;
mod units;

pub use http::{AuthSettings, HttpSettings, Scope, Token, UnknownScope};
pub use kafka::KafkaProperties;
pub use memory::MemoryPlan;
pub use sources::{Environment, Flags};
pub use units::{ByteSize, InvalidSize};

/// Data folder of a host that is not told another one.
pub const DATA_DEFAULT: &str = "./foldhost-data";

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of the cluster; the first part of every topic and group that foldhost owns.
    pub cluster: ClusterName,
    /// Folder of this host alone: embedded log, machine code cache, instance id.
    pub data: PathBuf,
    /// Where it listens; port 0 = any free one.
    pub listen: SocketAddr,
    /// Where everything under "operate" listens; `None` = on `listen` as well.
    pub admin_listen: Option<SocketAddr>,
    /// Whether it may listen beyond loopback without tokens.
    pub insecure: bool,
    /// Name of this host in consumer groups; `None` = one that is kept in the data folder.
    pub instance: Option<String>,
    /// The HTTP surface.
    pub http: HttpSettings,
    /// librdkafka's properties; `None` = the embedded log.
    pub kafka: Option<KafkaProperties>,
    /// Topics that the host creates.
    pub topics: TopicSettings,
    /// URL of the object store; `None` = `<data>/objects`.
    pub objects_url: Option<String>,
    /// States in memory.
    pub state: StateSettings,
    /// Threads that fold.
    pub worker: WorkerSettings,
}

/// `[topics]`: what the host may create, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicSettings {
    /// Whether the host creates the topics that it owns, and those of the demo.
    pub create: TopicCreation,
    /// `None` = the log's default.
    pub replication_factor: Option<i32>,
    /// Partitions of a topic that is created without saying how many.
    pub partitions: u32,
}

/// Whether the host creates the topics that it owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicCreation {
    /// When they are missing.
    Auto,
    /// Never: somebody else does, by what `plugin requirements` prints.
    Never,
}

/// `[state]`: states in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateSettings {
    /// Bytes of states that all partitions of the host keep in memory; [`MemoryPlan`] makes the other
    /// parts follow.
    pub cache_bytes: usize,
}

/// `[worker]`: threads that fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerSettings {
    /// How many; at least 1.
    pub threads: usize,
    /// After so long without anything to write, a partition's writer is closed.
    pub writer_idle: Duration,
}

/// Why a configuration was refused: every fault that was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.listed())]
pub struct ConfigError {
    /// One sentence each, at least one.
    pub faults: Vec<String>,
}

impl ConfigError {
    fn new(faults: Vec<String>) -> Self {
        debug_assert!(!faults.is_empty(), "an error names a fault");
        Self { faults }
    }

    fn listed(&self) -> String {
        match self.faults.as_slice() {
            [fault] => format!("the configuration is refused: {fault}"),
            faults => {
                let list: String = faults
                    .iter()
                    .map(|fault| format!("\n  - {fault}"))
                    .collect();
                format!("the configuration is refused:{list}")
            }
        }
    }
}

/// A configuration and the text by which it can be given again.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The checked configuration.
    pub config: Config,
    /// All effective fields as TOML, secrets left out: what `--dump-config` prints.
    pub dump: String,
}

/// Reads and checks the configuration.
///
/// `data_default` is the data folder where nothing names one.
///
/// # Errors
/// [`ConfigError`] lists what is wrong and where it was written.
pub fn load(
    file: Option<&Path>,
    environment: &Environment,
    flags: &Flags,
    data_default: &str,
) -> Result<Loaded, ConfigError> {
    let raw = sources::merge(file, environment, flags, data_default)?;
    let dump = raw.dump();
    Ok(Loaded {
        config: checked::check(raw)?,
        dump,
    })
}

#[cfg(test)]
mod tests;
