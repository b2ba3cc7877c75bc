//! What was decided about parked records: to fold them again, or to do without them. Part of the fold.
//!
//! Invariant: a discard means the same in every generation, since it names records; a replay is about what
//! is parked when an owner comes to it, which only owners know.

use bytes::Bytes;

use super::fold::{Asked, Deployments, under_way};
use super::{Decided, Verdict};
use crate::error::{Code, Problem};
use crate::limits;
use crate::partition::{Action, Discarded};
use crate::plugin::manifest::OnError;
use crate::types::{GenerationId, Offset, Partition, PluginName, RecordPosition, TopicName};

/// A request to fold parked records again, with the code that runs then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRequested {
    /// Which plugin.
    pub name: PluginName,
    /// Of which key; `None` = of all.
    pub key: Option<Bytes>,
    /// Why.
    pub reason: String,
}

/// A request to do without records of a key that are parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscardRequested {
    /// Which plugin.
    pub name: PluginName,
    /// Of which key.
    pub key: Bytes,
    /// The first of them, in the topic that the plugin folds.
    pub first: RecordPosition,
    /// The last.
    pub last: Offset,
    /// Identity of the topic, where the log can tell.
    pub topic_id: Option<[u8; 16]>,
    /// Why.
    pub reason: String,
}

/// Parked records are folded again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Offset of the request.
    pub number: u64,
    /// Of which key; `None` = of all.
    pub key: Option<Bytes>,
    /// Why.
    pub reason: String,
    /// Name of the token that asked for it.
    pub principal: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// Records of a key are not folded, neither now nor by a later generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discard {
    /// Offset of the request.
    pub number: u64,
    /// Of which key.
    pub key: Bytes,
    /// The topic that they lie in.
    pub topic: TopicName,
    /// Its partition.
    pub partition: Partition,
    /// The first of them.
    pub first: Offset,
    /// The last.
    pub last: Offset,
    /// Identity of the topic, where the log can tell.
    pub topic_id: Option<[u8; 16]>,
    /// Why.
    pub reason: String,
    /// Name of the token that asked for it.
    pub principal: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

impl Replay {
    /// As partitions are told.
    #[must_use]
    pub fn action(&self) -> Action {
        Action {
            number: self.number,
            key: self.key.clone(),
            discarded: None,
        }
    }
}

impl Discard {
    /// As partitions are told.
    #[must_use]
    pub fn action(&self) -> Action {
        Action {
            number: self.number,
            key: Some(self.key.clone()),
            discarded: Some(Discarded {
                first: self.first,
                last: self.last,
                topic_id: self.topic_id,
            }),
        }
    }
}

impl Deployments {
    pub(super) fn replay(
        &mut self,
        asked: Asked,
        request: ReplayRequested,
    ) -> Result<Verdict, Problem> {
        let decided = self.decided(&request.name)?;
        if !decided.may_have_parked() {
            return Err(not_parked(decided));
        }
        let number = asked.id.0;
        decided.replay(asked, request.key, request.reason);
        Ok(Verdict::Parked(number))
    }

    pub(super) fn discard(
        &mut self,
        asked: Asked,
        request: DiscardRequested,
    ) -> Result<Verdict, Problem> {
        let name = request.name.clone();
        let decided = self.decided(&name)?;
        if !decided.may_have_parked() {
            return Err(not_parked(decided));
        }
        let RecordPosition {
            topic,
            partition,
            offset: first,
        } = request.first;
        let is_same = |known: &&Discard| {
            known.key == request.key
                && (&known.topic, known.partition) == (&topic, partition)
                && (known.first, known.last) == (first, request.last)
                && known.topic_id == request.topic_id
        };
        if let Some(known) = decided.discards.iter().find(is_same) {
            return Ok(Verdict::Parked(known.number));
        }
        if decided.building.is_some() {
            // It may have folded some of the records already.
            return Err(under_way(decided));
        }
        if first > request.last {
            return Err(Problem::new(
                Code::BadRequest,
                format!("there is no record from {first} to {}", request.last),
            ));
        }
        if decided.discards.len() >= limits::DISCARDS_MAX {
            return Err(Problem::new(
                Code::TooLarge,
                format!(
                    "'{name}' has discarded parked records {} times already: what cannot fold this many \
                     needs other code (`foldhost plugin deploy FILE --state keep`, then `foldhost plugin \
                     parked replay {name}`)",
                    limits::DISCARDS_MAX
                ),
            ));
        }
        let number = asked.id.0;
        decided.discards.push(Discard {
            number,
            key: request.key,
            topic,
            partition,
            first,
            last: request.last,
            topic_id: request.topic_id,
            reason: request.reason,
            principal: asked.principal,
            at_ms: asked.at_ms,
        });
        Ok(Verdict::Parked(number))
    }
}

impl Decided {
    /// Whether anything may be parked: its code does so now, or did.
    fn may_have_parked(&self) -> bool {
        let serving = &self.serving.deployment;
        let mut deployments = self.history.iter().chain([serving]);
        deployments.any(|it| it.manifest.on_error == OnError::ParkKey)
    }

    fn replay(&mut self, asked: Asked, key: Option<Bytes>, reason: String) {
        self.replays.push(Replay {
            number: asked.id.0,
            key,
            reason,
            principal: asked.principal,
            at_ms: asked.at_ms,
        });
        if self.replays.len() > limits::REPLAYS_REMEMBERED_MAX {
            // Whoever has not come to it keeps the records parked, and says so.
            self.replays.remove(0);
        }
    }

    /// The generation that was promoted publishes what the one before it had set aside, as far as its code
    /// can fold it.
    pub(super) fn publish_what_was_parked(&mut self, asked: Asked, before: GenerationId) {
        let promoted = &self.serving.deployment;
        let goes_on = promoted.output.is_some() && !promoted.emits_from_earliest;
        if goes_on && self.may_have_parked() {
            let reason = format!(
                "promotion: what generation {before} had parked is folded by generation {}",
                promoted.generation
            );
            self.replay(asked, None, reason);
        }
    }
}

fn not_parked(decided: &Decided) -> Problem {
    Problem::new(
        Code::NotParked,
        format!(
            "'{}' parks nothing: its manifest does not say `on-error = \"park-key\"`",
            decided.serving.deployment.name
        ),
    )
}
