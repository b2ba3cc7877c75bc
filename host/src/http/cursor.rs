//! Where a listing of keys goes on: opaque to clients, one line of base64url. Used by `keys`.
//!
//! Format: version byte 1, partition as 32 bits big-endian, then the bytes of the last key that was
//! listed. It names keys, not positions, so it survives commits, restarts and rebuilds.

use bytes::Bytes;

use super::encoding;
use super::params;
use crate::error::Problem;
use crate::types::Partition;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 5;

/// The place behind one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Partition of the key.
    pub(super) partition: Partition,
    /// The last key that was listed.
    pub(super) after: Bytes,
}

impl Cursor {
    /// As clients see it.
    pub(super) fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.after.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.partition.0.to_be_bytes());
        bytes.extend_from_slice(&self.after);
        encoding::to_base64(&bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// `bad-parameter` for anything else.
    pub(super) fn decode(text: &str) -> Result<Self, Problem> {
        let bytes = encoding::from_base64(text)
            .ok()
            .filter(|bytes| bytes.first() == Some(&VERSION));
        let head = bytes
            .as_deref()
            .and_then(|bytes| bytes.get(1..HEAD_BYTES)?.try_into().ok());
        match (bytes, head) {
            (Some(bytes), Some(head)) => Ok(Self {
                partition: Partition(u32::from_be_bytes(head)),
                after: Bytes::from(bytes).slice(HEAD_BYTES..),
            }),
            _ => Err(params::bad(
                "_cursor",
                "the cursor is not one of this host's: take `next` of the page before as it is, or leave \
                 _cursor out to begin at the first key",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        for after in [&b""[..], b"N14228", b"\x00\xff/"] {
            let cursor = Cursor {
                partition: Partition(3),
                after: Bytes::copy_from_slice(after),
            };
            assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
        }
        for bad in ["", "x", "AAAA", "AgAAAAA", "AQAA", "not base64!"] {
            assert!(Cursor::decode(bad).is_err(), "{bad}");
        }
    }
}
