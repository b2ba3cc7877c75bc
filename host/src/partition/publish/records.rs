//! The records that a partition publishes: what its plugin emitted, with the host's stamp, and dead
//! letters.
//!
//! Invariant: names of headers that begin with `foldhost-` are the host's; no plugin can emit one.

use std::fmt::Write as _;

use bytes::Bytes;

use super::super::step::{EmittedByCall, Poison};
use super::super::{PartitionSpec, merged};
use crate::limits;
use crate::log::{
    Header, NewRecord, NewRecords, RecordBatch, RecordRef, TRAVELLING_HEADERS, owned_header,
};
use crate::plugin::Emitted;
use crate::state::KeyState;
use crate::types::{GenerationId, Offset, Partition, PluginName, TopicName, TopicPartition};

/// What the host writes on every record of a partition.
#[derive(Debug)]
pub(in crate::partition) struct Stamp {
    plugin: Bytes,
    generation: Bytes,
    topic: TopicName,
    partition: Partition,
}

impl Stamp {
    pub(in crate::partition) fn new(spec: &PartitionSpec) -> Self {
        Self::of(&spec.store.plugin, spec.store.generation, &spec.source())
    }

    /// The stamp of a plugin's generation on what it makes of a partition.
    pub(in crate::partition) fn of(
        plugin: &PluginName,
        generation: GenerationId,
        source: &TopicPartition,
    ) -> Self {
        Self {
            plugin: Bytes::from(plugin.to_string()),
            generation: Bytes::from(generation.to_string()),
            topic: source.topic.clone(),
            partition: source.partition,
        }
    }

    /// Appends the records that a call emitted, for `topic`, as far as they are due by the offset of their cause;
    /// those of events that only tell a state again, if it `fires` on them.
    pub(super) fn outputs(
        &self,
        batch: &RecordBatch,
        call: &EmittedByCall,
        fires: bool,
        is_due: impl Fn(Offset) -> bool,
        topic: &TopicName,
        into: &mut NewRecords,
    ) {
        let Emitted {
            causes,
            keys,
            values,
            timestamps_ms,
            headers,
        } = &call.records;
        let mut header = 0;
        let mut cause = Cause::default();
        let mut caused_by = None;
        for (index, &by) in causes.iter().enumerate() {
            let record = batch.get(call.first + by as usize);
            if caused_by != Some(by) {
                self.read_cause(&record, &mut cause);
                caused_by = Some(by);
            }
            let own = headers.as_ref().map_or(0, |it| it.counts[index] as usize);
            let of_record = header..header + own;
            header += own;
            if !is_due(record.offset) || (cause.is_bootstrap && !fires) {
                continue;
            }
            let own: Vec<_> = match headers {
                Some(headers) => of_record.map(|at| headers.get(at)).collect(),
                None => Vec::new(),
            };
            let is_own = |name: &str| own.iter().any(|(own, _)| *own == name);
            let travelling = cause.travelling.iter();
            let stamped = travelling
                .map(|(name, value)| (&**name, value.as_deref()))
                .filter(|(name, _)| !is_own(name))
                .chain([
                    (PLUGIN, Some(&self.plugin[..])),
                    (GENERATION, Some(&self.generation[..])),
                    (CAUSE, Some(cause.position.as_bytes())),
                ]);
            into.push(
                topic,
                match timestamps_ms {
                    Some(timestamps) => timestamps[index],
                    None => record.timestamp_ms,
                },
                Some(keys.get(index)),
                values.get(index),
                own.iter().copied().chain(stamped),
            );
        }
    }

    /// An event that could not be applied, as it lies in its input, with what was wrong: in headers of the
    /// names that Kafka Streams uses (KIP-1034).
    pub(in crate::partition) fn letter(
        &self,
        record: &RecordRef<'_>,
        poison: &Poison,
    ) -> NewRecord {
        let (topic, partition, offset) = self.origin(record);
        let mut headers: Vec<Header> = record
            .headers()
            .filter(|(name, _)| !merged::is_mark(name))
            .map(owned_header)
            .collect();
        let errors = [
            ("exception", poison.code.clone()),
            ("message", poison.reason.clone()),
            ("topic", topic.to_string()),
            ("partition", partition.to_string()),
            ("offset", offset.to_string()),
        ];
        headers.extend(errors.map(|(name, value)| {
            let name = format!("__streams.errors.{name}");
            (name.into(), Some(Bytes::from(value)))
        }));
        self.stamp(&mut headers);
        NewRecord {
            key: merged::record_key(record).map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            headers,
            timestamp_ms: Some(record.timestamp_ms),
            partition: None,
        }
    }

    /// Stamps an event with what caused it, and the version of its key that it makes.
    pub(in crate::partition) fn event(
        &self,
        headers: &mut Vec<Header>,
        version: Option<u64>,
        cause: &str,
    ) {
        self.stamp(headers);
        if let Some(version) = version {
            headers.push((VERSION.into(), Some(Bytes::from(version.to_string()))));
        }
        headers.push((CAUSE.into(), Some(Bytes::from(cause.to_owned()))));
    }

    /// Stamps an event that tells a state again: by which decision, of which version, and when the key last
    /// changed, so that whoever folds it has the state that was told, with all that belongs to it.
    pub(in crate::partition) fn bootstrap_event(
        &self,
        headers: &mut Vec<Header>,
        number: u64,
        state: &KeyState,
    ) {
        let cause = format!("bootstrap {number}");
        self.event(headers, Some(state.version()), &cause);
        let text = |text: String| Some(Bytes::from(text));
        headers.push((BOOTSTRAP.into(), text(number.to_string())));
        headers.push((CHANGED_AT.into(), text(state.changed_at_ms.to_string())));
    }

    fn stamp(&self, headers: &mut Vec<Header>) {
        headers.push((PLUGIN.into(), Some(self.plugin.clone())));
        headers.push((GENERATION.into(), Some(self.generation.clone())));
    }

    /// Reads what outputs of a record say of it.
    fn read_cause(&self, record: &RecordRef<'_>, into: &mut Cause) {
        let (topic, partition, offset) = self.origin(record);
        into.position.clear();
        write!(into.position, "{topic}/{partition}@{offset}").expect("the text grows");
        into.is_bootstrap = false;
        into.travelling.clear();
        for (name, value) in record.headers() {
            into.is_bootstrap |= name == BOOTSTRAP;
            // What is made of a state that is told again is nothing new either.
            let mut names = TRAVELLING_HEADERS.into_iter().chain([BOOTSTRAP]);
            let bytes = value.map_or(0, <[u8]>::len);
            if let Some(name) = names.find(|it| *it == name)
                && bytes <= limits::TRAVELLING_HEADER_BYTES_MAX
            {
                let value = value.map(Bytes::copy_from_slice);
                into.travelling.push((name.into(), value));
            }
        }
    }

    /// Where a record was before any merge topic.
    fn origin(&self, record: &RecordRef<'_>) -> (TopicName, Partition, Offset) {
        match merged::origin(record) {
            Some(origin) => (origin.topic, origin.partition, origin.offset),
            None => (self.topic.clone(), self.partition, record.offset),
        }
    }
}

/// Whether a record carries the stamp of a plugin.
#[must_use]
pub fn is_stamped(record: &RecordRef<'_>, plugin: &PluginName) -> bool {
    let stamp = Some(plugin.as_str().as_bytes());
    record
        .headers()
        .any(|(name, value)| name == PLUGIN && value == stamp)
}

/// Version of a key that an event of a command handler has made, as its header says.
pub(in crate::partition) fn version_of(record: &RecordRef<'_>) -> Option<u64> {
    version_in(record.headers())
}

/// As [`version_of`], of an event that is not written yet.
pub(in crate::partition) fn version_of_new(record: &NewRecord) -> Option<u64> {
    let headers = record.headers.iter();
    version_in(headers.map(|(name, value)| (&**name, value.as_deref())))
}

fn version_in<'a>(mut headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> Option<u64> {
    let (_, version) = headers.find(|(name, _)| *name == VERSION)?;
    std::str::from_utf8(version?).ok()?.parse().ok()
}

/// When the key of an event that tells its state again has changed last, in milliseconds since the Unix epoch.
pub(in crate::partition) fn told_again(record: &RecordRef<'_>) -> Option<i64> {
    let mut headers = record.headers();
    let (_, changed_at) = headers.find(|(name, _)| *name == CHANGED_AT)?;
    std::str::from_utf8(changed_at?).ok()?.parse().ok()
}

/// Header with the number of the decision by which an event tells a state again.
const BOOTSTRAP: &str = "foldhost-bootstrap";
/// Header of such an event with the time of the last one that changed its key.
const CHANGED_AT: &str = "foldhost-changed-at";
/// Header with the version of its key that an event has made.
const VERSION: &str = "foldhost-version";
/// Header with the name of the plugin that published a record.
const PLUGIN: &str = "foldhost-plugin";
/// Header with the generation that published it.
const GENERATION: &str = "foldhost-generation";
/// Header with the record that caused it, as `topic/partition@offset`.
const CAUSE: &str = "foldhost-cause";

/// What the outputs of one event have in common.
#[derive(Default)]
struct Cause {
    position: String,
    travelling: Vec<Header>,
    /// It only tells a state again.
    is_bootstrap: bool,
}
