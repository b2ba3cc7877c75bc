//! The fold, as requests and reports come in.

use std::collections::BTreeMap;

use super::*;
use crate::error::Code;
use crate::plugin::{Kind, Manifest};
use crate::types::{Offset, PluginName};

mod bootstraps;
mod merges;
mod outputs;
mod parked;

/// A fold with offsets that count up.
#[derive(Default)]
struct World {
    fold: Deployments,
    offset: u64,
}

fn name() -> PluginName {
    PluginName::new("a").unwrap()
}

fn manifest(extra: &str) -> Manifest {
    let toml = format!(
        "name = \"a\"\nversion = \"1.0.0\"\ninputs = [\"flights\"]\n{extra}\n{}",
        if extra.contains("state-schema") {
            ""
        } else {
            "state-schema = \"s/1\"\n"
        }
    );
    Manifest::from_toml(&toml).unwrap()
}

fn code(component: &[u8]) -> DeployRequested {
    DeployRequested {
        name: name(),
        kind: Kind::View,
        digest: Digest::of(component),
        manifest: manifest(""),
        migrates: false,
        routes: false,
        parameters: Parameters::new(),
        topics: BTreeMap::new(),
        partitions: 2,
        state: None,
        adopt_topic: false,
        emit_from_earliest: false,
    }
}

fn keep(component: &[u8]) -> DeployRequested {
    DeployRequested {
        state: Some(StatePolicy::Keep),
        ..code(component)
    }
}

impl World {
    fn apply(&mut self, body: Body) -> Verdict {
        self.offset += 1;
        let event = Event {
            request_id: "r".to_owned(),
            at_ms: 1,
            principal: "me".to_owned(),
            body,
        };
        self.fold.apply(Offset(self.offset), event)
    }

    fn deploy(&mut self, request: DeployRequested) -> Verdict {
        self.apply(Body::Deploy(Box::new(request)))
    }

    fn rollback(&mut self, state: Option<StatePolicy>) -> Verdict {
        self.apply(Body::Rollback(RollbackRequested {
            name: name(),
            state,
            partitions: 2,
        }))
    }

    fn decided(&self) -> Arc<Decided> {
        self.fold.plugins()[&name()].clone()
    }

    fn report(&mut self, generation: &Generation, partition: u32, report: Report) {
        self.apply(Body::Report(Reported {
            name: name(),
            generation: generation.number(),
            deployment: generation.deployment.id,
            partition: Partition(partition),
            report,
        }));
    }

    /// What is being built is built, and answers everywhere.
    fn take_over(&mut self) {
        self.build();
        self.switch();
    }

    /// Both partitions of what is being built are ready.
    fn build(&mut self) {
        let building = self.decided().building.clone().expect("something is built");
        for partition in 0..2 {
            self.report(&building, partition, Report::Ready);
        }
    }

    fn switch(&mut self) {
        let generation = self.decided().serving.number();
        for partition in 0..2 {
            self.apply(Body::Switched(name(), generation, Partition(partition)));
        }
    }
}

fn blocked_at(offset: u64) -> Report {
    let at = RecordPosition {
        topic: TopicName::new("flights").unwrap(),
        partition: Partition(1),
        offset: Offset(offset),
    };
    Report::Blocked(BlockedReport {
        code: "event-trapped".to_owned(),
        detail: "it traps".to_owned(),
        at: Some((at, Some([7; 16]))),
    })
}

#[track_caller]
fn refused(verdict: Verdict) -> Problem {
    match verdict {
        Verdict::Refused(problem) => problem,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn building(verdict: Verdict) -> Arc<Deployment> {
    match verdict {
        Verdict::Building(deployment) => deployment,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_generation_number_is_never_reused() {
    let mut world = World::default();
    assert!(matches!(world.deploy(code(b"1")), Verdict::Created(_)));
    assert!(matches!(
        world.apply(Body::Delete(name())),
        Verdict::Deleted
    ));
    assert!(world.fold.is_dead(&name(), GenerationId(1)));
    let Verdict::Created(again) = world.deploy(code(b"1")) else {
        panic!()
    };
    assert_eq!(
        (again.generation, again.id),
        (GenerationId(2), DeploymentId(3))
    );
    assert!(!world.fold.is_dead(&name(), GenerationId(2)));
    assert!(
        !world.fold.is_dead(&name(), GenerationId(3)),
        "what was never given may be given by a host that knows more"
    );
}

#[test]
fn other_code_is_built_beside_and_promoted_when_all_of_it_is_ready() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    assert!(matches!(world.deploy(code(b"1")), Verdict::Unchanged(_)));
    let new = building(world.deploy(code(b"2")));
    assert_eq!(new.generation, GenerationId(2));
    let first = world.decided().building.clone().unwrap();
    world.report(&first, 0, Report::Ready);
    assert_eq!(world.decided().serving.number(), GenerationId(1));
    world.report(&first, 1, Report::Ready);
    let decided = world.decided();
    assert_eq!(decided.serving.number(), GenerationId(2));
    let retiring = decided.retiring.as_ref().unwrap();
    assert_eq!(retiring.generation.number(), GenerationId(1));
    assert!(
        !world.fold.is_dead(&name(), GenerationId(1)),
        "it still answers"
    );
    world.switch();
    assert!(world.decided().retiring.is_none());
    assert!(world.fold.is_dead(&name(), GenerationId(1)));
}

#[test]
fn what_was_blocked_since_is_not_promoted() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    world.deploy(code(b"2"));
    let new = world.decided().building.clone().unwrap();
    world.report(&new, 0, Report::Ready);
    world.report(&new, 0, blocked_at(5));
    world.report(&new, 1, Report::Ready);
    assert_eq!(world.decided().serving.number(), GenerationId(1));
    // A corrected component takes its place; what it left is dead, and its late reports count for nothing.
    let corrected = building(world.deploy(code(b"3")));
    assert_eq!(corrected.generation, GenerationId(3));
    assert!(world.fold.is_dead(&name(), GenerationId(2)));
    world.report(&new, 0, Report::Ready);
    world.report(&new, 1, Report::Ready);
    assert_eq!(world.decided().serving.number(), GenerationId(1));
    world.build();
    assert_eq!(world.decided().serving.number(), GenerationId(3));
}

#[test]
fn one_deployment_at_a_time() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    let first = building(world.deploy(code(b"2")));
    let again = building(world.deploy(code(b"2")));
    assert_eq!(first.id, again.id, "the same again waits for the same");
    for request in [code(b"3"), keep(b"3")] {
        let problem = refused(world.deploy(request));
        assert_eq!(problem.code, Code::DeploymentUnderWay);
        assert!(
            problem.detail.contains("plugin rollback a"),
            "{}",
            problem.detail
        );
    }
    assert!(matches!(world.rollback(None), Verdict::Cancelled(_)));
    assert!(world.decided().building.is_none());
    building(world.deploy(code(b"3")));
}

#[test]
fn keeping_states_needs_the_same_inputs_and_a_schema_that_can_be_read() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    let Verdict::Swapped(swapped) = world.deploy(keep(b"2")) else {
        panic!()
    };
    assert_eq!(
        (swapped.generation, swapped.id),
        (GenerationId(1), DeploymentId(2))
    );
    let dropped = DeployRequested {
        topics: [("flights".to_owned(), TopicName::new("others").unwrap())].into(),
        ..keep(b"3")
    };
    assert_eq!(refused(world.deploy(dropped)).code, Code::InputsChanged);
    let moved = DeployRequested {
        partitions: 3,
        ..keep(b"3")
    };
    assert_eq!(refused(world.deploy(moved)).code, Code::InputsChanged);
    let other = DeployRequested {
        manifest: manifest("state-schema = \"s/2\""),
        ..keep(b"3")
    };
    assert_eq!(
        refused(world.deploy(other.clone())).code,
        Code::SchemaChanged
    );
    let migrates = DeployRequested {
        migrates: true,
        ..other
    };
    assert_eq!(building(world.deploy(migrates)).generation, GenerationId(2));
    let origin = world.decided().building.clone().unwrap().origin;
    let expected = Origin::Migrated {
        from: GenerationId(1),
        schema: "s/1".to_owned(),
    };
    assert_eq!(origin, expected);
}

#[test]
fn another_kind_under_the_name_is_refused() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    let other = DeployRequested {
        kind: Kind::Republisher,
        ..code(b"2")
    };
    assert_eq!(refused(world.deploy(other)).code, Code::NameTaken);
}

#[test]
fn a_rollback_runs_what_answered_before() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    assert_eq!(
        refused(world.rollback(None)).code,
        Code::NoPreviousDeployment
    );
    world.deploy(code(b"2"));
    world.build();
    assert_eq!(refused(world.rollback(None)).code, Code::DeploymentUnderWay);
    world.switch();
    let back = building(world.rollback(None));
    assert_eq!(back.digest, Digest::of(b"1"));
    assert_eq!(
        (back.generation, back.rolls_back_to),
        (GenerationId(3), Some(DeploymentId(1)))
    );
    world.build();
    world.switch();
    let forth = building(world.rollback(None));
    assert_eq!(forth.digest, Digest::of(b"2"));
}

#[test]
fn a_rollback_may_keep_the_states() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    world.deploy(keep(b"2"));
    let Verdict::Swapped(back) = world.rollback(Some(StatePolicy::Keep)) else {
        panic!()
    };
    assert_eq!(
        (back.digest, back.generation),
        (Digest::of(b"1"), GenerationId(1))
    );
}

#[test]
fn a_generation_that_was_kept_comes_back_as_it_is() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    world.deploy(DeployRequested {
        manifest: manifest("keep-generations = 1"),
        ..code(b"2")
    });
    world.build();
    world.switch();
    assert!(!world.fold.is_dead(&name(), GenerationId(1)));
    assert_eq!(
        world.decided().kept.as_ref().unwrap().number(),
        GenerationId(1)
    );
    let back = building(world.rollback(None));
    assert_eq!((back.generation, back.how), (GenerationId(1), How::Kept));
    // Its readiness is told anew, under the number that it has now.
    assert_eq!(world.decided().serving.number(), GenerationId(2));
    world.build();
    assert_eq!(world.decided().serving.number(), GenerationId(1));
}

#[test]
fn only_the_record_that_blocks_can_be_skipped() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    let at = |offset| RecordPosition {
        topic: TopicName::new("flights").unwrap(),
        partition: Partition(1),
        offset: Offset(offset),
    };
    let skip = |offset| Body::Skip(name(), at(offset), "broken".to_owned());
    let problem = refused(world.apply(skip(5)));
    assert_eq!(problem.code, Code::NotBlocked);
    let serving = world.decided().serving.clone();
    world.report(&serving, 1, blocked_at(5));
    let problem = refused(world.apply(skip(6)));
    assert!(problem.detail.contains("flights/1@5"), "{}", problem.detail);
    let Verdict::Skipped(number) = world.apply(skip(5)) else {
        panic!()
    };
    let Verdict::Skipped(again) = world.apply(skip(5)) else {
        panic!()
    };
    assert_eq!(number, again, "one decision");
    let skips = world.decided().skips.clone();
    assert_eq!((skips.len(), skips[0].topic_id), (1, Some([7; 16])));
    assert_eq!(skips[0].reason, "broken");
    // It outlives the generation.
    world.deploy(code(b"2"));
    world.build();
    world.switch();
    assert_eq!(world.decided().skips, skips);
}

#[test]
fn a_pause_is_remembered_with_who_asked_first() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    assert!(matches!(
        world.apply(Body::Pause(name(), true)),
        Verdict::Paused
    ));
    assert_eq!(world.decided().paused.as_ref().unwrap().principal, "me");
    assert!(matches!(
        world.apply(Body::Pause(name(), false)),
        Verdict::Paused
    ));
    assert_eq!(world.decided().paused, None);
    let nobody = PluginName::new("b").unwrap();
    let problem = refused(world.apply(Body::Pause(nobody, true)));
    assert!(
        problem.detail.contains("deployed are: a"),
        "{}",
        problem.detail
    );
}

#[test]
fn the_first_name_of_the_cluster_stays() {
    let mut world = World::default();
    for id in ["one", "two"] {
        let Verdict::Named(named) = world.apply(Body::ClusterNamed(id.to_owned())) else {
            panic!()
        };
        assert_eq!(named, "one");
    }
    assert_eq!(world.fold.cluster_id(), Some("one"));
}
