//! The changes of a plugin's states, for whoever keeps a copy of them: a page at a time, or as a stream of
//! server-sent events.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::walk::{Asked, ChangeItem, Missing, Walk};
use super::auth::Principal;
use super::conditions::PARTITIONS;
use super::context::App;
use super::params::{self, Params, Segments};
use super::{access, views};
use crate::error::{Code, Problem};
use crate::limits;

mod stream;
mod token;
mod walk;

const EVENT_STREAM: &str = "text/event-stream";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_changes))
}

/// A page of changes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ChangePage {
    /// In the order of each partition.
    #[schema(value_type = Vec<ChangeItem>)]
    changes: Vec<Box<RawValue>>,
    /// `_since` of the next page.
    next: String,
    /// Whether the next page may have changes already.
    more: bool,
    /// The states were built anew since the token: forget what you have, all keys are told again.
    restarted: bool,
    /// The partitions whose changes are told here.
    partitions: Vec<u32>,
    /// The others; the token keeps their places.
    missing: Vec<Missing>,
}

/// Follow the changes of a plugin's states
///
/// For plugins with `changes = true`: after a token, the last change of every key that has changed since, at least once,
/// in the order of each partition, as soon as it is committed; without a token, all keys first. With `Accept:
/// text/event-stream` it goes on for ever: events `change` (its id is the token behind it), `restarted` (all keys are
/// told again), `missing` (partitions that other hosts have) and `problem` (the last one), a comment every 15 seconds.
/// Parameters that do not begin with `_` are arguments of the default query.
#[utoipa::path(
    get, path = "/v1/views/{plugin}/changes", tag = "views",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("_since" = Option<String>, Query, description = "`next` of the page before, or the id of an event"),
        ("_limit" = Option<u32>, Query, description = "Most changes on a page; 100 unless said, at most 1000"),
        ("_wait" = Option<u32>, Query, description = "Seconds to wait for a change if there is none, at most 60"),
        ("_include" = Option<String>, Query, description = "`state`: with the default query's answer, or the state of a plugin without queries"),
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event; counts instead of `_since`"),
    ),
    responses(
        (status = 200, description = "Changes", content((ChangePage = "application/json"), (ChangeItem = "text/event-stream"))),
        (status = 410, description = "Deletions since the token are not remembered any more: begin again without it"),
    )
)]
async fn list_changes(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let plugin = app.services.manager.plugin(segments.get("plugin"))?;
    let known = ["_since", "_limit", "_wait", "_include"];
    let (host, arguments) = Params::shared(&uri, &known)?;
    let streams = views::accept(&headers).contains(EVENT_STREAM);
    let limit = host.number("_limit", 1..=limits::PAGE_ITEMS_MAX)?;
    let wait = host.seconds("_wait")?;
    for (name, is_there) in [("_limit", limit.is_some()), ("_wait", wait.is_some())] {
        if streams && is_there {
            let detail = format!("a stream goes on for ever: leave {name} out, or ask for a page");
            return Err(params::bad(name, detail));
        }
    }
    let with_state = with_state(&host, &arguments)?;
    let last_event = last_event(&headers)?;
    let since = match last_event {
        Some(id) => Some(id),
        None => host.one("_since")?,
    };
    let asked = Asked {
        app: app.clone(),
        plugin: plugin.name().clone(),
        principal,
        with_state,
        arguments,
    };
    let (mut walk, restarted) = Walk::begin(asked, since)?;
    walk.require_some()?;

    let partitions: Vec<_> = walk.partitions().iter().map(u32::to_string).collect();
    let mut response = if streams {
        stream::respond(app, walk, restarted).await?
    } else {
        let limit = limit.unwrap_or(limits::PAGE_ITEMS_DEFAULT);
        let (mut told, mut more) = walk.next(limit, false).await?;
        let until = app.services.clock.elapsed() + wait.unwrap_or_default();
        while told.is_empty() && !restarted {
            let left = until.saturating_sub(app.services.clock.elapsed());
            let committed = tokio::time::timeout(left, walk.committed());
            if left.is_zero() || app.unless_stopped(committed).await?.is_err() {
                break;
            }
            // What was committed need not have changed a state.
            (told, more) = walk.next(limit, false).await?;
        }
        Json(ChangePage {
            changes: told.into_iter().map(|told| told.item).collect(),
            next: walk.token(),
            more,
            restarted,
            partitions: walk.partitions(),
            missing: walk.missing(),
        })
        .into_response()
    };
    let headers = response.headers_mut();
    headers.insert(PARTITIONS, access::ascii(partitions.join(", ")));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.append(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Whether items are to have the plugin's answer, or the state.
fn with_state(host: &Params, arguments: &[(String, String)]) -> Result<bool, Problem> {
    match (host.one("_include")?, arguments.first()) {
        (Some("state"), _) => Ok(true),
        (None, None) => Ok(false),
        (Some(other), _) => Err(params::bad(
            "_include",
            format!("'{other}' is no value of '_include': give state, or leave it out"),
        )),
        (None, Some((name, _))) => Err(params::bad(
            name,
            format!(
                "'{name}' would be an argument of the default query: ask it with _include=state"
            ),
        )),
    }
}

/// The id of the last event that the client has seen.
fn last_event(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(id) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    match id.to_str() {
        // An event source that has seen no id yet sends an empty one.
        Ok(id) => Ok(Some(id.trim()).filter(|id| !id.is_empty())),
        Err(_) => Err(Problem::new(
            Code::BadChangesToken,
            "Last-Event-ID is not ASCII: send the id of an event as it is",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_counts_where_there_was_one() {
        let of = |id: &str| HeaderMap::from_iter([(LAST_EVENT_ID, id.parse().unwrap())]);
        assert_eq!(last_event(&of(" AQ ")).unwrap(), Some("AQ"));
        assert_eq!(last_event(&of("")).unwrap(), None);
        assert_eq!(last_event(&HeaderMap::new()).unwrap(), None);
        let bytes = HeaderValue::from_bytes(b"\xff").unwrap();
        assert!(last_event(&HeaderMap::from_iter([(LAST_EVENT_ID, bytes)])).is_err());
    }

    #[test]
    fn only_the_state_can_be_included() {
        let of = |text: &str| {
            let uri: Uri = text.parse().unwrap();
            let (host, arguments) = Params::shared(&uri, &["_include"]).unwrap();
            with_state(&host, &arguments)
        };
        assert!(of("/x?_include=state&a=b").unwrap());
        assert!(!of("/x").unwrap());
        for bad in ["/x?_include=states", "/x?_include=", "/x?a=b"] {
            assert_eq!(of(bad).unwrap_err().code, Code::BadParameter, "{bad}");
        }
    }
}
