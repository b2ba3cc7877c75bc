//! The open order (`ARCHITECTURE.md`, "Ownership"): fence the writer and the store, commit the next epoch,
//! announce it, read in the journal how far what the plugin makes is published, fetch the end of the log,
//! then read on from the committed position. Whatever is wrong with
//! the log against the state is found here, before anything is folded.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::assemble::Source;
use super::migrate::{Migrated, migrate};
use super::parking::{Action, Parking};
use super::publish::{self, Ahead, Limit, Publisher};
use super::status::TOPIC_REPLACED;
use super::worker::deciding::Decider;
use super::{Blocked, CodeInUse, PartitionHandle, PartitionSpec, Ports, journal, merge};
use crate::fail::{self, Point};
use crate::log::{
    LogError, OffsetRange, PartitionReader, Read, ReadLimits, RecordBatch, RecordRef, Topic,
};
use crate::plugin::CallError;
use crate::plugin::manifest::{OnGap, Start};
use crate::state::{
    ActionPoint, Checkpoint, Commit, LastRecord, PartitionStore, StateChanges, StateError,
};
use crate::types::{DeploymentId, Epoch, Offset, PluginName, RecordPosition, TopicName};

/// A partition that is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) store: Arc<dyn PartitionStore>,
    pub(super) checkpoint: Checkpoint,
    /// One past the last record of the log when the partition was fenced: live from there on.
    pub(super) live_at: Offset,
    pub(super) source: Source,
    /// `Err` = it answers, but cannot fold.
    pub(super) reader: Result<Box<dyn PartitionReader>, Blocked>,
    /// The store held nothing: keys that are not in memory have no state.
    pub(super) empty: bool,
    /// Writes to the log what it makes; `None` = it makes nothing, or withholds it.
    pub(super) publisher: Option<Publisher>,
    /// Decides commands; only of a command handler that serves.
    pub(super) decider: Option<Decider>,
    /// How far it may fold, beside a generation that publishes.
    pub(super) limit: Option<Limit>,
    /// The generation that has published before, from which this one takes over.
    pub(super) predecessor: Option<Ahead>,
    /// Up to here, events are folded again by the code that folded them first.
    pub(super) refold_until: Offset,
    /// An action on parked records that this code applies again, and how far.
    pub(super) redo: Option<(Action, ActionPoint)>,
    /// What is parked.
    pub(super) parking: Parking,
    /// The code that folds first.
    pub(super) code: Arc<CodeInUse>,
    /// Ends with where it is live, once its inputs are merged as far as they reached when it was opened.
    pub(super) backlog: Option<JoinHandle<Result<Offset, LogError>>>,
}

/// Why a partition could not be opened; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Call(CallError),
    #[error(
        "events are to be folded again with the code of deployment {0}, which cannot be had: {1}"
    )]
    NoCode(DeploymentId, String),
    #[error(
        "the state was committed by deployment {found}, of which this host has not heard yet: it runs {known}"
    )]
    Behind {
        found: DeploymentId,
        known: DeploymentId,
    },
}

/// Opens the partition of `handle`. The caller holds a confirmed assignment.
pub(super) async fn open(handle: &PartitionHandle, ports: &Ports) -> Result<Opened, OpenError> {
    let spec = handle.spec();
    let source = spec.source();
    let mut code = handle.code();
    let publishing = spec.publishing.as_ref();
    let decides = publishing.is_some_and(|publishing| publishing.decides);
    let id = publishing.and_then(|it| it.transactional_id.as_deref());
    let (mut decides_by, mut publishes_by) = (None, None);
    match id {
        Some(id) if decides => decides_by = Some(ports.log.transactional(id).await?),
        Some(id) => publishes_by = Some(ports.log.publisher(id).await?),
        None => {}
    }
    fail::point(Point::WriterFenced);
    let store: Arc<dyn PartitionStore> = Arc::from(ports.states.open(&spec.store).await?);
    fail::point(Point::StoreOpened);
    let mut before = store.checkpoint().await?;
    if let Some(found) = before.as_ref().map(|before| before.deployment)
        && found > code.deployment
    {
        let known = code.deployment;
        return Err(OpenError::Behind { found, known });
    }
    let mut failed = None;
    let is_migrated = before.as_ref().is_some_and(|before| !before.incomplete);
    if let Some(from) = spec.origin.as_ref().filter(|_| !is_migrated) {
        match migrate(handle, ports, &*store, from).await? {
            Migrated::Done(checkpoint) => before = Some(checkpoint),
            Migrated::Nothing if before.is_none() => {}
            Migrated::Nothing => failed = Some(source_gone(handle)),
            Migrated::Failed(blocked) => failed = Some(blocked),
        }
    }
    let topic = ports.log.topic(&source.topic).await?;

    let mut checkpoint = match (&before, &topic) {
        (Some(checkpoint), _) => checkpoint.clone(),
        (None, Some(topic)) => first_checkpoint(handle, ports, topic).await?,
        (None, None) => return Err(LogError::UnknownTopic(source.topic).into()),
    };
    checkpoint.epoch = checkpoint.epoch.next();
    checkpoint.incomplete = failed.is_some();
    // What it folds is what it has written: the log itself says how far that is.
    if publishing.is_none() || decides {
        checkpoint.adopt(&code);
    }
    store
        .commit(Arc::new(Commit {
            changes: StateChanges::default(),
            parked: Vec::new(),
            feed: code.feed_terms(&ports.clock),
            history: Vec::new(),
            checkpoint: checkpoint.clone(),
        }))
        .await?;
    fail::point(Point::EpochCommitted);
    journal::announce(&*ports.log, spec, checkpoint.epoch).await?;
    fail::point(Point::OwnerAnnounced);

    // Both earlier owners are fenced: what the journal says now stays true.
    let mut published: Option<publish::Published> = None;
    if let Some(publishing) = publishing.filter(|_| failed.is_none() && !decides) {
        match publish::resolve(ports, spec, publishing, &checkpoint).await? {
            Ok(resolved) => published = Some(resolved),
            Err(blocked) => failed = Some(blocked),
        }
        let refold = published.as_ref().and_then(|it| it.refold.as_ref());
        match refold.map(|it| it.deployment) {
            Some(found) if found > code.deployment => {
                let known = code.deployment;
                return Err(OpenError::Behind { found, known });
            }
            Some(first) if first != code.deployment => {
                let found = ports.codes.code(first).await;
                code = found.map_err(|why| OpenError::NoCode(first, why))?;
            }
            _ => {}
        }
        checkpoint.adopt(&code);
        fail::point(Point::JournalRead);
    }
    let usable = match failed {
        Some(blocked) => Err(blocked),
        None => check_topic(handle, &checkpoint, topic.as_ref()),
    };
    let (reader, live_at) = match usable {
        Err(blocked) => (Err(blocked), checkpoint.next),
        Ok(()) => {
            let range = ports.log.range(&source).await?;
            let reader = open_reader(handle, ports, &mut checkpoint, &range).await?;
            (reader, range.end)
        }
    };
    let empty = store.scan(&[], None, 1).await?.states.is_empty();
    let parking = Parking::stored(store.parked().await?);
    let refold = published.as_ref().and_then(|it| it.refold.clone());
    let mut decider = None;
    if decides
        && reader.is_ok()
        && let Some(writer) = decides_by.take()
        && let Some(commands) = handle.shared.take_commands()
    {
        let bootstrap = handle.shared.control.borrow().bootstrap.clone();
        let keep = code.manifest().keep_outcomes;
        let open = Decider::open(ports, spec, writer, commands, keep, bootstrap.as_ref());
        decider = Some(open.await?);
    }
    let publisher = match (publishing, publishes_by, &published) {
        (Some(publishing), Some(writer), Some(published)) => {
            let now = ports.clock.elapsed();
            Some(Publisher::new(spec, publishing, writer, published, now))
        }
        _ => None,
    };
    Ok(Opened {
        source: source_of(ports, spec, &checkpoint, &code).await,
        store,
        checkpoint,
        live_at,
        reader,
        empty,
        publisher,
        decider,
        refold_until: refold.as_ref().map_or(Offset(0), |it| it.until),
        redo: refold.and_then(|it| it.action),
        parking,
        predecessor: published.as_mut().and_then(|it| it.predecessor.take()),
        limit: published.and_then(|it| it.limit),
        code,
        backlog: spec.merged.as_ref().map(|merged| {
            let (ports, source, merged) = (ports.clone(), spec.source(), merged.clone());
            tokio::spawn(async move { merge::backlog(&ports, &source, &merged).await })
        }),
    })
}

/// What records are checked against, and how they go into the plugin.
async fn source_of(
    ports: &Ports,
    spec: &PartitionSpec,
    checkpoint: &Checkpoint,
    code: &CodeInUse,
) -> Source {
    let bytes_max = async |topic: Option<&TopicName>| match topic {
        Some(topic) => ports.log.record_bytes_max(topic).await,
        None => usize::MAX,
    };
    let publishing = spec.publishing.as_ref();
    let manifest = code.manifest();
    Source {
        partition: spec.store.partition,
        partitions: checkpoint.partitions,
        partitioner: spec.partitioner(),
        framings: manifest.framings(),
        headers: manifest.headers,
        on_error: manifest.on_error,
        record_bytes_max: bytes_max(publishing.and_then(|it| it.output.as_ref())).await,
        letter_bytes_max: bytes_max(publishing.map(|it| &it.dead_letters)).await,
        merged: spec.merged.as_ref().map(|it| it.topics.clone()),
        record_keys: manifest.record_keys,
        origins: manifest.origins,
        versions: publishing.is_some_and(|it| it.decides),
    }
}

/// Resolves `start`; committed before the first fold, so that a restart resolves nothing anew.
async fn first_checkpoint(
    handle: &PartitionHandle,
    ports: &Ports,
    topic: &Topic,
) -> Result<Checkpoint, OpenError> {
    let spec = handle.spec();
    let source = spec.source();
    let range = ports.log.range(&source).await?;
    let start = match spec.input.start {
        Start::Earliest => range.start,
        Start::Latest => range.end,
        Start::At(timestamp_ms) => ports.log.offset_at(&source, timestamp_ms).await?,
    };
    let code = handle.code();
    Ok(Checkpoint {
        epoch: Epoch(0),
        deployment: code.deployment,
        digest: code.code.inspection().digest,
        next: start,
        last: None,
        start,
        history_complete: start == Offset(0),
        topic_id: topic.id,
        partitions: topic.partitions,
        folds_from: start,
        gaps: 0,
        incomplete: false,
        published: false,
        // What was decided before the generation began is not about its records.
        action: ActionPoint::done(code.deployment.0),
        indexed_from: code.manifest().history.then_some(start),
    })
}

/// Some states were migrated, and the store that the others are in is gone.
fn source_gone(handle: &PartitionHandle) -> Blocked {
    Blocked {
        code: "migration-failed".to_owned(),
        detail: format!(
            "the states that are to be migrated are gone; {}",
            deploy_anew(&handle.spec().store.plugin)
        ),
        at: None,
    }
}

impl Checkpoint {
    /// The code of another deployment folds from here on.
    pub(super) fn adopt(&mut self, code: &CodeInUse) {
        if self.deployment == code.deployment {
            return;
        }
        if !code.renumbered && self.next > self.start {
            self.folds_from = self.next;
        }
        self.deployment = code.deployment;
        self.digest = code.code.inspection().digest;
        let keeps_history = code.manifest().history;
        // What was folded without an index is not in it.
        self.indexed_from = keeps_history.then(|| self.indexed_from.unwrap_or(self.next));
    }
}

/// Whether the topic is still the one that the state was folded from.
fn check_topic(
    handle: &PartitionHandle,
    checkpoint: &Checkpoint,
    topic: Option<&Topic>,
) -> Result<(), Blocked> {
    let name = &handle.spec().input.topic;
    let spec = handle.spec();
    let blocked = |code: &str, detail: String| {
        Err(Blocked {
            code: code.to_owned(),
            detail,
            at: None,
        })
    };
    let Some(topic) = topic else {
        let first = match spec.merged {
            Some(_) => "",
            None => "create it again and ",
        };
        let remedy = rebuild(spec);
        return blocked(
            "topic-missing",
            format!("topic '{name}' is gone; the state stays and answers; {first}{remedy}"),
        );
    };
    if let (Some(then), Some(now)) = (checkpoint.topic_id, topic.id)
        && then != now
    {
        return blocked(
            TOPIC_REPLACED,
            format!(
                "topic '{name}' was deleted and created again, so the state belongs to records that are gone; {}",
                rebuild(spec)
            ),
        );
    }
    if topic.partitions != checkpoint.partitions {
        return Err(partitions_changed(
            handle,
            checkpoint.partitions,
            topic.partitions,
        ));
    }
    Ok(())
}

/// The topic has another number of partitions than the state was folded from.
#[must_use]
pub fn partitions_changed(handle: &PartitionHandle, then: u32, now: u32) -> Blocked {
    let spec = handle.spec();
    Blocked {
        code: "partitions-changed".to_owned(),
        detail: format!(
            "topic '{}' had {then} partitions and now has {now}, so keys have moved; {}",
            spec.input.topic,
            rebuild(spec)
        ),
        at: None,
    }
}

/// What to do where a topic is not the one that was folded.
fn rebuild(spec: &PartitionSpec) -> String {
    let plugin = &spec.store.plugin;
    match spec.merged {
        // A rebuild would fold the same topic.
        Some(_) => {
            format!("delete '{plugin}' and deploy it again, which merges its inputs anew")
        }
        None => deploy_anew(plugin),
    }
}

fn deploy_anew(plugin: &PluginName) -> String {
    format!(
        "build the view anew: deploy {plugin} again with `foldhost plugin deploy FILE --state rebuild`"
    )
}

/// Finds where to read on, and compares the last folded record with the one in the log.
async fn open_reader(
    handle: &PartitionHandle,
    ports: &Ports,
    checkpoint: &mut Checkpoint,
    range: &OffsetRange,
) -> Result<Result<Box<dyn PartitionReader>, Blocked>, OpenError> {
    let spec = handle.spec();
    let source = spec.source();
    if checkpoint.next > range.end {
        return Ok(Err(Blocked {
            code: "position-past-end".to_owned(),
            detail: format!(
                "the state has folded {source} up to {}, but the log ends at {}: records were lost \
                 or the topic was replaced; {}",
                checkpoint.next,
                range.end,
                rebuild(spec)
            ),
            at: None,
        }));
    }
    if checkpoint.next < range.start {
        match spec.input.on_gap {
            OnGap::Stop => return Ok(Err(history_gap(handle, checkpoint.next, range.start))),
            OnGap::Continue => {
                tracing::warn!(partition = %spec.store, from = %checkpoint.next, to = %range.start,
                    "records were removed before they were folded; going on behind them");
                checkpoint.gaps += range.start.0 - checkpoint.next.0;
                checkpoint.next = range.start;
                checkpoint.last = None;
            }
        }
    }
    if let Some(last) = checkpoint.last.filter(|last| last.offset >= range.start) {
        let mut reader = ports.readers.open(&source, last.offset).await?;
        let mut probe = RecordBatch::new();
        let one = ReadLimits {
            records_max: 1,
            bytes_max: usize::MAX,
        };
        if reader.read(&mut probe, one).await? == Read::Records {
            let found = probe.get(0);
            if found.offset == last.offset {
                if identity(&found) != last {
                    return Ok(Err(replaced(handle, last)));
                }
                // Records behind it may have been passed without being folded.
                if last.offset.next() == checkpoint.next {
                    let joined = ports.shared_reads.join(
                        &ports.readers,
                        &source,
                        checkpoint.topic_id,
                        checkpoint.next,
                        reader,
                    );
                    return Ok(Ok(joined));
                }
            }
        }
        // Compacted away: nothing to compare with, and the probe has read what is to be folded.
    }
    let (topic, from) = (checkpoint.topic_id, checkpoint.next);
    let shared = &ports.shared_reads;
    Ok(Ok(shared
        .open(&ports.readers, &source, topic, from)
        .await?))
}

/// The records behind `next` were removed before they were folded.
pub(super) fn history_gap(handle: &PartitionHandle, next: Offset, start: Offset) -> Blocked {
    let spec = handle.spec();
    Blocked {
        code: "history-gap".to_owned(),
        detail: format!(
            "records {next} to {start} of {} were removed before they were folded; deploy {} with \
             `on-gap = \"continue\"` on the input and `--state keep` to go on without them, or build the \
             view anew from what is left (`--state rebuild --from-retained`)",
            spec.source(),
            spec.store.plugin
        ),
        at: None,
    }
}

fn replaced(handle: &PartitionHandle, last: LastRecord) -> Blocked {
    let source = handle.spec().source();
    Blocked {
        code: TOPIC_REPLACED.to_owned(),
        detail: format!(
            "the record at {source}@{} is not the one that was folded: the topic was replaced; {}",
            last.offset,
            rebuild(handle.spec())
        ),
        at: Some(RecordPosition {
            topic: source.topic,
            partition: source.partition,
            offset: last.offset,
        }),
    }
}

/// By what a folded record is recognised.
pub(super) fn identity(record: &RecordRef<'_>) -> LastRecord {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for part in [record.key, record.value] {
        // Absent and empty differ; so do ("ab", "c") and ("a", "bc").
        hasher.update(
            &part
                .map_or(u64::MAX, |bytes| bytes.len() as u64)
                .to_le_bytes(),
        );
        hasher.update(part.unwrap_or_default());
    }
    LastRecord {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        hash: hasher.digest(),
    }
}
