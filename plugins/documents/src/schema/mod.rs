//! JSON Schema, as a constraint: the common keywords, with the meaning of draft 2020-12.
//!
//! Made from text when the plugin is configured ([`Schema::read`]), asked for every change
//! ([`Schema::check`]). Invariant: a keyword is checked, or known to check nothing, or refused by name at
//! configuration: none is passed over in silence.

mod read;
mod value;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use self::value::{Number, Value};
use crate::json::{Node, step};

/// How many places a refusal names.
const VIOLATIONS_MAX: usize = 16;
/// How much of a wrong value is told, in characters.
const SHOWN_CHARACTERS_MAX: usize = 60;

#[derive(Debug)]
pub(crate) enum Schema {
    /// `true`: anything goes; `false`: nothing does.
    Always(bool),
    Rules(Box<Rules>),
}

/// The keywords of one schema; what is not there allows everything.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    types: Option<Vec<Type>>,
    one_of: Option<Vec<Value>>,
    minimum: Option<Number>,
    maximum: Option<Number>,
    length_min: Option<u64>,
    length_max: Option<u64>,
    properties: BTreeMap<String, Schema>,
    additional: Option<Schema>,
    required: Vec<String>,
    items: Option<Schema>,
    items_min: Option<u64>,
    items_max: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Number,
    Integer,
    Boolean,
    Null,
}

const TYPES: [(&str, Type); 7] = [
    ("object", Type::Object),
    ("array", Type::Array),
    ("string", Type::String),
    ("number", Type::Number),
    ("integer", Type::Integer),
    ("boolean", Type::Boolean),
    ("null", Type::Null),
];

/// Where a document is not as a schema wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Violation {
    /// JSON Pointer (RFC 6901) into the document; empty = the whole.
    pub(crate) path: String,
    /// The keyword that says so.
    pub(crate) keyword: &'static str,
    /// For people.
    pub(crate) problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "the document: {}", self.problem),
            path => write!(f, "`{path}`: {}", self.problem),
        }
    }
}

impl Schema {
    /// Adds what is wrong with the document, up to a bound.
    pub(crate) fn check(&self, document: &Node, violations: &mut Vec<Violation>) {
        let mut check = Check {
            path: String::new(),
            violations,
        };
        check.node(self, document);
    }
}

/// A walk over document and schema.
struct Check<'v> {
    path: String,
    violations: &'v mut Vec<Violation>,
}

impl Check<'_> {
    fn node(&mut self, schema: &Schema, node: &Node) {
        match schema {
            Schema::Always(true) => {}
            Schema::Always(false) => self.wrong("false", "nothing is allowed here".into()),
            Schema::Rules(rules) => self.rules(rules, node),
        }
    }

    fn rules(&mut self, rules: &Rules, node: &Node) {
        if let Some(types) = &rules.types {
            if !types.iter().any(|one| one.is_of(node)) {
                let names: Vec<_> = types.iter().map(|one| one.name()).collect();
                self.wrong(
                    "type",
                    format!("expected {}, not {}", names.join(" or "), shown(node)),
                );
            }
        }
        if let Some(values) = &rules.one_of {
            if !values.contains(&Value::of(node)) {
                let problem = format!("{} is none of the values that are allowed", shown(node));
                self.wrong("enum", problem);
            }
        }
        match node {
            Node::Number(written) => self.number(rules, written),
            Node::Text(_) => self.text(rules, &node.said().unwrap_or_default()),
            Node::Array(items) => self.array(rules, items),
            Node::Object(members) => {
                for name in &rules.required {
                    if members.iter().all(|member| member.name != *name) {
                        self.wrong("required", format!("the member `{name}` is missing"));
                    }
                }
                for member in members {
                    self.member(rules, &member.name, &member.node);
                }
            }
            Node::Bool(_) | Node::Null => {}
        }
    }

    fn number(&mut self, rules: &Rules, written: &str) {
        let number = Number::of(written);
        if let Some(minimum) = rules.minimum.filter(|minimum| number < *minimum) {
            self.wrong(
                "minimum",
                format!("expected at least {minimum}, not {written}"),
            );
        }
        if let Some(maximum) = rules.maximum.filter(|maximum| number > *maximum) {
            self.wrong(
                "maximum",
                format!("expected at most {maximum}, not {written}"),
            );
        }
    }

    fn text(&mut self, rules: &Rules, text: &str) {
        let length = text.chars().count() as u64;
        let bounds = (rules.length_min, rules.length_max);
        self.bounds(("minLength", "maxLength"), "characters", bounds, length);
    }

    fn array(&mut self, rules: &Rules, items: &[Node]) {
        let bounds = (rules.items_min, rules.items_max);
        self.bounds(
            ("minItems", "maxItems"),
            "items",
            bounds,
            items.len() as u64,
        );
        if let Some(schema) = &rules.items {
            for (index, item) in items.iter().enumerate() {
                self.inside(&index.to_string(), |check| check.node(schema, item));
            }
        }
    }

    fn member(&mut self, rules: &Rules, name: &str, node: &Node) {
        match (rules.properties.get(name), &rules.additional) {
            (Some(schema), _) => self.inside(name, |check| check.node(schema, node)),
            (None, Some(Schema::Always(false))) => self.inside(name, |check| {
                check.wrong("additionalProperties", "there is no such member".into());
            }),
            (None, Some(schema)) => self.inside(name, |check| check.node(schema, node)),
            (None, None) => {}
        }
    }

    fn bounds(
        &mut self,
        keywords: (&'static str, &'static str),
        unit: &str,
        (min, max): (Option<u64>, Option<u64>),
        found: u64,
    ) {
        if let Some(min) = min.filter(|min| found < *min) {
            self.wrong(
                keywords.0,
                format!("expected at least {min} {unit}, not {found}"),
            );
        }
        if let Some(max) = max.filter(|max| found > *max) {
            self.wrong(
                keywords.1,
                format!("expected at most {max} {unit}, not {found}"),
            );
        }
    }

    fn inside(&mut self, segment: &str, walk: impl FnOnce(&mut Self)) {
        // Enough is known; a large document is not walked to its end for nothing.
        if self.violations.len() >= VIOLATIONS_MAX {
            return;
        }
        let length = self.path.len();
        self.path.push_str(&step(segment));
        walk(self);
        self.path.truncate(length);
    }

    fn wrong(&mut self, keyword: &'static str, problem: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation {
                path: self.path.clone(),
                keyword,
                problem,
            });
        }
    }
}

impl Type {
    fn is_of(self, node: &Node) -> bool {
        match (self, node) {
            (Type::Object, Node::Object(_))
            | (Type::Array, Node::Array(_))
            | (Type::String, Node::Text(_))
            | (Type::Number, Node::Number(_))
            | (Type::Boolean, Node::Bool(_))
            | (Type::Null, Node::Null) => true,
            (Type::Integer, Node::Number(written)) => Number::of(written).is_integer(),
            _ => false,
        }
    }

    fn name(self) -> &'static str {
        let known = TYPES.iter().find(|(_, one)| *one == self);
        known.map_or("", |(name, _)| name)
    }
}

/// A value for people: cut where it is long.
fn shown(node: &Node) -> String {
    let text = match node {
        Node::Object(_) => return "an object".to_owned(),
        Node::Array(_) => return "an array".to_owned(),
        plain => plain.to_text(),
    };
    match text.char_indices().nth(SHOWN_CHARACTERS_MAX) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
