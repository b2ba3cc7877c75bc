//! New code under a name that runs: swapped between two batches, or built up from the log beside the old
//! one, while questions are asked and events keep coming; what is told of a build; builds that are never
//! promoted; the command line of all this. The whole year with `tests/run --full`, else January.

#![allow(
    clippy::print_stderr,
    reason = "figures for whoever runs it with --nocapture"
)]

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use foldhost_tests::feed::{Feed, Pace, expect_counts};
use foldhost_tests::flights::{DAY, Flights, format_time, midnight, year_file};
use foldhost_tests::host::{GENEROUS, Start, run_in, run_well, shown};
use foldhost_tests::http::{Client, number};
use foldhost_tests::load::{Code, Load, Plan, Target};
use foldhost_tests::operate::{
    blocked, code, count_of, deploy, partitions, plugin, post, settled, version, wait_blocked,
    wait_serving,
};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::utilisation::in_motion;
use foldhost_tests::wait::wait_until_ok;
use foldhost_tests::{flight_records, full, topic};
use serde_json::{Value, json};

/// Folding what there is, on a machine that compiles something else beside it.
const BUILT_WITHIN: Duration = Duration::from_secs(300);
/// Questions a second about each of the two views: 200 in all.
const ASKED_PER_SECOND: u32 = 100;
/// Planes that are asked about.
const ASKED_KEYS: usize = 40;
/// Deployments of each view beside the first; these of them build the state anew.
const DEPLOYMENTS: usize = 12;
const REBUILDS: [usize; 2] = [4, 9];

/// The flights of this run and the window that holds them all.
fn flights_of_this_run() -> Result<(Flights, String)> {
    let (flights, to) = if full() {
        let file = year_file().context("the whole year is not here: set FOLDHOST_FLIGHTS")?;
        (Flights::read(&file)?, midnight(2014, 1, 3))
    } else {
        (Flights::january()?, midnight(2013, 2, 3))
    };
    let from = midnight(2013, 1, 1);
    let window = format!("?from={}&to={}", format_time(from), format_time(to));
    Ok((flights, format!("/in-motion{window}")))
}

/// A view that is upgraded again and again under load.
struct Upgraded {
    name: &'static str,
    load: Load,
    order: Vec<Code>,
}

impl Upgraded {
    fn new(client: &Client, target: &Target, name: &'static str, plan: Plan) -> Result<Self> {
        let first = plugin(client, name)?;
        let wasm = prebuilt_plugin(name)?;
        let load = Load::start(target, &plan);
        // The first code, too, answers about every key before the next comes.
        load.wait_round(GENEROUS)?;
        Ok(Self {
            name,
            load,
            order: vec![code(count_of(&first, "generation")?, &wasm)],
        })
    }

    /// Deploys another version, waits until it serves, and asks about every key at least once more.
    fn upgrade(&mut self, client: &Client, number: usize) -> Result<()> {
        let wasm = version(self.name, &format!("1.{number}.0"))?;
        let rebuilds = REBUILDS.contains(&number);
        let before = plugin(client, self.name)?;
        let done = if rebuilds {
            deploy(client, self.name, "", &wasm)?.expect(202, "building")?
        } else {
            deploy(client, self.name, "state=keep", &wasm)?.expect(200, "swapped")?
        };
        let is_new = done.generation > count_of(&before, "generation")?;
        ensure!(
            is_new == rebuilds,
            "generation {}: {before}",
            done.generation
        );
        wait_deployed(client, self.name, done.deployment)?;
        self.order.push(code(done.generation, &wasm));
        self.load.wait_round(GENEROUS)
    }

    fn finish(self) -> Result<()> {
        let report = self.load.finish().context(self.name)?;
        eprintln!("{}: {report}", self.name);
        report.expect_order(&self.order)?;
        let keys = report.codes.len();
        for code in &self.order {
            let seen = report.keys_of(code);
            ensure!(seen == keys, "{code:?} answered for {seen} of {keys} keys");
        }
        Ok(())
    }
}

/// Waits as a script would, by the route that `--wait` uses.
fn wait_deployed(client: &Client, name: &str, deployment: u64) -> Result<()> {
    let path = format!("/v1/plugins/{name}/ready?_wait=30&_deployment={deployment}");
    wait_until_ok(
        BUILT_WITHIN,
        &format!("deployment {deployment} of {name}"),
        || client.get(&path)?.expect_status(200),
    )?;
    Ok(())
}

#[test]
fn no_answer_fails_or_goes_back_while_code_changes() -> Result<()> {
    let (flights, in_motion_of_all) = flights_of_this_run()?;
    let scratch = Scratch::new("upgrades")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    host.deploy_prebuilt("counter", "")?;
    host.deploy_prebuilt("plane-utilisation", "")?;

    // Four fifths are there, the rest keeps coming while code changes.
    let mut records = flight_records::records(&flights);
    let rest = records.split_off(records.len() / 5 * 4);
    let pace = Pace {
        batch: 20,
        per_second: u64::try_from(rest.len())? / 60 + 20,
    };
    for batch in records.chunks(2_000) {
        client.append_all("flights", batch)?;
    }
    host.wait_caught_up("counter", BUILT_WITHIN)?;
    host.wait_caught_up("plane-utilisation", BUILT_WITHIN)?;
    let target = Target::new(&client);
    let feed = Feed::start(&target, "flights", Box::new(rest.into_iter()), pace);

    let plan = |view: &str, rest: &str, grows| Plan {
        view: view.to_owned(),
        keys: busiest(&flights, &records),
        rest: rest.to_owned(),
        grows,
        per_second: ASKED_PER_SECOND,
        threads: 2,
    };
    let counter_plan = plan("counter", "", "count");
    let motion_plan = plan("plane-utilisation", &in_motion_of_all, "flights");
    let mut views = [
        Upgraded::new(&client, &target, "counter", counter_plan)?,
        Upgraded::new(&client, &target, "plane-utilisation", motion_plan)?,
    ];
    for number in 1..=DEPLOYMENTS {
        for view in &mut views {
            view.upgrade(&client, number)
                .with_context(|| host.log_tail())?;
        }
    }
    let mut fed = feed.finish()?;
    fed.write_rest(&client)?;
    println!("fed beside it: {fed:?}");
    host.wait_caught_up("counter", BUILT_WITHIN)?;
    host.wait_caught_up("plane-utilisation", BUILT_WITHIN)?;
    for view in views {
        view.finish()?;
    }
    check_every_plane(&client, &flights, &in_motion_of_all)?;
    check_history(&client)
}

/// The planes with most events among `records`, which are those that have an answer at once.
fn busiest(flights: &Flights, records: &[Value]) -> Vec<String> {
    let landed: std::collections::BTreeSet<&str> = records
        .iter()
        .take(records.len() / 2)
        .filter_map(|record| record["key"].as_str())
        .collect();
    let mut planes: Vec<&str> = flights
        .planes()
        .filter(|plane| landed.contains(plane))
        .collect();
    planes.sort_by_key(|plane| std::cmp::Reverse(flights.of(plane).len()));
    let planes = planes.into_iter().take(ASKED_KEYS);
    planes.map(str::to_owned).collect()
}

fn check_every_plane(client: &Client, flights: &Flights, in_motion_of_all: &str) -> Result<()> {
    let counts = flights
        .planes()
        .map(|plane| {
            Ok((
                plane.to_owned(),
                2 * u64::try_from(flights.of(plane).len())?,
            ))
        })
        .collect::<Result<_>>()?;
    expect_counts(client, "counter", &counts)?;
    let (from, to) = (midnight(2013, 1, 1), midnight(2014, 1, 3) + DAY);
    for plane in flights.planes() {
        let expected = in_motion(&flights.of(plane), from, to);
        let reply = client.ask("plane-utilisation", plane, in_motion_of_all)?;
        let answer = reply.clone().expect_status(200)?.json()?;
        ensure!(
            answer["in_motion_ms"] == expected.in_motion_ms
                && answer["flights"] == expected.flights,
            "{plane}: {reply:?}, not {expected:?}"
        );
    }
    Ok(())
}

/// Every deployment is told, the newest last, with what became of the states.
fn check_history(client: &Client) -> Result<()> {
    let plugin = plugin(client, "counter")?;
    let deployments = plugin["deployments"]
        .as_array()
        .context("no `deployments`")?;
    let hows: Vec<&str> = deployments
        .iter()
        .filter_map(|it| it["how"].as_str())
        .collect();
    let expected: Vec<&str> = (0..=DEPLOYMENTS)
        .map(|number| match number {
            0 => "first",
            rebuilt if REBUILDS.contains(&rebuilt) => "rebuild",
            _ => "keep",
        })
        .collect();
    // The oldest may be forgotten.
    ensure!(
        expected.ends_with(&hows) && hows.len() > 3,
        "{hows:?}, not {expected:?}"
    );
    // The last swap says from which position on its code folded.
    for partition in partitions(&plugin)? {
        let (from, end) = (
            count_of(partition, "folds_from")?,
            count_of(partition, "end")?,
        );
        ensure!(0 < from && from <= end, "{partition}");
    }
    Ok(())
}

/// Events that take a moment to fold: so many, with small values.
fn fill(client: &Client, topic: &str, records: usize, keys: usize) -> Result<()> {
    let all: Vec<usize> = (0..records).collect();
    for batch in all.chunks(2_000) {
        let record = |n: &usize| json!({"key": format!("k{}", n % keys), "value": n});
        let records: Vec<Value> = batch.iter().map(record).collect();
        client.append_all(topic, &records)?;
    }
    Ok(())
}

#[test]
fn a_build_tells_how_far_it_is() -> Result<()> {
    const RECORDS: usize = 60_000;
    let scratch = Scratch::new("progress")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    host.deploy_prebuilt("counter", "")?;
    fill(&client, "flights", RECORDS, 100)?;
    host.wait_caught_up("counter", BUILT_WITHIN)?;
    let old = count_of(&plugin(&client, "counter")?, "generation")?;

    // Paused, so that the build stands still while it is looked at.
    post(&client, "counter", "pause")?.expect_status(200)?;
    let wasm = version("counter", "2.0.0")?;
    let done = deploy(&client, "counter", "state=rebuild", &wasm)?.expect(202, "building")?;
    let location = format!("/v1/plugins/counter/generations/{}", done.generation);
    ensure!(
        done.reply.header("location") == Some(&location),
        "{:?}",
        done.reply
    );
    let building = wait_until_ok(GENEROUS, "the build to have all partitions", || {
        let generation = client.get(&location)?.expect_status(200)?.json()?;
        ensure!(
            count_of(&generation, "lag")? == u64::try_from(RECORDS)?,
            "{generation}"
        );
        Ok(generation)
    })?;
    ensure!(
        building["role"] == "building"
            && building["origin"] == "log"
            && building["version"] == "2.0.0",
        "{building}"
    );
    ensure!(
        count_of(&building, "deployment")? == done.deployment,
        "{building}"
    );
    ensure!(partitions(&building)?.len() == 4, "{building}");
    let shown = plugin(&client, "counter")?;
    ensure!(
        count_of(&shown["building"], "generation")? == done.generation,
        "{shown}"
    );
    ensure!(count_of(&shown, "generation")? == old, "{shown}");
    let serving = client.get(&format!("/v1/plugins/counter/generations/{old}"))?;
    ensure!(serving.expect_status(200)?.json()?["role"] == "serving");
    let nobody = client.get("/v1/plugins/counter/generations/999")?;
    nobody.expect_problem(404, "unknown-generation")?;
    let ready = format!("/v1/plugins/counter/ready?_deployment={}", done.deployment);
    let not_yet = client
        .get(&ready)?
        .expect_problem(503, "not-ready")?
        .json()?;
    ensure!(
        number(&not_yet["lag"]).is_some() && not_yet["plugin_status"].is_string(),
        "{not_yet}"
    );

    post(&client, "counter", "resume")?.expect_status(200)?;
    watch_build(&client, &location)?;
    wait_serving(&client, "counter", done.deployment, BUILT_WITHIN)?;
    client.get(&ready)?.expect_status(200)?;
    let of_old = format!("/v1/plugins/counter/generations/{old}");
    wait_until_ok(GENEROUS, "the old generation to go", || {
        client
            .get(&of_old)?
            .expect_problem(404, "unknown-generation")
    })?;
    for n in 0..100 {
        let answer = client
            .ask("counter", &format!("k{n}"), "")?
            .expect_status(200)?;
        ensure!(number(&answer.json()?["count"]) == Some(600), "{answer:?}");
    }
    Ok(())
}

/// Looks at a build until it serves: its lag only falls, and its rate and time left are sane.
fn watch_build(client: &Client, location: &str) -> Result<()> {
    let mut lag_before = u64::MAX;
    wait_until_ok(BUILT_WITHIN, "the build to serve", || {
        let generation = client.get(location)?.expect_status(200)?.json()?;
        let lag = count_of(&generation, "lag")?;
        let within = |name: &str, max: f64| {
            let told = generation[name].as_f64();
            told.is_none_or(|told| (0.0..max).contains(&told))
        };
        if lag > lag_before || !within("rate_per_second", 1e9) || !within("seconds_left", 1e6) {
            return Ok(Err(anyhow!("lag was {lag_before}: {generation}")));
        }
        lag_before = lag;
        ensure!(generation["role"] == "serving", "{generation}");
        Ok(Ok(()))
    })?
}

#[test]
fn a_build_that_is_blocked_is_never_promoted() -> Result<()> {
    let scratch = Scratch::new("blocked-build")?;
    let start = Start::serve(scratch.path());
    let host = start.ready()?;
    let client = host.client()?;
    host.deploy_prebuilt("counter", "")?;
    fill(&client, "flights", 2_000, 20)?;
    // `counter` takes it, `latest` does not.
    let poison = json!({"key": "k7", "value_text": "{not json"});
    let (partition, offset) = client.append_all("flights", &[poison])?[0];
    fill(&client, "flights", 2_000, 20)?;
    host.wait_caught_up("counter", GENEROUS)?;
    let target = Target::new(&client);
    let plan = Plan {
        view: "counter".into(),
        keys: (0..20).map(|n| format!("k{n}")).collect(),
        rest: String::new(),
        grows: "count",
        per_second: 100,
        threads: 2,
    };
    let load = Load::start(&target, &plan);

    let old = plugin(&client, "counter")?;
    let faulty = prebuilt_plugin("latest")?;
    let done =
        deploy(&client, "counter", "topic=events=flights", &faulty)?.expect(202, "building")?;
    let building = wait_until_ok(GENEROUS, "the build to be blocked", || {
        let plugin = plugin(&client, "counter")?;
        ensure!(plugin["building"]["status"] == "blocked", "{plugin}");
        Ok(plugin["building"].clone())
    })?;
    let at = &blocked(&building)?["blocked"];
    ensure!(
        at["code"] == "rejected:bad-event" && at["at"] == format!("flights/{partition}@{offset}"),
        "{building}"
    );
    // The old one answers and folds on.
    fill(&client, "flights", 200, 20)?;
    wait_until_ok(GENEROUS, "the old code to fold on", || {
        let answer = client.ask("counter", "k3", "")?.expect_status(200)?;
        ensure!(number(&answer.json()?["count"]) == Some(210), "{answer:?}");
        Ok(())
    })?;
    let after = plugin(&client, "counter")?;
    ensure!(
        after["generation"] == old["generation"] && after["digest"] == old["digest"],
        "{after}"
    );
    let ready = format!("/v1/plugins/counter/ready?_deployment={}", done.deployment);
    client.get(&ready)?.expect_problem(503, "not-ready")?;
    target.down();

    // Also not by a restart.
    ensure!(host.stop()? == 0);
    let host = start.ready()?;
    let client = host.client()?;
    target.up(&client);
    wait_until_ok(GENEROUS, "the build to be blocked again", || {
        let plugin = plugin(&client, "counter")?;
        ensure!(plugin["building"]["status"] == "blocked", "{plugin}");
        ensure!(plugin["digest"] == old["digest"], "promoted: {plugin}");
        Ok(())
    })?;

    // Code that takes the event replaces it.
    let fixed = version("counter", "2.0.0")?;
    let fixed_done = deploy(&client, "counter", "", &fixed)?.expect(202, "building")?;
    wait_serving(&client, "counter", fixed_done.deployment, BUILT_WITHIN)?;
    load.wait_round(GENEROUS)?;
    let report = load.finish()?;
    println!("{report}");
    let first = prebuilt_plugin("counter")?;
    let order = [
        code(count_of(&old, "generation")?, &first),
        code(fixed_done.generation, &fixed),
    ];
    report.expect_order(&order)?;
    ensure!(report.keys_of(&order[1]) == plan.keys.len(), "{report:?}");
    Ok(())
}

#[test]
fn the_command_line_of_operations() -> Result<()> {
    let scratch = Scratch::new("operations-cli")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    let run = |arguments: &[&str]| run_well(scratch.path(), host.url(), arguments);
    let file = |plugin: &str, number: &str| -> Result<String> {
        let path = scratch.write(&format!("{plugin}-{number}.wasm"), version(plugin, number)?)?;
        Ok(path.to_str().context("the path is text")?.to_owned())
    };
    let (one, two, three) = (
        file("latest", "1.0.0")?,
        file("latest", "2.0.0")?,
        file("latest", "3.0.0")?,
    );
    run(&["plugin", "deploy", &one, "--wait"])?;
    let good = json!({"key": "k", "value": 1});
    client.append_all("events", std::slice::from_ref(&good))?;

    let swapped = run(&["plugin", "deploy", &two, "--state", "keep", "--wait"])?;
    ensure!(swapped.contains("2.0.0"), "{swapped}");
    let shown_now = run(&["plugin", "show", "latest"])?;
    ensure!(
        shown_now.contains("2.0.0") && shown_now.contains("keep"),
        "{shown_now}"
    );
    let built = run(&["plugin", "deploy", &three, "--wait", "--timeout", "120"])?;
    ensure!(built.contains("3.0.0"), "{built}");
    ensure!(
        plugin(&client, "latest")?["version"] == "3.0.0",
        "--wait came back too early"
    );
    // It answers, and nothing else is accepted until what answered before has retired.
    wait_until_ok(GENEROUS, "nothing to be under way", || {
        settled(&client, "latest")
    })?;
    run(&["plugin", "rollback", "latest", "--wait"])?;
    ensure!(
        plugin(&client, "latest")?["version"] == "2.0.0",
        "{}",
        plugin(&client, "latest")?
    );

    run(&["plugin", "pause", "latest"])?;
    let paused = run(&["plugin", "list"])?;
    ensure!(paused.contains("paused"), "{paused}");
    run(&["plugin", "resume", "latest"])?;

    let poison = json!({"key": "k", "value_text": "{not json"});
    let (partition, offset) = client.append_all("events", &[poison])?[0];
    wait_blocked(&client, "latest", GENEROUS)?;
    let at = format!("events/{partition}@{offset}");
    let shown_now = run(&["plugin", "show", "latest"])?;
    ensure!(
        shown_now.contains(&at) && shown_now.contains("plugin skip"),
        "{shown_now}"
    );
    let no_reason = run_in(
        scratch.path(),
        host.url(),
        &["plugin", "skip", "latest", &at],
    )?;
    ensure!(no_reason.status.code() == Some(2) && shown(&no_reason).contains("--reason"));
    run(&["plugin", "skip", "latest", &at, "--reason", "broken sensor"])?;
    host.wait_caught_up("latest", GENEROUS)?;
    let shown_now = run(&["plugin", "show", "latest"])?;
    ensure!(
        shown_now.contains("broken sensor") && shown_now.contains(&at),
        "{shown_now}"
    );
    let again = run_in(
        scratch.path(),
        host.url(),
        &["plugin", "skip", "latest", "events/0@99", "--reason", "x"],
    )?;
    ensure!(
        again.status.code() == Some(4) && shown(&again).contains("99"),
        "{}",
        shown(&again)
    );

    // Nobody is there to be asked, so nothing is deleted without a word.
    let unasked = run_in(scratch.path(), host.url(), &["plugin", "delete", "latest"])?;
    ensure!(unasked.status.code() != Some(0), "{}", shown(&unasked));
    run(&["plugin", "delete", "latest", "--yes"])?;
    let gone = run_in(
        scratch.path(),
        host.url(),
        &["plugin", "rollback", "latest"],
    )?;
    ensure!(gone.status.code() == Some(3), "{}", shown(&gone));
    ensure!(
        topic::end(&client, "events")? == 2,
        "the input stays as it is"
    );
    Ok(())
}
