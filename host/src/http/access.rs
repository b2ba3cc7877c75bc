//! The way from a key to a partition that may answer for it now: who owns it, has it read its backlog,
//! has it folded what the client wants to see. Called by `views` and `keys`.
//!
//! Invariant: an answer that passed here comes from a partition of this host that is live or blocked,
//! or no further behind than the client said it accepts, and that has folded every record that the
//! client named.

use std::fmt::{self, Write as _};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::conditions::{Conditions, LAG, POSITION, PREFERENCE_APPLIED};
use super::context::App;
use super::positions::{self, Goal};
use crate::cluster::Location;
use crate::error::{Code, Problem};
use crate::manager::Plugin;
use crate::partition::{Blocked, CodeInUse, Lookup, PartitionHandle, PartitionStatus, Phase};
use crate::plugin::Kind;
use crate::state::KeyState;
use crate::types::{GenerationId, Offset, Partition, PluginName, RecordPosition, TopicName};

/// The topic whose records a partition folds, and by which its position is told.
pub(super) fn topic(handle: &PartitionHandle) -> &TopicName {
    &handle.spec().input.topic
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
    positions::check(app, plugin, conditions)?;
    let handle = match conditions.positions.is_empty() {
        true => local(app, plugin, partition)?,
        false => wait(app, plugin, partition, conditions).await?,
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

/// Who answers now, as soon as that has folded what the client named.
async fn wait(
    app: &App,
    plugin: &Plugin,
    partition: Partition,
    conditions: &Conditions,
) -> Result<PartitionHandle, Problem> {
    /// How long one of several that may answer is waited for.
    const SLICE: Duration = Duration::from_millis(100);
    let clock = &app.services.clock;
    let within = conditions.wait_or_default();
    let until = clock.elapsed() + within;
    // What has to be folded is found once for each that may answer.
    let mut found: Option<(PartitionHandle, Goal)> = None;
    loop {
        let handle = local(app, plugin, partition)?;
        let left = until.saturating_sub(clock.elapsed());
        let goal = match found.take() {
            Some((of, goal @ Goal::Folded(_))) if of.is_same(&handle) => goal,
            _ => {
                let goal = positions::goal(app, &handle, &conditions.positions, left.min(SLICE));
                app.unless_stopped(goal).await??
            }
        };
        // What stands still goes no further: waiting would only hide why.
        let (has_folded, is_stuck) = match &goal {
            Goal::Nothing => (true, false),
            Goal::Folded(offset) => {
                let folded = handle.wait_folded(*offset, left.min(SLICE));
                let is_paused = handle.status().phase == Phase::Paused;
                let has_folded = app.unless_stopped(folded).await?;
                (has_folded, handle.is_blocked() || is_paused)
            }
            Goal::Unmerged { is_stopped, .. } => (false, *is_stopped),
        };
        let left = until.saturating_sub(clock.elapsed());
        match goal {
            _ if has_folded => return Ok(handle),
            // It may have been folded just before it stopped.
            Goal::Folded(offset) if handle.status().next > offset => return Ok(handle),
            goal if is_stuck || left.is_zero() => {
                return Err(not_reached(plugin, &handle, &goal, within));
            }
            goal => found = Some((handle, goal)),
        }
    }
}

/// Why what the client named is not folded.
fn not_reached(
    plugin: &Plugin,
    handle: &PartitionHandle,
    goal: &Goal,
    within: Duration,
) -> Problem {
    let name = plugin.name();
    let status = handle.status();
    let (what, next) = match goal {
        Goal::Unmerged { at, next, .. } => (format!("merged {at}"), *next),
        Goal::Folded(offset) => (
            format!("folded {}@{offset}", handle.spec().source()),
            Some(status.next),
        ),
        Goal::Nothing => (String::new(), Some(status.next)),
    };
    let mut detail = format!("{name} has not {what} within {} s: ", within.as_secs());
    let blocked = match goal {
        Goal::Unmerged { at, .. } => unmerged(plugin, at),
        Goal::Folded(_) | Goal::Nothing => status.blocked.clone(),
    };
    let _ = match (&blocked, status.fault()) {
        (Some(blocked), _) => write!(detail, "it is blocked: {}", blocked.detail),
        (None, Some(error)) => write!(detail, "the partition keeps trying after an error: {error}"),
        (None, None) if status.phase == Phase::Paused => {
            write!(detail, "it is paused (`foldhost plugin resume {name}`)")
        }
        (None, None) => write!(detail, "{}", standing(name, goal, next)),
    };
    let problem = Problem::new(Code::PositionNotReached, detail)
        .with("partition", handle.spec().store.partition.0)
        .with("lag", status.lag_events);
    match next {
        Some(next) => problem.with("next", next.0),
        None => problem,
    }
}

/// Where what is waited for stands, if nothing is wrong as far as this partition knows.
fn standing(name: &PluginName, goal: &Goal, next: Option<Offset>) -> String {
    const LONGER: &str = "ask again, or wait longer with 'Prefer: wait=<seconds>'";
    match (goal, next) {
        (
            Goal::Unmerged {
                is_stopped: true, ..
            },
            _,
        ) => format!("its input stands still there (`foldhost plugin show {name}` says why)"),
        (_, Some(next)) => format!("its next record is {next}; {LONGER}"),
        (_, None) => format!(
            "nothing of that partition is merged; see whether there is such a partition, {LONGER}"
        ),
    }
}

/// Why an input is not merged up to a record, if that is known here: whoever copies it may be another host.
fn unmerged(plugin: &Plugin, record: &RecordPosition) -> Option<Blocked> {
    let is_it = |blocked: &Blocked| {
        let at = blocked.at.as_ref();
        at.is_some_and(|at| at.topic == record.topic && at.partition == record.partition)
    };
    let handles = plugin.locals().into_iter();
    let mut blocked = handles.filter_map(|(_, handle)| handle.status().blocked);
    blocked.find(is_it)
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

/// How many events have made a key's state, of a command handler.
pub(super) const VERSION: HeaderName = HeaderName::from_static("foldhost-version");

/// Version of a key's state as some code answers from it: `<generation>.<partition>.<offset>-<digest8>`, of a
/// command handler `<version>-<digest8>`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    of: Of,
    /// First bytes of the digest of the code.
    code: u32,
}

/// What a version names.
#[derive(Debug, Clone, Copy)]
enum Of {
    /// How many events have made the state.
    Events(u64),
    /// The event that changed it last.
    Change(GenerationId, Partition, Offset),
}

impl Version {
    /// The version of a state.
    pub(super) fn of(handle: &PartitionHandle, code: &CodeInUse, state: &KeyState) -> Self {
        let store = &handle.spec().store;
        match code.code.inspection().kind {
            Kind::CommandHandler => Self::of_events(code, state.version()),
            Kind::View | Kind::Republisher => Self {
                of: Of::Change(store.generation, store.partition, state.changed_at),
                code: digest8(code),
            },
        }
    }

    /// The version of a command handler's state that so many events have made.
    pub(super) fn of_events(code: &CodeInUse, events: u64) -> Self {
        Self {
            of: Of::Events(events),
            code: digest8(code),
        }
    }

    /// The tag of an answer from this state, in its quotes.
    pub(super) fn etag(&self) -> String {
        /// Room for generations and partitions of three digits; longer ones grow it.
        const USUAL_BYTES: usize = 40;
        let mut tag = String::with_capacity(USUAL_BYTES);
        let _ = write!(tag, "\"{self}\"");
        tag
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            Of::Events(events) => write!(f, "{events}")?,
            Of::Change(generation, partition, offset) => {
                write!(f, "{generation}.{partition}.{offset}")?;
            }
        }
        write!(f, "-{:08x}", self.code)
    }
}

fn digest8(code: &CodeInUse) -> u32 {
    let [a, b, c, d, ..] = *code.code.inspection().digest.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// A phase, in a sentence.
pub(super) fn phase_words(phase: Phase) -> &'static str {
    match phase {
        Phase::Blocked => "blocked",
        Phase::Paused => "paused (`foldhost plugin resume`)",
        Phase::Opening => "being opened",
        Phase::Replaying => "still reading its backlog",
        Phase::Live => "taken over by other code, or busy",
    }
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
    /// Room for a position with a name of a usual length; longer ones grow it.
    const USUAL_POSITION_BYTES: usize = 48;
    let mut positions = String::with_capacity(progress.len() * USUAL_POSITION_BYTES);
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
