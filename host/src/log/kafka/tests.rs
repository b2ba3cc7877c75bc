//! What can be seen without a broker: which settings the built client takes, and what it says when
//! no broker is there. Everything else runs against a real one, in `tests/tests/log_port`.

use std::collections::BTreeMap;

use rdkafka::consumer::BaseConsumer;

use super::context::Context;
use super::*;

fn settings(pairs: &[(&str, &str)]) -> KafkaSettings {
    let mut properties =
        BTreeMap::from([("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())]);
    properties.extend(
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    KafkaSettings::new(properties)
}

/// Makes a client of every kind, as the host does.
fn make(pairs: &[(&str, &str)]) -> Result<(), LogError> {
    let settings = settings(pairs);
    let log = KafkaLog::new(settings.clone(), Clock::system())?;
    let reader = settings.reader("test", settings.reader_queue_bytes_max);
    let made = reader.create_with_context::<_, BaseConsumer<Context>>(Context::new("test"));
    made.map_err(|error| error::made(&error))?;
    Writer::new(&settings.writer("test"), "test", Arc::clone(&log.placing))?;
    Writer::new(
        &settings.transactional("test"),
        "test",
        Arc::clone(&log.placing),
    )?;
    publisher::Bulk::new(&settings.publisher("test"), "test")?;
    Ok(())
}

#[tokio::test]
async fn tls_and_every_way_to_log_in_are_built_in() {
    make(&[("security.protocol", "SSL")]).unwrap();
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] {
        make(&[
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanisms", mechanism),
            ("sasl.username", "u"),
            ("sasl.password", "p"),
        ])
        .unwrap_or_else(|error| panic!("{mechanism}: {error}"));
    }
    make(&[
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanisms", "OAUTHBEARER"),
        ("enable.sasl.oauthbearer.unsecure.jwt", "true"),
    ])
    .unwrap();
}

#[tokio::test]
async fn every_compression_is_built_in() {
    for codec in ["gzip", "snappy", "lz4", "zstd", "none"] {
        make(&[("compression.codec", codec)]).unwrap_or_else(|error| panic!("{codec}: {error}"));
    }
    let native = settings(&[]).writer("test").create_native_config().unwrap();
    let features = native.get("builtin.features").unwrap();
    for feature in [
        "gzip",
        "snappy",
        "ssl",
        "sasl_scram",
        "sasl_plain",
        "sasl_oauthbearer",
        "lz4",
        "zstd",
    ] {
        assert!(
            features.split(',').any(|built| built == feature),
            "{feature} in {features}"
        );
    }
}

#[tokio::test]
async fn a_property_that_is_not_taken_is_named() {
    for (key, value) in [("no.such.property", "1"), ("socket.timeout.ms", "soon")] {
        let error = make(&[(key, value)]).unwrap_err();
        assert!(
            matches!(&error, LogError::Rejected(why) if why.contains(key)),
            "{error}"
        );
    }
    let error = make(&[("isolation.level", "read_uncommitted")]).unwrap_err();
    assert!(
        matches!(&error, LogError::Rejected(why) if why.contains("set by the host")),
        "{error}"
    );
}

#[tokio::test]
async fn a_log_that_is_not_there_says_so() {
    let mut pairs = vec![("socket.timeout.ms", "1000")];
    pairs.push(("socket.connection.setup.timeout.ms", "1000"));
    let log = KafkaLog::new(settings(&pairs), Clock::system()).unwrap();
    let error = log.check().await.unwrap_err();
    assert!(matches!(error, LogError::Unavailable(_)), "{error}");
    assert!(error.is_transient());
}
