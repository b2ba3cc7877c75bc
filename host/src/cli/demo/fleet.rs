//! `fleet-feed`: who may see which planes, made from the flights; the records of the topics `fleet-groups` and
//! `fleet-access`, as `plugins/fleet-events/fleet.proto` says. Loaded by `demo`.
//!
//! The rules: a plane's first departure for a carrier adds it to that carrier's discovery group, its tenth to
//! the carrier's fleet. The user `ops-<carrier>` may see both from before the first flight; `auditor` is granted
//! every discovery group at [`AUDITOR_FROM`]. A record's time is that of its event.
//!
//! Invariant: the same flights give the same records in the same order, which is that of their times.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::flights::Flights;
use super::loader::{Source, Topics};
use crate::log::NewRecord;
use crate::types::TopicName;

mod wire {
    //! Generated from `plugins/fleet-events/fleet.proto`.
    #![allow(
        clippy::all,
        clippy::pedantic,
        dead_code,
        missing_docs,
        unreachable_pub
    )]
    include!(concat!(env!("OUT_DIR"), "/foldhost.fleet.v1.rs"));
}

use wire::{AccessEvent, AccessGranted, DeviceAdded, GroupCreated, GroupEvent};

/// The user who may see every discovery group.
pub(super) const AUDITOR: &str = "auditor";
/// From when on the auditor may.
const AUDITOR_FROM: jiff::Timestamp = jiff::Timestamp::constant(1_372_636_800, 0);
/// The departure for a carrier that makes a plane one of its fleet.
const FLEET_DEPARTURE: u32 = 10;
const DAY_MS: i64 = 86_400_000;

/// What follows from the flights of a data set.
#[derive(Debug)]
pub(super) struct FleetFeed<'a> {
    flights: &'a Flights,
    name: String,
    changes: Vec<Change>,
    /// Planes that are in a carrier's discovery group only, in the end.
    new_planes: BTreeMap<Arc<str>, usize>,
}

/// Something that happens to a group of a carrier.
#[derive(Debug)]
struct Change {
    at_ms: i64,
    carrier: Arc<str>,
    group: Group,
    what: What,
}

/// A group that every carrier has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// Planes that have departed for the carrier.
    Discovery,
    /// Planes that do so often.
    Fleet,
}

#[derive(Debug)]
enum What {
    Created,
    Granted(User),
    Added(Arc<str>),
}

#[derive(Debug, Clone, Copy)]
enum User {
    Ops,
    Auditor,
}

impl<'a> FleetFeed<'a> {
    /// What follows from these flights.
    pub(super) fn of(flights: &'a Flights) -> Self {
        let (mut changes, new_planes) = placed(flights);
        let first_ms = flights.span_ms().map_or(0, |(first_ms, _)| first_ms);
        for carrier in new_planes.keys() {
            changes.extend(set_up(carrier, day_before(first_ms)));
        }
        // Stable: what was there before the flights comes first where times are equal, then their own order.
        changes.sort_by_key(|change| (change.at_ms, matches!(change.what, What::Added(_))));
        Self {
            flights,
            name: format!("the fleets of {}", flights.name),
            changes,
            new_planes,
        }
    }

    /// The users `ops-<carrier>` to whom planes are new in the end, those with the fewest first.
    pub(super) fn users_by_news(&self) -> Vec<String> {
        let told = self.new_planes.iter().filter(|(_, planes)| **planes > 0);
        let mut carriers: Vec<_> = told.map(|(carrier, planes)| (planes, carrier)).collect();
        carriers.sort_unstable();
        let carriers = carriers.into_iter();
        carriers
            .map(|(_, carrier)| User::Ops.name(carrier))
            .collect()
    }
}

/// Planes come into the groups of the carriers for which they depart; with the number of those that never
/// come into the fleet, by carrier.
fn placed(flights: &Flights) -> (Vec<Change>, BTreeMap<Arc<str>, usize>) {
    let mut changes = Vec::new();
    let mut departures: BTreeMap<(Arc<str>, Arc<str>), u32> = BTreeMap::new();
    // A group belongs to a carrier: without one there is nothing to tell.
    let departed = flights.events_from(0).filter(|(event, flight)| {
        let is_named = !flight.carrier.is_empty();
        !event.is_landing && is_named
    });
    for (event, flight) in departed {
        let of = (Arc::clone(&flight.carrier), Arc::clone(&flight.plane));
        let count = departures.entry(of).or_default();
        *count += 1;
        let group = match *count {
            1 => Group::Discovery,
            FLEET_DEPARTURE => Group::Fleet,
            _ => continue,
        };
        changes.push(Change {
            at_ms: event.at_ms,
            carrier: Arc::clone(&flight.carrier),
            group,
            what: What::Added(Arc::clone(&flight.plane)),
        });
    }
    let mut new_planes: BTreeMap<_, usize> = BTreeMap::new();
    for ((carrier, _), count) in departures {
        *new_planes.entry(carrier).or_default() += usize::from(count < FLEET_DEPARTURE);
    }
    (changes, new_planes)
}

/// The groups of a carrier, and who may see them.
fn set_up(carrier: &Arc<str>, before_ms: i64) -> [Change; 5] {
    let change = |at_ms, group, what| Change {
        at_ms,
        carrier: Arc::clone(carrier),
        group,
        what,
    };
    let auditor_from_ms = AUDITOR_FROM.as_millisecond();
    [
        change(before_ms, Group::Discovery, What::Created),
        change(before_ms, Group::Fleet, What::Created),
        change(before_ms, Group::Discovery, What::Granted(User::Ops)),
        change(before_ms, Group::Fleet, What::Granted(User::Ops)),
        change(
            auditor_from_ms,
            Group::Discovery,
            What::Granted(User::Auditor),
        ),
    ]
}

/// The last midnight (UTC) before this moment.
fn day_before(at_ms: i64) -> i64 {
    (at_ms - 1).div_euclid(DAY_MS) * DAY_MS
}

impl Group {
    fn name(self, carrier: &str) -> String {
        match self {
            Self::Discovery => format!("discovery-{carrier}"),
            Self::Fleet => format!("fleet-{carrier}"),
        }
    }
}

impl User {
    fn name(self, carrier: &str) -> String {
        match self {
            Self::Ops => format!("ops-{carrier}"),
            Self::Auditor => AUDITOR.to_owned(),
        }
    }
}

impl Source for FleetFeed<'_> {
    const WHAT: &'static str = "fleet events";

    fn name(&self) -> &str {
        &self.name
    }

    fn progress_key(&self) -> String {
        format!("{}/fleet-feed", self.flights.progress_key())
    }

    fn record_count(&self) -> usize {
        self.changes.len()
    }

    fn records_from(
        &self,
        index: usize,
        topics: &Topics,
    ) -> impl Iterator<Item = (TopicName, NewRecord)> {
        let changes = self.changes.get(index..).unwrap_or_default();
        changes.iter().map(|change| change.record(topics))
    }
}

impl Change {
    fn record(&self, topics: &Topics) -> (TopicName, NewRecord) {
        let carrier = self.carrier.to_string();
        let group = self.group.name(&carrier);
        let about_group = |change| GroupEvent {
            carrier: carrier.clone(),
            group: group.clone(),
            change: Some(change),
        };
        let (topic, key, value) = match &self.what {
            What::Created => {
                let discovery = self.group == Group::Discovery;
                let created = wire::group_event::Change::Created(GroupCreated { discovery });
                let value = about_group(created).encode_to_vec();
                (&topics.groups, group.clone(), value)
            }
            What::Added(plane) => {
                let device = plane.to_string();
                let added = wire::group_event::Change::Added(DeviceAdded { device });
                let value = about_group(added).encode_to_vec();
                (&topics.groups, group.clone(), value)
            }
            What::Granted(user) => {
                let user = user.name(&carrier);
                let granted = AccessEvent {
                    carrier: carrier.clone(),
                    user: user.clone(),
                    group: group.clone(),
                    change: Some(wire::access_event::Change::Granted(AccessGranted {})),
                };
                (&topics.access, user, granted.encode_to_vec())
            }
        };
        let record = NewRecord {
            key: Some(Bytes::from(key)),
            value: Some(Bytes::from(value)),
            timestamp_ms: Some(self.at_ms),
            ..NewRecord::default()
        };
        (topic.clone(), record)
    }
}

#[cfg(test)]
mod tests;
