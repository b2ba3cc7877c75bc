//! The table of all routes, made from the OpenAPI document, and the answers to requests that hit none:
//! they say which routes are near.

use axum::extract::{MatchedPath, State};
use axum::http::{Method, Uri};
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::PathItem;

use super::context::App;
use crate::error::{Code, Problem};

/// Routes that are named to a client that hit none.
const NEAR_ROUTES: usize = 5;
/// How alike a route must be to be named, from 0 to 1.
const NEARNESS_MIN: f64 = 0.5;

/// All routes of the host.
#[derive(Debug, Default)]
pub(super) struct RouteTable(Vec<Route>);

#[derive(Debug)]
struct Route {
    template: String,
    methods: Vec<&'static str>,
}

impl RouteTable {
    /// The routes that a document describes.
    pub(super) fn of(document: &OpenApi) -> Self {
        let paths = document.paths.paths.iter();
        Self(
            paths
                .map(|(path, item)| Route {
                    template: path.clone(),
                    methods: methods(item),
                })
                .collect(),
        )
    }

    /// The routes that a path was perhaps meant to hit, nearest first.
    fn near(&self, path: &str) -> Vec<String> {
        let mut scored: Vec<_> = self
            .0
            .iter()
            .map(|route| (nearness(&route.template, path), route))
            .filter(|(score, _)| *score >= NEARNESS_MIN)
            .collect();
        scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        scored
            .into_iter()
            .take(NEAR_ROUTES)
            .map(|(_, route)| format!("{} {}", route.methods.join("|"), route.template))
            .collect()
    }

    /// Whether a path is one of the routes, here or on the host's other listener.
    fn has(&self, path: &str) -> bool {
        self.0.iter().any(|route| is_of(&route.template, path))
    }

    fn methods_of(&self, template: &str) -> Option<String> {
        let route = self.0.iter().find(|route| route.template == template)?;
        Some(route.methods.join(", "))
    }
}

fn methods(item: &PathItem) -> Vec<&'static str> {
    [
        ("GET", item.get.is_some()),
        ("POST", item.post.is_some()),
        ("PUT", item.put.is_some()),
        ("PATCH", item.patch.is_some()),
        ("DELETE", item.delete.is_some()),
    ]
    .into_iter()
    .filter_map(|(method, is_there)| is_there.then_some(method))
    .collect()
}

fn is_of(template: &str, path: &str) -> bool {
    let segments = template.split('/').zip(path.split('/'));
    template.split('/').count() == path.split('/').count()
        && segments
            .into_iter()
            .all(|(wanted, given)| match wanted.starts_with('{') {
                true => !given.is_empty(),
                false => wanted == given,
            })
}

/// How alike the segments of a template and of a path are, from 0 to 1. A variable segment is as good
/// as half a hit, so that routes with the right words come first.
fn nearness(template: &str, path: &str) -> f64 {
    let template: Vec<_> = template.split('/').skip(1).collect();
    let path: Vec<_> = path.split('/').skip(1).collect();
    let longer = template.len().max(path.len());
    let alike: f64 = template
        .iter()
        .zip(&path)
        .map(|(wanted, given)| match wanted.starts_with('{') {
            true => 0.5,
            false => strsim::normalized_damerau_levenshtein(wanted, given),
        })
        .sum();
    alike / u32::try_from(longer).map_or(f64::MAX, f64::from)
}

/// Answers a request that hits no route.
pub(super) async fn unknown_route(State(app): State<App>, method: Method, uri: Uri) -> Problem {
    if app.routes.has(uri.path()) {
        return Problem::new(
            Code::UnknownRoute,
            format!(
                "{method} {} is answered on the host's other listener: its configuration says where \
                 (listen, admin-listen)",
                uri.path()
            ),
        );
    }
    let near = app.routes.near(uri.path());
    let detail = if near.is_empty() {
        format!(
            "there is no route {method} {}: GET /v1/openapi.json lists all",
            uri.path()
        )
    } else {
        format!(
            "there is no route {method} {}: near it are {} (GET /v1/openapi.json lists all; '/' and \
             other special characters in a key are percent-encoded)",
            uri.path(),
            near.join(", ")
        )
    };
    Problem::new(Code::UnknownRoute, detail).with("routes", near)
}

/// Answers a request whose route exists for other methods. axum adds `Allow`.
pub(super) async fn method_not_allowed(
    State(app): State<App>,
    path: Option<MatchedPath>,
    method: Method,
    uri: Uri,
) -> Problem {
    let methods = path.and_then(|path| app.routes.methods_of(path.as_str()));
    let methods = methods.unwrap_or_else(|| "what the header Allow says".to_owned());
    Problem::new(
        Code::MethodNotAllowed,
        format!("{} does not take {method}: it takes {methods}", uri.path()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> RouteTable {
        let route = |template: &str| Route {
            template: template.into(),
            methods: vec!["GET"],
        };
        RouteTable(vec![
            route("/v1/views/{plugin}/keys/{key}"),
            route("/v1/views/{plugin}/keys"),
            route("/v1/plugins/{plugin}"),
            route("/v1/plugins"),
            route("/healthz"),
        ])
    }

    #[test]
    fn near_routes_are_found_by_their_words() {
        let near = table().near("/v1/view/latest/key/a");
        assert_eq!(near[0], "GET /v1/views/{plugin}/keys/{key}");
        assert_eq!(table().near("/v1/plugin")[0], "GET /v1/plugins");
        assert_eq!(table().near("/health"), ["GET /healthz"]);
        assert!(table().near("/").is_empty());
    }

    #[test]
    fn a_route_of_the_other_listener_is_known() {
        for path in ["/healthz", "/v1/views/a/keys/b%2Fc", "/v1/plugins"] {
            assert!(table().has(path), "{path}");
        }
        for path in [
            "/",
            "/v1/views/a/keys/",
            "/v1/views/a/keys/b/c",
            "/v1/plugins/",
        ] {
            assert!(!table().has(path), "{path}");
        }
    }
}
