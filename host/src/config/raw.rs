//! The configuration as it is written: names, shapes and defaults, nothing checked yet.
//! Filled by `sources`, turned into a `Config` by `checked`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kafka;
use super::units::ByteSize;
use crate::limits;

/// All fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) cluster: String,
    pub(super) data: String,
    pub(super) listen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admin_listen: Option<String>,
    pub(super) insecure: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
    pub(super) http: RawHttp,
    pub(super) topics: RawTopics,
    pub(super) objects: RawObjects,
    pub(super) state: RawState,
    pub(super) worker: RawWorker,
    #[serde(deserialize_with = "kafka::properties")]
    pub(super) kafka: BTreeMap<String, String>,
    pub(super) auth: RawAuth,
}

/// `[http]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawHttp {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advertise: Option<String>,
    pub(super) cors_origins: Vec<String>,
    pub(super) record_bytes_max: ByteSize,
}

/// `[topics]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawTopics {
    pub(super) create: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replication_factor: Option<i64>,
    pub(super) partitions: i64,
}

/// `[objects]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawObjects {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
}

/// `[state]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawState {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cache_bytes: Option<ByteSize>,
}

/// `[worker]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawWorker {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) threads: Option<i64>,
    pub(super) writer_idle_seconds: i64,
}

/// `[auth]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawAuth {
    pub(super) tokens: Vec<RawToken>,
}

/// One of `[[auth.tokens]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawToken {
    pub(super) name: String,
    pub(super) sha256: String,
    pub(super) scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) plugins: Option<Vec<String>>,
}

impl RawConfig {
    /// What holds where nothing is written.
    pub(super) fn defaults(data: &str) -> Self {
        Self {
            cluster: "foldhost".to_owned(),
            data: data.to_owned(),
            listen: "127.0.0.1:8080".to_owned(),
            admin_listen: None,
            insecure: false,
            instance: None,
            http: RawHttp {
                advertise: None,
                cors_origins: Vec::new(),
                record_bytes_max: ByteSize(limits::RECORD_BYTES_DEFAULT),
            },
            topics: RawTopics {
                create: "auto".to_owned(),
                replication_factor: None,
                partitions: i64::from(limits::PARTITIONS_DEFAULT),
            },
            objects: RawObjects::default(),
            state: RawState::default(),
            worker: RawWorker {
                threads: None,
                writer_idle_seconds: limits::WRITER_IDLE_SECONDS.into(),
            },
            kafka: BTreeMap::new(),
            auth: RawAuth::default(),
        }
    }

    /// All fields as TOML. Kafka's secrets are replaced by stars; tokens are digests anyway.
    pub(super) fn dump(&self) -> String {
        let mut shown = self.clone();
        for (key, value) in &mut shown.kafka {
            if kafka::is_secret(key) {
                *value = "***".to_owned();
            }
        }
        toml::to_string(&shown).expect("tables of texts, numbers and flags are always TOML")
    }
}
