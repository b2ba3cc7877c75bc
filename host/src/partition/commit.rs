//! When to commit, and the commit that runs beside the next batches. At most one runs at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::PartitionHandle;
use crate::clock::Clock;
use crate::fail::{self, Point};
use crate::limits;
use crate::log::Log;
use crate::state::{Checkpoint, Commit, PartitionStore, StateError};
use crate::types::Offset;

/// Decides when the next commit is due: an interval after the last began. A commit costs more than a fold, so there
/// are never so many that they take more than a twentieth of the time.
///
/// While a partition catches up, that is the time that it spends folding: of all that share the processor none has
/// the time that passes, so all their commits together take no larger part of it than those of one alone. Otherwise
/// it is the time that passes, and one in which nothing came has room for a commit, whatever it costs.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    last_start: Duration,
    last_cost: Duration,
    /// Time that was spent folding since the last began.
    folding: Duration,
}

/// Share of the time that commits may take: one part in this many.
const COST_SHARE: u32 = 20;
/// What a changed state costs at least; a commit that is larger than the last one is dearer.
const STATE_COST: Duration = Duration::from_nanos(500);
/// A partition without an event for so long has time for a commit, whatever it costs.
const QUIET: Duration = Duration::from_secs(1);

impl Schedule {
    pub(super) fn new(interval: Duration, now: Duration) -> Self {
        Self {
            interval,
            last_start: now,
            last_cost: Duration::ZERO,
            folding: Duration::ZERO,
        }
    }

    /// Commits at another interval from now on.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// How long until a commit of so many states is due, when the last event was folded at `folded_at`: never longer
    /// than [`limits::COMMIT_INTERVAL_MAX`] after the last began. While the partition catches up, folding makes it
    /// sooner.
    pub(super) fn due_in(
        &self,
        now: Duration,
        folded_at: Duration,
        is_catching_up: bool,
        states: usize,
    ) -> Duration {
        let states = u32::try_from(states).unwrap_or(u32::MAX);
        let cost = self.last_cost.max(STATE_COST * states);
        let affordable = (cost * COST_SHARE).min(limits::COMMIT_INTERVAL_MAX);
        let pause = if !is_catching_up {
            let quiet = (folded_at + QUIET).saturating_sub(self.last_start);
            affordable.min(quiet)
        } else if self.folding < affordable {
            limits::COMMIT_INTERVAL_MAX
        } else {
            Duration::ZERO
        };
        (self.last_start + self.interval.max(pause)).saturating_sub(now)
    }

    /// A batch took `took` to fold.
    pub(super) fn folded(&mut self, took: Duration) {
        self.folding += took;
    }

    pub(super) fn started(&mut self, now: Duration) {
        self.last_start = now;
        self.folding = Duration::ZERO;
    }

    /// How long the last commit took.
    pub(super) fn last_cost(&self) -> Duration {
        self.last_cost
    }

    /// A commit took `cost`.
    pub(super) fn ended(&mut self, cost: Duration) {
        self.last_cost = cost;
    }
}

/// A commit that is durable.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) commit: Arc<Commit>,
    /// How long the attempt took that succeeded. What was waited before, for a store that was away, is no
    /// cost: it must not keep the next commit waiting.
    pub(super) took: Duration,
}

/// A commit that is being written.
#[derive(Debug)]
pub(super) struct InFlight {
    task: JoinHandle<Result<Written, StateError>>,
    /// Position that it commits.
    pub(super) next: Offset,
}

impl InFlight {
    /// Starts writing `commit`. A store that does not answer is tried again until it does: the log
    /// is the truth, so nothing is lost meanwhile.
    pub(super) fn start(
        commit: Arc<Commit>,
        store: Arc<dyn PartitionStore>,
        handle: PartitionHandle,
        log: Arc<dyn Log>,
        clock: Clock,
    ) -> Self {
        let next = commit.checkpoint.next;
        let task = tokio::spawn(async move {
            let is_news = !commit.changes.is_empty() || !commit.parked.is_empty();
            if is_news && is_replaced(&*log, &handle, &commit.checkpoint).await {
                return Err(StateError::Unavailable(format!(
                    "topic '{}' was replaced while it was read; what was folded since the last commit is \
                     dropped",
                    handle.spec().input.topic
                )));
            }
            let mut pause = limits::RETRY_PAUSE_MIN;
            loop {
                let began = clock.elapsed();
                fail::point(Point::CommitBegins);
                match store.commit(Arc::clone(&commit)).await {
                    Ok(()) => {
                        fail::point(Point::CommitWritten);
                        let took = clock.elapsed().saturating_sub(began);
                        return Ok(Written { commit, took });
                    }
                    Err(error) if error.is_transient() => {
                        tracing::warn!(partition = %handle.spec().store, %error, "commit failed, trying again");
                        handle.update(|status| status.commit_error = Some(error.to_string()));
                        tokio::time::sleep(pause + jitter(&clock, pause)).await;
                        pause = (pause * 2).min(limits::RETRY_PAUSE_MAX);
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        Self { task, next }
    }

    /// Waits for its end. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Result<Written, StateError> {
        match (&mut self.task).await {
            Ok(result) => result,
            Err(error) => Err(StateError::Corrupt(format!(
                "the commit task died: {error}"
            ))),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // A later owner fences the store, so an abandoned commit is harmless; not waiting for it is
        // what "lost" means.
        self.task.abort();
    }
}

/// Whether what was folded may come from a topic that was created under the name since. All of it was
/// read before this is asked, so an identity that is still the old one says that none of it does. A
/// log that does not answer gives nothing new to read either.
async fn is_replaced(log: &dyn Log, handle: &PartitionHandle, checkpoint: &Checkpoint) -> bool {
    let Some(folded) = checkpoint.topic_id else {
        return false;
    };
    match log.topic(&handle.spec().input.topic).await {
        Ok(Some(topic)) => topic.id.is_some_and(|now| now != folded),
        Ok(None) | Err(_) => false,
    }
}

/// Merges and collects what commits left, beside the next ones; at most one runs at a time.
#[derive(Debug, Default)]
pub(super) struct Upkeep(Option<JoinHandle<()>>);

impl Upkeep {
    /// Starts, unless the last one still runs. What it leaves undone the next one does.
    pub(super) fn start(&mut self, store: Arc<dyn PartitionStore>, handle: PartitionHandle) {
        if self.0.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        self.0 = Some(tokio::spawn(async move {
            if let Err(error) = store.maintain().await {
                tracing::warn!(partition = %handle.spec().store, %error,
                    "merging the state failed; it is tried again after the next commit");
            }
        }));
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Up to a quarter more, so that partitions do not knock all at once.
pub(super) fn jitter(clock: &Clock, pause: Duration) -> Duration {
    let quarter_ms = u64::try_from(pause.as_millis() / 4)
        .unwrap_or(u64::MAX)
        .max(1);
    Duration::from_millis(clock.random() % quarter_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A schedule whose last commit began at one second, and took `cost`.
    fn after_one_that_took(cost: Duration, interval: Duration) -> Schedule {
        let mut schedule = Schedule::new(interval, Duration::ZERO);
        schedule.started(SECOND);
        schedule.ended(cost);
        schedule
    }

    #[test]
    fn a_partition_commits_at_its_interval() {
        let mut schedule = Schedule::new(2 * SECOND, SECOND);
        schedule.folded(SECOND);
        let due = |now, is_catching_up| schedule.due_in(now, SECOND, is_catching_up, 1_000);
        for is_catching_up in [true, false] {
            assert_eq!(due(SECOND, is_catching_up), 2 * SECOND);
            assert_eq!(due(4 * SECOND, is_catching_up), Duration::ZERO);
        }
    }

    #[test]
    fn an_expensive_commit_makes_the_next_one_later() {
        let schedule = after_one_that_took(SECOND, SECOND);
        let now = 2 * SECOND;
        let folded_at = 30 * SECOND;
        assert_eq!(schedule.due_in(now, folded_at, false, 1), 19 * SECOND);
    }

    #[test]
    fn a_partition_that_catches_up_commits_once_it_has_folded_for_long_enough() {
        let mut schedule = after_one_that_took(SECOND / 2, 2 * SECOND);
        let due = |schedule: &Schedule, now| schedule.due_in(now, 3 * SECOND, true, 1);
        schedule.folded(9 * SECOND);
        assert_eq!(due(&schedule, 30 * SECOND), 31 * SECOND, "whatever passes");
        schedule.folded(SECOND);
        assert_eq!(due(&schedule, 30 * SECOND), Duration::ZERO);
        schedule.started(30 * SECOND);
        schedule.ended(SECOND / 100);
        schedule.folded(SECOND);
        assert_eq!(due(&schedule, 31 * SECOND), SECOND, "at its interval");
    }

    #[test]
    fn a_commit_of_many_states_is_put_off_until_folding_has_paid_for_it() {
        let mut schedule = Schedule::new(2 * SECOND, Duration::ZERO);
        let due = |schedule: &Schedule, states| schedule.due_in(3 * SECOND, SECOND, true, states);
        schedule.folded(SECOND);
        assert_eq!(due(&schedule, 50_000), Duration::ZERO);
        assert_eq!(due(&schedule, 200_000), 57 * SECOND);
        schedule.folded(SECOND);
        assert_eq!(due(&schedule, 200_000), Duration::ZERO);
    }

    #[test]
    fn a_quiet_partition_has_time_for_an_expensive_commit() {
        let schedule = after_one_that_took(SECOND, 2 * SECOND);
        let due = |now, folded_at| schedule.due_in(now, folded_at, false, 1);
        assert_eq!(due(2 * SECOND, 2 * SECOND), SECOND, "at its interval");
        assert_eq!(due(4 * SECOND, 4 * SECOND), SECOND, "once it is quiet");
        assert_eq!(due(5 * SECOND, 4 * SECOND), Duration::ZERO);
    }

    #[test]
    fn no_commit_is_so_expensive_that_the_next_one_never_comes() {
        let schedule = after_one_that_took(60 * SECOND, SECOND);
        let folded_at = 100 * SECOND;
        for is_catching_up in [true, false] {
            assert_eq!(
                schedule.due_in(SECOND, folded_at, is_catching_up, usize::MAX),
                limits::COMMIT_INTERVAL_MAX
            );
        }
    }
}
