//! [`Event`]: one record as `fold` and `react` see it, read in place from the batch.
//!
//! Made by the fold glue, one per record and without allocation of its own; what it gives out
//! borrows from the batch. Invariant: all columns of the batch have one item per record.

mod headers;

pub use headers::Header;
pub(crate) use headers::HeaderTable;

use crate::abi::types::{Events, States};
use crate::cloudevents::CloudEvent;
use crate::columns::item;
use crate::{FromKey, Reject, Timestamp};

/// One record of an input topic, with its decoded value.
///
/// In `fn fold(state: …, event: &Event<FlightEvent>)` the lifetime can be left out.
///
/// ```
/// use foldhost_sdk::testing::{Driver, Record};
/// use foldhost_sdk::{Event, Json, Reject, View};
///
/// /// What is known of a key: the text of the last record, and where it came from.
/// struct Last;
///
/// impl View for Last {
///     type State = Json<String>;
///     type Event = Json<String>;
///     fn fold(state: &mut Option<Self::State>, event: &Event<Self::Event>) -> Result<(), Reject> {
///         let Some(text) = event.value() else {
///             *state = None; // a tombstone
///             return Ok(());
///         };
///         let source = event.header_str("source").unwrap_or("somewhere");
///         *state = Some(Json(format!("{} from {source} at {}", text.0, event.timestamp())));
///         Ok(())
///     }
/// }
///
/// let mut driver = Driver::<Last>::new();
/// let record = Record::new("k", &Json("hello".to_owned()))
///     .at("2013-01-01T10:00:00Z")
///     .header("source", "NYC");
/// driver.send(record).unwrap();
/// assert_eq!(driver.state("k").unwrap().0, "hello from NYC at 2013-01-01T10:00:00Z");
/// driver.send(Record::tombstone("k")).unwrap();
/// assert!(driver.state("k").is_none());
/// ```
#[derive(Debug)]
pub struct Event<'a, E> {
    value: Option<E>,
    batch: &'a Batch<'a>,
    index: usize,
}

impl<'a, E> Event<'a, E> {
    pub(crate) fn new(value: Option<E>, batch: &'a Batch<'a>, index: usize) -> Self {
        Self {
            value,
            batch,
            index,
        }
    }

    /// The record's value; `None` is a tombstone, by custom "forget this key".
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

    /// The key under which the record is folded; the state belongs to it.
    pub fn key(&self) -> &'a [u8] {
        let entity = self.batch.events.entities[self.index] as usize;
        self.batch.states.keys.item(entity)
    }

    /// The key as text.
    ///
    /// # Errors
    /// The key is not UTF-8: the rejection `bad-key`.
    pub fn key_str(&self) -> Result<&'a str, Reject> {
        self.key_as()
    }

    /// The key as an integer, 16 bytes (a UUID), or any other type that is [`FromKey`].
    ///
    /// # Errors
    /// The bytes are no such key: the rejection `bad-key`.
    ///
    /// ```
    /// # use foldhost_sdk::{Event, Raw, Reject};
    /// fn customer(event: &Event<Raw>) -> Result<i64, Reject> {
    ///     event.key_as()
    /// }
    /// ```
    pub fn key_as<K: FromKey<'a>>(&self) -> Result<K, Reject> {
        K::from_key(self.key()).map_err(|error| {
            Reject::new(
                Reject::BAD_KEY,
                format!("the record's key cannot be read: {error}"),
            )
        })
    }

    /// The record's own key where `route` named another, if the manifest asks for it and the record
    /// has one.
    pub fn record_key(&self) -> Option<&'a [u8]> {
        self.batch.events.record_keys.as_ref()?.item(self.index)
    }

    /// The time that the record carries, set by its producer or by the broker. It may go back from
    /// one record to the next.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp::from_millis(self.batch.events.timestamps[self.index])
    }

    /// The partition that is folded, from 0.
    pub fn partition(&self) -> u32 {
        self.batch.events.partition
    }

    /// The record's offset in the folded partition: strictly increasing, not contiguous. `None` only
    /// where a command handler folds an event before it is written.
    pub fn offset(&self) -> Option<u64> {
        self.batch.events.offsets.as_ref().map(|o| o[self.index])
    }

    /// Index of the record's topic in the manifest's `inputs`, from 0.
    pub fn input(&self) -> usize {
        usize::from(self.batch.events.inputs[self.index])
    }

    /// Where the record was before a merge topic, if the manifest asks for it.
    pub fn origin(&self) -> Option<Origin> {
        let origins = self.batch.events.origins.as_ref()?;
        Some(Origin {
            partition: origins.partitions[self.index],
            offset: origins.offsets[self.index],
        })
    }

    /// All headers of the record, in its order; none where the manifest does not ask for headers.
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> + use<'a, E> {
        self.batch.headers.of(self.index)
    }

    /// The value of the last header of that name (the newest, by Kafka's custom), if it has one.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.batch.headers.last(self.index, name)
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
        CloudEvent::read(&self.batch.headers, self.index)
    }
}

/// What a tombstone is where a value is needed.
pub(crate) fn no_value() -> Reject {
    Reject::new(
        Reject::NO_VALUE,
        "the record has no value (a tombstone), and this plugin needs one",
    )
}

/// Where a record was before a merge topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Its partition in its input topic.
    pub partition: u32,
    /// Its offset in that partition.
    pub offset: u64,
}

/// A batch as it came, and what is computed once for all its records.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) states: &'a States,
    pub(crate) events: &'a Events,
    headers: HeaderTable<'a>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(states: &'a States, events: &'a Events) -> Self {
        Self {
            states,
            events,
            headers: HeaderTable::new(events.headers.as_ref()),
        }
    }

    /// The value of record `index`; `None` is a tombstone.
    pub(crate) fn value(&self, index: usize) -> Option<&'a [u8]> {
        self.events.values.item(index)
    }

    /// The state before the batch of key `entity`.
    pub(crate) fn state(&self, entity: usize) -> Option<&'a [u8]> {
        let values = &self.states.values;
        (values.marks[entity] != 0).then(|| item(&values.data, &values.ends, entity))
    }
}
