//! The step against plugins that fail, and the worker under seeded random crashes: a real log, the
//! real state store on an in-memory object store, and a fold that counts, so that any event folded
//! twice or never shows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;

use super::assemble::Source;
use super::*;
use crate::log::embedded::{EmbeddedLog, EmbeddedSettings};
use crate::log::{Cleanup, Header, NewRecord, NewTopic, RecordBatch, SharedReads};
use crate::plugin::manifest::OnError;
use crate::plugin::{
    BytesColumn, CallError, Capabilities, Command, Decision, Description, FoldInput, Folded,
    Inspection, Kind, Manifest, OptionalColumn, Payload, PluginCode, PluginInstance, QueryError,
    Question, Refusal, Rejection, RouteInput, Routes,
};
use crate::state::objects::Objects;
use crate::state::slate::{SlateSettings, SlateStore};
use crate::types::{
    ClusterName, DeploymentId, Digest, GenerationId, Offset, Partition, PluginName, TopicName,
};

mod bootstrapping;
mod committing;
mod counter;
mod deciding;
mod directed;
mod framing;
mod handover;
mod parking;
mod publishing;

use counter::Counter;

const PLENTY: Duration = Duration::from_secs(60);

/// States as a plain map.
#[derive(Default)]
struct Model(BTreeMap<Bytes, Bytes>);

impl States for Model {
    fn hash(&self, key: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64(key)
    }

    fn find(&self, _: u64, key: &[u8]) -> Option<Place> {
        let at = self.0.keys().position(|known| known == key)?;
        Some(Place(u32::try_from(at).unwrap()))
    }

    fn state(&self, Place(at): Place) -> Option<&[u8]> {
        self.0.values().nth(at as usize).map(|state| &**state)
    }
}

const SOURCE: Source = Source {
    partition: Partition(0),
    partitions: 1,
    partitioner: Partitioner::Murmur2,
    framings: Vec::new(),
    headers: false,
    on_error: OnError::Stop,
    record_bytes_max: usize::MAX,
    letter_bytes_max: usize::MAX,
    merged: None,
    record_keys: false,
    origins: false,
    versions: false,
};

fn batch(values: impl IntoIterator<Item = Option<&'static [u8]>>) -> RecordBatch {
    let mut batch = RecordBatch::new();
    for (index, value) in values.into_iter().enumerate() {
        let key = [b'k', u8::try_from(index % 7).unwrap()];
        batch.push(Offset(index as u64 * 2), 1, Some(&key), value, []);
    }
    batch
}

fn counted(stepped: &Stepped) -> u64 {
    let states = stepped.changes.iter().filter_map(|change| change.state);
    states
        .map(|state| u64::from_le_bytes(state.state.try_into().unwrap()))
        .sum()
}

#[test]
fn a_trap_is_cut_down_to_its_event_wherever_it_is() {
    for poison in [0, 1, 499, 500, 777, 999] {
        let batch =
            batch((0..1_000).map(|index| Some(if index == poison { &b"trap"[..] } else { b"" })));
        let mut slot = InstanceSlot::new(Counter::new());
        let stepped = step(&mut slot, &Model::default(), &batch, &SOURCE).unwrap();
        let found = stepped.poison.clone().expect("it traps");
        assert_eq!(
            (found.index, found.code.as_str()),
            (poison, "event-trapped")
        );
        assert_eq!(stepped.folded, poison, "nothing behind it is folded");
        assert_eq!(counted(&stepped), poison as u64);
    }
}

#[test]
fn nothing_behind_a_rejected_event_is_folded() {
    let batch = batch((0..100).map(|index| Some(if index >= 60 { &b"reject"[..] } else { b"" })));
    let mut slot = InstanceSlot::new(Counter::new());
    let stepped = step(&mut slot, &Model::default(), &batch, &SOURCE).unwrap();
    let found = stepped.poison.clone().expect("it is rejected");
    assert_eq!((found.index, found.code.as_str()), (60, "rejected:marked"));
    assert_eq!(counted(&stepped), 60);
}

#[test]
fn a_batch_that_runs_out_of_fuel_is_split_and_only_an_event_alone_is_poison() {
    let batch = batch((0..64).map(|_| Some(&b"heavy"[..])));
    let mut slot = InstanceSlot::new(Counter::new());
    let stepped = step(&mut slot, &Model::default(), &batch, &SOURCE).unwrap();
    assert_eq!((stepped.folded, stepped.poison.clone()), (64, None));
    assert_eq!(counted(&stepped), 64);
}

#[test]
fn a_record_without_a_key_stops_before_itself() {
    let mut batch = batch([Some(&b""[..]), Some(b"")]);
    batch.push(Offset(100), 1, None, Some(b""), []);
    let mut slot = InstanceSlot::new(Counter::new());
    let stepped = step(&mut slot, &Model::default(), &batch, &SOURCE).unwrap();
    assert_eq!(stepped.folded, 2);
    assert_eq!(stepped.poison.unwrap().code, "event-without-key");
}

#[test]
fn a_key_of_another_partition_is_never_folded() {
    let mut batch = RecordBatch::new();
    let source = Source {
        partitions: 4,
        ..SOURCE
    };
    let foreign = (0..)
        .map(|n| format!("key-{n}"))
        .find(|key| Partitioner::Murmur2.partition(key.as_bytes(), 4) != source.partition);
    batch.push(
        Offset(0),
        1,
        foreign.as_deref().map(str::as_bytes),
        Some(b""),
        [],
    );
    let mut slot = InstanceSlot::new(Counter::new());
    let stepped = step(&mut slot, &Model::default(), &batch, &source).unwrap();
    assert_eq!(
        (stepped.folded, stepped.poison.unwrap().code.as_str()),
        (0, "key-not-of-partition")
    );
}

#[test]
fn a_state_that_comes_out_as_it_went_in_is_no_change() {
    let batch = batch([None, None]);
    let mut slot = InstanceSlot::new(Counter::new());
    let stepped = step(&mut slot, &Model::default(), &batch, &SOURCE).unwrap();
    assert_eq!((stepped.folded, stepped.changes.len()), (2, 0));
}

#[test]
fn the_same_states_come_out_whatever_the_batches() {
    let values: Vec<_> = (0..200)
        .map(|n| if n % 13 == 0 { None } else { Some(&b""[..]) })
        .collect();
    let whole = batch(values.clone());
    let fold = |split: usize| {
        let mut model = Model::default();
        let mut slot = InstanceSlot::new(Counter::new());
        let records: Vec<_> = whole.iter().collect();
        for chunk in records.chunks(split) {
            let mut part = RecordBatch::new();
            for record in chunk {
                part.push(
                    record.offset,
                    record.timestamp_ms,
                    record.key,
                    record.value,
                    [],
                );
            }
            let stepped = step(&mut slot, &model, &part, &SOURCE).unwrap();
            for change in stepped.changes.iter() {
                match change.state {
                    Some(state) => model.0.insert(
                        Bytes::copy_from_slice(change.key),
                        Bytes::copy_from_slice(state.state),
                    ),
                    None => model.0.remove(change.key),
                };
            }
        }
        model.0
    };
    assert_eq!(fold(200), fold(1));
    assert_eq!(fold(200), fold(17));
}

/// A worker, and what it is stopped by.
type Running = (
    PartitionHandle,
    watch::Sender<Stop>,
    tokio::task::JoinHandle<Exit>,
);

fn store(generation: u64) -> StoreId {
    StoreId {
        plugin: PluginName::new("counter").unwrap(),
        generation: GenerationId(generation),
        partition: Partition(0),
    }
}

fn code_of(deployment: u64, code: Arc<dyn PluginCode>) -> Arc<CodeInUse> {
    Arc::new(CodeInUse {
        deployment: DeploymentId(deployment),
        code,
        renumbered: false,
    })
}

/// The code of deployments, as a host finds it in the history.
#[derive(Debug, Default)]
struct History(parking_lot::Mutex<BTreeMap<u64, Arc<Counter>>>);

#[async_trait::async_trait]
impl Codes for History {
    async fn code(&self, deployment: DeploymentId) -> Result<Arc<CodeInUse>, String> {
        let code = self.0.lock().get(&deployment.0).cloned();
        let code = code.ok_or("nobody knows it")?;
        Ok(code_of(deployment.0, code))
    }
}

/// A log, a store and a plugin, on which workers come and go.
struct World {
    _folder: tempfile::TempDir,
    log: Arc<dyn Log>,
    readers: Arc<dyn ReaderSet>,
    states: Arc<dyn StateStore>,
    codes: Arc<History>,
    code: Arc<Counter>,
    clock: Clock,
    budget: StateBudget,
    writer_idle_max: Duration,
}

impl World {
    async fn new(cache_bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let log: Arc<dyn Log> = Arc::new(
            EmbeddedLog::open(
                &folder.path().join("log"),
                clock.clone(),
                EmbeddedSettings::default(),
            )
            .unwrap(),
        );
        for name in [
            "events",
            "told",
            "foldhost.counter.journal",
            "foldhost.counter.dead-letters",
        ] {
            let topic = NewTopic {
                name: TopicName::new(name).unwrap(),
                partitions: 1,
                replication_factor: None,
                cleanup: Cleanup::Default,
            };
            log.create_topic(&topic).await.unwrap();
        }
        let objects = Objects::open("memory://", clock.clone()).unwrap().store();
        let states = SlateStore::new(
            objects,
            SlateSettings::default(),
            tokio::runtime::Handle::current(),
        );
        Self {
            _folder: folder,
            readers: Arc::from(log.reader_set("test").unwrap()),
            log,
            states: Arc::new(states),
            codes: Arc::default(),
            code: Counter::new(),
            clock,
            budget: StateBudget::new(cache_bytes),
            writer_idle_max: PLENTY,
        }
    }

    fn start(&self) -> Running {
        self.start_with(1, None, Control::new(code_of(1, self.code.clone())))
    }

    fn start_with(
        &self,
        generation: u64,
        origin: Option<MigrateFrom>,
        control: Control,
    ) -> Running {
        self.start_publishing(generation, origin, control, None)
    }

    fn start_publishing(
        &self,
        generation: u64,
        origin: Option<MigrateFrom>,
        control: Control,
        publishing: Option<Publishing>,
    ) -> Running {
        let input = self.code.inspection.manifest.inputs[0].clone();
        self.start_on(generation, origin, control, publishing, input)
    }

    fn start_on(
        &self,
        generation: u64,
        origin: Option<MigrateFrom>,
        control: Control,
        publishing: Option<Publishing>,
        input: Input,
    ) -> Running {
        self.start_with_commands(generation, origin, control, publishing, input, None)
    }

    fn start_with_commands(
        &self,
        generation: u64,
        origin: Option<MigrateFrom>,
        control: Control,
        publishing: Option<Publishing>,
        input: Input,
        commands: Option<TopicName>,
    ) -> Running {
        let spec = PartitionSpec {
            store: store(generation),
            origin,
            input,
            merged: None,
            commands,
            journal: ClusterName::new("foldhost")
                .unwrap()
                .journal_topic(&PluginName::new("counter").unwrap()),
            advertised_url: "http://here".to_owned(),
            publishing,
        };
        let ports = Ports {
            log: self.log.clone(),
            readers: self.readers.clone(),
            shared_reads: SharedReads::new(1 << 20, self.clock.clone()),
            states: self.states.clone(),
            lookups: Lookups::new(&self.log, "test-lookups"),
            codes: self.codes.clone(),
            budget: self.budget.clone(),
            clock: self.clock.clone(),
            writer_idle_max: self.writer_idle_max,
            metrics: Metrics::new(),
            changed: Arc::default(),
        };
        let handle = PartitionHandle::new(spec, control, self.budget.clone());
        let (stop, stopped) = watch::channel(Stop::No);
        let worker = tokio::spawn(run(handle.clone(), ports, stopped));
        (handle, stop, worker)
    }

    async fn append(&self, keys: impl IntoIterator<Item = u32>, value: &'static [u8]) -> Offset {
        self.append_with(keys, value, &[]).await
    }

    async fn append_with(
        &self,
        keys: impl IntoIterator<Item = u32>,
        value: &'static [u8],
        headers: &[Header],
    ) -> Offset {
        let records = keys.into_iter().map(|key| NewRecord {
            key: Some(Bytes::from(format!("key-{key}"))),
            value: Some(Bytes::from_static(value)),
            headers: headers.to_vec(),
            ..NewRecord::default()
        });
        let topic = TopicName::new("events").unwrap();
        let placed = self.log.append(&topic, records.collect()).await.unwrap();
        placed.last().unwrap().1
    }
}

async fn count_of(handle: &PartitionHandle, key: u32) -> u64 {
    let lookup = handle.state(format!("key-{key}").as_bytes()).await.unwrap();
    lookup.state.map_or(0, |state| {
        u64::from_le_bytes(state.state.as_ref().try_into().unwrap())
    })
}

/// Kills the worker at random positions, sometimes in the middle of a commit, sometimes cleanly;
/// with a memory that holds everything and with one that holds next to nothing.
async fn survives_crashes(seed: u64, cache_bytes: usize) {
    const KEYS: u32 = 40;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let world = World::new(cache_bytes).await;
    let mut model = BTreeMap::<u32, u64>::new();
    let mut appended = 0_u64;
    for _ in 0..12 {
        let events: Vec<u32> = (0..random.random_range(50..400))
            .map(|_| random.random_range(0..KEYS))
            .collect();
        let folded_from = appended;
        appended += events.len() as u64;
        for key in &events {
            *model.entry(*key).or_default() += 1;
        }
        let (handle, stop, worker) = world.start();
        world.append(events, b"").await;
        let crash_at = random.random_range(folded_from..appended);
        assert!(
            handle.wait_folded(Offset(crash_at), PLENTY).await,
            "{:?}",
            handle.status()
        );
        let how = if random.random_bool(0.3) {
            Stop::Clean
        } else {
            Stop::Abandon
        };
        stop.send_replace(how);
        let exit = worker.await.unwrap();
        assert!(matches!(exit, Exit::Stopped | Exit::Abandoned), "{exit:?}");
    }
    let (handle, stop, worker) = world.start();
    assert!(handle.wait_folded(Offset(appended - 1), PLENTY).await);
    for key in 0..KEYS {
        let expected = model.get(&key).copied().unwrap_or(0);
        assert_eq!(
            count_of(&handle, key).await,
            expected,
            "seed {seed}, key {key}"
        );
    }
    for limit in [1, 3, 1_000] {
        let keys = listed(&handle, limit).await;
        assert_eq!(keys.len(), model.len(), "every key once, {limit} at a time");
    }
    stop.send_replace(Stop::Clean);
    assert_eq!(worker.await.unwrap(), Exit::Stopped);
}

/// All keys, so many at a time.
async fn listed(handle: &PartitionHandle, limit: usize) -> Vec<Bytes> {
    let mut keys = Vec::<Bytes>::new();
    loop {
        let after = keys.last().cloned();
        let page = handle.scan(b"key-", after.as_deref(), limit).await.unwrap();
        assert!(page.states.len() <= limit);
        assert!(page.is_last || !page.states.is_empty());
        keys.extend(page.states.into_iter().map(|(key, _)| key));
        if page.is_last {
            assert!(keys.is_sorted_by(|one, next| one < next));
            return keys;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_lose_nothing_and_double_nothing() {
    for seed in 0..6 {
        survives_crashes(seed, 1 << 20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_lose_nothing_while_states_are_evicted() {
    for seed in 100..104 {
        survives_crashes(seed, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_owner_fences_an_earlier_one() {
    let world = World::new(1 << 20).await;
    let (first, _keep, first_worker) = world.start();
    let last = world.append([1, 1, 1], b"").await;
    assert!(first.wait_folded(last, PLENTY).await);
    let (second, stop, second_worker) = world.start();
    assert!(second.wait_folded(last, PLENTY).await);
    let last = world.append([1, 2], b"").await;
    assert!(second.wait_folded(last, PLENTY).await);
    let exit = tokio::time::timeout(PLENTY, first_worker)
        .await
        .expect("fenced in time")
        .unwrap();
    assert!(matches!(exit, Exit::Fenced(_)), "{exit:?}");
    assert_eq!(
        (count_of(&second, 1).await, count_of(&second, 2).await),
        (4, 1)
    );
    stop.send_replace(Stop::Clean);
    assert_eq!(second_worker.await.unwrap(), Exit::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_partition_stops_before_the_event_and_answers() {
    let world = World::new(1 << 20).await;
    world.append([1, 2, 1], b"").await;
    let poison = world.append([1], b"trap").await;
    world.append([1, 2], b"").await;
    for _ in 0..2 {
        let (handle, stop, worker) = world.start();
        assert!(handle.wait_folded(Offset(poison.0 - 1), PLENTY).await);
        let status = wait_until(&handle, |status| status.phase == Phase::Blocked).await;
        let blocked = status.blocked.unwrap();
        assert_eq!(blocked.code, "event-trapped");
        assert_eq!(blocked.at.unwrap().offset, poison);
        assert_eq!(status.next, poison);
        assert_eq!(
            (count_of(&handle, 1).await, count_of(&handle, 2).await),
            (2, 1)
        );
        stop.send_replace(Stop::Clean);
        assert_eq!(worker.await.unwrap(), Exit::Stopped);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_topic_blocks_and_says_so() {
    let world = World::new(1 << 20).await;
    let last = world.append([1, 2], b"").await;
    let (handle, stop, worker) = world.start();
    assert!(handle.wait_folded(last, PLENTY).await);
    stop.send_replace(Stop::Clean);
    worker.await.unwrap();

    let events = TopicName::new("events").unwrap();
    world.log.delete_topic(&events).await.unwrap();
    let topic = NewTopic {
        name: events,
        partitions: 1,
        replication_factor: None,
        cleanup: Cleanup::Default,
    };
    world.log.create_topic(&topic).await.unwrap();
    world.append([5, 6, 7], b"").await;
    let (handle, stop, worker) = world.start();
    let status = wait_until(&handle, |status| status.phase == Phase::Blocked).await;
    assert_eq!(status.blocked.unwrap().code, "topic-replaced");
    assert_eq!(count_of(&handle, 1).await, 1, "it goes on answering");
    stop.send_replace(Stop::Clean);
    worker.await.unwrap();
}

async fn wait_until(
    handle: &PartitionHandle,
    is_so: impl Fn(&PartitionStatus) -> bool,
) -> PartitionStatus {
    let poll = async {
        loop {
            let status = handle.status();
            if is_so(&status) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PLENTY, poll).await.expect("in time")
}
