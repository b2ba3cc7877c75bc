//! `foldhost command`: commands an entity of a command handler.

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use serde_json::json;

use super::args::CommandArgs;
use super::client::{Answer, Client, ClientError};
use super::output;

/// Runs the command.
pub(super) fn run(args: &CommandArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let answer = match send(&client, args) {
        // The host that was asked knows the owner; a second redirection is not followed.
        Err(ClientError::Refused {
            owner: Some(owner), ..
        }) => send(&client.at(&owner)?, args)?,
        answer => answer?,
    };
    print(&answer, args.client.json)
}

fn send(client: &Client, args: &CommandArgs) -> Result<Answer, ClientError> {
    let segments = [
        "v1",
        "commands",
        args.plugin.as_str(),
        &args.key,
        &args.command,
    ];
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
