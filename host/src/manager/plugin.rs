//! What runs under a name on this host: what was decided, the code, and the partitions that are open
//! here, of every generation. Written by `follow` and `run`, read by `http` and `cluster`.
//!
//! Invariants: for each partition one handle answers at a time, and never one that is behind another
//! that answered before; how keys are spread changes in the same moment as the handles that answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::deployments::{Decided, Deployment};
use super::instances::QueryPool;
use crate::partition::{CodeInUse, MergeProgress, PartitionHandle, Phase};
use crate::plugin::{CallError, Capabilities, Kind, Payload, PluginCode, QueryError, Question};
use crate::types::{DeploymentId, GenerationId, Partition, PluginName, RecordPosition};

/// A plugin on this host.
#[derive(Debug)]
pub struct Plugin {
    name: PluginName,
    first: DeploymentId,
    decided: watch::Sender<Arc<Decided>>,
    state: RwLock<State>,
    /// The threads that may be kept busy by an answer.
    answerers: Handle,
}

#[derive(Debug)]
struct State {
    /// The deployment that answers here: by its number of partitions, keys are found.
    serving: Arc<Deployment>,
    pools: BTreeMap<DeploymentId, Arc<QueryPool>>,
    /// Every partition that is open here.
    open: BTreeMap<(GenerationId, Partition), PartitionHandle>,
    /// Who answers.
    seats: BTreeMap<Partition, Seat>,
    /// Partitions that the group has given this host, once it has said so.
    assigned: Option<BTreeSet<Partition>>,
    /// How far its inputs are merged, where they are.
    merges: Option<MergeProgress>,
    foreign: Foreign,
    last_error: Option<String>,
}

/// Records in the topic that a plugin owns which somebody else wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    /// How many this host has seen since it started.
    pub records: u64,
    /// The last of them.
    pub last: Option<RecordPosition>,
}

/// Who answers for a partition.
#[derive(Debug)]
struct Seat {
    current: PartitionHandle,
    /// Answers until `current` is at least as far.
    before: Option<PartitionHandle>,
}

impl Seat {
    fn answering(&self) -> &PartitionHandle {
        match &self.before {
            Some(before) if !self.is_taken_over(before) => before,
            _ => &self.current,
        }
    }

    fn is_taken_over(&self, before: &PartitionHandle) -> bool {
        let is_stuck = || {
            let blocked = self.current.status().blocked;
            blocked.is_some_and(|blocked| !blocked.is_about_event())
        };
        self.current.has_reached(before) || is_stuck()
    }
}

impl Plugin {
    pub(super) fn new(decided: Arc<Decided>, answerers: Handle) -> Self {
        let serving = decided.serving.deployment.clone();
        Self {
            name: serving.name.clone(),
            first: decided.first,
            decided: watch::Sender::new(decided),
            answerers,
            state: RwLock::new(State {
                serving,
                pools: BTreeMap::new(),
                open: BTreeMap::new(),
                seats: BTreeMap::new(),
                assigned: None,
                merges: None,
                foreign: Foreign::default(),
                last_error: None,
            }),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &PluginName {
        &self.name
    }

    /// The deployment that brought its name: tells it from a later plugin of the same name.
    #[must_use]
    pub fn first(&self) -> DeploymentId {
        self.first
    }

    /// All that was decided about it.
    #[must_use]
    pub fn decided(&self) -> Arc<Decided> {
        self.decided.borrow().clone()
    }

    /// The deployment that answers on this host.
    #[must_use]
    pub fn deployment(&self) -> Arc<Deployment> {
        self.state.read().serving.clone()
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.deployment().kind
    }

    /// What it can do; `None` until its component is loaded.
    #[must_use]
    pub fn capabilities(&self) -> Option<Capabilities> {
        self.code().map(|code| code.inspection().capabilities)
    }

    /// The code that answers; `None` while the component is being fetched and compiled.
    #[must_use]
    pub fn code(&self) -> Option<Arc<dyn PluginCode>> {
        let state = self.state.read();
        if let Some(pool) = state.pools.get(&state.serving.id) {
            return Some(pool.code().clone());
        }
        // Until it is there, the code before it answers.
        let mut seats = state.seats.values();
        seats
            .next()
            .map(|seat| seat.answering().code().code.clone())
    }

    /// Number of partitions of its input, and so of its state.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        self.deployment().partitions
    }

    /// Partition of a key, and who answers for it here.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> (Partition, Option<PartitionHandle>) {
        let state = self.state.read();
        let partition = state.serving.partition_of(key);
        let seat = state.seats.get(&partition);
        (partition, seat.map(|seat| seat.answering().clone()))
    }

    /// Who answers for a partition here.
    #[must_use]
    pub fn local(&self, partition: Partition) -> Option<PartitionHandle> {
        let state = self.state.read();
        let seat = state.seats.get(&partition)?;
        Some(seat.answering().clone())
    }

    /// Who answers for each partition that this host has, in order.
    #[must_use]
    pub fn locals(&self) -> Vec<(Partition, PartitionHandle)> {
        let state = self.state.read();
        let seats = state.seats.iter();
        seats
            .map(|(partition, seat)| (*partition, seat.answering().clone()))
            .collect()
    }

    /// Partitions of a generation that are open here, whether they answer or not.
    #[must_use]
    pub fn open_of(&self, generation: GenerationId) -> BTreeMap<Partition, PartitionHandle> {
        let state = self.state.read();
        let open = state.open.iter();
        open.filter(|((of, _), _)| *of == generation)
            .map(|((_, partition), handle)| (*partition, handle.clone()))
            .collect()
    }

    /// The worst of its partitions here: `blocked`, `paused`, `opening`, `replaying` or `live`.
    #[must_use]
    pub fn status(&self) -> &'static str {
        self.status_of(self.decided().serving.number())
    }

    /// The same for a generation.
    #[must_use]
    pub fn status_of(&self, generation: GenerationId) -> &'static str {
        let open = self.open_of(generation);
        let phases = open.values().map(|handle| handle.status().phase);
        let is_opening = self.missing(generation, &open);
        match phases.min() {
            Some(Phase::Blocked) => "blocked",
            Some(Phase::Paused) => "paused",
            _ if is_opening => "opening",
            Some(Phase::Opening) => "opening",
            Some(Phase::Replaying) => "replaying",
            // Without any, another host has all of its partitions.
            Some(Phase::Live) | None => "live",
        }
    }

    /// Whether nothing is folded here, and what a paused partition answers is answered after a restart too.
    pub(super) fn stands_still(&self) -> bool {
        let state = self.state.read();
        let mut statuses = state.open.values().map(PartitionHandle::status);
        statuses.all(|status| match status.phase {
            Phase::Blocked => true,
            Phase::Paused => status.committed >= status.next,
            Phase::Opening | Phase::Replaying | Phase::Live => false,
        })
    }

    /// Whether the cluster knows of a partition here that is blocked at a record, or none is.
    pub(super) fn knows_blocked(&self, at: &RecordPosition) -> bool {
        let is_blocked_here = {
            let state = self.state.read();
            let mut blocked = state.open.values().filter_map(|it| it.status().blocked);
            blocked.any(|blocked| blocked.at.as_ref() == Some(at))
        };
        !is_blocked_here || self.decided().is_blocked_at(at)
    }

    /// Whether a partition that is this host's is not open in a generation, or, where that answers, nobody answers
    /// for it yet.
    fn missing(
        &self,
        generation: GenerationId,
        open: &BTreeMap<Partition, PartitionHandle>,
    ) -> bool {
        let decided = self.decided();
        let Some(generation) = decided.generation(generation) else {
            return false;
        };
        let partitions = generation.deployment.partitions;
        let state = self.state.read();
        let Some(assigned) = &state.assigned else {
            return true;
        };
        let answers = generation.number() == state.serving.generation;
        let is_there = |partition| {
            open.contains_key(partition) && (!answers || state.seats.contains_key(partition))
        };
        let mut wanted = assigned.iter().filter(|it| it.0 < partitions);
        !wanted.all(is_there)
    }

    /// How many offsets its partitions here are behind, in all.
    #[must_use]
    pub fn lag_events(&self) -> u64 {
        let open = self.open_of(self.decided().serving.number());
        open.values().map(|handle| handle.status().lag_events).sum()
    }

    /// What keeps it from running, while it is tried again.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.state.read().last_error.clone()
    }

    /// Whether everything that this host owns of it is live, or does not go on.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let serving = self.decided().serving.number();
        let open = self.open_of(serving);
        !self.missing(serving, &open) && open.values().all(PartitionHandle::is_settled)
    }

    /// Whether the code of `deployment`, or of a later one, answers for all that this host owns.
    #[must_use]
    pub fn serves(&self, deployment: DeploymentId) -> bool {
        let is_decided = self.decided().serving.deployment.id >= deployment;
        let here = self.locals();
        is_decided
            && here
                .iter()
                .all(|(_, it)| it.code().deployment >= deployment)
    }

    /// Asks it a question about the state of one key, on a pooled instance of the code that `handle`
    /// folds with.
    ///
    /// # Errors
    /// [`CallError`] when the call failed; the plugin's own word is the inner result.
    pub async fn answer(
        &self,
        code: &CodeInUse,
        key: Bytes,
        state: Option<Bytes>,
        question: Question,
    ) -> Result<Result<Payload, QueryError>, CallError> {
        let pool = self.pool(code.deployment, &code.code);
        pool.answer(key, state, question).await
    }

    fn pool(&self, deployment: DeploymentId, code: &Arc<dyn PluginCode>) -> Arc<QueryPool> {
        if let Some(pool) = self.state.read().pools.get(&deployment) {
            return pool.clone();
        }
        let mut state = self.state.write();
        let pool = state.pools.entry(deployment);
        pool.or_insert_with(|| QueryPool::new(code.clone(), self.answerers.clone()))
            .clone()
    }

    /// Takes note of what was decided.
    pub(super) fn decide(&self, decided: Arc<Decided>) {
        self.decided.send_if_modified(|before| {
            let is_news = *before != decided;
            *before = decided;
            is_news
        });
    }

    pub(super) fn decisions(&self) -> watch::Receiver<Arc<Decided>> {
        self.decided.subscribe()
    }

    pub(super) fn loaded(&self, deployment: DeploymentId, code: &Arc<dyn PluginCode>) {
        self.pool(deployment, code);
    }

    /// What the group has given this host; that it could be joined ends what kept it from running.
    pub(super) fn assigned(&self, partitions: &BTreeSet<Partition>) {
        let mut state = self.state.write();
        state.assigned = Some(partitions.clone());
        state.last_error = None;
    }

    /// How far its inputs are merged, where they are.
    #[must_use]
    pub fn merge_progress(&self) -> Option<MergeProgress> {
        self.state.read().merges.clone()
    }

    /// What somebody else wrote to the topic that it owns, as far as this host has seen.
    #[must_use]
    pub fn foreign(&self) -> Foreign {
        self.state.read().foreign.clone()
    }

    /// Takes note of records that somebody else wrote.
    pub(super) fn found_foreign(&self, records: u64, last: RecordPosition) {
        let mut state = self.state.write();
        state.foreign.records += records;
        state.foreign.last = Some(last);
    }

    pub(super) fn merges(&self, progress: MergeProgress) {
        self.state.write().merges = Some(progress);
    }

    pub(super) fn opened(
        &self,
        generation: GenerationId,
        partition: Partition,
        handle: PartitionHandle,
    ) {
        let mut state = self.state.write();
        state.open.insert((generation, partition), handle);
    }

    /// A partition of one generation is not folded here any more. Where it answers, it goes on until
    /// another does.
    pub(super) fn closed(&self, generation: GenerationId, partition: Partition) {
        self.state.write().open.remove(&(generation, partition));
    }

    /// A partition belongs to another host now.
    pub(super) fn left(&self, partition: Partition) {
        let mut state = self.state.write();
        state.open.retain(|(_, open), _| *open != partition);
        state.seats.remove(&partition);
    }

    /// Lets those answer that were decided to, as soon as each is as far as who answers now.
    pub(super) fn reseat(&self, decided: &Decided) {
        let mut state = self.state.write();
        let state = &mut *state;
        let serving = &decided.serving.deployment;
        let is_same_layout = state.serving.partitions == serving.partitions
            && state.serving.partitioner() == serving.partitioner();
        if !is_same_layout {
            let are_there = (0..serving.partitions).map(Partition).all(|partition| {
                let is_ours = state
                    .assigned
                    .as_ref()
                    .is_some_and(|it| it.contains(&partition));
                !is_ours || state.open.contains_key(&(serving.generation, partition))
            });
            if !are_there {
                return;
            }
            // Keys are elsewhere: no handle of the old generation can go on beside the new ones.
            state.seats.clear();
        }
        state.serving = serving.clone();
        for partition in (0..serving.partitions).map(Partition) {
            if let Some(handle) = state.open.get(&(serving.generation, partition)) {
                take_seat(&mut state.seats, partition, handle);
            }
            if let Some(seat) = state.seats.get_mut(&partition)
                && let Some(before) = seat.before.take()
                && !seat.is_taken_over(&before)
            {
                seat.before = Some(before);
            }
        }
        let in_use: BTreeSet<_> = state
            .open
            .values()
            .map(|handle| handle.code().deployment)
            .chain(decided.generations().map(|it| it.deployment.id))
            .collect();
        state
            .pools
            .retain(|deployment, _| in_use.contains(deployment));
    }

    /// Whether nobody of an earlier generation answers for a partition any more.
    pub(super) fn is_switched(&self, generation: GenerationId, partition: Partition) -> bool {
        let state = self.state.read();
        state.seats.get(&partition).is_some_and(|seat| {
            seat.before.is_none()
                && seat.current.spec().store.generation == generation
                && seat.current.status().answers
        })
    }

    pub(super) fn failed(&self, error: String) {
        self.state.write().last_error = Some(error);
    }

    pub(super) fn works(&self) {
        self.state.write().last_error = None;
    }
}

fn take_seat(
    seats: &mut BTreeMap<Partition, Seat>,
    partition: Partition,
    handle: &PartitionHandle,
) {
    let before = match seats.get(&partition) {
        Some(seat) if seat.current.is_same(handle) => return,
        Some(seat) => Some(seat.answering().clone()),
        None => None,
    };
    let seat = Seat {
        current: handle.clone(),
        before: before.filter(|before| before.status().answers),
    };
    seats.insert(partition, seat);
}
