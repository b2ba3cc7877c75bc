//! Tells the cluster, through the deployments topic, what became of this host's partitions. Part of
//! `run`.
//!
//! Invariant: what is told is what the fold does not know yet; it is told again until the fold knows.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Place;
use crate::limits;
use crate::log::NewRecord;
use crate::manager::Context;
use crate::manager::deployments::{
    BlockedReport, BootstrapReported, BootstrapRun, Generation, Report, Reported,
};
use crate::manager::record::{self, Request};
use crate::partition::{PartitionStatus, Phase};
use crate::types::{Partition, PluginName};

/// What is on its way into the log.
pub(super) struct Reports {
    plugin: PluginName,
    context: Context,
    /// What was told last of each place, and when it is told again.
    told: BTreeMap<(Place, About), (Told, Duration)>,
    tasks: JoinSet<()>,
}

/// What a word about a place is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Place,
    Bootstrap,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Report(Reported),
    Switched,
    Bootstrapped(BootstrapReported),
}

impl Reports {
    pub(super) fn new(plugin: PluginName, context: Context) -> Self {
        Self {
            plugin,
            context,
            told: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Says how a partition is, if the fold does not know.
    pub(super) fn report(
        &mut self,
        generation: &Generation,
        is_serving: bool,
        partition: Partition,
        status: PartitionStatus,
    ) {
        if status.deployment != Some(generation.deployment.id) {
            return;
        }
        let known = generation.reports.get(&partition);
        let report = match (status.phase, status.blocked) {
            (Phase::Blocked, Some(blocked)) => Report::Blocked(BlockedReport {
                code: blocked.code,
                detail: blocked.detail,
                at: blocked.at.map(|at| (at, status.topic_id)),
            }),
            (Phase::Live, _) => Report::Ready,
            _ => return,
        };
        // That what serves works is not worth a word, unless it had been said that it does not.
        let is_expected = is_serving && report == Report::Ready && known.is_none();
        if is_expected || known == Some(&report) {
            return;
        }
        let reported = Reported {
            name: self.plugin.clone(),
            generation: generation.number(),
            deployment: generation.deployment.id,
            partition,
            report,
        };
        let request = Request::Report(reported.clone());
        let place = (generation.number(), partition);
        self.tell((place, About::Place), Told::Report(reported), request);
    }

    /// Says that the states of a partition are told, if the fold does not know.
    pub(super) fn bootstrapped(
        &mut self,
        run: &BootstrapRun,
        place: Place,
        status: &PartitionStatus,
    ) {
        let told = status.bootstrap.as_ref();
        let told = told.filter(|told| told.done && told.number == run.number);
        let Some(told) = told.filter(|_| !run.told.contains_key(&place.1)) else {
            return;
        };
        let reported = BootstrapReported {
            name: self.plugin.clone(),
            partition: place.1,
            told: (**told).clone(),
        };
        let request = Request::Bootstrapped(reported.clone());
        let about = (place, About::Bootstrap);
        self.tell(about, Told::Bootstrapped(reported), request);
    }

    /// Says that a partition is answered from `place`.
    pub(super) fn switched(&mut self, place: Place) {
        let request = Request::Switched(self.plugin.clone(), place.0, place.1);
        self.tell((place, About::Place), Told::Switched, request);
    }

    fn tell(&mut self, place: (Place, About), told: Told, request: Request) {
        let now = self.context.clock.elapsed();
        let is_told = self
            .told
            .get(&place)
            .is_some_and(|(before, until)| *before == told && now < *until);
        while self.tasks.try_join_next().is_some() {}
        if is_told || self.tasks.len() >= limits::REPORTS_CONCURRENT_MAX {
            return;
        }
        self.told
            .insert(place, (told, now + limits::REPORT_REPEAT_INTERVAL));
        let context = self.context.clone();
        self.tasks.spawn(async move {
            let value = record::encode(
                &context.clock.unique_id(),
                context.clock.now_ms(),
                "",
                &context.advertised_url,
                request,
            );
            let record = NewRecord {
                value: Some(value),
                partition: Some(Partition(0)),
                ..NewRecord::default()
            };
            let topic = context.cluster.deployments_topic();
            if let Err(error) = context.log.append(&topic, vec![record]).await {
                tracing::debug!("a report is not in the log: {error}; it is told again");
            }
        });
    }
}
