//! Runs one plugin on this host: joins its group, and keeps a worker for each partition that the group
//! assigns here, in every generation that was decided.
//!
//! Invariants: membership only decides who *tries*; a worker that opens its partition fences whoever
//! had it. A partition that fails is opened again after a pause, alone; its neighbours go on, and the
//! state that it had answers meanwhile. What runs follows from what was decided ([`align`]), however
//! often that is looked at.

mod align;
mod audit;
mod load;
mod merge;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::audit::Audit;
use self::load::Loads;
use self::merge::Merges;
use self::report::Reports;
use super::Context;
use super::collect::Collector;
use super::deployments::Decided;
use super::plugin::Plugin;
use crate::limits;
use crate::log::{AssignmentChange, Cleanup, LogError, Membership, NewTopic, ReaderSet};
use crate::partition::{self, Exit, Lookups, PartitionHandle, Ports, Stop};
use crate::types::{DeploymentId, GenerationId, Partition, TopicName, TopicPartition};

/// Runs `plugin` until `stop`; tries again after everything that may pass.
pub(super) async fn run(
    plugin: Arc<Plugin>,
    context: Context,
    collector: Collector,
    stop: CancellationToken,
) {
    let mut pause = limits::RETRY_PAUSE_MIN;
    while !stop.is_cancelled() {
        let joined = tokio::select! {
            () = stop.cancelled() => return,
            joined = join(&plugin, &context) => joined,
        };
        match joined {
            Ok(joined) => {
                let (plugin, context) = (plugin.clone(), context.clone());
                let mut running = Running::new(plugin, context, collector.clone(), joined);
                running.run(&stop).await;
                // The membership ended by itself: fenced by a stale request after an outage, or by
                // another host that has the same instance id.
                pause = limits::REJOIN_PAUSE;
            }
            Err(error) => {
                tracing::warn!(plugin = %plugin.name(), "{error}; trying again");
                plugin.failed(error.to_string());
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(limits::RETRY_PAUSE_MAX);
    }
}

/// A membership in the group of a plugin.
struct Joined {
    membership: Box<dyn Membership>,
    journal: TopicName,
    journal_partitions: u32,
}

async fn join(plugin: &Plugin, context: &Context) -> Result<Joined, LogError> {
    let partitions = plugin.decided().partitions_max();
    let journal = ensure_journal(plugin, context, partitions).await?;
    let group = context.cluster.group(plugin.name());
    let membership = context
        .log
        .join(&group, &context.instance_id, &journal)
        .await?;
    Ok(Joined {
        membership,
        journal,
        journal_partitions: partitions,
    })
}

/// The plugin's journal, with at least as many partitions as its states; created, or grown, by
/// whoever comes first.
async fn ensure_journal(
    plugin: &Plugin,
    context: &Context,
    partitions: u32,
) -> Result<TopicName, LogError> {
    let name = context.cluster.journal_topic(plugin.name());
    if let Some(journal) = context.log.topic(&name).await? {
        // A deleted plugin leaves its journal to the next one of its name.
        if journal.partitions < partitions {
            context.log.grow_topic(&name, partitions).await?;
        }
        return Ok(name);
    }
    if !context.topics.create {
        return Err(LogError::Rejected(format!(
            "topic '{name}' is missing, and `[topics] create = \"never\"`: create it with \
             {partitions} partitions and cleanup.policy=compact"
        )));
    }
    let journal = NewTopic {
        name: name.clone(),
        partitions,
        replication_factor: context.topics.replication_factor,
        cleanup: Cleanup::CompactSoon,
    };
    match context.log.create_topic(&journal).await {
        Ok(_) | Err(LogError::TopicExists(_)) => Ok(name),
        Err(error) => Err(error),
    }
}

/// A partition of a generation.
type Place = (GenerationId, Partition);

struct Slot {
    handle: PartitionHandle,
    stop: watch::Sender<Stop>,
    /// Tells this worker from an earlier one of the same place that has not ended yet.
    serial: u64,
    /// Deployment by which it was opened.
    opened_by: DeploymentId,
}

/// When a place that failed is tried again.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Duration,
    pause: Duration,
}

struct Running {
    plugin: Arc<Plugin>,
    context: Context,
    collector: Collector,
    membership: Box<dyn Membership>,
    journal: TopicName,
    journal_partitions: u32,
    decisions: watch::Receiver<Arc<Decided>>,
    /// What the group has given this host.
    assigned: BTreeSet<Partition>,
    /// Whether the group has said so at all.
    is_member: bool,
    loads: Loads,
    readers: BTreeMap<GenerationId, Arc<dyn ReaderSet>>,
    slots: BTreeMap<Place, Slot>,
    workers: JoinSet<(Place, u64, Exit)>,
    retries: BTreeMap<Place, Retry>,
    merges: Merges,
    audit: Audit,
    /// Deployments whose topics are there.
    prepared: BTreeSet<DeploymentId>,
    lookups: Lookups,
    reports: Reports,
    /// Workers tell here that something is to be looked at.
    changed: Arc<Notify>,
    serial: u64,
}

impl Running {
    fn new(plugin: Arc<Plugin>, context: Context, collector: Collector, joined: Joined) -> Self {
        let Joined {
            membership,
            journal,
            journal_partitions,
        } = joined;
        Self {
            decisions: plugin.decisions(),
            loads: Loads::new(plugin.clone(), context.clone()),
            reports: Reports::new(plugin.name().clone(), context.clone()),
            lookups: Lookups::new(
                &context.log,
                &format!("{}.lookups", context.cluster.group(plugin.name())),
            ),
            plugin,
            context,
            collector,
            membership,
            journal,
            journal_partitions,
            assigned: BTreeSet::new(),
            is_member: false,
            readers: BTreeMap::new(),
            slots: BTreeMap::new(),
            workers: JoinSet::new(),
            retries: BTreeMap::new(),
            merges: Merges::default(),
            audit: Audit::default(),
            prepared: BTreeSet::new(),
            changed: Arc::new(Notify::new()),
            serial: 0,
        }
    }

    /// Follows the group and what is decided until `stop`, or until the membership ends.
    async fn run(&mut self, stop: &CancellationToken) {
        let mut check = tokio::time::interval(limits::TOPIC_CHECK_INTERVAL);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let look_in = self.look_in();
            let changed = self.changed.clone();
            tokio::select! {
                () = stop.cancelled() => break,
                change = self.membership.change() => match change {
                    Some(change) => self.assignment_changed(change).await,
                    None => break,
                },
                Some(Ok((place, serial, exit))) = self.workers.join_next() => {
                    self.worker_ended(place, serial, exit);
                }
                Some(()) = self.loads.ended() => {}
                Some(()) = self.merges.ended(&self.context) => {}
                Ok(()) = self.decisions.changed() => {}
                () = changed.notified() => {}
                () = tokio::time::sleep(look_in.unwrap_or_default()), if look_in.is_some() => {}
                _ = check.tick() => self.check_topic().await,
            }
            self.align().await;
        }
        let all = self.assigned.clone();
        self.leave(&all).await;
        self.membership.leave().await;
    }

    /// When to look again, beside everything that happens.
    fn look_in(&self) -> Option<Duration> {
        let now = self.context.clock.elapsed();
        let retry = self.retries.values().map(|retry| retry.at).min();
        let due = [retry, self.loads.retry_at(), self.merges.retry_at()];
        let due = due.into_iter().flatten().min();
        let due = due.map(|at| at.saturating_sub(now));
        // One generation catches up with another: no event says when it has.
        let is_handing_over = self.plugin.decided().retiring.is_some();
        match due {
            Some(due) if is_handing_over => Some(due.min(limits::ALIGN_INTERVAL)),
            None if is_handing_over => Some(limits::ALIGN_INTERVAL),
            due => due,
        }
    }

    async fn assignment_changed(&mut self, change: AssignmentChange) {
        match change {
            AssignmentChange::Assigned(partitions) => {
                tracing::info!(plugin = %self.plugin.name(), ?partitions, "assigned");
                self.is_member = true;
                for partition in partitions {
                    // What a lost assignment left answers until it is opened again.
                    let again: Vec<_> = self.places_of(partition);
                    for place in again {
                        self.abandon(place);
                    }
                    self.assigned.insert(partition);
                }
                self.plugin.assigned(&self.assigned);
            }
            AssignmentChange::Revoked { partitions, done } => {
                tracing::info!(plugin = %self.plugin.name(), ?partitions, "revoked");
                self.leave(&partitions.into_iter().collect()).await;
                drop(done);
            }
            AssignmentChange::Lost(partitions) => {
                tracing::warn!(plugin = %self.plugin.name(), ?partitions,
                    "the assignment is lost; answering from the last state");
                for partition in partitions {
                    self.assigned.remove(&partition);
                    self.retries.retain(|(_, of), _| *of != partition);
                    for place in self.places_of(partition) {
                        let slot = &self.slots[&place];
                        slot.handle.mark_degraded();
                        let store = &slot.handle.spec().store;
                        self.context.metrics.degraded(store, true);
                        slot.stop.send_replace(Stop::Abandon);
                    }
                }
            }
        }
    }

    fn places_of(&self, partition: Partition) -> Vec<Place> {
        let places = self.slots.keys().copied();
        places.filter(|(_, of)| *of == partition).collect()
    }

    /// Ends a worker without a commit. What it has answers until something else does.
    fn abandon(&mut self, place: Place) {
        if let Some(slot) = self.slots.remove(&place) {
            slot.stop.send_replace(Stop::Abandon);
        }
    }

    fn worker_ended(&mut self, place: Place, serial: u64, exit: Exit) {
        let Some(slot) = self.slots.get(&place).filter(|slot| slot.serial == serial) else {
            return;
        };
        let (generation, partition) = place;
        match exit {
            // It was told to; whoever told it deals with the rest.
            Exit::Stopped | Exit::Abandoned => {}
            Exit::Fenced(by) => {
                tracing::warn!(plugin = %self.plugin.name(), %generation, %partition, "fenced: {by}");
                slot.handle.mark_degraded();
                // Opening asks the group first whether the partition is still ours.
                self.slots.remove(&place);
                self.open_later(place);
            }
            Exit::Idle => {
                tracing::debug!(plugin = %self.plugin.name(), %generation, %partition,
                    "its writer is wanted again");
                self.slots.remove(&place);
                let at = self.context.clock.elapsed();
                let pause = limits::RETRY_PAUSE_MIN;
                self.retries.insert(place, Retry { at, pause });
            }
            Exit::Failed(error) => {
                tracing::warn!(plugin = %self.plugin.name(), %generation, %partition,
                    "{error}; opening again");
                if slot.handle.is_settled() {
                    self.retries.remove(&place);
                }
                slot.handle.mark_failed(error);
                // It may have failed because a topic is gone.
                self.prepared.remove(&slot.opened_by);
                self.slots.remove(&place);
                self.open_later(place);
            }
        }
    }

    fn open_later(&mut self, place: Place) {
        let pause = self
            .retries
            .get(&place)
            .map_or(limits::RETRY_PAUSE_MIN, |retry| {
                (retry.pause * 2).min(limits::RETRY_PAUSE_MAX)
            });
        let at = self.context.clock.elapsed() + pause;
        self.retries.insert(place, Retry { at, pause });
    }

    /// Gives partitions up: commits and closes them, in all generations. Bounded, since nothing is
    /// lost by a commit that is missing.
    async fn leave(&mut self, partitions: &BTreeSet<Partition>) {
        for partition in partitions {
            self.assigned.remove(partition);
            self.retries.retain(|(_, of), _| of != partition);
            self.plugin.left(*partition);
        }
        self.plugin.assigned(&self.assigned);
        let places: Vec<_> = self
            .slots
            .keys()
            .copied()
            .filter(|(_, partition)| partitions.contains(partition))
            .collect();
        self.close(&places, Stop::Clean).await;
    }

    /// Ends the workers of some places and waits for them, within a bound.
    async fn close(&mut self, places: &[Place], how: Stop) {
        let (mut waiting, mut closing) = (Vec::new(), Vec::new());
        for place in places {
            self.plugin.closed(place.0, place.1);
            if let Some(slot) = self.slots.remove(place) {
                closing.push(slot.handle.spec().store.clone());
                slot.stop.send_replace(how);
                waiting.push(slot.serial);
            }
        }
        let ended = async {
            while !waiting.is_empty() {
                match self.workers.join_next().await {
                    Some(Ok((place, serial, exit))) => {
                        if let Exit::Failed(error) = &exit {
                            tracing::warn!(plugin = %self.plugin.name(), partition = %place.1, "{error}");
                        }
                        waiting.retain(|other| *other != serial);
                        self.worker_ended(place, serial, exit);
                    }
                    Some(Err(_)) => {}
                    None => break,
                }
            }
        };
        if tokio::time::timeout(limits::REVOKE_COMMIT_MAX, ended)
            .await
            .is_err()
        {
            tracing::warn!(plugin = %self.plugin.name(), "closing partitions took too long");
        }
        for store in &closing {
            self.context.metrics.closed(store);
        }
    }

    /// Looks whether the input still has its partitions, and tells lag tools how far we are.
    async fn check_topic(&mut self) {
        let decided = self.plugin.decided();
        let serving = decided.serving.number();
        let positions = self
            .slots
            .iter()
            .filter(|((generation, _), _)| *generation == serving)
            .map(|(_, slot)| (slot.handle.spec().source(), slot.handle.status().committed))
            .collect::<BTreeMap<TopicPartition, _>>();
        self.membership.report(&positions);
        self.merges.look(&self.context, &decided).await;
        self.audit
            .look(&self.plugin, &self.context, &self.lookups, &self.assigned);
        for generation in decided.generations() {
            let input = &generation.deployment.folded(&self.context.cluster).topic;
            let Ok(Some(topic)) = self.context.log.topic(input).await else {
                continue;
            };
            let expected = generation.deployment.partitions;
            if topic.partitions == expected {
                continue;
            }
            let of = generation.number();
            let slots = self
                .slots
                .iter()
                .filter(|((generation, _), _)| *generation == of);
            for (_, slot) in slots.filter(|(_, slot)| !slot.handle.is_blocked()) {
                slot.handle.request_block(partition::partitions_changed(
                    &slot.handle,
                    expected,
                    topic.partitions,
                ));
            }
        }
    }

    fn ports(&self, readers: Arc<dyn ReaderSet>) -> Ports {
        Ports {
            log: self.context.log.clone(),
            readers,
            shared_reads: self.context.shared_reads.clone(),
            lookups: self.lookups.clone(),
            states: self.context.states.clone(),
            codes: Arc::new(load::Codes::new(&self.plugin, &self.context)),
            budget: self.context.budget.clone(),
            clock: self.context.clock.clone(),
            writer_idle_max: self.context.writer_idle,
            metrics: self.context.metrics.clone(),
            changed: self.changed.clone(),
        }
    }
}
