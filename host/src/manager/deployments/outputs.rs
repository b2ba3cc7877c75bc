//! Which plugin owns which topic: the part of the fold that keeps one publisher to a topic. Called by
//! `fold`, and by those who ask who owns a topic.
//!
//! Invariant: what a generation has published to belongs to its plugin for as long as the generation is
//! wanted, whatever was deployed on it since: a host that is behind may still publish there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fold::kind_word;
use super::{Decided, DeployRequested, Deployment, Deployments, StatePolicy};
use crate::error::{Code, Problem};
use crate::plugin::manifest::Output;
use crate::plugin::{Kind, Manifest};
use crate::types::{PluginName, TopicName};

/// A manifest's output with a mapping applied: by the topic's name in the manifest.
pub(in crate::manager) fn resolve_output(
    manifest: &Manifest,
    topics: &BTreeMap<String, TopicName>,
) -> Option<Output> {
    let mut output = manifest.output.clone()?;
    if let Some(topic) = topics.get(output.topic.as_str()) {
        output.topic = topic.clone();
    }
    Some(output)
}

impl Deployment {
    /// Whether it publishes to a topic.
    fn publishes_to(&self, topic: &TopicName) -> bool {
        let output = self.output.as_ref();
        output.is_some_and(|output| output.topic == *topic)
    }
}

impl Decided {
    /// Whether the topic is the plugin's, and nobody else may publish to it.
    #[must_use]
    pub fn owns(&self, topic: &TopicName) -> bool {
        self.publisher_of(topic).is_some()
    }

    /// The newest deployment that publishes to a topic, or did in a generation that is still wanted.
    fn publisher_of(&self, topic: &TopicName) -> Option<&Arc<Deployment>> {
        let publishing = self.publishing_to(topic);
        publishing
            .filter(|it| self.generation(it.generation).is_some())
            .max_by_key(|it| it.id)
    }

    /// Whether any deployment under this name was to publish to a topic, as far as is remembered.
    #[must_use]
    pub fn has_owned(&self, topic: &TopicName) -> bool {
        self.publishing_to(topic).next().is_some()
    }

    fn publishing_to(&self, topic: &TopicName) -> impl Iterator<Item = &Arc<Deployment>> {
        // One that still runs may be forgotten by the history.
        let running = self.generations().map(|it| &it.deployment);
        let deployments = self.history.iter().chain(running);
        deployments.filter(|it| it.publishes_to(topic))
    }
}

impl Deployments {
    /// The plugin that owns a topic.
    #[must_use]
    pub fn owner_of(&self, topic: &TopicName) -> Option<&PluginName> {
        let mut plugins = self.plugins().iter();
        plugins
            .find(|(_, decided)| decided.owns(topic))
            .map(|(name, _)| name)
    }

    /// The deployment by which a topic is owned.
    pub(in crate::manager) fn publisher_of(&self, topic: &TopicName) -> Option<&Arc<Deployment>> {
        let mut plugins = self.plugins().values();
        plugins.find_map(|decided| decided.publisher_of(topic))
    }

    /// Refuses an output that another plugin owns.
    pub(super) fn check_output(
        &self,
        name: &PluginName,
        output: Option<&Output>,
    ) -> Result<(), Problem> {
        let Some(output) = output else {
            return Ok(());
        };
        match self.owner_of(&output.topic) {
            Some(owner) if owner != name => Err(output_taken(&output.topic, owner)),
            _ => Ok(()),
        }
    }
}

/// Refuses to publish from the earliest record where that would publish twice, or nothing.
pub(super) fn check_emission(
    request: &DeployRequested,
    running: Option<&Decided>,
    policy: StatePolicy,
) -> Result<(), Problem> {
    if !request.emit_from_earliest {
        return Ok(());
    }
    let name = &request.name;
    let refused = |detail| Err(Problem::new(Code::EmitFromRefused, detail));
    let output = resolve_output(&request.manifest, &request.topics);
    let Some(output) = output.filter(|_| request.kind == Kind::Republisher) else {
        return refused(format!(
            "only a republisher publishes what it makes of its inputs, and '{name}' is a {}: leave \
             `--emit-from` out",
            kind_word(request.kind)
        ));
    };
    if policy == StatePolicy::Keep {
        return refused(format!(
            "with `--state keep` '{name}' goes on from states that have seen the events already: leave \
             `--emit-from` out, or build them anew with `--state rebuild`"
        ));
    }
    let declared = request.manifest.output.as_ref().map(|it| &it.topic);
    let declared = declared.unwrap_or(&output.topic);
    if running.is_some_and(|running| running.has_owned(&output.topic)) {
        return refused(format!(
            "'{name}' has published to {} before, so everything would be published there twice: name a \
             topic that is new to it (`--topic {declared}=TOPIC`), or leave `--emit-from` out: then it \
             publishes from where the present generation stops",
            output.topic
        ));
    }
    Ok(())
}

/// Another plugin owns the topic.
pub(in crate::manager) fn output_taken(topic: &TopicName, owner: &PluginName) -> Problem {
    Problem::new(
        Code::OutputTaken,
        format!(
            "topic {topic} is owned by plugin '{owner}', and a topic has one publisher: map the output \
             to another topic (`--topic OUTPUT=TOPIC`), or delete '{owner}' first; a topic that \
             '{owner}' does not publish to any more is free once it was built anew"
        ),
    )
    .with("topic", topic.as_str())
    .with("owner", owner.as_str())
}
