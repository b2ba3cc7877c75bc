//! Topics of the embedded log in memory, and how far each partition is durable. Filled when the log
//! is opened and changed by its writer thread; read by everybody else.
//!
//! Invariant: a partition's tail grows only after what lies in front of it is fsynced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use tokio::sync::watch;

use super::format::TopicEntry;
use crate::log::{LogError, NewRecord, Partitioner, Topic};
use crate::types::{Offset, Partition, TopicName, TopicPartition};

/// How far a partition can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// One past the last durable record.
    Open(u64),
    /// The topic was deleted.
    Deleted,
    /// The log was closed.
    Closed,
}

/// One topic. Stays valid for those who hold it after the topic is deleted: its tails say so.
#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) name: TopicName,
    pub(super) entry: TopicEntry,
    tails: Vec<watch::Sender<Tail>>,
    /// How many partitions there are now: more than here, when the topic has grown since.
    partitions: watch::Sender<u32>,
    /// Where the next record without a key goes.
    turn: AtomicU32,
}

impl TopicState {
    /// A topic whose partitions end at `ends`.
    pub(super) fn new(name: TopicName, entry: TopicEntry, ends: &[u64]) -> Self {
        debug_assert_eq!(ends.len(), entry.partitions as usize);
        let tails = ends
            .iter()
            .map(|end| watch::Sender::new(Tail::Open(*end)))
            .collect();
        let partitions = watch::Sender::new(entry.partitions);
        Self {
            name,
            entry,
            tails,
            partitions,
            turn: AtomicU32::new(0),
        }
    }

    /// The same topic with more partitions. Those that it has are shared: who holds the topic of
    /// before reads and writes the same ones.
    pub(super) fn grown(&self, entry: TopicEntry) -> Self {
        let mut tails = self.tails.clone();
        tails.resize_with(entry.partitions as usize, || {
            watch::Sender::new(Tail::Open(0))
        });
        let partitions = self.partitions.clone();
        Self {
            name: self.name.clone(),
            entry,
            tails,
            partitions,
            turn: AtomicU32::new(0),
        }
    }

    /// Tells how many partitions there are, now and whenever the topic grows.
    pub(super) fn watch_partitions(&self) -> watch::Receiver<u32> {
        self.partitions.subscribe()
    }

    /// The topic as the port shows it.
    pub(super) fn describe(&self) -> Topic {
        Topic {
            name: self.name.clone(),
            id: Some(self.entry.id),
            partitions: self.entry.partitions,
        }
    }

    fn place(&self, partition: Partition) -> TopicPartition {
        TopicPartition {
            topic: self.name.clone(),
            partition,
        }
    }

    fn tail_of(&self, partition: Partition) -> Result<&watch::Sender<Tail>, LogError> {
        self.tails
            .get(partition.0 as usize)
            .ok_or_else(|| LogError::UnknownPartition(self.place(partition)))
    }

    /// One past the last durable record of a partition.
    ///
    /// # Errors
    /// [`LogError::UnknownPartition`]; [`LogError::UnknownTopic`] when it was deleted;
    /// [`LogError::Unavailable`] when the log is closed.
    pub(super) fn end(&self, partition: Partition) -> Result<Offset, LogError> {
        self.end_in(*self.tail_of(partition)?.borrow())
    }

    /// As [`end`](Self::end), from a tail that was read.
    pub(super) fn end_in(&self, tail: Tail) -> Result<Offset, LogError> {
        match tail {
            Tail::Open(end) => Ok(Offset(end)),
            Tail::Deleted => Err(LogError::UnknownTopic(self.name.clone())),
            Tail::Closed => Err(closed()),
        }
    }

    /// Tells of every change of a partition's tail.
    ///
    /// # Errors
    /// [`LogError::UnknownPartition`].
    pub(super) fn watch(&self, partition: Partition) -> Result<watch::Receiver<Tail>, LogError> {
        Ok(self.tail_of(partition)?.subscribe())
    }

    /// Moves a tail, unless the log was closed meanwhile.
    fn publish(&self, partition: Partition, end: u64) {
        let tail = self
            .tail_of(partition)
            .expect("the writer stages existing partitions only");
        tail.send_if_modified(|tail| {
            let grows = matches!(tail, Tail::Open(before) if *before < end);
            if grows {
                *tail = Tail::Open(end);
            }
            grows
        });
    }

    /// Sets all tails: the topic is gone, or the log is closed.
    pub(super) fn end_all(&self, tail: Tail) {
        for sender in &self.tails {
            sender.send_replace(tail);
        }
    }

    /// The partition that a record goes to: the one it names, else by its key, else in turn.
    ///
    /// # Errors
    /// [`LogError::UnknownPartition`].
    pub(super) fn choose(&self, record: &NewRecord) -> Result<Partition, LogError> {
        if let Some(partition) = record.partition {
            return self.tail_of(partition).map(|_| partition);
        }
        Ok(match &record.key {
            Some(key) => Partitioner::Murmur2.partition(key, self.entry.partitions),
            None => Partition(self.turn.fetch_add(1, Ordering::Relaxed) % self.entry.partitions),
        })
    }
}

/// The error of everything after a close.
pub(super) fn closed() -> LogError {
    LogError::Unavailable("it is closed".to_owned())
}

/// All topics, by name.
#[derive(Debug, Default)]
pub(super) struct Catalog(RwLock<BTreeMap<TopicName, Arc<TopicState>>>);

impl Catalog {
    /// The topic of this name, if there is one.
    pub(super) fn find(&self, name: &TopicName) -> Option<Arc<TopicState>> {
        self.0.read().get(name).cloned()
    }

    /// The topic of this name.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`].
    pub(super) fn get(&self, name: &TopicName) -> Result<Arc<TopicState>, LogError> {
        self.find(name)
            .ok_or_else(|| LogError::UnknownTopic(name.clone()))
    }

    /// All topics, in order of name.
    pub(super) fn all(&self) -> Vec<Arc<TopicState>> {
        self.0.read().values().cloned().collect()
    }

    /// One past the last durable record of a partition. Whoever has seen a part of a batch in another
    /// partition is told an end behind all of it.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::UnknownPartition`], [`LogError::Unavailable`].
    pub(super) fn end(&self, of: &TopicPartition) -> Result<Offset, LogError> {
        let topics = self.0.read();
        let topic = topics.get(&of.topic);
        let topic = topic.ok_or_else(|| LogError::UnknownTopic(of.topic.clone()))?;
        topic.end(of.partition)
    }

    /// Moves the tails of all partitions that one batch was written to, before an end is asked for again.
    pub(super) fn publish<'a>(
        &self,
        written: impl Iterator<Item = (&'a TopicState, Partition, u64)>,
    ) {
        let _nobody_asks = self.0.write();
        written.for_each(|(topic, partition, end)| topic.publish(partition, end));
    }

    /// Partitions of all topics together.
    pub(super) fn partitions(&self) -> usize {
        self.0
            .read()
            .values()
            .map(|topic| topic.entry.partitions as usize)
            .sum()
    }

    /// Adds a topic, or puts the grown one in place of the one before.
    pub(super) fn insert(&self, topic: Arc<TopicState>) {
        let partitions = topic.entry.partitions;
        self.0
            .write()
            .insert(topic.name.clone(), Arc::clone(&topic));
        topic.partitions.send_replace(partitions);
    }

    /// Removes a topic and tells its readers.
    pub(super) fn remove(&self, name: &TopicName) {
        let removed = self.0.write().remove(name);
        if let Some(topic) = removed {
            topic.end_all(Tail::Deleted);
        }
    }

    /// Tells all readers that the log is closed.
    pub(super) fn close(&self) {
        for topic in self.all() {
            topic.end_all(Tail::Closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn topic(partitions: u32) -> TopicState {
        let entry = TopicEntry {
            number: 1,
            id: [0; 16],
            partitions,
            compact: false,
            created_ms: 0,
        };
        TopicState::new(
            TopicName::new("t").unwrap(),
            entry,
            &vec![0; partitions as usize],
        )
    }

    #[test]
    fn records_go_where_they_say_then_by_key_then_in_turn() {
        let topic = topic(4);
        let named = NewRecord {
            partition: Some(Partition(3)),
            ..NewRecord::default()
        };
        assert_eq!(topic.choose(&named).unwrap(), Partition(3));
        let missing = NewRecord {
            partition: Some(Partition(4)),
            ..NewRecord::default()
        };
        assert!(matches!(
            topic.choose(&missing),
            Err(LogError::UnknownPartition(_))
        ));
        let keyed = NewRecord {
            key: Some(Bytes::from_static(b"21")),
            ..NewRecord::default()
        };
        let expected = Partitioner::Murmur2.partition(b"21", 4);
        assert_eq!(topic.choose(&keyed).unwrap(), expected);
        let turns: Vec<u32> = (0..5)
            .map(|_| topic.choose(&NewRecord::default()).unwrap().0)
            .collect();
        assert_eq!(turns, [0, 1, 2, 3, 0]);
    }

    #[test]
    fn who_has_seen_a_part_of_a_batch_is_told_ends_behind_all_of_it() {
        const BATCHES: u64 = 20_000;
        let catalog = Catalog::default();
        let names = ["a", "b"].map(|name| TopicName::new(name).unwrap());
        for name in &names {
            let mut topic = topic(1);
            topic.name = name.clone();
            catalog.insert(Arc::new(topic));
        }
        let topics = names.clone().map(|name| catalog.get(&name).unwrap());
        let last = TopicPartition {
            topic: names[1].clone(),
            partition: Partition(0),
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for end in 1..=BATCHES {
                    let written = topics.iter().map(|topic| (&**topic, Partition(0), end));
                    catalog.publish(written);
                }
            });
            let mut seen = Offset(0);
            while seen < Offset(BATCHES) {
                seen = topics[0].end(Partition(0)).unwrap();
                assert!(catalog.end(&last).unwrap() >= seen);
            }
        });
    }

    #[test]
    fn a_tail_never_goes_back_and_a_deleted_topic_stays_deleted() {
        let topic = topic(1);
        topic.publish(Partition(0), 5);
        topic.publish(Partition(0), 3);
        assert_eq!(topic.end(Partition(0)).unwrap(), Offset(5));
        topic.end_all(Tail::Deleted);
        topic.publish(Partition(0), 9);
        assert!(matches!(
            topic.end(Partition(0)),
            Err(LogError::UnknownTopic(_))
        ));
    }
}
