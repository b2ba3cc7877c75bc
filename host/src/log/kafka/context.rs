//! What librdkafka tells besides answers: its log, and errors of the client as a whole. One context
//! belongs to each client; its [`Health`] is read when an answer stays away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio::sync::watch;

use super::super::LogError;
use super::token;

/// Whether a client reaches its brokers, as far as librdkafka tells.
#[derive(Debug)]
pub(super) struct Health {
    /// The last error of the client as a whole; empty once something has worked again.
    last_error: Mutex<String>,
    /// Whether there is one: each delivery asks.
    has_failed: AtomicBool,
    /// How often all brokers were gone.
    outages: watch::Sender<u64>,
}

impl Health {
    fn new() -> Self {
        Self {
            last_error: Mutex::new(String::new()),
            has_failed: AtomicBool::new(false),
            outages: watch::Sender::new(0),
        }
    }

    /// Something was answered: what went wrong before does not explain what goes wrong next.
    pub(super) fn answered(&self) {
        if self.has_failed.load(Ordering::Relaxed) {
            let mut last_error = self.last_error.lock();
            last_error.clear();
            self.has_failed.store(false, Ordering::Relaxed);
        }
    }

    /// Changes whenever all brokers are gone.
    pub(super) fn outages(&self) -> watch::Receiver<u64> {
        self.outages.subscribe()
    }

    /// The error that says that no broker answers, with the last reason.
    pub(super) fn outage(&self) -> LogError {
        let last_error = self.last_error.lock();
        let reason = if last_error.is_empty() {
            "no broker can be reached"
        } else {
            &last_error
        };
        LogError::Unavailable(reason.to_owned())
    }

    /// Adds the last reason to an error that only says that no answer came.
    pub(super) fn explain(&self, error: LogError) -> LogError {
        let last_error = self.last_error.lock();
        match error {
            LogError::Unavailable(text) if !last_error.is_empty() => {
                LogError::Unavailable(format!("{text}; {last_error}"))
            }
            other => other,
        }
    }
}

/// The context of clients that only read or ask.
#[derive(Debug, Clone)]
pub(super) struct Context {
    client: Arc<str>,
    health: Arc<Health>,
}

impl Context {
    /// A context of the client of this name, which shows in the host's log.
    pub(super) fn new(client: &str) -> Self {
        Self {
            client: Arc::from(client),
            health: Arc::new(Health::new()),
        }
    }

    /// What is known of the client's brokers.
    pub(super) fn health(&self) -> &Arc<Health> {
        &self.health
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    // librdkafka logs every failed attempt to connect as an error; the host itself says once that
    // the log is away, so its levels count one less here.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = &*self.client;
        match level {
            // Properties of consumers are also given to producers, and the other way round.
            _ if facility == "CONFWARN" => {
                tracing::trace!(target: "librdkafka", client, facility, "{message}");
            }
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", client, facility, "{message}");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::info!(target: "librdkafka", client, facility, "{message}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::debug!(target: "librdkafka", client, facility, "{message}");
            }
            RDKafkaLogLevel::Debug => {
                tracing::trace!(target: "librdkafka", client, facility, "{message}");
            }
        }
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let client = &*self.client;
        if matches!(error, KafkaError::Global(Code::AllBrokersDown)) {
            self.health.outages.send_modify(|count| *count += 1);
            tracing::debug!(client, "no kafka broker can be reached: {reason}");
            return;
        }
        let mut last_error = self.health.last_error.lock();
        if *last_error != reason {
            tracing::warn!(client, "kafka client: {reason}");
            reason.clone_into(&mut last_error);
            self.health.has_failed.store(true, Ordering::Relaxed);
        }
    }

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        token::read(config).map_err(|error| {
            // librdkafka tries again by itself, and says only that no broker could be reached.
            self.error(KafkaError::Global(Code::Authentication), &error.to_string());
            error.into()
        })
    }
}

impl ConsumerContext for Context {}

/// The context of a client that is told more: the common one, and where that goes.
pub(super) struct Extended<T> {
    pub(super) common: Context,
    pub(super) own: T,
}

impl<T: Send + Sync + 'static> ClientContext for Extended<T> {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.common.log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.common.stats_raw(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.common.error(error, reason);
    }

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.common.generate_oauth_token(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_counted_and_explained() {
        let context = Context::new("test");
        let outages = context.health().outages();
        context.error(KafkaError::Global(Code::Resolve), "no such host");
        context.error(
            KafkaError::Global(Code::AllBrokersDown),
            "1/1 brokers are down",
        );
        assert!(outages.has_changed().unwrap());
        assert!(
            context
                .health()
                .outage()
                .to_string()
                .contains("no such host")
        );
        context.health().answered();
        assert!(
            context
                .health()
                .outage()
                .to_string()
                .contains("no broker can be reached")
        );
    }

    #[test]
    fn only_silence_is_explained() {
        let context = Context::new("test");
        context.error(KafkaError::Global(Code::SSL), "certificate expired");
        let explained = context
            .health()
            .explain(LogError::Unavailable("asking".into()));
        assert!(explained.to_string().contains("certificate expired"));
        let refused = context
            .health()
            .explain(LogError::Rejected("asking".into()));
        assert!(!refused.to_string().contains("certificate"));
    }
}
