//! Acknowledged means durable: the kernel has been asked to sync, and has said that it did, before the
//! answer leaves; and where it says that it could not, nothing is acknowledged. Shown with `strace`.

#![allow(
    clippy::print_stderr,
    reason = "figures for whoever runs it with --nocapture"
)]

use std::path::Path;

use anyhow::{Context, Result, ensure};
use foldhost_tests::host::{GENEROUS, Start};
use foldhost_tests::operate::{post, skip, version, wait_blocked};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::trace::{self, Exchange};
use foldhost_tests::{topic, wait};
use serde_json::{Value, json};

fn record(n: usize) -> Value {
    json!({"key": format!("k{n}"), "value": n})
}

/// Says why a scenario is not tried, where this machine cannot.
fn can_trace() -> bool {
    let can = trace::is_possible();
    if !can {
        eprintln!("not tried: no strace here, or it may not trace");
    }
    can
}

/// Every exchange of a request: answered with `status`, and something below `folder` synced before.
fn expect_synced(
    trace: &str,
    request: &str,
    count: usize,
    status: u16,
    folder: &Path,
) -> Result<()> {
    let exchanges = trace::exchanges(trace, request)?;
    ensure!(exchanges.len() == count, "{request}: {exchanges:?}");
    for exchange in &exchanges {
        let Exchange {
            synced,
            status: told,
        } = exchange;
        ensure!(*told == status, "{request}: {exchange:?}");
        ensure!(
            synced
                .iter()
                .any(|file| Path::new(file).starts_with(folder)),
            "{request} was answered before anything below {} was synced: {exchange:?}",
            folder.display()
        );
    }
    eprintln!(
        "{request}: {count} answers, syncs before each: {:?}",
        exchanges[0].synced
    );
    Ok(())
}

#[test]
fn nothing_is_acknowledged_before_its_sync() -> Result<()> {
    if !can_trace() {
        return Ok(());
    }
    let scratch = Scratch::new("synced")?;
    let file = scratch.join("trace");
    let host = trace::around(Start::serve(scratch.path()), &file).ready()?;
    let client = host.client()?;
    client
        .put_json("/v1/topics/t", &json!({"partitions": 2}))?
        .success()?;
    for n in 0..10 {
        client.append("t", &[record(n)])?.expect_status(200)?;
    }
    let deployed = client.deploy("latest", "", prebuilt_plugin("latest")?)?;
    deployed.expect_status(201)?;
    host.wait_caught_up("latest", GENEROUS)?;
    let swapped = client.deploy("latest", "state=keep", version("latest", "2.0.0")?)?;
    swapped.expect_status(200)?;
    for what in ["pause", "resume"] {
        post(&client, "latest", what)?.expect_status(200)?;
    }
    let poison = json!({"key": "k", "value_text": "{not json"});
    let (partition, offset) = client.append_all("events", &[poison])?[0];
    wait_blocked(&client, "latest", GENEROUS)?;
    let at = format!("events/{partition}@{offset}");
    skip(&client, "latest", &at, "broken sensor")?.expect_status(200)?;
    client.delete("/v1/plugins/latest")?.success()?;
    ensure!(host.stop()? == 0);

    let trace = std::fs::read_to_string(&file).context("strace has written nothing")?;
    let log = scratch.join("data");
    let objects = scratch.join("data/objects");
    let synced = |request: &str, count, status| expect_synced(&trace, request, count, status, &log);
    synced("POST /v1/topics/t/records", 10, 200)?;
    synced("PUT /v1/topics/t ", 1, 201)?;
    synced("POST /v1/plugins/latest/pause", 1, 200)?;
    synced("POST /v1/plugins/latest/resume", 1, 200)?;
    synced("POST /v1/plugins/latest/skip", 1, 200)?;
    synced("PUT /v1/plugins/latest?state=keep", 1, 200)?;
    synced("DELETE /v1/plugins/latest", 1, 204)?;
    // A component is in the object store before its deployment is.
    expect_synced(&trace, "PUT /v1/plugins/latest HTTP", 1, 201, &objects)
}

#[test]
fn a_sync_that_fails_acknowledges_nothing() -> Result<()> {
    if !can_trace() {
        return Ok(());
    }
    let scratch = Scratch::new("sync-fails")?;
    let mut host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    client
        .put_json("/v1/topics/t", &json!({"partitions": 1}))?
        .success()?;
    client.append_all("t", &(0..10).map(record).collect::<Vec<_>>())?;
    let process = host.process().id();
    let tracer = trace::failing_syncs(process, &scratch.join("strace.log"))?;
    let refused = client.append("t", &[record(10)])?;
    ensure!([503, 504].contains(&refused.status), "{refused:?}");
    let deployed = client.deploy("latest", "", prebuilt_plugin("latest")?)?;
    ensure!([503, 504].contains(&deployed.status), "{deployed:?}");
    // What the disk could not keep is not shown to anybody as if it were there.
    let seen = topic::read_all(&client, "t")?;
    ensure!(
        seen.len() == 10,
        "{} records are shown, ten are kept",
        seen.len()
    );
    tracer_ends(tracer)?;

    // The disk is as it was again; the log does not believe it until a restart.
    let still = client.append("t", &[record(11)])?;
    ensure!(still.status == 503, "{still:?}");
    still.expect_words(&["started again"])?;
    client.get("/healthz")?.expect_status(200)?;
    let host = host.kill()?.ready()?;
    let client = host.client()?;
    client.append("t", &[record(12)])?.expect_status(200)?;
    let kept = topic::read_all(&client, "t")?;
    let keys: Vec<&str> = kept
        .iter()
        .filter_map(|record| record["key"].as_str())
        .collect();
    let acknowledged: Vec<String> = (0..10).chain([12]).map(|n| format!("k{n}")).collect();
    for key in &acknowledged {
        ensure!(
            keys.contains(&key.as_str()),
            "{key} was acknowledged: {keys:?}"
        );
    }
    // Nobody was told of the others: one of unknown outcome may be there, a refused one not.
    ensure!(!keys.contains(&"k11"), "{keys:?}");
    Ok(())
}

/// Lets the process go on untraced.
fn tracer_ends(mut tracer: foldhost_tests::process::Supervised) -> Result<()> {
    tracer.signal("INT")?;
    let (took, ended) = wait::timed(|| tracer.wait_for_end(GENEROUS));
    ended.with_context(|| format!("strace did not let go within {took:?}"))?;
    Ok(())
}
