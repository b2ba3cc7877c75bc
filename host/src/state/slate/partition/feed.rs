//! The feed of changes of one database: what a commit adds to it and removes from it, and reading it. Part of
//! `slate::partition`.
//!
//! Invariants: what a commit adds follows from what is durable and from the commit alone, so that a commit that is
//! tried again writes the same over what an attempt has left; a removed entry is named by number *and* key, so that
//! nothing of another key is ever removed; what is removed in one commit is bounded.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use xxhash_rust::xxh3::xxh3_128;

use super::{CHECKPOINT_KEY, Open};
use crate::limits;
use crate::state::checkpoint::{decode_state, encode_checkpoint};
use crate::state::feed::{
    CHANGE_PREFIX, DELETION_PREFIX, FeedHead, HEAD_KEY, Numbered, decode_change, decode_deletion,
    decode_head, decode_number, encode_change, encode_deletion, encode_head, encode_number,
    from_number, number_key, numbered_key,
};
use crate::state::{ChangeNumber, Commit, FeedPage, FeedTerms, KeyChange, StateError, all_of};

/// An entry that is written, or (`None`) removed.
pub(super) type Row = (Bytes, Option<Bytes>);
/// What SlateDB is given of the feed for each change of a commit, beside keys: the change and its number, and what
/// both were before.
pub(super) const ROWS_OF_A_CHANGE: usize = 4;

/// What whoever writes knows of the feed, as long as all of its commits are durable.
#[derive(Debug)]
pub(super) struct Feed {
    head: FeedHead,
    /// The numbers of keys that changed lately, by a hash of the key. A wrong one would leave an entry behind, and
    /// remove none.
    known: HashMap<u128, Numbered>,
    /// No deletion that is remembered is older.
    oldest_deletion_ms: i64,
}

impl Feed {
    fn take_number(&mut self) -> ChangeNumber {
        let number = self.head.next;
        self.head.next = number.next();
        number
    }

    fn know(&mut self, key: &[u8], numbered: Numbered) {
        if self.known.len() >= limits::FEED_KNOWN_KEYS_MAX {
            self.known.clear();
        }
        self.known.insert(xxh3_128(key), numbered);
    }
}

impl Open {
    /// What a commit changes in the feed, in order of key, and what is known of the feed once it is durable. `feed`
    /// is what was known before; `None` = nothing is for sure.
    pub(super) async fn feed_rows(
        &self,
        feed: Option<Feed>,
        commit: &Commit,
        terms: FeedTerms,
    ) -> Result<(Feed, Vec<Row>), StateError> {
        let mut feed = match feed {
            Some(feed) => feed,
            None => self.open_feed().await?,
        };
        let mut expired = self.expired(&mut feed, terms).await?;
        let before = self.numbers_before(&feed, commit).await?;
        let mut rows = Vec::with_capacity(ROWS_OF_A_CHANGE * before.len() + 3 * expired.len() + 1);
        for ((key, state), before) in commit.changes.in_order().zip(before) {
            if let Some(Numbered { number, deleted }) = before {
                rows.push((numbered_key(CHANGE_PREFIX, number, &key), None));
                if deleted {
                    rows.push((numbered_key(DELETION_PREFIX, number, &key), None));
                    expired.remove(&number);
                }
            }
            let state = state.map(|state| decode_state(&state)).transpose()?;
            let change = KeyChange {
                number: feed.take_number(),
                deleted: state.as_ref().is_none_or(|state| state.is_gone()),
                changed_at: state.as_ref().map_or(Default::default(), |it| it.place()),
                changed_at_ms: state.as_ref().map_or(terms.now_ms, |it| it.changed_at_ms),
                key,
            };
            add(&mut feed, &mut rows, &change, terms);
        }
        for (number, key) in expired {
            rows.push((numbered_key(CHANGE_PREFIX, number, &key), None));
            rows.push((numbered_key(DELETION_PREFIX, number, &key), None));
            rows.push((number_key(&key), None));
            feed.head.kept_from = feed.head.kept_from.max(number.next());
        }
        feed.head.checkpoint_hash = FeedHead::hash(&encode_checkpoint(&commit.checkpoint));
        rows.push((Bytes::from_static(HEAD_KEY), Some(encode_head(&feed.head))));
        rows.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        Ok((feed, rows))
    }

    /// Changes from a number on, at most `limit`; `None` as the number = only where the feed is. `None` = there is
    /// no feed.
    pub(super) async fn read_feed(
        &self,
        from: Option<ChangeNumber>,
        limit: usize,
    ) -> Result<Option<FeedPage>, StateError> {
        let changes = match from {
            Some(from) => self.entries(range(CHANGE_PREFIX, from), limit).await?,
            None => Vec::new(),
        };
        // Whatever was removed before the entries were read is in what is read behind them.
        let Some(head) = self.read(HEAD_KEY).await? else {
            return Ok(None);
        };
        let head = decode_head(&head)?;
        let changes = changes.iter().map(|(key, it)| decode_change(key, it));
        Ok(Some(FeedPage {
            changes: changes.collect::<Result<_, _>>()?,
            kept_from: head.kept_from,
            next: head.next,
        }))
    }

    /// What the last commit left, or a new feed. One that has missed a commit goes on with a gap.
    async fn open_feed(&self) -> Result<Feed, StateError> {
        let head = self.read(HEAD_KEY).await?;
        let head = match head.map(|head| decode_head(&head)).transpose()? {
            None => FeedHead::new(),
            Some(head) => {
                let checkpoint = self.read(CHECKPOINT_KEY).await?.unwrap_or_default();
                let is_covered = FeedHead::hash(&checkpoint) == head.checkpoint_hash;
                if is_covered { head } else { head.interrupted() }
            }
        };
        Ok(Feed {
            head,
            known: HashMap::new(),
            oldest_deletion_ms: i64::MIN,
        })
    }

    /// Deletions that need not be remembered any more: the oldest, as many as may go with one commit.
    async fn expired(
        &self,
        feed: &mut Feed,
        terms: FeedTerms,
    ) -> Result<BTreeMap<ChangeNumber, Bytes>, StateError> {
        let kept_ms = i64::try_from(terms.keep_deletions.as_millis()).unwrap_or(i64::MAX);
        let until_ms = terms.now_ms.saturating_sub(kept_ms);
        if feed.oldest_deletion_ms > until_ms {
            return Ok(BTreeMap::new());
        }
        let range = range(DELETION_PREFIX, ChangeNumber::FIRST);
        let found = self
            .entries(range, limits::FEED_EXPIRED_AT_ONCE_MAX + 1)
            .await?;
        let mut expired = BTreeMap::new();
        feed.oldest_deletion_ms = i64::MAX;
        for (key, stored) in found {
            let (number, key, deleted_at_ms) = decode_deletion(&key, &stored)?;
            if deleted_at_ms > until_ms || expired.len() == limits::FEED_EXPIRED_AT_ONCE_MAX {
                feed.oldest_deletion_ms = deleted_at_ms;
                break;
            }
            expired.insert(number, key);
        }
        Ok(expired)
    }

    /// The numbers that the keys of a commit have so far, in order of key.
    async fn numbers_before(
        &self,
        feed: &Feed,
        commit: &Commit,
    ) -> Result<Vec<Option<Numbered>>, StateError> {
        let reads = commit.changes.in_order().map(|(key, _)| async move {
            if let Some(known) = feed.known.get(&xxh3_128(&key)) {
                return Ok(Some(*known));
            }
            let found = self.read(&number_key(&key)).await?;
            found.map(|found| decode_number(&found)).transpose()
        });
        let mut reads = stream::iter(reads).buffered(limits::STATE_READS_CONCURRENT_MAX);
        let mut before = Vec::with_capacity(commit.changes.len());
        while let Some(number) = reads.next().await {
            before.push(number?);
        }
        Ok(before)
    }
}

/// Adds the entries of a change.
fn add(feed: &mut Feed, rows: &mut Vec<Row>, change: &KeyChange, terms: FeedTerms) {
    let KeyChange {
        number,
        key,
        deleted,
        ..
    } = change;
    let entry = numbered_key(CHANGE_PREFIX, *number, key);
    rows.push((entry, Some(encode_change(change))));
    let numbered = Numbered {
        number: *number,
        deleted: *deleted,
    };
    rows.push((number_key(key), Some(encode_number(numbered))));
    feed.know(key, numbered);
    if *deleted {
        let entry = numbered_key(DELETION_PREFIX, *number, key);
        rows.push((entry, Some(encode_deletion(terms.now_ms))));
        feed.oldest_deletion_ms = feed.oldest_deletion_ms.min(terms.now_ms);
    }
}

/// Keys of the entries of a kind, from a number on.
fn range(prefix: u8, from: ChangeNumber) -> (Bound<Bytes>, Bound<Bytes>) {
    (Bound::Included(from_number(prefix, from)), all_of(prefix).1)
}
