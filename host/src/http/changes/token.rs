//! Where a reader of a feed of changes is: opaque to clients, one line of base64url. Used by `changes`.
//!
//! Format: version byte 1, the protobuf message [`TokenV1`], and four bytes by which a token is known that was cut
//! or made up. Tokens outlive hosts: fields may be added, none may change its meaning without a new version.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Code, Problem};
use crate::http::encoding;
use crate::state::ChangeNumber;
use crate::types::{GenerationId, Partition, PluginName};

const VERSION: u8 = 1;
const CHECK_BYTES: usize = 4;

/// Where a reader is in all partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// Whose changes.
    pub(super) plugin: String,
    /// Which of its generations.
    pub(super) generation: GenerationId,
    /// The partition whose turn it is.
    pub(super) turn: Partition,
    /// Where it is in those that it has begun to read.
    pub(super) places: BTreeMap<Partition, Place>,
}

/// Where a reader is in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// It is being told all keys that there are, and comes to the changes behind that.
    Keys {
        /// The first change that it has not seen for sure.
        then: ChangeNumber,
        /// The last key that it was told.
        after: Bytes,
    },
    /// It reads the changes from this one on.
    Changes(ChangeNumber),
}

#[derive(Clone, PartialEq, Message)]
struct TokenV1 {
    #[prost(string, tag = "1")]
    plugin: String,
    #[prost(uint64, tag = "2")]
    generation: u64,
    #[prost(uint32, tag = "3")]
    turn: u32,
    #[prost(message, repeated, tag = "4")]
    places: Vec<PlaceV1>,
}

#[derive(Clone, PartialEq, Message)]
struct PlaceV1 {
    #[prost(uint32, tag = "1")]
    partition: u32,
    #[prost(uint64, tag = "2")]
    number: u64,
    /// Absent = the changes are read.
    #[prost(bytes = "bytes", optional, tag = "3")]
    after: Option<Bytes>,
}

impl Token {
    /// Before everything.
    pub(super) fn new(plugin: &PluginName, generation: GenerationId) -> Self {
        Self {
            plugin: plugin.to_string(),
            generation,
            turn: Partition(0),
            places: BTreeMap::new(),
        }
    }

    /// As clients see it.
    pub(super) fn encode(&self) -> String {
        let places = self.places.iter().map(|(partition, place)| {
            let (number, after) = match place {
                Place::Keys { then, after } => (then, Some(after.clone())),
                Place::Changes(number) => (number, None),
            };
            PlaceV1 {
                partition: partition.0,
                number: number.0,
                after,
            }
        });
        let message = TokenV1 {
            plugin: self.plugin.clone(),
            generation: self.generation.0,
            turn: self.turn.0,
            places: places.collect(),
        };
        let mut bytes = vec![VERSION];
        message
            .encode(&mut bytes)
            .expect("a growing buffer takes every message");
        bytes.extend(check(&bytes));
        encoding::to_base64(&bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote, for this plugin.
    ///
    /// # Errors
    /// `bad-changes-token` for anything else, and for a token of another plugin.
    pub(super) fn decode(text: &str, plugin: &PluginName) -> Result<Self, Problem> {
        let bad = |why: String| Problem::new(Code::BadChangesToken, why);
        let message = message(text).ok_or_else(|| {
            bad(
                "the token is not one of a foldhost: take `next` of a page, or the id of an event, as it is, \
                 or leave _since out to begin with all keys"
                    .to_owned(),
            )
        })?;
        if message.plugin != plugin.as_str() {
            return Err(bad(format!(
                "the token is of the changes of '{}', not of {plugin}: ask there, or leave _since out to \
                 begin with all keys",
                message.plugin
            ))
            .with("plugin", message.plugin));
        }
        let places = message.places.into_iter().map(|place| {
            let number = ChangeNumber(place.number);
            let of_it = match place.after {
                Some(after) => Place::Keys {
                    then: number,
                    after,
                },
                None => Place::Changes(number),
            };
            (Partition(place.partition), of_it)
        });
        Ok(Self {
            plugin: message.plugin,
            generation: GenerationId(message.generation),
            turn: Partition(message.turn),
            places: places.collect(),
        })
    }
}

fn message(text: &str) -> Option<TokenV1> {
    let bytes = encoding::from_base64(text).ok()?;
    let (told, told_check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_BYTES)?)?;
    if told.first() != Some(&VERSION) || told_check != check(told) {
        return None;
    }
    TokenV1::decode(&told[1..]).ok()
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let [a, b, c, d, ..] = xxh3_64(bytes).to_be_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(name: &str) -> PluginName {
        PluginName::new(name).unwrap()
    }

    fn token() -> Token {
        let keys = Place::Keys {
            then: ChangeNumber(7),
            after: Bytes::new(),
        };
        let changes = Place::Changes(ChangeNumber(1 << 60));
        Token {
            turn: Partition(1),
            places: [(Partition(0), keys), (Partition(3), changes)].into(),
            ..Token::new(&plugin("latest"), GenerationId(4))
        }
    }

    #[test]
    fn a_token_reads_back() {
        for token in [token(), Token::new(&plugin("latest"), GenerationId(1))] {
            let text = token.encode();
            assert_eq!(Token::decode(&text, &plugin("latest")).unwrap(), token);
        }
    }

    #[test]
    fn what_is_none_or_of_another_plugin_is_refused() {
        let text = token().encode();
        let other = Token::decode(&text, &plugin("counter")).unwrap_err();
        assert_eq!(other.code, Code::BadChangesToken);
        assert!(other.detail.contains("'latest', not of counter"), "{other}");
        let cut = &text[..text.len() - 2];
        let swapped: String = text.chars().rev().collect();
        for bad in ["", "x", "AQ", "not base64!", cut, &swapped] {
            let refused = Token::decode(bad, &plugin("latest")).unwrap_err();
            assert_eq!(refused.code, Code::BadChangesToken, "{bad}");
        }
    }
}
