//! Records of the journal topic: who has opened which partition. Written when a partition opens,
//! read by `cluster`.

use bytes::Bytes;
use prost::Message as _;

use super::PartitionSpec;
use crate::log::{Log, LogError, NewRecord};
use crate::types::{Epoch, GenerationId, Partition};

#[allow(
    unreachable_pub,
    clippy::doc_markdown,
    reason = "generated from proto/journal.proto"
)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/foldhost.journal.v1.rs"));
}

/// A host has opened a partition of a generation; of several of one generation, the one with the
/// highest epoch owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Which partition.
    pub partition: Partition,
    /// Generation that was opened.
    pub generation: GenerationId,
    /// Grows with each ownership of the partition in this generation.
    pub epoch: Epoch,
    /// Where it answers.
    pub url: String,
}

/// Announces that `spec`'s partition was opened under `epoch`.
///
/// # Errors
/// Any [`LogError`] of the append.
pub async fn announce(log: &dyn Log, spec: &PartitionSpec, epoch: Epoch) -> Result<(), LogError> {
    let partition = spec.store.partition;
    let owner = proto::Owner {
        partition: partition.0,
        epoch: epoch.0,
        generation: spec.store.generation.0,
        url: spec.advertised_url.clone(),
    };
    let record = proto::JournalRecord {
        record: Some(proto::journal_record::Record::Owner(owner)),
    };
    let record = NewRecord {
        key: Some(Bytes::from(format!(
            "owner/{partition}/{}",
            spec.store.generation
        ))),
        value: Some(Bytes::from(record.encode_to_vec())),
        partition: Some(partition),
        ..NewRecord::default()
    };
    log.append(&spec.journal, vec![record]).await.map(|_| ())
}

/// Reads a journal record; `None` for kinds that this version does not know.
#[must_use]
pub fn read_owner(value: &[u8]) -> Option<Owner> {
    let record = proto::JournalRecord::decode(value).ok()?;
    match record.record? {
        proto::journal_record::Record::Owner(owner) => Some(Owner {
            partition: Partition(owner.partition),
            generation: GenerationId(owner.generation),
            epoch: Epoch(owner.epoch),
            url: owner.url,
        }),
    }
}
