//! `foldhost topic consume`: prints records, one JSON object a line.
//!
//! Without `--follow` it ends where each partition ended when it was first asked; with it, it asks
//! one partition after the other, and waits only when none had anything.

use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::args::ConsumeArgs;
use crate::cli::client::Client;
use crate::cli::exit::UsageError;
use crate::cli::output;
use crate::limits;

/// How long the host may wait for a first record, in seconds, when all partitions are read.
const FOLLOW_WAIT_SECONDS: u64 = 10;
/// As above, where several partitions are followed: the wait for one delays the others.
const FOLLOW_MANY_WAIT_SECONDS: u64 = 1;

/// Runs the command.
pub(super) fn run(args: &ConsumeArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let mut cursors = cursors(&client, args)?;
    let mut reading = Reading {
        client,
        args,
        left: args.limit.unwrap_or(u64::MAX),
    };
    let mut wait_seconds = 0;
    while reading.left > 0 {
        let mut printed = 0;
        for cursor in cursors
            .iter_mut()
            .filter(|cursor| args.follow || !cursor.is_done)
        {
            printed += reading.page(cursor, wait_seconds)?;
        }
        if !args.follow && cursors.iter().all(|cursor| cursor.is_done) {
            break;
        }
        wait_seconds = match (printed, cursors.len()) {
            (1.., _) => 0,
            (0, 1) => FOLLOW_WAIT_SECONDS,
            (0, _) => FOLLOW_MANY_WAIT_SECONDS,
        };
    }
    Ok(())
}

/// Where a partition is to be read next.
#[derive(Debug)]
struct Cursor {
    partition: u32,
    /// An offset, `earliest` or `latest`.
    offset: String,
    /// The partition's end when it was first asked.
    end: Option<u64>,
    /// Whether it was read to that end.
    is_done: bool,
}

fn cursors(client: &Client, args: &ConsumeArgs) -> anyhow::Result<Vec<Cursor>> {
    let cursor = |partition| Cursor {
        partition,
        offset: args.offset.clone(),
        end: None,
        is_done: false,
    };
    if let Some(partition) = args.partition {
        return Ok(vec![cursor(partition)]);
    }
    if args.offset.parse::<u64>().is_ok() {
        let message = "an offset belongs to one partition: say which with --partition";
        return Err(UsageError(message.to_owned()).into());
    }
    let topic = client
        .get(&["v1", "topics", args.topic.as_str()], &[])?
        .json()?;
    let partitions = topic["partitions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let numbers = partitions
        .iter()
        .filter_map(|partition| partition["partition"].as_u64());
    Ok(numbers
        .filter_map(|number| u32::try_from(number).ok())
        .map(cursor)
        .collect())
}

/// A page as the host answers it. Records stay as they are: a number that is read and written again
/// may be another one.
#[derive(Debug, Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    next: u64,
    end: u64,
}

/// What is being read, and how much more of it.
#[derive(Debug)]
struct Reading<'a> {
    client: Client,
    args: &'a ConsumeArgs,
    left: u64,
}

impl Reading<'_> {
    /// Prints a page of a partition and says how many records it had.
    fn page(&mut self, cursor: &mut Cursor, wait_seconds: u64) -> anyhow::Result<u64> {
        if self.left == 0 {
            return Ok(0);
        }
        let request = self
            .client
            .request(Method::GET, self.url(cursor, wait_seconds));
        let answer = self.client.send(request)?;
        let page: Page<'_> = serde_json::from_slice(&answer.body)?;
        for record in &page.records {
            output::line(record.get())?;
        }
        let count = page.records.len() as u64;
        let end = *cursor.end.get_or_insert(page.end);
        // A page without records is the end, too: markers of transactions are no records.
        cursor.is_done = page.next >= end || count == 0;
        cursor.offset = page.next.to_string();
        self.left = self.left.saturating_sub(count);
        Ok(count)
    }

    fn url(&self, cursor: &Cursor, wait_seconds: u64) -> Url {
        let limit = self.left.min(limits::PAGE_ITEMS_MAX as u64).to_string();
        let (partition, wait) = (cursor.partition.to_string(), wait_seconds.to_string());
        let mut pairs = vec![
            ("partition", partition.as_str()),
            ("offset", &cursor.offset),
            ("limit", &limit),
        ];
        if wait_seconds > 0 {
            pairs.push(("_wait", &wait));
        }
        self.client.url(
            &["v1", "topics", self.args.topic.as_str(), "records"],
            &pairs,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_printed_as_they_came() {
        let body =
            r#"{"records":[{"value":{"n":12345678901234567890.50}}],"next":1,"end":1,"start":0}"#;
        let page: Page<'_> = serde_json::from_str(body).unwrap();
        assert_eq!(
            page.records[0].get(),
            r#"{"value":{"n":12345678901234567890.50}}"#
        );
    }
}
