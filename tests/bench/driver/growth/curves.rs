//! The curves: one thing grows from point to point, the rest stays. What the process of the host spends on an
//! event, and how many it folds in a second.

use anyhow::{Context, Result};

use foldhost_tests::memory;
use foldhost_tests::wait::Stopwatch;

use super::{Bed, Figures, hash_map};
use crate::args::Args;
use crate::foldhost::{Foldhost, PLUGIN};
use crate::input::Input;
use crate::measure;
use crate::topic;

/// Names of the figures of a point, behind `<curve>_<point>_`.
pub(super) mod figure {
    /// CPU time of the process for an event that one plugin folds, in microseconds.
    pub(in crate::growth) const CPU: &str = "cpu_us_per_event";
    /// Events that were folded in a second, by all plugins together.
    pub(in crate::growth) const RATE: &str = "events_per_s";
    /// Most resident memory.
    pub(in crate::growth) const PEAK: &str = "peak_rss_bytes";
    /// As [`CPU`], of the events behind the first of every key.
    pub(in crate::growth) const CPU_AGAIN: &str = "again_cpu_us_per_event";
    /// As [`RATE`], of the events behind the first of every key.
    pub(in crate::growth) const RATE_AGAIN: &str = "again_events_per_s";
    /// Time for an event of one plugin in bare hash maps, in microseconds.
    pub(in crate::growth) const HASH_MAP: &str = "hash_map_us_per_event";
}

/// Keys up to which a bare hash map is measured; beyond, it would need more memory than the host may take.
const HASH_MAP_KEYS_MAX: u64 = 1_000_000;
/// Keys of the curves about something else.
const KEYS: u64 = 100_000;
/// Keys of the curve of plugins: few, so that states are not what is measured.
const KEYS_OF_PLUGINS: u64 = 10_000;
/// Keys of the curve of states: the largest states of all of them fit into memory.
const KEYS_OF_STATES: u64 = 1_000;

/// A curve.
#[derive(Debug)]
pub(super) struct Curve {
    /// As in `--only`, and in the names of its figures.
    pub(super) name: &'static str,
    /// What grows.
    pub(super) title: &'static str,
    pub(super) points: Vec<Point>,
    /// Whether keys grow: then the events behind the first of every key are also measured alone.
    pub(super) is_of_keys: bool,
    /// Whether bare hash maps are measured as well: what grows is how many states there are.
    pub(super) has_hash_maps: bool,
}

/// A point of a curve.
#[derive(Debug)]
pub(super) struct Point {
    /// As in the report.
    pub(super) shown: String,
    /// Its short name is the point's.
    pub(super) input: Input,
    /// How many plugins fold it.
    pub(super) plugins: usize,
    /// Whether it takes so long that it is measured in the first round only.
    is_long: bool,
}

impl Point {
    fn new(curve: &str, shown: &str, input: Input) -> Self {
        Self {
            shown: shown.to_owned(),
            plugins: 1,
            is_long: false,
            input: Input {
                topic: format!("growth-{curve}-{}", input.name),
                ..input
            },
        }
    }
}

impl Curve {
    /// Name of a figure of one of its points.
    pub(super) fn figure(&self, point: &Point, figure: &str) -> String {
        format!("{}_{}_{figure}", self.name, point.input.name)
    }
}

/// All curves, as large as they were asked for.
pub(super) fn all(args: &Args) -> [Curve; 4] {
    [keys(args), plugins(args), partitions(args), states(args)]
}

fn keys(args: &Args) -> Curve {
    // The last is beyond the memory for states of a host with its defaults.
    let beyond = if args.quick {
        ("3m", "3 million", 3_000_000)
    } else {
        ("10m", "10 million", 10_000_000)
    };
    let sizes = [
        ("1k", "1 thousand", 1_000),
        ("100k", "100 thousand", 100_000),
        ("1m", "1 million", 1_000_000),
        beyond,
    ];
    let points = sizes.map(|(name, shown, keys)| {
        let events = args.events.max(keys + args.events / 2);
        Point {
            is_long: name == beyond.0,
            ..Point::new("keys", shown, Input::new(name, keys, events))
        }
    });
    Curve {
        name: "keys",
        title: "Keys",
        points: points.into(),
        is_of_keys: true,
        has_hash_maps: true,
    }
}

fn plugins(args: &Args) -> Curve {
    let counts: &[usize] = if args.quick {
        &[1, 2, 10]
    } else {
        &[1, 2, 10, 50]
    };
    let point = |count: &usize| {
        let shown = count.to_string();
        let input = Input::new(&shown, KEYS_OF_PLUGINS, args.events / 4);
        Point {
            plugins: *count,
            ..Point::new("plugins", &shown, input)
        }
    };
    Curve {
        name: "plugins",
        title: "Plugins on one topic",
        points: counts.iter().map(point).collect(),
        is_of_keys: false,
        has_hash_maps: true,
    }
}

fn partitions(args: &Args) -> Curve {
    let points = [1, 16, 128].map(|partitions: i32| {
        let shown = partitions.to_string();
        let input = Input {
            partitions,
            ..Input::new(&shown, KEYS, args.events)
        };
        Point::new("partitions", &shown, input)
    });
    Curve {
        name: "partitions",
        title: "Partitions on one host",
        points: points.into(),
        is_of_keys: false,
        has_hash_maps: false,
    }
}

fn states(args: &Args) -> Curve {
    // Larger ones are fewer: the events of a point are never much more than those of 100 bytes.
    let sizes = [
        ("100b", "100 B", 100, 4),
        ("1kib", "1 KiB", 1024, 8),
        ("16kib", "16 KiB", 16 * 1024, 64),
        ("64kib", "64 KiB", 64 * 1024, 256),
    ];
    let points = sizes.map(|(name, shown, value_bytes, part)| {
        let input = Input {
            value_bytes,
            ..Input::new(name, KEYS_OF_STATES, args.events / part)
        };
        Point::new("states", shown, input)
    });
    Curve {
        name: "states",
        title: "Size of a state, and of the event that it is made of",
        points: points.into(),
        is_of_keys: false,
        has_hash_maps: false,
    }
}

/// Measures the points of a curve in turn, round after round, each on a topic of its own.
///
/// # Errors
/// If a host does not fold what it must, or has other states than it must.
pub(super) fn measure(bed: &Bed<'_>, curve: &Curve, figures: &mut Figures) -> Result<()> {
    for point in &curve.points {
        topic::fill(&bed.broker, &point.input)?;
    }
    for round in 1..=bed.args.rounds {
        let points = curve.points.iter();
        for point in points.filter(|point| round == 1 || !point.is_long) {
            eprintln!("bench: {}: {}, round {round}", curve.name, point.shown);
            measure_point(bed, curve, point, round, figures)
                .with_context(|| format!("{}: {}", curve.name, point.shown))?;
        }
    }
    for point in &curve.points {
        bed.broker.delete_topic(&point.input.topic)?;
    }
    Ok(())
}

fn measure_point(
    bed: &Bed<'_>,
    curve: &Curve,
    point: &Point,
    round: usize,
    figures: &mut Figures,
) -> Result<()> {
    let wanted = point.input.check();
    let cluster = format!("{}-{}-{round}", curve.name, point.input.name);
    bed.with_host(&cluster, |host| {
        let measured = fold(bed.args, host, curve, point)?;
        for name in names(point) {
            wanted.expect(host.check_of(&name)?).context(name)?;
        }
        for (figure, value) in measured {
            figures.add(curve.figure(point, figure), value);
        }
        Ok(())
    })?;
    if curve.has_hash_maps && point.input.keys <= HASH_MAP_KEYS_MAX {
        let us = hash_map::us_per_event(&point.input, point.plugins);
        figures.add(curve.figure(point, figure::HASH_MAP), us);
    }
    Ok(())
}

fn names(point: &Point) -> impl Iterator<Item = String> {
    (1..=point.plugins).map(|number| format!("{PLUGIN}-{number}"))
}

/// What a host had spent, and when.
struct Spent {
    cpu_us: f64,
    at_s: f64,
}

impl Spent {
    fn now(host: &mut Foldhost, clock: Stopwatch) -> Result<Self> {
        Ok(Self {
            cpu_us: measure::cpu(host.process())?.as_secs_f64() * 1e6,
            at_s: clock.elapsed().as_secs_f64(),
        })
    }
}

/// Deploys the plugins and waits until each has folded all: the CPU time counts from before the first deployment
/// until all is committed, the time from the first event that is folded to the last.
fn fold(
    args: &Args,
    host: &mut Foldhost,
    curve: &Curve,
    point: &Point,
) -> Result<Vec<(&'static str, f64)>> {
    let clock = Stopwatch::start();
    let input = &point.input;
    let names: Vec<String> = names(point).collect();
    let first = names.first().context("a point without plugins")?;
    let before = Spent::now(host, clock)?;
    host.deploy_as(first, args, &input.topic)?;
    host.wait_folded(first, 1)?;
    let began = Spent::now(host, clock)?;
    for name in &names[1..] {
        host.deploy_as(name, args, &input.topic)?;
    }
    let again = if curve.is_of_keys {
        let folded = host.wait_folded(first, input.keys)?;
        Some((folded, Spent::now(host, clock)?))
    } else {
        None
    };
    for name in &names {
        host.wait_folded(name, input.events)?;
    }
    let folded_at_s = clock.elapsed().as_secs_f64();
    for name in &names {
        host.wait_committed(name)?;
    }
    let ended = Spent {
        at_s: folded_at_s,
        ..Spent::now(host, clock)?
    };
    #[allow(clippy::cast_precision_loss, reason = "figures")]
    let count = |events: u64| events as f64;
    let folds = count(input.events) * count(u64::try_from(point.plugins)?);
    let peak_bytes = memory::resident(host.process())?.peak_bytes;
    let mut measured = vec![
        (figure::CPU, (ended.cpu_us - before.cpu_us) / folds),
        (figure::RATE, folds / (ended.at_s - began.at_s)),
        (figure::PEAK, count(peak_bytes)),
    ];
    if let Some((folded, then)) = again {
        let folds = count(input.events.saturating_sub(folded));
        measured.push((figure::CPU_AGAIN, (ended.cpu_us - then.cpu_us) / folds));
        measured.push((figure::RATE_AGAIN, folds / (ended.at_s - then.at_s)));
    }
    Ok(measured)
}
