//! The host is killed between any two of its durable steps (`host/src/fail.rs`): while it opens a partition,
//! around a transaction, around a commit of states, while it merges; also with other code deployed just before.
//! Whoever starts next publishes what is missing, and nothing twice.

#![allow(
    clippy::print_stderr,
    reason = "figures for whoever runs it with --nocapture"
)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::feed::expect_counts;
use foldhost_tests::host::{GENEROUS, Host, Start};
use foldhost_tests::http::Client;
use foldhost_tests::operate::{deploy, settled, version, wait_serving};
use foldhost_tests::paths::Scratch;
use foldhost_tests::running_count::{self, Inputs};
use foldhost_tests::wait::{wait_until, wait_until_ok};
use foldhost_tests::{topic, wasm};
use serde_json::{Value, json};

const NAME: &str = "running-count";
const INPUT: &str = "flights";
const OUTPUT: &str = "counts";
/// On every partition there are some.
const KEYS: u64 = 40;
const WITHIN: Duration = Duration::from_secs(120);
/// Rounds of records that are sent as fast as they are taken, so that the host has several steps under way.
const HURRIED_ROUNDS: u64 = 40;
/// Rounds behind them that wait for what they cause. A host that opens late makes few steps of the others.
const CALM_ROUNDS: u64 = 20;

/// Steps of the open order, each while the host starts again. How often it comes by before it dies.
const OPENING: [(&str, u32); 6] = [
    ("WriterFenced", 1),
    ("StoreOpened", 2),
    ("EpochCommitted", 1),
    ("OwnerAnnounced", 3),
    ("JournalRead", 1),
    ("JournalRead", 4),
];
/// Steps of the commit order, while records come in and other code takes over.
const WORKING: [(&str, u32); 6] = [
    ("TransactionBegins", 2),
    ("TransactionWritten", 1),
    ("TransactionWritten", 6),
    ("CommitBegins", 2),
    ("CommitWritten", 1),
    ("CommitWritten", 5),
];
/// Steps of the merge stage.
const MERGING: [(&str, u32); 4] = [
    ("MergeFenced", 2),
    ("MergeBegins", 2),
    ("MergeWritten", 1),
    ("MergeWritten", 3),
];

/// A host on a log of its own, and what it deploys.
struct Bed {
    start: Start,
    /// Whether the plugin has a second input, of which nothing comes.
    is_merged: bool,
    /// The last deployment that was acknowledged.
    deployment: u64,
    sent: u64,
    _scratch: Scratch,
}

impl Bed {
    fn new(name: &str, is_merged: bool) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        Ok(Self {
            start: Start::serve(scratch.path()),
            is_merged,
            deployment: 0,
            sent: 0,
            _scratch: scratch,
        })
    }

    /// Deploys the code that says this word.
    fn deploy(&mut self, client: &Client, word: &str) -> Result<()> {
        let mut wasm = version(NAME, &format!("1.0.0-{word}"))?;
        if self.is_merged {
            wasm = wasm::with_field(&wasm, "inputs", &format!("[\"{INPUT}\", \"others\"]"))?;
        }
        let done = deploy(client, NAME, &format!("set=word={word}&state=keep"), &wasm)?;
        self.deployment = done.deployment;
        Ok(())
    }

    /// Writes some records; whether they were written is asked of the log in the end.
    fn send(&mut self, client: &Client, records: u64) -> Result<()> {
        let numbers = self.sent..self.sent + records;
        self.sent += records;
        let records: Vec<Value> = numbers
            .map(|n| json!({"key": format!("k{}", n % KEYS), "value": n}))
            .collect();
        client.append(INPUT, &records)?.success().map(drop)
    }

    fn wait_published(&self, client: &Client, records: u64) -> Result<()> {
        wait_until_ok(WITHIN, "all to be published", || {
            let end = topic::end(client, OUTPUT)?;
            ensure!(end >= records, "{end} of {records}");
            Ok(())
        })
    }

    /// Waits until all is published, or nobody answers any more.
    fn wait_published_or_gone(&self, client: &Client) -> Result<()> {
        wait_until(WITHIN, "all to be published", || {
            let is_missing = topic::end(client, OUTPUT).is_ok_and(|end| end < self.sent);
            (!is_missing).then_some(())
        })
    }

    fn wait_settled(&self, host: &Host) -> Result<()> {
        let client = host.client()?;
        wait_until_ok(WITHIN, "all to be folded", || {
            settled(&client, NAME).map(drop)
        })
        .with_context(|| host.log_tail())
    }

    /// Starts a host that works, publishes what is missing, and judges all of it.
    fn check(mut self, words: &[&str]) -> Result<()> {
        let host = self.start.ready()?;
        let client = host.client()?;
        for word in words {
            self.deploy(&client, word)?;
        }
        // What comes from here on is of the last word.
        wait_serving(&client, NAME, self.deployment, WITHIN)?;
        self.send(&client, 2 * KEYS)?;
        self.wait_settled(&host)?;
        let inputs = Inputs::over_http(&client, INPUT)?;
        self.wait_published(&client, inputs.total() as u64)?;
        let published = running_count::over_http(&client, OUTPUT)?;
        running_count::check(&inputs, &published, &["first", "second"])
            .with_context(|| host.log_tail())?;
        expect_counts(&client, NAME, &inputs.counts())
    }
}

/// Killed while it opens what it had before: its states are behind what it has published.
fn opening(point: &str, times: u32) -> Result<()> {
    let mut bed = Bed::new(&format!("opening-{point}-{times}"), false)?;
    let host = bed.start.ready()?;
    let client = host.client()?;
    bed.deploy(&client, "first")?;
    bed.send(&client, 5 * KEYS)?;
    bed.wait_published(&client, 5 * KEYS)?;
    bed.deploy(&client, "second")?;
    bed.send(&client, 5 * KEYS)?;
    bed.start = host.kill()?;
    let armed = bed.start.clone().killed_at(point, times);
    armed.spawn()?.wait_for_end(GENEROUS)?;
    bed.check(&[])
}

/// Killed while it works, with other code deployed meanwhile.
fn working(point: &str, times: u32, is_merged: bool) -> Result<()> {
    let mut bed = Bed::new(&format!("working-{point}-{times}"), is_merged)?;
    let host = bed.start.ready()?;
    let client = host.client()?;
    bed.deploy(&client, "first")?;
    bed.send(&client, 2 * KEYS)?;
    bed.wait_settled(&host)?;
    host.stop()?;
    let armed = bed.start.clone().killed_at(point, times);
    let mut host = armed.spawn()?;
    // From here on it may be gone at any moment: what fails because of that is no fault.
    if host.wait_listening().is_ok() {
        let client = host.client()?;
        for round in 0..HURRIED_ROUNDS + CALM_ROUNDS {
            if bed.send(&client, KEYS).is_err() {
                break;
            }
            if round == 2 {
                // Whether it is decided, the host that comes next knows.
                let _ = bed.deploy(&client, "second");
            }
            if round >= HURRIED_ROUNDS {
                bed.wait_published_or_gone(&client)?;
            }
        }
    }
    host.wait_for_end(GENEROUS)
        .with_context(|| format!("it never came by {point} {times} times"))?;
    bed.check(&["second"])
}

#[test]
fn a_host_that_dies_while_it_opens_publishes_nothing_twice() -> Result<()> {
    for (point, times) in OPENING {
        opening(point, times).with_context(|| format!("{point}, {times}"))?;
        eprintln!("{point}, {times}: each output once");
    }
    Ok(())
}

#[test]
fn a_host_that_dies_while_it_commits_publishes_nothing_twice() -> Result<()> {
    for (point, times) in WORKING {
        working(point, times, false).with_context(|| format!("{point}, {times}"))?;
        eprintln!("{point}, {times}: each output once");
    }
    Ok(())
}

#[test]
fn a_host_that_dies_while_it_merges_copies_nothing_twice() -> Result<()> {
    for (point, times) in MERGING {
        working(point, times, true).with_context(|| format!("{point}, {times}"))?;
        eprintln!("{point}, {times}: each output once");
    }
    Ok(())
}
