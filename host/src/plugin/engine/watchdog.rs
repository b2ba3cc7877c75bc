//! The thread that moves the engine's epoch, so that a call which is stuck ends. Owned by the engine.
//!
//! Invariant: it decides nothing. Fuel bounds every call first; a call that meets its wall-clock
//! bound is repeated by the caller.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};

use wasmtime::Engine;

use crate::limits;

/// Ticks within which a call must end: its bound, and one for the tick it began in.
pub(in crate::plugin) fn ticks_max() -> u64 {
    limits::PLUGIN_CALL_MAX.as_secs() / limits::PLUGIN_WATCHDOG_TICK.as_secs() + 1
}

/// Moves an engine's epoch until it is dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread.
    pub(super) fn start(engine: &Engine) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let engine = engine.weak();
        let thread = thread::Builder::new()
            .name("plugin-watchdog".to_owned())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) =
                    stopped.recv_timeout(limits::PLUGIN_WATCHDOG_TICK)
                {
                    match engine.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => break,
                    }
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
