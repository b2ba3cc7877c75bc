//! How a worker folds a batch: loads states, steps, applies the changes to memory, and sets aside what
//! belongs to parked keys. Part of `worker`.
//!
//! Invariant: up to the position, every record is folded, skipped, set aside or parked; none behind it is.

use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashSet;

use super::super::changes::Place;
use super::super::open;
use super::super::publish::{told_again, version_of};
use super::super::step::{Poison, States, StepFault, Stepped, step};
use super::super::table::StateTable;
use super::super::{Blocked, PartitionHandle, Ports};
use super::Worker;
use super::parking::{Aside, interleave};
use crate::limits;
use crate::log::{RecordBatch, RecordRef};
use crate::plugin::manifest::OnError;
use crate::state::{IndexedEvent, PartitionStore, StateError};
use crate::types::{Offset, RecordPosition};

/// How far a batch was folded.
struct Reached {
    /// First offset that was not.
    until: Offset,
    /// Why not, and the record.
    poison: Option<(Poison, RecordBatch)>,
    /// What is behind it.
    left: RecordBatch,
}

impl Worker {
    /// Folds the first records of the batch: loads states, steps, applies the changes to memory.
    pub(super) async fn fold(&mut self, allowed: usize) {
        let began = self.ports.clock.elapsed();
        // What lies behind stays in the batch; the part goes the way of a whole one.
        let rest = (allowed < self.batch.len()).then(|| {
            let rest = self.batch.part(allowed..self.batch.len());
            self.batch = self.batch.part(0..allowed);
            rest
        });
        self.fold_batch().await;
        if let Some(rest) = rest {
            self.put_back(&rest);
        }
        let took = self.ports.clock.elapsed().saturating_sub(began);
        self.schedule.folded(took);
    }

    /// Puts records back behind what is left of a batch, unless it was given up.
    fn put_back(&mut self, rest: &RecordBatch) {
        if self.reader.is_none() || self.is_blocked() {
            return;
        }
        for record in rest.iter() {
            self.batch.push_record(&record);
        }
    }

    async fn fold_batch(&mut self) {
        let behind = self.batch.get(self.batch.len() - 1).offset.next();
        self.drop_skipped();
        self.drop_foreign();
        let Aside { parked, beyond } = self.take_parked();
        let end = match beyond.is_empty() {
            true => behind,
            false => beyond.get(0).offset,
        };
        let reached = match self.batch.is_empty() {
            true => Some(Reached {
                until: end,
                poison: None,
                left: RecordBatch::new(),
            }),
            // A handler that has no states only has a position.
            false if !self.folds() => Some(self.pass_batch(end)),
            false => self.step_batch(end).await,
        };
        let Some(Reached {
            until,
            poison,
            left,
        }) = reached
        else {
            let whole = std::mem::take(&mut self.batch);
            self.batch = interleave(whole, &parked, &beyond);
            return;
        };
        let waiting = self.park_until(parked, until);
        // Whoever sees the position sees what is parked before it.
        self.publish_position();
        if let Some((poison, record)) = poison {
            let record = record.get(0);
            if !self.park_poison(&poison, &record) {
                return;
            }
        } else if left.is_empty() && !beyond.is_empty() {
            self.passed(end);
            return self.stop_full(&beyond.get(0));
        }
        let next = interleave(left, &waiting, &beyond);
        if next.is_empty() {
            // The batch is empty, and its memory is used again.
            self.passed(end);
        } else {
            self.batch = next;
        }
    }

    /// Whether anybody looks at the headers of what is read: the plugin, or what sets records aside, publishes
    /// what comes of them, or has merged them.
    pub(super) fn needs_headers(&self) -> bool {
        let is_plain = self.handle.spec().publishing.is_none() && self.source.merged.is_none();
        self.source.headers || !is_plain || !self.handle.shared.parking.read().is_empty()
    }

    fn folds(&self) -> bool {
        let capabilities = self.handle.code().code.inspection().capabilities;
        capabilities.fold || capabilities.react
    }

    /// Goes by the batch, up to `end`, and empties it.
    fn pass_batch(&mut self, end: Offset) -> Reached {
        let last = self.batch.get(self.batch.len() - 1);
        self.checkpoint.last = Some(open::identity(&last));
        self.batch.clear();
        self.passed(end);
        Reached {
            until: end,
            poison: None,
            left: RecordBatch::new(),
        }
    }

    /// Folds what of the batch can be folded, up to `end`, and empties it. `None` = nothing can be said, and
    /// the batch is as it was.
    async fn step_batch(&mut self, end: Offset) -> Option<Reached> {
        let in_use = self.handle.shared.table.use_for_batch();
        let loaded = load_states(&self.handle, &self.ports, &*self.store, &self.batch).await;
        let ready = match loaded {
            Ok(ready) => ready,
            Err(error) => {
                self.try_again(&error.to_string());
                return None;
            }
        };
        let part = (ready < self.batch.len()).then(|| self.batch.part(0..ready));
        let began = self.ports.clock.elapsed();
        let stepped = {
            let table = self.handle.shared.table.read();
            let batch = part.as_ref().unwrap_or(&self.batch);
            step(&mut self.slot, &Loaded(&table), batch, &self.source)
        };
        let stepped = match stepped {
            Ok(stepped) => stepped,
            Err(fault @ (StepFault::Interrupted(_) | StepFault::Instantiate(_))) => {
                self.try_again(&fault.to_string());
                return None;
            }
        };
        let took = self.ports.clock.elapsed().saturating_sub(began);
        let folded = stepped.folded;
        let poison = self.apply(stepped, took);
        drop(in_use);
        let count = self.batch.len();
        let reached = match poison {
            Some(poison) => Reached {
                until: self.batch.get(folded).offset,
                poison: Some((poison, self.batch.part(folded..folded + 1))),
                left: self.batch.part(folded + 1..count),
            },
            None if folded < count => Reached {
                until: self.batch.get(folded).offset,
                poison: None,
                left: self.batch.part(folded..count),
            },
            None => Reached {
                until: end,
                poison: None,
                left: RecordBatch::new(),
            },
        };
        self.batch.clear();
        Some(reached)
    }

    /// Takes over what a step did of the batch; gives back what stopped it.
    fn apply(&mut self, stepped: Stepped, took: Duration) -> Option<Poison> {
        let Stepped {
            changes,
            emitted,
            folded,
            set_aside,
            poison,
            fuel,
        } = stepped;
        let (state_bytes, largest) = {
            let mut table = self.handle.shared.table.write();
            table.change_all(&changes);
            (table.bytes(), table.largest_state_bytes())
        };
        if folded > 0 {
            let last = self.batch.get(folded - 1);
            assert!(
                last.offset >= self.checkpoint.next,
                "an event is folded once"
            );
            self.checkpoint.next = last.offset.next();
            self.checkpoint.last = Some(open::identity(&last));
            let records = (0..folded).map(|index| self.batch.get(index));
            self.index(records.filter(|it| told_again(it).is_none()).map(|record| {
                let key = Bytes::copy_from_slice(record.key.unwrap_or_default());
                (key, version_of(&record), record.offset, record.timestamp_ms)
            }));
            let delay_ms = self.ports.clock.now_ms().saturating_sub(last.timestamp_ms);
            let metrics = &self.ports.metrics;
            metrics.folded(
                &self.handle.spec().store,
                folded as u64,
                took,
                fuel,
                delay_ms,
            );
            metrics.state_bytes(&self.handle.spec().store, state_bytes, largest);
            let now = self.ports.clock.elapsed();
            self.folded_at = now;
            if let Some(rate) = self.rate.count(folded as u64, now) {
                self.handle.update(|status| status.rate_per_second = rate);
            }
            for aside in &set_aside {
                metrics.rejected(&self.handle.spec().store, &aside.code);
            }
            if let Some(publisher) = &mut self.publisher {
                publisher.take(&self.batch, emitted, &set_aside, now);
            }
        }
        self.retry_pause = limits::RETRY_PAUSE_MIN;
        poison
    }

    /// Takes note of where events lie that were folded, by key, version, offset and timestamp, if the plugin keeps
    /// their history; what tells a state again has not happened to it. One from before the topic was adopted says no version: its place in the log grows as well.
    pub(super) fn index(&self, events: impl Iterator<Item = (Bytes, Option<u64>, Offset, i64)>) {
        if self.checkpoint.indexed_from.is_none() {
            return;
        }
        let mut history = self.handle.shared.history.write();
        for (key, version, offset, timestamp_ms) in events {
            history.add(IndexedEvent {
                key,
                version: version.unwrap_or(offset.next().0),
                offset,
                timestamp_ms,
            });
        }
    }

    /// Stops before a record that cannot be applied.
    pub(super) fn stop_before(&mut self, poison: Poison, record: &RecordRef<'_>) {
        let at = self.position_of(record);
        let detail = format!(
            "stopped before {at}, which cannot be applied: {}{}. Nothing behind it is folded; queries \
             are answered from the state before it. Deploy a corrected plugin (with `--state keep` it \
             goes on from here), or leave the record out: `foldhost plugin skip {} {at} --reason …`",
            poison.reason,
            match self.source.on_error {
                OnError::ParkKey => " (and not be parked: that takes a key, and no larger limit)",
                OnError::Stop | OnError::DeadLetter => "",
            },
            self.handle.spec().store.plugin
        );
        self.set_blocked(Blocked {
            code: poison.code,
            detail,
            at: Some(at),
        });
        self.slot.clear();
    }

    /// Where a record lies.
    pub(super) fn position_of(&self, record: &RecordRef<'_>) -> RecordPosition {
        let source = self.handle.spec().source();
        RecordPosition {
            topic: source.topic,
            partition: source.partition,
            offset: record.offset,
        }
    }
}

/// Reads the states of the batch's keys that are not in memory, as far as they fit into a call.
/// Returns for how many records they are there.
pub(super) async fn load_states(
    handle: &PartitionHandle,
    ports: &Ports,
    store: &dyn PartitionStore,
    batch: &RecordBatch,
) -> Result<usize, StateError> {
    let missing = missing_keys(handle, batch);
    let hits = batch.len().saturating_sub(missing.len());
    ports
        .metrics
        .state_cache(&handle.spec().store, hits as u64, missing.len() as u64);
    if missing.is_empty() {
        return Ok(batch.len());
    }
    let loaded = store
        .get_many(&missing, limits::BATCH_STATE_BYTES_MAX)
        .await?;
    let first_left = missing.get(loaded.len());
    let ready = first_left.and_then(|left| {
        let mut keys = batch.iter().map(|record| record.key);
        keys.position(|key| key == Some(left))
    });
    let mut table = handle.shared.table.write();
    table.load_all(missing.iter().zip(loaded));
    Ok(ready.unwrap_or(batch.len()))
}

/// Keys whose states are not in memory, in the order in which the batch needs them.
fn missing_keys(handle: &PartitionHandle, batch: &RecordBatch) -> Vec<Bytes> {
    let table = handle.shared.table.read();
    if table.is_complete() {
        return Vec::new();
    }
    let mut seen = HashSet::new();
    let missing = batch.iter().filter_map(|record| record.key);
    let missing = missing.filter(|key| !table.knows(key) && seen.insert(*key));
    missing.map(Bytes::copy_from_slice).collect()
}

/// States in memory, after those of a batch's keys were loaded.
pub(super) struct Loaded<'a>(pub(super) &'a StateTable);

impl States for Loaded<'_> {
    fn hash(&self, key: &[u8]) -> u64 {
        self.0.hash(key)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<Place> {
        let found = self.0.find(hash, key);
        assert!(
            found.is_some() || self.0.is_complete(),
            "a step needs what was loaded for it"
        );
        found
    }

    fn state(&self, at: Place) -> Option<&[u8]> {
        self.0.state_at(at)
    }

    fn look_ahead(&self, hashes: impl Iterator<Item = u64>) {
        self.0.look_ahead(hashes);
    }
}
