//! Questions about topics and offsets, and creating and deleting topics. One client asks them all,
//! off the runtime's threads; every other part of the adapter comes here before it reads or writes.
//!
//! Invariant: nothing here creates a topic but [`Topics::create`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset as ListedOffset, TopicPartitionList};

use crate::clock::Clock;
use crate::limits;
use crate::types::{Offset, Partition, TopicName, TopicPartition};

use super::super::{Cleanup, LogError, NewTopic, OffsetRange, Topic};
use super::client::Client;
use super::context::Context;
use super::native::{self, Described};
use super::settings::KafkaSettings;
use super::{blocking, error};

/// Between two looks at whether a topic has come or gone.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// An answer, and when it was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<T> {
    pub(super) value: T,
    asked: Duration,
}

impl<T> Known<T> {
    pub(super) fn new(value: T, asked: Duration) -> Self {
        Self { value, asked }
    }

    pub(super) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.asked)
    }
}

/// Asks about topics. Cheap to share.
pub(super) struct Topics {
    client: Arc<Client<BaseConsumer<Context>>>,
    /// Sees the records of open transactions too.
    uncommitted: Arc<Client<BaseConsumer<Context>>>,
    context: Context,
    replication_factor: Option<i32>,
    clock: Clock,
    /// Numbers of partitions.
    known: Mutex<HashMap<TopicName, Known<u32>>>,
    /// Largest record batches, in bytes, where the brokers tell.
    batch_bytes_max: Mutex<HashMap<TopicName, Known<Option<usize>>>>,
}

impl Topics {
    /// A client for questions; it connects when the first is asked.
    pub(super) fn new(settings: &KafkaSettings) -> Result<Self, LogError> {
        let context = Context::new("topics");
        let mut config = settings.reader("topics", limits::READER_QUEUE_BYTES_MIN);
        let client = |config: &ClientConfig| -> Result<_, LogError> {
            let consumer: BaseConsumer<Context> = config
                .create_with_context(context.clone())
                .map_err(|error| error::made(&error))?;
            Ok(Client::serve(consumer))
        };
        Ok(Self {
            client: client(&config)?,
            uncommitted: client(config.set("isolation.level", "read_uncommitted"))?,
            context,
            replication_factor: settings.replication_factor,
            clock: Clock::system(),
            known: Mutex::new(HashMap::new()),
            batch_bytes_max: Mutex::new(HashMap::new()),
        })
    }

    /// Whether brokers answer.
    pub(super) async fn check(&self) -> Result<(), LogError> {
        // Every cluster answers about this topic, whether it has it or shows it or not.
        match self.describe(&["__consumer_offsets"]).await {
            Err(LogError::Rejected(why)) => {
                tracing::trace!("asked for a sign of life: {why}");
                Ok(())
            }
            answer => answer.map(drop),
        }
    }

    /// All topics but those that the brokers keep for themselves, in order of name.
    pub(super) async fn all(&self) -> Result<Vec<Topic>, LogError> {
        let client = Arc::clone(&self.client);
        let names = blocking(move || {
            let metadata = client
                .fetch_metadata(None, limits::KAFKA_REQUEST_MAX)
                .map_err(|error| error::asked(error::code_of(&error), "listing the topics"))?;
            Ok(metadata
                .topics()
                .iter()
                .map(|topic| topic.name().to_owned())
                .collect::<Vec<_>>())
        })
        .await
        .map_err(|error| self.context.health().explain(error))?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut topics: Vec<Topic> = self
            .describe(&names)
            .await?
            .into_iter()
            .filter(|described| !described.internal)
            .filter_map(|described| topic(&described))
            .collect();
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// One topic, freshly asked for.
    pub(super) async fn one(&self, name: &TopicName) -> Result<Option<Topic>, LogError> {
        let described = self.describe(&[name.as_str()]).await?;
        let found = described.first().and_then(topic);
        match &found {
            Some(topic) => self.remember(name, topic.partitions),
            None => self.forget(name),
        }
        Ok(found)
    }

    /// Number of partitions of a topic, at most [`limits::KAFKA_TOPIC_AGE_MAX`] old.
    pub(super) async fn partitions(&self, name: &TopicName) -> Result<u32, LogError> {
        if let Some(partitions) = self.fresh(&self.known, name, limits::KAFKA_TOPIC_AGE_MAX) {
            return Ok(partitions);
        }
        let topic = self.one(name).await?;
        topic
            .map(|topic| topic.partitions)
            .ok_or_else(|| LogError::UnknownTopic(name.clone()))
    }

    /// Fails unless topic and partition exist.
    pub(super) async fn expect(&self, of: &TopicPartition) -> Result<(), LogError> {
        if of.partition.0 < self.partitions(&of.topic).await? {
            Ok(())
        } else {
            Err(LogError::UnknownPartition(of.clone()))
        }
    }

    /// Largest batch of records that a topic takes, framing included, in bytes, and as it is written
    /// (compressed, that is); `None` if the brokers do not tell. At most
    /// [`limits::KAFKA_TOPIC_SETTING_AGE_MAX`] old.
    pub(super) async fn batch_bytes_max(&self, name: &TopicName) -> Option<usize> {
        let age_max = limits::KAFKA_TOPIC_SETTING_AGE_MAX;
        if let Some(known) = self.fresh(&self.batch_bytes_max, name, age_max) {
            return known;
        }
        let (client, asked) = (Arc::clone(&self.client), name.clone());
        let told = blocking(move || {
            let within = limits::KAFKA_REQUEST_MAX;
            Ok(native::topic_setting(
                &*client,
                asked.as_str(),
                "max.message.bytes",
                within,
            ))
        })
        .await;
        // Without the right to see a topic's settings the brokers decide record by record.
        let bytes = match told {
            Ok(Ok(text)) => text.and_then(|text| text.parse().ok()),
            Ok(Err((code, why))) => {
                tracing::debug!(topic = name.as_str(), ?code, "max.message.bytes: {why}");
                None
            }
            Err(_) => None,
        };
        self.keep(&self.batch_bytes_max, name, bytes);
        bytes
    }

    /// Drops what is remembered of a topic: somebody has found it to be wrong.
    pub(super) fn forget(&self, name: &TopicName) {
        self.known.lock().remove(name);
        self.batch_bytes_max.lock().remove(name);
    }

    /// Creates a topic and waits until every partition has a leader.
    pub(super) async fn create(&self, new: &NewTopic) -> Result<Topic, LogError> {
        check_partitions(&new.name, new.partitions)?;
        let (client, name) = (Arc::clone(&self.client), new.name.clone());
        let partitions = i32::try_from(new.partitions).expect("checked above");
        let replication = new
            .replication_factor
            .or(self.replication_factor)
            .unwrap_or(-1);
        let config = configuration(new.cleanup);
        let created = blocking(move || {
            let within = limits::KAFKA_REQUEST_MAX;
            let asked = name.as_str();
            Ok(native::create_topic(
                &*client,
                asked,
                partitions,
                replication,
                config,
                within,
            ))
        })
        .await?;
        match created {
            Ok(()) => {}
            Err((Code::TopicAlreadyExists, _)) => {
                return Err(LogError::TopicExists(new.name.clone()));
            }
            Err((code, why)) => return Err(self.refused(code, "creating", &new.name, &why)),
        }
        self.settled(&new.name, |described| {
            described
                .filter(|topic| topic.led && topic.partitions == new.partitions)
                .and_then(topic)
        })
        .await
    }

    /// Gives a topic more partitions, if it has fewer, and waits until each has a leader.
    pub(super) async fn grow(&self, name: &TopicName, partitions: u32) -> Result<Topic, LogError> {
        check_partitions(name, partitions)?;
        let found = self
            .one(name)
            .await?
            .ok_or_else(|| LogError::UnknownTopic(name.clone()))?;
        if found.partitions >= partitions {
            return Ok(found);
        }
        let (client, asked) = (Arc::clone(&self.client), name.clone());
        let wanted = usize::try_from(partitions).expect("checked above");
        let grown = blocking(move || {
            let within = limits::KAFKA_REQUEST_MAX;
            Ok(native::create_partitions(
                &*client,
                asked.as_str(),
                wanted,
                within,
            ))
        })
        .await?;
        if let Err((code, why)) = grown {
            // Somebody else may have grown it meanwhile, as far or farther.
            match self.one(name).await? {
                Some(topic) if topic.partitions >= partitions => {}
                _ => return Err(self.refused(code, "growing", name, &why)),
            }
        }
        let topic = self
            .settled(name, |described| {
                described
                    .filter(|topic| topic.led && topic.partitions >= partitions)
                    .and_then(topic)
            })
            .await?;
        self.remember(name, topic.partitions);
        Ok(topic)
    }

    /// Deletes a topic and waits until it is gone.
    pub(super) async fn delete(&self, name: &TopicName) -> Result<(), LogError> {
        self.forget(name);
        let (client, asked) = (Arc::clone(&self.client), name.clone());
        let deleted = blocking(move || {
            Ok(native::delete_topic(
                &*client,
                asked.as_str(),
                limits::KAFKA_REQUEST_MAX,
            ))
        })
        .await?;
        match deleted {
            Ok(()) => {}
            Err((Code::UnknownTopicOrPartition, _)) => {
                return Err(LogError::UnknownTopic(name.clone()));
            }
            Err((code, why)) => return Err(self.refused(code, "deleting", name, &why)),
        }
        self.settled(name, |described| described.is_none().then_some(()))
            .await?;
        self.forget(name);
        Ok(())
    }

    /// First offset, and one past the last committed record.
    pub(super) async fn range(&self, of: &TopicPartition) -> Result<OffsetRange, LogError> {
        self.watermarks(&self.client, of).await
    }

    /// One past the last record that was written, committed or not.
    pub(super) async fn written_end(&self, of: &TopicPartition) -> Result<Offset, LogError> {
        let range = self.watermarks(&self.uncommitted, of).await?;
        Ok(range.end)
    }

    /// One past the last committed record of each partition, in their order: one question to each broker, for all
    /// that it leads. `None` where that fails.
    pub(super) async fn ends(&self, name: &TopicName) -> Result<Vec<Option<Offset>>, LogError> {
        let partitions = self.partitions(name).await?;
        let last = TopicPartition {
            topic: name.clone(),
            partition: Partition(partitions.saturating_sub(1)),
        };
        let asked = last.clone();
        self.ask_offsets(&self.client, "the ends up to", &last, move |client| {
            let of = asked.topic.as_str();
            let mut list = TopicPartitionList::new();
            for partition in 0..=native_partition(&asked) {
                list.add_partition_offset(of, partition, ListedOffset::End)?;
            }
            let found = client.offsets_for_times(list, limits::KAFKA_REQUEST_MAX)?;
            let mut ends = vec![None; found.count()];
            for element in found.elements() {
                let place = usize::try_from(element.partition()).ok();
                let end = place.and_then(|place| ends.get_mut(place));
                if let (Some(end), Ok(()), ListedOffset::Offset(at)) =
                    (end, element.error(), element.offset())
                {
                    *end = Some(offset(at));
                }
            }
            Ok(ends)
        })
        .await
    }

    async fn watermarks(
        &self,
        client: &Arc<Client<BaseConsumer<Context>>>,
        of: &TopicPartition,
    ) -> Result<OffsetRange, LogError> {
        let asked = of.clone();
        let (low, high) = self
            .ask_offsets(client, "the offsets of", of, move |client| {
                let partition = native_partition(&asked);
                client.fetch_watermarks(asked.topic.as_str(), partition, limits::KAFKA_REQUEST_MAX)
            })
            .await?;
        Ok(offset(low)..offset(high))
    }

    /// Offset of the first record with at least this timestamp, or the end.
    pub(super) async fn offset_at(
        &self,
        of: &TopicPartition,
        timestamp_ms: i64,
    ) -> Result<Offset, LogError> {
        let range = self.range(of).await?;
        let asked = of.clone();
        let found = self
            .ask_offsets(&self.client, "a time in", of, move |client| {
                let mut list = TopicPartitionList::with_capacity(1);
                // Kafka reads negative timestamps as "first" and "last".
                let timestamp = ListedOffset::Offset(timestamp_ms.max(0));
                let partition = native_partition(&asked);
                list.add_partition_offset(asked.topic.as_str(), partition, timestamp)?;
                let found = client.offsets_for_times(list, limits::KAFKA_REQUEST_MAX)?;
                let element = found.elements_for_topic(asked.topic.as_str()).remove(0);
                element.error().map(|()| element.offset())
            })
            .await?;
        Ok(match found {
            ListedOffset::Offset(at) => offset(at).min(range.end),
            // No record is that young.
            _ => range.end,
        })
    }

    /// Asks a partition's leader, again while the brokers have not agreed yet who that is: after a
    /// topic was made, and after its leader has changed.
    async fn ask_offsets<T: Send + 'static>(
        &self,
        client: &Arc<Client<BaseConsumer<Context>>>,
        what: &str,
        of: &TopicPartition,
        ask: impl Fn(&BaseConsumer<Context>) -> KafkaResult<T> + Send + Sync + 'static,
    ) -> Result<T, LogError> {
        let ask = Arc::new(ask);
        let clock = Clock::system();
        loop {
            self.expect(of).await?;
            let (client, ask) = (Arc::clone(client), Arc::clone(&ask));
            let code = match blocking(move || Ok(ask(&client))).await? {
                Ok(answer) => {
                    self.context.health().answered();
                    return Ok(answer);
                }
                Err(error) => error::code_of(&error),
            };
            if !error::is_unsettled(code) || clock.elapsed() > limits::KAFKA_REQUEST_MAX {
                let error = error::asked(code, &format!("asking for {what} {of}"));
                return Err(self.context.health().explain(error));
            }
            // What was known may be why: the next round asks afresh whether the topic is there.
            self.forget(&of.topic);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn refused(&self, code: Code, doing: &str, name: &TopicName, why: &str) -> LogError {
        let what = if why.is_empty() {
            format!("{doing} topic '{name}'")
        } else {
            format!("{doing} topic '{name}': {why}")
        };
        self.context.health().explain(error::asked(code, &what))
    }

    async fn describe(&self, names: &[&str]) -> Result<Vec<Described>, LogError> {
        let client = Arc::clone(&self.client);
        let asked: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let described = blocking(move || {
            let names: Vec<&str> = asked.iter().map(String::as_str).collect();
            Ok(native::describe_topics(
                &*client,
                &names,
                limits::KAFKA_REQUEST_MAX,
            ))
        })
        .await?;
        let described = described.map_err(|(code, why)| {
            let what = format!("asking about {}: {why}", names.first().unwrap_or(&"topics"));
            self.context.health().explain(error::asked(code, &what))
        })?;
        self.context.health().answered();
        Ok(described)
    }

    /// Looks at a topic until it is as it should be.
    async fn settled<T>(
        &self,
        name: &TopicName,
        mut as_wanted: impl FnMut(Option<&Described>) -> Option<T>,
    ) -> Result<T, LogError> {
        let looking = async {
            loop {
                let described = self.describe(&[name.as_str()]).await?;
                if let Some(wanted) = as_wanted(described.first()) {
                    return Ok(wanted);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(limits::KAFKA_TOPIC_SETTLE_MAX, looking)
            .await
            .unwrap_or_else(|_| {
                Err(LogError::Unavailable(format!(
                    "topic '{name}' was changed, but the brokers do not show it yet"
                )))
            })
    }

    fn remember(&self, name: &TopicName, partitions: u32) {
        self.keep(&self.known, name, partitions);
    }

    fn fresh<T: Copy>(
        &self,
        known: &Mutex<HashMap<TopicName, Known<T>>>,
        name: &TopicName,
        age_max: Duration,
    ) -> Option<T> {
        let now = self.clock.elapsed();
        let known = known.lock();
        known
            .get(name)
            .filter(|known| known.age(now) < age_max)
            .map(|k| k.value)
    }

    fn keep<T>(&self, known: &Mutex<HashMap<TopicName, Known<T>>>, name: &TopicName, value: T) {
        let mut known = known.lock();
        if known.len() >= limits::KAFKA_TOPICS_CACHED_MAX {
            known.clear();
        }
        known.insert(name.clone(), Known::new(value, self.clock.elapsed()));
    }
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

fn check_partitions(name: &TopicName, partitions: u32) -> Result<(), LogError> {
    if (1..=limits::PARTITIONS_MAX).contains(&partitions) {
        return Ok(());
    }
    Err(LogError::Rejected(format!(
        "topic '{name}' cannot have {partitions} partitions: choose 1 to {}",
        limits::PARTITIONS_MAX
    )))
}

/// A partition's number as librdkafka counts.
pub(super) fn native_partition(of: &TopicPartition) -> i32 {
    i32::try_from(of.partition.0).unwrap_or(i32::MAX)
}

fn offset(native: i64) -> Offset {
    Offset(u64::try_from(native).unwrap_or(0))
}

fn topic(described: &Described) -> Option<Topic> {
    // Names come from a broker, which checks them by the same rules.
    let name = TopicName::new(&described.name).ok()?;
    let id = (described.id != [0; 16]).then_some(described.id);
    Some(Topic {
        name,
        id,
        partitions: described.partitions,
    })
}

fn configuration(cleanup: Cleanup) -> &'static [(&'static str, &'static str)] {
    match cleanup {
        Cleanup::Default => &[],
        Cleanup::Keep => &[
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
        ],
        Cleanup::Compact => &[("cleanup.policy", "compact")],
        // Only closed segments are compacted, and one is closed after a week or a GiB by default.
        Cleanup::CompactSoon => &[
            ("cleanup.policy", "compact"),
            ("segment.bytes", "16777216"),
            ("segment.ms", "3600000"),
            ("min.cleanable.dirty.ratio", "0.2"),
        ],
    }
}
