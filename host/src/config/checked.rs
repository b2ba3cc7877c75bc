//! From what is written to a [`Config`]: reads names, addresses and URLs, and lists every fault.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use super::http::{AuthSettings, HttpSettings, Scope, Token};
use super::kafka::KafkaProperties;
use super::memory::states_of_machine;
use super::raw::{RawConfig, RawHttp, RawState, RawToken, RawTopics, RawWorker};
use super::{Config, ConfigError, StateSettings, TopicCreation, TopicSettings, WorkerSettings};
use crate::limits;
use crate::types::{ClusterName, Digest, PluginName};

/// Checks everything.
pub(super) fn check(raw: RawConfig) -> Result<Config, ConfigError> {
    let mut faults = Faults::default();
    let cluster = faults.take("cluster", ClusterName::new(&raw.cluster));
    let listen = faults.take("listen", address(&raw.listen));
    let admin_listen = raw
        .admin_listen
        .as_deref()
        .and_then(|text| faults.take("admin-listen", address(text)));
    let auth = AuthSettings {
        tokens: tokens(&raw.auth.tokens, &mut faults),
    };
    exposure(&[listen, admin_listen], raw.insecure, &auth, &mut faults);
    same_port(listen, admin_listen, &mut faults);
    let http = http(raw.http, auth, &mut faults);
    let topics = topics(&raw.topics, &mut faults);
    let objects_url = raw
        .objects
        .url
        .and_then(|url| faults.take("objects.url", objects_url(url)));
    let worker = worker(&raw.worker, &mut faults);
    let instance = raw
        .instance
        .and_then(|name| faults.take("instance", instance(name)));
    if raw.data.is_empty() {
        faults.add("data is empty: name a folder");
    }
    if !raw.kafka.is_empty() && KafkaProperties::new(raw.kafka.clone()).is_none() {
        let keys: Vec<&str> = raw.kafka.keys().map(String::as_str).collect();
        faults.add(format!(
            "[kafka] has {} but no \"{}\": set it, or remove the section to use the embedded log",
            keys.join(", "),
            KafkaProperties::BOOTSTRAP
        ));
    }
    let state = state(&raw.state, &mut faults);
    match (cluster, listen, faults.0.is_empty()) {
        (Some(cluster), Some(listen), true) => Ok(Config {
            cluster,
            data: PathBuf::from(raw.data),
            listen,
            admin_listen,
            insecure: raw.insecure,
            instance,
            http,
            kafka: KafkaProperties::new(raw.kafka),
            topics,
            objects_url,
            state,
            worker,
        }),
        _ => Err(ConfigError::new(faults.0)),
    }
}

/// Faults found so far.
#[derive(Debug, Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: impl Into<String>) {
        self.0.push(fault.into());
    }

    fn take<T, E: std::fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.add(format!("{field}: {error}")))
            .ok()
    }
}

/// `host:port`; `localhost` is the loopback address, other names are not looked up.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text
        .strip_prefix("localhost:")
        .and_then(|port| port.parse().ok())
    {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        format!("'{text}' is not an address: write an IP address and a port, as in 127.0.0.1:8080")
    })
}

fn exposure(
    addresses: &[Option<SocketAddr>],
    insecure: bool,
    auth: &AuthSettings,
    faults: &mut Faults,
) {
    if insecure || !auth.is_open() {
        return;
    }
    for address in addresses
        .iter()
        .flatten()
        .filter(|address| !address.ip().is_loopback())
    {
        faults.add(format!(
            "{address} can be reached from other machines and there are no tokens, so anybody could \
             deploy code: add [[auth.tokens]] (name, sha256, scopes), listen on 127.0.0.1, or pass \
             --insecure if the network protects it"
        ));
    }
}

fn same_port(listen: Option<SocketAddr>, admin: Option<SocketAddr>, faults: &mut Faults) {
    if let (Some(listen), Some(admin)) = (listen, admin)
        && listen == admin
        && listen.port() != 0
    {
        faults.add("admin-listen is the same address as listen: give it a port of its own");
    }
}

fn tokens(raw: &[RawToken], faults: &mut Faults) -> Vec<Token> {
    let mut names = BTreeSet::new();
    raw.iter()
        .enumerate()
        .filter_map(|(index, token)| {
            let field = format!("auth.tokens[{index}]");
            if token.name.trim().is_empty() {
                faults.add(format!("{field}: name is empty: it says who did what"));
            } else if !names.insert(token.name.as_str()) {
                faults.add(format!("{field}: the name '{}' stands twice", token.name));
            }
            if token.scopes.is_empty() {
                faults.add(format!(
                    "{field}: no scopes: list some of {}",
                    scope_names()
                ));
            }
            let sha256 = faults.take(
                &format!("{field}.sha256"),
                token
                    .sha256
                    .to_ascii_lowercase()
                    .parse::<Digest>()
                    .map_err(|error| {
                        format!("{error}; it is what `printf %s \"$TOKEN\" | sha256sum` prints")
                    }),
            );
            let scopes = token.scopes.iter().filter_map(|scope| {
                faults.take(&format!("{field}.scopes"), scope.parse::<Scope>())
            });
            let scopes = scopes.collect();
            let plugins = token.plugins.as_ref().map(|names| {
                let plugins = names.iter().filter_map(|name| {
                    faults.take(&format!("{field}.plugins"), PluginName::new(name))
                });
                plugins.collect()
            });
            Some(Token {
                name: token.name.clone(),
                sha256: sha256?,
                scopes,
                plugins,
            })
        })
        .collect()
}

fn scope_names() -> String {
    Scope::ALL.map(Scope::as_str).join(", ")
}

fn http(raw: RawHttp, auth: AuthSettings, faults: &mut Faults) -> HttpSettings {
    let advertise = raw
        .advertise
        .and_then(|url| faults.take("http.advertise", base_url(&url)));
    for origin in &raw.cors_origins {
        if origin != "*" && base_url(origin).is_err() {
            faults.add(format!(
                "http.cors-origins: '{origin}' is not an origin: write one as in \
                 https://example.com, or \"*\""
            ));
        }
    }
    let bytes = raw.record_bytes_max.0;
    if !(1..=limits::RECORD_BYTES_MAX).contains(&bytes) {
        faults.add(format!(
            "http.record-bytes-max: {bytes} bytes is out of range: use 1 to {}",
            super::ByteSize(limits::RECORD_BYTES_MAX)
        ));
    }
    HttpSettings {
        advertise,
        cors_origins: raw.cors_origins,
        record_bytes_max: bytes,
        auth,
    }
}

/// A URL of a server without a path, without a slash at its end.
fn base_url(text: &str) -> Result<String, String> {
    let wrong =
        || format!("'{text}' is not a URL of a server: write one as in http://10.0.0.1:8080");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty();
    if plain {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err(wrong())
    }
}

fn objects_url(text: String) -> Result<String, String> {
    let wrong = |why: &str| {
        format!(
            "'{text}' is not an object store ({why}): write file:///folder or s3://bucket/prefix"
        )
    };
    let url = Url::parse(&text).map_err(|error| wrong(&error.to_string()))?;
    match url.scheme() {
        "file" if url.to_file_path().is_ok() => Ok(text),
        "file" => Err(wrong(
            "the path of a file URL is absolute, after three slashes",
        )),
        "s3" if url.host_str().is_some_and(|bucket| !bucket.is_empty()) => Ok(text),
        "s3" => Err(wrong("the bucket is missing")),
        other => Err(wrong(&format!("no such kind: {other}"))),
    }
}

fn topics(raw: &RawTopics, faults: &mut Faults) -> TopicSettings {
    let create = match raw.create.as_str() {
        "never" => TopicCreation::Never,
        "auto" => TopicCreation::Auto,
        other => {
            faults.add(format!(
                "topics.create: '{other}' is neither \"auto\" nor \"never\""
            ));
            TopicCreation::Never
        }
    };
    let replication_factor = raw.replication_factor.and_then(|factor| {
        let small = i32::try_from(factor)
            .ok()
            .filter(|factor| (1..=1_000).contains(factor));
        faults.take(
            "topics.replication-factor",
            small.ok_or(format!("{factor} is out of range: use 1 to 1000")),
        )
    });
    let partitions = u32::try_from(raw.partitions)
        .ok()
        .filter(|count| (1..=limits::PARTITIONS_MAX).contains(count))
        .ok_or_else(|| {
            format!(
                "{} is out of range: use 1 to {}",
                raw.partitions,
                limits::PARTITIONS_MAX
            )
        });
    let partitions = faults.take("topics.partitions", partitions);
    TopicSettings {
        create,
        replication_factor,
        partitions: partitions.unwrap_or(limits::PARTITIONS_DEFAULT),
    }
}

fn state(raw: &RawState, faults: &mut Faults) -> StateSettings {
    let cache_bytes = raw
        .cache_bytes
        .map_or_else(states_of_machine, |wanted| wanted.0);
    if cache_bytes < limits::STATE_CACHE_BYTES_MIN {
        faults.add(format!(
            "state.cache-bytes: {} is too little: use {} or more",
            super::ByteSize(cache_bytes),
            super::ByteSize(limits::STATE_CACHE_BYTES_MIN)
        ));
    }
    StateSettings { cache_bytes }
}

fn worker(raw: &RawWorker, faults: &mut Faults) -> WorkerSettings {
    let of_machine = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = match raw.threads {
        None => of_machine().min(limits::WORKER_THREADS_MAX),
        Some(wanted) => {
            let threads = whole(wanted, limits::WORKER_THREADS_MAX);
            faults.take("worker.threads", threads).unwrap_or(1)
        }
    };
    let seconds = whole(raw.writer_idle_seconds, limits::WRITER_IDLE_SECONDS_MAX);
    let seconds = faults.take("worker.writer-idle-seconds", seconds);
    WorkerSettings {
        threads,
        writer_idle: Duration::from_secs(seconds.unwrap_or(1) as u64),
    }
}

/// A number from 1 to `max`.
fn whole(wanted: i64, max: usize) -> Result<usize, String> {
    let number = usize::try_from(wanted).ok();
    let number = number.filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| format!("{wanted} is out of range: use 1 to {max}"))
}

/// The name goes into Kafka's `group.instance.id`, which takes the characters of a topic.
fn instance(name: String) -> Result<String, String> {
    let fits = (1..=limits::NAME_LENGTH_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits {
        Ok(name)
    } else {
        Err(format!(
            "'{name}' is not a host's name: use 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-'"
        ))
    }
}
