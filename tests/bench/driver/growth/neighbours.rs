//! What a plugin that loops for ever costs the answers of another: point queries on a view that is well behaved,
//! alone, then beside one that loops in its answers, then beside one that loops on its events. Both are in
//! `plugins/misbehaving`; the host cuts off each of their calls when its fuel is used up, and they begin the next.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use foldhost_tests::http::Client;
use foldhost_tests::operate;
use foldhost_tests::paths::repository;
use foldhost_tests::wait::let_pass;

use super::{Bed, Figures};
use crate::child::WITHIN;
use crate::foldhost::Foldhost;
use crate::input::{Input, key_text};
use crate::queries::{Target, latency};
use crate::topic;

/// The neighbours in the order of the report: their names in figures, and what they are.
pub(super) const NEIGHBOURS: [(&str, &str); 3] = [
    ("answer_1", "loops in `answer`, one client asks it"),
    ("answer_8", "loops in `answer`, eight clients ask it"),
    ("fold", "loops in `fold`, on every event of 128 partitions"),
];
/// The view without a neighbour.
pub(super) const ALONE: &str = "alone";

const IN_ANSWER: &str = "loops-in-answer";
const ON_EVENT: &str = "loops-on-event";
/// The value at which it loops.
const POISON: &str = "poison";
const KEYS: u64 = 100_000;
const PARTITIONS: i32 = 128;
/// Events of all its partitions, on which it loops in batches, in halves of them, and so on, until each partition
/// knows the one that stops it.
const POISONED: u64 = 40_000;
/// Most plugins that loop on them, one after the other, each for some ten seconds of two threads.
const LOOPERS_MAX: u64 = 64;
/// Between two looks at how many of a looper's partitions have stopped. A look is a question to the host, too, of
/// milliseconds: many of them would be what is measured.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const LASTS: Duration = Duration::from_secs(20);
const LASTS_QUICK: Duration = Duration::from_secs(5);

/// Name of a quantile, in microseconds, beside a neighbour.
pub(super) fn figure(neighbour: &str, quantile: &str) -> String {
    format!("neighbour_{neighbour}_{quantile}_us")
}

/// Measures all of them, on one host.
///
/// # Errors
/// If the view does not answer, or a neighbour did not loop while it was asked.
pub(super) fn measure(bed: &Bed<'_>, figures: &mut Figures) -> Result<()> {
    let input = Input {
        topic: "growth-neighbours".to_owned(),
        ..Input::new("neighbours", KEYS, KEYS)
    };
    topic::fill(&bed.broker, &input)?;
    let poisoned = "growth-poisoned";
    bed.broker.create_topic(poisoned, PARTITIONS)?;
    let keys: Vec<String> = (0..POISONED).map(key_text).collect();
    let events: Vec<_> = keys
        .iter()
        .map(|key| (key.as_str(), Some(POISON)))
        .collect();
    bed.broker.produce(poisoned, &events)?;
    for round in 1..=bed.args.rounds {
        bed.with_host(&format!("neighbours-{round}"), |host| {
            host.fold(bed.args, &input)?;
            let target = Target {
                address: host.address().to_owned(),
                path_of: Foldhost::path_of,
                process: host.process(),
            };
            let lasts = if bed.args.quick { LASTS_QUICK } else { LASTS };
            let mut ask = |beside: &str| -> Result<()> {
                eprintln!("bench: neighbours: {beside}");
                let latency = latency(&target, &input, lasts)?;
                figures.add(figure(beside, "p50"), latency.p50_us);
                figures.add(figure(beside, "p99"), latency.p99_us);
                Ok(())
            };
            ask(ALONE)?;
            deploy(host.client(), IN_ANSWER, IN_ANSWER, &input.topic)?;
            host.wait_caught_up(IN_ANSWER)?;
            for (name, clients) in [("answer_1", 1), ("answer_8", 8)] {
                let askers = Askers::start(host.client(), clients);
                let asked = ask(name);
                askers.finish()?;
                asked?;
            }
            let loopers = Loopers::start(host.client(), poisoned);
            // One partition has found the event that stops it, so the others are at it.
            operate::wait_blocked(host.client(), &looper(1), WITHIN)?;
            let asked = ask("fold");
            loopers.finish()?;
            asked
        })?;
    }
    Ok(())
}

fn deploy(client: &Client, name: &str, plugin: &str, topic: &str) -> Result<()> {
    let path = repository()
        .join("plugins/misbehaving/prebuilt")
        .join(format!("{plugin}.wasm"));
    let component =
        fs::read(&path).with_context(|| format!("no component at {}", path.display()))?;
    let topic = format!("topic=flights={topic}");
    client.deploy(name, &topic, component)?.success()?;
    Ok(())
}

/// Name of the plugin that loops on events as the `number`th.
fn looper(number: u64) -> String {
    format!("{ON_EVENT}-{number}")
}

/// Partitions of a looper that have not stopped yet.
fn looping(client: &Client, name: &str) -> Result<usize> {
    let plugin = operate::plugin(client, name)?;
    let partitions = operate::partitions(&plugin)?;
    let is_looping = |partition: &&Value| partition["status"] != "blocked";
    Ok(partitions.iter().filter(is_looping).count())
}

/// Plugins that loop on events. A partition ends at the event that it loops on, so the next plugin is deployed when
/// half of one's partitions have: there is always one that loops.
struct Loopers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Loopers {
    fn start(client: &Client, topic: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, stopped) = (client.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for number in 1..=LOOPERS_MAX {
                let name = looper(number);
                deploy(&client, &name, ON_EVENT, topic)?;
                let mut left = usize::MAX;
                while left > usize::try_from(PARTITIONS)? / 2 {
                    let_pass(LOOK_EVERY);
                    left = looping(&client, &name)?;
                    ensure!(left > 0, "all of {name} stopped between two looks");
                    if stopped.load(Ordering::Relaxed) {
                        eprintln!("bench:   {left} partitions of {name} were looping still");
                        return Ok(());
                    }
                }
            }
            bail!("the last plugin stopped looping before the questions ended")
        });
        Self { stop, thread }
    }

    /// Stops deploying; fails if nothing was looping any more.
    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the deployer panicked")?
    }
}

/// Clients that keep a plugin looping in its answers.
struct Askers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<u64>>>,
}

impl Askers {
    fn start(client: &Client, count: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|number| {
                let (client, stopped) = (client.clone(), Arc::clone(&stop));
                std::thread::spawn(move || {
                    let mut cut_off = 0;
                    while !stopped.load(Ordering::Relaxed) {
                        let key = key_text(number);
                        client
                            .ask(IN_ANSWER, &key, "/always")?
                            .expect_problem(500, "plugin-trapped")?;
                        cut_off += 1;
                    }
                    Ok(cut_off)
                })
            })
            .collect();
        Self { stop, threads }
    }

    /// Stops them; each must have been cut off at least once.
    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let mut cut_off = 0;
        for thread in self.threads {
            let count = thread.join().ok().context("an asker panicked")??;
            ensure!(count > 0, "an asker was never answered");
            cut_off += count;
        }
        eprintln!("bench:   {cut_off} answers were cut off");
        Ok(())
    }
}
