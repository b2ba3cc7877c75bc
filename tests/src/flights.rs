//! The flights as they are in the CSV, and what follows from them: which events a plane has, where it
//! is, how long it was in the air. Called by the scenarios that compare the example plugins with it.
//!
//! Invariant: written from the data's description alone. Nothing here is shared with the host's loader
//! or with the plugins, not even the calendar, so that an error on one side shows.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::paths::{cache, repository};

/// Milliseconds of a minute.
const MINUTE: i64 = 60_000;
/// Milliseconds of a day.
pub const DAY: i64 = 86_400_000;

/// One flight that took place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// The row of the file, counted from 0, rows that are left out included.
    pub row: u32,
    /// The plane's registration: the key of its events.
    pub plane: String,
    /// Carrier and number, such as `UA1545`.
    pub label: String,
    /// Airport of departure.
    pub origin: String,
    /// Airport of arrival.
    pub dest: String,
    /// Milliseconds since the Unix epoch.
    pub departed_at: i64,
    /// Milliseconds since the Unix epoch.
    pub landed_at: i64,
}

/// All flights of a file, in the file's order, with a view by plane.
#[derive(Debug)]
pub struct Flights {
    flights: Vec<Flight>,
    by_plane: BTreeMap<String, Vec<usize>>,
}

impl Flights {
    /// January 2013, which ships in the repository.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn january() -> Result<Self> {
        Self::read(&january_file())
    }

    /// The flights of a `.csv`, `.csv.gz` or `.csv.zip`.
    ///
    /// # Errors
    /// If the file cannot be read, or a row is not as described; the message names the row.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("no flights at {path:?}"))?;
        let name = path.to_string_lossy();
        let mut text = String::new();
        if name.ends_with(".gz") {
            flate2::read::GzDecoder::new(Cursor::new(bytes)).read_to_string(&mut text)?;
        } else if name.ends_with(".zip") {
            let mut archive = zip::ZipArchive::new(Cursor::new(bytes))?;
            archive.by_index(0)?.read_to_string(&mut text)?;
        } else {
            text = String::from_utf8(bytes)?;
        }
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let headers = reader.headers()?.clone();
        let column = |name: &str| {
            headers
                .iter()
                .position(|header| header == name)
                .with_context(|| format!("no {name}"))
        };
        let columns = [
            "tailnum",
            "carrier",
            "flight",
            "origin",
            "dest",
            "time_hour",
            "minute",
            "dep_delay",
            "air_time",
        ]
        .map(column);
        let mut indices = [0; 9];
        for (index, found) in indices.iter_mut().zip(columns) {
            *index = found?;
        }
        let mut flights = Vec::new();
        for (row, record) in reader.records().enumerate() {
            let record = record?;
            let fields = indices.map(|index| &record[index]);
            let flight = flight(u32::try_from(row)?, fields)
                .with_context(|| format!("row {row}: {record:?}"))?;
            flights.extend(flight);
        }
        let mut by_plane: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, flight) in flights.iter().enumerate() {
            by_plane
                .entry(flight.plane.clone())
                .or_default()
                .push(index);
        }
        Ok(Self { flights, by_plane })
    }

    /// Number of events: each flight departs and lands.
    pub fn event_count(&self) -> usize {
        2 * self.flights.len()
    }

    /// All flights, in the order of the file.
    pub fn all(&self) -> &[Flight] {
        &self.flights
    }

    /// The planes, in byte order.
    pub fn planes(&self) -> impl Iterator<Item = &str> {
        self.by_plane.keys().map(String::as_str)
    }

    /// The flights of one plane.
    pub fn of(&self, plane: &str) -> Vec<&Flight> {
        let indices = self
            .by_plane
            .get(plane)
            .map(Vec::as_slice)
            .unwrap_or_default();
        indices.iter().map(|&index| &self.flights[index]).collect()
    }

    /// What `plane-tracker` must answer about a plane after all events.
    ///
    /// The last event decides: by time, then by row, a departure before its landing.
    pub fn position(&self, plane: &str) -> Option<Value> {
        let flights = self.of(plane);
        let events = flights.iter().flat_map(|flight| {
            [
                (flight.departed_at, flight.row, false, flight),
                (flight.landed_at, flight.row, true, flight),
            ]
        });
        let (at, _, landed, flight) =
            events.max_by_key(|(at, row, landed, _)| (*at, *row, *landed))?;
        let since = format_time(at);
        Some(if landed {
            json!({"status": "landed", "airport": flight.dest, "since": since, "flight": flight.label})
        } else {
            json!({
                "status": "airborne", "origin": flight.origin, "dest": flight.dest,
                "since": since, "flight": flight.label
            })
        })
    }
}

/// The January file of the repository.
pub fn january_file() -> PathBuf {
    repository().join("host/assets/flights-2013-01.csv.gz")
}

/// The whole year, if this machine has it: `FOLDHOST_FLIGHTS`, or `flights.csv.zip` in the test cache
/// or in `../shared/data` beside the repository.
pub fn year_file() -> Option<PathBuf> {
    let named = std::env::var_os("FOLDHOST_FLIGHTS").map(PathBuf::from);
    let beside = repository().join("../shared/data/flights.csv.zip");
    [named, Some(cache().join("flights.csv.zip")), Some(beside)]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}

/// One row; none if it is one of those left out (no plane, never departed, or no time in the air).
fn flight(row: u32, fields: [&str; 9]) -> Result<Option<Flight>> {
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
        .any(|field| field.is_empty() || *field == "NA")
    {
        return Ok(None);
    }
    let minutes = minute.parse::<i64>()? + delay.parse::<i64>()?;
    let departed_at = parse_hour(hour)? + minutes * MINUTE;
    Ok(Some(Flight {
        row,
        plane: plane.to_owned(),
        label: format!("{carrier}{number}"),
        origin: origin.to_owned(),
        dest: dest.to_owned(),
        departed_at,
        landed_at: departed_at + air_time.parse::<i64>()? * MINUTE,
    }))
}

/// Milliseconds since the Unix epoch of `2013-01-01T10:00:00Z`.
fn parse_hour(text: &str) -> Result<i64> {
    let number = |from: usize, to: usize| -> Result<i64> {
        Ok(text.get(from..to).context("too short")?.parse()?)
    };
    if text.len() != 20 || !text.ends_with('Z') {
        bail!("not a UTC time: {text}");
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = (number(11, 13)? * 60 + number(14, 16)?) * 60 + number(17, 19)?;
    Ok(days_before(year, month, day) * DAY + seconds * 1_000)
}

/// Days from 1970-01-01 to a day, by counting: no cleverness, so that it is plainly right.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let years: i64 = (1970..year)
        .map(|year| if leap(year) { 366 } else { 365 })
        .sum();
    let months: i64 = (1..month).map(|month| month_days(year, month)).sum();
    years + months + day - 1
}

fn leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `2013-01-01T14:04:00Z`, for milliseconds since the Unix epoch.
pub fn format_time(millis: i64) -> String {
    let (mut days, second) = (millis.div_euclid(DAY), millis.rem_euclid(DAY) / 1_000);
    let mut year = 1970;
    while days >= if leap(year) { 366 } else { 365 } {
        days -= if leap(year) { 366 } else { 365 };
        year += 1;
    }
    let mut month = 1;
    while days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!(
        "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        days + 1
    )
}

/// Milliseconds since the Unix epoch of midnight UTC.
pub fn midnight(year: i64, month: i64, day: i64) -> i64 {
    days_before(year, month, day) * DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2000-02-29T23:59:59Z",
            "2013-12-31T12:30:00Z",
        ] {
            assert_eq!(format_time(parse_hour(text).unwrap()), text);
        }
        // `date -u -d 2013-01-01T15:17:00Z +%s`
        assert_eq!(
            parse_hour("2013-01-01T15:17:00Z").unwrap(),
            1_357_053_420_000
        );
    }

    #[test]
    fn january_has_the_rows_it_should() {
        let january = Flights::january().unwrap();
        // The first row of the file: UA1545, scheduled 5:15 New York time, 2 minutes late, 227 in the
        // air.
        let first = &january.all()[0];
        assert_eq!(
            (first.plane.as_str(), first.label.as_str()),
            ("N14228", "UA1545")
        );
        assert_eq!(format_time(first.departed_at), "2013-01-01T10:17:00Z");
        assert_eq!(format_time(first.landed_at), "2013-01-01T14:04:00Z");
        assert!(january.all().len() > 26_000 && january.all().len() < 27_004);
        assert_eq!(january.event_count(), 2 * january.all().len());
    }

    #[test]
    fn rows_without_a_departure_or_air_time_are_left_out() {
        let header = "tailnum,carrier,flight,origin,dest,time_hour,minute,dep_delay,air_time\n";
        let rows = "N1,UA,1,EWR,IAH,2013-01-01T10:00:00Z,5,-5,60\n\
                    NA,UA,2,EWR,IAH,2013-01-01T10:00:00Z,5,0,60\n\
                    N1,UA,3,EWR,IAH,2013-01-01T10:00:00Z,5,NA,NA\n\
                    N1,UA,4,EWR,IAH,2013-01-01T10:00:00Z,5,0,\n";
        let flights = Flights::parse(&format!("{header}{rows}")).unwrap();
        assert_eq!(flights.all().len(), 1);
        assert_eq!(
            format_time(flights.all()[0].departed_at),
            "2013-01-01T10:00:00Z"
        );
        let landed = flights.position("N1").unwrap();
        assert_eq!(landed["since"], "2013-01-01T11:00:00Z");
        assert_eq!(landed["airport"], "IAH");
        assert!(flights.position("N2").is_none());
        assert!(Flights::parse(&format!("{header}N1,UA,1,A,B,noon,5,0,60\n")).is_err());
    }
}
