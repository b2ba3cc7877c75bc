//! From the records that a client names to the one up to which a partition must be folded. Called by
//! `access`, for queries that read their own writes.
//!
//! Where inputs are merged, a record may have been routed to any partition, or to none: it is waited for in
//! the merge stage, and then for everything that the partition's part of the merge topic has by then.
//!
//! Invariant: what is waited for is a record that is there, so the wait ends; never an offset that only a
//! marker of a transaction has.

use std::time::Duration;

use super::conditions::Conditions;
use super::context::App;
use crate::error::{Code, Problem};
use crate::manager::Plugin;
use crate::partition::{MergedInputs, PartitionHandle};
use crate::types::{Offset, RecordPosition, TopicName, TopicPartition};

/// How far a partition must have folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Goal {
    /// Nothing of what was named concerns it.
    Nothing,
    /// It must have folded the record at this offset.
    Folded(Offset),
    /// This record is not merged yet.
    Unmerged {
        /// Which.
        at: RecordPosition,
        /// The first record of its partition that is not merged; `None` = that is not known yet.
        next: Option<Offset>,
        /// Whether it will not be either, until somebody does something.
        is_stopped: bool,
    },
}

/// Refuses positions of topics that the plugin does not read.
///
/// # Errors
/// [`Code::PositionNotAnInput`].
pub(super) fn check(app: &App, plugin: &Plugin, conditions: &Conditions) -> Result<(), Problem> {
    if conditions.positions.is_empty() {
        return Ok(());
    }
    let deployment = plugin.deployment();
    // What answers give as their position can be asked for.
    let folded = deployment.folded(&app.services.cluster_name).topic;
    let inputs = deployment.inputs.iter().map(|input| &input.topic);
    let names: Vec<_> = match deployment.own() {
        Some(_) => vec![folded.as_str()],
        None => inputs.map(TopicName::as_str).collect(),
    };
    let is_read = |topic: &TopicName| *topic == folded || names.contains(&topic.as_str());
    let Some(foreign) = conditions.positions.iter().find(|at| !is_read(&at.topic)) else {
        return Ok(());
    };
    let name = plugin.name();
    Err(Problem::new(
        Code::PositionNotAnInput,
        format!(
            "{foreign} is not of an input of {name}: it reads {}",
            names.join(", ")
        ),
    )
    .with("inputs", names))
}

/// What a partition must have folded to have folded all of `positions`, waiting at most `within` for those
/// that are not merged yet.
///
/// # Errors
/// Any fault of the log.
pub(super) async fn goal(
    app: &App,
    handle: &PartitionHandle,
    positions: &[RecordPosition],
    within: Duration,
) -> Result<Goal, Problem> {
    let source = handle.spec().source();
    let here = positions.iter().filter(|at| is_of(at, &source));
    let here = here.map(|at| at.offset).max();
    let Some(merged) = &handle.spec().merged else {
        return Ok(here.map_or(Goal::Nothing, Goal::Folded));
    };
    let of_inputs = |at: &&RecordPosition| at.topic != source.topic;
    let mut inputs = positions.iter().filter(of_inputs).peekable();
    if inputs.peek().is_none() {
        return Ok(here.map_or(Goal::Nothing, Goal::Folded));
    }
    let unmerged = tokio::time::timeout(within, first_unmerged(merged, &source.topic, inputs));
    match unmerged.await {
        Ok(None) => {}
        Ok(Some(unmerged)) => return Ok(unmerged),
        // Whoever has waited for as long as this says for which of them.
        Err(_) => {
            let next = |at: &RecordPosition| next(merged, &source.topic, at);
            let late = positions
                .iter()
                .filter(of_inputs)
                .find(|at| next(at).is_none_or(|next| next <= at.offset));
            if let Some(at) = late {
                return Ok(Goal::Unmerged {
                    at: at.clone(),
                    next: next(at),
                    is_stopped: false,
                });
            }
        }
    }
    Ok(match written(app, handle, &source).await?.max(here) {
        Some(last) => Goal::Folded(last),
        None => Goal::Nothing,
    })
}

/// Waits until all are merged; one that cannot be, because its input stands still before it, is named.
async fn first_unmerged(
    merged: &MergedInputs,
    topic: &TopicName,
    positions: impl Iterator<Item = &RecordPosition>,
) -> Option<Goal> {
    for at in positions {
        let of = TopicPartition {
            topic: at.topic.clone(),
            partition: at.partition,
        };
        merged.progress.settled(topic, &of, at.offset.next()).await;
        let next = next(merged, topic, at);
        if next.is_none_or(|next| next <= at.offset) {
            return Some(Goal::Unmerged {
                at: at.clone(),
                next,
                is_stopped: true,
            });
        }
    }
    None
}

fn next(merged: &MergedInputs, topic: &TopicName, at: &RecordPosition) -> Option<Offset> {
    let of = TopicPartition {
        topic: at.topic.clone(),
        partition: at.partition,
    };
    merged.progress.of(topic, &of)
}

/// The last record that a partition of the merge topic has by now, if there is one that is not folded yet.
async fn written(
    app: &App,
    handle: &PartitionHandle,
    source: &TopicPartition,
) -> Result<Option<Offset>, Problem> {
    // Where no markers lie behind the records, this is all.
    let end = app.services.log.written_end(source).await?;
    if handle.status().next >= end {
        return Ok(None);
    }
    let last = app.lookups.last(source, |record| Some(record.offset));
    Ok(last.await?)
}

fn is_of(at: &RecordPosition, of: &TopicPartition) -> bool {
    at.topic == of.topic && at.partition == of.partition
}
