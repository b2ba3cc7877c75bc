//! Asks before something is deleted. Called by `plugin delete` and `topic delete`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use super::exit::UsageError;

/// Asks whether to do `what` unless `yes` was given.
///
/// # Errors
/// When nobody is there to answer, or the answer is anything but yes.
pub(super) fn confirm(what: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let message = format!("{what} needs a yes and nobody is there to give it: pass --yes");
        return Err(UsageError(message).into());
    }
    let mut err = io::stderr().lock();
    write!(err, "{what}? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    anyhow::ensure!(is_yes(&answer), "nothing was deleted");
    Ok(())
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(is_yes("y\n") && is_yes(" Yes\n"));
        assert!(!is_yes("\n") && !is_yes("no\n") && !is_yes("yesterday\n"));
        assert!(confirm("deleting all", true).is_ok());
    }
}
