//! What the databases of a host keep in memory to find a state.

use super::*;

/// Keys of a commit: some thousand pages of them.
const KEYS: usize = 60_000;

/// A long one: the index of a file has one of each of its blocks.
fn key(prefix: &str, number: usize) -> String {
    format!("{prefix}-{number:0200}")
}

fn states(prefix: &str, next: u64) -> Arc<Commit> {
    let state = state(&"x".repeat(200), next);
    let changes = (0..KEYS).map(|number| (Bytes::from(key(prefix, number)), Some(state.clone())));
    commit_of(next, changes)
}

/// Reads every so-manyth key; how many they were.
async fn read(open: &dyn PartitionStore, prefix: &str, step: usize) -> u64 {
    let mut reads = 0;
    for number in (0..KEYS).step_by(step) {
        let found = open.get(key(prefix, number).as_bytes()).await.unwrap();
        assert!(found.is_some(), "{number}");
        reads += 1;
    }
    reads
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_a_new_file_is_one_block_away_however_many_blocks_are_cached() {
    let (objects, faults) = Faults::over(Arc::new(InMemory::new()));
    let settings = SlateSettings {
        block_cache_bytes: 4 * 1024 * 1024,
        ..SlateSettings::default()
    };
    let open = store_in(objects, settings).open(&id()).await.unwrap();
    open.commit(states("a", 1)).await.unwrap();
    // More blocks than fit.
    read(&*open, "a", 7).await;
    open.commit(states("b", 2)).await.unwrap();

    let before = faults.read_bytes();
    let reads = read(&*open, "b", 151).await;
    let each = (faults.read_bytes() - before) / reads;
    assert!(each < 12 * 1024, "{each} bytes for a state");
}
