//! What lies around every request: its id, its metrics, problems as documents, panics as problems,
//! compression and CORS. Laid around the router by `http::router`.

use std::any::Any;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowOrigin, Any as AnyOrigin, CorsLayer};

use super::conditions::{
    LAG, MAX_LAG, MIN_POSITION, OWNER, PARTITIONS, POSITION, PREFERENCE_APPLIED,
};
use super::context::App;
use super::{drain, problem};
use crate::clock::Clock;
use crate::error::{Code, Problem};

/// Id of a request, on every answer.
const REQUEST_ID: HeaderName = HeaderName::from_static("foldhost-request-id");
/// The same, by the name that many proxies use; answered only where it was sent.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// The route in metrics of requests that hit none.
const NO_ROUTE: &str = "none";

/// Lays everything around a router: in one go, since axum boxes what it lays a layer around, for each request.
pub(super) fn around(router: Router<App>, app: &App) -> Router<App> {
    let origins = &app.services.settings.cors_origins;
    router.layer((
        from_fn_with_state(app.clone(), observe),
        option_layer((!origins.is_empty()).then(|| cors(origins))),
        CompressionLayer::new().gzip(true).zstd(true),
        CatchPanicLayer::custom(panicked),
    ))
}

/// Gives a request its id, counts it, and turns a problem into its document.
async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let clock = &app.services.clock;
    let started = clock.elapsed();
    let (id, id_came_by) = request_id(clock, request.headers());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let uri = request.uri().clone();
    let (parts, body) = request.into_parts();
    let (body, rest) = drain::lend(&parts.headers, body);

    let mut response = next.run(Request::from_parts(parts, body)).await;

    if response.status().is_client_error() || response.status().is_server_error() {
        if let Some(rest) = rest {
            rest.drain().await;
        }
        response = problem::render(response, uri.path(), id.to_str().unwrap_or_default());
    }
    let status = response.status();
    weaken_tag(response.headers_mut());
    join_vary(response.headers_mut());
    if let Some(name) = id_came_by {
        response.headers_mut().insert(name, id.clone());
    }
    response.headers_mut().insert(REQUEST_ID, id);
    let took = clock.elapsed().saturating_sub(started);
    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    app.services
        .metrics
        .http_request(route, status.as_u16(), took);
    response
}

/// The id that the client sent, and by which header, or a new one.
fn request_id(clock: &Clock, headers: &HeaderMap) -> (HeaderValue, Option<HeaderName>) {
    for name in [X_REQUEST_ID, REQUEST_ID] {
        if let Some(id) = headers.get(&name).filter(|id| is_request_id(id)) {
            return (id.clone(), Some(name));
        }
    }
    let id = HeaderValue::try_from(clock.unique_id()).expect("hexadecimal digits");
    (id, None)
}

/// Ids go to logs, so only what cannot confuse one is taken.
fn is_request_id(id: &HeaderValue) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
        && id
            .as_bytes()
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"._-:/+=".contains(b))
}

/// A compressed answer is not byte for byte the one that its strong tag names (RFC 9110, 8.8.3).
fn weaken_tag(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONTENT_ENCODING) {
        return;
    }
    let Some(tag) = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()) else {
        return;
    };
    if !tag.starts_with("W/") {
        let weak = HeaderValue::try_from(format!("W/{tag}")).expect("a tag is ASCII, and so is W/");
        headers.insert(header::ETAG, weak);
    }
}

/// Every layer adds a header of its own; one list is what clients and caches read best.
fn join_vary(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::VARY).iter();
    let Some(first) = values.next() else { return };
    let mut list = first.as_bytes().to_vec();
    let mut several = false;
    for value in values {
        several = true;
        list.extend_from_slice(b", ");
        list.extend_from_slice(value.as_bytes());
    }
    if several {
        let list = HeaderValue::from_bytes(&list).expect("values of headers, joined");
        headers.insert(header::VARY, list);
    }
}

/// A panic in a handler becomes a 500 of that request only.
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let words = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(panic = words, "a request's handler panicked");
    Problem::new(
        Code::Internal,
        "the host made a mistake with this request: report it with the request's id, the host's log has \
         the rest",
    )
    .into_response()
}

fn cors(origins: &[String]) -> CorsLayer {
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::from(AnyOrigin)
    } else {
        AllowOrigin::list(
            origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok()),
        )
    };
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::DELETE,
        ])
        .allow_headers([
            header::ACCEPT,
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_NONE_MATCH,
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static("prefer"),
            MAX_LAG,
            MIN_POSITION,
            REQUEST_ID,
            X_REQUEST_ID,
        ])
        .expose_headers([
            header::ETAG,
            header::LOCATION,
            header::RETRY_AFTER,
            LAG,
            OWNER,
            PARTITIONS,
            POSITION,
            PREFERENCE_APPLIED,
            REQUEST_ID,
        ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_request_id_is_kept_if_it_is_harmless() {
        let clock = Clock::manual(0, 1);
        let of = |id: &str| HeaderMap::from_iter([(X_REQUEST_ID, id.parse().unwrap())]);
        let (id, came_by) = request_id(&clock, &of("abc-123"));
        assert_eq!(
            (id.to_str().unwrap(), came_by),
            ("abc-123", Some(X_REQUEST_ID))
        );
        for bad in ["", "a b", "\"", &"x".repeat(129)] {
            let (id, came_by) = request_id(&clock, &of(bad));
            assert_eq!((id.len(), came_by), (32, None), "{bad}");
        }
    }

    #[test]
    fn a_panic_becomes_a_problem() {
        let response = panicked(Box::new("a mistake"));
        let problem = response.extensions().get::<Problem>().unwrap();
        assert_eq!(
            (problem.code, response.status().as_u16()),
            (Code::Internal, 500)
        );
    }

    #[test]
    fn what_an_answer_varies_by_is_one_list() {
        let mut headers = HeaderMap::new();
        join_vary(&mut headers);
        assert!(headers.is_empty());
        headers.append(header::VARY, "accept".parse().unwrap());
        headers.append(header::VARY, "accept-encoding".parse().unwrap());
        join_vary(&mut headers);
        assert_eq!(headers.get_all(header::VARY).iter().count(), 1);
        assert_eq!(headers[header::VARY], "accept, accept-encoding");
    }

    #[test]
    fn the_tag_of_a_compressed_answer_is_weak() {
        let mut headers = HeaderMap::from_iter([(header::ETAG, "\"1\"".parse().unwrap())]);
        weaken_tag(&mut headers);
        assert_eq!(headers[header::ETAG], "\"1\"");
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        weaken_tag(&mut headers);
        weaken_tag(&mut headers);
        assert_eq!(headers[header::ETAG], "W/\"1\"");
    }
}
