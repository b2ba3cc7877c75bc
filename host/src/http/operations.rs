//! Operating a plugin that runs: pause, resume, roll back, skip a record, look at a generation.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::body;
use super::context::App;
use super::params::{Params, Segments};
use super::plugin_json::{GenerationDetails, PluginSummary, outcome};
use super::plugins::{accepted, aside, plugin_name, state_policy};
use crate::error::{Code, Problem};
use crate::limits;
use crate::manager::{DeployOutcome, RollbackRequest};
use crate::types::{GenerationId, RecordPosition};

/// Routes that change nothing.
pub(super) fn read_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show_generation))
}

/// Routes that change what runs.
pub(super) fn write_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(pause_plugin))
        .routes(routes!(resume_plugin))
        .routes(routes!(rollback_plugin))
        .routes(routes!(skip_record))
}

/// Show one generation of a plugin
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/generations/{generation}", tag = "plugins",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("generation" = u64, Path, description = "Number of the generation"),
    ),
    responses((status = 200, description = "The generation", body = GenerationDetails))
)]
async fn show_generation(
    State(app): State<App>,
    segments: Segments,
    uri: Uri,
) -> Result<Json<GenerationDetails>, Problem> {
    Params::of_host(&uri, &[])?;
    let plugin = app.services.manager.plugin(segments.get("plugin"))?;
    let decided = plugin.decided();
    let number = segments.get("generation");
    let found = number
        .parse()
        .ok()
        .and_then(|number| decided.generation(GenerationId(number)));
    let Some(generation) = found else {
        let there: Vec<_> = decided
            .generations()
            .map(|it| it.number().to_string())
            .collect();
        return Err(Problem::new(
            Code::UnknownGeneration,
            format!(
                "{} has no generation '{number}', or not any more: it has {}",
                plugin.name(),
                there.join(", ")
            ),
        ));
    };
    Ok(Json(GenerationDetails::of(
        &app, &plugin, &decided, generation,
    )))
}

/// Stop folding, on every host
///
/// Queries are answered from the states that there are. Nothing happens to a plugin that is paused.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/pause", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    responses((status = 200, description = "It is paused", body = PluginSummary))
)]
async fn pause_plugin(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    uri: Uri,
) -> Result<Json<PluginSummary>, Problem> {
    pause(app, &principal, &segments, &uri, true).await
}

/// Go on folding, on every host
///
/// Nothing happens to a plugin that is not paused.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/resume", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    responses((status = 200, description = "It folds", body = PluginSummary))
)]
async fn resume_plugin(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    uri: Uri,
) -> Result<Json<PluginSummary>, Problem> {
    pause(app, &principal, &segments, &uri, false).await
}

async fn pause(
    app: App,
    principal: &Principal,
    segments: &Segments,
    uri: &Uri,
    paused: bool,
) -> Result<Json<PluginSummary>, Problem> {
    Params::of_host(uri, &[])?;
    let name = plugin_name(segments)?;
    let manager = app.services.manager.clone();
    let (of, by) = (name.clone(), principal.as_str().to_owned());
    aside(async move { manager.pause(&of, paused, &by).await }).await?;
    let plugin = app.services.manager.plugin(name.as_str())?;
    Ok(Json(PluginSummary::of(&plugin)))
}

/// What a rollback did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct RollbackResult {
    /// `building`, `swapped`, or `cancelled`: what was being built is dropped.
    outcome: &'static str,
    /// Name of the plugin.
    name: String,
    /// The plugin's own version that answers, or will.
    version: String,
    /// SHA-256 of the component.
    digest: String,
    /// Number of the deployment.
    deployment: u64,
    /// Number of the generation.
    generation: u64,
    /// The deployment that is run again; null = none, a build was dropped.
    rolls_back_to: Option<u64>,
}

/// Go back to what ran before
///
/// If a generation is being built, it is dropped. Otherwise the previous deployment is run again: from
/// the generation that was kept (`keep-generations`), or built from the log.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/rollback", tag = "plugins",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("state" = Option<String>, Query, description = "`keep`: go on from the states that there are; `rebuild`: build them from the log"),
        ("from_retained" = Option<bool>, Query, description = "true: the log may have lost its beginning"),
    ),
    responses(
        (status = 200, description = "It runs, or a build was dropped", body = RollbackResult),
        (status = 202, description = "It is built, and answers once it is ready", body = RollbackResult),
    )
)]
async fn rollback_plugin(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::of_host(&uri, &["state", "from_retained"])?;
    let name = plugin_name(&segments)?;
    let request = RollbackRequest {
        name: name.clone(),
        state: state_policy(&params)?,
        from_retained: params.flag("from_retained")?,
        principal: principal.as_str().to_owned(),
    };
    let manager = app.services.manager.clone();
    let (what, deployment) = aside(async move { manager.rollback(request).await }).await?;
    let answer = Json(RollbackResult {
        outcome: outcome(what),
        name: name.to_string(),
        version: deployment.manifest.version.clone(),
        digest: deployment.digest.to_string(),
        deployment: deployment.id.0,
        generation: deployment.generation.0,
        rolls_back_to: match what {
            DeployOutcome::Cancelled => None,
            _ => deployment.rolls_back_to.map(|id| id.0),
        },
    });
    Ok(match what {
        DeployOutcome::Building => accepted(&name, Some(deployment.generation), answer),
        _ => answer.into_response(),
    })
}

/// Which record is not to be folded.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct SkipRequest {
    /// The record, as topic/partition@offset: the one at which a partition is blocked.
    at: String,
    /// Why; kept with the decision.
    reason: String,
}

/// A record is not folded.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct SkipResult {
    /// Number of the decision.
    skip: u64,
    /// The record, as topic/partition@offset.
    at: String,
}

/// Leave out the record at which a partition is blocked
///
/// The partition goes on behind it by itself. The decision is numbered and durable: it holds for every
/// later generation too, and is listed with the plugin.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/skip", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    request_body(content = SkipRequest),
    responses((status = 200, description = "It will not be folded", body = SkipResult))
)]
async fn skip_record(
    State(app): State<App>,
    principal: Principal,
    segments: Segments,
    request: Request,
) -> Result<Json<SkipResult>, Problem> {
    let name = plugin_name(&segments)?;
    Params::of_host(request.uri(), &[])?;
    let what = "the record to skip";
    let body = body::read(
        &app,
        request.into_body(),
        limits::SETTINGS_BODY_BYTES_MAX,
        what,
    )
    .await?;
    let SkipRequest { at, reason } = serde_json::from_slice(&body.bytes).map_err(|error| {
        Problem::new(
            Code::BadRequest,
            format!(
                "the body is not what is taken here ({error}): send \
                 {{\"at\":\"topic/partition@offset\",\"reason\":\"…\"}}"
            ),
        )
    })?;
    let at: RecordPosition = at
        .parse()
        .map_err(|error| Problem::new(Code::BadPosition, format!("{error}")).with("at", at))?;
    let reason = self::reason(&reason, "the record is left out")?;
    let manager = app.services.manager.clone();
    let (skipped, by) = (at.clone(), principal.as_str().to_owned());
    let skip = aside(async move { manager.skip(&name, skipped, reason, &by).await }).await?;
    Ok(Json(SkipResult {
        skip,
        at: at.to_string(),
    }))
}

/// A reason, without the white space around it; `what` says what it is for.
pub(super) fn reason(given: &str, what: &str) -> Result<String, Problem> {
    let reason = given.trim();
    if reason.is_empty() || reason.len() > limits::REASON_BYTES_MAX {
        return Err(Problem::new(
            Code::BadRequest,
            format!(
                "say why {what}, in at most {} bytes: whoever looks at the plugin later reads it",
                limits::REASON_BYTES_MAX
            ),
        )
        .with("field", "reason"));
    }
    Ok(reason.to_owned())
}
