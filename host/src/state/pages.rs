//! Pages: the form in which a store keeps its states. Written and read by the adapters beside it.
//!
//! A page holds the states of all keys from its first key up to the first key of the next page, in order. So a store
//! handles one entry for some thirty states instead of one for each. What a commit changes of a page is written as a
//! *change* of it, which is a page as well: of the keys that changed only, and with a mark where a state is gone.
//! Pages and changes of them are [merged](merge) by whoever reads or rewrites them; the newest entry of a key counts.
//!
//! A store keeps under each page's number the page, and under its first key (the *bound*) the number. A page that is
//! cut, or written anew, gets a number that no page ever had: nothing of the old one can come up under it.
//!
//! Version 1 of a page is its version byte, and for each key, in order:
//!
//! | bytes | |
//! |---|---|
//! | varint | length of the key |
//! | | the key |
//! | varint | length of the stored state and 1; 0 = the key has no state any more |
//! | | the stored state |
//!
//! Invariants: every key of a page is there once; what stands under a page's first key belongs to no other page; a page
//! that nothing older can lie behind has no mark of a state that is gone.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::StateError;

/// First byte of the stored key of a page; its number follows.
pub(super) const PAGE_PREFIX: u8 = 0x07;
/// First byte of the stored key of a bound; the first key of the page follows.
pub(super) const BOUND_PREFIX: u8 = 0x08;
const VERSION: u8 = 1;
/// Pages that are written anew have about so many bytes, one state at least.
pub(super) const PAGE_BYTES: usize = 4 * 1024;
/// Pages with more bytes are written anew, as several.
pub(super) const PAGE_BYTES_MAX: usize = 2 * PAGE_BYTES;
/// In place of the length of a state.
const GONE: u64 = 0;

/// A key and its stored state; `None` = it has none any more.
pub(super) type Entry<'p> = (&'p [u8], Option<&'p [u8]>);

/// Number of a page of a store, from 1 on; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PageNumber(pub(super) u64);

impl PageNumber {
    /// Under this number lies the next one that is free.
    pub(super) const NEXT_FREE: Self = Self(0);
    /// The first of a store.
    pub(super) const FIRST: Self = Self(1);

    /// Stored key of the page.
    pub(super) fn key(self) -> Bytes {
        let mut key = BytesMut::with_capacity(9);
        key.put_u8(PAGE_PREFIX);
        key.put_u64(self.0);
        key.freeze()
    }

    /// The number of a stored key.
    pub(super) fn of_key(key: &[u8]) -> Option<Self> {
        Self::decode(key.strip_prefix(&[PAGE_PREFIX])?)
    }

    /// As it is stored.
    pub(super) fn encode(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    /// As it was stored.
    pub(super) fn decode(stored: &[u8]) -> Option<Self> {
        Some(Self(u64::from_be_bytes(stored.try_into().ok()?)))
    }
}

/// Stored key of the bound of a page that begins with a key.
pub(super) fn bound_key(first: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + first.len());
    key.put_u8(BOUND_PREFIX);
    key.put_slice(first);
    key.freeze()
}

/// A page that is being written; entries come in order of key.
#[derive(Debug)]
pub(super) struct PageBuilder {
    bytes: Vec<u8>,
    keys: usize,
}

impl PageBuilder {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![VERSION],
            keys: 0,
        }
    }

    pub(super) fn push(&mut self, (key, state): Entry<'_>) {
        put_varint(key.len() as u64, &mut self.bytes);
        self.bytes.put_slice(key);
        match state {
            Some(state) => {
                put_varint(state.len() as u64 + 1, &mut self.bytes);
                self.bytes.put_slice(state);
            }
            None => put_varint(GONE, &mut self.bytes),
        }
        self.keys += 1;
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many keys it has so far.
    pub(super) fn keys(&self) -> usize {
        self.keys
    }

    /// Whether there is no entry.
    pub(super) fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// What was written so far, as a page; goes on with an empty one.
    pub(super) fn take(&mut self) -> Bytes {
        let page = Bytes::copy_from_slice(&self.bytes);
        self.bytes.truncate(1);
        self.keys = 0;
        page
    }
}

/// The entries of a page, in order of key.
#[derive(Debug, Clone)]
pub(super) struct Entries<'p> {
    rest: &'p [u8],
}

impl<'p> Entries<'p> {
    /// # Errors
    /// [`StateError::Newer`], [`StateError::Corrupt`].
    pub(super) fn of(page: &'p [u8]) -> Result<Self, StateError> {
        match page.split_first() {
            Some((&VERSION, rest)) => Ok(Self { rest }),
            Some((&found, _)) if found > VERSION => Err(StateError::Newer {
                found,
                known: VERSION,
            }),
            _ => Err(damaged()),
        }
    }

    fn take(&mut self, bytes: u64) -> Option<&'p [u8]> {
        let bytes = usize::try_from(bytes).ok()?;
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn take_varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take_entry(&mut self) -> Option<Entry<'p>> {
        let key = self.take_varint()?;
        let key = self.take(key)?;
        let state = match self.take_varint()? {
            GONE => None,
            length => Some(self.take(length - 1)?),
        };
        Some((key, state))
    }
}

impl<'p> Iterator for Entries<'p> {
    type Item = Result<Entry<'p>, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.take_entry();
        if entry.is_none() {
            self.rest = &[];
        }
        Some(entry.ok_or_else(damaged))
    }
}

/// The newest entry of each key of `pages`, which go from the oldest to the newest.
///
/// # Errors
/// As [`Entries::of`].
pub(super) fn merge<'p>(
    pages: impl IntoIterator<Item = &'p [u8]>,
) -> Result<Vec<Entry<'p>>, StateError> {
    let mut merged: Vec<Entry<'p>> = Vec::new();
    for page in pages {
        let newer = Entries::of(page)?;
        if merged.is_empty() {
            merged = newer.collect::<Result<_, _>>()?;
            continue;
        }
        let older = std::mem::take(&mut merged);
        merged.reserve(older.len());
        let mut older = older.into_iter().peekable();
        for entry in newer {
            let entry = entry?;
            while let Some(before) = older.next_if(|before| before.0 < entry.0) {
                merged.push(before);
            }
            older.next_if(|before| before.0 == entry.0);
            merged.push(entry);
        }
        merged.extend(older);
    }
    Ok(merged)
}

/// The stored state of a key in a page.
///
/// # Errors
/// As [`Entries::of`].
pub(super) fn find<'p>(page: &'p [u8], key: &[u8]) -> Result<Option<&'p [u8]>, StateError> {
    for entry in Entries::of(page)? {
        let (found, state) = entry?;
        if found >= key {
            return Ok(state.filter(|_| found == key));
        }
    }
    Ok(None)
}

fn put_varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        #[allow(clippy::cast_possible_truncation, reason = "seven bits")]
        into.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "seven bits")]
    into.put_u8(value as u8);
}

/// That a page is not what one is.
pub(super) fn damaged() -> StateError {
    StateError::Corrupt("a page of states cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1 wrote for `a` with a state, and `bc` without; never changes.
    const PAGE_V1: &[u8] = b"\x01\x01a\x06state\x02bc\x00";

    fn page(entries: &[Entry<'_>]) -> Bytes {
        let mut page = PageBuilder::new();
        entries.iter().for_each(|entry| page.push(*entry));
        page.take()
    }

    #[test]
    fn version_1_is_written_and_read_as_ever() {
        let entries: [Entry<'_>; 2] = [(b"a", Some(b"state")), (b"bc", None)];
        assert_eq!(page(&entries), PAGE_V1);
        let found: Result<Vec<_>, _> = Entries::of(PAGE_V1).unwrap().collect();
        assert_eq!(found.unwrap(), entries);
        assert_eq!(page(&[]), b"\x01".as_slice());
    }

    #[test]
    fn long_keys_and_states_come_back() {
        let (key, state) = (vec![7; 300], vec![9; 100_000]);
        let page = page(&[(b"", Some(b"")), (&key, Some(&state))]);
        assert_eq!(find(&page, b"").unwrap(), Some(&b""[..]));
        assert_eq!(find(&page, &key).unwrap(), Some(&state[..]));
        assert_eq!(find(&page, b"\x07").unwrap(), None);
    }

    #[test]
    fn the_newest_entry_of_a_key_counts() {
        let oldest = page(&[(b"a", Some(b"1")), (b"c", Some(b"1")), (b"d", Some(b"1"))]);
        let middle = page(&[(b"b", Some(b"2")), (b"c", None)]);
        let newest = page(&[(b"a", Some(b"3")), (b"e", Some(b"3"))]);
        let merged = merge([&oldest[..], &middle, &newest]).unwrap();
        let expected: [Entry<'_>; 5] = [
            (b"a", Some(b"3")),
            (b"b", Some(b"2")),
            (b"c", None),
            (b"d", Some(b"1")),
            (b"e", Some(b"3")),
        ];
        assert_eq!(merged, expected);
        assert_eq!(merge([&newest[..]]).unwrap().len(), 2);
        assert_eq!(merge([]).unwrap(), []);
    }

    #[test]
    fn newer_formats_and_damage_are_told_apart() {
        let newer = Entries::of(b"\x02whatever");
        assert!(matches!(
            newer,
            Err(StateError::Newer { found: 2, known: 1 })
        ));
        assert!(matches!(Entries::of(b""), Err(StateError::Corrupt(_))));
        for cut in 2..PAGE_V1.len() {
            let mut entries = Entries::of(&PAGE_V1[..cut]).unwrap();
            let whole = entries.by_ref().take_while(Result::is_ok).count();
            assert!(whole < 2, "{cut}");
        }
        let endless = [&[VERSION][..], &[0xff; 11]].concat();
        assert!(find(&endless, b"").is_err());
    }
}
