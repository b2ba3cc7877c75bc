//! Which host answers for a key: this one, another one by its URL, or nobody right now. Called by
//! `http`; follows the journals that owners announce themselves in.
//!
//! Invariant: of two announcements of a partition in one generation, the one with the higher epoch is
//! right, whatever order they were read in, and whoever owns a partition opens it in the generation
//! that answers. It may still be stale: the owner itself refuses what it does not own, so a stale route
//! costs a detour, never a wrong answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::log::{Log, LogError, Read, ReadLimits, ReaderSet, RecordBatch};
use crate::manager::{Manager, Plugin};
use crate::partition::PartitionHandle;
use crate::partition::journal::{self, Owner};
use crate::types::{
    ClusterName, DeploymentId, GenerationId, Offset, Partition, PluginName, TopicPartition,
};

/// Where a partition is answered for.
#[derive(Debug, Clone)]
pub enum Location {
    /// Here.
    Local(PartitionHandle),
    /// By the host with this URL.
    Remote(String),
    /// Nobody has opened it.
    Nobody,
}

/// Knows who owns what. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: ClusterName,
    own_url: String,
    log: Arc<dyn Log>,
    manager: Manager,
    owners: RwLock<BTreeMap<PluginName, Owners>>,
}

/// Who announced what last.
type Owners = BTreeMap<(Partition, GenerationId), Owner>;

impl Cluster {
    /// Starts to follow the journals of all plugins, until `stop`.
    #[must_use]
    pub fn start(
        name: ClusterName,
        own_url: String,
        log: Arc<dyn Log>,
        manager: Manager,
        stop: CancellationToken,
    ) -> Self {
        let inner = Arc::new(Inner {
            name,
            own_url,
            log,
            manager,
            owners: RwLock::default(),
        });
        tokio::spawn(follow_all(inner.clone(), stop));
        Self(inner)
    }

    /// Where a partition of a plugin is answered for.
    #[must_use]
    pub fn locate(&self, plugin: &Plugin, partition: Partition) -> Location {
        let local = plugin.local(partition);
        if let Some(handle) = &local
            && !handle.is_degraded()
        {
            return Location::Local(handle.clone());
        }
        match (self.owner_url(plugin, partition), local) {
            (Some(url), _) if url != self.0.own_url => Location::Remote(url),
            // The assignment is lost, and nobody else has taken it: the last state still answers.
            (_, Some(handle)) => Location::Local(handle),
            (_, None) => Location::Nobody,
        }
    }

    /// URL of the host that announced itself last as the owner of a partition.
    #[must_use]
    pub fn owner_url(&self, plugin: &Plugin, partition: Partition) -> Option<String> {
        let serving = plugin.deployment().generation;
        let owners = self.0.owners.read();
        let owners = owners.get(plugin.name())?;
        let answers = owners.get(&(partition, serving));
        // While a generation takes over, its owner may not have opened it yet.
        let any = || {
            let all = (partition, GenerationId(0))..=(partition, GenerationId(u64::MAX));
            owners.range(all).next_back().map(|(_, owner)| owner)
        };
        answers.or_else(any).map(|owner| owner.url.clone())
    }
}

impl Inner {
    fn announced(&self, plugin: &PluginName, owner: Owner) {
        let mut owners = self.owners.write();
        let known = owners.entry(plugin.clone()).or_default();
        let place = (owner.partition, owner.generation);
        match known.get(&place) {
            Some(before) if before.epoch > owner.epoch => {}
            _ => {
                known.insert(place, owner);
            }
        }
    }
}

/// What of a plugin decides how its journal is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Followed {
    first: DeploymentId,
    partitions: u32,
}

impl Followed {
    fn of(plugin: &Plugin) -> Self {
        Self {
            first: plugin.first(),
            partitions: plugin.decided().partitions_max(),
        }
    }
}

/// Follows the journals of what runs, as that changes.
async fn follow_all(cluster: Arc<Inner>, stop: CancellationToken) {
    let mut changes = cluster.manager.changes();
    let mut following: BTreeMap<PluginName, (Followed, CancellationToken)> = BTreeMap::new();
    loop {
        let plugins = cluster.manager.plugins();
        following.retain(|name, (followed, stop)| {
            let mut now = plugins.iter().filter(|plugin| plugin.name() == name);
            let now = now.next().map(|plugin| Followed::of(plugin));
            if now.is_none_or(|now| now.first != followed.first) {
                cluster.owners.write().remove(name);
            }
            if now != Some(*followed) {
                stop.cancel();
            }
            now == Some(*followed)
        });
        for plugin in plugins {
            let name = plugin.name().clone();
            following.entry(name).or_insert_with(|| {
                let token = stop.child_token();
                tokio::spawn(follow_plugin(
                    cluster.clone(),
                    plugin.clone(),
                    token.clone(),
                ));
                (Followed::of(&plugin), token)
            });
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Follows one plugin's journal, through everything that may pass.
async fn follow_plugin(cluster: Arc<Inner>, plugin: Arc<Plugin>, stop: CancellationToken) {
    let mut pause = limits::RETRY_PAUSE_MIN;
    loop {
        let error = tokio::select! {
            () = stop.cancelled() => return,
            error = follow_journal(&cluster, &plugin) => error,
        };
        // Before its owner has created it, the journal is simply not there.
        tracing::debug!(plugin = %plugin.name(), "its journal cannot be followed: {error}");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(limits::RETRY_PAUSE_MAX);
    }
}

async fn follow_journal(cluster: &Arc<Inner>, plugin: &Arc<Plugin>) -> LogError {
    let topic = cluster.name.journal_topic(plugin.name());
    let readers: Arc<dyn ReaderSet> =
        match cluster
            .log
            .reader_set(&format!("{}.{}.owners", cluster.name, plugin.name()))
        {
            Ok(readers) => Arc::from(readers),
            Err(error) => return error,
        };
    let mut partitions = JoinSet::new();
    for partition in 0..plugin.decided().partitions_max() {
        let of = TopicPartition {
            topic: topic.clone(),
            partition: Partition(partition),
        };
        let name = plugin.name().clone();
        partitions.spawn(follow_partition(cluster.clone(), readers.clone(), name, of));
    }
    // The first that fails ends all: they are followed again from the start, which is short.
    match partitions.join_next().await {
        Some(Ok(error)) => error,
        Some(Err(error)) => LogError::Unavailable(error.to_string()),
        None => LogError::UnknownTopic(topic),
    }
}

async fn follow_partition(
    cluster: Arc<Inner>,
    readers: Arc<dyn ReaderSet>,
    plugin: PluginName,
    of: TopicPartition,
) -> LogError {
    let read = async {
        let from: Offset = cluster.log.range(&of).await?.start;
        let mut reader = readers.open(&of, from).await?;
        let mut batch = RecordBatch::new();
        let limits = ReadLimits {
            records_max: limits::BATCH_EVENTS_MAX,
            bytes_max: limits::BATCH_BYTES_MAX,
        };
        loop {
            if reader.read(&mut batch, limits).await? == Read::Records {
                for owner in batch
                    .iter()
                    .filter_map(|record| journal::read_owner(record.value?))
                {
                    cluster.announced(&plugin, owner);
                }
                batch.clear();
            }
        }
    };
    let result: Result<std::convert::Infallible, LogError> = read.await;
    match result {
        Ok(never) => match never {},
        Err(error) => error,
    }
}
