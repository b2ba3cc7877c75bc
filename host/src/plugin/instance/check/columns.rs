//! The shape of one column, and of the causes of what a call made. Used by the checks beside it.
//!
//! Invariant: a column that passes has as many items as it should, each within its data, in order and
//! without gaps, so that any of them can be taken without another look.

use crate::limits;
use crate::plugin::{BytesColumn, Mark, OptionalColumn, Rejection};

/// What a column is about, for messages: a state for each key.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    /// What its items are.
    pub(super) what: &'static str,
    /// What there is one for each of.
    pub(super) of: &'static str,
}

impl About {
    /// A list has as many items as there should be.
    pub(super) fn count(self, found: usize, items: usize) -> Result<(), String> {
        if found == items {
            return Ok(());
        }
        let Self { what, of } = self;
        Err(format!("{items} {of}s, but {found} {what}s"))
    }

    /// Lengths and ends of a column that should have `items` items.
    pub(super) fn bytes(self, column: &BytesColumn, items: usize) -> Result<(), String> {
        self.lengths(items, column.ends.len(), None)?;
        let mut from = 0;
        for (index, &end) in column.ends.iter().enumerate() {
            self.end(index, from, end)?;
            from = end;
        }
        self.last(from, column.data.len())
    }

    /// Lengths, ends and marks of a column that should have `items` items, of which none has a mark
    /// above `mark_max`.
    pub(super) fn optional(
        self,
        column: &OptionalColumn,
        items: usize,
        mark_max: Mark,
    ) -> Result<(), String> {
        let (ends, marks) = (&column.items.ends, &column.marks);
        self.lengths(items, ends.len(), Some(marks.len()))?;
        let mut from = 0;
        for (index, (&end, &mark)) in ends.iter().zip(marks).enumerate() {
            self.end(index, from, end)?;
            self.mark(index, mark, mark_max)?;
            if mark != Mark::Present as u8 && end != from {
                let what = self.what;
                return Err(format!("{what} {index} is marked {mark}, but it has bytes"));
            }
            from = end;
        }
        self.last(from, column.items.data.len())
    }

    fn lengths(self, items: usize, ends: usize, marks: Option<usize>) -> Result<(), String> {
        if ends == items && marks.is_none_or(|marks| marks == items) {
            return Ok(());
        }
        let Self { what, of } = self;
        let marks = marks.map_or_else(String::new, |marks| format!(" and {marks} marks"));
        Err(format!("{items} {of}s, but {ends} ends{marks} of {what}s"))
    }

    fn end(self, index: usize, from: u32, end: u32) -> Result<(), String> {
        if end >= from {
            return Ok(());
        }
        let what = self.what;
        Err(format!(
            "the end of {what} {index} ({end}) lies before its begin ({from})"
        ))
    }

    fn mark(self, index: usize, mark: u8, mark_max: Mark) -> Result<(), String> {
        if mark <= mark_max as u8 {
            return Ok(());
        }
        let what = self.what;
        let known = match mark_max {
            Mark::Unchanged => "0, 1 and 2 are",
            Mark::Present => "0 and 1 are",
            Mark::Absent => "0 is",
        };
        Err(format!(
            "the mark of {what} {index} is {mark}; {known} known"
        ))
    }

    fn last(self, end: u32, bytes: usize) -> Result<(), String> {
        if end as usize == bytes {
            return Ok(());
        }
        let what = self.what;
        Err(format!("the last {what} ends at {end} of {bytes} bytes"))
    }

    /// Which of the `items` things each of these was made for: in order, in range, and none for what is
    /// rejected.
    pub(super) fn causes(
        self,
        causes: &[u32],
        items: usize,
        rejected: &[Rejection],
    ) -> Result<(), String> {
        let Self { what, of } = self;
        let mut rejected = rejected.iter().map(|rejection| rejection.index).peekable();
        let mut before = 0;
        for (index, &cause) in causes.iter().enumerate() {
            if cause as usize >= items {
                return Err(format!(
                    "{what} {index} is caused by {of} {cause}, but there are {items}"
                ));
            }
            if cause < before {
                return Err(format!(
                    "{what} {index} is caused by {of} {cause}, and the one before it by {before}: \
                     causes never decrease"
                ));
            }
            while rejected.next_if(|&index| index < cause).is_some() {}
            if rejected.peek() == Some(&cause) {
                return Err(format!(
                    "{what} {index} is caused by {of} {cause}, which is rejected"
                ));
            }
            before = cause;
        }
        Ok(())
    }
}

/// No key is longer than a record's key may be.
pub(super) fn keys(keys: &BytesColumn) -> Result<(), String> {
    let max = limits::KEY_BYTES_MAX;
    let mut from = 0;
    for (index, &end) in keys.ends.iter().enumerate() {
        let bytes = (end - from) as usize;
        if bytes > max {
            return Err(format!(
                "key {index} has {bytes} bytes, more than the {max} that a key may have"
            ));
        }
        from = end;
    }
    Ok(())
}
