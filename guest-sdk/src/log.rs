//! Lines for the host's log: the only thing that a plugin can do besides computing.
//!
//! Called by plugins and by the SDK's panic hook. Invariant: nothing comes back, so no outcome
//! depends on logging.

use std::cell::{Cell, RefCell};
use std::fmt::Display;

/// How serious a line is, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For who looks into the plugin.
    Debug,
    /// Something that is good to know.
    Info,
    /// Something that should not be so.
    Warn,
    /// Something that is wrong.
    Error,
}

/// Writes a line of level [`Level::Debug`]. Takes anything that can be displayed, so
/// `log::debug(format_args!("{count} left"))` allocates nothing of its own.
///
/// In the host the line appears under the plugin's name; the host limits rate and size. Natively it
/// goes to standard error and to [`Driver::logs`](crate::testing::Driver::logs). An event may be
/// folded more than once (after a crash, on a rebuild), and logs each time.
pub fn debug(message: impl Display) {
    write(Level::Debug, &message);
}

/// Writes a line of level [`Level::Info`]; see [`debug`].
pub fn info(message: impl Display) {
    write(Level::Info, &message);
}

/// Writes a line of level [`Level::Warn`]; see [`debug`].
pub fn warn(message: impl Display) {
    write(Level::Warn, &message);
}

/// Writes a line of level [`Level::Error`]; see [`debug`].
pub fn error(message: impl Display) {
    write(Level::Error, &message);
}

thread_local! {
    static MUTED: Cell<bool> = const { Cell::new(false) };
    static COLLECTED: RefCell<Option<Vec<(Level, String)>>> = const { RefCell::new(None) };
}

/// Runs `f` without writing anything: for work that is done a second time.
pub(crate) fn muted<T>(f: impl FnOnce() -> T) -> T {
    let before = MUTED.replace(true);
    let result = f();
    MUTED.set(before);
    result
}

/// Runs `f` and gives back what it has written, beside writing it.
pub(crate) fn collected<T>(f: impl FnOnce() -> T) -> (T, Vec<(Level, String)>) {
    let outer = COLLECTED.replace(Some(Vec::new()));
    let result = f();
    let lines = COLLECTED.replace(outer).unwrap_or_default();
    (result, lines)
}

/// Writes why the plugin is about to trap, muted or not.
pub(crate) fn last_words(message: &dyn Display) {
    send(Level::Error, &message.to_string());
}

fn write(level: Level, message: &dyn Display) {
    if MUTED.get() {
        return;
    }
    let message = message.to_string();
    send(level, &message);
    COLLECTED.with_borrow_mut(|lines| {
        if let Some(lines) = lines {
            lines.push((level, message));
        }
    });
}

#[cfg(target_arch = "wasm32")]
fn send(level: Level, message: &str) {
    use crate::abi::log as host;
    let level = match level {
        Level::Debug => host::Level::Debug,
        Level::Info => host::Level::Info,
        Level::Warn => host::Level::Warn,
        Level::Error => host::Level::Error,
    };
    host::log(level, message);
}

#[cfg(not(target_arch = "wasm32"))]
#[allow(clippy::print_stderr)] // natively, standard error is the log
fn send(level: Level, message: &str) {
    let level = format!("{level:?}").to_uppercase();
    eprintln!("{level:>5} {message}");
}
