//! What was decided about telling the states of a command handler again, in events. Part of the fold.
//!
//! Invariant: of a plugin, one run at a time; it is over when the owner of each of its partitions has said so, or when
//! somebody stops it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::fold::{Asked, Deployments, kind_word};
use super::{Decided, Verdict};
use crate::error::{Code, Problem};
use crate::partition::{Bootstrap, Bootstrapped};
use crate::plugin::Kind;
use crate::types::{Partition, PluginName};

/// A request to tell the states of a command handler in events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapRequested {
    /// Which plugin.
    pub name: PluginName,
    /// Of which key, and the partition that it lies in; `None` = of every key that has a state.
    pub key: Option<(Bytes, Partition)>,
    /// How many keys of a partition in a second, at most.
    pub keys_per_second: u32,
    /// Why; may be empty.
    pub reason: String,
}

/// An owner says that the states of a partition are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapReported {
    /// Which plugin.
    pub name: PluginName,
    /// Which partition.
    pub partition: Partition,
    /// By which decision, and what came of it.
    pub told: Bootstrapped,
}

/// The states of a command handler are told in events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapRun {
    /// Offset of the request.
    pub number: u64,
    /// Of which key, and the partition that it lies in; `None` = of every key that has a state.
    pub key: Option<(Bytes, Partition)>,
    /// How many keys of a partition in a second, at most.
    pub keys_per_second: u32,
    /// Why; may be empty.
    pub reason: String,
    /// Name of the token that asked for it.
    pub principal: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What came of it in the partitions that are done.
    pub told: BTreeMap<Partition, Bootstrapped>,
    /// It was given up before it was done.
    pub stopped: bool,
}

impl BootstrapRun {
    /// Whether a partition has a part in it.
    #[must_use]
    pub fn covers(&self, partition: Partition) -> bool {
        self.key.as_ref().is_none_or(|(_, of)| *of == partition)
    }

    /// Whether something is left to be told, in any of as many partitions.
    #[must_use]
    pub fn is_running(&self, partitions: u32) -> bool {
        let mut left = (0..partitions)
            .map(Partition)
            .filter(|it| self.covers(*it) && !self.told.contains_key(it));
        !self.stopped && left.next().is_some()
    }

    /// As a partition is told; `None` = nothing is left for it.
    #[must_use]
    pub fn of(&self, partition: Partition) -> Option<Bootstrap> {
        let is_left =
            !self.stopped && self.covers(partition) && !self.told.contains_key(&partition);
        is_left.then(|| Bootstrap {
            number: self.number,
            key: self.key.as_ref().map(|(key, _)| key.clone()),
            keys_per_second: self.keys_per_second,
            at_ms: self.at_ms,
        })
    }
}

impl Deployments {
    pub(super) fn bootstrap(
        &mut self,
        asked: Asked,
        request: BootstrapRequested,
    ) -> Result<Verdict, Problem> {
        let decided = self.decided(&request.name)?;
        let serving = &decided.serving.deployment;
        if serving.kind != Kind::CommandHandler {
            return Err(Problem::new(
                Code::NotAHandler,
                format!(
                    "'{}' is a {}: only a command handler tells its states in events",
                    serving.name,
                    kind_word(serving.kind)
                ),
            ));
        }
        if let Some(run) = decided.running_bootstrap() {
            let (name, number) = (&serving.name, run.number);
            return Err(Problem::new(
                Code::BootstrapUnderWay,
                format!(
                    "'{name}' is telling its states already (decision {number}): wait until it is done, as \
                     `foldhost plugin show {name}` tells, or stop it with `foldhost plugin emit-state {name} --stop`"
                ),
            )
            .with("bootstrap", number));
        }
        let number = asked.id.0;
        decided.bootstrap = Some(BootstrapRun {
            number,
            key: request.key,
            keys_per_second: request.keys_per_second.max(1),
            reason: request.reason,
            principal: asked.principal,
            at_ms: asked.at_ms,
            told: BTreeMap::new(),
            stopped: false,
        });
        Ok(Verdict::Bootstrap(number))
    }

    pub(super) fn stop_bootstrap(&mut self, name: &PluginName) -> Result<Verdict, Problem> {
        let decided = self.decided(name)?;
        let Some(number) = decided.running_bootstrap().map(|run| run.number) else {
            return Err(Problem::new(
                Code::NoBootstrap,
                format!("'{name}' is not telling its states: there is nothing to stop"),
            ));
        };
        decided.stop_bootstrap();
        Ok(Verdict::Bootstrap(number))
    }

    /// Takes note of what an owner says.
    pub(super) fn bootstrapped(&mut self, reported: BootstrapReported) {
        let Ok(decided) = self.decided(&reported.name) else {
            return;
        };
        if let Some(run) = &mut decided.bootstrap
            && run.number == reported.told.number
            && run.covers(reported.partition)
        {
            run.told.entry(reported.partition).or_insert(reported.told);
        }
    }
}

impl Decided {
    /// The run that is under way.
    #[must_use]
    pub fn running_bootstrap(&self) -> Option<&BootstrapRun> {
        let partitions = self.serving.deployment.partitions;
        let run = self.bootstrap.as_ref();
        run.filter(|run| run.is_running(partitions))
    }

    /// Gives up the run that is under way. Also where keys have moved to other partitions: one that was not told yet
    /// may lie in a partition that is done.
    pub(super) fn stop_bootstrap(&mut self) {
        if self.running_bootstrap().is_some()
            && let Some(run) = &mut self.bootstrap
        {
            run.stopped = true;
        }
    }
}
