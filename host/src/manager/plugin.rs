//! What runs under a name on this host: deployment, code, and the partitions that are open here.
//! Written by `run`, read by `http` and `cluster`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::deployments::Deployment;
use super::instances::QueryPool;
use crate::partition::{PartitionHandle, Phase};
use crate::plugin::manifest::Input;
use crate::plugin::{CallError, Capabilities, Kind, Payload, PluginCode, QueryError, Question};
use crate::types::{Partition, PluginName};

/// A plugin on this host.
#[derive(Debug)]
pub struct Plugin {
    deployment: Deployment,
    inputs: Vec<Input>,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    pool: Option<Arc<QueryPool>>,
    partitions: BTreeMap<Partition, PartitionHandle>,
    /// The group has said at least once what is ours.
    assigned: bool,
    last_error: Option<String>,
}

impl Plugin {
    pub(super) fn new(deployment: Deployment) -> Self {
        let inputs = deployment.inputs();
        Self {
            deployment,
            inputs,
            state: RwLock::default(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &PluginName {
        &self.deployment.name
    }

    /// The decision that it runs by.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Its inputs, with the topics that they are mapped to here.
    #[must_use]
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// What it is; known once its component is loaded, until then what every plugin of this version
    /// is: a view.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.code()
            .map_or(Kind::View, |code| code.inspection().kind)
    }

    /// What it can do; `None` until its component is loaded.
    #[must_use]
    pub fn capabilities(&self) -> Option<Capabilities> {
        self.code().map(|code| code.inspection().capabilities)
    }

    /// Its code; `None` while the component is being fetched and compiled.
    #[must_use]
    pub fn code(&self) -> Option<Arc<dyn PluginCode>> {
        self.state
            .read()
            .pool
            .as_ref()
            .map(|pool| pool.code().clone())
    }

    /// Number of partitions of its input, and so of its state.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        self.deployment.partitions
    }

    /// Partition of a key.
    #[must_use]
    pub fn partition_of(&self, key: &[u8]) -> Partition {
        self.inputs[0]
            .partitioner
            .partition(key, self.partition_count())
    }

    /// A partition that is open here.
    #[must_use]
    pub fn local(&self, partition: Partition) -> Option<PartitionHandle> {
        self.state.read().partitions.get(&partition).cloned()
    }

    /// All partitions that are open here, in order.
    #[must_use]
    pub fn locals(&self) -> Vec<(Partition, PartitionHandle)> {
        let state = self.state.read();
        state
            .partitions
            .iter()
            .map(|(partition, handle)| (*partition, handle.clone()))
            .collect()
    }

    /// The worst of its partitions here: `blocked`, `opening`, `replaying` or `live`.
    #[must_use]
    pub fn status(&self) -> &'static str {
        let state = self.state.read();
        let worst = state
            .partitions
            .values()
            .map(|handle| handle.status().phase)
            .min();
        match worst {
            Some(Phase::Blocked) => "blocked",
            Some(Phase::Replaying) => "replaying",
            Some(Phase::Live) => "live",
            // Another host has all of its partitions.
            None if state.assigned => "live",
            Some(Phase::Opening) | None => "opening",
        }
    }

    /// How many offsets its partitions here are behind, in all.
    #[must_use]
    pub fn lag_events(&self) -> u64 {
        self.state
            .read()
            .partitions
            .values()
            .map(|handle| handle.status().lag_events)
            .sum()
    }

    /// What keeps it from running, while it is tried again.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.state.read().last_error.clone()
    }

    /// Whether everything that this host owns of it is live or blocked.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let state = self.state.read();
        state.assigned && state.partitions.values().all(PartitionHandle::is_settled)
    }

    /// Asks it a question about the state of one key, on a pooled instance.
    ///
    /// # Errors
    /// [`CallError`] when the call failed; the plugin's own word is the inner result.
    pub async fn answer(
        &self,
        key: Bytes,
        state: Option<Bytes>,
        question: Question,
    ) -> Result<Result<Payload, QueryError>, CallError> {
        let pool = self.state.read().pool.clone();
        let pool = pool.ok_or_else(|| {
            CallError::Instantiate("its component is still being loaded".to_owned())
        })?;
        pool.answer(key, state, question).await
    }

    pub(super) fn loaded(&self, code: Arc<dyn PluginCode>) {
        self.state.write().pool = Some(QueryPool::new(code));
    }

    pub(super) fn assigned(&self) {
        let mut state = self.state.write();
        state.assigned = true;
        state.last_error = None;
    }

    pub(super) fn opened(&self, partition: Partition, handle: PartitionHandle) {
        self.state.write().partitions.insert(partition, handle);
    }

    pub(super) fn closed(&self, partition: Partition) {
        self.state.write().partitions.remove(&partition);
    }

    pub(super) fn failed(&self, error: String) {
        self.state.write().last_error = Some(error);
    }
}
