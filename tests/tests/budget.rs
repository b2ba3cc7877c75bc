//! States within a budget: far more keys than fit into memory, right answers for hot and cold ones, and
//! memory that does not grow with them. 400,000 events over 100,000 keys with 8 MiB for states;
//! `FOLDHOST_TEST_FULL=1`: 4 million over 1 million with 64 MiB; `FOLDHOST_BUDGET_KEYS=10000000` for any
//! other number of keys, with two events each.

#![allow(
    clippy::print_stderr,
    reason = "figures for whoever runs it with --nocapture"
)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::feed::counted;
use foldhost_tests::full;
use foldhost_tests::host::{Host, Start};
use foldhost_tests::http::Client;
use foldhost_tests::memory;
use foldhost_tests::paths::Scratch;
use serde_json::json;

const SAMPLES: u64 = 1_000;
const BATCH: u64 = 2_000;
/// What a host may hold at most, however many keys there are.
const RESIDENT_BYTES_MAX: u64 = 400_000_000;
/// Keys that are not in memory are read from the store, some ten thousand in a second.
const WITHIN: Duration = Duration::from_secs(3_600);

/// What this run does.
struct Size {
    keys: u64,
    events_per_key: u64,
    budget: &'static str,
}

fn size() -> Result<Size> {
    if let Ok(keys) = std::env::var("FOLDHOST_BUDGET_KEYS") {
        return Ok(Size {
            keys: keys.parse().context("FOLDHOST_BUDGET_KEYS is a number")?,
            events_per_key: 2,
            budget: "64MiB",
        });
    }
    let (keys, budget) = if full() {
        (1_000_000, "64MiB")
    } else {
        (100_000, "8MiB")
    };
    Ok(Size {
        keys,
        events_per_key: 4,
        budget,
    })
}

/// Every key has all of its events: those that were folded long ago, and those of a moment ago.
fn expect_samples(client: &Client, size: &Size) -> Result<()> {
    let Size {
        keys,
        events_per_key,
        ..
    } = *size;
    for sample in 0..SAMPLES {
        let cold_or_hot = if sample % 2 == 0 {
            sample * (keys / SAMPLES)
        } else {
            keys - 1 - sample
        };
        let key = format!("key-{cold_or_hot}");
        let count = counted(client, "counter", &key)?;
        ensure!(count == Some(events_per_key), "{key}: {count:?}");
    }
    Ok(())
}

fn expect_memory(host: &mut Host, when: &str) -> Result<()> {
    let resident = memory::resident(host.process().id())?;
    eprintln!("{when}: {resident:?}");
    ensure!(
        resident.peak_bytes < RESIDENT_BYTES_MAX,
        "{when}: {resident:?}"
    );
    Ok(())
}

#[test]
fn more_keys_than_memory_answer_right_and_memory_stays() -> Result<()> {
    let size = size()?;
    let scratch = Scratch::new("budget")?;
    let config = scratch.write(
        "budget.toml",
        format!("[state]\ncache-bytes = \"{}\"\n", size.budget),
    )?;
    let start = Start::serve(scratch.path()).config(&config);
    let mut host = start.ready()?;
    ensure!(host.log().contains("memory: "), "the plan is not printed");
    let client = host.client()?;
    host.deploy_prebuilt("counter", "")?;
    for round in 0..size.events_per_key {
        for from in (0..size.keys).step_by(usize::try_from(BATCH)?) {
            let batch: Vec<_> = (from..size.keys.min(from + BATCH))
                .map(|key| json!({"key": format!("key-{key}"), "value": round}))
                .collect();
            client.append_all("flights", &batch)?;
        }
    }
    host.wait_caught_up("counter", WITHIN)?;
    expect_samples(&client, &size)?;
    expect_memory(&mut host, "folded")?;
    let metrics = client.get("/metrics")?.expect_status(200)?.text();
    for figure in [
        "foldhost_memory_plan_bytes{part=\"states\"}",
        "foldhost_memory_used_bytes",
    ] {
        ensure!(metrics.contains(figure), "{figure} is missing");
    }

    let start = host.kill()?;
    let mut host = start.ready()?;
    host.wait_caught_up("counter", WITHIN)?;
    expect_samples(&host.client()?, &size)?;
    expect_memory(&mut host, "killed and started again")?;
    Ok(())
}
