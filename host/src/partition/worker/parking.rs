//! How a worker parks records under `on-error = "park-key"`, and what it does with them when an operator
//! has decided. Part of `worker`.
//!
//! Invariants: a record is parked when the position passes it, never before. An action on parked records is
//! applied where everything folded is published and committed, and nothing is folded until what it did is
//! committed too; so what was published and not committed is found out when the partition is opened, and
//! applied again without publishing it again.

use std::sync::Arc;

use hashbrown::HashSet;

use super::super::open;
use super::super::parking::{self, Action, batch_of};
use super::super::publish::Publisher;
use super::super::step::{Poison, step};
use super::super::{Blocked, Source};
use super::folding::{Loaded, load_states};
use super::{Exit, Worker};
use crate::limits;
use crate::log::{RecordBatch, RecordRef};
use crate::plugin::manifest::OnError;
use crate::state::{ActionPoint, ParkedCause, ParkedRecord};
use crate::types::Offset;

/// Code of a partition that may park no more.
const PARKED_FULL: &str = "parked-full";

/// What of a batch is not folded because its keys are parked.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Records of parked keys, in order.
    pub(super) parked: Vec<ParkedRecord>,
    /// From the first on for which there is no room.
    pub(super) beyond: RecordBatch,
}

/// What became of parked records that were folded again.
#[derive(Debug, Default)]
struct Replayed {
    folded: Vec<Arc<ParkedRecord>>,
    failed: Vec<(Arc<ParkedRecord>, ParkedCause)>,
}

/// A replay that could not be decided.
#[derive(Debug)]
struct Undecided {
    why: String,
    /// Whether memory holds part of it.
    is_begun: bool,
}

impl Worker {
    /// Takes the records of parked keys out of the batch.
    pub(super) fn take_parked(&mut self) -> Aside {
        let mut aside = Aside::default();
        let parking = self.handle.shared.parking.read();
        let ahead = self.ahead();
        let holds = |record: &RecordRef<'_>| {
            record.key.is_some_and(|key| parking.holds(key))
                || ahead.is_some_and(|ahead| ahead.holds(record.offset))
        };
        let may_hold = !parking.is_empty() || ahead.is_some();
        if !may_hold || !self.batch.iter().any(|record| holds(&record)) {
            return aside;
        }
        // What another generation holds parks its key from here on.
        let mut parks = HashSet::new();
        let mut rest = RecordBatch::new();
        let mut bytes = 0;
        for (index, record) in self.batch.iter().enumerate() {
            let is_set_aside = holds(&record) || record.key.is_some_and(|key| parks.contains(key));
            let parked = is_set_aside.then(|| parking::parked(&record, None));
            let Some(parked) = parked.flatten() else {
                rest.push_record(&record);
                continue;
            };
            parks.extend(record.key);
            bytes += parked.bytes();
            if !parking.has_room(aside.parked.len() + 1, bytes) {
                aside.beyond = self.batch.part(index..self.batch.len());
                break;
            }
            aside.parked.push(parked);
        }
        drop((parking, parks));
        self.batch = rest;
        aside
    }

    /// Parks those before `until`, which the position has come to; gives back the others.
    pub(super) fn park_until(
        &mut self,
        mut parked: Vec<ParkedRecord>,
        until: Offset,
    ) -> Vec<ParkedRecord> {
        let waiting = parked.split_off(parked.partition_point(|it| it.offset < until));
        if let Some(last) = parked.last().map(|it| it.offset) {
            {
                let mut parking = self.handle.shared.parking.write();
                parked.into_iter().for_each(|record| parking.park(record));
            }
            self.note_parked();
            self.folded_at = self.ports.clock.elapsed();
            self.passed(last.next());
        }
        waiting
    }

    /// Parks the key of a record that cannot be applied, with that record, or stops before it. `false` = it
    /// has stopped.
    pub(super) fn park_poison(&mut self, poison: &Poison, record: &RecordRef<'_>) -> bool {
        let store = &self.handle.spec().store;
        self.ports.metrics.rejected(store, &poison.code);
        let cause = ParkedCause {
            code: poison.code.clone(),
            reason: poison.reason.clone(),
        };
        let parks = poison.parks(record, self.source.on_error);
        let parked = parks.then(|| parking::parked(record, Some(cause)));
        let Some(parked) = parked.flatten() else {
            self.stop_before(poison.clone(), record);
            return false;
        };
        {
            let mut parking = self.handle.shared.parking.write();
            if !parking.has_room(1, parked.bytes()) {
                drop(parking);
                self.stop_full(record);
                return false;
            }
            parking.park(parked);
        }
        tracing::warn!(partition = %store, at = %self.position_of(record), code = poison.code,
            "parked with every later record of its key: {}", poison.reason);
        self.note_parked();
        self.checkpoint.last = Some(open::identity(record));
        self.folded_at = self.ports.clock.elapsed();
        self.passed(record.offset.next());
        true
    }

    /// Stops before a record that there is no room to park.
    pub(super) fn stop_full(&mut self, record: &RecordRef<'_>) {
        let at = self.position_of(record);
        let plugin = &self.handle.spec().store.plugin;
        let parked = self.handle.shared.parking.read().records();
        let detail = format!(
            "stopped before {at}, which is to be parked, but no more can be: {parked} records are, and a \
             partition parks at most {} records and {} bytes. Nothing behind it is folded. Fold what is \
             parked again with corrected code (`foldhost plugin parked replay {plugin} --reason …`) or do \
             without it (`foldhost plugin parked discard {plugin} KEY --reason …`); it then goes on by itself",
            limits::PARKED_RECORDS_MAX,
            limits::PARKED_BYTES_MAX,
        );
        self.set_blocked(Blocked {
            code: PARKED_FULL.to_owned(),
            detail,
            at: Some(at),
        });
    }

    /// Tells how much is parked.
    pub(super) fn note_parked(&self) {
        let records = self.handle.shared.parking.read().records();
        let store = &self.handle.spec().store;
        self.ports.metrics.parked(store, records as u64);
    }

    /// The action on parked records that is to be applied before anything else is folded.
    pub(super) fn next_action(&self) -> Option<&Action> {
        if let Some((action, _)) = &self.redo {
            return Some(action);
        }
        // Code that waits takes over first: who asks for a replay means the latest.
        let is_behind = self.checkpoint.next < self.refold_until || self.takes_over.is_some();
        if self.successor.is_some() || is_behind {
            return None;
        }
        // What is parked in the generation that publishes stays so here: that applies them first.
        let next = self.actions.behind(self.checkpoint.action);
        next.filter(|action| self.is_applied_ahead(action))
    }

    /// Whether an action is to be applied now.
    pub(super) fn is_action_due(&self) -> bool {
        let stands_still = self.paused || self.frozen || self.retry_at.is_some();
        !stands_still
            && !self.is_acting
            && self.next_action().is_some()
            && self.is_at_boundary()
            && self.blocked().is_none_or(|it| it.is_about_event())
    }

    /// Whether everything that is folded is published and committed.
    fn is_at_boundary(&self) -> bool {
        let is_busy = self.publisher.as_ref().is_some_and(Publisher::is_busy);
        let is_committed = self.commit.is_none() && self.checkpoint.next == self.committed;
        is_committed && self.held.is_none() && !is_busy && self.is_covered()
    }

    /// Applies the next action, as far as it goes at once, and begins to commit what it did.
    ///
    /// # Errors
    /// [`Exit::Failed`] when memory holds part of it: nothing of that is published or committed.
    pub(super) async fn act(&mut self) -> Result<(), Exit> {
        let action = self.next_action().cloned().expect("one is due");
        let (before, topic_id) = (self.checkpoint.action, self.checkpoint.topic_id);
        let (chunk, discarded) = {
            let parking = self.handle.shared.parking.read();
            let chunk = parking.chunk(&action, before, topic_id, self.ahead());
            (chunk, parking.discarded(&action, topic_id))
        };
        let replayed = match self.replay(&action, &chunk.records).await {
            Ok(replayed) => replayed,
            Err(Undecided {
                why,
                is_begun: true,
            }) => return Err(Exit::Failed(why)),
            Err(Undecided { why, .. }) => {
                self.try_again(&why);
                return Ok(());
            }
        };
        tracing::info!(partition = %self.handle.spec().store, action = action.number,
            discarded = discarded.len(), folded = replayed.folded.len(), failed = replayed.failed.len(),
            "parked records, as was decided");
        {
            let mut parking = self.handle.shared.parking.write();
            for record in discarded.iter().chain(&replayed.folded) {
                parking.remove(record);
            }
            for (record, cause) in replayed.failed {
                parking.failed(&record, cause);
            }
        }
        self.note_parked();
        let last = chunk.records.last().filter(|_| !chunk.is_last);
        let point = last.map_or(ActionPoint::done(action.number), |last| ActionPoint {
            number: action.number,
            until: last.offset,
        });
        assert!(point > before, "an action goes on until it is done");
        self.checkpoint.action = point;
        self.redo.take_if(|(_, until)| *until <= point);
        self.is_acting = true;
        // Whoever follows learns from the position what is parked no longer, whether that made anything or not.
        if self.publisher.is_some() {
            self.start_transaction(true, Some(action));
        } else {
            self.start_commit();
        }
        Ok(())
    }

    /// Folds parked records, each key as far as it goes.
    async fn replay(
        &mut self,
        action: &Action,
        records: &[Arc<ParkedRecord>],
    ) -> Result<Replayed, Undecided> {
        let mut replayed = Replayed::default();
        // What fails again stays where it is, whatever the code's `on-error` says.
        let source = Source {
            on_error: OnError::Stop,
            ..self.source.clone()
        };
        let withheld = records.iter().filter(|it| it.withheld);
        let withheld: HashSet<_> = withheld.map(|it| it.offset).collect();
        let mut left = records.to_vec();
        while !left.is_empty() {
            let is_begun = !replayed.folded.is_empty();
            let undecided = |why: String| Undecided { why, is_begun };
            let batch = batch_of(left.iter().map(|record| &**record));
            let in_use = self.handle.shared.table.use_for_batch();
            let ready = load_states(&self.handle, &self.ports, &*self.store, &batch).await;
            let ready = ready.map_err(|error| undecided(error.to_string()))?;
            let batch = match ready < batch.len() {
                true => batch.part(0..ready),
                false => batch,
            };
            let stepped = {
                let table = self.handle.shared.table.read();
                step(&mut self.slot, &Loaded(&table), &batch, &source)
            };
            let stepped = stepped.map_err(|fault| undecided(fault.to_string()))?;
            self.handle
                .shared
                .table
                .write()
                .change_all(&stepped.changes);
            drop(in_use);
            let now = self.ports.clock.elapsed();
            if let Some(publisher) = &mut self.publisher {
                publisher.take_of_action(action, &batch, &withheld, stepped.emitted, now);
            }
            replayed.folded.extend(left.drain(..stepped.folded));
            if let Some(poison) = stepped.poison {
                let failed = left.remove(0);
                left.retain(|behind| behind.key != failed.key);
                let cause = ParkedCause {
                    code: poison.code,
                    reason: poison.reason,
                };
                replayed.failed.push((failed, cause));
            }
            tokio::task::yield_now().await;
        }
        self.retry_pause = limits::RETRY_PAUSE_MIN;
        Ok(replayed)
    }

    /// What an action did is committed: the partition goes on.
    pub(super) fn acted(&mut self) {
        self.is_acting = false;
        let is_full = |blocked: &Blocked| blocked.code == PARKED_FULL;
        if self.blocked().is_some_and(|it| is_full(&it)) {
            self.unblock();
        }
        self.settle();
    }
}

/// Puts a batch together again: what is left of it, the parked records among that, and what lies behind.
pub(super) fn interleave(
    left: RecordBatch,
    parked: &[ParkedRecord],
    beyond: &RecordBatch,
) -> RecordBatch {
    if parked.is_empty() && beyond.is_empty() {
        return left;
    }
    let mut whole = RecordBatch::new();
    let parked = batch_of(parked);
    let (mut left, mut parked) = (left.iter().peekable(), parked.iter().peekable());
    loop {
        let next = match (left.peek(), parked.peek()) {
            (Some(record), Some(other)) if record.offset < other.offset => left.next(),
            (_, Some(_)) => parked.next(),
            (_, None) => left.next(),
        };
        match next {
            Some(record) => whole.push_record(&record),
            None => break,
        }
    }
    beyond.iter().for_each(|record| whole.push_record(&record));
    whole
}
