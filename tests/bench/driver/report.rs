//! What was measured, for people (a table, ratios first) and for programs (medians, flat).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::args::Args;
use crate::measure::median;
use crate::rounds::{Measured, figure};

/// A figure of foldhost's in that of another, and the goal for it. Taken within each round, where both meet what else the
/// machine does; the middle one counts.
pub(crate) struct Ratio {
    what: &'static str,
    figure: &'static str,
    against: &'static str,
    goal: f64,
    /// Whether more is better.
    more: bool,
}

const RATIOS: [Ratio; 9] = [
    Ratio::at_least("throughput, 100,000 keys", "throughput_100k", "limit", 0.6),
    Ratio::at_least(
        "throughput, 100,000 keys",
        "throughput_100k",
        "kafka-streams-2",
        5.0,
    ),
    Ratio::at_least(
        "throughput, 100,000 keys",
        "throughput_100k",
        "flink-heap",
        2.5,
    ),
    Ratio::at_least(
        "throughput, 1,000,000 keys",
        "throughput_1m",
        "kafka-streams-2",
        8.0,
    ),
    Ratio::at_least(
        "throughput, 1,000,000 keys",
        "throughput_1m",
        "flink-heap",
        2.5,
    ),
    Ratio::at_most(
        "CPU per event, 100,000 keys",
        "cpu_s_per_million_100k",
        "kafka-streams-2",
        0.125,
    ),
    Ratio::at_most(
        "CPU per event, 1,000,000 keys",
        "cpu_s_per_million_1m",
        "kafka-streams-2",
        0.125,
    ),
    Ratio::at_most(
        "peak memory, 1,000,000 keys",
        "peak_rss_bytes_1m",
        "kafka-streams-2",
        0.25,
    ),
    Ratio::at_least(
        "point queries for a CPU second",
        "query_per_s",
        "kafka-streams-2",
        1.0,
    ),
];

/// A median of foldhost's, and the goal for it.
const GOALS: [(&str, &str, f64, bool); 5] = [
    ("live again after `kill -9`, s", figure::RESTART, 1.0, false),
    ("live on an empty machine, s", figure::EMPTY, 2.0, false),
    ("point query idle, p50, µs", figure::P50_IDLE, 200.0, false),
    (
        "point query under load, p99, µs",
        figure::P99_LOAD,
        5_000.0,
        false,
    ),
    (
        "point queries for a CPU second",
        figure::PER_CPU,
        40_000.0,
        true,
    ),
];

impl Ratio {
    /// foldhost's figure is to be at least `goal` times the other's.
    pub(crate) const fn at_least(
        what: &'static str,
        figure: &'static str,
        against: &'static str,
        goal: f64,
    ) -> Self {
        Self {
            what,
            figure,
            against,
            goal,
            more: true,
        }
    }

    /// foldhost's figure is to be at most `goal` times the other's.
    pub(crate) const fn at_most(
        what: &'static str,
        figure: &'static str,
        against: &'static str,
        goal: f64,
    ) -> Self {
        Self {
            what,
            figure,
            against,
            goal,
            more: false,
        }
    }
}

/// Medians, flat: figure → contestant → value.
pub(crate) fn medians(measured: &Measured) -> Value {
    let mut all = Map::new();
    for (figure, by_contestant) in &measured.figures {
        let medians = by_contestant
            .keys()
            .filter_map(|name| Some(((*name).to_owned(), json!(measured.median(figure, name)?))));
        all.insert(figure.clone(), Value::Object(medians.collect()));
    }
    Value::Object(all)
}

/// The report.
pub(crate) fn table(args: &Args, measured: &Measured) -> String {
    let mut text = String::from("# Results\n\n");
    let _ = writeln!(
        text,
        "Written by `tests/bench/run`: {} round(s), {} events of 100 bytes an input, 4 partitions, broker and \
         contestants on one machine ({}). Medians; absolute figures on a shared machine mean little, so the \
         ratios come first.\n",
        args.rounds,
        args.events,
        machine()
    );
    ratios(&mut text, &RATIOS, measured);
    goals(&mut text, measured);
    missing(&mut text, measured);
    figures(&mut text, measured);
    text.push_str("## Settings\n\nfoldhost: its defaults, with an object store in a folder. The others as they say:\n\n");
    settings(&mut text, measured);
    text
}

fn verdict(reached: bool) -> &'static str {
    if reached { "yes" } else { "**no**" }
}

/// foldhost against others, where both were measured.
pub(crate) fn ratios(text: &mut String, ratios: &[Ratio], measured: &Measured) {
    text.push_str(
        "## foldhost against the goals\n\nThe ratios of the rounds: the middle one (lowest – highest).\n\n\
         | | against | goal | ratio | reached |\n|---|---|---|---|---|\n",
    );
    for ratio in ratios {
        let by_round = measured.ratios(ratio.figure, "foldhost", ratio.against);
        let Some(value) = median(&by_round) else {
            continue;
        };
        let reached = if ratio.more {
            value >= ratio.goal
        } else {
            value <= ratio.goal
        };
        let sign = if ratio.more { '≥' } else { '≤' };
        let _ = writeln!(
            text,
            "| {} | {} | {sign} {:.3} × | {} × | {} |",
            ratio.what,
            ratio.against,
            ratio.goal,
            spread(&by_round),
            verdict(reached)
        );
    }
    text.push('\n');
}

fn goals(text: &mut String, measured: &Measured) {
    text.push_str("| | goal | measured | reached |\n|---|---|---|---|\n");
    for (what, figure, goal, more) in GOALS {
        let Some(value) = measured.median(figure, "foldhost") else {
            continue;
        };
        let reached = if more { value >= goal } else { value < goal };
        let sign = if more { '≥' } else { '<' };
        let _ = writeln!(
            text,
            "| {what} | {sign} {goal} | {} | {} |",
            shown(value),
            verdict(reached)
        );
    }
    text.push('\n');
}

/// What could not be measured.
fn missing(text: &mut String, measured: &Measured) {
    if measured.missing.is_empty() {
        return;
    }
    text.push_str("## Not measured\n\n");
    for missing in &measured.missing {
        let _ = writeln!(text, "- {}", missing.replace(['\r', '\n'], " "));
    }
    text.push('\n');
}

/// Every value of every figure.
pub(crate) fn figures(text: &mut String, measured: &Measured) {
    text.push_str("## All figures: median (lowest – highest)\n\n");
    let contestants: BTreeSet<&str> = measured
        .figures
        .values()
        .flat_map(|by| by.keys().copied())
        .collect();
    let _ = writeln!(
        text,
        "| | {} |",
        contestants.iter().copied().collect::<Vec<_>>().join(" | ")
    );
    let _ = writeln!(text, "|---|{}", "---|".repeat(contestants.len()));
    for (figure, by_contestant) in &measured.figures {
        let _ = write!(text, "| `{figure}` |");
        for name in &contestants {
            let cell = by_contestant
                .get(name)
                .map_or_else(String::new, |values| spread(values));
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text.push('\n');
}

/// What the contestants said of their settings.
pub(crate) fn settings(text: &mut String, measured: &Measured) {
    // Says nothing about a setting, and is another every time.
    let scratch = std::env::var("FOLDHOST_TEST_SCRATCH").ok();
    for (name, settings) in &measured.settings {
        let _ = writeln!(text, "- `{name}`:");
        for (key, value) in settings.as_object().into_iter().flatten() {
            if key != "event" && key != "at_ms" {
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                let value = match &scratch {
                    Some(scratch) => value.replace(scratch, "<scratch>"),
                    None => value,
                };
                let _ = writeln!(text, "  - `{key}` = `{value}`");
            }
        }
    }
}

/// The middle one, with the lowest and the highest where there are several.
pub(crate) fn spread(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let middle = shown(median(values).unwrap_or(f64::NAN));
    if values.len() == 1 {
        middle
    } else {
        format!("{middle} ({} – {})", shown(low), shown(high))
    }
}

/// A number for people.
pub(crate) fn shown(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{:.2} G", value / 1e9),
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e4 => format!("{:.1} k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value => format!("{value:.3}"),
    }
}

/// What all this ran on.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let system = Command::new("uname").arg("-sr").output();
    let system = system.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    let java = Command::new("java").arg("-version").output();
    let java = java.map_or_else(
        |_| String::new(),
        |output| {
            String::from_utf8_lossy(&output.stderr)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned()
        },
    );
    format!("{cores} cores of {model}, {system}, {java}")
}
