//! Where a record is: partition, offset, and both with the topic.

use std::fmt;

use super::TopicName;

/// Number of a partition of a topic, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Partition(pub u32);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a record in its partition, from 0; strictly increasing, not contiguous (compaction
/// and transaction markers leave gaps).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The smallest offset that can follow this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Name of the topic.
    pub topic: TopicName,
    /// Number of the partition.
    pub partition: Partition,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// One record: `topic/partition@offset`, as in `Foldhost-Min-Position: flights/2@77`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordPosition {
    /// Name of the topic.
    pub topic: TopicName,
    /// Number of the partition.
    pub partition: Partition,
    /// Number of the record.
    pub offset: Offset,
}

impl fmt::Display for RecordPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// A position that is not written `topic/partition@offset`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a position: write topic/partition@offset, as in flights/2@77")]
pub struct InvalidPosition(pub String);

impl std::str::FromStr for RecordPosition {
    type Err = InvalidPosition;
    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let parse = || {
            let (topic, rest) = text.rsplit_once('/')?;
            let (partition, offset) = rest.split_once('@')?;
            Some(Self {
                topic: TopicName::new(topic).ok()?,
                partition: Partition(partition.parse().ok()?),
                offset: Offset(offset.parse().ok()?),
            })
        };
        parse().ok_or_else(|| InvalidPosition(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_position_reads_back() {
        let position: RecordPosition = "flights.v1/2@77".parse().unwrap();
        assert_eq!(position.to_string(), "flights.v1/2@77");
        for bad in [
            "",
            "flights",
            "flights/2",
            "flights/x@1",
            "flights/1@-1",
            "/1@1",
        ] {
            assert!(bad.parse::<RecordPosition>().is_err(), "{bad}");
        }
    }
}
