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
    use proto_fields::{of_proto, of_rust};

    use super::*;

    #[test]
    fn this_file_says_what_the_proto_file_says() {
        let proto = of_proto(include_str!("../flight.proto"));
        assert_eq!(proto.len(), 13);
        assert_eq!(of_rust(include_str!("lib.rs")), proto);
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
