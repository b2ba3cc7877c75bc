//! Publishing: the records of a transaction go from their columns to librdkafka on one thread, in one go, and only
//! failures are reported. That a transaction was committed says that all of it was delivered.
//!
//! Invariant: as of `transaction`, a publisher is used up after any error, and after a call that was dropped half
//! way. Such a call may still hand records over, but commits none.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, ProducerContext};

use crate::limits;
use crate::types::{Partition, TopicName};

use super::super::{LogError, NewRecords, TransactionalPublisher};
use super::client::Client;
use super::context::{Context, Extended};
use super::native::ProducerTopic;
use super::placing::{Failed, Placing};
use super::settings::KafkaSettings;
use super::transaction::{Transactions, used_up};
use super::{blocking, error, native};

/// Publishes under one transactional id.
pub(super) struct KafkaPublisher {
    id: String,
    placing: Arc<Placing>,
    /// `None` once it is used up.
    bulk: Option<Bulk>,
}

impl KafkaPublisher {
    /// Makes a producer and fences every earlier one of the same id.
    pub(super) async fn open(
        settings: &KafkaSettings,
        id: &str,
        placing: Arc<Placing>,
    ) -> Result<Self, LogError> {
        let bulk = Bulk::new(&settings.publisher(id), id)?;
        bulk.transactions(id).open().await?;
        Ok(Self {
            id: id.to_owned(),
            placing,
            bulk: Some(bulk),
        })
    }
}

#[async_trait]
impl TransactionalPublisher for KafkaPublisher {
    async fn publish(&mut self, records: NewRecords) -> Result<NewRecords, LogError> {
        // Taken out until all went well: a dropped call leaves `None`.
        let mut bulk = self.bulk.take().ok_or_else(|| used_up(&self.id))?;
        let places = self.placing.places(&records).await?;
        // librdkafka ends an empty transaction without asking anybody: there is nothing to do.
        if records.is_empty() {
            self.bulk = Some(bulk);
            return Ok(records);
        }
        bulk.transactions(&self.id).begin()?;
        let (bulk, records, failed) = blocking(move || {
            let failed = bulk.send(&records, &places);
            Ok((bulk, records, failed))
        })
        .await?;
        let transaction = bulk.transactions(&self.id);
        if let Some((index, code)) = failed {
            let failed = Failed {
                topic: records.topic_of(index),
                index,
                bytes: records.get(index).bytes(),
                code,
                // It is taken back.
                unwritten: true,
            };
            let error = self.placing.failure(failed, transaction.fatal()).await;
            return Err(transaction.fail(transaction.explain(error)).await);
        }
        transaction.commit().await?;
        bulk.context.health().answered();
        self.bulk = Some(bulk);
        Ok(records)
    }
}

impl fmt::Debug for KafkaPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaPublisher")
            .field("id", &self.id)
            .field("used_up", &self.bulk.is_none())
            .finish_non_exhaustive()
    }
}

type Producer = Client<BaseProducer<BulkContext>>;

/// A producer that reports failures only.
pub(super) struct Bulk {
    // Before the producer, to which they belong.
    topics: Vec<(TopicName, ProducerTopic<Producer>)>,
    producer: Arc<Producer>,
    context: Context,
    failure: Arc<FirstFailure>,
}

impl Bulk {
    /// Makes a producer; it connects when the first transaction is opened.
    pub(super) fn new(config: &ClientConfig, name: &str) -> Result<Self, LogError> {
        let (context, failure) = (Context::new(name), Arc::new(FirstFailure::default()));
        let producer: BaseProducer<BulkContext> = config
            .create_with_context(BulkContext {
                common: context.clone(),
                own: Arc::clone(&failure),
            })
            .map_err(|error| error::made(&error))?;
        Ok(Self {
            topics: Vec::new(),
            producer: Client::serve(producer),
            context,
            failure,
        })
    }

    fn transactions<'a>(&'a self, id: &'a str) -> Transactions<'a, BulkContext> {
        Transactions {
            id,
            producer: &self.producer,
            context: &self.context,
        }
    }

    /// Hands all records over and waits until none is under way; blocks. The first that failed, and why.
    fn send(&mut self, records: &NewRecords, places: &[Partition]) -> Option<(usize, Code)> {
        let refused = self.hand_over(records, places).err();
        native::flush(&*self.producer, limits::KAFKA_TRANSACTION_MAX);
        // What is still under way then, the commit waits for, or takes back. A record that failed may be why
        // later ones were refused.
        self.failure.0.lock().take().or(refused)
    }

    fn hand_over(
        &mut self,
        records: &NewRecords,
        places: &[Partition],
    ) -> Result<(), (usize, Code)> {
        for to in records.destinations() {
            let first = to.records.start;
            let topic = self.topic(to.topic).map_err(|code| (first, code))?;
            let topic = &self.topics[topic].1;
            for index in to.records {
                let handed = topic.produce(places[index], &records.get(index), index);
                handed.map_err(|code| (index, code))?;
            }
        }
        Ok(())
    }

    /// Where the handle of a topic is.
    fn topic(&mut self, name: &TopicName) -> Result<usize, Code> {
        if let Some(known) = self.topics.iter().position(|(known, _)| known == name) {
            return Ok(known);
        }
        let topic = ProducerTopic::new(Arc::clone(&self.producer), name.as_str())?;
        self.topics.push((name.clone(), topic));
        Ok(self.topics.len() - 1)
    }
}

/// Which record of the transaction under way failed first, and why.
#[derive(Debug, Default)]
pub(super) struct FirstFailure(Mutex<Option<(usize, Code)>>);

/// The context of a producer that reports failures.
pub(super) type BulkContext = Extended<Arc<FirstFailure>>;

impl ProducerContext for BulkContext {
    /// Index of the record in its transaction.
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, index: usize) {
        if let Err((error, _)) = report {
            let mut first = self.own.0.lock();
            first.get_or_insert((index, error::code_of(error)));
        }
    }
}
