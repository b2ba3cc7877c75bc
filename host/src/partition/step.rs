//! The pure step: states and a batch of records in, changed states out. No I/O, no clock; the only
//! thing it calls is the plugin, and a plugin that fails is cut down to the one event that fails
//! alone.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;

use super::assemble::{Assembled, Source};
use crate::limits;
use crate::log::RecordBatch;
use crate::plugin::{CallError, FoldInput, Folded, Mark, PluginCode, PluginInstance};
use crate::state::KeyState;
use crate::types::Offset;

/// States before a batch. Whoever calls the step has loaded those of all its keys.
pub trait States {
    /// State of a key, if it has one.
    fn state(&self, key: &[u8]) -> Option<&[u8]>;
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
    pub changes: Vec<(Bytes, Option<KeyState>)>,
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
pub fn step(
    slot: &mut InstanceSlot,
    states: &dyn States,
    batch: &RecordBatch,
    source: Source,
) -> Result<Stepped, StepFault> {
    COLUMNS.with_borrow_mut(|columns| step_with(columns, slot, states, batch, source))
}

fn step_with(
    columns: &mut Assembled,
    slot: &mut InstanceSlot,
    states: &dyn States,
    batch: &RecordBatch,
    source: Source,
) -> Result<Stepped, StepFault> {
    let mut stepping = Stepping {
        states,
        changes: Vec::new(),
        index: HashMap::new(),
    };
    let mut done = Stepped::default();
    let mut events_max = limits::BATCH_EVENTS_MAX;
    while done.folded < batch.len() && done.poison.is_none() {
        stepping.index_changes();
        let (events, poison) = columns.fill(batch, done.folded, events_max, &stepping, source);
        if events == 0 {
            done.poison = poison;
            break;
        }
        match slot.fold(&columns.input) {
            Ok((folded, fuel)) => match folded.rejected.first() {
                None => {
                    stepping.apply(columns, &folded);
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
    done.changes = stepping.changes;
    Ok(done)
}

fn poison_code(fault: &CallError) -> &'static str {
    match fault {
        CallError::OutOfFuel { .. } => "event-out-of-fuel",
        CallError::OutOfMemory { .. } => "event-out-of-memory",
        CallError::StateTooLarge { .. } => "state-too-large",
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

/// States before the batch with the changes of the calls so far on top.
struct Stepping<'a> {
    states: &'a dyn States,
    /// Each key once.
    changes: Vec<(Bytes, Option<KeyState>)>,
    /// Where the changes of earlier calls are. Most batches are one call, and need none of this.
    index: HashMap<Bytes, usize>,
}

impl States for Stepping<'_> {
    fn state(&self, key: &[u8]) -> Option<&[u8]> {
        match self.index.get(key) {
            Some(at) => self.changes[*at].1.as_ref().map(|state| &*state.state),
            None => self.states.state(key),
        }
    }
}

impl Stepping<'_> {
    /// Makes the changes so far what the next call begins with.
    fn index_changes(&mut self) {
        for (at, (key, _)) in self.changes.iter().enumerate().skip(self.index.len()) {
            self.index.insert(key.clone(), at);
        }
    }

    fn apply(&mut self, columns: &Assembled, folded: &Folded) {
        let input = &columns.input;
        // One allocation for all keys of the call.
        let keys = Bytes::copy_from_slice(&input.keys.data);
        for index in 0..input.keys.len() {
            if folded.states.marks[index] == Mark::Unchanged as u8 {
                continue;
            }
            let after = folded.states.get(index);
            if after == input.states.get(index) {
                continue;
            }
            let (changed_at, changed_at_ms): (Offset, i64) = columns.last_events[index];
            let state = after.map(|bytes| KeyState {
                state: Bytes::copy_from_slice(bytes),
                changed_at,
                changed_at_ms,
            });
            let key = keys.slice(input.keys.range(index));
            match self.index.get(&key) {
                Some(at) => self.changes[*at].1 = state,
                None => self.changes.push((key, state)),
            }
        }
    }
}
