//! What a type reads its arguments as, found by letting it deserialize from a probe: the JSON Schema
//! in `describe`, and the "what would be right" of a missing argument.
//!
//! Used by `Queries`, `Commands` and the readers of arguments and bodies. Invariant: a schema never refuses
//! what the reader accepts; what cannot be found out is left out.

mod probe;

use std::fmt;

use serde::de::DeserializeOwned;

use super::arguments;
use crate::command;
use crate::time::TimestampError;

/// What the text of an argument, or a field of a body, is read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Integer {
        min: i64,
        max: u64,
    },
    Number,
    Character,
    Text,
    Timestamp,
    /// One of these names.
    Choice(&'static [&'static str]),
    /// One of these names, some of them with content.
    Cases(&'static [&'static str]),
    List(Box<Kind>),
    /// In a body it may be `null`.
    Optional(Box<Kind>),
    Object,
}

/// Where the values stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Texts in a URL.
    Arguments,
    /// JSON.
    Body,
}

impl Kind {
    pub(crate) fn integer(min: impl TryInto<i64>, max: impl TryInto<u64>) -> Self {
        Kind::Integer {
            min: min.try_into().unwrap_or(0),
            max: max.try_into().unwrap_or(u64::MAX),
        }
    }

    /// The names, if there is nothing to it but names.
    fn choice(&self) -> Option<&'static [&'static str]> {
        match self {
            Kind::Choice(names) => Some(names),
            Kind::List(kind) | Kind::Optional(kind) => kind.choice(),
            _ => None,
        }
    }

    /// JSON Schema, written by hand: `serde_json::Value` would add 20 KB to every plugin.
    fn write_schema(&self, place: Place, out: &mut String) {
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
                kind.write_schema(place, out);
                out.push('}');
            }
            Kind::Optional(kind) if place == Place::Body => {
                out.push_str(r#"{"anyOf":["#);
                kind.write_schema(place, out);
                out.push_str(r#",{"type":"null"}]}"#);
            }
            Kind::Optional(kind) => kind.write_schema(place, out),
            Kind::Object => out.push_str(r#"{"type":"object"}"#),
            Kind::Cases(_) => out.push_str("{}"),
        }
    }

    /// A value that is read as this kind.
    fn sample(&self, place: Place) -> String {
        let text = self.sample_text();
        match self {
            Kind::Optional(kind) => kind.sample(place),
            _ if place == Place::Arguments => text,
            Kind::Character | Kind::Text | Kind::Timestamp | Kind::Choice(_) | Kind::Cases(_) => {
                format!("{text:?}")
            }
            Kind::List(_) => "[]".to_owned(),
            Kind::Object => "{}".to_owned(),
            Kind::Bool | Kind::Integer { .. } | Kind::Number => text,
        }
    }

    /// A text that is read as this kind.
    fn sample_text(&self) -> String {
        match self {
            Kind::Bool => "true".to_owned(),
            Kind::Integer { .. } | Kind::Number | Kind::Character => "1".to_owned(),
            Kind::Text => "text".to_owned(),
            Kind::Timestamp => "2013-01-01".to_owned(),
            Kind::Choice(names) | Kind::Cases(names) => {
                names.first().copied().unwrap_or_default().to_owned()
            }
            Kind::List(kind) | Kind::Optional(kind) => kind.sample_text(),
            Kind::Object => String::new(),
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
            Kind::Choice(names) | Kind::Cases(names) => {
                write!(f, "one of {}", list(names, "or"))
            }
            Kind::List(kind) => write!(f, "{kind}, once or more"),
            Kind::Optional(kind) => kind.fmt(f),
            Kind::Object => f.write_str("an object"),
        }
    }
}

/// `` `a`, `b` and `c` ``.
pub(crate) fn list(names: &[&str], last: &str) -> String {
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
    write::<A>(Place::Arguments, arguments::missing::<A>)
}

/// JSON Schema of the body `B`, or empty if `B` is not a struct.
pub(crate) fn of_body<B: DeserializeOwned>() -> String {
    write::<B>(Place::Body, command::missing::<B>)
}

/// Tells the first field that is missing beside those that are given, if one is: the reader of that place.
type Missing = fn(&[(String, String)]) -> Option<String>;

fn write<A: DeserializeOwned>(place: Place, missing: Missing) -> String {
    let Some(fields) = probe::fields::<A>() else {
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
            Some(kind) => kind.write_schema(place, &mut schema),
            None => schema.push_str("{}"),
        }
    }
    schema.push_str(r#"},"required":"#);
    write_list(&required::<A>(fields, place, missing), &mut schema);
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

/// What the field `name` of the struct `A` is read as, if that can be told.
pub(crate) fn kind<A: DeserializeOwned>(name: &str) -> Option<Kind> {
    let kind = probe::field::<A>(name, 0)?;
    // A probe sees one case of an enum only.
    let names = kind.choice().unwrap_or_default();
    let others = (1..names.len()).filter_map(|case| probe::field::<A>(name, case));
    let with_content = others.into_iter().find(|kind| kind.choice().is_none());
    Some(with_content.unwrap_or(kind))
}

/// The fields that must be given: leave out all, and the reader names the first; give that one a
/// sample, and it names the next. Ends early where a sample does not do.
fn required<A: DeserializeOwned>(fields: &[&str], place: Place, missing: Missing) -> Vec<String> {
    let mut given: Vec<(String, String)> = Vec::new();
    for _ in fields {
        match missing(&given) {
            Some(name)
                if fields.contains(&name.as_str()) && given.iter().all(|(n, _)| *n != name) =>
            {
                let sample = kind::<A>(&name).map(|kind| kind.sample(place));
                let nothing = if place == Place::Body { "null" } else { "" };
                given.push((name, sample.unwrap_or_else(|| nothing.to_owned())));
            }
            _ => break,
        }
    }
    given.into_iter().map(|(name, _)| name).collect()
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
