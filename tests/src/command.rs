//! Commands as scenarios send them: one at a time or in batches, and the handler that most of them need.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::{Client, Reply};
use crate::paths::prebuilt_plugin;
use crate::wait::wait_until_ok;
use crate::wasm;

/// A host that was killed is itself again, its session on Kafka included.
const WITHIN: Duration = Duration::from_secs(120);

/// Sends a command to a handler, about a key, by its name; headers are those beside the content type.
///
/// # Errors
/// If there is no answer.
pub fn command(
    client: &Client,
    [plugin, key, name]: [&str; 3],
    body: &Value,
    headers: &[(&str, &str)],
) -> Result<Reply> {
    let path = format!("/v1/commands/{plugin}/{key}/{name}");
    let headers = [&[("content-type", "application/json")], headers].concat();
    client.send("POST", &path, &headers, Some(body.to_string().into_bytes()))
}

/// Sends lines as a batch of commands.
///
/// # Errors
/// If there is no answer.
pub fn send_batch(client: &Client, plugin: &str, text: &str) -> Result<Reply> {
    let path = format!("/v1/commands/{plugin}");
    let headers = [("content-type", "application/x-ndjson")];
    client.send("POST", &path, &headers, Some(text.as_bytes().to_vec()))
}

/// Sends commands as a batch, and gives what came of each.
///
/// # Errors
/// If there is no answer, or not one for each.
pub fn batch(client: &Client, plugin: &str, commands: &[Value]) -> Result<Vec<Value>> {
    let lines: Vec<String> = commands.iter().map(Value::to_string).collect();
    let reply = send_batch(client, plugin, &lines.join("\n"))?.expect_status(200)?;
    let text = reply.text();
    let told: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let numbers = told.iter().map(|line| line["line"].as_u64());
    let expected = (1..=commands.len() as u64).map(Some);
    ensure!(numbers.eq(expected), "not a line for each: {text}");
    Ok(told)
}

/// Waits until a handler takes commands: it answers one that it does not have.
///
/// # Errors
/// If that takes too long.
pub fn wait_deciding(client: &Client, plugin: &str, keys: &[&str]) -> Result<()> {
    for key in keys {
        let what = format!("{plugin} to take commands for {key}");
        wait_until_ok(WITHIN, &what, || {
            let to = [plugin, key, "no-such"];
            let reply = command(client, to, &json!({}), &[("if-match", "*")])?;
            ensure!(reply.status == 412 || reply.status == 400, "{reply:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// `documents`, whose topic keeps every event.
///
/// # Errors
/// If it is not there.
pub fn documents() -> Result<Vec<u8>> {
    let wasm = prebuilt_plugin("documents")?;
    let manifest = wasm::manifest(&wasm)?;
    let kept = manifest.replace("cleanup = \"compact\"", "cleanup = \"delete\"");
    ensure!(kept != manifest, "{manifest}");
    wasm::with_manifest(&wasm, &kept)
}

/// The version that an answer says.
///
/// # Errors
/// If it says none.
pub fn version(reply: &Reply) -> Result<u64> {
    let version = reply.header("foldhost-version").context("no version")?;
    Ok(version.parse()?)
}
