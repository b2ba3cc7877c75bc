//! `[kafka]`: librdkafka's properties, key by key and unrenamed. Read by the log's Kafka adapter,
//! which also knows the keys that the host sets itself.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer};

/// Properties of librdkafka, by their own names.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaProperties(BTreeMap<String, String>);

impl KafkaProperties {
    /// The property that turns Kafka on.
    pub const BOOTSTRAP: &'static str = "bootstrap.servers";

    /// Wraps properties; `None` unless they name brokers.
    #[must_use]
    pub fn new(properties: BTreeMap<String, String>) -> Option<Self> {
        properties
            .get(Self::BOOTSTRAP)
            .is_some_and(|servers| !servers.trim().is_empty())
            .then_some(Self(properties))
    }

    /// All properties, in order of name.
    #[must_use]
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The brokers to begin with.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        self.0.get(Self::BOOTSTRAP).map_or("", String::as_str)
    }
}

impl fmt::Debug for KafkaProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|(key, value)| {
            (
                key.as_str(),
                if is_secret(key) {
                    "***"
                } else {
                    value.as_str()
                },
            )
        });
        f.debug_map().entries(shown).finish()
    }
}

/// Whether a property's value must not be shown.
pub(super) fn is_secret(key: &str) -> bool {
    [
        "password",
        "secret",
        "ssl.key.pem",
        "sasl.oauthbearer.config",
        "private.key",
    ]
    .iter()
    .any(|part| key.contains(part))
}

/// A value of a property: librdkafka takes texts, TOML and the environment may hold others.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Flag(bool),
    Whole(i64),
    Fraction(f64),
    Text(String),
    /// `bootstrap.servers = "…"` without quotes around the key is a table in a table.
    Table(BTreeMap<String, Value>),
}

impl Value {
    fn flatten(self, name: String, into: &mut BTreeMap<String, String>) {
        let text = match self {
            Self::Flag(flag) => flag.to_string(),
            Self::Whole(number) => number.to_string(),
            Self::Fraction(number) => number.to_string(),
            Self::Text(text) => text,
            Self::Table(table) => {
                for (key, value) in table {
                    value.flatten(format!("{name}.{key}"), into);
                }
                return;
            }
        };
        into.insert(name, text);
    }
}

/// Reads a table of properties.
pub(super) fn properties<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let table = BTreeMap::<String, Value>::deserialize(deserializer)?;
    let mut flat = BTreeMap::new();
    for (key, value) in table {
        value.flatten(key, &mut flat);
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_texts_whatever_they_are_written_as() {
        #[derive(Deserialize)]
        struct Section {
            #[serde(deserialize_with = "properties")]
            kafka: BTreeMap<String, String>,
        }
        let text = "[kafka]\n\"bootstrap.servers\" = \"a:1\"\nsocket.timeout.ms = 7\n\
                    \"enable.ssl.certificate.verification\" = false\n";
        let section: Section = toml::from_str(text).unwrap();
        let pairs: Vec<_> = section
            .kafka
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("bootstrap.servers", "a:1"),
                ("enable.ssl.certificate.verification", "false"),
                ("socket.timeout.ms", "7")
            ]
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let properties = KafkaProperties::new(BTreeMap::from([
            ("bootstrap.servers".to_owned(), "a:1".to_owned()),
            ("sasl.password".to_owned(), "hunter2".to_owned()),
        ]))
        .unwrap();
        let shown = format!("{properties:?}");
        assert!(
            shown.contains("a:1") && !shown.contains("hunter2"),
            "{shown}"
        );
        assert!(KafkaProperties::new(BTreeMap::new()).is_none());
    }
}
