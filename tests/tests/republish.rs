//! What a republisher publishes is there exactly once and in order, whatever happens: the host is killed at
//! random moments, the broker dies, code is swapped, rebuilt and rolled back while records keep coming, a host
//! that was taken for dead wakes up. Judged by an independent `read_committed` consumer. Seeded; more and
//! longer with `tests/run --full`.

#![allow(
    clippy::print_stderr,
    reason = "figures for whoever runs it with --nocapture"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::feed::{Feed, Pace, counted, expect_counts};
use foldhost_tests::full;
use foldhost_tests::host::{Host, Start, kafka_config};
use foldhost_tests::http::{Client, number};
use foldhost_tests::kafka::flow::Flow;
use foldhost_tests::kafka::{self, Broker};
use foldhost_tests::load::Target;
use foldhost_tests::operate::{
    count_of, deploy, partitions, plugin, rollback, settled, version, wait_serving,
};
use foldhost_tests::paths::Scratch;
use foldhost_tests::running_count::{self, Inputs};
use foldhost_tests::topic;
use foldhost_tests::wait::{Stopwatch, let_pass, wait_until_ok};
use foldhost_tests::wasm;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const NAME: &str = "running-count";
const INPUT: &str = "flights";
const OUTPUT: &str = "counts";
const PARTITIONS: usize = 4;
const KEYS: u64 = 400;
const RECORDS_PER_SECOND: u64 = 2_000;
/// So many records keep every partition busy.
const A_FEW: u64 = 1_000;
/// A host that was killed is itself again, a group has found a new owner: long before, on an idle machine.
const WITHIN: Duration = Duration::from_secs(180);

/// Records that keep coming.
enum Coming {
    Kafka(Flow),
    Embedded(Feed),
}

impl Coming {
    fn wait_more(&self, records: u64) -> Result<()> {
        match self {
            Self::Kafka(flow) => flow.wait_more(records, WITHIN),
            Self::Embedded(feed) => feed.wait_more(records, WITHIN),
        }
    }

    /// Stops, and gives how many were written.
    fn finish(self) -> Result<u64> {
        match self {
            Self::Kafka(flow) => flow.finish(),
            Self::Embedded(feed) => Ok(feed.finish()?.written),
        }
    }
}

/// One host, the log that it works on, and what was deployed.
struct Bed {
    start: Start,
    host: Option<Host>,
    /// `None` = the embedded log.
    broker: Option<Broker>,
    target: Target,
    coming: Option<Coming>,
    /// The word of each deployment.
    words: Vec<String>,
    /// Number of the last deployment.
    deployment: u64,
    chance: ChaCha8Rng,
    /// After `broker`, which is stopped first.
    _scratch: Scratch,
}

impl Bed {
    /// A host with the first deployment, on Kafka or on the embedded log.
    fn new(name: &str, broker: Option<Broker>, seed: u64) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let mut start = Start::serve(scratch.path());
        if let Some(broker) = &broker {
            broker.create_topic(INPUT, i32::try_from(PARTITIONS)?)?;
            start = start.config(&kafka_config(
                &scratch,
                broker,
                name,
                &scratch.join("objects"),
            )?);
        }
        let host = start.ready()?;
        let mut bed = Self {
            start,
            target: Target::new(&host.client()?),
            host: Some(host),
            broker,
            coming: None,
            words: Vec::new(),
            deployment: 0,
            chance: ChaCha8Rng::seed_from_u64(seed),
            _scratch: scratch,
        };
        bed.deploy("")?;
        wait_serving(&bed.client()?, NAME, bed.deployment, WITHIN)?;
        Ok(bed)
    }

    fn host(&self) -> Result<&Host> {
        self.host.as_ref().context("the host is down")
    }

    fn client(&self) -> Result<Client> {
        self.host()?.client()
    }

    /// From now on, records come in.
    fn flow(&mut self) -> Result<()> {
        self.coming = Some(match &self.broker {
            Some(broker) => Coming::Kafka(Flow::start(broker, INPUT, KEYS, RECORDS_PER_SECOND)?),
            None => {
                let records =
                    (0_u64..).map(|n| json!({"key": format!("k{}", n * 7_919 % KEYS), "value": n}));
                let pace = Pace {
                    batch: 50,
                    per_second: RECORDS_PER_SECOND,
                };
                Coming::Embedded(Feed::start(&self.target, INPUT, Box::new(records), pace))
            }
        });
        Ok(())
    }

    fn wait_more(&self, records: u64) -> Result<()> {
        let coming = self.coming.as_ref().context("no record comes")?;
        coming.wait_more(records)
    }

    /// Deploys the next version, with a word of its own; `state` is empty or more parameters. Gives what
    /// became of it.
    fn deploy(&mut self, state: &str) -> Result<String> {
        let number = self.words.len();
        let wasm = version(NAME, &format!("1.{number}.0"))?;
        let wasm = wasm::with_field(&wasm, "keep-generations", "1")?;
        let word = format!("word-{number}");
        let done = deploy(
            &self.client()?,
            NAME,
            &format!("set=word={word}{state}"),
            &wasm,
        )?;
        self.words.push(word);
        self.deployment = done.deployment;
        Ok(done.outcome)
    }

    /// Waits until every partition runs the last deployment and nothing is under way, whatever lag there is.
    fn wait_current(&self) -> Result<()> {
        let client = self.client()?;
        wait_until_ok(WITHIN, "the last deployment to run everywhere", || {
            let plugin = plugin(&client, NAME)?;
            let of_last = |it: &Value| number(&it["deployment"]) == Some(self.deployment);
            let runs = |it: &Value| it["status"] == "live" && of_last(it);
            let all = of_last(&plugin) && partitions(&plugin)?.iter().all(runs);
            let is_quiet = plugin["building"].is_null() && plugin["retiring"].is_null();
            ensure!(is_quiet && all, "{plugin}");
            Ok(())
        })
        .with_context(|| self.host.as_ref().map(Host::log_tail).unwrap_or_default())
    }

    /// Waits until the last deployment runs everywhere, and has published to every partition of the topic:
    /// one that is live may still have to take over from the one before it.
    fn wait_told(&self, output: &str) -> Result<()> {
        self.wait_current()?;
        let last = self.words.last().context("nothing is deployed")?;
        wait_until_ok(WITHIN, "its word to be everywhere", || {
            let lasts = match &self.broker {
                Some(broker) => running_count::lasts_on_kafka(broker, output)?,
                None => running_count::lasts_over_http(&self.client()?, output)?,
            };
            let everywhere = lasts.len() == PARTITIONS && lasts.values().all(|word| word == last);
            ensure!(everywhere, "{lasts:?}, not {last} everywhere");
            Ok(())
        })
        .with_context(|| self.host.as_ref().map(Host::log_tail).unwrap_or_default())
    }

    /// A random time up to `max_ms` later, the host dies and is started again.
    fn kill_within(&mut self, max_ms: u64) -> Result<()> {
        let_pass(Duration::from_millis(self.chance.random_range(0..max_ms)));
        self.target.down();
        let host = self.host.take().context("the host is down")?;
        self.start = host.kill()?;
        let host = self.start.listening()?;
        self.target.up(&host.client()?);
        self.host = Some(host);
        Ok(())
    }

    /// Waits until all is published to a topic, and judges it: these words followed on each other.
    fn check(mut self, output: &str, words: &[String]) -> Result<()> {
        let written = self.coming.take().context("no record came")?.finish()?;
        let client = self.client()?;
        let inputs = match &self.broker {
            Some(broker) => Inputs::on_kafka(broker, INPUT)?,
            None => Inputs::over_http(&client, INPUT)?,
        };
        ensure!(
            inputs.total() as u64 == written,
            "the input is off: {written} were written"
        );
        wait_until_ok(WITHIN, "all to be folded", || settled(&client, NAME))
            .with_context(|| self.host.as_ref().map(Host::log_tail).unwrap_or_default())?;
        let published = match &self.broker {
            Some(broker) => {
                wait_published(broker, output, inputs.total())?;
                running_count::on_kafka(broker, output)?
            }
            None => {
                wait_until_ok(WITHIN, "all to be published", || {
                    let end = topic::end(&client, output)?;
                    ensure!(end >= inputs.total() as u64, "{end} of {}", inputs.total());
                    Ok(())
                })?;
                running_count::over_http(&client, output)?
            }
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        running_count::check(&inputs, &published, &words)
            .with_context(|| self.host.as_ref().map(Host::log_tail).unwrap_or_default())?;
        eprintln!("{} records of {words:?}, each once", published.len());
        expect_counts(&client, NAME, &inputs.counts())
    }
}

/// Waits until a topic has so many committed records; whether they are the right ones is not asked here.
fn wait_published(broker: &Broker, topic: &str, records: usize) -> Result<()> {
    wait_until_ok(WITHIN, "all to be published", || {
        let published = broker.read_all(topic)?.len();
        ensure!(published >= records, "{published} of {records}");
        Ok(())
    })
}

/// What happens before the host is killed.
#[derive(Debug, Clone, Copy)]
enum Change {
    Nothing,
    Swap,
    Rebuild,
    BrokerRestarts,
    BrokerDies,
}

/// One round each; over and over again in the long form.
const CYCLE: [Change; 6] = [
    Change::Nothing,
    Change::Swap,
    Change::BrokerRestarts,
    Change::Rebuild,
    Change::Nothing,
    Change::BrokerDies,
];

/// As long as a host lives at most after what happened: opening takes about a second of it.
const LIVES_MS: u64 = 2_500;

fn one_round(bed: &mut Bed, change: Change) -> Result<()> {
    match change {
        Change::Nothing => {}
        Change::Swap | Change::Rebuild => {
            bed.wait_told(OUTPUT)?;
            let (state, expected) = match change {
                Change::Swap => ("&state=keep", "swapped"),
                _ => ("&state=rebuild", "building"),
            };
            let outcome = bed.deploy(state)?;
            ensure!(outcome == expected, "{outcome}, not {expected}");
        }
        Change::BrokerRestarts | Change::BrokerDies => {
            let Some(broker) = &mut bed.broker else {
                return bed.kill_within(LIVES_MS);
            };
            match change {
                Change::BrokerDies => broker.kill()?,
                _ => broker.stop()?,
            }
            let away = bed.chance.random_range(0..2_000);
            let_pass(Duration::from_millis(away));
            broker.restart()?;
        }
    }
    bed.kill_within(LIVES_MS)
}

/// Kills under flowing records, with everything else in between; then every output is looked at.
fn verify(name: &str, broker: Option<Broker>, seed: u64) -> Result<()> {
    let kills = if full() { 20 } else { 6 };
    let mut bed = Bed::new(name, broker, seed)?;
    bed.flow()?;
    bed.wait_more(A_FEW)?;
    for (round, change) in CYCLE.into_iter().cycle().take(kills).enumerate() {
        let since = Stopwatch::start();
        one_round(&mut bed, change).with_context(|| format!("round {round}, {change:?}"))?;
        eprintln!("round {round}, {change:?}: {:.1?}", since.elapsed());
    }
    bed.wait_told(OUTPUT)?;
    let words = bed.words.clone();
    bed.check(OUTPUT, &words)
}

#[test]
fn every_output_is_there_once_on_kafka() -> Result<()> {
    verify("verified", Some(Broker::start()?), 61)
}

#[test]
fn every_output_is_there_once_on_the_embedded_log() -> Result<()> {
    verify("verified-embedded", None, 62)
}

/// A build-up that takes a moment while records keep coming, and a way back to what was kept of the old one.
fn rebuild_and_roll_back(name: &str, broker: Option<Broker>, seed: u64) -> Result<()> {
    let rounds = if full() { 5 } else { 1 };
    let mut bed = Bed::new(name, broker, seed)?;
    bed.flow()?;
    bed.wait_more(A_FEW * 8)?;
    for round in 0..rounds {
        let client = bed.client()?;
        let kept = count_of(&plugin(&client, NAME)?, "generation")?;
        let outcome = bed.deploy("&state=rebuild")?;
        ensure!(outcome == "building", "{outcome}");
        bed.wait_told(OUTPUT)?;
        // Until the old generation has gone from every partition, a second change is refused.
        let back = wait_until_ok(WITHIN, "the rollback to be taken", || {
            rollback(&client, NAME, "")
        })?;
        ensure!(
            back.generation == kept,
            "not the one that was kept: {back:?}"
        );
        bed.deployment = back.deployment;
        let word = bed.words[bed.words.len() - 2].clone();
        bed.words.push(word);
        bed.wait_told(OUTPUT)
            .with_context(|| format!("round {round}, {back:?}"))?;
    }
    let words = bed.words.clone();
    bed.check(OUTPUT, &words)
}

#[test]
fn a_rebuild_and_a_rollback_under_load_publish_nothing_twice_on_kafka() -> Result<()> {
    rebuild_and_roll_back("rebuilt", Some(Broker::start()?), 63)
}

#[test]
fn a_rebuild_and_a_rollback_under_load_publish_nothing_twice_on_the_embedded_log() -> Result<()> {
    rebuild_and_roll_back("rebuilt-embedded", None, 64)
}

#[test]
fn a_new_topic_gets_everything_and_later_code_goes_on_in_it() -> Result<()> {
    const NEW: &str = "counts-2";
    let mut bed = Bed::new("from-earliest", None, 65)?;
    bed.flow()?;
    bed.wait_more(A_FEW * 4)?;
    // Both before and after it is promoted, it is the only one that publishes there.
    bed.deploy(&format!(
        "&state=rebuild&emit_from=earliest&topic={OUTPUT}={NEW}"
    ))?;
    bed.wait_told(NEW)?;
    bed.deploy(&format!("&state=rebuild&topic={OUTPUT}={NEW}"))?;
    bed.wait_told(NEW)?;
    let words = bed.words[1..].to_vec();
    bed.check(NEW, &words)
}

/// Two hosts of one cluster with a plugin that publishes under names of its own.
struct Pair<'a> {
    broker: &'a Broker,
    hosts: Vec<Host>,
    input: String,
    output: String,
    /// After the hosts, which are stopped first.
    scratch: Scratch,
    name: &'static str,
}

impl<'a> Pair<'a> {
    /// Both hosts, each with half of the partitions.
    fn new(broker: &'a Broker, name: &'static str, commit_interval: &str) -> Result<Self> {
        let mut pair = Self {
            broker,
            hosts: Vec::new(),
            input: format!("{name}-{INPUT}"),
            output: format!("{name}-{OUTPUT}"),
            scratch: Scratch::new(name)?,
            name,
        };
        broker.create_topic(&pair.input, i32::try_from(PARTITIONS)?)?;
        pair.hosts.push(pair.start("a")?.ready()?);
        let topics = format!(
            "topic={INPUT}={}&topic={OUTPUT}={}",
            pair.input, pair.output
        );
        let wasm = version(NAME, "1.0.0")?;
        let wasm = wasm::with_field(&wasm, "commit-interval", commit_interval)?;
        let client = pair.hosts[0].client()?;
        let done = deploy(&client, NAME, &topics, &wasm)?.expect(201, "created")?;
        wait_serving(&client, NAME, done.deployment, WITHIN)?;
        pair.hosts.push(pair.start("b")?.ready()?);
        pair.wait_shared()?;
        Ok(pair)
    }

    fn start(&self, host: &str) -> Result<Start> {
        let folder: &Path = &self.scratch.join(host);
        std::fs::create_dir_all(folder)?;
        let objects = self.scratch.join("objects");
        let config = kafka_config(&self.scratch, self.broker, self.name, &objects)?;
        Ok(Start::serve(folder).config(&config))
    }

    /// Waits until each host has half of the partitions.
    fn wait_shared(&self) -> Result<()> {
        wait_until_ok(WITHIN, "both hosts to have their share", || {
            let mut all = BTreeMap::new();
            for host in &self.hosts {
                let live = live(host)?;
                ensure!(live.len() == PARTITIONS / 2, "{live:?}");
                all.extend(live);
            }
            ensure!(all.len() == PARTITIONS, "two have the same: {all:?}");
            Ok(())
        })
        .with_context(|| self.logs())
    }

    fn logs(&self) -> String {
        let tails: Vec<String> = self.hosts.iter().map(Host::log_tail).collect();
        tails.join("\n--\n")
    }

    /// How many records of these partitions are published.
    fn published(&self, of: &BTreeMap<u64, u64>) -> Result<u64> {
        let records = self.broker.read_all(&self.output)?;
        let of_these = records
            .iter()
            .filter(|it| u64::try_from(it.partition).is_ok_and(|it| of.contains_key(&it)));
        Ok(of_these.count() as u64)
    }

    /// A host is stopped where it is, the other one takes over and works, the first one goes on as if
    /// nothing had been. Gives how much the first one had folded, and not published, when it was stopped.
    fn one_turn(&mut self, flow: &Flow, zombie: usize) -> Result<u64> {
        // Longer than a commit interval: each owner publishes something before it is stopped.
        flow.wait_more(A_FEW * 2, WITHIN)?;
        let had = live(&self.hosts[zombie])?;
        self.hosts[zombie].process().signal("STOP")?;
        // What a partition has published lies in the one of the same number: same keys, same count.
        let folded: u64 = had.values().sum();
        let unsent = folded.saturating_sub(self.published(&had)?);
        let heir = &self.hosts[1 - zombie];
        wait_until_ok(WITHIN, "the other host to take over", || {
            let live = live(heir)?;
            ensure!(live.len() == PARTITIONS, "{live:?}");
            Ok(())
        })
        .with_context(|| self.logs())?;
        flow.wait_more(A_FEW, WITHIN)?;
        self.hosts[zombie].process().signal("CONT")?;
        flow.wait_more(A_FEW, WITHIN)?;
        self.wait_shared()?;
        Ok(unsent)
    }

    /// All is published once, and every key has its count: where it is now, and in what is stored.
    fn check(mut self, flow: Flow) -> Result<()> {
        let written = flow.finish()?;
        let inputs = Inputs::on_kafka(self.broker, &self.input)?;
        ensure!(
            inputs.total() as u64 == written,
            "the input is off: {written} were written"
        );
        wait_published(self.broker, &self.output, inputs.total()).with_context(|| self.logs())?;
        let published = running_count::on_kafka(self.broker, &self.output)?;
        running_count::check(&inputs, &published, &["counted"]).with_context(|| self.logs())?;
        let clients = self.hosts.iter().map(Host::client);
        let clients: Vec<Client> = clients.collect::<Result<_>>()?;
        wait_until_ok(WITHIN, "each key to have its count", || {
            for (key, count) in inputs.counts() {
                let answer = answer(&clients, &key)?;
                ensure!(answer == Some(count), "{key}: {answer:?}, not {count}");
            }
            Ok(())
        })?;
        for host in self.hosts.drain(..) {
            ensure!(host.stop()? == 0);
        }
        let host = self.start("a")?.ready()?;
        host.wait_caught_up(NAME, WITHIN)?;
        expect_counts(&host.client()?, NAME, &inputs.counts())
    }
}

/// The partitions that a host has, each with the offset up to which it has folded.
fn live(host: &Host) -> Result<BTreeMap<u64, u64>> {
    let plugin = plugin(&host.client()?, NAME)?;
    let mut live = BTreeMap::new();
    for partition in partitions(&plugin)? {
        if partition["status"] == "live" && partition["degraded"] != true {
            let next = number(&partition["position"]).map_or(0, |position| position + 1);
            live.insert(count_of(partition, "partition")?, next);
        }
    }
    Ok(live)
}

/// The count of a key, by whichever host has it.
fn answer(clients: &[Client], key: &str) -> Result<Option<u64>> {
    for client in clients {
        let reply = client.ask(NAME, key, "")?;
        if reply.status != 421 {
            return counted(client, NAME, key);
        }
    }
    Ok(None)
}

/// Each host is the zombie in turn; if `needs_unsent`, until one was stopped with work that it had not
/// published. It may have published all of it between the question what it has folded and the stop.
fn zombies(name: &'static str, commit_interval: &str, needs_unsent: bool) -> Result<Vec<u64>> {
    const TURNS_MAX: usize = 8;
    let turns = if full() { TURNS_MAX } else { 2 };
    let broker = kafka::shared()?;
    let mut pair = Pair::new(&broker, name, commit_interval)?;
    let flow = Flow::start(&broker, &pair.input, KEYS, RECORDS_PER_SECOND)?;
    let mut unsent: Vec<u64> = Vec::new();
    for turn in 0..TURNS_MAX {
        let goes_on = needs_unsent && unsent.iter().all(|unsent| *unsent == 0);
        if turn >= turns && !goes_on {
            break;
        }
        let since = Stopwatch::start();
        let of_turn = pair.one_turn(&flow, turn % 2);
        unsent.push(of_turn.with_context(|| format!("turn {turn}"))?);
        eprintln!("turn {turn}: {:.1?}, unsent {unsent:?}", since.elapsed());
    }
    pair.check(flow)?;
    Ok(unsent)
}

#[test]
fn a_zombie_publishes_nothing() -> Result<()> {
    zombies("zombie", "\"50ms\"", false).map(drop)
}

#[test]
fn a_zombie_with_unsent_work_publishes_nothing_of_it() -> Result<()> {
    // Long enough that there is always some, and that it is due once the host goes on.
    let unsent = zombies("unsent", "\"1s\"", true)?;
    ensure!(
        unsent.iter().any(|unsent| *unsent > 0),
        "all was sent: {unsent:?}"
    );
    Ok(())
}
