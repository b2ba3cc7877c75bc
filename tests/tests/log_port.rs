//! The contract of the log port, held against both adapters: the same assertions run on the embedded
//! log and on a real Kafka broker. What only a cluster can do to a host (another writer's open
//! transaction, retention, a broker that goes away, a member that takes over) follows at the end.
//!
//! These scenarios call the host's library: the port is not visible from outside.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use foldhost::clock::Clock;
use foldhost::log::embedded::{EmbeddedLog, EmbeddedSettings};
use foldhost::log::kafka::{KafkaLog, KafkaSettings};
use foldhost::log::{
    AssignmentChange, Cleanup, Log, LogError, Membership, NewRecord, NewTopic, PartitionReader,
    Partitioner, Read, ReadLimits, RecordBatch, Topic,
};
use foldhost::types::{Offset, Partition, TopicName, TopicPartition};
use foldhost_tests::kafka::{self, Broker};
use foldhost_tests::paths::Scratch;
use foldhost_tests::wait::timed;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset as NativeOffset, TopicPartitionList};

/// A busy machine with two cores.
const GENEROUS: Duration = Duration::from_secs(60);
const LIMITS: ReadLimits = ReadLimits {
    records_max: 1_000,
    bytes_max: 1024 * 1024,
};

/// A log under test, and a prefix that keeps the topics of one test apart from those of another.
struct Bed {
    log: Arc<dyn Log>,
    prefix: String,
    _scratch: Option<Scratch>,
    _broker: Option<Arc<Broker>>,
}

impl Bed {
    fn embedded(name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let log = EmbeddedLog::open(scratch.path(), Clock::system(), EmbeddedSettings::default())?;
        Ok(Self {
            log: Arc::new(log),
            prefix: name.to_owned(),
            _scratch: Some(scratch),
            _broker: None,
        })
    }

    fn kafka(name: &str) -> Result<Self> {
        let broker = kafka::shared()?;
        let log = Arc::new(kafka_log(&broker, &[])?);
        Ok(Self {
            log,
            prefix: name.to_owned(),
            _scratch: None,
            _broker: Some(broker),
        })
    }

    fn name(&self, suffix: &str) -> TopicName {
        TopicName::new(&format!("{}.{suffix}", self.prefix)).expect("letters and dots")
    }

    async fn topic(&self, suffix: &str, partitions: u32) -> Result<TopicName> {
        let name = self.name(suffix);
        create(&*self.log, &name, partitions).await?;
        Ok(name)
    }

    async fn reader(&self, of: &TopicPartition, from: u64) -> Result<Box<dyn PartitionReader>> {
        Ok(self.log.reader_set("test")?.open(of, Offset(from)).await?)
    }
}

fn kafka_log(broker: &Broker, properties: &[(&str, &str)]) -> Result<KafkaLog> {
    let mut all = vec![("bootstrap.servers".to_owned(), broker.bootstrap())];
    all.extend(
        properties
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    Ok(KafkaLog::new(KafkaSettings::new(
        all.into_iter().collect(),
    ))?)
}

async fn create(log: &dyn Log, name: &TopicName, partitions: u32) -> Result<Topic> {
    let new = NewTopic {
        name: name.clone(),
        partitions,
        replication_factor: None,
        cleanup: Cleanup::Default,
    };
    Ok(log.create_topic(&new).await?)
}

fn part(topic: &TopicName, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topic.clone(),
        partition: Partition(partition),
    }
}

fn record(key: &str, value: &str) -> NewRecord {
    NewRecord {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..NewRecord::default()
    }
}

fn to(partition: u32, value: &str) -> NewRecord {
    NewRecord {
        partition: Some(Partition(partition)),
        ..record("k", value)
    }
}

/// Fails a test that hangs, and says where.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(GENEROUS, future)
        .await
        .with_context(|| format!("waited for {what}"))
}

/// Reads to the end of the partition: offsets and values.
async fn read_to_end(reader: &mut dyn PartitionReader) -> Result<Vec<(u64, String)>> {
    let mut batch = RecordBatch::new();
    while soon("a record", reader.read(&mut batch, LIMITS)).await?? == Read::Records {}
    Ok(rows(&batch))
}

fn rows(batch: &RecordBatch) -> Vec<(u64, String)> {
    batch
        .iter()
        .map(|record| {
            let value = record
                .value
                .map_or("(none)".into(), |v| String::from_utf8_lossy(v));
            (record.offset.0, value.into_owned())
        })
        .collect()
}

fn values(rows: &[(u64, String)]) -> Vec<&str> {
    rows.iter().map(|(_, value)| value.as_str()).collect()
}

/// Runs a scenario on both logs.
macro_rules! on_both_logs {
    ($($name:ident),+ $(,)?) => {
        mod on_the_embedded_log {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() -> Result<()> {
                super::$name(Bed::embedded(concat!("e-", stringify!($name)))?).await
            })+
        }
        mod on_kafka {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() -> Result<()> {
                super::$name(Bed::kafka(concat!("k-", stringify!($name)))?).await
            })+
        }
    };
}

on_both_logs!(
    topics_come_and_go,
    what_is_appended_is_read_back_whole,
    the_end_is_told_once_each_time,
    a_read_keeps_to_its_limits,
    dropped_reads_lose_nothing,
    bad_appends_write_nothing,
    readers_open_anywhere_inside_the_log_only,
    offsets_are_found_by_time,
    a_transaction_is_seen_whole_or_not_at_all,
    a_new_writer_fences_the_old_one,
    a_member_gets_every_partition_and_is_confirmed_until_it_leaves,
);

async fn topics_come_and_go(bed: Bed) -> Result<()> {
    let name = bed.name("topic");
    ensure!(bed.log.topic(&name).await?.is_none());
    let made = create(&*bed.log, &name, 3).await?;
    ensure!(made.partitions == 3 && made.name == name, "{made:?}");
    ensure!(
        made.id.is_some(),
        "both logs can tell a topic from one of the same name"
    );
    ensure!(bed.log.topic(&name).await? == Some(made.clone()));
    let again = create(&*bed.log, &name, 3).await.unwrap_err();
    ensure!(
        matches!(again.downcast_ref(), Some(LogError::TopicExists(_))),
        "{again}"
    );

    let other = bed.topic("another", 1).await?;
    let all = bed.log.topics().await?;
    let mine: Vec<_> = all
        .iter()
        .map(|topic| &topic.name)
        .filter(|found| [&name, &other].contains(found))
        .collect();
    ensure!(mine == [&other, &name], "{mine:?}");
    ensure!(
        all.iter()
            .all(|topic| !topic.name.as_str().starts_with("__")),
        "{all:?}"
    );

    ensure!(bed.log.grow_topic(&name, 5).await?.partitions == 5);
    ensure!(
        bed.log.grow_topic(&name, 2).await?.partitions == 5,
        "none is taken away"
    );
    bed.log.append(&name, vec![to(4, "in the new one")]).await?;

    bed.log.delete_topic(&name).await?;
    ensure!(bed.log.topic(&name).await?.is_none());
    let gone = bed.log.delete_topic(&name).await.unwrap_err();
    ensure!(matches!(gone, LogError::UnknownTopic(_)), "{gone}");
    let gone = bed.log.grow_topic(&name, 9).await.unwrap_err();
    ensure!(matches!(gone, LogError::UnknownTopic(_)), "{gone}");
    let second = create(&*bed.log, &name, 3).await?;
    ensure!(
        second.id != made.id,
        "a topic that was made again is another one"
    );
    ensure!(bed.log.range(&part(&name, 0)).await? == (Offset(0)..Offset(0)));
    bed.log.check().await?;
    Ok(())
}

async fn what_is_appended_is_read_back_whole(bed: Bed) -> Result<()> {
    let topic = bed.topic("records", 4).await?;
    let full = NewRecord {
        key: Some("N14228".into()),
        value: Some("departed".into()),
        headers: vec![
            ("traceparent".into(), Some("00-1".into())),
            ("empty".into(), Some(Bytes::new())),
            ("none".into(), None),
            ("traceparent".into(), Some("00-2".into())),
        ],
        timestamp_ms: Some(1_357_016_400_000),
        partition: Some(Partition(2)),
    };
    let tombstone = NewRecord {
        value: None,
        ..to(2, "")
    };
    let empty = NewRecord {
        key: None,
        value: Some(Bytes::new()),
        ..to(2, "")
    };
    let places = bed.log.append(&topic, vec![full, tombstone, empty]).await?;
    let expected: Vec<_> = (0..3)
        .map(|offset| (Partition(2), Offset(offset)))
        .collect();
    ensure!(places == expected, "{places:?}");
    ensure!(bed.log.range(&part(&topic, 2)).await? == (Offset(0)..Offset(3)));

    let mut reader = bed.reader(&part(&topic, 2), 0).await?;
    let mut batch = RecordBatch::new();
    while soon("the records", reader.read(&mut batch, LIMITS)).await?? == Read::Records {}
    ensure!(batch.len() == 3);
    let first = batch.get(0);
    ensure!(first.key == Some(b"N14228") && first.value == Some(b"departed"));
    ensure!(first.timestamp_ms == 1_357_016_400_000 && first.offset == Offset(0));
    let headers: Vec<_> = first.headers().collect();
    let wanted: [(&str, Option<&[u8]>); 4] = [
        ("traceparent", Some(b"00-1")),
        ("empty", Some(b"")),
        ("none", None),
        ("traceparent", Some(b"00-2")),
    ];
    ensure!(headers == wanted, "{headers:?}");
    ensure!(batch.get(1).value.is_none() && batch.get(1).key == Some(b"k"));
    ensure!(batch.get(2).value == Some(b"") && batch.get(2).key.is_none());
    ensure!(batch.get(2).headers().len() == 0 && batch.get(2).timestamp_ms > 0);

    // Keys go where Kafka's own clients put them; those without one are spread.
    for key in ["N14228", "foobar", "äöü", ""] {
        let (partition, _) = bed.log.append(&topic, vec![record(key, "v")]).await?[0];
        ensure!(
            partition == Partitioner::Murmur2.partition(key.as_bytes(), 4),
            "{key}"
        );
    }
    let keyless = || NewRecord {
        key: None,
        ..record("", "v")
    };
    let places = bed
        .log
        .append(&topic, (0..8).map(|_| keyless()).collect())
        .await?;
    let used: std::collections::BTreeSet<_> =
        places.iter().map(|(partition, _)| partition).collect();
    ensure!(used.len() == 4, "{places:?}");
    Ok(())
}

async fn the_end_is_told_once_each_time(bed: Bed) -> Result<()> {
    let topic = bed.topic("end", 1).await?;
    let mut reader = bed.reader(&part(&topic, 0), 0).await?;
    let mut batch = RecordBatch::new();
    ensure!(soon("the end", reader.read(&mut batch, LIMITS)).await?? == Read::EndOfPartition);
    // Nothing more is told until something comes.
    let waiting = tokio::time::timeout(Duration::from_millis(300), reader.read(&mut batch, LIMITS));
    ensure!(waiting.await.is_err());
    for round in 0..3 {
        bed.log.append(&topic, vec![to(0, "a"), to(0, "b")]).await?;
        let rows = read_to_end(&mut *reader).await?;
        let expected = [(round * 2, "a".to_owned()), (round * 2 + 1, "b".to_owned())];
        ensure!(rows == expected, "{rows:?}");
    }
    // A reader that opens at the end is told so.
    drop(reader);
    let mut reader = bed.reader(&part(&topic, 0), 6).await?;
    ensure!(soon("the end", reader.read(&mut batch, LIMITS)).await?? == Read::EndOfPartition);
    Ok(())
}

async fn a_read_keeps_to_its_limits(bed: Bed) -> Result<()> {
    let topic = bed.topic("limits", 1).await?;
    let big = "x".repeat(10_000);
    let mut records: Vec<_> = (0..50).map(|number| to(0, &number.to_string())).collect();
    records.push(to(0, &big));
    records.extend((50..60).map(|number| to(0, &number.to_string())));
    bed.log.append(&topic, records).await?;
    let mut reader = bed.reader(&part(&topic, 0), 0).await?;
    let limits = ReadLimits {
        records_max: 7,
        bytes_max: 100,
    };
    let (mut seen, mut large) = (Vec::new(), 0);
    loop {
        let mut batch = RecordBatch::new();
        if soon("a batch", reader.read(&mut batch, limits)).await?? == Read::EndOfPartition {
            ensure!(batch.is_empty());
            break;
        }
        ensure!(!batch.is_empty() && batch.len() <= 7);
        if batch.bytes() > 100 {
            ensure!(batch.len() == 1, "a larger record comes alone");
            large += 1;
        }
        seen.extend(batch.iter().map(|record| record.offset.0));
    }
    ensure!(
        large == 1 && seen == (0..61).collect::<Vec<_>>(),
        "{seen:?}"
    );
    Ok(())
}

async fn dropped_reads_lose_nothing(bed: Bed) -> Result<()> {
    let topic = bed.topic("dropped", 1).await?;
    let mut reader = bed.reader(&part(&topic, 0), 0).await?;
    let log = Arc::clone(&bed.log);
    let appended = topic.clone();
    let appending = tokio::spawn(async move {
        for number in 0..200 {
            log.append(&appended, vec![to(0, &number.to_string())])
                .await?;
        }
        Ok::<_, LogError>(())
    });
    let mut batch = RecordBatch::new();
    let reading = async {
        while batch.len() < 200 {
            // Most of these are dropped while they wait.
            let read = reader.read(&mut batch, LIMITS);
            if let Ok(read) = tokio::time::timeout(Duration::from_millis(1), read).await {
                read?;
            }
        }
        Ok::<_, LogError>(())
    };
    soon("200 records", reading).await??;
    appending.await??;
    let expected: Vec<_> = (0..200)
        .map(|number| (number, number.to_string()))
        .collect();
    ensure!(rows(&batch) == expected);
    Ok(())
}

async fn bad_appends_write_nothing(bed: Bed) -> Result<()> {
    let topic = bed.topic("bad", 2).await?;
    let missing = bed.name("missing");
    let error = bed
        .log
        .append(&missing, vec![record("k", "v")])
        .await
        .unwrap_err();
    ensure!(matches!(error, LogError::UnknownTopic(_)), "{error}");
    ensure!(
        bed.log.topic(&missing).await?.is_none(),
        "it was not created by accident"
    );
    let error = bed
        .log
        .append(&topic, vec![to(1, "a"), to(2, "b")])
        .await
        .unwrap_err();
    ensure!(matches!(error, LogError::UnknownPartition(_)), "{error}");
    let large = to(1, &"x".repeat(1024 * 1024));
    let error = bed
        .log
        .append(&topic, vec![to(1, "a"), large])
        .await
        .unwrap_err();
    ensure!(
        matches!(error, LogError::RecordTooLarge { index: 1, .. }),
        "{error}"
    );
    ensure!(bed.log.range(&part(&topic, 1)).await? == (Offset(0)..Offset(0)));
    ensure!(bed.log.append(&topic, Vec::new()).await?.is_empty());

    let error = bed.log.range(&part(&topic, 2)).await.unwrap_err();
    ensure!(matches!(error, LogError::UnknownPartition(_)), "{error}");
    let error = bed.log.range(&part(&missing, 0)).await.unwrap_err();
    ensure!(matches!(error, LogError::UnknownTopic(_)), "{error}");
    let set = bed.log.reader_set("test")?;
    let error = set.open(&part(&missing, 0), Offset(0)).await.unwrap_err();
    ensure!(matches!(error, LogError::UnknownTopic(_)), "{error}");
    let error = bed
        .log
        .join("group", "instance", &missing)
        .await
        .unwrap_err();
    ensure!(matches!(error, LogError::UnknownTopic(_)), "{error}");
    ensure!(bed.log.topic(&missing).await?.is_none());
    Ok(())
}

async fn readers_open_anywhere_inside_the_log_only(bed: Bed) -> Result<()> {
    let topic = bed.topic("inside", 1).await?;
    let records = (0..5).map(|number| to(0, &number.to_string())).collect();
    bed.log.append(&topic, records).await?;
    let set = bed.log.reader_set("test")?;
    for from in 0..=5_u64 {
        // A reader that is dropped frees its partition at once.
        let mut reader = set.open(&part(&topic, 0), Offset(from)).await?;
        let rows = read_to_end(&mut *reader).await?;
        let offsets: Vec<u64> = rows.iter().map(|(offset, _)| *offset).collect();
        ensure!(
            offsets == (from..5).collect::<Vec<_>>(),
            "from {from}: {offsets:?}"
        );
    }
    let error = set.open(&part(&topic, 0), Offset(6)).await.unwrap_err();
    let LogError::OffsetOutOfRange { wanted, range, .. } = error else {
        bail!("{error}")
    };
    ensure!(wanted == Offset(6) && range == (Offset(0)..Offset(5)));
    Ok(())
}

async fn offsets_are_found_by_time(bed: Bed) -> Result<()> {
    let topic = bed.topic("times", 1).await?;
    let at = |timestamp_ms| NewRecord {
        timestamp_ms: Some(timestamp_ms),
        ..to(0, "v")
    };
    bed.log
        .append(&topic, vec![at(1_000), at(2_000), at(3_000)])
        .await?;
    for (timestamp_ms, offset) in [(0, 0), (1_000, 0), (1_001, 1), (3_000, 2), (3_001, 3)] {
        let found = bed.log.offset_at(&part(&topic, 0), timestamp_ms).await?;
        ensure!(found == Offset(offset), "{timestamp_ms}: {found}");
    }
    Ok(())
}

async fn a_transaction_is_seen_whole_or_not_at_all(bed: Bed) -> Result<()> {
    let (rows_topic, progress) = (bed.topic("rows", 2).await?, bed.topic("progress", 1).await?);
    let mut writer = bed
        .log
        .transactional(&format!("{}.loader", bed.prefix))
        .await?;
    ensure!(writer.commit(Vec::new()).await?.is_empty());
    let mut last = None;
    for round in 0..3 {
        let places = writer
            .commit(vec![
                (rows_topic.clone(), to(0, &format!("{round}-a"))),
                (rows_topic.clone(), to(1, &format!("{round}-b"))),
                (progress.clone(), to(0, &round.to_string())),
            ])
            .await?;
        ensure!(places.len() == 3 && places[0].0 == Partition(0) && places[1].0 == Partition(1));
        last = Some(places[2].1);
    }
    let mut reader = bed.reader(&part(&progress, 0), 0).await?;
    let rows = read_to_end(&mut *reader).await?;
    ensure!(values(&rows) == ["0", "1", "2"], "{rows:?}");
    ensure!(
        rows.last().map(|(offset, _)| Offset(*offset)) == last,
        "the places are true"
    );
    let range = bed.log.range(&part(&progress, 0)).await?;
    ensure!(Some(range.end) > last, "{range:?}");
    for partition in 0..2 {
        let mut reader = bed.reader(&part(&rows_topic, partition), 0).await?;
        ensure!(read_to_end(&mut *reader).await?.len() == 3);
    }

    // One bad record takes all back.
    let end = bed.log.range(&part(&rows_topic, 0)).await?.end;
    let missing = bed.name("missing");
    let bad = vec![(rows_topic.clone(), to(0, "no")), (missing, to(0, "no"))];
    let error = writer.commit(bad).await.unwrap_err();
    ensure!(matches!(error, LogError::UnknownTopic(_)), "{error}");
    ensure!(bed.log.range(&part(&rows_topic, 0)).await?.end == end);
    Ok(())
}

async fn a_new_writer_fences_the_old_one(bed: Bed) -> Result<()> {
    let topic = bed.topic("fenced", 1).await?;
    let id = format!("{}.0", bed.prefix);
    let mut old = bed.log.transactional(&id).await?;
    old.commit(vec![(topic.clone(), to(0, "old"))]).await?;
    let mut new = bed.log.transactional(&id).await?;
    let error = old
        .commit(vec![(topic.clone(), to(0, "zombie"))])
        .await
        .unwrap_err();
    ensure!(matches!(error, LogError::Fenced(_)), "{error}");
    new.commit(vec![(topic.clone(), to(0, "new"))]).await?;
    // Used up is used up.
    ensure!(
        old.commit(vec![(topic.clone(), to(0, "zombie"))])
            .await
            .is_err()
    );
    let mut reader = bed.reader(&part(&topic, 0), 0).await?;
    let rows = read_to_end(&mut *reader).await?;
    ensure!(values(&rows) == ["old", "new"], "{rows:?}");
    Ok(())
}

async fn a_member_gets_every_partition_and_is_confirmed_until_it_leaves(bed: Bed) -> Result<()> {
    let topic = bed.topic("journal", 4).await?;
    let member = bed
        .log
        .join(&format!("{}.group", bed.prefix), "host-1", &topic)
        .await?;
    ensure!(assigned(&*member).await? == partitions(0..4));
    member.confirm().await?;
    let next = [(part(&topic, 0), Offset(0))].into_iter().collect();
    member.report(&next);
    // Partitions that are added come too.
    bed.log.grow_topic(&topic, 6).await?;
    ensure!(assigned(&*member).await? == partitions(4..6));
    member.confirm().await?;
    soon("the member to leave", member.leave()).await?;
    ensure!(soon("the last change", member.change()).await?.is_none());
    let error = member.confirm().await.unwrap_err();
    ensure!(matches!(error, LogError::Fenced(_)), "{error}");
    Ok(())
}

fn partitions(range: std::ops::Range<u32>) -> Vec<Partition> {
    range.map(Partition).collect()
}

/// The next change, which must be an assignment.
async fn assigned(member: &dyn Membership) -> Result<Vec<Partition>> {
    match soon("an assignment", member.change()).await? {
        Some(AssignmentChange::Assigned(mut partitions)) => {
            partitions.sort_unstable();
            Ok(partitions)
        }
        other => bail!("an assignment was expected, not {other:?}"),
    }
}

/// The next change, which must take partitions away; lets go of them.
async fn revoked(member: &dyn Membership) -> Result<Vec<Partition>> {
    match soon("a revocation", member.change()).await? {
        Some(AssignmentChange::Revoked {
            mut partitions,
            done,
        }) => {
            partitions.sort_unstable();
            drop(done);
            Ok(partitions)
        }
        other => bail!("a revocation was expected, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_share_partitions_and_take_over_when_one_leaves() -> Result<()> {
    let bed = Bed::kafka("k-shared")?;
    let topic = bed.topic("journal", 4).await?;
    let first = bed.log.join("k-shared.group", "host-1", &topic).await?;
    ensure!(assigned(&*first).await?.len() == 4);
    let second = bed.log.join("k-shared.group", "host-2", &topic).await?;
    let given = revoked(&*first).await?;
    ensure!(given.len() == 2, "{given:?}");
    ensure!(assigned(&*second).await? == given);
    first.confirm().await?;
    second.confirm().await?;

    // The group waits for a revoked partition to be let go of, with heartbeats going on.
    let third = bed.log.join("k-shared.group", "host-3", &topic).await?;
    let (losing, other) = tokio::select! {
        change = first.change() => (change, &second),
        change = second.change() => (change, &first),
    };
    let Some(AssignmentChange::Revoked {
        partitions: kept,
        done,
    }) = losing
    else {
        bail!("a revocation was expected, not {losing:?}")
    };
    let early = tokio::time::timeout(Duration::from_secs(2), third.change()).await;
    ensure!(
        early.is_err(),
        "given away before it was let go of: {early:?}"
    );
    drop(done);
    ensure!(assigned(&*third).await? == kept);
    other.confirm().await?;

    let (leaving, left) = timed_async(third.leave()).await;
    println!("leaving took {leaving:?}");
    let () = left;
    // Whoever gets it has it long before a session would have ended.
    let (taking, taken) = timed_async(async {
        tokio::select! {
            change = assigned(&*first) => change,
            change = assigned(&*second) => change,
        }
    })
    .await;
    ensure!(taken? == kept);
    println!("taken over {taking:?} after leaving");
    ensure!(
        taking < Duration::from_secs(5),
        "as long as a session: {taking:?}"
    );
    Ok(())
}

async fn timed_async<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let clock = Clock::system();
    let value = work.await;
    (clock.elapsed(), value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_comes_back_keeps_its_partitions() -> Result<()> {
    let bed = Bed::kafka("k-static")?;
    let topic = bed.topic("journal", 4).await?;
    let first = bed.log.join("k-static.group", "host-1", &topic).await?;
    ensure!(assigned(&*first).await?.len() == 4);
    let second = bed.log.join("k-static.group", "host-2", &topic).await?;
    let given = revoked(&*first).await?;
    ensure!(assigned(&*second).await? == given);
    // As if it were killed: it does not leave.
    drop(second);
    let again = bed.log.join("k-static.group", "host-2", &topic).await?;
    ensure!(assigned(&*again).await? == given);
    again.confirm().await?;
    first.confirm().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_host_with_the_same_instance_fences_the_first() -> Result<()> {
    let bed = Bed::kafka("k-twice")?;
    let topic = bed.topic("journal", 2).await?;
    let first = bed.log.join("k-twice.group", "host-1", &topic).await?;
    ensure!(assigned(&*first).await?.len() == 2);
    let second = bed.log.join("k-twice.group", "host-1", &topic).await?;
    ensure!(assigned(&*second).await?.len() == 2);
    match soon("the loss", first.change()).await? {
        Some(AssignmentChange::Lost(lost)) => ensure!(lost.len() == 2),
        other => bail!("a loss was expected, not {other:?}"),
    }
    let error = soon("the verdict", async {
        loop {
            if let Err(error @ LogError::Fenced(_)) = first.confirm().await {
                break error;
            }
        }
    })
    .await?;
    ensure!(error.to_string().contains("data folder"), "{error}");
    second.confirm().await?;
    Ok(())
}

/// A producer of somebody else's, for what the port never does.
fn foreign_producer(broker: &Broker, id: &str) -> Result<BaseProducer> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .set("transactional.id", id)
        .create()?;
    producer.init_transactions(GENEROUS)?;
    Ok(producer)
}

fn foreign_send(producer: &BaseProducer, topic: &TopicName, value: &str) -> Result<()> {
    let record = BaseRecord::to(topic.as_str())
        .partition(0)
        .key("k")
        .payload(value);
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(GENEROUS)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_committed_records_are_read() -> Result<()> {
    let bed = Bed::kafka("k-committed")?;
    let broker = kafka::shared()?;
    let topic = bed.topic("events", 1).await?;
    let of = part(&topic, 0);
    bed.log.append(&topic, vec![to(0, "first")]).await?;
    let aborting = foreign_producer(&broker, "k-committed.aborting")?;
    aborting.begin_transaction()?;
    foreign_send(&aborting, &topic, "aborted")?;
    aborting.abort_transaction(GENEROUS)?;
    bed.log.append(&topic, vec![to(0, "second")]).await?;
    let open = foreign_producer(&broker, "k-committed.open")?;
    open.begin_transaction()?;
    foreign_send(&open, &topic, "open")?;
    bed.log.append(&topic, vec![to(0, "behind it")]).await?;

    // Everything up to the open transaction, and then the end, although there is more behind it.
    let range = bed.log.range(&of).await?;
    let mut reader = bed.reader(&of, 0).await?;
    let rows = read_to_end(&mut *reader).await?;
    ensure!(values(&rows) == ["first", "second"], "{rows:?}");
    ensure!(
        rows.iter().all(|(offset, _)| Offset(*offset) < range.end),
        "{rows:?} {range:?}"
    );
    open.commit_transaction(GENEROUS)?;
    let rows = read_to_end(&mut *reader).await?;
    ensure!(values(&rows) == ["open", "behind it"], "{rows:?}");

    // Behind the last record there is a marker: a reader from any place behind it finds the end.
    aborting.begin_transaction()?;
    foreign_send(&aborting, &topic, "aborted again")?;
    aborting.abort_transaction(GENEROUS)?;
    ensure!(read_to_end(&mut *reader).await?.is_empty());
    let last = rows[1].0;
    let end = bed.log.range(&of).await?.end.0;
    ensure!(end > last + 1, "markers take offsets");
    for from in last + 1..=end {
        let mut reader = bed.reader(&of, from).await?;
        ensure!(read_to_end(&mut *reader).await?.is_empty(), "from {from}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_says_when_its_next_record_was_removed() -> Result<()> {
    let bed = Bed::kafka("k-removed")?;
    let broker = kafka::shared()?;
    let topic = bed.topic("events", 1).await?;
    let of = part(&topic, 0);
    // More than fits the reader's queue, so that it has to fetch again after the removal.
    let value = "x".repeat(500_000);
    for _ in 0..24 {
        bed.log.append(&topic, vec![to(0, &value)]).await?;
    }
    let mut reader = bed.reader(&of, 0).await?;
    let mut batch = RecordBatch::new();
    let one = ReadLimits {
        records_max: 1,
        bytes_max: 1024,
    };
    soon("a record", reader.read(&mut batch, one)).await??;

    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .create()?;
    let mut removed = TopicPartitionList::new();
    removed.add_partition_offset(topic.as_str(), 0, NativeOffset::Offset(23))?;
    admin.delete_records(&removed, &AdminOptions::new()).await?;
    ensure!(bed.log.range(&of).await? == (Offset(23)..Offset(24)));

    let error = loop {
        match soon("the verdict", reader.read(&mut batch, one)).await? {
            Ok(Read::Records) => ensure!(batch.len() < 20, "the gap was stepped over"),
            Ok(Read::EndOfPartition) => bail!("the gap was stepped over"),
            Err(error) => break error,
        }
    };
    let LogError::OffsetOutOfRange { wanted, range, .. } = &error else {
        bail!("{error}")
    };
    ensure!(
        wanted.0 == batch.len() as u64 && *range == (Offset(23)..Offset(24)),
        "{error}"
    );
    // It is final.
    let again = reader.read(&mut batch, one).await.unwrap_err();
    ensure!(
        matches!(again, LogError::OffsetOutOfRange { .. }),
        "{again}"
    );
    drop(reader);
    let error = bed
        .log
        .reader_set("test")?
        .open(&of, Offset(0))
        .await
        .unwrap_err();
    ensure!(
        matches!(error, LogError::OffsetOutOfRange { .. }),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_waited_for() -> Result<()> {
    let mut broker = Broker::start()?;
    let log = kafka_log(
        &broker,
        &[
            ("socket.timeout.ms", "5000"),
            ("message.timeout.ms", "4000"),
        ],
    )?;
    let topic = TopicName::new("events").expect("letters");
    create(&log, &topic, 1).await?;
    log.append(&topic, vec![to(0, "before")]).await?;
    let set = log.reader_set("test")?;
    let mut reader = set.open(&part(&topic, 0), Offset(0)).await?;
    ensure!(values(&read_to_end(&mut *reader).await?) == ["before"]);
    let journal = TopicName::new("journal").expect("letters");
    create(&log, &journal, 1).await?;
    let member = log.join("group", "host-1", &journal).await?;
    ensure!(assigned(&*member).await?.len() == 1);

    broker.kill()?;
    let mut batch = RecordBatch::new();
    let error = soon("the reader to notice", reader.read(&mut batch, LIMITS))
        .await?
        .unwrap_err();
    ensure!(matches!(error, LogError::Unavailable(_)), "{error}");
    let error = log.append(&topic, vec![to(0, "lost")]).await.unwrap_err();
    ensure!(error.is_transient(), "{error}");
    let error = log.check().await.unwrap_err();
    ensure!(matches!(error, LogError::Unavailable(_)), "{error}");
    let error = member.confirm().await.unwrap_err();
    ensure!(!matches!(error, LogError::Rejected(_)), "{error}");
    // The session ends by itself when nobody answers for as long as it lasts.
    match soon("the loss", member.change()).await? {
        Some(AssignmentChange::Lost(lost)) => ensure!(lost == [Partition(0)]),
        other => bail!("a loss was expected, not {other:?}"),
    }
    ensure!(matches!(member.confirm().await, Err(LogError::Fenced(_))));

    broker.restart()?;
    ensure!(assigned(&*member).await? == [Partition(0)]);
    member.confirm().await?;
    soon("an append", async {
        while log.append(&topic, vec![to(0, "after")]).await.is_err() {}
    })
    .await?;
    // The same reader goes on.
    let rows = soon("the records", async {
        let mut batch = RecordBatch::new();
        while !values(&rows(&batch)).contains(&"after") {
            match reader.read(&mut batch, LIMITS).await {
                Ok(_) | Err(LogError::Unavailable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rows(&batch))
    })
    .await??;
    ensure!(
        rows.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "{rows:?}"
    );
    member.leave().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compression_is_written_and_read() -> Result<()> {
    let bed = Bed::kafka("k-compressed")?;
    let broker = kafka::shared()?;
    let topic = bed.topic("events", 1).await?;
    let codecs = ["gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        let log = kafka_log(&broker, &[("compression.codec", codec)])?;
        let records = (0..20).map(|_| to(0, &codec.repeat(200))).collect();
        log.append(&topic, records).await?;
    }
    let mut reader = bed.reader(&part(&topic, 0), 0).await?;
    let rows = read_to_end(&mut *reader).await?;
    ensure!(rows.len() == 80);
    for (index, (_, value)) in rows.iter().enumerate() {
        ensure!(*value == codecs[index / 20].repeat(200));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_topic_does_not_take_is_too_large() -> Result<()> {
    let bed = Bed::kafka("k-large")?;
    let broker = kafka::shared()?;
    let topic = bed.topic("events", 1).await?;
    let mut settings = KafkaSettings::new(
        [("bootstrap.servers".to_owned(), broker.bootstrap())]
            .into_iter()
            .collect(),
    );
    // More than the topic's own limit, which is the broker's default of about 1 MiB.
    settings.record_bytes_max = 4 * 1024 * 1024;
    let log = KafkaLog::new(settings)?;
    let large = to(0, &"x".repeat(2 * 1024 * 1024));
    let error = log.append(&topic, vec![large.clone()]).await.unwrap_err();
    ensure!(
        matches!(error, LogError::RecordTooLarge { index: 0, .. }),
        "{error}"
    );
    let mut writer = log.transactional("k-large.0").await?;
    let error = writer
        .commit(vec![(topic.clone(), large)])
        .await
        .unwrap_err();
    ensure!(
        matches!(error, LogError::RecordTooLarge { index: 0, .. }),
        "{error}"
    );
    log.append(&topic, vec![to(0, "goes on")]).await?;
    let mut reader = bed.reader(&part(&topic, 0), 0).await?;
    ensure!(values(&read_to_end(&mut *reader).await?) == ["goes on"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_append_keeps_its_order_and_its_places() -> Result<()> {
    let bed = Bed::kafka("k-long")?;
    let broker = kafka::shared()?;
    let topic = bed.topic("events", 4).await?;
    let mut settings = KafkaSettings::new(
        [("bootstrap.servers".to_owned(), broker.bootstrap())]
            .into_iter()
            .collect(),
    );
    // Far less than what is written, so that the queue is full most of the time.
    settings.writer_queue_bytes_max = 2 * 1024 * 1024;
    settings.record_bytes_max = 1024 * 1024;
    let log = KafkaLog::new(settings)?;
    let filler = "x".repeat(200);
    let records: Vec<_> = (0..60_000_u32)
        .map(|number| to(number % 4, &format!("{number} {filler}")))
        .collect();
    let (took, places) = timed_async(log.append(&topic, records)).await;
    let places = places?;
    println!("60,000 records of 200 bytes appended in {took:?}");
    for partition in 0..4_u32 {
        let expected: Vec<u64> = (0..15_000).collect();
        let mine: Vec<u64> = places
            .iter()
            .filter(|(at, _)| at.0 == partition)
            .map(|(_, offset)| offset.0)
            .collect();
        ensure!(mine == expected, "partition {partition}");
        let mut reader = bed.reader(&part(&topic, partition), 0).await?;
        let rows = read_to_end(&mut *reader).await?;
        for (row, (offset, value)) in rows.iter().enumerate() {
            let number = row * 4 + partition as usize;
            ensure!(
                *offset == row as u64 && value.starts_with(&format!("{number} ")),
                "{offset}"
            );
        }
        ensure!(rows.len() == 15_000);
    }
    Ok(())
}

#[test]
fn a_log_is_closed_without_a_trace() -> Result<()> {
    // Outside a runtime's threads: closing must not wait for one that is gone.
    let broker = kafka::shared()?;
    let (took, closed) = timed(|| -> Result<()> {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            let log = kafka_log(&broker, &[])?;
            let topic = TopicName::new("k-closed.events").expect("letters and dots");
            create(&log, &topic, 1).await?;
            log.append(&topic, vec![to(0, "v")]).await?;
            let member = log.join("k-closed.group", "host-1", &topic).await?;
            ensure!(assigned(&*member).await?.len() == 1);
            let writer = log.transactional("k-closed.0").await?;
            let set = log.reader_set("test")?;
            let reader = set.open(&part(&topic, 0), Offset(0)).await?;
            log.close(Duration::from_secs(5)).await;
            drop((writer, reader, set, member, log));
            Ok(())
        })?;
        runtime.shutdown_timeout(Duration::from_secs(20));
        Ok(())
    });
    closed?;
    ensure!(took < Duration::from_secs(20), "{took:?}");
    Ok(())
}
