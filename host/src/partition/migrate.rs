//! States of an earlier generation → states of this one, through the plugin's `migrate`, before
//! anything is folded. Called while a partition is opened.
//!
//! Invariants: what is migrated is one commit of the old store, and folding goes on from its position;
//! until the last state is migrated the new store says that it is incomplete, and whoever opens it
//! begins again. The old store is only read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::open::OpenError;
use super::{Blocked, CodeInUse, MigrateFrom, PartitionHandle, Ports};
use crate::limits;
use crate::plugin::{BytesColumn, CallError, OptionalColumn, PluginInstance};
use crate::state::{
    Checkpoint, Commit, IndexedEvent, KeyState, ParkedRecord, PartitionStore, StateChanges,
    StatePage, StateSnapshot,
};
use crate::types::{Offset, Partition};

/// What came of it.
#[derive(Debug)]
pub(super) enum Migrated {
    /// Every state is there; folding goes on from here.
    Done(Checkpoint),
    /// There was nothing to migrate: no event was ever folded.
    Nothing,
    /// A state cannot be migrated.
    Failed(Blocked),
}

/// Migrates all states into `store`, which holds nothing, or what an earlier attempt left.
pub(super) async fn migrate(
    handle: &PartitionHandle,
    ports: &Ports,
    store: &dyn PartitionStore,
    from: &MigrateFrom,
) -> Result<Migrated, OpenError> {
    if let Some(old) = &from.folded_by
        && !old.commit_now(limits::REVOKE_COMMIT_MAX).await
    {
        // What it has not committed is folded by the new code instead.
        tracing::warn!(partition = %from.store, "it does not commit; migrating its last commit");
    }
    let Some(snapshot) = ports.states.snapshot(&from.store).await? else {
        return Ok(Migrated::Nothing);
    };
    let migrated = migrate_all(handle, store, from, &*snapshot).await;
    snapshot.close().await;
    migrated
}

async fn migrate_all(
    handle: &PartitionHandle,
    store: &dyn PartitionStore,
    from: &MigrateFrom,
    snapshot: &dyn StateSnapshot,
) -> Result<Migrated, OpenError> {
    let Some(before) = snapshot.checkpoint().await? else {
        return Ok(Migrated::Nothing);
    };
    let attempt = store.checkpoint().await?;
    let has_leftovers = attempt.is_some();
    let code = handle.code();
    let keeps_history = code.manifest().history;
    let checkpoint = Checkpoint {
        epoch: attempt.map_or(before.epoch, |attempt| attempt.epoch.max(before.epoch)),
        deployment: code.deployment,
        digest: code.code.inspection().digest,
        folds_from: before.next,
        incomplete: true,
        published: false,
        indexed_from: keeps_history.then(|| before.indexed_from.unwrap_or(before.next)),
        ..before
    };
    if let Some(from) = before.indexed_from.filter(|_| keeps_history) {
        history(store, snapshot, from, &checkpoint).await?;
    }
    let mut migrating = Migrating {
        code: &code,
        schema: &from.schema,
        partition: handle.spec().store.partition,
        instance: None,
    };
    let mut after: Option<Bytes> = None;
    loop {
        let page = snapshot.scan(after.as_deref(), limits::MIGRATION_KEYS_MAX);
        let StatePage {
            states: page,
            is_last,
        } = page.await?;
        let until = page.last().map(|(key, _)| key.clone());
        let mut changes = Vec::with_capacity(page.len());
        if has_leftovers {
            let until = until.as_deref().filter(|_| !is_last);
            stale(store, after.as_deref(), until, &page, &mut changes).await?;
        }
        match migrating.states(&page, &mut changes) {
            Ok(()) => {}
            Err(Fault::Repeat(error)) => return Err(OpenError::Call(error)),
            Err(Fault::Failed { key, reason }) => {
                return Ok(Migrated::Failed(failed(handle, from, &key, &reason)));
            }
        }
        let checkpoint = Checkpoint {
            incomplete: !is_last,
            ..checkpoint.clone()
        };
        let parked = match is_last {
            true => parked(store, snapshot).await?,
            false => Vec::new(),
        };
        store
            .commit(Arc::new(Commit {
                changes: changes.into_iter().collect(),
                parked,
                // All of them are listed to whoever begins to follow the new generation.
                feed: None,
                history: Vec::new(),
                checkpoint: checkpoint.clone(),
            }))
            .await?;
        if is_last {
            return Ok(Migrated::Done(checkpoint));
        }
        // Merging what the commits leave keeps their number down.
        store.maintain().await?;
        tokio::task::yield_now().await;
        after = until;
    }
}

/// Where the events lie stays as it is, whatever is made of them. An earlier attempt has left nothing else.
async fn history(
    store: &dyn PartitionStore,
    snapshot: &dyn StateSnapshot,
    from: Offset,
    checkpoint: &Checkpoint,
) -> Result<(), OpenError> {
    let mut after: Option<IndexedEvent> = None;
    loop {
        let mut page = snapshot
            .history(after.as_ref(), limits::MIGRATION_KEYS_MAX)
            .await?;
        let is_last = page.len() < limits::MIGRATION_KEYS_MAX;
        after = page.last().cloned();
        page.retain(|event| event.offset >= from);
        if !page.is_empty() {
            store
                .commit(Arc::new(Commit {
                    changes: StateChanges::default(),
                    parked: Vec::new(),
                    feed: None,
                    history: page,
                    checkpoint: checkpoint.clone(),
                }))
                .await?;
        }
        if is_last {
            return Ok(());
        }
        store.maintain().await?;
        tokio::task::yield_now().await;
    }
}

/// What is parked goes along as it is: nobody reads it again from the log.
async fn parked(
    store: &dyn PartitionStore,
    snapshot: &dyn StateSnapshot,
) -> Result<Vec<(Offset, Option<Arc<ParkedRecord>>)>, OpenError> {
    let mut parked: BTreeMap<_, _> = store
        .parked()
        .await?
        .into_iter()
        .map(|leftover| (leftover.offset, None))
        .collect();
    let records = snapshot.parked().await?.into_iter();
    parked.extend(records.map(|record| (record.offset, Some(Arc::new(record)))));
    Ok(parked.into_iter().collect())
}

/// Keys that an earlier attempt wrote and that have no state any more.
async fn stale(
    store: &dyn PartitionStore,
    after: Option<&[u8]>,
    until: Option<&[u8]>,
    page: &[(Bytes, KeyState)],
    changes: &mut Vec<(Bytes, Option<KeyState>)>,
) -> Result<(), OpenError> {
    let wanted: BTreeSet<&Bytes> = page.iter().map(|(key, _)| key).collect();
    let mut after = after.map(Bytes::copy_from_slice);
    loop {
        let found = store
            .scan(&[], after.as_deref(), limits::MIGRATION_KEYS_MAX)
            .await?;
        let is_last = found.is_last;
        after = found.states.last().map(|(key, _)| key.clone());
        let within = found
            .states
            .into_iter()
            .map(|(key, _)| key)
            .take_while(|key| until.is_none_or(|until| key.as_ref() <= until));
        changes.extend(
            within
                .filter(|key| !wanted.contains(key))
                .map(|key| (key, None)),
        );
        let is_past = until
            .zip(after.as_deref())
            .is_some_and(|(until, after)| after >= until);
        if is_last || is_past {
            return Ok(());
        }
    }
}

/// Why states were not migrated.
enum Fault {
    /// Nothing can be said about them; the same call is to be repeated.
    Repeat(CallError),
    /// This one cannot be.
    Failed { key: Bytes, reason: String },
}

struct Migrating<'a> {
    code: &'a CodeInUse,
    schema: &'a str,
    partition: Partition,
    instance: Option<Box<dyn PluginInstance>>,
}

impl Migrating<'_> {
    /// Migrates states in calls that are bounded in bytes.
    fn states(
        &mut self,
        mut states: &[(Bytes, KeyState)],
        changes: &mut Vec<(Bytes, Option<KeyState>)>,
    ) -> Result<(), Fault> {
        while !states.is_empty() {
            let mut bytes = 0;
            let fits = states.iter().take_while(|(key, state)| {
                let is_first = bytes == 0;
                bytes += key.len() + state.state.len();
                is_first || bytes <= limits::BATCH_STATE_BYTES_MAX
            });
            let (call, rest) = states.split_at(fits.count());
            self.call(call, changes)?;
            states = rest;
        }
        Ok(())
    }

    /// Migrates states in one call; what fails is cut down to the one that fails alone.
    fn call(
        &mut self,
        states: &[(Bytes, KeyState)],
        changes: &mut Vec<(Bytes, Option<KeyState>)>,
    ) -> Result<(), Fault> {
        let reason = match self.attempt(states) {
            Ok(Ok(migrated)) => {
                for (index, (key, before)) in states.iter().enumerate() {
                    let state = migrated.get(index).map(|bytes| KeyState {
                        state: Bytes::copy_from_slice(bytes),
                        changed_at: before.changed_at,
                        changed_at_ms: before.changed_at_ms,
                    });
                    changes.push((key.clone(), state));
                }
                return Ok(());
            }
            Ok(Err(refusal)) => refusal,
            Err(fault @ CallError::Instantiate(_)) => return Err(Fault::Repeat(fault)),
            Err(fault @ CallError::Interrupted { .. }) if states.len() == 1 => {
                return Err(Fault::Repeat(fault));
            }
            Err(fault) => fault.to_string(),
        };
        if let [(key, _)] = states {
            let key = key.clone();
            return Err(Fault::Failed { key, reason });
        }
        let (left, right) = states.split_at(states.len() / 2);
        self.call(left, changes)?;
        self.call(right, changes)
    }

    fn attempt(
        &mut self,
        states: &[(Bytes, KeyState)],
    ) -> Result<Result<OptionalColumn, String>, CallError> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.code.code.instance()?,
        };
        let (mut keys, mut before) = (BytesColumn::default(), OptionalColumn::default());
        for (key, state) in states {
            keys.push(key);
            before.push(Some(&state.state));
        }
        let migrated = instance.migrate(self.schema, self.partition.0, &keys, &before)?;
        self.instance = Some(instance);
        Ok(migrated)
    }
}

fn failed(handle: &PartitionHandle, from: &MigrateFrom, key: &[u8], reason: &str) -> Blocked {
    let plugin = &handle.spec().store.plugin;
    let format = handle.code().manifest().key;
    let key = format
        .format(key)
        .unwrap_or_else(|| format!("{:?}", Bytes::copy_from_slice(key)));
    Blocked {
        code: "migration-failed".to_owned(),
        detail: format!(
            "the state of key '{key}', written as \"{}\", cannot be migrated: {reason}. The generation \
             before goes on answering; deploy a corrected plugin, or `foldhost plugin rollback {plugin}`",
            from.schema
        ),
        at: None,
    }
}
