//! How a worker follows the generation that publishes, and how it takes over from it. Part of `worker`.
//!
//! Invariants: a generation that follows never gets ahead, and parks what the other has parked, so that it can
//! publish that itself; one that takes over publishes nothing before its state, with what it parks, is
//! committed up to where the other has stopped. So where the journal's last position is another
//! generation's, this one has not taken over yet, and where it is its own, it has.

use super::super::parking::Action;
use super::super::publish::{Ahead, Limit};
use super::Worker;
use crate::state::ActionPoint;

/// A generation on its way to where the one before it has stopped.
#[derive(Debug)]
pub(super) struct TakeOver {
    from: Ahead,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It folds what the one before it has folded.
    Folds,
    /// It has come to where that has stopped.
    IsThere,
    /// That is being committed.
    Commits,
}

impl TakeOver {
    pub(super) fn new(from: Ahead) -> Self {
        Self {
            from,
            stage: Stage::Folds,
        }
    }
}

impl Worker {
    /// The generation that publishes or, until this one has taken over, that has published.
    pub(super) fn ahead(&self) -> Option<&Ahead> {
        let before = self.takes_over.as_ref().map(|it| &it.from);
        before.or(self.limit.as_ref().map(Limit::ahead))
    }

    /// How many records of the batch may be folded: as far as the generation that is ahead has come.
    pub(super) fn allowed(&self) -> usize {
        let Some(ahead) = self.ahead() else {
            return self.batch.len();
        };
        let allowed = self.batch.iter();
        allowed
            .take_while(|record| record.offset < ahead.until)
            .count()
    }

    /// Whether it can do nothing until the generation that it follows goes on.
    pub(super) fn waits_for_limit(&self) -> bool {
        let waits = || {
            let has_more = !self.batch.is_empty() && self.allowed() == 0;
            let next = self.actions.behind(self.checkpoint.action);
            has_more || next.is_some_and(|action| !self.is_applied_ahead(action))
        };
        self.limit.is_some() && waits()
    }

    /// Whether the generation that it follows, if it does, has applied an action.
    pub(super) fn is_applied_ahead(&self, action: &Action) -> bool {
        let limit = self.limit.as_ref();
        limit.is_none_or(|limit| limit.ahead().action >= ActionPoint::done(action.number))
    }

    /// Nothing is left in the log before where it may fold up to.
    pub(super) fn passed_limit(&mut self) {
        if let Some(until) = self.takes_over.as_ref().map(|it| it.from.until) {
            self.passed(until);
        }
    }

    /// Notes, once it has come to where the generation before it has stopped, what that has published of the
    /// records that are parked here.
    pub(super) fn settle_what_is_taken_over(&mut self) {
        let next = self.checkpoint.next;
        let is_there = |it: &&mut TakeOver| it.stage == Stage::Folds && next >= it.from.until;
        let Some(TakeOver { from, stage }) = self.takes_over.as_mut().filter(is_there) else {
            return;
        };
        *stage = Stage::IsThere;
        let topic_id = self.checkpoint.topic_id;
        let mut parking = self.handle.shared.parking.write();
        let applied = self.actions.between(self.checkpoint.action, from.action);
        let discarded: Vec<_> = applied
            .flat_map(|action| parking.discarded(action, topic_id))
            .collect();
        for record in &discarded {
            parking.remove(record);
        }
        parking.take_over(from);
        // Those that are not done here and were there are not about what is left: the promotion's own is.
        let applied = ActionPoint::done(from.action.number);
        self.checkpoint.action = self.checkpoint.action.max(applied);
        tracing::info!(partition = %self.handle.spec().store, from = %from.until,
            parked = parking.records(), "takes over");
    }

    /// Whether it has come to where the generation before it has stopped, and that is to be committed.
    pub(super) fn is_taking_over(&self) -> bool {
        let takes_over = self.takes_over.as_ref();
        takes_over.is_some_and(|it| it.stage == Stage::IsThere)
    }

    /// A commit begins.
    pub(super) fn note_taking_over(&mut self) {
        let is_there = |it: &&mut TakeOver| it.stage == Stage::IsThere;
        if let Some(takes_over) = self.takes_over.as_mut().filter(is_there) {
            takes_over.stage = Stage::Commits;
        }
    }

    /// A commit has ended: from here on it publishes.
    pub(super) fn note_taken_over(&mut self) {
        self.takes_over.take_if(|it| it.stage == Stage::Commits);
    }
}
