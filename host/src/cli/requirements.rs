//! `foldhost plugin requirements FILE`: the topics, groups and rights that a plugin needs on Kafka, as
//! commands for an administrator. Asks no host: names follow from the cluster's and the plugin's.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::args::RequirementsArgs;
use super::exit::UsageError;
use super::output;
use super::plugin::Component;
use crate::plugin::manifest::{Manifest, OnError, OnRefusal, Output};
use crate::plugin::{Capabilities, component};
use crate::types::{ClusterName, PluginName, TopicName};

/// Runs the command.
pub(super) fn run(args: &RequirementsArgs) -> anyhow::Result<()> {
    let component = Component::read(&args.file)?;
    let examined = component::examine(&component.bytes).map_err(|faults| {
        let faults: Vec<_> = faults
            .iter()
            .map(|fault| format!("\n  - {fault} [{}]", fault.code))
            .collect();
        UsageError(format!(
            "{} is refused:{}",
            component.path.display(),
            faults.concat()
        ))
    })?;
    let needs = Needs::of(args, &examined.manifest, examined.capabilities)?;
    if args.json {
        return Ok(output::json(&needs.json())?);
    }
    Ok(output::line(&needs.text(&args.principal))?)
}

/// What a plugin needs.
#[derive(Debug)]
struct Needs {
    plugin: PluginName,
    topics: Vec<TopicNeed>,
    groups: Vec<String>,
    /// As they are made, with what varies in `<>`.
    transactional_ids: Vec<String>,
    /// What all of them begin with, and nobody else's.
    transactional_id_prefix: Option<String>,
}

/// A topic, and what hosts do with it.
#[derive(Debug)]
struct TopicNeed {
    /// Its name, or what the names of several begin with.
    name: String,
    /// Whether a number follows the name.
    is_numbered: bool,
    /// Why it is there.
    role: &'static str,
    operations: &'static [&'static str],
    /// How to create it; `None` = it is an input, which is not the host's.
    creation: Option<String>,
    /// Whether others may read it, but not write to it.
    is_output: bool,
}

impl TopicNeed {
    /// One that the host owns.
    fn owned(name: impl Into<String>, role: &'static str, creation: String) -> Self {
        Self {
            name: name.into(),
            is_numbered: false,
            role,
            operations: &["Read", "Write", "Describe"],
            creation: Some(creation),
            is_output: false,
        }
    }

    fn input(name: &TopicName) -> Self {
        Self {
            name: name.to_string(),
            is_numbered: false,
            role: "input",
            operations: &["Read", "Describe"],
            creation: None,
            is_output: false,
        }
    }

    /// As it is written for people.
    fn shown(&self) -> String {
        let number = if self.is_numbered { "<n>" } else { "" };
        format!("{}{number}", self.name)
    }

    /// As `kafka-acls.sh` takes it.
    fn resource(&self) -> String {
        let pattern = if self.is_numbered { PREFIXED } else { "" };
        format!("--topic {}{pattern}", self.name)
    }

    fn json(&self) -> Value {
        let mut json = json!({
            "name": self.name, "role": self.role, "operations": self.operations,
            "owned": self.creation.is_some(),
        });
        if self.is_numbered {
            json["pattern"] = "prefixed".into();
        }
        if self.is_output {
            json["exclusive"] = true.into();
        }
        json
    }
}

impl Needs {
    fn of(
        args: &RequirementsArgs,
        manifest: &Manifest,
        capabilities: Capabilities,
    ) -> anyhow::Result<Self> {
        let plugin = args.name.clone().unwrap_or_else(|| manifest.name.clone());
        let group = args.cluster.group(&plugin);
        let mapped = Mapped::of(manifest, &args.topics)?;
        let takes_commands = capabilities.decide && !manifest.inputs.is_empty();
        // Partitions of several topics, or of one with other keys, meet in a topic of the host's own; so do commands.
        let merges = manifest.merges(capabilities) || takes_commands;
        let output_partitions = manifest
            .output
            .as_ref()
            .and_then(|output| output.partitions);
        let partitions = match (capabilities.decide, merges, manifest.merge_partitions) {
            (true, _, _) => output_partitions.map_or_else(
                || "\"$PARTITIONS_OF_THE_OUTPUT\"".to_owned(),
                |count| count.to_string(),
            ),
            (false, true, Some(count)) => count.to_string(),
            (false, true, None) => "\"$PARTITIONS_OF_THE_LARGEST_INPUT\"".to_owned(),
            (false, false, _) => "\"$PARTITIONS_OF_THE_INPUT\"".to_owned(),
        };
        let mut topics = own_topics(&args.cluster, &plugin, &partitions);
        if merges {
            let role = match capabilities.decide {
                true => "every command of its inputs",
                false => "every event of its inputs, under the key that it is folded by",
            };
            topics.push(merge_topic(&group, role, &partitions));
        }
        if manifest.on_error == OnError::DeadLetter {
            topics.push(dead_letters(
                &group,
                "events that it could not apply",
                &partitions,
            ));
        }
        if manifest.on_refusal == OnRefusal::DeadLetter {
            topics.push(dead_letters(
                &group,
                "commands that it refused",
                &partitions,
            ));
        }
        if let Some(output) = &mapped.output {
            topics.push(output_topic(output, &partitions));
        }
        topics.extend(mapped.inputs.iter().map(TopicNeed::input));
        // A view under `stop` writes nothing but its journal: no transactions.
        let writes = manifest.output.is_some() || manifest.on_error != OnError::Stop;
        let mut transactional_ids = Vec::new();
        if writes {
            transactional_ids.push(format!("{group}.<partition>"));
            transactional_ids.push(format!("{group}.<partition>.g<generation>"));
        }
        let mut groups = vec![group.clone()];
        if merges {
            groups.push(format!("{group}.merge-in"));
            let inputs = mapped.inputs.iter();
            transactional_ids
                .extend(inputs.map(|topic| format!("{group}.merge-in.{topic}.<partition>")));
        }
        Ok(Self {
            plugin,
            topics,
            groups,
            transactional_ids,
            transactional_id_prefix: match (writes, merges) {
                (true, _) => Some(format!("{group}.")),
                (false, true) => Some(format!("{group}.merge-in.")),
                (false, false) => None,
            },
        })
    }

    fn json(&self) -> Value {
        let prefixes: Vec<_> = self.transactional_id_prefix.iter().collect();
        json!({
            "plugin": self.plugin.as_str(),
            "topics": self.topics.iter().map(TopicNeed::json).collect::<Vec<_>>(),
            "groups": self.groups,
            "transactional_id_prefixes": prefixes,
        })
    }

    fn text(&self, principal: &str) -> String {
        let mut lines = self.names();
        lines.push("\n# Topics that the hosts own, where [topics] create = \"never\"".to_owned());
        for topic in &self.topics {
            let Some(creation) = &topic.creation else {
                continue;
            };
            let name = &topic.name;
            if topic.is_numbered {
                lines.push("# $N is the number in the name that the host misses".to_owned());
                lines.push(format!("{TOPICS} --create --topic \"{name}$N\" {creation}"));
            } else {
                lines.push(format!("{TOPICS} --create --topic {name} {creation}"));
            }
        }
        lines.push("\n# Rights".to_owned());
        let of_topic = |topic: &TopicNeed| grant(principal, topic.operations, &topic.resource());
        lines.extend(self.topics.iter().map(of_topic));
        lines.extend(self.groups.iter().map(|group| {
            let resource = format!("--group {group}");
            grant(principal, &["Read", "Describe"], &resource)
        }));
        lines.extend(self.transactional_id_prefix.iter().map(|prefix| {
            let resource = format!("--transactional-id {prefix}{PREFIXED}");
            grant(principal, &["Write", "Describe"], &resource)
        }));
        lines.push(
            "\n# Rights to create what the hosts own, where [topics] create = \"auto\"".into(),
        );
        let owned = self.topics.iter().filter(|topic| topic.creation.is_some());
        lines.extend(owned.map(|topic| grant(principal, &["Create"], &topic.resource())));
        let outputs = self.topics.iter().filter(|topic| topic.is_output);
        lines.extend(outputs.flat_map(|topic| one_writer(principal, topic)));
        lines.join("\n")
    }

    /// Everything that has a name, as comments.
    fn names(&self) -> Vec<String> {
        let mut lines = vec![format!("# Plugin {}", self.plugin), "# Topics".to_owned()];
        for topic in &self.topics {
            lines.push(format!("#   {} ({})", topic.shown(), topic.role));
        }
        let plural = if self.groups.len() > 1 { "s" } else { "" };
        lines.push(format!("# Consumer group{plural}"));
        lines.extend(self.groups.iter().map(|group| format!("#   {group}")));
        lines.push("# Transactional ids".to_owned());
        match self.transactional_ids.as_slice() {
            [] => lines.push("#   none: it writes no records".to_owned()),
            ids => lines.extend(ids.iter().map(|id| format!("#   {id}"))),
        }
        lines
    }
}

const TOPICS: &str = "kafka-topics.sh --bootstrap-server \"$BROKERS\"";
const ACLS: &str = "kafka-acls.sh --bootstrap-server \"$BROKERS\"";
const PREFIXED: &str = " --resource-pattern-type prefixed";

fn grant(principal: &str, operations: &[&str], resource: &str) -> String {
    let operations: String = operations
        .iter()
        .map(|operation| format!(" --operation {operation}"))
        .collect();
    format!("{ACLS} --add --allow-principal {principal}{operations} {resource}")
}

/// That nobody but the hosts writes to a topic: Kafka lets in whoever any right covers, and refuses the
/// hosts too if everybody is refused by name.
fn one_writer(principal: &str, topic: &TopicNeed) -> Vec<String> {
    let name = &topic.name;
    vec![
        format!("\n# One publisher to {name}: nobody but {principal} may write to it. Now that it has rights of"),
        "# its own, Kafka refuses everybody else, unless one of these covers it too: remove those that".to_owned(),
        "# allow Write or All to others (super users need no right).".to_owned(),
        format!("{ACLS} --list --topic {name} --resource-pattern-type match"),
        format!("{ACLS} --remove --force --allow-principal \"$OTHER\" --operation Write --topic {name}"),
        "# Whoever reads it needs this.".to_owned(),
        grant("\"$READER\"", &["Read", "Describe"], &format!("--topic {name}")),
    ]
}

const KEPT_FOR_EVER: &str =
    "--config cleanup.policy=delete --config retention.ms=-1 --config retention.bytes=-1";

fn own_topics(cluster: &ClusterName, plugin: &PluginName, partitions: &str) -> Vec<TopicNeed> {
    vec![
        TopicNeed::owned(
            cluster.deployments_topic().as_str(),
            "what runs in the cluster, one for all plugins",
            format!("--partitions 1 {KEPT_FOR_EVER}"),
        ),
        TopicNeed::owned(
            cluster.journal_topic(plugin).as_str(),
            "who owns which partition",
            format!("--partitions {partitions} --config cleanup.policy=compact"),
        ),
    ]
}

fn merge_topic(group: &str, role: &'static str, partitions: &str) -> TopicNeed {
    TopicNeed {
        is_numbered: true,
        ..TopicNeed::owned(
            format!("{group}.merge."),
            role,
            format!("--partitions {partitions} {KEPT_FOR_EVER}"),
        )
    }
}

fn dead_letters(group: &str, role: &'static str, partitions: &str) -> TopicNeed {
    TopicNeed::owned(
        format!("{group}.dead-letters"),
        role,
        format!("--partitions {partitions} {KEPT_FOR_EVER}"),
    )
}

fn output_topic(output: &Output, partitions: &str) -> TopicNeed {
    let partitions = output
        .partitions
        .map_or_else(|| partitions.to_owned(), |count| count.to_string());
    let cleanup = if output.compact {
        " --config cleanup.policy=compact"
    } else {
        ""
    };
    TopicNeed {
        is_output: true,
        ..TopicNeed::owned(
            output.topic.as_str(),
            "its output, to which nobody else may write",
            format!("--partitions {partitions}{cleanup}"),
        )
    }
}

/// The topics of a manifest, mapped.
struct Mapped {
    inputs: Vec<TopicName>,
    output: Option<Output>,
}

impl Mapped {
    fn of(manifest: &Manifest, maps: &[(String, String)]) -> Result<Self, UsageError> {
        let known: Vec<_> = manifest.inputs.iter().map(|it| it.name.as_str()).collect();
        let output = manifest.output.as_ref().map(|it| it.topic.as_str());
        let mut mapped = BTreeMap::new();
        for (name, topic) in maps {
            if !known.contains(&name.as_str()) && output != Some(name) {
                let output = match output {
                    Some(output) => format!(", and the output {output}"),
                    None => String::new(),
                };
                let known = known.join(", ");
                return Err(UsageError(format!(
                    "there is no input '{name}': there is {known}{output}"
                )));
            }
            let topic = TopicName::new(topic).map_err(|error| UsageError(error.to_string()))?;
            mapped.insert(name.as_str(), topic);
        }
        let map = |name: &str, topic: &TopicName| mapped.get(name).unwrap_or(topic).clone();
        Ok(Self {
            inputs: manifest
                .inputs
                .iter()
                .map(|input| map(&input.name, &input.topic))
                .collect(),
            output: manifest.output.as_ref().map(|output| Output {
                topic: map(output.topic.as_str(), &output.topic),
                ..output.clone()
            }),
        })
    }
}

#[cfg(test)]
mod tests;
