//! The parameters of the deployment: which documents must fulfil which schemas.
//!
//! Read at `configure`, where a schema with an unsupported keyword refuses the deployment; asked before
//! every change. Invariant: all schemas whose prefix the document's id begins with are asked.

use std::collections::BTreeMap;

use foldhost_sdk::Refusal;
use serde::{Deserialize, Serialize};

use crate::json::Node;
use crate::schema::{Schema, Violation};

/// The parameter for all documents; with a dot and a prefix behind it, for those whose ids begin so.
const SCHEMA: &str = "schema";

#[derive(Debug, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Constraints(Vec<Constraint>);

#[derive(Debug)]
struct Constraint {
    prefix: String,
    schema: Schema,
}

impl TryFrom<BTreeMap<String, String>> for Constraints {
    type Error = String;

    fn try_from(parameters: BTreeMap<String, String>) -> Result<Self, String> {
        let constraints = parameters.iter().map(|(name, text)| {
            let prefix = match name.strip_prefix(SCHEMA).map(|rest| rest.strip_prefix('.')) {
                Some(None) if name == SCHEMA => "",
                Some(Some(prefix)) if !prefix.is_empty() => prefix,
                _ => {
                    return Err(format!(
                        "`{name}`: no such name; there is `{SCHEMA}`, and `{SCHEMA}.PREFIX` for documents \
                         whose ids begin with PREFIX"
                    ));
                }
            };
            let schema = Schema::read(text).map_err(|fault| match fault.path.as_str() {
                "" => format!("`{name}`: {}", fault.problem),
                path => format!("`{name}`, at `{path}`: {}", fault.problem),
            })?;
            Ok(Constraint {
                prefix: prefix.to_owned(),
                schema,
            })
        });
        constraints.collect::<Result<_, _>>().map(Self)
    }
}

#[derive(Serialize)]
struct Details {
    violations: Vec<Violation>,
}

impl Constraints {
    /// # Errors
    /// The document violates a schema: the refusal `schema-violation`, with every place (up to a bound).
    pub(crate) fn check(&self, id: &[u8], document: &Node) -> Result<(), Refusal> {
        let mut violations = Vec::new();
        for constraint in &self.0 {
            if id.starts_with(constraint.prefix.as_bytes()) {
                constraint.schema.check(document, &mut violations);
            }
        }
        let Some(first) = violations.first() else {
            return Ok(());
        };
        let message = first.to_string();
        Err(Refusal::new("schema-violation", message).details(Details { violations }))
    }
}
