//! The feed of changes: one entry for each key, whatever happens in between.

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::limits;
use crate::state::{ChangeNumber, FeedPage, FeedTerms, StateRef};

const KEPT: Duration = Duration::from_secs(10);

/// A commit with a feed, made at a time.
fn fed(next: u64, now_ms: i64, changes: &[(&str, Option<&str>)]) -> Arc<Commit> {
    let whole = Arc::into_inner(commit(next, changes)).unwrap();
    let terms = FeedTerms {
        now_ms,
        keep_deletions: KEPT,
    };
    Arc::new(Commit {
        feed: Some(terms),
        ..whole
    })
}

async fn feed(store: &dyn PartitionStore, from: u64) -> FeedPage {
    let feed = store.feed(Some(ChangeNumber(from)), usize::MAX).await;
    feed.unwrap().expect("it has a feed")
}

/// Keys of a page, those that are deleted with a minus.
fn keys_of(page: &FeedPage) -> Vec<String> {
    let keys = page.changes.iter().map(|change| {
        let key = String::from_utf8(change.key.to_vec()).unwrap();
        let mark = if change.deleted { "-" } else { "" };
        format!("{mark}{key}")
    });
    keys.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_one_entry_that_of_its_last_change() {
    let store = store();
    let open = store.open(&id()).await.unwrap();
    open.commit(commit(1, &[("old", Some("0"))])).await.unwrap();
    assert_eq!(open.feed(None, 9).await.unwrap(), None, "nothing is fed");
    let first = [("a", Some("1")), ("b", Some("1")), ("c", Some("1"))];
    open.commit(fed(2, 5, &first)).await.unwrap();
    let page = feed(&*open, 1).await;
    assert_eq!(keys_of(&page), ["a", "b", "c"]);
    let change = &page.changes[1];
    assert_eq!((change.changed_at, change.changed_at_ms), (Offset(2), 1));
    let begun = page.next;
    open.commit(fed(3, 6, &[("b", None), ("a", Some("2"))]))
        .await
        .unwrap();
    let page = feed(&*open, 1).await;
    assert_eq!(keys_of(&page), ["c", "a", "-b"]);
    assert_eq!(page.changes[2].changed_at_ms, 6, "when it was committed");
    assert_eq!(keys_of(&feed(&*open, begun.0).await), ["a", "-b"]);
    open.close().await;

    let open = store.open(&id()).await.unwrap();
    open.commit(fed(4, 7, &[])).await.unwrap();
    open.commit(fed(5, 8, &[("b", Some("3")), ("old", Some("1"))]))
        .await
        .unwrap();
    let page = feed(&*open, 1).await;
    assert_eq!(keys_of(&page), ["c", "a", "b", "old"]);
    assert_eq!(page.kept_from, ChangeNumber::FIRST, "nothing is forgotten");
    assert_eq!(keys_of(&feed(&*open, page.next.0).await), [""; 0]);
    let two = open.feed(Some(ChangeNumber::FIRST), 2).await.unwrap();
    assert_eq!(keys_of(&two.unwrap()), ["c", "a"]);
    assert_eq!(keys(&*open, "", None).await, ["a", "b", "c", "old"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_gone_and_keeps_its_number_is_a_deletion() {
    let store = store();
    let open = store.open(&id()).await.unwrap();
    let gone = KeyState {
        state: Bytes::new(),
        changed_at: StateRef::gone_at(Offset(17)),
        changed_at_ms: 9,
    };
    let whole = Arc::into_inner(fed(1, 5, &[])).unwrap();
    let changes = [(Bytes::from_static(b"a"), Some(gone))];
    let changes = changes.into_iter().collect();
    open.commit(Arc::new(Commit { changes, ..whole }))
        .await
        .unwrap();
    let change = &feed(&*open, 1).await.changes[0];
    assert!(change.deleted);
    assert_eq!((change.changed_at, change.changed_at_ms), (Offset(17), 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_are_forgotten_in_time_and_it_is_known() {
    let store = store();
    let mut open = store.open(&id()).await.unwrap();
    let all = [("a", Some("1")), ("b", Some("1")), ("c", Some("1"))];
    open.commit(fed(1, 0, &all)).await.unwrap();
    open.commit(fed(2, 1_000, &[("a", None), ("b", None)]))
        .await
        .unwrap();
    let before = feed(&*open, 1).await;
    open.commit(fed(3, 5_000, &[("a", Some("2"))]))
        .await
        .unwrap();
    open.commit(fed(4, 10_999, &[])).await.unwrap();
    assert_eq!(keys_of(&feed(&*open, 1).await), ["c", "-b", "a"]);
    for reopened in [false, true] {
        if reopened {
            open.close().await;
            open = store.open(&id()).await.unwrap();
        }
        open.commit(fed(5, 11_000, &[])).await.unwrap();
        let after = feed(&*open, 1).await;
        assert_eq!(keys_of(&after), ["c", "a"], "what came back stays");
        let forgotten = before.changes.last().unwrap().number;
        assert_eq!(after.kept_from, forgotten.next());
    }
    // A key that was forgotten is as good as new.
    open.commit(fed(6, 11_001, &[("b", Some("2"))]))
        .await
        .unwrap();
    assert_eq!(keys_of(&feed(&*open, 1).await), ["c", "a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_deletions_are_forgotten_at_once() {
    let store = store();
    let open = store.open(&id()).await.unwrap();
    let keys: Vec<String> = (0..limits::FEED_EXPIRED_AT_ONCE_MAX + 10)
        .map(|n| format!("{n:05}"))
        .collect();
    let gone: Vec<_> = keys.iter().map(|key| (key.as_str(), None)).collect();
    open.commit(fed(1, 0, &gone)).await.unwrap();
    for left in [10, 0, 0] {
        open.commit(fed(2, 60_000, &[])).await.unwrap();
        let page = feed(&*open, 1).await;
        assert_eq!(page.changes.len(), left);
        assert_eq!(page.kept_from.0 + left as u64, page.next.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_feed_does_not_know_interrupts_it() {
    let store = store();
    for reopened in [false, true] {
        let mut open = store.open(&id()).await.unwrap();
        open.commit(fed(1, 0, &[("a", Some("1"))])).await.unwrap();
        let before = feed(&*open, 1).await;
        open.commit(commit(2, &[("a", None)])).await.unwrap();
        if reopened {
            open.close().await;
            open = store.open(&id()).await.unwrap();
        }
        open.commit(fed(3, 1, &[("b", Some("1"))])).await.unwrap();
        let after = feed(&*open, 1).await;
        assert!(
            after.kept_from > before.next,
            "whoever read it begins again"
        );
        let told = feed(&*open, after.kept_from.0).await;
        assert_eq!(keys_of(&told), ["b"]);
        open.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_tried_again_is_in_the_feed_once() {
    for when in [When::BeforeWriting, When::AfterWriting] {
        let (objects, faults) = Faults::over(Arc::new(InMemory::new()));
        let store = store_in(objects, SlateSettings::default());
        let open = store.open(&id()).await.unwrap();
        let all = [("a", Some("1")), ("b", Some("1"))];
        open.commit(fed(1, 0, &all)).await.unwrap();
        let next = fed(2, 1, &[("a", Some("2")), ("b", None), ("c", Some("1"))]);
        faults.fail_next_commit(when);
        let mut tries = 0;
        while let Err(error) = open.commit(next.clone()).await {
            assert!(error.is_transient(), "{error:?}");
            tries += 1;
            assert!(tries < 10, "{error:?}");
        }
        let page = feed(&*open, 1).await;
        assert_eq!(keys_of(&page), ["a", "-b", "c"], "{when:?}");
        open.commit(fed(3, 2, &[("a", Some("3"))])).await.unwrap();
        assert_eq!(
            keys_of(&feed(&*open, 1).await),
            ["-b", "c", "a"],
            "{when:?}"
        );
    }
}

/// A copy that is kept by reading on equals the store, through merges and reopening; and the feed is no larger than
/// what there is to remember.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_reads_on_equals_the_store() {
    let settings = SlateSettings {
        merge_commits: 4,
        collect_commits: 4,
        garbage_age: Duration::ZERO,
        manifest_age: Duration::ZERO,
        ..SlateSettings::default()
    };
    let store = store_in(Arc::new(InMemory::new()), settings);
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut open = store.open(&id()).await.unwrap();
    let mut copy: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut from = ChangeNumber::FIRST;
    for round in 1..200_u64 {
        let mut changes = BTreeMap::new();
        for _ in 0..rng.random_range(0..40) {
            let key = format!("key-{}", rng.random_range(0..100));
            let value = rng.random_bool(0.7).then(|| format!("{round}"));
            changes.insert(key, value);
        }
        let changes: Vec<_> = changes
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
            .collect();
        // Nothing is forgotten in that time: a reader may be as late as it likes.
        open.commit(fed(round, 0, &changes)).await.unwrap();
        open.maintain().await.unwrap();
        if rng.random_bool(0.1) {
            open.close().await;
            open = store.open(&id()).await.unwrap();
        }
        if rng.random_bool(0.3) {
            let page = open.feed(Some(from), rng.random_range(1..60)).await;
            for change in page.unwrap().unwrap().changes {
                let state = open.get(&change.key).await.unwrap();
                match state.filter(|_| !change.deleted) {
                    Some(state) => copy.insert(change.key, state.state),
                    None => copy.remove(&change.key),
                };
                from = change.number.next();
            }
        }
    }
    let page = feed(&*open, from.0).await;
    for change in page.changes {
        match open.get(&change.key).await.unwrap() {
            Some(state) => copy.insert(change.key, state.state),
            None => copy.remove(&change.key),
        };
    }
    let states = open.scan(b"", None, usize::MAX).await.unwrap().states;
    let states = states.into_iter().map(|(key, state)| (key, state.state));
    assert!(copy == states.collect(), "the copy equals the store");
    let all = feed(&*open, 1).await.changes;
    let of_keys: std::collections::BTreeSet<_> = all.iter().map(|it| it.key.clone()).collect();
    assert_eq!(of_keys.len(), all.len(), "one entry a key");
    assert_eq!(all.iter().filter(|it| !it.deleted).count(), copy.len());
}
