//! What `route` returned, before a record is copied anywhere. Called by `instance` after every call.
//!
//! Invariant: what passes can be followed as it is: every key belongs to a record that was not
//! rejected, and is one that a record may have; and the copies that one call asks for are bounded.

use super::columns::{About, keys};
use super::{rejections, within};
use crate::limits;
use crate::plugin::{CallError, HeadersColumn, RouteInput, Routes};

/// Checks what `route` returned for these records.
pub(in crate::plugin::instance) fn routes(
    routes: Routes,
    records: &RouteInput,
) -> Result<Routes, CallError> {
    let named = routes.causes.len();
    within(named, "keys", limits::ROUTED_KEYS_MAX)?;
    let routes = columns(routes, records.len()).map_err(CallError::BadColumns)?;
    let bytes = copied_bytes(&routes, records);
    within(bytes, "bytes of routed records", limits::ROUTED_BYTES_MAX)?;
    Ok(routes)
}

fn columns(routes: Routes, records: usize) -> Result<Routes, String> {
    let rejected = rejections(routes.rejected, records, "record")?;
    let about = About {
        what: "key",
        of: "record",
    };
    about.causes(&routes.causes, records, &rejected)?;
    let about = About {
        what: "key",
        of: "cause",
    };
    about.bytes(&routes.keys, routes.causes.len())?;
    keys(&routes.keys)?;
    Ok(Routes { rejected, ..routes })
}

/// Bytes of keys, values and headers of all copies: a record is written once for each of its keys.
fn copied_bytes(routes: &Routes, records: &RouteInput) -> usize {
    let headers = records.headers.as_ref().map(header_bytes);
    let mut bytes = routes.keys.data.len();
    for &cause in &routes.causes {
        let cause = cause as usize;
        bytes += records.values.items.range(cause).len();
        bytes += headers.as_ref().map_or(0, |headers| headers[cause]);
    }
    bytes
}

/// Bytes of the headers of each record.
fn header_bytes(column: &HeadersColumn) -> Vec<usize> {
    let mut header = 0;
    column
        .counts
        .iter()
        .map(|&count| {
            let of_record = header..header + count as usize;
            header = of_record.end;
            of_record
                .map(|header| {
                    column.names.range(header).len() + column.values.items.range(header).len()
                })
                .sum()
        })
        .collect()
}

#[cfg(test)]
mod tests;
