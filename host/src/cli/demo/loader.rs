//! Loads a data set into the log: events and the loader's own progress in one transaction, so that a
//! second run, also after a crash in the middle, goes on without loading anything twice. Called by
//! `demo`.
//!
//! Invariant: progress is read only after the transactional id was taken over, which ends whatever an
//! earlier loader had open; so what it says is what is in the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::events;
use super::flights::Flights;
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
    #[error("loading the flights: {0}")]
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

/// Loads one data set.
#[derive(Debug)]
pub(super) struct Loader<'a> {
    log: Arc<dyn Log>,
    topics: Topics,
    flights: &'a Flights,
    writer: Box<dyn TransactionalWriter>,
    /// Events that are in the log.
    written: usize,
    /// The last record of each partition that this loader wrote.
    last: BTreeMap<Partition, Offset>,
}

/// Where the loader writes.
#[derive(Debug, Clone)]
pub(super) struct Topics {
    /// The events.
    pub(super) flights: TopicName,
    /// The progress.
    pub(super) progress: TopicName,
    /// The loader's transactional id.
    pub(super) transactional_id: String,
}

impl Topics {
    /// Those of a cluster's demo.
    pub(super) fn of(cluster: &ClusterName) -> Self {
        Self {
            flights: TopicName::new("flights").expect("it keeps the rules"),
            progress: cluster.demo_progress_topic(),
            transactional_id: format!("{cluster}.demo.loader"),
        }
    }
}

impl<'a> Loader<'a> {
    /// Takes over from every earlier loader and finds out how far they came.
    pub(super) async fn open(
        log: Arc<dyn Log>,
        topics: Topics,
        flights: &'a Flights,
    ) -> Result<Self, LoadError> {
        let writer = log.transactional(&topics.transactional_id).await?;
        let written = progress(&*log, &topics.progress, flights).await?;
        Ok(Self {
            log,
            topics,
            flights,
            writer,
            written,
            last: BTreeMap::new(),
        })
    }

    /// How many events of the data set are in the log.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    /// The last record of each partition that this loader wrote.
    pub(super) fn last(&self) -> &BTreeMap<Partition, Offset> {
        &self.last
    }

    /// Writes the next events in one transaction; `false` when there are none left.
    ///
    /// # Errors
    /// [`LoadError::Log`]: the transaction was aborted, or its outcome is unknown;
    /// [`reopen`](Self::reopen) finds out.
    pub(super) async fn step(&mut self) -> Result<bool, LoadError> {
        let events = self
            .flights
            .events_from(self.written)
            .take(limits::DEMO_TRANSACTION_EVENTS);
        let mut records: Vec<_> = events
            .map(|(event, flight)| (self.topics.flights.clone(), events::record(event, flight)))
            .collect();
        if records.is_empty() {
            return Ok(false);
        }
        let count = records.len();
        let progress = LoadProgress {
            name: self.flights.name.clone(),
            events_written: (self.written + count) as u64,
            events_total: self.flights.event_count() as u64,
        };
        records.push((
            self.topics.progress.clone(),
            NewRecord {
                key: Some(Bytes::from(self.flights.digest.to_string())),
                value: Some(Bytes::from(progress.encode_to_vec())),
                ..NewRecord::default()
            },
        ));
        let places = self.writer.commit(records).await?;
        self.last.extend(places.into_iter().take(count));
        self.written += count;
        Ok(true)
    }

    /// Starts again after an error, from what is in the log.
    pub(super) async fn reopen(&mut self) -> Result<(), LoadError> {
        self.writer = self
            .log
            .transactional(&self.topics.transactional_id)
            .await?;
        self.written = progress(&*self.log, &self.topics.progress, self.flights).await?;
        Ok(())
    }
}

/// How many events of a data set are in the log.
async fn progress(log: &dyn Log, topic: &TopicName, flights: &Flights) -> Result<usize, LoadError> {
    let of = TopicPartition {
        topic: topic.clone(),
        partition: Partition(0),
    };
    let range = log.range(&of).await?;
    let readers = log.reader_set("demo")?;
    let mut reader = readers.open(&of, range.start).await?;
    let mut batch = RecordBatch::new();
    let own_key = flights.digest.to_string();
    let mut written = 0;
    while reader.read(&mut batch, PROGRESS_READ).await? == Read::Records {
        for record in batch.iter() {
            let found = LoadProgress::decode(record.value.unwrap_or_default())
                .map_err(|error| LoadError::Progress(topic.clone(), error.to_string()))?;
            if record.key != Some(own_key.as_bytes()) {
                return Err(LoadError::OtherData {
                    name: found.name,
                    written: found.events_written,
                    total: found.events_total,
                });
            }
            written = usize::try_from(found.events_written)
                .map_err(|error| LoadError::Progress(topic.clone(), error.to_string()))?;
        }
        batch.clear();
    }
    Ok(written)
}

#[cfg(test)]
mod tests;
