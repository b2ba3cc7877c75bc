//! Views on the embedded log, end to end: deploy, append, ask, restart, kill, delete. Every scenario
//! starts a host of its own, as the README tells a new user to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::host::{GENEROUS, Start};
use foldhost_tests::http::{Client, number};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::wait::{timed, wait_until, wait_until_ok};
use foldhost_tests::{full, topic};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// A record of `events` in the shape of the HTTP contract.
fn record(key: &str, value: Value) -> Value {
    json!({"key": key, "value": value})
}

#[test]
fn a_record_is_in_the_answer_that_carries_its_position() -> Result<()> {
    let scratch = Scratch::new("embedded")?;
    let host = Start::serve(scratch.path()).ready()?;
    host.deploy_prebuilt("latest", "")?;
    let client = host.client()?;
    for round in 0..20 {
        let value = json!({"round": round, "text": "Grüße"});
        let places = client.append_all("events", &[record("a key/1", value.clone())])?;
        let position = format!("events/{}@{}", places[0].0, places[0].1);
        let reply = client
            .ask_at("latest", "a%20key%2F1", "", &position)?
            .expect_status(200)?;
        ensure!(reply.json()?["value"] == value, "{reply:?}");
        ensure!(reply.header("foldhost-position").is_some(), "{reply:?}");
        ensure!(reply.header("foldhost-lag") == Some("0"), "{reply:?}");
    }
    Ok(())
}

#[test]
fn versions_follow_the_key() -> Result<()> {
    let scratch = Scratch::new("embedded")?;
    let host = Start::serve(scratch.path()).ready()?;
    host.deploy_prebuilt("latest", "")?;
    let client = host.client()?;
    let ask = |position: &str| {
        client
            .ask_at("latest", "k", "", position)?
            .expect_status(200)
    };
    let place = |places: Vec<(u32, u64)>| format!("events/{}@{}", places[0].0, places[0].1);

    let first = place(client.append_all("events", &[record("k", json!(1))])?);
    let tag = ask(&first)?.header("etag").context("no ETag")?.to_owned();
    let tag = tag.as_str();
    let path = "/v1/views/latest/keys/k";
    let same = client
        .get_with(path, &[("if-none-match", tag)])?
        .expect_status(304)?;
    ensure!(
        same.body.is_empty() && same.header("etag") == Some(tag),
        "{same:?}"
    );
    let head = client.send("HEAD", path, &[], None)?.expect_status(200)?;
    ensure!(
        head.body.is_empty() && head.header("etag") == Some(tag),
        "{head:?}"
    );

    // Another key of the same partition moves the partition's position, not this key's version.
    let mut moved = false;
    for n in 0..100 {
        let key = format!("other-{n}");
        let at = client.append_all("events", &[record(&key, json!(n))])?;
        if first.starts_with(&format!("events/{}@", at[0].0)) {
            ensure!(ask(&place(at))?.header("etag") == Some(tag));
            moved = true;
            break;
        }
    }
    ensure!(moved, "a hundred keys, and none in the partition of `k`");

    let second = place(client.append_all("events", &[record("k", json!(2))])?);
    let newer = ask(&second)?;
    ensure!(
        newer.header("etag") != Some(tag),
        "the key changed, its version did not: {newer:?}"
    );
    client
        .get_with(path, &[("if-none-match", tag)])?
        .expect_status(200)?;

    let gone = place(client.append_all("events", &[record("k", Value::Null)])?);
    client
        .ask_at("latest", "k", "", &gone)?
        .expect_problem(404, "not-found")?;
    Ok(())
}

#[test]
fn a_wait_that_cannot_be_met_ends_in_time() -> Result<()> {
    let scratch = Scratch::new("embedded")?;
    let host = Start::serve(scratch.path()).ready()?;
    host.deploy_prebuilt("latest", "")?;
    let client = host.client()?;
    let places = client.append_all("events", &[record("k", json!(1))])?;
    let (partition, offset) = places[0];
    let ask = |position: String| {
        let headers = [
            ("foldhost-min-position", position.as_str()),
            ("prefer", "wait=1"),
        ];
        client.get_with("/v1/views/latest/keys/k", &headers)
    };
    let (took, reply) = timed(|| ask(format!("events/{partition}@{}", offset + 1_000)));
    reply?.expect_problem(503, "position-not-reached")?;
    ensure!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(20),
        "{took:?}"
    );
    ask("flights/0@1".into())?.expect_problem(400, "position-not-an-input")?;
    ask("events/x@1".into())?.expect_problem(400, "bad-position")?;
    // Another partition is not the key's business, so it is not waited for.
    let other = (partition + 1) % 4;
    ask(format!(
        "events/{other}@1000000,events/{partition}@{offset}"
    ))?
    .expect_status(200)?;
    Ok(())
}

#[test]
fn all_keys_come_in_pages_and_as_a_stream() -> Result<()> {
    let scratch = Scratch::new("embedded")?;
    let host = Start::serve(scratch.path()).ready()?;
    host.deploy_prebuilt("latest", "")?;
    let client = host.client()?;
    let keys: Vec<String> = (0..250).map(|n| format!("key-{n:03}")).collect();
    let mut records: Vec<Value> = keys
        .iter()
        .map(|key| record(key, json!({"of": key})))
        .collect();
    records.push(record("other", json!(1)));
    client.append_all("events", &records)?;
    host.wait_caught_up("latest", GENEROUS)?;

    let mut seen = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..keys.len() {
        let after = cursor
            .map(|cursor| format!("&_cursor={cursor}"))
            .unwrap_or_default();
        let path = format!("/v1/views/latest/keys?_prefix=key-&_limit=40{after}");
        let page = client.get(&path)?.expect_status(200)?.json()?;
        let entries = page["keys"]
            .as_array()
            .with_context(|| format!("no `keys`: {page}"))?;
        ensure!(entries.len() <= 40);
        for entry in entries {
            let key = entry["key"].as_str().context("a key is not text")?;
            ensure!(entry["answer"]["value"]["of"] == key, "{entry}");
            seen.push(key.to_owned());
        }
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    // In order within each partition, and each key once.
    ensure!(
        seen.len() == keys.len(),
        "{} keys came: {seen:?}",
        seen.len()
    );
    let falls = seen.windows(2).filter(|pair| pair[0] >= pair[1]).count();
    ensure!(
        falls < 4,
        "four partitions begin anew three times, not {falls}: {seen:?}"
    );
    seen.sort();
    ensure!(seen == keys, "{seen:?}");

    let accept = [("accept", "application/x-ndjson")];
    let stream = client
        .get_with("/v1/views/latest/keys", &accept)?
        .expect_status(200)?;
    let lines: Vec<Value> = stream
        .text()
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(lines.len() == keys.len() + 1, "{} lines", lines.len());
    ensure!(
        lines
            .iter()
            .all(|line| line["answer"]["value"] != Value::Null)
    );
    client
        .get("/v1/views/latest/keys?_limit=none")?
        .expect_problem(400, "bad-parameter")?;
    Ok(())
}

#[test]
fn a_stopped_host_has_committed_and_goes_on_where_it_was() -> Result<()> {
    let scratch = Scratch::new("embedded")?;
    let start = Start::serve(scratch.path());
    let host = start.ready()?;
    host.deploy_prebuilt("latest", "")?;
    host.deploy_prebuilt("counter", "topic=flights=events")?;
    let client = host.client()?;
    let records: Vec<Value> = (0..1_000)
        .map(|n| record(&format!("k{}", n % 10), json!(n)))
        .collect();
    client.append_all("events", &records)?;
    host.wait_caught_up("counter", GENEROUS)?;
    host.wait_caught_up("latest", GENEROUS)?;
    let before = client.ask("latest", "k3", "")?.expect_status(200)?;
    ensure!(host.stop()? == 0, "a stop in order ends with exit code 0");

    let host = start.ready()?;
    let client = host.client()?;
    // `/readyz` says that everything it owned is live: no waiting here.
    let after = client.ask("latest", "k3", "")?.expect_status(200)?;
    ensure!(after.body == before.body && after.header("etag") == before.header("etag"));
    for n in 0..10 {
        let answer = client
            .ask("counter", &format!("k{n}"), "")?
            .expect_status(200)?
            .json()?;
        ensure!(answer["count"] == 100, "{answer}");
    }
    Ok(())
}

/// Appends one batch after another until the host is gone; every acknowledged place is counted.
fn append_until_killed(client: &Client, acknowledged: &AtomicUsize) -> usize {
    let mut batches = 0;
    loop {
        let keys = ["a", "b", "c", "d", "e", "f"];
        let records: Vec<Value> = (0..7)
            .map(|n| {
                record(
                    keys[(batches + n) % keys.len()],
                    json!({"batch": batches, "n": n}),
                )
            })
            .collect();
        match client.append_all("events", &records) {
            Ok(places) => acknowledged.fetch_add(places.len(), Ordering::SeqCst),
            Err(_) => return batches,
        };
        batches += 1;
    }
}

#[test]
fn kill_minus_nine_loses_nothing_that_was_acknowledged() -> Result<()> {
    let scratch = Scratch::new("embedded")?;
    let mut start = Start::serve(scratch.path());
    let host = start.ready()?;
    host.deploy_prebuilt("counter", "topic=flights=events")?;
    ensure!(host.stop()? == 0);
    let mut chance = ChaCha8Rng::seed_from_u64(7);
    let acknowledged = Arc::new(AtomicUsize::new(0));
    for _ in 0..if full() { 20 } else { 4 } {
        let host = start.ready()?;
        let client = host.client()?;
        let goal = acknowledged.load(Ordering::SeqCst) + chance.random_range(1..400);
        let appender = {
            let (client, acknowledged) = (client.clone(), Arc::clone(&acknowledged));
            std::thread::spawn(move || append_until_killed(&client, &acknowledged))
        };
        wait_until(GENEROUS, "appends to be acknowledged", || {
            (acknowledged.load(Ordering::SeqCst) >= goal).then_some(())
        })?;
        start = host.kill()?;
        appender
            .join()
            .map_err(|_| anyhow::anyhow!("the appender panicked"))?;
    }

    let host = start.ready()?;
    host.wait_caught_up("counter", GENEROUS)?;
    let client = host.client()?;
    let records = topic::read_all(&client, "events")?;
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    // A batch whose answer was lost may be there: whole, and once.
    ensure!(
        records.len() >= acknowledged,
        "{} of {acknowledged} are left",
        records.len()
    );
    ensure!(
        records.len() % 7 == 0,
        "a batch was written in part: {} records",
        records.len()
    );
    for (key, count) in topic::count_by_key(&records)? {
        let answer = client
            .ask("counter", &key, "")?
            .expect_status(200)?
            .json()?;
        ensure!(
            number(&answer["count"]) == Some(count),
            "{key}: {answer}, the log has {count}"
        );
    }
    Ok(())
}

#[test]
fn deployments_are_durable_and_numbered_once() -> Result<()> {
    let scratch = Scratch::new("embedded")?;
    let start = Start::serve(scratch.path());
    let host = start.ready()?;
    let client = host.client()?;
    let wasm = prebuilt_plugin("latest")?;
    let dry = client.deploy("latest", "dry_run=true", wasm.clone())?;
    ensure!((200..300).contains(&dry.status), "{dry:?}");
    client
        .get("/v1/plugins/latest")?
        .expect_problem(404, "unknown-plugin")?;

    client
        .deploy("latest", "", wasm.clone())?
        .expect_status(201)?;
    client
        .deploy("latest", "", wasm.clone())?
        .expect_status(200)?;
    // Killed right after the answer: the deployment is there.
    let start = host.kill()?;
    let host = start.ready()?;
    let client = host.client()?;
    let list = client.get("/v1/plugins")?.expect_status(200)?.json()?;
    let plugins = list["plugins"].as_array().context("no `plugins`")?;
    ensure!(
        plugins.len() == 1 && plugins[0]["name"] == "latest",
        "{list}"
    );
    for field in ["kind", "version", "generation", "digest", "status", "lag"] {
        ensure!(!plugins[0][field].is_null(), "no `{field}`: {list}");
    }
    ensure!(plugins[0]["kind"] == "view", "{list}");
    let generation = number(&plugins[0]["generation"]).context("no generation")?;

    client.append_all("events", &[record("k", json!(1))])?;
    host.wait_caught_up("latest", GENEROUS)?;
    client.ask("latest", "k", "")?.expect_status(200)?;
    ensure!((200..300).contains(&client.delete("/v1/plugins/latest")?.status));
    wait_until_ok(GENEROUS, "the plugin to go", || {
        client
            .ask("latest", "k", "")?
            .expect_problem(404, "unknown-plugin")
    })?;
    client
        .delete("/v1/plugins/latest")?
        .expect_problem(404, "unknown-plugin")?;

    client.deploy("latest", "", wasm)?.expect_status(201)?;
    host.wait_caught_up("latest", GENEROUS)?;
    let again = client
        .get("/v1/plugins/latest")?
        .expect_status(200)?
        .json()?;
    let newer = number(&again["generation"]).context("no generation")?;
    ensure!(
        newer > generation,
        "generation {newer} was used before: {again}"
    );
    // Built again from the log.
    client.ask("latest", "k", "")?.expect_status(200)?;
    let ready = client.get("/v1/plugins/latest/ready?_wait=30")?;
    ready.expect_status(200)?;
    Ok(())
}

#[test]
fn topics_are_made_listed_read_and_deleted() -> Result<()> {
    let scratch = Scratch::new("embedded")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    let put = |count: u32| client.put_json("/v1/topics/orders", &json!({"partitions": count}));
    ensure!((200..300).contains(&put(3)?.status));
    ensure!(put(3)?.status == 200, "the same again changes nothing");
    put(5)?.expect_problem(409, "partitions-differ")?;
    ensure!(topic::partitions(&client, "orders")? == 3);
    let list = client.get("/v1/topics")?.expect_status(200)?;
    ensure!(list.text().contains("orders"), "{list:?}");

    let records = [
        json!({"key": "a", "value": {"n": 1}, "timestamp": 1_357_053_420_000_u64}),
        json!({"key_base64": "/wE=", "value_base64": "//4="}),
        json!({"key": "a", "value_text": "plain", "headers": {"source": "test"}}),
        json!({"key": "a", "value": null}),
    ];
    let places = client.append_all("orders", &records)?;
    ensure!(places[0].0 == places[2].0 && places[0].1 < places[2].1 && places[2].1 < places[3].1);
    let read = topic::read_all(&client, "orders")?;
    ensure!(read.len() == 4, "{read:?}");
    let of_a: Vec<&Value> = read.iter().filter(|record| record["key"] == "a").collect();
    ensure!(
        of_a.len() == 3 && of_a[0]["value"] == json!({"n": 1}),
        "{of_a:?}"
    );
    ensure!(
        number(&of_a[0]["timestamp"]) == Some(1_357_053_420_000),
        "{of_a:?}"
    );
    ensure!(of_a[2]["value"].is_null(), "{of_a:?}");
    ensure!(
        read.iter().any(|record| record["key_base64"] == "_wE"),
        "{read:?}"
    );

    ensure!((200..300).contains(&client.delete("/v1/topics/orders")?.status));
    client
        .get("/v1/topics/orders")?
        .expect_problem(404, "unknown-topic")?;
    client
        .append("orders", &records)?
        .expect_problem(404, "unknown-topic")?;
    Ok(())
}

#[test]
fn a_host_describes_itself() -> Result<()> {
    let scratch = Scratch::new("embedded")?;
    let host = Start::serve(scratch.path()).ready()?;
    host.deploy_prebuilt("latest", "")?;
    let client = host.client()?;
    client.append_all("events", &[record("k", json!("x".repeat(4_000)))])?;
    host.wait_caught_up("latest", GENEROUS)?;

    let api = client.get("/v1/openapi.json")?.expect_status(200)?.json()?;
    for path in [
        "/v1/plugins",
        "/v1/topics/{topic}/records",
        "/v1/views/{plugin}/keys/{key}",
    ] {
        ensure!(
            api["paths"].get(path).is_some(),
            "OpenAPI does not tell of {path}"
        );
    }
    let metrics = client.get("/metrics")?.expect_status(200)?.text();
    for name in [
        "foldhost_partition_lag_records",
        "foldhost_partition_status",
        "foldhost_fold_seconds",
        "foldhost_commit_seconds",
        "foldhost_http_request_seconds",
    ] {
        ensure!(metrics.contains(name), "no metric {name}:\n{metrics}");
    }
    ensure!(
        metrics.contains("plugin=\"latest\""),
        "no label for the plugin"
    );
    let version = client.get("/v1/version")?.expect_status(200)?.json()?;
    ensure!(version["version"].is_string(), "{version}");

    let path = "/v1/views/latest/keys/k";
    let packed = client
        .get_with(path, &[("accept-encoding", "gzip")])?
        .expect_status(200)?;
    ensure!(
        packed.header("content-encoding") == Some("gzip"),
        "{:?}",
        packed.headers
    );
    let vary = packed.header("vary").unwrap_or_default().to_lowercase();
    ensure!(vary.contains("accept-encoding"), "{:?}", packed.headers);
    let mut plain = Vec::new();
    std::io::Read::read_to_end(
        &mut flate2::read::GzDecoder::new(&packed.body[..]),
        &mut plain,
    )?;
    ensure!(plain == client.get(path)?.body);
    Ok(())
}

#[test]
fn requests_in_flight_do_not_keep_a_host_from_stopping() -> Result<()> {
    let scratch = Scratch::new("embedded")?;
    let host = Start::serve(scratch.path()).ready()?;
    host.deploy_prebuilt("latest", "")?;
    let client = host.client()?;
    let places = client.append_all("events", &[record("k", json!(1))])?;
    let position = format!("events/{}@{}", places[0].0, places[0].1 + 1);
    let waiting = std::thread::spawn(move || {
        let headers = [
            ("foldhost-min-position", position.as_str()),
            ("prefer", "wait=50"),
        ];
        client.get_with("/v1/views/latest/keys/k", &headers)
    });
    let (took, code) = timed(|| host.stop());
    ensure!(code? == 0);
    ensure!(took < Duration::from_secs(30), "stopping took {took:?}");
    let answer = waiting
        .join()
        .map_err(|_| anyhow::anyhow!("the client panicked"))?;
    // Either it was answered that the host stops, or it never got in.
    if let Ok(reply) = answer {
        ensure!(reply.status == 503, "{reply:?}");
    }
    Ok(())
}
