//! Transactions: one producer for each transactional id, used for one transaction after another.
//!
//! Invariant: after any error, and after a call that was dropped half way, the writer is used up:
//! what it may have left open is aborted by the next writer of the same id.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;

use crate::limits;
use crate::types::{Offset, Partition, TopicName};

use super::super::{LogError, NewRecord, TransactionalWriter};
use super::settings::KafkaSettings;
use super::writer::{Placing, Writer};
use super::{blocking, error};

/// How often a commit that was not answered in time is asked for again.
const COMMIT_ATTEMPTS: u32 = 3;

/// What to look at where only transactions fail.
const IF_OTHERS_ARE_ANSWERED: &str = "if the brokers answer other requests, transactions cannot work on them: set \
     transaction.state.log.replication.factor and transaction.state.log.min.isr to at most the number of \
     brokers, and see that the topic __transaction_state has its replicas";

/// Writes under one transactional id.
pub(super) struct KafkaTransactions {
    id: String,
    placing: Arc<Placing>,
    /// `None` once it is used up.
    writer: Option<Writer>,
}

impl KafkaTransactions {
    /// Makes a producer and fences every earlier one of the same id.
    pub(super) async fn open(
        settings: &KafkaSettings,
        id: &str,
        placing: Arc<Placing>,
    ) -> Result<Self, LogError> {
        let writer = Writer::new(&settings.transactional(id), id, Arc::clone(&placing))?;
        let producer = Arc::clone(writer.producer());
        let opened =
            blocking(move || Ok(producer.init_transactions(limits::KAFKA_REQUEST_MAX))).await?;
        match opened {
            Ok(()) => Ok(Self {
                id: id.to_owned(),
                placing,
                writer: Some(writer),
            }),
            Err(error) => {
                let what = format!("opening transactional id '{id}'");
                let error = writer.explain(error::asked(error::code_of(&error), &what));
                Err(match error {
                    // A broker that cannot write down transactions says nothing else, for ever.
                    LogError::Unavailable(why) => {
                        LogError::Unavailable(format!("{why}; {IF_OTHERS_ARE_ANSWERED}"))
                    }
                    error => error,
                })
            }
        }
    }
}

#[async_trait]
impl TransactionalWriter for KafkaTransactions {
    async fn commit(
        &mut self,
        records: Vec<(TopicName, NewRecord)>,
    ) -> Result<Vec<(Partition, Offset)>, LogError> {
        // Taken out until all went well: a dropped call leaves `None`.
        let writer = self.writer.take().ok_or_else(|| {
            LogError::OutcomeUnknown(format!(
                "the writer of '{}' is used up by an earlier error: open another",
                self.id
            ))
        })?;
        let placed = self.placing.place(records).await?;
        // librdkafka ends an empty transaction without asking anybody: there is nothing to do.
        if placed.is_empty() {
            self.writer = Some(writer);
            return Ok(Vec::new());
        }
        begin(&writer, &self.id)?;
        // All reports are in before the commit is asked for: librdkafka's own wait for them looks
        // every 100 ms only.
        match writer.write(&placed).await {
            Ok(places) => {
                commit(&writer, &self.id).await?;
                self.writer = Some(writer);
                Ok(places)
            }
            Err(error) => {
                abort(&writer, &self.id).await;
                // Whatever reached the log was never committed.
                Err(match error {
                    LogError::OutcomeUnknown(why) => LogError::Unavailable(why),
                    error => error,
                })
            }
        }
    }
}

impl fmt::Debug for KafkaTransactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaTransactions")
            .field("id", &self.id)
            .field("used_up", &self.writer.is_none())
            .finish_non_exhaustive()
    }
}

fn begin(writer: &Writer, id: &str) -> Result<(), LogError> {
    writer.producer().begin_transaction().map_err(|error| {
        let what = format!("beginning a transaction of '{id}'");
        match writer.fatal() {
            Some((code, why)) => error::asked(code, &format!("{what}: {why}")),
            None => error::asked(error::code_of(&error), &what),
        }
    })
}

async fn commit(writer: &Writer, id: &str) -> Result<(), LogError> {
    let what = format!("committing a transaction of '{id}'");
    for _ in 0..COMMIT_ATTEMPTS {
        let producer = Arc::clone(writer.producer());
        let committed =
            blocking(move || Ok(producer.commit_transaction(limits::KAFKA_TRANSACTION_MAX)))
                .await?;
        let Err(error) = committed else { return Ok(()) };
        if let Some((code, why)) = writer.fatal() {
            return Err(error::written(code, true, &format!("{what}: {why}")));
        }
        match error {
            // The outcome is decided: it is taken back.
            KafkaError::Transaction(error) if error.txn_requires_abort() => {
                abort(writer, id).await;
                return Err(error::written(error.code(), false, &what));
            }
            KafkaError::Transaction(error) if error.is_retriable() => {}
            error => return Err(error::written(error::code_of(&error), true, &what)),
        }
    }
    Err(writer.explain(LogError::OutcomeUnknown(format!(
        "{what}: no answer in time"
    ))))
}

/// Takes a transaction back, as far as that is possible: the next writer of the id does it too.
async fn abort(writer: &Writer, id: &str) {
    let producer = Arc::clone(writer.producer());
    let aborted = blocking(move || Ok(producer.abort_transaction(limits::KAFKA_REQUEST_MAX))).await;
    if let Ok(Err(error)) = aborted {
        tracing::debug!(
            transactional_id = id,
            "a transaction could not be aborted: {error}"
        );
    }
}
