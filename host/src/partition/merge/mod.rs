//! The merge stage: copies every record of one partition of an input into the merge topic of a plugin,
//! exactly once, under the key or keys by which it is folded. Called by `manager`, beside the partitions
//! that fold the merge topic.
//!
//! Invariants: copies and the position that they belong to are one transaction, under an id of the input's
//! partition; whoever opens it fences the one before, and goes on from the last position. A record that
//! cannot be copied stops its partition, or goes where `on-error` says.

mod blocked;
mod copy;
mod lost;
mod progress;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;

pub use progress::MergeProgress;

use self::blocked::{gap, merge_replaced, missing, past_end, replaced, stopped_before};
use self::copy::{Copied, CopySource, copy};
use super::publish::Stamp;
use super::step::{InstanceSlot, StepFault};
use super::{Blocked, CodeInUse, Exit, MergedInputs, Phase, Ports, Skips, Stop, journal};
use crate::fail::{self, Point};
use crate::limits;
use crate::log::{
    LogError, NewRecord, PartitionReader, Read, ReadLimits, RecordBatch, TransactionalWriter,
};
use crate::plugin::manifest::{Input, OnGap, Start};
use crate::types::{GenerationId, Offset, Partition, PluginName, TopicName, TopicPartition};

/// What is copied, and where to.
#[derive(Debug, Clone)]
pub struct MergeSpec {
    /// Whose inputs are merged.
    pub plugin: PluginName,
    /// The generation that folds the merge topic, or the first that did; for the stamp of dead letters.
    pub generation: GenerationId,
    /// The input.
    pub input: Input,
    /// Its index in the plugin's inputs.
    pub index: u8,
    /// Which of its partitions.
    pub partition: Partition,
    /// The merge topic.
    pub merge_topic: TopicName,
    /// The plugin's journal.
    pub journal: TopicName,
    /// Partition of the journal that keeps the position: that of the plugin's partition whose owner copies.
    pub journal_partition: Partition,
    /// Under which id copies are written.
    pub transactional_id: String,
    /// Where records go that cannot be copied, if `on-error` says so.
    pub dead_letters: TopicName,
}

impl MergeSpec {
    /// The partition that is copied.
    #[must_use]
    pub fn of(&self) -> TopicPartition {
        TopicPartition {
            topic: self.input.topic.clone(),
            partition: self.partition,
        }
    }
}

/// How the copying of a partition goes.
#[derive(Debug, Clone)]
pub struct MergeStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// Why it is blocked.
    pub blocked: Option<Blocked>,
    /// First offset that is not copied.
    pub next: Offset,
    /// One past the last record of the input, as last seen.
    pub end: Offset,
    /// The last fault of the log; it is tried again.
    pub last_error: Option<String>,
    /// Identity of the input's topic, where the log can tell.
    pub topic_id: Option<[u8; 16]>,
}

/// What the copying of a partition is told.
#[derive(Debug, Clone)]
pub struct MergeControl {
    /// Whose code routes.
    pub code: Arc<CodeInUse>,
    /// Records that are not copied.
    pub skips: Arc<Skips>,
}

/// The copying of a partition, as others see it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MergeHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    spec: MergeSpec,
    status: RwLock<MergeStatus>,
    control: watch::Sender<MergeControl>,
}

impl MergeHandle {
    /// A handle for a partition that is about to be copied.
    #[must_use]
    pub fn new(spec: MergeSpec, control: MergeControl) -> Self {
        let status = MergeStatus {
            phase: Phase::Opening,
            blocked: None,
            next: Offset(0),
            end: Offset(0),
            last_error: None,
            topic_id: None,
        };
        Self(Arc::new(Shared {
            spec,
            status: RwLock::new(status),
            control: watch::Sender::new(control),
        }))
    }

    /// What is copied.
    #[must_use]
    pub fn spec(&self) -> &MergeSpec {
        &self.0.spec
    }

    /// How it goes.
    #[must_use]
    pub fn status(&self) -> MergeStatus {
        self.0.status.read().clone()
    }

    /// Tells it something, if that is news.
    pub fn direct(&self, control: MergeControl) {
        self.0.control.send_if_modified(|now| {
            let is_news =
                now.code.deployment != control.code.deployment || now.skips != control.skips;
            if is_news {
                *now = control;
            }
            is_news
        });
    }

    /// Says that it ended with `error` and is opened again.
    pub fn mark_failed(&self, error: String) {
        self.update(|status| status.last_error = Some(error));
    }

    fn update(&self, change: impl FnOnce(&mut MergeStatus)) {
        change(&mut self.0.status.write());
    }
}

/// Waits until all inputs are merged as far as they reach now, and returns where a partition of the merge
/// topic ends then: whoever has folded up to there has read its backlog.
///
/// # Errors
/// Any [`LogError`].
pub(super) async fn backlog(
    ports: &Ports,
    merge: &TopicPartition,
    inputs: &MergedInputs,
) -> Result<Offset, LogError> {
    let mut ends = Vec::new();
    for topic in &*inputs.topics {
        let Some(found) = ports.log.topic(topic).await? else {
            continue;
        };
        for partition in (0..found.partitions).map(Partition) {
            let of = TopicPartition {
                topic: topic.clone(),
                partition,
            };
            // Its last record, not its end: markers of transactions lie behind it, and are never copied.
            let end = ports.lookups.records_end(&of).await?;
            ends.extend(end.map(|end| (of, end)));
        }
    }
    for (of, end) in &ends {
        inputs.progress.settled(&merge.topic, of, *end).await;
    }
    Ok(ports.log.range(merge).await?.end)
}

const LIMITS: ReadLimits = ReadLimits {
    records_max: limits::BATCH_EVENTS_MAX,
    bytes_max: limits::BATCH_BYTES_MAX,
};

/// Copies a partition until it is stopped. The caller holds a confirmed assignment.
pub async fn run_merge(handle: MergeHandle, ports: Ports, stop: watch::Receiver<Stop>) -> Exit {
    let mut stopping = stop.clone();
    let work = async {
        match Merging::open(handle, ports).await {
            Ok(mut merging) => merging.run(stop).await,
            Err(LogError::Fenced(by)) => Exit::Fenced(by),
            Err(error) => Exit::Failed(error.to_string()),
        }
    };
    tokio::pin!(work);
    tokio::select! {
        exit = &mut work => exit,
        // What is under way may be dropped at any point: the next owner fences it.
        abandoned = stopping.wait_for(|stop| *stop == Stop::Abandon) => match abandoned {
            Ok(_) | Err(_) => Exit::Abandoned,
        },
    }
}

struct Merging {
    handle: MergeHandle,
    ports: Ports,
    /// `None` once it was closed for want of records.
    writer: Option<Box<dyn TransactionalWriter>>,
    reader: Option<Box<dyn PartitionReader>>,
    control: watch::Receiver<MergeControl>,
    slot: Option<InstanceSlot>,
    source: CopySource,
    stamp: Stamp,
    ids: Ids,
    /// First offset that is not copied.
    next: Offset,
    batch: RecordBatch,
    skips: Arc<Skips>,
    retry_pause: Duration,
    /// When the last transaction began.
    written_at: Duration,
}

/// Identities of the topics that are read and written, where the log can tell.
#[derive(Debug, Clone, Copy)]
struct Ids {
    input: Option<[u8; 16]>,
    merge: Option<[u8; 16]>,
}

enum Event {
    Stop,
    Control,
    Idle,
    Read(Result<Read, LogError>),
}

impl Merging {
    /// Fences whoever copied before, and goes on from its last position.
    async fn open(handle: MergeHandle, ports: Ports) -> Result<Self, LogError> {
        let spec = handle.spec();
        let of = spec.of();
        let mut writer = ports.log.transactional(&spec.transactional_id).await?;
        fail::point(Point::MergeFenced);
        let journal = TopicPartition {
            topic: spec.journal.clone(),
            partition: spec.journal_partition,
        };
        let found = ports.lookups.last(&journal, |record| {
            journal::read_merged(record.value?)
                .filter(|it| it.merge_topic == spec.merge_topic && it.of == of && !it.lost)
        });
        let found = found.await?;
        let topic = ports.log.topic(&of.topic).await?;
        let merge = ports.log.topic(&spec.merge_topic).await?;
        let merge = merge.ok_or_else(|| LogError::UnknownTopic(spec.merge_topic.clone()))?;
        let mut blocked = None;
        let differ = |then: Option<[u8; 16]>, now| then.zip(now).is_some_and(|(a, b)| a != b);
        let (next, ids) = match (&found, &topic) {
            (Some(found), topic) => {
                let ids = Ids {
                    input: found.topic_id,
                    merge: found.merge_topic_id,
                };
                if differ(ids.merge, merge.id) {
                    blocked = Some(merge_replaced(spec));
                } else if topic.is_none() {
                    blocked = Some(missing(spec));
                } else if differ(ids.input, topic.as_ref().and_then(|topic| topic.id)) {
                    blocked = Some(replaced(spec));
                }
                (found.next, ids)
            }
            (None, None) => return Err(LogError::UnknownTopic(of.topic)),
            (None, Some(topic)) => {
                let range = ports.log.range(&of).await?;
                let start = match spec.input.start {
                    Start::Earliest => range.start,
                    Start::Latest => range.end,
                    Start::At(timestamp_ms) => ports.log.offset_at(&of, timestamp_ms).await?,
                };
                let ids = Ids {
                    input: topic.id,
                    merge: merge.id,
                };
                blocked = lost::lost(&ports, spec).await?;
                // Resolved once: a restart must not find another start.
                if blocked.is_none() {
                    let merged = merged_record(spec, ids, start, false);
                    writer.commit(vec![merged]).await?;
                }
                (start, ids)
            }
        };
        let mut control = handle.0.control.subscribe();
        control.mark_changed();
        let code = control.borrow().code.clone();
        let mut merging = Self {
            source: CopySource {
                of,
                input: spec.index,
                framing: spec.input.framing,
                headers: false,
                on_error: code.manifest().on_error,
                record_bytes_max: ports.log.record_bytes_max(&spec.merge_topic).await,
                letter_bytes_max: ports.log.record_bytes_max(&spec.dead_letters).await,
            },
            stamp: Stamp::of(&spec.plugin, spec.generation, &spec.of()),
            writer: Some(writer),
            reader: None,
            slot: None,
            control,
            ids,
            next,
            batch: RecordBatch::new(),
            skips: Arc::default(),
            retry_pause: limits::RETRY_PAUSE_MIN,
            written_at: ports.clock.elapsed(),
            handle,
            ports,
        };
        merging.handle.update(|status| {
            status.phase = Phase::Replaying;
            status.next = next;
            status.end = next;
            status.topic_id = ids.input;
            status.last_error = None;
        });
        if let Some(blocked) = blocked {
            merging.stop(blocked).await?;
        }
        Ok(merging)
    }

    async fn run(&mut self, mut stop: watch::Receiver<Stop>) -> Exit {
        loop {
            let is_at_work = !self.batch.is_empty() || self.reader.is_none();
            if self.writer.is_none() && is_at_work && !self.is_still() {
                return Exit::Idle;
            }
            if !self.is_still() && !self.batch.is_empty() {
                if let Err(error) = self.copy().await {
                    return match error {
                        LogError::Fenced(by) => Exit::Fenced(by),
                        error => Exit::Failed(error.to_string()),
                    };
                }
                continue;
            }
            if !self.is_still()
                && self.reader.is_none()
                && let Err(error) = self.open_reader().await
            {
                return Exit::Failed(error.to_string());
            }
            match self.next_event(&mut stop).await {
                Event::Stop => return Exit::Stopped,
                Event::Control => self.obey(),
                // Who could have written since is only known to whoever opens it again.
                Event::Idle => {
                    tracing::debug!(of = %self.source.of, "its writer is idle, and closed");
                    self.writer = None;
                }
                Event::Read(Ok(Read::Records)) => {}
                Event::Read(Ok(Read::EndOfPartition)) => self.reached_end(),
                Event::Read(Err(error)) if error.is_transient() => {
                    self.pause(&error.to_string()).await
                }
                // Opening again looks at the topic, and says what became of it.
                Event::Read(Err(error)) => return Exit::Failed(error.to_string()),
            }
        }
    }

    async fn next_event(&mut self, stop: &mut watch::Receiver<Stop>) -> Event {
        let can_read = !self.is_still();
        let idle_at = self.written_at + self.ports.writer_idle_max;
        let idle_in = idle_at.saturating_sub(self.ports.clock.elapsed());
        let has_writer = self.writer.is_some();
        let Self {
            reader,
            batch,
            control,
            ..
        } = self;
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop != Stop::No) => Event::Stop,
            Ok(()) = control.changed() => Event::Control,
            () = tokio::time::sleep(idle_in), if has_writer => Event::Idle,
            read = async { reader.as_mut().expect("guarded").read(batch, LIMITS).await },
                if can_read && reader.is_some() => Event::Read(read),
        }
    }

    /// Whether nothing is copied for now.
    fn is_still(&self) -> bool {
        self.handle.0.status.read().phase == Phase::Blocked
    }

    fn obey(&mut self) {
        let MergeControl { code, skips } = self.control.borrow_and_update().clone();
        let capabilities = code.code.inspection().capabilities;
        self.slot = capabilities
            .route
            .then(|| InstanceSlot::new(code.code.clone()));
        let inputs = &code.manifest().inputs;
        let input = inputs.get(usize::from(self.source.input));
        self.source.framing = input.map(|it| it.framing).unwrap_or_default();
        self.source.headers = code.manifest().headers;
        self.source.on_error = code.manifest().on_error;
        self.skips = skips;
        let is_at_event = |blocked: &mut Blocked| blocked.is_about_event();
        // Other code, or a skip, may get it going; if not, it stops again.
        if self
            .handle
            .0
            .status
            .write()
            .blocked
            .take_if(is_at_event)
            .is_some()
        {
            self.batch.clear();
            self.reader = None;
            self.handle.update(|status| status.phase = Phase::Replaying);
            self.ports.changed.notify_one();
        }
    }

    async fn open_reader(&mut self) -> Result<(), LogError> {
        let of = self.source.of.clone();
        let range = self.ports.log.range(&of).await?;
        if self.next > range.end {
            let blocked = past_end(self.handle.spec(), self.next, range.end);
            return self.stop(blocked).await;
        }
        if self.next < range.start {
            if self.handle.spec().input.on_gap == OnGap::Stop {
                let blocked = gap(self.handle.spec(), self.next, range.start);
                return self.stop(blocked).await;
            }
            tracing::warn!(%of, from = %self.next, to = %range.start,
                "records were removed before they were copied; going on behind them");
            self.next = range.start;
        }
        self.reader = Some(self.ports.readers.open(&of, self.next).await?);
        self.handle
            .update(|status| status.end = range.end.max(status.next));
        Ok(())
    }

    /// Copies what is in the batch, and what has to be set aside, in one transaction.
    async fn copy(&mut self) -> Result<(), LogError> {
        let last = self.batch.get(self.batch.len() - 1).offset;
        let (skips, id) = (&self.skips, self.ids.input);
        self.batch.retain(|record| !skips.covers(record.offset, id));
        let copied = match copy(self.slot.as_mut(), &self.batch, &self.source) {
            Ok(copied) => copied,
            Err(fault @ (StepFault::Interrupted(_) | StepFault::Instantiate(_))) => {
                self.pause(&fault.to_string()).await;
                return Ok(());
            }
        };
        let Copied {
            copies,
            done,
            set_aside,
            poison,
        } = copied;
        let spec = self.handle.spec();
        let store = super::StoreId {
            plugin: spec.plugin.clone(),
            generation: spec.generation,
            partition: spec.journal_partition,
        };
        let is_whole = poison.is_none();
        let next = match is_whole {
            true => last.next(),
            false if done > 0 => self.batch.get(done - 1).offset.next(),
            false => self.next,
        };
        // That it stands still is worth a word: others wait for it.
        if next > self.next || !is_whole {
            let mut records: Vec<(TopicName, NewRecord)> = copies
                .into_iter()
                .map(|copy| (spec.merge_topic.clone(), copy))
                .collect();
            for aside in &set_aside {
                let letter = self.stamp.letter(&self.batch.get(aside.index), aside);
                records.push((spec.dead_letters.clone(), letter));
                self.ports.metrics.rejected(&store, &aside.code);
            }
            records.push(merged_record(spec, self.ids, next, !is_whole));
            self.keep_pace().await;
            fail::point(Point::MergeBegins);
            self.write(records).await?;
            fail::point(Point::MergeWritten);
            self.next = next;
            self.retry_pause = limits::RETRY_PAUSE_MIN;
            self.handle.update(|status| {
                status.next = next;
                status.end = status.end.max(next);
                status.last_error = None;
            });
        }
        if let Some(poison) = poison {
            self.ports.metrics.rejected(&store, &poison.code);
            let at = self.batch.get(poison.index).offset;
            self.block(stopped_before(
                self.handle.spec(),
                at,
                poison.code,
                &poison.reason,
            ));
            self.slot = self.slot.take().map(|mut slot| {
                slot.clear();
                slot
            });
        }
        self.batch.clear();
        Ok(())
    }

    async fn write(&mut self, records: Vec<(TopicName, NewRecord)>) -> Result<(), LogError> {
        let writer = self
            .writer
            .as_mut()
            .expect("it is opened again without one");
        writer.commit(records).await.map(drop)
    }

    /// A transaction has a price whatever is in it: records that trickle in share some.
    async fn keep_pace(&mut self) {
        let now = self.ports.clock.elapsed();
        let due = self.written_at + limits::MERGE_INTERVAL_MIN;
        tokio::time::sleep(due.saturating_sub(now)).await;
        self.written_at = self.ports.clock.elapsed();
    }

    fn reached_end(&self) {
        self.handle.update(|status| {
            status.end = status.next;
            if status.phase == Phase::Replaying {
                status.phase = Phase::Live;
            }
        });
    }

    /// Stands still, and says so to those who wait for what is merged.
    async fn stop(&mut self, blocked: Blocked) -> Result<(), LogError> {
        let is_lost = blocked.code == lost::CODE;
        self.block(blocked);
        let merged = merged(self.handle.spec(), self.ids, self.next, true);
        let merged = journal::Merged {
            lost: is_lost,
            ..merged
        };
        let stopped = journal::merged_record(self.handle.spec().journal_partition, &merged);
        let journal = self.handle.spec().journal.clone();
        self.write(vec![(journal, stopped)]).await
    }

    fn block(&self, blocked: Blocked) {
        let of = &self.source.of;
        tracing::error!(plugin = %self.handle.spec().plugin, %of, code = blocked.code, "{}", blocked.detail);
        self.handle.update(|status| {
            status.phase = Phase::Blocked;
            status.blocked = Some(blocked);
        });
        self.ports.changed.notify_one();
    }

    async fn pause(&mut self, why: &str) {
        tracing::warn!(of = %self.source.of, "{why}; trying again");
        self.handle
            .update(|status| status.last_error = Some(why.to_owned()));
        tokio::time::sleep(self.retry_pause).await;
        self.retry_pause = (self.retry_pause * 2).min(limits::RETRY_PAUSE_MAX);
    }
}

fn merged(spec: &MergeSpec, ids: Ids, next: Offset, stopped: bool) -> journal::Merged {
    journal::Merged {
        merge_topic: spec.merge_topic.clone(),
        of: spec.of(),
        topic_id: ids.input,
        merge_topic_id: ids.merge,
        next,
        stopped,
        lost: false,
    }
}

fn merged_record(
    spec: &MergeSpec,
    ids: Ids,
    next: Offset,
    stopped: bool,
) -> (TopicName, NewRecord) {
    let merged = merged(spec, ids, next, stopped);
    let record = journal::merged_record(spec.journal_partition, &merged);
    (spec.journal.clone(), record)
}
