//! States of a database as one commit left them, read while others write to it. Made by `slate`.
//!
//! Invariant: the files that a snapshot reads from are named by a checkpoint in the database's
//! manifest, so nobody collects them before it is closed, or before
//! [`STATE_SNAPSHOT_AGE_MAX`](limits::STATE_SNAPSHOT_AGE_MAX) is over if whoever had it died.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::ObjectStore;
use object_store::path::Path;
use slatedb::admin::{Admin, AdminBuilder};
use slatedb::config::{CheckpointOptions, DbReaderOptions, DurabilityLevel, ReadOptions};
use slatedb::{CheckpointCreateResult, DbReader, DbReaderMode};
use tokio::runtime::Handle;

use super::gate::Gate;
use super::pages::{PageFilters, PageMerge};
use super::partition::{CHECKPOINT_KEY, ReadFault, Scan, collect, scan_options, states_v1};
use super::{SlateStore, fault, no_answer, on};
use crate::limits;
use crate::state::checkpoint::{decode_checkpoint, decode_state};
use crate::state::history::range_behind;
use crate::state::parked::{PARKED_PREFIX, decode_parked};
use crate::state::{
    Checkpoint, IndexedEvent, ParkedRecord, StateError, StatePage, StateSnapshot, StoreId, all_of,
    bytes_of,
};

/// A database at one of its commits.
pub(super) struct SlateSnapshot {
    pinned: Arc<Pinned>,
    runtime: Handle,
}

struct Pinned {
    reader: DbReader,
    admin: Admin,
    pin: CheckpointCreateResult,
    gate: Gate,
}

impl fmt::Debug for SlateSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlateSnapshot").finish_non_exhaustive()
    }
}

impl SlateStore {
    pub(super) async fn open_snapshot(
        self,
        id: StoreId,
    ) -> Result<Option<Box<dyn StateSnapshot>>, StateError> {
        let path = Path::from(format!("state/{id}"));
        let gate = Gate::new(Arc::clone(&self.objects));
        match gate.list(Some(&path)).next().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(StateError::Unavailable(error.to_string())),
            Some(Ok(_)) => {}
        }
        let runtime = self.runtime.clone();
        let opening = async {
            let admin = AdminBuilder::new(path.clone(), Arc::new(gate.clone())).build();
            let options = CheckpointOptions {
                lifetime: Some(limits::STATE_SNAPSHOT_AGE_MAX),
                ..CheckpointOptions::default()
            };
            let pin = admin.create_detached_checkpoint(&options).await?;
            let reader = DbReader::builder(path, Arc::new(gate.clone()))
                .with_reader_mode(DbReaderMode::Checkpoint(pin.id))
                .with_merge_operator(Arc::new(PageMerge::default()))
                .with_filter_policies(PageFilters::policies())
                .with_options(DbReaderOptions {
                    skip_wal_replay: true,
                    ..DbReaderOptions::default()
                })
                .with_db_cache_disabled()
                .build()
                .await?;
            Ok::<_, slatedb::Error>((admin, pin, reader))
        };
        let opened = tokio::select! {
            opened = opening => opened.map_err(|error| fault(&gate, &error)),
            () = tokio::time::sleep(limits::STATE_CALL_MAX) => Err(no_answer(&gate)),
        };
        let (admin, pin, reader) = opened.inspect_err(|_| gate.shut())?;
        let pinned = Arc::new(Pinned {
            reader,
            admin,
            pin,
            gate,
        });
        Ok(Some(Box::new(SlateSnapshot { pinned, runtime })))
    }
}

impl SlateSnapshot {
    async fn run<T, F>(&self, work: impl FnOnce(Arc<Pinned>) -> F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StateError>> + Send + 'static,
    {
        on(&self.runtime, work(Arc::clone(&self.pinned))).await
    }
}

#[async_trait]
impl StateSnapshot for SlateSnapshot {
    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StateError> {
        self.run(|pinned| async move {
            let options = ReadOptions::new().with_durability_filter(DurabilityLevel::Remote);
            let found = pinned.reader.get_with_options(CHECKPOINT_KEY, &options);
            let found = pinned.answered(found).await?;
            found.map(|bytes| decode_checkpoint(&bytes)).transpose()
        })
        .await
    }

    async fn scan(&self, after: Option<&[u8]>, limit: usize) -> Result<StatePage, StateError> {
        let scan = Scan::new(&[], after, limit);
        let not_in_pages = states_v1(after);
        self.run(|pinned| async move {
            let in_pages = pinned.answered(scan.run(&pinned.reader)).await?;
            // Whoever has the database open may not have come to make pages of all states.
            let beside = pinned.states_v1(not_in_pages, limit).await?;
            Ok(joined([in_pages, beside], limit))
        })
        .await
    }

    async fn parked(&self) -> Result<Vec<ParkedRecord>, StateError> {
        self.run(|pinned| async move {
            let found = pinned.entries(all_of(PARKED_PREFIX), usize::MAX).await?;
            let records = found.iter().map(|(key, bytes)| decode_parked(key, bytes));
            records.collect()
        })
        .await
    }

    async fn history(
        &self,
        after: Option<&IndexedEvent>,
        limit: usize,
    ) -> Result<Vec<IndexedEvent>, StateError> {
        let range = range_behind(after);
        self.run(|pinned| async move {
            let found = pinned.entries(range, limit).await?;
            let events = found
                .iter()
                .map(|(key, entry)| IndexedEvent::decode(key, entry));
            events.collect()
        })
        .await
    }

    async fn close(&self) {
        let closed = self.run(|pinned| async move {
            let closing = async {
                pinned.reader.close().await?;
                pinned.admin.delete_checkpoint(pinned.pin.id).await
            };
            pinned.answered(closing).await
        });
        if let Err(error) = closed.await {
            tracing::debug!(%error, "a snapshot was not let go of; it ends by itself");
        }
        self.pinned.gate.shut();
    }
}

impl Drop for SlateSnapshot {
    fn drop(&mut self) {
        self.pinned.gate.shut();
    }
}

/// The first states of both pages, in order of key.
fn joined(pages: [StatePage; 2], limit: usize) -> StatePage {
    // Behind the last key of one that is not whole there may be more of it.
    let until = pages.iter().filter_map(StatePage::until).min().cloned();
    let is_within = |key: &Bytes| until.as_ref().is_none_or(|until| key <= until);
    let states = pages.into_iter().flat_map(|page| page.states);
    let mut states: Vec<_> = states.filter(|(key, _)| is_within(key)).collect();
    states.sort_by(|left, right| left.0.cmp(&right.0));
    let mut bytes = 0;
    let fit = states.iter().take_while(|state| {
        let fits = bytes < limits::STATE_SCAN_BYTES_MAX;
        bytes += bytes_of(state);
        fits
    });
    let fit = fit.count().min(limit);
    let is_last = until.is_none();
    let mut joined = StatePage { states, is_last };
    joined.truncate(fit);
    joined
}

impl Pinned {
    /// States that are in no page, as a version before pages wrote them.
    async fn states_v1(
        &self,
        range: (Bound<Bytes>, Bound<Bytes>),
        limit: usize,
    ) -> Result<StatePage, StateError> {
        let reading = async {
            let options = scan_options();
            let mut entries = self.reader.scan_with_options(range, &options).await?;
            let mut found = StatePage::default();
            let mut bytes = 0;
            while found.states.len() < limit && bytes < limits::STATE_SCAN_BYTES_MAX {
                let Some(entry) = entries.next().await? else {
                    found.is_last = true;
                    break;
                };
                bytes += entry.key.len() + entry.value.len();
                let state = decode_state(&entry.value)?;
                found.states.push((entry.key.slice(1..), state));
            }
            Ok::<_, ReadFault>(found)
        };
        self.answered(reading).await
    }

    /// Stored keys and what is stored under them, in order of key.
    async fn entries(
        &self,
        range: (Bound<Bytes>, Bound<Bytes>),
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        let reading = async {
            let entries = self
                .reader
                .scan_with_options(range, &scan_options())
                .await?;
            collect(entries, limit).await
        };
        self.answered(reading).await
    }

    async fn answered<T, E: Into<ReadFault>>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, StateError> {
        match tokio::time::timeout(limits::STATE_CALL_MAX, call).await {
            Ok(answer) => answer.map_err(|error| match error.into() {
                ReadFault::Store(error) => fault(&self.gate, &error),
                ReadFault::State(error) => error,
            }),
            Err(_) => Err(no_answer(&self.gate)),
        }
    }
}
