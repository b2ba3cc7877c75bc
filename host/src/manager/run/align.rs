//! Makes what runs on this host what was decided: opens, directs and closes partitions, hands over
//! from one generation to the next, and tells what became ready. Part of `run`.
//!
//! Invariant: doing it again changes nothing. No step depends on which event came before.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::merge::{self, Wanted};
use super::{Place, Running, Slot, ensure_journal};
use crate::manager::deployments::{Decided, Deployment, Discard, Generation, How, Origin, Replay};
use crate::manager::outputs;
use crate::partition::{
    self, Actions, Bootstrap, CodeInUse, Control, MergedInputs, MigrateFrom, PartitionHandle,
    PartitionSpec, Publishing, Role, Skips, Stop,
};
use crate::plugin::manifest::{Input, OnError};
use crate::plugin::{Kind, PluginCode};
use crate::state::StoreId;
use crate::types::{GenerationId, Partition, TopicName};

impl Running {
    /// See the module.
    pub(super) async fn align(&mut self) {
        let decided = self.decisions.borrow_and_update().clone();
        self.close_unwanted(&decided).await;
        let may_open = self.is_member && self.grow_journal(&decided).await;
        for generation in decided.generations() {
            match self.loads.get(&generation.deployment) {
                Some(code) if may_open => self.align_generation(&decided, generation, &code).await,
                _ => {}
            }
        }
        let deployments = decided.generations().map(|it| it.deployment.id);
        self.loads.retain(&deployments.collect());
        self.settle_merges(&decided);
        self.plugin.reseat(&decided);
        self.hand_over(&decided);
        self.report(&decided);
    }

    /// Ends generations that nobody wants any more, and has their states freed.
    async fn close_unwanted(&mut self, decided: &Decided) {
        let is_wanted = |generation: GenerationId| decided.generation(generation).is_some();
        let unwanted: Vec<Place> = self
            .slots
            .keys()
            .copied()
            .filter(|(generation, _)| !is_wanted(*generation))
            .collect();
        if !unwanted.is_empty() {
            // Whoever answered from them must have been relieved before.
            self.plugin.reseat(decided);
            self.close(&unwanted, Stop::Abandon).await;
        }
        self.retries
            .retain(|(generation, _), _| is_wanted(*generation));
        let had: BTreeSet<_> = self.readers.keys().copied().collect();
        self.readers.retain(|generation, _| is_wanted(*generation));
        if self.readers.len() < had.len() {
            self.collector.collect();
        }
    }

    /// A generation on more partitions needs as many members' shares. `false` = not yet.
    async fn grow_journal(&mut self, decided: &Decided) -> bool {
        let partitions = decided.partitions_max();
        if partitions <= self.journal_partitions {
            return true;
        }
        match ensure_journal(&self.plugin, &self.context, partitions).await {
            Ok(_) => {
                self.journal_partitions = partitions;
                true
            }
            Err(error) => {
                tracing::warn!(plugin = %self.plugin.name(), "{error}; trying again");
                self.plugin.failed(error.to_string());
                false
            }
        }
    }

    async fn align_generation(
        &mut self,
        decided: &Decided,
        generation: &Generation,
        code: &Arc<dyn PluginCode>,
    ) {
        let deployment = &generation.deployment;
        let code = Arc::new(CodeInUse {
            deployment: deployment.id,
            code: code.clone(),
            renumbered: deployment.how == How::Kept,
        });
        if !self.prepare(deployment).await {
            return;
        }
        self.align_merge(decided, deployment, &code).await;
        let retiring = decided.retiring.as_ref().map(|it| it.generation.number());
        let is_retiring = retiring == Some(generation.number());
        let partitions: Vec<_> = self.assigned.iter().copied().collect();
        for partition in partitions {
            if partition.0 >= deployment.partitions {
                continue;
            }
            let place = (generation.number(), partition);
            let control = Control {
                code: code.clone(),
                paused: decided.paused.is_some(),
                frozen: is_retiring,
                skips: Arc::new(self.skips(decided, generation, partition)),
                command_skips: Arc::new(self.command_skips(decided, generation, partition)),
                actions: Arc::new(self.actions(decided, generation, partition)),
                bootstrap: bootstrap(decided, generation, partition),
            };
            match self.slots.get(&place) {
                // What it publishes, whoever took over fences.
                Some(slot) if is_retiring => direct(&slot.handle, control),
                Some(slot)
                    if slot.needs_reopening(&code)
                        || slot.handle.spec().publishing
                            != self.publishing(generation, partition) =>
                {
                    self.open(generation, place, control).await
                }
                Some(slot) => direct(&slot.handle, control),
                // Whoever comes first after the promotion opens the new generation only.
                None if is_retiring => {}
                None => self.open(generation, place, control).await,
            }
        }
    }

    /// Makes the topics that a deployment writes to. `false` = not yet.
    async fn prepare(&mut self, deployment: &Deployment) -> bool {
        if self.prepared.contains(&deployment.id) {
            return true;
        }
        let unknown =
            |input: &Input| deployment.merge.is_some() && !self.merges.knows(&input.topic);
        let is_unknown = deployment.inputs.iter().any(unknown);
        if is_unknown {
            let decided = self.plugin.decided();
            self.merges.look(&self.context, &decided).await;
        }
        match outputs::ensure_topics(&self.context, deployment).await {
            Ok(()) => {
                self.prepared.insert(deployment.id);
                true
            }
            Err(error) => {
                tracing::warn!(plugin = %self.plugin.name(), "{error}; trying again");
                self.plugin.failed(error.to_string());
                false
            }
        }
    }

    /// Copies the inputs that fall to the partitions that are ours, into the topic that a deployment folds.
    async fn align_merge(
        &mut self,
        decided: &Decided,
        deployment: &Arc<Deployment>,
        code: &Arc<CodeInUse>,
    ) {
        let Some(merge) = deployment.merge else {
            return;
        };
        // Of several generations on one merge topic, the first says whose code routes: all route alike.
        let mut generations = decided.generations();
        let first = generations.find(|it| it.deployment.merge == Some(merge));
        if first.is_none_or(|first| first.deployment.id != deployment.id) {
            return;
        }
        let journal = self.journal.clone();
        let wanted = Wanted {
            plugin: self.plugin.name(),
            merge,
            deployment,
            code,
            decided,
            journal: &journal,
        };
        let progress = self
            .merges
            .progress(&self.context, &journal, self.journal_partitions);
        self.plugin.merges(progress);
        let mut merges = std::mem::take(&mut self.merges);
        let is_ours = |partition: &&Partition| partition.0 < merge.partitions;
        for partition in self.assigned.iter().filter(is_ours).copied() {
            // As a partition is, a part of the merge stage is opened only after the group has confirmed that
            // it is ours: it fences whoever else copies.
            let opens = merges.opens(&self.context, &wanted, partition);
            if opens && self.membership.confirm().await.is_err() {
                break;
            }
            let ports = |readers| self.ports(readers);
            if let Err(error) = merges.align(&self.context, &wanted, partition, ports) {
                self.plugin.failed(error.to_string());
            }
        }
        self.merges = merges;
    }

    /// Tells partitions how their part of the merge stage is, and ends what is not copied here any more.
    fn settle_merges(&mut self, decided: &Decided) {
        let is_wanted = |number: u64| {
            let mut generations = decided.generations();
            generations.any(|it| {
                it.deployment
                    .merge
                    .is_some_and(|merge| merge.number == number)
            })
        };
        let assigned = &self.assigned;
        self.merges
            .retain(|number, owner| is_wanted(number) && assigned.contains(&owner));
        for ((generation, partition), slot) in &self.slots {
            let Some(generation) = decided.generation(*generation) else {
                continue;
            };
            if let Some(merge) = generation.deployment.merge {
                let merging = self.merges.of(merge.number, *partition);
                slot.handle.note_merging(merging);
            }
        }
    }

    /// Opens a place, after the group has confirmed that it is ours.
    async fn open(&mut self, generation: &Generation, place: Place, control: Control) {
        let now = self.context.clock.elapsed();
        if self.retries.get(&place).is_some_and(|retry| retry.at > now) {
            return;
        }
        if let Err(error) = self.membership.confirm().await {
            if error.is_transient() {
                self.plugin.failed(error.to_string());
            }
            // If it is not ours any more, the next change says whose it is.
            self.open_later(place);
            return;
        }
        let readers = match self.readers(generation.number()) {
            Ok(readers) => readers,
            Err(error) => {
                self.plugin.failed(error);
                self.open_later(place);
                return;
            }
        };
        self.abandon(place);
        self.serial += 1;
        let serial = self.serial;
        let opened_by = control.code.deployment;
        let spec = self.spec(generation, place.1);
        let handle = PartitionHandle::new(spec, control, self.context.budget.clone());
        let (stop, stopped) = watch::channel(Stop::No);
        let worker = partition::run(handle.clone(), self.ports(readers), stopped);
        self.workers.spawn_on(
            async move { (place, serial, worker.await) },
            &self.context.workers,
        );
        self.plugin.opened(place.0, place.1, handle.clone());
        let slot = Slot {
            handle,
            stop,
            serial,
            opened_by,
        };
        self.slots.insert(place, slot);
    }

    fn readers(
        &mut self,
        generation: GenerationId,
    ) -> Result<Arc<dyn crate::log::ReaderSet>, String> {
        if let Some(readers) = self.readers.get(&generation) {
            return Ok(readers.clone());
        }
        let group = self.context.cluster.group(self.plugin.name());
        let readers = self
            .context
            .log
            .reader_set(&format!("{group}.{generation}"))
            .map_err(|error| error.to_string())?;
        let readers: Arc<dyn crate::log::ReaderSet> = Arc::from(readers);
        self.readers.insert(generation, readers.clone());
        Ok(readers)
    }

    fn spec(&mut self, generation: &Generation, partition: Partition) -> PartitionSpec {
        let deployment = &generation.deployment;
        let store = |generation| StoreId {
            plugin: self.plugin.name().clone(),
            generation,
            partition,
        };
        let origin = match &generation.origin {
            Origin::Log => None,
            Origin::Migrated { from, schema } => Some(MigrateFrom {
                store: store(*from),
                folded_by: self
                    .slots
                    .get(&(*from, partition))
                    .map(|slot| slot.handle.clone()),
                schema: schema.clone(),
            }),
        };
        let commands = self.commands_topic(deployment);
        let merge = deployment.merge.filter(|_| commands.is_none());
        PartitionSpec {
            store: store(generation.number()),
            origin,
            input: deployment.folded(&self.context.cluster),
            merged: merge.map(|_| MergedInputs {
                topics: deployment
                    .inputs
                    .iter()
                    .map(|it| it.topic.clone())
                    .collect(),
                progress: self.merges.progress(
                    &self.context,
                    &self.journal,
                    self.journal_partitions,
                ),
            }),
            commands,
            journal: self.journal.clone(),
            advertised_url: self.context.advertised_url.clone(),
            publishing: self.publishing(generation, partition),
        }
    }

    /// How a partition writes to the log what it makes, by what was decided.
    fn publishing(&self, generation: &Generation, partition: Partition) -> Option<Publishing> {
        let decided = self.plugin.decided();
        let deployment = &generation.deployment;
        let output = deployment.output.as_ref();
        let letters = deployment.manifest.on_error == OnError::DeadLetter;
        let decides = deployment.kind == Kind::CommandHandler;
        if output.is_none() && !letters {
            return None;
        }
        let (cluster, name) = (&self.context.cluster, self.plugin.name());
        let is_serving = decided.serving.number() == generation.number();
        // Once another one serves, that one publishes what comes, also to this one's topic.
        let building = decided.building.as_ref();
        let is_built = building.is_some_and(|it| it.number() == generation.number());
        let role = match (is_serving, deployment.emits_from_earliest) {
            (true, _) => Role::Serving,
            (false, true) if is_built => Role::BesideFromEarliest,
            (false, _) => Role::Beside,
        };
        let id = cluster.transactional_id(name, partition);
        let transactional_id = match role {
            Role::Serving => Some(id),
            // Two generations must not fence each other.
            Role::BesideFromEarliest => Some(format!("{id}.g{}", generation.number())),
            Role::Beside => letters.then(|| format!("{id}.g{}", generation.number())),
        };
        Some(Publishing {
            plugin: self.plugin.first(),
            role,
            transactional_id,
            output: output.map(|output| output.topic.clone()),
            from_earliest: deployment.emits_from_earliest,
            dead_letters: cluster.dead_letters_topic(name),
            decides,
            folds_unstamped: decided.history.iter().any(|it| it.adopts_topic),
        })
    }

    /// The topic that a command handler's inputs are merged into, if it has some.
    fn commands_topic(&self, deployment: &Deployment) -> Option<TopicName> {
        let merge = deployment.merge.filter(|_| deployment.own().is_some())?;
        let cluster = &self.context.cluster;
        Some(cluster.merge_topic(self.plugin.name(), merge.number))
    }

    fn command_skips(
        &self,
        decided: &Decided,
        generation: &Generation,
        partition: Partition,
    ) -> Skips {
        let topic = self.commands_topic(&generation.deployment);
        topic.map_or_else(Skips::default, |topic| {
            merge::skips(decided, &topic, partition)
        })
    }

    fn skips(&self, decided: &Decided, generation: &Generation, partition: Partition) -> Skips {
        let folded = generation.deployment.folded(&self.context.cluster);
        merge::skips(decided, &folded.topic, partition)
    }

    /// What was decided about a partition's parked records.
    fn actions(&self, decided: &Decided, generation: &Generation, partition: Partition) -> Actions {
        let folded = generation.deployment.folded(&self.context.cluster);
        let replays = decided.replays.iter().map(Replay::action);
        let discards = decided.discards.iter();
        let discards = discards
            .filter(|discard| discard.topic == folded.topic && discard.partition == partition)
            .map(Discard::action);
        replays.chain(discards).collect()
    }

    /// Tells which partitions are answered from the generation that was promoted.
    fn hand_over(&mut self, decided: &Decided) {
        let Some(retiring) = &decided.retiring else {
            return;
        };
        let serving = decided.serving.number();
        for partition in retiring.answers.intersection(&self.assigned) {
            if self.plugin.is_switched(serving, *partition) {
                self.reports.switched((serving, *partition));
            }
        }
    }

    fn report(&mut self, decided: &Decided) {
        let generations = [Some(&decided.serving), decided.building.as_ref()];
        for (index, generation) in generations.into_iter().enumerate() {
            let Some(generation) = generation else {
                continue;
            };
            let of = generation.number();
            let slots = self.slots.iter().filter(|((of_slot, _), _)| *of_slot == of);
            for ((_, partition), slot) in slots {
                if self.assigned.contains(partition) {
                    let status = slot.handle.status();
                    if let Some(run) = decided.bootstrap.as_ref().filter(|_| index == 0) {
                        self.reports.bootstrapped(run, (of, *partition), &status);
                    }
                    self.reports
                        .report(generation, index == 0, *partition, status);
                }
            }
        }
    }
}

impl Slot {
    /// Whether what the code says of its input is not what the partition was opened with, and might
    /// help: it is blocked, and not by an event.
    fn needs_reopening(&self, code: &CodeInUse) -> bool {
        self.opened_by != code.deployment
            && self.handle.code().deployment == code.deployment
            && self
                .handle
                .status()
                .blocked
                .is_some_and(|blocked| !blocked.is_about_event())
    }
}

/// What of its states a partition is to tell in events: only what serves does.
fn bootstrap(
    decided: &Decided,
    generation: &Generation,
    partition: Partition,
) -> Option<Bootstrap> {
    let is_serving = decided.serving.number() == generation.number();
    let run = decided.bootstrap.as_ref().filter(|_| is_serving)?;
    run.of(partition)
}

fn direct(handle: &PartitionHandle, control: Control) {
    handle.direct(|now| {
        let is_news = now.code.deployment != control.code.deployment
            || now.paused != control.paused
            || now.frozen != control.frozen
            || now.skips != control.skips
            || now.command_skips != control.command_skips
            || now.actions != control.actions
            || now.bootstrap != control.bootstrap;
        if is_news {
            *now = control;
        }
        is_news
    });
}
