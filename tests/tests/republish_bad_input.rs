//! Bad input to republishers and to the merge stage, each with a clear error: outputs that belong to somebody
//! else, records that are too large or too many, topics of the host that somebody deletes, a broker on which
//! transactions cannot work. What comes of single records is in `republish_poison.rs`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::host::{GENEROUS, Host, Start, kafka_config, run_in, shown};
use foldhost_tests::http::Client;
use foldhost_tests::kafka::{self, Broker};
use foldhost_tests::operate::{
    deploy, plugin, skip_blocked, wait_blocked, wait_committed, wait_serving,
};
use foldhost_tests::paths::{Scratch, prebuilt_plugin, repository};
use foldhost_tests::two_inputs::{at, create_inputs, misbehaving, on_two_inputs, to_the_right};
use foldhost_tests::wait::wait_until_ok;
use foldhost_tests::{fleet_records, topic, wasm};
use serde_json::{Value, json};

const INPUTS: [&str; 2] = ["orders", "returns"];
/// The largest record that a host takes unless it is told otherwise.
const RECORD_BYTES_MAX: usize = 1 << 20;

fn topic_of(client: &Client, name: &str, partitions: u32) -> Result<()> {
    let path = format!("/v1/topics/{name}");
    client
        .put_json(&path, &json!({"partitions": partitions}))?
        .success()?;
    Ok(())
}

/// Waits until a topic has so many records.
fn wait_records(client: &Client, name: &str, count: usize) -> Result<Vec<Value>> {
    wait_until_ok(GENEROUS, &format!("{count} records in {name}"), || {
        let records = topic::read_all(client, name)?;
        ensure!(records.len() == count, "{} of {count}", records.len());
        Ok(records)
    })
}

/// The one fault for which a component was refused.
fn only_fault(reply: foldhost_tests::http::Reply) -> Result<String> {
    let problem = reply.expect_problem(422, "invalid-plugin")?.json()?;
    let faults = problem["faults"].as_array().context("no `faults`")?;
    ensure!(faults.len() == 1, "{problem}");
    let code = faults[0]["code"].as_str().context("no code")?;
    Ok(code.to_owned())
}

#[test]
fn a_topic_has_one_publisher() -> Result<()> {
    let scratch = Scratch::new("publishers")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    topic_of(&client, "flights", 2)?;
    let wasm = misbehaving("broken-records")?;
    let deployed = |name: &str, more: &str| client.deploy(name, more, wasm.clone());
    deployed("first", "")?.expect_status(201)?;
    deployed("second", "")?
        .expect_problem(409, "output-taken")?
        .expect_words(&["counts", "'first'", "--topic OUTPUT=TOPIC"])?;
    for parameters in [
        "topic=counts=flights",
        "topic=flights=told&topic=counts=told",
    ] {
        let fault = only_fault(deployed("second", parameters)?)?;
        ensure!(fault == "output-is-an-input", "{parameters}: {fault}");
    }
    let fault = only_fault(deployed("second", "topic=counts=foldhost.counts")?)?;
    ensure!(fault == "output-is-the-hosts", "{fault}");
    client
        .append("counts", &[json!({"key": "k", "value": 1})])?
        .expect_problem(409, "topic-owned")?
        .expect_words(&["counts", "first"])?;

    // A topic that is there and belongs to no one is taken over only by who says so.
    topic_of(&client, "taken", 1)?;
    client.append_all("taken", &[json!({"key": "k", "value": "before"})])?;
    deployed("second", "topic=counts=taken")?
        .expect_problem(409, "topic-exists")?
        .expect_words(&["taken", "--adopt-topic"])?;
    let file = repository().join("plugins/misbehaving/prebuilt/broken-records.wasm");
    let file = file.to_str().context("a path that is no text")?;
    let command = [
        "plugin",
        "deploy",
        file,
        "--name",
        "second",
        "--topic",
        "counts=taken",
    ];
    let refused = run_in(scratch.path(), host.url(), &command)?;
    let said = shown(&refused);
    ensure!(
        !refused.status.success() && said.contains("--adopt-topic"),
        "{said}"
    );
    client
        .get("/v1/plugins/second")?
        .expect_problem(404, "unknown-plugin")?;
    let command = [&command[..], &["--adopt-topic"]].concat();
    let taken = run_in(scratch.path(), host.url(), &command)?;
    ensure!(taken.status.success(), "{}", shown(&taken));
    client.append_all("flights", &[json!({"key": "k", "value": 1})])?;
    let records = wait_records(&client, "taken", 2)?;
    ensure!(records[1]["value"]["count"] == 1, "{records:?}");
    client
        .append("taken", &[json!({"key": "k", "value": 1})])?
        .expect_problem(409, "topic-owned")?;
    Ok(())
}

#[test]
fn what_is_emitted_is_bounded() -> Result<()> {
    let scratch = Scratch::new("bounds")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    topic_of(&client, "flights", 1)?;
    let faults = [
        ("too-many", "emitted-too-much", "70000 records"),
        ("too-large", "emitted-too-much", "20971540 bytes"),
        ("long-key", "bad-columns", "33792 bytes"),
        ("host-header", "bad-columns", "foldhost-"),
        ("rejected-cause", "bad-columns", "rejected"),
    ];
    for (fault, ..) in faults {
        let parameters = format!("set=fault={fault}&topic=counts=counts-{fault}");
        let wasm = misbehaving("broken-records")?;
        deploy(&client, fault, &parameters, &wasm)?.expect(201, "created")?;
    }
    let values = ["fine", "fine", "poison", "fine"];
    let records = values.map(|value| json!({"key": "k", "value_text": value}));
    client.append_all("flights", &records)?;
    for (fault, code, words) in faults {
        let partition = wait_blocked(&client, fault, GENEROUS)?;
        let why = &partition["blocked"];
        ensure!(
            why["code"] == code && why["at"] == "flights/0@2",
            "{partition}"
        );
        let detail = why["detail"].as_str().unwrap_or_default();
        ensure!(
            detail.contains(words),
            "{fault} does not say {words}: {detail}"
        );
        // What came before it is told, of it and what follows nothing.
        wait_records(&client, &format!("counts-{fault}"), 2)?;
        skip_blocked(&client, fault, "flights/0@2", "too much", GENEROUS)?.success()?;
        let told = wait_records(&client, &format!("counts-{fault}"), 3)?;
        ensure!(told[2]["value"]["count"] == 3, "{told:?}");
    }
    Ok(())
}

#[test]
fn records_that_are_too_large_stop_where_they_are() -> Result<()> {
    let scratch = Scratch::new("too-large")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    create_inputs(&client, INPUTS)?;
    let wasm = on_two_inputs(&prebuilt_plugin("fleet-onboarding")?, INPUTS, "")?;
    let limits = "[limits]\nstate-size = \"4MiB\"\n";
    let wasm = wasm::with_manifest(&wasm, &(wasm::manifest(&wasm)? + limits))?;
    deploy(&client, "onboarding", "", &wasm)?.expect(201, "created")?;
    // One that its topic has just taken: with the marks of its origin, it is too large for the merge topic.
    let facts = fleet_records::of_long_names(1, RECORD_BYTES_MAX - 60);
    let places = client.append_all("orders", &[facts[2].record(&[])])?;
    let place = at("orders", places[0]);
    let stopped = |code: &str, words: &str| -> Result<Value> {
        wait_until_ok(GENEROUS, code, || {
            let partition = wait_blocked(&client, "onboarding", Duration::ZERO)?;
            let why = partition["blocked"].clone();
            ensure!(why["code"] == code, "{partition}");
            let detail = why["detail"].as_str().unwrap_or_default();
            ensure!(detail.contains(words), "{detail}");
            Ok(why)
        })
    };
    let why = stopped("record-too-large", "max.message.bytes")?;
    ensure!(why["at"] == place, "not at {place}: {why}");
    skip_blocked(&client, "onboarding", &place, "too large", GENEROUS)?.success()?;
    // What follows from two that fit does not fit.
    for fact in fleet_records::of_long_names(32_000, RECORD_BYTES_MAX - 30_000) {
        let record = fact.record(&[]);
        match fact.is_access() {
            true => client.append_all("returns", &[to_the_right(record)])?,
            false => client.append_all("orders", &[record])?,
        };
    }
    let why = stopped("output-too-large", "bytes")?;
    let place = why["at"].as_str().context("no place")?;
    ensure!(topic::read_all(&client, "notifications")?.is_empty());
    skip_blocked(&client, "onboarding", place, "too large", GENEROUS)?.success()?;
    let served = plugin(&client, "onboarding")?;
    let deployment = foldhost_tests::operate::count_of(&served, "deployment")?;
    wait_serving(&client, "onboarding", deployment, GENEROUS)?;
    // A record that nobody takes is refused before it is anywhere.
    let record = json!({"key": "kk", "value_text": "x".repeat(RECORD_BYTES_MAX - 1)});
    client
        .append("orders", &[record])?
        .expect_problem(413, "too-large")?;
    Ok(())
}

/// A host on the shared broker, whose republisher reads two inputs and has told of both.
struct OnKafka {
    broker: Arc<Broker>,
    host: Host,
    client: Client,
    inputs: [String; 2],
    _scratch: Scratch,
}

impl OnKafka {
    fn new(name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let broker = kafka::shared()?;
        let config = kafka_config(&scratch, &broker, name, &scratch.join("objects"))?;
        let host = Start::serve(scratch.path()).config(&config).ready()?;
        let client = host.client()?;
        let inputs = INPUTS.map(|input| format!("{name}-{input}"));
        create_inputs(&client, [&inputs[0], &inputs[1]])?;
        let wasm = misbehaving("broken-records")?;
        let wasm = on_two_inputs(&wasm, [&inputs[0], &inputs[1]], "")?;
        let parameters = format!("topic=counts={name}-counts");
        deploy(&client, "teller", &parameters, &wasm)?.expect(201, "created")?;
        let this = Self {
            broker,
            host,
            client,
            inputs,
            _scratch: scratch,
        };
        this.append(60)?;
        wait_records(&this.client, &this.counts(), 120)?;
        // What was told is in the committed states: a state that knows of nothing cannot miss its journal.
        wait_committed(&this.client, "teller", GENEROUS)?;
        Ok(this)
    }

    fn counts(&self) -> String {
        self.inputs[0].replace(INPUTS[0], "counts")
    }

    fn append(&self, count: usize) -> Result<()> {
        let records: Vec<Value> = (0..count)
            .map(|n| json!({"key": format!("k{n}"), "value": n}))
            .collect();
        self.client.append_all(&self.inputs[0], &records)?;
        let records: Vec<Value> = records.into_iter().map(to_the_right).collect();
        self.client.append_all(&self.inputs[1], &records)?;
        Ok(())
    }

    /// Deletes the topic of the host whose name has this in it, by hand.
    fn delete(&self, part: &str) -> Result<String> {
        let topics = self.broker.topics()?;
        let cluster = self.inputs[0].replace(&format!("-{}", INPUTS[0]), ".");
        let mut topics = topics.into_iter();
        let topic = topics.find(|it| it.starts_with(&cluster) && it.contains(part));
        let topic = topic.with_context(|| format!("no topic of {part}"))?;
        self.broker.delete_topic(&topic)?;
        Ok(topic)
    }

    /// A new start of the host.
    fn restart(self) -> Result<Self> {
        let host = self.host.kill()?.ready()?;
        Ok(Self {
            client: host.client()?,
            host,
            ..self
        })
    }

    /// The plugin says that it cannot go on, with one of these codes and words, and has told nothing more.
    fn expect_blocked(&self, codes: &[&str], words: &[&str], told: usize) -> Result<()> {
        let partition =
            wait_blocked(&self.client, "teller", GENEROUS).with_context(|| self.host.log_tail())?;
        let why = &partition["blocked"];
        let code = why["code"].as_str().unwrap_or_default();
        ensure!(codes.contains(&code), "not one of {codes:?}: {partition}");
        let detail = why["detail"].as_str().unwrap_or_default();
        for word in words {
            ensure!(detail.contains(word), "it does not say {word}: {detail}");
        }
        // The broker may be too busy to give a new reader its first record in time.
        let counts = self.counts();
        let records = wait_until_ok(GENEROUS, &format!("{counts} to be read"), || {
            topic::read_all(&self.client, &counts)
        })?;
        ensure!(records.len() == told, "{} records", records.len());
        Ok(())
    }
}

#[test]
fn a_merge_topic_that_is_deleted_by_hand_is_never_merged_into_anew() -> Result<()> {
    let bed = OnKafka::new("no-merge")?;
    bed.delete(".merge.")?;
    let bed = bed.restart()?;
    bed.append(60)?;
    let codes = ["merge-topic-replaced", "topic-replaced", "topic-missing"];
    bed.expect_blocked(&codes, &["delete 'teller'", "merges its inputs anew"], 120)
}

#[test]
fn a_journal_that_is_deleted_by_hand_blocks_and_publishes_nothing() -> Result<()> {
    let bed = OnKafka::new("no-journal")?;
    bed.delete(".journal")?;
    let bed = bed.restart()?;
    bed.append(60)?;
    bed.expect_blocked(&["position-lost"], &["journal", "'teller'"], 120)
}

#[test]
fn a_view_whose_journal_is_gone_merges_nothing_twice() -> Result<()> {
    let scratch = Scratch::new("view-journal")?;
    let broker = kafka::shared()?;
    let config = kafka_config(&scratch, &broker, "viewed", &scratch.join("objects"))?;
    let host = Start::serve(scratch.path()).config(&config).ready()?;
    let client = host.client()?;
    let inputs = ["viewed-orders", "viewed-returns"];
    create_inputs(&client, inputs)?;
    let wasm = on_two_inputs(&prebuilt_plugin("counter")?, inputs, "")?;
    let done = deploy(&client, "counted", "", &wasm)?.expect(201, "created")?;
    wait_serving(&client, "counted", done.deployment, GENEROUS)?;
    let places = client.append_all(inputs[0], &[json!({"key": "k", "value": 1})])?;
    let position = at(inputs[0], places[0]);
    client
        .ask_at("counted", "k", "", &position)?
        .expect_status(200)?;
    broker.delete_topic("viewed.counted.journal")?;
    let host = host.kill()?.ready()?;
    let client = host.client()?;
    let partition = wait_blocked(&client, "counted", GENEROUS)?;
    let why = &partition["blocked"];
    ensure!(why["code"] == "position-lost", "{partition}");
    let detail = why["detail"].as_str().unwrap_or_default();
    ensure!(
        detail.contains("viewed.counted.journal") && detail.contains("delete 'counted'"),
        "{detail}"
    );
    let merged: Vec<_> = broker
        .topics()?
        .into_iter()
        .filter(|name| name.starts_with("viewed.counted.merge."))
        .collect();
    ensure!(merged.len() == 1, "{merged:?}");
    ensure!(broker.read_all(&merged[0])?.len() == 1, "merged twice");
    Ok(())
}

#[test]
fn a_broker_on_which_transactions_cannot_work_is_named() -> Result<()> {
    // A partition tells of it only from when its opening fails until it is opened again.
    const SAID_WITHIN: Duration = Duration::from_secs(90);
    let scratch = Scratch::new("no-transactions")?;
    // Brokers of this version make do with the replicas that there are, whatever min.isr says; but there must
    // be as many brokers as replicas.
    let too_many = |_, _| {
        "transaction.state.log.replication.factor=2\ntransaction.state.log.min.isr=2\n".to_owned()
    };
    let broker = Broker::start_with(too_many, &[])?;
    let config = kafka_config(&scratch, &broker, "lone", &scratch.join("objects"))?;
    let host = Start::serve(scratch.path()).config(&config).ready()?;
    let client = host.client()?;
    topic_of(&client, "flights", 1)?;
    // A view that writes nothing to the log needs none.
    host.deploy_prebuilt("counter", "")?;
    let wasm = misbehaving("broken-records")?;
    deploy(&client, "teller", "", &wasm)?.expect(201, "created")?;
    let words = ["transaction", "transaction.state.log.min.isr"];
    wait_until_ok(SAID_WITHIN, "the error to be told", || {
        let told = client.get("/v1/plugins/teller")?.expect_words(&words)?;
        ensure!(host.log().contains(words[1]), "{told:?}");
        Ok(())
    })
    .with_context(|| host.log_tail())?;
    wait_until_ok(SAID_WITHIN, "the command line to tell it", || {
        let said = run_in(scratch.path(), host.url(), &["plugin", "show", "teller"])?;
        let said = shown(&said);
        ensure!(said.contains(words[1]), "{said}");
        Ok(())
    })
    .with_context(|| host.log_tail())
}
