//! Names and texts (`from=2013-01-01&limit=5`) → a typed struct, by serde.
//!
//! Used for query arguments and deployment parameters. Invariant: every error names the argument
//! that is at fault, and says what would be right.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::schema::{self, Kind};

/// Which argument is at fault, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArgumentError {
    /// Empty if no single argument is at fault.
    pub(crate) name: String,
    pub(crate) expected: String,
}

/// Reads `given` as an `A`: a struct with a field per argument.
pub(crate) fn read<A: DeserializeOwned>(given: &[(String, String)]) -> Result<A, ArgumentError> {
    A::deserialize(Arguments { given }).map_err(|error| {
        let name = error.name.unwrap_or_default();
        let expected = match error.fault {
            Fault::Missing => match schema::kind::<A>(&name) {
                Some(kind) => format!("missing; expected {kind}"),
                None => "missing".to_owned(),
            },
            Fault::Wrong(expected) => expected,
        };
        ArgumentError { name, expected }
    })
}

/// The first argument that `A` misses in `given`, if that is what is wrong with it.
pub(super) fn missing<A: DeserializeOwned>(given: &[(String, String)]) -> Option<String> {
    let error = A::deserialize(Arguments { given }).err()?;
    error.name.filter(|_| matches!(error.fault, Fault::Missing))
}

/// The error of the deserializers here and in `command::body`. The name is put in where it is known.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) name: Option<String>,
    pub(crate) fault: Fault,
}

#[derive(Debug)]
pub(crate) enum Fault {
    Missing,
    Wrong(String),
}

/// How much of a wrong value is told.
const SHOWN_CHARACTERS_MAX: usize = 80;

impl Error {
    pub(crate) fn wrong(expected: &dyn fmt::Display, value: &str) -> Self {
        let (shown, rest) = match value.char_indices().nth(SHOWN_CHARACTERS_MAX) {
            Some((cut, _)) => (&value[..cut], "…"),
            None => (value, ""),
        };
        de::Error::custom(format_args!("expected {expected}, not `{shown}{rest}`"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Fault::Missing => f.write_str("missing"),
            Fault::Wrong(expected) => f.write_str(expected),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            name: None,
            fault: Fault::Wrong(message.to_string()),
        }
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match unexpected {
            de::Unexpected::Str(text) => Self::wrong(&expected, text),
            _ => Self::custom(format_args!("expected {expected}")),
        }
    }

    /// Without saying what came instead: that is always a text, and `Unexpected` would bring 15 KB
    /// of number formatting into every plugin.
    fn invalid_type(_unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("expected {expected}"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::wrong(&Kind::Choice(expected), variant)
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            name: Some(field.to_owned()),
            fault: Fault::Missing,
        }
    }
}

/// All arguments.
struct Arguments<'a> {
    given: &'a [(String, String)],
}

impl<'de> de::Deserializer<'de> for Arguments<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Entries {
            given: self.given,
            position: 0,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let unknown = |(name, _): &&(String, String)| !fields.contains(&name.as_str());
        if let Some((name, _)) = self.given.iter().find(unknown) {
            let expected = match fields {
                [] => "no such name; there are none".to_owned(),
                fields => format!("no such name; there is {}", schema::list(fields, "and")),
            };
            return Err(Error {
                name: Some(name.clone()),
                fault: Fault::Wrong(expected),
            });
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_struct("", &[], visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The distinct names in the order of their first mention, each with all of its values.
struct Entries<'a> {
    given: &'a [(String, String)],
    position: usize,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        while let Some((name, _)) = self.given.get(self.position) {
            let seen = self.given[..self.position].iter().any(|(n, _)| n == name);
            if !seen {
                let name: StrDeserializer<'_, Error> = name.as_str().into_deserializer();
                return seed.deserialize(name).map(Some);
            }
            self.position += 1;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (name, first) = &self.given[self.position];
        let rest = &self.given[self.position + 1..];
        self.position += 1;
        let value = Value { name, first, rest };
        seed.deserialize(value).map_err(|error| Error {
            name: error.name.or_else(|| Some(name.clone())),
            ..error
        })
    }
}

/// The value of one argument, and what follows it (where more values of the same name may be).
struct Value<'a> {
    name: &'a str,
    first: &'a str,
    rest: &'a [(String, String)],
}

impl<'a> Value<'a> {
    fn repeated(&self) -> bool {
        self.rest.iter().any(|(name, _)| name == self.name)
    }

    fn only(self) -> Result<&'a str, Error> {
        if self.repeated() {
            return Err(de::Error::custom(
                "given more than once; expected one value",
            ));
        }
        Ok(self.first)
    }

    fn parse<T: std::str::FromStr>(self, expected: Kind) -> Result<T, Error> {
        let text = self.only()?;
        text.parse().map_err(|_| Error::wrong(&expected, text))
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

impl<'de> de::Deserializer<'de> for Value<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.repeated() {
            return self.deserialize_seq(visitor);
        }
        visitor.visit_str(self.first)
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
        let text = self.first;
        let number: f64 = self.parse(Kind::Number)?;
        if !number.is_finite() {
            return Err(Error::wrong(&Kind::Number, text));
        }
        visitor.visit_f64(number)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_char(self.parse(Kind::Character)?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.only()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let rest = self.rest.iter().filter(|(name, _)| name == self.name);
        let texts = std::iter::once(self.first).chain(rest.map(|(_, text)| text.as_str()));
        visitor.visit_seq(de::value::SeqDeserializer::new(texts.map(|text| Value {
            name: self.name,
            first: text,
            rest: &[],
        })))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let text: StrDeserializer<'_, Error> = self.only()?.into_deserializer();
        text.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Value<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::Timestamp;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Order {
        OldestFirst,
        NewestFirst,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Window {
        from: Timestamp,
        limit: u8,
        order: Option<Order>,
        #[serde(default)]
        carrier: Vec<String>,
        #[serde(default, rename = "in-air")]
        in_air: bool,
        share: Option<f64>,
    }

    fn window(query: &str) -> Result<Window, ArgumentError> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap());
        let pairs: Vec<_> = pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        read(&pairs)
    }

    fn fault(query: &str) -> (String, String) {
        let error = window(query).unwrap_err();
        (error.name, error.expected)
    }

    #[test]
    fn typed_fields_come_out() {
        let query = "carrier=UA&from=2013-01-01&limit=7&order=newest-first&carrier=AA&in-air=true&share=0.5";
        assert_eq!(
            window(query).unwrap(),
            Window {
                from: "2013-01-01".parse().unwrap(),
                limit: 7,
                order: Some(Order::NewestFirst),
                carrier: vec!["UA".into(), "AA".into()],
                in_air: true,
                share: Some(0.5),
            }
        );
        let least = window("limit=0&from=2013-01-01").unwrap();
        assert_eq!((least.order, least.carrier.len()), (None, 0));
    }

    #[test]
    fn every_fault_names_its_argument() {
        for (query, name, expected) in [
            (
                "limit=1",
                "from",
                "missing; expected an RFC 3339 instant such as",
            ),
            (
                "from=2013-01-01",
                "limit",
                "missing; expected an integer from 0 to 255",
            ),
            (
                "from=today&limit=1",
                "from",
                "expected an RFC 3339 instant such as",
            ),
            (
                "from=2013-01-01&limit=256",
                "limit",
                "expected an integer from 0 to 255, not `256`",
            ),
            (
                "from=2013-01-01&limit=",
                "limit",
                "expected an integer from 0 to 255, not ``",
            ),
            (
                "from=2013-01-01&limit=1&order=up",
                "order",
                "expected one of `oldest-first` or `newest-first`, not `up`",
            ),
            (
                "from=2013-01-01&limit=1&limit=2",
                "limit",
                "given more than once; expected one value",
            ),
            (
                "from=2013-01-01&limit=1&in-air=1",
                "in-air",
                "expected `true` or `false`, not `1`",
            ),
            (
                "from=2013-01-01&limit=1&share=inf",
                "share",
                "expected a number, not `inf`",
            ),
            (
                "from=2013-01-01&limit=1&to=x",
                "to",
                "no such name; there is `from`, `limit`, `order`, `carrier`, `in-air` and `share`",
            ),
        ] {
            let (found, message) = fault(query);
            assert_eq!(found, name, "{query}: {message}");
            assert!(message.starts_with(expected), "{query}: {message}");
        }
    }

    #[test]
    fn no_arguments_means_none() {
        assert!(read::<crate::NoArguments>(&[]).is_ok());
        let error = read::<crate::NoArguments>(&[("a".into(), "b".into())]).unwrap_err();
        assert_eq!(error.name, "a");
        assert!(read::<()>(&[("a".into(), "b".into())]).is_err());
    }
}
