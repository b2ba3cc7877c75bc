//! What a plugin returned, before anything believes it. Called by `instance` after every call.
//!
//! Invariant: whatever leaves this file keeps the ABI's promises: as many items as asked for, ends
//! that never decrease, marks that mean something, indices in range, sizes within the limits, texts
//! that fit a header, a label or a line.

use crate::limits;
use crate::plugin::manifest::Limits;
use crate::plugin::{
    BytesColumn, CallError, Emitted, Folded, Mark, Operation, OptionalColumn, Payload, QueryError,
    Rejection,
};

mod columns;
mod decided;
mod emitted;
mod routes;

use columns::About;

pub(super) use decided::{decision, events, refusal};
pub(super) use emitted::emitted;
pub(super) use routes::routes;

/// The states of the keys of a batch.
const STATES: About = About {
    what: "state",
    of: "key",
};

/// Checks the states and rejections that `fold` or `react` returned for `keys` keys and `events` events.
pub(super) fn folded(
    states: OptionalColumn,
    rejected: Vec<Rejection>,
    keys: usize,
    events: usize,
    limits: &Limits,
) -> Result<Folded, CallError> {
    STATES
        .optional(&states, keys, Mark::Unchanged)
        .map_err(CallError::BadColumns)?;
    sizes(&states.items, limits.state_bytes)?;
    let rejected = rejections(rejected, events, "event").map_err(CallError::BadColumns)?;
    Ok(Folded {
        states,
        rejected,
        emitted: Emitted::default(),
    })
}

/// Checks what `migrate` returned for `keys` keys.
pub(super) fn migrated(
    states: OptionalColumn,
    keys: usize,
    limits: &Limits,
) -> Result<OptionalColumn, CallError> {
    // Bytes of two schemas have nothing in common, so none is unchanged.
    STATES
        .optional(&states, keys, Mark::Present)
        .map_err(CallError::BadColumns)?;
    sizes(&states.items, limits.state_bytes)?;
    Ok(states)
}

fn sizes(states: &BytesColumn, bytes_max: usize) -> Result<(), CallError> {
    let mut from = 0;
    for (index, &end) in states.ends.iter().enumerate() {
        let bytes = (end - from) as usize;
        if bytes > bytes_max {
            let key_index = u32::try_from(index).expect("a batch has fewer keys than 2^32");
            return Err(CallError::StateTooLarge {
                key_index,
                bytes,
                bytes_max,
            });
        }
        from = end;
    }
    Ok(())
}

/// Rejections of `items` things, each of which is `what`.
fn rejections(
    mut rejected: Vec<Rejection>,
    items: usize,
    what: &str,
) -> Result<Vec<Rejection>, String> {
    let mut least = 0;
    for rejection in &mut rejected {
        let index = rejection.index;
        if index as usize >= items {
            return Err(format!("{what} {index} is rejected, but there are {items}"));
        }
        if index < least {
            return Err(format!(
                "rejected {what}s are not in order: {index} comes late or twice"
            ));
        }
        least = index + 1;
        code(&rejection.code)?;
        truncate(&mut rejection.reason);
    }
    Ok(rejected)
}

/// Checks an answer.
pub(super) fn payload(payload: Payload, limits: &Limits) -> Result<Payload, CallError> {
    let (bytes, bytes_max) = (payload.body.len(), limits.answer_bytes);
    if bytes > bytes_max {
        return Err(CallError::AnswerTooLarge { bytes, bytes_max });
    }
    let media_type = &payload.content_type;
    let fits = (1..=limits::PLUGIN_MEDIA_TYPE_BYTES_MAX).contains(&media_type.len())
        && media_type
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if !fits {
        let shown = cut(media_type, limits::PLUGIN_CODE_BYTES_MAX).escape_debug();
        return Err(CallError::BadColumns(format!(
            "'{shown}' is not a content type"
        )));
    }
    Ok(payload)
}

/// Checks a refusal to answer.
pub(super) fn query_error(error: QueryError) -> Result<QueryError, CallError> {
    match error {
        QueryError::BadArgument(mut name, mut expected) => {
            truncate(&mut name);
            truncate(&mut expected);
            Ok(QueryError::BadArgument(name, expected))
        }
        QueryError::Other(code_text, mut reason) => {
            code(&code_text).map_err(CallError::BadColumns)?;
            truncate(&mut reason);
            Ok(QueryError::Other(code_text, reason))
        }
        plain @ (QueryError::UnknownQuery | QueryError::NotFound) => Ok(plain),
    }
}

/// Checks the commands that a plugin offers: what has no name has no URL.
pub(super) fn commands(commands: &[Operation]) -> Result<(), String> {
    if commands.iter().any(|command| command.name.is_empty()) {
        return Err("it offers a command without a name".to_owned());
    }
    operations(commands)
}

/// Checks the queries or commands that a plugin offers.
pub(super) fn operations(operations: &[Operation]) -> Result<(), String> {
    if operations.len() > limits::PLUGIN_OPERATIONS_MAX {
        let (count, max) = (operations.len(), limits::PLUGIN_OPERATIONS_MAX);
        return Err(format!("it offers {count} operations, more than {max}"));
    }
    for (index, operation) in operations.iter().enumerate() {
        let name = &operation.name;
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.len() > limits::NAME_LENGTH_MAX || !name.bytes().all(known) {
            let shown = cut(name, limits::NAME_LENGTH_MAX).escape_debug();
            return Err(format!(
                "'{shown}' cannot name a query or a command: use a-z, 0-9 and '-'"
            ));
        }
        if operations[..index].iter().any(|other| other.name == *name) {
            return Err(format!("it offers '{name}' twice"));
        }
        let texts = [
            &operation.summary,
            &operation.arguments_schema,
            &operation.body_schema,
            &operation.answer_schema,
        ];
        if texts
            .iter()
            .any(|text| text.len() > limits::PLUGIN_SCHEMA_BYTES_MAX)
        {
            let max = limits::PLUGIN_SCHEMA_BYTES_MAX;
            return Err(format!(
                "the summary or a schema of '{name}' has more than {max} bytes"
            ));
        }
    }
    Ok(())
}

/// One call makes no more of something than it may.
fn within(count: usize, of: &str, max: usize) -> Result<(), CallError> {
    if count > max {
        let what = format!("{count} {of}");
        return Err(CallError::TooMuch { what, max });
    }
    Ok(())
}

/// A code is a metric's label and part of a problem document.
fn code(code: &str) -> Result<(), String> {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=limits::PLUGIN_CODE_BYTES_MAX).contains(&code.len()) && code.bytes().all(known) {
        return Ok(());
    }
    let shown = cut(code, limits::PLUGIN_CODE_BYTES_MAX).escape_debug();
    let max = limits::PLUGIN_CODE_BYTES_MAX;
    Err(format!(
        "'{shown}' is not a code: use 1 to {max} of a-z, 0-9 and '-'"
    ))
}

/// Checks a sentence of the plugin.
pub(super) fn reason(mut reason: String) -> String {
    truncate(&mut reason);
    reason
}

fn truncate(text: &mut String) {
    text.truncate(cut(text, limits::PLUGIN_REASON_BYTES_MAX).len());
}

/// The longest beginning of `text` with at most `bytes_max` bytes.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests;
