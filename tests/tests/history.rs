//! The history of a handler's keys: every event that made a version, page by page, whatever is killed, as far as the
//! log has it; on the embedded log and on Kafka.

use anyhow::{Context, Result, ensure};
use foldhost_tests::command::{batch, command, documents, version, wait_deciding};
use foldhost_tests::host::{GENEROUS, Start, kafka_config};
use foldhost_tests::http::{Client, Reply, number};
use foldhost_tests::operate::{deploy, wait_serving};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::wait::wait_until_ok;
use foldhost_tests::{kafka, wasm};
use serde_json::{Value, json};

/// `documents` that keeps its history, and every event.
fn with_history() -> Result<Vec<u8>> {
    wasm::with_field(&documents()?, "history", "true")
}

/// A page of a key's history.
fn page(client: &Client, key: &str, parameters: &str) -> Result<Value> {
    let path = format!("/v1/views/documents/history/{key}?{parameters}");
    client.get(&path)?.expect_status(200)?.json()
}

/// All events of a key, page by page, and what the last page says.
fn all(client: &Client, key: &str, order: &str, limit: usize) -> Result<(Vec<Value>, Value)> {
    let (mut events, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = page(
            client,
            key,
            &format!("_order={order}&_limit={limit}{cursor}"),
        )?;
        let some = page["events"].as_array().context("no events")?;
        ensure!(some.len() <= limit, "{page}");
        events.extend(some.iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&_cursor={next}"),
            None => return Ok((events, page)),
        }
    }
}

fn versions(events: &[Value]) -> Vec<u64> {
    let versions = events.iter().map(|event| number(&event["version"]));
    versions.flatten().collect()
}

/// Puts a document at a version, and says which it made.
fn put(client: &Client, key: &str, at: u64, body: &Value) -> Result<u64> {
    let tag = format!("\"{at}\"");
    let condition = match at {
        0 => ("if-none-match", "*"),
        _ => ("if-match", &*tag),
    };
    let reply: Reply = command(client, ["documents", key, "put"], body, &[condition])?;
    version(&reply.expect_status(200)?)
}

/// What is told of a key: versions from the newest, and what each event says.
fn tells(client: &Client, key: &str, values: &[Value]) -> Result<()> {
    let count = values.len() as u64;
    let (newest, last) = all(client, key, "newest", 7)?;
    let expected: Vec<u64> = (1..=count).rev().collect();
    ensure!(versions(&newest) == expected, "{:?}", versions(&newest));
    ensure!(last["cut"].is_null(), "{last}");
    let (mut oldest, last) = all(client, key, "oldest", 10)?;
    ensure!(last["cut"].is_null() && last["next"].is_null(), "{last}");
    for (event, value) in oldest.iter().zip(values) {
        ensure!(event["value"] == *value, "{event} is not {value}");
        let cause = event["headers"]["foldhost-cause"].as_str();
        ensure!(
            cause.is_some_and(|cause| cause.starts_with("command ")),
            "{event}"
        );
        ensure!(
            number(&event["timestamp"]).is_some_and(|it| it > 1_600_000_000_000),
            "{event}"
        );
        ensure!(event.get("key").is_none(), "{event}");
    }
    oldest.reverse();
    ensure!(oldest == newest, "the orders differ");
    let first = page(client, key, "")?;
    let expected = newest.len().min(100);
    ensure!(
        first["events"].as_array().map(Vec::len) == Some(expected),
        "{first}"
    );
    Ok(())
}

/// What every log must show.
fn history_is_whole(start: &Start) -> Result<()> {
    let mut host = start.ready()?;
    let mut client = host.client()?;
    deploy(&client, "documents", "", &with_history()?)?.expect(201, "created")?;
    wait_deciding(&client, "documents", &["a", "b"])?;
    let mut values = Vec::new();
    for n in 0..25_u64 {
        values.push(json!({"n": n, "text": "x".repeat(n as usize)}));
        let made = put(&client, "a", n, &values[n as usize])?;
        // Whoever was told sees it.
        let newest = page(&client, "a", "_limit=1")?;
        ensure!(made == n + 1 && newest["version"] == made, "{newest}");
        ensure!(
            versions(newest["events"].as_array().context("none")?) == [made],
            "{newest}"
        );
        put(&client, "b", n, &json!({"other": n}))?;
    }
    let at = [("if-match", "\"25\"")];
    command(&client, ["documents", "a", "delete"], &json!({}), &at)?.expect_status(200)?;
    values.push(Value::Null);
    tells(&client, "a", &values)?;
    ensure!(page(&client, "a", "")?["version"].is_null());
    host = host.kill()?.ready()?;
    client = host.client()?;
    wait_deciding(&client, "documents", &["a", "b"])?;
    tells(&client, "a", &values)?;
    // Other code, which goes on or begins anew: the same places in the log.
    let (before, _) = all(&client, "b", "newest", 100)?;
    for (number, state) in [(1, "keep"), (2, "rebuild")] {
        let code = wasm::with_field(&with_history()?, "version", &format!("\"1.{number}.0\""))?;
        let done = deploy(&client, "documents", &format!("state={state}"), &code)?;
        ensure!(matches!(done.reply.status, 200 | 202), "{:?}", done.reply);
        wait_serving(&client, "documents", done.deployment, GENEROUS)?;
        wait_deciding(&client, "documents", &["a", "b"])?;
        tells(&client, "a", &values)?;
        ensure!(
            all(&client, "b", "newest", 100)?.0 == before,
            "after {state}"
        );
    }
    put(&client, "a", 0, &json!({"anew": true})).context("behind a deletion")?;
    let newest = page(&client, "a", "_limit=2")?;
    ensure!(
        versions(newest["events"].as_array().context("none")?) == [27, 26],
        "{newest}"
    );
    Ok(())
}

#[test]
fn a_history_is_whole_whatever_happens() -> Result<()> {
    let scratch = Scratch::new("history")?;
    history_is_whole(&Start::serve(scratch.path()))
}

#[test]
fn a_history_is_whole_on_kafka() -> Result<()> {
    let broker = kafka::shared()?;
    let scratch = Scratch::new("history-kafka")?;
    let config = kafka_config(&scratch, &broker, "history", &scratch.join("objects"))?;
    history_is_whole(&Start::serve(scratch.path()).config(&config))
}

#[test]
fn a_long_history_survives_a_kill_between_commits() -> Result<()> {
    let scratch = Scratch::new("history-long")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    deploy(&client, "documents", "", &with_history()?)?.expect(201, "created")?;
    wait_deciding(&client, "documents", &["a"])?;
    let commands: Vec<Value> = (0..3_000_u64)
        .map(|n| {
            let key = if n % 3 == 0 {
                "a".to_owned()
            } else {
                format!("k{}", n % 50)
            };
            json!({"key": key, "command": "put", "body": {"n": n}})
        })
        .collect();
    // Each rests on the version before it.
    let mut counts = std::collections::BTreeMap::new();
    let commands: Vec<Value> = commands
        .into_iter()
        .map(|mut command| {
            let key = command["key"].to_string();
            let count: &mut u64 = counts.entry(key).or_default();
            match *count {
                0 => command["if_absent"] = json!(true),
                at => command["if_version"] = json!(at),
            }
            *count += 1;
            command
        })
        .collect();
    for line in batch(&client, "documents", &commands)? {
        ensure!(line["status"] == 200, "{line}");
    }
    let whole = all(&client, "a", "newest", 1_000)?.0;
    ensure!(
        versions(&whole) == (1..=1_000).rev().collect::<Vec<u64>>(),
        "{}",
        whole.len()
    );
    let host = host.kill()?.ready()?;
    let client = host.client()?;
    wait_deciding(&client, "documents", &["a"])?;
    ensure!(
        all(&client, "a", "newest", 333)?.0 == whole,
        "they differ after the kill"
    );
    ensure!(all(&client, "a", "oldest", 1_000)?.0.len() == 1_000);
    Ok(())
}

#[test]
fn a_history_says_where_it_begins() -> Result<()> {
    let scratch = Scratch::new("history-cut")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    deploy(&client, "documents", "", &documents()?)?.expect(201, "created")?;
    wait_deciding(&client, "documents", &["a", "gone"])?;
    for n in 0..3 {
        put(&client, "a", n, &json!({"n": n}))?;
    }
    put(&client, "gone", 0, &json!({}))?;
    let at = [("if-match", "\"1\"")];
    command(&client, ["documents", "gone", "delete"], &json!({}), &at)?.expect_status(200)?;
    let url = "/v1/views/documents/history/a";
    client
        .get(url)?
        .expect_problem(409, "no-history")?
        .expect_words(&["history = true", "rebuild"])?;
    // Kept from here on; what was before is not found.
    let done = deploy(&client, "documents", "state=keep", &with_history()?)?;
    ensure!(done.reply.status == 200, "{:?}", done.reply);
    wait_serving(&client, "documents", done.deployment, GENEROUS)?;
    wait_deciding(&client, "documents", &["a"])?;
    let cut = json!({"before_version": 4, "reason": "not-indexed"});
    let none = page(&client, "a", "")?;
    ensure!(none["events"] == json!([]) && none["cut"] == cut, "{none}");
    // Also of what is not there any more.
    let gone = page(&client, "gone", "")?;
    let gone_cut = json!({"before_version": 3, "reason": "not-indexed"});
    ensure!(
        gone["version"].is_null() && gone["cut"] == gone_cut,
        "{gone}"
    );
    for n in 3..5 {
        put(&client, "a", n, &json!({"n": n}))?;
    }
    for order in ["newest", "oldest"] {
        let told = page(&client, "a", &format!("_order={order}"))?;
        let mut found = versions(told["events"].as_array().context("none")?);
        found.sort_unstable();
        ensure!(found == [4, 5] && told["cut"] == cut, "{told}");
    }
    // Off and on again: what came in between would be a hole.
    for (version, code) in [("2.0.0", documents()?), ("3.0.0", with_history()?)] {
        let code = wasm::with_field(&code, "version", &format!("\"{version}\""))?;
        let done = deploy(&client, "documents", "state=keep", &code)?;
        wait_serving(&client, "documents", done.deployment, GENEROUS)?;
        wait_deciding(&client, "documents", &["a"])?;
        let at = client.ask("documents", "a", "")?.expect_status(200)?;
        put(
            &client,
            "a",
            foldhost_tests::command::version(&at)?,
            &json!({"by": version}),
        )?;
    }
    let told = page(&client, "a", "")?;
    ensure!(
        versions(told["events"].as_array().context("none")?) == [7],
        "{told}"
    );
    ensure!(told["cut"]["before_version"] == 7, "{told}");
    // Built anew, it has all that the log has.
    let code = wasm::with_field(&with_history()?, "version", "\"4.0.0\"")?;
    let done = deploy(&client, "documents", "state=rebuild", &code)?;
    wait_serving(&client, "documents", done.deployment, GENEROUS)?;
    wait_deciding(&client, "documents", &["a"])?;
    let told = page(&client, "a", "_order=oldest")?;
    ensure!(
        versions(told["events"].as_array().context("none")?) == [1, 2, 3, 4, 5, 6, 7],
        "{told}"
    );
    ensure!(told["cut"].is_null(), "{told}");
    // What is wrong is said.
    for bad in ["_order=first", "_cursor=x", "_limit=0", "limit=1"] {
        client
            .get(&format!("{url}?{bad}"))?
            .expect_problem(400, "bad-parameter")?;
    }
    let unknown = page(&client, "nobody", "")?;
    ensure!(
        unknown["events"] == json!([]) && unknown["cut"].is_null(),
        "{unknown}"
    );
    let base64 = client
        .get("/v1/views/documents/history-b64/YQ")?
        .expect_status(200)?;
    ensure!(
        base64.json()?["events"].as_array().map(Vec::len) == Some(7),
        "{base64:?}"
    );
    client
        .get("/v1/views/nobody/history/a")?
        .expect_problem(404, "unknown-plugin")?;
    Ok(())
}

#[test]
fn what_compaction_removed_is_cut() -> Result<()> {
    let scratch = Scratch::new("history-compacted")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    let compacted = wasm::with_field(&prebuilt_plugin("documents")?, "history", "true")?;
    deploy(&client, "documents", "", &compacted)?.expect(201, "created")?;
    wait_deciding(&client, "documents", &["a"])?;
    let mut at = 0;
    wait_until_ok(GENEROUS, "the topic to be compacted", || {
        for _ in 0..10 {
            at = put(
                &client,
                "a",
                at,
                &json!({"n": at, "text": "x".repeat(100_000)}),
            )?;
        }
        let told = page(&client, "a", "_limit=1000")?;
        let found = versions(told["events"].as_array().context("none")?);
        ensure!(found.first() == Some(&at), "the newest is there: {found:?}");
        let first = *found.last().context("none")?;
        ensure!(first > 1, "nothing is cut: {found:?}");
        let expected: Vec<u64> = (first..=at).rev().collect();
        ensure!(found == expected, "a hole: {found:?}");
        let cut = json!({"before_version": first, "reason": "removed"});
        ensure!(
            told["cut"] == cut && told["next"].is_null(),
            "{}",
            told["cut"]
        );
        Ok(())
    })?;
    let (oldest, _) = all(&client, "a", "oldest", 3)?;
    ensure!(
        versions(&oldest).last() == Some(&at),
        "{:?}",
        versions(&oldest)
    );
    Ok(())
}
