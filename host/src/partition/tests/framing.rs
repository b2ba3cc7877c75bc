//! Values in the frame of a schema registry, on their way into the step.

use super::*;
use crate::log::Framing;
use crate::partition::merged;

fn framed(value: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0, 7, 0], value].concat()
}

fn pushed(batch: &mut RecordBatch, value: Option<&[u8]>, topic: Option<&str>) {
    let offset = Offset(batch.len() as u64);
    let marks: Vec<_> = match topic {
        Some(topic) => merged::marks(&origin(topic), None).collect(),
        None => Vec::new(),
    };
    let marks = marks
        .iter()
        .map(|(name, value)| (&**name, value.as_deref()));
    batch.push(offset, 0, Some(b"key"), value, marks);
}

fn origin(topic: &str) -> crate::types::RecordPosition {
    crate::types::RecordPosition {
        topic: TopicName::new(topic).unwrap(),
        partition: Partition(0),
        offset: Offset(3),
    }
}

#[test]
fn a_plugin_sees_values_without_their_frame_and_a_bad_frame_is_poison() {
    let source = Source {
        framings: vec![Framing::Confluent],
        on_error: OnError::DeadLetter,
        ..SOURCE
    };
    let mut batch = RecordBatch::new();
    pushed(&mut batch, Some(&framed(b"")), None);
    pushed(&mut batch, Some(&framed(b"reject")), None);
    pushed(&mut batch, Some(b"reject"), None);
    pushed(&mut batch, Some(&framed(b"")), None);
    let mut slot = InstanceSlot::new(Counter::new());
    let stepped = step(&mut slot, &Model::default(), &batch, &source).unwrap();
    let aside: Vec<_> = stepped
        .set_aside
        .iter()
        .map(|it| (it.index, it.code.as_str()))
        .collect();
    assert_eq!(aside, [(1, "rejected:marked"), (2, "bad-frame")]);
    assert_eq!((stepped.folded, counted(&stepped)), (4, 2));

    let source = Source {
        on_error: OnError::Stop,
        ..source
    };
    let mut batch = RecordBatch::new();
    pushed(&mut batch, Some(&framed(b"")), None);
    pushed(&mut batch, Some(&[0, 1]), None);
    let stepped = step(&mut slot, &Model::default(), &batch, &source).unwrap();
    let found = stepped.poison.clone().expect("it is too short");
    assert_eq!(
        (stepped.folded, found.index, found.code.as_str()),
        (1, 1, "bad-frame")
    );
    // A tombstone has no frame.
    let mut batch = RecordBatch::new();
    pushed(&mut batch, None, None);
    let stepped = step(&mut slot, &Model::default(), &batch, &source).unwrap();
    assert_eq!((stepped.folded, stepped.poison), (1, None));
}

#[test]
fn each_of_several_inputs_has_its_own_framing() {
    let topics = ["plain", "framed"].map(|topic| TopicName::new(topic).unwrap());
    let source = Source {
        framings: vec![Framing::None, Framing::Confluent],
        merged: Some(Arc::from(topics)),
        ..SOURCE
    };
    let mut batch = RecordBatch::new();
    pushed(&mut batch, Some(b""), Some("plain"));
    pushed(&mut batch, Some(&framed(b"")), Some("framed"));
    pushed(&mut batch, Some(b""), Some("framed"));
    let mut slot = InstanceSlot::new(Counter::new());
    let stepped = step(&mut slot, &Model::default(), &batch, &source).unwrap();
    let found = stepped.poison.clone().expect("it is not framed");
    assert_eq!((found.index, found.code.as_str()), (2, "bad-frame"));
    assert_eq!(counted(&stepped), 2);
}
