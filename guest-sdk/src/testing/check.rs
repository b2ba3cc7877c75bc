//! The checks behind [`Driver::assert_deterministic`](super::Driver::assert_deterministic),
//! [`Driver::assert_idempotent`](super::Driver::assert_idempotent) and
//! [`Driver::assert_idempotent_outputs`](super::Driver::assert_idempotent_outputs).
//!
//! All runs happen in one process and one thread, one after the other, on purpose: what a plugin keeps
//! outside of its state is then different for each run.

use std::collections::BTreeMap;

use super::play::Partition;
use super::route::RouteFn;
use super::{Record, Rejection};
use crate::fold::read_state;
use crate::{Codec, Reject, View};

pub(super) type States = BTreeMap<Vec<u8>, Vec<u8>>;
/// By record and key.
type Rejects = BTreeMap<(usize, Vec<u8>), Reject>;

const WHY_NOT_DETERMINISTIC: &str = "`fold` (or `react`) must depend on its arguments only: no HashMap \
    in the state, no clock, no globals, nothing that the codec does not write";
const WHY_NOT_IDEMPOTENT: &str = "a record that comes again must change nothing: keep what has been \
    seen (an id, the newest time) in the state, and replace instead of adding";
const WHY_NOT_SILENT: &str = "a record that comes again must cause nothing: emit only where the state \
    changes, and keep in it what has been told";

/// What was sent, and onto what.
#[derive(Clone, Copy)]
pub(super) struct Log<'a> {
    base: &'a States,
    sent: &'a [Record],
    route: Option<RouteFn>,
    own_topic: bool,
}

impl<'a> Log<'a> {
    /// What was sent to `partition`.
    pub(super) fn new(base: &'a States, sent: &'a [Record], partition: &Partition) -> Self {
        Self {
            base,
            sent,
            route: partition.route,
            own_topic: partition.own_topic,
        }
    }
}

/// All that comes of a log.
pub(super) struct Run {
    pub(super) states: States,
    pub(super) rejects: Rejects,
    pub(super) outputs: Vec<Record>,
}

/// Folds the log under several splits; all must give what the driver itself has got.
pub(super) fn deterministic<V: View>(own: &Run, log: Log<'_>) {
    let all = log.sent.len();
    let compare = |name: &str, run: Run| {
        let names = ("as it was sent", name);
        compare_states(names, &own.states, &run.states, WHY_NOT_DETERMINISTIC);
        compare_rejects(names, &own.rejects, &run.rejects);
        compare_outputs(names, &own.outputs, &run.outputs, WHY_NOT_DETERMINISTIC);
    };
    compare("in one batch", run::<V>(log, log.sent, all));
    compare("one by one", run::<V>(log, log.sent, 1));
    // Moves what is counted in a global out of step with the runs before.
    if let Some(first) = log.sent.first() {
        run::<V>(log, std::slice::from_ref(first), 1);
    }
    compare("in threes", run::<V>(log, log.sent, 3));
    read_again::<V>(&own.states);
}

/// Every state must be the same bytes once it was read and written.
pub(super) fn read_again<V: View>(states: &States) {
    for (key, bytes) in states {
        let again = read_state::<V>(key, bytes).to_bytes();
        if again != *bytes {
            let (key, left, right) = (text(key), text(bytes), text(&again));
            panic!(
                "the state of key {key} changes when it is read and written again\n  \
                 once:  {left}\n  twice: {right}\n{WHY_NOT_DETERMINISTIC}"
            );
        }
    }
}

/// Folds the log with everything twice, in two ways; both must give the states that once gives.
pub(super) fn idempotent<V: View>(log: Log<'_>) {
    duplicated::<V>(log, |names, once, again| {
        compare_states(names, &once.states, &again.states, WHY_NOT_IDEMPOTENT);
    });
}

/// Folds the log with everything twice, in two ways; both must emit what once emits.
pub(super) fn idempotent_outputs<V: View>(log: Log<'_>) {
    duplicated::<V>(log, |names, once, again| {
        compare_outputs(names, &once.outputs, &again.outputs, WHY_NOT_SILENT);
    });
}

fn duplicated<V: View>(log: Log<'_>, compare: impl Fn((&str, &str), &Run, &Run)) {
    let once = run::<V>(log, log.sent, log.sent.len());
    let pairs = log.sent.iter().flat_map(|record| [record, record]);
    let pairs: Vec<_> = pairs.cloned().collect();
    let twice = run::<V>(log, &pairs, pairs.len());
    compare(("every record once", "every record twice"), &once, &twice);
    let again = run::<V>(log, &[log.sent, log.sent].concat(), log.sent.len());
    compare(("the log once", "the log twice"), &once, &again);
}

/// Folds `sent` in batches of `size`, onto the states and with the route of `log`.
fn run<V: View>(log: Log<'_>, sent: &[Record], size: usize) -> Run {
    let mut partition = Partition::new(log.base.clone(), log.route, log.own_topic);
    let mut rejections = Vec::new();
    let mut outputs = Vec::new();
    for (number, batch) in sent.chunks(size.max(1)).enumerate() {
        let outcome = partition.fold::<V>(batch);
        let rejected = outcome.rejected.into_iter();
        rejections.extend(rejected.map(|r| r.numbered(number * size)));
        outputs.extend(outcome.outputs);
    }
    Run {
        states: partition.states,
        rejects: rejects(&rejections),
        outputs,
    }
}

pub(super) fn rejects(rejections: &[Rejection]) -> Rejects {
    let rejections = rejections.iter().cloned();
    rejections
        .map(|rejection| ((rejection.record, rejection.key), rejection.reject))
        .collect()
}

fn compare_states(names: (&str, &str), left: &States, right: &States, why: &str) {
    let keys = left.keys().chain(right.keys());
    for key in keys {
        let (a, b) = (left.get(key), right.get(key));
        if a != b {
            let show = |state: Option<&Vec<u8>>| state.map_or("no state".into(), |s| text(s));
            let what = format!("the state of key {} differs", text(key));
            differ(&what, names, show(a), show(b), why);
        }
    }
}

fn compare_rejects(names: (&str, &str), left: &Rejects, right: &Rejects) {
    let records = left.keys().chain(right.keys());
    for record in records {
        let (a, b) = (left.get(record), right.get(record));
        if a != b {
            let show = |reject: Option<&Reject>| match reject {
                Some(reject) => format!("rejected, {reject}"),
                None => "applied".to_owned(),
            };
            let what = format!(
                "record {} fares differently at key {}",
                record.0,
                text(&record.1)
            );
            differ(&what, names, show(a), show(b), WHY_NOT_DETERMINISTIC);
        }
    }
}

fn compare_outputs(names: (&str, &str), left: &[Record], right: &[Record], why: &str) {
    for position in 0..left.len().max(right.len()) {
        let (a, b) = (left.get(position), right.get(position));
        if a != b {
            let show = |record: Option<&Record>| match record {
                Some(record) => format!("{record:?}"),
                None => "no more of them".to_owned(),
            };
            let what = format!("output {position} (from 0) differs");
            differ(&what, names, show(a), show(b), why);
        }
    }
}

fn differ(what: &str, names: (&str, &str), left: String, right: String, why: &str) -> ! {
    panic!(
        "{what}\n  {}: {left}\n  {}: {right}\n{why}",
        names.0, names.1
    );
}

/// Bytes for people: as text where they are text, else escaped.
fn text(bytes: &[u8]) -> String {
    format!("`{}`", bytes.escape_ascii())
}
