//! The checks behind [`Driver::assert_deterministic`](super::Driver::assert_deterministic) and
//! [`Driver::assert_idempotent`](super::Driver::assert_idempotent).
//!
//! All runs happen in one process and one thread, one after the other, on purpose: what a view keeps
//! outside of its state is then different for each run.

use std::collections::BTreeMap;

use super::play::Partition;
use super::{Record, Rejection};
use crate::fold::read_state;
use crate::{Codec, Reject, View};

pub(super) type States = BTreeMap<Vec<u8>, Vec<u8>>;
type Rejects = BTreeMap<usize, Reject>;

const WHY_NOT_DETERMINISTIC: &str = "`fold` must depend on its arguments only: no HashMap in the \
    state, no clock, no globals, nothing that the codec does not write";

/// Folds `sent` onto `base` under several splits; all must give what the driver itself has got.
pub(super) fn deterministic<V: View>(
    own: &Partition,
    rejections: &[Rejection],
    base: &States,
    sent: &[Record],
) {
    let rejections = rejections.iter();
    let own_rejects = rejections
        .map(|rejection| (rejection.record, rejection.reject.clone()))
        .collect();
    let compare = |name: &str, run: (States, Rejects)| {
        let names = ("as it was sent", name);
        compare_states(names, &own.states, &run.0, WHY_NOT_DETERMINISTIC);
        compare_rejects(names, &own_rejects, &run.1);
    };
    compare("in one batch", run::<V>(base, sent, sent.len()));
    compare("one by one", run::<V>(base, sent, 1));
    // Moves what is counted in a global out of step with the runs before.
    if let Some(first) = sent.first() {
        run::<V>(base, std::slice::from_ref(first), 1);
    }
    compare("in threes", run::<V>(base, sent, 3));
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

/// Folds `sent` onto `base` with everything twice, in two ways; both must give what once gives.
pub(super) fn idempotent<V: View>(base: &States, sent: &[Record]) {
    let why = "a record that comes again must change nothing: keep what has been seen (an id, the \
        newest time) in the state, and replace instead of adding";
    let (once, _) = run::<V>(base, sent, sent.len());
    let pairs: Vec<_> = sent
        .iter()
        .flat_map(|record| [record, record])
        .cloned()
        .collect();
    let (twice, _) = run::<V>(base, &pairs, pairs.len());
    compare_states(
        ("every record once", "every record twice"),
        &once,
        &twice,
        why,
    );
    let (again, _) = run::<V>(base, &[sent, sent].concat(), sent.len());
    compare_states(("the log once", "the log twice"), &once, &again, why);
}

/// Folds `sent` onto `base` in batches of `size`.
fn run<V: View>(base: &States, sent: &[Record], size: usize) -> (States, Rejects) {
    let mut partition = Partition::default();
    partition.states.clone_from(base);
    let mut rejects = Rejects::new();
    for (number, batch) in sent.chunks(size.max(1)).enumerate() {
        for (index, reject) in partition.fold::<V>(batch) {
            rejects.insert(number * size + index, reject);
        }
    }
    (partition.states, rejects)
}

fn compare_states(names: (&str, &str), left: &States, right: &States, why: &str) {
    let keys = left.keys().chain(right.keys());
    for key in keys {
        let (a, b) = (left.get(key), right.get(key));
        if a != b {
            let show = |state: Option<&Vec<u8>>| state.map_or("no state".into(), |s| text(s));
            panic!(
                "the state of key {} differs\n  {}: {}\n  {}: {}\n{why}",
                text(key),
                names.0,
                show(a),
                names.1,
                show(b),
            );
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
            panic!(
                "record {record} fares differently\n  {}: {}\n  {}: {}\n{WHY_NOT_DETERMINISTIC}",
                names.0,
                show(a),
                names.1,
                show(b),
            );
        }
    }
}

/// Bytes for people: as text where they are text, else escaped.
fn text(bytes: &[u8]) -> String {
    format!("`{}`", bytes.escape_ascii())
}
