//! What happens at the edge of the sandbox: called by every function that `export!` generates.
//!
//! Invariant: whoever panics says so in the host's log first, with message and place, since a trap
//! alone carries neither.

use std::sync::Once;

use crate::log;

/// Prepares the instance; to be called first in every export. Costs next to nothing after the first
/// time.
pub fn enter() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| log::last_words(info)));
    });
}
