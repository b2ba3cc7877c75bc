//! Looks whether somebody else writes to the topic that a plugin owns, past the host. Part of `run`.
//!
//! Invariant: it costs little and decides nothing. Of the newest records of each partition only so many are read
//! that a topic which is written fast is seen in samples; what is found is told, and nobody stops because of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::limits;
use crate::log::{LogError, OffsetRange};
use crate::manager::Context;
use crate::manager::plugin::Plugin;
use crate::partition::{Lookups, is_stamped};
use crate::state::StoreId;
use crate::types::{Offset, Partition, RecordPosition, TopicPartition};

/// Up to where the owned topic was looked at, and the look under way.
#[derive(Default)]
pub(super) struct Audit {
    seen: Arc<Mutex<BTreeMap<TopicPartition, Offset>>>,
    task: Option<JoinHandle<()>>,
}

impl Audit {
    /// Looks at what is new in the partitions that fall to the owner of `assigned`, unless the last look still
    /// goes on.
    pub(super) fn look(
        &mut self,
        plugin: &Arc<Plugin>,
        context: &Context,
        lookups: &Lookups,
        assigned: &BTreeSet<Partition>,
    ) {
        let is_busy = self.task.as_ref().is_some_and(|task| !task.is_finished());
        let has_output = plugin.deployment().output.is_some();
        if is_busy || !has_output || assigned.is_empty() {
            return;
        }
        let look = Look {
            plugin: plugin.clone(),
            context: context.clone(),
            lookups: lookups.clone(),
            assigned: assigned.clone(),
            seen: self.seen.clone(),
        };
        self.task = Some(tokio::spawn(async move {
            if let Err(error) = look.all().await {
                tracing::debug!(plugin = %look.plugin.name(), "its owned topic cannot be looked at: {error}");
            }
        }));
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Look {
    plugin: Arc<Plugin>,
    context: Context,
    lookups: Lookups,
    assigned: BTreeSet<Partition>,
    seen: Arc<Mutex<BTreeMap<TopicPartition, Offset>>>,
}

impl Look {
    async fn all(&self) -> Result<(), LogError> {
        let deployment = self.plugin.deployment();
        let Some(output) = &deployment.output else {
            return Ok(());
        };
        let Some(topic) = self.context.log.topic(&output.topic).await? else {
            return Ok(());
        };
        for partition in (0..topic.partitions).map(Partition) {
            let owner = Partition(partition.0 % deployment.partitions);
            if self.assigned.contains(&owner) {
                let of = TopicPartition {
                    topic: output.topic.clone(),
                    partition,
                };
                self.one(&of, owner).await?;
            }
        }
        Ok(())
    }

    async fn one(&self, of: &TopicPartition, owner: Partition) -> Result<(), LogError> {
        let range = self.context.log.range(of).await?;
        let before = self.seen.lock().insert(of.clone(), range.end);
        // What lay there when the host came may be from before the plugin owned it.
        let Some(before) = before.filter(|before| *before < range.end) else {
            return Ok(());
        };
        let newest = range.end.0.saturating_sub(limits::FOREIGN_LOOK_RECORDS_MAX);
        let start = before.max(Offset(newest)).max(range.start);
        let (mut records, mut last) = (0, None);
        let new: OffsetRange = start..range.end;
        self.lookups
            .each(of, new, |record| {
                if !is_stamped(record, self.plugin.name()) {
                    records += 1;
                    last = Some(record.offset);
                }
            })
            .await?;
        let Some(offset) = last else {
            return Ok(());
        };
        let at = RecordPosition {
            topic: of.topic.clone(),
            partition: of.partition,
            offset,
        };
        tracing::warn!(plugin = %self.plugin.name(), records, last = %at,
            "somebody else writes to the topic that it owns: `foldhost plugin requirements` prints the rights \
             that keep others out");
        let store = StoreId {
            plugin: self.plugin.name().clone(),
            generation: self.plugin.deployment().generation,
            partition: owner,
        };
        self.context.metrics.foreign(&store, records);
        self.plugin.found_foreign(records, at);
        Ok(())
    }
}
