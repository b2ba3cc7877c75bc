//! The log port: what foldhost needs of Kafka, and what the embedded log gives as well.
//! Called by `partition`, `manager`, `cluster` and `http`; the adapters lie beside it.
//!
//! Invariants every adapter keeps: a reader and [`Log::range`] show committed and durable records
//! only; offsets of a partition strictly increase; what an append or a transaction acknowledged
//! survives a `kill -9`; a queue in front of a reader is bounded in bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::types::{Offset, Partition, TopicName, TopicPartition};

mod batch;
pub mod embedded;
mod framing;
pub mod kafka;
mod new_records;
mod partitioner;
mod shared;

pub use batch::{HeaderRef, RecordBatch, RecordRef};
pub use framing::{BadFrame, Framing, SCHEMA_ID_HEADER, Unframed};
pub use new_records::{Destination, NewRecords};
pub use partitioner::{Partitioner, murmur2};
pub use shared::SharedReads;

/// A header of a record; Kafka allows a value to be null. Names that the host writes cost no allocation.
pub type Header = (Cow<'static, str>, Option<Bytes>);

/// A copy of a header that was read.
#[must_use]
pub fn owned_header((name, value): HeaderRef<'_>) -> Header {
    (name.to_owned().into(), value.map(Bytes::copy_from_slice))
}

/// Headers whose names begin so are written by the host, and by nobody else.
pub const HOST_HEADERS_PREFIX: &str = "foldhost-";

/// The one of them that others may write, too: which command a record is.
pub const COMMAND_HEADER: &str = "foldhost-command";

/// Headers that travel from what causes a record to the record.
pub const TRAVELLING_HEADERS: [&str; 2] = ["traceparent", "correlation-id"];

/// A record that is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewRecord {
    /// `None` lets the log choose a partition when none is given.
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    /// In order; names may repeat.
    pub headers: Vec<Header>,
    /// Milliseconds since the Unix epoch; `None` = when the log takes it.
    pub timestamp_ms: Option<i64>,
    /// `None` = by the key: Kafka's default murmur2.
    pub partition: Option<Partition>,
}

impl NewRecord {
    /// Bytes of key, value and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter();
        record_bytes(
            self.key.as_deref(),
            self.value.as_deref(),
            headers.map(|(name, value)| (&**name, value.as_deref())),
        )
    }
}

/// Bytes of a record's key, value and headers.
fn record_bytes<'h>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = HeaderRef<'h>>,
) -> usize {
    let part = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let headers = headers.map(|(name, value)| name.len() + part(value));
    part(key) + part(value) + headers.sum::<usize>()
}

/// How old records leave a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cleanup {
    /// As the log's own default says; never, on the embedded log.
    #[default]
    Default,
    /// Never.
    Keep,
    /// The newest record of each key stays.
    Compact,
    /// As `Compact`, and soon: for a topic that is read whole.
    CompactSoon,
}

/// A topic that is to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: TopicName,
    /// How many partitions; at least 1.
    pub partitions: u32,
    /// `None` = the log's default.
    pub replication_factor: Option<i32>,
    /// How old records leave it.
    pub cleanup: Cleanup,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// Identity that changes when a topic is deleted and made again; `None` where the log cannot tell.
    pub id: Option<[u8; 16]>,
    /// How many partitions.
    pub partitions: u32,
}

/// The records of a partition that can be read: `start` is the first, `end` one past the last
/// that is committed and durable.
pub type OffsetRange = Range<Offset>;

/// What a reader has after a call of [`PartitionReader::read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// At least one record was appended to the batch.
    Records,
    /// Everything that was in the partition has been read; the next call waits for more.
    EndOfPartition,
}

/// Bounds of one read.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimits {
    /// Most records.
    pub records_max: usize,
    /// Most bytes of keys, values and headers; a single larger record is still delivered, alone.
    pub bytes_max: usize,
}

/// Reads one partition in order. Dropping it closes it.
#[async_trait]
pub trait PartitionReader: Send + fmt::Debug {
    /// Waits for at least one record or the end of the partition, never to fill a batch; appends
    /// what is there, up to `limits`, to `into`. The end is told once each time it is reached, by
    /// a call that appended nothing. Cancel-safe: a dropped call loses no record.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] may pass, the reader goes on by itself when called again;
    /// [`LogError::OffsetOutOfRange`] when the next record was removed; anything else is final.
    async fn read(&mut self, into: &mut RecordBatch, limits: ReadLimits) -> Result<Read, LogError>;
}

/// Readers that share one client of the log; one set for each generation of a plugin, so that
/// generations run side by side.
#[async_trait]
pub trait ReaderSet: Send + Sync + fmt::Debug {
    /// Starts reading a partition at `from`, or at the first record behind it.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::OffsetOutOfRange`] when `from` is beyond the end or
    /// was removed, [`LogError::Unavailable`].
    async fn open(
        &self,
        of: &TopicPartition,
        from: Offset,
    ) -> Result<Box<dyn PartitionReader>, LogError>;
}

/// Writes in transactions, fenced by its transactional id. After any error it is used up: drop it,
/// confirm the membership, and open the partition again.
#[async_trait]
pub trait TransactionalWriter: Send + fmt::Debug {
    /// Writes all records atomically and returns their partitions and offsets, in order, once they
    /// are durable.
    ///
    /// # Errors
    /// [`LogError::Fenced`] when another writer has the id; [`LogError::OutcomeUnknown`];
    /// [`LogError::RecordTooLarge`], [`LogError::UnknownTopic`] with nothing written.
    async fn commit(
        &mut self,
        records: Vec<(TopicName, NewRecord)>,
    ) -> Result<Vec<(Partition, Offset)>, LogError>;
}

/// Publishes in transactions, fenced by its transactional id, and is not told where its records are: on Kafka that is
/// a report for each. After any error it is used up, as a [`TransactionalWriter`].
#[async_trait]
pub trait TransactionalPublisher: Send + fmt::Debug {
    /// Writes all records atomically; once they are durable, gives them back for their memory.
    ///
    /// # Errors
    /// As [`TransactionalWriter::commit`].
    async fn publish(&mut self, records: NewRecords) -> Result<NewRecords, LogError>;
}

/// Change of the partitions that a membership holds.
#[derive(Debug)]
pub enum AssignmentChange {
    /// These are now ours to open, in addition to those held.
    Assigned(Vec<Partition>),
    /// These go to another host: commit, close, then drop `done`. The group waits for that, at
    /// most [`crate::limits::REVOKE_COMMIT_MAX`].
    Revoked {
        /// The partitions.
        partitions: Vec<Partition>,
        /// Dropped when they are closed.
        done: tokio::sync::oneshot::Sender<()>,
    },
    /// The session ended: these may already have another owner. Stop folding and committing.
    Lost(Vec<Partition>),
}

/// One host's membership in the group of a plugin: it decides who *tries* to own a partition.
#[async_trait]
pub trait Membership: Send + Sync + fmt::Debug {
    /// The next change; `None` after [`leave`](Self::leave), and when this membership can never be
    /// current again: join anew.
    async fn change(&self) -> Option<AssignmentChange>;

    /// Asks the group itself, by a synchronous commit, whether this membership is current.
    ///
    /// # Errors
    /// [`LogError::Fenced`] when it is not: wait for the next change; [`LogError::Unavailable`].
    async fn confirm(&self) -> Result<(), LogError>;

    /// Tells lag tools how far partitions are folded. Best effort, never waits.
    fn report(&self, next: &BTreeMap<TopicPartition, Offset>);

    /// Leaves at once, so that others take over without waiting for the session to end.
    async fn leave(&self);
}

/// A durable, partitioned, ordered log of records. Cheap to share.
#[async_trait]
pub trait Log: Send + Sync + fmt::Debug {
    /// `kafka` or `embedded`.
    fn kind(&self) -> LogKind;

    /// Whether the log answers.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] says why not.
    async fn check(&self) -> Result<(), LogError>;

    /// All topics, in order of name.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    async fn topics(&self) -> Result<Vec<Topic>, LogError>;

    /// One topic, or `None` if there is none of this name. Never creates it.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    async fn topic(&self, name: &TopicName) -> Result<Option<Topic>, LogError>;

    /// Creates a topic and waits until it can be used.
    ///
    /// # Errors
    /// [`LogError::TopicExists`], [`LogError::Rejected`], [`LogError::Unavailable`].
    async fn create_topic(&self, topic: &NewTopic) -> Result<Topic, LogError>;

    /// Gives a topic `partitions` partitions if it has fewer, and waits until they can be used.
    /// Never takes any away.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::Rejected`], [`LogError::Unavailable`].
    async fn grow_topic(&self, name: &TopicName, partitions: u32) -> Result<Topic, LogError>;

    /// Deletes a topic with its records.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::Rejected`], [`LogError::Unavailable`].
    async fn delete_topic(&self, name: &TopicName) -> Result<(), LogError>;

    /// First offset, and one past the last committed record (fetched, not from a cache).
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::Unavailable`].
    async fn range(&self, of: &TopicPartition) -> Result<OffsetRange, LogError>;

    /// One past the last committed record, as it was up to a second ago: cheap enough to be asked for by many
    /// partitions each second.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::UnknownPartition`], [`LogError::Unavailable`].
    async fn recent_end(&self, of: &TopicPartition) -> Result<Offset, LogError>;

    /// One past the last record that was written, those of transactions that are still open included:
    /// what was written before this call is visible once the end of [`range`](Self::range) is here.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::Unavailable`].
    async fn written_end(&self, of: &TopicPartition) -> Result<Offset, LogError>;

    /// The largest record that a topic takes, in bytes of key, value and headers.
    async fn record_bytes_max(&self, topic: &TopicName) -> usize;

    /// Offset of the first record with at least this timestamp, or the end.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::Unavailable`].
    async fn offset_at(&self, of: &TopicPartition, timestamp_ms: i64) -> Result<Offset, LogError>;

    /// A new client for reading; `name` shows in the log's own client id.
    ///
    /// # Errors
    /// [`LogError::Rejected`] for settings that the log does not take.
    fn reader_set(&self, name: &str) -> Result<Box<dyn ReaderSet>, LogError>;

    /// Writes records and returns their places, in order, once all are durable. Not atomic on
    /// Kafka; order per partition is the order given.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::UnknownPartition`] and [`LogError::RecordTooLarge`]
    /// with nothing written; [`LogError::Unavailable`] or [`LogError::OutcomeUnknown`] when some
    /// may have been.
    async fn append(
        &self,
        topic: &TopicName,
        records: Vec<NewRecord>,
    ) -> Result<Vec<(Partition, Offset)>, LogError>;

    /// A writer under a transactional id; fences every earlier one of the same id.
    ///
    /// # Errors
    /// [`LogError::Unavailable`], [`LogError::Rejected`].
    async fn transactional(&self, id: &str) -> Result<Box<dyn TransactionalWriter>, LogError>;

    /// A publisher under a transactional id; fences every earlier one, and every writer, of the same id.
    ///
    /// # Errors
    /// As [`transactional`](Self::transactional).
    async fn publisher(&self, id: &str) -> Result<Box<dyn TransactionalPublisher>, LogError>;

    /// Joins `group` as `instance` (static membership), subscribed to `topic`, without reading it.
    ///
    /// # Errors
    /// [`LogError::Rejected`], [`LogError::UnknownTopic`].
    async fn join(
        &self,
        group: &str,
        instance: &str,
        topic: &TopicName,
    ) -> Result<Box<dyn Membership>, LogError>;

    /// Why it takes no more writes until the host is started again; nothing while it does, or may
    /// again by itself.
    fn standing_fault(&self) -> Option<String> {
        None
    }

    /// Flushes and closes what is open; bounded by `within`.
    async fn close(&self, within: Duration);
}

/// Which adapter a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// Kafka, or what speaks its protocol.
    Kafka,
    /// The log inside the data folder.
    Embedded,
}

/// What can go wrong with a log, by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// It may pass: try again after a pause.
    #[error("the log does not answer: {0}")]
    Unavailable(String),
    /// No topic of this name; create it.
    #[error("there is no topic '{0}': create it first")]
    UnknownTopic(TopicName),
    /// The topic has fewer partitions.
    #[error("there is no partition {0}")]
    UnknownPartition(TopicPartition),
    /// The name is taken.
    #[error("topic '{0}' exists already")]
    TopicExists(TopicName),
    /// Nothing was written.
    #[error("record {index} has {bytes} bytes, more than the {bytes_max} that the topic takes")]
    RecordTooLarge {
        /// Which of the records given, from 0.
        index: usize,
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The offset is not in the log: removed by retention, or beyond its end.
    #[error("{of} has no record {wanted}: it holds {} to {}", range.start, range.end)]
    OffsetOutOfRange {
        /// The partition.
        of: TopicPartition,
        /// The offset asked for.
        wanted: Offset,
        /// What there is.
        range: OffsetRange,
    },
    /// Another writer or member has taken over.
    #[error("another owner has taken over: {0}")]
    Fenced(String),
    /// The write may or may not have happened.
    #[error("the outcome of a write is unknown: {0}")]
    OutcomeUnknown(String),
    /// The log refuses: settings, rights or arguments are wrong, trying again changes nothing.
    #[error("the log refuses: {0}")]
    Rejected(String),
    /// What is stored cannot be read.
    #[error("the log is damaged: {0}")]
    Corrupt(String),
}

impl LogError {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::OutcomeUnknown(_))
    }
}
