//! What both logs promise, with the same assertions on each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use foldhost::clock::Clock;
use foldhost::log::{
    LogError, NewRecord, Partitioner, Read, ReadLimits, ReaderSet, RecordBatch, SharedReads,
};
use foldhost::types::{Offset, Partition};
use tokio::task::JoinSet;

use crate::bed::{
    Bed, LIMITS, assigned, create, part, partitions, read_committed, read_to_end, recent_end,
    record, rows, soon, to, values,
};

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
    an_end_that_many_watch_follows_the_log,
    a_read_keeps_to_its_limits,
    dropped_reads_lose_nothing,
    those_who_share_what_they_read_miss_nothing,
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
    let used: BTreeSet<_> = places.iter().map(|(partition, _)| partition).collect();
    ensure!(used.len() == 4, "{places:?}");
    Ok(())
}

async fn the_end_is_told_once_each_time(bed: Bed) -> Result<()> {
    let topic = bed.topic("end", 1).await?;
    let mut reader = bed.reader(&part(&topic, 0), 0).await?;
    let mut batch = RecordBatch::new();
    ensure!(soon("the end", reader.read(&mut batch, LIMITS)).await?? == Read::EndOfPartition);
    for round in 0..3 {
        // Nothing more is told until something comes.
        let more = reader.read(&mut batch, LIMITS);
        let waiting = tokio::time::timeout(Duration::from_millis(300), more);
        ensure!(waiting.await.is_err());
        bed.log.append(&topic, vec![to(0, "a"), to(0, "b")]).await?;
        // They may come one by one, with an end between them.
        let rows = read_committed(&mut *reader, 2).await?;
        let expected = [(round * 2, "a".to_owned()), (round * 2 + 1, "b".to_owned())];
        ensure!(rows == expected, "{rows:?}");
    }
    // A reader that opens at the end is told so.
    drop(reader);
    let mut reader = bed.reader(&part(&topic, 0), 6).await?;
    ensure!(soon("the end", reader.read(&mut batch, LIMITS)).await?? == Read::EndOfPartition);
    Ok(())
}

async fn an_end_that_many_watch_follows_the_log(bed: Bed) -> Result<()> {
    let topic = bed.topic("watched", 3).await?;
    for (written, ends) in [(0, [0, 0, 0]), (1, [0, 2, 1]), (2, [0, 4, 2])] {
        if written > 0 {
            let records = vec![to(1, "a"), to(2, "b"), to(1, "c")];
            bed.log.append(&topic, records).await?;
        }
        // Each is right, whoever of many asks for which.
        let watching = (0..60).map(|watcher| recent_end(&bed, part(&topic, watcher % 3)));
        let seen = futures_util::future::try_join_all(watching).await?;
        let expected: Vec<_> = ends.iter().copied().cycle().take(60).collect();
        ensure!(seen == expected, "{seen:?}");
    }
    let error = bed.log.recent_end(&part(&topic, 3)).await.unwrap_err();
    ensure!(matches!(error, LogError::UnknownPartition(_)), "{error}");
    let missing = part(&bed.name("missing"), 0);
    let error = bed.log.recent_end(&missing).await.unwrap_err();
    ensure!(matches!(error, LogError::UnknownTopic(_)), "{error}");
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

async fn those_who_share_what_they_read_miss_nothing(bed: Bed) -> Result<()> {
    const RECORDS: u64 = 20_000;
    let name = bed.name("shared");
    let id = create(&*bed.log, &name, 1).await?.id;
    for from in (0..RECORDS).step_by(4_000) {
        let some = (from..from + 4_000).map(|number| to(0, &number.to_string()));
        bed.log.append(&name, some.collect()).await?;
    }
    let of = part(&name, 0);
    let alone = read_to_end(&mut *bed.reader(&of, 0).await?).await?;
    // What is left for others has room for a tenth of all.
    let shared = SharedReads::new(100_000, Clock::system());
    let mut readers = JoinSet::new();
    for number in 0..6_u64 {
        let set: Arc<dyn ReaderSet> = Arc::from(bed.log.reader_set(&format!("test-{number}"))?);
        let (shared, of) = (shared.clone(), of.clone());
        let from = number % 2 * 1_000;
        let limits = ReadLimits {
            records_max: 100 + 50 * usize::try_from(number)?,
            ..LIMITS
        };
        readers.spawn(async move {
            let mut reader = shared.open(&set, &of, id, Offset(from)).await?;
            let mut batch = RecordBatch::new();
            loop {
                let read = tokio::time::timeout(
                    Duration::from_millis(1 + number),
                    reader.read(&mut batch, limits),
                );
                // Those that take longer are dropped.
                let Ok(read) = read.await else { continue };
                if read? == Read::EndOfPartition {
                    break;
                }
                // Every other one stands still now and then, for longer than anybody waits for it.
                if number % 2 == 1 && batch.len().is_multiple_of(8) {
                    tokio::time::sleep(Duration::from_millis(150)).await;
                }
            }
            Ok::<_, LogError>((from, rows(&batch)))
        });
    }
    while let Some(read) = soon("all records", readers.join_next()).await? {
        let (from, found) = read??;
        ensure!(found == alone[usize::try_from(from)?..], "from {from}");
    }
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
    let rows = read_committed(&mut *reader, 3).await?;
    ensure!(values(&rows) == ["0", "1", "2"], "{rows:?}");
    ensure!(
        rows.last().map(|(offset, _)| Offset(*offset)) == last,
        "the places are true"
    );
    let range = bed.log.range(&part(&progress, 0)).await?;
    ensure!(Some(range.end) > last, "{range:?}");
    for partition in 0..2 {
        let mut reader = bed.reader(&part(&rows_topic, partition), 0).await?;
        ensure!(read_committed(&mut *reader, 3).await?.len() == 3);
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
    let rows = read_committed(&mut *reader, 2).await?;
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
