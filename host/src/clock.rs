//! The only door to time and chance. Everything that asks what time it is, or rolls dice, holds a
//! [`Clock`]; tests hand in one that they move by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// Source of wall-clock time, monotonic time and random numbers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    System {
        origin: Instant,
        /// First half of all ids of this clock: no other has it.
        ids: u64,
        next_id: AtomicU64,
    },
    Manual {
        now_ms: AtomicI64,
        seed: AtomicU64,
    },
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    pub fn system() -> Self {
        Self(Arc::new(Source::System {
            origin: Instant::now(),
            ids: random(),
            next_id: AtomicU64::new(0),
        }))
    }

    /// A clock that stands still until [`advance`](Self::advance) moves it; its random numbers
    /// follow from `seed`.
    #[must_use]
    pub fn manual(now_ms: i64, seed: u64) -> Self {
        Self(Arc::new(Source::Manual {
            now_ms: AtomicI64::new(now_ms),
            seed: AtomicU64::new(seed),
        }))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    pub fn now_ms(&self) -> i64 {
        match &*self.0 {
            Source::System { .. } => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |elapsed| {
                    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
                }),
            Source::Manual { now_ms, .. } => now_ms.load(Ordering::Relaxed),
        }
    }

    /// Time since this clock was made; never goes back.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        match &*self.0 {
            Source::System { origin, .. } => origin.elapsed(),
            Source::Manual { now_ms, .. } => {
                Duration::from_millis(u64::try_from(now_ms.load(Ordering::Relaxed)).unwrap_or(0))
            }
        }
    }

    /// Moves a manual clock; the system's clock moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual { now_ms, .. } = &*self.0 {
            let step = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
            now_ms.fetch_add(step, Ordering::Relaxed);
        }
    }

    /// A random number.
    #[must_use]
    pub fn random(&self) -> u64 {
        match &*self.0 {
            Source::System { .. } => random(),
            Source::Manual { seed, .. } => scrambled(seed),
        }
    }

    /// An id for requests and deployments, different from any that any clock has given: every request has
    /// one, so the kernel is asked for chance only once.
    #[must_use]
    pub fn unique_id(&self) -> String {
        let (first, second) = match &*self.0 {
            Source::System { ids, next_id, .. } => (*ids, scrambled(next_id)),
            Source::Manual { seed, .. } => (scrambled(seed), scrambled(seed)),
        };
        let id = Uuid::from_u64_pair(first, second).simple();
        id.encode_lower(&mut Uuid::encode_buffer()).to_owned()
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the door")]
fn random() -> u64 {
    let (first, second) = Uuid::new_v4().as_u64_pair();
    // Each half has some bits that say what kind of id it is.
    first ^ second.rotate_left(32)
}

/// splitmix64: the next number of a sequence in which none comes twice; one addition and a mix, good enough for
/// ids, and for jitter in tests.
fn scrambled(state: &AtomicU64) -> u64 {
    let mut z = state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_id_comes_twice() {
        let clocks = [Clock::system(), Clock::system(), Clock::manual(0, 1)];
        let ids = clocks
            .iter()
            .flat_map(|clock| (0..1_000).map(|_| clock.unique_id()));
        let ids: HashSet<_> = ids.collect();
        assert_eq!(ids.len(), 3_000);
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
