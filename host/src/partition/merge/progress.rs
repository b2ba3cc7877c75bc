//! How far the inputs of a plugin are merged, wherever in the cluster that is done: follows the positions in
//! the plugin's journal. Asked by partitions that fold a merge topic, and by queries that wait for a record.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::super::journal;
use crate::limits;
use crate::log::{Log, LogError, Read, ReadLimits, ReaderSet, RecordBatch};
use crate::types::{Offset, Partition, TopicName, TopicPartition};

/// Merge topic and partition of an input → first offset that is not copied, and whether it stands still there.
type Positions = BTreeMap<(TopicName, TopicPartition), (Offset, bool)>;

/// How far inputs are merged. Cheap to clone; it follows as long as a clone is there.
#[derive(Debug, Clone)]
pub struct MergeProgress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    positions: RwLock<Positions>,
    changes: watch::Sender<u64>,
    task: OnceLock<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl MergeProgress {
    /// Follows `partitions` partitions of a journal.
    #[must_use]
    pub fn follow(log: &Arc<dyn Log>, journal: &TopicName, partitions: u32) -> Self {
        let this = Self(Arc::new(Inner {
            positions: RwLock::default(),
            changes: watch::Sender::new(0),
            task: OnceLock::new(),
        }));
        let inner = Arc::downgrade(&this.0);
        let (log, journal) = (log.clone(), journal.clone());
        let task = tokio::spawn(async move {
            let mut pause = limits::RETRY_PAUSE_MIN;
            loop {
                if let Err(error) = follow_all(&*log, &journal, partitions, &inner).await {
                    tracing::debug!(%journal, "how far inputs are merged cannot be followed: {error}");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(limits::RETRY_PAUSE_MAX);
            }
        });
        let _ = this.0.task.set(task.abort_handle());
        this
    }

    /// First offset of an input's partition that is not in a merge topic; `None` = nothing of it is known.
    #[must_use]
    pub fn of(&self, merge_topic: &TopicName, of: &TopicPartition) -> Option<Offset> {
        self.position(merge_topic, of).map(|(next, _)| next)
    }

    fn position(&self, merge_topic: &TopicName, of: &TopicPartition) -> Option<(Offset, bool)> {
        let positions = self.0.positions.read();
        positions.get(&(merge_topic.clone(), of.clone())).copied()
    }

    /// Waits until the partition is merged up to, and not including, `next`, or cannot be merged further.
    pub async fn settled(&self, merge_topic: &TopicName, of: &TopicPartition, next: Offset) {
        let mut changes = self.0.changes.subscribe();
        let is_settled = |(merged, stopped)| merged >= next || stopped;
        while !self.position(merge_topic, of).is_some_and(is_settled) {
            // Whoever sends is this very value.
            let _ = changes.changed().await;
        }
    }

    /// Waits until the partition is merged up to, and not including, `next`.
    pub async fn reached(&self, merge_topic: &TopicName, of: &TopicPartition, next: Offset) {
        let mut changes = self.0.changes.subscribe();
        while self.of(merge_topic, of).is_none_or(|merged| merged < next) {
            // Whoever sends is this very value.
            let _ = changes.changed().await;
        }
    }

    /// The same, within a bound; `false` if it takes longer.
    pub async fn wait(
        &self,
        merge_topic: &TopicName,
        of: &TopicPartition,
        next: Offset,
        within: Duration,
    ) -> bool {
        tokio::time::timeout(within, self.reached(merge_topic, of, next))
            .await
            .is_ok()
    }
}

impl Inner {
    fn note(&self, merged: journal::Merged) {
        let key = (merged.merge_topic, merged.of);
        let position = (merged.next, merged.stopped);
        self.positions.write().insert(key, position);
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Reads all partitions of a journal from their beginning on, until one cannot be read.
async fn follow_all(
    log: &dyn Log,
    journal: &TopicName,
    partitions: u32,
    inner: &Weak<Inner>,
) -> Result<(), LogError> {
    let readers: Arc<dyn ReaderSet> = Arc::from(log.reader_set(&format!("{journal}.merged"))?);
    let mut followers = JoinSet::new();
    for partition in (0..partitions).map(Partition) {
        let of = TopicPartition {
            topic: journal.clone(),
            partition,
        };
        let start = log.range(&of).await?.start;
        let (readers, inner) = (readers.clone(), inner.clone());
        followers.spawn(async move { follow_one(&*readers, &of, start, &inner).await });
    }
    match followers.join_next().await {
        Some(Ok(ended)) => ended,
        _ => Ok(()),
    }
}

async fn follow_one(
    readers: &dyn ReaderSet,
    of: &TopicPartition,
    from: Offset,
    inner: &Weak<Inner>,
) -> Result<(), LogError> {
    const LIMITS: ReadLimits = ReadLimits {
        records_max: limits::BATCH_EVENTS_MAX,
        bytes_max: limits::BATCH_BYTES_MAX,
    };
    let mut reader = readers.open(of, from).await?;
    let mut batch = RecordBatch::new();
    loop {
        batch.clear();
        if reader.read(&mut batch, LIMITS).await? == Read::EndOfPartition {
            continue;
        }
        let Some(inner) = inner.upgrade() else {
            return Ok(());
        };
        let values = batch.iter().filter_map(|record| record.value);
        values
            .filter_map(journal::read_merged)
            .for_each(|merged| inner.note(merged));
    }
}
