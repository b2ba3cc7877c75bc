//! Exit codes: what a script learns without reading. One function decides them for every command.

use std::io::ErrorKind;
use std::process::ExitCode;

use super::client::ClientError;
use crate::config::ConfigError;
use crate::error::{Code, Problem};

/// Printed below the help of every command.
pub(super) const HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line or the configuration is wrong
  3  there is no such plugin, topic, query or key
  4  the host refuses: the request is wrong, or in conflict with what there is
  5  the host asks for a token, or the token does not allow this
  6  the host cannot be reached or is not ready: try again
  7  a command handler refuses the command: its rules say no";

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// Everything that was asked for.
    Done = 0,
    /// Anything without a code of its own.
    Failed = 1,
    /// As clap does for arguments that it does not know.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// The host will refuse it again.
    Refused = 4,
    /// A token is needed, or another one.
    Denied = 5,
    /// It may work later.
    Unavailable = 6,
    /// The rules of a command handler say no.
    RuledOut = 7,
}

impl Exit {
    /// The code of an error, by the first of its causes that has one.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        error
            .chain()
            .find_map(Self::of_cause)
            .unwrap_or(Self::Failed)
    }

    /// The code of an HTTP status that is an error.
    pub(super) fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::Denied,
            404 => Self::NotFound,
            408 | 429 | 502..=504 => Self::Unavailable,
            400..=499 => Self::Refused,
            _ => Self::Failed,
        }
    }

    /// The code of a problem of the host's: its status, and its own code.
    pub(super) fn of_problem(status: u16, code: &str) -> Self {
        match code == Code::CommandRefused.as_str() {
            true => Self::RuledOut,
            false => Self::of_status(status),
        }
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(error) = cause.downcast_ref::<ClientError>() {
            return Some(error.exit());
        }
        if let Some(problem) = cause.downcast_ref::<Problem>() {
            return Some(Self::of_status(problem.code.status()));
        }
        if let Some(error) = cause.downcast_ref::<NotAllDone>() {
            return Some(error.exit);
        }
        if cause.is::<ConfigError>() || cause.is::<UsageError>() {
            return Some(Self::Usage);
        }
        // Whoever reads the output has seen enough: `foldhost topic consume … | head`.
        let io = cause.downcast_ref::<std::io::Error>()?;
        (io.kind() == ErrorKind::BrokenPipe).then_some(Self::Done)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Arguments that do not go together, or whose text is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

/// Some of many things that were asked for are not done.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub(super) struct NotAllDone {
    /// The code of what was not done.
    pub(super) exit: Exit,
    /// How much, and what to do.
    pub(super) words: String,
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_cause_decides_however_deep_it_lies() {
        let usage = anyhow::Error::new(UsageError("no".into())).context("while parsing");
        assert_eq!(Exit::of(&usage), Exit::Usage);
        let problem = Problem::new(Code::UnknownPlugin, "none");
        assert_eq!(Exit::of(&problem.into()), Exit::NotFound);
        let closed = Err::<(), _>(std::io::Error::from(ErrorKind::BrokenPipe)).context("writing");
        assert_eq!(Exit::of(&closed.unwrap_err()), Exit::Done);
        assert_eq!(Exit::of(&anyhow::anyhow!("anything")), Exit::Failed);
    }

    #[test]
    fn statuses_fall_into_the_documented_codes() {
        for (status, exit) in [
            (400, Exit::Refused),
            (401, Exit::Denied),
            (403, Exit::Denied),
            (404, Exit::NotFound),
            (409, Exit::Refused),
            (422, Exit::Refused),
            (500, Exit::Failed),
            (503, Exit::Unavailable),
        ] {
            assert_eq!(Exit::of_status(status), exit, "{status}");
        }
        assert_eq!(
            Exit::of_problem(422, "command-refused"),
            Exit::RuledOut,
            "not the fault of the request"
        );
        assert_eq!(Exit::of_problem(422, "invalid-plugin"), Exit::Refused);
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Unavailable,
            Exit::RuledOut,
        ] {
            assert!(HELP.contains(&format!("\n  {}  ", exit as u8)));
        }
    }
}
