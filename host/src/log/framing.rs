//! What lies around the values of a topic, and taking it off. Pure; called for every record of an
//! input before a plugin sees it, and wherever else a value is read for what it says.
//!
//! The frame of a schema registry
//! (<https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format>):
//! the byte 0, the schema's id as four bytes, big-endian, and for protobuf the path to the message in its
//! `.proto` file; then the value. The path is its length and that many indexes, as zigzag varints; the path
//! to the first message, `[0]`, is written as the single byte 0.
//!
//! Nothing in the frame says which of the three formats follows. Readers elsewhere ask the registry for the
//! type of the schema, or are told the format; here there is no registry, so the input's `framing` tells.

use crate::limits;

/// Header that carries the id of a value's schema once its frame is taken off: a decimal number as text.
pub const SCHEMA_ID_HEADER: &str = "foldhost-schema-id";

/// What lies around the values of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// Nothing.
    #[default]
    None,
    /// The frame of a schema registry around protobuf: magic byte, schema id, message indexes.
    Confluent,
    /// The frame of a schema registry around Avro: magic byte, schema id.
    ConfluentAvro,
    /// The frame of a schema registry around JSON: magic byte, schema id.
    ConfluentJson,
}

/// A value without its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unframed<'a> {
    /// Id of its schema in the registry; `None` without a frame.
    pub schema_id: Option<u32>,
    /// The value itself.
    pub value: &'a [u8],
}

/// Why a value is not framed as its input says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// It ends before the frame does.
    #[error(
        "the value has {0} bytes, too few for the frame of a schema registry: have it written with the \
         registry's serializer, or leave framing out of this input in plugin.toml"
    )]
    Short(usize),
    /// It begins with another byte than 0.
    #[error(
        "the value begins with byte {0:#04x}, not with the 0 of a schema registry's frame: have it \
         written with the registry's serializer, or leave framing out of this input in plugin.toml"
    )]
    Magic(u8),
    /// What follows the schema's id is no path to a message.
    #[error(
        "the value names schema {0}, but no protobuf message behind that: where the values are Avro or \
         JSON, write framing = \"confluent-avro\" or \"confluent-json\" in plugin.toml"
    )]
    Indexes(u32),
}

impl BadFrame {
    /// Its stable code.
    pub const CODE: &str = "bad-frame";
}

impl Framing {
    /// Takes the frame off a value. (A tombstone has none.)
    ///
    /// # Errors
    /// [`BadFrame`]: the value is not framed so.
    ///
    /// ```
    /// use foldhost::log::{Framing, Unframed};
    ///
    /// let framed = [0, 0, 0, 0, 7, b'{', b'}'];
    /// let expected = Unframed { schema_id: Some(7), value: b"{}" };
    /// assert_eq!(Framing::ConfluentJson.strip(&framed), Ok(expected));
    /// assert_eq!(Framing::None.strip(b"{}"), Ok(Unframed { schema_id: None, value: b"{}" }));
    /// assert!(Framing::ConfluentJson.strip(b"{}").is_err());
    /// ```
    pub fn strip(self, value: &[u8]) -> Result<Unframed<'_>, BadFrame> {
        let has_indexes = match self {
            Self::None => {
                return Ok(Unframed {
                    schema_id: None,
                    value,
                });
            }
            Self::Confluent => true,
            Self::ConfluentAvro | Self::ConfluentJson => false,
        };
        if let Some(&magic) = value.first().filter(|&&magic| magic != 0) {
            return Err(BadFrame::Magic(magic));
        }
        let (head, rest) = value
            .split_first_chunk::<5>()
            .ok_or(BadFrame::Short(value.len()))?;
        let [_, id @ ..] = *head;
        let schema_id = u32::from_be_bytes(id);
        let value = if has_indexes {
            skip_indexes(rest).ok_or(BadFrame::Indexes(schema_id))?
        } else {
            rest
        };
        Ok(Unframed {
            schema_id: Some(schema_id),
            value,
        })
    }
}

/// What follows the path to a message.
fn skip_indexes(from: &[u8]) -> Option<&[u8]> {
    let (count, mut rest) = varint(from)?;
    // Length 0 stands for the path [0].
    let count = usize::try_from(count).ok()?;
    if count > limits::FRAME_INDEXES_MAX {
        return None;
    }
    for _ in 0..count {
        let (index, behind) = varint(rest)?;
        if index < 0 {
            return None;
        }
        rest = behind;
    }
    Some(rest)
}

/// A zigzag varint of 32 bits, and what follows it.
fn varint(from: &[u8]) -> Option<(i32, &[u8])> {
    let mut bits: u64 = 0;
    for (index, &byte) in from.iter().take(5).enumerate() {
        bits |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let bits = u32::try_from(bits).ok()?;
            let number = (bits >> 1) as i32 ^ -((bits & 1) as i32);
            return Some((number, &from[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frame by hand: magic byte, schema 0x01020304, then what is given.
    fn framed(rest: &[u8]) -> Vec<u8> {
        [&[0, 1, 2, 3, 4], rest].concat()
    }

    #[test]
    fn a_value_without_a_frame_stays_as_it_is() {
        for value in [&b""[..], b"\0\0\0\0\x01x"] {
            let expected = Unframed {
                schema_id: None,
                value,
            };
            assert_eq!(Framing::None.strip(value), Ok(expected));
        }
    }

    #[test]
    fn avro_and_json_follow_the_schema_id_at_once() {
        for framing in [Framing::ConfluentAvro, Framing::ConfluentJson] {
            for value in [&b"{}"[..], b"\0", b""] {
                let expected = Unframed {
                    schema_id: Some(0x0102_0304),
                    value,
                };
                assert_eq!(framing.strip(&framed(value)), Ok(expected), "{framing:?}");
            }
        }
        let largest = Framing::ConfluentAvro.strip(&[0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(largest.map(|it| it.schema_id), Ok(Some(u32::MAX)));
    }

    #[test]
    fn message_indexes_are_taken_off_protobuf() {
        for (path, indexes) in [
            ("[0], the short form", &[0][..]),
            ("[0], the long form", &[2, 0]),
            ("[1]", &[2, 2]),
            ("[1, 0], as in the documentation", &[4, 2, 0]),
            ("[2, 3, 1]", &[6, 4, 6, 2]),
            ("[64], of two bytes", &[2, 0x80, 1]),
        ] {
            // A field 1 of two bytes, an empty message, and one that looks like more indexes.
            for value in [&b"\x0a\x02hi"[..], b"", b"\0\0\0"] {
                let framed = framed(&[indexes, value].concat());
                let stripped = Framing::Confluent.strip(&framed);
                let expected = Unframed {
                    schema_id: Some(0x0102_0304),
                    value,
                };
                assert_eq!(stripped, Ok(expected), "{path}");
            }
        }
    }

    #[test]
    fn what_is_not_framed_says_what_to_do() {
        for framing in [
            Framing::Confluent,
            Framing::ConfluentAvro,
            Framing::ConfluentJson,
        ] {
            assert_eq!(framing.strip(b"{\"a\":1}"), Err(BadFrame::Magic(b'{')));
            for bytes in 0..5 {
                assert_eq!(framing.strip(&[0; 5][..bytes]), Err(BadFrame::Short(bytes)));
            }
        }
        let said = BadFrame::Magic(b'{').to_string();
        assert!(
            said.contains("0x7b") && said.contains("leave framing out"),
            "{said}"
        );
        assert!(BadFrame::Short(3).to_string().contains("3 bytes"));
    }

    #[test]
    fn what_is_no_path_to_a_message_is_refused() {
        for (what, rest) in [
            ("nothing at all", &[][..]),
            ("JSON", b"{}"),
            ("a JSON list", b"[1]"),
            ("a negative length", &[1]),
            ("one index too few", &[4, 0]),
            ("a negative index", &[2, 1]),
            ("[1] without zigzag, as old clients wrote it", &[1, 1]),
            ("a varint that does not end", &[0x80]),
            ("a varint of six bytes", &[0x80, 0x80, 0x80, 0x80, 0x80, 0]),
            ("a varint of 35 bits", &[0xff, 0xff, 0xff, 0xff, 0x7f]),
            ("a path that is too deep", &[66; 80]),
        ] {
            let framed = framed(rest);
            let refused = Framing::Confluent.strip(&framed);
            assert_eq!(refused, Err(BadFrame::Indexes(0x0102_0304)), "{what}");
        }
        let said = BadFrame::Indexes(9).to_string();
        assert!(
            said.contains("schema 9") && said.contains("confluent-json"),
            "{said}"
        );
    }
}
