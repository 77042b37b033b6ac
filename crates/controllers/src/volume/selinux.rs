//! Pods that cannot share a volume on a node with SELinux (KEP 1710; upstream `volume/selinuxwarning`): a volume is mounted with one label, so
//! pods that want different ones, or of which one wants its files labelled one by one, are told of each other. Off by default,
//! as there: who turns it on says that the nodes have SELinux.
//!
//! Of volumes only those count that can be mounted with a label: a CSI driver's that says so, iSCSI's and Fibre Channel's. Others are
//! labelled file by file for everybody, which is no conflict. Nothing is written but Events, so nothing is to be made up for: a
//! pod is looked at when it, its claims or volumes, or a driver's word change, and each conflict is told once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use client::storage::volume_name;
use client::{Delta, EventType, Informer, Meta, ObjectKey, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, SELinuxOptions, Volume};
use k8s_openapi::api::storage::v1::CSIDriver;
use parking_lot::Mutex;

use super::{index_claims, pods_of};
use crate::pods::is_terminal;
use crate::work::{Controller, Cx, Step};

const RECURSIVE: &str = "Recursive";
const MOUNT_OPTION: &str = "MountOption";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("selinux-warning-controller");
    let controller = Arc::new(Watcher::new(cx.recorder(&client, "selinux_warning"), World::new(&cx)));
    let world = &controller.world;
    cx.setup(&controller)
        .on(&world.pods, |_: &Watcher, queue, change| {
            let ends = |old: &Pod, new: &Pod| is_terminal(new) && !is_terminal(old);
            if !matches!(change, Delta::Updated { old, new } if !ends(old, new)) {
                queue.add(change.object().key());
            }
        })
        .on(&world.claims, |c, queue, change| {
            let claim = change.object();
            if !matches!(change, Delta::Updated { old, new } if volume_name(old) == volume_name(new)) && !volume_name(claim).is_empty() {
                c.wake(queue, &claim.key());
            }
        })
        .on(&world.volumes, |c, queue, change| {
            let owner = |v: &PersistentVolume| v.spec.as_ref().and_then(|s| s.claim_ref.clone()).filter(|o| o.uid.as_ref().is_some_and(|u| !u.is_empty()));
            let changed = !matches!(change, Delta::Updated { old, new } if owner(old).map(|o| o.uid) == owner(new).map(|o| o.uid));
            if let Some(claim) = owner(change.object()).filter(|_| changed) {
                c.wake(queue, &ObjectKey::new(&claim.namespace.unwrap_or_default(), &claim.name.unwrap_or_default()));
            }
        })
        .on(&world.drivers, |c, queue, change| {
            if !matches!(change, Delta::Updated { old, new } if old.spec.se_linux_mount == new.spec.se_linux_mount) {
                c.users.lock().of_driver(change.object().name()).into_iter().for_each(|pod| queue.add(pod));
            }
        })
        .work(1)
        .await;
}

/// What is read.
struct World {
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
}

impl World {
    fn new(cx: &Cx) -> Self {
        Self { pods: cx.informers.informer(), claims: cx.informers.informer(), volumes: cx.informers.informer(), drivers: cx.informers.informer() }
    }
}

struct Watcher {
    recorder: Recorder,
    world: World,
    users: Mutex<Users>,
}

/// A label's parts: user, role, type, level. What is empty is the node's own, but for the level.
type Label = [String; 4];

fn label(options: Option<&SELinuxOptions>) -> Label {
    let part = |part: Option<&String>| part.cloned().unwrap_or_default();
    options.map_or_else(Label::default, |o| [part(o.user.as_ref()), part(o.role.as_ref()), part(o.type_.as_ref()), part(o.level.as_ref())])
}

fn shown(label: &Label) -> String {
    if label.iter().all(String::is_empty) { String::new() } else { label.join(":") }
}

/// Whether two labels cannot be the same on a node.
fn differ(a: &Label, b: &Label) -> bool {
    let named = |at: usize| at == 3 || !a[at].is_empty() && !b[at].is_empty();
    (0..4).any(|at| a[at] != b[at] && named(at))
}

/// How a pod wants a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    label: Label,
    policy: &'static str,
}

/// A volume that is used.
struct Used {
    name: String,
    driver: String,
    wish: Wish,
}

/// Who uses which volumes how.
#[derive(Default)]
struct Users {
    volumes: HashMap<String, (String, BTreeMap<ObjectKey, Wish>)>,
    of_pod: HashMap<ObjectKey, BTreeSet<String>>,
}

/// A pod that is to be told, and what.
#[derive(Debug, PartialEq, Eq)]
struct Conflict {
    pod: ObjectKey,
    reason: &'static str,
    message: String,
}

fn conflict((pod, value): (&ObjectKey, &str), (other, theirs): (&ObjectKey, &str), what: &'static str) -> Conflict {
    let reason = if what == "SELinuxLabel" { "SELinuxLabelConflict" } else { "SELinuxChangePolicyConflict" };
    let (value, theirs) = (format!("\"{value}\""), format!("\"{theirs}\""));
    let end = "If both pods land on the same node, only one of them may access the volume.";
    let message = if pod.namespace == other.namespace {
        format!("{what} {value} conflicts with pod {} that uses the same volume as this pod with {what} {theirs}. {end}", other.name)
    } else {
        // Another namespace's names are not told. (The missing blank is the original's.)
        format!("{what}{value} conflicts with another pod that uses the same volume as this pod with a different {what}. {end}")
    };
    Conflict { pod: pod.clone(), reason, message }
}

impl Users {
    /// A pod uses a volume; the conflicts that are new by that, for both sides.
    fn add(&mut self, pod: &ObjectKey, used: Used) -> Vec<Conflict> {
        let (_, users) = self.volumes.entry(used.name.clone()).or_insert_with(|| (used.driver, BTreeMap::new()));
        let wish = used.wish;
        self.of_pod.entry(pod.clone()).or_default().insert(used.name);
        if users.insert(pod.clone(), wish.clone()).is_some_and(|before| before == wish) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (other, theirs) in users.iter().filter(|(other, _)| *other != pod) {
            let mut tell = |own: &str, theirs: &str, what| {
                found.push(conflict((pod, own), (other, theirs), what));
                found.push(conflict((other, theirs), (pod, own), what));
            };
            if theirs.policy != wish.policy {
                tell(wish.policy, theirs.policy, "SELinuxChangePolicy");
            }
            if differ(&theirs.label, &wish.label) {
                tell(&shown(&wish.label), &shown(&theirs.label), "SELinuxLabel");
            }
        }
        found
    }

    fn remove(&mut self, pod: &ObjectKey) {
        for name in self.of_pod.remove(pod).into_iter().flatten() {
            if let Some((_, users)) = self.volumes.get_mut(&name) {
                users.remove(pod);
                if users.is_empty() {
                    self.volumes.remove(&name);
                }
            }
        }
    }

    fn of_driver(&self, driver: &str) -> BTreeSet<ObjectKey> {
        self.volumes.values().filter(|(of, _)| of == driver).flat_map(|(_, users)| users.keys().cloned()).collect()
    }
}

impl Watcher {
    fn new(recorder: Recorder, world: World) -> Self {
        index_claims(&world.pods);
        Self { recorder, world, users: Mutex::default() }
    }

    fn wake(&self, queue: &WorkQueue<ObjectKey>, claim: &ObjectKey) {
        pods_of(&self.world.pods, claim).iter().for_each(|pod| queue.add(pod.key()));
    }

    /// What a pod's volume is, whose, and whether it can be mounted with a label; none if that is not known (yet), or never can.
    fn volume(&self, pod: &Pod, volume: &Volume) -> Option<(String, String, bool)> {
        if let Some(csi) = &volume.csi {
            return Some((format!("csi/{}/{}/{}", csi.driver, pod.uid(), volume.name), csi.driver.clone(), self.mounts_with_label(&csi.driver)));
        }
        let claim = match &volume.persistent_volume_claim {
            Some(source) => self.world.claims.get(pod.namespace(), &source.claim_name)?,
            None => {
                volume.ephemeral.as_ref()?;
                self.world.claims.get(pod.namespace(), &client::own_claim(pod, &volume.name)).filter(|c| c.is_controlled_by(pod.uid()))?
            }
        };
        let volume = self.world.volumes.get("", volume_name(&claim))?;
        let spec = volume.spec.as_ref()?;
        if let Some(csi) = &spec.csi {
            return Some((format!("csi/{}^{}", csi.driver, csi.volume_handle), csi.driver.clone(), self.mounts_with_label(&csi.driver)));
        }
        (spec.iscsi.is_some() || spec.fc.is_some()).then(|| (volume.name().to_owned(), String::new(), true))
    }

    fn mounts_with_label(&self, driver: &str) -> bool {
        self.world.drivers.get("", driver).is_some_and(|d| d.spec.se_linux_mount == Some(true))
    }

    /// A pod's volumes, and those that it mounts with several labels itself.
    fn used(&self, pod: &Pod) -> (Vec<Used>, Vec<String>) {
        let (mut used, mut torn) = (Vec::new(), Vec::new());
        let labels = mount_labels(pod);
        let policy = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()?.se_linux_change_policy.as_deref()).unwrap_or(MOUNT_OPTION);
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let Some(wanted) = labels.get(&volume.name) else { continue };
            let Some((name, driver, with_label)) = self.volume(pod, volume) else { continue };
            if wanted.len() > 1 {
                torn.push(volume.name.clone());
                continue;
            }
            let by_mount = with_label && policy != RECURSIVE;
            let label = if by_mount { wanted.first().cloned().unwrap_or_default() } else { Label::default() };
            let policy = if by_mount && !shown(&label).is_empty() { MOUNT_OPTION } else { RECURSIVE };
            used.push(Used { name, driver, wish: Wish { label, policy } });
        }
        (used, torn)
    }
}

/// The labels with which a pod's containers mount its volumes; a container that names none has the pod's.
fn mount_labels(pod: &Pod) -> BTreeMap<String, BTreeSet<Label>> {
    let mut labels: BTreeMap<String, BTreeSet<Label>> = BTreeMap::new();
    let Some(spec) = &pod.spec else { return labels };
    let of_pod = spec.security_context.as_ref().and_then(|c| c.se_linux_options.as_ref());
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let own = container.security_context.as_ref().and_then(|c| c.se_linux_options.as_ref()).or(of_pod);
        for mount in container.volume_mounts.iter().flatten() {
            let of_volume = labels.entry(mount.name.clone()).or_default();
            of_volume.extend(own.map(|options| label(Some(options))));
        }
    }
    labels
}

impl Controller for Watcher {
    const QUEUE: &'static str = "selinux_warning";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(pod) = self.world.pods.get_key(key).filter(|p| !is_terminal(p)) else {
            self.users.lock().remove(key);
            return Ok(None);
        };
        let (used, torn) = self.used(&pod);
        for volume in torn {
            let message = format!("Volume {volume:?} is mounted twice with different SELinux labels inside this pod");
            self.recorder.event(&object_reference(&*pod), EventType::Warning, "MultipleSELinuxLabels", message);
        }
        let conflicts: Vec<Conflict> = {
            let mut users = self.users.lock();
            used.into_iter().flat_map(|used| users.add(key, used)).collect()
        };
        for conflict in conflicts {
            if let Some(pod) = self.world.pods.get_key(&conflict.pod) {
                self.recorder.event(&object_reference(&*pod), EventType::Normal, conflict.reason, conflict.message);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fake::Fake;

    fn of(text: &str) -> Label {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    #[test]
    fn labels_differ_where_the_node_cannot_make_them_the_same() {
        for (a, b, want) in [
            ("system_u:system_r:container_t:s0:c1,c2", ":::s0:c1,c2", false),
            ("system_u:system_r:container_t:s0:c1,c2", ":::s0:c98,c99", true),
            (":::s0:c1,c2", "", true),
            ("a:b:c:s0", "a:b:d:s0", true),
            ("", "", false),
        ] {
            assert_eq!((differ(&of(a), &of(b)), differ(&of(b), &of(a))), (want, want), "{a} {b}");
        }
        assert_eq!((shown(&of("")), shown(&of("::t:s0:c1"))), (String::new(), "::t:s0:c1".to_owned()));
    }

    /// A watcher over pods that all use the claim `c` on a CSI driver's volume.
    async fn watcher(pods: &[Value], with_label: bool) -> Watcher {
        let claim = json!({"metadata": {"namespace": "n", "name": "c"}, "spec": {"volumeName": "v"}});
        let volume = json!({"metadata": {"name": "v"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}}});
        let world = World {
            pods: Informer::fixed(pods.iter().map(|p| client::typed::<Pod>(p).expect("a pod"))),
            claims: Informer::fixed([client::typed(&claim).expect("a claim")]),
            volumes: Informer::fixed([client::typed(&volume).expect("a volume")]),
            drivers: Informer::fixed([client::typed(&json!({"metadata": {"name": "d"}, "spec": {"seLinuxMount": with_label}})).expect("a driver")]),
        };
        let client = Fake::new(|_, _: &str| (201, json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}}))).client();
        Watcher::new(Recorder::new(client, "selinux_warning", ""), world)
    }

    fn pod(name: &str, level: &str, policy: Option<&str>) -> Value {
        json!({"metadata": {"namespace": "n", "name": name, "uid": name}, "spec": {
            "securityContext": {"seLinuxOptions": {"level": level}, "seLinuxChangePolicy": policy},
            "containers": [{"name": "a", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}],
            "volumes": [{"name": "x", "persistentVolumeClaim": {"claimName": "c"}}],
        }})
    }

    /// What is told when the second pod comes after the first.
    async fn told(pods: [Value; 2], with_label: bool) -> Vec<(String, &'static str, String)> {
        let watcher = watcher(&pods, with_label).await;
        let mut found = Vec::new();
        for name in ["p", "q"] {
            let key = ObjectKey::new("n", name);
            let pod = watcher.world.pods.get_key(&key).expect("a pod");
            let (used, torn) = watcher.used(&pod);
            assert!(torn.is_empty());
            let mut users = watcher.users.lock();
            found.extend(used.into_iter().flat_map(|used| users.add(&key, used)));
        }
        assert_eq!(watcher.users.lock().of_driver("d").len(), 2);
        found.into_iter().map(|c| (c.pod.name, c.reason, c.message)).collect()
    }

    #[tokio::test]
    async fn pods_that_want_a_volume_differently_are_told_of_each_other() {
        let end = "If both pods land on the same node, only one of them may access the volume.";
        let found = told([pod("p", "s0:c1", None), pod("q", "s0:c2", None)], true).await;
        let of = |other: &str, own: &str, theirs: &str| {
            format!("SELinuxLabel \":::{own}\" conflicts with pod {other} that uses the same volume as this pod with SELinuxLabel \":::{theirs}\". {end}")
        };
        assert_eq!(found[0], ("q".to_owned(), "SELinuxLabelConflict", of("p", "s0:c2", "s0:c1")));
        assert_eq!((found[1].clone(), found.len()), (("p".to_owned(), "SELinuxLabelConflict", of("q", "s0:c1", "s0:c2")), 2));
        assert_eq!(told([pod("p", "s0:c1", None), pod("q", "s0:c1", None)], true).await, []);
        assert_eq!(told([pod("p", "s0:c1", None), pod("q", "s0:c2", None)], false).await, [], "its files are labelled one by one");
        let found = told([pod("p", "s0:c1", None), pod("q", "s0:c1", Some("Recursive"))], true).await;
        let policy = format!(
            "SELinuxChangePolicy \"Recursive\" conflicts with pod p that uses the same volume as this pod with SELinuxChangePolicy \"MountOption\". {end}"
        );
        assert_eq!(found[0], ("q".to_owned(), "SELinuxChangePolicyConflict", policy));
        let stranger = conflict((&ObjectKey::new("n", "p"), "a"), (&ObjectKey::new("m", "secret"), "b"), "SELinuxLabel").message;
        assert!(!stranger.contains("secret") && stranger.starts_with("SELinuxLabel\"a\" conflicts with another pod"), "{stranger}");
    }

    #[tokio::test]
    async fn a_pod_that_is_gone_is_in_nobodys_way_and_one_with_two_labels_in_its_own() {
        let watcher = watcher(&[pod("p", "s0:c1", None)], true).await;
        let key = ObjectKey::new("n", "p");
        let step = |key: ObjectKey| {
            let watcher = &watcher;
            async move { watcher.reconcile(&key).await.is_ok() }
        };
        assert!(step(key.clone()).await && step(key).await);
        let users = |driver: &str| watcher.users.lock().of_driver(driver).len();
        assert_eq!(users("d"), 1);
        watcher.users.lock().remove(&ObjectKey::new("n", "p"));
        assert_eq!((users("d"), watcher.users.lock().volumes.len()), (0, 0));
        let mut torn = pod("p", "s0:c1", None);
        torn["spec"]["containers"].as_array_mut().expect("containers").push(json!({"name": "b", "securityContext": {"seLinuxOptions": {"level": "s0:c9"}},
            "volumeMounts": [{"name": "x", "mountPath": "/x"}]}));
        let torn: Pod = client::typed(&torn).expect("a pod");
        assert_eq!(watcher.used(&torn).1, ["x"]);
    }
}
