//! What is decided about parked records.

use bytes::Bytes;

use super::super::{DiscardRequested, ReplayRequested};
use super::*;
use crate::limits;

/// A plugin that parks.
fn parking() -> World {
    let mut world = World::default();
    world.deploy(DeployRequested {
        manifest: manifest("on-error = \"park-key\""),
        ..code(b"1")
    });
    world
}

fn replay(key: Option<&'static [u8]>) -> Body {
    Body::Replay(ReplayRequested {
        name: name(),
        key: key.map(Bytes::from_static),
        reason: "corrected".to_owned(),
    })
}

fn discard(first: u64, last: u64) -> Body {
    Body::Discard(Box::new(DiscardRequested {
        name: name(),
        key: Bytes::from_static(b"k"),
        first: format!("flights/1@{first}").parse().unwrap(),
        last: Offset(last),
        topic_id: Some([7; 16]),
        reason: "broken".to_owned(),
    }))
}

fn number(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Parked(number) => number,
        other => panic!("{other:?}"),
    }
}

#[test]
fn decisions_about_parked_records_are_numbered_and_kept() {
    let mut world = parking();
    let all = number(world.apply(replay(None)));
    let one = number(world.apply(replay(Some(b"k"))));
    let gone = number(world.apply(discard(5, 9)));
    assert!(all < one && one < gone);
    assert_eq!(number(world.apply(discard(5, 9))), gone, "the same again");
    let decided = world.decided();
    let actions: Vec<_> = decided.replays.iter().map(Replay::action).collect();
    assert_eq!((actions[0].number, actions[0].key.as_deref()), (all, None));
    assert_eq!(actions[1].key.as_deref(), Some(&b"k"[..]));
    let discard = decided.discards[0].action();
    assert!(discard.discards(b"k", Offset(9), Some([7; 16])));
    assert_eq!(decided.discards[0].reason, "broken");
    assert_eq!(decided.discards[0].principal, "me");
}

#[test]
fn what_never_parks_has_nothing_to_decide() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    assert_eq!(refused(world.apply(replay(None))).code, Code::NotParked);
    assert_eq!(refused(world.apply(discard(5, 9))).code, Code::NotParked);

    // What has parked may not park any more, and yet there is something left.
    let mut world = parking();
    world.deploy(keep(b"2"));
    assert!(matches!(world.apply(replay(None)), Verdict::Parked(_)));
}

#[test]
fn nothing_is_discarded_under_a_build_that_may_have_folded_it() {
    let mut world = parking();
    world.deploy(DeployRequested {
        manifest: manifest("on-error = \"park-key\""),
        ..code(b"2")
    });
    let problem = refused(world.apply(discard(5, 9)));
    assert_eq!(problem.code, Code::DeploymentUnderWay);
    assert!(matches!(world.apply(replay(None)), Verdict::Parked(_)));
    world.take_over();
    assert!(matches!(world.apply(discard(5, 9)), Verdict::Parked(_)));
}

#[test]
fn a_promotion_of_what_publishes_has_what_was_parked_folded() {
    let publishing = |digest| DeployRequested {
        kind: Kind::Republisher,
        manifest: manifest("on-error = \"park-key\"\noutput = \"told\""),
        ..code(digest)
    };
    let mut world = World::default();
    world.deploy(publishing(b"1"));
    world.deploy(publishing(b"2"));
    assert_eq!(world.decided().replays, []);
    world.take_over();
    let promotion = world.decided().replays[0].clone();
    assert_eq!(promotion.key, None);
    let words = "promotion: what generation 1 had parked is folded by generation 2";
    assert_eq!(promotion.reason, words);

    // A view makes nothing that would be missing.
    let mut world = parking();
    world.deploy(DeployRequested {
        manifest: manifest("on-error = \"park-key\""),
        ..code(b"2")
    });
    world.take_over();
    assert_eq!(world.decided().replays, []);
}

#[test]
fn decisions_are_bounded() {
    let mut world = parking();
    for _ in 0..2 * limits::REPLAYS_REMEMBERED_MAX {
        number(world.apply(replay(None)));
    }
    let replays = world.decided().replays.clone();
    assert_eq!(replays.len(), limits::REPLAYS_REMEMBERED_MAX);
    assert_eq!(replays.last().unwrap().number, world.offset);
    assert_eq!(refused(world.apply(discard(9, 5))).code, Code::BadRequest);
    for at in 0..limits::DISCARDS_MAX as u64 {
        number(world.apply(discard(at, at)));
    }
    let problem = refused(world.apply(discard(5, 9)));
    assert_eq!(problem.code, Code::TooLarge);
}
