//! What the demo needs before it loads: topics and deployed plugins. Called by `demo`.

use std::time::Duration;

use anyhow::{Context as _, bail};

use super::bundled::{self, Bundled};
use super::loader::Topics;
use crate::cli::output;
use crate::clock::Clock;
use crate::config::{TopicCreation, TopicSettings};
use crate::error::{Code, Problem};
use crate::limits;
use crate::log::{Cleanup, Log, LogError, NewTopic};
use crate::manager::{DeployOutcome, DeployRequest, Manager};
use crate::types::TopicName;

/// How long a log or an object store that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A topic that the demo needs.
struct Needed {
    name: TopicName,
    partitions: u32,
    cleanup: Cleanup,
}

/// Creates the topics that are missing, where the configuration allows it.
///
/// # Errors
/// The missing ones where it does not, with the commands that create them; a log that refuses, or
/// that does not answer for [`PATIENCE`].
pub(super) async fn topics(
    log: &dyn Log,
    clock: &Clock,
    topics: &Topics,
    settings: TopicSettings,
) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for needed in needed(topics, settings.partitions) {
        let found = patiently(clock, "the log", is_transient, || log.topic(&needed.name)).await?;
        match (found, settings.create) {
            (Some(_), _) => {}
            (None, TopicCreation::Never) => missing.push(format!(
                "\n  kafka-topics.sh --create --topic {} --partitions {} --config retention.ms=-1",
                needed.name, needed.partitions
            )),
            (None, TopicCreation::Auto) => {
                let topic = NewTopic {
                    name: needed.name,
                    partitions: needed.partitions,
                    replication_factor: settings.replication_factor,
                    cleanup: needed.cleanup,
                };
                create(log, clock, &topic).await?;
            }
        }
    }
    if !missing.is_empty() {
        bail!(
            "topics are missing and [topics] create is \"never\": create them{}",
            missing.concat()
        );
    }
    Ok(())
}

fn needed(topics: &Topics, partitions: u32) -> [Needed; 5] {
    let kept = |name: &TopicName| Needed {
        name: name.clone(),
        partitions,
        cleanup: Cleanup::Keep,
    };
    let events = TopicName::new("events").expect("it keeps the rules");
    [
        kept(&topics.flights),
        kept(&topics.groups),
        kept(&topics.access),
        kept(&events),
        Needed {
            name: topics.progress.clone(),
            partitions: 1,
            cleanup: Cleanup::Compact,
        },
    ]
}

async fn create(log: &dyn Log, clock: &Clock, topic: &NewTopic) -> anyhow::Result<()> {
    let created = patiently(clock, "the log", is_transient, || log.create_topic(topic)).await;
    match created {
        // Another host was faster, or the answer to the first attempt was lost.
        Ok(_) | Err(LogError::TopicExists(_)) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("creating the topic {}", topic.name)),
    }
}

/// Deploys the example plugins. Those that run already stay as they are.
///
/// # Errors
/// Why one cannot be deployed.
pub(super) async fn plugins(
    manager: &Manager,
    clock: &Clock,
    plugins: Vec<Bundled>,
) -> anyhow::Result<()> {
    for plugin in plugins {
        let request = DeployRequest {
            component: plugin.component.clone(),
            name: None,
            topics: std::collections::BTreeMap::new(),
            parameters: std::collections::BTreeMap::new(),
            state: None,
            from_retained: false,
            adopt_topic: false,
            emit_from_earliest: false,
            dry_run: false,
            principal: "demo".to_owned(),
        };
        let attempt = || manager.deploy(request.clone());
        match patiently(clock, "the host", may_pass, attempt).await {
            Ok(deployed) if deployed.outcome == DeployOutcome::Created => {
                output::note(&format!("deployed {}", plugin.name));
            }
            Ok(deployed) if deployed.outcome == DeployOutcome::Unchanged => {
                output::note(&format!("{} is deployed already", plugin.name));
            }
            Ok(_) => output::note(&format!(
                "{} was deployed in another version, which answers until the new one is built",
                plugin.name
            )),
            // A build of an earlier start goes on by itself.
            Err(problem) if problem.code == Code::DeploymentUnderWay => {
                output::note(&problem.detail);
            }
            Err(problem) => {
                let context = format!("deploying {}", plugin.name);
                return Err(anyhow::Error::new(problem).context(context));
            }
        }
    }
    Ok(())
}

/// Names of the plugins that read the flights.
pub(super) const READERS: [&str; 2] = [bundled::TRACKER, bundled::UTILISATION];
/// Names of the plugins through which the fleet feed goes, in this order.
pub(super) const CHAIN: [&str; 2] = [bundled::ONBOARDING, bundled::INBOX];

fn is_transient(error: &LogError) -> bool {
    matches!(error, LogError::Unavailable(_))
}

fn may_pass(problem: &Problem) -> bool {
    matches!(
        problem.code,
        Code::LogUnavailable | Code::StateUnavailable | Code::OutcomeUnknown
    )
}

/// Tries again while an error may pass, for [`PATIENCE`] at most.
async fn patiently<T, E: std::fmt::Display>(
    clock: &Clock,
    who: &str,
    may_pass: impl Fn(&E) -> bool,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let until = clock.elapsed() + PATIENCE;
    let mut pause = limits::RETRY_PAUSE_MIN;
    let mut is_told = false;
    loop {
        match attempt().await {
            Err(error) if may_pass(&error) && clock.elapsed() < until => {
                if !is_told {
                    output::note(&format!("waiting for {who}: {error}"));
                    is_told = true;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(limits::RETRY_PAUSE_MAX);
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::log::embedded::{EmbeddedLog, EmbeddedSettings};
    use crate::types::ClusterName;

    const AUTO: TopicSettings = TopicSettings {
        create: TopicCreation::Auto,
        replication_factor: None,
        partitions: 3,
    };

    #[tokio::test]
    async fn missing_topics_are_created_or_listed() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let log =
            EmbeddedLog::open(dir.path(), clock.clone(), EmbeddedSettings::default()).unwrap();
        let names = Topics::of(&ClusterName::new("foldhost").unwrap());
        let never = TopicSettings {
            create: TopicCreation::Never,
            ..AUTO
        };
        let error = topics(&log, &clock, &names, never)
            .await
            .unwrap_err()
            .to_string();
        for line in [
            "--topic flights --partitions 3",
            "--topic fleet-groups --partitions 3",
            "--topic fleet-access --partitions 3",
            "--topic foldhost.demo.progress --partitions 1",
        ] {
            assert!(error.contains(line), "{error}");
        }
        for _ in 0..2 {
            topics(&log, &clock, &names, AUTO).await.unwrap();
        }
        assert_eq!(
            log.topic(&names.flights).await.unwrap().unwrap().partitions,
            3
        );
        topics(&log, &clock, &names, never).await.unwrap();
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_nothing_else() {
        let clock = Clock::manual(0, 1);
        let tries = Cell::new(0);
        let attempt = async || {
            tries.set(tries.get() + 1);
            if tries.get() < 3 {
                Err(LogError::Unavailable("x".into()))
            } else {
                Ok(tries.get())
            }
        };
        assert_eq!(
            patiently(&clock, "it", is_transient, attempt)
                .await
                .unwrap(),
            3
        );
        let refused = async || Err::<(), _>(LogError::Rejected("x".into()));
        assert!(
            patiently(&clock, "it", is_transient, refused)
                .await
                .is_err()
        );
    }
}
