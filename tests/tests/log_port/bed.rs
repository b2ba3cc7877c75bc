//! A log under test and what every scenario does with it: topics of its own, records, readers that
//! read to the end, waits that fail instead of hanging.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use foldhost::clock::Clock;
use foldhost::log::embedded::{EmbeddedLog, EmbeddedSettings};
use foldhost::log::kafka::{KafkaLog, KafkaSettings};
use foldhost::log::{
    AssignmentChange, Cleanup, Log, Membership, NewRecord, NewTopic, PartitionReader, Read,
    ReadLimits, RecordBatch, Topic,
};
use foldhost::types::{Offset, Partition, TopicName, TopicPartition};
use foldhost_tests::kafka::{self, Broker};
use foldhost_tests::paths::Scratch;
use foldhost_tests::wait::wait_until_ok;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer as _};

/// A busy machine with two cores.
pub(crate) const GENEROUS: Duration = Duration::from_secs(60);
pub(crate) const LIMITS: ReadLimits = ReadLimits {
    records_max: 1_000,
    bytes_max: 1024 * 1024,
};

/// A log under test, and a prefix that keeps the topics of one test apart from those of another.
pub(crate) struct Bed {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) prefix: String,
    _scratch: Option<Scratch>,
    _broker: Option<Arc<Broker>>,
}

impl Bed {
    pub(crate) fn embedded(name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let log = EmbeddedLog::open(scratch.path(), Clock::system(), EmbeddedSettings::default())?;
        Ok(Self {
            log: Arc::new(log),
            prefix: name.to_owned(),
            _scratch: Some(scratch),
            _broker: None,
        })
    }

    pub(crate) fn kafka(name: &str) -> Result<Self> {
        let broker = broker()?;
        let log = Arc::new(kafka_log(&broker, &[])?);
        Ok(Self {
            log,
            prefix: name.to_owned(),
            _scratch: None,
            _broker: Some(broker),
        })
    }

    pub(crate) fn name(&self, suffix: &str) -> TopicName {
        TopicName::new(&format!("{}.{suffix}", self.prefix)).expect("letters and dots")
    }

    pub(crate) async fn topic(&self, suffix: &str, partitions: u32) -> Result<TopicName> {
        let name = self.name(suffix);
        create(&*self.log, &name, partitions).await?;
        Ok(name)
    }

    pub(crate) async fn reader(
        &self,
        of: &TopicPartition,
        from: u64,
    ) -> Result<Box<dyn PartitionReader>> {
        Ok(self.log.reader_set("test")?.open(of, Offset(from)).await?)
    }
}

/// The broker that all scenarios share, once it takes transactions.
pub(crate) fn broker() -> Result<Arc<Broker>> {
    static TAKES_TRANSACTIONS: Mutex<bool> = Mutex::new(false);
    let broker = kafka::shared()?;
    let mut takes = TAKES_TRANSACTIONS
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if !*takes {
        wait_transactions(&broker)?;
        *takes = true;
    }
    Ok(broker)
}

/// Waits until a fresh broker takes transactions: the first one has it create a topic for them, and a JVM that is still
/// cold may need longer for that than a host waits for an answer.
pub(crate) fn wait_transactions(broker: &Broker) -> Result<()> {
    wait_until_ok(GENEROUS, "the broker to take transactions", || {
        foreign_producer(broker, "the-first").map(drop)
    })
}

/// A producer of somebody else's, for what the port never does.
pub(crate) fn foreign_producer(broker: &Broker, id: &str) -> Result<BaseProducer> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .set("transactional.id", id)
        .create()?;
    producer.init_transactions(GENEROUS)?;
    Ok(producer)
}

pub(crate) fn kafka_log(broker: &Broker, properties: &[(&str, &str)]) -> Result<KafkaLog> {
    let mut all = vec![("bootstrap.servers".to_owned(), broker.bootstrap())];
    all.extend(
        properties
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    let settings = KafkaSettings::new(all.into_iter().collect());
    Ok(KafkaLog::new(settings, Clock::system())?)
}

pub(crate) async fn create(log: &dyn Log, name: &TopicName, partitions: u32) -> Result<Topic> {
    let new = NewTopic {
        name: name.clone(),
        partitions,
        replication_factor: None,
        cleanup: Cleanup::Default,
    };
    Ok(log.create_topic(&new).await?)
}

pub(crate) fn part(topic: &TopicName, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topic.clone(),
        partition: Partition(partition),
    }
}

pub(crate) fn record(key: &str, value: &str) -> NewRecord {
    NewRecord {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..NewRecord::default()
    }
}

pub(crate) fn to(partition: u32, value: &str) -> NewRecord {
    NewRecord {
        partition: Some(Partition(partition)),
        ..record("k", value)
    }
}

/// Fails a test that hangs, and says where.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(GENEROUS, future)
        .await
        .with_context(|| format!("waited for {what}"))
}

/// Watches the end of a partition until it is where the log ends; it is never behind that.
pub(crate) async fn recent_end(bed: &Bed, of: TopicPartition) -> Result<u64> {
    let watching = async {
        loop {
            let seen = bed.log.recent_end(&of).await?;
            let end = bed.log.range(&of).await?.end;
            ensure!(seen <= end, "{of} ends at {end}, not at {seen}");
            if seen == end {
                return Ok(end.0);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the end to be seen", watching).await?
}

/// Reads to the end of the partition: offsets and values.
pub(crate) async fn read_to_end(reader: &mut dyn PartitionReader) -> Result<Vec<(u64, String)>> {
    read_committed(reader, 0).await
}

/// Reads `count` records that transactions wrote, and what follows them to the end. Kafka answers a commit before it has
/// marked the records as committed in their partitions: a reader may come to an end in front of them first.
pub(crate) async fn read_committed(
    reader: &mut dyn PartitionReader,
    count: usize,
) -> Result<Vec<(u64, String)>> {
    Ok(rows(&committed(reader, count).await?))
}

/// As [`read_committed`], whole records.
pub(crate) async fn committed(
    reader: &mut dyn PartitionReader,
    count: usize,
) -> Result<RecordBatch> {
    let mut batch = RecordBatch::new();
    loop {
        let read = soon("a record", reader.read(&mut batch, LIMITS)).await??;
        if read == Read::EndOfPartition && batch.len() >= count {
            return Ok(batch);
        }
    }
}

pub(crate) fn rows(batch: &RecordBatch) -> Vec<(u64, String)> {
    batch
        .iter()
        .map(|record| {
            let value = record
                .value
                .map_or("(none)".into(), |v| String::from_utf8_lossy(v));
            (record.offset.0, value.into_owned())
        })
        .collect()
}

pub(crate) fn values(rows: &[(u64, String)]) -> Vec<&str> {
    rows.iter().map(|(_, value)| value.as_str()).collect()
}

pub(crate) fn partitions(range: std::ops::Range<u32>) -> Vec<Partition> {
    range.map(Partition).collect()
}

/// The next change, which must be an assignment.
pub(crate) async fn assigned(member: &dyn Membership) -> Result<Vec<Partition>> {
    match soon("an assignment", member.change()).await? {
        Some(AssignmentChange::Assigned(mut partitions)) => {
            partitions.sort_unstable();
            Ok(partitions)
        }
        other => bail!("an assignment was expected, not {other:?}"),
    }
}

/// The next change, which must take partitions away; lets go of them.
pub(crate) async fn revoked(member: &dyn Membership) -> Result<Vec<Partition>> {
    match soon("a revocation", member.change()).await? {
        Some(AssignmentChange::Revoked {
            mut partitions,
            done,
        }) => {
            partitions.sort_unstable();
            drop(done);
            Ok(partitions)
        }
        other => bail!("a revocation was expected, not {other:?}"),
    }
}

pub(crate) async fn timed_async<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let clock = Clock::system();
    let value = work.await;
    (clock.elapsed(), value)
}
