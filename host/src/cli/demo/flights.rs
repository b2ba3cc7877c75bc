//! The demo's data: rows of real flights, and the events that they become. Used by `demo`.
//!
//! How a row becomes events: the key is `tailnum`; a flight departs at `time_hour` (UTC) + `minute` +
//! `dep_delay` minutes and lands `air_time` minutes later; rows without one of `tailnum`, `dep_delay`
//! and `air_time` are left out. Events are ordered by time, ties by row, departed before landed.
//!
//! Invariant: the same rows give the same events in the same order, whatever they were packed in.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use flate2::read::GzDecoder;
use sha2::Digest as _;

use crate::cli::exit::UsageError;
use crate::limits;
use crate::types::Digest;

/// January 2013, which is part of the program (CC0, see `host/assets/README.md`).
static JANUARY: &[u8] = include_bytes!("../../../assets/flights-2013-01.csv.gz");
/// Name of the file that it is made of.
const JANUARY_NAME: &str = "flights-2013-01.csv";

const MINUTE_MS: i64 = 60_000;
/// Where the figures needed stand, in the order of [`Row`]'s use.
const COLUMNS: [&str; 9] = [
    "tailnum",
    "carrier",
    "flight",
    "origin",
    "dest",
    "time_hour",
    "minute",
    "dep_delay",
    "air_time",
];

/// A flight that took place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flight {
    /// Registration of the plane: the key of its events.
    pub(super) plane: Arc<str>,
    /// Code of the carrier, such as `UA`.
    pub(super) carrier: Arc<str>,
    /// Number of the flight.
    pub(super) number: u32,
    /// Airport of departure.
    pub(super) origin: Arc<str>,
    /// Airport of arrival.
    pub(super) dest: Arc<str>,
    /// Milliseconds since the Unix epoch.
    pub(super) departed_at_ms: i64,
    /// Milliseconds since the Unix epoch.
    pub(super) landed_at_ms: i64,
}

/// One event: a flight departs, or lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    /// When, in milliseconds since the Unix epoch.
    pub(super) at_ms: i64,
    /// Index of the flight, in the order of the rows.
    flight: u32,
    /// Whether it lands.
    pub(super) is_landing: bool,
}

/// A data set, ready to be loaded.
#[derive(Debug)]
pub(super) struct Flights {
    /// Name of its file without what it is packed in.
    pub(super) name: String,
    /// SHA-256 of its rows as text: its identity.
    pub(super) digest: Digest,
    flights: Vec<Flight>,
    events: Vec<Event>,
}

impl Flights {
    /// January 2013.
    pub(super) fn january() -> anyhow::Result<Self> {
        Self::read(JANUARY_NAME, GzDecoder::new(JANUARY))
    }

    /// The flights of a `.csv`, `.csv.gz` or `.csv.zip`.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = file_name
            .strip_suffix(".gz")
            .or(file_name.strip_suffix(".zip"));
        let name = name.unwrap_or(&file_name);
        let flights = if file_name.ends_with(".gz") {
            Self::read(name, GzDecoder::new(BufReader::new(file)))
        } else if file_name.ends_with(".zip") {
            let mut archive = zip::ZipArchive::new(BufReader::new(file))
                .with_context(|| format!("{shown} is not a ZIP file"))?;
            let is_csv = |inside: &String| inside.ends_with(".csv");
            let Some(csv) = names(&archive)?.into_iter().find(is_csv) else {
                bail!(UsageError(format!("{shown} has no .csv inside")));
            };
            Self::read(name, archive.by_name(&csv)?)
        } else if file_name.ends_with(".csv") {
            Self::read(name, BufReader::new(file))
        } else {
            bail!(UsageError(format!(
                "{shown} is no flights: take a .csv, .csv.gz or .csv.zip"
            )));
        };
        flights.with_context(|| format!("reading {shown}"))
    }

    /// How many events there are.
    pub(super) fn event_count(&self) -> usize {
        self.events.len()
    }

    /// Events in their order, from the one of this index.
    pub(super) fn events_from(&self, index: usize) -> impl Iterator<Item = (Event, &Flight)> {
        let events = self.events.get(index..).unwrap_or_default();
        events
            .iter()
            .map(|event| (*event, &self.flights[event.flight as usize]))
    }

    /// Planes, in the order in which they first stand in the rows; each once.
    pub(super) fn planes(&self) -> impl Iterator<Item = &str> {
        let mut seen = BTreeSet::new();
        let planes = self.flights.iter().map(|flight| &*flight.plane);
        planes.filter(move |plane| seen.insert(*plane))
    }

    /// Departure of the first flight and landing of the last, in milliseconds since the Unix epoch.
    pub(super) fn span_ms(&self) -> Option<(i64, i64)> {
        Some((self.events.first()?.at_ms, self.events.last()?.at_ms))
    }

    fn read(name: &str, rows: impl Read) -> anyhow::Result<Self> {
        let mut hashing = Hashing {
            inner: rows,
            hash: sha2::Sha256::new(),
        };
        let flights = parse(&mut hashing)?;
        // The CSV reader may stop short of what follows the last row.
        io::copy(&mut hashing, &mut io::sink())?;
        let digest = Digest::from_bytes(hashing.hash.finalize().into());
        let events = in_order(&flights);
        Ok(Self {
            name: name.to_owned(),
            digest,
            flights,
            events,
        })
    }
}

/// Names of the files inside an archive.
fn names<R: Read + io::Seek>(archive: &zip::ZipArchive<R>) -> zip::result::ZipResult<Vec<String>> {
    archive
        .file_names()
        .map(|name| name.map(std::borrow::Cow::into_owned))
        .collect()
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hash: sha2::Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.hash.update(&into[..count]);
        Ok(count)
    }
}

fn parse(rows: impl Read) -> anyhow::Result<Vec<Flight>> {
    let mut reader = csv::Reader::from_reader(rows);
    let header = reader.headers().context("the first row cannot be read")?;
    let mut columns = [0; COLUMNS.len()];
    for (index, name) in columns.iter_mut().zip(COLUMNS) {
        *index = header
            .iter()
            .position(|column| column == name)
            .ok_or_else(|| {
                UsageError(format!(
                    "there is no column {name}: these are not flights as in nycflights13"
                ))
            })?;
    }
    let mut texts = Texts::default();
    let mut flights = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record)? {
        let line = record.position().map_or(0, csv::Position::line);
        let fields = columns.map(|column| record.get(column).unwrap_or_default());
        let flight = flight(fields, &mut texts).with_context(|| format!("line {line}"))?;
        flights.extend(flight);
        if flights.len() > limits::DEMO_ROWS_MAX {
            let rows_max = limits::DEMO_ROWS_MAX;
            bail!(UsageError(format!(
                "there are more than {rows_max} flights: cut the file"
            )));
        }
    }
    Ok(flights)
}

/// One row; none if it is one of those that are left out.
fn flight(fields: [&str; 9], texts: &mut Texts) -> anyhow::Result<Option<Flight>> {
    let [
        plane,
        carrier,
        number,
        origin,
        dest,
        hour,
        minute,
        delay,
        air_time,
    ] = fields;
    if [plane, delay, air_time]
        .iter()
        .any(|field| matches!(*field, "" | "NA"))
    {
        return Ok(None);
    }
    let whole = |name: &str, text: &str| {
        text.parse::<i64>()
            .with_context(|| format!("{name} '{text}' is not a whole number"))
    };
    let hour: jiff::Timestamp = hour
        .parse()
        .with_context(|| format!("time_hour '{hour}' is not a UTC time"))?;
    let minutes = whole("minute", minute)? + whole("dep_delay", delay)?;
    let departed_at_ms = hour.as_millisecond() + minutes * MINUTE_MS;
    let number = whole("flight", number)?;
    Ok(Some(Flight {
        plane: texts.take(plane),
        carrier: texts.take(carrier),
        number: u32::try_from(number).with_context(|| format!("flight '{number}' is no number"))?,
        origin: texts.take(origin),
        dest: texts.take(dest),
        departed_at_ms,
        landed_at_ms: departed_at_ms + whole("air_time", air_time)? * MINUTE_MS,
    }))
}

/// Each text once: a few thousand planes, carriers and airports stand in hundreds of thousands of rows.
#[derive(Debug, Default)]
struct Texts(BTreeSet<Arc<str>>);

impl Texts {
    fn take(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(text);
        self.0.insert(Arc::clone(&new));
        new
    }
}

fn in_order(flights: &[Flight]) -> Vec<Event> {
    let mut events = Vec::with_capacity(2 * flights.len());
    for (flight, row) in flights.iter().zip(0..) {
        let event = |at_ms, is_landing| Event {
            at_ms,
            flight: row,
            is_landing,
        };
        events.push(event(flight.departed_at_ms, false));
        events.push(event(flight.landed_at_ms, true));
    }
    // The order of the fields is the order of the events: time, row, departed before landed.
    events.sort_unstable();
    events
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const HEADER: &str =
        "tailnum,carrier,flight,origin,dest,time_hour,minute,dep_delay,air_time,more";

    fn read(rows: &[&str]) -> anyhow::Result<Flights> {
        let text = [&[HEADER][..], rows].concat().join("\n");
        Flights::read("test.csv", text.as_bytes())
    }

    /// Milliseconds of a UTC time.
    fn at(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn the_first_row_of_january_is_the_known_one() {
        // 2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z
        let january = Flights::january().unwrap();
        let first = &january.flights[0];
        assert_eq!(
            (&*first.plane, &*first.carrier, first.number),
            ("N14228", "UA", 1545)
        );
        assert_eq!((&*first.origin, &*first.dest), ("EWR", "IAH"));
        assert_eq!(first.departed_at_ms, at("2013-01-01T10:17:00Z"));
        assert_eq!(first.landed_at_ms, at("2013-01-01T14:04:00Z"));
        assert_eq!(january.name, "flights-2013-01.csv");
        assert_eq!(january.event_count(), 2 * january.flights.len());
        assert!(january.flights.len() > 26_000);
        assert_eq!(january.planes().next(), Some("N14228"));
    }

    #[test]
    fn rows_without_a_departure_or_air_time_are_left_out() {
        let flights = read(&[
            "N1,UA,1,EWR,IAH,2013-01-01T10:00:00Z,5,-6,60,",
            "NA,UA,2,EWR,IAH,2013-01-01T10:00:00Z,5,0,60,",
            ",UA,2,EWR,IAH,2013-01-01T10:00:00Z,5,0,60,",
            "N1,UA,3,EWR,IAH,2013-01-01T10:00:00Z,5,NA,NA,",
            "N1,UA,4,EWR,IAH,2013-01-01T10:00:00Z,5,0,,",
        ])
        .unwrap();
        assert_eq!(flights.flights.len(), 1);
        // An early departure: 10:05 - 6 minutes.
        assert_eq!(
            flights.flights[0].departed_at_ms,
            at("2013-01-01T09:59:00Z")
        );
        assert_eq!(
            flights.span_ms().unwrap(),
            (at("2013-01-01T09:59:00Z"), at("2013-01-01T10:59:00Z"))
        );
    }

    #[test]
    fn events_are_ordered_by_time_then_row_then_kind() {
        let flights = read(&[
            "N1,UA,1,A,B,2013-01-01T10:00:00Z,30,0,30,",
            "N2,UA,2,A,B,2013-01-01T10:00:00Z,0,0,30,",
            "N3,UA,3,A,B,2013-01-01T10:00:00Z,30,0,0,",
        ])
        .unwrap();
        let order: Vec<_> = flights
            .events_from(0)
            .map(|(event, flight)| (flight.plane.to_string(), event.is_landing))
            .collect();
        let expected = [
            ("N2", false), // 10:00
            ("N1", false), // 10:30, row 0
            ("N2", true),  // 10:30, row 1
            ("N3", false), // 10:30, row 2, departs
            ("N3", true),  // 10:30, row 2, lands
            ("N1", true),  // 11:00
        ];
        assert_eq!(
            order,
            expected.map(|(plane, landing)| (plane.to_owned(), landing))
        );
        assert_eq!(flights.events_from(5).count(), 1);
        assert_eq!(flights.events_from(7).count(), 0);
    }

    #[test]
    fn packing_does_not_change_the_data() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("{HEADER}\nN1,UA,1,A,B,2013-01-01T10:00:00Z,30,0,30,\n");
        let plain = dir.path().join("f.csv");
        std::fs::write(&plain, &text).unwrap();
        let packed = dir.path().join("f.csv.gz");
        let file = File::create(&packed).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let archived = dir.path().join("f.csv.zip");
        let mut archive = zip::ZipWriter::new(File::create(&archived).unwrap());
        archive
            .start_file("f.csv", zip::write::SimpleFileOptions::default())
            .unwrap();
        archive.write_all(text.as_bytes()).unwrap();
        archive.finish().unwrap();
        let all = [&plain, &packed, &archived].map(|path| Flights::open(path).unwrap());
        for flights in &all {
            assert_eq!(
                (flights.name.as_str(), flights.digest),
                ("f.csv", Digest::of(text.as_bytes()))
            );
            assert_eq!(flights.flights, all[0].flights);
        }
    }

    #[test]
    fn wrong_files_are_refused_with_the_place() {
        let error = |rows: &[&str]| format!("{:#}", read(rows).unwrap_err());
        assert!(error(&["N1,UA,1,A,B,noon,30,0,30,"]).contains("line 2"));
        assert!(error(&["N1,UA,1,A,B,2013-01-01T10:00:00Z,x,0,30,"]).contains("minute 'x'"));
        let columns = Flights::read("x", &b"a,b\n1,2\n"[..])
            .unwrap_err()
            .to_string();
        assert!(columns.contains("tailnum"), "{columns}");
        assert!(Flights::open(Path::new("no/such.csv")).is_err());
    }
}
