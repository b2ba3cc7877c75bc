//! What SlateDB has to know of pages: how changes of one are merged, and which files a key need not be looked for in.
//! Given to everything that opens a database.
//!
//! Invariants: merging is associative, and a state that is gone is forgotten only where the page itself is merged: a page
//! is written once under its number, so nothing older lies behind it. For the same reason a file that has nothing of a key
//! can be passed over, whatever it has of the key's page.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use parking_lot::Mutex;
use slatedb::{
    BloomFilterPolicy, Filter, FilterBuilder, FilterContext, FilterPolicy, FilterQuery,
    MergeOperator, MergeOperatorError, RowEntry, ValueDeletable,
};

use crate::state::pages::{Entries, PAGE_BYTES_MAX, PAGE_PREFIX, PageBuilder, PageNumber, merge};

/// Merges changes of pages, and notices which pages should be written anew.
#[derive(Debug, Clone, Default)]
pub(super) struct PageMerge {
    noticed: Arc<Mutex<BTreeSet<PageNumber>>>,
}

impl PageMerge {
    /// Pages that have become too large, or empty; at most `limit`, and they are forgotten.
    pub(super) fn take_noticed(&self, limit: usize) -> BTreeSet<PageNumber> {
        let mut noticed = self.noticed.lock();
        match noticed.iter().nth(limit).copied() {
            None => std::mem::take(&mut *noticed),
            Some(first) => {
                let rest = noticed.split_off(&first);
                std::mem::replace(&mut *noticed, rest)
            }
        }
    }
}

impl MergeOperator for PageMerge {
    fn merge(
        &self,
        key: &Bytes,
        existing_value: Option<Bytes>,
        value: Bytes,
    ) -> Result<Bytes, MergeOperatorError> {
        self.merge_batch(key, existing_value, &[value])
    }

    fn merge_batch(
        &self,
        key: &Bytes,
        existing_value: Option<Bytes>,
        operands: &[Bytes],
    ) -> Result<Bytes, MergeOperatorError> {
        if let (None, [only]) = (&existing_value, operands) {
            return Ok(only.clone());
        }
        let pages = existing_value.iter().chain(operands);
        let entries =
            merge(pages.map(|page| &page[..])).map_err(|error| MergeOperatorError::Callback {
                message: error.to_string(),
            })?;
        let is_whole = existing_value.is_some();
        let mut page = PageBuilder::new();
        let kept = entries.iter().filter(|it| !is_whole || it.1.is_some());
        let kept = kept.map(|entry| page.push(*entry)).count();
        let is_too_large = page.len() > PAGE_BYTES_MAX && kept > 1;
        if is_too_large || (is_whole && kept == 0) {
            self.noticed.lock().extend(PageNumber::of_key(key));
        }
        Ok(page.take())
    }
}

/// Bloom filters of the files: of the stored keys, and of the keys in pages. Who looks for one key in a page names it
/// as the context of the read.
#[derive(Debug)]
pub(super) struct PageFilters(BloomFilterPolicy);

/// Bits of a filter for each key: one look in a hundred is in vain.
const FILTER_BITS: u32 = 10;

impl PageFilters {
    /// The only policy of a database.
    pub(super) fn policies() -> Vec<Arc<dyn FilterPolicy>> {
        vec![Arc::new(Self(BloomFilterPolicy::new(FILTER_BITS)))]
    }

    /// Context of a read that looks for this key.
    pub(super) fn context(key: &[u8]) -> Option<FilterContext> {
        Some(FilterContext::Bytes(Bytes::copy_from_slice(key)))
    }
}

impl FilterPolicy for PageFilters {
    fn name(&self) -> &'static str {
        "foldhost-pages-1"
    }

    fn builder(&self) -> Box<dyn FilterBuilder> {
        Box::new(PageFilterBuilder(self.0.builder()))
    }

    fn decode(&self, data: &[u8]) -> Arc<dyn Filter> {
        Arc::new(PageFilter(self.0.decode(data)))
    }

    fn estimate_size(&self, num_keys: usize) -> usize {
        self.0.estimate_size(num_keys)
    }

    fn supports_prefix_queries(&self) -> bool {
        false
    }
}

struct PageFilterBuilder(Box<dyn FilterBuilder>);

impl FilterBuilder for PageFilterBuilder {
    fn add_entry(&mut self, entry: &RowEntry) {
        self.0.add_entry(entry);
        if entry.key.first() != Some(&PAGE_PREFIX) {
            return;
        }
        let (ValueDeletable::Value(page) | ValueDeletable::Merge(page)) = &entry.value else {
            return;
        };
        // One that cannot be read is an error for whoever reads it.
        for (key, _) in Entries::of(page).into_iter().flatten().flatten() {
            self.0.add_entry(&RowEntry {
                key: page.slice_ref(key),
                value: ValueDeletable::Tombstone,
                seq: entry.seq,
                create_ts: None,
                expire_ts: None,
            });
        }
    }

    fn build(&mut self) -> Arc<dyn Filter> {
        Arc::new(PageFilter(self.0.build()))
    }
}

struct PageFilter(Arc<dyn Filter>);

impl Filter for PageFilter {
    fn might_match(&self, query: &FilterQuery) -> bool {
        match &query.context {
            Some(FilterContext::Bytes(key)) => self.0.might_match(&FilterQuery::point(key.clone())),
            _ => self.0.might_match(query),
        }
    }

    fn encode(&self, writer: &mut dyn BufMut) {
        self.0.encode(writer);
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn clamp_allocated_size(&self) -> Arc<dyn Filter> {
        Arc::new(Self(self.0.clamp_allocated_size()))
    }
}

impl fmt::Debug for PageFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageFilter").finish_non_exhaustive()
    }
}
