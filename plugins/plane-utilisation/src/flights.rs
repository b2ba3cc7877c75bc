//! The flights of a plane: the state, and how it is kept small and cheap to grow.
//!
//! Used by the fold and by the queries. Invariant: the bytes are a function of the set of flights: in
//! order of departure, one flight per departure, in the largest unit that divides every time. So
//! neither the order nor the number of events shows in them.

use prost::encoding::{decode_varint, encode_varint};

/// A flight that has landed, in milliseconds since the Unix epoch. Half-open, as windows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flight {
    pub(crate) departed_at_ms: i64,
    pub(crate) landed_at_ms: i64,
}

/// All flights of a plane, packed: about five bytes each. The next flight of a plane is mostly one
/// after all others, and that one is appended without unpacking them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Flights {
    /// Milliseconds of a unit: the largest of `UNITS_MS` that divides every time here.
    #[prost(int64, tag = "1")]
    unit_ms: i64,
    /// The last departure, in units since the Unix epoch.
    #[prost(int64, tag = "2")]
    last_departure: i64,
    /// Two varints a flight, in units: from the departure before (at first: from the Unix epoch) to
    /// this one, and from there to the landing.
    #[prost(bytes = "vec", tag = "3")]
    packed: Vec<u8>,
}

/// A minute, a second, a millisecond.
const UNITS_MS: [i64; 3] = [60_000, 1_000, 1];

impl Flights {
    /// All flights, by departure.
    ///
    /// # Panics
    /// The state was not written by this code (a trap; the host keeps states of other schemas away).
    pub(crate) fn unpack(&self) -> Vec<Flight> {
        let mut packed = self.packed.as_slice();
        let mut next = || {
            let number = decode_varint(&mut packed).ok();
            number.map(u64::cast_signed)
        };
        let mut departure: i64 = 0;
        let mut flights = Vec::with_capacity(self.packed.len() / 4);
        while let Some(distance) = next() {
            departure = departure.wrapping_add(distance);
            let duration = next().expect("flights are written in pairs");
            flights.push(Flight {
                departed_at_ms: departure.wrapping_mul(self.unit_ms),
                landed_at_ms: departure.wrapping_add(duration).wrapping_mul(self.unit_ms),
            });
        }
        flights
    }

    /// Adds a flight, which does not land before it departs. A plane departs once at an instant, so
    /// the departure names the flight; if several landings are told of one, the latest counts,
    /// whichever comes first.
    pub(crate) fn insert(&mut self, flight: Flight) {
        let is_last = !self.packed.is_empty()
            && flight.is_whole(self.unit_ms)
            && flight.departed_at_ms / self.unit_ms > self.last_departure;
        if is_last {
            return self.append(flight);
        }
        let mut flights = self.unpack();
        match flights.binary_search_by_key(&flight.departed_at_ms, |f| f.departed_at_ms) {
            Ok(known) => {
                let landed_at_ms = &mut flights[known].landed_at_ms;
                *landed_at_ms = flight.landed_at_ms.max(*landed_at_ms);
            }
            Err(position) => flights.insert(position, flight),
        }
        *self = Self::pack(&flights);
    }

    fn pack(flights: &[Flight]) -> Self {
        let mut units = UNITS_MS.into_iter();
        let unit_ms = units.find(|unit| flights.iter().all(|flight| flight.is_whole(*unit)));
        let mut packed = Self {
            unit_ms: unit_ms.expect("every time is whole milliseconds"),
            ..Self::default()
        };
        flights.iter().for_each(|flight| packed.append(*flight));
        packed
    }

    fn append(&mut self, flight: Flight) {
        let departure = flight.departed_at_ms / self.unit_ms;
        let landing = flight.landed_at_ms / self.unit_ms;
        let distance = departure.wrapping_sub(self.last_departure);
        let duration = landing.wrapping_sub(departure);
        encode_varint(distance.cast_unsigned(), &mut self.packed);
        encode_varint(duration.cast_unsigned(), &mut self.packed);
        self.last_departure = departure;
    }
}

impl Flight {
    fn is_whole(&self, unit_ms: i64) -> bool {
        self.departed_at_ms % unit_ms == 0 && self.landed_at_ms % unit_ms == 0
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
        let minute = 60_000;
        let flights = [
            flight(10 * minute, 20 * minute),
            flight(15 * minute, 30 * minute),
            flight(10 * minute, 24 * minute + 500), // of the first, until it is told better
            flight(10 * minute, 25 * minute),
            flight(70 * minute, 80 * minute),
        ];
        let expected = of(&flights);
        assert_eq!(expected.unpack(), [flights[3], flights[1], flights[4]]);
        assert_eq!(expected.unit_ms, minute);
        for first in 0..5 {
            for second in 0..5 {
                let mut order = flights.to_vec();
                order.rotate_left(first);
                order.swap(0, second);
                order.extend_from_within(..);
                assert_eq!(of(&order), expected, "{order:?}");
            }
        }
    }

    #[test]
    fn every_flight_comes_back() {
        for flights in [
            vec![],
            vec![flight(-60_000, 0), flight(120_000, 180_000)],
            vec![
                flight(0, 60_000),
                flight(60_000, 61_000),
                flight(120_000, 120_001),
            ],
            vec![flight(-5, -5), flight(7, 1 << 50)],
            vec![flight(i64::MIN, i64::MAX), flight(i64::MAX, i64::MAX)],
        ] {
            assert_eq!(of(&flights).unpack(), flights);
        }
    }

    #[test]
    fn a_year_of_a_busy_plane_is_small() {
        let hour = 3_600_000;
        let flights = (0..575).map(|n| 1_357_000_020_000 + n * 15 * hour);
        let flights: Vec<_> = flights
            .map(|at| flight(at, at + 2 * hour + 60_000))
            .collect();
        let bytes = of(&flights).packed.len();
        assert!(bytes < 575 * 5, "{bytes} bytes");
    }
}
