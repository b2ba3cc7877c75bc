//! The host about itself: alive, ready, metrics, version, the description of its routes.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::context::App;
use super::params::Params;
use crate::error::{Code, Problem};
use crate::log::LogKind;
use crate::manager::Readiness;

/// The ABI that plugins are built against.
const PLUGIN_ABI: &str = "foldhost:plugin@0.1.0";
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What orchestrators ask, without a token.
pub(super) fn open_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(alive))
        .routes(routes!(ready))
}

/// What operators ask.
pub(super) fn operate_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// What every holder of a token may ask.
pub(super) fn common_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(version))
        .routes(routes!(openapi))
}

/// The host is alive.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Alive {
    /// `alive`.
    status: &'static str,
}

/// Whether the host can be sent requests.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Ready {
    /// Everything that the host owned at its start is live or blocked.
    ready: bool,
    /// What is not as it should be, while the host answers.
    degraded: Vec<String>,
    /// What the host waits for until it is ready.
    waiting_for: Vec<String>,
}

/// What runs here.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Version {
    /// `foldhost`.
    name: &'static str,
    /// Version of the host.
    version: &'static str,
    /// Interface that plugins are built against.
    plugin_abi: &'static str,
    /// Name of the cluster.
    cluster: String,
    /// `kafka` or `embedded`.
    log: &'static str,
}

/// Whether the process answers
#[utoipa::path(
    get, path = "/healthz", tag = "host",
    responses((status = 200, description = "It does", body = Alive))
)]
async fn alive() -> Json<Alive> {
    Json(Alive { status: "alive" })
}

/// Whether the host can be sent requests
///
/// 200 once every partition that the host owned at its start is live or blocked, and from then on: later
/// trouble is in `degraded`, and takes no host out of service that can answer.
#[utoipa::path(
    get, path = "/readyz", tag = "host",
    responses(
        (status = 200, description = "It can", body = Ready),
        (status = 503, description = "Not yet: a problem with the same members"),
    )
)]
async fn ready(State(app): State<App>) -> Result<Json<Ready>, Problem> {
    let Readiness {
        ready,
        degraded,
        waiting_for,
    } = app.services.manager.readiness();
    if ready {
        return Ok(Json(Ready {
            ready,
            degraded,
            waiting_for,
        }));
    }
    let detail = format!(
        "the host waits for {}: ask again in a moment",
        waiting_for.join("; ")
    );
    Err(Problem::new(Code::NotReady, detail)
        .with("ready", false)
        .with("degraded", degraded)
        .with("waiting_for", waiting_for))
}

/// Metrics for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "host",
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"))
)]
async fn metrics(State(app): State<App>) -> Response {
    (
        [(header::CONTENT_TYPE, OPENMETRICS)],
        app.services.metrics.encode(),
    )
        .into_response()
}

/// What runs here
#[utoipa::path(
    get, path = "/v1/version", tag = "host",
    responses((status = 200, description = "Versions and names", body = Version))
)]
async fn version(State(app): State<App>, uri: Uri) -> Result<Json<Version>, Problem> {
    Params::of_host(&uri, &[])?;
    Ok(Json(Version {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        plugin_abi: PLUGIN_ABI,
        cluster: app.services.cluster_name.to_string(),
        log: match app.services.log.kind() {
            LogKind::Kafka => "kafka",
            LogKind::Embedded => "embedded",
        },
    }))
}

/// This description
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "host",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
async fn openapi(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, JSON)], app.openapi.clone()).into_response()
}
