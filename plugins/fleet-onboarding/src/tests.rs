//! The device-group story, told to the test driver.

use std::collections::BTreeSet;

use fleet_events::{AccessGranted, AccessRevoked, DeviceAdded, DeviceRemoved, GroupCreated};
use foldhost_sdk::testing::{Driver, Record};

use super::*;

mod feed;

fn driver() -> Driver<FleetOnboarding> {
    Driver::new().routed()
}

fn group(name: &str, at: i64, change: GroupChange) -> Record {
    let event = FleetEvent::Group(GroupEvent {
        carrier: "UA".into(),
        group: name.into(),
        change: Some(change),
    });
    Record::new(name, &event).at(at)
}

fn created(name: &str, at: i64, discovery: bool) -> Record {
    group(name, at, GroupChange::Created(GroupCreated { discovery }))
}

fn added(name: &str, at: i64, device: &str) -> Record {
    let device = device.into();
    group(name, at, GroupChange::Added(DeviceAdded { device }))
}

fn removed(name: &str, at: i64, device: &str) -> Record {
    let device = device.into();
    group(name, at, GroupChange::Removed(DeviceRemoved { device }))
}

fn access(user: &str, at: i64, group: &str, change: AccessChange) -> Record {
    let event = FleetEvent::Access(AccessEvent {
        carrier: "UA".into(),
        user: user.into(),
        group: group.into(),
        change: Some(change),
    });
    Record::new(user, &event).at(at)
}

fn granted(user: &str, at: i64, group: &str) -> Record {
    access(user, at, group, AccessChange::Granted(AccessGranted {}))
}

fn revoked(user: &str, at: i64, group: &str) -> Record {
    access(user, at, group, AccessChange::Revoked(AccessRevoked {}))
}

/// Notifications in short: `+ops N1 @3` is new since 3, `-ops N1` is cleared.
fn told(outputs: &[Record]) -> Vec<String> {
    let one = |record: &Record| {
        let user = record.key().unwrap().escape_ascii();
        let notification = record.value_as::<Notification>().unwrap();
        assert_eq!(notification.group, "new");
        match notification.change.unwrap() {
            NotificationChange::Opened(opened) => {
                format!("+{user} {} @{}", notification.device, opened.since_ms)
            }
            NotificationChange::Cleared(_) => format!("-{user} {}", notification.device),
        }
    };
    outputs.iter().map(one).collect()
}

/// What `told` leaves open.
fn open(outputs: &[Record]) -> BTreeSet<String> {
    let mut open = BTreeSet::new();
    for line in told(outputs) {
        match line.split_at(1) {
            ("+", rest) => assert!(open.insert(rest.split('@').next().unwrap().trim().to_owned())),
            (_, rest) => assert!(open.remove(rest), "{rest} was not open"),
        }
    }
    open
}

fn story() -> Vec<Record> {
    vec![
        created("new", 1, true),
        created("mine", 1, false),
        granted("ops", 2, "new"),
        added("new", 3, "N1"),
        added("new", 4, "N2"),
        added("mine", 5, "N1"),
        granted("auditor", 6, "new"),
        removed("new", 7, "N2"),
        added("new", 8, "N3"),
        revoked("ops", 9, "new"),
        removed("mine", 10, "N1"),
    ]
}

#[test]
fn everyone_who_may_see_a_group_is_told_of_what_is_new_in_it() {
    let mut driver = driver();
    let mut heard = Vec::new();
    for record in story() {
        heard.push(told(&driver.react(record).unwrap()).join(", "));
    }
    let expected = [
        "",
        "",
        "",
        "+ops N1 @3",
        "+ops N2 @4",
        "-ops N1",        // somebody has placed it
        "+auditor N2 @4", // what is still new, since when it is
        "-auditor N2, -ops N2",
        "+auditor N3 @8, +ops N3 @8",
        "-ops N3",
        "+auditor N1 @3", // in no group that a user made any more
    ];
    assert_eq!(heard, expected);
    driver.assert_deterministic();
}

#[test]
fn a_duplicate_changes_nothing_and_tells_nothing() {
    let mut driver = driver();
    driver.send_all(story());
    driver.assert_idempotent();
    driver.assert_idempotent_outputs();
}

#[test]
fn the_order_between_topics_and_groups_does_not_matter() {
    let mut expected = driver();
    expected.send_all(story());
    // Each group and each user keeps its own order, as a topic does.
    let only = |keys: &[&[u8]]| {
        let mut records = story();
        records.retain(|record| keys.contains(&record.key().unwrap()));
        records
    };
    let streams = [
        only(&[b"new"]),
        only(&[b"mine"]),
        only(&[b"ops", b"auditor"]),
    ];
    for [a, b, c] in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut driver = driver();
        driver.send_all([&streams[a][..], &streams[b], &streams[c]].concat());
        assert_eq!(driver.states(), expected.states());
        assert_eq!(open(driver.outputs()), open(expected.outputs()));
    }
    let left = ["auditor N1", "auditor N3"].map(str::to_owned);
    assert_eq!(open(expected.outputs()), BTreeSet::from(left));
}

#[test]
fn at_one_instant_the_end_comes_last() {
    let mut driver = driver();
    driver.send_all([created("new", 1, true), granted("ops", 1, "new")]);
    driver.send_all([removed("new", 5, "N1"), added("new", 5, "N1")]);
    assert!(driver.outputs().is_empty());
    let heard = driver.react(added("new", 6, "N1")).unwrap();
    assert_eq!(told(&heard), ["+ops N1 @6"]);
}

#[test]
fn carriers_know_nothing_of_each_other() {
    let mut driver = driver();
    driver.send_all([created("new", 1, true), granted("ops", 1, "new")]);
    let event = FleetEvent::Group(GroupEvent {
        carrier: "AA".into(),
        group: "new".into(),
        change: Some(GroupChange::Added(DeviceAdded {
            device: "N1".into(),
        })),
    });
    driver.send(Record::new("new", &event)).unwrap();
    assert!(driver.outputs().is_empty());
    let carriers: Vec<_> = driver.states().keys().map(Vec::as_slice).collect();
    assert_eq!(carriers, [b"AA", b"UA"]);
}

#[test]
fn what_cannot_be_applied_is_rejected() {
    let mut driver = driver();
    driver.send(created("new", 1, true)).unwrap();
    driver.send(created("new", 1, true)).unwrap();
    let code = |driver: &mut Driver<FleetOnboarding>, record| {
        driver.send(record).unwrap_err().code().to_owned()
    };
    assert_eq!(code(&mut driver, created("new", 2, false)), "group-exists");
    assert_eq!(code(&mut driver, Record::tombstone("new")), "no-value");
    assert_eq!(code(&mut driver, Record::raw("new", "?")), "bad-event");
    assert_eq!(code(&mut driver, Record::raw("new", "")), "no-carrier");
    let no_change = GroupEvent {
        carrier: "UA".into(),
        group: "new".into(),
        change: None,
    };
    let record = Record::new("new", &FleetEvent::Group(no_change));
    assert_eq!(code(&mut driver, record), "bad-event");
    driver.assert_deterministic();
}
