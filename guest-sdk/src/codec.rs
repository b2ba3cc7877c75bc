//! [`Codec`]: how events, states and outputs become bytes. Protobuf by default, JSON and raw bytes on
//! request.
//!
//! Called by the fold and query glue and by the test driver. Invariant: `decode(encode(x))` is `x`,
//! and equal values encode to equal bytes; the host compares states by their bytes.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A type that can be written as bytes and read again: an event, a state, or what a republisher emits.
///
/// Every protobuf message (`#[derive(prost::Message)]`) is one. [`Json`] makes one of any serde type,
/// [`Raw`] takes the bytes as they are, and any other format is an `impl` of this trait.
///
/// **Determinism.** Equal values must give equal bytes, on every machine and in every run. Keep maps
/// in `BTreeMap` (prost: `#[prost(btree_map = "string, int64", tag = "1")]`): a `HashMap` iterates in
/// an order that depends on memory addresses. [`Driver::assert_deterministic`] finds such mistakes.
///
/// **Cost.** A state is read and written once for every batch in which its key has events. Large bytes in a
/// message are cheaper as `#[prost(bytes = "bytes", tag = "1")]` (a `prost::bytes::Bytes`, read with one copy)
/// than as `bytes = "vec"` (two); a codec of one's own, like the one below, costs what it copies. With states of
/// 100 bytes this was a sixth of all that an event costs the host.
///
/// [`Driver::assert_deterministic`]: crate::testing::Driver::assert_deterministic
///
/// ```
/// use foldhost_sdk::{Codec, CodecError};
///
/// /// A count as eight big-endian bytes.
/// #[derive(Debug, PartialEq)]
/// struct Count(u64);
///
/// impl Codec for Count {
///     fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
///         let bytes = bytes.try_into().map_err(|_| CodecError::new("a count has eight bytes"))?;
///         Ok(Count(u64::from_be_bytes(bytes)))
///     }
///     fn encode(&self, out: &mut Vec<u8>) {
///         out.extend_from_slice(&self.0.to_be_bytes());
///     }
/// }
///
/// assert_eq!(Count::decode(&Count(7).to_bytes()).unwrap(), Count(7));
/// ```
pub trait Codec: Sized {
    /// Whether this is [`NoState`](crate::NoState): the plugin keeps nothing, so no fold is to be exported.
    #[doc(hidden)]
    const IS_NOTHING: bool = false;

    /// Reads a value from all of `bytes`.
    ///
    /// # Errors
    /// The bytes are not a value of this type. For an event that is a rejection (`bad-event`), for a
    /// state a trap: the host gives back only what this plugin, or one with the same `state-schema`,
    /// has written.
    fn decode(bytes: &[u8]) -> Result<Self, CodecError>;

    /// Appends the value to `out`, and changes nothing that is already there.
    fn encode(&self, out: &mut Vec<u8>);

    /// The value alone, in a vector of its own.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// Why bytes could not be read as a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecError(String);

impl CodecError {
    /// An error with a sentence for people.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}

impl<M: prost::Message + Default> Codec for M {
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        M::decode(bytes).map_err(CodecError::new)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        M::encode(self, out).expect("a vector grows as far as a message needs");
    }
}

/// A serde type that is written as JSON.
///
/// Fields are reached through the wrapper: `state.count` on a `Json<Tally>` works. For values of any
/// shape use `Json<serde_json::Value>`, or `Json<Box<serde_json::value::RawValue>>` to keep the text
/// exactly as it came (numbers of any size, order of fields).
///
/// ```
/// use foldhost_sdk::{Codec, Json};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Tally { count: u64 }
///
/// let tally = Json::<Tally>::decode(br#"{"count":3}"#).unwrap();
/// assert_eq!(tally.count, 3);
/// assert_eq!(tally.to_bytes(), br#"{"count":3}"#);
/// assert!(Json::<Tally>::decode(b"{}").is_err());
/// ```
///
/// Inside other serde types, such as a query's answer, it is written as its content.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned> Codec for Json<T> {
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        serde_json::from_slice(bytes)
            .map(Json)
            .map_err(CodecError::new)
    }

    /// # Panics
    /// The type cannot be written as JSON (a map whose keys are no strings, a `Serialize` of one's
    /// own that fails). In a plugin this is a trap.
    fn encode(&self, out: &mut Vec<u8>) {
        if let Err(error) = serde_json::to_writer(out, &self.0) {
            panic!("this type cannot be written as JSON, use another codec: {error}");
        }
    }
}

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Json<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Bytes as they are: any value is one, and decoding never fails.
///
/// ```
/// use foldhost_sdk::{Codec, Raw};
///
/// assert_eq!(Raw::decode(b"\x00\xff").unwrap().0, b"\x00\xff");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Raw(pub Vec<u8>);

impl Codec for Raw {
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(Raw(bytes.to_vec()))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}
