//! What the fold itself takes as keys or plugins grow, without a host: hash maps in this process that count the events
//! of each key and keep the last value. Nothing is read from a log, nothing crosses into a component, and nothing is
//! committed, so no host can have a flatter curve than its share of this.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::input::{Input, key_text};

/// Events that are made before some are folded, so that making them is not what is measured.
const AHEAD: u64 = 100_000;
/// Events of a partition that one plugin folds before the next does; as many as a host's largest batch has.
const TURN: usize = 4_096;

/// Microseconds for an event of the whole input and one of so many plugins, on this thread. Nothing else runs meanwhile.
/// Each plugin has a map for each partition, and they fold in turn.
#[allow(clippy::cast_precision_loss, reason = "a figure")]
pub(super) fn us_per_event(input: &Input, plugins: usize) -> f64 {
    let partitions = u64::try_from(input.partitions).expect("a number of partitions");
    let mut maps: Vec<Vec<States>> = (0..partitions)
        .map(|_| (0..plugins).map(|_| States::new()).collect())
        .collect();
    let mut took = Duration::ZERO;
    for from in (0..input.events).step_by(usize::try_from(AHEAD).expect("fits")) {
        let mut events: Vec<Vec<Event>> = maps.iter().map(|_| Vec::new()).collect();
        for n in from..input.events.min(from + AHEAD) {
            let partition = usize::try_from(input.key_of(n) % partitions).expect("fits");
            events[partition].push(event(input, n));
        }
        let began = Instant::now();
        for (events, maps) in events.iter().zip(&mut maps) {
            for turn in events.chunks(TURN) {
                for states in &mut *maps {
                    fold(states, turn);
                }
            }
        }
        took += began.elapsed();
    }
    took.as_secs_f64() * 1e6 / input.events as f64 / plugins as f64
}

type States = HashMap<Vec<u8>, State>;

/// A key and a value.
type Event = (Vec<u8>, Vec<u8>);

fn fold(states: &mut States, events: &[Event]) {
    for (key, value) in events {
        // Most keys are there, and a key of its own is made for those only that are not.
        match states.get_mut(key.as_slice()) {
            Some(state) => state.fold(value),
            None => states.entry(key.clone()).or_default().fold(value),
        }
    }
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

fn event(input: &Input, n: u64) -> Event {
    let mut value = Vec::with_capacity(input.value_bytes);
    input.write_value(n, &mut value);
    (key_text(input.key_of(n)).into_bytes(), value)
}
