//! Which plugin owns which topic, as deployments come and go.

use super::*;
use crate::plugin::manifest::Output;

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn plugin(name: &str) -> PluginName {
    PluginName::new(name).unwrap()
}

/// A republisher under the name `a`, whose output is called `told` in its manifest.
fn publishing(component: &[u8], output: &str) -> DeployRequested {
    let manifest = Manifest {
        output: Some(Output {
            topic: topic("told"),
            partitions: None,
            compact: false,
        }),
        ..manifest("")
    };
    DeployRequested {
        kind: Kind::Republisher,
        manifest,
        topics: [("told".to_owned(), topic(output))].into(),
        ..code(component)
    }
}

/// The same under another name.
fn other(component: &[u8], output: &str) -> DeployRequested {
    DeployRequested {
        name: plugin("b"),
        ..publishing(component, output)
    }
}

fn from_earliest(request: DeployRequested) -> DeployRequested {
    DeployRequested {
        emit_from_earliest: true,
        ..request
    }
}

impl World {
    fn owner_of(&self, name: &str) -> Option<&str> {
        self.fold.owner_of(&topic(name)).map(PluginName::as_str)
    }
}

#[track_caller]
fn taken_by(verdict: Verdict, owner: &str) {
    let problem = refused(verdict);
    assert_eq!(problem.code, Code::OutputTaken, "{}", problem.detail);
    let quoted = format!("'{owner}'");
    for part in [quoted.as_str(), "--topic OUTPUT=TOPIC", "delete"] {
        assert!(problem.detail.contains(part), "{}", problem.detail);
    }
    assert!(problem.members.contains(&("owner", owner.into())));
}

#[test]
fn a_topic_has_one_publisher() {
    let mut world = World::default();
    let Verdict::Created(first) = world.deploy(DeployRequested {
        adopt_topic: true,
        ..publishing(b"1", "told")
    }) else {
        panic!()
    };
    assert_eq!(first.output.as_ref().unwrap().topic, topic("told"));
    assert!(first.adopts_topic && !first.emits_from_earliest);
    taken_by(world.deploy(other(b"2", "told")), "a");
    assert!(!world.fold.plugins().contains_key(&plugin("b")));
    assert!(matches!(
        world.deploy(other(b"2", "told-b")),
        Verdict::Created(_)
    ));
    // Neither by other code, nor on the states that are there.
    taken_by(world.deploy(other(b"3", "told")), "a");
    let on_states = DeployRequested {
        state: Some(StatePolicy::Keep),
        ..other(b"3", "told")
    };
    taken_by(world.deploy(on_states), "a");
    taken_by(world.deploy(publishing(b"3", "told-b")), "b");
    // The same plugin keeps its own.
    building(world.deploy(publishing(b"3", "told")));
    assert_eq!(
        (world.owner_of("told"), world.owner_of("told-b")),
        (Some("a"), Some("b"))
    );
    assert_eq!(
        world.owner_of("flights"),
        None,
        "a topic that is read is nobody's"
    );
    world.apply(Body::Delete(name()));
    assert_eq!(world.owner_of("told"), None);
    building(world.deploy(other(b"4", "told")));
}

#[test]
fn a_rebuild_owns_both_topics_until_the_old_generation_is_gone() {
    let mut world = World::default();
    world.deploy(publishing(b"1", "told"));
    building(world.deploy(publishing(b"2", "told-2")));
    for taken in ["told", "told-2"] {
        taken_by(world.deploy(other(b"3", taken)), "a");
    }
    world.build();
    taken_by(world.deploy(other(b"3", "told")), "a");
    world.switch();
    assert_eq!(
        (world.owner_of("told"), world.owner_of("told-2")),
        (None, Some("a"))
    );
    assert!(matches!(
        world.deploy(other(b"3", "told")),
        Verdict::Created(_)
    ));
    // What ran before would publish to what is another's now.
    taken_by(world.rollback(None), "b");
    taken_by(world.rollback(Some(StatePolicy::Keep)), "b");
    assert!(world.decided().building.is_none());
    world.apply(Body::Delete(plugin("b")));
    let back = building(world.rollback(None));
    assert_eq!(back.output.as_ref().unwrap().topic, topic("told"));
}

#[test]
fn a_build_that_is_dropped_gives_its_output_back() {
    let mut world = World::default();
    world.deploy(publishing(b"1", "told"));
    building(world.deploy(publishing(b"2", "told-2")));
    assert!(matches!(world.rollback(None), Verdict::Cancelled(_)));
    assert_eq!(
        (world.owner_of("told"), world.owner_of("told-2")),
        (Some("a"), None)
    );
}

#[test]
fn a_generation_owns_what_it_has_published_to() {
    let mut world = World::default();
    world.deploy(publishing(b"1", "told"));
    // The output is no part of the states: they can stay.
    let Verdict::Swapped(swapped) = world.deploy(DeployRequested {
        state: Some(StatePolicy::Keep),
        ..publishing(b"1", "told-2")
    }) else {
        panic!()
    };
    assert_eq!(swapped.output.as_ref().unwrap().topic, topic("told-2"));
    let newest = world.fold.publisher_of(&topic("told-2"));
    assert_eq!(newest.unwrap().id, swapped.id);
    assert_eq!(world.fold.publisher_of(&topic("flights")), None);
    // A host that has not heard of it yet publishes to the old one.
    for taken in ["told", "told-2"] {
        taken_by(world.deploy(other(b"3", taken)), "a");
    }
    assert!(matches!(
        world.rollback(Some(StatePolicy::Keep)),
        Verdict::Swapped(_)
    ));
    building(world.deploy(publishing(b"4", "told-3")));
    world.take_over();
    for free in ["told", "told-2"] {
        assert_eq!(world.owner_of(free), None);
        assert!(world.decided().has_owned(&topic(free)));
    }
    assert!(!world.decided().has_owned(&topic("flights")));
}

#[test]
fn a_generation_that_is_kept_keeps_its_output() {
    let mut world = World::default();
    let mut new = from_earliest(publishing(b"2", "told-2"));
    new.manifest.keep_generations = 1;
    world.deploy(publishing(b"1", "told"));
    building(world.deploy(new));
    world.take_over();
    taken_by(world.deploy(other(b"3", "told")), "a");
    let back = building(world.rollback(None));
    assert_eq!(back.how, How::Kept);
    assert_eq!(back.output.as_ref().unwrap().topic, topic("told"));
}

#[test]
fn what_comes_back_goes_on_where_the_present_one_stops() {
    let mut world = World::default();
    world.deploy(publishing(b"1", "told"));
    let anew = building(world.deploy(from_earliest(publishing(b"2", "told-2"))));
    assert!(anew.emits_from_earliest);
    world.take_over();
    let mut third = publishing(b"3", "told-2");
    third.manifest.keep_generations = 1;
    let third = building(world.deploy(third));
    assert!(!third.emits_from_earliest);
    world.take_over();
    let back = building(world.rollback(None));
    assert_eq!((back.how, back.generation), (How::Kept, anew.generation));
    assert!(
        !back.emits_from_earliest,
        "it has published all that before"
    );
    assert!(matches!(world.rollback(None), Verdict::Cancelled(_)));
    let back = building(world.rollback(Some(StatePolicy::Rebuild)));
    assert_eq!(back.digest, anew.digest);
    assert!(
        !back.emits_from_earliest,
        "it has published all that before"
    );
}

#[test]
fn nothing_is_published_twice_from_earliest() {
    let refused = |verdict, part: &str| {
        let problem = refused(verdict);
        assert_eq!(problem.code, Code::EmitFromRefused, "{}", problem.detail);
        assert!(problem.detail.contains(part), "{}", problem.detail);
    };
    let mut world = World::default();
    // A first deployment publishes from the earliest record anyway.
    assert!(matches!(
        world.deploy(from_earliest(publishing(b"1", "told"))),
        Verdict::Created(_)
    ));
    assert!(matches!(
        world.deploy(from_earliest(publishing(b"1", "told"))),
        Verdict::Unchanged(_)
    ));
    let twice = "would be published there twice";
    refused(world.deploy(from_earliest(publishing(b"2", "told"))), twice);
    let again = DeployRequested {
        state: Some(StatePolicy::Rebuild),
        ..from_earliest(publishing(b"1", "told"))
    };
    refused(world.deploy(again), twice);
    let on_states = DeployRequested {
        state: Some(StatePolicy::Keep),
        ..from_earliest(publishing(b"2", "told-2"))
    };
    refused(world.deploy(on_states), "--state rebuild");
    assert!(world.decided().building.is_none());
    let new = building(world.deploy(from_earliest(publishing(b"2", "told-2"))));
    assert!(new.emits_from_earliest);
    let same = building(world.deploy(from_earliest(publishing(b"2", "told-2"))));
    assert_eq!(same.id, new.id, "the same again waits for the same");
    world.take_over();
    // Neither where it publishes now, nor where it did before.
    for owned in ["told", "told-2"] {
        refused(world.deploy(from_earliest(publishing(b"3", owned))), twice);
    }
    // What runs without it does not start again because it is asked for.
    let plain = DeployRequested {
        name: plugin("b"),
        ..publishing(b"1", "told-b")
    };
    world.deploy(plain.clone());
    refused(world.deploy(from_earliest(plain)), twice);
}

#[test]
fn only_a_republisher_publishes_from_earliest() {
    let mut world = World::default();
    for (kind, word) in [
        (Kind::View, "is a view"),
        (Kind::CommandHandler, "is a command handler"),
    ] {
        let request = DeployRequested {
            kind,
            ..from_earliest(publishing(b"1", "told"))
        };
        let problem = refused(world.deploy(request));
        assert_eq!(problem.code, Code::EmitFromRefused);
        assert!(problem.detail.contains(word), "{}", problem.detail);
    }
    assert!(world.fold.plugins().is_empty());
}
