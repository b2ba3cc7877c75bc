//! Copies by a route that does what a record's value says.

use std::sync::Arc;

use super::*;
use crate::plugin::{
    BytesColumn, Command, Decision, FoldInput, Folded, Inspection, Manifest, OptionalColumn,
    Payload, PluginCode, PluginInstance, QueryError, Question, Refusal,
};
use crate::plugin::{Capabilities, Description, Kind, Rejection};
use crate::types::{Digest, Offset, Partition, TopicName};

/// Routes every record by what its value names, and rejects, or dies of, what is marked so.
#[derive(Debug)]
struct ByValue(Inspection);

impl ByValue {
    fn slot() -> InstanceSlot {
        let manifest = "name = \"by-value\"\nversion = \"1.0.0\"\ninputs = [\"events\"]\n\
                        state-schema = \"none/1\"\n";
        InstanceSlot::new(Arc::new(Self(Inspection {
            digest: Digest::of(b"by-value"),
            manifest: Manifest::from_toml(manifest).unwrap(),
            capabilities: Capabilities::default(),
            kind: Kind::View,
            description: Description::default(),
        })))
    }
}

impl PluginCode for ByValue {
    fn inspection(&self) -> &Inspection {
        &self.0
    }

    fn instance(&self) -> Result<Box<dyn PluginInstance>, CallError> {
        Ok(Box::new(Instance))
    }
}

#[derive(Debug)]
struct Instance;

impl PluginInstance for Instance {
    fn route(&mut self, input: &RouteInput) -> Result<Routes, CallError> {
        let mut routes = Routes::default();
        for index in 0..input.inputs.len() {
            let cause = u32::try_from(index).unwrap();
            match input.values.get(index) {
                Some(b"trap") => return Err(CallError::Trap("marked".to_owned())),
                Some(b"reject") => routes.rejected.push(Rejection {
                    index: cause,
                    code: "marked".to_owned(),
                    reason: "it is marked".to_owned(),
                }),
                value => {
                    for key in value.unwrap_or(b"none").split(|&byte| byte == b',') {
                        routes.causes.push(cause);
                        routes.keys.push(key);
                    }
                }
            }
        }
        Ok(routes)
    }

    fn fold(&mut self, _: &FoldInput<'_>) -> Result<Folded, CallError> {
        unreachable!("records are routed only")
    }

    fn answer(
        &mut self,
        _: &[u8],
        _: Option<&[u8]>,
        _: &Question,
        _: u64,
    ) -> Result<Result<Payload, QueryError>, CallError> {
        unreachable!("records are routed only")
    }

    fn decide(
        &mut self,
        _: &[u8],
        _: Option<&[u8]>,
        _: &Command,
    ) -> Result<Result<Decision, Refusal>, CallError> {
        unreachable!("records are routed only")
    }

    fn migrate(
        &mut self,
        _: &str,
        _: u32,
        _: &BytesColumn,
        _: &OptionalColumn,
    ) -> Result<Result<OptionalColumn, String>, CallError> {
        unreachable!("records are routed only")
    }

    fn fuel_used(&self) -> u64 {
        1
    }
}

fn source(on_error: OnError, framing: Framing) -> CopySource {
    CopySource {
        of: TopicPartition {
            topic: TopicName::new("events").unwrap(),
            partition: Partition(2),
        },
        input: 0,
        framing,
        headers: false,
        on_error,
        record_bytes_max: 1 << 20,
        letter_bytes_max: 1 << 20,
    }
}

fn batch(records: &[(Option<&str>, Option<&[u8]>)]) -> RecordBatch {
    let mut batch = RecordBatch::new();
    for (offset, (key, value)) in (0..).zip(records) {
        batch.push(Offset(offset), 0, key.map(str::as_bytes), *value, []);
    }
    batch
}

/// Keys and values of the copies.
fn told(copied: &Copied) -> Vec<(&[u8], Option<&[u8]>)> {
    let copies = copied.copies.iter();
    copies
        .map(|copy| (copy.key.as_deref().unwrap(), copy.value.as_deref()))
        .collect()
}

fn aside(copied: &Copied) -> Vec<(usize, &str)> {
    let aside = copied.set_aside.iter();
    aside.map(|it| (it.index, it.code.as_str())).collect()
}

#[test]
fn what_cannot_be_routed_is_set_aside_alone() {
    let batch = batch(&[
        (Some("k"), Some(b"a,b")),
        (Some("k"), Some(b"trap")),
        (None, Some(b"c")),
        (Some("k"), Some(b"reject")),
        (Some("k"), None),
    ]);
    let mut slot = ByValue::slot();
    let source = source(OnError::DeadLetter, Framing::None);
    let copied = copy(Some(&mut slot), &batch, &source).unwrap();
    assert_eq!((copied.done, &copied.poison), (5, &None));
    assert_eq!(
        aside(&copied),
        [(1, "event-trapped"), (3, "rejected:marked")]
    );
    let expected: [(&[u8], Option<&[u8]>); 4] = [
        (b"a", Some(b"a,b")),
        (b"b", Some(b"a,b")),
        (b"c", Some(b"c")),
        (b"none", None),
    ];
    assert_eq!(told(&copied), expected);
}

#[test]
fn under_stop_nothing_behind_the_first_is_copied() {
    let batch = batch(&[
        (Some("k"), Some(b"a")),
        (Some("k"), Some(b"reject")),
        (Some("k"), Some(b"b")),
    ]);
    let source = source(OnError::Stop, Framing::None);
    let copied = copy(Some(&mut ByValue::slot()), &batch, &source).unwrap();
    let poison = copied.poison.as_ref().expect("it is rejected");
    assert_eq!((copied.done, poison.index), (1, 1));
    assert_eq!(told(&copied), [(&b"a"[..], Some(&b"a"[..]))]);
}

#[test]
fn without_a_route_a_record_without_key_cannot_be_copied() {
    let batch = batch(&[
        (Some("k"), Some(b"a")),
        (None, Some(b"b")),
        (Some("l"), None),
    ]);
    let source = source(OnError::DeadLetter, Framing::None);
    let copied = copy(None, &batch, &source).unwrap();
    assert_eq!(aside(&copied), [(1, "event-without-key")]);
    assert_eq!(told(&copied), [(&b"k"[..], Some(&b"a"[..])), (b"l", None)]);
}

#[test]
fn routes_see_values_without_frame_and_copies_keep_it() {
    const FRAMED: [u8; 7] = [0, 0, 0, 0, 7, 0, b'a'];
    let records: [(Option<&str>, Option<&[u8]>); 3] = [
        (Some("k"), Some(&FRAMED)),
        (Some("k"), Some(b"a")),
        (Some("k"), Some(&FRAMED)),
    ];
    let routed = source(OnError::DeadLetter, Framing::Confluent);
    let copied = copy(Some(&mut ByValue::slot()), &batch(&records), &routed).unwrap();
    assert_eq!(aside(&copied), [(1, "bad-frame")]);
    assert_eq!(copied.done, 3);
    assert_eq!(told(&copied), [(&b"a"[..], Some(&FRAMED[..])); 2]);

    let stops = source(OnError::Stop, Framing::Confluent);
    let copied = copy(Some(&mut ByValue::slot()), &batch(&records), &stops).unwrap();
    let poison = copied.poison.as_ref().expect("it is not framed");
    assert_eq!((poison.index, poison.code.as_str()), (1, "bad-frame"));
    assert_eq!((copied.done, copied.copies.len()), (1, 1));

    // Who does not route does not look: the fold does.
    let copied = copy(None, &batch(&records), &stops).unwrap();
    assert_eq!((copied.done, copied.copies.len()), (3, 3));
}
