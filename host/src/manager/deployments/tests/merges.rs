//! Which merge topic a generation folds, as deployments come and go.

use super::*;

/// Code that names its keys, by this route.
fn routed(component: &[u8], route_schema: &str) -> DeployRequested {
    DeployRequested {
        routes: true,
        manifest: manifest(&format!("route-schema = \"{route_schema}\"\n")),
        ..code(component)
    }
}

fn publishing(request: DeployRequested) -> DeployRequested {
    let output = crate::plugin::manifest::Output {
        topic: TopicName::new("told").unwrap(),
        partitions: None,
        compact: false,
    };
    DeployRequested {
        kind: Kind::Republisher,
        manifest: Manifest {
            output: Some(output),
            ..request.manifest
        },
        ..request
    }
}

fn with_two_inputs(component: &[u8]) -> DeployRequested {
    let toml = "name = \"a\"\nversion = \"1.0.0\"\ninputs = [\"flights\", \"planes\"]\n\
                state-schema = \"s/1\"\n";
    DeployRequested {
        manifest: Manifest::from_toml(toml).unwrap(),
        ..code(component)
    }
}

fn deployed(verdict: Verdict) -> Arc<Deployment> {
    match verdict {
        Verdict::Created(it) | Verdict::Building(it) | Verdict::Swapped(it) => it,
        other => panic!("{other:?}"),
    }
}

fn merge(number: u64, partitions: u32) -> Option<Merge> {
    Some(Merge { number, partitions })
}

/// Ready and switched: the building generation answers.
fn promote(world: &mut World, deployment: &Deployment) {
    for partition in (0..deployment.partitions).map(Partition) {
        world.apply(Body::Report(Reported {
            name: name(),
            generation: deployment.generation,
            deployment: deployment.id,
            partition,
            report: Report::Ready,
        }));
    }
    for partition in (0..deployment.partitions).map(Partition) {
        world.apply(Body::Switched(name(), deployment.generation, partition));
    }
}

#[test]
fn one_input_under_its_own_keys_is_folded_as_it_is() {
    let mut world = World::default();
    assert_eq!(deployed(world.deploy(code(b"1"))).merge, None);
}

#[test]
fn the_same_route_folds_the_same_topic_and_another_one_a_new_one() {
    let mut world = World::default();
    let first = deployed(world.deploy(routed(b"1", "by-carrier/1")));
    assert_eq!((first.merge, first.partitions), (merge(1, 2), 2));
    // The input has grown meanwhile: keys stay where they are.
    let grown = DeployRequested {
        partitions: 8,
        ..routed(b"2", "by-carrier/1")
    };
    let second = deployed(world.deploy(grown));
    assert_eq!((second.merge, second.partitions), (merge(1, 2), 2));
    promote(&mut world, &second);
    let third = deployed(world.deploy(routed(b"3", "by-carrier/2")));
    assert_eq!(third.merge, merge(2, 2));
    assert!(
        !world.fold.is_merge_dead(&name(), 1),
        "the second still serves"
    );
    promote(&mut world, &third);
    assert!(world.fold.is_merge_dead(&name(), 1));
    assert!(!world.fold.is_merge_dead(&name(), 2));
    assert!(!world.fold.is_merge_dead(&name(), 3), "it was never given");
}

#[test]
fn other_inputs_or_partitions_are_merged_anew() {
    let mut world = World::default();
    let first = deployed(world.deploy(with_two_inputs(b"1")));
    assert_eq!(first.merge, merge(1, 2));
    let mut wider = with_two_inputs(b"2");
    wider.manifest.merge_partitions = Some(4);
    wider.partitions = 4;
    let second = deployed(world.deploy(wider));
    assert_eq!((second.merge, second.partitions), (merge(2, 4), 4));
    promote(&mut world, &second);
    let mapped = DeployRequested {
        topics: [("planes".to_owned(), TopicName::new("prod.planes").unwrap())].into(),
        partitions: 4,
        ..with_two_inputs(b"2")
    };
    assert_eq!(deployed(world.deploy(mapped)).merge, merge(3, 4));
}

#[test]
fn states_of_another_merge_topic_cannot_stay() {
    let mut world = World::default();
    deployed(world.deploy(routed(b"1", "by-carrier/1")));
    let keep = |component, route| DeployRequested {
        state: Some(StatePolicy::Keep),
        ..routed(component, route)
    };
    let problem = refused(world.deploy(keep(b"2", "by-carrier/2")));
    assert_eq!(problem.code, Code::InputsChanged);
    assert!(
        problem.detail.contains("route-schema"),
        "{}",
        problem.detail
    );
    let kept = deployed(world.deploy(keep(b"2", "by-carrier/1")));
    assert_eq!(kept.merge, merge(1, 2));
}

#[test]
fn what_was_published_from_other_inputs_is_not_published_on() {
    let mut world = World::default();
    deployed(world.deploy(publishing(routed(b"1", "by-carrier/1"))));
    let problem = refused(world.deploy(publishing(routed(b"2", "by-carrier/2"))));
    assert_eq!(problem.code, Code::InputsChanged);
    assert!(
        problem.detail.contains("--emit-from earliest"),
        "{}",
        problem.detail
    );
    let same = deployed(world.deploy(publishing(routed(b"2", "by-carrier/1"))));
    assert_eq!(same.merge, merge(1, 2));
}

#[test]
fn a_number_is_not_used_again_after_a_delete() {
    let mut world = World::default();
    deployed(world.deploy(with_two_inputs(b"1")));
    world.apply(Body::Delete(name()));
    assert!(world.fold.is_merge_dead(&name(), 1));
    assert_eq!(
        deployed(world.deploy(with_two_inputs(b"1"))).merge,
        merge(2, 2)
    );
}

#[test]
fn a_handler_takes_commands_from_the_same_topics_for_ever() {
    let handler = |request: DeployRequested, inputs: &str| {
        let mut request = publishing(request);
        request.kind = Kind::CommandHandler;
        let toml = format!(
            "name = \"a\"\nversion = \"1.0.0\"\noutput = \"told\"\n{inputs}\nstate-schema = \"s/1\"\n"
        );
        request.manifest = Manifest::from_toml(&toml).unwrap();
        request
    };
    let mut world = World::default();
    let first = deployed(world.deploy(handler(code(b"1"), "")));
    assert_eq!(first.merge, None);
    // One that has decided none of a topic may begin.
    let second = deployed(world.deploy(handler(code(b"2"), "inputs = [\"asked\"]")));
    assert_eq!(second.merge, merge(1, 2));
    promote(&mut world, &second);
    for inputs in [
        "",
        "inputs = [\"others\"]",
        "inputs = [\"asked\", \"others\"]",
    ] {
        let problem = refused(world.deploy(handler(code(b"3"), inputs)));
        assert_eq!(problem.code, Code::InputsChanged, "{inputs}");
        let said = problem.detail.contains("takes commands from asked");
        assert!(said, "{}", problem.detail);
    }
    let same = deployed(world.deploy(handler(code(b"3"), "inputs = [\"asked\"]")));
    assert_eq!(same.merge, merge(1, 2));
}
