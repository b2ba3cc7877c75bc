//! Write foldhost plugins in Rust.
//!
//! A plugin is a pure function from events to state, compiled to a WebAssembly component; the host
//! owns state, offsets, time and I/O. This crate carries a batch from the host's columns to
//! [`View::fold`] and a question to [`Query`], and tests both natively ([`testing::Driver`]), without
//! wasm and without a host.
//!
//! A whole plugin, the newest JSON value of each key and when it came:
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
//! - [`View`]: the fold, and the contract of purity.
//! - [`Event`], [`Reject`], [`Timestamp`]: a record, a refusal, an instant.
//! - [`Codec`]: protobuf through [`prost`] by default, [`Json`], [`Raw`], or any other.
//! - [`Query`]: questions with typed arguments and JSON answers.
//! - [`Migrate`]: states that older code wrote.
//! - [`Configure`]: parameters of a deployment.
//! - [`log`]: lines for the host's log.
//! - [`export!`]: which of these the component offers.

#[doc(hidden)]
pub mod abi;
mod codec;
mod columns;
mod event;
mod export;
mod fold;
mod guest;
pub mod log;
mod migrate;
mod parameters;
mod query;
mod reject;
pub mod testing;
pub mod time;
mod view;

pub use codec::{Codec, CodecError, Json, Raw};
pub use event::{Event, Header, Origin};
pub use migrate::{Migrate, Schemas};
pub use parameters::Configure;
pub use query::{
    Context, NoArguments, Operation, OperationInContext, Payload, Queries, Query, QueryError,
    Question,
};
pub use reject::Reject;
pub use time::Timestamp;
pub use view::View;

pub use {prost, serde, serde_json};

/// What [`export!`] expands to needs these; nothing else should.
#[doc(hidden)]
pub mod __private {
    pub use crate::abi;
    pub use crate::fold::fold_batch;
    pub use crate::guest::enter;
    pub use crate::migrate::migrate;
    pub use crate::parameters::configure;
    pub use crate::query::{answer, describe};
}
