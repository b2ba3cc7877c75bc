//! The plugins that ship in the host are what their sources say: rebuilt in a copy of the repository,
//! they have the same manifest and exports, and give the same answers to real flights.

use anyhow::{Context, Result, ensure};
use foldhost_tests::flights::Flights;
use foldhost_tests::host::{GENEROUS, Start, run_well};
use foldhost_tests::http::{Client, number};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::wait::wait_until_ok;
use foldhost_tests::{clone, wasm};
use serde_json::{Value, json};

const PLUGINS: [&str; 4] = ["plane-tracker", "plane-utilisation", "latest", "counter"];

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

#[test]
fn prebuilt_plugins_are_what_their_sources_say() -> Result<()> {
    let scratch = Scratch::new("prebuilt")?;
    let copy = scratch.join("clone");
    clone::copy_to(&copy)?;

    let host = Start::demo(scratch.path()).ready()?;
    let client = host.client()?;
    host.deploy_prebuilt("counter", "")?;
    for name in PLUGINS {
        run_well(
            &copy,
            host.url(),
            &["plugin", "build", &format!("plugins/{name}")],
        )?;
        let built = std::fs::read(copy.join(format!("plugins/{name}/{name}.wasm")))?;
        let shipped = prebuilt_plugin(name)?;
        let hint = "build it again and copy it to plugins/prebuilt";
        ensure!(
            wasm::manifest(&built)? == wasm::manifest(&shipped)?,
            "{name}: manifest; {hint}"
        );
        ensure!(
            wasm::exports(&built)? == wasm::exports(&shipped)?,
            "{name}: exports; {hint}"
        );
        let exports = wasm::exports(&shipped)?;
        ensure!(
            exports
                .iter()
                .any(|export| export.starts_with("foldhost:plugin/fold")),
            "{exports:?}"
        );
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
