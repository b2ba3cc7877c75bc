//! Appending records to a topic.
//!
//! Invariant: nothing is written unless every record of the request was found right; what is answered
//! is durable.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access;
use super::body;
use super::conditions::POSITION;
use super::context::App;
use super::params::{Params, Segments};
use super::record_json::{self, RecordFault, RecordIn};
use crate::error::{Code, Problem};
use crate::limits;
use crate::log::{LogError, NewRecord};
use crate::types::{Offset, Partition, PluginName, TopicName};

/// A body that is parsed on the thread that serves the request; larger ones go to a thread of their own.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(append_records))
}

/// Where records went.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Appended {
    /// One for each record, in their order.
    records: Vec<Place>,
}

/// Where a record is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Place {
    /// Number of the partition.
    partition: u32,
    /// Number of the record in it.
    offset: u64,
}

/// A record and the line it stood in, from 1; 0 = the body is one record.
#[derive(Debug, Default)]
struct Parsed {
    records: Vec<NewRecord>,
    lines: Vec<usize>,
}

/// Append records to a topic
///
/// One JSON object (`application/json`), or one in each line (`application/x-ndjson`). Nothing is
/// written if any of them is wrong. The answer comes when all are durable; its header
/// `Foldhost-Position` can be sent as `Foldhost-Min-Position` with a query.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/records", tag = "records",
    params(("topic" = String, Path, description = "Name of the topic")),
    request_body(content((RecordIn = "application/json"), (RecordIn = "application/x-ndjson"))),
    responses((status = 200, description = "The records are durable", body = Appended, headers(
        ("Foldhost-Position" = String, description = "topic/partition@offset of the last record in each partition"),
    )))
)]
async fn append_records(
    State(app): State<App>,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    let topic = segments.topic()?;
    let (parts, request_body) = request.into_parts();
    Params::of_host(&parts.uri, &[])?;
    check_unowned(&app, &topic)?;
    let in_lines = match body::media_type(&parts.headers).as_deref() {
        Some("application/json") => false,
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => true,
        other => {
            let wanted = "application/json' for one record, or 'application/x-ndjson";
            return Err(body::unsupported(other, wanted));
        }
    };
    let what = "the append";
    let held = body::read(&app, request_body, limits::APPEND_BODY_BYTES_MAX, what).await?;
    let bytes_max = app.services.settings.record_bytes_max;
    let parsed = parse_aside(held.bytes.clone(), in_lines, bytes_max).await?;
    check_partitions(&app, &topic, &parsed).await?;

    let Parsed { records, lines } = parsed;
    let places = app
        .services
        .log
        .append(&topic, records)
        .await
        .map_err(|error| refused(error, &topic, &lines))?;
    let position = access::ascii(position(&topic, &places));
    let records = places.iter().map(|(partition, offset)| Place {
        partition: partition.0,
        offset: offset.0,
    });
    Ok((
        [(POSITION, position)],
        Json(Appended {
            records: records.collect(),
        }),
    )
        .into_response())
}

/// Whether anybody may write to the topic, or change it as a whole.
///
/// # Errors
/// [`Code::TopicOwned`] names the plugin that owns it, if the host does not.
pub(super) fn check_unowned(app: &App, topic: &TopicName) -> Result<(), Problem> {
    if app.services.cluster_name.owns_topic(topic) {
        return Err(owned(topic));
    }
    match app.services.manager.owner_of(topic) {
        Some(owner) => Err(owned_by(topic, &owner)),
        None => Ok(()),
    }
}

/// A plugin owns the topic.
fn owned_by(topic: &TopicName, owner: &PluginName) -> Problem {
    Problem::new(
        Code::TopicOwned,
        format!(
            "topic {topic} is owned by plugin '{owner}', which alone publishes to it: use another topic, or \
             delete the plugin first (`foldhost plugin delete {owner}`)"
        ),
    )
    .with("topic", topic.as_str())
    .with("owner", owner.as_str())
}

/// The host owns the topic.
fn owned(topic: &TopicName) -> Problem {
    Problem::new(
        Code::TopicOwned,
        format!(
            "topic {topic} is the host's own: what is in it decides what runs; use another topic"
        ),
    )
    .with("topic", topic.as_str())
}

/// Parses, on a thread of its own where it would hold up other requests.
async fn parse_aside(body: Bytes, in_lines: bool, bytes_max: usize) -> Result<Parsed, Problem> {
    if body.len() <= INLINE_BYTES_MAX {
        return parse(&body, in_lines, bytes_max);
    }
    tokio::task::spawn_blocking(move || parse(&body, in_lines, bytes_max))
        .await
        .unwrap_or_else(|_| {
            Err(Problem::new(
                Code::Internal,
                "reading the records failed: report this",
            ))
        })
}

fn parse(body: &Bytes, in_lines: bool, bytes_max: usize) -> Result<Parsed, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let line = 1 + body[..error.valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        bad(line, "it is not UTF-8: send bytes as value_base64")
    })?;
    if !in_lines {
        let record =
            record_json::parse(body, text, bytes_max).map_err(|fault| of_fault(0, &fault))?;
        return Ok(Parsed {
            records: vec![record],
            lines: vec![0],
        });
    }
    let mut parsed = Parsed::default();
    for (index, line) in text.split('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        if parsed.records.len() == limits::APPEND_RECORDS_MAX {
            return Err(Problem::new(
                Code::TooLarge,
                format!(
                    "the append has more than {} records: send fewer at a time; nothing was written",
                    limits::APPEND_RECORDS_MAX
                ),
            ));
        }
        let record = record_json::parse(body, line, bytes_max)
            .map_err(|fault| of_fault(index + 1, &fault))?;
        parsed.records.push(record);
        parsed.lines.push(index + 1);
    }
    if parsed.records.is_empty() {
        return Err(Problem::new(
            Code::BadRequest,
            "there is no record in the body: send one JSON object in each line",
        ));
    }
    Ok(parsed)
}

fn of_fault(line: usize, fault: &RecordFault) -> Problem {
    match fault {
        RecordFault::Malformed(words) => bad(line, words),
        RecordFault::TooLarge { bytes, bytes_max } => at_line(
            line,
            Problem::new(
                Code::TooLarge,
                format!("{}{fault}; nothing was written", line_words(line)),
            )
            .with("bytes", *bytes)
            .with("bytes_max", *bytes_max),
        ),
    }
}

fn bad(line: usize, words: &str) -> Problem {
    let detail = format!("{}{words}; nothing was written", line_words(line));
    at_line(line, Problem::new(Code::BadRecord, detail))
}

fn line_words(line: usize) -> String {
    if line == 0 {
        String::new()
    } else {
        format!("line {line}: ")
    }
}

fn at_line(line: usize, problem: Problem) -> Problem {
    if line == 0 {
        problem
    } else {
        problem.with("line", line)
    }
}

/// Checks partitions that records name themselves, so that a wrong one is told by its line.
async fn check_partitions(app: &App, topic: &TopicName, parsed: &Parsed) -> Result<(), Problem> {
    let named = parsed.records.iter().zip(&parsed.lines);
    let named = named.filter_map(|(record, line)| Some((record.partition?, *line)));
    let Some((highest, line)) = named.max_by_key(|(partition, _)| *partition) else {
        return Ok(());
    };
    let described = app.services.log.topic(topic).await?;
    let count = described
        .ok_or_else(|| Problem::from(LogError::UnknownTopic(topic.clone())))?
        .partitions;
    if highest.0 < count {
        return Ok(());
    }
    let detail = format!(
        "{}topic {topic} has no partition {highest}: it has 0 to {}; nothing was written",
        line_words(line),
        count.saturating_sub(1)
    );
    Err(at_line(line, Problem::new(Code::UnknownPartition, detail)))
}

/// What the log says, with the line where it is about one record.
fn refused(error: LogError, topic: &TopicName, lines: &[usize]) -> Problem {
    match error {
        LogError::RecordTooLarge {
            index,
            bytes,
            bytes_max,
        } => {
            let line = lines.get(index).copied().unwrap_or_default();
            of_fault(line, &RecordFault::TooLarge { bytes, bytes_max })
        }
        LogError::UnknownTopic(_) => Problem::new(
            Code::UnknownTopic,
            format!(
                "there is no topic {topic}: create it first, with PUT /v1/topics/{topic} or \
                 'foldhost topic create {topic}'; nothing was written"
            ),
        )
        .with("topic", topic.as_str()),
        error => error.into(),
    }
}

/// The last record in each partition, as `Foldhost-Min-Position` takes it.
fn position(topic: &TopicName, places: &[(Partition, Offset)]) -> String {
    let mut last = BTreeMap::new();
    for (partition, offset) in places {
        let at = last.entry(*partition).or_insert(*offset);
        *at = (*at).max(*offset);
    }
    let mut text = String::new();
    for (partition, offset) in last {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{topic}/{partition}@{offset}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Parsed, Problem> {
        parse(&Bytes::copy_from_slice(text.as_bytes()), true, 100)
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let good = r#"{"key":"a","value":1}"#;
        let problem = lines(&format!("{good}\n{good}\n{{\"key\":\n{good}\n{good}\n")).unwrap_err();
        assert_eq!(problem.code, Code::BadRecord);
        assert!(problem.detail.starts_with("line 3: "), "{}", problem.detail);
        assert!(problem.detail.contains("nothing was written"));
        assert_eq!(problem.members, [("line", serde_json::Value::from(3))]);
        let large = format!(r#"{{"key":"a","value":"{}"}}"#, "x".repeat(200));
        let problem = lines(&format!("\r\n{good}\r\n{large}")).unwrap_err();
        assert_eq!(problem.code, Code::TooLarge);
        assert!(problem.detail.starts_with("line 3: "), "{}", problem.detail);
    }

    #[test]
    fn blank_lines_are_skipped_and_counted() {
        let parsed = lines("\n{\"value\":1}\r\n\n{\"value\":2}").unwrap();
        assert_eq!(parsed.lines, [2, 4]);
        assert_eq!(lines(" \n").unwrap_err().code, Code::BadRequest);
        let problem = parse(&Bytes::from_static(b"{}\n\xff"), true, 100).unwrap_err();
        assert!(
            problem.detail.starts_with("line 2: it is not UTF-8"),
            "{}",
            problem.detail
        );
    }

    #[test]
    fn a_refusal_of_the_log_names_the_line_too() {
        let topic = TopicName::new("t").unwrap();
        let error = LogError::RecordTooLarge {
            index: 1,
            bytes: 9,
            bytes_max: 5,
        };
        assert!(
            refused(error, &topic, &[2, 4])
                .detail
                .starts_with("line 4: ")
        );
        let problem = refused(LogError::UnknownTopic(topic.clone()), &topic, &[1]);
        assert!(problem.detail.contains("topic create t"));
    }

    #[test]
    fn an_owned_topic_says_whose_it_is() {
        let topic = TopicName::new("notifications").unwrap();
        let owner = PluginName::new("fleet-onboarding").unwrap();
        let problem = owned_by(&topic, &owner);
        assert_eq!(problem.code, Code::TopicOwned);
        assert!(
            problem
                .members
                .contains(&("owner", "fleet-onboarding".into()))
        );
        assert!(problem.detail.contains("plugin delete fleet-onboarding"));
    }

    #[test]
    fn the_position_has_the_last_record_of_each_partition() {
        let places = [(3, 1), (0, 11), (3, 3), (0, 12)];
        let places = places.map(|(partition, offset)| (Partition(partition), Offset(offset)));
        assert_eq!(
            position(&TopicName::new("t").unwrap(), &places),
            "t/0@12, t/3@3"
        );
    }
}
