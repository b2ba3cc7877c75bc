//! Everything at once for a while: events as fast as they are offered, questions all the time, new code
//! again and again, `kill -9` now and then. At the end every count is exact, and memory has not grown.
//! One minute; `FOLDHOST_SOAK_MINUTES=30` for a long one.

#![allow(
    clippy::print_stderr,
    reason = "figures for whoever runs it with --nocapture"
)]

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::feed::{Feed, Pace, Records, expect_counts};
use foldhost_tests::host::{GENEROUS, Host, Start};
use foldhost_tests::http::Client;
use foldhost_tests::load::{Code, Load, Plan, Target};
use foldhost_tests::operate::{code, count_of, deploy, plugin, version, wait_serving};
use foldhost_tests::paths::Scratch;
use foldhost_tests::wait::{Stopwatch, wait_until_ok};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

/// Records a second that are offered.
const OFFERED: u64 = 20_000;
const BATCH: usize = 2_000;
const KEYS: u32 = 20_000;
const ASKED_KEYS: usize = 60;
/// Resident memory that no start of the host may pass, in bytes: states of all keys, the caches of the
/// log and the store, the components' code.
const RESIDENT_MAX: u64 = 700 << 20;
/// What a later start may need more than the first ones, in bytes.
const GROWTH_MAX: u64 = 96 << 20;
/// What a machine that does something else beside it must still do.
const WITHIN: Duration = Duration::from_secs(180);

/// How long it goes on, and how often something happens.
struct Course {
    length: Duration,
    swap_every: Duration,
    kill_every: Duration,
}

impl Course {
    fn of_this_run() -> Result<Self> {
        let minutes = std::env::var("FOLDHOST_SOAK_MINUTES").ok();
        let minutes = minutes.map(|text| text.parse::<u64>()).transpose();
        let minutes = minutes.context("FOLDHOST_SOAK_MINUTES is a number of minutes")?;
        Ok(match minutes {
            None => Self {
                length: Duration::from_secs(60),
                swap_every: Duration::from_secs(4),
                kill_every: Duration::from_secs(15),
            },
            Some(minutes) => Self {
                length: Duration::from_secs(60 * minutes),
                swap_every: Duration::from_secs(60),
                kill_every: Duration::from_secs(300),
            },
        })
    }
}

/// Records of keys by chance, without end.
fn records() -> Records {
    let mut chance = ChaCha8Rng::seed_from_u64(20_000);
    Box::new((0_u64..).map(move |n| {
        let key = chance.random_range(0..KEYS);
        json!({"key": format!("k{key}"), "value": n})
    }))
}

/// Resident memory of a process in bytes.
fn resident(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes: u64 = kilobytes.context("no VmRSS")?.trim().parse()?;
    Ok(kilobytes << 10)
}

/// What was seen of one start of the host.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    resident_max: u64,
    resident_last: u64,
    written: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} MB at most, {} MB at last, {} records in",
            self.resident_max >> 20,
            self.resident_last >> 20,
            self.written
        )
    }
}

struct Soak {
    start: Start,
    target: Target,
    versions: u32,
    order: Vec<Code>,
}

impl Soak {
    /// Deploys the next version on the states as they are, and waits until it serves.
    fn swap(&mut self, client: &Client) -> Result<()> {
        self.versions += 1;
        let wasm = version("counter", &format!("1.{}.0", self.versions))?;
        let done = deploy(client, "counter", "state=keep", &wasm)?.expect(200, "swapped")?;
        self.order.push(code(done.generation, &wasm));
        let path = format!(
            "/v1/plugins/counter/ready?_wait=30&_deployment={}",
            done.deployment
        );
        wait_until_ok(WITHIN, "the new code to serve", || {
            client.get(&path)?.expect_status(200)
        })?;
        Ok(())
    }

    /// One start of the host, from ready to `kill -9` or the end.
    fn one_start(
        &mut self,
        host: &mut Host,
        lives: Duration,
        swap_every: Duration,
    ) -> Result<Seen> {
        let client = host.client()?;
        self.target.up(&client);
        let process = host.process().id();
        let alive = Stopwatch::start();
        let mut swapped = Stopwatch::start();
        let mut seen = Seen::default();
        while alive.elapsed() < lives {
            if swapped.elapsed() >= swap_every {
                self.swap(&client)?;
                swapped = Stopwatch::start();
            }
            seen.resident_last = resident(process)?;
            seen.resident_max = seen.resident_max.max(seen.resident_last);
            ensure!(seen.resident_max < RESIDENT_MAX, "too much memory: {seen}");
            // A question of its own keeps this from spinning, and watches the host.
            client.get("/readyz")?.expect_status(200)?;
            foldhost_tests::wait::let_pass(Duration::from_millis(200));
        }
        Ok(seen)
    }
}

#[test]
fn a_minute_of_everything_leaves_every_count_exact() -> Result<()> {
    let course = Course::of_this_run()?;
    let scratch = Scratch::new("soak")?;
    let start = Start::serve(scratch.path());
    let mut host = start.ready()?;
    let client = host.client()?;
    let first = version("counter", "0.0.1")?;
    let done = deploy(&client, "counter", "", &first)?.expect(201, "created")?;
    wait_serving(&client, "counter", done.deployment, GENEROUS)?;
    let mut soak = Soak {
        start,
        target: Target::new(&client),
        versions: 0,
        order: vec![code(done.generation, &first)],
    };
    let pace = Pace {
        batch: BATCH,
        per_second: OFFERED,
    };
    let feed = Feed::start(&soak.target, "flights", records(), pace);
    feed.wait_more(u64::from(KEYS), WITHIN)?;
    let load = Load::start(
        &soak.target,
        &Plan {
            view: "counter".into(),
            keys: (0..ASKED_KEYS).map(|n| format!("k{n}")).collect(),
            rest: String::new(),
            grows: "count",
            per_second: 200,
            threads: 3,
        },
    );

    let whole = Stopwatch::start();
    let mut starts = Vec::new();
    loop {
        let left = course.length.saturating_sub(whole.elapsed());
        let lives = course.kill_every.min(left);
        let before = feed.written();
        let mut seen = soak
            .one_start(&mut host, lives, course.swap_every)
            .with_context(|| host.log_tail())?;
        seen.written = feed.written() - before;
        eprintln!("start {}: {seen}", starts.len() + 1);
        starts.push(seen);
        if whole.elapsed() >= course.length {
            break;
        }
        soak.target.down();
        host.kill()?;
        host = soak.start.ready()?;
    }
    finish(&host, feed, load, &soak)?;
    expect_flat(&starts)
}

/// Stops what goes on, and compares every count.
fn finish(host: &Host, feed: Feed, load: Load, soak: &Soak) -> Result<()> {
    let client = host.client()?;
    let fed = feed.finish()?;
    #[allow(clippy::cast_precision_loss)]
    let rate = fed.written as f64 / fed.took.as_secs_f64();
    eprintln!("{fed:?}: {rate:.0} a second of {OFFERED} offered");
    host.wait_caught_up("counter", WITHIN)?;
    let report = load.finish()?;
    eprintln!("{report}, {} found no host", report.without_host);
    report.expect_order(&soak.order)?;
    expect_counts(&client, "counter", &fed.counts)?;
    let plugin = plugin(&client, "counter")?;
    let swaps = u64::from(soak.versions);
    eprintln!(
        "{swaps} swaps, the last is deployment {}",
        count_of(&plugin, "deployment")?
    );
    ensure!(
        swaps > 0 && report.without_host > 0,
        "nothing was swapped or killed"
    );
    Ok(())
}

/// The later starts need no more than the first ones.
fn expect_flat(starts: &[Seen]) -> Result<()> {
    let half = starts.len().div_ceil(2);
    let most = |starts: &[Seen]| {
        starts
            .iter()
            .map(|seen| seen.resident_max)
            .max()
            .unwrap_or(0)
    };
    let (first, last) = (most(&starts[..half]), most(&starts[starts.len() - half..]));
    ensure!(
        last <= first + GROWTH_MAX,
        "from {} MB to {} MB: {starts:?}",
        first >> 20,
        last >> 20
    );
    Ok(())
}
