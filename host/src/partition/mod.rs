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
mod changes;
mod commit;
mod control;
mod handle;
pub mod journal;
mod migrate;
mod open;
mod rate;
mod status;
mod step;
mod table;
mod worker;

use std::sync::Arc;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::log::{Log, Partitioner, ReaderSet};
use crate::plugin::manifest::Input;
use crate::state::{StateStore, StoreId};
use crate::telemetry::Metrics;
use crate::types::{TopicName, TopicPartition};

// `step` takes it: with a name outside, `host/benches/abi.rs` measures the step that workers do, not one like it.
pub use assemble::Source;
pub use changes::{Change, Changes, Place};
pub use control::{CodeInUse, Control, Skips};
pub use handle::{Lookup, PartitionHandle};
pub use open::partitions_changed;
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
    /// Its input, with the topic that it is mapped to.
    pub input: Input,
    /// Where it announces that it owns the partition.
    pub journal: TopicName,
    /// Where this host answers queries.
    pub advertised_url: String,
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
    /// Where states are kept.
    pub states: Arc<dyn StateStore>,
    /// Memory for states, shared by all partitions of the host.
    pub budget: StateBudget,
    /// Time.
    pub clock: Clock,
    /// Figures.
    pub metrics: Metrics,
    /// Told when a partition comes into another phase, or another code takes over.
    pub changed: Arc<Notify>,
}

#[cfg(test)]
mod tests;
