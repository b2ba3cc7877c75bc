//! How long a plane was in the air within a window. Pure arithmetic on the flights of the state.
//!
//! Used by the queries. Invariant: everything is half-open, [from, to): a flight that lands when a
//! window begins, or departs when it ends, is outside. Work is linear in flights plus days.

use foldhost_sdk::Timestamp;
use foldhost_sdk::time::DAY_MS;
use serde::Serialize;

use crate::flights::Flight;

/// A window's answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct InMotion {
    /// Milliseconds in the air; where flights overlap, the time counts once.
    pub(crate) in_motion_ms: i64,
    /// Length of the window in milliseconds.
    pub(crate) window_ms: i64,
    /// 100 × in_motion_ms / window_ms, rounded half up to two decimals.
    pub(crate) percent: f64,
    /// Flights that overlap the window.
    pub(crate) flights: u64,
}

/// The same about one UTC day.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Day {
    /// The date, `2013-01-01`.
    pub(crate) day: String,
    pub(crate) in_motion_ms: i64,
    pub(crate) window_ms: i64,
    pub(crate) percent: f64,
    pub(crate) flights: u64,
}

impl InMotion {
    fn new(in_motion_ms: i64, window_ms: i64, flights: u64) -> Self {
        // Whole hundredths first, so that the division is exact and the same everywhere.
        let hundredths =
            (i128::from(in_motion_ms) * 10_000 + i128::from(window_ms) / 2) / i128::from(window_ms);
        Self {
            in_motion_ms,
            window_ms,
            percent: hundredths as f64 / 100.0,
            flights,
        }
    }
}

/// The answer for the window `[from, to)` in milliseconds; `from < to`. Flights are sorted by
/// departure.
pub(crate) fn in_motion(flights: &[Flight], from: i64, to: i64) -> InMotion {
    let clipped = clipped(flights, from, to);
    let count = clipped.clone().count() as u64;
    let in_motion_ms = merged(clipped).map(|(start, end)| end - start).sum();
    InMotion::new(in_motion_ms, to - from, count)
}

/// A row for every UTC day that the window touches; the first and the last are cut to the window.
pub(crate) fn by_day(flights: &[Flight], from: i64, to: i64) -> Vec<Day> {
    let first = from.div_euclid(DAY_MS);
    let days = ((to - 1).div_euclid(DAY_MS) - first + 1) as usize;
    let day_of = |ms: i64| (ms.div_euclid(DAY_MS) - first) as usize;
    let mut millis = vec![0i64; days];
    // How many flights more than the day before touch this day.
    let mut changes = vec![0i64; days + 1];
    for (start, end) in clipped(flights, from, to) {
        changes[day_of(start)] += 1;
        changes[day_of(end - 1) + 1] -= 1;
    }
    for (start, end) in merged(clipped(flights, from, to)) {
        let mut start = start;
        while start < end {
            let day = day_of(start);
            let midnight = (first + day as i64 + 1) * DAY_MS;
            millis[day] += end.min(midnight) - start;
            start = midnight;
        }
    }
    let mut flights = 0;
    let rows = millis.iter().zip(&changes).enumerate();
    rows.map(|(day, (in_motion_ms, change))| {
        flights += change;
        let midnight = (first + day as i64) * DAY_MS;
        let window_ms = to.min(midnight + DAY_MS) - from.max(midnight);
        let (year, month, date) = Timestamp::from_millis(midnight).date();
        let motion = InMotion::new(*in_motion_ms, window_ms, flights as u64);
        Day {
            day: format!("{year:04}-{month:02}-{date:02}"),
            in_motion_ms: motion.in_motion_ms,
            window_ms: motion.window_ms,
            percent: motion.percent,
            flights: motion.flights,
        }
    })
    .collect()
}

/// The parts of flights inside the window, none of them empty.
fn clipped(flights: &[Flight], from: i64, to: i64) -> impl Iterator<Item = (i64, i64)> + Clone {
    let flights = flights.iter();
    flights
        .map(move |f| (f.departed_at_ms.max(from), f.landed_at_ms.min(to)))
        .filter(|(start, end)| start < end)
}

/// The union of intervals that are sorted by their start: disjoint ones, in order.
fn merged(intervals: impl Iterator<Item = (i64, i64)>) -> impl Iterator<Item = (i64, i64)> {
    let mut intervals = intervals.peekable();
    std::iter::from_fn(move || {
        let (start, mut end) = intervals.next()?;
        while let Some((_, other)) = intervals.next_if(|(next, _)| *next <= end) {
            end = end.max(other);
        }
        Some((start, end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flights(pairs: &[(i64, i64)]) -> Vec<Flight> {
        let pairs = pairs.iter();
        pairs
            .map(|&(departed_at_ms, landed_at_ms)| Flight {
                departed_at_ms,
                landed_at_ms,
            })
            .collect()
    }

    #[test]
    fn windows_are_half_open_and_overlaps_count_once() {
        let flights = flights(&[(10, 20), (15, 30), (30, 31), (50, 50), (90, 110)]);
        let ask = |from, to| {
            let motion = in_motion(&flights, from, to);
            (motion.in_motion_ms, motion.window_ms, motion.flights)
        };
        assert_eq!(ask(0, 100), (31, 100, 4));
        assert_eq!(ask(0, 10), (0, 10, 0));
        assert_eq!(ask(31, 90), (0, 59, 0));
        assert_eq!(ask(18, 19), (1, 1, 2));
        assert_eq!(ask(95, 105), (10, 10, 1));
    }

    #[test]
    fn percent_is_rounded_half_up_to_two_decimals() {
        let percent = |part, whole| InMotion::new(part, whole, 1).percent;
        assert_eq!(percent(1, 3), 33.33);
        assert_eq!(percent(2, 3), 66.67);
        assert_eq!(percent(1, 20_000), 0.01);
        assert_eq!(percent(1, 20_001), 0.0);
        assert_eq!(percent(7, 7), 100.0);
        assert_eq!(percent(i64::MAX, i64::MAX), 100.0);
    }

    #[test]
    fn days_add_up_to_the_window() {
        let hour = 3_600_000;
        let flights = flights(&[
            (-30 * hour, -20 * hour), // over a midnight
            (-25 * hour, -23 * hour), // at the same time
            (hour, 60 * hour),        // over two midnights
            (70 * hour, 72 * hour),   // until midnight
        ]);
        let (from, to) = (-29 * hour, 71 * hour);
        let days = by_day(&flights, from, to);
        let names: Vec<_> = days.iter().map(|day| day.day.as_str()).collect();
        assert_eq!(
            names,
            [
                "1969-12-30",
                "1969-12-31",
                "1970-01-01",
                "1970-01-02",
                "1970-01-03"
            ]
        );
        for (day, midnight) in days.iter().zip((-2..).map(|day| day * DAY_MS)) {
            let alone = in_motion(&flights, from.max(midnight), to.min(midnight + DAY_MS));
            let motion = InMotion {
                in_motion_ms: day.in_motion_ms,
                window_ms: day.window_ms,
                percent: day.percent,
                flights: day.flights,
            };
            assert_eq!(motion, alone, "{}", day.day);
        }
        let sum: i64 = days.iter().map(|day| day.in_motion_ms).sum();
        assert_eq!(sum, in_motion(&flights, from, to).in_motion_ms);
    }

    #[test]
    fn a_window_of_one_day_has_one_row() {
        assert_eq!(by_day(&[], 0, DAY_MS).len(), 1);
        assert_eq!(by_day(&[], 0, DAY_MS + 1).len(), 2);
        assert_eq!(by_day(&[], DAY_MS - 1, DAY_MS + 1).len(), 2);
    }
}
