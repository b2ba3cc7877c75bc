//! Commands: something is asked of the entity of a key, and its command handler says yes or no. By their names, or,
//! for those that put, patch and delete what a key holds, by the methods of HTTP.
//!
//! Invariant: what is answered is durable, the refusal too; the same `Idempotency-Key` gets the same answer again.

mod batch;
mod decide;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::decide::Owner;
use super::auth::Principal;
use super::context::App;
use super::params::{Params, Segments};
use super::views::{KeyForm, key, passed_on};
use super::{body, conditions};
use crate::error::{Code, Problem};
use crate::limits;
use crate::log::TRAVELLING_HEADERS;
use crate::manager::Plugin;
use crate::partition::{CommandRequest, Expects};
use crate::plugin::{CallContext, Command, Kind, Payload};

/// By which a repeat of a command is recognised.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(command))
        .routes(routes!(command_base64))
        .routes(routes!(put_resource, patch_resource, delete_resource))
        .routes(routes!(change_resource_base64))
        .merge(batch::routes())
}

/// Command an entity
///
/// The command handler decides on the state of the key: its events and its answer are durable before the answer
/// comes. A refusal is a 422 with the handler's code. With `If-Match` (a version, as the `ETag` of an earlier answer
/// says it) or `If-None-Match: *` (there must be no state), a command that was meant for another version is a 412
/// with the current one. Under the same `Idempotency-Key`, the same command gets its first answer again, for a day unless
/// the manifest says otherwise (`keep-outcomes`).
#[utoipa::path(
    post, path = "/v1/commands/{plugin}/{key}/{command}", tag = "commands",
    params(
        ("plugin" = String, Path, description = "Name of the command handler"),
        ("key" = String, Path, description = "The key, as the plugin writes its keys; percent-encoded"),
        ("command" = String, Path, description = "Name of the command"),
        ("Idempotency-Key" = Option<String>, Header, description = "Names this command: a repeat gets the same answer; made by the host where it is absent"),
        ("If-Match" = Option<String>, Header, description = "The versions that the state may have"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: there must be no state"),
    ),
    responses(
        (status = 200, description = "It is done: the handler's reply, or what was written", headers(
            ("Foldhost-Version" = u64, description = "Version of the key's state after it"),
            ("ETag" = String, description = "The same, with the code: <version>-<code>"),
            ("Foldhost-Position" = String, description = "topic/partition@offset: with `Foldhost-Min-Position`, a view that reads the topic includes it"),
            ("Idempotency-Key" = String, description = "The name of this command"),
        )),
        (status = 412, description = "It was meant for another version"),
        (status = 422, description = "The handler refuses it; or the idempotency key belongs to another command"),
        (status = 428, description = "The handler wants to know for which version it is meant"),
        (status = 504, description = "Whether it was done is unknown: a repeat with the same idempotency key tells"),
    )
)]
async fn command(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    let name = Named::Command(segments.get("command"));
    decide(&app, &principal, &segments, KeyForm::Text, name, request).await
}

/// Command an entity whose key is any bytes
///
/// As `/v1/commands/{plugin}/{key}/{command}`, with the key's bytes in base64url; `=` alone is the empty key.
#[utoipa::path(
    post, path = "/v1/commands/{plugin}/keys-b64/{key}/{command}", tag = "commands",
    params(
        ("plugin" = String, Path, description = "Name of the command handler"),
        ("key" = String, Path, description = "The key's bytes in base64url"),
        ("command" = String, Path, description = "Name of the command"),
    ),
    responses((status = 200, description = "As of a command whose key is text"))
)]
async fn command_base64(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    let name = Named::Command(segments.get("command"));
    decide(&app, &principal, &segments, KeyForm::Base64, name, request).await
}

/// Put what a key holds
///
/// The command `put` of a handler that has one, such as `documents`: the condition (`If-Match`, `If-None-Match: *`) is
/// about what a `GET` of the same URL gives.
#[utoipa::path(
    put, path = "/v1/views/{plugin}/keys/{key}", tag = "commands",
    params(
        ("plugin" = String, Path, description = "Name of the command handler"),
        ("key" = String, Path, description = "The key, as the plugin writes its keys; percent-encoded"),
    ),
    responses((status = 200, description = "As of the command"))
)]
async fn put_resource(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    by_method(&app, &principal, &segments, KeyForm::Text, request).await
}

/// Patch what a key holds
///
/// The command `merge-patch` of a handler that has one (RFC 7396).
#[utoipa::path(
    patch, path = "/v1/views/{plugin}/keys/{key}", tag = "commands",
    params(
        ("plugin" = String, Path, description = "Name of the command handler"),
        ("key" = String, Path, description = "The key, as the plugin writes its keys; percent-encoded"),
    ),
    responses((status = 200, description = "As of the command"))
)]
async fn patch_resource(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    by_method(&app, &principal, &segments, KeyForm::Text, request).await
}

/// Delete what a key holds
///
/// The command `delete` of a handler that has one.
#[utoipa::path(
    delete, path = "/v1/views/{plugin}/keys/{key}", tag = "commands",
    params(
        ("plugin" = String, Path, description = "Name of the command handler"),
        ("key" = String, Path, description = "The key, as the plugin writes its keys; percent-encoded"),
    ),
    responses((status = 200, description = "As of the command"))
)]
async fn delete_resource(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    by_method(&app, &principal, &segments, KeyForm::Text, request).await
}

/// Put, patch or delete what a key of any bytes holds
///
/// As `/v1/views/{plugin}/keys/{key}`, with the key's bytes in base64url; `=` alone is the empty key.
#[utoipa::path(
    method(put, patch, delete), path = "/v1/views/{plugin}/keys-b64/{key}", tag = "commands",
    params(
        ("plugin" = String, Path, description = "Name of the command handler"),
        ("key" = String, Path, description = "The key's bytes in base64url"),
    ),
    responses((status = 200, description = "As of the command"))
)]
async fn change_resource_base64(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    by_method(&app, &principal, &segments, KeyForm::Base64, request).await
}

/// The command that a method stands for.
async fn by_method(
    app: &App,
    principal: &Principal,
    segments: &Segments,
    form: KeyForm,
    request: Request,
) -> Result<Response, Problem> {
    let named = match *request.method() {
        Method::PUT => Named::Method("PUT", "put"),
        Method::PATCH => Named::Method("PATCH", "merge-patch"),
        _ => Named::Method("DELETE", "delete"),
    };
    decide(app, principal, segments, form, named, request).await
}

/// How a request names its command.
#[derive(Debug, Clone, Copy)]
enum Named<'a> {
    Command(&'a str),
    /// By this method, which stands for this command.
    Method(&'static str, &'static str),
}

/// One command, from its key to its answer.
async fn decide(
    app: &App,
    principal: &Principal,
    segments: &Segments,
    form: KeyForm,
    named: Named<'_>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, request_body) = request.into_parts();
    Params::of_host(&parts.uri, &[])?;
    let plugin = app.services.manager.plugin(segments.get("plugin"))?;
    let name = match named {
        Named::Command(name) | Named::Method(_, name) => name,
    };
    check_is_handler(&plugin, named)?;
    let key = key(&plugin, segments.get("key"), form)?;
    check_key(&key)?;
    let id = idempotency_key(app, &parts.headers)?;
    let expects = expects(&parts.headers)?;
    let content = content(app, &parts, request_body).await?;

    let owner = Owner::of(app, &plugin, &key, &expects)?;
    let request = CommandRequest {
        key,
        command: Command {
            name: name.to_owned(),
            id: id.clone(),
            content,
            context: CallContext {
                principal: principal.name().map(str::to_owned),
                headers: passed_on(&parts.headers),
                ..CallContext::default()
            },
        },
        expects,
        travelling: travelling(&parts.headers),
    };
    let answered = app.unless_stopped(owner.handle.command(request)).await?;
    let told = owner.told(name, answered);
    let mut response = told.map_or_else(IntoResponse::into_response, IntoResponse::into_response);
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(IDEMPOTENCY_KEY, id);
    }
    Ok(response)
}

fn check_is_handler(plugin: &Plugin, named: Named<'_>) -> Result<(), Problem> {
    if plugin.deployment().kind == Kind::CommandHandler {
        return Ok(());
    }
    let name = plugin.name();
    Err(match named {
        Named::Command(_) => Problem::new(
            Code::NotAHandler,
            format!(
                "'{name}' takes no commands: it is no command handler (its component does not export decide)"
            ),
        ),
        Named::Method(method, _) => Problem::new(
            Code::MethodNotAllowed,
            format!(
                "{method} is for command handlers, and '{name}' is none: it takes GET, HEAD and POST"
            ),
        ),
    })
}

fn check_key(key: &[u8]) -> Result<(), Problem> {
    let (bytes, bytes_max) = (key.len(), limits::KEY_BYTES_MAX);
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(Problem::new(
        Code::BadKey,
        format!("the key has {bytes} bytes, more than the {bytes_max} that a key may have"),
    ))
}

/// The name of a command: as it says, or a new one.
fn idempotency_key(app: &App, headers: &HeaderMap) -> Result<String, Problem> {
    let Some(given) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(app.services.clock.unique_id());
    };
    let id = given.to_str().unwrap_or_default().trim();
    if is_id(id) {
        return Ok(id.to_owned());
    }
    Err(Problem::new(
        Code::BadParameter,
        format!("Idempotency-Key: {}", id_rule()),
    )
    .with("header", IDEMPOTENCY_KEY.as_str()))
}

/// Whether a text can be the name of a command.
fn is_id(text: &str) -> bool {
    let is_visible = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    is_visible && (1..=limits::COMMAND_ID_BYTES_MAX).contains(&text.len())
}

fn id_rule() -> String {
    let bytes_max = limits::COMMAND_ID_BYTES_MAX;
    format!("write 1 to {bytes_max} visible ASCII characters, such as a UUID")
}

/// Which version a command is meant for.
fn expects(headers: &HeaderMap) -> Result<Expects, Problem> {
    let bad = |name: HeaderName, what: &str| {
        Problem::new(Code::BadEtag, format!("{name}: {what}")).with("header", name.as_str())
    };
    let none = conditions::list(headers, header::IF_NONE_MATCH);
    let these = conditions::list(headers, header::IF_MATCH);
    match (&none[..], &these[..]) {
        ([], []) => Ok(Expects::Anything),
        ([any], []) if any == "*" => Ok(Expects::Absent),
        ([], [any]) if any == "*" => Ok(Expects::Present),
        ([], tags) => {
            let versions = tags.iter().map(|tag| version(tag));
            let versions: Option<Vec<u64>> = versions.collect();
            let versions = versions.ok_or_else(|| {
                bad(
                    header::IF_MATCH,
                    "write the ETag of an earlier answer, as in \"17-0a1b2c3d\", or its version, \"17\"",
                )
            })?;
            Ok(Expects::OneOf(versions))
        }
        (_, []) => Err(bad(
            header::IF_NONE_MATCH,
            "a command takes * only: there must be no state",
        )),
        _ => Err(bad(
            header::IF_MATCH,
            "give either If-Match or If-None-Match",
        )),
    }
}

/// The version in a tag: `"17-0a1b2c3d"` or `"17"`. A tag is weak where its answer was compressed.
fn version(tag: &str) -> Option<u64> {
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    let tag = tag.strip_prefix('"')?.strip_suffix('"')?;
    let (version, code) = tag.split_once('-').unwrap_or((tag, ""));
    let is_code = code.chars().all(|it| it.is_ascii_hexdigit());
    version.parse().ok().filter(|_| is_code)
}

async fn content(app: &App, parts: &Parts, body: axum::body::Body) -> Result<Payload, Problem> {
    let held = body::read(
        app,
        body,
        limits::COMMAND_BODY_BYTES_MAX,
        "the body of a command",
    )
    .await?;
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    Ok(Payload {
        content_type: content_type.unwrap_or("application/json").to_owned(),
        body: held.bytes.to_vec(),
    })
}

fn travelling(headers: &HeaderMap) -> Vec<(String, Bytes)> {
    let found = TRAVELLING_HEADERS.iter().filter_map(|name| {
        let value = headers.get(*name)?.as_bytes();
        (value.len() <= limits::TRAVELLING_HEADER_BYTES_MAX)
            .then(|| ((*name).to_owned(), Bytes::copy_from_slice(value)))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_condition_names_versions() {
        let these = |value| expects(&of(header::IF_MATCH, value));
        assert_eq!(expects(&HeaderMap::new()).unwrap(), Expects::Anything);
        assert_eq!(these("*").unwrap(), Expects::Present);
        assert_eq!(these("\"17-0a1b2c3d\"").unwrap(), Expects::OneOf(vec![17]));
        assert_eq!(
            these("\"1\", W/\"2-ff\"").unwrap(),
            Expects::OneOf(vec![1, 2])
        );
        for bad in ["17", "\"x\"", "\"17-zz\"", "\"-1\"", "\"\""] {
            assert_eq!(these(bad).unwrap_err().code, Code::BadEtag, "{bad}");
        }
        let none = |value| expects(&of(header::IF_NONE_MATCH, value));
        assert_eq!(none("*").unwrap(), Expects::Absent);
        assert_eq!(none("\"17\"").unwrap_err().code, Code::BadEtag);
        let mut both = of(header::IF_MATCH, "\"1\"");
        both.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        assert_eq!(expects(&both).unwrap_err().code, Code::BadEtag);
    }
}
