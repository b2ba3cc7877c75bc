//! Many commands in one request: a JSON object in each line, answered by a line each.
//!
//! Invariants: nothing is decided unless every line can be read; the commands of a key are decided in the order of
//! their lines, and none behind one that has no outcome; a line is answered with what is durable. Partitions decide
//! side by side, and a batch has a bounded number of commands on their way.

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::decide::{Owner, Told};
use super::{Named, check_is_handler, check_key, id_rule, is_id, travelling};
use crate::error::{Code, Problem};
use crate::http::auth::Principal;
use crate::http::body::{self, HeldBody};
use crate::http::context::App;
use crate::http::params::{Params, Segments};
use crate::http::views::passed_on;
use crate::http::{encoding, problem, record_json};
use crate::limits;
use crate::manager::Plugin;
use crate::partition::{CommandRequest, Expects, Sequence};
use crate::plugin::{CallContext, Command, Payload};
use crate::types::{KeyFormat, Partition};

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// A body that is parsed on the thread that serves the request; larger ones go to a thread of their own.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(batch))
}

/// One command of a batch.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BatchCommand)]
struct CommandIn<'a> {
    /// The key, as the plugin writes its keys.
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
    /// The key's bytes in base64.
    #[serde(borrow, default)]
    key_base64: Option<Cow<'a, str>>,
    /// Name of the command.
    #[serde(borrow)]
    command: Cow<'a, str>,
    /// Its body as JSON; left out (as well as `body_base64`) = an empty object.
    #[serde(borrow, default, deserialize_with = "record_json::present")]
    #[schema(value_type = Option<serde_json::Value>)]
    body: Option<&'a RawValue>,
    /// The body's bytes in base64.
    #[serde(borrow, default)]
    body_base64: Option<Cow<'a, str>>,
    /// Media type of the body; `application/json` unless said.
    #[serde(borrow, default)]
    content_type: Option<Cow<'a, str>>,
    /// Names the command, as `Idempotency-Key` does: a repeat gets the same answer; made by the host where it is
    /// left out.
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    /// Only if the key's state has this version.
    #[serde(default)]
    if_version: Option<u64>,
    /// Only if the key has no state.
    #[serde(default)]
    if_absent: bool,
}

/// What came of one command of a batch.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = BatchOutcome)]
struct OutcomeOut<'a> {
    /// The line of the command, from 1.
    line: usize,
    /// The name of the command.
    id: &'a str,
    /// The status that the command alone would have had: 200 = it is done. From 500 on, and 421, it has no outcome
    /// that is known: it may be sent again, with its id.
    status: u16,
    /// Version of the key's state after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// topic/partition@offset, as `Foldhost-Position`.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    /// Whether it is the first answer of an earlier command with this id again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    repeat: bool,
    /// The handler's reply, if it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    reply: Option<Box<RawValue>>,
    /// The reply, if it is other text.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_text: Option<String>,
    /// The reply in base64url, if it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_base64: Option<String>,
    /// Why it was not done: `code`, `title`, `detail`, and what the code adds, such as `owner`, `refusal`, `details`.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Value>,
}

/// Send many commands
///
/// A JSON object in each line, answered by a line each, in the same order, as they are decided. Nothing is decided if
/// any line cannot be read. The commands of a key are decided in their order; once one has no outcome (its status is
/// 421 or 500 and more), none behind it in its partition is decided, so that the ones without can be sent again as they
/// are. A command whose answer may get lost needs an `id` for that.
#[utoipa::path(
    post, path = "/v1/commands/{plugin}", tag = "commands",
    params(("plugin" = String, Path, description = "Name of the command handler")),
    request_body(content((CommandIn = "application/x-ndjson"))),
    responses(
        (status = 200, description = "What came of each", content((OutcomeOut = "application/x-ndjson"))),
        (status = 400, description = "A line cannot be read: `line` says which; nothing was decided"),
    )
)]
async fn batch(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, request_body) = request.into_parts();
    Params::of_host(&parts.uri, &[])?;
    let plugin = app.services.manager.plugin(segments.get("plugin"))?;
    check_is_handler(&plugin, Named::Command(""))?;
    match body::media_type(&parts.headers).as_deref() {
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => {}
        other => return Err(body::unsupported(other, "application/x-ndjson")),
    }
    let what = "the batch of commands";
    let held = body::read(&app, request_body, limits::COMMAND_BATCH_BYTES_MAX, what).await?;
    let format = plugin.deployment().manifest.key;
    let lines = parse_aside(held.bytes.clone(), format).await?;
    let slots = app.command_batches.clone();
    let slot = app.unless_stopped(slots.acquire_owned()).await?;
    let headers = &parts.headers;
    let batch = Arc::new(Batch {
        principal: principal.name().map(str::to_owned),
        headers: passed_on(headers),
        travelling: travelling(headers),
        app,
        plugin,
        _slot: slot.expect("the slots are never closed"),
        _held: held,
    });
    let turns = batch.turns(lines);
    let answers = stream::iter(turns).map(move |(line, turn)| batch.clone().line(line, turn));
    let answers = answers.buffered(limits::COMMAND_BATCH_WAITING_MAX);
    let body = Body::from_stream(answers.map(Ok::<_, Infallible>));
    let headers = [
        (header::CONTENT_TYPE, NDJSON),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, body).into_response())
}

/// A command, and the line that it stood in.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    number: usize,
    key: Bytes,
    command: String,
    content_type: String,
    body: Bytes,
    id: Option<String>,
    expects: Expects,
}

/// Parses, on a thread of its own where it would hold up other requests.
async fn parse_aside(body: Bytes, format: KeyFormat) -> Result<Vec<Line>, Problem> {
    if body.len() <= INLINE_BYTES_MAX {
        return parse(&body, format);
    }
    tokio::task::spawn_blocking(move || parse(&body, format))
        .await
        .unwrap_or_else(|_| {
            Err(Problem::new(
                Code::Internal,
                "reading the commands failed: report this",
            ))
        })
}

fn parse(body: &Bytes, format: KeyFormat) -> Result<Vec<Line>, Problem> {
    let mut lines = Vec::new();
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if lines.len() == limits::COMMAND_BATCH_COMMANDS_MAX {
            return Err(Problem::new(
                Code::TooLarge,
                format!(
                    "the batch has more than {} commands: send fewer at a time; nothing was decided",
                    limits::COMMAND_BATCH_COMMANDS_MAX
                ),
            ));
        }
        let number = index + 1;
        let read = Line::read(body, line, number, format);
        lines.push(read.map_err(|words| {
            let detail = format!("line {number}: {words}; nothing was decided");
            Problem::new(Code::BadRecord, detail).with("line", number)
        })?);
    }
    if lines.is_empty() {
        return Err(Problem::new(
            Code::BadRequest,
            "there is no command in the body: send one JSON object in each line",
        ));
    }
    Ok(lines)
}

impl Line {
    fn read(body: &Bytes, line: &[u8], number: usize, format: KeyFormat) -> Result<Self, String> {
        let text = std::str::from_utf8(line)
            .map_err(|_| "it is not UTF-8: send bytes as key_base64 and body_base64".to_owned())?;
        let read: CommandIn<'_> =
            serde_json::from_str(text).map_err(|error| record_json::malformed(text, &error))?;
        let key = match (read.key, read.key_base64) {
            (Some(key), None) => format.parse(&key).map_err(|error| error.to_string())?,
            (None, Some(text)) => record_json::base64("key_base64", &text)?,
            (None, None) => return Err("it has no key: give key or key_base64".to_owned()),
            (Some(_), Some(_)) => return Err("give one of key and key_base64".to_owned()),
        };
        check_key(&key).map_err(|problem| problem.detail)?;
        let content = match (read.body, read.body_base64) {
            (Some(json), None) => record_json::bytes_of(body, json.get().into()),
            (None, Some(text)) => record_json::base64("body_base64", &text)?,
            (None, None) => Bytes::from_static(b"{}"),
            (Some(_), Some(_)) => return Err("give one of body and body_base64".to_owned()),
        };
        let (bytes, bytes_max) = (content.len(), limits::COMMAND_BODY_BYTES_MAX);
        if bytes > bytes_max {
            return Err(format!(
                "the body has {bytes} bytes, more than the {bytes_max} that are taken"
            ));
        }
        if read.id.as_ref().is_some_and(|id| !is_id(id)) {
            return Err(format!("id: {}", id_rule()));
        }
        let expects = match (read.if_version, read.if_absent) {
            (None, false) => Expects::Anything,
            (None, true) => Expects::Absent,
            (Some(version), false) => Expects::OneOf(vec![version]),
            (Some(_), true) => return Err("give one of if_version and if_absent".to_owned()),
        };
        let content_type = read.content_type.unwrap_or("application/json".into());
        Ok(Self {
            number,
            key,
            command: read.command.into_owned(),
            content_type: content_type.into_owned(),
            body: content,
            id: read.id.map(Cow::into_owned),
            expects,
        })
    }
}

/// What all commands of a batch have in common.
struct Batch {
    app: App,
    plugin: Arc<Plugin>,
    principal: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    travelling: Vec<(String, Bytes)>,
    _slot: OwnedSemaphorePermit,
    _held: HeldBody,
}

/// When a command may go into its partition's queue.
struct Turn {
    /// Ends once the one before it is in there, or will never be.
    before: Option<oneshot::Receiver<Infallible>>,
    /// Dropped for the one behind it.
    passes: oneshot::Sender<Infallible>,
    sequence: Sequence,
}

impl Batch {
    /// The commands of each partition wait for one another.
    fn turns(&self, lines: Vec<Line>) -> Vec<(Line, Turn)> {
        let mut last: HashMap<Partition, (oneshot::Receiver<Infallible>, Sequence)> =
            HashMap::new();
        let turns = lines.into_iter().map(|line| {
            let partition = self.plugin.deployment().partition_of(&line.key);
            let (before, sequence) = last.remove(&partition).unzip();
            let sequence = sequence.unwrap_or_default();
            let (passes, passed) = oneshot::channel();
            last.insert(partition, (passed, sequence.clone()));
            let turn = Turn {
                before,
                passes,
                sequence,
            };
            (line, turn)
        });
        turns.collect()
    }

    /// Has one command decided, and tells what came of it.
    async fn line(self: Arc<Self>, mut line: Line, turn: Turn) -> Bytes {
        let id = line.id.take();
        let id = id.unwrap_or_else(|| self.app.services.clock.unique_id());
        let number = line.number;
        let told = self.decide(line, turn, &id).await;
        let mut answer = serde_json::to_vec(&OutcomeOut::of(number, &id, told))
            .expect("texts, numbers and JSON serialise");
        answer.push(b'\n');
        Bytes::from(answer)
    }

    async fn decide(&self, line: Line, turn: Turn, id: &str) -> Result<Told, Problem> {
        let Turn {
            before,
            passes,
            sequence,
        } = turn;
        if let Some(before) = before {
            // Nobody sends anything: it ends when the other one is through.
            let _ = before.await;
        }
        let owner = Owner::of(&self.app, &self.plugin, &line.key, &line.expects);
        let owner = owner.inspect_err(|problem| {
            if is_open(problem) {
                sequence.break_off();
            }
        })?;
        let request = CommandRequest {
            key: line.key,
            command: Command {
                name: line.command.clone(),
                id: id.to_owned(),
                content: Payload {
                    content_type: line.content_type,
                    body: line.body.to_vec(),
                },
                context: CallContext {
                    principal: self.principal.clone(),
                    headers: self.headers.clone(),
                    ..CallContext::default()
                },
            },
            expects: line.expects,
            travelling: self.travelling.clone(),
        };
        let queued = owner.handle.enqueue(request, &sequence);
        let queued = self.app.unless_stopped(queued).await?;
        drop(passes);
        let answered = match queued {
            Ok(waiting) => self.app.unless_stopped(waiting.answered()).await?,
            Err(fault) => Err(fault),
        };
        owner.told(&line.command, answered)
    }
}

/// Whether the same command may come to an outcome later, or elsewhere.
fn is_open(problem: &Problem) -> bool {
    let status = problem.code.status();
    status >= 500 || problem.code == Code::NotOwner
}

impl<'a> OutcomeOut<'a> {
    fn of(line: usize, id: &'a str, told: Result<Told, Problem>) -> Self {
        let mut out = Self {
            line,
            id,
            status: 200,
            version: None,
            position: None,
            repeat: false,
            reply: None,
            reply_text: None,
            reply_base64: None,
            problem: None,
        };
        let refusal = match told {
            Ok(told) => {
                out.version = told.version();
                out.position = told.position();
                out.repeat = told.is_repeat();
                if let Some(reply) = told.reply() {
                    out.reply(&reply.body);
                }
                told.refusal()
            }
            Err(problem) => Some(problem),
        };
        if let Some(refusal) = refusal {
            out.status = refusal.code.status();
            out.problem = Some(problem::brief(&refusal));
        }
        out
    }

    fn reply(&mut self, body: &[u8]) {
        let Ok(text) = std::str::from_utf8(body) else {
            self.reply_base64 = Some(encoding::to_base64(body));
            return;
        };
        match serde_json::from_str::<&RawValue>(text) {
            // A line has no line breaks.
            Ok(json) => {
                let json = RawValue::from_string(encoding::compact(json.get()).into_owned());
                self.reply = Some(json.expect("it was JSON before"));
            }
            Err(_) => self.reply_text = Some(text.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Line>, Problem> {
        parse(&Bytes::copy_from_slice(text.as_bytes()), KeyFormat::Utf8)
    }

    #[test]
    fn a_line_says_what_a_request_says_elsewhere() {
        let lines = read(
            "{\"key\":\"a\",\"command\":\"put\",\"body\":{\"n\": 1},\"id\":\"i-1\",\"if_version\":3}\r\n\n\
             {\"key_base64\":\"_w\",\"command\":\"drop\",\"body_base64\":\"AAE\",\"content_type\":\"x/y\",\"if_absent\":true}\n\
             {\"key\":\"\",\"command\":\"touch\"}",
        )
        .unwrap();
        let numbers: Vec<_> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 3, 4]);
        assert_eq!(
            lines[0],
            Line {
                number: 1,
                key: Bytes::from_static(b"a"),
                command: "put".to_owned(),
                content_type: "application/json".to_owned(),
                body: Bytes::from_static(b"{\"n\": 1}"),
                id: Some("i-1".to_owned()),
                expects: Expects::OneOf(vec![3]),
            }
        );
        assert_eq!(
            (&*lines[1].key, &*lines[1].body),
            (&b"\xff"[..], &b"\0\x01"[..])
        );
        assert_eq!(lines[1].content_type, "x/y");
        assert_eq!(lines[1].expects, Expects::Absent);
        assert_eq!(
            (&*lines[2].body, &lines[2].expects, &lines[2].id),
            (&b"{}"[..], &Expects::Anything, &None)
        );
    }

    #[test]
    fn a_bad_line_is_named_and_says_what_is_wrong() {
        let good = "{\"key\":\"a\",\"command\":\"put\"}";
        for (bad, words) in [
            ("{", "EOF"),
            ("{\"command\":\"put\"}", "no key"),
            ("{\"key\":\"a\"}", "missing field `command`"),
            (
                "{\"key\":\"a\",\"key_base64\":\"AA\",\"command\":\"x\"}",
                "one of key",
            ),
            (
                "{\"key\":\"a\",\"command\":\"x\",\"body\":1,\"body_base64\":\"\"}",
                "one of body",
            ),
            (
                "{\"key\":\"a\",\"command\":\"x\",\"if_version\":1,\"if_absent\":true}",
                "one of if_version",
            ),
            (
                "{\"key\":\"a\",\"command\":\"x\",\"id\":\"\"}",
                "1 to 255 visible",
            ),
            (
                "{\"key\":\"a\",\"command\":\"x\",\"id\":\"ä\"}",
                "1 to 255 visible",
            ),
            (
                "{\"key\":\"a\",\"command\":\"x\",\"bod\":1}",
                "unknown field `bod`",
            ),
            (
                "{\"key_base64\":\"?\",\"command\":\"x\"}",
                "key_base64 is not base64",
            ),
        ] {
            let problem = read(&format!("{good}\n{bad}\n{good}\n")).unwrap_err();
            assert_eq!(problem.code, Code::BadRecord, "{bad}");
            let detail = &problem.detail;
            assert!(
                detail.starts_with("line 2: ") && detail.contains(words),
                "{detail}"
            );
            assert!(detail.ends_with("nothing was decided"), "{detail}");
            assert_eq!(problem.members, [("line", Value::from(2))]);
        }
        assert_eq!(read(" \n").unwrap_err().code, Code::BadRequest);
        let large = format!(
            "{{\"key\":\"a\",\"command\":\"x\",\"body\":\"{}\"}}",
            "x".repeat(limits::COMMAND_BODY_BYTES_MAX)
        );
        assert!(read(&large).unwrap_err().detail.contains("the body has"));
        let many = format!("{good}\n").repeat(limits::COMMAND_BATCH_COMMANDS_MAX + 1);
        assert_eq!(read(&many).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn a_refusal_stands_in_its_line_with_its_members() {
        let problem = Problem::new(Code::NotOwner, "ask there").with("owner", "http://b");
        assert!(is_open(&problem));
        let out = serde_json::to_value(OutcomeOut::of(7, "i", Err(problem))).unwrap();
        assert_eq!(out["line"], 7);
        assert_eq!(out["status"], 421);
        assert_eq!(out["problem"]["code"], "not-owner");
        assert_eq!(out["problem"]["owner"], "http://b");
        assert!(out.get("repeat").is_none() && out.get("reply").is_none());
    }

    #[test]
    fn a_reply_stands_in_a_line_whatever_it_is() {
        let of = |body: &[u8]| {
            let mut out = OutcomeOut::of(1, "i", Err(Problem::new(Code::NotReady, "")));
            out.reply(body);
            serde_json::to_string(&out).unwrap()
        };
        assert!(of(b"{ \"a\" :\n 1.0 }").contains("\"reply\":{\"a\":1.0}"));
        assert!(of(b"plain\ntext").contains("\"reply_text\":\"plain\\ntext\""));
        assert!(of(b"\xff").contains("\"reply_base64\":\"_w\""));
    }
}
