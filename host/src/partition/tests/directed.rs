//! The worker that is told things: other code, a pause, a record to leave out, states to migrate.

use super::*;

fn control(deployment: u64, code: &Arc<Counter>) -> Control {
    Control::new(code_of(deployment, code.clone()))
}

/// What abandoned the store in the middle of opening it may still fence the next once: it tries again.
async fn live(start: impl Fn() -> Running) -> Running {
    loop {
        let mut running = start();
        tokio::select! {
            _ = wait_until(&running.0, |status| status.phase == Phase::Live) => return running,
            exit = &mut running.2 => match exit.unwrap() {
                Exit::Fenced(_) => {}
                other => panic!("{other:?}"),
            },
        }
    }
}

async fn stopped(running: Running) {
    running.1.send_replace(Stop::Clean);
    assert_eq!(running.2.await.unwrap(), Exit::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_code_takes_over_between_two_batches_and_says_from_where() {
    let world = World::new(1 << 20).await;
    let last = world.append([1, 2, 1], b"").await;
    let running = world.start();
    assert!(running.0.wait_folded(last, PLENTY).await);
    let other = Counter::of(b"other", true);
    running.0.direct(|control| {
        control.code = code_of(2, other.clone());
        true
    });
    let taken = |status: &PartitionStatus| status.deployment == Some(DeploymentId(2));
    let status = wait_until(&running.0, taken).await;
    assert_eq!((status.folds_from, status.next), (Offset(3), Offset(3)));
    assert_eq!(status.committed, Offset(3), "a commit says so");
    assert_eq!(
        running.0.code().code.inspection().digest,
        Digest::of(b"other")
    );
    let last = world.append([1], b"").await;
    assert!(running.0.wait_folded(last, PLENTY).await);
    assert_eq!(count_of(&running.0, 1).await, 3);
    stopped(running).await;

    // A host that has not heard of it yet does not fold with the old code.
    let (_, _stop, worker) = world.start();
    let Exit::Failed(why) = worker.await.unwrap() else {
        panic!("it must wait")
    };
    assert!(why.contains("deployment 2"), "{why}");
    let running = world.start_with(1, None, control(2, &other));
    let status = wait_until(&running.0, |status| status.phase == Phase::Live).await;
    assert_eq!(status.folds_from, Offset(3), "it is remembered");
    stopped(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_among_crashes_lose_nothing_and_double_nothing() {
    swaps_among_crashes(11, 1 << 20).await;
    // Then parts of batches wait for their states.
    swaps_among_crashes(12, 1).await;
}

async fn swaps_among_crashes(seed: u64, cache_bytes: usize) {
    // Every other code asks for headers.
    let counter = |deployment: u8| match deployment % 2 {
        0 => Counter::tracing(&[deployment]),
        _ => Counter::of(&[deployment], true),
    };
    let header: Header = ("trace".into(), Some(Bytes::from_static(b"7")));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let world = World::new(cache_bytes).await;
    let mut appended = 0;
    let mut deployment = 1;
    for _ in 0..12 {
        let control = control(u64::from(deployment), &counter(deployment));
        let running = live(|| world.start_with(1, None, control.clone())).await;
        let events = random.random_range(20..200);
        let keys = (0..events).map(|key| key % 7);
        world
            .append_with(keys, b"", std::slice::from_ref(&header))
            .await;
        appended += u64::from(events);
        for _ in 0..random.random_range(1..4) {
            deployment += 1;
            running.0.direct(|control| {
                control.code = code_of(u64::from(deployment), counter(deployment));
                true
            });
            tokio::task::yield_now().await;
        }
        if random.random_bool(0.5) {
            let now = DeploymentId(u64::from(deployment));
            wait_until(&running.0, |status| status.deployment == Some(now)).await;
        }
        running.1.send_replace(Stop::Abandon);
        assert_eq!(running.2.await.unwrap(), Exit::Abandoned);
    }
    let control = control(u64::from(deployment), &counter(deployment));
    let running = world.start_with(1, None, control);
    assert!(running.0.wait_folded(Offset(appended - 1), PLENTY).await);
    let mut counted = 0;
    for key in 0..7 {
        counted += count_of(&running.0, key).await;
    }
    assert_eq!(counted, appended);
    stopped(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrected_code_goes_on_at_the_event() {
    let world = World::new(1 << 20).await;
    world.append([1], b"").await;
    let poison = world.append([1], b"trap").await;
    let last = world.append([1], b"").await;
    let running = world.start();
    wait_until(&running.0, |status| status.phase == Phase::Blocked).await;
    let corrected = Counter::of(b"corrected", false);
    running.0.direct(|control| {
        control.code = code_of(2, corrected);
        true
    });
    assert!(running.0.wait_folded(last, PLENTY).await);
    let status = wait_until(&running.0, |status| status.phase == Phase::Live).await;
    assert_eq!((status.folds_from, status.blocked), (poison, None));
    assert_eq!(count_of(&running.0, 1).await, 3);
    stopped(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skipped_record_is_left_out_now_and_after_a_restart() {
    let world = World::new(1 << 20).await;
    world.append([1], b"").await;
    let poison = world.append([1], b"trap").await;
    let running = world.start();
    let status = wait_until(&running.0, |status| status.phase == Phase::Blocked).await;
    let skips: Arc<Skips> = Arc::new([(poison, status.topic_id)].into_iter().collect());
    running.0.direct(|control| {
        control.skips = skips.clone();
        true
    });
    let status = wait_until(&running.0, |status| status.phase == Phase::Live).await;
    assert_eq!(status.next, poison.next(), "what is skipped is passed");
    let last = world.append([1], b"").await;
    assert!(running.0.wait_folded(last, PLENTY).await);
    running.1.send_replace(Stop::Abandon);
    running.2.await.unwrap();

    for generation in [1, 2] {
        let control = Control {
            skips: skips.clone(),
            ..control(1, &world.code)
        };
        let running = world.start_with(generation, None, control);
        assert!(running.0.wait_folded(last, PLENTY).await);
        assert_eq!(count_of(&running.0, 1).await, 2, "generation {generation}");
        stopped(running).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_partition_answers_and_folds_nothing() {
    let world = World::new(1 << 20).await;
    let last = world.append([1], b"").await;
    let running = world.start();
    assert!(running.0.wait_folded(last, PLENTY).await);
    running.0.direct(|control| {
        control.paused = true;
        true
    });
    wait_until(&running.0, |status| status.phase == Phase::Paused).await;
    let last = world.append([1, 1], b"").await;
    let status = wait_until(&running.0, |status| status.lag_events == 2).await;
    assert!(status.answers && status.next == Offset(1));
    assert_eq!(count_of(&running.0, 1).await, 1);
    stopped(running).await;

    let paused = Control {
        paused: true,
        ..control(1, &world.code)
    };
    let running = world.start_with(1, None, paused);
    wait_until(&running.0, |status| status.phase == Phase::Paused).await;
    assert_eq!(count_of(&running.0, 1).await, 1, "after a restart too");
    running.0.direct(|control| {
        control.paused = false;
        true
    });
    assert!(running.0.wait_folded(last, PLENTY).await);
    assert_eq!(count_of(&running.0, 1).await, 3);
    stopped(running).await;
}

fn migrated_from(schema: &str) -> Option<MigrateFrom> {
    Some(MigrateFrom {
        store: store(1),
        folded_by: None,
        schema: schema.to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_state_is_migrated_once_however_often_it_begins_again() {
    const KEYS: u32 = 10_000;
    let world = World::new(8 << 20).await;
    let last = world.append(0..KEYS, b"").await;
    let old = world.start();
    assert!(old.0.wait_folded(last, PLENTY).await);
    wait_until(&old.0, |status| status.committed > last).await;
    for rounds in [1, 40, 400] {
        let (_, stop, worker) =
            world.start_with(2, migrated_from("count/1"), control(2, &world.code));
        for _ in 0..rounds {
            tokio::task::yield_now().await;
        }
        stop.send_replace(Stop::Abandon);
        worker.await.unwrap();
    }
    // A key that goes between two attempts is not there in the end.
    let topic = TopicName::new("events").unwrap();
    let tombstone = NewRecord {
        key: Some(Bytes::from_static(b"key-0")),
        ..NewRecord::default()
    };
    let gone = world.log.append(&topic, vec![tombstone]).await.unwrap()[0].1;
    wait_until(&old.0, |status| status.committed > gone).await;
    let new = live(|| world.start_with(2, migrated_from("count/1"), control(2, &world.code))).await;
    assert_eq!(new.0.status().folds_from, gone.next());
    let last = world.append([1, 2], b"").await;
    assert!(new.0.wait_folded(last, PLENTY).await);
    let found = new.0.scan(b"key-", None, 20_000).await.unwrap().states;
    assert_eq!(found.len(), KEYS as usize - 1);
    let counts = [count_of(&new.0, 1).await, count_of(&new.0, 9_999).await];
    assert_eq!(counts, [1_002, 1_001]);
    assert_eq!(
        count_of(&old.0, 9_999).await,
        1,
        "the old ones are as they were"
    );
    stopped(new).await;
    stopped(old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_migrated_blocks_and_is_named() {
    let world = World::new(1 << 20).await;
    let last = world.append([1, 2, 3, 3, 3, 4], b"").await;
    let old = world.start();
    assert!(old.0.wait_folded(last, PLENTY).await);
    wait_until(&old.0, |status| status.committed > last).await;
    let new = world.start_with(2, migrated_from("count/0"), control(2, &world.code));
    let status = wait_until(&new.0, |status| status.phase == Phase::Blocked).await;
    let blocked = status.blocked.unwrap();
    assert_eq!(blocked.code, "migration-failed");
    assert!(blocked.detail.contains("'key-3'"), "{}", blocked.detail);
    assert!(
        blocked.detail.contains("three is too few"),
        "{}",
        blocked.detail
    );
    stopped(new).await;
    let last = world.append([3], b"").await;
    assert!(old.0.wait_folded(last, PLENTY).await, "the old one goes on");
    stopped(old).await;
}
