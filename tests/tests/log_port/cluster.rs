//! What only a cluster can do to a host: hosts that share partitions, another writer's open
//! transaction, records that were removed, a broker that goes away.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use foldhost::clock::Clock;
use foldhost::limits;
use foldhost::log::kafka::{KafkaLog, KafkaSettings};
use foldhost::log::{AssignmentChange, Log, LogError, Read, ReadLimits, RecordBatch};
use foldhost::types::{Offset, Partition, TopicName};
use foldhost_tests::kafka::{self, Broker};
use foldhost_tests::wait::{Stopwatch, wait_until};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset as NativeOffset, TopicPartitionList};

use crate::bed::{
    Bed, GENEROUS, LIMITS, assigned, broker, create, foreign_producer, kafka_log, part,
    read_committed, read_to_end, recent_end, revoked, rows, soon, timed_async, to, values,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_share_partitions_and_take_over_when_one_leaves() -> Result<()> {
    let bed = Bed::kafka("k-shared")?;
    // No session ends by itself, also where the machine stands still for a while.
    let broker = broker()?;
    let log = kafka_log(&broker, &[("session.timeout.ms", "45000")])?;
    let topic = bed.topic("journal", 4).await?;
    let first = log.join("k-shared.group", "host-1", &topic).await?;
    ensure!(assigned(&*first).await?.len() == 4);
    let second = log.join("k-shared.group", "host-2", &topic).await?;
    let given = revoked(&*first).await?;
    ensure!(given.len() == 2, "{given:?}");
    ensure!(assigned(&*second).await? == given);
    first.confirm().await?;
    second.confirm().await?;

    // The group waits for a revoked partition to be let go of, with heartbeats going on.
    let third = log.join("k-shared.group", "host-3", &topic).await?;
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
        taking < Duration::from_secs(20),
        "nearly as long as a session: {taking:?}"
    );
    Ok(())
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reported_is_what_lag_tools_see() -> Result<()> {
    let bed = Bed::kafka("k-reported")?;
    let (topic, journal) = (
        bed.topic("events", 2).await?,
        bed.topic("journal", 1).await?,
    );
    bed.log.append(&topic, vec![to(1, "a"), to(1, "b")]).await?;
    let member = bed.log.join("k-reported.group", "host-1", &journal).await?;
    ensure!(assigned(&*member).await?.len() == 1);
    member.report(&[(part(&topic, 1), Offset(2))].into_iter().collect());
    let tool: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka::shared()?.bootstrap())
        .set("group.id", "k-reported.group")
        .create()?;
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic.as_str(), 1);
    wait_until(GENEROUS, "the reported offset", || {
        let seen = tool.committed_offsets(asked.clone(), GENEROUS).ok()?;
        (seen.elements()[0].offset() == NativeOffset::Offset(2)).then_some(())
    })?;
    member.leave().await;
    Ok(())
}

/// Sets of readers fetch partitions that are behind and those at their end through different clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_read_once_and_in_order_however_fast_they_come() -> Result<()> {
    let bed = Bed::kafka("k-bursts")?;
    let (log, topic) = (&*bed.log, bed.name("in"));
    create(log, &topic, 2).await?;
    let set = log.reader_set("bursts")?;
    let mut idle = set.open(&part(&topic, 1), Offset(0)).await?;
    assert_eq!(read_to_end(&mut *idle).await?, []);
    let mut reader = set.open(&part(&topic, 0), Offset(0)).await?;
    let (mut expected, mut found) = (0_u64, 0_u64);
    // More than a queue takes, and few; each after a pause in which a quiet partition changes its client.
    for burst in [30_000, 5, 30_000, 1] {
        let records = (expected..expected + burst).map(|number| to(0, &number.to_string()));
        log.append(&topic, records.collect()).await?;
        expected += burst;
        let mut batch = RecordBatch::new();
        while found < expected {
            batch.clear();
            soon("a record", reader.read(&mut batch, LIMITS)).await??;
            for (_, value) in rows(&batch) {
                assert_eq!(value, found.to_string());
                found += 1;
            }
        }
        batch.clear();
        let pause = 2 * limits::KAFKA_CATCH_UP_LASTS + limits::KAFKA_TAIL_FETCH_WAIT_MAX;
        let mut ends = 0;
        while let Ok(read) = tokio::time::timeout(pause, reader.read(&mut batch, LIMITS)).await {
            assert_eq!(read?, Read::EndOfPartition);
            ends += 1;
        }
        assert!(ends <= 1, "an end is told once, not {ends} times");
    }
    let mut batch = RecordBatch::new();
    log.append(&topic, vec![to(1, "last")]).await?;
    soon("a record", idle.read(&mut batch, LIMITS)).await??;
    assert_eq!(values(&rows(&batch)), ["last"]);
    Ok(())
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
    let mut reader = bed.reader(&of, 0).await?;
    let rows = read_committed(&mut *reader, 2).await?;
    ensure!(values(&rows) == ["first", "second"], "{rows:?}");
    let range = bed.log.range(&of).await?;
    ensure!(
        rows.iter().all(|(offset, _)| Offset(*offset) < range.end),
        "{rows:?} {range:?}"
    );
    ensure!(recent_end(&bed, of.clone()).await? == range.end.0);
    open.commit_transaction(GENEROUS)?;
    let rows = read_committed(&mut *reader, 2).await?;
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
    let log = KafkaLog::new(settings, Clock::system())?;
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
    let log = KafkaLog::new(settings, Clock::system())?;
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
    let broker = broker()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let closing = runtime.block_on(async {
        let log = kafka_log(&broker, &[])?;
        let topic = TopicName::new("k-closed.events").expect("letters and dots");
        create(&log, &topic, 1).await?;
        log.append(&topic, vec![to(0, "v")]).await?;
        let member = log.join("k-closed.group", "host-1", &topic).await?;
        ensure!(assigned(&*member).await?.len() == 1);
        let writer = log.transactional("k-closed.0").await?;
        let set = log.reader_set("test")?;
        let reader = set.open(&part(&topic, 0), Offset(0)).await?;
        let closing = Stopwatch::start();
        log.close(Duration::from_secs(5)).await;
        drop((writer, reader, set, member, log));
        Ok::<_, anyhow::Error>(closing)
    })?;
    runtime.shutdown_timeout(Duration::from_secs(20));
    let took = closing.elapsed();
    ensure!(took < Duration::from_secs(20), "{took:?}");
    Ok(())
}
