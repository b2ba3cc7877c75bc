//! The chain that `foldhost demo` shows: departures become groups and access by the rules of its fleet feed,
//! these become notifications, and these become inboxes; held against a count of the departures.

use std::collections::BTreeMap;

use notification_inbox::NotificationInbox;
use serde_json::{Value, json};

use super::*;

const HOUR: i64 = 3_600_000;
/// First departure; the groups and what `ops-<carrier>` may see are there before.
const FIRST: i64 = 24 * HOUR;
/// When the auditor is granted every discovery group, in the middle of the departures.
const AUDITED: i64 = FIRST + DEPARTURES / 2 * HOUR;
const DEPARTURES: i64 = 600;
const CARRIERS: [&str; 3] = ["AA", "HA", "UA"];
const PLANES: u64 = 40;

/// Carrier, plane and time of every departure, in order. Some planes fly for several carriers, and some
/// much more often than others.
fn departures() -> Vec<(&'static str, String, i64)> {
    let mut chance = 1_u64;
    let mut below = |bound: u64| {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (chance >> 33) % bound
    };
    let departure = |number| {
        let bound = 1 + below(PLANES);
        let (plane, carrier) = (below(bound), below(CARRIERS.len() as u64));
        let carrier = CARRIERS[usize::try_from(carrier).unwrap()];
        (carrier, format!("N{plane}"), FIRST + number * HOUR)
    };
    (0..DEPARTURES).map(departure).collect()
}

/// When a plane departed for a carrier, by carrier and plane.
type Counted = BTreeMap<(&'static str, String), Vec<i64>>;

fn counted(departures: &[(&'static str, String, i64)]) -> Counted {
    let mut counted = Counted::new();
    for (carrier, plane, at) in departures {
        let of = (*carrier, plane.clone());
        counted.entry(of).or_default().push(*at);
    }
    counted
}

/// An event of a carrier's group, which is named after both, and its record.
fn of_group(carrier: &str, kind: &str, at: i64, change: GroupChange) -> Record {
    let group = format!("{kind}-{carrier}");
    let event = FleetEvent::Group(GroupEvent {
        carrier: carrier.into(),
        group: group.clone(),
        change: Some(change),
    });
    Record::new(group, &event).at(at)
}

fn grant(carrier: &str, kind: &str, at: i64, user: &str) -> Record {
    let event = FleetEvent::Access(AccessEvent {
        carrier: carrier.into(),
        user: user.into(),
        group: format!("{kind}-{carrier}"),
        change: Some(AccessChange::Granted(AccessGranted {})),
    });
    Record::new(user, &event).at(at)
}

/// The records of `fleet-groups` and `fleet-access`, by their times.
fn feed(counted: &Counted) -> Vec<Record> {
    let mut records = Vec::new();
    for carrier in CARRIERS {
        let ops = format!("ops-{carrier}");
        for (kind, discovery) in [("discovery", true), ("fleet", false)] {
            let created = GroupChange::Created(GroupCreated { discovery });
            records.push(of_group(carrier, kind, 0, created));
            records.push(grant(carrier, kind, 0, &ops));
        }
        records.push(grant(carrier, "discovery", AUDITED, "auditor"));
    }
    for ((carrier, plane), times) in counted {
        for (kind, number) in [("discovery", 1), ("fleet", 10)] {
            if let Some(at) = times.get(number - 1) {
                let device = plane.clone();
                let added = GroupChange::Added(DeviceAdded { device });
                records.push(of_group(carrier, kind, *at, added));
            }
        }
    }
    records.sort_by_key(Record::timestamp);
    records
}

/// What a user's inbox must hold: the planes with one to nine departures for these carriers.
fn expected(counted: &Counted, carriers: &[&str]) -> Value {
    let mut open: Vec<_> = counted
        .iter()
        .filter(|((carrier, _), times)| carriers.contains(carrier) && times.len() < 10)
        .map(|((carrier, plane), times)| (plane, format!("discovery-{carrier}"), times[0]))
        .collect();
    open.sort();
    let entry = |(device, group, since): (&String, String, i64)| {
        let since = foldhost_sdk::Timestamp::from_millis(since).to_string();
        json!({"device": device, "group": group, "since": since})
    };
    json!({"open": open.into_iter().map(entry).collect::<Vec<_>>()})
}

fn check_inboxes(records: Vec<Record>, counted: &Counted) {
    let mut onboarding = driver();
    assert_eq!(onboarding.send_all(records), []);
    let mut inbox = Driver::<NotificationInbox>::new();
    assert_eq!(inbox.send_all(onboarding.outputs().to_vec()), []);
    for carrier in CARRIERS {
        let answer = inbox.query(format!("ops-{carrier}"), "", &[]).unwrap();
        assert_eq!(answer, expected(counted, &[carrier]));
    }
    let answer = inbox.query("auditor", "", &[]).unwrap();
    assert_eq!(answer, expected(counted, &CARRIERS));
}

#[test]
fn inboxes_hold_the_planes_with_one_to_nine_departures() {
    let counted = counted(&departures());
    let fleet = counted.values().filter(|times| times.len() >= 10).count();
    let new = counted.len() - fleet;
    assert!(fleet > 10 && new > 30, "{fleet} and {new}: too few to tell");
    // The order in which the two topics arrive, and whose events come first, does not matter in the end.
    let in_order = feed(&counted);
    let groups_first = |record: &Record| !record.key().unwrap().starts_with(b"discovery");
    let mut by_topic = in_order.clone();
    by_topic.sort_by_key(groups_first);
    let twice = in_order.iter().chain(&in_order).cloned().collect();
    for records in [in_order, by_topic, twice] {
        check_inboxes(records, &counted);
    }
}

#[test]
fn the_feed_is_told_the_same_however_it_is_cut() {
    let mut driver = driver();
    driver.send_all(feed(&counted(&departures())));
    driver.assert_deterministic();
    driver.assert_idempotent();
    driver.assert_idempotent_outputs();
}
