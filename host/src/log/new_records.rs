//! Records that one transaction writes, as columns: so many are made and written in a second that a few allocations
//! for each would be most of what a record costs.
//!
//! Filled by whoever publishes, read by the adapters. Reused: [`NewRecords::clear`] keeps memory for some times what
//! there was, so that one large transaction does not hold its memory for good.

use std::ops::Range;

use super::{HeaderRef, NewRecord, RecordBatch, RecordRef};
use crate::types::{Offset, Partition, TopicName};

/// Records in the order in which they are to be written.
#[derive(Debug, Default)]
pub struct NewRecords {
    /// Their offsets only number them.
    records: RecordBatch,
    runs: Vec<Run>,
}

/// Records, one behind the other, that go to the same place.
#[derive(Debug)]
struct Run {
    topic: TopicName,
    partition: Option<Partition>,
    /// One past the last; it begins where the one before ends.
    until: usize,
}

/// Where records go that lie one behind the other.
#[derive(Debug, Clone)]
pub struct Destination<'a> {
    /// Their topic.
    pub topic: &'a TopicName,
    /// `None` = each by its key.
    pub partition: Option<Partition>,
    /// Which records, from 0.
    pub records: Range<usize>,
}

impl NewRecords {
    /// Appends a copy of a record, for the partition that its key says.
    pub fn push<'h>(
        &mut self,
        topic: &TopicName,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = HeaderRef<'h>>,
    ) {
        let number = self.number_next(topic, None);
        self.records.push(number, timestamp_ms, key, value, headers);
    }

    /// Appends a copy of a record; `now_ms` is the time of one that has none.
    pub fn push_new(&mut self, topic: &TopicName, record: &NewRecord, now_ms: i64) {
        let headers = record.headers.iter();
        let number = self.number_next(topic, record.partition);
        self.records.push(
            number,
            record.timestamp_ms.unwrap_or(now_ms),
            record.key.as_deref(),
            record.value.as_deref(),
            headers.map(|(name, value)| (&**name, value.as_deref())),
        );
    }

    /// The number of the record that is appended next, and goes there.
    fn number_next(&mut self, topic: &TopicName, partition: Option<Partition>) -> Offset {
        let number = self.records.len();
        let until = number + 1;
        match self.runs.last_mut() {
            Some(run) if run.topic == *topic && run.partition == partition => run.until = until,
            _ => self.runs.push(Run {
                topic: topic.clone(),
                partition,
                until,
            }),
        }
        Offset(number as u64)
    }

    /// How many records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of keys, values and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.bytes()
    }

    /// The record at `index`, from 0; its offset is that index.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn get(&self, index: usize) -> RecordRef<'_> {
        self.records.get(index)
    }

    /// Where all of them go, in order.
    pub fn destinations(&self) -> impl Iterator<Item = Destination<'_>> {
        let mut from = 0;
        self.runs.iter().map(move |run| Destination {
            topic: &run.topic,
            partition: run.partition,
            records: std::mem::replace(&mut from, run.until)..run.until,
        })
    }

    /// The topic of the record at `index`, from 0.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn topic_of(&self, index: usize) -> &TopicName {
        let run = self.runs.iter().find(|run| index < run.until);
        &run.expect("it is one of them").topic
    }

    /// Takes all records out and keeps memory for as many, and for some times as many at most.
    pub fn clear(&mut self) {
        self.records.clear_and_shrink();
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_their_order_and_know_where_they_go() {
        let (one, other) = (
            TopicName::new("one").unwrap(),
            TopicName::new("other").unwrap(),
        );
        let mut records = NewRecords::default();
        records.push(&one, 5, Some(b"k"), None, [("h", Some(&b"v"[..]))]);
        records.push(&one, 6, Some(b""), Some(b"value"), []);
        let placed = NewRecord {
            value: Some("x".into()),
            partition: Some(Partition(3)),
            ..NewRecord::default()
        };
        records.push_new(&other, &placed, 7);
        records.push_new(&other, &NewRecord::default(), 8);
        let found: Vec<_> = records
            .destinations()
            .map(|it| (it.topic.as_str(), it.partition, it.records))
            .collect();
        let expected = [
            ("one", None, 0..2),
            ("other", Some(Partition(3)), 2..3),
            ("other", None, 3..4),
        ];
        assert_eq!(found, expected);
        let first = records.get(0);
        assert_eq!((first.key, first.value), (Some(&b"k"[..]), None));
        assert_eq!(first.headers().next(), Some(("h", Some(&b"v"[..]))));
        assert_eq!(records.get(1).key, Some(&b""[..]));
        let times: Vec<_> = (0..4).map(|it| records.get(it).timestamp_ms).collect();
        assert_eq!(times, [5, 6, 7, 8]);
        assert_eq!(records.topic_of(1), &one);
        assert_eq!(records.topic_of(3), &other);
        records.clear();
        assert!(records.is_empty() && records.destinations().next().is_none());
    }
}
