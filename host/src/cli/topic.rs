//! `foldhost topic …`: create, look at and delete topics. Records are written by `topic::produce` and
//! read by `topic::consume`.

use reqwest::Method;
use serde_json::{Value, json};

use super::args::TopicCommand;
use super::client::Client;
use super::confirm::confirm;
use super::output::{self, field, table};

mod consume;
mod produce;

/// Runs one of the commands.
pub(super) fn run(command: TopicCommand) -> anyhow::Result<()> {
    match command {
        TopicCommand::Create {
            topic,
            partitions,
            client,
        } => create(
            &Client::new(&client)?,
            topic.as_str(),
            partitions,
            client.json,
        ),
        TopicCommand::List { client } => list(&Client::new(&client)?, client.json),
        TopicCommand::Describe { topic, client } => {
            describe(&Client::new(&client)?, topic.as_str(), client.json)
        }
        TopicCommand::Delete { topic, yes, client } => {
            let client = Client::new(&client)?;
            confirm(&format!("delete topic {topic} with its records"), yes)?;
            let url = client.url(&["v1", "topics", topic.as_str()], &[]);
            client.send(client.request(Method::DELETE, url))?;
            output::note(&format!("deleted {topic}"));
            Ok(())
        }
        TopicCommand::Produce(args) => produce::run(&args),
        TopicCommand::Consume(args) => consume::run(&args),
    }
}

fn create(client: &Client, topic: &str, partitions: Option<u32>, json: bool) -> anyhow::Result<()> {
    let body = match partitions {
        Some(count) => json!({ "partitions": count }),
        None => json!({}),
    };
    let url = client.url(&["v1", "topics", topic], &[]);
    let answer = client.send(client.request(Method::PUT, url).json(&body))?;
    let described = answer.json()?;
    if json {
        return Ok(output::json(&described)?);
    }
    let verb = if answer.status == 201 {
        "created"
    } else {
        "there already:"
    };
    Ok(output::line(&format!(
        "{verb} {topic} with {} partitions",
        field(&described, "partitions")
    ))?)
}

fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let answer = client.get(&["v1", "topics"], &[])?.json()?;
    if json {
        return Ok(output::json(&answer)?);
    }
    let topics = answer["topics"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if topics.is_empty() {
        output::note("no topics: create one with `foldhost topic create TOPIC`");
        return Ok(());
    }
    let rows: Vec<_> = topics
        .iter()
        .map(|topic| {
            let owner = topic["owner"].as_str().unwrap_or_default();
            [
                field(topic, "name"),
                field(topic, "partitions"),
                owner.to_owned(),
            ]
        })
        .collect();
    Ok(output::line(&table(
        ["NAME", "PARTITIONS", "OWNER"],
        &rows,
    ))?)
}

fn describe(client: &Client, topic: &str, json: bool) -> anyhow::Result<()> {
    let answer = client.get(&["v1", "topics", topic], &[])?.json()?;
    if json {
        return Ok(output::json(&answer)?);
    }
    Ok(output::line(&described(&answer))?)
}

fn described(topic: &Value) -> String {
    let mut lines: Vec<String> = ["name", "id", "owner", "readers"]
        .map(|name| format!("{name:<12}{}", field(topic, name)))
        .to_vec();
    let partitions = topic["partitions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let rows: Vec<_> = partitions
        .iter()
        .map(|partition| ["partition", "start", "end"].map(|name| field(partition, name)))
        .collect();
    lines.push(format!("{:<12}{}", "partitions", rows.len()));
    lines.push(format!("\n{}", table(["PARTITION", "START", "END"], &rows)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_shows_its_partitions_and_readers() {
        let text = described(
            &json!({"name": "flights", "id": null, "owner": "feed", "readers": ["a", "b"],
            "partitions": [{"partition": 0, "start": 2, "end": 17}]}),
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "name        flights",
                "id          -",
                "owner       feed",
                "readers     a, b",
                "partitions  1",
                "",
                "PARTITION  START  END",
                "0          2      17",
            ]
        );
    }
}
