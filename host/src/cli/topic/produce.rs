//! `foldhost topic produce`: writes records, one from flags or many from standard input.
//!
//! Invariant: memory is bounded by one append, whatever comes in; a line number in a message counts
//! from the first line of the input.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::cli::args::ProduceArgs;
use crate::cli::client::{Answer, Client, ClientError};
use crate::cli::exit::UsageError;
use crate::cli::lines::{Bounds, Chunk};
use crate::cli::output;
use crate::limits;

/// Runs the command.
pub(super) fn run(args: &ProduceArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let mut writer = Writer {
        client,
        args,
        lines: 0,
        records: 0,
    };
    if let Some(record) = one_record(args)? {
        return writer.append(&Chunk {
            text: record.to_string(),
            lines: 1,
            filled: 1,
        });
    }
    if io::stdin().is_terminal() {
        output::note(
            "one JSON object a line, as in {\"key\":\"a\",\"value\":{\"n\":1}}; end with Ctrl-D",
        );
    }
    let mut input = io::stdin().lock();
    while let Some(chunk) = BOUNDS.next_chunk(&mut input)? {
        writer.append(&chunk)?;
    }
    if writer.records == 0 {
        return Err(
            UsageError("there was no record in the input: nothing was written".into()).into(),
        );
    }
    Ok(())
}

/// The record that the flags describe, if they do.
fn one_record(args: &ProduceArgs) -> Result<Option<Value>, UsageError> {
    let described = args.key.is_some() || args.partition.is_some() || !args.headers.is_empty();
    let value = match (&args.value, args.tombstone) {
        (Some(value), _) => ("value_text", Value::from(value.as_str())),
        (None, true) => ("value", Value::Null),
        (None, false) if described => {
            let message = "the record has no value: give --value or --tombstone, or leave the other \
                           flags out to read records from standard input";
            return Err(UsageError(message.to_owned()));
        }
        (None, false) => return Ok(None),
    };
    let mut record = Map::new();
    if let Some(key) = &args.key {
        record.insert("key".to_owned(), Value::from(key.as_str()));
    }
    record.insert(value.0.to_owned(), value.1);
    if let Some(partition) = args.partition {
        record.insert("partition".to_owned(), json!(partition));
    }
    if !args.headers.is_empty() {
        let headers = args
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)));
        record.insert("headers".to_owned(), Value::Object(headers.collect()));
    }
    Ok(Some(Value::Object(record)))
}

const BOUNDS: Bounds = Bounds {
    lines_max: limits::CLIENT_APPEND_RECORDS_MAX,
    bytes_max: limits::CLIENT_APPEND_BYTES_MAX,
    line_bytes_max: limits::APPEND_BODY_BYTES_MAX - limits::CLIENT_APPEND_BYTES_MAX,
};

/// What is sent of a chunk. Records as `consume` prints them say where they were, which an append does not take: the
/// offset is left out. Every other byte stays as it is, malformed lines included, whose faults the host tells.
fn body(chunk: &Chunk) -> String {
    const NAME: &str = "\"offset\"";
    if !chunk.text.contains(NAME) {
        return chunk.text.clone();
    }
    let mut body = String::with_capacity(chunk.text.len());
    for line in chunk.text.split_inclusive('\n') {
        match without_offset(line) {
            Some(record) => {
                body.push_str(&record);
                body.push('\n');
            }
            None => body.push_str(line),
        }
    }
    body
}

/// A record without its field `offset`; `None` if it has none, or is no record.
fn without_offset(line: &str) -> Option<String> {
    let mut record: BTreeMap<String, &RawValue> = serde_json::from_str(line).ok()?;
    record.remove("offset")?;
    serde_json::to_string(&record).ok()
}

/// Appends chunk by chunk.
#[derive(Debug)]
struct Writer<'a> {
    client: Client,
    args: &'a ProduceArgs,
    /// Lines of earlier chunks.
    lines: usize,
    /// Records that are written.
    records: usize,
}

impl Writer<'_> {
    fn append(&mut self, chunk: &Chunk) -> anyhow::Result<()> {
        if chunk.filled > 0 {
            let answer = self.send(chunk).map_err(|error| self.explained(error))?;
            self.records += chunk.filled;
            self.print(&answer, chunk.filled)?;
        }
        self.lines += chunk.lines;
        Ok(())
    }

    fn send(&self, chunk: &Chunk) -> Result<Answer, ClientError> {
        let url = self
            .client
            .url(&["v1", "topics", self.args.topic.as_str(), "records"], &[]);
        let request = self.client.request(Method::POST, url);
        let request = request.header(CONTENT_TYPE, "application/x-ndjson");
        self.client.send(request.body(body(chunk)))
    }

    fn print(&self, answer: &Answer, records: usize) -> anyhow::Result<()> {
        if self.args.client.json {
            return Ok(output::line(&answer.json()?.to_string())?);
        }
        let position = answer.header("foldhost-position").unwrap_or("-");
        let noun = if records == 1 { "record" } else { "records" };
        Ok(output::line(&format!(
            "wrote {records} {noun}, position {position}"
        ))?)
    }

    /// Adds which line of the whole input is meant, and what was written before it.
    fn explained(&self, error: ClientError) -> anyhow::Error {
        if self.records == 0 {
            return error.into();
        }
        let mut context = format!(
            "the first {} records are written, the rest is not",
            self.records
        );
        if let ClientError::Refused { problem, .. } = &error
            && let Some(line) = problem["line"].as_u64()
        {
            context = format!("{context}: it is about line {}", line + self.lines as u64);
        }
        anyhow::Error::new(error).context(context)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command, TopicCommand};

    fn args(line: &str) -> ProduceArgs {
        let words = ["foldhost", "topic", "produce", "t"]
            .into_iter()
            .chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Topic(TopicCommand::Produce(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_make_one_record() {
        let record = one_record(&args("--key k --value {\"a\":1} -H h=v -p 2"))
            .unwrap()
            .unwrap();
        let expected =
            json!({"key": "k", "value_text": "{\"a\":1}", "partition": 2, "headers": {"h": "v"}});
        assert_eq!(record, expected);
        let record = one_record(&args("--key k --tombstone")).unwrap().unwrap();
        assert_eq!(record, json!({"key": "k", "value": null}));
        assert!(one_record(&args("")).unwrap().is_none());
        assert!(one_record(&args("--key k")).is_err());
    }

    #[test]
    fn what_consume_prints_is_taken_without_its_offset() {
        let text = "{\"offset\":7,\"partition\":1,\"value\":{\"offset\": 1.50}}\n\n\
                    {\"value\":{\"offset\": 2.50}}\nbroken \"offset\"";
        let chunk = Chunk {
            text: text.to_owned(),
            lines: 4,
            filled: 3,
        };
        assert_eq!(
            body(&chunk),
            "{\"partition\":1,\"value\":{\"offset\": 1.50}}\n\n\
             {\"value\":{\"offset\": 2.50}}\nbroken \"offset\""
        );
    }
}
