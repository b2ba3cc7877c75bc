//! Records that cannot be applied, at known offsets of two inputs that are merged: before the merge topic and
//! behind it, under `stop`, `dead-letter` and `park-key`. What is told, set aside and left out, and in which
//! order, is what the records alone say; with `kill -9` in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foldhost_tests::host::{GENEROUS, Host, Start};
use foldhost_tests::http::Client;
use foldhost_tests::operate::{
    count_of, deploy, partitions, plugin, settled, skip, skip_blocked, wait_blocked, wait_serving,
};
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::two_inputs::{
    LEFT_PARTITIONS, RIGHT_PARTITIONS, at, create_inputs, misbehaving, on_two_inputs, to_the_right,
};
use foldhost_tests::wait::{let_pass, wait_until_ok};
use foldhost_tests::{full, topic};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const INPUTS: [&str; 2] = ["orders", "returns"];
const KEYS: usize = 20;
const POISON: &str = "poison";

/// A host whose plugins read two inputs.
struct Bed {
    host: Option<Host>,
    client: Client,
    /// Every record that was appended, by its place.
    records: BTreeMap<String, Value>,
    _scratch: Scratch,
}

impl Bed {
    fn new(name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let start = Start::serve(scratch.path());
        Self::on(scratch, &start)
    }

    fn on(scratch: Scratch, start: &Start) -> Result<Self> {
        let host = start.ready()?;
        let client = host.client()?;
        create_inputs(&client, INPUTS)?;
        Ok(Self {
            host: Some(host),
            client,
            records: BTreeMap::new(),
            _scratch: scratch,
        })
    }

    /// Kills the host and starts it again.
    fn kill(&mut self) -> Result<()> {
        let host = self.host.take().context("no host")?.kill()?.ready()?;
        self.client = host.client()?;
        self.host = Some(host);
        Ok(())
    }

    fn append(&mut self, side: usize, records: &[Value]) -> Result<Vec<String>> {
        let records: Vec<Value> = records
            .iter()
            .map(|record| match side {
                0 => record.clone(),
                _ => to_the_right(record.clone()),
            })
            .collect();
        let places = self.client.append_all(INPUTS[side], &records)?;
        let places = places.into_iter().map(|place| at(INPUTS[side], place));
        let places: Vec<String> = places.collect();
        self.records.extend(places.iter().cloned().zip(records));
        Ok(places)
    }

    /// Appends one record, and gives its place.
    fn append_one(&mut self, side: usize, record: Value) -> Result<String> {
        Ok(self.append(side, &[record])?.remove(0))
    }

    /// Waits until so many records are told.
    fn wait_told(&self, count: usize) -> Result<Vec<Value>> {
        wait_until_ok(GENEROUS, &format!("{count} records to be told"), || {
            let told = topic::read_all(&self.client, "counts")?;
            ensure!(told.len() >= count, "{} of {count}", told.len());
            Ok(told)
        })
    }

    /// What is told is one count after the other for each key, each caused by another record that is fine; and
    /// the causes of one partition of an input come in its order.
    fn check_told(&self, told: &[Value], left_out: &BTreeSet<String>) -> Result<()> {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        let mut causes = BTreeSet::new();
        let mut newest: BTreeMap<(String, String), u64> = BTreeMap::new();
        for record in told {
            let key = record["key"].as_str().context("no key")?;
            let count = counts.entry(key).or_default();
            *count += 1;
            ensure!(record["value"]["count"] == *count, "not {count}: {record}");
            let cause = header(record, "foldhost-cause")?;
            ensure!(causes.insert(cause.to_owned()), "caused twice: {record}");
            let origin = self.records.get(cause).context("caused by nothing")?;
            ensure!(origin["key"] == key, "{origin}: {record}");
            ensure!(header(record, "trace")? == header(origin, "trace")?);
            let (partition, offset) = cause.split_once('@').context("no offset")?;
            let of = (key.to_owned(), partition.to_owned());
            let offset: u64 = offset.parse()?;
            let before = newest.insert(of, offset);
            ensure!(before < Some(offset), "out of order: {record}");
        }
        let fine = self.records.keys().filter(|at| !left_out.contains(*at));
        let fine: BTreeSet<String> = fine.cloned().collect();
        ensure!(
            causes == fine,
            "missing, or too much: {:?}",
            causes.symmetric_difference(&fine)
        );
        Ok(())
    }

    /// The letters are these records, as they lay in their inputs, each once, with why; and those that were set
    /// aside for one reason in one partition come in its order.
    fn check_letters(&self, name: &str, expected: &BTreeMap<String, &str>) -> Result<()> {
        let letters = topic::read_all(&self.client, &format!("foldhost.{name}.dead-letters"))?;
        let mut found = BTreeMap::new();
        let mut newest: BTreeMap<(String, String, String), u64> = BTreeMap::new();
        for letter in &letters {
            let error = |name: &str| header(letter, &format!("__streams.errors.{name}"));
            let (topic, partition) = (error("topic")?, error("partition")?);
            let offset: u64 = error("offset")?.parse()?;
            let place = at(topic, (partition.parse()?, offset));
            let code = error("exception")?;
            ensure!(error("message")?.len() > 10, "no reason: {letter}");
            let record = self.records.get(&place).context("a letter of nothing")?;
            for field in ["key", "value_text", "value"] {
                let (was, is) = (&record[field], &letter[field]);
                ensure!(was == is, "{field} was {was}: {letter}");
            }
            ensure!(header(letter, "trace")? == header(record, "trace")?);
            ensure!(header(letter, "foldhost-plugin")? == name, "{letter}");
            // Letters of one key lie in one partition, those without a key in any.
            let of = (letter["partition"].to_string(), code.to_owned(), {
                format!("{topic}/{partition}")
            });
            let before = newest.insert(of, offset);
            ensure!(before < Some(offset), "out of order: {letter}");
            let twice = found.insert(place, code.to_owned());
            ensure!(twice.is_none(), "set aside twice: {letter}");
        }
        let expected: BTreeMap<String, String> = expected
            .iter()
            .map(|(at, code)| (at.clone(), (*code).to_owned()))
            .collect();
        ensure!(found == expected, "{found:?}, not {expected:?}");
        Ok(())
    }

    /// Records to both inputs, some of them marked.
    fn append_some(&mut self, random: &mut ChaCha8Rng, count: usize) -> Result<()> {
        for side in 0..INPUTS.len() {
            let number = self.records.len();
            let records = (number..number + count).map(|number| {
                let value = match random.random_bool(0.01) {
                    true => POISON,
                    false => "fine",
                };
                record(Some(&key(random.random_range(0..KEYS))), value, number)
            });
            let records: Vec<Value> = records.collect();
            self.append(side, &records)?;
        }
        Ok(())
    }

    /// Waits until every record is told or parked, and gives the parked keys with how many records of each are.
    fn wait_told_or_parked(&self, name: &str, gone: usize) -> Result<BTreeMap<String, usize>> {
        wait_until_ok(GENEROUS, "all to be told or parked", || {
            let told = topic::read_all(&self.client, "counts")?.len();
            let mut parked = 0;
            for partition in partitions(&plugin(&self.client, name)?)? {
                parked += usize::try_from(count_of(partition, "parked_records")?)?;
            }
            let all = self.records.len() - gone;
            ensure!(told + parked == all, "{told} and {parked} of {all}");
            let path = format!("/v1/plugins/{name}/parked?_limit=1000");
            let listed = self.client.get(&path)?.expect_status(200)?.json()?;
            let listed = listed["parked"].as_array().context("no list")?.iter();
            let listed = listed.map(|it| {
                let key = it["key"].as_str().context("no key")?.to_owned();
                Ok((key, usize::try_from(count_of(it, "records")?)?))
            });
            let keys: BTreeMap<String, usize> = listed.collect::<Result<_>>()?;
            ensure!(keys.values().sum::<usize>() == parked, "{keys:?}");
            Ok(keys)
        })
    }

    /// Decides about what is parked of a key, and waits until nothing of it is: the host answers before that
    /// where it takes long.
    fn decide(&self, name: &str, what: &str, key: &str) -> Result<()> {
        let body = json!({"key": key, "reason": "decided by a test"});
        let path = format!("/v1/plugins/{name}/parked/{what}");
        let json = [("content-type", "application/json")];
        let body = Some(body.to_string().into_bytes());
        let reply = self.client.send("POST", &path, &json, body)?;
        let answer = reply.expect_status(200)?.json()?;
        if answer["applied"].as_bool().context("no `applied`")? {
            ensure!(answer["left"] == 0, "{answer}");
            return Ok(());
        }
        let path = format!("/v1/plugins/{name}/parked/{key}");
        wait_until_ok(GENEROUS, &format!("nothing of {key} to be parked"), || {
            // A partition that is being opened does not know yet what it has parked.
            settled(&self.client, name)?;
            self.client.get(&path)?.expect_problem(404, "not-found")
        })
        .map(drop)
    }

    /// A plugin is stopped before this record of an input, with this code.
    fn expect_stopped(&self, name: &str, at: &str, code: &str) -> Result<()> {
        wait_until_ok(GENEROUS, &format!("{name} to stop before {at}"), || {
            let partition = wait_blocked(&self.client, name, Duration::ZERO)?;
            let why = &partition["blocked"];
            ensure!(why["at"] == at && why["code"] == code, "{partition}");
            let detail = why["detail"].as_str().unwrap_or_default();
            ensure!(detail.contains("plugin skip"), "{detail}");
            Ok(())
        })
    }
}

fn header<'a>(record: &'a Value, name: &str) -> Result<&'a str> {
    record["headers"][name]
        .as_str()
        .with_context(|| format!("no header {name}: {record}"))
}

fn key(n: usize) -> String {
    format!("k{}", n % KEYS)
}

/// A record of a key, or of none; each has a trace of its own.
fn record(key: Option<&str>, value: &str, n: usize) -> Value {
    let mut record = json!({"value_text": value, "headers": {"trace": format!("t{n}")}});
    if let Some(key) = key {
        record["key"] = json!(key);
    }
    record
}

/// `broken-records`, which tells what it counts, on two inputs.
fn teller(more: &str) -> Result<Vec<u8>> {
    on_two_inputs(&misbehaving("broken-records")?, INPUTS, more)
}

#[test]
fn dead_letters_are_what_could_not_be_merged_or_folded_and_nothing_else() -> Result<()> {
    let (steps, of_step) = if full() { (12, 2_000) } else { (5, 300) };
    let mut bed = Bed::new("letters")?;
    let mut random = ChaCha8Rng::seed_from_u64(66);
    let wasm = teller("on-error = \"dead-letter\"")?;
    deploy(&bed.client, "teller", "set=fault=too-many", &wasm)?.expect(201, "created")?;
    let mut letters: BTreeMap<String, &str> = BTreeMap::new();
    for step in 0..steps {
        for (side, partitions) in [(0, LEFT_PARTITIONS), (1, RIGHT_PARTITIONS)] {
            let mut codes = Vec::new();
            let records: Vec<Value> = (0..of_step)
                .map(|n| {
                    let number = step * of_step + n;
                    match random.random_range(0..100) {
                        // It belongs to no state: it is not even merged.
                        0 => {
                            codes.push(Some("event-without-key"));
                            let mut keyless = record(None, "nobody's", number);
                            keyless["partition"] = json!(random.random_range(0..partitions));
                            keyless
                        }
                        1 => {
                            codes.push(Some("emitted-too-much"));
                            record(Some(&key(number)), POISON, number)
                        }
                        _ => {
                            codes.push(None);
                            record(Some(&key(number)), "fine", number)
                        }
                    }
                })
                .collect();
            let places = bed.append(side, &records)?;
            let aside = places.into_iter().zip(codes);
            letters.extend(aside.filter_map(|(at, code)| Some((at, code?))));
        }
        let_pass(Duration::from_millis(random.random_range(0..400)));
        bed.kill()?;
    }
    ensure!(letters.len() > 10);
    let told = bed.wait_told(bed.records.len() - letters.len())?;
    bed.check_told(&told, &letters.keys().cloned().collect())?;
    bed.check_letters("teller", &letters)
}

#[test]
fn under_stop_nothing_behind_poison_is_told_until_somebody_decides() -> Result<()> {
    let mut bed = Bed::new("stopped")?;
    let wasm = teller("")?;
    deploy(&bed.client, "teller", "set=fault=too-many", &wasm)?.expect(201, "created")?;
    let mut left_out = BTreeSet::new();
    let fine = |from: usize| -> Vec<Value> {
        (from..from + 40)
            .map(|n| record(Some(&key(n)), "fine", n))
            .collect()
    };
    bed.append(0, &fine(0))?;
    // A record without a key stops its partition of its input, and no other.
    let mut keyless = record(None, "nobody's", 40);
    keyless["partition"] = json!(1);
    let stopped_at = bed.append_one(0, keyless.clone())?;
    bed.expect_stopped("teller", &stopped_at, "event-without-key")?;
    let before = bed.wait_told(40)?.len();
    let behind = bed.append(0, &fine(41))?;
    bed.append(1, &fine(81))?;
    let (partition, _) = stopped_at.split_once('@').context("no offset")?;
    let stuck = behind.iter().filter(|at| at.starts_with(partition)).count();
    ensure!(stuck > 0 && stuck < 40, "{stuck}");
    for _ in 0..2 {
        let told = bed.wait_told(before + 80 - stuck)?;
        let causes = told.iter().map(|it| header(it, "foldhost-cause"));
        let causes: Vec<&str> = causes.collect::<Result<_>>()?;
        ensure!(causes.len() == before + 80 - stuck, "{causes:?}");
        ensure!(
            behind
                .iter()
                .filter(|at| !causes.contains(&at.as_str()))
                .count()
                == stuck
        );
        bed.kill()?;
        bed.expect_stopped("teller", &stopped_at, "event-without-key")?;
    }
    // The query that waits for what is stuck says why, and does not hang.
    let last = behind
        .iter()
        .rfind(|at| at.starts_with(partition))
        .context("none is stuck")?;
    bed.client
        .ask_at("teller", &key(0), "", last)?
        .expect_problem(503, "position-not-reached")?
        .expect_words(&[last, "has no key", &stopped_at])?;
    // It is left out, by its place in the input.
    skip(&bed.client, "teller", "orders/1@4711", "a mistake")?.expect_status(409)?;
    skip_blocked(&bed.client, "teller", &stopped_at, "nobody's", GENEROUS)?.success()?;
    left_out.insert(stopped_at);
    let told = bed.wait_told(before + 80)?;
    bed.check_told(&told, &left_out)?;

    // The same in the fold: the place is that of the merge topic.
    let poison = bed.append_one(1, record(Some(&key(7)), POISON, 121))?;
    let partition = wait_blocked(&bed.client, "teller", GENEROUS)?;
    let why = &partition["blocked"];
    ensure!(why["code"] == "emitted-too-much", "{partition}");
    let merged_at = why["at"].as_str().context("no place")?.to_owned();
    ensure!(merged_at.starts_with("foldhost.teller.merge."), "{why}");
    bed.append(1, &fine(122))?;
    bed.kill()?;
    wait_blocked(&bed.client, "teller", GENEROUS)?;
    skip_blocked(&bed.client, "teller", &merged_at, "marked", GENEROUS)?.success()?;
    left_out.insert(poison);
    let told = bed.wait_told(before + 120)?;
    bed.check_told(&told, &left_out)?;

    // Once more both; other code sets them aside, and goes on behind them.
    let stopped_at = bed.append_one(0, keyless)?;
    let poison = bed.append_one(0, record(Some(&key(3)), POISON, 162))?;
    bed.expect_stopped("teller", &stopped_at, "event-without-key")
        .or_else(|_| bed.expect_stopped("teller", &poison, "emitted-too-much"))?;
    bed.append(0, &fine(163))?;
    let wasm = teller("version = \"0.2.0\"\non-error = \"dead-letter\"")?;
    let done = deploy(
        &bed.client,
        "teller",
        "state=keep&set=fault=too-many",
        &wasm,
    )?;
    ensure!(done.outcome == "swapped", "{:?}", done.reply);
    wait_serving(&bed.client, "teller", done.deployment, GENEROUS)?;
    let letters = BTreeMap::from([
        (stopped_at.clone(), "event-without-key"),
        (poison.clone(), "emitted-too-much"),
    ]);
    left_out.extend([stopped_at, poison]);
    let told = bed.wait_told(before + 160)?;
    bed.check_told(&told, &left_out)?;
    bed.check_letters("teller", &letters)
}

#[test]
fn what_route_rejects_or_breaks_on_stops_before_the_merge_topic() -> Result<()> {
    let mut bed = Bed::new("routes")?;
    let routed = |more: &str| on_two_inputs(&misbehaving("broken-routes")?, INPUTS, more);
    let parameters = "set=fault=long-key";
    deploy(&bed.client, "routed", parameters, &routed("")?)?.expect(201, "created")?;
    let letters_too = "on-error = \"dead-letter\"";
    deploy(&bed.client, "careless", parameters, &routed(letters_too)?)?.expect(201, "created")?;
    bed.append(0, &[record(Some("own"), "to:a,b", 0)])?;
    let mut nobody = record(None, "nobody's", 1);
    nobody["partition"] = json!(2);
    let rejected = bed.append_one(1, nobody)?;
    let mut after = record(Some("own"), "to:a", 2);
    after["partition"] = json!(2);
    // To the same partition as the one that is rejected, whatever its key.
    let places = bed.client.append_all(INPUTS[1], &[after.clone()])?;
    let last = at(INPUTS[1], places[0]);
    bed.records.insert(last.clone(), after);

    let count = |bed: &Bed, name: &str, key: &str, expected: u64| -> Result<()> {
        wait_until_ok(GENEROUS, &format!("{name} to count {key}"), || {
            let reply = bed.client.ask(name, key, "")?.expect_status(200)?;
            ensure!(
                reply.json()?["count"] == expected,
                "not {expected}: {reply:?}"
            );
            Ok(())
        })
    };
    bed.expect_stopped("routed", &rejected, "rejected:no-key")?;
    count(&bed, "routed", "a", 1)?;
    count(&bed, "careless", "a", 2)?;
    skip_blocked(&bed.client, "routed", &rejected, "nobody's", GENEROUS)?.success()?;
    count(&bed, "routed", "a", 2)?;

    // Broken keys: refused before anything of the record is copied.
    let broken = bed.append_one(0, record(Some("own"), POISON, 3))?;
    bed.append(0, &[record(Some("own"), "to:b", 4)])?;
    bed.expect_stopped("routed", &broken, "bad-columns")?;
    bed.kill()?;
    bed.expect_stopped("routed", &broken, "bad-columns")?;
    count(&bed, "routed", "b", 1)?;
    count(&bed, "careless", "b", 2)?;
    let letters = BTreeMap::from([
        (rejected, "rejected:no-key"),
        (broken.clone(), "bad-columns"),
    ]);
    bed.check_letters("careless", &letters)?;
    // A deployment that sets it aside heals the other one, too.
    let wasm = routed("version = \"0.2.0\"\non-error = \"dead-letter\"")?;
    let done = deploy(
        &bed.client,
        "routed",
        &format!("state=keep&{parameters}"),
        &wasm,
    )?;
    wait_serving(&bed.client, "routed", done.deployment, GENEROUS)?;
    count(&bed, "routed", "b", 2)?;
    bed.check_letters("routed", &BTreeMap::from([(broken, "bad-columns")]))
}

#[test]
fn corrected_code_goes_on_at_the_event_that_stopped_the_fold() -> Result<()> {
    let mut bed = Bed::new("corrected")?;
    let traps = on_two_inputs(&misbehaving("traps-on-event")?, INPUTS, "")?;
    deploy(&bed.client, "counted", "", &traps)?.expect(201, "created")?;
    bed.append(0, &[record(Some("a"), "fine", 0)])?;
    bed.append(1, &[record(Some("a"), POISON, 1)])?;
    let partition = wait_blocked(&bed.client, "counted", GENEROUS)?;
    ensure!(
        partition["blocked"]["code"] == "event-trapped",
        "{partition}"
    );
    let last = bed.append(0, &[record(Some("a"), "fine", 2)])?.remove(0);
    bed.kill()?;
    wait_blocked(&bed.client, "counted", GENEROUS)?;
    let counter = on_two_inputs(&prebuilt_plugin("counter")?, INPUTS, "")?;
    let done = deploy(&bed.client, "counted", "state=keep", &counter)?.expect(200, "swapped")?;
    wait_serving(&bed.client, "counted", done.deployment, GENEROUS)?;
    let answer = bed.client.ask_at("counted", "a", "", &last)?;
    let answer = answer.expect_status(200)?;
    ensure!(answer.json()?["count"] == 3, "{answer:?}");
    Ok(())
}

#[test]
fn parked_keys_wait_in_order_and_are_told_by_corrected_code_and_by_a_promotion() -> Result<()> {
    let (steps, of_step) = if full() { (10, 1_500) } else { (4, 300) };
    let mut bed = Bed::new("parked")?;
    let mut random = ChaCha8Rng::seed_from_u64(67);
    let code = |version: &str| teller(&format!("version = \"{version}\"\non-error = \"park-key\""));
    let (broken, mended) = ("set=fault=too-many", "set=fault=mended");
    deploy(&bed.client, "teller", broken, &code("0.1.0")?)?.expect(201, "created")?;
    for _ in 0..steps {
        bed.append_some(&mut random, of_step)?;
        let_pass(Duration::from_millis(random.random_range(0..400)));
        bed.kill()?;
    }
    let parked = bed.wait_told_or_parked("teller", 0)?;
    ensure!(parked.len() > 3, "{parked:?}");
    let mut keys = parked.keys().cloned();
    let (given_up, healed) = (keys.next().context("none")?, keys.next().context("one")?);
    // What is told of a parked key lies before its first parked record, in each partition of each input.
    let told = topic::read_all(&bed.client, "counts")?;
    for key in parked.keys() {
        let path = format!("/v1/plugins/teller/parked/{key}");
        let shown = bed.client.get(&path)?.expect_status(200)?.json()?;
        let first = shown["first"].as_str().context("no place")?;
        ensure!(bed.records[first]["value_text"] == POISON, "{shown}");
        let (partition, first) = first.split_once('@').context("no offset")?;
        for record in told.iter().filter(|it| it["key"] == key.as_str()) {
            let cause = header(record, "foldhost-cause")?;
            if let Some((of, offset)) = cause.split_once('@')
                && of == partition
            {
                ensure!(offset.parse::<u64>()? < first.parse()?, "{record}");
            }
        }
    }

    // One is given up. Corrected code tells another one, once somebody says so, and no more than that.
    let mut left_out = BTreeSet::new();
    let path = format!("/v1/plugins/teller/parked/{given_up}?_limit=1000");
    let shown = bed.client.get(&path)?.expect_status(200)?.json()?;
    for record in shown["parked"].as_array().context("no records")? {
        let trace = header(record, "trace")?;
        let mut all = bed.records.iter();
        let found = all.find(|(_, it)| it["headers"]["trace"] == trace);
        left_out.insert(found.context("not one of ours")?.0.clone());
    }
    ensure!(left_out.len() == parked[&given_up], "{left_out:?}");
    bed.decide("teller", "discard", &given_up)?;
    let state_kept = format!("state=keep&{mended}");
    let done =
        deploy(&bed.client, "teller", &state_kept, &code("0.2.0")?)?.expect(200, "swapped")?;
    wait_serving(&bed.client, "teller", done.deployment, GENEROUS)?;
    bed.decide("teller", "replay", &healed)?;
    bed.kill()?;
    let still = bed.wait_told_or_parked("teller", left_out.len())?;
    ensure!(still.len() == parked.len() - 2, "{still:?} of {parked:?}");

    // Broken again, and more of it; then a rebuild by code that can, which is killed, too.
    let state_kept = format!("state=keep&{broken}");
    let done =
        deploy(&bed.client, "teller", &state_kept, &code("0.3.0")?)?.expect(200, "swapped")?;
    wait_serving(&bed.client, "teller", done.deployment, GENEROUS)?;
    bed.append_some(&mut random, of_step)?;
    let parked = bed.wait_told_or_parked("teller", left_out.len())?;
    ensure!(parked.len() >= still.len(), "{parked:?}");
    let rebuilt = format!("state=rebuild&{mended}");
    let done = deploy(&bed.client, "teller", &rebuilt, &code("0.4.0")?)?.expect(202, "building")?;
    bed.append_some(&mut random, of_step)?;
    let_pass(Duration::from_millis(random.random_range(0..300)));
    bed.kill()?;
    bed.append_some(&mut random, of_step)?;
    wait_serving(&bed.client, "teller", done.deployment, GENEROUS)?;
    bed.kill()?;
    let parked = bed.wait_told_or_parked("teller", left_out.len())?;
    ensure!(parked.is_empty(), "{parked:?}");
    bed.append_some(&mut random, of_step)?;
    let told = bed.wait_told(bed.records.len() - left_out.len())?;
    bed.check_told(&told, &left_out)?;
    let decisions = plugin(&bed.client, "teller")?["parked"].clone();
    let decisions = decisions.as_array().context("no decisions")?;
    let promotion = decisions.last().context("none")?;
    let reason = promotion["reason"].as_str().unwrap_or_default();
    ensure!(
        reason.starts_with("promotion: what generation 1"),
        "{promotion}"
    );
    Ok(())
}

#[test]
fn writers_that_are_idle_are_closed_and_what_comes_then_is_told_as_ever() -> Result<()> {
    let scratch = Scratch::new("idle")?;
    let start = Start::serve(scratch.path())
        .environment("FOLDHOST__WORKER__WRITER_IDLE_SECONDS", "1")
        .environment("FOLDHOST_LOG", "info,foldhost::partition=debug");
    let mut bed = Bed::on(scratch, &start)?;
    deploy(&bed.client, "teller", "set=fault=mended", &teller("")?)?.expect(201, "created")?;
    let mut random = ChaCha8Rng::seed_from_u64(68);
    let host = |bed: &Bed| bed.host.as_ref().map(Host::log).unwrap_or_default();
    let closed = |bed: &Bed| host(bed).matches("its writer is idle, and closed").count();
    for _ in 0..3 {
        let before = closed(&bed);
        bed.append_some(&mut random, 200)?;
        let told = bed.wait_told(bed.records.len())?;
        bed.check_told(&told, &BTreeSet::new())?;
        // Those of the plugin's partitions, and of the inputs' that are merged.
        let all = (LEFT_PARTITIONS + RIGHT_PARTITIONS) as usize + 5;
        wait_until_ok(GENEROUS, "the writers to be closed", || {
            let now = closed(&bed) - before;
            ensure!(now >= all, "{now} of {all}");
            Ok(())
        })?;
    }
    ensure!(!host(&bed).contains("opening again"), "nothing failed");
    Ok(())
}
