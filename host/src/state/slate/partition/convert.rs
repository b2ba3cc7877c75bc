//! Makes pages of states that were entries of their own, as versions before pages wrote them. Part of
//! `slate::partition`.
//!
//! Invariant: at any moment each state is either in a page or an entry of its own, so that whoever opens the database
//! after this one goes on where it was cut off.

use std::ops::Bound;

use bytes::{BufMut as _, Bytes, BytesMut};
use slatedb::WriteBatch;

use super::layout::{Layout, PageRows};
use super::{CHECKPOINT_KEY, Open, scan_options};
use crate::limits;
use crate::state::checkpoint::{STATE_PREFIX_V1, decode_checkpoint, encode_checkpoint};
use crate::state::{StateError, all_of};

impl Open {
    /// Makes pages of all states that are in none; the layout that comes of it.
    pub(super) async fn convert(&self, mut layout: Layout) -> Result<Layout, StateError> {
        let mut writing = self.writing.lock().await;
        loop {
            let states = self.next_of_version_1().await?;
            let Some((first, _)) = states.first() else {
                break;
            };
            let mut pages = PageRows::new(&layout);
            let entries = states.iter().map(|(key, it)| (&key[1..], Some(&it[..])));
            pages.write_anew(Bytes::copy_from_slice(&first[1..]), None, entries);
            let mut batch = self.checkpoint_as_now().await?;
            for (key, _) in &states {
                batch.delete(key);
            }
            let changed = pages.changed_layout(&layout);
            self.write(&mut writing, &layout, pages, batch).await?;
            layout = changed.unwrap_or(layout);
            writing.changed = true;
        }
        if layout.len() > 0 && !layout.has_begun() {
            let mut pages = PageRows::new(&layout);
            pages.write_anew(Bytes::new(), None, []);
            let changed = pages.changed_layout(&layout);
            let batch = self.checkpoint_as_now().await?;
            self.write(&mut writing, &layout, pages, batch).await?;
            layout = changed.unwrap_or(layout);
        }
        Ok(layout)
    }

    /// The next states that are in no page, as many as are read at once.
    async fn next_of_version_1(&self) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        self.answered(async {
            let range = states_v1(None);
            let mut entries = self.db.scan_with_options(range, &scan_options()).await?;
            let mut found = Vec::new();
            let mut bytes = 0;
            while bytes < limits::BATCH_STATE_BYTES_MAX
                && let Some(entry) = entries.next().await?
            {
                bytes += entry.key.len() + entry.value.len();
                found.push((entry.key, entry.value));
            }
            Ok::<_, slatedb::Error>(found)
        })
        .await
    }

    /// The checkpoint, written as now: who looks at the newest file must see that a version before this one cannot
    /// read what is around it.
    async fn checkpoint_as_now(&self) -> Result<WriteBatch, StateError> {
        let mut batch = WriteBatch::new();
        if let Some(checkpoint) = self.read(CHECKPOINT_KEY).await? {
            let checkpoint = encode_checkpoint(&decode_checkpoint(&checkpoint)?);
            batch.put_bytes(Bytes::from_static(CHECKPOINT_KEY), checkpoint);
        }
        Ok(batch)
    }
}

/// Stored keys of states that are entries of their own, behind a key.
pub(in super::super) fn states_v1(after: Option<&[u8]>) -> (Bound<Bytes>, Bound<Bytes>) {
    let (first, end) = all_of(STATE_PREFIX_V1);
    let behind = after.map(|after| {
        let mut key = BytesMut::from(&[STATE_PREFIX_V1][..]);
        key.put_slice(after);
        Bound::Excluded(key.freeze())
    });
    (behind.unwrap_or(first), end)
}
