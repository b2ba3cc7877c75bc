//! Records of the deployments topic on the wire (`proto/deployments.proto`).

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::deployments::{
    BlockedReport, Body, BootstrapReported, BootstrapRequested, DeployRequested, DiscardRequested,
    Event, ReplayRequested, Report, Reported, RollbackRequested, StatePolicy,
};
use crate::partition::Bootstrapped;
use crate::plugin::{Kind, Manifest, Parameters};
use crate::types::{
    DeploymentId, Digest, GenerationId, Offset, Partition, PluginName, RecordPosition, TopicName,
};

#[allow(
    unreachable_pub,
    clippy::doc_markdown,
    reason = "generated from proto/deployments.proto"
)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/foldhost.deployments.v1.rs"));
}

use proto::deployment_event::Event as Wire;

/// A record that is to be appended; a manifest still as text, as the component has it.
#[derive(Debug, Clone)]
pub(super) enum Request {
    ClusterNamed(String),
    Deploy(Box<DeployRequest>),
    Delete(PluginName),
    Rollback {
        request: RollbackRequested,
        from_retained: bool,
    },
    Pause(PluginName, bool),
    Skip(PluginName, RecordPosition, String),
    Replay(ReplayRequested),
    Discard(Box<DiscardRequested>),
    Bootstrap(BootstrapRequested),
    StopBootstrap(PluginName),
    Bootstrapped(BootstrapReported),
    Report(Reported),
    Switched(PluginName, GenerationId, Partition),
}

/// See [`Request::Deploy`].
#[derive(Debug, Clone)]
pub(super) struct DeployRequest {
    pub(super) name: PluginName,
    pub(super) kind: Kind,
    pub(super) digest: Digest,
    pub(super) manifest_toml: String,
    pub(super) migrates: bool,
    pub(super) routes: bool,
    pub(super) parameters: Parameters,
    pub(super) topics: BTreeMap<String, TopicName>,
    pub(super) partitions: u32,
    pub(super) state: Option<StatePolicy>,
    pub(super) from_retained: bool,
    pub(super) adopt_topic: bool,
    pub(super) emit_from_earliest: bool,
}

pub(super) fn encode(
    request_id: &str,
    at_ms: i64,
    principal: &str,
    host: &str,
    request: Request,
) -> Bytes {
    let event = proto::DeploymentEvent {
        request_id: request_id.to_owned(),
        at_ms,
        principal: principal.to_owned(),
        host: host.to_owned(),
        event: Some(wire(request)),
    };
    Bytes::from(event.encode_to_vec())
}

fn wire(request: Request) -> Wire {
    match request {
        Request::ClusterNamed(cluster_id) => Wire::ClusterNamed(proto::ClusterNamed { cluster_id }),
        Request::Deploy(deploy) => Wire::Deploy(wire_deploy(*deploy)),
        Request::Delete(name) => Wire::Delete(proto::DeleteRequested {
            name: name.to_string(),
        }),
        Request::Rollback {
            request,
            from_retained,
        } => Wire::Rollback(proto::RollbackRequested {
            name: request.name.to_string(),
            state: wire_policy(request.state).into(),
            partitions: request.partitions,
            from_retained,
        }),
        Request::Pause(name, paused) => Wire::Pause(proto::PauseRequested {
            name: name.to_string(),
            paused,
        }),
        Request::Skip(name, at, reason) => Wire::Skip(proto::SkipRequested {
            name: name.to_string(),
            topic: at.topic.to_string(),
            partition: at.partition.0,
            offset: at.offset.0,
            reason,
        }),
        Request::Replay(replay) => Wire::ReplayParked(proto::ReplayParkedRequested {
            name: replay.name.to_string(),
            key: replay.key,
            reason: replay.reason,
        }),
        Request::Discard(discard) => Wire::DiscardParked(proto::DiscardParkedRequested {
            name: discard.name.to_string(),
            key: discard.key,
            topic: discard.first.topic.to_string(),
            partition: discard.first.partition.0,
            first: discard.first.offset.0,
            last: discard.last.0,
            topic_id: wire_id(discard.topic_id),
            reason: discard.reason,
        }),
        Request::Bootstrap(request) => Wire::Bootstrap(proto::BootstrapRequested {
            name: request.name.to_string(),
            partition: request.key.as_ref().map_or(0, |(_, partition)| partition.0),
            key: request.key.map(|(key, _)| key),
            keys_per_second: request.keys_per_second,
            reason: request.reason,
        }),
        Request::StopBootstrap(name) => Wire::StopBootstrap(proto::StopBootstrapRequested {
            name: name.to_string(),
        }),
        Request::Bootstrapped(BootstrapReported {
            name,
            partition,
            told,
        }) => Wire::Bootstrapped(proto::PartitionBootstrapped {
            name: name.to_string(),
            number: told.number,
            partition: partition.0,
            from: told.from.0,
            keys: told.keys,
            events: told.events,
            untold: told.untold,
            problem: told.problem,
        }),
        Request::Report(reported) => wire_report(reported),
        Request::Switched(name, generation, partition) => {
            Wire::Switched(proto::PartitionSwitched {
                name: name.to_string(),
                generation: generation.0,
                partition: partition.0,
            })
        }
    }
}

fn wire_deploy(deploy: DeployRequest) -> proto::DeployRequested {
    let kind = match deploy.kind {
        Kind::View => proto::PluginKind::View,
        Kind::Republisher => proto::PluginKind::Republisher,
        Kind::CommandHandler => proto::PluginKind::CommandHandler,
    };
    proto::DeployRequested {
        name: deploy.name.to_string(),
        digest: Bytes::copy_from_slice(deploy.digest.as_bytes()),
        manifest_toml: deploy.manifest_toml,
        parameters: deploy.parameters.into_iter().collect(),
        topics: deploy
            .topics
            .into_iter()
            .map(|(input, topic)| (input, topic.to_string()))
            .collect(),
        partitions: deploy.partitions,
        state: wire_policy(deploy.state).into(),
        kind: kind.into(),
        migrates: deploy.migrates,
        routes: deploy.routes,
        from_retained: deploy.from_retained,
        adopt_topic: deploy.adopt_topic,
        emit_from_earliest: deploy.emit_from_earliest,
    }
}

fn wire_policy(state: Option<StatePolicy>) -> proto::StatePolicy {
    match state {
        None => proto::StatePolicy::Unspecified,
        Some(StatePolicy::Rebuild) => proto::StatePolicy::Rebuild,
        Some(StatePolicy::Keep) => proto::StatePolicy::Keep,
    }
}

fn wire_report(reported: Reported) -> Wire {
    let Reported {
        name,
        generation: GenerationId(generation),
        deployment: DeploymentId(deployment),
        partition: Partition(partition),
        report,
    } = reported;
    let name = name.to_string();
    match report {
        Report::Ready => Wire::Ready(proto::PartitionReady {
            name,
            generation,
            deployment,
            partition,
        }),
        Report::Blocked(BlockedReport { code, detail, at }) => {
            let at = at.map(|(at, topic_id)| proto::BlockedAt {
                topic: at.topic.to_string(),
                partition: Some(at.partition.0).filter(|of| *of != partition),
                topic_id: wire_id(topic_id),
                offset: at.offset.0,
            });
            Wire::Blocked(proto::PartitionBlocked {
                name,
                generation,
                deployment,
                partition,
                code,
                detail,
                at,
            })
        }
    }
}

fn wire_id(topic_id: Option<[u8; 16]>) -> Bytes {
    topic_id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id))
}

fn read_id(wire: &[u8]) -> Result<Option<[u8; 16]>, String> {
    match wire {
        [] => Ok(None),
        id => match id.try_into() {
            Ok(id) => Ok(Some(id)),
            Err(_) => Err("a topic's id is not 16 bytes".to_owned()),
        },
    }
}

/// Reads a record. What cannot be read becomes [`Body::Unknown`], which the fold refuses: a record
/// that one host cannot read must not stop it from following the others.
pub(super) fn decode(value: &[u8]) -> Event {
    let wire = match proto::DeploymentEvent::decode(value) {
        Ok(wire) => wire,
        Err(error) => {
            return Event {
                request_id: String::new(),
                at_ms: 0,
                principal: String::new(),
                body: Body::Unknown(error.to_string()),
            };
        }
    };
    let body = wire
        .event
        .ok_or_else(|| "its kind is unknown".to_owned())
        .and_then(read);
    Event {
        request_id: wire.request_id,
        at_ms: wire.at_ms,
        principal: wire.principal,
        body: body.unwrap_or_else(Body::Unknown),
    }
}

fn read(wire: Wire) -> Result<Body, String> {
    Ok(match wire {
        Wire::ClusterNamed(named) => Body::ClusterNamed(named.cluster_id),
        Wire::Deploy(deploy) => Body::Deploy(Box::new(read_deploy(deploy)?)),
        Wire::Delete(delete) => Body::Delete(plugin_name(&delete.name)?),
        Wire::Rollback(rollback) => Body::Rollback(RollbackRequested {
            name: plugin_name(&rollback.name)?,
            state: read_policy(rollback.state)?,
            partitions: rollback.partitions,
        }),
        Wire::Pause(pause) => Body::Pause(plugin_name(&pause.name)?, pause.paused),
        Wire::Skip(skip) => {
            let at = RecordPosition {
                topic: topic_name(&skip.topic)?,
                partition: Partition(skip.partition),
                offset: Offset(skip.offset),
            };
            Body::Skip(plugin_name(&skip.name)?, at, skip.reason)
        }
        Wire::ReplayParked(replay) => Body::Replay(ReplayRequested {
            name: plugin_name(&replay.name)?,
            key: replay.key,
            reason: replay.reason,
        }),
        Wire::DiscardParked(discard) => Body::Discard(Box::new(DiscardRequested {
            name: plugin_name(&discard.name)?,
            key: discard.key,
            first: RecordPosition {
                topic: topic_name(&discard.topic)?,
                partition: Partition(discard.partition),
                offset: Offset(discard.first),
            },
            last: Offset(discard.last),
            topic_id: read_id(&discard.topic_id)?,
            reason: discard.reason,
        })),
        Wire::Bootstrap(request) => Body::Bootstrap(BootstrapRequested {
            name: plugin_name(&request.name)?,
            key: request.key.map(|key| (key, Partition(request.partition))),
            keys_per_second: request.keys_per_second,
            reason: request.reason,
        }),
        Wire::StopBootstrap(stop) => Body::StopBootstrap(plugin_name(&stop.name)?),
        Wire::Bootstrapped(told) => Body::Bootstrapped(BootstrapReported {
            name: plugin_name(&told.name)?,
            partition: Partition(told.partition),
            told: Bootstrapped {
                number: told.number,
                from: Offset(told.from),
                after: None,
                keys: told.keys,
                events: told.events,
                untold: told.untold,
                problem: told.problem,
                done: true,
            },
        }),
        Wire::Ready(ready) => Body::Report(Reported {
            name: plugin_name(&ready.name)?,
            generation: GenerationId(ready.generation),
            deployment: DeploymentId(ready.deployment),
            partition: Partition(ready.partition),
            report: Report::Ready,
        }),
        Wire::Blocked(blocked) => Body::Report(read_blocked(blocked)?),
        Wire::Switched(switched) => Body::Switched(
            plugin_name(&switched.name)?,
            GenerationId(switched.generation),
            Partition(switched.partition),
        ),
    })
}

fn read_deploy(wire: proto::DeployRequested) -> Result<DeployRequested, String> {
    let digest: [u8; 32] = wire
        .digest
        .as_ref()
        .try_into()
        .map_err(|_| "its digest is not 32 bytes".to_owned())?;
    let manifest = Manifest::from_toml(&wire.manifest_toml).map_err(|faults| {
        faults
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    })?;
    let state = read_policy(wire.state)?;
    let kind = match wire.kind() {
        _ if proto::PluginKind::try_from(wire.kind).is_err() => {
            return Err(format!("there is no kind {}", wire.kind));
        }
        proto::PluginKind::View => Kind::View,
        proto::PluginKind::Republisher => Kind::Republisher,
        proto::PluginKind::CommandHandler => Kind::CommandHandler,
    };
    let topics = wire
        .topics
        .into_iter()
        .map(|(input, topic)| Ok((input, topic_name(&topic)?)))
        .collect::<Result<_, String>>()?;
    if wire.partitions == 0 {
        return Err("it has no partitions".to_owned());
    }
    Ok(DeployRequested {
        name: plugin_name(&wire.name)?,
        kind,
        digest: Digest::from_bytes(digest),
        manifest,
        migrates: wire.migrates,
        routes: wire.routes,
        parameters: wire.parameters.into_iter().collect(),
        topics,
        partitions: wire.partitions,
        state,
        adopt_topic: wire.adopt_topic,
        emit_from_earliest: wire.emit_from_earliest,
    })
}

fn read_blocked(wire: proto::PartitionBlocked) -> Result<Reported, String> {
    let partition = Partition(wire.partition);
    let at = match wire.at {
        None => None,
        Some(at) => {
            let topic_id = read_id(&at.topic_id)?;
            let position = RecordPosition {
                topic: topic_name(&at.topic)?,
                partition: at.partition.map_or(partition, Partition),
                offset: Offset(at.offset),
            };
            Some((position, topic_id))
        }
    };
    Ok(Reported {
        name: plugin_name(&wire.name)?,
        generation: GenerationId(wire.generation),
        deployment: DeploymentId(wire.deployment),
        partition,
        report: Report::Blocked(BlockedReport {
            code: wire.code,
            detail: wire.detail,
            at,
        }),
    })
}

fn read_policy(wire: i32) -> Result<Option<StatePolicy>, String> {
    match proto::StatePolicy::try_from(wire) {
        Ok(proto::StatePolicy::Unspecified) => Ok(None),
        Ok(proto::StatePolicy::Rebuild) => Ok(Some(StatePolicy::Rebuild)),
        Ok(proto::StatePolicy::Keep) => Ok(Some(StatePolicy::Keep)),
        Err(_) => Err(format!("there is no state policy {wire}")),
    }
}

fn plugin_name(name: &str) -> Result<PluginName, String> {
    PluginName::new(name).map_err(|error| error.to_string())
}

fn topic_name(name: &str) -> Result<TopicName, String> {
    TopicName::new(name).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
