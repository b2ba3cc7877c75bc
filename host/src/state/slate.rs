//! The state port on SlateDB: one database for each partition of each generation of a plugin, in the
//! host's object store under `state/<plugin>/<generation>/<partition>`. Built by `node`.
//!
//! Invariants: SlateDB's write-ahead log is off, because the input topic is the log: a commit is one
//! sorted file and one new manifest, and the manifest names the file or does not. The writer's epoch
//! in the manifest is the fence: opening raises it, and a manifest of a lower epoch is never written
//! again. An idle database costs no CPU: nothing polls, and merging and collecting happen only in
//! [`PartitionStore::maintain`](super::PartitionStore::maintain). All of SlateDB runs on the runtime
//! that the store was given, whichever runtime calls.

mod gate;
mod leftovers;
mod merge;
mod pages;
mod partition;
mod peek;
mod snapshot;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStore;
use object_store::path::Path;
use slatedb::db_cache::moka::{MokaCache, MokaCacheOptions};
use slatedb::db_cache::{DbCache, SplitCache};
use slatedb::{BlockCachePolicy, CacheTarget, CloseReason, ErrorKind, Settings};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use xxhash_rust::xxh3::xxh3_64;

use self::gate::Gate;
use self::pages::{PageFilters, PageMerge};
use self::partition::SlatePartition;
use super::objects::unwritable;
use super::{PartitionStore, StateError, StateSnapshot, StateStore, StoreId};
use crate::limits;
use crate::types::{GenerationId, PluginName};

/// A commit is one memtable is one sorted file; it is never split by size.
const MEMTABLE_BYTES: usize = 2 * limits::DIRTY_BYTES_MAX;
/// One commit that is being written and one that comes after a failed one.
const UNFLUSHED_BYTES_MAX: usize = 2 * MEMTABLE_BYTES;
/// The manifest is read when something is written; this is for what nobody writes to.
const MANIFEST_POLL_INTERVAL: Duration = Duration::from_secs(3600);
/// Unit in which the memory for commits is given out.
const COMMIT_UNIT_BYTES: usize = 1024;
/// From this many entries a sorted file has a Bloom filter; a page counts as one.
const FILTER_KEYS_MIN: u32 = 8;

/// How the databases of a host are kept.
#[derive(Debug, Clone)]
pub struct SlateSettings {
    /// Bytes of blocks, indexes and filters that all databases share in memory.
    pub block_cache_bytes: u64,
    /// Bytes that commits of all databases may hold while they are written; others wait.
    pub commits_bytes: usize,
    /// Where the object store is, if it is a folder: what a killed process was writing lies there.
    pub folder: Option<PathBuf>,
    /// Whether the object store can replace an object conditionally; see
    /// [`Objects::conditional_updates`](super::objects::Objects::conditional_updates).
    pub conditional_updates: bool,
    /// Unmerged commits from which on a merge is worth while.
    pub merge_commits: usize,
    /// Commits between two collections.
    pub collect_commits: u64,
    /// Age from which on replaced states are collected; longer than any read takes.
    pub garbage_age: Duration,
    /// Age from which on replaced manifests are collected.
    pub manifest_age: Duration,
}

impl Default for SlateSettings {
    fn default() -> Self {
        Self {
            block_cache_bytes: limits::STATE_BLOCK_CACHE_BYTES_MIN as u64,
            commits_bytes: limits::STATE_COMMITS_BYTES_MIN,
            folder: None,
            conditional_updates: true,
            merge_commits: limits::STATE_MERGE_COMMITS,
            collect_commits: limits::STATE_COLLECT_COMMITS,
            garbage_age: limits::STATE_GARBAGE_AGE,
            manifest_age: limits::STATE_MANIFEST_AGE,
        }
    }
}

/// Opens the databases of a host. Cheap to clone.
#[derive(Clone)]
pub struct SlateStore {
    objects: Arc<dyn ObjectStore>,
    settings: Arc<SlateSettings>,
    cache: Arc<dyn DbCache>,
    merges: Arc<Semaphore>,
    /// A permit for each [`COMMIT_UNIT_BYTES`].
    commits: Arc<Semaphore>,
    runtime: Handle,
}

impl fmt::Debug for SlateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlateStore")
            .field("objects", &self.objects)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl SlateStore {
    /// A store in `objects` whose work, background tasks included, runs on `runtime`.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, settings: SlateSettings, runtime: Handle) -> Self {
        let cache = cache(settings.block_cache_bytes);
        let commits = settings.commits_bytes / COMMIT_UNIT_BYTES;
        Self {
            objects,
            commits: Arc::new(Semaphore::new(commits.max(1))),
            settings: Arc::new(settings),
            cache: Arc::new(cache),
            merges: Arc::new(Semaphore::new(limits::STATE_MERGES_CONCURRENT_MAX)),
            runtime,
        }
    }

    async fn open_partition(self, id: StoreId) -> Result<Box<dyn PartitionStore>, StateError> {
        let gate = Gate::new(Arc::clone(&self.objects));
        let path = Path::from(format!("state/{id}"));
        peek::check_format(&path, &gate).await?;
        self.remove_leftovers(&path, leftovers::remove_staged)
            .await?;
        let cache_scope = xxh3_64(path.as_ref().as_bytes());
        let pages = PageMerge::default();
        let opening = slatedb::Db::builder(path.clone(), Arc::new(gate.clone()))
            .with_settings(database_settings())
            .with_merge_operator(Arc::new(pages.clone()))
            .with_filter_policies(PageFilters::policies())
            .with_db_cache(Arc::clone(&self.cache), cache_scope)
            // What was just committed is in the caller's memory: caching it again costs both.
            .with_block_cache_policy(
                BlockCachePolicy::default()
                    .with_flush_targets(&[CacheTarget::Index, CacheTarget::Filters]),
            )
            .build();
        let opened = tokio::select! {
            biased;
            opened = opening => opened.map_err(|error| fault(&gate, &error)),
            reason = gate.unwritable() => Err(StateError::NotWritable(reason)),
            () = tokio::time::sleep(limits::STATE_CALL_MAX) => Err(no_answer(&gate)),
        };
        let db = opened.inspect_err(|_| gate.shut())?;
        let partition = SlatePartition::new(id, path, db, pages, gate, self);
        partition.prepare().await?;
        Ok(Box::new(partition))
    }

    /// Every `state/<plugin>/<generation>` that holds anything.
    async fn list_generations(self) -> Result<Vec<(PluginName, GenerationId)>, StateError> {
        let unavailable = |error: object_store::Error| StateError::Unavailable(error.to_string());
        let under = |path: Path| {
            let objects = self.objects.clone();
            async move { objects.list_with_delimiter(Some(&path)).await }
        };
        let mut found = Vec::new();
        for plugin in under(Path::from("state"))
            .await
            .map_err(unavailable)?
            .common_prefixes
        {
            let Some(name) = plugin
                .filename()
                .and_then(|name| PluginName::new(name).ok())
            else {
                continue;
            };
            let generations = under(plugin).await.map_err(unavailable)?.common_prefixes;
            let numbers = generations
                .iter()
                .filter_map(|generation| generation.filename()?.parse().ok());
            found.extend(numbers.map(|number| (name.clone(), GenerationId(number))));
        }
        Ok(found)
    }

    async fn delete_generation(
        self,
        plugin: PluginName,
        generation: GenerationId,
    ) -> Result<(), StateError> {
        let prefix = Path::from(format!("state/{plugin}/{generation}"));
        let listed = self
            .objects
            .list(Some(&prefix))
            .map_ok(|object| object.location)
            .boxed();
        let mut deleted = self.objects.delete_stream(listed);
        while let Some(result) = deleted.next().await {
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => {
                    return Err(match unwritable(&error) {
                        Some(reason) => StateError::NotWritable(reason),
                        None => StateError::Unavailable(error.to_string()),
                    });
                }
            }
        }
        drop(deleted);
        self.remove_leftovers(&prefix, leftovers::remove_folder)
            .await
    }

    /// Removes what no object store lists, where it is a folder.
    async fn remove_leftovers(
        &self,
        path: &Path,
        remove: fn(&std::path::Path) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let Some(folder) = &self.settings.folder else {
            return Ok(());
        };
        let folder = folder.join(path.as_ref());
        let removed = tokio::task::spawn_blocking(move || remove(&folder)).await;
        let removed = removed.map_err(|error| StateError::Unavailable(error.to_string()))?;
        removed.map_err(|error| StateError::Unavailable(error.to_string()))
    }
}

#[async_trait]
impl StateStore for SlateStore {
    async fn open(&self, id: &StoreId) -> Result<Box<dyn PartitionStore>, StateError> {
        let opening = self.clone().open_partition(id.clone());
        // One that nobody waits for any more must not fence whoever comes next.
        answer(AbortOnDropHandle::new(self.runtime.spawn(opening)).await)
    }

    async fn snapshot(&self, id: &StoreId) -> Result<Option<Box<dyn StateSnapshot>>, StateError> {
        on(&self.runtime, self.clone().open_snapshot(id.clone())).await
    }

    async fn generations(&self) -> Result<Vec<(PluginName, GenerationId)>, StateError> {
        on(&self.runtime, self.clone().list_generations()).await
    }

    async fn delete(
        &self,
        plugin: &PluginName,
        generation: GenerationId,
    ) -> Result<(), StateError> {
        on(
            &self.runtime,
            self.clone().delete_generation(plugin.clone(), generation),
        )
        .await
    }
}

/// Blocks have a part of their own. An index is as large as hundreds of them, and moka takes in what is used more often
/// than all that has to go for it: among blocks, no index of a new file would ever get in again, and each read of a
/// state would fetch one.
fn cache(bytes: u64) -> SplitCache {
    let blocks_bytes = bytes / limits::STATE_BLOCKS_CACHE_SHARE;
    let part = |max_capacity| -> Option<Arc<dyn DbCache>> {
        Some(Arc::new(MokaCache::new_with_opts(MokaCacheOptions {
            max_capacity,
            ..MokaCacheOptions::default()
        })))
    };
    SplitCache::new()
        .with_block_cache(part(blocks_bytes))
        .with_meta_cache(part(bytes - blocks_bytes))
}

fn database_settings() -> Settings {
    // One more than ever happens: at the bound SlateDB would wait for somebody to merge.
    let unmerged_max = limits::STATE_UNMERGED_COMMITS_MAX + 2;
    Settings {
        flush_interval: None,
        wal_enabled: false,
        manifest_poll_interval: MANIFEST_POLL_INTERVAL,
        min_filter_keys: FILTER_KEYS_MIN,
        l0_sst_size_bytes: MEMTABLE_BYTES,
        l0_max_ssts: unmerged_max,
        l0_max_ssts_per_key: unmerged_max,
        l0_flush_parallelism: 1,
        max_unflushed_bytes: UNFLUSHED_BYTES_MAX,
        compactor_options: None,
        garbage_collector_options: None,
        ..Settings::default()
    }
}

/// Runs `work` on the store's runtime. It goes on there even if the caller stops waiting.
async fn on<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = Result<T, StateError>> + Send + 'static,
) -> Result<T, StateError> {
    answer(runtime.spawn(work).await)
}

fn answer<T>(joined: Result<Result<T, StateError>, JoinError>) -> Result<T, StateError> {
    match joined {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(StateError::Unavailable("the host is stopping".to_owned())),
    }
}

/// What an error of SlateDB means to the caller.
fn fault(gate: &Gate, error: &slatedb::Error) -> StateError {
    match error.kind() {
        ErrorKind::Closed(CloseReason::Fenced) => StateError::Fenced(error.to_string()),
        ErrorKind::Data => StateError::Corrupt(error.to_string()),
        ErrorKind::Closed(_) => {
            StateError::Fenced(format!("{error}; this store is used up, open it again"))
        }
        _ => match gate.unwritable_now() {
            Some(reason) => StateError::NotWritable(reason),
            None => StateError::Unavailable(error.to_string()),
        },
    }
}

fn no_answer(gate: &Gate) -> StateError {
    let last = gate.fault().map_or_else(String::new, |fault| {
        format!("; the last error was: {fault}")
    });
    StateError::Unavailable(format!("nothing within {:?}{last}", limits::STATE_CALL_MAX))
}
