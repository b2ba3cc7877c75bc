//! The changes of a plugin as server-sent events. Used by `changes`.
//!
//! Invariants: what is sent is made when the client takes it, some changes at a time, so a slow client holds nothing
//! but its connection; an event's id is the token behind it, so whoever sends it back misses nothing; a stream that
//! ends says why, unless its connection breaks off.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::walk::{Missing, Told, Walk};
use crate::error::{Code, Problem};
use crate::http::context::App;
use crate::limits;

const TYPE: HeaderValue = HeaderValue::from_static("text/event-stream");
/// How often in a row what fails is tried again before a stream ends: a partition may be on its way to another host.
const FAULTS_MAX: u32 = 3;

/// What a stream knows between two chunks.
struct Streaming {
    app: App,
    walk: Walk,
    /// What was fetched before the answer began, so that a refusal has a status of its own.
    first: Option<String>,
    /// As last told.
    missing: Vec<Missing>,
    /// When something was sent last.
    sent_at: Duration,
    faults: u32,
    /// A turn among all streams.
    _turn: OwnedSemaphorePermit,
}

/// Answers with a stream.
///
/// # Errors
/// `streams-full`; those of the first look and the first changes.
pub(super) async fn respond(app: App, walk: Walk, restarted: bool) -> Result<Response, Problem> {
    let Ok(turn) = app.change_streams.clone().try_acquire_owned() else {
        return Err(Problem::new(
            Code::StreamsFull,
            format!(
                "{} streams of changes are served already: ask again later, or for pages",
                limits::FEED_STREAMS_MAX
            ),
        ));
    };
    let mut streaming = Streaming {
        sent_at: app.services.clock.elapsed(),
        app,
        walk,
        first: None,
        missing: Vec::new(),
        faults: 0,
        _turn: turn,
    };
    // Something goes out at once, so that the client sees that it is heard.
    let mut first = String::from(": changes\n\n");
    streaming.events(restarted, &mut first).await?;
    streaming.first = Some(first);
    let chunks = stream::unfold(Some(streaming), |streaming| async move {
        let (chunk, rest) = streaming?.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), rest))
    });
    Ok(([(header::CONTENT_TYPE, TYPE)], Body::from_stream(chunks)).into_response())
}

impl Streaming {
    /// The next events, and what comes after them; none at the end.
    async fn next(mut self) -> Option<(String, Option<Self>)> {
        let app = self.app.clone();
        let next = app.unless_stopped(self.chunk()).await;
        match next.and_then(|chunk| chunk) {
            Ok(chunk) => {
                self.sent_at = self.app.services.clock.elapsed();
                Some((chunk, Some(self)))
            }
            Err(problem) => Some((last_event(&problem), None)),
        }
    }

    /// Waits until there is something to send.
    async fn chunk(&mut self) -> Result<String, Problem> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let mut chunk = String::new();
        loop {
            let told = match self.walk.look() {
                Ok(restarted) => self.events(restarted, &mut chunk).await,
                Err(problem) => return Err(problem),
            };
            match told {
                Err(problem) if problem.code == Code::StateUnavailable => {
                    self.faults += 1;
                    if self.faults > FAULTS_MAX {
                        return Err(problem);
                    }
                    tokio::time::sleep(limits::FEED_LOOK_INTERVAL).await;
                    continue;
                }
                Err(problem) => return Err(problem),
                Ok(()) => self.faults = 0,
            }
            if !chunk.is_empty() {
                return Ok(chunk);
            }
            let silent = self
                .app
                .services
                .clock
                .elapsed()
                .saturating_sub(self.sent_at);
            if silent >= limits::FEED_HEARTBEAT_INTERVAL {
                return Ok(":\n\n".to_owned());
            }
            let committed = self.walk.committed();
            let _ = tokio::time::timeout(limits::FEED_LOOK_INTERVAL, committed).await;
        }
    }

    /// Appends what there is to tell by now.
    async fn events(&mut self, restarted: bool, chunk: &mut String) -> Result<(), Problem> {
        if restarted {
            let generation = self.walk.generation();
            event(
                chunk,
                "restarted",
                &json!({"generation": generation}).to_string(),
            );
        }
        let told = self.walk.next(limits::PAGE_SCAN_KEYS, true).await;
        let missing = self.walk.missing();
        if missing != self.missing {
            self.missing = missing;
            event(chunk, "missing", &json!(self.missing).to_string());
        }
        let (told, _) = told?;
        for Told { item, id } in told {
            if let Some(id) = id {
                let _ = writeln!(chunk, "id: {id}");
            }
            event(chunk, "change", item.get());
        }
        Ok(())
    }
}

/// Appends an event; `data` is JSON in a line.
fn event(chunk: &mut String, name: &str, data: &str) {
    let _ = write!(chunk, "event: {name}\ndata: {data}\n\n");
}

/// The event by which a client sees that the stream has ended, and why.
fn last_event(problem: &Problem) -> String {
    let mut chunk = String::new();
    let problem = json!({
        "code": problem.code.as_str(),
        "title": problem.code.title(),
        "detail": problem.detail,
    });
    event(&mut chunk, "problem", &problem.to_string());
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_with_an_event_that_says_why() {
        let event = last_event(&Problem::new(Code::ShuttingDown, "the host is\nstopping"));
        let data = event.strip_prefix("event: problem\ndata: ").unwrap();
        let data = data.strip_suffix("\n\n").unwrap();
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["code"], "shutting-down");
        assert_eq!(data["detail"], "the host is\nstopping");
    }
}
