//! What the chain of the demo must end in: from flights to groups and access (`fleet-feed`), to notifications
//! (`fleet-onboarding`), to inboxes (`notification-inbox`). Called by the scenarios that load flights.
//!
//! Invariant: computed from the flights alone, by the one sentence that says it: the inbox of `ops-<carrier>`
//! holds the planes with one to nine departures for that carrier, since the first of them, and the auditor's
//! those of all carriers.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::flight_records::CARRIER_LENGTH;
use crate::flights::{Flights, format_time};
use crate::http::Client;
use crate::wait::wait_until_ok;

/// Departures that make a plane one of a carrier's fleet.
const FLEET_DEPARTURES: usize = 10;

/// What the default query of `notification-inbox` must answer, by user.
pub fn inboxes(flights: &Flights) -> BTreeMap<String, Value> {
    let mut departures: BTreeMap<(&str, &str), Vec<i64>> = BTreeMap::new();
    for flight in flights.all() {
        let (carrier, _) = flight.label.split_at(CARRIER_LENGTH);
        let of = (flight.plane.as_str(), carrier);
        departures.entry(of).or_default().push(flight.departed_at);
    }
    // By plane, then carrier: the order of an inbox, since groups are named after carriers.
    let mut open: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for ((plane, carrier), mut times) in departures {
        times.sort_unstable();
        for user in [format!("ops-{carrier}"), "auditor".to_owned()] {
            let inbox = open.entry(user).or_default();
            if times.len() < FLEET_DEPARTURES {
                inbox.push(json!({
                    "device": plane,
                    "group": format!("discovery-{carrier}"),
                    "since": format_time(times[0]),
                }));
            }
        }
    }
    let open = open.into_iter();
    open.map(|(user, open)| (user, json!({ "open": open })))
        .collect()
}

/// Waits until every inbox is what it must be.
///
/// # Errors
/// If one is not within `deadline`; the message has the first difference.
pub fn check_inboxes(client: &Client, flights: &Flights, deadline: Duration) -> Result<()> {
    for (user, expected) in inboxes(flights) {
        wait_until_ok(deadline, &format!("the inbox of {user}"), || {
            let reply = client.ask("notification-inbox", &user, "")?;
            let answer = reply.expect_status(200)?.json()?;
            let count = |of: &Value| of["open"].as_array().map(Vec::len);
            let (told, wanted) = (count(&answer), count(&expected));
            ensure!(told == wanted, "{told:?} planes, not {wanted:?}");
            ensure!(answer == expected, "{answer}, not {expected}");
            Ok(())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn january_fills_these_inboxes() {
        let inboxes = inboxes(&Flights::january().unwrap());
        assert_eq!(inboxes.len(), 17);
        let count = |user: &str| inboxes[user]["open"].as_array().unwrap().len();
        assert_eq!((count("ops-OO"), count("ops-B6")), (1, 4));
        let all: usize = inboxes.keys().map(|user| count(user)).sum();
        assert_eq!(count("auditor"), 2_191);
        assert_eq!(all, 2 * count("auditor"));
    }
}
