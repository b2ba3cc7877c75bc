//! The feed of changes as whoever keeps a copy sees it: a reader that comes and goes misses nothing, whatever is
//! killed; what is said where it has to begin again, and about every bad request.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use foldhost_tests::events::{Copy, Events};
use foldhost_tests::feed::{Feed, Pace};
use foldhost_tests::host::{GENEROUS, Host, Start, run_in, run_well, shown};
use foldhost_tests::http::{Client, Reply};
use foldhost_tests::load::Target;
use foldhost_tests::operate::{deploy, wait_serving};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::wait::{let_pass, wait_until_ok};
use foldhost_tests::wasm;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// A host that was killed is itself again, with other tests beside it.
const WITHIN: Duration = Duration::from_secs(120);
const CHANGES: usize = 30_000;
const KEYS: u32 = 700;
const KILLS: u32 = 5;

/// `latest`, with more in its manifest.
fn latest(fields: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut wasm = prebuilt_plugin("latest")?;
    for (field, value) in fields {
        wasm = wasm::with_field(&wasm, field, value)?;
    }
    Ok(wasm)
}

/// Its states are committed, and so told, at once.
fn followed() -> Result<Vec<u8>> {
    latest(&[("changes", "true"), ("commit-interval", "\"50ms\"")])
}

fn changes(client: &Client, parameters: &str) -> Result<Reply> {
    client.get(&format!("/v1/views/latest/changes?{parameters}"))
}

/// All that there is after a token, and the token behind it.
fn all_after(client: &Client, since: Option<&str>) -> Result<(Vec<Value>, String)> {
    let mut since = since.map(str::to_owned);
    let mut all = Vec::new();
    loop {
        let of = since.as_ref().map(|it| format!("&_since={it}"));
        let parameters = format!("_limit=7&_include=state{}", of.unwrap_or_default());
        let page = changes(client, &parameters)?.expect_status(200)?.json()?;
        all.extend(page["changes"].as_array().context("no changes")?.clone());
        let next = page["next"].as_str().context("no token")?.to_owned();
        if page["more"] == false {
            return Ok((all, next));
        }
        since = Some(next);
    }
}

/// Waits until a key has changed after a token as it should have, and gives all that has changed.
fn wait_told(client: &Client, since: &str, key: &str, deleted: bool) -> Result<Vec<Value>> {
    wait_until_ok(GENEROUS, &format!("{key} to be told"), || {
        let (all, _) = all_after(client, Some(since))?;
        let told = all.iter().find(|it| it["key"] == key).context("not told")?;
        ensure!(told["deleted"] == deleted, "{told}");
        Ok(all)
    })
}

fn append(client: &Client, key: &str, value: &Value) -> Result<()> {
    client
        .append_all("events", &[json!({"key": key, "value": value})])
        .map(drop)
}

/// Random records: new values, and every fifth a tombstone.
fn records(seed: u64) -> impl Iterator<Item = Value> + Send {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..CHANGES).map(move |number| {
        let key = format!("key-{}", rng.random_range(0..KEYS));
        let value = match rng.random_bool(0.2) {
            true => Value::Null,
            false => json!({"n": number}),
        };
        json!({"key": key, "value": value})
    })
}

/// A reader that connects, reads some events, and disconnects, again and again.
struct Reader {
    target: Target,
    stop: Arc<AtomicBool>,
    copy: Arc<Mutex<Copy>>,
    connections: Arc<AtomicU64>,
    rng: ChaCha8Rng,
}

impl Reader {
    fn run(mut self) -> Result<()> {
        let mut last_event: Option<String> = None;
        while !self.stop.load(Ordering::SeqCst) {
            let Some(client) = self.target.client() else {
                let_pass(Duration::from_millis(20));
                continue;
            };
            let path = "/v1/views/latest/changes?_include=state";
            // A host that is being killed, or not ready yet.
            let Ok(mut events) = Events::connect(&client, path, last_event.as_deref()) else {
                let_pass(Duration::from_millis(20));
                continue;
            };
            self.connections.fetch_add(1, Ordering::SeqCst);
            for _ in 0..self.rng.random_range(1..400) {
                let Ok(Some(event)) = events.read() else {
                    break;
                };
                match event.name.as_str() {
                    "change" => {
                        let change: Value = serde_json::from_str(&event.data)?;
                        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
                        copy.apply(&change)?;
                        last_event = Some(event.id.context("a change has an id")?);
                    }
                    // Comments, and the partitions that a host has not opened yet.
                    "" | "missing" => {}
                    // The host was stopped: the connection ends.
                    "problem" => ensure!(event.data.contains("shutting-down"), "{event:?}"),
                    other => {
                        return Err(anyhow!("an event that nobody expects: {other}: {event:?}"));
                    }
                }
                if self.stop.load(Ordering::SeqCst) {
                    break;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_reader_that_comes_and_goes_has_an_equal_copy() -> Result<()> {
    let scratch = Scratch::new("changes")?;
    let mut host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    let done = deploy(&client, "latest", "", &followed()?)?.expect(201, "created")?;
    wait_serving(&client, "latest", done.deployment, GENEROUS)?;
    let target = Target::new(&client);
    let (stop, copy) = (Arc::default(), Arc::<Mutex<Copy>>::default());
    let connections = Arc::<AtomicU64>::default();
    let reader = Reader {
        target: target.clone(),
        stop: Arc::clone(&stop),
        copy: Arc::clone(&copy),
        connections: Arc::clone(&connections),
        rng: ChaCha8Rng::seed_from_u64(11),
    };
    let reader = std::thread::spawn(move || reader.run());
    let pace = Pace {
        batch: 20,
        per_second: 1_000,
    };
    let feed = Feed::start(&target, "events", Box::new(records(12)), pace);
    let mut rng = ChaCha8Rng::seed_from_u64(13);
    for _ in 0..KILLS {
        feed.wait_more(rng.random_range(500..1_500), WITHIN)?;
        target.down();
        let start = host.kill()?;
        host = start.ready()?;
        target.up(&host.client()?);
    }
    let mut fed = feed.finish()?;
    let client = host.client()?;
    fed.write_rest(&client)?;
    ensure!(fed.written == CHANGES as u64, "{fed:?}");
    host.wait_caught_up("latest", WITHIN)?;
    let listed = Copy::listed(&client, "latest")?;
    ensure!(
        listed.0.len() > 100 && listed.0.len() < KEYS as usize,
        "{}",
        listed.0.len()
    );
    let equal = wait_until_ok(WITHIN, "the copy to equal the store", || {
        let copy = copy.lock().unwrap_or_else(PoisonError::into_inner);
        let differ = |key: &&String| copy.0.get(*key) != listed.0.get(*key);
        let keys: BTreeSet<_> = copy.0.keys().chain(listed.0.keys()).collect();
        let wrong: Vec<_> = keys.into_iter().filter(differ).take(5).collect();
        ensure!(wrong.is_empty(), "{wrong:?} of {} differ", listed.0.len());
        Ok(())
    });
    stop.store(true, Ordering::SeqCst);
    // Whoever waits for an event hears that the host stops.
    target.down();
    ensure!(host.stop()? == 0, "a clean stop");
    reader
        .join()
        .map_err(|_| anyhow!("the reader panicked"))??;
    equal?;
    let connections = connections.load(Ordering::SeqCst);
    ensure!(connections > u64::from(KILLS), "{connections} connections");
    Ok(())
}

/// A view that changes are remembered of, with some keys.
fn three_keys(host: &Host) -> Result<Client> {
    let client = host.client()?;
    let done = deploy(&client, "latest", "", &followed()?)?.expect(201, "created")?;
    wait_serving(&client, "latest", done.deployment, GENEROUS)?;
    for key in ["a", "b", "c"] {
        append(&client, key, &json!(1))?;
    }
    host.wait_caught_up("latest", GENEROUS)?;
    wait_until_ok(GENEROUS, "the keys to be committed", || {
        let (all, _) = all_after(&client, None)?;
        ensure!(all.len() == 3, "{all:?}");
        Ok(())
    })?;
    Ok(client)
}

#[test]
fn what_has_changed_since_a_token_is_told() -> Result<()> {
    let scratch = Scratch::new("changes-pages")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = three_keys(&host)?;
    let (all, token) = all_after(&client, None)?;
    let listed = Copy::listed(&client, "latest")?;
    let mut copy = Copy::default();
    for item in &all {
        copy.apply(item)?;
        ensure!(item["deleted"] == false, "{item}");
    }
    ensure!(copy == listed, "{copy:?} {listed:?}");
    ensure!(
        all_after(&client, Some(&token))?.0.is_empty(),
        "nothing has changed"
    );

    append(&client, "a", &json!(2))?;
    append(&client, "b", &Value::Null)?;
    wait_told(&client, &token, "a", false)?;
    let told = wait_told(&client, &token, "b", true)?;
    ensure!(told.len() == 2, "{told:?}");
    for change in &told {
        copy.apply(change)?;
        if change["deleted"] == true {
            ensure!(
                change["version"].is_null() && change["answer"].is_null(),
                "{change}"
            );
        }
    }
    ensure!(copy == Copy::listed(&client, "latest")?, "{copy:?}");
    // Without the state: a key and its version.
    let bare = changes(&client, &format!("_since={token}"))?
        .expect_status(200)?
        .json()?;
    ensure!(
        bare["restarted"] == false && bare["missing"] == json!([]),
        "{bare}"
    );
    let bare = bare["changes"].as_array().context("no changes")?;
    ensure!(bare.iter().all(|it| it.get("answer").is_none()), "{bare:?}");
    ensure!(bare.iter().any(|it| it["version"].is_string()), "{bare:?}");
    // A page waits for a change, if it is asked to.
    let (_, token) = all_after(&client, Some(&token))?;
    let waited = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| changes(&client, &format!("_since={token}&_wait=60")));
        append(&client, "c", &json!(2))?;
        waiting.join().map_err(|_| anyhow!("it panicked"))?
    })?;
    let waited = waited.expect_status(200)?.json()?;
    ensure!(waited["changes"][0]["key"] == "c", "{waited}");
    // The same on the command line.
    let run = |arguments: &[&str]| run_in(scratch.path(), host.url(), arguments);
    let printed = run(&["changes", "latest", "--state"])?;
    let lines = String::from_utf8_lossy(&printed.stdout).lines().count();
    ensure!(
        lines == 2 && shown(&printed).contains("--since "),
        "{}",
        shown(&printed)
    );
    let since = run_well(
        scratch.path(),
        host.url(),
        &["changes", "latest", "--since", &token],
    )?;
    ensure!(
        since.contains("\"key\":\"c\"") && since.lines().count() == 1,
        "{since}"
    );
    Ok(())
}

#[test]
fn what_is_wrong_with_a_request_is_said() -> Result<()> {
    let scratch = Scratch::new("bad-changes")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = three_keys(&host)?;
    let plain = latest(&[])?;
    deploy(&client, "plain", "topic=events=other", &plain)?.expect(201, "created")?;
    let other = latest(&[("changes", "true"), ("name", "\"other\"")])?;
    let done = deploy(&client, "other", "", &other)?.expect(201, "created")?;
    wait_serving(&client, "other", done.deployment, GENEROUS)?;

    client
        .get("/v1/views/nobody/changes")?
        .expect_problem(404, "unknown-plugin")?;
    client
        .get("/v1/views/plain/changes")?
        .expect_problem(409, "no-changes")?
        .expect_words(&["changes = true", "plugin.toml"])?;
    for bad in [
        "_limit=0",
        "_limit=1001",
        "_limit=x",
        "_wait=61",
        "_include=states",
        "_sinc=x",
    ] {
        changes(&client, bad)?.expect_problem(400, "bad-parameter")?;
    }
    changes(&client, "verbose=1")?
        .expect_problem(400, "bad-parameter")?
        .expect_words(&["_include=state"])?;
    let (_, token) = all_after(&client, None)?;
    let swapped = token.chars().rev().collect::<String>();
    for garbage in [
        "x",
        "AQ",
        "not+base64!",
        &swapped,
        &token[..token.len() - 1],
    ] {
        changes(&client, &format!("_since={garbage}"))?
            .expect_problem(400, "bad-changes-token")?
            .expect_words(&["_since"])?;
    }
    let foreign = client
        .get("/v1/views/other/changes")?
        .expect_status(200)?
        .json()?;
    let foreign = foreign["next"].as_str().context("no token")?;
    changes(&client, &format!("_since={foreign}"))?
        .expect_problem(400, "bad-changes-token")?
        .expect_words(&["other", "latest"])?;
    // A stream is refused as a page is, and has no pages.
    let stream = |parameters: &str, id: &str| {
        let path = format!("/v1/views/latest/changes?{parameters}");
        let headers = [("accept", "text/event-stream"), ("last-event-id", id)];
        client.get_with(&path, &headers)
    };
    stream("", foreign)?.expect_problem(400, "bad-changes-token")?;
    stream("_limit=5", "")?.expect_problem(400, "bad-parameter")?;
    stream("_wait=5", "")?.expect_problem(400, "bad-parameter")?;
    // The id counts, not where the stream began.
    stream(&format!("_since={token}"), "garbage")?.expect_problem(400, "bad-changes-token")?;
    let alone = latest(&[("changes-keep-deletions", "\"1d\""), ("name", "\"alone\"")])?;
    client
        .deploy("alone", "", alone)?
        .expect_problem(422, "invalid-plugin")?
        .expect_words(&["changes-keep-deletions", "changes = true"])?;
    Ok(())
}

#[test]
fn a_token_from_before_a_forgotten_deletion_is_too_old() -> Result<()> {
    let scratch = Scratch::new("old-changes")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    let forgetful = latest(&[
        ("changes", "true"),
        ("changes-keep-deletions", "\"1s\""),
        ("commit-interval", "\"50ms\""),
        ("inputs", "[\"one\"]"),
    ])?;
    client
        .put_json("/v1/topics/one", &json!({"partitions": 1}))?
        .success()?;
    let done = deploy(&client, "latest", "", &forgetful)?.expect(201, "created")?;
    wait_serving(&client, "latest", done.deployment, GENEROUS)?;
    let append =
        |key: &str, value: &Value| client.append_all("one", &[json!({"key": key, "value": value})]);
    append("a", &json!(1))?;
    let token = wait_until_ok(GENEROUS, "a to be committed", || {
        let (all, token) = all_after(&client, None)?;
        ensure!(all.len() == 1, "{all:?}");
        Ok(token)
    })?;
    append("a", &Value::Null)?;
    wait_until_ok(GENEROUS, "the deletion to be forgotten", || {
        // It is forgotten with a commit.
        append("b", &json!(1))?;
        changes(&client, &format!("_since={token}"))?
            .expect_problem(410, "changes-token-too-old")?
            .expect_words(&["changes-keep-deletions", "begin again"])
    })?;
    client
        .get_with(
            "/v1/views/latest/changes",
            &[("accept", "text/event-stream"), ("last-event-id", &token)],
        )?
        .expect_problem(410, "changes-token-too-old")?;
    let (all, _) = all_after(&client, None)?;
    ensure!(all.len() == 1 && all[0]["key"] == "b", "{all:?}");
    Ok(())
}

#[test]
fn changes_are_remembered_from_when_they_are_asked_for() -> Result<()> {
    let scratch = Scratch::new("changes-deployed")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    let of = |version: &str, has_changes: &str| {
        let interval = ("commit-interval", "\"50ms\"");
        let version = format!("\"{version}\"");
        latest(&[("changes", has_changes), interval, ("version", &version)])
    };
    let serve = |parameters: &str, wasm: &[u8]| {
        let done = deploy(&client, "latest", parameters, wasm)?;
        wait_serving(&client, "latest", done.deployment, GENEROUS)
    };
    serve("", &of("1.0.0", "false")?)?;
    for key in ["a", "b", "c"] {
        append(&client, key, &json!(1))?;
    }
    host.wait_caught_up("latest", GENEROUS)?;
    changes(&client, "")?.expect_problem(409, "no-changes")?;
    // What was there is told as it is, and what comes then.
    serve("state=keep", &of("1.1.0", "true")?)?;
    let (all, token) = all_after(&client, None)?;
    ensure!(all.len() == 3, "{all:?}");
    append(&client, "b", &json!(2))?;
    let told = wait_told(&client, &token, "b", false)?;
    ensure!(told.len() == 1, "{told:?}");
    // What happens meanwhile nobody remembers: whoever was told before begins again.
    serve("state=keep", &of("1.2.0", "false")?)?;
    append(&client, "a", &Value::Null)?;
    host.wait_caught_up("latest", GENEROUS)?;
    changes(&client, &format!("_since={token}"))?.expect_problem(409, "no-changes")?;
    serve("state=keep", &of("1.3.0", "true")?)?;
    changes(&client, &format!("_since={token}"))?.expect_problem(410, "changes-token-too-old")?;
    let (all, token) = all_after(&client, None)?;
    ensure!(all.len() == 2, "{all:?}");
    // Another generation: all of it is told again, and it is said.
    serve("", &of("2.0.0", "true")?)?;
    let page = changes(&client, &format!("_since={token}"))?
        .expect_status(200)?
        .json()?;
    ensure!(page["restarted"] == true, "{page}");
    wait_until_ok(GENEROUS, "the new states to be committed", || {
        let (all, _) = all_after(&client, Some(&token))?;
        ensure!(all.len() == 2, "{all:?}");
        Ok(())
    })?;
    let mut events = Events::connect(&client, "/v1/views/latest/changes", Some(&token))?;
    let names: Vec<_> = (0..4)
        .map(|_| Ok(events.read()?.context("the stream has ended")?.name))
        .collect::<Result<_>>()?;
    ensure!(names == ["", "restarted", "change", "change"], "{names:?}");
    Ok(())
}

#[test]
fn a_command_handler_tells_the_versions_of_its_documents() -> Result<()> {
    let scratch = Scratch::new("changes-documents")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    let documents = prebuilt_plugin("documents")?;
    let documents = wasm::with_field(&documents, "changes", "true")?;
    let done = deploy(&client, "documents", "", &documents)?.expect(201, "created")?;
    wait_serving(&client, "documents", done.deployment, GENEROUS)?;
    let mut events = Events::connect(&client, "/v1/views/documents/changes?_include=state", None)?;
    let mut next = || -> Result<Value> {
        loop {
            let event = events.read()?.context("the stream has ended")?;
            if event.name == "change" {
                return Ok(serde_json::from_str(&event.data)?);
            }
        }
    };
    let send = |method: &str, condition: (&str, &str), body: Option<Value>| {
        let headers = [("content-type", "application/json"), condition];
        let body = body.map(|body| body.to_string().into_bytes());
        client
            .send(method, "/v1/views/documents/keys/ann", &headers, body)?
            .success()
    };
    send("PUT", ("if-none-match", "*"), Some(json!({"name": "Ann"})))?;
    let told = next()?;
    ensure!(
        told["key"] == "ann" && told["answer"]["name"] == "Ann",
        "{told}"
    );
    let version = |told: &Value| told["version"].as_str().unwrap_or_default().to_owned();
    ensure!(version(&told).starts_with("1-"), "{told}");
    send("DELETE", ("if-match", "\"1\""), None)?;
    let told = next()?;
    ensure!(
        told["deleted"] == true && version(&told).starts_with("2-"),
        "{told}"
    );
    Ok(())
}
