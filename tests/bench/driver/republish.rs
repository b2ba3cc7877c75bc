//! What a published record costs: every contestant publishes, for each event, how many its key has had by then,
//! under the same key and exactly once. The mode `--republish` of the driver.
//!
//! Times are those at which records can be seen by whoever reads committed ones only, and the same look at the
//! output's end serves every contestant.
//!
//! Invariant: nothing is reported of a contestant whose output was not found to be right.

mod limit;
mod output;

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use foldhost_tests::kafka::Broker;
use foldhost_tests::paths::Scratch;

use crate::args::Args;
use crate::child::Contestant;
use crate::foldhost::Foldhost;
use crate::input::Input;
use crate::jvm::Jvm;
use crate::report::{self, Ratio, machine};
use crate::rounds::Measured;
use crate::topic::{self, PARTITIONS};

pub(crate) use limit::run as limit;
use output::{Output, Published};

/// Names of the figures, as in the JSON of medians.
mod figure {
    pub(super) const RATE: &str = "events_per_s";
    pub(super) const CPU: &str = "cpu_us_per_event";
    pub(super) const CPU_WITH_START: &str = "cpu_us_per_event_with_start";
    pub(super) const PEAK_RSS: &str = "peak_rss_bytes";
}

const KEYS: u64 = 100_000;
/// What foldhost commits by where a manifest says nothing: the others are told to do the same.
const COMMIT_EVERY: Duration = Duration::from_millis(200);
/// Name under which the republisher runs.
const PLUGIN: &str = "count-and-publish";

/// Who takes part, in order.
const CONTESTANTS: [(&str, Who); 4] = [
    ("limit", Who::Limit),
    (
        "kafka-streams-1",
        Who::Jvm(Jvm::KafkaStreams { threads: 1 }),
    ),
    (
        "kafka-streams-2",
        Who::Jvm(Jvm::KafkaStreams { threads: 2 }),
    ),
    ("foldhost", Who::Foldhost),
];

const RATIOS: [Ratio; 3] = [
    Ratio::at_least("throughput", figure::RATE, "kafka-streams-1", 4.0),
    Ratio::at_least("throughput", figure::RATE, "kafka-streams-2", 4.0),
    Ratio::at_most("CPU per event", figure::CPU, "kafka-streams-2", 1.0 / 6.0),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Limit,
    Jvm(Jvm),
    Foldhost,
}

/// Everything.
///
/// # Errors
/// If a contestant does not start, does not end, or has published anything else than it must.
pub(crate) fn run(args: &Args) -> Result<Measured> {
    let broker = Broker::start()?;
    let scratch = Scratch::new("republish")?;
    let input = Input::new("republish", KEYS, args.events);
    eprintln!(
        "bench: writing {} events into {}",
        input.events, input.topic
    );
    topic::fill(&broker, &input)?;
    let counts = input.counts();
    let mut measured = Measured::default();
    for round in 1..=args.rounds {
        for (name, who) in CONTESTANTS.iter().filter(|(name, _)| args.takes(name)) {
            eprintln!("bench: round {round}: {name}");
            let turn = Turn {
                args,
                broker: &broker,
                input: &input,
                name,
                group: format!("{name}-{round}"),
                folder: scratch.join(format!("{name}-{round}")),
                output: Output::new(&broker, &format!("republished-{name}-{round}"))?,
            };
            let passed = turn.pass(*who, &counts, &mut measured);
            passed.with_context(|| format!("{name} in round {round}"))?;
        }
    }
    Ok(measured)
}

/// One contestant's pass, with a group (or cluster), a folder and an output topic of its own.
struct Turn<'a> {
    args: &'a Args,
    broker: &'a Broker,
    input: &'a Input,
    name: &'static str,
    group: String,
    folder: std::path::PathBuf,
    output: Output,
}

impl Turn<'_> {
    fn pass(&self, who: Who, counts: &[u64], measured: &mut Measured) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let published = match who {
            Who::Limit => self.limit()?,
            Who::Jvm(jvm) => self.streams(jvm, measured)?,
            Who::Foldhost => self.foldhost()?,
        };
        self.output.check(counts)?;
        measured.add(figure::RATE, self.name, published.events_per_s);
        measured.add(figure::CPU, self.name, published.cpu_us_per_event);
        let with_start = published.cpu_us_per_event_with_start;
        measured.add(figure::CPU_WITH_START, self.name, with_start);
        measured.add(figure::PEAK_RSS, self.name, published.peak_rss_bytes);
        self.broker.delete_topic(self.output.topic())?;
        fs::remove_dir_all(&self.folder)?;
        Ok(())
    }

    fn limit(&self) -> Result<Published> {
        let topic = self.output.topic();
        self.broker.create_topic(topic, PARTITIONS)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["limit", "--bootstrap", &self.broker.bootstrap()]);
        command.args(["--topic", &self.input.topic, "--output", topic]);
        command.args(["--expect", &self.input.events.to_string()]);
        let child = Contestant::start(self.name, command, &self.folder.join("log"))?;
        let published = self.output.watch(child.process(), self.input.events)?;
        child.stop()?;
        Ok(published)
    }

    fn streams(&self, jvm: Jvm, measured: &mut Measured) -> Result<Published> {
        let topic = self.output.topic();
        self.broker.create_topic(topic, PARTITIONS)?;
        let state = self.folder.join("state");
        let mut command = jvm.fold(self.args, self.broker, self.input, &self.group, &state)?;
        let commit_ms = COMMIT_EVERY.as_millis().to_string();
        command.args(["--output", topic, "--commit-ms", &commit_ms]);
        let mut child = Contestant::start(self.name, command, &self.folder.join("log"))?;
        child.wait("settings")?;
        measured.add_settings(self.name, &mut child);
        let published = self.output.watch(child.process(), self.input.events)?;
        child.stop()?;
        Ok(published)
    }

    /// The host makes the topic that it publishes to.
    fn foldhost(&self) -> Result<Published> {
        let mut host = Foldhost::start(self.broker, &self.group, &self.folder)?;
        let topics = format!(
            "topic=events={}&topic=counts={}",
            self.input.topic,
            self.output.topic()
        );
        host.deploy_with(PLUGIN, self.args, &topics)?;
        self.output.watch(host.process(), self.input.events)
    }
}

/// The report.
pub(crate) fn report(args: &Args, measured: &Measured) -> String {
    let mut text = String::from("# Republishing\n\n");
    let _ = writeln!(
        text,
        "Written by `tests/bench/run --republish`: {} round(s), {} events of 100 bytes over {KEYS} keys, {PARTITIONS} \
         partitions in and out, one record published for each event, a commit every {} ms; broker and contestants \
         on one machine ({}). Medians; absolute figures on a shared machine mean little, so the ratios come first.\n",
        args.rounds,
        args.events,
        COMMIT_EVERY.as_millis(),
        machine()
    );
    report::ratios(&mut text, &RATIOS, measured);
    report::figures(&mut text, measured);
    text.push_str(
        "`cpu_us_per_event` is the CPU time of the process between the first output and the last; `…_with_start` \
         is all of it, from the start of the process.\n\n## Settings\n\nfoldhost: its defaults, with an object \
         store in a folder. The others as they say:\n\n",
    );
    report::settings(&mut text, measured);
    text
}
