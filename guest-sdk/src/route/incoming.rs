//! [`Incoming`]: one record as [`Route::route`](super::Route::route) sees it, before it has an entity.
//!
//! Made by the glue, one per record and without allocation of its own; what it gives out borrows from
//! the batch.

use crate::abi::route::Records;
use crate::cloudevents::CloudEvent;
use crate::event::{HeaderTable, no_value};
use crate::{Header, Reject, Timestamp};

/// One record of an input topic, with its decoded value and the key that its producer gave it.
///
/// In `fn route(record: &Incoming<Post>, …)` the lifetime can be left out. As an
/// [`Event`](crate::Event), but what the record is folded under is not yet known: so there is no offset,
/// and the key may be missing.
#[derive(Debug)]
pub struct Incoming<'a, E> {
    value: Option<E>,
    batch: &'a Records,
    headers: &'a HeaderTable<'a>,
    index: usize,
}

impl<'a, E> Incoming<'a, E> {
    pub(super) fn new(
        value: Option<E>,
        batch: &'a Records,
        headers: &'a HeaderTable<'a>,
        index: usize,
    ) -> Self {
        Self {
            value,
            batch,
            headers,
            index,
        }
    }

    /// The record's value; `None` is a tombstone.
    pub fn value(&self) -> Option<&E> {
        self.value.as_ref()
    }

    /// The record's value, for plugins that have no use for tombstones.
    ///
    /// # Errors
    /// A tombstone: the rejection `no-value`.
    pub fn required(&self) -> Result<&E, Reject> {
        self.value.as_ref().ok_or_else(no_value)
    }

    /// The record's own key, if it has one.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.batch.keys.item(self.index)
    }

    /// The record's own key, where there is no other way to place the record.
    ///
    /// # Errors
    /// It has none: the rejection `no-key`.
    pub fn required_key(&self) -> Result<&'a [u8], Reject> {
        self.key()
            .ok_or_else(|| Reject::new(Reject::NO_KEY, "the record has no key"))
    }

    /// The time that the record carries, set by its producer or by the broker.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp::from_millis(self.batch.timestamps[self.index])
    }

    /// Index of the record's topic in the manifest's `inputs`, from 0.
    pub fn input(&self) -> usize {
        usize::from(self.batch.inputs[self.index])
    }

    /// All headers of the record, in its order; none where the manifest does not ask for headers.
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> + use<'a, E> {
        self.headers.of(self.index)
    }

    /// The value of the last header of that name, if it has one.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.last(self.index, name)
    }

    /// As [`header`](Self::header), where the value is UTF-8.
    pub fn header_str(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.header(name)?).ok()
    }

    /// The attributes of a CloudEvent in Kafka's binary mode; see [`cloudevents`](crate::cloudevents).
    ///
    /// # Errors
    /// The record is none, or the manifest does not ask for headers: the rejection `no-cloud-event`.
    pub fn cloud_event(&self) -> Result<CloudEvent<'a>, Reject> {
        CloudEvent::read(self.headers, self.index)
    }
}
