//! Fetches and compiles the code of deployments beside everything else. Part of `run`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;

use crate::limits;
use crate::manager::Context;
use crate::manager::deployments::{Deployment, How};
use crate::manager::plugin::Plugin;
use crate::partition::{self, CodeInUse};
use crate::plugin::PluginCode;
use crate::types::DeploymentId;

/// Compiled code, or why there is none.
type Loaded = Result<Arc<dyn PluginCode>, String>;

/// Code that is there, and code that is on its way.
pub(super) struct Loads {
    plugin: Arc<Plugin>,
    context: Context,
    loaded: BTreeMap<DeploymentId, Arc<dyn PluginCode>>,
    loading: BTreeSet<DeploymentId>,
    tasks: JoinSet<(DeploymentId, Loaded)>,
    /// What failed: when it is tried again, and how long the pause was.
    failed: BTreeMap<DeploymentId, (Duration, Duration)>,
}

impl Loads {
    pub(super) fn new(plugin: Arc<Plugin>, context: Context) -> Self {
        Self {
            plugin,
            context,
            loaded: BTreeMap::new(),
            loading: BTreeSet::new(),
            tasks: JoinSet::new(),
            failed: BTreeMap::new(),
        }
    }

    /// The code of a deployment; if it is not there yet, it is fetched.
    pub(super) fn get(&mut self, deployment: &Arc<Deployment>) -> Option<Arc<dyn PluginCode>> {
        if let Some(code) = self.loaded.get(&deployment.id) {
            return Some(code.clone());
        }
        let now = self.context.clock.elapsed();
        let is_due = self
            .failed
            .get(&deployment.id)
            .is_none_or(|(at, _)| *at <= now);
        if is_due && self.loading.insert(deployment.id) {
            let (deployment, context) = (deployment.clone(), self.context.clone());
            self.tasks
                .spawn(async move { (deployment.id, load(&deployment, &context).await) });
        }
        None
    }

    /// Forgets the code of deployments that are not wanted any more.
    pub(super) fn retain(&mut self, wanted: &BTreeSet<DeploymentId>) {
        self.loaded
            .retain(|deployment, _| wanted.contains(deployment));
        self.failed
            .retain(|deployment, _| wanted.contains(deployment));
    }

    /// Waits until something that was fetched is there, or could not be; `None` if nothing is on its
    /// way. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Option<()> {
        match self.tasks.join_next().await? {
            Ok((deployment, Ok(code))) => {
                self.loading.remove(&deployment);
                self.failed.remove(&deployment);
                self.plugin.loaded(deployment, &code);
                self.plugin.works();
                self.loaded.insert(deployment, code);
            }
            Ok((deployment, Err(error))) => {
                tracing::warn!(plugin = %self.plugin.name(), %deployment, "{error}; trying again");
                self.plugin.failed(error);
                self.loading.remove(&deployment);
                let pause = self
                    .failed
                    .get(&deployment)
                    .map_or(limits::RETRY_PAUSE_MIN, |(_, pause)| {
                        (*pause * 2).min(limits::RETRY_PAUSE_MAX)
                    });
                let at = self.context.clock.elapsed() + pause;
                self.failed.insert(deployment, (at, pause));
            }
            Err(error) => tracing::error!(plugin = %self.plugin.name(), "loading died: {error}"),
        }
        Some(())
    }

    /// When something is to be fetched again.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        let waiting = self.failed.iter();
        let waiting = waiting.filter(|(deployment, _)| !self.loading.contains(deployment));
        waiting.map(|(_, (at, _))| *at).min()
    }
}

async fn load(deployment: &Deployment, context: &Context) -> Loaded {
    let component = context
        .objects
        .component(&deployment.digest)
        .await
        .map_err(|error| error.to_string())?;
    let engine = context.engine.clone();
    let parameters = deployment.parameters.clone();
    let loaded = tokio::task::spawn_blocking(move || engine.load(&component, &parameters)).await;
    loaded
        .map_err(|error| format!("compiling the component died: {error}"))?
        .map_err(|faults| {
            faults
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        })
}

/// The code of deployments of a plugin, for partitions that have to fold again what older code folded.
#[derive(Debug)]
pub(super) struct Codes {
    plugin: Arc<Plugin>,
    context: Context,
}

impl Codes {
    pub(super) fn new(plugin: &Arc<Plugin>, context: &Context) -> Self {
        Self {
            plugin: plugin.clone(),
            context: context.clone(),
        }
    }
}

#[async_trait]
impl partition::Codes for Codes {
    async fn code(&self, deployment: DeploymentId) -> Result<Arc<CodeInUse>, String> {
        let decided = self.plugin.decided();
        let mut history = decided.history.iter();
        let Some(found) = history.find(|it| it.id == deployment) else {
            return Err("it is not remembered any more".to_owned());
        };
        Ok(Arc::new(CodeInUse {
            deployment,
            code: load(found, &self.context).await?,
            renumbered: found.how == How::Kept,
        }))
    }
}
