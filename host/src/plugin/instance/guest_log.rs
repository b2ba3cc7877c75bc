//! What plugins say: their only import. Called by wasmtime during a call, on the caller's thread.
//!
//! Invariants: a line costs fuel for its length, so no plugin makes the host copy for nothing; a
//! plugin writes a bounded number of bounded lines a second, however many instances it has; and
//! whatever is dropped changes no outcome.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wasmtime::component::{Linker, WasmStr};
use wasmtime::{StoreContextMut, Trap};

use super::HostState;
use super::check::cut;
use crate::clock::Clock;
use crate::limits;
use crate::plugin::bindings::{Level, PACKAGE, VERSION};

/// Binds the import to [`HostState::log`].
pub(in crate::plugin) fn add_log(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("{PACKAGE}/log@{VERSION}"))?
        .func_wrap("log", log_line)
}

fn log_line(
    mut store: StoreContextMut<'_, HostState>,
    (level, message): (Level, WasmStr),
) -> wasmtime::Result<()> {
    let (line, bytes) = {
        let message = message
            .to_str(&store)
            .map_err(|error| error.context("a log line is not UTF-8"))?;
        (
            printable(cut(&message, limits::PLUGIN_LOG_LINE_BYTES_MAX)),
            message.len(),
        )
    };
    let cost = limits::PLUGIN_LOG_LINE_FUEL.saturating_add(bytes as u64);
    let left = store.get_fuel()?.checked_sub(cost);
    store.set_fuel(left.unwrap_or(0))?;
    left.ok_or(Trap::OutOfFuel)?;
    store.data_mut().log.write(level, line);
    Ok(())
}

/// The log of one instance.
#[derive(Debug)]
pub(super) struct GuestLog {
    gate: Arc<LogGate>,
    last_error: Option<String>,
}

impl GuestLog {
    pub(super) fn new(gate: Arc<LogGate>) -> Self {
        Self {
            gate,
            last_error: None,
        }
    }

    /// Forgets the last error: a call begins.
    pub(super) fn begin_call(&mut self) {
        self.last_error = None;
    }

    /// The last line of level error since the call began: the message of a panic, if one came.
    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    fn write(&mut self, level: Level, line: String) {
        self.gate.write(level, &line);
        if level == Level::Error {
            self.last_error = Some(line);
        }
    }
}

/// The log of one plugin: passes so many lines a second, counts the rest.
#[derive(Debug)]
pub(super) struct LogGate {
    plugin: String,
    clock: Clock,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    began: Duration,
    lines: u32,
    dropped: u64,
}

impl LogGate {
    pub(super) fn new(plugin: String, clock: Clock) -> Arc<Self> {
        let window = Window {
            began: clock.elapsed(),
            ..Window::default()
        };
        Arc::new(Self {
            plugin,
            clock,
            window: Mutex::new(window),
        })
    }

    fn write(&self, level: Level, line: &str) {
        let (passes, dropped_before) = self.admit();
        let plugin = self.plugin.as_str();
        if dropped_before > 0 {
            tracing::warn!(
                plugin,
                dropped = dropped_before,
                "the plugin logs too much; lines were dropped"
            );
        }
        if !passes {
            return;
        }
        match level {
            Level::Debug => tracing::debug!(plugin, "{line}"),
            Level::Info => tracing::info!(plugin, "{line}"),
            Level::Warn => tracing::warn!(plugin, "{line}"),
            Level::Error => tracing::error!(plugin, "{line}"),
        }
    }

    /// Whether another line passes, and how many did not in the second before, if this one is the
    /// first of a new one.
    fn admit(&self) -> (bool, u64) {
        let now = self.clock.elapsed();
        let mut window = self.window.lock();
        let mut dropped_before = 0;
        if now.saturating_sub(window.began) >= Duration::from_secs(1) {
            dropped_before = window.dropped;
            *window = Window {
                began: now,
                lines: 0,
                dropped: 0,
            };
        }
        let passes = window.lines < limits::PLUGIN_LOG_LINES_PER_SECOND_MAX;
        if passes {
            window.lines += 1;
        } else {
            window.dropped += 1;
        }
        (passes, dropped_before)
    }
}

/// A line that cannot move a terminal's cursor or fake a second line.
fn printable(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_rate_are_dropped_and_counted() {
        let clock = Clock::manual(0, 1);
        let gate = LogGate::new("p".to_owned(), clock.clone());
        let max = limits::PLUGIN_LOG_LINES_PER_SECOND_MAX;
        for _ in 0..max {
            assert_eq!(gate.admit(), (true, 0));
        }
        assert_eq!(gate.admit(), (false, 0));
        assert_eq!(gate.admit(), (false, 0));
        clock.advance(Duration::from_millis(999));
        assert_eq!(gate.admit(), (false, 0));
        clock.advance(Duration::from_millis(1));
        assert_eq!(gate.admit(), (true, 3));
        assert_eq!(gate.admit(), (true, 0));
    }

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(printable("a\nb\x1b[2Jc"), "a b [2Jc");
    }
}
