//! The topic that a contestant publishes to, as whoever reads committed records only sees it: its end while the
//! contestant works, and all that is in it afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use foldhost_tests::kafka::Broker;
use foldhost_tests::memory;

use crate::child::WITHIN;
use crate::input::key_number;
use crate::measure;
use crate::topic::{self, PARTITIONS};

/// Between two looks at the end: the error of every time here.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Many commits long: when nothing has come for so long, nothing will.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What publishing an output took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Published {
    /// Events in a second, from the first commit that is seen to the last.
    pub(super) events_per_s: f64,
    /// CPU time of the process for each of these events, between the two.
    pub(super) cpu_us_per_event: f64,
    /// CPU time of the process until the last, for every event.
    pub(super) cpu_us_per_event_with_start: f64,
    /// Most memory that it held.
    pub(super) peak_rss_bytes: f64,
}

/// The topic.
pub(super) struct Output {
    topic: String,
    consumer: BaseConsumer,
}

/// A look at the end that found more than the one before.
#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    end: u64,
    cpu: Duration,
}

impl Output {
    /// A topic that need not be there yet.
    ///
    /// # Errors
    /// If there is no consumer.
    pub(super) fn new(broker: &Broker, topic: &str) -> Result<Self> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", broker.bootstrap())
            .set("group.id", "bench-republished")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.queue.backoff.ms", "5")
            .create()?;
        Ok(Self {
            topic: topic.to_owned(),
            consumer,
        })
    }

    /// Its name.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Watches the end until nothing comes any more, and says what that took the process.
    ///
    /// # Errors
    /// If less than `events` records come, or the process ends.
    pub(super) fn watch(&self, process: u32, events: u64) -> Result<Published> {
        let deadline = Instant::now() + WITHIN;
        let mut looks: Option<(Look, Look)> = None;
        loop {
            let (at, cpu) = (Instant::now(), measure::cpu(process)?);
            let end = self.end();
            let seen = looks.map_or(0, |(_, last)| last.end);
            if end > seen {
                let look = Look { at, end, cpu };
                looks = Some((looks.map_or(look, |(first, _)| first), look));
            }
            if let Some((first, last)) = looks
                && last.end >= events
                && at.duration_since(last.at) >= SETTLED_AFTER
            {
                let peak = memory::resident(process)?.peak_bytes;
                return published(events, first, last, peak);
            }
            ensure!(
                at < deadline,
                "{} has {seen} of {events} records after {WITHIN:?}",
                self.topic
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Sum of the last stable offsets: records, and a marker for each transaction of a partition. Nothing, while
    /// the topic is not there.
    fn end(&self) -> u64 {
        let mut asked = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            // A time of -1 asks for the end.
            let end = asked.add_partition_offset(&self.topic, partition, Offset::End);
            end.expect("the end is an offset");
        }
        let Ok(found) = self.consumer.offsets_for_times(asked, ANSWERS_WITHIN) else {
            return 0;
        };
        let offsets = found.elements().into_iter().map(|found| found.offset());
        let ends = offsets.map(|offset| match offset {
            Offset::Offset(end) => u64::try_from(end).unwrap_or(0),
            _ => 0,
        });
        ends.sum()
    }

    /// Reads all of it: the records of each key count from one to as many as it has events.
    ///
    /// # Errors
    /// If a record is missing, comes twice, or in another order.
    pub(super) fn check(&self, counts: &[u64]) -> Result<()> {
        self.consumer.assign(&topic::whole(&self.topic)?)?;
        let mut counted = vec![0; counts.len()];
        let mut ended = [false; PARTITIONS as usize];
        while ended.contains(&false) {
            match self.consumer.poll(ANSWERS_WITHIN) {
                None => bail!("the end of {} did not come", self.topic),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ended[usize::try_from(partition)?] = true;
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(record)) => count(&record, &mut counted)?,
            }
        }
        self.consumer.unassign()?;
        let found: u64 = counted.iter().sum();
        let wanted: u64 = counts.iter().sum();
        ensure!(
            found == wanted,
            "{} has {found} records, and must have {wanted}",
            self.topic
        );
        ensure!(
            counted == counts,
            "{} has other counts than the input",
            self.topic
        );
        Ok(())
    }
}

/// Counts a record, which must be the next of its key.
fn count(record: &BorrowedMessage<'_>, counted: &mut [u64]) -> Result<()> {
    let place = || format!("record {}@{}", record.partition(), record.offset());
    let key = record.key().and_then(key_number);
    let counted = key.and_then(|key| counted.get_mut(key));
    let counted = counted.with_context(|| format!("{}: no key of the input", place()))?;
    let value = record.payload().and_then(|value| value.try_into().ok());
    let value = value.with_context(|| format!("{}: no count", place()))?;
    let (value, wanted) = (u64::from_be_bytes(value), *counted + 1);
    ensure!(
        value == wanted,
        "{}: the count is {value}, and must be {wanted}",
        place()
    );
    *counted = wanted;
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "figures")]
fn published(events: u64, first: Look, last: Look, peak_bytes: u64) -> Result<Published> {
    let between = (last.end - first.end) as f64;
    ensure!(
        between > 0.0,
        "all {events} records came at once: too few to measure"
    );
    let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6;
    Ok(Published {
        events_per_s: between / last.at.duration_since(first.at).as_secs_f64(),
        cpu_us_per_event: micros(last.cpu.saturating_sub(first.cpu)) / between,
        cpu_us_per_event_with_start: micros(last.cpu) / events as f64,
        peak_rss_bytes: peak_bytes as f64,
    })
}
