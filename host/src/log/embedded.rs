//! The embedded log: a durable log of one host inside its data folder, for development, the edge and
//! the first five minutes. The default where no Kafka is configured; opened by `node`, used through
//! the port.
//!
//! Appends are prepared in their caller's task, queue for the one writer thread, and share its fsyncs
//! (`embedded/writer.rs`). Reads go to the store directly. Memory: the queue, five memtables, a small
//! cache, and at most one chunk for each reader; see `EMBEDDED_*` in `limits`.
//!
//! Invariants: acknowledged means fsynced; readers and ranges show only what is fsynced; a
//! transaction is one atomic batch; after a failed write the log takes no more until it is opened
//! again; one host at a time holds the folder.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{
    Log, LogError, LogKind, Membership, NewRecord, NewTopic, OffsetRange, ReaderSet, Topic,
    TransactionalPublisher, TransactionalWriter,
};
use crate::clock::Clock;
use crate::limits;
use crate::types::{Offset, Partition, TopicName, TopicPartition};

mod catalog;
mod chores;
mod folder;
mod format;
mod journal;
mod membership;
mod prepare;
mod reader;
mod store;
#[cfg(test)]
mod tests;
mod transaction;
mod writer;

use catalog::{Catalog, TopicState, closed};
use membership::EmbeddedMembership;
use reader::EmbeddedReaderSet;
use store::{Recovered, Store};
use transaction::EmbeddedTransactions;
use writer::{Append, Health, Reply, Request, TopicChange, Writer};

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedSettings {
    /// Largest record, in bytes of key, value and headers; at most
    /// [`limits::RECORD_BYTES_MAX`].
    pub record_bytes_max: usize,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self {
            record_bytes_max: limits::RECORD_BYTES_DEFAULT,
        }
    }
}

/// The log inside a folder. Cheap to clone; the folder is free again when the last clone and
/// everything that was opened from it are dropped, or once [`close`](Log::close) returns.
#[derive(Debug, Clone)]
pub struct EmbeddedLog(Arc<Shared>);

impl EmbeddedLog {
    /// Refuses a folder that a newer version wrote. Writes nothing; [`open`](Self::open) asks again.
    ///
    /// # Errors
    /// [`LogError::Rejected`], [`LogError::Corrupt`].
    pub fn check_format(folder: &Path) -> Result<(), LogError> {
        folder::check_format(folder)
    }

    /// Opens the log in `folder`, and makes it if there is none. Blocks: it reads the journal of the
    /// last run, at most [`limits::EMBEDDED_JOURNAL_BYTES_MAX`] and a little.
    ///
    /// # Errors
    /// [`LogError::Rejected`] when another host uses the folder, when it cannot be written, when a
    /// newer foldhost wrote it, or for a bad setting; [`LogError::Unavailable`] when the disk is
    /// full or fails; [`LogError::Corrupt`].
    pub fn open(folder: &Path, clock: Clock, settings: EmbeddedSettings) -> Result<Self, LogError> {
        if settings.record_bytes_max > limits::RECORD_BYTES_MAX {
            return Err(LogError::Rejected(format!(
                "records of {} bytes: the largest that can be allowed is {}",
                settings.record_bytes_max,
                limits::RECORD_BYTES_MAX
            )));
        }
        let store = Arc::new(Store::open(folder)?);
        let recovered = store.recover()?;
        let catalog = Arc::new(load_catalog(&store, &recovered)?);
        let health = Arc::new(Health::default());
        let (sender, requests) =
            mpsc::channel(limits::EMBEDDED_QUEUE_BYTES_MAX / limits::EMBEDDED_QUEUE_ITEM_BYTES_MIN);
        let writer = Writer::new(
            Arc::clone(&store),
            Arc::clone(&catalog),
            Arc::clone(&health),
            clock.clone(),
            requests,
            recovered,
        );
        let thread = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| LogError::Unavailable(format!("starting its writer: {error}")))?;
        Ok(Self(Arc::new(Shared {
            catalog,
            health,
            clock,
            settings,
            room: Arc::new(Semaphore::new(limits::EMBEDDED_QUEUE_BYTES_MAX)),
            sender: RwLock::new(Some(sender)),
            store: RwLock::new(Some(store)),
            thread: Mutex::new(Some(thread)),
        })))
    }
}

fn load_catalog(store: &Store, recovered: &Recovered) -> Result<Catalog, LogError> {
    let catalog = Catalog::default();
    for (name, entry) in &recovered.topics {
        let name = TopicName::new(name)
            .map_err(|error| LogError::Corrupt(format!("a topic's name: {error}")))?;
        let ends = (0..entry.partitions)
            .map(|partition| store.partition_end(entry.number, partition))
            .collect::<Result<Vec<u64>, LogError>>()?;
        catalog.insert(Arc::new(TopicState::new(name, entry.clone(), &ends)));
    }
    Ok(catalog)
}

/// What the log and everything opened from it share.
struct Shared {
    catalog: Arc<Catalog>,
    health: Arc<Health>,
    clock: Clock,
    settings: EmbeddedSettings,
    /// Room in the writer's queue, in bytes.
    room: Arc<Semaphore>,
    /// `None` after a close.
    sender: RwLock<Option<mpsc::Sender<Request>>>,
    /// `None` after a close.
    store: RwLock<Option<Arc<Store>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLog")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn store(&self) -> Result<Arc<Store>, LogError> {
        self.store.read().clone().ok_or_else(closed)
    }

    /// Queues checked records and waits until they are durable.
    async fn append(
        &self,
        records: Vec<(Arc<TopicState>, NewRecord)>,
        bytes: usize,
        fence: Option<(Arc<str>, u64)>,
    ) -> Result<Vec<(Partition, Offset)>, LogError> {
        let room = self.room(bytes).await?;
        let (pieces, places) = prepare::encode(&records, self.clock.now_ms())?;
        drop(records);
        let (reply, answer) = oneshot::channel();
        let append = Append {
            pieces,
            fence,
            reply,
            _room: room,
        };
        self.send(Request::Append(append)).await?;
        let bases = self.answer(answer).await?;
        Ok(places.resolve(&bases))
    }

    /// Gives a transactional id its next epoch.
    async fn open_writer(&self, id: &Arc<str>) -> Result<u64, LogError> {
        self.ask(|reply| Request::OpenWriter {
            id: Arc::clone(id),
            reply,
        })
        .await
    }

    async fn change_topics<T>(
        &self,
        change: impl FnOnce(Reply<T>) -> TopicChange,
    ) -> Result<T, LogError> {
        self.ask(|reply| Request::ChangeTopics(change(reply))).await
    }

    /// Sends a request without records and waits for its answer.
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, LogError> {
        self.health.check()?;
        let (reply, answer) = oneshot::channel();
        self.send(request(reply)).await?;
        self.answer(answer).await
    }

    /// Waits until there is room for `bytes` in the queue.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, LogError> {
        self.health.check()?;
        let bytes = bytes.clamp(
            limits::EMBEDDED_QUEUE_ITEM_BYTES_MIN,
            limits::EMBEDDED_QUEUE_BYTES_MAX,
        );
        let permits = u32::try_from(bytes).expect("the queue is smaller than 4 GiB");
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await;
        room.map_err(|_| self.health.check().err().unwrap_or_else(closed))
    }

    async fn send(&self, request: Request) -> Result<(), LogError> {
        let sender = self.sender.read().clone().ok_or_else(closed)?;
        sender.send(request).await.map_err(|_| closed())
    }

    /// Waits for an answer, and asks from time to time whether one can still come: a store whose own
    /// background work failed keeps its writer waiting for ever.
    async fn answer<T>(
        &self,
        mut answer: oneshot::Receiver<Result<T, LogError>>,
    ) -> Result<T, LogError> {
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.unwrap_or_else(|_| {
                    Err(LogError::OutcomeUnknown("its writer has ended".to_owned()))
                }),
                () = tokio::time::sleep(limits::EMBEDDED_PROBE_INTERVAL) => {}
            }
            if let Err(error) = self.probe().await {
                return Err(LogError::OutcomeUnknown(store::message(error)));
            }
        }
    }

    /// Asks the store whether it still writes; stops the log if not.
    async fn probe(&self) -> Result<(), LogError> {
        let store = self.store()?;
        let probed = tokio::task::spawn_blocking(move || store.check());
        let probed = tokio::time::timeout(limits::EMBEDDED_PROBE_INTERVAL, probed).await;
        // Slow is not broken: a sync may take its time.
        let Ok(Ok(Err(error))) = probed else {
            return Ok(());
        };
        self.health.stop(&error);
        // Nobody will make room any more.
        self.room.close();
        Err(error)
    }

    /// Takes no more requests, waits for those that are queued, and closes the store.
    fn close_blocking(&self) {
        self.room.close();
        drop(self.sender.write().take());
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the embedded log's writer has panicked");
        }
        self.catalog.close();
        drop(self.store.write().take());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A stopped log's thread may wait for the store for ever. Nothing is lost by leaving it.
        if self.health.check().is_ok() {
            self.close_blocking();
        }
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    fn kind(&self) -> LogKind {
        LogKind::Embedded
    }

    async fn check(&self) -> Result<(), LogError> {
        self.0.health.check()?;
        self.0.probe().await
    }

    async fn topics(&self) -> Result<Vec<Topic>, LogError> {
        self.0.store()?;
        Ok(self
            .0
            .catalog
            .all()
            .iter()
            .map(|topic| topic.describe())
            .collect())
    }

    async fn topic(&self, name: &TopicName) -> Result<Option<Topic>, LogError> {
        self.0.store()?;
        Ok(self.0.catalog.find(name).map(|topic| topic.describe()))
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<Topic, LogError> {
        self.0
            .change_topics(|reply| TopicChange::Create {
                topic: topic.clone(),
                reply,
            })
            .await
    }

    async fn grow_topic(&self, name: &TopicName, partitions: u32) -> Result<Topic, LogError> {
        let name = name.clone();
        self.0
            .change_topics(|reply| TopicChange::Grow {
                name,
                partitions,
                reply,
            })
            .await
    }

    async fn delete_topic(&self, name: &TopicName) -> Result<(), LogError> {
        self.0
            .change_topics(|reply| TopicChange::Delete {
                name: name.clone(),
                reply,
            })
            .await
    }

    async fn range(&self, of: &TopicPartition) -> Result<OffsetRange, LogError> {
        // Nothing leaves the front of a partition: compaction leaves gaps behind the first offset.
        Ok(Offset(0)..self.0.catalog.end(of)?)
    }

    async fn recent_end(&self, of: &TopicPartition) -> Result<Offset, LogError> {
        self.0.catalog.end(of)
    }

    async fn written_end(&self, of: &TopicPartition) -> Result<Offset, LogError> {
        // A transaction is one batch: its ends are told whole, or not at all.
        self.range(of).await.map(|range| range.end)
    }

    async fn record_bytes_max(&self, _topic: &TopicName) -> usize {
        self.0.settings.record_bytes_max
    }

    async fn offset_at(&self, of: &TopicPartition, timestamp_ms: i64) -> Result<Offset, LogError> {
        let topic = self.0.catalog.get(&of.topic)?;
        let end = topic.end(of.partition)?;
        let (store, partition) = (self.0.store()?, of.partition);
        let scan = move || reader::offset_at(&store, &topic, partition, end, timestamp_ms);
        tokio::task::spawn_blocking(scan)
            .await
            .map_err(|error| LogError::Unavailable(format!("its scan was stopped: {error}")))?
    }

    fn reader_set(&self, _name: &str) -> Result<Box<dyn ReaderSet>, LogError> {
        Ok(Box::new(EmbeddedReaderSet(Arc::clone(&self.0))))
    }

    async fn append(
        &self,
        topic: &TopicName,
        records: Vec<NewRecord>,
    ) -> Result<Vec<(Partition, Offset)>, LogError> {
        let topic = self.0.catalog.get(topic)?;
        let records: Vec<_> = records
            .into_iter()
            .map(|record| (Arc::clone(&topic), record))
            .collect();
        let bytes = prepare::check(&records, self.0.settings.record_bytes_max)?;
        self.0.append(records, bytes, None).await
    }

    async fn transactional(&self, id: &str) -> Result<Box<dyn TransactionalWriter>, LogError> {
        Ok(Box::new(
            EmbeddedTransactions::open(Arc::clone(&self.0), id).await?,
        ))
    }

    async fn publisher(&self, id: &str) -> Result<Box<dyn TransactionalPublisher>, LogError> {
        Ok(Box::new(
            EmbeddedTransactions::open(Arc::clone(&self.0), id).await?,
        ))
    }

    async fn join(
        &self,
        _group: &str,
        _instance: &str,
        topic: &TopicName,
    ) -> Result<Box<dyn Membership>, LogError> {
        let topic = self.0.catalog.get(topic)?;
        Ok(Box::new(EmbeddedMembership::new(
            Arc::clone(&self.0),
            &topic,
        )))
    }

    fn standing_fault(&self) -> Option<String> {
        self.0.health.check().err().map(|error| error.to_string())
    }

    async fn close(&self, within: Duration) {
        let shared = Arc::clone(&self.0);
        let closing = tokio::task::spawn_blocking(move || shared.close_blocking());
        if tokio::time::timeout(within, closing).await.is_err() {
            tracing::warn!("the embedded log is still writing; what it acknowledged is safe");
        }
    }
}
