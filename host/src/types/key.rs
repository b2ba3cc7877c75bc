//! How the keys of a plugin are written in URLs and JSON (`key = "utf8" | "bytes" | …`).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

/// How a plugin's key bytes are written as text. Integers are big-endian, as Kafka's serializers
/// write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyFormat {
    /// Text; the default.
    #[default]
    Utf8,
    /// Anything; written as unpadded base64url.
    Bytes,
    /// A signed 32-bit integer.
    I32,
    /// A signed 64-bit integer.
    I64,
    /// 16 bytes, written as 8-4-4-4-12 hexadecimal digits.
    Uuid,
}

/// A key whose text does not fit the plugin's key format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a key of this plugin: its keys are {expected}")]
pub struct InvalidKey {
    text: String,
    expected: &'static str,
}

impl KeyFormat {
    /// Key bytes of a key written as text.
    ///
    /// # Errors
    /// [`InvalidKey`] names the format that the plugin's keys have.
    pub fn parse(self, text: &str) -> Result<Bytes, InvalidKey> {
        let invalid = || InvalidKey {
            text: text.to_owned(),
            expected: self.expected(),
        };
        match self {
            Self::Utf8 => Ok(Bytes::copy_from_slice(text.as_bytes())),
            Self::Bytes => URL_SAFE_NO_PAD
                .decode(text)
                .map(Bytes::from)
                .map_err(|_| invalid()),
            Self::I32 => text
                .parse::<i32>()
                .map(|number| Bytes::copy_from_slice(&number.to_be_bytes()))
                .map_err(|_| invalid()),
            Self::I64 => text
                .parse::<i64>()
                .map(|number| Bytes::copy_from_slice(&number.to_be_bytes()))
                .map_err(|_| invalid()),
            Self::Uuid => uuid::Uuid::try_parse(text)
                .map(|id| Bytes::copy_from_slice(id.as_bytes()))
                .map_err(|_| invalid()),
        }
    }

    /// Text of key bytes; `None` when the bytes are no key of this format (then use base64).
    #[must_use]
    pub fn format(self, key: &[u8]) -> Option<String> {
        match self {
            Self::Utf8 => std::str::from_utf8(key).ok().map(str::to_owned),
            Self::Bytes => Some(URL_SAFE_NO_PAD.encode(key)),
            Self::I32 => Some(i32::from_be_bytes(key.try_into().ok()?).to_string()),
            Self::I64 => Some(i64::from_be_bytes(key.try_into().ok()?).to_string()),
            Self::Uuid => Some(uuid::Uuid::from_slice(key).ok()?.to_string()),
        }
    }

    /// Text of key bytes for messages: the format's, else hexadecimal digits after `0x`.
    #[must_use]
    pub fn display(self, key: &[u8]) -> String {
        self.format(key).unwrap_or_else(|| {
            key.iter()
                .take(64)
                .fold(String::from("0x"), |mut text, byte| {
                    let _ = write!(text, "{byte:02x}");
                    text
                })
        })
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Utf8 => "text (utf8)",
            Self::Bytes => "bytes, written as base64url without padding",
            Self::I32 => "32-bit integers (i32)",
            Self::I64 => "64-bit integers (i64)",
            Self::Uuid => "UUIDs (uuid)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_reads_back_what_it_writes() {
        for (format, text) in [
            (KeyFormat::Utf8, "N14228"),
            (KeyFormat::Bytes, "AP8"),
            (KeyFormat::I32, "-7"),
            (KeyFormat::I64, "9007199254740993"),
            (KeyFormat::Uuid, "67e55044-10b1-426f-9247-bb680e5fe0c8"),
        ] {
            let key = format.parse(text).unwrap();
            assert_eq!(format.format(&key).as_deref(), Some(text));
        }
        assert_eq!(KeyFormat::I32.parse("1").unwrap().as_ref(), [0, 0, 0, 1]);
        for (format, bad) in [
            (KeyFormat::Bytes, "a=b"),
            (KeyFormat::I32, "x"),
            (KeyFormat::I64, "1.5"),
            (KeyFormat::Uuid, "1"),
        ] {
            assert!(format.parse(bad).is_err(), "{bad}");
        }
    }
}
