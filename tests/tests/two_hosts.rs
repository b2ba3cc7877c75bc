//! What a host says of the partitions that another one owns: a batch of commands names the owner line by line, and a
//! feed of changes names what it leaves out; both together have everything.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::command::{batch, documents, wait_deciding};
use foldhost_tests::host::{Host, Start, kafka_config, run_with_input, shown};
use foldhost_tests::http::Client;
use foldhost_tests::operate::{deploy, partitions, plugin};
use foldhost_tests::paths::Scratch;
use foldhost_tests::wait::wait_until_ok;
use foldhost_tests::{kafka, wasm};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(120);
const PARTITIONS: usize = 4;

/// Puts of documents that must not be there yet, each under an id of its own.
fn puts() -> Vec<Value> {
    let put = |number: u32| {
        json!({
            "key": format!("d{number}"), "command": "put", "body": {"n": number}, "if_absent": true,
            "id": format!("put-{number}"),
        })
    };
    (0..40).map(put).collect()
}

/// Waits until each host is live on half of the partitions, and knows that the other one owns the rest.
fn wait_shared(one: &Host, other: &Host) -> Result<()> {
    wait_until_ok(WITHIN, "both hosts to have their share", || {
        for (host, elsewhere) in [(one, other), (other, one)] {
            let plugin = plugin(&host.client()?, "documents")?;
            let live = partitions(&plugin)?
                .iter()
                .filter(|it| it["status"] == "live" && it["degraded"] != true);
            ensure!(live.count() == PARTITIONS / 2, "{plugin}");
            for partition in partitions(&plugin)? {
                let (owner, is_here) = (&partition["owner"], !partition["status"].is_null());
                ensure!(owner.is_string(), "{plugin}");
                ensure!(is_here || *owner == elsewhere.url(), "{plugin}");
            }
        }
        Ok(())
    })
}

/// The keys that a host tells of, and the partitions that it names as another's.
fn told(client: &Client, other: &str) -> Result<(BTreeSet<String>, BTreeSet<u64>)> {
    let page = client
        .get("/v1/views/documents/changes?_limit=1000")?
        .expect_status(200)?
        .json()?;
    let text = |of: &Value| of.as_str().map(str::to_owned);
    let changes = page["changes"].as_array().context("no changes")?.iter();
    let keys = changes.map(|it| text(&it["key"]).context("no key"));
    let missing = page["missing"].as_array().context("nothing is missing")?;
    let missing = missing.iter().map(|it| {
        ensure!(it["owner"] == other && it["reason"] == "not-owner", "{it}");
        it["partition"].as_u64().context("no partition")
    });
    Ok((
        keys.collect::<Result<_>>()?,
        missing.collect::<Result<_>>()?,
    ))
}

#[test]
fn a_batch_and_a_feed_name_the_owner_of_what_is_elsewhere() -> Result<()> {
    let broker = kafka::shared()?;
    let scratch = Scratch::new("two-hosts")?;
    let config = kafka_config(&scratch, &broker, "two-hosts", &scratch.join("objects"))?;
    let start = |name: &str| -> Result<Host> {
        let folder = scratch.join(name);
        std::fs::create_dir_all(&folder)?;
        // Nobody is killed: a machine that stands still for a while must not move partitions either.
        let start = Start::serve(&folder).config(&config);
        start
            .environment("FOLDHOST__KAFKA__SESSION_TIMEOUT_MS", "60000")
            .ready()
    };
    let one = start("one")?;
    let code = wasm::with_field(&documents()?, "changes", "true")?;
    deploy(&one.client()?, "documents", "", &code)?.expect(201, "created")?;
    wait_deciding(&one.client()?, "documents", &["d0", "d1", "d2", "d3"])?;
    let other = start("other")?;
    wait_shared(&one, &other)?;

    // What is the host's own is done; of the rest, it names the owner.
    let lines = batch(&one.client()?, "documents", &puts())?;
    let done = lines.iter().filter(|line| line["status"] == 200).count();
    ensure!(0 < done && done < lines.len(), "{lines:?}");
    for line in lines.iter().filter(|line| line["status"] != 200) {
        let problem = &line["problem"];
        ensure!(
            line["status"] == 421
                && problem["code"] == "not-owner"
                && problem["owner"] == other.url(),
            "{line}"
        );
    }
    // The command line asks the owner, and what is done already is not done twice.
    let text: Vec<String> = puts().iter().map(Value::to_string).collect();
    let arguments = ["command", "documents", "--file", "-"];
    let sent = run_with_input(scratch.path(), one.url(), &arguments, &text.join("\n"))?;
    ensure!(sent.status.success(), "{}", shown(&sent));
    let lines: Vec<Value> = String::from_utf8(sent.stdout)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(lines.iter().all(|line| line["version"] == 1), "{lines:?}");
    let repeats = lines.iter().filter(|line| line["repeat"] == true).count();
    ensure!(repeats == done, "{repeats} of {done} are repeats");

    wait_until_ok(WITHIN, "both together to tell of every key", || {
        let (of_one, not_of_one) = told(&one.client()?, other.url())?;
        let (of_other, not_of_other) = told(&other.client()?, one.url())?;
        ensure!(of_one.is_disjoint(&of_other), "{of_one:?}, {of_other:?}");
        ensure!(
            of_one.len() + of_other.len() == puts().len(),
            "{of_one:?}, {of_other:?}"
        );
        let all: Vec<u64> = not_of_one.union(&not_of_other).copied().collect();
        ensure!(
            not_of_one.is_disjoint(&not_of_other) && all == [0, 1, 2, 3],
            "{not_of_one:?}, {not_of_other:?}"
        );
        Ok(())
    })
}
