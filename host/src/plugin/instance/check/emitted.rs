//! What `react` emitted, before any of it comes into a topic. Called by `instance` after every call.
//!
//! Invariant: what passes can be written as it is: every record has a cause that was not rejected, a
//! key, a value or none, and headers that are its own; and the records of one call are bounded.

use super::columns::{About, keys};
use super::within;
use crate::limits;
use crate::log::{COMMAND_HEADER, HOST_HEADERS_PREFIX};
use crate::plugin::{CallError, Emitted, HeadersColumn, Mark, Rejection};

/// Checks what `react` emitted for `events` events, of which some were rejected.
pub(in crate::plugin::instance) fn emitted(
    emitted: Emitted,
    rejected: &[Rejection],
    events: usize,
) -> Result<Emitted, CallError> {
    bounds(&emitted)?;
    columns(&emitted, rejected, events).map_err(CallError::BadColumns)?;
    Ok(emitted)
}

/// How much one call may emit. It comes first, so that what is too much is not looked through.
fn bounds(emitted: &Emitted) -> Result<(), CallError> {
    let mut bytes = emitted.keys.data.len() + emitted.values.items.data.len();
    let mut headers = 0;
    if let Some(column) = &emitted.headers {
        bytes += column.names.data.len() + column.values.items.data.len();
        headers = column.names.len();
    }
    within(emitted.len(), "records", limits::EMITTED_RECORDS_MAX)?;
    within(headers, "headers", limits::EMITTED_HEADERS_MAX)?;
    within(bytes, "bytes of records", limits::EMITTED_BYTES_MAX)
}

fn columns(emitted: &Emitted, rejected: &[Rejection], events: usize) -> Result<(), String> {
    let records = emitted.len();
    about("record", "event").causes(&emitted.causes, events, rejected)?;
    about("key", "record").bytes(&emitted.keys, records)?;
    keys(&emitted.keys)?;
    about("value", "record").optional(&emitted.values, records, Mark::Present)?;
    if let Some(timestamps) = &emitted.timestamps_ms {
        about("timestamp", "record").count(timestamps.len(), records)?;
    }
    match &emitted.headers {
        Some(column) => headers(column, records),
        None => Ok(()),
    }
}

fn headers(column: &HeadersColumn, records: usize) -> Result<(), String> {
    about("header count", "record").count(column.counts.len(), records)?;
    let counted: u64 = column.counts.iter().copied().map(u64::from).sum();
    let headers = column.names.len();
    if counted != headers as u64 {
        return Err(format!(
            "the counts of headers make {counted} together, but there are {headers} names"
        ));
    }
    about("header name", "header").bytes(&column.names, headers)?;
    about("header value", "header").optional(&column.values, headers, Mark::Present)?;
    (0..headers).try_for_each(|index| match column.names.get(index) {
        // Records that are commands to somebody say so.
        name if name == COMMAND_HEADER.as_bytes() => Ok(()),
        name => header_name(index, name),
    })
}

/// A header's name; what no log and no reader would take is a fault here already.
pub(super) fn header_name(index: usize, name: &[u8]) -> Result<(), String> {
    let max = limits::EMITTED_HEADER_NAME_BYTES_MAX;
    let text = std::str::from_utf8(name)
        .map_err(|_| format!("the name of header {index} is not UTF-8"))?;
    if name.is_empty() || name.len() > max {
        let bytes = name.len();
        return Err(format!(
            "the name of header {index} has {bytes} bytes; it may have 1 to {max}"
        ));
    }
    if text.contains('\0') {
        return Err(format!("the name of header {index} has a zero byte in it"));
    }
    if text.starts_with(HOST_HEADERS_PREFIX) {
        return Err(format!(
            "header {index} is named '{}': names that begin with {HOST_HEADERS_PREFIX} belong to the \
             host",
            super::cut(text, limits::PLUGIN_CODE_BYTES_MAX).escape_debug()
        ));
    }
    Ok(())
}

const fn about(what: &'static str, of: &'static str) -> About {
    About { what, of }
}

#[cfg(test)]
mod tests;
