//! Manifests of command handlers, which fold their own topic, and of what is none and says so.

use super::*;

const HANDLER: &str = "name = \"orders\"\nversion = \"1.0.0\"\noutput = \"orders\"\n";

fn handler() -> Capabilities {
    Capabilities {
        fold: true,
        decide: true,
        ..Capabilities::default()
    }
}

fn stateless() -> Capabilities {
    Capabilities {
        fold: false,
        ..handler()
    }
}

/// Codes and sentences of what is wrong with `text` and a component with these capabilities.
fn wrong(text: &str, of: Capabilities) -> Vec<(&'static str, String)> {
    let manifest = Manifest::from_toml(text).unwrap();
    let faults = manifest.contradictions(of).into_iter();
    faults.map(|it| (it.code, it.detail)).collect()
}

/// That exactly one thing is wrong, and what is said of it.
fn one(text: &str, of: Capabilities, code: &str, said: &str) {
    let found = wrong(text, of);
    assert_eq!(found.len(), 1, "{text}: {found:#?}");
    assert_eq!(found[0].0, code, "{text}");
    assert!(found[0].1.contains(said), "not '{said}': {}", found[0].1);
}

#[test]
fn a_handler_reads_what_it_writes() {
    let manifest = Manifest::from_toml(HANDLER).unwrap();
    assert!(manifest.inputs.is_empty() && manifest.writes_to_log());
    assert!(!manifest.merges(handler()));
    let default = limits::COMMIT_INTERVAL_WRITER_DEFAULT;
    assert_eq!(manifest.commit_interval, default);
    let more = "on-error = \"stop\"\nheaders = true\nexpected-version = \"required\"\n\
                keep-generations = 1\nstate-schema = \"order/2\"";
    for of in [
        handler(),
        Capabilities {
            query: true,
            migrate: true,
            configure: true,
            emit_state: true,
            ..handler()
        },
    ] {
        for text in [HANDLER, &format!("{HANDLER}{more}")] {
            assert!(wrong(text, of).is_empty(), "{text}: {:?}", wrong(text, of));
        }
    }
    assert!(wrong(HANDLER, stateless()).is_empty());
}

#[test]
fn only_a_manifest_with_an_output_has_no_inputs() {
    assert_eq!(
        faults("name = \"a\"\nversion = \"1\""),
        [
            "inputs: the field is missing; list the topics, as in inputs = [\"flights\"], or write \
             [[inputs]] tables; a command handler leaves them out and names its output"
        ]
    );
    let found = faults(&format!("{HANDLER}inputs = []"));
    assert!(
        found[0].starts_with("inputs: there is no topic"),
        "{found:?}"
    );
    // An output that cannot be read is one thing that is wrong, not two.
    let found = faults("name = \"a\"\nversion = \"1\"\noutput = 7");
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn what_folds_other_topics_has_inputs() {
    one(
        HANDLER,
        Capabilities {
            react: true,
            ..Capabilities::default()
        },
        "no-inputs",
        "exports react, but its manifest names no topic whose events it folds: write inputs =",
    );
    let found = wrong(HANDLER, view());
    let codes: Vec<_> = found.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, ["no-inputs", "output-of-a-view"], "{found:#?}");
}

#[test]
fn a_handler_owns_a_topic_and_takes_commands_from_others() {
    one(MINIMAL, handler(), "no-output", "write output =");
    let inputs = format!("{HANDLER}inputs = [\"order-commands\"]\n");
    for text in [&inputs, &format!("{inputs}on-refusal = \"dead-letter\"")] {
        assert!(wrong(text, handler()).is_empty(), "{text}");
    }
    let text = format!("{inputs}expected-version = \"required\"");
    one(
        &text,
        handler(),
        "no-conditions",
        "cannot say which version",
    );
    let text = format!("{HANDLER}on-refusal = \"dead-letter\"");
    one(&text, handler(), "no-command-topics", "there are no inputs");
    let text = format!("{MINIMAL}on-refusal = \"dead-letter\"");
    one(&text, view(), "no-commands", "it takes no commands");
}

#[test]
fn what_means_nothing_to_a_handler_is_refused() {
    for field in [
        "merge-partitions = 4",
        "record-keys = true",
        "origins = true",
    ] {
        let text = format!("{HANDLER}{field}");
        let said = "means nothing here: a command handler folds its own topic, so";
        one(&text, handler(), "nothing-to-merge", said);
    }
    for on_error in ["dead-letter", "park-key"] {
        let text = format!("{HANDLER}on-error = \"{on_error}\"");
        let said = "on-error means nothing here: a command that cannot be decided is refused";
        one(&text, handler(), "on-error-of-a-handler", said);
    }
    let routed = Capabilities {
        route: true,
        ..handler()
    };
    one(HANDLER, routed, "route-of-a-handler", "do not export route");
    let all = "merge-partitions = 4\nrecord-keys = true\norigins = true\non-error = \"park-key\"";
    let found = wrong(&format!("{HANDLER}{all}"), routed);
    assert_eq!(found.len(), 5, "all at once: {found:#?}");
}

#[test]
fn a_handler_without_fold_has_no_states() {
    let with = |change: fn(&mut Capabilities)| {
        let mut capabilities = stateless();
        change(&mut capabilities);
        capabilities
    };
    for (of, said) in [
        (with(|it| it.query = true), "that could be read"),
        (with(|it| it.migrate = true), "that could be migrated"),
        (with(|it| it.emit_state = true), "do not export emit-state"),
    ] {
        one(HANDLER, of, "no-state", said);
    }
    let text = format!("{HANDLER}expected-version = \"required\"");
    one(&text, stateless(), "no-state", "its keys have no versions");
    let text = format!("{HANDLER}headers = true");
    one(&text, stateless(), "no-state", "no event comes into it");
    let text = format!("{HANDLER}changes = true");
    one(&text, stateless(), "no-state", "no states that change");
}

#[test]
fn only_a_republisher_fires_on_what_is_told_again() {
    let republisher = Capabilities {
        react: true,
        ..Capabilities::default()
    };
    let text = format!("{MINIMAL}bootstrap = true\noutput = \"told\"\n");
    assert!(Manifest::from_toml(&text).unwrap().bootstrap);
    assert!(wrong(&text, republisher).is_empty());
    assert!(!Manifest::from_toml(MINIMAL).unwrap().bootstrap);
    let text = format!("{MINIMAL}bootstrap = true");
    one(&text, view(), "no-outputs", "bootstrap means nothing here");
    let text = format!("{HANDLER}bootstrap = true");
    one(&text, handler(), "no-outputs", "exports no react");
    assert!(faults(&format!("{MINIMAL}bootstrap = 1"))[0].starts_with("bootstrap: "));
}

#[test]
fn only_commands_say_which_version_they_expect() {
    let required = format!("{MINIMAL}expected-version = \"required\"");
    one(&required, view(), "no-commands", "exports no decide");
    let republisher = Capabilities {
        react: true,
        ..Capabilities::default()
    };
    let text = format!("{required}\noutput = \"told\"");
    one(
        &text,
        republisher,
        "no-commands",
        "leave expected-version out",
    );
    let optional = format!("{MINIMAL}expected-version = \"optional\"");
    assert!(wrong(&optional, view()).is_empty());
}

#[test]
fn outcomes_are_kept_for_as_long_as_the_manifest_says() {
    let keep = |text: &str| {
        let manifest = Manifest::from_toml(&format!("{HANDLER}{text}"));
        manifest.map(|manifest| {
            (
                manifest.keep_outcomes.as_secs(),
                manifest.keep_outcomes_text(),
            )
        })
    };
    assert_eq!(keep("").unwrap(), (24 * 3600, "24h".to_owned()));
    assert_eq!(
        keep("keep-outcomes = \"30m\"").unwrap(),
        (1800, "1800s".to_owned())
    );
    assert_eq!(keep("keep-outcomes = \"720h\"").unwrap().0, 30 * 24 * 3600);
    for (bad, problem) in [
        ("\"59s\"", "is out of range"),
        ("\"721h\"", "is out of range"),
        ("24", "is not a duration"),
        ("\"1w\"", "is not a duration"),
    ] {
        let found = faults(&format!("{HANDLER}keep-outcomes = {bad}"));
        assert_eq!(
            found,
            [format!(
                "keep-outcomes: {bad} {problem}; write a duration from 60s to 30d with its unit, as in \"24h\" or \"30m\""
            )]
        );
    }
    let text = format!("{MINIMAL}keep-outcomes = \"1h\"");
    one(&text, view(), "no-commands", "leave keep-outcomes out");
}

#[test]
fn only_what_has_versions_has_a_history() {
    let text = format!("{HANDLER}history = true");
    assert!(Manifest::from_toml(&text).unwrap().history);
    assert!(!Manifest::from_toml(HANDLER).unwrap().history);
    assert!(wrong(&text, handler()).is_empty());
    one(&text, stateless(), "no-state", "leave history out");
    let text = format!("{MINIMAL}history = true");
    one(&text, view(), "no-commands", "leave history out");
}
