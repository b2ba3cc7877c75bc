//! Transactions on the embedded log: one request to the writer thread is one atomic batch, and the
//! epoch of its transactional id is checked inside. Opened by `EmbeddedLog::transactional`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Shared, prepare};
use crate::limits;
use crate::log::{
    LogError, NewRecord, NewRecords, TransactionalPublisher, TransactionalWriter, owned_header,
};
use crate::types::{Offset, Partition, TopicName};

/// A writer under a transactional id.
#[derive(Debug)]
pub(super) struct EmbeddedTransactions {
    log: Arc<Shared>,
    id: Arc<str>,
    epoch: u64,
    /// After an error it writes no more, as on Kafka.
    used_up: bool,
}

impl EmbeddedTransactions {
    /// Takes the id over; the writers before it are fenced once this returns.
    ///
    /// # Errors
    /// [`LogError::Rejected`] for an id that is empty or too long; [`LogError::Unavailable`].
    pub(super) async fn open(log: Arc<Shared>, id: &str) -> Result<Self, LogError> {
        if id.is_empty() || id.len() > limits::TRANSACTIONAL_ID_BYTES_MAX {
            return Err(LogError::Rejected(format!(
                "a transactional id has 1 to {} bytes, and this one has {}",
                limits::TRANSACTIONAL_ID_BYTES_MAX,
                id.len()
            )));
        }
        let id: Arc<str> = Arc::from(id);
        let epoch = log.open_writer(&id).await?;
        Ok(Self {
            log,
            id,
            epoch,
            used_up: false,
        })
    }

    async fn write(
        &self,
        records: Vec<(TopicName, NewRecord)>,
    ) -> Result<Vec<(Partition, Offset)>, LogError> {
        let mut resolved = Vec::with_capacity(records.len());
        for (topic, record) in records {
            resolved.push((self.log.catalog.get(&topic)?, record));
        }
        let fence = Some((Arc::clone(&self.id), self.epoch));
        let bytes = prepare::check(&resolved, self.log.settings.record_bytes_max)?;
        self.log.append(resolved, bytes, fence).await
    }
}

#[async_trait]
impl TransactionalWriter for EmbeddedTransactions {
    async fn commit(
        &mut self,
        records: Vec<(TopicName, NewRecord)>,
    ) -> Result<Vec<(Partition, Offset)>, LogError> {
        if self.used_up {
            return Err(LogError::Rejected(format!(
                "the writer '{}' has failed or was interrupted before: open another",
                self.id
            )));
        }
        // Stays so when this future is dropped half way: then the outcome is unknown.
        self.used_up = true;
        let written = self.write(records).await;
        self.used_up = written.is_err();
        written
    }
}

#[async_trait]
impl TransactionalPublisher for EmbeddedTransactions {
    async fn publish(&mut self, records: NewRecords) -> Result<NewRecords, LogError> {
        let mut owned = Vec::with_capacity(records.len());
        for to in records.destinations() {
            for index in to.records {
                let record = records.get(index);
                let record = NewRecord {
                    key: record.key.map(Bytes::copy_from_slice),
                    value: record.value.map(Bytes::copy_from_slice),
                    headers: record.headers().map(owned_header).collect(),
                    timestamp_ms: Some(record.timestamp_ms),
                    partition: to.partition,
                };
                owned.push((to.topic.clone(), record));
            }
        }
        self.commit(owned).await?;
        Ok(records)
    }
}
