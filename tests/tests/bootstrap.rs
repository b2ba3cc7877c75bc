//! The states of a command handler told again in events, while commands go on and the host is killed: a view that
//! begins behind the older events equals the one that has read them all, no key goes back in time, and no version
//! moves; on the embedded log, and on Kafka with the older records deleted.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::command::documents;
use foldhost_tests::host::{GENEROUS, Start, kafka_config, run_in, run_well, shown};
use foldhost_tests::http::{Client, Reply, number};
use foldhost_tests::kafka::{self, Broker};
use foldhost_tests::operate::{deploy, plugin, wait_serving};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::wait::{Stopwatch, let_pass, wait_until_ok};
use foldhost_tests::{full, topic, wasm};
use serde_json::{Value, json};

/// A host that was killed is itself again, its session on Kafka included.
const WITHIN: Duration = Duration::from_secs(120);
/// Commands in a second, all clients together.
const COMMANDS_PER_SECOND: u64 = 500;
const CLIENTS: u64 = 10;

fn put(client: &Client, key: &str, body: &Value, headers: &[(&str, &str)]) -> Result<Reply> {
    let headers = [&[("content-type", "application/json")], headers].concat();
    let path = format!("/v1/commands/documents/{key}/put");
    client.send("POST", &path, &headers, Some(body.to_string().into_bytes()))
}

fn key(number: u64) -> String {
    format!("doc-{number:05}")
}

fn version(reply: &Reply) -> Result<u64> {
    let version = reply.header("foldhost-version").context("no version")?;
    Ok(version.parse()?)
}

/// Writes every document once.
fn fill(client: &Client, keys: u64) -> Result<()> {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= keys {
                            return Ok(());
                        }
                        let id = format!("fill-{number}");
                        let headers = [("if-none-match", "*"), ("idempotency-key", &*id)];
                        // Whoever comes first waits until the handler has opened its partitions.
                        wait_until_ok(WITHIN, "a document to be written", || {
                            let body = json!({"number": number});
                            put(client, &key(number), &body, &headers)?.expect_status(200)
                        })?;
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("no writer panics")?;
        }
        Ok(())
    })
}

/// What a client knows of its keys: the version that a change must be meant for.
type Versions = BTreeMap<u64, u64>;

/// Changes documents, each at the version that is known, as long as `over` says; a change without an answer is
/// repeated until there is one. Its keys are its own: each change must win.
fn change(
    base: &Mutex<String>,
    client: u64,
    keys: u64,
    over: &AtomicBool,
) -> Result<(Versions, u64)> {
    let pause = Duration::from_millis(1_000 * CLIENTS / COMMANDS_PER_SECOND);
    let mut versions: Versions = (client..keys)
        .step_by(usize::try_from(CLIENTS)?)
        .map(|key| (key, 1))
        .collect();
    let own: Vec<u64> = versions.keys().copied().collect();
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        let of = own[usize::try_from(count * 7)? % own.len()];
        let at = format!("\"{}\"", versions[&of]);
        let id = format!("change-{client}-{count}");
        let headers = [("if-match", &*at), ("idempotency-key", &*id)];
        let body = json!({"number": of, "change": count, "by": client});
        let since = Stopwatch::start();
        loop {
            ensure!(since.elapsed() < WITHIN, "{id} has no answer");
            let url = base.lock().expect("no client panics").clone();
            let reply =
                Client::new(&url).and_then(|client| put(&client, &key(of), &body, &headers));
            match reply {
                Ok(reply) if reply.status == 200 => {
                    let next = version(&reply)?;
                    ensure!(next == versions[&of] + 1, "{id}: {reply:?}");
                    versions.insert(of, next);
                    break;
                }
                Ok(reply) if reply.status < 500 => anyhow::bail!("{id}: {reply:?}"),
                _ => let_pass(Duration::from_millis(20)),
            }
        }
        count += 1;
        let_pass(pause.saturating_sub(since.elapsed()));
    }
    Ok((versions, count))
}

/// A page of a view, whole: key to what it answers.
fn all(client: &Client, view: &str) -> Result<BTreeMap<String, Value>> {
    let reply = client.get_with(
        &format!("/v1/views/{view}/keys"),
        &[("accept", "application/x-ndjson")],
    )?;
    let mut all = BTreeMap::new();
    for line in reply.expect_status(200)?.text().lines() {
        let item: Value = serde_json::from_str(line)?;
        let key = item["key"]
            .as_str()
            .with_context(|| format!("no key: {line}"))?;
        all.insert(key.to_owned(), item["answer"]["value"].clone());
    }
    Ok(all)
}

/// Of each key, real events count on by one, and what is told in between is the document and the version there.
fn nothing_goes_back(events: &[Value], bootstrap: u64) -> Result<BTreeMap<String, u64>> {
    let mut newest: BTreeMap<String, (u64, Value)> = BTreeMap::new();
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    for event in events {
        let key = event["key"].as_str().context("no key")?.to_owned();
        let header = |name: &str| event["headers"][name].as_str().map(str::to_owned);
        let version: u64 = header("foldhost-version").context("no version")?.parse()?;
        let before = newest.get(&key);
        match header("foldhost-bootstrap") {
            None => ensure!(
                version == before.map_or(0, |it| it.0) + 1,
                "{event}, after {before:?}"
            ),
            Some(number) => {
                ensure!(number == bootstrap.to_string(), "{event}");
                ensure!(
                    before == Some(&(version, event["value"].clone())),
                    "{event}, after {before:?}"
                );
                *told.entry(key.clone()).or_default() += 1;
            }
        }
        newest.insert(key, (version, event["value"].clone()));
    }
    Ok(told)
}

/// The run's partitions, once it is done: from where on each is needed.
fn done(client: &Client, bootstrap: u64) -> Result<Vec<(u64, u64)>> {
    let details = plugin(client, "documents")?;
    let run = &details["bootstrap"];
    ensure!(
        number(&run["bootstrap"]) == Some(bootstrap) && run["state"] == "done",
        "{run}"
    );
    let partitions = run["partitions"].as_array().context("no partitions")?;
    let from = partitions.iter().map(|partition| {
        ensure!(
            partition["done"] == true && partition["untold"] == 0,
            "{run}"
        );
        let number = |name: &str| number(&partition[name]).context("no number");
        Ok((number("partition")?, number("from")?))
    });
    from.collect()
}

fn commands_go_on_while_states_are_told(start: &Start, broker: Option<&Broker>) -> Result<()> {
    let keys = if full() { 20_000 } else { 3_000 };
    let host = start.ready()?;
    let client = host.client()?;
    deploy(&client, "documents", "", &documents()?)?.expect(201, "created")?;
    fill(&client, keys)?;
    let view = wasm::with_field(&prebuilt_plugin("latest")?, "inputs", "[\"documents\"]")?;
    let old = deploy(&client, "old", "", &view)?.expect(201, "created")?;
    wait_serving(&client, "old", old.deployment, GENEROUS)?;

    let base = Mutex::new(host.url().to_owned());
    let over = AtomicBool::new(false);
    let mut host = Some(host);
    let (bootstrap, at_ms, versions, changes) = std::thread::scope(|scope| -> Result<_> {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (base, over) = (&base, &over);
                scope.spawn(move || change(base, client, keys, over))
            })
            .collect();
        let run = || -> Result<(u64, i64)> {
            // Of each of four partitions, so that it takes ten seconds.
            let body = json!({"keys_per_second": keys / 40, "reason": "a view that comes later"});
            let headers = [("content-type", "application/json")];
            let body = Some(body.to_string().into_bytes());
            let asked = client.send("POST", "/v1/plugins/documents/emit-state", &headers, body)?;
            let asked = asked.expect_status(200)?.json()?;
            let bootstrap = number(&asked["bootstrap"]).context("no number")?;
            let again = client.send("POST", "/v1/plugins/documents/emit-state", &[], None)?;
            again.expect_problem(409, "bootstrap-under-way")?;
            let at_ms = plugin(&client, "documents")?["bootstrap"]["at_ms"].as_i64();
            Ok((bootstrap, at_ms.context("no time")?))
        };
        // Whatever goes wrong, the clients end.
        let ran = run().and_then(|(bootstrap, at_ms)| {
            for _ in 0..if full() { 3 } else { 1 } {
                wait_until_ok(WITHIN, "some of the states to be told", || {
                    let url = base.lock().expect("no client panics").clone();
                    let details = plugin(&Client::new(&url)?, "documents")?;
                    let partitions = details["bootstrap"]["partitions"].as_array();
                    let keys = partitions
                        .into_iter()
                        .flatten()
                        .filter_map(|it| number(&it["keys"]));
                    ensure!(keys.sum::<u64>() > 0, "{}", details["bootstrap"]);
                    Ok(details["bootstrap"]["state"].clone())
                })
                .and_then(|state| {
                    ensure!(
                        state == "running",
                        "it is over before anything could interrupt it"
                    );
                    Ok(())
                })?;
                let again = host.take().context("no host")?.kill()?.ready()?;
                again
                    .url()
                    .clone_into(&mut base.lock().expect("no client panics"));
                host = Some(again);
            }
            let client = host.as_ref().context("no host")?.client()?;
            wait_until_ok(WITHIN, "every state to be told", || {
                done(&client, bootstrap)
            })?;
            Ok((bootstrap, at_ms))
        });
        over.store(true, Ordering::Relaxed);
        let mut versions = Versions::new();
        let mut changes = 0;
        for client in clients {
            let (own, count) = client.join().expect("no client panics")?;
            versions.extend(own);
            changes += count;
        }
        let (bootstrap, at_ms) = ran?;
        Ok((bootstrap, at_ms, versions, changes))
    })?;
    let host = host.context("no host")?;
    let client = host.client()?;
    ensure!(
        changes > 500,
        "{changes} commands are too few to say anything"
    );

    let written = usize::try_from(2 * keys + changes)?;
    let events = topic::read_at_least(&client, "documents", written, WITHIN)?;
    let told = nothing_goes_back(&events, bootstrap)?;
    ensure!(
        told.len() as u64 == keys,
        "{} of {keys} are told",
        told.len()
    );
    ensure!(
        told.values().all(|times| *times == 1),
        "some are told twice"
    );
    for (of, expected) in &versions {
        let read = client.ask("documents", &key(*of), "")?.expect_status(200)?;
        ensure!(
            version(&read)? == *expected,
            "{of} is not at {expected}: {read:?}"
        );
    }

    // A view of what came after the bootstrap's begin has all of it.
    let from = done(&client, bootstrap)?;
    let anew = match broker {
        Some(broker) => {
            for (partition, from) in &from {
                broker.delete_records(
                    "documents",
                    i32::try_from(*partition)?,
                    i64::try_from(*from)?,
                )?;
            }
            view
        }
        None => {
            let start = format!("[{{ topic = \"documents\", start = \"@{at_ms}\" }}]");
            wasm::with_field(&view, "inputs", &start)?
        }
    };
    let new = deploy(&client, "new", "from_retained=true", &anew)?.expect(201, "created")?;
    wait_serving(&client, "new", new.deployment, GENEROUS)?;
    wait_serving(&client, "old", old.deployment, GENEROUS)?;
    let (old, new) = (all(&client, "old")?, all(&client, "new")?);
    ensure!(old.len() as u64 == keys, "{} of {keys}", old.len());
    for (key, document) in &old {
        ensure!(
            new.get(key) == Some(document),
            "{key}: {document}, not {:?}",
            new.get(key)
        );
    }
    ensure!(new.len() == old.len(), "there are more in the new one");
    Ok(())
}

#[test]
fn a_new_view_of_what_is_left_equals_the_old_one() -> Result<()> {
    let scratch = Scratch::new("bootstrap")?;
    let start = Start::serve(scratch.path());
    commands_go_on_while_states_are_told(&start, None)
}

#[test]
fn a_new_view_of_a_cut_topic_equals_the_old_one_on_kafka() -> Result<()> {
    let broker = kafka::shared()?;
    let scratch = Scratch::new("bootstrap-kafka")?;
    let config = kafka_config(&scratch, &broker, "bootstrap", &scratch.join("objects"))?;
    let start = Start::serve(scratch.path()).config(&config);
    commands_go_on_while_states_are_told(&start, Some(&broker))
}

#[test]
fn the_command_waits_and_what_is_wrong_is_said() -> Result<()> {
    let scratch = Scratch::new("emit-state")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    deploy(&client, "documents", "", &documents()?)?.expect(201, "created")?;
    deploy(&client, "latest", "", &prebuilt_plugin("latest")?)?.expect(201, "created")?;
    fill(&client, 40)?;
    let base = client.base().to_owned();
    let well = |arguments: &[&str]| run_well(scratch.path(), &base, arguments);
    let said = well(&["plugin", "emit-state", "documents", "--key", "doc-00007"])?;
    ensure!(said.contains("told 1 keys in 1 events"), "{said}");
    let said = well(&[
        "plugin",
        "emit-state",
        "documents",
        "--reason",
        "a new view",
    ])?;
    ensure!(said.contains("told 40 keys in 40 events"), "{said}");
    let shown_plugin = well(&["plugin", "show", "documents"])?;
    ensure!(shown_plugin.contains("40 keys told"), "{shown_plugin}");
    let events = topic::read_all(&client, "documents")?;
    ensure!(events.len() == 81, "{}", events.len());
    // A slow one is stopped.
    let slow = [
        "plugin",
        "emit-state",
        "documents",
        "--rate",
        "1",
        "--no-wait",
    ];
    well(&slow)?;
    let stopped = well(&["plugin", "emit-state", "documents", "--stop"])?;
    ensure!(stopped.contains("what is written stays"), "{stopped}");
    let run = plugin(&client, "documents")?["bootstrap"].clone();
    ensure!(run["state"] == "stopped", "{run}");
    for (arguments, words) in [
        (vec!["documents", "--stop"], "[no-bootstrap]"),
        (vec!["latest"], "[not-a-handler]"),
        (vec!["nobody"], "[unknown-plugin]"),
        (
            vec!["documents", "--rate", "0"],
            "keys_per_second is 0: give 1 to",
        ),
    ] {
        let all = [&["plugin", "emit-state"], &arguments[..]].concat();
        let output = run_in(scratch.path(), &base, &all)?;
        let text = shown(&output);
        ensure!(
            !output.status.success() && text.contains(words),
            "{all:?}: {text}"
        );
    }
    Ok(())
}
