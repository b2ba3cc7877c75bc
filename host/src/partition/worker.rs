//! The worker of one partition: open → replay → live, batch by batch, with commits beside it.
//!
//! One `select!`; effects on the world only here. It ends when told to, when a later owner has
//! fenced it, or when it cannot go on without opening again; a partition that is *blocked* does not
//! end: it goes on answering until somebody changes something.

mod directed;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashSet;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::assemble::Source;
use super::changes::Place;
use super::commit::{InFlight, Schedule, Upkeep, Written, jitter};
use super::open::{self, Opened};
use super::publish::{Confirmed, Limit, Publisher};
use super::rate::Rate;
use super::step::{InstanceSlot, Poison, States, StepFault, Stepped, step};
use super::table::StateTable;
use super::{Blocked, CodeInUse, Control, PartitionHandle, Phase, Ports, Skips};
use crate::limits;
use crate::log::{LogError, PartitionReader, Read, ReadLimits, RecordBatch};
use crate::plugin::manifest::OnGap;
use crate::state::{Checkpoint, Commit, PartitionStore, StateError};
use crate::types::{Offset, RecordPosition};

/// How a worker is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It goes on.
    No,
    /// Commit, close, end.
    Clean,
    /// The assignment is lost: end at once, commit nothing.
    Abandon,
}

/// Why a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It was told to, and committed.
    Stopped,
    /// It was told to, and committed nothing; its states still answer.
    Abandoned,
    /// A later owner has the store.
    Fenced(String),
    /// It must be opened again.
    Failed(String),
}

const LIMITS: ReadLimits = ReadLimits {
    records_max: limits::BATCH_EVENTS_MAX,
    bytes_max: limits::BATCH_BYTES_MAX,
};
/// How often the end of the log is asked for while catching up.
const END_REFRESH: Duration = Duration::from_secs(1);

/// Opens a partition and folds it until it is stopped.
pub async fn run(handle: PartitionHandle, ports: Ports, mut stop: watch::Receiver<Stop>) -> Exit {
    let opened = tokio::select! {
        biased;
        stop = stopped(&mut stop) => {
            return if stop == Stop::Clean { Exit::Stopped } else { Exit::Abandoned };
        }
        opened = open::open(&handle, &ports) => match opened {
            Ok(opened) => opened,
            Err(open::OpenError::State(StateError::Fenced(by))) => return Exit::Fenced(by),
            Err(error) => return Exit::Failed(error.to_string()),
        },
    };
    let mut worker = Worker::new(handle, ports, opened);
    worker.run(stop).await
}

async fn stopped(stop: &mut watch::Receiver<Stop>) -> Stop {
    match stop.wait_for(|stop| *stop != Stop::No).await {
        Ok(stop) => *stop,
        // Whoever could stop it is gone: the host is going down without a word.
        Err(_) => Stop::Abandon,
    }
}

struct Worker {
    handle: PartitionHandle,
    ports: Ports,
    store: Arc<dyn PartitionStore>,
    reader: Option<Box<dyn PartitionReader>>,
    source: Source,
    slot: InstanceSlot,
    /// Position of what is folded, as the next commit will say.
    checkpoint: Checkpoint,
    /// Position that is committed.
    committed: Offset,
    /// When the last event was folded.
    folded_at: Duration,
    live_at: Offset,
    batch: RecordBatch,
    schedule: Schedule,
    commit: Option<InFlight>,
    /// Writes to the log what it makes; `None` = it makes nothing, or withholds it.
    publisher: Option<Publisher>,
    /// States as they were when the transaction under way began: committed once it is confirmed.
    held: Option<Arc<Commit>>,
    /// How far it may fold, beside a generation that publishes.
    limit: Option<Limit>,
    /// Up to here, events are folded again by the code that folded them first.
    refold_until: Offset,
    /// Ends with where it is live; until then nothing is, however far it has folded.
    backlog: Option<Backlog>,
    upkeep: Upkeep,
    /// When what failed is tried again.
    retry_at: Option<Duration>,
    /// How long the last pause was; the shortest after a success.
    retry_pause: Duration,
    end_seen_at: Duration,
    control: watch::Receiver<Control>,
    /// Code that takes over with the next commit; nothing is folded until then.
    successor: Option<Arc<CodeInUse>>,
    paused: bool,
    frozen: bool,
    skips: Arc<Skips>,
    rate: Rate,
    /// Whether somebody waits for a commit, or nothing will follow soon.
    is_commit_wanted: bool,
}

enum Event {
    Stop(Stop),
    Control,
    Committed(Result<Written, StateError>),
    Published(Result<Confirmed, LogError>),
    PublishDue,
    LimitMoved(Result<(), LogError>),
    BacklogMerged(Result<Offset, LogError>),
    Block,
    CommitWanted,
    CommitDue,
    Retry,
    Refresh,
    Opened(Result<Box<dyn PartitionReader>, LogError>),
    Read(Result<Read, LogError>),
}

impl Worker {
    fn new(handle: PartitionHandle, ports: Ports, opened: Opened) -> Self {
        let shared = &handle.shared;
        *shared.table.write() = StateTable::new(opened.empty, ports.budget.clone());
        assert!(
            shared.store.set(opened.store.clone()).is_ok(),
            "a handle is opened once"
        );
        let (reader, blocked) = match opened.reader {
            Ok(reader) => (Some(reader), None),
            Err(blocked) => (None, Some(blocked)),
        };
        let now = ports.clock.elapsed();
        let code = opened.code;
        *shared.in_use.write() = code.clone();
        let mut control = shared.control.subscribe();
        control.mark_changed();
        let mut worker = Self {
            slot: InstanceSlot::new(code.code.clone()),
            schedule: Schedule::new(code.state_interval(), now),
            control,
            successor: None,
            paused: false,
            frozen: false,
            skips: Arc::default(),
            rate: Rate::new(now),
            is_commit_wanted: false,
            store: opened.store,
            reader,
            source: opened.source,
            committed: opened.checkpoint.next,
            folded_at: now,
            checkpoint: opened.checkpoint,
            live_at: opened.live_at,
            batch: RecordBatch::new(),
            commit: None,
            publisher: opened.publisher,
            held: None,
            limit: opened.limit,
            refold_until: opened.refold_until,
            backlog: opened.backlog.map(Backlog),
            upkeep: Upkeep::default(),
            retry_at: None,
            retry_pause: limits::RETRY_PAUSE_MIN,
            end_seen_at: now,
            handle,
            ports,
        };
        worker.handle.update(|status| {
            status.phase = Phase::Replaying;
            status.next = worker.checkpoint.next;
            status.committed = worker.committed;
            status.start = worker.checkpoint.start;
            status.history_complete = worker.checkpoint.history_complete;
            status.end = worker.live_at;
            status.lag_events = worker.live_at.0.saturating_sub(worker.checkpoint.next.0);
            status.last_error = None;
            status.deployment = Some(worker.checkpoint.deployment);
            status.folds_from = worker.checkpoint.folds_from;
            status.gaps = worker.checkpoint.gaps;
            status.topic_id = worker.checkpoint.topic_id;
        });
        worker
            .handle
            .shared
            .committed
            .send_replace(worker.committed);
        let (store, gaps) = (&worker.handle.spec().store, worker.checkpoint.gaps);
        worker.ports.metrics.degraded(store, false);
        worker.ports.metrics.gaps(store, gaps);
        if let Some(blocked) = blocked {
            worker.set_blocked(blocked);
        }
        worker.publish_position();
        // What was said while it was being opened counts from the first batch on.
        worker.obey();
        worker
    }

    async fn run(&mut self, mut stop: watch::Receiver<Stop>) -> Exit {
        loop {
            if self.may_fold() && self.retry_at.is_none() && !self.publishes_too_slowly() {
                match self.allowed() {
                    0 if self.batch.is_empty() => {}
                    0 => self.reached_limit(),
                    allowed => {
                        self.fold(allowed).await;
                        // A worker that always has more to read lets its neighbours fold too.
                        tokio::task::yield_now().await;
                    }
                }
            }
            match self.next_event(&mut stop).await {
                Event::Stop(Stop::Clean) => return self.finish().await,
                Event::Stop(_) => return Exit::Abandoned,
                Event::Control => self.obey(),
                Event::Committed(Ok(written)) => self.commit_ended(&written),
                Event::Committed(Err(StateError::Fenced(by))) => return Exit::Fenced(by),
                Event::Committed(Err(error)) => return Exit::Failed(error.to_string()),
                Event::Published(Ok(confirmed)) => self.published(confirmed),
                Event::Published(Err(LogError::Fenced(by))) => return Exit::Fenced(by),
                Event::Published(Err(error)) => return Exit::Failed(error.to_string()),
                Event::PublishDue => self.publish(),
                Event::LimitMoved(Ok(())) => {}
                Event::LimitMoved(Err(error)) => {
                    if !error.is_transient() {
                        return Exit::Failed(error.to_string());
                    }
                    self.try_again(&error.to_string());
                }
                Event::BacklogMerged(Ok(live_at)) => self.backlog_merged(live_at),
                Event::BacklogMerged(Err(error)) => return Exit::Failed(error.to_string()),
                Event::Block => self.block_requested(),
                Event::CommitWanted => self.is_commit_wanted = true,
                Event::CommitDue => self.commit(),
                Event::Retry => self.retry_at = None,
                Event::Refresh => self.refresh_end().await,
                Event::Opened(Ok(reader)) => self.reader = Some(reader),
                Event::Read(Ok(Read::Records)) => self.refresh_end().await,
                Event::Read(Ok(Read::EndOfPartition)) => self.reached_end(),
                Event::Opened(Err(error)) | Event::Read(Err(error)) => {
                    if let Some(exit) = self.read_failed(error) {
                        return exit;
                    }
                }
            }
        }
    }

    async fn next_event(&mut self, stop: &mut watch::Receiver<Stop>) -> Event {
        let now = self.ports.clock.elapsed();
        let may_fold = self.may_fold() && self.retry_at.is_none() && !self.is_blocked();
        let can_read = may_fold && self.batch.is_empty() && !self.is_full();
        let stands_still = self.paused || self.frozen || self.is_blocked();
        let source = self.handle.spec().source();
        let from = self.checkpoint.next;
        let commit_due = self.commit_due_in(now);
        let publish_due = self.publish_due_in(now);
        let publishing = self.publisher.as_ref().is_some_and(Publisher::is_busy);
        let at_limit = self.limit.is_some() && !self.batch.is_empty() && self.allowed() == 0;
        let retry_due = self.retry_at.map(|at| at.saturating_sub(now));
        let Self {
            reader,
            batch,
            commit,
            handle,
            control,
            ports,
            publisher,
            limit,
            backlog,
            ..
        } = self;
        tokio::select! {
            biased;
            stop = stopped(stop) => Event::Stop(stop),
            // Whoever directs it holds the handle, as the worker itself does: it is never gone.
            Ok(()) = control.changed() => Event::Control,
            ended = async { commit.as_mut().expect("guarded").ended().await }, if commit.is_some() => {
                Event::Committed(ended)
            }
            ended = async { publisher.as_mut().expect("guarded").ended().await }, if publishing => {
                Event::Published(ended)
            }
            merged = async { backlog.as_mut().expect("guarded").ended().await }, if backlog.is_some() => {
                Event::BacklogMerged(merged)
            }
            () = handle.shared.block_requested.notified() => Event::Block,
            () = handle.shared.commit_requested.notified() => Event::CommitWanted,
            () = tokio::time::sleep(commit_due.unwrap_or_default()), if commit_due.is_some() => {
                Event::CommitDue
            }
            () = tokio::time::sleep(publish_due.unwrap_or_default()), if publish_due.is_some() => {
                Event::PublishDue
            }
            () = tokio::time::sleep(retry_due.unwrap_or_default()), if retry_due.is_some() => {
                Event::Retry
            }
            moved = async { limit.as_mut().expect("guarded").moved().await },
                if at_limit && retry_due.is_none() => Event::LimitMoved(moved),
            () = tokio::time::sleep(END_REFRESH), if stands_still => Event::Refresh,
            opened = ports.readers.open(&source, from), if may_fold && reader.is_none() => {
                Event::Opened(opened)
            }
            read = async { reader.as_mut().expect("guarded").read(batch, LIMITS).await },
                if can_read && reader.is_some() => Event::Read(read),
        }
    }

    /// How many records of the batch may be folded: a generation that is built beside another does not get
    /// ahead of it.
    fn allowed(&self) -> usize {
        match &self.limit {
            None => self.batch.len(),
            Some(limit) => {
                let allowed = self.batch.iter();
                let allowed = allowed.take_while(|record| record.offset < limit.until());
                allowed.count()
            }
        }
    }

    /// Folds the first records of the batch: loads states, steps, applies the changes to memory.
    async fn fold(&mut self, allowed: usize) {
        if allowed < self.batch.len() {
            // What lies behind stays in the batch; the part goes the way of a whole one.
            let rest = self.batch.part(allowed..self.batch.len());
            self.batch = self.batch.part(0..allowed);
            self.fold_batch().await;
            return self.put_back(rest);
        }
        self.fold_batch().await;
    }

    /// Puts records back behind what is left of a batch, unless it was given up.
    fn put_back(&mut self, rest: RecordBatch) {
        if self.reader.is_none() || self.is_blocked() {
            return;
        }
        for record in rest.iter() {
            self.batch.push(
                record.offset,
                record.timestamp_ms,
                record.key,
                record.value,
                record.headers(),
            );
        }
    }

    async fn fold_batch(&mut self) {
        let behind = self.batch.get(self.batch.len() - 1).offset.next();
        self.drop_skipped();
        if self.batch.is_empty() {
            return self.passed(behind);
        }
        let in_use = self.handle.shared.table.use_for_batch();
        let ready = match self.load_states().await {
            Ok(ready) => ready,
            Err(error) => return self.try_again(&error.to_string()),
        };
        let part = (ready < self.batch.len()).then(|| self.batch.part(0..ready));
        let began = self.ports.clock.elapsed();
        let stepped = {
            let table = self.handle.shared.table.read();
            let batch = part.as_ref().unwrap_or(&self.batch);
            step(&mut self.slot, &Loaded(&table), batch, &self.source)
        };
        let stepped = match stepped {
            Ok(stepped) => stepped,
            Err(fault @ (StepFault::Interrupted(_) | StepFault::Instantiate(_))) => {
                return self.try_again(&fault.to_string());
            }
        };
        let took = self.ports.clock.elapsed().saturating_sub(began);
        let folded = stepped.folded;
        self.apply(stepped, took);
        drop(in_use);
        if part.is_some() && folded == ready {
            self.batch = self.batch.part(ready..self.batch.len());
            return;
        }
        let is_whole = folded == self.batch.len();
        self.batch.clear();
        if is_whole {
            self.passed(behind);
        }
    }

    fn apply(&mut self, stepped: Stepped, took: Duration) {
        let Stepped {
            changes,
            emitted,
            folded,
            set_aside,
            poison,
            fuel,
        } = stepped;
        let (state_bytes, largest) = {
            let mut table = self.handle.shared.table.write();
            table.change_all(&changes);
            (table.bytes(), table.largest_state_bytes())
        };
        if folded > 0 {
            let last = self.batch.get(folded - 1);
            assert!(
                last.offset >= self.checkpoint.next,
                "an event is folded once"
            );
            self.checkpoint.next = last.offset.next();
            self.checkpoint.last = Some(open::identity(&last));
            let delay_ms = self.ports.clock.now_ms().saturating_sub(last.timestamp_ms);
            let metrics = &self.ports.metrics;
            metrics.folded(
                &self.handle.spec().store,
                folded as u64,
                took,
                fuel,
                delay_ms,
            );
            metrics.state_bytes(&self.handle.spec().store, state_bytes, largest);
            let now = self.ports.clock.elapsed();
            self.folded_at = now;
            if let Some(rate) = self.rate.count(folded as u64, now) {
                self.handle.update(|status| status.rate_per_second = rate);
            }
            for aside in &set_aside {
                metrics.rejected(&self.handle.spec().store, &aside.code);
            }
            if let Some(publisher) = &mut self.publisher {
                publisher.take(&self.batch, emitted, &set_aside, now);
            }
        }
        self.retry_pause = limits::RETRY_PAUSE_MIN;
        self.publish_position();
        if let Some(poison) = poison {
            self.stop_before(poison);
        }
    }

    /// Reads the states of the batch's keys that are not in memory, as far as they fit into a call.
    /// Returns for how many records they are there.
    async fn load_states(&mut self) -> Result<usize, StateError> {
        let missing = self.missing_keys();
        let hits = self.batch.len().saturating_sub(missing.len());
        self.ports.metrics.state_cache(
            &self.handle.spec().store,
            hits as u64,
            missing.len() as u64,
        );
        if missing.is_empty() {
            return Ok(self.batch.len());
        }
        let loaded = self
            .store
            .get_many(&missing, limits::BATCH_STATE_BYTES_MAX)
            .await?;
        let first_left = missing.get(loaded.len());
        let ready = first_left.and_then(|left| {
            let mut keys = self.batch.iter().map(|record| record.key);
            keys.position(|key| key == Some(left))
        });
        let mut table = self.handle.shared.table.write();
        table.load_all(missing.iter().zip(loaded));
        Ok(ready.unwrap_or(self.batch.len()))
    }

    /// Keys whose states are not in memory, in the order in which the batch needs them.
    fn missing_keys(&self) -> Vec<Bytes> {
        let table = self.handle.shared.table.read();
        if table.is_complete() {
            return Vec::new();
        }
        let mut seen = HashSet::new();
        let missing = self.batch.iter().filter_map(|record| record.key);
        let missing = missing.filter(|key| !table.knows(key) && seen.insert(*key));
        missing.map(Bytes::copy_from_slice).collect()
    }

    fn stop_before(&mut self, poison: Poison) {
        let record = self.batch.get(poison.index);
        let source = self.handle.spec().source();
        let at = RecordPosition {
            topic: source.topic,
            partition: source.partition,
            offset: record.offset,
        };
        self.ports
            .metrics
            .rejected(&self.handle.spec().store, &poison.code);
        let detail = format!(
            "stopped before {at}, which cannot be applied: {}. Nothing behind it is folded; queries \
             are answered from the state before it. Deploy a corrected plugin (with `--state keep` it \
             goes on from here), or leave the record out: `foldhost plugin skip {} {at} --reason …`",
            poison.reason,
            self.handle.spec().store.plugin
        );
        self.set_blocked(Blocked {
            code: poison.code,
            detail,
            at: Some(at),
        });
        self.slot.clear();
    }

    fn set_blocked(&mut self, blocked: Blocked) {
        self.reader = None;
        let store = &self.handle.spec().store;
        tracing::error!(partition = %store, code = blocked.code, "{}", blocked.detail);
        self.handle.update(|status| {
            status.phase = Phase::Blocked;
            status.blocked = Some(blocked);
            status.answers = true;
        });
        self.ports.metrics.phase(store, Phase::Blocked.number());
        self.ports.changed.notify_one();
    }

    /// Says where it is in its life, unless it is blocked.
    fn settle(&self) {
        let before = self.handle.shared.status.read().phase;
        let is_live = self.backlog.is_none() && self.checkpoint.next >= self.live_at;
        let phase = match before {
            Phase::Blocked => return,
            _ if self.paused => Phase::Paused,
            _ if is_live => Phase::Live,
            _ => Phase::Replaying,
        };
        if phase == before {
            return;
        }
        let store = &self.handle.spec().store;
        tracing::info!(partition = %store, next = %self.checkpoint.next, ?phase, "now");
        self.handle.update(|status| {
            status.phase = phase;
            status.answers |= phase != Phase::Replaying;
        });
        self.ports.metrics.phase(store, phase.number());
        self.ports.changed.notify_one();
    }

    fn is_blocked(&self) -> bool {
        self.handle.shared.status.read().phase == Phase::Blocked
    }

    fn block_requested(&mut self) {
        let requested = self.handle.shared.block.lock().take();
        if let Some(blocked) = requested {
            self.batch.clear();
            self.set_blocked(blocked);
        }
    }

    fn publish_position(&self) {
        let next = self.checkpoint.next;
        self.handle.update(|status| {
            status.next = next;
            status.end = status.end.max(next);
            status.lag_events = status.end.0 - next.0;
            status.last_error = None;
        });
        self.handle.shared.next.send_replace(next);
        let lag = self.handle.shared.status.read().lag_events;
        self.ports.metrics.lag(&self.handle.spec().store, lag);
        self.settle();
    }

    fn reached_end(&mut self) {
        // Nothing of what was to be folded again is left: where it ended, a record was skipped or removed.
        self.passed(self.refold_until);
        // Transaction markers and compacted records leave gaps: the end is here all the same.
        self.handle.update(|status| {
            status.lag_events = 0;
            status.end = status.next;
        });
        self.ports.metrics.lag(&self.handle.spec().store, 0);
        self.live_at = self.checkpoint.next;
        self.settle();
    }

    /// The inputs are merged as far as they reached when the partition was opened.
    fn backlog_merged(&mut self, live_at: Offset) {
        self.backlog = None;
        self.live_at = live_at;
        // The end is told once each time it is reached, and it may have been: reading anew tells it again.
        self.batch.clear();
        self.reader = None;
        self.settle();
    }

    /// It may not fold on for now: as far as it may, it has read its backlog.
    fn reached_limit(&mut self) {
        self.live_at = self.checkpoint.next;
        self.settle();
    }

    /// Asks for the end of the log now and then, so that the lag of a long replay is right.
    async fn refresh_end(&mut self) {
        let now = self.ports.clock.elapsed();
        if now.saturating_sub(self.end_seen_at) < END_REFRESH {
            return;
        }
        self.end_seen_at = now;
        if let Ok(range) = self.ports.log.range(&self.handle.spec().source()).await {
            self.handle.update(|status| {
                status.end = range.end.max(status.next);
                status.lag_events = status.end.0 - status.next.0;
            });
            let lag = self.handle.shared.status.read().lag_events;
            self.ports.metrics.lag(&self.handle.spec().store, lag);
        }
    }

    fn read_failed(&mut self, error: LogError) -> Option<Exit> {
        match error {
            LogError::OffsetOutOfRange { range, .. } if self.checkpoint.next < range.start => {
                if self.handle.spec().input.on_gap == OnGap::Continue {
                    // Opening again finds the gap and goes on behind it.
                    return Some(Exit::Failed(
                        "records were removed before they were folded".into(),
                    ));
                }
                self.set_blocked(open::history_gap(
                    &self.handle,
                    self.checkpoint.next,
                    range.start,
                ));
                None
            }
            // Opening again looks at the topic, and says what became of it.
            LogError::OffsetOutOfRange { .. } | LogError::UnknownTopic(_) => {
                Some(Exit::Failed(error.to_string()))
            }
            error if error.is_transient() => {
                self.try_again(&error.to_string());
                None
            }
            error => Some(Exit::Failed(error.to_string())),
        }
    }

    fn try_again(&mut self, why: &str) {
        let pause = self.retry_pause;
        self.retry_pause = (pause * 2).min(limits::RETRY_PAUSE_MAX);
        tracing::warn!(partition = %self.handle.spec().store, "{why}; trying again");
        self.handle
            .update(|status| status.last_error = Some(why.to_owned()));
        self.retry_at = Some(self.ports.clock.elapsed() + pause + jitter(&self.ports.clock, pause));
    }

    /// Changed states wait for a commit up to a bound, and what was made for a transaction; then folding
    /// waits.
    fn is_full(&self) -> bool {
        self.handle.shared.table.read().is_full() || self.publishes_too_slowly()
    }

    fn publishes_too_slowly(&self) -> bool {
        self.publisher.as_ref().is_some_and(Publisher::is_full)
    }

    /// Whether states may be committed as they are: all that they made is published.
    fn is_covered(&self) -> bool {
        let next = self.checkpoint.next;
        self.publisher
            .as_ref()
            .is_none_or(|publisher| publisher.covers(next))
    }

    /// Whether a commit has to wait for the transaction under way.
    fn waits_for_transaction(&self) -> bool {
        self.publisher.as_ref().is_some_and(Publisher::is_busy) && !self.is_covered()
    }

    /// Whether other code waits to take over, and all that the present code has to fold again is folded.
    fn may_succeed(&self) -> bool {
        self.successor.is_some() && self.checkpoint.next >= self.refold_until
    }

    fn commit_due_in(&self, now: Duration) -> Option<Duration> {
        if self.commit.is_some() || self.held.is_some() || self.waits_for_transaction() {
            return None;
        }
        if self.may_succeed() {
            return Some(Duration::ZERO);
        }
        if self.checkpoint.next == self.committed {
            return None;
        }
        let live = self.handle.shared.status.read().phase == Phase::Live;
        if self.is_commit_wanted {
            return Some(Duration::ZERO);
        }
        let due = self.schedule.due_in(now, live, self.folded_at);
        let is_full = self.handle.shared.table.read().is_full();
        Some(if is_full { Duration::ZERO } else { due })
    }

    /// How long until what was made is to be published.
    fn publish_due_in(&self, now: Duration) -> Option<Duration> {
        let interval = self.handle.code().manifest().commit_interval;
        self.publisher.as_ref()?.due_in(interval, now)
    }

    /// Commits what is folded: at once if all that it made is published, else with the next transaction.
    fn commit(&mut self) {
        if self.is_covered() {
            self.start_commit();
        } else {
            self.start_transaction(true);
        }
    }

    /// Publishes what was made; a commit that is due goes along.
    fn publish(&mut self) {
        let now = self.ports.clock.elapsed();
        let is_due = self.commit_due_in(now) == Some(Duration::ZERO);
        self.start_transaction(is_due);
    }

    fn start_transaction(&mut self, with_commit: bool) {
        self.checkpoint.published = true;
        let publisher = self
            .publisher
            .as_mut()
            .expect("what is not covered has one");
        publisher.start(self.handle.spec(), &self.checkpoint);
        if with_commit {
            self.held = Some(self.freeze());
        }
    }

    /// A transaction is durable; so may be the states that were held for it.
    fn published(&mut self, confirmed: Confirmed) {
        let store = &self.handle.spec().store;
        self.ports
            .metrics
            .published(store, confirmed.records as u64);
        self.handle
            .update(|status| status.published = Some(confirmed.next));
        if let Some(commit) = self.held.take() {
            self.write(commit);
        }
    }

    fn start_commit(&mut self) {
        if self.may_succeed()
            && let Some(code) = &self.successor
        {
            self.checkpoint.adopt(code);
        }
        let commit = self.freeze();
        self.write(commit);
    }

    /// What a commit now would write. Until it is written, or given up with the worker, there is no other.
    fn freeze(&mut self) -> Arc<Commit> {
        assert!(
            self.commit.is_none() && self.held.is_none(),
            "one commit at a time"
        );
        self.is_commit_wanted = false;
        self.schedule.started(self.ports.clock.elapsed());
        Arc::new(Commit {
            changes: self.handle.shared.table.write().freeze(),
            checkpoint: self.checkpoint.clone(),
        })
    }

    fn write(&mut self, commit: Arc<Commit>) {
        self.commit = Some(InFlight::start(
            commit,
            self.store.clone(),
            self.handle.clone(),
            self.ports.log.clone(),
            self.ports.clock.clone(),
        ));
    }

    fn commit_ended(&mut self, written: &Written) {
        let in_flight = self.commit.take().expect("one was in flight");
        assert!(
            in_flight.next >= self.committed,
            "a position never goes back"
        );
        self.committed = in_flight.next;
        self.schedule.ended(written.took);
        self.ports
            .metrics
            .committed(&self.handle.spec().store, self.schedule.last_cost());
        self.handle.shared.table.write().committed();
        let committed = self.committed;
        self.handle.update(|status| {
            status.committed = committed;
            status.commit_error = None;
        });
        self.handle.shared.committed.send_replace(committed);
        if written.commit.checkpoint.deployment == self.checkpoint.deployment {
            self.succeed();
        }
        self.upkeep.start(self.store.clone(), self.handle.clone());
    }

    /// Commits what is folded and closes the store, within a bound: what is not committed is folded
    /// again by the next owner.
    async fn finish(&mut self) -> Exit {
        let finishing = async {
            while self.checkpoint.next != self.committed || self.commit.is_some() {
                if let Some(publisher) = self.publisher.as_mut().filter(|it| it.is_busy()) {
                    match publisher.ended().await {
                        Ok(confirmed) => self.published(confirmed),
                        Err(LogError::Fenced(by)) => return Exit::Fenced(by),
                        Err(error) => return Exit::Failed(error.to_string()),
                    }
                } else if let Some(in_flight) = &mut self.commit {
                    match in_flight.ended().await {
                        Ok(written) => self.commit_ended(&written),
                        Err(StateError::Fenced(by)) => return Exit::Fenced(by),
                        Err(error) => return Exit::Failed(error.to_string()),
                    }
                } else {
                    self.commit();
                }
            }
            self.upkeep = Upkeep::default();
            self.store.close().await;
            Exit::Stopped
        };
        tokio::time::timeout(limits::REVOKE_COMMIT_MAX, finishing)
            .await
            .unwrap_or_else(|_| Exit::Failed("the last commit took too long".to_owned()))
    }
}

/// The wait for the inputs to be merged.
struct Backlog(JoinHandle<Result<Offset, LogError>>);

impl Backlog {
    /// Waits for its end. Cancel-safe.
    async fn ended(&mut self) -> Result<Offset, LogError> {
        match (&mut self.0).await {
            Ok(ended) => ended,
            Err(error) => Err(LogError::Unavailable(format!("the wait died: {error}"))),
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// States in memory, after those of a batch's keys were loaded.
struct Loaded<'a>(&'a StateTable);

impl States for Loaded<'_> {
    fn hash(&self, key: &[u8]) -> u64 {
        self.0.hash(key)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<Place> {
        let found = self.0.find(hash, key);
        assert!(
            found.is_some() || self.0.is_complete(),
            "a step needs what was loaded for it"
        );
        found
    }

    fn state(&self, at: Place) -> Option<&[u8]> {
        self.0.state_at(at)
    }
}
