//! Manifests that are read, and every fault of those that are not.

use super::*;

const MINIMAL: &str = "name = \"latest\"\nversion = \"1.0.0\"\ninputs = [\"events\"]\n";

fn faults(text: &str) -> Vec<String> {
    Manifest::from_toml(text)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_minimal_manifest_gets_its_defaults() {
    let manifest = Manifest::from_toml(MINIMAL).unwrap();
    assert_eq!(manifest.name.as_str(), "latest");
    assert_eq!(manifest.inputs.len(), 1);
    assert_eq!(manifest.inputs[0].name, "events");
    assert_eq!(manifest.inputs[0].start, Start::Earliest);
    assert_eq!(manifest.state_schema, "latest/1");
    assert_eq!(manifest.key, KeyFormat::Utf8);
    assert_eq!(manifest.commit_interval, limits::COMMIT_INTERVAL_DEFAULT);
    assert_eq!(manifest.keep_generations, 0);
    assert_eq!(manifest.limits, Limits::default());
    assert!(manifest.unsupported(view()).is_empty());
}

#[test]
fn every_field_is_read() {
    let manifest = Manifest::from_toml(
        r#"
        name = "plane-tracker"
        version = "2.1.0-rc.1"
        output = "notifications"
        state-schema = "position/1"
        key = "i64"
        commit-interval = "500ms"
        on-error = "park-key"
        headers = true
        keep-generations = 1
        [[inputs]]
        name = "flights"
        topic = "prod.flights"
        start = "@1356998400000"
        on-gap = "continue"
        partitioner = "crc32"
        [[inputs]]
        topic = "planes"
        start = "latest"
        [limits]
        memory = "128MiB"
        fuel-per-call = 300_000_000
        state-size = "2MiB"
        answer-size = 65536
        "#,
    )
    .unwrap();
    assert_eq!(manifest.inputs[0].topic.as_str(), "prod.flights");
    assert_eq!(manifest.inputs[0].start, Start::At(1_356_998_400_000));
    assert_eq!(manifest.inputs[0].on_gap, OnGap::Continue);
    assert_eq!(manifest.inputs[0].partitioner, Partitioner::Crc32);
    assert_eq!(manifest.inputs[1].name, "planes");
    assert_eq!(manifest.key, KeyFormat::I64);
    assert_eq!(manifest.on_error, OnError::ParkKey);
    assert_eq!(manifest.commit_interval, Duration::from_millis(500));
    assert!(manifest.headers);
    assert_eq!(manifest.keep_generations, 1);
    assert_eq!(manifest.limits.memory_bytes, 128 << 20);
    assert_eq!(manifest.limits.fuel_per_call, 300_000_000);
    assert_eq!(manifest.limits.state_bytes, 2 << 20);
    assert_eq!(manifest.limits.answer_bytes, 65_536);
}

#[test]
fn an_unknown_field_is_named_with_the_nearest_known_one() {
    assert_eq!(
        faults(&format!("{MINIMAL}comit-interval = \"2s\"")),
        ["comit-interval: unknown field 'comit-interval'; did you mean 'commit-interval'?"]
    );
    assert_eq!(
        faults(&format!("{MINIMAL}[limits]\nfuel_per_call = 300_000_000")),
        ["limits.fuel_per_call: unknown field 'fuel_per_call'; did you mean 'fuel-per-call'?"]
    );
    let far = faults(&format!("{MINIMAL}colour = 1"));
    assert!(
        far[0].contains("unknown field 'colour'; known are name, version"),
        "{far:?}"
    );
}

#[test]
fn every_fault_is_reported_at_once() {
    let found = faults(
        r#"
        name = "Bad Name"
        inputs = ["a b", { start = "noon" }, 7]
        key = "utf-8"
        on-error = "ignore"
        commit-interval = 2
        headers = "yes"
        keep-generations = 2
        [limits]
        memory = "64"
        fuel-per-call = -1
        state-size = "1GiB"
        "#,
    );
    for field in [
        "name: ",
        "version: the field is missing",
        "inputs[0]: ",
        "inputs[1].topic: the field is missing",
        "inputs[1].start: ",
        "inputs[2]: it is a whole number",
        "key: 'utf-8' is not known; did you mean 'utf8'?",
        "on-error: 'ignore' is not known; known are stop, dead-letter, park-key",
        "commit-interval: 2 is not a duration",
        "headers: it is a text",
        "keep-generations: 2 generations cannot be kept; write a whole number from 0",
        "limits.memory: ",
        "limits.fuel-per-call: ",
        "limits.state-size: \"1GiB\" is out of range; write a size from 1B to 16MiB",
    ] {
        assert!(
            found.iter().any(|fault| fault.starts_with(field)),
            "{field} in {found:#?}"
        );
    }
    assert_eq!(found.len(), 14, "{found:#?}");
}

#[test]
fn inputs_must_exist_and_differ() {
    let with = |inputs: &str| faults(&format!("name = \"a\"\nversion = \"1\"\n{inputs}"));
    assert!(with("")[0].starts_with("inputs: the field is missing; list the topics"));
    assert!(with("inputs = []")[0].starts_with("inputs: there is no topic in it"));
    assert!(with("inputs = \"flights\"")[0].starts_with("inputs: it is a text"));
    assert!(with("inputs = [\"a\", \"a\"]")[0].starts_with("inputs[1]: 'a' occurs twice"));
    let same_topic = "inputs = [{ topic = \"t\", name = \"a\" }, { topic = \"t\", name = \"b\" }]";
    assert!(with(same_topic)[0].starts_with("inputs[1]: the topic 't' occurs twice"));
}

#[test]
fn broken_toml_says_where() {
    let found = faults("name = \"a\"\nversion = ");
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("not TOML") && found[0].contains("line 2"),
        "{found:?}"
    );
}

#[test]
fn what_is_not_done_yet_is_said() {
    let manifest = Manifest::from_toml(
        "name = \"a\"\nversion = \"1\"\ninputs = [\"x\", \"y\"]\non-error = \"dead-letter\"\noutput = \"o\"",
    )
    .unwrap();
    let all = Capabilities {
        react: true,
        route: true,
        ..Capabilities::default()
    };
    let said: Vec<_> = manifest
        .unsupported(all)
        .into_iter()
        .map(|fault| fault.detail)
        .collect();
    assert_eq!(said.len(), 5, "{said:#?}");
    assert!(
        said.iter()
            .all(|detail| detail.contains("not supported by this version"))
    );
}

fn view() -> Capabilities {
    Capabilities {
        fold: true,
        query: true,
        ..Capabilities::default()
    }
}
