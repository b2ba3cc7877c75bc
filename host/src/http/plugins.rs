//! Plugins: list, show, wait until one is ready, deploy, delete.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access;
use super::auth::Principal;
use super::body;
use super::context::App;
use super::params::{self, Params, Segments};
use super::plugin_json::{DeploymentResult, PluginDetails, PluginList, PluginSummary};
use crate::error::{Code, Problem};
use crate::limits;
use crate::manager::{DeployOutcome, DeployRequest, StatePolicy};
use crate::types::{DeploymentId, GenerationId, PluginName, TopicName};

/// Routes that change nothing.
pub(super) fn read_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_plugins))
        .routes(routes!(show_plugin))
        .routes(routes!(plugin_ready))
}

/// Routes that change what runs.
pub(super) fn write_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(deploy_plugin, delete_plugin))
}

/// List what runs
#[utoipa::path(
    get, path = "/v1/plugins", tag = "plugins",
    responses((status = 200, description = "What runs", body = PluginList))
)]
async fn list_plugins(State(app): State<App>, uri: Uri) -> Result<Json<PluginList>, Problem> {
    Params::of_host(&uri, &[])?;
    let plugins = app.services.manager.plugins();
    let plugins = plugins
        .iter()
        .map(|plugin| PluginSummary::of(plugin))
        .collect();
    Ok(Json(PluginList { plugins }))
}

/// Show a plugin with its partitions
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    responses((status = 200, description = "The plugin", body = PluginDetails))
)]
async fn show_plugin(
    State(app): State<App>,
    segments: Segments,
    uri: Uri,
) -> Result<Json<PluginDetails>, Problem> {
    Params::of_host(&uri, &[])?;
    let plugin = app.services.manager.plugin(segments.get("plugin"))?;
    Ok(Json(PluginDetails::of(&app, &plugin)))
}

/// Wait until a plugin is live on this host
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/ready", tag = "plugins",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("_wait" = Option<u64>, Query, description = "How many seconds to wait for it, at most 60"),
        ("_deployment" = Option<u64>, Query, description = "Number of a deployment: that one, or a later one, must answer"),
    ),
    responses((status = 200, description = "It is live", body = PluginSummary))
)]
async fn plugin_ready(
    State(app): State<App>,
    segments: Segments,
    uri: Uri,
) -> Result<Json<PluginSummary>, Problem> {
    let params = Params::of_host(&uri, &["_wait", "_deployment"])?;
    let deployment = params.number("_deployment", 0..=u64::MAX)?;
    let deployment = DeploymentId(deployment.unwrap_or_default());
    let within = params.seconds("_wait")?.unwrap_or_default();
    let name = segments.get("plugin");
    let manager = &app.services.manager;
    let is_ready = app
        .unless_stopped(manager.wait_ready(name, deployment, within))
        .await??;
    let plugin = manager.plugin(name)?;
    let summary = PluginSummary::of(&plugin);
    if is_ready {
        return Ok(Json(summary));
    }
    let decided = plugin.decided();
    let building = decided.building.as_ref();
    let building = building.filter(|building| building.deployment.id >= deployment);
    let status = match building {
        Some(building) if building.is_blocked() => "blocked",
        Some(building) => plugin.status_of(building.number()),
        None => plugin.status(),
    };
    let open = building.map(|building| plugin.open_of(building.number()));
    let lag = match open {
        Some(open) => open.values().map(|handle| handle.status().lag_events).sum(),
        None => plugin.lag_events(),
    };
    let what = building.map_or_else(String::new, |building| {
        format!("generation {} of ", building.number())
    });
    let why = plugin
        .last_error()
        .map_or_else(String::new, |error| format!(" ({error})"));
    Err(Problem::new(
        Code::NotReady,
        format!(
            "{what}{name} is {status} and {lag} records behind{why}: GET /v1/plugins/{name} shows its \
             partitions, ?_wait=<seconds> waits"
        ),
    )
    .with("plugin_status", status)
    .with("lag", lag))
}

/// Deploy a component
///
/// The body is the component with its manifest inside. It runs when this is answered with 201, durably
/// and on every host of the cluster; its backlog may not have been read yet.
#[utoipa::path(
    put, path = "/v1/plugins/{plugin}", tag = "plugins",
    params(
        ("plugin" = String, Path, description = "Name to run it under"),
        ("topic" = Option<Vec<String>>, Query, description = "input=topic: the topic that an input is read from; output=topic, by the output's name in the manifest: the topic that is published to"),
        ("set" = Option<Vec<String>>, Query, description = "key=value: a parameter of the plugin"),
        ("state" = Option<String>, Query, description = "Where something runs under the name: `rebuild` builds the states from the log beside the old ones; `keep` goes on from them, through `migrate` if their schema is another. Without it, the same code again changes nothing, and other code is built from the log"),
        ("from_retained" = Option<bool>, Query, description = "true: the log may have lost its beginning"),
        ("adopt_topic" = Option<bool>, Query, description = "true: the output may be there already and belong to no plugin; nobody else may write to it from now on"),
        ("emit_from" = Option<String>, Query, description = "`earliest`: a republisher that is built anew publishes what it makes of the whole log, into a topic that is new to it. Without it, it publishes from where the present generation stops"),
        ("dry_run" = Option<bool>, Query, description = "true: check everything, change nothing"),
    ),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses(
        (status = 201, description = "It runs now", body = DeploymentResult),
        (status = 200, description = "It goes on from the states that were there, or the same ran already, or this was a dry run", body = DeploymentResult),
        (status = 202, description = "A new generation is built, and answers once it is ready; the old one answers until then", body = DeploymentResult),
    )
)]
async fn deploy_plugin(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    let name = plugin_name(&segments)?;
    let (parts, request_body) = request.into_parts();
    let params = Params::of_host(
        &parts.uri,
        &[
            "topic",
            "set",
            "state",
            "from_retained",
            "adopt_topic",
            "emit_from",
            "dry_run",
        ],
    )?;
    match body::media_type(&parts.headers).as_deref() {
        Some("application/wasm" | "application/octet-stream") => {}
        other => return Err(body::unsupported(other, "application/wasm")),
    }
    let mut topics = std::collections::BTreeMap::new();
    for (input, topic) in params.pairs("topic")? {
        let topic = TopicName::new(&topic).map_err(|error| {
            Problem::new(Code::BadName, error.to_string()).with("parameter", "topic")
        })?;
        topics.insert(input, topic);
    }
    let what = "the component";
    let held = body::read(&app, request_body, limits::COMPONENT_BYTES_MAX, what).await?;
    let request = DeployRequest {
        component: held.bytes.clone(),
        name: Some(name.clone()),
        topics,
        parameters: params.pairs("set")?,
        state: state_policy(&params)?,
        from_retained: params.flag("from_retained")?,
        adopt_topic: params.flag("adopt_topic")?,
        emit_from_earliest: emits_from_earliest(&params)?,
        dry_run: params.flag("dry_run")?,
        principal: principal.as_str().to_owned(),
    };
    let manager = app.services.manager.clone();
    // A client that goes away does not stop half of a deployment.
    let deployed = aside(async move { manager.deploy(request).await }).await?;
    drop(held);
    let answer = Json(DeploymentResult::of(&deployed));
    Ok(match deployed.outcome {
        DeployOutcome::Created => {
            let location = access::ascii(format!("/v1/plugins/{name}"));
            (StatusCode::CREATED, [(header::LOCATION, location)], answer).into_response()
        }
        DeployOutcome::Building => accepted(&name, deployed.generation, answer),
        _ => answer.into_response(),
    })
}

/// Stop a plugin and free its state
#[utoipa::path(
    delete, path = "/v1/plugins/{plugin}", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    responses((status = 204, description = "It is gone, on every host of the cluster"))
)]
async fn delete_plugin(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    uri: Uri,
) -> Result<StatusCode, Problem> {
    Params::of_host(&uri, &[])?;
    let name = plugin_name(&segments)?;
    let manager = app.services.manager.clone();
    aside(async move { manager.delete(&name, principal.as_str()).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The answer to a request that has a generation built.
pub(super) fn accepted(
    name: &PluginName,
    generation: Option<GenerationId>,
    answer: impl IntoResponse,
) -> Response {
    let generation = generation.unwrap_or_default();
    let location = access::ascii(format!("/v1/plugins/{name}/generations/{generation}"));
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], answer).into_response()
}

/// What becomes of states, if the request says so.
pub(super) fn state_policy(params: &Params) -> Result<Option<StatePolicy>, Problem> {
    match params.one("state")? {
        None => Ok(None),
        Some("keep") => Ok(Some(StatePolicy::Keep)),
        Some("rebuild") => Ok(Some(StatePolicy::Rebuild)),
        Some(other) => Err(params::bad(
            "state",
            format!("'{other}' is no value of 'state': give keep or rebuild"),
        )),
    }
}

/// Whether a new generation publishes what it makes of the whole log.
fn emits_from_earliest(params: &Params) -> Result<bool, Problem> {
    match params.one("emit_from")? {
        None => Ok(false),
        Some("earliest") => Ok(true),
        Some(other) => Err(params::bad(
            "emit_from",
            format!(
                "'{other}' is no value of 'emit_from': give earliest, or leave it out to publish from \
                 where the present generation stops"
            ),
        )),
    }
}

pub(super) fn plugin_name(segments: &Segments) -> Result<PluginName, Problem> {
    PluginName::new(segments.get("plugin"))
        .map_err(|error| Problem::new(Code::BadName, error.to_string()))
}

/// Runs something to its end, whether the client still waits for it or not.
pub(super) async fn aside<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a change of what runs died");
        Err(Problem::new(
            Code::OutcomeUnknown,
            "the change died on its way: look what runs now, then try again",
        ))
    })
}
