//! One partition of one generation of a plugin: opened, replayed, live, committed.
//! Called by `manager` (who opens and stops workers) and `http` (who asks for states).
//!
//! Invariants: state = fold(log) up to `next`; what a store commit covers was folded by this owner
//! after it fenced every earlier one; an event is folded once between two commits; nothing behind an
//! event that cannot be applied has been folded.
//!
//! The step ([`step`]) is pure: states and records in, changes out. Everything that touches the
//! world lies in [`worker`].

mod assemble;
mod commit;
mod handle;
pub mod journal;
mod open;
mod status;
mod step;
mod table;
mod worker;

use std::sync::Arc;

use crate::clock::Clock;
use crate::log::{Log, Partitioner, ReaderSet};
use crate::plugin::PluginCode;
use crate::plugin::manifest::{Input, Manifest};
use crate::state::{StateStore, StoreId};
use crate::telemetry::Metrics;
use crate::types::{DeploymentId, TopicName, TopicPartition};

pub use handle::{Lookup, PartitionHandle};
pub use open::partitions_changed;
pub use status::{Blocked, PartitionStatus, Phase};
pub use step::{InstanceSlot, Poison, States, StepFault, Stepped, step};
pub use table::StateBudget;
pub use worker::{Exit, Stop, run};

/// What a worker is to fold.
#[derive(Debug, Clone)]
pub struct PartitionSpec {
    /// Which state it keeps.
    pub store: StoreId,
    /// Deployment whose code folds.
    pub deployment: DeploymentId,
    /// That code.
    pub code: Arc<dyn PluginCode>,
    /// Its input, with the topic that it is mapped to.
    pub input: Input,
    /// Where it announces that it owns the partition.
    pub journal: TopicName,
    /// Where this host answers queries.
    pub advertised_url: String,
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

    /// The manifest of the code.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.code.inspection().manifest
    }
}

/// What a worker stands on.
#[derive(Debug, Clone)]
pub struct Ports {
    /// The log it reads and announces itself on.
    pub log: Arc<dyn Log>,
    /// Readers of its generation.
    pub readers: Arc<dyn ReaderSet>,
    /// Where states are kept.
    pub states: Arc<dyn StateStore>,
    /// Memory for states, shared by all partitions of the host.
    pub budget: StateBudget,
    /// Time.
    pub clock: Clock,
    /// Figures.
    pub metrics: Metrics,
}

#[cfg(test)]
mod tests;
