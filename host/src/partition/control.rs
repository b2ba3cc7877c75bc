//! What a worker is told while it works: with whose code to fold, whether to fold at all, and which
//! records not to. Written by `manager`, read by the worker between two batches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::deciding::Bootstrap;
use super::parking::Actions;
use crate::clock::Clock;
use crate::limits;
use crate::plugin::PluginCode;
use crate::plugin::manifest::Manifest;
use crate::state::FeedTerms;
use crate::types::{DeploymentId, Offset};

/// The code of a deployment.
#[derive(Debug, Clone)]
pub struct CodeInUse {
    /// Which deployment.
    pub deployment: DeploymentId,
    /// Its code.
    pub code: Arc<dyn PluginCode>,
    /// It is the code that folded so far, under another number.
    pub renumbered: bool,
}

impl CodeInUse {
    /// The manifest of the code.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.code.inspection().manifest
    }

    /// How a commit made now remembers its changes, where the plugin has a feed of them.
    pub(super) fn feed_terms(&self, clock: &Clock) -> Option<FeedTerms> {
        let feed = self.manifest().changes?;
        Some(FeedTerms {
            now_ms: clock.now_ms(),
            keep_deletions: feed.keep_deletions,
        })
    }

    /// How often states are committed once it is live. What publishes has an interval of its own for that,
    /// and a commit of states costs more than the replay that it saves; but whoever follows its changes is told
    /// what is committed.
    #[must_use]
    pub fn state_interval(&self) -> Duration {
        let manifest = self.manifest();
        if manifest.writes_to_log() && manifest.changes.is_none() {
            manifest
                .commit_interval
                .max(limits::PUBLISHER_STATE_INTERVAL)
        } else {
            manifest.commit_interval
        }
    }
}

/// Where the code of a deployment comes from.
#[async_trait]
pub trait Codes: Send + Sync + fmt::Debug {
    /// The code of a deployment of the plugin, also of one that does not run any more.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    async fn code(&self, deployment: DeploymentId) -> Result<Arc<CodeInUse>, String>;
}

/// What a worker is to do from the next batch on.
#[derive(Debug, Clone)]
pub struct Control {
    /// Whose code folds and answers. Another one takes over between two batches, with a commit that
    /// says so.
    pub code: Arc<CodeInUse>,
    /// Folding stands still, because somebody asked for it.
    pub paused: bool,
    /// Folding stands still, because another generation is about to answer.
    pub frozen: bool,
    /// Records that are not folded.
    pub skips: Arc<Skips>,
    /// Commands from topics that are not decided, by where they are merged.
    pub command_skips: Arc<Skips>,
    /// What was decided about parked records.
    pub actions: Arc<Actions>,
    /// Its states are to be told in events, as far as they are not.
    pub bootstrap: Option<Bootstrap>,
}

impl Control {
    /// Folds everything with `code`.
    #[must_use]
    pub fn new(code: Arc<CodeInUse>) -> Self {
        Self {
            code,
            paused: false,
            frozen: false,
            skips: Arc::default(),
            command_skips: Arc::default(),
            actions: Arc::default(),
            bootstrap: None,
        }
    }
}

/// Offsets of one partition that are not folded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skips(BTreeMap<Offset, Option<[u8; 16]>>);

impl Skips {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the record at `offset` of the topic with this identity is skipped. A topic that was
    /// deleted and created again has other records at the same offsets.
    #[must_use]
    pub fn covers(&self, offset: Offset, topic_id: Option<[u8; 16]>) -> bool {
        match (self.0.get(&offset), topic_id) {
            (Some(Some(decided)), Some(now)) => *decided == now,
            (decided, _) => decided.is_some(),
        }
    }
}

impl FromIterator<(Offset, Option<[u8; 16]>)> for Skips {
    fn from_iter<I: IntoIterator<Item = (Offset, Option<[u8; 16]>)>>(skips: I) -> Self {
        Self(skips.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_of_one_topic_and_not_of_the_next_of_its_name() {
        let skips: Skips = [(Offset(3), Some([1; 16])), (Offset(4), None)]
            .into_iter()
            .collect();
        assert!(skips.covers(Offset(3), Some([1; 16])));
        assert!(!skips.covers(Offset(3), Some([2; 16])));
        assert!(skips.covers(Offset(3), None), "the log cannot tell");
        assert!(skips.covers(Offset(4), Some([2; 16])));
        assert!(!skips.covers(Offset(5), None));
    }
}
