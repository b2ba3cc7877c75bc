//! The fold of the deployments topic: what runs, as one pure function of its records. Every host
//! folds the same records in the same order, so all agree on what was accepted and what was refused.
//!
//! Invariant: no clock, no I/O, no randomness.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    Body, Decided, DeployRequested, Deployment, Event, Generation, How, Merge, Origin, Paused,
    Report, Reported, Retiring, RollbackRequested, Skip, StatePolicy, Verdict, merge, outputs,
    resolve_inputs, resolve_output,
};
use crate::error::{Code, Problem};
use crate::limits;
use crate::plugin::Kind;
use crate::plugin::manifest::Input;
use crate::types::{DeploymentId, GenerationId, Offset, Partition, PluginName, RecordPosition};

/// What runs, after a prefix of the deployments topic.
#[derive(Debug, Clone, Default)]
pub struct Deployments {
    cluster_id: Option<String>,
    plugins: BTreeMap<PluginName, Arc<Decided>>,
    generations: BTreeMap<PluginName, GenerationId>,
    /// The last number of a merge topic, by name.
    merges: BTreeMap<PluginName, u64>,
}

/// Where a request stands and who wrote it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) id: DeploymentId,
    pub(super) at_ms: i64,
    pub(super) principal: String,
}

impl Deployments {
    /// Identity of the cluster, once it has one.
    #[must_use]
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// What runs, by name.
    #[must_use]
    pub fn plugins(&self) -> &BTreeMap<PluginName, Arc<Decided>> {
        &self.plugins
    }

    /// Whether nothing will ever use the states of this generation again.
    #[must_use]
    pub fn is_dead(&self, name: &PluginName, generation: GenerationId) -> bool {
        let was_given = self
            .generations
            .get(name)
            .is_some_and(|last| generation <= *last);
        let is_wanted = self
            .plugins
            .get(name)
            .is_some_and(|decided| decided.generation(generation).is_some());
        was_given && !is_wanted
    }

    /// Whether nothing will ever fold this merge topic again.
    #[must_use]
    pub fn is_merge_dead(&self, name: &PluginName, number: u64) -> bool {
        let was_given = self.merges.get(name).is_some_and(|last| number <= *last);
        let folds = |it: &Generation| it.deployment.merge.is_some_and(|it| it.number == number);
        let decided = self.plugins.get(name);
        was_given && !decided.is_some_and(|decided| decided.generations().any(folds))
    }

    /// Folds the record at `offset`: accepts or refuses it.
    pub fn apply(&mut self, offset: Offset, event: Event) -> Verdict {
        let asked = Asked {
            id: DeploymentId(offset.0),
            at_ms: event.at_ms,
            principal: event.principal,
        };
        let verdict = match event.body {
            Body::ClusterNamed(id) => Ok(Verdict::Named(self.cluster_id.get_or_insert(id).clone())),
            Body::Deploy(request) => self.deploy(asked, *request),
            Body::Delete(name) => match self.plugins.remove(&name) {
                Some(_) => Ok(Verdict::Deleted),
                None => Err(unknown_plugin(name.as_str(), self.plugins.keys())),
            },
            Body::Rollback(request) => self.rollback(asked, &request),
            Body::Pause(name, paused) => self.decided(&name).map(|decided| {
                decided.paused = paused.then(|| {
                    let before = decided.paused.take();
                    before.unwrap_or(Paused {
                        principal: asked.principal,
                        at_ms: asked.at_ms,
                    })
                });
                Verdict::Paused
            }),
            Body::Skip(name, at, reason) => self.skip(asked, &name, at, reason),
            Body::Replay(request) => self.replay(asked, request),
            Body::Discard(request) => self.discard(asked, *request),
            Body::Bootstrap(request) => self.bootstrap(asked, request),
            Body::StopBootstrap(name) => self.stop_bootstrap(&name),
            Body::Bootstrapped(reported) => {
                self.bootstrapped(reported);
                Ok(Verdict::Noted)
            }
            Body::Report(reported) => {
                self.report(asked, reported);
                Ok(Verdict::Noted)
            }
            Body::Switched(name, generation, partition) => {
                self.switched(&name, generation, partition);
                Ok(Verdict::Noted)
            }
            Body::Unknown(why) => Err(Problem::new(
                Code::BadRequest,
                format!("the request cannot be read ({why}); was it written by a newer version?"),
            )),
        };
        verdict.unwrap_or_else(Verdict::Refused)
    }

    pub(super) fn decided(&mut self, name: &PluginName) -> Result<&mut Decided, Problem> {
        if self.plugins.contains_key(name) {
            let decided = self.plugins.get_mut(name).expect("it was just found");
            return Ok(Arc::make_mut(decided));
        }
        Err(unknown_plugin(name.as_str(), self.plugins.keys()))
    }

    fn next_generation(&mut self, name: &PluginName) -> GenerationId {
        let last = self.generations.entry(name.clone()).or_default();
        *last = GenerationId(last.0 + 1);
        *last
    }

    /// The merge topic that a request's generation is to fold, if it folds one.
    fn merge_of(&mut self, request: &DeployRequested) -> Option<Merge> {
        let last = self.merges.get(&request.name).copied().unwrap_or(0);
        let decided = self.plugins.get(&request.name).map(|decided| &**decided);
        let merge = merge::of(request, decided, || last + 1)?;
        self.merges
            .insert(request.name.clone(), last.max(merge.number));
        Some(merge)
    }

    fn deploy(&mut self, asked: Asked, request: DeployRequested) -> Result<Verdict, Problem> {
        let output = resolve_output(&request.manifest, &request.topics);
        let Some(decided) = self.plugins.get(&request.name) else {
            self.check_output(&request.name, output.as_ref())?;
            outputs::check_emission(&request, None, StatePolicy::Rebuild)?;
            return Ok(self.create(asked, request));
        };
        if decided.serving.deployment.kind != request.kind {
            return Err(name_taken(&decided.serving.deployment, request.kind));
        }
        self.check_output(&request.name, output.as_ref())?;
        if let Some(building) = &decided.building {
            if building.deployment.runs_the_same_as(&request) && !building.is_blocked() {
                return Ok(Verdict::Building(building.deployment.clone()));
            }
            if !building.is_blocked() {
                return Err(under_way(decided));
            }
        }
        let serving = &decided.serving.deployment;
        let is_same = serving.runs_the_same_as(&request);
        let policy = match request.state {
            None | Some(StatePolicy::Keep) if is_same => {
                let decided = self.decided(&request.name)?;
                // What was being built instead was blocked, and is not wanted any more.
                decided.building = None;
                return Ok(Verdict::Unchanged(decided.serving.deployment.clone()));
            }
            None => StatePolicy::Rebuild,
            Some(policy) => policy,
        };
        outputs::check_emission(&request, Some(decided), policy)?;
        let how = match policy {
            StatePolicy::Rebuild => How::Rebuild,
            StatePolicy::Keep if serving.manifest.state_schema == request.manifest.state_schema => {
                How::Keep
            }
            StatePolicy::Keep => How::Migrate,
        };
        self.take_over(asked, request, how, None)
    }

    fn create(&mut self, asked: Asked, request: DeployRequested) -> Verdict {
        let name = request.name.clone();
        let first = asked.id;
        let generation = self.next_generation(&name);
        let merge = self.merge_of(&request);
        let deployment = deployment(asked, request, generation, merge, How::First);
        let deployment = Arc::new(deployment);
        let decided = Decided {
            first,
            serving: generation_of(deployment.clone(), Origin::Log),
            building: None,
            kept: None,
            retiring: None,
            paused: None,
            skips: Vec::new(),
            replays: Vec::new(),
            discards: Vec::new(),
            bootstrap: None,
            history: vec![deployment.clone()],
            served: BTreeSet::from([first]),
        };
        self.plugins.insert(name, Arc::new(decided));
        Verdict::Created(deployment)
    }

    /// Other code under a name that runs: on the states that are there, or on a generation beside.
    fn take_over(
        &mut self,
        asked: Asked,
        request: DeployRequested,
        how: How,
        rolls_back_to: Option<DeploymentId>,
    ) -> Result<Verdict, Problem> {
        let name = request.name.clone();
        let keeps_generation = how == How::Keep;
        let decided = self.decided(&name)?;
        let serving = decided.serving.deployment.clone();
        if !keeps_generation && decided.retiring.is_some() {
            return Err(under_way(decided));
        }
        let merge = self.merge_of(&request);
        if matches!(how, How::Keep | How::Migrate) {
            check_keep(&serving, &request, merge)?;
        }
        let generation = if keeps_generation {
            serving.generation
        } else {
            self.next_generation(&name)
        };
        let mut deployment = Deployment {
            rolls_back_to,
            ..deployment(asked, request, generation, merge, how)
        };
        // The generation goes on, and so does what its topic is to hold.
        if keeps_generation && deployment.output == serving.output {
            deployment.emits_from_earliest |= serving.emits_from_earliest;
        }
        merge::check_same(&serving, &deployment)?;
        let deployment = Arc::new(deployment);
        let decided = self.decided(&name)?;
        decided.building = None;
        decided.remember(deployment.clone());
        if keeps_generation {
            decided.served.insert(deployment.id);
            decided.serving.deployment = deployment.clone();
            decided.serving.reports.clear();
            return Ok(Verdict::Swapped(deployment));
        }
        let origin = match how {
            How::Migrate => Origin::Migrated {
                from: serving.generation,
                schema: serving.manifest.state_schema.clone(),
            },
            _ => Origin::Log,
        };
        decided.building = Some(generation_of(deployment.clone(), origin));
        Ok(Verdict::Building(deployment))
    }

    fn rollback(&mut self, asked: Asked, request: &RollbackRequested) -> Result<Verdict, Problem> {
        let decided = self.decided(&request.name)?;
        if decided.building.take().is_some() {
            return Ok(Verdict::Cancelled(decided.serving.deployment.clone()));
        }
        if decided.retiring.is_some() {
            return Err(under_way(decided));
        }
        let Some(previous) = decided.previous().cloned() else {
            return Err(Problem::new(
                Code::NoPreviousDeployment,
                format!(
                    "'{}' runs its first deployment: there is nothing to go back to",
                    request.name
                ),
            ));
        };
        let is_kept = |kept: &Generation| kept.deployment.id == previous.id;
        let keeps = request.state == Some(StatePolicy::Keep);
        if !keeps && request.state.is_none() && decided.kept.as_ref().is_some_and(is_kept) {
            let kept = decided.kept.as_ref().expect("it was just found");
            merge::check_same(&decided.serving.deployment, &kept.deployment)?;
            let kept = decided.kept.take().expect("it was just found");
            let deployment = Arc::new(Deployment {
                id: asked.id,
                how: How::Kept,
                adopts_topic: false,
                // It goes on where the present one stops, however it began.
                emits_from_earliest: false,
                rolls_back_to: Some(kept.deployment.id),
                at_ms: asked.at_ms,
                principal: asked.principal,
                ..(*kept.deployment).clone()
            });
            decided.remember(deployment.clone());
            decided.building = Some(generation_of(deployment.clone(), kept.origin));
            return Ok(Verdict::Building(deployment));
        }
        let again = DeployRequested {
            name: previous.name.clone(),
            kind: previous.kind,
            digest: previous.digest,
            manifest: previous.manifest.clone(),
            migrates: previous.migrates,
            routes: previous.routes,
            parameters: previous.parameters.clone(),
            topics: previous.topics.clone(),
            partitions: request.partitions,
            state: request.state,
            adopt_topic: false,
            emit_from_earliest: false,
        };
        let serving = decided.serving.deployment.clone();
        self.check_output(&again.name, previous.output.as_ref())?;
        let how = if !keeps {
            How::Rebuild
        } else if serving.manifest.state_schema == again.manifest.state_schema {
            How::Keep
        } else {
            How::Migrate
        };
        self.take_over(asked, again, how, Some(previous.id))
    }

    fn skip(
        &mut self,
        asked: Asked,
        name: &PluginName,
        at: RecordPosition,
        reason: String,
    ) -> Result<Verdict, Problem> {
        let decided = self.decided(name)?;
        if let Some(known) = decided.skips.iter().find(|skip| skip.at == at) {
            return Ok(Verdict::Skipped(known.number));
        }
        let blocked: Vec<_> = decided
            .generations()
            .flat_map(|generation| generation.reports.values())
            .filter_map(|report| match report {
                Report::Blocked(blocked) => blocked.at.as_ref(),
                Report::Ready => None,
            })
            .collect();
        let Some((_, topic_id)) = blocked.iter().find(|(position, _)| *position == at) else {
            return Err(not_blocked(name, &at, &blocked));
        };
        if decided.skips.len() >= limits::SKIPS_MAX {
            return Err(Problem::new(
                Code::TooLarge,
                format!(
                    "'{name}' skips {} records already: what cannot fold this many needs other code \
                     (`foldhost plugin deploy FILE --state keep`)",
                    limits::SKIPS_MAX
                ),
            ));
        }
        let skip = Skip {
            number: asked.id.0,
            at,
            topic_id: *topic_id,
            reason,
            principal: asked.principal,
            at_ms: asked.at_ms,
        };
        let number = skip.number;
        decided.skips.push(skip);
        Ok(Verdict::Skipped(number))
    }

    /// Takes note of what an owner says, and promotes what is ready as a whole.
    fn report(&mut self, asked: Asked, reported: Reported) {
        let Ok(decided) = self.decided(&reported.name) else {
            return;
        };
        let is_meant = |it: &&mut Generation| {
            it.number() == reported.generation && it.deployment.id == reported.deployment
        };
        let Some(generation) = [Some(&mut decided.serving), decided.building.as_mut()]
            .into_iter()
            .flatten()
            .find(is_meant)
        else {
            return;
        };
        generation
            .reports
            .insert(reported.partition, reported.report);
        if decided.building.as_ref().is_some_and(Generation::is_ready) {
            decided.promote(asked);
        }
    }

    fn switched(&mut self, name: &PluginName, generation: GenerationId, partition: Partition) {
        let Ok(decided) = self.decided(name) else {
            return;
        };
        if decided.serving.number() != generation {
            return;
        }
        let Some(retiring) = &mut decided.retiring else {
            return;
        };
        retiring.answers.remove(&partition);
        if !retiring.answers.is_empty() {
            return;
        }
        let retired = decided.retiring.take().expect("it was just found");
        let keep = decided.serving.deployment.manifest.keep_generations > 0;
        decided.kept = keep.then_some(retired.generation);
    }
}

impl Decided {
    fn remember(&mut self, deployment: Arc<Deployment>) {
        self.history.push(deployment);
        if self.history.len() > limits::DEPLOYMENTS_REMEMBERED_MAX {
            let forgotten = self.history.remove(0);
            self.served.remove(&forgotten.id);
        }
    }

    /// What was built answers from now on, partition by partition as each is at or past the old one.
    fn promote(&mut self, asked: Asked) {
        let built = self.building.take().expect("something was built");
        self.served.insert(built.deployment.id);
        let answers = (0..built.deployment.partitions).map(Partition).collect();
        if built.deployment.partitions != self.serving.deployment.partitions {
            self.stop_bootstrap();
        }
        let generation = std::mem::replace(&mut self.serving, built);
        self.publish_what_was_parked(asked, generation.number());
        self.retiring = Some(Retiring {
            generation,
            answers,
        });
    }
}

fn generation_of(deployment: Arc<Deployment>, origin: Origin) -> Generation {
    Generation {
        deployment,
        origin,
        reports: BTreeMap::new(),
    }
}

fn deployment(
    asked: Asked,
    request: DeployRequested,
    generation: GenerationId,
    merge: Option<Merge>,
    how: How,
) -> Deployment {
    let inputs = resolve_inputs(&request.manifest, &request.topics);
    let output = resolve_output(&request.manifest, &request.topics);
    Deployment {
        id: asked.id,
        generation,
        name: request.name,
        kind: request.kind,
        digest: request.digest,
        manifest: request.manifest,
        migrates: request.migrates,
        parameters: request.parameters,
        topics: request.topics,
        inputs,
        output,
        adopts_topic: request.adopt_topic,
        emits_from_earliest: request.emit_from_earliest,
        routes: request.routes,
        merge,
        partitions: merge.map_or(request.partitions, |merge| merge.partitions),
        how,
        rolls_back_to: None,
        at_ms: asked.at_ms,
        principal: asked.principal,
    }
}

/// Whether states can stay: they belong to the same records, and the code can read them.
fn check_keep(
    serving: &Deployment,
    request: &DeployRequested,
    merge: Option<Merge>,
) -> Result<(), Problem> {
    let inputs = resolve_inputs(&request.manifest, &request.topics);
    let read = |inputs: &[Input]| {
        let read = inputs
            .iter()
            .map(|input| format!("{} = {}", input.name, input.topic));
        read.collect::<Vec<_>>().join(", ")
    };
    let is_same = inputs.len() == serving.inputs.len()
        && inputs.iter().zip(&serving.inputs).all(|(now, then)| {
            now.name == then.name && now.topic == then.topic && now.partitioner == then.partitioner
        });
    if !is_same {
        return Err(Problem::new(
            Code::InputsChanged,
            format!(
                "the states of '{}' were folded from {}, and the new code reads {}, by whatever \
                 partitioner each names: states can only be kept with the same inputs; build them anew \
                 with `--state rebuild`",
                serving.name,
                read(&serving.inputs),
                read(&inputs),
            ),
        ));
    }
    if merge != serving.merge {
        return Err(Problem::new(
            Code::InputsChanged,
            format!(
                "the states of '{}' were folded from records that were merged otherwise: the new code \
                 routes them in another way (`route-schema`), or wants other `merge-partitions`; build the \
                 states anew with `--state rebuild`",
                serving.name
            ),
        ));
    }
    if merge.is_none() && request.partitions != serving.partitions {
        return Err(Problem::new(
            Code::InputsChanged,
            format!(
                "the input of '{}' had {} partitions and now has {}, so keys have moved: build the \
                 states anew with `--state rebuild`",
                serving.name, serving.partitions, request.partitions
            ),
        ));
    }
    let (then, now) = (
        &serving.manifest.state_schema,
        &request.manifest.state_schema,
    );
    if then != now && !request.migrates {
        return Err(Problem::new(
            Code::SchemaChanged,
            format!(
                "the states of '{}' are written as \"{then}\", and the new code reads \"{now}\" and \
                 exports no `migrate`: implement it, or build the states anew with `--state rebuild`",
                serving.name
            ),
        ));
    }
    Ok(())
}

/// The name belongs to a plugin of another kind.
pub(in crate::manager) fn name_taken(serving: &Deployment, new: Kind) -> Problem {
    Problem::new(
        Code::NameTaken,
        format!(
            "'{}' is a {} and the new component is a {}: deploy it under another name with `--name`, or \
             delete the old one first",
            serving.name,
            kind_word(serving.kind),
            kind_word(new)
        ),
    )
}

/// A kind of plugin in a sentence.
pub(super) fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::View => "view",
        Kind::Republisher => "republisher",
        Kind::CommandHandler => "command handler",
    }
}

pub(super) fn under_way(decided: &Decided) -> Problem {
    let name = &decided.serving.deployment.name;
    let detail = match &decided.building {
        Some(building) => format!(
            "generation {} of '{name}' is being built (deployment {}): wait for it (`foldhost plugin \
             show {name}` tells how far it is), or drop it with `foldhost plugin rollback {name}`",
            building.number(),
            building.deployment.id
        ),
        None => format!(
            "'{name}' is just being switched to generation {}: try again in a moment",
            decided.serving.number()
        ),
    };
    Problem::new(Code::DeploymentUnderWay, detail)
}

fn not_blocked(
    name: &PluginName,
    at: &RecordPosition,
    blocked: &[&(RecordPosition, Option<[u8; 16]>)],
) -> Problem {
    let blocked: Vec<_> = blocked.iter().map(|(at, _)| at.to_string()).collect();
    let where_blocked = if blocked.is_empty() {
        "no partition of it is blocked at a record".to_owned()
    } else {
        format!("it is blocked at {}", blocked.join(", "))
    };
    Problem::new(
        Code::NotBlocked,
        format!(
            "'{name}' is not blocked at {at}, so there is nothing to skip there: {where_blocked}"
        ),
    )
    .with("blocked_at", blocked)
}

/// There is no plugin of this name; says which there are.
pub(in crate::manager) fn unknown_plugin<'n>(
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
