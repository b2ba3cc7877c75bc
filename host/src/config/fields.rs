//! The names of all fields, to tell an unknown one what it may have meant. Used by `sources`.
//!
//! Invariant: the table and `RawConfig` name the same fields; a test holds them together.

/// How a field's value is read from an environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it stands, even if it looks like a number.
    Text,
    /// A number or a flag.
    Scalar,
    /// Items between commas, or `[…]` as in TOML.
    List,
}

/// Every field but those under `kafka`, which are librdkafka's.
pub(super) const FIELDS: [(&str, Kind); 20] = [
    ("cluster", Kind::Text),
    ("data", Kind::Text),
    ("listen", Kind::Text),
    ("admin-listen", Kind::Text),
    ("insecure", Kind::Scalar),
    ("instance", Kind::Text),
    ("http.advertise", Kind::Text),
    ("http.cors-origins", Kind::List),
    ("http.record-bytes-max", Kind::Text),
    ("topics.create", Kind::Text),
    ("topics.replication-factor", Kind::Scalar),
    ("topics.partitions", Kind::Scalar),
    ("objects.url", Kind::Text),
    ("state.cache-bytes", Kind::Text),
    ("worker.threads", Kind::Scalar),
    ("worker.writer-idle-seconds", Kind::Scalar),
    ("auth.tokens.name", Kind::Text),
    ("auth.tokens.sha256", Kind::Text),
    ("auth.tokens.scopes", Kind::List),
    ("auth.tokens.plugins", Kind::List),
];

/// Section whose keys belong to librdkafka.
pub(super) const KAFKA: &str = "kafka";

/// Likeness from which on a name is worth suggesting.
const LIKENESS_MIN: f64 = 0.75;

/// How the field of this path is read from the environment, if there is one.
pub(super) fn kind_of(path: &str) -> Option<Kind> {
    FIELDS
        .iter()
        .find(|(field, _)| *field == path)
        .map(|(_, kind)| *kind)
}

/// Whether there is a field of this path, or a section.
pub(super) fn is_known(path: &str) -> bool {
    path == KAFKA
        || path
            .strip_prefix(KAFKA)
            .is_some_and(|rest| rest.starts_with('.'))
        || FIELDS.iter().any(|(field, _)| {
            field
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
}

/// What is wrong with a path that is not known, with the nearest field that there is.
pub(super) fn unknown(path: &str, place: &str) -> String {
    match nearest(path) {
        Some(field) => format!("unknown field '{path}' in {place}: did you mean '{field}'?"),
        None => {
            let mut names: Vec<&str> = FIELDS
                .iter()
                .map(|(field, _)| field.split('.').next().unwrap_or(field))
                .chain([KAFKA])
                .collect();
            names.dedup();
            format!(
                "unknown field '{path}' in {place}: there are {}",
                names.join(", ")
            )
        }
    }
}

fn nearest(path: &str) -> Option<&'static str> {
    let leaf = path.rsplit('.').next().unwrap_or(path);
    let likeness = |field: &str| {
        let field_leaf = field.rsplit('.').next().unwrap_or(field);
        // The right name in the wrong section is likelier than another name in this section.
        let of_leaf = strsim::jaro_winkler(leaf, field_leaf) - 0.05;
        strsim::jaro_winkler(path, field).max(of_leaf)
    };
    FIELDS
        .iter()
        .map(|(field, _)| (likeness(field), *field))
        .filter(|(score, _)| *score >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, field)| field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_field_is_named() {
        for (wrong, right) in [
            ("clustr", "cluster"),
            ("http.cors-origin", "http.cors-origins"),
            ("http.advertize", "http.advertise"),
            ("partitions", "topics.partitions"),
            ("admin_listen", "admin-listen"),
            ("auth.tokens.sha-256", "auth.tokens.sha256"),
        ] {
            assert!(!is_known(wrong));
            let message = unknown(wrong, "foldhost.toml");
            assert!(
                message.ends_with(&format!("did you mean '{right}'?")),
                "{message}"
            );
        }
        assert!(unknown("zzz", "foldhost.toml").contains("there are cluster, data"));
    }

    #[test]
    fn sections_and_kafka_keys_are_known() {
        for path in [
            "http",
            "auth.tokens",
            "kafka",
            "kafka.bootstrap.servers",
            "listen",
        ] {
            assert!(is_known(path), "{path}");
        }
        for path in ["kafkas", "list", "http.listen", "auth.token"] {
            assert!(!is_known(path), "{path}");
        }
    }
}
