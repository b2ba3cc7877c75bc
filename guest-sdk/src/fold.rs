//! The glue between one call of the host (columns in, columns out) and [`View::fold`] or
//! [`Republisher::react`](crate::Republisher::react).
//!
//! Called by what [`export!`](crate::export) generates, and by the test driver. Invariant: a rejected
//! event leaves no trace, neither in a state nor in what is emitted, and a state that did not change is
//! said to be unchanged, so that the host need not look at it.
//!
//! A batch is folded key by key: a state is decoded at most once, folded over all events of its key,
//! and encoded straight into the answer's column. Only one decoded state is alive at a time, and
//! nothing is allocated per event but what decoding it takes. Records are emitted into one set of
//! columns for the batch, which is put in the order of the events at the end.

use crate::abi::types::{Emitted, Events, Folded, OptionalColumn, Rejection, States};
use crate::columns::{ABSENT, PRESENT, UNCHANGED};
use crate::event::Batch;
use crate::react::Records;
use crate::{Codec, Event, Inputs, Reject, Republisher, View, log};

/// Folds a batch: the export `fold`.
///
/// # Panics
/// A state cannot be decoded, the columns contradict each other, or the view itself panics.
pub fn fold_batch<V: View>(states: &States, events: &Events) -> Folded {
    run::<V>(states, events).0
}

/// Folds a batch and gathers what is emitted: the export `react`.
///
/// # Panics
/// As [`fold_batch`], and where a header is emitted that belongs to the host.
pub fn react_batch<R: Republisher>(states: &States, events: &Events) -> (Folded, Emitted) {
    step::<R>(states, events)
}

/// Either of them; a view emits nothing.
pub(crate) fn step<V: View>(states: &States, events: &Events) -> (Folded, Emitted) {
    let (folded, records) = run::<V>(states, events);
    (folded, records.into_emitted(&events.timestamps))
}

fn run<V: View>(states: &States, events: &Events) -> (Folded, Records) {
    let keys = states.keys.len();
    let batch = Batch::new(states, events);
    let groups = Groups::new(&events.entities, keys);
    let mut values = OptionalColumn::with_capacity(keys, states.values.data.len());
    let mut rejections = Rejections::new(events.entities.len());
    let mut records = Records::default();
    for entity in 0..keys {
        let mut fold = KeyFold::<V>::new(&batch, entity);
        fold.run(groups.of(entity), &mut rejections, &mut records);
        fold.finish(&mut values);
    }
    let folded = Folded {
        values,
        rejected: rejections.in_order(),
    };
    (folded, records)
}

/// Rejections come key by key and leave by index: a slot per event, made when the first one comes.
struct Rejections {
    events: usize,
    slots: Vec<Option<Reject>>,
}

impl Rejections {
    fn new(events: usize) -> Self {
        Self {
            events,
            slots: Vec::new(),
        }
    }

    fn add(&mut self, index: u32, reject: Reject) {
        if self.slots.is_empty() {
            self.slots.resize(self.events, None);
        }
        self.slots[index as usize] = Some(reject);
    }

    fn in_order(self) -> Vec<Rejection> {
        let slots = (0u32..).zip(self.slots);
        slots
            .filter_map(|(index, reject)| {
                let (code, reason) = reject?.into_parts();
                Some(Rejection {
                    index,
                    code,
                    reason,
                })
            })
            .collect()
    }
}

/// The events of each key, in log order: a counting sort of the batch.
struct Groups {
    ends: Vec<u32>,
    indexes: Vec<u32>,
}

impl Groups {
    fn new(entities: &[u32], keys: usize) -> Self {
        let mut ends = vec![0u32; keys];
        for &entity in entities {
            ends[entity as usize] += 1;
        }
        let mut start = 0;
        for end in &mut ends {
            start += std::mem::replace(end, start);
        }
        let mut indexes = vec![0u32; entities.len()];
        for (index, &entity) in (0u32..).zip(entities) {
            let next = &mut ends[entity as usize];
            indexes[*next as usize] = index;
            *next += 1;
        }
        Self { ends, indexes }
    }

    fn of(&self, entity: usize) -> &[u32] {
        let start = match entity {
            0 => 0,
            _ => self.ends[entity - 1],
        };
        &self.indexes[start as usize..self.ends[entity] as usize]
    }
}

/// The fold of one key over its events of a batch.
///
/// A state need not be `Clone`, and a plugin that rejects nothing pays nothing for the promise that a
/// rejected event leaves no trace: on a rejection the state is folded again from the last
/// checkpoint, which then moves behind the rejected event. So the work stays linear in the number of
/// events.
struct KeyFold<'a, V: View> {
    batch: &'a Batch<'a>,
    entity: usize,
    /// Not decoded before the first event needs it.
    state: Option<Option<V::State>>,
    checkpoint: Checkpoint<'a>,
    /// How many events of the key the checkpoint covers.
    covered: usize,
    /// How many events have been applied since the checkpoint.
    applied: usize,
}

/// An encoded state.
enum Checkpoint<'a> {
    /// The one before the batch.
    Before(Option<&'a [u8]>),
    /// A later one.
    Within(Option<Vec<u8>>),
}

impl Checkpoint<'_> {
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Checkpoint::Before(bytes) => *bytes,
            Checkpoint::Within(bytes) => bytes.as_deref(),
        }
    }
}

impl<'a, V: View> KeyFold<'a, V> {
    fn new(batch: &'a Batch<'a>, entity: usize) -> Self {
        Self {
            batch,
            entity,
            state: None,
            checkpoint: Checkpoint::Before(batch.state(entity)),
            covered: 0,
            applied: 0,
        }
    }

    /// Applies the events `group` (indexes into the batch) in order.
    fn run(&mut self, group: &[u32], rejections: &mut Rejections, records: &mut Records) {
        for (position, &index) in group.iter().enumerate() {
            let before = records.mark();
            match self.apply(index, records) {
                Ok(()) => self.applied += 1,
                Err(Refused::Undecodable(reject)) => rejections.add(index, reject),
                Err(Refused::ByPlugin(reject)) => {
                    rejections.add(index, reject);
                    if V::EMITS {
                        records.rollback(before);
                    }
                    self.restore(&group[self.covered..position]);
                    self.covered = position + 1;
                }
            }
        }
    }

    fn apply(&mut self, index: u32, records: &mut Records) -> Result<(), Refused> {
        let event = self.event(index).map_err(Refused::Undecodable)?;
        let state = self
            .state
            .get_or_insert_with(|| decode_state::<V>(self.batch, self.entity, &self.checkpoint));
        if V::EMITS {
            records.begin(index, event.timestamp().millis());
        }
        V::fold_into(state, &event, records).map_err(Refused::ByPlugin)
    }

    fn event(&self, index: u32) -> Result<Event<'a, V::Event>, Reject> {
        let index = index as usize;
        let input = usize::from(self.batch.events.inputs[index]);
        let value = self.batch.value(index);
        let value = value.map(|bytes| V::Event::decode_from(input, bytes));
        let value = value
            .transpose()
            .map_err(|error| Reject::new(Reject::BAD_EVENT, error.to_string()))?;
        Ok(Event::new(value, self.batch, index))
    }

    /// Makes the state again what it was before the event that was just rejected: the checkpoint
    /// and the events `since` then. What they emit is there already, so they are folded only. The result
    /// is the new checkpoint.
    fn restore(&mut self, since: &[u32]) {
        let mut state = decode_state::<V>(self.batch, self.entity, &self.checkpoint);
        if self.applied > 0 {
            log::muted(|| {
                for &index in since {
                    let Ok(event) = self.event(index) else {
                        continue;
                    };
                    if let Err(reject) = V::fold(&mut state, &event) {
                        panic!("fold is not a pure function: it took an event, then not: {reject}");
                    }
                }
            });
            self.checkpoint = Checkpoint::Within(state.as_ref().map(Codec::to_bytes));
            self.applied = 0;
        }
        self.state = Some(state);
    }

    /// Writes the state after the batch as the next item of `values`.
    fn finish(self, values: &mut OptionalColumn) {
        let before = self.batch.state(self.entity);
        let start = values.data.len();
        let present = match (&self.state, self.applied) {
            (Some(Some(state)), 1..) => {
                state.encode(&mut values.data);
                true
            }
            (Some(None), 1..) => false,
            _ => {
                let bytes = self.checkpoint.bytes();
                values.data.extend_from_slice(bytes.unwrap_or_default());
                bytes.is_some()
            }
        };
        if present && before == Some(&values.data[start..]) {
            values.data.truncate(start);
            values.close(UNCHANGED);
        } else {
            values.close(if present { PRESENT } else { ABSENT });
        }
    }
}

/// Why an event was not applied.
enum Refused {
    /// The state was not touched.
    Undecodable(Reject),
    /// The state may have been, and something may have been emitted.
    ByPlugin(Reject),
}

fn decode_state<V: View>(
    batch: &Batch<'_>,
    entity: usize,
    checkpoint: &Checkpoint<'_>,
) -> Option<V::State> {
    let bytes = checkpoint.bytes()?;
    Some(read_state::<V>(batch.states.keys.item(entity), bytes))
}

/// Decodes a state that the host gave back, or panics: either another program wrote it, or the
/// codec cannot read what it writes.
pub(crate) fn read_state<V: View>(key: &[u8], bytes: &[u8]) -> V::State {
    match V::State::decode(bytes) {
        Ok(state) => state,
        Err(error) => panic!(
            "the state of key `{}` ({} bytes) cannot be decoded: {error}; code that writes states \
             in another way needs another `state-schema` in plugin.toml",
            String::from_utf8_lossy(key),
            bytes.len(),
        ),
    }
}
