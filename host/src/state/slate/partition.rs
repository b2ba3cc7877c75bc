//! One open database: reads, commits, upkeep. Made by `slate`, called by `partition`'s worker.
//!
//! Invariants: reads see what is durable, never a commit that may still fail; at most one commit
//! that failed waits inside SlateDB, and nothing new is written before it; nothing is collected
//! while a commit is under way. Upkeep may run beside reads and commits. Locks are taken in the
//! order `maintaining`, `writing`. A key's first byte keeps checkpoint, states, parked records and the feed of
//! changes apart, so that states are scanned in order of key.

mod feed;

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, StreamExt as _};
use object_store::path::Path;
use slatedb::config::{
    CloseOptions, DurabilityLevel, FlushOptions, FlushType, ReadOptions, ScanOptions,
};
use slatedb::{CloseReason, Db, DbIterator, ErrorKind, IterationOrder, WriteBatch};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};

use self::feed::{Feed, ROWS_OF_A_CHANGE, Row};
use super::gate::Gate;
use super::merge::Upkeep;
use super::{COMMIT_UNIT_BYTES, MEMTABLE_BYTES, SlateSettings, SlateStore, fault, no_answer, on};
use crate::limits;
use crate::state::changes::STATE_PREFIX;
use crate::state::checkpoint::{decode_checkpoint, decode_state, encode_checkpoint};
use crate::state::history::range_of;
use crate::state::parked::{PARKED_PREFIX, decode_parked, encode_parked, parked_key};
use crate::state::{
    ChangeNumber, Checkpoint, Commit, FeedPage, IndexedEvent, KeyState, ParkedRecord,
    PartitionStore, StateError, StoreId,
};

pub(super) const CHECKPOINT_KEY: &[u8] = b"\x00checkpoint";
/// What SlateDB holds of an entry while it is written, beside key and state.
const WRITTEN_ENTRY_BYTES: usize = 400;
/// Changes that are handed to SlateDB at once.
const BATCH_CHANGES: usize = 512;
/// More than SlateDB counts for an entry of a file, beside key and state.
const FILE_ENTRY_BYTES: usize = 64;
/// Bytes that a scan reads at once.
const SCAN_READ_BYTES: usize = 64 * 1024;

/// An open database. Dropping it without [`close`](PartitionStore::close) ends it the hard way:
/// nothing committed is lost.
pub(super) struct SlatePartition {
    open: Arc<Open>,
    runtime: Handle,
}

struct Open {
    id: StoreId,
    db: Db,
    gate: Gate,
    settings: Arc<SlateSettings>,
    upkeep: Upkeep,
    writing: Mutex<Writing>,
    maintaining: Mutex<()>,
    /// Memory for commits that are being written, shared by all stores of the host.
    commits: Arc<Semaphore>,
    /// Its permits.
    commits_max: usize,
    /// Unmerged commits that reads looked into since the last merge, one by one.
    looks: AtomicUsize,
}

/// What the one who writes has to know.
#[derive(Debug)]
struct Writing {
    /// What a commit that failed or was given up left in SlateDB's memory.
    rest: Rest,
    /// Commits since the last collection; a store that was just opened may have leftovers.
    commits: u64,
    /// Whether anything was committed since the last upkeep.
    changed: bool,
    /// What the last commit left of the feed; `None` = it has to be looked up.
    feed: Option<Feed>,
}

/// What of a commit is in SlateDB's memory and not known to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// None of it.
    Nothing,
    /// Some of its states; they must not become durable without the others and the position.
    Part,
    /// All of it: SlateDB still tries to write it.
    Whole,
}

impl fmt::Debug for SlatePartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlatePartition")
            .field("id", &self.open.id)
            .finish_non_exhaustive()
    }
}

impl SlatePartition {
    pub(super) fn new(id: StoreId, path: Path, db: Db, gate: Gate, host: SlateStore) -> Self {
        let SlateStore {
            settings,
            runtime,
            merges,
            commits: commit_memory,
            ..
        } = host;
        let upkeep = Upkeep::new(path, gate.clone(), Arc::clone(&settings), merges);
        let commits = settings.collect_commits;
        let writing = Mutex::new(Writing {
            rest: Rest::Nothing,
            commits,
            changed: false,
            feed: None,
        });
        let maintaining = Mutex::new(());
        let open = Arc::new(Open {
            id,
            db,
            gate,
            upkeep,
            writing,
            maintaining,
            commits_max: (settings.commits_bytes / COMMIT_UNIT_BYTES).max(1),
            settings,
            commits: commit_memory,
            looks: AtomicUsize::new(0),
        });
        Self { open, runtime }
    }

    async fn run<T, F>(&self, work: impl FnOnce(Arc<Open>) -> F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StateError>> + Send + 'static,
    {
        on(&self.runtime, work(Arc::clone(&self.open))).await
    }
}

impl Drop for SlatePartition {
    fn drop(&mut self) {
        self.open.gate.shut();
        let open = Arc::clone(&self.open);
        self.runtime.spawn(async move { open.close().await });
    }
}

#[async_trait]
impl PartitionStore for SlatePartition {
    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StateError> {
        self.run(|open| async move {
            let found = open.read(CHECKPOINT_KEY).await?;
            found.map(|bytes| decode_checkpoint(&bytes)).transpose()
        })
        .await
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyState>, StateError> {
        let key = state_key(key);
        self.run(|open| async move {
            let found = open.read(&key).await?;
            found.map(|bytes| decode_state(&bytes)).transpose()
        })
        .await
    }

    async fn get_many(
        &self,
        keys: &[Bytes],
        bytes_max: usize,
    ) -> Result<Vec<Option<KeyState>>, StateError> {
        let keys: Vec<Bytes> = keys.iter().map(|key| state_key(key)).collect();
        self.run(|open| async move { open.get_many(keys, bytes_max).await })
            .await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, KeyState)>, StateError> {
        let Some(range) = scan_range(prefix, after) else {
            return Ok(Vec::new());
        };
        self.run(|open| async move { open.scan(range, limit).await })
            .await
    }

    async fn parked(&self) -> Result<Vec<ParkedRecord>, StateError> {
        self.run(|open| async move {
            let found = open.entries(parked_range(), usize::MAX).await?;
            let records = found.iter().map(|(key, bytes)| decode_parked(key, bytes));
            records.collect()
        })
        .await
    }

    async fn feed(
        &self,
        from: Option<ChangeNumber>,
        limit: usize,
    ) -> Result<Option<FeedPage>, StateError> {
        self.run(|open| async move { open.read_feed(from, limit).await })
            .await
    }

    async fn history(
        &self,
        key: &[u8],
        versions: Range<u64>,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<IndexedEvent>, StateError> {
        let range = range_of(key, &versions);
        let order = match newest_first {
            true => IterationOrder::Descending,
            false => IterationOrder::Ascending,
        };
        self.run(|open| async move {
            let found = open.entries_by(range, order, limit).await?;
            let events = found
                .iter()
                .map(|(key, entry)| IndexedEvent::decode(key, entry));
            events.collect()
        })
        .await
    }

    async fn commit(&self, commit: Arc<Commit>) -> Result<(), StateError> {
        self.run(|open| async move { open.commit(commit).await })
            .await
    }

    async fn maintain(&self) -> Result<(), StateError> {
        self.run(|open| async move { open.maintain().await }).await
    }

    async fn close(&self) {
        let closed = self.run(|open| async move {
            open.close().await;
            Ok(())
        });
        if let Err(error) = closed.await {
            tracing::debug!(store = %self.open.id, %error, "the store was not closed cleanly");
        }
    }
}

impl Open {
    async fn read(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let options = ReadOptions::new().with_durability_filter(DurabilityLevel::Remote);
        self.answered(self.db.get_with_options(key, &options)).await
    }

    async fn get_many(
        &self,
        keys: Vec<Bytes>,
        bytes_max: usize,
    ) -> Result<Vec<Option<KeyState>>, StateError> {
        self.looks
            .fetch_add(keys.len() * self.unmerged_commits(), Atomic::Relaxed);
        let mut found = Vec::with_capacity(keys.len());
        let reads = keys
            .into_iter()
            .map(|key| async move { self.read(&key).await });
        let mut reads = stream::iter(reads).buffered(limits::STATE_READS_CONCURRENT_MAX);
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(read) = reads.next().await
        {
            let state = read?.map(|bytes| decode_state(&bytes)).transpose()?;
            // What is read is cut out of a block, which would stay in memory as long as the state.
            let state = state.map(|state| KeyState {
                state: Bytes::copy_from_slice(&state.state),
                ..state
            });
            bytes += state.as_ref().map_or(0, |state| state.state.len());
            found.push(state);
        }
        Ok(found)
    }

    async fn scan(
        &self,
        range: (Bound<Bytes>, Bound<Bytes>),
        limit: usize,
    ) -> Result<Vec<(Bytes, KeyState)>, StateError> {
        let found = self.entries(range, limit).await?;
        found
            .into_iter()
            .map(|(key, bytes)| Ok((key.slice(1..), decode_state(&bytes)?)))
            .collect()
    }

    /// Stored keys and what is stored under them, in order of key.
    async fn entries(
        &self,
        range: (Bound<Bytes>, Bound<Bytes>),
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        self.entries_by(range, IterationOrder::Ascending, limit)
            .await
    }

    async fn entries_by(
        &self,
        range: (Bound<Bytes>, Bound<Bytes>),
        order: IterationOrder,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        self.answered(async {
            let options = scan_options().with_order(order);
            let entries = self.db.scan_with_options(range, &options).await?;
            collect(entries, limit).await
        })
        .await
    }

    async fn commit(&self, commit: Arc<Commit>) -> Result<(), StateError> {
        if self.unmerged_commits() >= limits::STATE_UNMERGED_COMMITS_MAX {
            // Whoever is merging already may be enough.
            let _alone = self.maintaining.lock().await;
            if self.unmerged_commits() >= limits::STATE_UNMERGED_COMMITS_MAX {
                self.merge().await?;
            }
        }
        let mut writing = self.writing.lock().await;
        let units = (written_bytes(&commit) / COMMIT_UNIT_BYTES).clamp(1, self.commits_max);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let _memory = self.commits.acquire_many(units).await;
        let flush = FlushOptions {
            flush_type: FlushType::MemTable,
        };
        if writing.rest == Rest::Whole {
            let rest = self.db.flush_with_options(flush.clone());
            self.written(rest).await?;
            writing.rest = Rest::Nothing;
        }
        // What is known of the feed holds as long as every commit becomes durable, and is one that the feed knows.
        let feed = writing.feed.take();
        let (feed, rows) = match commit.feed {
            None => (None, Vec::new()),
            Some(terms) => {
                let (feed, rows) = self.feed_rows(feed, &commit, terms).await?;
                (Some(feed), rows)
            }
        };
        self.written(async {
            // A part that was left is flushed together with this commit, which covers it.
            let is_alone = writing.rest != Rest::Part;
            writing.rest = Rest::Part;
            for batch in batches_of(&commit, rows, is_alone) {
                self.db.write(batch).await?;
            }
            writing.rest = Rest::Whole;
            self.db.flush_with_options(flush).await?;
            writing.rest = Rest::Nothing;
            Ok(())
        })
        .await?;
        writing.feed = feed;
        writing.commits += 1;
        writing.changed = true;
        Ok(())
    }

    async fn maintain(&self) -> Result<(), StateError> {
        let Ok(_alone) = self.maintaining.try_lock() else {
            return Ok(());
        };
        if !std::mem::take(&mut self.writing.lock().await.changed) {
            return Ok(());
        }
        if self.is_merge_worth_while() {
            self.merge().await?;
        }
        let mut writing = self.writing.lock().await;
        if writing.commits >= self.settings.collect_commits {
            // Whoever was fenced has nothing to collect.
            self.answered(self.db.refresh_manifest()).await?;
            self.answered(self.upkeep.collect()).await?;
            writing.commits = 0;
        }
        Ok(())
    }

    /// Reads look into every commit that is not merged: a merge is worth while once they have cost
    /// what it will cost, or when there are many.
    fn is_merge_worth_while(&self) -> bool {
        let manifest = self.db.manifest();
        let commits = manifest.l0();
        let bytes: u64 = commits.iter().map(|commit| commit.estimate_size()).sum();
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let worth = bytes as f64 * limits::STATE_MERGE_LOOKS_PER_BYTE;
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let looks = self.looks.load(Atomic::Relaxed) as f64;
        commits.len() >= self.settings.merge_commits || (commits.len() > 1 && looks >= worth)
    }

    async fn merge(&self) -> Result<(), StateError> {
        self.looks.store(0, Atomic::Relaxed);
        self.answered(self.db.refresh_manifest()).await?;
        let merged = self
            .upkeep
            .merge(self.db.manifest().compactor_epoch())
            .await;
        // Says also whether a later owner has the store by now.
        self.answered(self.db.refresh_manifest()).await?;
        match merged {
            // Somebody who had the store before merged at the same time: nothing is lost.
            Err(error) if error.kind() == ErrorKind::Closed(CloseReason::Fenced) => Ok(()),
            merged => merged.map_err(|error| self.fault(&error)),
        }
    }

    fn unmerged_commits(&self) -> usize {
        self.db.manifest().l0().len()
    }

    async fn close(&self) {
        let options = CloseOptions::default().with_flush_type(None);
        let close = async {
            let _nobody_writes = self.writing.lock().await;
            // What is not flushed was never acknowledged; SlateDB would try it for ever.
            self.gate.shut();
            self.db.close_with_options(options).await
        };
        match tokio::time::timeout(limits::STATE_CLOSE_MAX, close).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(store = %self.id, %error, "closed after an error"),
            Err(_) => {
                self.gate.shut();
                tracing::warn!(store = %self.id, "closing took too long and was cut short");
            }
        }
    }

    /// Waits for a call that reads.
    async fn answered<T>(
        &self,
        call: impl Future<Output = Result<T, slatedb::Error>>,
    ) -> Result<T, StateError> {
        match tokio::time::timeout(limits::STATE_CALL_MAX, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if error.kind() == ErrorKind::Data {
                    // A later owner may have collected what we read from: ask who owns it.
                    let asked = self.db.refresh_manifest();
                    let _ = tokio::time::timeout(limits::STATE_CALL_MAX, asked).await;
                }
                Err(self.fault(&error))
            }
            Err(_) => Err(no_answer(&self.gate)),
        }
    }

    /// Waits for a call that writes, but not while the store says that it cannot be written.
    async fn written(
        &self,
        call: impl Future<Output = Result<(), slatedb::Error>>,
    ) -> Result<(), StateError> {
        self.gate.clear();
        tokio::select! {
            biased;
            written = call => written.map_err(|error| self.fault(&error)),
            reason = self.gate.unwritable() => Err(StateError::NotWritable(reason)),
            () = tokio::time::sleep(limits::STATE_CALL_MAX) => Err(no_answer(&self.gate)),
        }
    }

    fn fault(&self, error: &slatedb::Error) -> StateError {
        match self.db.status().close_reason {
            Some(CloseReason::Fenced) => StateError::Fenced(self.id.to_string()),
            Some(_) if error.kind() != ErrorKind::Data => StateError::Fenced(format!(
                "{} was closed by an error ({error}) and has to be opened again",
                self.id
            )),
            _ => fault(&self.gate, error),
        }
    }
}

/// Memory that a commit takes until it is written: as a batch, as a table in order, and as a file.
fn written_bytes(commit: &Commit) -> usize {
    let feed_entries = commit.feed.map_or(0, |_| ROWS_OF_A_CHANGE);
    let (entries, bytes) = size_of(commit);
    let entries = entries + feed_entries * commit.changes.len();
    let bytes = bytes + feed_entries * commit.changes.key_bytes();
    WRITTEN_ENTRY_BYTES * entries + 2 * bytes
}

/// How many entries a commit has, and their bytes.
fn size_of(commit: &Commit) -> (usize, usize) {
    let parked = commit.parked.iter().flat_map(|(_, record)| record);
    let history = commit.history.iter().map(IndexedEvent::stored_bytes);
    let beside: usize = parked.map(|it| it.bytes()).chain(history).sum();
    (
        commit.changes.len() + commit.parked.len() + commit.history.len(),
        commit.changes.stored_bytes() + beside,
    )
}

/// A commit in pieces for `SlateDB`'s memory, from where one flush makes one file of all of them: a piece is
/// ordered in a tree that stays in the processor's cache. One that might fill a file by itself, or with what
/// lies there already, is one piece: `SlateDB` begins another file between two pieces, never within one.
///
/// Keys and states stay where the commit has them, in one allocation. `SlateDB` keeps the first and the last key
/// of a file for as long as the file is in use: those two are copies, so that the allocation goes when the commit
/// is flushed. What comes in order is cheaper to put in order, in the pieces and in the table behind them.
fn batches_of(commit: &Commit, feed: Vec<Row>, is_alone: bool) -> impl Iterator<Item = WriteBatch> {
    let (entries, bytes) = size_of(commit);
    let feed_bytes = |(key, stored): &Row| key.len() + stored.as_ref().map_or(0, Bytes::len);
    let entries = entries + feed.len();
    let bytes = bytes + feed.iter().map(feed_bytes).sum::<usize>();
    let file_bytes = bytes + FILE_ENTRY_BYTES * entries;
    let piece = if is_alone && file_bytes <= MEMTABLE_BYTES / 2 {
        BATCH_CHANGES
    } else {
        usize::MAX
    };
    let last = commit.changes.len().saturating_sub(1);
    let mut changes = commit.changes.in_order().enumerate();
    let mut feed = feed.into_iter();
    let mut first = Some(beside_states(commit));
    std::iter::from_fn(move || {
        let mut batch = first.take().unwrap_or_default();
        for (index, (key, state)) in changes.by_ref().take(piece) {
            let key = if index == 0 || index == last {
                Bytes::copy_from_slice(&key)
            } else {
                key
            };
            match state {
                Some(state) => batch.put_bytes(key, state),
                None => batch.delete(key),
            }
        }
        if changes.len() == 0 {
            for (key, stored) in feed.by_ref().take(piece) {
                match stored {
                    Some(stored) => batch.put_bytes(key, stored),
                    None => batch.delete(key),
                }
            }
        }
        (!batch.is_empty()).then_some(batch)
    })
}

/// What a commit has besides states: the piece that is never missing.
fn beside_states(commit: &Commit) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put_bytes(
        Bytes::from_static(CHECKPOINT_KEY),
        encode_checkpoint(&commit.checkpoint),
    );
    for (offset, record) in &commit.parked {
        match record {
            Some(record) => batch.put_bytes(parked_key(*offset), encode_parked(record)),
            None => batch.delete(parked_key(*offset)),
        }
    }
    for event in &commit.history {
        let (key, entry) = event.encode();
        batch.put_bytes(key, entry);
    }
    batch
}

fn state_key(key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + key.len());
    bytes.put_u8(STATE_PREFIX);
    bytes.put_slice(key);
    bytes.freeze()
}

/// How entries are read in order.
pub(super) fn scan_options() -> ScanOptions {
    ScanOptions::new()
        .with_durability_filter(DurabilityLevel::Remote)
        .with_read_ahead_bytes(SCAN_READ_BYTES)
}

/// The next entries, at most `limit`: stored keys and what is stored under them.
pub(super) async fn collect(
    mut entries: DbIterator,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, slatedb::Error> {
    let mut found = Vec::with_capacity(limit.min(limits::BATCH_EVENTS_MAX));
    while found.len() < limit {
        let Some(entry) = entries.next().await? else {
            break;
        };
        found.push((entry.key, entry.value));
    }
    Ok(found)
}

/// Keys of all parked records.
pub(super) fn parked_range() -> (Bound<Bytes>, Bound<Bytes>) {
    const BEHIND: [u8; 1] = [PARKED_PREFIX + 1];
    let first = Bytes::from_static(&[PARKED_PREFIX]);
    (
        Bound::Included(first),
        Bound::Excluded(Bytes::from_static(&BEHIND)),
    )
}

/// Keys that start with `prefix`, behind `after`; `None` if there can be none.
pub(super) fn scan_range(
    prefix: &[u8],
    after: Option<&[u8]>,
) -> Option<(Bound<Bytes>, Bound<Bytes>)> {
    let first = state_key(prefix);
    let end = successor(&first);
    match after.map(state_key) {
        Some(after) if after >= end => None,
        Some(after) if after >= first => Some((Bound::Excluded(after), Bound::Excluded(end))),
        _ => Some((Bound::Included(first), Bound::Excluded(end))),
    }
}

/// The first key behind all that start with `prefix`, whose first byte is [`STATE_PREFIX`].
fn successor(prefix: &[u8]) -> Bytes {
    let last = prefix
        .iter()
        .rposition(|byte| byte.cmp(&u8::MAX) == Ordering::Less);
    let last = last.expect("the first byte is not 0xff");
    let mut end = BytesMut::from(&prefix[..=last]);
    end[last] += 1;
    end.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_might_fill_a_file_is_one_piece() {
        let of = |keys: usize, state_bytes: usize, is_alone| {
            let state = KeyState {
                state: Bytes::from(vec![0; state_bytes]),
                changed_at: crate::types::Offset(1),
                changed_at_ms: 1,
            };
            let changes = (0..keys).map(|n| (Bytes::from(format!("{n:06}")), Some(state.clone())));
            let commit = Commit {
                changes: changes.collect(),
                parked: Vec::new(),
                feed: None,
                history: Vec::new(),
                checkpoint: crate::state::slate::tests::checkpoint(1),
            };
            batches_of(&commit, Vec::new(), is_alone).count()
        };
        assert_eq!(of(0, 0, true), 1, "its position");
        assert_eq!(of(1_000, 10, true), 2);
        assert_eq!(of(1_000, 10, false), 1);
        assert_eq!(of(1_000, MEMTABLE_BYTES / 1_500, true), 1);
    }

    #[test]
    fn a_scan_covers_its_prefix_and_no_more() {
        let key = |bytes: &'static [u8]| Bytes::from_static(bytes);
        let (from, to) = scan_range(b"", None).unwrap();
        assert_eq!(
            (from, to),
            (Bound::Included(key(b"\x01")), Bound::Excluded(key(b"\x02")))
        );
        let (from, to) = scan_range(b"a\xff", Some(b"a\xff\x00")).unwrap();
        assert_eq!(from, Bound::Excluded(key(b"\x01a\xff\x00")));
        assert_eq!(to, Bound::Excluded(key(b"\x01b")));
        let (from, _) = scan_range(b"b", Some(b"a")).unwrap();
        assert_eq!(from, Bound::Included(key(b"\x01b")));
        assert_eq!(scan_range(b"a", Some(b"b")), None);
    }
}
