//! Command handlers as whoever commands sees them: one winner for each version, refusals with a code, the same answer
//! to every repeat, whatever is killed; on the embedded log and on Kafka. More with `tests/run --full`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::command::{command, documents, version, wait_deciding};
use foldhost_tests::host::{GENEROUS, Host, Start, kafka_config, run_well};
use foldhost_tests::http::{Client, Reply, number};
use foldhost_tests::operate::{deploy, wait_serving};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::wait::{Stopwatch, let_pass, wait_until_ok};
use foldhost_tests::{full, kafka, topic, wasm};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

/// A host that was killed is itself again, its session on Kafka included.
const WITHIN: Duration = Duration::from_secs(120);

#[test]
fn two_waiters_cannot_both_take_the_last_portion() -> Result<()> {
    let scratch = Scratch::new("orders")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    deploy(&client, "orders", "", &prebuilt_plugin("orders")?)?.expect(201, "created")?;
    wait_deciding(&client, "orders", &["lasagne", "soup"])?;
    let dish = |name| ["orders", "lasagne", name];
    let offered = command(
        &client,
        dish("offer"),
        &json!({"portions": 1}),
        &[("if-none-match", "*")],
    )?
    .expect_status(200)?;
    ensure!(
        version(&offered)? == 1 && offered.json()? == json!({"left": 1}),
        "{offered:?}"
    );
    let read = client.ask("orders", "lasagne", "")?.expect_status(200)?;
    let etag = read.header("etag").context("no tag")?.to_owned();
    ensure!(etag.starts_with("\"1-") && version(&read)? == 1, "{read:?}");
    ensure!(offered.header("etag") == Some(&*etag), "{offered:?}");

    let answers: Vec<Reply> = std::thread::scope(|scope| {
        let order = |table: u32| {
            let (client, etag) = (&client, &etag);
            scope.spawn(move || {
                let body = json!({"table": table, "portions": 1});
                command(client, dish("order"), &body, &[("if-match", etag)])
            })
        };
        let waiters = [order(7), order(9)];
        let answers = waiters.map(|it| it.join().expect("no waiter panics"));
        answers.into_iter().collect::<Result<_>>()
    })?;
    let mut statuses: Vec<u16> = answers.iter().map(|it| it.status).collect();
    statuses.sort_unstable();
    ensure!(statuses == [200, 412], "{answers:?}");
    for answer in answers {
        ensure!(version(&answer)? == 2, "{answer:?}");
        if answer.status == 412 {
            let told = answer.expect_problem(412, "precondition-failed")?.json()?;
            ensure!(told["version"] == 2, "{told}");
        }
    }
    // What a rule refuses, and what says nothing of a version.
    let body = json!({"table": 9, "portions": 1});
    let refused = command(&client, dish("order"), &body, &[("if-match", "\"2\"")])?
        .expect_problem(422, "command-refused")?
        .json()?;
    ensure!(
        refused["refusal"] == "sold-out" && refused["details"]["left"] == 0,
        "{refused}"
    );
    command(&client, dish("order"), &body, &[])?.expect_problem(428, "precondition-required")?;
    // Read your own writes, in a view of the events.
    let view = wasm::with_field(&prebuilt_plugin("counter")?, "inputs", "[\"orders\"]")?;
    let done = deploy(&client, "told", "", &view)?.expect(201, "created")?;
    wait_serving(&client, "told", done.deployment, GENEROUS)?;
    let offered = command(
        &client,
        ["orders", "soup", "offer"],
        &json!({"portions": 3}),
        &[("if-none-match", "*")],
    )?
    .expect_status(200)?;
    let position = offered.header("foldhost-position").context("no position")?;
    let counted = client
        .ask_at("told", "soup", "", position)?
        .expect_status(200)?
        .json()?;
    ensure!(counted["count"] == 1, "{counted}");
    Ok(())
}

#[test]
fn what_is_wrong_with_a_command_is_said() -> Result<()> {
    let scratch = Scratch::new("bad-commands")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    deploy(&client, "documents", "", &documents()?)?.expect(201, "created")?;
    deploy(
        &client,
        "latest",
        "topic=events=other",
        &prebuilt_plugin("latest")?,
    )?
    .expect(201, "created")?;
    wait_deciding(&client, "documents", &["a"])?;
    let put = ["documents", "a", "put"];
    let absent = [("if-none-match", "*")];
    command(&client, ["latest", "a", "put"], &json!({}), &absent)?
        .expect_problem(409, "not-a-handler")?;
    command(&client, ["nobody", "a", "put"], &json!({}), &absent)?
        .expect_problem(404, "unknown-plugin")?;
    let unknown = command(&client, ["documents", "a", "putt"], &json!({}), &absent)?
        .expect_problem(400, "unknown-command")?
        .json()?;
    ensure!(
        unknown["commands"].to_string().contains("merge-patch"),
        "{unknown}"
    );
    command(&client, put, &json!("no object"), &absent)?
        .expect_problem(400, "bad-body")?
        .expect_words(&["the body: expected an object"])?;
    for bad in ["17", "\"seventeen\"", "\"1\" x"] {
        command(&client, put, &json!({}), &[("if-match", bad)])?
            .expect_problem(400, "bad-etag")?
            .expect_words(&["if-match"])?;
    }
    command(&client, put, &json!({}), &[("if-none-match", "\"1\"")])?
        .expect_problem(400, "bad-etag")?;
    let key = "k".repeat(40_000);
    command(&client, ["documents", &key, "put"], &json!({}), &absent)?.expect_status(400)?;
    // One key, two bodies.
    let id = ("idempotency-key", "first");
    let first = command(&client, put, &json!({"n": 1}), &[absent[0], id])?.expect_status(200)?;
    ensure!(
        first.header("idempotency-key") == Some("first"),
        "{first:?}"
    );
    let again = command(&client, put, &json!({"n": 1}), &[absent[0], id])?.expect_status(200)?;
    ensure!(
        again.body == first.body && version(&again)? == version(&first)?,
        "{again:?}"
    );
    ensure!(
        again.header("idempotent-replayed") == Some("true"),
        "{again:?}"
    );
    command(&client, put, &json!({"n": 2}), &[absent[0], id])?
        .expect_problem(422, "idempotency-conflict")?;
    let too_long = "x".repeat(300);
    command(&client, put, &json!({}), &[("idempotency-key", &*too_long)])?
        .expect_problem(400, "bad-parameter")?;
    // Nobody else writes to what it owns.
    client
        .append(
            "documents",
            &[json!({"key": "a", "value": {"forged": true}})],
        )?
        .expect_problem(409, "topic-owned")?;
    let shown = client
        .ask("documents", "a", "")?
        .expect_status(200)?
        .json()?;
    ensure!(shown == json!({"n": 1}), "{shown}");
    // A patch, a deletion, and versions that count on.
    let base = client.base().to_owned();
    let well = |arguments: &[&str]| run_well(scratch.path(), &base, arguments);
    let patch = [
        "command",
        "documents",
        "a",
        "merge-patch",
        "{\"m\":2}",
        "--if-version",
        "1",
    ];
    well(&patch)?;
    let shown = well(&["query", "documents", "a"])?;
    ensure!(shown.trim() == "{\"n\":1,\"m\":2}", "{shown}");
    well(&["command", "documents", "a", "delete", "--if-version", "2"])?;
    client
        .ask("documents", "a", "")?
        .expect_problem(404, "not-found")?;
    let anew = command(&client, put, &json!({"n": 9}), &absent)?.expect_status(200)?;
    ensure!(version(&anew)? == 4, "{anew:?}");
    // The same by the methods of HTTP, on the URL that is read.
    let url = "/v1/views/documents/keys/a";
    let json = ("content-type", "application/json");
    for (method, body, at, then) in [
        ("PUT", Some("{\"n\":5}"), "\"4\"", 5),
        ("PATCH", Some("{\"m\":6}"), "\"5\"", 6),
    ] {
        let body = body.map(|body| body.as_bytes().to_vec());
        let reply = client
            .send(method, url, &[json, ("if-match", at)], body)?
            .expect_status(200)?;
        ensure!(version(&reply)? == then, "{reply:?}");
    }
    let shown = client.get(url)?.expect_status(200)?;
    ensure!(shown.text() == "{\"n\":5,\"m\":6}", "{shown:?}");
    client
        .send("DELETE", url, &[("if-match", "\"5\"")], None)?
        .expect_problem(412, "precondition-failed")?;
    client
        .send("DELETE", url, &[("if-match", "\"6\"")], None)?
        .expect_status(200)?;
    client.get(url)?.expect_problem(404, "not-found")?;
    client
        .send(
            "PUT",
            "/v1/views/latest/keys/a",
            &[json],
            Some(b"{}".to_vec()),
        )?
        .expect_problem(405, "method-not-allowed")?;
    Ok(())
}

/// Puts on one document by many at once, while the host is killed: each version has one winner, and none is missing.
fn one_winner_a_version(start: &Start, kills: u32) -> Result<()> {
    let puts = if full() { 4_000 } else { 1_000 };
    let host = start.ready()?;
    let client = host.client()?;
    deploy(&client, "documents", "", &documents()?)?.expect(201, "created")?;
    wait_deciding(&client, "documents", &["one"])?;
    let base = Mutex::new(host.url().to_owned());
    let sent = AtomicU64::new(0);
    let winners: Mutex<BTreeMap<u64, String>> = Mutex::new(BTreeMap::new());
    let (stale, repeats) = (AtomicU64::new(0), AtomicU64::new(0));
    let put = |number: u64| -> Result<()> {
        let id = format!("put-{number}");
        let body = json!({"by": number});
        let since = Stopwatch::start();
        let mut asked: Option<Vec<(&str, String)>> = None;
        loop {
            ensure!(since.elapsed() < WITHIN, "{id} has no answer");
            let url = base.lock().expect("no client panics").clone();
            let Ok(client) = Client::new(&url) else {
                continue;
            };
            // What a put rests on is read once: a repeat is the same command.
            if asked.is_none() {
                asked = match client.ask("documents", "one", "") {
                    Ok(read) if read.status == 200 => Some(vec![(
                        "if-match",
                        read.header("etag").context("no tag")?.to_owned(),
                    )]),
                    Ok(read) if read.status == 404 => Some(vec![("if-none-match", "*".to_owned())]),
                    _ => None,
                };
            }
            let Some(condition) = &asked else {
                let_pass(Duration::from_millis(20));
                continue;
            };
            let mut headers = vec![("idempotency-key", &*id)];
            headers.extend(condition.iter().map(|(name, value)| (*name, &**value)));
            let reply = command(&client, ["documents", "one", "put"], &body, &headers);
            match reply {
                Ok(reply) if reply.status == 200 => {
                    if reply.header("idempotent-replayed").is_some() {
                        repeats.fetch_add(1, Ordering::Relaxed);
                    }
                    let before = winners
                        .lock()
                        .expect("no client panics")
                        .insert(version(&reply)?, id.clone());
                    ensure!(
                        before.is_none(),
                        "{id} and {before:?} have won the same version"
                    );
                    return Ok(());
                }
                Ok(reply) if reply.status == 412 => {
                    stale.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Ok(reply) if reply.status < 500 => anyhow::bail!("{reply:?}"),
                _ => let_pass(Duration::from_millis(20)),
            }
        }
    };
    let mut host = Some(host);
    std::thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = (0..32)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let number = sent.fetch_add(1, Ordering::Relaxed);
                        if number >= puts {
                            return Ok(());
                        }
                        put(number)?;
                    }
                })
            })
            .collect();
        let mut random = ChaCha8Rng::seed_from_u64(9);
        for _ in 0..kills {
            let_pass(Duration::from_millis(random.random_range(200..900)));
            let again = host.take().context("no host")?.kill()?.ready()?;
            again
                .url()
                .clone_into(&mut base.lock().expect("no client panics"));
            host = Some(again);
        }
        for client in clients {
            client.join().expect("no client panics")?;
        }
        Ok(())
    })?;
    let winners = winners.into_inner().expect("no client panics");
    let versions: Vec<u64> = winners.keys().copied().collect();
    let expected: Vec<u64> = (1..=versions.len() as u64).collect();
    ensure!(versions == expected, "gaps in {versions:?}");
    ensure!(
        winners.len() as u64 + stale.into_inner() == puts,
        "some have no answer"
    );
    // The log says the same: each winner once, in the order of its version.
    let client = host.as_ref().context("no host")?.client()?;
    let events = topic::read_at_least(&client, "documents", winners.len(), WITHIN)?;
    let told: Vec<String> = events
        .iter()
        .map(|event| {
            Ok(format!(
                "put-{}",
                number(&event["value"]["by"]).context("no number")?
            ))
        })
        .collect::<Result<_>>()?;
    let won: Vec<String> = winners.into_values().collect();
    ensure!(told == won, "the log and the answers differ");
    Ok(())
}

#[test]
fn every_version_of_a_document_has_one_winner() -> Result<()> {
    let scratch = Scratch::new("winners")?;
    let start = Start::serve(scratch.path());
    one_winner_a_version(&start, if full() { 10 } else { 3 })
}

#[test]
fn every_version_has_one_winner_on_kafka() -> Result<()> {
    let broker = kafka::shared()?;
    let scratch = Scratch::new("winners-kafka")?;
    let config = kafka_config(&scratch, &broker, "winners", &scratch.join("objects"))?;
    let start = Start::serve(scratch.path()).config(&config);
    one_winner_a_version(&start, if full() { 10 } else { 2 })
}

#[test]
fn other_code_takes_over_a_handler_with_its_versions_and_its_answers() -> Result<()> {
    let scratch = Scratch::new("handler-upgrade")?;
    let mut host: Host = Start::serve(scratch.path()).ready()?;
    let mut client = host.client()?;
    let code = documents()?;
    deploy(&client, "documents", "", &code)?.expect(201, "created")?;
    let keys: Vec<String> = (0..20).map(|n| format!("d{n}")).collect();
    let all: Vec<&str> = keys.iter().map(String::as_str).collect();
    wait_deciding(&client, "documents", &all)?;
    let mut first = BTreeMap::new();
    for key in &all {
        let id = format!("create-{key}");
        let headers = [("if-none-match", "*"), ("idempotency-key", &*id)];
        let reply = command(
            &client,
            ["documents", key, "put"],
            &json!({"key": key}),
            &headers,
        )?;
        first.insert(*key, reply.expect_status(200)?.body);
    }
    for (number, state) in [(1, "keep"), (2, "rebuild")] {
        let other = wasm::with_field(&code, "version", &format!("\"1.{number}.0\""))?;
        let done = deploy(&client, "documents", &format!("state={state}"), &other)?;
        ensure!(
            done.reply.status == 200 || done.reply.status == 202,
            "{:?}",
            done.reply
        );
        wait_serving(&client, "documents", done.deployment, GENEROUS)?;
        wait_deciding(&client, "documents", &all)?;
        for key in &all {
            let id = format!("create-{key}");
            let headers = [("if-none-match", "*"), ("idempotency-key", &*id)];
            let again = command(
                &client,
                ["documents", key, "put"],
                &json!({"key": key}),
                &headers,
            )?
            .expect_status(200)?;
            ensure!(again.body == first[key], "{again:?}");
            let at = format!("\"{number}\"");
            let next = command(
                &client,
                ["documents", key, "merge-patch"],
                &json!({"n": number}),
                &[("if-match", &*at)],
            )?
            .expect_status(200)?;
            ensure!(version(&next)? == number + 1, "{next:?}");
        }
        host = host.kill()?.ready()?;
        client = host.client()?;
        wait_deciding(&client, "documents", &all)?;
    }
    let events = topic::read_all(&client, "documents")?;
    let of: BTreeSet<_> = events
        .iter()
        .map(|event| event["key"].to_string())
        .collect();
    ensure!(
        (of.len(), events.len()) == (20, 60),
        "{} of {}",
        events.len(),
        of.len()
    );
    Ok(())
}

/// A host is stopped where it is, the other one takes over and decides, the first one goes on with commands that
/// have waited for it: it can accept none of them, and the topic holds nothing that was decided on what it knew.
#[test]
fn a_zombie_accepts_nothing() -> Result<()> {
    let broker = kafka::shared()?;
    let scratch = Scratch::new("handler-zombie")?;
    let config = kafka_config(
        &scratch,
        &broker,
        "handler-zombie",
        &scratch.join("objects"),
    )?;
    let start = |name: &str| -> Result<Host> {
        let folder = scratch.join(name);
        std::fs::create_dir_all(&folder)?;
        Start::serve(&folder).config(&config).ready()
    };
    let mut hosts = vec![start("a")?];
    let client = hosts[0].client()?;
    let topic = "topic=documents=zombie-documents";
    deploy(&client, "documents", topic, &documents()?)?.expect(201, "created")?;
    let keys: Vec<String> = (0..12).map(|n| format!("z{n}")).collect();
    let all: Vec<&str> = keys.iter().map(String::as_str).collect();
    wait_deciding(&client, "documents", &all)?;
    for key in &all {
        let absent = [("if-none-match", "*")];
        command(
            &client,
            ["documents", key, "put"],
            &json!({"by": 0}),
            &absent,
        )?
        .expect_status(200)?;
    }
    hosts.push(start("b")?);
    let mut versions: BTreeMap<&str, u64> = all.iter().map(|key| (*key, 1)).collect();
    for turn in 0..if full() { 6 } else { 2 } {
        let clients = [hosts[0].client()?, hosts[1].client()?];
        let (zombie, heir) = (turn % 2, 1 - turn % 2);
        // Both have some of them.
        let has = |of: usize, key: &str| -> Result<bool> {
            Ok(clients[of].ask("documents", key, "")?.status == 200)
        };
        let mut own = Vec::new();
        wait_until_ok(WITHIN, "both to have their share", || {
            own.clear();
            let mut others = 0;
            for key in &all {
                match (has(zombie, key)?, has(heir, key)?) {
                    (true, false) => own.push(*key),
                    (false, true) => others += 1,
                    both => anyhow::bail!("{key}: {both:?}"),
                }
            }
            ensure!(!own.is_empty() && others > 0, "{own:?}");
            Ok(())
        })?;
        hosts[zombie].process().signal("STOP")?;
        std::thread::scope(|scope| -> Result<()> {
            // Commands that wait in front of the one that was stopped, for the version that it knows.
            let late: Vec<_> = own
                .iter()
                .map(|key| {
                    let (client, version) = (&clients[zombie], versions[key]);
                    scope.spawn(move || {
                        let at = format!("\"{version}\"");
                        let body = json!({"by": "the zombie"});
                        command(
                            client,
                            ["documents", key, "put"],
                            &body,
                            &[("if-match", &*at)],
                        )
                    })
                })
                .collect();
            for key in &own {
                let at = format!("\"{}\"", versions[key]);
                wait_until_ok(WITHIN, "the other host to decide", || {
                    let id = format!("heir-{turn}-{key}");
                    let headers = [("if-match", &*at), ("idempotency-key", &*id)];
                    let reply = command(
                        &clients[heir],
                        ["documents", key, "put"],
                        &json!({"by": turn}),
                        &headers,
                    )?;
                    ensure!(reply.status == 200, "{reply:?}");
                    Ok(())
                })?;
            }
            hosts[zombie].process().signal("CONT")?;
            for (key, late) in own.iter().zip(late) {
                let reply = late.join().expect("no client panics");
                if let Ok(reply) = reply {
                    ensure!(reply.status >= 400, "{key}: {reply:?}");
                    // Its refusals do not get out either: none says that it is stale on what it knew.
                    let told = reply.header("foldhost-version").map(str::to_owned);
                    let known = versions[key].to_string();
                    ensure!(told.is_none_or(|told| told != known), "{key}: {reply:?}");
                }
            }
            Ok(())
        })?;
        for key in own {
            *versions.entry(key).or_default() += 1;
        }
    }
    let written = usize::try_from(versions.values().sum::<u64>())?;
    let client = hosts[0].client()?;
    let events = topic::read_at_least(&client, "zombie-documents", written, WITHIN)?;
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for event in &events {
        ensure!(event["value"]["by"] != "the zombie", "{event}");
        let key = event["key"].as_str().context("no key")?.to_owned();
        let count = found.entry(key).or_default();
        *count += 1;
        let version = event["headers"]["foldhost-version"]
            .as_str()
            .context("no version")?;
        ensure!(version == count.to_string(), "{event}");
    }
    let expected: BTreeMap<String, u64> = versions
        .into_iter()
        .map(|(key, version)| (key.to_owned(), version))
        .collect();
    ensure!(found == expected, "{found:?}, not {expected:?}");
    Ok(())
}
