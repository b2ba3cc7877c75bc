//! Loading, and loading again after a crash, on the embedded log.

use std::path::Path;

use super::*;
use crate::cli::demo::fleet::FleetFeed;
use crate::cli::demo::flights::Flights;
use crate::clock::Clock;
use crate::log::embedded::{EmbeddedLog, EmbeddedSettings};
use crate::log::{Cleanup, NewTopic};

fn topics() -> Topics {
    Topics::of(&ClusterName::new("foldhost").unwrap())
}

async fn log_in(folder: &Path) -> Arc<dyn Log> {
    let log = EmbeddedLog::open(folder, Clock::system(), EmbeddedSettings::default()).unwrap();
    let topics = topics();
    for (name, partitions) in [
        (topics.flights, 3),
        (topics.groups, 3),
        (topics.access, 2),
        (topics.progress, 1),
    ] {
        let topic = NewTopic {
            name,
            partitions,
            replication_factor: None,
            cleanup: Cleanup::Keep,
        };
        match log.create_topic(&topic).await {
            Ok(_) | Err(LogError::TopicExists(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    Arc::new(log)
}

/// How many records the topic of the flights has.
async fn loaded(log: &dyn Log) -> u64 {
    records_of(log, topics().flights).await
}

/// How many records a topic has.
async fn records_of(log: &dyn Log, topic: TopicName) -> u64 {
    let mut count = 0;
    let partitions = log.topic(&topic).await.unwrap().unwrap().partitions;
    for partition in (0..partitions).map(Partition) {
        let of = TopicPartition {
            topic: topic.clone(),
            partition,
        };
        let range = log.range(&of).await.unwrap();
        count += range.end.0 - range.start.0;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_loader_goes_on_where_the_first_was_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let flights = Flights::january().unwrap();
    let log = log_in(folder.path()).await;
    let mut first = Loader::open(log.clone(), topics(), &flights).await.unwrap();
    assert_eq!(first.written(), 0);
    for _ in 0..3 {
        assert!(first.step().await.unwrap());
    }
    let cut_at = first.written();
    assert_eq!(cut_at, 3 * limits::DEMO_TRANSACTION_EVENTS);
    assert_eq!(loaded(&*log).await, cut_at as u64);

    let mut second = Loader::open(log.clone(), topics(), &flights).await.unwrap();
    assert_eq!(second.written(), cut_at);
    // The first one does not know that it is over: its transaction must fail, whole.
    assert!(matches!(
        first.step().await,
        Err(LoadError::Log(LogError::Fenced(_)))
    ));
    while second.step().await.unwrap() {}
    assert_eq!(loaded(&*log).await, flights.event_count() as u64);
    assert_eq!(second.last().len(), 3, "every partition was written to");

    let mut third = Loader::open(log.clone(), topics(), &flights).await.unwrap();
    assert!(!third.step().await.unwrap());
    assert_eq!(loaded(&*log).await, flights.event_count() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_survives_a_restart_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let flights = Flights::january().unwrap();
    {
        let log = log_in(folder.path()).await;
        let mut loader = Loader::open(log.clone(), topics(), &flights).await.unwrap();
        assert!(loader.step().await.unwrap());
        drop(loader);
        log.close(std::time::Duration::from_secs(10)).await;
    }
    let log = log_in(folder.path()).await;
    let mut loader = Loader::open(log.clone(), topics(), &flights).await.unwrap();
    assert_eq!(loader.written(), limits::DEMO_TRANSACTION_EVENTS);
    loader.reopen().await.unwrap();
    assert!(loader.step().await.unwrap());
    assert_eq!(
        loaded(&*log).await,
        2 * limits::DEMO_TRANSACTION_EVENTS as u64
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_data_set_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = log_in(folder.path()).await;
    let january = Flights::january().unwrap();
    Loader::open(log.clone(), topics(), &january)
        .await
        .unwrap()
        .step()
        .await
        .unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("other.csv");
    let text = "tailnum,carrier,flight,origin,dest,time_hour,minute,dep_delay,air_time\n\
                N1,UA,1,A,B,2013-01-01T10:00:00Z,30,0,30\n";
    std::fs::write(&file, text).unwrap();
    let other = Flights::open(&file).unwrap();
    let error = Loader::open(log, topics(), &other).await.unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("flights-2013-01.csv") && message.contains("--data"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flights_of_an_earlier_version_get_their_fleet_feed_once() {
    let folder = tempfile::tempdir().unwrap();
    let flights = Flights::january().unwrap();
    let log = log_in(folder.path()).await;
    // All that an earlier version has loaded.
    let mut loader = Loader::open(log.clone(), topics(), &flights).await.unwrap();
    while loader.step().await.unwrap() {}

    let feed = FleetFeed::of(&flights);
    let count = feed.record_count();
    for round in 0..2 {
        let mut loader = Loader::open(log.clone(), topics(), &feed).await.unwrap();
        assert_eq!(loader.written(), round * count, "progress of its own");
        assert_eq!(loader.step().await.unwrap(), round == 0);
        while loader.step().await.unwrap() {}
        let written = records_of(&*log, topics().groups).await;
        let written = written + records_of(&*log, topics().access).await;
        assert_eq!(written, count as u64);
    }
    // And the flights are not loaded again.
    let loader = Loader::open(log.clone(), topics(), &flights).await.unwrap();
    assert_eq!(loader.written(), flights.event_count());
}
