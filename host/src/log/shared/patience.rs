//! For how long a reader waits for another one that is about to read the same. Part of `shared`.
//!
//! One that is as quick as those that it goes on with hardly ever waits. One that is quicker would wait for them after
//! each batch, and fold no faster than the slowest of them: so what it waits is a part of what it works, and when that
//! is used up, it reads on itself, and is the one that the others follow.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Sleep;

use crate::clock::Clock;
use crate::limits;

/// Part of the time between its reads that a reader may wait: one in this many.
const WORK_SHARE: u32 = 4;

/// What a reader may still wait.
pub(super) struct Patience {
    clock: Clock,
    left: Duration,
    /// When the last read ended, until the next one begins.
    works_since: Option<Duration>,
    waiting: Option<Waiting>,
}

struct Waiting {
    since: Duration,
    over: Pin<Box<Sleep>>,
}

impl Patience {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            left: limits::SHARED_READ_WAIT_MIN,
            works_since: None,
            waiting: None,
        }
    }

    /// A read begins, or goes on if it was dropped.
    pub(super) fn read_begins(&mut self) {
        if let Some(since) = self.works_since.take() {
            let worked = self.clock.elapsed().saturating_sub(since);
            self.left = (self.left + worked / WORK_SHARE).min(limits::SHARED_READ_WAIT_MAX);
        }
    }

    /// A read has returned something.
    pub(super) fn read_ends(&mut self) {
        self.stops_waiting();
        self.works_since = Some(self.clock.elapsed());
    }

    /// Waits for others; false once it has waited for too long. Cancel-safe: what was waited before counts.
    pub(super) async fn wait(&mut self, others: impl Future<Output = ()>) -> bool {
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            since: self.clock.elapsed(),
            over: Box::pin(tokio::time::sleep(self.left)),
        });
        tokio::select! {
            biased;
            () = others => true,
            () = &mut waiting.over => false,
        }
    }

    /// It goes past those that it has waited for.
    pub(super) fn passes(&mut self) {
        self.stops_waiting();
        self.left = self.left.max(limits::SHARED_READ_WAIT_MIN);
    }

    fn stops_waiting(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            let waited = self.clock.elapsed().saturating_sub(waiting.since);
            self.left = self.left.saturating_sub(waited);
        }
    }
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patience")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = limits::SHARED_READ_WAIT_MIN;
    const MAX: Duration = limits::SHARED_READ_WAIT_MAX;

    /// Waits until others are ready after `after`, and moves the clock along; whether it waited for them.
    async fn wait(patience: &mut Patience, after: Duration) -> bool {
        let clock = patience.clock.clone();
        let others = async {
            tokio::time::sleep(after).await;
            clock.advance(after);
        };
        let is_ready = patience.wait(others).await;
        if !is_ready {
            patience.clock.advance(patience.left);
        }
        is_ready
    }

    fn work(patience: &mut Patience, time: Duration) {
        patience.read_ends();
        patience.clock.advance(time);
        patience.read_begins();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_much_quicker_goes_past_the_others_soon() {
        let mut patience = Patience::new(Clock::manual(0, 1));
        let mut waits = 0;
        loop {
            work(&mut patience, MIN / 10);
            if !wait(&mut patience, MIN / 3).await {
                break;
            }
            waits += 1;
        }
        assert_eq!(waits, 3);
        patience.passes();
        assert_eq!(patience.left, MIN, "the next one is waited for as well");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_works_about_as_long_as_the_others_goes_on_with_them() {
        let mut patience = Patience::new(Clock::manual(0, 1));
        for _ in 0..100 {
            work(&mut patience, MIN);
            assert!(wait(&mut patience, MIN / 5).await);
        }
        work(&mut patience, 100 * MAX);
        assert_eq!(patience.left, MAX);
        assert!(!wait(&mut patience, 2 * MAX).await, "one that stands still");
    }
}
