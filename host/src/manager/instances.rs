//! Instances that answer queries: pooled, and dropped after any fault.
//!
//! Most answers take some microseconds, less than it takes to hand a question to another thread and back. So
//! a question is first tried where it came in, with a small part of its fuel; a plugin is a pure function, so
//! an attempt that does not suffice decides nothing and is simply made again, on a thread that may be kept
//! busy. Whoever needs that often is tried ever more rarely.
//!
//! Invariant: an async thread is kept busy by a plugin no longer than an attempt, and by attempts that fail
//! hardly ever; only an answer with all of the fuel that the manifest allows is a verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::limits;
use crate::plugin::{CallError, Payload, PluginCode, PluginInstance, QueryError, Question};

/// What a plugin says to a question.
type Answer = Result<Payload, QueryError>;

/// Answers queries with the code of one deployment.
#[derive(Debug)]
pub(super) struct QueryPool {
    code: Arc<dyn PluginCode>,
    idle: Mutex<Vec<Box<dyn PluginInstance>>>,
    permits: Semaphore,
    attempts: Attempts,
    /// The threads that may be kept busy.
    threads: Handle,
}

impl QueryPool {
    pub(super) fn new(code: Arc<dyn PluginCode>, threads: Handle) -> Arc<Self> {
        Arc::new(Self {
            code,
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new(limits::QUERIES_CONCURRENT_MAX),
            attempts: Attempts::default(),
            threads,
        })
    }

    pub(super) fn code(&self) -> &Arc<dyn PluginCode> {
        &self.code
    }

    pub(super) async fn answer(
        self: Arc<Self>,
        key: Bytes,
        state: Option<Bytes>,
        question: Question,
    ) -> Result<Answer, CallError> {
        let pool = self.clone();
        let _permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        if let Some(answer) = self.attempt(&key, state.as_deref(), &question) {
            return answer;
        }
        let call = self.threads.spawn_blocking(move || {
            let idle = pool.idle.lock().pop();
            let mut instance = match idle {
                Some(instance) => instance,
                None => pool.code.instance()?,
            };
            let answer = instance.answer(&key, state.as_deref(), &question, u64::MAX)?;
            pool.idle.lock().push(instance);
            Ok(answer)
        });
        call.await
            .unwrap_or_else(|error| Err(CallError::Trap(format!("the call died: {error}"))))
    }

    /// Answers on this thread, if there is an instance and reason to believe that it is quick.
    fn attempt(
        &self,
        key: &[u8],
        state: Option<&[u8]>,
        question: &Question,
    ) -> Option<Result<Answer, CallError>> {
        if !self.attempts.is_next() {
            return None;
        }
        let mut instance = self.idle.lock().pop()?;
        let answer = instance.answer(key, state, question, limits::QUERY_ATTEMPT_FUEL);
        let undecided = matches!(
            answer,
            Err(CallError::OutOfFuel { .. } | CallError::Interrupted { .. })
        );
        self.attempts.ended(!undecided);
        if answer.is_ok() {
            self.idle.lock().push(instance);
        }
        (!undecided).then_some(answer)
    }
}

/// Whether an attempt is worth while. Counts are enough: what they say about one plugin's questions need not
/// be exact when several come at once.
#[derive(Debug, Default)]
struct Attempts {
    /// Questions that are answered elsewhere before the next attempt.
    left: AtomicU32,
    /// How many that was, the last time one failed.
    pause: AtomicU32,
}

impl Attempts {
    /// Whether the next question is to be tried.
    fn is_next(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
        }
        left == 0
    }

    /// Takes note of how one went.
    fn ended(&self, was_quick: bool) {
        let pause = self.pause.load(Ordering::Relaxed);
        let next = match was_quick {
            true if pause == 0 => return,
            true => 0,
            false => (2 * pause).clamp(1, limits::QUERY_ATTEMPT_PAUSE_MAX),
        };
        self.pause.store(next, Ordering::Relaxed);
        self.left.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow_is_tried_ever_more_rarely_and_who_is_quick_always() {
        let attempts = Attempts::default();
        let mut tried = 0;
        for _ in 0..100_000 {
            if attempts.is_next() {
                tried += 1;
                attempts.ended(false);
            }
        }
        assert!((90..120).contains(&tried), "{tried}");
        while !attempts.is_next() {}
        attempts.ended(true);
        for _ in 0..10 {
            assert!(attempts.is_next());
            attempts.ended(true);
        }
    }
}
