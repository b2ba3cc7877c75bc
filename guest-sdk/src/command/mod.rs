//! [`CommandHandler`]: the commands that a plugin accepts or refuses, the export `decide`.
//!
//! Implemented by plugins; [`Commands`] carries one command to the closure that decides it, or lists all
//! of them for `describe`. Invariant: a decision is a function of key, state and command (its context
//! included), so that the host may decide again where it cannot know how the first attempt ended.

mod body;
mod commands;
mod decision;
mod glue;
mod issued;
mod refusal;

pub(crate) use body::missing;
pub use commands::{Commands, NamedCommand};
pub(crate) use decision::write_events;
pub use decision::{Decision, NewEvents};
pub use glue::{decide, describe_commands};
pub use issued::Command;
pub use refusal::Refusal;

use crate::{Codec, CodecError, View};

/// The header that makes a record of a topic a command: its value is the command's name. The record's key
/// is the entity's, its value the body; see [`Emitted::command`](crate::Emitted::command).
pub const COMMAND_HEADER: &str = "foldhost-command";

/// A command handler (a decider): command + state → events for the one topic that the plugin owns (the
/// manifest's `output`), or a refusal. `POST /v1/commands/{plugin}/{key}/{command}`
///
/// A command is something that somebody wants to happen, and may fail; an event is something that did
/// happen. The state on which a command is decided is the **write model**: the fold of the handler's own
/// events, so [`View`] is implemented beside, with the events of the owned topic. The host decides the
/// commands of one key one after the other, each on the state that the events before it have made; two of
/// them never see the same state. It folds the events of a decision before it writes them, and answers
/// once they are durable.
///
/// Name it in the export: `foldhost_sdk::export!(Seats: CommandHandler)`, which exports the fold, too.
/// `foldhost plugin new NAME --kind handler` writes one to start from.
///
/// ```
/// use foldhost_sdk::testing::{Driver, Record};
/// use foldhost_sdk::{Command, CommandHandler, Commands, Decision, Event, Json, Refusal, Reject, View};
/// use serde::{Deserialize, Serialize};
/// use serde_json::json;
///
/// /// What has happened to the seats of a show; the key is the show.
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// #[serde(tag = "type", rename_all = "kebab-case")]
/// enum SeatEvent {
///     Offered { seats: u32 },
///     Reserved { seats: u32, left: u32 },
/// }
///
/// struct Seats;
///
/// /// The write model: how many are left.
/// impl View for Seats {
///     type State = Json<u32>;
///     type Event = Json<SeatEvent>;
///     fn fold(left: &mut Option<Json<u32>>, event: &Event<Json<SeatEvent>>) -> Result<(), Reject> {
///         *left = Some(Json(match &event.required()?.0 {
///             SeatEvent::Offered { seats } => *seats,
///             SeatEvent::Reserved { left, .. } => *left,
///         }));
///         Ok(())
///     }
/// }
///
/// #[derive(Deserialize)]
/// struct Wanted {
///     seats: u32,
/// }
///
/// impl CommandHandler for Seats {
///     fn commands(on: &mut Commands<Self>) {
///         on.command("offer", "Puts the seats of a new show on sale").decide(|command, wanted: Wanted| {
///             match command.state_if_any() {
///                 Some(_) => Err(Refusal::new("on-sale", "the seats of this show are on sale already")),
///                 None => Ok(Json(SeatEvent::Offered { seats: wanted.seats }).into()),
///             }
///         });
///         on.command("reserve", "Takes seats, where so many are left").decide(reserve);
///     }
/// }
///
/// fn reserve(command: Command<Json<u32>>, wanted: Wanted) -> Result<Decision<Json<SeatEvent>>, Refusal> {
///     let left = command.state()?.0;
///     let Some(rest) = left.checked_sub(wanted.seats) else {
///         return Err(Refusal::new("sold-out", format!("{left} seats are left"))
///             .details(serde_json::json!({ "left": left })));
///     };
///     let reserved = SeatEvent::Reserved { seats: wanted.seats, left: rest };
///     Ok(Decision::new().event(Json(reserved)).reply(json!({ "left": rest })))
/// }
/// foldhost_sdk::export!(Seats: CommandHandler);
///
/// // Given events, when a command, then events,
/// let mut driver = Driver::<Seats>::new();
/// driver.given([Record::new("hamlet", &Json(SeatEvent::Offered { seats: 3 }))]);
/// let decided = driver.command("hamlet", "reserve", json!({ "seats": 2 })).unwrap();
/// assert_eq!(decided.events, [Record::new("hamlet", &Json(SeatEvent::Reserved { seats: 2, left: 1 }))]);
/// assert_eq!(decided.reply(), json!({ "left": 1 }));
///
/// // or a refusal.
/// let refusal = driver.command("hamlet", "reserve", json!({ "seats": 2 })).unwrap_err();
/// assert_eq!(refusal.to_string(), "sold-out: 1 seats are left");
/// let refusal = driver.command("hamlet", "reserve", json!({ "seats": "two" })).unwrap_err();
/// assert_eq!(refusal, Refusal::bad_body("seats", "expected an integer from 0 to 4294967295, not `\"two\"`"));
/// driver.assert_deterministic();
/// ```
///
/// **Every handler is a [`View`]** of its own topic, so [`Query`](crate::Query) (for reading what one is
/// about to change; other questions belong in a view of the topic), [`Migrate`](crate::Migrate) and
/// [`Configure`](crate::Configure) are implemented for it as for any view, and named in the export:
/// `foldhost_sdk::export!(Seats: CommandHandler + Query)`. [`EmitState`](crate::EmitState) tells the state
/// again to readers who come after the log was cut.
///
/// In the fold of a handler an event has no [`offset`](crate::Event::offset), since it is folded before it
/// is written. What `fold` rejects is never written: the command is refused.
///
/// # What is a refusal, and what is not
/// - The body does not fit: that is found, and answered with the field's name, before the closure runs.
/// - The rules say no: [`Refusal::new`], with a code that programs can rely on. Nothing is written.
/// - What was asked for is so already: a decision without events, [`Decision::new`], is a success. That is
///   how a command becomes idempotent beyond what the host remembers of it.
/// - A panic is a trap: the command fails, nothing is written, the partition goes on.
///
/// # Without state
/// A handler that only validates and emits has [`NoState`] and a fold that does nothing. It is exported as
/// [`StatelessCommandHandler`]; then the host keeps no state for it, and never reads its topic.
///
/// ```
/// use foldhost_sdk::testing::Driver;
/// use foldhost_sdk::{CommandHandler, Commands, Event, Json, NoState, Refusal, Reject, View};
/// use serde_json::json;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Reading { degrees: f64 }
///
/// /// Lets only what makes sense into the topic.
/// struct Intake;
///
/// impl View for Intake {
///     type State = NoState;
///     type Event = Json<Reading>;
///     fn fold(_: &mut Option<NoState>, _: &Event<Json<Reading>>) -> Result<(), Reject> {
///         Ok(())
///     }
/// }
///
/// impl CommandHandler for Intake {
///     fn commands(on: &mut Commands<Self>) {
///         on.command("report", "What a sensor has measured").decide(|_, reading: Reading| {
///             match reading.degrees {
///                 -273.15.. => Ok(Json(reading).into()),
///                 _ => Err(Refusal::bad_body("degrees", "expected at least -273.15")),
///             }
///         });
///     }
/// }
/// foldhost_sdk::export!(Intake: StatelessCommandHandler);
///
/// let mut driver = Driver::<Intake>::new();
/// assert_eq!(driver.command("attic", "report", json!({ "degrees": 21.5 })).unwrap().events.len(), 1);
/// assert_eq!(driver.command("attic", "report", json!({ "degrees": -300 })).unwrap_err().code(), "bad-body");
/// ```
pub trait CommandHandler: View<Event: Codec> + Sized {
    /// Names the commands and who decides them. Called for every command, and once for `describe`; does
    /// nothing but call methods of `on`, the same ones every time.
    fn commands(on: &mut Commands<'_, Self>);
}

/// A [`CommandHandler`] whose state is [`NoState`]: it validates and emits, and remembers nothing. To be
/// named in the export instead of `CommandHandler`; never implemented by hand.
pub trait StatelessCommandHandler: CommandHandler<State = NoState> {}

impl<H: CommandHandler<State = NoState>> StatelessCommandHandler for H {}

/// The state of a plugin that keeps none: there is no value of this type, so `Option<NoState>` is always
/// `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoState {}

impl Codec for NoState {
    const IS_NOTHING: bool = true;

    fn decode(_bytes: &[u8]) -> Result<Self, CodecError> {
        Err(CodecError::new("this plugin keeps no state"))
    }

    fn encode(&self, _out: &mut Vec<u8>) {
        match *self {}
    }
}
