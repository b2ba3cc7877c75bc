//! What a query's headers ask for: how stale an answer may be, which records it must include, how
//! long it may wait for them, and which answer the client has already. Called by `views` and `keys`.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, header};

use crate::error::{Code, Problem};
use crate::limits;
use crate::types::RecordPosition;

/// How many records behind an answer may be.
pub(super) const MAX_LAG: HeaderName = HeaderName::from_static("foldhost-max-lag");
/// Records that an answer must include.
pub(super) const MIN_POSITION: HeaderName = HeaderName::from_static("foldhost-min-position");
/// Position of an answer or of an append.
pub(super) const POSITION: HeaderName = HeaderName::from_static("foldhost-position");
/// How many records behind an answer is.
pub(super) const LAG: HeaderName = HeaderName::from_static("foldhost-lag");
/// URL of the host that owns a key.
pub(super) const OWNER: HeaderName = HeaderName::from_static("foldhost-owner");
/// Partitions that a page or stream covers.
pub(super) const PARTITIONS: HeaderName = HeaderName::from_static("foldhost-partitions");
/// Preferences that were honoured (RFC 7240).
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// What a query's headers ask for.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// Most records behind that is accepted before the backlog has been read.
    pub(super) max_lag: Option<u64>,
    /// Records that the answer must include.
    pub(super) positions: Vec<RecordPosition>,
    /// How long to wait for them, if the client said so; bounded.
    pub(super) wait: Option<Duration>,
}

impl Conditions {
    /// Reads them from a request's headers.
    ///
    /// # Errors
    /// [`Code::BadPosition`], and [`Code::BadParameter`] for a lag that is no number.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            max_lag: max_lag(headers)?,
            positions: positions(headers)?,
            wait: preferred_wait(headers),
        })
    }

    /// How long to wait for the positions.
    pub(super) fn wait_or_default(&self) -> Duration {
        self.wait.unwrap_or(limits::WAIT_DEFAULT)
    }
}

fn max_lag(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(MAX_LAG) else {
        return Ok(None);
    };
    let number = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| {
        Problem::new(
            Code::BadParameter,
            "Foldhost-Max-Lag is not a whole number: give the number of records that the answer may be \
             behind",
        )
        .with("header", MAX_LAG.as_str())
    })
}

/// A comma list, in one header or several.
fn positions(headers: &HeaderMap) -> Result<Vec<RecordPosition>, Problem> {
    let mut positions = Vec::new();
    for value in headers.get_all(MIN_POSITION) {
        let text = value.to_str().map_err(|_| {
            Problem::new(
                Code::BadPosition,
                "Foldhost-Min-Position is not ASCII: write topic/partition@offset",
            )
        })?;
        for item in text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            if positions.len() == limits::POSITIONS_MAX {
                return Err(Problem::new(
                    Code::BadPosition,
                    format!(
                        "Foldhost-Min-Position has more than {} positions: the last of each partition \
                         is enough",
                        limits::POSITIONS_MAX
                    ),
                ));
            }
            positions.push(
                item.parse()
                    .map_err(|error: crate::types::InvalidPosition| {
                        Problem::new(Code::BadPosition, error.to_string())
                    })?,
            );
        }
    }
    Ok(positions)
}

/// `wait` of RFC 7240, in whole seconds, at most [`limits::WAIT_MAX`]. As that RFC says, preferences
/// that are unknown or malformed are ignored, and of several the first counts.
fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .find_map(|preference| {
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=')?;
            if !name.trim().eq_ignore_ascii_case("wait") {
                return None;
            }
            value.trim().trim_matches('"').parse().ok()
        })
        .map(|seconds| Duration::from_secs(seconds).min(limits::WAIT_MAX))
}

/// Whether the client says by `If-None-Match` that it has the answer with this tag (in its quotes).
/// Tags are compared weakly (RFC 9110, 13.1.2): a compressed answer carries a weak one.
pub(super) fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    list(headers, header::IF_NONE_MATCH)
        .iter()
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// The items of a comma list, in one header or several.
pub(super) fn list(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let items = texts.flat_map(|text| text.split(',')).map(str::trim);
    items
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn positions_come_from_comma_lists_and_several_headers() {
        let headers = headers(&[
            ("foldhost-min-position", "flights/2@77, flights/0@3"),
            ("foldhost-min-position", "other.topic/1@0,"),
        ]);
        let conditions = Conditions::of(&headers).unwrap();
        let texts: Vec<_> = conditions
            .positions
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(texts, ["flights/2@77", "flights/0@3", "other.topic/1@0"]);
        assert_eq!(conditions.wait_or_default(), limits::WAIT_DEFAULT);
    }

    #[test]
    fn a_malformed_position_or_lag_is_named() {
        for bad in [
            "flights",
            "flights/2",
            "flights/x@1",
            "flights/2@77 flights/0@3",
        ] {
            let problem = Conditions::of(&headers(&[("foldhost-min-position", bad)])).unwrap_err();
            assert_eq!(problem.code, Code::BadPosition);
            assert!(
                problem.detail.contains("topic/partition@offset"),
                "{}",
                problem.detail
            );
        }
        let problem = Conditions::of(&headers(&[("foldhost-max-lag", "-1")])).unwrap_err();
        assert_eq!(problem.code, Code::BadParameter);
        assert_eq!(
            Conditions::of(&headers(&[("foldhost-max-lag", "12")]))
                .unwrap()
                .max_lag,
            Some(12)
        );
    }

    #[test]
    fn the_wait_is_found_among_preferences_and_bounded() {
        for (value, seconds) in [
            ("wait=7", Some(7)),
            ("respond-async, wait=10; foo=bar", Some(10)),
            ("Wait = \"3\"", Some(3)),
            ("wait=100000", Some(60)),
            ("waiting=5", None),
            ("wait=soon", None),
            ("wait=0", Some(0)),
        ] {
            let wait = preferred_wait(&headers(&[("prefer", value)]));
            assert_eq!(wait.map(|wait| wait.as_secs()), seconds, "{value}");
        }
    }

    #[test]
    fn tags_are_compared_weakly() {
        let tag = "\"1.2.77-deadbeef\"";
        for value in [
            tag,
            "W/\"1.2.77-deadbeef\"",
            "\"x\", \"1.2.77-deadbeef\"",
            "*",
        ] {
            assert!(
                has_already(&headers(&[("if-none-match", value)]), tag),
                "{value}"
            );
        }
        for value in ["\"1.2.77-deadbee0\"", "1.2.77-deadbeef", ""] {
            assert!(
                !has_already(&headers(&[("if-none-match", value)]), tag),
                "{value}"
            );
        }
        assert!(!has_already(&headers(&[]), tag));
    }
}
