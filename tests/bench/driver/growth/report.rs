//! The report of `--growth`: goals first, then a table for each part that was measured.

use std::fmt::Write as _;

use super::curves::{Curve, Point, figure};
use super::{Figures, idle, neighbours};
use crate::args::Args;
use crate::measure::median;
use crate::report::{machine, shown, spread};

/// Most that an event may cost with a million keys, in what it costs with a thousand.
const KEYS_RATIO_MAX: f64 = 1.5;
/// Resident bytes below which an idle partition must stay.
const IDLE_BYTES_MAX: f64 = 300_000.0;
/// CPU time of an idle partition that can be measured: ten microseconds a second are a hundredth of a per mille.
const IDLE_CPU_US_MAX: f64 = 10.0;
/// What a neighbour that loops may make of the slowest hundredth of others' answers.
const NEIGHBOUR_RATIO_MAX: f64 = 3.0;

/// The whole report.
pub(super) fn text(args: &Args, curves: &[Curve], figures: &Figures) -> String {
    let mut text = String::from("# Growth and isolation\n\n");
    let size = if args.quick { ", quick" } else { "" };
    let _ = writeln!(
        text,
        "Written by `tests/bench/run --growth`: {} round(s){size}, medians, ratios by round: the middle one (lowest \
         – highest); most keys and idle partitions in the first round only. foldhost with its defaults, broker and \
         host on one machine ({}). CPU time is that of the host's process, from before the deployment; every \
         state was compared with what the input's generator says.\n",
        args.rounds,
        machine()
    );
    goals(&mut text, curves, figures);
    for curve in curves {
        table(&mut text, curve, figures);
    }
    idle_table(&mut text, figures);
    neighbours_table(&mut text, figures);
    text
}

/// Rows of the table of goals: those about what was measured.
#[derive(Default)]
struct Goals(String);

impl Goals {
    fn row(&mut self, what: &str, is_below: bool, goal: &str, value: Option<f64>, shown: &str) {
        if value.is_some() {
            let reached = if is_below { "yes" } else { "**no**" };
            let _ = writeln!(self.0, "| {what} | {goal} | {shown} | {reached} |");
        }
    }

    fn ratio_at_most(&mut self, what: &str, goal: f64, ratios: &[f64]) {
        let is_reached = |found| found <= goal;
        self.ratio(what, is_reached, &format!("≤ {goal} ×"), ratios);
    }

    fn ratio_below(&mut self, what: &str, goal: f64, ratios: &[f64]) {
        let is_reached = |found| found < goal;
        self.ratio(what, is_reached, &format!("< {goal} ×"), ratios);
    }

    /// A goal for the middle one of the ratios of the rounds.
    fn ratio(&mut self, what: &str, is_reached: impl Fn(f64) -> bool, goal: &str, ratios: &[f64]) {
        let middle = median(ratios);
        let shown = format!("{} ×", spread(ratios));
        self.row(what, middle.is_some_and(is_reached), goal, middle, &shown);
    }

    fn below(&mut self, what: &str, goal: f64, unit: &str, value: Option<f64>) {
        let found = value.unwrap_or(f64::NAN);
        let goal_shown = format!("< {}{unit}", shown(goal));
        let found_shown = format!("{}{unit}", signed(found));
        self.row(what, found < goal, &goal_shown, value, &found_shown);
    }
}

fn goals(text: &mut String, curves: &[Curve], figures: &Figures) {
    let mut goals = Goals::default();
    let cpu = |curve: &str, point: &str| format!("{curve}_{point}_{}", figure::CPU);
    let keys = figures.ratios(&cpu("keys", "1m"), &cpu("keys", "1k"));
    goals.ratio_at_most(
        "CPU for an event, 1 million keys against 1 thousand",
        KEYS_RATIO_MAX,
        &keys,
    );
    let plugins = curves.iter().find(|curve| curve.name == "plugins");
    if let Some(most) = plugins.and_then(|curve| curve.points.last()) {
        let count = f64::from(u32::try_from(most.plugins).unwrap_or(u32::MAX));
        let each = figures.ratios(&cpu("plugins", &most.input.name), &cpu("plugins", "1"));
        let all: Vec<f64> = each.iter().map(|each| each * count).collect();
        let what = format!("CPU of {count} plugins on one topic against that of one");
        goals.ratio_at_most(&what, count, &all);
    }
    let bytes = figures.median(idle::BYTES);
    goals.below("memory of an idle partition", IDLE_BYTES_MAX, "B", bytes);
    let idle_cpu = figures.median(idle::CPU);
    goals.below(
        "CPU of an idle partition, for each second",
        IDLE_CPU_US_MAX,
        " µs",
        idle_cpu,
    );
    for (name, what) in neighbours::NEIGHBOURS {
        let what = format!("p99 of point queries beside a plugin that {what}");
        goals.ratio_below(&what, NEIGHBOUR_RATIO_MAX, &beside(figures, name));
    }
    if !goals.0.is_empty() {
        let rows = goals.0;
        let _ = writeln!(
            text,
            "## Goals\n\n| | goal | measured | reached |\n|---|---|---|---|\n{rows}"
        );
    }
}

fn table(text: &mut String, curve: &Curve, figures: &Figures) {
    let of = |point: &Point, figure: &str| figures.median(&curve.figure(point, figure));
    let is_measured = |point: &&Point| of(point, figure::CPU).is_some();
    let Some(first) = curve.points.first().filter(is_measured) else {
        return;
    };
    let base = curve.figure(first, figure::CPU);
    let unit = if curve.name == "plugins" {
        "µs an event and plugin"
    } else {
        "µs an event"
    };
    let (mut head, mut line) = (String::new(), String::new());
    if curve.is_of_keys {
        head.push_str(" every key seen: CPU µs an event | every key seen: events/s |");
        line.push_str("---|---|");
    }
    if curve.has_hash_maps {
        let _ = write!(head, " bare hash maps: {unit} | against the first |");
        line.push_str("---|---|");
    }
    let _ = writeln!(
        text,
        "## {}\n\n| | events | CPU {unit} | against the first | events/s | peak memory, bytes |{head}\n\
         |---|---|---|---|---|---|{line}",
        curve.title
    );
    for point in &curve.points {
        let (Some(cpu), Some(rate), Some(peak)) = (
            of(point, figure::CPU),
            of(point, figure::RATE),
            of(point, figure::PEAK),
        ) else {
            continue;
        };
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let events = shown(point.input.events as f64);
        let _ = write!(
            text,
            "| {} | {events} | {} | {} | {} | {} |",
            point.shown,
            shown(cpu),
            times(&figures.ratios(&curve.figure(point, figure::CPU), &base)),
            shown(rate),
            shown(peak)
        );
        if curve.is_of_keys {
            cells_of_keys(text, curve, point, figures);
        }
        if curve.has_hash_maps {
            cells_of_hash_maps(text, curve, point, figures);
        }
        text.push('\n');
    }
    text.push('\n');
}

/// The further cells of a row of the curve of keys.
fn cells_of_keys(text: &mut String, curve: &Curve, point: &Point, figures: &Figures) {
    for figure in [figure::CPU_AGAIN, figure::RATE_AGAIN] {
        let value = figures.median(&curve.figure(point, figure));
        let _ = write!(text, " {} |", value.map_or_else(String::new, shown));
    }
}

/// The last cells of a row, about bare hash maps.
fn cells_of_hash_maps(text: &mut String, curve: &Curve, point: &Point, figures: &Figures) {
    let of = |point: &Point| curve.figure(point, figure::HASH_MAP);
    let us = figures.median(&of(point));
    let first = curve.points.first();
    let against = first.map(|first| figures.ratios(&of(point), &of(first)));
    let _ = write!(
        text,
        " {} | {} |",
        us.map_or_else(String::new, shown),
        times(&against.unwrap_or_default())
    );
}

fn idle_table(text: &mut String, figures: &Figures) {
    let (Some(bytes), Some(cpu)) = (figures.median(idle::BYTES), figures.median(idle::CPU)) else {
        return;
    };
    text.push_str(
        "## Idle partitions\n\n| | resident memory, bytes | CPU µs a second |\n|---|---|---|\n",
    );
    for partitions in idle::PARTITIONS {
        let of = |figure: &str| {
            let value = figures.median(&format!("idle_{partitions}_{figure}"));
            signed(value.unwrap_or(f64::NAN))
        };
        let _ = writeln!(
            text,
            "| host with {partitions} | {} | {} |",
            of("rss_bytes"),
            of("cpu_us_per_s")
        );
    }
    let _ = writeln!(
        text,
        "| **one more partition** | {} | {} |\n",
        signed(bytes),
        signed(cpu)
    );
}

fn neighbours_table(text: &mut String, figures: &Figures) {
    let row = |text: &mut String, name: &str, what: &str| {
        let of = |quantile| figures.median(&neighbours::figure(name, quantile));
        if let (Some(p50), Some(p99)) = (of("p50"), of("p99")) {
            let against = times(&beside(figures, name));
            let _ = writeln!(
                text,
                "| {what} | {} | {} | {against} |",
                shown(p50),
                shown(p99)
            );
        }
    };
    if figures
        .median(&neighbours::figure(neighbours::ALONE, "p99"))
        .is_none()
    {
        return;
    }
    text.push_str(
        "## Neighbours\n\nPoint queries of a view that is well behaved, one client at a time, while another plugin \
         of the same host\n\n| | p50, µs | p99, µs | p99 against alone |\n|---|---|---|---|\n",
    );
    row(text, neighbours::ALONE, "is not there");
    for (name, what) in neighbours::NEIGHBOURS {
        row(text, name, what);
    }
    text.push('\n');
}

/// How many times the p99 alone it is beside a neighbour, in each round.
fn beside(figures: &Figures, neighbour: &str) -> Vec<f64> {
    figures.ratios(
        &neighbours::figure(neighbour, "p99"),
        &neighbours::figure(neighbours::ALONE, "p99"),
    )
}

/// The middle one of the ratios of the rounds; nothing without one.
fn times(ratios: &[f64]) -> String {
    median(ratios).map_or_else(String::new, |ratio| format!("{ratio:.2} ×"))
}

/// As [`shown`], also of a difference that came out below zero.
fn signed(value: f64) -> String {
    if value < 0.0 {
        format!("−{}", shown(-value))
    } else {
        shown(value)
    }
}
