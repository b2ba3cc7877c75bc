//! What the fold itself takes as keys grow, without a host: a hash map in this process that counts the events of
//! each key and keeps the last value. Nothing is read from a log, nothing crosses into a component, and nothing is
//! committed, so no host can have a flatter curve than its share of this.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::input::{Input, key_text};

/// Events that are made before some are folded, so that making them is not what is measured.
const AHEAD: u64 = 100_000;

/// Microseconds for an event of the whole input, on this thread. Nothing else runs meanwhile.
#[allow(clippy::cast_precision_loss, reason = "a figure")]
pub(super) fn us_per_event(input: &Input) -> f64 {
    let mut states: HashMap<Vec<u8>, State> = HashMap::new();
    let mut took = Duration::ZERO;
    for from in (0..input.events).step_by(usize::try_from(AHEAD).expect("fits")) {
        let events: Vec<_> = (from..input.events.min(from + AHEAD))
            .map(|n| event(input, n))
            .collect();
        let began = Instant::now();
        for (key, value) in &events {
            // Most keys are there, and a key of its own is made for those only that are not.
            match states.get_mut(key.as_slice()) {
                Some(state) => state.fold(value),
                None => states.entry(key.clone()).or_default().fold(value),
            }
        }
        took += began.elapsed();
    }
    took.as_secs_f64() * 1e6 / input.events as f64
}

#[derive(Default)]
struct State {
    count: u64,
    last: Vec<u8>,
}

impl State {
    fn fold(&mut self, value: &[u8]) {
        self.count += 1;
        self.last.clear();
        self.last.extend_from_slice(value);
    }
}

fn event(input: &Input, n: u64) -> (Vec<u8>, Vec<u8>) {
    let mut value = Vec::with_capacity(input.value_bytes);
    input.write_value(n, &mut value);
    (key_text(input.key_of(n)).into_bytes(), value)
}
