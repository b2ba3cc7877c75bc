//! How the worker of a command handler's partition tells its states again, in events, by decision. Part of `worker`.
//!
//! Invariants: a slice of keys is a round of its own, between those of commands, so that its events lie where the
//! states are what they say; events and how far it is are one transaction, so that a key is told once whatever
//! crashes; what it takes of the time is bounded, so that commands go on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::PartitionHandle;
use super::super::deciding::{Asked, Bootstrap, Bootstrapped, Round, Untold, tell};
use super::Worker;
use crate::limits;
use crate::log::NewRecord;
use crate::state::{KeyState, StateError, StatePage};

/// A decision by which states are told now.
#[derive(Debug)]
pub(super) struct Bootstrapping {
    decided: Bootstrap,
    /// When the last slice was begun, and how many keys it has come to.
    began: Duration,
    passed: u64,
    /// When the next is due.
    due: Duration,
}

impl Bootstrapping {
    /// How many keys a slice has at most.
    fn keys_max(&self) -> usize {
        let share =
            limits::BOOTSTRAP_INTERVAL.as_secs_f64() * f64::from(self.decided.keys_per_second);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is bounded, and never negative"
        )]
        let keys = share as usize;
        keys.max(1)
    }

    /// A slice is written: the next one waits as long as the rate says, and leaves commands their share.
    fn written(&mut self, now: Duration) {
        let rate = self.decided.keys_per_second.max(1);
        let by_rate = Duration::from_secs(self.passed) / rate;
        let took = now.saturating_sub(self.began);
        self.due = self.began + by_rate.max(took * limits::BOOTSTRAP_TIME_SHARE);
    }
}

impl Worker {
    /// Takes note of what is to be told.
    pub(super) fn follow_bootstrap(&mut self, decided: Option<Bootstrap>) {
        let now = self.ports.clock.elapsed();
        let Some(decider) = &mut self.decider else {
            return;
        };
        let told = decider.bootstrapped.as_ref();
        let is_left = |it: &Bootstrap| {
            told.is_none_or(|told| {
                told.number < it.number || (told.number == it.number && !told.done)
            })
        };
        let decided = decided.filter(is_left);
        let under_way = decider.bootstrapping.as_ref().map(|it| it.decided.number);
        if decided.as_ref().map(|it| it.number) == under_way {
            return;
        }
        decider.bootstrapping = decided.map(|decided| Bootstrapping {
            decided,
            began: now,
            passed: 0,
            due: now,
        });
    }

    /// How long until some states are to be told; `None` = none are, or not now.
    pub(super) fn bootstrap_due_in(&self, now: Duration) -> Option<Duration> {
        let bootstrapping = self.decider.as_ref()?.bootstrapping.as_ref()?;
        let can_tell = self.handle.code().code.inspection().capabilities.emit_state;
        (can_tell && self.may_decide()).then(|| bootstrapping.due.saturating_sub(now))
    }

    /// Tells the states of the next keys, and begins to write what came of it.
    pub(super) async fn bootstrap(&mut self) {
        // It has read all there is, and knows what it writes itself.
        self.reader = None;
        let Some(mut slice) = self.begin_slice() else {
            return;
        };
        let now_ms = self.ports.clock.now_ms();
        let mut failed = None;
        while slice.keys_left > 0 && !slice.told.done && failed.is_none() {
            let wanted = slice.keys_left.min(limits::BOOTSTRAP_SCAN_KEYS);
            let page = match states_behind(&self.handle, &slice, wanted).await {
                Ok(page) => page,
                Err(error) => return self.try_again(&error.to_string()),
            };
            let is_last = page.is_last;
            let mut left = page.states.into_iter();
            for (key, state) in left.by_ref() {
                if let Err(why) = self.tell_state(&mut slice, &key, &state, now_ms) {
                    failed = Some(why);
                    break;
                }
                slice.told.after = Some(key);
                slice.keys_left -= 1;
                if slice.bytes >= limits::BOOTSTRAP_BYTES_AT_ONCE_MAX
                    || self.ports.clock.elapsed() >= slice.until
                {
                    slice.keys_left = 0;
                    break;
                }
            }
            slice.told.done = is_last && failed.is_none() && left.len() == 0;
        }
        match failed {
            Some(why) if slice.passed() == 0 => self.try_again(&why),
            _ => self.write_slice(slice, now_ms),
        }
    }

    /// What is to be told next; `None` = nothing.
    fn begin_slice(&mut self) -> Option<Slice> {
        let began = self.ports.clock.elapsed();
        let decider = self.decider.as_mut()?;
        let bootstrapping = decider.bootstrapping.as_mut()?;
        bootstrapping.began = began;
        let of = bootstrapping.decided.clone();
        let told = decider.bootstrapped.as_deref();
        let told = told.filter(|told| told.number == of.number).cloned();
        let told = told.unwrap_or_else(|| Bootstrapped::begin(of.number, self.checkpoint.next));
        Some(Slice {
            passed_before: told.passed(),
            told,
            of,
            events: Vec::new(),
            bytes: 0,
            keys_left: bootstrapping.keys_max(),
            until: began + limits::BOOTSTRAP_SLICE_MAX,
        })
    }

    /// Adds the events that tell a key's state to a slice, or why there are none; the error says why nothing can be
    /// said.
    fn tell_state(
        &mut self,
        slice: &mut Slice,
        key: &Bytes,
        state: &KeyState,
        now_ms: i64,
    ) -> Result<(), String> {
        let Some(decider) = &self.decider else {
            return Err("it decides no more".to_owned());
        };
        let asked = Asked {
            source: &self.source,
            stamp: &decider.stamp,
            partition: self.handle.spec().store.partition,
            folds: true,
            now_ms,
        };
        match tell(&mut self.slot, slice.of.number, key, state, &asked) {
            Ok(events) => {
                slice.told.keys += 1;
                slice.told.events += events.len() as u64;
                slice.bytes += events.iter().map(NewRecord::bytes).sum::<usize>();
                slice.events.extend(events);
            }
            Err(Untold::Wrong(why)) => {
                let key = self.handle.code().manifest().key.format(key);
                let key = key.map_or_else(|| "a key".to_owned(), |key| format!("key '{key}'"));
                let problem = format!("{key} cannot be told: {why}");
                slice.told.untold += 1;
                slice.told.problem.get_or_insert(problem);
            }
            Err(Untold::TryAgain(why)) => return Err(why),
        }
        Ok(())
    }

    fn write_slice(&mut self, slice: Slice, now_ms: i64) {
        if let Some(bootstrapping) = self
            .decider
            .as_mut()
            .and_then(|it| it.bootstrapping.as_mut())
        {
            bootstrapping.passed = slice.passed();
        }
        let mut round = Round::default();
        round.events = slice.events;
        round.bootstrapped = Some(slice.told);
        self.write_round(round, now_ms);
    }

    /// A slice is durable.
    pub(super) fn bootstrapped(&mut self, told: Bootstrapped) {
        let now = self.ports.clock.elapsed();
        let Some(decider) = &mut self.decider else {
            return;
        };
        let told = Arc::new(told);
        decider.bootstrapped = Some(told.clone());
        if told.done {
            decider.bootstrapping = None;
            tracing::info!(partition = %self.handle.spec().store, bootstrap = told.number, keys = told.keys,
                events = told.events, untold = told.untold, "every state is told in events");
            if let Some(problem) = &told.problem {
                tracing::error!(partition = %self.handle.spec().store, "{problem}");
            }
            self.ports.changed.notify_one();
        } else if let Some(bootstrapping) = &mut decider.bootstrapping {
            bootstrapping.written(now);
        }
        self.handle.update(|status| status.bootstrap = Some(told));
    }
}

/// Keys behind those that a slice has come to, with their states, in order.
async fn states_behind(
    handle: &PartitionHandle,
    slice: &Slice,
    wanted: usize,
) -> Result<StatePage, StateError> {
    match &slice.of.key {
        Some(key) => {
            let found = handle.state(key).await?.state;
            let states = found.map(|state| (key.clone(), state)).into_iter();
            Ok(StatePage {
                states: states.collect(),
                is_last: true,
            })
        }
        None => handle.scan(&[], slice.told.after.as_deref(), wanted).await,
    }
}

/// Some keys that are told in one transaction.
struct Slice {
    of: Bootstrap,
    /// How far it is with this slice.
    told: Bootstrapped,
    /// How many keys it had come to before.
    passed_before: u64,
    events: Vec<NewRecord>,
    bytes: usize,
    keys_left: usize,
    /// When it has taken long enough.
    until: Duration,
}

impl Slice {
    fn passed(&self) -> u64 {
        self.told.passed() - self.passed_before
    }
}
