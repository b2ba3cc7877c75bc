//! Have a command handler tell its states again, in events; and how far that is, as JSON.
//!
//! Invariant: what is told of partitions that other hosts own is what these have reported: that they are done.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Uri;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::context::App;
use super::params::{Params, Segments};
use super::plugins::{aside, plugin_name};
use super::views::{KeyForm, key};
use super::{body, encoding};
use crate::error::{Code, Problem};
use crate::limits;
use crate::manager::{BootstrapRequested, BootstrapRun, Plugin};
use crate::partition::Bootstrapped;
use crate::plugin::PluginCode;
use crate::types::{KeyFormat, Partition};

/// Routes that change nothing.
pub(super) fn read_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show_emit_state))
}

/// Routes that decide.
pub(super) fn write_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(emit_state))
        .routes(routes!(stop_emit_state))
}

/// State of a run that is not over.
const RUNNING: &str = "running";

/// Which states are to be told, and how fast.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
struct BootstrapRequest {
    /// The key, as the plugin writes its keys; without any, every key that has a state.
    key: Option<String>,
    /// The key's bytes in base64url instead.
    key_base64: Option<String>,
    /// How many keys of each partition in a second, at most: 1,000 unless said, at most 10,000.
    keys_per_second: Option<u32>,
    /// Why; kept with the decision.
    reason: String,
}

/// It is decided.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct BootstrapResult {
    /// Number of the decision; it is in the header `foldhost-bootstrap` of every event.
    bootstrap: u64,
}

/// States that are told, or were, by the last decision to do so.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct BootstrapDetails {
    /// Number of the decision.
    bootstrap: u64,
    /// `running`, `done`, or `stopped`: it was given up before it was done.
    state: &'static str,
    /// The only key that is told; null = every key that has a state, or a key that cannot be written as text.
    key: Option<String>,
    /// The only key's bytes in base64url, where they are no key of the plugin's format.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// How many keys of each partition in a second, at most.
    keys_per_second: u32,
    /// Why it is not going on: the code that runs does not tell its states.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<&'static str>,
    /// Why.
    reason: String,
    /// Name of the token that asked for it; empty = none was needed.
    principal: String,
    /// When, in milliseconds since the Unix epoch.
    at_ms: i64,
    /// The partitions that have a part in it.
    partitions: Vec<BootstrapPartition>,
}

/// How far the states of a partition are told.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct BootstrapPartition {
    /// Its number.
    partition: u32,
    /// Whether all of them are told.
    done: bool,
    /// First offset of the owned topic that may hold an event of it: once it is done, what lies before is not needed
    /// to build a view. Null = it is not begun, or its owner has not said yet; so are the others.
    from: Option<u64>,
    /// How many keys are told.
    keys: Option<u64>,
    /// In how many events.
    events: Option<u64>,
    /// How many keys the plugin could not tell: nothing is written of them.
    untold: Option<u64>,
    /// Why not, of the first of them.
    problem: Option<String>,
}

/// Have a command handler tell its states again
///
/// For each key that has a state, the handler's export `emit-state` makes events that carry all of it. They are written
/// between those of commands, with the version that the key has: nothing changes for who has folded the topic, and a
/// view that begins behind older events has every state. Goes on by itself, across restarts and owners; `GET`
/// tells how far it is.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/emit-state", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    request_body(content = BootstrapRequest),
    responses((status = 200, description = "It is decided", body = BootstrapResult))
)]
async fn emit_state(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Json<BootstrapResult>, Problem> {
    let name = plugin_name(&segments)?;
    Params::of_host(request.uri(), &[])?;
    let plugin = app.services.manager.plugin(name.as_str())?;
    let asked = read(&app, request).await?;
    let of = match (&asked.key, &asked.key_base64) {
        (Some(_), Some(_)) => {
            let detail = "give one of key and key_base64";
            return Err(Problem::new(Code::BadRequest, detail));
        }
        (Some(text), None) => Some(key(&plugin, text, KeyForm::Text)?),
        (None, Some(text)) => Some(key(&plugin, text, KeyForm::Base64)?),
        (None, None) => None,
    };
    check_code(&plugin)?;
    let request = BootstrapRequested {
        name,
        key: of.map(|key| (key.clone(), plugin.find(&key).0)),
        keys_per_second: rate(asked.keys_per_second)?,
        reason: reason(&asked.reason)?,
    };
    let manager = app.services.manager.clone();
    let by = principal.as_str().to_owned();
    let bootstrap = aside(async move { manager.bootstrap(request, &by).await }).await?;
    Ok(Json(BootstrapResult { bootstrap }))
}

/// Show how far the states are told
///
/// By the last decision to tell them; as in `bootstrap` of `GET /v1/plugins/{plugin}`.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/emit-state", tag = "plugins",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("_wait" = Option<u64>, Query, description = "How many seconds to wait until it is over, at most 60"),
    ),
    responses((status = 200, description = "How far it is", body = BootstrapDetails))
)]
async fn show_emit_state(
    State(app): State<App>,
    segments: Segments,
    uri: Uri,
) -> Result<Json<BootstrapDetails>, Problem> {
    const POLL: Duration = Duration::from_millis(50);
    let params = Params::of_host(&uri, &["_wait"])?;
    let within = params.seconds("_wait")?.unwrap_or_default();
    let until = app.services.clock.elapsed() + within;
    loop {
        let plugin = app.services.manager.plugin(segments.get("plugin"))?;
        let Some(details) = BootstrapDetails::of(&plugin) else {
            return Err(Problem::new(
                Code::NotFound,
                format!("nobody has had '{}' tell its states", plugin.name()),
            ));
        };
        if details.state != RUNNING || app.services.clock.elapsed() >= until {
            return Ok(Json(details));
        }
        app.unless_stopped(tokio::time::sleep(POLL)).await?;
    }
}

/// Stop telling the states
///
/// What is written stays: it says nothing that was not so.
#[utoipa::path(
    delete, path = "/v1/plugins/{plugin}/emit-state", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    responses((status = 200, description = "It is stopped", body = BootstrapResult))
)]
async fn stop_emit_state(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    uri: Uri,
) -> Result<Json<BootstrapResult>, Problem> {
    let name = plugin_name(&segments)?;
    Params::of_host(&uri, &[])?;
    let manager = app.services.manager.clone();
    let by = principal.as_str().to_owned();
    let bootstrap = aside(async move { manager.stop_bootstrap(&name, &by).await }).await?;
    Ok(Json(BootstrapResult { bootstrap }))
}

/// The request's body; none asks for everything.
async fn read(app: &App, request: Request) -> Result<BootstrapRequest, Problem> {
    let bytes_max = limits::SETTINGS_BODY_BYTES_MAX;
    let body = body::read(app, request.into_body(), bytes_max, "which states to tell").await?;
    if body.bytes.is_empty() {
        return Ok(BootstrapRequest::default());
    }
    serde_json::from_slice(&body.bytes).map_err(|error| {
        Problem::new(
            Code::BadRequest,
            format!(
                "the body is not what is taken here ({error}): send {{\"key\":\"…\",\"keys_per_second\":1000,\
                 \"reason\":\"…\"}}, each of them optional"
            ),
        )
    })
}

/// Whether the code that runs tells states. A view is refused by the decision itself.
fn check_code(plugin: &Plugin) -> Result<(), Problem> {
    let Some(code) = plugin.code() else {
        return Err(Problem::new(
            Code::NotReady,
            format!(
                "{} is still being loaded here: try again shortly",
                plugin.name()
            ),
        ));
    };
    let capabilities = code.inspection().capabilities;
    if capabilities.decide && !capabilities.emit_state {
        return Err(Problem::new(
            Code::NoEmitState,
            format!(
                "the code of '{}' exports no emit-state: implement EmitState, name it in foldhost_sdk::export!(…), and \
                 deploy that with `--state keep`",
                plugin.name()
            ),
        ));
    }
    Ok(())
}

fn rate(asked: Option<u32>) -> Result<u32, Problem> {
    let rate = asked.unwrap_or(limits::BOOTSTRAP_KEYS_PER_SECOND_DEFAULT);
    if (1..=limits::BOOTSTRAP_KEYS_PER_SECOND_MAX).contains(&rate) {
        return Ok(rate);
    }
    Err(Problem::new(
        Code::BadRequest,
        format!(
            "keys_per_second is {rate}: give 1 to {}",
            limits::BOOTSTRAP_KEYS_PER_SECOND_MAX
        ),
    )
    .with("field", "keys_per_second"))
}

fn reason(given: &str) -> Result<String, Problem> {
    let reason = given.trim();
    if reason.len() > limits::REASON_BYTES_MAX {
        return Err(Problem::new(
            Code::BadRequest,
            format!(
                "the reason has more than {} bytes",
                limits::REASON_BYTES_MAX
            ),
        )
        .with("field", "reason"));
    }
    Ok(reason.to_owned())
}

impl BootstrapDetails {
    pub(super) fn of(plugin: &Plugin) -> Option<Self> {
        let decided = plugin.decided();
        let run = decided.bootstrap.as_ref()?;
        let deployment = &decided.serving.deployment;
        let is_running = run.is_running(deployment.partitions);
        let tells = |code: Arc<dyn PluginCode>| code.inspection().capabilities.emit_state;
        let waits = is_running && !plugin.code().is_none_or(tells);
        let open = plugin.open_of(deployment.generation);
        let partitions = (0..deployment.partitions).map(Partition);
        let partitions = partitions.filter(|it| run.covers(*it)).map(|partition| {
            let here = open.get(&partition).and_then(|it| it.status().bootstrap);
            BootstrapPartition::of(run, partition, here.as_deref())
        });
        let partitions = partitions.collect();
        let (key, key_base64) = shown(run, deployment.manifest.key);
        Some(Self {
            bootstrap: run.number,
            state: match (run.stopped, is_running) {
                (true, _) => "stopped",
                (false, true) => RUNNING,
                (false, false) => "done",
            },
            key,
            key_base64,
            keys_per_second: run.keys_per_second,
            waits: waits.then_some(
                "the code that runs exports no emit-state: deploy code that does, with `--state keep`, or stop it",
            ),
            reason: run.reason.clone(),
            principal: run.principal.clone(),
            at_ms: run.at_ms,
            partitions,
        })
    }
}

/// The one key that is told, as text or in base64url.
fn shown(run: &BootstrapRun, format: KeyFormat) -> (Option<String>, Option<String>) {
    let key: Option<&Bytes> = run.key.as_ref().map(|(key, _)| key);
    let text = key.and_then(|key| format.format(key));
    let base64 = key
        .filter(|_| text.is_none())
        .map(|key| encoding::to_base64(key));
    (text, base64)
}

impl BootstrapPartition {
    fn of(run: &BootstrapRun, partition: Partition, here: Option<&Bootstrapped>) -> Self {
        let here = here.filter(|told| told.number == run.number);
        let told = run.told.get(&partition).or(here);
        Self {
            partition: partition.0,
            done: told.is_some_and(|told| told.done),
            from: told.map(|told| told.from.0),
            keys: told.map(|told| told.keys),
            events: told.map(|told| told.events),
            untold: told.map(|told| told.untold),
            problem: told.and_then(|told| told.problem.clone()),
        }
    }
}
