//! The worker of one partition: open → replay → live, batch by batch, with commits beside it.
//!
//! One `select!`; effects on the world only here. It ends when told to, when a later owner has
//! fenced it, or when it cannot go on without opening again; a partition that is *blocked* does not
//! end: it goes on answering until somebody changes something.

mod bootstrapping;
mod committing;
pub(super) mod deciding;
mod directed;
mod folding;
mod handover;
mod parking;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::deciding::{Decided, Decider};
use self::handover::TakeOver;
use super::assemble::Source;
use super::commit::{InFlight, Schedule, Upkeep, Written, jitter};
use super::deciding::{Queued, Round};
use super::history::History;
use super::open::{self, Opened};
use super::parking::{Action, Actions};
use super::publish::{Confirmed, Limit, Publisher};
use super::rate::Rate;
use super::step::InstanceSlot;
use super::table::StateTable;
use super::{Blocked, CodeInUse, Control, PartitionHandle, Phase, Ports, Skips};
use crate::limits;
use crate::log::{LogError, PartitionReader, Read, ReadLimits, RecordBatch};
use crate::plugin::manifest::OnGap;
use crate::state::{ActionPoint, Checkpoint, Commit, PartitionStore, StateError};
use crate::types::{Offset, Partition};

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
    /// There is something to write, and its writer was closed when there was nothing: it is to be opened again.
    Idle,
}

const LIMITS: ReadLimits = ReadLimits {
    records_max: limits::BATCH_EVENTS_MAX,
    bytes_max: limits::BATCH_BYTES_MAX,
};
/// How often the end of the log is asked for while catching up or standing still.
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

/// Waits for what is due in some time; at once if it is due, where a timer has its next tick.
async fn until_due(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
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
    /// Decides commands; only of a command handler's partition that serves.
    decider: Option<Decider>,
    /// States as they were when the transaction under way began: committed once it is confirmed.
    held: Option<Arc<Commit>>,
    /// How far it may fold, beside a generation that publishes.
    limit: Option<Limit>,
    /// It has not come yet to where the generation before it stopped, or that is not committed.
    takes_over: Option<TakeOver>,
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
    /// What was decided about parked records.
    actions: Arc<Actions>,
    /// An action that was published and not committed, and how far: it comes before everything else.
    redo: Option<(Action, ActionPoint)>,
    /// What an action did is being published or committed; nothing is folded until then.
    is_acting: bool,
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
    WriterIdle,
    Command(Queued),
    BootstrapDue,
    Records(Result<(), LogError>),
    Decided(Result<(Vec<(Partition, Offset)>, Round), LogError>),
    LimitMoved(Result<(), LogError>),
    BacklogMerged(Result<Offset, LogError>),
    Block,
    CommitWanted,
    CommitDue,
    Retry,
    Refresh,
    /// There is more to fold.
    More,
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
        *shared.parking.write() = opened.parking;
        *shared.history.write() =
            History::new(opened.checkpoint.indexed_from, ports.budget.clone());
        let (reader, blocked) = match opened.reader {
            Ok(reader) => (Some(reader), None),
            Err(blocked) => (None, Some(blocked)),
        };
        let now = ports.clock.elapsed();
        let code = opened.code;
        let mut publisher = opened.publisher;
        if let Some(publisher) = &mut publisher {
            publisher.fire_on_bootstrap(code.manifest().bootstrap);
        }
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
            actions: Arc::default(),
            redo: opened.redo,
            is_acting: false,
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
            publisher,
            decider: opened.decider,
            held: None,
            limit: opened.limit,
            takes_over: opened.predecessor.map(TakeOver::new),
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
            status.action = worker.checkpoint.action;
            status.bootstrap = worker
                .decider
                .as_ref()
                .and_then(|it| it.bootstrapped.clone());
        });
        worker
            .handle
            .shared
            .committed
            .send_replace(worker.committed);
        let (store, gaps) = (&worker.handle.spec().store, worker.checkpoint.gaps);
        worker.ports.metrics.degraded(store, false);
        worker.ports.metrics.gaps(store, gaps);
        worker.note_parked();
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
            self.settle_what_is_taken_over();
            self.refuse_commands();
            if self.misses_its_writer() {
                return Exit::Idle;
            }
            while self.is_action_due() {
                if let Err(exit) = self.act().await {
                    return exit;
                }
            }
            if self.may_fold() && self.retry_at.is_none() && !self.publishes_too_slowly() {
                match self.allowed() {
                    0 if self.batch.is_empty() => {}
                    0 => self.reached_limit(),
                    allowed => {
                        self.fold(allowed).await;
                        // What was folded may be due before anything else happens.
                        if self.misses_its_writer() {
                            return Exit::Idle;
                        }
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
                Event::Command(first) => self.decide(first).await,
                Event::BootstrapDue => self.bootstrap().await,
                Event::Records(Ok(())) => self.decide_records().await,
                Event::Records(Err(error)) => return Exit::Failed(error.to_string()),
                Event::Decided(Ok((places, round))) => self.decided(&places, round),
                Event::Decided(Err(LogError::Fenced(by))) => return Exit::Fenced(by),
                Event::Decided(Err(error)) => return Exit::Failed(error.to_string()),
                Event::WriterIdle => self.close_writer(),
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
                Event::More => {}
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
        // Nobody else writes what it folds: once it has read all, it has it all.
        let reads_on = self.decider.is_none() || !self.is_live();
        let can_read = may_fold && self.batch.is_empty() && !self.is_full() && reads_on;
        let may_decide = self.may_decide();
        let is_deciding = self.is_deciding();
        let bootstrap_due = self.bootstrap_due_in(now);
        let stands_still = self.paused || self.frozen || self.is_blocked();
        let source = self.handle.spec().source();
        let (topic, from) = (self.checkpoint.topic_id, self.checkpoint.next);
        self.batch.leave_headers_out(!self.needs_headers());
        let commit_due = self.commit_due_in(now);
        let publish_due = self.publish_due_in(now);
        let writer_idle = self.writer_idle_in(now);
        let publishing = self.publisher.as_ref().is_some_and(Publisher::is_busy);
        let has_more = may_fold && self.allowed() > 0 && !self.publishes_too_slowly();
        let at_limit = self.waits_for_limit();
        let retry_due = self.retry_at.map(|at| at.saturating_sub(now));
        let Self {
            reader,
            batch,
            commit,
            handle,
            control,
            ports,
            publisher,
            decider,
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
            ended = async { publisher.as_mut().expect("guarded").ended(&ports.clock).await }, if publishing => {
                Event::Published(ended)
            }
            merged = async { backlog.as_mut().expect("guarded").ended().await }, if backlog.is_some() => {
                Event::BacklogMerged(merged)
            }
            () = handle.shared.block_requested.notified() => Event::Block,
            () = handle.shared.commit_requested.notified() => Event::CommitWanted,
            // Each look makes these timers anew: one that is due must not wait for a tick that a reader which
            // always has something never lets come.
            () = until_due(commit_due.unwrap_or_default()), if commit_due.is_some() => {
                Event::CommitDue
            }
            () = until_due(publish_due.unwrap_or_default()), if publish_due.is_some() => {
                Event::PublishDue
            }
            () = tokio::time::sleep(writer_idle.unwrap_or_default()), if writer_idle.is_some() => {
                Event::WriterIdle
            }
            () = tokio::time::sleep(retry_due.unwrap_or_default()), if retry_due.is_some() => {
                Event::Retry
            }
            moved = async { limit.as_mut().expect("guarded").moved().await },
                if at_limit && retry_due.is_none() => Event::LimitMoved(moved),
            () = tokio::time::sleep(END_REFRESH), if stands_still => Event::Refresh,
            // It is due now and then only: commands that never end hold it up no more than it does them.
            () = until_due(bootstrap_due.unwrap_or_default()), if bootstrap_due.is_some() => {
                Event::BootstrapDue
            }
            event = async { decider.as_mut().expect("guarded").event().await }, if may_decide || is_deciding => {
                match event {
                    Decided::Command(first) => Event::Command(first),
                    Decided::Records(read) => Event::Records(read),
                    Decided::Written(written) => Event::Decided(written),
                }
            }
            opened = ports.shared_reads.open(&ports.readers, &source, topic, from),
                if can_read && reader.is_none() => {
                Event::Opened(opened)
            }
            read = async { reader.as_mut().expect("guarded").read(batch, LIMITS).await },
                if can_read && reader.is_some() => Event::Read(read),
            () = std::future::ready(()), if has_more => Event::More,
        }
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
        let before = self.phase();
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

    fn phase(&self) -> Phase {
        self.handle.shared.status.read().phase
    }

    fn is_live(&self) -> bool {
        self.phase() == Phase::Live
    }

    fn is_blocked(&self) -> bool {
        self.phase() == Phase::Blocked
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
        // As much memory as a backlog's batches need is not kept for what comes next.
        self.batch = RecordBatch::new();
        // Nothing of what was to be folded again is left: where it ended, a record was skipped or removed.
        self.passed(self.refold_until);
        self.passed_limit();
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
        self.passed_limit();
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
        let source = self.handle.spec().source();
        if let Ok(end) = self.ports.log.recent_end(&source).await {
            self.handle.update(|status| {
                status.end = end.max(status.next);
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
