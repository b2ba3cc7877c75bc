//! Where a plane is now: on which airport since when, or on which flight.
//!
//! The newest event wins, by its own time, a landing before a departure of the same instant; not the
//! one that comes last in the log. So neither an event that comes again nor one that comes late
//! changes the answer.

use std::cmp::Ordering;

use flight_events::{Event as FlightChange, FlightEvent};
use foldhost_sdk::{
    Event, NoArguments, Queries, Query, QueryError, Question, Reject, Timestamp, View,
};
use serde::Serialize;

pub struct PlaneTracker;

/// The newest event of a plane.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Position {
    #[prost(int64, tag = "1")]
    since_ms: i64,
    /// Landed at `dest`; else on the way there.
    #[prost(bool, tag = "2")]
    landed: bool,
    #[prost(string, tag = "3")]
    carrier: String,
    #[prost(uint32, tag = "4")]
    flight: u32,
    #[prost(string, tag = "5")]
    origin: String,
    #[prost(string, tag = "6")]
    dest: String,
}

impl View for PlaneTracker {
    type State = Position;
    type Event = FlightEvent;

    fn fold(state: &mut Option<Position>, event: &Event<FlightEvent>) -> Result<(), Reject> {
        let Some(event) = event.value() else {
            *state = None;
            return Ok(());
        };
        let position = position(event)?;
        if state
            .as_ref()
            .is_none_or(|newest| position.is_newer_than(newest))
        {
            *state = Some(position);
        }
        Ok(())
    }
}

fn position(event: &FlightEvent) -> Result<Position, Reject> {
    match &event.event {
        Some(FlightChange::Departed(departed)) => Ok(Position {
            since_ms: departed.departed_at_ms,
            landed: false,
            carrier: departed.carrier.clone(),
            flight: departed.flight,
            origin: departed.origin.clone(),
            dest: departed.dest.clone(),
        }),
        Some(FlightChange::Landed(landed)) => Ok(Position {
            since_ms: landed.landed_at_ms,
            landed: true,
            carrier: landed.carrier.clone(),
            flight: landed.flight,
            origin: landed.origin.clone(),
            dest: landed.dest.clone(),
        }),
        None => Err(Reject::new(
            Reject::BAD_EVENT,
            "the event is neither a departure nor a landing: deploy a plane-tracker that knows it",
        )),
    }
}

impl Position {
    /// By time, then by kind; what is left has no order in time, so any fixed one will do.
    fn is_newer_than(&self, other: &Self) -> bool {
        let by_time = (self.since_ms, self.landed).cmp(&(other.since_ms, other.landed));
        let by_rest = || {
            let rest = |p: &Self| {
                (
                    p.carrier.clone(),
                    p.flight,
                    p.origin.clone(),
                    p.dest.clone(),
                )
            };
            rest(self).cmp(&rest(other))
        };
        by_time.then_with(by_rest) == Ordering::Greater
    }
}

impl Query for PlaneTracker {
    fn queries(on: &mut Queries<Self>) {
        on.default("Where the plane is now: landed at an airport, or airborne between two")
            .answer(now);
    }
}

/// The answer.
#[derive(Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Now<'a> {
    Landed {
        airport: &'a str,
        since: Timestamp,
        flight: String,
    },
    Airborne {
        origin: &'a str,
        dest: &'a str,
        since: Timestamp,
        flight: String,
    },
}

fn now<'a>(question: Question<'a, Position>, _: NoArguments) -> Result<Now<'a>, QueryError> {
    let position = question.state()?;
    let since = Timestamp::from_millis(position.since_ms);
    let flight = format!("{}{}", position.carrier, position.flight);
    Ok(if position.landed {
        Now::Landed {
            airport: &position.dest,
            since,
            flight,
        }
    } else {
        Now::Airborne {
            origin: &position.origin,
            dest: &position.dest,
            since,
            flight,
        }
    })
}

foldhost_sdk::export!(PlaneTracker: View + Query);

#[cfg(test)]
mod tests {
    use flight_events::{FlightDeparted, FlightLanded};
    use foldhost_sdk::testing::{Driver, Record};
    use serde_json::{Value, json};

    use super::*;

    fn millis(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().millis()
    }

    fn departed(flight: u32, at: &str) -> Record {
        let event = FlightEvent::from(FlightDeparted {
            carrier: "UA".into(),
            flight,
            origin: "EWR".into(),
            dest: "IAH".into(),
            departed_at_ms: millis(at),
        });
        Record::new("N14228", &event).at(at)
    }

    fn landed(flight: u32, from: &str, to: &str) -> Record {
        let event = FlightEvent::from(FlightLanded {
            carrier: "UA".into(),
            flight,
            origin: "EWR".into(),
            dest: "IAH".into(),
            departed_at_ms: millis(from),
            landed_at_ms: millis(to),
        });
        Record::new("N14228", &event).at(to)
    }

    fn ask(driver: &mut Driver<PlaneTracker>) -> Value {
        driver.query("N14228", "", &[]).unwrap()
    }

    const DEPARTED: &str = "2013-01-01T10:17:00Z";
    const LANDED: &str = "2013-01-01T14:04:00Z";

    #[test]
    fn a_plane_departs_and_lands() {
        let mut driver = Driver::<PlaneTracker>::new();
        driver.send(departed(1545, DEPARTED)).unwrap();
        assert_eq!(
            ask(&mut driver),
            json!({"status": "airborne", "origin": "EWR", "dest": "IAH", "since": DEPARTED, "flight": "UA1545"})
        );
        driver.send(landed(1545, DEPARTED, LANDED)).unwrap();
        assert_eq!(
            ask(&mut driver),
            json!({"status": "landed", "airport": "IAH", "since": LANDED, "flight": "UA1545"})
        );
        driver.assert_deterministic();
        driver.assert_idempotent();
    }

    #[test]
    fn fields_come_in_this_order() {
        let mut driver = Driver::<PlaneTracker>::new();
        driver.send(landed(1545, DEPARTED, LANDED)).unwrap();
        assert_eq!(
            driver.ask("N14228", "", &[], None).unwrap().body,
            br#"{"status":"landed","airport":"IAH","since":"2013-01-01T14:04:00Z","flight":"UA1545"}"#
        );
    }

    #[test]
    fn every_order_of_the_events_gives_the_same_state() {
        let events = [
            departed(1, DEPARTED),
            landed(1, DEPARTED, LANDED),
            departed(2, LANDED), // at the instant of the landing
            landed(3, DEPARTED, LANDED),
        ];
        let mut states = Vec::new();
        for first in 0..4 {
            for second in 0..4 {
                let mut driver = Driver::<PlaneTracker>::new();
                let mut order = events.to_vec();
                order.rotate_left(first);
                order.swap(0, second);
                driver.send_all(order);
                driver.assert_idempotent();
                states.push(driver.state("N14228"));
            }
        }
        assert_eq!(
            states[0].as_ref().map(|p| (p.flight, p.landed)),
            Some((3, true))
        );
        assert!(states.iter().all(|state| *state == states[0]));
    }

    #[test]
    fn an_unknown_event_is_rejected_and_a_tombstone_forgets() {
        let mut driver = Driver::<PlaneTracker>::new();
        driver.send(departed(1, DEPARTED)).unwrap();
        let reject = driver
            .send(Record::raw("N14228", *b"\x1a\x00"))
            .unwrap_err();
        assert_eq!(reject.code(), "bad-event");
        assert_eq!(ask(&mut driver)["status"], "airborne");
        driver.send(Record::tombstone("N14228")).unwrap();
        assert_eq!(driver.query("N14228", "", &[]), Err(QueryError::NotFound));
    }
}
