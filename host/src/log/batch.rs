//! A batch of records of one partition, as columns: one arena of bytes and one entry a record, so
//! that reading a million records allocates a few times, not a few million times.
//!
//! Filled by the adapters' readers, read by the partition worker. Reused: [`RecordBatch::clear`]
//! keeps the memory.

use std::ops::Range;

use super::NewRecord;
use crate::types::Offset;

/// Header of a record in a batch: name and value.
pub type HeaderRef<'a> = (&'a str, Option<&'a [u8]>);

/// Records of one partition in log order; offsets strictly increase.
#[derive(Debug, Default)]
pub struct RecordBatch {
    data: Vec<u8>,
    entries: Vec<Entry>,
    headers: Vec<HeaderEntry>,
    leaves_headers_out: bool,
}

/// Half a line of the processor's cache: key, value and headers lie one behind the other.
#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: Offset,
    timestamp_ms: i64,
    /// Where its bytes begin.
    from: u32,
    /// Length of the key, or [`ABSENT`].
    key_bytes: u32,
    /// Length of the value behind it, or [`ABSENT`].
    value_bytes: u32,
    /// Its headers end before this one; they begin where those of the record before end.
    headers_until: u32,
}

/// In place of a length: there is none.
const ABSENT: u32 = u32::MAX;

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("a batch is smaller than 4 GiB")
}

#[derive(Debug, Clone)]
struct HeaderEntry {
    name: Range<usize>,
    value: Option<Range<usize>>,
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
        // They lie one behind the other, and the next record's behind them.
        let from = self.batch.entries[self.index].from as usize;
        let next = self.batch.entries.get(self.index + 1);
        next.map_or(self.batch.data.len(), |next| next.from as usize) - from
    }

    /// The record's headers, in order.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = HeaderRef<'a>> + use<'a> {
        let batch = self.batch;
        let from = match self.index.checked_sub(1) {
            Some(before) => batch.entries[before].headers_until as usize,
            None => 0,
        };
        let until = batch.entries[self.index].headers_until as usize;
        batch.headers[from..until].iter().map(|header| {
            let name = std::str::from_utf8(&batch.data[header.name.clone()])
                .expect("names are pushed as str");
            (name, header.value.clone().map(|range| &batch.data[range]))
        })
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
            self.entries.last().is_none_or(|last| last.offset < offset),
            "offsets of a partition strictly increase"
        );
        let from = number(self.data.len());
        self.data.extend_from_slice(key.unwrap_or_default());
        self.data.extend_from_slice(value.unwrap_or_default());
        let is_kept = !self.leaves_headers_out;
        for (name, value) in headers.into_iter().take_while(|_| is_kept) {
            let name = self.copy(name.as_bytes());
            let value = value.map(|bytes| self.copy(bytes));
            self.headers.push(HeaderEntry { name, value });
        }
        self.entries.push(Entry {
            offset,
            timestamp_ms,
            from,
            key_bytes: key.map_or(ABSENT, |bytes| number(bytes.len())),
            value_bytes: value.map_or(ABSENT, |bytes| number(bytes.len())),
            headers_until: number(self.headers.len()),
        });
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
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of keys, values and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The record at `index`, from 0.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn get(&self, index: usize) -> RecordRef<'_> {
        let entry = &self.entries[index];
        let part = |from: usize, bytes: u32| match bytes {
            ABSENT => (None, from),
            bytes => {
                let until = from + bytes as usize;
                (Some(&self.data[from..until]), until)
            }
        };
        let (key, behind) = part(entry.from as usize, entry.key_bytes);
        let (value, _) = part(behind, entry.value_bytes);
        RecordRef {
            offset: entry.offset,
            timestamp_ms: entry.timestamp_ms,
            key,
            value,
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
        for record in range.map(|index| self.get(index)) {
            part.push(
                record.offset,
                record.timestamp_ms,
                record.key,
                record.value,
                record.headers(),
            );
        }
        part
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.data.clear();
        self.entries.clear();
        self.headers.clear();
    }

    /// Empties the batch and keeps memory for some times what it had, no more.
    pub(super) fn clear_and_shrink(&mut self) {
        const TIMES: usize = 4;
        let (data, entries) = (self.data.len(), self.entries.len());
        let headers = self.headers.len();
        self.clear();
        self.data.shrink_to(TIMES * data);
        self.entries.shrink_to(TIMES * entries);
        self.headers.shrink_to(TIMES * headers);
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let from = self.data.len();
        self.data.extend_from_slice(bytes);
        from..self.data.len()
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
