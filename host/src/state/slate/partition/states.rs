//! Reading states: of one key, and in order of key. Part of `slate::partition`, used by `slate::snapshot` as well.
//!
//! Invariant: what is found is committed, and newer than whatever the same caller found before. A page that is gone by the
//! time it is read was replaced in between: it is looked for again.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use slatedb::config::{DurabilityLevel, ReadOptions};
use slatedb::{Db, DbIterator, DbReadOps, IterationOrder};

use super::layout::Layout;
use super::{Open, scan_options};
use crate::limits;
use crate::state::checkpoint::decode_state;
use crate::state::pages::{
    BOUND_PREFIX, Entries, PAGE_BYTES, PageNumber, bound_key, damaged, find,
};
use crate::state::slate::pages::PageFilters;
use crate::state::{KeyState, StateError, StatePage, all_of};

/// How often a page is looked for again that was replaced in between: commits that replace pages are not that frequent.
const LOOKS_MAX: usize = 10;

/// Of a scan that has read no page yet: keys of a page, and pages that are read at once.
const FIRST_PAGE_KEYS: usize = 16;
const FIRST_PAGES_MAX: usize = 8;
/// Pages are read in one go if no two neighbours have numbers that are further apart.
const RUN_GAP_MAX: u64 = 4;
/// Runs of pages that a scan reads at the same time.
const RUNS_AT_ONCE: usize = 8;

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
            if self.is_still(&layout) {
                return state_in(page, key);
            }
        }
        self.answered(stored_state(&self.db, key)).await
    }

    /// Whether the layout is this one: no commit has changed pages, or may have.
    fn is_still(&self, layout: &Arc<Layout>) -> bool {
        let now = self.layout.read();
        now.as_ref().is_some_and(|now| Arc::ptr_eq(now, layout))
    }

    /// Committed states in order of key.
    pub(super) async fn scan(&self, scan: Scan) -> Result<StatePage, StateError> {
        let known = self.layout.read().clone();
        if let Some(layout) = known {
            let found = self
                .answered(scan.clone().run_in(&self.db, &layout))
                .await?;
            if let Some(found) = found
                && self.is_still(&layout)
            {
                return Ok(found);
            }
        }
        self.answered(scan.run(&self.db)).await
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
#[derive(Debug, Clone)]
pub(in super::super) struct Scan {
    from: Bound<Bytes>,
    to: Option<Bytes>,
    limit: usize,
    found: Vec<(Bytes, KeyState)>,
    /// Bytes of `found`.
    bytes: usize,
    /// Pages that were read, and their bytes.
    pages_read: usize,
    page_bytes_read: usize,
}

/// How a scan goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scanned {
    /// There is more to look at.
    Some,
    /// As much is found as is returned at once.
    Enough,
    /// Nothing that is looked for is left.
    All,
    /// A page was replaced meanwhile; what is found so far is all before it.
    Replaced,
}

/// Pages in order of their first keys.
enum PagesInOrder<'l> {
    Known(std::slice::Iter<'l, (Bytes, PageNumber)>),
    Stored(Box<DbIterator>),
}

impl PagesInOrder<'_> {
    /// The next page, unless it begins with `to` or behind it.
    async fn next(&mut self, to: Option<&Bytes>) -> Result<Option<PageNumber>, ReadFault> {
        match self {
            Self::Known(pages) => {
                let next = pages.next();
                let next = next.filter(|(first, _)| to.is_none_or(|to| first < to));
                Ok(next.map(|(_, number)| *number))
            }
            // It was asked for no more.
            Self::Stored(bounds) => {
                let bound = bounds.next().await?;
                let number = bound.map(|it| PageNumber::decode(&it.value).ok_or_else(damaged));
                Ok(number.transpose()?)
            }
        }
    }
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
            bytes: 0,
            pages_read: 0,
            page_bytes_read: 0,
        }
    }

    /// What is found in a database, whatever its layout is.
    pub(in super::super) async fn run(
        mut self,
        db: &(impl DbReadOps + Sync),
    ) -> Result<StatePage, ReadFault> {
        for _ in 0..LOOKS_MAX {
            match self.goes_through(db, None).await? {
                Scanned::Replaced => {}
                scanned => return Ok(self.page(scanned)),
            }
            if let Some((last, _)) = self.found.last() {
                self.from = Bound::Excluded(last.clone());
            }
        }
        Err(replaced().into())
    }

    /// What is found in a database of this layout; `None` = it has another by now.
    async fn run_in(mut self, db: &Db, layout: &Layout) -> Result<Option<StatePage>, ReadFault> {
        match self.goes_through(db, Some(layout)).await? {
            Scanned::Replaced => Ok(None),
            scanned => Ok(Some(self.page(scanned))),
        }
    }

    fn page(self, scanned: Scanned) -> StatePage {
        StatePage {
            states: self.found,
            is_last: scanned == Scanned::All,
        }
    }

    /// Goes through the pages, some at a time.
    async fn goes_through(
        &mut self,
        db: &(impl DbReadOps + Sync),
        layout: Option<&Layout>,
    ) -> Result<Scanned, ReadFault> {
        let from = match &self.from {
            Bound::Included(from) | Bound::Excluded(from) => from,
            Bound::Unbounded => &Bytes::new(),
        };
        if self.to.as_ref().is_some_and(|to| from >= to) {
            return Ok(Scanned::All);
        }
        if self.limit == self.found.len() {
            return Ok(Scanned::Enough);
        }
        let mut pages = match layout {
            Some(layout) => PagesInOrder::Known(layout.pages_from(from).iter()),
            None => PagesInOrder::Stored(Box::new(self.stored_bounds(db, from).await?)),
        };
        loop {
            let wanted = self.pages_wanted();
            let mut numbers = Vec::with_capacity(wanted);
            while numbers.len() < wanted
                && let Some(number) = pages.next(self.to.as_ref()).await?
            {
                numbers.push(number);
            }
            if numbers.is_empty() {
                return Ok(Scanned::All);
            }
            let read = read_pages(db, &numbers).await?;
            for number in numbers {
                let Some(page) = read.get(&number) else {
                    return Ok(Scanned::Replaced);
                };
                match self.take(page)? {
                    Scanned::Some => {}
                    scanned => return Ok(scanned),
                }
            }
        }
    }

    /// The bounds of all pages in which something may be, as they are stored.
    async fn stored_bounds(
        &self,
        db: &(impl DbReadOps + Sync),
        from: &Bytes,
    ) -> Result<DbIterator, ReadFault> {
        let first = bound_of(db, from).await?;
        let first = first.map_or_else(|| bound_key(from), |(first, _)| first);
        let end = match &self.to {
            Some(to) => Bound::Excluded(bound_key(to)),
            None => all_of(BOUND_PREFIX).1,
        };
        let range = (Bound::Included(first), end);
        Ok(db.scan_with_options(range, &scan_options()).await?)
    }

    /// How many pages hold what is still wanted, going by those that were read.
    fn pages_wanted(&self) -> usize {
        let keys_left = self.limit - self.found.len();
        let bytes_left = limits::STATE_SCAN_BYTES_MAX - self.bytes;
        let (keys, bytes, most) = match self.pages_read {
            0 => (FIRST_PAGE_KEYS, PAGE_BYTES, FIRST_PAGES_MAX),
            read => (
                self.found.len() / read,
                self.page_bytes_read / read,
                limits::STATE_SCAN_PAGES_MAX,
            ),
        };
        let wanted = keys_left.div_ceil(keys.max(1));
        wanted.min(bytes_left / bytes.max(1)).clamp(1, most)
    }

    /// Takes what is looked for from a page.
    fn take(&mut self, page: &Bytes) -> Result<Scanned, StateError> {
        self.pages_read += 1;
        self.page_bytes_read += page.len();
        for entry in Entries::of(page)? {
            let (key, state) = entry?;
            if self.to.as_ref().is_some_and(|to| key >= to) {
                return Ok(Scanned::All);
            }
            let is_before = match &self.from {
                Bound::Included(from) => key < from,
                Bound::Excluded(from) => key <= from,
                Bound::Unbounded => false,
            };
            if let (Some(state), false) = (state, is_before) {
                self.bytes += key.len() + state.len();
                let state = decode_state(&page.slice_ref(state))?;
                self.found.push((page.slice_ref(key), state));
                if self.found.len() == self.limit || self.bytes >= limits::STATE_SCAN_BYTES_MAX {
                    return Ok(Scanned::Enough);
                }
            }
        }
        Ok(Scanned::Some)
    }
}

/// Pages by their numbers, as far as they are there. Numbers are given out in order of key whenever many pages are
/// written, so most neighbours have numbers that are close together: these are read in one go.
async fn read_pages(
    db: &(impl DbReadOps + Sync),
    numbers: &[PageNumber],
) -> Result<HashMap<PageNumber, Bytes>, ReadFault> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let runs = sorted.chunk_by(|one, next| next.0 - one.0 <= RUN_GAP_MAX);
    let reads = runs.map(|run| async move {
        let [first, .., last] = run else {
            let only = run[0];
            let page = page(db, only).await?;
            return Ok(page.map(|page| (only, page)).into_iter().collect());
        };
        let range = (Bound::Included(first.key()), Bound::Included(last.key()));
        let mut entries = db.scan_with_options(range, &scan_options()).await?;
        let mut pages = Vec::with_capacity(run.len());
        while let Some(entry) = entries.next().await? {
            let number = PageNumber::of_key(&entry.key).ok_or_else(damaged)?;
            if run.binary_search(&number).is_ok() {
                pages.push((number, entry.value));
            }
        }
        Ok::<Vec<_>, ReadFault>(pages)
    });
    let reads: Vec<_> = reads.collect();
    let mut reads = stream::iter(reads).buffer_unordered(RUNS_AT_ONCE);
    let mut found = HashMap::with_capacity(numbers.len());
    while let Some(pages) = reads.next().await {
        found.extend(pages?);
    }
    Ok(found)
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
