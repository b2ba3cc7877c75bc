//! What hosts stand on fails for a while: the broker, the object store, the disk; a topic is replaced, or
//! retention removes what was not read. Answers go on, nothing is acknowledged that is not kept, and
//! everything goes on by itself once what failed is back. Longer outages with `tests/run --full`.

#![allow(
    clippy::print_stderr,
    reason = "figures for whoever runs it with --nocapture"
)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::feed::expect_counts;
use foldhost_tests::full;
use foldhost_tests::host::{GENEROUS, Host, Start, kafka_config};
use foldhost_tests::http::{Client, Reply, number};
use foldhost_tests::kafka::{self, Broker};
use foldhost_tests::load::{Load, Plan, Target};
use foldhost_tests::operate::{
    count_of, deploy, partitions, plugin, settled, version, wait_blocked, wait_committed,
    wait_serving,
};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::small_disk::SmallDisk;
use foldhost_tests::wait::{Stopwatch, let_pass, wait_until_ok};
use foldhost_tests::{topic, wasm};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// A membership, a store, a reader are back long before.
const BACK_WITHIN: Duration = Duration::from_secs(120);
const KEYS: usize = 40;

/// How long something stays away: longer than a session of the group (6 s), so that everything is lost.
fn outage() -> Duration {
    Duration::from_secs(if full() { 30 } else { 9 })
}

fn keys() -> Vec<String> {
    (0..KEYS).map(|n| format!("k{n}")).collect()
}

/// One record of every key.
fn round() -> Vec<Value> {
    let record = |key: String| json!({"key": key, "value": 1});
    keys().into_iter().map(record).collect()
}

/// Questions about every key of `counter`, none of which may fail.
fn questions(target: &Target) -> Load {
    let plan = Plan {
        view: "counter".into(),
        keys: keys(),
        rest: String::new(),
        grows: "count",
        per_second: 100,
        threads: 2,
    };
    Load::start(target, &plan)
}

fn expect_rounds(client: &Client, rounds: u64) -> Result<()> {
    let counts = keys().into_iter().map(|key| (key, rounds)).collect();
    expect_counts(client, "counter", &counts)
}

fn wait_rounds(host: &Host, client: &Client, rounds: u64) -> Result<()> {
    wait_until_ok(BACK_WITHIN, "every record to be counted", || {
        expect_rounds(client, rounds)
    })
    .with_context(|| host.log_tail())
}

/// What `/readyz` calls degraded; it must be 200.
fn degraded(client: &Client) -> Result<Vec<Value>> {
    let ready = client.get("/readyz")?.expect_status(200)?.json()?;
    Ok(ready["degraded"]
        .as_array()
        .context("no `degraded`")?
        .clone())
}

/// The sum of a metric's series of this plugin; none if it has no such series.
fn metric(client: &Client, name: &str, plugin: &str) -> Result<Option<f64>> {
    let text = client.get("/metrics")?.expect_status(200)?.text();
    let label = format!("plugin=\"{plugin}\"");
    let mut sum = None;
    for line in text.lines() {
        let is_it = line
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{'));
        if is_it && line.contains(&label) {
            let value = line.rsplit(' ').next().context("no value")?;
            sum = Some(sum.unwrap_or(0.0) + value.parse::<f64>()?);
        }
    }
    Ok(sum)
}

#[test]
fn a_broker_that_is_away_costs_no_answer() -> Result<()> {
    let mut broker = Broker::start()?;
    broker.create_topic("flights", 4)?;
    let scratch = Scratch::new("broker-away")?;
    let config = kafka_config(&scratch, &broker, "outage", &scratch.join("objects"))?;
    let host = Start::serve(scratch.path()).config(&config).ready()?;
    let client = host.client()?;
    host.deploy_prebuilt("counter", "")?;
    let keys = keys();
    let records: Vec<(&str, Option<&str>)> =
        keys.iter().map(|key| (key.as_str(), Some("1"))).collect();
    broker.produce("flights", &records)?;
    wait_rounds(&host, &client, 1)?;
    let target = Target::new(&client);
    let load = questions(&target);
    load.wait_round(GENEROUS)?;

    broker.stop()?;
    let away_since = Stopwatch::start();
    let told = wait_until_ok(BACK_WITHIN, "/readyz to tell of it", || {
        let degraded = degraded(&client)?;
        ensure!(!degraded.is_empty(), "nothing is degraded");
        Ok(degraded)
    })?;
    eprintln!("told after {:.1?}: {told:?}", away_since.elapsed());
    wait_until_ok(BACK_WITHIN, "/metrics to tell of it", || {
        let metric = metric(&client, "foldhost_partition_degraded", "counter")?;
        ensure!(metric.is_some_and(|sum| sum >= 1.0), "{metric:?}");
        Ok(())
    })?;
    // Nothing is acknowledged that nobody keeps.
    let refused = client.append("flights", &[json!({"key": "k0", "value": 1})])?;
    ensure!([503, 504].contains(&refused.status), "{refused:?}");
    let_pass(outage().saturating_sub(away_since.elapsed()));
    ensure!(
        !degraded(&client)?.is_empty(),
        "it is away and nothing is degraded"
    );
    load.wait_round(GENEROUS)?;
    eprintln!("away for {:.1?}", away_since.elapsed());

    broker.restart()?;
    let back_since = Stopwatch::start();
    // The append of which nobody knew may be there: whatever the topic holds is counted.
    broker.produce("flights", &records)?;
    let extra = broker.read_all("flights")?.len() - 2 * keys.len();
    ensure!(extra <= 1, "{extra} records that nobody wrote");
    wait_until_ok(BACK_WITHIN, "the host to catch up", || {
        settled(&client, "counter")?;
        let degraded = degraded(&client)?;
        ensure!(degraded.is_empty(), "{degraded:?}");
        let counted = client
            .ask("counter", "k1", "")?
            .expect_status(200)?
            .json()?;
        ensure!(counted["count"] == 2, "{counted}");
        Ok(())
    })
    .with_context(|| host.log_tail())?;
    eprintln!("caught up {:.1?} after it was back", back_since.elapsed());
    let mut counts: std::collections::BTreeMap<_, _> =
        keys.iter().map(|key| (key.clone(), 2)).collect();
    *counts.entry("k0".to_owned()).or_insert(2) += u64::try_from(extra)?;
    expect_counts(&client, "counter", &counts)?;
    let metric = metric(&client, "foldhost_partition_degraded", "counter")?;
    ensure!(metric == Some(0.0), "{metric:?}");
    eprintln!("{}", load.finish()?);
    Ok(())
}

#[test]
fn a_topic_that_is_replaced_stops_the_view_until_it_is_rebuilt() -> Result<()> {
    let broker = kafka::shared()?;
    let scratch = Scratch::new("replaced")?;
    let config = kafka_config(&scratch, &broker, "replaced", &scratch.join("objects"))?;
    broker.create_topic("replaced-events", 2)?;
    let host = Start::serve(scratch.path()).config(&config).ready()?;
    let client = host.client()?;
    let wasm = prebuilt_plugin("counter")?;
    let parameters = "topic=flights=replaced-events";
    deploy(&client, "counter", parameters, &wasm)?.expect(201, "created")?;
    let keys = keys();
    let records: Vec<(&str, Option<&str>)> =
        keys.iter().map(|key| (key.as_str(), Some("1"))).collect();
    broker.produce("replaced-events", &records)?;
    wait_rounds(&host, &client, 1)?;
    // What is not committed goes with the topic: there is nothing left to fold it from.
    wait_until_ok(BACK_WITHIN, "everything to be committed", || {
        let plugin = plugin(&client, "counter")?;
        for partition in partitions(&plugin)? {
            ensure!(partition["committed"] == partition["end"], "{plugin}");
        }
        Ok(())
    })?;

    broker.delete_topic("replaced-events")?;
    broker.create_topic("replaced-events", 2)?;
    broker.produce("replaced-events", &records)?;
    broker.produce("replaced-events", &records)?;
    wait_until_ok(
        BACK_WITHIN,
        "every partition to see that it was replaced",
        || {
            let plugin = plugin(&client, "counter")?;
            for partition in partitions(&plugin)? {
                ensure!(partition["blocked"]["code"] == "topic-replaced", "{plugin}");
            }
            Ok(())
        },
    )
    .with_context(|| host.log_tail())?;
    expect_rounds(&client, 1).context("what was folded answers, and nothing else was folded")?;
    // Also over a restart: the position is never taken for one of the new topic.
    ensure!(host.stop()? == 0);
    let host = Start::serve(scratch.path()).config(&config).ready()?;
    let client = host.client()?;
    let blocked = wait_blocked(&client, "counter", GENEROUS)?;
    ensure!(blocked["blocked"]["code"] == "topic-replaced", "{blocked}");
    let detail = blocked["blocked"]["detail"].as_str().unwrap_or_default();
    ensure!(
        detail.contains("rebuild"),
        "it does not say what to do: {blocked}"
    );

    let parameters = "topic=flights=replaced-events&state=rebuild";
    let done = deploy(&client, "counter", parameters, &wasm)?.expect(202, "building")?;
    wait_serving(&client, "counter", done.deployment, BACK_WITHIN)?;
    expect_rounds(&client, 2)
}

/// `counter` with an input that is told what to do about a gap.
fn with_gap(name: &str, topic: &str, on_gap: &str) -> Result<Vec<u8>> {
    let inputs = format!("[{{ name = \"flights\", topic = \"{topic}\", on-gap = \"{on_gap}\" }}]");
    let named = wasm::with_field(&prebuilt_plugin("counter")?, "name", &format!("\"{name}\""))?;
    wasm::with_field(&named, "inputs", &inputs)
}

#[test]
fn what_retention_removed_is_never_jumped_over_silently() -> Result<()> {
    const TOPIC: &str = "gap-events";
    let broker = kafka::shared()?;
    let scratch = Scratch::new("gap")?;
    let config = kafka_config(&scratch, &broker, "gap", &scratch.join("objects"))?;
    broker.create_topic(TOPIC, 1)?;
    let start = Start::serve(scratch.path()).config(&config);
    let host = start.ready()?;
    let client = host.client()?;
    for (name, on_gap) in [("stopper", "stop"), ("goer", "continue")] {
        deploy(&client, name, "", &with_gap(name, TOPIC, on_gap)?)?.expect(201, "created")?;
    }
    let write = |records: usize| -> Result<()> {
        let records = vec![("k", Some("1")); records];
        broker.produce(TOPIC, &records)
    };
    write(10)?;
    let counted = |client: &Client, name: &str| -> Result<Option<u64>> {
        let answer = client.ask(name, "k", "")?.expect_status(200)?.json()?;
        Ok(number(&answer["count"]))
    };
    let wait_counted = |client: &Client, name: &str, count: u64| {
        wait_until_ok(BACK_WITHIN, "all records to be counted", || {
            let counted = counted(client, name)?;
            ensure!(counted == Some(count), "{name}: {counted:?} of {count}");
            Ok(())
        })
    };
    for name in ["stopper", "goer"] {
        wait_counted(&client, name, 10)?;
    }
    // Nobody reads while twenty come and fifteen of them go.
    ensure!(host.stop()? == 0);
    write(20)?;
    broker.delete_records(TOPIC, 0, 25)?;
    let host = start.ready()?;
    let client = host.client()?;
    wait_counted(&client, "goer", 15).with_context(|| host.log_tail())?;
    let partition = partitions(&plugin(&client, "goer")?)?[0].clone();
    ensure!(count_of(&partition, "gaps")? == 15, "{partition}");
    let gaps = metric(&client, "foldhost_partition_gap_records_total", "goer")?;
    ensure!(gaps == Some(15.0), "{gaps:?}");

    let expect_gap = |blocked: &Value, at: &str| -> Result<()> {
        let detail = blocked["blocked"]["detail"].as_str().unwrap_or_default();
        ensure!(blocked["blocked"]["code"] == "history-gap", "{blocked}");
        let helps = ["on-gap", at, "--from-retained"]
            .iter()
            .all(|word| detail.contains(word));
        ensure!(helps, "it does not say where and what to do: {blocked}");
        Ok(())
    };
    expect_gap(&wait_blocked(&client, "stopper", BACK_WITHIN)?, "10")?;
    ensure!(
        counted(&client, "stopper")? == Some(10),
        "it answers as of before the gap"
    );

    // A rebuild from what is left must be asked for in so many words.
    let wasm = with_gap("stopper", TOPIC, "stop")?;
    let refused = client.deploy("stopper", "state=rebuild", wasm.clone())?;
    refused
        .expect_problem(409, "history-cut")?
        .expect_words(&["from-retained"])?;
    let anew = deploy(
        &client,
        "stopper",
        "state=rebuild&from_retained=true",
        &wasm,
    )?;
    let anew = anew.expect(202, "building")?;
    let after = wait_serving(&client, "stopper", anew.deployment, BACK_WITHIN)?;
    ensure!(counted(&client, "stopper")? == Some(5), "{after}");
    ensure!(after["history"]["complete"] == false, "{after}");

    // The same again, for the code that is to go on behind it.
    ensure!(host.stop()? == 0);
    write(10)?;
    broker.delete_records(TOPIC, 0, 38)?;
    let host = start.ready()?;
    let client = host.client()?;
    expect_gap(&wait_blocked(&client, "stopper", BACK_WITHIN)?, "30")?;
    // Other code on the same states may go on behind it, and counts what it never saw.
    let goes_on = with_gap("stopper", TOPIC, "continue")?;
    let done = deploy(&client, "stopper", "state=keep", &goes_on)?.expect(200, "swapped")?;
    wait_serving(&client, "stopper", done.deployment, BACK_WITHIN)?;
    wait_counted(&client, "stopper", 7)?;
    let partition = partitions(&plugin(&client, "stopper")?)?[0].clone();
    ensure!(count_of(&partition, "gaps")? == 8, "{partition}");
    Ok(())
}

/// Says why a scenario is not tried, where this machine cannot.
fn small_disk(scratch: &Scratch, folder: &str, megabytes: usize) -> Result<Option<SmallDisk>> {
    if SmallDisk::is_possible() {
        return SmallDisk::new(scratch, folder, megabytes).map(Some);
    }
    eprintln!("not tried: this machine allows no mounts in a namespace of one's own");
    Ok(None)
}

/// Half a megabyte that nothing compresses.
fn large_record(chance: &mut ChaCha8Rng) -> Value {
    use base64::Engine;
    let noise: Vec<u8> = (0..400_000).map(|_| chance.random()).collect();
    let value = base64::engine::general_purpose::STANDARD.encode(noise);
    json!({"key": "large", "value_base64": value})
}

#[test]
fn a_disk_that_was_full_holds_all_that_was_acknowledged() -> Result<()> {
    let scratch = Scratch::new("disk-full")?;
    let Some(disk) = small_disk(&scratch, "disk", 192)? else {
        return Ok(());
    };
    let start = disk.around(Start::serve(scratch.path()).data(&disk.path().join("data")));
    let host = start.ready()?;
    let client = host.client()?;
    host.deploy_prebuilt("counter", "")?;
    client.append_all("flights", &round())?;
    wait_rounds(&host, &client, 1)?;
    disk.take(64)?;
    let target = Target::new(&client);
    let load = questions(&target);

    let mut chance = ChaCha8Rng::seed_from_u64(9);
    let mut acknowledged = 0;
    let refusal = loop {
        ensure!(acknowledged < 1_000, "400 MB went into 192");
        let reply = client.append("flights", &[large_record(&mut chance)])?;
        if reply.status != 200 {
            break reply;
        }
        acknowledged += 1;
    };
    expect_clear(&refusal, "log-unavailable")?;
    eprintln!("refused after {acknowledged}: {}", refusal.text());
    client.get("/healthz")?.expect_status(200)?;
    ensure!(
        !degraded(&client)?.is_empty(),
        "a full disk, and nothing is degraded"
    );
    // A small one is not acknowledged either, unless it is kept.
    let small = client.append("flights", &[json!({"key": "small", "value": 1})])?;
    let small_is_kept = small.status == 200;
    load.wait_round(GENEROUS)?;

    // Space again: it goes on by itself, or says that it wants a restart, and loses nothing either way.
    disk.give_back()?;
    let back = wait_until_ok(Duration::from_secs(20), "appends to be taken again", || {
        client.append_all("flights", &round())
    });
    eprintln!(
        "without a restart it {}",
        if back.is_ok() {
            "went on"
        } else {
            "stayed stopped"
        }
    );
    eprintln!("{}", load.finish()?);
    if let Err(error) = &back {
        let said = format!("{error:#}").to_lowercase();
        ensure!(
            said.contains("start again"),
            "it does not say what to do: {said}"
        );
    }
    let host = host.kill()?.ready()?;
    let client = host.client()?;
    if back.is_err() {
        client.append_all("flights", &round())?;
    }
    wait_rounds_and(&host, &client, acknowledged, small_is_kept)
}

/// After two rounds, and so many large records or one more: what is in the log is what was counted.
fn wait_rounds_and(host: &Host, client: &Client, large: u64, small_is_kept: bool) -> Result<()> {
    host.wait_caught_up("counter", BACK_WITHIN)?;
    let records = topic::read_all(client, "flights")?;
    let counts = topic::count_by_key(&records)?;
    expect_counts(client, "counter", &counts)?;
    let kept = counts.get("large").copied().unwrap_or(0);
    ensure!(
        (large..=large + 1).contains(&kept),
        "{large} were acknowledged, {kept} are there"
    );
    ensure!(
        !small_is_kept || counts.contains_key("small"),
        "an acknowledged record is gone"
    );
    for key in keys() {
        ensure!(
            counts.get(&key) == Some(&2),
            "{key}: {:?}",
            counts.get(&key)
        );
    }
    Ok(())
}

/// A refusal of the host's own making, with a code and with words.
fn expect_clear(reply: &Reply, code: &str) -> Result<()> {
    ensure!([503, 504, 507].contains(&reply.status), "{reply:?}");
    let problem = reply.json()?;
    let is_known = problem["code"] == code || problem["code"] == "outcome-unknown";
    ensure!(is_known, "{reply:?}");
    ensure!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.len() > 20),
        "{reply:?}"
    );
    Ok(())
}

#[test]
fn an_object_store_that_fails_for_a_while_loses_nothing() -> Result<()> {
    let scratch = Scratch::new("objects-fail")?;
    let Some(disk) = small_disk(&scratch, "objects-disk", 48)? else {
        return Ok(());
    };
    let config = format!(
        "[objects]\nurl = \"file://{}/objects\"\n",
        disk.path().display()
    );
    let config = scratch.write("objects.toml", config)?;
    let start = disk.around(Start::serve(scratch.path()).config(&config));
    let host = start.ready()?;
    let client = host.client()?;
    host.deploy_prebuilt("counter", "")?;
    client.append_all("flights", &round())?;
    wait_rounds(&host, &client, 1)?;
    wait_committed(&client, "counter", BACK_WITHIN).context("before anything fails")?;
    let target = Target::new(&client);
    let load = questions(&target);

    disk.set_read_only(true)?;
    let failing_since = Stopwatch::start();
    let mut rounds = 1;
    // Folding goes on in memory, and it is said that nothing is kept of it.
    client.append_all("flights", &round())?;
    rounds += 1;
    wait_rounds(&host, &client, rounds)?;
    wait_until_ok(BACK_WITHIN, "/readyz to tell of it", || {
        let degraded = degraded(&client)?;
        ensure!(!degraded.is_empty(), "nothing is degraded");
        Ok(())
    })?;
    let refused = client.deploy("other", "", version("counter", "2.0.0")?)?;
    expect_clear(&refused, "state-unavailable")?;
    client
        .get("/v1/plugins/other")?
        .expect_problem(404, "unknown-plugin")?;
    while failing_since.elapsed() < outage() {
        client.append_all("flights", &round())?;
        rounds += 1;
        wait_rounds(&host, &client, rounds)?;
        ensure!(
            !degraded(&client)?.is_empty(),
            "it fails and nothing is degraded"
        );
        load.wait_round(GENEROUS)?;
    }
    eprintln!(
        "failed for {:.1?}, {rounds} rounds folded meanwhile",
        failing_since.elapsed()
    );

    disk.set_read_only(false)?;
    wait_committed(&client, "counter", BACK_WITHIN).with_context(|| host.log_tail())?;
    wait_until_ok(BACK_WITHIN, "nothing to be degraded", || {
        let degraded = degraded(&client)?;
        ensure!(degraded.is_empty(), "{degraded:?}");
        Ok(())
    })?;
    eprintln!("{}", load.finish()?);
    deploy(&client, "other", "", &version("counter", "2.0.0")?)?.expect(201, "created")?;
    let host = host.kill()?.ready()?;
    let client = host.client()?;
    host.wait_caught_up("counter", BACK_WITHIN)?;
    expect_rounds(&client, rounds)?;
    host.wait_caught_up("other", BACK_WITHIN)?;
    let counts = keys().into_iter().map(|key| (key, rounds)).collect();
    expect_counts(&client, "other", &counts)
}

#[test]
fn a_kill_while_the_object_store_fails_loses_nothing() -> Result<()> {
    let scratch = Scratch::new("objects-fail-kill")?;
    let Some(disk) = small_disk(&scratch, "objects-disk", 48)? else {
        return Ok(());
    };
    let config = format!(
        "[objects]\nurl = \"file://{}/objects\"\n",
        disk.path().display()
    );
    let config = scratch.write("objects.toml", config)?;
    let start = disk.around(Start::serve(scratch.path()).config(&config));
    let host = start.ready()?;
    let client = host.client()?;
    host.deploy_prebuilt("counter", "")?;
    client.append_all("flights", &round())?;
    wait_rounds(&host, &client, 1)?;
    disk.take_all()?;
    client.append_all("flights", &round())?;
    wait_rounds(&host, &client, 2)?;
    // Killed with states that nothing keeps, and started while the store still fails.
    let host = host.kill()?.listening()?;
    let client = host.client()?;
    client.get("/healthz")?.expect_status(200)?;
    client.append_all("flights", &round())?;
    disk.give_back()?;
    host.wait_ready()?;
    wait_rounds(&host, &client, 3)?;
    wait_committed(&client, "counter", BACK_WITHIN).with_context(|| host.log_tail())
}
