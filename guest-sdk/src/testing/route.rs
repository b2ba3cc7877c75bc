//! Where a record goes before it is folded: [`Driver::routed`], and the keys of a batch.
//!
//! Invariant: the records keep their order, and so do the keys of one record; what comes of `route` is
//! checked as on a host.

use super::{Driver, Record, pack};
use crate::abi::route::{Records, Routes};
use crate::route::route_batch;
use crate::{Reject, Route};

/// The export `route` of some plugin.
pub(super) type RouteFn = fn(&Records) -> Routes;

/// A record under one of its keys.
pub(super) struct Arrival<'a> {
    pub(super) record: &'a Record,
    /// Which of the batch.
    pub(super) index: usize,
    /// Which of all that were sent to its input.
    pub(super) offset: u64,
    pub(super) key: Vec<u8>,
}

impl<P: Route> Driver<P> {
    /// From now on every record goes through [`Route::route`] first, and is folded under each of the
    /// keys that it names, as on a host. Without this a record is folded under its own key.
    ///
    /// [`Event::record_key`](crate::Event::record_key) and [`Event::origin`](crate::Event::origin) tell
    /// of the record before: its own key, its offset among all records sent, partition 0.
    ///
    /// ```
    /// # use foldhost_sdk::testing::{Driver, Record};
    /// # use foldhost_sdk::{Event, Incoming, Json, Keys, Raw, Reject, Route, View};
    /// /// How many records begin with a letter.
    /// struct Initials;
    /// impl Route for Initials {
    ///     fn route(record: &Incoming<Raw>, keys: &mut Keys) -> Result<(), Reject> {
    ///         keys.add(record.required()?.0.get(..1).unwrap_or_default());
    ///         Ok(())
    ///     }
    /// }
    /// # impl View for Initials {
    /// #     type State = Json<u64>;
    /// #     type Event = Raw;
    /// #     fn fold(state: &mut Option<Json<u64>>, _event: &Event<Raw>) -> Result<(), Reject> {
    /// #         state.get_or_insert_default().0 += 1;
    /// #         Ok(())
    /// #     }
    /// # }
    ///
    /// let mut driver = Driver::<Initials>::new().routed();
    /// driver.send(Record::raw("k", "apple").without_key()).unwrap();
    /// driver.send(Record::raw("l", "avocado")).unwrap();
    /// assert_eq!(driver.state("a"), Some(Json(2)));
    /// ```
    ///
    /// # Panics
    /// A record was sent before.
    pub fn routed(mut self) -> Self {
        assert!(
            self.sent.is_empty(),
            "either all records are routed or none: call `routed` first"
        );
        self.partition.route = Some(route_batch::<P>);
        self
    }
}

/// A record of a batch, by its index, that has no key.
pub(super) type Unplaced = (usize, Reject);

/// The records of a batch under their keys, and those that are rejected before they have one. The
/// first record of the batch is number `first` of all.
pub(super) fn arrivals(
    batch: &[Record],
    first: u64,
    route: Option<RouteFn>,
) -> (Vec<Arrival<'_>>, Vec<Unplaced>) {
    let arrival = |index: usize, key: &[u8]| Arrival {
        record: &batch[index],
        index,
        offset: first + index as u64,
        key: key.to_vec(),
    };
    let Some(route) = route else {
        let keys = || batch.iter().map(Record::key).enumerate();
        let placed = keys().filter_map(|(index, key)| Some(arrival(index, key?)));
        let unplaced = keys().filter(|(_, key)| key.is_none());
        let no_key = |(index, _)| (index, Reject::new(Reject::NO_KEY, "the record has no key"));
        return (placed.collect(), unplaced.map(no_key).collect());
    };
    let routes = route(&pack::records(batch));
    check(&routes, batch.len());
    let causes = routes.causes.iter().enumerate();
    let placed = causes.map(|(item, &cause)| arrival(cause as usize, routes.keys.item(item)));
    let placed = placed.collect();
    let unplaced = routes.rejected.into_iter();
    let unplaced = unplaced.map(|r| (r.index as usize, Reject::new(r.code, r.reason)));
    (placed, unplaced.collect())
}

/// What the host checks before it believes routes.
fn check(routes: &Routes, records: usize) {
    let causes = &routes.causes;
    pack::check_ends(&routes.keys.ends, routes.keys.data.len(), causes.len());
    assert!(causes.is_sorted(), "causes never decrease");
    assert!(
        causes
            .last()
            .is_none_or(|&cause| (cause as usize) < records),
        "every key belongs to a record of the batch"
    );
    for rejection in &routes.rejected {
        assert!(
            !causes.contains(&rejection.index),
            "a rejected record has no key"
        );
    }
}
