//! Reads a whole topic over HTTP, page by page. Called by scenarios that compare a view with its log.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::http::{Client, number};
use crate::wait::wait_until_ok;

/// Records a page asks for.
const PAGE: usize = 500;

/// Number of partitions of a topic.
///
/// # Errors
/// If there is no such topic.
pub fn partitions(client: &Client, topic: &str) -> Result<u32> {
    let reply = client
        .get(&format!("/v1/topics/{topic}"))?
        .expect_status(200)?;
    let topic = reply.json()?;
    let count = match &topic["partitions"] {
        Value::Array(partitions) => u64::try_from(partitions.len())?,
        other => number(other).with_context(|| format!("no number of partitions: {reply:?}"))?,
    };
    Ok(u32::try_from(count)?)
}

/// Records that a topic has ever had: the ends of its partitions, added up.
///
/// # Errors
/// If there is no such topic.
pub fn end(client: &Client, topic: &str) -> Result<u64> {
    let reply = client
        .get(&format!("/v1/topics/{topic}"))?
        .expect_status(200)?;
    let answer = reply.json()?;
    let partitions = answer["partitions"].as_array().context("no `partitions`")?;
    let ends = partitions.iter().map(|partition| number(&partition["end"]));
    ends.sum::<Option<u64>>()
        .with_context(|| format!("a partition has no end: {reply:?}"))
}

/// Whether a partition has a record at `offset` or behind it; markers of transactions are none.
///
/// # Errors
/// If there is no such partition.
pub fn has_record(client: &Client, topic: &str, partition: u64, offset: u64) -> Result<bool> {
    let path = format!("/v1/topics/{topic}/records?partition={partition}&offset={offset}&limit=1");
    let reply = client.get(&path)?;
    if reply.status == 400 {
        // Retention has removed it: whoever waits for it waits for a gap, not for a record.
        return Ok(false);
    }
    let answer = reply.expect_status(200)?.json()?;
    let page = answer["records"].as_array().context("no `records`")?;
    Ok(!page.is_empty())
}

/// Every record of a topic, as the host tells them, by partition and offset.
///
/// # Errors
/// If an answer is not as in the contract, or offsets do not increase.
pub fn read_all(client: &Client, topic: &str) -> Result<Vec<Value>> {
    let mut records = Vec::new();
    for partition in 0..partitions(client, topic)? {
        let mut next = 0;
        loop {
            let path = format!(
                "/v1/topics/{topic}/records?partition={partition}&offset={next}&limit={PAGE}"
            );
            let reply = client.get(&path)?.expect_status(200)?;
            let answer = reply.json()?;
            let page = answer["records"].as_array().context("no `records`")?;
            for record in page {
                let offset = number(&record["offset"]).context("a record has no offset")?;
                if offset < next {
                    bail!("offset {offset} came after {next} was asked for: {path}");
                }
                next = offset + 1;
                records.push(record.clone());
            }
            let after = number(&answer["next"]).context("no `next`")?;
            let end = number(&answer["end"]).context("no `end`")?;
            if after >= end {
                break;
            }
            if after < next || (page.is_empty() && after == next) {
                bail!("the page leads nowhere: {reply:?}");
            }
            next = after;
        }
    }
    Ok(records)
}

/// As [`read_all`], once there are `count` records at least: Kafka answers a commit before what it wrote can be read.
///
/// # Errors
/// If there are fewer for longer than `deadline`, with what was wrong last.
pub fn read_at_least(
    client: &Client,
    topic: &str,
    count: usize,
    deadline: Duration,
) -> Result<Vec<Value>> {
    let what = format!("{count} records of {topic}");
    wait_until_ok(deadline, &what, || {
        let records = read_all(client, topic)?;
        ensure!(records.len() >= count, "{} are there", records.len());
        Ok(records)
    })
}

/// The value of a record as it lies in the topic, where it is no JSON.
///
/// # Errors
/// If it is JSON, or there is none.
pub fn value_bytes(record: &Value) -> Result<Vec<u8>> {
    if let Some(text) = record["value_text"].as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    let value = record["value_base64"].as_str();
    let value = value.with_context(|| format!("no bytes: {record}"))?;
    Ok(URL_SAFE_NO_PAD.decode(value)?)
}

/// How many records each key has.
///
/// # Errors
/// If a record's key is not text.
pub fn count_by_key(records: &[Value]) -> Result<std::collections::BTreeMap<String, u64>> {
    let mut counts = std::collections::BTreeMap::new();
    for record in records {
        let key = record["key"]
            .as_str()
            .with_context(|| format!("no text key: {record}"))?;
        *counts.entry(key.to_owned()).or_insert(0) += 1;
    }
    Ok(counts)
}
