//! Records as JSON, both ways: what an append takes and what a read gives, so that what was read can be
//! appended as it is. Pure; used by `append` and `read`.
//!
//! Invariant: bytes come back as they were. JSON is not read into numbers and written again: its text
//! is kept, without the white space between tokens.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::encoding;
use crate::limits;
use crate::log::{COMMAND_HEADER, HOST_HEADERS_PREFIX, Header, NewRecord, RecordRef};
use crate::types::Partition;

/// A record that is to be appended.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewRecord)]
pub(super) struct RecordIn<'a> {
    /// The key as text; null or left out (as well as `key_base64`) = a record without a key.
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
    /// The key's bytes in base64.
    #[serde(borrow, default)]
    key_base64: Option<Cow<'a, str>>,
    /// The value as JSON, written as it is without white space; null = tombstone. One of the three
    /// values must be there.
    #[serde(borrow, default, deserialize_with = "present")]
    #[schema(value_type = Option<serde_json::Value>)]
    value: Option<&'a RawValue>,
    /// The value as text.
    #[serde(borrow, default)]
    value_text: Option<Cow<'a, str>>,
    /// The value's bytes in base64.
    #[serde(borrow, default)]
    value_base64: Option<Cow<'a, str>>,
    /// Name → text, null, `{"base64": …}`, or a list of these where a name repeats.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::HashMap<String, serde_json::Value>>)]
    headers: Option<Map<String, Value>>,
    /// Milliseconds since the Unix epoch, or RFC 3339; left out = now.
    #[serde(default)]
    #[schema(value_type = Option<serde_json::Value>)]
    timestamp: Option<Value>,
    /// Number of the partition; left out = by the key.
    #[serde(default)]
    partition: Option<u32>,
}

/// A field that is there, `null` included: `null` and nothing are different things here.
pub(super) fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(from).map(Some)
}

/// Why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordFault {
    /// It is malformed.
    #[error("{0}")]
    Malformed(String),
    /// It is larger than a record may be.
    #[error(
        "the record has {bytes} bytes of key, value and headers, more than the {bytes_max} that are taken"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
}

/// Reads one record. Values that stand in `body` as they will be written are not copied.
///
/// # Errors
/// [`RecordFault`] says what is wrong and where in the text.
pub(super) fn parse(body: &Bytes, text: &str, bytes_max: usize) -> Result<NewRecord, RecordFault> {
    let record: RecordIn<'_> = serde_json::from_str(text)
        .map_err(|error| RecordFault::Malformed(malformed(text, &error)))?;
    let record = record.check(body).map_err(RecordFault::Malformed)?;
    let key_bytes = record.key.as_ref().map_or(0, Bytes::len);
    if key_bytes > limits::KEY_BYTES_MAX {
        return Err(RecordFault::Malformed(format!(
            "the key has {key_bytes} bytes, more than the {} a key may have",
            limits::KEY_BYTES_MAX
        )));
    }
    let headers = record.headers.iter();
    let headers: usize = headers
        .map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len))
        .sum();
    let bytes = key_bytes + record.value.as_ref().map_or(0, Bytes::len) + headers;
    if bytes > bytes_max {
        return Err(RecordFault::TooLarge { bytes, bytes_max });
    }
    Ok(record)
}

/// serde's words, with the column as the only place: the line is known better outside.
pub(super) fn malformed(text: &str, error: &serde_json::Error) -> String {
    let words = error.to_string();
    let words = words.split(" at line ").next().unwrap_or_default();
    let place = match text.contains('\n') {
        true => format!("line {}, column {}", error.line(), error.column()),
        false => format!("column {}", error.column()),
    };
    format!("{words} ({place})")
}

impl RecordIn<'_> {
    fn check(self, body: &Bytes) -> Result<NewRecord, String> {
        let key = match (self.key, self.key_base64) {
            (Some(_), Some(_)) => return Err("give one of key and key_base64".to_owned()),
            (Some(key), None) => Some(bytes_of(body, key)),
            (None, Some(text)) => Some(base64("key_base64", &text)?),
            (None, None) => None,
        };
        let value = match (self.value, self.value_text, self.value_base64) {
            (Some(json), None, None) if json.get() == "null" => None,
            (Some(json), None, None) => Some(bytes_of(body, encoding::compact(json.get()))),
            (None, Some(text), None) => Some(bytes_of(body, text)),
            (None, None, Some(text)) => Some(base64("value_base64", &text)?),
            (None, None, None) => {
                return Err(
                    "the record has no value: give value, value_text or value_base64; \
                            \"value\": null is a tombstone"
                        .to_owned(),
                );
            }
            _ => return Err("give one of value, value_text and value_base64".to_owned()),
        };
        Ok(NewRecord {
            key,
            value,
            headers: headers(self.headers.unwrap_or_default())?,
            timestamp_ms: self.timestamp.as_ref().map(timestamp).transpose()?,
            partition: self.partition.map(Partition),
        })
    }
}

/// Text as bytes: a slice of the body where it stands there, else a copy.
pub(super) fn bytes_of(body: &Bytes, text: Cow<'_, str>) -> Bytes {
    match text {
        Cow::Borrowed(text) if stands_in(body, text.as_bytes()) => body.slice_ref(text.as_bytes()),
        text => Bytes::from(text.into_owned()),
    }
}

fn stands_in(body: &Bytes, part: &[u8]) -> bool {
    let (body, part) = (body.as_ptr_range(), part.as_ptr_range());
    body.start <= part.start && part.end <= body.end
}

pub(super) fn base64(field: &str, text: &str) -> Result<Bytes, String> {
    encoding::from_base64(text)
        .map(Bytes::from)
        .map_err(|error| format!("{field} is not base64: {error}"))
}

fn timestamp(value: &Value) -> Result<i64, String> {
    let millis = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text
            .parse::<jiff::Timestamp>()
            .ok()
            .map(jiff::Timestamp::as_millisecond),
        _ => None,
    };
    millis.filter(|millis| *millis >= 0).ok_or_else(|| {
        format!(
            "{value} is no timestamp: write milliseconds since 1970, or RFC 3339 as in \
             \"2013-01-01T14:04:00Z\""
        )
    })
}

fn headers(given: Map<String, Value>) -> Result<Vec<Header>, String> {
    let mut headers = Vec::with_capacity(given.len());
    for (name, value) in given {
        if name.starts_with(HOST_HEADERS_PREFIX) && name != COMMAND_HEADER {
            return Err(format!(
                "header '{name}': names that begin with {HOST_HEADERS_PREFIX} are the host's"
            ));
        }
        match value {
            Value::Array(values) => {
                for value in values {
                    headers.push((name.clone().into(), header(&name, value)?));
                }
            }
            value => {
                let value = header(&name, value)?;
                headers.push((name.into(), value));
            }
        }
    }
    Ok(headers)
}

fn header(name: &str, value: Value) -> Result<Option<Bytes>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(Bytes::from(text))),
        Value::Object(object) if object.len() == 1 && object.contains_key("base64") => {
            let text = object["base64"].as_str().unwrap_or_default();
            base64(&format!("header '{name}'"), text).map(Some)
        }
        _ => Err(format!(
            "header '{name}' is not text: write a string, null or {{\"base64\": …}}"
        )),
    }
}

/// A record that was read.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Record)]
pub(super) struct RecordOut<'a> {
    /// Its partition.
    partition: u32,
    /// Its number in the partition.
    offset: u64,
    /// Milliseconds since the Unix epoch.
    timestamp: i64,
    /// The key, if it is text; null = the record has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    key: Option<Option<&'a str>>,
    /// The key in base64url, if it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// The value, if it is JSON without white space; null = tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    value: Option<&'a RawValue>,
    /// The value, if it is other text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_text: Option<&'a str>,
    /// The value in base64url, if it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// Name → text, null, `{"base64": …}`, or a list of these where a name repeats.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = std::collections::HashMap<String, serde_json::Value>)]
    headers: Map<String, Value>,
}

impl<'a> RecordOut<'a> {
    /// A record as JSON.
    pub(super) fn of(partition: Partition, record: RecordRef<'a>) -> Self {
        let mut out = Self {
            partition: partition.0,
            offset: record.offset.0,
            timestamp: record.timestamp_ms,
            key: None,
            key_base64: None,
            value: None,
            value_text: None,
            value_base64: None,
            headers: Map::new(),
        };
        match record.key.map(|key| (key, std::str::from_utf8(key))) {
            None => out.key = Some(None),
            Some((_, Ok(text))) => out.key = Some(Some(text)),
            Some((bytes, Err(_))) => out.key_base64 = Some(encoding::to_base64(bytes)),
        }
        match record.value {
            None => out.value = Some(RawValue::NULL),
            Some(bytes) => match (as_value(bytes), std::str::from_utf8(bytes)) {
                (Some(json), _) => out.value = Some(json),
                (None, Ok(text)) => out.value_text = Some(text),
                (None, Err(_)) => out.value_base64 = Some(encoding::to_base64(bytes)),
            },
        }
        for (name, value) in record.headers() {
            push_header(&mut out.headers, name, value);
        }
        out
    }

    /// The same without its key, where all have the same.
    pub(super) fn without_key(mut self) -> Self {
        (self.key, self.key_base64) = (None, None);
        self
    }

    /// The JSON itself.
    pub(super) fn to_raw(&self) -> Box<RawValue> {
        serde_json::value::to_raw_value(self).expect("texts, numbers and JSON serialise")
    }
}

/// JSON that reads back as the same bytes; `null` would read back as a tombstone.
fn as_value(bytes: &[u8]) -> Option<&RawValue> {
    encoding::as_json(bytes).filter(|json| json.get() != "null")
}

fn push_header(headers: &mut Map<String, Value>, name: &str, value: Option<&[u8]>) {
    let value = value.map_or(Value::Null, |bytes| match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({"base64": encoding::to_base64(bytes)}),
    });
    match headers.get_mut(name) {
        None => {
            headers.insert(name.to_owned(), value);
        }
        Some(Value::Array(values)) => values.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::RecordBatch;
    use crate::types::Offset;

    fn read(text: &str) -> Result<NewRecord, RecordFault> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        parse(&body, std::str::from_utf8(&body).unwrap(), 1000)
    }

    #[test]
    fn every_form_of_key_and_value_is_taken() {
        let record = read(r#"{"key":"N1","value":{"a": 1.50, "b":"x y"}}"#).unwrap();
        assert_eq!(record.key.as_deref(), Some(&b"N1"[..]));
        assert_eq!(
            record.value.as_deref(),
            Some(&br#"{"a":1.50,"b":"x y"}"#[..])
        );
        let record = read(r#"{"key_base64":"AAE=","value_text":"a\nb","partition":3}"#).unwrap();
        assert_eq!(record.key.as_deref(), Some(&[0_u8, 1][..]));
        assert_eq!(record.value.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(record.partition, Some(Partition(3)));
        let record = read(r#"{"key":"N1","value":null,"timestamp":5}"#).unwrap();
        assert_eq!((record.value, record.timestamp_ms), (None, Some(5)));
        let record = read(r#"{"value_base64":"","timestamp":"1970-01-01T00:00:01Z"}"#).unwrap();
        assert_eq!(
            (record.key, record.value.as_deref()),
            (None, Some(&b""[..]))
        );
        assert_eq!(record.timestamp_ms, Some(1000));
        let record =
            read(r#"{"key":"k","value":1,"headers":{"b":"x","a":null,"c":["y",{"base64":"_w"}]}}"#);
        let names: Vec<_> = record
            .unwrap()
            .headers
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["b", "a", "c", "c"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, words) in [
            ("{\"key\":\"a\"}", "no value"),
            (r#"{"key":"a","value":1,"valu":2}"#, "unknown field `valu`"),
            (
                r#"{"key":"a","key_base64":"AA","value":1}"#,
                "one of key and key_base64",
            ),
            (r#"{"value":1,"value_text":"x"}"#, "one of value"),
            (
                r#"{"key":"a","key":"b","value":1}"#,
                "duplicate field `key`",
            ),
            (r#"{"key":1,"value":1}"#, "expected a string"),
            (r#"{"key":"a","value":}"#, "column"),
            (r#"{"key":"a","value":1} x"#, "trailing characters"),
            (r#"{"key_base64":"?","value":1}"#, "not base64"),
            (r#"{"value":1,"timestamp":"yesterday"}"#, "RFC 3339"),
            (r#"{"value":1,"timestamp":-5}"#, "no timestamp"),
            (r#"{"value":1,"headers":{"a":1}}"#, "header 'a'"),
            (
                r#"{"value":1,"headers":{"foldhost-cause":"x"}}"#,
                "the host's",
            ),
            (r#"{"value":1,"partition":-1}"#, "invalid value"),
            ("[1]", "column"),
            ("", "EOF"),
        ] {
            let fault = read(text).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
        let large = format!(r#"{{"key":"a","value":"{}"}}"#, "x".repeat(1000));
        assert!(matches!(
            read(&large),
            Err(RecordFault::TooLarge {
                bytes: 1003,
                bytes_max: 1000
            })
        ));
    }

    #[test]
    fn a_value_that_stands_in_the_body_is_not_copied() {
        let body = Bytes::from_static(br#"{"key":"a","value":{"b":1}}"#);
        let record = parse(&body, std::str::from_utf8(&body).unwrap(), 1000).unwrap();
        assert!(
            body.as_ptr_range()
                .contains(&record.value.unwrap().as_ptr())
        );
    }

    #[test]
    fn what_was_read_can_be_appended_as_it_is() {
        let headers = [
            ("a", Some(&b"1"[..])),
            ("a", None),
            ("b", Some(&b"\xff"[..])),
        ];
        let values: [Option<&[u8]>; 7] = [
            None,
            Some(b"null"),
            Some(b"{\"a\":1.0}"),
            Some(b"{\"a\": 1}"),
            Some(b"plain"),
            Some(b"\xff\x00"),
            Some(b""),
        ];
        for (key, value) in [None, Some(&b"k"[..]), Some(b"\xff")]
            .into_iter()
            .cycle()
            .zip(values)
        {
            let mut batch = RecordBatch::new();
            batch.push(Offset(7), 5, key, value, headers);
            let mut json = serde_json::to_value(RecordOut::of(Partition(1), batch.get(0))).unwrap();
            json.as_object_mut().unwrap().remove("offset");
            let text = json.to_string();
            let record = read(&text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
            assert_eq!(
                (record.key.as_deref(), record.value.as_deref()),
                (key, value),
                "{text}"
            );
            assert_eq!(record.headers.len(), 3);
            assert_eq!(
                (record.timestamp_ms, record.partition),
                (Some(5), Some(Partition(1)))
            );
        }
    }
}
