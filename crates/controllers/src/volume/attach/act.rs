//! Carries out what is planned for a volume, and keeps nodes' reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{DeleteParams, EventType, Meta, Patch, PatchParams, object_reference};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::facts::{self, Wanted};
use super::names::{self, Volume};
use super::plan::{ANSWER_MAX, Failure, Forced, Found, Link, Place, Step, plan};
use super::{Attaching, Key, counts};

/// When a volume is looked at again that was on a node by the node's word alone.
const SOON: Duration = Duration::from_millis(20);

impl Attaching {
    /// Moves a volume one step closer to where it is wanted; when to look again.
    pub(super) async fn settle(&self, volume: &Volume) -> Option<Duration> {
        let wanted = self.facts.wanted(volume);
        let places = self.places(volume, &wanted);
        let exclusive = wanted.through.as_ref().is_some_and(|v| names::is_exclusive(v));
        let plan = plan(&places, exclusive, Instant::now());
        let mut again = plan.again;
        for (node, step) in plan.steps {
            let pods = wanted.pods.get(&node).map(Vec::as_slice).unwrap_or_default();
            let wait = match step {
                Step::Detach { forced } => self.detach(volume, &node, forced).await,
                Step::Attach => match &wanted.through {
                    Some(through) => self.attach(volume, &node, through, pods).await,
                    None => None,
                },
                step => self.note(volume, &node, step, &wanted),
            };
            again = again.into_iter().chain(wait).min();
        }
        again
    }

    /// The nodes that have a volume, may have it or want it, and what is known of each.
    fn places(&self, volume: &Volume, wanted: &Wanted) -> Vec<Place> {
        let mut nodes = self.facts.held(volume);
        nodes.extend(wanted.pods.keys().cloned());
        let mut links = self.links.lock();
        nodes.extend(links.get(volume).into_iter().flat_map(|known| known.keys().cloned()));
        let mut places = Vec::new();
        for name in nodes {
            let node = self.facts.nodes.get("", &name);
            let found = self.facts.found(volume, &name);
            let reported = node.as_ref().is_some_and(|n| facts::attached_names(n).any(|a| a == volume.name()));
            let wanted = wanted.pods.contains_key(&name);
            if !wanted && found == Found::Nothing && !reported {
                self.forget(&mut links, volume, &name);
                continue;
            }
            let link = links.entry(volume.clone()).or_default().entry(name.clone()).or_default();
            link.given &= found == Found::Attached;
            if found == Found::Nothing {
                link.detaching = None;
            }
            if wanted {
                link.unwanted_since = None;
            } else {
                link.unwanted_since.get_or_insert_with(Instant::now);
                link.rival_told = false;
            }
            let mounted = match &node {
                Some(node) => facts::in_use(node).any(|used| used == volume.name()),
                // Of a node that went before this process came nothing is known.
                None => self.gone.lock().get(&name).is_none_or(|used| used.contains(&volume.name())),
            };
            places.push(Place {
                wanted,
                found,
                reported,
                mounted,
                healthy: node.as_ref().is_some_and(|n| crate::node::is_ready(n)),
                out_of_service: node.as_ref().is_some_and(|n| facts::is_out_of_service(n)),
                link: link.clone(),
                node: name,
            });
        }
        places
    }

    fn with_link<T>(&self, volume: &Volume, node: &str, change: impl FnOnce(&mut Link) -> T) -> T {
        change(self.links.lock().entry(volume.clone()).or_default().entry(node.to_owned()).or_default())
    }

    /// A volume is on a node no more.
    fn forget(&self, links: &mut HashMap<Volume, HashMap<String, Link>>, volume: &Volume, node: &str) {
        if let Some(nodes) = links.get_mut(volume) {
            nodes.remove(node);
            if nodes.is_empty() {
                links.remove(volume);
            }
        }
        if self.facts.nodes.get("", node).is_none() && !links.values().any(|nodes| nodes.contains_key(node)) {
            self.gone.lock().remove(node);
        }
    }

    /// A step that is only remembered, and told.
    fn note(&self, volume: &Volume, node: &str, step: Step, wanted: &Wanted) -> Option<Duration> {
        let pods = wanted.pods.get(node).map(Vec::as_slice).unwrap_or_default();
        let name = wanted.through.as_ref().map(|v| v.name()).unwrap_or_default();
        let now = Instant::now();
        match step {
            Step::Given => {
                let reported = self.facts.nodes.get("", node).is_some_and(|n| facts::attached_names(&n).any(|a| a == volume.name()));
                // What was attached for a former process is not told again.
                let news = self.with_link(volume, node, |link| {
                    let news = link.hidden || !(link.given || reported);
                    *link = Link { given: true, ..Link::default() };
                    news
                });
                if news {
                    tell(self, pods, EventType::Normal, "SuccessfulAttachVolume", &format!("AttachVolume.Attach succeeded for volume {name:?} "));
                    self.queue.add(Key::Node(node.to_owned()));
                }
                None
            }
            Step::Await => {
                self.with_link(volume, node, |link| link.attaching = Some(now));
                Some(ANSWER_MAX)
            }
            Step::Failed(failure) => {
                let why = match failure {
                    Failure::Refused(text) => text,
                    Failure::BeingDeleted => "volume attachment is being deleted".to_owned(),
                    Failure::Silent => {
                        format!("timed out waiting for external-attacher of {} CSI driver to attach volume {}", volume.driver, volume.handle)
                    }
                };
                Some(self.failed(volume, node, pods, name, &why))
            }
            Step::Stuck => {
                tracing::warn!(volume = volume.name(), node, "a volume that nobody wants there was not detached");
                Some(self.with_link(volume, node, |link| link.fail(now)))
            }
            Step::Rivals(nodes) => {
                if !self.with_link(volume, node, |link| std::mem::replace(&mut link.rival_told, true)) {
                    self.tell_rivals(pods, name, &nodes, wanted);
                }
                None
            }
            Step::Unwanted | Step::Detach { .. } | Step::Attach => None,
        }
    }

    /// A volume could not be attached: its pods are told, and it is tried again later.
    fn failed(&self, volume: &Volume, node: &str, pods: &[Arc<Pod>], name: &str, why: &str) -> Duration {
        tell(self, pods, EventType::Warning, "FailedAttachVolume", &format!("AttachVolume.Attach failed for volume {name:?} : {why}"));
        self.with_link(volume, node, |link| link.fail(Instant::now()))
    }

    /// Tells pods that others have their volume. Whoever is in another namespace is counted and not named.
    fn tell_rivals(&self, pods: &[Arc<Pod>], name: &str, nodes: &[String], wanted: &Wanted) {
        let rivals: Vec<&Arc<Pod>> = nodes.iter().filter_map(|node| wanted.pods.get(node)).flatten().collect();
        for pod in pods {
            let near: Vec<&str> = rivals.iter().filter(|r| r.namespace() == pod.namespace()).map(|r| r.name()).collect();
            let why = match (near.is_empty(), rivals.len() - near.len()) {
                (true, 0) => "Volume is already exclusively attached to one node, waiting on detach before it can be attached to another node".to_owned(),
                (true, far) => format!("Volume is already used by {far} pod(s) in different namespaces"),
                (false, 0) => format!("Volume is already used by pod(s) {}", near.join(", ")),
                (false, far) => format!("Volume is already used by pod(s) {} and {far} pod(s) in different namespaces", near.join(", ")),
            };
            let text = format!("Waiting for detach for volume {name:?} {why}");
            tell(self, std::slice::from_ref(pod), EventType::Warning, "FailedAttachVolume", &text);
        }
    }

    /// Asks the driver to attach a volume to a node.
    async fn attach(&self, volume: &Volume, node: &str, through: &PersistentVolume, pods: &[Arc<Pod>]) -> Option<Duration> {
        let wished = VolumeAttachment {
            metadata: ObjectMeta { name: Some(volume.attachment(node)), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: volume.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource { persistent_volume_name: Some(through.name().to_owned()), ..VolumeAttachmentSource::default() },
            },
            status: None,
        };
        match self.client.all::<VolumeAttachment>().create(&wished).await {
            Err(error) if !error.is_already_exists() => {
                Some(self.failed(volume, node, pods, through.name(), &format!("kubernetes.io/csi: attacher.Attach failed: {error}")))
            }
            _ => {
                self.with_link(volume, node, |link| link.attaching = Some(Instant::now()));
                Some(ANSWER_MAX)
            }
        }
    }

    /// Takes a volume from a node: the node is told, asked, and the driver told.
    async fn detach(&self, volume: &Volume, node: &str, forced: Option<Forced>) -> Option<Duration> {
        let known = self.with_link(volume, node, |link| std::mem::replace(&mut link.hidden, true));
        match self.let_go(volume, node, forced.is_none()).await {
            Ok(true) => {
                counts::note(&self.forced, forced);
                self.with_link(volume, node, |link| link.detaching = Some(Instant::now()));
                // Attached or not is read from the API from now on; who waits for it is told by the attachment's end.
                Some(ANSWER_MAX)
            }
            Ok(false) => {
                self.forget(&mut self.links.lock(), volume, node);
                // Another node may have waited for it, and there is no attachment whose end would tell.
                Some(SOON)
            }
            Err(Refused::Unreported(error)) => {
                tracing::warn!(volume = volume.name(), node, %error, "a node could not be told that it loses a volume");
                Some(self.with_link(volume, node, |link| {
                    link.hidden = known;
                    link.fail(Instant::now())
                }))
            }
            Err(Refused::Kept(why)) => {
                tracing::warn!(volume = volume.name(), node, why, "a volume cannot be detached");
                Some(self.with_link(volume, node, |link| link.fail(Instant::now())))
            }
        }
    }

    /// Whether the driver still has to answer.
    async fn let_go(&self, volume: &Volume, node: &str, verify: bool) -> Result<bool, Refused> {
        let live = self.client.all::<Node>().get_opt(node).await.map_err(Refused::Unreported)?;
        let after = match &live {
            Some(live) => self.report(node, Some(live)).await.map_err(Refused::Unreported)?,
            None => None,
        };
        // Asked after it was told: what it took in use before it heard is seen.
        if verify && after.as_ref().or(live.as_ref()).is_some_and(|n| facts::in_use(n).any(|used| used == volume.name())) {
            return Err(Refused::Kept("volume is still in use by node, according to Node status".to_owned()));
        }
        let name = volume.attachment(node);
        match self.client.all::<VolumeAttachment>().delete(&name, &DeleteParams::default()).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(Refused::Kept(format!("kubernetes.io/csi: detacher.Detach failed to delete VolumeAttachment [{name}]: {error}"))),
        }
    }

    /// Writes into a node's status what is attached to it; the node as it is then, if that was another than before.
    pub(super) async fn report(&self, name: &str, live: Option<&Node>) -> client::Result<Option<Node>> {
        let turn = self.reports.lock().entry(name.to_owned()).or_default().clone();
        let _turn = turn.lock().await;
        let known = self.facts.nodes.get("", name);
        let Some(node) = live.or(known.as_deref()) else {
            self.reports.lock().remove(name);
            return Ok(None);
        };
        let Some(attached) = self.attached(node) else { return Ok(None) };
        let patch = json!({"status": {"volumesAttached": attached}});
        match self.client.all::<Node>().patch_status(name, &Patch::Merge(patch), &PatchParams::default()).await {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a node's status is to say; none if it says so. What is not a CSI driver's stays as it is.
    fn attached(&self, node: &Node) -> Option<Vec<Value>> {
        let told: Vec<&str> = facts::attached_names(node).collect();
        let links = self.links.lock();
        let link = |volume: &Volume| links.get(volume).and_then(|nodes| nodes.get(node.name()));
        let shown =
            |volume: &Volume| !link(volume).is_some_and(|l| l.hidden) && (told.contains(&volume.name().as_str()) || link(volume).is_some_and(|l| l.given));
        let mut missing: Vec<String> = self.facts.attached(node.name()).iter().filter(|v| shown(v)).map(Volume::name).collect();
        let mut list = Vec::new();
        for entry in node.status.iter().flat_map(|s| s.volumes_attached.iter().flatten()) {
            let at = missing.iter().position(|name| *name == entry.name);
            if let Some(at) = at {
                missing.remove(at);
            }
            if at.is_some() || Volume::called(&entry.name).is_none() {
                list.push(json!({"name": entry.name, "devicePath": entry.device_path}));
            }
        }
        if missing.is_empty() && list.len() == told.len() {
            return None;
        }
        list.extend(missing.into_iter().map(|name| json!({"name": name, "devicePath": ""})));
        Some(list)
    }
}

/// Why a volume was not detached.
enum Refused {
    /// The node could not be told.
    Unreported(client::Error),
    /// It may not be, or the API did not take it.
    Kept(String),
}

fn tell(controller: &Attaching, pods: &[Arc<Pod>], kind: EventType, reason: &'static str, text: &str) {
    for pod in pods {
        controller.recorder.event(&object_reference(&**pod), kind, reason, text);
    }
}
