//! `on-error = "park-key"`: poison at known offsets sets its keys aside and nothing else, through `kill -9`;
//! corrected code and a replay heal it, a discard does without it; on the embedded log and on Kafka. More
//! rounds with `tests/run --full`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::full;
use foldhost_tests::host::{GENEROUS, Host, Start, kafka_config, run_well};
use foldhost_tests::http::{Client, Reply, number};
use foldhost_tests::operate::{count_of, deploy, partitions, plugin, wait_serving};
use foldhost_tests::paths::{Scratch, repository};
use foldhost_tests::wait::{let_pass, wait_until_ok};
use foldhost_tests::{kafka, wasm};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const TOPIC: &str = "events";
const VIEW: &str = "parking";
const KEYS: usize = 60;
/// Records of one append.
const RECORDS: usize = 600;
/// A host that was killed is itself again, its session on Kafka included.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// What was written of a key.
#[derive(Debug, Clone, Default)]
struct Written {
    records: u64,
    /// The first marked record, and how many came before it.
    poison: Option<(String, u64)>,
}

impl Written {
    fn parked(&self) -> u64 {
        self.poison
            .as_ref()
            .map_or(0, |(_, before)| self.records - before)
    }
}

/// What was written, and so what must be.
struct Bed {
    chance: ChaCha8Rng,
    written: BTreeMap<String, Written>,
}

impl Bed {
    fn new(seed: u64) -> Self {
        Self {
            chance: ChaCha8Rng::seed_from_u64(seed),
            written: BTreeMap::new(),
        }
    }

    /// Appends records of all keys, of which some are marked if `poisons`.
    fn append(&mut self, client: &Client, poisons: bool) -> Result<()> {
        let records: Vec<Value> = (0..RECORDS)
            .map(|_| {
                let key = format!("k{}", self.chance.random_range(0..KEYS));
                let is_poison = poisons && self.chance.random_bool(0.01);
                let value = if is_poison { "poison" } else { "fine" };
                json!({"key": key, "value_text": value})
            })
            .collect();
        let places = client.append_all(TOPIC, &records)?;
        for (record, (partition, offset)) in records.iter().zip(places) {
            let key = record["key"].as_str().context("a text key")?;
            let written = self.written.entry(key.to_owned()).or_default();
            if record["value_text"] == "poison" && written.poison.is_none() {
                written.poison = Some((format!("{TOPIC}/{partition}@{offset}"), written.records));
            }
            written.records += 1;
        }
        Ok(())
    }

    /// The parked keys are exactly those of marked records, each from the mark on; the other keys, and these
    /// up to it, are folded.
    fn expect_parked(&self, client: &Client) -> Result<()> {
        wait_until_ok(SETTLED_WITHIN, "the marked keys to be parked", || {
            self.parked_as_written(client)
        })?;
        self.expect_counts(client)
    }

    fn parked_as_written(&self, client: &Client) -> Result<()> {
        let found: BTreeMap<_, _> = parked(client)?
            .into_iter()
            .map(|it| {
                let of = |name: &str| it[name].as_str().unwrap_or_default().to_owned();
                (
                    of("key"),
                    (
                        of("first"),
                        count_of(&it, "records").unwrap_or(0),
                        of("code"),
                    ),
                )
            })
            .collect();
        let marked = self.written.iter().filter_map(|(key, written)| {
            let (at, _) = written.poison.clone()?;
            Some((
                key.clone(),
                (at, written.parked(), "event-trapped".to_owned()),
            ))
        });
        let expected: BTreeMap<_, _> = marked.collect();
        ensure!(found == expected, "found {found:?}, not {expected:?}");
        let records: u64 = self.written.values().map(Written::parked).sum();
        let plugin = plugin(client, VIEW)?;
        let mut told = 0;
        for partition in partitions(&plugin)? {
            told += count_of(partition, "parked_records")?;
        }
        ensure!(told == records, "{told} are told, not {records}");
        Ok(())
    }

    fn expect_counts(&self, client: &Client) -> Result<()> {
        for (key, written) in &self.written {
            let expected = written.records - written.parked();
            wait_until_ok(SETTLED_WITHIN, &format!("the count of {key}"), || {
                let reply = client.ask(VIEW, key, "")?;
                let count = match reply.status {
                    404 => 0,
                    _ => count_of(&reply.expect_status(200)?.json()?, "count")?,
                };
                ensure!(count == expected, "{key}: {count}, not {expected}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Nothing is parked any more.
    fn healed(&mut self) {
        self.written.values_mut().for_each(|it| it.poison = None);
    }
}

/// All that is parked.
fn parked(client: &Client) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    let mut query = "?_limit=3".to_owned();
    loop {
        let path = format!("/v1/plugins/{VIEW}/parked{query}");
        let answer = client.get(&path)?.expect_status(200)?.json()?;
        let page = answer["parked"].as_array().context("no `parked`")?;
        ensure!(page.len() <= 3, "{answer}");
        all.extend(page.iter().cloned());
        match answer["next"].as_str() {
            Some(cursor) => query = format!("?_limit=3&_cursor={cursor}"),
            None => return Ok(all),
        }
    }
}

fn decide(client: &Client, what: &str, body: &Value) -> Result<Reply> {
    client.send(
        "POST",
        &format!("/v1/plugins/{VIEW}/parked/{what}"),
        &[("content-type", "application/json")],
        Some(body.to_string().into_bytes()),
    )
}

/// Counts, and traps at a marked value; `version` makes it other code.
fn code(version: u32) -> Result<Vec<u8>> {
    let path = repository().join("plugins/misbehaving/prebuilt/traps-on-event.wasm");
    let built = fs::read(&path).with_context(|| format!("no plugin at {}", path.display()))?;
    let parks = wasm::with_field(&built, "on-error", "\"park-key\"")?;
    wasm::with_field(&parks, "version", &format!("\"1.{version}.0\""))
}

/// Kills the host somewhere in what it does, and starts it again.
fn kill(bed: &mut Bed, host: Host) -> Result<(Host, Client)> {
    let_pass(Duration::from_millis(bed.chance.random_range(0..400)));
    let host = host.kill()?.ready()?;
    let client = host.client()?;
    Ok((host, client))
}

fn parks_and_heals(name: &str, scratch: &Scratch, start: &Start, rounds: u32) -> Result<()> {
    let mut bed = Bed::new(7);
    let mut host = start.ready()?;
    let mut client = host.client()?;
    client
        .put_json(&format!("/v1/topics/{TOPIC}"), &json!({"partitions": 3}))?
        .success()?;
    let input = format!("topic=flights={TOPIC}");
    deploy(&client, VIEW, &input, &code(0)?)?.expect(201, "created")?;
    for round in 1..=rounds {
        bed.append(&client, false)?;
        bed.append(&client, true)?;
        (host, client) = kill(&mut bed, host)?;
        bed.append(&client, true)?;
        bed.expect_parked(&client)
            .with_context(|| format!("{name}, round {round}"))?;
        if round == 1 {
            operate(&mut bed, scratch, &client)?;
        }

        // The same code cannot do it; corrected code can, once somebody says so.
        let reply = wait_until_ok(SETTLED_WITHIN, "the replay to be applied", || {
            let reply = decide(&client, "replay", &json!({"reason": "once more"}))?;
            // The host answers before it has applied it where that takes long: it is asked again.
            let is_later = reply.status == 200 && reply.json()?["applied"] == false;
            ensure!(!is_later, "{reply:?}");
            Ok(reply)
        })?;
        let left = reply.expect_status(200)?.json()?;
        ensure!(left["applied"] == true && left["left"] != 0, "{left}");
        bed.expect_parked(&client)?;
        let corrected = format!("{input}&state=keep&set=marker=other");
        let done = deploy(&client, VIEW, &corrected, &code(2 * round)?)?.expect(200, "swapped")?;
        wait_serving(&client, VIEW, done.deployment, SETTLED_WITHIN)?;
        bed.expect_parked(&client)?;
        decide(&client, "replay", &json!({"reason": "corrected"}))?.expect_status(200)?;
        bed.healed();
        (host, client) = kill(&mut bed, host)?;
        bed.append(&client, true)?;
        bed.healed();
        bed.expect_parked(&client)
            .with_context(|| format!("{name}, healed {round}"))?;
        let broken = format!("{input}&state=keep");
        let code = code(2 * round + 1)?;
        let done = deploy(&client, VIEW, &broken, &code)?.expect(200, "swapped")?;
        wait_serving(&client, VIEW, done.deployment, SETTLED_WITHIN)?;
    }
    drop(host);
    Ok(())
}

/// The routes and commands, on what the first round has parked.
fn operate(bed: &mut Bed, scratch: &Scratch, client: &Client) -> Result<()> {
    let marked = bed.written.iter().filter(|(_, it)| it.poison.is_some());
    let marked: Vec<_> = marked.map(|(key, it)| (key.clone(), it.clone())).collect();
    ensure!(marked.len() > 2, "too few are marked: {marked:?}");
    let (key, written) = &marked[0];
    let path = format!("/v1/plugins/{VIEW}/parked/{key}");
    let shown = client.get(&path)?.expect_status(200)?.json()?;
    let records = shown["parked"].as_array().context("no `parked`")?;
    ensure!(records.len() as u64 == written.parked(), "{shown}");
    ensure!(records[0]["value_text"] == "poison", "{shown}");

    let well = |arguments: &[&str]| run_well(scratch.path(), client.base(), arguments);
    let listed = well(&["plugin", "parked", "list", VIEW])?;
    ensure!(
        listed.contains(key) && listed.contains("event-trapped"),
        "{listed}"
    );
    let showed = well(&["plugin", "show", VIEW])?;
    ensure!(showed.contains("plugin parked list"), "{showed}");

    // One is given up, for ever; its later records count again.
    let reason = ["--reason", "a broken device"];
    let said = well(&[&["plugin", "parked", "discard", VIEW, key], &reason[..]].concat())?;
    // Where that takes long, it says so; what must come of it is looked for below.
    let may_say = ["nothing of it is parked", "it is not done yet"];
    ensure!(may_say.iter().any(|it| said.contains(it)), "{said}");
    let gone = bed.written.get_mut(key).context("it was written")?;
    gone.records -= gone.parked();
    gone.poison = None;
    bed.expect_parked(client)?;
    let decision = plugin(client, VIEW)?["parked"][0].clone();
    ensure!(
        decision["what"] == "discard" && decision["reason"] == "a broken device",
        "{decision}"
    );
    ensure!(number(&decision["decision"]).is_some(), "{decision}");

    // What cannot be is said.
    let body = json!({"key": key, "reason": "again"});
    decide(client, "discard", &body)?.expect_problem(409, "not-parked")?;
    decide(client, "replay", &body)?.expect_problem(409, "not-parked")?;
    client.get(&path)?.expect_problem(404, "not-found")?;
    decide(client, "replay", &json!({"reason": " "}))?
        .expect_problem(400, "bad-request")?
        .expect_words(&["say why"])?;
    decide(client, "replay", &json!({"kee": "x", "reason": "a"}))?
        .expect_problem(400, "bad-request")?;
    let counter = foldhost_tests::paths::prebuilt_plugin("counter")?;
    let input = format!("topic=flights={TOPIC}");
    deploy(client, "stopping", &input, &counter)?.expect(201, "created")?;
    let path = "/v1/plugins/stopping/parked/replay";
    let body = Some(br#"{"reason":"none"}"#.to_vec());
    client
        .send("POST", path, &[("content-type", "application/json")], body)?
        .expect_problem(409, "not-parked")?;
    client.delete("/v1/plugins/stopping")?.success()?;
    Ok(())
}

fn rounds() -> u32 {
    if full() { 8 } else { 2 }
}

#[test]
fn poison_parks_its_key_and_corrected_code_heals_it() -> Result<()> {
    let scratch = Scratch::new("parking")?;
    let start = Start::serve(scratch.path());
    parks_and_heals("embedded", &scratch, &start, rounds())
}

#[test]
fn the_same_on_kafka() -> Result<()> {
    let broker = kafka::shared()?;
    let scratch = Scratch::new("parking-kafka")?;
    let config = kafka_config(&scratch, &broker, "parking", &scratch.join("objects"))?;
    let start = Start::serve(scratch.path()).config(&config);
    parks_and_heals("kafka", &scratch, &start, rounds())
}

#[test]
fn a_rebuild_finds_what_is_parked_and_what_was_discarded() -> Result<()> {
    let scratch = Scratch::new("parking-rebuild")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    let mut bed = Bed::new(3);
    client
        .put_json(&format!("/v1/topics/{TOPIC}"), &json!({"partitions": 3}))?
        .success()?;
    let input = format!("topic=flights={TOPIC}");
    deploy(&client, VIEW, &input, &code(0)?)?.expect(201, "created")?;
    bed.append(&client, true)?;
    bed.append(&client, true)?;
    bed.expect_parked(&client)?;
    let marked = bed.written.iter_mut().find(|(_, it)| it.poison.is_some());
    let (key, gone) = marked.context("none is marked")?;
    let body = json!({"key": key, "reason": "a broken device"});
    decide(&client, "discard", &body)?.expect_status(200)?;
    gone.records -= gone.parked();
    gone.poison = None;
    bed.append(&client, false)?;
    let done = deploy(&client, VIEW, &input, &code(1)?)?.expect(202, "building")?;
    wait_until_ok(GENEROUS, "the new generation to serve", || {
        let plugin = plugin(&client, VIEW)?;
        ensure!(
            count_of(&plugin, "deployment")? == done.deployment,
            "{plugin}"
        );
        Ok(())
    })?;
    bed.expect_parked(&client)
}
