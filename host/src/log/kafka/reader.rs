//! Reading partitions: one queue of librdkafka's for each, records copied straight from its messages into
//! the caller's batch. Which client fetches a partition is up to its [lane](lane).
//!
//! Invariants: a queue is bounded in bytes and records; a record leaves its queue in the same step
//! in which it enters the batch, so that a dropped call loses none; offsets only grow, whichever lane a
//! record comes from.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::limits;
use crate::types::{Offset, TopicPartition};

use super::super::{LogError, PartitionReader, Read, ReadLimits, ReaderSet, RecordBatch};
use super::error;
use super::native::Headers;

mod lane;

pub(super) use lane::Lanes;
use lane::{Arrived, Fetching, Lane};

type OpenPartitions = Arc<Mutex<HashSet<TopicPartition>>>;

/// Readers that share clients.
pub(super) struct KafkaReaderSet {
    lanes: Arc<Lanes>,
    open: OpenPartitions,
}

impl KafkaReaderSet {
    /// A set without a client yet.
    pub(super) fn new(lanes: Lanes) -> Self {
        Self {
            lanes: Arc::new(lanes),
            open: OpenPartitions::default(),
        }
    }
}

#[async_trait]
impl ReaderSet for KafkaReaderSet {
    async fn open(
        &self,
        of: &TopicPartition,
        from: Offset,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        let range = self.lanes.topics().range(of).await?;
        if from < range.start || from > range.end {
            return Err(LogError::OffsetOutOfRange {
                of: of.clone(),
                wanted: from,
                range,
            });
        }
        let slot = Slot::take(&self.open, of)?;
        let fetching = self.lanes.fetch(Lane::CatchUp, of, from).await?;
        Ok(Box::new(KafkaReader {
            fetching,
            next_lane: None,
            _slot: slot,
            of: of.clone(),
            next: from,
            ended: None,
            lanes: Arc::clone(&self.lanes),
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

/// Reads one partition. Fields are dropped in order: the queues stop before the slot is free.
struct KafkaReader {
    fetching: Fetching,
    /// The same partition on the other lane, which takes over once it has something: until then this one goes
    /// on, so that nothing is held up by the change.
    next_lane: Option<Fetching>,
    _slot: Slot,
    of: TopicPartition,
    /// Smallest offset that the next record can have.
    next: Offset,
    /// The end that was told last.
    ended: Option<Offset>,
    lanes: Arc<Lanes>,
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
            let Some(message) = self.fetching.first(take) else {
                break Taken::Nothing;
            };
            let offset = Offset(u64::try_from(message.offset()).unwrap_or(0));
            if let Some((code, text)) = message.error() {
                if records > 0 {
                    // It stays first, for the next call.
                    break Taken::Nothing;
                }
                self.fetching.done();
                break match code {
                    Code::PartitionEOF if self.meets_end(offset) => {
                        Taken::Read(Read::EndOfPartition)
                    }
                    Code::PartitionEOF => continue,
                    code => Taken::Error(code, text),
                };
            }
            if offset >= self.next {
                // Asking for headers is work, also where there are none.
                let headers = (!into.leaves_headers_out()).then(|| message.headers());
                let size = message.bytes() + headers.clone().map_or(0, Headers::bytes);
                if records > 0 && (records >= limits.records_max || bytes + size > limits.bytes_max)
                {
                    break Taken::Nothing;
                }
                let (key, value) = (message.key(), message.value());
                let headers = headers.into_iter().flatten();
                into.push(offset, message.timestamp_ms(), key, value, headers);
                records += 1;
                bytes += size;
                self.next = offset.next();
            }
            self.fetching.done();
        };
        if let Some(mean) = bytes.checked_div(records) {
            self.record_bytes_mean = mean.max(1);
            self.fetching.has_read(records, bytes);
            return Taken::Read(Read::Records);
        }
        taken
    }

    /// Whether the end at `offset` is news: the other lane may have read on behind it, or met it before.
    fn meets_end(&mut self, offset: Offset) -> bool {
        if offset < self.next {
            return false;
        }
        self.fetching.has_ended();
        self.ended.replace(offset) != Some(offset)
    }

    /// Goes on with the other lane, if it has something; called when this one has nothing.
    fn change_lane(&mut self) -> bool {
        let is_ready = |other: &mut Fetching| other.first(1).is_some();
        let Some(other) = self.next_lane.take_if(is_ready) else {
            return false;
        };
        self.fetching = other;
        true
    }

    /// Begins to fetch on the lane on which the partition should be. Errors are no reason to stop: on this lane
    /// it goes on as before.
    async fn prepare_lane(&mut self) {
        if self.next_lane.is_some() {
            return;
        }
        let Some(lane) = self.fetching.better_lane() else {
            return;
        };
        match self.lanes.fetch(lane, &self.of, self.next).await {
            Ok(fetching) => self.next_lane = Some(fetching),
            Err(error) => {
                tracing::debug!(partition = %self.of, ?lane, "no change of the lane: {error}");
                self.fetching.stays();
            }
        }
    }

    /// Waits until either lane has something, or one is to be asked for.
    async fn arrived(&mut self) -> Arrived {
        let Self {
            fetching,
            next_lane,
            ..
        } = self;
        match next_lane {
            Some(other) => tokio::select! {
                arrived = fetching.arrived() => arrived,
                // While it cannot reach the brokers this one says so, if it needs them.
                _ = other.arrived() => Arrived::Something,
            },
            None => {
                let looks_again_in = fetching.looks_again_in();
                let wait = looks_again_in.unwrap_or_default();
                tokio::select! {
                    arrived = fetching.arrived() => arrived,
                    () = tokio::time::sleep(wait), if looks_again_in.is_some() => Arrived::Something,
                }
            }
        }
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
                match self.lanes.topics().range(&self.of).await {
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
        match self.lanes.topics().one(&self.of.topic).await {
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
                Taken::Read(read) => return Ok(read),
                Taken::Error(code, text) => return Err(self.failure(code, text).await),
                Taken::Nothing if self.change_lane() => continue,
                Taken::Nothing => self.prepare_lane().await,
            }
            if self.arrived().await == Arrived::Outage {
                return Err(self.fetching.outage());
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
