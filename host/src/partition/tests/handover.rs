//! Generations that follow each other where keys are parked: what the old one had set aside is published by
//! the new one, and nothing else of what lies before.

use super::parking::{corrected, key, replay};
use super::publishing::{folded, publishing, stop};
use super::*;
use crate::state::ActionPoint;

/// The event that the code of the old generation cannot fold, and that of the new one can.
const MARKED: &[u8] = b"trap";
/// Number of the first decision; those of deployments lie below.
const FIRST_ACTION: u64 = 10;

impl World {
    /// Runs a generation, with what was decided about parked records.
    fn generation(
        &self,
        (generation, number): (u64, u64),
        code: &Arc<Counter>,
        role: Role,
        actions: &[Action],
    ) -> Running {
        self.codes.0.lock().insert(number, code.clone());
        let control = Control {
            actions: Arc::new(actions.iter().cloned().collect()),
            ..Control::new(code_of(number, code.clone()))
        };
        let id = (role == Role::Serving).then_some("foldhost.counter.0");
        self.start_publishing(generation, None, control, Some(publishing(role, id)))
    }

    /// Every count that was told, by key and in order, with the word of whoever told it.
    async fn told(&self, of: u32) -> Vec<String> {
        let told = self.read("told").await.into_iter();
        let told = told.filter(|(key, _)| *key == format!("key-{of}"));
        told.map(|(_, value)| value).collect()
    }
}

async fn acted(running: &Running, number: u64) {
    let point = ActionPoint::done(number);
    wait_until(&running.0, |status| status.action >= point).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_generation_had_parked_is_published_by_the_new_one() {
    let world = World::new(1 << 20).await;
    let (old, new) = (Counter::telling("a", OnError::ParkKey), corrected("b"));
    world.append([1, 2], b"").await;
    world.append([1], MARKED).await;
    let last = world.append([1, 2, 3], b"").await;
    let serving = world.generation((1, 1), &old, Role::Serving, &[]);
    folded(&serving, last).await;
    let built = world.generation((2, 2), &new, Role::Beside, &[]);
    let last = world.append([1, 3], b"").await;
    folded(&serving, last).await;
    folded(&built, last).await;
    // It could fold the marked event, and does not: nobody has published yet what comes of it.
    assert_eq!(count_of(&built.0, 1).await, 1);
    assert_eq!(built.0.parked_key(&key(1)).unwrap().records, 3);
    stop(built).await;
    stop(serving).await;
    let promotion = [replay(FIRST_ACTION, None)];
    let promoted = world.generation((2, 2), &new, Role::Serving, &promotion);
    acted(&promoted, FIRST_ACTION).await;
    let last = world.append([1, 2], b"").await;
    folded(&promoted, last).await;
    assert_eq!(promoted.0.status().parked_records, 0);
    stop(promoted).await;
    assert_eq!(world.told(1).await, ["a1", "b2", "b3", "b4", "b5"]);
    assert_eq!(world.told(2).await, ["a1", "a2", "b3"]);
    assert_eq!(world.told(3).await, ["a1", "a2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_new_generation_parks_was_published_and_stays_so() {
    let world = World::new(1 << 20).await;
    let (old, new) = (corrected("a"), Counter::telling("b", OnError::ParkKey));
    world.append([1, 2], b"").await;
    world.append([1], MARKED).await;
    let last = world.append([1, 2], b"").await;
    let serving = world.generation((1, 1), &old, Role::Serving, &[]);
    let built = world.generation((2, 2), &new, Role::Beside, &[]);
    folded(&serving, last).await;
    folded(&built, last).await;
    assert_eq!(built.0.parked_key(&key(1)).unwrap().records, 2);
    stop(built).await;
    stop(serving).await;
    let mut actions = vec![replay(FIRST_ACTION, None)];
    let promoted = world.generation((2, 2), &new, Role::Serving, &actions);
    acted(&promoted, FIRST_ACTION).await;
    let last = world.append([1, 2], b"").await;
    folded(&promoted, last).await;
    stop(promoted).await;
    // A restart, and corrected code on the same states.
    actions.push(replay(FIRST_ACTION + 1, None));
    let healed = world.generation((2, 3), &corrected("c"), Role::Serving, &actions);
    acted(&healed, FIRST_ACTION + 1).await;
    assert_eq!(count_of(&healed.0, 1).await, 4);
    stop(healed).await;
    // The two that were parked before the promotion had been published.
    assert_eq!(world.told(1).await, ["a1", "a2", "a3", "c4"]);
    assert_eq!(world.told(2).await, ["a1", "a2", "b3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_in_the_old_generation_is_followed_by_the_one_that_is_built() {
    let world = World::new(1 << 20).await;
    let broken = Counter::telling("a", OnError::ParkKey);
    world.append([1, 2], MARKED).await;
    let last = world.append([1, 2], b"").await;
    let serving = world.generation((1, 1), &broken, Role::Serving, &[]);
    folded(&serving, last).await;
    stop(serving).await;
    let built = world.generation((2, 2), &corrected("b"), Role::Beside, &[]);
    folded(&built, last).await;
    assert_eq!(built.0.status().parked_records, 4);
    // It heals one of the keys; what is built learns that from the journal.
    let one = [replay(FIRST_ACTION, Some(1))];
    built.0.direct(|control| {
        control.actions = Arc::new(one.iter().cloned().collect());
        true
    });
    let serving = world.generation((1, 3), &corrected("c"), Role::Serving, &one);
    acted(&serving, FIRST_ACTION).await;
    acted(&built, FIRST_ACTION).await;
    assert_eq!(built.0.parked_key(&key(1)), None);
    assert_eq!(built.0.parked_key(&key(2)).unwrap().records, 2);
    assert_eq!(count_of(&built.0, 1).await, 2);
    stop(built).await;
    stop(serving).await;
    let actions = [
        replay(FIRST_ACTION, Some(1)),
        replay(FIRST_ACTION + 1, None),
    ];
    let promoted = world.generation((2, 2), &corrected("b"), Role::Serving, &actions);
    acted(&promoted, FIRST_ACTION + 1).await;
    stop(promoted).await;
    assert_eq!(world.told(1).await, ["c1", "c2"]);
    assert_eq!(world.told(2).await, ["b1", "b2"]);
}

/// Two generations side by side, each killed at random, with replays in between; then the promotion, killed
/// too, and the way back to the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_output_is_published_once_whatever_is_parked_where_and_crashes() {
    for seed in 0..10 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let world = World::new(1 << 20).await;
        let broken = Counter::telling("a", OnError::ParkKey);
        let (whole, healed) = (corrected("b"), corrected("c"));
        // In half of the runs the new code is the one that cannot fold the marked events.
        let (old, new) = match seed % 2 {
            0 => (&broken, &whole),
            _ => (&whole, &broken),
        };
        let mut all: Vec<u32> = Vec::new();
        let mut actions: Vec<Action> = Vec::new();
        let decide = |actions: &mut Vec<Action>, of: Option<u32>| {
            actions.push(replay(FIRST_ACTION + actions.len() as u64, of));
        };
        for round in 0..24 {
            for _ in 0..random.random_range(1..8) {
                let keys = (0..random.random_range(1..12)).map(|_| random.random_range(0..6));
                let keys: Vec<u32> = keys.collect();
                all.extend(&keys);
                world.append(keys, b"").await;
                if random.random_bool(0.2) {
                    let of = random.random_range(0..6);
                    all.push(of);
                    world.append([of], MARKED).await;
                }
            }
            if random.random_bool(0.3) {
                let of = random.random_bool(0.6).then(|| random.random_range(0..6));
                decide(&mut actions, of);
            }
            // Who serves, who follows; both go on with healed code in the end.
            if round == 8 || round == 16 {
                decide(&mut actions, None);
            }
            let (serving, beside) = match round {
                0..4 => (((1, 1), old), None),
                4..8 => (((1, 1), old), Some(((2, 2), new))),
                8..16 => (((2, 2), new), Some(((1, 1), old))),
                _ => (((1, 3), &healed), None),
            };
            let beside =
                beside.map(|(of, code)| world.generation(of, code, Role::Beside, &actions));
            let serving = world.generation(serving.0, serving.1, Role::Serving, &actions);
            tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
            let all_running = [Some(serving), beside];
            for running in all_running.into_iter().flatten() {
                let how = match random.random_bool(0.3) {
                    true => Stop::Clean,
                    false => Stop::Abandon,
                };
                running.1.send_replace(how);
                let exit = running.2.await.unwrap();
                let is_over = matches!(exit, Exit::Stopped | Exit::Abandoned | Exit::Fenced(_));
                assert!(is_over, "seed {seed}, round {round}: {exit:?}");
            }
        }
        decide(&mut actions, None);
        let done = ActionPoint::done(actions.last().expect("there are some").number);
        let last = Offset(all.len() as u64 - 1);
        loop {
            let mut running = world.generation((1, 3), &healed, Role::Serving, &actions);
            let settled = wait_until(&running.0, |it| it.action >= done && it.next > last);
            tokio::select! {
                _ = settled => {
                    assert_eq!(running.0.status().parked_records, 0, "seed {seed}");
                    stop(running).await;
                    break;
                }
                exit = &mut running.2 => {
                    let exit = exit.unwrap();
                    assert!(matches!(exit, Exit::Fenced(_)), "seed {seed}: {exit:?}");
                }
            }
        }
        for of in 0..6 {
            let count = all.iter().filter(|it| **it == of).count();
            let told = world.told(of).await;
            let numbers: Vec<_> = told.iter().map(|it| it[1..].to_owned()).collect();
            let expected: Vec<_> = (1..=count).map(|number| number.to_string()).collect();
            assert_eq!(numbers, expected, "seed {seed}, key {of}: {told:?}");
        }
    }
}
