//! Deserializers that give no value, and see what is asked of them: what fields a struct has, and what one of
//! them is read as.
//!
//! Used by the schemas. Invariant: nothing comes of a probe but what it has seen; every one ends with an
//! error.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::Kind;
use crate::query::arguments::Error;
use crate::time::SERDE_NAME;

/// The fields of the struct `A`.
pub(super) fn fields<A: DeserializeOwned>() -> Option<&'static [&'static str]> {
    let mut fields = None;
    let _ = A::deserialize(Probe(|found| fields = Some(found)));
    fields
}

/// What the field `name` of the struct `A` is read as, if that can be told; of an enum, what its case number
/// `case` tells.
pub(super) fn field<A: DeserializeOwned>(name: &str, case: usize) -> Option<Kind> {
    let mut kind = None;
    let _ = A::deserialize(FieldProbe {
        name: Some(name),
        kind: KindProbe {
            case,
            kind: &mut kind,
        },
    });
    kind
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
    kind: KindProbe<'p>,
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
        seed.deserialize(self.kind.again())
    }
}

/// Tells what kind of value is asked for.
struct KindProbe<'p> {
    /// Which case of an enum it pretends to be.
    case: usize,
    kind: &'p mut Option<Kind>,
}

impl KindProbe<'_> {
    fn found<T>(self, kind: Kind) -> Result<T, Error> {
        *self.kind = Some(kind);
        Err(enough())
    }

    fn again(&mut self) -> KindProbe<'_> {
        KindProbe {
            case: self.case,
            kind: self.kind,
        }
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

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        let result = visitor.visit_some(self.again());
        let inner = self.kind.take();
        *self.kind = inner.map(|kind| Kind::Optional(Box::new(kind)));
        result
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

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        let result = visitor.visit_seq(ItemProbe(self.again()));
        let item = self.kind.take();
        *self.kind = item.map(|kind| Kind::List(Box::new(kind)));
        result
    }

    fn deserialize_map<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        self.found(Kind::Object)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        self.found(Kind::Object)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.kind = Some(Kind::Cases(variants));
        visitor.visit_enum(CaseProbe {
            variants,
            probe: self,
        })
    }

    forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// A case of an enum, which tells whether it has content.
struct CaseProbe<'p> {
    variants: &'static [&'static str],
    probe: KindProbe<'p>,
}

impl<'de> de::EnumAccess<'de> for CaseProbe<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let name = self.variants.get(self.probe.case).ok_or_else(enough)?;
        let name: StrDeserializer<'_, Error> = (*name).into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for CaseProbe<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        self.probe.found(Kind::Choice(self.variants))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _seed: S) -> Result<S::Value, Error> {
        Err(enough())
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, _: V) -> Result<V::Value, Error> {
        Err(enough())
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        Err(enough())
    }
}

/// A list with one item, which tells what it is read as.
struct ItemProbe<'p>(KindProbe<'p>);

impl<'de> de::SeqAccess<'de> for ItemProbe<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        seed.deserialize(self.0.again()).map(Some)
    }
}
