//! Where a partition is fetched: a set has one client for partitions that are behind, and one for those at
//! their end. Used by the readers of a set.
//!
//! A client has one fetch at a time under way with each broker, and the broker holds it until one of the
//! partitions in it has something. A partition whose queue was full when the fetch was sent is not in it: once
//! its queue is empty it waits until the others get something. So whoever is behind shares a client only with
//! those that are behind, and is never held up for long; whoever is at its end costs next to nothing there.
//!
//! Invariant: a lane's client lives as long as somebody reads through it.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::BaseConsumer;
use tokio::sync::{Notify, OnceCell, watch};

use crate::clock::Clock;
use crate::limits;
use crate::types::{Offset, TopicName, TopicPartition};

use super::super::super::LogError;
use super::super::budget::{QueueBudget, Share};
use super::super::client::Client;
use super::super::context::{Context, Health};
use super::super::error;
use super::super::native::{Message, PartitionQueue};
use super::super::settings::KafkaSettings;
use super::super::topics::{Topics, native_partition};

type ReaderClient = Client<BaseConsumer<Context>>;

/// Of a set: what is fetched together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Partitions that are behind, or may be.
    CatchUp,
    /// Partitions that are at their end, or as good as.
    Tail,
}

/// The lanes of a set.
pub(in super::super) struct Lanes {
    settings: KafkaSettings,
    name: String,
    topics: Arc<Topics>,
    queues: QueueBudget,
    clock: Clock,
    /// Promised when the first partition is opened: its topic tells how many queues there will be. A partition
    /// is on one lane, but for the moment in which it changes.
    share: OnceCell<Share>,
    catch_up: Mutex<Weak<LaneClient>>,
    tail: Mutex<Weak<LaneClient>>,
}

/// What all who read on a lane share.
struct LaneClient {
    client: Arc<ReaderClient>,
    health: Arc<Health>,
}

impl Lanes {
    /// Lanes without clients yet.
    pub(in super::super) fn new(
        settings: &KafkaSettings,
        name: &str,
        topics: Arc<Topics>,
        queues: QueueBudget,
        clock: Clock,
    ) -> Self {
        Self {
            settings: settings.clone(),
            name: name.to_owned(),
            topics,
            queues,
            clock,
            share: OnceCell::new(),
            catch_up: Mutex::default(),
            tail: Mutex::default(),
        }
    }

    /// What is known of topics.
    pub(super) fn topics(&self) -> &Arc<Topics> {
        &self.topics
    }

    /// Begins to fetch a partition on a lane.
    ///
    /// # Errors
    /// If the topic is not there, or no client can be made.
    pub(super) async fn fetch(
        &self,
        lane: Lane,
        of: &TopicPartition,
        from: Offset,
    ) -> Result<Fetching, LogError> {
        let queue_bytes_max = self.queue_bytes_max(&of.topic).await?;
        let client = self.client(lane, queue_bytes_max)?;
        let arrived = Arc::new(Notify::new());
        let wake = Arc::clone(&arrived);
        let queue = PartitionQueue::start(
            Arc::clone(&client.client),
            of.topic.as_str(),
            native_partition(of),
            i64::try_from(from.0).unwrap_or(i64::MAX),
            move || wake.notify_one(),
        );
        let queue = queue.map_err(|code| error::asked(code, &format!("reading {of}")))?;
        Ok(Fetching {
            queue,
            lane,
            arrived,
            outages: client.health.outages(),
            pace: Pace::new(lane, queue_bytes_max, &self.clock),
            clock: self.clock.clone(),
            client,
        })
    }

    async fn queue_bytes_max(&self, topic: &TopicName) -> Result<usize, LogError> {
        let share = self.share.get_or_try_init(async || {
            let partitions = self.topics.partitions(topic).await?;
            let most = self.settings.reader_queue_bytes_max;
            Ok::<_, LogError>(self.queues.share(partitions, most))
        });
        Ok(share.await?.partition_bytes_max)
    }

    fn client(&self, lane: Lane, queue_bytes_max: usize) -> Result<Arc<LaneClient>, LogError> {
        let mut slot = match lane {
            Lane::CatchUp => self.catch_up.lock(),
            Lane::Tail => self.tail.lock(),
        };
        if let Some(client) = slot.upgrade() {
            return Ok(client);
        }
        let config = match lane {
            Lane::CatchUp => self.settings.catch_up_reader(&self.name, queue_bytes_max),
            Lane::Tail => self.settings.reader(&self.name, queue_bytes_max),
        };
        let context = Context::new(&self.name);
        let health = Arc::clone(context.health());
        let consumer: BaseConsumer<Context> = config
            .create_with_context(context)
            .map_err(|error| error::made(&error))?;
        let made = Arc::new(LaneClient {
            client: Client::serve(consumer),
            health,
        });
        *slot = Arc::downgrade(&made);
        Ok(made)
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A partition that is being fetched on a lane. Fields are dropped in order: the queue goes before its client.
pub(super) struct Fetching {
    queue: PartitionQueue<ReaderClient>,
    lane: Lane,
    /// The queue has something again.
    arrived: Arc<Notify>,
    outages: watch::Receiver<u64>,
    pace: Pace,
    clock: Clock,
    client: Arc<LaneClient>,
}

/// What one waits for in front of an empty queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrived {
    /// The queue has something.
    Something,
    /// No broker can be reached.
    Outage,
}

impl Fetching {
    /// The first message that is not done with, as [`PartitionQueue::first`].
    pub(super) fn first(&mut self, take: usize) -> Option<Message<'_>> {
        self.queue.first(take)
    }

    /// Gives back the message that [`first`](Self::first) showed.
    pub(super) fn done(&mut self) {
        self.queue.done();
    }

    /// So much was read.
    pub(super) fn has_read(&mut self, records: usize, bytes: usize) {
        self.pace.has_read(records, bytes, &self.clock);
        self.answered();
    }

    /// The end of the partition was read.
    pub(super) fn has_ended(&mut self) {
        self.pace.has_ended();
        self.answered();
    }

    fn answered(&mut self) {
        self.client.health.answered();
        // What was unreachable is reachable.
        self.outages.mark_unchanged();
    }

    /// Waits until the queue has something.
    pub(super) async fn arrived(&mut self) -> Arrived {
        tokio::select! {
            () = self.arrived.notified() => Arrived::Something,
            // The client is not gone, and so are its outages.
            Ok(()) = self.outages.changed() => Arrived::Outage,
        }
    }

    /// The error that says that no broker answers.
    pub(super) fn outage(&self) -> LogError {
        self.client.health.outage()
    }

    /// The lane on which the partition should be instead, asked when its queue is empty; `None` if it is on
    /// the right one.
    pub(super) fn better_lane(&self) -> Option<Lane> {
        let best = self.pace.lane(self.lane, self.clock.elapsed());
        (best != self.lane).then_some(best)
    }

    /// In how long to ask for a [better lane](Self::better_lane) again, though nothing arrives until then.
    pub(super) fn looks_again_in(&self) -> Option<Duration> {
        let may_change = self.lane == Lane::CatchUp && self.pace.at_end;
        may_change.then(|| self.pace.busy_until.saturating_sub(self.clock.elapsed()))
    }

    /// It could not change its lane: it stays on this one for a while.
    pub(super) fn stays(&mut self) {
        self.pace.busy_until = Pace::busy_until(self.lane, &self.clock);
    }
}

/// How much comes of a partition, and so which lane it belongs on.
#[derive(Debug)]
struct Pace {
    /// Read since the end was met, or since it was too much for that.
    records: usize,
    bytes: usize,
    /// From how many on it is too much: what fills half a queue.
    much_records: usize,
    much_bytes: usize,
    /// Nothing was read since the end was met.
    at_end: bool,
    /// By the clock: until then it counts as behind.
    busy_until: Duration,
}

impl Pace {
    fn new(lane: Lane, queue_bytes_max: usize, clock: &Clock) -> Self {
        Self {
            records: 0,
            bytes: 0,
            much_records: limits::kafka_reader_queue_records(queue_bytes_max).div_ceil(2),
            much_bytes: queue_bytes_max / 2,
            at_end: false,
            busy_until: Self::busy_until(lane, clock),
        }
    }

    /// So that it stays on its lane for a while, if nothing comes.
    fn busy_until(lane: Lane, clock: &Clock) -> Duration {
        match lane {
            Lane::CatchUp => clock.elapsed() + limits::KAFKA_CATCH_UP_LASTS,
            Lane::Tail => Duration::ZERO,
        }
    }

    fn has_read(&mut self, records: usize, bytes: usize, clock: &Clock) {
        self.at_end = false;
        self.records += records;
        self.bytes += bytes;
        // Soon the queue may be full, and the partition not in the next fetch.
        if self.records >= self.much_records || self.bytes >= self.much_bytes {
            (self.records, self.bytes) = (0, 0);
            self.busy_until = Self::busy_until(Lane::CatchUp, clock);
        }
    }

    fn has_ended(&mut self) {
        self.at_end = true;
        (self.records, self.bytes) = (0, 0);
    }

    fn lane(&self, now: Lane, elapsed: Duration) -> Lane {
        match now {
            _ if elapsed < self.busy_until => Lane::CatchUp,
            Lane::CatchUp if !self.at_end => Lane::CatchUp,
            _ => Lane::Tail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = limits::KAFKA_CATCH_UP_LASTS;
    const QUEUE_BYTES: usize = 1_000_000;
    const MUCH_RECORDS: usize = limits::kafka_reader_queue_records(QUEUE_BYTES) / 2;

    fn pace(lane: Lane) -> (Pace, Clock) {
        let clock = Clock::manual(0, 1);
        (Pace::new(lane, QUEUE_BYTES, &clock), clock)
    }

    #[test]
    fn a_partition_leaves_the_catch_up_at_its_end_once_little_comes() {
        let (mut pace, clock) = pace(Lane::CatchUp);
        clock.advance(10 * LASTS);
        assert_eq!(
            pace.lane(Lane::CatchUp, clock.elapsed()),
            Lane::CatchUp,
            "nobody knows where its end is"
        );
        pace.has_read(MUCH_RECORDS, 1, &clock);
        pace.has_ended();
        assert_eq!(pace.lane(Lane::CatchUp, clock.elapsed()), Lane::CatchUp);
        clock.advance(LASTS);
        assert_eq!(pace.lane(Lane::CatchUp, clock.elapsed()), Lane::Tail);
    }

    #[test]
    fn a_partition_of_which_much_comes_without_an_end_catches_up() {
        let (mut pace, clock) = pace(Lane::Tail);
        for _ in 0..100 {
            pace.has_read(MUCH_RECORDS - 1, QUEUE_BYTES / 2 - 1, &clock);
            assert_eq!(pace.lane(Lane::Tail, clock.elapsed()), Lane::Tail);
            pace.has_ended();
        }
        pace.has_read(MUCH_RECORDS - 1, 0, &clock);
        pace.has_read(1, 0, &clock);
        assert_eq!(pace.lane(Lane::Tail, clock.elapsed()), Lane::CatchUp);
        clock.advance(LASTS);
        pace.has_read(1, QUEUE_BYTES / 2, &clock);
        assert_eq!(pace.lane(Lane::Tail, clock.elapsed()), Lane::CatchUp);
    }
}
