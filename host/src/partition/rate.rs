//! How fast a partition folds, for people who wait for it. Kept by its worker.

use std::time::Duration;

/// How many events are folded in a second, lately.
#[derive(Debug)]
pub(super) struct Rate {
    since: Duration,
    events: u64,
    smoothed: Option<f64>,
}

impl Rate {
    /// Shortest time over which a rate says anything.
    const WINDOW: Duration = Duration::from_millis(500);

    pub(super) fn new(now: Duration) -> Self {
        Self {
            since: now,
            events: 0,
            smoothed: None,
        }
    }

    /// Counts events; a new rate now and then.
    pub(super) fn count(&mut self, events: u64, now: Duration) -> Option<f64> {
        self.events += events;
        let window = now.saturating_sub(self.since);
        if window < Self::WINDOW {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate is for people")]
        let rate = self.events as f64 / window.as_secs_f64();
        let smoothed = self.smoothed.map_or(rate, |before| (before + rate) / 2.0);
        *self = Self {
            since: now,
            events: 0,
            smoothed: Some(smoothed),
        };
        Some(smoothed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_once_a_window_and_is_smoothed() {
        let mut rate = Rate::new(Duration::ZERO);
        assert_eq!(rate.count(100, Duration::from_millis(100)), None);
        let first = rate.count(900, Duration::from_secs(1)).unwrap();
        assert!((first - 1_000.0).abs() < 1.0, "{first}");
        let second = rate.count(0, Duration::from_secs(2)).unwrap();
        assert!((second - 500.0).abs() < 1.0, "{second}");
    }
}
