//! A client of a host's HTTP surface, for the commands. Blocking: a command does one thing.
//!
//! Invariant: an answer that is an error never comes back as an answer; what the host says about it is
//! kept whole, for people and for `--json`.

use std::fmt::Write as _;
use std::io::Read as _;
use std::time::Duration;

use reqwest::blocking::{RequestBuilder, Response};
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use serde_json::Value;

use super::args::ClientArgs;
use super::exit::{Exit, UsageError};
use crate::limits;

/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long an answer may take: a host may wait for as long as it is asked to, and compile a plugin.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// A host, as its clients see it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::blocking::Client,
    base: Url,
    token: Option<String>,
}

/// What a host answered: a success.
#[derive(Debug)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// Headers.
    pub(super) headers: HeaderMap,
    /// The whole body.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub(super) fn json(&self) -> Result<Value, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Strange {
            status: self.status,
            text: format!("the answer is not JSON ({error}): {}", excerpt(&self.body)),
        })
    }

    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody there.
    #[error(
        "cannot reach a foldhost at {url}: {reason}; start one with `foldhost serve`, or name \
         another with --url"
    )]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The host refuses.
    #[error("{}", shown(.problem))]
    Refused {
        /// HTTP status.
        status: u16,
        /// The host's problem document (RFC 9457).
        problem: Value,
        /// URL of the host that owns what was asked for, if it is another one.
        owner: Option<String>,
    },
    /// Something that is no foldhost answers there.
    #[error("an answer with status {status} that no foldhost gives: {text}")]
    Strange {
        /// HTTP status.
        status: u16,
        /// What it said.
        text: String,
    },
}

impl ClientError {
    /// The exit code that goes with it.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } => Exit::Unavailable,
            Self::Refused {
                status, problem, ..
            } => Exit::of_problem(*status, problem["code"].as_str().unwrap_or_default()),
            Self::Strange { .. } => Exit::Failed,
        }
    }
}

/// A problem document for people: title and detail, or every fault on a line of its own; a command handler's refusal
/// with its own code and details.
fn shown(problem: &Value) -> String {
    let part = |name: &str| problem[name].as_str().unwrap_or_default();
    let faults = problem["faults"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut text = match (part("title"), part("detail")) {
        // The detail of several faults is their list.
        (title, detail) if faults.is_empty() && !detail.is_empty() => format!("{title}: {detail}"),
        (title, _) => title.to_owned(),
    };
    let _ = match problem["refusal"].as_str() {
        Some(own) => write!(text, " [{own}]"),
        None => write!(text, " [{}]", part("code")),
    };
    if let Some(details) = problem.get("details").filter(|it| !it.is_null()) {
        let _ = write!(text, "\n  details: {details}");
    }
    for fault in faults {
        let part = |name: &str| fault[name].as_str().unwrap_or_default();
        let _ = write!(text, "\n  - {} [{}]", part("detail"), part("code"));
    }
    text
}

impl Client {
    /// A client of the host that the arguments name.
    pub(super) fn new(args: &ClientArgs) -> anyhow::Result<Self> {
        Self::of(&args.url, args.token.clone())
    }

    /// A client of the host at `url`.
    pub(super) fn of(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        let wrong = || {
            UsageError(format!(
                "'{url}' is not a URL: write one as in http://127.0.0.1:8080"
            ))
        };
        let base = Url::parse(url).map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(wrong().into());
        }
        let mut builder = reqwest::blocking::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX)
            .user_agent(concat!("foldhost/", env!("CARGO_PKG_VERSION")));
        // A proxy knows nothing of this machine's loopback.
        if matches!(base.host_str(), Some("127.0.0.1" | "localhost" | "[::1]")) {
            builder = builder.no_proxy();
        }
        let token = token.filter(|token| !token.is_empty());
        Ok(Self {
            http: builder.build()?,
            base,
            token,
        })
    }

    /// The same client for another host.
    pub(super) fn at(&self, url: &str) -> anyhow::Result<Self> {
        Self::of(url, self.token.clone())
    }

    /// A URL of the host: segments are encoded, pairs go behind the `?`.
    pub(super) fn url(&self, segments: &[&str], pairs: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("the base was checked when the client was made")
            .pop_if_empty()
            .extend(segments);
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        url
    }

    /// A request that is yet to be sent.
    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Asks for something.
    pub(super) fn get(
        &self,
        segments: &[&str],
        pairs: &[(&str, &str)],
    ) -> Result<Answer, ClientError> {
        self.send(self.request(Method::GET, self.url(segments, pairs)))
    }

    /// Sends a request and reads the whole answer.
    pub(super) fn send(&self, request: RequestBuilder) -> Result<Answer, ClientError> {
        let response = self.open(request)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = self.body(response)?;
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    /// Sends a request and gives the answer to be read bit by bit.
    pub(super) fn open(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().map_err(|error| self.unreachable(&error))?;
        let status = response.status().as_u16();
        if status < 400 {
            return Ok(response);
        }
        let owner = response.headers().get("foldhost-owner");
        let owner = owner.and_then(|url| url.to_str().ok()).map(str::to_owned);
        let body = self.body(response)?;
        Err(match serde_json::from_slice::<Value>(&body) {
            Ok(problem) if problem["code"].is_string() => ClientError::Refused {
                status,
                problem,
                owner,
            },
            _ => ClientError::Strange {
                status,
                text: excerpt(&body),
            },
        })
    }

    fn body(&self, response: Response) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        let mut limited = response.take(limits::CLIENT_ANSWER_BYTES_MAX);
        limited
            .read_to_end(&mut body)
            .map_err(|error| ClientError::Unreachable {
                url: self.base.to_string(),
                reason: format!("the answer broke off: {error}"),
            })?;
        Ok(body)
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        // reqwest's own words name the URL again and hide the cause: the last one says most.
        let mut reason = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            reason = inner.to_string();
            cause = inner.source();
        }
        ClientError::Unreachable {
            url: self.base.to_string(),
            reason,
        }
    }
}

fn excerpt(body: &[u8]) -> String {
    const SHOWN_CHARS: usize = 300;
    String::from_utf8_lossy(body)
        .chars()
        .take(SHOWN_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_segment_by_segment() {
        let client = Client::of("http://127.0.0.1:1/", None).unwrap();
        let url = client.url(&["v1", "views", "latest", "keys", "a/b ü"], &[("x", "1&2")]);
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:1/v1/views/latest/keys/a%2Fb%20%C3%BC?x=1%262"
        );
        for bad in ["", "127.0.0.1:8080", "ftp://a", "mailto:a"] {
            let error = Client::of(bad, None).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn a_problem_shows_every_fault() {
        let problem = serde_json::json!({
            "title": "The component is refused", "detail": "build it; x", "code": "invalid-plugin",
            "faults": [{"code": "no-manifest", "detail": "build it"}, {"code": "no-kind", "detail": "x"}]
        });
        let error = ClientError::Refused {
            status: 422,
            problem,
            owner: None,
        };
        assert_eq!(
            error.to_string(),
            "The component is refused [invalid-plugin]\n  - build it [no-manifest]\n  - x [no-kind]"
        );
        assert_eq!(error.exit(), Exit::Refused);
    }

    #[test]
    fn a_refusal_shows_the_handlers_own_code_and_details() {
        let problem = serde_json::json!({
            "title": "The command is refused", "detail": "nothing is left", "code": "command-refused",
            "refusal": "sold-out", "details": {"left": 0}
        });
        let error = ClientError::Refused {
            status: 422,
            problem,
            owner: None,
        };
        assert_eq!(
            error.to_string(),
            "The command is refused: nothing is left [sold-out]\n  details: {\"left\":0}"
        );
        assert_eq!(error.exit(), Exit::RuledOut);
    }

    #[test]
    fn nobody_there_is_said_with_what_to_do() {
        // Port 9 (discard) of loopback: nothing listens there.
        let client = Client::of("http://127.0.0.1:9", None).unwrap();
        let error = client.get(&["healthz"], &[]).unwrap_err();
        assert_eq!(error.exit(), Exit::Unavailable);
        assert!(error.to_string().contains("foldhost serve"), "{error}");
    }
}
