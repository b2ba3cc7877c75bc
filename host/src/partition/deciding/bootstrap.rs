//! The states of a command handler told again, in events that carry all of them, so that a new view can be built long
//! after the topic's old events are gone. The worker does it between two rounds (`worker/bootstrapping.rs`).
//!
//! Invariant: what is told changes nothing. The events of a key, folded onto its state, leave it as it is, byte for
//! byte and with its version; folded onto nothing, they give it. What does not is not written.

use bytes::Bytes;

use super::Asked;
use crate::log::{Header, NewRecord, RecordBatch};
use crate::partition::Source;
use crate::partition::changes::Place;
use crate::partition::step::{InstanceSlot, States, step};
use crate::plugin::CallError;
use crate::plugin::manifest::OnError;
use crate::state::KeyState;
use crate::types::Offset;

/// A numbered decision to tell the states of a partition in events, as the partition is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// Its number; later ones have higher numbers.
    pub number: u64,
    /// Only this key; `None` = every key that has a state.
    pub key: Option<Bytes>,
    /// How many keys in a second, at most.
    pub keys_per_second: u32,
    /// When it was decided, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// How far a partition's states are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrapped {
    /// By which decision.
    pub number: u64,
    /// First offset that may hold an event of it: what a key had before is not needed any more, once it is done.
    pub from: Offset,
    /// The last key that it has come to, in order of the keys' bytes.
    pub after: Option<Bytes>,
    /// How many keys are told.
    pub keys: u64,
    /// In how many events.
    pub events: u64,
    /// How many keys the plugin could not tell.
    pub untold: u64,
    /// Why not, of the first of them.
    pub problem: Option<String>,
    /// It has come to every key.
    pub done: bool,
}

impl Bootstrapped {
    /// A decision of which nothing is done, where the owned topic ends at `from`.
    pub(in crate::partition) fn begin(number: u64, from: Offset) -> Self {
        Self {
            number,
            from,
            after: None,
            keys: 0,
            events: 0,
            untold: 0,
            problem: None,
            done: false,
        }
    }

    /// How many keys it has come to.
    pub(in crate::partition) fn passed(&self) -> u64 {
        self.keys + self.untold
    }
}

/// Why there are no events for a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::partition) enum Untold {
    /// The plugin is at fault, and would be again.
    Wrong(String),
    /// Nothing can be said: it is to be asked again.
    TryAgain(String),
}

/// The events that carry the state of a key, ready to be written.
pub(in crate::partition) fn tell(
    slot: &mut InstanceSlot,
    number: u64,
    key: &Bytes,
    state: &KeyState,
    asked: &Asked<'_>,
) -> Result<Vec<NewRecord>, Untold> {
    let emitted = slot.call(|instance| instance.emit_state(key, &state.state));
    let emitted = emitted.map_err(|fault| match fault {
        CallError::Interrupted { .. } | CallError::Instantiate(_) => {
            Untold::TryAgain(fault.to_string())
        }
        fault => Untold::Wrong(fault.to_string()),
    })?;
    if emitted.is_empty() {
        let problem = "emit-state gives no event for a key that has a state";
        return Err(Untold::Wrong(problem.to_owned()));
    }
    let records = emitted.into_iter().map(|event| {
        let headers = event.headers.into_iter();
        let mut headers: Vec<Header> = headers
            .map(|(name, value)| (name.into(), value.map(Bytes::from)))
            .collect();
        asked.stamp.bootstrap_event(&mut headers, number, state);
        NewRecord {
            key: Some(key.clone()),
            value: event.value.map(Bytes::from),
            headers,
            timestamp_ms: Some(asked.now_ms),
            partition: Some(asked.partition),
        }
    });
    let records: Vec<_> = records.collect();
    let bytes_max = asked.source.record_bytes_max;
    if let Some(bytes) = records
        .iter()
        .map(NewRecord::bytes)
        .find(|it| *it > bytes_max)
    {
        return Err(Untold::Wrong(format!(
            "an event that tells the state has {bytes} bytes, more than the {bytes_max} that the owned topic takes"
        )));
    }
    for (onto, before) in [
        ("onto that state", Some(&*state.state)),
        ("onto nothing", None),
    ] {
        gives(slot, before, &records, state, asked).map_err(|why| match why {
            Untold::Wrong(why) => {
                Untold::Wrong(format!("the events of emit-state, folded {onto}, {why}"))
            }
            again @ Untold::TryAgain(_) => again,
        })?;
    }
    Ok(records)
}

/// Whether the events, folded onto `before`, give the state, as it is.
fn gives(
    slot: &mut InstanceSlot,
    before: Option<&[u8]>,
    records: &[NewRecord],
    state: &KeyState,
    asked: &Asked<'_>,
) -> Result<(), Untold> {
    let mut batch = RecordBatch::new();
    for (offset, record) in (0..).zip(records) {
        batch.push_new(Offset(offset), record);
    }
    let source = Source {
        on_error: OnError::Stop,
        ..asked.source.clone()
    };
    let stepped = step(slot, &One(before), &batch, &source);
    let stepped = stepped.map_err(|fault| Untold::TryAgain(fault.to_string()))?;
    if let Some(poison) = stepped.poison {
        let (code, reason) = (poison.code, poison.reason);
        return Err(Untold::Wrong(format!("are not applied ({code}): {reason}")));
    }
    let after = stepped
        .changes
        .iter()
        .last()
        .and_then(|change| change.state);
    match after {
        Some(after) if after == state.as_ref() => Ok(()),
        _ => Err(Untold::Wrong(
            "do not give the state that they are to tell, byte for byte: they must hold all of it, and replace what \
             was there, whenever they are written"
                .to_owned(),
        )),
    }
}

/// The state of the one key that is asked for.
struct One<'a>(Option<&'a [u8]>);

impl States for One<'_> {
    fn hash(&self, _: &[u8]) -> u64 {
        0
    }

    fn find(&self, _: u64, _: &[u8]) -> Option<Place> {
        self.0.map(|_| Place(0))
    }

    fn state(&self, _: Place) -> Option<&[u8]> {
        self.0
    }
}
