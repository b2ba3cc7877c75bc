//! Membership in a plugin's group: Kafka's group coordinator spreads the partitions of the journal
//! over the hosts. The members read nothing; what they own they read with consumers of their own.
//!
//! librdkafka calls back on the thread that polls, and waits there until the assignment has been
//! changed. So each membership has a thread: it may wait for a revoked partition to be committed,
//! while librdkafka's own thread goes on with the heartbeats.
//!
//! Invariant: the member is closed by its own thread, and nowhere else: closing calls back.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::{Offset as ListedOffset, TopicPartitionList};
use rdkafka_sys as sys;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::limits;
use crate::types::{Offset, Partition, TopicName, TopicPartition};

use super::super::{AssignmentChange, LogError, Membership};
use super::native::{self, Events, NativeHandle};
use super::settings::KafkaSettings;
use super::topics::{Topics, native_partition};
use super::{blocking, error};

mod rebalance;

use rebalance::{MemberContext, State};

/// How long the thread sleeps when nothing happens: librdkafka wants to be polled now and then.
const POLL_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at whether the group has let this member go.
const LEAVE_PAUSE: Duration = Duration::from_millis(10);

type Member = BaseConsumer<MemberContext>;

impl NativeHandle for Member {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }
}

/// The member, until its thread takes it away to close it.
type Slot = Arc<Mutex<Option<Arc<Member>>>>;

/// One host's membership in one group.
pub(super) struct KafkaMembership {
    group: String,
    journal: TopicName,
    member: Slot,
    state: Arc<State>,
    changes: tokio::sync::Mutex<mpsc::Receiver<AssignmentChange>>,
    topics: Arc<Topics>,
    thread: Thread,
    /// Resolves when the member is closed.
    closed: Mutex<Option<oneshot::Receiver<()>>>,
}

impl KafkaMembership {
    /// Joins a group; the first assignment comes as a change.
    pub(super) async fn join(
        settings: &KafkaSettings,
        group: &str,
        instance: &str,
        journal: &TopicName,
        topics: Arc<Topics>,
    ) -> Result<Self, LogError> {
        topics.partitions(journal).await?;
        let (changes_in, changes) = mpsc::channel(limits::ASSIGNMENT_CHANGES_MAX);
        let state = Arc::new(State::new(group, journal, changes_in));
        let member: Member = settings
            .member(group, instance)
            .create_with_context(MemberContext::new(Arc::clone(&state)))
            .map_err(|error| error::made(&error))?;
        let member: Slot = Arc::new(Mutex::new(Some(Arc::new(member))));
        let (closed_in, closed) = oneshot::channel();
        let thread = {
            let (member, state) = (Arc::clone(&member), Arc::clone(&state));
            std::thread::Builder::new()
                .name("kafka-member".to_owned())
                .spawn(move || {
                    run(&member, &state);
                    let _ = closed_in.send(());
                })
                .map_err(|error| {
                    LogError::Unavailable(format!("no thread for a member: {error}"))
                })?
        };
        Ok(Self {
            group: group.to_owned(),
            journal: journal.clone(),
            member,
            state,
            changes: tokio::sync::Mutex::new(changes),
            topics,
            thread: thread.thread().clone(),
            closed: Mutex::new(Some(closed)),
        })
    }

    fn member(&self) -> Option<Arc<Member>> {
        self.member.lock().clone()
    }

    fn not_a_member(&self, why: &str) -> LogError {
        LogError::Fenced(format!(
            "this host is no member of group '{}': {why}",
            self.group
        ))
    }
}

#[async_trait]
impl Membership for KafkaMembership {
    async fn change(&self) -> Option<AssignmentChange> {
        let mut changes = self.changes.lock().await;
        tokio::select! {
            biased;
            () = self.state.stopped() => None,
            change = changes.recv() => change,
            // What was told before comes first.
            () = self.state.failed() => None,
        }
    }

    async fn confirm(&self) -> Result<(), LogError> {
        if let Some(fatal) = self.state.fatal() {
            return Err(fatal);
        }
        let Some(partition) = self.state.any_partition() else {
            return Err(self.not_a_member("wait for its next assignment"));
        };
        // What is committed has to be something: the journal's end, so that lag tools show none.
        let of = TopicPartition {
            topic: self.journal.clone(),
            partition,
        };
        let end = self.topics.range(&of).await?.end;
        let member = self
            .member()
            .ok_or_else(|| self.not_a_member("it has left"))?;
        let offsets = offsets([(&of, end)]);
        let committing = blocking(move || Ok(member.commit(&offsets, CommitMode::Sync)));
        let committed = tokio::time::timeout(limits::KAFKA_REQUEST_MAX, committing).await;
        let what = format!("confirming the membership in group '{}'", self.group);
        match committed {
            Ok(committed) => committed?.map_err(|failed| match error::code_of(&failed) {
                Code::Fatal => self
                    .state
                    .fatal()
                    .unwrap_or_else(|| self.not_a_member("fenced")),
                code => error::asked(code, &what),
            }),
            Err(_) => Err(LogError::Unavailable(format!("{what}: no answer in time"))),
        }
    }

    fn report(&self, next: &BTreeMap<TopicPartition, Offset>) {
        // A commit by a member whose session has ended would fence the one that it is about to be.
        if next.is_empty() || self.state.any_partition().is_none() {
            return;
        }
        let Some(member) = self.member() else {
            return;
        };
        let offsets = offsets(next.iter().map(|(of, next)| (of, *next)));
        if let Err(error) = member.commit(&offsets, CommitMode::Async) {
            tracing::debug!(group = self.group, "offsets for lag tools: {error}");
        }
    }

    async fn leave(&self) {
        self.state.stop(true);
        {
            // The thread may wait for room, or for a revoked partition: both end here.
            let mut changes = self.changes.lock().await;
            changes.close();
            while changes.try_recv().is_ok() {}
        }
        self.thread.unpark();
        let Some(closed) = self.closed.lock().take() else {
            return;
        };
        if tokio::time::timeout(limits::KAFKA_LEAVE_MAX, closed)
            .await
            .is_err()
        {
            tracing::warn!(
                group = self.group,
                "the group did not answer in time: its partitions move when the session ends"
            );
        }
    }
}

impl Drop for KafkaMembership {
    fn drop(&mut self) {
        self.state.stop(false);
        self.changes.get_mut().close();
        self.thread.unpark();
    }
}

impl fmt::Debug for KafkaMembership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaMembership")
            .field("group", &self.group)
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}

fn offsets<'a>(of: impl IntoIterator<Item = (&'a TopicPartition, Offset)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (of, next) in of {
        let next = ListedOffset::Offset(i64::try_from(next.0).unwrap_or(i64::MAX));
        list.add_partition_offset(of.topic.as_str(), native_partition(of), next)
            .expect("a fresh entry takes any offset");
    }
    list
}

/// The membership's thread: polls until the end, then leaves and closes.
fn run(slot: &Slot, state: &State) {
    let Some(member) = slot.lock().clone() else {
        return;
    };
    let thread = std::thread::current();
    let events = Events::of_member(&*member, move || thread.unpark());
    match member.subscribe(&[state.journal().as_str()]) {
        Ok(()) => {
            while !state.is_stopped() {
                serve(&member, &events, state);
                std::thread::park_timeout(POLL_PAUSE);
            }
            if state.is_leaving() && state.fatal().is_none() {
                leave(&member, &events, state);
            }
        }
        Err(error) => tracing::error!(group = state.group(), "joining the group: {error}"),
    }
    drop(events);
    slot.lock().take();
    close(member);
}

/// Serves what has happened, and at least polls once.
fn serve(member: &Member, events: &Events, state: &State) {
    loop {
        // Partitions are paused: what comes here are errors, and they have gone to the context.
        drop(member.poll(Duration::ZERO));
        if events.len() == 0 {
            break;
        }
    }
    if let Some((code, why)) = member.client().fatal_error() {
        state.fail(code, &why);
    }
}

/// Static members do not leave when they are closed, only when they unsubscribe.
fn leave(member: &Member, events: &Events, state: &State) {
    member.unsubscribe();
    let clock = Clock::system();
    while clock.elapsed() < limits::KAFKA_LEAVE_MAX {
        serve(member, events, state);
        // librdkafka forgets the member's id when it has sent its farewell.
        if native::member_id(member).is_empty() {
            return;
        }
        std::thread::park_timeout(LEAVE_PAUSE);
    }
}

/// Closes the member once nobody else uses it; questions under way end with the session at latest.
fn close(mut member: Arc<Member>) {
    loop {
        match Arc::try_unwrap(member) {
            Ok(member) => return drop(member),
            Err(shared) => member = shared,
        }
        drop(member.poll(Duration::ZERO));
        std::thread::park_timeout(LEAVE_PAUSE);
    }
}

/// Partitions of the journal in a list of librdkafka's.
fn partitions(list: &TopicPartitionList, journal: &TopicName) -> Vec<Partition> {
    list.elements_for_topic(journal.as_str())
        .iter()
        .filter_map(|element| u32::try_from(element.partition()).ok().map(Partition))
        .collect()
}
