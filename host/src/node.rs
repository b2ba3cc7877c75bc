//! The composition root: builds a host from its configuration, wires ports to adapters, and keeps
//! the order of start and stop. The only module that names every adapter.
//!
//! Start: folder, lock and formats → log → object store → engine → listener → manager → HTTP. Stop: the other
//! way round, so that what is acknowledged is committed and what is committed is handed over.

mod folder;
mod threads;

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use self::threads::Threads;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::config::{Config, MemoryPlan, TopicCreation};
use crate::http::{self, HttpServices};
use crate::limits;
use crate::log::embedded::{EmbeddedLog, EmbeddedSettings};
use crate::log::kafka::{KafkaLog, KafkaSettings};
use crate::log::{Log, SharedReads};
use crate::manager::{self, Manager, TopicSettings};
use crate::partition::StateBudget;
use crate::plugin::engine::{EngineSettings, WasmEngine};
use crate::state::objects::{Objects, ObjectsError};
use crate::state::slate::{SlateSettings, SlateStore};
use crate::telemetry::Metrics;
use crate::types::ClusterName;

/// They run the state store: it waits for disks and networks, and compacts.
const STATE_THREADS: Threads = Threads {
    name: "state",
    workers: 2,
    blocking_max: limits::STATE_DISK_THREADS_MAX,
    niceness: 5,
};
/// They answer what takes longer than an attempt, or never ends: their one worker is idle.
/// As many of them as there may be must not hold up whoever serves HTTP: at a niceness of 10, eight that never end
/// raise the p99 of others' queries six times about every second time.
const ANSWER_THREADS: Threads = Threads {
    name: "answer",
    workers: 1,
    blocking_max: limits::ANSWER_THREADS_MAX,
    niceness: 15,
};

/// A running host.
#[derive(Debug)]
pub struct Node {
    url: String,
    clock: Clock,
    cluster_name: ClusterName,
    log: Arc<dyn Log>,
    manager: Manager,
    stop: CancellationToken,
    http: tokio::task::JoinHandle<std::io::Result<()>>,
    runtimes: Option<[Runtime; 3]>,
    _lock: File,
}

impl Node {
    /// Starts a host. When this returns, it listens; it may still be waiting for its log.
    ///
    /// # Errors
    /// What an operator has to put right: a data folder that cannot be written or is in use, a port
    /// in use, an object store of another cluster, settings that the log does not take.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let lock = folder::lock_folder(&config.data)?;
        let objects = locate_objects(&config, &clock)?;
        // Before anything is written: what a newer version left stays as it is.
        objects.check_format().await?;
        let listener = bind(config.listen).await?;
        let admin = match config.admin_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let address = listener
            .local_addr()
            .context("reading the address that was bound")?;
        let url = advertised_url(&config, address);

        let metrics = Metrics::new();
        let plan = MemoryPlan::of(&config);
        let (budget, shared_reads) = share_memory(&plan, &metrics, &clock);
        let log_folder = config.data.join("log");
        if config.kafka.is_none() {
            EmbeddedLog::check_format(&log_folder)?;
        }
        folder::mark_format(&config.data)?;
        let instance_id = folder::instance_id(&config, &clock)?;
        let log = open_log(&config, &plan, &clock, &instance_id)?;
        check_writable(&objects).await?;
        let workers = fold_threads(config.worker.threads).start()?;
        let states = STATE_THREADS.start()?;
        let answerers = ANSWER_THREADS.start()?;
        let settings = SlateSettings {
            block_cache_bytes: plan.block_cache_bytes as u64,
            commits_bytes: plan.commits_bytes,
            folder: objects.folder().map(Into::into),
            conditional_updates: objects.conditional_updates(),
            ..SlateSettings::default()
        };
        let store = SlateStore::new(objects.store(), settings, states.handle().clone());
        let engine = WasmEngine::new(EngineSettings {
            cache_dir: config.data.join("machine-code"),
            clock: clock.clone(),
        })?;
        let manager = Manager::start(manager::Context {
            cluster: config.cluster.clone(),
            advertised_url: url.clone(),
            instance_id,
            topics: topic_settings(&config),
            log: log.clone(),
            objects,
            states: Arc::new(store),
            engine: Arc::new(engine),
            budget,
            shared_reads,
            writer_idle: config.worker.writer_idle,
            clock: clock.clone(),
            metrics: metrics.clone(),
            workers: workers.handle().clone(),
            answerers: answerers.handle().clone(),
        });
        let stop = CancellationToken::new();
        let cluster = Cluster::start(
            config.cluster.clone(),
            url.clone(),
            log.clone(),
            manager.clone(),
            stop.clone(),
        );
        let services = HttpServices {
            manager: manager.clone(),
            cluster,
            log: log.clone(),
            metrics,
            clock: clock.clone(),
            cluster_name: config.cluster.clone(),
            topics: config.topics,
            settings: config.http.clone(),
        };
        let http = tokio::spawn(http::serve(services, listener, admin, stop.clone()));
        Ok(Self {
            url: local_url(address),
            clock,
            cluster_name: config.cluster,
            log,
            manager,
            stop,
            http,
            runtimes: Some([workers, states, answerers]),
            _lock: lock,
        })
    }

    /// Where this machine reaches it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What runs on it.
    #[must_use]
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> Arc<dyn Log> {
        self.log.clone()
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// First part of every name that it owns.
    #[must_use]
    pub fn cluster_name(&self) -> &ClusterName {
        &self.cluster_name
    }

    /// Waits until it cannot go on by itself, and says why.
    pub async fn died(&self) -> String {
        self.manager.died().await
    }

    /// Stops cleanly: ends requests, commits what is folded, leaves the groups, closes the log.
    /// Bounded in time; what a stop that is cut off leaves undone is replayed from the log.
    pub async fn stop(mut self) {
        let stopping = async {
            self.stop.cancel();
            if let Ok(Err(error)) = (&mut self.http).await {
                tracing::warn!(%error, "the listener ended with an error");
            }
            self.manager.stop().await;
            self.log.close(limits::SHUTDOWN_MAX).await;
        };
        if tokio::time::timeout(limits::SHUTDOWN_MAX, stopping)
            .await
            .is_err()
        {
            tracing::warn!("stopping took too long; what is not committed is replayed");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A runtime that waits for its tasks must not be dropped inside another one.
        for runtime in self.runtimes.take().into_iter().flatten() {
            runtime.shutdown_background();
        }
    }
}

/// They fold, and wait for the log's client.
fn fold_threads(workers: usize) -> Threads {
    Threads {
        name: "fold",
        workers,
        blocking_max: limits::LOG_THREADS_MAX,
        niceness: 5,
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another host running there? Name another address with --listen")
    })
}

fn advertised_url(config: &Config, bound: SocketAddr) -> String {
    if let Some(url) = &config.http.advertise {
        return url.clone();
    }
    let url = local_url(bound);
    if config.kafka.is_some() && bound.ip().is_unspecified() {
        tracing::warn!(
            "other hosts send clients here by {url}, which reaches this machine only: set `[http] advertise`"
        );
    }
    url
}

/// URL of a bound address on this machine; "any" address means loopback.
fn local_url(bound: SocketAddr) -> String {
    if !bound.ip().is_unspecified() {
        return format!("http://{bound}");
    }
    let host = if bound.is_ipv4() {
        "127.0.0.1"
    } else {
        "[::1]"
    };
    format!("http://{host}:{}", bound.port())
}

fn topic_settings(config: &Config) -> TopicSettings {
    TopicSettings {
        create: config.topics.create == TopicCreation::Auto,
        replication_factor: config.topics.replication_factor,
        partitions: config.topics.partitions,
    }
}

/// Says who may have how much memory, and makes the budgets of the states and of what readers leave for each other.
fn share_memory(plan: &MemoryPlan, metrics: &Metrics, clock: &Clock) -> (StateBudget, SharedReads) {
    tracing::info!("memory: {plan}");
    for (part, bytes) in plan.parts() {
        metrics.memory_plan(part, bytes);
    }
    metrics.memory_plan("changed-states", plan.dirty_states_bytes);
    let states = StateBudget::planned(
        plan,
        metrics.memory_used("states"),
        metrics.memory_used("changed-states"),
    );
    let left = metrics.memory_used("shared-reads");
    let shared = SharedReads::counted(plan.shared_reads_bytes, left, clock.clone());
    (states, shared)
}

fn open_log(
    config: &Config,
    plan: &MemoryPlan,
    clock: &Clock,
    instance_id: &str,
) -> anyhow::Result<Arc<dyn Log>> {
    let record_bytes_max = config.http.record_bytes_max;
    match &config.kafka {
        Some(properties) => {
            let settings = KafkaSettings {
                replication_factor: config.topics.replication_factor,
                record_bytes_max,
                reader_queues_bytes_max: plan.reader_queues_bytes,
                client_id: format!("{}-{instance_id}", config.cluster),
                ..KafkaSettings::new(properties.as_map().clone())
            };
            Ok(Arc::new(KafkaLog::new(settings, clock.clone())?))
        }
        None => {
            let settings = EmbeddedSettings { record_bytes_max };
            Ok(Arc::new(EmbeddedLog::open(
                &config.data.join("log"),
                clock.clone(),
                settings,
            )?))
        }
    }
}

fn locate_objects(config: &Config, clock: &Clock) -> anyhow::Result<Objects> {
    let default = config.data.join("objects");
    let location = match &config.objects_url {
        Some(url) => url.clone(),
        None => default
            .to_str()
            .with_context(|| format!("the data folder {} is not UTF-8", config.data.display()))?
            .to_owned(),
    };
    Ok(Objects::open(&location, clock.clone())?)
}

/// An object store that cannot be written is for an operator to put right; one that does not answer
/// is waited for.
async fn check_writable(objects: &Objects) -> anyhow::Result<()> {
    match objects.check_writable().await {
        Ok(()) => {}
        Err(error @ (ObjectsError::Unavailable(_) | ObjectsError::Full { .. })) => {
            tracing::warn!("{error}; it is tried again");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
