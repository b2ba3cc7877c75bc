//! Write foldhost plugins in Rust.
//!
//! A plugin is a pure function from events to state (and to events of its own), compiled to a
//! WebAssembly component; the host owns state, offsets, time and I/O. This crate carries a batch from the
//! host's columns to [`View::fold`] or [`Republisher::react`], a command to [`CommandHandler`] and a question
//! to [`Query`], and tests all of it natively ([`testing::Driver`]), without wasm and without a host.
//!
//! A whole view, the newest JSON value of each key and when it came:
//!
//! ```
//! use foldhost_sdk::{Event, Json, NoArguments, Queries, Query, Reject, Timestamp, View};
//! use serde_json::Value;
//!
//! pub struct Latest;
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! pub struct Stored { value: Value, at: Timestamp }
//!
//! impl View for Latest {
//!     type State = Json<Stored>;
//!     type Event = Json<Value>;
//!     fn fold(state: &mut Option<Self::State>, event: &Event<Self::Event>) -> Result<(), Reject> {
//!         *state = event.value().map(|value| Json(Stored { value: value.0.clone(), at: event.timestamp() }));
//!         Ok(())
//!     }
//! }
//!
//! impl Query for Latest {
//!     fn queries(on: &mut Queries<Self>) {
//!         on.default("The newest value").answer(|question, NoArguments {}| question.state());
//!     }
//! }
//! foldhost_sdk::export!(Latest: View + Query);
//!
//! // In a plugin this is a `#[test]`.
//! use foldhost_sdk::testing::{Driver, Record};
//! let mut driver = Driver::<Latest>::new();
//! driver.send(Record::raw("sensor-1", r#"{"degrees":21}"#).at("2013-01-01T05:00:00Z")).unwrap();
//! assert_eq!(
//!     driver.query("sensor-1", "", &[]).unwrap(),
//!     serde_json::json!({"value": {"degrees": 21}, "at": "2013-01-01T05:00:00Z"}),
//! );
//! driver.assert_deterministic();
//! driver.assert_idempotent();
//! ```
//!
//! A whole republisher, which tells of every key that is seen for the first time:
//!
//! ```
//! use foldhost_sdk::{Event, Json, Outputs, Raw, Reject, Republisher};
//!
//! pub struct Newcomers;
//!
//! impl Republisher for Newcomers {
//!     type State = Json<bool>;
//!     type Event = Raw;
//!     type Output = Json<String>;
//!     fn react(seen: &mut Option<Json<bool>>, event: &Event<Raw>, out: &mut Outputs<Json<String>>) -> Result<(), Reject> {
//!         if seen.replace(Json(true)).is_none() {
//!             out.emit("welcome-desk", &Json(event.key_str()?.to_owned())).header("kind", "newcomer");
//!         }
//!         Ok(())
//!     }
//! }
//! foldhost_sdk::export!(Newcomers: Republisher);
//!
//! use foldhost_sdk::testing::{Driver, Record};
//! let mut driver = Driver::<Newcomers>::new();
//! let told = Record::new("welcome-desk", &Json("ann".to_owned())).header("kind", "newcomer");
//! assert_eq!(driver.react(Record::raw("ann", "hello")).unwrap(), [told]);
//! assert_eq!(driver.react(Record::raw("ann", "again")).unwrap(), []);
//! driver.assert_deterministic();
//! driver.assert_idempotent();
//! driver.assert_idempotent_outputs();
//! ```
//!
//! A whole command handler, which lets each name be taken once:
//!
//! ```
//! use foldhost_sdk::{Command, CommandHandler, Commands, Decision, Event, Json, Refusal, Reject, View};
//!
//! pub struct Names;
//!
//! #[derive(serde::Deserialize)]
//! struct Claim { owner: String }
//!
//! // The write model: who owns the name that is the key.
//! impl View for Names {
//!     type State = Json<String>;
//!     type Event = Json<String>;
//!     fn fold(owner: &mut Option<Json<String>>, event: &Event<Json<String>>) -> Result<(), Reject> {
//!         *owner = event.value().cloned();
//!         Ok(())
//!     }
//! }
//!
//! impl CommandHandler for Names {
//!     fn commands(on: &mut Commands<Self>) {
//!         on.command("claim", "Takes a name that nobody has").decide(claim);
//!     }
//! }
//!
//! fn claim(command: Command<Json<String>>, claim: Claim) -> Result<Decision<Json<String>>, Refusal> {
//!     match command.state_if_any() {
//!         Some(owner) => Err(Refusal::new("taken", format!("{} has this name", owner.0))),
//!         None => Ok(Json(claim.owner).into()),
//!     }
//! }
//! foldhost_sdk::export!(Names: CommandHandler);
//!
//! use foldhost_sdk::testing::{Driver, Record};
//! let mut driver = Driver::<Names>::new();
//! let decided = driver.command("rex", "claim", serde_json::json!({"owner": "ann"})).unwrap();
//! assert_eq!(decided.events, [Record::new("rex", &Json("ann".to_owned()))]);
//! let refusal = driver.command("rex", "claim", serde_json::json!({"owner": "bob"})).unwrap_err();
//! assert_eq!(refusal.to_string(), "taken: ann has this name");
//! driver.assert_deterministic();
//! ```
//!
//! - [`View`]: the fold, and the contract of purity.
//! - [`Republisher`], [`Outputs`]: the fold that emits records for the topic that the plugin owns.
//! - [`CommandHandler`], [`Command`], [`Decision`], [`Refusal`]: commands that are accepted, with events, or
//!   refused.
//! - [`EmitState`]: the state of a key in events, for who comes after the log was cut.
//! - [`Event`], [`Reject`], [`Timestamp`]: a record, a rejection, an instant.
//! - [`Codec`]: protobuf through [`prost`] by default, [`Json`], [`Raw`], or any other.
//! - [`inputs!`]: one enum for the events of several topics.
//! - [`Key`]: text, bytes, integers or UUIDs as keys.
//! - [`Route`]: the key or keys under which a record is folded.
//! - [`cloudevents`]: the attributes of a CloudEvent, from its headers.
//! - [`Query`]: questions with typed arguments and JSON answers.
//! - [`Migrate`]: states that older code wrote.
//! - [`Configure`]: parameters of a deployment.
//! - [`log`]: lines for the host's log.
//! - [`export!`]: which of these the component offers.
//!
//! A plugin allocates from pools of small blocks, since decoding takes and gives back a few for each event. Without
//! the feature `allocator`, which is on by default, it has the allocator of Rust's standard library, or names its own.

#[doc(hidden)]
pub mod abi;
#[cfg(any(test, all(target_arch = "wasm32", feature = "allocator")))]
mod allocator;
pub mod cloudevents;
mod codec;
mod columns;
mod command;
mod emit_state;
mod event;
mod export;
mod fold;
mod guest;
mod inputs;
mod key;
pub mod log;
mod migrate;
mod parameters;
mod query;
mod react;
mod reject;
mod route;
pub mod testing;
pub mod time;
mod view;

pub use cloudevents::CloudEvent;
pub use codec::{Codec, CodecError, Json, Raw};
pub use command::{
    COMMAND_HEADER, Command, CommandHandler, Commands, Decision, NamedCommand, NewEvents, NoState,
    Refusal, StatelessCommandHandler,
};
pub use emit_state::EmitState;
pub use event::{Event, Header, Origin};
pub use inputs::Inputs;
pub use key::{FromKey, Key};
pub use migrate::{Migrate, Schemas};
pub use parameters::Configure;
pub use query::{
    Context, NoArguments, Operation, OperationInContext, Payload, Queries, Query, QueryError,
    Question,
};
pub use react::{Emitted, Outputs, Republisher};
pub use reject::Reject;
pub use route::{Incoming, Keys, Route};
pub use time::Timestamp;
pub use view::View;

pub use {prost, serde, serde_json};

/// What [`export!`] expands to needs these; nothing else should.
#[doc(hidden)]
pub mod __private {
    pub use crate::abi;
    pub use crate::command::{decide, describe_commands};
    pub use crate::emit_state::emit_state;
    pub use crate::fold::{fold_batch, react_batch};
    pub use crate::guest::enter;
    pub use crate::migrate::migrate;
    pub use crate::parameters::configure;
    pub use crate::query::{answer, describe};
    pub use crate::react::Records;
    pub use crate::route::route_batch;
}
