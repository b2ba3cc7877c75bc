//! What `decide` and `emit-state` returned, before any of it is folded, written or told. Called by `instance`
//! after every call.
//!
//! Invariant: what passes can be written and told as it is: a bounded number of events of bounded size, with
//! headers that are the plugin's own; a reply that fits; or a refusal that fits a label, a line and a problem
//! document.

use super::emitted::header_name;
use super::{code, payload, truncate, within};
use crate::limits;
use crate::plugin::manifest::Limits;
use crate::plugin::{CallError, Decision, EventOut, Refusal};

/// Checks what is to happen to `key`.
pub(in crate::plugin::instance) fn decision(
    decision: Decision,
    key: &[u8],
    limits: &Limits,
) -> Result<Decision, CallError> {
    let Decision {
        events: caused,
        reply,
    } = decision;
    let events = events(caused, key)?;
    let reply = reply.map(|reply| payload(reply, limits)).transpose()?;
    Ok(Decision { events, reply })
}

/// Checks events of `key`: those of a decision, or those that carry its state.
pub(in crate::plugin::instance) fn events(
    events: Vec<EventOut>,
    key: &[u8],
) -> Result<Vec<EventOut>, CallError> {
    bounds(&events, key)?;
    let headers = events.iter().flat_map(|event| &event.headers);
    headers
        .enumerate()
        .try_for_each(|(index, (name, _))| header_name(index, name.as_bytes()))
        .map_err(CallError::BadColumns)?;
    Ok(events)
}

/// How much one command may cause. Each event is a record, so the key counts for each.
fn bounds(events: &[EventOut], key: &[u8]) -> Result<(), CallError> {
    within(events.len(), "events", limits::COMMAND_EVENTS_MAX)?;
    let headers = events.iter().map(|event| event.headers.len()).sum();
    within(headers, "headers", limits::COMMAND_HEADERS_MAX)?;
    let bytes = events.iter().map(|event| key.len() + bytes(event)).sum();
    within(bytes, "bytes of events", limits::COMMAND_EVENTS_BYTES_MAX)
}

/// Bytes of an event's value and headers.
fn bytes(event: &EventOut) -> usize {
    let of = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
    let headers = event.headers.iter();
    of(&event.value)
        + headers
            .map(|(name, value)| name.len() + of(value))
            .sum::<usize>()
}

/// Checks a refusal to do what was commanded.
pub(in crate::plugin::instance) fn refusal(refusal: Refusal) -> Result<Refusal, CallError> {
    match refusal {
        Refusal::UnknownCommand => Ok(refusal),
        Refusal::BadBody {
            mut field,
            mut problem,
        } => {
            truncate(&mut field);
            truncate(&mut problem);
            Ok(Refusal::BadBody { field, problem })
        }
        Refusal::Refused {
            code: code_text,
            mut reason,
            details,
        } => {
            within(
                details.len(),
                "bytes of details",
                limits::PLUGIN_DETAILS_BYTES_MAX,
            )?;
            code(&code_text)
                .and_then(|()| json(&details))
                .map_err(CallError::BadColumns)?;
            truncate(&mut reason);
            Ok(Refusal::Refused {
                code: code_text,
                reason,
                details,
            })
        }
    }
}

/// Details are a part of a problem document, so they are read to the end here: what would only be skipped
/// may nest deeper, or have larger numbers, than whoever puts them there takes.
fn json(details: &str) -> Result<(), String> {
    if details.is_empty() {
        return Ok(());
    }
    match serde_json::from_str::<serde_json::Value>(details) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "the details of a refusal are not JSON ({error}): leave them empty where there are none"
        )),
    }
}

#[cfg(test)]
mod tests;
