//! Waits until what was asked for answers, with a bar where a person watches. Used by `plugin deploy` and
//! `plugin rollback`.
//!
//! Invariant: whoever stops waiting stops nothing: the host goes on building.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde_json::Value;

use super::args::WaitArgs;
use super::client::{Answer, Client, ClientError};
use super::output;
use super::progress::Progress;
use crate::clock::Clock;

/// How long the host is asked to wait at once where a bar is drawn.
const LOOK_SECONDS: u64 = 1;
/// The same where nobody watches.
const WAIT_SECONDS: u64 = 10;

/// Waits until the deployment in `answer` is live, if that was asked for, or if it is built while a
/// person watches.
///
/// # Errors
/// The host's word when it is blocked, or not live in time.
pub(super) fn until_live(
    client: &Client,
    name: &str,
    answer: &Value,
    wait: &WaitArgs,
) -> anyhow::Result<()> {
    let is_watched = io::stderr().is_terminal();
    let takes_over = matches!(answer["outcome"].as_str(), Some("building" | "swapped"));
    if !(wait.wait || is_watched && takes_over) {
        return Ok(());
    }
    let deployment = output::field(answer, "deployment");
    let clock = Clock::system();
    let until = clock.elapsed() + Duration::from_secs(wait.timeout);
    let mut building = Building::default();
    loop {
        let left = until.saturating_sub(clock.elapsed()).as_secs();
        let look = if is_watched {
            LOOK_SECONDS
        } else {
            WAIT_SECONDS
        };
        let pairs = [
            ("_wait", look.min(left).to_string()),
            ("_deployment", deployment.clone()),
        ];
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, it)| (*name, it.as_str()))
            .collect();
        match client.get(&["v1", "plugins", name, "ready"], &pairs) {
            Ok(Answer { .. }) => break,
            Err(ClientError::Refused {
                status: 503,
                problem,
                ..
            }) if left > 0 && !is_stuck(&problem) => {
                building.at(problem["lag"].as_u64());
            }
            Err(error) => return Err(error.into()),
        }
    }
    drop(building);
    output::note(&format!("{name} is live"));
    if answer["outcome"] == "swapped" {
        let plugin = client.get(&["v1", "plugins", name], &[])?.json()?;
        output::note(&format!("its code folds from {} on", folds_from(&plugin)));
    }
    Ok(())
}

/// From which position on the present code folded, for each partition of the host.
fn folds_from(plugin: &Value) -> String {
    let topic = output::field(&plugin["inputs"][0], "topic");
    let partitions = plugin["partitions"].as_array();
    let positions = partitions.into_iter().flatten().filter_map(|partition| {
        let from = partition["folds_from"].as_u64()?;
        Some(format!("{topic}/{}@{from}", partition["partition"]))
    });
    positions.collect::<Vec<_>>().join(", ")
}

/// Whether waiting does not help.
fn is_stuck(problem: &Value) -> bool {
    matches!(
        problem["plugin_status"].as_str(),
        Some("blocked" | "paused")
    )
}

/// How far a build has come; its size is its lag when it was first seen.
#[derive(Default)]
struct Building {
    shown: Option<(u64, Progress)>,
}

impl Building {
    fn at(&mut self, lag: Option<u64>) {
        let Some(lag) = lag.filter(|lag| *lag > 0) else {
            return;
        };
        let is_more = self.shown.as_ref().is_none_or(|(total, _)| lag > *total);
        if is_more {
            self.shown = Some((lag, Progress::new("building", 0, lag)));
        }
        if let Some((total, progress)) = &mut self.shown {
            progress.at(*total - lag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_says_from_where() {
        let plugin = serde_json::json!({"inputs": [{"name": "a", "topic": "t"}], "partitions": [
            {"partition": 0, "folds_from": 7}, {"partition": 1, "folds_from": null}]});
        assert_eq!(folds_from(&plugin), "t/0@7");
    }

    #[test]
    fn what_stands_still_is_not_waited_for() {
        let status = |status: &str| serde_json::json!({ "plugin_status": status });
        assert!(is_stuck(&status("blocked")) && is_stuck(&status("paused")));
        assert!(!is_stuck(&status("replaying")) && !is_stuck(&Value::Null));
    }
}
