//! Records of an input → their copies in a merge topic, each under the key or keys that the plugin's
//! `route` names, or its own. Pure, as the step is; what fails is cut down to the one record that fails
//! alone.

use bytes::Bytes;

use super::super::frame::Content;
use super::super::merged;
use super::super::step::{InstanceSlot, Poison, StepFault, poison_code};
use crate::limits;
use crate::log::{Framing, Header, NewRecord, RecordBatch, RecordRef, owned_header};
use crate::plugin::manifest::OnError;
use crate::plugin::{CallError, HeadersColumn, RouteInput, Routes};
use crate::types::{RecordPosition, TopicPartition};

/// What every record of an input is copied by.
#[derive(Debug, Clone)]
pub(super) struct CopySource {
    /// The partition that is copied.
    pub(super) of: TopicPartition,
    /// Index of its topic in the plugin's inputs.
    pub(super) input: u8,
    /// What lies around its values; what is copied keeps it.
    pub(super) framing: Framing,
    /// Whether `route` asks for headers.
    pub(super) headers: bool,
    /// What becomes of a record that cannot be copied.
    pub(super) on_error: OnError,
    /// The largest record that the merge topic takes.
    pub(super) record_bytes_max: usize,
    /// The largest record that the topic of dead letters takes.
    pub(super) letter_bytes_max: usize,
}

/// What became of the first records of a batch.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// Copies, in the order of the records.
    pub(super) copies: Vec<NewRecord>,
    /// How many records are done: copied, routed nowhere, or set aside.
    pub(super) done: usize,
    /// Those that were set aside, in order.
    pub(super) set_aside: Vec<Poison>,
    /// Why it stopped before the end of the batch.
    pub(super) poison: Option<Poison>,
}

/// Copies the records of `batch` in order, as far as they can be. `slot` holds the code that routes; `None` =
/// records keep their keys.
///
/// # Errors
/// [`StepFault`] when nothing can be said about the batch; repeat it after a pause.
pub(super) fn copy(
    mut slot: Option<&mut InstanceSlot>,
    batch: &RecordBatch,
    source: &CopySource,
) -> Result<Copied, StepFault> {
    let mut copied = Copied::default();
    let mut records_max = limits::BATCH_EVENTS_MAX;
    while copied.done < batch.len() && copied.poison.is_none() {
        let from = copied.done;
        let mut count = (batch.len() - from).min(records_max);
        let routed = match &mut slot {
            Some(slot) => {
                let (input, bad) = route_input(batch, from, count, source);
                if let Some(bad) = bad.filter(|bad| bad.index == from) {
                    copied.found(bad, batch, source);
                    continue;
                }
                count = input.inputs.len();
                slot.call(|instance| instance.route(&input)).map(Some)
            }
            None => Ok(None),
        };
        match routed {
            Ok(routes) => copied.take(batch, from, count, routes.as_ref(), source),
            Err(fault @ CallError::Instantiate(_)) => return Err(StepFault::Instantiate(fault)),
            Err(fault @ CallError::Interrupted { .. }) if count == 1 => {
                return Err(StepFault::Interrupted(fault));
            }
            Err(fault) if count == 1 => {
                copied.found(
                    Poison {
                        index: from,
                        code: poison_code(&fault).to_owned(),
                        reason: format!("its keys cannot be named: {fault}"),
                    },
                    batch,
                    source,
                );
                records_max = limits::BATCH_EVENTS_MAX;
            }
            Err(_) => records_max = count.div_ceil(2),
        }
    }
    Ok(copied)
}

/// The columns of at most `count` records from `from` on, and why they end before one that cannot go in.
fn route_input(
    batch: &RecordBatch,
    from: usize,
    count: usize,
    source: &CopySource,
) -> (RouteInput, Option<Poison>) {
    let mut input = RouteInput {
        headers: source.headers.then(HeadersColumn::default),
        ..RouteInput::default()
    };
    for index in from..from + count {
        let record = batch.get(index);
        let content = match Content::of(record, source.framing) {
            Ok(content) => content,
            Err((code, reason)) => {
                let poison = Poison {
                    index,
                    code: code.to_owned(),
                    reason,
                };
                return (input, Some(poison));
            }
        };
        input.inputs.push(source.input);
        input.keys.push(record.key);
        input.values.push(content.value);
        input.timestamps_ms.push(record.timestamp_ms);
        if let Some(headers) = &mut input.headers {
            headers.push_record(content.headers());
        }
    }
    (input, None)
}

impl Copied {
    /// Copies `count` records from `from` on by their routes, as far as they can be.
    fn take(
        &mut self,
        batch: &RecordBatch,
        from: usize,
        count: usize,
        routes: Option<&Routes>,
        source: &CopySource,
    ) {
        let (mut next_route, mut next_rejection) = (0, 0);
        for index in from..from + count {
            let record = batch.get(index);
            let made = self.copies.len();
            let fault = match routes {
                None => self.copy_under(&record, record.key, source),
                Some(routes) => {
                    let of = u32::try_from(index - from).expect("a batch is bounded");
                    let rejection = routes.rejected.get(next_rejection);
                    if let Some(rejection) = rejection.filter(|it| it.index == of) {
                        next_rejection += 1;
                        let code = format!("rejected:{}", rejection.code);
                        Err((code, rejection.reason.clone()))
                    } else {
                        let mut copied = Ok(());
                        while routes.causes.get(next_route) == Some(&of) {
                            let key = Some(routes.keys.get(next_route));
                            copied = copied.and(self.copy_under(&record, key, source));
                            next_route += 1;
                        }
                        copied
                    }
                }
            };
            if let Err((code, reason)) = fault {
                self.copies.truncate(made);
                let poison = Poison {
                    index,
                    code,
                    reason,
                };
                self.found(poison, batch, source);
                if self.poison.is_some() {
                    return;
                }
            } else {
                self.done += 1;
            }
        }
    }

    fn copy_under(
        &mut self,
        record: &RecordRef<'_>,
        key: Option<&[u8]>,
        source: &CopySource,
    ) -> Result<(), (String, String)> {
        let Some(key) = key else {
            return Err((
                "event-without-key".to_owned(),
                "the record has no key, so it belongs to no state; write records with keys to this topic, \
                 or export `route`"
                    .to_owned(),
            ));
        };
        let origin = RecordPosition {
            topic: source.of.topic.clone(),
            partition: source.of.partition,
            offset: record.offset,
        };
        let own = (record.key != Some(key)).then_some(record.key);
        let headers = record.headers().filter(|(name, _)| !merged::is_mark(name));
        let headers: Vec<Header> = headers
            .map(owned_header)
            .chain(merged::marks(&origin, own))
            .collect();
        let bytes = record.bytes() + key.len() + merged::MARKS_BYTES_MAX;
        if bytes > source.record_bytes_max {
            return Err((
                "record-too-large".to_owned(),
                format!(
                    "its copy has {bytes} bytes, more than the {} that the merge topic takes: raise the \
                     topic's max.message.bytes and the host's limit, or write smaller records",
                    source.record_bytes_max
                ),
            ));
        }
        self.copies.push(NewRecord {
            key: Some(Bytes::copy_from_slice(key)),
            value: record.value.map(Bytes::copy_from_slice),
            headers,
            timestamp_ms: Some(record.timestamp_ms),
            partition: None,
        });
        Ok(())
    }

    /// Sets a record aside, or stops before it, as `on-error` says.
    fn found(&mut self, poison: Poison, batch: &RecordBatch, source: &CopySource) {
        if poison.stops(batch, source.on_error, source.letter_bytes_max) {
            self.poison = Some(poison);
        } else {
            self.set_aside.push(poison);
            self.done += 1;
        }
    }
}

#[cfg(test)]
mod tests;
