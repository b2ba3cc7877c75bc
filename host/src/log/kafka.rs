//! The log on Kafka, and on what speaks its protocol, through librdkafka. Made by `node` when
//! brokers are configured; everything above sees the port only.
//!
//! Reading, writing, asking and membership each have clients of their own, so that a slow answer of
//! one kind holds up no other. Invariant: no client creates a topic by accident, and nothing blocks
//! a thread of the runtime.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::producer::Producer as _;

use crate::clock::Clock;
use crate::types::{Offset, Partition, TopicName, TopicPartition};

use super::{
    Log, LogError, LogKind, Membership, NewRecord, NewTopic, OffsetRange, ReaderSet, Topic,
    TransactionalPublisher, TransactionalWriter,
};

mod budget;
mod client;
mod context;
mod ends;
mod error;
mod membership;
mod native;
mod placing;
mod publisher;
mod reader;
mod settings;
mod token;
mod topics;
mod transaction;
mod writer;

pub use settings::{KEYS_OF_THE_HOST, KafkaSettings, check_properties};

use budget::QueueBudget;
use ends::Ends;
use membership::KafkaMembership;
use placing::Placing;
use publisher::KafkaPublisher;
use reader::{KafkaReaderSet, Lanes};
use topics::Topics;
use transaction::KafkaTransactions;
use writer::Writer;

/// A Kafka cluster as the host's log.
pub struct KafkaLog {
    settings: KafkaSettings,
    topics: Arc<Topics>,
    ends: Ends,
    placing: Arc<Placing>,
    queues: QueueBudget,
    clock: Clock,
    /// Made when something is appended; made again after a fatal error.
    appender: Mutex<Option<Arc<Writer>>>,
}

impl KafkaLog {
    /// Checks the settings with librdkafka; connects when something is asked, not here.
    ///
    /// # Errors
    /// [`LogError::Rejected`] names every property that the host sets itself, or the one that
    /// librdkafka does not take.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(settings: KafkaSettings, clock: Clock) -> Result<Self, LogError> {
        check_properties(&settings.properties)
            .map_err(|faults| LogError::Rejected(faults.join("; ")))?;
        // Readers and writers take different properties: both are tried before anything runs.
        for config in [
            settings.reader("check", settings.reader_queue_bytes_max),
            settings.writer("check"),
        ] {
            config
                .create_native_config()
                .map_err(|error| error::made(&error))?;
        }
        let topics = Arc::new(Topics::new(&settings)?);
        let ends = Ends::new(Arc::clone(&topics), clock.clone());
        let placing = Arc::new(Placing::new(Arc::clone(&topics), &settings));
        let queues = QueueBudget::new(settings.reader_queues_bytes_max);
        Ok(Self {
            settings,
            topics,
            ends,
            placing,
            queues,
            clock,
            appender: Mutex::new(None),
        })
    }

    /// The producer of plain appends, the first to `topic`; a new one if the last cannot write any more.
    fn appender(&self, topic: &TopicName) -> Result<Arc<Writer>, LogError> {
        let mut slot = self.appender.lock();
        if let Some(writer) = slot.as_ref().filter(|writer| writer.fatal().is_none()) {
            return Ok(Arc::clone(writer));
        }
        let config = self.settings.writer("append");
        let writer = Arc::new(Writer::new(&config, "append", Arc::clone(&self.placing))?);
        writer.connect(topic);
        *slot = Some(Arc::clone(&writer));
        Ok(writer)
    }
}

#[async_trait]
impl Log for KafkaLog {
    fn kind(&self) -> LogKind {
        LogKind::Kafka
    }

    async fn check(&self) -> Result<(), LogError> {
        self.topics.check().await
    }

    async fn topics(&self) -> Result<Vec<Topic>, LogError> {
        self.topics.all().await
    }

    async fn topic(&self, name: &TopicName) -> Result<Option<Topic>, LogError> {
        self.topics.one(name).await
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<Topic, LogError> {
        self.topics.create(topic).await
    }

    async fn grow_topic(&self, name: &TopicName, partitions: u32) -> Result<Topic, LogError> {
        self.topics.grow(name, partitions).await
    }

    async fn delete_topic(&self, name: &TopicName) -> Result<(), LogError> {
        self.topics.delete(name).await
    }

    async fn range(&self, of: &TopicPartition) -> Result<OffsetRange, LogError> {
        self.topics.range(of).await
    }

    async fn recent_end(&self, of: &TopicPartition) -> Result<Offset, LogError> {
        self.ends.of(of).await
    }

    async fn written_end(&self, of: &TopicPartition) -> Result<Offset, LogError> {
        self.topics.written_end(of).await
    }

    async fn record_bytes_max(&self, topic: &TopicName) -> usize {
        self.placing.record_bytes_max(topic).await
    }

    async fn offset_at(&self, of: &TopicPartition, timestamp_ms: i64) -> Result<Offset, LogError> {
        self.topics.offset_at(of, timestamp_ms).await
    }

    fn reader_set(&self, name: &str) -> Result<Box<dyn ReaderSet>, LogError> {
        let topics = Arc::clone(&self.topics);
        let (queues, clock) = (self.queues.clone(), self.clock.clone());
        let lanes = Lanes::new(&self.settings, name, topics, queues, clock);
        Ok(Box::new(KafkaReaderSet::new(lanes)))
    }

    async fn append(
        &self,
        topic: &TopicName,
        records: Vec<NewRecord>,
    ) -> Result<Vec<(Partition, Offset)>, LogError> {
        // Asked for even if there is nothing to write: a missing topic is an error.
        self.topics.partitions(topic).await?;
        let records = records.into_iter().map(|record| (topic.clone(), record));
        let placed = self.placing.place(records).await?;
        self.appender(topic)?.write(&placed, false).await
    }

    async fn transactional(&self, id: &str) -> Result<Box<dyn TransactionalWriter>, LogError> {
        let placing = Arc::clone(&self.placing);
        Ok(Box::new(
            KafkaTransactions::open(&self.settings, id, placing).await?,
        ))
    }

    async fn publisher(&self, id: &str) -> Result<Box<dyn TransactionalPublisher>, LogError> {
        let placing = Arc::clone(&self.placing);
        Ok(Box::new(
            KafkaPublisher::open(&self.settings, id, placing).await?,
        ))
    }

    async fn join(
        &self,
        group: &str,
        instance: &str,
        topic: &TopicName,
    ) -> Result<Box<dyn Membership>, LogError> {
        let topics = Arc::clone(&self.topics);
        Ok(Box::new(
            KafkaMembership::join(&self.settings, group, instance, topic, topics).await?,
        ))
    }

    async fn close(&self, within: Duration) {
        let writer = self.appender.lock().take();
        if let Some(writer) = writer {
            let producer = Arc::clone(writer.producer());
            // What is not written by then was not acknowledged.
            let _ = blocking(move || Ok(producer.flush(within))).await;
        }
    }
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Runs a call of librdkafka that waits for an answer, off the runtime's threads. Every such call
/// has a timeout of its own.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(call)
        .await
        .unwrap_or_else(|ended| {
            Err(LogError::Unavailable(format!(
                "a question to kafka was cut short: {ended}"
            )))
        })
}

#[cfg(test)]
mod tests;
