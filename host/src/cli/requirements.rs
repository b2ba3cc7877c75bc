//! `foldhost plugin requirements FILE`: the topics, groups and rights that a plugin needs on Kafka, as
//! commands for an administrator. Asks no host: names follow from the cluster's and the plugin's.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::args::RequirementsArgs;
use super::exit::UsageError;
use super::output;
use super::plugin::Component;
use crate::plugin::component;
use crate::plugin::manifest::{Manifest, OnError};
use crate::types::{ClusterName, PluginName, TopicName};

/// Runs the command.
pub(super) fn run(args: &RequirementsArgs) -> anyhow::Result<()> {
    let component = Component::read(&args.file)?;
    let manifest = component::examine(&component.bytes).map_err(|faults| {
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
    let needs = Needs::of(args, &manifest.manifest)?;
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
    group: String,
    transactional_ids: Vec<String>,
}

/// A topic, and what hosts do with it.
#[derive(Debug)]
struct TopicNeed {
    name: TopicName,
    /// Why it is there.
    role: &'static str,
    operations: &'static [&'static str],
    /// How to create it; `None` = it is an input, which is not the host's.
    creation: Option<&'static str>,
}

impl Needs {
    fn of(args: &RequirementsArgs, manifest: &Manifest) -> anyhow::Result<Self> {
        let plugin = args.name.clone().unwrap_or_else(|| manifest.name.clone());
        let cluster = &args.cluster;
        let mut topics = own_topics(cluster, &plugin);
        topics.extend(
            inputs(manifest, &args.topics)?
                .into_iter()
                .map(|name| TopicNeed {
                    name,
                    role: "input",
                    operations: &["Read", "Describe"],
                    creation: None,
                }),
        );
        // A view under `stop` writes nothing but its journal: no transactions.
        let writes = manifest.output.is_some() || manifest.on_error != OnError::Stop;
        let transactional_ids = if writes {
            vec![format!("{}.", cluster.group(&plugin))]
        } else {
            Vec::new()
        };
        Ok(Self {
            group: cluster.group(&plugin),
            plugin,
            topics,
            transactional_ids,
        })
    }

    fn json(&self) -> Value {
        let topic = |topic: &TopicNeed| {
            json!({
                "name": topic.name.as_str(), "role": topic.role, "operations": topic.operations,
                "owned": topic.creation.is_some(),
            })
        };
        json!({
            "plugin": self.plugin.as_str(),
            "topics": self.topics.iter().map(topic).collect::<Vec<_>>(),
            "groups": [self.group],
            "transactional_id_prefixes": self.transactional_ids,
        })
    }

    fn text(&self, principal: &str) -> String {
        let mut lines = vec![format!("# Plugin {}", self.plugin), "# Topics".to_owned()];
        for topic in &self.topics {
            lines.push(format!("#   {} ({})", topic.name, topic.role));
        }
        lines.push(format!("# Consumer group\n#   {}", self.group));
        lines.push("# Transactional ids".to_owned());
        match self.transactional_ids.as_slice() {
            [] => lines.push("#   none: it writes no records".to_owned()),
            ids => lines.extend(ids.iter().map(|id| format!("#   {id}<partition>"))),
        }
        lines.push("\n# Topics that the hosts own, where [topics] create = \"never\"".to_owned());
        for topic in &self.topics {
            if let Some(creation) = topic.creation {
                let name = &topic.name;
                lines.push(format!("{TOPICS} --create --topic {name} {creation}"));
            }
        }
        lines.push("\n# Rights".to_owned());
        lines.extend(self.topics.iter().map(|topic| {
            grant(
                principal,
                topic.operations,
                &format!("--topic {}", topic.name),
            )
        }));
        lines.push(grant(
            principal,
            &["Read", "Describe"],
            &format!("--group {}", self.group),
        ));
        lines.extend(self.transactional_ids.iter().map(|id| {
            let resource = format!("--transactional-id {id} --resource-pattern-type prefixed");
            grant(principal, &["Write", "Describe"], &resource)
        }));
        lines.push(
            "\n# Rights to create what the hosts own, where [topics] create = \"auto\"".into(),
        );
        lines.extend(
            self.topics
                .iter()
                .filter(|topic| topic.creation.is_some())
                .map(|topic| grant(principal, &["Create"], &format!("--topic {}", topic.name))),
        );
        lines.join("\n")
    }
}

const TOPICS: &str = "kafka-topics.sh --bootstrap-server \"$BROKERS\"";
const ACLS: &str = "kafka-acls.sh --bootstrap-server \"$BROKERS\" --add";

fn grant(principal: &str, operations: &[&str], resource: &str) -> String {
    let operations: String = operations
        .iter()
        .map(|operation| format!(" --operation {operation}"))
        .collect();
    format!("{ACLS} --allow-principal {principal}{operations} {resource}")
}

fn own_topics(cluster: &ClusterName, plugin: &PluginName) -> Vec<TopicNeed> {
    vec![
        TopicNeed {
            name: cluster.deployments_topic(),
            role: "what runs in the cluster, one for all plugins",
            operations: &["Read", "Write", "Describe"],
            creation: Some(
                "--partitions 1 --config cleanup.policy=delete --config retention.ms=-1 --config retention.bytes=-1",
            ),
        },
        TopicNeed {
            name: cluster.journal_topic(plugin),
            role: "who owns which partition",
            operations: &["Read", "Write", "Describe"],
            creation: Some(
                "--partitions \"$PARTITIONS_OF_THE_INPUT\" --config cleanup.policy=compact",
            ),
        },
    ]
}

/// The topics of the inputs, mapped.
fn inputs(manifest: &Manifest, maps: &[(String, String)]) -> Result<Vec<TopicName>, UsageError> {
    let mut mapped = BTreeMap::new();
    for (input, topic) in maps {
        if !manifest.inputs.iter().any(|known| known.name == *input) {
            let known: Vec<_> = manifest
                .inputs
                .iter()
                .map(|known| known.name.as_str())
                .collect();
            let known = known.join(", ");
            return Err(UsageError(format!(
                "there is no input '{input}': there is {known}"
            )));
        }
        let topic = TopicName::new(topic).map_err(|error| UsageError(error.to_string()))?;
        mapped.insert(input.as_str(), topic);
    }
    let topic = |input: &crate::plugin::manifest::Input| {
        mapped
            .get(input.name.as_str())
            .unwrap_or(&input.topic)
            .clone()
    };
    Ok(manifest.inputs.iter().map(topic).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(maps: &[(&str, &str)]) -> anyhow::Result<Needs> {
        let toml = "name = \"plane-tracker\"\nversion = \"1.0.0\"\ninputs = [\"flights\"]\n\
                    state-schema = \"position/1\"\n";
        let args = RequirementsArgs {
            file: "unused".into(),
            name: None,
            topics: maps
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect(),
            cluster: ClusterName::new("prod").unwrap(),
            principal: "User:fold".to_owned(),
            json: false,
        };
        Needs::of(&args, &Manifest::from_toml(toml).unwrap())
    }

    #[test]
    fn names_follow_from_the_cluster_and_the_plugin() {
        let needs = needs(&[("flights", "prod.flights")]).unwrap();
        let text = needs.text("User:fold");
        for part in [
            "--topic prod.deployments",
            "--topic prod.plane-tracker.journal",
            "--topic prod.flights",
            "--group prod.plane-tracker",
            "--allow-principal User:fold",
            "none: it writes no records",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(
            !text.contains("--create --topic prod.flights"),
            "an input is not the host's"
        );
        assert_eq!(needs.json()["groups"][0], "prod.plane-tracker");
    }

    #[test]
    fn an_input_that_is_not_there_cannot_be_mapped() {
        let error = needs(&[("flight", "x")]).unwrap_err();
        assert!(error.to_string().contains("there is flights"), "{error}");
    }
}
