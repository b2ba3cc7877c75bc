//! [`Record`]: what a test sends to a [`Driver`](super::Driver), and what a republisher or a command handler
//! writes there.

use std::fmt;

use crate::abi::types::EventOut;
use crate::{Codec, Inputs, Key, Timestamp};

/// A record of a topic.
///
/// ```
/// use foldhost_sdk::testing::Record;
/// use foldhost_sdk::{Json, Timestamp};
///
/// let plain = Record::new("key", &Json(1));
/// let full = Record::raw(7_i64, r#"{"a":1}"#)
///     .at("2013-01-01T10:00:00Z")     // or a Timestamp, or milliseconds
///     .header("source", "test")
///     .input(1);                      // from the second topic of the manifest's inputs
/// let gone = Record::tombstone("key").at(Timestamp::from_millis(5));
/// # assert_eq!(full.key(), Some(&[0, 0, 0, 0, 0, 0, 0, 7][..]));
/// # assert_eq!(plain.value_as::<Json<u8>>(), Some(Json(1)));
/// # assert_eq!(gone.value(), None);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) timestamp: Timestamp,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(super) input: u8,
}

impl Record {
    /// A record with an encoded value, at the Unix epoch, from the first input; an event of several
    /// inputs ([`inputs!`](crate::inputs)) comes from its own.
    ///
    /// # Panics
    /// The event's input has an index above 255.
    pub fn new(key: impl Key, value: &impl Inputs) -> Self {
        let mut bytes = Vec::new();
        value.encode_value(&mut bytes);
        let input = u8::try_from(value.input()).expect("a plugin has at most 256 inputs");
        Self::raw(key, bytes).input(input)
    }

    /// A record with a value of these bytes, whatever they are.
    pub fn raw(key: impl Key, value: impl Into<Vec<u8>>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::tombstone(key)
        }
    }

    /// An event as a reader sees it.
    pub(super) fn written(key: &[u8], event: EventOut, at: Timestamp) -> Self {
        Self {
            value: event.value,
            headers: event.headers,
            timestamp: at,
            ..Self::tombstone(key)
        }
    }

    /// A record without a value.
    pub fn tombstone(key: impl Key) -> Self {
        Self {
            key: Some(key.to_key()),
            value: None,
            timestamp: Timestamp::default(),
            headers: Vec::new(),
            input: 0,
        }
    }

    /// Takes the key away: a record that only a plugin with [`Route`](crate::Route) can fold.
    pub fn without_key(mut self) -> Self {
        self.key = None;
        self
    }

    /// Sets the record's time.
    pub fn at(mut self, when: impl Into<When>) -> Self {
        self.timestamp = when.into().0;
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), Some(value.into())));
        self
    }

    /// Adds a header whose value is null.
    pub fn null_header(mut self, name: &str) -> Self {
        self.headers.push((name.to_owned(), None));
        self
    }

    /// Sets the topic it comes from: an index in the manifest's inputs, from 0.
    pub fn input(mut self, index: u8) -> Self {
        self.input = index;
        self
    }

    /// The key.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The value; `None` is a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The value, decoded; `None` is a tombstone.
    ///
    /// # Panics
    /// It cannot be decoded.
    pub fn value_as<C: Codec>(&self) -> Option<C> {
        let bytes = self.value()?;
        Some(C::decode(bytes).unwrap_or_else(|error| panic!("{self:?} cannot be decoded: {error}")))
    }

    /// The time.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The headers, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let headers = self.headers.iter();
        headers.map(|(name, value)| (name.as_str(), value.as_deref()))
    }
}

/// As text where there is text: it is read in the message of a failed assertion.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &Option<Vec<u8>>| {
            let bytes = bytes.as_ref();
            bytes.map_or("none".to_owned(), |b| format!("`{}`", b.escape_ascii()))
        };
        write!(f, "Record({} = {}", text(&self.key), text(&self.value))?;
        write!(f, " at {}", self.timestamp)?;
        if self.input > 0 {
            write!(f, " from input {}", self.input)?;
        }
        for (name, value) in &self.headers {
            write!(f, ", {name}: {}", text(value))?;
        }
        f.write_str(")")
    }
}

/// An instant in a test: a [`Timestamp`], its milliseconds, or its RFC 3339 text (which panics if it
/// is none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When(pub(super) Timestamp);

impl From<Timestamp> for When {
    fn from(timestamp: Timestamp) -> Self {
        Self(timestamp)
    }
}

impl From<i64> for When {
    fn from(millis: i64) -> Self {
        Self(Timestamp::from_millis(millis))
    }
}

impl From<&str> for When {
    fn from(text: &str) -> Self {
        match text.parse() {
            Ok(timestamp) => Self(timestamp),
            Err(error) => panic!("`{text}` is not a time: {error}"),
        }
    }
}
