//! Writing: records are handed to librdkafka's idempotent producer, and their delivery reports are
//! matched to them by number. Shared by plain appends and by transactions.
//!
//! Invariant: every record handed over gets exactly one report, also when the producer is closed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
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
    room: Arc<Room>,
    writes: Arc<Writes>,
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
    /// A [`Ticket`] as one word: a record costs no allocation, and nothing that threads share.
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, ticket: usize) {
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
        self.writes.report(Ticket::of(ticket), outcome);
        self.room.made();
    }
}

/// Tells of every report those who wait for room in the queue; mostly, nobody does.
#[derive(Default)]
struct Room {
    waiting: AtomicUsize,
    made: Notify,
}

impl Room {
    fn made(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.made.notify_waiters();
        }
    }

    /// Waits for a report, but not for long: one may have come before this was called.
    async fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let _ = tokio::time::timeout(FULL_QUEUE_PAUSE, self.made.notified()).await;
    }
}

/// Counts one who waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which record of which write a report belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticket {
    write: u32,
    index: u32,
}

impl Ticket {
    fn word(self) -> usize {
        (self.write as usize) << u32::BITS | self.index as usize
    }

    #[allow(clippy::cast_possible_truncation, reason = "each half is a number")]
    fn of(word: usize) -> Self {
        Self {
            write: (word >> u32::BITS) as u32,
            index: word as u32,
        }
    }
}

const _: () = assert!(usize::BITS == 64, "a ticket is one word");

/// Why a record was not delivered.
#[derive(Debug, Clone, Copy)]
struct Failure {
    code: Code,
    perhaps_written: bool,
}

/// The writes that wait for reports.
#[derive(Default)]
struct Writes(Mutex<Open>);

#[derive(Default)]
struct Open {
    next: u32,
    reports: HashMap<u32, Reports>,
}

/// The reports of one write.
struct Reports {
    outcomes: Vec<Option<Result<(i32, i64), Failure>>>,
    missing: usize,
    complete: Arc<Notify>,
}

impl Reports {
    fn arrived(&mut self, count: usize) {
        self.missing -= count;
        if self.missing == 0 {
            self.complete.notify_one();
        }
    }
}

impl Writes {
    fn begin(self: &Arc<Self>, records: usize) -> Deliveries {
        let complete = Arc::new(Notify::new());
        let reports = Reports {
            outcomes: vec![None; records],
            missing: records,
            complete: Arc::clone(&complete),
        };
        let mut open = self.0.lock();
        let write = open.next;
        open.next = write.wrapping_add(1);
        let before = open.reports.insert(write, reports);
        assert!(before.is_none(), "few writes are open at a time");
        Deliveries {
            writes: Arc::clone(self),
            write,
            complete,
        }
    }

    fn report(&self, ticket: Ticket, outcome: Result<(i32, i64), Failure>) {
        let mut open = self.0.lock();
        // Nobody waits any more for a write that was dropped.
        let Some(reports) = open.reports.get_mut(&ticket.write) else {
            return;
        };
        let before = reports.outcomes[ticket.index as usize].replace(outcome);
        assert!(before.is_none(), "a record has one delivery report");
        reports.arrived(1);
    }
}

/// Waits for the reports of one write.
struct Deliveries {
    writes: Arc<Writes>,
    write: u32,
    complete: Arc<Notify>,
}

impl Deliveries {
    fn ticket(&self, index: usize) -> Ticket {
        Ticket {
            write: self.write,
            index: u32::try_from(index).expect("records of one write fit into memory"),
        }
    }

    /// Gives up on records from `index` on: they were not handed over.
    fn cut(&self, index: usize) {
        let mut open = self.writes.0.lock();
        if let Some(reports) = open.reports.get_mut(&self.write) {
            let cut = reports.outcomes.len() - index;
            reports.outcomes.truncate(index);
            reports.arrived(cut);
        }
    }

    async fn wait(&self) -> Vec<Result<(i32, i64), Failure>> {
        loop {
            {
                let mut open = self.writes.0.lock();
                let reports = open.reports.get_mut(&self.write);
                let reports = reports.expect("it is taken out on drop only");
                if reports.missing == 0 {
                    let outcomes = std::mem::take(&mut reports.outcomes);
                    return outcomes.into_iter().flatten().collect();
                }
            }
            self.complete.notified().await;
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.writes.0.lock().reports.remove(&self.write);
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
            let bytes = record.bytes();
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

/// A producer whose reports are matched to its records.
pub(super) struct Writer {
    producer: Arc<Client<BaseProducer<WriterContext>>>,
    context: Context,
    room: Arc<Room>,
    writes: Arc<Writes>,
    placing: Arc<Placing>,
}

impl Writer {
    /// Makes a producer; it connects when the first record is written.
    pub(super) fn new(
        config: &ClientConfig,
        name: &str,
        placing: Arc<Placing>,
    ) -> Result<Self, LogError> {
        let (context, room) = (Context::new(name), Arc::new(Room::default()));
        let writes = Arc::new(Writes::default());
        let common = context.clone();
        let producer: BaseProducer<WriterContext> = config
            .create_with_context(WriterContext {
                common,
                room: Arc::clone(&room),
                writes: Arc::clone(&writes),
            })
            .map_err(|error| error::made(&error))?;
        Ok(Self {
            producer: Client::serve(producer),
            context,
            room,
            writes,
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
        let deliveries = self.writes.begin(records.len());
        let mut refused = None;
        for (index, placed) in records.iter().enumerate() {
            if let Err(code) = self.hand_over(placed, deliveries.ticket(index)).await {
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
    async fn hand_over(&self, placed: &Placed, ticket: Ticket) -> Result<(), Code> {
        let mut next = native_record(placed, ticket);
        loop {
            match self.producer.send(next) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), record)) => next = record,
                Err((error, _)) => return Err(error::code_of(&error)),
            }
            self.room.wait().await;
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
                let bytes = placed.record.bytes();
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

fn native_record(placed: &Placed, ticket: Ticket) -> BaseRecord<'_, [u8], [u8], usize> {
    let record = &placed.record;
    let partition = i32::try_from(placed.partition.0).unwrap_or(i32::MAX);
    let mut native =
        BaseRecord::with_opaque_to(placed.topic.as_str(), ticket.word()).partition(partition);
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

    const LATE: Failure = Failure {
        code: Code::MessageTimedOut,
        perhaps_written: true,
    };

    #[tokio::test]
    async fn reports_are_matched_to_records_of_writes_in_any_order() {
        let writes = Arc::new(Writes::default());
        let (one, other) = (writes.begin(3), writes.begin(1));
        writes.report(one.ticket(2), Ok((0, 12)));
        writes.report(other.ticket(0), Ok((1, 7)));
        writes.report(one.ticket(0), Ok((0, 10)));
        writes.report(one.ticket(1), Err(LATE));
        let outcomes = one.wait().await;
        assert!(matches!(outcomes[0], Ok((0, 10))) && matches!(outcomes[2], Ok((0, 12))));
        assert!(outcomes[1].is_err());
        assert!(matches!(other.wait().await[..], [Ok((1, 7))]));
    }

    #[tokio::test]
    async fn records_that_were_not_handed_over_are_not_waited_for() {
        let writes = Arc::new(Writes::default());
        let deliveries = writes.begin(3);
        writes.report(deliveries.ticket(0), Ok((0, 10)));
        deliveries.cut(1);
        assert_eq!(deliveries.wait().await.len(), 1);
    }

    #[tokio::test]
    async fn reports_of_a_write_that_was_dropped_go_nowhere() {
        let writes = Arc::new(Writes::default());
        let (dropped, next) = (writes.begin(1), writes.begin(1));
        let late = dropped.ticket(0);
        drop(dropped);
        writes.report(late, Err(LATE));
        writes.report(next.ticket(0), Ok((0, 3)));
        assert!(matches!(next.wait().await[..], [Ok((0, 3))]));
    }

    #[test]
    fn a_ticket_is_the_same_after_its_way_through_the_client() {
        let (write, index) = (u32::MAX, 7);
        let ticket = Ticket { write, index };
        assert_eq!(Ticket::of(ticket.word()), ticket);
    }

    #[test]
    fn a_record_counts_with_its_headers() {
        let record = NewRecord {
            key: Some("key".into()),
            value: Some("value".into()),
            headers: vec![("name".into(), Some("v".into())), ("n".into(), None)],
            ..NewRecord::default()
        };
        assert_eq!(record.bytes(), 3 + 5 + 5 + 1);
    }
}
