//! Settings of the HTTP surface: what it advertises, allows and bounds. Built by `config::checked`,
//! read by `http`.
//!
//! Invariant: values are checked; a [`Token`] has at least one scope, and its name is unique.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::types::{Digest, PluginName};

/// `[http]` and `[[auth.tokens]]` of the configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// URL by which other hosts and clients reach this one, without a slash at its end;
    /// `None` = the address that it listens on.
    pub advertise: Option<String>,
    /// Origins whose pages may call the host from a browser; `*` = any.
    pub cors_origins: Vec<String>,
    /// Largest record that an append takes: key, value and headers together, in bytes.
    pub record_bytes_max: usize,
    /// Who may do what.
    pub auth: AuthSettings,
}

/// Tokens that the host takes. Without any, everybody may do everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthSettings {
    /// In the order of the configuration.
    pub tokens: Vec<Token>,
}

impl AuthSettings {
    /// Whether requests need no token.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// A bearer token, known by its digest only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Name of its holder: who deployed, deleted, skipped.
    pub name: String,
    /// SHA-256 of the token's text.
    pub sha256: Digest,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// The plugins that it allows it for; `None` = all.
    pub plugins: Option<BTreeSet<PluginName>>,
}

impl Token {
    /// Whether the token allows `scope`, for `plugin` where the request is about one.
    #[must_use]
    pub fn allows(&self, scope: Scope, plugin: Option<&str>) -> bool {
        self.scopes.contains(&scope)
            && match (&self.plugins, plugin) {
                (Some(plugins), Some(plugin)) => plugins.iter().any(|name| name.as_str() == plugin),
                _ => true,
            }
    }
}

/// What a token may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Ask views.
    Query,
    /// Append records to topics, and read them.
    Append,
    /// Send commands.
    Command,
    /// See plugins, topics and metrics; pause, resume, skip; create and delete topics.
    Operate,
    /// Deploy and delete plugins.
    Deploy,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 5] = [
        Self::Query,
        Self::Append,
        Self::Command,
        Self::Operate,
        Self::Deploy,
    ];

    /// As it is written in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Append => "append",
            Self::Command => "command",
            Self::Operate => "operate",
            Self::Deploy => "deploy",
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a scope: use query, append, command, operate or deploy")]
pub struct UnknownScope(pub String);

impl FromStr for Scope {
    type Err = UnknownScope;
    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_allows_its_scopes_for_its_plugins() {
        let token = Token {
            name: "reader".into(),
            sha256: Digest::of(b"secret"),
            scopes: BTreeSet::from([Scope::Query]),
            plugins: Some(BTreeSet::from([PluginName::new("latest").unwrap()])),
        };
        assert!(token.allows(Scope::Query, Some("latest")));
        assert!(token.allows(Scope::Query, None));
        assert!(!token.allows(Scope::Query, Some("counter")));
        assert!(!token.allows(Scope::Deploy, Some("latest")));
    }

    #[test]
    fn every_scope_reads_back() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        assert!("admin".parse::<Scope>().is_err());
    }
}
