//! The state port: durable states of one partition of one generation of a plugin, with the position
//! they belong to. Called by `partition`; the adapters lie beside it.
//!
//! Invariants every adapter keeps: a commit is atomic and durable when it returns; states and
//! checkpoint are never seen apart; opening fences every earlier opener, whose commits then fail
//! with [`StateError::Fenced`].

use std::fmt;
use std::ops::{Bound, Range};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::limits;
use crate::telemetry::PartitionLabels;
use crate::types::{DeploymentId, Digest, Epoch, GenerationId, Offset, Partition, PluginName};

mod changes;
mod checkpoint;
#[cfg(test)]
pub(crate) mod faults;
mod feed;
mod history;
pub mod objects;
mod pages;
mod parked;
pub mod slate;

pub use changes::{StateChanges, StateChangesBuilder};
pub use feed::{ChangeNumber, FeedPage, FeedTerms, KeyChange};
pub use history::IndexedEvent;
pub use parked::{ActionPoint, ParkedCause, ParkedRecord};

/// Each kind of entry of a store has a first byte of its own.
const _: () = {
    let prefixes = [
        checkpoint::STATE_PREFIX_V1,
        parked::PARKED_PREFIX,
        feed::CHANGE_PREFIX,
        feed::NUMBER_PREFIX,
        feed::DELETION_PREFIX,
        history::HISTORY_PREFIX,
        pages::PAGE_PREFIX,
        pages::BOUND_PREFIX,
    ];
    let mut at = 1;
    while at < prefixes.len() {
        assert!(prefixes[at - 1] < prefixes[at]);
        at += 1;
    }
};

/// Stored keys of all entries of a kind, by its first byte.
fn all_of(prefix: u8) -> (Bound<Bytes>, Bound<Bytes>) {
    let first_with = |prefix| Bytes::copy_from_slice(&[prefix]);
    (
        Bound::Included(first_with(prefix)),
        Bound::Excluded(first_with(prefix + 1)),
    )
}

/// Which store: one for each partition of each generation of each plugin.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreId {
    /// Name of the plugin.
    pub plugin: PluginName,
    /// Number of the generation.
    pub generation: GenerationId,
    /// Number of the partition.
    pub partition: Partition,
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.plugin, self.generation, self.partition)
    }
}

impl From<&StoreId> for PartitionLabels {
    fn from(id: &StoreId) -> Self {
        Self {
            plugin: id.plugin.clone(),
            generation: id.generation,
            partition: id.partition,
        }
    }
}

/// State of one key, with the offset of the last event that changed it and that event's timestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyState {
    /// The plugin's bytes.
    pub state: Bytes,
    /// Offset of the last event that changed them.
    pub changed_at: Offset,
    /// That event's timestamp, in milliseconds since the Unix epoch.
    pub changed_at_ms: i64,
}

impl KeyState {
    /// Whether there is no state, only the number of the events that it had.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.as_ref().is_gone()
    }

    /// Of a command handler's key, how many events it has had.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.place().0
    }

    /// The place of the last change, without the mark of a state that is gone.
    pub(super) fn place(&self) -> Offset {
        Offset(self.changed_at.0 & !GONE)
    }

    /// The same, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> StateRef<'_> {
        StateRef {
            state: &self.state,
            changed_at: self.changed_at,
            changed_at_ms: self.changed_at_ms,
        }
    }
}

/// Keys with their states, in order of key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatePage {
    /// The states. None = there are no more.
    pub states: Vec<(Bytes, KeyState)>,
    /// Whether nothing of what was asked for is behind them.
    pub is_last: bool,
}

impl StatePage {
    /// The last key, if there may be more behind it.
    #[must_use]
    pub fn until(&self) -> Option<&Bytes> {
        let last = self.states.last().filter(|_| !self.is_last);
        last.map(|(key, _)| key)
    }

    /// Whether it has as much as is returned at once: `limit` keys, or [`limits::STATE_SCAN_BYTES_MAX`].
    #[must_use]
    pub fn is_full(&self, limit: usize) -> bool {
        let sizes = self.states.iter().map(bytes_of);
        self.states.len() >= limit || sizes.sum::<usize>() >= limits::STATE_SCAN_BYTES_MAX
    }

    /// Drops what is behind the first so many keys.
    pub fn truncate(&mut self, keys: usize) {
        if self.states.len() > keys {
            self.states.truncate(keys);
            self.is_last = false;
        }
    }
}

/// Bytes of a key with its state.
fn bytes_of((key, state): &(Bytes, KeyState)) -> usize {
    key.len() + state.state.len()
}

/// As [`KeyState`], borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateRef<'a> {
    /// The plugin's bytes.
    pub state: &'a [u8],
    /// Offset of the last event that changed them.
    pub changed_at: Offset,
    /// That event's timestamp, in milliseconds since the Unix epoch.
    pub changed_at_ms: i64,
}

/// Of a command handler, the place of a change is the number of its key's events. This bit of it says that the
/// last of them has left no state: the number stays, so that it never comes twice.
const GONE: u64 = 1 << 63;

impl StateRef<'_> {
    /// The number of a key's events where the last of them has left no state.
    #[must_use]
    pub fn gone_at(version: Offset) -> Offset {
        Offset(version.0 | GONE)
    }

    /// Whether there is no state, only the number of the events that it had.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.changed_at.0 & GONE != 0
    }

    /// A copy that stands alone.
    #[must_use]
    pub fn to_owned(self) -> KeyState {
        KeyState {
            state: Bytes::copy_from_slice(self.state),
            changed_at: self.changed_at,
            changed_at_ms: self.changed_at_ms,
        }
    }
}

/// What the states of a store belong to. Written with every commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Ownership under which it was written; only ever grows.
    pub epoch: Epoch,
    /// Deployment whose code folded the last event.
    pub deployment: DeploymentId,
    /// That code.
    pub digest: Digest,
    /// First offset that is not folded.
    pub next: Offset,
    /// The last record that was folded, by which a log that was replaced is recognised.
    pub last: Option<LastRecord>,
    /// Offset of the first record of this generation, as `start` was resolved.
    pub start: Offset,
    /// Whether the log reached back to its first record when this generation began.
    pub history_complete: bool,
    /// Input topic's identity, where the log can tell.
    pub topic_id: Option<[u8; 16]>,
    /// Input topic's number of partitions: keys move when it changes.
    pub partitions: u32,
    /// First offset that the code of `deployment` folded, in place of earlier code; `start` where it
    /// folded all.
    pub folds_from: Offset,
    /// Offsets that were removed from the log before they were folded, and were allowed to be missing.
    pub gaps: u64,
    /// Its states are still being migrated from another store: nothing may be folded on them.
    pub incomplete: bool,
    /// This generation has published: a position record of it, or of the one that it was kept beside, at or
    /// past `next`, is in the journal.
    pub published: bool,
    /// How far the operator's actions on parked records are applied.
    pub action: ActionPoint,
    /// From which offset on every event that was folded is in the index of its key's events; `None` = none is.
    pub indexed_from: Option<Offset>,
}

/// Identity of a folded record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// xxh3-64 of its key and value, each behind its length.
    pub hash: u64,
}

/// One atomic commit: changed states and what they belong to. Shared with the store, not copied: it is tried
/// again where it fails.
#[derive(Debug)]
pub struct Commit {
    /// What changed since the commit before.
    pub changes: StateChanges,
    /// Records that were parked since, and (`None`) those that are not parked any more, each offset once.
    pub parked: Vec<(Offset, Option<Arc<ParkedRecord>>)>,
    /// That the changes are remembered in the feed, and how; `None` = the plugin has no feed.
    pub feed: Option<FeedTerms>,
    /// Where the events lie that were folded since, if they are indexed.
    pub history: Vec<IndexedEvent>,
    /// Position after these changes.
    pub checkpoint: Checkpoint,
}

/// States of a partition, ordered by key.
#[async_trait]
pub trait PartitionStore: Send + Sync + fmt::Debug {
    /// What the last commit wrote; `None` in a new store.
    ///
    /// # Errors
    /// [`StateError::Newer`] for a store written by a newer version; [`StateError::Corrupt`].
    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StateError>;

    /// Committed state of a key.
    ///
    /// # Errors
    /// Any [`StateError`].
    async fn get(&self, key: &[u8]) -> Result<Option<KeyState>, StateError>;

    /// Committed states of `keys`, in their order; fewer than asked for where the states so far have
    /// `bytes_max` or more, but at least one. They share no memory with anything that the store
    /// keeps.
    ///
    /// # Errors
    /// Any [`StateError`].
    async fn get_many(
        &self,
        keys: &[Bytes],
        bytes_max: usize,
    ) -> Result<Vec<Option<KeyState>>, StateError>;

    /// Committed states behind `after` (exclusive; `None` = from the first) that start with
    /// `prefix`, in order of key: at most `limit`, and no more once they have
    /// [`limits::STATE_SCAN_BYTES_MAX`].
    ///
    /// # Errors
    /// Any [`StateError`].
    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<StatePage, StateError>;

    /// All parked records that are committed, in order of offset; who parks them bounds them.
    ///
    /// # Errors
    /// Any [`StateError`].
    async fn parked(&self) -> Result<Vec<ParkedRecord>, StateError>;

    /// Committed changes that the feed remembers, from a number on (`None` = none of them, only where the feed is),
    /// in order, at most `limit`. `None` = no commit had a feed.
    ///
    /// A commit without feed interrupts it: whoever had read it before begins again.
    ///
    /// # Errors
    /// Any [`StateError`].
    async fn feed(
        &self,
        from: Option<ChangeNumber>,
        limit: usize,
    ) -> Result<Option<FeedPage>, StateError>;

    /// Committed places of a key's events, of these versions, at most `limit`: in order of their versions, or the
    /// newest first.
    ///
    /// # Errors
    /// Any [`StateError`].
    async fn history(
        &self,
        key: &[u8],
        versions: Range<u64>,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<IndexedEvent>, StateError>;

    /// Writes one commit; durable when it returns.
    ///
    /// # Errors
    /// [`StateError::Fenced`] when a later opener has the store: nothing was written.
    async fn commit(&self, commit: Arc<Commit>) -> Result<(), StateError>;

    /// Merges and collects what earlier commits left, if worth while: from nothing at all to seconds.
    /// It may run beside reads and commits; a second call beside the first does nothing.
    ///
    /// # Errors
    /// Any [`StateError`]; nothing is lost by it.
    async fn maintain(&self) -> Result<(), StateError>;

    /// Closes the store. What was committed stays.
    async fn close(&self);
}

/// The states of a store as one commit left them, whatever is committed meanwhile.
#[async_trait]
pub trait StateSnapshot: Send + Sync + fmt::Debug {
    /// What that commit wrote; `None` if there was none.
    ///
    /// # Errors
    /// As [`PartitionStore::checkpoint`].
    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StateError>;

    /// As [`PartitionStore::scan`], without a prefix.
    ///
    /// # Errors
    /// Any [`StateError`].
    async fn scan(&self, after: Option<&[u8]>, limit: usize) -> Result<StatePage, StateError>;

    /// As [`PartitionStore::parked`].
    ///
    /// # Errors
    /// Any [`StateError`].
    async fn parked(&self) -> Result<Vec<ParkedRecord>, StateError>;

    /// Places of events of all keys, behind one of them, in the store's order, at most `limit`.
    ///
    /// # Errors
    /// Any [`StateError`].
    async fn history(
        &self,
        after: Option<&IndexedEvent>,
        limit: usize,
    ) -> Result<Vec<IndexedEvent>, StateError>;

    /// Lets go of it.
    async fn close(&self);
}

/// Opens stores.
#[async_trait]
pub trait StateStore: Send + Sync + fmt::Debug {
    /// Opens a store, creating it if there is none, and fences whoever had it open.
    ///
    /// # Errors
    /// [`StateError::Unavailable`], [`StateError::Corrupt`], [`StateError::Newer`].
    async fn open(&self, id: &StoreId) -> Result<Box<dyn PartitionStore>, StateError>;

    /// The states of a store as its last commit left them; fences nobody. `None` if there is no such
    /// store.
    ///
    /// # Errors
    /// Any [`StateError`].
    async fn snapshot(&self, id: &StoreId) -> Result<Option<Box<dyn StateSnapshot>>, StateError>;

    /// Every generation of every plugin that has stores.
    ///
    /// # Errors
    /// [`StateError::Unavailable`]: try again.
    async fn generations(&self) -> Result<Vec<(PluginName, GenerationId)>, StateError>;

    /// Deletes all stores of a plugin's generation. Nothing happens where there are none.
    ///
    /// # Errors
    /// [`StateError::Unavailable`]: try again.
    async fn delete(&self, plugin: &PluginName, generation: GenerationId)
    -> Result<(), StateError>;
}

/// What can go wrong with a store, by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It may pass: try again after a pause.
    #[error("the object store does not answer: {0}")]
    Unavailable(String),
    /// A later owner has opened this store.
    #[error("a later owner has opened this state: {0}")]
    Fenced(String),
    /// It cannot be written: rights, a full or read-only disk.
    #[error("the object store cannot be written: {0}")]
    NotWritable(String),
    /// What is stored cannot be read.
    #[error(
        "the state is damaged: {0}; delete the plugin and deploy it again to rebuild it from the log"
    )]
    Corrupt(String),
    /// A newer version wrote it.
    #[error(
        "the state has format {found}, this version reads up to {known}: start the newer version"
    )]
    Newer {
        /// Format found.
        found: u8,
        /// Newest format that this version reads.
        known: u8,
    },
}

impl StateError {
    /// Whether the same call may succeed later without anybody changing the data.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::NotWritable(_))
    }
}
