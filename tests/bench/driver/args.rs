//! What the driver is told. `run` builds everything and passes the paths.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Shown with every wrong argument.
pub(crate) const USAGE: &str = "usage: tests/bench/run [--growth | --republish | --commands | --against HOST] [--quick] [--rounds N] [--events N] [--only NAME[,NAME…]] \
                         [--json FILE] [--results FILE]";

/// Events of one input, as the issue of speed asks.
const EVENTS: u64 = 4_000_000;
const EVENTS_QUICK: u64 = 1_000_000;
/// A JVM is warm after some seconds of this; the output is as many records again.
const EVENTS_REPUBLISH: u64 = 2_000_000;
const ROUNDS: usize = 3;

/// What this process is.
#[derive(Debug)]
pub(crate) enum Command {
    /// The driver.
    Bench(Args),
    /// The contestant `limit`, started by the driver.
    Limit(LimitArgs),
    /// The same, where queries are compared.
    LimitHttp,
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// All contestants, folding and answering.
    Fold,
    /// foldhost alone, as what it has to do grows.
    Growth,
    /// foldhost and Kafka Streams, publishing a record for each event.
    Republish,
    /// foldhost alone, deciding commands.
    Commands,
    /// foldhost and another host of its own, folding at the same time.
    Against(PathBuf),
}

/// What is measured.
#[derive(Debug, Clone)]
pub(crate) struct Args {
    pub(crate) mode: Mode,
    /// Whether one short round is enough.
    pub(crate) quick: bool,
    /// How often each contestant runs on each input.
    pub(crate) rounds: usize,
    /// Events of one input.
    pub(crate) events: u64,
    /// Contestants, or parts of `--growth`; empty = all.
    pub(crate) only: Vec<String>,
    /// Where the medians go.
    pub(crate) json: Option<PathBuf>,
    /// Where the report goes; empty = to the terminal only.
    pub(crate) results: PathBuf,
    /// What Maven built: `kafka-streams/` and `flink/`.
    pub(crate) jvm: PathBuf,
    /// The component of `plugins/count-and-last`; with `--republish`, that of `plugins/count-and-publish`.
    pub(crate) component: PathBuf,
}

/// What the contestant `limit` is told.
#[derive(Debug)]
pub(crate) struct LimitArgs {
    pub(crate) bootstrap: String,
    pub(crate) topic: String,
    pub(crate) expect: u64,
    /// Where to publish a count for each record, if that is what is compared.
    pub(crate) output: Option<String>,
}

impl Args {
    /// Arguments of this process.
    ///
    /// # Errors
    /// The first that is wrong.
    pub(crate) fn of_process() -> Result<Command> {
        let mut words = std::env::args().skip(1).peekable();
        match words.peek().map(String::as_str) {
            Some("limit") => limit(words.skip(1)).map(Command::Limit),
            Some("limit-http") => Ok(Command::LimitHttp),
            _ => bench(words).map(Command::Bench),
        }
    }

    /// Whether a contestant takes part.
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn bench(mut words: impl Iterator<Item = String>) -> Result<Args> {
    let mut args = Args {
        mode: Mode::Fold,
        quick: false,
        rounds: 0,
        events: 0,
        only: Vec::new(),
        json: None,
        results: PathBuf::new(),
        jvm: PathBuf::new(),
        component: PathBuf::new(),
    };
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        match word.as_str() {
            "--growth" => args.mode = Mode::Growth,
            "--republish" => args.mode = Mode::Republish,
            "--commands" => args.mode = Mode::Commands,
            "--against" => args.mode = Mode::Against(value()?.into()),
            "--quick" => args.quick = true,
            "--rounds" => args.rounds = number(&value()?)?,
            "--events" => args.events = number(&value()?)?,
            "--only" => args.only = value()?.split(',').map(str::to_owned).collect(),
            "--json" => args.json = Some(value()?.into()),
            "--results" => args.results = value()?.into(),
            "--jvm" => args.jvm = value()?.into(),
            "--component" => args.component = value()?.into(),
            _ => bail!("unknown argument {word}"),
        }
    }
    if args.rounds == 0 {
        args.rounds = if args.quick { 1 } else { ROUNDS };
    }
    if args.events == 0 {
        args.events = match args.mode {
            _ if args.quick => EVENTS_QUICK,
            Mode::Republish => EVENTS_REPUBLISH,
            Mode::Fold | Mode::Growth | Mode::Commands | Mode::Against(_) => EVENTS,
        };
    }
    if args.results.as_os_str().is_empty() {
        let file = match args.mode {
            Mode::Fold => Some("RESULTS.md"),
            Mode::Growth => Some("GROWTH.md"),
            Mode::Republish => Some("REPUBLISH.md"),
            Mode::Commands => Some("COMMANDS.md"),
            Mode::Against(_) => None,
        };
        let file = file.map(|file| PathBuf::from("tests/bench").join(file));
        args.results = file.unwrap_or_default();
    }
    Ok(args)
}

fn limit(mut words: impl Iterator<Item = String>) -> Result<LimitArgs> {
    let (mut bootstrap, mut topic, mut expect, mut output) = (None, None, None, None);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--bootstrap" => bootstrap = Some(value),
            "--topic" => topic = Some(value),
            "--expect" => expect = Some(number(&value)?),
            "--output" => output = Some(value),
            _ => bail!("unknown argument {word}"),
        }
    }
    Ok(LimitArgs {
        bootstrap: bootstrap.context("--bootstrap is missing")?,
        topic: topic.context("--topic is missing")?,
        expect: expect.context("--expect is missing")?,
        output,
    })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    match text.replace('_', "").parse() {
        Ok(number) => Ok(number),
        Err(_) => bail!("'{text}' is not a number"),
    }
}
