//! [`Key`] and [`FromKey`]: how the keys of records are written and read.
//!
//! Used for what a plugin names itself (the keys of its outputs, the keys of `route`), for the key of
//! an event, and by the test driver. Invariant: the formats are those of the manifest's `key`, and of
//! Kafka's serializers.

use crate::CodecError;

/// Something that can be the key of a record.
///
/// | `key` in `plugin.toml` | types | written as |
/// |---|---|---|
/// | `utf8` | `str`, `String` | its UTF-8 bytes, as Kafka's `StringSerializer` |
/// | `bytes` | `[u8]`, `Vec<u8>`, `[u8; N]` | as it is |
/// | `i32`, `i64` | `i32`, `i64` | 4 or 8 bytes, big-endian, as `IntegerSerializer` and `LongSerializer` |
/// | `uuid` | `[u8; 16]` (of the crate `uuid`: `id.as_bytes()`) | 16 bytes |
///
/// References to them are keys too. For any other format, such as a protobuf message, implement it.
///
/// ```
/// use foldhost_sdk::{FromKey, Key};
///
/// assert_eq!("N14228".to_key(), b"N14228");
/// assert_eq!(7_i64.to_key(), [0, 0, 0, 0, 0, 0, 0, 7]);
/// assert_eq!(i32::from_key(&(-2_i32).to_key()).unwrap(), -2);
/// ```
pub trait Key {
    /// Appends the key to `out`, and changes nothing that is already there. Equal keys must give equal
    /// bytes.
    fn write(&self, out: &mut Vec<u8>);

    /// The key alone, in a vector of its own.
    fn to_key(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

/// Something that the key of a record can be read as; see [`Event::key_as`](crate::Event::key_as).
/// The formats are those of [`Key`].
pub trait FromKey<'a>: Sized {
    /// Reads a key from all of `bytes`.
    ///
    /// # Errors
    /// The bytes are no key of this type; a sentence that says what such a key is.
    fn from_key(bytes: &'a [u8]) -> Result<Self, CodecError>;
}

impl<K: Key + ?Sized> Key for &K {
    fn write(&self, out: &mut Vec<u8>) {
        (**self).write(out);
    }
}

/// Keys whose bytes are there already.
macro_rules! bytes {
    ($($type:ty),*) => { $(
        impl Key for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.as_ref());
            }
        }
    )* };
}

bytes!(str, String, [u8], Vec<u8>);

impl<const N: usize> Key for [u8; N] {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

/// Integers as Kafka's serializers write them.
macro_rules! integers {
    ($($type:ty),*) => { $(
        impl Key for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
        }

        impl FromKey<'_> for $type {
            fn from_key(bytes: &[u8]) -> Result<Self, CodecError> {
                <[u8; size_of::<$type>()]>::from_key(bytes).map(<$type>::from_be_bytes)
            }
        }
    )* };
}

integers!(i32, i64);

impl<'a> FromKey<'a> for &'a [u8] {
    fn from_key(bytes: &'a [u8]) -> Result<Self, CodecError> {
        Ok(bytes)
    }
}

impl<'a> FromKey<'a> for &'a str {
    fn from_key(bytes: &'a [u8]) -> Result<Self, CodecError> {
        std::str::from_utf8(bytes).map_err(|_| CodecError::new("it is not UTF-8"))
    }
}

impl FromKey<'_> for String {
    fn from_key(bytes: &[u8]) -> Result<Self, CodecError> {
        <&str>::from_key(bytes).map(str::to_owned)
    }
}

impl<const N: usize> FromKey<'_> for [u8; N] {
    fn from_key(bytes: &[u8]) -> Result<Self, CodecError> {
        bytes
            .try_into()
            .map_err(|_| CodecError::new(format!("it has {} bytes, not {N}", bytes.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back<K>(key: K, bytes: &[u8])
    where
        K: Key + for<'a> FromKey<'a> + PartialEq + std::fmt::Debug,
    {
        assert_eq!(key.to_key(), bytes);
        assert_eq!(<&K as Key>::to_key(&&key), bytes);
        assert_eq!(K::from_key(bytes), Ok(key));
    }

    #[test]
    fn keys_are_written_as_kafkas_serializers_do() {
        read_back("ü".to_owned(), b"\xc3\xbc");
        read_back(-2_i32, b"\xff\xff\xff\xfe");
        read_back(i64::MIN, b"\x80\0\0\0\0\0\0\0");
        read_back([7_u8; 16], &[7; 16]);
    }

    #[test]
    fn what_is_no_key_of_the_type_is_refused() {
        let seven = [0_u8; 7];
        assert_eq!(
            i64::from_key(&seven).unwrap_err().to_string(),
            "it has 7 bytes, not 8"
        );
        assert!(<[u8; 16]>::from_key(&seven).is_err());
        assert!(<&str>::from_key(b"\xff").is_err());
    }
}
