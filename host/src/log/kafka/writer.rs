//! Writing: records are handed to librdkafka's idempotent producer, and their delivery reports are
//! matched to them by number. Shared by plain appends and by transactions.
//!
//! Invariant: every record handed over gets exactly one report, also when the producer is closed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header as NativeHeader, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, Message as _};
use tokio::sync::Notify;

use crate::limits;
use crate::types::{Offset, Partition, TopicName};

use super::super::LogError;
use super::client::{Client, connect};
use super::context::{Context, Extended};
use super::placing::{Failed, Placed, Placing};
use super::transaction::Transactions;
use super::{blocking, error, native};

/// How long a full queue is waited for before it is tried again; a report wakes earlier.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(100);

/// The context of a producer.
pub(super) type WriterContext = Extended<Reporting>;

/// Where delivery reports go.
pub(super) struct Reporting {
    room: Arc<Room>,
    writes: Arc<Writes>,
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
        self.own.writes.report(Ticket::of(ticket), outcome);
        self.own.room.made();
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
        let own = Reporting {
            room: Arc::clone(&room),
            writes: Arc::clone(&writes),
        };
        let common = context.clone();
        let producer: BaseProducer<WriterContext> = config
            .create_with_context(WriterContext { common, own })
            .map_err(|error| error::made(&error))?;
        Ok(Self {
            producer: Client::serve(producer),
            context,
            room,
            writes,
            placing,
        })
    }

    /// Connects on a thread of its own, for records of `topic`: what is written meanwhile goes out as soon as it can.
    pub(super) fn connect(&self, topic: &TopicName) {
        let (producer, topic) = (Arc::clone(&self.producer), topic.clone());
        tokio::task::spawn_blocking(move || connect(&producer, topic.as_str()));
    }

    /// Its transactions, under its transactional id.
    pub(super) fn transactions<'a>(&'a self, id: &'a str) -> Transactions<'a, WriterContext> {
        Transactions {
            id,
            producer: &self.producer,
            context: &self.context,
        }
    }

    /// The producer itself.
    pub(super) fn producer(&self) -> &Arc<Client<BaseProducer<WriterContext>>> {
        &self.producer
    }

    /// Why this producer can never write again, if so.
    pub(super) fn fatal(&self) -> Option<(Code, String)> {
        self.producer.client().fatal_error()
    }

    /// Hands all records over, waits until each is durable, and gives their places in order. What waits for more
    /// to go with it does so no longer, if `flush` says so.
    pub(super) async fn write(
        &self,
        records: &[Placed],
        flush: bool,
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
        if flush {
            let producer = Arc::clone(&self.producer);
            blocking(move || {
                native::flush(&*producer, limits::KAFKA_TRANSACTION_MAX);
                Ok(())
            })
            .await?;
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
        let failed = Failed {
            topic: &placed.topic,
            index,
            bytes: placed.record.bytes(),
            code: failure.code,
            unwritten: none_written && failures.iter().all(|(_, each)| !each.perhaps_written),
        };
        let error = self.placing.failure(failed, self.fatal()).await;
        self.context.health().explain(error)
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
    use crate::log::NewRecord;

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
