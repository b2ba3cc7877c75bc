//! All keys of a view that this host has: a page at a time, or as one stream of lines.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::{self, Progress};
use super::auth::Principal;
use super::conditions::{Conditions, PARTITIONS};
use super::context::App;
use super::cursor::Cursor;
use super::listing::{Asking, Items, KeyItem, Listing, Walk};
use super::params::{self, Params, Segments};
use super::{problem, views};
use crate::error::{Code, Problem};
use crate::limits;
use crate::manager::Plugin;
use crate::partition::{CodeInUse, PartitionHandle};
use crate::plugin::CallContext;
use crate::types::{KeyFormat, Partition};

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_keys))
}

/// A page of keys.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct KeyPage {
    /// In order of partition, then of the keys' bytes.
    #[schema(value_type = Vec<KeyItem>)]
    keys: Vec<Box<RawValue>>,
    /// `_cursor` of the next page; null = this is the last.
    next: Option<String>,
    /// The partitions that are listed here.
    partitions: Vec<u32>,
    /// The partitions that other hosts have: ask there for their keys.
    elsewhere: Vec<Elsewhere>,
}

/// A partition that is not listed here.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Elsewhere {
    /// Number of the partition.
    pub(super) partition: u32,
    /// URL of the host that owns it; null = nobody does right now.
    pub(super) owner: Option<String>,
}

/// List the keys of a view, with the default query's answer for each
///
/// Covers the partitions that this host owns. With `Accept: application/x-ndjson` all keys come as one
/// stream of lines; a stream that cannot go on ends with a line `{"problem": …}`. Parameters that do
/// not begin with `_` are arguments of the default query.
#[utoipa::path(
    get, path = "/v1/views/{plugin}/keys", tag = "views",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("_prefix" = Option<String>, Query, description = "Only keys that begin so (text keys; base64url for keys of bytes)"),
        ("_limit" = Option<u32>, Query, description = "Most keys on a page; 100 unless said, at most 1000"),
        ("_cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("_partition" = Option<u32>, Query, description = "Only this partition"),
        ("Foldhost-Min-Position" = Option<String>, Header, description = "As for a question about a key"),
        ("Foldhost-Max-Lag" = Option<u64>, Header, description = "As for a question about a key"),
    ),
    responses((status = 200, description = "Keys", content((KeyPage = "application/json"), (KeyItem = "application/x-ndjson"))))
)]
async fn list_keys(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let plugin = app.services.manager.plugin(segments.get("plugin"))?;
    let (host, arguments) = Params::shared(&uri, &["_prefix", "_limit", "_cursor", "_partition"])?;
    let streams = views::accept(&headers).contains("application/x-ndjson");
    let limit = host.number("_limit", 1..=limits::PAGE_ITEMS_MAX)?;
    if streams && limit.is_some() {
        return Err(params::bad(
            "_limit",
            "a stream has all keys: leave _limit out, or ask for a page",
        ));
    }
    let cursor = host.one("_cursor")?.map(Cursor::decode).transpose()?;
    let only = host
        .number("_partition", 0..=limits::PARTITIONS_MAX)?
        .map(Partition);
    let prefix = prefix(plugin.deployment().manifest.key, host.one("_prefix")?)?;

    let (mut partitions, elsewhere) = partitions(&app, &plugin, only)?;
    let conditions = Conditions::of(&headers)?;
    let progress = ready(&app, &plugin, &mut partitions, &conditions).await?;
    let topic = access::topic(&partitions[0].1).clone();
    let code = partitions[0].1.code();
    let asking = asking(&app, &code, &principal, arguments)?;
    let listing = Listing {
        plugin: plugin.clone(),
        partitions,
        prefix,
        asking,
    };
    let walk = listing.begin(cursor)?;

    let mut response = if streams {
        stream(app, listing, walk).await?
    } else {
        page(
            &listing,
            walk,
            limit.unwrap_or(limits::PAGE_ITEMS_DEFAULT),
            elsewhere,
        )
        .await?
    };
    let headers = response.headers_mut();
    access::stamp(headers, &topic, &progress, &conditions);
    let covered: Vec<_> = progress.iter().map(|at| at.partition.to_string()).collect();
    headers.insert(PARTITIONS, access::ascii(covered.join(", ")));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.append(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Bytes of a prefix, where the plugin's keys can have one.
fn prefix(format: KeyFormat, text: Option<&str>) -> Result<Vec<u8>, Problem> {
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    match format {
        KeyFormat::Utf8 | KeyFormat::Bytes => format
            .parse(text)
            .map(Vec::from)
            .map_err(|error| params::bad("_prefix", error.to_string())),
        KeyFormat::I32 | KeyFormat::I64 | KeyFormat::Uuid => Err(params::bad(
            "_prefix",
            "the plugin's keys are numbers or UUIDs, which have no prefix: leave _prefix out",
        )),
    }
}

type Partitions = Vec<(Partition, PartitionHandle)>;

/// The partitions to list, at least one, and those that are elsewhere.
fn partitions(
    app: &App,
    plugin: &Plugin,
    only: Option<Partition>,
) -> Result<(Partitions, Vec<Elsewhere>), Problem> {
    let count = plugin.partition_count();
    if let Some(only) = only {
        if only.0 >= count {
            return Err(Problem::new(
                Code::UnknownPartition,
                format!(
                    "{} has no partition {only}: it has 0 to {}",
                    plugin.name(),
                    count - 1
                ),
            ));
        }
        return Ok((vec![(only, access::local(app, plugin, only)?)], Vec::new()));
    }
    let mut here = Partitions::new();
    let mut elsewhere = Vec::new();
    let mut refusal = None;
    for partition in (0..count).map(Partition) {
        match access::local(app, plugin, partition) {
            Ok(handle) => here.push((partition, handle)),
            Err(problem) => {
                let owner = app.services.cluster.owner_url(plugin, partition);
                elsewhere.push(Elsewhere {
                    partition: partition.0,
                    owner,
                });
                refusal.get_or_insert(problem);
            }
        }
    }
    match refusal {
        Some(problem) if here.is_empty() => Err(problem),
        _ => Ok((here, elsewhere)),
    }
}

async fn ready(
    app: &App,
    plugin: &Plugin,
    partitions: &mut Partitions,
    conditions: &Conditions,
) -> Result<Vec<Progress>, Problem> {
    let mut progress = Vec::with_capacity(partitions.len());
    for (partition, handle) in partitions {
        let (answers, status) = access::ready(app, plugin, *partition, conditions).await?;
        *handle = answers;
        progress.push(Progress {
            partition: *partition,
            start: status.start,
            next: status.next,
            lag_events: status.lag_events,
        });
    }
    Ok(progress)
}

/// How the plugin is asked about each key.
pub(super) fn asking(
    app: &App,
    code: &CodeInUse,
    principal: &Principal,
    arguments: Vec<(String, String)>,
) -> Result<Asking, Problem> {
    let inspection = code.code.inspection();
    if !inspection.capabilities.query {
        return match arguments.is_empty() {
            true => Ok(Asking::State),
            false => Err(problem::unknown_query("", &[])),
        };
    }
    let queries = &inspection.description.queries;
    let default = queries.iter().find(|query| query.name.is_empty());
    if default.is_none() && !queries.is_empty() {
        return Ok(Asking::Nothing);
    }
    let context = default
        .filter(|query| query.uses_context)
        .map(|_| CallContext {
            now_ms: app.services.clock.now_ms(),
            principal: principal.name().map(str::to_owned),
            ..CallContext::default()
        });
    Ok(Asking::Question { arguments, context })
}

async fn page(
    listing: &Listing,
    mut walk: Walk,
    limit: usize,
    elsewhere: Vec<Elsewhere>,
) -> Result<Response, Problem> {
    let keys = listing.next(&mut walk, limit).await?;
    let next = listing.cursor(&walk).await?.map(|cursor| cursor.encode());
    let partitions = listing
        .partitions
        .iter()
        .map(|(partition, _)| partition.0)
        .collect();
    Ok(Json(KeyPage {
        keys,
        next,
        partitions,
        elsewhere,
    })
    .into_response())
}

/// What a stream knows between two chunks.
struct Streaming {
    app: App,
    listing: Arc<Listing>,
    walk: Walk,
    /// Items that were fetched before the answer began, so that a refusal has a status of its own.
    first: Option<Items>,
}

async fn stream(app: App, listing: Listing, mut walk: Walk) -> Result<Response, Problem> {
    let first = Some(listing.next(&mut walk, limits::PAGE_SCAN_KEYS).await?);
    let streaming = Streaming {
        app,
        listing: Arc::new(listing),
        walk,
        first,
    };
    let lines = stream::unfold(Some(streaming), |streaming| async move {
        let (chunk, rest) = streaming?.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), rest))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response())
}

impl Streaming {
    /// The next lines, and what comes after them; none at the end.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        let items = match self.first.take() {
            Some(first) => Ok(first),
            None => {
                let listing = self.listing.clone();
                let next = listing.next(&mut self.walk, limits::PAGE_SCAN_KEYS);
                self.app.unless_stopped(next).await.and_then(|items| items)
            }
        };
        match items {
            Ok(items) if items.is_empty() => None,
            Ok(items) => Some((lines(&items), Some(self))),
            Err(problem) => Some((last_line(&problem), None)),
        }
    }
}

fn lines(items: &Items) -> Bytes {
    let mut lines = Vec::with_capacity(items.iter().map(|item| item.get().len() + 1).sum());
    for item in items {
        lines.extend_from_slice(item.get().as_bytes());
        lines.push(b'\n');
    }
    Bytes::from(lines)
}

/// The line by which a client sees that a stream ended too early, and why.
fn last_line(problem: &Problem) -> Bytes {
    let line = serde_json::json!({ "problem": problem::brief(problem) });
    Bytes::from(format!("{line}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_fit_the_key_format() {
        assert_eq!(prefix(KeyFormat::Utf8, Some("N1")).unwrap(), b"N1");
        assert_eq!(prefix(KeyFormat::Bytes, Some("AP8")).unwrap(), [0, 255]);
        assert!(prefix(KeyFormat::I64, Some("1")).is_err());
        assert!(prefix(KeyFormat::Uuid, None).unwrap().is_empty());
    }

    #[test]
    fn a_stream_ends_early_with_a_line_that_says_so() {
        let line = last_line(&Problem::new(Code::ShuttingDown, "the host is stopping"));
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["problem"]["code"], "shutting-down");
        assert!(line.ends_with(b"\n"));
    }
}
