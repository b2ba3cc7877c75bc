//! [`View`]: the materialization function that a plugin author writes.
//!
//! Implemented by plugins; called by the fold glue (in the sandbox) and by the test driver. The
//! contract of purity that everything in foldhost rests on is told here.

use crate::react::Records;
use crate::{Codec, Event, Inputs, Reject};

/// A view: events → one state per key.
///
/// `fold` is a **pure function**. The host owns state, offsets, time and I/O; it runs `fold` again
/// whenever it likes (after a crash, on a rebuild, with a batch cut elsewhere) and must get the same
/// bytes every time. So:
///
/// - what `fold` does depends on its two arguments only (and on
///   [`parameters`](crate::Configure::parameters), which never change in a deployment). No globals,
///   no caches, no clock: "now" is [`Event::timestamp`], if anything;
/// - no `HashMap` or `HashSet` in a state, since their order depends on memory addresses: use
///   `BTreeMap`, a sorted `Vec`, and `btree_map` in protobuf messages;
/// - events of one key come in log order; keys know nothing of each other, and nothing may depend
///   on the order in which different keys are folded.
///
/// [`Driver::assert_deterministic`](crate::testing::Driver::assert_deterministic) checks a view for
/// all of this, without wasm.
///
/// ```
/// use foldhost_sdk::{Event, Json, Raw, Reject, View};
///
/// /// Counts the records of a key.
/// pub struct Tally;
///
/// impl View for Tally {
///     type State = Json<u64>;
///     type Event = Raw;
///     fn fold(state: &mut Option<Json<u64>>, _event: &Event<Raw>) -> Result<(), Reject> {
///         state.get_or_insert_default().0 += 1;
///         Ok(())
///     }
/// }
/// foldhost_sdk::export!(Tally);
///
/// # use foldhost_sdk::testing::{Driver, Record};
/// let mut driver = Driver::<Tally>::new();
/// driver.send(Record::new("k", &Raw(b"anything".to_vec()))).unwrap();
/// assert_eq!(driver.state("k"), Some(Json(1)));
/// ```
pub trait View: 'static {
    /// What is kept per key. A key without state is `None`, never a default value.
    type State: Codec;

    /// What the values of records are decoded as: a [`Codec`], or an enum with a variant per topic
    /// where several topics are written in different formats (see [`inputs!`](crate::inputs)).
    type Event: Inputs;

    /// Whether `fold_into` emits records: what does must not be exported as a mere view, and what does not
    /// pays nothing for those that do.
    #[doc(hidden)]
    const EMITS: bool = false;

    /// Applies one event to the state of its key: changes it, replaces it, or sets it to `None`.
    ///
    /// # Errors
    /// The event cannot be applied. The state is then as it was before this event, whatever `fold`
    /// has done to it, and the manifest's `on-error` decides what happens (by default the partition
    /// stops before the event). An event that merely does not matter is `Ok(())`.
    ///
    /// # Panics
    /// A panic is a trap: the host finds the event, treats it like a rejected one, and logs message
    /// and place. Return an error instead where the reason is known.
    fn fold(state: &mut Option<Self::State>, event: &Event<Self::Event>) -> Result<(), Reject>;

    /// What the glue calls: a view folds, a [`Republisher`](crate::Republisher) emits records beside.
    /// Here, so that one glue and one test driver serve both.
    #[doc(hidden)]
    fn fold_into(
        state: &mut Option<Self::State>,
        event: &Event<Self::Event>,
        _records: &mut Records,
    ) -> Result<(), Reject> {
        Self::fold(state, event)
    }
}
