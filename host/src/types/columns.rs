//! Many byte strings as a few flat vectors: what a batch is read into, and what goes into a component and comes
//! back from it in one piece.

use std::ops::Range;

/// Item i is `data[ends[i-1] .. ends[i]]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BytesColumn {
    /// All items, one after the other.
    pub data: Vec<u8>,
    /// End of each item in `data`; never decreases.
    pub ends: Vec<u32>,
}

impl BytesColumn {
    /// Appends an item.
    pub fn push(&mut self, item: &[u8]) {
        self.data.extend_from_slice(item);
        self.ends
            .push(u32::try_from(self.data.len()).expect("a batch is smaller than 4 GiB"));
    }

    /// Appends the items of a range of another column.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn push_part(&mut self, of: &Self, range: Range<usize>) {
        let Some(last) = range.clone().last() else {
            return;
        };
        let from = of.range(range.start).start;
        let before = self.data.len();
        self.data
            .extend_from_slice(&of.data[from..of.range(last).end]);
        u32::try_from(self.data.len()).expect("a batch is smaller than 4 GiB");
        #[allow(
            clippy::cast_possible_truncation,
            reason = "just checked for the last one"
        )]
        let moved = |end: &u32| (*end as usize - from + before) as u32;
        self.ends.extend(of.ends[range].iter().map(moved));
    }

    /// Bytes of the items in a range.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn part_bytes(&self, range: Range<usize>) -> usize {
        let last = range.clone().last();
        last.map_or(0, |last| {
            self.range(last).end - self.range(range.start).start
        })
    }

    /// How many items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The item at `index`.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn get(&self, index: usize) -> &[u8] {
        &self.data[self.range(index)]
    }

    /// Where the item at `index` lies in the data.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn range(&self, index: usize) -> Range<usize> {
        let from = if index == 0 {
            0
        } else {
            self.ends[index - 1] as usize
        };
        from..self.ends[index] as usize
    }

    /// Drops all items but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.data
            .truncate(self.ends.last().map_or(0, |end| *end as usize));
    }

    /// Empties the column and keeps its memory.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
    }
}

/// What an item of an [`OptionalColumn`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    /// No item.
    Absent = 0,
    /// An item.
    Present = 1,
    /// In answers of `fold` only: as it was before.
    Unchanged = 2,
}

/// As [`BytesColumn`], with a [`Mark`] for each item.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OptionalColumn {
    /// The items; those marked other than present are empty.
    pub items: BytesColumn,
    /// One [`Mark`] for each item.
    pub marks: Vec<u8>,
}

impl OptionalColumn {
    /// Appends an item or its absence.
    pub fn push(&mut self, item: Option<&[u8]>) {
        self.items.push(item.unwrap_or_default());
        self.marks.push(if item.is_some() {
            Mark::Present as u8
        } else {
            Mark::Absent as u8
        });
    }

    /// Appends the items of a range of another column.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn push_part(&mut self, of: &Self, range: Range<usize>) {
        self.items.push_part(&of.items, range.clone());
        self.marks.extend_from_slice(&of.marks[range]);
    }

    /// How many items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// The item at `index`, if it is present.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        (self.marks[index] == Mark::Present as u8).then(|| self.items.get(index))
    }

    /// Empties the column and keeps its memory.
    pub fn clear(&mut self) {
        self.items.clear();
        self.marks.clear();
    }
}

/// Headers of all records of a batch: record i has `counts[i]` of them, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeadersColumn {
    /// How many each record has.
    pub counts: Vec<u32>,
    /// Names of all, in order.
    pub names: BytesColumn,
    /// Values of all, in order.
    pub values: OptionalColumn,
}

impl HeadersColumn {
    /// Appends the headers of one record.
    pub fn push_record<'h>(
        &mut self,
        headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) {
        let before = self.names.len();
        for (name, value) in headers {
            self.names.push(name.as_bytes());
            self.values.push(value);
        }
        let count = self.names.len() - before;
        self.counts
            .push(u32::try_from(count).expect("a record is bounded"));
    }

    /// The header at `index`, counted over all records.
    ///
    /// # Panics
    /// If there are fewer, or its name is not UTF-8.
    #[must_use]
    pub fn get(&self, index: usize) -> (&str, Option<&[u8]>) {
        let name = std::str::from_utf8(self.names.get(index))
            .expect("names are pushed as str, and those of a component checked");
        (name, self.values.get(index))
    }

    /// Empties the column and keeps its memory.
    pub fn clear(&mut self) {
        self.counts.clear();
        self.names.clear();
        self.values.clear();
    }
}
