//! Server-sent events, as an event source in a browser reads them, and a copy of a plugin's states that is kept by
//! them. Called by the scenario about changes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};

use anyhow::{Context, Result, bail};
use reqwest::blocking::Response;
use serde_json::Value;

use crate::http::Client;

/// An event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name; empty for a comment.
    pub name: String,
    /// Its id, if it has one.
    pub id: Option<String>,
    /// Its data.
    pub data: String,
}

/// A stream that is being read.
#[derive(Debug)]
pub struct Events<R = Response>(BufReader<R>);

impl Events {
    /// Connects, with the id of the last event that was seen.
    ///
    /// # Errors
    /// If the host refuses, or is not there.
    pub fn connect(client: &Client, path: &str, last_event: Option<&str>) -> Result<Self> {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_event.map(|id| ("last-event-id", id)));
        Ok(Self(BufReader::new(client.open(path, &headers)?)))
    }
}

impl<R: std::io::Read> Events<R> {
    /// The next event or comment; `None` where the stream has ended.
    ///
    /// # Errors
    /// If the connection breaks off.
    pub fn read(&mut self) -> Result<Option<Event>> {
        let mut event = Event {
            name: String::new(),
            id: None,
            data: String::new(),
        };
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let text = line.trim_end_matches('\n');
            match text.split_once(':') {
                None if text.is_empty() => return Ok(Some(event)),
                Some(("", _)) => {}
                Some(("event", name)) => event.name = name.trim_start().to_owned(),
                Some(("id", id)) => event.id = Some(id.trim_start().to_owned()),
                Some(("data", data)) => event.data = data.trim_start().to_owned(),
                _ => bail!("not a line of an event: {line:?}"),
            }
        }
    }
}

/// A copy of a plugin's states: key to version and answer, with the partition of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy(pub BTreeMap<String, (u64, Value, Value)>);

impl Copy {
    /// Takes over a change, or an item of a listing.
    ///
    /// # Errors
    /// If it has another shape.
    pub fn apply(&mut self, change: &Value) -> Result<()> {
        let key = change["key"].as_str().context("a key is text")?.to_owned();
        if change["deleted"] == true {
            self.0.remove(&key);
            return Ok(());
        }
        let partition = change["partition"].as_u64().context("no partition")?;
        let state = (
            partition,
            change["version"].clone(),
            change["answer"].clone(),
        );
        self.0.insert(key, state);
        Ok(())
    }

    /// What the host lists.
    ///
    /// # Errors
    /// If it does not.
    pub fn listed(client: &Client, plugin: &str) -> Result<Self> {
        let accept = [("accept", "application/x-ndjson")];
        let stream = client
            .get_with(&format!("/v1/views/{plugin}/keys"), &accept)?
            .expect_status(200)?;
        let mut copy = Self::default();
        for line in stream.text().lines() {
            copy.apply(&serde_json::from_str(line)?)?;
        }
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_until_the_end() {
        let text = ": comment\n\nid: a\nevent: change\ndata: {\"b\": 1}\n\nevent: x\ndata: 2\n";
        let mut events = Events(BufReader::new(text.as_bytes()));
        assert_eq!(events.read().unwrap().unwrap().name, "");
        let event = events.read().unwrap().unwrap();
        assert_eq!(event.id.as_deref(), Some("a"));
        assert_eq!(
            (event.name.as_str(), event.data.as_str()),
            ("change", "{\"b\": 1}")
        );
        assert_eq!(events.read().unwrap(), None, "half an event is none");
    }
}
