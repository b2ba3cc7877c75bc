//! The way from a key to a partition that may answer for it now: who owns it, has it read its backlog,
//! has it folded what the client wants to see. Called by `views` and `keys`.
//!
//! Invariant: an answer that passed here comes from a partition of this host that is live or blocked,
//! or no further behind than the client said it accepts, and that has folded every record that the
//! client named.

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};

use super::conditions::{Conditions, LAG, POSITION, PREFERENCE_APPLIED};
use super::context::App;
use crate::cluster::Location;
use crate::error::{Code, Problem};
use crate::manager::Plugin;
use crate::partition::{CodeInUse, Lookup, PartitionHandle, PartitionStatus, Phase};
use crate::state::KeyState;
use crate::types::{Offset, Partition, TopicName};

/// The topic whose partitions are the plugin's partitions.
pub(super) fn topic(plugin: &Plugin) -> TopicName {
    let deployment = plugin.deployment();
    let first = deployment.inputs.first();
    first
        .expect("a manifest without inputs is refused")
        .topic
        .clone()
}

/// The local partition, or who has it.
pub(super) fn local(
    app: &App,
    plugin: &Plugin,
    partition: Partition,
) -> Result<PartitionHandle, Problem> {
    match app.services.cluster.locate(plugin, partition) {
        Location::Local(handle) => Ok(handle),
        Location::Remote(url) => Err(Problem::new(
            Code::NotOwner,
            format!("partition {partition} of {} is owned by the host at {url}: ask there", plugin.name()),
        )
        .with("owner", url)
        .with("partition", partition.0)),
        Location::Nobody => Err(Problem::new(
            Code::NoOwner,
            format!(
                "partition {partition} of {} has no owner right now: hosts are taking it over, ask again \
                 in a moment",
                plugin.name()
            ),
        )
        .with("partition", partition.0)),
    }
}

/// Waits until whoever answers for the partition has folded what the client named, and checks that it
/// may answer. Another generation may take over meanwhile.
pub(super) async fn ready(
    app: &App,
    plugin: &Plugin,
    partition: Partition,
    conditions: &Conditions,
) -> Result<(PartitionHandle, PartitionStatus), Problem> {
    let handle = match wanted(plugin, partition, conditions)? {
        None => local(app, plugin, partition)?,
        Some(offset) => wait(app, plugin, partition, offset, conditions.wait_or_default()).await?,
    };
    let status = handle.status();
    match status.phase {
        _ if status.answers => Ok((handle, status)),
        Phase::Opening => Err(opening(plugin, partition)),
        _ => match conditions.max_lag {
            Some(max) if status.lag_events <= max => Ok((handle, status)),
            _ => Err(replaying(plugin, partition, &status)),
        },
    }
}

/// State of a key, from whoever answers now: a generation that was relieved meanwhile may be gone.
pub(super) async fn state(
    app: &App,
    plugin: &Plugin,
    partition: Partition,
    handle: &mut PartitionHandle,
    key: &[u8],
) -> Result<Lookup, Problem> {
    let error = match handle.state(key).await {
        Ok(lookup) => return Ok(lookup),
        Err(error) => error,
    };
    let now = local(app, plugin, partition)?;
    if now.is_same(handle) {
        return Err(error.into());
    }
    *handle = now;
    Ok(handle.state(key).await?)
}

/// The last record of this partition that the client wants to see folded.
fn wanted(
    plugin: &Plugin,
    partition: Partition,
    conditions: &Conditions,
) -> Result<Option<Offset>, Problem> {
    let deployment = plugin.deployment();
    let inputs = &deployment.inputs;
    let is_input = |topic: &TopicName| inputs.iter().any(|input| input.topic == *topic);
    if let Some(foreign) = conditions.positions.iter().find(|at| !is_input(&at.topic)) {
        let topics: Vec<_> = inputs.iter().map(|input| input.topic.as_str()).collect();
        return Err(Problem::new(
            Code::PositionNotAnInput,
            format!(
                "{foreign} is not of an input of {}: it reads {}",
                plugin.name(),
                topics.join(", ")
            ),
        )
        .with("inputs", topics));
    }
    let here = conditions
        .positions
        .iter()
        .filter(|at| at.partition == partition);
    Ok(here.map(|at| at.offset).max())
}

/// Who answers now, as soon as that has folded the record at `offset`.
async fn wait(
    app: &App,
    plugin: &Plugin,
    partition: Partition,
    offset: Offset,
    within: Duration,
) -> Result<PartitionHandle, Problem> {
    /// How long one of several that may answer is waited for.
    const SLICE: Duration = Duration::from_millis(100);
    let clock = &app.services.clock;
    let until = clock.elapsed() + within;
    let handle = loop {
        let handle = local(app, plugin, partition)?;
        let left = until.saturating_sub(clock.elapsed());
        let folded = handle.wait_folded(offset, left.min(SLICE));
        if app.unless_stopped(folded).await? {
            return Ok(handle);
        }
        let status = handle.status();
        // What stands still folds nothing more: waiting would only hide why.
        let is_stuck = matches!(status.phase, Phase::Blocked | Phase::Paused);
        if is_stuck || left.is_zero() {
            break handle;
        }
    };
    let status = handle.status();
    if status.next > offset {
        return Ok(handle);
    }
    let topic = topic(plugin);
    let mut detail = format!(
        "{} has not folded {topic}/{partition}@{offset} within {} s: ",
        plugin.name(),
        within.as_secs()
    );
    let _ = match (&status.blocked, status.fault()) {
        (Some(blocked), _) => write!(detail, "the partition is blocked: {}", blocked.detail),
        (None, Some(error)) => write!(detail, "the partition keeps trying after an error: {error}"),
        (None, None) if status.phase == Phase::Paused => {
            write!(
                detail,
                "it is paused (`foldhost plugin resume {}`)",
                plugin.name()
            )
        }
        (None, None) => write!(
            detail,
            "its next record is {}; ask again, or wait longer with 'Prefer: wait=<seconds>'",
            status.next
        ),
    };
    Err(Problem::new(Code::PositionNotReached, detail)
        .with("partition", partition.0)
        .with("next", status.next.0)
        .with("lag", status.lag_events))
}

/// The partition's store and reader are being opened, or the plugin's code is being fetched.
pub(super) fn opening(plugin: &Plugin, partition: Partition) -> Problem {
    let why = plugin
        .last_error()
        .map_or_else(String::new, |error| format!(" ({error})"));
    Problem::new(
        Code::Replaying,
        format!(
            "partition {partition} of {} is still being opened{why}: ask again in a moment",
            plugin.name()
        ),
    )
    .with("partition", partition.0)
}

fn replaying(plugin: &Plugin, partition: Partition, status: &PartitionStatus) -> Problem {
    let lag = status.lag_events;
    Problem::new(
        Code::Replaying,
        format!(
            "partition {partition} of {} is still reading its backlog and {lag} records behind: ask again \
             in a moment, or accept older answers with 'Foldhost-Max-Lag: <records>'",
            plugin.name()
        ),
    )
    .with("partition", partition.0)
    .with("lag", lag)
}

/// Version of a key's state as this code answers from it: `<generation>.<partition>.<offset>-<digest8>`.
pub(super) fn version(handle: &PartitionHandle, code: &CodeInUse, state: &KeyState) -> String {
    let store = &handle.spec().store;
    let [a, b, c, d, ..] = code.code.inspection().digest.as_bytes();
    format!(
        "{}.{}.{}-{a:02x}{b:02x}{c:02x}{d:02x}",
        store.generation, store.partition, state.changed_at
    )
}

/// How far a partition was when it answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// The partition.
    pub(super) partition: Partition,
    /// Offset of the first record of the generation.
    pub(super) start: Offset,
    /// First offset that is not folded.
    pub(super) next: Offset,
    /// How many records it is behind.
    pub(super) lag_events: u64,
}

/// Puts position and lag of an answer into its headers, and the wait that was honoured.
pub(super) fn stamp(
    headers: &mut HeaderMap,
    topic: &TopicName,
    progress: &[Progress],
    conditions: &Conditions,
) {
    let mut positions = String::new();
    for at in progress.iter().filter(|at| at.next > at.start) {
        let comma = if positions.is_empty() { "" } else { ", " };
        let _ = write!(
            positions,
            "{comma}{topic}/{}@{}",
            at.partition,
            at.next.0 - 1
        );
    }
    if !positions.is_empty() {
        headers.insert(POSITION, ascii(positions));
    }
    let lag: u64 = progress.iter().map(|at| at.lag_events).sum();
    headers.insert(LAG, HeaderValue::from(lag));
    if let Some(wait) = conditions.wait.filter(|_| !conditions.positions.is_empty()) {
        headers.insert(
            PREFERENCE_APPLIED,
            ascii(format!("wait={}", wait.as_secs())),
        );
    }
}

/// A header value of names and numbers.
pub(super) fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("names, numbers and punctuation are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_far_it_is() {
        let topic = TopicName::new("flights").unwrap();
        let at = |partition, start, next, lag_events| Progress {
            partition: Partition(partition),
            start: Offset(start),
            next: Offset(next),
            lag_events,
        };
        let mut headers = HeaderMap::new();
        let progress = [at(0, 0, 13, 2), at(1, 5, 5, 0), at(2, 0, 1, 1)];
        stamp(&mut headers, &topic, &progress, &Conditions::default());
        assert_eq!(headers["foldhost-position"], "flights/0@12, flights/2@0");
        assert_eq!(headers["foldhost-lag"], "3");
        assert!(!headers.contains_key("preference-applied"));
        let position: Vec<crate::types::RecordPosition> = headers["foldhost-position"]
            .to_str()
            .unwrap()
            .split(", ")
            .map(|p| p.parse().unwrap())
            .collect();
        assert_eq!(position.len(), 2, "what is answered can be asked for");
    }
}
