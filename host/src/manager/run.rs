//! Runs one plugin on this host: loads its code, joins its group, and keeps a worker for each
//! partition that the group assigns here.
//!
//! Invariant: membership only decides who *tries*; a worker that opens its partition fences whoever
//! had it. A partition that fails is opened again after a pause, alone; its neighbours go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::plugin::Plugin;
use crate::limits;
use crate::log::{AssignmentChange, Cleanup, LogError, Membership, NewTopic, ReaderSet};
use crate::partition::{self, Exit, PartitionHandle, PartitionSpec, Ports, Stop};
use crate::plugin::PluginCode;
use crate::state::StoreId;
use crate::types::{Partition, TopicName, TopicPartition};

/// Runs `plugin` until `stop`; tries again after everything that may pass.
pub(super) async fn run(plugin: Arc<Plugin>, context: Context, stop: CancellationToken) {
    let mut pause = limits::RETRY_PAUSE_MIN;
    while !stop.is_cancelled() {
        match start(&plugin, &context, &stop).await {
            Ok(Some(mut running)) => {
                running.run(&stop).await;
                // The membership ended by itself: fenced by a stale request after an outage, or by
                // another host that has the same instance id.
                pause = limits::RETRY_PAUSE_MIN;
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(limits::REJOIN_PAUSE) => {}
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(plugin = %plugin.name(), "{error}; trying again");
                plugin.failed(error);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(limits::RETRY_PAUSE_MAX);
            }
        }
    }
}

async fn start(
    plugin: &Arc<Plugin>,
    context: &Context,
    stop: &CancellationToken,
) -> Result<Option<Running>, String> {
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        started = prepare(plugin, context) => started.map(Some),
    }
}

async fn prepare(plugin: &Arc<Plugin>, context: &Context) -> Result<Running, String> {
    let code = match plugin.code() {
        Some(code) => code,
        None => load(plugin, context).await?,
    };
    let journal = ensure_journal(plugin, context)
        .await
        .map_err(|error| error.to_string())?;
    let group = context.cluster.group(plugin.name());
    let readers = context
        .log
        .reader_set(&format!("{group}.{}", plugin.deployment().generation))
        .map_err(|error| error.to_string())?;
    let membership = context
        .log
        .join(&group, &context.instance_id, &journal)
        .await
        .map_err(|error| error.to_string())?;
    Ok(Running {
        plugin: plugin.clone(),
        context: context.clone(),
        code,
        readers: Arc::from(readers),
        membership,
        journal,
        slots: BTreeMap::new(),
        workers: JoinSet::new(),
        reopen: BTreeMap::new(),
        pauses: BTreeMap::new(),
        serial: 0,
    })
}

async fn load(plugin: &Arc<Plugin>, context: &Context) -> Result<Arc<dyn PluginCode>, String> {
    let deployment = plugin.deployment();
    let component = context
        .objects
        .component(&deployment.digest)
        .await
        .map_err(|error| error.to_string())?;
    let engine = context.engine.clone();
    let parameters = deployment.parameters.clone();
    let loaded = tokio::task::spawn_blocking(move || engine.load(&component, &parameters)).await;
    let code = loaded
        .map_err(|error| format!("compiling the component died: {error}"))?
        .map_err(|faults| {
            faults
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        })?;
    plugin.loaded(code.clone());
    Ok(code)
}

/// The plugin's journal, with at least as many partitions as its state; created, or grown, by
/// whoever comes first.
async fn ensure_journal(plugin: &Plugin, context: &Context) -> Result<TopicName, LogError> {
    let name = context.cluster.journal_topic(plugin.name());
    let partitions = plugin.partition_count();
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
        cleanup: Cleanup::Compact,
    };
    match context.log.create_topic(&journal).await {
        Ok(_) | Err(LogError::TopicExists(_)) => Ok(name),
        Err(error) => Err(error),
    }
}

struct Slot {
    handle: PartitionHandle,
    stop: watch::Sender<Stop>,
    /// Tells this worker from an earlier one of the same partition that has not ended yet.
    serial: u64,
}

struct Running {
    plugin: Arc<Plugin>,
    context: Context,
    code: Arc<dyn PluginCode>,
    readers: Arc<dyn ReaderSet>,
    membership: Box<dyn Membership>,
    journal: TopicName,
    slots: BTreeMap<Partition, Slot>,
    workers: JoinSet<(Partition, u64, Exit)>,
    /// When assigned partitions that failed are opened again, by the clock's elapsed time.
    reopen: BTreeMap<Partition, Duration>,
    pauses: BTreeMap<Partition, Duration>,
    serial: u64,
}

impl Running {
    /// Follows the group until `stop`, or until the membership ends.
    async fn run(&mut self, stop: &CancellationToken) {
        let mut check = tokio::time::interval(limits::TOPIC_CHECK_INTERVAL);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = self.context.clock.elapsed();
            let reopen_in = self.reopen.values().map(|at| at.saturating_sub(now)).min();
            tokio::select! {
                () = stop.cancelled() => break,
                change = self.membership.change() => match change {
                    Some(change) => self.changed(change).await,
                    None => break,
                },
                Some(Ok((partition, serial, exit))) = self.workers.join_next() => {
                    self.worker_ended(partition, serial, exit);
                }
                () = tokio::time::sleep(reopen_in.unwrap_or_default()), if reopen_in.is_some() => {
                    self.reopen_due().await;
                }
                _ = check.tick() => self.check_topic().await,
            }
        }
        let all: Vec<_> = self.slots.keys().copied().collect();
        self.close(&all).await;
        self.membership.leave().await;
    }

    async fn changed(&mut self, change: AssignmentChange) {
        match change {
            AssignmentChange::Assigned(partitions) => {
                tracing::info!(plugin = %self.plugin.name(), ?partitions, "assigned");
                for partition in partitions {
                    self.try_open(partition).await;
                }
                self.plugin.assigned();
            }
            AssignmentChange::Revoked { partitions, done } => {
                tracing::info!(plugin = %self.plugin.name(), ?partitions, "revoked");
                self.close(&partitions).await;
                drop(done);
            }
            AssignmentChange::Lost(partitions) => {
                tracing::warn!(plugin = %self.plugin.name(), ?partitions,
                    "the assignment is lost; answering from the last state");
                for partition in partitions {
                    self.reopen.remove(&partition);
                    if let Some(slot) = self.slots.get(&partition) {
                        slot.handle.mark_degraded();
                        slot.stop.send_replace(Stop::Abandon);
                    }
                }
            }
        }
    }

    /// Opens an assigned partition, after the group has confirmed that it is ours.
    async fn try_open(&mut self, partition: Partition) {
        self.reopen.remove(&partition);
        if partition.0 >= self.plugin.partition_count() {
            return;
        }
        if let Err(error) = self.membership.confirm().await {
            if error.is_transient() {
                self.plugin.failed(error.to_string());
                self.open_later(partition);
            }
            // Not ours any more: the next change says whose.
            return;
        }
        if let Some(before) = self.slots.remove(&partition) {
            before.stop.send_replace(Stop::Abandon);
        }
        self.serial += 1;
        let serial = self.serial;
        let handle = PartitionHandle::new(self.spec(partition), self.context.budget.clone());
        let (stop, stopped) = watch::channel(Stop::No);
        let worker = partition::run(handle.clone(), self.ports(), stopped);
        self.workers.spawn_on(
            async move { (partition, serial, worker.await) },
            &self.context.workers,
        );
        self.plugin.opened(partition, handle.clone());
        self.slots.insert(
            partition,
            Slot {
                handle,
                stop,
                serial,
            },
        );
    }

    fn open_later(&mut self, partition: Partition) {
        let pause = self
            .pauses
            .get(&partition)
            .copied()
            .unwrap_or(limits::RETRY_PAUSE_MIN);
        self.pauses
            .insert(partition, (pause * 2).min(limits::RETRY_PAUSE_MAX));
        let at = self.context.clock.elapsed() + pause;
        self.reopen.insert(partition, at);
    }

    async fn reopen_due(&mut self) {
        let now = self.context.clock.elapsed();
        let due: Vec<_> = self
            .reopen
            .iter()
            .filter_map(|(partition, at)| (*at <= now).then_some(*partition))
            .collect();
        for partition in due {
            self.try_open(partition).await;
        }
    }

    fn worker_ended(&mut self, partition: Partition, serial: u64, exit: Exit) {
        let Some(slot) = self
            .slots
            .get(&partition)
            .filter(|slot| slot.serial == serial)
        else {
            return;
        };
        match exit {
            // It was told to; `close` or the loss of the assignment deals with the rest.
            Exit::Stopped | Exit::Abandoned => {}
            Exit::Fenced(by) => {
                tracing::warn!(plugin = %self.plugin.name(), %partition, "fenced: {by}");
                slot.handle.mark_degraded();
                // Opening asks the group first whether the partition is still ours.
                self.open_later(partition);
            }
            Exit::Failed(error) => {
                tracing::warn!(plugin = %self.plugin.name(), %partition, "{error}; opening again");
                if slot.handle.is_settled() {
                    self.pauses.remove(&partition);
                }
                slot.handle.mark_failed(error);
                self.open_later(partition);
            }
        }
    }

    /// Commits and closes partitions; bounded, since nothing is lost by a commit that is missing.
    async fn close(&mut self, partitions: &[Partition]) {
        let (mut waiting, mut closing) = (Vec::new(), Vec::new());
        for partition in partitions {
            self.reopen.remove(partition);
            self.pauses.remove(partition);
            self.plugin.closed(*partition);
            if let Some(slot) = self.slots.remove(partition) {
                closing.push(slot.handle.spec().store.clone());
                slot.stop.send_replace(Stop::Clean);
                waiting.push(slot.serial);
            }
        }
        let ended = async {
            while !waiting.is_empty() {
                match self.workers.join_next().await {
                    Some(Ok((partition, serial, exit))) => {
                        if let Exit::Failed(error) = &exit {
                            tracing::warn!(plugin = %self.plugin.name(), %partition, "{error}");
                        }
                        waiting.retain(|other| *other != serial);
                        self.worker_ended(partition, serial, exit);
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
        let positions = self
            .slots
            .values()
            .map(|slot| (slot.handle.spec().source(), slot.handle.status().committed))
            .collect::<BTreeMap<TopicPartition, _>>();
        self.membership.report(&positions);
        let input = &self.plugin.inputs()[0].topic;
        let Ok(Some(topic)) = self.context.log.topic(input).await else {
            return;
        };
        let expected = self.plugin.partition_count();
        if topic.partitions == expected {
            return;
        }
        for slot in self.slots.values().filter(|slot| !slot.handle.is_blocked()) {
            slot.handle.request_block(partition::partitions_changed(
                &slot.handle,
                expected,
                topic.partitions,
            ));
        }
    }

    fn spec(&self, partition: Partition) -> PartitionSpec {
        let deployment = self.plugin.deployment();
        PartitionSpec {
            store: StoreId {
                plugin: self.plugin.name().clone(),
                generation: deployment.generation,
                partition,
            },
            deployment: deployment.id,
            code: self.code.clone(),
            input: self.plugin.inputs()[0].clone(),
            journal: self.journal.clone(),
            advertised_url: self.context.advertised_url.clone(),
        }
    }

    fn ports(&self) -> Ports {
        Ports {
            log: self.context.log.clone(),
            readers: self.readers.clone(),
            states: self.context.states.clone(),
            budget: self.context.budget.clone(),
            clock: self.context.clock.clone(),
            metrics: self.context.metrics.clone(),
        }
    }
}
