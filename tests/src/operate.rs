//! What an operator does with a running plugin, in the words of the HTTP contract: deploy other code,
//! roll back, pause, skip, and wait until it is as it was told. Called by the scenarios about upgrades,
//! kills and soaking.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::http::{Client, Reply, number};
use crate::load::Code;
use crate::paths::prebuilt_plugin;
use crate::wait::wait_until_ok;
use crate::wasm;

/// What a change of what runs was answered with.
#[derive(Debug, Clone)]
pub struct Done {
    /// The status of the answer.
    pub status: u16,
    /// `created`, `swapped`, `building`, …
    pub outcome: String,
    /// Number of the deployment that is to run.
    pub deployment: u64,
    /// Number of its generation.
    pub generation: u64,
    /// The whole answer.
    pub reply: Reply,
}

impl Done {
    fn of(reply: Reply) -> Result<Self> {
        let answer = reply.json()?;
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        let whole =
            |name: &str| number(&answer[name]).with_context(|| format!("no `{name}`: {reply:?}"));
        Ok(Self {
            status: reply.status,
            outcome: text("outcome").with_context(|| format!("no `outcome`: {reply:?}"))?,
            deployment: whole("deployment")?,
            generation: whole("generation")?,
            reply,
        })
    }

    /// It itself, if it has this status and outcome.
    ///
    /// # Errors
    /// Else, with the whole answer.
    pub fn expect(self, status: u16, outcome: &str) -> Result<Self> {
        if self.status == status && self.outcome == outcome {
            Ok(self)
        } else {
            bail!("expected {status} {outcome}: {:?}", self.reply)
        }
    }
}

/// Deploys a component; `parameters` is a query string without `?`, or empty.
///
/// # Errors
/// If it is refused.
pub fn deploy(client: &Client, name: &str, parameters: &str, wasm: &[u8]) -> Result<Done> {
    Done::of(client.deploy(name, parameters, wasm.to_vec())?.success()?)
}

/// Asks for a rollback; `parameters` as in [`deploy`].
///
/// # Errors
/// If it is refused.
pub fn rollback(client: &Client, name: &str, parameters: &str) -> Result<Done> {
    Done::of(post(client, name, &format!("rollback?{parameters}"))?.success()?)
}

/// `POST /v1/plugins/{name}/{what}` without a body.
///
/// # Errors
/// If there is no answer.
pub fn post(client: &Client, name: &str, what: &str) -> Result<Reply> {
    client.send("POST", &format!("/v1/plugins/{name}/{what}"), &[], None)
}

/// Asks to skip the record at `topic/partition@offset`.
///
/// # Errors
/// If there is no answer.
pub fn skip(client: &Client, name: &str, at: &str, reason: &str) -> Result<Reply> {
    let body = json!({"at": at, "reason": reason}).to_string();
    client.send(
        "POST",
        &format!("/v1/plugins/{name}/skip"),
        &[("content-type", "application/json")],
        Some(body.into_bytes()),
    )
}

/// As [`skip`], where a partition of the host is blocked: the cluster may not have heard of that yet, and refuses to skip
/// what it does not know to be blocked.
///
/// # Errors
/// If there is no answer, or it is that refusal for longer than `deadline`.
pub fn skip_blocked(
    client: &Client,
    name: &str,
    at: &str,
    reason: &str,
    deadline: Duration,
) -> Result<Reply> {
    wait_until_ok(deadline, "the cluster to know what is blocked", || {
        let reply = skip(client, name, at, reason)?;
        let is_unknown = reply.status == 409 && reply.json()?["code"] == "not-blocked";
        ensure!(!is_unknown, "{reply:?}");
        Ok(reply)
    })
}

/// A plugin as the host tells of it.
///
/// # Errors
/// If there is none.
pub fn plugin(client: &Client, name: &str) -> Result<Value> {
    let reply = client.get(&format!("/v1/plugins/{name}"))?;
    reply.expect_status(200)?.json()
}

/// The partitions of a plugin, or of a generation.
///
/// # Errors
/// If it has none.
pub fn partitions(of: &Value) -> Result<&[Value]> {
    let partitions = of["partitions"].as_array().context("no `partitions`")?;
    ensure!(!partitions.is_empty(), "no partition: {of}");
    Ok(partitions)
}

/// A number of the host that must be there.
///
/// # Errors
/// If it is not.
pub fn count_of(of: &Value, name: &str) -> Result<u64> {
    number(&of[name]).with_context(|| format!("no `{name}`: {of}"))
}

/// Waits until the deployment serves, is live on every partition of this host, and nothing is under
/// way; gives the plugin.
///
/// # Errors
/// If it does not become so within `deadline`, with what was seen last.
pub fn wait_serving(
    client: &Client,
    name: &str,
    deployment: u64,
    deadline: Duration,
) -> Result<Value> {
    let what = format!("deployment {deployment} of {name} to serve");
    wait_until_ok(deadline, &what, || {
        let plugin = settled(client, name)?;
        ensure!(count_of(&plugin, "deployment")? == deployment, "{plugin}");
        Ok(plugin)
    })
}

/// The plugin, if nothing is under way: nothing is being built or retiring, and every partition of this host is live
/// without lag under the plugin's deployment. Right after a deployment was acknowledged that may still be
/// the one before it: [`wait_serving`] waits for a certain one.
///
/// # Errors
/// Else, with the whole plugin.
pub fn settled(client: &Client, name: &str) -> Result<Value> {
    let plugin = plugin(client, name)?;
    let deployment = count_of(&plugin, "deployment")?;
    let is_settled = plugin["building"].is_null()
        && plugin["retiring"].is_null()
        && partitions(&plugin)?.iter().all(|partition| {
            partition["status"] == "live"
                && number(&partition["lag"]) == Some(0)
                && number(&partition["deployment"]) == Some(deployment)
        });
    if is_settled {
        Ok(plugin)
    } else {
        Err(anyhow!("{plugin}"))
    }
}

/// Waits until the store has all that this host has folded.
///
/// # Errors
/// If it has not within `deadline`, with what was seen last.
pub fn wait_committed(client: &Client, name: &str, deadline: Duration) -> Result<()> {
    wait_until_ok(deadline, "all that was folded to be committed", || {
        let plugin = plugin(client, name)?;
        for partition in partitions(&plugin)? {
            let next = number(&partition["position"]).map_or(0, |position| position + 1);
            ensure!(count_of(partition, "committed")? >= next, "{plugin}");
        }
        Ok(())
    })
}

/// Waits until a partition of the serving generation is blocked; gives it.
///
/// # Errors
/// If none is within `deadline`.
pub fn wait_blocked(client: &Client, name: &str, deadline: Duration) -> Result<Value> {
    wait_until_ok(deadline, &format!("{name} to be blocked"), || {
        let plugin = plugin(client, name)?;
        blocked(&plugin).cloned()
    })
}

/// The first blocked partition.
///
/// # Errors
/// If none is.
pub fn blocked(of: &Value) -> Result<&Value> {
    let mut partitions = partitions(of)?.iter();
    partitions
        .find(|partition| partition["status"] == "blocked")
        .with_context(|| format!("nothing is blocked: {of}"))
}

/// A shipped plugin as if it had been built again as another version: other bytes, the same logic.
///
/// # Errors
/// If it is not there.
pub fn version(plugin: &str, version: &str) -> Result<Vec<u8>> {
    wasm::with_field(
        &prebuilt_plugin(plugin)?,
        "version",
        &format!("\"{version}\""),
    )
}

/// `counter` with states of another schema, which takes those of `counter` over by `migrate`.
///
/// # Errors
/// If it is not there.
pub fn migrating(version: &str) -> Result<Vec<u8>> {
    wasm::with_field(
        &prebuilt_plugin("migrating-counter")?,
        "version",
        &format!("\"{version}\""),
    )
}

/// The code that stands in tags of answers.
pub fn code(generation: u64, wasm: &[u8]) -> Code {
    let digest = Sha256::digest(wasm);
    let text: String = digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    (generation, text)
}
