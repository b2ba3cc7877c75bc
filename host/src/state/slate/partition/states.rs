//! Reading states: of one key, and in order of key. Part of `slate::partition`, used by `slate::snapshot` as well.
//!
//! Invariant: what is found is committed, and newer than whatever the same caller found before. A page that is gone by the
//! time it is read was replaced in between: it is looked for again.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use slatedb::config::{DurabilityLevel, ReadOptions};
use slatedb::{DbReadOps, IterationOrder};

use super::{Open, scan_options};
use crate::limits;
use crate::state::checkpoint::decode_state;
use crate::state::pages::{BOUND_PREFIX, Entries, PageNumber, bound_key, damaged, find};
use crate::state::slate::pages::PageFilters;
use crate::state::{KeyState, StateError, all_of};

/// How often a page is looked for again that was replaced in between: commits that replace pages are not that frequent.
const LOOKS_MAX: usize = 10;

/// Why states could not be read.
#[derive(Debug)]
pub(in super::super) enum ReadFault {
    Store(slatedb::Error),
    State(StateError),
}

impl From<slatedb::Error> for ReadFault {
    fn from(error: slatedb::Error) -> Self {
        Self::Store(error)
    }
}

impl From<StateError> for ReadFault {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl Open {
    /// Committed state of a key. It shares no memory with the store.
    pub(super) async fn state(&self, key: &[u8]) -> Result<Option<KeyState>, StateError> {
        let known = self.layout.read().clone();
        if let Some(layout) = known {
            let page = match layout.page_of(key) {
                Some(number) => {
                    let options = read_options().with_filter_context(PageFilters::context(key));
                    let read = self.db.get_with_options(number.key(), &options);
                    self.answered(read).await?
                }
                None => None,
            };
            let now = self.layout.read().clone();
            if now.is_some_and(|now| Arc::ptr_eq(&now, &layout)) {
                return state_in(page, key);
            }
        }
        self.answered(stored_state(&self.db, key)).await
    }
}

/// State of a key, whatever the layout is.
async fn stored_state(
    db: &(impl DbReadOps + Sync),
    key: &[u8],
) -> Result<Option<KeyState>, ReadFault> {
    for _ in 0..LOOKS_MAX {
        let Some((_, number)) = bound_of(db, key).await? else {
            return Ok(None);
        };
        if let Some(page) = page(db, number).await? {
            return Ok(state_in(Some(page), key)?);
        }
    }
    Err(replaced().into())
}

fn state_in(page: Option<Bytes>, key: &[u8]) -> Result<Option<KeyState>, StateError> {
    let Some(page) = page else { return Ok(None) };
    let Some(state) = find(&page, key)? else {
        return Ok(None);
    };
    // What is read is cut out of a block, which would stay in memory as long as the state.
    decode_state(&Bytes::copy_from_slice(state)).map(Some)
}

/// Stored key of the bound of the page that a key belongs to, and the page's number.
async fn bound_of(
    db: &(impl DbReadOps + Sync),
    key: &[u8],
) -> Result<Option<(Bytes, PageNumber)>, ReadFault> {
    let options = scan_options().with_order(IterationOrder::Descending);
    let range = (all_of(BOUND_PREFIX).0, Bound::Included(bound_key(key)));
    let mut found = db.scan_with_options(range, &options).await?;
    let Some(bound) = found.next().await? else {
        return Ok(None);
    };
    let number = PageNumber::decode(&bound.value).ok_or_else(damaged)?;
    Ok(Some((bound.key, number)))
}

async fn page(
    db: &(impl DbReadOps + Sync),
    number: PageNumber,
) -> Result<Option<Bytes>, slatedb::Error> {
    db.get_with_options(number.key(), &read_options()).await
}

fn replaced() -> StateError {
    StateError::Unavailable("pages of states were replaced while they were read".to_owned())
}

/// How one entry is read.
pub(super) fn read_options() -> ReadOptions {
    ReadOptions::new().with_durability_filter(DurabilityLevel::Remote)
}

/// States that are looked for in order of key.
#[derive(Debug)]
pub(in super::super) struct Scan {
    from: Bound<Bytes>,
    to: Option<Bytes>,
    limit: usize,
    found: Vec<(Bytes, KeyState)>,
}

impl Scan {
    /// At most `limit` keys that start with `prefix`, behind `after`.
    pub(in super::super) fn new(prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Self {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(Bytes::copy_from_slice(after)),
            _ => Bound::Included(Bytes::copy_from_slice(prefix)),
        };
        Self {
            from,
            to: successor(prefix),
            limit,
            found: Vec::new(),
        }
    }

    /// What is found in a database.
    pub(in super::super) async fn run(
        mut self,
        db: &(impl DbReadOps + Sync),
    ) -> Result<Vec<(Bytes, KeyState)>, ReadFault> {
        for _ in 0..LOOKS_MAX {
            if self.goes_through(db).await? {
                return Ok(self.found);
            }
            if let Some((last, _)) = self.found.last() {
                self.from = Bound::Excluded(last.clone());
            }
        }
        Err(replaced().into())
    }

    /// Goes through the pages; `false` = one was replaced meanwhile, and what is found so far is all before it.
    async fn goes_through(&mut self, db: &(impl DbReadOps + Sync)) -> Result<bool, ReadFault> {
        let from = match &self.from {
            Bound::Included(from) | Bound::Excluded(from) => from,
            Bound::Unbounded => &Bytes::new(),
        };
        if self.limit == self.found.len() || self.to.as_ref().is_some_and(|to| from >= to) {
            return Ok(true);
        }
        let first = bound_of(db, from).await?;
        let first = first.map_or_else(|| bound_key(from), |(first, _)| first);
        let end = match &self.to {
            Some(to) => Bound::Excluded(bound_key(to)),
            None => all_of(BOUND_PREFIX).1,
        };
        let range = (Bound::Included(first), end);
        let bounds = db.scan_with_options(range, &scan_options()).await?;
        let bounds = stream::try_unfold(bounds, |mut bounds| async move {
            let bound = bounds.next().await?;
            Ok::<_, slatedb::Error>(bound.map(|bound| (bound, bounds)))
        });
        let pages = bounds.map(|bound| async {
            let number = PageNumber::decode(&bound?.value).ok_or_else(damaged)?;
            Ok::<_, ReadFault>(page(db, number).await?)
        });
        let mut pages = std::pin::pin!(pages.buffered(limits::STATE_SCAN_PAGES_MAX));
        while let Some(page) = pages.next().await {
            let Some(page) = page? else { return Ok(false) };
            if self.take(&page)? {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// Takes what is looked for from a page; whether that is all.
    fn take(&mut self, page: &Bytes) -> Result<bool, StateError> {
        for entry in Entries::of(page)? {
            let (key, state) = entry?;
            if self.to.as_ref().is_some_and(|to| key >= to) {
                return Ok(true);
            }
            let is_before = match &self.from {
                Bound::Included(from) => key < from,
                Bound::Excluded(from) => key <= from,
                Bound::Unbounded => false,
            };
            if let (Some(state), false) = (state, is_before) {
                let state = decode_state(&page.slice_ref(state))?;
                self.found.push((page.slice_ref(key), state));
                if self.found.len() == self.limit {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// The first key behind all that start with `prefix`; `None` = there is none.
fn successor(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(Bytes::from(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_covers_its_prefix_and_no_more() {
        let key = |bytes: &'static [u8]| Bytes::from_static(bytes);
        let scan = Scan::new(b"", None, 1);
        assert_eq!((scan.from, scan.to), (Bound::Included(key(b"")), None));
        let scan = Scan::new(b"a\xff", Some(b"a\xff\x00"), 1);
        assert_eq!(scan.from, Bound::Excluded(key(b"a\xff\x00")));
        assert_eq!(scan.to, Some(key(b"b")));
        let scan = Scan::new(b"b", Some(b"a"), 1);
        assert_eq!(scan.from, Bound::Included(key(b"b")));
        assert_eq!(Scan::new(b"\xff\xff", None, 1).to, None);
    }
}
