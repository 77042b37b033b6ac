//! The controller service: volumes made, attached, grown and deleted.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::grpc::{Answer, done, message};
use crate::wire::{self, AccessType};
use crate::{Driver, decoded};

/// By which key the node's place is told.
pub(crate) const TOPOLOGY: &str = "topology.hostpath.csi/node";
/// What attaching a volume gives.
pub(crate) const ATTACHED_BY: &str = "attached-by";

fn least(range: Option<wire::CapacityRange>) -> u64 {
    range.and_then(|r| u64::try_from(r.required_bytes).ok()).unwrap_or(0)
}

impl Driver {
    pub(crate) fn topology(&self) -> wire::Topology {
        wire::Topology { segments: BTreeMap::from([(TOPOLOGY.to_owned(), self.node.clone())]) }
    }

    pub(crate) fn controller(&self, call: &str, body: Bytes) -> Answer {
        match call {
            "ControllerGetCapabilities" => {
                // Making and deleting, copies, growing, one writer on one node.
                let mut kinds = vec![1, 7, 9, 13];
                kinds.extend(self.attaches.then_some(2));
                kinds.extend(self.modifies.then_some(14));
                let one = |kind| wire::NodeServiceCapability { rpc: Some(wire::Rpc { kind }) };
                message(&wire::NodeGetCapabilitiesResponse { capabilities: kinds.into_iter().map(one).collect() })
            }
            "CreateVolume" => self.create(decoded(body)?),
            "DeleteVolume" => self.state.remove(&decoded::<wire::OfVolume>(body)?.volume_id).and_then(|()| done()),
            "ControllerPublishVolume" => {
                let asked: wire::OfNode = decoded(body)?;
                let volume = self.state.find(&asked.volume_id)?;
                if asked.node_id != self.node {
                    return Err((5, format!("node {} is not there", asked.node_id)));
                }
                if self.volumes_max > 0 && !volume.is_attached() && self.state.attached() as i64 >= self.volumes_max {
                    return Err((8, format!("the node has {} volumes, which are all that it can have", self.volumes_max)));
                }
                volume.note_attached(true)?;
                message(&wire::Attached { publish_context: BTreeMap::from([(ATTACHED_BY.to_owned(), self.name.clone())]) })
            }
            "ControllerUnpublishVolume" => match self.state.find(&decoded::<wire::OfNode>(body)?.volume_id) {
                Ok(volume) => volume.note_attached(false).and_then(|()| done()),
                Err((5, _)) => done(),
                Err(error) => Err(error),
            },
            "ControllerExpandVolume" => {
                let asked: wire::ExpandRequest = decoded(body)?;
                let bytes = self.state.find(&asked.volume_id)?.grow(least(asked.capacity_range))?;
                message(&wire::Expanded { capacity_bytes: i64::try_from(bytes).unwrap_or(i64::MAX), node_expansion_required: true })
            }
            "ControllerModifyVolume" => {
                let asked: wire::ModifyRequest = decoded(body)?;
                self.state.find(&asked.volume_id)?;
                self.accept(&asked.mutable_parameters).and_then(|()| done())
            }
            other => Err((12, format!("unknown method {other}"))),
        }
    }

    fn accept(&self, parameters: &BTreeMap<String, String>) -> Result<(), (u32, String)> {
        let unknown = parameters.keys().find(|name| !self.accepted.contains(name));
        unknown.map_or(Ok(()), |name| Err((3, format!("parameter {name} cannot be changed"))))
    }

    fn create(&self, asked: wire::CreateVolumeRequest) -> Answer {
        self.accept(&asked.mutable_parameters)?;
        let block = asked.volume_capabilities.iter().any(|c| matches!(c.access_type, Some(AccessType::Block(_))));
        let from = match &asked.content_source {
            Some(wire::ContentSource { volume: Some(from), .. }) => Some(self.state.find(&from.volume_id)?),
            Some(_) => return Err((3, "volumes are made of nothing or of volumes".to_owned())),
            None => None,
        };
        let made = self.state.make(&asked.name, block, least(asked.capacity_range), from.as_ref())?;
        let volume = wire::Volume {
            capacity_bytes: i64::try_from(made.bytes()?).unwrap_or(i64::MAX),
            volume_id: asked.name,
            volume_context: BTreeMap::from([("made-by".to_owned(), self.name.clone())]),
            content_source: asked.content_source,
            accessible_topology: vec![self.topology()],
        };
        message(&wire::CreateVolumeResponse { volume: Some(volume) })
    }
}
