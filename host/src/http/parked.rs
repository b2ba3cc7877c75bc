//! Parked records: look at them, have them folded again, or do without them.
//!
//! Invariant: a decision is about what is parked here and now; partitions that other hosts own are named,
//! never taken for empty.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Uri;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::context::App;
use super::cursor::Cursor;
use super::keys::Elsewhere;
use super::params::{Params, Segments};
use super::plugins::{aside, plugin_name};
use super::record_json::RecordOut;
use super::views::{KeyForm, key};
use super::{access, body, encoding, operations};
use crate::cluster::Location;
use crate::error::{Code, Problem};
use crate::limits;
use crate::manager::{DiscardRequested, Plugin, ReplayRequested};
use crate::partition::{ParkedKey, PartitionHandle, parked_batch, parked_origin};
use crate::state::{ActionPoint, ParkedRecord};
use crate::types::{Offset, Partition, PluginName, RecordPosition};

/// Routes that change nothing.
pub(super) fn read_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_parked))
        .routes(routes!(show_parked))
        .routes(routes!(show_parked_base64))
}

/// Routes that decide.
pub(super) fn write_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(replay_parked))
        .routes(routes!(discard_parked))
}

/// A page of parked keys.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ParkedPage {
    /// In order of partition, then of the keys' bytes.
    parked: Vec<ParkedDetails>,
    /// `_cursor` of the next page; null = this is the last.
    next: Option<String>,
    /// The partitions that other hosts have: ask there for what they park.
    elsewhere: Vec<Elsewhere>,
}

/// A key whose records are set aside.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ParkedDetails {
    /// The key, as the plugin writes its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The key's bytes in base64url, where they are no key of the plugin's format.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// Its partition.
    partition: u32,
    /// How many of its records are parked.
    records: usize,
    /// The event that could not be applied, as topic/partition@offset of the input.
    first: String,
    /// Offsets of the first and the last parked record in the topic that the plugin folds.
    offsets: [u64; 2],
    /// Code of why the first could not be applied.
    code: Option<String>,
    /// Why, in a sentence.
    reason: Option<String>,
    /// Timestamp of the first, in milliseconds since the Unix epoch.
    since_ms: i64,
}

/// Parked records of one key.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ParkedRecords {
    #[serde(flatten)]
    key: ParkedDetails,
    /// Its records in order, as a read of the topic gives them, with `_limit` at most from `_offset` on.
    #[schema(value_type = Vec<RecordOut>)]
    parked: Vec<Box<RawValue>>,
    /// `_offset` of the next page; null = this is the last.
    next: Option<u64>,
}

/// What is to be done with parked records.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ParkedRequest {
    /// The key, as the plugin writes its keys; without any, all keys.
    #[serde(default)]
    key: Option<String>,
    /// The key's bytes in base64url instead.
    #[serde(default)]
    key_base64: Option<String>,
    /// Why; kept with the decision.
    reason: String,
}

/// What was decided about parked records.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ParkedResult {
    /// Numbers of the decisions: one, or one for each key that is discarded.
    decisions: Vec<u64>,
    /// Whether they are applied on this host. If not: it is paused, blocked or busy, and applies them later.
    applied: bool,
    /// How many records are still parked of what was meant, on this host.
    left: usize,
    /// The partitions that other hosts have.
    elsewhere: Vec<Elsewhere>,
}

/// List the keys whose records are set aside
///
/// Under `on-error = "park-key"`, an event that cannot be applied and every later one of its key wait for
/// a decision. Covers the partitions that this host owns.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/parked", tag = "plugins",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("_limit" = Option<u32>, Query, description = "Most keys on a page; 100 unless said, at most 1000"),
        ("_cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, description = "Parked keys", body = ParkedPage))
)]
async fn list_parked(
    State(app): State<App>,
    segments: Segments,
    uri: Uri,
) -> Result<Json<ParkedPage>, Problem> {
    let params = Params::of_host(&uri, &["_limit", "_cursor"])?;
    let limit = params.number("_limit", 1..=limits::PAGE_ITEMS_MAX)?;
    let limit = limit.unwrap_or(limits::PAGE_ITEMS_DEFAULT);
    let cursor = params.one("_cursor")?.map(Cursor::decode).transpose()?;
    let plugin = app.services.manager.plugin(segments.get("plugin"))?;
    let (here, elsewhere) = partitions(&app, &plugin);
    let mut found = Vec::new();
    for (partition, handle) in here {
        let after = match &cursor {
            Some(cursor) if partition < cursor.partition => continue,
            Some(cursor) if partition == cursor.partition => Some(&cursor.after[..]),
            _ => None,
        };
        let keys = handle.parked(after, limit + 1 - found.len());
        found.extend(keys.into_iter().map(|key| (handle.clone(), key)));
        if found.len() > limit {
            break;
        }
    }
    let next = (found.len() > limit).then(|| {
        let (handle, last) = &found[limit - 1];
        let cursor = Cursor {
            partition: handle.spec().store.partition,
            after: last.key.clone(),
        };
        cursor.encode()
    });
    found.truncate(limit);
    let parked = found
        .iter()
        .map(|(handle, key)| ParkedDetails::of(handle, key));
    let parked = parked.collect();
    Ok(Json(ParkedPage {
        parked,
        next,
        elsewhere,
    }))
}

/// Show the parked records of a key
///
/// A key that reads as `replay` or `discard` is asked for by `/parked-b64/`.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/parked/{key}", tag = "plugins",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("key" = String, Path, description = "The key, as the plugin writes its keys; percent-encoded"),
        ("_limit" = Option<u32>, Query, description = "Most records; 100 unless said, at most 1000"),
        ("_offset" = Option<u64>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, description = "Its records", body = ParkedRecords))
)]
async fn show_parked(
    State(app): State<App>,
    segments: Segments,
    uri: Uri,
) -> Result<Json<ParkedRecords>, Problem> {
    show(&app, &segments, &uri, KeyForm::Text)
}

/// Show the parked records of a key of any bytes
///
/// As `/parked/{key}`, with the key's bytes in base64url; `=` alone is the empty key.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/parked-b64/{key}", tag = "plugins",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("key" = String, Path, description = "The key's bytes in base64url"),
    ),
    responses((status = 200, description = "Its records", body = ParkedRecords))
)]
async fn show_parked_base64(
    State(app): State<App>,
    segments: Segments,
    uri: Uri,
) -> Result<Json<ParkedRecords>, Problem> {
    show(&app, &segments, &uri, KeyForm::Base64)
}

fn show(
    app: &App,
    segments: &Segments,
    uri: &Uri,
    form: KeyForm,
) -> Result<Json<ParkedRecords>, Problem> {
    let params = Params::of_host(uri, &["_limit", "_offset"])?;
    let limit = params.number("_limit", 1..=limits::PAGE_ITEMS_MAX)?;
    let limit = limit.unwrap_or(limits::PAGE_ITEMS_DEFAULT);
    let from = params.number("_offset", 0..=u64::MAX)?;
    let plugin = app.services.manager.plugin(segments.get("plugin"))?;
    let key = key(&plugin, segments.get("key"), form)?;
    let (handle, parked) = find(app, &plugin, &key).map_err(|problem| match problem.code {
        Code::NotParked => Problem::new(Code::NotFound, problem.detail),
        _ => problem,
    })?;
    let mut bytes = 0;
    let records = handle.parked_records(&key, Offset(from.unwrap_or(0)), limit + 1);
    let fits = records.iter().take(limit).take_while(|record| {
        let is_first = bytes == 0;
        bytes += record.bytes();
        is_first || bytes <= limits::PAGE_BYTES_MAX
    });
    let fits = fits.count();
    let partition = handle.spec().store.partition;
    let raw = |record: &ParkedRecord| {
        let batch = parked_batch([record]);
        RecordOut::of(partition, batch.get(0)).to_raw()
    };
    Ok(Json(ParkedRecords {
        key: ParkedDetails::of(&handle, &parked),
        parked: records
            .iter()
            .take(fits)
            .map(|record| raw(record))
            .collect(),
        next: records.get(fits).map(|record| record.offset.0),
    }))
}

/// Fold parked records again, with the code that runs now
///
/// Each key goes on as far as it can: a record that fails again stays parked with all behind it. The
/// decision is numbered and durable. Every host applies it to its partitions.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/parked/replay", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    request_body(content = ParkedRequest),
    responses((status = 200, description = "It is decided", body = ParkedResult))
)]
async fn replay_parked(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Json<ParkedResult>, Problem> {
    let (name, plugin, key, reason) = asked(&app, &segments, request).await?;
    if let Some(key) = &key {
        find(&app, &plugin, key)?;
    } else {
        let (here, elsewhere) = partitions(&app, &plugin);
        if elsewhere.is_empty() && here.iter().all(|(_, it)| it.status().parked_keys == 0) {
            return Err(nothing(&plugin, None));
        }
    }
    let manager = app.services.manager.clone();
    let by = principal.as_str().to_owned();
    let request = ReplayRequested {
        name,
        key: key.clone(),
        reason,
    };
    let number = aside(async move { manager.replay_parked(request, &by).await }).await?;
    Ok(Json(
        applied(&app, &plugin, key.as_ref(), &[(None, number)]).await?,
    ))
}

/// Do without parked records
///
/// What is parked of the key now is not folded, neither now nor by a later generation; what comes behind it
/// is. Without a key, of every key that is parked on this host. The decisions are numbered and durable.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/parked/discard", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    request_body(content = ParkedRequest),
    responses((status = 200, description = "It is decided", body = ParkedResult))
)]
async fn discard_parked(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Json<ParkedResult>, Problem> {
    let (name, plugin, key, reason) = asked(&app, &segments, request).await?;
    let meant = match &key {
        Some(key) => vec![find(&app, &plugin, key)?],
        None => all(&app, &plugin)?,
    };
    let requests: Vec<_> = meant
        .into_iter()
        .map(|(handle, parked)| DiscardRequested {
            name: name.clone(),
            first: folded_position(&handle, parked.first.offset),
            key: parked.key,
            last: parked.last,
            topic_id: handle.status().topic_id,
            reason: reason.clone(),
        })
        .collect();
    let manager = app.services.manager.clone();
    let by = principal.as_str().to_owned();
    let deciding = async move {
        let mut decisions = Vec::with_capacity(requests.len());
        for request in requests {
            let partition = request.first.partition;
            let number = manager.discard_parked(request, &by).await?;
            decisions.push((Some(partition), number));
        }
        Ok(decisions)
    };
    let decisions = aside(deciding).await?;
    Ok(Json(
        applied(&app, &plugin, key.as_ref(), &decisions).await?,
    ))
}

type Asked = (PluginName, std::sync::Arc<Plugin>, Option<Bytes>, String);

/// What a request is about: the plugin, the key, and why.
async fn asked(app: &App, segments: &Segments, request: Request) -> Result<Asked, Problem> {
    let name = plugin_name(segments)?;
    Params::of_host(request.uri(), &[])?;
    let plugin = app.services.manager.plugin(name.as_str())?;
    let what = "what to do with parked records";
    let bytes_max = limits::SETTINGS_BODY_BYTES_MAX;
    let body = body::read(app, request.into_body(), bytes_max, what).await?;
    let asked: ParkedRequest = serde_json::from_slice(&body.bytes).map_err(|error| {
        Problem::new(
            Code::BadRequest,
            format!(
                "the body is not what is taken here ({error}): send {{\"key\":\"…\",\"reason\":\"…\"}}, \
                 without the key for all"
            ),
        )
    })?;
    let key = match (asked.key, asked.key_base64) {
        (Some(_), Some(_)) => {
            return Err(Problem::new(
                Code::BadRequest,
                "give one of key and key_base64",
            ));
        }
        (Some(text), None) => Some(key(&plugin, &text, KeyForm::Text)?),
        (None, Some(text)) => Some(key(&plugin, &text, KeyForm::Base64)?),
        (None, None) => None,
    };
    let reason = operations::reason(&asked.reason, "it is decided so")?;
    Ok((name, plugin, key, reason))
}

type Handles = Vec<(Partition, PartitionHandle)>;

/// The partitions of this host, and those of others.
fn partitions(app: &App, plugin: &Plugin) -> (Handles, Vec<Elsewhere>) {
    let (mut here, mut elsewhere) = (Handles::new(), Vec::new());
    for partition in (0..plugin.partition_count()).map(Partition) {
        let owner = match app.services.cluster.locate(plugin, partition) {
            Location::Local(handle) => {
                here.push((partition, handle));
                continue;
            }
            Location::Remote(url) => Some(url),
            Location::Nobody => None,
        };
        elsewhere.push(Elsewhere {
            partition: partition.0,
            owner,
        });
    }
    (here, elsewhere)
}

/// Who has a key parked.
fn find(app: &App, plugin: &Plugin, key: &Bytes) -> Result<(PartitionHandle, ParkedKey), Problem> {
    // A record that was written to another partition than its key's is parked where it lies.
    let (here, _) = partitions(app, plugin);
    for (_, handle) in here {
        if let Some(parked) = handle.parked_key(key) {
            return Ok((handle, parked));
        }
    }
    let (partition, _) = plugin.find(key);
    access::local(app, plugin, partition)?;
    Err(nothing(plugin, Some(key)))
}

/// All keys that are parked here.
fn all(app: &App, plugin: &Plugin) -> Result<Vec<(PartitionHandle, ParkedKey)>, Problem> {
    let (here, _) = partitions(app, plugin);
    let keys = here.iter().flat_map(|(_, handle)| {
        let keys = handle.parked(None, limits::DISCARDS_MAX + 1);
        keys.into_iter().map(|key| (handle.clone(), key))
    });
    let keys: Vec<_> = keys.collect();
    match keys.len() {
        0 => Err(nothing(plugin, None)),
        many if many > limits::DISCARDS_MAX => Err(Problem::new(
            Code::TooLarge,
            format!(
                "{} parks more than {} keys: deploy corrected code with `--state keep` and replay them",
                plugin.name(),
                limits::DISCARDS_MAX
            ),
        )),
        _ => Ok(keys),
    }
}

fn nothing(plugin: &Plugin, key: Option<&Bytes>) -> Problem {
    let name = plugin.name();
    let format = plugin.deployment().manifest.key;
    let of = match key.map(|key| format.format(key)) {
        Some(Some(key)) => format!("nothing of key '{key}'"),
        Some(None) => "nothing of this key".to_owned(),
        None => "nothing".to_owned(),
    };
    Problem::new(
        Code::NotParked,
        format!("{name} has {of} parked: `foldhost plugin parked list {name}` tells what is"),
    )
}

/// Waits until decisions, each about one partition or all, are applied here, within a bound, and tells what
/// is left.
async fn applied(
    app: &App,
    plugin: &Plugin,
    key: Option<&Bytes>,
    decisions: &[(Option<Partition>, u64)],
) -> Result<ParkedResult, Problem> {
    const POLL: Duration = Duration::from_millis(20);
    let until = app.services.clock.elapsed() + limits::WAIT_DEFAULT;
    let is_applied = |(partition, handle): &(Partition, PartitionHandle)| {
        let meant = decisions
            .iter()
            .filter(|(of, _)| of.is_none_or(|of| of == *partition));
        let last = meant.map(|(_, number)| *number).max();
        last.is_none_or(|number| handle.status().action >= ActionPoint::done(number))
    };
    loop {
        let (here, elsewhere) = partitions(app, plugin);
        let applied = here.iter().all(is_applied);
        if applied || app.services.clock.elapsed() >= until {
            let left = here.iter().map(|(_, handle)| match key {
                Some(key) => handle.parked_key(key).map_or(0, |parked| parked.records),
                None => handle.status().parked_records,
            });
            return Ok(ParkedResult {
                decisions: decisions.iter().map(|(_, number)| *number).collect(),
                applied,
                left: left.sum(),
                elsewhere,
            });
        }
        app.unless_stopped(tokio::time::sleep(POLL)).await?;
    }
}

fn folded_position(handle: &PartitionHandle, offset: Offset) -> RecordPosition {
    let source = handle.spec().source();
    RecordPosition {
        topic: source.topic,
        partition: source.partition,
        offset,
    }
}

impl ParkedDetails {
    fn of(handle: &PartitionHandle, parked: &ParkedKey) -> Self {
        let key = handle.code().manifest().key.format(&parked.key);
        let first = &parked.first;
        let at = parked_origin(first).unwrap_or_else(|| folded_position(handle, first.offset));
        let cause = first.cause.as_ref();
        Self {
            key_base64: key.is_none().then(|| encoding::to_base64(&parked.key)),
            key,
            partition: handle.spec().store.partition.0,
            records: parked.records,
            first: at.to_string(),
            offsets: [first.offset.0, parked.last.0],
            code: cause.map(|cause| cause.code.clone()),
            reason: cause.map(|cause| cause.reason.clone()),
            since_ms: first.timestamp_ms,
        }
    }
}
