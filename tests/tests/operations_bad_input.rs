//! Bad input to operations, each with a clear error and nothing changed: what cannot be rolled back,
//! skipped, kept or deployed. What is refused of components, records and questions is in `bad_input.rs`.

use anyhow::{Context, Result, ensure};
use foldhost_tests::host::{GENEROUS, Host, Start};
use foldhost_tests::http::{Client, Reply};
use foldhost_tests::operate::{
    count_of, deploy, migrating, plugin, post, settled, skip, skip_blocked, version, wait_blocked,
    wait_serving,
};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::{wait, wasm};
use serde_json::{Value, json};

/// A host that runs `counter`.
fn counting(scratch: &Scratch) -> Result<(Host, Client)> {
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    host.deploy_prebuilt("counter", "")?;
    let records: Vec<Value> = (0..50)
        .map(|n| json!({"key": format!("k{}", n % 5), "value": n}))
        .collect();
    client.append_all("flights", &records)?;
    host.wait_caught_up("counter", GENEROUS)?;
    Ok((host, client))
}

/// What a refusal must leave as it was.
fn unchanged(client: &Client, before: &Value) -> Result<()> {
    let now = plugin(client, "counter")?;
    for field in [
        "deployment",
        "generation",
        "digest",
        "paused",
        "building",
        "kept",
        "skips",
        "deployments",
    ] {
        ensure!(
            now[field] == before[field],
            "`{field}` was {}: {now}",
            before[field]
        );
    }
    for n in 0..5 {
        let answer = client
            .ask("counter", &format!("k{n}"), "")?
            .expect_status(200)?;
        ensure!(answer.json()?["count"] == 10, "{answer:?}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_rolled_back() -> Result<()> {
    let scratch = Scratch::new("bad-rollback")?;
    let (_host, client) = counting(&scratch)?;
    let before = settled(&client, "counter")?;
    for parameters in ["", "?state=keep", "?state=rebuild"] {
        post(&client, "counter", &format!("rollback{parameters}"))?
            .expect_problem(409, "no-previous-deployment")?
            .expect_words(&["counter"])?;
    }
    post(&client, "counter", "rollback?state=back")?.expect_problem(400, "bad-parameter")?;
    post(&client, "counter", "rollback?sate=keep")?.expect_problem(400, "bad-parameter")?;
    post(&client, "nobody", "rollback")?
        .expect_problem(404, "unknown-plugin")?
        .expect_words(&["counter"])?;
    unchanged(&client, &before)
}

#[test]
fn what_cannot_be_skipped() -> Result<()> {
    let scratch = Scratch::new("bad-skip")?;
    let (_host, client) = counting(&scratch)?;
    let before = settled(&client, "counter")?;
    // Nothing is blocked.
    skip(&client, "counter", "flights/0@0", "why not")?.expect_problem(409, "not-blocked")?;
    skip(&client, "nobody", "flights/0@0", "why not")?.expect_problem(404, "unknown-plugin")?;
    for at in [
        "flights/0",
        "flights@3",
        "flights/x@3",
        "flights/0@-1",
        "",
        "/0@1",
    ] {
        skip(&client, "counter", at, "why not")?.expect_problem(400, "bad-position")?;
    }
    let send = |body: &str| -> Result<Reply> {
        let path = "/v1/plugins/counter/skip";
        let headers = [("content-type", "application/json")];
        client.send("POST", path, &headers, Some(body.as_bytes().to_vec()))
    };
    let position = r#""at":"flights/0@0""#;
    for bad in [
        "",
        "{",
        "[]",
        &format!("{{{position}}}"),
        &format!("{{{position},\"reason\":\"\"}}"),
        &format!("{{{position},\"reason\":\"  \"}}"),
        &format!("{{{position},\"reason\":7}}"),
        &format!("{{{position},\"reason\":\"x\",\"resaon\":\"y\"}}"),
        r#"{"reason":"no position"}"#,
    ] {
        send(bad)?
            .expect_problem(400, "bad-request")
            .with_context(|| format!("body {bad:?}"))?;
    }
    let long = json!({"at": "flights/0@0", "reason": "x".repeat(100_000)}).to_string();
    let reply = send(&long)?;
    ensure!([400, 413].contains(&reply.status), "{reply:?}");
    unchanged(&client, &before)?;

    // One is blocked: no other offset is skipped, and it is told which one is blocked.
    let other = client.deploy("latest", "", prebuilt_plugin("latest")?)?;
    other.expect_status(201)?;
    let poison = json!({"key": "k", "value_text": "{not json"});
    let (partition, offset) = client.append_all("events", &[poison])?[0];
    wait_blocked(&client, "latest", GENEROUS)?;
    let at = format!("events/{partition}@{offset}");
    let refused = |wrong: &str| {
        skip(&client, "latest", wrong, "a guess")?
            .expect_problem(409, "not-blocked")?
            .expect_words(&[wrong, &at])
    };
    let wrong = [
        format!("events/{partition}@{}", offset + 1),
        format!("events/{}@{offset}", (partition + 1) % 4),
        format!("flights/{partition}@{offset}"),
        "events/99@0".to_owned(),
    ];
    // The cluster may hear of the block a moment later than this host.
    wait::wait_until_ok(GENEROUS, "the refusal to say where it is blocked", || {
        refused(&wrong[0])
    })?;
    for wrong in &wrong {
        refused(wrong)?;
    }
    ensure!(plugin(&client, "latest")?["skips"] == json!([]));
    Ok(())
}

#[test]
fn a_name_is_not_taken_over_by_what_cannot_run() -> Result<()> {
    let scratch = Scratch::new("bad-name")?;
    let (_host, client) = counting(&scratch)?;
    let before = settled(&client, "counter")?;
    // Wants an import, has no manifest, speaks of no fold: refused whole, whatever it is to replace.
    let manifest = wasm::manifest(&prebuilt_plugin("counter")?)?;
    let importing = wasm::importing("wasi:clocks/wall-clock@0.2.0", &manifest)?;
    let bare = wasm::without_manifest(&prebuilt_plugin("counter")?)?;
    for component in [importing, bare, wasm::core_module()] {
        for parameters in ["", "state=keep", "state=rebuild"] {
            client
                .deploy("counter", parameters, component.clone())?
                .expect_problem(422, "invalid-plugin")?;
        }
    }
    client
        .deploy("counter", "state=keeep", version("counter", "2.0.0")?)?
        .expect_problem(400, "bad-parameter")?;
    let fields = wasm::with_field(&prebuilt_plugin("counter")?, "keep-generations", "2")?;
    client
        .deploy("counter", "", fields)?
        .expect_problem(422, "invalid-plugin")?
        .expect_words(&["keep-generations"])?;
    unchanged(&client, &before)
}

#[test]
fn one_deployment_at_a_time() -> Result<()> {
    let scratch = Scratch::new("under-way")?;
    let (_host, client) = counting(&scratch)?;
    // Paused, so that the build stays under way.
    post(&client, "counter", "pause")?.expect_status(200)?;
    let two = version("counter", "2.0.0")?;
    let building = deploy(&client, "counter", "", &two)?.expect(202, "building")?;
    let before = plugin(&client, "counter")?;
    let generation = building.generation.to_string();
    for parameters in ["", "state=keep", "state=rebuild"] {
        client
            .deploy("counter", parameters, version("counter", "3.0.0")?)?
            .expect_problem(409, "deployment-under-way")?
            .expect_words(&[&generation, "rollback"])?;
    }
    // The same again is no other deployment.
    let again = deploy(&client, "counter", "", &two)?.expect(202, "building")?;
    ensure!(again.deployment == building.deployment, "{again:?}");
    let now = plugin(&client, "counter")?;
    ensure!(now["deployments"] == before["deployments"], "{now}");
    post(&client, "counter", "resume")?.expect_status(200)?;
    wait_serving(&client, "counter", building.deployment, GENEROUS)?;
    Ok(())
}

#[test]
fn states_that_cannot_be_kept() -> Result<()> {
    let scratch = Scratch::new("bad-keep")?;
    let (_host, client) = counting(&scratch)?;
    let before = settled(&client, "counter")?;
    let two = version("counter", "2.0.0")?;
    let keep =
        |wasm: Vec<u8>, more: &str| client.deploy("counter", &format!("state=keep{more}"), wasm);

    let schema = wasm::with_field(&two, "state-schema", "\"counter/7\"")?;
    keep(schema, "")?
        .expect_problem(409, "schema-changed")?
        .expect_words(&["counter/1", "counter/7", "migrate", "rebuild"])?;
    // Another input, the input under another name, and one more than there was.
    let inputs = |toml: &str| wasm::with_field(&two, "inputs", toml);
    keep(inputs("[\"events\"]")?, "&topic=events=flights")?
        .expect_problem(409, "inputs-changed")?
        .expect_words(&["flights", "events", "rebuild"])?;
    let topic = client.put_json("/v1/topics/other", &json!({"partitions": 4}))?;
    topic.success()?;
    keep(two.clone(), "&topic=flights=other")?
        .expect_problem(409, "inputs-changed")?
        .expect_words(&["flights", "other"])?;
    let partitioner =
        inputs("[{ name = \"flights\", topic = \"flights\", partitioner = \"crc32\" }]")?;
    keep(partitioner, "")?.expect_problem(409, "inputs-changed")?;
    // A migration that does not read this schema is refused by the plugin, at once.
    let foreign = wasm::with_field(&prebuilt_plugin("latest")?, "inputs", "[\"flights\"]")?;
    client.deploy("foreign", "", foreign)?.expect_status(201)?;
    client
        .deploy("foreign", "state=keep", migrating("2.0.0")?)?
        .expect_problem(422, "invalid-plugin")?
        .expect_words(&["migrate-refused", "latest/1"])?;
    unchanged(&client, &before)
}

#[test]
fn generations_and_parameters_that_are_none() -> Result<()> {
    let scratch = Scratch::new("bad-parameters")?;
    let (_host, client) = counting(&scratch)?;
    let before = settled(&client, "counter")?;
    let get = |path: &str| client.get(&format!("/v1/plugins/{path}"));
    get("counter/generations/77")?.expect_problem(404, "unknown-generation")?;
    for number in ["x", "-1", "1.5", "99999999999999999999999"] {
        let reply = get(&format!("counter/generations/{number}"))?;
        ensure!([400, 404].contains(&reply.status), "{reply:?}");
    }
    get("nobody/generations/1")?.expect_problem(404, "unknown-plugin")?;
    get("counter/ready?_deployment=x")?.expect_problem(400, "bad-parameter")?;
    // One that nobody has asked for is not waited for in vain.
    let (took, reply) = wait::timed(|| get("counter/ready?_deployment=99999"));
    reply?.expect_problem(503, "not-ready")?;
    ensure!(took < GENEROUS, "{took:?}");
    for what in ["pause", "resume"] {
        post(&client, "nobody", what)?.expect_problem(404, "unknown-plugin")?;
        post(&client, "counter", &format!("{what}?now=true"))?
            .expect_problem(400, "bad-parameter")?;
    }
    let get_only = client.get("/v1/plugins/counter/pause")?;
    get_only.expect_problem(405, "method-not-allowed")?;
    for bad in ["from_retained=maybe", "state=rebuild&state=keep"] {
        client
            .deploy("counter", bad, version("counter", "2.0.0")?)?
            .expect_problem(400, "bad-parameter")?;
    }
    ensure!(
        count_of(&plugin(&client, "counter")?, "deployment")? == count_of(&before, "deployment")?
    );
    unchanged(&client, &before)
}

#[test]
fn operations_need_their_scope() -> Result<()> {
    use sha2::{Digest, Sha256};
    let scratch = Scratch::new("operations-tokens")?;
    let token = |name: &str, scopes: &str| {
        let digest = Sha256::digest(format!("{name}-secret").as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[auth.tokens]]\nname = \"{name}\"\nsha256 = \"{digest}\"\nscopes = [{scopes}]\n")
    };
    let text = token("admin", "\"operate\", \"deploy\", \"append\", \"query\"")
        + &token("reader", "\"query\"");
    let config = scratch.write("tokens.toml", text)?;
    let host = Start::serve(scratch.path()).config(&config).ready()?;
    let of =
        |name: &str| Ok::<_, anyhow::Error>(host.client()?.with_token(&format!("{name}-secret")));
    let (admin, reader) = (of("admin")?, of("reader")?);
    deploy(&admin, "latest", "", &prebuilt_plugin("latest")?)?.expect(201, "created")?;
    for what in ["pause", "resume", "rollback"] {
        post(&reader, "latest", what)?.expect_problem(403, "forbidden")?;
        post(&host.client()?, "latest", what)?.expect_problem(401, "unauthorized")?;
    }
    skip(&reader, "latest", "events/0@0", "x")?.expect_problem(403, "forbidden")?;
    // Who did it stands there.
    let poison = json!({"key": "k", "value_text": "{not json"});
    let (partition, offset) = admin.append_all("events", &[poison])?[0];
    wait_blocked(&admin, "latest", GENEROUS)?;
    let at = format!("events/{partition}@{offset}");
    skip_blocked(&admin, "latest", &at, "broken", GENEROUS)?.expect_status(200)?;
    post(&admin, "latest", "pause")?.expect_status(200)?;
    let plugin = plugin(&admin, "latest")?;
    ensure!(plugin["skips"][0]["principal"] == "admin", "{plugin}");
    ensure!(plugin["paused"]["principal"] == "admin", "{plugin}");
    Ok(())
}
