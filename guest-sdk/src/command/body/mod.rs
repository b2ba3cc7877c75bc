//! The body of a command → a typed struct, by serde.
//!
//! Used by [`NamedCommand::decide`](super::NamedCommand::decide), [`Command::json`](super::Command::json)
//! and, to find out what a body must have, by the schemas in `describe`. Invariant: every error names the
//! field that is at fault, however deep it lies, and says what would be right.

mod value;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use self::value::Value;
use super::Refusal;
use crate::query::arguments::{Error, Fault};
use crate::query::schema::{self, Kind};

/// Reads a body as a `B`; an empty one is `{}`.
pub(super) fn read<B: DeserializeOwned>(body: &[u8]) -> Result<B, Refusal> {
    let text = text(body).map_err(|error| {
        Refusal::bad_body("", format!("expected JSON, and this is none: {error}"))
    })?;
    B::deserialize(Value::new(text)).map_err(refusal::<B>)
}

/// The one JSON value of a body: syntax is checked here, so nobody needs to again.
fn text(body: &[u8]) -> serde_json::Result<&str> {
    if body.trim_ascii().is_empty() {
        return Ok("{}");
    }
    serde_json::from_slice::<&RawValue>(body).map(RawValue::get)
}

fn refusal<B: DeserializeOwned>(error: Error) -> Refusal {
    let field = error.name.unwrap_or_default();
    let problem = match error.fault {
        Fault::Missing => match schema::kind::<B>(&field) {
            Some(Kind::List(_)) => "missing; expected a list".to_owned(),
            Some(kind) => format!("missing; expected {kind}"),
            None => "missing".to_owned(),
        },
        Fault::Wrong(problem) => problem,
    };
    Refusal::bad_body(field, problem)
}

/// The first field that `B` misses in an object with the fields `given` (names, and values as JSON), if
/// that is what is wrong with it.
pub(crate) fn missing<B: DeserializeOwned>(given: &[(String, String)]) -> Option<String> {
    let mut text = String::from("{");
    for (position, (name, value)) in given.iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        text.push_str(&format!("{name:?}:{value}"));
    }
    text.push('}');
    let error = B::deserialize(Value::new(&text)).err()?;
    error.name.filter(|_| matches!(error.fault, Fault::Missing))
}

#[cfg(test)]
mod tests;
