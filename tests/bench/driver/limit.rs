//! The contestant `limit`: a bare consumer that reads everything and counts. What the client library can do
//! on this machine, with nothing behind it. A process of its own, so that it is measured like the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::BorrowedMessage;
use serde_json::json;

use crate::args::LimitArgs;
use crate::topic::{self, PARTITIONS};

pub(crate) mod http;

const POLL: Duration = Duration::from_millis(100);

fn say(event: &str) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let at_ms = now.unwrap_or_default().as_secs_f64() * 1_000.0;
    println!("{}", json!({"event": event, "at_ms": at_ms}));
}

/// Reads all there is; says when it saw the first and the last event.
///
/// # Errors
/// Of librdkafka.
pub(crate) fn run(args: &LimitArgs) -> Result<()> {
    say("started");
    let consumer: Arc<BaseConsumer> = Arc::new(
        ClientConfig::new()
            .set("bootstrap.servers", &args.bootstrap)
            .set("group.id", "bench-limit")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.queue.backoff.ms", "5")
            .set("queued.min.messages", "100000")
            .set("queued.max.messages.kbytes", "65536")
            .create()?,
    );
    consumer.assign(&topic::whole(&args.topic)?)?;
    let counted = Arc::new(AtomicU64::new(0));
    let mut readers = Vec::new();
    for partition in 0..PARTITIONS {
        let queue = consumer
            .split_partition_queue(&args.topic, partition)
            .ok_or_else(|| anyhow!("no queue of partition {partition}"))?;
        let (counted, expect) = (Arc::clone(&counted), args.expect);
        readers.push(std::thread::spawn(move || -> Result<usize> {
            let mut bytes = 0;
            while counted.load(Ordering::Relaxed) < expect {
                if let Some(message) = queue.poll(POLL) {
                    bytes += count(&message?, &counted, expect);
                }
            }
            Ok(bytes)
        }));
    }
    // What arrived before the queues were split is here.
    while counted.load(Ordering::Relaxed) < args.expect {
        if let Some(message) = consumer.poll(POLL) {
            count(&message?, &counted, args.expect);
        }
    }
    for reader in readers {
        reader.join().map_err(|_| anyhow!("a reader panicked"))??;
    }
    // The driver measures the process before it lets it go.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}

fn count(message: &BorrowedMessage<'_>, counted: &AtomicU64, expect: u64) -> usize {
    let before = counted.fetch_add(1, Ordering::Relaxed);
    if before == 0 {
        say("first");
    }
    if before + 1 == expect {
        say("done");
    }
    message.key_len() + message.payload_len()
}
