//! The native test driver: a plugin's logic under `cargo test`, without wasm and without a host.
//!
//! Used by plugin authors. It packs records into the columns that the host sends, calls the same glue
//! that runs in the sandbox, and checks what comes back as the host does; so what passes here folds
//! there. Views, republishers and command handlers have the same driver; a republisher's has
//! [`react`](Driver::react) and [`outputs`](Driver::outputs) beside, a command handler's
//! [`given`](Driver::given) and [`command`](Driver::command).

mod check;
mod command;
mod emit_state;
mod migrate;
mod pack;
mod play;
mod react;
mod record;
mod route;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

pub use command::Decided;
pub use record::{Record, When};

use self::command::{DecideFn, Issued};
use self::play::{Partition, Rejected};
use crate::abi::query::Request;
use crate::abi::types::{CallContext, Payload as AbiPayload};
use crate::fold::read_state;
use crate::log::{self, Level};
use crate::parameters::{self, Parameters};
use crate::{Configure, Key, Payload, Query, QueryError, Reject, Timestamp, View, query};

/// A partition of a host in miniature: it folds records and answers questions.
///
/// ```
/// use foldhost_sdk::testing::{Driver, Record};
/// use foldhost_sdk::{Event, Json, Reject, View};
///
/// /// The balance of an account, never below zero.
/// struct Balance;
/// impl View for Balance {
///     type State = Json<i64>;
///     type Event = Json<i64>;
///     fn fold(state: &mut Option<Json<i64>>, event: &Event<Json<i64>>) -> Result<(), Reject> {
///         let balance = state.get_or_insert_default();
///         balance.0 += event.required()?.0;
///         if balance.0 < 0 {
///             return Err(Reject::new("overdrawn", format!("{} are missing", -balance.0)));
///         }
///         Ok(())
///     }
/// }
///
/// let mut driver = Driver::<Balance>::new();
/// driver.send(Record::new("ann", &Json(5))).unwrap();
/// let reject = driver.send(Record::new("ann", &Json(-7))).unwrap_err();
/// assert_eq!(reject.code(), "overdrawn");
/// assert_eq!(driver.state("ann"), Some(Json(5)));   // as if the record were not there
/// driver.assert_deterministic();
/// ```
pub struct Driver<V: View> {
    partition: Partition,
    /// The states that were there before the first record: migrated ones.
    base: check::States,
    sent: Vec<Record>,
    rejections: Vec<Rejection>,
    /// What a republisher has emitted.
    outputs: Vec<Record>,
    logs: Vec<(Level, String)>,
    parameters: Option<Parameters>,
    now: Timestamp,
    principal: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    /// The commands of a handler, those that were refused too.
    issued: Vec<Issued>,
    decide_again: Option<DecideFn>,
    command_id: Option<String>,
    view: PhantomData<V>,
}

/// A record that was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Which of all records that were sent, from 0.
    pub record: usize,
    /// The key under which it was to be folded; where it never came to that, its own (empty if it has
    /// none).
    pub key: Vec<u8>,
    /// What the plugin says.
    pub reject: Reject,
}

impl Rejected {
    /// As a record of all, of which the batch begins with number `first`.
    fn numbered(self, first: usize) -> Rejection {
        Rejection {
            record: first + self.index,
            key: self.key,
            reject: self.reject,
        }
    }
}

impl<V: View> Default for Driver<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: View> fmt::Debug for Driver<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("view", &std::any::type_name::<V>())
            .field("records", &self.sent.len())
            .field("keys", &self.partition.states.len())
            .finish_non_exhaustive()
    }
}

impl<V: View> Driver<V> {
    /// An empty partition; for a plugin without parameters.
    pub fn new() -> Self {
        Self::with_parameters(None)
    }

    fn with_parameters(parameters: Option<Parameters>) -> Self {
        Self {
            partition: Partition::default(),
            base: check::States::new(),
            sent: Vec::new(),
            rejections: Vec::new(),
            outputs: Vec::new(),
            logs: Vec::new(),
            parameters,
            now: Timestamp::default(),
            principal: None,
            headers: Vec::new(),
            issued: Vec::new(),
            decide_again: None,
            command_id: None,
            view: PhantomData,
        }
    }

    /// Folds one record.
    ///
    /// # Errors
    /// The plugin rejects it, or it cannot be decoded. The state of its key is as before, and the
    /// driver goes on (as a host does under `on-error = "dead-letter"`). Of a record that is routed to
    /// several keys, the first rejection.
    pub fn send(&mut self, record: Record) -> Result<(), Reject> {
        match self.send_all([record]).into_iter().next() {
            Some(rejection) => Err(rejection.reject),
            None => Ok(()),
        }
    }

    /// Folds records in one call, as one batch, and gives the rejected ones.
    pub fn send_all(&mut self, records: impl IntoIterator<Item = Record>) -> Vec<Rejection> {
        let first = self.sent.len();
        self.sent.extend(records);
        let batch = &self.sent[first..];
        let partition = &mut self.partition;
        let outcome = scope(&mut self.logs, &self.parameters, || {
            partition.fold::<V>(batch)
        });
        self.outputs.extend(outcome.outputs);
        let rejected = outcome.rejected.into_iter();
        let rejected: Vec<_> = rejected.map(|r| r.numbered(first)).collect();
        self.rejections.extend_from_slice(&rejected);
        rejected
    }

    /// The state of a key.
    ///
    /// # Panics
    /// The state cannot be decoded: the codec does not read what it writes.
    pub fn state(&self, key: impl Key) -> Option<V::State> {
        let bytes = self.state_bytes(&key)?;
        Some(read_state::<V>(&key.to_key(), bytes))
    }

    /// The state of a key as the host stores it.
    pub fn state_bytes(&self, key: impl Key) -> Option<&[u8]> {
        let state = self.partition.states.get(&key.to_key());
        state.map(Vec::as_slice)
    }

    /// All keys that have a state, with its bytes, in the order of the keys.
    pub fn states(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.partition.states
    }

    /// Every record that was not applied, in the order of sending.
    pub fn rejections(&self) -> &[Rejection] {
        &self.rejections
    }

    /// What the plugin has logged so far, in this driver.
    pub fn logs(&self) -> &[(Level, String)] {
        &self.logs
    }

    /// Sets the host's clock, for commands, and for queries that use the context. It stands at the Unix epoch
    /// at first.
    pub fn set_now(&mut self, now: impl Into<When>) {
        self.now = now.into().0;
    }

    /// Sets who asks or commands. At first nobody is known.
    pub fn set_principal(&mut self, principal: Option<&str>) {
        self.principal = principal.map(str::to_owned);
    }

    /// Sets a header of the requests that follow, for commands, and for queries that use the context. At first
    /// there are none.
    ///
    /// # Panics
    /// The name is not in lower case, as the host gives it.
    pub fn set_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        assert_eq!(name, name.to_lowercase(), "headers come in lower case");
        self.headers.retain(|(header, _)| header != name);
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec()));
    }

    /// Checks that everything sent so far is folded to the same bytes and the same rejections (and of a
    /// republisher: emits the same records in the same order) however it is cut into batches: as it was
    /// sent, in one batch, one by one, and in threes behind an event that does not count. That finds what
    /// a host would find too late: order by address (`HashMap`), a clock, chance, and anything kept in a
    /// global or thread-local from one event to the next, since every run finds there what the runs
    /// before it left. Every command of a handler is decided again, too, each on the state that it was
    /// decided on, in other orders.
    ///
    /// # Panics
    /// Two runs differ; the message says which, for which key, and how.
    pub fn assert_deterministic(&mut self) {
        let own = check::Run {
            states: self.partition.states.clone(),
            rejects: check::rejects(&self.rejections),
            outputs: self.outputs.clone(),
        };
        let log = check::Log::new(&self.base, &self.sent, &self.partition);
        scope(&mut self.logs, &self.parameters, || {
            check::deterministic::<V>(&own, log);
        });
        let mut logs = std::mem::take(&mut self.logs);
        scope(&mut logs, &self.parameters, || self.redecide());
        self.logs = logs;
    }

    /// Checks that records which come more than once change nothing: everything sent so far, with
    /// every record twice in a row, and then as a whole twice, must end in the same bytes.
    ///
    /// Not every view has to pass: a count of records does not. The host folds every record of the log
    /// exactly once; this is about producers that write a record twice. Of a republisher it looks at the
    /// states only; see [`assert_idempotent_outputs`](Self::assert_idempotent_outputs).
    ///
    /// # Panics
    /// A state differs; the message says of which key, and how.
    pub fn assert_idempotent(&mut self) {
        let log = check::Log::new(&self.base, &self.sent, &self.partition);
        scope(&mut self.logs, &self.parameters, || {
            check::idempotent::<V>(log);
        });
    }
}

impl<V: Configure> Driver<V> {
    /// An empty partition for a view with parameters.
    ///
    /// # Errors
    /// What the host would refuse the deployment with.
    pub fn configured(parameters: &[(&str, &str)]) -> Result<Self, String> {
        let parameters = parameters::read::<V>(&owned(parameters))?;
        Ok(Self::with_parameters(Some(parameters)))
    }
}

impl<V: Query> Driver<V> {
    /// Asks a query (empty name = the default one) about a key, and reads the answer as JSON.
    ///
    /// # Errors
    /// What the view says, and what is wrong with the arguments.
    ///
    /// # Panics
    /// The answer is not JSON; use [`ask`](Self::ask).
    pub fn query(
        &mut self,
        key: impl Key,
        name: &str,
        arguments: &[(&str, &str)],
    ) -> Result<serde_json::Value, QueryError> {
        let answer = self.ask(key, name, arguments, None)?;
        let json = serde_json::from_slice(&answer.body);
        Ok(json.unwrap_or_else(|error| panic!("the answer of `{name}` is not JSON: {error}")))
    }

    /// Asks a query, with a body or without, and gives the answer as it is.
    ///
    /// # Errors
    /// What the view says, and what is wrong with the arguments.
    pub fn ask(
        &mut self,
        key: impl Key,
        name: &str,
        arguments: &[(&str, &str)],
        body: Option<Payload>,
    ) -> Result<Payload, QueryError> {
        let key = key.to_key();
        let state = self.partition.states.get(&key).map(Vec::as_slice);
        let change = state.and(self.partition.changes.get(&key));
        let request = Request {
            name: name.to_owned(),
            arguments: owned(arguments),
            content: body.map(|payload| AbiPayload {
                content_type: payload.content_type,
                body: payload.body,
            }),
            accept: String::new(),
            context: CallContext {
                now: self.now.millis(),
                version: self.partition.version(&key),
                changed_at: change.map(|change| change.timestamp.millis()),
                principal: self.principal.clone(),
                headers: self.headers.clone(),
            },
        };
        scope(&mut self.logs, &self.parameters, || {
            query::ask::<V>(&key, state, request)
        })
    }
}

/// Runs a call into the plugin: with these parameters, and with what it logs put to `logs`.
fn scope<T>(
    logs: &mut Vec<(Level, String)>,
    parameters: &Option<Parameters>,
    call: impl FnOnce() -> T,
) -> T {
    let outer = parameters::install(parameters.clone());
    let (result, lines) = log::collected(call);
    parameters::install(outer);
    logs.extend(lines);
    result
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests;
