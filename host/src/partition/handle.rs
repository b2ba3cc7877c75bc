//! A partition as others see it: its status, states of keys, and a wait for a position. Shared
//! between its worker, which writes, and queries, which read.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, watch};

use super::deciding::{Answer, CommandFault, CommandRequest, Queued, Sequence, Waiting};
use super::history::{self, History};
use super::parking::{ParkedKey, Parking};
use super::table::{SharedTable, StateBudget};
use super::{Blocked, CodeInUse, Control, PartitionSpec, PartitionStatus, Phase};
use crate::limits;
use crate::state::{
    ChangeNumber, FeedPage, IndexedEvent, KeyState, ParkedRecord, PartitionStore, StateError,
    StatePage,
};
use crate::types::Offset;

/// A partition that this host has open. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PartitionHandle {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) spec: PartitionSpec,
    pub(super) status: RwLock<PartitionStatus>,
    pub(super) next: watch::Sender<Offset>,
    pub(super) table: Arc<SharedTable>,
    pub(super) store: OnceLock<Arc<dyn PartitionStore>>,
    pub(super) block: Mutex<Option<Blocked>>,
    pub(super) block_requested: Notify,
    pub(super) commit_requested: Notify,
    pub(super) committed: watch::Sender<Offset>,
    /// What the worker is told.
    pub(super) control: watch::Sender<Control>,
    /// The code that folds and answers now.
    pub(super) in_use: RwLock<Arc<CodeInUse>>,
    /// How its part of the merge stage is.
    merging: RwLock<Merging>,
    /// Why commands from topics are not decided any further, and their topic's identity.
    commands_blocked: RwLock<Option<(Blocked, Option<[u8; 16]>)>>,
    /// What is set aside for an operator.
    pub(super) parking: RwLock<Parking>,
    /// Where events lie that no commit holds yet.
    pub(super) history: RwLock<History>,
    /// Commands for it, and the end of the queue from which its worker takes them.
    commands: mpsc::Sender<Queued>,
    queue: Mutex<Option<mpsc::Receiver<Queued>>>,
}

impl Shared {
    /// The end of the queue from which commands are taken; for the worker, once.
    pub(super) fn take_commands(&self) -> Option<mpsc::Receiver<Queued>> {
        self.queue.lock().take()
    }
}

/// How the part of the merge stage is that goes with a partition: the inputs that its owner copies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merging {
    /// Records of the inputs that are not copied yet.
    pub lag_records: u64,
    /// Why an input is not copied any further, and its topic's identity.
    pub blocked: Option<(Blocked, Option<[u8; 16]>)>,
}

/// Answer to [`PartitionHandle::state`].
#[derive(Debug, Clone)]
pub struct Lookup {
    /// State of the key, uncommitted folds included.
    pub state: Option<KeyState>,
    /// Of a command handler's key, how many events it has had, also where the last of them has left no state.
    pub counted: u64,
    /// First offset that was not folded when it was looked up.
    pub next: Offset,
    /// How many offsets the partition was behind.
    pub lag_events: u64,
}

impl PartitionHandle {
    /// A handle for a partition whose worker is about to start.
    #[must_use]
    pub fn new(spec: PartitionSpec, control: Control, budget: StateBudget) -> Self {
        let in_use = RwLock::new(control.code.clone());
        let (commands, queue) = mpsc::channel(limits::COMMANDS_QUEUED_MAX);
        Self {
            shared: Arc::new(Shared {
                spec,
                status: RwLock::new(PartitionStatus::opening()),
                next: watch::Sender::new(Offset(0)),
                table: budget.open_table(),
                store: OnceLock::new(),
                block: Mutex::new(None),
                block_requested: Notify::new(),
                commit_requested: Notify::new(),
                committed: watch::Sender::new(Offset(0)),
                control: watch::Sender::new(control),
                in_use,
                merging: RwLock::default(),
                commands_blocked: RwLock::default(),
                parking: RwLock::default(),
                history: RwLock::new(History::new(None, budget.clone())),
                commands,
                queue: Mutex::new(Some(queue)),
            }),
        }
    }

    /// Whether both are the same opening of the same partition.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// What it folds.
    #[must_use]
    pub fn spec(&self) -> &PartitionSpec {
        &self.shared.spec
    }

    /// The code that folds and answers now.
    #[must_use]
    pub fn code(&self) -> Arc<CodeInUse> {
        self.shared.in_use.read().clone()
    }

    /// Tells the worker what to do from its next batch on; `change` says whether it changed anything.
    pub fn direct(&self, change: impl FnOnce(&mut Control) -> bool) {
        self.shared.control.send_if_modified(change);
    }

    /// A consistent picture of it, and of what is merged for it.
    #[must_use]
    pub fn status(&self) -> PartitionStatus {
        let mut status = self.shared.status.read().clone();
        {
            let parking = self.shared.parking.read();
            status.parked_keys = parking.keys();
            status.parked_records = parking.records();
        }
        let merging = self.shared.merging.read();
        status.lag_events += merging.lag_records;
        let commands = self.shared.commands_blocked.read();
        if let Some((blocked, topic_id)) = merging.blocked.as_ref().or(commands.as_ref())
            && status.blocked.is_none()
        {
            // It folds what else is merged, and decides what else is commanded; but it does not go on by itself
            // with all of its inputs.
            status.phase = Phase::Blocked;
            status.blocked = Some(blocked.clone());
            status.topic_id = *topic_id;
        }
        status
    }

    /// Takes note of how its part of the merge stage is.
    pub fn note_merging(&self, merging: Merging) {
        *self.shared.merging.write() = merging;
    }

    /// Takes note of the command from a topic before which it has stopped, if it has.
    pub(super) fn note_commands_blocked(&self, blocked: Option<(Blocked, Option<[u8; 16]>)>) {
        *self.shared.commands_blocked.write() = blocked;
    }

    /// Whether its assignment is lost for now.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.shared.status.read().degraded
    }

    /// Whether it has read its backlog or does not go on: nothing more to wait for at start.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(
            self.shared.status.read().phase,
            Phase::Live | Phase::Blocked | Phase::Paused
        )
    }

    /// Whether it may be asked, and is at least as far as `other`.
    #[must_use]
    pub fn has_reached(&self, other: &Self) -> bool {
        let (answers, next) = {
            let status = self.shared.status.read();
            (status.answers, status.next)
        };
        answers && next >= other.shared.status.read().next
    }

    /// State of a key, uncommitted folds included.
    ///
    /// # Errors
    /// [`StateError`] of the store, which is asked for keys that are not in memory.
    pub async fn state(&self, key: &[u8]) -> Result<Lookup, StateError> {
        if let Some(lookup) = self.in_memory(key) {
            return Ok(lookup);
        }
        let stored = self.store()?.get(key).await?;
        // It may have been folded meanwhile: memory is always at least as new as the store.
        Ok(self.in_memory(key).unwrap_or_else(|| self.lookup(stored)))
    }

    /// Keys and states behind `after` that start with `prefix`, in order of key, uncommitted folds included: at
    /// most `limit`, and no more once they have [`limits::STATE_SCAN_BYTES_MAX`].
    ///
    /// # Errors
    /// [`StateError`] of the store.
    pub async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<StatePage, StateError> {
        let mut found = StatePage::default();
        let mut after = after.map(Bytes::copy_from_slice);
        while !found.is_last && !found.is_full(limit) {
            let wanted = limit - found.states.len();
            // Changes first, then the store: what is committed in between is in both, not in none.
            let (changes, is_all) =
                (self.shared.table.read()).uncommitted(prefix, after.as_deref(), wanted);
            let stored = self.store()?.scan(prefix, after.as_deref(), wanted).await?;
            // Behind the last key of either there may be more of it than was read.
            let changes_until = changes.last().filter(|_| !is_all).map(|(key, _)| key);
            let ends = stored.until().into_iter().chain(changes_until);
            let until = ends.min().cloned();
            found.is_last = until.is_none();
            merge(stored.states, changes, until.as_ref(), &mut found.states);
            after = until;
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Committed changes that the feed remembers, as [`PartitionStore::feed`] gives them.
    ///
    /// # Errors
    /// [`StateError`] of the store.
    pub async fn feed(
        &self,
        from: Option<ChangeNumber>,
        limit: usize,
    ) -> Result<Option<FeedPage>, StateError> {
        self.store()?.feed(from, limit).await
    }

    /// Committed keys and states behind `after`, in order of key, at most `limit`, those included that are gone.
    ///
    /// # Errors
    /// [`StateError`] of the store.
    pub async fn scan_committed(
        &self,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<StatePage, StateError> {
        self.store()?.scan(&[], after, limit).await
    }

    /// Committed states of keys, as [`PartitionStore::get_many`] gives them.
    ///
    /// # Errors
    /// [`StateError`] of the store.
    pub async fn committed(
        &self,
        keys: &[Bytes],
        bytes_max: usize,
    ) -> Result<Vec<Option<KeyState>>, StateError> {
        self.store()?.get_many(keys, bytes_max).await
    }

    /// Told of every commit from now on.
    #[must_use]
    pub fn commits(&self) -> watch::Receiver<Offset> {
        self.shared.committed.subscribe()
    }

    /// Keys that are parked, behind `after`, in order, at most `limit`.
    #[must_use]
    pub fn parked(&self, after: Option<&[u8]>, limit: usize) -> Vec<ParkedKey> {
        self.shared.parking.read().list(after, limit)
    }

    /// A key, if it is parked.
    #[must_use]
    pub fn parked_key(&self, key: &[u8]) -> Option<ParkedKey> {
        self.shared.parking.read().find(key)
    }

    /// Parked records of a key from `from` on, in order, at most `limit`.
    #[must_use]
    pub fn parked_records(&self, key: &[u8], from: Offset, limit: usize) -> Vec<Arc<ParkedRecord>> {
        self.shared.parking.read().of_key(key, from, limit)
    }

    /// From which offset on the events of all keys are indexed, if any are.
    #[must_use]
    pub fn indexed_from(&self) -> Option<Offset> {
        self.shared.history.read().from()
    }

    /// Places of a key's events, of these versions, at most `limit`: in order of their versions, or the newest first;
    /// those that no commit holds yet included, none where they are not indexed.
    ///
    /// # Errors
    /// [`StateError`] of the store.
    pub async fn history(
        &self,
        key: &[u8],
        versions: Range<u64>,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<IndexedEvent>, StateError> {
        let Some(from) = self.indexed_from() else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        let mut versions = versions;
        loop {
            let wanted = limit - found.len();
            // First what waits, then the store: what is committed in between is in both, not in none.
            let waiting = self.shared.history.read().of_key(key, &versions);
            let store = self.store()?;
            let stored = store.history(key, versions.clone(), newest_first, wanted);
            let page = history::merge(stored.await?, waiting, newest_first, wanted);
            let last = page.last().map(|event| event.version);
            let is_full = page.len() >= wanted;
            // Code in between may have indexed nothing: what lies before has gaps.
            found.extend(page.into_iter().filter(|event| event.offset >= from));
            match last {
                Some(last) if is_full && found.len() < limit && !newest_first => {
                    versions.start = last + 1;
                }
                _ => return Ok(found),
            }
        }
    }

    /// Has a command decided, and waits for what comes of it.
    ///
    /// # Errors
    /// [`CommandFault`]: there is no outcome.
    pub async fn command(&self, request: CommandRequest) -> Result<Answer, CommandFault> {
        if self.shared.status.read().phase != Phase::Live {
            return Err(CommandFault::NotDeciding);
        }
        let (queued, waiting) = Queued::new(request, None);
        match self.shared.commands.try_send(queued) {
            Ok(()) => waiting.answered().await,
            Err(mpsc::error::TrySendError::Full(_)) => Err(CommandFault::QueueFull),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(CommandFault::NotDeciding),
        }
    }

    /// Puts a command into the queue as soon as there is room, behind those of its sequence that are there.
    ///
    /// # Errors
    /// [`CommandFault`]: it is not in the queue, and the sequence is broken.
    pub async fn enqueue(
        &self,
        request: CommandRequest,
        sequence: &Sequence,
    ) -> Result<Waiting, CommandFault> {
        let refused = |fault| {
            sequence.break_off();
            Err(fault)
        };
        if sequence.is_broken() {
            return Err(CommandFault::Behind);
        }
        if self.shared.status.read().phase != Phase::Live {
            return refused(CommandFault::NotDeciding);
        }
        let room = self.shared.commands.reserve();
        match tokio::time::timeout(limits::COMMAND_WAIT_MAX, room).await {
            Ok(Ok(room)) => {
                let (queued, waiting) = Queued::new(request, Some(sequence.clone()));
                room.send(queued);
                Ok(waiting)
            }
            Ok(Err(_)) => refused(CommandFault::NotDeciding),
            Err(_) => refused(CommandFault::QueueFull),
        }
    }

    /// Waits until the record at `offset` is folded; `false` if that takes longer than `within`.
    pub async fn wait_folded(&self, offset: Offset, within: Duration) -> bool {
        let mut next = self.shared.next.subscribe();
        let reached = next.wait_for(|next| *next > offset);
        matches!(tokio::time::timeout(within, reached).await, Ok(Ok(_)))
    }

    /// Has everything committed that is folded now; `false` if that takes longer than `within`.
    pub async fn commit_now(&self, within: Duration) -> bool {
        let folded = self.shared.status.read().next;
        self.shared.commit_requested.notify_one();
        let mut committed = self.shared.committed.subscribe();
        let reached = committed.wait_for(|committed| *committed >= folded);
        matches!(tokio::time::timeout(within, reached).await, Ok(Ok(_)))
    }

    /// Stops folding with a reason that lies outside the partition, such as a changed topic. It goes
    /// on answering.
    pub fn request_block(&self, reason: Blocked) {
        *self.shared.block.lock() = Some(reason);
        self.shared.block_requested.notify_one();
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut PartitionStatus)) {
        change(&mut self.shared.status.write());
    }

    /// Says that the assignment is lost for now: it answers, and folds nothing.
    pub fn mark_degraded(&self) {
        self.update(|status| status.degraded = true);
    }

    /// Says that its worker ended with `error` and that it is opened again.
    pub fn mark_failed(&self, error: String) {
        self.update(|status| status.last_error = Some(error));
    }

    /// Whether it cannot go on by itself.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.shared.status.read().phase == Phase::Blocked
    }

    fn store(&self) -> Result<&Arc<dyn PartitionStore>, StateError> {
        self.shared.store.get().ok_or_else(|| {
            StateError::Unavailable(format!("{} is still being opened", self.shared.spec.store))
        })
    }

    fn in_memory(&self, key: &[u8]) -> Option<Lookup> {
        let table = self.shared.table.read();
        let state = table.get(key)?;
        drop(table);
        Some(self.lookup(state))
    }

    fn lookup(&self, state: Option<KeyState>) -> Lookup {
        let status = self.shared.status.read();
        Lookup {
            counted: state.as_ref().map_or(0, KeyState::version),
            state: state.filter(|state| !state.is_gone()),
            next: status.next,
            lag_events: status.lag_events,
        }
    }
}

/// Merges stored states with newer changes, both in order of key; of two states of a key, the later
/// one wins.
fn merge(
    stored: Vec<(Bytes, KeyState)>,
    changes: Vec<(Bytes, Option<KeyState>)>,
    until: Option<&Bytes>,
    into: &mut Vec<(Bytes, KeyState)>,
) {
    let is_there = |state: &KeyState| !state.is_gone();
    let is_within = |key: &Bytes| until.is_none_or(|until| key <= until);
    let mut changes = changes
        .into_iter()
        .take_while(|(key, _)| is_within(key))
        .peekable();
    for (key, state) in stored.into_iter().take_while(|(key, _)| is_within(key)) {
        while let Some((changed_key, changed)) = changes.next_if(|(changed, _)| *changed < key) {
            into.extend(changed.filter(is_there).map(|state| (changed_key, state)));
        }
        let newer = match changes.next_if(|(changed, _)| *changed == key) {
            Some((_, None)) => None,
            Some((_, Some(changed))) if changed.version() >= state.version() => Some(changed),
            Some(_) | None => Some(state),
        };
        into.extend(newer.filter(is_there).map(|state| (key, state)));
    }
    into.extend(changes.filter_map(|(key, changed)| {
        let state = changed.filter(is_there)?;
        Some((key, state))
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(text: &'static str, changed_at: u64) -> KeyState {
        KeyState {
            state: Bytes::from_static(text.as_bytes()),
            changed_at: Offset(changed_at),
            changed_at_ms: 0,
        }
    }

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn changes_override_add_and_delete() {
        let stored = vec![(key("b"), state("old", 1)), (key("d"), state("old", 1))];
        let changes = vec![
            (key("a"), Some(state("new", 2))),
            (key("b"), None),
            (key("d"), Some(state("new", 2))),
            (key("e"), Some(state("new", 2))),
        ];
        let mut all = Vec::new();
        merge(stored.clone(), changes.clone(), None, &mut all);
        let keys: Vec<_> = all
            .iter()
            .map(|(key, state)| (key.as_ref(), state.changed_at.0))
            .collect();
        assert_eq!(keys, [(&b"a"[..], 2), (b"d", 2), (b"e", 2)]);

        let mut page = Vec::new();
        merge(stored, changes, Some(&key("d")), &mut page);
        assert_eq!(
            page.len(),
            2,
            "what lies behind a full page of the store waits for the next one"
        );
    }
}
