//! One budget for the queues in front of all workers of a host. librdkafka bounds each partition's
//! queue by a number that is fixed when its client is made, so each set of readers is promised its
//! share then, and gives it back when it goes. Asked by the reader sets.
//!
//! Invariant: promises stay within the host's part for them (`config::MemoryPlan`), but for
//! [`limits::READER_QUEUE_BYTES_MIN`] a partition, without which nothing could be read.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits;

/// What is promised of what there is. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct QueueBudget {
    bytes_max: usize,
    promised: Arc<Mutex<usize>>,
}

/// A set's share; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: QueueBudget,
    promised_bytes: usize,
    /// Most bytes in front of one partition.
    pub(super) partition_bytes_max: usize,
}

impl QueueBudget {
    /// A budget of `bytes_max` for all queues of the host.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            promised: Arc::default(),
        }
    }

    /// A share for a set that reads `partitions`, of at most `partition_bytes_max` each: half of
    /// what is left, so that there is something for those who come later.
    pub(super) fn share(&self, partitions: u32, partition_bytes_max: usize) -> Share {
        let partitions = usize::try_from(partitions.max(1)).unwrap_or(usize::MAX);
        let mut promised = self.promised.lock();
        let left = self.bytes_max.saturating_sub(*promised);
        let partition_bytes_max = (left / 2 / partitions)
            .clamp(
                limits::READER_QUEUE_BYTES_MIN,
                limits::READER_QUEUE_BYTES_MAX,
            )
            .min(partition_bytes_max);
        let promised_bytes = partition_bytes_max.saturating_mul(partitions);
        *promised = promised.saturating_add(promised_bytes);
        Share {
            budget: self.clone(),
            promised_bytes,
            partition_bytes_max,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut promised = self.budget.promised.lock();
        *promised = promised.saturating_sub(self.promised_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stay_within_the_budget_and_come_back() {
        let budget = QueueBudget::new(limits::READER_QUEUES_BYTES_MAX);
        let max = limits::READER_QUEUE_BYTES_MAX;
        let first = budget.share(4, max);
        assert_eq!(first.partition_bytes_max, max);
        let mut shares: Vec<_> = (0..100).map(|_| budget.share(4, max)).collect();
        let floor = limits::READER_QUEUE_BYTES_MIN;
        assert_eq!(shares.last().unwrap().partition_bytes_max, floor);
        let above_floor: usize = shares
            .iter()
            .chain([&first])
            .filter(|share| share.partition_bytes_max > floor)
            .map(|share| share.promised_bytes)
            .sum();
        assert!(above_floor <= limits::READER_QUEUES_BYTES_MAX);
        drop(first);
        shares.clear();
        assert_eq!(*budget.promised.lock(), 0);
    }

    #[test]
    fn many_partitions_share_what_few_would_have() {
        let budget = QueueBudget::new(limits::READER_QUEUES_BYTES_MAX);
        let share = budget.share(64, limits::READER_QUEUE_BYTES_MAX);
        assert!(share.partition_bytes_max * 64 <= limits::READER_QUEUES_BYTES_MAX / 2);
        assert_eq!(budget.share(1, 1_000).partition_bytes_max, 1_000);
    }
}
