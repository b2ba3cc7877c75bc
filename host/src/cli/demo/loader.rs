//! Loads a data set, and what is made of it, into the log: events and the loader's own progress in one
//! transaction, so that a second run, also after a crash in the middle, goes on without loading anything
//! twice. Called by `demo`.
//!
//! Invariant: progress is read only after the transactional id was taken over, which ends whatever an
//! earlier loader had open; so what it says is what is in the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use crate::limits;
use crate::log::{Log, LogError, NewRecord, Read, ReadLimits, RecordBatch, TransactionalWriter};
use crate::types::{ClusterName, Offset, Partition, TopicName, TopicPartition};

mod wire {
    //! Generated from `host/proto/demo.proto`.
    #![allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub)]
    include!(concat!(env!("OUT_DIR"), "/foldhost.demo.v1.rs"));
}

use wire::LoadProgress;

/// Most bytes of progress that are read at a time.
const PROGRESS_READ: ReadLimits = ReadLimits {
    records_max: 1_000,
    bytes_max: 256 * 1024,
};

/// What can go wrong with loading.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// The log.
    #[error("loading the data of the demo: {0}")]
    Log(#[from] LogError),
    /// Another data set was loaded before: both together would be neither.
    #[error(
        "{written} of {total} events of another data set ({name}) are loaded here already: start \
         with an empty folder (--data DIR), or on Kafka with another cluster name and flights topic"
    )]
    OtherData {
        /// Its name.
        name: String,
        /// How much of it is loaded.
        written: u64,
        /// How much there is of it.
        total: u64,
    },
    /// The topic holds something else.
    #[error(
        "a record of {0} is no progress of a loader ({1}): delete the topic if it is not needed"
    )]
    Progress(TopicName, String),
}

/// What can be loaded: records in an order that never changes.
pub(super) trait Source {
    /// What its records are, in the plural, for people.
    const WHAT: &'static str;

    /// Its name, for people.
    fn name(&self) -> &str;

    /// Its identity, as `host/proto/demo.proto` says: that of the data set, and behind a `/` what is made of it.
    fn progress_key(&self) -> String;

    /// How many records there are.
    fn record_count(&self) -> usize;

    /// The records in their order, from the one of this index, each with its topic.
    fn records_from(
        &self,
        index: usize,
        topics: &Topics,
    ) -> impl Iterator<Item = (TopicName, NewRecord)>;
}

/// Loads one source.
#[derive(Debug)]
pub(super) struct Loader<'a, S> {
    log: Arc<dyn Log>,
    topics: Topics,
    source: &'a S,
    writer: Box<dyn TransactionalWriter>,
    /// Records of the source that are in the log.
    written: usize,
    /// The last record of each partition that this loader wrote.
    last: BTreeMap<TopicPartition, Offset>,
}

/// Where the loader writes.
#[derive(Debug, Clone)]
pub(super) struct Topics {
    /// The flights.
    pub(super) flights: TopicName,
    /// What happens to groups of planes.
    pub(super) groups: TopicName,
    /// Who may see them.
    pub(super) access: TopicName,
    /// The progress.
    pub(super) progress: TopicName,
    /// The loader's transactional id.
    pub(super) transactional_id: String,
}

impl Topics {
    /// Those of a cluster's demo.
    pub(super) fn of(cluster: &ClusterName) -> Self {
        let named = |name| TopicName::new(name).expect("it keeps the rules");
        Self {
            flights: named("flights"),
            groups: named("fleet-groups"),
            access: named("fleet-access"),
            progress: cluster.demo_progress_topic(),
            transactional_id: format!("{cluster}.demo.loader"),
        }
    }
}

impl<'a, S: Source> Loader<'a, S> {
    /// Takes over from every earlier loader and finds out how far they came.
    pub(super) async fn open(
        log: Arc<dyn Log>,
        topics: Topics,
        source: &'a S,
    ) -> Result<Self, LoadError> {
        let writer = log.transactional(&topics.transactional_id).await?;
        let written = progress(&*log, &topics.progress, &source.progress_key()).await?;
        Ok(Self {
            log,
            topics,
            source,
            writer,
            written,
            last: BTreeMap::new(),
        })
    }

    /// How many records of the source are in the log.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    /// The last record of each partition that this loader wrote.
    pub(super) fn last(&self) -> &BTreeMap<TopicPartition, Offset> {
        &self.last
    }

    /// Writes the next records in one transaction; `false` when there are none left.
    ///
    /// # Errors
    /// [`LoadError::Log`]: the transaction was aborted, or its outcome is unknown;
    /// [`reopen`](Self::reopen) finds out.
    pub(super) async fn step(&mut self) -> Result<bool, LoadError> {
        let left = self.source.records_from(self.written, &self.topics);
        let mut records: Vec<_> = left.take(limits::DEMO_TRANSACTION_EVENTS).collect();
        if records.is_empty() {
            return Ok(false);
        }
        let topics: Vec<_> = records.iter().map(|(topic, _)| topic.clone()).collect();
        let count = records.len();
        let progress = LoadProgress {
            name: self.source.name().to_owned(),
            events_written: (self.written + count) as u64,
            events_total: self.source.record_count() as u64,
        };
        records.push((
            self.topics.progress.clone(),
            NewRecord {
                key: Some(Bytes::from(self.source.progress_key())),
                value: Some(Bytes::from(progress.encode_to_vec())),
                ..NewRecord::default()
            },
        ));
        let places = self.writer.commit(records).await?;
        let places = topics.into_iter().zip(places);
        self.last.extend(
            places
                .map(|(topic, (partition, offset))| (TopicPartition { topic, partition }, offset)),
        );
        self.written += count;
        Ok(true)
    }

    /// Starts again after an error, from what is in the log.
    pub(super) async fn reopen(&mut self) -> Result<(), LoadError> {
        self.writer = self
            .log
            .transactional(&self.topics.transactional_id)
            .await?;
        self.written = progress(
            &*self.log,
            &self.topics.progress,
            &self.source.progress_key(),
        )
        .await?;
        Ok(())
    }
}

/// How many records of the source with this key are in the log. What else is made of the same data set lies
/// beside it.
async fn progress(log: &dyn Log, topic: &TopicName, own_key: &str) -> Result<usize, LoadError> {
    let of = TopicPartition {
        topic: topic.clone(),
        partition: Partition(0),
    };
    let range = log.range(&of).await?;
    let readers = log.reader_set("demo")?;
    let mut reader = readers.open(&of, range.start).await?;
    let mut batch = RecordBatch::new();
    let mut written = 0;
    while reader.read(&mut batch, PROGRESS_READ).await? == Read::Records {
        for record in batch.iter() {
            let found = LoadProgress::decode(record.value.unwrap_or_default())
                .map_err(|error| LoadError::Progress(topic.clone(), error.to_string()))?;
            let key = record.key.unwrap_or_default();
            if data_set(key) != data_set(own_key.as_bytes()) {
                return Err(LoadError::OtherData {
                    name: found.name,
                    written: found.events_written,
                    total: found.events_total,
                });
            }
            if key == own_key.as_bytes() {
                written = usize::try_from(found.events_written)
                    .map_err(|error| LoadError::Progress(topic.clone(), error.to_string()))?;
            }
        }
        batch.clear();
    }
    Ok(written)
}

/// The data set of which a key of progress speaks.
fn data_set(key: &[u8]) -> &[u8] {
    let end = key.iter().position(|byte| *byte == b'/');
    &key[..end.unwrap_or(key.len())]
}

#[cfg(test)]
mod tests;
