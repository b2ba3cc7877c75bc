//! The events of the topic `flights`, as in `flight.proto` beside this crate.
//!
//! Used by `plane-tracker` and `plane-utilisation`. Written by hand rather than generated, so that
//! building a plugin needs no protobuf compiler; a test holds it to the `.proto` file.

use prost::{Message, Oneof};

/// Something that happened to a plane; the record's key is its tail number.
#[derive(Clone, PartialEq, Message)]
pub struct FlightEvent {
    /// What happened; `None` if it is something that this code does not know.
    #[prost(oneof = "Event", tags = "1, 2")]
    pub event: Option<Event>,
}

/// What happened.
#[derive(Clone, PartialEq, Oneof)]
pub enum Event {
    /// The plane left the ground.
    #[prost(message, tag = "1")]
    Departed(FlightDeparted),
    /// The plane is on the ground again.
    #[prost(message, tag = "2")]
    Landed(FlightLanded),
}

/// The plane left the ground.
#[derive(Clone, PartialEq, Message)]
pub struct FlightDeparted {
    /// IATA code of the airline, such as `UA`.
    #[prost(string, tag = "1")]
    pub carrier: String,
    /// The airline's number of the flight, such as 1545.
    #[prost(uint32, tag = "2")]
    pub flight: u32,
    /// FAA code of the airport it left.
    #[prost(string, tag = "3")]
    pub origin: String,
    /// FAA code of the airport it is bound for.
    #[prost(string, tag = "4")]
    pub dest: String,
    /// Milliseconds since the Unix epoch.
    #[prost(int64, tag = "5")]
    pub departed_at_ms: i64,
}

/// The plane is on the ground again.
#[derive(Clone, PartialEq, Message)]
pub struct FlightLanded {
    /// As in the departure.
    #[prost(string, tag = "1")]
    pub carrier: String,
    /// As in the departure.
    #[prost(uint32, tag = "2")]
    pub flight: u32,
    /// As in the departure.
    #[prost(string, tag = "3")]
    pub origin: String,
    /// FAA code of the airport where it landed.
    #[prost(string, tag = "4")]
    pub dest: String,
    /// Milliseconds since the Unix epoch.
    #[prost(int64, tag = "5")]
    pub departed_at_ms: i64,
    /// Milliseconds since the Unix epoch; not before `departed_at_ms`.
    #[prost(int64, tag = "6")]
    pub landed_at_ms: i64,
}

impl From<FlightDeparted> for FlightEvent {
    fn from(departed: FlightDeparted) -> Self {
        Self {
            event: Some(Event::Departed(departed)),
        }
    }
}

impl From<FlightLanded> for FlightEvent {
    fn from(landed: FlightLanded) -> Self {
        Self {
            event: Some(Event::Landed(landed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of this file's messages in the words of the `.proto` file.
    fn of_rust() -> Vec<(String, String, u32)> {
        let source = include_str!("lib.rs");
        let source = &source[..source.find("#[cfg(test)]").unwrap()];
        let lines: Vec<_> = source.lines().map(str::trim).collect();
        let fields = lines.windows(2).filter_map(|pair| {
            let kind = pair[0].strip_prefix("#[prost(")?.strip_suffix(")]")?;
            let (kind, tag) = kind.split_once(", tag = \"")?;
            let tag = tag.trim_end_matches('"').parse().unwrap();
            let (name, kind) = match pair[1].strip_prefix("pub ") {
                Some(field) => (field.split(':').next().unwrap().to_owned(), kind.to_owned()),
                None => {
                    let (name, message) = pair[1].split_once('(').unwrap();
                    let message = message.trim_end_matches("),");
                    (name.to_lowercase(), message.to_owned())
                }
            };
            Some((kind, name, tag))
        });
        fields.collect()
    }

    fn of_proto() -> Vec<(String, String, u32)> {
        let lines = include_str!("../flight.proto").lines().map(str::trim);
        let fields = lines.filter_map(|line| {
            let (field, tag) = line.strip_suffix(';')?.split_once(" = ")?;
            let (kind, name) = field.split_once(' ')?;
            Some((kind.to_owned(), name.to_owned(), tag.parse().ok()?))
        });
        fields.collect()
    }

    #[test]
    fn this_file_says_what_the_proto_file_says() {
        assert_eq!(of_proto().len(), 13);
        assert_eq!(of_rust(), of_proto());
    }

    #[test]
    fn an_event_has_these_bytes() {
        let landed = FlightEvent::from(FlightLanded {
            carrier: "UA".into(),
            flight: 1545,
            origin: "EWR".into(),
            dest: "IAH".into(),
            departed_at_ms: 1,
            landed_at_ms: 300,
        });
        let bytes = b"\x12\x16\x0a\x02UA\x10\x89\x0c\x1a\x03EWR\x22\x03IAH\x28\x01\x30\xac\x02";
        assert_eq!(landed.encode_to_vec(), bytes);
        assert_eq!(FlightEvent::decode(&bytes[..]).unwrap(), landed);
    }
}
