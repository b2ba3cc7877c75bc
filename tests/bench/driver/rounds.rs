//! The order of things: inputs, then rounds in which every contestant folds every input in turn, so that what
//! else the machine does meets all of them; restarts behind the passes over the larger input; queries last.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use foldhost_tests::kafka::Broker;
use foldhost_tests::paths::Scratch;
use foldhost_tests::wait::free_port;

use crate::args::Args;
use crate::child::{Contestant, Pass};
use crate::foldhost::Foldhost;
use crate::input::{Check, Input};
use crate::jvm::Jvm;
use crate::measure::median;
use crate::queries::{self, Target};
use crate::topic::{self, Steady};

/// Names of the figures, as in the JSON of medians.
pub(crate) mod figure {
    pub(crate) const THROUGHPUT: &str = "throughput";
    pub(crate) const CPU: &str = "cpu_s_per_million";
    pub(crate) const PEAK_RSS: &str = "peak_rss_bytes";
    pub(crate) const RESTART: &str = "restart_live_s_1m";
    pub(crate) const EMPTY: &str = "empty_live_s_1m";
    pub(crate) const P50_IDLE: &str = "query_p50_us_idle";
    pub(crate) const P99_IDLE: &str = "query_p99_us_idle";
    pub(crate) const P999_IDLE: &str = "query_p999_us_idle";
    pub(crate) const P50_LOAD: &str = "query_p50_us_load";
    pub(crate) const P99_LOAD: &str = "query_p99_us_load";
    pub(crate) const P999_LOAD: &str = "query_p999_us_load";
    pub(crate) const LOAD: &str = "query_load_events_per_s";
    pub(crate) const PER_CPU: &str = "query_per_s";
}

/// How long queries are asked for one figure.
const QUERIES_LAST: Duration = Duration::from_secs(10);
const QUERIES_LAST_QUICK: Duration = Duration::from_secs(4);
/// Between the last event and a kill: everybody has committed all by then, so that a start finds as much as it
/// can.
const COMMITTED_AFTER: Duration = Duration::from_secs(4);
/// How long events come, at least, before queries under load are counted.
const WARM: Duration = Duration::from_secs(3);
/// Keys that come last for the first time: where these have a state, all have, since some are of each partition.
const LAST_NEW_KEYS: u64 = 64;
/// Until these have come.
const KEYS_WITHIN: Duration = Duration::from_secs(300);

/// Who takes part, in order.
const CONTESTANTS: [(&str, Who); 6] = [
    ("limit", Who::Limit),
    (
        "kafka-streams-1",
        Who::Jvm(Jvm::KafkaStreams { threads: 1 }),
    ),
    (
        "kafka-streams-2",
        Who::Jvm(Jvm::KafkaStreams { threads: 2 }),
    ),
    ("flink-heap", Who::Jvm(Jvm::Flink { backend: "heap" })),
    ("flink-rocksdb", Who::Jvm(Jvm::Flink { backend: "rocksdb" })),
    ("foldhost", Who::Foldhost),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Limit,
    Jvm(Jvm),
    Foldhost,
}

/// All values of every figure: by figure, by contestant.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) figures: BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>,
    pub(crate) settings: BTreeMap<&'static str, Value>,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<String>,
}

impl Measured {
    /// Adds a value of a figure, and says so.
    pub(crate) fn add(&mut self, figure: &str, contestant: &'static str, value: f64) {
        eprintln!("bench:   {contestant}: {figure} {value:.3}");
        let of_figure = self.figures.entry(figure.to_owned()).or_default();
        of_figure.entry(contestant).or_default().push(value);
    }

    fn add_pass(&mut self, contestant: &'static str, input: &Input, pass: Pass) {
        let name = |figure| format!("{figure}_{}", input.name);
        self.add(&name(figure::THROUGHPUT), contestant, pass.events_per_s);
        self.add(&name(figure::CPU), contestant, pass.cpu_s_per_million);
        self.add(&name(figure::PEAK_RSS), contestant, pass.peak_rss_bytes);
    }

    /// Keeps what a contestant said of its settings.
    pub(crate) fn add_settings(&mut self, contestant: &'static str, child: &mut Contestant) {
        let settings = child.settings.take();
        self.settings
            .extend(settings.map(|settings| (contestant, settings)));
    }

    /// A figure of `one` in that of `other`, round by round; empty where one of them has none.
    pub(crate) fn ratios(&self, figure: &str, one: &str, other: &str) -> Vec<f64> {
        let pairs = self.values(figure, one).iter();
        let pairs = pairs.zip(self.values(figure, other));
        pairs.map(|(one, other)| one / other).collect()
    }

    /// The middle value of a figure.
    pub(crate) fn median(&self, figure: &str, contestant: &str) -> Option<f64> {
        median(self.values(figure, contestant))
    }

    /// A figure's values, in the order of the rounds.
    fn values(&self, figure: &str, contestant: &str) -> &[f64] {
        let by_contestant = self.figures.get(figure);
        by_contestant
            .and_then(|by| by.get(contestant))
            .map_or(&[], Vec::as_slice)
    }
}

/// Everything.
///
/// # Errors
/// If a contestant does not start, does not end, or ends with another state than it must.
pub(crate) fn run(args: &Args) -> Result<Measured> {
    let bench = Bench {
        args,
        broker: Broker::start()?,
        scratch: Scratch::new("bench")?,
    };
    let inputs = [
        Input::new("100k", 100_000, args.events),
        Input::new("1m", 1_000_000, args.events),
    ];
    let mut checks = Vec::new();
    for input in &inputs {
        eprintln!(
            "bench: writing {} events into {}",
            input.events, input.topic
        );
        topic::fill(&bench.broker, input)?;
        checks.push(input.check());
    }
    let mut measured = Measured::default();
    for round in 1..=args.rounds {
        for (input, check) in inputs.iter().zip(&checks) {
            for (name, who) in CONTESTANTS.iter().filter(|(name, _)| args.takes(name)) {
                eprintln!("bench: round {round}, {}: {name}", input.name);
                let group = format!("{name}-{}-{round}", input.name);
                let turn = Turn {
                    name,
                    input,
                    check: *check,
                    folder: bench.scratch.join(&group),
                    group,
                };
                let passed = bench.pass(&turn, *who, &mut measured);
                passed.with_context(|| format!("{name} on {}", input.topic))?;
            }
        }
    }
    let [_, large] = &inputs;
    for (name, who) in CONTESTANTS.iter().filter(|(name, _)| args.takes(name)) {
        eprintln!("bench: queries: {name}");
        // What the rounds gave, in half an hour, is worth a report without these.
        if let Err(error) = bench.queries(name, *who, large, &mut measured) {
            let missing = format!("queries of {name}: {error:#}");
            eprintln!("bench: {missing}");
            measured.missing.push(missing);
        }
    }
    Ok(measured)
}

struct Bench<'a> {
    args: &'a Args,
    broker: Broker,
    scratch: Scratch,
}

/// Whether starting again is measured behind a pass over this input.
fn is_restarted(input: &Input) -> bool {
    input.keys >= 1_000_000
}

/// One contestant's pass over one input, with a group (or cluster) and a folder of its own: nothing is left of
/// the pass before.
struct Turn<'a> {
    name: &'static str,
    input: &'a Input,
    check: Check,
    group: String,
    folder: PathBuf,
}

impl Turn<'_> {
    fn start(&self, command: Command) -> Result<Contestant> {
        Contestant::start(self.name, command, &self.folder.join("log"))
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }
}

impl Bench<'_> {
    fn pass(&self, turn: &Turn<'_>, who: Who, measured: &mut Measured) -> Result<()> {
        fs::create_dir_all(&turn.folder)?;
        match who {
            Who::Limit => self.limit(turn, measured)?,
            Who::Jvm(jvm @ Jvm::KafkaStreams { .. }) => self.streams(turn, jvm, measured)?,
            Who::Jvm(jvm @ Jvm::Flink { backend }) => self.flink(turn, jvm, backend, measured)?,
            Who::Foldhost => self.foldhost(turn, measured)?,
        }
        fs::remove_dir_all(&turn.folder)?;
        Ok(())
    }

    fn limit(&self, turn: &Turn<'_>, measured: &mut Measured) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["limit", "--bootstrap", &self.broker.bootstrap()]);
        command.args(["--topic", &turn.input.topic]);
        command.args(["--expect", &turn.input.events.to_string()]);
        let mut child = turn.start(command)?;
        let pass = child.wait_done(turn.input.events)?;
        measured.add_pass(turn.name, turn.input, pass);
        child.stop()
    }

    fn streams(&self, turn: &Turn<'_>, jvm: Jvm, measured: &mut Measured) -> Result<()> {
        let start = || {
            let state = turn.state();
            turn.start(jvm.fold(self.args, &self.broker, turn.input, &turn.group, &state)?)
        };
        let mut child = start()?;
        let pass = child.wait_done(turn.input.events)?;
        measured.add_pass(turn.name, turn.input, pass);
        child.tell("check")?;
        turn.check.expect(child.check()?)?;
        measured.add_settings(turn.name, &mut child);
        if !is_restarted(turn.input) {
            return child.stop();
        }
        std::thread::sleep(COMMITTED_AFTER);
        child.kill()?;
        let mut child = start()?;
        measured.add(figure::RESTART, turn.name, child.seconds_to("live")?);
        child.tell("check")?;
        turn.check.expect(child.check()?)?;
        child.stop()?;
        fs::remove_dir_all(turn.state())?;
        let mut child = start()?;
        measured.add(figure::EMPTY, turn.name, child.seconds_to("live")?);
        child.stop()
    }

    fn flink(
        &self,
        turn: &Turn<'_>,
        jvm: Jvm,
        backend: &str,
        measured: &mut Measured,
    ) -> Result<()> {
        let state = turn.state();
        let fold = || jvm.fold(self.args, &self.broker, turn.input, &turn.group, &state);
        let mut child = turn.start(fold()?)?;
        let pass = child.wait_done(turn.input.events)?;
        measured.add_pass(turn.name, turn.input, pass);
        measured.add_settings(turn.name, &mut child);
        if is_restarted(turn.input) {
            std::thread::sleep(COMMITTED_AFTER);
            child.kill()?;
            let mut command = fold()?;
            command.args(["--restore", "latest"]);
            child = turn.start(command)?;
            measured.add(figure::RESTART, turn.name, child.seconds_to("live")?);
        }
        child.tell("checkpoint")?;
        let saved = child.wait("checkpoint")?;
        let path = saved["path"]
            .as_str()
            .context("a checkpoint without a path")?;
        let verify = jvm.verify(self.args, path, backend, &state)?;
        child.stop()?;
        turn.check.expect(turn.start(verify)?.check()?)
    }

    fn foldhost(&self, turn: &Turn<'_>, measured: &mut Measured) -> Result<()> {
        let mut host = Foldhost::start(&self.broker, &turn.group, &turn.folder)?;
        let pass = host.fold(self.args, turn.input)?;
        measured.add_pass(turn.name, turn.input, pass);
        turn.check.expect(host.check()?)?;
        if !is_restarted(turn.input) {
            return Ok(());
        }
        std::thread::sleep(COMMITTED_AFTER);
        let (host, seconds) = host.restart_killed(turn.input)?;
        measured.add(figure::RESTART, turn.name, seconds);
        turn.check.expect(host.check()?)?;
        let (host, seconds) = host.restart_empty(turn.input)?;
        measured.add(figure::EMPTY, turn.name, seconds);
        turn.check.expect(host.check()?)
    }

    /// Queries of those who answer any: idle over what is folded, then while events come at half of the
    /// contestant's own speed.
    fn queries(
        &self,
        name: &'static str,
        who: Who,
        input: &Input,
        measured: &mut Measured,
    ) -> Result<()> {
        let lasts = if self.args.quick {
            QUERIES_LAST_QUICK
        } else {
            QUERIES_LAST
        };
        let group = format!("{name}-queries");
        let folder = self.scratch.join(&group);
        fs::create_dir_all(&folder)?;
        let live = Input {
            topic: format!("bench-{group}"),
            // More than ever come, in a number that Java knows.
            events: u64::MAX / 2,
            ..input.clone()
        };
        match who {
            Who::Foldhost => {
                let mut host = Foldhost::start(&self.broker, &group, &folder)?;
                host.fold(self.args, input)?;
                let target = Target {
                    address: host.address().to_owned(),
                    path_of: Foldhost::path_of,
                    process: host.process(),
                };
                self.idle(name, &target, input, lasts, measured)?;
                drop(host);
                self.broker.create_topic(&live.topic, topic::PARTITIONS)?;
                let mut host =
                    Foldhost::start(&self.broker, &format!("{group}-load"), &folder.join("load"))?;
                host.deploy(self.args, &live)?;
                let target = Target {
                    address: host.address().to_owned(),
                    process: host.process(),
                    ..target
                };
                self.load(name, &target, input, &live, lasts, measured)
            }
            Who::Jvm(jvm @ Jvm::KafkaStreams { threads: 2 }) => {
                let start = |input: &Input, group: &str| -> Result<(Contestant, Target)> {
                    let port = free_port()?;
                    let mut command =
                        jvm.fold(self.args, &self.broker, input, group, &folder.join(group))?;
                    command.args(["--http-port", &port.to_string()]);
                    let child = Contestant::start(name, command, &folder.join("log"))?;
                    let target = Target {
                        address: format!("127.0.0.1:{port}"),
                        path_of: |key| format!("/keys/{key}"),
                        process: child.process(),
                    };
                    Ok((child, target))
                };
                let (mut child, target) = start(input, &group)?;
                child.wait("done")?;
                self.idle(name, &target, input, lasts, measured)?;
                child.stop()?;
                self.broker.create_topic(&live.topic, topic::PARTITIONS)?;
                let (mut child, target) = start(&live, &format!("{group}-load"))?;
                child.wait("live")?;
                self.load(name, &target, input, &live, lasts, measured)?;
                child.stop()
            }
            Who::Limit => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("limit-http");
                let mut child = Contestant::start(name, command, &folder.join("log"))?;
                let started = child.wait("started")?;
                let address = started["address"].as_str().context("no address")?;
                let target = Target {
                    address: address.to_owned(),
                    path_of: Foldhost::path_of,
                    process: child.process(),
                };
                self.idle(name, &target, input, lasts, measured)?;
                child.stop()
            }
            Who::Jvm(_) => Ok(()),
        }
    }

    fn idle(
        &self,
        name: &'static str,
        target: &Target,
        input: &Input,
        lasts: Duration,
        measured: &mut Measured,
    ) -> Result<()> {
        let latency = queries::latency(target, input, lasts)?;
        measured.add(figure::P50_IDLE, name, latency.p50_us);
        measured.add(figure::P99_IDLE, name, latency.p99_us);
        measured.add(figure::P999_IDLE, name, latency.p999_us);
        measured.add(
            figure::PER_CPU,
            name,
            queries::per_cpu_second(target, input, lasts)?,
        );
        Ok(())
    }

    fn load(
        &self,
        name: &'static str,
        target: &Target,
        input: &Input,
        live: &Input,
        lasts: Duration,
        measured: &mut Measured,
    ) -> Result<()> {
        let top = measured.median(&format!("{}_{}", figure::THROUGHPUT, input.name), name);
        let top = top.context("its throughput is not known")?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a pace"
        )]
        let events = Steady::start(&self.broker, live, (top / 2.0) as u64)?;
        std::thread::sleep(WARM);
        // Every key has come once before any is asked about.
        let first = input.keys.saturating_sub(LAST_NEW_KEYS);
        let last = (first..input.keys).map(|n| live.key_of(n));
        let latency = queries::wait_for_keys(target, last, KEYS_WITHIN)
            .and_then(|()| queries::latency(target, input, lasts));
        let events_per_s = events.finish()?;
        let latency = latency?;
        measured.add(figure::P50_LOAD, name, latency.p50_us);
        measured.add(figure::P99_LOAD, name, latency.p99_us);
        measured.add(figure::P999_LOAD, name, latency.p999_us);
        measured.add(figure::LOAD, name, events_per_s);
        Ok(())
    }
}
