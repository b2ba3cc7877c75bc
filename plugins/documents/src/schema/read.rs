//! Text → [`Schema`], with every keyword known.
//!
//! Called when the plugin is configured. Invariant: what is not supported is refused by its name, so that no
//! constraint is believed to hold that nobody checks.

use super::value::{Number, Value};
use super::{Rules, Schema, TYPES, Type};
use crate::json::{self, Fault, Member, Node};

/// What is checked, for the message about what is not.
const CHECKED: &str = "`type`, `enum`, `properties`, `required`, `additionalProperties`, `items`, \
    `minItems`, `maxItems`, `minimum`, `maximum`, `minLength` and `maxLength`";
/// What tells people something and checks nothing.
const ANNOTATIONS: [&str; 10] = [
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
];

impl Schema {
    /// # Errors
    /// It is no schema, or one with a keyword that is not supported; with the place in the schema.
    pub(crate) fn read(text: &str) -> Result<Self, Fault> {
        Self::of(&json::read(text.as_bytes())?)
    }

    fn of(node: &Node) -> Result<Self, Fault> {
        let members = match node {
            Node::Bool(always) => return Ok(Schema::Always(*always)),
            Node::Object(members) => members,
            _ => {
                return Err(Fault::new(
                    "expected a schema: an object, `true` or `false`",
                ));
            }
        };
        let mut rules = Rules::default();
        for Member { name, node, .. } in members {
            keyword(&mut rules, name, node).map_err(|fault| fault.inside(name))?;
        }
        Ok(Schema::Rules(Box::new(rules)))
    }
}

fn keyword(rules: &mut Rules, name: &str, node: &Node) -> Result<(), Fault> {
    match name {
        "type" => rules.types = Some(types(node)?),
        "enum" => {
            let values = list(node, "a list of values")?;
            rules.one_of = Some(values.iter().map(Value::of).collect());
        }
        "minimum" => rules.minimum = Some(number(node)?),
        "maximum" => rules.maximum = Some(number(node)?),
        "minLength" => rules.length_min = Some(size(node)?),
        "maxLength" => rules.length_max = Some(size(node)?),
        "minItems" => rules.items_min = Some(size(node)?),
        "maxItems" => rules.items_max = Some(size(node)?),
        "items" => rules.items = Some(Schema::of(node)?),
        "required" => {
            let names = list(node, "a list of names")?;
            rules.required = each(names, |name| text(name, "a name"))?;
        }
        "properties" => {
            let Node::Object(members) = node else {
                return Err(Fault::new("expected an object: a schema for each member"));
            };
            for Member { name, node, .. } in members {
                let schema = Schema::of(node).map_err(|fault| fault.inside(name))?;
                rules.properties.insert(name.clone().into_owned(), schema);
            }
        }
        "additionalProperties" => rules.additional = Some(Schema::of(node)?),
        name if ANNOTATIONS.contains(&name) => {}
        name => {
            return Err(Fault::new(format!(
                "the keyword `{name}` is not supported, so nothing would check it; supported are {CHECKED}"
            )));
        }
    }
    Ok(())
}

fn types(node: &Node) -> Result<Vec<Type>, Fault> {
    match node {
        Node::Array(names) if !names.is_empty() => each(names, one_type),
        one => Ok(vec![one_type(one)?]),
    }
}

fn one_type(node: &Node) -> Result<Type, Fault> {
    let names: Vec<_> = TYPES.iter().map(|(name, _)| format!("`{name}`")).collect();
    let expected = format!("one of {}, or a list of them", names.join(", "));
    let name = text(node, &expected)?;
    let known = TYPES.iter().find(|(known, _)| *known == name);
    let wrong = || Fault::new(format!("expected {expected}, not `{name}`"));
    known.map(|(_, one)| *one).ok_or_else(wrong)
}

fn number(node: &Node) -> Result<Number, Fault> {
    match node {
        Node::Number(written) => Ok(Number::of(written)),
        _ => Err(Fault::new("expected a number")),
    }
}

fn size(node: &Node) -> Result<u64, Fault> {
    let size = number(node).ok().and_then(|number| match number {
        Number::Integer(integer) => integer.try_into().ok(),
        Number::Float(_) => None,
    });
    size.ok_or_else(|| Fault::new("expected a whole number from 0"))
}

fn text(node: &Node, expected: &str) -> Result<String, Fault> {
    let text = node.said().map(|said| said.into_owned());
    text.ok_or_else(|| Fault::new(format!("expected {expected}")))
}

fn list<'n, 'a>(node: &'n Node<'a>, expected: &str) -> Result<&'n [Node<'a>], Fault> {
    match node {
        Node::Array(items) => Ok(items),
        _ => Err(Fault::new(format!("expected {expected}"))),
    }
}

fn each<T>(items: &[Node], read: impl Fn(&Node) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
    let items = items.iter().enumerate();
    let read = items.map(|(at, item)| read(item).map_err(|fault| fault.inside(&at.to_string())));
    read.collect()
}
