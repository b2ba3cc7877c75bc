//! This host and another of its own, at the same time on the same topics: what a change to the host makes of its CPU
//! time and its memory. The mode `--against` of the driver.
//!
//! What else the machine does meets both alike: a difference of three per cent shows, where runs one after the other
//! differ by twenty.
//!
//! Invariant: nothing is reported of a fold whose states were not found to be right.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use foldhost_tests::kafka::Broker;
use foldhost_tests::paths::Scratch;

use crate::args::Args;
use crate::foldhost::{EMPTY_TOPIC, Foldhost};
use crate::input::{Check, Input};
use crate::measure::{self, median};
use crate::report::{shown, spread};
use crate::topic;

/// What a host has spent on an input.
#[derive(Debug, Clone, Copy)]
struct Spent {
    /// CPU seconds, from before the deployment until all is committed, for a million events.
    cpu_s: f64,
    /// Most resident memory.
    peak_bytes: f64,
}

/// Of each round: this host, and the other.
type Pairs = Vec<(Spent, Spent)>;

/// Everything: the report, and the ratios.
///
/// # Errors
/// If a host does not fold an input, or ends with another state than it must.
pub(crate) fn run(args: &Args, other: &Path) -> Result<(String, Value)> {
    ensure!(
        other.is_file(),
        "--against names {}, which is no file: give the path of another host",
        other.display()
    );
    let broker = Broker::start()?;
    let scratch = Scratch::new("bench-paired")?;
    broker.create_topic(EMPTY_TOPIC, 1)?;
    let mut text = String::from(
        "| | CPU s for a million events | of the other | median of the ratios (lowest – highest) | peak memory, bytes | \
         of the other |\n|---|---|---|---|---|---|\n",
    );
    let mut medians = Map::new();
    for (name, keys) in [("1k", 1_000), ("100k", 100_000), ("1m", 1_000_000)] {
        if !args.takes(name) {
            continue;
        }
        let input = Input::new(name, keys, args.events);
        topic::fill(&broker, &input)?;
        let wanted = input.check();
        let mut pairs = Pairs::new();
        for round in 1..=args.rounds {
            let folder = scratch.join(format!("{name}-{round}"));
            let host = |side: &str, program: Option<&Path>| {
                let cluster = format!("paired-{side}-{name}-{round}");
                start(args, &broker, &cluster, &folder.join(side), program)
            };
            let (this, that) = (host("this", None)?, host("other", Some(other))?);
            let pair = fold_both(args, (this, that), &input, wanted)
                .with_context(|| format!("round {round}, {name}"))?;
            let part = ratio(&pair);
            eprintln!("bench: round {round}, {name}: {part:.3} of the other's CPU time");
            pairs.push(pair);
            fs::remove_dir_all(folder)?;
        }
        row(&mut text, name, &pairs);
        let ratios: Vec<f64> = pairs.iter().map(ratio).collect();
        medians.insert(format!("cpu_ratio_{name}"), json!(median(&ratios)));
    }
    Ok((text, Value::Object(medians)))
}

/// CPU time of this host in that of the other.
fn ratio((this, other): &(Spent, Spent)) -> f64 {
    this.cpu_s / other.cpu_s
}

/// A host that has compiled the component and has nothing to do.
fn start(
    args: &Args,
    broker: &Broker,
    cluster: &str,
    folder: &Path,
    program: Option<&Path>,
) -> Result<Foldhost> {
    let host = Foldhost::start_program(broker, cluster, folder, program)?;
    host.warm_up(args)?;
    Ok(host)
}

fn fold_both(
    args: &Args,
    (mut this, mut that): (Foldhost, Foldhost),
    input: &Input,
    wanted: Check,
) -> Result<(Spent, Spent)> {
    let pair = std::thread::scope(|scope| {
        let other = scope.spawn(|| fold(args, &mut that, input));
        let this = fold(args, &mut this, input)?;
        let other = other.join().ok().context("a thread panicked")??;
        Ok::<_, anyhow::Error>((this, other))
    })?;
    for host in [&this, &that] {
        wanted.expect(host.check()?)?;
    }
    Ok(pair)
}

#[allow(clippy::cast_precision_loss, reason = "figures")]
fn fold(args: &Args, host: &mut Foldhost, input: &Input) -> Result<Spent> {
    let process = host.process();
    let before = measure::cpu(process)?;
    let pass = host.fold(args, input)?;
    let cpu = measure::cpu(process)?.saturating_sub(before);
    Ok(Spent {
        cpu_s: cpu.as_secs_f64() * 1e6 / input.events as f64,
        peak_bytes: pass.peak_rss_bytes,
    })
}

fn row(text: &mut String, name: &str, pairs: &Pairs) {
    let middle = |figure: &dyn Fn(&(Spent, Spent)) -> f64| {
        let values: Vec<f64> = pairs.iter().map(figure).collect();
        shown(median(&values).unwrap_or(f64::NAN))
    };
    let ratios: Vec<f64> = pairs.iter().map(ratio).collect();
    let _ = writeln!(
        text,
        "| {name} | {} | {} | {} | {} | {} |",
        middle(&|it| it.0.cpu_s),
        middle(&|it| it.1.cpu_s),
        spread(&ratios),
        middle(&|it| it.0.peak_bytes),
        middle(&|it| it.1.peak_bytes),
    );
}
