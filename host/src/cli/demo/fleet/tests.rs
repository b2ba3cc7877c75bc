//! The feed of the bundled flights, held against a model that reads the rows by itself.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

use super::*;
use crate::types::ClusterName;

/// Carrier, plane, and when: what an addition says beside its group.
type Addition = (String, String, i64);

fn at(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// Departures of the bundled flights by carrier and plane, in the order of time. Nothing of the loader is
/// used: these are the rows as text.
fn departures() -> BTreeMap<(String, String), Vec<i64>> {
    let packed = &include_bytes!("../../../../assets/flights-2013-01.csv.gz")[..];
    let mut text = String::new();
    let mut unpacking = flate2::read::GzDecoder::new(packed);
    unpacking.read_to_string(&mut text).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name| header.iter().position(|column| *column == name).unwrap();
    let known = ["tailnum", "dep_delay", "air_time"].map(column);
    let [carrier, plane, hour, minute, delay] =
        ["carrier", "tailnum", "time_hour", "minute", "dep_delay"].map(column);
    let mut departures: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for row in lines {
        if known
            .iter()
            .any(|column| ["", "NA"].contains(&row[*column]))
        {
            continue;
        }
        let minutes: i64 = [minute, delay]
            .iter()
            .map(|c| row[*c].parse::<i64>().unwrap())
            .sum();
        let of = (row[carrier].to_owned(), row[plane].to_owned());
        departures
            .entry(of)
            .or_default()
            .push(at(row[hour]) + minutes * 60_000);
    }
    departures
        .values_mut()
        .for_each(|times| times.sort_unstable());
    departures
}

/// The `number`th departure of each plane for each carrier that has as many.
fn nth_departures(number: usize) -> BTreeSet<Addition> {
    let departures = departures().into_iter();
    departures
        .filter_map(|((carrier, plane), times)| Some((carrier, plane, *times.get(number - 1)?)))
        .collect()
}

/// What the feed says, read from its records.
#[derive(Default)]
struct Said {
    created: BTreeMap<String, bool>,
    /// By group.
    added: BTreeMap<String, BTreeSet<Addition>>,
    /// User and group.
    granted: BTreeMap<(String, String), i64>,
    times: Vec<i64>,
}

fn said(feed: &FleetFeed<'_>) -> Said {
    let topics = Topics::of(&ClusterName::new("foldhost").unwrap());
    let mut said = Said::default();
    for (topic, record) in feed.records_from(0, &topics) {
        let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
        let value = record.value.unwrap();
        let at_ms = record.timestamp_ms.unwrap();
        said.times.push(at_ms);
        if topic.as_str() == "fleet-access" {
            let event = AccessEvent::decode(value).unwrap();
            assert_eq!(key, event.user);
            assert!(event.group.ends_with(&format!("-{}", event.carrier)));
            assert!(matches!(
                event.change,
                Some(wire::access_event::Change::Granted(_))
            ));
            let before = said.granted.insert((event.user, event.group), at_ms);
            assert_eq!(before, None, "a grant that comes twice");
            continue;
        }
        assert_eq!(topic.as_str(), "fleet-groups");
        let event = GroupEvent::decode(value).unwrap();
        assert_eq!(key, event.group);
        assert!(event.group.ends_with(&format!("-{}", event.carrier)));
        match event.change.unwrap() {
            wire::group_event::Change::Created(created) => {
                assert_eq!(said.created.insert(key, created.discovery), None);
            }
            wire::group_event::Change::Added(added) => {
                let addition = (event.carrier, added.device, at_ms);
                assert!(said.added.entry(key).or_default().insert(addition), "twice");
            }
            wire::group_event::Change::Removed(_) => panic!("nothing leaves a group"),
        }
    }
    said
}

/// The additions to all groups whose name begins so.
fn added_to(said: &Said, prefix: &str) -> BTreeSet<Addition> {
    let groups = said.added.iter();
    groups
        .filter(|(group, _)| group.starts_with(prefix))
        .flat_map(|(group, added)| {
            assert!(
                added
                    .iter()
                    .all(|(carrier, ..)| *group == format!("{prefix}{carrier}"))
            );
            added.clone()
        })
        .collect()
}

#[test]
fn planes_are_where_their_departures_put_them() {
    let flights = Flights::january().unwrap();
    let feed = FleetFeed::of(&flights);
    let said = said(&feed);
    let (first, tenth) = (nth_departures(1), nth_departures(10));
    assert_eq!(added_to(&said, "discovery-"), first);
    assert_eq!(added_to(&said, "fleet-"), tenth);
    // As counted in the rows by other means.
    assert_eq!((first.len(), tenth.len()), (3_140, 949));
    assert_eq!(said.times.len(), feed.record_count());
    assert!(said.times.is_sorted());
}

#[test]
fn users_may_see_what_they_look_after() {
    let flights = Flights::january().unwrap();
    let said = said(&FleetFeed::of(&flights));
    let carriers: BTreeSet<_> = departures()
        .into_keys()
        .map(|(carrier, _)| carrier)
        .collect();
    assert_eq!(carriers.len(), 16);
    let before = at("2013-01-01T00:00:00Z");
    assert!(before < flights.span_ms().unwrap().0);
    let mut created = BTreeMap::new();
    let mut granted = BTreeMap::new();
    for carrier in &carriers {
        let (discovery, fleet) = (format!("discovery-{carrier}"), format!("fleet-{carrier}"));
        let ops = format!("ops-{carrier}");
        granted.insert((ops.clone(), discovery.clone()), before);
        granted.insert((ops, fleet.clone()), before);
        let auditor = ("auditor".to_owned(), discovery.clone());
        granted.insert(auditor, at("2013-07-01T00:00:00Z"));
        created.insert(discovery, true);
        created.insert(fleet, false);
    }
    assert_eq!(said.created, created);
    assert_eq!(said.granted, granted);
}

#[test]
fn who_has_the_fewest_news_comes_first() {
    let flights = Flights::january().unwrap();
    let users = FleetFeed::of(&flights).users_by_news();
    let mut news: BTreeMap<String, usize> = BTreeMap::new();
    for ((carrier, _), times) in departures() {
        *news.entry(format!("ops-{carrier}")).or_default() += usize::from(times.len() < 10);
    }
    assert_eq!(users.len(), news.len());
    assert_eq!(users[0], "ops-OO");
    assert!(users.iter().map(|user| news[user]).is_sorted());
}

#[test]
fn what_was_there_before_the_flights_is_there_in_time() {
    assert_eq!(
        day_before(at("2013-01-01T10:17:00Z")),
        at("2013-01-01T00:00:00Z")
    );
    assert_eq!(
        day_before(at("2013-01-02T00:00:00Z")),
        at("2013-01-01T00:00:00Z")
    );
    assert_eq!(
        day_before(at("1969-12-31T12:00:00Z")),
        at("1969-12-31T00:00:00Z")
    );
    assert_eq!(AUDITOR_FROM.as_millisecond(), at("2013-07-01T00:00:00Z"));
}

#[test]
fn without_a_carrier_there_is_nothing_to_tell() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("few.csv");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(
        b"tailnum,carrier,flight,origin,dest,time_hour,minute,dep_delay,air_time\n\
          N1,,1,A,B,2013-01-01T10:00:00Z,30,0,30\n",
    )
    .unwrap();
    let flights = Flights::open(&path).unwrap();
    let feed = FleetFeed::of(&flights);
    assert_eq!(feed.record_count(), 0);
    assert!(feed.users_by_news().is_empty());
}
