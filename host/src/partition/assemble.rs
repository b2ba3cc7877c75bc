//! Records of a batch → the columns of one call. Groups events by key, and stops where a record
//! cannot go into a plugin at all.

use std::sync::Arc;

use hashbrown::HashTable;

use super::changes::{LOOKED_AT, Place};
use super::frame::Content;
use super::merged;
use super::publish::{told_again, version_of};
use super::step::{Before, Poison, States};
use crate::limits;
use crate::log::{Framing, Partitioner, RecordBatch, RecordRef};
use crate::plugin::manifest::OnError;
use crate::plugin::{BytesColumn, FoldInput, HeadersColumn, OptionalColumn, OriginsColumn};
use crate::types::{Offset, Partition, TopicName};

/// What every record of a partition is checked against.
#[derive(Debug, Clone)]
pub struct Source {
    /// Number of the partition.
    pub partition: Partition,
    /// How many partitions its topic has.
    pub partitions: u32,
    /// How its keys were spread.
    pub partitioner: Partitioner,
    /// What lies around the values of each of the plugin's inputs.
    pub framings: Vec<Framing>,
    /// Whether the plugin asked for headers.
    pub headers: bool,
    /// What becomes of an event that cannot be applied.
    pub on_error: OnError,
    /// The largest record that the owned topic takes.
    pub record_bytes_max: usize,
    /// The largest record that the topic of dead letters takes.
    pub letter_bytes_max: usize,
    /// The topics whose records were merged into the one that is folded; `None` = it is an input itself.
    pub merged: Option<Arc<[TopicName]>>,
    /// Whether the plugin asked for the keys that records had before they were routed.
    pub record_keys: bool,
    /// Whether the plugin asked where records were before they were merged.
    pub origins: bool,
    /// Whether the events are a command handler's own: they say which version of their key they make, and are
    /// folded before they have an offset.
    pub versions: bool,
}

impl Source {
    /// Whether anything lies around the values of an input.
    fn is_framed(&self) -> bool {
        self.framings
            .iter()
            .any(|framing| *framing != Framing::None)
    }

    /// A record as the plugin sees it, if it is of the input at `index`.
    fn content<'a>(
        &self,
        record: RecordRef<'a>,
        index: u8,
    ) -> Result<Content<'a>, (&'static str, String)> {
        let framing = self.framings.get(usize::from(index)).copied();
        Content::of(record, framing.unwrap_or_default())
    }
}

/// One call's columns, but for those that the batch has already, with what is needed to read its answer.
#[derive(Debug, Default)]
pub(super) struct Assembled {
    /// Distinct keys of the events.
    pub(super) keys: BytesColumn,
    /// State of each key.
    pub(super) states: OptionalColumn,
    /// What is known of each key.
    pub(super) entities: Vec<Entity>,
    /// Keys by their hash.
    index: HashTable<u32>,
    /// Number of the key of each event.
    entity_of: Vec<u32>,
    inputs: Vec<u8>,
    /// Whether the values are not all of the batch, as they are there.
    has_own_values: bool,
    /// Then they are here: without their frames, or of a part of the batch.
    values: OptionalColumn,
    headers: Option<HeadersColumn>,
    record_keys: Option<OptionalColumn>,
    origins: Option<OriginsColumn>,
    /// Where each event was before it was merged; empty where nothing is.
    places: Vec<Origin>,
}

/// Where a record of a merge topic was.
#[derive(Debug, Clone, Copy)]
struct Origin {
    /// Index of its topic in the plugin's inputs.
    input: u8,
    partition: Partition,
    offset: Offset,
}

/// What is known about a key of the input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entity {
    /// As the states hash it.
    pub(super) hash: u64,
    /// Where the states have it.
    pub(super) at: Option<Place>,
    /// Its first event in this call.
    first_event: usize,
    /// Offset of its last event in this call.
    pub(super) last_offset: Offset,
    /// That event's timestamp.
    pub(super) last_timestamp_ms: i64,
}

impl Assembled {
    /// Fills the columns with the records from `from` on, at most `events_max`, and fewer where
    /// their states would not fit. Returns how many went in and, if it stopped at one that cannot
    /// be folded, why.
    pub(super) fn fill<S: States>(
        &mut self,
        batch: &RecordBatch,
        from: usize,
        events_max: usize,
        before: &Before<'_, S>,
        source: &Source,
    ) -> (usize, Option<Poison>) {
        self.keys.clear();
        self.states.clear();
        self.entities.clear();
        self.index.clear();
        self.entity_of.clear();
        self.places.clear();
        let until = batch.len().min(from + events_max);
        let (grouped, poison) = self.group(batch, from, until, before.states, source);
        let events = self.fill_states(before, grouped);
        self.fill_events(batch, from, events, source);
        (events, poison.filter(|_| events == grouped))
    }

    /// What the call takes: the columns that were filled last with records from `from` on, and the batch's own.
    pub(super) fn input<'a>(
        &'a self,
        batch: &'a RecordBatch,
        from: usize,
        source: &Source,
    ) -> FoldInput<'a> {
        let events = from..from + self.entity_of.len();
        FoldInput {
            partition: source.partition.0,
            keys: &self.keys,
            states: &self.states,
            entities: &self.entity_of,
            values: match self.has_own_values {
                true => &self.values,
                false => batch.values(),
            },
            inputs: &self.inputs,
            timestamps_ms: &batch.timestamps_ms()[events.clone()],
            offsets: match source.versions {
                true => &[],
                false => &batch.offsets()[events],
            },
            headers: self.headers.as_ref(),
            record_keys: self.record_keys.as_ref(),
            origins: self.origins.as_ref(),
        }
    }

    /// Gives each record the number of its key. Returns for how many, and why not for the next.
    fn group<S: States>(
        &mut self,
        batch: &RecordBatch,
        from: usize,
        until: usize,
        states: &S,
        source: &Source,
    ) -> (usize, Option<Poison>) {
        let is_framed = source.is_framed();
        for index in from..until {
            let record = batch.get(index);
            let checked = check_key(&record, source).and_then(|key| {
                let origin = origin(&record, source)?;
                if is_framed {
                    source.content(record, origin.map_or(0, |it| it.input))?;
                }
                self.places.extend(origin);
                Ok(key)
            });
            let key = match checked {
                Ok(key) => key,
                Err((code, reason)) => {
                    let poison = Poison {
                        index,
                        code: code.to_owned(),
                        reason,
                    };
                    return (index - from, Some(poison));
                }
            };
            let entity = self.entity(states.hash(key), key, index - from);
            self.entity_of.push(entity);
        }
        (until - from, None)
    }

    /// Number of a key among those of the call.
    fn entity(&mut self, hash: u64, key: &[u8], event: usize) -> u32 {
        let keys = &self.keys;
        let known = self
            .index
            .find(hash, |entity| keys.get(*entity as usize) == key);
        if let Some(known) = known {
            return *known;
        }
        let entity = u32::try_from(self.entities.len()).expect("a batch is bounded");
        self.keys.push(key);
        self.entities.push(Entity {
            hash,
            at: None,
            first_event: event,
            last_offset: Offset(0),
            last_timestamp_ms: 0,
        });
        let entities = &self.entities;
        let hash_of = |entity: &u32| entities[*entity as usize].hash;
        self.index.insert_unique(hash, entity, hash_of);
        entity
    }

    /// Looks keys up and copies the states that fit; drops the keys of the others. Returns how many of the `events`
    /// have theirs.
    ///
    /// A table of states is larger than any cache: of some keys at a time, so that lookups which do not depend on
    /// each other wait for memory together, and what was looked at is still near when it is copied.
    fn fill_states<S: States>(&mut self, before: &Before<'_, S>, events: usize) -> usize {
        for from in (0..self.entities.len()).step_by(LOOKED_AT) {
            let until = self.entities.len().min(from + LOOKED_AT);
            let hashes = self.entities[from..until].iter().map(|entity| entity.hash);
            before.states.look_ahead(hashes);
            for index in from..until {
                let is_full = self.states.items.data.len() >= limits::BATCH_STATE_BYTES_MAX;
                if is_full && index > 0 {
                    // Keys are numbered as they come: all events of the later ones are behind this one.
                    let fit = self.entities[index].first_event;
                    self.entities.truncate(index);
                    self.keys.truncate(index);
                    self.entity_of.truncate(fit);
                    return fit;
                }
                let entity = &mut self.entities[index];
                let key = self.keys.get(index);
                entity.at = before.states.find(entity.hash, key);
                let state = before.state(entity.hash, key, entity.at);
                self.states.push(state);
            }
        }
        events
    }

    fn fill_events(&mut self, batch: &RecordBatch, from: usize, events: usize, source: &Source) {
        for (index, entity) in (from..).zip(&self.entity_of) {
            let entity = &mut self.entities[*entity as usize];
            (entity.last_offset, entity.last_timestamp_ms) = match source.versions {
                true => version(&batch.get(index)),
                false => (Offset(batch.offsets()[index]), batch.timestamps_ms()[index]),
            };
        }
        self.inputs.clear();
        self.inputs.extend(self.places.iter().map(|it| it.input));
        self.inputs.resize(events, 0);
        self.values.clear();
        self.has_own_values = source.is_framed() || events < batch.len();
        self.headers = source.headers.then(HeadersColumn::default);
        self.record_keys = source.record_keys.then(OptionalColumn::default);
        self.origins = source.origins.then(OriginsColumn::default);
        if let Some(origins) = &mut self.origins {
            for place in self.places.iter().take(events) {
                origins.partitions.push(place.partition.0);
                origins.offsets.push(place.offset.0);
            }
        }
        if self.has_own_values || self.headers.is_some() || self.record_keys.is_some() {
            for index in 0..events {
                self.push_event(batch.get(from + index), self.inputs[index], source);
            }
        }
    }

    fn push_event(&mut self, record: RecordRef<'_>, input: u8, source: &Source) {
        let content = source
            .content(record, input)
            .expect("records whose frame is bad are not in the call");
        if self.has_own_values {
            self.values.push(content.value);
        }
        if let Some(keys) = &mut self.record_keys {
            keys.push(merged::record_key(&record));
        }
        if let Some(headers) = &mut self.headers {
            headers.push_record(content.headers());
        }
    }
}

/// The version that an event of a command handler makes, and when. One from before the topic was adopted says none:
/// its place in the log grows as well. One that tells a state again says which it was, and since when.
fn version(record: &RecordRef<'_>) -> (Offset, i64) {
    let version = version_of(record);
    (
        version.map_or(record.offset.next(), Offset),
        told_again(record).unwrap_or(record.timestamp_ms),
    )
}

/// Where a record was before it was merged; `None` where nothing is.
fn origin(
    record: &RecordRef<'_>,
    source: &Source,
) -> Result<Option<Origin>, (&'static str, String)> {
    let Some(topics) = &source.merged else {
        return Ok(None);
    };
    let found = merged::origin(record).and_then(|at| {
        let input = topics.iter().position(|topic| *topic == at.topic)?;
        Some(Origin {
            input: u8::try_from(input).ok()?,
            partition: at.partition,
            offset: at.offset,
        })
    });
    match found {
        Some(origin) => Ok(Some(origin)),
        None => Err((
            "foreign-record",
            "it does not say which input it was copied from: somebody else has written to the merge \
             topic, which belongs to the host alone"
                .to_owned(),
        )),
    }
}

fn check_key<'a>(
    record: &RecordRef<'a>,
    source: &Source,
) -> Result<&'a [u8], (&'static str, String)> {
    let Some(key) = record.key else {
        return Err((
            "event-without-key",
            "the record has no key, so it belongs to no state; write records with keys to this topic"
                .to_owned(),
        ));
    };
    if key.len() > limits::KEY_BYTES_MAX {
        return Err((
            "key-too-long",
            format!(
                "its key has {} bytes, more than {}",
                key.len(),
                limits::KEY_BYTES_MAX
            ),
        ));
    }
    let expected = source.partitioner.partition(key, source.partitions);
    if expected != source.partition {
        return Err((
            "key-not-of-partition",
            format!(
                "its key belongs to partition {expected} by the input's partitioner; whoever writes \
                 this topic spreads keys in another way: set `partitioner` of the input"
            ),
        ));
    }
    Ok(key)
}
