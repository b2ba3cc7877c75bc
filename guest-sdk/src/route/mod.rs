//! [`Route`]: the key or keys under which a record is folded, the export `route`.
//!
//! Implemented by plugins; called by the host before a record reaches the fold, and by the test driver.
//! Invariant: a record's keys depend on that record alone; a rejected record has none.

mod incoming;

pub use incoming::Incoming;

use std::fmt;

use crate::abi::route::{Records, Routes};
use crate::abi::types::{BytesColumn, Rejection};
use crate::event::HeaderTable;
use crate::{Inputs, Key, Reject, View};

/// A plugin that says itself under which keys a record is folded: for inputs that are keyed in
/// different ways, or not as the plugin's states are.
///
/// Name it in the export: `foldhost_sdk::export!(Orders: View + Route)`. Without it every record is
/// folded under its own key, and one without a key cannot be. The host copies the records of all inputs
/// into a topic of the plugin's own, under the keys that are named here, and folds that.
///
/// `route` is a **pure function** of one record: no state, no neighbour, no clock. When it changes, the
/// host begins that topic anew.
///
/// ```
/// use foldhost_sdk::testing::{Driver, Record};
/// use foldhost_sdk::{Event, Incoming, Json, Keys, Reject, Route, View};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Parcel { sender: String, recipient: String, grams: u64 }
///
/// foldhost_sdk::inputs! {
///     /// `inputs = ["parcels", "accounts"]`
///     enum Post {
///         /// Keyed by parcel.
///         Parcel(Json<Parcel>),
///         /// Keyed by person: whether there is an account.
///         Account(Json<bool>),
///     }
/// }
///
/// /// By person: how many grams went to or from somebody with an account.
/// struct Weights;
///
/// impl Route for Weights {
///     fn route(record: &Incoming<Post>, keys: &mut Keys) -> Result<(), Reject> {
///         match record.required()? {
///             Post::Parcel(parcel) => {
///                 keys.add(&parcel.sender);
///                 keys.add(&parcel.recipient);
///             }
///             Post::Account(_) => keys.add(record.required_key()?),
///         }
///         Ok(())
///     }
/// }
///
/// impl View for Weights {
///     type State = Json<u64>;
///     type Event = Post;
///     fn fold(state: &mut Option<Json<u64>>, event: &Event<Post>) -> Result<(), Reject> {
///         match (state.as_mut(), event.required()?) {
///             (None, Post::Account(Json(true))) => *state = Some(Json(0)),
///             (_, Post::Account(Json(false))) => *state = None,
///             (Some(sum), Post::Parcel(parcel)) => sum.0 += parcel.grams,
///             (None, Post::Parcel(_)) | (Some(_), Post::Account(_)) => {}
///         }
///         Ok(())
///     }
/// }
/// foldhost_sdk::export!(Weights: View + Route);
///
/// let mut driver = Driver::<Weights>::new().routed();
/// driver.send(Record::new("ann", &Post::Account(Json(true)))).unwrap();
/// let parcel = Parcel { sender: "ann".into(), recipient: "bob".into(), grams: 70 };
/// driver.send(Record::new("p-1", &Post::Parcel(Json(parcel)))).unwrap();
/// assert_eq!(driver.state("ann"), Some(Json(70)));
/// assert_eq!(driver.state("bob"), None);
/// driver.assert_deterministic();
/// ```
pub trait Route: View {
    /// Names the keys of a record: one, several, or none (then it is folded nowhere).
    ///
    /// # Errors
    /// The record can have no key. It is then folded nowhere, and the manifest's `on-error` decides what
    /// happens (by default the input's partition stops before it). A value that cannot be decoded is
    /// rejected (`bad-event`) before it comes here.
    ///
    /// # Panics
    /// A panic is a trap, and treated like a rejection; return an error where the reason is known.
    fn route(record: &Incoming<Self::Event>, keys: &mut Keys) -> Result<(), Reject>;
}

/// Where [`Route::route`] puts the keys of a record.
pub struct Keys<'a> {
    record: u32,
    causes: &'a mut Vec<u32>,
    keys: &'a mut BytesColumn,
}

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys<'_> {
    /// One more key under which the record is folded. A key that is named twice gets the record twice.
    pub fn add(&mut self, key: impl Key) {
        self.causes.push(self.record);
        self.keys.push_key(&key);
    }
}

/// Names the keys of a batch of records: the export `route`.
///
/// # Panics
/// The columns contradict each other, or the plugin itself panics.
pub fn route_batch<R: Route>(batch: &Records) -> Routes {
    let headers = HeaderTable::new(batch.headers.as_ref());
    let mut causes = Vec::with_capacity(batch.inputs.len());
    let mut keys = BytesColumn::with_capacity(batch.inputs.len(), 0);
    let mut rejected = Vec::new();
    for record in 0..batch.inputs.len() {
        let named = causes.len();
        let index = u32::try_from(record).expect("a batch has fewer records than 2^32");
        let mut to = Keys {
            record: index,
            causes: &mut causes,
            keys: &mut keys,
        };
        if let Err(reject) = route_one::<R>(batch, &headers, record, &mut to) {
            causes.truncate(named);
            keys.truncate(named);
            let (code, reason) = reject.into_parts();
            rejected.push(Rejection {
                index,
                code,
                reason,
            });
        }
    }
    Routes {
        causes,
        keys,
        rejected,
    }
}

fn route_one<R: Route>(
    batch: &Records,
    headers: &HeaderTable<'_>,
    index: usize,
    to: &mut Keys<'_>,
) -> Result<(), Reject> {
    let input = usize::from(batch.inputs[index]);
    let value = batch.values.item(index);
    let value = value.map(|bytes| R::Event::decode_from(input, bytes));
    let value = value
        .transpose()
        .map_err(|error| Reject::new(Reject::BAD_EVENT, error.to_string()))?;
    R::route(&Incoming::new(value, batch, headers, index), to)
}
