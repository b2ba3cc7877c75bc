//! Real flights through the shipped plugins, compared with an independent computation for every plane, and for
//! every user who is told of planes: on the embedded log and on Kafka, with and without kills. January by default, the whole year with
//! `tests/run --full` where this machine has the file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::flights::{DAY, Flights, format_time, january_file, midnight, year_file};
use foldhost_tests::host::{Host, Start, kafka_config};
use foldhost_tests::http::{Client, number};
use foldhost_tests::kafka;
use foldhost_tests::paths::Scratch;
use foldhost_tests::utilisation::{InMotion, by_day, in_motion};
use foldhost_tests::wait::{timed, wait_until_ok};
use foldhost_tests::{fleet, full};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Loading and folding: a minute for the whole year on an idle machine, and this one may be busy.
const LOADED_WITHIN: Duration = Duration::from_secs(600);

/// The data of this run: the file, what follows from it, and the days that it covers.
struct Data {
    file: PathBuf,
    flights: Flights,
    from: i64,
    to: i64,
}

impl Data {
    fn of_this_run() -> Result<Self> {
        let file = if full() {
            year_file().context("the whole year is not here: set FOLDHOST_FLIGHTS to its file")?
        } else {
            january_file()
        };
        let flights = Flights::read(&file)?;
        let to = if full() {
            midnight(2014, 1, 3)
        } else {
            midnight(2013, 2, 3)
        };
        Ok(Self {
            file,
            flights,
            from: midnight(2013, 1, 1),
            to,
        })
    }

    /// A host that loads this data.
    fn demo(&self, scratch: &Scratch) -> Start {
        let start = Start::demo(scratch.path());
        if full() {
            start.argument("--flights").argument(&self.file)
        } else {
            start
        }
    }
}

/// Waits until the demo has loaded all events and all three plugins have folded them. Offsets do not
/// tell: records of a transaction that a kill cut off, and the marks of transactions, have some too.
/// What `counter` has counted does, and how far it has come is how far the others must come.
fn wait_folded(host: &Host, data: &Data) -> Result<()> {
    let client = host.client()?;
    let all = u64::try_from(data.flights.event_count())?;
    wait_until_ok(LOADED_WITHIN, "all events to be counted", || {
        let counted = counted(&client)?;
        ensure!(counted >= all, "{counted} of {all}");
        Ok(())
    })
    .with_context(|| host.log())?;
    let counted = positions(&client, "counter")?;
    for plugin in ["plane-tracker", "plane-utilisation"] {
        wait_until_ok(LOADED_WITHIN, "all events to be folded", || {
            let folded = positions(&client, plugin)?;
            let behind = folded.iter().zip(&counted).any(|(own, other)| own < other);
            ensure!(!behind, "{plugin}: {folded:?} of {counted:?}");
            Ok(())
        })
        .with_context(|| host.log())?;
    }
    Ok(())
}

/// Events counted by `counter`, over all planes.
fn counted(client: &Client) -> Result<u64> {
    let accept = [("accept", "application/x-ndjson")];
    let stream = client
        .get_with("/v1/views/counter/keys", &accept)?
        .expect_status(200)?;
    let mut sum = 0;
    for line in stream.text().lines() {
        let line: Value = serde_json::from_str(line)?;
        sum += number(&line["answer"]["count"]).unwrap_or(0);
    }
    Ok(sum)
}

/// Position of each partition, in order.
fn positions(client: &Client, plugin: &str) -> Result<Vec<Option<u64>>> {
    let reply = client
        .get(&format!("/v1/plugins/{plugin}"))?
        .expect_status(200)?;
    let plugin = reply.json()?;
    let partitions = plugin["partitions"].as_array().context("no `partitions`")?;
    partitions
        .iter()
        .map(|partition| {
            ensure!(partition["status"] != "blocked", "blocked: {reply:?}");
            Ok(number(&partition["position"]))
        })
        .collect()
}

/// Offsets that `counter` has folded, over all partitions: how far a replay has come.
fn progress(client: &Client) -> Result<u64> {
    let positions = positions(client, "counter")?;
    Ok(positions
        .iter()
        .flatten()
        .map(|position| position + 1)
        .sum())
}

/// Checks every answer about every plane; gives the answers' bytes.
fn check_every_plane(client: &Client, data: &Data) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut chance = ChaCha8Rng::seed_from_u64(2013);
    let mut bytes = BTreeMap::new();
    for plane in data.flights.planes() {
        let flights = data.flights.of(plane);
        let mut answers = Vec::new();

        let position = client.ask("plane-tracker", plane, "")?.expect_status(200)?;
        let expected = data.flights.position(plane);
        ensure!(
            Some(position.json()?) == expected,
            "{plane}: {position:?}, not {expected:?}"
        );
        answers.extend(position.body);

        // Whole span, and a window that begins and ends in the middle of things.
        let start = chance.random_range(data.from..data.to - DAY);
        let end = chance.random_range(start + 1..data.to);
        for (from, to) in [
            (data.from, data.to),
            (start / 1_000 * 1_000, end / 1_000 * 1_000 + 1_000),
        ] {
            let window = format!("?from={}&to={}", format_time(from), format_time(to));
            let rest = format!("/in-motion{window}");
            let reply = client
                .ask("plane-utilisation", plane, &rest)?
                .expect_status(200)?;
            check_motion(&reply.json()?, in_motion(&flights, from, to))
                .with_context(|| format!("{plane} {window}: {reply:?}"))?;
            answers.extend(reply.body);
        }

        let counted = client.ask("counter", plane, "")?.expect_status(200)?;
        ensure!(
            number(&counted.json()?["count"]) == Some(2 * u64::try_from(flights.len())?),
            "{plane} has {} flights, {counted:?}",
            flights.len()
        );
        answers.extend(counted.body);
        bytes.insert(plane.to_owned(), answers);
    }
    check_days(client, data)?;
    fleet::check_inboxes(client, &data.flights, LOADED_WITHIN)?;
    let unknown = client.ask("plane-tracker", "N0NE", "")?;
    unknown.expect_problem(404, "not-found")?;
    Ok(bytes)
}

/// Compares an answer of `plane-utilisation` with what was counted; the percentage may be rounded to
/// two places.
fn check_motion(answer: &Value, expected: InMotion) -> Result<()> {
    let millis = |field: &str| {
        answer[field]
            .as_i64()
            .with_context(|| format!("no `{field}`"))
    };
    ensure!(
        millis("in_motion_ms")? == expected.in_motion_ms,
        "{answer}, expected {expected:?}"
    );
    ensure!(
        millis("window_ms")? == expected.window_ms,
        "{answer}, expected {expected:?}"
    );
    ensure!(
        answer["flights"] == expected.flights,
        "{answer}, expected {expected:?}"
    );
    #[allow(clippy::cast_precision_loss)]
    let percent = 100.0 * expected.in_motion_ms as f64 / expected.window_ms as f64;
    let told = answer["percent"].as_f64().context("no `percent`")?;
    ensure!(
        (told - percent).abs() <= 0.005_001,
        "{answer}, expected {percent} percent"
    );
    Ok(())
}

/// Day by day, for one plane in twenty.
fn check_days(client: &Client, data: &Data) -> Result<()> {
    for plane in data.flights.planes().step_by(20) {
        let flights = data.flights.of(plane);
        let (from, to) = (data.from + DAY / 2, data.from + 20 * DAY + DAY / 3);
        let rest = format!("/by-day?from={}&to={}", format_time(from), format_time(to));
        let reply = client
            .ask("plane-utilisation", plane, &rest)?
            .expect_status(200)?;
        let answer = reply.json()?;
        let rows = answer
            .as_array()
            .or_else(|| answer["days"].as_array())
            .context("no rows")?;
        let expected = by_day(&flights, from, to);
        ensure!(
            rows.len() == expected.len(),
            "{} rows, not {}",
            rows.len(),
            expected.len()
        );
        for (row, (midnight, expected)) in rows.iter().zip(expected) {
            ensure!(row["day"] == format_time(midnight)[..10], "{row}");
            check_motion(row, expected).with_context(|| format!("{plane}: {row}"))?;
        }
    }
    Ok(())
}

/// Deploys `counter` on `flights` before anything is loaded, so that it sees every event.
fn deploy_counter(start: &Start) -> Result<()> {
    let host = start.ready()?;
    host.deploy_prebuilt("counter", "")?;
    ensure!(host.stop()? == 0);
    Ok(())
}

/// Kills the host at random points of the replay, then lets it finish.
fn demo_with_kills(data: &Data, start: &Start, kills: usize, seed: u64) -> Result<Host> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let all = u64::try_from(data.flights.event_count())?;
    let mut points: Vec<u64> = (0..kills).map(|_| chance.random_range(0..all)).collect();
    points.sort_unstable();
    let mut start = start.clone();
    for point in points {
        let host = start.listening()?;
        let client = host.client()?;
        wait_until_ok(LOADED_WITHIN, "the replay to get to its next kill", || {
            let folded = progress(&client)?;
            ensure!(folded >= point, "{folded} of {point}");
            Ok(())
        })
        .with_context(|| host.log())?;
        start = host.kill()?;
    }
    let host = start.listening()?;
    wait_folded(&host, data)?;
    // What was folded before the last kill is answered once the end of its partition was read again.
    for plugin in ["counter", "plane-tracker", "plane-utilisation"] {
        host.wait_caught_up(plugin, LOADED_WITHIN)?;
    }
    Ok(host)
}

#[test]
fn every_plane_agrees_on_both_logs_and_after_kills() -> Result<()> {
    let data = Data::of_this_run()?;
    let kills = if full() { 20 } else { 3 };

    let scratch = Scratch::new("flights-embedded")?;
    deploy_counter(&Start::serve(scratch.path()))?;
    let (took, host) = timed(|| -> Result<Host> {
        let host = data.demo(&scratch).listening()?;
        wait_folded(&host, &data)?;
        Ok(host)
    });
    let host = host?;
    println!(
        "embedded: {} events loaded and folded in {took:?}",
        data.flights.event_count()
    );
    let embedded = check_every_plane(&host.client()?, &data)?;
    ensure!(host.stop()? == 0);
    // A second run loads nothing twice: `counter` would show it.
    let host = data.demo(&scratch).ready()?;
    wait_folded(&host, &data)?;
    ensure!(
        check_every_plane(&host.client()?, &data)? == embedded,
        "a second run changed answers"
    );
    drop(host);

    let scratch = Scratch::new("flights-embedded-kills")?;
    deploy_counter(&Start::serve(scratch.path()))?;
    let host = demo_with_kills(&data, &data.demo(&scratch), kills, 1)?;
    ensure!(
        check_every_plane(&host.client()?, &data)? == embedded,
        "kills changed answers"
    );
    drop(host);

    let broker = kafka::shared()?;
    let scratch = Scratch::new("flights-kafka")?;
    broker.create_topic("flights", 4)?;
    let config = kafka_config(&scratch, &broker, "flights-a", &scratch.join("objects"))?;
    deploy_counter(&Start::serve(scratch.path()).config(&config))?;
    let host = demo_with_kills(&data, &data.demo(&scratch).config(&config), kills, 2)?;
    let on_kafka = check_every_plane(&host.client()?, &data)?;
    ensure!(on_kafka == embedded, "the two logs gave different bytes");
    Ok(())
}
