//! Records of the deployments topic on the wire (`proto/deployments.proto`).

use bytes::Bytes;
use prost::Message as _;

use super::deployments::{Body, DeployRequested, Event};
use crate::plugin::{Manifest, Parameters};
use crate::types::{Digest, PluginName, TopicName};

#[allow(
    unreachable_pub,
    clippy::doc_markdown,
    reason = "generated from proto/deployments.proto"
)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/foldhost.deployments.v1.rs"));
}

use proto::deployment_event::Event as Wire;

/// A request that is to be appended; its manifest still as text, as the component has it.
#[derive(Debug, Clone)]
pub(super) enum Request {
    ClusterNamed(String),
    Deploy {
        name: PluginName,
        digest: Digest,
        manifest_toml: String,
        parameters: Parameters,
        topics: std::collections::BTreeMap<String, TopicName>,
        partitions: u32,
    },
    Delete(PluginName),
}

pub(super) fn encode(
    request_id: &str,
    at_ms: i64,
    principal: &str,
    host: &str,
    request: Request,
) -> Bytes {
    let event = match request {
        Request::ClusterNamed(cluster_id) => Wire::ClusterNamed(proto::ClusterNamed { cluster_id }),
        Request::Deploy {
            name,
            digest,
            manifest_toml,
            parameters,
            topics,
            partitions,
        } => Wire::Deploy(proto::DeployRequested {
            name: name.to_string(),
            digest: Bytes::copy_from_slice(digest.as_bytes()),
            manifest_toml,
            parameters: parameters.into_iter().collect(),
            topics: topics
                .into_iter()
                .map(|(input, topic)| (input, topic.to_string()))
                .collect(),
            partitions,
        }),
        Request::Delete(name) => Wire::Delete(proto::DeleteRequested {
            name: name.to_string(),
        }),
    };
    let event = proto::DeploymentEvent {
        request_id: request_id.to_owned(),
        at_ms,
        principal: principal.to_owned(),
        host: host.to_owned(),
        event: Some(event),
    };
    Bytes::from(event.encode_to_vec())
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
    let body = match wire.event {
        Some(Wire::ClusterNamed(named)) => Ok(Body::ClusterNamed(named.cluster_id)),
        Some(Wire::Deploy(deploy)) => {
            read_deploy(deploy).map(|deploy| Body::Deploy(Box::new(deploy)))
        }
        Some(Wire::Delete(delete)) => PluginName::new(&delete.name)
            .map(Body::Delete)
            .map_err(|error| error.to_string()),
        None => Err("its kind is unknown".to_owned()),
    };
    Event {
        request_id: wire.request_id,
        at_ms: wire.at_ms,
        principal: wire.principal,
        body: body.unwrap_or_else(Body::Unknown),
    }
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
    let topics = wire
        .topics
        .into_iter()
        .map(|(input, topic)| {
            Ok((
                input,
                TopicName::new(&topic).map_err(|error| error.to_string())?,
            ))
        })
        .collect::<Result<_, String>>()?;
    if wire.partitions == 0 {
        return Err("it has no partitions".to_owned());
    }
    Ok(DeployRequested {
        name: PluginName::new(&wire.name).map_err(|error| error.to_string())?,
        digest: Digest::from_bytes(digest),
        manifest,
        parameters: wire.parameters.into_iter().collect(),
        topics,
        partitions: wire.partitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back() {
        let toml =
            "name = \"a\"\nversion = \"1.0.0\"\ninputs = [\"flights\"]\nstate-schema = \"s/1\"\n";
        let request = Request::Deploy {
            name: PluginName::new("b").unwrap(),
            digest: Digest::of(b"c"),
            manifest_toml: toml.to_owned(),
            parameters: [("k".to_owned(), "v".to_owned())].into(),
            topics: [(
                "flights".to_owned(),
                TopicName::new("prod.flights").unwrap(),
            )]
            .into(),
            partitions: 4,
        };
        let event = decode(&encode("id", 7, "me", "http://h", request));
        assert_eq!(
            (
                event.request_id.as_str(),
                event.at_ms,
                event.principal.as_str()
            ),
            ("id", 7, "me")
        );
        let Body::Deploy(deploy) = event.body else {
            panic!("{event:?}")
        };
        assert_eq!(deploy.name.as_str(), "b");
        assert_eq!(deploy.manifest.name.as_str(), "a");
        assert_eq!(deploy.topics["flights"].as_str(), "prod.flights");
    }

    #[test]
    fn what_cannot_be_read_is_unknown_not_fatal() {
        assert!(matches!(decode(b"\xff\xff").body, Body::Unknown(_)));
        assert!(matches!(decode(b"").body, Body::Unknown(_)));
    }
}
