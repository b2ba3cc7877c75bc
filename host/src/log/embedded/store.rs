//! The fjall store of the embedded log: typed reads of chunks, and batches that are durable when
//! committed. The only file that reads and writes entries; `folder` opens it.
//!
//! Invariant: a batch is fsynced before anything of it can be read (fjall writes its journal, syncs
//! it, and only then inserts into memory).

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode, Readable as _, UserValue};

use super::folder;
use super::format::{self, ChunkHeader, Damaged, TopicEntry};
use crate::log::LogError;

/// The store of a locked folder. Dropping it closes the store and then unlocks the folder.
pub(super) struct Store {
    database: Database,
    keyspace: Keyspace,
    // Behind the others: fields drop in order, and the folder must stay locked until fjall is done.
    _lock: File,
}

/// A chunk as it is stored.
#[derive(Debug, Clone)]
pub(super) struct StoredChunk {
    pub(super) base: u64,
    pub(super) header: ChunkHeader,
    pub(super) value: UserValue,
}

/// Writes that happen together or not at all.
pub(super) struct Batch(OwnedWriteBatch);

/// What is known about topics and writers when the log is opened.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) topics: Vec<(String, TopicEntry)>,
    pub(super) writers: Vec<(String, u64)>,
    /// Deleted topics whose chunks are still there.
    pub(super) doomed: Vec<u32>,
    /// Number of the next topic.
    pub(super) topic_next: u32,
}

impl Store {
    /// Locks the folder and opens its store.
    ///
    /// # Errors
    /// As [`folder::lock`] and [`folder::open_store`].
    pub(super) fn open(path: &Path) -> Result<Self, LogError> {
        let lock = folder::lock(path)?;
        let (database, keyspace) = folder::open_store(path)?;
        Ok(Self {
            database,
            keyspace,
            _lock: lock,
        })
    }

    /// An empty batch.
    pub(super) fn batch(&self) -> Batch {
        // fdatasync: the journal's size is the only metadata that matters, and it covers that.
        Batch(
            self.database
                .batch()
                .durability(Some(PersistMode::SyncData)),
        )
    }

    /// Writes a batch; on return it is durable and visible.
    ///
    /// # Errors
    /// Any error is final: fjall takes no more writes after it. [`LogError::Unavailable`] when
    /// that was so before and nothing was written, else [`LogError::OutcomeUnknown`].
    pub(super) fn commit(&self, batch: Batch) -> Result<(), LogError> {
        batch.0.commit().map_err(|error| match error {
            fjall::Error::Poisoned => store_error("writing the log", &error),
            _ => LogError::OutcomeUnknown(message(store_error("writing the log", &error))),
        })
    }

    /// Whether the store still takes writes: false after a failed write, its own background work
    /// included.
    ///
    /// # Errors
    /// Says what failed.
    pub(super) fn check(&self) -> Result<(), LogError> {
        self.database
            .persist(PersistMode::Buffer)
            .map_err(|error| store_error("flushing the log", &error))
    }

    /// Topics and writers.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], [`LogError::Unavailable`].
    pub(super) fn recover(&self) -> Result<Recovered, LogError> {
        let mut recovered = Recovered::default();
        self.each(format::TOPIC_PREFIX, |rest, value| {
            let name = std::str::from_utf8(rest).map_err(|_| Damaged::Content("name"))?;
            recovered
                .topics
                .push((name.to_owned(), TopicEntry::decode(value)?));
            Ok(())
        })?;
        self.each(format::WRITER_PREFIX, |rest, value| {
            let id = std::str::from_utf8(rest).map_err(|_| Damaged::Content("id"))?;
            recovered
                .writers
                .push((id.to_owned(), format::decode_number(value)?));
            Ok(())
        })?;
        self.each(format::DOOMED_PREFIX, |rest, _| {
            recovered.doomed.push(format::doomed_topic_of(rest)?);
            Ok(())
        })?;
        self.each(format::TOPIC_COUNTER_KEY, |_, value| {
            recovered.topic_next = u32::try_from(format::decode_number(value)?)
                .map_err(|_| Damaged::Content("counter of topics"))?;
            Ok(())
        })?;
        Ok(recovered)
    }

    /// Calls `with` for each entry whose key starts with `prefix`: the rest of its key, its value.
    fn each(
        &self,
        prefix: &[u8],
        mut with: impl FnMut(&[u8], &[u8]) -> Result<(), Damaged>,
    ) -> Result<(), LogError> {
        for entry in self.database.snapshot().prefix(&self.keyspace, prefix) {
            let (key, value) = entry
                .into_inner()
                .map_err(|error| store_error("reading the log", &error))?;
            with(&key[prefix.len()..], &value)
                .map_err(|damaged| LogError::Corrupt(format!("an entry of the log: {damaged}")))?;
        }
        Ok(())
    }

    /// Offset behind the last record of a partition, 0 if it has none.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], [`LogError::Unavailable`].
    pub(super) fn partition_end(&self, topic: u32, partition: u32) -> Result<u64, LogError> {
        let last = self.chunk_at_or_before(topic, partition, u64::MAX)?;
        Ok(last.map_or(0, |chunk| chunk.header.last + 1))
    }

    /// The chunk with the greatest base offset that is not above `offset`.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], [`LogError::Unavailable`].
    pub(super) fn chunk_at_or_before(
        &self,
        topic: u32,
        partition: u32,
        offset: u64,
    ) -> Result<Option<StoredChunk>, LogError> {
        let from = format::chunk_key(topic, partition, 0);
        let to = format::chunk_key(topic, partition, offset);
        let mut found = self.database.snapshot().range(&self.keyspace, from..=to);
        found.next_back().map(chunk_of).transpose()
    }

    /// Chunks with a base offset in `from..to`, in order.
    pub(super) fn chunks(
        &self,
        topic: u32,
        partition: u32,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = Result<StoredChunk, LogError>> + use<> {
        let from = format::chunk_key(topic, partition, from);
        let to = format::chunk_key(topic, partition, to);
        self.database
            .snapshot()
            .range(&self.keyspace, from..to)
            .map(chunk_of)
    }

    /// Up to `count_max` keys of a topic's chunks.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub(super) fn chunk_keys(
        &self,
        topic: u32,
        count_max: usize,
    ) -> Result<Vec<fjall::UserKey>, LogError> {
        self.database
            .snapshot()
            .prefix(&self.keyspace, format::topic_chunks_prefix(topic))
            .take(count_max)
            .map(|entry| {
                entry
                    .key()
                    .map_err(|error| store_error("reading the log", &error))
            })
            .collect()
    }

    /// Adds an entry to a batch.
    pub(super) fn insert(&self, batch: &mut Batch, key: &[u8], value: Vec<u8>) {
        batch.0.insert(&self.keyspace, key, value);
    }

    /// Adds the removal of an entry to a batch.
    pub(super) fn remove(&self, batch: &mut Batch, key: &[u8]) {
        batch.0.remove(&self.keyspace, key);
    }
}

fn chunk_of(entry: fjall::Guard) -> Result<StoredChunk, LogError> {
    let (key, value) = entry
        .into_inner()
        .map_err(|error| store_error("reading the log", &error))?;
    format::base_of(&key)
        .and_then(|base| Ok((base, ChunkHeader::decode(base, &value)?)))
        .map(|(base, header)| StoredChunk {
            base,
            header,
            value,
        })
        .map_err(|damaged| LogError::Corrupt(format!("a chunk of records: {damaged}")))
}

/// What an error says, without its kind.
pub(super) fn message(error: LogError) -> String {
    match error {
        LogError::Unavailable(text)
        | LogError::OutcomeUnknown(text)
        | LogError::Rejected(text)
        | LogError::Corrupt(text) => text,
        other => other.to_string(),
    }
}

/// An error of the file system, by what can be done about it.
pub(super) fn io_error(doing: &str, error: &std::io::Error) -> LogError {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => LogError::Rejected(format!(
            "{doing}: {error}: let the host write there, or give it another data folder"
        )),
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists | ErrorKind::IsADirectory => {
            LogError::Rejected(format!(
                "{doing}: {error}: give the host another data folder"
            ))
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            LogError::Unavailable(format!("{doing}: {error}: free space, then start again"))
        }
        _ => LogError::Unavailable(format!("{doing}: {error}")),
    }
}

/// An error of the store, by what can be done about it.
pub(super) fn store_error(doing: &str, error: &fjall::Error) -> LogError {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return io_error(doing, io);
        }
        source = cause.source();
    }
    match error {
        fjall::Error::Poisoned => LogError::Unavailable(format!(
            "{doing}: an earlier write to the folder failed: see to its disk (space, rights, \
             health), then start again"
        )),
        fjall::Error::Locked => LogError::Rejected(format!(
            "{doing}: another process holds the store: stop it, or use another data folder"
        )),
        fjall::Error::InvalidVersion(_) => LogError::Rejected(format!(
            "{doing}: the store is of another version: start the foldhost that wrote it, or use \
             another data folder"
        )),
        damage => LogError::Corrupt(format!(
            "{doing}: {damage}: restore the folder from a backup"
        )),
    }
}
