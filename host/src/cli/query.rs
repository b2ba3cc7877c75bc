//! `foldhost query`: asks a plugin about a key, or prints all keys.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use reqwest::blocking::RequestBuilder;
use reqwest::header::ACCEPT;
use serde_json::json;

use super::args::QueryArgs;
use super::client::{Answer, Client, ClientError};
use super::exit::UsageError;
use super::output;

/// Runs the command.
pub(super) fn run(args: &QueryArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let Some(key) = &args.key else {
        return all_keys(&client, args);
    };
    let question = Question::of(&args.question)?;
    let answer = match ask(&client, args, key, &question) {
        // The host that was asked knows the owner; a second redirection is not followed.
        Err(ClientError::Refused {
            owner: Some(owner), ..
        }) => ask(&client.at(&owner)?, args, key, &question)?,
        answer => answer?,
    };
    print(&answer, args.client.json)
}

/// Name of the query, and its arguments.
#[derive(Debug, PartialEq, Eq)]
struct Question<'a> {
    name: Option<&'a str>,
    arguments: Vec<(&'a str, &'a str)>,
}

impl<'a> Question<'a> {
    fn of(words: &'a [String]) -> Result<Self, UsageError> {
        let (name, rest) = match words.split_first() {
            Some((first, rest)) if !first.contains('=') => (Some(first.as_str()), rest),
            _ => (None, words),
        };
        let arguments = rest.iter().map(|word| {
            word.split_once('=').ok_or_else(|| {
                UsageError(format!(
                    "'{word}' is not an argument of a query: write name=value"
                ))
            })
        });
        Ok(Self {
            name,
            arguments: arguments.collect::<Result<_, _>>()?,
        })
    }
}

fn ask(
    client: &Client,
    args: &QueryArgs,
    key: &str,
    question: &Question<'_>,
) -> Result<Answer, ClientError> {
    // A URL cannot hold these two as segments.
    let encoded = matches!(key, "." | "..").then(|| URL_SAFE_NO_PAD.encode(key));
    let (route, key) = match &encoded {
        Some(encoded) => ("keys-b64", encoded.as_str()),
        None => ("keys", key),
    };
    let mut segments = vec!["v1", "views", args.plugin.as_str(), route, key];
    segments.extend(question.name);
    let request = client.request(Method::GET, client.url(&segments, &question.arguments));
    client.send(conditions(request, args))
}

fn conditions(mut request: RequestBuilder, args: &QueryArgs) -> RequestBuilder {
    if let Some(position) = &args.min_position {
        request = request.header("foldhost-min-position", position);
    }
    if let Some(lag) = args.max_lag {
        request = request.header("foldhost-max-lag", lag);
    }
    if let Some(seconds) = args.wait {
        request = request.header("prefer", format!("wait={seconds}"));
    }
    request
}

fn all_keys(client: &Client, args: &QueryArgs) -> anyhow::Result<()> {
    let url = client.url(&["v1", "views", args.plugin.as_str(), "keys"], &[]);
    let request = client
        .request(Method::GET, url)
        .header(ACCEPT, "application/x-ndjson");
    let mut response = client.open(conditions(request, args))?;
    io::copy(&mut response, &mut io::stdout().lock())?;
    Ok(())
}

fn print(answer: &Answer, json: bool) -> anyhow::Result<()> {
    if !json {
        return Ok(output::body(&answer.body)?);
    }
    Ok(output::json(&json!({
        "answer": output::parsed(&answer.body),
        "position": answer.header("foldhost-position"),
        "lag": answer.header("foldhost-lag").and_then(|lag| lag.parse::<u64>().ok()),
        "etag": answer.header("etag"),
    }))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_without_an_equals_sign_names_the_query() {
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let named = words("by-day from=a to=b=c");
        let question = Question::of(&named).unwrap();
        assert_eq!(question.name, Some("by-day"));
        assert_eq!(question.arguments, [("from", "a"), ("to", "b=c")]);
        let unnamed = words("from=a");
        assert_eq!(Question::of(&unnamed).unwrap().name, None);
        assert_eq!(
            Question::of(&[]).unwrap(),
            Question {
                name: None,
                arguments: vec![]
            }
        );
        assert!(Question::of(&words("by-day from")).is_err());
    }
}
