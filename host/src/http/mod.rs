//! The HTTP surface: the only place that names axum or JSON bodies. Called by `node`, which gives it
//! what a host consists of and the sockets to listen on.
//!
//! Invariants: every request is bounded in size, time and number; every error is a problem with a
//! stable code; nothing is done before the caller is known to be allowed to.

mod access;
mod append;
mod auth;
mod body;
mod bootstrap;
mod changes;
mod commands;
mod conditions;
mod context;
mod cursor;
mod drain;
mod encoding;
mod health;
mod history;
mod keys;
mod listing;
mod middleware;
mod openapi;
mod operations;
mod params;
mod parked;
mod plugin_json;
mod plugins;
mod positions;
mod problem;
mod read;
mod record_json;
mod routes;
mod server;
mod topics;
mod views;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use self::context::App;
use self::routes::RouteTable;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::config::{HttpSettings, Scope, TopicSettings};
use crate::log::Log;
use crate::manager::Manager;
use crate::telemetry::Metrics;
use crate::types::ClusterName;

/// What a host consists of, as far as its surface is concerned.
#[derive(Debug)]
pub struct HttpServices {
    /// Plugins.
    pub manager: Manager,
    /// Who owns a key.
    pub cluster: Cluster,
    /// Topics and records.
    pub log: Arc<dyn Log>,
    /// Figures.
    pub metrics: Metrics,
    /// Time and request ids.
    pub clock: Clock,
    /// Tells which topics are the host's own.
    pub cluster_name: ClusterName,
    /// How topics are created.
    pub topics: TopicSettings,
    /// Bounds, origins and tokens.
    pub settings: HttpSettings,
}

/// Serves until `stop` is cancelled, then lets running requests end, for a bounded time. With `admin`,
/// what concerns operation is answered there and only there.
///
/// # Errors
/// If a listener turns out not to be one.
pub async fn serve(
    services: HttpServices,
    listener: TcpListener,
    admin: Option<TcpListener>,
    stop: CancellationToken,
) -> io::Result<()> {
    listener.local_addr()?;
    let document = openapi::document(groups());
    let table = RouteTable::of(&document);
    let document = Bytes::from(serde_json::to_vec(&document).map_err(io::Error::other)?);
    let app = App::new(services, stop.clone(), document, table);
    match admin {
        None => server::run(listener, router(&app, |_| true), stop).await,
        Some(admin) => {
            admin.local_addr()?;
            let public = router(&app, |side| side == Side::Public);
            let operate = router(&app, |side| side == Side::Admin);
            tokio::join!(
                server::run(listener, public, stop.clone()),
                server::run(admin, operate, stop)
            );
        }
    }
    Ok(())
}

/// Which listener a group of routes belongs to, where there are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Public,
    Admin,
}

/// Routes that need the same right.
struct Group {
    side: Side,
    /// One of these is needed; empty = everybody may ask.
    scopes: &'static [Scope],
    routes: OpenApiRouter<App>,
}

/// All routes.
fn groups() -> Vec<Group> {
    use Side::{Admin, Public};
    let group = |side, scopes, routes| Group {
        side,
        scopes,
        routes,
    };
    vec![
        group(
            Public,
            &[Scope::Query],
            views::routes()
                .merge(keys::routes())
                .merge(changes::routes())
                .merge(history::routes()),
        ),
        group(Public, &[Scope::Query], read::routes()),
        group(Public, &[Scope::Append], append::routes()),
        group(Public, &[Scope::Command], commands::routes()),
        group(Admin, &[], health::open_routes()),
        group(
            Admin,
            &[Scope::Operate],
            health::operate_routes().merge(topics::routes()),
        ),
        group(
            Admin,
            &[Scope::Operate, Scope::Deploy],
            plugins::read_routes()
                .merge(operations::read_routes())
                .merge(parked::read_routes())
                .merge(bootstrap::read_routes()),
        ),
        group(
            Admin,
            &[Scope::Deploy],
            plugins::write_routes()
                .merge(operations::write_routes())
                .merge(parked::write_routes())
                .merge(bootstrap::write_routes()),
        ),
        group(Admin, &Scope::ALL, health::common_routes()),
    ]
}

/// The router of one listener, with everything that lies around its routes.
fn router(app: &App, serves: impl Fn(Side) -> bool) -> Router {
    let mut router = Router::new();
    let is_open = app.services.settings.auth.is_open();
    for group in groups().into_iter().filter(|group| serves(group.side)) {
        let (mut routes, _) = group.routes.split_for_parts();
        if !group.scopes.is_empty() && !is_open {
            let state = (app.clone(), group.scopes);
            routes = routes.route_layer(from_fn_with_state(state, auth::require));
        }
        router = router.merge(routes);
    }
    let router = router
        .fallback(routes::unknown_route)
        .method_not_allowed_fallback(routes::method_not_allowed);
    middleware::around(router, app).with_state(app.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routes_of_the_two_listeners_do_not_overlap() {
        let paths = |side| {
            let groups: Vec<_> = groups()
                .into_iter()
                .filter(|group| group.side == side)
                .collect();
            openapi::document(groups)
                .paths
                .paths
                .into_keys()
                .collect::<Vec<_>>()
        };
        let admin = paths(Side::Admin);
        assert!(paths(Side::Public).iter().all(|path| !admin.contains(path)));
        for path in [
            "/healthz",
            "/readyz",
            "/metrics",
            "/v1/plugins/{plugin}",
            "/v1/topics/{topic}",
        ] {
            assert!(admin.iter().any(|known| known == path), "{path}");
        }
    }

    #[test]
    fn only_health_needs_no_right() {
        for group in groups().into_iter().filter(|group| group.scopes.is_empty()) {
            for path in group.routes.into_openapi().paths.paths.keys() {
                assert!(["/healthz", "/readyz"].contains(&path.as_str()), "{path}");
            }
        }
    }
}
