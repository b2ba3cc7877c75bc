//! Command handlers in a test: given events, when a command, then events or a refusal.
//!
//! Invariant: a command is decided on the fold of all events before it, and its events are folded before
//! anybody sees them, as on a host. Every command is kept with the state that it was decided on, so that
//! [`Driver::assert_deterministic`] can have it decided again.

use serde::Serialize;

use super::{Driver, Record, scope};
use crate::abi::decide::{Command, Decision, Refusal as AbiRefusal};
use crate::abi::types::{CallContext, Payload as AbiPayload};
use crate::command::{self, describe_commands};
use crate::{COMMAND_HEADER, CommandHandler, Key, Payload, Refusal, Timestamp, View};

/// The export `decide` of some plugin.
pub(super) type DecideFn = fn(&[u8], Option<&[u8]>, Command) -> Result<Decision, AbiRefusal>;

/// A command that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Its events, in order, as a reader of the topic sees them (without the headers that the host adds).
    pub events: Vec<Record>,
    /// What the caller is answered, if the handler says it.
    pub payload: Option<Payload>,
    /// The version of the key after it: how many events the key has had. `None` if it has no state.
    pub version: Option<u64>,
}

impl Decided {
    /// What the caller is answered, read as JSON.
    ///
    /// # Panics
    /// The handler gave no reply, or it is not JSON.
    pub fn reply(&self) -> serde_json::Value {
        let Some(payload) = &self.payload else {
            panic!("the decision has no reply: {self:?}");
        };
        let json = serde_json::from_slice(&payload.body);
        json.unwrap_or_else(|error| panic!("the reply is not JSON: {error}"))
    }
}

/// A command as it was given, and what came of it.
pub(super) struct Issued {
    key: Vec<u8>,
    state: Option<Vec<u8>>,
    command: Command,
    verdict: Verdict,
}

/// Events and reply, or the refusal.
type Verdict = Result<(Vec<Record>, Option<Payload>), Refusal>;

impl<H: CommandHandler> Driver<H> {
    /// Events that the owned topic has already: the history on which the next command is decided.
    ///
    /// ```
    /// # use foldhost_sdk::testing::{Driver, Record};
    /// # use foldhost_sdk::{CommandHandler, Commands, Event, Json, NoArguments, Refusal, Reject, View};
    /// # struct Lamp;
    /// # impl View for Lamp {
    /// #     type State = Json<bool>;
    /// #     type Event = Json<bool>;
    /// #     fn fold(on: &mut Option<Json<bool>>, event: &Event<Json<bool>>) -> Result<(), Reject> {
    /// #         *on = event.value().cloned();
    /// #         Ok(())
    /// #     }
    /// # }
    /// # impl CommandHandler for Lamp {
    /// #     fn commands(on: &mut Commands<Self>) {
    /// #         on.command("switch-off", "Off").decide(|command, NoArguments {}| match command.state()?.0 {
    /// #             true => Ok(Json(false).into()),
    /// #             false => Err(Refusal::new("dark", "it is off already")),
    /// #         });
    /// #     }
    /// # }
    /// let mut driver = Driver::<Lamp>::new();
    /// driver.given([Record::new("hall", &Json(true)), Record::new("attic", &Json(false))]);
    /// driver.command("hall", "switch-off", ()).unwrap();
    /// assert_eq!(driver.command("attic", "switch-off", ()).unwrap_err().code(), "dark");
    /// assert_eq!(driver.version("hall"), Some(2));
    /// ```
    ///
    /// # Panics
    /// - An event is rejected by the handler's own fold, cannot be decoded, or has no key.
    /// - Something came in by [`send`](Self::send): a handler folds its own events only.
    pub fn given(&mut self, events: impl IntoIterator<Item = Record>) {
        self.own_topic("given");
        let events: Vec<Record> = events.into_iter().collect();
        for event in &events {
            assert!(
                event.key.is_some(),
                "an event of a handler has a key: {event:?}"
            );
        }
        let rejected = self.send_all(events.iter().cloned());
        if let Some(rejection) = rejected.first() {
            let first = self.sent.len() - events.len();
            let event = &events[rejection.record - first];
            let reject = &rejection.reject;
            panic!(
                "a given event must be one that the handler folds: {event:?} is rejected, {reject}"
            );
        }
    }

    /// Gives a command with a JSON body (`()` is none), and folds the events that it causes.
    ///
    /// It is decided as of [`set_now`](Self::set_now), for the caller of
    /// [`set_principal`](Self::set_principal); the events carry that time.
    ///
    /// # Errors
    /// The handler refuses it, has no such command, or the body does not fit. Nothing has changed.
    ///
    /// # Panics
    /// - The handler's own fold rejects one of the events (a host refuses the command then).
    /// - Two commands of the handler have one name.
    /// - Something came in by [`send`](Self::send): what a handler has folded before is
    ///   [`given`](Self::given).
    pub fn command(
        &mut self,
        key: impl Key,
        name: &str,
        body: impl Serialize,
    ) -> Result<Decided, Refusal> {
        let body = serde_json::to_vec(&body);
        let body = body.unwrap_or_else(|error| panic!("the body is no JSON: {error}"));
        // What serde makes of `()`.
        let body = if body == b"null" { Vec::new() } else { body };
        self.command_raw(key, name, Payload::new("application/json", body))
    }

    /// Gives a command whose body is in any format; else as [`command`](Self::command).
    ///
    /// # Errors
    /// As [`command`](Self::command).
    ///
    /// # Panics
    /// As [`command`](Self::command).
    pub fn command_raw(
        &mut self,
        key: impl Key,
        name: &str,
        body: Payload,
    ) -> Result<Decided, Refusal> {
        let headers = self.headers.clone();
        self.decide(key.to_key(), name, body, headers)
    }

    /// Gives a command that is a record of one of the handler's inputs, such as a republisher emits: the
    /// header `foldhost-command` names it, `content-type` says what the value is, the key is the entity's.
    /// So the drivers of a handler and of a republisher make a saga:
    /// `for record in transfers.react(event)? { bank.deliver(&record)?; }`
    ///
    /// # Errors
    /// As [`command`](Self::command).
    ///
    /// # Panics
    /// The record has no key or no header `foldhost-command`; else as [`command`](Self::command).
    pub fn deliver(&mut self, record: &Record) -> Result<Decided, Refusal> {
        let Some(key) = record.key.clone() else {
            panic!("a command is about a key, and this record has none: {record:?}");
        };
        let header = |name: &str| {
            let of_name = record.headers().filter(|(header, _)| *header == name);
            let value = of_name.last().and_then(|(_, value)| value);
            value.map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let Some(name) = header(COMMAND_HEADER) else {
            panic!("a record becomes a command by its header `{COMMAND_HEADER}`: {record:?}");
        };
        let body = Payload {
            content_type: header("content-type").unwrap_or_default(),
            body: record.value.clone().unwrap_or_default(),
        };
        let own = record.headers().filter_map(|(name, value)| {
            let passed = !name.starts_with("foldhost-");
            passed.then(|| Some((name.to_lowercase(), value?.to_vec())))?
        });
        self.decide(key, &name, body, own.collect())
    }

    /// The version of a key: how many events it has had. `None` while it has no state.
    pub fn version(&self, key: impl Key) -> Option<u64> {
        self.partition.version(&key.to_key())
    }

    /// All events of the owned topic so far, in order: the given ones, and those of commands.
    pub fn events(&self) -> &[Record] {
        &self.sent
    }

    /// Sets the id that [`Command::id`](crate::Command::id) tells, for a handler that looks at it. At first,
    /// and after `None`, each command has one of its own.
    pub fn set_command_id(&mut self, id: Option<&str>) {
        self.command_id = id.map(str::to_owned);
    }

    fn decide(
        &mut self,
        key: Vec<u8>,
        name: &str,
        body: Payload,
        headers: Vec<(String, Vec<u8>)>,
    ) -> Result<Decided, Refusal> {
        self.own_topic("command");
        let command = self.issue(&key, name, body, headers);
        let state = self.partition.states.get(&key).cloned();
        let verdict = scope(&mut self.logs, &self.parameters, || {
            verdict(command::decide::<H>, &key, state.as_deref(), &command)
        });
        self.decide_again = Some(command::decide::<H>);
        self.issued.push(Issued {
            key: key.clone(),
            state,
            command,
            verdict: verdict.clone(),
        });
        let (events, payload) = verdict?;
        if let Some(rejection) = self.send_all(events.iter().cloned()).first() {
            panic!(
                "`{name}` was decided, and the handler's own fold rejects what it causes: {}; a host refuses \
                 such a command",
                rejection.reject
            );
        }
        Ok(Decided {
            events,
            payload,
            version: self.partition.version(&key),
        })
    }

    fn issue(
        &self,
        key: &[u8],
        name: &str,
        body: Payload,
        headers: Vec<(String, Vec<u8>)>,
    ) -> Command {
        let id = self.command_id.clone();
        let change = self.partition.changes.get(key);
        let version = self.partition.version(key);
        Command {
            name: name.to_owned(),
            id: id.unwrap_or_else(|| format!("command-{}", self.issued.len() + 1)),
            content: AbiPayload {
                content_type: body.content_type,
                body: body.body,
            },
            context: CallContext {
                now: self.now.millis(),
                version,
                changed_at: version.and(change).map(|change| change.timestamp.millis()),
                principal: self.principal.clone(),
                headers,
            },
        }
    }

    /// From now on what is folded are the handler's own events.
    fn own_topic(&mut self, method: &str) {
        if !self.partition.own_topic {
            assert!(
                self.sent.is_empty(),
                "`{method}` after `send`: a command handler folds its own events only, so tell those that \
                 there are already with `given`"
            );
            assert!(
                self.partition.route.is_none(),
                "a command names its key: the driver of a command handler is not `routed`"
            );
            self.partition.own_topic = true;
            // Names that clash are found here.
            describe_commands::<H>();
        }
    }
}

impl<V: View> Driver<V> {
    /// Has every command decided again, each on the state that it was decided on, in two other orders.
    pub(super) fn redecide(&self) {
        let Some(decide) = self.decide_again else {
            return;
        };
        let numbered = || self.issued.iter().enumerate();
        for (number, issued) in numbered().rev().chain(numbered()) {
            let again = verdict(
                decide,
                &issued.key,
                issued.state.as_deref(),
                &issued.command,
            );
            if again != issued.verdict {
                panic!(
                    "command {number} (from 0), `{}` on key `{}`, is decided in two ways\n  first: {:?}\n  \
                     again: {again:?}\na decision must depend on key, state and command only: no HashMap, no \
                     globals, and the time is `command.context().now()`",
                    issued.command.name,
                    issued.key.escape_ascii(),
                    issued.verdict,
                );
            }
        }
    }
}

/// One call, and its outcome in the SDK's own types.
fn verdict(decide: DecideFn, key: &[u8], state: Option<&[u8]>, command: &Command) -> Verdict {
    let now = Timestamp::from_millis(command.context.now);
    match decide(key, state, command.clone()) {
        Ok(decision) => {
            let events = decision.events.into_iter();
            let events = events.map(|event| Record::written(key, event, now));
            let reply = decision.reply;
            let reply = reply.map(|reply| Payload::new(reply.content_type, reply.body));
            Ok((events.collect(), reply))
        }
        Err(AbiRefusal::UnknownCommand) => Err(Refusal::UnknownCommand),
        Err(AbiRefusal::BadBody((field, problem))) => Err(Refusal::bad_body(field, problem)),
        Err(AbiRefusal::Refused((code, message, details))) => Err(Refusal::Refused {
            code,
            message,
            details: (!details.is_empty()).then_some(details),
        }),
    }
}
