//! A small blocking client of the host's HTTP surface, for scenarios. It knows routes only where that
//! keeps scenarios short, and hides nothing of an answer: status, headers and bytes are there to be
//! asserted on.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::blocking;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// No answer takes longer, long polls included.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A client of one host.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    token: Option<String>,
    inner: blocking::Client,
}

/// A whole answer.
#[derive(Clone)]
pub struct Reply {
    /// The request, for messages.
    pub request: String,
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, not decompressed.
    pub body: Vec<u8>,
}

impl Client {
    /// A client of the host at `base`, such as `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// If the HTTP library cannot start.
    pub fn new(base: &str) -> Result<Self> {
        let inner = blocking::Client::builder()
            .timeout(ANSWER_WITHIN)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            token: None,
            inner,
        })
    }

    /// The same client with a bearer token on every request.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// The host's URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET path`.
    ///
    /// # Errors
    /// If there is no answer; any status is an answer.
    pub fn get(&self, path: &str) -> Result<Reply> {
        self.send("GET", path, &[], None)
    }

    /// `GET path` with headers.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<Reply> {
        self.send("GET", path, headers, None)
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn delete(&self, path: &str) -> Result<Reply> {
        self.send("DELETE", path, &[], None)
    }

    /// `PUT path` with a JSON body.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn put_json(&self, path: &str, body: &Value) -> Result<Reply> {
        self.send(
            "PUT",
            path,
            &[("content-type", "application/json")],
            Some(body.to_string().into_bytes()),
        )
    }

    /// Any request.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Reply> {
        let request = format!("{method} {path}");
        let url = format!("{}{path}", self.base);
        let mut builder = self.inner.request(method.parse()?, url);
        if let Some(token) = &self.token {
            builder = builder.bearer_auth(token);
        }
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        if let Some(body) = body {
            builder = builder.body(body);
        }
        let response = builder
            .send()
            .with_context(|| format!("no answer to {request}"))?;
        Ok(Reply {
            request,
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes()?.to_vec(),
        })
    }

    /// Begins to read an answer to `GET path` that does not end by itself.
    ///
    /// # Errors
    /// If there is no answer, or another one than 200.
    pub fn open(&self, path: &str, headers: &[(&str, &str)]) -> Result<blocking::Response> {
        let mut builder = self.inner.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            builder = builder.bearer_auth(token);
        }
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let response = builder
            .send()
            .with_context(|| format!("no answer to GET {path}"))?;
        match response.status().as_u16() {
            200 => Ok(response),
            status => bail!("GET {path} answered {status}: {}", response.text()?),
        }
    }

    /// Deploys a component under a name; `parameters` is a query string without `?`, or empty.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn deploy(&self, name: &str, parameters: &str, wasm: Vec<u8>) -> Result<Reply> {
        let mark = if parameters.is_empty() { "" } else { "?" };
        let path = format!("/v1/plugins/{name}{mark}{parameters}");
        self.send(
            "PUT",
            &path,
            &[("content-type", "application/wasm")],
            Some(wasm),
        )
    }

    /// Appends records, each a JSON object as in the HTTP contract, as NDJSON.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn append(&self, topic: &str, records: &[Value]) -> Result<Reply> {
        let mut body = String::new();
        for record in records {
            body.push_str(&record.to_string());
            body.push('\n');
        }
        self.append_text(topic, &body)
    }

    /// Appends a body as it is, as NDJSON.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn append_text(&self, topic: &str, body: &str) -> Result<Reply> {
        self.send(
            "POST",
            &format!("/v1/topics/{topic}/records"),
            &[("content-type", "application/x-ndjson")],
            Some(body.as_bytes().to_vec()),
        )
    }

    /// Appends records that must be accepted, and gives their places as (partition, offset).
    ///
    /// # Errors
    /// If they are not accepted, or the answer has another shape.
    pub fn append_all(&self, topic: &str, records: &[Value]) -> Result<Vec<(u32, u64)>> {
        let reply = self.append(topic, records)?.success()?;
        let places = places(&reply.json()?)?;
        if places.len() != records.len() {
            bail!(
                "{} records went in, {} places came back",
                records.len(),
                places.len()
            );
        }
        Ok(places)
    }

    /// Asks a view about a key (percent-encoded by the caller if it needs to be); `rest` is the
    /// query's name and arguments, such as `/by-day?from=…`, or empty.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn ask(&self, view: &str, key: &str, rest: &str) -> Result<Reply> {
        self.get(&format!("/v1/views/{view}/keys/{key}{rest}"))
    }

    /// Asks a view about a key once it has folded the record at `position` (`topic/partition@offset`).
    ///
    /// # Errors
    /// If there is no answer.
    pub fn ask_at(&self, view: &str, key: &str, rest: &str, position: &str) -> Result<Reply> {
        self.get_with(
            &format!("/v1/views/{view}/keys/{key}{rest}"),
            &[("foldhost-min-position", position), ("prefer", "wait=30")],
        )
    }
}

/// The places of an append's answer. Offsets may be numbers or, as 64-bit numbers, strings.
fn places(answer: &Value) -> Result<Vec<(u32, u64)>> {
    let records = answer["records"]
        .as_array()
        .context("the answer has no `records`")?;
    records
        .iter()
        .map(|record| {
            let partition = number(&record["partition"]).context("a record has no partition")?;
            let offset = number(&record["offset"]).context("a record has no offset")?;
            Ok((u32::try_from(partition)?, offset))
        })
        .collect()
}

/// A number of the host: 64-bit ones are JSON strings, as they can exceed 2^53.
pub fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Errors
    /// If it is not JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The answer itself if its status is 2xx.
    ///
    /// # Errors
    /// Else, with the whole answer.
    pub fn success(self) -> Result<Self> {
        if (200..300).contains(&self.status) {
            Ok(self)
        } else {
            bail!("{self:?}")
        }
    }

    /// The answer itself if it has this status.
    ///
    /// # Errors
    /// Else, with the whole answer.
    pub fn expect_status(self, status: u16) -> Result<Self> {
        if self.status == status {
            Ok(self)
        } else {
            bail!("expected {status}: {self:?}")
        }
    }

    /// The answer if it is an RFC 9457 problem with this status and stable code, and says in words
    /// what happened.
    ///
    /// # Errors
    /// Else, with the whole answer.
    pub fn expect_problem(self, status: u16, code: &str) -> Result<Self> {
        let reply = self.expect_status(status)?;
        let kind = reply.header("content-type").unwrap_or_default();
        if !kind.starts_with("application/problem+json") {
            bail!("a problem has the type application/problem+json: {reply:?}");
        }
        let problem = reply.json()?;
        if problem["code"] != code {
            bail!("expected the code {code}: {reply:?}");
        }
        if problem["status"] != status {
            bail!("the body's status is not {status}: {reply:?}");
        }
        if problem["detail"]
            .as_str()
            .is_none_or(|detail| detail.len() < 10)
        {
            bail!("the problem says nothing in words: {reply:?}");
        }
        Ok(reply)
    }

    /// Fails unless the body holds every one of `words`, whatever their case.
    ///
    /// # Errors
    /// With the word that is missing and the whole answer.
    pub fn expect_words(self, words: &[&str]) -> Result<Self> {
        let text = self.text().to_lowercase();
        for word in words {
            if !text.contains(&word.to_lowercase()) {
                bail!("the answer does not say `{word}`: {self:?}");
            }
        }
        Ok(self)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        let shown: String = text.chars().take(2_000).collect();
        write!(
            f,
            "{} answered {} {:?}: {shown}",
            self.request, self.status, self.headers
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, kind: &'static str, body: &str) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", kind.parse().unwrap());
        Reply {
            request: "GET /".into(),
            status,
            headers,
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn places_are_read_from_numbers_and_strings() {
        let answer = serde_json::json!({"records":[
            {"partition":1,"offset":"9007199254740993"}, {"partition":0,"offset":4}]});
        assert_eq!(
            places(&answer).unwrap(),
            [(1, 9_007_199_254_740_993), (0, 4)]
        );
        assert!(places(&serde_json::json!({"records":[{"partition":1}]})).is_err());
    }

    #[test]
    fn a_problem_is_checked_whole() {
        let body = r#"{"status":404,"code":"no-state","detail":"the key has no state"}"#;
        let kind = "application/problem+json";
        assert!(
            reply(404, kind, body)
                .expect_problem(404, "no-state")
                .is_ok()
        );
        assert!(
            reply(404, kind, body)
                .expect_problem(404, "not-found")
                .is_err()
        );
        assert!(
            reply(400, kind, body)
                .expect_problem(400, "no-state")
                .is_err()
        );
        assert!(
            reply(404, "application/json", body)
                .expect_problem(404, "no-state")
                .is_err()
        );
        let mute = r#"{"status":404,"code":"no-state"}"#;
        assert!(
            reply(404, kind, mute)
                .expect_problem(404, "no-state")
                .is_err()
        );
    }
}
