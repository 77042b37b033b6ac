//! What feeds the graph: one informer for each resource, found by discovery, again whenever a CustomResourceDefinition or
//! an APIService changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Delta, Informer, Object, PartialObject};
use instruments::{Family, Kind as MetricKind};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{
    Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::resource::v1::{DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Collector;
use super::graph::{Kind, Seen};
use crate::discovery::{self, Served};
use crate::migration::Migration;
use crate::work::{Cx, Heard};

/// Objects that nobody owns and that own nobody, and many of them.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];
/// A kind that cannot be listed must not keep the collector from all others for ever (upstream's `initialSyncTimeout`), nor what
/// is to be set free (`Collector::orphan`).
pub(super) const SYNC_MAX: Duration = Duration::from_secs(30);
/// Changes of what is served come in groups.
const SETTLE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(1);
/// Whose changes mean that something else may be served.
const SOURCES: [&str; 2] = ["/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/apis/apiregistration.k8s.io/v1/apiservices"];

struct Monitors {
    cx: Cx,
    collector: Arc<Collector>,
    running: HashMap<Served, CancellationToken>,
}

/// A monitor's first list: until it was heard, the graph does not know its objects.
pub(super) struct First {
    pub(super) of: CancellationToken,
    pub(super) heard: Heard,
    pub(super) since: Instant,
}

/// Starts all monitors and keeps them as discovery has them; returns when the graph is complete, `false` at the end.
pub(super) async fn start(cx: &Cx, collector: &Arc<Collector>) -> bool {
    let mut monitors = Monitors { cx: cx.clone(), collector: collector.clone(), running: HashMap::new() };
    let changed = Arc::new(Notify::new());
    let errors = cx.metrics().counter(&ERRORS);
    let synced = loop {
        match monitors.refresh().await {
            Ok(synced) => break synced,
            Err(error) => {
                errors.inc();
                tracing::debug!(%error, "discovery failed");
            }
        }
        if cx.shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return false;
        }
    };
    for path in SOURCES {
        let changed = changed.clone();
        cx.listen(&cx.informers.metadata(path), move |_| changed.notify_one());
    }
    let shutdown = cx.shutdown.clone();
    tokio::spawn(async move {
        let keep = async {
            loop {
                changed.notified().await;
                tokio::time::sleep(SETTLE).await;
                if let Err(error) = monitors.refresh().await {
                    errors.inc();
                    tracing::debug!(%error, "discovery failed");
                    tokio::time::sleep(RETRY).await;
                    changed.notify_one();
                }
            }
        };
        shutdown.run_until_cancelled(Box::pin(keep)).await;
    });
    let all = async { futures_util::future::join_all(synced).await };
    cx.shutdown.run_until_cancelled(tokio::time::timeout(SYNC_MAX, all)).await.is_some()
}

const ERRORS: Family =
    Family::new("garbagecollector_controller_resources_sync_error_total", MetricKind::Counter, "[ALPHA] Number of garbage collector resources sync errors");

type Synced = futures_util::future::BoxFuture<'static, ()>;

impl Monitors {
    async fn refresh(&mut self) -> client::Result<Vec<Synced>> {
        let (all, stale) = discovery::resources(&self.collector.client).await?;
        *self.collector.kinds.write() = all.iter().map(|s| (kind(s), Arc::new(s.clone()))).collect();
        let wanted: Vec<Served> = all
            .into_iter()
            .filter(|s| ["list", "watch", "delete"].iter().all(|v| s.can(v)))
            .filter(|s| !IGNORED.contains(&(s.group.as_str(), s.resource.as_str())))
            .collect();
        self.running.retain(|served, token| {
            // Of a group that is down nothing is known; its objects are not gone.
            let keep = wanted.contains(served) || stale.contains(&served.api_version());
            if !keep {
                token.cancel();
                self.cx.informers.forget_metadata(&served.path());
            }
            keep
        });
        let new: Vec<Served> = wanted.into_iter().filter(|s| !self.running.contains_key(s)).collect();
        Ok(new.into_iter().map(|served| self.monitor(served)).collect())
    }

    fn monitor(&mut self, served: Served) -> Synced {
        let token = self.cx.shutdown.child_token();
        self.running.insert(served.clone(), token.clone());
        let i = &self.cx.informers;
        // What other parts of the process have in memory as it is: not held a second time.
        match (served.group.as_str(), served.resource.as_str()) {
            ("", "pods") => self.feed(&i.informer::<Pod>(), &served, token),
            ("", "services") => self.feed(&i.informer::<Service>(), &served, token),
            ("", "endpoints") => self.feed(&i.informer::<Endpoints>(), &served, token),
            ("", "nodes") => self.feed(&i.informer::<Node>(), &served, token),
            ("", "namespaces") => self.feed(&i.informer::<Namespace>(), &served, token),
            ("", "serviceaccounts") => self.feed(&i.informer::<ServiceAccount>(), &served, token),
            ("", "replicationcontrollers") => self.feed(&i.informer::<ReplicationController>(), &served, token),
            ("apps", "replicasets") => self.feed(&i.informer::<ReplicaSet>(), &served, token),
            ("apps", "deployments") => self.feed(&i.informer::<Deployment>(), &served, token),
            ("apps", "statefulsets") => self.feed(&i.informer::<StatefulSet>(), &served, token),
            ("apps", "daemonsets") => self.feed(&i.informer::<DaemonSet>(), &served, token),
            ("apps", "controllerrevisions") => self.feed(&i.informer::<ControllerRevision>(), &served, token),
            ("rbac.authorization.k8s.io", "clusterroles") => self.feed(&i.informer::<ClusterRole>(), &served, token),
            ("", "persistentvolumeclaims") => self.feed(&i.informer::<PersistentVolumeClaim>(), &served, token),
            ("", "persistentvolumes") => self.feed(&i.informer::<PersistentVolume>(), &served, token),
            ("storage.k8s.io", "storageclasses") => self.feed(&i.informer::<StorageClass>(), &served, token),
            ("storage.k8s.io", "volumeattributesclasses") => self.feed(&i.informer::<VolumeAttributesClass>(), &served, token),
            ("certificates.k8s.io", "certificatesigningrequests") => self.feed(&i.informer::<CertificateSigningRequest>(), &served, token),
            ("resource.k8s.io", "deviceclasses") => self.feed(&i.informer::<DeviceClass>(), &served, token),
            ("resource.k8s.io", "devicetaintrules") => self.feed(&i.informer::<DeviceTaintRule>(), &served, token),
            ("resource.k8s.io", "resourceclaims") => self.feed(&i.informer::<ResourceClaim>(), &served, token),
            ("resource.k8s.io", "resourceclaimtemplates") => self.feed(&i.informer::<ResourceClaimTemplate>(), &served, token),
            ("resource.k8s.io", "resourceslices") => self.feed(&i.informer::<ResourceSlice>(), &served, token),
            ("storage.k8s.io", "csidrivers") => self.feed(&i.informer::<CSIDriver>(), &served, token),
            ("storage.k8s.io", "csinodes") => self.feed(&i.informer::<CSINode>(), &served, token),
            ("storage.k8s.io", "csistoragecapacities") => self.feed(&i.informer::<CSIStorageCapacity>(), &served, token),
            ("storage.k8s.io", "volumeattachments") => self.feed(&i.informer::<VolumeAttachment>(), &served, token),
            ("", "resourcequotas") => self.feed(&i.informer::<ResourceQuota>(), &served, token),
            ("autoscaling", "horizontalpodautoscalers") => self.feed(&i.informer::<HorizontalPodAutoscaler>(), &served, token),
            ("policy", "poddisruptionbudgets") => self.feed(&i.informer::<PodDisruptionBudget>(), &served, token),
            ("admissionregistration.k8s.io", "validatingadmissionpolicies") => self.feed(&i.informer::<ValidatingAdmissionPolicy>(), &served, token),
            ("storagemigration.k8s.io", "storageversionmigrations") => self.feed(&i.informer::<Migration>(), &served, token),
            ("batch", "jobs") => self.feed(&i.informer::<Job>(), &served, token),
            ("batch", "cronjobs") => self.feed(&i.informer::<CronJob>(), &served, token),
            ("networking.k8s.io", "servicecidrs") => self.feed(&i.informer::<ServiceCIDR>(), &served, token),
            ("networking.k8s.io", "ipaddresses") => self.feed(&i.informer::<IPAddress>(), &served, token),
            ("discovery.k8s.io", "endpointslices") => self.feed(&i.informer::<EndpointSlice>(), &served, token),
            _ => self.feed::<PartialObject>(&i.metadata(&served.path()), &served, token),
        }
    }

    fn feed<K: Object>(&self, informer: &Informer<K>, served: &Served, token: CancellationToken) -> Synced {
        let (collector, kind) = (self.collector.clone(), Arc::new(kind(served)));
        let cx = Cx { shutdown: token.clone(), ..self.cx.clone() };
        let mut heard = cx.listen(informer, move |change| match change {
            Delta::Added(object) => collector.see(Seen::of(&kind, &*object)),
            Delta::Updated { old, new } => {
                // Most changes are none to the graph.
                let (old, new) = (Seen::of(&kind, &*old), Seen::of(&kind, &*new));
                if old.owners != new.owners || old.deleting != new.deleting || old.foreground != new.foreground || old.orphan != new.orphan {
                    collector.see(new);
                }
            }
            Delta::Deleted(object) => collector.gone(&object.uid().into()),
        });
        self.collector.first_lists.lock().push(First { of: token, heard: heard.clone(), since: Instant::now() });
        Box::pin(async move { heard.complete().await })
    }
}

fn kind(served: &Served) -> Kind {
    Kind { group: served.group.clone(), kind: served.kind.clone() }
}
