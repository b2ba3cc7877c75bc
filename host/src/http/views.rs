//! Questions about one key of a view: by the plugin's queries, or its state as it is.
//!
//! Invariant: an answer comes from one state of the key, and its `ETag` names exactly the events and the
//! code that it comes from; an answer that depends on the clock or the caller has none.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::{self, Progress, Version};
use super::auth::Principal;
use super::conditions::{self, Conditions};
use super::context::App;
use super::params::{Params, Segments};
use super::{body, encoding, problem};
use crate::error::{Code, Problem};
use crate::limits;
use crate::manager::Plugin;
use crate::partition::{CodeInUse, Lookup, PartitionHandle};
use crate::plugin::{CallContext, Inspection, Kind, Operation, Payload, Question};
use crate::state::KeyState;
use crate::types::KeyFormat;

/// How the path writes the empty key, which base64 writes as nothing.
const EMPTY_KEY: &str = "=";
/// Headers that a plugin never gets to see: they are between the client and the host.
const WITHHELD_HEADERS: [header::HeaderName; 3] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
];

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(default_query))
        .routes(routes!(named_query))
        .routes(routes!(default_query_base64))
        .routes(routes!(named_query_base64))
}

/// Ask a view about a key
///
/// The plugin's default query answers; a plugin without queries gives the state itself. Parameters that
/// do not begin with `_` are the query's arguments; a `POST` may bring a body for the plugin.
#[utoipa::path(
    method(get, post), path = "/v1/views/{plugin}/keys/{key}", tag = "views",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("key" = String, Path, description = "The key, as the plugin writes its keys; percent-encoded"),
        ("Foldhost-Min-Position" = Option<String>, Header,
            description = "Records that the answer must include: a comma list of topic/partition@offset"),
        ("Prefer" = Option<String>, Header, description = "wait=<seconds>: how long to wait for them; 5 unless said, at most 60"),
        ("Foldhost-Max-Lag" = Option<u64>, Header,
            description = "How many records behind an answer may be while the view reads its backlog"),
        ("If-None-Match" = Option<String>, Header, description = "Tag of the answer that the client has"),
    ),
    responses(
        (status = 200, description = "The plugin's answer, of the type that it says", headers(
            ("ETag" = String, description = "<generation>.<partition>.<offset of the last change>-<code>; none where the answer depends on the clock or the caller"),
            ("Foldhost-Position" = String, description = "topic/partition@offset of the last folded record"),
            ("Foldhost-Lag" = u64, description = "How many records behind the log the answer is"),
        )),
        (status = 304, description = "The client has the answer"),
    )
)]
async fn default_query(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    ask(&app, &principal, &segments, KeyForm::Text, request).await
}

/// Ask a view one of its named queries about a key
///
/// As the default query; the plugin's description lists the names.
#[utoipa::path(
    method(get, post), path = "/v1/views/{plugin}/keys/{key}/{query}", tag = "views",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("key" = String, Path, description = "The key, as the plugin writes its keys; percent-encoded"),
        ("query" = String, Path, description = "Name of the query"),
    ),
    responses(
        (status = 200, description = "The plugin's answer, of the type that it says"),
        (status = 304, description = "The client has the answer"),
    )
)]
async fn named_query(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    ask(&app, &principal, &segments, KeyForm::Text, request).await
}

/// Ask a view about a key of any bytes
///
/// As `/keys/{key}`, with the key's bytes in base64url; `=` alone is the empty key.
#[utoipa::path(
    method(get, post), path = "/v1/views/{plugin}/keys-b64/{key}", tag = "views",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("key" = String, Path, description = "The key's bytes in base64url"),
    ),
    responses(
        (status = 200, description = "The plugin's answer, of the type that it says"),
        (status = 304, description = "The client has the answer"),
    )
)]
async fn default_query_base64(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    ask(&app, &principal, &segments, KeyForm::Base64, request).await
}

/// Ask a view one of its named queries about a key of any bytes
///
/// As `/keys/{key}/{query}`, with the key's bytes in base64url; `=` alone is the empty key.
#[utoipa::path(
    method(get, post), path = "/v1/views/{plugin}/keys-b64/{key}/{query}", tag = "views",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("key" = String, Path, description = "The key's bytes in base64url"),
        ("query" = String, Path, description = "Name of the query"),
    ),
    responses(
        (status = 200, description = "The plugin's answer, of the type that it says"),
        (status = 304, description = "The client has the answer"),
    )
)]
async fn named_query_base64(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    ask(&app, &principal, &segments, KeyForm::Base64, request).await
}

/// How a path writes a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeyForm {
    /// As the plugin writes its keys.
    Text,
    /// Its bytes in base64url.
    Base64,
}

/// One question, from its key to its answer.
async fn ask(
    app: &App,
    principal: &Principal,
    segments: &Segments,
    form: KeyForm,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, request_body) = request.into_parts();
    let plugin = app.services.manager.plugin(segments.get("plugin"))?;
    let key = key(&plugin, segments.get("key"), form)?;
    let (_, arguments) = Params::shared(&parts.uri, &[])?;
    let conditions = Conditions::of(&parts.headers)?;
    let content = content(app, &parts, request_body).await?;

    let partition = plugin.deployment().partition_of(&key);
    let (mut handle, status) = access::ready(app, &plugin, partition, &conditions).await?;
    let Lookup {
        state,
        next,
        lag_events,
        ..
    } = access::state(app, &plugin, partition, &mut handle, &key).await?;

    let topic = access::topic(&handle).clone();
    let code = handle.code();
    let inspection = code.code.inspection();
    let query = segments.find("query").unwrap_or_default();
    let operation = inspection
        .description
        .queries
        .iter()
        .find(|offered| offered.name == query);
    let asked = Asked {
        app,
        principal,
        plugin: &plugin,
        handle: &handle,
        code: &code,
        inspection,
        operation,
        parts: &parts,
    };

    let etag = asked.etag(state.as_ref());
    let is_handler = inspection.kind == Kind::CommandHandler;
    let versioned = state
        .as_ref()
        .filter(|_| is_handler)
        .map(|state| state.version());
    let known = etag
        .as_ref()
        .is_some_and(|tag| conditions::has_already(&parts.headers, tag));
    let answer = if known {
        Ok(StatusCode::NOT_MODIFIED.into_response())
    } else {
        asked.answer(key, state, query, arguments, content).await
    };
    let progress = Progress {
        partition,
        start: status.start,
        next,
        lag_events,
    };
    // What the plugin says about a key is as old as a refusal of it: both carry the position.
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    let headers = response.headers_mut();
    access::stamp(headers, &topic, &[progress], &conditions);
    if response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED {
        if let Some(version) = versioned {
            response
                .headers_mut()
                .insert(access::VERSION, HeaderValue::from(version));
        }
        cacheable(response.headers_mut(), etag);
    }
    Ok(response)
}

/// The bytes of a key as the path writes it.
pub(super) fn key(plugin: &Plugin, text: &str, form: KeyForm) -> Result<Bytes, Problem> {
    let bad = |detail: String| Problem::new(Code::BadKey, detail).with("key", text);
    match form {
        KeyForm::Text => plugin
            .deployment()
            .manifest
            .key
            .parse(text)
            .map_err(|error| bad(error.to_string())),
        KeyForm::Base64 if text == EMPTY_KEY => Ok(Bytes::new()),
        KeyForm::Base64 => {
            let key = encoding::from_base64(text)
                .map_err(|error| bad(format!("'{text}' is not base64url: {error}")))?;
            // Keys of the other formats have any length, and any bytes in spite of their name.
            let format = plugin.deployment().manifest.key;
            let is_fixed = matches!(format, KeyFormat::I32 | KeyFormat::I64 | KeyFormat::Uuid);
            if is_fixed && format.format(&key).is_none() {
                let name = plugin.name();
                return Err(bad(format!(
                    "the {} bytes of '{text}' are no key of {name}",
                    key.len()
                )));
            }
            Ok(Bytes::from(key))
        }
    }
}

/// The body of a question, where one was sent.
async fn content(app: &App, parts: &Parts, body: Body) -> Result<Option<Payload>, Problem> {
    if parts.method != Method::POST {
        return Ok(None);
    }
    let what = "the body of the question";
    let held = body::read(app, body, limits::QUESTION_BYTES_MAX, what).await?;
    let content_type = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    Ok(match (held.bytes.is_empty(), content_type) {
        (true, None) => None,
        (_, content_type) => Some(Payload {
            content_type: content_type
                .unwrap_or("application/octet-stream")
                .to_owned(),
            body: held.bytes.to_vec(),
        }),
    })
}

/// A question on its way to the plugin.
struct Asked<'a> {
    app: &'a App,
    principal: &'a Principal,
    plugin: &'a Plugin,
    handle: &'a PartitionHandle,
    code: &'a CodeInUse,
    inspection: &'a Inspection,
    operation: Option<&'a Operation>,
    parts: &'a Parts,
}

impl Asked<'_> {
    /// The tag of the answer, in its quotes: only where the answer follows from the state alone.
    fn etag(&self, state: Option<&KeyState>) -> Option<String> {
        let depends_on_more = self.parts.method == Method::POST
            || self.operation.is_some_and(|query| query.uses_context);
        let is_offered = self.operation.is_some() || !self.inspection.capabilities.query;
        let state = state.filter(|_| !depends_on_more && is_offered)?;
        Some(Version::of(self.handle, self.code, state).etag())
    }

    async fn answer(
        &self,
        key: Bytes,
        state: Option<KeyState>,
        query: &str,
        arguments: Vec<(String, String)>,
        content: Option<Payload>,
    ) -> Result<Response, Problem> {
        if !self.inspection.capabilities.query {
            return self.state_itself(state, query);
        }
        let question = Question {
            name: query.to_owned(),
            arguments,
            content,
            accept: accept(&self.parts.headers),
            context: self.context(state.as_ref()),
        };
        let state = state.map(|state| state.state);
        let payload = self
            .plugin
            .answer(self.code, key, state, question)
            .await?
            .map_err(|error| problem::of_query(error, query, &self.query_names()))?;
        let content_type = HeaderValue::try_from(payload.content_type)
            .unwrap_or(HeaderValue::from_static("application/octet-stream"));
        Ok(answered(content_type, payload.body.into()))
    }

    /// What a plugin without queries answers: its state's bytes.
    fn state_itself(&self, state: Option<KeyState>, query: &str) -> Result<Response, Problem> {
        if !query.is_empty() {
            return Err(problem::unknown_query(query, &[]));
        }
        let Some(state) = state else {
            return Err(Problem::new(
                Code::NoState,
                format!(
                    "the key has no state in {}: no event has made one",
                    self.plugin.name()
                ),
            ));
        };
        const TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");
        Ok(answered(TYPE, state.state))
    }

    fn query_names(&self) -> Vec<&str> {
        self.inspection
            .description
            .queries
            .iter()
            .map(|query| query.name.as_str())
            .collect()
    }

    /// What the host knows about the call, for operations that say they use it; for the others it is
    /// empty, so that their answers cannot depend on it.
    fn context(&self, state: Option<&KeyState>) -> CallContext {
        if !self.operation.is_some_and(|query| query.uses_context) {
            return CallContext::default();
        }
        CallContext {
            now_ms: self.app.services.clock.now_ms(),
            version: state.map(|state| state.changed_at.0),
            changed_at_ms: state.map(|state| state.changed_at_ms),
            principal: self.principal.name().map(str::to_owned),
            headers: passed_on(&self.parts.headers),
        }
    }
}

/// An answer, with room for the headers that it gets on its way out: their table does not grow under them.
fn answered(content_type: HeaderValue, body: Bytes) -> Response {
    const HEADERS: usize = 12;
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(header::CONTENT_TYPE, content_type);
    response
}

/// The headers that a plugin gets to see.
pub(super) fn passed_on(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let headers = headers.iter();
    headers
        .filter(|(name, _)| !WITHHELD_HEADERS.contains(name))
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

/// The media types that the caller accepts, as one list.
pub(super) fn accept(headers: &HeaderMap) -> String {
    let mut values = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut accept = values.next().unwrap_or_default().to_owned();
    for value in values {
        accept.push_str(", ");
        accept.push_str(value);
    }
    accept
}

/// Caches may keep an answer with a tag, and must ask whether it still holds.
fn cacheable(headers: &mut HeaderMap, etag: Option<String>) {
    let control = if etag.is_some() {
        "no-cache"
    } else {
        "no-store"
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
    headers.append(header::VARY, HeaderValue::from_static("accept"));
    if let Some(etag) = etag {
        headers.insert(header::ETAG, access::ascii(etag));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_types_become_one_list() {
        let mut headers = HeaderMap::new();
        assert_eq!(accept(&headers), "");
        headers.append(header::ACCEPT, "application/json".parse().unwrap());
        headers.append(header::ACCEPT, "text/csv;q=0.5".parse().unwrap());
        assert_eq!(accept(&headers), "application/json, text/csv;q=0.5");
    }

    #[test]
    fn an_answer_without_a_tag_is_not_kept() {
        let mut headers = HeaderMap::new();
        cacheable(&mut headers, None);
        assert_eq!(headers["cache-control"], "no-store");
        cacheable(&mut headers, Some("\"1.0.7-00112233\"".into()));
        assert_eq!(headers["etag"], "\"1.0.7-00112233\"");
        assert_eq!(headers["cache-control"], "no-cache");
    }
}
