//! `foldhost plugin emit-state`: has a command handler tell its states again, and shows how far that is.
//!
//! Invariant: whoever stops waiting stops nothing: the hosts go on.

use std::io::{self, IsTerminal as _};

use anyhow::bail;
use indicatif::ProgressBar;
use reqwest::Method;
use serde_json::{Value, json};

use super::args::EmitStateArgs;
use super::client::Client;
use super::output::{self, field};

/// How long the host is asked to wait at once where a person watches, in seconds.
const LOOK_SECONDS: &str = "1";
/// The same where nobody does.
const WAIT_SECONDS: &str = "10";

/// Runs the command.
pub(super) fn run(args: &EmitStateArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let name = args.name.as_str();
    let url = client.url(&["v1", "plugins", name, "emit-state"], &[]);
    if args.stop {
        let answer = client.send(client.request(Method::DELETE, url))?.json()?;
        if args.client.json {
            return Ok(output::json(&answer)?);
        }
        let number = field(&answer, "bootstrap");
        return Ok(output::line(&format!(
            "{name} tells its states no more (decision {number}); what is written stays"
        ))?);
    }
    let mut body = json!({"reason": args.reason});
    if let Some(key) = &args.key {
        body["key"] = json!(key);
    }
    if let Some(rate) = args.rate {
        body["keys_per_second"] = json!(rate);
    }
    let request = client
        .request(Method::POST, url)
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .body(body.to_string());
    let answer = client.send(request)?.json()?;
    let number = field(&answer, "bootstrap");
    if args.no_wait {
        if args.client.json {
            return Ok(output::json(&answer)?);
        }
        return Ok(output::line(&format!(
            "{name} tells its states (decision {number}): `foldhost plugin show {name}` says how far it is"
        ))?);
    }
    let ended = follow(&client, name, &number)?;
    if args.client.json {
        output::json(&ended)?;
    }
    told(&ended, name, args.client.json)
}

/// Waits until the run is over, and gives what came of it.
fn follow(client: &Client, name: &str, number: &str) -> anyhow::Result<Value> {
    let bar = io::stderr().is_terminal().then(ProgressBar::new_spinner);
    let seconds = bar.as_ref().map_or(WAIT_SECONDS, |_| LOOK_SECONDS);
    loop {
        let path = ["v1", "plugins", name, "emit-state"];
        let run = client.get(&path, &[("_wait", seconds)])?.json()?;
        if field(&run, "bootstrap") != number {
            bail!(
                "another run has followed decision {number} of {name}: `foldhost plugin show {name}`"
            );
        }
        if run["state"] != "running" {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
            return Ok(run);
        }
        let now = progress(&run);
        match &bar {
            Some(bar) => {
                bar.set_message(now);
                bar.tick();
            }
            None => output::note(&now),
        }
    }
}

/// How far a run is.
pub(super) fn progress(run: &Value) -> String {
    let partitions = run["partitions"].as_array().map_or(0, Vec::len);
    let done = run["partitions"].as_array().into_iter().flatten();
    let done = done.filter(|it| it["done"] == true).count();
    let keys = sum(run, "keys");
    let waits = run["waits"]
        .as_str()
        .map(|why| format!("; it waits: {why}"));
    format!(
        "{keys} keys told, {done} of {partitions} partitions done{}",
        waits.unwrap_or_default()
    )
}

/// Says what came of a run; an error if it is not what was asked for.
fn told(run: &Value, name: &str, is_json: bool) -> anyhow::Result<()> {
    let [keys, events, untold] = ["keys", "events", "untold"].map(|of| sum(run, of));
    if run["state"] == "stopped" {
        bail!("it was stopped after {keys} keys");
    }
    if untold > 0 {
        let partitions = run["partitions"].as_array().into_iter().flatten();
        let problems: Vec<_> = partitions.filter_map(|it| it["problem"].as_str()).collect();
        bail!(
            "{keys} keys are told, and {untold} could not be: {}",
            problems.join("; ")
        );
    }
    if is_json {
        return Ok(());
    }
    Ok(output::line(&format!(
        "{name} has told {keys} keys in {events} events (decision {})",
        field(run, "bootstrap")
    ))?)
}

fn sum(run: &Value, name: &str) -> u64 {
    let partitions = run["partitions"].as_array().into_iter().flatten();
    partitions.filter_map(|it| it[name].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(untold: u64) -> Value {
        json!({"bootstrap": 7, "state": "done", "partitions": [
            {"partition": 0, "done": true, "keys": 3, "events": 4, "untold": untold, "problem": "key 'a' cannot be told"},
            {"partition": 1, "done": false, "keys": null, "events": null, "untold": null, "problem": null}]})
    }

    #[test]
    fn progress_is_summed_over_the_partitions() {
        assert_eq!(progress(&run(0)), "3 keys told, 1 of 2 partitions done");
        let mut waiting = run(0);
        waiting["waits"] = json!("no code");
        assert!(progress(&waiting).ends_with("; it waits: no code"));
    }

    #[test]
    fn what_could_not_be_told_is_an_error() {
        told(&run(0), "stock", true).unwrap();
        let error = told(&run(2), "stock", true).unwrap_err().to_string();
        assert!(error.contains("2 could not be: key 'a'"), "{error}");
        let mut stopped = run(0);
        stopped["state"] = json!("stopped");
        assert!(told(&stopped, "stock", true).is_err());
    }
}
