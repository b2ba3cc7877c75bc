//! The command line as a new user types it: a plugin from nothing to its first answer in five commands,
//! outside a clone and inside one; topics; exit codes; what is said when a toolchain is missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use foldhost_tests::host::{GENEROUS, Host, Start, run_in, run_well, run_with_input, shown};
use foldhost_tests::paths::{Scratch, foldhost, prebuilt_plugin_path};
use foldhost_tests::wait::wait_until_ok;
use foldhost_tests::{clone, wasm};
use serde_json::{Value, json};

/// `foldhost plugin new` writes a view of readings; this is one.
const SCAFFOLD_EVENT: &str = r#"{"degrees":21.5}"#;

/// From nothing to an answer, with the five commands of the README.
fn five_commands(host: &Host, folder: &Path, name: &str) -> Result<()> {
    let run = |arguments: &[&str]| run_well(folder, host.url(), arguments);
    run(&["plugin", "new", name])?;
    run(&["plugin", "build", name])?;
    let wasm = folder.join(name).join(format!("{name}.wasm"));
    ensure!(wasm.is_file(), "no {}", wasm.display());
    run(&["plugin", "deploy", name, "--wait"])?;
    let topic = first_input(&folder.join(name))?;
    run(&[
        "topic",
        "produce",
        &topic,
        "--key",
        "k1",
        "--value",
        SCAFFOLD_EVENT,
    ])?;
    let answer = wait_until_ok(GENEROUS, "an answer about k1", || {
        run(&["query", name, "k1"])
    })?;
    let answer: Value = serde_json::from_str(&answer).context("the answer is not JSON")?;
    ensure!(answer["degrees"] == 21.5, "{answer}");
    Ok(())
}

/// The first topic that a scaffold reads.
fn first_input(plugin: &Path) -> Result<String> {
    let manifest = std::fs::read_to_string(plugin.join("plugin.toml"))?;
    let line = manifest
        .lines()
        .find(|line| line.trim_start().starts_with("inputs"))
        .with_context(|| format!("no inputs:\n{manifest}"))?;
    let topic = line
        .split('"')
        .nth(1)
        .with_context(|| format!("no topic in {line}"))?;
    Ok(topic.to_owned())
}

/// The scaffold's own native test.
fn native_tests_pass(plugin: &Path) -> Result<()> {
    let output = Command::new("cargo")
        .arg("test")
        .current_dir(plugin)
        .env("CARGO_TARGET_DIR", plugin.join("target"))
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "{}", shown(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let passed = text
        .lines()
        .any(|line| line.starts_with("test result: ok.") && !line.contains("ok. 0 passed"));
    ensure!(passed, "no test ran: {text}");
    Ok(())
}

#[test]
fn a_plugin_takes_five_commands_outside_a_clone() -> Result<()> {
    let scratch = Scratch::new("five")?;
    let host = Start::serve(scratch.path()).ready()?;
    let folder = scratch.join("elsewhere");
    std::fs::create_dir(&folder)?;
    five_commands(&host, &folder, "my-view")?;
    native_tests_pass(&folder.join("my-view"))?;
    // A second one of the same name is not written over it.
    let again = run_in(&folder, host.url(), &["plugin", "new", "my-view"])?;
    ensure!(
        again.status.code() != Some(0) && shown(&again).contains("my-view"),
        "{}",
        shown(&again)
    );
    Ok(())
}

#[test]
fn a_plugin_takes_five_commands_inside_a_clone() -> Result<()> {
    let scratch = Scratch::new("five-inside")?;
    let copy = scratch.join("clone");
    clone::copy_to(&copy)?;
    let host = Start::serve(scratch.path()).ready()?;
    five_commands(&host, &copy.join("plugins"), "my-view")?;
    native_tests_pass(&copy.join("plugins/my-view"))?;
    Ok(())
}

/// A plugin of a kind, as `plugin new` writes it, builds and passes its tests.
fn from_nothing(folder: &Path, name: &str, kind: &str, export: &str) -> Result<()> {
    // Neither asks a host.
    let run = |arguments: &[&str]| run_well(folder, "http://127.0.0.1:9", arguments);
    run(&["plugin", "new", name, "--kind", kind])?;
    run(&["plugin", "build", name])?;
    let plugin = folder.join(name);
    let wasm = std::fs::read(plugin.join(format!("{name}.wasm")))?;
    let exports = wasm::exports(&wasm)?;
    let prefix = format!("foldhost:plugin/{export}");
    ensure!(
        exports.iter().any(|it| it.starts_with(&prefix)),
        "{exports:?}"
    );
    native_tests_pass(&plugin)
}

fn republisher_from_nothing(folder: &Path) -> Result<()> {
    from_nothing(folder, "my-republisher", "republisher", "react")
}

fn handler_from_nothing(folder: &Path) -> Result<()> {
    from_nothing(folder, "my-handler", "handler", "decide")
}

/// Its README, line by line.
fn republisher_runs(host: &Host, folder: &Path) -> Result<()> {
    let name = "my-republisher";
    let run = |arguments: &[&str]| run_well(folder, host.url(), arguments);
    run(&["plugin", "deploy", name, "--wait"])?;
    let topic = first_input(&folder.join(name))?;
    for status in ["open", "open", "closed"] {
        let value = json!({ "status": status }).to_string();
        run(&[
            "topic", "produce", &topic, "--key", "door", "--value", &value,
        ])?;
    }
    let changes = format!("{name}-changes");
    wait_until_ok(GENEROUS, "two changes", || {
        let text = run(&["topic", "consume", &changes])?;
        let lines = text.lines().map(serde_json::from_str);
        let records: Vec<Value> = lines.collect::<Result<_, _>>()?;
        let values: Vec<_> = records.iter().map(|record| &record["value"]).collect();
        let expected = [
            json!({"from": null, "to": "open"}),
            json!({"from": "open", "to": "closed"}),
        ];
        ensure!(values.iter().copied().eq(&expected), "{text}");
        ensure!(records.iter().all(|r| r["key"] == "door"), "{text}");
        Ok(())
    })?;
    let answer = run(&["query", name, "door"])?;
    let answer: Value = serde_json::from_str(&answer)?;
    ensure!(answer["status"] == "closed", "{answer}");
    Ok(())
}

#[test]
fn a_republisher_to_start_from_works_outside_a_clone() -> Result<()> {
    let scratch = Scratch::new("republisher")?;
    let host = Start::serve(scratch.path()).ready()?;
    let folder = scratch.join("elsewhere");
    std::fs::create_dir(&folder)?;
    republisher_from_nothing(&folder)?;
    republisher_runs(&host, &folder)
}

#[test]
fn a_republisher_to_start_from_works_inside_a_clone() -> Result<()> {
    let scratch = Scratch::new("republisher-inside")?;
    let copy = scratch.join("clone");
    clone::copy_to(&copy)?;
    republisher_from_nothing(&copy.join("plugins"))
}

/// The handler's README, line by line; `--if-version` sends `If-Match`.
fn handler_runs(host: &Host, folder: &Path) -> Result<()> {
    let name = "my-handler";
    let run = |arguments: &[&str]| run_well(folder, host.url(), arguments);
    run(&["plugin", "deploy", name, "--wait"])?;
    let chair = |command| ["command", name, "chair", command, r#"{"items":1}"#];
    for (command, left) in [("add", 1), ("take", 0)] {
        let answer: Value = serde_json::from_str(&run(&chair(command))?)?;
        ensure!(answer == json!({ "left": left }), "{command}: {answer}");
    }
    let versioned = [&chair("take")[..], &["--if-version", "1"]].concat();
    for (arguments, code, why) in [
        (&versioned[..], 4, "its state has version 2"),
        (&chair("take"), 7, "there are 0 left [too-few]"),
    ] {
        let refused = run_in(folder, host.url(), arguments)?;
        let said = shown(&refused);
        ensure!(
            refused.status.code() == Some(code) && said.contains(why),
            "{said}"
        );
    }
    let text = run(&["topic", "consume", &format!("{name}-events")])?;
    let lines = text.lines().map(serde_json::from_str);
    let records: Vec<Value> = lines.collect::<Result<_, _>>()?;
    let events: Vec<_> = records
        .iter()
        .map(|it| [&it["key"], &it["value"]["type"]])
        .collect();
    ensure!(events == [["chair", "added"], ["chair", "taken"]], "{text}");
    let answer: Value = serde_json::from_str(&run(&["query", name, "chair"])?)?;
    ensure!(answer == json!({ "left": 0 }), "{answer}");
    Ok(())
}

#[test]
fn a_handler_to_start_from_works_outside_a_clone() -> Result<()> {
    let scratch = Scratch::new("handler")?;
    let host = Start::serve(scratch.path()).ready()?;
    let folder = scratch.join("elsewhere");
    std::fs::create_dir(&folder)?;
    handler_from_nothing(&folder)?;
    handler_runs(&host, &folder)
}

#[test]
fn a_handler_to_start_from_works_inside_a_clone() -> Result<()> {
    let scratch = Scratch::new("handler-inside")?;
    let copy = scratch.join("clone");
    clone::copy_to(&copy)?;
    handler_from_nothing(&copy.join("plugins"))
}

#[test]
fn deploy_list_show_and_delete() -> Result<()> {
    let scratch = Scratch::new("operate")?;
    let host = Start::serve(scratch.path()).ready()?;
    let run = |arguments: &[&str]| run_well(scratch.path(), host.url(), arguments);
    let file = prebuilt_plugin_path("latest");
    let file = file.to_str().context("the path is text")?;
    let requirements = run(&["plugin", "requirements", file])?;
    for name in [
        "events",
        "foldhost.deployments",
        "foldhost.latest.journal",
        "foldhost.latest",
    ] {
        ensure!(requirements.contains(name), "no {name}:\n{requirements}");
    }
    run(&["plugin", "deploy", file, "--dry-run"])?;
    ensure!(!run(&["plugin", "list"])?.contains("latest"));
    run(&[
        "plugin",
        "deploy",
        file,
        "--name",
        "mine",
        "--topic",
        "events=other",
        "--wait",
    ])?;
    ensure!(run(&["plugin", "list"])?.contains("mine"));
    let show: Value = serde_json::from_str(&run(&["plugin", "show", "mine", "--json"])?)?;
    ensure!(show["name"] == "mine" && show["status"] == "live", "{show}");
    run(&["topic", "produce", "other", "--key", "k", "--value", "1"])?;
    let answer = wait_until_ok(GENEROUS, "an answer", || run(&["query", "mine", "k"]))?;
    ensure!(
        serde_json::from_str::<Value>(&answer)?["value"] == 1,
        "{answer}"
    );
    run(&["plugin", "delete", "mine", "--yes"])?;
    ensure!(!run(&["plugin", "list"])?.contains("mine"));
    Ok(())
}

#[test]
fn topics_are_written_and_read() -> Result<()> {
    let scratch = Scratch::new("topics-cli")?;
    let host = Start::serve(scratch.path()).ready()?;
    let run = |arguments: &[&str]| run_well(scratch.path(), host.url(), arguments);
    run(&["topic", "create", "orders", "--partitions", "3"])?;
    ensure!(run(&["topic", "list"])?.contains("orders"));
    let lines = "{\"key\":\"a\",\"value\":{\"n\":1}}\n{\"key\":\"b\",\"value\":{\"n\":2}}\n";
    let output = run_with_input(
        scratch.path(),
        host.url(),
        &["topic", "produce", "orders"],
        lines,
    )?;
    ensure!(output.status.success(), "{}", shown(&output));
    run(&["topic", "produce", "orders", "--key", "a", "--tombstone"])?;
    let consumed = run(&["topic", "consume", "orders"])?;
    let records: Vec<Value> = consumed
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(records.len() == 3, "{consumed}");
    let of_a: Vec<&Value> = records
        .iter()
        .filter(|record| record["key"] == "a")
        .collect();
    ensure!(
        of_a.len() == 2 && of_a[0]["value"]["n"] == 1 && of_a[1]["value"].is_null(),
        "{consumed}"
    );
    // What consume prints, produce takes.
    run(&["topic", "create", "copy"])?;
    let output = run_with_input(
        scratch.path(),
        host.url(),
        &["topic", "produce", "copy"],
        &consumed,
    )?;
    ensure!(output.status.success(), "{}", shown(&output));
    ensure!(run(&["topic", "describe", "orders"])?.contains('3'));
    // Whose a topic is stands in the list, and is said to whoever writes to it.
    ensure!(run(&["topic", "list"])?.contains("foldhost.deployments  1           foldhost"));
    let own = [
        "topic",
        "produce",
        "foldhost.deployments",
        "--key",
        "a",
        "--value",
        "1",
    ];
    let refused = run_in(scratch.path(), host.url(), &own)?;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.status.code() == Some(4) && words.contains("use another topic [topic-owned]"),
        "{}",
        shown(&refused)
    );
    run(&["topic", "delete", "orders", "--yes"])?;
    ensure!(!run(&["topic", "list"])?.contains("orders"));
    Ok(())
}

#[test]
fn exit_codes_tell_a_script_what_happened() -> Result<()> {
    let scratch = Scratch::new("exit-codes")?;
    let host = Start::serve(scratch.path()).ready()?;
    let at = |url: &str, arguments: &[&str], code: i32| -> Result<()> {
        let output = run_in(scratch.path(), url, arguments)?;
        ensure!(
            output.status.code() == Some(code),
            "{arguments:?}, not {code}: {}",
            shown(&output)
        );
        ensure!(!output.stderr.is_empty(), "{arguments:?} says nothing");
        Ok(())
    };
    at(host.url(), &["plugin", "show", "nobody"], 3)?;
    at(host.url(), &["query", "nobody", "k"], 3)?;
    at(host.url(), &["topic", "consume", "nothing"], 3)?;
    at(
        host.url(),
        &["topic", "produce", "nothing", "--key", "a", "--value", "1"],
        3,
    )?;
    at(host.url(), &["topic", "create", "bad name"], 2)?;
    at(host.url(), &["plugin", "fly"], 2)?;
    at(host.url(), &["plugin", "deploy", "missing.wasm"], 1)?;
    let text = scratch.write("text.wasm", "not wasm")?;
    let text = text.to_str().context("the path is text")?;
    let refused = run_in(scratch.path(), host.url(), &["plugin", "deploy", text])?;
    ensure!(
        matches!(refused.status.code(), Some(1 | 2 | 4)),
        "{}",
        shown(&refused)
    );
    at("http://127.0.0.1:1", &["plugin", "list"], 6)?;
    Ok(())
}

#[test]
fn a_missing_toolchain_is_told_with_what_to_install() -> Result<()> {
    let scratch = Scratch::new("toolchain")?;
    run_well(scratch.path(), "", &["plugin", "new", "my-view"])?;
    let output = Command::new(foldhost()?)
        .args(["plugin", "build", "my-view"])
        .current_dir(scratch.path())
        .env("PATH", scratch.join("empty"))
        .env("FOLDHOST_GUEST_TOOLCHAIN", "rustup")
        .output()?;
    let said = shown(&output);
    ensure!(output.status.code() == Some(1), "{said}");
    for word in [
        "wasm32-unknown-unknown",
        "rustup",
        "apt-get install",
        "rustc-web",
    ] {
        ensure!(said.contains(word), "it does not say `{word}`: {said}");
    }
    ensure!(
        !scratch.join("my-view/my-view.wasm").exists(),
        "half a build was left"
    );
    Ok(())
}

#[test]
fn a_configuration_can_be_looked_at() -> Result<()> {
    let scratch = Scratch::new("dump")?;
    let output = Command::new(foldhost()?)
        .args(["serve", "--dump-config", "--listen", "127.0.0.1:0"])
        .current_dir(scratch.path())
        .env("FOLDHOST__CLUSTER", "shown")
        .env("FOLDHOST__KAFKA__BOOTSTRAP_SERVERS", "kafka:9092")
        .env("FOLDHOST__KAFKA__SASL_PASSWORD", "hidden-word")
        .output()?;
    let said = shown(&output);
    ensure!(output.status.success(), "{said}");
    for word in [
        "cluster = \"shown\"",
        "listen = \"127.0.0.1:0\"",
        "kafka:9092",
        "bootstrap.servers",
    ] {
        ensure!(said.contains(word), "no {word}: {said}");
    }
    ensure!(!said.contains("hidden-word"), "a secret is shown: {said}");
    Ok(())
}
