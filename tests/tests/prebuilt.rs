//! The plugins that ship in the host are what their sources say: rebuilt in a copy of the repository,
//! they have the same manifest and exports, and give the same answers to real flights.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use foldhost_tests::flights::Flights;
use foldhost_tests::host::{GENEROUS, Start, run_well};
use foldhost_tests::http::{Client, number};
use foldhost_tests::paths::{Scratch, repository};
use foldhost_tests::wait::wait_until_ok;
use foldhost_tests::{clone, fleet, wasm};
use serde_json::{Value, json};

const PLUGINS: [&str; 6] = [
    "plane-tracker",
    "plane-utilisation",
    "latest",
    "notification-inbox",
    "counter",
    "migrating-counter",
];
/// Each owns its topic, so that it cannot run twice.
const REPUBLISHERS: [&str; 3] = ["bank-transfers", "fleet-onboarding", "running-count"];
/// What they do is judged by `commands` and `bank`.
const HANDLERS: [&str; 3] = ["bank-account", "documents", "orders"];
/// Those that the demo does not deploy itself.
const COUNTERS: [&str; 2] = ["counter", "migrating-counter"];
const MISBEHAVING: [&str; 11] = [
    "broken-columns",
    "broken-records",
    "broken-routes",
    "grows-on-event",
    "hidden-state",
    "loops-in-answer",
    "loops-on-event",
    "migrates-to-garbage",
    "returns-too-much",
    "traps-in-answer",
    "traps-on-event",
];

/// Key and answer of every key of a view.
fn answers(client: &Client, view: &str) -> Result<Vec<(String, Value)>> {
    let accept = [("accept", "application/x-ndjson")];
    let reply = client
        .get_with(&format!("/v1/views/{view}/keys"), &accept)?
        .expect_status(200)?;
    let mut answers = Vec::new();
    for line in reply.text().lines() {
        let line: Value = serde_json::from_str(line)?;
        let key = line["key"]
            .as_str()
            .with_context(|| format!("no key: {line}"))?;
        answers.push((key.to_owned(), line["answer"].clone()));
    }
    answers.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(answers)
}

/// Builds the plugin in `folder` of a copy of the repository, compares it with what is checked in at
/// `prebuilt/` beside that folder, and gives what was built.
fn built_and_shipped(copy: &Path, folder: &str, name: &str) -> Result<Vec<u8>> {
    let source = format!("plugins/{folder}{name}");
    // Building asks no host.
    run_well(copy, "http://127.0.0.1:9", &["plugin", "build", &source])?;
    let built = fs::read(copy.join(format!("{source}/{name}.wasm")))?;
    let shipped = fs::read(repository().join(format!("plugins/{folder}prebuilt/{name}.wasm")))?;
    let hint = format!("build it again and copy it to plugins/{folder}prebuilt");
    ensure!(
        wasm::manifest(&built)? == wasm::manifest(&shipped)?,
        "{name}: manifest; {hint}"
    );
    ensure!(
        wasm::exports(&built)? == wasm::exports(&shipped)?,
        "{name}: exports; {hint}"
    );
    let exports = wasm::exports(&shipped)?;
    let is_step = |export: &String| {
        export.starts_with("foldhost:plugin/fold") || export.starts_with("foldhost:plugin/react")
    };
    ensure!(exports.iter().any(is_step), "{exports:?}");
    Ok(built)
}

#[test]
fn misbehaving_plugins_are_what_their_sources_say() -> Result<()> {
    let scratch = Scratch::new("prebuilt-misbehaving")?;
    let copy = scratch.join("clone");
    clone::copy_to(&copy)?;
    for name in MISBEHAVING {
        built_and_shipped(&copy, "misbehaving/", name)?;
    }
    // None is forgotten, neither here nor in what is said of them.
    let readme = fs::read_to_string(copy.join("plugins/misbehaving/README.md"))?;
    for entry in fs::read_dir(copy.join("plugins/misbehaving"))? {
        let folder = entry?.path();
        let name = folder.file_name().and_then(|name| name.to_str());
        let name = name.context("a name that is no text")?;
        if folder.join("plugin.toml").is_file() {
            let listed =
                MISBEHAVING.contains(&name) || folder.join(format!("{name}.wat")).is_file();
            ensure!(listed, "{name} is neither compared here nor component text");
            ensure!(
                readme.contains(&format!("| `{name}` |")),
                "{name} is not in README.md"
            );
        }
    }
    Ok(())
}

#[test]
fn prebuilt_plugins_are_what_their_sources_say() -> Result<()> {
    let scratch = Scratch::new("prebuilt")?;
    let copy = scratch.join("clone");
    clone::copy_to(&copy)?;

    let host = Start::demo(scratch.path()).ready()?;
    let client = host.client()?;
    for name in COUNTERS {
        host.deploy_prebuilt(name, "")?;
    }
    for name in REPUBLISHERS.into_iter().chain(HANDLERS) {
        built_and_shipped(&copy, "", name)?;
    }
    for name in PLUGINS {
        let built = built_and_shipped(&copy, "", name)?;
        let again = format!("{name}-again");
        client.deploy(&again, "", built)?.expect_status(201)?;
    }

    let events = u64::try_from(Flights::january()?.event_count())?;
    wait_until_ok(GENEROUS * 5, "the demo to load all", || {
        let topic = client
            .get("/v1/topics/flights")?
            .expect_status(200)?
            .json()?;
        let ends = topic["partitions"].as_array().context("no partitions")?;
        let sum: u64 = ends
            .iter()
            .filter_map(|partition| number(&partition["end"]))
            .sum();
        ensure!(sum >= events, "{sum} of {events}");
        Ok(())
    })?;
    client.append_all("events", &[json!({"key": "a", "value": [1.50, "x"]})])?;
    // Until then notifications come in.
    fleet::check_inboxes(&client, &Flights::january()?, GENEROUS * 5)?;
    for name in PLUGINS {
        for view in [name.to_owned(), format!("{name}-again")] {
            host.wait_caught_up(&view, GENEROUS * 5)?;
        }
        let (shipped, built) = (
            answers(&client, name)?,
            answers(&client, &format!("{name}-again"))?,
        );
        ensure!(!shipped.is_empty(), "{name} has no keys");
        ensure!(
            shipped == built,
            "{name}: the rebuilt one answers differently"
        );
    }
    // The default answers say little about windows: ask for some.
    let window = "/in-motion?from=2013-01-05T00:00:00Z&to=2013-01-09T12:30:00Z";
    for (plane, _) in answers(&client, "plane-tracker")?.iter().step_by(50) {
        let shipped = client
            .ask("plane-utilisation", plane, window)?
            .expect_status(200)?;
        let built = client
            .ask("plane-utilisation-again", plane, window)?
            .expect_status(200)?;
        ensure!(shipped.body == built.body, "{plane}: {shipped:?} {built:?}");
    }
    Ok(())
}
