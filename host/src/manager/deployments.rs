//! The fold of the deployments topic: what runs, as one pure function of its records. Every host
//! folds the same records in the same order, so all agree on what was accepted and what was refused.
//!
//! Invariants: no clock, no I/O, no randomness; a deployment's id is the offset of its request; a
//! generation number is never reused, even after a delete.

use std::collections::BTreeMap;

use crate::error::{Code, Problem};
use crate::plugin::manifest::Input;
use crate::plugin::{Manifest, Parameters};
use crate::types::{DeploymentId, Digest, GenerationId, Offset, PluginName, TopicName};

/// A numbered decision to run a component under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Offset of its request.
    pub id: DeploymentId,
    /// Build-up of state that it serves.
    pub generation: GenerationId,
    /// Name under which it runs; the manifest's, unless the request said otherwise.
    pub name: PluginName,
    /// Which component.
    pub digest: Digest,
    /// The component's manifest.
    pub manifest: Manifest,
    /// `--set key=value`.
    pub parameters: Parameters,
    /// `--topic input=topic`.
    pub topics: BTreeMap<String, TopicName>,
    /// Partitions of its input, and of its state.
    pub partitions: u32,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Name of the token that asked for it; empty = none was needed.
    pub principal: String,
}

impl Deployment {
    /// The manifest's inputs, with the topics that they are mapped to here.
    #[must_use]
    pub fn inputs(&self) -> Vec<Input> {
        resolve_inputs(&self.manifest, &self.topics)
    }

    fn runs_the_same_as(&self, request: &DeployRequested) -> bool {
        self.digest == request.digest
            && self.parameters == request.parameters
            && self.topics == request.topics
    }
}

/// A manifest's inputs with a mapping applied.
pub(super) fn resolve_inputs(
    manifest: &Manifest,
    topics: &BTreeMap<String, TopicName>,
) -> Vec<Input> {
    let mut inputs = manifest.inputs.clone();
    for input in &mut inputs {
        if let Some(topic) = topics.get(&input.name) {
            input.topic = topic.clone();
        }
    }
    inputs
}

/// One record of the deployments topic.
#[derive(Debug, Clone)]
pub struct Event {
    /// Names the request.
    pub request_id: String,
    /// By its author's clock.
    pub at_ms: i64,
    /// Who asked.
    pub principal: String,
    /// What for.
    pub body: Body,
}

/// What a record asks for.
#[derive(Debug, Clone)]
pub enum Body {
    /// The identity of the cluster.
    ClusterNamed(String),
    /// Run a component.
    Deploy(Box<DeployRequested>),
    /// Stop a plugin and free its state.
    Delete(PluginName),
    /// Of a kind that this version does not know; refused, never guessed.
    Unknown(String),
}

/// See [`Body::Deploy`].
#[derive(Debug, Clone)]
pub struct DeployRequested {
    /// Name under which it is to run.
    pub name: PluginName,
    /// Which component.
    pub digest: Digest,
    /// The component's manifest.
    pub manifest: Manifest,
    /// `--set key=value`.
    pub parameters: Parameters,
    /// `--topic input=topic`.
    pub topics: BTreeMap<String, TopicName>,
    /// Partitions of its input.
    pub partitions: u32,
}

/// What the fold says to a request.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It runs now.
    Created(Deployment),
    /// The same runs already.
    Unchanged(Deployment),
    /// It is gone now.
    Deleted,
    /// The cluster has this identity.
    Named(String),
    /// It changes nothing.
    Refused(Problem),
}

/// What runs, after a prefix of the deployments topic.
#[derive(Debug, Clone, Default)]
pub struct Deployments {
    cluster_id: Option<String>,
    plugins: BTreeMap<PluginName, Deployment>,
    generations: BTreeMap<PluginName, GenerationId>,
}

impl Deployments {
    /// Identity of the cluster, once it has one.
    #[must_use]
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// What runs, by name.
    #[must_use]
    pub fn plugins(&self) -> &BTreeMap<PluginName, Deployment> {
        &self.plugins
    }

    /// Folds the record at `offset`: accepts or refuses it.
    pub fn apply(&mut self, offset: Offset, event: Event) -> Verdict {
        match event.body {
            Body::ClusterNamed(id) => Verdict::Named(self.cluster_id.get_or_insert(id).clone()),
            Body::Deploy(request) => self.deploy(offset, event.at_ms, event.principal, *request),
            Body::Delete(name) => match self.plugins.remove(&name) {
                Some(_) => Verdict::Deleted,
                None => Verdict::Refused(unknown_plugin(name.as_str(), self.plugins.keys())),
            },
            Body::Unknown(why) => Verdict::Refused(Problem::new(
                Code::BadRequest,
                format!("the request cannot be read ({why}); was it written by a newer version?"),
            )),
        }
    }

    fn deploy(
        &mut self,
        offset: Offset,
        at_ms: i64,
        principal: String,
        request: DeployRequested,
    ) -> Verdict {
        if let Some(running) = self.plugins.get(&request.name) {
            if running.runs_the_same_as(&request) {
                return Verdict::Unchanged(running.clone());
            }
            return Verdict::Refused(Problem::new(
                Code::UpgradeNotSupported,
                format!(
                    "'{name}' runs another component, mapping or parameters (deployment {id}, \
                     component {digest}); this version builds a view anew only after \
                     `foldhost plugin delete {name}`, or deploy it beside the old one with `--name`",
                    name = request.name,
                    id = running.id,
                    digest = running.digest.short(),
                ),
            ));
        }
        let generation = self.generations.entry(request.name.clone()).or_default();
        *generation = GenerationId(generation.0 + 1);
        let deployment = Deployment {
            id: DeploymentId(offset.0),
            generation: *generation,
            name: request.name.clone(),
            digest: request.digest,
            manifest: request.manifest,
            parameters: request.parameters,
            topics: request.topics,
            partitions: request.partitions,
            at_ms,
            principal,
        };
        self.plugins.insert(request.name, deployment.clone());
        Verdict::Created(deployment)
    }
}

/// There is no plugin of this name; says which there are.
pub(super) fn unknown_plugin<'n>(
    name: &str,
    known: impl Iterator<Item = &'n PluginName>,
) -> Problem {
    let known: Vec<_> = known.take(20).map(PluginName::as_str).collect();
    let known = if known.is_empty() {
        "nothing is deployed yet: `foldhost plugin deploy FILE`".to_owned()
    } else {
        format!("deployed are: {}", known.join(", "))
    };
    Problem::new(
        Code::UnknownPlugin,
        format!("there is no plugin '{name}'; {known}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deploy(name: &str, component: &[u8]) -> Event {
        let toml = format!(
            "name = \"{name}\"\nversion = \"1.0.0\"\ninputs = [\"flights\"]\nstate-schema = \"s/1\"\n"
        );
        Event {
            request_id: "r".to_owned(),
            at_ms: 1,
            principal: String::new(),
            body: Body::Deploy(Box::new(DeployRequested {
                name: PluginName::new(name).unwrap(),
                digest: Digest::of(component),
                manifest: Manifest::from_toml(&toml).unwrap(),
                parameters: Parameters::new(),
                topics: BTreeMap::new(),
                partitions: 4,
            })),
        }
    }

    fn delete(name: &str) -> Event {
        Event {
            body: Body::Delete(PluginName::new(name).unwrap()),
            ..deploy(name, b"")
        }
    }

    #[test]
    fn a_generation_number_is_never_reused() {
        let mut fold = Deployments::default();
        let Verdict::Created(first) = fold.apply(Offset(1), deploy("a", b"1")) else {
            panic!()
        };
        assert!(matches!(
            fold.apply(Offset(2), delete("a")),
            Verdict::Deleted
        ));
        let Verdict::Created(second) = fold.apply(Offset(3), deploy("a", b"1")) else {
            panic!()
        };
        assert_eq!((first.generation.0, second.generation.0), (1, 2));
        assert_eq!(second.id, DeploymentId(3));
    }

    #[test]
    fn the_same_again_changes_nothing_and_other_code_is_refused() {
        let mut fold = Deployments::default();
        fold.apply(Offset(1), deploy("a", b"1"));
        assert!(matches!(
            fold.apply(Offset(2), deploy("a", b"1")),
            Verdict::Unchanged(_)
        ));
        let Verdict::Refused(problem) = fold.apply(Offset(3), deploy("a", b"2")) else {
            panic!()
        };
        assert_eq!(problem.code, Code::UpgradeNotSupported);
        assert_eq!(fold.plugins().len(), 1);
    }

    #[test]
    fn the_first_name_of_the_cluster_stays() {
        let mut fold = Deployments::default();
        for (offset, id) in ["one", "two"].into_iter().enumerate() {
            let event = Event {
                body: Body::ClusterNamed(id.to_owned()),
                ..deploy("a", b"")
            };
            let Verdict::Named(named) = fold.apply(Offset(offset as u64), event) else {
                panic!()
            };
            assert_eq!(named, "one");
        }
        assert_eq!(fold.cluster_id(), Some("one"));
    }

    #[test]
    fn deleting_what_is_not_there_names_what_is() {
        let mut fold = Deployments::default();
        fold.apply(Offset(1), deploy("a", b"1"));
        let Verdict::Refused(problem) = fold.apply(Offset(2), delete("b")) else {
            panic!()
        };
        assert!(
            problem.detail.contains("deployed are: a"),
            "{}",
            problem.detail
        );
    }
}
