//! Commands in batches, and about keys of any bytes: over HTTP and by the command line.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::command::{batch, command, documents, send_batch, version, wait_deciding};
use foldhost_tests::host::{Host, Start, kafka_config, run_in, run_with_input, shown};
use foldhost_tests::http::{Client, number};
use foldhost_tests::operate::deploy;
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::wait::{Stopwatch, let_pass};
use foldhost_tests::{kafka, topic, wasm};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(120);

/// `orders`, which takes commands without a condition.
fn orders() -> Result<Vec<u8>> {
    let wasm = prebuilt_plugin("orders")?;
    wasm::with_field(&wasm, "expected-version", "\"optional\"")
}

fn dishes(count: usize) -> Vec<String> {
    (0..count).map(|dish| format!("dish-{dish}")).collect()
}

fn status(line: &Value) -> u64 {
    line["status"].as_u64().unwrap_or_default()
}

#[test]
fn a_batch_is_decided_in_order_and_answered_line_by_line() -> Result<()> {
    let scratch = Scratch::new("batch")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    deploy(&client, "orders", "", &orders()?)?.expect(201, "created")?;
    let dishes = dishes(20);
    let keys: Vec<&str> = dishes.iter().map(String::as_str).collect();
    wait_deciding(&client, "orders", &keys)?;

    let mut commands = Vec::new();
    for round in 0..30_u64 {
        for dish in &dishes {
            commands.push(match round {
                0 => json!({"key": dish, "command": "offer", "body": {"portions": 29}, "if_absent": true}),
                _ => json!({"key": dish, "command": "order", "body": {"table": 1, "portions": 1}, "if_version": round}),
            });
        }
    }
    for (number, command) in commands.iter_mut().enumerate() {
        command["id"] = json!(format!("c-{number}"));
    }
    let refused = json!({"key": "dish-0", "command": "order", "body": {"table": 1, "portions": 1}, "id": "late"});
    let unknown = json!({"key": "dish-0", "command": "ordr", "id": "unknown"});
    let stale = json!({"key": "dish-1", "command": "offer", "body": {"portions": 1}, "if_version": 3, "id": "stale"});
    let bad = json!({"key": "dish-2", "command": "offer", "body": {"portions": 0}, "id": "bad"});
    let unnamed = json!({"key_base64": "ZGlzaC0z", "command": "offer", "body_base64": "eyJwb3J0aW9ucyI6NX0="});
    commands.extend([refused, unknown, stale, bad, unnamed, commands[0].clone()]);

    let told = batch(&client, "orders", &commands)?;
    for (number, line) in told[..600].iter().enumerate() {
        let round = number as u64 / 20;
        ensure!(
            status(line) == 200 && line["id"] == format!("c-{number}"),
            "{line}"
        );
        ensure!(
            line["version"] == round + 1 && line["reply"]["left"] == 29 - round,
            "{line}"
        );
        ensure!(
            line.get("repeat").is_none() && line["position"].is_string(),
            "{line}"
        );
    }
    let [refused, unknown, stale, bad, unnamed, repeated] = &told[600..] else {
        anyhow::bail!("{} lines", told.len());
    };
    ensure!(
        status(refused) == 422
            && refused["problem"]["code"] == "command-refused"
            && refused["problem"]["refusal"] == "sold-out"
            && refused["problem"]["details"]["left"] == 0,
        "{refused}"
    );
    ensure!(
        status(unknown) == 400 && unknown["problem"]["code"] == "unknown-command",
        "{unknown}"
    );
    ensure!(status(stale) == 412 && stale["version"] == 30, "{stale}");
    ensure!(
        status(bad) == 400 && bad["problem"]["field"] == "portions",
        "{bad}"
    );
    ensure!(
        status(unnamed) == 200 && unnamed["version"] == 31,
        "{unnamed}"
    );
    ensure!(
        unnamed["id"].as_str().is_some_and(|id| !id.is_empty()),
        "{unnamed}"
    );
    ensure!(
        repeated["repeat"] == true && repeated["reply"] == told[0]["reply"],
        "{repeated}"
    );

    // The same again, by another process: nothing is done twice.
    let events = topic::read_all(&client, "orders")?.len();
    ensure!(events == 601, "{events}");
    let host = host.kill()?.ready()?;
    let client = host.client()?;
    wait_deciding(&client, "orders", &keys)?;
    for (line, before) in batch(&client, "orders", &commands[..602])?
        .iter()
        .zip(&told)
    {
        ensure!(
            status(line) == status(before) && line["reply"] == before["reply"],
            "{line}"
        );
        ensure!(line["repeat"] == true || line["id"] == "unknown", "{line}");
    }
    ensure!(topic::read_all(&client, "orders")?.len() == events);
    Ok(())
}

#[test]
fn nothing_of_a_batch_is_decided_if_a_line_is_bad() -> Result<()> {
    let scratch = Scratch::new("bad-batch")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    deploy(&client, "orders", "", &orders()?)?.expect(201, "created")?;
    deploy(
        &client,
        "latest",
        "topic=events=other",
        &prebuilt_plugin("latest")?,
    )?
    .expect(201, "created")?;
    wait_deciding(&client, "orders", &["soup"])?;
    let good = json!({"key": "soup", "command": "offer", "body": {"portions": 1}}).to_string();
    for (bad, words) in [
        ("{\"key\":\"soup\"", "EOF"),
        ("{\"key\":\"soup\"}", "missing field `command`"),
        (
            "{\"key\":\"soup\",\"command\":\"offer\",\"if\":1}",
            "unknown field `if`",
        ),
    ] {
        let text = format!("{good}\n\n{bad}\n{good}\n");
        let told = send_batch(&client, "orders", &text)?
            .expect_problem(400, "bad-record")?
            .expect_words(&[words, "nothing was decided"])?
            .json()?;
        ensure!(told["line"] == 3, "{told}");
    }
    send_batch(&client, "orders", "\n")?.expect_problem(400, "bad-request")?;
    send_batch(&client, "latest", &good)?.expect_problem(409, "not-a-handler")?;
    let json = [("content-type", "application/json")];
    client
        .send(
            "POST",
            "/v1/commands/orders",
            &json,
            Some(good.clone().into_bytes()),
        )?
        .expect_problem(415, "unsupported-media-type")?;
    client
        .get("/v1/commands/orders")?
        .expect_problem(405, "method-not-allowed")?;
    let many = format!("{good}\n").repeat(10_001);
    send_batch(&client, "orders", &many)?.expect_problem(413, "too-large")?;
    ensure!(
        topic::read_all(&client, "orders")?.is_empty(),
        "something was decided"
    );
    Ok(())
}

/// The rounds that fit of a dish of so many portions: the offer, and orders of one or two portions in turn.
fn in_order(rounds: u64) -> Vec<u64> {
    let mut left = rounds;
    let fits = (1..rounds).filter(|round| match left.checked_sub(round % 2 + 1) {
        Some(now) => {
            left = now;
            true
        }
        None => false,
    });
    std::iter::once(0).chain(fits).collect()
}

/// Batches of orders while the host is killed: what has no outcome is sent again, and each is done once, in order.
fn survives_kills(start: &Start, kills: u32) -> Result<()> {
    const ROUNDS: u64 = 40;
    let host = start.ready()?;
    let client = host.client()?;
    deploy(&client, "orders", "", &orders()?)?.expect(201, "created")?;
    let dishes = dishes(24);
    let keys: Vec<&str> = dishes.iter().map(String::as_str).collect();
    wait_deciding(&client, "orders", &keys)?;
    let base = Mutex::new(host.url().to_owned());
    // Of each dish, its batch: that a later one is never done before an earlier one shows in what is left.
    let serve = |table: usize, dishes: &[String]| -> Result<()> {
        let mut left: Vec<Value> = (0..ROUNDS)
            .flat_map(|round| dishes.iter().map(move |dish| (round, dish)))
            .map(|(round, dish)| {
                let body = match round {
                    0 => json!({"portions": ROUNDS}),
                    _ => json!({"table": table, "portions": round % 2 + 1}),
                };
                let name = if round == 0 { "offer" } else { "order" };
                json!({"key": dish, "command": name, "body": body, "id": format!("{dish}/{round}")})
            })
            .collect();
        let since = Stopwatch::start();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        while !left.is_empty() {
            ensure!(since.elapsed() < WITHIN, "{} have no outcome", left.len());
            let url = base.lock().expect("no client panics").clone();
            let told = Client::new(&url).and_then(|client| batch(&client, "orders", &left));
            let Ok(told) = told else {
                let_pass(Duration::from_millis(20));
                continue;
            };
            let mut open = Vec::new();
            for (sent, line) in left.into_iter().zip(told) {
                if status(&line) >= 500 || status(&line) == 421 {
                    open.push(sent);
                    continue;
                }
                ensure!(matches!(status(&line), 200 | 422), "{line}");
                let key = sent["key"].as_str().context("no key")?.to_owned();
                let at = number(&line["version"]).context("no version")?;
                let before = last.insert(key, at).unwrap_or_default();
                ensure!(before <= at, "{line} comes after version {before}");
            }
            left = open;
        }
        Ok(())
    };
    let mut host: Option<Host> = Some(host);
    std::thread::scope(|scope| -> Result<()> {
        let serve = &serve;
        let parts = dishes.chunks(6).enumerate();
        let clients: Vec<_> = parts
            .map(|(table, part)| scope.spawn(move || serve(table, part)))
            .collect();
        for pause in [60, 350, 500].into_iter().cycle().take(kills as usize) {
            let_pass(Duration::from_millis(pause));
            let again = host.take().context("no host")?.kill()?.ready()?;
            again
                .url()
                .clone_into(&mut base.lock().expect("no client panics"));
            host = Some(again);
        }
        for client in clients {
            client.join().expect("no client panics")?;
        }
        Ok(())
    })?;
    // The log tells the rounds of each dish in order, each once, and none was refused that fitted.
    let client = host.as_ref().context("no host")?.client()?;
    let mut causes: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let expected = in_order(ROUNDS);
    let count = dishes.len() * expected.len();
    for event in topic::read_at_least(&client, "orders", count, WITHIN)? {
        let cause = event["headers"]["foldhost-cause"]
            .as_str()
            .context("no cause")?;
        let (dish, round) = cause
            .trim_start_matches("command ")
            .split_once('/')
            .context("another cause")?;
        causes
            .entry(dish.to_owned())
            .or_default()
            .push(round.parse()?);
    }
    ensure!(causes.len() == dishes.len(), "{causes:?}");
    for (dish, rounds) in causes {
        ensure!(rounds == expected, "{dish}: {rounds:?}, not {expected:?}");
    }
    Ok(())
}

#[test]
fn what_has_no_outcome_is_repeated_in_order() -> Result<()> {
    let scratch = Scratch::new("batch-kills")?;
    survives_kills(&Start::serve(scratch.path()), 3)
}

#[test]
fn what_has_no_outcome_is_repeated_in_order_on_kafka() -> Result<()> {
    let broker = kafka::shared()?;
    let scratch = Scratch::new("batch-kafka")?;
    let config = kafka_config(&scratch, &broker, "batches", &scratch.join("objects"))?;
    survives_kills(&Start::serve(scratch.path()).config(&config), 2)
}

#[test]
fn any_key_can_be_commanded() -> Result<()> {
    let scratch = Scratch::new("any-key")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    deploy(&client, "documents", "", &documents()?)?.expect(201, "created")?;
    let json = ("content-type", "application/json");
    let absent = ("if-none-match", "*");
    // A slash, bytes that are no text, nothing at all, and what else a path takes for something else.
    for key in ["YS9i", "_wA", "=", "Lg", "a2V5cy1iNjQ"] {
        wait_deciding(&client, "documents", &[&*format!("keys-b64/{key}")])?;
        let at = |version: u64| format!("\"{version}\"");
        let send = |method: &str, path: &str, condition: (&str, &str), body: &str| {
            let body = Some(body.as_bytes().to_vec());
            client.send(method, path, &[json, condition], body)
        };
        let url = format!("/v1/views/documents/keys-b64/{key}");
        let put = format!("/v1/commands/documents/keys-b64/{key}/put");
        let done = send("POST", &put, absent, "{\"n\":1}")?.expect_status(200)?;
        ensure!(version(&done)? == 1, "{done:?}");
        let done = send("PUT", &url, ("if-match", &at(1)), "{\"n\":2}")?.expect_status(200)?;
        ensure!(version(&done)? == 2, "{done:?}");
        send("PATCH", &url, ("if-match", &at(2)), "{\"m\":3}")?.expect_status(200)?;
        let shown = client.get(&url)?.expect_status(200)?;
        ensure!(shown.text() == "{\"n\":2,\"m\":3}", "{shown:?}");
        send("DELETE", &url, ("if-match", &at(2)), "")?
            .expect_problem(412, "precondition-failed")?;
        send("DELETE", &url, ("if-match", &at(3)), "")?.expect_status(200)?;
        client.get(&url)?.expect_problem(404, "not-found")?;
    }
    // The text of a key may be that of the route.
    let to = ["documents", "keys-b64", "put"];
    command(&client, to, &json!({"n": 7}), &[("if-match", "\"4\"")])?
        .expect_problem(412, "precondition-failed")?;
    command(&client, to, &json!({"n": 7}), &[absent])?.expect_status(200)?;
    client
        .send(
            "POST",
            "/v1/commands/documents/keys-b64/a b/put",
            &[json, absent],
            Some(b"{}".to_vec()),
        )?
        .expect_problem(400, "bad-key")?;
    Ok(())
}

#[test]
fn the_command_line_sends_batches_and_tells_refusals() -> Result<()> {
    let scratch = Scratch::new("batch-cli")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    deploy(&client, "orders", "", &orders()?)?.expect(201, "created")?;
    wait_deciding(&client, "orders", &["soup", "cake"])?;
    let (base, folder) = (client.base().to_owned(), scratch.path());
    let lines = [
        "{\"key\":\"soup\",\"command\":\"offer\",\"body\":{\"portions\":2},\"id\":\"a\"}",
        "",
        "{\"key\":\"cake\",\"command\":\"offer\",\"body\":{\"portions\":1},\"id\":\"b\"}",
    ];
    let file = scratch.join("commands.ndjson");
    std::fs::write(&file, lines.join("\n"))?;
    let file = file.to_str().context("a path is text")?;
    let output = run_in(folder, &base, &["command", "orders", "--file", file])?;
    ensure!(output.status.code() == Some(0), "{}", shown(&output));
    let printed = String::from_utf8(output.stdout)?;
    let told: Vec<Value> = printed
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(
        told.len() == 2 && told[1]["line"] == 3 && told[1]["reply"] == json!({"left": 1}),
        "{printed}"
    );
    let again = run_in(folder, &base, &["command", "orders", "--file", file])?;
    ensure!(
        shown(&again).contains("\"repeat\":true"),
        "{}",
        shown(&again)
    );
    // The rules say no: a code of its own, with the handler's word.
    let order = [
        "command",
        "orders",
        "cake",
        "order",
        "{\"table\":1,\"portions\":2}",
    ];
    let output = run_in(folder, &base, &order)?;
    let text = shown(&output);
    ensure!(output.status.code() == Some(7), "{text}");
    ensure!(
        text.contains("[sold-out]") && text.contains("details: {\"left\":1}"),
        "{text}"
    );
    let refused = "{\"key\":\"cake\",\"command\":\"order\",\"body\":{\"table\":1,\"portions\":2}}";
    let output = run_with_input(folder, &base, &["command", "orders", "-f", "-"], refused)?;
    let text = shown(&output);
    ensure!(output.status.code() == Some(7), "{text}");
    ensure!(
        text.contains("\"refusal\":\"sold-out\"") && text.contains("1 commands were refused"),
        "{text}"
    );
    let output = run_with_input(folder, &base, &["command", "orders", "-f", "-"], "{\n")?;
    ensure!(output.status.code() == Some(4), "{}", shown(&output));
    let both = run_in(
        folder,
        &base,
        &["command", "orders", "cake", "offer", "--file", file],
    )?;
    ensure!(both.status.code() == Some(2), "{}", shown(&both));
    Ok(())
}
