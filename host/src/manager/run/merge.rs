//! The merge stage of one plugin on this host: whoever owns a partition copies, for each input, the
//! partitions that fall to it by number. Part of `run`.
//!
//! Invariant: which input partition is copied where follows from who owns what, as everything else does; that
//! nobody else copies it any more is what its transactional id is for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Retry;
use crate::limits;
use crate::log::{LogError, ReaderSet};
use crate::manager::Context;
use crate::manager::deployments::{Decided, Deployment, Merge};
use crate::partition::{
    CodeInUse, Exit, MergeControl, MergeHandle, MergeProgress, MergeSpec, Merging, Ports, Skips,
    Stop, run_merge,
};
use crate::plugin::manifest::Input;
use crate::types::{Partition, PluginName, TopicName};

/// Number of a merge topic, index of an input, and one of its partitions.
type Place = (u64, u8, Partition);

/// What is copied here.
#[derive(Default)]
pub(super) struct Merges {
    slots: BTreeMap<Place, Slot>,
    workers: JoinSet<(Place, u64, Exit)>,
    /// What failed, by the owner of the place.
    retries: BTreeMap<Place, (Partition, Retry)>,
    readers: Option<Arc<dyn ReaderSet>>,
    /// How far inputs are merged, by that many partitions of the journal.
    progress: Option<(u32, MergeProgress)>,
    /// Partitions of the inputs, as last asked for.
    partitions: BTreeMap<TopicName, u32>,
    serial: u64,
}

struct Slot {
    handle: MergeHandle,
    stop: watch::Sender<Stop>,
    serial: u64,
    /// Partition of the plugin whose owner copies it.
    owner: Partition,
}

/// What is merged, for whom and with whose code.
pub(super) struct Wanted<'a> {
    pub(super) plugin: &'a PluginName,
    pub(super) merge: Merge,
    pub(super) deployment: &'a Arc<Deployment>,
    pub(super) code: &'a Arc<CodeInUse>,
    pub(super) decided: &'a Decided,
    pub(super) journal: &'a TopicName,
}

impl Wanted<'_> {
    fn control(&self, topic: &TopicName, partition: Partition) -> MergeControl {
        MergeControl {
            code: self.code.clone(),
            skips: Arc::new(skips(self.decided, topic, partition)),
        }
    }
}

impl Merges {
    /// How far inputs are merged, on whichever host.
    pub(super) fn progress(
        &mut self,
        context: &Context,
        journal: &TopicName,
        partitions: u32,
    ) -> MergeProgress {
        match &self.progress {
            Some((followed, progress)) if *followed >= partitions => progress.clone(),
            _ => {
                let progress = MergeProgress::follow(&context.log, journal, partitions);
                self.progress = Some((partitions, progress.clone()));
                progress
            }
        }
    }

    /// Waits until a copying has ended; `None` if there is none. Cancel-safe.
    pub(super) async fn ended(&mut self, context: &Context) -> Option<()> {
        let (place, serial, exit) = self.workers.join_next().await?.ok()?;
        let Some(slot) = self.slots.get(&place).filter(|slot| slot.serial == serial) else {
            return Some(());
        };
        let why = match exit {
            Exit::Stopped | Exit::Abandoned => return Some(()),
            Exit::Idle => {
                let (at, pause) = (context.clock.elapsed(), limits::RETRY_PAUSE_MIN);
                let owner = slot.owner;
                self.slots.remove(&place);
                self.retries.insert(place, (owner, Retry { at, pause }));
                return Some(());
            }
            Exit::Fenced(why) | Exit::Failed(why) => why,
        };
        let spec = slot.handle.spec();
        tracing::warn!(plugin = %spec.plugin, of = %spec.of(), "{why}; merging again");
        slot.handle.mark_failed(why);
        let owner = slot.owner;
        self.slots.remove(&place);
        let before = self.retries.get(&place).map(|(_, retry)| retry.pause);
        let pause = before.map_or(limits::RETRY_PAUSE_MIN, |before| {
            (before * 2).min(limits::RETRY_PAUSE_MAX)
        });
        let at = context.clock.elapsed() + pause;
        self.retries.insert(place, (owner, Retry { at, pause }));
        Some(())
    }

    /// When something is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.retries.values().map(|(_, retry)| retry.at).min()
    }

    /// Asks the log for the partitions of the inputs.
    pub(super) async fn look(&mut self, context: &Context, decided: &Decided) {
        for generation in decided.generations() {
            if generation.deployment.merge.is_none() {
                continue;
            }
            for input in &generation.deployment.inputs {
                if let Ok(Some(topic)) = context.log.topic(&input.topic).await {
                    self.partitions.insert(topic.name, topic.partitions);
                }
            }
        }
    }

    /// Partitions of an input, as far as is known.
    pub(super) fn knows(&self, topic: &TopicName) -> bool {
        self.partitions.contains_key(topic)
    }

    /// Whether [`align`](Self::align) would begin to copy something.
    pub(super) fn opens(&self, context: &Context, wanted: &Wanted<'_>, owned: Partition) -> bool {
        let now = context.clock.elapsed();
        let mut places = self.places(wanted, owned);
        places.any(|(place, _)| !self.slots.contains_key(&place) && self.is_due(place, now))
    }

    /// What falls to the owner of `owned`.
    fn places<'w>(
        &self,
        wanted: &'w Wanted<'_>,
        owned: Partition,
    ) -> impl Iterator<Item = (Place, &'w Input)> + use<'w> {
        let merge = wanted.merge;
        let step = usize::try_from(merge.partitions).unwrap_or(usize::MAX);
        let inputs = (0_u8..).zip(&wanted.deployment.inputs);
        let known = inputs.map(|(index, input)| {
            let partitions = self.partitions.get(&input.topic).copied();
            (index, input, partitions.unwrap_or(0))
        });
        let known: Vec<_> = known.collect();
        known
            .into_iter()
            .flat_map(move |(index, input, partitions)| {
                let parts = (owned.0..partitions).step_by(step).map(Partition);
                parts.map(move |partition| ((merge.number, index, partition), input))
            })
    }

    fn is_due(&self, place: Place, now: Duration) -> bool {
        let retry = self.retries.get(&place);
        retry.is_none_or(|(_, retry)| retry.at <= now)
    }

    /// Copies what falls to the owner of `owned`, and tells what is copied already whose code routes.
    pub(super) fn align(
        &mut self,
        context: &Context,
        wanted: &Wanted<'_>,
        owned: Partition,
        ports: impl Fn(Arc<dyn ReaderSet>) -> Ports,
    ) -> Result<(), LogError> {
        let now = context.clock.elapsed();
        let places: Vec<_> = self.places(wanted, owned).collect();
        for (place, input) in places {
            let control = wanted.control(&input.topic, place.2);
            if let Some(slot) = self.slots.get(&place) {
                slot.handle.direct(control);
            } else if self.is_due(place, now) {
                let ports = ports(self.readers(context, wanted.plugin)?);
                let spec = spec(context, wanted, place, input, owned);
                let handle = MergeHandle::new(spec, control);
                self.start(place, handle, owned, ports, &context.workers);
            }
        }
        Ok(())
    }

    fn start(
        &mut self,
        place: Place,
        handle: MergeHandle,
        owner: Partition,
        ports: Ports,
        workers: &tokio::runtime::Handle,
    ) {
        self.serial += 1;
        let serial = self.serial;
        let (stop, stopped) = watch::channel(Stop::No);
        let worker = run_merge(handle.clone(), ports, stopped);
        self.workers
            .spawn_on(async move { (place, serial, worker.await) }, workers);
        let slot = Slot {
            handle,
            stop,
            serial,
            owner,
        };
        self.slots.insert(place, slot);
    }

    fn readers(
        &mut self,
        context: &Context,
        plugin: &PluginName,
    ) -> Result<Arc<dyn ReaderSet>, LogError> {
        if let Some(readers) = &self.readers {
            return Ok(readers.clone());
        }
        let name = format!("{}.merge-in", context.cluster.group(plugin));
        let readers: Arc<dyn ReaderSet> = Arc::from(context.log.reader_set(&name)?);
        self.readers = Some(readers.clone());
        Ok(readers)
    }

    /// Ends what is not to be copied here any more. Nothing is lost by ending at any point.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(u64, Partition) -> bool) {
        self.slots.retain(|(number, _, _), slot| {
            let stays = is_wanted(*number, slot.owner);
            if !stays {
                slot.stop.send_replace(Stop::Abandon);
            }
            stays
        });
        self.retries
            .retain(|(number, _, _), (owner, _)| is_wanted(*number, *owner));
        if self.slots.is_empty() {
            self.readers = None;
        }
    }

    /// How the part of a merge is that goes with a partition of the plugin.
    pub(super) fn of(&self, number: u64, owned: Partition) -> Merging {
        let mut merging = Merging::default();
        let slots = self.slots.iter();
        for (_, slot) in slots.filter(|((of, ..), slot)| *of == number && slot.owner == owned) {
            let status = slot.handle.status();
            merging.lag_records += status.end.0.saturating_sub(status.next.0);
            let blocked = status.blocked.map(|blocked| (blocked, status.topic_id));
            merging.blocked = merging.blocked.or(blocked);
        }
        merging
    }
}

fn spec(
    context: &Context,
    wanted: &Wanted<'_>,
    (number, index, partition): Place,
    input: &Input,
    owned: Partition,
) -> MergeSpec {
    let (cluster, plugin) = (&context.cluster, wanted.plugin);
    MergeSpec {
        plugin: plugin.clone(),
        generation: wanted.deployment.generation,
        input: input.clone(),
        index,
        partition,
        merge_topic: cluster.merge_topic(plugin, number),
        journal: wanted.journal.clone(),
        journal_partition: owned,
        transactional_id: cluster.merge_id(plugin, number, &input.topic, partition),
        dead_letters: cluster.dead_letters_topic(plugin),
    }
}

/// Records of a partition that were decided to be left out.
pub(super) fn skips(decided: &Decided, topic: &TopicName, partition: Partition) -> Skips {
    let here = decided
        .skips
        .iter()
        .filter(|skip| skip.at.topic == *topic && skip.at.partition == partition);
    here.map(|skip| (skip.at.offset, skip.topic_id)).collect()
}
