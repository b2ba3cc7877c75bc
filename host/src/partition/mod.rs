//! One partition of one generation of a plugin: opened, replayed, live, committed.
//! Called by `manager` (who opens and stops workers) and `http` (who asks for states).
//!
//! Invariants: state = fold(log) up to `next`; what a store commit covers was folded by this owner
//! after it fenced every earlier one; an event is folded once between two commits; nothing behind an
//! event that cannot be applied has been folded, unless that event, or its key, was set aside.
//!
//! The step ([`step`]) is pure: states and records in, changes out. Everything that touches the
//! world lies in [`worker`].

mod assemble;
mod changes;
mod commit;
mod control;
mod deciding;
mod frame;
mod handle;
mod history;
pub mod journal;
mod lookup;
mod merge;
mod merged;
mod migrate;
mod open;
mod parking;
mod publish;
mod rate;
mod status;
mod step;
mod table;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::log::{Log, Partitioner, ReaderSet, SharedReads};
use crate::plugin::manifest::Input;
use crate::state::{StateStore, StoreId};
use crate::telemetry::Metrics;
use crate::types::{DeploymentId, TopicName, TopicPartition};

// `step` takes it: with a name outside, `host/benches/abi.rs` measures the step that workers do, not one like it.
pub use assemble::Source;
pub use changes::{Change, Changes, Place};
pub use control::{CodeInUse, Codes, Control, Skips};
pub use deciding::{
    Answer, Bootstrap, Bootstrapped, CommandFault, CommandRequest, Expects, Outcome, Sequence,
    Settled, TRY_AGAIN, Waiting, bad_body,
};
pub use handle::{Lookup, Merging, PartitionHandle};
pub use lookup::Lookups;
pub use merge::{MergeControl, MergeHandle, MergeProgress, MergeSpec, run_merge};
pub use open::partitions_changed;
pub use parking::{
    Action, Actions, Discarded, ParkedKey, batch_of as parked_batch, origin_of as parked_origin,
};
pub use publish::is_stamped;
pub use status::{Blocked, PartitionStatus, Phase};
pub use step::{InstanceSlot, Poison, States, StepFault, Stepped, step};
pub use table::StateBudget;
pub use worker::{Exit, Stop, run};

/// What a worker is to fold, as long as it lives. With whose code, [`Control`] says.
#[derive(Debug, Clone)]
pub struct PartitionSpec {
    /// Which state it keeps.
    pub store: StoreId,
    /// What its states begin from, if not from the log.
    pub origin: Option<MigrateFrom>,
    /// What it folds: an input, with the topic that it is mapped to, or the merge topic.
    pub input: Input,
    /// What is merged into `input`; `None` = it is an input itself.
    pub merged: Option<MergedInputs>,
    /// Where commands for it come from, beside those over HTTP: the merge topic of a command handler's inputs.
    pub commands: Option<TopicName>,
    /// Where it announces that it owns the partition.
    pub journal: TopicName,
    /// Where this host answers queries.
    pub advertised_url: String,
    /// How it writes to the log; `None` = it writes nothing.
    pub publishing: Option<Publishing>,
}

/// The inputs that are merged into the topic that a partition folds.
#[derive(Debug, Clone)]
pub struct MergedInputs {
    /// Their topics, in the order of the plugin's inputs.
    pub topics: Arc<[TopicName]>,
    /// How far they are merged.
    pub progress: MergeProgress,
}

/// How a partition writes to the log what its plugin makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publishing {
    /// The deployment that brought the plugin's name: what an earlier plugin of the name published is not
    /// this one's.
    pub plugin: DeploymentId,
    /// Which of the generations it is.
    pub role: Role,
    /// Under which id; `None` = it withholds all that it makes.
    pub transactional_id: Option<String>,
    /// The topic that the plugin owns.
    pub output: Option<TopicName>,
    /// The output gets what this generation makes of the whole log: what was published to another topic before
    /// says nothing about it.
    pub from_earliest: bool,
    /// Where events go that cannot be applied, if `on-error` says so.
    pub dead_letters: TopicName,
    /// It is a command handler: what it folds is what it has written.
    pub decides: bool,
    /// Whether records that are not the plugin's own are folded as far as they lie before those: the owned topic was
    /// there before, and was adopted.
    pub folds_unstamped: bool,
}

/// What a generation has to do with what other generations of its plugin publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It serves, and publishes from where the one before it stopped.
    Serving,
    /// It is built or kept beside the one that serves: never ahead of what that has published, and withholds
    /// its outputs.
    Beside,
    /// It is built beside the one that serves, and publishes to an owned topic of its own from its first
    /// event on.
    BesideFromEarliest,
}

impl Publishing {
    /// The owned topic, if this generation publishes to it.
    #[must_use]
    pub fn published_output(&self) -> Option<&TopicName> {
        self.output.as_ref().filter(|_| self.role != Role::Beside)
    }
}

/// States of another generation that are to go through the plugin's `migrate`.
#[derive(Debug, Clone)]
pub struct MigrateFrom {
    /// Where they are.
    pub store: StoreId,
    /// Who folds them, if it is this host.
    pub folded_by: Option<PartitionHandle>,
    /// Schema that they are written in.
    pub schema: String,
}

impl PartitionSpec {
    /// The partition that is read.
    #[must_use]
    pub fn source(&self) -> TopicPartition {
        TopicPartition {
            topic: self.input.topic.clone(),
            partition: self.store.partition,
        }
    }

    /// How the input's keys were spread over its partitions.
    #[must_use]
    pub fn partitioner(&self) -> Partitioner {
        self.input.partitioner
    }
}

/// What a worker stands on.
#[derive(Debug, Clone)]
pub struct Ports {
    /// The log it reads and announces itself on.
    pub log: Arc<dyn Log>,
    /// Readers of its generation.
    pub readers: Arc<dyn ReaderSet>,
    /// What readers of the host leave for each other.
    pub shared_reads: SharedReads,
    /// Looks into the journal and the inputs.
    pub lookups: Lookups,
    /// Where states are kept.
    pub states: Arc<dyn StateStore>,
    /// The code of deployments.
    pub codes: Arc<dyn Codes>,
    /// Memory for states, shared by all partitions of the host.
    pub budget: StateBudget,
    /// Time.
    pub clock: Clock,
    /// How long a writer may be idle before it is closed.
    pub writer_idle_max: Duration,
    /// Figures.
    pub metrics: Metrics,
    /// Told when a partition comes into another phase, or another code takes over.
    pub changed: Arc<Notify>,
}

#[cfg(test)]
mod tests;
