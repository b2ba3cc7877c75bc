//! `foldhost changes`: prints the changes of a plugin's states, one JSON object a line.
//!
//! Without `--follow` it ends when all is told that is committed by then; the token to go on from is said beside
//! the result, and so is whatever is not told.

use std::io;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::args::ChangesArgs;
use super::client::Client;
use super::output;
use crate::limits;

/// How long the host may wait for a change, in seconds.
const FOLLOW_WAIT_SECONDS: &str = "10";

/// A page as the host answers it. Changes stay as they are: a number that is read and written again may be another
/// one.
#[derive(Debug, Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    changes: Vec<&'a RawValue>,
    next: String,
    more: bool,
    restarted: bool,
    missing: Vec<Missing>,
}

/// A partition that the host does not tell about.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Missing {
    partition: u32,
    owner: Option<String>,
    reason: String,
}

/// Runs the command.
pub(super) fn run(args: &ChangesArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let limit = limits::PAGE_ITEMS_MAX.to_string();
    let mut since = args.since.clone();
    let mut missing = Vec::new();
    let mut waits = false;
    loop {
        let mut pairs = vec![("_limit", limit.as_str())];
        pairs.extend(since.as_deref().map(|since| ("_since", since)));
        if args.state {
            pairs.push(("_include", "state"));
        }
        if waits {
            pairs.push(("_wait", FOLLOW_WAIT_SECONDS));
        }
        let segments = ["v1", "views", args.plugin.as_str(), "changes"];
        let answer = client.get(&segments, &pairs)?;
        let page: Page<'_> = serde_json::from_slice(&answer.body)?;
        print(&answer.body, &page, args.client.json)?;
        if page.missing != missing {
            missing = page.missing;
            note_missing(&missing);
        }
        since = Some(page.next);
        waits = args.follow && !page.more;
        if !page.more && !args.follow {
            break;
        }
    }
    output::note(&format!("go on with --since {}", since.unwrap_or_default()));
    Ok(())
}

fn print(body: &[u8], page: &Page<'_>, json: bool) -> io::Result<()> {
    if page.restarted {
        output::note("the states were built anew: all keys are told again");
    }
    if json {
        return output::body(body);
    }
    let mut changes = page.changes.iter();
    changes.try_for_each(|change| output::line(change.get()))
}

fn note_missing(missing: &[Missing]) {
    for it in missing {
        let owner = it.owner.as_deref().unwrap_or("nobody right now");
        let (partition, reason) = (it.partition, &it.reason);
        output::note(&format!(
            "partition {partition} is not told here ({reason}): its owner is {owner}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_its_changes_stay_as_they_came() {
        let body = r#"{"changes":[{"key":"a","answer":{"n":12345678901234567890.50}}],"next":"AQ","more":false,
            "restarted":true,"partitions":[0],"missing":[{"partition":1,"owner":null,"reason":"no-owner"}]}"#;
        let page: Page<'_> = serde_json::from_str(body).unwrap();
        assert_eq!(
            page.changes[0].get(),
            r#"{"key":"a","answer":{"n":12345678901234567890.50}}"#
        );
        assert!(page.restarted && !page.more);
        assert_eq!(page.missing[0].reason, "no-owner");
    }
}
