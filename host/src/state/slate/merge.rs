//! Upkeep of one database: merging the sorted files that commits leave, and collecting files that
//! no manifest names any more. Called by `slate::partition`, only for databases that changed.
//!
//! Invariant: one merge runs at a time, planned here; nothing runs between merges. Files that a
//! merge replaced stay for [`SlateSettings::garbage_age`], for reads that still use them.
//!
//! The plan keeps reads and rewriting logarithmic: all commits not merged yet become one run, and it
//! takes in the newest runs as long as each is no larger than what is merged already (as digits
//! carry in a binary counter).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use slatedb::admin::AdminBuilder;
use slatedb::compactor::{
    CompactionScheduler, CompactionSchedulerSupplier, CompactionSpec, CompactorBuilder,
    CompactorStateView, SourceId,
};
use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, GarbageCollectorDirectoryOptions,
    GarbageCollectorOptions,
};
use slatedb::manifest::VersionedManifest;
use tokio::sync::{Semaphore, watch};

use super::gate::Gate;
use super::pages::{PageFilters, PageMerge};
use super::{FILTER_KEYS_MIN, SlateSettings};
use crate::limits;

/// SlateDB's compactor works by polling; it lives only as long as a merge.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// A merge that a killed host left behind is taken over after this.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// Merges and collects one database.
pub(super) struct Upkeep {
    path: Path,
    gate: Gate,
    pages: PageMerge,
    settings: Arc<SlateSettings>,
    /// Shared by all stores of a host.
    merges: Arc<Semaphore>,
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upkeep")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Upkeep {
    pub(super) fn new(
        path: Path,
        gate: Gate,
        pages: PageMerge,
        settings: Arc<SlateSettings>,
        merges: Arc<Semaphore>,
    ) -> Self {
        Self {
            path,
            gate,
            pages,
            settings,
            merges,
        }
    }

    /// Merges once. A merge that takes too long is put off, and goes on from there the next time.
    ///
    /// `epoch` is the merger's epoch in the manifest: whoever merged since then fences this one.
    pub(super) async fn merge(&self, epoch: u64) -> Result<(), slatedb::Error> {
        let _turn = self.merges.acquire().await;
        let (plan, mut stage) = watch::channel(Stage::Planning);
        let compactor = CompactorBuilder::new(self.path.clone(), Arc::new(self.gate.clone()))
            .with_options(self.compactor_options())
            .with_expected_epoch(epoch)
            .with_merge_operator(Arc::new(self.pages.clone()))
            .with_filter_policies(PageFilters::policies())
            .with_scheduler_supplier(Arc::new(OneMerge(Arc::new(plan))))
            .build();
        let mut running = tokio::spawn({
            let compactor = compactor.clone();
            async move { compactor.run().await }
        });
        let done = stage.wait_for(|stage| *stage == Stage::Done);
        let ended = tokio::select! {
            _ = done => Ok(()),
            ended = &mut running => ended.unwrap_or_else(|error| {
                Err(slatedb::Error::internal(format!("the merge broke off: {error}")))
            }),
            () = tokio::time::sleep(limits::STATE_MERGE_MAX) => Ok(()),
        };
        let stopped = tokio::time::timeout(limits::STATE_CLOSE_MAX, compactor.stop()).await;
        running.abort();
        if stopped.is_err() {
            tracing::warn!(path = %self.path, "a merge did not stop in time");
        }
        ended
    }

    /// Deletes what no manifest names any more. The caller sees to it that nobody writes.
    pub(super) async fn collect(&self) -> Result<(), slatedb::Error> {
        let older_than = |min_age: Duration| {
            Some(GarbageCollectorDirectoryOptions {
                interval: None,
                min_age,
                dry_run: false,
            })
        };
        let manifests = older_than(self.settings.manifest_age);
        let options = GarbageCollectorOptions {
            manifest_options: manifests,
            wal_options: manifests,
            // The epoch in the manifest is the fence: no writer ever looks at those of the log.
            wal_fence_options: manifests,
            compacted_options: older_than(self.settings.garbage_age),
            compactions_options: manifests,
            detach_options: None,
            boundary_files_enabled: self.settings.conditional_updates,
            ..GarbageCollectorOptions::default()
        };
        let admin = AdminBuilder::new(self.path.clone(), Arc::new(self.gate.clone())).build();
        admin.run_gc_once(options).await
    }

    fn compactor_options(&self) -> CompactorOptions {
        CompactorOptions {
            poll_interval: POLL_INTERVAL,
            commit_compacted_interval: POLL_INTERVAL,
            max_concurrent_compactions: 1,
            checkpoint_lifetime: self.settings.garbage_age,
            worker_heartbeat_timeout: HEARTBEAT_TIMEOUT,
            worker: Some(CompactionWorkerOptions {
                max_concurrent_compactions: 1,
                compactions_poll_interval: POLL_INTERVAL,
                heartbeat_interval: HEARTBEAT_INTERVAL,
                max_sst_size: limits::STATE_RUN_FILE_BYTES_MAX,
                bytes_to_fetch: limits::STATE_MERGE_READ_BYTES,
                max_fetch_tasks: 1,
                // One merge never takes more than one core.
                max_subcompactions: 1,
                min_filter_keys: FILTER_KEYS_MIN,
                ..CompactionWorkerOptions::default()
            }),
            ..CompactorOptions::default()
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Planning,
    Proposed,
    Done,
}

/// Proposes one merge, waits for whatever is under way, and says when nothing is.
#[derive(Debug, Clone)]
struct OneMerge(Arc<watch::Sender<Stage>>);

impl CompactionSchedulerSupplier for OneMerge {
    fn compaction_scheduler(
        &self,
        _: &CompactorOptions,
    ) -> Box<dyn CompactionScheduler + Send + Sync> {
        Box::new(self.clone())
    }
}

impl CompactionScheduler for OneMerge {
    fn propose(&self, state: &CompactorStateView) -> Vec<CompactionSpec> {
        let mut merges = state
            .compactions()
            .into_iter()
            .flat_map(|all| all.recent_compactions());
        if merges.any(|merge| merge.active()) {
            return Vec::new();
        }
        let proposed = match *self.0.borrow() {
            Stage::Planning => plan(state.manifest()),
            Stage::Proposed | Stage::Done => None,
        };
        let stage = if proposed.is_some() {
            Stage::Proposed
        } else {
            Stage::Done
        };
        self.0.send_replace(stage);
        proposed.into_iter().collect()
    }
}

fn plan(manifest: &VersionedManifest) -> Option<CompactionSpec> {
    let commits = manifest.l0();
    if commits.is_empty() {
        return None;
    }
    let mut sources: Vec<_> = commits
        .iter()
        .map(|commit| SourceId::SstView(commit.id))
        .collect();
    let mut bytes: u64 = commits.iter().map(|commit| commit.estimate_size()).sum();
    // Runs are in order from the newest, which has the highest number, to the oldest.
    let mut destination = manifest
        .compacted()
        .first()
        .map_or(0, |newest| newest.id + 1);
    for run in manifest.compacted() {
        if run.estimate_size() > bytes {
            break;
        }
        sources.push(SourceId::SortedRun(run.id));
        bytes += run.estimate_size();
        destination = run.id;
    }
    Some(CompactionSpec::new(sources, destination))
}
