//! Writing: records are handed to librdkafka's idempotent producer, and their delivery reports are
//! matched to them by number. Shared by plain appends and by transactions.
//!
//! Invariant: every record handed over gets exactly one report, also when the producer is closed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header as NativeHeader, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, Message as _};
use tokio::sync::Notify;

use crate::limits;
use crate::types::{Offset, Partition, TopicName, TopicPartition};

use super::super::{LogError, NewRecord, Partitioner};
use super::client::Client;
use super::context::Context;
use super::settings::KafkaSettings;
use super::topics::Topics;
use super::{error, native};

/// How long a full queue is waited for before it is tried again; a report wakes earlier.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(100);

/// What Kafka's format (version 2) adds at least to a record that is alone in its batch, in bytes: 61
/// for the batch, 7 for the record.
const FRAMING_BYTES_MIN: usize = 68;

/// The context of a producer: the common one, and where delivery reports go.
pub(super) struct WriterContext {
    common: Context,
    /// Told of every report: there is room again.
    room: Arc<Notify>,
}

impl ClientContext for WriterContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.common.log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.common.stats_raw(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.common.error(error, reason);
    }

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.common.generate_oauth_token(config)
    }
}

impl ProducerContext for WriterContext {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, report: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let outcome = match report {
            Ok(message) => {
                self.common.health().answered();
                Ok((message.partition(), message.offset()))
            }
            Err((error, message)) => Err(Failure {
                code: error::code_of(error),
                perhaps_written: native::perhaps_written(message),
            }),
        };
        ticket.deliveries.report(ticket.index, outcome);
        self.room.notify_waiters();
    }
}

/// Which record of which write a report belongs to.
pub(super) struct Ticket {
    deliveries: Arc<Deliveries>,
    index: usize,
}

/// Why a record was not delivered.
#[derive(Debug, Clone, Copy)]
struct Failure {
    code: Code,
    perhaps_written: bool,
}

/// The reports of one write.
struct Deliveries {
    reports: Mutex<Reports>,
    complete: Notify,
}

struct Reports {
    outcomes: Vec<Option<Result<(i32, i64), Failure>>>,
    missing: usize,
}

impl Deliveries {
    fn new(records: usize) -> Arc<Self> {
        Arc::new(Self {
            reports: Mutex::new(Reports {
                outcomes: vec![None; records],
                missing: records,
            }),
            complete: Notify::new(),
        })
    }

    fn report(&self, index: usize, outcome: Result<(i32, i64), Failure>) {
        let mut reports = self.reports.lock();
        let before = reports.outcomes[index].replace(outcome);
        assert!(before.is_none(), "a record has one delivery report");
        reports.missing -= 1;
        if reports.missing == 0 {
            self.complete.notify_one();
        }
    }

    /// Gives up on records from `index` on: they were not handed over.
    fn cut(&self, index: usize) {
        let mut reports = self.reports.lock();
        let cut = reports.outcomes.len() - index;
        reports.outcomes.truncate(index);
        reports.missing -= cut;
        if reports.missing == 0 {
            self.complete.notify_one();
        }
    }

    async fn wait(&self) -> Vec<Result<(i32, i64), Failure>> {
        loop {
            {
                let mut reports = self.reports.lock();
                if reports.missing == 0 {
                    let outcomes = std::mem::take(&mut reports.outcomes);
                    return outcomes.into_iter().flatten().collect();
                }
            }
            self.complete.notified().await;
        }
    }
}

/// A record that has been checked, and its partition chosen.
#[derive(Debug)]
pub(super) struct Placed {
    topic: TopicName,
    partition: Partition,
    record: NewRecord,
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
        let mut placed = Vec::new();
        for (index, (topic, record)) in records.into_iter().enumerate() {
            let partitions = self.topics.partitions(&topic).await?;
            let bytes = bytes_of(&record);
            let questioned = bytes > limits::KAFKA_RECORD_UNQUESTIONED_BYTES_MAX;
            let bytes_max = match questioned && !self.compresses {
                true => self.record_bytes_max(&topic).await,
                false => self.record_bytes_max,
            };
            if bytes > bytes_max {
                return Err(LogError::RecordTooLarge {
                    index,
                    bytes,
                    bytes_max,
                });
            }
            let partition = match (record.partition, &record.key) {
                (Some(partition), _) => partition,
                (None, Some(key)) => Partitioner::Murmur2.partition(key, partitions),
                (None, None) => {
                    Partition(self.round_robin.fetch_add(1, Ordering::Relaxed) % partitions)
                }
            };
            if partition.0 >= partitions {
                return Err(LogError::UnknownPartition(TopicPartition {
                    topic,
                    partition,
                }));
            }
            placed.push(Placed {
                topic,
                partition,
                record,
            });
        }
        Ok(placed)
    }

    /// Drops what is remembered of the records' topics.
    fn forget(&self, topic: &TopicName) {
        self.topics.forget(topic);
    }
}

/// Bytes of key, value and headers.
fn bytes_of(record: &NewRecord) -> usize {
    let part = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| name.len() + part(value))
        .sum();
    part(&record.key) + part(&record.value) + headers
}

/// A producer whose reports are matched to its records.
pub(super) struct Writer {
    producer: Arc<Client<BaseProducer<WriterContext>>>,
    context: Context,
    room: Arc<Notify>,
    placing: Arc<Placing>,
}

impl Writer {
    /// Makes a producer; it connects when the first record is written.
    pub(super) fn new(
        config: &ClientConfig,
        name: &str,
        placing: Arc<Placing>,
    ) -> Result<Self, LogError> {
        let (context, room) = (Context::new(name), Arc::new(Notify::new()));
        let common = context.clone();
        let producer: BaseProducer<WriterContext> = config
            .create_with_context(WriterContext {
                common,
                room: Arc::clone(&room),
            })
            .map_err(|error| error::made(&error))?;
        Ok(Self {
            producer: Client::serve(producer),
            context,
            room,
            placing,
        })
    }

    /// The producer itself, for transactions.
    pub(super) fn producer(&self) -> &Arc<Client<BaseProducer<WriterContext>>> {
        &self.producer
    }

    /// Why this producer can never write again, if so.
    pub(super) fn fatal(&self) -> Option<(Code, String)> {
        self.producer.client().fatal_error()
    }

    /// Adds the last reason to an error that only says that no answer came.
    pub(super) fn explain(&self, error: LogError) -> LogError {
        self.context.health().explain(error)
    }

    /// Hands all records over, waits until each is durable, and gives their places in order.
    pub(super) async fn write(
        &self,
        records: &[Placed],
    ) -> Result<Vec<(Partition, Offset)>, LogError> {
        let deliveries = Deliveries::new(records.len());
        let mut refused = None;
        for (index, placed) in records.iter().enumerate() {
            if let Err(code) = self.hand_over(placed, &deliveries, index).await {
                deliveries.cut(index);
                refused = Some((index, code));
                break;
            }
            // A long write is one among many tasks.
            if index % limits::KAFKA_RECORDS_TAKEN_MAX == limits::KAFKA_RECORDS_TAKEN_MAX - 1 {
                tokio::task::yield_now().await;
            }
        }
        let mut places = Vec::with_capacity(records.len());
        let mut failures = Vec::new();
        if !records.is_empty() {
            for (index, outcome) in deliveries.wait().await.into_iter().enumerate() {
                match outcome {
                    Ok(place) => places.push(place),
                    Err(failure) => failures.push((index, failure)),
                }
            }
        }
        if let Some((index, code)) = refused {
            failures.push((
                index,
                Failure {
                    code,
                    perhaps_written: false,
                },
            ));
        }
        if failures.is_empty() {
            return places.into_iter().map(known_place).collect();
        }
        Err(self.failure(records, places.is_empty(), &failures).await)
    }

    /// Gives one record to librdkafka; waits while its queue is full.
    async fn hand_over(
        &self,
        placed: &Placed,
        deliveries: &Arc<Deliveries>,
        index: usize,
    ) -> Result<(), Code> {
        let ticket = Box::new(Ticket {
            deliveries: Arc::clone(deliveries),
            index,
        });
        let mut next = native_record(placed, ticket);
        loop {
            match self.producer.send(next) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), record)) => next = record,
                Err((error, _)) => return Err(error::code_of(&error)),
            }
            // A report may have come between the refusal and here: then the pause is the longest
            // that is lost.
            let _ = tokio::time::timeout(FULL_QUEUE_PAUSE, self.room.notified()).await;
        }
    }

    /// One error for all that failed; none of it is called unwritten unless all of it is.
    async fn failure(
        &self,
        records: &[Placed],
        none_written: bool,
        failures: &[(usize, Failure)],
    ) -> LogError {
        // The first reason is the cause; later ones are often only "purged" or "fatal".
        let (index, failure) = failures[0];
        let placed = &records[index];
        self.placing.forget(&placed.topic);
        if let Some((code, why)) = self.fatal() {
            return error::written(code, true, &format!("writing to '{}': {why}", placed.topic));
        }
        let unwritten = none_written && failures.iter().all(|(_, each)| !each.perhaps_written);
        match error::kind(failure.code) {
            error::Kind::Missing if unwritten => LogError::UnknownTopic(placed.topic.clone()),
            error::Kind::TooLarge if unwritten => {
                let bytes = bytes_of(&placed.record);
                let most = self.placing.record_bytes_max(&placed.topic).await;
                // Its framing is what was too much.
                let bytes_max = most.min(bytes.saturating_sub(1));
                LogError::RecordTooLarge {
                    index,
                    bytes,
                    bytes_max,
                }
            }
            _ => {
                let what = format!("writing to '{}'", placed.topic);
                self.explain(error::written(failure.code, !unwritten, &what))
            }
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

fn native_record(placed: &Placed, ticket: Box<Ticket>) -> BaseRecord<'_, [u8], [u8], Box<Ticket>> {
    let record = &placed.record;
    let partition = i32::try_from(placed.partition.0).unwrap_or(i32::MAX);
    let mut native = BaseRecord::with_opaque_to(placed.topic.as_str(), ticket).partition(partition);
    native.key = record.key.as_deref();
    native.payload = record.value.as_deref();
    native.timestamp = record.timestamp_ms;
    if !record.headers.is_empty() {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(NativeHeader {
                key,
                value: value.as_deref(),
            });
        }
        native.headers = Some(headers);
    }
    native
}

/// A place as librdkafka reports it; it has none for a record that a retry found written already.
fn known_place((partition, offset): (i32, i64)) -> Result<(Partition, Offset), LogError> {
    match (u32::try_from(partition), u64::try_from(offset)) {
        (Ok(partition), Ok(offset)) => Ok((Partition(partition), Offset(offset))),
        _ => Err(LogError::OutcomeUnknown(
            "the records are written, but the broker no longer knows where".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reports_are_matched_to_records_in_any_order() {
        let deliveries = Deliveries::new(3);
        deliveries.report(2, Ok((0, 12)));
        deliveries.report(0, Ok((0, 10)));
        deliveries.report(
            1,
            Err(Failure {
                code: Code::MessageTimedOut,
                perhaps_written: true,
            }),
        );
        let outcomes = deliveries.wait().await;
        assert!(matches!(outcomes[0], Ok((0, 10))) && matches!(outcomes[2], Ok((0, 12))));
        assert!(outcomes[1].is_err());
    }

    #[tokio::test]
    async fn records_that_were_not_handed_over_are_not_waited_for() {
        let deliveries = Deliveries::new(3);
        deliveries.report(0, Ok((0, 10)));
        deliveries.cut(1);
        assert_eq!(deliveries.wait().await.len(), 1);
    }

    #[test]
    fn a_record_counts_with_its_headers() {
        let record = NewRecord {
            key: Some("key".into()),
            value: Some("value".into()),
            headers: vec![("name".into(), Some("v".into())), ("n".into(), None)],
            ..NewRecord::default()
        };
        assert_eq!(bytes_of(&record), 3 + 5 + 5 + 1);
    }
}
