//! The flights of a plane: the state, and how it is kept small.
//!
//! Used by the fold and by the queries. Invariant: sorted by departure, one flight per departure, so
//! that the state is a function of the set of events, not of their order or number.

use foldhost_sdk::{Codec, CodecError};

/// A flight that has landed, in milliseconds since the Unix epoch. Half-open, as windows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flight {
    pub(crate) departed_at_ms: i64,
    pub(crate) landed_at_ms: i64,
}

/// All flights of a plane.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flights(Vec<Flight>);

impl Flights {
    /// By departure, all different.
    pub(crate) fn as_slice(&self) -> &[Flight] {
        &self.0
    }

    /// Adds a flight. A plane departs once at an instant, so the departure names the flight; if
    /// several landings are told of one, the latest counts, whichever comes first.
    pub(crate) fn insert(&mut self, flight: Flight) {
        let found = self
            .0
            .binary_search_by_key(&flight.departed_at_ms, |f| f.departed_at_ms);
        match found {
            Ok(position) => {
                let landed_at_ms = &mut self.0[position].landed_at_ms;
                *landed_at_ms = flight.landed_at_ms.max(*landed_at_ms);
            }
            Err(position) => self.0.insert(position, flight),
        }
    }
}

/// Flights as they are stored: whole units of time, each departure as the distance from the one
/// before. A flight of a real timetable takes about five bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    /// Milliseconds of a unit: the largest of `UNITS_MS` that divides every time here.
    #[prost(int64, tag = "1")]
    unit_ms: i64,
    /// The first departure since the Unix epoch, then the distance between departures; in units.
    #[prost(sint64, repeated, tag = "2")]
    departures: Vec<i64>,
    /// Time in the air of each flight, in units.
    #[prost(uint64, repeated, tag = "3")]
    durations: Vec<u64>,
}

/// A minute, a second, a millisecond.
const UNITS_MS: [i64; 3] = [60_000, 1_000, 1];

impl Stored {
    fn of(flights: &[Flight]) -> Self {
        let whole = |unit: &&i64| {
            let mut flights = flights.iter();
            flights.all(|f| f.departed_at_ms % **unit == 0 && f.landed_at_ms % **unit == 0)
        };
        let unit_ms = UNITS_MS.iter().find(whole).copied().unwrap_or(1);
        let mut last = 0;
        let distances = flights.iter().map(|flight| {
            let departure = flight.departed_at_ms / unit_ms;
            departure.wrapping_sub(std::mem::replace(&mut last, departure))
        });
        let departures = distances.collect();
        let durations = flights.iter();
        let durations = durations
            .map(|f| f.landed_at_ms.abs_diff(f.departed_at_ms) / unit_ms.unsigned_abs())
            .collect();
        Self {
            unit_ms,
            departures,
            durations,
        }
    }

    fn flights(&self) -> Result<Vec<Flight>, CodecError> {
        if !UNITS_MS.contains(&self.unit_ms) || self.departures.len() != self.durations.len() {
            return Err(CodecError::new(
                "these are not flights: unit or lengths do not fit",
            ));
        }
        let mut departure: i64 = 0;
        let pairs = self.departures.iter().zip(&self.durations);
        let flights = pairs.map(|(distance, duration)| {
            departure = departure.wrapping_add(*distance);
            let landing = departure.checked_add_unsigned(*duration)?;
            Some(Flight {
                departed_at_ms: departure.checked_mul(self.unit_ms)?,
                landed_at_ms: landing.checked_mul(self.unit_ms)?,
            })
        });
        let flights: Option<Vec<_>> = flights.collect();
        flights.ok_or_else(|| CodecError::new("these are not flights: a time is out of range"))
    }
}

impl Codec for Flights {
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        <Stored as Codec>::decode(bytes)?.flights().map(Flights)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        Codec::encode(&Stored::of(&self.0), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(departed_at_ms: i64, landed_at_ms: i64) -> Flight {
        Flight {
            departed_at_ms,
            landed_at_ms,
        }
    }

    fn of(flights: &[Flight]) -> Flights {
        let mut all = Flights::default();
        flights.iter().for_each(|flight| all.insert(*flight));
        all
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        let (a, b, c) = (flight(10, 20), flight(15, 30), flight(10, 25));
        let expected = of(&[a, b, c]);
        assert_eq!(expected.as_slice(), [c, b]);
        assert_eq!(of(&[c, a, b, b, a, c]), expected);
        assert_eq!(of(&[b, c, a]), expected);
    }

    #[test]
    fn every_flight_comes_back() {
        for flights in [
            vec![],
            vec![flight(-60_000, 0), flight(120_000, 180_000)],
            vec![flight(1_000, 2_000), flight(61_000, 3_600_000)],
            vec![flight(-5, -5), flight(7, 1 << 50)],
            vec![flight(i64::MIN, i64::MAX), flight(i64::MAX, i64::MAX)],
        ] {
            let flights = of(&flights);
            assert_eq!(Flights::decode(&flights.to_bytes()), Ok(flights));
        }
    }

    #[test]
    fn a_year_of_a_busy_plane_is_small() {
        let hour = 3_600_000;
        let flights = (0..575).map(|n| 1_357_000_020_000 + n * 15 * hour);
        let flights: Vec<_> = flights
            .map(|at| flight(at, at + 2 * hour + 60_000))
            .collect();
        let bytes = of(&flights).to_bytes().len();
        assert!(bytes < 575 * 5, "{bytes} bytes");
    }

    #[test]
    fn other_bytes_are_no_flights() {
        let lengths = Stored {
            unit_ms: 1,
            departures: vec![1],
            durations: vec![],
        };
        let unit = Stored {
            unit_ms: 7,
            departures: vec![1],
            durations: vec![1],
        };
        let range = Stored {
            unit_ms: 60_000,
            departures: vec![i64::MAX],
            durations: vec![1],
        };
        for stored in [lengths, unit, range] {
            assert!(Flights::decode(&Codec::to_bytes(&stored)).is_err());
        }
    }
}
