//! Writes inputs into topics: all at once before the rounds, or at a steady pace while somebody is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use foldhost_tests::kafka::Broker;

use crate::input::{Input, key_text};

/// Partitions of a topic, where nothing else is asked for.
pub(crate) const PARTITIONS: i32 = 4;
const WRITTEN_WITHIN: Duration = Duration::from_secs(120);
/// Events between two looks at the clock.
const PACE_EVENTS: u64 = 200;

/// All partitions of a topic, from their first records.
///
/// # Errors
/// Of librdkafka.
pub(crate) fn whole(topic: &str) -> Result<TopicPartitionList> {
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    Ok(assignment)
}

/// Creates the topic of an input and writes all of it.
///
/// # Errors
/// If the broker does not take it, or not every key comes.
pub(crate) fn fill(broker: &Broker, input: &Input) -> Result<()> {
    ensure!(
        input.events >= input.keys,
        "{} events are too few for the {} keys of {}: ask for more with --events",
        input.events,
        input.keys,
        input.topic
    );
    broker.create_topic(&input.topic, input.partitions)?;
    let writer = Writer::new(broker)?;
    for n in 0..input.events {
        writer.write(input, n)?;
    }
    writer.finish()?;
    let written: i64 = (0..input.partitions)
        .map(|partition| Ok(broker.range(&input.topic, partition)?.1))
        .sum::<Result<i64>>()?;
    ensure!(
        u64::try_from(written)? == input.events,
        "{written} of {} events are in {}",
        input.events,
        input.topic
    );
    Ok(())
}

struct Writer {
    producer: BaseProducer,
}

impl Writer {
    fn new(broker: &Broker) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", broker.bootstrap())
            .set("partitioner", "murmur2_random")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "500000")
            .create()?;
        Ok(Self { producer })
    }

    fn write(&self, input: &Input, n: u64) -> Result<()> {
        let key = key_text(input.key_of(n));
        let mut value = Vec::new();
        input.write_value(n, &mut value);
        let mut record = BaseRecord::to(&input.topic).key(&key).payload(&value);
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.producer.poll(Duration::from_millis(10));
                    record = back;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        if n.is_multiple_of(1_000) {
            self.producer.poll(Duration::ZERO);
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        Ok(self.producer.flush(WRITTEN_WITHIN)?)
    }
}

/// Events that keep coming.
#[derive(Debug)]
pub(crate) struct Steady {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(u64, Duration)>>,
}

impl Steady {
    /// Begins to write `per_second` events of `input`, from the first on, into its topic.
    ///
    /// # Errors
    /// If there is no producer.
    pub(crate) fn start(broker: &Broker, input: &Input, per_second: u64) -> Result<Self> {
        let writer = Writer::new(broker)?;
        let input = input.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            let mut n = 0;
            while !stopped.load(Ordering::Relaxed) && n < input.events {
                for _ in 0..PACE_EVENTS {
                    writer.write(&input, n)?;
                    n += 1;
                }
                #[allow(clippy::cast_precision_loss, reason = "a pace")]
                let due = Duration::from_secs_f64(n as f64 / per_second.max(1) as f64);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
            let took = began.elapsed();
            writer.finish()?;
            Ok((n, took))
        });
        Ok(Self { stop, thread })
    }

    /// Stops; how many were written in a second.
    ///
    /// # Errors
    /// If one was refused.
    pub(crate) fn finish(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join().ok().context("the writer panicked")?;
        let (events, took) = ended?;
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        Ok(events as f64 / took.as_secs_f64())
    }
}
