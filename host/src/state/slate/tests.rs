//! The adapter against in-memory and local object stores.

use std::time::Duration;

use object_store::memory::InMemory;

use super::*;
use crate::clock::Clock;
use crate::state::faults::{Faults, When};
use crate::state::objects::Objects;
use crate::state::{
    ActionPoint, Checkpoint, Commit, IndexedEvent, KeyState, LastRecord, ParkedRecord,
};
use crate::types::{DeploymentId, Digest, Epoch, Offset, Partition};
use bytes::Bytes;

mod cache;
mod feed;
mod pages;

fn id() -> StoreId {
    StoreId {
        plugin: PluginName::new("plane-tracker").unwrap(),
        generation: GenerationId(3),
        partition: Partition(1),
    }
}

fn store_in(objects: Arc<dyn ObjectStore>, settings: SlateSettings) -> SlateStore {
    SlateStore::new(objects, settings, Handle::current())
}

fn store() -> SlateStore {
    store_in(Arc::new(InMemory::new()), SlateSettings::default())
}

pub(super) fn checkpoint(next: u64) -> Checkpoint {
    Checkpoint {
        epoch: Epoch(1),
        deployment: DeploymentId(1),
        digest: Digest::of(b"code"),
        next: Offset(next),
        last: Some(LastRecord {
            offset: Offset(next),
            timestamp_ms: 5,
            hash: 6,
        }),
        start: Offset(0),
        history_complete: true,
        topic_id: None,
        partitions: 4,
        folds_from: Offset(0),
        gaps: 0,
        incomplete: false,
        published: false,
        action: ActionPoint::done(0),
        indexed_from: None,
    }
}

fn state(text: &str, at: u64) -> KeyState {
    KeyState {
        state: Bytes::copy_from_slice(text.as_bytes()),
        changed_at: Offset(at),
        changed_at_ms: 1,
    }
}

fn commit_of(
    next: u64,
    changes: impl IntoIterator<Item = (Bytes, Option<KeyState>)>,
) -> Arc<Commit> {
    Arc::new(Commit {
        changes: changes.into_iter().collect(),
        parked: Vec::new(),
        feed: None,
        history: Vec::new(),
        checkpoint: checkpoint(next),
    })
}

fn commit(next: u64, changes: &[(&str, Option<&str>)]) -> Arc<Commit> {
    let changes = changes.iter().map(|(key, value)| {
        (
            Bytes::copy_from_slice(key.as_bytes()),
            value.map(|value| state(value, next)),
        )
    });
    commit_of(next, changes)
}

async fn keys(store: &dyn PartitionStore, prefix: &str, after: Option<&str>) -> Vec<String> {
    let found = store
        .scan(prefix.as_bytes(), after.map(str::as_bytes), 100)
        .await
        .unwrap()
        .states;
    found
        .iter()
        .map(|(key, _)| String::from_utf8(key.to_vec()).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_survives_reopening_with_its_checkpoint() {
    let store = store();
    let open = store.open(&id()).await.unwrap();
    assert_eq!(open.checkpoint().await.unwrap(), None);
    assert_eq!(open.get(b"a").await.unwrap(), None);
    open.commit(commit(
        1,
        &[("a", Some("1")), ("b", Some("2")), ("", Some("0"))],
    ))
    .await
    .unwrap();
    open.commit(commit(2, &[("a", None), ("c", Some("3"))]))
        .await
        .unwrap();
    open.close().await;
    let open = store.open(&id()).await.unwrap();
    assert_eq!(open.checkpoint().await.unwrap(), Some(checkpoint(2)));
    assert_eq!(open.get(b"a").await.unwrap(), None);
    assert_eq!(open.get(b"b").await.unwrap(), Some(state("2", 1)));
    assert_eq!(open.get(b"").await.unwrap(), Some(state("0", 1)));
    assert_eq!(keys(&*open, "", None).await, ["", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_records_are_committed_with_the_states_and_apart_from_them() {
    let parked = |offset| ParkedRecord {
        offset: Offset(offset),
        timestamp_ms: 5,
        key: Bytes::from_static(b"a"),
        value: Some(Bytes::from_static(b"value")),
        headers: Vec::new(),
        cause: None,
        withheld: false,
    };
    let commit = |next, parked| {
        let whole = Arc::into_inner(commit(next, &[("a", Some("1"))])).unwrap();
        Arc::new(Commit { parked, ..whole })
    };
    let store = store();
    let open = store.open(&id()).await.unwrap();
    assert_eq!(open.parked().await.unwrap(), []);
    let all = [300, 2, 1].map(|offset| (Offset(offset), Some(Arc::new(parked(offset)))));
    open.commit(commit(1, all.into())).await.unwrap();
    open.commit(commit(2, vec![(Offset(2), None)]))
        .await
        .unwrap();
    open.close().await;
    let open = store.open(&id()).await.unwrap();
    assert_eq!(open.parked().await.unwrap(), [parked(1), parked(300)]);
    assert_eq!(keys(&*open, "", None).await, ["a"]);
    let snapshot = store.snapshot(&id()).await.unwrap().unwrap();
    assert_eq!(snapshot.parked().await.unwrap(), [parked(1), parked(300)]);
    assert_eq!(snapshot.scan(None, 10).await.unwrap().states.len(), 1);
    snapshot.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn places_of_events_are_committed_with_the_states_and_found_by_their_keys() {
    let event = |key: &'static str, version: u64| IndexedEvent {
        key: Bytes::from_static(key.as_bytes()),
        version,
        offset: Offset(100 + version),
        timestamp_ms: 5,
    };
    let store = store();
    let open = store.open(&id()).await.unwrap();
    let versions = |newest_first, from: u64, limit| {
        let found = open.history(b"a", from..4, newest_first, limit);
        async move {
            let found = found.await.unwrap();
            found.iter().map(|it| it.version).collect::<Vec<_>>()
        }
    };
    assert_eq!(versions(true, 0, 10).await, [0; 0]);
    let mut all: Vec<_> = (1..6).map(|version| event("a", version)).collect();
    all.extend([event("", 1), event("ab", 2), event("b", 1)]);
    let whole = Arc::into_inner(commit(1, &[("a", Some("1"))])).unwrap();
    let history = all.clone();
    open.commit(Arc::new(Commit { history, ..whole }))
        .await
        .unwrap();
    assert_eq!(versions(false, 0, 10).await, [1, 2, 3]);
    assert_eq!(versions(true, 0, 10).await, [3, 2, 1]);
    assert_eq!(versions(true, 0, 2).await, [3, 2]);
    assert_eq!(versions(false, 2, 10).await, [2, 3]);
    assert_eq!(keys(&*open, "", None).await, ["a"], "they are no states");
    let snapshot = store.snapshot(&id()).await.unwrap().unwrap();
    let first = snapshot.history(None, 3).await.unwrap();
    let rest = snapshot.history(first.last(), 100).await.unwrap();
    let mut found: Vec<_> = first.into_iter().chain(rest).collect();
    found.sort_by(|left, right| (&left.key, left.version).cmp(&(&right.key, right.version)));
    all.sort_by(|left, right| (&left.key, left.version).cmp(&(&right.key, right.version)));
    assert_eq!(found, all);
    snapshot.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_goes_on_behind_a_key() {
    let open = store().open(&id()).await.unwrap();
    let all = [
        ("a", Some("")),
        ("ab", Some("")),
        ("abc", Some("")),
        ("b", Some("")),
    ];
    open.commit(commit(1, &all)).await.unwrap();
    assert_eq!(keys(&*open, "ab", None).await, ["ab", "abc"]);
    assert_eq!(keys(&*open, "", Some("a")).await, ["ab", "abc", "b"]);
    assert_eq!(keys(&*open, "ab", Some("ab")).await, ["abc"]);
    assert_eq!(keys(&*open, "ab", Some("b")).await, [] as [&str; 0]);
    assert_eq!(keys(&*open, "b", Some("a")).await, ["b"]);
    assert_eq!(open.scan(b"", None, 2).await.unwrap().states.len(), 2);
    assert_eq!(open.scan(b"", None, 0).await.unwrap().states.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_opener_fences_the_earlier_one() {
    let store = store();
    let first = store.open(&id()).await.unwrap();
    first
        .commit(commit(1, &[("a", Some("first"))]))
        .await
        .unwrap();
    let second = store.open(&id()).await.unwrap();
    let fenced = first
        .commit(commit(2, &[("a", Some("zombie")), ("z", Some(""))]))
        .await;
    assert!(matches!(fenced, Err(StateError::Fenced(_))), "{fenced:?}");
    let again = first.commit(commit(3, &[])).await;
    assert!(matches!(again, Err(StateError::Fenced(_))), "{again:?}");
    assert!(first.get(b"a").await.is_err());
    assert_eq!(second.checkpoint().await.unwrap(), Some(checkpoint(1)));
    second
        .commit(commit(2, &[("b", Some("second"))]))
        .await
        .unwrap();
    second.close().await;
    let third = store.open(&id()).await.unwrap();
    assert_eq!(third.get(b"a").await.unwrap(), Some(state("first", 1)));
    assert_eq!(keys(&*third, "", None).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_dropped_opens_again() {
    let store = store();
    let open = store.open(&id()).await.unwrap();
    open.commit(commit(1, &[("a", Some("1"))])).await.unwrap();
    drop(open);
    let open = store.open(&id()).await.unwrap();
    assert_eq!(open.get(b"a").await.unwrap(), Some(state("1", 1)));
    open.commit(commit(2, &[("a", Some("2"))])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_generation_leaves_the_others() {
    let objects = Arc::new(InMemory::new());
    let store = store_in(objects.clone(), SlateSettings::default());
    let other = StoreId {
        generation: GenerationId(30),
        ..id()
    };
    for id in [&id(), &other] {
        let open = store.open(id).await.unwrap();
        open.commit(commit(1, &[("a", Some("1"))])).await.unwrap();
        open.close().await;
    }
    for _ in 0..2 {
        store.delete(&id().plugin, GenerationId(3)).await.unwrap();
    }
    let left: Vec<_> = objects.list(None).try_collect().await.unwrap();
    assert!(!left.is_empty());
    for object in left {
        assert!(
            object
                .location
                .as_ref()
                .starts_with("state/plane-tracker/30/1/"),
            "{object:?}"
        );
    }
    assert_eq!(
        store.open(&id()).await.unwrap().checkpoint().await.unwrap(),
        None
    );
    let open = store.open(&other).await.unwrap();
    assert_eq!(open.get(b"a").await.unwrap(), Some(state("1", 1)));
}

async fn merged_and_collected(objects: Arc<dyn ObjectStore>, conditional_updates: bool) {
    let settings = SlateSettings {
        merge_commits: 4,
        collect_commits: 4,
        garbage_age: Duration::ZERO,
        manifest_age: Duration::ZERO,
        conditional_updates,
        ..SlateSettings::default()
    };
    let store = store_in(Arc::clone(&objects), settings);
    let open = store.open(&id()).await.unwrap();
    for round in 1..=40 {
        let key = format!("key-{:02}", round % 7);
        open.commit(commit(round, &[(&key, Some("x")), ("gone", Some("x"))]))
            .await
            .unwrap();
        open.commit(commit(round, &[("gone", None)])).await.unwrap();
        open.maintain().await.unwrap();
        assert_eq!(
            open.get(key.as_bytes()).await.unwrap(),
            Some(state("x", round))
        );
        assert_eq!(open.get(b"gone").await.unwrap(), None);
    }
    let left: Vec<_> = objects.list(None).try_collect().await.unwrap();
    let left: Vec<_> = left.iter().map(|object| object.location.as_ref()).collect();
    assert!(left.len() < 40, "{left:?}");
    open.close().await;
    let open = store.open(&id()).await.unwrap();
    assert_eq!(keys(&*open, "", None).await.len(), 7);
    assert_eq!(open.checkpoint().await.unwrap(), Some(checkpoint(40)));
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_bounds_what_a_store_holds() {
    merged_and_collected(Arc::new(InMemory::new()), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_bounds_what_a_folder_holds() {
    let folder = tempfile::tempdir().unwrap();
    let objects = Objects::open(folder.path().to_str().unwrap(), Clock::manual(0, 1)).unwrap();
    merged_and_collected(objects.store(), objects.conditional_updates()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_store_neither_merges_nor_collects() {
    let objects = Arc::new(InMemory::new());
    let settings = SlateSettings {
        merge_commits: 1,
        collect_commits: 1,
        ..Default::default()
    };
    let store = store_in(objects.clone(), settings);
    let first = store.open(&id()).await.unwrap();
    first.commit(commit(1, &[("a", Some("1"))])).await.unwrap();
    let second = store.open(&id()).await.unwrap();
    let fenced = first.maintain().await;
    assert!(matches!(fenced, Err(StateError::Fenced(_))), "{fenced:?}");
    second.commit(commit(2, &[("a", Some("2"))])).await.unwrap();
    second.maintain().await.unwrap();
    assert_eq!(second.get(b"a").await.unwrap(), Some(state("2", 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_go_on_without_upkeep() {
    let open = store().open(&id()).await.unwrap();
    let commits = 2 * limits::STATE_UNMERGED_COMMITS_MAX as u64 + 10;
    for next in 1..=commits {
        open.commit(commit(next, &[("a", Some("x"))]))
            .await
            .unwrap();
    }
    assert_eq!(open.get(b"a").await.unwrap(), Some(state("x", commits)));
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_runs_beside_commits() {
    let settings = SlateSettings {
        merge_commits: 2,
        collect_commits: 2,
        garbage_age: Duration::ZERO,
        manifest_age: Duration::ZERO,
        ..SlateSettings::default()
    };
    let store = store_in(Arc::new(InMemory::new()), settings);
    let open: Arc<dyn PartitionStore> = store.open(&id()).await.unwrap().into();
    let mut upkeep = tokio::task::JoinSet::new();
    for next in 1..=100 {
        open.commit(commit(next, &[("a", Some("x"))]))
            .await
            .unwrap();
        let open = Arc::clone(&open);
        upkeep.spawn(async move { open.maintain().await });
    }
    for ended in upkeep.join_all().await {
        ended.unwrap();
    }
    open.close().await;
    let open = store.open(&id()).await.unwrap();
    assert_eq!(open.get(b"a").await.unwrap(), Some(state("x", 100)));
    assert_eq!(open.checkpoint().await.unwrap(), Some(checkpoint(100)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_on_another_runtime_is_served() {
    let store = store();
    let caller = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let open = store.open(&id()).await.unwrap();
            open.commit(commit(1, &[("a", Some("1"))])).await.unwrap();
            let found = open.get(b"a").await.unwrap();
            open.close().await;
            found
        })
    });
    let found = tokio::task::spawn_blocking(move || caller.join().unwrap())
        .await
        .unwrap();
    assert_eq!(found, Some(state("1", 1)));
}

fn faulty() -> (SlateStore, Faults) {
    let (objects, faults) = Faults::over(Arc::new(InMemory::new()));
    (store_in(objects, SlateSettings::default()), faults)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_at_once_and_passes() {
    let (store, faults) = faulty();
    let open = store.open(&id()).await.unwrap();
    open.commit(commit(1, &[("a", Some("1"))])).await.unwrap();
    faults.disk_full(true);
    for next in 2..4 {
        let failed = open.commit(commit(next, &[("a", Some("2"))])).await;
        assert!(
            matches!(failed, Err(StateError::NotWritable(_))),
            "{failed:?}"
        );
        assert_eq!(
            open.get(b"a").await.unwrap(),
            Some(state("1", 1)),
            "not durable, not seen"
        );
        assert_eq!(open.checkpoint().await.unwrap(), Some(checkpoint(1)));
    }
    let not_opened = store
        .open(&StoreId {
            partition: Partition(2),
            ..id()
        })
        .await;
    assert!(
        matches!(not_opened, Err(StateError::NotWritable(_))),
        "{not_opened:?}"
    );
    faults.disk_full(false);
    open.commit(commit(4, &[("a", Some("4"))])).await.unwrap();
    assert_eq!(open.get(b"a").await.unwrap(), Some(state("4", 4)));
    open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_closes_and_opens_again_after_a_commit_that_failed() {
    let (store, faults) = faulty();
    let open = store.open(&id()).await.unwrap();
    open.commit(commit(1, &[("a", Some("1"))])).await.unwrap();
    faults.disk_full(true);
    open.commit(commit(2, &[("a", Some("2"))]))
        .await
        .unwrap_err();
    open.close().await;
    faults.disk_full(false);
    let open = store.open(&id()).await.unwrap();
    assert_eq!(open.get(b"a").await.unwrap(), Some(state("1", 1)));
    open.commit(commit(2, &[("a", Some("2"))])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_may_be_repeated() {
    for when in [When::BeforeWriting, When::AfterWriting] {
        let (store, faults) = faulty();
        let open = store.open(&id()).await.unwrap();
        faults.fail_next_commit(when);
        let lost = open.commit(commit(1, &[("a", Some("1"))])).await;
        assert!(matches!(lost, Err(StateError::NotWritable(_))), "{lost:?}");
        open.commit(commit(2, &[("b", Some("2"))])).await.unwrap();
        assert_eq!(keys(&*open, "", None).await, ["a", "b"]);
        assert_eq!(open.checkpoint().await.unwrap(), Some(checkpoint(2)));
    }
}

/// Dies at one write after the other: what is there afterwards is the last commit or the one that
/// was being made, whole.
async fn crashes(rounds: u64, upkeep_commits: usize) {
    let settings = SlateSettings {
        merge_commits: upkeep_commits,
        collect_commits: upkeep_commits as u64,
        garbage_age: Duration::ZERO,
        manifest_age: Duration::ZERO,
        ..SlateSettings::default()
    };
    let (objects, faults) = Faults::over(Arc::new(InMemory::new()));
    let store = store_in(objects, settings);
    let mut open = store.open(&id()).await.unwrap();
    open.commit(commit(0, &[("a", Some("x")), ("b", Some("x"))]))
        .await
        .unwrap();
    let mut done = 0;
    for round in 0..rounds {
        faults.crash_after(round % 13, round % 2 == 0);
        let mut tried = done;
        while !faults.crashed() {
            tried = done + 1;
            let next = commit(tried, &[("a", Some("x")), ("b", Some("x"))]);
            if open.commit(next).await.is_ok() {
                done = tried;
                let _ = open.maintain().await;
            }
        }
        drop(open);
        faults.revive();
        open = store.open(&id()).await.unwrap();
        let found = open.checkpoint().await.unwrap().unwrap().next.0;
        assert!(
            found == done || found == tried,
            "{done} or {tried}, but {found}"
        );
        assert_eq!(open.get(b"a").await.unwrap(), Some(state("x", found)));
        assert_eq!(open.get(b"b").await.unwrap(), Some(state("x", found)));
        done = found;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_inside_a_commit_leaves_one_commit_or_the_other() {
    crashes(100, 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_inside_upkeep_loses_nothing() {
    crashes(26, 2).await;
}
