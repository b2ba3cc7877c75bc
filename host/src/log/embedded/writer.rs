//! The one thread that writes: it takes everything that is queued, stages it in one atomic batch,
//! syncs once and acknowledges all of it (group commit). Started by `EmbeddedLog::open`.
//!
//! Invariants: offsets are given out here only; nothing is published or acknowledged before its
//! fsync; after a failed write nothing is written any more until the log is opened again, because
//! what a failed fsync left on the disk cannot be known (Rebello et al., "Can Applications Recover
//! from fsync Failures?", USENIX ATC 2020).

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::catalog::{Catalog, TopicState};
use super::chores::Chores;
use super::format::{self, Chunk, TopicEntry};
use super::prepare::Piece;
use super::store::{Batch, Recovered, Store, message};
use crate::clock::Clock;
use crate::limits;
use crate::log::{Cleanup, LogError, NewTopic, Topic};
use crate::types::{Offset, Partition, TopicName};

/// Whether the log still writes.
#[derive(Debug, Default)]
pub(super) struct Health(OnceLock<String>);

impl Health {
    /// Nothing, as long as it does.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] with the failure that stopped it.
    pub(super) fn check(&self) -> Result<(), LogError> {
        match self.0.get() {
            None => Ok(()),
            Some(reason) => Err(LogError::Unavailable(format!(
                "it stopped after a failed write, until the host is started again ({reason})"
            ))),
        }
    }

    /// Stops the log for good; the first reason stays.
    pub(super) fn stop(&self, error: &LogError) {
        if self.0.set(message(error.clone())).is_ok() {
            tracing::error!(%error, "the embedded log stops taking writes");
        }
    }
}

/// Answer to a request.
pub(super) type Reply<T> = oneshot::Sender<Result<T, LogError>>;

/// What the writer thread is asked to do.
#[derive(Debug)]
pub(super) enum Request {
    /// Write records; answers with the offset of each piece's first record.
    Append(Append),
    /// Give a transactional id its next epoch, which fences the writers before it.
    OpenWriter { id: Arc<str>, reply: Reply<u64> },
    /// Create, grow or delete a topic.
    ChangeTopics(TopicChange),
}

/// A change of the topics there are.
#[derive(Debug)]
pub(super) enum TopicChange {
    /// Create one.
    Create {
        topic: NewTopic,
        reply: Reply<Topic>,
    },
    /// Give one more partitions.
    Grow {
        name: TopicName,
        partitions: u32,
        reply: Reply<Topic>,
    },
    /// Delete one.
    Delete { name: TopicName, reply: Reply<()> },
}

/// Records that are to be written together.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) pieces: Vec<Piece>,
    /// Transactional id and epoch that must still be its newest.
    pub(super) fence: Option<(Arc<str>, u64)>,
    pub(super) reply: Reply<Vec<Offset>>,
    /// Room in the queue, given back when the append is answered.
    pub(super) _room: OwnedSemaphorePermit,
}

/// State of the writer thread.
pub(super) struct Writer {
    store: Arc<Store>,
    catalog: Arc<Catalog>,
    health: Arc<Health>,
    clock: Clock,
    requests: mpsc::Receiver<Request>,
    /// Newest epoch of each transactional id.
    epochs: HashMap<Arc<str>, u64>,
    topic_next: u32,
    chores: Chores,
}

/// Requests that share a batch and its fsync.
struct Group {
    batch: Batch,
    bytes: usize,
    entries: usize,
    open: HashMap<(u32, Partition), OpenChunk>,
    appends: Vec<(Append, Vec<Offset>)>,
    writers: Vec<(Reply<u64>, u64)>,
}

/// The chunk of a partition that the group is filling.
struct OpenChunk {
    topic: Arc<TopicState>,
    base: u64,
    chunk: Chunk,
    /// Bytes of the partition in this group.
    bytes: usize,
}

impl Writer {
    /// A writer that goes on from what was recovered.
    pub(super) fn new(
        store: Arc<Store>,
        catalog: Arc<Catalog>,
        health: Arc<Health>,
        clock: Clock,
        requests: mpsc::Receiver<Request>,
        recovered: Recovered,
    ) -> Self {
        let chores = Chores::new(&recovered.doomed, &catalog.all());
        let epochs = recovered
            .writers
            .into_iter()
            .map(|(id, epoch)| (Arc::from(id), epoch))
            .collect();
        let topic_next = recovered.topic_next;
        Self {
            store,
            catalog,
            health,
            clock,
            requests,
            epochs,
            topic_next,
            chores,
        }
    }

    /// Serves requests until all senders are gone and the queue is empty.
    pub(super) fn run(mut self) {
        while let Some(request) = self.next_request() {
            let mut group = Group::new(&self.store);
            self.stage(request, &mut group);
            while group.bytes < limits::EMBEDDED_GROUP_BYTES_MAX {
                match self.requests.try_recv() {
                    Ok(request) => self.stage(request, &mut group),
                    Err(_) => break,
                }
            }
            self.finish(group);
            // One bounded step after each group, so that neither starves the other.
            self.chore();
        }
    }

    /// Waits for a request; does chores meanwhile.
    fn next_request(&mut self) -> Option<Request> {
        while !self.chores.is_empty() {
            match self.requests.try_recv() {
                Ok(request) => return Some(request),
                Err(mpsc::error::TryRecvError::Empty) => self.chore(),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
            }
        }
        self.requests.blocking_recv()
    }

    fn chore(&mut self) {
        if self.health.check().is_err() {
            self.chores.clear();
        }
        if let Err(error) = self.chores.step(&self.store) {
            tracing::warn!(%error, "background work of the embedded log failed; it is left out");
            if let Err(error) = self.store.check() {
                self.health.stop(&error);
            }
        }
    }

    fn stage(&mut self, request: Request, group: &mut Group) {
        match request {
            Request::Append(append) => self.stage_append(append, group),
            Request::OpenWriter { id, reply } => self.stage_writer(&id, reply, group),
            Request::ChangeTopics(change) => {
                // Between groups: what is staged before uses the topics of before.
                self.finish(std::mem::replace(group, Group::new(&self.store)));
                self.change_topics(change);
            }
        }
    }

    fn change_topics(&mut self, change: TopicChange) {
        // A caller that went away needs no answer.
        match change {
            TopicChange::Create { topic, reply } => drop(reply.send(self.create(&topic))),
            TopicChange::Grow {
                name,
                partitions,
                reply,
            } => {
                drop(reply.send(self.grow(&name, partitions)));
            }
            TopicChange::Delete { name, reply } => drop(reply.send(self.delete(&name))),
        }
    }

    fn stage_append(&self, mut append: Append, group: &mut Group) {
        if let Err(error) = self.admit(&append) {
            let _ = append.reply.send(Err(error));
            return;
        }
        let pieces = std::mem::take(&mut append.pieces);
        let bases = pieces
            .into_iter()
            .map(|piece| group.place(&self.store, piece))
            .collect();
        group.appends.push((append, bases));
    }

    /// Checks what may have changed since the append was prepared.
    fn admit(&self, append: &Append) -> Result<(), LogError> {
        self.health.check()?;
        if let Some((id, epoch)) = &append.fence {
            let newest = self.epochs.get(id).copied().unwrap_or(0);
            if newest != *epoch {
                return Err(LogError::Fenced(format!(
                    "the writer '{id}' has epoch {epoch}, and epoch {newest} was opened since"
                )));
            }
        }
        append
            .pieces
            .iter()
            .try_for_each(|piece| piece.topic.end(piece.partition).map(drop))
    }

    fn stage_writer(&mut self, id: &Arc<str>, reply: Reply<u64>, group: &mut Group) {
        if let Err(error) = self.health.check() {
            let _ = reply.send(Err(error));
            return;
        }
        let epoch = self.epochs.entry(Arc::clone(id)).or_insert(0);
        *epoch += 1;
        let value = format::encode_number(*epoch);
        group.insert(&self.store, &format::writer_key(id), value);
        group.writers.push((reply, *epoch));
    }

    /// Writes a group, then publishes and acknowledges it.
    fn finish(&mut self, mut group: Group) {
        group.close_chunks(&self.store);
        let Group {
            batch,
            entries,
            open,
            appends,
            writers,
            ..
        } = group;
        let outcome = if entries == 0 {
            Ok(())
        } else {
            self.store.commit(batch)
        };
        if let Err(error) = &outcome {
            self.health.stop(error);
        } else {
            let written = open.iter();
            self.catalog
                .publish(written.map(|((_, partition), it)| (&*it.topic, *partition, it.base)));
            for ((_, partition), written) in &open {
                self.chores.grown(&written.topic, *partition, written.bytes);
            }
        }
        for (append, bases) in appends {
            let _ = append.reply.send(outcome.clone().map(|()| bases));
        }
        for (reply, epoch) in writers {
            let _ = reply.send(outcome.clone().map(|()| epoch));
        }
    }

    /// Commits a batch of its own.
    fn write(&self, batch: Batch) -> Result<(), LogError> {
        self.store
            .commit(batch)
            .inspect_err(|error| self.health.stop(error))
    }

    fn create(&mut self, wanted: &NewTopic) -> Result<Topic, LogError> {
        self.health.check()?;
        if self.catalog.find(&wanted.name).is_some() {
            return Err(LogError::TopicExists(wanted.name.clone()));
        }
        self.check_partitions(wanted.partitions, wanted.partitions)?;
        let number = self.topic_next;
        let after = number
            .checked_add(1)
            .ok_or_else(|| LogError::Rejected("the numbers of topics are used up".to_owned()))?;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.clock.random().to_be_bytes());
        id[8..].copy_from_slice(&self.clock.random().to_be_bytes());
        let entry = TopicEntry {
            number,
            id,
            partitions: wanted.partitions,
            compact: matches!(wanted.cleanup, Cleanup::Compact | Cleanup::CompactSoon),
            created_ms: self.clock.now_ms(),
        };
        let mut batch = self.store.batch();
        let key = format::topic_key(wanted.name.as_str());
        self.store.insert(&mut batch, &key, entry.encode());
        let counter = format::encode_number(u64::from(after));
        self.store
            .insert(&mut batch, format::TOPIC_COUNTER_KEY, counter);
        self.write(batch)?;
        self.topic_next = after;
        let ends = vec![0; wanted.partitions as usize];
        let topic = Arc::new(TopicState::new(wanted.name.clone(), entry, &ends));
        let described = topic.describe();
        self.catalog.insert(topic);
        Ok(described)
    }

    fn grow(&self, name: &TopicName, partitions: u32) -> Result<Topic, LogError> {
        self.health.check()?;
        let topic = self.catalog.get(name)?;
        let before = topic.entry.partitions;
        if partitions <= before {
            return Ok(topic.describe());
        }
        self.check_partitions(partitions, partitions - before)?;
        let entry = TopicEntry {
            partitions,
            ..topic.entry.clone()
        };
        let mut batch = self.store.batch();
        self.store.insert(
            &mut batch,
            &format::topic_key(name.as_str()),
            entry.encode(),
        );
        self.write(batch)?;
        let grown = Arc::new(topic.grown(entry));
        let described = grown.describe();
        self.catalog.insert(grown);
        Ok(described)
    }

    fn check_partitions(&self, wanted: u32, added: u32) -> Result<(), LogError> {
        if wanted == 0 || wanted > limits::PARTITIONS_MAX {
            return Err(LogError::Rejected(format!(
                "{wanted} partitions: a topic has 1 to {}",
                limits::PARTITIONS_MAX
            )));
        }
        let total = self.catalog.partitions() + added as usize;
        if total > limits::EMBEDDED_PARTITIONS_MAX {
            return Err(LogError::Rejected(format!(
                "{total} partitions in all topics together, and the embedded log holds {}: delete \
                 topics, or use Kafka",
                limits::EMBEDDED_PARTITIONS_MAX
            )));
        }
        Ok(())
    }

    fn delete(&mut self, name: &TopicName) -> Result<(), LogError> {
        self.health.check()?;
        let number = self.catalog.get(name)?.entry.number;
        let mut batch = self.store.batch();
        self.store
            .remove(&mut batch, &format::topic_key(name.as_str()));
        self.store.insert(
            &mut batch,
            &format::doomed_key(number),
            format::encode_number(0),
        );
        self.write(batch)?;
        self.catalog.remove(name);
        self.chores.doom(number);
        Ok(())
    }
}

impl Group {
    fn new(store: &Store) -> Self {
        Self {
            batch: store.batch(),
            bytes: 0,
            entries: 0,
            open: HashMap::new(),
            appends: Vec::new(),
            writers: Vec::new(),
        }
    }

    fn insert(&mut self, store: &Store, key: &[u8], value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.entries += 1;
        store.insert(&mut self.batch, key, value);
    }

    /// Adds a piece to the chunk of its partition; returns the offset of its first record.
    fn place(&mut self, store: &Store, piece: Piece) -> Offset {
        let Piece {
            topic,
            partition,
            chunk,
        } = piece;
        let place = (topic.entry.number, partition);
        let end = topic.end(partition).map_or(0, |end| end.0);
        let open = self.open.entry(place).or_insert_with(|| OpenChunk {
            topic,
            base: end,
            chunk: Chunk::with_capacity(0),
            bytes: 0,
        });
        open.bytes += chunk.bytes();
        let full = open.chunk.bytes() + chunk.bytes() > limits::EMBEDDED_CHUNK_BYTES_MAX;
        let closed = if full { open.close(place) } else { None };
        let at = open.base + u64::from(open.chunk.count());
        open.chunk.join(chunk);
        if let Some((key, value)) = closed {
            self.insert(store, &key, value);
        }
        Offset(at)
    }

    fn close_chunks(&mut self, store: &Store) {
        let mut open = std::mem::take(&mut self.open);
        for (place, chunk) in &mut open {
            if let Some((key, value)) = chunk.close(*place) {
                self.insert(store, &key, value);
            }
        }
        self.open = open;
    }
}

impl OpenChunk {
    /// The chunk as an entry, if it has records; the next one starts behind it.
    fn close(&mut self, (topic, partition): (u32, Partition)) -> Option<([u8; 17], Vec<u8>)> {
        let chunk = std::mem::replace(&mut self.chunk, Chunk::with_capacity(0));
        if chunk.count() == 0 {
            return None;
        }
        let key = format::chunk_key(topic, partition.0, self.base);
        self.base += u64::from(chunk.count());
        Some((key, chunk.into_value()))
    }
}
