//! [`EmitState`]: events that carry the whole state of a key, the export `emit-state`.
//!
//! Implemented by command handlers; called by the host when an operator asks for it, and by the test
//! driver. Invariant: folded onto nothing, the events give the state again, byte for byte; folded onto that
//! state, they change nothing.

use crate::abi::types::EventOut;
use crate::command::write_events;
use crate::fold::read_state;
use crate::{CommandHandler, NewEvents};

/// A command handler that can tell the state of a key in events, so that a new view can be built long after
/// the topic's old events are gone: `foldhost plugin emit-state NAME`.
///
/// Name it in the export: `foldhost_sdk::export!(Stock: CommandHandler + EmitState)`.
///
/// For each key the host writes what `emit_state` makes of the state, in the same queue as the events of
/// commands, so that none can overtake a real one; versions stay as they are. Consumers that have folded the
/// events before see them again, as it were: so a full-state event *replaces*, in this handler's `fold` and
/// in every view of its topic. Often it is an event that there is for this alone. Where every event carries
/// the full state anyhow, it is that event.
///
/// `emit_state` is a **pure function** of key and state.
/// [`Driver::assert_emit_state`](crate::testing::Driver::assert_emit_state) checks that it says everything, and so
/// does the host: of a key whose events do not give its state, it writes nothing, and names it.
///
/// A republisher of the topic folds them too. What it makes of them is published only if its manifest says
/// `bootstrap = true`.
///
/// ```
/// use foldhost_sdk::testing::{Driver, Record};
/// use foldhost_sdk::{CommandHandler, Commands, EmitState, Event, Json, NewEvents, NoArguments, Reject, View};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// #[serde(rename_all = "kebab-case")]
/// enum StockEvent {
///     Added,
///     /// So many there are: what was before is in it.
///     Counted(u32),
/// }
///
/// struct Stock;
///
/// impl View for Stock {
///     type State = Json<u32>;
///     type Event = Json<StockEvent>;
///     fn fold(state: &mut Option<Json<u32>>, event: &Event<Json<StockEvent>>) -> Result<(), Reject> {
///         match event.required()?.0 {
///             StockEvent::Added => state.get_or_insert_default().0 += 1,
///             StockEvent::Counted(pieces) => *state = Some(Json(pieces)),
///         }
///         Ok(())
///     }
/// }
///
/// impl CommandHandler for Stock {
///     fn commands(on: &mut Commands<Self>) {
///         on.command("add", "One more").decide(|_, NoArguments {}| Ok(Json(StockEvent::Added).into()));
///     }
/// }
///
/// impl EmitState for Stock {
///     fn emit_state(_key: &[u8], pieces: &Json<u32>) -> NewEvents<Json<StockEvent>> {
///         Json(StockEvent::Counted(pieces.0)).into()
///     }
/// }
/// foldhost_sdk::export!(Stock: CommandHandler + EmitState);
///
/// let mut driver = Driver::<Stock>::new();
/// driver.given([Record::new("tea", &Json(StockEvent::Added)), Record::new("tea", &Json(StockEvent::Added))]);
/// assert_eq!(driver.emit_state("tea"), [Record::new("tea", &Json(StockEvent::Counted(2)))]);
/// driver.assert_emit_state();
/// ```
pub trait EmitState: CommandHandler {
    /// The state of a key as events, at least one. They have the time of their writing.
    fn emit_state(key: &[u8], state: &Self::State) -> NewEvents<Self::Event>;
}

/// Tells a state in events: the export `emit-state`.
///
/// # Panics
/// The state cannot be decoded, or the handler itself panics.
pub fn emit_state<H: EmitState>(key: &[u8], state: &[u8]) -> Vec<EventOut> {
    write_events(H::emit_state(key, &read_state::<H>(key, state)))
}
