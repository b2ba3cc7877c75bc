//! A deployment as its author sees it: check the component, map and find its topics, make its bytes
//! durable, append the request, and wait for the verdict of the fold. All or nothing: until the
//! request is in the log, nothing was decided, and what was stored harms nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::deployments::{Verdict, resolve_inputs};
use super::record::{self, Request};
use super::{DeployOutcome, DeployRequest, Deployed, Inner};
use crate::error::{Code, Problem};
use crate::limits;
use crate::log::{Cleanup, LogError, LogKind, NewRecord, NewTopic, Topic};
use crate::plugin::manifest::Input;
use crate::plugin::{Fault, Inspection, component};
use crate::state::objects::ObjectsError;
use crate::types::{Partition, PluginName};

/// See [`super::Manager::deploy`].
pub(super) async fn deploy(
    manager: &Arc<Inner>,
    request: DeployRequest,
) -> Result<Deployed, Problem> {
    let inspection = inspect(manager, &request).await?;
    let name = request
        .name
        .clone()
        .unwrap_or_else(|| inspection.manifest.name.clone());
    let inputs = map_inputs(&inspection, &request)?;
    let topic = find_input(manager, &inputs[0], request.dry_run).await?;
    let deployed = |outcome, deployment, generation| Deployed {
        outcome,
        name: name.clone(),
        deployment,
        generation,
        inspection: inspection.clone(),
        topics: inputs.iter().map(|input| input.topic.clone()).collect(),
    };
    if request.dry_run {
        return Ok(deployed(DeployOutcome::DryRun, None, None));
    }
    let manifest_toml = component::manifest_text(&request.component)
        .ok_or_else(|| Problem::new(Code::Internal, "the inspected component has no manifest"))?;
    let put = manager
        .context
        .objects
        .put_component(request.component)
        .await;
    let digest = put.map_err(objects_problem)?;
    let event = Request::Deploy {
        name: name.clone(),
        digest,
        manifest_toml,
        parameters: request.parameters,
        topics: request.topics,
        partitions: topic.map_or(manager.context.topics.partitions, |topic| topic.partitions),
    };
    match decide(manager, &request.principal, event).await? {
        Verdict::Created(it) => Ok(deployed(
            DeployOutcome::Created,
            Some(it.id),
            Some(it.generation),
        )),
        Verdict::Unchanged(it) => Ok(deployed(
            DeployOutcome::Unchanged,
            Some(it.id),
            Some(it.generation),
        )),
        Verdict::Refused(problem) => Err(problem),
        Verdict::Deleted | Verdict::Named(_) => Err(Problem::new(
            Code::Internal,
            "the verdict belongs to another kind of request",
        )),
    }
}

/// See [`super::Manager::delete`].
pub(super) async fn delete(
    manager: &Arc<Inner>,
    name: &PluginName,
    principal: &str,
) -> Result<(), Problem> {
    match decide(manager, principal, Request::Delete(name.clone())).await? {
        Verdict::Refused(problem) => Err(problem),
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

fn map_inputs(inspection: &Inspection, request: &DeployRequest) -> Result<Vec<Input>, Problem> {
    let manifest = &inspection.manifest;
    let known: Vec<_> = manifest
        .inputs
        .iter()
        .map(|input| input.name.as_str())
        .collect();
    let faults: Vec<_> = request
        .topics
        .keys()
        .filter(|name| !known.contains(&name.as_str()))
        .map(|name| Fault {
            code: "unknown-input",
            detail: format!(
                "--topic maps the input '{name}', but the plugin's inputs are: {}",
                known.join(", ")
            ),
        })
        .collect();
    if faults.is_empty() {
        Ok(resolve_inputs(manifest, &request.topics))
    } else {
        Err(invalid(&faults))
    }
}

/// The input topic; created on the embedded log, since there nobody else will. `None` in a dry run
/// that would create it.
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

/// Appends a request and waits until this host's own fold has come to it.
async fn decide(
    manager: &Arc<Inner>,
    principal: &str,
    request: Request,
) -> Result<Verdict, Problem> {
    let context = &manager.context;
    if let Err(why) = &manager.readiness.read().following {
        return Err(Problem::new(
            Code::LogUnavailable,
            format!("this host does not follow the deployments yet ({why}); try again shortly"),
        ));
    }
    let id = context.clock.unique_id();
    let (sender, verdict) = oneshot::channel();
    manager.waiting.lock().insert(id.clone(), sender);
    let _forget = Forget {
        waiting: &manager.waiting,
        id: &id,
    };
    let now_ms = context.clock.now_ms();
    let value = record::encode(&id, now_ms, principal, &context.advertised_url, request);
    append(manager, value).await?;
    match tokio::time::timeout(limits::VERDICT_WAIT_MAX, verdict).await {
        Ok(Ok(verdict)) => Ok(verdict),
        _ => Err(Problem::new(
            Code::OutcomeUnknown,
            "the request is in the log, but its verdict did not come back in time: look at \
             `foldhost plugin list`",
        )),
    }
}

async fn append(manager: &Inner, value: Bytes) -> Result<(), Problem> {
    let topic = manager.context.cluster.deployments_topic();
    let record = NewRecord {
        value: Some(value),
        partition: Some(Partition(0)),
        ..NewRecord::default()
    };
    manager
        .context
        .log
        .append(&topic, vec![record])
        .await
        .map(|_| ())
        .map_err(log_problem)
}

/// A request that nobody waits for any more leaves the table.
struct Forget<'a> {
    waiting: &'a parking_lot::Mutex<BTreeMap<String, oneshot::Sender<Verdict>>>,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.lock().remove(self.id);
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

fn log_problem(error: LogError) -> Problem {
    let code = match error {
        LogError::OutcomeUnknown(_) => Code::OutcomeUnknown,
        _ => Code::LogUnavailable,
    };
    Problem::new(code, error.to_string())
}

fn objects_problem(error: ObjectsError) -> Problem {
    let code = match error {
        ObjectsError::ComponentTooLarge { .. } => Code::TooLarge,
        _ => Code::StateUnavailable,
    };
    Problem::new(code, error.to_string())
}
