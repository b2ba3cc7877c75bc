//! Precedence, unknown fields, and every check of the configuration.

use std::path::PathBuf;

use super::raw::{RawConfig, RawToken};
use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn load_text(text: &str) -> Result<Config, ConfigError> {
    let file = file(text);
    load(
        Some(file.path()),
        &Environment::default(),
        &Flags::default(),
        DATA_DEFAULT,
    )
    .map(|loaded| loaded.config)
}

fn faults(text: &str) -> Vec<String> {
    load_text(text).expect_err("must be refused").faults
}

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| (*name, *value)).collect()
}

#[test]
fn nothing_written_is_the_embedded_log_on_loopback() {
    let loaded = load(
        None,
        &Environment::default(),
        &Flags::default(),
        DATA_DEFAULT,
    )
    .unwrap()
    .config;
    assert_eq!(loaded.cluster.as_str(), "foldhost");
    assert_eq!(loaded.data, PathBuf::from("./foldhost-data"));
    assert_eq!(loaded.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(loaded.topics.partitions, 4);
    assert!(loaded.kafka.is_none() && loaded.http.auth.is_open());
    assert!(loaded.worker.threads >= 1);
}

#[test]
fn a_flag_beats_the_environment_beats_the_file() {
    let file = file("cluster = \"of-file\"\nlisten = \"127.0.0.1:1\"\ndata = \"/file\"\n");
    let environment = environment(&[
        ("FOLDHOST__LISTEN", "127.0.0.1:2"),
        ("FOLDHOST__DATA", "/environment"),
    ]);
    let flags = Flags {
        data: Some(PathBuf::from("/flag")),
        ..Flags::default()
    };
    let config = load(Some(file.path()), &environment, &flags, DATA_DEFAULT)
        .unwrap()
        .config;
    assert_eq!(config.cluster.as_str(), "of-file");
    assert_eq!(config.listen.port(), 2);
    assert_eq!(config.data, PathBuf::from("/flag"));
}

#[test]
fn the_environment_reaches_every_kind_of_field() {
    let digest = "a".repeat(64);
    let tokens = format!("[{{name=\"ops\",sha256=\"{digest}\",scopes=[\"operate\"]}}]");
    let environment = environment(&[
        ("FOLDHOST__CLUSTER", "2013"),
        ("FOLDHOST__INSECURE", "true"),
        ("FOLDHOST__ADMIN_LISTEN", "127.0.0.1:9"),
        (
            "FOLDHOST__HTTP__CORS_ORIGINS",
            "https://a.example, https://b.example",
        ),
        ("FOLDHOST__HTTP__RECORD_BYTES_MAX", "2MiB"),
        ("FOLDHOST__TOPICS__PARTITIONS", "7"),
        ("FOLDHOST__AUTH__TOKENS", &tokens),
        ("FOLDHOST__KAFKA__BOOTSTRAP_SERVERS", "a:9092,b:9092"),
        ("FOLDHOST__KAFKA__SASL_PASSWORD", "0123"),
        ("FOLDHOST_URL", "is not configuration"),
    ]);
    let loaded = load(None, &environment, &Flags::default(), DATA_DEFAULT).unwrap();
    let config = loaded.config;
    assert_eq!(config.cluster.as_str(), "2013");
    assert!(config.insecure);
    assert_eq!(config.admin_listen.unwrap().port(), 9);
    assert_eq!(
        config.http.cors_origins,
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(config.http.record_bytes_max, 2 << 20);
    assert_eq!(config.topics.partitions, 7);
    assert_eq!(config.http.auth.tokens[0].name, "ops");
    let kafka = config.kafka.unwrap();
    assert_eq!(kafka.bootstrap_servers(), "a:9092,b:9092");
    assert_eq!(kafka.as_map()["sasl.password"], "0123");
    assert!(
        loaded.dump.contains("***") && !loaded.dump.contains("0123"),
        "{}",
        loaded.dump
    );
}

#[test]
fn a_dump_loads_as_the_same_configuration() {
    let text = "insecure = true\nlisten = \"0.0.0.0:80\"\n[state]\ncache-bytes = \"1GiB\"\n\
                [kafka]\n\"bootstrap.servers\" = \"a:1\"\n[worker]\nthreads = 3\n";
    let file = file(text);
    let loaded = load(
        Some(file.path()),
        &Environment::default(),
        &Flags::default(),
        DATA_DEFAULT,
    )
    .unwrap();
    assert_eq!(load_text(&loaded.dump).unwrap(), loaded.config);
}

#[test]
fn every_unknown_field_is_named_with_its_place() {
    let found = faults("clustr = \"a\"\n[http]\ncors-origin = []\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("'clustr'") && found[0].contains("'cluster'"),
        "{}",
        found[0]
    );
    assert!(found[1].contains("'http.cors-origins'"), "{}", found[1]);
    let environment = environment(&[("FOLDHOST__HTP__ADVERTISE", "x")]);
    let error = load(None, &environment, &Flags::default(), DATA_DEFAULT)
        .unwrap_err()
        .to_string();
    assert!(error.contains("FOLDHOST__HTP__ADVERTISE"), "{error}");
    assert!(error.contains("'http.advertise'"), "{error}");
}

#[test]
fn wrong_types_and_broken_files_say_where() {
    let error = load_text("[topics]\npartitions = \"many\"\n")
        .unwrap_err()
        .to_string();
    assert!(error.contains("topics.partitions"), "{error}");
    let error = load_text("[state]\ncache-bytes = \"lots\"\n")
        .unwrap_err()
        .to_string();
    assert!(error.contains("256MiB"), "{error}");
    assert!(
        load_text("cluster = ")
            .unwrap_err()
            .to_string()
            .contains("is not TOML")
    );
    let missing = std::path::Path::new("no/such/file.toml");
    let error = load(
        Some(missing),
        &Environment::default(),
        &Flags::default(),
        DATA_DEFAULT,
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("cannot read no/such/file.toml"), "{error}");
}

#[test]
fn listening_beyond_loopback_needs_tokens_or_a_word() {
    let found = faults("listen = \"0.0.0.0:8080\"\n");
    assert!(
        found[0].contains("--insecure") && found[0].contains("[[auth.tokens]]"),
        "{found:?}"
    );
    assert!(faults("admin-listen = \"[::]:8081\"\n")[0].contains("[::]:8081"));
    assert!(load_text("listen = \"0.0.0.0:8080\"\ninsecure = true\n").is_ok());
    let token = format!(
        "listen = \"0.0.0.0:8080\"\n[[auth.tokens]]\nname = \"a\"\nsha256 = \"{}\"\n\
         scopes = [\"query\"]\n",
        "0".repeat(64)
    );
    assert!(load_text(&token).is_ok());
}

#[test]
fn all_faults_are_listed_at_once() {
    let text = "cluster = \"No Good\"\nlisten = \"somewhere\"\ninstance = \"a b\"\n\
                [http]\nadvertise = \"host:1/path\"\nrecord-bytes-max = \"1GiB\"\n\
                cors-origins = [\"example.com\"]\n\
                [topics]\ncreate = \"maybe\"\npartitions = 0\nreplication-factor = 0\n\
                [objects]\nurl = \"ftp://x\"\n[worker]\nthreads = 0\nwriter-idle-seconds = 0\n\
                [kafka]\n\"client.id\" = \"x\"\n\
                [[auth.tokens]]\nname = \"\"\nsha256 = \"zz\"\nscopes = []\n\
                [[auth.tokens]]\nname = \"b\"\nsha256 = \"zz\"\nscopes = [\"root\"]\n";
    let found = faults(text);
    for part in [
        "cluster:",
        "listen:",
        "instance:",
        "http.advertise:",
        "http.record-bytes-max:",
        "http.cors-origins:",
        "topics.create:",
        "topics.partitions:",
        "topics.replication-factor:",
        "objects.url:",
        "worker.threads:",
        "worker.writer-idle-seconds:",
        "bootstrap.servers",
        "auth.tokens[0]: name",
        "auth.tokens[0]: no scopes",
        "auth.tokens[1].sha256:",
        "'root' is not a scope",
    ] {
        assert!(
            found.iter().any(|fault| fault.contains(part)),
            "{part}: {found:#?}"
        );
    }
}

#[test]
fn object_stores_are_recognised() {
    for good in ["file:///srv/objects", "s3://bucket/prefix"] {
        let config = load_text(&format!("[objects]\nurl = \"{good}\"\n")).unwrap();
        assert_eq!(config.objects_url.as_deref(), Some(good));
    }
    for bad in ["file://relative", "s3://", "/plain", "gs://x"] {
        assert!(
            load_text(&format!("[objects]\nurl = \"{bad}\"\n")).is_err(),
            "{bad}"
        );
    }
}

/// The table of names and the structure cannot drift apart.
#[test]
fn the_table_names_the_fields_of_the_structure() {
    let mut all = RawConfig::defaults("data");
    all.admin_listen = Some(String::new());
    all.instance = Some(String::new());
    all.http.advertise = Some(String::new());
    all.topics.replication_factor = Some(1);
    all.objects.url = Some(String::new());
    all.state.cache_bytes = Some(ByteSize(1));
    all.worker.threads = Some(1);
    all.auth.tokens.push(RawToken {
        name: String::new(),
        sha256: String::new(),
        scopes: Vec::new(),
        plugins: Some(Vec::new()),
    });
    let mut paths = Vec::new();
    collect("", &toml::Value::try_from(&all).unwrap(), &mut paths);
    let mut table: Vec<String> = fields::FIELDS
        .iter()
        .map(|(field, _)| (*field).to_owned())
        .collect();
    paths.sort();
    table.sort();
    assert_eq!(paths, table);
}

fn collect(path: &str, value: &toml::Value, into: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) if path != "kafka" => {
            for (key, value) in table {
                let below = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                collect(&below, value, into);
            }
        }
        toml::Value::Table(_) => {}
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            for item in items {
                collect(path, item, into);
            }
        }
        _ => into.push(path.to_owned()),
    }
}
