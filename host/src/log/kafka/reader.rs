//! Reading partitions: one librdkafka consumer for each set, one queue for each partition, records
//! copied straight from librdkafka's messages into the caller's batch.
//!
//! Invariants: a queue is bounded in bytes and records; a record leaves its queue in the same step
//! in which it enters the batch, so that a dropped call loses none.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::sync::{Notify, OnceCell, watch};

use crate::limits;
use crate::types::{Offset, TopicName, TopicPartition};

use super::super::{LogError, PartitionReader, Read, ReadLimits, ReaderSet, RecordBatch};
use super::budget::{QueueBudget, Share};
use super::client::Client;
use super::context::{Context, Health};
use super::error;
use super::native::PartitionQueue;
use super::settings::KafkaSettings;
use super::topics::{Topics, native_partition};

type ReaderClient = Client<BaseConsumer<Context>>;
type OpenPartitions = Arc<Mutex<HashSet<TopicPartition>>>;

/// Readers that share one consumer.
pub(super) struct KafkaReaderSet {
    settings: KafkaSettings,
    name: String,
    topics: Arc<Topics>,
    queues: QueueBudget,
    /// Made when the first partition is opened: its topic tells how many queues there will be.
    client: OnceCell<Arc<SetClient>>,
    open: OpenPartitions,
}

/// What the readers of a set share, as long as one of them lives.
struct SetClient {
    client: Arc<ReaderClient>,
    health: Arc<Health>,
    _share: Share,
}

impl KafkaReaderSet {
    /// A set without a client yet.
    pub(super) fn new(
        settings: &KafkaSettings,
        name: &str,
        topics: Arc<Topics>,
        queues: QueueBudget,
    ) -> Self {
        Self {
            settings: settings.clone(),
            name: name.to_owned(),
            topics,
            queues,
            client: OnceCell::new(),
            open: OpenPartitions::default(),
        }
    }

    async fn client(&self, topic: &TopicName) -> Result<&Arc<SetClient>, LogError> {
        let made = self.client.get_or_try_init(async || {
            let partitions = self.topics.partitions(topic).await?;
            let share = self
                .queues
                .share(partitions, self.settings.reader_queue_bytes_max);
            let context = Context::new(&self.name);
            let health = Arc::clone(context.health());
            let consumer: BaseConsumer<Context> = self
                .settings
                .reader(&self.name, share.partition_bytes_max)
                .create_with_context(context)
                .map_err(|error| error::made(&error))?;
            Ok(Arc::new(SetClient {
                client: Client::serve(consumer),
                health,
                _share: share,
            }))
        });
        made.await
    }
}

#[async_trait]
impl ReaderSet for KafkaReaderSet {
    async fn open(
        &self,
        of: &TopicPartition,
        from: Offset,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        let range = self.topics.range(of).await?;
        if from < range.start || from > range.end {
            return Err(LogError::OffsetOutOfRange {
                of: of.clone(),
                wanted: from,
                range,
            });
        }
        let set = Arc::clone(self.client(&of.topic).await?);
        let slot = Slot::take(&self.open, of)?;
        let arrived = Arc::new(Notify::new());
        let wake = Arc::clone(&arrived);
        let (topic, partition) = (of.topic.as_str(), native_partition(of));
        let first = i64::try_from(from.0).unwrap_or(i64::MAX);
        let client = Arc::clone(&set.client);
        let started = PartitionQueue::start(client, topic, partition, first, move || {
            wake.notify_one();
        });
        let queue = started.map_err(|code| error::asked(code, &format!("reading {of}")))?;
        Ok(Box::new(KafkaReader {
            queue,
            _slot: slot,
            of: of.clone(),
            next: from,
            arrived,
            outages: set.health.outages(),
            set,
            topics: Arc::clone(&self.topics),
            failed: None,
            record_bytes_mean: 64,
        }))
    }
}

impl fmt::Debug for KafkaReaderSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaReaderSet")
            .field("open", &*self.open.lock())
            .finish_non_exhaustive()
    }
}

/// That a partition is being read: librdkafka has one queue for each.
#[derive(Debug)]
struct Slot {
    open: OpenPartitions,
    of: TopicPartition,
}

impl Slot {
    fn take(open: &OpenPartitions, of: &TopicPartition) -> Result<Self, LogError> {
        if open.lock().insert(of.clone()) {
            Ok(Self {
                open: Arc::clone(open),
                of: of.clone(),
            })
        } else {
            Err(LogError::Rejected(format!(
                "{of} is being read by this set already: close its reader first"
            )))
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.lock().remove(&self.of);
    }
}

/// Reads one partition. Fields are dropped in order: the queue stops before the slot is free.
struct KafkaReader {
    queue: PartitionQueue<ReaderClient>,
    _slot: Slot,
    of: TopicPartition,
    /// Smallest offset that the next record can have.
    next: Offset,
    /// The queue has something again.
    arrived: Arc<Notify>,
    outages: watch::Receiver<u64>,
    set: Arc<SetClient>,
    topics: Arc<Topics>,
    /// Why reading has ended for good.
    failed: Option<(Code, String)>,
    /// Estimate, so that about as much is taken from librdkafka as the caller wants.
    record_bytes_mean: usize,
}

/// What the queue had.
enum Taken {
    Nothing,
    Read(Read),
    Error(Code, String),
}

impl KafkaReader {
    /// Moves what is there from the queue into the batch.
    fn take(&mut self, into: &mut RecordBatch, limits: ReadLimits) -> Taken {
        let (mut records, mut bytes) = (0, 0);
        let taken = loop {
            let wanted = limits.bytes_max.saturating_sub(bytes) / self.record_bytes_mean.max(1);
            let room = limits.records_max.saturating_sub(records);
            let take = wanted.min(room).clamp(1, limits::KAFKA_RECORDS_TAKEN_MAX);
            let Some(message) = self.queue.first(take) else {
                break Taken::Nothing;
            };
            if let Some((code, text)) = message.error() {
                if records > 0 {
                    // It stays first, for the next call.
                    break Taken::Nothing;
                }
                self.queue.done();
                break match code {
                    Code::PartitionEOF => Taken::Read(Read::EndOfPartition),
                    code => Taken::Error(code, text),
                };
            }
            let offset = Offset(u64::try_from(message.offset()).unwrap_or(0));
            if offset >= self.next {
                let size = message.bytes();
                if records > 0 && (records >= limits.records_max || bytes + size > limits.bytes_max)
                {
                    break Taken::Nothing;
                }
                let (key, value) = (message.key(), message.value());
                into.push(
                    offset,
                    message.timestamp_ms(),
                    key,
                    value,
                    message.headers(),
                );
                records += 1;
                bytes += size;
                self.next = offset.next();
            }
            self.queue.done();
        };
        if let Some(mean) = bytes.checked_div(records) {
            self.record_bytes_mean = mean.max(1);
            return Taken::Read(Read::Records);
        }
        taken
    }

    /// What an error in the place of a record means for the caller. Verdicts that are final are
    /// remembered before anything is asked: a dropped call must not lose them.
    async fn failure(&mut self, code: Code, text: String) -> LogError {
        let what = format!("reading {}: {text}", self.of);
        match error::kind(code) {
            error::Kind::Transient | error::Kind::Fenced => {
                LogError::Unavailable(format!("{what}: {code}"))
            }
            error::Kind::Missing => self.missing(&what).await,
            error::Kind::OutOfRange => {
                self.failed = Some((code, text));
                match self.topics.range(&self.of).await {
                    Ok(range) => LogError::OffsetOutOfRange {
                        of: self.of.clone(),
                        wanted: self.next,
                        range,
                    },
                    Err(error) => error,
                }
            }
            error::Kind::Refused | error::Kind::Damaged | error::Kind::TooLarge => {
                self.failed = Some((code, text));
                error::asked(code, &what)
            }
        }
    }

    /// A broker that is just starting may know of no topic yet: asked again, it may be there.
    async fn missing(&mut self, what: &str) -> LogError {
        match self.topics.one(&self.of.topic).await {
            Ok(Some(topic)) if self.of.partition.0 < topic.partitions => {
                LogError::Unavailable(format!("{what}: its leader does not know it yet"))
            }
            Ok(_) => LogError::UnknownTopic(self.of.topic.clone()),
            Err(error) => error,
        }
    }
}

#[async_trait]
impl PartitionReader for KafkaReader {
    async fn read(&mut self, into: &mut RecordBatch, limits: ReadLimits) -> Result<Read, LogError> {
        if let Some((code, text)) = self.failed.take() {
            return Err(self.failure(code, text).await);
        }
        loop {
            match self.take(into, limits) {
                Taken::Read(read) => {
                    self.set.health.answered();
                    // What was unreachable is reachable.
                    self.outages.mark_unchanged();
                    return Ok(read);
                }
                Taken::Error(code, text) => return Err(self.failure(code, text).await),
                Taken::Nothing => {}
            }
            tokio::select! {
                () = self.arrived.notified() => {}
                changed = self.outages.changed() => {
                    if changed.is_ok() {
                        return Err(self.set.health.outage());
                    }
                }
            }
        }
    }
}

impl fmt::Debug for KafkaReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaReader")
            .field("of", &self.of)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
