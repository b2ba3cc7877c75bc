//! Plugins that misbehave, each beside a healthy neighbour on one host: every one ends in the status and
//! code that `plugins/misbehaving/README.md` documents, the event is named exactly, and nobody else
//! notices.

#![allow(
    clippy::print_stderr,
    reason = "figures for whoever runs it with --nocapture"
)]

use std::fs;

use anyhow::{Context, Result, ensure};
use foldhost_tests::host::{GENEROUS, Host, Start};
use foldhost_tests::http::{Client, Reply};
use foldhost_tests::operate::{
    blocked, count_of, deploy, plugin, rollback, settled, wait_blocked, wait_serving,
};
use foldhost_tests::paths::{Scratch, prebuilt_plugin, repository};
use foldhost_tests::wait::wait_until_ok;
use foldhost_tests::{memory, wasm};
use serde_json::{Value, json};

/// Records of one append, and so of one batch.
const RECORDS: usize = 1_000;
const KEYS: usize = 100;
/// Which of them is marked.
const POISON_AT: usize = 617;
/// More than the host ever holds here: some 150 MB for itself and twenty plugins (their code, stores and
/// instances), and for each of its two folding threads an instance that takes the 64 MiB it may have.
const RESIDENT_BYTES_MAX: u64 = 600 << 20;

/// A host with one topic of one partition, and a plugin that counts.
struct Bed {
    host: Host,
    client: Client,
    /// Records in the topic.
    end: u64,
    /// Records that each of the keys has had.
    each: usize,
    _scratch: Scratch,
}

impl Bed {
    fn new(name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let host = Start::serve(scratch.path()).ready()?;
        let client = host.client()?;
        client
            .put_json("/v1/topics/events", &json!({"partitions": 1}))?
            .success()?;
        let bed = Self {
            host,
            client,
            end: 0,
            each: 0,
            _scratch: scratch,
        };
        bed.deploy("neighbour", "", &prebuilt_plugin("counter")?)?;
        Ok(bed)
    }

    /// Deploys a component on the topic, under a name that is new.
    fn deploy(&self, name: &str, more: &str, wasm: &[u8]) -> Result<()> {
        let parameters = format!("topic=flights=events{more}");
        deploy(&self.client, name, &parameters, wasm)?.expect(201, "created")?;
        Ok(())
    }

    /// Deploys other code on the states of what runs.
    fn keep(&self, name: &str, more: &str, wasm: &[u8]) -> Result<Reply> {
        let parameters = format!("state=keep&topic=flights=events{more}");
        self.client.deploy(name, &parameters, wasm.to_vec())
    }

    /// Appends `RECORDS` records at once; `poison` names the one that is marked.
    fn append(&mut self, poison: Option<usize>) -> Result<()> {
        let records: Vec<Value> = (0..RECORDS)
            .map(|n| {
                let value = if poison == Some(n) { "poison" } else { "fine" };
                json!({"key": key(n), "value_text": value})
            })
            .collect();
        let places = self.client.append_all("events", &records)?;
        let expected = (self.end..).take(RECORDS).map(|offset| (0, offset));
        ensure!(places.iter().copied().eq(expected), "{places:?}");
        self.end += RECORDS as u64;
        self.each += RECORDS / KEYS;
        Ok(())
    }

    /// Appends one record of the key `poison`, and gives its offset.
    fn append_marked(&mut self) -> Result<u64> {
        let record = json!({"key": "poison", "value_text": "fine"});
        let (_, offset) = self.client.append_all("events", &[record])?[0];
        self.end = offset + 1;
        Ok(offset)
    }

    /// The neighbour has folded everything, without lag, and answers right about every key.
    fn expect_neighbour(&self) -> Result<()> {
        self.host.wait_caught_up("neighbour", GENEROUS)?;
        for n in 0..KEYS {
            self.expect_count("neighbour", n, self.each)?;
        }
        Ok(())
    }

    fn expect_count(&self, name: &str, key_number: usize, count: usize) -> Result<()> {
        // What was appended a moment ago may not have been read yet.
        wait_until_ok(GENEROUS, "the count", || {
            let reply = self.client.ask(name, &key(key_number), "")?;
            let reply = reply.expect_status(200)?;
            ensure!(reply.json()?["count"] == count, "not {count}: {reply:?}");
            Ok(())
        })
    }

    fn expect_memory(&mut self) -> Result<()> {
        let resident = memory::resident(self.host.process().id())?;
        eprintln!("resident: {resident:?}");
        ensure!(resident.peak_bytes < RESIDENT_BYTES_MAX, "{resident:?}");
        Ok(())
    }
}

/// Keys come in turn.
fn key(n: usize) -> String {
    format!("k{}", n % KEYS)
}

/// One of the misbehaving plugins.
fn misbehaving(name: &str) -> Result<Vec<u8>> {
    let folder = repository().join("plugins/misbehaving");
    let text = folder.join(name).join(format!("{name}.wat"));
    if text.is_file() {
        let manifest = fs::read_to_string(folder.join(name).join("plugin.toml"))?;
        return wasm::with_manifest(&wat::parse_file(&text)?, &manifest);
    }
    let built = folder.join("prebuilt").join(format!("{name}.wasm"));
    fs::read(&built).with_context(|| format!("no plugin at {}", built.display()))
}

/// Name, plugin, parameters, and the code that its partition is blocked with.
const POISONED: [(&str, &str, &str, &str); 8] = [
    ("traps", "traps-on-event", "", "event-trapped"),
    ("loops", "loops-on-event", "", "event-out-of-fuel"),
    ("grows", "grows-on-event", "", "event-out-of-memory"),
    ("too-much", "returns-too-much", "", "state-too-large"),
    (
        "decreasing",
        "broken-columns",
        "&set=fault=ends-decrease",
        "bad-columns",
    ),
    (
        "lengths",
        "broken-columns",
        "&set=fault=wrong-lengths",
        "bad-columns",
    ),
    (
        "indices",
        "broken-columns",
        "&set=fault=index-out-of-range",
        "bad-columns",
    ),
    (
        "marks",
        "broken-columns",
        "&set=fault=unknown-mark",
        "bad-columns",
    ),
];

/// Every one is stopped before the marked event and nowhere else, with this code.
fn expect_poisoned(bed: &Bed, prefix: &str) -> Result<()> {
    for (name, _, _, code) in POISONED {
        let name = format!("{prefix}-{name}");
        let partition = wait_blocked(&bed.client, &name, GENEROUS * 2)?;
        let why = &partition["blocked"];
        ensure!(why["code"] == code, "{name}, not {code}: {partition}");
        let at = format!("events/0@{POISON_AT}");
        ensure!(why["at"] == at, "{name}: not at {at}: {partition}");
        // Nothing behind it is folded, and what is not shows as lag.
        let before = POISON_AT as u64 - 1;
        ensure!(count_of(&partition, "position")? == before, "{partition}");
        wait_until_ok(GENEROUS, "the lag to be told", || {
            let lag = count_of(&plugin(&bed.client, &name)?, "lag")?;
            let expected = bed.end - POISON_AT as u64;
            ensure!(lag == expected, "{name}: {lag}, not {expected}");
            Ok(())
        })?;
        // It answers from the state before the event.
        let reply = bed.client.ask(&name, &key(POISON_AT), "")?;
        let reply = reply.expect_status(200)?;
        let expected = match name.ends_with("too-much") {
            true => "fine".repeat(POISON_AT / KEYS),
            false => format!(r#"{{"count":{}}}"#, POISON_AT / KEYS),
        };
        ensure!(
            reply.text() == expected,
            "{name}, not {expected}: {reply:?}"
        );
    }
    Ok(())
}

#[test]
fn a_poison_event_among_a_thousand_stops_its_plugin_and_no_other() -> Result<()> {
    let mut bed = Bed::new("poisoned")?;
    let deploy_all = |bed: &Bed, prefix: &str| -> Result<()> {
        for (name, file, parameters, _) in POISONED {
            bed.deploy(&format!("{prefix}-{name}"), parameters, &misbehaving(file)?)?;
        }
        Ok(())
    };
    deploy_all(&bed, "live")?;
    // The same code with another mark is not harmed.
    bed.deploy(
        "unharmed",
        "&set=marker=other",
        &misbehaving("traps-on-event")?,
    )?;
    for (name, ..) in POISONED {
        bed.host.wait_caught_up(&format!("live-{name}"), GENEROUS)?;
    }
    bed.append(Some(POISON_AT))?;
    bed.expect_neighbour()?;
    expect_poisoned(&bed, "live")?;
    // The same for those that find the event in their backlog, with more behind it.
    bed.append(None)?;
    deploy_all(&bed, "late")?;
    bed.expect_neighbour()?;
    expect_poisoned(&bed, "late")?;
    expect_poisoned(&bed, "live")?;
    bed.host.wait_caught_up("unharmed", GENEROUS)?;
    bed.expect_count("unharmed", POISON_AT, bed.each)?;
    bed.expect_memory()
}

#[test]
fn a_plugin_that_misbehaves_in_answers_goes_on_folding() -> Result<()> {
    let mut bed = Bed::new("answers")?;
    // Query that fails, and what is said of it.
    let failing = [
        ("traps-in-answer", "/always", "no answer about k7"),
        ("loops-in-answer", "/always", "units of fuel"),
        ("returns-too-much", "/much", "the answer has 8388608 bytes"),
    ];
    for (name, ..) in failing {
        bed.deploy(name, "", &misbehaving(name)?)?;
    }
    for _ in 0..3 {
        bed.append(None)?;
        for (name, query, words) in failing {
            bed.host.wait_caught_up(name, GENEROUS)?;
            for _ in 0..5 {
                bed.client
                    .ask(name, &key(7), query)?
                    .expect_problem(500, "plugin-trapped")?
                    .expect_words(&[words, "its state is untouched"])?;
            }
            // What it answers otherwise is as if nothing had been.
            match name {
                "returns-too-much" => {
                    let reply = bed.client.ask(name, &key(7), "")?.expect_status(200)?;
                    ensure!(reply.text() == "fine".repeat(bed.each), "{reply:?}");
                }
                _ => bed.expect_count(name, 7, bed.each)?,
            }
            settled(&bed.client, name)?;
        }
        bed.expect_neighbour()?;
    }
    bed.expect_memory()
}

#[test]
fn what_a_plugin_may_not_be_is_refused_at_deploy() -> Result<()> {
    let mut bed = Bed::new("refused")?;
    let cases = [
        (
            "imports-clock",
            "",
            "forbidden-import",
            "wasi:clocks/monotonic-clock@0.2.0",
        ),
        (
            "wrong-abi",
            "",
            "wrong-abi",
            "of version '0.9.0', this host speaks 0.1.0",
        ),
        (
            "broken-columns",
            "&set=fault=none",
            "bad-parameters",
            "ends-decrease",
        ),
    ];
    for (name, more, code, words) in cases {
        let parameters = format!("topic=flights=events{more}");
        let reply = bed.client.deploy(name, &parameters, misbehaving(name)?)?;
        let reply = reply
            .expect_problem(422, "invalid-plugin")?
            .expect_words(&[words])?;
        let problem = reply.json()?;
        let faults = problem["faults"].as_array().context("no `faults`")?;
        let all = !faults.is_empty() && faults.iter().all(|fault| fault["code"] == code);
        ensure!(all, "{name}, not {code} alone: {reply:?}");
        bed.client
            .get(&format!("/v1/plugins/{name}"))?
            .expect_problem(404, "unknown-plugin")?;
    }
    bed.append(None)?;
    bed.expect_neighbour()?;
    bed.expect_memory()
}

#[test]
fn hidden_state_hurts_nobody_else() -> Result<()> {
    // The host cannot see it (the SDK's `assert_deterministic` does): it runs, and answers something.
    let mut bed = Bed::new("hidden")?;
    bed.deploy("hidden-state", "", &misbehaving("hidden-state")?)?;
    bed.append(Some(POISON_AT))?;
    bed.host.wait_caught_up("hidden-state", GENEROUS)?;
    let reply = bed.client.ask("hidden-state", &key(3), "")?;
    ensure!(reply.expect_status(200)?.json()?["count"].is_u64());
    bed.expect_neighbour()?;
    bed.expect_memory()
}

/// Faults that fail a migration, and what is said of each.
const MIGRATIONS: [(&str, &str); 6] = [
    ("error", "not to my liking"),
    ("traps", "this state is marked"),
    ("loops", "units of fuel"),
    ("too-few", "broken columns"),
    ("unchanged", "broken columns"),
    ("too-large", "2097152 bytes"),
];

/// Waits until the generation that is being built is blocked, and gives its blocked partition.
fn wait_build_blocked(client: &Client, name: &str) -> Result<Value> {
    wait_until_ok(
        GENEROUS,
        &format!("the build of {name} to be blocked"),
        || {
            let plugin = plugin(client, name)?;
            let building = &plugin["building"];
            ensure!(building["status"] == "blocked", "{plugin}");
            blocked(building).cloned()
        },
    )
}

#[test]
fn a_migration_to_garbage_blocks_the_new_generation_only() -> Result<()> {
    let mut bed = Bed::new("garbage")?;
    let garbage = misbehaving("migrates-to-garbage")?;
    for (fault, _) in MIGRATIONS {
        bed.deploy(fault, "", &prebuilt_plugin("counter")?)?;
    }
    bed.append(None)?;
    bed.append_marked()?;
    for (fault, words) in MIGRATIONS {
        bed.host.wait_caught_up(fault, GENEROUS)?;
        let before = plugin(&bed.client, fault)?;
        let parameters = format!("&set=fault={fault}");
        let reply = bed.keep(fault, &parameters, &garbage)?.expect_status(202)?;
        ensure!(reply.json()?["outcome"] == "building", "{reply:?}");
        let place = reply.header("location").context("no location")?.to_owned();
        let partition = wait_build_blocked(&bed.client, fault)?;
        let why = &partition["blocked"];
        ensure!(why["code"] == "migration-failed", "{fault}: {partition}");
        let detail = why["detail"].as_str().unwrap_or_default();
        for word in ["'poison'", words] {
            ensure!(
                detail.contains(word),
                "{fault} does not say {word}: {detail}"
            );
        }
        let generation = bed.client.get(&place)?.expect_status(200)?.json()?;
        ensure!(generation["origin"] == "migrated", "{generation}");
        // The old generation serves, and goes on.
        let after = plugin(&bed.client, fault)?;
        for field in ["generation", "deployment", "digest"] {
            ensure!(after[field] == before[field], "{fault}, {field}: {after}");
        }
        let offset = bed.append_marked()?;
        let position = format!("events/0@{offset}");
        let reply = bed.client.ask_at(fault, "poison", "", &position)?;
        let count = reply.expect_status(200)?.json()?["count"].clone();
        ensure!(count == offset - RECORDS as u64 + 1, "{fault}: {count}");
        // It can be called off.
        rollback(&bed.client, fault, "")?.expect(200, "cancelled")?;
        wait_serving(
            &bed.client,
            fault,
            count_of(&before, "deployment")?,
            GENEROUS,
        )?;
        bed.client
            .get(&place)?
            .expect_problem(404, "unknown-generation")?;
    }
    bed.expect_neighbour()?;
    bed.expect_memory()
}

#[test]
fn a_migration_is_refused_or_done_as_the_plugin_says() -> Result<()> {
    let mut bed = Bed::new("migrated")?;
    let counter = prebuilt_plugin("counter")?;
    for name in ["refuses", "done", "unreadable"] {
        bed.deploy(name, "", &counter)?;
    }
    bed.append(None)?;
    bed.append_marked()?;
    for name in ["refuses", "done", "unreadable"] {
        bed.host.wait_caught_up(name, GENEROUS)?;
    }
    let garbage = misbehaving("migrates-to-garbage")?;
    let before = plugin(&bed.client, "refuses")?;
    let reply = bed.keep("refuses", "&set=fault=refuses", &garbage)?;
    let reply = reply
        .expect_problem(422, "invalid-plugin")?
        .expect_words(&["no schema is known, and counter/1 neither"])?;
    ensure!(
        reply.json()?["faults"][0]["code"] == "migrate-refused",
        "{reply:?}"
    );
    let after = plugin(&bed.client, "refuses")?;
    ensure!(after["deployment"] == before["deployment"], "{after}");
    ensure!(after["building"].is_null(), "{after}");

    // A good migration, for comparison: it counts on where the old code was.
    let done = bed.keep("done", "", &prebuilt_plugin("migrating-counter")?)?;
    let deployment = count_of(&done.expect_status(202)?.json()?, "deployment")?;
    wait_serving(&bed.client, "done", deployment, GENEROUS)?;
    bed.append(None)?;
    bed.host.wait_caught_up("done", GENEROUS)?;
    bed.expect_count("done", 5, bed.each)?;

    // Bytes that the plugin cannot read itself look like any others: the host finds out when it is
    // asked about them, and when an event meets them.
    let reply = bed.keep("unreadable", "&set=fault=unreadable", &garbage)?;
    let deployment = count_of(&reply.expect_status(202)?.json()?, "deployment")?;
    wait_serving(&bed.client, "unreadable", deployment, GENEROUS)?;
    bed.expect_count("unreadable", 5, bed.each)?;
    bed.client
        .ask("unreadable", "poison", "")?
        .expect_problem(500, "plugin-trapped")?
        .expect_words(&["cannot be decoded"])?;
    let offset = bed.append_marked()?;
    let partition = wait_blocked(&bed.client, "unreadable", GENEROUS)?;
    let why = &partition["blocked"];
    ensure!(why["code"] == "event-trapped", "{partition}");
    ensure!(why["at"] == format!("events/0@{offset}"), "{partition}");
    bed.expect_neighbour()?;
    bed.expect_memory()
}
