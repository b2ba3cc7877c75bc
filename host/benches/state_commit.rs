//! What it takes to make changed states durable: one commit of a partition's store, by the number of changed keys,
//! on SlateDB in a folder, with fsync, as a host without other settings keeps it.
//!
//! ```sh
//! cargo bench --bench state_commit       # about a minute
//! ```
//!
//! A row is one commit: its time, and below it changed keys a second. The time of the smallest is what the disk and
//! the manifest cost, and depends on the disk more than on anything here; the growth from there is what a key
//! costs. States have 100 bytes. Merging what earlier commits left is done between the commits, as in a host, and is
//! not in the times: `./tests/bench/run` measures the CPU time of all together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use foldhost::clock::Clock;
use foldhost::state::objects::Objects;
use foldhost::state::slate::{SlateSettings, SlateStore};
use foldhost::state::{
    ActionPoint, Checkpoint, Commit, FeedTerms, KeyState, PartitionStore, StateStore as _, StoreId,
};
use foldhost::types::{DeploymentId, Digest, Epoch, GenerationId, Offset, Partition, PluginName};

/// The allocator of the host.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// As many as the host gives the state store.
const THREADS: usize = 2;
const STATE_BYTES: usize = 100;

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 100, 1_000, 10_000, 50_000], sample_count = 30, sample_size = 1)]
fn changed_keys(bencher: Bencher<'_, '_>, keys: usize) {
    commits(bencher, keys, None);
}

/// The same with a feed of the changes. The numbers of the keys are read back where there are more than are known.
#[divan::bench(args = [1, 100, 1_000, 10_000, 32_768], sample_count = 30, sample_size = 1)]
fn changed_keys_with_feed(bencher: Bencher<'_, '_>, keys: usize) {
    let terms = FeedTerms {
        now_ms: 1,
        keep_deletions: Duration::from_secs(60),
    };
    commits(bencher, keys, Some(terms));
}

fn commits(bencher: Bencher<'_, '_>, keys: usize, feed: Option<FeedTerms>) {
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the disk has room");
    let runtime = runtime();
    let store = runtime.block_on(open(&folder, &runtime));
    let commit = commit(keys, feed);
    bencher
        .counter(ItemsCount::new(keys))
        .with_inputs(|| {
            let maintained = runtime.block_on(store.maintain());
            maintained.expect("the disk has room");
        })
        .bench_local_values(|()| {
            let committed = runtime.block_on(store.commit(Arc::clone(&commit)));
            committed.expect("the disk has room");
        });
    runtime.block_on(store.close());
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .expect("two threads can be started")
}

async fn open(folder: &TempDir, runtime: &Runtime) -> Box<dyn PartitionStore> {
    let location = folder.path().to_str().expect("its path is UTF-8");
    let objects = Objects::open(location, Clock::system()).expect("the folder is there");
    let settings = SlateSettings {
        folder: objects.folder().map(Into::into),
        conditional_updates: objects.conditional_updates(),
        ..SlateSettings::default()
    };
    let store = SlateStore::new(objects.store(), settings, runtime.handle().clone());
    let id = StoreId {
        plugin: PluginName::new("bench").expect("it is a name"),
        generation: GenerationId(1),
        partition: Partition(0),
    };
    store.open(&id).await.expect("the folder is empty")
}

/// The same keys every time: most of what a host commits has been committed before.
fn commit(keys: usize, feed: Option<FeedTerms>) -> Arc<Commit> {
    let state = KeyState {
        state: Bytes::from(vec![7; STATE_BYTES]),
        changed_at: Offset(1),
        changed_at_ms: 1,
    };
    // In order of key, as a worker writes them.
    let changes = (0..keys)
        .map(|n| (Bytes::from(format!("key-{n:08}")), Some(state.clone())))
        .collect();
    Arc::new(Commit {
        changes,
        parked: Vec::new(),
        feed,
        history: Vec::new(),
        checkpoint: Checkpoint {
            epoch: Epoch(1),
            deployment: DeploymentId(1),
            digest: Digest::of(b"bench"),
            next: Offset(2),
            last: None,
            start: Offset(0),
            history_complete: true,
            topic_id: None,
            partitions: 1,
            folds_from: Offset(0),
            gaps: 0,
            incomplete: false,
            published: false,
            action: ActionPoint::done(0),
            indexed_from: None,
        },
    })
}
