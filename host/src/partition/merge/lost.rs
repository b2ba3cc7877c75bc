//! Whether the journal has lost how far inputs were merged: without that, a merge stage would copy everything
//! once more. Asked when one finds no position of its own.

use super::MergeSpec;
use super::blocked::blocked;
use crate::log::LogError;
use crate::partition::{Blocked, Ports, journal};
use crate::types::{Partition, TopicName, TopicPartition};

/// Code of a stage that does not know how far its input was copied.
pub(super) const CODE: &str = "position-lost";

/// Why the input is not copied, if copies are there, and the journal has no position of any input: every
/// merge stage writes one before its first copy.
///
/// # Errors
/// Any [`LogError`].
pub(super) async fn lost(ports: &Ports, spec: &MergeSpec) -> Result<Option<Blocked>, LogError> {
    // In this order: another stage may be beginning, and writes its position first.
    if !has_copies(ports, &spec.merge_topic).await? || has_positions(ports, spec).await? {
        return Ok(None);
    }
    let (merge, journal, plugin) = (&spec.merge_topic, &spec.journal, &spec.plugin);
    Ok(Some(blocked(
        CODE,
        format!(
            "topic '{merge}' has records, but the journal (topic '{journal}') does not say how far the inputs \
             were merged: nothing more is, since it could be merged twice. Was the journal deleted or cut? The \
             state goes on answering. To go on, delete '{plugin}' and deploy it again, which merges its inputs \
             anew"
        ),
    )))
}

async fn has_copies(ports: &Ports, merge: &TopicName) -> Result<bool, LogError> {
    for of in partitions(ports, merge).await? {
        if ports.lookups.records_end(&of).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn has_positions(ports: &Ports, spec: &MergeSpec) -> Result<bool, LogError> {
    for of in partitions(ports, &spec.journal).await? {
        let found = ports.lookups.last(&of, |record| {
            journal::read_merged(record.value?)
                .filter(|it| it.merge_topic == spec.merge_topic && !it.lost)
        });
        if found.await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn partitions(
    ports: &Ports,
    topic: &TopicName,
) -> Result<impl Iterator<Item = TopicPartition> + use<>, LogError> {
    let found = ports.log.topic(topic).await?;
    let found = found.ok_or_else(|| LogError::UnknownTopic(topic.clone()))?;
    let topic = topic.clone();
    let partitions = (0..found.partitions).map(Partition);
    Ok(partitions.map(move |partition| TopicPartition {
        topic: topic.clone(),
        partition,
    }))
}
