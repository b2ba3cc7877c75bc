//! Parameters of a URL: the part behind `?`, and the segments of the path. Called by every handler but
//! those of probes, which may add what they like.
//!
//! Invariant: nothing that a client wrote is ignored. A parameter that the route does not know is an
//! error that names the ones it knows.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::Uri;
use axum::http::request::Parts;

use crate::error::{Code, Problem};
use crate::limits;
use crate::types::TopicName;

/// The host's parameters of one request.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Parameters of a route whose parameters are all the host's.
    ///
    /// # Errors
    /// [`Code::BadParameter`] for one that is not among `known`.
    pub(super) fn of_host(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let pairs = decode(uri)?;
        match pairs
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()))
        {
            Some((name, _)) => Err(unknown(name, known)),
            None => Ok(Self(pairs)),
        }
    }

    /// Parameters of a route that passes the rest on to a plugin: those that begin with `_` are the
    /// host's, the others are the plugin's arguments, in the order of the URL.
    ///
    /// # Errors
    /// [`Code::BadParameter`] for one that begins with `_` and is not among `known`.
    pub(super) fn shared(
        uri: &Uri,
        known: &[&str],
    ) -> Result<(Self, Vec<(String, String)>), Problem> {
        if uri.query().is_none() {
            return Ok((Self(Vec::new()), Vec::new()));
        }
        let (host, plugin): (Vec<_>, Vec<_>) = decode(uri)?
            .into_iter()
            .partition(|(name, _)| name.starts_with('_'));
        match host
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()))
        {
            Some((name, _)) => Err(unknown(name, known)),
            None => Ok((Self(host), plugin)),
        }
    }

    /// The value of a parameter that may stand once.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(bad(
                name,
                format!("parameter '{name}' stands twice: give it once"),
            ));
        }
        Ok(first)
    }

    /// The values of a parameter that may stand several times.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }

    /// A whole number within `range`.
    pub(super) fn number<T>(
        &self,
        name: &str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, Problem>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.one(name)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(bad(
                name,
                format!(
                    "'{text}' is no value of '{name}': give a whole number from {} to {}",
                    range.start(),
                    range.end()
                ),
            )),
        }
    }

    /// Whole seconds, at most [`limits::WAIT_MAX`].
    pub(super) fn seconds(&self, name: &str) -> Result<Option<Duration>, Problem> {
        Ok(self
            .number(name, 0..=limits::WAIT_MAX.as_secs())?
            .map(Duration::from_secs))
    }

    /// `true` or `false`; a missing one is `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.one(name)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => Err(bad(
                name,
                format!("'{text}' is no value of '{name}': give true or false"),
            )),
        }
    }

    /// Values of the form `key=value`, each key once.
    pub(super) fn pairs(&self, name: &str) -> Result<BTreeMap<String, String>, Problem> {
        let mut pairs = BTreeMap::new();
        for text in self.all(name) {
            let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(bad(
                    name,
                    format!("'{text}' is no value of '{name}': write {name}=key=value"),
                ));
            };
            if pairs.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(bad(
                    name,
                    format!("'{name}' names '{key}' twice: give it once"),
                ));
            }
        }
        Ok(pairs)
    }
}

/// A parameter is wrong.
pub(super) fn bad(name: &str, detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadParameter, detail).with("parameter", name)
}

fn decode(uri: &Uri) -> Result<Vec<(String, String)>, Problem> {
    if uri.query().is_none() {
        return Ok(Vec::new());
    }
    Query::try_from_uri(uri)
        .map(|Query(pairs)| pairs)
        .map_err(|error| {
            Problem::new(
                Code::BadParameter,
                format!("the part of the URL behind '?' cannot be read: {error}"),
            )
        })
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let detail = if known.is_empty() && name.starts_with('_') {
        format!(
            "there is no parameter '{name}' here: names that begin with '_' are the host's, and this \
             route has none"
        )
    } else if known.is_empty() {
        format!("there is no parameter '{name}' here: this route has none")
    } else {
        format!(
            "there is no parameter '{name}' here: there is {}",
            known.join(", ")
        )
    };
    bad(name, detail).with("known", known.to_vec())
}

/// The variable segments of a path, percent-decoded.
#[derive(Debug)]
pub(super) struct Segments(RawPathParams);

impl Segments {
    /// The segment that the route calls `name`.
    ///
    /// # Panics
    /// If the route has no such segment: routes and handlers are written together.
    pub(super) fn get(&self, name: &str) -> &str {
        self.find(name).expect("the route has this segment")
    }

    /// The segment that the route calls `name`, if it has one.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| value)
    }

    /// The segment `topic` as a name.
    pub(super) fn topic(&self) -> Result<TopicName, Problem> {
        TopicName::new(self.get("topic"))
            .map_err(|error| Problem::new(Code::BadName, error.to_string()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Segments {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        RawPathParams::from_request_parts(parts, state).await.map(Self).map_err(|error| {
            Problem::new(
                Code::BadKey,
                format!(
                    "the path is not text once it is percent-decoded ({error}): ask for such a key \
                     by /keys-b64/ and its base64url"
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        let problem = Params::of_host(&uri("/x?limit=1&of=2"), &["limit"]).unwrap_err();
        assert_eq!(problem.code, Code::BadParameter);
        assert!(problem.detail.contains("'of'") && problem.detail.contains("limit"));
        let problem = Params::shared(&uri("/x?_limt=1&a=b"), &["_limit"]).unwrap_err();
        assert!(problem.detail.contains("'_limt'") && problem.detail.contains("_limit"));
    }

    #[test]
    fn the_plugins_arguments_keep_their_order() {
        let (host, plugin) =
            Params::shared(&uri("/x?b=1&_limit=5&a=%2F+z&b=2"), &["_limit"]).unwrap();
        assert_eq!(host.number("_limit", 1..=10).unwrap(), Some(5));
        let plugin: Vec<_> = plugin
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(plugin, [("b", "1"), ("a", "/ z"), ("b", "2")]);
    }

    #[test]
    fn values_are_checked() {
        let known = ["n", "f", "set"];
        let of = |text: &str| Params::of_host(&uri(text), &known).unwrap();
        assert!(of("/x?n=11").number("n", 1..=10).is_err());
        assert!(of("/x?n=x").number("n", 1..=10).is_err());
        assert!(of("/x?n=1&n=2").number("n", 1..=10).is_err());
        assert_eq!(of("/x").number("n", 1..=10).unwrap(), None);
        assert!(of("/x?f=yes").flag("f").is_err());
        assert!(of("/x?f=true").flag("f").unwrap());
        let pairs = of("/x?set=a%3D1&set=b=x=y").pairs("set").unwrap();
        assert_eq!((pairs["a"].as_str(), pairs["b"].as_str()), ("1", "x=y"));
        assert!(of("/x?set=a").pairs("set").is_err());
        assert!(of("/x?set=a=1&set=a=2").pairs("set").is_err());
    }
}
