//! The pure step: states and a batch of records in, changed states out. No I/O, no clock; the only
//! thing it calls is the plugin, and a plugin that fails is cut down to the one event that fails
//! alone.

use std::cell::RefCell;
use std::sync::Arc;

use super::assemble::{Assembled, Source};
use super::changes::{Changes, Place};
use crate::limits;
use crate::log::RecordBatch;
use crate::plugin::{CallError, FoldInput, Folded, Mark, PluginCode, PluginInstance};
use crate::state::StateRef;

/// States before a batch. Whoever calls the step has loaded those of all its keys.
pub trait States {
    /// Number under which a key is grouped and looked up; equal for equal keys.
    fn hash(&self, key: &[u8]) -> u64;

    /// Where a key is, by its hash; `None` = it is nowhere, and has no state.
    fn find(&self, hash: u64, key: &[u8]) -> Option<Place>;

    /// State of the key at a place, if it has one.
    fn state(&self, at: Place) -> Option<&[u8]>;
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

/// What a step did.
#[derive(Debug, Default)]
pub struct Stepped {
    /// Changed states, each key once.
    pub changes: Changes,
    /// How many records of the batch are in them.
    pub folded: usize,
    /// Why it stopped before the end of the batch.
    pub poison: Option<Poison>,
    /// Fuel used by calls that succeeded.
    pub fuel: u64,
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

    fn fold(&mut self, input: &FoldInput) -> Result<(Folded, u64), CallError> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.code.instance()?,
        };
        let folded = instance.fold(input)?;
        let fuel = instance.fuel_used();
        self.instance = Some(instance);
        Ok((folded, fuel))
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
    source: Source,
) -> Result<Stepped, StepFault> {
    COLUMNS.with_borrow_mut(|columns| step_with(columns, slot, states, batch, source))
}

fn step_with<S: States>(
    columns: &mut Assembled,
    slot: &mut InstanceSlot,
    states: &S,
    batch: &RecordBatch,
    source: Source,
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
            done.poison = poison;
            break;
        }
        match slot.fold(&columns.input) {
            Ok((folded, fuel)) => match folded.rejected.first() {
                None => {
                    apply(columns, &folded, &mut done.changes);
                    done.folded += events;
                    done.fuel += fuel;
                    done.poison = poison;
                }
                Some(rejection) if rejection.index == 0 => {
                    done.poison = Some(Poison {
                        index: done.folded,
                        code: format!("rejected:{}", rejection.code),
                        reason: rejection.reason.clone(),
                    });
                }
                // Once more without it and what follows, so that nothing behind it is folded.
                Some(rejection) => events_max = rejection.index as usize,
            },
            Err(fault @ CallError::Instantiate(_)) => return Err(StepFault::Instantiate(fault)),
            Err(fault @ CallError::Interrupted { .. }) if events == 1 => {
                return Err(StepFault::Interrupted(fault));
            }
            Err(fault) if events == 1 => {
                done.poison = Some(Poison {
                    index: done.folded,
                    code: poison_code(&fault).to_owned(),
                    reason: fault.to_string(),
                });
            }
            Err(_) => events_max = events.div_ceil(2),
        }
    }
    Ok(done)
}

fn poison_code(fault: &CallError) -> &'static str {
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
            Some(change) => change.state.map(|state| state.state),
            None => at.and_then(|at| self.states.state(at)),
        }
    }
}

/// Takes over what a call changed.
fn apply(columns: &Assembled, folded: &Folded, changes: &mut Changes) {
    let input = &columns.input;
    for (index, entity) in columns.entities.iter().enumerate() {
        if folded.states.marks[index] == Mark::Unchanged as u8 {
            continue;
        }
        let after = folded.states.get(index);
        if after == input.states.get(index) {
            continue;
        }
        let state = after.map(|state| StateRef {
            state,
            changed_at: entity.last_offset,
            changed_at_ms: entity.last_timestamp_ms,
        });
        changes.push(entity.hash, input.keys.get(index), entity.at, state);
    }
}
