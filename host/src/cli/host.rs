//! Runs a host in the foreground: configuration, logging, signals, a clean stop. Called by `serve`
//! and `demo`.
//!
//! Invariant: SIGTERM and SIGINT end the process with a clean stop and exit code 0, at any moment.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::HostArgs;
use super::output;
use crate::config::{self, Config, ConfigError, Environment, Flags};
use crate::log::kafka;
use crate::node::Node;
use crate::telemetry;

/// What is logged unless the command or this variable says otherwise.
const LOG_FILTER: &str = "FOLDHOST_LOG";
/// How long threads that wait for a disk or a network may hold up the end of the process.
const RUNTIME_STOP_MAX: Duration = Duration::from_secs(2);

/// `foldhost serve`.
pub(super) fn serve(args: &HostArgs) -> anyhow::Result<()> {
    match prepare(args, config::DATA_DEFAULT, None)? {
        Some(config) => run(config, async |_: &Node| std::future::pending().await),
        None => Ok(()),
    }
}

/// Loads the configuration and sets up logging; `None` when the configuration was only to be shown.
///
/// `filter` is what is logged unless the environment says otherwise.
pub(super) fn prepare(
    args: &HostArgs,
    data_default: &str,
    filter: Option<&str>,
) -> anyhow::Result<Option<Config>> {
    let flags = Flags {
        data: args.data.clone(),
        listen: args.listen.clone(),
        admin_listen: args.admin_listen.clone(),
        insecure: args.insecure,
    };
    let environment = Environment::of_process();
    let loaded = config::load(args.config.as_deref(), &environment, &flags, data_default)?;
    if let Some(properties) = &loaded.config.kafka {
        kafka::check_properties(properties.as_map()).map_err(|faults| ConfigError {
            faults: faults
                .into_iter()
                .map(|fault| format!("[kafka] {fault}"))
                .collect(),
        })?;
    }
    if args.dump_config {
        output::line(loaded.dump.trim_end())?;
        return Ok(None);
    }
    let wanted = std::env::var(LOG_FILTER).ok();
    telemetry::init_logging(args.log_format, wanted.as_deref().or(filter))?;
    Ok(Some(loaded.config))
}

/// Starts a host, says where it listens, runs `work` beside it until that ends, a signal comes or the
/// host cannot go on, and stops the host cleanly.
///
/// # Errors
/// Why the host did not start or cannot go on, or what `work` failed with.
pub(super) fn run<W>(config: Config, work: W) -> anyhow::Result<()>
where
    W: AsyncFnOnce(&Node) -> anyhow::Result<()>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the threads of the host")?;
    let result = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let Some(started) = unless(signals.next(), Node::start(config)).await else {
            return Ok(());
        };
        let node = started?;
        output::note(&format!("foldhost is listening on {}", node.url()));
        let ended = unless(signals.next(), async {
            tokio::select! {
                result = work(&node) => result,
                why = node.died() => Err(anyhow::anyhow!("the host cannot go on: {why}")),
            }
        })
        .await;
        tracing::info!("stopping");
        node.stop().await;
        ended.unwrap_or(Ok(()))
    });
    runtime.shutdown_timeout(RUNTIME_STOP_MAX);
    result
}

/// The signals that ask a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The outcome of `work`, or `None` if `end` comes first.
async fn unless<T>(end: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    let (end, work) = (pin!(end), pin!(work));
    tokio::select! {
        biased;
        () = end => None,
        outcome = work => Some(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whatever_comes_first_wins() {
        assert_eq!(unless(std::future::pending(), async { 7 }).await, Some(7));
        assert_eq!(unless(async {}, std::future::pending::<i32>()).await, None);
    }

    #[tokio::test]
    async fn a_signal_to_this_process_is_seen() {
        let mut signals = Signals::listen().unwrap();
        let id = std::process::id().to_string();
        let sent = std::process::Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap();
        assert!(sent.success());
        signals.next().await;
    }
}
