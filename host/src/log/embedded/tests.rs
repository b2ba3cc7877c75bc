//! The embedded log through its port: what it promises to those above.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::log::{AssignmentChange, Cleanup, PartitionReader, Read, ReadLimits, RecordBatch};

mod disk;
mod topics;

const PATIENCE: Duration = Duration::from_secs(60);
const LIMITS: ReadLimits = ReadLimits {
    records_max: 4_096,
    bytes_max: 1 << 20,
};

fn name(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn place(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: name(topic),
        partition: Partition(partition),
    }
}

fn open(folder: &Path) -> EmbeddedLog {
    try_open(folder).unwrap()
}

fn try_open(folder: &Path) -> Result<EmbeddedLog, LogError> {
    EmbeddedLog::open(folder, Clock::manual(1_000, 7), EmbeddedSettings::default())
}

async fn open_with(folder: &TempDir, topics: &[(&str, u32, Cleanup)]) -> EmbeddedLog {
    let log = open(folder.path());
    for (topic, partitions, cleanup) in topics {
        create(&log, topic, *partitions, *cleanup).await.unwrap();
    }
    log
}

async fn create(
    log: &EmbeddedLog,
    topic: &str,
    partitions: u32,
    cleanup: Cleanup,
) -> Result<Topic, LogError> {
    let topic = NewTopic {
        name: name(topic),
        partitions,
        replication_factor: None,
        cleanup,
    };
    log.create_topic(&topic).await
}

fn record(key: &str, value: &str) -> NewRecord {
    NewRecord {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..NewRecord::default()
    }
}

async fn reader(log: &EmbeddedLog, of: &TopicPartition, from: u64) -> Box<dyn PartitionReader> {
    log.reader_set("test")
        .unwrap()
        .open(of, Offset(from))
        .await
        .unwrap()
}

/// Offset and value of everything from `from` to the end.
async fn read_all(log: &EmbeddedLog, of: &TopicPartition, from: u64) -> Vec<(u64, String)> {
    let mut reader = reader(log, of, from).await;
    let mut batch = RecordBatch::new();
    let mut found = Vec::new();
    loop {
        batch.clear();
        match reader.read(&mut batch, LIMITS).await.unwrap() {
            Read::EndOfPartition => return found,
            Read::Records => found.extend(batch.iter().map(|record| {
                let value = record.value.unwrap_or(b"-");
                (record.offset.0, String::from_utf8(value.to_vec()).unwrap())
            })),
        }
    }
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it answers in time")
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    patiently(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_appended_is_read_back_whole() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[("t", 1, Cleanup::Default)]).await;
    let headers = vec![
        ("a".into(), Some(Bytes::from_static(b"1"))),
        ("b".into(), None),
    ];
    let full = NewRecord {
        headers,
        timestamp_ms: Some(-5),
        ..record("k", "v")
    };
    let tombstone = NewRecord {
        value: None,
        ..record("k", "")
    };
    let bare = NewRecord {
        value: Some(Bytes::new()),
        ..NewRecord::default()
    };
    let written = log
        .append(&name("t"), vec![full, tombstone, bare])
        .await
        .unwrap();
    let offsets: Vec<_> = written
        .iter()
        .map(|(partition, at)| (partition.0, at.0))
        .collect();
    assert_eq!(offsets, [(0, 0), (0, 1), (0, 2)]);
    assert_eq!(
        log.range(&place("t", 0)).await.unwrap(),
        Offset(0)..Offset(3)
    );

    let mut reader = reader(&log, &place("t", 0), 0).await;
    let mut batch = RecordBatch::new();
    assert_eq!(
        reader.read(&mut batch, LIMITS).await.unwrap(),
        Read::Records
    );
    let records: Vec<_> = batch.iter().collect();
    assert_eq!(
        (records[0].key, records[0].value),
        (Some(&b"k"[..]), Some(&b"v"[..]))
    );
    assert_eq!(records[0].timestamp_ms, -5);
    let headers: Vec<_> = records[0].headers().collect();
    assert_eq!(headers, [("a", Some(&b"1"[..])), ("b", None)]);
    assert_eq!((records[1].value, records[1].timestamp_ms), (None, 1_000));
    assert_eq!((records[2].key, records[2].value), (None, Some(&b""[..])));
    assert_eq!(
        reader.read(&mut batch, LIMITS).await.unwrap(),
        Read::EndOfPartition
    );
}

#[tokio::test]
async fn everything_survives_a_drop_without_close() {
    let folder = TempDir::new().unwrap();
    let log = open_with(
        &folder,
        &[("t", 3, Cleanup::Default), ("u", 1, Cleanup::Keep)],
    )
    .await;
    let topics = log.topics().await.unwrap();
    for index in 0..50 {
        let value = index.to_string();
        log.append(&name("t"), vec![record(&format!("k{index}"), &value)])
            .await
            .unwrap();
    }
    let mut before = Vec::new();
    for partition in 0..3 {
        before.push(read_all(&log, &place("t", partition), 0).await);
    }
    drop(log);

    let log = open(folder.path());
    assert_eq!(log.topics().await.unwrap(), topics);
    let mut total = 0;
    for (partition, before) in (0..3).zip(before) {
        assert_eq!(read_all(&log, &place("t", partition), 0).await, before);
        total += before.len();
    }
    assert_eq!(total, 50);
    let end = log.range(&place("t", 1)).await.unwrap().end;
    let next = NewRecord {
        partition: Some(Partition(1)),
        ..record("k", "next")
    };
    let written = log.append(&name("t"), vec![next]).await.unwrap();
    assert_eq!(written, [(Partition(1), end)]);
}

#[tokio::test]
async fn a_folder_belongs_to_one_log_until_it_is_closed() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[("t", 1, Cleanup::Default)]).await;
    let refused = try_open(folder.path()).unwrap_err();
    assert!(
        refused.to_string().contains("another host uses the folder"),
        "{refused}"
    );

    let mut waiting = reader(&log, &place("t", 0), 0).await;
    let mut batch = RecordBatch::new();
    assert_eq!(
        waiting.read(&mut batch, LIMITS).await.unwrap(),
        Read::EndOfPartition
    );
    log.close(PATIENCE).await;
    // Closing frees the folder although the handle and the reader are still there.
    let second = open(folder.path());
    assert!(second.topic(&name("t")).await.unwrap().is_some());
    let read = patiently(waiting.read(&mut batch, LIMITS)).await;
    assert!(matches!(read, Err(LogError::Unavailable(_))), "{read:?}");
    let appended = log.append(&name("t"), vec![record("k", "v")]).await;
    assert!(
        matches!(appended, Err(LogError::Unavailable(_))),
        "{appended:?}"
    );
    assert!(matches!(log.check().await, Err(LogError::Unavailable(_))));
    assert!(matches!(log.topics().await, Err(LogError::Unavailable(_))));
}

#[tokio::test]
async fn a_newer_writer_fences_the_older_also_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let log = open_with(
        &folder,
        &[("t", 1, Cleanup::Default), ("u", 1, Cleanup::Default)],
    )
    .await;
    let mut first = log.transactional("id").await.unwrap();
    let both = vec![(name("t"), record("k", "1")), (name("u"), record("k", "2"))];
    let written = first.commit(both).await.unwrap();
    assert_eq!(
        written,
        [(Partition(0), Offset(0)), (Partition(0), Offset(0))]
    );

    let mut other = log.transactional("other").await.unwrap();
    let mut second = log.transactional("id").await.unwrap();
    // An empty transaction is fenced like any other.
    let fenced = first.commit(Vec::new()).await;
    assert!(matches!(fenced, Err(LogError::Fenced(_))), "{fenced:?}");
    let used_up = first.commit(vec![(name("t"), record("k", "no"))]).await;
    assert!(matches!(used_up, Err(LogError::Rejected(_))), "{used_up:?}");
    second
        .commit(vec![(name("t"), record("k", "3"))])
        .await
        .unwrap();
    other
        .commit(vec![(name("t"), record("k", "4"))])
        .await
        .unwrap();
    drop((first, second, other, log));

    let log = open(folder.path());
    let epoch = log.0.open_writer(&Arc::from("id")).await.unwrap();
    assert_eq!(epoch, 3);
    let values: Vec<String> = read_all(&log, &place("t", 0), 0)
        .await
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    assert_eq!(values, ["1", "3", "4"]);
}

#[tokio::test]
async fn a_transaction_or_append_that_is_refused_writes_nothing() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[("t", 2, Cleanup::Default)]).await;
    let mut writer = log.transactional("id").await.unwrap();
    let batch = vec![
        (name("t"), record("k", "1")),
        (name("missing"), record("k", "2")),
    ];
    let refused = writer.commit(batch).await;
    assert!(
        matches!(refused, Err(LogError::UnknownTopic(_))),
        "{refused:?}"
    );

    let large = NewRecord {
        value: Some(vec![0; limits::RECORD_BYTES_DEFAULT + 1].into()),
        ..NewRecord::default()
    };
    let refused = log.append(&name("t"), vec![record("k", "v"), large]).await;
    assert!(
        matches!(refused, Err(LogError::RecordTooLarge { index: 1, .. })),
        "{refused:?}"
    );
    let stray = NewRecord {
        partition: Some(Partition(2)),
        ..record("k", "v")
    };
    let refused = log.append(&name("t"), vec![record("k", "v"), stray]).await;
    assert!(
        matches!(refused, Err(LogError::UnknownPartition(_))),
        "{refused:?}"
    );
    let refused = log.append(&name("missing"), vec![record("k", "v")]).await;
    assert!(
        matches!(refused, Err(LogError::UnknownTopic(_))),
        "{refused:?}"
    );
    for partition in 0..2 {
        assert_eq!(
            log.range(&place("t", partition)).await.unwrap().end,
            Offset(0)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_appends_are_all_there_in_the_order_of_each_caller() {
    const CALLERS: usize = 32;
    const EACH: usize = 40;
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[("t", 2, Cleanup::Default)]).await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut places = Vec::new();
                for index in 0..EACH {
                    let partition = Some(Partition(caller as u32 % 2));
                    let value = format!("{caller}:{index}");
                    let record = NewRecord {
                        partition,
                        ..record("k", &value)
                    };
                    let written = log.append(&name("t"), vec![record]).await.unwrap();
                    places.push((written[0], value));
                }
                places
            })
        })
        .collect();
    let mut acknowledged = BTreeMap::new();
    for caller in callers {
        let places = caller.await.unwrap();
        assert!(places.is_sorted_by_key(|((_, offset), _)| *offset));
        acknowledged.extend(places);
    }
    assert_eq!(
        acknowledged.len(),
        CALLERS * EACH,
        "every append has a place of its own"
    );
    drop(log);
    let log = open(folder.path());
    for partition in 0..2 {
        let read = read_all(&log, &place("t", partition), 0).await;
        let expected: Vec<_> = acknowledged
            .range((Partition(partition), Offset(0))..(Partition(partition + 1), Offset(0)))
            .map(|((_, offset), value)| (offset.0, value.clone()))
            .collect();
        assert_eq!(read, expected);
    }
}

#[tokio::test]
async fn a_waiting_reader_wakes_and_loses_nothing_when_cancelled() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[("t", 1, Cleanup::Default)]).await;
    let mut reader = reader(&log, &place("t", 0), 0).await;
    let mut batch = RecordBatch::new();
    assert_eq!(
        reader.read(&mut batch, LIMITS).await.unwrap(),
        Read::EndOfPartition
    );
    for round in 0..20_u64 {
        // A call that is dropped while it waits.
        tokio::select! {
            biased;
            read = reader.read(&mut batch, LIMITS) => panic!("nothing was there: {read:?}"),
            () = std::future::ready(()) => {}
        }
        let waiting = async {
            batch.clear();
            let read = reader.read(&mut batch, LIMITS).await.unwrap();
            (
                read,
                batch
                    .iter()
                    .map(|record| record.offset.0)
                    .collect::<Vec<_>>(),
            )
        };
        let topic = name("t");
        let append = log.append(&topic, vec![record("k", "v")]);
        let (read, appended) = patiently(async { tokio::join!(waiting, append) }).await;
        appended.unwrap();
        assert_eq!(read, (Read::Records, vec![round]));
        // The end is told again, once.
        batch.clear();
        assert_eq!(
            reader.read(&mut batch, LIMITS).await.unwrap(),
            Read::EndOfPartition
        );
        assert!(batch.is_empty());
    }
}

#[tokio::test]
async fn readers_start_anywhere_and_keep_to_their_limits() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[("t", 1, Cleanup::Default)]).await;
    let mut expected = Vec::new();
    for size in [1, 700, 2, 1_300] {
        let from = expected.len();
        let values: Vec<String> = (from..from + size)
            .map(|index| format!("{index:0100}"))
            .collect();
        log.append(
            &name("t"),
            values.iter().map(|value| record("k", value)).collect(),
        )
        .await
        .unwrap();
        expected.extend(values);
    }
    for from in [0, 1, 2, 350, 700, 701, 702, 703, 704, 1_500, 2_002] {
        let read = read_all(&log, &place("t", 0), from).await;
        assert_eq!(read.len(), expected.len() - from as usize, "from {from}");
        for ((offset, value), index) in read.iter().zip(from..) {
            assert_eq!((*offset, value), (index, &expected[index as usize]));
        }
    }
    let past = log
        .reader_set("test")
        .unwrap()
        .open(&place("t", 0), Offset(2_004))
        .await;
    assert!(
        matches!(past, Err(LogError::OffsetOutOfRange { .. })),
        "{past:?}"
    );
    log.reader_set("test")
        .unwrap()
        .open(&place("t", 0), Offset(2_003))
        .await
        .unwrap();

    let mut reader = reader(&log, &place("t", 0), 0).await;
    let mut seen = 0;
    let mut batch = RecordBatch::new();
    let limits = ReadLimits {
        records_max: 7,
        bytes_max: 505,
    };
    while reader.read(&mut batch, limits).await.unwrap() == Read::Records {
        assert!(
            !batch.is_empty() && batch.len() <= 5,
            "five records of 101 bytes fit"
        );
        seen += batch.len();
        batch.clear();
    }
    assert_eq!(seen, expected.len());
    let mut reader = log
        .reader_set("test")
        .unwrap()
        .open(&place("t", 0), Offset(0))
        .await
        .unwrap();
    let tiny = ReadLimits {
        records_max: 10,
        bytes_max: 10,
    };
    assert_eq!(reader.read(&mut batch, tiny).await.unwrap(), Read::Records);
    assert_eq!(
        batch.len(),
        1,
        "a record that is larger than the limit comes alone"
    );
}

#[tokio::test]
async fn a_topic_made_again_is_another_topic() {
    let folder = TempDir::new().unwrap();
    let log = open_with(
        &folder,
        &[("t", 1, Cleanup::Default), ("kept", 1, Cleanup::Default)],
    )
    .await;
    let first = log.topic(&name("t")).await.unwrap().unwrap();
    let values: Vec<NewRecord> = (0..3_000)
        .map(|index| record("k", &format!("{index:0100}")))
        .collect();
    for chunk in values.chunks(2) {
        log.append(&name("t"), chunk.to_vec()).await.unwrap();
    }
    log.append(&name("kept"), vec![record("k", "v")])
        .await
        .unwrap();
    let taken = create(&log, "t", 1, Cleanup::Default).await;
    assert!(matches!(taken, Err(LogError::TopicExists(_))), "{taken:?}");

    let mut old = reader(&log, &place("t", 0), 3_000).await;
    let mut batch = RecordBatch::new();
    assert_eq!(
        old.read(&mut batch, LIMITS).await.unwrap(),
        Read::EndOfPartition
    );
    log.delete_topic(&name("t")).await.unwrap();
    let gone = patiently(old.read(&mut batch, LIMITS)).await;
    assert!(matches!(gone, Err(LogError::UnknownTopic(_))), "{gone:?}");
    assert_eq!(log.topic(&name("t")).await.unwrap(), None);
    assert!(matches!(
        log.delete_topic(&name("t")).await,
        Err(LogError::UnknownTopic(_))
    ));

    let second = create(&log, "t", 2, Cleanup::Default).await.unwrap();
    assert!(first.id.is_some() && first.id != second.id);
    assert_eq!(
        log.range(&place("t", 0)).await.unwrap(),
        Offset(0)..Offset(0)
    );
    // The old records go in the background, and the note about it goes with the last of them.
    let store = log.0.store().unwrap();
    eventually(|| store.recover().unwrap().doomed.is_empty()).await;
    assert!(store.chunk_keys(0, 1).unwrap().is_empty());
    assert_eq!(
        read_all(&log, &place("kept", 0), 0).await,
        [(0, "v".to_owned())]
    );
}

#[tokio::test]
async fn removal_that_was_interrupted_goes_on_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[("t", 1, Cleanup::Default)]).await;
    log.append(&name("t"), vec![record("k", "v")])
        .await
        .unwrap();
    let store = log.0.store().unwrap();
    // What a delete writes, without the work behind it.
    let mut batch = store.batch();
    store.remove(&mut batch, &format::topic_key("t"));
    store.insert(&mut batch, &format::doomed_key(0), format::encode_number(0));
    store.commit(batch).unwrap();
    drop((store, log));
    let log = open(folder.path());
    assert_eq!(log.topics().await.unwrap(), []);
    let store = log.0.store().unwrap();
    eventually(|| store.recover().unwrap().doomed.is_empty()).await;
    assert!(store.chunk_keys(0, 1).unwrap().is_empty());
}

#[tokio::test]
async fn offsets_are_found_by_time_also_when_time_goes_back() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[("t", 1, Cleanup::Default)]).await;
    for timestamp in [10, 30, 20, 40] {
        let record = NewRecord {
            timestamp_ms: Some(timestamp),
            ..record("k", "v")
        };
        log.append(&name("t"), vec![record]).await.unwrap();
    }
    for (timestamp, offset) in [(0, 0), (10, 0), (11, 1), (20, 1), (31, 3), (41, 4)] {
        let found = log.offset_at(&place("t", 0), timestamp).await.unwrap();
        assert_eq!(found, Offset(offset), "at {timestamp}");
    }
}

#[tokio::test]
async fn a_compacted_topic_keeps_the_newest_record_of_each_key() {
    const ROUNDS: usize = 110;
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[("journal", 2, Cleanup::Compact)]).await;
    let filler = "x".repeat(3_000);
    let record_of = |key: String, value: String| NewRecord {
        partition: Some(Partition(1)),
        ..record(&key, &value)
    };
    let only_once = record_of("once".to_owned(), "first".to_owned());
    log.append(&name("journal"), vec![only_once]).await.unwrap();
    for round in 0..ROUNDS {
        let records: Vec<NewRecord> = (0..10)
            .map(|key| record_of(format!("k{key}"), format!("{round}-{key}-{filler}")))
            .collect();
        log.append(&name("journal"), records).await.unwrap();
    }
    let end = 1 + 10 * ROUNDS as u64;
    let store = log.0.store().unwrap();
    let bytes = || -> usize {
        store
            .chunks(0, 1, 0, end)
            .map(|chunk| chunk.unwrap().value.len())
            .sum()
    };
    let written = end as usize * 3_000;
    eventually(|| bytes() < written / 2).await;
    assert_newest(&log, end, ROUNDS).await;
    drop((store, log));

    // Another pass after a restart; the newest records and the next offset stay.
    let log = open(folder.path());
    let store = log.0.store().unwrap();
    eventually(|| store.chunks(0, 1, 0, end).count() <= 3).await;
    assert_newest(&log, end, ROUNDS).await;
    assert_eq!(
        log.range(&place("journal", 1)).await.unwrap(),
        Offset(0)..Offset(end)
    );
    assert_eq!(
        read_all(&log, &place("journal", 1), end - 1).await[0].0,
        end - 1
    );
}

/// Every key's newest record is there, at its offset, and offsets grow.
async fn assert_newest(log: &EmbeddedLog, end: u64, rounds: usize) {
    let read = read_all(log, &place("journal", 1), 0).await;
    assert!(read.is_sorted_by_key(|(offset, _)| *offset));
    assert_eq!(read[0], (0, "first".to_owned()));
    for key in 0..10 {
        let (_, value) = &read[read.len() - 10 + key];
        assert!(value.starts_with(&format!("{}-{key}-", rounds - 1)));
    }
    assert_eq!(read.last().unwrap().0, end - 1);
}
