//! The flights as records of the topic `flights`, encoded by hand from the published schema. Called by
//! scenarios that append them at a pace of their own, beside `foldhost demo`, which loads them at once.
//!
//! Invariant: nothing is shared with the host's loader, as in `flights`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::flights::{Flight, Flights};

/// Fields of `FlightEvent`.
const DEPARTED: u64 = 1;
const LANDED: u64 = 2;
/// Wire types of protobuf.
const VARINT: u64 = 0;
const BYTES: u64 = 2;
/// Letters of an airline's code, with which a flight's label begins.
pub(crate) const CARRIER_LENGTH: usize = 2;

/// Every departure and landing in the order of time, as records of the HTTP contract.
pub fn records(flights: &Flights) -> Vec<Value> {
    let mut events: Vec<(i64, u32, bool, &Flight)> = flights
        .all()
        .iter()
        .flat_map(|flight| {
            [
                (flight.departed_at, flight.row, false, flight),
                (flight.landed_at, flight.row, true, flight),
            ]
        })
        .collect();
    events.sort_by_key(|(at, row, landed, _)| (*at, *row, *landed));
    let record = |(at, _, landed, flight): &(i64, u32, bool, &Flight)| {
        let value = STANDARD.encode(event(flight, *landed));
        json!({"key": flight.plane, "value_base64": value, "timestamp": at})
    };
    events.iter().map(record).collect()
}

/// One `FlightEvent`.
fn event(flight: &Flight, landed: bool) -> Vec<u8> {
    let (carrier, number) = flight.label.split_at(CARRIER_LENGTH);
    let mut inner = Vec::new();
    bytes(&mut inner, 1, carrier.as_bytes());
    varint(
        &mut inner,
        2,
        number.parse().expect("a label ends with a number"),
    );
    bytes(&mut inner, 3, flight.origin.as_bytes());
    bytes(&mut inner, 4, flight.dest.as_bytes());
    varint(&mut inner, 5, flight.departed_at.cast_unsigned());
    if landed {
        varint(&mut inner, 6, flight.landed_at.cast_unsigned());
    }
    let mut outer = Vec::new();
    bytes(&mut outer, if landed { LANDED } else { DEPARTED }, &inner);
    outer
}

pub(crate) fn varint(to: &mut Vec<u8>, field: u64, value: u64) {
    number(to, field << 3 | VARINT);
    number(to, value);
}

pub(crate) fn bytes(to: &mut Vec<u8>, field: u64, value: &[u8]) {
    number(to, field << 3 | BYTES);
    number(to, value.len() as u64);
    to.extend_from_slice(value);
}

fn number(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_what_protoc_makes_of_it() {
        let flight = Flight {
            row: 0,
            plane: "N1".into(),
            label: "UA1545".into(),
            origin: "EWR".into(),
            dest: "IAH".into(),
            departed_at: 300,
            landed_at: 1,
        };
        // departed {carrier: "UA" flight: 1545 origin: "EWR" dest: "IAH" departed_at_ms: 300}
        let departed = b"\x0a\x14\x0a\x02UA\x10\x89\x0c\x1a\x03EWR\x22\x03IAH\x28\xac\x02";
        assert_eq!(event(&flight, false), departed);
        let landed = b"\x12\x16\x0a\x02UA\x10\x89\x0c\x1a\x03EWR\x22\x03IAH\x28\xac\x02\x30\x01";
        assert_eq!(event(&flight, true), landed);
    }

    #[test]
    fn records_come_in_the_order_of_time() {
        let january = Flights::january().unwrap();
        let records = records(&january);
        assert_eq!(records.len(), january.event_count());
        let times: Vec<_> = records.iter().map(|r| r["timestamp"].as_i64()).collect();
        assert!(times.is_sorted());
    }
}
