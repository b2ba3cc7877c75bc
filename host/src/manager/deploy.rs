//! A deployment as its author sees it: check the component, map and find its topics, make its bytes
//! durable, append the request, and wait for the verdict of the fold. All or nothing: until the
//! request is in the log, nothing was decided, and what was stored harms nobody.

use std::sync::Arc;

use super::decide::{accepted, decide, foresee, log_problem, of_another_kind};
use super::deployments::{
    Decided, Deployment, RollbackRequested, StatePolicy, Verdict, name_taken,
};
use super::record::{self, Request};
use super::{DeployOutcome, DeployRequest, Deployed, Inner, RollbackRequest, outputs};
use crate::error::{Code, Problem};
use crate::log::{Cleanup, LogError, LogKind, NewTopic, Topic};
use crate::plugin::manifest::{Input, Output, Start};
use crate::plugin::{BytesColumn, Fault, Inspection, Kind, OptionalColumn, component};
use crate::state::objects::ObjectsError;
use crate::types::{Offset, Partition, PluginName, TopicPartition};

/// See [`super::Manager::deploy`].
pub(super) async fn deploy(
    manager: &Arc<Inner>,
    request: DeployRequest,
) -> Result<Deployed, Problem> {
    check_kind(manager, &request)?;
    let inspection = inspect(manager, &request).await?;
    let name = request
        .name
        .clone()
        .unwrap_or_else(|| inspection.manifest.name.clone());
    let cluster = &manager.context.cluster;
    let mapped = outputs::map_topics(&inspection.manifest, &request.topics, cluster);
    let (inputs, output) = mapped.map_err(|faults| invalid(&faults))?;
    outputs::check_owner(manager, &name, output.as_ref(), request.adopt_topic).await?;
    let partitions = partitions_of(
        manager,
        &inspection,
        &inputs,
        output.as_ref(),
        request.dry_run,
    )
    .await?;
    // A command handler's inputs are commands: its states are made of its own topic.
    let own = output
        .as_ref()
        .filter(|_| inspection.kind == Kind::CommandHandler);
    let own = own.map(|output| vec![Input::own(&output.topic)]);
    let folded = own.as_ref().unwrap_or(&inputs);
    let running = manager.deployments.read().plugins().get(&name).cloned();
    if let Some(running) = &running {
        check_states(manager, running, &request, &inspection, folded).await?;
    }
    let deployed = |outcome, deployment: Option<&Deployment>| Deployed {
        outcome,
        name: name.clone(),
        deployment: deployment.map(|it| it.id),
        generation: deployment.map(|it| it.generation),
        inspection: inspection.clone(),
        topics: inputs.iter().map(|input| input.topic.clone()).collect(),
        output: output.as_ref().map(|output| output.topic.clone()),
    };
    let manifest_toml = component::manifest_text(&request.component)
        .ok_or_else(|| Problem::new(Code::Internal, "the inspected component has no manifest"))?;
    let event = record::DeployRequest {
        name: name.clone(),
        kind: inspection.kind,
        digest: inspection.digest,
        manifest_toml,
        migrates: inspection.capabilities.migrate,
        parameters: request.parameters,
        topics: request.topics,
        routes: inspection.capabilities.route,
        partitions,
        state: request.state,
        from_retained: request.from_retained,
        adopt_topic: request.adopt_topic,
        emit_from_earliest: request.emit_from_earliest,
    };
    let event = Request::Deploy(Box::new(event));
    if request.dry_run {
        accepted(foresee(manager, &request.principal, event))?;
        return Ok(deployed(DeployOutcome::DryRun, None));
    }
    let objects = &manager.context.objects;
    let put = objects.put_component(request.component).await;
    put.map_err(objects_problem)?;
    let verdict = decide(manager, &request.principal, event).await?;
    let (outcome, deployment) = outcome(verdict)?;
    Ok(deployed(outcome, Some(&*deployment)))
}

/// See [`super::Manager::rollback`].
pub(super) async fn rollback(
    manager: &Arc<Inner>,
    request: RollbackRequest,
) -> Result<(DeployOutcome, Arc<Deployment>), Problem> {
    let RollbackRequest {
        name,
        state,
        from_retained,
        principal,
    } = request;
    let running = manager.deployments.read().plugins().get(&name).cloned();
    let mut partitions = 0;
    // What cannot be rolled back is refused by the fold; what can be needs its input.
    if let Some(running) = &running
        && running.building.is_none()
        && let Some(previous) = running.previous()
    {
        let own = previous.own().map(|own| vec![own]);
        let folded = own.as_ref().unwrap_or(&previous.inputs);
        partitions = largest(manager, folded, false).await?;
        if let Some(asked) = previous.manifest.merge_partitions {
            partitions = asked;
        }
        let is_kept = running
            .kept
            .as_ref()
            .is_some_and(|kept| kept.deployment.id == previous.id);
        let is_anew = match state {
            None => !is_kept,
            Some(policy) => policy == StatePolicy::Rebuild,
        };
        if is_anew && !from_retained {
            for input in folded {
                check_history(manager, input, &name).await?;
            }
        }
    }
    let request = RollbackRequested {
        name,
        state,
        partitions,
    };
    let request = Request::Rollback {
        request,
        from_retained,
    };
    outcome(decide(manager, &principal, request).await?)
}

fn outcome(verdict: Verdict) -> Result<(DeployOutcome, Arc<Deployment>), Problem> {
    match accepted(verdict)? {
        Verdict::Created(it) => Ok((DeployOutcome::Created, it)),
        Verdict::Unchanged(it) => Ok((DeployOutcome::Unchanged, it)),
        Verdict::Swapped(it) => Ok((DeployOutcome::Swapped, it)),
        Verdict::Building(it) => Ok((DeployOutcome::Building, it)),
        Verdict::Cancelled(it) => Ok((DeployOutcome::Cancelled, it)),
        _ => Err(of_another_kind()),
    }
}

/// Whether what is there lets states be kept, or built a second time, as is asked for.
async fn check_states(
    manager: &Inner,
    running: &Decided,
    request: &DeployRequest,
    inspection: &Inspection,
    inputs: &[Input],
) -> Result<(), Problem> {
    let serving = &running.serving.deployment;
    // What is merged already stays whole, whatever becomes of the inputs.
    let is_merged = serving.merge.is_some() && serving.inputs == inputs;
    if builds_anew(serving, request, inspection) && !request.from_retained && !is_merged {
        for input in inputs {
            check_history(manager, input, &serving.name).await?;
        }
    }
    if request.state == Some(StatePolicy::Keep) {
        check_migrate(manager, serving, request, inspection).await?;
    }
    Ok(())
}

/// Whether the states would be built from the log a second time.
fn builds_anew(serving: &Deployment, request: &DeployRequest, inspection: &Inspection) -> bool {
    let is_same = serving.digest == inspection.digest
        && serving.parameters == request.parameters
        && serving.topics == request.topics;
    match request.state {
        Some(policy) => policy == StatePolicy::Rebuild,
        None => !is_same,
    }
}

/// Refuses to build from a log that has lost its beginning: what was folded from there would be gone.
async fn check_history(manager: &Inner, input: &Input, name: &PluginName) -> Result<(), Problem> {
    if input.start != Start::Earliest {
        return Ok(());
    }
    let log = &manager.context.log;
    let Some(topic) = log.topic(&input.topic).await.map_err(log_problem)? else {
        return Ok(());
    };
    let mut cut = Vec::new();
    for partition in (0..topic.partitions).map(Partition) {
        let of = TopicPartition {
            topic: input.topic.clone(),
            partition,
        };
        let range = log.range(&of).await.map_err(log_problem)?;
        if range.start > Offset(0) {
            cut.push(format!("{of}@{}", range.start));
        }
    }
    if cut.is_empty() {
        return Ok(());
    }
    Err(Problem::new(
        Code::HistoryCut,
        format!(
            "the log does not reach back to its start any more (it begins at {}), so building '{name}' \
             anew would lose what was folded from there: keep the states (`--state keep`), or say that \
             the rest is enough (`--from-retained`)",
            cut.join(", ")
        ),
    )
    .with("from", cut))
}

/// Asks the code whether it can read states of the schema that there is, before anything is decided.
async fn check_migrate(
    manager: &Inner,
    serving: &Deployment,
    request: &DeployRequest,
    inspection: &Inspection,
) -> Result<(), Problem> {
    let schema = serving.manifest.state_schema.clone();
    if schema == inspection.manifest.state_schema || !inspection.capabilities.migrate {
        return Ok(());
    }
    let engine = manager.context.engine.clone();
    let (component, parameters) = (request.component.clone(), request.parameters.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let code = engine.load(&component, &parameters)?;
        let (keys, states) = (BytesColumn::default(), OptionalColumn::default());
        let migrated = code
            .instance()
            .and_then(|mut instance| instance.migrate(&schema, 0, &keys, &states));
        let refusal = match migrated {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(refusal)) => refusal,
            Err(fault) => fault.to_string(),
        };
        Err(vec![Fault {
            code: "migrate-refused",
            detail: format!(
                "its `migrate` does not read states of \"{schema}\": {refusal}; correct it, or build the \
                 states anew with `--state rebuild`"
            ),
        }])
    });
    asked
        .await
        .map_err(|error| Problem::new(Code::Internal, format!("asking it died: {error}")))?
        .map_err(|faults| invalid(&faults))
}

/// That a name is taken is said before everything that may be wrong with the component.
fn check_kind(manager: &Inner, request: &DeployRequest) -> Result<(), Problem> {
    let Some((name, kind)) = request
        .name
        .as_ref()
        .zip(component::kind_of(&request.component))
    else {
        return Ok(());
    };
    let deployments = manager.deployments.read();
    let running = deployments.plugins().get(name);
    match running.map(|running| &running.serving.deployment) {
        Some(serving) if serving.kind != kind => Err(name_taken(serving, kind)),
        _ => Ok(()),
    }
}

async fn inspect(manager: &Inner, request: &DeployRequest) -> Result<Inspection, Problem> {
    let engine = manager.context.engine.clone();
    let (component, parameters) = (request.component.clone(), request.parameters.clone());
    tokio::task::spawn_blocking(move || engine.inspect(&component, &parameters))
        .await
        .map_err(|error| Problem::new(Code::Internal, format!("inspecting died: {error}")))?
        .map_err(|faults| invalid(&faults))
}

/// How many partitions what is folded is to have: the input's, or those of a merge topic.
async fn partitions_of(
    manager: &Inner,
    inspection: &Inspection,
    inputs: &[Input],
    output: Option<&Output>,
    dry_run: bool,
) -> Result<u32, Problem> {
    let largest = largest(manager, inputs, dry_run).await?;
    if let Some(output) = output.filter(|_| inspection.kind == Kind::CommandHandler) {
        return own_partitions(manager, output).await;
    }
    let is_merged = inputs.len() > 1 || inspection.capabilities.route;
    let asked = inspection.manifest.merge_partitions;
    Ok(asked.filter(|_| is_merged).unwrap_or(largest))
}

/// Partitions of the topic that a command handler owns and folds: it is created after the decision.
async fn own_partitions(manager: &Inner, output: &Output) -> Result<u32, Problem> {
    let context = &manager.context;
    let topic = context
        .log
        .topic(&output.topic)
        .await
        .map_err(log_problem)?;
    let wanted = output.partitions.unwrap_or(context.topics.partitions);
    Ok(topic.map_or(wanted, |topic| topic.partitions))
}

/// Partitions of the largest input. Each is found, or created.
async fn largest(manager: &Inner, inputs: &[Input], dry_run: bool) -> Result<u32, Problem> {
    let mut largest = 0;
    for input in inputs {
        let topic = find_input(manager, input, dry_run).await?;
        let partitions = topic.map_or(manager.context.topics.partitions, |topic| topic.partitions);
        largest = largest.max(partitions);
    }
    Ok(largest)
}

/// The input topic; created on the embedded log, since there nobody else will, and where a plugin that
/// was just decided publishes to it. `None` in a dry run that would create it.
async fn find_input(
    manager: &Inner,
    input: &Input,
    dry_run: bool,
) -> Result<Option<Topic>, Problem> {
    let context = &manager.context;
    if let Some(topic) = context.log.topic(&input.topic).await.map_err(log_problem)? {
        return Ok(Some(topic));
    }
    let (name, topic) = (&input.name, &input.topic);
    let publisher = manager.deployments.read().publisher_of(topic).cloned();
    if let Some(publisher) = publisher {
        // As its publisher wants it, not as an input would be.
        if dry_run {
            return Ok(None);
        }
        let made = outputs::ensure_topics(context, &publisher).await;
        made.map_err(log_problem)?;
        return context.log.topic(topic).await.map_err(log_problem);
    }
    if context.log.kind() != LogKind::Embedded || context.cluster.owns_topic(topic) {
        return Err(invalid(&[Fault {
            code: "unknown-topic",
            detail: format!(
                "the input '{name}' reads topic '{topic}', which does not exist: create it \
                 (`foldhost topic create {topic} --partitions N`), or map the input to another one \
                 (`--topic {name}=TOPIC`)"
            ),
        }]));
    }
    if dry_run {
        return Ok(None);
    }
    let new = NewTopic {
        name: topic.clone(),
        partitions: context.topics.partitions,
        replication_factor: None,
        cleanup: Cleanup::Default,
    };
    match context.log.create_topic(&new).await {
        Ok(topic) => Ok(Some(topic)),
        Err(LogError::TopicExists(_)) => context.log.topic(topic).await.map_err(log_problem),
        Err(error) => Err(log_problem(error)),
    }
}

fn invalid(faults: &[Fault]) -> Problem {
    let details: Vec<_> = faults.iter().map(|fault| fault.detail.as_str()).collect();
    let listed: Vec<_> = faults
        .iter()
        .map(|fault| serde_json::json!({ "code": fault.code, "detail": fault.detail }))
        .collect();
    Problem::new(Code::InvalidPlugin, details.join("; ")).with("faults", listed)
}

fn objects_problem(error: ObjectsError) -> Problem {
    let code = match error {
        ObjectsError::ComponentTooLarge { .. } => Code::TooLarge,
        _ => Code::StateUnavailable,
    };
    Problem::new(code, error.to_string())
}
