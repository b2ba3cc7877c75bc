//! [`Refusal`]: why a command changed nothing.
//!
//! Made by the closures of a handler, and by the SDK where the body does not fit; the glue carries it to
//! the host.

use std::fmt;

use serde::Serialize;

/// Why nothing happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The handler has no command of that name. A 400 that lists the ones there are.
    UnknownCommand,
    /// The body does not fit: a 400 that names the field.
    BadBody {
        /// The field, such as `amount` or `lines[2].amount`; empty = the body as a whole.
        field: String,
        /// What is wrong with it, or what would be right.
        problem: String,
    },
    /// The rules say no: a 422.
    Refused {
        /// Stable, for programs: lower case, digits and `-`.
        code: String,
        /// A sentence for people.
        message: String,
        /// More for programs, as JSON text.
        details: Option<String>,
    },
}

impl Refusal {
    /// The code of a command about a key that has no state, where [`Command::state`](super::Command::state)
    /// asked for one.
    pub const NOT_FOUND: &'static str = "not-found";

    /// The rules say no: a code for programs (lower case, digits and `-`; it labels a metric, so keep the
    /// number of different codes small) and a sentence for people.
    ///
    /// ```
    /// use foldhost_sdk::Refusal;
    ///
    /// let refusal = Refusal::new("sold-out", "2 seats are left").details(serde_json::json!({ "left": 2 }));
    /// assert_eq!(refusal.code(), "sold-out");
    /// assert_eq!(refusal.to_string(), "sold-out: 2 seats are left");
    /// assert_eq!(refusal.details_json(), Some(r#"{"left":2}"#));
    /// ```
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Refused {
            code: code.into(),
            message: message.into(),
            details: None,
        }
    }

    /// A field of the body whose value does not do, and what would be right. For checks that go beyond the
    /// type of the field.
    pub fn bad_body(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::BadBody {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// Adds details for programs, in place of those it has.
    ///
    /// # Panics
    /// It is none of [`Refusal::new`], or the type cannot be written as JSON: a mistake of the plugin.
    pub fn details(mut self, more: impl Serialize) -> Self {
        let Self::Refused { details, .. } = &mut self else {
            panic!("only what `Refusal::new` has made can have details");
        };
        match serde_json::to_string(&more) {
            Ok(json) => *details = Some(json),
            Err(error) => panic!("these details cannot be written as JSON: {error}"),
        }
        self
    }

    /// The stable code: `unknown-command`, `bad-body`, or the plugin's own.
    pub fn code(&self) -> &str {
        match self {
            Self::UnknownCommand => "unknown-command",
            Self::BadBody { .. } => "bad-body",
            Self::Refused { code, .. } => code,
        }
    }

    /// The details as JSON text, if there are any.
    pub fn details_json(&self) -> Option<&str> {
        match self {
            Self::Refused { details, .. } => details.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCommand => f.write_str("there is no such command"),
            Self::BadBody { field, problem } if field.is_empty() => {
                write!(f, "the body: {problem}")
            }
            Self::BadBody { field, problem } => write!(f, "field `{field}`: {problem}"),
            Self::Refused { code, message, .. } => write!(f, "{code}: {message}"),
        }
    }
}

impl std::error::Error for Refusal {}
