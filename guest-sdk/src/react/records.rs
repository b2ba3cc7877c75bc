//! [`Records`]: what a batch has emitted so far, as the columns that go to the host.
//!
//! Filled through [`Outputs`](super::Outputs), key by key as the batch is folded; the glue marks what
//! belongs to which event, takes back what a rejected one has emitted, and puts the rest in the order
//! of the events. Invariant: every column has one item per record.

use crate::abi::types::{BytesColumn, Emitted, Headers, OptionalColumn};
use crate::{Codec, Key, Timestamp};

/// Records of the owned topic. It has no use outside of the SDK.
#[derive(Debug)]
pub struct Records {
    /// The event that is being applied, and its time.
    cause: u32,
    cause_ms: i64,
    causes: Vec<u32>,
    keys: BytesColumn,
    values: OptionalColumn,
    timestamps: Vec<i64>,
    headers: Headers,
}

/// How far the columns reach.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    records: usize,
    headers: usize,
}

impl Default for Records {
    fn default() -> Self {
        Self::with_capacity(0, 0, 0)
    }
}

impl Records {
    /// Room for `records`, whose keys and values take so many bytes together.
    fn with_capacity(records: usize, key_bytes: usize, value_bytes: usize) -> Self {
        Self {
            cause: 0,
            cause_ms: 0,
            causes: Vec::with_capacity(records),
            keys: BytesColumn::with_capacity(records, key_bytes),
            values: OptionalColumn::with_capacity(records, value_bytes),
            timestamps: Vec::with_capacity(records),
            headers: Headers {
                counts: Vec::with_capacity(records),
                names: BytesColumn::empty(),
                values: OptionalColumn::with_capacity(0, 0),
            },
        }
    }

    /// What is emitted from now on is caused by event `index` of the batch.
    pub(crate) fn begin(&mut self, index: u32, timestamp_ms: i64) {
        self.cause = index;
        self.cause_ms = timestamp_ms;
    }

    /// Where the columns end now.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            records: self.causes.len(),
            headers: self.headers.names.len(),
        }
    }

    /// Takes back everything since the mark.
    pub(crate) fn rollback(&mut self, mark: Mark) {
        self.causes.truncate(mark.records);
        self.keys.truncate(mark.records);
        self.values.truncate(mark.records);
        self.timestamps.truncate(mark.records);
        self.headers.counts.truncate(mark.records);
        self.headers.names.truncate(mark.headers);
        self.headers.values.truncate(mark.headers);
    }

    pub(super) fn push(&mut self, key: &impl Key, value: Option<&impl Codec>) {
        self.causes.push(self.cause);
        self.keys.push_key(key);
        self.values.push_encoded(value);
        self.timestamps.push(self.cause_ms);
        self.headers.counts.push(0);
    }

    /// Of the record that was pushed last.
    pub(super) fn set_timestamp(&mut self, when: Timestamp) {
        let last = self.timestamps.last_mut().expect(PUSHED);
        *last = when.millis();
    }

    /// To the record that was pushed last.
    pub(super) fn push_header(&mut self, name: &str, value: Option<&[u8]>) {
        *self.headers.counts.last_mut().expect(PUSHED) += 1;
        self.headers.names.push(name.as_bytes());
        self.headers.values.push(value);
    }

    /// The columns for the host, in the order of the causes. What says nothing is left out: times that
    /// are those of the causes (`timestamps` of the batch), and headers where no record has any.
    pub(crate) fn into_emitted(self, timestamps: &[i64]) -> Emitted {
        let sorted = if self.causes.is_sorted() {
            self
        } else {
            self.in_order()
        };
        let mut times = sorted.causes.iter().zip(&sorted.timestamps);
        let own_times = times.any(|(&cause, &time)| timestamps[cause as usize] != time);
        let has_headers = sorted.headers.names.len() > 0;
        Emitted {
            causes: sorted.causes,
            keys: sorted.keys,
            values: sorted.values,
            timestamps: own_times.then_some(sorted.timestamps),
            headers: has_headers.then_some(sorted.headers),
        }
    }

    /// A batch is folded key by key, so records come in the order of the keys; each key's are in order
    /// already, and those runs are what a stable sort merges.
    fn in_order(&self) -> Self {
        let mut order: Vec<usize> = (0..self.causes.len()).collect();
        order.sort_by_key(|&record| self.causes[record]);
        let (keys, values) = (self.keys.data.len(), self.values.data.len());
        let mut sorted = Self::with_capacity(order.len(), keys, values);
        let header_ends = self.header_ends();
        for record in order {
            sorted.causes.push(self.causes[record]);
            sorted.keys.push(self.keys.item(record));
            sorted.values.push(self.values.item(record));
            sorted.timestamps.push(self.timestamps[record]);
            let count = self.headers.counts[record];
            sorted.headers.counts.push(count);
            let end = header_ends[record];
            for header in end - count as usize..end {
                sorted.headers.names.push(self.headers.names.item(header));
                sorted.headers.values.push(self.headers.values.item(header));
            }
        }
        sorted
    }

    /// Per record, the end of its headers in the headers' columns.
    fn header_ends(&self) -> Vec<usize> {
        let counts = self.headers.counts.iter();
        let ends = counts.scan(0, |end, count| {
            *end += *count as usize;
            Some(*end)
        });
        ends.collect()
    }
}

const PUSHED: &str = "only what was just emitted gets a header or a time";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Raw;

    fn raw(text: &str) -> Raw {
        Raw(text.into())
    }

    #[test]
    fn records_leave_in_the_order_of_their_causes() {
        let mut records = Records::default();
        for (cause, key) in [(1, "b"), (3, "c"), (0, "a"), (3, "d")] {
            records.begin(cause, i64::from(cause));
            records.push(&key, Some(&raw(key)));
            records.push_header(key, Some(b"1"));
            records.push_header(key, None);
        }
        let emitted = records.into_emitted(&[0, 1, 2, 3]);
        assert_eq!(emitted.causes, [0, 1, 3, 3]);
        assert_eq!(emitted.keys.data, b"abcd");
        assert_eq!(emitted.values.data, b"abcd");
        assert_eq!(emitted.timestamps, None, "they are those of the causes");
        let headers = emitted.headers.unwrap();
        assert_eq!(headers.counts, [2, 2, 2, 2]);
        assert_eq!(headers.names.data, b"aabbccdd");
        assert_eq!(headers.values.marks, [1, 0, 1, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn what_is_taken_back_leaves_no_trace() {
        let mut records = Records::default();
        records.begin(0, 7);
        records.push(&"a", Some(&raw("1")));
        let mark = records.mark();
        records.begin(1, 8);
        records.push(&"b", None::<&Raw>);
        records.push_header("x", Some(b"1"));
        records.set_timestamp(Timestamp::from_millis(9));
        records.rollback(mark);
        let emitted = records.into_emitted(&[7, 8]);
        assert_eq!(emitted.causes, [0]);
        assert_eq!(
            (emitted.keys.data, emitted.keys.ends),
            (b"a".into(), vec![1])
        );
        assert_eq!(emitted.values.data, b"1");
        assert!(emitted.timestamps.is_none() && emitted.headers.is_none());
    }

    #[test]
    fn one_record_with_a_time_of_its_own_gives_all_of_them_times() {
        let mut records = Records::default();
        records.begin(0, 7);
        records.push(&"a", Some(&raw("1")));
        records.push(&"b", Some(&raw("2")));
        records.set_timestamp(Timestamp::from_millis(-1));
        let emitted = records.into_emitted(&[7]);
        assert_eq!(emitted.timestamps, Some(vec![7, -1]));
    }
}
