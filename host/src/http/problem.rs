//! Problems as HTTP answers (RFC 9457): where each kind of error of the layers below gets its code, and
//! where a [`Problem`] becomes a document. Handlers return problems; `middleware` renders them once,
//! when it knows the request's id.
//!
//! Invariant: every answer with an error status has a document with a stable `code`, a `detail` that
//! says what to do, and the request's id.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use super::conditions::OWNER;
use crate::error::{Code, Problem};
use crate::log::LogError;
use crate::plugin::{CallError, QueryError};
use crate::state::StateError;

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");
/// What `Retry-After` says, in seconds, on answers that may be others soon.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a request was not done (RFC 9457). Some codes add members of their own, such as `line`,
/// `argument`, `faults`, `owner`, `lag`, `routes`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument<'a> {
    /// `urn:foldhost:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// What the code means, always the same words.
    title: &'static str,
    /// The status, again.
    status: u16,
    /// Stable: programs decide by it.
    code: &'static str,
    /// What is wrong here, and what to do.
    detail: &'a str,
    /// Path of the request.
    instance: &'a str,
    /// As in the header `Foldhost-Request-Id`.
    request_id: &'a str,
    /// Further members of this code.
    #[serde(flatten)]
    #[schema(ignore)]
    members: Map<String, Value>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = StatusCode::from_u16(self.code.status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            .into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives an answer with an error status its document; headers that it has already stay.
pub(super) fn render(response: Response, instance: &str, request_id: &str) -> Response {
    let (mut parts, _) = response.into_parts();
    let problem = parts
        .extensions
        .remove::<Problem>()
        .unwrap_or_else(|| foreign(parts.status));
    report(&problem, instance, request_id);
    headers(&problem, &mut parts.headers);
    let document = ProblemDocument {
        kind: format!("urn:foldhost:problem:{}", problem.code),
        title: problem.code.title(),
        status: problem.code.status(),
        code: problem.code.as_str(),
        detail: &problem.detail,
        instance,
        request_id,
        members: problem
            .members
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    };
    let body = serde_json::to_vec(&document).expect("texts, numbers and JSON values serialise");
    Response::from_parts(parts, Body::from(body))
}

/// A problem as one part of an answer that has others.
pub(super) fn brief(problem: &Problem) -> Value {
    let own = [
        ("code", Value::from(problem.code.as_str())),
        ("title", Value::from(problem.code.title())),
        ("detail", Value::from(problem.detail.as_str())),
    ];
    let members = problem.members.iter().cloned();
    let named = own.into_iter().chain(members);
    named
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// A problem for an answer that a library below made, which knows a status only.
fn foreign(status: StatusCode) -> Problem {
    let code = match status.as_u16() {
        404 => Code::UnknownRoute,
        405 => Code::MethodNotAllowed,
        413 => Code::TooLarge,
        415 => Code::UnsupportedMediaType,
        500.. => Code::Internal,
        _ => Code::BadRequest,
    };
    let words = status.canonical_reason().unwrap_or("refused");
    Problem::new(
        code,
        format!("the request was refused before it was read: {words}"),
    )
}

fn report(problem: &Problem, instance: &str, request_id: &str) {
    let code = problem.code.as_str();
    if matches!(problem.code, Code::Internal | Code::PluginTrapped) {
        tracing::error!(
            request_id,
            instance,
            code,
            detail = problem.detail,
            "a request failed"
        );
    } else {
        tracing::debug!(
            request_id,
            instance,
            code,
            detail = problem.detail,
            "a request was refused"
        );
    }
}

fn headers(problem: &Problem, headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, MEDIA_TYPE);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.remove(header::CONTENT_LENGTH);
    match problem.code.status() {
        401 => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        503 => {
            headers
                .entry(header::RETRY_AFTER)
                .or_insert(RETRY_AFTER_SECONDS);
        }
        _ => {}
    }
    if problem.code == Code::NotOwner {
        let owner = problem.members.iter().find(|(name, _)| *name == "owner");
        let url = owner.and_then(|(_, url)| HeaderValue::from_str(url.as_str()?).ok());
        if let Some(url) = url {
            headers.insert(OWNER, url);
        }
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        let detail = error.to_string();
        match error {
            LogError::Unavailable(_) => Self::new(Code::LogUnavailable, detail),
            LogError::UnknownTopic(topic) => {
                Self::new(Code::UnknownTopic, detail).with("topic", topic.as_str())
            }
            LogError::UnknownPartition(of) => {
                Self::new(Code::UnknownPartition, detail).with("partition", of.partition.0)
            }
            LogError::TopicExists(topic) => {
                Self::new(Code::TopicExists, detail).with("topic", topic.as_str())
            }
            LogError::RecordTooLarge {
                bytes, bytes_max, ..
            } => Self::new(Code::TooLarge, detail)
                .with("bytes", bytes)
                .with("bytes_max", bytes_max),
            LogError::OffsetOutOfRange { range, .. } => Self::new(Code::BadParameter, detail)
                .with("parameter", "offset")
                .with("start", range.start.0)
                .with("end", range.end.0),
            LogError::OutcomeUnknown(_) => Self::new(
                Code::OutcomeUnknown,
                format!("{detail}; read the topic to see whether the records are there"),
            ),
            _ => Self::new(Code::Internal, detail),
        }
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        let code = match error {
            StateError::Unavailable(_) | StateError::NotWritable(_) | StateError::Fenced(_) => {
                Code::StateUnavailable
            }
            _ => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        Self::new(
            Code::PluginTrapped,
            format!("{error}; its state is untouched, the next question gets a fresh instance"),
        )
    }
}

/// The plugin's word that a question has no answer, as a problem; `queries` are the names that it
/// describes.
pub(super) fn of_query(error: QueryError, name: &str, queries: &[&str]) -> Problem {
    match error {
        QueryError::UnknownQuery => unknown_query(name, queries),
        QueryError::BadArgument(argument, expected) => Problem::new(
            Code::BadArgument,
            format!("argument '{argument}': {expected}"),
        )
        .with("argument", argument),
        QueryError::NotFound => Problem::new(
            Code::NotFound,
            "the plugin has nothing to say about this key",
        ),
        QueryError::Other(code, reason) => {
            Problem::new(Code::PluginRefused, reason).with("plugin_code", code)
        }
    }
}

/// A plugin has no query of this name.
pub(super) fn unknown_query(name: &str, queries: &[&str]) -> Problem {
    let named: Vec<_> = queries
        .iter()
        .copied()
        .filter(|query| !query.is_empty())
        .collect();
    let has_default = named.len() < queries.len();
    let offer = match (named.is_empty(), has_default) {
        (false, true) => format!(
            "it has {}, and a default one without a name",
            named.join(", ")
        ),
        (false, false) => format!("it has {}", named.join(", ")),
        (true, true) => "it has only the default one, without a name".to_owned(),
        (true, false) => "it has no queries, only the state itself".to_owned(),
    };
    let detail = if name.is_empty() {
        format!("the plugin has no default query: {offer}")
    } else {
        format!("the plugin has no query '{name}': {offer}")
    };
    Problem::new(Code::UnknownQuery, detail).with("queries", named)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn document(response: Response) -> (HeaderMap, Value) {
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (parts.headers, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_problem_becomes_a_whole_document() {
        let problem = Problem::new(Code::NotOwner, "another host owns it")
            .with("owner", "http://b:8080")
            .with("partition", 3);
        let response = render(problem.into_response(), "/v1/x", "r1");
        assert_eq!(response.status(), 421);
        let (headers, document) = document(response).await;
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(headers["foldhost-owner"], "http://b:8080");
        for (name, value) in [
            ("type", Value::from("urn:foldhost:problem:not-owner")),
            ("status", 421.into()),
            ("code", "not-owner".into()),
            ("instance", "/v1/x".into()),
            ("request_id", "r1".into()),
            ("partition", 3.into()),
        ] {
            assert_eq!(document[name], value, "{name}");
        }
    }

    #[tokio::test]
    async fn an_answer_of_a_library_becomes_a_problem_too() {
        let (_, document) = document(render(
            StatusCode::METHOD_NOT_ALLOWED.into_response(),
            "/",
            "r",
        ))
        .await;
        assert_eq!(document["code"], "method-not-allowed");
        let busy = render(
            Problem::new(Code::Replaying, "soon").into_response(),
            "/",
            "r",
        );
        assert!(busy.headers().contains_key("retry-after"));
        let who = render(
            Problem::new(Code::Unauthorized, "who").into_response(),
            "/",
            "r",
        );
        assert_eq!(who.headers()["www-authenticate"], "Bearer");
    }

    #[test]
    fn an_unknown_query_names_the_known_ones() {
        let problem = of_query(QueryError::UnknownQuery, "nope", &["", "by-day"]);
        assert!(problem.detail.contains("'nope'") && problem.detail.contains("by-day"));
        let problem = of_query(
            QueryError::BadArgument("from".into(), "a time".into()),
            "",
            &[],
        );
        assert_eq!(problem.members, [("argument", Value::from("from"))]);
    }
}
