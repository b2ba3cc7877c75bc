//! A batch of records of one partition, as columns: reading a million records allocates a few times, not a few
//! million times, and what a plugin takes as a column goes to it as it was read.
//!
//! Filled by the adapters' readers, read by the partition worker. Reused: [`RecordBatch::clear`]
//! keeps the memory.

use std::ops::Range;

use super::{NewRecord, record_bytes};
use crate::types::{HeadersColumn, Offset, OptionalColumn};

/// Header of a record in a batch: name and value.
pub type HeaderRef<'a> = (&'a str, Option<&'a [u8]>);

/// Records of one partition in log order; offsets strictly increase.
#[derive(Debug, Default)]
pub struct RecordBatch {
    offsets: Vec<u64>,
    timestamps_ms: Vec<i64>,
    keys: OptionalColumn,
    values: OptionalColumn,
    headers: HeadersColumn,
    /// For each record, the header before which its own end; they begin where those of the record before end.
    header_ends: Vec<u32>,
    leaves_headers_out: bool,
}

/// One record of a batch, borrowed from it.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    /// Number of the record in its partition.
    pub offset: Offset,
    /// Milliseconds since the Unix epoch, as the record says.
    pub timestamp_ms: i64,
    /// `None` = the record has no key.
    pub key: Option<&'a [u8]>,
    /// `None` = tombstone.
    pub value: Option<&'a [u8]>,
    batch: &'a RecordBatch,
    index: usize,
}

impl<'a> RecordRef<'a> {
    /// Bytes of key, value and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        record_bytes(self.key, self.value, self.headers())
    }

    /// The record's headers, in order.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = HeaderRef<'a>> + use<'a> {
        let Self { batch, index, .. } = *self;
        let headers = batch.headers_of(index..index + 1);
        headers.map(|at| batch.headers.get(at))
    }
}

impl RecordBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether headers of what is appended from now on are left out. Nobody may look at headers of such a
    /// batch; a reader need not ask for them, which is work where there are none as well.
    pub fn leave_headers_out(&mut self, leave_out: bool) {
        self.leaves_headers_out = leave_out;
    }

    /// Whether headers are left out.
    #[must_use]
    pub fn leaves_headers_out(&self) -> bool {
        self.leaves_headers_out
    }

    /// Appends a copy of a record.
    ///
    /// # Panics
    /// If `offset` is not greater than the last one: a log that goes back would be folded twice.
    pub fn push<'h>(
        &mut self,
        offset: Offset,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = HeaderRef<'h>>,
    ) {
        assert!(
            self.offsets.last().is_none_or(|last| *last < offset.0),
            "offsets of a partition strictly increase"
        );
        self.offsets.push(offset.0);
        self.timestamps_ms.push(timestamp_ms);
        self.keys.push(key);
        self.values.push(value);
        let is_kept = !self.leaves_headers_out;
        self.headers
            .push_record(headers.into_iter().take_while(|_| is_kept));
        let end = u32::try_from(self.headers.names.len()).expect("a batch is smaller than 4 GiB");
        self.header_ends.push(end);
    }

    /// Appends a copy of a record of another batch.
    ///
    /// # Panics
    /// As [`push`](Self::push).
    pub fn push_record(&mut self, record: &RecordRef<'_>) {
        self.push(
            record.offset,
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers(),
        );
    }

    /// Appends copies of the records of another batch in `range`, from 0: column by column, not one by one.
    ///
    /// # Panics
    /// As [`push`](Self::push); if there are fewer.
    pub fn push_part(&mut self, of: &Self, range: Range<usize>) {
        let last = self.offsets.last();
        assert!(
            range.is_empty() || last.is_none_or(|last| *last < of.offsets[range.start]),
            "offsets of a partition strictly increase"
        );
        self.offsets.extend_from_slice(&of.offsets[range.clone()]);
        self.timestamps_ms
            .extend_from_slice(&of.timestamps_ms[range.clone()]);
        self.keys.push_part(&of.keys, range.clone());
        self.values.push_part(&of.values, range.clone());
        if self.leaves_headers_out {
            let headers = self.headers.names.len();
            let end = u32::try_from(headers).expect("a batch is smaller than 4 GiB");
            self.header_ends
                .resize(self.header_ends.len() + range.len(), end);
            self.headers.counts.resize(self.header_ends.len(), 0);
            return;
        }
        let headers = of.headers_of(range.clone());
        let before = self.headers.names.len();
        self.headers
            .names
            .push_part(&of.headers.names, headers.clone());
        self.headers
            .values
            .push_part(&of.headers.values, headers.clone());
        self.headers
            .counts
            .extend_from_slice(&of.headers.counts[range.clone()]);
        let moved = |end: &u32| {
            u32::try_from(*end as usize - headers.start + before).expect("it has as many bytes")
        };
        self.header_ends
            .extend(of.header_ends[range].iter().map(moved));
    }

    /// Which headers are those of the records in `range`.
    fn headers_of(&self, range: Range<usize>) -> Range<usize> {
        let before = |index: usize| match index {
            0 => 0,
            _ => self.header_ends[index - 1] as usize,
        };
        before(range.start)..before(range.end)
    }

    /// Bytes of keys, values and headers of the records in `range`, from 0.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn part_bytes(&self, range: Range<usize>) -> usize {
        let headers = self.headers_of(range.clone());
        self.keys.items.part_bytes(range.clone())
            + self.values.items.part_bytes(range)
            + self.headers.names.part_bytes(headers.clone())
            + self.headers.values.items.part_bytes(headers)
    }

    /// Appends a record as it lies at `offset` once it is written.
    ///
    /// # Panics
    /// As [`push`](Self::push).
    pub fn push_new(&mut self, offset: Offset, record: &NewRecord) {
        let headers = record.headers.iter();
        self.push(
            offset,
            record.timestamp_ms.unwrap_or_default(),
            record.key.as_deref(),
            record.value.as_deref(),
            headers.map(|(name, value)| (&**name, value.as_deref())),
        );
    }

    /// Keeps the records of which `keep` says so, each asked once, in order. Nothing is copied where all stay.
    pub fn retain(&mut self, mut keep: impl FnMut(&RecordRef<'_>) -> bool) {
        let Some(first) = (0..self.len()).find(|index| !keep(&self.get(*index))) else {
            return;
        };
        let mut rest = self.part(0..first);
        for record in (first + 1..self.len()).map(|index| self.get(index)) {
            if keep(&record) {
                rest.push_record(&record);
            }
        }
        *self = rest;
    }

    /// How many records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of keys, values and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.part_bytes(0..self.len())
    }

    /// Offsets of all records.
    #[must_use]
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// Timestamps of all records, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn timestamps_ms(&self) -> &[i64] {
        &self.timestamps_ms
    }

    /// Values of all records; absent = tombstone.
    #[must_use]
    pub fn values(&self) -> &OptionalColumn {
        &self.values
    }

    /// The record at `index`, from 0.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn get(&self, index: usize) -> RecordRef<'_> {
        RecordRef {
            offset: Offset(self.offsets[index]),
            timestamp_ms: self.timestamps_ms[index],
            key: self.keys.get(index),
            value: self.values.get(index),
            batch: self,
            index,
        }
    }

    /// All records, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordRef<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// A batch of the records in `range`, from 0.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        let mut part = Self::new();
        part.push_part(self, range);
        part
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.timestamps_ms.clear();
        self.keys.clear();
        self.values.clear();
        self.headers.clear();
        self.header_ends.clear();
    }

    /// Empties the batch and keeps memory for some times what it had, no more.
    pub(super) fn clear_and_shrink(&mut self) {
        fn clear<T>(column: &mut Vec<T>) {
            const TIMES: usize = 4;
            let len = column.len();
            column.clear();
            column.shrink_to(TIMES * len);
        }
        clear(&mut self.offsets);
        clear(&mut self.timestamps_ms);
        let HeadersColumn {
            counts,
            names,
            values,
        } = &mut self.headers;
        for column in [&mut self.keys, &mut self.values, values] {
            clear(&mut column.items.data);
            clear(&mut column.items.ends);
            clear(&mut column.marks);
        }
        clear(&mut names.data);
        clear(&mut names.ends);
        clear(counts);
        clear(&mut self.header_ends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_what_was_pushed() {
        let mut batch = RecordBatch::new();
        batch.push(
            Offset(3),
            10,
            Some(b"k"),
            None,
            [("a", Some(&b"1"[..])), ("b", None)],
        );
        batch.push(Offset(7), 11, None, Some(b""), []);
        let first = batch.get(0);
        assert_eq!((first.key, first.value), (Some(&b"k"[..]), None));
        assert_eq!(
            first.headers().collect::<Vec<_>>(),
            [("a", Some(&b"1"[..])), ("b", None)]
        );
        assert_eq!((first.bytes(), batch.get(1).bytes()), (4, 0));
        let second = batch.get(1);
        assert_eq!(
            (second.key, second.value, second.headers().len()),
            (None, Some(&b""[..]), 0)
        );
        let part = batch.part(1..2);
        assert_eq!((part.len(), part.get(0).offset), (1, Offset(7)));
        assert_eq!(batch.part(0..1).get(0).headers().len(), 2);
        batch.clear();
        assert!(batch.is_empty() && batch.bytes() == 0);
    }

    #[test]
    fn headers_that_nobody_looks_at_are_left_out() {
        let mut batch = RecordBatch::new();
        let header = || [("name", Some(&b"value"[..]))];
        batch.leave_headers_out(true);
        batch.push(Offset(0), 0, Some(b"k"), Some(b"v"), header());
        batch.leave_headers_out(false);
        batch.push(Offset(1), 0, Some(b"k"), Some(b"v"), header());
        let counts = batch.iter().map(|record| record.headers().len());
        assert_eq!(counts.collect::<Vec<_>>(), [0, 1]);
        assert_eq!(batch.get(1).headers().next(), Some(header()[0]));
    }

    #[test]
    #[should_panic(expected = "strictly increase")]
    fn offsets_never_go_back() {
        let mut batch = RecordBatch::new();
        batch.push(Offset(3), 0, None, None, []);
        batch.push(Offset(3), 0, None, None, []);
    }
}
