//! What a partition writes to the log: records for the owned topic and dead letters, each transaction
//! with the position that it belongs to. Part of `worker`; opened by `open`.
//!
//! Invariants: one transaction at a time; what was published, or is withheld, is never published again;
//! after any error the writer is used up, and the partition is opened again.

mod frontier;
mod opening;
mod records;

use std::cmp::Ordering;
use std::time::Duration;

use hashbrown::HashSet;
use tokio::task::JoinHandle;

pub(super) use frontier::{Ahead, Limit};
pub(super) use opening::{Published, resolve};
pub(super) use records::Stamp;
pub use records::is_stamped;
pub(super) use records::{told_again, version_of, version_of_new};

use super::parking::Action;
use super::step::{EmittedByCall, Poison};
use super::{PartitionSpec, Publishing, journal};
use crate::clock::Clock;
use crate::fail::{self, Point};
use crate::limits;
use crate::log::{LogError, NewRecords, RecordBatch, TransactionalPublisher};
use crate::state::{ActionPoint, Checkpoint};
use crate::types::Offset;

/// Writes what a partition makes.
#[derive(Debug)]
pub(super) struct Publisher {
    publishing: Publishing,
    stamp: Stamp,
    /// Whether it publishes what is made of events that only tell a state again.
    fires_on_bootstrap: bool,
    /// `None` while a transaction has it, and once it was closed.
    writer: Option<Box<dyn TransactionalPublisher>>,
    /// When it was used last.
    used_at: Duration,
    /// What waits for the next transaction; bounded, since a partition that has made much folds no more.
    pending: NewRecords,
    /// Memory of the last transaction, for what waits while the next one is under way.
    spare: NewRecords,
    /// When the oldest of it was made.
    pending_since: Duration,
    /// Outputs of events before this are published already, or withheld.
    outputs_from: Offset,
    /// Dead letters of events before this are published already.
    letters_from: Offset,
    /// What actions on parked records have made up to here is published already, or withheld.
    acted: ActionPoint,
    /// What is committed up to here has a position in the journal, or needs none.
    covered: Offset,
    in_flight: Option<Transaction>,
}

#[derive(Debug)]
struct Transaction {
    task: JoinHandle<Result<Written, LogError>>,
    /// Position that it publishes.
    next: Offset,
    records: usize,
}

/// What a transaction gives back: the writer, and the records' memory.
type Written = (Box<dyn TransactionalPublisher>, NewRecords);

/// A transaction that is durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Confirmed {
    /// Its position.
    pub(super) next: Offset,
    /// How many records were published with it.
    pub(super) records: usize,
}

/// What a transaction publishes, beside the records.
#[derive(Debug)]
pub(super) struct Made {
    /// The action on parked records that made it, if one did.
    pub(super) by: Option<Action>,
    /// For each parked key, the first record whose outputs are not published.
    pub(super) held: Vec<Offset>,
    /// Whether the generation is still on its way to where the one before it stopped: what that has published
    /// is what counts until then.
    pub(super) takes_over: bool,
}

impl Publisher {
    /// A publisher that goes on from what is in the log.
    pub(super) fn new(
        spec: &PartitionSpec,
        publishing: &Publishing,
        writer: Box<dyn TransactionalPublisher>,
        published: &Published,
        now: Duration,
    ) -> Self {
        Self {
            publishing: publishing.clone(),
            stamp: Stamp::new(spec),
            fires_on_bootstrap: false,
            writer: Some(writer),
            used_at: now,
            pending: NewRecords::default(),
            spare: NewRecords::default(),
            pending_since: Duration::ZERO,
            outputs_from: published.outputs_from,
            letters_from: published.letters_from,
            acted: published.acted,
            covered: published.covered,
            in_flight: None,
        }
    }

    /// Says, with the code that folds from here on, whether it publishes what is made of events that only tell a
    /// state again.
    pub(super) fn fire_on_bootstrap(&mut self, fires: bool) {
        self.fires_on_bootstrap = fires;
    }

    /// Takes over what a step made of the first records of `batch`.
    pub(super) fn take(
        &mut self,
        batch: &RecordBatch,
        emitted: Vec<EmittedByCall>,
        set_aside: &[Poison],
        now: Duration,
    ) {
        let withheld = HashSet::new();
        self.take_outputs(batch, emitted, self.outputs_from, &withheld, now);
        for poison in set_aside {
            let record = batch.get(poison.index);
            if record.offset >= self.letters_from {
                let letter = self.stamp.letter(&record, poison);
                let topic = &self.publishing.dead_letters;
                self.pending.push_new(topic, &letter, record.timestamp_ms);
            }
        }
    }

    /// Takes over what an action made of the parked records in `batch`, but for those whose outputs are
    /// `withheld`.
    pub(super) fn take_of_action(
        &mut self,
        action: &Action,
        batch: &RecordBatch,
        withheld: &HashSet<Offset>,
        emitted: Vec<EmittedByCall>,
        now: Duration,
    ) {
        let from = match action.number.cmp(&self.acted.number) {
            Ordering::Less => return,
            Ordering::Equal => Offset(self.acted.until.0.saturating_add(1)),
            Ordering::Greater => Offset(0),
        };
        self.take_outputs(batch, emitted, from, withheld, now);
    }

    fn take_outputs(
        &mut self,
        batch: &RecordBatch,
        emitted: Vec<EmittedByCall>,
        from: Offset,
        withheld: &HashSet<Offset>,
        now: Duration,
    ) {
        if self.pending.is_empty() {
            self.pending_since = now;
        }
        let Some(output) = &self.publishing.output else {
            return;
        };
        for call in emitted {
            let first = batch.get(call.first + call.records.causes[0] as usize);
            let last = call.records.causes.last().expect("it emitted something");
            if batch.get(call.first + *last as usize).offset < from {
                continue;
            }
            let is_whole = first.offset >= from && withheld.is_empty();
            let fires = self.fires_on_bootstrap;
            let is_due = |cause| is_whole || (cause >= from && !withheld.contains(&cause));
            self.stamp
                .outputs(batch, &call, fires, is_due, output, &mut self.pending);
        }
    }

    /// Whether so much waits that folding should.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= limits::PUBLISH_RECORDS_MAX
            || self.pending.bytes() >= limits::PUBLISH_BYTES_MAX
    }

    /// Whether states up to `next` may be committed: all that they made is published.
    pub(super) fn covers(&self, next: Offset) -> bool {
        self.pending.is_empty() && next <= self.covered
    }

    /// Whether a transaction is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// How long until what waits is due, at this interval; `None` = nothing waits, or a transaction is
    /// under way.
    pub(super) fn due_in(&self, interval: Duration, now: Duration) -> Option<Duration> {
        if self.is_busy() || self.pending.is_empty() {
            return None;
        }
        let due = (self.pending_since + interval).saturating_sub(now);
        Some(if self.is_full() { Duration::ZERO } else { due })
    }

    /// How long until its writer has been idle for `idle_max`; `None` = it is not idle, or closed.
    pub(super) fn idle_in(&self, idle_max: Duration, now: Duration) -> Option<Duration> {
        let is_idle = self.writer.is_some() && self.pending.is_empty();
        is_idle.then(|| (self.used_at + idle_max).saturating_sub(now))
    }

    /// Closes its writer. Nobody else may take it up again in its place: who could have written since is only
    /// known to whoever opens the partition.
    pub(super) fn close(&mut self) {
        self.writer = None;
        // Nothing waits, and nothing will for a while.
        self.pending = NewRecords::default();
        self.spare = NewRecords::default();
    }

    /// Whether its writer was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.writer.is_none() && self.in_flight.is_none()
    }

    /// Publishes what waits, with the position of `checkpoint`.
    ///
    /// # Panics
    /// If a transaction is under way.
    pub(super) fn start(
        &mut self,
        spec: &PartitionSpec,
        checkpoint: &Checkpoint,
        made: Made,
        now_ms: i64,
    ) {
        let mut writer = self.writer.take().expect("one transaction at a time");
        let spare = std::mem::take(&mut self.spare);
        let mut records = std::mem::replace(&mut self.pending, spare);
        let position = journal::Position {
            partition: spec.store.partition,
            generation: spec.store.generation,
            plugin: self.publishing.plugin,
            deployment: checkpoint.deployment,
            digest: checkpoint.digest,
            topic: spec.input.topic.clone(),
            topic_id: checkpoint.topic_id,
            next: checkpoint.next,
            output: match made.takes_over {
                true => None,
                false => self.publishing.published_output().cloned(),
            },
            action: checkpoint.action,
            applied: made.by,
            held: made.held,
        };
        let count = records.len();
        let position = journal::position_record(&position);
        records.push_new(&spec.journal, &position, now_ms);
        let task = tokio::spawn(async move {
            fail::point(Point::TransactionBegins);
            let records = writer.publish(records).await?;
            fail::point(Point::TransactionWritten);
            Ok((writer, records))
        });
        self.in_flight = Some(Transaction {
            task,
            next: checkpoint.next,
            records: count,
        });
    }

    /// Waits for the end of the transaction under way. Cancel-safe.
    ///
    /// # Errors
    /// Any [`LogError`] of the commit: the partition is to be opened again.
    ///
    /// # Panics
    /// If none is under way.
    pub(super) async fn ended(&mut self, clock: &Clock) -> Result<Confirmed, LogError> {
        let transaction = self.in_flight.as_mut().expect("one is under way");
        let ended = (&mut transaction.task).await;
        let confirmed = Confirmed {
            next: transaction.next,
            records: transaction.records,
        };
        self.in_flight = None;
        let written = ended
            .map_err(|error| LogError::OutcomeUnknown(format!("the transaction died: {error}")))?;
        let (writer, mut records) = written?;
        records.clear();
        self.writer = Some(writer);
        self.spare = records;
        self.used_at = clock.elapsed();
        self.covered = confirmed.next;
        Ok(confirmed)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Whoever opens the partition next fences the writer; not waiting for it is what "lost" means.
        if let Some(transaction) = &self.in_flight {
            transaction.task.abort();
        }
    }
}
