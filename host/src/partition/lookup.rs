//! Looks for the last record of its kind in a partition: positions in the journal, ends of inputs. Shared by
//! all partitions of a plugin on this host, whose own readers go on beside it.
//!
//! Invariant: a partition is looked into by one at a time, since a set has one reader for each.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};

use crate::limits;
use crate::log::{Log, LogError, OffsetRange, Read, ReadLimits, ReaderSet, RecordBatch, RecordRef};
use crate::types::{Offset, TopicPartition};

/// Looks into partitions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lookups(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Arc<dyn Log>,
    /// In the log's own client id.
    name: String,
    readers: OnceCell<Box<dyn ReaderSet>>,
    busy: Mutex<HashSet<TopicPartition>>,
    freed: Notify,
}

impl Lookups {
    /// Looks into a log, as `name`.
    #[must_use]
    pub fn new(log: &Arc<dyn Log>, name: &str) -> Self {
        Self(Arc::new(Inner {
            log: log.clone(),
            name: name.to_owned(),
            readers: OnceCell::new(),
            busy: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// The last record of a partition of which `read` makes something, if there is any: looked for from the end
    /// backwards, in windows that grow, since what is looked for is mostly new.
    ///
    /// What was written to the partition before the call is seen: an open transaction of somebody else, behind
    /// which committed records are hidden, is waited for.
    ///
    /// # Errors
    /// Any [`LogError`] of the reader.
    pub async fn last<T>(
        &self,
        of: &TopicPartition,
        read: impl FnMut(&RecordRef<'_>) -> Option<T>,
    ) -> Result<Option<T>, LogError> {
        let range = self.settled_range(of).await?;
        self.last_in(of, range, read).await
    }

    /// One past the last record that is visible now; markers of transactions may lie behind it.
    ///
    /// # Errors
    /// As [`last`](Self::last).
    pub async fn records_end(&self, of: &TopicPartition) -> Result<Option<Offset>, LogError> {
        let range = self.0.log.range(of).await?;
        let last = self.last_in(of, range, |record| Some(record.offset));
        Ok(last.await?.map(Offset::next))
    }

    /// Shows every record of a range that is visible.
    ///
    /// # Errors
    /// As [`last`](Self::last).
    pub async fn each(
        &self,
        of: &TopicPartition,
        range: OffsetRange,
        mut show: impl FnMut(&RecordRef<'_>),
    ) -> Result<(), LogError> {
        let _turn = self.turn(of).await;
        let mut read = |record: &RecordRef<'_>| {
            show(record);
            None::<()>
        };
        self.last_between(of, range.start, range.end, &mut read)
            .await
            .map(drop)
    }

    /// Shows the records at these offsets, given in order, as far as the log still has them. Waits until the last of
    /// them is visible: whoever asks knows that it was committed.
    ///
    /// # Errors
    /// As [`last`](Self::last).
    pub async fn pick(
        &self,
        of: &TopicPartition,
        offsets: &[Offset],
        mut show: impl FnMut(&RecordRef<'_>),
    ) -> Result<(), LogError> {
        let Some(last) = offsets.last() else {
            return Ok(());
        };
        let _turn = self.turn(of).await;
        let mut left = offsets;
        let mut start = loop {
            let range = self.0.log.range(of).await?;
            if range.end > *last {
                break range.start;
            }
            tokio::time::sleep(limits::LOOKUP_PAUSE).await;
        };
        loop {
            let gone = left.iter().take_while(|offset| **offset < start).count();
            left = &left[gone..];
            // Those that lie close together are read in one go.
            let near = left
                .windows(2)
                .take_while(|pair| pair[1].0 - pair[0].0 <= limits::LOOKUP_RECORDS_MIN);
            let (now, later) = left.split_at((near.count() + 1).min(left.len()));
            let (Some(from), Some(until)) = (now.first(), now.last()) else {
                return Ok(());
            };
            let mut read = |record: &RecordRef<'_>| {
                if now.binary_search(&record.offset).is_ok() {
                    show(record);
                }
                None::<()>
            };
            match self.last_between(of, *from, until.next(), &mut read).await {
                Ok(_) => left = later,
                // They were removed meanwhile.
                Err(LogError::OffsetOutOfRange { range, .. }) if range.start > *from => {
                    start = range.start;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn last_in<T>(
        &self,
        of: &TopicPartition,
        range: OffsetRange,
        mut read: impl FnMut(&RecordRef<'_>) -> Option<T>,
    ) -> Result<Option<T>, LogError> {
        let _turn = self.turn(of).await;
        let mut until = range.end;
        let mut window = limits::LOOKUP_RECORDS_MIN;
        while until > range.start {
            let from = Offset(until.0.saturating_sub(window)).max(range.start);
            if let Some(found) = self.last_between(of, from, until, &mut read).await? {
                return Ok(Some(found));
            }
            until = from;
            window *= 8;
        }
        Ok(None)
    }

    async fn turn(&self, of: &TopicPartition) -> Turn<'_> {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.0.busy.lock().insert(of.clone()) {
                return Turn {
                    lookups: &self.0,
                    of: of.clone(),
                };
            }
            freed.await;
        }
    }

    /// The range of a partition, once everything that was written to it before is decided.
    async fn settled_range(&self, of: &TopicPartition) -> Result<OffsetRange, LogError> {
        let written = self.0.log.written_end(of).await?;
        loop {
            let range = self.0.log.range(of).await?;
            if range.end >= written {
                return Ok(range);
            }
            tracing::debug!(%of, "waiting for an open transaction to end");
            tokio::time::sleep(limits::RETRY_PAUSE_MIN).await;
        }
    }

    async fn last_between<T>(
        &self,
        of: &TopicPartition,
        from: Offset,
        until: Offset,
        read: &mut impl FnMut(&RecordRef<'_>) -> Option<T>,
    ) -> Result<Option<T>, LogError> {
        let wanted = usize::try_from(until.0.saturating_sub(from.0)).unwrap_or(usize::MAX);
        let limits = ReadLimits {
            records_max: wanted.clamp(1, limits::BATCH_EVENTS_MAX),
            bytes_max: limits::BATCH_BYTES_MAX,
        };
        let set = self
            .0
            .readers
            .get_or_try_init(async || self.0.log.reader_set(&self.0.name));
        let mut reader = set.await?.open(of, from).await?;
        let mut batch = RecordBatch::new();
        let mut found = None;
        loop {
            batch.clear();
            if reader.read(&mut batch, limits).await? == Read::EndOfPartition {
                return Ok(found);
            }
            for record in batch.iter() {
                if record.offset >= until {
                    return Ok(found);
                }
                found = read(&record).or(found);
            }
            // Behind the last record only markers of transactions may be left.
            if batch.get(batch.len() - 1).offset.next() >= until {
                return Ok(found);
            }
        }
    }
}

/// The right to look into a partition.
struct Turn<'a> {
    lookups: &'a Inner,
    of: TopicPartition,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.lookups.busy.lock().remove(&self.of);
        self.lookups.freed.notify_waiters();
    }
}
