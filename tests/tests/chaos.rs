//! `kill -9` in the middle of a swap, a migration, a rebuild, a promotion, a rollback; with one host and
//! with two of which one dies. Whatever was acknowledged happens, whatever was not happens whole or not
//! at all, and no state is off by one. Seeded; more rounds with `tests/run --full`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use foldhost_tests::feed::expect_counts;
use foldhost_tests::full;
use foldhost_tests::host::{Host, Start, kafka_config};
use foldhost_tests::http::{Client, number};
use foldhost_tests::kafka;
use foldhost_tests::load::Tag;
use foldhost_tests::operate::{
    Done, count_of, deploy, migrating, partitions, plugin, rollback, settled, version, wait_serving,
};
use foldhost_tests::paths::Scratch;
use foldhost_tests::wait::{let_pass, wait_until, wait_until_ok};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const TOPIC: &str = "flights";
const KEYS: usize = 2_000;
/// Records before the first round: a rebuild takes a moment.
const RECORDS: usize = 60_000;
/// Records between two rounds.
const RECORDS_OF_ROUND: usize = 500;
/// A host that was killed is itself again; with two, the session of the dead one ends first.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);

/// What is under way when the host is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Swap,
    Rebuild,
    /// A rebuild, killed when it is about to be promoted or has just been.
    Promotion,
    Migration,
    RollbackOfStates,
    Rollback,
}

/// Every change, in an order in which each finds what it needs.
const CYCLE: [Change; 7] = [
    Change::Swap,
    Change::Rebuild,
    Change::RollbackOfStates,
    Change::Migration,
    Change::Promotion,
    Change::Swap,
    Change::Rollback,
];

impl Change {
    /// When the host dies, in milliseconds from the request on.
    fn dies_within_ms(self) -> u64 {
        match self {
            Self::Swap | Self::RollbackOfStates => 600,
            Self::Rebuild | Self::Promotion | Self::Migration | Self::Rollback => 2_500,
        }
    }
}

/// Schema of the states behind a migration.
const MIGRATED_SCHEMA: &str = "counter/2";

/// What is written, and what has been deployed: enough to tell what must be.
struct Bed {
    chance: ChaCha8Rng,
    counts: BTreeMap<String, u64>,
    versions: u32,
}

/// What a round found before its change.
struct Before {
    deployment: u64,
    digest: String,
    /// Digest of what a rollback would run.
    previous: Option<String>,
    /// Schema of the states.
    schema: String,
}

impl Bed {
    fn new(seed: u64) -> Self {
        Self {
            chance: ChaCha8Rng::seed_from_u64(seed),
            counts: BTreeMap::new(),
            versions: 0,
        }
    }

    fn write(&mut self, client: &Client, records: usize) -> Result<()> {
        let mut left = records;
        while left > 0 {
            let batch: Vec<Value> = (0..left.min(2_000))
                .map(|n| json!({"key": format!("k{}", self.chance.random_range(0..KEYS)), "value": n}))
                .collect();
            client.append_all(TOPIC, &batch)?;
            for record in &batch {
                let key = record["key"].as_str().context("a text key")?;
                *self.counts.entry(key.to_owned()).or_insert(0) += 1;
            }
            left -= batch.len();
        }
        Ok(())
    }

    /// The code that a change deploys; none for a rollback. A swap keeps the schema that is there, which is
    /// that of a migration if the rollback behind it died before it was heard.
    fn code(&mut self, change: Change, schema: &str) -> Result<Option<Vec<u8>>> {
        self.versions += 1;
        let number = format!("1.{}.0", self.versions);
        match change {
            Change::Swap if schema == MIGRATED_SCHEMA => migrating(&number).map(Some),
            Change::Swap | Change::Rebuild | Change::Promotion => {
                version("counter", &number).map(Some)
            }
            Change::Migration => migrating(&number).map(Some),
            Change::Rollback | Change::RollbackOfStates => Ok(None),
        }
    }

    /// How long the host lives after the request.
    fn time_to_live(&mut self, change: Change) -> Duration {
        Duration::from_millis(self.chance.random_range(0..change.dies_within_ms()))
    }
}

fn request(client: &Client, change: Change, code: Option<&[u8]>) -> Result<Done> {
    match (change, code) {
        (Change::Rollback, _) => rollback(client, "counter", "state=rebuild"),
        (Change::RollbackOfStates, _) => rollback(client, "counter", "state=keep"),
        (Change::Swap | Change::Migration, Some(code)) => {
            deploy(client, "counter", "state=keep", code)
        }
        (_, Some(code)) => deploy(client, "counter", "state=rebuild", code),
        (_, None) => bail!("{change:?} needs code"),
    }
}

fn before(client: &Client) -> Result<Before> {
    let plugin = plugin(client, "counter")?;
    let deployments = plugin["deployments"]
        .as_array()
        .context("no `deployments`")?;
    let previous = deployments.iter().rev().nth(1);
    let digest = |of: &Value| of["digest"].as_str().map(str::to_owned);
    Ok(Before {
        deployment: count_of(&plugin, "deployment")?,
        digest: digest(&plugin).context("no digest")?,
        previous: previous.and_then(digest),
        schema: plugin["state_schema"]
            .as_str()
            .context("no schema")?
            .to_owned(),
    })
}

fn digest(wasm: &[u8]) -> String {
    let digest = Sha256::digest(wasm);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends the request from a thread of its own, and runs `die` meanwhile; gives what was acknowledged.
fn killed_under(
    client: &Client,
    change: Change,
    code: Option<Vec<u8>>,
    die: impl FnOnce() -> Result<()>,
) -> Result<Option<Done>> {
    let asked = {
        let client = client.clone();
        std::thread::spawn(move || request(&client, change, code.as_deref()))
    };
    die()?;
    let answer = asked.join().map_err(|_| anyhow!("the request panicked"))?;
    let error = match answer {
        Ok(done) => return Ok(Some(done)),
        Err(error) => error,
    };
    let told = format!("{error:#}");
    // Where the swap in front of it died unheard, what it would go back to is of another schema.
    let is_of_schema = change == Change::RollbackOfStates && told.contains("schema-changed");
    if told.contains("answered 4") && !is_of_schema {
        // The host says no, which no kill explains.
        return Err(error);
    }
    Ok(None)
}

/// Waits for the moment of promotion, if it comes before `deadline`.
fn until_promotion(client: &Client, old: u64, deadline: Duration) {
    // Without an answer, or too late: the host is killed all the same.
    let _ = wait_until(deadline, "the build to be ready", || {
        let plugin = plugin(client, "counter").ok()?;
        let building = &plugin["building"];
        let caught_up = !building.is_null() && number(&building["lag"]) == Some(0);
        let promoted = number(&plugin["deployment"]) != Some(old);
        (caught_up || promoted).then_some(())
    });
}

/// Checks that what serves now is what was told, or one of the two where nothing was; and every answer.
fn check(
    bed: &Bed,
    clients: &[Client],
    plugin: &Value,
    before: &Before,
    new_digest: &str,
    done: Option<&Done>,
) -> Result<()> {
    let (deployment, digest) = (count_of(plugin, "deployment")?, &plugin["digest"]);
    let is_new = deployment > before.deployment && digest == new_digest;
    let is_old = deployment == before.deployment && *digest == before.digest.as_str();
    match done {
        Some(done) => ensure!(
            is_new && deployment == done.deployment,
            "{} was acknowledged: {plugin}",
            done.deployment
        ),
        None => ensure!(
            is_new || is_old,
            "neither the old nor the new code: {plugin}"
        ),
    }
    let code = digest
        .as_str()
        .and_then(|digest| digest.get(..8))
        .context("no digest")?;
    if let [client] = clients {
        expect_counts(client, "counter", &bed.counts)?;
    }
    for (key, count) in bed.counts.iter().step_by(37) {
        let (tag, counted) =
            ask(clients, key)?.with_context(|| format!("no answer about {key}"))?;
        ensure!(counted == *count, "{key}: {counted}, not {count}");
        ensure!(
            tag.digest == code,
            "{key} is answered by {tag:?}, not by {code}"
        );
        ensure!(
            tag.generation == count_of(plugin, "generation")?,
            "{key}: {tag:?}"
        );
    }
    Ok(())
}

/// What the owner of a key answers; none while nobody can.
fn ask(clients: &[Client], key: &str) -> Result<Option<(Tag, u64)>> {
    for client in clients {
        let reply = client.ask("counter", key, "")?;
        match reply.status {
            200 => {
                let counted = number(&reply.json()?["count"]).context("no count")?;
                let tag = reply.header("etag").context("no ETag")?.parse()?;
                return Ok(Some((tag, counted)));
            }
            421 | 503 => {}
            _ => bail!("{reply:?}"),
        }
    }
    Ok(None)
}

/// From the first answers after a restart on: the old code or the new one, and never a wrong count.
fn watch_until_settled(
    bed: &Bed,
    client: &Client,
    before: &Before,
    new_digest: &str,
) -> Result<Value> {
    let keys: Vec<_> = bed.counts.iter().step_by(KEYS / 8).collect();
    let codes = [&before.digest[..8], &new_digest[..8]];
    let mut wrong = None;
    let settled = wait_until_ok(SETTLED_WITHIN, "nothing to be under way", || {
        for (key, count) in &keys {
            if let Some((tag, counted)) = ask(std::slice::from_ref(client), key)?
                && (counted != **count || !codes.contains(&tag.digest.as_str()))
            {
                wrong = Some(format!(
                    "{key}: {counted} by {tag:?}, not {count} by {codes:?}"
                ));
                return Ok(Value::Null);
            }
        }
        settled(client, "counter")
    })?;
    match wrong {
        Some(wrong) => bail!("{wrong}"),
        None => Ok(settled),
    }
}

#[test]
fn a_kill_in_the_middle_of_a_change_leaves_the_old_or_the_new() -> Result<()> {
    let cycles = if full() { 10 } else { 2 };
    let scratch = Scratch::new("chaos")?;
    let mut bed = Bed::new(4);
    let mut start = Start::serve(scratch.path());
    prepare(&mut bed, &start)?;
    let mut acknowledged = 0;
    for round in 0..cycles * CYCLE.len() {
        let change = CYCLE[round % CYCLE.len()];
        start = one_round(&mut bed, &start, change, &mut acknowledged)
            .with_context(|| format!("round {round}, {change:?}"))?;
    }
    println!(
        "{acknowledged} of {} changes were acknowledged before the kill",
        cycles * CYCLE.len()
    );
    Ok(())
}

/// A first deployment, its records, and a second one so that there is something to roll back to.
fn prepare(bed: &mut Bed, start: &Start) -> Result<()> {
    let host = start.ready()?;
    let client = host.client()?;
    let first =
        deploy(&client, "counter", "", &version("counter", "0.0.1")?)?.expect(201, "created")?;
    wait_serving(&client, "counter", first.deployment, SETTLED_WITHIN)?;
    bed.write(&client, RECORDS)?;
    let second = deploy(
        &client,
        "counter",
        "state=keep",
        &version("counter", "0.0.2")?,
    )?;
    wait_serving(&client, "counter", second.deployment, SETTLED_WITHIN)?;
    ensure!(host.stop()? == 0);
    Ok(())
}

fn one_round(
    bed: &mut Bed,
    start: &Start,
    change: Change,
    acknowledged: &mut usize,
) -> Result<Start> {
    let host = start.ready()?;
    let client = host.client()?;
    bed.write(&client, RECORDS_OF_ROUND)?;
    let before = before(&client)?;
    let code = bed.code(change, &before.schema)?;
    let new_digest = match &code {
        Some(code) => digest(code),
        None => before.previous.clone().context("nothing to roll back to")?,
    };
    let time_to_live = bed.time_to_live(change);
    let mut killed = None;
    let done = killed_under(&client, change, code, || {
        if change == Change::Promotion {
            until_promotion(&client, before.deployment, SETTLED_WITHIN);
        } else {
            let_pass(time_to_live);
        }
        killed = Some(host.kill()?);
        Ok(())
    })?;
    *acknowledged += usize::from(done.is_some());
    let host = killed.context("nobody was killed")?.listening()?;
    let client = host.client()?;
    let plugin =
        watch_until_settled(bed, &client, &before, &new_digest).with_context(|| host.log_tail())?;
    check(bed, &[client], &plugin, &before, &new_digest, done.as_ref()).with_context(|| {
        format!(
            "killed after {time_to_live:?}, told {done:?}\n{}",
            host.log_tail()
        )
    })?;
    // In order this time: what a kill leaves must not depend on being killed again.
    let start = start.clone();
    ensure!(host.stop()? == 0);
    Ok(start)
}

/// Two hosts on one broker and one object store, each with a folder of its own.
struct Pair {
    scratch: Scratch,
    config: PathBuf,
}

impl Pair {
    fn start(&self, name: &str) -> Result<Start> {
        let folder: &Path = &self.scratch.join(name);
        std::fs::create_dir_all(folder)?;
        Ok(Start::serve(folder).config(&self.config))
    }
}

/// The plugin as both hosts tell of it together, if nothing is under way anywhere.
fn settled_together(clients: &[Client]) -> Result<Value> {
    let mut owned = BTreeSet::new();
    let mut last = Value::Null;
    let mut deployments = BTreeSet::new();
    for client in clients {
        let plugin = plugin(client, "counter")?;
        let deployment = count_of(&plugin, "deployment")?;
        ensure!(plugin["building"].is_null(), "{plugin}");
        for partition in partitions(&plugin)? {
            if partition["status"].is_null() {
                continue;
            }
            ensure!(
                partition["status"] == "live"
                    && number(&partition["lag"]) == Some(0)
                    && number(&partition["deployment"]) == Some(deployment)
                    && partition["degraded"] != true,
                "{plugin}"
            );
            let number = count_of(partition, "partition")?;
            ensure!(
                owned.insert(number),
                "two hosts own partition {number}: {plugin}"
            );
        }
        deployments.insert(deployment);
        last = plugin;
    }
    ensure!(owned.len() == 4, "only {owned:?} have an owner: {last}");
    ensure!(
        deployments.len() == 1,
        "the hosts disagree: {deployments:?}"
    );
    Ok(last)
}

fn wait_settled_together(clients: &[Client]) -> Result<Value> {
    wait_until_ok(
        SETTLED_WITHIN,
        "nothing to be under way on any host",
        || settled_together(clients),
    )
}

#[test]
fn one_of_two_hosts_dies_in_the_middle_of_a_change() -> Result<()> {
    let rounds = if full() { 14 } else { 3 };
    let broker = kafka::shared()?;
    broker.create_topic(TOPIC, 4)?;
    let scratch = Scratch::new("chaos-two")?;
    let config = kafka_config(&scratch, &broker, "chaos-two", &scratch.join("objects"))?;
    let pair = Pair { scratch, config };
    let mut bed = Bed::new(5);
    prepare(&mut bed, &pair.start("a")?)?;
    let mut hosts = vec![pair.start("a")?.ready()?, pair.start("b")?.ready()?];
    for round in 0..rounds {
        // Without all of them by default: those that reach furthest first.
        let change = if full() {
            CYCLE[round % CYCLE.len()]
        } else {
            [
                Change::Promotion,
                Change::RollbackOfStates,
                Change::Migration,
            ][round % 3]
        };
        hosts = one_round_of_two(&mut bed, hosts, change)
            .with_context(|| format!("round {round}, {change:?}"))?;
    }
    Ok(())
}

/// One of the hosts dies, the other one ends what was asked for, the dead one comes back.
fn one_round_of_two(bed: &mut Bed, mut hosts: Vec<Host>, change: Change) -> Result<Vec<Host>> {
    let clients = hosts.iter().map(Host::client).collect::<Result<Vec<_>>>()?;
    wait_settled_together(&clients)?;
    bed.write(&clients[0], RECORDS_OF_ROUND)?;
    wait_settled_together(&clients)?;
    let before = before(&clients[0])?;
    let code = bed.code(change, &before.schema)?;
    let new_digest = match &code {
        Some(code) => digest(code),
        None => before.previous.clone().context("nothing to roll back to")?,
    };
    let time_to_live = bed.time_to_live(change);
    // Either the one that was asked, or the other one.
    let victim = bed.chance.random_range(0..hosts.len());
    let mut killed = None;
    let done = killed_under(&clients[0], change, code, || {
        if change == Change::Promotion {
            until_promotion(&clients[0], before.deployment, SETTLED_WITHIN);
        } else {
            let_pass(time_to_live);
        }
        killed = Some(hosts.remove(victim).kill()?);
        Ok(())
    })?;
    ensure!(
        victim == 0 || done.is_some(),
        "refused by a host that lives"
    );
    let survivor = hosts.pop().context("one lives")?;
    let alone = [survivor.client()?];
    let told = || {
        format!(
            "killed {victim} after {time_to_live:?}, told {done:?}\n{}",
            survivor.log_tail()
        )
    };
    let plugin = wait_settled_together(&alone).with_context(told)?;
    check(bed, &alone, &plugin, &before, &new_digest, done.as_ref()).with_context(told)?;

    let back = killed.context("nobody was killed")?.ready()?;
    let both = [survivor.client()?, back.client()?];
    let plugin = wait_settled_together(&both).with_context(|| back.log_tail())?;
    check(bed, &both, &plugin, &before, &new_digest, done.as_ref()).with_context(told)?;
    Ok(vec![survivor, back])
}
