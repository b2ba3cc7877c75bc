//! Full-state events in a test: what they are, and that they say everything.

use super::{Driver, Record, pack, scope};
use crate::abi::types::EventOut;
use crate::emit_state::emit_state;
use crate::fold::fold_batch;
use crate::testing::route::Arrival;
use crate::{EmitState, Key, Timestamp};

type States = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

impl<H: EmitState> Driver<H> {
    /// What the host would write for a key, at the time of [`set_now`](Self::set_now); nothing for a key
    /// without state. It changes nothing here.
    pub fn emit_state(&mut self, key: impl Key) -> Vec<Record> {
        let key = key.to_key();
        let Some(state) = self.partition.states.get(&key) else {
            return Vec::new();
        };
        let now = self.now;
        scope(&mut self.logs, &self.parameters, || {
            emitted::<H>(&key, state, now)
        })
    }

    /// Checks, for every key that has a state, that the events of [`EmitState`] say everything: folded onto
    /// nothing they give the state, byte for byte, and folded onto that state they leave it as it is,
    /// whenever they are written.
    ///
    /// # Panics
    /// They do not; the message says for which key, and how. Or there is no state to tell at all: the check
    /// would be of no use.
    pub fn assert_emit_state(&mut self) {
        let states = &self.partition.states;
        assert!(
            !states.is_empty(),
            "no key has a state: give the driver some events first"
        );
        let now = self.now;
        let later = Timestamp::from_millis(now.millis() + 1);
        scope(&mut self.logs, &self.parameters, || {
            for (key, state) in states {
                let once = emitted::<H>(key, state, now);
                let again = emitted::<H>(key, state, now);
                assert_eq!(
                    once, again,
                    "`emit_state` must depend on key and state only"
                );
                for at in [now, later] {
                    let events = emitted::<H>(key, state, at);
                    expect::<H>(key, state, None, &events, "onto nothing");
                    expect::<H>(key, state, Some(state), &events, "onto that state");
                }
            }
        });
    }
}

fn emitted<H: EmitState>(key: &[u8], state: &[u8], now: Timestamp) -> Vec<Record> {
    let events: Vec<EventOut> = emit_state::<H>(key, state);
    let events = events.into_iter();
    events
        .map(|event| Record::written(key, event, now))
        .collect()
}

/// Folds the events onto `before`; that must give `state`.
fn expect<H: EmitState>(
    key: &[u8],
    state: &[u8],
    before: Option<&[u8]>,
    events: &[Record],
    onto: &str,
) {
    let name = key.escape_ascii();
    assert!(
        !events.is_empty(),
        "`emit_state` gives no event for key `{name}`, which has a state"
    );
    let arrival = |(index, record)| Arrival {
        record,
        index,
        offset: 0,
        key: key.to_vec(),
    };
    let arrivals: Vec<_> = events.iter().enumerate().map(arrival).collect();
    let before = before.map(|state| (key.to_vec(), state.to_vec()));
    let (states, batch) = pack::events(&arrivals, &States::from_iter(before), None, false);
    let folded = fold_batch::<H>(&states, &batch);
    pack::check(&states, &folded);
    if let Some(rejection) = folded.rejected.first() {
        let (event, reason) = (&events[rejection.index as usize], &rejection.reason);
        panic!("the full-state event {event:?} is rejected by the handler's own fold: {reason}");
    }
    let after = match folded.values.marks[0] {
        crate::columns::UNCHANGED => states.values.item(0),
        _ => folded.values.item(0),
    };
    if after != Some(state) {
        let after = after.map_or("no state".to_owned(), |s| format!("`{}`", s.escape_ascii()));
        panic!(
            "the full-state events of key `{name}`, folded {onto}, do not give its state\n  state:  `{}`\n  \
             folded: {after}\nthey must replace what was there, and hold all of the state",
            state.escape_ascii(),
        );
    }
}
