//! `foldhost plugin pause|resume|rollback|skip`: what an operator does to a plugin that runs.

use reqwest::Method;

use super::args::{ClientArgs, RollbackArgs, StateArgs, StateChoice};
use super::client::Client;
use super::follow;
use super::output::{self, field};
use crate::types::{PluginName, RecordPosition};

/// Stops folding, or goes on.
pub(super) fn pause(name: &PluginName, args: &ClientArgs, paused: bool) -> anyhow::Result<()> {
    let client = Client::new(args)?;
    let action = if paused { "pause" } else { "resume" };
    let url = client.url(&["v1", "plugins", name.as_str(), action], &[]);
    let answer = client.send(client.request(Method::POST, url))?.json()?;
    if args.json {
        return Ok(output::json(&answer)?);
    }
    let text = if paused {
        format!(
            "{name} is paused: it answers, and folds nothing until `foldhost plugin resume {name}`"
        )
    } else {
        format!("{name} goes on")
    };
    Ok(output::line(&text)?)
}

/// Drops a build, or goes back to what ran before.
pub(super) fn rollback(args: &RollbackArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let name = args.name.as_str();
    let pairs = state_pairs(&args.states);
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let url = client.url(&["v1", "plugins", name, "rollback"], &pairs);
    let answer = client.send(client.request(Method::POST, url))?.json()?;
    if args.client.json {
        output::json(&answer)?;
    } else {
        let [version, deployment, generation] =
            ["version", "deployment", "generation"].map(|name| field(&answer, name));
        let text = match answer["outcome"].as_str() {
            Some("cancelled") => {
                format!(
                    "dropped what was being built; {name} {version} goes on in generation {generation}"
                )
            }
            Some("swapped") => format!(
                "{name} {version} runs again on the states that are there, as deployment {deployment}"
            ),
            _ => format!(
                "{name} {version} is coming back as deployment {deployment} of generation {generation}; \
                 the present one answers until it is ready"
            ),
        };
        output::line(&text)?;
    }
    follow::until_live(&client, name, &answer, &args.wait)
}

/// Leaves out one record.
pub(super) fn skip(
    name: &PluginName,
    at: &RecordPosition,
    reason: &str,
    args: &ClientArgs,
) -> anyhow::Result<()> {
    let client = Client::new(args)?;
    let url = client.url(&["v1", "plugins", name.as_str(), "skip"], &[]);
    let body = serde_json::json!({ "at": at.to_string(), "reason": reason });
    let request = client
        .request(Method::POST, url)
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .body(body.to_string());
    let answer = client.send(request)?.json()?;
    if args.json {
        return Ok(output::json(&answer)?);
    }
    let number = field(&answer, "skip");
    Ok(output::line(&format!(
        "{name} leaves out {at} (decision {number}) and goes on"
    ))?)
}

/// How states are asked for in a URL.
pub(super) fn state_pairs(args: &StateArgs) -> Vec<(&'static str, String)> {
    let mut pairs = Vec::new();
    match args.state {
        None => {}
        Some(StateChoice::Keep) => pairs.push(("state", "keep".to_owned())),
        Some(StateChoice::Rebuild) => pairs.push(("state", "rebuild".to_owned())),
    }
    if args.from_retained {
        pairs.push(("from_retained", "true".to_owned()));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_left_to_the_host_unless_somebody_says_so() {
        let none = StateArgs {
            state: None,
            from_retained: false,
        };
        assert_eq!(state_pairs(&none), []);
        let both = StateArgs {
            state: Some(StateChoice::Rebuild),
            from_retained: true,
        };
        let expected = [
            ("state", "rebuild".to_owned()),
            ("from_retained", "true".to_owned()),
        ];
        assert_eq!(state_pairs(&both), expected);
    }
}
