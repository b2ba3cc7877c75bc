//! Follows the deployments topic: folds its records, tells waiting requests their verdict, and
//! starts and stops plugins accordingly.
//!
//! Invariant: nothing is started from a part of the topic: only from its end on does what runs here
//! follow what was decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::deployments::{Body, Verdict};
use super::record::{self, Request};
use super::{Inner, Plugin, collect, run};
use crate::limits;
use crate::log::{Cleanup, LogError, NewRecord, NewTopic, Read, ReadLimits, RecordBatch};
use crate::state::objects::ObjectsError;
use crate::types::{Offset, Partition, PluginName, TopicPartition};

/// Why a host cannot go on at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    #[error(
        "the deployments topic goes back to offset {found}, this host has read up to {next}: it was replaced; restart the host"
    )]
    WentBack { found: Offset, next: Offset },
}

impl FollowError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Log(error) => error.is_transient(),
            Self::Objects(error) => error.is_transient(),
            Self::WentBack { .. } => false,
        }
    }
}

/// Follows until `stop`; gives up only on what waiting cannot mend.
pub(super) async fn follow(manager: Arc<Inner>, stop: CancellationToken) {
    let mut running = Runs::default();
    let mut pause = limits::RETRY_PAUSE_MIN;
    loop {
        let error = tokio::select! {
            () = stop.cancelled() => break,
            result = follow_once(&manager, &mut running) => match result {
                Ok(never) => match never {},
                Err(error) => error,
            },
        };
        manager.readiness.write().following = Err(error.to_string());
        if !error.is_transient() {
            manager.died.send_replace(Some(error.to_string()));
            break;
        }
        tracing::warn!("{error}; trying again");
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(limits::RETRY_PAUSE_MAX);
    }
    running.stop_all().await;
}

async fn follow_once(
    manager: &Arc<Inner>,
    running: &mut Runs,
) -> Result<std::convert::Infallible, FollowError> {
    let context = &manager.context;
    let topic = context.cluster.deployments_topic();
    ensure_topic(manager).await?;
    let partition = TopicPartition {
        topic,
        partition: Partition(0),
    };
    let readers = context
        .log
        .reader_set(&format!("{}.deployments", context.cluster))?;
    let from = *manager.next.lock();
    let mut reader = readers.open(&partition, from).await?;
    let mut batch = RecordBatch::new();
    let limits = ReadLimits {
        records_max: limits::BATCH_EVENTS_MAX,
        bytes_max: limits::BATCH_BYTES_MAX,
    };
    loop {
        match reader.read(&mut batch, limits).await? {
            Read::Records => {
                let mut answers = Vec::new();
                for record in batch.iter() {
                    let value = record.value.unwrap_or_default();
                    answers.extend(fold(manager, record.offset, value)?);
                }
                batch.clear();
                if manager.readiness.read().following.is_ok() {
                    running.reconcile(manager);
                }
                // What was decided is there when whoever asked hears of it. They may have gone away
                // meanwhile; the decision stands.
                for (waiting, verdict) in answers {
                    let _ = waiting.send(verdict);
                }
            }
            Read::EndOfPartition => {
                if name_cluster(manager).await? {
                    running.reconcile(manager);
                    let before =
                        std::mem::replace(&mut manager.readiness.write().following, Ok(()));
                    if before.is_err() {
                        // A host that died may have left states of what is gone by now.
                        manager.collector.collect();
                    }
                }
            }
        }
    }
}

/// Folds one record; returns its verdict with whoever waits for it on this host.
fn fold(
    manager: &Inner,
    offset: Offset,
    value: &[u8],
) -> Result<Option<(oneshot::Sender<Verdict>, Verdict)>, FollowError> {
    let mut next = manager.next.lock();
    if offset < *next {
        return Err(FollowError::WentBack {
            found: offset,
            next: *next,
        });
    }
    let event = record::decode(value);
    let request_id = event.request_id.clone();
    if let Body::Unknown(why) = &event.body {
        tracing::warn!(%offset, "a deployment request is refused: {why}");
    }
    let verdict = manager.deployments.write().apply(offset, event);
    *next = offset.next();
    let waiting = manager.waiting.lock().remove(&request_id);
    Ok(waiting.map(|waiting| (waiting, verdict)))
}

/// Gives the cluster an identity if it has none, and compares it with the object store's. `false`
/// while the name is on its way through the log.
async fn name_cluster(manager: &Inner) -> Result<bool, FollowError> {
    let context = &manager.context;
    let known = manager.deployments.read().cluster_id().map(str::to_owned);
    let id = context
        .objects
        .claim(&context.cluster, known.as_deref())
        .await?;
    if known.is_some() {
        return Ok(true);
    }
    let value = record::encode(
        &context.clock.unique_id(),
        context.clock.now_ms(),
        "",
        &context.advertised_url,
        Request::ClusterNamed(id),
    );
    let record = NewRecord {
        value: Some(value),
        partition: Some(Partition(0)),
        ..NewRecord::default()
    };
    context
        .log
        .append(&context.cluster.deployments_topic(), vec![record])
        .await?;
    Ok(false)
}

async fn ensure_topic(manager: &Inner) -> Result<(), FollowError> {
    let context = &manager.context;
    let name = context.cluster.deployments_topic();
    if let Some(topic) = context.log.topic(&name).await? {
        if topic.partitions != 1 {
            return Err(LogError::Rejected(format!(
                "topic '{name}' has {} partitions; it must have exactly one",
                topic.partitions
            ))
            .into());
        }
        return Ok(());
    }
    if !context.topics.create {
        return Err(LogError::Rejected(format!(
            "topic '{name}' is missing, and `[topics] create = \"never\"`: create it with one \
             partition, cleanup.policy=delete and retention.ms=-1"
        ))
        .into());
    }
    let topic = NewTopic {
        name,
        partitions: 1,
        replication_factor: context.topics.replication_factor,
        cleanup: Cleanup::Keep,
    };
    match context.log.create_topic(&topic).await {
        Ok(_) | Err(LogError::TopicExists(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The plugins that run on this host.
#[derive(Default)]
struct Runs(BTreeMap<PluginName, Run>);

struct Run {
    plugin: Arc<Plugin>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Runs {
    /// Starts what was decided and does not run, stops what runs and was not, and tells the others
    /// what was decided about them.
    fn reconcile(&mut self, manager: &Arc<Inner>) {
        let decided = manager.deployments.read().plugins().clone();
        let gone: Vec<_> = self
            .0
            .iter()
            .filter(|(name, run)| {
                decided
                    .get(*name)
                    .is_none_or(|now| now.first != run.plugin.first())
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            let run = self.0.remove(&name).expect("it was just found");
            manager.plugins.write().remove(&name);
            let freed = CancellationToken::new();
            manager.freeing.lock().insert(name, freed.clone());
            manager
                .freeing_tasks
                .spawn(free(manager.clone(), run, freed));
        }
        for (name, decided) in decided {
            if let Some(run) = self.0.get(&name) {
                run.plugin.decide(decided);
                continue;
            }
            let plugin = Arc::new(Plugin::new(decided, manager.context.answerers.clone()));
            let stop = CancellationToken::new();
            let before = manager.freeing.lock().get(&name).cloned();
            let (started, context, token) = (plugin.clone(), manager.context.clone(), stop.clone());
            let collector = manager.collector.clone();
            let task = tokio::spawn(async move {
                if let Some(before) = before {
                    // One membership of a group at a time.
                    before.cancelled().await;
                }
                run::run(started, context, collector, token).await;
            });
            manager.plugins.write().insert(name.clone(), plugin.clone());
            self.0.insert(name, Run { plugin, stop, task });
        }
        manager.changed.send_modify(|changes| *changes += 1);
    }

    async fn stop_all(&mut self) {
        for run in self.0.values() {
            run.stop.cancel();
        }
        for (name, run) in std::mem::take(&mut self.0) {
            if run.task.await.is_err() {
                tracing::error!(plugin = %name, "its task died");
            }
        }
    }
}

/// Stops a plugin that was deleted, then frees its states. They may be gone already: every host does
/// this, after it has stopped writing there. The journal stays, for the next plugin of this name.
async fn free(manager: Arc<Inner>, run: Run, freed: CancellationToken) {
    let name = run.plugin.name().clone();
    run.stop.cancel();
    let _ = run.task.await;
    if let Err(error) = collect::collect(&manager).await {
        tracing::warn!(plugin = %name, "its states cannot be freed: {error}; trying again");
        manager.collector.collect();
    }
    manager.freeing.lock().remove(&name);
    freed.cancel();
}
