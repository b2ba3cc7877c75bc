//! What is published without being told where it is: on both logs, and what only Kafka can show.

use anyhow::{Result, ensure};
use bytes::Bytes;
use foldhost::clock::Clock;
use foldhost::log::kafka::{KafkaLog, KafkaSettings};
use foldhost::log::{Log as _, LogError, NewRecords};
use foldhost::types::TopicName;
use foldhost_tests::kafka;

use crate::bed::{Bed, committed, part, read_committed, to, values};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_embedded_log() -> Result<()> {
    what_is_published_is_seen_whole(Bed::embedded("e-published")?).await?;
    one_publisher_at_a_time(Bed::embedded("e-publishers")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_kafka() -> Result<()> {
    what_is_published_is_seen_whole(Bed::kafka("k-published")?).await?;
    one_publisher_at_a_time(Bed::kafka("k-publishers")?).await
}

/// Records with values, all for the partition of one key.
fn of_key(topic: &TopicName, texts: &[&str]) -> NewRecords {
    let mut records = NewRecords::default();
    for text in texts {
        records.push(topic, 1_000, Some(b"k"), Some(text.as_bytes()), []);
    }
    records
}

async fn what_is_published_is_seen_whole(bed: Bed) -> Result<()> {
    let (told, journal) = (bed.topic("told", 1).await?, bed.topic("journal", 2).await?);
    let mut publisher = bed.log.publisher(&format!("{}.0", bed.prefix)).await?;
    let nothing = publisher.publish(NewRecords::default()).await?;
    ensure!(nothing.is_empty());

    let mut records = NewRecords::default();
    let headers = [
        ("by", Some(&b"me"[..])),
        ("empty", Some(b"")),
        ("none", None),
    ];
    let (key, value) = (Some(&b"N14228"[..]), Some(&b"told"[..]));
    records.push(&told, 1_357_016_400_000, key, value, headers);
    records.push(&told, 1_357_016_400_001, Some(b""), None, []);
    records.push(&told, 1_357_016_400_002, None, Some(b""), []);
    records.push_new(&journal, &to(1, "position"), 1_357_016_400_003);
    let mut records = publisher.publish(records).await?;
    let mut reader = bed.reader(&part(&told, 0), 0).await?;
    let batch = committed(&mut *reader, 3).await?;
    ensure!(batch.len() == 3);
    let first = batch.get(0);
    ensure!((first.key, first.value) == (key, value));
    ensure!(first.headers().collect::<Vec<_>>() == headers);
    let (second, third) = (batch.get(1), batch.get(2));
    ensure!((second.key, second.value) == (Some(&b""[..]), None));
    ensure!((third.key, third.value) == (None, Some(&b""[..])));
    ensure!(second.headers().len() == 0 && third.timestamp_ms == 1_357_016_400_002);
    let mut reader = bed.reader(&part(&journal, 1), 0).await?;
    let journalled = read_committed(&mut *reader, 1).await?;
    ensure!(values(&journalled) == ["position"]);

    // One bad record takes all back; the memory of the last ones serves again.
    records.clear();
    records.push(&told, 0, key, value, []);
    records.push(&bed.name("missing"), 0, key, value, []);
    let error = publisher.publish(records).await.unwrap_err();
    ensure!(matches!(error, LogError::UnknownTopic(_)), "{error}");
    ensure!(
        publisher.publish(NewRecords::default()).await.is_err(),
        "used up"
    );
    let mut next = bed.log.publisher(&format!("{}.0", bed.prefix)).await?;
    next.publish(of_key(&told, &["next"])).await?;
    let mut reader = bed.reader(&part(&told, 0), 0).await?;
    let rows = read_committed(&mut *reader, 4).await?;
    ensure!(values(&rows) == ["told", "(none)", "", "next"], "{rows:?}");
    Ok(())
}

async fn one_publisher_at_a_time(bed: Bed) -> Result<()> {
    let topic = bed.topic("fenced", 1).await?;
    let id = format!("{}.0", bed.prefix);
    let mut old = bed.log.publisher(&id).await?;
    old.publish(of_key(&topic, &["old"])).await?;
    let mut new = bed.log.publisher(&id).await?;
    let error = old.publish(of_key(&topic, &["zombie"])).await.unwrap_err();
    ensure!(matches!(error, LogError::Fenced(_)), "{error}");
    new.publish(of_key(&topic, &["new"])).await?;
    // A writer of the same id is one as well.
    let mut writer = bed.log.transactional(&id).await?;
    let error = new.publish(of_key(&topic, &["zombie"])).await.unwrap_err();
    ensure!(matches!(error, LogError::Fenced(_)), "{error}");
    writer.commit(vec![(topic.clone(), to(0, "last"))]).await?;
    let mut reader = bed.reader(&part(&topic, 0), 0).await?;
    let rows = read_committed(&mut *reader, 3).await?;
    ensure!(values(&rows) == ["old", "new", "last"], "{rows:?}");
    Ok(())
}

fn log_with(change: impl FnOnce(&mut KafkaSettings)) -> Result<KafkaLog> {
    let brokers = ("bootstrap.servers".to_owned(), kafka::shared()?.bootstrap());
    let mut settings = KafkaSettings::new([brokers].into_iter().collect());
    change(&mut settings);
    Ok(KafkaLog::new(settings, Clock::system())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_queue_takes_is_published_in_order() -> Result<()> {
    let bed = Bed::kafka("k-published-long")?;
    let topic = bed.topic("told", 1).await?;
    let log = log_with(|settings| {
        settings.writer_queue_bytes_max = 2 * 1024 * 1024;
        settings.record_bytes_max = 1024 * 1024;
    })?;
    let filler = "x".repeat(200);
    let texts: Vec<String> = (0..60_000_u32)
        .map(|number| format!("{number} {filler}"))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut publisher = log.publisher("k-published-long.0").await?;
    publisher.publish(of_key(&topic, &texts)).await?;
    let mut reader = bed.reader(&part(&topic, 0), 0).await?;
    let rows = read_committed(&mut *reader, texts.len()).await?;
    ensure!(values(&rows) == texts, "{} records", rows.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_does_not_take_is_named_and_takes_all_back() -> Result<()> {
    let bed = Bed::kafka("k-published-large")?;
    let topic = bed.topic("told", 1).await?;
    let log = log_with(|settings| {
        // Compressed, only the broker knows whether it takes them.
        let codec = ("compression.codec".to_owned(), "lz4".to_owned());
        settings.properties.extend([codec]);
        settings.record_bytes_max = 4 * 1024 * 1024;
    })?;
    let mut records = of_key(&topic, &["before"]);
    // Nothing makes these bytes smaller.
    let mut state = 1_u64;
    let noise: Bytes = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(2 * 1024 * 1024)
    .collect();
    records.push(&topic, 0, Some(b"k"), Some(&noise), []);
    let mut publisher = log.publisher("k-published-large.0").await?;
    let error = publisher.publish(records).await.unwrap_err();
    ensure!(matches!(error, LogError::RecordTooLarge { .. }), "{error}");
    let mut next = log.publisher("k-published-large.0").await?;
    next.publish(of_key(&topic, &["goes on"])).await?;
    let mut reader = bed.reader(&part(&topic, 0), 0).await?;
    let rows = read_committed(&mut *reader, 1).await?;
    ensure!(values(&rows) == ["goes on"], "{rows:?}");
    Ok(())
}
