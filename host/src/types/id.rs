//! Names (plugin, topic, cluster) and numbers (deployment, generation, epoch, digest).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Partition;
use crate::limits;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is not a {what}: use {allowed}")]
pub struct InvalidName {
    what: &'static str,
    name: String,
    allowed: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $allowed:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`InvalidName`] says which characters and lengths are allowed.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(name) {
                    Ok(Self(Arc::from(name)))
                } else {
                    Err(InvalidName { what: $what, name: name.to_owned(), allowed: $allowed })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }
    };
}

name_type!(
    /// Name of a plugin, unique in a cluster: `[a-z0-9-]`, 1 to 64 characters, no dash at either end.
    PluginName,
    "plugin name",
    "1 to 64 of a-z, 0-9 and '-', with no '-' at either end",
    |name| {
        (1..=limits::NAME_LENGTH_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-')
    }
);

name_type!(
    /// Name of a topic by Kafka's rules: `[a-zA-Z0-9._-]`, 1 to 249 characters, not `.` or `..`.
    TopicName,
    "topic name",
    "1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-', and not '.' or '..'",
    |name| {
        (1..=limits::TOPIC_NAME_LENGTH_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && name != "."
            && name != ".."
    }
);

name_type!(
    /// Name of a cluster of hosts, the first part of every topic, group and transactional id that
    /// foldhost owns.
    ClusterName,
    "cluster name",
    "1 to 64 of a-z, 0-9 and '-', with no '-' at either end",
    |name| PluginName::new(name).is_ok()
);

impl ClusterName {
    /// `<cluster>.deployments`, the log of deployments.
    #[must_use]
    pub fn deployments_topic(&self) -> TopicName {
        self.topic("deployments")
    }

    /// `<cluster>.<plugin>.journal`, whose group assignment decides who owns what.
    #[must_use]
    pub fn journal_topic(&self, plugin: &PluginName) -> TopicName {
        self.topic(&format!("{plugin}.journal"))
    }

    /// `<cluster>.<plugin>.dead-letters`, for events that could not be applied.
    #[must_use]
    pub fn dead_letters_topic(&self, plugin: &PluginName) -> TopicName {
        self.topic(&format!("{plugin}.dead-letters"))
    }

    /// `<cluster>.<plugin>.merge.<n>`, into which the inputs of a plugin are merged.
    #[must_use]
    pub fn merge_topic(&self, plugin: &PluginName, number: u64) -> TopicName {
        self.topic(&format!("{plugin}.merge.{number}"))
    }

    /// The plugin and the number of a merge topic of this cluster; `None` for other topics.
    #[must_use]
    pub fn read_merge_topic(&self, topic: &TopicName) -> Option<(PluginName, u64)> {
        let rest = topic.as_str().strip_prefix(self.as_str())?;
        let (name, number) = rest.strip_prefix('.')?.split_once(".merge.")?;
        Some((PluginName::new(name).ok()?, number.parse().ok()?))
    }

    /// `<cluster>.<plugin>.<partition>`, under which the serving generation publishes.
    #[must_use]
    pub fn transactional_id(&self, plugin: &PluginName, partition: Partition) -> String {
        format!("{self}.{plugin}.{partition}")
    }

    /// `<cluster>.<plugin>.merge-in.<n>.<topic>.<partition>`, under which a partition of an input is copied.
    #[must_use]
    pub fn merge_id(
        &self,
        plugin: &PluginName,
        number: u64,
        topic: &TopicName,
        partition: Partition,
    ) -> String {
        format!("{self}.{plugin}.merge-in.{number}.{topic}.{partition}")
    }

    /// `<cluster>.demo.progress`, how far the demo's loader has come.
    #[must_use]
    pub fn demo_progress_topic(&self) -> TopicName {
        self.topic("demo.progress")
    }

    /// `<cluster>.<plugin>`, the consumer group of a plugin.
    #[must_use]
    pub fn group(&self, plugin: &PluginName) -> String {
        format!("{self}.{plugin}")
    }

    /// Whether the host owns a topic of this name: such topics take no appends from outside.
    #[must_use]
    pub fn owns_topic(&self, topic: &TopicName) -> bool {
        topic
            .as_str()
            .strip_prefix(self.as_str())
            .is_some_and(|rest| rest.starts_with('.'))
    }

    fn topic(&self, suffix: &str) -> TopicName {
        TopicName::new(&format!("{self}.{suffix}"))
            .expect("cluster and plugin names are short and use a topic's characters")
    }
}

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_type!(
    /// Number of a deployment: the offset of its request in the deployments topic, so it grows and
    /// is never reused.
    DeploymentId
);
number_type!(
    /// Number of a generation, one build-up of a plugin's state; never reused, even after a delete.
    GenerationId
);
number_type!(
    /// Number of an ownership of one partition: the higher one is the later owner.
    Epoch
);

impl Epoch {
    /// The epoch of the next owner.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// SHA-256 of a component's bytes: its identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps 32 bytes that are a SHA-256.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Computes the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hexadecimal digits, as in an `ETag`.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName {
            what: "sha-256 digest",
            name: text.to_owned(),
            allowed: "64 hexadecimal digits",
        };
        if text.len() != 64 || !text.is_ascii() {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte =
                u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).map_err(|_| invalid())?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_once() {
        assert!(PluginName::new("plane-tracker").is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(65)] {
            assert!(PluginName::new(bad).is_err(), "{bad}");
        }
        assert!(TopicName::new("flights.v1_x").is_ok());
        for bad in ["", ".", "..", "a b", "ä", &"a".repeat(250)] {
            assert!(TopicName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_topics_are_recognised_by_their_cluster() {
        let cluster = ClusterName::new("foldhost").unwrap();
        assert!(cluster.owns_topic(&cluster.deployments_topic()));
        assert!(!cluster.owns_topic(&TopicName::new("foldhost-flights").unwrap()));
        let plugin = PluginName::new("a").unwrap();
        let merge = cluster.merge_topic(&plugin, 7);
        assert_eq!(cluster.read_merge_topic(&merge), Some((plugin.clone(), 7)));
        assert_eq!(
            cluster.read_merge_topic(&cluster.journal_topic(&plugin)),
            None
        );
    }

    #[test]
    fn a_digest_reads_back() {
        let digest = Digest::of(b"component");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("zz".parse::<Digest>().is_err());
    }
}
