//! Readers that share, on a log in memory that counts what is read of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::limits;
use crate::types::{Partition, TopicName};

const TOPIC: Option<[u8; 16]> = Some([1; 16]);
const PLENTY: usize = 1 << 30;
const LIMITS: ReadLimits = ReadLimits {
    records_max: 10,
    bytes_max: usize::MAX,
};

/// What is left for others of at most so many bytes, and how many there are.
fn shared(bytes_max: usize) -> (SharedReads, Level) {
    let used = Level::default();
    (
        SharedReads::counted(bytes_max, used.clone(), Clock::system()),
        used,
    )
}

/// A partition with gaps; every third record has a header.
#[derive(Debug)]
struct Records {
    offsets: Vec<u64>,
    /// Records that were read of it.
    read: AtomicUsize,
}

impl Records {
    fn new(count: u64) -> Arc<Self> {
        Arc::new(Self {
            offsets: (0..count).map(|index| index + index / 7).collect(),
            read: AtomicUsize::new(0),
        })
    }

    fn read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }

    fn set(self: &Arc<Self>) -> Arc<dyn ReaderSet> {
        Arc::new(Set(Arc::clone(self)))
    }
}

#[derive(Debug)]
struct Set(Arc<Records>);

#[derive(Debug)]
struct Reader {
    records: Arc<Records>,
    index: usize,
}

#[async_trait]
impl ReaderSet for Set {
    async fn open(
        &self,
        _: &TopicPartition,
        from: Offset,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        let index = self.0.offsets.partition_point(|at| *at < from.0);
        let records = Arc::clone(&self.0);
        Ok(Box::new(Reader { records, index }))
    }
}

#[async_trait]
impl PartitionReader for Reader {
    async fn read(&mut self, into: &mut RecordBatch, limits: ReadLimits) -> Result<Read, LogError> {
        tokio::task::yield_now().await;
        let rest = &self.records.offsets[self.index..];
        if rest.is_empty() {
            return Ok(Read::EndOfPartition);
        }
        let taken = rest.len().min(limits.records_max);
        for offset in &rest[..taken] {
            let bytes = offset.to_be_bytes();
            let header = offset
                .is_multiple_of(3)
                .then_some(("name", Some(&bytes[..])));
            into.push(Offset(*offset), 7, Some(&bytes), Some(b"value"), header);
        }
        self.index += taken;
        self.records.read.fetch_add(taken, Ordering::Relaxed);
        Ok(Read::Records)
    }
}

fn of() -> TopicPartition {
    TopicPartition {
        topic: TopicName::new("events").unwrap(),
        partition: Partition(3),
    }
}

async fn open(shared: &SharedReads, records: &Arc<Records>) -> Box<dyn PartitionReader> {
    let opened = shared.open(&records.set(), &of(), TOPIC, Offset(0)).await;
    opened.unwrap()
}

/// Records, and two readers of them that are at the first.
async fn two_readers() -> (
    Arc<Records>,
    Box<dyn PartitionReader>,
    Box<dyn PartitionReader>,
) {
    let (shared, records) = (SharedReads::new(PLENTY, Clock::system()), Records::new(100));
    let first = open(&shared, &records).await;
    let second = open(&shared, &records).await;
    (records, first, second)
}

/// The offsets of one read, or nothing at the end.
async fn read(reader: &mut Box<dyn PartitionReader>) -> Vec<u64> {
    let mut batch = RecordBatch::new();
    match reader.read(&mut batch, LIMITS).await.unwrap() {
        Read::Records => batch.offsets().to_vec(),
        Read::EndOfPartition => Vec::new(),
    }
}

async fn read_all(reader: &mut Box<dyn PartitionReader>) -> Vec<u64> {
    let mut all = Vec::new();
    loop {
        match read(reader).await {
            some if some.is_empty() => return all,
            some => all.extend(some),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_go_on_together_read_from_the_log_once() {
    let ((shared, used), records) = (shared(PLENTY), Records::new(1_000));
    let mut readers = Vec::new();
    for _ in 0..5 {
        readers.push(open(&shared, &records).await);
    }
    let all = readers
        .into_iter()
        .map(|mut reader| tokio::spawn(async move { read_all(&mut reader).await }));
    for read in futures_util::future::join_all(all).await {
        assert_eq!(read.unwrap(), records.offsets);
    }
    // Before they have met, each may have read a batch.
    assert!(
        records.read() <= 1_000 + 5 * LIMITS.records_max,
        "{}",
        records.read()
    );
    assert_eq!(used.get(), 0, "everybody has passed");
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_later_follows_as_far_as_there_is_something() {
    let (shared, records) = (SharedReads::new(PLENTY, Clock::system()), Records::new(100));
    let mut first = open(&shared, &records).await;
    let passed = read(&mut first).await;
    let mut second = open(&shared, &records).await;
    let behind = read(&mut first).await;
    let before = records.read();
    assert_eq!(read(&mut second).await, passed, "nobody had left it");
    assert_eq!(records.read(), before + passed.len());
    assert_eq!(read(&mut second).await, behind);
    assert_eq!(records.read(), before + passed.len());
}

#[tokio::test(start_paused = true)]
async fn one_that_stands_still_holds_nobody_up_for_long() {
    let (records, mut stands_still, mut second) = two_readers().await;
    let first = read(&mut stands_still).await;
    let waits_once = 2 * limits::SHARED_READ_WAIT_MIN;
    let all = tokio::time::timeout(waits_once, read_all(&mut second)).await;
    assert_eq!(all.unwrap(), records.offsets);
    let rest = read_all(&mut stands_still).await;
    assert_eq!([first, rest].concat(), records.offsets);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_dropped_again_and_again_ends() {
    let (_, mut stands_still, mut second) = two_readers().await;
    let found = read(&mut stands_still).await;
    assert_eq!(read(&mut second).await, found);
    let mut waits = 0;
    let pause = limits::SHARED_READ_WAIT_MIN / 3;
    while tokio::time::timeout(pause, read(&mut second))
        .await
        .is_err()
    {
        waits += 1;
    }
    assert!(waits <= 3, "{waits}");
}

#[tokio::test(start_paused = true)]
async fn one_that_reads_no_more_is_not_waited_for() {
    let (records, mut gone, mut second) = two_readers().await;
    assert_eq!(read(&mut gone).await, read(&mut second).await);
    let reading = tokio::spawn(async move { read(&mut second).await });
    tokio::task::yield_now().await;
    drop(gone);
    let read = tokio::time::timeout(limits::SHARED_READ_WAIT_MIN / 2, reading).await;
    assert_eq!(read.unwrap().unwrap(), records.offsets[10..20]);
}

#[tokio::test(start_paused = true)]
async fn another_topic_of_the_same_name_is_read_anew() {
    let shared = SharedReads::new(PLENTY, Clock::system());
    let (old, new) = (Records::new(100), Records::new(30));
    let mut behind = open(&shared, &old).await;
    let mut ahead = open(&shared, &old).await;
    read_all(&mut ahead).await;
    let other = shared
        .open(&new.set(), &of(), Some([2; 16]), Offset(0))
        .await;
    assert_eq!(read_all(&mut other.unwrap()).await, new.offsets);
    let unknown = shared.open(&new.set(), &of(), None, Offset(0)).await;
    assert_eq!(read_all(&mut unknown.unwrap()).await, new.offsets);
    assert_eq!(new.read(), 2 * new.offsets.len());
    assert_eq!(read_all(&mut behind).await, old.offsets);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_stays_within_its_bound_and_what_is_needed_first_stays() {
    let ((shared, used), records) = (shared(2_000), Records::new(1_000));
    let mut ahead = open(&shared, &records).await;
    let mut behind = open(&shared, &records).await;
    assert_eq!(read_all(&mut ahead).await, records.offsets);
    assert!((1_000..=2_000).contains(&used.get()));
    let before = records.read();
    let found = read(&mut behind).await;
    assert_eq!(found, records.offsets[..10]);
    assert_eq!(records.read(), before, "it is the nearest that was kept");
    drop(behind);
    assert_eq!(used.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn headers_are_there_for_whoever_wants_them() {
    let (shared, records) = (SharedReads::new(PLENTY, Clock::system()), Records::new(20));
    let mut without = open(&shared, &records).await;
    let mut with = open(&shared, &records).await;
    let mut batch = RecordBatch::new();
    batch.leave_headers_out(true);
    without.read(&mut batch, LIMITS).await.unwrap();
    let mut batch = RecordBatch::new();
    with.read(&mut batch, LIMITS).await.unwrap();
    let found: usize = batch.iter().map(|record| record.headers().len()).sum();
    let expected = records.offsets[..10]
        .iter()
        .filter(|at| at.is_multiple_of(3));
    assert_eq!(found, expected.count());
}

/// Whatever readers do, each gets all records, in order, with what belongs to them.
#[tokio::test(start_paused = true)]
async fn everybody_reads_everything_whatever_others_do() {
    for seed in 0..300 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let records = Records::new(random.random_range(0..400));
        let bytes_max = [0, 500, 5_000, PLENTY][random.random_range(0..4)];
        let (shared, used) = shared(bytes_max);
        let readers = (0..random.random_range(1..6)).map(|_| {
            let (shared, records) = (shared.clone(), Arc::clone(&records));
            let random = ChaCha8Rng::seed_from_u64(random.random());
            tokio::spawn(wander(shared, records, random))
        });
        let readers: Vec<_> = readers.collect();
        for reader in readers {
            reader.await.unwrap();
        }
        assert_eq!(used.get(), 0, "seed {seed}");
    }
}

/// Reads to the end as a worker may: in parts, with pauses, with reads that are dropped, and opened anew.
async fn wander(shared: SharedReads, records: Arc<Records>, mut random: ChaCha8Rng) {
    let set = records.set();
    let mut reader = open(&shared, &records).await;
    let mut found = RecordBatch::new();
    loop {
        let limits = ReadLimits {
            records_max: random.random_range(1..30),
            bytes_max: random.random_range(1..600),
        };
        found.leave_headers_out(random.random_bool(0.3));
        if random.random_bool(0.1) {
            let next = found.offsets().last().map_or(0, |last| last + 1);
            let opened = shared.open(&set, &of(), TOPIC, Offset(next)).await;
            reader = opened.unwrap();
        }
        if random.random_bool(0.2) {
            tokio::time::sleep(limits::SHARED_READ_WAIT_MAX).await;
        }
        let before = found.len();
        let within = limits::SHARED_READ_WAIT_MAX.mul_f64(random.random_range(0.0..2.0));
        let read = tokio::time::timeout(within, reader.read(&mut found, limits)).await;
        assert!(found.len() <= before + limits.records_max);
        match read.map(Result::unwrap) {
            Err(_) => assert_eq!(found.len(), before, "a dropped read takes nothing"),
            Ok(Read::EndOfPartition) => break,
            Ok(Read::Records) => assert!(found.len() > before),
        }
        if found.leaves_headers_out() {
            continue;
        }
        for record in (before..found.len()).map(|index| found.get(index)) {
            let headers = usize::from(record.offset.0.is_multiple_of(3));
            assert_eq!(record.headers().len(), headers);
        }
    }
    assert_eq!(found.offsets(), records.offsets);
    for record in found.iter() {
        assert_eq!(record.key, Some(&record.offset.0.to_be_bytes()[..]));
        assert_eq!(record.value, Some(&b"value"[..]));
    }
}
