//! Which pages a database has, and what a commit writes of them. Part of `slate::partition`.
//!
//! Invariants: the first page begins with the empty key; every page has its entry and its bound, or neither; commits add
//! and remove pages, one commit at a time, each as a whole. While one does, nobody knows the layout: reads then look for
//! the page of a key among the stored bounds. A page that is not found under a number from there was just removed.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use slatedb::WriteBatch;

use super::Open;
use crate::limits;
use crate::state::pages::{
    BOUND_PREFIX, Entry, PAGE_BYTES, PAGE_BYTES_MAX, PageBuilder, PageNumber, bound_key, damaged,
    merge,
};
use crate::state::{StateChanges, StateError, all_of};

/// All pages: their first keys, in order, and their numbers. None in a new database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pages: Vec<(Bytes, PageNumber)>,
    next: PageNumber,
}

/// What a commit changes of a page.
#[derive(Debug)]
struct PageChange {
    first: Bytes,
    number: PageNumber,
    /// A page of the changes.
    changes: Bytes,
    /// How many keys change.
    keys: usize,
}

impl PageChange {
    /// Whether this alone is more than a page should be, and can be cut.
    fn is_too_large(&self) -> bool {
        self.keys > 1 && self.changes.len() > PAGE_BYTES_MAX
    }
}

impl Layout {
    /// The layout of stored bounds and the stored number of the next page.
    fn of(bounds: &[(Bytes, Bytes)], next: Option<&[u8]>) -> Result<Self, StateError> {
        let pages = bounds.iter().map(|(key, number)| {
            // A copy: what is read is cut out of a block.
            let first = Bytes::copy_from_slice(&key[1..]);
            Ok((first, PageNumber::decode(number).ok_or_else(damaged)?))
        });
        Ok(Self {
            pages: pages.collect::<Result<_, StateError>>()?,
            next: match next {
                Some(next) => PageNumber::decode(next).ok_or_else(damaged)?,
                None => PageNumber::FIRST,
            },
        })
    }

    /// How many pages there are.
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether the first page is there: without, the database is new, or was written before there were pages.
    pub(super) fn has_begun(&self) -> bool {
        self.pages
            .first()
            .is_some_and(|(first, _)| first.is_empty())
    }

    /// The page that a key belongs to.
    pub(super) fn page_of(&self, key: &[u8]) -> Option<PageNumber> {
        let behind = self.pages.partition_point(|(first, _)| first <= key);
        self.pages[..behind].last().map(|(_, number)| *number)
    }

    /// First keys and numbers of the pages from that of a key on.
    pub(super) fn pages_from(&self, key: &[u8]) -> &[(Bytes, PageNumber)] {
        let behind = self.pages.partition_point(|(first, _)| first <= key);
        &self.pages[behind.saturating_sub(1)..]
    }

    /// What `changes` are of each page, in order; the first page is there.
    fn changes_of_pages(&self, changes: &StateChanges) -> Vec<PageChange> {
        let mut found = Vec::new();
        let mut page = PageBuilder::new();
        let mut at = 0;
        let change_of = |at: usize, page: &mut PageBuilder| {
            let (first, number) = &self.pages[at];
            PageChange {
                first: first.clone(),
                number: *number,
                keys: page.keys(),
                changes: page.take(),
            }
        };
        changes.for_each_in_order(|key, state| {
            let behind = self.pages.get(at + 1..).unwrap_or_default();
            if behind.first().is_some_and(|(next, _)| next <= key) {
                if !page.is_empty() {
                    found.push(change_of(at, &mut page));
                }
                at += behind.partition_point(|(next, _)| next <= key);
            }
            page.push((key, state));
        });
        if !page.is_empty() {
            found.push(change_of(at, &mut page));
        }
        found
    }

    /// These pages without a change, of those that are still there.
    fn unchanged(&self, mut numbers: BTreeSet<PageNumber>) -> Vec<PageChange> {
        let pages = self.pages.iter().filter(|(_, it)| numbers.remove(it));
        let unchanged = pages.map(|(first, number)| PageChange {
            first: first.clone(),
            number: *number,
            changes: PageBuilder::new().take(),
            keys: 0,
        });
        unchanged.collect()
    }
}

/// What is written of the pages.
#[derive(Debug)]
pub(super) struct PageRows {
    changed: Vec<(PageNumber, Bytes)>,
    whole: Vec<(PageNumber, Bytes)>,
    /// First keys of new pages.
    begun: Vec<(Bytes, PageNumber)>,
    removed: HashSet<PageNumber>,
    /// First keys of pages that were removed.
    ended: Vec<Bytes>,
    next: PageNumber,
}

impl PageRows {
    /// Nothing yet, on a database of this layout.
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            changed: Vec::new(),
            whole: Vec::new(),
            begun: Vec::new(),
            removed: HashSet::new(),
            ended: Vec::new(),
            next: layout.next,
        }
    }

    /// Writes new pages of `entries`, the first of them from the key `first` on, in place of the one that begins there.
    pub(super) fn write_anew<'e>(
        &mut self,
        first: Bytes,
        replaced: Option<PageNumber>,
        entries: impl IntoIterator<Item = Entry<'e>>,
    ) {
        if let Some(number) = replaced {
            self.removed.insert(number);
            self.ended.push(first.clone());
        }
        let mut pages = NewPages::new(self, first);
        for entry in entries {
            pages.push(entry);
        }
        pages.end();
    }

    /// Writes all pages of a new database.
    fn write_first(&mut self, changes: &StateChanges) {
        let mut pages = NewPages::new(self, Bytes::new());
        changes.for_each_in_order(|key, state| pages.push((key, state)));
        pages.end();
    }

    fn begin(&mut self, first: Bytes, page: Bytes) {
        let number = self.next;
        self.next = PageNumber(number.0 + 1);
        self.whole.push((number, page));
        self.begun.push((first, number));
    }

    /// The layout once this is written; `None` = as before.
    pub(super) fn changed_layout(&self, layout: &Layout) -> Option<Layout> {
        if self.begun.is_empty() && self.removed.is_empty() {
            return None;
        }
        let kept = layout.pages.iter();
        let kept = kept.filter(|(_, number)| !self.removed.contains(number));
        let mut pages: Vec<_> = kept.chain(&self.begun).cloned().collect();
        pages.sort_unstable();
        Some(Layout {
            pages,
            next: self.next,
        })
    }

    /// Adds all to a batch.
    pub(super) fn write(self, batch: &mut WriteBatch) {
        for (number, page) in self.changed {
            batch.merge(number.key(), page);
        }
        for number in self.removed {
            batch.delete(number.key());
        }
        // One that begins where another has ended comes in its place.
        for first in self.ended {
            batch.delete(bound_key(&first));
        }
        if !self.begun.is_empty() {
            batch.put_bytes(PageNumber::NEXT_FREE.key(), self.next.encode());
        }
        for (number, page) in self.whole {
            batch.put_bytes(number.key(), page);
        }
        for (first, number) in self.begun {
            batch.put_bytes(bound_key(&first), number.encode());
        }
    }
}

/// Pages that are being written, one behind the other.
struct NewPages<'r> {
    rows: &'r mut PageRows,
    /// First key of the page that is being written.
    first: Bytes,
    page: PageBuilder,
}

impl<'r> NewPages<'r> {
    /// Pages from the key `first` on.
    fn new(rows: &'r mut PageRows, first: Bytes) -> Self {
        let page = PageBuilder::new();
        Self { rows, first, page }
    }

    /// Appends the next entry, in order of key.
    fn push(&mut self, entry: Entry<'_>) {
        if entry.1.is_none() {
            return;
        }
        if self.page.len() >= PAGE_BYTES {
            let next = Bytes::copy_from_slice(entry.0);
            let first = std::mem::replace(&mut self.first, next);
            self.rows.begin(first, self.page.take());
        }
        self.page.push(entry);
    }

    /// Writes the last page; the first of a database is written without a state, too.
    fn end(mut self) {
        if !self.page.is_empty() || self.first.is_empty() {
            self.rows.begin(self.first, self.page.take());
        }
    }
}

impl Open {
    /// What the changes of a commit write. Pages that have become too large, or get more than fits into one, are
    /// written anew; so are those without a state, to be forgotten. A large state comes to lie in a page of its own.
    pub(super) async fn page_rows(
        &self,
        layout: &Layout,
        changes: &StateChanges,
    ) -> Result<PageRows, StateError> {
        let mut rows = PageRows::new(layout);
        if !layout.has_begun() {
            if !changes.is_empty() {
                rows.write_first(changes);
            }
            return Ok(rows);
        }
        let mut noticed = self.pages.take_noticed(limits::STATE_PAGES_REWRITTEN_MAX);
        let mut anew = Vec::new();
        for change in layout.changes_of_pages(changes) {
            if noticed.remove(&change.number) || change.is_too_large() {
                anew.push(change);
            } else {
                rows.changed.push((change.number, change.changes));
            }
        }
        anew.extend(layout.unchanged(noticed));
        let reads = anew.into_iter().map(|change| async move {
            let page = self.read(&change.number.key()).await?;
            Ok::<_, StateError>((change, page))
        });
        let mut reads = stream::iter(reads).buffered(limits::STATE_READS_CONCURRENT_MAX);
        while let Some(read) = reads.next().await {
            let (change, page) = read?;
            let pages = page.iter().chain([&change.changes]);
            let entries = merge(pages.map(|page| &page[..]))?;
            rows.write_anew(change.first, Some(change.number), entries);
        }
        Ok(rows)
    }

    /// The layout as it is stored.
    pub(super) async fn stored_layout(&self) -> Result<Layout, StateError> {
        let bounds = self.entries(all_of(BOUND_PREFIX), usize::MAX).await?;
        let next = self.read(&PageNumber::NEXT_FREE.key()).await?;
        Layout::of(&bounds, next.as_deref())
    }
}
