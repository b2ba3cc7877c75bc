//! Views on a real Kafka: one host, two hosts that share the partitions, a host that stops or is
//! killed, a broker that goes away, topics that are missing or change. Measured times are printed (see
//! them with `--nocapture`); the deadlines are generous.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use foldhost_tests::host::{GENEROUS, Host, Start, kafka_config};
use foldhost_tests::http::Client;
use foldhost_tests::kafka::{self, Broker};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::wait::{timed, wait_until_ok};
use serde_json::Value;

/// Session timeout 6 s, and room for a slow machine.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(60);

/// A cluster of hosts on one broker and one object store.
struct Cluster<'a> {
    scratch: Scratch,
    config: PathBuf,
    broker: &'a Broker,
    events: String,
}

impl<'a> Cluster<'a> {
    /// A cluster with a topic for `latest` of four partitions, named after the cluster.
    fn new(broker: &'a Broker, name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let config = kafka_config(&scratch, broker, name, &scratch.join("objects"))?;
        let events = format!("{name}-events");
        broker.create_topic(&events, 4)?;
        Ok(Self {
            scratch,
            config,
            broker,
            events,
        })
    }

    /// How to start a host of this cluster: each has its own data folder.
    fn host(&self, name: &str) -> Result<Start> {
        let folder = self.scratch.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(Start::serve(&folder).config(&self.config))
    }

    fn deploy(&self, host: &Host) -> Result<()> {
        let parameters = format!("topic=events={}", self.events);
        let reply = host
            .client()?
            .deploy("latest", &parameters, prebuilt_plugin("latest")?)?;
        reply.expect_status(201)?;
        Ok(())
    }

    fn produce(&self, keys: &[String], value: &str) -> Result<()> {
        let records: Vec<(&str, Option<&str>)> =
            keys.iter().map(|key| (key.as_str(), Some(value))).collect();
        self.broker.produce(&self.events, &records)
    }
}

fn keys() -> Vec<String> {
    (0..80).map(|n| format!("key-{n}")).collect()
}

/// Which of the hosts answers for each key, once exactly one does and the others name it.
fn owners(clients: &[Client], keys: &[String], value: &Value) -> Result<BTreeMap<String, usize>> {
    let mut owners = BTreeMap::new();
    for key in keys {
        let mut owner = None;
        let mut named = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let reply = client.ask("latest", key, "")?;
            match reply.status {
                200 => {
                    ensure!(reply.json()?["value"] == *value, "{key}: {reply:?}");
                    ensure!(owner.is_none(), "two hosts answer for {key}");
                    owner = Some(number);
                }
                421 => {
                    let reply = reply.expect_problem(421, "not-owner")?;
                    let url = reply
                        .header("foldhost-owner")
                        .context("421 names no owner")?;
                    named.push(url.trim_end_matches('/').to_owned());
                }
                _ => return Err(anyhow!("{key}: {reply:?}")),
            }
        }
        let owner = owner.with_context(|| format!("nobody answers for {key}"))?;
        let url = clients[owner].base();
        ensure!(
            named.iter().all(|named| named == url),
            "{key} is at {url}, others say {named:?}"
        );
        owners.insert(key.clone(), owner);
    }
    Ok(owners)
}

/// Waits until each of two hosts answers for about half of the keys.
fn wait_shared(clients: &[Client], keys: &[String], value: &Value) -> Result<()> {
    wait_until_ok(
        TAKEN_OVER_WITHIN,
        "both hosts to own half of the partitions",
        || {
            let owners = owners(clients, keys, value)?;
            let second = owners.values().filter(|owner| **owner == 1).count();
            // Two of four partitions; keys spread about evenly.
            let half = keys.len() / 4..=keys.len() * 3 / 4;
            ensure!(
                half.contains(&second),
                "the second host owns {second} of {} keys",
                keys.len()
            );
            Ok(())
        },
    )?;
    for client in clients {
        let plugin = client
            .get("/v1/plugins/latest")?
            .expect_status(200)?
            .json()?;
        let partitions = plugin["partitions"].as_array().context("no `partitions`")?;
        ensure!(
            partitions.len() == 4,
            "each host tells of all partitions: {plugin}"
        );
        for partition in partitions {
            let owner = partition["owner"]
                .as_str()
                .context("a partition has no owner")?;
            let known = clients
                .iter()
                .any(|client| owner.trim_end_matches('/') == client.base());
            ensure!(known, "owner {owner} is neither host");
        }
    }
    Ok(())
}

#[test]
fn a_view_on_kafka_answers_and_survives_kills() -> Result<()> {
    let broker = kafka::shared()?;
    let cluster = Cluster::new(&broker, "one")?;
    let keys = keys();
    cluster.produce(&keys, "1")?;
    let host = cluster.host("a")?.ready()?;
    cluster.deploy(&host)?;
    host.wait_caught_up("latest", GENEROUS)?;
    let client = host.client()?;
    owners(std::slice::from_ref(&client), &keys, &Value::from(1))?;

    // Read your own writes through the host, onto Kafka and back.
    let record = serde_json::json!({"key": keys[0], "value": 2});
    let (partition, offset) = client.append_all(&cluster.events, &[record])?[0];
    let position = format!("{}/{partition}@{offset}", cluster.events);
    let reply = client
        .ask_at("latest", &keys[0], "", &position)?
        .expect_status(200)?;
    ensure!(reply.json()?["value"] == 2, "{reply:?}");
    // The host partitions as Kafka's own clients do.
    let produced = broker.read_all(&cluster.events)?;
    let of_key: Vec<_> = produced
        .iter()
        .filter(|r| r.key.as_deref() == Some(keys[0].as_bytes()))
        .collect();
    ensure!(
        of_key.len() == 2 && of_key[0].partition == of_key[1].partition,
        "{of_key:?}"
    );

    let start = host.kill()?;
    cluster.produce(&keys, "3")?;
    let host = start.ready()?;
    // Static membership: the same host is back at once, and ready means caught up.
    host.wait_caught_up("latest", TAKEN_OVER_WITHIN)?;
    owners(&[host.client()?], &keys, &Value::from(3))?;
    let topics = broker.topics()?;
    for topic in ["one.deployments", "one.latest.journal"] {
        ensure!(
            topics.iter().any(|name| name == topic),
            "no topic {topic}: {topics:?}"
        );
    }
    Ok(())
}

#[test]
fn two_hosts_share_and_take_over() -> Result<()> {
    let broker = kafka::shared()?;
    let cluster = Cluster::new(&broker, "two")?;
    let keys = keys();
    cluster.produce(&keys, "1")?;
    let first = cluster.host("a")?.ready()?;
    cluster.deploy(&first)?;
    first.wait_caught_up("latest", GENEROUS)?;
    let second = cluster.host("b")?.ready()?;
    let clients = [first.client()?, second.client()?];
    wait_shared(&clients, &keys, &Value::from(1))?;

    cluster.produce(&keys, "2")?;
    wait_until_ok(GENEROUS, "both to fold the new records", || {
        owners(&clients, &keys, &Value::from(2)).map(drop)
    })?;

    ensure!(second.stop()? == 0);
    let (took, result) = timed(|| wait_alone(&clients[0], &keys, &Value::from(2)));
    result?;
    println!("taken over {took:?} after the other host had stopped");

    let second = cluster.host("b")?.ready()?;
    let clients = [clients[0].clone(), second.client()?];
    wait_shared(&clients, &keys, &Value::from(2))?;
    cluster.produce(&keys, "3")?;
    let _ = first.kill()?;
    let (took, result) = timed(|| wait_alone(&clients[1], &keys, &Value::from(3)));
    result?;
    println!("taken over {took:?} after the other host was killed");
    Ok(())
}

/// Waits until one host answers for every key.
fn wait_alone(client: &Client, keys: &[String], value: &Value) -> Result<()> {
    wait_until_ok(TAKEN_OVER_WITHIN, "one host to own everything", || {
        owners(std::slice::from_ref(client), keys, value).map(drop)
    })
}

#[test]
fn a_deployment_is_seen_by_every_host() -> Result<()> {
    let broker = kafka::shared()?;
    let cluster = Cluster::new(&broker, "seen")?;
    let first = cluster.host("a")?.ready()?;
    let second = cluster.host("b")?.ready()?;
    cluster.deploy(&first)?;
    let digest = |client: &Client| -> Result<Value> {
        let list = client.get("/v1/plugins")?.expect_status(200)?.json()?;
        let plugin = list["plugins"].get(0).context("no plugin yet")?;
        Ok(plugin["digest"].clone())
    };
    let clients = [first.client()?, second.client()?];
    wait_until_ok(GENEROUS, "the second host to see it", || {
        digest(&clients[1])
    })?;
    ensure!(digest(&clients[0])? == digest(&clients[1])?);
    // What one deletes is gone for the other.
    clients[1].delete("/v1/plugins/latest")?.success()?;
    wait_until_ok(GENEROUS, "the first host to see it gone", || {
        clients[0]
            .get("/v1/plugins/latest")?
            .expect_problem(404, "unknown-plugin")
    })?;
    Ok(())
}

/// Those that are behind leave each other what they read.
#[test]
fn plugins_that_read_a_topic_together_each_fold_all_of_it() -> Result<()> {
    const RECORDS_PER_KEY: u64 = 500;
    let broker = kafka::shared()?;
    let cluster = Cluster::new(&broker, "together")?;
    let (keys, value) = (keys(), "x".repeat(1_000));
    let once = || keys.iter().map(|key| (key.as_str(), Some(value.as_str())));
    let records: Vec<_> = (0..RECORDS_PER_KEY).flat_map(|_| once()).collect();
    cluster.broker.produce(&cluster.events, &records)?;

    let host = cluster.host("a")?.ready()?;
    let client = host.client()?;
    let plugins: Vec<_> = (0..8).map(|number| format!("counter-{number}")).collect();
    for plugin in &plugins {
        let parameters = format!("topic=flights={}", cluster.events);
        client
            .deploy(plugin, &parameters, prebuilt_plugin("counter")?)?
            .expect_status(201)?;
    }
    let host = host.kill()?.ready()?;
    let client = host.client()?;
    for plugin in &plugins {
        host.wait_caught_up(plugin, GENEROUS)?;
        for key in &keys {
            let reply = client.ask(plugin, key, "")?.expect_status(200)?;
            let count = &reply.json()?["count"];
            ensure!(*count == RECORDS_PER_KEY, "{plugin}, {key}: {count}");
        }
    }
    wait_until_ok(GENEROUS, "nothing to be left for others", || {
        let metrics = client.get("/metrics")?.expect_status(200)?;
        let text = metrics.text();
        let of = "foldhost_memory_used_bytes{part=\"shared-reads\"} ";
        let left = text.lines().find_map(|line| line.strip_prefix(of));
        ensure!(left == Some("0"), "there are {left:?} bytes");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn topics_that_are_missing_or_change_are_told() -> Result<()> {
    let broker = kafka::shared()?;
    let cluster = Cluster::new(&broker, "topics")?;
    let host = cluster.host("a")?.ready()?;
    let client = host.client()?;
    let wasm = prebuilt_plugin("latest")?;
    let missing = client.deploy("latest", "topic=events=nowhere", wasm)?;
    ensure!((400..500).contains(&missing.status), "{missing:?}");
    missing.expect_words(&["nowhere", "topic create", "--topic"])?;
    ensure!(
        broker.partitions("nowhere")?.is_none(),
        "a deploy creates no input topics on Kafka"
    );

    cluster.deploy(&host)?;
    let keys = keys();
    cluster.produce(&keys, "1")?;
    wait_alone(&client, &keys, &Value::from(1))?;
    broker.grow_topic(&cluster.events, 6)?;
    let blocked = wait_until_ok(Duration::from_secs(120), "the plugin to be blocked", || {
        let reply = client.get("/v1/plugins/latest")?.expect_status(200)?;
        ensure!(reply.json()?["status"] == "blocked", "{reply:?}");
        Ok(reply)
    })?;
    blocked.expect_words(&["partitions-changed", "rebuild", "4", "6"])?;
    // What was folded still answers.
    let reply = client.ask("latest", &keys[0], "")?;
    ensure!(reply.status == 200, "{reply:?}");
    Ok(())
}

#[test]
fn a_record_without_a_key_stops_its_partition() -> Result<()> {
    let broker = kafka::shared()?;
    let cluster = Cluster::new(&broker, "keyless")?;
    let host = cluster.host("a")?.ready()?;
    cluster.deploy(&host)?;
    let keys = keys();
    cluster.produce(&keys, "1")?;
    let client = host.client()?;
    wait_alone(&client, &keys, &Value::from(1))?;
    broker.produce_to(&cluster.events, 2, None, Some("5"))?;
    let reply = wait_until_ok(GENEROUS, "partition 2 to stop", || {
        let reply = client.get("/v1/plugins/latest")?.expect_status(200)?;
        ensure!(reply.json()?["status"] == "blocked", "{reply:?}");
        Ok(reply)
    })?;
    let plugin = reply.json()?;
    let blocked: Vec<&Value> = plugin["partitions"]
        .as_array()
        .context("no `partitions`")?
        .iter()
        .filter(|partition| partition["status"] == "blocked")
        .collect();
    ensure!(
        blocked.len() == 1 && blocked[0]["partition"] == 2,
        "{plugin}"
    );
    reply.expect_words(&["event-without-key"])?;
    Ok(())
}

#[test]
fn a_broker_that_is_away_is_waited_for() -> Result<()> {
    let mut broker = Broker::start()?;
    let scratch = Scratch::new("away")?;
    let config = kafka_config(&scratch, &broker, "away", &scratch.join("objects"))?;
    broker.create_topic("events", 4)?;
    broker.stop()?;
    // A start without the log is no failure: it says so and goes on trying.
    let host = Start::serve(scratch.path()).config(&config).listening()?;
    let client = host.client()?;
    client.get("/readyz")?.expect_status(503)?;
    broker.restart()?;
    host.wait_ready()?;
    host.deploy_prebuilt("latest", "")?;
    let keys = keys();
    let records: Vec<(&str, Option<&str>)> = keys.iter().map(|k| (k.as_str(), Some("1"))).collect();
    broker.produce("events", &records)?;
    wait_alone(&client, &keys, &Value::from(1))?;

    broker.kill()?;
    // It answers from what it has, stays ready, and an append is not acknowledged.
    client.get("/readyz")?.expect_status(200)?;
    client.ask("latest", &keys[0], "")?.expect_status(200)?;
    let refused = client.append("events", &[serde_json::json!({"key": "x", "value": 1})])?;
    ensure!(
        refused.status == 503 || refused.status == 504,
        "{refused:?}"
    );
    broker.restart()?;
    let records: Vec<(&str, Option<&str>)> = keys.iter().map(|k| (k.as_str(), Some("2"))).collect();
    broker.produce("events", &records)?;
    wait_alone(&client, &keys, &Value::from(2))?;
    Ok(())
}

#[test]
fn two_clusters_do_not_share_an_object_store() -> Result<()> {
    let broker = kafka::shared()?;
    let scratch = Scratch::new("markers")?;
    let objects = scratch.join("objects");
    let start = |name: &str| -> Result<Start> {
        let folder = scratch.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(Start::serve(&folder).config(&kafka_config(&scratch, &broker, name, &objects)?))
    };
    let first = start("mine")?.ready()?;
    let (code, log) = start("yours")?.refused()?;
    ensure!(code != 0 && names_both(&log, &objects), "{code}: {log}");
    first.client()?.get("/readyz")?.expect_status(200)?;
    Ok(())
}

fn names_both(log: &str, objects: &Path) -> bool {
    let name = objects
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    log.contains(name.as_str()) && log.contains("cluster")
}
