//! The set of parked records alone.

use super::*;

fn record(key: &'static str, offset: u64) -> ParkedRecord {
    ParkedRecord {
        offset: Offset(offset),
        timestamp_ms: 1,
        key: Bytes::from_static(key.as_bytes()),
        value: Some(Bytes::from_static(b"v")),
        headers: vec![("h".to_owned(), None)],
        cause: None,
        withheld: false,
    }
}

fn parking(records: &[(&'static str, u64)]) -> Parking {
    Parking::stored(records.iter().map(|(key, at)| record(key, *at)).collect())
}

fn replay(number: u64, key: Option<&'static str>) -> Action {
    Action {
        number,
        key: key.map(|key| Bytes::from_static(key.as_bytes())),
        discarded: None,
    }
}

fn discard(number: u64, key: &'static str, first: u64, last: u64) -> Action {
    Action {
        discarded: Some(Discarded {
            first: Offset(first),
            last: Offset(last),
            topic_id: Some([1; 16]),
        }),
        ..replay(number, Some(key))
    }
}

fn offsets(chunk: &Chunk) -> Vec<u64> {
    chunk.records.iter().map(|record| record.offset.0).collect()
}

#[test]
fn what_is_parked_is_counted_listed_and_told_to_the_next_commit() {
    let mut parking = parking(&[("b", 3), ("a", 5), ("b", 7)]);
    assert_eq!(parking.freeze(), [], "the store has it");
    assert_eq!((parking.keys(), parking.records()), (2, 3));
    let listed = parking.list(None, 10);
    let listed: Vec<_> = listed
        .iter()
        .map(|it| (&it.key[..], it.records, it.first.offset.0, it.last.0))
        .collect();
    assert_eq!(listed, [(&b"a"[..], 1, 5, 5), (b"b", 2, 3, 7)]);
    assert_eq!(parking.list(Some(b"a"), 10).len(), 1);
    assert_eq!(parking.of_key(b"b", Offset(4), 10)[0].offset, Offset(7));

    parking.park(record("b", 9));
    parking.remove(&record("a", 5));
    assert!(!parking.holds(b"a") && parking.holds(b"b"));
    let changed = parking.freeze();
    let changed: Vec<_> = changed
        .iter()
        .map(|(at, it)| (at.0, it.is_some()))
        .collect();
    assert_eq!(changed, [(5, false), (9, true)]);
    for at in [3, 7, 9] {
        parking.remove(&record("b", at));
    }
    assert!(parking.is_empty() && parking.bytes == 0);
}

#[test]
fn room_is_bounded_in_records_and_bytes() {
    let mut parking = Parking::with_room(2, 3 * record("a", 1).bytes());
    let bytes = record("a", 1).bytes();
    parking.park(record("a", 1));
    assert!(parking.has_room(1, bytes) && !parking.has_room(2, 2 * bytes));
    assert!(!parking.has_room(1, 2 * bytes + 1));
    parking.remove(&record("a", 1));
    assert!(parking.has_room(2, 3 * bytes));
}

#[test]
fn a_replay_takes_records_in_the_order_of_the_log_and_leaves_keys_that_failed() {
    let parking = parking(&[("a", 1), ("b", 2), ("a", 3), ("c", 4)]);
    let all = replay(9, None);
    let before = ActionPoint::done(8);
    assert_eq!(
        offsets(&parking.chunk(&all, before, None, None)),
        [1, 2, 3, 4]
    );
    let one = replay(9, Some("a"));
    assert_eq!(offsets(&parking.chunk(&one, before, None, None)), [1, 3]);
    let none = parking.chunk(&replay(9, Some("x")), before, None, None);
    assert!(none.records.is_empty() && none.is_last);
    // It has come to the record at 2: `a` and `b` failed there, or they would not be parked.
    let within = ActionPoint {
        number: 9,
        until: Offset(2),
    };
    assert_eq!(offsets(&parking.chunk(&all, within, None, None)), [4]);
}

#[test]
fn a_long_replay_goes_in_chunks() {
    let events = limits::BATCH_EVENTS_MAX as u64;
    let records: Vec<_> = (0..events + 5).map(|at| ("a", at)).collect();
    let parking = parking(&records);
    let first = parking.chunk(&replay(2, None), ActionPoint::done(1), None, None);
    let bytes: usize = first.records.iter().map(|record| record.bytes()).sum();
    assert!(!first.is_last && first.records.len() as u64 <= events);
    assert!(bytes <= limits::BATCH_BYTES_MAX && bytes > limits::BATCH_BYTES_MAX / 2);
}

#[test]
fn a_discard_is_of_offsets_of_one_topic_and_what_is_behind_goes_on() {
    let parking = parking(&[("a", 1), ("a", 3), ("a", 5), ("b", 2)]);
    let action = discard(9, "a", 1, 3);
    let gone = parking.discarded(&action, Some([1; 16]));
    let gone: Vec<_> = gone.iter().map(|it| it.offset.0).collect();
    assert_eq!(gone, [1, 3]);
    let before = ActionPoint::done(8);
    let left = parking.chunk(&action, before, Some([1; 16]), None);
    assert_eq!((offsets(&left), left.is_last), (vec![5], true));
    assert!(parking.discarded(&action, Some([2; 16])).is_empty());

    let actions: Actions = [action, replay(4, None)].into_iter().collect();
    assert_eq!(actions.behind(ActionPoint::done(0)).unwrap().number, 4);
    assert_eq!(actions.behind(ActionPoint::done(4)).unwrap().number, 9);
    assert_eq!(actions.behind(ActionPoint::done(9)), None);
    let left_out = |point, offset| actions.discard(point, b"a", Offset(offset), Some([1; 16]));
    assert!(left_out(ActionPoint::done(9), 2) && !left_out(ActionPoint::done(9), 4));
    assert!(!left_out(ActionPoint::done(8), 2), "it is not applied yet");
}
