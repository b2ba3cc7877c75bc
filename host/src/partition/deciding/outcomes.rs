//! The outcomes of a partition's commands, by their ids, for as long as a repeat may come.
//!
//! Invariants: what is here is in the journal; none is forgotten before its time; the memory that they take is
//! bounded, and full means that no new command is taken.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, Settled};
use crate::limits;

/// What an outcome takes in memory besides its bytes.
const OVERHEAD_BYTES: usize = 256;

/// See the module.
#[derive(Debug)]
pub(in crate::partition) struct Outcomes {
    by_id: HashMap<Arc<str>, Outcome>,
    /// Ids, the oldest first.
    order: VecDeque<(i64, Arc<str>)>,
    bytes: usize,
    bytes_max: usize,
    keep_ms: i64,
}

impl Outcomes {
    /// None yet; each is kept for so long.
    pub(in crate::partition) fn new(keep: Duration) -> Self {
        Self::with_room(limits::OUTCOMES_BYTES_MAX, millis(keep))
    }

    fn with_room(bytes_max: usize, keep_ms: i64) -> Self {
        Self {
            by_id: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            bytes_max,
            keep_ms,
        }
    }

    /// Keeps those that are here, and what comes, for so long from when they were decided.
    pub(in crate::partition) fn set_keep(&mut self, keep: Duration) {
        self.keep_ms = millis(keep);
    }

    /// From when on outcomes are kept, if it is `now_ms`.
    pub(in crate::partition) fn kept_since(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.keep_ms)
    }

    /// The outcome of a command, if it was decided before.
    pub(in crate::partition) fn find(&self, id: &str) -> Option<&Outcome> {
        self.by_id.get(id)
    }

    /// Whether there is room for as many bytes of outcomes more.
    pub(in crate::partition) fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= self.bytes_max
    }

    /// Keeps an outcome; the first of an id stays.
    pub(in crate::partition) fn keep(&mut self, id: &str, outcome: Outcome) {
        if self.by_id.contains_key(id) {
            return;
        }
        let id: Arc<str> = Arc::from(id);
        self.bytes += bytes_of(&id, &outcome);
        self.order.push_back((outcome.at_ms, Arc::clone(&id)));
        self.by_id.insert(id, outcome);
    }

    /// Forgets those whose time is over, at most `limit`, and gives their ids.
    pub(in crate::partition) fn expire(&mut self, now_ms: i64, limit: usize) -> Vec<Arc<str>> {
        let since = self.kept_since(now_ms);
        let mut gone = Vec::new();
        while gone.len() < limit && self.order.front().is_some_and(|(at_ms, _)| *at_ms < since) {
            let (_, id) = self.order.pop_front().expect("it was just seen");
            if let Some(outcome) = self.by_id.remove(&id) {
                self.bytes -= bytes_of(&id, &outcome);
            }
            gone.push(id);
        }
        gone
    }
}

fn millis(keep: Duration) -> i64 {
    i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)
}

/// What an outcome takes.
pub(in crate::partition) fn bytes_of(id: &str, outcome: &Outcome) -> usize {
    let own = match &outcome.what {
        Settled::Accepted { reply, .. } => reply
            .as_ref()
            .map_or(0, |reply| reply.content_type.len() + reply.body.len()),
        Settled::Refused {
            code,
            reason,
            details,
        } => code.len() + reason.len() + details.len(),
        Settled::Stale => 0,
    };
    OVERHEAD_BYTES + 2 * id.len() + own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(at_ms: i64) -> Outcome {
        Outcome {
            what: Settled::Stale,
            version: Some(3),
            at_ms,
            request: [7; 32],
        }
    }

    #[test]
    fn an_outcome_is_kept_until_its_time_is_over_and_no_longer() {
        let mut outcomes = Outcomes::with_room(usize::MAX, 100);
        for (id, at_ms) in [("a", 10), ("b", 20), ("c", 30)] {
            outcomes.keep(id, outcome(at_ms));
        }
        assert_eq!(outcomes.expire(110, 10), Vec::<Arc<str>>::new());
        assert_eq!(outcomes.expire(125, 1), [Arc::from("a")]);
        assert_eq!(outcomes.expire(125, 10), [Arc::from("b")]);
        assert!(outcomes.find("b").is_none() && outcomes.find("c").is_some());
    }

    #[test]
    fn the_first_outcome_of_an_id_stays() {
        let mut outcomes = Outcomes::with_room(usize::MAX, 100);
        outcomes.keep("a", outcome(1));
        outcomes.keep("a", outcome(2));
        assert_eq!(outcomes.find("a").unwrap().at_ms, 1);
        assert_eq!(outcomes.expire(1_000, 10).len(), 1);
        assert_eq!(outcomes.bytes, 0);
    }

    #[test]
    fn full_is_told_before_it_is_too_much() {
        let mut outcomes = Outcomes::with_room(2 * bytes_of("a", &outcome(1)), 100);
        let more = bytes_of("a", &outcome(1));
        assert!(outcomes.has_room(more));
        outcomes.keep("a", outcome(1));
        outcomes.keep("b", outcome(1));
        assert!(!outcomes.has_room(more));
        outcomes.expire(1_000, 1);
        assert!(outcomes.has_room(more));
    }

    #[test]
    fn a_shorter_time_counts_for_those_that_are_there_too() {
        let mut outcomes = Outcomes::new(Duration::from_secs(100));
        outcomes.keep("a", outcome(10_000));
        assert_eq!(outcomes.expire(100_000, 10).len(), 0);
        outcomes.set_keep(Duration::from_secs(60));
        assert_eq!(outcomes.expire(70_000, 10).len(), 0);
        assert_eq!(outcomes.expire(70_001, 10), [Arc::from("a")]);
    }
}
