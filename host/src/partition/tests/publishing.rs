//! The worker that publishes: outputs exactly once, whatever crashes and whatever code takes over, dead
//! letters, and generations that follow each other.

use super::*;
use crate::log::{Read, ReadLimits, RecordRef};

/// Key and value of a record.
pub(super) type Told = (String, String);

pub(super) fn publishing(role: Role, id: Option<&str>) -> Publishing {
    Publishing {
        plugin: DeploymentId(1),
        role,
        transactional_id: id.map(str::to_owned),
        output: Some(TopicName::new("told").unwrap()),
        from_earliest: role == Role::BesideFromEarliest,
        dead_letters: TopicName::new("foldhost.counter.dead-letters").unwrap(),
        decides: false,
        folds_unstamped: false,
    }
}

impl World {
    /// Runs `code` as deployment `number` of a generation.
    pub(super) fn tell(
        &self,
        generation: u64,
        number: u64,
        code: &Arc<Counter>,
        role: Role,
    ) -> Running {
        self.codes.0.lock().insert(number, code.clone());
        let id = match role {
            Role::Serving => Some("foldhost.counter.0"),
            Role::Beside => None,
            Role::BesideFromEarliest => Some("foldhost.counter.0.g2"),
        };
        let control = Control::new(code_of(number, code.clone()));
        self.start_publishing(generation, None, control, Some(publishing(role, id)))
    }

    /// All that is in a topic.
    pub(super) async fn read(&self, topic: &str) -> Vec<Told> {
        let text =
            |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().into()).unwrap();
        let told = |record: &RecordRef<'_>| (text(record.key), text(record.value));
        self.read_as(topic, told).await
    }

    /// What `told` makes of all that is in a topic.
    pub(super) async fn read_as<T>(
        &self,
        topic: &str,
        told: impl Fn(&RecordRef<'_>) -> T,
    ) -> Vec<T> {
        let of = TopicPartition {
            topic: TopicName::new(topic).unwrap(),
            partition: Partition(0),
        };
        let readers = self.log.reader_set("test-outputs").unwrap();
        let mut reader = readers.open(&of, Offset(0)).await.unwrap();
        let limits = ReadLimits {
            records_max: 100_000,
            bytes_max: usize::MAX,
        };
        let mut batch = RecordBatch::new();
        while reader.read(&mut batch, limits).await.unwrap() == Read::Records {}
        batch.iter().map(|record| told(&record)).collect()
    }
}

/// What counts of these keys are told, one after the other.
pub(super) fn model(
    word: &str,
    keys: impl IntoIterator<Item = u32>,
) -> BTreeMap<String, Vec<String>> {
    let mut counts = BTreeMap::<u32, u32>::new();
    let mut told = BTreeMap::<String, Vec<String>>::new();
    for key in keys {
        let count = counts.entry(key).or_default();
        *count += 1;
        let by_key = told.entry(format!("key-{key}")).or_default();
        by_key.push(format!("{word}{count}"));
    }
    told
}

pub(super) fn by_key(told: Vec<Told>) -> BTreeMap<String, Vec<String>> {
    let mut by_key = BTreeMap::<String, Vec<String>>::new();
    for (key, value) in told {
        by_key.entry(key).or_default().push(value);
    }
    by_key
}

/// Ends as soon as all that was folded is published.
pub(super) async fn stop(running: Running) {
    running.1.send_replace(Stop::Clean);
    assert_eq!(running.2.await.unwrap(), Exit::Stopped);
}

pub(super) async fn folded(running: &Running, last: Offset) {
    let reached = running.0.wait_folded(last, PLENTY).await;
    assert!(reached, "{:?}", running.0.status());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_output_is_published_once_whatever_crashes() {
    for seed in 0..6 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let world = World::new(1 << 20).await;
        let code = Counter::telling("n", OnError::Stop);
        let mut all = Vec::new();
        for _ in 0..14 {
            let running = world.tell(1, 1, &code, Role::Serving);
            let keys: Vec<u32> = (0..random.random_range(20..300))
                .map(|_| random.random_range(0..9))
                .collect();
            let from = all.len() as u64;
            all.extend(&keys);
            world.append(keys, b"").await;
            let crash_at = Offset(random.random_range(from..all.len() as u64));
            // A crash while a partition is opened may fence the opening after it.
            if running.0.wait_folded(crash_at, PLENTY).await {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
            }
            let how = match random.random_bool(0.2) {
                true => Stop::Clean,
                false => Stop::Abandon,
            };
            running.1.send_replace(how);
            let exit = running.2.await.unwrap();
            assert!(matches!(exit, Exit::Stopped | Exit::Abandoned), "{exit:?}");
        }
        let running = world.tell(1, 1, &code, Role::Serving);
        folded(&running, Offset(all.len() as u64 - 1)).await;
        stop(running).await;
        assert_eq!(
            by_key(world.read("told").await),
            model("n", all),
            "seed {seed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_is_folded_again_by_the_code_that_published_it() {
    for seed in 0..6 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let world = World::new(1 << 20).await;
        let words = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let mut events = 0;
        for (number, word) in (1..).zip(words) {
            // Each comes as a surprise to what the one before left behind.
            let code = Counter::telling(word, OnError::Stop);
            let running = world.tell(1, number, &code, Role::Serving);
            let count = random.random_range(1..200);
            world.append((0..count).map(|_| 1), b"").await;
            events += count;
            let last = Offset(events - 1);
            match random.random_bool(0.8) {
                true => folded(&running, last).await,
                false => drop(wait_until(&running.0, |it| it.phase != Phase::Opening).await),
            }
            let published = |it: &PartitionStatus| it.published > Some(Offset(events / 2));
            if random.random_bool(0.5) && running.0.status().next > Offset(events / 2) {
                wait_until(&running.0, published).await;
            }
            running.1.send_replace(Stop::Abandon);
            running.2.await.unwrap();
        }
        let code = Counter::telling("z", OnError::Stop);
        let running = world.tell(1, 100, &code, Role::Serving);
        folded(&running, Offset(events - 1)).await;
        assert_eq!(count_of(&running.0, 1).await, events);
        stop(running).await;
        let told = world.read("told").await;
        let mut number = 0;
        let mut words = Vec::new();
        for (_, value) in told {
            number += 1;
            let (word, count) = value.split_at(1);
            assert_eq!(
                count,
                number.to_string(),
                "seed {seed}: each count once, in order"
            );
            words.push(word.to_owned());
        }
        assert_eq!(number, events);
        assert!(words.is_sorted(), "seed {seed}: no code comes back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_goes_to_the_dead_letters_and_the_rest_goes_on() {
    let world = World::new(1 << 20).await;
    let code = Counter::telling("n", OnError::DeadLetter);
    world.append([1, 2], b"").await;
    world.append([1], b"trap").await;
    world.append([2], b"reject").await;
    let last = world.append([1, 2], b"").await;
    for how in [Stop::Abandon, Stop::Clean, Stop::Clean] {
        let running = world.tell(1, 1, &code, Role::Serving);
        folded(&running, last).await;
        let counts = (count_of(&running.0, 1).await, count_of(&running.0, 2).await);
        assert_eq!(counts, (2, 2));
        running.1.send_replace(how);
        running.2.await.unwrap();
    }
    let outputs = by_key(world.read("told").await);
    assert_eq!(outputs, model("n", [1, 2, 1, 2]));
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        world.read("foldhost.counter.dead-letters").await,
        [pair("key-1", "trap"), pair("key-2", "reject")]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_without_its_position_in_the_journal_publishes_nothing() {
    let world = World::new(1 << 20).await;
    let code = Counter::telling("n", OnError::Stop);
    let last = world.append([1, 1], b"").await;
    let running = world.tell(1, 1, &code, Role::Serving);
    folded(&running, last).await;
    stop(running).await;
    let journal = TopicName::new("foldhost.counter.journal").unwrap();
    world.log.delete_topic(&journal).await.unwrap();
    let topic = NewTopic {
        name: journal,
        partitions: 1,
        replication_factor: None,
        cleanup: Cleanup::Default,
    };
    world.log.create_topic(&topic).await.unwrap();
    world.append([1], b"").await;
    let running = world.tell(1, 1, &code, Role::Serving);
    let status = wait_until(&running.0, |status| status.phase == Phase::Blocked).await;
    assert_eq!(status.blocked.unwrap().code, "position-lost");
    assert_eq!(count_of(&running.0, 1).await, 2, "it goes on answering");
    running.1.send_replace(Stop::Abandon);
    running.2.await.unwrap();
    assert_eq!(world.read("told").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_owner_goes_on_where_the_earlier_one_published() {
    let world = World::new(1 << 20).await;
    let code = Counter::telling("n", OnError::Stop);
    let first = world.tell(1, 1, &code, Role::Serving);
    let mut keys = Vec::new();
    let mut last = Offset(0);
    for _ in 0..20 {
        keys.extend([1, 2, 3]);
        last = world.append([1, 2, 3], b"").await;
    }
    folded(&first, Offset(10)).await;
    let second = world.tell(1, 1, &code, Role::Serving);
    folded(&second, last).await;
    last = world.append([1, 2, 3], b"").await;
    keys.extend([1, 2, 3]);
    folded(&second, last).await;
    let exit = tokio::time::timeout(PLENTY, first.2).await.unwrap();
    assert!(matches!(exit.unwrap(), Exit::Fenced(_)));
    stop(second).await;
    assert_eq!(by_key(world.read("told").await), model("n", keys));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_is_built_takes_over_exactly_where_the_old_one_stopped() {
    for seed in 0..6 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let world = World::new(1 << 20).await;
        let (old, new) = (
            Counter::telling("a", OnError::Stop),
            Counter::telling("b", OnError::Stop),
        );
        let serving = world.tell(1, 1, &old, Role::Serving);
        let mut events = 0;
        let mut built = None;
        for round in 0..10 {
            let count = random.random_range(1..100);
            world.append((0..count).map(|_| 7), b"").await;
            events += count;
            if round == 3 {
                built = Some(world.tell(2, 2, &new, Role::Beside));
            }
            if random.random_bool(0.3) {
                folded(&serving, Offset(events - 1)).await;
            }
            if let Some(built) = &built {
                let ahead = built.0.status().next;
                assert!(ahead <= serving.0.status().next, "it follows");
            }
        }
        let built = built.expect("it was started");
        wait_until(&built.0, |status| status.phase == Phase::Live).await;
        // Promoted: whatever the old one was about to publish, the new one goes on from what it has.
        built.1.send_replace(Stop::Abandon);
        built.2.await.unwrap();
        let promoted = world.tell(2, 2, &new, Role::Serving);
        serving.1.send_replace(Stop::Clean);
        let exit = serving.2.await.unwrap();
        let is_over = matches!(exit, Exit::Stopped | Exit::Fenced(_) | Exit::Failed(_));
        assert!(is_over, "{exit:?}");
        folded(&promoted, Offset(events - 1)).await;
        world.append([7, 7], b"").await;
        events += 2;
        folded(&promoted, Offset(events - 1)).await;
        assert_eq!(count_of(&promoted.0, 7).await, events);
        stop(promoted).await;
        let told = world.read("told").await;
        let (mut expected, mut words) = (0, Vec::new());
        for (_, value) in told {
            expected += 1;
            assert_eq!(&value[1..], expected.to_string(), "seed {seed}");
            words.push(value[..1].to_owned());
        }
        assert_eq!(expected, events, "seed {seed}: none missing");
        assert!(
            words.is_sorted() && words.contains(&"b".to_owned()),
            "seed {seed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_is_kept_follows_and_can_take_over_again() {
    let world = World::new(1 << 20).await;
    let (old, new) = (
        Counter::telling("a", OnError::Stop),
        Counter::telling("b", OnError::Stop),
    );
    let mut events = 0;
    let mut append = async || {
        events += 50;
        world.append([7; 50], b"").await
    };
    let serving = world.tell(1, 1, &old, Role::Serving);
    folded(&serving, append().await).await;
    let built = world.tell(2, 2, &new, Role::Beside);
    wait_until(&built.0, |status| status.phase == Phase::Live).await;
    stop(built).await;
    stop(serving).await;

    let promoted = world.tell(2, 2, &new, Role::Serving);
    // The second time, its state is ahead of what it has published itself.
    for _ in 0..2 {
        let kept = world.tell(1, 1, &old, Role::Beside);
        let last = append().await;
        folded(&promoted, last).await;
        folded(&kept, last).await;
        stop(kept).await;
    }
    stop(promoted).await;
    let back = world.tell(1, 3, &old, Role::Serving);
    folded(&back, append().await).await;
    assert_eq!(count_of(&back.0, 7).await, events);
    stop(back).await;
    let told = world.read("told").await;
    let told: Vec<String> = told.into_iter().map(|(_, value)| value).collect();
    let word = |number| {
        if (51..=150).contains(&number) {
            "b"
        } else {
            "a"
        }
    };
    let expected = (1..=events).map(|number| format!("{}{number}", word(number)));
    assert_eq!(told, expected.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_writer_is_closed_and_the_next_record_opens_the_partition_again() {
    let mut world = World::new(1 << 20).await;
    world.writer_idle_max = Duration::from_millis(20);
    let code = Counter::telling("n", OnError::Stop);
    let mut keys = Vec::new();
    for _ in 0..3 {
        let mut running = world.tell(1, 1, &code, Role::Serving);
        let exit = async {
            loop {
                keys.push(7);
                world.append([7], b"").await;
                // Long enough for it to become idle, if the record did not find it so.
                let pause = Duration::from_millis(200);
                if let Ok(exit) = tokio::time::timeout(pause, &mut running.2).await {
                    break exit.unwrap();
                }
            }
        };
        let exit = tokio::time::timeout(PLENTY, exit).await;
        assert_eq!(exit.expect("it becomes idle"), Exit::Idle);
    }
    let running = world.tell(1, 1, &code, Role::Serving);
    folded(&running, Offset(keys.len() as u64 - 1)).await;
    stop(running).await;
    assert_eq!(by_key(world.read("told").await), model("n", keys));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_tells_a_state_again_is_folded_and_published_on_demand() {
    for fires in [false, true] {
        let world = World::new(1 << 20).await;
        let mut code = Counter::telling("n", OnError::Stop);
        let counter = Arc::get_mut(&mut code).expect("it is new");
        counter.inspection.manifest.bootstrap = fires;
        let record = |number: &'static str| NewRecord {
            key: Some(Bytes::from_static(b"key-1")),
            value: Some(Bytes::new()),
            headers: match number {
                "" => Vec::new(),
                number => vec![(
                    "foldhost-bootstrap".into(),
                    Some(Bytes::from_static(number.as_bytes())),
                )],
            },
            ..NewRecord::default()
        };
        let topic = TopicName::new("events").unwrap();
        let events = ["", "7", "", "7"].map(record).to_vec();
        world.log.append(&topic, events).await.unwrap();
        let running = world.tell(1, 1, &code, Role::Serving);
        folded(&running, Offset(3)).await;
        assert_eq!(count_of(&running.0, 1).await, 4, "all are folded");
        stop(running).await;
        let told: Vec<_> = world
            .read("told")
            .await
            .into_iter()
            .map(|it| it.1)
            .collect();
        match fires {
            true => assert_eq!(told, ["n1", "n2", "n3", "n4"]),
            false => assert_eq!(told, ["n1", "n3"]),
        }
        // What comes of it only tells again too.
        let marked = |record: &RecordRef<'_>| {
            let mut headers = record.headers();
            headers.any(|header| header == ("foldhost-bootstrap", Some(&b"7"[..])))
        };
        let marked = world.read_as("told", marked).await;
        match fires {
            true => assert_eq!(marked, [false, true, false, true]),
            false => assert_eq!(marked, [false, false]),
        }
    }
}
