//! What percent of a window a plane was in motion.
//!
//! Keeps the flights themselves, each by its departure, so an event that comes again, or late, changes
//! nothing. A flight counts once it has landed: a landing tells the whole flight, while of a plane in
//! the air nobody knows yet until when it will have moved. Departures therefore change nothing.

mod flights;
mod window;

use flight_events::{Event as FlightChange, FlightEvent};
use foldhost_sdk::time::DAY_MS;
use foldhost_sdk::{Event, Queries, Query, QueryError, Question, Reject, Timestamp, View};
use serde::Deserialize;

use self::flights::Flight;
pub use self::flights::Flights;
use self::window::{Day, InMotion};

/// `by-day` answers at most this many rows: ten years.
const DAYS_MAX: i64 = 3_660;

pub struct PlaneUtilisation;

impl View for PlaneUtilisation {
    type State = Flights;
    type Event = FlightEvent;

    fn fold(state: &mut Option<Flights>, event: &Event<FlightEvent>) -> Result<(), Reject> {
        let Some(event) = event.value() else {
            *state = None;
            return Ok(());
        };
        match &event.event {
            Some(FlightChange::Departed(_)) => Ok(()),
            Some(FlightChange::Landed(landed)) if landed.landed_at_ms < landed.departed_at_ms => {
                let reason = "the flight landed before it departed: correct the event's times";
                Err(Reject::new(Reject::BAD_EVENT, reason))
            }
            Some(FlightChange::Landed(landed)) => {
                state.get_or_insert_default().insert(Flight {
                    departed_at_ms: landed.departed_at_ms,
                    landed_at_ms: landed.landed_at_ms,
                });
                Ok(())
            }
            None => Err(Reject::new(
                Reject::BAD_EVENT,
                "the event is neither a departure nor a landing: deploy code that knows it",
            )),
        }
    }
}

/// The half-open window `[from, to)`.
#[derive(Deserialize)]
struct Window {
    from: Timestamp,
    to: Timestamp,
}

impl Window {
    fn check(&self) -> Result<(i64, i64), QueryError> {
        if self.to <= self.from {
            return Err(QueryError::bad_argument(
                "to",
                "expected a time after `from`",
            ));
        }
        Ok((self.from.millis(), self.to.millis()))
    }
}

impl Query for PlaneUtilisation {
    fn queries(on: &mut Queries<Self>) {
        on.query(
            "in-motion",
            "What percent of a window the plane was in the air",
        )
        .answer(in_motion);
        on.query(
            "by-day",
            "The same for each UTC day that a window of up to 3660 days touches",
        )
        .answer(by_day);
    }
}

fn in_motion(question: Question<Flights>, window: Window) -> Result<InMotion, QueryError> {
    let (from, to) = window.check()?;
    Ok(window::in_motion(&question.state()?.unpack(), from, to))
}

fn by_day(question: Question<Flights>, window: Window) -> Result<Vec<Day>, QueryError> {
    let (from, to) = window.check()?;
    if to - window.from.day_start().millis() > DAYS_MAX * DAY_MS {
        let expected = format!("expected a time at most {DAYS_MAX} days after the day of `from`");
        return Err(QueryError::bad_argument("to", expected));
    }
    Ok(window::by_day(&question.state()?.unpack(), from, to))
}

foldhost_sdk::export!(PlaneUtilisation: View + Query);

#[cfg(test)]
mod tests {
    use flight_events::{FlightDeparted, FlightLanded};
    use foldhost_sdk::testing::{Driver, Record};
    use serde_json::json;

    use super::*;

    fn millis(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().millis()
    }

    fn departed(from: &str) -> Record {
        let event = FlightEvent::from(FlightDeparted {
            departed_at_ms: millis(from),
            ..FlightDeparted::default()
        });
        Record::new("N14228", &event).at(from)
    }

    fn landed(from: &str, to: &str) -> Record {
        let event = FlightEvent::from(FlightLanded {
            departed_at_ms: millis(from),
            landed_at_ms: millis(to),
            ..FlightLanded::default()
        });
        Record::new("N14228", &event).at(to)
    }

    /// Two flights, the second over midnight.
    fn driver() -> Driver<PlaneUtilisation> {
        let mut driver = Driver::new();
        let rejected = driver.send_all([
            departed("2013-01-01T10:00:00Z"),
            landed("2013-01-01T10:00:00Z", "2013-01-01T13:00:00Z"),
            departed("2013-01-01T23:00:00Z"),
            landed("2013-01-01T23:00:00Z", "2013-01-02T02:00:00Z"),
            departed("2013-01-02T05:00:00Z"),
        ]);
        assert_eq!(rejected, []);
        driver
    }

    #[test]
    fn a_window_tells_its_percentage() {
        let answer = driver().query(
            "N14228",
            "in-motion",
            &[("from", "2013-01-01"), ("to", "2013-01-02T00:00:00Z")],
        );
        assert_eq!(
            answer.unwrap(),
            json!({"in_motion_ms": 14_400_000, "window_ms": 86_400_000, "percent": 16.67, "flights": 2})
        );
    }

    #[test]
    fn days_tell_the_same_row_by_row() {
        let answer = driver().query(
            "N14228",
            "by-day",
            &[("from", "2013-01-01T12:00:00Z"), ("to", "2013-01-03")],
        );
        assert_eq!(
            answer.unwrap(),
            json!([
                {"day": "2013-01-01", "in_motion_ms": 7_200_000, "window_ms": 43_200_000, "percent": 16.67, "flights": 2},
                {"day": "2013-01-02", "in_motion_ms": 7_200_000, "window_ms": 86_400_000, "percent": 8.33, "flights": 1},
            ])
        );
    }

    #[test]
    fn replays_change_nothing() {
        let mut driver = driver();
        driver.assert_deterministic();
        driver.assert_idempotent();
    }

    #[test]
    fn a_wrong_argument_is_named() {
        let mut driver = driver();
        let mut fault = |query: &str, arguments: &[(&str, &str)]| {
            // A plane without flights: its arguments are checked all the same.
            match driver.query("N0", query, arguments) {
                Err(QueryError::BadArgument { name, .. }) => name,
                other => panic!("{other:?}"),
            }
        };
        for query in ["in-motion", "by-day"] {
            assert_eq!(fault(query, &[("from", "2013-01-01")]), "to");
            assert_eq!(fault(query, &[("to", "2013-01-01")]), "from");
            assert_eq!(
                fault(query, &[("from", "noon"), ("to", "2013-01-01")]),
                "from"
            );
            assert_eq!(
                fault(query, &[("from", "2013-01-01"), ("to", "2013-01-01")]),
                "to"
            );
            assert_eq!(
                fault(
                    query,
                    &[("from", "2013-01-01"), ("to", "2013-01-02"), ("form", "x")]
                ),
                "form"
            );
        }
        let ten_years = [("from", "2013-01-01"), ("to", "2023-01-10")];
        assert_eq!(fault("by-day", &ten_years), "to");
    }

    #[test]
    fn the_longest_window_by_day_is_answered() {
        let window = [("from", "2013-01-01T12:00:00Z"), ("to", "2023-01-09")];
        let answer = driver().query("N14228", "by-day", &window).unwrap();
        assert_eq!(answer.as_array().unwrap().len(), 3_660);
    }

    #[test]
    fn unknown_planes_and_queries_are_not_found() {
        let window = [("from", "2013-01-01"), ("to", "2013-01-02")];
        let mut driver = driver();
        assert_eq!(
            driver.query("N0", "in-motion", &window),
            Err(QueryError::NotFound)
        );
        assert_eq!(
            driver.query("N14228", "", &[]),
            Err(QueryError::UnknownQuery)
        );
    }

    #[test]
    fn a_flight_that_lands_before_it_departs_is_rejected() {
        let mut driver = driver();
        let record = landed("2013-01-03T10:00:00Z", "2013-01-03T09:59:59Z");
        assert_eq!(driver.send(record).unwrap_err().code(), "bad-event");
    }
}
