//! What happens when the group changes this member's assignment, on the membership's thread.
//!
//! Invariant: a partition is given back to the group only after its owner has let go of it, or has
//! had [`limits::REVOKE_COMMIT_MAX`] for that, or has lost it anyway.

use std::collections::BTreeSet;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::{Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset as ListedOffset, TopicPartitionList};
use rdkafka_sys::types::RDKafkaRespErr;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::limits;
use crate::types::{Partition, TopicName};

use super::super::super::{AssignmentChange, LogError};
use super::super::context::{Context, Extended};
use super::super::error;
use super::{Member, partitions};

/// What the thread and the membership's handle both know.
pub(super) struct State {
    group: String,
    journal: TopicName,
    changes: mpsc::Sender<AssignmentChange>,
    /// What the group has given to this member; `None` while it is no member.
    held: Mutex<Option<BTreeSet<Partition>>>,
    fatal: Mutex<Option<LogError>>,
    leaving: AtomicBool,
    stop: CancellationToken,
    /// Set behind the last change of a member that is fenced for good.
    failed: CancellationToken,
}

impl State {
    pub(super) fn new(
        group: &str,
        journal: &TopicName,
        changes: mpsc::Sender<AssignmentChange>,
    ) -> Self {
        Self {
            group: group.to_owned(),
            journal: journal.clone(),
            changes,
            held: Mutex::new(None),
            fatal: Mutex::new(None),
            leaving: AtomicBool::new(false),
            stop: CancellationToken::new(),
            failed: CancellationToken::new(),
        }
    }

    pub(super) fn group(&self) -> &str {
        &self.group
    }

    pub(super) fn journal(&self) -> &TopicName {
        &self.journal
    }

    /// A partition of the journal, while this is a member.
    pub(super) fn any_partition(&self) -> Option<Partition> {
        self.held
            .lock()
            .as_ref()
            .map(|held| held.first().copied().unwrap_or_default())
    }

    /// Why this member can never be one again, if so.
    pub(super) fn fatal(&self) -> Option<LogError> {
        self.fatal.lock().clone()
    }

    /// The client is finished: another one has the instance id.
    pub(super) fn fail(&self, code: Code, why: &str) {
        if self.fatal().is_some() {
            return;
        }
        let what = format!("membership in group '{}': {why}", self.group);
        let why = error::text(code, &what);
        tracing::error!(group = self.group, "{why}");
        *self.fatal.lock() = Some(LogError::Fenced(why));
        // librdkafka gives everything back by itself then, without a word.
        let held = self.held.lock().clone().unwrap_or_default();
        self.lost(held.into_iter().collect());
        self.failed.cancel();
    }

    /// Until this member can never be one again.
    pub(super) async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Ends the thread; with `leave`, the group is told.
    pub(super) fn stop(&self, leave: bool) {
        if leave {
            self.leaving.store(true, Ordering::Release);
        }
        self.stop.cancel();
    }

    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Tells the owner of the membership; waits for room. Nobody listens after the end.
    fn tell(&self, change: AssignmentChange) {
        if !self.is_stopped() {
            let _ = self.changes.blocking_send(change);
        }
    }

    fn assigned(&self, partitions: Vec<Partition>) {
        self.held
            .lock()
            .get_or_insert_default()
            .extend(partitions.iter().copied());
        if !partitions.is_empty() {
            self.tell(AssignmentChange::Assigned(partitions));
        }
    }

    fn revoked(&self, partitions: Vec<Partition>) {
        if !partitions.is_empty() && !self.is_stopped() {
            let (done, waiting) = oneshot::channel();
            self.tell(AssignmentChange::Revoked {
                partitions: partitions.clone(),
                done,
            });
            if !wait(waiting, limits::REVOKE_COMMIT_MAX) {
                tracing::warn!(
                    group = self.group,
                    ?partitions,
                    "revoked partitions were not closed in time: they move on without it"
                );
            }
        }
        if let Some(held) = self.held.lock().as_mut() {
            held.retain(|partition| !partitions.contains(partition));
        }
    }

    fn lost(&self, partitions: Vec<Partition>) {
        *self.held.lock() = None;
        if !partitions.is_empty() {
            tracing::warn!(group = self.group, ?partitions, "the group's session ended");
            self.tell(AssignmentChange::Lost(partitions));
        }
    }
}

/// Waits on a plain thread until `done` is dropped or used; false if that took longer than allowed.
fn wait(mut done: oneshot::Receiver<()>, at_most: Duration) -> bool {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = std::task::Context::from_waker(&waker);
    let clock = Clock::system();
    loop {
        if Pin::new(&mut done).poll(&mut context).is_ready() {
            return true;
        }
        let left = at_most.saturating_sub(clock.elapsed());
        if left.is_zero() {
            return false;
        }
        std::thread::park_timeout(left);
    }
}

/// The context of a member: changes of its assignment go to its [`State`].
pub(in super::super) type MemberContext = Extended<Arc<State>>;

impl MemberContext {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self {
            common: Context::new(&state.group),
            own: state,
        }
    }

    fn assign(&self, member: &Member, list: &mut TopicPartitionList) {
        let given = partitions(list, &self.own.journal);
        // Nothing is read here: from the end, and paused before anything is fetched.
        let changed = list
            .set_all_offsets(ListedOffset::End)
            .and_then(|()| match member.rebalance_protocol() {
                RebalanceProtocol::Cooperative => member.incremental_assign(list),
                _ => member.assign(list),
            })
            .and_then(|()| member.pause(list));
        if let Err(error) = changed {
            tracing::error!(group = self.own.group, "taking an assignment: {error}");
        }
        self.own.assigned(given);
    }

    fn unassign(&self, member: &Member, list: &TopicPartitionList) {
        let taken = partitions(list, &self.own.journal);
        if member.assignment_lost() {
            self.own.lost(taken);
        } else {
            self.own.revoked(taken);
        }
        let changed = match member.rebalance_protocol() {
            RebalanceProtocol::Cooperative => member.incremental_unassign(list),
            _ => member.unassign(),
        };
        if let Err(error) = changed {
            tracing::error!(group = self.own.group, "giving back an assignment: {error}");
        }
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(&self, member: &Member, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(member, list),
            _ => self.unassign(member, list),
        }
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(group = self.own.group, "offsets for lag tools: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (Arc<State>, mpsc::Receiver<AssignmentChange>) {
        let (changes_in, changes) = mpsc::channel(4);
        let journal = TopicName::new("c.p.journal").unwrap();
        (Arc::new(State::new("c.p", &journal, changes_in)), changes)
    }

    #[test]
    fn a_revoked_partition_is_held_until_its_owner_lets_go() {
        let (state, mut changes) = state();
        state.assigned(vec![Partition(0), Partition(1)]);
        let revoking = Arc::clone(&state);
        let thread = std::thread::spawn(move || revoking.revoked(vec![Partition(1)]));
        assert!(matches!(
            changes.blocking_recv(),
            Some(AssignmentChange::Assigned(_))
        ));
        let Some(AssignmentChange::Revoked { partitions, done }) = changes.blocking_recv() else {
            panic!("a revocation")
        };
        assert_eq!(partitions, [Partition(1)]);
        assert_eq!(state.held.lock().as_ref().unwrap().len(), 2);
        drop(done);
        thread.join().unwrap();
        assert_eq!(state.any_partition(), Some(Partition(0)));
    }

    #[test]
    fn an_owner_that_does_not_let_go_is_waited_for_no_longer_than_allowed() {
        let (done, waiting) = oneshot::channel();
        assert!(!wait(waiting, Duration::from_millis(20)));
        drop(done);
        let (done, waiting) = oneshot::channel::<()>();
        drop(done);
        assert!(wait(waiting, Duration::from_secs(60)));
    }

    #[test]
    fn a_lost_assignment_ends_the_membership_until_the_next() {
        let (state, mut changes) = state();
        state.assigned(vec![]);
        assert!(state.any_partition().is_some());
        state.lost(vec![Partition(3)]);
        assert!(state.any_partition().is_none());
        assert!(matches!(
            changes.blocking_recv(),
            Some(AssignmentChange::Lost(_))
        ));
    }

    #[test]
    fn nobody_is_told_after_the_end() {
        let (state, mut changes) = state();
        state.stop(true);
        state.assigned(vec![Partition(0)]);
        state.revoked(vec![Partition(0)]);
        assert!(changes.try_recv().is_err());
    }

    #[test]
    fn a_fenced_member_says_so_once_and_for_all() {
        let (state, mut changes) = state();
        state.assigned(vec![Partition(0)]);
        assert!(matches!(
            changes.try_recv(),
            Ok(AssignmentChange::Assigned(_))
        ));
        state.fail(Code::FencedInstanceId, "fenced");
        state.fail(Code::Unknown, "later");
        let error = state.fatal().unwrap();
        assert!(matches!(changes.try_recv(), Ok(AssignmentChange::Lost(_))));
        assert!(changes.try_recv().is_err(), "once");
        assert!(
            matches!(&error, LogError::Fenced(why) if why.contains("data folder")),
            "{error}"
        );
    }
}
