//! Packing records into the columns of a call, and unpacking what comes back, as the host does.
//!
//! Called by [`play`](super::play). Invariant: nothing that the glue returns is believed before its
//! columns are checked.

use std::collections::BTreeMap;

use super::Record;
use super::route::Arrival;
use crate::abi::route;
use crate::abi::types::{
    BytesColumn, Emitted, Events, Folded, Headers, OptionalColumn, Origins, States,
};
use crate::columns::{ABSENT, PRESENT, UNCHANGED};
use crate::{COMMAND_HEADER, Timestamp};

/// The records of a batch before they have an entity.
pub(super) fn records(batch: &[Record]) -> route::Records {
    let mut keys = OptionalColumn::with_capacity(batch.len(), 0);
    let mut values = OptionalColumn::with_capacity(batch.len(), 0);
    for record in batch {
        keys.push(record.key());
        values.push(record.value());
    }
    route::Records {
        inputs: batch.iter().map(|record| record.input).collect(),
        keys,
        values,
        timestamps: batch.iter().map(|r| r.timestamp.millis()).collect(),
        headers: Some(headers(batch.iter())),
    }
}

/// The events of a batch with the states of their keys; the first has offset `next_offset`, or none has any.
/// `routed`: they come through a merge topic.
pub(super) fn events(
    arrivals: &[Arrival<'_>],
    before: &BTreeMap<Vec<u8>, Vec<u8>>,
    next_offset: Option<u64>,
    routed: bool,
) -> (States, Events) {
    let mut states = States {
        keys: BytesColumn::empty(),
        values: OptionalColumn::with_capacity(0, 0),
    };
    let mut values = OptionalColumn::with_capacity(arrivals.len(), 0);
    let mut record_keys = OptionalColumn::with_capacity(arrivals.len(), 0);
    let mut entities = Vec::new();
    let mut known = BTreeMap::new();
    for arrival in arrivals {
        let next = states.keys.len() as u32;
        let entity = *known.entry(&arrival.key).or_insert(next);
        if entity == next {
            states.keys.push(&arrival.key);
            let state = before.get(&arrival.key);
            states.values.push(state.map(Vec::as_slice));
        }
        entities.push(entity);
        values.push(arrival.record.value());
        record_keys.push(arrival.record.key());
    }
    let each = || arrivals.iter().map(|arrival| arrival.record);
    let offsets = arrivals.iter().map(|arrival| arrival.offset).collect();
    let events = Events {
        partition: 0,
        entities,
        values,
        inputs: each().map(|record| record.input).collect(),
        timestamps: each().map(|record| record.timestamp.millis()).collect(),
        offsets: next_offset.map(|next| (next..).take(arrivals.len()).collect()),
        record_keys: routed.then_some(record_keys),
        origins: routed.then_some(Origins {
            partitions: vec![0; arrivals.len()],
            offsets,
        }),
        headers: Some(headers(each())),
    };
    (states, events)
}

fn headers<'a>(records: impl Iterator<Item = &'a Record>) -> Headers {
    let mut headers = Headers {
        counts: Vec::new(),
        names: BytesColumn::empty(),
        values: OptionalColumn::with_capacity(0, 0),
    };
    for record in records {
        headers.counts.push(record.headers.len() as u32);
        for (name, value) in record.headers() {
            headers.names.push(name.as_bytes());
            headers.values.push(value);
        }
    }
    headers
}

/// What the host checks before it believes new states.
pub(super) fn check(states: &States, folded: &Folded) {
    let values = &folded.values;
    let keys = states.keys.len();
    check_optional(values, keys);
    for (entity, &mark) in values.marks.iter().enumerate() {
        match mark {
            PRESENT | ABSENT => {}
            UNCHANGED => assert_ne!(
                states.values.marks[entity], ABSENT,
                "what changed not must be there"
            ),
            mark => panic!("{mark} is no mark"),
        }
    }
    let ordered = folded.rejected.windows(2);
    assert!(
        ordered
            .into_iter()
            .all(|pair| pair[0].index < pair[1].index),
        "rejections come by increasing index, at most one per event"
    );
}

/// What the host checks before it publishes records; and the records, as a reader of the topic sees
/// them.
pub(super) fn unpack(emitted: &Emitted, events: &Events, folded: &Folded) -> Vec<Record> {
    let count = emitted.causes.len();
    check_ends(&emitted.keys.ends, emitted.keys.data.len(), count);
    check_optional(&emitted.values, count);
    assert!(emitted.causes.is_sorted(), "causes never decrease");
    for rejection in &folded.rejected {
        assert!(
            !emitted.causes.contains(&rejection.index),
            "a rejected event causes no record"
        );
    }
    if let Some(timestamps) = &emitted.timestamps {
        assert_eq!(timestamps.len(), count, "one time per record");
    }
    let mut headers = emitted.headers.as_ref().map(Reader::new);
    let records: Vec<_> = (0..count)
        .map(|index| {
            let cause = emitted.causes[index] as usize;
            let of_cause = events.timestamps[cause];
            let timestamp = emitted.timestamps.as_ref().map_or(of_cause, |t| t[index]);
            Record {
                key: Some(emitted.keys.item(index).to_vec()),
                value: emitted.values.item(index).map(<[u8]>::to_vec),
                timestamp: Timestamp::from_millis(timestamp),
                headers: headers.as_mut().map(|h| h.next(index)).unwrap_or_default(),
                input: 0,
            }
        })
        .collect();
    if let Some(reader) = headers {
        assert_eq!(
            reader.read,
            reader.headers.names.len(),
            "as many headers as the records have"
        );
    }
    records
}

/// Reads the headers of one record after the other.
struct Reader<'a> {
    headers: &'a Headers,
    read: usize,
}

impl<'a> Reader<'a> {
    fn new(headers: &'a Headers) -> Self {
        let names = headers.names.len();
        check_ends(&headers.names.ends, headers.names.data.len(), names);
        check_optional(&headers.values, names);
        Self { headers, read: 0 }
    }

    fn next(&mut self, record: usize) -> Vec<(String, Option<Vec<u8>>)> {
        let start = self.read;
        self.read += self.headers.counts[record] as usize;
        (start..self.read)
            .map(|position| {
                let name = self.headers.names.item(position).to_vec();
                let name = String::from_utf8(name).expect("a header's name is UTF-8");
                assert!(
                    name == COMMAND_HEADER || !name.starts_with("foldhost-"),
                    "{name} belongs to the host"
                );
                let value = self.headers.values.item(position);
                (name, value.map(<[u8]>::to_vec))
            })
            .collect()
    }
}

fn check_optional(column: &OptionalColumn, items: usize) {
    check_ends(&column.ends, column.data.len(), items);
    assert_eq!(column.marks.len(), items, "one mark per item");
    let mut start = 0;
    for (&end, &mark) in column.ends.iter().zip(&column.marks) {
        assert!(mark == PRESENT || end == start, "no item, so no bytes");
        start = end;
    }
}

pub(super) fn check_ends(ends: &[u32], bytes: usize, items: usize) {
    assert_eq!(ends.len(), items, "one end per item");
    assert!(ends.is_sorted(), "ends never decrease");
    assert_eq!(
        ends.last().copied().unwrap_or(0) as usize,
        bytes,
        "the last end is the length of the data"
    );
}
