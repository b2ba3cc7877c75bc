//! Shows how far something has come: a bar where a person watches, a line now and then elsewhere. Used
//! by `demo` and `follow`.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output;

/// Lines of one progress where nobody watches.
const LINES: u64 = 10;

/// How far something has come.
#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    total: u64,
    bar: Option<ProgressBar>,
    said: u64,
}

impl Progress {
    /// Starts at `from` of `total`.
    pub(super) fn new(what: &'static str, from: u64, total: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = "{msg:>8} {wide_bar} {human_pos}/{human_len}  {per_sec:<14} {eta}";
            let style = ProgressStyle::with_template(style).expect("the template is right");
            let bar = ProgressBar::new(total).with_style(style).with_message(what);
            // The rate is of this run, not of an earlier one.
            bar.set_position(from);
            bar.reset_eta();
            bar
        });
        Self {
            what,
            total,
            bar,
            said: from.saturating_mul(LINES) / total.max(1),
        }
    }

    /// It has come to `done`.
    pub(super) fn at(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None => {
                let step = done.saturating_mul(LINES) / self.total.max(1);
                if step > self.said {
                    self.said = step;
                    output::note(&format!("{}: {done} of {}", self.what, self.total));
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
