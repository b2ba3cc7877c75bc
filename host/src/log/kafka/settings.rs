//! What librdkafka is told: the operator's properties key by key, defaults that suit foldhost, and
//! the keys on which its guarantees rest, which nobody else may set. Used wherever a client is made.
//!
//! Invariant: a key of [`KEYS_OF_THE_HOST`] never comes from the operator.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;

use crate::limits;

/// How the Kafka adapter works.
#[derive(Clone)]
pub struct KafkaSettings {
    /// librdkafka's properties, unrenamed; `bootstrap.servers` at least.
    pub properties: BTreeMap<String, String>,
    /// Of topics that the host creates; `None` = the cluster's default.
    pub replication_factor: Option<i32>,
    /// Largest record that is written: key, value and headers, in bytes.
    pub record_bytes_max: usize,
    /// First part of every client id, as brokers see it in their logs and quotas; a `client.id`
    /// among the properties is taken whole instead.
    pub client_id: String,
    /// Most bytes that wait in front of one partition's worker.
    pub reader_queue_bytes_max: usize,
    /// Bytes that wait in front of all workers of the host.
    pub reader_queues_bytes_max: usize,
    /// Most bytes that wait to be written by one client.
    pub writer_queue_bytes_max: usize,
}

impl KafkaSettings {
    /// Settings with the bounds of [`limits`].
    #[must_use]
    pub fn new(properties: BTreeMap<String, String>) -> Self {
        Self {
            properties,
            replication_factor: None,
            record_bytes_max: limits::RECORD_BYTES_DEFAULT,
            client_id: "foldhost".to_owned(),
            reader_queue_bytes_max: limits::READER_QUEUE_BYTES_MAX,
            reader_queues_bytes_max: limits::READER_QUEUES_BYTES_MAX,
            writer_queue_bytes_max: limits::KAFKA_WRITER_QUEUE_BYTES_MAX,
        }
    }
}

impl fmt::Debug for KafkaSettings {
    /// Without the properties' values: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("properties", &self.properties.keys())
            .field("replication_factor", &self.replication_factor)
            .field("record_bytes_max", &self.record_bytes_max)
            .field("client_id", &self.client_id)
            .field("reader_queue_bytes_max", &self.reader_queue_bytes_max)
            .field("reader_queues_bytes_max", &self.reader_queues_bytes_max)
            .field("writer_queue_bytes_max", &self.writer_queue_bytes_max)
            .finish()
    }
}

/// The keys that the host sets itself, each with why.
pub const KEYS_OF_THE_HOST: &[(&str, &str)] = &[
    (
        "acks",
        "a record is acknowledged when all in-sync replicas have it",
    ),
    (
        "allow.auto.create.topics",
        "no client creates a topic by accident",
    ),
    (
        "auto.commit.enable",
        "positions are committed with the state",
    ),
    (
        "auto.commit.interval.ms",
        "positions are committed with the state",
    ),
    (
        "auto.offset.reset",
        "a lost position stops a partition instead of moving it",
    ),
    (
        "delivery.report.only.error",
        "an append answers with the place of every record",
    ),
    (
        "enable.auto.commit",
        "positions are committed with the state",
    ),
    (
        "enable.auto.offset.store",
        "positions are committed with the state",
    ),
    (
        "enable.gapless.guarantee",
        "an append answers for every record by itself",
    ),
    (
        "enable.idempotence",
        "a retried write must not appear twice",
    ),
    (
        "enable.partition.eof",
        "a partition is live when its end has been read",
    ),
    ("group.id", "it is <cluster>.<plugin>"),
    ("group.instance.id", "it is kept in the data folder"),
    ("group.protocol", "ownership uses the classic protocol"),
    (
        "group.remote.assignor",
        "ownership uses the classic protocol",
    ),
    ("isolation.level", "only committed records are read"),
    ("log.queue", "librdkafka's log goes to the host's"),
    (
        "offset.store.method",
        "positions are committed with the state",
    ),
    (
        "offset.store.path",
        "positions are committed with the state",
    ),
    (
        "partition.assignment.strategy",
        "ownership moves partition by partition (cooperative-sticky)",
    ),
    (
        "partitioner",
        "the host chooses partitions itself (murmur2)",
    ),
    (
        "queued.max.messages.kbytes",
        "queues are bounded by the host",
    ),
    ("queued.min.messages", "queues are bounded by the host"),
    (
        "request.required.acks",
        "a record is acknowledged when all in-sync replicas have it",
    ),
    ("transactional.id", "it is <cluster>.<plugin>.<partition>"),
];

/// Checks that no property is one that the host sets itself, and that brokers are named.
///
/// # Errors
/// Every fault found, each naming its key and what to do.
pub fn check_properties(properties: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let mut faults: Vec<String> = KEYS_OF_THE_HOST
        .iter()
        .filter(|(key, _)| properties.contains_key(*key))
        .map(|(key, why)| format!("'{key}' is set by the host ({why}): remove it"))
        .collect();
    let named = |key: &str| {
        properties
            .get(key)
            .is_some_and(|brokers| !brokers.trim().is_empty())
    };
    if !named("bootstrap.servers") && !named("metadata.broker.list") {
        faults.push("'bootstrap.servers' is missing: name at least one broker".to_owned());
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}

/// Names of the time that a batch waits for more records.
const LINGER: [&str; 2] = ["linger.ms", "queue.buffering.max.ms"];

impl KafkaSettings {
    /// A client that asks (metadata, offsets, topics), or reads partitions at their ends, with at most this
    /// much waiting in front of each.
    pub(super) fn reader(&self, name: &str, queue_bytes_max: usize) -> ClientConfig {
        let mut config = self.base(name);
        // librdkafka's default waits a second before it looks at a full queue again.
        self.preset(&mut config, &["fetch.queue.backoff.ms"], "5");
        self.preset(&mut config, &["fetch.error.backoff.ms"], "100");
        let fetch_wait = limits::KAFKA_TAIL_FETCH_WAIT_MAX.as_millis().to_string();
        self.preset(&mut config, &["fetch.wait.max.ms"], &fetch_wait);
        self.preset(&mut config, &["check.crcs"], "true");
        let queue_kbytes = (queue_bytes_max / 1024).max(1);
        // What is fetched at once comes on top of what waits.
        let fetch = queue_bytes_max
            .min(limits::KAFKA_FETCH_BYTES_MAX)
            .to_string();
        self.preset(
            &mut config,
            &["max.partition.fetch.bytes", "fetch.message.max.bytes"],
            &fetch,
        );
        config
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.commit.enable", "false")
            .set("auto.offset.reset", "error")
            .set("queued.max.messages.kbytes", queue_kbytes.to_string())
            .set(
                "queued.min.messages",
                limits::kafka_reader_queue_records(queue_bytes_max).to_string(),
            );
        config
    }

    /// A client that reads partitions that are behind.
    pub(super) fn catch_up_reader(&self, name: &str, queue_bytes_max: usize) -> ClientConfig {
        let mut config = self.reader(name, queue_bytes_max);
        // One fetch at a time is under way per broker: who is behind must not wait for those whose end it meets.
        let fetch_wait = limits::KAFKA_CATCH_UP_FETCH_WAIT_MAX.as_millis();
        config.set("fetch.wait.max.ms", fetch_wait.to_string());
        config
    }

    /// An idempotent producer.
    pub(super) fn writer(&self, name: &str) -> ClientConfig {
        let mut config = self.base(name);
        self.preset(&mut config, &LINGER, "1");
        let delivery = limits::KAFKA_DELIVERY_MAX.as_millis().to_string();
        if !self.properties.contains_key("transaction.timeout.ms") {
            self.preset(
                &mut config,
                &["message.timeout.ms", "delivery.timeout.ms"],
                &delivery,
            );
        }
        let request = (self.record_bytes_max + limits::KAFKA_RECORD_OVERHEAD_BYTES_MAX).to_string();
        self.preset(&mut config, &["message.max.bytes"], &request);
        let queue_kbytes = (self.writer_queue_bytes_max / 1024).max(1).to_string();
        self.preset(&mut config, &["queue.buffering.max.kbytes"], &queue_kbytes);
        config.set("enable.idempotence", "true").set("acks", "all");
        config
    }

    /// A producer that fences every earlier one of the same transactional id. Its batches fill while a
    /// transaction is handed over, and the end of each is flushed.
    pub(super) fn transactional(&self, id: &str) -> ClientConfig {
        let mut config = self.writer(id);
        let linger = limits::KAFKA_TRANSACTION_LINGER.as_millis().to_string();
        self.preset(&mut config, &LINGER, &linger);
        config.set("transactional.id", id);
        config
    }

    /// As [`transactional`](Self::transactional), without a report for each record that was written.
    pub(super) fn publisher(&self, id: &str) -> ClientConfig {
        let mut config = self.transactional(id);
        config.set("delivery.report.only.error", "true");
        config
    }

    /// A static member of a group that reads nothing.
    pub(super) fn member(&self, group: &str, instance: &str) -> ClientConfig {
        let mut config = self.base(group);
        let session = limits::SESSION_TIMEOUT.as_millis().to_string();
        self.preset(&mut config, &["session.timeout.ms"], &session);
        let heartbeat = limits::HEARTBEAT_INTERVAL.as_millis().to_string();
        self.preset(&mut config, &["heartbeat.interval.ms"], &heartbeat);
        // A journal that got more partitions is noticed after this.
        self.preset(
            &mut config,
            &["topic.metadata.refresh.interval.ms"],
            "10000",
        );
        config
            .set("group.id", group)
            .set("group.instance.id", instance)
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "latest")
            .set("isolation.level", "read_committed")
            .set("queued.max.messages.kbytes", "64")
            .set("queued.min.messages", "1");
        config
    }

    /// Whether records are made smaller before they are written.
    pub(super) fn compresses(&self) -> bool {
        ["compression.codec", "compression.type"].iter().any(|key| {
            self.properties
                .get(*key)
                .is_some_and(|codec| codec != "none")
        })
    }

    fn base(&self, name: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        self.preset(
            &mut config,
            &["client.id"],
            &format!("{}-{name}", self.client_id),
        );
        self.preset(&mut config, &["socket.keepalive.enable"], "true");
        // The default lets a broker that is back wait for ten seconds.
        self.preset(&mut config, &["reconnect.backoff.max.ms"], "2000");
        config.set("allow.auto.create.topics", "false");
        config
    }

    /// Sets the first key unless the operator has set one of its names.
    fn preset(&self, config: &mut ClientConfig, names: &[&str], value: &str) {
        if !names.iter().any(|name| self.properties.contains_key(*name)) {
            config.set(names[0], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn keys_of_the_host_are_refused_by_name() {
        let faults = check_properties(&properties(&[
            ("bootstrap.servers", "a:1"),
            ("isolation.level", "read_uncommitted"),
            ("enable.auto.commit", "true"),
            ("security.protocol", "SSL"),
        ]))
        .unwrap_err();
        assert_eq!(faults.len(), 2);
        assert!(faults[0].contains("'enable.auto.commit'") && faults[0].contains("remove it"));
        assert!(faults[1].contains("'isolation.level'"));
    }

    #[test]
    fn brokers_must_be_named() {
        assert!(check_properties(&properties(&[])).is_err());
        assert!(check_properties(&properties(&[("bootstrap.servers", " ")])).is_err());
        assert!(check_properties(&properties(&[("bootstrap.servers", "a:1")])).is_ok());
    }

    #[test]
    fn the_operator_overrides_defaults_under_any_of_their_names() {
        let mut settings = KafkaSettings::new(properties(&[
            ("bootstrap.servers", "a:1"),
            ("queue.buffering.max.ms", "50"),
            ("client.id", "mine"),
        ]));
        settings.client_id = "unused".to_owned();
        let config = settings.writer("append");
        assert_eq!(config.get("queue.buffering.max.ms"), Some("50"));
        assert_eq!(config.get("linger.ms"), None);
        assert_eq!(config.get("client.id"), Some("mine"));
        assert_eq!(config.get("acks"), Some("all"));
    }

    #[test]
    fn every_key_of_the_host_that_is_set_is_on_the_list() {
        let settings = KafkaSettings::new(properties(&[("bootstrap.servers", "a:1")]));
        // Whatever is set on every client of a kind, whatever the operator says, must be refused.
        for (config, forced) in [
            (
                settings.reader("r", 1024),
                &["isolation.level", "auto.offset.reset"][..],
            ),
            (
                settings.transactional("t"),
                &["transactional.id", "enable.idempotence", "acks"],
            ),
            (
                settings.member("g", "i"),
                &["group.id", "group.instance.id", "group.protocol"],
            ),
        ] {
            for key in forced {
                assert!(config.get(key).is_some(), "{key}");
                assert!(
                    KEYS_OF_THE_HOST.iter().any(|(listed, _)| listed == key),
                    "{key}"
                );
            }
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = KafkaSettings::new(properties(&[("sasl.password", "hunter2")]));
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
