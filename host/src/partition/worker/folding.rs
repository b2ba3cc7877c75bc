//! What a worker does with a batch: loads states, steps, applies the changes to memory. Part of `worker`.
//!
//! Invariant: an event is folded once between two openings, and never before it may be.

use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashSet;

use super::super::Blocked;
use super::super::changes::Place;
use super::super::open;
use super::super::step::{Poison, States, StepFault, Stepped, step};
use super::super::table::StateTable;
use super::Worker;
use crate::limits;
use crate::log::RecordBatch;
use crate::state::StateError;
use crate::types::RecordPosition;

impl Worker {
    /// How many records of the batch may be folded: a generation that is built beside another does not get
    /// ahead of it.
    pub(super) fn allowed(&self) -> usize {
        match &self.limit {
            None => self.batch.len(),
            Some(limit) => {
                let allowed = self.batch.iter();
                let allowed = allowed.take_while(|record| record.offset < limit.until());
                allowed.count()
            }
        }
    }

    /// Folds the first records of the batch: loads states, steps, applies the changes to memory.
    pub(super) async fn fold(&mut self, allowed: usize) {
        if allowed < self.batch.len() {
            // What lies behind stays in the batch; the part goes the way of a whole one.
            let rest = self.batch.part(allowed..self.batch.len());
            self.batch = self.batch.part(0..allowed);
            self.fold_batch().await;
            return self.put_back(rest);
        }
        self.fold_batch().await;
    }

    /// Puts records back behind what is left of a batch, unless it was given up.
    pub(super) fn put_back(&mut self, rest: RecordBatch) {
        if self.reader.is_none() || self.is_blocked() {
            return;
        }
        for record in rest.iter() {
            self.batch.push(
                record.offset,
                record.timestamp_ms,
                record.key,
                record.value,
                record.headers(),
            );
        }
    }

    pub(super) async fn fold_batch(&mut self) {
        let behind = self.batch.get(self.batch.len() - 1).offset.next();
        self.drop_skipped();
        if self.batch.is_empty() {
            return self.passed(behind);
        }
        let in_use = self.handle.shared.table.use_for_batch();
        let ready = match self.load_states().await {
            Ok(ready) => ready,
            Err(error) => return self.try_again(&error.to_string()),
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
                return self.try_again(&fault.to_string());
            }
        };
        let took = self.ports.clock.elapsed().saturating_sub(began);
        let folded = stepped.folded;
        self.apply(stepped, took);
        drop(in_use);
        if part.is_some() && folded == ready {
            self.batch = self.batch.part(ready..self.batch.len());
            return;
        }
        let is_whole = folded == self.batch.len();
        self.batch.clear();
        if is_whole {
            self.passed(behind);
        }
    }

    pub(super) fn apply(&mut self, stepped: Stepped, took: Duration) {
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
        self.publish_position();
        if let Some(poison) = poison {
            self.stop_before(poison);
        }
    }

    /// Reads the states of the batch's keys that are not in memory, as far as they fit into a call.
    /// Returns for how many records they are there.
    pub(super) async fn load_states(&mut self) -> Result<usize, StateError> {
        let missing = self.missing_keys();
        let hits = self.batch.len().saturating_sub(missing.len());
        self.ports.metrics.state_cache(
            &self.handle.spec().store,
            hits as u64,
            missing.len() as u64,
        );
        if missing.is_empty() {
            return Ok(self.batch.len());
        }
        let loaded = self
            .store
            .get_many(&missing, limits::BATCH_STATE_BYTES_MAX)
            .await?;
        let first_left = missing.get(loaded.len());
        let ready = first_left.and_then(|left| {
            let mut keys = self.batch.iter().map(|record| record.key);
            keys.position(|key| key == Some(left))
        });
        let mut table = self.handle.shared.table.write();
        table.load_all(missing.iter().zip(loaded));
        Ok(ready.unwrap_or(self.batch.len()))
    }

    /// Keys whose states are not in memory, in the order in which the batch needs them.
    pub(super) fn missing_keys(&self) -> Vec<Bytes> {
        let table = self.handle.shared.table.read();
        if table.is_complete() {
            return Vec::new();
        }
        let mut seen = HashSet::new();
        let missing = self.batch.iter().filter_map(|record| record.key);
        let missing = missing.filter(|key| !table.knows(key) && seen.insert(*key));
        missing.map(Bytes::copy_from_slice).collect()
    }

    pub(super) fn stop_before(&mut self, poison: Poison) {
        let record = self.batch.get(poison.index);
        let source = self.handle.spec().source();
        let at = RecordPosition {
            topic: source.topic,
            partition: source.partition,
            offset: record.offset,
        };
        self.ports
            .metrics
            .rejected(&self.handle.spec().store, &poison.code);
        let detail = format!(
            "stopped before {at}, which cannot be applied: {}. Nothing behind it is folded; queries \
             are answered from the state before it. Deploy a corrected plugin (with `--state keep` it \
             goes on from here), or leave the record out: `foldhost plugin skip {} {at} --reason …`",
            poison.reason,
            self.handle.spec().store.plugin
        );
        self.set_blocked(Blocked {
            code: poison.code,
            detail,
            at: Some(at),
        });
        self.slot.clear();
    }
}

/// States in memory, after those of a batch's keys were loaded.
struct Loaded<'a>(&'a StateTable);

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
}
