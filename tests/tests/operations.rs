//! What operators do to a plugin that runs: roll back, pause and resume, skip an event, delete. All of it
//! durable, told in the plugin's status, and over when it says so.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::host::{GENEROUS, Host, Start};
use foldhost_tests::http::{Client, number};
use foldhost_tests::load::Tag;
use foldhost_tests::operate::{
    Done, code, count_of, deploy, partitions, plugin, post, rollback, settled, skip, skip_blocked,
    version, wait_blocked, wait_committed, wait_serving,
};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::wait::wait_until_ok;
use foldhost_tests::wasm;
use serde_json::{Value, json};

const BUILT_WITHIN: Duration = Duration::from_secs(120);

fn record(key: &str, value: Value) -> Value {
    json!({"key": key, "value": value})
}

/// `counter` as this version, whose generation before is kept or not.
fn counter(number: &str, keep_generations: u32) -> Result<Vec<u8>> {
    let plain = version("counter", number)?;
    wasm::with_field(&plain, "keep-generations", &keep_generations.to_string())
}

/// A host on which this code of `counter` has counted ten records of each of twenty keys.
fn counting(start: &Start, first: &[u8]) -> Result<(Host, Client, Done)> {
    let host = start.ready()?;
    let client = host.client()?;
    let done = deploy(&client, "counter", "", first)?.expect(201, "created")?;
    let records: Vec<Value> = (0..200)
        .map(|n| record(&format!("k{}", n % 20), json!(n)))
        .collect();
    client.append_all("flights", &records)?;
    host.wait_caught_up("counter", GENEROUS)?;
    Ok((host, client, done))
}

/// Who answers about a key, and what it has counted.
fn answer(client: &Client, key: &str) -> Result<(Tag, u64)> {
    let reply = client.ask("counter", key, "")?.expect_status(200)?;
    let count = number(&reply.json()?["count"]).context("no count")?;
    Ok((reply.header("etag").context("no ETag")?.parse()?, count))
}

#[test]
fn a_rollback_builds_what_ran_before_again() -> Result<()> {
    let scratch = Scratch::new("rollback")?;
    let (one, two) = (counter("1.0.0", 0)?, counter("2.0.0", 0)?);
    let (_host, client, first) = counting(&Start::serve(scratch.path()), &one)?;
    let second = deploy(&client, "counter", "", &two)?.expect(202, "building")?;
    wait_serving(&client, "counter", second.deployment, BUILT_WITHIN)?;
    ensure!(plugin(&client, "counter")?["kept"].is_null());

    let back = rollback(&client, "counter", "")?.expect(202, "building")?;
    ensure!(
        back.generation > second.generation && back.deployment > second.deployment,
        "{back:?}"
    );
    let after = wait_serving(&client, "counter", back.deployment, BUILT_WITHIN)?;
    let last = after["deployments"]
        .as_array()
        .and_then(|all| all.last())
        .context("no deployments")?;
    ensure!(last["how"] == "rollback", "{after}");
    let (tag, count) = answer(&client, "k3")?;
    ensure!(
        tag.code() == code(back.generation, &one) && count == 10,
        "{tag:?} {count}"
    );

    // On the states as they are: what ran before is now the second version.
    let kept = rollback(&client, "counter", "state=keep")?.expect(200, "swapped")?;
    ensure!(kept.generation == back.generation, "{kept:?}");
    wait_serving(&client, "counter", kept.deployment, BUILT_WITHIN)?;
    let (tag, count) = answer(&client, "k3")?;
    ensure!(
        tag.code() == code(back.generation, &two) && count == 10,
        "{tag:?} {count}"
    );
    ensure!(first.deployment < second.deployment);
    Ok(())
}

#[test]
fn a_kept_generation_takes_over_without_a_rebuild() -> Result<()> {
    let scratch = Scratch::new("kept")?;
    let (one, two) = (counter("1.0.0", 1)?, counter("2.0.0", 1)?);
    let start = Start::serve(scratch.path());
    let (host, client, first) = counting(&start, &one)?;
    let second = deploy(&client, "counter", "", &two)?.expect(202, "building")?;
    wait_serving(&client, "counter", second.deployment, BUILT_WITHIN)?;

    // It is kept fresh: what comes now is folded by both.
    let (partition, offset) = client.append_all("flights", &[record("k3", json!(0))])?[0];
    let fresh = || {
        wait_until_ok(GENEROUS, "the kept generation to fold on", || {
            let plugin = plugin(&client, "counter")?;
            let kept = &plugin["kept"];
            ensure!(
                number(&kept["generation"]) == Some(first.generation),
                "{plugin}"
            );
            ensure!(
                kept["role"] == "kept" && number(&kept["lag"]) == Some(0),
                "{plugin}"
            );
            // The lag is that of the end as the host has last seen it.
            let mut partitions = partitions(kept)?.iter();
            let of = |it: &&Value| number(&it["partition"]) == Some(u64::from(partition));
            let folded = partitions.find(of).and_then(|it| number(&it["position"]));
            ensure!(folded >= Some(offset), "{plugin}");
            Ok(())
        })
    };
    fresh()?;
    let back = rollback(&client, "counter", "")?.expect(202, "building")?;
    ensure!(
        back.generation == first.generation,
        "it was built again: {back:?}"
    );
    let after = wait_serving(&client, "counter", back.deployment, BUILT_WITHIN)?;
    ensure!(
        count_of(&after, "generation")? == first.generation,
        "{after}"
    );
    let (tag, count) = answer(&client, "k3")?;
    ensure!(
        tag.code() == code(first.generation, &one) && count == 11,
        "{tag:?} {count}"
    );

    // And the other way round, after a restart.
    ensure!(host.stop()? == 0);
    let host = start.ready()?;
    let client = host.client()?;
    wait_until_ok(GENEROUS, "the second generation to be kept", || {
        let plugin = plugin(&client, "counter")?;
        ensure!(
            number(&plugin["kept"]["generation"]) == Some(second.generation),
            "{plugin}"
        );
        Ok(())
    })?;
    let forth = rollback(&client, "counter", "")?.expect(202, "building")?;
    ensure!(forth.generation == second.generation, "{forth:?}");
    wait_serving(&client, "counter", forth.deployment, BUILT_WITHIN)?;
    let (tag, count) = answer(&client, "k3")?;
    ensure!(
        tag.code() == code(second.generation, &two) && count == 11,
        "{tag:?} {count}"
    );

    // Asked for, it is rebuilt all the same.
    let rebuilt = rollback(&client, "counter", "state=rebuild")?.expect(202, "building")?;
    ensure!(rebuilt.generation > second.generation, "{rebuilt:?}");
    wait_serving(&client, "counter", rebuilt.deployment, BUILT_WITHIN)?;
    ensure!(answer(&client, "k3")?.1 == 11);
    Ok(())
}

#[test]
fn a_rollback_drops_what_is_being_built() -> Result<()> {
    let scratch = Scratch::new("cancel")?;
    let start = Start::serve(scratch.path());
    let (host, client, first) = counting(&start, &counter("1.0.0", 0)?)?;
    // Paused, so that the build does not end before it is dropped.
    post(&client, "counter", "pause")?.expect_status(200)?;
    let second = deploy(&client, "counter", "", &counter("2.0.0", 0)?)?.expect(202, "building")?;
    let states = scratch.join("data/objects/state/counter");
    wait_until_ok(GENEROUS, "the build to have states", || {
        let generation = states.join(second.generation.to_string());
        ensure!(
            files_below(&generation)? > 0,
            "no file below {generation:?}"
        );
        Ok(())
    })?;
    let back = rollback(&client, "counter", "")?.expect(200, "cancelled")?;
    ensure!(back.deployment == first.deployment, "{back:?}");
    post(&client, "counter", "resume")?.expect_status(200)?;
    let after = wait_serving(&client, "counter", first.deployment, BUILT_WITHIN)?;
    ensure!(
        count_of(&after, "generation")? == first.generation,
        "{after}"
    );
    let path = format!("/v1/plugins/counter/generations/{}", second.generation);
    client
        .get(&path)?
        .expect_problem(404, "unknown-generation")?;
    wait_files_gone(&states.join(second.generation.to_string()))?;
    ensure!(files_below(&states.join(first.generation.to_string()))? > 0);

    // It stays dropped, and its number is not given again.
    let start = host.kill()?;
    let host = start.ready()?;
    let client = host.client()?;
    let after = wait_serving(&client, "counter", first.deployment, BUILT_WITHIN)?;
    ensure!(after["building"].is_null(), "{after}");
    let third = deploy(&client, "counter", "", &counter("3.0.0", 0)?)?.expect(202, "building")?;
    ensure!(third.generation > second.generation, "{third:?}");
    wait_serving(&client, "counter", third.deployment, BUILT_WITHIN)?;
    ensure!(answer(&client, "k3")?.1 == 10);
    Ok(())
}

#[test]
fn pausing_stops_folding_and_no_answer() -> Result<()> {
    let scratch = Scratch::new("pause")?;
    let start = Start::serve(scratch.path());
    let (host, client, _) = counting(&start, &counter("1.0.0", 0)?)?;
    let paused = post(&client, "counter", "pause")?
        .expect_status(200)?
        .json()?;
    ensure!(paused["status"] == "paused", "{paused}");
    let again = post(&client, "counter", "pause")?
        .expect_status(200)?
        .json()?;
    ensure!(again["status"] == "paused", "{again}");
    // The answer does not wait for ever: a partition may still fold a batch.
    wait_paused(&client)?;

    let place = client.append_all("flights", &[record("k3", json!(0))])?[0];
    let position = format!("flights/{}@{}", place.0, place.1);
    let stands_still = |client: &Client| -> Result<()> {
        let headers = [
            ("foldhost-min-position", position.as_str()),
            ("prefer", "wait=1"),
        ];
        let waited = client.get_with("/v1/views/counter/keys/k3", &headers)?;
        waited.expect_problem(503, "position-not-reached")?;
        let reply = client.ask("counter", "k3", "")?.expect_status(200)?;
        ensure!(
            number(&reply.json()?["count"]) == Some(10),
            "it was folded: {reply:?}"
        );
        let plugin = plugin(client, "counter")?;
        ensure!(
            plugin["status"] == "paused" && plugin["paused"]["at_ms"].is_i64(),
            "{plugin}"
        );
        for partition in partitions(&plugin)? {
            ensure!(partition["status"] == "paused", "{plugin}");
        }
        Ok(())
    };
    stands_still(&client)?;
    // What was folded and is not committed would be folded again only after a resume.
    wait_committed(&client, "counter", GENEROUS)?;
    // Readiness does not wait for somebody to resume.
    let start = host.kill()?;
    let host = start.ready()?;
    let client = host.client()?;
    wait_paused(&client)?;
    stands_still(&client)?;

    let resumed = post(&client, "counter", "resume")?
        .expect_status(200)?
        .json()?;
    ensure!(resumed["name"] == "counter", "{resumed}");
    let reply = client
        .ask_at("counter", "k3", "", &position)?
        .expect_status(200)?;
    ensure!(number(&reply.json()?["count"]) == Some(11), "{reply:?}");
    ensure!(plugin(&client, "counter")?["paused"].is_null());
    post(&client, "counter", "resume")?.expect_status(200)?;
    settled_soon(&client)?;
    Ok(())
}

fn settled_soon(client: &Client) -> Result<Value> {
    wait_until_ok(GENEROUS, "nothing to be under way", || {
        settled(client, "counter")
    })
}

/// Waits until no partition folds any more.
fn wait_paused(client: &Client) -> Result<()> {
    wait_until_ok(GENEROUS, "the plugin to be paused", || {
        let plugin = plugin(client, "counter")?;
        ensure!(plugin["status"] == "paused", "{plugin}");
        for partition in partitions(&plugin)? {
            ensure!(partition["status"] == "paused", "{plugin}");
        }
        Ok(())
    })
}

/// Files at any depth below a folder; none where there is no folder.
fn files_below(folder: &Path) -> Result<usize> {
    let mut files = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            // It may be gone since it was listed.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => files += 1,
                Err(_) => {}
            }
        }
    }
    Ok(files)
}

fn wait_files_gone(folder: &Path) -> Result<()> {
    wait_until_ok(GENEROUS, "the states to be freed", || {
        let files = files_below(folder)?;
        ensure!(files == 0, "{files} files below {folder:?}");
        Ok(())
    })
}

#[test]
fn deleting_frees_the_states_also_after_a_kill() -> Result<()> {
    let scratch = Scratch::new("delete")?;
    let start = Start::serve(scratch.path());
    let (host, client, _) = counting(&start, &counter("1.0.0", 1)?)?;
    let second = deploy(&client, "counter", "", &counter("2.0.0", 1)?)?.expect(202, "building")?;
    wait_serving(&client, "counter", second.deployment, BUILT_WITHIN)?;
    let states = scratch.join("data/objects/state/counter");
    ensure!(files_below(&states)? > 0, "two generations and no file");
    client.delete("/v1/plugins/counter")?.success()?;
    client
        .get("/v1/plugins/counter")?
        .expect_problem(404, "unknown-plugin")?;
    wait_files_gone(&states)?;

    // The same, killed as soon as it is said to be gone.
    let third = deploy(&client, "counter", "", &counter("3.0.0", 0)?)?.expect(201, "created")?;
    ensure!(
        third.generation > second.generation,
        "a number was given twice: {third:?}"
    );
    wait_serving(&client, "counter", third.deployment, BUILT_WITHIN)?;
    ensure!(files_below(&states)? > 0, "a generation and no file");
    client.delete("/v1/plugins/counter")?.success()?;
    let start = host.kill()?;
    let host = start.ready()?;
    let client = host.client()?;
    client
        .get("/v1/plugins/counter")?
        .expect_problem(404, "unknown-plugin")?;
    wait_files_gone(&states)?;
    Ok(())
}

/// A host on which `latest` is blocked at an event of `k3`: (host, where it is blocked).
fn blocked_at_an_event(start: &Start) -> Result<(Host, Client, String)> {
    let host = start.ready()?;
    let client = host.client()?;
    host.deploy_prebuilt("latest", "")?;
    let before: Vec<Value> = (0..60)
        .map(|n| record(&format!("k{}", n % 20), json!(1)))
        .collect();
    client.append_all("events", &before)?;
    let poison = json!({"key": "k3", "value_text": "{not json"});
    let (partition, offset) = client.append_all("events", &[poison])?[0];
    let after: Vec<Value> = (0..60)
        .map(|n| record(&format!("k{}", n % 20), json!(2)))
        .collect();
    client.append_all("events", &after)?;
    let at = format!("events/{partition}@{offset}");
    let blocked = wait_blocked(&client, "latest", GENEROUS)?;
    ensure!(blocked["blocked"]["at"] == at, "not at {at}: {blocked}");
    ensure!(
        blocked["blocked"]["code"] == "rejected:bad-event",
        "{blocked}"
    );
    Ok((host, client, at))
}

fn expect_latest(client: &Client, value: u64) -> Result<()> {
    for n in 0..20 {
        let reply = client
            .ask("latest", &format!("k{n}"), "")?
            .expect_status(200)?;
        ensure!(reply.json()?["value"] == value, "{reply:?}");
    }
    Ok(())
}

#[test]
fn a_skipped_event_is_skipped_for_good() -> Result<()> {
    let scratch = Scratch::new("skip")?;
    let (host, client, at) = blocked_at_an_event(&Start::serve(scratch.path()))?;
    let (place, offset) = at.split_once('@').context("a position")?;
    let offset: u64 = offset.parse()?;
    let refused = |wrong: &str| {
        skip(&client, "latest", wrong, "a guess")?
            .expect_problem(409, "not-blocked")?
            .expect_words(&[&at])
    };
    let wrong = [
        format!("{place}@{}", offset + 1),
        format!("{place}@{}", offset - 1),
        format!("flights/0@{offset}"),
    ];
    // The cluster may hear of the block a moment later than this host.
    wait_until_ok(GENEROUS, "the refusal to say where it is blocked", || {
        refused(&wrong[0])
    })?;
    for wrong in &wrong {
        refused(wrong)?;
    }
    let done = skip(&client, "latest", &at, "broken sensor")?
        .expect_status(200)?
        .json()?;
    let first = count_of(&done, "skip")?;
    // It goes on by itself.
    host.wait_caught_up("latest", GENEROUS)?;
    expect_latest(&client, 2)?;
    let again = skip(&client, "latest", &at, "twice")?
        .expect_status(200)?
        .json()?;
    ensure!(
        count_of(&again, "skip")? == first,
        "one event, two numbers: {again}"
    );

    let listed = |client: &Client| -> Result<()> {
        let plugin = plugin(client, "latest")?;
        let skips = plugin["skips"].as_array().context("no `skips`")?;
        ensure!(skips.len() == 1, "{plugin}");
        let is_it = skips[0]["at"] == at
            && skips[0]["reason"] == "broken sensor"
            && number(&skips[0]["skip"]) == Some(first)
            && skips[0]["at_ms"].is_i64();
        ensure!(is_it, "{plugin}");
        let skipped = partitions(&plugin)?
            .iter()
            .map(|partition| number(&partition["skipped"]));
        ensure!(skipped.sum::<Option<u64>>() == Some(1), "{plugin}");
        Ok(())
    };
    listed(&client)?;
    // A rebuild meets the event again, and does not stop.
    let rebuilt =
        deploy(&client, "latest", "", &version("latest", "2.0.0")?)?.expect(202, "building")?;
    wait_serving(&client, "latest", rebuilt.deployment, BUILT_WITHIN)?;
    expect_latest(&client, 2)?;
    listed(&client)?;
    let start = host.kill()?;
    let host = start.ready()?;
    host.wait_caught_up("latest", GENEROUS)?;
    let client = host.client()?;
    expect_latest(&client, 2)?;
    listed(&client)
}

#[test]
fn a_skip_is_heard_by_a_build_that_is_blocked() -> Result<()> {
    let scratch = Scratch::new("skip-build")?;
    let (_host, client, at) = blocked_at_an_event(&Start::serve(scratch.path()))?;
    // The new code stops at the same event; both go on when it is skipped.
    let done =
        deploy(&client, "latest", "", &version("latest", "2.0.0")?)?.expect(202, "building")?;
    wait_until_ok(GENEROUS, "the build to be blocked", || {
        let plugin = plugin(&client, "latest")?;
        ensure!(plugin["building"]["status"] == "blocked", "{plugin}");
        Ok(())
    })?;
    skip_blocked(&client, "latest", &at, "broken sensor", GENEROUS)?.expect_status(200)?;
    wait_serving(&client, "latest", done.deployment, BUILT_WITHIN)?;
    expect_latest(&client, 2)
}

#[test]
fn what_is_paused_blocked_or_skipped_is_seen_by_a_later_host() -> Result<()> {
    let scratch = Scratch::new("durable")?;
    let (host, client, at) = blocked_at_an_event(&Start::serve(scratch.path()))?;
    post(&client, "latest", "pause")?.expect_status(200)?;
    let start = host.kill()?;
    let host = start.ready()?;
    let client = host.client()?;
    // Still stopped before the same event once it may fold again.
    post(&client, "latest", "resume")?.expect_status(200)?;
    let blocked = wait_blocked(&client, "latest", GENEROUS)?;
    ensure!(blocked["blocked"]["at"] == at, "{blocked}");
    skip_blocked(&client, "latest", &at, "broken sensor", GENEROUS)?.expect_status(200)?;
    // Killed right after the answer: it is decided.
    let start = host.kill()?;
    let host = start.ready()?;
    host.wait_caught_up("latest", GENEROUS)?;
    expect_latest(&host.client()?, 2)
}

#[test]
fn the_same_code_changes_nothing_unless_asked() -> Result<()> {
    let scratch = Scratch::new("same")?;
    let one = counter("1.0.0", 0)?;
    let (_host, client, first) = counting(&Start::serve(scratch.path()), &one)?;
    for parameters in ["", "state=keep"] {
        let same = deploy(&client, "counter", parameters, &one)?.expect(200, "unchanged")?;
        ensure!(same.deployment == first.deployment, "{same:?}");
    }
    let dry = client.deploy(
        "counter",
        "state=keep&dry_run=true",
        prebuilt_plugin("counter")?,
    )?;
    ensure!(dry.expect_status(200)?.json()?["outcome"] == "dry-run");
    ensure!(count_of(&settled_soon(&client)?, "deployment")? == first.deployment);
    // Whoever wants the states anew gets them.
    let anew = deploy(&client, "counter", "state=rebuild", &one)?.expect(202, "building")?;
    ensure!(anew.generation > first.generation, "{anew:?}");
    wait_serving(&client, "counter", anew.deployment, BUILT_WITHIN)?;
    ensure!(answer(&client, "k3")?.1 == 10);
    Ok(())
}
