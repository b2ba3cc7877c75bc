//! A JSON value as serde reads it, with errors that know where they are.
//!
//! Called by [`super::read`]. Invariant: the text is one JSON value, of right syntax, without space around
//! it; whatever fails has the path from this value in its name. Members are kept as text until their type
//! asks for them, so what is not asked for costs one look.

use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;

use crate::query::arguments::{Error, Fault};
use crate::query::schema::{Kind, list};

/// How deep values may lie in each other, as for `serde_json`.
const DEPTH_MAX: u8 = 128;
/// By this name, types of `serde_json` ask for a value as it was written.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

#[derive(Clone, Copy)]
pub(super) struct Value<'de> {
    text: &'de str,
    depth: u8,
}

impl<'de> Value<'de> {
    pub(super) fn new(text: &'de str) -> Self {
        Self { text, depth: 0 }
    }

    fn begins_with(self, first: char) -> bool {
        self.text.starts_with(first)
    }

    fn inner(self, raw: &'de RawValue) -> Result<Self, Error> {
        if self.depth == DEPTH_MAX {
            return Err(de::Error::custom("it lies too deep"));
        }
        Ok(Self {
            text: raw.get(),
            depth: self.depth + 1,
        })
    }

    fn wrong(self, expected: &dyn std::fmt::Display) -> Error {
        Error::wrong(expected, self.text)
    }

    fn text(self, expected: Kind) -> Result<String, Error> {
        if !self.begins_with('"') {
            return Err(self.wrong(&expected));
        }
        serde_json::from_str(self.text).map_err(|_| self.wrong(&"a text that is Unicode"))
    }

    fn parse<T: std::str::FromStr>(self, expected: Kind) -> Result<T, Error> {
        self.text.parse().map_err(|_| self.wrong(&expected))
    }

    fn members(self) -> Result<Members<'de>, Error> {
        if !self.begins_with('{') {
            return Err(self.wrong(&Kind::Object));
        }
        let entries: Entries<'de> = serde_json::from_str(self.text).map_err(de::Error::custom)?;
        Ok(Members {
            of: self,
            rest: entries.0.into_iter(),
            value: None,
        })
    }

    fn items(self) -> Result<Items<'de>, Error> {
        if !self.begins_with('[') {
            return Err(self.wrong(&"a list"));
        }
        let items: Vec<&RawValue> = serde_json::from_str(self.text).map_err(de::Error::custom)?;
        Ok(Items {
            of: self,
            rest: items.into_iter().enumerate(),
        })
    }

    fn number<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if let Ok(number) = self.text.parse() {
            return visitor.visit_u64(number);
        }
        if let Ok(number) = self.text.parse() {
            return visitor.visit_i64(number);
        }
        self.deserialize_f64(visitor)
    }
}

/// An error of a value in another, told from outside.
fn inside(place: &str, error: Error) -> Error {
    let name = match error.name {
        None => place.to_owned(),
        Some(inner) if inner.starts_with('[') => format!("{place}{inner}"),
        Some(inner) => format!("{place}.{inner}"),
    };
    Error {
        name: Some(name),
        fault: error.fault,
    }
}

/// The members of an object, in their order.
struct Entries<'de>(Vec<(String, &'de RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

/// Hands out the members of an object.
struct Members<'de> {
    of: Value<'de>,
    rest: std::vec::IntoIter<(String, &'de RawValue)>,
    /// The member whose name was given out.
    value: Option<(String, &'de RawValue)>,
}

impl<'de> de::MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((name, value)) = self.rest.next() else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, Error> = name.as_str().into_deserializer();
        let key = seed
            .deserialize(key)
            .map_err(|error| inside(&name, error))?;
        self.value = Some((name, value));
        Ok(Some(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (name, value) = self.value.take().expect("serde asks for the name first");
        let value = self.of.inner(value);
        value
            .and_then(|value| seed.deserialize(value))
            .map_err(|error| inside(&name, error))
    }
}

/// Hands out the items of a list.
struct Items<'de> {
    of: Value<'de>,
    rest: std::iter::Enumerate<std::vec::IntoIter<&'de RawValue>>,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some((index, item)) = self.rest.next() else {
            return Ok(None);
        };
        let item = self.of.inner(item);
        item.and_then(|item| seed.deserialize(item))
            .map(Some)
            .map_err(|error| inside(&format!("[{index}]"), error))
    }
}

/// A case of an enum that has content: an object with one member.
struct Case<'de> {
    name: String,
    content: Value<'de>,
}

impl<'de> de::EnumAccess<'de> for Case<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let name: StrDeserializer<'_, Error> = self.name.as_str().into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Case<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Deserialize::deserialize(self.content).map_err(|error| inside(&self.name, error))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        let content = seed.deserialize(self.content);
        content.map_err(|error| inside(&self.name, error))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Error> {
        let content = de::Deserializer::deserialize_seq(self.content, visitor);
        content.map_err(|error| inside(&self.name, error))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let content = de::Deserializer::deserialize_struct(self.content, "", fields, visitor);
        content.map_err(|error| inside(&self.name, error))
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let kind = Kind::integer(<$type>::MIN, <$type>::MAX);
            visitor.$visit(self.parse::<$type>(kind)?)
        }
    )* };
}

impl<'de> de::Deserializer<'de> for Value<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.text.as_bytes().first() {
            Some(b'{') => visitor.visit_map(self.members()?),
            Some(b'[') => visitor.visit_seq(self.items()?),
            Some(b'"') => visitor.visit_string(self.text(Kind::Text)?),
            Some(b't' | b'f') => self.deserialize_bool(visitor),
            Some(b'n') => visitor.visit_unit(),
            _ => self.number(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.parse(Kind::Bool)?)
    }

    integers! {
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let number: f64 = self.parse(Kind::Number)?;
        if !number.is_finite() {
            return Err(self.wrong(&"a number of double precision"));
        }
        visitor.visit_f64(number)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text(Kind::Character)?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text(Kind::Text)?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.text {
            "null" => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == RAW_VALUE {
            let mut json = serde_json::Deserializer::from_str(self.text);
            let raw = de::Deserializer::deserialize_newtype_struct(&mut json, name, visitor);
            return raw.map_err(de::Error::custom);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(self.items()?)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(self.members()?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let members = self.members()?;
        let names = members.rest.as_slice().iter();
        let unknown = names
            .map(|(name, _)| name)
            .find(|name| !fields.contains(&name.as_str()));
        if let Some(name) = unknown {
            let expected = match fields {
                [] => "no such field; there are none".to_owned(),
                fields => format!("no such field; there is {}", list(fields, "and")),
            };
            return Err(Error {
                name: Some(name.clone()),
                fault: Fault::Wrong(expected),
            });
        }
        visitor.visit_map(members)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if !self.begins_with('{') {
            let text = self.text(Kind::Choice(variants))?;
            let text: StrDeserializer<'_, Error> = text.as_str().into_deserializer();
            return text.deserialize_enum(name, variants, visitor);
        }
        let mut members = self.members()?.rest;
        match (members.next(), members.next()) {
            (Some((name, content)), None) => {
                let content = self.inner(content)?;
                visitor.visit_enum(Case { name, content })
            }
            _ => Err(self.wrong(&format_args!(
                "an object with one of {}",
                list(variants, "or")
            ))),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct
    }
}

impl<'de> IntoDeserializer<'de, Error> for Value<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
