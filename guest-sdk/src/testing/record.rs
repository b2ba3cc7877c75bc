//! [`Record`]: what a test sends to a [`Driver`](super::Driver).

use crate::{Codec, Timestamp};

/// A record of an input topic.
///
/// ```
/// use foldhost_sdk::testing::Record;
/// use foldhost_sdk::{Json, Timestamp};
///
/// let plain = Record::new("key", &Json(1));
/// let full = Record::raw("key", r#"{"a":1}"#)
///     .at("2013-01-01T10:00:00Z")     // or a Timestamp, or milliseconds
///     .header("source", "test")
///     .input(1);                      // from the second topic of the manifest's inputs
/// let gone = Record::tombstone("key").at(Timestamp::from_millis(5));
/// # assert_eq!(full.key(), b"key");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) timestamp: Timestamp,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(super) input: u8,
}

impl Record {
    /// A record with an encoded value, from the first input, at the Unix epoch.
    pub fn new(key: impl Into<Vec<u8>>, value: &impl Codec) -> Self {
        Self::raw(key, value.to_bytes())
    }

    /// A record with a value of these bytes, whatever they are.
    pub fn raw(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::tombstone(key)
        }
    }

    /// A record without a value.
    pub fn tombstone(key: impl Into<Vec<u8>>) -> Self {
        Self {
            key: key.into(),
            value: None,
            timestamp: Timestamp::default(),
            headers: Vec::new(),
            input: 0,
        }
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
    pub fn key(&self) -> &[u8] {
        &self.key
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
