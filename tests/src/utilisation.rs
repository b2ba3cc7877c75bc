//! How long a plane was in the air within a window, counted in the plainest way: minute by minute.
//! Called by the scenarios that compare `plane-utilisation` with it. Every time of the data is a whole
//! minute, so the count is exact; it has no intervals to merge and so cannot merge them wrongly.

use std::collections::BTreeSet;

use crate::flights::{DAY, Flight};

const MINUTE: i64 = 60_000;

/// What `in-motion` must answer about a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InMotion {
    /// Milliseconds in the air, overlapping flights counted once.
    pub in_motion_ms: i64,
    /// Length of the window in milliseconds.
    pub window_ms: i64,
    /// Flights that overlap the window.
    pub flights: usize,
}

/// Counts for the half-open window `[from, to)`, in milliseconds since the Unix epoch.
pub fn in_motion(flights: &[&Flight], from: i64, to: i64) -> InMotion {
    let mut edges: BTreeSet<i64> = BTreeSet::new();
    let mut overlapping = 0;
    for flight in flights {
        if flight.departed_at < to && flight.landed_at > from {
            overlapping += 1;
            // Every minute of the flight, by its beginning.
            let mut minute = flight.departed_at;
            while minute < flight.landed_at {
                edges.insert(minute);
                minute += MINUTE;
            }
        }
    }
    let in_motion_ms = edges
        .iter()
        .map(|minute| (minute + MINUTE).min(to) - (*minute).max(from))
        .filter(|inside| *inside > 0)
        .sum();
    InMotion {
        in_motion_ms,
        window_ms: to - from,
        flights: overlapping,
    }
}

/// The same for every UTC day that the window touches, cut to the window: (midnight, answer).
pub fn by_day(flights: &[&Flight], from: i64, to: i64) -> Vec<(i64, InMotion)> {
    let mut rows = Vec::new();
    let mut midnight = from.div_euclid(DAY) * DAY;
    while midnight < to {
        let (start, end) = (midnight.max(from), (midnight + DAY).min(to));
        rows.push((midnight, in_motion(flights, start, end)));
        midnight += DAY;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(departed_minute: i64, landed_minute: i64) -> Flight {
        Flight {
            row: 0,
            plane: "N1".into(),
            label: "UA1".into(),
            origin: "EWR".into(),
            dest: "IAH".into(),
            departed_at: departed_minute * MINUTE,
            landed_at: landed_minute * MINUTE,
        }
    }

    #[test]
    fn overlaps_count_once_and_the_window_is_half_open() {
        let (one, two) = (flight(10, 20), flight(15, 30));
        let both = [&one, &two];
        let whole = in_motion(&both, 0, 100 * MINUTE);
        assert_eq!((whole.in_motion_ms, whole.flights), (20 * MINUTE, 2));
        let cut = in_motion(&both, 12 * MINUTE + 1, 16 * MINUTE);
        assert_eq!((cut.in_motion_ms, cut.flights), (4 * MINUTE - 1, 2));
        let before = in_motion(&both, 0, 10 * MINUTE);
        assert_eq!((before.in_motion_ms, before.flights), (0, 0));
        let after = in_motion(&both, 30 * MINUTE, 31 * MINUTE);
        assert_eq!((after.in_motion_ms, after.flights), (0, 0));
    }

    #[test]
    fn days_are_cut_to_the_window() {
        let over_midnight = flight(1_430, 1_450);
        let rows = by_day(&[&over_midnight], 1_435 * MINUTE, 1_500 * MINUTE);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].0, rows[0].1.in_motion_ms), (0, 5 * MINUTE));
        assert_eq!((rows[1].0, rows[1].1.in_motion_ms), (DAY, 10 * MINUTE));
    }
}
