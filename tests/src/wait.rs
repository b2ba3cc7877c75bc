//! Waiting for a condition, and free ports. Called by the harness and by scenarios wherever something
//! outside the test has to happen first. Invariant: what is awaited is a condition with a deadline, and
//! a missed deadline says what was awaited and what was seen last.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks at a condition until it gives a value.
///
/// # Errors
/// After `deadline`, with `what` in the message.
pub fn wait_until<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T> {
    wait_until_ok(deadline, what, || {
        look().ok_or_else(|| anyhow::anyhow!("not yet"))
    })
}

/// As [`wait_until`], for conditions that can say why they do not hold: the last reason becomes part
/// of the error.
///
/// # Errors
/// After `deadline`.
pub fn wait_until_ok<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() >= deadline => {
                bail!("waited {deadline:?} for {what}; last seen: {reason:#}")
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Lets time pass where the scenario is about just that: the moment of a kill, the length of an outage.
/// Never to wait for something to have happened.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

/// How long `work` took, and what it gave.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = work();
    (start.elapsed(), value)
}

/// Time since a moment of a scenario.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// From now on.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Until now.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A port of the loopback address that nobody listens on.
///
/// Somebody may take it before it is used: whoever uses it tries again with another.
///
/// # Errors
/// If the machine has none left.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_first_value() {
        let mut looks = 0;
        let value = wait_until(Duration::from_secs(5), "the third look", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn a_missed_deadline_says_what_was_seen() {
        let result: Result<()> = wait_until_ok(Duration::ZERO, "a door", || bail!("it is closed"));
        let message = result.unwrap_err().to_string();
        assert!(
            message.contains("a door") && message.contains("it is closed"),
            "{message}"
        );
    }
}
