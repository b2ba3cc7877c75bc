//! What a plugin of each kind needs, as it is printed.

use super::*;

const VIEW: &str = "name = \"plane-tracker\"\nversion = \"1.0.0\"\ninputs = [\"flights\"]\n\
                    state-schema = \"position/1\"\n";

fn needs_of(manifest: &Manifest, maps: &[(&str, &str)]) -> anyhow::Result<Needs> {
    let args = RequirementsArgs {
        file: "unused".into(),
        name: None,
        topics: maps
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect(),
        cluster: ClusterName::new("prod").unwrap(),
        principal: "User:fold".to_owned(),
        json: false,
    };
    let decide = manifest.on_refusal != OnRefusal::Ignore;
    let capabilities = Capabilities {
        decide,
        ..Capabilities::default()
    };
    Needs::of(&args, manifest, capabilities)
}

fn needs(maps: &[(&str, &str)]) -> anyhow::Result<Needs> {
    needs_of(&Manifest::from_toml(VIEW).unwrap(), maps)
}

/// Reads two topics, publishes to one, and sets aside what it cannot apply.
fn republisher() -> Manifest {
    let toml = VIEW.replace("[\"flights\"]", "[\"flights\", \"weather\"]");
    Manifest {
        output: Some(Output {
            topic: TopicName::new("delays").unwrap(),
            partitions: Some(6),
            compact: true,
        }),
        on_error: OnError::DeadLetter,
        ..Manifest::from_toml(&toml).unwrap()
    }
}

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn names_follow_from_the_cluster_and_the_plugin() {
    let needs = needs(&[("flights", "prod.flights")]).unwrap();
    let text = needs.text("User:fold");
    contains(
        &text,
        &[
            "--topic prod.deployments",
            "--topic prod.plane-tracker.journal",
            "--topic prod.flights",
            "--group prod.plane-tracker",
            "--allow-principal User:fold",
            "none: it writes no records",
        ],
    );
    assert!(
        !text.contains("--create --topic prod.flights"),
        "an input is not the host's"
    );
    for part in ["merge", "dead-letters", "--transactional-id", "$READER"] {
        assert!(
            !text.contains(part),
            "a plain view needs no {part}:\n{text}"
        );
    }
    assert_eq!(needs.json()["groups"][0], "prod.plane-tracker");
}

#[test]
fn what_publishes_merges_and_sets_aside_needs_more() {
    let maps = [("delays", "prod.delays"), ("weather", "prod.weather")];
    let needs = needs_of(&republisher(), &maps).unwrap();
    let text = needs.text("User:fold");
    contains(
        &text,
        &[
            "#   prod.plane-tracker.merge.<n> (",
            "#   prod.plane-tracker.dead-letters (",
            "#   prod.delays (its output",
            "#   prod.plane-tracker.merge-in\n",
            "#   prod.plane-tracker.<partition>\n",
            "#   prod.plane-tracker.<partition>.g<generation>\n",
            "#   prod.plane-tracker.merge-in.flights.<partition>\n",
            "#   prod.plane-tracker.merge-in.prod.weather.<partition>\n",
            "--create --topic prod.delays --partitions 6 --config cleanup.policy=compact",
            "--create --topic \"prod.plane-tracker.merge.$N\" --partitions \
             \"$PARTITIONS_OF_THE_LARGEST_INPUT\"",
            "--operation Read --operation Write --operation Describe --topic \
             prod.plane-tracker.merge. --resource-pattern-type prefixed",
            "--operation Read --operation Describe --group prod.plane-tracker.merge-in",
            "--operation Write --operation Describe --transactional-id prod.plane-tracker. \
             --resource-pattern-type prefixed",
            "--list --topic prod.delays --resource-pattern-type match",
            "--allow-principal \"$READER\" --operation Read --operation Describe --topic prod.delays",
        ],
    );
    let json = needs.json();
    let topics = json["topics"].as_array().unwrap();
    let of = |name: &str| topics.iter().find(|topic| topic["name"] == name).unwrap();
    assert_eq!(of("prod.delays")["exclusive"], true);
    assert_eq!(of("prod.plane-tracker.merge.")["pattern"], "prefixed");
    assert_eq!(of("flights")["owned"], false);
    assert_eq!(
        json["transactional_id_prefixes"],
        json!(["prod.plane-tracker."])
    );
}

#[test]
fn a_handler_of_commands_from_a_topic_merges_them_on_its_outputs_partitions() {
    let manifest = Manifest {
        inputs: Manifest::from_toml(VIEW).unwrap().inputs,
        on_error: OnError::Stop,
        on_refusal: OnRefusal::DeadLetter,
        ..republisher()
    };
    let text = needs_of(&manifest, &[]).unwrap().text("User:fold");
    contains(
        &text,
        &[
            "#   prod.plane-tracker.merge.<n> (every command of its inputs)",
            "#   prod.plane-tracker.dead-letters (commands that it refused)",
            "--topic prod.plane-tracker.journal --partitions 6 ",
            "--create --topic \"prod.plane-tracker.merge.$N\" --partitions 6 ",
            "#   prod.plane-tracker.merge-in.flights.<partition>\n",
        ],
    );
}

#[test]
fn a_view_of_several_topics_writes_to_its_merge_topic_only() {
    let manifest = Manifest {
        output: None,
        on_error: OnError::Stop,
        merge_partitions: Some(12),
        ..republisher()
    };
    let needs = needs_of(&manifest, &[]).unwrap();
    let expected = json!(["prod.plane-tracker.merge-in."]);
    assert_eq!(needs.json()["transactional_id_prefixes"], expected);
    let journal = "--topic prod.plane-tracker.journal --partitions 12 ";
    contains(&needs.text("User:fold"), &[journal]);
}

#[test]
fn a_name_that_is_not_there_cannot_be_mapped() {
    let error = needs(&[("flight", "x")]).unwrap_err();
    assert!(error.to_string().contains("there is flights"), "{error}");
    let error = needs_of(&republisher(), &[("delay", "x")]).unwrap_err();
    let words = "flights, weather, and the output delays";
    assert!(error.to_string().contains(words), "{error}");
}
