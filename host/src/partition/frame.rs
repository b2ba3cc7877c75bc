//! What of a record a plugin gets to see: its value without the frame of its input, and its headers, with
//! the schema's id in place of the frame and without the host's own marks. Used by the step and by the
//! routes of the merge stage.
//!
//! Invariant: only what goes into a plugin is unframed; copies and dead letters are as the record lies in
//! its input.

use super::merged;
use crate::log::{BadFrame, Framing, RecordRef, SCHEMA_ID_HEADER};

/// A record's content as a plugin sees it.
#[derive(Debug)]
pub(super) struct Content<'a> {
    /// Its value; `None` = tombstone.
    pub(super) value: Option<&'a [u8]>,
    record: RecordRef<'a>,
    /// The id in the frame, as it stands in the header; `None` where nothing is framed.
    schema_id: Option<String>,
}

impl<'a> Content<'a> {
    /// Takes the frame off a record of an input.
    ///
    /// # Errors
    /// Code and reason, if it is not framed as the input says.
    pub(super) fn of(
        record: RecordRef<'a>,
        framing: Framing,
    ) -> Result<Self, (&'static str, String)> {
        let unframed = record.value.map(|value| framing.strip(value)).transpose();
        let unframed = unframed.map_err(|bad| (BadFrame::CODE, bad.to_string()))?;
        let schema_id = unframed.and_then(|it| it.schema_id);
        Ok(Self {
            value: unframed.map(|it| it.value),
            record,
            schema_id: schema_id.map(|id| id.to_string()),
        })
    }

    /// Its headers.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        // Where the host tells the id, a producer's header of that name would only confuse.
        let is_taken = |name: &str| self.schema_id.is_some() && name == SCHEMA_ID_HEADER;
        let own = self.record.headers();
        let schema_id = self.schema_id.as_deref();
        own.filter(move |(name, _)| !merged::is_mark(name) && !is_taken(name))
            .chain(schema_id.map(|id| (SCHEMA_ID_HEADER, Some(id.as_bytes()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::RecordBatch;
    use crate::types::Offset;

    fn told(framing: Framing, value: Option<&[u8]>) -> (Option<Vec<u8>>, Vec<(String, String)>) {
        let mut batch = RecordBatch::new();
        let headers = [
            ("trace", Some(&b"7"[..])),
            (SCHEMA_ID_HEADER, Some(b"forged")),
        ];
        batch.push(Offset(0), 0, Some(b"key"), value, headers);
        let content = Content::of(batch.get(0), framing).unwrap();
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        let headers = content.headers();
        let headers = headers.map(|(name, value)| (name.to_owned(), text(value)));
        (content.value.map(<[u8]>::to_vec), headers.collect())
    }

    fn header(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_schema_of_a_framed_value_becomes_a_header() {
        let (value, headers) = told(Framing::Confluent, Some(&[0, 0, 0, 1, 0, 0, b'x']));
        assert_eq!(value.as_deref(), Some(&b"x"[..]));
        let expected = [header("trace", "7"), header(SCHEMA_ID_HEADER, "256")];
        assert_eq!(headers, expected);
    }

    #[test]
    fn what_has_no_frame_stays_as_it_is() {
        let own = [header("trace", "7"), header(SCHEMA_ID_HEADER, "forged")];
        let (value, headers) = told(Framing::Confluent, None);
        assert_eq!((value, &headers[..]), (None, &own[..]), "a tombstone");
        let (value, headers) = told(Framing::None, Some(b"\0\0\0\0\x07\0x"));
        assert_eq!(value.as_deref(), Some(&b"\0\0\0\0\x07\0x"[..]));
        assert_eq!(headers, own);
    }

    #[test]
    fn a_bad_frame_is_named() {
        let mut batch = RecordBatch::new();
        batch.push(Offset(0), 0, Some(b"key"), Some(b"{}"), []);
        let (code, reason) = Content::of(batch.get(0), Framing::Confluent).unwrap_err();
        assert_eq!(code, "bad-frame");
        assert!(reason.contains("0x7b"), "{reason}");
    }
}
