//! What the way into a component and back costs for each event: the columns of a batch are filled, the component
//! folds them in one call, and what it changed is taken out of its answer. This is the step that a partition's
//! worker does with every batch (`partition::step`), on the real engine with its fuel and limits, and on components
//! as they ship; nothing is read from a log, and nothing is committed.
//!
//! ```sh
//! cargo bench --bench abi                # all of it, under a minute
//! cargo bench --bench abi -- values      # what has this in its name
//! ```
//!
//! A row is one batch: its time, and below it events a second, of which the inverse is the cost of an event. Every
//! event has a key of its own that has a state already, which is the dearest there is: events that share a key
//! share its state's way in and out.
//!
//! - `batch_events`: how a call's own cost is spread over its events. The values are small, and `counter` does next
//!   to nothing with them.
//! - `values`: by bytes of each value. `counter` does not look at them, so the growth is what carrying them costs.
//! - `states_read`: by bytes of the state that each key had. `latest` parses it and puts a small one in its place.
//! - `states_written`: states as large before as after; `latest` makes them of values as large, which it parses,
//!   too. What is beyond `states_read` and `values` is the way back.

use std::hash::BuildHasher as _;
use std::path::Path;
use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::ItemsCount;
use hashbrown::{DefaultHashBuilder, HashTable};

use foldhost::clock::Clock;
use foldhost::limits;
use foldhost::log::{Partitioner, RecordBatch};
use foldhost::partition::{InstanceSlot, Place, Source, States, Stepped, step};
use foldhost::plugin::engine::{EngineSettings, WasmEngine};
use foldhost::plugin::manifest::OnError;
use foldhost::plugin::{Parameters, PluginEngine as _};
use foldhost::types::{Offset, Partition};

/// The allocator of the host.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The engine of all rows; its machine code is kept between runs, beside other things of the build.
static ENGINE: LazyLock<WasmEngine> = LazyLock::new(|| {
    WasmEngine::new(EngineSettings {
        cache_dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join("machine-code"),
        clock: Clock::system(),
    })
    .expect("this machine can run the engine")
});

/// All keys belong to the one partition.
const SOURCE: Source = Source {
    versions: false,
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
};

/// Bytes of a value where its size is not the question.
const SMALL_BYTES: usize = 100;
const SIZES_BYTES: [usize; 4] = [100, 1024, 16 * 1024, 64 * 1024];

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 16, 256, 4_096])]
fn batch_events(bencher: Bencher<'_, '_>, events: usize) {
    measure(bencher, "counter", events, SMALL_BYTES, SMALL_BYTES);
}

#[divan::bench(args = SIZES_BYTES)]
fn values(bencher: Bencher<'_, '_>, bytes: usize) {
    measure(bencher, "counter", events_of(bytes), SMALL_BYTES, bytes);
}

#[divan::bench(args = SIZES_BYTES)]
fn states_read(bencher: Bencher<'_, '_>, bytes: usize) {
    measure(bencher, "latest", events_of(bytes), bytes, SMALL_BYTES);
}

#[divan::bench(args = SIZES_BYTES)]
fn states_written(bencher: Bencher<'_, '_>, bytes: usize) {
    measure(bencher, "latest", events_of(bytes), bytes, bytes);
}

/// As many events of this size as a worker puts into a batch, up to 1,000: the cost of the call is spread as it is
/// in a host.
fn events_of(bytes: usize) -> usize {
    (limits::BATCH_BYTES_MAX / bytes).min(1_000)
}

/// Measures a batch of `value_bytes` on states that were folded from values of `before_bytes`.
fn measure(
    bencher: Bencher<'_, '_>,
    plugin: &str,
    events: usize,
    before_bytes: usize,
    value_bytes: usize,
) {
    let mut slot = slot(plugin);
    let before = fold(&mut slot, &Held::default(), &batch(0, events, before_bytes));
    let mut held = Held::default();
    for change in before.changes.iter() {
        held.push(change.key, change.state.expect("it has one").state);
    }
    assert_eq!(held.states.len(), events, "every key has a state");
    let batch = batch(1, events, value_bytes);
    bencher
        .counter(ItemsCount::new(events))
        .bench_local(|| fold(&mut slot, &held, &batch));
}

/// States as the worker holds them for a step: all in memory.
#[derive(Default)]
struct Held {
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    states: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Held {
    fn push(&mut self, key: &[u8], state: &[u8]) {
        let at = u32::try_from(self.states.len()).expect("there are few");
        self.states.push((key.into(), state.into()));
        let Self {
            index,
            hasher,
            states,
        } = self;
        let hash_of = |at: &u32| hasher.hash_one(&states[*at as usize].0[..]);
        index.insert_unique(hash_of(&at), at, hash_of);
    }
}

impl States for Held {
    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<Place> {
        let found = self
            .index
            .find(hash, |at| self.states[*at as usize].0 == key);
        found.copied().map(Place)
    }

    fn state(&self, Place(at): Place) -> Option<&[u8]> {
        Some(&self.states[at as usize].1)
    }
}

fn slot(plugin: &str) -> InstanceSlot {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../plugins/prebuilt")
        .join(format!("{plugin}.wasm"));
    let component = std::fs::read(&path).expect("the component is in the repository");
    let code = ENGINE
        .load(&component, &Parameters::new())
        .expect("what ships is no component that is refused");
    InstanceSlot::new(code)
}

/// A batch whose values are JSON texts of this size, the `round`th on the same keys.
fn batch(round: u64, events: usize, value_bytes: usize) -> RecordBatch {
    let value = format!("\"{}\"", "a".repeat(value_bytes.saturating_sub(2)));
    let mut batch = RecordBatch::new();
    for (offset, n) in (round * events as u64..).zip(0..events) {
        let key = format!("key-{n:08}");
        // Each round at another time, so that no state is what it was before.
        batch.push(
            Offset(offset),
            i64::try_from(round).expect("there are two rounds"),
            Some(key.as_bytes()),
            Some(value.as_bytes()),
            [],
        );
    }
    batch
}

/// One step, of which everything must have been folded: what stops before its end would only look fast.
fn fold(slot: &mut InstanceSlot, states: &Held, batch: &RecordBatch) -> Stepped {
    let stepped = step(slot, states, batch, &SOURCE).expect("nothing interrupts it");
    assert_eq!(stepped.folded, batch.len(), "{:?}", stepped.poison);
    stepped
}
