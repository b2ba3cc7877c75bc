//! Makes what runs on this host what was decided: opens, directs and closes partitions, hands over
//! from one generation to the next, and tells what became ready. Part of `run`.
//!
//! Invariant: doing it again changes nothing. No step depends on which event came before.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Place, Running, Slot, ensure_journal};
use crate::manager::deployments::{Decided, Generation, How, Origin};
use crate::partition::{
    self, CodeInUse, Control, MigrateFrom, PartitionHandle, PartitionSpec, Publishing, Role, Skips,
    Stop,
};
use crate::plugin::PluginCode;
use crate::plugin::manifest::OnError;
use crate::state::StoreId;
use crate::types::{GenerationId, Partition};

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
                skips: Arc::new(skips(decided, generation, partition)),
            };
            match self.slots.get(&place) {
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

    fn spec(&self, generation: &Generation, partition: Partition) -> PartitionSpec {
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
        PartitionSpec {
            store: store(generation.number()),
            origin,
            input: generation.deployment.inputs[0].clone(),
            merged: None,
            journal: self.journal.clone(),
            advertised_url: self.context.advertised_url.clone(),
            publishing: self.publishing(generation, partition),
        }
    }

    /// How a partition writes to the log what it makes, by what was decided.
    fn publishing(&self, generation: &Generation, partition: Partition) -> Option<Publishing> {
        let decided = self.plugin.decided();
        let deployment = &generation.deployment;
        let output = deployment.manifest.output.as_ref();
        let letters = deployment.manifest.on_error == OnError::DeadLetter;
        if output.is_none() && !letters {
            return None;
        }
        let (cluster, name) = (&self.context.cluster, self.plugin.name());
        let role = match decided.serving.number() == generation.number() {
            true => Role::Serving,
            false => Role::Beside,
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
            dead_letters: cluster.dead_letters_topic(name),
        })
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

fn direct(handle: &PartitionHandle, control: Control) {
    handle.direct(|now| {
        let is_news = now.code.deployment != control.code.deployment
            || now.paused != control.paused
            || now.frozen != control.frozen
            || now.skips != control.skips;
        if is_news {
            *now = control;
        }
        is_news
    });
}

fn skips(decided: &Decided, generation: &Generation, partition: Partition) -> Skips {
    let topic = &generation.deployment.inputs[0].topic;
    let here = decided
        .skips
        .iter()
        .filter(|skip| skip.at.topic == *topic && skip.at.partition == partition);
    here.map(|skip| (skip.at.offset, skip.topic_id)).collect()
}
