//! The pure step: states and a batch of records in, changed states out. No I/O, no clock; the only
//! thing it calls is the plugin, and a plugin that fails is cut down to the one event that fails
//! alone.

use std::cell::RefCell;
use std::sync::Arc;

use super::assemble::{Assembled, Source};
use super::changes::{Changes, ColumnState, Place};
use crate::limits;
use crate::log::{RecordBatch, RecordRef};
use crate::plugin::manifest::OnError;
use crate::plugin::{
    BytesColumn, CallError, Emitted, FoldInput, Folded, Mark, OptionalColumn, PluginCode,
    PluginInstance, Rejection,
};
use crate::state::StateRef;

/// States before a batch. Whoever calls the step has loaded those of all its keys.
pub trait States {
    /// Number under which a key is grouped and looked up; equal for equal keys.
    fn hash(&self, key: &[u8]) -> u64;

    /// Where a key is, by its hash; `None` = it is nowhere, and has no state.
    fn find(&self, hash: u64, key: &[u8]) -> Option<Place>;

    /// State of the key at a place, if it has one.
    fn state(&self, at: Place) -> Option<&[u8]>;

    /// Says which keys are looked for next, by their hashes.
    fn look_ahead(&self, hashes: impl Iterator<Item = u64>) {
        let _ = hashes;
    }
}

/// An event that cannot be applied: nothing behind it was folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// Index of the record in the batch.
    pub index: usize,
    /// Stable code: the plugin's own behind `rejected:`, or the host's.
    pub code: String,
    /// What is wrong.
    pub reason: String,
}

impl Poison {
    /// Whether nothing behind the event is folded: because `on-error` says so, because a larger limit could
    /// apply it, or because it does not fit into the topic of dead letters.
    pub(super) fn stops(
        &self,
        batch: &RecordBatch,
        on_error: OnError,
        letter_bytes_max: usize,
    ) -> bool {
        on_error != OnError::DeadLetter
            || self.needs_a_limit()
            || batch.get(self.index).bytes() + self.reason.len() + limits::STAMP_BYTES_MAX
                > letter_bytes_max
    }

    /// Whether its key is parked, and the others go on; a record without a key, or with one that no state can
    /// have, stops all.
    pub(super) fn parks(&self, record: &RecordRef<'_>, on_error: OnError) -> bool {
        on_error == OnError::ParkKey
            && !self.needs_a_limit()
            && record
                .key
                .is_some_and(|key| key.len() <= limits::KEY_BYTES_MAX)
    }

    /// Whether a larger limit could apply the event, so that `on-error` has no say.
    fn needs_a_limit(&self) -> bool {
        matches!(
            self.code.as_str(),
            "event-out-of-memory" | "state-too-large"
        )
    }
}

/// What a step did.
#[derive(Debug, Default)]
pub struct Stepped {
    /// Changed states, each key once.
    pub changes: Changes,
    /// Records for the owned topic, by the calls that emitted any.
    pub emitted: Vec<EmittedByCall>,
    /// How many records of the batch are done: folded, or set aside.
    pub folded: usize,
    /// Those that were set aside, in order.
    pub set_aside: Vec<Poison>,
    /// Why it stopped before the end of the batch.
    pub poison: Option<Poison>,
    /// Fuel used by calls that succeeded.
    pub fuel: u64,
}

/// What one call emitted.
#[derive(Debug)]
pub struct EmittedByCall {
    /// The records; their causes count from `first`.
    pub records: Emitted,
    /// Index in the batch of the call's first event.
    pub first: usize,
}

/// A step that could not be decided: nothing was folded, it is to be repeated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepFault {
    /// The watchdog stopped a call, which decides nothing.
    #[error(transparent)]
    Interrupted(CallError),
    /// No instance could be made.
    #[error(transparent)]
    Instantiate(CallError),
}

/// An instance that is made when it is needed and dropped after any fault.
#[derive(Debug)]
pub struct InstanceSlot {
    code: Arc<dyn PluginCode>,
    instance: Option<Box<dyn PluginInstance>>,
}

impl InstanceSlot {
    /// A slot without an instance yet.
    #[must_use]
    pub fn new(code: Arc<dyn PluginCode>) -> Self {
        Self {
            code,
            instance: None,
        }
    }

    /// Frees the instance; the next call makes another.
    pub fn clear(&mut self) {
        self.instance = None;
    }

    fn fold(&mut self, input: &FoldInput<'_>) -> Result<(Folded, u64), CallError> {
        self.call(|instance| {
            let folded = instance.fold(input)?;
            Ok((folded, instance.fuel_used()))
        })
    }

    /// Makes a call; an instance that failed is dropped.
    pub(super) fn call<T>(
        &mut self,
        call: impl FnOnce(&mut dyn PluginInstance) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.code.instance()?,
        };
        let answer = call(&mut *instance)?;
        self.instance = Some(instance);
        Ok(answer)
    }
}

/// Folds the records of `batch` in order, as far as they can be applied.
///
/// A call that fails is repeated with half of its events, until the one that fails alone is known:
/// a verdict never depends on where a batch happened to end.
///
/// # Errors
/// [`StepFault`] when nothing can be said about the batch; repeat it after a pause.
pub fn step<S: States>(
    slot: &mut InstanceSlot,
    states: &S,
    batch: &RecordBatch,
    source: &Source,
) -> Result<Stepped, StepFault> {
    COLUMNS.with_borrow_mut(|columns| step_with(columns, slot, states, batch, source))
}

fn step_with<S: States>(
    columns: &mut Assembled,
    slot: &mut InstanceSlot,
    states: &S,
    batch: &RecordBatch,
    source: &Source,
) -> Result<Stepped, StepFault> {
    let mut done = Stepped::default();
    let mut events_max = limits::BATCH_EVENTS_MAX;
    while done.folded < batch.len() && done.poison.is_none() {
        done.changes.begin_call();
        let before = Before {
            states,
            changes: &done.changes,
        };
        let (events, poison) = columns.fill(batch, done.folded, events_max, &before, source);
        if events == 0 {
            done.found(poison, batch, source);
            continue;
        }
        let input = columns.input(batch, done.folded, source);
        let called = slot.fold(&input).and_then(|(folded, fuel)| {
            check_sizes(&folded.emitted, source)?;
            Ok((folded, fuel))
        });
        match called {
            Ok((folded, fuel)) => {
                let first = done.folded;
                let rejected: Vec<_> = folded
                    .rejected
                    .iter()
                    .map(|it| rejected(it, first))
                    .collect();
                match rejected
                    .iter()
                    .find(|it| it.stops(batch, source.on_error, source.letter_bytes_max))
                {
                    Some(stops) if stops.index == first => done.poison = Some(stops.clone()),
                    // Once more without it and what follows, so that nothing behind it is folded.
                    Some(stops) => events_max = stops.index - first,
                    None => {
                        done.apply(columns, folded, rejected, events, source.versions);
                        done.fuel += fuel;
                        done.found(poison, batch, source);
                    }
                }
            }
            Err(fault @ CallError::Instantiate(_)) => return Err(StepFault::Instantiate(fault)),
            Err(fault @ CallError::Interrupted { .. }) if events == 1 => {
                return Err(StepFault::Interrupted(fault));
            }
            Err(fault) if events == 1 => {
                let poison = Poison {
                    index: done.folded,
                    code: poison_code(&fault).to_owned(),
                    reason: fault.to_string(),
                };
                done.found(Some(poison), batch, source);
                events_max = limits::BATCH_EVENTS_MAX;
            }
            Err(_) => events_max = events.div_ceil(2),
        }
    }
    Ok(done)
}

impl Stepped {
    /// Sets an event aside, or stops before it, as `on-error` says.
    fn found(&mut self, poison: Option<Poison>, batch: &RecordBatch, source: &Source) {
        let Some(poison) = poison else { return };
        if poison.stops(batch, source.on_error, source.letter_bytes_max) {
            self.poison = Some(poison);
        } else {
            self.set_aside.push(poison);
            self.folded += 1;
        }
    }

    /// Takes over what a call returned for its `events` events. A rejected one has left no trace in it.
    fn apply(
        &mut self,
        columns: &Assembled,
        folded: Folded,
        rejected: Vec<Poison>,
        events: usize,
        versions: bool,
    ) {
        match versions {
            true => apply_versions(columns, &folded.states, &mut self.changes),
            false => apply(columns, folded.states, &mut self.changes),
        }
        self.set_aside.extend(rejected);
        if !folded.emitted.is_empty() {
            self.emitted.push(EmittedByCall {
                records: folded.emitted,
                first: self.folded,
            });
        }
        self.folded += events;
    }
}

/// A rejection by a call whose first event is `first` in its batch.
fn rejected(rejection: &Rejection, first: usize) -> Poison {
    Poison {
        index: first + rejection.index as usize,
        code: format!("rejected:{}", rejection.code),
        reason: rejection.reason.clone(),
    }
}

/// Whether the owned topic takes what was emitted, together with the host's own headers.
fn check_sizes(emitted: &Emitted, source: &Source) -> Result<(), CallError> {
    let bytes_max = source
        .record_bytes_max
        .saturating_sub(limits::STAMP_BYTES_MAX);
    let mut header = 0;
    for index in 0..emitted.len() {
        let mut bytes = emitted.keys.get(index).len();
        bytes += emitted.values.get(index).map_or(0, <[u8]>::len);
        if let Some(headers) = &emitted.headers {
            let until = header + headers.counts[index] as usize;
            for at in header..until {
                bytes += headers.names.get(at).len();
                bytes += headers.values.get(at).map_or(0, <[u8]>::len);
            }
            header = until;
        }
        if bytes > bytes_max {
            return Err(CallError::RecordTooLarge { bytes, bytes_max });
        }
    }
    Ok(())
}

/// The code under which a fault of one event alone is told.
pub(super) fn poison_code(fault: &CallError) -> &'static str {
    match fault {
        CallError::OutOfFuel { .. } => "event-out-of-fuel",
        CallError::OutOfMemory { .. } => "event-out-of-memory",
        CallError::StateTooLarge { .. } => "state-too-large",
        CallError::TooMuch { .. } => "emitted-too-much",
        CallError::RecordTooLarge { .. } => "output-too-large",
        CallError::BadColumns(_) => "bad-columns",
        CallError::Trap(_)
        | CallError::AnswerTooLarge { .. }
        | CallError::Interrupted { .. }
        | CallError::Instantiate(_) => "event-trapped",
    }
}

thread_local! {
    /// Columns of the calls that a thread makes, one after the other: their memory is used again, and there are
    /// as many as threads that fold, however many partitions.
    static COLUMNS: RefCell<Assembled> = RefCell::default();
}

/// States before the next call of a step: those before the batch, with the changes of earlier calls on top.
pub(super) struct Before<'a, S> {
    pub(super) states: &'a S,
    pub(super) changes: &'a Changes,
}

impl<S: States> Before<'_, S> {
    /// State of a key of the next call.
    pub(super) fn state(&self, hash: u64, key: &[u8], at: Option<Place>) -> Option<&[u8]> {
        match self.changes.find(hash, key) {
            Some(change) => change.state.filter(|it| !it.is_gone()).map(|it| it.state),
            None => at.and_then(|at| self.states.state(at)),
        }
    }
}

/// Takes over what a call changed.
fn apply(columns: &Assembled, after: OptionalColumn, changes: &mut Changes) {
    let OptionalColumn { items, marks } = after;
    let BytesColumn { data, ends } = items;
    changes.reserve(columns.entities.len(), columns.keys.data.len());
    let column = changes.keep(data);
    let mut from = 0;
    let after = ends.iter().map(|end| {
        let until = *end as usize;
        std::mem::replace(&mut from, until)..until
    });
    let after = after.zip(marks);
    for (index, (entity, (bytes, mark))) in columns.entities.iter().zip(after).enumerate() {
        if mark == Mark::Unchanged as u8 {
            continue;
        }
        let is_present = mark == Mark::Present as u8;
        let state = is_present.then(|| &changes.kept(column)[bytes.clone()]);
        if state == columns.states.get(index) {
            continue;
        }
        let state = is_present.then_some(ColumnState {
            column,
            bytes,
            changed_at: entity.last_offset,
            changed_at_ms: entity.last_timestamp_ms,
        });
        changes.push_of(entity.hash, columns.keys.get(index), entity.at, state);
    }
}

/// As [`apply`], of events of a command handler: every one counts, and the count stays where the state goes.
fn apply_versions(columns: &Assembled, after: &OptionalColumn, changes: &mut Changes) {
    let bytes = columns.keys.data.len() + after.items.data.len();
    changes.reserve(columns.entities.len(), bytes);
    for (index, entity) in columns.entities.iter().enumerate() {
        let unchanged = after.marks[index] == Mark::Unchanged as u8;
        let after = match unchanged {
            true => columns.states.get(index),
            false => after.get(index),
        };
        let state = StateRef {
            state: after.unwrap_or_default(),
            changed_at: match after {
                Some(_) => entity.last_offset,
                None => StateRef::gone_at(entity.last_offset),
            },
            changed_at_ms: entity.last_timestamp_ms,
        };
        let key = columns.keys.get(index);
        changes.push(entity.hash, key, entity.at, Some(state));
    }
}
