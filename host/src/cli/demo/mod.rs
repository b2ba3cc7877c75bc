//! `foldhost demo`: a host with the example plugins, real flights, and queries to try. Called by the
//! command line.
//!
//! Invariant: it stops cleanly at any moment, and goes on where it was the next time.

use std::time::Duration;

use anyhow::{Context as _, bail};

use super::args::DemoArgs;
use super::{host, output};
use crate::config::{Config, TopicSettings};
use crate::limits;
use crate::log::LogError;
use crate::node::Node;
use crate::partition::{PartitionStatus, Phase};
use crate::types::{Partition, TopicPartition};

mod bundled;
mod events;
mod fleet;
mod flights;
mod loader;
mod samples;
mod setup;

use super::progress::Progress;
use bundled::Bundled;
use fleet::FleetFeed;
use flights::Flights;
use loader::{LoadError, Loader, Source, Topics};
use samples::Subject;

/// Data folder of a demo that is not told another one.
const DATA_DEFAULT: &str = "./foldhost-demo-data";
/// What is logged unless `FOLDHOST_LOG` says otherwise: the demo says itself what happens.
const LOG_FILTER_DEFAULT: &str = "warn";
/// Attempts in a row that may fail before loading is given up.
const ATTEMPTS_MAX: u32 = 10;
/// How often the plugins are asked how far they are.
const POLL: Duration = Duration::from_millis(100);
/// How long the chain of plugins must have had nothing to do: longer than an end of a partition that was last
/// seen may be old, and than a republisher takes to commit.
const QUIET: Duration = Duration::from_millis(1_500);
/// How long that is waited for.
const FOLLOW_MAX: Duration = Duration::from_secs(30);
/// Planes that are asked about in the end.
const SAMPLE_PLANES: usize = 2;

/// `foldhost demo`.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let Some(config) = host::prepare(&args.host, DATA_DEFAULT, Some(LOG_FILTER_DEFAULT))? else {
        return Ok(());
    };
    // Everything that can be wrong with the arguments shows before a host starts.
    let flights = match &args.flights {
        Some(path) => Flights::open(path)?,
        None => Flights::january()?,
    };
    let plugins = if args.build {
        bundled::built()?
    } else {
        bundled::prebuilt()
    };
    let demo = Demo {
        topics: Topics::of(&config.cluster),
        settings: config.topics,
        is_open: config.http.auth.is_open(),
        flights,
    };
    announce(&config, &demo.flights);
    let stay = !args.exit;
    host::run(config, async move |node: &Node| {
        demo.run(node, plugins).await?;
        if stay {
            output::note("It goes on until Ctrl-C; start it again and it is here at once.");
            std::future::pending::<()>().await;
        }
        Ok(())
    })
}

fn announce(config: &Config, flights: &Flights) {
    let log = match &config.kafka {
        Some(kafka) => format!("Kafka at {}", kafka.bootstrap_servers()),
        None => "the embedded log".to_owned(),
    };
    output::note(&format!(
        "{}: {} events, on {log}, data in {}",
        flights.name,
        flights.event_count(),
        config.data.display()
    ));
}

/// What is shown.
struct Demo {
    topics: Topics,
    settings: TopicSettings,
    /// Whether requests need no token.
    is_open: bool,
    flights: Flights,
}

impl Demo {
    async fn run(&self, node: &Node, plugins: Vec<Bundled>) -> anyhow::Result<()> {
        let log = node.log();
        setup::topics(&*log, node.clock(), &self.topics, self.settings).await?;
        setup::plugins(node.manager(), node.clock(), plugins).await?;
        let started = node.clock().elapsed();
        let loader = self.load(node, &self.flights).await?;
        let feed = FleetFeed::of(&self.flights);
        let is_fed = !self.load(node, &feed).await?.last().is_empty();
        self.fold(node, &loader).await?;
        let took = node.clock().elapsed() - started;
        output::note(&format!(
            "both views are live after {:.1} s",
            took.as_secs_f64()
        ));
        Self::follow(node, if is_fed { QUIET } else { Duration::ZERO }).await?;
        self.show(node, &feed).await
    }

    /// Loads what is not in the log yet, and tells.
    async fn load<'a, S: Source>(
        &self,
        node: &Node,
        source: &'a S,
    ) -> anyhow::Result<Loader<'a, S>> {
        let started = node.clock().elapsed();
        let mut loader = self.open(node, source).await?;
        let before = loader.written();
        Self::write(&mut loader, source.record_count()).await?;
        let took = node.clock().elapsed() - started;
        output::note(&loaded(S::WHAT, before, loader.written(), took));
        Ok(loader)
    }

    /// Opens a loader, once the log answers.
    async fn open<'a, S: Source>(
        &self,
        node: &Node,
        source: &'a S,
    ) -> anyhow::Result<Loader<'a, S>> {
        let mut failed = 0;
        loop {
            match Loader::open(node.log(), self.topics.clone(), source).await {
                Err(LoadError::Log(error)) => pause_after(error, &mut failed).await?,
                loader => return Ok(loader?),
            }
        }
    }

    async fn write<S: Source>(loader: &mut Loader<'_, S>, total: usize) -> anyhow::Result<()> {
        let mut progress = Progress::new("loading", loader.written() as u64, total as u64);
        let mut failed = 0;
        let mut is_open = true;
        loop {
            let step = match is_open {
                true => loader.step().await,
                false => loader.reopen().await.map(|()| true),
            };
            match step {
                Ok(true) => {
                    // A reopened loader has not written anything yet: it may fail again.
                    failed = if is_open { 0 } else { failed };
                    is_open = true;
                    progress.at(loader.written() as u64);
                }
                Ok(false) => return Ok(()),
                Err(LoadError::Log(error)) => {
                    is_open = false;
                    pause_after(error, &mut failed).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the views have folded what was loaded, and their backlog.
    async fn fold(&self, node: &Node, loader: &Loader<'_, Flights>) -> anyhow::Result<()> {
        let total = setup::READERS.len() as u64 * self.flights.event_count() as u64;
        let mut progress = Progress::new("folding", 0, total);
        for name in setup::READERS {
            loop {
                let (mut is_done, statuses) = partitions(node, name)?;
                for (partition, status) in &statuses {
                    let of = TopicPartition {
                        topic: self.topics.flights.clone(),
                        partition: *partition,
                    };
                    let last = loader.last().get(&of);
                    is_done &= last.is_none_or(|last| status.next > *last);
                }
                if is_done {
                    break;
                }
                let lag: u64 = statuses.iter().map(|(_, status)| status.lag_events).sum();
                progress.at(total.saturating_sub(lag));
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Waits until what was fed has gone through the chain, and nothing has happened there for `quiet`: where
    /// the last record comes to lie is not known, since the plugins write the topics themselves.
    async fn follow(node: &Node, quiet: Duration) -> anyhow::Result<()> {
        let started = node.clock().elapsed();
        let mut since = started;
        loop {
            let mut is_idle = true;
            for name in setup::CHAIN {
                let (is_live, statuses) = partitions(node, name)?;
                let mut statuses = statuses.iter();
                is_idle &= is_live && statuses.all(|(_, status)| status.lag_events == 0);
            }
            let now = node.clock().elapsed();
            if !is_idle {
                since = now;
            }
            // Whoever writes there all the time, too, is shown what there is.
            if is_idle && now - since >= quiet || now - started >= FOLLOW_MAX {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Prints queries to paste, about planes and users that this host knows.
    async fn show(&self, node: &Node, feed: &FleetFeed<'_>) -> anyhow::Result<()> {
        let plugin = node.manager().plugin(bundled::TRACKER)?;
        let here = |plane: &&str| plugin.find(plane.as_bytes()).1.is_some();
        let planes: Vec<_> = self
            .flights
            .planes()
            .filter(here)
            .take(SAMPLE_PLANES)
            .map(str::to_owned)
            .collect();
        let inbox = node.manager().plugin(bundled::INBOX)?;
        let is_here = |user: &String| inbox.find(user.as_bytes()).1.is_some();
        let ops = feed.users_by_news().into_iter().find(is_here);
        let auditor = Some(fleet::AUDITOR.to_owned()).filter(is_here);
        let users = ops.into_iter().chain(auditor).collect();
        let subject = Subject::new(planes, users, self.flights.span_ms());
        let (url, is_open) = (node.url().to_owned(), self.is_open);
        let asking = tokio::task::spawn_blocking(move || samples::asked(&url, is_open, &subject));
        let text = asking.await.context("asking the sample queries")??;
        Ok(output::line(&text)?)
    }
}

/// Whether all partitions of a plugin that are here are live, and what they say.
///
/// # Errors
/// One is blocked.
fn partitions(
    node: &Node,
    name: &str,
) -> anyhow::Result<(bool, Vec<(Partition, PartitionStatus)>)> {
    let plugin = node.manager().plugin(name)?;
    let mut is_live = plugin.is_settled();
    let mut statuses = Vec::new();
    for (partition, handle) in plugin.locals() {
        let status = handle.status();
        if let Some(blocked) = &status.blocked {
            bail!(
                "{name} stopped in partition {partition}: {}",
                blocked.detail
            );
        }
        is_live &= status.phase == Phase::Live;
        statuses.push((partition, status));
    }
    Ok((is_live, statuses))
}

/// Waits before another attempt, or gives up.
async fn pause_after(error: LogError, failed: &mut u32) -> anyhow::Result<()> {
    if let LogError::Fenced(_) = error {
        bail!("another demo has taken over the loading on this log: stop one of the two ({error})");
    }
    if !error.is_transient() || *failed >= ATTEMPTS_MAX {
        return Err(anyhow::Error::new(error).context("loading the data of the demo"));
    }
    tracing::warn!(%error, "loading goes on from what is in the log");
    let pause = limits::RETRY_PAUSE_MIN * 2_u32.saturating_pow(*failed);
    tokio::time::sleep(pause.min(limits::RETRY_PAUSE_MAX)).await;
    *failed += 1;
    Ok(())
}

fn loaded(what: &str, before: usize, after: usize, took: Duration) -> String {
    let new = after - before;
    match (before, new) {
        (_, 0) => format!("all {after} {what} were loaded before"),
        (0, _) => format!("loaded {new} {what} in {:.1} s", took.as_secs_f64()),
        _ => format!(
            "loaded the remaining {new} of {after} {what} in {:.1} s",
            took.as_secs_f64()
        ),
    }
}
