//! Topics that plugins own: whether a deployment may publish to one, and how the host makes it. Called
//! by `deploy` before the decision, and by whoever needs the topic after it.
//!
//! Invariant: nothing is created before it is decided, and nobody becomes the second publisher to a topic
//! without having been told.

use std::collections::BTreeMap;

use super::decide::log_problem;
use super::deployments::{Deployment, output_taken, resolve_inputs, resolve_output};
use super::{Context, Inner, TopicSettings};
use crate::error::{Code, Problem};
use crate::log::{Cleanup, Log, LogError, NewTopic};
use crate::plugin::manifest::{Input, OnError, OnRefusal, Output};
use crate::plugin::{Fault, Manifest};
use crate::types::{ClusterName, Offset, Partition, PluginName, TopicName, TopicPartition};

/// A manifest's inputs and output, mapped to the topics that they are here.
///
/// # Errors
/// Every name that is mapped and that the manifest does not have; an output that cannot be one.
pub(super) fn map_topics(
    manifest: &Manifest,
    topics: &BTreeMap<String, TopicName>,
    cluster: &ClusterName,
) -> Result<(Vec<Input>, Option<Output>), Vec<Fault>> {
    let inputs = resolve_inputs(manifest, topics);
    let output = resolve_output(manifest, topics);
    let unknown = topics.keys().filter(|name| !has_topic(manifest, name));
    let mut faults: Vec<_> = unknown.map(|name| unknown_name(manifest, name)).collect();
    if let Some(output) = &output {
        faults.extend(not_an_output(output, &inputs, cluster));
    }
    if faults.is_empty() {
        Ok((inputs, output))
    } else {
        Err(faults)
    }
}

fn has_topic(manifest: &Manifest, name: &str) -> bool {
    let output = manifest.output.as_ref();
    manifest.inputs.iter().any(|input| input.name == name)
        || output.is_some_and(|output| output.topic.as_str() == name)
}

fn unknown_name(manifest: &Manifest, name: &str) -> Fault {
    let inputs: Vec<_> = manifest.inputs.iter().map(|it| it.name.as_str()).collect();
    let output = match &manifest.output {
        Some(output) => format!("its output is: {}", output.topic),
        None => "it has no output".to_owned(),
    };
    Fault {
        code: "unknown-input",
        detail: format!(
            "--topic maps '{name}', but the plugin's inputs are: {}; {output}",
            inputs.join(", ")
        ),
    }
}

/// Why an output cannot be published to, whoever else does.
fn not_an_output(output: &Output, inputs: &[Input], cluster: &ClusterName) -> Option<Fault> {
    let topic = &output.topic;
    if cluster.owns_topic(topic) {
        return Some(Fault {
            code: "output-is-the-hosts",
            detail: format!(
                "the output is topic '{topic}', and names that begin with '{cluster}.' are the host's own: \
                 choose another name"
            ),
        });
    }
    let input = inputs.iter().find(|input| input.topic == *topic)?;
    Some(Fault {
        code: "output-is-an-input",
        detail: format!(
            "the output is topic '{topic}', which the input '{}' reads: the plugin would react to its own \
             events without end; map one of them to another topic (`--topic NAME=TOPIC`)",
            input.name
        ),
    })
}

/// Whether a plugin may publish to its output: nobody else owns it; and if there are records in it already, it is
/// the plugin's, or whoever asks knows (`adopts`).
///
/// # Errors
/// `output-taken`; `topic-exists`; `bad-parameter` where there is nothing to adopt.
pub(super) async fn check_owner(
    manager: &Inner,
    name: &PluginName,
    output: Option<&Output>,
    adopts: bool,
) -> Result<(), Problem> {
    let Some(output) = output else {
        return if adopts {
            Err(Problem::new(
                Code::BadParameter,
                format!("'{name}' has no output, so there is no topic to adopt: leave `--adopt-topic` out"),
            )
            .with("parameter", "adopt_topic"))
        } else {
            Ok(())
        };
    };
    let topic = &output.topic;
    {
        let deployments = manager.deployments.read();
        if let Some(owner) = deployments.owner_of(topic).filter(|owner| *owner != name) {
            return Err(output_taken(topic, owner));
        }
        let decided = deployments.plugins().get(name);
        if adopts || decided.is_some_and(|decided| decided.has_owned(topic)) {
            return Ok(());
        }
    }
    let log = &*manager.context.log;
    let Some(found) = log.topic(topic).await.map_err(log_problem)? else {
        return Ok(());
    };
    match has_had_records(log, topic, found.partitions).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(topic_exists(name, topic)),
        Err(error) => Err(log_problem(error)),
    }
}

/// Whether anything was ever written to a topic: one that was only created is nobody's yet.
async fn has_had_records(
    log: &dyn Log,
    topic: &TopicName,
    partitions: u32,
) -> Result<bool, LogError> {
    for partition in (0..partitions).map(Partition) {
        let of = TopicPartition {
            topic: topic.clone(),
            partition,
        };
        if log.written_end(&of).await? > Offset(0) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn topic_exists(name: &PluginName, topic: &TopicName) -> Problem {
    Problem::new(
        Code::TopicExists,
        format!(
            "the output of '{name}' is topic {topic}, which has records already and belongs to no plugin: map \
             the output to a topic that does not exist yet (`--topic OUTPUT=TOPIC`), or, if nobody else \
             writes to it any more, take it over with `--adopt-topic`"
        ),
    )
    .with("topic", topic.as_str())
}

/// Creates what a deployment writes to, if it is missing: the topic that it owns, that of its dead letters,
/// and the one that its inputs are merged into. Whoever comes first does it.
///
/// # Errors
/// [`LogError::Rejected`] where the host may not create topics; what the log says.
pub(super) async fn ensure_topics(
    context: &Context,
    deployment: &Deployment,
) -> Result<(), LogError> {
    let (log, topics) = (&*context.log, &context.topics);
    let (cluster, name) = (&context.cluster, &deployment.name);
    if let Some(output) = &deployment.output {
        let partitions = output.partitions.unwrap_or(deployment.partitions);
        ensure_output(log, topics, output, partitions).await?;
    }
    let manifest = &deployment.manifest;
    let has_letters =
        manifest.on_error == OnError::DeadLetter || manifest.on_refusal == OnRefusal::DeadLetter;
    if has_letters {
        let letters = cluster.dead_letters_topic(name);
        ensure(log, topics, &letters, deployment.partitions, Cleanup::Keep).await?;
    }
    if let Some(merge) = deployment.merge {
        let merged = cluster.merge_topic(name, merge.number);
        ensure(log, topics, &merged, merge.partitions, Cleanup::Keep).await?;
    }
    Ok(())
}

async fn ensure_output(
    log: &dyn Log,
    topics: &TopicSettings,
    output: &Output,
    partitions: u32,
) -> Result<(), LogError> {
    let cleanup = match output.compact {
        true => Cleanup::Compact,
        false => Cleanup::Default,
    };
    ensure(log, topics, &output.topic, partitions, cleanup).await
}

async fn ensure(
    log: &dyn Log,
    topics: &TopicSettings,
    name: &TopicName,
    partitions: u32,
    cleanup: Cleanup,
) -> Result<(), LogError> {
    if log.topic(name).await?.is_some() {
        return Ok(());
    }
    let policy = match cleanup {
        Cleanup::Default => "",
        Cleanup::Keep => " and retention.ms=-1",
        Cleanup::Compact | Cleanup::CompactSoon => " and cleanup.policy=compact",
    };
    if !topics.create {
        return Err(LogError::Rejected(format!(
            "topic '{name}' is missing, and `[topics] create = \"never\"`: create it with {partitions} \
             partitions{policy}"
        )));
    }
    let new = NewTopic {
        name: name.clone(),
        partitions,
        replication_factor: topics.replication_factor,
        cleanup,
    };
    match log.create_topic(&new).await {
        Ok(_) | Err(LogError::TopicExists(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::log::embedded::{EmbeddedLog, EmbeddedSettings};

    fn topic(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    fn manifest(output: Option<&str>) -> Manifest {
        let toml =
            "name = \"a\"\nversion = \"1.0.0\"\ninputs = [\"flights\"]\nstate-schema = \"s/1\"\n";
        let output = output.map(|name| Output {
            topic: topic(name),
            partitions: None,
            compact: false,
        });
        Manifest {
            output,
            ..Manifest::from_toml(toml).unwrap()
        }
    }

    type Mapped = Result<(Vec<Input>, Option<Output>), Vec<Fault>>;

    fn map(output: Option<&str>, maps: &[(&str, &str)]) -> Mapped {
        let maps = maps
            .iter()
            .map(|(name, to)| ((*name).to_owned(), topic(to)));
        let cluster = ClusterName::new("foldhost").unwrap();
        map_topics(&manifest(output), &maps.collect(), &cluster)
    }

    #[test]
    fn inputs_and_the_output_are_mapped_by_their_names() {
        let maps = [("flights", "prod.flights"), ("told", "prod.told")];
        let (inputs, output) = map(Some("told"), &maps).unwrap();
        assert_eq!(inputs[0].topic, topic("prod.flights"));
        assert_eq!(output.unwrap().topic, topic("prod.told"));
        let (_, output) = map(Some("told"), &[]).unwrap();
        assert_eq!(output.unwrap().topic, topic("told"));
    }

    #[test]
    fn a_name_that_is_not_there_lists_those_that_are() {
        let faults = map(Some("told"), &[("flight", "x"), ("tells", "y")]).unwrap_err();
        assert_eq!(faults.len(), 2);
        for part in ["'flight'", "inputs are: flights", "its output is: told"] {
            assert!(faults[0].detail.contains(part), "{}", faults[0].detail);
        }
        let faults = map(None, &[("told", "x")]).unwrap_err();
        assert!(
            faults[0].detail.contains("no output"),
            "{}",
            faults[0].detail
        );
    }

    #[test]
    fn an_output_is_neither_the_hosts_nor_an_input() {
        for (output, maps, code) in [
            ("foldhost.told", &[][..], "output-is-the-hosts"),
            (
                "told",
                &[("told", "foldhost.a.journal")],
                "output-is-the-hosts",
            ),
            ("flights", &[], "output-is-an-input"),
            ("told", &[("told", "flights")], "output-is-an-input"),
            ("told", &[("flights", "told")], "output-is-an-input"),
        ] {
            let faults = map(Some(output), maps).unwrap_err();
            assert_eq!(faults[0].code, code, "{output} {maps:?}");
        }
        // Each takes the other's name: no loop.
        let swapped = [("flights", "told"), ("told", "flights-2")];
        map(Some("told"), &swapped).unwrap();
    }

    #[tokio::test]
    async fn a_missing_output_is_created_or_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let settings = EmbeddedSettings::default();
        let log = EmbeddedLog::open(dir.path(), Clock::system(), settings).unwrap();
        let output = Output {
            topic: topic("told"),
            partitions: None,
            compact: true,
        };
        let never = TopicSettings {
            create: false,
            replication_factor: None,
            partitions: 4,
        };
        let auto = TopicSettings {
            create: true,
            ..never.clone()
        };
        let error = ensure_output(&log, &never, &output, 3).await.unwrap_err();
        let LogError::Rejected(words) = error else {
            panic!("{error:?}")
        };
        for part in ["'told'", "3 partitions", "cleanup.policy=compact"] {
            assert!(words.contains(part), "{words}");
        }
        assert_eq!(log.topic(&output.topic).await.unwrap(), None);
        // The second time, and on a host that may not: there is nothing to do.
        for settings in [&auto, &auto, &never] {
            ensure_output(&log, settings, &output, 3).await.unwrap();
        }
        let created = log.topic(&output.topic).await.unwrap().unwrap();
        assert_eq!(created.partitions, 3);
    }
}
