//! Frees the states of generations, and the merge topics, that nobody will ever use again: after a delete,
//! after a hand-over, and, at start, those that a host which died had left.
//!
//! Invariant: only what the fold calls dead is freed, and only once this host has stopped writing
//! there. Another host that still does so frees it again when it has stopped.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::limits;
use crate::log::LogError;
use crate::state::StateError;

/// Asks for a collection. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Collector(Arc<Notify>);

impl Collector {
    /// Has the dead collected soon.
    pub(super) fn collect(&self) {
        self.0.notify_one();
    }

    /// Collects whenever it is asked to, until `stop`.
    pub(super) async fn run(self, manager: Weak<Inner>, stop: CancellationToken) {
        let mut pause = limits::RETRY_PAUSE_MIN;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.notified() => {}
            }
            let Some(manager) = manager.upgrade() else {
                return;
            };
            match collect(&manager).await {
                Ok(()) => pause = limits::RETRY_PAUSE_MIN,
                Err(error) => {
                    tracing::warn!(
                        "states that nobody uses cannot be freed: {error}; trying again"
                    );
                    self.collect();
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(limits::RETRY_PAUSE_MAX);
                }
            }
        }
    }
}

/// Why something could not be freed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CollectError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Frees what is dead now.
pub(super) async fn collect(manager: &Inner) -> Result<(), CollectError> {
    let states = &manager.context.states;
    for (name, generation) in states.generations().await? {
        if manager.deployments.read().is_dead(&name, generation) {
            states.delete(&name, generation).await?;
            tracing::info!(plugin = %name, %generation, "its states are freed");
        }
    }
    let (log, cluster) = (&manager.context.log, &manager.context.cluster);
    // Whoever makes the host's topics in its place frees them as well.
    if !manager.context.topics.create {
        return Ok(());
    }
    for topic in log.topics().await? {
        let Some((name, number)) = cluster.read_merge_topic(&topic.name) else {
            continue;
        };
        if manager.deployments.read().is_merge_dead(&name, number) {
            match log.delete_topic(&topic.name).await {
                // Another host was faster.
                Ok(()) | Err(LogError::UnknownTopic(_)) => {}
                Err(error) => return Err(error.into()),
            }
            tracing::info!(plugin = %name, topic = %topic.name, "nobody folds it any more: deleted");
        }
    }
    Ok(())
}
