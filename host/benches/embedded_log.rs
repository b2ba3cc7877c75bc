//! What the embedded log takes: appends until they are durable, and reads as a partition's worker does them.
//!
//! ```sh
//! cargo bench --bench embedded_log       # under a minute
//! ```
//!
//! A row of an append is the time until its caller is told that all its records are durable, and below it records a
//! second. One record alone waits for one fsync, which is the disk's to decide; more records share it, whether they
//! come in one append (`append`) or in many at the same time (`append_together`). A row of `read` is one pass over
//! a topic that lies on the disk and is in the kernel's cache. Records have 100 bytes of value.

use std::path::Path;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use foldhost::clock::Clock;
use foldhost::limits;
use foldhost::log::embedded::{EmbeddedLog, EmbeddedSettings};
use foldhost::log::{
    Cleanup, Log as _, NewRecord, NewTopic, Read, ReadLimits, ReaderSet, RecordBatch,
};
use foldhost::types::{Offset, Partition, TopicName, TopicPartition};

/// The allocator of the host.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const THREADS: usize = 2;
const VALUE_BYTES: usize = 100;
/// Records of the topic that is read.
const READ_RECORDS: usize = 200_000;
/// Records of an append that fills it.
const FILL_RECORDS: usize = 10_000;

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 100, 1_000, 10_000], sample_count = 50, sample_size = 1)]
fn append(bencher: Bencher<'_, '_>, records: usize) {
    let bed = Bed::new();
    let records_of = records_from(0, records);
    bencher
        .counter(ItemsCount::new(records))
        .with_inputs(|| records_of.clone())
        .bench_local_values(|records| bed.append(records));
}

#[divan::bench(args = [16, 256], sample_count = 50, sample_size = 1)]
fn append_together(bencher: Bencher<'_, '_>, callers: usize) {
    let bed = Bed::new();
    let records = records_from(0, callers);
    let topic = topic();
    bencher
        .counter(ItemsCount::new(callers))
        .with_inputs(|| records.clone())
        .bench_local_values(|records| {
            let appends = records
                .into_iter()
                .map(|record| bed.log.append(&topic, vec![record]));
            for appended in bed.runtime.block_on(join_all(appends)) {
                appended.expect("the disk has room");
            }
        });
}

#[divan::bench(args = [64, limits::BATCH_EVENTS_MAX], sample_count = 20, sample_size = 1)]
fn read(bencher: Bencher<'_, '_>, batch_records: usize) {
    let bed = Bed::new();
    for from in (0..READ_RECORDS).step_by(FILL_RECORDS) {
        bed.append(records_from(from, FILL_RECORDS));
    }
    let readers = bed.log.reader_set("bench").expect("it takes all settings");
    let read_limits = ReadLimits {
        records_max: batch_records,
        bytes_max: limits::BATCH_BYTES_MAX,
    };
    bencher
        .counter(ItemsCount::new(READ_RECORDS))
        .bench_local(|| {
            let found = bed.runtime.block_on(read_all(&*readers, read_limits));
            assert_eq!(found, READ_RECORDS);
        });
}

/// A log with one topic of one partition.
struct Bed {
    log: EmbeddedLog,
    runtime: Runtime,
    _folder: TempDir,
}

impl Bed {
    fn new() -> Self {
        // Not the system's folder for such things, which may lie in memory, where an fsync costs nothing.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the disk has room");
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .expect("two threads can be started");
        let log = open(folder.path());
        let topic = NewTopic {
            name: topic(),
            partitions: 1,
            replication_factor: None,
            cleanup: Cleanup::Default,
        };
        runtime
            .block_on(log.create_topic(&topic))
            .expect("the log is empty");
        Self {
            log,
            runtime,
            _folder: folder,
        }
    }

    fn append(&self, records: Vec<NewRecord>) {
        let appended = self.runtime.block_on(self.log.append(&topic(), records));
        appended.expect("the disk has room");
    }
}

fn open(folder: &Path) -> EmbeddedLog {
    EmbeddedLog::open(folder, Clock::system(), EmbeddedSettings::default())
        .expect("the folder is empty")
}

fn topic() -> TopicName {
    TopicName::new("bench").expect("it is a name")
}

fn records_from(from: usize, count: usize) -> Vec<NewRecord> {
    let value = Bytes::from(vec![b'a'; VALUE_BYTES]);
    let record = |n| NewRecord {
        key: Some(Bytes::from(format!("key-{n:08}"))),
        value: Some(value.clone()),
        ..NewRecord::default()
    };
    (from..from + count).map(record).collect()
}

/// How many records there are from the first on.
async fn read_all(readers: &dyn ReaderSet, read_limits: ReadLimits) -> usize {
    let place = TopicPartition {
        topic: topic(),
        partition: Partition(0),
    };
    let mut reader = readers
        .open(&place, Offset(0))
        .await
        .expect("the topic is there");
    let (mut batch, mut found) = (RecordBatch::new(), 0);
    loop {
        batch.clear();
        match reader.read(&mut batch, read_limits).await {
            Ok(Read::Records) => found += batch.len(),
            Ok(Read::EndOfPartition) => return found,
            Err(error) => panic!("the log cannot be read: {error}"),
        }
    }
}
