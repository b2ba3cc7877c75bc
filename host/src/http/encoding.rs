//! Bytes as JSON: base64 where they are no text, and JSON that stands inside other JSON as it is.
//! Called by `record_json`, `keys` and `views`.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use serde_json::value::RawValue;

/// Takes base64url with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Base64url without padding: what the host writes, so that it can stand in URLs as it is.
pub(super) fn to_base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Bytes of base64, in either alphabet, padded or not.
pub(super) fn from_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    if text.contains(['+', '/']) {
        LENIENT.decode(text.replace('+', "-").replace('/', "_"))
    } else {
        LENIENT.decode(text)
    }
}

/// Valid JSON without the white space around its tokens; everything else, digits of numbers and order
/// of members included, stays as it was written.
pub(super) fn compact(json: &str) -> Cow<'_, str> {
    if !has_space_between_tokens(json) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(|c: char| c == '"' || is_space(c)) {
        out.push_str(&rest[..at]);
        if rest.as_bytes()[at] == b'"' {
            let end = at + string_length(&rest.as_bytes()[at..]);
            out.push_str(&rest[at..end]);
            rest = &rest[end..];
        } else {
            rest = &rest[at + 1..];
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The JSON that `bytes` are, if they are that and nothing else, in a form that can stand in a line.
pub(super) fn as_json(bytes: &[u8]) -> Option<&RawValue> {
    let value: &RawValue = serde_json::from_slice(bytes).ok()?;
    (value.get().len() == bytes.len() && !has_space_between_tokens(value.get())).then_some(value)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn has_space_between_tokens(json: &str) -> bool {
    let bytes = json.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at += string_length(&bytes[at..]),
            b' ' | b'\t' | b'\n' | b'\r' => return true,
            _ => at += 1,
        }
    }
    false
}

/// Length of the JSON string at the start of `json`, quotes included.
fn string_length(json: &[u8]) -> usize {
    let mut at = 1;
    while at < json.len() {
        match json[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_compacted_and_otherwise_left_alone() {
        let json = "{ \"b\" : [ 1.10 ,\n 12345678901234567890 ],\t\"a \\\" b\": \"x  y\\\\\" }";
        assert_eq!(
            compact(json),
            "{\"b\":[1.10,12345678901234567890],\"a \\\" b\":\"x  y\\\\\"}"
        );
        assert!(matches!(compact("{\"a\":\"b c\"}"), Cow::Borrowed(_)));
        assert_eq!(compact(" \"ä ö\" "), "\"ä ö\"");
    }

    #[test]
    fn base64_is_taken_in_both_alphabets() {
        let bytes = [0xfb, 0xff, 0xfe, 0x01];
        assert_eq!(to_base64(&bytes), "-__-AQ");
        for text in ["-__-AQ", "-__-AQ==", "+//+AQ==", "+//+AQ"] {
            assert_eq!(from_base64(text).unwrap(), bytes, "{text}");
        }
        assert!(from_base64("a").is_err() && from_base64("a b").is_err());
    }

    #[test]
    fn only_compact_json_stands_as_it_is() {
        assert_eq!(as_json(b"{\"a\":1}").unwrap().get(), "{\"a\":1}");
        for other in [&b"{\"a\": 1}"[..], b" 1", b"1 2", b"{", b"", b"\xff"] {
            assert!(as_json(other).is_none(), "{other:?}");
        }
    }
}
