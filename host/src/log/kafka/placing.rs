//! What is known of records before they are written: whether they may be, and where they go. And what a failure
//! to write them means. Shared by appends and both kinds of transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::limits;
use crate::types::{Partition, TopicName, TopicPartition};

use super::super::{LogError, NewRecord, NewRecords, Partitioner};
use super::error;
use super::settings::KafkaSettings;
use super::topics::Topics;

/// What Kafka's format (version 2) adds at least to a record that is alone in its batch, in bytes: 61
/// for the batch, 7 for the record.
const FRAMING_BYTES_MIN: usize = 68;

/// A record that has been checked, and its partition chosen.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) topic: TopicName,
    pub(super) partition: Partition,
    pub(super) record: NewRecord,
}

/// A record that was not written.
#[derive(Debug)]
pub(super) struct Failed<'a> {
    pub(super) topic: &'a TopicName,
    /// Which of the records that were to be written together.
    pub(super) index: usize,
    /// Its size: key, value and headers.
    pub(super) bytes: usize,
    pub(super) code: Code,
    /// Whether none of them was written, for sure.
    pub(super) unwritten: bool,
}

/// Checks records and chooses their partitions, before anything is written.
#[derive(Debug)]
pub(super) struct Placing {
    topics: Arc<Topics>,
    record_bytes_max: usize,
    /// Then only the brokers can tell whether a record is too large for its topic.
    compresses: bool,
    /// Where the next record without a key goes.
    round_robin: AtomicU32,
}

impl Placing {
    /// Places records on topics that are asked for, and refuses larger ones.
    pub(super) fn new(topics: Arc<Topics>, settings: &KafkaSettings) -> Self {
        Self {
            topics,
            record_bytes_max: settings.record_bytes_max,
            compresses: settings.compresses(),
            round_robin: AtomicU32::new(0),
        }
    }

    /// Largest record that a topic takes, in bytes of key, value and headers.
    pub(super) async fn record_bytes_max(&self, topic: &TopicName) -> usize {
        let batch = self
            .topics
            .batch_bytes_max(topic)
            .await
            .unwrap_or(usize::MAX);
        self.record_bytes_max
            .min(batch.saturating_sub(FRAMING_BYTES_MIN))
    }

    /// Checks every record: its topic and partition exist, and it is not too large.
    pub(super) async fn place(
        &self,
        records: impl IntoIterator<Item = (TopicName, NewRecord)>,
    ) -> Result<Vec<Placed>, LogError> {
        let records = records.into_iter();
        let mut placed = Vec::with_capacity(records.size_hint().0);
        // Most writes go to one topic, or to one after another.
        let mut last: Option<(TopicName, u32)> = None;
        for (index, (topic, record)) in records.enumerate() {
            let partitions = match &last {
                Some((known, partitions)) if *known == topic => *partitions,
                _ => {
                    let partitions = self.topics.partitions(&topic).await?;
                    last = Some((topic.clone(), partitions));
                    partitions
                }
            };
            self.check_size(&topic, index, record.bytes()).await?;
            let partition =
                self.choose(&topic, partitions, record.partition, record.key.as_deref())?;
            placed.push(Placed {
                topic,
                partition,
                record,
            });
        }
        Ok(placed)
    }

    /// As [`place`](Self::place), of records in columns: the partition of each.
    pub(super) async fn places(&self, records: &NewRecords) -> Result<Vec<Partition>, LogError> {
        let mut places = Vec::with_capacity(records.len());
        for to in records.destinations() {
            let partitions = self.topics.partitions(to.topic).await?;
            for index in to.records {
                let record = records.get(index);
                self.check_size(to.topic, index, record.bytes()).await?;
                places.push(self.choose(to.topic, partitions, to.partition, record.key)?);
            }
        }
        Ok(places)
    }

    async fn check_size(
        &self,
        topic: &TopicName,
        index: usize,
        bytes: usize,
    ) -> Result<(), LogError> {
        let questioned = bytes > limits::KAFKA_RECORD_UNQUESTIONED_BYTES_MAX;
        let bytes_max = match questioned && !self.compresses {
            true => self.record_bytes_max(topic).await,
            false => self.record_bytes_max,
        };
        if bytes > bytes_max {
            return Err(LogError::RecordTooLarge {
                index,
                bytes,
                bytes_max,
            });
        }
        Ok(())
    }

    /// The partition of a record, of so many.
    fn choose(
        &self,
        topic: &TopicName,
        partitions: u32,
        named: Option<Partition>,
        key: Option<&[u8]>,
    ) -> Result<Partition, LogError> {
        let partition = match (named, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => Partitioner::Murmur2.partition(key, partitions),
            (None, None) => {
                Partition(self.round_robin.fetch_add(1, Ordering::Relaxed) % partitions)
            }
        };
        if partition.0 >= partitions {
            return Err(LogError::UnknownPartition(TopicPartition {
                topic: topic.clone(),
                partition,
            }));
        }
        Ok(partition)
    }

    /// The error of records that were not written, by a producer that can never write again if it is `fatal`.
    pub(super) async fn failure(
        &self,
        failed: Failed<'_>,
        fatal: Option<(Code, String)>,
    ) -> LogError {
        let topic = failed.topic;
        // What is remembered of it may be why.
        self.topics.forget(topic);
        if let Some((code, why)) = fatal {
            return error::written(code, true, &format!("writing to '{topic}': {why}"));
        }
        match error::kind(failed.code) {
            error::Kind::Missing if failed.unwritten => LogError::UnknownTopic(topic.clone()),
            error::Kind::TooLarge if failed.unwritten => {
                let (index, bytes) = (failed.index, failed.bytes);
                let most = self.record_bytes_max(topic).await;
                // Its framing is what was too much.
                let bytes_max = most.min(bytes.saturating_sub(1));
                LogError::RecordTooLarge {
                    index,
                    bytes,
                    bytes_max,
                }
            }
            _ => {
                let what = format!("writing to '{topic}'");
                error::written(failed.code, !failed.unwritten, &what)
            }
        }
    }
}
