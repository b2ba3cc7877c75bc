//! [`Republisher`]: the step that observes events and publishes events of its own.
//!
//! Implemented by plugins; called by the glue in `fold` (in the sandbox) and by the test driver.
//! Invariant: what is emitted is a function of the state before and the event, as the state after is.

mod outputs;
mod records;

pub(crate) use outputs::assert_header_name;
pub use outputs::{Emitted, Outputs};
pub use records::Records;

use crate::{Codec, Event, Inputs, Reject, View};

/// A republisher: events → one state per key, and events for the one topic that the plugin owns (the
/// manifest's `output`).
///
/// `react` is a **pure function** by the same contract as [`View::fold`]: the state after and the
/// records that it emits depend on the state before and the event only. The host makes states, records
/// and position durable together, so readers of the topic (`read_committed`) see every record once,
/// whatever crashes. When it has to build a state again (after a crash, on a rebuild) it runs `react`
/// over events whose records are published already, and throws away what is emitted.
///
/// ```
/// use foldhost_sdk::testing::{Driver, Record};
/// use foldhost_sdk::{Event, Json, Outputs, Reject, Republisher};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Reading { room: String, degrees: f64 }
///
/// /// Readings by sensor → `true` where a room gets hot, `false` once it has cooled down, by room.
/// struct Alarms;
///
/// impl Republisher for Alarms {
///     type State = Json<bool>;
///     type Event = Json<Reading>;
///     type Output = Json<bool>;
///     fn react(
///         hot: &mut Option<Json<bool>>,
///         event: &Event<Json<Reading>>,
///         out: &mut Outputs<Json<bool>>,
///     ) -> Result<(), Reject> {
///         let reading = event.required()?;
///         let now = Json(reading.degrees > 30.0);
///         if hot.replace(now).unwrap_or_default() != now {
///             out.emit(&reading.room, &now);
///         }
///         Ok(())
///     }
/// }
/// foldhost_sdk::export!(Alarms: Republisher);
///
/// let mut driver = Driver::<Alarms>::new();
/// let reading = |degrees| {
///     let room = "attic".to_owned();
///     Record::new("sensor-1", &Json(Reading { room, degrees })).at("2013-07-01T12:00:00Z")
/// };
/// assert!(driver.react(reading(21.0)).unwrap().is_empty());
/// assert_eq!(
///     driver.react(reading(31.0)).unwrap(),
///     [Record::new("attic", &Json(true)).at("2013-07-01T12:00:00Z")],
/// );
/// driver.assert_deterministic();
/// ```
///
/// `foldhost plugin new NAME --kind republisher` writes one to start from. Three things that its tests should
/// ask, since what was published cannot be taken back:
///
/// - A record that comes twice, or late: is it told twice? [`Driver::assert_idempotent_outputs`] finds the
///   first; for the second, keep the time of the newest event in the state and compare.
/// - A tombstone: does it travel on? Readers of the owned topic, and its compaction, know of a key that is
///   gone only by [`Outputs::tombstone`].
/// - Another key: does the order matter? What the events of one partition cause comes in their order, under
///   whatever key; what is emitted under one key from several partitions comes in no order among those. Then
///   let readers compare times.
///
/// [`Driver::assert_idempotent_outputs`]: crate::testing::Driver::assert_idempotent_outputs
///
/// **Every republisher is a [`View`]** of its inputs: its `fold` is `react` with the output thrown away.
/// So [`Query`](crate::Query), [`Migrate`](crate::Migrate), [`Configure`](crate::Configure) and
/// [`Route`](crate::Route) are implemented for it as for any view, and named in the export:
/// `foldhost_sdk::export!(Alarms: Republisher + Query)`.
pub trait Republisher: 'static {
    /// What is kept per key. A key without state is `None`, never a default value.
    type State: Codec;

    /// What the values of records are decoded as: a [`Codec`], or an enum over several inputs (see
    /// [`inputs!`](crate::inputs)).
    type Event: Inputs;

    /// What the values of the owned topic's records are written as. For several kinds of records: an
    /// enum (`Json`), or a message with a `oneof` (protobuf). The plugin only writes it; its tests, and
    /// plugins that observe the topic, read it, so under `Json` it is `Deserialize`, too.
    type Output: Codec;

    /// Applies one event to the state of its key, and emits what follows from it: any number of
    /// records, under any keys. They come into the topic in the order of the events, and those of one
    /// event in the order of `out.emit`.
    ///
    /// # Errors
    /// The event cannot be applied. It leaves no trace, neither in the state nor in the topic, whatever
    /// was changed or emitted for it; the manifest's `on-error` decides what happens. An event that
    /// merely does not matter is `Ok(())`.
    ///
    /// # Panics
    /// A panic is a trap: the host finds the event, treats it like a rejected one, and logs message
    /// and place. Return an error instead where the reason is known.
    fn react(
        state: &mut Option<Self::State>,
        event: &Event<Self::Event>,
        out: &mut Outputs<Self::Output>,
    ) -> Result<(), Reject>;
}

impl<R: Republisher> View for R {
    type State = R::State;
    type Event = R::Event;

    const EMITS: bool = true;

    fn fold(state: &mut Option<R::State>, event: &Event<R::Event>) -> Result<(), Reject> {
        R::react(state, event, &mut Outputs::new(&mut Records::default()))
    }

    fn fold_into(
        state: &mut Option<R::State>,
        event: &Event<R::Event>,
        records: &mut Records,
    ) -> Result<(), Reject> {
        R::react(state, event, &mut Outputs::new(records))
    }
}
