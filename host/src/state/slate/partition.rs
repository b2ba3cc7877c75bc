//! One open database: reads, commits, upkeep. Made by `slate`, called by `partition`'s worker.
//!
//! Invariants: reads see what is durable, never a commit that may still fail; at most one commit
//! that failed waits inside SlateDB, and nothing new is written before it; nothing is collected
//! while a commit is under way. Upkeep may run beside reads and commits. Locks are taken in the
//! order `maintaining`, `writing`. A key's first byte keeps checkpoint, pages of states, parked records, history and the
//! feed of changes apart.

mod convert;
mod feed;
mod layout;
mod states;

use std::fmt;
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use object_store::path::Path;
use parking_lot::RwLock;
use slatedb::config::{CloseOptions, DurabilityLevel, FlushOptions, FlushType, ScanOptions};
use slatedb::{CloseReason, Db, DbIterator, ErrorKind, IterationOrder, WriteBatch};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};

pub(super) use self::convert::states_v1;
use self::feed::{Feed, ROWS_OF_A_CHANGE, Row};
use self::layout::{Layout, PageRows};
use self::states::read_options;
pub(super) use self::states::{ReadFault, Scan};
use super::gate::Gate;
use super::merge::Upkeep;
use super::pages::PageMerge;
use super::{COMMIT_UNIT_BYTES, SlateSettings, SlateStore, fault, no_answer, on};
use crate::limits;
use crate::state::checkpoint::{decode_checkpoint, encode_checkpoint};
use crate::state::history::range_of;
use crate::state::pages::PAGE_BYTES;
use crate::state::parked::{PARKED_PREFIX, decode_parked, encode_parked, parked_key};
use crate::state::{
    ChangeNumber, Checkpoint, Commit, FeedPage, IndexedEvent, KeyState, ParkedRecord,
    PartitionStore, StateError, StatePage, StoreId, all_of,
};

pub(super) const CHECKPOINT_KEY: &[u8] = b"\x00checkpoint";
/// What SlateDB holds of an entry while it is written, beside its key and itself.
const WRITTEN_ENTRY_BYTES: usize = 400;
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
    pages: PageMerge,
    /// The pages that are durable; `None` = a commit may have changed them.
    layout: RwLock<Option<Arc<Layout>>>,
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
    /// Whether a commit that failed or was given up may be in SlateDB's memory, which still tries to write it.
    has_rest: bool,
    /// Commits since the last collection; a store that was just opened may have leftovers.
    commits: u64,
    /// Whether anything was committed since the last upkeep.
    changed: bool,
    /// What the last commit left of the feed; `None` = it has to be looked up.
    feed: Option<Feed>,
}

impl fmt::Debug for SlatePartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlatePartition")
            .field("id", &self.open.id)
            .finish_non_exhaustive()
    }
}

impl SlatePartition {
    pub(super) fn new(
        id: StoreId,
        path: Path,
        db: Db,
        pages: PageMerge,
        gate: Gate,
        host: SlateStore,
    ) -> Self {
        let SlateStore {
            settings,
            runtime,
            merges,
            commits: commit_memory,
            ..
        } = host;
        let upkeep = Upkeep::new(
            path,
            gate.clone(),
            pages.clone(),
            Arc::clone(&settings),
            merges,
        );
        let commits = settings.collect_commits;
        let writing = Mutex::new(Writing {
            has_rest: false,
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
            pages,
            layout: RwLock::new(None),
            writing,
            maintaining,
            commits_max: (settings.commits_bytes / COMMIT_UNIT_BYTES).max(1),
            settings,
            commits: commit_memory,
            looks: AtomicUsize::new(0),
        });
        Self { open, runtime }
    }

    /// Learns which pages there are, and makes pages of states that are in none.
    pub(super) async fn prepare(&self) -> Result<(), StateError> {
        self.run(|open| async move {
            let layout = open.stored_layout().await?;
            let layout = open.convert(layout).await?;
            *open.layout.write() = Some(Arc::new(layout));
            Ok(())
        })
        .await
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
        let key = Bytes::copy_from_slice(key);
        self.run(|open| async move { open.state(&key).await }).await
    }

    async fn get_many(
        &self,
        keys: &[Bytes],
        bytes_max: usize,
    ) -> Result<Vec<Option<KeyState>>, StateError> {
        let keys = keys.to_vec();
        self.run(|open| async move { open.get_many(keys, bytes_max).await })
            .await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<StatePage, StateError> {
        let scan = Scan::new(prefix, after, limit);
        self.run(|open| async move { open.scan(scan).await }).await
    }

    async fn parked(&self) -> Result<Vec<ParkedRecord>, StateError> {
        self.run(|open| async move {
            let found = open.entries(all_of(PARKED_PREFIX), usize::MAX).await?;
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
        self.answered(self.db.get_with_options(key, &read_options()))
            .await
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
            .map(|key| async move { self.state(&key).await });
        let mut reads = stream::iter(reads).buffered(limits::STATE_READS_CONCURRENT_MAX);
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(read) = reads.next().await
        {
            let state = read?;
            bytes += state.as_ref().map_or(0, |state| state.state.len());
            found.push(state);
        }
        Ok(found)
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
        if writing.has_rest {
            self.written(self.flush()).await?;
            writing.has_rest = false;
        }
        let layout = self.known_layout().await?;
        let units =
            (written_bytes(&commit, &layout) / COMMIT_UNIT_BYTES).clamp(1, self.commits_max);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let _memory = self.commits.acquire_many(units).await;
        // What is known of the feed holds as long as every commit becomes durable, and is one that the feed knows.
        let feed = writing.feed.take();
        let (feed, rows) = match commit.feed {
            None => (None, Vec::new()),
            Some(terms) => {
                let (feed, rows) = self.feed_rows(feed, &commit, terms).await?;
                (Some(feed), rows)
            }
        };
        let mut batch = beside_states(&commit);
        put_rows(rows, &mut batch);
        let pages = self.page_rows(&layout, &commit.changes).await?;
        self.write(&mut writing, &layout, pages, batch).await?;
        writing.feed = feed;
        writing.commits += 1;
        writing.changed = true;
        Ok(())
    }

    /// Writes pages and what else is in a batch, as one file, and waits until it is durable.
    async fn write(
        &self,
        writing: &mut Writing,
        layout: &Layout,
        pages: PageRows,
        mut batch: WriteBatch,
    ) -> Result<(), StateError> {
        let changed = pages.changed_layout(layout);
        pages.write(&mut batch);
        writing.has_rest = true;
        if changed.is_some() {
            *self.layout.write() = None;
        }
        self.written(async {
            self.db.write(batch).await?;
            self.flush().await
        })
        .await?;
        writing.has_rest = false;
        if let Some(changed) = changed {
            *self.layout.write() = Some(Arc::new(changed));
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), slatedb::Error> {
        let flush_type = FlushType::MemTable;
        self.db
            .flush_with_options(FlushOptions { flush_type })
            .await
    }

    /// The layout that a commit begins with: nothing of an earlier one may still become durable.
    async fn known_layout(&self) -> Result<Arc<Layout>, StateError> {
        let known = self.layout.read().clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let stored = Arc::new(self.stored_layout().await?);
        *self.layout.write() = Some(Arc::clone(&stored));
        Ok(stored)
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
    async fn answered<T, E: Into<ReadFault>>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, StateError> {
        match tokio::time::timeout(limits::STATE_CALL_MAX, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(fault)) => match fault.into() {
                ReadFault::State(error) => Err(error),
                ReadFault::Store(error) => {
                    if error.kind() == ErrorKind::Data {
                        // A later owner may have collected what we read from: ask who owns it.
                        let asked = self.db.refresh_manifest();
                        let _ = tokio::time::timeout(limits::STATE_CALL_MAX, asked).await;
                    }
                    Err(self.fault(&error))
                }
            },
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

/// Memory that a commit takes until it is written: as pages, as a batch with copies of them, and as a file.
fn written_bytes(commit: &Commit, layout: &Layout) -> usize {
    let state_bytes = commit.changes.stored_bytes();
    let states = commit.changes.len();
    let parked = commit.parked.iter().flat_map(|(_, record)| record);
    let history = commit.history.iter().map(IndexedEvent::stored_bytes);
    let beside_bytes: usize = parked.map(|it| it.bytes()).chain(history).sum();
    let (feed_entries, feed_bytes) = match commit.feed {
        Some(_) => (
            ROWS_OF_A_CHANGE * states,
            ROWS_OF_A_CHANGE * commit.changes.key_bytes(),
        ),
        None => (0, 0),
    };
    // A page that changes, and one for each that is cut.
    let pages = states.min(layout.len() + state_bytes / PAGE_BYTES + 1);
    let entries = pages + commit.parked.len() + commit.history.len() + feed_entries;
    WRITTEN_ENTRY_BYTES * entries + 3 * state_bytes + 2 * (beside_bytes + feed_bytes)
}

fn put_rows(rows: Vec<Row>, into: &mut WriteBatch) {
    for (key, stored) in rows {
        match stored {
            Some(stored) => into.put_bytes(key, stored),
            None => into.delete(key),
        }
    }
}

/// What a commit has besides states.
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
