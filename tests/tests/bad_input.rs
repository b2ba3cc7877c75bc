//! Bad input, each with a clear error that says what to do and nothing lost: components, records,
//! questions, configurations, folders, tokens. What needs a broker is in `kafka.rs`.

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use foldhost_tests::host::{GENEROUS, Host, Start};
use foldhost_tests::http::Client;
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::{topic, wasm};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn host(scratch: &Scratch) -> Result<(Host, Client)> {
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    Ok((host, client))
}

#[test]
fn components_that_are_none() -> Result<()> {
    let scratch = Scratch::new("bad-components")?;
    let (_host, client) = host(&scratch)?;
    let latest = prebuilt_plugin("latest")?;
    let manifest = wasm::manifest(&latest)?;
    let field = |name: &str, value: &str| wasm::with_field(&latest, name, value);
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (b"hello, this is not wasm".to_vec(), &["wasm"]),
        (Vec::new(), &["wasm"]),
        (latest[..latest.len() / 2].to_vec(), &["component"]),
        (
            wasm::core_module(),
            &["core WebAssembly module", "foldhost plugin build"],
        ),
        (
            wasm::without_manifest(&latest)?,
            &["manifest", "foldhost plugin build"],
        ),
        (
            wasm::importing("wasi:clocks/wall-clock@0.2.0", &manifest)?,
            &["wasi:clocks/wall-clock@0.2.0", "log"],
        ),
        (wasm::with_manifest(&latest, "name = [")?, &["manifest"]),
        (
            field("comit-interval", "\"2s\"")?,
            &["comit-interval", "commit-interval"],
        ),
        (field("commit-interval", "\"soon\"")?, &["commit-interval"]),
        (field("key", "\"utf16\"")?, &["key", "utf8"]),
        (field("inputs", "[]")?, &["inputs"]),
        (field("name", "\"Not A Name\"")?, &["name"]),
        (field("on-error", "\"ignore\"")?, &["on-error", "stop"]),
    ];
    for (component, words) in cases {
        let reply = client.deploy("latest", "", component)?;
        reply
            .expect_problem(422, "invalid-plugin")?
            .expect_words(words)?;
        client
            .get("/v1/plugins/latest")?
            .expect_problem(404, "unknown-plugin")?;
    }
    // Every fault is told at once.
    let twice = wasm::with_field(&field("comit-interval", "\"2s\"")?, "key", "\"utf16\"")?;
    client
        .deploy("latest", "", twice)?
        .expect_problem(422, "invalid-plugin")?
        .expect_words(&["comit-interval", "utf16"])?;
    Ok(())
}

#[test]
fn deployments_that_cannot_be() -> Result<()> {
    let scratch = Scratch::new("bad-deployments")?;
    let (host, client) = host(&scratch)?;
    let latest = prebuilt_plugin("latest")?;
    let deploy = |name: &str, parameters: &str| client.deploy(name, parameters, latest.clone());
    let refused = deploy("latest", "topic=nothing=events")?;
    ensure!((400..500).contains(&refused.status), "{refused:?}");
    refused.expect_words(&["nothing", "events"])?;
    deploy("latest", "topik=events=x")?.expect_problem(400, "bad-parameter")?;
    deploy("Not%20A%20Name", "")?.expect_problem(400, "bad-name")?;
    let text = client.send(
        "PUT",
        "/v1/plugins/latest",
        &[("content-type", "text/plain")],
        Some(latest.clone()),
    )?;
    text.expect_problem(415, "unsupported-media-type")?;
    host.deploy_prebuilt("latest", "")?;
    // Another plugin's code cannot take over the states under the name.
    client
        .deploy("latest", "state=keep", prebuilt_plugin("counter")?)?
        .expect_problem(409, "inputs-changed")?;
    client.get("/v1/plugins/latest")?.expect_status(200)?;
    Ok(())
}

#[test]
fn outputs_that_a_plugin_does_not_have() -> Result<()> {
    let scratch = Scratch::new("bad-outputs")?;
    let (host, client) = host(&scratch)?;
    host.deploy_prebuilt("latest", "")?;
    let before = client.get("/v1/plugins/latest")?.success()?.json()?;
    ensure!(before["output"].is_null(), "{before}");
    let counter = prebuilt_plugin("counter")?;
    for name in ["latest", "new"] {
        let deploy = |parameters: &str| client.deploy(name, parameters, counter.clone());
        for dry in ["", "&dry_run=true"] {
            deploy(&format!("emit_from=earliest{dry}"))?
                .expect_problem(409, "emit-from-refused")?
                .expect_words(&["view", "--emit-from"])?;
            deploy(&format!("adopt_topic=true{dry}"))?
                .expect_problem(400, "bad-parameter")?
                .expect_words(&["no output", "--adopt-topic"])?;
            deploy(&format!("topic=told=x{dry}"))?
                .expect_problem(422, "invalid-plugin")?
                .expect_words(&["'told'", "flights", "no output"])?;
        }
        deploy("emit_from=latest")?
            .expect_problem(400, "bad-parameter")?
            .expect_words(&["earliest"])?;
        deploy("adopt_topic=perhaps")?.expect_problem(400, "bad-parameter")?;
    }
    client
        .get("/v1/plugins/new")?
        .expect_problem(404, "unknown-plugin")?;
    let after = client.get("/v1/plugins/latest")?.success()?.json()?;
    ensure!(after["deployments"] == before["deployments"], "{after}");
    Ok(())
}

#[test]
fn topics_that_the_host_owns() -> Result<()> {
    let scratch = Scratch::new("bad-owned")?;
    let (host, client) = host(&scratch)?;
    host.deploy_prebuilt("latest", "")?;
    for topic in ["foldhost.deployments", "foldhost.latest.journal"] {
        let path = format!("/v1/topics/{topic}");
        let end = topic::end(&client, topic)?;
        let refused = [
            client.append_text(topic, r#"{"key":"a","value":1}"#)?,
            client.delete(&path)?,
            client.put_json(&path, &json!({"partitions": 8}))?,
            client.put_json(&path, &json!({}))?,
        ];
        for reply in refused {
            reply
                .expect_problem(409, "topic-owned")?
                .expect_words(&[topic])?;
        }
        ensure!(topic::end(&client, topic)? == end);
        let described = client.get(&path)?.success()?.json()?;
        ensure!(described["owner"] == "foldhost", "{described}");
    }
    let listed = client.get("/v1/topics")?.success()?.json()?;
    let topics = listed["topics"].as_array().context("no list")?;
    for topic in topics {
        let is_the_hosts = topic["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("foldhost."));
        let owner = if is_the_hosts {
            json!("foldhost")
        } else {
            Value::Null
        };
        ensure!(topic["owner"] == owner, "{topic}");
    }
    ensure!(
        topics.iter().any(|topic| topic["owner"].is_null()),
        "{listed}"
    );
    Ok(())
}

#[test]
fn records_that_cannot_be_written() -> Result<()> {
    let scratch = Scratch::new("bad-records")?;
    let (_host, client) = host(&scratch)?;
    client
        .put_json("/v1/topics/t", &json!({"partitions": 2}))?
        .success()?;
    let good = r#"{"key":"a","value":1}"#;
    for bad in [
        "{\"key\":\"a\",",
        "[1]",
        r#"{"key":"a"}"#,
        r#"{"key":"a","value":1,"vallue":2}"#,
        r#"{"key":7,"value":1}"#,
        r#"{"key":"a","key_base64":"YQ==","value":1}"#,
        r#"{"key_base64":"not base64!","value":1}"#,
        r#"{"key":"a","value":1,"value_text":"x"}"#,
        r#"{"key":"a","value":1,"timestamp":"yesterday"}"#,
    ] {
        let body = [good, good, bad, good, good].join("\n");
        let reply = client
            .append_text("t", &body)?
            .expect_problem(400, "bad-record")?;
        ensure!(
            reply.json()?["line"] == 3,
            "the third line is bad: {reply:?}"
        );
        reply.expect_words(&["line 3"])?;
    }
    let large = json!({"key": "a", "value": "x".repeat((1 << 20) + 1)});
    client
        .append("t", &[json!({"key": "b", "value": 1}), large])?
        .expect_problem(413, "too-large")?;
    // Far over what is held in memory: still an answer, not a broken connection.
    let huge = json!({"key": "a", "value": "x".repeat(48 << 20)});
    client
        .append("t", &[huge])?
        .expect_problem(413, "too-large")?;
    client
        .append_text("t", "")?
        .expect_problem(400, "bad-request")?;
    client
        .append_text("missing", good)?
        .expect_problem(404, "unknown-topic")?
        .expect_words(&["topic create"])?;
    ensure!(
        topic::read_all(&client, "t")?.is_empty(),
        "something of a refused body was written"
    );
    for topic in ["foldhost.deployments", "foldhost.latest.journal"] {
        let reply = client.append_text(topic, good)?;
        ensure!(
            (400..500).contains(&reply.status),
            "the host's own topics are its own: {reply:?}"
        );
    }
    client.append_text("t", good)?.expect_status(200)?;
    Ok(())
}

#[test]
fn questions_that_have_no_answer() -> Result<()> {
    let scratch = Scratch::new("bad-questions")?;
    let (host, client) = host(&scratch)?;
    host.deploy_prebuilt("plane-utilisation", "")?;
    let numbers = wasm::with_field(&prebuilt_plugin("counter")?, "key", "\"i64\"")?;
    let numbers = wasm::with_field(&numbers, "name", "\"numbers\"")?;
    client.deploy("numbers", "", numbers)?.expect_status(201)?;
    host.wait_caught_up("numbers", GENEROUS)?;
    client
        .ask("nobody", "k", "")?
        .expect_problem(404, "unknown-plugin")?;
    client
        .ask("plane-utilisation", "N1", "/by-weak")?
        .expect_problem(404, "unknown-query")?
        .expect_words(&["by-weak"])?;
    let ask =
        |arguments: &str| client.ask("plane-utilisation", "N1", &format!("/in-motion{arguments}"));
    let day = "2013-01-02T00:00:00Z";
    for (arguments, argument) in [
        (format!("?from={day}"), "to"),
        (format!("?to={day}"), "from"),
        (format!("?from=noon&to={day}"), "from"),
        (format!("?from={day}&to=2013-01-01T00:00:00Z"), "to"),
        (
            format!("?from={day}&to=2013-01-03T00:00:00Z&form=x"),
            "form",
        ),
    ] {
        let reply = ask(&arguments)?.expect_problem(400, "bad-argument")?;
        ensure!(
            reply.json()?["argument"] == argument,
            "{arguments}: {reply:?}"
        );
    }
    client
        .ask(
            "plane-utilisation",
            "N1",
            &format!("/in-motion?from={day}&to={day}&_limit=1"),
        )?
        .expect_problem(400, "bad-parameter")?;
    client
        .ask("numbers", "seven", "")?
        .expect_problem(400, "bad-key")?
        .expect_words(&["i64"])?;
    client
        .get("/v1/views/numbers/keys-b64/AAE")?
        .expect_problem(400, "bad-key")?;
    client
        .get("/v1/views/plane-utilisation/keys-b64/!!")?
        .expect_problem(400, "bad-key")?;
    client
        .get("/v1/view/plane-utilisation/keys/N1")?
        .expect_problem(404, "unknown-route")?;
    client.get("/")?.expect_problem(404, "unknown-route")?;
    client
        .delete("/v1/views/plane-utilisation/keys/N1")?
        .expect_problem(405, "method-not-allowed")?;
    Ok(())
}

#[test]
fn an_event_that_cannot_be_applied_stops_its_partition_and_no_other() -> Result<()> {
    let scratch = Scratch::new("bad-event")?;
    let (host, client) = host(&scratch)?;
    host.deploy_prebuilt("latest", "")?;
    let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    let records: Vec<Value> = keys
        .iter()
        .map(|key| json!({"key": key, "value": 1}))
        .collect();
    let places = client.append_all("events", &records)?;
    host.wait_caught_up("latest", GENEROUS)?;
    // `latest` keeps JSON values: this is none.
    let poison = json!({"key": keys[0], "value_text": "{not json"});
    let (partition, offset) = client.append_all("events", &[poison])?[0];
    let after = json!({"key": keys[0], "value": 2});
    client.append_all("events", &[after])?;

    let blocked = foldhost_tests::wait::wait_until_ok(GENEROUS, "the partition to stop", || {
        let reply = client.get("/v1/plugins/latest")?.expect_status(200)?;
        let plugin = reply.json()?;
        ensure!(plugin["status"] == "blocked", "{reply:?}");
        Ok(plugin)
    })?;
    let text = blocked.to_string();
    ensure!(
        text.contains(&offset.to_string()),
        "it does not say which event: {text}"
    );
    let partitions = blocked["partitions"]
        .as_array()
        .context("no `partitions`")?;
    ensure!(
        partitions
            .iter()
            .filter(|p| p["status"] == "blocked")
            .count()
            == 1,
        "{text}"
    );
    for (key, place) in keys.iter().zip(places) {
        // What was folded before still answers, the poisoned key's own state included.
        let reply = client.ask("latest", key, "")?;
        ensure!(reply.status == 200, "{key}: {reply:?}");
        ensure!(
            reply.json()?["value"] == 1,
            "{key} in partition {}: {reply:?}",
            place.0
        );
        if place.0 != partition {
            let next = client.append_all("events", &[json!({"key": key, "value": 3})])?[0];
            let position = format!("events/{}@{}", next.0, next.1);
            let reply = client
                .ask_at("latest", key, "", &position)?
                .expect_status(200)?;
            ensure!(reply.json()?["value"] == 3, "{reply:?}");
        }
    }
    // It stays stopped before the same event after a restart.
    let start = host.kill()?;
    let host = start.ready()?;
    let plugin = host
        .client()?
        .get("/v1/plugins/latest")?
        .expect_status(200)?
        .json()?;
    ensure!(plugin["status"] == "blocked", "{plugin}");
    Ok(())
}

/// Expects a start to be refused with a non-zero code and words that say what to do.
fn refused(start: &Start, words: &[&str]) -> Result<()> {
    let (code, log) = start.refused()?;
    ensure!(code != 0, "it ended as if all were well:\n{log}");
    let lower = log.to_lowercase();
    for word in words {
        ensure!(
            lower.contains(&word.to_lowercase()),
            "it does not say `{word}`:\n{log}"
        );
    }
    ensure!(!lower.contains("panicked"), "a panic is no message:\n{log}");
    Ok(())
}

#[test]
fn configurations_that_are_refused() -> Result<()> {
    let scratch = Scratch::new("bad-configuration")?;
    let start = Start::serve(scratch.path());
    let with = |name: &str, text: &str| -> Result<Start> {
        Ok(start.clone().config(&scratch.write(name, text)?))
    };
    refused(
        &with("a.toml", "clustr = \"x\"\n")?,
        &["clustr", "cluster", "a.toml"],
    )?;
    refused(
        &with("b.toml", "[http]\ncors-origin = []\n")?,
        &["cors-origin", "cors-origins"],
    )?;
    refused(&with("c.toml", "cluster = \n")?, &["c.toml"])?;
    refused(
        &with("d.toml", "[topics]\ncreate = \"maybe\"\n")?,
        &["create", "never"],
    )?;
    refused(
        &with(
            "e.toml",
            "[kafka]\n\"bootstrap.servers\" = \"x:1\"\n\"group.id\" = \"x\"\n",
        )?,
        &["group.id"],
    )?;
    refused(
        &start.clone().config(&scratch.join("missing.toml")),
        &["missing.toml"],
    )?;
    refused(
        &start
            .clone()
            .environment("FOLDHOST__HTTP__ADVERTIZE", "http://x"),
        &["advertise"],
    )?;
    refused(&start.clone().listen("here"), &["here", "127.0.0.1:8080"])?;
    refused(&start.clone().listen("0.0.0.0:0"), &["token", "--insecure"])?;
    refused(
        &start.clone().argument("--lisen").argument("x"),
        &["--lisen", "--listen"],
    )?;
    // With --insecure it may.
    start.listen("0.0.0.0:0").argument("--insecure").spawn()?;
    Ok(())
}

#[test]
fn a_port_in_use_and_a_folder_in_use() -> Result<()> {
    let scratch = Scratch::new("in-use")?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    refused(
        &Start::serve(scratch.path()).listen(&address),
        &[&address, "in use"],
    )?;

    let first = Start::serve(scratch.path()).ready()?;
    let second = scratch.join("second");
    std::fs::create_dir(&second)?;
    let data = scratch.join("data");
    refused(
        &Start::serve(&second).data(&data),
        &["another", &data.to_string_lossy()],
    )?;
    // The first one is not disturbed.
    first.client()?.get("/healthz")?.expect_status(200)?;
    ensure!(first.stop()? == 0);
    Ok(())
}

#[test]
fn folders_that_cannot_be_written() -> Result<()> {
    let scratch = Scratch::new("unwritable")?;
    let start = Start::serve(scratch.path());
    // Nobody can create files there, root included.
    let nowhere = Path::new("/proc/foldhost");
    refused(&start.clone().data(nowhere), &["/proc/foldhost"])?;
    let file = scratch.write("a-file", "")?;
    refused(&start.clone().data(&file), &[&file.to_string_lossy()])?;
    let objects = scratch.write(
        "o.toml",
        "[objects]\nurl = \"file:///proc/foldhost-objects\"\n",
    )?;
    refused(&start.config(&objects), &["/proc/foldhost-objects"])?;
    Ok(())
}

/// A host whose data folder is a file system of its own, in a mount namespace that ends with it.
fn on_tmpfs(scratch: &Scratch, options: &str) -> Start {
    let data = scratch.join("data");
    let script = format!(
        "mount -t tmpfs -o {options} tmpfs '{}' && exec \"$@\"",
        data.display()
    );
    Start::serve(scratch.path()).wrapper(&["unshare", "-r", "-m", "sh", "-c", &script, "sh"])
}

fn can_mount() -> bool {
    let script = "mount -t tmpfs tmpfs /mnt";
    std::process::Command::new("unshare")
        .args(["-r", "-m", "sh", "-c", script])
        .output()
        .is_ok_and(|output| output.status.success())
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() -> Result<()> {
    if !can_mount() {
        println!("not tried: this machine allows no mounts in a namespace of one's own");
        return Ok(());
    }
    let scratch = Scratch::new("read-only")?;
    std::fs::create_dir(scratch.join("data"))?;
    let data = scratch.join("data");
    refused(&on_tmpfs(&scratch, "ro"), &[&data.to_string_lossy()])?;

    let scratch = Scratch::new("full")?;
    std::fs::create_dir(scratch.join("data"))?;
    let host = on_tmpfs(&scratch, "size=160m").ready()?;
    let client = host.client()?;
    client
        .put_json("/v1/topics/t", &json!({"partitions": 1}))?
        .success()?;
    let mut acknowledged = 0_usize;
    let mut refusal = None;
    for n in 0..2_000 {
        // Random bytes: nothing to compress.
        let noise: Vec<u8> = {
            use rand::{RngExt, SeedableRng};
            let mut chance = rand_chacha::ChaCha8Rng::seed_from_u64(n);
            (0..500_000).map(|_| chance.random()).collect()
        };
        use base64::Engine;
        let value = base64::engine::general_purpose::STANDARD.encode(noise);
        let record = json!({"key": "k", "value_base64": value});
        let reply = client.append("t", &[record])?;
        match reply.status {
            200 => acknowledged += 1,
            _ => {
                refusal = Some(reply);
                break;
            }
        }
    }
    let refusal = refusal.context("a gigabyte went into 160 MB")?;
    ensure!([503, 504, 507].contains(&refusal.status), "{refusal:?}");
    refusal.expect_words(&["log"])?;
    let kept = topic::read_all(&client, "t")?.len();
    ensure!(
        kept >= acknowledged,
        "{acknowledged} were acknowledged, {kept} are there"
    );
    client.get("/healthz")?.expect_status(200)?;
    Ok(())
}

#[test]
fn tokens_say_who_may_do_what() -> Result<()> {
    let scratch = Scratch::new("tokens")?;
    let digest = |secret: &str| -> String {
        Sha256::digest(secret.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    let token = |name: &str, scopes: &str, more: &str| {
        format!(
            "[[auth.tokens]]\nname = \"{name}\"\nsha256 = \"{}\"\nscopes = [{scopes}]\n{more}\n",
            digest(&format!("{name}-secret"))
        )
    };
    let text = [
        token(
            "admin",
            "\"operate\", \"deploy\", \"append\", \"query\"",
            "",
        ),
        token("reader", "\"query\"", ""),
        token("writer", "\"append\"", ""),
        token("other", "\"query\"", "plugins = [\"other\"]"),
    ]
    .concat();
    let config = scratch.write("tokens.toml", text)?;
    let host = Start::serve(scratch.path()).config(&config).ready()?;
    let nobody = host.client()?;
    let of = |name: &str| nobody.with_token(&format!("{name}-secret"));
    let wasm = prebuilt_plugin("latest")?;
    let deployed = of("admin").deploy("latest", "", wasm.clone())?;
    deployed.expect_status(201)?;
    of("admin")
        .get("/v1/plugins/latest/ready?_wait=30")?
        .expect_status(200)?;

    let record = json!({"key": "k", "value": 1});
    let append = |client: &Client| client.append("events", std::slice::from_ref(&record));
    let place = of("writer").append_all("events", std::slice::from_ref(&record))?[0];
    let position = format!("events/{}@{}", place.0, place.1);
    of("reader")
        .ask_at("latest", "k", "", &position)?
        .expect_status(200)?;

    append(&nobody)?.expect_problem(401, "unauthorized")?;
    append(&nobody.with_token("guess"))?.expect_problem(401, "unauthorized")?;
    append(&of("reader"))?
        .expect_problem(403, "forbidden")?
        .expect_words(&["append"])?;
    of("writer")
        .ask("latest", "k", "")?
        .expect_problem(403, "forbidden")?
        .expect_words(&["query"])?;
    of("other")
        .ask("latest", "k", "")?
        .expect_problem(403, "forbidden")?;
    of("reader")
        .deploy("x", "", wasm)?
        .expect_problem(403, "forbidden")?;
    of("reader")
        .delete("/v1/plugins/latest")?
        .expect_problem(403, "forbidden")?;
    of("reader")
        .get("/metrics")?
        .expect_problem(403, "forbidden")?;
    // Health needs none, so that probes work.
    nobody.get("/healthz")?.expect_status(200)?;
    nobody.get("/readyz")?.expect_status(200)?;
    // Who deployed is recorded.
    let plugin = of("admin").get("/v1/plugins/latest")?.expect_status(200)?;
    ensure!(plugin.text().contains("\"admin\""), "{plugin:?}");
    ensure!(!host.log().contains("-secret"), "a token is in the log");
    Ok(())
}
