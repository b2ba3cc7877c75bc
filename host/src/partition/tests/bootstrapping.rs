//! States that are told again in events: each once, between the events of commands, whatever crashes; nothing moves by
//! it, and who begins behind older events has every state.

use super::deciding::{Stock, ask, is_accepted, live, request};
use super::*;
use crate::partition::{Bootstrap, Bootstrapped};

/// An event as it lies in the owned topic.
#[derive(Debug, Clone)]
struct Event {
    offset: Offset,
    key: String,
    value: Option<String>,
    version: u64,
    /// By which decision it only tells a state again.
    bootstrap: Option<u64>,
    record: NewRecord,
}

fn every_key(number: u64) -> Bootstrap {
    Bootstrap {
        number,
        key: None,
        keys_per_second: 10_000,
        at_ms: i64::MAX,
    }
}

fn told(running: &Running) -> Option<Arc<Bootstrapped>> {
    running.0.status().bootstrap
}

/// Has states told, and goes on until that is done.
async fn bootstrap(running: &Running, of: &Bootstrap) -> Arc<Bootstrapped> {
    direct(running, Some(of.clone()));
    wait_until(&running.0, |status| {
        let told = status.bootstrap.as_ref();
        told.is_some_and(|told| told.number == of.number && told.done)
    })
    .await;
    told(running).expect("it is done")
}

fn direct(running: &Running, of: Option<Bootstrap>) {
    running.0.direct(|control| {
        control.bootstrap = of;
        true
    });
}

impl World {
    async fn history(&self) -> Vec<Event> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        self.read_as("told", |record| {
            let header = |name: &str| {
                let mut headers = record.headers();
                let (_, value) = headers.find(|(header, _)| *header == name)?;
                text(value?).parse::<u64>().ok()
            };
            let copy = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
            let headers = record.headers();
            let headers = headers.map(|(name, value)| (name.to_owned().into(), copy(value)));
            Event {
                offset: record.offset,
                key: record.key.map(text).unwrap(),
                value: record.value.map(text),
                version: header("foldhost-version").unwrap(),
                bootstrap: header("foldhost-bootstrap"),
                record: NewRecord {
                    key: copy(record.key),
                    value: copy(record.value),
                    headers: headers.collect(),
                    timestamp_ms: Some(record.timestamp_ms),
                    partition: None,
                },
            }
        })
        .await
    }

    /// Every state, with its version and when it changed.
    async fn all(running: &Running) -> Vec<(Bytes, Bytes, u64, i64)> {
        let states = running.0.scan(b"", None, 10_000).await.unwrap().states;
        let states = states.into_iter();
        states
            .map(|(key, it)| (key, it.state.clone(), it.version(), it.changed_at_ms))
            .collect()
    }
}

/// Of each key, real events count on by one, and what is told in between is the state and the version there.
fn nothing_goes_back(events: &[Event], seed: u64) {
    let mut newest = BTreeMap::<&str, (u64, &Option<String>)>::new();
    for event in events {
        let before = newest.get(&*event.key).copied();
        match (event.bootstrap, before) {
            (None, before) => assert_eq!(
                event.version,
                before.map_or(0, |(version, _)| version) + 1,
                "seed {seed}: {event:?}"
            ),
            (Some(_), before) => assert_eq!(
                before,
                Some((event.version, &event.value)),
                "seed {seed}: {event:?}"
            ),
        }
        newest.insert(&event.key, (event.version, &event.value));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_are_told_once_between_commands_whatever_crashes() {
    const KEYS: u64 = 600;
    for seed in 0..4 {
        let world = World::new(1 << 20).await;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut running = world.decide();
        live(&running).await;
        for key in 0..KEYS {
            let asked = request(&format!("first-{key}"), &format!("k{key:03}"), "add", 9);
            assert!(is_accepted(&ask(&running, asked).await));
        }
        let current = Arc::new(parking_lot::Mutex::new(running.0.clone()));
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..4_u64 {
            let (current, over) = (current.clone(), over.clone());
            let mut random = ChaCha8Rng::seed_from_u64(seed * 100 + client);
            clients.spawn(async move {
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    count += 1;
                    let name = ["add", "take", "twice"][random.random_range(0..3)];
                    let key = format!("k{:03}", random.random_range(0..KEYS + 50));
                    let asked = request(&format!("{client}-{count}"), &key, name, 1);
                    let handle = current.lock().clone();
                    // Of a crash there is no answer; what became of it, the log says.
                    let _ = handle.command(asked).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        // Slow enough for a slice to be a part of it only.
        let decided = Bootstrap {
            keys_per_second: 2_000,
            ..every_key(7)
        };
        let mut crashes = 0;
        let done = loop {
            direct(&running, Some(decided.clone()));
            tokio::time::sleep(Duration::from_millis(random.random_range(5..80))).await;
            if let Some(done) = told(&running).filter(|told| told.done) {
                break done;
            }
            let how = match random.random_bool(0.3) {
                true => Stop::Clean,
                false => Stop::Abandon,
            };
            crashes += 1;
            running.1.send_replace(how);
            running.2.await.unwrap();
            running = world.decide();
            *current.lock() = running.0.clone();
            live(&running).await;
        };
        assert!(crashes > 1, "seed {seed}: nothing was interrupted");
        over.store(true, Ordering::Relaxed);
        while clients.join_next().await.is_some() {}
        let events = world.history().await;
        nothing_goes_back(&events, seed);
        let mut times = BTreeMap::<&str, u64>::new();
        for event in events.iter().filter(|event| event.bootstrap == Some(7)) {
            *times.entry(&event.key).or_default() += 1;
            assert!(event.offset >= done.from);
        }
        assert!(times.values().all(|times| *times == 1), "seed {seed}");
        for key in 0..KEYS {
            let key = format!("k{key:03}");
            assert!(times.contains_key(&*key), "seed {seed}: {key} is not told");
        }
        assert_eq!((done.keys, done.untold), (times.len() as u64, 0));
        // A repeat, and a restart, tell nothing more.
        direct(&running, Some(decided));
        let before = World::all(&running).await;
        running.1.send_replace(Stop::Abandon);
        running.2.await.unwrap();
        let running = world.decide();
        live(&running).await;
        assert_eq!(World::all(&running).await, before, "seed {seed}");
        assert_eq!(told(&running).as_deref(), Some(&*done));
        assert_eq!(world.history().await.len(), events.len());

        // Who has only what came from there on has the same, versions and times included.
        let anew = World::new(1 << 20).await;
        let left = events.into_iter().filter(|event| event.offset >= done.from);
        let topic = TopicName::new("told").unwrap();
        let left: Vec<_> = left.map(|event| event.record).collect();
        anew.log.append(&topic, left).await.unwrap();
        let rebuilt = anew.decide();
        live(&rebuilt).await;
        assert_eq!(World::all(&rebuilt).await, before, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_is_told_and_one_without_state_is_not() {
    let world = World::new(1 << 20).await;
    let running = world.decide();
    live(&running).await;
    for (id, key, name) in [
        ("1", "a", "add"),
        ("2", "b", "add"),
        ("3", "b", "add"),
        ("4", "c", "add"),
        ("5", "c", "drop"),
    ] {
        assert!(is_accepted(&ask(&running, request(id, key, name, 5)).await));
    }
    let one = |number, key: &'static str| Bootstrap {
        key: Some(Bytes::from_static(key.as_bytes())),
        ..every_key(number)
    };
    let done = bootstrap(&running, &one(7, "b")).await;
    assert_eq!((done.keys, done.events, done.from), (1, 1, Offset(5)));
    for (number, key) in [(8, "c"), (9, "nobody")] {
        let done = bootstrap(&running, &one(number, key)).await;
        assert_eq!((done.keys, done.untold), (0, 0), "{key}");
    }
    let events = world.history().await;
    nothing_goes_back(&events, 0);
    let told: Vec<_> = events.iter().filter(|it| it.bootstrap.is_some()).collect();
    assert_eq!(told.len(), 1);
    assert_eq!((&*told[0].key, told[0].version), ("b", 2));
    // `If-Match` still holds, and the count goes on.
    let next = ask(&running, request("6", "b", "take", 1)).await;
    assert_eq!(next.outcome.version, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_told_is_named_and_nothing_of_it_is_written() {
    let world = World::new(1 << 20).await;
    let running = world.decide();
    live(&running).await;
    for key in ["a", "lost", "mute", "odd", "pair"] {
        assert!(is_accepted(
            &ask(&running, request(key, key, "add", 5)).await
        ));
    }
    let before = World::all(&running).await;
    let done = bootstrap(&running, &every_key(7)).await;
    assert_eq!((done.keys, done.events, done.untold), (2, 3, 3));
    let problem = done.problem.clone().expect("something is wrong");
    assert!(
        problem.contains("'lost'") && problem.contains("byte for byte"),
        "{problem}"
    );
    let events = world.history().await;
    let told = events.iter().filter(|it| it.bootstrap == Some(7));
    let told: Vec<_> = told.map(|it| &*it.key).collect();
    assert_eq!(told, ["a", "pair", "pair"]);
    assert_eq!(World::all(&running).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_as_slow_as_it_is_told_and_stops_when_it_is_told() {
    let world = World::new(1 << 20).await;
    let running = world.decide();
    live(&running).await;
    for key in 0..30 {
        let key = format!("k{key:02}");
        assert!(is_accepted(
            &ask(&running, request(&key, &key, "add", 5)).await
        ));
    }
    let slow = Bootstrap {
        keys_per_second: 20,
        ..every_key(7)
    };
    let began = world.clock.elapsed();
    direct(&running, Some(slow.clone()));
    wait_until(&running.0, |status| {
        status.bootstrap.as_ref().is_some_and(|told| told.keys >= 6)
    })
    .await;
    assert!(world.clock.elapsed() - began >= Duration::from_millis(150));
    direct(&running, None);
    // A command is decided after what was under way, and nothing comes behind it.
    ask(&running, request("after", "z", "add", 1)).await;
    let stopped = told(&running).expect("it was begun");
    assert!(!stopped.done && stopped.keys < 30, "{stopped:?}");
    ask(&running, request("later", "z", "add", 1)).await;
    assert_eq!(told(&running).as_deref(), Some(&*stopped));
    // Another owner goes on where it stopped.
    running.1.send_replace(Stop::Abandon);
    running.2.await.unwrap();
    let running = world.decide();
    live(&running).await;
    let done = bootstrap(
        &running,
        &Bootstrap {
            keys_per_second: 10_000,
            ..slow
        },
    )
    .await;
    assert_eq!((done.keys, done.from), (31, stopped.from));
    let events = world.history().await;
    nothing_goes_back(&events, 0);
    assert_eq!(
        events.iter().filter(|it| it.bootstrap.is_some()).count(),
        31
    );
    // A later decision begins anew.
    let again = bootstrap(&running, &every_key(8)).await;
    assert_eq!(again.keys, 31);
    assert!(again.from > done.from);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_cannot_tell_goes_on_deciding() {
    let world = World::new(1 << 20).await;
    let mut code = Stock::new();
    let stock = Arc::get_mut(&mut code).expect("it is new");
    stock.0.capabilities.emit_state = false;
    let running = world.decide_with(&code);
    live(&running).await;
    ask(&running, request("1", "a", "add", 5)).await;
    direct(&running, Some(every_key(7)));
    ask(&running, request("2", "a", "add", 5)).await;
    assert_eq!(told(&running), None);
    running.1.send_replace(Stop::Clean);
    assert_eq!(running.2.await.unwrap(), Exit::Stopped);
    // Code that can does what was decided.
    let running = world.decide();
    live(&running).await;
    assert_eq!(bootstrap(&running, &every_key(7)).await.keys, 1);
}
