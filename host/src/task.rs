//! The tasks of a host and what their deaths mean. `node` makes one [`Tasks`]; every layer above
//! starts its tasks through it, and nothing is spawned past it that outlives its caller.
//!
//! Invariants: a task has a kind and a name, and its end is never silent; the death of a fatal task
//! stops the host with that error; stopping waits a bounded time and then names what it cut short.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a task is for, which decides what its death means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TaskKind {
    /// Accepts and answers requests.
    HttpServer,
    /// Folds the deployments topic and acts on it.
    Manager,
    /// Follows the assignment of one plugin.
    Membership,
    /// Folds one partition.
    Partition,
    /// Reads who owns what.
    Journal,
    /// Work that nobody waits for: upkeep, clean-up.
    Background,
}

/// What happens when a task dies: it returns an error, panics, or ends before it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDeath {
    /// The host stops: it would be alive and useless.
    StopHost,
    /// It is logged and counted; whoever started the task sees it by its handle.
    Isolate,
}

impl TaskKind {
    /// What the death of such a task means.
    #[must_use]
    pub fn on_death(self) -> OnDeath {
        match self {
            Self::HttpServer | Self::Manager => OnDeath::StopHost,
            Self::Membership | Self::Partition | Self::Journal | Self::Background => {
                OnDeath::Isolate
            }
        }
    }

    /// Whether such a task may end by itself: others run until they are asked to stop.
    #[must_use]
    pub fn may_end(self) -> bool {
        !matches!(self, Self::HttpServer | Self::Manager)
    }

    /// For log lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HttpServer => "http-server",
            Self::Manager => "manager",
            Self::Membership => "membership",
            Self::Partition => "partition",
            Self::Journal => "journal",
            Self::Background => "background",
        }
    }
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a task died.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} task '{name}' {how}")]
pub struct TaskDeath {
    /// What it was for.
    pub kind: TaskKind,
    /// Which one.
    pub name: String,
    /// Its error, its panic's message, or that it ended too early.
    pub how: String,
}

/// Why a stop was not clean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// A task died without which the host is useless; it was the reason to stop.
    #[error(transparent)]
    Died(#[from] TaskDeath),
    /// Tasks did not end in time; they were cut short, and nothing acknowledged is lost by it.
    #[error("stopping took longer than {within:?}; cut short: {}", tasks.join(", "))]
    TookTooLong {
        /// The bound.
        within: Duration,
        /// Kind and name of each.
        tasks: Vec<String>,
    },
}

/// Starts, watches and stops tasks. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Tasks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: Handle,
    stop: CancellationToken,
    tracker: TaskTracker,
    running: Mutex<BTreeMap<u64, Running>>,
    next_id: AtomicU64,
    deaths: AtomicU64,
    first_fatal: Mutex<Option<TaskDeath>>,
}

#[derive(Debug)]
struct Running {
    kind: TaskKind,
    name: String,
    abort: Option<AbortHandle>,
}

impl Tasks {
    /// No tasks yet; those started without a runtime of their own run on `runtime`.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self(Arc::new(Inner {
            runtime,
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
            running: Mutex::new(BTreeMap::new()),
            next_id: AtomicU64::new(0),
            deaths: AtomicU64::new(0),
            first_fatal: Mutex::new(None),
        }))
    }

    /// Starts a task. It is to end soon after [`stopping`](Self::stopping).
    pub fn spawn<E: fmt::Display>(
        &self,
        kind: TaskKind,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> TaskHandle {
        let runtime = self.0.runtime.clone();
        self.spawn_on(&runtime, kind, name, task)
    }

    /// Starts a task on a runtime of the caller's.
    pub fn spawn_on<E: fmt::Display>(
        &self,
        runtime: &Handle,
        kind: TaskKind,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> TaskHandle {
        let name = name.into();
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let entry = Running {
            kind,
            name: name.clone(),
            abort: None,
        };
        self.0.running.lock().insert(id, entry);
        let entry = Entry {
            tasks: self.clone(),
            id,
        };
        let watched = async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            entry
                .tasks
                .ended(kind, name, ended.map_err(|panic| panic_text(&*panic)));
            drop(entry);
        };
        let handle = self.0.tracker.spawn_on(watched, runtime);
        if let Some(running) = self.0.running.lock().get_mut(&id) {
            running.abort = Some(handle.abort_handle());
        }
        TaskHandle(handle)
    }

    /// Cancelled when the host stops. Children of it may be cancelled earlier.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Asks all tasks to stop, without waiting.
    pub fn request_stop(&self) {
        self.0.stop.cancel();
    }

    /// How many tasks died since the host started.
    #[must_use]
    pub fn deaths(&self) -> u64 {
        self.0.deaths.load(Ordering::Relaxed)
    }

    /// Asks all tasks to stop and waits until they have, at most `within`; then cuts them short.
    ///
    /// # Errors
    /// [`StopError::Died`] when a fatal death was the reason to stop, else
    /// [`StopError::TookTooLong`] with those that had to be cut short.
    pub async fn stop(&self, within: Duration) -> Result<(), StopError> {
        self.request_stop();
        self.0.tracker.close();
        let in_time = tokio::time::timeout(within, self.0.tracker.wait())
            .await
            .is_ok();
        let late = if in_time {
            Vec::new()
        } else {
            self.abort_running()
        };
        if let Some(death) = self.0.first_fatal.lock().clone() {
            return Err(death.into());
        }
        if late.is_empty() {
            Ok(())
        } else {
            Err(StopError::TookTooLong {
                within,
                tasks: late,
            })
        }
    }

    fn abort_running(&self) -> Vec<String> {
        let running = self.0.running.lock();
        let aborted = running.values().map(|task| {
            if let Some(abort) = &task.abort {
                abort.abort();
            }
            format!("{} '{}'", task.kind, task.name)
        });
        aborted.collect()
    }

    fn ended<E: fmt::Display>(
        &self,
        kind: TaskKind,
        name: String,
        ended: Result<Result<(), E>, String>,
    ) {
        let how = match ended {
            Ok(Ok(())) if kind.may_end() || self.0.stop.is_cancelled() => {
                tracing::debug!(%kind, name, "task ended");
                return;
            }
            Ok(Ok(())) => "ended although nobody asked it to".to_owned(),
            Ok(Err(error)) => format!("failed: {error}"),
            Err(panic) => format!("panicked: {panic}"),
        };
        let death = TaskDeath { kind, name, how };
        tracing::error!("{death}");
        self.0.deaths.fetch_add(1, Ordering::Relaxed);
        if kind.on_death() == OnDeath::StopHost {
            self.0.first_fatal.lock().get_or_insert(death);
            self.request_stop();
        }
    }
}

/// A started task. Dropping it lets the task run on.
#[derive(Debug)]
pub struct TaskHandle(tokio::task::JoinHandle<()>);

impl TaskHandle {
    /// Waits until the task has ended, however it did.
    pub async fn ended(self) {
        // An error here is a cut short task; panics end inside.
        let _ = self.0.await;
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.is_finished()
    }

    /// Cuts the task short at its next await.
    pub fn abort(&self) {
        self.0.abort();
    }
}

/// Takes a task off the list, also when it is cut short.
struct Entry {
    tasks: Tasks,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.tasks.0.running.lock().remove(&self.id);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "with something that is no text".to_owned())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    fn tasks() -> Tasks {
        Tasks::new(Handle::current())
    }

    #[tokio::test]
    async fn tasks_end_when_asked_to() {
        let tasks = tasks();
        for kind in [TaskKind::Manager, TaskKind::Partition] {
            let stopping = tasks.stopping();
            tasks.spawn(kind, "waits", async move {
                stopping.cancelled().await;
                Ok::<(), Infallible>(())
            });
        }
        assert_eq!(tasks.stop(WITHIN).await, Ok(()));
        assert_eq!(tasks.deaths(), 0);
    }

    #[tokio::test]
    async fn an_isolated_death_is_counted_and_no_more() {
        let tasks = tasks();
        tasks
            .spawn(TaskKind::Partition, "p", async { Err("no disk") })
            .ended()
            .await;
        let panics = tasks.spawn(TaskKind::Background, "b", async {
            panic!("boom");
            #[allow(unreachable_code)]
            Ok::<(), Infallible>(())
        });
        panics.ended().await;
        assert_eq!(tasks.deaths(), 2);
        assert!(!tasks.stopping().is_cancelled());
        assert_eq!(tasks.stop(WITHIN).await, Ok(()));
    }

    #[tokio::test]
    async fn a_fatal_death_stops_the_host_with_its_error() {
        let tasks = tasks();
        let stopping = tasks.stopping();
        tasks.spawn(TaskKind::Partition, "p", async move {
            stopping.cancelled().await;
            Ok::<(), Infallible>(())
        });
        tasks.spawn(TaskKind::Manager, "deployments", async {
            Err("the log is damaged")
        });
        tasks.stopping().cancelled().await;
        let death = tasks.stop(WITHIN).await.unwrap_err();
        assert_eq!(
            death.to_string(),
            "manager task 'deployments' failed: the log is damaged"
        );
    }

    #[tokio::test]
    async fn a_fatal_task_that_ends_early_is_dead() {
        let tasks = tasks();
        let server = tasks.spawn(TaskKind::HttpServer, "http", async {
            Ok::<(), Infallible>(())
        });
        server.ended().await;
        assert!(tasks.stopping().is_cancelled());
        assert!(matches!(tasks.stop(WITHIN).await, Err(StopError::Died(_))));
    }

    #[tokio::test]
    async fn what_does_not_end_is_named_and_cut_short() {
        let tasks = tasks();
        let stuck = tasks.spawn(TaskKind::Partition, "t/1/0", async {
            std::future::pending::<Result<(), Infallible>>().await
        });
        let within = Duration::from_millis(20);
        let late = tasks.stop(within).await;
        let expected = vec!["partition 't/1/0'".to_owned()];
        assert_eq!(
            late,
            Err(StopError::TookTooLong {
                within,
                tasks: expected
            })
        );
        stuck.ended().await;
        assert!(tasks.0.running.lock().is_empty());
    }
}
