//! What a host may hold in memory, part by part, computed from its configuration. Made by `node`,
//! which hands each part to whoever keeps to it, prints the plan at start and shows it in the metrics.
//!
//! Invariant: each part is a bound that somebody enforces; what plugins may take is bounded by their
//! manifests and is not in the plan.

use std::fmt;

use sysinfo::System;

use super::{ByteSize, Config};
use crate::limits;

/// Bytes that each part of a host may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// States of all partitions, hot and changed.
    pub states_bytes: usize,
    /// Of these, states that changed and are not committed; each partition has an equal share, and what others leave.
    pub dirty_states_bytes: usize,
    /// Commits that are being written: each changed state as a batch, in order, and in the store's file.
    pub commits_bytes: usize,
    /// Merges of the stores' files: what they read ahead, and the files that they write.
    pub merges_bytes: usize,
    /// Blocks, indexes and filters of the stores.
    pub block_cache_bytes: usize,
    /// Records that wait in front of the workers.
    pub reader_queues_bytes: usize,
    /// Records that were read and that plugins behind may want.
    pub shared_reads_bytes: usize,
    /// The embedded log's cache, and what it has not written to its tables yet; with Kafka, records
    /// that wait to be written.
    pub log_bytes: usize,
    /// Bodies of requests.
    pub request_bodies_bytes: usize,
}

/// Bytes of states where nobody says how many: a share of the memory that this process may use, by what the
/// machine has and what its control group allows.
pub(super) fn states_of_machine() -> usize {
    let mut machine = System::new();
    machine.refresh_memory();
    let allowed = machine.cgroup_limits().map(|limits| limits.total_memory);
    let bytes = machine.total_memory().min(allowed.unwrap_or(u64::MAX));
    states_of(bytes)
}

fn states_of(memory_bytes: u64) -> usize {
    let share = memory_bytes / limits::STATE_CACHE_MEMORY_SHARE;
    usize::try_from(share).unwrap_or(usize::MAX).clamp(
        limits::STATE_CACHE_BYTES_MIN,
        limits::STATE_CACHE_BYTES_DEFAULT_MAX,
    )
}

impl MemoryPlan {
    /// The plan for a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let states_bytes = config.state.cache_bytes;
        let dirty_states_bytes = states_bytes / 2;
        let log_bytes = if config.kafka.is_some() {
            limits::KAFKA_WRITER_QUEUE_BYTES_MAX
        } else {
            let written = limits::EMBEDDED_CACHE_BYTES + 5 * limits::EMBEDDED_MEMTABLE_BYTES_MAX;
            usize::try_from(written).unwrap_or(usize::MAX) + limits::EMBEDDED_QUEUE_BYTES_MAX
        };
        Self {
            states_bytes,
            dirty_states_bytes,
            commits_bytes: (dirty_states_bytes / 2).max(limits::STATE_COMMITS_BYTES_MIN),
            merges_bytes: limits::STATE_MERGES_CONCURRENT_MAX
                * (limits::STATE_RUN_FILE_BYTES_MAX
                    + limits::STATE_MERGE_COMMITS * limits::STATE_MERGE_READ_BYTES),
            block_cache_bytes: (states_bytes / 4).clamp(
                limits::STATE_BLOCK_CACHE_BYTES_MIN,
                limits::STATE_BLOCK_CACHE_BYTES_MAX,
            ),
            reader_queues_bytes: (states_bytes / 4).clamp(
                limits::READER_QUEUES_BYTES_MIN,
                limits::READER_QUEUES_BYTES_MAX,
            ),
            shared_reads_bytes: (states_bytes / 8).clamp(
                limits::SHARED_READS_BYTES_MIN,
                limits::SHARED_READS_BYTES_MAX,
            ),
            log_bytes,
            request_bodies_bytes: limits::BODIES_BYTES_MAX,
        }
    }

    /// Name and bytes of each part that adds up to the whole.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, usize); 8] {
        [
            ("states", self.states_bytes),
            ("commits", self.commits_bytes),
            ("merges", self.merges_bytes),
            ("block-cache", self.block_cache_bytes),
            ("reader-queues", self.reader_queues_bytes),
            ("shared-reads", self.shared_reads_bytes),
            ("log", self.log_bytes),
            ("request-bodies", self.request_bodies_bytes),
        ]
    }

    /// Bytes of all parts together.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at most:", ByteSize(self.total_bytes()))?;
        for (index, (part, bytes)) in self.parts().into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma} {part} {}", ByteSize(bytes))?;
            if part == "states" {
                write!(f, " (changed {})", ByteSize(self.dirty_states_bytes))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DATA_DEFAULT, Environment, Flags, load};

    fn plan(text: &str) -> MemoryPlan {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("foldhost.toml");
        std::fs::write(&file, text).unwrap();
        let loaded = load(
            Some(&file),
            &Environment::default(),
            &Flags::default(),
            DATA_DEFAULT,
        );
        MemoryPlan::of(&loaded.unwrap().config)
    }

    #[test]
    fn a_small_machine_has_a_small_budget() {
        assert_eq!(states_of(1 << 30), 128 << 20);
        assert_eq!(states_of(64 << 30), limits::STATE_CACHE_BYTES_DEFAULT_MAX);
        assert_eq!(states_of(0), limits::STATE_CACHE_BYTES_MIN);
        let here = states_of_machine();
        assert!(
            (limits::STATE_CACHE_BYTES_MIN..=limits::STATE_CACHE_BYTES_DEFAULT_MAX).contains(&here)
        );
    }

    #[test]
    fn a_small_budget_makes_small_parts() {
        let small = plan("[state]\ncache-bytes = \"64MiB\"");
        assert_eq!(small.states_bytes, 64 << 20);
        assert_eq!(small.dirty_states_bytes, 32 << 20);
        assert_eq!(small.block_cache_bytes, 32 << 20);
        assert!(small.total_bytes() < 500 << 20, "{small}");
        let large = plan("[state]\ncache-bytes = \"4GiB\"");
        assert_eq!(large.reader_queues_bytes, limits::READER_QUEUES_BYTES_MAX);
        assert!(large.total_bytes() > small.total_bytes());
    }

    #[test]
    fn the_log_in_use_is_in_it() {
        let kafka = plan("[kafka]\n\"bootstrap.servers\" = \"localhost:9092\"");
        assert_eq!(kafka.log_bytes, limits::KAFKA_WRITER_QUEUE_BYTES_MAX);
        assert_ne!(plan("").log_bytes, kafka.log_bytes);
    }

    #[test]
    fn it_is_printed_as_one_line() {
        let text = plan("[state]\ncache-bytes = \"64MiB\"").to_string();
        assert!(
            text.contains("states 64MiB (changed 32MiB), commits 16MiB"),
            "{text}"
        );
        assert!(!text.contains('\n'));
    }
}
