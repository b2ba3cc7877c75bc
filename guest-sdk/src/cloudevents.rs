//! CloudEvents in Kafka's binary content mode: the attributes travel in headers (`ce_id`, `ce_type`, …),
//! the data is the record's value.
//!
//! Read by plugins through [`Event::cloud_event`](crate::Event::cloud_event) and
//! [`Incoming::cloud_event`](crate::Incoming::cloud_event). Invariant: the four attributes that every
//! CloudEvent has are there, or there is no [`CloudEvent`].
//!
//! **The manifest must ask for headers** (`headers = true` in `plugin.toml`): the host carries them into
//! the plugin only then, and without them no record is a CloudEvent.
//!
//! After the [Kafka Protocol Binding for CloudEvents 1.0][binding]. In its structured mode the whole
//! event is JSON in the value: decode that with a codec.
//!
//! ```
//! use foldhost_sdk::testing::{Driver, Record};
//! use foldhost_sdk::{Event, Json, Raw, Reject, View};
//!
//! /// The ids of the orders that a customer has placed.
//! struct Placed;
//! impl View for Placed {
//!     type State = Json<Vec<String>>;
//!     type Event = Raw;
//!     fn fold(state: &mut Option<Self::State>, event: &Event<Raw>) -> Result<(), Reject> {
//!         let envelope = event.cloud_event()?;
//!         if envelope.ty == "com.example.order.placed" {
//!             state.get_or_insert_default().push(envelope.id.to_owned());
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let record = Record::raw("ann", "{}")
//!     .header("ce_specversion", "1.0")
//!     .header("ce_id", "o-1")
//!     .header("ce_source", "/orders")
//!     .header("ce_type", "com.example.order.placed");
//! let mut driver = Driver::<Placed>::new();
//! driver.send(record).unwrap();
//! assert_eq!(driver.state("ann").unwrap().0, ["o-1"]);
//!
//! let reject = driver.send(Record::raw("ann", "{}")).unwrap_err();
//! assert_eq!(reject.to_string(), "no-cloud-event: the record has no header `ce_specversion`");
//! ```
//!
//! [binding]: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md

use crate::event::HeaderTable;
use crate::{Reject, Timestamp};

/// The attributes of a CloudEvent, borrowed from the record's headers. Where a name occurs more than
/// once, the last one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloudEvent<'a> {
    /// `ce_id`: unique together with `source`. An event that is delivered twice has the same one.
    pub id: &'a str,
    /// `ce_source`: where it happened, a URI reference.
    pub source: &'a str,
    /// `ce_type`: what kind of event it is, such as `com.example.order.placed`.
    pub ty: &'a str,
    /// `ce_time`: when it happened, if the producer says. Digits beyond the millisecond are cut off.
    pub time: Option<Timestamp>,
    /// `ce_subject`: what it is about, within the source.
    pub subject: Option<&'a str>,
    /// `ce_dataschema`: the schema of the value, a URI.
    pub data_schema: Option<&'a str>,
    /// `content-type`: the media type of the value.
    pub data_content_type: Option<&'a str>,
    /// `ce_specversion`: `1.0`.
    pub spec_version: &'a str,
}

impl<'a> CloudEvent<'a> {
    /// Reads the headers of record `index`.
    pub(crate) fn read(headers: &HeaderTable<'a>, index: usize) -> Result<Self, Reject> {
        if !headers.is_asked_for() {
            return Err(none(
                "the plugin gets no headers: say `headers = true` in plugin.toml",
            ));
        }
        let optional = |name: &str| match headers.last(index, name).map(std::str::from_utf8) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(none(format!("the header `{name}` is not UTF-8"))),
        };
        let required = |name: &str| {
            let missing = || none(format!("the record has no header `{name}`"));
            optional(name)?
                .filter(|text| !text.is_empty())
                .ok_or_else(missing)
        };
        let spec_version = required("ce_specversion")?;
        if !spec_version.starts_with("1.") {
            return Err(none(format!(
                "CloudEvents {spec_version} is not known here, only 1.x"
            )));
        }
        let time = |text: &str| {
            let wrong = |_| none(format!("the header `ce_time` is no time: `{text}`"));
            text.parse::<Timestamp>().map_err(wrong)
        };
        Ok(Self {
            spec_version,
            id: required("ce_id")?,
            source: required("ce_source")?,
            ty: required("ce_type")?,
            time: optional("ce_time")?.map(time).transpose()?,
            subject: optional("ce_subject")?,
            data_schema: optional("ce_dataschema")?,
            data_content_type: optional("content-type")?,
        })
    }
}

fn none(reason: impl Into<String>) -> Reject {
    Reject::new(Reject::NO_CLOUD_EVENT, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::types::{BytesColumn, Headers, OptionalColumn};

    const WHOLE: &[(&str, &str)] = &[
        ("ce_specversion", "1.0"),
        ("ce_id", "7"),
        ("ce_id", "8"),
        ("ce_source", "/orders"),
        ("ce_type", "placed"),
        ("ce_time", "2013-01-01T05:00:00.123456+01:00"),
        ("ce_subject", "ann"),
        ("content-type", "application/json"),
    ];

    /// A batch of two records: the first has none of these headers.
    fn headers(of_second: &[(&str, &str)]) -> Headers {
        let mut names = BytesColumn::empty();
        let mut values = OptionalColumn::with_capacity(0, 0);
        for (name, value) in [("ce_id", "of another")].iter().chain(of_second) {
            names.push(name.as_bytes());
            values.push(Some(value.as_bytes()));
        }
        Headers {
            counts: vec![1, of_second.len() as u32],
            names,
            values,
        }
    }

    fn read(of_second: &[(&str, &str)]) -> Result<(), String> {
        let headers = headers(of_second);
        let event = CloudEvent::read(&HeaderTable::new(Some(&headers)), 1);
        event
            .map(|_| ())
            .map_err(|reject| reject.reason().to_owned())
    }

    #[test]
    fn all_attributes_are_read() {
        let headers = headers(WHOLE);
        let table = HeaderTable::new(Some(&headers));
        let event = CloudEvent::read(&table, 1).unwrap();
        let expected = CloudEvent {
            id: "8",
            source: "/orders",
            ty: "placed",
            time: Some("2013-01-01T04:00:00.123Z".parse().unwrap()),
            subject: Some("ann"),
            data_schema: None,
            data_content_type: Some("application/json"),
            spec_version: "1.0",
        };
        assert_eq!(event, expected);
        let reject = CloudEvent::read(&table, 0).unwrap_err();
        assert_eq!(reject.reason(), "the record has no header `ce_specversion`");
    }

    #[test]
    fn what_is_no_cloud_event_says_why() {
        for missing in ["ce_specversion", "ce_id", "ce_source", "ce_type"] {
            let rest = WHOLE.iter().copied().filter(|(name, _)| *name != missing);
            let reason = format!("the record has no header `{missing}`");
            assert_eq!(read(&rest.collect::<Vec<_>>()), Err(reason));
        }
        let with = |more: (&'static str, &'static str)| [WHOLE, &[more]].concat();
        assert_eq!(
            read(&with(("ce_source", ""))),
            Err("the record has no header `ce_source`".into())
        );
        assert_eq!(
            read(&with(("ce_time", "yesterday"))),
            Err("the header `ce_time` is no time: `yesterday`".into())
        );
        assert_eq!(
            read(&with(("ce_specversion", "0.3"))),
            Err("CloudEvents 0.3 is not known here, only 1.x".into())
        );
        assert_eq!(read(&with(("ce_colour", "red"))), Ok(()));
    }

    #[test]
    fn without_headers_it_says_what_the_manifest_lacks() {
        let reject = CloudEvent::read(&HeaderTable::new(None), 0).unwrap_err();
        assert_eq!(reject.code(), "no-cloud-event");
        assert!(reject.reason().contains("headers = true"), "{reject}");
    }
}
