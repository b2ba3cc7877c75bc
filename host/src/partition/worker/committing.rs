//! When a worker commits and publishes, and how it ends: what it made goes out first, then the states. Part
//! of `worker`.
//!
//! Invariant: one commit at a time, of states of which all that they made is published.

use std::sync::Arc;
use std::time::Duration;

use super::super::Phase;
use super::super::commit::{InFlight, Upkeep, Written};
use super::super::deciding::CommandFault;
use super::super::parking::Action;
use super::super::publish::{Confirmed, Made, Publisher};
use super::deciding::Decided;
use super::{Exit, Worker};
use crate::limits;
use crate::log::LogError;
use crate::state::{Commit, StateError};

impl Worker {
    /// Changed states wait for a commit up to a bound, and what was made for a transaction; then folding
    /// waits.
    pub(super) fn is_full(&self) -> bool {
        self.has_changed_enough() || self.publishes_too_slowly()
    }

    /// Whether as much has changed as may wait for a commit.
    pub(super) fn has_changed_enough(&self) -> bool {
        let beside = self.handle.shared.history.read().waiting_bytes();
        let table = self.handle.shared.table.read();
        let has_feed = || self.handle.code().manifest().changes.is_some();
        table.is_full(beside) || (table.dirty_keys() >= limits::FEED_COMMIT_KEYS_MAX && has_feed())
    }

    pub(super) fn publishes_too_slowly(&self) -> bool {
        self.publisher.as_ref().is_some_and(Publisher::is_full)
    }

    /// Whether states may be committed as they are: all that they made is published.
    pub(super) fn is_covered(&self) -> bool {
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
        let is_refolded = self.checkpoint.next >= self.refold_until && self.redo.is_none();
        self.successor.is_some() && is_refolded && !self.is_acting && !self.is_deciding()
    }

    pub(super) fn commit_due_in(&self, now: Duration) -> Option<Duration> {
        if self.commit.is_some() || self.held.is_some() || self.waits_for_transaction() {
            return None;
        }
        if self.may_succeed() || self.is_taking_over() {
            return Some(Duration::ZERO);
        }
        if self.checkpoint.next == self.committed {
            return None;
        }
        if self.is_commit_wanted || self.next_action().is_some() {
            return Some(Duration::ZERO);
        }
        if self.has_changed_enough() {
            return Some(Duration::ZERO);
        }
        let is_catching_up = self.phase() == Phase::Replaying;
        let states = self.handle.shared.table.read().dirty_keys();
        let schedule = &self.schedule;
        Some(schedule.due_in(now, self.folded_at, is_catching_up, states))
    }

    /// How long until what was made is to be published.
    pub(super) fn publish_due_in(&self, now: Duration) -> Option<Duration> {
        let interval = self.handle.code().manifest().commit_interval;
        self.publisher.as_ref()?.due_in(interval, now)
    }

    /// How long until its writer is closed, since there is nothing to write.
    pub(super) fn writer_idle_in(&self, now: Duration) -> Option<Duration> {
        let publisher = self.publisher.as_ref()?;
        let is_done = self.checkpoint.next == self.committed && self.commit.is_none();
        let is_done = is_done && self.is_covered() && !self.is_acting && self.takes_over.is_none();
        publisher
            .idle_in(self.ports.writer_idle_max, now)
            .filter(|_| is_done)
    }

    pub(super) fn close_writer(&mut self) {
        if let Some(publisher) = &mut self.publisher {
            tracing::debug!(partition = %self.handle.spec().store, "its writer is idle, and closed");
            publisher.close();
        }
    }

    /// Whether there is something to write, and its writer was closed.
    pub(super) fn misses_its_writer(&self) -> bool {
        let is_closed = self.publisher.as_ref().is_some_and(Publisher::is_closed);
        is_closed && (!self.is_covered() || self.is_action_due())
    }

    /// Commits what is folded: at once if all that it made is published, else with the next transaction.
    pub(super) fn commit(&mut self) {
        if self.is_covered() {
            self.start_commit();
        } else {
            self.start_transaction(true, None);
        }
    }

    /// Publishes what was made; a commit that is due goes along.
    pub(super) fn publish(&mut self) {
        let now = self.ports.clock.elapsed();
        let is_due = self.commit_due_in(now) == Some(Duration::ZERO);
        self.start_transaction(is_due, None);
    }

    /// Publishes what was made, by the action `applied` if one did.
    pub(super) fn start_transaction(&mut self, with_commit: bool, applied: Option<Action>) {
        self.checkpoint.published = true;
        let publisher = self
            .publisher
            .as_mut()
            .expect("what is not covered has one");
        let made = Made {
            by: applied,
            held: self.handle.shared.parking.read().held(),
            takes_over: self.takes_over.is_some(),
        };
        let now_ms = self.ports.clock.now_ms();
        publisher.start(self.handle.spec(), &self.checkpoint, made, now_ms);
        if with_commit {
            self.held = Some(self.freeze());
        }
    }

    /// A transaction is durable; so may be the states that were held for it.
    pub(super) fn published(&mut self, confirmed: Confirmed) {
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

    pub(super) fn start_commit(&mut self) {
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
        self.note_taking_over();
        self.schedule.started(self.ports.clock.elapsed());
        let code = self.handle.code();
        let successor = self.successor.as_ref();
        let adopted = successor.filter(|it| it.deployment == self.checkpoint.deployment);
        Arc::new(Commit {
            changes: self.handle.shared.table.write().freeze(),
            parked: self.handle.shared.parking.write().freeze(),
            feed: adopted.unwrap_or(&code).feed_terms(&self.ports.clock),
            history: self.handle.shared.history.write().freeze(),
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

    pub(super) fn commit_ended(&mut self, written: &Written) {
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
        self.handle.shared.history.write().committed();
        let committed = self.committed;
        let action = written.commit.checkpoint.action;
        self.handle.update(|status| {
            status.committed = committed;
            status.action = action;
            status.commit_error = None;
        });
        self.handle.shared.committed.send_replace(committed);
        if written.commit.checkpoint.deployment == self.checkpoint.deployment {
            self.succeed();
        }
        self.note_taken_over();
        if self.is_acting && action == self.checkpoint.action {
            self.acted();
        }
        self.upkeep.start(self.store.clone(), self.handle.clone());
    }

    /// Commits what is folded and closes the store, within a bound: what is not committed is folded
    /// again by the next owner.
    pub(super) async fn finish(&mut self) -> Exit {
        let finishing = async {
            while self.is_deciding() {
                let written = self.decider.as_mut().expect("it decides").event().await;
                match written {
                    Decided::Written(Ok((places, round))) => self.decided(&places, round),
                    Decided::Written(Err(LogError::Fenced(by))) => return Exit::Fenced(by),
                    Decided::Written(Err(error)) => return Exit::Failed(error.to_string()),
                    Decided::Command(queued) => queued.answer(Err(CommandFault::NotDeciding)),
                    Decided::Records(_) => {}
                }
            }
            let is_done = |it: &Self| it.checkpoint.next == it.committed && !it.is_acting;
            while !is_done(self) || self.commit.is_some() {
                if let Some(publisher) = self.publisher.as_mut().filter(|it| it.is_busy()) {
                    match publisher.ended(&self.ports.clock).await {
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
