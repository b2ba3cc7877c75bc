//! Flights as records of the topic `flights`: protobuf, as `plugins/flight-events/flight.proto` says. Loaded by
//! `demo`.

use bytes::Bytes;
use prost::Message as _;

use super::flights::{Event, Flight, Flights};
use super::loader::{Source, Topics};
use crate::log::NewRecord;
use crate::types::TopicName;

mod wire {
    //! Generated from `plugins/flight-events/flight.proto`.
    #![allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub)]
    include!(concat!(env!("OUT_DIR"), "/foldhost.flights.v1.rs"));
}

use wire::{FlightDeparted, FlightEvent, FlightLanded, flight_event};

impl Source for Flights {
    const WHAT: &'static str = "events";

    fn name(&self) -> &str {
        &self.name
    }

    fn progress_key(&self) -> String {
        self.digest.to_string()
    }

    fn record_count(&self) -> usize {
        self.event_count()
    }

    fn records_from(
        &self,
        index: usize,
        topics: &Topics,
    ) -> impl Iterator<Item = (TopicName, NewRecord)> {
        let events = self.events_from(index);
        events.map(|(event, flight)| (topics.flights.clone(), record(event, flight)))
    }
}

/// An event as a record.
///
/// The record's timestamp is left to the log: the time of the flight is in the event, and a log that
/// removes old records would remove flights of 2013 at once.
fn record(event: Event, flight: &Flight) -> NewRecord {
    let message = if event.is_landing {
        landed(flight)
    } else {
        departed(flight)
    };
    let value = FlightEvent {
        event: Some(message),
    };
    NewRecord {
        key: Some(Bytes::copy_from_slice(flight.plane.as_bytes())),
        value: Some(Bytes::from(value.encode_to_vec())),
        ..NewRecord::default()
    }
}

fn departed(flight: &Flight) -> flight_event::Event {
    flight_event::Event::Departed(FlightDeparted {
        carrier: flight.carrier.to_string(),
        flight: flight.number,
        origin: flight.origin.to_string(),
        dest: flight.dest.to_string(),
        departed_at_ms: flight.departed_at_ms,
    })
}

fn landed(flight: &Flight) -> flight_event::Event {
    flight_event::Event::Landed(FlightLanded {
        carrier: flight.carrier.to_string(),
        flight: flight.number,
        origin: flight.origin.to_string(),
        dest: flight.dest.to_string(),
        departed_at_ms: flight.departed_at_ms,
        landed_at_ms: flight.landed_at_ms,
    })
}
