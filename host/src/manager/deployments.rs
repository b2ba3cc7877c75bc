//! What was decided to run, as plain types: the records of the deployments topic, and what follows
//! from a prefix of them. [`Deployments`] (in `fold`) is the one pure function between the two.
//!
//! Invariants: a deployment's id is the offset of its request; a generation number is never reused,
//! even after a delete; the generation that answers is never one that was blocked while it was built; a
//! topic is owned by one plugin at most (`outputs`).

mod bootstrap;
mod fold;
mod merge;
mod outputs;
mod parked;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::Problem;
use crate::plugin::manifest::{Input, Output};
use crate::plugin::{Kind, Manifest, Parameters};
use crate::types::{
    DeploymentId, Digest, GenerationId, Partition, PluginName, RecordPosition, TopicName,
};

pub(super) use bootstrap::BootstrapReported;
pub use bootstrap::{BootstrapRequested, BootstrapRun};
pub use fold::Deployments;
pub(super) use fold::{name_taken, unknown_plugin};
pub(super) use merge::Merge;
pub(super) use outputs::{output_taken, resolve_output};
pub use parked::{Discard, DiscardRequested, Replay, ReplayRequested};

/// A numbered decision to run a component under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Offset of its request.
    pub id: DeploymentId,
    /// Build-up of state that it folds.
    pub generation: GenerationId,
    /// Name under which it runs; the manifest's, unless the request said otherwise.
    pub name: PluginName,
    /// What the component is.
    pub kind: Kind,
    /// Which component.
    pub digest: Digest,
    /// The component's manifest.
    pub manifest: Manifest,
    /// Whether it reads states of other schemas.
    pub migrates: bool,
    /// `--set key=value`.
    pub parameters: Parameters,
    /// `--topic input=topic`, and `--topic output=topic`.
    pub topics: BTreeMap<String, TopicName>,
    /// The manifest's inputs, with the topics that they are mapped to here.
    pub inputs: Vec<Input>,
    /// The manifest's output, with the topic that it is mapped to here.
    pub output: Option<Output>,
    /// Whether whoever asked knew that the output was there already and belonged to no plugin.
    pub adopts_topic: bool,
    /// Whether its generation publishes what it makes of the whole log, beside the one that answers,
    /// instead of going on where that one stops.
    pub emits_from_earliest: bool,
    /// Whether it names the keys of its records itself.
    pub routes: bool,
    /// The topic that its inputs are merged into; `None` = it folds its one input.
    pub merge: Option<Merge>,
    /// Partitions of what it folds, and of its state.
    pub partitions: u32,
    /// What became of the states.
    pub how: How,
    /// The earlier deployment that it runs again.
    pub rolls_back_to: Option<DeploymentId>,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Name of the token that asked for it; empty = none was needed.
    pub principal: String,
}

impl Deployment {
    fn runs_the_same_as(&self, request: &DeployRequested) -> bool {
        self.digest == request.digest
            && self.parameters == request.parameters
            && self.topics == request.topics
            && (self.emits_from_earliest || !request.emit_from_earliest)
    }
}

/// What a deployment did with the states under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// There were none.
    First,
    /// It builds them from the log.
    Rebuild,
    /// It goes on from them.
    Keep,
    /// It goes on from them, after each went through `migrate`.
    Migrate,
    /// It goes on from those of an earlier generation that had been kept, with the same code.
    Kept,
}

/// A manifest's inputs with a mapping applied.
pub(super) fn resolve_inputs(
    manifest: &Manifest,
    topics: &BTreeMap<String, TopicName>,
) -> Vec<Input> {
    let mut inputs = manifest.inputs.clone();
    for input in &mut inputs {
        if let Some(topic) = topics.get(&input.name) {
            input.topic = topic.clone();
        }
    }
    inputs
}

/// One build-up of a plugin's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Whose code folds it now.
    pub deployment: Arc<Deployment>,
    /// What it began from.
    pub origin: Origin,
    /// What owners have said of its partitions under this deployment.
    pub reports: BTreeMap<Partition, Report>,
}

impl Generation {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> GenerationId {
        self.deployment.generation
    }

    /// Whether a partition of it cannot go on.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        let mut reports = self.reports.values();
        reports.any(|report| matches!(report, Report::Blocked(_)))
    }

    fn is_ready(&self) -> bool {
        let ready = self.reports.values();
        ready.filter(|report| **report == Report::Ready).count() as u64
            >= u64::from(self.deployment.partitions)
    }
}

/// What a generation began from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The log.
    Log,
    /// The states of another generation, written under `schema`.
    Migrated {
        /// That generation.
        from: GenerationId,
        /// Schema of its states.
        schema: String,
    },
}

/// What the owner of a partition says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// It has read its backlog.
    Ready,
    /// It cannot go on.
    Blocked(BlockedReport),
}

/// See [`Report::Blocked`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedReport {
    /// Stable code.
    pub code: String,
    /// What happened, and what to do.
    pub detail: String,
    /// The record before which it stopped.
    pub at: Option<(RecordPosition, Option<[u8; 16]>)>,
}

/// The generation that answered before the present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retiring {
    /// It.
    pub generation: Generation,
    /// Partitions that it may still answer for.
    pub answers: BTreeSet<Partition>,
}

/// Folding stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Name of the token that asked for it.
    pub principal: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// A record that is not to be folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// Offset of the request.
    pub number: u64,
    /// Which record.
    pub at: RecordPosition,
    /// Identity of its topic, where the log can tell.
    pub topic_id: Option<[u8; 16]>,
    /// Why.
    pub reason: String,
    /// Name of the token that asked for it.
    pub principal: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// All that is decided about one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The deployment that brought the name: tells a plugin from a later one of its name.
    pub first: DeploymentId,
    /// The generation that answers.
    pub serving: Generation,
    /// The one that is to answer next.
    pub building: Option<Generation>,
    /// The one that answered before, and is folded on for a rollback.
    pub kept: Option<Generation>,
    /// The one that answered before, where the present one does not yet.
    pub retiring: Option<Retiring>,
    /// Whether folding stands still.
    pub paused: Option<Paused>,
    /// Records that are not folded.
    pub skips: Vec<Skip>,
    /// Decisions to fold parked records again, the newest last; the oldest are forgotten at some time.
    pub replays: Vec<Replay>,
    /// Parked records that are not folded any more.
    pub discards: Vec<Discard>,
    /// The last decision to tell its states in events.
    pub bootstrap: Option<BootstrapRun>,
    /// Deployments, the newest last; the oldest are forgotten at some time.
    pub history: Vec<Arc<Deployment>>,
    /// Those of `history` that answered at some time.
    pub served: BTreeSet<DeploymentId>,
}

impl Decided {
    /// Every generation that is to be folded or to answer.
    pub fn generations(&self) -> impl Iterator<Item = &Generation> {
        let retiring = self.retiring.as_ref().map(|it| &it.generation);
        [
            Some(&self.serving),
            self.building.as_ref(),
            self.kept.as_ref(),
            retiring,
        ]
        .into_iter()
        .flatten()
    }

    /// The generation of a number, if it is still wanted.
    #[must_use]
    pub fn generation(&self, number: GenerationId) -> Option<&Generation> {
        self.generations().find(|it| it.number() == number)
    }

    /// Most partitions that any of its generations has.
    #[must_use]
    pub fn partitions_max(&self) -> u32 {
        let partitions = self.generations().map(|it| it.deployment.partitions);
        partitions.max().unwrap_or(1)
    }

    /// Whether an owner has said that a partition is blocked at a record.
    #[must_use]
    pub fn is_blocked_at(&self, at: &RecordPosition) -> bool {
        let mut reports = self.generations().flat_map(|it| it.reports.values());
        reports.any(|report| match report {
            Report::Blocked(BlockedReport {
                at: Some((blocked_at, _)),
                ..
            }) => blocked_at == at,
            _ => false,
        })
    }

    /// The deployment that answered before the present one.
    #[must_use]
    pub fn previous(&self) -> Option<&Arc<Deployment>> {
        let present = self.serving.deployment.id;
        let mut before = self.history.iter().rev();
        before.find(|it| it.id < present && self.served.contains(&it.id))
    }
}

/// One record of the deployments topic.
#[derive(Debug, Clone)]
pub struct Event {
    /// Names the request.
    pub request_id: String,
    /// By its author's clock.
    pub at_ms: i64,
    /// Who asked.
    pub principal: String,
    /// What for.
    pub body: Body,
}

/// What a record asks for, or reports.
#[derive(Debug, Clone)]
pub enum Body {
    /// The identity of the cluster.
    ClusterNamed(String),
    /// Run a component.
    Deploy(Box<DeployRequested>),
    /// Stop a plugin and free its state.
    Delete(PluginName),
    /// Drop what is being built, or run what ran before.
    Rollback(RollbackRequested),
    /// Stop folding, or go on.
    Pause(PluginName, bool),
    /// Fold everything but one record.
    Skip(PluginName, RecordPosition, String),
    /// Fold parked records again.
    Replay(ReplayRequested),
    /// Do without parked records.
    Discard(Box<DiscardRequested>),
    /// Tell states in events.
    Bootstrap(BootstrapRequested),
    /// Tell no more of them.
    StopBootstrap(PluginName),
    /// The owner of a partition says that its states are told.
    Bootstrapped(BootstrapReported),
    /// The owner of a partition says how it is.
    Report(Reported),
    /// A partition's queries are answered from this generation.
    Switched(PluginName, GenerationId, Partition),
    /// Of a kind that this version does not know; refused, never guessed.
    Unknown(String),
}

/// See [`Body::Deploy`].
#[derive(Debug, Clone)]
pub struct DeployRequested {
    /// Name under which it is to run.
    pub name: PluginName,
    /// What the component is.
    pub kind: Kind,
    /// Which component.
    pub digest: Digest,
    /// The component's manifest.
    pub manifest: Manifest,
    /// Whether it reads states of other schemas.
    pub migrates: bool,
    /// `--set key=value`.
    pub parameters: Parameters,
    /// `--topic input=topic`, and `--topic output=topic`.
    pub topics: BTreeMap<String, TopicName>,
    /// Whether it names the keys of its records itself.
    pub routes: bool,
    /// Partitions of its input.
    pub partitions: u32,
    /// What becomes of the states; `None` = the same code again changes nothing, other code builds
    /// them from the log.
    pub state: Option<StatePolicy>,
    /// Whether whoever asked knew that the output was there already and belonged to no plugin.
    pub adopt_topic: bool,
    /// Whether it is to publish what it makes of the whole log.
    pub emit_from_earliest: bool,
}

/// See [`Body::Rollback`].
#[derive(Debug, Clone)]
pub struct RollbackRequested {
    /// Which plugin.
    pub name: PluginName,
    /// What becomes of the states; `None` = a generation that was kept, else from the log.
    pub state: Option<StatePolicy>,
    /// Partitions of its input.
    pub partitions: u32,
}

/// What becomes of the states when other code takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatePolicy {
    /// They are built from the log, beside the old ones.
    Rebuild,
    /// They stay.
    Keep,
}

/// See [`Body::Report`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Which plugin.
    pub name: PluginName,
    /// Which generation.
    pub generation: GenerationId,
    /// With whose code.
    pub deployment: DeploymentId,
    /// Which partition.
    pub partition: Partition,
    /// How it is.
    pub report: Report,
}

/// What the fold says to a request.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It runs now, as the first of its name.
    Created(Arc<Deployment>),
    /// The same runs already.
    Unchanged(Arc<Deployment>),
    /// Its code goes on from the states that are there.
    Swapped(Arc<Deployment>),
    /// A new generation is built, and answers when it is ready.
    Building(Arc<Deployment>),
    /// What was being built is dropped; this one goes on.
    Cancelled(Arc<Deployment>),
    /// It is gone now.
    Deleted,
    /// Folding stands still, or goes on.
    Paused,
    /// The record will not be folded; the number of the decision.
    Skipped(u64),
    /// Parked records will be folded again, or not any more; the number of the decision.
    Parked(u64),
    /// States will be told in events, or no more of them; the number of the decision to tell them.
    Bootstrap(u64),
    /// A report was taken note of.
    Noted,
    /// The cluster has this identity.
    Named(String),
    /// It changes nothing.
    Refused(Problem),
}
