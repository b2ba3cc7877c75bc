//! The test bed of foldhost: a real Kafka broker, real host processes, an HTTP client and an
//! independent computation of what the example plugins must answer. Called by the scenarios in
//! `tests/tests/`. It knows the host by its public surface only (command line, HTTP, log lines) and
//! shares no code with it, so that both cannot be wrong in the same way.
//!
//! Invariant: no process outlives the test program, however that ends.

// Real time is what scenarios are measured in; the host's own clock is out of their reach.
#![allow(clippy::disallowed_methods)]

pub mod bank;
pub mod clone;
pub mod command;
pub mod events;
pub mod feed;
pub mod fleet;
pub mod fleet_records;
pub mod flight_records;
pub mod flights;
pub mod host;
pub mod http;
pub mod kafka;
pub mod load;
pub mod memory;
pub mod operate;
pub mod paths;
pub mod process;
pub mod running_count;
pub mod small_disk;
pub mod tidy;
pub mod topic;
pub mod trace;
pub mod two_inputs;
pub mod utilisation;
pub mod wait;
pub mod wasm;

/// True when the long variants of scenarios are asked for (`tests/run --full`).
pub fn full() -> bool {
    std::env::var_os("FOLDHOST_TEST_FULL").is_some_and(|value| value == "1")
}
