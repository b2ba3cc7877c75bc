//! States in pages: whatever is cut, joined, forgotten or replaced, every key has its last state.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::state::StatePage;
use crate::state::checkpoint::{STATE_PREFIX_V1, encode_checkpoint, encode_state};
use crate::state::slate::partition::CHECKPOINT_KEY;

type Model = BTreeMap<Bytes, KeyState>;

fn often_merged() -> SlateSettings {
    SlateSettings {
        merge_commits: 3,
        collect_commits: 3,
        garbage_age: Duration::ZERO,
        manifest_age: Duration::ZERO,
        ..SlateSettings::default()
    }
}

fn sized(bytes: usize, at: u64) -> KeyState {
    KeyState {
        state: Bytes::from(vec![at.to_le_bytes()[0]; bytes]),
        changed_at: Offset(at),
        changed_at_ms: 1,
    }
}

fn some_key(random: &mut ChaCha8Rng) -> Bytes {
    let number = random.random_range(0..3_000_u32);
    match random.random_range(0..10) {
        0 => Bytes::copy_from_slice(&number.to_be_bytes()[2..]),
        1 => Bytes::from(vec![0xff; number as usize % 5]),
        2 => Bytes::from(vec![0; number as usize % 5]),
        3 => Bytes::from(format!("{number:0200}")),
        _ => Bytes::from(format!("key-{number}")),
    }
}

fn some_state(random: &mut ChaCha8Rng, at: u64) -> KeyState {
    let bytes = match random.random_range(0..200) {
        0 => 20_000,
        1..20 => 1_000,
        _ => random.random_range(0..150),
    };
    sized(bytes, at)
}

/// One commit of random changes; every fourth time most of what it meets is deleted.
fn some_changes(random: &mut ChaCha8Rng, at: u64) -> BTreeMap<Bytes, Option<KeyState>> {
    let kept = if at % 4 == 3 { 0.1 } else { 0.8 };
    let changes = match random.random_range(0..3) {
        0 => random.random_range(0..5),
        1 => random.random_range(0..200),
        _ => random.random_range(0..2_000),
    };
    (0..changes)
        .map(|_| {
            let state = random.random_bool(kept);
            (some_key(random), state.then(|| some_state(random, at)))
        })
        .collect()
}

fn scanned(
    model: &Model,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Vec<(Bytes, KeyState)> {
    let found = model
        .iter()
        .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key[..] > *after));
    let found = found.take(limit);
    found
        .map(|(key, state)| (key.clone(), state.clone()))
        .collect()
}

/// All states, page by page.
async fn in_pages(scan: impl AsyncFn(Option<Bytes>) -> StatePage) -> Vec<(Bytes, KeyState)> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let StatePage { states, is_last } = scan(after).await;
        let sizes = states.iter().map(|(key, it)| key.len() + it.state.len());
        let before_the_last: usize = sizes.rev().skip(1).sum();
        assert!(before_the_last <= limits::STATE_SCAN_BYTES_MAX);
        found.extend(states);
        if is_last {
            return found;
        }
        after = found.last().map(|(key, _)| key.clone());
    }
}

async fn all_of_store(open: &dyn PartitionStore) -> Vec<(Bytes, KeyState)> {
    in_pages(async |after| open.scan(b"", after.as_deref(), usize::MAX).await.unwrap()).await
}

async fn all_of_snapshot(of: &dyn StateSnapshot) -> Vec<(Bytes, KeyState)> {
    in_pages(async |after| of.scan(after.as_deref(), usize::MAX).await.unwrap()).await
}

async fn looks_like(open: &dyn PartitionStore, model: &Model, random: &mut ChaCha8Rng) {
    let asked: Vec<Bytes> = (0..40).map(|_| some_key(random)).collect();
    let found = open.get_many(&asked, usize::MAX).await.unwrap();
    for (key, found) in asked.iter().zip(found) {
        assert_eq!(found.as_ref(), model.get(key), "{key:?}");
    }
    for _ in 0..4 {
        let prefix = some_key(random);
        let prefix = prefix.slice(..random.random_range(0..=prefix.len().min(6)));
        let after = random.random_bool(0.7).then(|| some_key(random));
        let limit = [0, 1, 7, 5_000][random.random_range(0..4)];
        let found = open.scan(&prefix, after.as_deref(), limit);
        let StatePage { states, is_last } = found.await.unwrap();
        let expected = scanned(model, &prefix, after.as_deref(), limit);
        assert!(states == expected, "{prefix:?} behind {after:?}, {limit}");
        assert!(is_last || states.len() == limit, "{prefix:?}, {limit}");
        let all = scanned(model, &prefix, after.as_deref(), usize::MAX);
        assert!(!is_last || states == all, "{prefix:?}, {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_equals_what_was_committed() {
    for seed in 0..4 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (objects, faults) = Faults::over(Arc::new(InMemory::new()));
        let store = store_in(objects, often_merged());
        let mut open = store.open(&id()).await.unwrap();
        let mut model = Model::new();
        for next in 1..60 {
            let changes = some_changes(&mut random, next);
            for (key, state) in &changes {
                match state {
                    Some(state) => drop(model.insert(key.clone(), state.clone())),
                    None => drop(model.remove(key)),
                }
            }
            let commit = commit_of(next, changes);
            if random.random_bool(0.2) {
                let when = [When::BeforeWriting, When::AfterWriting];
                faults.fail_next_commit(when[random.random_range(0..2)]);
                // One that is repeated inside succeeds all the same.
                let _ = open.commit(Arc::clone(&commit)).await;
            }
            open.commit(commit).await.unwrap();
            if random.random_bool(0.6) {
                open.maintain().await.unwrap();
            }
            if random.random_bool(0.1) {
                open.close().await;
                open = store.open(&id()).await.unwrap();
            }
            looks_like(&*open, &model, &mut random).await;
        }
        let snapshot = store.snapshot(&id()).await.unwrap().unwrap();
        let found = all_of_snapshot(&*snapshot).await;
        assert!(found == scanned(&model, b"", None, usize::MAX), "{seed}");
        snapshot.close().await;
        open.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_come_and_go_leave_nothing() {
    let objects = Arc::new(InMemory::new());
    let store = store_in(objects.clone(), often_merged());
    let open = store.open(&id()).await.unwrap();
    let key = |round: u64, n: u64| Bytes::from(format!("{round:05}-{n:05}"));
    let (rounds, keys, state_bytes) = (60, 400, 100);
    for round in 1..=rounds {
        let come = (0..keys).map(|n| (key(round, n), Some(sized(state_bytes, round))));
        let go = (0..keys).map(|n| (key(round - 1, n), None));
        let changes: BTreeMap<_, _> = come.chain(go).collect();
        open.commit(commit_of(round, changes)).await.unwrap();
        open.maintain().await.unwrap();
    }
    let found = open.scan(b"", None, usize::MAX).await.unwrap().states;
    assert_eq!(found.len() as u64, keys);
    let listed: Vec<_> = objects.list(None).try_collect().await.unwrap();
    let bytes: u64 = listed.iter().map(|object| object.size).sum();
    let all = rounds * keys * state_bytes as u64;
    assert!(bytes < all / 4, "{bytes} bytes, of {all} that ever were");
    open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_beside_commits_finds_every_key() {
    const KEYS: u64 = 2_000;
    let store = store_in(Arc::new(InMemory::new()), often_merged());
    let open: Arc<dyn PartitionStore> = store.open(&id()).await.unwrap().into();
    let key = |n: u64| Bytes::from(format!("{:05}", n * 7919 % KEYS));
    let committed = Arc::new(AtomicU64::new(0));
    let ended = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4_u64)
        .map(|reader| {
            let (open, committed, ended) = (open.clone(), committed.clone(), ended.clone());
            tokio::spawn(async move {
                let mut random = ChaCha8Rng::seed_from_u64(reader);
                let mut reads = 0;
                while !ended.load(Ordering::Acquire) {
                    let there = committed.load(Ordering::Acquire);
                    if there > 0 {
                        let n = random.random_range(0..there);
                        let found = open.get(&key(n)).await.unwrap();
                        assert!(found.is_some(), "{n} of {there}");
                        reads += 1;
                    }
                    if reads % 50 == 0 {
                        let found = open.scan(b"", None, usize::MAX).await.unwrap().states;
                        assert!(found.len() as u64 >= there, "{} of {there}", found.len());
                        assert!(found.is_sorted_by(|left, right| left.0 < right.0));
                    }
                    tokio::task::yield_now().await;
                }
                reads
            })
        })
        .collect();
    for round in 0..100 {
        let new = round * KEYS / 100..(round + 1) * KEYS / 100;
        let end = new.end;
        let changes: BTreeMap<_, _> = new.map(|n| (key(n), Some(sized(200, round)))).collect();
        open.commit(commit_of(round, changes)).await.unwrap();
        committed.store(end, Ordering::Release);
        open.maintain().await.unwrap();
    }
    ended.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

/// What a version before pages left: each state an entry of its own.
async fn write_version_1(objects: Arc<dyn ObjectStore>, model: &Model, next: u64) {
    let path = Path::from(format!("state/{}", id()));
    let db = slatedb::Db::builder(path, objects)
        .with_settings(database_settings())
        .build()
        .await
        .unwrap();
    let version_1 = [b"\x01", &encode_checkpoint(&checkpoint(next))[1..]].concat();
    db.put(CHECKPOINT_KEY, &version_1).await.unwrap();
    for (key, state) in model {
        let mut bytes = Vec::new();
        encode_state(state.as_ref(), &mut bytes);
        let key = [&[STATE_PREFIX_V1][..], key].concat();
        db.put(key, bytes).await.unwrap();
    }
    let flush_type = slatedb::config::FlushType::MemTable;
    let flush = slatedb::config::FlushOptions { flush_type };
    db.flush_with_options(flush).await.unwrap();
    db.close().await.unwrap();
}

fn of_version_1(keys: u64) -> Model {
    let key = |n: u64| Bytes::from(if n == 0 { String::new() } else { n.to_string() });
    let states = (0..keys).map(|n| (key(n), sized(3_000, n)));
    states.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn states_of_a_version_without_pages_become_pages() {
    let mut model = of_version_1(6_000);
    let objects = Arc::new(InMemory::new());
    write_version_1(objects.clone(), &model, 9).await;
    let store = store_in(objects, often_merged());
    let snapshot = store.snapshot(&id()).await.unwrap().unwrap();
    let found = snapshot.scan(Some(b"10"), 3).await.unwrap().states;
    assert_eq!(found, scanned(&model, b"", Some(b"10"), 3));
    let open = store.open(&id()).await.unwrap();
    assert_eq!(open.checkpoint().await.unwrap(), Some(checkpoint(9)));
    assert_eq!(
        snapshot.scan(None, 5).await.unwrap().states,
        scanned(&model, b"", None, 5)
    );
    snapshot.close().await;
    let changed: Bytes = "4711".into();
    model.insert(changed.clone(), sized(5, 10));
    let changes = [(changed, Some(sized(5, 10)))];
    open.commit(commit_of(10, changes)).await.unwrap();
    open.maintain().await.unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    looks_like(&*open, &model, &mut random).await;
    let found = all_of_store(&*open).await;
    assert!(found == scanned(&model, b"", None, usize::MAX));
    open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn making_pages_goes_on_where_it_was_cut_off() {
    let model = of_version_1(9_000);
    for writes in 1..16 {
        let (objects, faults) = Faults::over(Arc::new(InMemory::new()));
        write_version_1(Arc::clone(&objects), &model, 9).await;
        let store = store_in(objects, often_merged());
        faults.crash_after(writes, true);
        let opened = store.open(&id()).await;
        let was_cut_off = opened.is_err();
        drop(opened);
        faults.revive();
        if was_cut_off && let Ok(Some(snapshot)) = store.snapshot(&id()).await {
            let found = all_of_snapshot(&*snapshot).await;
            assert!(found == scanned(&model, b"", None, usize::MAX), "{writes}");
            snapshot.close().await;
        }
        let open = store.open(&id()).await.unwrap();
        let found = all_of_store(&*open).await;
        assert!(found == scanned(&model, b"", None, usize::MAX), "{writes}");
        assert_eq!(open.checkpoint().await.unwrap(), Some(checkpoint(9)));
        open.close().await;
    }
}
