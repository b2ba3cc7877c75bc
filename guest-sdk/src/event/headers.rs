//! [`Header`], and the headers of a batch as the host's columns hold them.
//!
//! Used by [`Event`](crate::Event) and [`Incoming`](crate::Incoming). Invariant: names and values
//! borrow from the batch; per batch one list of ends is computed, per record nothing.

use crate::abi::types::Headers;

/// One header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name, UTF-8.
    pub name: &'a [u8],
    /// The value; a header may have none.
    pub value: Option<&'a [u8]>,
}

/// The headers of all records of a batch.
#[derive(Debug)]
pub(crate) struct HeaderTable<'a> {
    /// `None` where the manifest does not ask for headers; else the columns, and per record the end of
    /// its headers in them.
    columns: Option<(&'a Headers, Vec<usize>)>,
}

impl<'a> HeaderTable<'a> {
    pub(crate) fn new(headers: Option<&'a Headers>) -> Self {
        let columns = headers.map(|headers| {
            let counts = headers.counts.iter();
            let ends = counts.scan(0, |end, count| {
                *end += *count as usize;
                Some(*end)
            });
            (headers, ends.collect())
        });
        Self { columns }
    }

    /// Whether the batch came with headers at all.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.columns.is_some()
    }

    /// The headers of record `index`.
    pub(crate) fn of(&self, index: usize) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let range = self.columns.as_ref().map(|(headers, ends)| {
            let start = if index > 0 { ends[index - 1] } else { 0 };
            (*headers, start..ends[index])
        });
        range.into_iter().flat_map(|(headers, range)| {
            range.map(move |position| Header {
                name: headers.names.item(position),
                value: headers.values.item(position),
            })
        })
    }

    /// The value of the last header of record `index` with that name, if it has one.
    pub(crate) fn last(&self, index: usize, name: &str) -> Option<&'a [u8]> {
        self.of(index)
            .filter(|header| header.name == name.as_bytes())
            .last()
            .and_then(|header| header.value)
    }
}
