//! Transactions: one producer for each transactional id, used for one transaction after another.
//!
//! Invariant: after any error, and after a call that was dropped half way, the writer is used up:
//! what it may have left open is aborted by the next writer of the same id.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

use crate::limits;
use crate::types::{Offset, Partition, TopicName};

use super::super::{LogError, NewRecord, TransactionalWriter};
use super::client::{Client, connect};
use super::context::Context;
use super::placing::Placing;
use super::settings::KafkaSettings;
use super::writer::Writer;
use super::{blocking, error};

/// How often a commit that was not answered in time is asked for again.
const COMMIT_ATTEMPTS: u32 = 3;

/// Where brokers write transactions down.
const TRANSACTIONS_TOPIC: &str = "__transaction_state";

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
        writer.transactions(id).open().await?;
        Ok(Self {
            id: id.to_owned(),
            placing,
            writer: Some(writer),
        })
    }
}

#[async_trait]
impl TransactionalWriter for KafkaTransactions {
    async fn commit(
        &mut self,
        records: Vec<(TopicName, NewRecord)>,
    ) -> Result<Vec<(Partition, Offset)>, LogError> {
        // Taken out until all went well: a dropped call leaves `None`.
        let writer = self.writer.take().ok_or_else(|| used_up(&self.id))?;
        let placed = self.placing.place(records).await?;
        // librdkafka ends an empty transaction without asking anybody: there is nothing to do.
        if placed.is_empty() {
            self.writer = Some(writer);
            return Ok(Vec::new());
        }
        let transaction = writer.transactions(&self.id);
        transaction.begin()?;
        // All reports are in before the commit is asked for: librdkafka's own wait for them looks
        // every 100 ms only.
        match writer.write(&placed, true).await {
            Ok(places) => {
                transaction.commit().await?;
                self.writer = Some(writer);
                Ok(places)
            }
            Err(error) => Err(transaction.fail(error).await),
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

/// The error of a writer that had one before.
pub(super) fn used_up(id: &str) -> LogError {
    LogError::OutcomeUnknown(format!(
        "the writer of '{id}' is used up by an earlier error: open another"
    ))
}

/// The transactions of a producer.
pub(super) struct Transactions<'a, C: ProducerContext + 'static> {
    pub(super) id: &'a str,
    pub(super) producer: &'a Arc<Client<BaseProducer<C>>>,
    pub(super) context: &'a Context,
}

impl<C: ProducerContext + 'static> Transactions<'_, C> {
    /// Fences every earlier producer of the same id.
    pub(super) async fn open(&self) -> Result<(), LogError> {
        let opened = self.ask(|producer| {
            connect(producer, TRANSACTIONS_TOPIC);
            producer.init_transactions(limits::KAFKA_REQUEST_MAX)
        });
        let Err(error) = opened.await? else {
            return Ok(());
        };
        let what = format!("opening transactional id '{}'", self.id);
        let error = self.explain(error::asked(error::code_of(&error), &what));
        Err(match error {
            // A broker that cannot write down transactions says nothing else, for ever.
            LogError::Unavailable(why) => {
                LogError::Unavailable(format!("{why}; {IF_OTHERS_ARE_ANSWERED}"))
            }
            error => error,
        })
    }

    pub(super) fn begin(&self) -> Result<(), LogError> {
        self.producer.begin_transaction().map_err(|error| {
            let what = format!("beginning a transaction of '{}'", self.id);
            match self.fatal() {
                Some((code, why)) => error::asked(code, &format!("{what}: {why}")),
                None => error::asked(error::code_of(&error), &what),
            }
        })
    }

    pub(super) async fn commit(&self) -> Result<(), LogError> {
        let what = format!("committing a transaction of '{}'", self.id);
        for _ in 0..COMMIT_ATTEMPTS {
            let committed =
                self.ask(|producer| producer.commit_transaction(limits::KAFKA_TRANSACTION_MAX));
            let Err(error) = committed.await? else {
                return Ok(());
            };
            if let Some((code, why)) = self.fatal() {
                return Err(error::written(code, true, &format!("{what}: {why}")));
            }
            match error {
                // The outcome is decided: it is taken back.
                KafkaError::Transaction(error) if error.txn_requires_abort() => {
                    self.abort().await;
                    return Err(error::written(error.code(), false, &what));
                }
                KafkaError::Transaction(error) if error.is_retriable() => {}
                error => return Err(error::written(error::code_of(&error), true, &what)),
            }
        }
        Err(self.explain(LogError::OutcomeUnknown(format!(
            "{what}: no answer in time"
        ))))
    }

    /// Takes a transaction back whose records were not all written, and gives the error of that.
    pub(super) async fn fail(&self, error: LogError) -> LogError {
        self.abort().await;
        // Whatever reached the log was never committed.
        match error {
            LogError::OutcomeUnknown(why) => LogError::Unavailable(why),
            error => error,
        }
    }

    /// Takes a transaction back, as far as that is possible: the next writer of the id does it too.
    async fn abort(&self) {
        let aborted = self.ask(|producer| producer.abort_transaction(limits::KAFKA_REQUEST_MAX));
        if let Ok(Err(error)) = aborted.await {
            tracing::debug!(
                transactional_id = self.id,
                "a transaction could not be aborted: {error}"
            );
        }
    }

    async fn ask(
        &self,
        what: impl FnOnce(&BaseProducer<C>) -> KafkaResult<()> + Send + 'static,
    ) -> Result<KafkaResult<()>, LogError> {
        let producer = Arc::clone(self.producer);
        blocking(move || Ok(what(&producer))).await
    }

    /// Why this producer can never write again, if so.
    pub(super) fn fatal(&self) -> Option<(Code, String)> {
        self.producer.client().fatal_error()
    }

    /// Adds the last reason to an error that only says that no answer came.
    pub(super) fn explain(&self, error: LogError) -> LogError {
        self.context.health().explain(error)
    }
}
