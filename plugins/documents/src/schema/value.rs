//! Values as JSON Schema compares them: `1` and `1.0` are the same number, and members have no order.
//!
//! Used by the keywords `enum`, `minimum`, `maximum` and `type`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use crate::json::Node;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Object(BTreeMap<String, Value>),
    Array(Vec<Value>),
    Text(String),
    Number(Number),
    Bool(bool),
    Null,
}

impl Value {
    pub(super) fn of(node: &Node) -> Self {
        match node {
            Node::Object(members) => {
                let members = members.iter();
                let members = members.map(|m| (m.name.clone().into_owned(), Self::of(&m.node)));
                Value::Object(members.collect())
            }
            Node::Array(items) => Value::Array(items.iter().map(Self::of).collect()),
            Node::Text(_) => Value::Text(node.said().unwrap_or_default().into_owned()),
            Node::Number(written) => Value::Number(Number::of(written)),
            Node::Bool(value) => Value::Bool(*value),
            Node::Null => Value::Null,
        }
    }
}

/// A number: exact where it is a whole one of at most 38 digits, else of double precision.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    /// Of a number as JSON writes it.
    pub(super) fn of(written: &str) -> Self {
        if let Ok(integer) = written.parse() {
            return Number::Integer(integer);
        }
        let float: f64 = written.parse().unwrap_or(f64::INFINITY);
        // Up to here a whole number has only one way to be written as one of double precision.
        let exact = float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0;
        if exact {
            return Number::Integer(float as i128);
        }
        Number::Float(float)
    }

    pub(super) fn is_integer(self) -> bool {
        match self {
            Number::Integer(_) => true,
            // An infinite one was written with more digits than fit.
            Number::Float(float) => float.is_infinite() || float.fract() == 0.0,
        }
    }

    fn float(self) -> f64 {
        match self {
            Number::Integer(integer) => integer as f64,
            Number::Float(float) => float,
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Number::Integer(a), Number::Integer(b)) => Some(a.cmp(b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Integer(integer) => integer.fmt(f),
            Number::Float(float) => float.fmt(f),
        }
    }
}
