//! Every bound in one place, with the relations between them asserted at compile time.
//!
//! A name ends in its unit and in `MAX`, `MIN` or `DEFAULT`.

use std::time::Duration;

/// Longest plugin or cluster name, in bytes.
pub const NAME_LENGTH_MAX: usize = 64;
/// Longest topic name, in bytes (Kafka's own bound).
pub const TOPIC_NAME_LENGTH_MAX: usize = 249;
/// Longest key of a record, in bytes.
pub const KEY_BYTES_MAX: usize = 32 * 1024;
/// Largest record that is taken over HTTP by default, key, value and headers together.
pub const RECORD_BYTES_DEFAULT: usize = 1024 * 1024;
/// Largest record that any setting allows.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most partitions of one topic.
pub const PARTITIONS_MAX: u32 = 1_024;
/// Partitions of a topic that is created without saying how many.
pub const PARTITIONS_DEFAULT: u32 = 4;

/// Most events in one call into a plugin.
pub const BATCH_EVENTS_MAX: usize = 4_096;
/// Most bytes of keys, values and headers in one call into a plugin, unless a single record is larger.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of states that go into one call, unless a single state is larger.
pub const BATCH_STATE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most bytes that wait in front of one partition's worker.
pub const READER_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most bytes that wait in front of all workers of a host.
pub const READER_QUEUES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Largest component.
pub const COMPONENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest manifest inside a component.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024;
/// Linear memory of one instance, unless the manifest says otherwise.
pub const PLUGIN_MEMORY_BYTES_DEFAULT: usize = 64 * 1024 * 1024;
/// Most linear memory that a manifest may ask for.
pub const PLUGIN_MEMORY_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Fuel of one call, unless the manifest says otherwise: about 0.1 s.
pub const PLUGIN_FUEL_DEFAULT: u64 = 200_000_000;
/// Most fuel that a manifest may ask for one call.
pub const PLUGIN_FUEL_MAX: u64 = 100_000_000_000;
/// Largest state of one key, unless the manifest says otherwise.
pub const STATE_BYTES_DEFAULT: usize = 1024 * 1024;
/// Largest state of one key that a manifest may ask for.
pub const STATE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest answer of a query, unless the manifest says otherwise.
pub const ANSWER_BYTES_DEFAULT: usize = 4 * 1024 * 1024;
/// Largest answer of a query that a manifest may ask for.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Wall-clock bound on one call, a watchdog only: fuel decides outcomes.
pub const PLUGIN_CALL_MAX: Duration = Duration::from_secs(30);
/// Log lines of one plugin in a second, beyond which they are counted and dropped.
pub const PLUGIN_LOG_LINES_PER_SECOND_MAX: u32 = 20;
/// Longest log line of a plugin, in bytes.
pub const PLUGIN_LOG_LINE_BYTES_MAX: usize = 4 * 1024;

/// Commit interval of a view, unless the manifest says otherwise.
pub const COMMIT_INTERVAL_DEFAULT: Duration = Duration::from_secs(2);
/// Shortest commit interval that a manifest may ask for.
pub const COMMIT_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Longest commit interval that a manifest may ask for.
pub const COMMIT_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Bytes of changed states in one partition that force a commit.
pub const DIRTY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of states that all partitions of a host keep in memory by default.
pub const STATE_CACHE_BYTES_DEFAULT: usize = 256 * 1024 * 1024;

/// Bytes that are read and thrown away so that a client sees the 413 for its too large body.
pub const BODY_DRAIN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest body of an append by default.
pub const APPEND_BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most records in one append.
pub const APPEND_RECORDS_MAX: usize = 100_000;
/// Most keys or records on one page.
pub const PAGE_ITEMS_MAX: usize = 1_000;
/// Keys or records on a page unless the request says otherwise.
pub const PAGE_ITEMS_DEFAULT: usize = 100;
/// Longest wait that `Prefer: wait=` may ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Wait of a query with `Foldhost-Min-Position`, unless `Prefer: wait=` says otherwise.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// Requests that are served at the same time; more wait in the listener's backlog.
pub const REQUESTS_CONCURRENT_MAX: usize = 4_096;

/// Consumer group session: a killed host's partitions move after it.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// Consumer group heartbeat.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// How long a revoked partition may take to commit before the assignment goes on without it.
pub const REVOKE_COMMIT_MAX: Duration = Duration::from_secs(10);
/// First pause before something that failed is tried again.
pub const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause before something that failed is tried again.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a clean stop may take before the process ends anyway; nothing is lost by it.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(20);

const _: () = {
    assert!(BATCH_BYTES_MAX <= READER_QUEUE_BYTES_MAX);
    assert!(READER_QUEUE_BYTES_MAX <= READER_QUEUES_BYTES_MAX);
    assert!(RECORD_BYTES_DEFAULT <= RECORD_BYTES_MAX);
    assert!(RECORD_BYTES_DEFAULT <= APPEND_BODY_BYTES_MAX);
    assert!(APPEND_BODY_BYTES_MAX <= BODY_DRAIN_BYTES_MAX);
    assert!(KEY_BYTES_MAX < RECORD_BYTES_DEFAULT);
    assert!(STATE_BYTES_DEFAULT <= STATE_BYTES_MAX);
    assert!(STATE_BYTES_DEFAULT <= BATCH_STATE_BYTES_MAX);
    assert!(STATE_BYTES_MAX <= DIRTY_BYTES_MAX);
    assert!(ANSWER_BYTES_DEFAULT <= ANSWER_BYTES_MAX);
    assert!(PLUGIN_MEMORY_BYTES_DEFAULT <= PLUGIN_MEMORY_BYTES_MAX);
    // A call copies a batch and its states in and out of the sandbox.
    assert!(2 * (BATCH_BYTES_MAX + BATCH_STATE_BYTES_MAX) < PLUGIN_MEMORY_BYTES_DEFAULT);
    assert!(PLUGIN_FUEL_DEFAULT <= PLUGIN_FUEL_MAX);
    assert!(COMMIT_INTERVAL_MIN.as_millis() < COMMIT_INTERVAL_DEFAULT.as_millis());
    assert!(PAGE_ITEMS_DEFAULT <= PAGE_ITEMS_MAX);
    // Three heartbeats may be lost before a session ends.
    assert!(HEARTBEAT_INTERVAL.as_millis() * 3 < SESSION_TIMEOUT.as_millis());
};
