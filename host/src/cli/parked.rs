//! `foldhost plugin parked list|replay|discard`: records that are set aside under `on-error = "park-key"`.

use reqwest::Method;
use serde_json::{Value, json};

use super::args::{ClientArgs, ParkedArgs, ParkedCommand};
use super::client::Client;
use super::output::{self, field, table};
use crate::types::PluginName;

/// Runs one of the commands.
pub(super) fn run(command: &ParkedCommand) -> anyhow::Result<()> {
    match command {
        ParkedCommand::List { name, key, client } => match key {
            Some(key) => show(name, key, client),
            None => list(name, client),
        },
        ParkedCommand::Replay(args) => decide(args, "replay"),
        ParkedCommand::Discard(args) => decide(args, "discard"),
    }
}

fn list(name: &PluginName, args: &ClientArgs) -> anyhow::Result<()> {
    let client = Client::new(args)?;
    let path = ["v1", "plugins", name.as_str(), "parked"];
    let mut parked = Vec::new();
    let mut answer = client.get(&path, &[])?.json()?;
    loop {
        parked.extend(answer["parked"].as_array().cloned().unwrap_or_default());
        let Some(cursor) = answer["next"].as_str().map(str::to_owned) else {
            break;
        };
        answer = client.get(&path, &[("_cursor", &cursor)])?.json()?;
    }
    if args.json {
        return Ok(output::json(
            &json!({"parked": parked, "elsewhere": answer["elsewhere"]}),
        )?);
    }
    elsewhere(&answer);
    if parked.is_empty() {
        output::note(&format!("{name} has nothing parked here"));
        return Ok(());
    }
    let rows: Vec<_> = parked.iter().map(row).collect();
    let header = ["KEY", "RECORDS", "FIRST", "CODE", "REASON"];
    Ok(output::line(&table(header, &rows))?)
}

fn row(parked: &Value) -> [String; 5] {
    let key = match &parked["key"] {
        Value::Null => format!("base64:{}", field(parked, "key_base64")),
        _ => field(parked, "key"),
    };
    let [records, first, code, reason] =
        ["records", "first", "code", "reason"].map(|name| field(parked, name));
    [key, records, first, code, reason]
}

fn show(name: &PluginName, key: &str, args: &ClientArgs) -> anyhow::Result<()> {
    let client = Client::new(args)?;
    let path = match key {
        // The plain path of these is that of a decision.
        "replay" | "discard" | "" => {
            let key = match key {
                "" => "=".to_owned(),
                key => base64_of(key),
            };
            [
                "v1".into(),
                "plugins".into(),
                name.to_string(),
                "parked-b64".into(),
                key,
            ]
        }
        key => ["v1", "plugins", name.as_str(), "parked", key].map(str::to_owned),
    };
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    let mut answer = client.get(&path, &[])?.json()?;
    if args.json {
        return Ok(output::json(&answer)?);
    }
    let [first, code, reason] = ["first", "code", "reason"].map(|name| field(&answer, name));
    output::note(&format!("parked since {first}: {reason} [{code}]"));
    loop {
        for record in answer["parked"].as_array().into_iter().flatten() {
            output::line(&record.to_string())?;
        }
        let Some(next) = answer["next"].as_u64().map(|next| next.to_string()) else {
            return Ok(());
        };
        answer = client.get(&path, &[("_offset", &next)])?.json()?;
    }
}

fn decide(args: &ParkedArgs, what: &str) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let name = args.name.as_str();
    let url = client.url(&["v1", "plugins", name, "parked", what], &[]);
    let mut body = json!({"reason": args.reason});
    if let Some(key) = &args.key {
        body["key"] = json!(key);
    }
    let request = client
        .request(Method::POST, url)
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .body(body.to_string());
    let answer = client.send(request)?.json()?;
    if args.client.json {
        return Ok(output::json(&answer)?);
    }
    elsewhere(&answer);
    let (decisions, left) = (field(&answer, "decisions"), field(&answer, "left"));
    let what = match what {
        "discard" => "does without what was parked",
        _ => "folds what was parked again",
    };
    let rest = match (answer["applied"].as_bool(), answer["left"].as_u64()) {
        (Some(true), Some(0)) => "nothing of it is parked any more".to_owned(),
        (Some(true), _) => format!(
            "{left} records are still parked: `foldhost plugin parked list {name}` tells why"
        ),
        _ => "it is not done yet: a partition is paused, blocked or busy".to_owned(),
    };
    Ok(output::line(&format!(
        "{name} {what} (decision {decisions}); {rest}"
    ))?)
}

/// Says which partitions the answer does not cover.
fn elsewhere(answer: &Value) {
    for partition in answer["elsewhere"].as_array().into_iter().flatten() {
        output::note(&format!(
            "partition {} is owned by another host: ask {}",
            field(partition, "partition"),
            field(partition, "owner")
        ));
    }
}

fn base64_of(key: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_no_text_is_shown_all_the_same() {
        let parked = json!({"key_base64": "_w", "records": 3, "first": "a/0@7", "code": null});
        assert_eq!(row(&parked), ["base64:_w", "3", "a/0@7", "-", "-"]);
        assert_eq!(base64_of("replay"), "cmVwbGF5");
    }
}
