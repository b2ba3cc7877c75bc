//! How the worker of a command handler's partition decides commands. Part of `worker`.
//!
//! Invariants: no command is decided before the partition has folded all that was ever written to the owned topic,
//! and none beside a transaction that is under way; states are changed once their events are durable, so that
//! queries see nothing that may still fail; after any error of a transaction the partition is opened again, and
//! whoever waits is told that nobody knows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::changes::Changes;
use super::super::deciding::{
    Asked, Bootstrap, Bootstrapped, CommandFault, Outcomes, Queued, RecordPolicy, Round, Settled,
    Speculation,
};
use super::super::publish::{Stamp, version_of_new};
use super::super::step::Poison;
use super::super::{Blocked, PartitionSpec, Ports, Skips, journal, merged, open};
use super::bootstrapping::Bootstrapping;
use super::folding::load_states;
use super::{Phase, Worker};
use crate::limits;
use crate::log::{
    LogError, NewRecord, PartitionReader, Read, ReadLimits, RecordBatch, RecordRef,
    TransactionalWriter,
};
use crate::plugin::manifest::Manifest;
use crate::types::{Offset, Partition, PluginName, RecordPosition, TopicName, TopicPartition};

/// Decides the commands of a partition.
#[derive(Debug)]
pub(in crate::partition) struct Decider {
    /// `None` while a transaction has it.
    writer: Option<Box<dyn TransactionalWriter>>,
    commands: mpsc::Receiver<Queued>,
    /// Taken from the queue, and not decided with those before them: their states did not fit into one call.
    left: VecDeque<Queued>,
    /// Commands that come from a topic.
    records: Option<Records>,
    outcomes: Outcomes,
    pub(super) stamp: Stamp,
    /// How far states are told in events, as the journal says.
    pub(super) bootstrapped: Option<Arc<Bootstrapped>>,
    /// The decision by which they are told now.
    pub(super) bootstrapping: Option<Bootstrapping>,
    in_flight: Option<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    task: JoinHandle<Result<Written, LogError>>,
    round: Round,
}

/// What a decider has waited for.
#[derive(Debug)]
pub(super) enum Decided {
    /// A command came.
    Command(Queued),
    /// Commands from a topic wait.
    Records(Result<(), LogError>),
    /// A transaction has ended.
    Written(Result<(Vec<(Partition, Offset)>, Round), LogError>),
}

type Written = (Box<dyn TransactionalWriter>, Vec<(Partition, Offset)>);

impl Decider {
    /// Reads the outcomes that are still kept, each for so long. Whoever could write others is fenced.
    pub(in crate::partition) async fn open(
        ports: &Ports,
        spec: &PartitionSpec,
        writer: Box<dyn TransactionalWriter>,
        commands: mpsc::Receiver<Queued>,
        keep: Duration,
        bootstrap: Option<&Bootstrap>,
    ) -> Result<Self, LogError> {
        const LIMITS: ReadLimits = ReadLimits {
            records_max: limits::BATCH_EVENTS_MAX,
            bytes_max: limits::BATCH_BYTES_MAX,
        };
        let journal = TopicPartition {
            topic: spec.journal.clone(),
            partition: spec.store.partition,
        };
        let mut outcomes = Outcomes::new(keep);
        let since = outcomes.kept_since(ports.clock.now_ms());
        let from = ports.log.offset_at(&journal, since).await?;
        let mut reader = ports.readers.open(&journal, from).await?;
        let mut batch = RecordBatch::new();
        let mut bootstrapped = None;
        loop {
            batch.clear();
            if reader.read(&mut batch, LIMITS).await? == Read::EndOfPartition {
                break;
            }
            for record in batch.iter() {
                let outcome = record.value.and_then(journal::read_outcome);
                if let Some((id, outcome)) = outcome.filter(|(_, it)| it.at_ms >= since) {
                    outcomes.keep(&id, outcome);
                }
                let told = record.value.and_then(journal::read_bootstrapped);
                bootstrapped = told.or(bootstrapped);
            }
        }
        // A decision that has been waiting for so long may have been begun before.
        if bootstrapped.is_none() && bootstrap.is_some_and(|it| it.at_ms < since) {
            let told = |record: &RecordRef<'_>| record.value.and_then(journal::read_bootstrapped);
            bootstrapped = ports.lookups.last(&journal, told).await?;
        }
        let records = match &spec.commands {
            Some(topic) => Some(Records::open(ports, spec, &journal, topic).await?),
            None => None,
        };
        Ok(Self {
            writer: Some(writer),
            commands,
            left: VecDeque::new(),
            records,
            outcomes,
            stamp: Stamp::new(spec),
            bootstrapped: bootstrapped.map(Arc::new),
            bootstrapping: None,
            in_flight: None,
        })
    }

    /// Other code decides from here on: what could not be decided may be now. Says whether there was anything.
    pub(super) fn code_changed(&mut self, manifest: &Manifest) -> bool {
        self.outcomes.set_keep(manifest.keep_outcomes);
        let records = self.records.as_mut();
        records.is_some_and(|it| it.blocked.take().is_some())
    }

    /// Leaves these commands of the topic out from here on. Says whether it had stopped before one of them.
    pub(super) fn skip(&mut self, skips: Arc<Skips>) -> bool {
        let Some(records) = &mut self.records else {
            return false;
        };
        records.skips = skips;
        let Records {
            blocked,
            skips,
            topic_id,
            ..
        } = records;
        blocked.take_if(|at| skips.covers(*at, *topic_id)).is_some()
    }

    /// Whether a transaction is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Waits for the end of the transaction under way or, if there is none, for the next command. Cancel-safe.
    pub(super) async fn event(&mut self) -> Decided {
        if self.is_busy() {
            return Decided::Written(self.ended().await);
        }
        if let Some(first) = self.left.pop_front() {
            return Decided::Command(first);
        }
        let Self {
            commands, records, ..
        } = self;
        let has_records = records.as_ref().is_some_and(|it| it.blocked.is_none());
        // Whoever could command holds the handle, as the worker itself does: the queue never ends.
        tokio::select! {
            Some(first) = commands.recv() => Decided::Command(first),
            read = async { records.as_mut().expect("guarded").wait().await }, if has_records => {
                Decided::Records(read)
            }
        }
    }

    /// A command that waits, if there is one.
    fn next(&mut self) -> Option<Queued> {
        self.left
            .pop_front()
            .or_else(|| self.commands.try_recv().ok())
    }

    /// Refuses all that wait.
    fn refuse_all(&mut self) {
        while let Some(queued) = self.next() {
            queued.answer(Err(CommandFault::NotDeciding));
        }
    }

    /// Waits for the transaction under way. Cancel-safe.
    async fn ended(&mut self) -> Result<(Vec<(Partition, Offset)>, Round), LogError> {
        let in_flight = self.in_flight.as_mut().expect("one is under way");
        let ended = (&mut in_flight.task).await;
        let mut round = self.in_flight.take().expect("it was just there").round;
        let written = ended
            .map_err(|error| LogError::OutcomeUnknown(format!("the transaction died: {error}")))
            .and_then(|written| written);
        match written {
            Ok((writer, places)) => {
                self.writer = Some(writer);
                Ok((places, round))
            }
            Err(error) => {
                round.give_up(&error.to_string());
                Err(error)
            }
        }
    }
}

/// The commands of a topic's partition.
#[derive(Debug)]
struct Records {
    of: TopicPartition,
    topic_id: Option<[u8; 16]>,
    reader: Box<dyn PartitionReader>,
    batch: RecordBatch,
    /// The one that cannot be decided, if it has come to it.
    blocked: Option<Offset>,
    /// Those that are left out.
    skips: Arc<Skips>,
}

impl Records {
    /// Goes on where the last transaction says.
    async fn open(
        ports: &Ports,
        spec: &PartitionSpec,
        journal: &TopicPartition,
        topic: &TopicName,
    ) -> Result<Self, LogError> {
        let of = TopicPartition {
            topic: topic.clone(),
            partition: spec.store.partition,
        };
        let taken = ports.lookups.last(journal, |record| {
            journal::read_taken(record.value?).filter(|it| it.of == of)
        });
        let taken = taken.await?;
        let found = ports.log.topic(topic).await?;
        let found = found.ok_or_else(|| LogError::UnknownTopic(topic.clone()))?;
        let then = taken.as_ref().and_then(|it| it.topic_id);
        if then.zip(found.id).is_some_and(|(then, now)| then != now) {
            return Err(LogError::Rejected(format!(
                "topic '{topic}' was deleted and created again, so which commands were decided is unknown: delete \
                 '{}' and deploy it again, which merges its inputs anew",
                spec.store.plugin
            )));
        }
        let next = taken.map_or(Offset(0), |it| it.next);
        Ok(Self {
            reader: ports.readers.open(&of, next).await?,
            of,
            topic_id: found.id,
            batch: RecordBatch::new(),
            blocked: None,
            skips: Arc::default(),
        })
    }

    /// Waits until there are some. Cancel-safe.
    async fn wait(&mut self) -> Result<(), LogError> {
        const LIMITS: ReadLimits = ReadLimits {
            records_max: limits::COMMANDS_AT_ONCE_MAX,
            bytes_max: limits::COMMANDS_AT_ONCE_BYTES_MAX,
        };
        while self.batch.is_empty() {
            self.reader.read(&mut self.batch, LIMITS).await?;
        }
        Ok(())
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        // Whoever opens the partition next fences the writer.
        if let Some(in_flight) = &self.in_flight {
            in_flight.task.abort();
        }
        self.commands.close();
        self.refuse_all();
    }
}

impl Worker {
    /// Whether the partition takes commands: it has read all there is, and nobody has it stand still.
    pub(super) fn takes_commands(&self) -> bool {
        self.decider.is_some() && self.is_live() && !self.frozen && !self.paused
    }

    /// Whether the next command may be decided now.
    pub(super) fn may_decide(&self) -> bool {
        let is_free = self.decider.as_ref().is_some_and(|it| !it.is_busy());
        is_free
            && self.takes_commands()
            && self.batch.is_empty()
            && self.successor.is_none()
            && self.retry_at.is_none()
            && !self.has_changed_enough()
    }

    /// Whether a round is being written.
    pub(super) fn is_deciding(&self) -> bool {
        self.decider.as_ref().is_some_and(Decider::is_busy)
    }

    /// Refuses commands that would wait for nobody knows how long.
    pub(super) fn refuse_commands(&mut self) {
        if self.decider.is_none() || self.takes_commands() {
            return;
        }
        if let Some(decider) = &mut self.decider {
            decider.refuse_all();
        }
    }

    /// Decides a command, and those that wait behind it, and begins to write what came of them.
    pub(super) async fn decide(&mut self, first: Queued) {
        let Some(decider) = &mut self.decider else {
            return first.answer(Err(CommandFault::NotDeciding));
        };
        // It has read all there is, and knows what it writes itself.
        self.reader = None;
        let mut bytes = first.request.command.content.body.len();
        let mut commands = vec![first];
        while commands.len() < limits::COMMANDS_AT_ONCE_MAX
            && bytes < limits::COMMANDS_AT_ONCE_BYTES_MAX
            && let Some(next) = decider.next()
        {
            bytes += next.request.command.content.body.len();
            commands.push(next);
        }
        let mut keys = RecordBatch::new();
        for (offset, queued) in (0..).zip(&commands) {
            keys.push(Offset(offset), 0, Some(&queued.request.key), None, []);
        }
        let in_use = self.handle.shared.table.use_for_batch();
        let loaded = load_states(&self.handle, &self.ports, &*self.store, &keys).await;
        let ready = match loaded {
            Ok(ready) => ready,
            Err(error) => {
                for queued in commands {
                    queued.answer(Err(CommandFault::NotDeciding));
                }
                return self.try_again(&error.to_string());
            }
        };
        let Some(decider) = &mut self.decider else {
            return;
        };
        // States that do not fit into one call are loaded for the next.
        let later = commands.split_off(ready.max(1).min(commands.len()));
        for queued in later.into_iter().rev() {
            decider.left.push_front(queued);
        }
        let code = self.handle.code();
        let now_ms = self.ports.clock.now_ms();
        let partition = self.handle.spec().store.partition;
        let asked = Asked {
            source: &self.source,
            stamp: &decider.stamp,
            partition,
            folds: code.code.inspection().capabilities.fold,
            now_ms,
        };
        let before = position_before(&self.handle.spec().source(), self.checkpoint.next);
        let round = {
            let table = self.handle.shared.table.read();
            let mut states = Speculation::over(&table);
            let outcomes = &decider.outcomes;
            Round::decide(
                &mut self.slot,
                &mut states,
                outcomes,
                commands,
                &asked,
                || before.clone(),
            )
        };
        drop(in_use);
        self.write_round(round, now_ms);
    }

    /// Decides commands that have come from a topic, and begins to write what came of them.
    pub(super) async fn decide_records(&mut self) {
        self.reader = None;
        let Some(records) = self.decider.as_mut().and_then(|it| it.records.as_mut()) else {
            return;
        };
        let batch = std::mem::take(&mut records.batch);
        let in_use = self.handle.shared.table.use_for_batch();
        let loaded = load_states(&self.handle, &self.ports, &*self.store, &batch).await;
        let Some(decider) = &mut self.decider else {
            return;
        };
        let ready = match loaded {
            Ok(ready) => ready,
            Err(error) => {
                decider.records.as_mut().expect("it was just there").batch = batch;
                return self.try_again(&error.to_string());
            }
        };
        let code = self.handle.code();
        let now_ms = self.ports.clock.now_ms();
        let asked = Asked {
            source: &self.source,
            stamp: &decider.stamp,
            partition: self.handle.spec().store.partition,
            folds: code.code.inspection().capabilities.fold,
            now_ms,
        };
        let records = decider.records.as_mut().expect("it was just there");
        let part = batch.part(0..ready);
        let (round, stopped) = {
            let table = self.handle.shared.table.read();
            let mut states = Speculation::over(&table);
            let policy = RecordPolicy {
                on_refusal: code.manifest().on_refusal,
                skips: &records.skips,
                topic_id: records.topic_id,
            };
            Round::decide_records(&mut self.slot, &mut states, &part, &asked, &policy)
        };
        drop(in_use);
        let done = round.taken.map_or(0, |taken| {
            batch
                .iter()
                .take_while(|record| record.offset < taken)
                .count()
        });
        records.batch = batch.part(done..batch.len());
        if let Some(poison) = stopped {
            let record = batch.get(poison.index);
            records.blocked = Some(record.offset);
            let (of, topic_id) = (records.of.clone(), records.topic_id);
            let blocked = undecided(&self.handle.spec().store.plugin, of, &record, poison);
            self.commands_blocked(blocked, topic_id);
        } else if round.is_empty() {
            return self.try_again("a command from a topic could not be decided");
        }
        self.write_round(round, now_ms);
    }

    fn commands_blocked(&self, blocked: Blocked, topic_id: Option<[u8; 16]>) {
        let store = &self.handle.spec().store;
        tracing::error!(partition = %store, code = blocked.code, "{}", blocked.detail);
        self.handle.note_commands_blocked(Some((blocked, topic_id)));
        self.ports.metrics.phase(store, Phase::Blocked.number());
        self.ports.changed.notify_one();
    }

    /// It goes on with the command before which it had stopped.
    pub(super) fn commands_unblocked(&self) {
        self.handle.note_commands_blocked(None);
        let phase = self.handle.shared.status.read().phase;
        let store = &self.handle.spec().store;
        self.ports.metrics.phase(store, phase.number());
        self.ports.changed.notify_one();
    }

    /// Begins to write what came of a round.
    pub(super) fn write_round(&mut self, round: Round, now_ms: i64) {
        let Some(decider) = self.decider.as_mut().filter(|_| !round.is_empty()) else {
            return;
        };
        let partition = self.handle.spec().store.partition;
        let expired = decider
            .outcomes
            .expire(now_ms, limits::OUTCOMES_EXPIRED_AT_ONCE_MAX);
        let spec = self.handle.spec();
        let journal = |record: NewRecord| (spec.journal.clone(), record);
        let topic = spec.input.topic.clone();
        let events = round.events.iter().cloned();
        let mut records: Vec<(TopicName, NewRecord)> =
            events.map(|event| (topic.clone(), event)).collect();
        records.extend(
            round
                .outcomes
                .iter()
                .map(|(id, outcome)| journal(journal::outcome_record(partition, id, outcome))),
        );
        let gone = expired.iter();
        records.extend(gone.map(|id| journal(journal::outcome_tombstone(partition, id))));
        if let Some(publishing) = &spec.publishing {
            let letters = round.letters.iter().cloned();
            records.extend(letters.map(|letter| (publishing.dead_letters.clone(), letter)));
        }
        if let (Some(next), Some(of)) = (round.taken, &decider.records) {
            let taken = journal::Taken {
                of: of.of.clone(),
                topic_id: of.topic_id,
                next,
            };
            records.push(journal(journal::taken_record(&taken)));
        }
        if let Some(told) = &round.bootstrapped {
            records.push(journal(journal::bootstrapped_record(partition, told)));
        }
        let mut writer = decider.writer.take().expect("one transaction at a time");
        let task = tokio::spawn(async move {
            let places = writer.commit(records).await?;
            Ok((writer, places))
        });
        decider.in_flight = Some(InFlight { task, round });
    }

    /// A round is durable: its states are those of the partition from here on, and whoever waits is answered.
    pub(super) fn decided(&mut self, places: &[(Partition, Offset)], mut round: Round) {
        let events = round.events.len();
        if let (Some(last), Some((_, offset))) = (
            round.events.last(),
            places.get(..events).and_then(<[_]>::last),
        ) {
            self.checkpoint.next = offset.next();
            let mut batch = RecordBatch::new();
            batch.push_new(*offset, last);
            self.checkpoint.last = Some(open::identity(&batch.get(0)));
            self.checkpoint.published = true;
            self.folded_at = self.ports.clock.elapsed();
        }
        if round.bootstrapped.is_none() {
            self.index(round.events.iter().zip(places).map(|(event, (_, offset))| {
                let key = event.key.clone().unwrap_or_default();
                let at_ms = event.timestamp_ms.unwrap_or_default();
                (key, version_of_new(event), *offset, at_ms)
            }));
        }
        let (state_bytes, largest) = {
            let mut table = self.handle.shared.table.write();
            let mut changes = Changes::default();
            for (key, state) in &round.states {
                let hash = table.hash(key);
                let at = table.find(hash, key);
                changes.push(
                    hash,
                    key,
                    at,
                    state.as_ref().map(crate::state::KeyState::as_ref),
                );
            }
            table.change_all(&changes);
            (table.bytes(), table.largest_state_bytes())
        };
        let store = &self.handle.spec().store;
        let metrics = &self.ports.metrics;
        metrics.state_bytes(store, state_bytes, largest);
        metrics.published(store, events as u64);
        let outcomes = round.outcomes.iter();
        let refused = outcomes.filter(|(_, it)| !matches!(it.what, Settled::Accepted { .. }));
        let (commands, refusals) = round.from_topic;
        metrics.decided(
            store,
            round.outcomes.len() as u64 + commands,
            refused.count() as u64 + refusals,
        );
        if let Some(decider) = &mut self.decider {
            for (id, outcome) in &round.outcomes {
                decider.outcomes.keep(id, outcome.clone());
            }
        }
        let source = self.handle.spec().source();
        let before = position_before(&source, self.checkpoint.next);
        round.confirm(|events| match events.checked_sub(1) {
            Some(last) => places.get(last).map(|(_, offset)| RecordPosition {
                topic: source.topic.clone(),
                partition: source.partition,
                offset: *offset,
            }),
            None => before.clone(),
        });
        self.live_at = self.live_at.max(self.checkpoint.next);
        self.publish_position();
        if let Some(told) = round.bootstrapped.take() {
            self.bootstrapped(told);
        }
    }

    /// Leaves out of the batch what somebody else wrote to the owned topic.
    pub(super) fn drop_foreign(&mut self) {
        if !self.source.versions {
            return;
        }
        let plugin = &self.handle.spec().store.plugin;
        let adopts = self
            .handle
            .spec()
            .publishing
            .as_ref()
            .is_some_and(|it| it.folds_unstamped);
        let published = &mut self.checkpoint.published;
        self.batch.retain(|record| {
            let is_own = super::super::publish::is_stamped(record, plugin);
            *published |= is_own;
            // What was there before the topic was adopted lies before everything that is the plugin's.
            is_own || (adopts && !*published)
        });
    }
}

/// The last record before an offset, if there is one.
/// Why commands from topics are not decided any further.
fn undecided(
    plugin: &PluginName,
    of: TopicPartition,
    record: &RecordRef<'_>,
    poison: Poison,
) -> Blocked {
    let at = RecordPosition {
        topic: of.topic,
        partition: of.partition,
        offset: record.offset,
    };
    let origin = merged::origin(record).map(|origin| format!(", which is {origin},"));
    let detail = format!(
        "stopped before the command at {at}{} which cannot be decided: {}. Commands from topics wait behind it; others \
         are decided. Deploy corrected code with `--state keep`, leave the command out (`foldhost plugin skip {plugin} \
         {at} --reason …`), or have such go to the dead letters (`on-refusal = \"dead-letter\"`)",
        origin.unwrap_or_default(),
        poison.reason,
    );
    Blocked {
        code: poison.code,
        detail,
        at: Some(at),
    }
}

fn position_before(source: &TopicPartition, next: Offset) -> Option<RecordPosition> {
    Some(RecordPosition {
        topic: source.topic.clone(),
        partition: source.partition,
        offset: Offset(next.0.checked_sub(1)?),
    })
}
