//! [`Timestamp`]: an instant in milliseconds, read and written as RFC 3339.
//!
//! Used by events, query arguments and answers. Invariant: pure arithmetic on the proleptic Gregorian
//! calendar in UTC; there is no clock here, and no time zone data.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Milliseconds of a UTC day.
pub const DAY_MS: i64 = 86_400_000;

/// An instant, in milliseconds since the Unix epoch (1970-01-01T00:00:00Z); may be before it.
///
/// In text, JSON and query arguments it is RFC 3339 (`2013-01-01T14:04:00Z`, with milliseconds only
/// where they are not zero). An offset such as `+02:00` and a date alone (midnight UTC) are
/// understood as well. In protobuf use [`millis`](Self::millis), an `int64`.
///
/// ```
/// use foldhost_sdk::Timestamp;
///
/// let landed: Timestamp = "2013-01-01T16:04:00+02:00".parse().unwrap();
/// assert_eq!(landed.to_string(), "2013-01-01T14:04:00Z");
/// assert_eq!(landed.day_start(), "2013-01-01".parse().unwrap());
/// assert_eq!(landed.millis(), 1_357_049_040_000);
/// assert!("2013-02-29".parse::<Timestamp>().is_err());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The instant `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// The beginning of the UTC day in which the instant lies.
    pub const fn day_start(self) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(DAY_MS)))
    }

    /// The date in UTC: year, month (1–12), day of the month (1–31).
    pub fn date(self) -> (i64, u32, u32) {
        civil_from_days(self.0.div_euclid(DAY_MS))
    }
}

/// Why a text is no [`Timestamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampError;

impl TimestampError {
    /// What would have been right.
    pub const EXPECTED: &'static str =
        "an RFC 3339 instant such as 2013-01-01T14:04:00Z, or a date such as 2013-01-01";
}

impl fmt::Display for TimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", Self::EXPECTED)
    }
}

impl std::error::Error for TimestampError {}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC. Years outside 0000–9999, for which RFC 3339 has no form, get a sign and as
    /// many digits as they need (ISO 8601's expanded form).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        let ms = self.0.rem_euclid(DAY_MS);
        match year {
            0..=9999 => write!(f, "{year:04}")?,
            _ => write!(f, "{year:+07}")?,
        }
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match ms % 1000 {
            0 => f.write_str("Z"),
            fraction => write!(f, ".{fraction:03}Z"),
        }
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// Reads an RFC 3339 instant (digits beyond the millisecond are cut off, leap seconds are not
    /// understood) or a date.
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        parse(text.as_bytes()).map(Self).ok_or(TimestampError)
    }
}

fn parse(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let (year, month, day) = (
        number(&date[..4], 9999)?,
        number(&date[5..7], 12)?,
        number(&date[8..], 31)?,
    );
    if date[4] != b'-' || date[7] != b'-' || month == 0 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    if civil_from_days(days) != (year, month as u32, day as u32) {
        return None; // such as February 29 of 2013
    }
    if rest.is_empty() {
        return Some(days * DAY_MS);
    }
    let (time, rest) = rest.split_at_checked(9)?;
    if !matches!(time[0], b'T' | b't') || time[3] != b':' || time[6] != b':' {
        return None;
    }
    let (hour, minute, second) = (
        number(&time[1..3], 23)?,
        number(&time[4..6], 59)?,
        number(&time[7..], 59)?,
    );
    let (millis, rest) = fraction(rest)?;
    let local = days * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + millis;
    Some(local - offset_ms(rest)?)
}

/// A fraction of a second in milliseconds, if one begins `text`, and what comes after it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    let (digits, rest) = digits.split_at(count);
    if digits.is_empty() {
        return None;
    }
    let millis = (0..3).fold(0, |millis, place| {
        millis * 10 + digits.get(place).map_or(0, |digit| i64::from(digit - b'0'))
    });
    Some((millis, rest))
}

fn offset_ms(text: &[u8]) -> Option<i64> {
    match text {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let minutes = number(&[*h1, *h2], 23)? * 60 + number(&[*m1, *m2], 59)?;
            Some(if *sign == b'+' { minutes } else { -minutes } * 60_000)
        }
        _ => None,
    }
}

fn number(digits: &[u8], max: i64) -> Option<i64> {
    let number = digits.iter().try_fold(0, |number, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + i64::from(digit - b'0'))
    })?;
    (number <= max).then_some(number)
}

/// Days since the Unix epoch → date, by Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>).
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

/// Date → days since the Unix epoch: the inverse, from the same source.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The name under which a timestamp asks serde for a newtype, so that the schema of a query's
/// arguments can tell it from any other text.
pub(crate) const SERDE_NAME: &str = "foldhost_sdk::Timestamp";

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(SERDE_NAME, TimestampVisitor)
    }
}

struct TimestampVisitor;

impl<'de> serde::de::Visitor<'de> for TimestampVisitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TimestampError::EXPECTED)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Timestamp, D::Error> {
        inner.deserialize_str(self)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
        text.parse()
            .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> Option<i64> {
        text.parse::<Timestamp>().ok().map(Timestamp::millis)
    }

    #[test]
    fn reads_what_rfc_3339_allows() {
        assert_eq!(millis("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(millis("1970-01-01"), Some(0));
        assert_eq!(millis("1969-12-31T23:59:59.999Z"), Some(-1));
        assert_eq!(millis("2013-01-01t14:04:00.5z"), Some(1_357_049_040_500));
        assert_eq!(
            millis("2013-01-01T14:04:00.123999-05:30"),
            Some(1_357_068_840_123)
        );
        assert_eq!(millis("2000-02-29"), Some(951_782_400_000));
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "2013",
            "2013-1-1",
            "2013-02-29",
            "2013-00-10",
            "2013-13-01",
            "2013-01-00",
            "2013-01-01T",
            "2013-01-01T14:04Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T14:04:60Z",
            "2013-01-01T14:04:00",
            "2013-01-01T14:04:00.Z",
            "2013-01-01T14:04:00+0200",
            "2013-01-01 14:04:00Z",
            "+013-01-01",
            "2013-01-01T14:04:00Zz",
            "é013-01-01",
        ] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in days_from_civil(1799, 1, 1)..days_from_civil(2201, 1, 1) {
            let timestamp = Timestamp(day * DAY_MS + 1);
            assert_eq!(timestamp.to_string().parse(), Ok(timestamp));
            assert_eq!(timestamp.day_start().millis(), day * DAY_MS);
        }
    }

    #[test]
    fn the_ends_of_time_can_be_written() {
        assert_eq!(
            Timestamp(i64::MIN).to_string(),
            "-292275055-05-16T16:47:04.192Z"
        );
        assert_eq!(
            Timestamp(i64::MAX).to_string(),
            "+292278994-08-17T07:12:55.807Z"
        );
        assert_eq!(Timestamp(i64::MIN).day_start().millis(), i64::MIN);
    }

    #[test]
    fn json_is_a_string() {
        let timestamp: Timestamp = serde_json::from_str("\"2013-01-01\"").unwrap();
        assert_eq!(
            serde_json::to_string(&timestamp).unwrap(),
            "\"2013-01-01T00:00:00Z\""
        );
        let error = serde_json::from_str::<Timestamp>("\"yesterday\"").unwrap_err();
        assert!(error.to_string().contains("RFC 3339"), "{error}");
    }
}
