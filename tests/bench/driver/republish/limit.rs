//! The contestant `limit` of republishing: a bare client that counts in a hash map and publishes the counts in
//! transactions, one producer for each partition. What the client library can do on this machine, without what
//! makes it exactly once: it keeps no state and no position, and puts nothing on its records that says where
//! they come from. A process of its own, so that it is measured like the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use super::COMMIT_EVERY;
use crate::args::LimitArgs;
use crate::topic::{self, PARTITIONS};

const POLL: Duration = Duration::from_millis(10);
/// Records between two looks at the delivery reports, and at the clock.
const REPORTS_EVERY: u32 = 64;
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Reads all there is, and publishes a count for each record to `output`.
///
/// # Errors
/// Of librdkafka.
pub(crate) fn run(args: &LimitArgs, output: &str) -> Result<()> {
    let consumer: Arc<BaseConsumer> = Arc::new(
        ClientConfig::new()
            .set("bootstrap.servers", &args.bootstrap)
            .set("group.id", "bench-republish-limit")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.queue.backoff.ms", "5")
            .create()?,
    );
    consumer.assign(&topic::whole(&args.topic)?)?;
    // Before anything can have come.
    let mut queues = Vec::new();
    for partition in 0..PARTITIONS {
        let queue = consumer
            .split_partition_queue(&args.topic, partition)
            .ok_or_else(|| anyhow!("no queue of partition {partition}"))?;
        queues.push((partition, queue));
    }
    let left = Arc::new(AtomicU64::new(args.expect));
    let mut workers = Vec::new();
    for (partition, queue) in queues {
        let publisher = Publisher::new(args, output, partition)?;
        let left = Arc::clone(&left);
        workers.push(std::thread::spawn(move || work(publisher, &queue, &left)));
    }
    while left.load(Ordering::Relaxed) > 0 && workers.iter().all(|it| !it.is_finished()) {
        if let Some(message) = consumer.poll(POLL) {
            let message = message?;
            bail!(
                "{}@{} came before its queue was split",
                message.partition(),
                message.offset()
            );
        }
    }
    for worker in workers {
        worker.join().map_err(|_| anyhow!("a worker panicked"))??;
    }
    // The driver measures the process before it lets it go.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}

fn work(
    mut publisher: Publisher,
    queue: &PartitionQueue<DefaultConsumerContext>,
    left: &AtomicU64,
) -> Result<()> {
    let mut counts: HashMap<Box<[u8]>, u64> = HashMap::new();
    while left.load(Ordering::Relaxed) > 0 {
        if let Some(message) = queue.poll(POLL) {
            let message = message?;
            let key = message.key().unwrap_or_default();
            let count = match counts.get_mut(key) {
                Some(count) => count,
                None => counts.entry(key.into()).or_default(),
            };
            *count += 1;
            publisher.publish(key, *count)?;
            left.fetch_sub(1, Ordering::Relaxed);
        }
        publisher.commit_if_due()?;
    }
    publisher.commit()
}

/// Publishes the counts of a partition.
struct Publisher {
    producer: BaseProducer<DefaultProducerContext>,
    output: String,
    partition: i32,
    /// When the transaction under way began.
    since: Option<Instant>,
    /// How many records.
    published: u32,
}

impl Publisher {
    fn new(args: &LimitArgs, output: &str, partition: i32) -> Result<Self> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &args.bootstrap)
            .set("transactional.id", format!("{output}-{partition}"))
            .set("linger.ms", "20")
            .set("queue.buffering.max.messages", "1000000")
            .create()?;
        producer.init_transactions(ANSWERS_WITHIN)?;
        Ok(Self {
            producer,
            output: output.to_owned(),
            partition,
            since: None,
            published: 0,
        })
    }

    fn publish(&mut self, key: &[u8], count: u64) -> Result<()> {
        if self.since.is_none() {
            self.producer.begin_transaction()?;
            self.since = Some(Instant::now());
        }
        let value = count.to_be_bytes();
        let mut record = BaseRecord::to(&self.output)
            .partition(self.partition)
            .key(key)
            .payload(&value[..]);
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    self.producer.poll(POLL);
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        self.published += 1;
        if self.published.is_multiple_of(REPORTS_EVERY) {
            self.producer.poll(Duration::ZERO);
        }
        Ok(())
    }

    fn commit_if_due(&mut self) -> Result<()> {
        match self.since {
            // The clock is asked once for many records.
            Some(since)
                if self.published.is_multiple_of(REPORTS_EVERY)
                    && since.elapsed() >= COMMIT_EVERY =>
            {
                self.commit()
            }
            _ => Ok(()),
        }
    }

    fn commit(&mut self) -> Result<()> {
        if self.since.take().is_some() {
            self.producer.commit_transaction(ANSWERS_WITHIN)?;
        }
        Ok(())
    }
}
