//! foldhost runs event-sourcing logic as sandboxed pure functions: it consumes partitions of a log,
//! folds events into states inside WebAssembly components, keeps states and positions together, and
//! answers queries over HTTP.
//!
//! A folder is a layer; a module imports only from layers below it (see `ARCHITECTURE.md`).

// Layer 0: plain data, bounds, error codes.
pub mod error;
pub mod limits;
pub mod types;
// Layer 1: configuration, time, telemetry, points at which tests kill the host.
pub mod clock;
pub mod config;
pub mod fail;
pub mod telemetry;
// Layers 2 and 3: ports and their adapters.
pub mod log;
pub mod plugin;
pub mod state;
// Layer 4: one partition of one generation.
pub mod partition;
// Layer 5: what runs.
pub mod manager;
// Layer 6: who owns what.
pub mod cluster;
// Layer 7: the HTTP surface.
pub mod http;
// Layer 8: composition.
pub mod node;
// Layer 9: the command line.
pub mod cli;
