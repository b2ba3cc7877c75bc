//! Which merge topic a deployment folds, if it folds one: the part of the fold that numbers them. Called by
//! `fold`.
//!
//! Invariant: a merge topic holds copies of one set of inputs under one way to route them, on a number of
//! partitions that never changes; its number is never used again, even after a delete.

use super::{Decided, DeployRequested, Deployment, resolve_inputs};
use crate::error::{Code, Problem};
use crate::log::Partitioner;
use crate::plugin::Kind;
use crate::plugin::manifest::{Framing, Input, OnGap, Start};
use crate::types::{ClusterName, Partition, TopicName};

/// A merge topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// Its number among those of the plugin's name.
    pub number: u64,
    /// Its partitions, and so those of the states.
    pub partitions: u32,
}

impl Deployment {
    /// Partition of a key.
    #[must_use]
    pub fn partition_of(&self, key: &[u8]) -> Partition {
        self.partitioner().partition(key, self.partitions)
    }

    /// How keys are spread over the partitions of what it folds.
    #[must_use]
    pub fn partitioner(&self) -> Partitioner {
        if self.own().is_some() {
            return Partitioner::default();
        }
        match self.merge {
            Some(_) => Partitioner::default(),
            None => self.inputs[0].partitioner,
        }
    }

    /// What it folds: its input, or the topic that its inputs are merged into.
    #[must_use]
    pub fn folded(&self, cluster: &ClusterName) -> Input {
        if let Some(own) = self.own() {
            return own;
        }
        let Some(merge) = self.merge else {
            return self.inputs[0].clone();
        };
        Input {
            name: "merged".to_owned(),
            topic: cluster.merge_topic(&self.name, merge.number),
            // What to begin with was decided when the inputs were merged.
            start: Start::Earliest,
            on_gap: OnGap::Stop,
            partitioner: Partitioner::default(),
            framing: Framing::None,
        }
    }

    /// The topic that it owns, if that is what it folds: a command handler's inputs are commands.
    #[must_use]
    pub fn own(&self) -> Option<Input> {
        let output = self.output.as_ref();
        let output = output.filter(|_| self.kind == Kind::CommandHandler);
        output.map(|output| Input::own(&output.topic))
    }

    /// What of it makes the contents of its merge topic.
    fn merges(&self) -> Merged {
        Merged::of(&self.inputs, self.routes, &self.manifest.route_schema)
    }
}

/// What makes the contents of a merge topic.
#[derive(PartialEq, Eq)]
struct Merged {
    inputs: Vec<(TopicName, Start)>,
    /// By which route; `None` = each record keeps its key.
    route: Option<String>,
}

impl Merged {
    fn of(inputs: &[Input], routes: bool, route_schema: &str) -> Self {
        let mut inputs: Vec<_> = inputs
            .iter()
            .map(|it| (it.topic.clone(), it.start))
            .collect();
        inputs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Self {
            inputs,
            route: routes.then(|| route_schema.to_owned()),
        }
    }
}

/// The merge topic that a request's generation is to fold: one that is there, or a new one of the next
/// `number`. `None` = it folds its one input as it is.
pub(super) fn of(
    request: &DeployRequested,
    decided: Option<&Decided>,
    number: impl FnOnce() -> u64,
) -> Option<Merge> {
    let inputs = resolve_inputs(&request.manifest, &request.topics);
    let folds_itself = request.kind == Kind::CommandHandler;
    match inputs.len() {
        0 => return None,
        1 if !request.routes && !folds_itself => return None,
        _ => {}
    }
    let wanted = Merged::of(&inputs, request.routes, &request.manifest.route_schema);
    let fits = |merge: &Merge| {
        let asked = request.manifest.merge_partitions;
        asked.is_none_or(|asked| asked == merge.partitions)
    };
    let mut running = decided.into_iter().flat_map(Decided::generations);
    let found = running.find_map(|generation| {
        let deployment = &generation.deployment;
        let merge = deployment.merge.filter(fits)?;
        (deployment.merges() == wanted).then_some(merge)
    });
    Some(found.unwrap_or_else(|| Merge {
        number: number(),
        partitions: request.partitions,
    }))
}

/// Whether the states may stay, or an output be published on, where `deployment` takes over from `serving`:
/// offsets of one topic say nothing about another.
pub(super) fn check_same(serving: &Deployment, deployment: &Deployment) -> Result<(), Problem> {
    if let (Some(then), Some(now)) = (serving.own(), deployment.own()) {
        return check_same_handler(serving, deployment, &then.topic, &now.topic);
    }
    let topic = |it: &Deployment| {
        (
            it.merge.map(|merge| merge.number),
            it.inputs[0].topic.clone(),
        )
    };
    let is_same = match (serving.merge, deployment.merge) {
        (None, None) => topic(serving) == topic(deployment),
        (then, now) => then == now,
    };
    let publishes = deployment.kind == Kind::Republisher && !deployment.emits_from_earliest;
    if is_same || !publishes {
        return Ok(());
    }
    Err(Problem::new(
        Code::InputsChanged,
        format!(
            "what '{}' has published was made from other inputs, or from inputs that were routed otherwise: \
             which of their events the new code must not publish again cannot be told. Publish everything \
             to a new topic (`--state rebuild --emit-from earliest` with another output), or deploy it \
             under another name (`--name`)",
            serving.name
        ),
    ))
}

/// As [`check_same`], of command handlers: what it folds is its own topic, and its inputs are commands.
fn check_same_handler(
    serving: &Deployment,
    deployment: &Deployment,
    then: &TopicName,
    now: &TopicName,
) -> Result<(), Problem> {
    let name = &serving.name;
    if then != now {
        return Err(Problem::new(
            Code::InputsChanged,
            format!(
                "'{name}' decides on what is in topic {then}, and other code under its name must do so, too: deploy \
                 what owns another topic under another name (`--name`)"
            ),
        ));
    }
    // Another merge topic has the commands of the first once more.
    if serving.merge.is_some() && serving.merge != deployment.merge {
        let inputs = serving.inputs.iter().map(|input| input.topic.as_str());
        return Err(Problem::new(
            Code::InputsChanged,
            format!(
                "'{name}' takes commands from {}, and from other topics the commands that it has decided already would \
                 come once more: leave its inputs as they are, and let a republisher bring what is in other topics \
                 into one of them",
                inputs.collect::<Vec<_>>().join(", ")
            ),
        ));
    }
    Ok(())
}
