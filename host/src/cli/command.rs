//! `foldhost command`: commands an entity of a command handler, or many of them by a file.

mod batch;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use serde_json::json;

use super::args::CommandArgs;
use super::client::{Answer, Client, ClientError};
use super::output;

/// Runs the command.
pub(super) fn run(args: &CommandArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let (key, command) = match (&args.key, &args.command, &args.file) {
        (_, _, Some(file)) => return batch::run(&client, &args.plugin, file),
        (Some(key), Some(command), None) => (key, command),
        _ => unreachable!("a command has a key and a name, or a file"),
    };
    let answer = match send(&client, args, key, command) {
        // The host that was asked knows the owner; a second redirection is not followed.
        Err(ClientError::Refused {
            owner: Some(owner), ..
        }) => send(&client.at(&owner)?, args, key, command)?,
        answer => answer?,
    };
    print(&answer, args.client.json)
}

fn send(
    client: &Client,
    args: &CommandArgs,
    key: &str,
    command: &str,
) -> Result<Answer, ClientError> {
    // A URL cannot hold these as a segment.
    let encoded = match key {
        "" => Some("=".to_owned()),
        "." | ".." => Some(URL_SAFE_NO_PAD.encode(key)),
        _ => None,
    };
    let mut segments = vec!["v1", "commands", args.plugin.as_str()];
    match &encoded {
        Some(encoded) => segments.extend(["keys-b64", encoded]),
        None => segments.push(key),
    }
    segments.push(command);
    let body = args.body.clone().unwrap_or_else(|| "{}".to_owned());
    let mut request = client
        .request(Method::POST, client.url(&segments, &[]))
        .header(CONTENT_TYPE, "application/json")
        .body(body);
    if let Some(version) = args.if_version {
        request = request.header(IF_MATCH, format!("\"{version}\""));
    }
    if args.if_absent {
        request = request.header(IF_NONE_MATCH, "*");
    }
    if let Some(id) = &args.idempotency_key {
        request = request.header("idempotency-key", id);
    }
    client.send(request)
}

fn print(answer: &Answer, json: bool) -> anyhow::Result<()> {
    if !json {
        return Ok(output::body(&answer.body)?);
    }
    Ok(output::json(&json!({
        "reply": output::parsed(&answer.body),
        "version": answer.header("foldhost-version").and_then(|it| it.parse::<u64>().ok()),
        "position": answer.header("foldhost-position"),
        "idempotency_key": answer.header("idempotency-key"),
        "repeat": answer.header("idempotent-replayed").is_some(),
    }))?)
}
