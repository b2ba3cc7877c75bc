//! The threads of a host. Called by `node`.
//!
//! Whoever answers a short question must not wait behind whoever folds a long backlog, and neither behind a
//! plugin that never ends: threads step back for others by how long they may be busy without a pause. It
//! costs nothing where nobody else wants the processor.

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

/// Stack of a thread that runs plugins: the sandbox has its own bound inside it.
const STACK_BYTES: usize = 4 * 1024 * 1024;

/// Threads of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Threads {
    /// What they are called.
    pub(super) name: &'static str,
    /// How many run tasks.
    pub(super) workers: usize,
    /// How many may block, at most.
    pub(super) blocking_max: usize,
    /// By how much they step back for others, as Unix counts it: 0 = not at all, 19 = for everybody.
    pub(super) niceness: i32,
}

impl Threads {
    /// Starts them.
    pub(super) fn start(self) -> anyhow::Result<Runtime> {
        let Self {
            name,
            workers,
            blocking_max,
            niceness,
        } = self;
        Builder::new_multi_thread()
            .worker_threads(workers)
            .max_blocking_threads(blocking_max)
            .thread_name(name)
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(move || step_back(niceness))
            .enable_all()
            .build()
            .with_context(|| format!("starting the {workers} '{name}' threads"))
    }
}

/// Lets other threads go first. Where it cannot be had, everything works, with less even answers.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "the one call has no safe wrapper here")]
fn step_back(niceness: i32) {
    /// Of `setpriority`: a process by its number; on Linux a thread has a number as well, and 0 is the caller's.
    const WHICH: u8 = 0;
    // SAFETY: the call touches no memory of ours.
    let failed = unsafe { libc::setpriority(WHICH.into(), 0, niceness) } != 0;
    if failed {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, niceness, "a thread keeps its priority");
    }
}

/// Elsewhere a priority belongs to the whole process.
#[cfg(not(target_os = "linux"))]
fn step_back(_: i32) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn threads_step_back_one_by_one() {
        let niceness = |id: &str| -> i32 {
            let stat = std::fs::read_to_string(format!("/proc/thread-self/{id}")).unwrap();
            let (_, behind_name) = stat.rsplit_once(") ").unwrap();
            behind_name.split(' ').nth(16).unwrap().parse().unwrap()
        };
        let before = niceness("stat");
        let threads = Threads {
            name: "test",
            workers: 1,
            blocking_max: 1,
            niceness: before.max(0) + 3,
        };
        let runtime = threads.start().unwrap();
        let there = runtime.handle().spawn_blocking(move || niceness("stat"));
        assert_eq!(runtime.block_on(there).unwrap(), before.max(0) + 3);
        assert_eq!(niceness("stat"), before, "its own threads only");
    }
}
