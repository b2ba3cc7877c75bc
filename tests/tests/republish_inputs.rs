//! Several inputs that are merged, and what comes of bad records in them: other partitions and partitioners,
//! other interleavings, frames of a schema registry, reading one's own writes, poison before and behind the
//! merge topic; with `kill -9` in between. What every single refusal says is in `republish_bad_input.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::fleet_records::Fact;
use foldhost_tests::host::{GENEROUS, Start, kafka_config};
use foldhost_tests::http::Client;
use foldhost_tests::operate::{deploy, wait_serving};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::two_inputs::{at, create_inputs, misbehaving, on_two_inputs, to_the_right};
use foldhost_tests::wait::{Stopwatch, let_pass, wait_until_ok};
use foldhost_tests::{fleet_records, full, kafka, topic, wasm};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// What "at once" is where a wait of [`WAIT_S`] seconds would hang.
const AT_ONCE: Duration = Duration::from_secs(35);
const WAIT_S: &str = "wait=40";
/// What "in time" is where the wait is one second.
const IN_TIME: Duration = Duration::from_secs(30);

/// One way in which the same facts come.
struct Delivery {
    name: &'static str,
    frame: &'static [u8],
    /// After how many steps it is deployed.
    deployed_at: usize,
    /// What is appended in each step.
    steps: Vec<Vec<Fact>>,
    /// The last place in each partition of each input.
    last: BTreeMap<(bool, u32), u64>,
}

impl Delivery {
    fn topic(&self, what: &str) -> String {
        format!("{what}-{}", self.name)
    }

    fn create(&self, client: &Client) -> Result<()> {
        let (groups, access) = (self.topic("groups"), self.topic("access"));
        create_inputs(client, [&groups, &access])
    }

    fn deploy(&self, client: &Client) -> Result<()> {
        let (groups, access) = (self.topic("groups"), self.topic("access"));
        let wasm = prebuilt_plugin("fleet-onboarding")?;
        let wasm = on_two_inputs(&wasm, [&groups, &access], "")?;
        let wasm = match self.frame.is_empty() {
            true => wasm,
            // The last input, which is `access`.
            false => wasm::with_manifest(
                &wasm,
                &(wasm::manifest(&wasm)? + "framing = \"confluent\"\n"),
            )?,
        };
        let output = self.topic("notifications");
        let parameters = format!("topic=notifications={output}");
        deploy(client, &self.topic("onboarding"), &parameters, &wasm)?.expect(201, "created")?;
        let wasm = prebuilt_plugin("notification-inbox")?;
        deploy(client, &self.topic("inbox"), &parameters, &wasm)?.expect(201, "created")?;
        Ok(())
    }

    /// Appends the facts of a step in their order.
    fn append(&mut self, client: &Client, step: usize) -> Result<()> {
        for is_access in [false, true] {
            let facts = self.steps[step].iter();
            let records: Vec<Value> = facts
                .filter(|fact| fact.is_access() == is_access)
                .map(|fact| match is_access {
                    true => to_the_right(fact.record(self.frame)),
                    false => fact.record(&[]),
                })
                .collect();
            if records.is_empty() {
                continue;
            }
            let topic = self.topic(if is_access { "access" } else { "groups" });
            for (partition, offset) in client.append_all(&topic, &records)? {
                self.last.insert((is_access, partition), offset);
            }
        }
        Ok(())
    }

    /// The inboxes are what the facts say, and nothing was told twice.
    fn check(&self, client: &Client, expected: &BTreeMap<String, Value>) -> Result<()> {
        let last = self.last.iter().map(|((is_access, partition), offset)| {
            let topic = self.topic(if *is_access { "access" } else { "groups" });
            at(&topic, (*partition, *offset))
        });
        let last: Vec<_> = last.collect();
        let (onboarding, inbox) = (self.topic("onboarding"), self.topic("inbox"));
        // Whichever of the carriers it is: everything is merged, and what fell to it is folded.
        for carrier in ["AA", "B6", "DL", "EV", "UA", "WN"] {
            client
                .ask_at(&onboarding, carrier, "", &last.join(","))?
                .expect_status(200)?;
        }
        for (user, expected) in expected {
            wait_until_ok(GENEROUS, &format!("{inbox} of {user}"), || {
                let answer = client.ask(&inbox, user, "")?.expect_status(200)?.json()?;
                ensure!(answer == *expected, "{answer}, not {expected}");
                Ok(())
            })?;
        }
        let told = topic::read_all(client, &self.topic("notifications"))?;
        ensure!(!told.is_empty(), "nothing was told");
        fleet_records::check_turns(&told).context(inbox)
    }
}

/// Both inputs in their order, cut into chunks that come in any order beside each other.
fn shuffled(facts: &[Fact], steps: usize, random: &mut ChaCha8Rng) -> Vec<Vec<Fact>> {
    let (access, groups): (Vec<_>, Vec<_>) = facts.iter().cloned().partition(Fact::is_access);
    let mut inputs = [access.into_iter(), groups.into_iter()];
    let most = facts.len() / steps;
    let mut chunks: Vec<Vec<Fact>> = (1..steps)
        .map(|_| {
            let count = random.random_range(0..=2 * most);
            let input = &mut inputs[random.random_range(0..2)];
            input.take(count).collect()
        })
        .collect();
    chunks.push(inputs.into_iter().flatten().collect());
    chunks
}

/// One input after the other.
fn one_by_one(facts: &[Fact], access_first: bool, steps: usize) -> Vec<Vec<Fact>> {
    let (first, second): (Vec<_>, Vec<_>) = facts
        .iter()
        .cloned()
        .partition(|fact| fact.is_access() == access_first);
    let all = [first, second].concat();
    let chunk = all.len().div_ceil(steps);
    all.chunks(chunk).map(<[_]>::to_vec).collect()
}

#[test]
fn two_inputs_end_in_the_same_however_they_come_and_whatever_is_killed() -> Result<()> {
    const STEPS: usize = 8;
    let (count, kills) = if full() { (20_000, 8) } else { (1_500, 4) };
    let scratch = Scratch::new("interleavings")?;
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let facts = fleet_records::random(6, count);
    let expected = fleet_records::inboxes(&facts);
    let open = |answer: &Value| answer["open"].as_array().map_or(0, Vec::len);
    ensure!(expected.values().map(open).sum::<usize>() > 10);
    let delivery = |name, frame, deployed_at, steps| Delivery {
        name,
        frame,
        deployed_at,
        steps,
        last: BTreeMap::new(),
    };
    let mut deliveries = [
        delivery("a", &[][..], 0, one_by_one(&facts, false, STEPS)),
        delivery("b", &[], STEPS / 2, one_by_one(&facts, true, STEPS)),
        delivery("c", &[], STEPS, shuffled(&facts, STEPS, &mut random)),
        // The same in the frame of a schema registry, which `route` does not see.
        delivery(
            "d",
            &[0, 0, 0, 0, 7, 0],
            1,
            shuffled(&facts, STEPS, &mut random),
        ),
    ];
    let mut host = Start::serve(scratch.path()).ready()?;
    for delivery in &deliveries {
        delivery.create(&host.client()?)?;
    }
    for step in 0..=STEPS {
        let client = host.client()?;
        for delivery in &mut deliveries {
            if delivery.deployed_at == step {
                delivery.deploy(&client)?;
            }
            if step < delivery.steps.len() {
                delivery.append(&client, step)?;
            }
        }
        if step >= STEPS - kills {
            let_pass(Duration::from_millis(random.random_range(0..400)));
            host = host.kill()?.ready()?;
        }
    }
    let client = host.client()?;
    for delivery in &deliveries {
        delivery.check(&client, &expected)?;
    }
    Ok(())
}

/// A view that counts what is routed to each key by the values of two inputs, on either log.
struct Routed {
    client: Client,
    inputs: [&'static str; 2],
    /// Records of each key.
    counts: BTreeMap<String, u64>,
    /// The last record of each input that was appended.
    written: usize,
}

impl Routed {
    fn new(client: Client) -> Result<Self> {
        let inputs = ["orders", "returns"];
        create_inputs(&client, inputs)?;
        let wasm = on_two_inputs(
            &misbehaving("broken-routes")?,
            inputs,
            "on-error = \"dead-letter\"",
        )?;
        let done = deploy(&client, "routed", "", &wasm)?.expect(201, "created")?;
        wait_serving(&client, "routed", done.deployment, GENEROUS)?;
        Ok(Self {
            client,
            inputs,
            counts: BTreeMap::new(),
            written: 0,
        })
    }

    /// Appends a record that goes to `keys`, and gives its place.
    fn write(&mut self, keys: &[&str]) -> Result<String> {
        let side = self.written % 2;
        let value = format!("to:{}", keys.join(","));
        let record = json!({"key": format!("own-{}", self.written), "value_text": value});
        let record = if side == 1 {
            to_the_right(record)
        } else {
            record
        };
        let topic = self.inputs[side];
        let places = self.client.append_all(topic, &[record])?;
        self.written += 1;
        for key in keys {
            *self.counts.entry((*key).to_owned()).or_default() += 1;
        }
        Ok(at(topic, places[0]))
    }

    /// The count of a key once all of `position` is folded: the right one, and without hanging.
    fn expect(&self, key: &str, position: &str) -> Result<()> {
        let watch = Stopwatch::start();
        let headers = [("foldhost-min-position", position), ("prefer", WAIT_S)];
        let reply = self
            .client
            .get_with(&format!("/v1/views/routed/keys/{key}"), &headers)?;
        let took = watch.elapsed();
        ensure!(took < AT_ONCE, "{took:?} for {position}: {reply:?}");
        let Some(count) = self.counts.get(key) else {
            reply.expect_problem(404, "not-found")?;
            return Ok(());
        };
        let reply = reply.expect_status(200)?;
        ensure!(reply.json()?["count"] == *count, "not {count}: {reply:?}");
        let told = reply.header("foldhost-position").context("no position")?;
        ensure!(told.contains(".routed.merge."), "{told}: {reply:?}");
        // What is told can be asked for.
        let again = self.client.ask_at("routed", key, "", told)?;
        ensure!(again.expect_status(200)?.json()?["count"] == *count);
        Ok(())
    }
}

/// A position of an input is waited for through the merge topic, wherever its record went.
fn reads_its_writes(client: Client) -> Result<()> {
    let rounds = if full() { 200 } else { 25 };
    let mut routed = Routed::new(client)?;
    let keys: Vec<String> = (0..7).map(|n| format!("key-{n}")).collect();
    for round in 0..rounds {
        let key = &keys[round % keys.len()];
        let position = routed.write(&[key])?;
        routed.expect(key, &position)?;
        // It was routed elsewhere: that is no reason to wait for ever.
        routed.expect(&keys[(round + 3) % keys.len()], &position)?;
        // To several, behind records of both inputs.
        let (first, second) = (&keys[(round + 1) % 7], &keys[(round + 5) % 7]);
        let both = [routed.write(&[first])?, routed.write(&[first, second])?];
        routed.expect(second, &both.join(", "))?;
        routed.expect(first, &both.join(","))?;
    }
    // A record that was set aside before the merge topic is behind us all the same.
    let keyless = json!({"value_text": "nowhere"});
    let places = routed.client.append_all("orders", &[keyless])?;
    routed.expect(&keys[0], &at("orders", places[0]))?;
    // On Kafka, the letter can be read once the marker of its transaction is there.
    wait_until_ok(GENEROUS, "the letter", || {
        let read = |cluster: &str| {
            let letters = format!("{cluster}.routed.dead-letters");
            topic::read_all(&routed.client, &letters)
        };
        let letters = read("foldhost").or_else(|_| read("reads"))?;
        ensure!(letters.len() == 1, "{letters:?}");
        Ok(())
    })?;

    let position = |value: &str| routed.client.ask_at("routed", "key-0", "", value);
    position("elsewhere/0@0")?
        .expect_problem(400, "position-not-an-input")?
        .expect_words(&["elsewhere/0@0", "orders", "returns"])?;
    // What is not there yet, and a partition that never was: an answer in time that says so.
    for (missing, words) in [
        ("orders/0@1000000", "has not merged orders/0@1000000"),
        ("orders/17@0", "nothing of that partition is merged"),
    ] {
        let watch = Stopwatch::start();
        let headers = [("foldhost-min-position", missing), ("prefer", "wait=1")];
        let reply = routed
            .client
            .get_with("/v1/views/routed/keys/key-0", &headers)?;
        reply
            .expect_problem(503, "position-not-reached")?
            .expect_words(&[words])?;
        let took = watch.elapsed();
        ensure!(took >= Duration::from_secs(1) && took < IN_TIME, "{took:?}");
    }
    Ok(())
}

#[test]
fn a_position_of_an_input_is_waited_for_through_the_merge_topic() -> Result<()> {
    let scratch = Scratch::new("reads")?;
    let host = Start::serve(scratch.path()).ready()?;
    reads_its_writes(host.client()?)
}

#[test]
fn on_kafka_markers_of_transactions_are_not_waited_for() -> Result<()> {
    let scratch = Scratch::new("reads-kafka")?;
    let broker = kafka::shared()?;
    let config = kafka_config(&scratch, &broker, "reads", &scratch.join("objects"))?;
    let host = Start::serve(scratch.path()).config(&config).ready()?;
    reads_its_writes(host.client()?)
}

/// `broken-records`, which tells what it counts and hands tombstones on, to a compact topic.
fn compacting_teller() -> Result<Vec<u8>> {
    let wasm = on_two_inputs(&misbehaving("broken-records")?, ["orders", "returns"], "")?;
    let manifest = wasm::manifest(&wasm)?;
    let kept: Vec<_> = manifest
        .lines()
        .filter(|line| !line.starts_with("output ="))
        .collect();
    let output = "[output]\ntopic = \"counts\"\ncleanup = \"compact\"\n";
    wasm::with_manifest(&wasm, &format!("{}\n{output}", kept.join("\n")))
}

#[test]
fn tombstones_travel_through_a_topic_that_is_compacted_and_back() -> Result<()> {
    const KEYS: usize = 50;
    const GONE: usize = 5;
    let scratch = Scratch::new("tombstones")?;
    let mut host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    create_inputs(&client, ["orders", "returns"])?;
    deploy(&client, "teller", "", &compacting_teller()?)?.expect(201, "created")?;
    let latest = prebuilt_plugin("latest")?;
    deploy(&client, "before", "topic=events=counts", &latest)?.expect(201, "created")?;
    let key = |n: usize| format!("k{n}");
    for round in 0..4 {
        let records: Vec<Value> = (0..KEYS)
            .map(|n| json!({"key": key(n), "value": round}))
            .collect();
        let records = records.into_iter().map(|record| match round % 2 {
            0 => record,
            _ => to_the_right(record),
        });
        let topic = ["orders", "returns"][round % 2];
        client.append_all(topic, &records.collect::<Vec<_>>())?;
    }
    // What went the longer way is told before it is gone.
    let told = |client: &Client, count: usize| {
        wait_until_ok(GENEROUS, &format!("{count} records to be told"), || {
            let told = topic::read_all(client, "counts")?;
            ensure!(told.len() == count, "{} of {count}", told.len());
            Ok(told)
        })
    };
    told(&client, 4 * KEYS)?;
    let gone: Vec<Value> = (0..GONE)
        .map(|n| json!({"key": key(n), "value": null}))
        .collect();
    client.append_all("orders", &gone)?;
    let all = told(&client, 4 * KEYS + GONE)?;
    let tombstones: Vec<_> = all.iter().filter(|it| it["value"].is_null()).collect();
    ensure!(tombstones.len() == GONE, "{tombstones:?}");

    let check = |client: &Client, view: &str| -> Result<()> {
        for n in 0..KEYS {
            wait_until_ok(GENEROUS, &format!("{view} of {}", key(n)), || {
                let reply = client.ask(view, &key(n), "")?;
                if n < GONE {
                    reply.expect_problem(404, "not-found")?;
                    return Ok(());
                }
                let answer = reply.expect_status(200)?.json()?;
                ensure!(answer["value"]["count"] == 4, "{answer}");
                Ok(())
            })?;
        }
        Ok(())
    };
    check(&client, "before")?;
    // A host that starts looks what there is to compact; then offsets have gaps, and old values are gone.
    host = host.kill()?.ready()?;
    let client = host.client()?;
    wait_until_ok(GENEROUS, "the topic to be compacted", || {
        let left = topic::read_all(&client, "counts")?;
        ensure!(left.len() <= KEYS, "{} records", left.len());
        Ok(())
    })?;
    check(&client, "before")?;
    deploy(&client, "after", "topic=events=counts", &latest)?.expect(201, "created")?;
    check(&client, "after")?;
    // The teller goes on where it was.
    let last = json!({"key": key(GONE), "value": "more"});
    client.append_all("orders", &[last])?;
    for view in ["before", "after"] {
        wait_until_ok(GENEROUS, view, || {
            let answer = client.ask(view, &key(GONE), "")?.expect_status(200)?;
            ensure!(answer.json()?["value"]["count"] == 5, "{answer:?}");
            Ok(())
        })?;
    }
    Ok(())
}
