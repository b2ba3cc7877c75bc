//! Manifests that are read, and every fault of those that are not.

use super::*;
use crate::plugin::Capabilities;

mod handlers;

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
    assert_eq!(manifest.inputs[0].framing, Framing::None);
    assert_eq!(manifest.output, None);
    assert_eq!(manifest.merge_partitions, None);
    assert_eq!(manifest.expected_version, ExpectedVersion::Optional);
    assert!(!manifest.record_keys && !manifest.origins);
    assert_eq!(manifest.changes, None);
    assert_eq!(manifest.limits, Limits::default());
    assert!(manifest.contradictions(view()).is_empty());
    assert!(!manifest.merges(view()));
}

#[test]
fn every_field_is_read() {
    let manifest = Manifest::from_toml(
        r#"
        name = "plane-tracker"
        version = "2.1.0-rc.1"
        merge-partitions = 12
        state-schema = "position/1"
        key = "i64"
        commit-interval = "500ms"
        on-error = "park-key"
        expected-version = "required"
        changes = true
        changes-keep-deletions = "36h"
        headers = true
        record-keys = true
        origins = true
        keep-generations = 1
        [output]
        topic = "notifications"
        partitions = 6
        cleanup = "compact"
        [[inputs]]
        name = "flights"
        topic = "prod.flights"
        start = "@1356998400000"
        on-gap = "continue"
        partitioner = "crc32"
        [[inputs]]
        topic = "planes"
        start = "latest"
        framing = "confluent"
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
    assert_eq!(manifest.expected_version, ExpectedVersion::Required);
    assert_eq!(manifest.commit_interval, Duration::from_millis(500));
    let keep_deletions = Duration::from_secs(36 * 3600);
    assert_eq!(manifest.changes, Some(ChangesFeed { keep_deletions }));
    assert!(manifest.headers && manifest.record_keys && manifest.origins);
    assert_eq!(manifest.inputs[0].framing, Framing::None);
    assert_eq!(manifest.inputs[1].framing, Framing::Confluent);
    assert_eq!(manifest.merge_partitions, Some(12));
    let output = manifest.output.unwrap();
    assert_eq!(output.topic.as_str(), "notifications");
    assert_eq!((output.partitions, output.compact), (Some(6), true));
    assert_eq!(manifest.keep_generations, 1);
    assert_eq!(manifest.limits.memory_bytes, 128 << 20);
    assert_eq!(manifest.limits.fuel_per_call, 300_000_000);
    assert_eq!(manifest.limits.state_bytes, 2 << 20);
    assert_eq!(manifest.limits.answer_bytes, 65_536);
}

#[test]
fn deletions_are_remembered_only_where_changes_are() {
    let of = |more: &str| Manifest::from_toml(&format!("{MINIMAL}{more}")).unwrap();
    let keep_deletions = limits::FEED_DELETIONS_KEPT_DEFAULT;
    let followed = of("changes = true").changes;
    assert_eq!(followed, Some(ChangesFeed { keep_deletions }));
    assert_eq!(of("changes = false").changes, None);
    for more in ["", "changes = false\n"] {
        let alone = faults(&format!("{MINIMAL}{more}changes-keep-deletions = \"1d\""));
        assert_eq!(
            alone,
            [
                "changes-keep-deletions: no changes can be followed; write changes = true, or leave the field out"
            ]
        );
    }
    for wrong in ["\"0s\"", "\"367d\"", "7", "\"a week\""] {
        let text = format!("{MINIMAL}changes = true\nchanges-keep-deletions = {wrong}");
        let wrong = faults(&text);
        assert!(wrong[0].contains("from 1s to 366d"), "{wrong:?}");
    }
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
        expected-version = "require"
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
        "expected-version: 'require' is not known; did you mean 'required'?",
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
    assert_eq!(found.len(), 15, "{found:#?}");
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
fn an_output_is_a_topic_or_a_table() {
    let output = |text: &str| {
        let manifest = Manifest::from_toml(&format!("{MINIMAL}{text}")).unwrap();
        let output = manifest.output.unwrap();
        assert_eq!(output.topic.as_str(), "told");
        (output.partitions, output.compact)
    };
    assert_eq!(output("output = \"told\""), (None, false));
    assert_eq!(output("[output]\ntopic = \"told\""), (None, false));
    assert_eq!(
        output("output = { topic = \"told\", partitions = 1024, cleanup = \"delete\" }"),
        (Some(1024), false)
    );
    let refused = |text: &str, expected: &[&str]| {
        assert_eq!(faults(&format!("{MINIMAL}{text}")), expected, "{text}");
    };
    refused(
        "output = 7",
        &["output: it is a whole number; name a topic in quotes, or write an [output] table"],
    );
    refused(
        "[output]\npartitions = 0\ncleanup = \"compacted\"\nretention = 1",
        &[
            "output.retention: unknown field 'retention'; known are topic, partitions, cleanup",
            "output.topic: the field is missing; add it, as in topic = \"notifications\"",
            "output.partitions: 0 is no number of partitions; write a whole number from 1 to 1024",
            "output.cleanup: 'compacted' is not known; did you mean 'compact'?",
        ],
    );
    assert!(faults(&format!("{MINIMAL}output = \"a b\""))[0].starts_with("output: "));
}

#[test]
fn a_merge_topic_has_a_number_of_partitions() {
    for bad in ["0", "1025", "-1", "\"4\""] {
        let found = faults(&format!("{MINIMAL}merge-partitions = {bad}"));
        let expected = format!(
            "merge-partitions: {bad} is no number of partitions; write a whole number from 1 to 1024"
        );
        assert_eq!(found, [expected]);
    }
    assert_eq!(
        faults(&format!("{MINIMAL}record-keys = 1\norigins = \"yes\"")),
        [
            "record-keys: it is a whole number; write true or false",
            "origins: it is a text; write true or false"
        ]
    );
}

#[test]
fn a_framing_names_what_lies_inside_it() {
    let with = |framing: &str| {
        Manifest::from_toml(&format!(
            "name = \"a\"\nversion = \"1\"\ninputs = [{{ topic = \"t\", framing = \"{framing}\" }}]"
        ))
    };
    for (name, expected) in [
        ("none", Framing::None),
        ("confluent", Framing::Confluent),
        ("confluent-avro", Framing::ConfluentAvro),
        ("confluent-json", Framing::ConfluentJson),
    ] {
        assert_eq!(with(name).unwrap().inputs[0].framing, expected);
    }
    let found = with("confluent-protobuf").unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "inputs[0].framing: 'confluent-protobuf' is not known; known are none, confluent, \
         confluent-avro, confluent-json"
    );
}

#[test]
fn what_writes_to_the_log_commits_more_often() {
    let interval = |more: &str| {
        let manifest = Manifest::from_toml(&format!("{MINIMAL}{more}")).unwrap();
        (manifest.writes_to_log(), manifest.commit_interval)
    };
    let writer = (true, limits::COMMIT_INTERVAL_WRITER_DEFAULT);
    assert_eq!(writer.1, Duration::from_millis(200));
    assert_eq!(interval("output = \"told\""), writer);
    assert_eq!(interval("on-error = \"dead-letter\""), writer);
    assert_eq!(
        interval("output = \"told\"\non-error = \"park-key\""),
        writer
    );
    for on_error in ["stop", "park-key"] {
        assert_eq!(
            interval(&format!("on-error = \"{on_error}\"")),
            (false, limits::COMMIT_INTERVAL_DEFAULT)
        );
    }
    assert_eq!(
        interval("output = \"told\"\ncommit-interval = \"3s\""),
        (true, Duration::from_secs(3))
    );
}

#[test]
fn every_policy_for_poison_is_done() {
    for on_error in ["stop", "dead-letter", "park-key"] {
        let manifest = format!("{MINIMAL}on-error = \"{on_error}\"");
        let manifest = Manifest::from_toml(&manifest).unwrap();
        let view = Capabilities {
            fold: true,
            ..Capabilities::default()
        };
        assert!(manifest.contradictions(view).is_empty(), "{on_error}");
    }
}

#[test]
fn what_republishers_ask_for_is_done() {
    let manifest = Manifest::from_toml(
        "name = \"a\"\nversion = \"1\"\ninputs = [\"x\", \"y\"]\non-error = \"dead-letter\"\n\
         output = \"o\"\nmerge-partitions = 3\nrecord-keys = true\norigins = true",
    )
    .unwrap();
    let all = Capabilities {
        react: true,
        route: true,
        ..Capabilities::default()
    };
    assert!(manifest.contradictions(all).is_empty());
}

/// Codes and sentences of what contradicts itself.
fn contradictions(more: &str, of: Capabilities) -> Vec<(&'static str, String)> {
    let manifest = Manifest::from_toml(&format!("{MINIMAL}{more}")).unwrap();
    let faults = manifest.contradictions(of);
    faults.into_iter().map(|it| (it.code, it.detail)).collect()
}

#[test]
fn an_output_belongs_to_a_republisher_and_is_no_input() {
    let republisher = Capabilities {
        react: true,
        ..Capabilities::default()
    };
    assert!(contradictions("output = \"told\"", republisher).is_empty());
    let found = contradictions("", republisher);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "no-output");
    assert!(found[0].1.contains("write output ="), "{found:?}");
    let found = contradictions("output = \"told\"", view());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "output-of-a-view");
    assert!(found[0].1.contains("the output told"), "{found:?}");
    let found = contradictions("output = \"events\"", republisher);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "output-is-input");
    assert!(found[0].1.contains("events is an input"), "{found:?}");
}

#[test]
fn what_is_about_merging_needs_something_to_merge() {
    let fields = "merge-partitions = 4\nrecord-keys = true\norigins = true";
    let found = contradictions(fields, view());
    assert_eq!(found.len(), 3, "{found:?}");
    for ((code, detail), field) in found
        .iter()
        .zip(["merge-partitions", "record-keys", "origins"])
    {
        assert_eq!(*code, "nothing-to-merge");
        assert!(detail.starts_with(field), "{detail}");
        assert!(detail.contains("exports no route"), "{detail}");
    }
    assert!(contradictions("record-keys = false\norigins = false", view()).is_empty());
    let routed = Capabilities {
        route: true,
        ..view()
    };
    assert!(contradictions(fields, routed).is_empty());
    let two = MINIMAL.replace("\"events\"", "\"events\", \"more\"");
    let manifest = Manifest::from_toml(&format!("{two}{fields}")).unwrap();
    assert!(manifest.merges(view()));
    assert!(manifest.contradictions(view()).is_empty());
}

fn view() -> Capabilities {
    Capabilities {
        fold: true,
        query: true,
        ..Capabilities::default()
    }
}
