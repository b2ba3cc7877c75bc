//! Who may do what: bearer tokens with scopes, checked before a handler runs and before a body is read.
//! Laid around each group of routes by `http::router`.
//!
//! Invariant: a token is known by its SHA-256 only, and comparing takes the same time whichever token
//! it is. Without tokens in the configuration everything is allowed, and the principal is empty (the
//! configuration then allows loopback only).

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::context::App;
use crate::config::{AuthSettings, Scope, Token};
use crate::error::{Code, Problem};
use crate::manager::Manager;
use crate::types::{Digest, TopicName};

/// Name of the caller's token; empty where the host takes none.
#[derive(Debug, Clone, Default)]
pub(super) struct Principal(Option<Arc<str>>);

impl Principal {
    /// The name, empty where the host takes no tokens.
    pub(super) fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// The name, if there is one.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// Lets a request pass if its token has one of the scopes, for the plugin that the path names. Only for hosts
/// that take tokens.
pub(super) async fn require(
    State((app, scopes)): State<(App, &'static [Scope])>,
    request: Request,
    next: Next,
) -> Response {
    let auth = &app.services.settings.auth;
    let (mut parts, body) = request.into_parts();
    let checked = match authenticate(auth, &parts.headers) {
        Ok(token) => authorise(token, scopes, &app.services.manager, &mut parts)
            .await
            .map(|()| token),
        Err(problem) => Err(problem),
    };
    match checked {
        Ok(token) => {
            parts
                .extensions
                .insert(Principal(Some(Arc::from(token.name.as_str()))));
            next.run(Request::from_parts(parts, body)).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// The token that a request carries.
fn authenticate<'a>(auth: &'a AuthSettings, headers: &HeaderMap) -> Result<&'a Token, Problem> {
    let presented = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(presented) = presented.filter(|token| !token.is_empty()) else {
        return Err(Problem::new(
            Code::Unauthorized,
            "this host takes requests with a token only: send 'Authorization: Bearer <token>'",
        ));
    };
    let digest = Digest::of(presented.as_bytes());
    let mut found = None;
    for token in &auth.tokens {
        if same(&token.sha256, &digest) {
            found = Some(token);
        }
    }
    found.ok_or_else(|| {
        Problem::new(
            Code::Unauthorized,
            "the token is not one of this host's: check it against [[auth.tokens]] in the host's \
             configuration, which holds its SHA-256",
        )
    })
}

/// Compares without telling by its duration where the first difference is.
fn same(a: &Digest, b: &Digest) -> bool {
    let difference = a
        .as_bytes()
        .iter()
        .zip(b.as_bytes())
        .fold(0_u8, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}

async fn authorise(
    token: &Token,
    scopes: &[Scope],
    manager: &Manager,
    parts: &mut Parts,
) -> Result<(), Problem> {
    if !scopes.iter().any(|scope| token.scopes.contains(scope)) {
        return Err(lacks_scope(token, scopes));
    }
    let Some(plugins) = &token.plugins else {
        return Ok(());
    };
    let params = RawPathParams::from_request_parts(parts, &()).await.ok();
    let segment = |name: &str| {
        let params = params.as_ref()?;
        params
            .iter()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| value.to_owned())
    };
    if let Some(plugin) = segment("plugin") {
        return match plugins.iter().any(|allowed| allowed.as_str() == plugin) {
            true => Ok(()),
            false => Err(lacks_plugin(token, &format!("plugin '{plugin}'"))),
        };
    }
    // A token for some plugins reaches the topics that these read, and no others.
    if let Some(topic) = segment("topic") {
        let readers = TopicName::new(&topic).map(|topic| manager.readers_of(&topic));
        return match readers.is_ok_and(|readers| readers.iter().any(|name| plugins.contains(name)))
        {
            true => Ok(()),
            false => Err(lacks_plugin(
                token,
                &format!("topic '{topic}', which none of these reads"),
            )),
        };
    }
    Ok(())
}

fn lacks_scope(token: &Token, scopes: &[Scope]) -> Problem {
    let wanted: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
    let wanted = wanted.join(" or ");
    Problem::new(
        Code::Forbidden,
        format!(
            "the token '{}' lacks the scope {wanted}: add it to the token's scopes",
            token.name
        ),
    )
    .with("scope", wanted)
}

fn lacks_plugin(token: &Token, what: &str) -> Problem {
    let plugins = token.plugins.iter().flatten();
    let plugins: Vec<_> = plugins.map(crate::types::PluginName::as_str).collect();
    Problem::new(
        Code::Forbidden,
        format!(
            "the token '{}' is for the plugins {} only, not for {what}",
            token.name,
            plugins.join(", ")
        ),
    )
    .with("plugins", plugins)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn auth() -> AuthSettings {
        let token = |name: &str, secret: &str| Token {
            name: name.into(),
            sha256: Digest::of(secret.as_bytes()),
            scopes: BTreeSet::from([Scope::Query]),
            plugins: None,
        };
        AuthSettings {
            tokens: vec![token("a", "secret-a"), token("b", "secret-b")],
        }
    }

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, authorization.parse().unwrap())])
    }

    #[test]
    fn a_token_is_found_by_its_digest() {
        assert_eq!(
            authenticate(&auth(), &headers("Bearer secret-b"))
                .unwrap()
                .name,
            "b"
        );
        assert_eq!(
            authenticate(&auth(), &headers("bearer  secret-a "))
                .unwrap()
                .name,
            "a"
        );
        for wrong in ["Bearer secret-c", "Bearer ", "Basic secret-a", "secret-a"] {
            let problem = authenticate(&auth(), &headers(wrong)).unwrap_err();
            assert_eq!(problem.code, Code::Unauthorized, "{wrong}");
        }
        assert!(authenticate(&auth(), &HeaderMap::new()).is_err());
    }

    #[test]
    fn a_refusal_names_the_missing_scope() {
        let problem = lacks_scope(&auth().tokens[0], &[Scope::Operate, Scope::Deploy]);
        assert_eq!(problem.code.status(), 403);
        assert!(problem.detail.contains("operate or deploy"));
    }
}
