//! The worker that parks keys: what is set aside comes back in order, once, whatever crashes and whatever
//! was decided meanwhile.

use super::publishing::{by_key, folded, publishing, stop};
use super::*;
use crate::state::ActionPoint;

/// Number of the first decision; those of deployments lie below and above.
const FIRST_ACTION: u64 = 10;

/// Counts all events, the marked ones too, but for those that are rejected.
pub(super) fn corrected(word: &'static str) -> Arc<Counter> {
    let mut counter = Counter::telling(word, OnError::ParkKey);
    Arc::get_mut(&mut counter).expect("it is new").traps = false;
    counter
}

pub(super) fn key(number: u32) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

pub(super) fn replay(number: u64, of: Option<u32>) -> Action {
    Action {
        number,
        key: of.map(key),
        discarded: None,
    }
}

/// Discards what is parked of a key.
fn discard(number: u64, of: u32, running: &Running) -> Action {
    let parked = running.0.parked_key(&key(of)).expect("it is parked");
    Action {
        number,
        key: Some(key(of)),
        discarded: Some(Discarded {
            first: parked.first.offset,
            last: parked.last,
            topic_id: running.0.status().topic_id,
        }),
    }
}

fn decide(running: &Running, actions: &[Action]) {
    running.0.direct(|control| {
        control.actions = Arc::new(actions.iter().cloned().collect());
        true
    });
}

async fn applied(running: &Running, number: u64) -> PartitionStatus {
    let point = ActionPoint::done(number);
    wait_until(&running.0, |status| status.action >= point).await
}

impl World {
    /// Runs `code` as deployment `number`, with what was decided about parked records.
    fn park(
        &self,
        number: u64,
        code: &Arc<Counter>,
        publishes: bool,
        actions: &[Action],
    ) -> Running {
        self.codes.0.lock().insert(number, code.clone());
        let control = Control {
            actions: Arc::new(actions.iter().cloned().collect()),
            ..Control::new(code_of(number, code.clone()))
        };
        let publishing = publishes.then(|| publishing(Role::Serving, Some("foldhost.counter.0")));
        self.start_publishing(1, None, control, publishing)
    }

    /// Goes on until everything is folded and done, through what an abandoned worker may still fence.
    async fn settle(
        &self,
        number: u64,
        code: &Arc<Counter>,
        publishes: bool,
        actions: &[Action],
        last: Offset,
    ) -> Running {
        let done = ActionPoint::done(actions.last().map_or(0, |action| action.number));
        loop {
            let mut running = self.park(number, code, publishes, actions);
            let settled = wait_until(&running.0, |status| {
                status.action >= done && status.next > last
            });
            tokio::select! {
                _ = settled => return running,
                exit = &mut running.2 => match exit.unwrap() {
                    Exit::Fenced(_) => {}
                    other => panic!("{other:?}"),
                },
            }
        }
    }

    /// Every count that was told, by key: each once, in order, and never again by code that was replaced.
    async fn expect_told(&self, all: &[u32], what: &str) {
        let mut counts = BTreeMap::<String, usize>::new();
        for of in all {
            *counts.entry(format!("key-{of}")).or_default() += 1;
        }
        let told = by_key(self.read("told").await);
        for (key, count) in counts {
            let told = told.get(&key).map(Vec::as_slice).unwrap_or_default();
            let numbers: Vec<_> = told.iter().map(|it| it[1..].to_owned()).collect();
            let expected: Vec<_> = (1..=count).map(|number| number.to_string()).collect();
            assert_eq!(numbers, expected, "{what}, {key}: {told:?}");
            assert!(
                told.is_sorted_by_key(|it| &it[..1]),
                "{what}, {key}: {told:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_parks_its_key_and_the_others_go_on() {
    for publishes in [true, false] {
        let world = World::new(1 << 20).await;
        let code = Counter::telling("n", OnError::ParkKey);
        world.append([1, 2], b"").await;
        let poison = world.append([1], b"trap").await;
        world.append([2, 1, 2, 1], b"").await;
        let rejected = world.append([3], b"reject").await;
        let last = world.append([1, 3, 2], b"").await;
        for how in [Stop::Abandon, Stop::Clean, Stop::Clean] {
            let running = world.settle(1, &code, publishes, &[], last).await;
            let parked = running.0.parked(None, 10);
            let parked: Vec<_> = parked
                .iter()
                .map(|it| {
                    let code = it.first.cause.as_ref().map(|cause| cause.code.as_str());
                    (it.key.clone(), it.records, it.first.offset, code)
                })
                .collect();
            let expected = [
                (key(1), 4, poison, Some("event-trapped")),
                (key(3), 2, rejected, Some("rejected:marked")),
            ];
            assert_eq!(parked, expected);
            let status = running.0.status();
            assert_eq!((status.parked_keys, status.parked_records), (2, 6));
            let counts = [1, 2, 3].map(|of| count_of(&running.0, of));
            let [one, two, three] = counts;
            assert_eq!((one.await, two.await, three.await), (1, 4, 0));
            running.1.send_replace(how);
            running.2.await.unwrap();
        }
        if publishes {
            world.expect_told(&[1, 2, 2, 2, 2], "parked").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_parked_comes_back_in_order_and_once_whatever_crashes() {
    for seed in 0..8 {
        let publishes = seed % 4 != 3;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let world = World::new(1 << 20).await;
        let (broken, whole) = (Counter::telling("a", OnError::ParkKey), corrected("b"));
        let mut all = Vec::new();
        let mut actions = Vec::new();
        for round in 0..14 {
            // From the middle on, other code, and more and more decisions.
            let (number, code) = match round {
                0..7 => (1, &broken),
                _ => (2, &whole),
            };
            if round >= 5 && random.random_bool(0.6) {
                let of = random.random_bool(0.5).then(|| random.random_range(0..9));
                actions.push(replay(FIRST_ACTION + round, of));
            }
            let running = world.park(number, code, publishes, &actions);
            let from = all.len() as u64;
            for _ in 0..random.random_range(1..20) {
                let keys: Vec<u32> = (0..random.random_range(1..20))
                    .map(|_| random.random_range(0..9))
                    .collect();
                all.extend(&keys);
                world.append(keys, b"").await;
                if random.random_bool(0.3) {
                    let of = random.random_range(0..9);
                    all.push(of);
                    world.append([of], b"trap").await;
                }
            }
            let crash_at = Offset(random.random_range(from..all.len() as u64));
            let reached = tokio::time::timeout(
                Duration::from_secs(5),
                running.0.wait_folded(crash_at, PLENTY),
            );
            // A crash while a partition is opened may fence the opening after it.
            if reached.await == Ok(true) {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
            }
            let how = match random.random_bool(0.2) {
                true => Stop::Clean,
                false => Stop::Abandon,
            };
            running.1.send_replace(how);
            let exit = running.2.await.unwrap();
            let is_over = matches!(exit, Exit::Stopped | Exit::Abandoned | Exit::Fenced(_));
            assert!(is_over, "{exit:?}");
        }
        actions.push(replay(FIRST_ACTION + 100, None));
        let last = Offset(all.len() as u64 - 1);
        let running = world.settle(2, &whole, publishes, &actions, last).await;
        assert_eq!(running.0.status().parked_records, 0, "seed {seed}");
        for of in 0..9 {
            let count = all.iter().filter(|it| **it == of).count() as u64;
            assert_eq!(count_of(&running.0, of).await, count, "seed {seed}, {of}");
        }
        stop(running).await;
        if publishes {
            world.expect_told(&all, &format!("seed {seed}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_again_stays_parked_with_all_behind_it() {
    let world = World::new(1 << 20).await;
    world.append([1, 2], b"").await;
    world.append([1, 2], b"trap").await;
    world.append([1], b"").await;
    let rejected = world.append([1], b"reject").await;
    let last = world.append([1, 2], b"").await;
    let broken = Counter::telling("a", OnError::ParkKey);
    let running = world.settle(1, &broken, true, &[], last).await;
    // The same code again heals nothing.
    decide(&running, &[replay(FIRST_ACTION, None)]);
    assert_eq!(applied(&running, FIRST_ACTION).await.parked_records, 6);
    stop(running).await;

    let all = [replay(FIRST_ACTION, None), replay(FIRST_ACTION + 1, None)];
    let running = world.settle(2, &corrected("b"), true, &all, last).await;
    let parked = running.0.parked(None, 10);
    assert_eq!((parked.len(), parked[0].records), (1, 2));
    assert_eq!(parked[0].first.offset, rejected);
    let cause = parked[0].first.cause.clone().expect("it says why");
    assert_eq!(cause.code, "rejected:marked");
    let counts = (count_of(&running.0, 1).await, count_of(&running.0, 2).await);
    assert_eq!(counts, (3, 3));
    stop(running).await;
    world.expect_told(&[1, 1, 1, 2, 2, 2], "partly").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_discarded_stays_away_and_the_key_goes_on() {
    for publishes in [true, false] {
        let world = World::new(1 << 20).await;
        let code = Counter::telling("n", OnError::ParkKey);
        world.append([1, 2], b"").await;
        world.append([1], b"trap").await;
        let last = world.append([1, 2], b"").await;
        let running = world.settle(1, &code, publishes, &[], last).await;
        let discard = discard(FIRST_ACTION, 1, &running);
        // What comes between the decision and its effect is folded.
        let last = world.append([1], b"").await;
        folded(&running, last).await;
        decide(&running, std::slice::from_ref(&discard));
        let status = applied(&running, FIRST_ACTION).await;
        assert_eq!(status.parked_records, 0);
        assert_eq!(count_of(&running.0, 1).await, 2);
        let last = world.append([1], b"").await;
        folded(&running, last).await;
        running.1.send_replace(Stop::Abandon);
        running.2.await.unwrap();
        let actions = [discard];
        let running = world.settle(1, &code, publishes, &actions, last).await;
        assert_eq!(count_of(&running.0, 1).await, 3);
        stop(running).await;
        if publishes {
            world.expect_told(&[1, 1, 1, 2, 2], "discarded").await;
        }

        // A build-up from the log leaves them out as well.
        let control = Control {
            actions: Arc::new(actions.into_iter().collect()),
            ..Control::new(code_of(20, code.clone()))
        };
        let rebuilt = world.start_with(2, None, control);
        folded(&rebuilt, last).await;
        let status = rebuilt.0.status();
        assert_eq!((count_of(&rebuilt.0, 1).await, status.parked_keys), (3, 0));
        stop(rebuilt).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_owner_has_what_the_earlier_one_parked() {
    let world = World::new(1 << 20).await;
    let code = Counter::telling("a", OnError::ParkKey);
    world.append([1, 2], b"").await;
    world.append([1], b"trap").await;
    let last = world.append([1, 2], b"").await;
    let first = world.settle(1, &code, true, &[], last).await;
    let actions = [replay(FIRST_ACTION, None)];
    let second = world.settle(2, &corrected("b"), true, &actions, last).await;
    // The earlier one is told the same, and can do nothing any more.
    decide(&first, &actions);
    let exit = tokio::time::timeout(PLENTY, first.2).await.unwrap();
    assert!(matches!(exit.unwrap(), Exit::Fenced(_)));
    assert_eq!(count_of(&second.0, 1).await, 3);
    stop(second).await;
    world.expect_told(&[1, 1, 1, 2, 2], "a new owner").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_replay_goes_step_by_step_through_crashes() {
    let world = World::new(1 << 20).await;
    let events = 2 * crate::limits::BATCH_EVENTS_MAX as u64 + 100;
    world.append([1], b"trap").await;
    world.append((1..events).map(|_| 1), b"").await;
    let last = world.append([2], b"").await;
    let code = Counter::telling("a", OnError::ParkKey);
    let running = world.settle(1, &code, true, &[], last).await;
    assert_eq!(running.0.status().parked_records as u64, events);
    stop(running).await;
    let actions = [replay(FIRST_ACTION, None)];
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..6 {
        let running = world.park(2, &corrected("b"), true, &actions);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
        running.1.send_replace(Stop::Abandon);
        running.2.await.unwrap();
    }
    let running = world.settle(2, &corrected("b"), true, &actions, last).await;
    assert_eq!(count_of(&running.0, 1).await, events);
    stop(running).await;
    let all: Vec<_> = (0..events).map(|_| 1).chain([2]).collect();
    world.expect_told(&all, "in steps").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_may_park_no_more_stops_until_there_is_room() {
    let world = World::new(1 << 20).await;
    let code = Counter::telling("n", OnError::ParkKey);
    world.append([1], b"trap").await;
    let records_max = crate::limits::PARKED_RECORDS_MAX as u64;
    for _ in 0..records_max / 10_000 {
        world.append((0..10_000).map(|_| 1), b"").await;
    }
    let last = world.append([2], b"").await;
    let running = world.park(1, &code, false, &[]);
    let status = wait_until(&running.0, |status| status.phase == Phase::Blocked).await;
    let blocked = status.blocked.expect("it says why");
    assert_eq!(blocked.code, "parked-full");
    assert_eq!(status.next, Offset(records_max), "nothing behind it");
    assert_eq!(count_of(&running.0, 2).await, 0);
    let discard = discard(FIRST_ACTION, 1, &running);
    decide(&running, &[discard]);
    folded(&running, last).await;
    let status = wait_until(&running.0, |status| status.phase == Phase::Live).await;
    assert_eq!((status.blocked, status.parked_records), (None, 0));
    let counts = (count_of(&running.0, 1).await, count_of(&running.0, 2).await);
    assert_eq!(counts, (1, 1), "the record that had no room is folded");
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_without_a_key_cannot_be_parked() {
    let world = World::new(1 << 20).await;
    let code = Counter::telling("n", OnError::ParkKey);
    world.append([1], b"trap").await;
    let record = NewRecord {
        value: Some(Bytes::new()),
        ..NewRecord::default()
    };
    let topic = TopicName::new("events").unwrap();
    world.log.append(&topic, vec![record]).await.unwrap();
    let running = world.park(1, &code, false, &[]);
    let status = wait_until(&running.0, |status| status.phase == Phase::Blocked).await;
    let blocked = status.blocked.expect("it says why");
    assert_eq!(blocked.code, "event-without-key");
    assert!(blocked.detail.contains("be parked"), "{}", blocked.detail);
    assert_eq!(status.parked_records, 1);
    stop(running).await;
}
