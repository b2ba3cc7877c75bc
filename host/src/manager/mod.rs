//! What runs on this host, and why: the fold of the deployments topic, and a task for each plugin
//! that was decided. Called by `http` and `cli`; stands on `partition` and the ports.
//!
//! Invariants: every host folds the same records with the same pure function, so all agree; nothing
//! runs that was not decided; a request is answered with the fold's verdict, not with a hope.

mod collect;
mod decide;
mod deploy;
mod deployments;
mod follow;
mod instances;
mod outputs;
mod plugin;
mod record;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::error::Problem;
use crate::limits;
use crate::log::{Log, SharedReads};
use crate::partition::StateBudget;
use crate::plugin::{Inspection, Parameters, PluginEngine};
use crate::state::StateStore;
use crate::state::objects::Objects;
use crate::telemetry::Metrics;
use crate::types::{
    ClusterName, DeploymentId, GenerationId, Offset, PluginName, RecordPosition, TopicName,
};

pub use deployments::{
    BootstrapRequested, BootstrapRun, Decided, Deployment, Deployments, Discard, DiscardRequested,
    Generation, How, Origin, Paused, Replay, ReplayRequested, Skip, StatePolicy,
};
pub use plugin::{Foreign, Plugin};

/// What plugins run on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// First part of every name that the host owns.
    pub cluster: ClusterName,
    /// Where other hosts and clients reach this one.
    pub advertised_url: String,
    /// This host in its groups; the same after a restart.
    pub instance_id: String,
    /// Topics that the host owns.
    pub topics: TopicSettings,
    /// The log.
    pub log: Arc<dyn Log>,
    /// Components, and the cluster's marker.
    pub objects: Objects,
    /// States.
    pub states: Arc<dyn StateStore>,
    /// Compiles components.
    pub engine: Arc<dyn PluginEngine>,
    /// Memory for states.
    pub budget: StateBudget,
    /// What readers leave for each other.
    pub shared_reads: SharedReads,
    /// How long a writer may be idle before it is closed.
    pub writer_idle: Duration,
    /// Time.
    pub clock: Clock,
    /// Figures.
    pub metrics: Metrics,
    /// The threads that fold.
    pub workers: tokio::runtime::Handle,
    /// The threads that may be kept busy by an answer.
    pub answerers: tokio::runtime::Handle,
}

/// How topics that the host owns are made.
#[derive(Debug, Clone)]
pub struct TopicSettings {
    /// Whether it may make them.
    pub create: bool,
    /// `None` = the log's default.
    pub replication_factor: Option<i32>,
    /// Partitions of an input that is created on the embedded log.
    pub partitions: u32,
}

/// A component that is to run.
#[derive(Debug, Clone)]
pub struct DeployRequest {
    /// Its bytes.
    pub component: Bytes,
    /// Name to run it under, instead of the manifest's.
    pub name: Option<PluginName>,
    /// Name → topic, for inputs that are mapped, and for the output by its topic in the manifest.
    pub topics: BTreeMap<String, TopicName>,
    /// Parameters.
    pub parameters: Parameters,
    /// What becomes of the states; `None` = the same code again changes nothing, other code builds
    /// them from the log.
    pub state: Option<StatePolicy>,
    /// The log may begin later than the events did.
    pub from_retained: bool,
    /// The output may be there already and belong to no plugin.
    pub adopt_topic: bool,
    /// A new generation publishes what it makes of the whole log, instead of going on where the
    /// present one stops.
    pub emit_from_earliest: bool,
    /// Check everything, change nothing.
    pub dry_run: bool,
    /// Name of the caller's token.
    pub principal: String,
}

/// What is to run again.
#[derive(Debug, Clone)]
pub struct RollbackRequest {
    /// Which plugin.
    pub name: PluginName,
    /// What becomes of the states; `None` = a generation that was kept, else from the log.
    pub state: Option<StatePolicy>,
    /// The log may begin later than the events did.
    pub from_retained: bool,
    /// Name of the caller's token.
    pub principal: String,
}

/// What a deployment or a rollback did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeployOutcome {
    /// It runs now.
    Created,
    /// The same ran already.
    Unchanged,
    /// It goes on from the states that are there.
    Swapped,
    /// A new generation is built, and will answer once it is ready.
    Building,
    /// What was being built is dropped.
    Cancelled,
    /// It would run.
    DryRun,
}

/// Answer to [`Manager::deploy`].
#[derive(Debug, Clone)]
pub struct Deployed {
    /// What it did.
    pub outcome: DeployOutcome,
    /// Name it runs under.
    pub name: PluginName,
    /// Number of the deployment; `None` in a dry run.
    pub deployment: Option<DeploymentId>,
    /// Number of the generation; `None` in a dry run.
    pub generation: Option<GenerationId>,
    /// What the component is.
    pub inspection: Inspection,
    /// Topics that it reads here.
    pub topics: Vec<TopicName>,
    /// Topic that it alone publishes to here.
    pub output: Option<TopicName>,
}

/// Whether the host can be sent requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Everything that it owned at start is live or blocked; stays true from then on.
    pub ready: bool,
    /// What is not as it should be, while it answers.
    pub degraded: Vec<String>,
    /// What it is waiting for, until it is ready.
    pub waiting_for: Vec<String>,
}

/// Runs plugins. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Manager(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: Context,
    deployments: RwLock<Deployments>,
    /// First offset of the deployments topic that is not folded.
    next: Mutex<Offset>,
    /// Requests of this host that wait for their verdict; bounded by the requests being served.
    waiting: Mutex<BTreeMap<String, oneshot::Sender<deployments::Verdict>>>,
    plugins: RwLock<BTreeMap<PluginName, Arc<Plugin>>>,
    /// Plugins of a name that were deleted and are still being freed.
    freeing: Mutex<BTreeMap<PluginName, CancellationToken>>,
    freeing_tasks: TaskTracker,
    collector: collect::Collector,
    readiness: RwLock<Following>,
    /// Counts changes of what runs.
    changed: watch::Sender<u64>,
    /// Why the host cannot go on.
    died: watch::Sender<Option<String>>,
    stop: CancellationToken,
    follower: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

#[derive(Debug)]
struct Following {
    following: Result<(), String>,
    was_ready: bool,
}

impl Manager {
    /// Starts to follow the deployments topic on the current runtime.
    #[must_use]
    pub fn start(context: Context) -> Self {
        let following = Following {
            following: Err("it is starting".to_owned()),
            was_ready: false,
        };
        let inner = Arc::new(Inner {
            context,
            deployments: RwLock::default(),
            next: Mutex::default(),
            waiting: Mutex::default(),
            plugins: RwLock::default(),
            freeing: Mutex::default(),
            freeing_tasks: TaskTracker::new(),
            collector: collect::Collector::default(),
            readiness: RwLock::new(following),
            changed: watch::Sender::new(0),
            died: watch::Sender::new(None),
            stop: CancellationToken::new(),
            follower: Mutex::new(None),
        });
        let collector = inner.collector.clone();
        tokio::spawn(collector.run(Arc::downgrade(&inner), inner.stop.clone()));
        let following = tokio::spawn(follow::follow(inner.clone(), inner.stop.clone()));
        let died = inner.died.clone();
        // Without its follower the host would run on and hear of nothing: its death is the host's.
        let follower = tokio::spawn(async move {
            if let Err(error) = following.await {
                died.send_replace(Some(format!("following the deployments died: {error}")));
            }
        });
        *inner.follower.lock() = Some(follower);
        Self(inner)
    }

    /// Runs a component: durable when it returns, on every host of the cluster.
    ///
    /// # Errors
    /// `invalid-plugin` lists every fault; `name-taken`, `deployment-under-way`, `inputs-changed`,
    /// `schema-changed`, `history-cut`, `output-taken`, `topic-exists`, `emit-from-refused`; `log-unavailable` and `state-unavailable` with nothing decided;
    /// `outcome-unknown`.
    pub async fn deploy(&self, request: DeployRequest) -> Result<Deployed, Problem> {
        deploy::deploy(&self.0, request).await
    }

    /// Stops a plugin and frees its state, on every host of the cluster.
    ///
    /// # Errors
    /// `unknown-plugin`; `log-unavailable`; `outcome-unknown`.
    pub async fn delete(&self, name: &PluginName, principal: &str) -> Result<(), Problem> {
        decide::delete(&self.0, name, principal).await
    }

    /// Drops what is being built; or, if nothing is, runs again what ran before.
    ///
    /// # Errors
    /// As [`deploy`](Self::deploy); `no-previous-deployment`.
    pub async fn rollback(
        &self,
        request: RollbackRequest,
    ) -> Result<(DeployOutcome, Arc<Deployment>), Problem> {
        deploy::rollback(&self.0, request).await
    }

    /// Stops folding, or goes on, on every host of the cluster. Queries are answered either way.
    ///
    /// # Errors
    /// `unknown-plugin`; `log-unavailable`; `outcome-unknown`.
    pub async fn pause(
        &self,
        name: &PluginName,
        paused: bool,
        principal: &str,
    ) -> Result<(), Problem> {
        decide::pause(&self.0, name, paused, principal).await
    }

    /// Leaves out one record at which a partition is blocked; returns the number of the decision.
    ///
    /// # Errors
    /// `not-blocked` names where it is blocked; `unknown-plugin`; `log-unavailable`;
    /// `outcome-unknown`.
    pub async fn skip(
        &self,
        name: &PluginName,
        at: RecordPosition,
        reason: String,
        principal: &str,
    ) -> Result<u64, Problem> {
        decide::skip(&self.0, name, at, reason, principal).await
    }

    /// Has parked records folded again, on every host of the cluster; returns the number of the decision.
    ///
    /// # Errors
    /// `not-parked` where the plugin never parks; `unknown-plugin`; `log-unavailable`; `outcome-unknown`.
    pub async fn replay_parked(
        &self,
        request: ReplayRequested,
        principal: &str,
    ) -> Result<u64, Problem> {
        decide::parked(&self.0, record::Request::Replay(request), principal).await
    }

    /// Does without parked records, now and in every later generation; returns the number of the decision.
    ///
    /// # Errors
    /// As [`replay_parked`](Self::replay_parked); `deployment-under-way`; `too-large`.
    pub async fn discard_parked(
        &self,
        request: DiscardRequested,
        principal: &str,
    ) -> Result<u64, Problem> {
        let request = record::Request::Discard(Box::new(request));
        decide::parked(&self.0, request, principal).await
    }

    /// Has a command handler tell its states in events, on every host of the cluster; returns the number of the
    /// decision.
    ///
    /// # Errors
    /// `not-a-handler`; `bootstrap-under-way`; `unknown-plugin`; `log-unavailable`; `outcome-unknown`.
    pub async fn bootstrap(
        &self,
        request: BootstrapRequested,
        principal: &str,
    ) -> Result<u64, Problem> {
        decide::bootstrap(&self.0, record::Request::Bootstrap(request), principal).await
    }

    /// Stops what [`bootstrap`](Self::bootstrap) has begun; returns its number.
    ///
    /// # Errors
    /// `no-bootstrap`; `unknown-plugin`; `log-unavailable`; `outcome-unknown`.
    pub async fn stop_bootstrap(&self, name: &PluginName, principal: &str) -> Result<u64, Problem> {
        let request = record::Request::StopBootstrap(name.clone());
        decide::bootstrap(&self.0, request, principal).await
    }

    /// What runs, by name.
    #[must_use]
    pub fn plugins(&self) -> Vec<Arc<Plugin>> {
        self.0.plugins.read().values().cloned().collect()
    }

    /// What runs under a name.
    ///
    /// # Errors
    /// `unknown-plugin` names what there is.
    pub fn plugin(&self, name: &str) -> Result<Arc<Plugin>, Problem> {
        let plugins = self.0.plugins.read();
        PluginName::new(name)
            .ok()
            .and_then(|name| plugins.get(&name).cloned())
            .ok_or_else(|| deployments::unknown_plugin(name, plugins.keys()))
    }

    /// Plugins that read a topic.
    #[must_use]
    pub fn readers_of(&self, topic: &TopicName) -> Vec<PluginName> {
        let plugins = self.0.plugins.read();
        let reads = |plugin: &&Arc<Plugin>| {
            let decided = plugin.decided();
            let mut generations = decided.generations();
            generations.any(|it| it.deployment.inputs.iter().any(|it| it.topic == *topic))
        };
        plugins
            .values()
            .filter(reads)
            .map(|plugin| plugin.name().clone())
            .collect()
    }

    /// The plugin that owns a topic: nobody else may publish to it.
    #[must_use]
    pub fn owner_of(&self, topic: &TopicName) -> Option<PluginName> {
        self.0.deployments.read().owner_of(topic).cloned()
    }

    /// Waits until everything that this host owns of a plugin is live, with the code of `deployment` or
    /// a later one; `false` if it is blocked or paused, or if that takes longer than `within`.
    ///
    /// # Errors
    /// `unknown-plugin`.
    pub async fn wait_ready(
        &self,
        name: &str,
        deployment: DeploymentId,
        within: Duration,
    ) -> Result<bool, Problem> {
        const POLL: Duration = Duration::from_millis(20);
        let until = self.0.context.clock.elapsed() + within;
        loop {
            let plugin = self.plugin(name)?;
            let decided = plugin.decided();
            let is_stuck = decided
                .building
                .as_ref()
                .is_some_and(deployments::Generation::is_blocked);
            let is_served = plugin.serves(deployment);
            if plugin.is_settled() && (is_served || is_stuck) {
                return Ok(is_served && plugin.status() == "live");
            }
            if self.0.context.clock.elapsed() >= until {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether this host can be sent requests.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let mut state = self.0.readiness.write();
        let mut waiting_for = Vec::new();
        let mut degraded = Vec::new();
        if let Err(why) = &state.following {
            waiting_for.push(format!("deployments: {why}"));
        }
        degraded.extend(self.0.context.log.standing_fault());
        for plugin in self.plugins() {
            let name = plugin.name();
            if !plugin.is_settled() {
                waiting_for.push(format!("{name}: {}", plugin.status()));
            }
            degraded.extend(plugin.last_error().map(|error| format!("{name}: {error}")));
            for (partition, handle) in plugin.locals() {
                let status = handle.status();
                if status.degraded {
                    degraded.push(format!("{name}/{partition}: the assignment is lost"));
                }
                let fault = status.fault();
                degraded.extend(fault.map(|error| format!("{name}/{partition}: {error}")));
                let blocked = status.blocked.map(|blocked| blocked.code);
                degraded.extend(blocked.map(|code| format!("{name}/{partition}: {code}")));
            }
        }
        if waiting_for.is_empty() {
            state.was_ready = true;
        }
        if state.was_ready {
            // Later trouble is told, and takes no host out of service that can answer.
            degraded.append(&mut waiting_for);
        }
        Readiness {
            ready: state.was_ready,
            degraded,
            waiting_for,
        }
    }

    /// Counts changes of what runs, for those who follow them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Waits until the host cannot go on, and says why.
    pub async fn died(&self) -> String {
        let mut died = self.0.died.subscribe();
        match died.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the manager is gone".to_owned(),
        }
    }

    /// Stops every plugin: commits what is folded and leaves the groups.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        let follower = self.0.follower.lock().take();
        if let Some(follower) = follower {
            // It has told `died` if anything went wrong.
            let _ = follower.await;
        }
        self.0.freeing_tasks.close();
        let freed = self.0.freeing_tasks.wait();
        if tokio::time::timeout(limits::REVOKE_COMMIT_MAX, freed)
            .await
            .is_err()
        {
            tracing::warn!("the states of a deleted plugin are not freed yet, and stay");
        }
    }
}
