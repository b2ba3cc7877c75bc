//! A real Kafka broker (one KRaft node on this machine, from the jars that `tests/setup` keeps) and
//! what scenarios do to its topics. Called by the scenarios on Kafka.
//!
//! Invariant: a broker keeps its data and its port over [`Broker::stop`], [`Broker::kill`] and
//! [`Broker::restart`], as a real one would.

pub mod console;
pub mod flow;

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use crate::paths::{Scratch, cache, repository};
use crate::process::Supervised;
use crate::wait::{free_port, wait_until_ok};

/// A cold JVM on a busy machine with two cores.
const STARTS_WITHIN: Duration = Duration::from_secs(90);
const STOPS_WITHIN: Duration = Duration::from_secs(60);
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// A cluster id as Kafka's tools make them: 16 bytes, base64. Any will do.
const CLUSTER_ID: &str = "Zm9sZGhvc3QtdGVzdHMtMQ";

/// How a broker logs.
const BROKER_LOG: &str = "log4j2.properties";

/// A broker with its own data folder and port.
#[derive(Debug)]
pub struct Broker {
    scratch: Scratch,
    port: u16,
    process: Option<Supervised>,
}

/// A record as it lies in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
    /// The key, if it has one.
    pub key: Option<Vec<u8>>,
    /// The value; none is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// The broker that the scenarios of one test program share. It is started for the first one and ends
/// with the program.
///
/// # Errors
/// If it does not start; the next caller tries again.
pub fn shared() -> Result<Arc<Broker>> {
    static SHARED: Mutex<Option<Arc<Broker>>> = Mutex::new(None);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(broker) = shared.as_ref() {
        return Ok(Arc::clone(broker));
    }
    let broker = Arc::new(Broker::start()?);
    *shared = Some(Arc::clone(&broker));
    Ok(broker)
}

impl Broker {
    /// A new, empty broker that answers.
    ///
    /// # Errors
    /// If the jars are missing (the message says how to get them) or the broker does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(|_, _| String::new(), &[])
    }

    /// As [`Self::start`], with settings of its own, which win over the usual ones (they are told the
    /// ports of the broker and of the controller), and arguments for formatting its folder.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(extra: impl Fn(u16, u16) -> String, format: &[&str]) -> Result<Self> {
        // Another program may take a port between finding and using it.
        let mut last = None;
        for _ in 0..3 {
            match Self::try_start(&extra, format) {
                Ok(broker) => return Ok(broker),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("three attempts left an error"))
    }

    fn try_start(extra: &dyn Fn(u16, u16) -> String, format: &[&str]) -> Result<Self> {
        let scratch = Scratch::new("kafka")?;
        let (port, controller_port) = (free_port()?, free_port()?);
        let usual = settings(&scratch, port, controller_port);
        scratch.write("server.properties", usual + &extra(port, controller_port))?;
        let format = java(&["-Xmx256m"], BROKER_LOG)?
            .args([
                "kafka.tools.StorageTool",
                "format",
                "--standalone",
                "-t",
                CLUSTER_ID,
                "-c",
            ])
            .arg(scratch.join("server.properties"))
            .args(format)
            .output()
            .context("cannot start java")?;
        if !format.status.success() {
            bail!(
                "formatting failed: {}",
                String::from_utf8_lossy(&format.stderr)
            );
        }
        let mut broker = Self {
            scratch,
            port,
            process: None,
        };
        broker.restart()?;
        Ok(broker)
    }

    /// What clients connect to: `127.0.0.1:<port>`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the broker again after [`Self::stop`] or [`Self::kill`], on the same data and port, and
    /// waits until it answers.
    ///
    /// # Errors
    /// If it does not; the end of its log is in the message.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = java(&["-Xms256m", "-Xmx768m", "-XX:+UseSerialGC"], BROKER_LOG)?;
        command
            .arg("kafka.Kafka")
            .arg(self.scratch.join("server.properties"));
        command.current_dir(self.scratch.path());
        let mut process = Supervised::spawn(&mut command, &self.scratch.join("broker.log"))?;
        let mut ended = None;
        let answers = wait_until_ok(STARTS_WITHIN, "the broker to answer", || {
            ended = process.ended()?;
            if ended.is_some() {
                return Ok(false);
            }
            // The port can answer before the broker is registered with the controller.
            let metadata = self
                .consumer()?
                .fetch_metadata(None, Duration::from_secs(1))?;
            if metadata.brokers().is_empty() {
                Err(anyhow!("no broker yet"))
            } else {
                Ok(true)
            }
        });
        match answers {
            Ok(true) => {}
            Ok(false) => bail!(
                "the broker ended at once ({ended:?}):\n{}",
                process.log_tail()
            ),
            Err(error) => return Err(error.context(process.log_tail())),
        }
        self.process = Some(process);
        Ok(())
    }

    /// Stops the broker in order (SIGTERM).
    ///
    /// # Errors
    /// If it does not run, or does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the broker does not run")?;
        process.terminate()?;
        process.wait_for_end(STOPS_WITHIN)?;
        Ok(())
    }

    /// Kills the broker (SIGKILL).
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .context("the broker does not run")?
            .kill()
    }

    /// What the broker has logged.
    pub fn log(&self) -> String {
        self.process
            .as_ref()
            .map(Supervised::log)
            .unwrap_or_default()
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        // The harness looks away when a broker is down on purpose.
        config.set("log_level", "0");
        config
    }

    fn consumer(&self) -> Result<BaseConsumer> {
        Ok(self
            .config()
            .set("group.id", "harness")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()?)
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.config().create()?)
    }

    /// Creates a topic and waits until the broker knows it.
    ///
    /// # Errors
    /// If it exists, or the broker refuses.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let admin = self.admin()?;
        one(block_on(
            admin.create_topics([&topic], &AdminOptions::new()),
        )?)?;
        self.wait_for_partitions(name, usize::try_from(partitions)?)
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// If the broker refuses.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        let admin = self.admin()?;
        one(block_on(
            admin.delete_topics(&[name], &AdminOptions::new()),
        )?)?;
        wait_until_ok(ANSWERS_WITHIN, "the topic to go", || {
            match self.partitions(name)? {
                None => Ok(()),
                Some(_) => Err(anyhow!("it is there")),
            }
        })
    }

    /// Grows a topic to `partitions`.
    ///
    /// # Errors
    /// If the broker refuses.
    pub fn grow_topic(&self, name: &str, partitions: usize) -> Result<()> {
        let growth = NewPartitions::new(name, partitions);
        let admin = self.admin()?;
        one(block_on(
            admin.create_partitions([&growth], &AdminOptions::new()),
        )?)?;
        self.wait_for_partitions(name, partitions)
    }

    /// A topic's number of partitions; none if there is no such topic.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn partitions(&self, name: &str) -> Result<Option<usize>> {
        // Asking for one topic by name would create it on a broker that allows that.
        let metadata = self.consumer()?.fetch_metadata(None, ANSWERS_WITHIN)?;
        Ok(metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == name)
            .map(|topic| topic.partitions().len()))
    }

    /// The names of all topics.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn topics(&self) -> Result<Vec<String>> {
        let metadata = self.consumer()?.fetch_metadata(None, ANSWERS_WITHIN)?;
        Ok(metadata
            .topics()
            .iter()
            .map(|topic| topic.name().to_owned())
            .collect())
    }

    fn wait_for_partitions(&self, name: &str, count: usize) -> Result<()> {
        wait_until_ok(ANSWERS_WITHIN, "the topic's partitions", || {
            let consumer = self.consumer()?;
            for partition in 0..i32::try_from(count)? {
                consumer.fetch_watermarks(name, partition, Duration::from_secs(1))?;
            }
            Ok(())
        })
    }

    /// Appends keyed records where Kafka's own partitioner (murmur2) puts them. No value is a
    /// tombstone.
    ///
    /// # Errors
    /// If one is not acknowledged.
    pub fn produce(&self, topic: &str, records: &[(&str, Option<&str>)]) -> Result<()> {
        let records: Vec<_> = records
            .iter()
            .map(|(key, value)| (None, Some(*key), *value))
            .collect();
        self.write(topic, &records)
    }

    /// Appends one record to a named partition, also without a key.
    ///
    /// # Errors
    /// If it is not acknowledged.
    pub fn produce_to(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&str>,
        value: Option<&str>,
    ) -> Result<()> {
        self.write(topic, &[(Some(partition), key, value)])
    }

    /// Appends until every record is acknowledged: right after its start, a broker does not know its
    /// topics yet and refuses.
    fn write(&self, topic: &str, records: &[Outgoing<'_>]) -> Result<()> {
        let mut left: Vec<usize> = (0..records.len()).collect();
        wait_until_ok(ANSWERS_WITHIN, "records to be acknowledged", || {
            let refusals = Refusals::default();
            let producer: BaseProducer<Refusals> = self
                .config()
                .set("partitioner", "murmur2_random")
                .set("acks", "all")
                .set("enable.idempotence", "true")
                .create_with_context(refusals.clone())?;
            for index in &left {
                send(&producer, topic, *index, records[*index])?;
            }
            producer.flush(ANSWERS_WITHIN)?;
            let refused = refusals.take();
            left = refused.iter().map(|(index, _)| *index).collect();
            ensure!(left.is_empty(), "{refused:?}");
            Ok(())
        })
    }

    /// Removes the records of a partition that lie before `offset`, as retention would.
    ///
    /// # Errors
    /// If the broker refuses.
    pub fn delete_records(&self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        let admin = self.admin()?;
        let options = AdminOptions::new();
        let done = block_on(admin.delete_records(&before, &options))?;
        for element in done.elements() {
            element.error()?;
        }
        Ok(())
    }

    /// First and end offset of a partition, as far as its records are committed.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn range(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        let consumer = self.consumer()?;
        Ok(consumer.fetch_watermarks(topic, partition, ANSWERS_WITHIN)?)
    }

    /// Every committed record of a topic, by partition and offset.
    ///
    /// # Errors
    /// If the topic is not there or the broker does not answer.
    pub fn read_all(&self, topic: &str) -> Result<Vec<Record>> {
        let count = self
            .partitions(topic)?
            .with_context(|| format!("no topic {topic}"))?;
        let consumer = self.consumer()?;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..i32::try_from(count)? {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        let mut records = Vec::new();
        let mut ended = vec![false; count];
        while ended.contains(&false) {
            match consumer.poll(ANSWERS_WITHIN) {
                None => bail!("the end of {topic} did not come within {ANSWERS_WITHIN:?}"),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ended[usize::try_from(partition)?] = true;
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(message)) => records.push(Record {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                }),
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        Ok(records)
    }
}

/// Partition (`None` = by the key), key and value of a record that is to be written.
type Outgoing<'a> = (Option<i32>, Option<&'a str>, Option<&'a str>);

/// Records that were not acknowledged, by the index given to [`send`], with why.
#[derive(Clone, Default)]
struct Refusals(Arc<Mutex<Vec<(usize, String)>>>);

impl Refusals {
    fn take(&self) -> Vec<(usize, String)> {
        let mut refused =
            std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        refused.sort();
        refused
    }
}

impl ClientContext for Refusals {}

impl ProducerContext for Refusals {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, report: &DeliveryResult<'_>, index: Box<usize>) {
        if let Err((error, _)) = report {
            let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            refused.push((*index, error.to_string()));
        }
    }
}

fn send(
    producer: &BaseProducer<Refusals>,
    topic: &str,
    index: usize,
    (partition, key, value): Outgoing<'_>,
) -> Result<()> {
    let mut record: BaseRecord<'_, str, str, Box<usize>> =
        BaseRecord::with_opaque_to(topic, Box::new(index));
    record.partition = partition;
    record.key = key;
    record.payload = value;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            // The queue is full: let deliveries through.
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(100));
                record = back;
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// The one result of an admin request about one topic.
fn one(results: Vec<rdkafka::admin::TopicResult>) -> Result<()> {
    for result in results {
        result.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
    }
    Ok(())
}

/// `java` with the broker's jars on its path, logging as a file in `tests/kafka` says.
fn java(options: &[&str], log: &str) -> Result<Command> {
    let mut command = Command::new("java");
    let log = repository().join("tests/kafka").join(log);
    command
        .args(options)
        // The broker leaves the processors to the host that is tested.
        .args([
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Djava.awt.headless=true",
        ])
        .arg(format!("-Dlog4j2.configurationFile={}", log.display()))
        .arg("-cp")
        .arg(jars()?.join("*"));
    Ok(command)
}

/// The folder of jars for the version that `tests/kafka/pom.xml` names.
fn jars() -> Result<PathBuf> {
    let path = repository().join("tests/kafka/pom.xml");
    let pom = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let version = pom
        .split_once("<kafka.version>")
        .and_then(|(_, rest)| rest.split_once("</kafka.version>"))
        .map(|(version, _)| version)
        .context("tests/kafka/pom.xml names no kafka.version")?;
    let folder = cache().join(format!("kafka-{version}/libs"));
    if !folder.is_dir() {
        bail!(
            "no jars of Kafka at {}: run `tests/setup`",
            folder.display()
        );
    }
    Ok(folder)
}

/// One node that is broker and controller, with what a single node needs set to one.
fn settings(scratch: &Scratch, port: u16, controller_port: u16) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=PLAINTEXT\n\
         log.dirs={data}\n\
         auto.create.topics.enable=false\n\
         num.partitions=1\n\
         default.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n\
         log.segment.bytes=67108864\n",
        data = scratch.join("data").display(),
    )
}

/// Runs one future to its end on this thread. The admin client brings its own thread, so no runtime
/// is needed.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = TaskContext::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_keeps_its_records_when_it_is_killed() {
        let mut broker = Broker::start().unwrap();
        broker.create_topic("t", 2).unwrap();
        broker
            .produce("t", &[("a", Some("1")), ("b", Some("2")), ("a", None)])
            .unwrap();
        broker.produce_to("t", 1, None, Some("keyless")).unwrap();
        let before = broker.read_all("t").unwrap();
        assert_eq!(before.len(), 4);
        assert!(
            before
                .iter()
                .any(|record| record.key.is_none() && record.partition == 1)
        );
        broker.kill().unwrap();
        broker.restart().unwrap();
        assert_eq!(broker.read_all("t").unwrap(), before);
        broker.grow_topic("t", 3).unwrap();
        assert_eq!(broker.partitions("t").unwrap(), Some(3));
        broker.delete_topic("t").unwrap();
        assert!(!broker.topics().unwrap().contains(&"t".to_owned()));
    }
}
