//! What `running-count` must have published: for every record of its input, one record with the count of
//! its key so far. Called by the scenarios about what is published.
//!
//! Invariant: what is published is judged by what lies in the two topics alone, whatever a host tells.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::http::{Client, number};
use crate::kafka::Broker;
use crate::kafka::console::{self, Printed};
use crate::topic;
use crate::wait::wait_until_ok;

/// So many faults are told.
const TOLD: usize = 5;
/// The consumer in Java has printed all there is: long before, on an idle machine.
const PRINTED_WITHIN: Duration = Duration::from_secs(180);

/// Where the records of each key lie in the input, in their order, as `topic/partition@offset`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs(BTreeMap<String, Vec<String>>);

/// A record that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The partition.
    pub partition: u32,
    /// The offset in it.
    pub offset: u64,
    /// The key.
    pub key: String,
    /// The count.
    pub count: u64,
    /// The word of the deployment that made it.
    pub word: String,
    /// The record that caused it, as `topic/partition@offset`.
    pub cause: String,
}

impl Inputs {
    /// Those of a topic on Kafka.
    ///
    /// # Errors
    /// If it cannot be read, or a key is no text.
    pub fn on_kafka(broker: &Broker, topic: &str) -> Result<Self> {
        let mut inputs = Self::default();
        for record in broker.read_all(topic)? {
            let key = String::from_utf8(record.key.context("a record has a key")?)?;
            inputs.add(
                key,
                format!("{topic}/{}@{}", record.partition, record.offset),
            );
        }
        Ok(inputs)
    }

    /// Those of a topic on the embedded log.
    ///
    /// # Errors
    /// As [`Self::on_kafka`].
    pub fn over_http(client: &Client, topic: &str) -> Result<Self> {
        let mut inputs = Self::default();
        for record in topic::read_all(client, topic)? {
            let key = record["key"].as_str().context("a record has a text key")?;
            let (partition, offset) = place(&record)?;
            inputs.add(key.to_owned(), format!("{topic}/{partition}@{offset}"));
        }
        Ok(inputs)
    }

    fn add(&mut self, key: String, place: String) {
        self.0.entry(key).or_default().push(place);
    }

    /// How many records there are.
    pub fn total(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// How many records each key has.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let counts = self.0.iter();
        counts
            .map(|(key, places)| (key.clone(), places.len() as u64))
            .collect()
    }
}

/// What a `read_committed` consumer in Java reads of a topic. It ends early where the machine is slow, so it
/// reads again until it has printed as many records as are committed.
///
/// # Errors
/// If that fails, or a record is not of `running-count`.
pub fn on_kafka(broker: &Broker, topic: &str) -> Result<Vec<Published>> {
    let what = format!("all of {topic} to be printed");
    let printed = wait_until_ok(PRINTED_WITHIN, &what, || {
        let printed = console::read_committed(broker, topic)?;
        let committed = broker.read_all(topic)?.len();
        ensure!(
            printed.len() >= committed,
            "{} of {committed}",
            printed.len()
        );
        Ok(printed)
    })?;
    printed
        .into_iter()
        .map(|record| {
            let Printed {
                partition,
                offset,
                headers,
                key,
                value,
            } = record;
            let value: Value = serde_json::from_str(&value)?;
            let cause = headers.get("foldhost-cause");
            Ok(Published {
                partition,
                offset,
                key,
                count: number(&value["count"]).context("no `count`")?,
                word: word(&value)?,
                cause: cause.context("no cause")?.clone(),
            })
        })
        .collect()
}

/// What a host on the embedded log tells of a topic.
///
/// # Errors
/// If that fails, or a record is not of `running-count`.
pub fn over_http(client: &Client, topic: &str) -> Result<Vec<Published>> {
    let records = topic::read_all(client, topic)?.into_iter();
    records
        .map(|record| {
            let text = |of: &Value| of.as_str().map(str::to_owned);
            let (partition, offset) = place(&record)?;
            let value = &record["value"];
            Ok(Published {
                partition: u32::try_from(partition)?,
                offset,
                key: text(&record["key"]).context("a key is text")?,
                count: number(&value["count"]).context("no `count`")?,
                word: word(value)?,
                cause: text(&record["headers"]["foldhost-cause"]).context("no cause")?,
            })
        })
        .collect()
}

/// The word of the last record of each partition that has one, as committed on a broker.
///
/// # Errors
/// If reading fails, or a record is not of `running-count`.
pub fn lasts_on_kafka(broker: &Broker, topic: &str) -> Result<BTreeMap<u64, String>> {
    let records = broker.read_all(topic)?.into_iter();
    records
        .map(|record| {
            let value = record.value.context("no value")?;
            Ok((
                u64::try_from(record.partition)?,
                word(&serde_json::from_slice(&value)?)?,
            ))
        })
        .collect()
}

/// As [`lasts_on_kafka`], as a host on the embedded log tells it.
///
/// # Errors
/// As [`lasts_on_kafka`].
pub fn lasts_over_http(client: &Client, topic: &str) -> Result<BTreeMap<u64, String>> {
    let records = topic::read_all(client, topic)?.into_iter();
    records
        .map(|record| Ok((place(&record)?.0, word(&record["value"])?)))
        .collect()
}

fn word(value: &Value) -> Result<String> {
    let word = value["word"].as_str().context("no `word`")?;
    Ok(word.to_owned())
}

fn place(record: &Value) -> Result<(u64, u64)> {
    let partition = number(&record["partition"]).context("a record has a partition")?;
    let offset = number(&record["offset"]).context("a record has an offset")?;
    Ok((partition, offset))
}

/// Every input made exactly one output, with the right count and in order; on every partition the
/// deployments of `words` followed on each other.
///
/// # Errors
/// With the first few outputs that are missing, that come twice, or that are in the wrong place.
pub fn check(inputs: &Inputs, published: &[Published], words: &[&str]) -> Result<()> {
    let mut sorted: Vec<&Published> = published.iter().collect();
    sorted.sort_by_key(|it| (it.partition, it.offset));
    let mut of_key: BTreeMap<&str, Vec<&Published>> = BTreeMap::new();
    let mut of_partition: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for it in sorted {
        of_key.entry(&it.key).or_default().push(it);
        of_partition.entry(it.partition).or_default().push(&it.word);
    }
    let mut faults = Vec::new();
    for (key, places) in &inputs.0 {
        let outputs = of_key.remove(key.as_str()).unwrap_or_default();
        faults.extend(fault(key, places, &outputs));
    }
    faults.extend(of_key.into_iter().map(|(key, outputs)| {
        let count = outputs.len();
        format!("{key}: {count} outputs, and no input")
    }));
    ensure!(
        faults.is_empty(),
        "{} keys are wrong ({} inputs, {} outputs): {:#?}",
        faults.len(),
        inputs.total(),
        published.len(),
        &faults[..faults.len().min(TOLD)]
    );
    for (partition, mut told) in of_partition {
        told.dedup();
        if told != words {
            bail!("partition {partition} has outputs of {told:?}, in this order, not of {words:?}");
        }
    }
    Ok(())
}

/// What is wrong with the outputs of a key, if something is.
fn fault(key: &str, places: &[String], outputs: &[&Published]) -> Option<String> {
    let expected = (1..).zip(places);
    let mut outputs = outputs.iter();
    for (count, place) in expected {
        let Some(output) = outputs.next() else {
            let made = count - 1;
            return Some(format!("{key}: {made} outputs, of {} inputs", places.len()));
        };
        if output.count != count || output.cause != *place {
            return Some(format!("{key}: {output:?}, not {count} because of {place}"));
        }
    }
    let more = outputs.next()?;
    Some(format!("{key}: {more:?} after {} inputs", places.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Inputs {
        let mut inputs = Inputs::default();
        for (key, offset) in [("a", 0), ("b", 1), ("a", 2)] {
            inputs.add(key.to_owned(), format!("t/0@{offset}"));
        }
        inputs
    }

    fn published(offset: u64, key: &str, count: u64, word: &str, cause: u64) -> Published {
        Published {
            partition: 0,
            offset,
            key: key.to_owned(),
            count,
            word: word.to_owned(),
            cause: format!("t/0@{cause}"),
        }
    }

    fn right() -> Vec<Published> {
        vec![
            published(0, "a", 1, "x", 0),
            published(1, "b", 1, "x", 1),
            published(3, "a", 2, "y", 2),
        ]
    }

    #[test]
    fn each_output_once_in_order_is_right() {
        check(&inputs(), &right(), &["x", "y"]).unwrap();
        assert_eq!(inputs().total(), 3);
        assert_eq!(inputs().counts()["a"], 2);
    }

    #[test]
    fn every_fault_is_told() {
        let wrong = |change: &dyn Fn(&mut Vec<Published>), word: &str| {
            let mut outputs = right();
            change(&mut outputs);
            let error = check(&inputs(), &outputs, &["x", "y"]).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(word), "{error}");
        };
        wrong(&|it| drop(it.pop()), "1 outputs, of 2 inputs");
        wrong(&|it| drop(it.remove(1)), "b: 0 outputs");
        wrong(
            &|it| it.push(published(4, "a", 2, "y", 2)),
            "after 2 inputs",
        );
        wrong(&|it| it[0].offset = 9, "not 1 because of t/0@0");
        wrong(&|it| it[2].count = 3, "not 2 because of");
        wrong(&|it| it[1].cause = "t/0@7".into(), "because of t/0@1");
        wrong(&|it| it.push(published(4, "c", 1, "y", 3)), "no input");
        wrong(&|it| it[2].word = "x".into(), "not of [\"x\", \"y\"]");
        wrong(&|it| it[0].word = "y".into(), "in this order");
    }
}
