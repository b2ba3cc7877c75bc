//! What is decided about telling the states of a command handler in events.

use bytes::Bytes;

use super::super::{BootstrapReported, BootstrapRequested};
use super::*;
use crate::partition::Bootstrapped;

fn handler(component: &[u8]) -> DeployRequested {
    let manifest = "name = \"a\"\nversion = \"1.0.0\"\noutput = \"told\"\nstate-schema = \"s/1\"\n";
    DeployRequested {
        kind: Kind::CommandHandler,
        manifest: Manifest::from_toml(manifest).unwrap(),
        ..code(component)
    }
}

fn world() -> World {
    let mut world = World::default();
    world.deploy(handler(b"1"));
    world
}

fn ask(key: Option<(&'static [u8], u32)>) -> Body {
    Body::Bootstrap(BootstrapRequested {
        name: name(),
        key: key.map(|(key, partition)| (Bytes::from_static(key), Partition(partition))),
        keys_per_second: 100,
        reason: "a new view".to_owned(),
    })
}

fn number(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Bootstrap(number) => number,
        other => panic!("{other:?}"),
    }
}

fn told(number: u64) -> Bootstrapped {
    Bootstrapped {
        number,
        from: Offset(3),
        after: None,
        keys: 2,
        events: 2,
        untold: 0,
        problem: None,
        done: true,
    }
}

impl World {
    fn told(&mut self, partition: u32, number: u64) {
        self.apply(Body::Bootstrapped(BootstrapReported {
            name: name(),
            partition: Partition(partition),
            told: told(number),
        }));
    }
}

#[test]
fn a_run_is_over_when_every_partition_is() {
    let mut world = world();
    let first = number(world.apply(ask(None)));
    let under_way = refused(world.apply(ask(None)));
    assert_eq!(under_way.code, Code::BootstrapUnderWay);
    assert!(under_way.detail.contains("--stop"), "{}", under_way.detail);
    world.told(0, first);
    // Of another run, and of no partition of it.
    world.told(1, first - 1);
    let decided = world.decided();
    let run = decided.running_bootstrap().expect("it is running");
    assert_eq!(run.of(Partition(0)), None, "that one is done");
    let left = run.of(Partition(1)).expect("this one is not");
    assert_eq!((left.number, left.keys_per_second), (first, 100));
    assert_eq!((&*run.principal, &*run.reason), ("me", "a new view"));
    world.told(1, first);
    assert_eq!(world.decided().running_bootstrap(), None);
    assert!(number(world.apply(ask(None))) > first);
}

#[test]
fn a_run_of_one_key_is_its_partitions_alone() {
    let mut world = world();
    let run = number(world.apply(ask(Some((b"k", 1)))));
    world.told(0, run);
    let decided = world.decided();
    let running = decided.running_bootstrap().expect("partition 1 is left");
    assert_eq!(running.of(Partition(0)), None);
    let left = running.of(Partition(1)).expect("it is left");
    assert_eq!(left.key.as_deref(), Some(&b"k"[..]));
    world.told(1, run);
    assert_eq!(world.decided().running_bootstrap(), None);
}

#[test]
fn what_was_begun_can_be_stopped() {
    let mut world = world();
    let stop = || Body::StopBootstrap(name());
    assert_eq!(refused(world.apply(stop())).code, Code::NoBootstrap);
    let first = number(world.apply(ask(None)));
    assert_eq!(number(world.apply(stop())), first);
    let decided = world.decided();
    assert_eq!(decided.running_bootstrap(), None);
    let run = decided.bootstrap.as_ref().expect("it is remembered");
    assert!(run.stopped && run.of(Partition(0)).is_none());
    number(world.apply(ask(None)));
}

#[test]
fn only_a_command_handler_tells_its_states() {
    let mut world = World::default();
    world.deploy(code(b"1"));
    let problem = refused(world.apply(ask(None)));
    assert_eq!(problem.code, Code::NotAHandler);
    assert!(problem.detail.contains("is a view"), "{}", problem.detail);
    let mut nobody = World::default();
    assert_eq!(refused(nobody.apply(ask(None))).code, Code::UnknownPlugin);
}

#[test]
fn a_run_goes_on_under_other_code_but_not_where_keys_have_moved() {
    let mut world = world();
    let run = number(world.apply(ask(None)));
    world.deploy(DeployRequested {
        state: Some(StatePolicy::Keep),
        ..handler(b"2")
    });
    world.deploy(handler(b"3"));
    world.take_over();
    let decided = world.decided();
    assert_eq!(decided.running_bootstrap().map(|it| it.number), Some(run));
    world.deploy(DeployRequested {
        partitions: 1,
        ..handler(b"4")
    });
    world.take_over();
    assert!(
        world
            .decided()
            .bootstrap
            .as_ref()
            .is_some_and(|it| it.stopped)
    );
}
