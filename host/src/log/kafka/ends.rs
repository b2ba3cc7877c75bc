//! Where topics end, for those who only watch. Each partition that is behind or stands still looks once a second,
//! and of one topic many may: the brokers are asked once for all of them.
//!
//! Invariant: one question about a topic is under way at a time, and none follows on another within
//! [`limits::KAFKA_ENDS_AGE_MAX`], whether it was answered or not.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::limits;
use crate::types::{Offset, TopicName, TopicPartition};

use super::super::LogError;
use super::topics::{Known, Topics};

/// The ends of a topic's partitions, in their order, `None` where a broker did not tell; or why nobody did.
type Told = Result<Vec<Option<Offset>>, String>;
/// Held while the brokers are asked, so that whoever comes meanwhile waits for that answer.
type Slot = Arc<tokio::sync::Mutex<Option<Known<Told>>>>;

/// Remembers where topics end.
#[derive(Debug)]
pub(super) struct Ends {
    topics: Arc<Topics>,
    clock: Clock,
    known: Mutex<HashMap<TopicName, Slot>>,
}

impl Ends {
    /// Asks through `topics`.
    pub(super) fn new(topics: Arc<Topics>, clock: Clock) -> Self {
        Self {
            topics,
            clock,
            known: Mutex::default(),
        }
    }

    /// See [`Log::recent_end`](super::super::Log::recent_end).
    pub(super) async fn of(&self, of: &TopicPartition) -> Result<Offset, LogError> {
        let slot = self.slot(&of.topic);
        let mut known = slot.lock().await;
        let now = self.clock.elapsed();
        let told = match &*known {
            Some(known) if known.age(now) < limits::KAFKA_ENDS_AGE_MAX => &known.value,
            _ => {
                let (told, failed) = match self.topics.ends(&of.topic).await {
                    Ok(ends) => (Ok(ends), None),
                    Err(error) => (Err(error.to_string()), Some(error)),
                };
                // A broker that is away is no reason for each partition to wait until it has not answered.
                let known = known.insert(Known::new(told, self.clock.elapsed()));
                failed.map_or(Ok(()), Err)?;
                &known.value
            }
        };
        let ends = told
            .as_ref()
            .map_err(|why| LogError::Unavailable(why.clone()))?;
        let place = usize::try_from(of.partition.0).unwrap_or(usize::MAX);
        match ends.get(place) {
            Some(Some(end)) => Ok(*end),
            Some(None) => Err(LogError::Unavailable(format!(
                "the brokers do not tell the end of {of}"
            ))),
            None => Err(LogError::UnknownPartition(of.clone())),
        }
    }

    fn slot(&self, topic: &TopicName) -> Slot {
        let mut known = self.known.lock();
        if let Some(slot) = known.get(topic) {
            return Arc::clone(slot);
        }
        if known.len() >= limits::KAFKA_TOPICS_CACHED_MAX {
            known.clear();
        }
        Arc::clone(known.entry(topic.clone()).or_default())
    }
}
