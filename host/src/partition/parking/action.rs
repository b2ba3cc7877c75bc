//! What an operator has decided about parked records, as a partition is told: to fold them again, or never.
//!
//! Invariant: an action means the same whenever it is applied, in every generation: a discard names
//! offsets, a replay takes what is parked when it comes to it.

use bytes::Bytes;

use crate::state::ActionPoint;
use crate::types::Offset;

/// A numbered decision about parked records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// Its number; later ones have higher numbers.
    pub number: u64,
    /// The key whose parked records are folded again; `None` = of every key.
    pub key: Option<Bytes>,
    /// Those of the key that are not folded, neither now nor in a later generation; what is parked behind
    /// them is folded.
    pub discarded: Option<Discarded>,
}

/// Records of one key that were parked when it was decided to do without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discarded {
    /// The first.
    pub first: Offset,
    /// The last.
    pub last: Offset,
    /// Identity of their topic, where the log can tell.
    pub topic_id: Option<[u8; 16]>,
}

impl Action {
    /// Whether the record of this key at `offset` of the topic with this identity is not folded.
    #[must_use]
    pub fn discards(&self, key: &[u8], offset: Offset, topic_id: Option<[u8; 16]>) -> bool {
        let Some(discarded) = self.discarded else {
            return false;
        };
        let is_same_topic = match (discarded.topic_id, topic_id) {
            (Some(then), Some(now)) => then == now,
            _ => true,
        };
        is_same_topic
            && (discarded.first..=discarded.last).contains(&offset)
            && self.key.as_ref().is_some_and(|of| of == key)
    }
}

/// All that was decided about a partition's parked records, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actions(Vec<Action>);

impl Actions {
    /// The first that is not done at this point.
    #[must_use]
    pub fn behind(&self, point: ActionPoint) -> Option<&Action> {
        let done = self
            .0
            .partition_point(|action| ActionPoint::done(action.number) <= point);
        self.0.get(done)
    }

    /// Whether the record of this key at `offset` is left out by an action that had come to this point, or
    /// was done before.
    #[must_use]
    pub fn discard(
        &self,
        point: ActionPoint,
        key: &[u8],
        offset: Offset,
        topic_id: Option<[u8; 16]>,
    ) -> bool {
        let applied = self.0.iter().take_while(|it| it.number <= point.number);
        let mut applied = applied.filter(|it| it.discarded.is_some());
        applied.any(|action| action.discards(key, offset, topic_id))
    }

    /// Those that are not done at one point, as far as they are begun at a later one.
    pub fn between(&self, point: ActionPoint, later: ActionPoint) -> impl Iterator<Item = &Action> {
        let left = self
            .0
            .iter()
            .skip_while(move |it| ActionPoint::done(it.number) <= point);
        left.take_while(move |it| it.number <= later.number)
    }

    /// Whether any of them leaves records out.
    #[must_use]
    pub fn has_discards(&self) -> bool {
        self.0.iter().any(|action| action.discarded.is_some())
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        let mut actions: Vec<_> = actions.into_iter().collect();
        actions.sort_by_key(|action| action.number);
        Self(actions)
    }
}
