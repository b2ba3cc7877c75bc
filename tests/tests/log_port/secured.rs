//! Kafka behind TLS and every way to log in, with the client that is built into the host; and a
//! broker that would create a topic for anybody who asks for it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foldhost::clock::Clock;
use foldhost::log::kafka::{KafkaLog, KafkaSettings};
use foldhost::log::{Log, LogError};
use foldhost::types::{Offset, TopicName};
use foldhost_tests::kafka::Broker;
use foldhost_tests::paths::Scratch;
use foldhost_tests::wait::free_port;

use crate::bed::{assigned, create, part, read_committed, soon, to, values, wait_transactions};

const STORE_PASSWORD: &str = "store-secret";
const OAUTH_PACKAGE: &str = "org.apache.kafka.common.security.oauthbearer";

/// A broker with one more listener, which takes TLS and a login only.
struct Secured {
    port: u16,
    scratch: Scratch,
    _broker: Broker,
}

impl Secured {
    fn start() -> Result<Self> {
        let scratch = Scratch::new("secured")?;
        certificate(scratch.path())?;
        let port = free_port()?;
        let store = scratch.join("broker.p12");
        let extra = |plain, controller| settings(plain, controller, port, &store);
        let users = ["SCRAM-SHA-256", "SCRAM-SHA-512"]
            .map(|mechanism| format!("{mechanism}=[name=foldhost,password=scram-secret]"));
        let format = ["--add-scram", &users[0], "--add-scram", &users[1]];
        let broker = Broker::start_with(extra, &format)?;
        wait_transactions(&broker)?;
        Ok(Self {
            port,
            _broker: broker,
            scratch,
        })
    }

    fn log(&self, properties: &[(&str, &str)]) -> Result<KafkaLog> {
        let authority = self.scratch.join("broker.pem").display().to_string();
        let bootstrap = format!("127.0.0.1:{}", self.port);
        let mut all = vec![
            ("bootstrap.servers", bootstrap.as_str()),
            ("security.protocol", "SASL_SSL"),
            ("ssl.ca.location", &authority),
        ];
        all.extend(properties);
        let owned = all
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let settings = KafkaSettings::new(owned.collect());
        Ok(KafkaLog::new(settings, Clock::system())?)
    }
}

/// A key and a certificate for the loopback address, made by the tool that comes with Java.
fn certificate(folder: &Path) -> Result<()> {
    let keytool = |arguments: &[&str]| -> Result<()> {
        let made = Command::new("keytool")
            .args(arguments)
            .args(["-alias", "broker", "-keystore", "broker.p12"])
            .args(["-storetype", "PKCS12", "-storepass", STORE_PASSWORD])
            .current_dir(folder)
            .output()
            .context("cannot start keytool, which comes with Java")?;
        ensure!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stdout)
        );
        Ok(())
    };
    keytool(&[
        "-genkeypair",
        "-keyalg",
        "EC",
        "-dname",
        "CN=127.0.0.1",
        "-ext",
        "san=ip:127.0.0.1",
    ])?;
    keytool(&["-exportcert", "-rfc", "-file", "broker.pem"])
}

fn settings(plain: u16, controller: u16, port: u16, store: &Path) -> String {
    let listeners = format!(
        "PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},SASL_SSL://127.0.0.1:{port}"
    );
    let login = "listener.name.sasl_ssl";
    let security = "org.apache.kafka.common.security";
    format!(
        "\nlisteners={listeners}\n\
         advertised.listeners={listeners}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL\n\
         auto.create.topics.enable=true\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER\n\
         ssl.keystore.location={store}\n\
         ssl.keystore.type=PKCS12\n\
         ssl.keystore.password={STORE_PASSWORD}\n\
         {login}.plain.sasl.jaas.config={security}.plain.PlainLoginModule required \
             user_foldhost=\"plain-secret\";\n\
         {login}.scram-sha-256.sasl.jaas.config={security}.scram.ScramLoginModule required;\n\
         {login}.scram-sha-512.sasl.jaas.config={security}.scram.ScramLoginModule required;\n\
         {login}.oauthbearer.sasl.jaas.config={OAUTH_PACKAGE}.OAuthBearerLoginModule required \
             unsecuredLoginStringClaim_sub=\"broker\";\n\
         {login}.oauthbearer.sasl.server.callback.handler.class=\
             {OAUTH_PACKAGE}.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler\n",
        store = store.display(),
    )
}

/// A token that a broker for tests takes: nobody has signed it.
fn token() -> String {
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let claims = r#"{"sub":"foldhost","iat":1700000000,"exp":4102444800}"#;
    format!("{}.{}.", part(r#"{"alg":"none"}"#), part(claims))
}

/// Uses every kind of client that the host has.
async fn works(log: &KafkaLog, name: &str) -> Result<()> {
    let topic = TopicName::new(name)?;
    create(log, &topic, 1).await?;
    log.append(&topic, vec![to(0, "appended")]).await?;
    let mut writer = log.transactional(&format!("{name}.0")).await?;
    writer
        .commit(vec![(topic.clone(), to(0, "committed"))])
        .await?;
    let set = log.reader_set(name)?;
    let mut reader = set.open(&part(&topic, 0), Offset(0)).await?;
    let rows = read_committed(&mut *reader, 2).await?;
    ensure!(values(&rows) == ["appended", "committed"], "{rows:?}");
    let member = log.join(name, "host-1", &topic).await?;
    ensure!(assigned(&*member).await?.len() == 1);
    member.confirm().await?;
    soon("the member to leave", member.leave()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_every_way_to_log_in_work() -> Result<()> {
    let secured = Secured::start()?;
    for (mechanism, password) in [
        ("PLAIN", "plain-secret"),
        ("SCRAM-SHA-256", "scram-secret"),
        ("SCRAM-SHA-512", "scram-secret"),
    ] {
        let log = secured.log(&[
            ("sasl.mechanisms", mechanism),
            ("sasl.username", "foldhost"),
            ("sasl.password", password),
        ])?;
        works(&log, mechanism).await.context(mechanism)?;
    }

    let file = secured.scratch.join("token");
    std::fs::write(&file, token())?;
    let config = format!("token-file={}", file.display());
    let by_token = [
        ("sasl.mechanisms", "OAUTHBEARER"),
        ("sasl.oauthbearer.config", &*config),
    ];
    let log = secured.log(&by_token)?;
    works(&log, "OAUTHBEARER").await?;

    // Nothing is created by asking, although this broker would.
    let missing = TopicName::new("missing")?;
    let error = log.append(&missing, vec![to(0, "v")]).await.unwrap_err();
    ensure!(matches!(error, LogError::UnknownTopic(_)), "{error}");
    ensure!(log.range(&part(&missing, 0)).await.is_err());
    ensure!(log.join("missing", "host-1", &missing).await.is_err());
    ensure!(log.topic(&missing).await?.is_none());
    // Nor by a producer that has written to a topic that is gone.
    let gone = TopicName::new("PLAIN")?;
    log.append(&gone, vec![to(0, "v")]).await?;
    log.delete_topic(&gone).await?;
    let error = log.append(&gone, vec![to(0, "v")]).await.unwrap_err();
    ensure!(matches!(error, LogError::UnknownTopic(_)), "{error}");
    ensure!(
        log.topics()
            .await?
            .iter()
            .all(|topic| ![&gone, &missing].contains(&&topic.name))
    );

    let wrong = secured.log(&[
        ("sasl.mechanisms", "SCRAM-SHA-256"),
        ("sasl.username", "foldhost"),
        ("sasl.password", "wrong"),
    ])?;
    let error = wrong.check().await.unwrap_err();
    ensure!(
        error.to_string().to_lowercase().contains("authentication"),
        "{error}"
    );
    Ok(())
}
