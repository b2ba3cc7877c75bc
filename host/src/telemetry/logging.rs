//! Lines for a log, on standard error. Set up once by `cli`, before anything else runs.

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// What is logged unless `FOLDHOST_LOG` says otherwise: the libraries only when something is wrong.
const FILTER_DEFAULT: &str = "warn,foldhost=info";
/// A state is closed without another write, since what is not committed is replayed; SlateDB's tasks
/// call that an error. Our own adapter tells the errors that matter.
const QUIET: &str = "slatedb::dispatcher=off";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line, for machines.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(format!("'{text}' is no log format: use human or json")),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// The filter is wrong.
    #[error(
        "FOLDHOST_LOG='{filter}' is no filter: {reason}; write a level or module=level, as in debug or foldhost=debug,warn"
    )]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody was first.
    #[error("logging is set up already: {0}")]
    Twice(#[from] TryInitError),
}

/// Sends log lines to standard error. `filter` is what `FOLDHOST_LOG` says, a level (`debug`) or
/// levels by module (`foldhost=debug,warn`).
///
/// # Errors
/// [`LogFilterError::Filter`] for a filter that cannot be read, [`LogFilterError::Twice`] when
/// logging is set up already.
pub fn init_logging(format: LogFormat, filter: Option<&str>) -> Result<(), LogFilterError> {
    let filter = parse_filter(filter)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(BoxMakeWriter::new(std::io::stderr))
        .with_target(true);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Human => {
            use std::io::IsTerminal as _;
            registry
                .with(lines.with_ansi(std::io::stderr().is_terminal()))
                .try_init()?;
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

fn parse_filter(filter: Option<&str>) -> Result<EnvFilter, LogFilterError> {
    let filter = filter
        .filter(|filter| !filter.trim().is_empty())
        .unwrap_or(FILTER_DEFAULT);
    let parsed = EnvFilter::try_new(filter).map_err(|error| LogFilterError::Filter {
        filter: filter.to_owned(),
        reason: error.to_string(),
    })?;
    if filter.contains("slatedb") {
        return Ok(parsed);
    }
    Ok(parsed.add_directive(QUIET.parse().expect("a constant that a test parses")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_by_module() {
        for filter in [
            None,
            Some(""),
            Some("debug"),
            Some("foldhost=trace,slatedb=info,warn"),
        ] {
            assert!(parse_filter(filter).is_ok(), "{filter:?}");
        }
        let error = parse_filter(Some("foldhost=loud")).unwrap_err();
        assert!(
            error.to_string().contains("FOLDHOST_LOG='foldhost=loud'"),
            "{error}"
        );
    }

    #[test]
    fn formats_read_back() {
        for format in [LogFormat::Human, LogFormat::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
