//! What a worker does when it is told something: other code, a pause, records to leave out. Part of
//! `worker`; everything here happens between two batches.

use super::super::step::InstanceSlot;
use super::super::{Blocked, Control, Phase};
use super::Worker;
use crate::types::Offset;

impl Worker {
    /// Does what it is told: from here on, since nothing is under way but a commit.
    pub(super) fn obey(&mut self) {
        let Control {
            code,
            paused,
            frozen,
            skips,
            command_skips,
            actions,
            bootstrap,
        } = self.control.borrow_and_update().clone();
        let is_news = code.deployment != self.checkpoint.deployment
            || code.deployment != self.handle.code().deployment;
        self.successor = Some(code).filter(|_| is_news);
        self.skips = skips;
        self.actions = actions;
        self.follow_bootstrap(bootstrap);
        self.frozen = frozen;
        if self.paused != paused {
            self.paused = paused;
            // What was answered before is answered after a restart too.
            self.is_commit_wanted |= paused;
            tracing::info!(partition = %self.handle.spec().store, paused, "told so");
        }
        let blocked_at = self
            .blocked()
            .filter(Blocked::is_about_event)
            .and_then(|blocked| blocked.at);
        if blocked_at.is_some_and(|at| self.skips.covers(at.offset, self.checkpoint.topic_id)) {
            self.unblock();
        }
        if self
            .decider
            .as_mut()
            .is_some_and(|it| it.skip(command_skips))
        {
            self.commands_unblocked();
        }
        self.settle();
    }

    /// Whether the next batch may be folded, as far as others have a say.
    pub(super) fn may_fold(&self) -> bool {
        let is_left = self.successor.is_none() || self.checkpoint.next < self.refold_until;
        let is_acting = self.is_acting || self.next_action().is_some();
        !self.paused && !self.frozen && is_left && !is_acting
    }

    /// The successor's commit is durable: its code folds and answers from here on.
    pub(super) fn succeed(&mut self) {
        let Some(code) = self
            .successor
            .take_if(|code| code.deployment == self.checkpoint.deployment)
        else {
            return;
        };
        tracing::info!(partition = %self.handle.spec().store, deployment = %code.deployment,
            from = %self.checkpoint.next, "other code folds from here on");
        self.slot = InstanceSlot::new(code.code.clone());
        let manifest = code.manifest();
        self.source.framings = manifest.framings();
        self.source.headers = manifest.headers;
        self.source.record_keys = manifest.record_keys;
        self.source.origins = manifest.origins;
        self.source.on_error = manifest.on_error;
        if self.batch.leaves_headers_out() && self.needs_headers() {
            // What waits was read without what this code asks for.
            self.batch.clear();
            self.reader = None;
        }
        self.schedule.set_interval(code.state_interval());
        let decider = self.decider.as_mut();
        if decider.is_some_and(|it| it.code_changed(manifest)) {
            self.commands_unblocked();
        }
        if let Some(publisher) = &mut self.publisher {
            publisher.fire_on_bootstrap(manifest.bootstrap);
        }
        let indexed_from = self.checkpoint.indexed_from;
        self.handle.shared.history.write().set_from(indexed_from);
        *self.handle.shared.in_use.write() = code;
        let (deployment, folds_from) = (self.checkpoint.deployment, self.checkpoint.folds_from);
        self.handle.update(|status| {
            status.deployment = Some(deployment);
            status.folds_from = folds_from;
        });
        self.ports.changed.notify_one();
        let blocked = self.blocked();
        if blocked.is_some_and(|blocked| blocked.is_about_event()) {
            self.unblock();
            self.settle();
        }
    }

    /// Why it is blocked itself, whatever its inputs are.
    pub(super) fn blocked(&self) -> Option<Blocked> {
        self.handle.shared.status.read().blocked.clone()
    }

    /// Goes on from the event before which it stopped: reads from there again.
    pub(super) fn unblock(&mut self) {
        self.batch.clear();
        self.reader = None;
        self.handle.update(|status| {
            status.phase = Phase::Replaying;
            status.blocked = None;
        });
        let store = &self.handle.spec().store;
        self.ports.metrics.phase(store, Phase::Replaying.number());
    }

    /// Leaves out the records that are not to be folded.
    pub(super) fn drop_skipped(&mut self) {
        let discards = self.actions.has_discards();
        if self.skips.is_empty() && !discards {
            return;
        }
        let (topic_id, point) = (self.checkpoint.topic_id, self.checkpoint.action);
        let Self {
            actions,
            skips,
            batch,
            ..
        } = self;
        batch.retain(|record| {
            let is_discarded =
                |key| discards && actions.discard(point, key, record.offset, topic_id);
            !skips.covers(record.offset, topic_id) && !record.key.is_some_and(is_discarded)
        });
    }

    /// Nothing before `next` is left to be folded: what was there is skipped.
    pub(super) fn passed(&mut self, next: Offset) {
        if next > self.checkpoint.next {
            self.checkpoint.next = next;
            self.publish_position();
        }
    }
}
