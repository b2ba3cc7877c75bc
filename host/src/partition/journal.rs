//! Records of the journal topic: who has opened which partition, and how far what a partition made is
//! published. Written when a partition opens and with every transaction; read by `cluster` and `open`.
//!
//! Invariant: a position record and the records that it covers are one transaction.

use bytes::Bytes;
use prost::Message as _;

use super::PartitionSpec;
use super::deciding::{Bootstrapped, Outcome, Settled};
use super::parking::{Action, Discarded};
use crate::log::{Log, LogError, NewRecord};
use crate::plugin::Payload;
use crate::state::ActionPoint;
use crate::types::{
    DeploymentId, Digest, Epoch, GenerationId, Offset, Partition, TopicName, TopicPartition,
};

#[allow(
    unreachable_pub,
    clippy::doc_markdown,
    reason = "generated from proto/journal.proto"
)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/foldhost.journal.v1.rs"));
}

use proto::journal_record::Record as Wire;

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

/// How far a partition of a generation was folded when what it had made was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Which partition.
    pub partition: Partition,
    /// Which generation.
    pub generation: GenerationId,
    /// Deployment that brought the plugin's name.
    pub plugin: DeploymentId,
    /// Deployment whose code folded up to here.
    pub deployment: DeploymentId,
    /// That code.
    pub digest: Digest,
    /// Topic that is folded.
    pub topic: TopicName,
    /// Its identity, where the log can tell.
    pub topic_id: Option<[u8; 16]>,
    /// First offset that was not folded.
    pub next: Offset,
    /// The owned topic to which records were published; `None` where they were withheld.
    pub output: Option<TopicName>,
    /// How far the operator's actions on parked records were applied.
    pub action: ActionPoint,
    /// The last of them, if its outcome is what was published.
    pub applied: Option<Action>,
    /// For each parked key, the first record whose outputs are not published though it lies before `next`;
    /// in order.
    pub held: Vec<Offset>,
}

/// How far a partition of an input was copied into a merge topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The merge topic.
    pub merge_topic: TopicName,
    /// The partition that is copied.
    pub of: TopicPartition,
    /// Its topic's identity, where the log can tell.
    pub topic_id: Option<[u8; 16]>,
    /// First offset that was not copied.
    pub next: Offset,
    /// The record there cannot be copied, and nobody has decided yet what becomes of it.
    pub stopped: bool,
    /// The merge topic's identity, where the log can tell.
    pub merge_topic_id: Option<[u8; 16]>,
    /// How far it was copied is unknown: this is no position, and only says that it stands still.
    pub lost: bool,
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
    let key = format!("owner/{partition}/{}", spec.store.generation);
    let record = record(partition, key, Wire::Owner(owner));
    log.append(&spec.journal, vec![record]).await.map(|_| ())
}

/// The journal's record of a position.
#[must_use]
pub fn position_record(position: &Position) -> NewRecord {
    let Position {
        partition,
        generation,
        ..
    } = *position;
    let wire = proto::Position {
        partition: partition.0,
        generation: generation.0,
        plugin: position.plugin.0,
        deployment: position.deployment.0,
        digest: Bytes::copy_from_slice(position.digest.as_bytes()),
        host_version: env!("CARGO_PKG_VERSION").to_owned(),
        topic: position.topic.to_string(),
        topic_id: wire_id(position.topic_id),
        next: position.next.0,
        output: position
            .output
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        action: position.action.number,
        action_until: (!position.action.is_done()).then_some(position.action.until.0),
        applied: position.applied.as_ref().map(wire_action),
        held: differences(&position.held),
    };
    let key = format!("position/{partition}/{generation}");
    record(partition, key, Wire::Position(wire))
}

/// The record, for partition `partition` of the journal, of how far an input was copied.
#[must_use]
pub fn merged_record(partition: Partition, merged: &Merged) -> NewRecord {
    let of = &merged.of;
    let wire = proto::Merged {
        merge_topic: merged.merge_topic.to_string(),
        topic: of.topic.to_string(),
        topic_id: wire_id(merged.topic_id),
        partition: of.partition.0,
        next: merged.next.0,
        stopped: merged.stopped,
        merge_topic_id: wire_id(merged.merge_topic_id),
        lost: merged.lost,
    };
    let key = format!(
        "merged/{}/{}/{}",
        merged.merge_topic, of.topic, of.partition
    );
    record(partition, key, Wire::Merged(wire))
}

/// Reads a journal record; `None` for other kinds, and for what no version of this host wrote.
#[must_use]
pub fn read_merged(value: &[u8]) -> Option<Merged> {
    let Wire::Merged(merged) = read(value)? else {
        return None;
    };
    Some(Merged {
        merge_topic: TopicName::new(&merged.merge_topic).ok()?,
        of: TopicPartition {
            topic: TopicName::new(&merged.topic).ok()?,
            partition: Partition(merged.partition),
        },
        topic_id: read_id(&merged.topic_id)?,
        next: Offset(merged.next),
        stopped: merged.stopped,
        merge_topic_id: read_id(&merged.merge_topic_id)?,
        lost: merged.lost,
    })
}

/// The journal's record of what came of a command.
#[must_use]
pub fn outcome_record(partition: Partition, id: &str, outcome: &Outcome) -> NewRecord {
    use proto::outcome::What;
    let what = match &outcome.what {
        Settled::Accepted { events, reply } => What::Accepted(proto::Accepted {
            events: *events,
            content_type: reply.as_ref().map(|reply| reply.content_type.clone()),
            body: reply
                .as_ref()
                .map(|reply| Bytes::from(reply.body.clone()))
                .unwrap_or_default(),
        }),
        Settled::Refused {
            code,
            reason,
            details,
        } => What::Refused(proto::Refused {
            code: code.clone(),
            reason: reason.clone(),
            details: details.clone(),
        }),
        Settled::Stale => What::Stale(proto::Stale {}),
    };
    let wire = proto::Outcome {
        partition: partition.0,
        id: id.to_owned(),
        request: Bytes::copy_from_slice(&outcome.request),
        at_ms: outcome.at_ms,
        version: outcome.version,
        what: Some(what),
    };
    record(partition, outcome_key(partition, id), Wire::Outcome(wire))
}

/// How far the commands of a topic's partition are decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The partition.
    pub of: TopicPartition,
    /// Its topic's identity, where the log can tell.
    pub topic_id: Option<[u8; 16]>,
    /// First offset that is not decided.
    pub next: Offset,
}

/// The journal's record of how far commands are decided.
#[must_use]
pub fn taken_record(taken: &Taken) -> NewRecord {
    let partition = taken.of.partition;
    let wire = proto::Taken {
        partition: partition.0,
        topic: taken.of.topic.to_string(),
        topic_id: wire_id(taken.topic_id),
        next: taken.next.0,
    };
    let key = format!("taken/{partition}/{}", taken.of.topic);
    record(partition, key, Wire::Taken(wire))
}

/// Reads a journal record; `None` for other kinds, and for what no version of this host wrote.
#[must_use]
pub fn read_taken(value: &[u8]) -> Option<Taken> {
    let Wire::Taken(taken) = read(value)? else {
        return None;
    };
    Some(Taken {
        of: TopicPartition {
            topic: TopicName::new(&taken.topic).ok()?,
            partition: Partition(taken.partition),
        },
        topic_id: read_id(&taken.topic_id)?,
        next: Offset(taken.next),
    })
}

/// The journal's record of how far the states of a partition are told in events.
#[must_use]
pub fn bootstrapped_record(partition: Partition, told: &Bootstrapped) -> NewRecord {
    let wire = proto::Bootstrapped {
        partition: partition.0,
        number: told.number,
        from: told.from.0,
        after: told.after.clone(),
        keys: told.keys,
        events: told.events,
        untold: told.untold,
        problem: told.problem.clone(),
        done: told.done,
    };
    let key = format!("bootstrapped/{partition}");
    record(partition, key, Wire::Bootstrapped(wire))
}

/// Reads a journal record; `None` for other kinds.
#[must_use]
pub fn read_bootstrapped(value: &[u8]) -> Option<Bootstrapped> {
    let Wire::Bootstrapped(told) = read(value)? else {
        return None;
    };
    Some(Bootstrapped {
        number: told.number,
        from: Offset(told.from),
        after: told.after,
        keys: told.keys,
        events: told.events,
        untold: told.untold,
        problem: told.problem,
        done: told.done,
    })
}

/// What ends the time of an outcome.
#[must_use]
pub fn outcome_tombstone(partition: Partition, id: &str) -> NewRecord {
    NewRecord {
        key: Some(Bytes::from(outcome_key(partition, id))),
        partition: Some(partition),
        ..NewRecord::default()
    }
}

fn outcome_key(partition: Partition, id: &str) -> String {
    format!("outcome/{partition}/{id}")
}

/// Reads a journal record, with the command's id; `None` for other kinds, and for what no version of this host
/// wrote.
#[must_use]
pub fn read_outcome(value: &[u8]) -> Option<(String, Outcome)> {
    use proto::outcome::What;
    let Wire::Outcome(wire) = read(value)? else {
        return None;
    };
    let what = match wire.what? {
        What::Accepted(accepted) => Settled::Accepted {
            events: accepted.events,
            reply: accepted.content_type.map(|content_type| Payload {
                content_type,
                body: accepted.body.to_vec(),
            }),
        },
        What::Refused(refused) => Settled::Refused {
            code: refused.code,
            reason: refused.reason,
            details: refused.details,
        },
        What::Stale(_) => Settled::Stale,
    };
    let outcome = Outcome {
        what,
        version: wire.version,
        at_ms: wire.at_ms,
        request: wire.request.as_ref().try_into().ok()?,
    };
    Some((wire.id, outcome))
}

fn wire_action(action: &Action) -> proto::ParkedAction {
    let discarded = action.discarded;
    proto::ParkedAction {
        key: action.key.clone(),
        first: discarded.map(|it| it.first.0),
        last: discarded.map_or(0, |it| it.last.0),
        topic_id: wire_id(discarded.and_then(|it| it.topic_id)),
    }
}

/// `None` for what no version of this host wrote.
fn read_action(number: u64, wire: proto::ParkedAction) -> Option<Action> {
    let topic_id = read_id(&wire.topic_id)?;
    Some(Action {
        number,
        key: wire.key,
        discarded: wire.first.map(|first| Discarded {
            first: Offset(first),
            last: Offset(wire.last),
            topic_id,
        }),
    })
}

fn wire_id(id: Option<[u8; 16]>) -> Bytes {
    id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id))
}

/// `None` for what is no id.
fn read_id(wire: &[u8]) -> Option<Option<[u8; 16]>> {
    match wire {
        [] => Some(None),
        id => id.try_into().ok().map(Some),
    }
}

fn record(partition: Partition, key: String, record: Wire) -> NewRecord {
    let record = proto::JournalRecord {
        record: Some(record),
    };
    NewRecord {
        key: Some(Bytes::from(key)),
        value: Some(Bytes::from(record.encode_to_vec())),
        partition: Some(partition),
        ..NewRecord::default()
    }
}

/// Reads a journal record; `None` for other kinds.
#[must_use]
pub fn read_owner(value: &[u8]) -> Option<Owner> {
    let Wire::Owner(owner) = read(value)? else {
        return None;
    };
    Some(Owner {
        partition: Partition(owner.partition),
        generation: GenerationId(owner.generation),
        epoch: Epoch(owner.epoch),
        url: owner.url,
    })
}

/// Reads a journal record; `None` for other kinds, and for what no version of this host wrote.
#[must_use]
pub fn read_position(value: &[u8]) -> Option<Position> {
    let Wire::Position(position) = read(value)? else {
        return None;
    };
    Some(Position {
        partition: Partition(position.partition),
        generation: GenerationId(position.generation),
        plugin: DeploymentId(position.plugin),
        deployment: DeploymentId(position.deployment),
        digest: Digest::from_bytes(position.digest.as_ref().try_into().ok()?),
        topic: TopicName::new(&position.topic).ok()?,
        topic_id: read_id(&position.topic_id)?,
        next: Offset(position.next),
        output: match position.output.as_str() {
            "" => None,
            output => Some(TopicName::new(output).ok()?),
        },
        action: ActionPoint {
            number: position.action,
            until: Offset(position.action_until.unwrap_or(u64::MAX)),
        },
        applied: match position.applied {
            Some(applied) => Some(read_action(position.action, applied)?),
            None => None,
        },
        held: sums(&position.held)?,
    })
}

/// Offsets in order, each as the difference to the one before: most take a byte or two.
fn differences(offsets: &[Offset]) -> Vec<u64> {
    let before = std::iter::once(&Offset(0)).chain(offsets);
    offsets
        .iter()
        .zip(before)
        .map(|(it, before)| it.0 - before.0)
        .collect()
}

/// What [`differences`] were made of; `None` for what no version of this host wrote.
fn sums(differences: &[u64]) -> Option<Vec<Offset>> {
    let sum = |last: &mut u64, difference: &u64| {
        *last = last.checked_add(*difference)?;
        Some(Offset(*last))
    };
    let offsets: Vec<_> = differences.iter().scan(0, sum).collect();
    (offsets.len() == differences.len()).then_some(offsets)
}

fn read(value: &[u8]) -> Option<Wire> {
    proto::JournalRecord::decode(value).ok()?.record
}
