//! From a command that was read to what came of it, however it was sent: whose partition decides it, whether it may be
//! asked at all, and how outcomes and faults are told. Called by the routes beside it.
//!
//! Invariant: a fault is told so that its reader knows whether anything was done, and what to do.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{Code, Problem};
use crate::http::access::{self, Version};
use crate::http::conditions::POSITION;
use crate::http::context::App;
use crate::limits;
use crate::manager::Plugin;
use crate::partition::{
    Answer, CodeInUse, CommandFault, Expects, Outcome, PartitionHandle, Settled, TRY_AGAIN,
    bad_body,
};
use crate::plugin::manifest::ExpectedVersion;
use crate::plugin::{Inspection, Payload};
use crate::types::Partition;

/// Whether an answer is that of an earlier command with the same idempotency key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The partition that decides about a key.
pub(super) struct Owner<'a> {
    plugin: &'a Plugin,
    partition: Partition,
    code: Arc<CodeInUse>,
    /// It.
    pub(super) handle: PartitionHandle,
}

/// What came of a command.
pub(super) struct Told {
    code: Arc<CodeInUse>,
    answer: Answer,
}

impl<'a> Owner<'a> {
    /// Finds it, and checks what can be checked before a command waits for its turn.
    pub(super) fn of(
        app: &App,
        plugin: &'a Plugin,
        key: &[u8],
        expects: &Expects,
    ) -> Result<Self, Problem> {
        let partition = plugin.deployment().partition_of(key);
        let handle = access::local(app, plugin, partition)?;
        let code = handle.code();
        let inspection = code.code.inspection();
        check_version_is_known(inspection, expects)?;
        if !inspection.capabilities.fold && *expects != Expects::Anything {
            return Err(Problem::new(
                Code::BadEtag,
                format!(
                    "'{}' has no states, and so no versions: leave the condition out",
                    plugin.name()
                ),
            ));
        }
        Ok(Self {
            plugin,
            partition,
            code,
            handle,
        })
    }

    /// What came of the command of this name.
    pub(super) fn told(
        self,
        command: &str,
        answered: Result<Answer, CommandFault>,
    ) -> Result<Told, Problem> {
        match answered {
            Ok(answer) => Ok(Told {
                code: self.code,
                answer,
            }),
            Err(fault) => Err(self.problem(command, fault)),
        }
    }

    /// Why a command has no outcome.
    fn problem(&self, command: &str, fault: CommandFault) -> Problem {
        let Self {
            partition, handle, ..
        } = self;
        let name = self.plugin.name();
        let inspection = self.code.code.inspection();
        match fault {
            CommandFault::NotDeciding => {
                let status = handle.status();
                let why = match (&status.blocked, status.fault()) {
                    (Some(blocked), _) => format!("it is blocked: {}", blocked.detail),
                    (None, Some(error)) => format!("it keeps trying after an error: {error}"),
                    (None, None) => format!("it is {}", access::phase_words(status.phase)),
                };
                Problem::new(
                    Code::Replaying,
                    format!(
                        "partition {partition} of {name} takes no commands now: {why}. Nothing was done; send the \
                         command again in a moment"
                    ),
                )
                .with("partition", partition.0)
                .with("lag", status.lag_events)
            }
            CommandFault::QueueFull => Problem::new(
                Code::CommandsFull,
                format!(
                    "{} commands wait for partition {partition} of {name}, as many as may: nothing was done; send \
                     the command again in a moment",
                    limits::COMMANDS_QUEUED_MAX
                ),
            ),
            CommandFault::OutcomesFull => Problem::new(
                Code::OutcomesFull,
                format!(
                    "partition {partition} of {name} keeps as many outcomes as it may, each for {}, so that a repeat \
                     gets the same answer; none is forgotten early (`keep-outcomes` in plugin.toml says for how \
                     long). Nothing was done",
                    inspection.manifest.keep_outcomes_text()
                ),
            ),
            CommandFault::Behind => Problem::new(
                Code::NotReady,
                "a command before it, of the same partition, has no outcome: nothing was done; send both again, in \
                 their order",
            ),
            CommandFault::Unknown(why) => Problem::new(
                Code::OutcomeUnknown,
                format!(
                    "whether the command was done is unknown ({why}): send it again with the same idempotency key, \
                     which tells"
                ),
            ),
            CommandFault::OtherRequest => Problem::new(
                Code::IdempotencyConflict,
                "this idempotency key belongs to another command (another key, name or body): a new command needs \
                 a new one",
            ),
            CommandFault::UnknownCommand => {
                let offered = inspection.description.commands.iter();
                let offered: Vec<_> = offered.map(|command| command.name.as_str()).collect();
                Problem::new(
                    Code::UnknownCommand,
                    format!(
                        "{name} has no command '{command}': it has {}",
                        offered.join(", ")
                    ),
                )
                .with("commands", offered)
            }
            CommandFault::BadBody { field, problem } => {
                Problem::new(Code::BadBody, bad_body(&field, &problem)).with("field", field)
            }
            CommandFault::Failed { code, detail } => {
                let (of, advice) = match code.as_str() {
                    TRY_AGAIN => (Code::NotReady, "nothing was done; send it again"),
                    _ => (
                        Code::PluginTrapped,
                        "nothing was done, and the partition goes on",
                    ),
                };
                Problem::new(of, format!("{detail}: {advice}")).with("fault", code)
            }
        }
    }
}

impl Told {
    /// Why it was not done, if it was not.
    pub(super) fn refusal(&self) -> Option<Problem> {
        let outcome = &self.answer.outcome;
        match &outcome.what {
            Settled::Accepted { .. } => None,
            Settled::Refused {
                code,
                reason,
                details,
            } => {
                let problem = Problem::new(Code::CommandRefused, reason).with("refusal", &**code);
                Some(match serde_json::from_str::<Value>(details) {
                    Ok(details) => problem.with("details", details),
                    Err(_) => problem,
                })
            }
            Settled::Stale => {
                let now = match outcome.version {
                    Some(version) => format!("its state has version {version}"),
                    None => "it has no state".to_owned(),
                };
                let problem = Problem::new(
                    Code::PreconditionFailed,
                    format!(
                        "the command was meant for another version of the key: {now}; read it again"
                    ),
                );
                Some(problem.with("version", outcome.version))
            }
        }
    }

    /// The handler's reply, or what was written; nothing where it was not done.
    pub(super) fn reply(&self) -> Option<Payload> {
        let Settled::Accepted { events, reply } = &self.answer.outcome.what else {
            return None;
        };
        Some(reply.clone().unwrap_or_else(|| {
            let mut done = json!({ "events": events });
            if let Some(version) = self.version() {
                done["version"] = json!(version);
            }
            Payload {
                content_type: "application/json".to_owned(),
                body: done.to_string().into_bytes(),
            }
        }))
    }

    /// Version of the key's state after it.
    pub(super) fn version(&self) -> Option<u64> {
        let Outcome { version, .. } = self.answer.outcome;
        version
    }

    /// The record that whoever reads the events must have folded.
    pub(super) fn position(&self) -> Option<String> {
        self.answer.position.as_ref().map(ToString::to_string)
    }

    /// Whether this is the first answer of an earlier command again.
    pub(super) fn is_repeat(&self) -> bool {
        self.answer.is_repeat
    }

    fn stamp(&self, headers: &mut HeaderMap) {
        if let Some(version) = self.version() {
            headers.insert(access::VERSION, HeaderValue::from(version));
            let tag = Version::of_events(&self.code, version).etag();
            headers.insert(header::ETAG, access::ascii(tag));
        }
        if let Some(position) = self.position() {
            headers.insert(POSITION, access::ascii(position));
        }
        if self.is_repeat() {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

impl IntoResponse for Told {
    fn into_response(self) -> Response {
        let mut response = match (self.refusal(), self.reply()) {
            (Some(problem), _) => problem.into_response(),
            (None, reply) => {
                let reply = reply.expect("what is not refused is done");
                let content_type = HeaderValue::try_from(reply.content_type)
                    .unwrap_or(HeaderValue::from_static("application/octet-stream"));
                ([(header::CONTENT_TYPE, content_type)], reply.body).into_response()
            }
        };
        self.stamp(response.headers_mut());
        response
    }
}

fn check_version_is_known(inspection: &Inspection, expects: &Expects) -> Result<(), Problem> {
    let wanted = inspection.manifest.expected_version == ExpectedVersion::Required;
    if !wanted || *expects != Expects::Anything {
        return Ok(());
    }
    Err(Problem::new(
        Code::PreconditionRequired,
        format!(
            "'{}' takes no command that does not say for which version it is meant: send If-Match with the \
             ETag that you have seen, or If-None-Match: * where there must be nothing yet",
            inspection.manifest.name
        ),
    ))
}
