//! Reading and writing the flat columns of the plugin ABI without copying item by item.
//!
//! Called by the glue of `fold`, `react` and `route`, and by the test driver, which packs batches as the
//! host does. Invariant:
//! a view never reads outside its column; columns that contradict each other panic (in a plugin: a
//! trap) with a message, since only a faulty host sends them.

use crate::abi::types::{BytesColumn, OptionalColumn};
use crate::{Codec, Key};

/// Mark of an absent item.
pub(crate) const ABSENT: u8 = 0;
/// Mark of an item.
pub(crate) const PRESENT: u8 = 1;
/// Mark, in `folded` only, of a state that is the same as before.
pub(crate) const UNCHANGED: u8 = 2;

/// Item `index` of a column of byte strings.
pub(crate) fn item<'a>(data: &'a [u8], ends: &[u32], index: usize) -> &'a [u8] {
    let start = match index {
        0 => 0,
        _ => ends[index - 1] as usize,
    };
    data.get(start..ends[index] as usize)
        .expect("the ends of a column never decrease and lie inside its data: the host sent others")
}

impl BytesColumn {
    /// Item `index`.
    pub(crate) fn item(&self, index: usize) -> &[u8] {
        item(&self.data, &self.ends, index)
    }

    /// Number of items.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Appends an item.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.ends.push(end(&self.data));
    }

    /// Appends a key, written in place.
    pub(crate) fn push_key(&mut self, key: &impl Key) {
        key.write(&mut self.data);
        self.ends.push(end(&self.data));
    }

    /// Takes away all items behind the first `items`.
    pub(crate) fn truncate(&mut self, items: usize) {
        self.ends.truncate(items);
        self.data.truncate(length(&self.ends));
    }

    /// A column without items.
    pub(crate) fn empty() -> Self {
        Self::with_capacity(0, 0)
    }

    /// A column without items, with room for `items` that take `bytes` together.
    pub(crate) fn with_capacity(items: usize, bytes: usize) -> Self {
        Self {
            data: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(items),
        }
    }
}

impl OptionalColumn {
    /// Item `index`, if there is one.
    pub(crate) fn item(&self, index: usize) -> Option<&[u8]> {
        (self.marks[index] != ABSENT).then(|| item(&self.data, &self.ends, index))
    }

    /// A column without items, with room for `items` that take `bytes` together.
    pub(crate) fn with_capacity(items: usize, bytes: usize) -> Self {
        Self {
            data: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(items),
            marks: Vec::with_capacity(items),
        }
    }

    /// Appends an item, or its absence.
    pub(crate) fn push(&mut self, bytes: Option<&[u8]>) {
        self.data.extend_from_slice(bytes.unwrap_or_default());
        self.close(if bytes.is_some() { PRESENT } else { ABSENT });
    }

    /// Appends a value as its codec writes it, or its absence.
    pub(crate) fn push_encoded(&mut self, value: Option<&impl Codec>) {
        if let Some(value) = value {
            value.encode(&mut self.data);
        }
        self.close(if value.is_some() { PRESENT } else { ABSENT });
    }

    /// Takes away all items behind the first `items`.
    pub(crate) fn truncate(&mut self, items: usize) {
        self.marks.truncate(items);
        self.ends.truncate(items);
        self.data.truncate(length(&self.ends));
    }

    /// Ends the item whose bytes were appended to `data` since the last one.
    pub(crate) fn close(&mut self, mark: u8) {
        self.ends.push(end(&self.data));
        self.marks.push(mark);
    }
}

/// Bytes of the items that end there.
fn length(ends: &[u32]) -> usize {
    ends.last().map_or(0, |end| *end as usize)
}

fn end(data: &[u8]) -> u32 {
    u32::try_from(data.len()).expect("a column holds less than 4 GiB, as all of a plugin's memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_item_is_not_an_absent_one() {
        let mut column = OptionalColumn::with_capacity(3, 0);
        column.push(Some(b"a"));
        column.push(None);
        column.push(Some(b""));
        assert_eq!(column.marks, [PRESENT, ABSENT, PRESENT]);
        assert_eq!(column.ends, [1, 1, 1]);
        assert_eq!(column.item(0), Some(&b"a"[..]));
        assert_eq!(column.item(1), None);
        assert_eq!(column.item(2), Some(&b""[..]));
    }

    #[test]
    #[should_panic(expected = "never decrease")]
    fn ends_outside_the_data_are_found() {
        item(b"ab", &[3], 0);
    }
}
