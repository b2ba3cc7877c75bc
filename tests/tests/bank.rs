//! The example bank under kills: many clients withdraw and transfer at random while the host dies again and again. No
//! account is ever overdrawn, money is neither made nor lost, and what a client was told is what the topic says. A
//! transfer is a saga of commands over HTTP and from a topic (`plugins/bank-account`). More with `tests/run --full`.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::bank::{Books, balance_of};
use foldhost_tests::command::command;
use foldhost_tests::host::{Start, kafka_config};
use foldhost_tests::http::Client;
use foldhost_tests::load::Target;
use foldhost_tests::operate::{deploy, plugin, skip_blocked, wait_blocked, wait_serving};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::wait::{Stopwatch, let_pass, wait_until_ok};
use foldhost_tests::{full, kafka, topic, wasm};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const ACCOUNTS: u32 = 100;
/// Accounts that are never opened: what is sent there comes back.
const NOBODY: u32 = 5;
const CLIENTS: u64 = 64;
/// A host that was killed is itself again, its session on Kafka included.
const WITHIN: Duration = Duration::from_secs(180);
const EVENTS: &str = "bank-accounts";
const LETTERS: &str = "foldhost.bank-account.dead-letters";

/// A client that repeats each command until it knows what came of it.
struct Teller<'a> {
    target: &'a Target,
    accepted: BTreeSet<String>,
    refused: BTreeSet<String>,
}

impl<'a> Teller<'a> {
    fn new(target: &'a Target) -> Self {
        Self {
            target,
            accepted: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    fn ask(&mut self, id: String, account: &str, name: &str, body: &Value) -> Result<()> {
        let since = Stopwatch::start();
        loop {
            ensure!(since.elapsed() < WITHIN, "{id} has no answer");
            let reply = self.target.client().and_then(|client| {
                let id = [("idempotency-key", &*id)];
                command(&client, ["bank-account", account, name], body, &id).ok()
            });
            match reply {
                Some(reply) if reply.status == 200 => {
                    self.accepted.insert(id);
                    return Ok(());
                }
                Some(reply) if reply.status == 422 => {
                    self.refused.insert(id);
                    return Ok(());
                }
                Some(reply) if reply.status < 500 => anyhow::bail!("{id}: {reply:?}"),
                _ => let_pass(Duration::from_millis(20)),
            }
        }
    }

    fn work(&mut self, number: u64, stop: &AtomicBool) -> Result<()> {
        let mut chance = ChaCha8Rng::seed_from_u64(number);
        for step in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let account = format!("a{}", chance.random_range(0..ACCOUNTS));
            let cents = chance.random_range(1..400);
            let (name, body) = match chance.random_range(0..10) {
                0 => ("deposit", json!({"cents": cents})),
                1..4 => ("withdraw", json!({"cents": cents})),
                _ => {
                    let to = chance.random_range(0..ACCOUNTS + NOBODY);
                    ("transfer", json!({"to": format!("a{to}"), "cents": cents}))
                }
            };
            self.ask(format!("{number}-{step}"), &account, name, &body)?;
        }
        Ok(())
    }
}

/// Every account is open, and has something in it.
fn found(target: &Target) -> Result<Teller<'_>> {
    let mut teller = Teller::new(target);
    for account in (0..ACCOUNTS).map(|number| format!("a{number}")) {
        let id = |what: &str| format!("{what}-{account}");
        teller.ask(id("open"), &account, "open", &json!({"owner": account}))?;
        teller.ask(id("found"), &account, "deposit", &json!({"cents": 1_000}))?;
    }
    ensure!(teller.refused.is_empty(), "{:?}", teller.refused);
    Ok(teller)
}

/// Both plugins, each of which reads what the other publishes.
fn open_bank(client: &Client) -> Result<()> {
    let account = prebuilt_plugin("bank-account")?;
    deploy(client, "bank-account", "", &account)?.expect(201, "created")?;
    let transfers = prebuilt_plugin("bank-transfers")?;
    let done = deploy(client, "bank-transfers", "", &transfers)?.expect(201, "created")?;
    wait_serving(client, "bank-transfers", done.deployment, WITHIN)?;
    Ok(())
}

/// Clients at work while the host is killed so many times.
fn work_under_kills(start: &Start, seed: u64) -> Result<()> {
    let (kills, pause_ms) = if full() { (10, 6_000) } else { (3, 3_000) };
    let host = start.ready()?;
    open_bank(&host.client()?)?;
    let target = Target::new(&host.client()?);
    let mut host = Some(host);
    let tellers = Mutex::new(vec![found(&target)?]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (target, stop, tellers) = (&target, &stop, &tellers);
                scope.spawn(move || -> Result<()> {
                    let mut teller = Teller::new(target);
                    teller.work(number, stop)?;
                    tellers.lock().expect("no teller panics").push(teller);
                    Ok(())
                })
            })
            .collect();
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let killed = (0..kills).try_for_each(|_| -> Result<()> {
            let_pass(Duration::from_millis(
                chance.random_range(pause_ms / 2..pause_ms),
            ));
            target.down();
            let again = host.take().context("no host")?.kill()?.ready()?;
            target.up(&again.client()?);
            host = Some(again);
            Ok(())
        });
        if killed.is_ok() {
            let_pass(Duration::from_millis(pause_ms));
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no client panics")?;
        }
        killed
    })?;
    let tellers = tellers.into_inner().expect("no teller panics");
    let host = host.context("no host")?;
    audit(&host.client()?, &tellers).with_context(|| host.log_tail())
}

/// What the topic says once all transfers have ended is what the clients were told.
fn audit(client: &Client, tellers: &[Teller<'_>]) -> Result<()> {
    let read = || Books::keep(&topic::read_all(client, EVENTS)?);
    let accepted: BTreeSet<_> = tellers.iter().flat_map(|it| &it.accepted).collect();
    wait_until_ok(WITHIN, "all transfers to end", || {
        let books = read()?;
        let under_way = books.under_way();
        ensure!(under_way == 0, "{under_way} are under way");
        let missing = accepted.iter().find(|id| books.caused_by(id) == 0);
        ensure!(missing.is_none(), "{missing:?} has not come");
        Ok(())
    })?;
    // Partitions were read one after the other; now nothing more comes in between.
    let books = read()?;
    books.balance()?;
    let (mut accepted, mut refused) = (0, 0);
    for teller in tellers {
        for id in &teller.accepted {
            ensure!(books.caused_by(id) == 1, "{id}: {}", books.caused_by(id));
        }
        for id in &teller.refused {
            ensure!(books.caused_by(id) == 0, "{id} was refused, and is there");
        }
        accepted += teller.accepted.len();
        refused += teller.refused.len();
    }
    ensure!(books.commands() == accepted, "more than was told");
    ensure!(refused > 0 && books.refunds() > 0, "too little happened");
    ensure!(topic::end(client, LETTERS)? == 0, "commands were refused");
    Ok(())
}

#[test]
fn money_is_neither_made_nor_lost_on_the_embedded_log() -> Result<()> {
    let scratch = Scratch::new("bank")?;
    work_under_kills(&Start::serve(scratch.path()), 71)
}

#[test]
fn money_is_neither_made_nor_lost_on_kafka() -> Result<()> {
    let broker = kafka::shared()?;
    // Nobody but an administrator makes a topic that is an input.
    broker.create_topic("bank-commands", 4)?;
    let scratch = Scratch::new("bank-kafka")?;
    let config = kafka_config(&scratch, &broker, "foldhost", &scratch.join("objects"))?;
    work_under_kills(&Start::serve(scratch.path()).config(&config), 72)
}

/// A command as a record of a topic.
fn asked(key: &str, name: &str, body: &Value) -> Value {
    json!({"key": key, "value": body, "headers": {"foldhost-command": name}})
}

/// Waits for the letters, and gives the code of each and where it was.
fn letters(client: &Client, topic: &str, count: usize) -> Result<BTreeSet<(String, String)>> {
    let letters = wait_until_ok(WITHIN, "the dead letters", || {
        let letters = topic::read_all(client, topic)?;
        ensure!(letters.len() >= count, "{letters:?}");
        Ok(letters)
    })?;
    let header = |letter: &Value, name: &str| -> Result<String> {
        let header = letter["headers"][format!("__streams.errors.{name}")].as_str();
        Ok(header
            .with_context(|| format!("no {name}: {letter}"))?
            .to_owned())
    };
    letters
        .iter()
        .map(|it| Ok((header(it, "exception")?, header(it, "topic")?)))
        .collect()
}

#[test]
fn commands_of_a_topic_are_decided_in_order_or_set_aside() -> Result<()> {
    let scratch = Scratch::new("asked")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    let account = prebuilt_plugin("bank-account")?;
    deploy(
        &client,
        "bank-account",
        "topic=bank-commands=asked",
        &account,
    )?
    .expect(201, "created")?;
    let mut records = vec![
        asked("ann", "open", &json!({"owner": "Ann"})),
        asked("ann", "deposit", &json!({"cents": 500})),
        asked("ann", "withdraw", &json!({"cents": 700})),
        asked("ann", "withdraw", &json!({"cents": "all"})),
        asked("ann", "rob", &json!({})),
        json!({"key": "ann", "value": {"cents": 1}}),
        asked("ann", "withdraw", &json!({"cents": 200})),
    ];
    client.append_all("asked", &records)?;
    let set_aside = letters(&client, LETTERS, 4)?;
    let expected = [
        "bad-body",
        "no-command",
        "refused:insufficient-funds",
        "unknown-command",
    ];
    let expected = expected.map(|code| (code.to_owned(), "asked".to_owned()));
    ensure!(set_aside == BTreeSet::from(expected), "{set_aside:?}");
    let left = wait_until_ok(WITHIN, "what is left", || {
        let answer = client
            .ask("bank-account", "ann", "")?
            .expect_status(200)?
            .json()?;
        ensure!(balance_of(&answer)? != 500, "{answer}");
        Ok(answer)
    })?;
    ensure!(balance_of(&left)? == 300, "{left}");
    // After a kill, those that were decided are not decided again.
    let host = host.kill()?.ready()?;
    let client = host.client()?;
    records.truncate(0);
    records.push(asked("ann", "deposit", &json!({"cents": 1})));
    client.append_all("asked", &records)?;
    wait_until_ok(WITHIN, "one more cent", || {
        let answer = client
            .ask("bank-account", "ann", "")?
            .expect_status(200)?
            .json()?;
        ensure!(balance_of(&answer)? == 301, "{answer}");
        Ok(())
    })?;
    ensure!(topic::end(&client, LETTERS)? == 4, "letters twice");
    // Other inputs would bring what was decided once more.
    let more = wasm::with_field(&account, "inputs", "[\"asked\", \"others\"]")?;
    client
        .deploy("bank-account", "state=rebuild", more)?
        .expect_problem(409, "inputs-changed")?
        .expect_words(&["takes commands from asked"])?;
    Ok(())
}

/// `documents` with little fuel and without conditions, which takes commands from a topic.
fn short_of_fuel() -> Result<Vec<u8>> {
    let wasm = prebuilt_plugin("documents")?;
    let manifest = wasm::manifest(&wasm)?;
    let changed = manifest.replace("expected-version = \"required\"", "inputs = [\"asked\"]");
    ensure!(changed != manifest, "{manifest}");
    wasm::with_manifest(
        &wasm,
        &format!("{changed}\n[limits]\nfuel-per-call = 5_000_000\n"),
    )
}

#[test]
fn a_command_that_cannot_be_decided_holds_up_its_topic_until_it_is_left_out() -> Result<()> {
    let scratch = Scratch::new("held-up")?;
    let host = Start::serve(scratch.path()).ready()?;
    let client = host.client()?;
    deploy(&client, "documents", "", &short_of_fuel()?)?.expect(201, "created")?;
    let large: Vec<u64> = (0..100_000).collect();
    client.append_all(
        "asked",
        &[
            asked("a", "put", &json!({"n": 1})),
            asked("a", "put", &json!({"n": large})),
            asked("a", "put", &json!({"n": 3})),
        ],
    )?;
    let partition = wait_blocked(&client, "documents", WITHIN)?;
    let blocked = &partition["blocked"];
    let said = blocked["detail"].to_string();
    ensure!(
        blocked["code"] == "plugin-trapped" && said.contains("which is asked/"),
        "{blocked}"
    );
    // Whoever commands over HTTP is not kept waiting.
    let put = ["documents", "a", "put"];
    command(&client, put, &json!({"n": 2}), &[])?.expect_status(200)?;
    // And told at once where the code fails: nothing is written, and it goes on.
    let end = topic::end(&client, "documents")?;
    command(&client, put, &json!({"n": large}), &[])?.expect_problem(500, "plugin-trapped")?;
    ensure!(
        topic::end(&client, "documents")? == end,
        "something was written"
    );
    command(&client, put, &json!({"n": 4}), &[])?.expect_status(200)?;
    let at = blocked["at"].as_str().context("no place")?;
    skip_blocked(&client, "documents", at, "too large", WITHIN)?.expect_status(200)?;
    wait_until_ok(WITHIN, "the last one to be decided", || {
        let answer = client
            .ask("documents", "a", "")?
            .expect_status(200)?
            .json()?;
        ensure!(answer == json!({"n": 3}), "{answer}");
        Ok(())
    })?;
    wait_until_ok(WITHIN, "it to be live", || {
        let plugin = plugin(&client, "documents")?;
        ensure!(plugin["status"] == "live", "{plugin}");
        Ok(())
    })
}
