//! Records that keep coming on Kafka while hosts and the broker die and come back. Called by the scenarios
//! about what is published; on the embedded log, records come through the host (`feed`).
//!
//! Invariant: every record is written once, by one idempotent producer that waits for a broker that is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rdkafka::producer::{BaseProducer, Producer};

use super::{Broker, Refusals, send};
use crate::wait::wait_until_ok;

/// A broker that is away is back long before.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(120);
/// Batches a second.
const BATCHES: u32 = 50;
/// From one record's key to the next one's: all keys in turn, but not in their order.
const STRIDE: u64 = 7_919;

/// A thread that writes until [`Self::finish`].
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Flow {
    /// Begins to write records of the keys `k0` to `k<keys - 1>`, in turn.
    ///
    /// # Errors
    /// If the client library cannot start.
    pub fn start(broker: &Broker, topic: &str, keys: u64, per_second: u64) -> Result<Self> {
        let refusals = Refusals::default();
        let producer: BaseProducer<Refusals> = broker
            .config()
            .set("partitioner", "murmur2_random")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .create_with_context(refusals.clone())?;
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let topic = topic.to_owned();
        let (stopped, progress) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let batch = per_second.div_ceil(u64::from(BATCHES));
            let mut number = 0;
            let mut due = Instant::now();
            while !stopped.load(Ordering::SeqCst) {
                for _ in 0..batch {
                    let key = format!("k{}", number * STRIDE % keys);
                    let record = (None, Some(key.as_str()), Some("1"));
                    send(&producer, &topic, usize::try_from(number)?, record)?;
                    number += 1;
                }
                progress.store(number, Ordering::SeqCst);
                producer.poll(Duration::ZERO);
                // The rate is offered, not owed: what the machine did not take is not made up for.
                let now = Instant::now();
                due = due.max(now) + Duration::from_secs(1) / BATCHES;
                std::thread::sleep(due - now);
            }
            producer.flush(ACKNOWLEDGED_WITHIN)?;
            let refused = refusals.take();
            ensure!(refused.is_empty(), "not acknowledged: {refused:?}");
            Ok(())
        });
        Ok(Self { stop, sent, thread })
    }

    /// Waits until so many more records are sent.
    ///
    /// # Errors
    /// If that takes longer than `deadline`.
    pub fn wait_more(&self, records: u64, deadline: Duration) -> Result<()> {
        let goal = self.sent.load(Ordering::SeqCst) + records;
        wait_until_ok(deadline, "records to be sent", || {
            let sent = self.sent.load(Ordering::SeqCst);
            ensure!(!self.thread.is_finished(), "the flow has ended");
            ensure!(sent >= goal, "{sent} of {goal}");
            Ok(())
        })
    }

    /// Stops, waits until all that was sent is acknowledged, and gives its number.
    ///
    /// # Errors
    /// If something is not.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow!("the flow panicked"))??;
        Ok(self.sent.load(Ordering::SeqCst))
    }
}
