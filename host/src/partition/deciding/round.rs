//! One round of commands: states and commands in; events, outcomes and states out. No I/O, no clock; the only
//! thing it calls is the plugin.
//!
//! Invariants: commands are decided in the order given, each on the states that the ones before have made; an
//! event is folded before it is written, and a command whose event its own fold rejects leaves no trace.

use bytes::Bytes;
use hashbrown::HashMap;

use super::outcomes::bytes_of;
use super::{
    Answer, Asker, Bootstrapped, CommandFault, CommandRequest, Expects, Outcome, Outcomes, Queued,
    Settled, TRY_AGAIN, bad_body,
};
use crate::limits;
use crate::log::{COMMAND_HEADER, Header, NewRecord, RecordBatch, RecordRef, TRAVELLING_HEADERS};
use crate::partition::Source;
use crate::partition::changes::{Changes, Place};
use crate::partition::control::Skips;
use crate::partition::merged;
use crate::partition::publish::Stamp;
use crate::partition::step::{InstanceSlot, Poison, States, step};
use crate::partition::table::StateTable;
use crate::plugin::manifest::{OnError, OnRefusal};
use crate::plugin::{CallContext, CallError, Command, Decision, Payload, Refusal};
use crate::state::{KeyState, StateRef};
use crate::types::{Digest, Offset, Partition, RecordPosition};

/// What becomes of commands from a topic that are not to be decided, or that are refused.
pub(in crate::partition) struct RecordPolicy<'a> {
    pub(in crate::partition) on_refusal: OnRefusal,
    /// Those that are left out.
    pub(in crate::partition) skips: &'a Skips,
    /// Identity of their topic, where the log can tell.
    pub(in crate::partition) topic_id: Option<[u8; 16]>,
}

/// A bit that no place of a table has.
const SPECULATIVE: u32 = 1 << 31;

/// States as the commands of a round have made them so far, over those that are confirmed.
pub(in crate::partition) struct Speculation<'a> {
    table: &'a StateTable,
    by_key: HashMap<Bytes, u32>,
    states: Vec<(Bytes, Option<KeyState>)>,
}

impl<'a> Speculation<'a> {
    pub(in crate::partition) fn over(table: &'a StateTable) -> Self {
        Self {
            table,
            by_key: HashMap::new(),
            states: Vec::new(),
        }
    }

    /// State of a key, with its version.
    fn get(&self, key: &[u8]) -> Option<KeyState> {
        match self.by_key.get(key) {
            Some(at) => self.states[*at as usize].1.clone(),
            None => self
                .table
                .get(key)
                .expect("the states of a round were loaded"),
        }
    }

    fn take(&mut self, changes: &Changes) {
        for change in changes.iter() {
            let state = change.state.map(StateRef::to_owned);
            match self.by_key.get(change.key) {
                Some(at) => self.states[*at as usize].1 = state,
                None => {
                    let key = Bytes::copy_from_slice(change.key);
                    let at = u32::try_from(self.states.len()).expect("a round is bounded");
                    self.by_key.insert(key.clone(), at);
                    self.states.push((key, state));
                }
            }
        }
    }
}

impl States for Speculation<'_> {
    fn hash(&self, key: &[u8]) -> u64 {
        self.table.hash(key)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<Place> {
        match self.by_key.get(key) {
            Some(at) => Some(Place(at | SPECULATIVE)),
            None => self.table.find(hash, key),
        }
    }

    fn state(&self, at: Place) -> Option<&[u8]> {
        if at.0 & SPECULATIVE == 0 {
            return self.table.state_at(at);
        }
        let (_, state) = &self.states[(at.0 & !SPECULATIVE) as usize];
        let state = state.as_ref().filter(|state| !state.is_gone());
        state.map(|state| &*state.state)
    }
}

/// What commands are decided by.
pub(in crate::partition) struct Asked<'a> {
    pub(in crate::partition) source: &'a Source,
    pub(in crate::partition) stamp: &'a Stamp,
    pub(in crate::partition) partition: Partition,
    /// Whether the plugin has states.
    pub(in crate::partition) folds: bool,
    /// Milliseconds since the Unix epoch.
    pub(in crate::partition) now_ms: i64,
}

/// What a round has decided, before it is written.
#[derive(Debug, Default)]
pub(in crate::partition) struct Round {
    /// Events for the owned topic, in order.
    pub(in crate::partition) events: Vec<NewRecord>,
    /// Outcomes for the journal, with their ids.
    pub(in crate::partition) outcomes: Vec<(String, Outcome)>,
    /// States after it, by key.
    pub(in crate::partition) states: Vec<(Bytes, Option<KeyState>)>,
    /// Commands from a topic that were refused, as dead letters, if the manifest says so.
    pub(in crate::partition) letters: Vec<NewRecord>,
    /// First offset of the commands' topic that is not decided, if any was.
    pub(in crate::partition) taken: Option<Offset>,
    /// How many commands from a topic were decided, and how many of them refused.
    pub(in crate::partition) from_topic: (u64, u64),
    /// How far states are told in events with it, if its events are those.
    pub(in crate::partition) bootstrapped: Option<Bootstrapped>,
    /// Who waits for which of the outcomes, and how many events there were when it was decided.
    waiting: Vec<(Asker, usize, usize, bool)>,
    outcomes_bytes: usize,
}

impl Round {
    /// Decides commands. Those that have no outcome are answered at once, and so are repeats of earlier rounds.
    pub(in crate::partition) fn decide(
        slot: &mut InstanceSlot,
        states: &mut Speculation<'_>,
        outcomes: &Outcomes,
        commands: Vec<Queued>,
        asked: &Asked<'_>,
        position: impl Fn() -> Option<RecordPosition>,
    ) -> Self {
        let mut round = Self::default();
        let mut ids: HashMap<String, usize> = HashMap::new();
        for Queued { request, asker } in commands {
            if asker.is_behind() {
                asker.answer(Err(CommandFault::Behind));
                continue;
            }
            let identity = request.identity();
            let id = request.command.id.clone();
            if let Some(outcome) = outcomes.find(&id) {
                asker.answer(repeat(outcome, &identity, position()));
                continue;
            }
            // The same command twice in one round: the second waits for the first.
            if let Some(&first) = ids.get(&id) {
                if round.outcomes[first].1.request == identity {
                    let events = round.events.len();
                    round.waiting.push((asker, first, events, true));
                } else {
                    asker.answer(Err(CommandFault::OtherRequest));
                }
                continue;
            }
            if !outcomes.has_room(round.outcomes_bytes + limits::OUTCOME_RESERVED_BYTES) {
                asker.answer(Err(CommandFault::OutcomesFull));
                continue;
            }
            let cause = format!("command {id}");
            match round.settle(slot, states, &request, &cause, identity, asked) {
                Ok(outcome) => {
                    let index = round.outcomes.len();
                    round.outcomes_bytes += bytes_of(&id, &outcome);
                    round.outcomes.push((id.clone(), outcome));
                    ids.insert(id, index);
                    let events = round.events.len();
                    round.waiting.push((asker, index, events, false));
                }
                Err(fault) => {
                    asker.answer(Err(fault));
                }
            }
        }
        round.states = std::mem::take(&mut states.states);
        round
    }

    /// Decides the first of `records`, commands from a topic, in order, as far as they can be; says why it stopped
    /// before one that cannot be decided and that nobody wants as a dead letter.
    pub(in crate::partition) fn decide_records(
        slot: &mut InstanceSlot,
        states: &mut Speculation<'_>,
        records: &RecordBatch,
        asked: &Asked<'_>,
        policy: &RecordPolicy<'_>,
    ) -> (Self, Option<Poison>) {
        let mut round = Self::default();
        let mut stopped = None;
        for index in 0..records.len() {
            let record = records.get(index);
            if policy.skips.covers(record.offset, policy.topic_id) {
                round.taken = Some(record.offset.next());
                continue;
            }
            let (code, reason, is_refusal) = match round.settle_record(slot, states, &record, asked)
            {
                Ok(None) => {
                    round.from_topic.0 += 1;
                    round.taken = Some(record.offset.next());
                    continue;
                }
                Ok(Some((code, reason))) => (code, reason, true),
                Err(CommandFault::Failed { code, detail }) if code != TRY_AGAIN => {
                    (code, detail, false)
                }
                Err(_) => break,
            };
            let poison = Poison {
                index,
                code,
                reason,
            };
            match policy.on_refusal {
                OnRefusal::DeadLetter => round.letters.push(asked.stamp.letter(&record, &poison)),
                OnRefusal::Ignore if is_refusal => {}
                OnRefusal::Ignore => {
                    stopped = Some(poison);
                    break;
                }
            }
            round.from_topic.0 += 1;
            round.from_topic.1 += 1;
            round.taken = Some(record.offset.next());
        }
        round.states = std::mem::take(&mut states.states);
        (round, stopped)
    }

    /// Decides a command from a topic; `Some` = it is refused, with code and reason.
    fn settle_record(
        &mut self,
        slot: &mut InstanceSlot,
        states: &mut Speculation<'_>,
        record: &RecordRef<'_>,
        asked: &Asked<'_>,
    ) -> Result<Option<(String, String)>, CommandFault> {
        let text = |name: &str| {
            let mut headers = record.headers();
            let (_, value) = headers.find(|(header, _)| *header == name)?;
            std::str::from_utf8(value?).ok()
        };
        let (Some(name), Some(key)) = (text(COMMAND_HEADER), record.key) else {
            let reason =
                format!("a command has a key, and its name in the header {COMMAND_HEADER}");
            return Ok(Some(("no-command".to_owned(), reason)));
        };
        let at = merged::origin(record).map(|at| at.to_string());
        let at = at.unwrap_or_else(|| record.offset.to_string());
        let headers = record.headers().filter(|(name, _)| !merged::is_mark(name));
        let travelling = record
            .headers()
            .filter(|(name, _)| TRAVELLING_HEADERS.contains(name));
        let request = CommandRequest {
            key: Bytes::copy_from_slice(key),
            command: Command {
                name: name.to_owned(),
                id: at.clone(),
                content: Payload {
                    content_type: text("content-type")
                        .unwrap_or("application/json")
                        .to_owned(),
                    body: record.value.unwrap_or_default().to_vec(),
                },
                context: CallContext {
                    headers: headers
                        .map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_vec()))
                        .collect(),
                    ..CallContext::default()
                },
            },
            expects: Expects::Anything,
            travelling: travelling
                .filter_map(|(name, value)| Some((name.to_owned(), Bytes::copy_from_slice(value?))))
                .collect(),
        };
        let outcome = self.settle(slot, states, &request, &at, [0; 32], asked);
        match outcome.map(|outcome| outcome.what) {
            Ok(Settled::Accepted { .. }) => Ok(None),
            Ok(Settled::Refused { code, reason, .. }) => {
                Ok(Some((format!("refused:{code}"), reason)))
            }
            Ok(Settled::Stale) => Ok(Some((
                "stale".to_owned(),
                "it was meant for another version".to_owned(),
            ))),
            Err(CommandFault::UnknownCommand) => Ok(Some((
                "unknown-command".to_owned(),
                format!("the handler has no command '{name}'"),
            ))),
            Err(CommandFault::BadBody { field, problem }) => {
                Ok(Some(("bad-body".to_owned(), bad_body(&field, &problem))))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Whether there is nothing to write.
    pub(in crate::partition) fn is_empty(&self) -> bool {
        self.outcomes.is_empty() && self.taken.is_none() && self.bootstrapped.is_none()
    }

    fn settle(
        &mut self,
        slot: &mut InstanceSlot,
        states: &mut Speculation<'_>,
        request: &CommandRequest,
        cause: &str,
        identity: [u8; 32],
        asked: &Asked<'_>,
    ) -> Result<Outcome, CommandFault> {
        let before = asked.folds.then(|| states.get(&request.key)).flatten();
        let counted = before.as_ref().map_or(0, KeyState::version);
        let before = before.filter(|state| !state.is_gone());
        let version = before.as_ref().map(KeyState::version);
        let settled = |what, version| Outcome {
            what,
            version,
            at_ms: asked.now_ms,
            request: identity,
        };
        if !request.expects.holds(version) {
            return Ok(settled(Settled::Stale, version));
        }
        let mut command = request.command.clone();
        command.context = CallContext {
            now_ms: asked.now_ms,
            version,
            changed_at_ms: before.as_ref().map(|state| state.changed_at_ms),
            ..command.context
        };
        let state = before.as_ref().map(|state| &*state.state);
        let decided = slot.call(|instance| instance.decide(&request.key, state, &command));
        let decision = match decided.map_err(|fault| failed(&fault))? {
            Ok(decision) => decision,
            Err(Refusal::UnknownCommand) => return Err(CommandFault::UnknownCommand),
            Err(Refusal::BadBody { field, problem }) => {
                return Err(CommandFault::BadBody { field, problem });
            }
            Err(Refusal::Refused {
                code,
                reason,
                details,
            }) => {
                let refused = Settled::Refused {
                    code,
                    reason,
                    details,
                };
                return Ok(settled(refused, version));
            }
        };
        let Decision { events, reply } = decision;
        let reply_bytes = reply.as_ref().map_or(0, |reply| reply.body.len());
        if reply_bytes > limits::OUTCOME_REPLY_BYTES_MAX {
            return Err(CommandFault::Failed {
                code: "reply-too-large".to_owned(),
                detail: format!(
                    "the reply has {reply_bytes} bytes, more than the {} that are kept for a repeat: a query gives \
                     what is larger",
                    limits::OUTCOME_REPLY_BYTES_MAX
                ),
            });
        }
        let count = u32::try_from(events.len()).expect("events of a command are bounded");
        let records: Vec<NewRecord> = (counted + 1..)
            .zip(events)
            .map(|(version, event)| {
                let mut headers: Vec<Header> = event
                    .headers
                    .into_iter()
                    .map(|(name, value)| (name.into(), value.map(Bytes::from)))
                    .collect();
                let travelling = request.travelling.iter();
                headers.extend(
                    travelling.map(|(name, value)| (name.clone().into(), Some(value.clone()))),
                );
                asked
                    .stamp
                    .event(&mut headers, asked.folds.then_some(version), cause);
                NewRecord {
                    key: Some(request.key.clone()),
                    value: event.value.map(Bytes::from),
                    headers,
                    timestamp_ms: Some(asked.now_ms),
                    partition: Some(asked.partition),
                }
            })
            .collect();
        for record in &records {
            let bytes = record.bytes();
            if bytes > asked.source.record_bytes_max {
                return Err(CommandFault::Failed {
                    code: "output-too-large".to_owned(),
                    detail: format!(
                        "an event of the command has {bytes} bytes, more than the {} that the owned topic takes",
                        asked.source.record_bytes_max
                    ),
                });
            }
        }
        let after = match asked.folds && !records.is_empty() {
            true => fold(slot, states, &records, asked)?,
            false => version,
        };
        self.events.extend(records);
        let accepted = Settled::Accepted {
            events: count,
            reply,
        };
        Ok(settled(accepted, after.filter(|_| asked.folds)))
    }

    /// Answers all who wait: what they wait for is durable, and the last of their events lies at
    /// `position_of(events)`, of so many events from the first of the round on.
    pub(in crate::partition) fn confirm(
        &mut self,
        position_of: impl Fn(usize) -> Option<RecordPosition>,
    ) {
        for (asker, outcome, events, is_repeat) in std::mem::take(&mut self.waiting) {
            let answer = Answer {
                outcome: self.outcomes[outcome].1.clone(),
                position: position_of(events),
                is_repeat,
            };
            asker.answer(Ok(answer));
        }
    }

    /// Tells all who wait that nobody knows.
    pub(in crate::partition) fn give_up(&mut self, why: &str) {
        for (asker, ..) in std::mem::take(&mut self.waiting) {
            asker.answer(Err(CommandFault::Unknown(why.to_owned())));
        }
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        self.give_up("the host stopped before it was confirmed");
    }
}

/// Folds the events of one command, and gives the version of its key.
fn fold(
    slot: &mut InstanceSlot,
    states: &mut Speculation<'_>,
    records: &[NewRecord],
    asked: &Asked<'_>,
) -> Result<Option<u64>, CommandFault> {
    let mut batch = RecordBatch::new();
    for (offset, record) in (0..).zip(records) {
        batch.push_new(Offset(offset), record);
    }
    let source = Source {
        on_error: OnError::Stop,
        ..asked.source.clone()
    };
    let stepped = step(slot, states, &batch, &source).map_err(|fault| CommandFault::Failed {
        code: TRY_AGAIN.to_owned(),
        detail: fault.to_string(),
    })?;
    if let Some(poison) = stepped.poison {
        return Err(CommandFault::Failed {
            code: "own-event-rejected".to_owned(),
            detail: format!(
                "the plugin cannot fold an event that it decided itself ({}): {}",
                poison.code, poison.reason
            ),
        });
    }
    states.take(&stepped.changes);
    let key = records[0].key.as_deref().unwrap_or_default();
    let after = states.get(key).filter(|state| !state.is_gone());
    Ok(after.map(|state| state.version()))
}

fn failed(fault: &CallError) -> CommandFault {
    let code = match fault {
        CallError::Interrupted { .. } | CallError::Instantiate(_) => TRY_AGAIN,
        CallError::TooMuch { .. } => "emitted-too-much",
        _ => "plugin-trapped",
    };
    CommandFault::Failed {
        code: code.to_owned(),
        detail: fault.to_string(),
    }
}

fn repeat(
    outcome: &Outcome,
    identity: &[u8; 32],
    position: Option<RecordPosition>,
) -> Result<Answer, CommandFault> {
    if outcome.request != *identity {
        return Err(CommandFault::OtherRequest);
    }
    Ok(Answer {
        outcome: outcome.clone(),
        position,
        is_repeat: true,
    })
}

impl CommandRequest {
    /// What tells it from another command under the same id.
    fn identity(&self) -> [u8; 32] {
        let command = &self.command;
        let mut all = Vec::with_capacity(command.content.body.len() + 256);
        for part in [
            &*self.key,
            command.name.as_bytes(),
            command.content.content_type.as_bytes(),
            &command.content.body,
        ] {
            all.extend_from_slice(&(part.len() as u64).to_le_bytes());
            all.extend_from_slice(part);
        }
        *Digest::of(&all).as_bytes()
    }
}
