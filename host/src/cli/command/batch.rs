//! `foldhost command --file`: sends many commands, and prints what came of each.
//!
//! Invariants: commands of a key keep their order, so nothing is sent behind commands that have no outcome; a line
//! number counts from the first line of the input.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use anyhow::Context as _;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;

use crate::cli::client::{Answer, Client, ClientError};
use crate::cli::exit::{Exit, NotAllDone, UsageError};
use crate::cli::lines::{Bounds, Chunk};
use crate::cli::output;
use crate::error::Code;
use crate::limits;
use crate::types::PluginName;

const BOUNDS: Bounds = Bounds {
    lines_max: limits::CLIENT_BATCH_COMMANDS_MAX,
    bytes_max: limits::CLIENT_BATCH_BYTES_MAX,
    line_bytes_max: 2 * limits::COMMAND_BODY_BYTES_MAX,
};

/// Sends the commands of a file; `-` = standard input.
pub(super) fn run(client: &Client, plugin: &PluginName, file: &Path) -> anyhow::Result<()> {
    let mut sender = Sender {
        client,
        plugin,
        lines: 0,
        sent: 0,
        failures: Failures::default(),
    };
    if file.as_os_str() == "-" {
        return sender.run(&mut io::stdin().lock());
    }
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    sender.run(&mut BufReader::new(opened))
}

/// What a line of the answer says.
#[derive(Debug, Deserialize)]
struct Told {
    line: usize,
    status: u16,
    problem: Option<Problem>,
}

#[derive(Debug, Deserialize)]
struct Problem {
    code: String,
    owner: Option<String>,
}

/// A line of an answer, and what it says.
#[derive(Debug)]
struct Line {
    text: String,
    told: Told,
}

impl Line {
    fn of(text: &str) -> anyhow::Result<Self> {
        let told = serde_json::from_str(text)
            .with_context(|| format!("a line of the answer that no foldhost gives: {text}"))?;
        Ok(Self {
            text: text.to_owned(),
            told,
        })
    }

    /// The host that has the key, if it is another one.
    fn owner(&self) -> Option<&str> {
        let problem = self.told.problem.as_ref()?;
        let is_elsewhere = problem.code == Code::NotOwner.as_str();
        problem.owner.as_deref().filter(|_| is_elsewhere)
    }

    /// Whether the command may be sent again.
    fn is_open(&self) -> bool {
        self.told.status >= 500 || self.owner().is_some()
    }

    /// The line as it is, under another number.
    fn renumbered(&self, line: usize) -> String {
        let rest = self.text.split_once(',').map_or("}", |(_, rest)| rest);
        format!("{{\"line\":{line},{rest}")
    }
}

/// How many commands were not done.
#[derive(Debug, Default)]
struct Failures {
    refused: usize,
    open: usize,
    exit: Option<Exit>,
}

impl Failures {
    fn count(&mut self, line: &Line) {
        let Some(problem) = &line.told.problem else {
            return;
        };
        if line.is_open() {
            self.open += 1;
            self.exit = Some(Exit::Unavailable);
            return;
        }
        self.refused += 1;
        let exit = Exit::of_problem(line.told.status, &problem.code);
        self.exit.get_or_insert(exit);
    }

    fn result(&self) -> anyhow::Result<()> {
        let Some(exit) = self.exit else {
            return Ok(());
        };
        let mut words = format!("{} commands were refused", self.refused);
        if self.open > 0 {
            words = format!(
                "{words}, and {} have no outcome that is known: nothing was sent behind them; send the input again \
                 (commands that have an id are not done twice)",
                self.open
            );
        }
        Err(NotAllDone { exit, words }.into())
    }
}

/// Sends chunk by chunk.
struct Sender<'a> {
    client: &'a Client,
    plugin: &'a PluginName,
    /// Lines of earlier chunks.
    lines: usize,
    /// Commands that were sent.
    sent: usize,
    failures: Failures,
}

impl Sender<'_> {
    fn run(&mut self, input: &mut impl BufRead) -> anyhow::Result<()> {
        while let Some(chunk) = BOUNDS.next_chunk(input)? {
            if chunk.filled > 0 {
                self.chunk(&chunk)?;
                self.sent += chunk.filled;
            }
            self.lines += chunk.lines;
            if self.failures.open > 0 {
                break;
            }
        }
        if self.sent == 0 {
            return Err(UsageError("there was no command in the input".to_owned()).into());
        }
        self.failures.result()
    }

    fn chunk(&mut self, chunk: &Chunk) -> anyhow::Result<()> {
        let answer = self.send(self.client, chunk.text.clone());
        let answer = answer.map_err(|error| self.explained(error))?;
        let mut lines = read(&answer)?;
        self.ask_owners(chunk, &mut lines)?;
        for line in &lines {
            self.failures.count(line);
            output::line(&line.renumbered(self.lines + line.told.line))?;
        }
        Ok(())
    }

    /// The host that was asked knows the owners; a second redirection is not followed.
    fn ask_owners(&self, chunk: &Chunk, lines: &mut [Line]) -> anyhow::Result<()> {
        let mut elsewhere: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, line) in lines.iter().enumerate() {
            if let Some(owner) = line.owner() {
                let of_owner = elsewhere.entry(owner.to_owned()).or_default();
                of_owner.push(index);
            }
        }
        let texts: Vec<_> = chunk.text.split('\n').collect();
        for (owner, indexes) in elsewhere {
            let asked: Vec<_> = indexes
                .iter()
                .map(|index| texts[lines[*index].told.line - 1])
                .collect();
            let answer = self.send(&self.client.at(&owner)?, asked.join("\n"))?;
            for (index, mut answered) in indexes.into_iter().zip(read(&answer)?) {
                answered.told.line = lines[index].told.line;
                lines[index] = answered;
            }
        }
        Ok(())
    }

    fn send(&self, client: &Client, body: String) -> Result<Answer, ClientError> {
        let url = client.url(&["v1", "commands", self.plugin.as_str()], &[]);
        let request = client.request(Method::POST, url);
        let request = request.header(CONTENT_TYPE, "application/x-ndjson");
        client.send(request.body(body))
    }

    /// Adds which line of the whole input is meant, and what was sent before it.
    fn explained(&self, error: ClientError) -> anyhow::Error {
        if self.sent == 0 {
            return error.into();
        }
        let mut context = format!("{} commands were sent before", self.sent);
        if let ClientError::Refused { problem, .. } = &error
            && let Some(line) = problem["line"].as_u64()
        {
            context = format!("{context}: it is about line {}", line + self.lines as u64);
        }
        anyhow::Error::new(error).context(context)
    }
}

fn read(answer: &Answer) -> anyhow::Result<Vec<Line>> {
    let text = std::str::from_utf8(&answer.body).context("the answer is not UTF-8")?;
    text.lines().map(Line::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_printed_as_it_came_but_for_its_number() {
        let text = r#"{"line":2,"id":"a","status":200,"reply":{"cents":1.50}}"#;
        let line = Line::of(text).unwrap();
        assert_eq!(
            line.renumbered(12),
            r#"{"line":12,"id":"a","status":200,"reply":{"cents":1.50}}"#
        );
        assert!(!line.is_open() && line.owner().is_none());
        assert!(Line::of("{}").is_err());
    }

    #[test]
    fn what_has_no_outcome_counts_more_than_what_was_refused() {
        let mut failures = Failures::default();
        let line = |status: u16, problem: &str| {
            Line::of(&format!(
                r#"{{"line":1,"id":"a","status":{status},"problem":{problem}}}"#
            ))
            .unwrap()
        };
        failures.count(&line(422, r#"{"code":"command-refused","refusal":"x"}"#));
        assert_eq!(failures.exit, Some(Exit::RuledOut));
        failures.count(&line(412, r#"{"code":"precondition-failed"}"#));
        assert_eq!(failures.exit, Some(Exit::RuledOut), "the first counts");
        let elsewhere = line(421, r#"{"code":"not-owner","owner":"http://b"}"#);
        assert_eq!(elsewhere.owner(), Some("http://b"));
        failures.count(&elsewhere);
        let error = failures.result().unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unavailable);
        assert!(
            error
                .to_string()
                .contains("2 commands were refused, and 1 have")
        );
    }
}
