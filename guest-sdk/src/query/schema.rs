//! What a type reads its arguments as, found by letting it deserialize from a probe: the JSON Schema
//! in `describe`, and the "what would be right" of a missing argument.
//!
//! Used by `Queries` and by the reader of arguments. Invariant: a schema never refuses what the
//! reader accepts; what cannot be found out is left out.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::arguments::{self, Error};
use crate::time::{SERDE_NAME, TimestampError};

/// What the text of an argument is read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Integer { min: i64, max: u64 },
    Number,
    Character,
    Text,
    Timestamp,
    Choice(&'static [&'static str]),
    List(Box<Kind>),
}

impl Kind {
    pub(crate) fn integer(min: impl TryInto<i64>, max: impl TryInto<u64>) -> Self {
        Kind::Integer {
            min: min.try_into().unwrap_or(0),
            max: max.try_into().unwrap_or(u64::MAX),
        }
    }

    /// JSON Schema, written by hand: `serde_json::Value` would add 20 KB to every plugin.
    fn write_schema(&self, out: &mut String) {
        match self {
            Kind::Bool => out.push_str(r#"{"type":"boolean"}"#),
            Kind::Integer { min, max } => out.push_str(&format!(
                r#"{{"type":"integer","minimum":{min},"maximum":{max}}}"#
            )),
            Kind::Number => out.push_str(r#"{"type":"number"}"#),
            Kind::Character => out.push_str(r#"{"type":"string","minLength":1,"maxLength":1}"#),
            Kind::Text => out.push_str(r#"{"type":"string"}"#),
            // Not `format: date-time`, since a date alone will do.
            Kind::Timestamp => {
                out.push_str(r#"{"type":"string","description":"#);
                write_text(TimestampError::EXPECTED, out);
                out.push('}');
            }
            Kind::Choice(names) => {
                out.push_str(r#"{"type":"string","enum":"#);
                write_list(names, out);
                out.push('}');
            }
            Kind::List(kind) => {
                out.push_str(r#"{"type":"array","items":"#);
                kind.write_schema(out);
                out.push('}');
            }
        }
    }

    /// A text that is read as this kind.
    fn sample(&self) -> String {
        match self {
            Kind::Bool => "true".to_owned(),
            Kind::Integer { .. } | Kind::Number | Kind::Character => "1".to_owned(),
            Kind::Text => "text".to_owned(),
            Kind::Timestamp => "2013-01-01".to_owned(),
            Kind::Choice(names) => names.first().copied().unwrap_or_default().to_owned(),
            Kind::List(kind) => kind.sample(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Bool => f.write_str("`true` or `false`"),
            Kind::Integer { min, max } => write!(f, "an integer from {min} to {max}"),
            Kind::Number => f.write_str("a number"),
            Kind::Character => f.write_str("one character"),
            Kind::Text => f.write_str("a text"),
            Kind::Timestamp => f.write_str(TimestampError::EXPECTED),
            Kind::Choice(names) => write!(f, "one of {}", list(names, "or")),
            Kind::List(kind) => write!(f, "{kind}, once or more"),
        }
    }
}

/// `` `a`, `b` and `c` ``.
pub(super) fn list(names: &[&str], last: &str) -> String {
    let mut text = String::new();
    for (position, name) in names.iter().enumerate() {
        match position {
            0 => {}
            _ if position + 1 == names.len() => text.push_str(&format!(" {last} ")),
            _ => text.push_str(", "),
        }
        text.push_str(&format!("`{name}`"));
    }
    text
}

/// JSON Schema of the arguments `A`, or empty if `A` is not a struct.
pub(super) fn of<A: DeserializeOwned>() -> String {
    let Some(fields) = fields::<A>() else {
        return String::new();
    };
    let mut schema = r#"{"type":"object","properties":{"#.to_owned();
    for (position, field) in fields.iter().enumerate() {
        if position > 0 {
            schema.push(',');
        }
        write_text(field, &mut schema);
        schema.push(':');
        match kind::<A>(field) {
            Some(kind) => kind.write_schema(&mut schema),
            None => schema.push_str("{}"),
        }
    }
    schema.push_str(r#"},"required":"#);
    write_list(&required::<A>(fields.len()), &mut schema);
    schema.push_str(r#","additionalProperties":false}"#);
    schema
}

fn write_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("a text can be written as JSON"));
}

fn write_list(texts: &[impl AsRef<str>], out: &mut String) {
    out.push('[');
    for (position, text) in texts.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        write_text(text.as_ref(), out);
    }
    out.push(']');
}

/// The fields of the struct `A`.
fn fields<A: DeserializeOwned>() -> Option<&'static [&'static str]> {
    let mut fields = None;
    let _ = A::deserialize(Probe(|found| fields = Some(found)));
    fields
}

/// What the field `name` of the struct `A` is read as, if that can be told.
pub(super) fn kind<A: DeserializeOwned>(name: &str) -> Option<Kind> {
    let mut kind = None;
    let _ = A::deserialize(FieldProbe {
        name: Some(name),
        kind: &mut kind,
    });
    kind
}

/// The fields that must be given: leave out all, and the reader names the first; give that one a
/// sample, and it names the next. Ends early where a sample does not do.
fn required<A: DeserializeOwned>(fields: usize) -> Vec<String> {
    let mut given: Vec<(String, String)> = Vec::new();
    for _ in 0..fields {
        match arguments::missing::<A>(&given) {
            Some(name) if given.iter().all(|(n, _)| *n != name) => {
                let sample = kind::<A>(&name).map(|kind| kind.sample());
                given.push((name, sample.unwrap_or_default()));
            }
            _ => break,
        }
    }
    given.into_iter().map(|(name, _)| name).collect()
}

/// Every probe ends with this: it has seen enough.
fn enough() -> Error {
    de::Error::custom("enough")
}

/// Tells the fields of a struct.
struct Probe<F>(F);

impl<'de, F: FnOnce(&'static [&'static str])> de::Deserializer<'de> for Probe<F> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(enough())
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        (self.0)(fields);
        Err(enough())
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// A map with one entry, whose value tells what it is read as.
struct FieldProbe<'p> {
    name: Option<&'p str>,
    kind: &'p mut Option<Kind>,
}

impl<'de> de::Deserializer<'de> for FieldProbe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> de::MapAccess<'de> for FieldProbe<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.name.take() else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(KindProbe(self.kind))
    }
}

/// Tells what kind of value is asked for.
struct KindProbe<'p>(&'p mut Option<Kind>);

impl KindProbe<'_> {
    fn found<T>(self, kind: Kind) -> Result<T, Error> {
        *self.0 = Some(kind);
        Err(enough())
    }
}

macro_rules! kinds {
    ($($method:ident $kind:expr),* $(,)?) => { $(
        fn $method<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
            self.found($kind)
        }
    )* };
}

impl<'de> de::Deserializer<'de> for KindProbe<'_> {
    type Error = Error;

    kinds! {
        deserialize_bool Kind::Bool,
        deserialize_i8 Kind::integer(i8::MIN, i8::MAX),
        deserialize_i16 Kind::integer(i16::MIN, i16::MAX),
        deserialize_i32 Kind::integer(i32::MIN, i32::MAX),
        deserialize_i64 Kind::integer(i64::MIN, i64::MAX),
        deserialize_u8 Kind::integer(u8::MIN, u8::MAX),
        deserialize_u16 Kind::integer(u16::MIN, u16::MAX),
        deserialize_u32 Kind::integer(u32::MIN, u32::MAX),
        deserialize_u64 Kind::integer(u64::MIN, u64::MAX),
        deserialize_f32 Kind::Number,
        deserialize_f64 Kind::Number,
        deserialize_char Kind::Character,
        deserialize_str Kind::Text,
        deserialize_string Kind::Text,
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(enough())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == SERDE_NAME {
            return self.found(Kind::Timestamp);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut item = None;
        let result = visitor.visit_seq(ItemProbe(&mut item));
        *self.0 = item.map(|kind| Kind::List(Box::new(kind)));
        result
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        self.found(Kind::Choice(variants))
    }

    forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

/// A list with one item, which tells what it is read as.
struct ItemProbe<'p>(&'p mut Option<Kind>);

impl<'de> de::SeqAccess<'de> for ItemProbe<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        seed.deserialize(KindProbe(self.0)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::Timestamp;

    #[derive(Deserialize)]
    #[allow(dead_code)] // only its shape matters
    #[serde(rename_all = "lowercase")]
    enum Order {
        Up,
        Down,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)] // only its shape matters
    struct Window {
        from: Timestamp,
        to: Option<Timestamp>,
        limit: i8,
        #[serde(default)]
        carriers: Vec<String>,
        order: Option<Order>,
    }

    #[test]
    fn a_struct_tells_its_schema() {
        let schema: Value = serde_json::from_str(&of::<Window>()).unwrap();
        let instant = json!({"type": "string", "description": TimestampError::EXPECTED});
        assert_eq!(
            schema,
            json!({
                "type": "object",
                "properties": {
                    "from": instant,
                    "to": instant,
                    "limit": {"type": "integer", "minimum": -128, "maximum": 127},
                    "carriers": {"type": "array", "items": {"type": "string"}},
                    "order": {"type": "string", "enum": ["up", "down"]},
                },
                "required": ["from", "limit"],
                "additionalProperties": false,
            })
        );
    }

    #[test]
    fn what_is_no_struct_has_none() {
        assert_eq!(of::<std::collections::BTreeMap<String, String>>(), "");
    }
}
