//! Topics that grow, their bounds, and the members that follow them.

use super::*;

#[tokio::test]
async fn a_member_gets_all_partitions_at_once_and_keeps_them() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[("journal", 3, Cleanup::Compact)]).await;
    let member = log
        .join("group", "instance", &name("journal"))
        .await
        .unwrap();
    let Some(AssignmentChange::Assigned(partitions)) = patiently(member.change()).await else {
        panic!("the first change assigns");
    };
    assert_eq!(partitions, [Partition(0), Partition(1), Partition(2)]);
    member.confirm().await.unwrap();
    let waiting = async { member.change().await.is_none() };
    let (ended, ()) = patiently(async { tokio::join!(waiting, member.leave()) }).await;
    assert!(ended);
    assert!(patiently(member.change()).await.is_none());
    assert!(matches!(member.confirm().await, Err(LogError::Fenced(_))));
    let unknown = log.join("group", "instance", &name("missing")).await;
    assert!(
        matches!(unknown, Err(LogError::UnknownTopic(_))),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn a_grown_topic_keeps_its_records_and_its_member_gets_the_new_partitions() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[("t", 1, Cleanup::Default)]).await;
    let before = log
        .append(&name("t"), vec![record("k", "1")])
        .await
        .unwrap();
    assert_eq!(before, [(Partition(0), Offset(0))]);
    let member = log.join("group", "instance", &name("t")).await.unwrap();
    assert!(patiently(member.change()).await.is_some());
    let mut old = reader(&log, &place("t", 0), 1).await;
    let topic = log.topic(&name("t")).await.unwrap().unwrap();

    let grown = log.grow_topic(&name("t"), 3).await.unwrap();
    assert_eq!((grown.partitions, grown.id), (3, topic.id));
    let Some(AssignmentChange::Assigned(more)) = patiently(member.change()).await else {
        panic!("the new partitions are assigned");
    };
    assert_eq!(more, [Partition(1), Partition(2)]);
    for partition in 0..3 {
        let record = NewRecord {
            partition: Some(Partition(partition)),
            ..record("k", "2")
        };
        log.append(&name("t"), vec![record]).await.unwrap();
    }
    // A reader that was opened before goes on.
    let mut batch = RecordBatch::new();
    assert_eq!(
        patiently(old.read(&mut batch, LIMITS)).await.unwrap(),
        Read::Records
    );
    assert_eq!(log.grow_topic(&name("t"), 2).await.unwrap().partitions, 3);
    drop((old, member, log));

    let log = open(folder.path());
    assert_eq!(log.topic(&name("t")).await.unwrap(), Some(grown));
    for (partition, records) in [(0, 2), (1, 1), (2, 1)] {
        assert_eq!(
            read_all(&log, &place("t", partition), 0).await.len(),
            records
        );
    }
}

#[tokio::test]
async fn topics_have_sane_partition_counts() {
    let folder = TempDir::new().unwrap();
    let log = open_with(&folder, &[]).await;
    for partitions in [0, limits::PARTITIONS_MAX + 1] {
        let refused = create(&log, "t", partitions, Cleanup::Default).await;
        assert!(matches!(refused, Err(LogError::Rejected(_))), "{refused:?}");
    }
    let unknown = log.range(&place("t", 0)).await;
    assert!(
        matches!(unknown, Err(LogError::UnknownTopic(_))),
        "{unknown:?}"
    );
    create(&log, "t", 1, Cleanup::Default).await.unwrap();
    let unknown = log.range(&place("t", 1)).await;
    assert!(
        matches!(unknown, Err(LogError::UnknownPartition(_))),
        "{unknown:?}"
    );
}
