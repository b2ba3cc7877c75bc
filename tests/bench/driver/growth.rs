//! foldhost alone, as what it has to do grows: keys, plugins, partitions, states; what an idle partition costs; and
//! what a plugin that loops costs the answers of another. The mode `--growth` of the driver.
//!
//! Every curve is folded by the real host from a real Kafka, each point by a host of its own with nothing on it.
//!
//! What is compared is measured in turn, round after round; what takes long (more keys than fit into memory, hosts that
//! idle) in the first round only.
//!
//! Invariant: nothing is reported of a fold whose states were not found to be right.

mod curves;
mod hash_map;
mod idle;
mod neighbours;
mod report;

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use foldhost_tests::kafka::Broker;
use foldhost_tests::paths::Scratch;

use crate::args::Args;
use crate::foldhost::{EMPTY_TOPIC, Foldhost};
use crate::measure::median;

/// Parts that are no curve.
const IDLE: &str = "idle";
const NEIGHBOURS: &str = "neighbours";

/// Values of every figure, one for each round.
#[derive(Debug, Default)]
struct Figures(BTreeMap<String, Vec<f64>>);

impl Figures {
    fn add(&mut self, figure: impl Into<String>, value: f64) {
        let figure = figure.into();
        eprintln!("bench:   {figure} {value:.3}");
        self.0.entry(figure).or_default().push(value);
    }

    fn median(&self, figure: &str) -> Option<f64> {
        median(self.0.get(figure)?)
    }

    /// How many times `base` a figure is, in each round in which both were measured. Empty without one.
    fn ratios(&self, figure: &str, base: &str) -> Vec<f64> {
        let of = |figure: &str| self.0.get(figure).into_iter().flatten();
        of(figure)
            .zip(of(base))
            .map(|(value, base)| value / base)
            .collect()
    }

    fn medians(&self) -> Value {
        let medians = self.0.keys().filter_map(|figure| {
            let median = self.median(figure)?;
            Some((figure.clone(), json!(median)))
        });
        Value::Object(medians.collect::<Map<_, _>>())
    }
}

/// What the parts stand on.
struct Bed<'a> {
    args: &'a Args,
    broker: Broker,
    scratch: Scratch,
}

impl Bed<'_> {
    /// Runs `work` with a host that has compiled the component and has nothing to do. Its folders are removed.
    fn with_host<T>(
        &self,
        cluster: &str,
        work: impl FnOnce(&mut Foldhost) -> Result<T>,
    ) -> Result<T> {
        let folder = self.scratch.join(cluster);
        let mut host = Foldhost::start(&self.broker, cluster, &folder)?;
        host.warm_up(self.args)?;
        let done = work(&mut host).with_context(|| format!("with the host of {cluster}"))?;
        drop(host);
        fs::remove_dir_all(folder)?;
        Ok(done)
    }
}

/// Everything that was asked for: the report, and the medians.
///
/// # Errors
/// If there is no such part, or a host does not do what it must.
pub(crate) fn run(args: &Args) -> Result<(String, Value)> {
    let curves = curves::all(args);
    let mut parts: Vec<&str> = curves.iter().map(|curve| curve.name).collect();
    parts.extend([IDLE, NEIGHBOURS]);
    for only in &args.only {
        let there_are = parts.join(", ");
        ensure!(
            parts.contains(&only.as_str()),
            "no part '{only}': there are {there_are}"
        );
    }
    let bed = Bed {
        args,
        broker: Broker::start()?,
        scratch: Scratch::new("growth")?,
    };
    bed.broker.create_topic(EMPTY_TOPIC, 1)?;
    let mut figures = Figures::default();
    for curve in curves.iter().filter(|curve| args.takes(curve.name)) {
        curves::measure(&bed, curve, &mut figures)?;
    }
    if args.takes(IDLE) {
        idle::measure(&bed, &mut figures)?;
    }
    if args.takes(NEIGHBOURS) {
        neighbours::measure(&bed, &mut figures)?;
    }
    Ok((report::text(args, &curves, &figures), figures.medians()))
}
