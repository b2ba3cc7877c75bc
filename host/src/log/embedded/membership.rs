//! Membership on the embedded log: the folder's lock keeps other hosts out, so the only member gets
//! all partitions at once and nobody takes them away.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Shared;
use super::catalog::TopicState;
use crate::log::{AssignmentChange, LogError, Membership};
use crate::types::{Offset, Partition, TopicPartition};

/// The only member of a group.
#[derive(Debug)]
pub(super) struct EmbeddedMembership {
    log: Arc<Shared>,
    /// How many partitions the topic has.
    partitions: watch::Receiver<u32>,
    /// How many of them were assigned.
    assigned: Mutex<u32>,
    left: watch::Sender<bool>,
}

impl EmbeddedMembership {
    /// Member of a group over this topic.
    pub(super) fn new(log: Arc<Shared>, topic: &TopicState) -> Self {
        Self {
            log,
            partitions: topic.watch_partitions(),
            assigned: Mutex::new(0),
            left: watch::Sender::new(false),
        }
    }
}

#[async_trait]
impl Membership for EmbeddedMembership {
    async fn change(&self) -> Option<AssignmentChange> {
        let mut left = self.left.subscribe();
        let mut partitions = self.partitions.clone();
        let assigned = *self.assigned.lock();
        let left = async { left.wait_for(|left| *left).await.is_ok() };
        let more = async {
            let more = partitions
                .wait_for(|now| *now > assigned)
                .await
                .map(|now| *now);
            match more {
                Ok(now) => now,
                // The topic was deleted: it will not grow.
                Err(_) => std::future::pending().await,
            }
        };
        let now = tokio::select! {
            biased;
            _ = left => return None,
            now = more => now,
        };
        *self.assigned.lock() = now;
        Some(AssignmentChange::Assigned(
            (assigned..now).map(Partition).collect(),
        ))
    }

    async fn confirm(&self) -> Result<(), LogError> {
        if *self.left.borrow() {
            return Err(LogError::Fenced("this host has left the group".to_owned()));
        }
        self.log.store().map(drop)
    }

    fn report(&self, _next: &BTreeMap<TopicPartition, Offset>) {
        // The host's own status is where the lag of an embedded log shows; no tool asks the log.
    }

    async fn leave(&self) {
        self.left.send_replace(true);
    }
}
