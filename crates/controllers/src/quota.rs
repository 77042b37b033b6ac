//! ResourceQuotas: what a namespace uses of what it may. Admission charges what is made; this counts anew when something
//! goes, ends or shrinks, and when a quota changes.
//!
//! Counting reads the server and not the informers, and the result is written on the condition that nobody has charged the
//! quota meanwhile: so a charge is never lost.
//!
//! The original counts all quotas anew every five minutes, and three things rest on that: a charge whose object was not stored
//! after all (or was counted before it was) is taken back, a status that somebody else wrote is put right, and a pod that is stuck in
//! its deletion is not charged any more. Here a quota is counted that much later once its status changed, when a pod that is being deleted
//! should be gone, and soon if the status does not even say the limits of the spec. A quota whose status does not change cannot have become
//! wrong otherwise, but where a class of devices stands for another resource than before: that is listened to.
//!
//! Two counts would miss an object until then. What is made while a quota is counted for the first time is charged by nobody,
//! since the status does not say the limit yet: so a quota is counted again as soon as its status says a limit that it did not.
//! And what was charged a moment ago may not be stored yet: so no quota is counted before its status has rested for a moment.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Delta, Informer, Meta, Object, ObjectKey, PartialObject, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::api::resource::v1::DeviceClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::jiff::Timestamp;
use kinds::usage::{self, Amounts};
use machinery::quantity::Quantity;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::discovery::{self, Served};
use crate::meta::{between, plus, secs};
use crate::pods;
use crate::work::{Controller, Cx, Step};

const WORKERS: usize = 5;
/// Deletions come in groups; one count does for all. So long a status rests before its quota is counted: an object that is charged
/// is stored by then.
const SETTLE: Duration = Duration::from_millis(20);
/// After a change of its status a quota is counted anew (upstream `--resource-quota-sync-period`).
const RECOUNT: Duration = Duration::from_secs(300);
/// A status that tells other limits than the spec was written by somebody else, and whoever did may look at it first.
const FOREIGN_STATUS: Duration = Duration::from_secs(5);
/// What is counted for more than being there, or under a short name.
const NAMED: [&str; 7] = ["pods", "services", "persistentvolumeclaims", "configmaps", "secrets", "replicationcontrollers", "resourcequotas"];

/// Claims of devices, which are charged for resources of pods, too.
const CLAIMS: &str = "resourceclaims.resource.k8s.io";
const DEVICE_CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("resourcequota-controller");
    let queue: WorkQueue<ObjectKey> = WorkQueue::default();
    let freed = Freed { quotas: cx.informers.informer(), queue: queue.clone() };
    let controller = Arc::new(Quotas { cx: cx.clone(), client, freed, heard: Arc::default(), changed: Mutex::default() });
    cx.setup_with(queue, &controller)
        .on(&controller.freed.quotas, |c, queue, change| match change {
            Delta::Added(quota) => queue.add(quota.key()),
            Delta::Updated { old, new } => {
                if old.status != new.status {
                    c.changed.lock().insert(new.key(), Instant::now());
                }
                match look_again(old, new) {
                    Some(Duration::ZERO) => queue.add(new.key()),
                    Some(after) => queue.add_after(new.key(), after),
                    None => {}
                }
            }
            Delta::Deleted(quota) => drop(c.changed.lock().remove(&quota.key())),
        })
        .on(&cx.informers.informer::<Pod>(), |c, _, change| {
            let pod = change.object();
            if let Some(end) = end_of(pod).filter(|end| !is_past(*end) && !matches!(change, Delta::Deleted(_))) {
                // It may get stuck, which no event tells.
                c.freed.tell_after(pod.namespace(), until(end));
            }
            match change {
                Delta::Updated { old, new } if pods::is_terminal(new) == pods::is_terminal(old) && same_claims(old, new) && !gets_stuck(old, new) => {}
                Delta::Added(_) => {}
                _ => c.freed.tell(pod.namespace()),
            }
        })
        .work(WORKERS)
        .await;
}

/// How long after this change of a quota it is to be counted anew; none: not for its sake.
fn look_again(old: &ResourceQuota, new: &ResourceQuota) -> Option<Duration> {
    if old.spec != new.spec || new.status.is_none() {
        return Some(Duration::ZERO);
    }
    let limits = |quota: &ResourceQuota| (quota.spec.as_ref().and_then(|s| s.hard.clone()), quota.status.as_ref().and_then(|s| s.hard.clone()));
    if let (Some(asked), told) = limits(new)
        && amounts(&Some(asked)) != amounts(&told)
    {
        return Some(FOREIGN_STATUS);
    }
    let told = |quota: &ResourceQuota| -> Vec<String> { quota.status.iter().flat_map(|s| s.hard.iter().flatten()).map(|(name, _)| name.clone()).collect() };
    if told(old) != told(new) {
        return Some(SETTLE);
    }
    (old.status != new.status).then_some(RECOUNT)
}

/// Whether a pod asks for what it did. That it got a node frees nothing; a count at that moment could miss a pod that is
/// charged and not stored yet.
fn same_claims(old: &Pod, new: &Pod) -> bool {
    let (Some(old), Some(new)) = (&old.spec, &new.spec) else { return false };
    old.containers == new.containers && old.init_containers == new.init_containers && old.resources == new.resources && old.overhead == new.overhead
}

/// By when a pod that is being deleted should be gone. One that is there still, as on a node that is lost, is not charged to its user, who
/// needs the room for another (upstream `QuotaV1Pod`).
fn end(deleted: Option<Timestamp>, grace_s: Option<i64>) -> Option<Timestamp> {
    deleted.zip(grace_s).map(|(at, grace_s)| plus(at, secs(grace_s)))
}

fn end_of(pod: &Pod) -> Option<Timestamp> {
    end(pod.metadata.deletion_timestamp.as_ref().map(|at| at.0), pod.metadata.deletion_grace_period_seconds)
}

/// The same of a pod as the server tells it.
fn end_there(pod: &Value) -> Option<Timestamp> {
    let meta = &pod["metadata"];
    end(meta["deletionTimestamp"].as_str().and_then(|at| at.parse().ok()), meta["deletionGracePeriodSeconds"].as_i64())
}

fn is_past(end: Timestamp) -> bool {
    end < client::timestamp()
}

/// How long until it is.
fn until(end: Timestamp) -> Duration {
    between(client::timestamp(), end) + SETTLE
}

fn gets_stuck(old: &Pod, new: &Pod) -> bool {
    let is_stuck = |pod: &Pod| end_of(pod).is_some_and(is_past);
    is_stuck(new) && !is_stuck(old)
}

/// Whether a claim uses something else than it did: its size may shrink after a growth that failed, its attributes be another class's
/// (upstream `RequiresQuotaReplenish`).
fn claims_differ(old: &PersistentVolumeClaim, new: &PersistentVolumeClaim) -> bool {
    let asked = |c: &PersistentVolumeClaim| c.spec.as_ref().map(|s| (s.resources.clone(), s.volume_attributes_class_name.clone()));
    let given = |c: &PersistentVolumeClaim| {
        let status = c.status.as_ref();
        status.map(|s| (s.allocated_resources.clone(), s.current_volume_attributes_class_name.clone(), s.modify_volume_status.clone()))
    };
    asked(old) != asked(new) || given(old) != given(new)
}

/// Where it is told that a namespace may use less.
#[derive(Clone)]
struct Freed {
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<ObjectKey>,
}

impl Freed {
    fn tell(&self, namespace: &str) {
        self.tell_after(namespace, SETTLE);
    }

    fn tell_after(&self, namespace: &str, after: Duration) {
        self.quotas.list_namespace(namespace).iter().for_each(|q| self.queue.add_after(q.key(), after));
    }

    /// Claims of devices may be charged for other resources than before, in all namespaces.
    fn tell_of_devices(&self) {
        let counts = |quota: &ResourceQuota| quota.spec.iter().flat_map(|s| s.hard.iter().flatten()).any(|(name, _)| usage::is_of_devices(name));
        self.quotas.list().iter().filter(|q| counts(q)).for_each(|q| self.queue.add_after(q.key(), SETTLE));
    }
}

struct Quotas {
    cx: Cx,
    client: Client,
    freed: Freed,
    /// Resources whose deletions are listened to, since a quota counts them.
    heard: Arc<Mutex<HashSet<String>>>,
    /// When the status of each quota changed last.
    changed: Mutex<HashMap<ObjectKey, Instant>>,
}

/// A resource that is listened to. Once its informer has ended (its kind was served no longer), it is to be listened to anew.
struct Ear {
    heard: Arc<Mutex<HashSet<String>>>,
    path: String,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.heard.lock().remove(&self.path);
    }
}

impl Quotas {
    /// Listens to the deletions of a resource from now on.
    fn listen(&self, served: &Served) {
        if served.group == "resource.k8s.io" && served.resource == "resourceclaims" {
            self.listen_to_classes();
        }
        if served.resource == "pods" || !self.heard.lock().insert(served.path()) {
            return;
        }
        let i = &self.cx.informers;
        let ear = Ear { heard: self.heard.clone(), path: served.path() };
        match (served.group.as_str(), served.resource.as_str()) {
            ("", "services") => self.hear(ear, &i.informer::<Service>(), |old, new| old.spec != new.spec),
            ("", "persistentvolumeclaims") => self.hear(ear, &i.informer::<PersistentVolumeClaim>(), claims_differ),
            ("", "resourcequotas") => self.hear(ear, &i.informer::<ResourceQuota>(), |_, _| false),
            _ => self.hear(ear, &i.metadata(&served.path()), |_: &PartialObject, _| false),
        }
    }

    /// Listens to the resources for which classes say that their devices stand.
    fn listen_to_classes(&self) {
        if !self.heard.lock().insert(DEVICE_CLASSES.to_owned()) {
            return;
        }
        let (ear, freed) = (Ear { heard: self.heard.clone(), path: DEVICE_CLASSES.to_owned() }, self.freed.clone());
        self.cx.listen(&self.cx.informers.informer::<DeviceClass>(), move |change| {
            // It lives as long as the listener.
            let _ = &ear;
            if names_otherwise(&change) {
                freed.tell_of_devices();
            }
        });
    }

    fn hear<K: Object>(&self, ear: Ear, informer: &Informer<K>, changed: fn(&K, &K) -> bool) {
        let freed = self.freed.clone();
        self.cx.listen(informer, move |change| {
            // It lives as long as the listener.
            let _ = &ear;
            match &change {
                Delta::Deleted(object) => freed.tell(object.namespace()),
                Delta::Updated { old, new } if changed(old, new) => freed.tell(new.namespace()),
                _ => {}
            }
        });
    }

    /// The resources that a quota counts.
    async fn counted(&self, hard: &BTreeMap<String, Text>) -> client::Result<Vec<Served>> {
        let (all, _) = discovery::resources(&self.client).await?;
        let by_name: HashMap<String, Served> =
            all.into_iter().map(|s| (if s.group.is_empty() { s.resource.clone() } else { format!("{}.{}", s.resource, s.group) }, s)).collect();
        let mut wanted: Vec<&str> = hard.keys().map(|name| resource_of(name)).collect();
        if hard.keys().any(|name| usage::is_of_devices(name)) {
            wanted.push(CLAIMS);
        }
        wanted.sort_unstable();
        wanted.dedup();
        Ok(wanted.into_iter().filter_map(|name| by_name.get(name)).filter(|s| s.namespaced && s.can("list")).cloned().collect())
    }

    /// What the objects of a namespace use that a quota selects, and when the next of them that is a pod should be gone.
    async fn used(&self, quota: &ResourceQuota, hard: &BTreeMap<String, Text>, counted: &[Served]) -> client::Result<(Amounts, Option<Timestamp>)> {
        let mut next: Option<Timestamp> = None;
        let selector = serde_json::to_value(quota).unwrap_or_default();
        let mut sum: Amounts = hard.keys().map(|name| (name.clone(), Quantity::default())).collect();
        for served in counted {
            let list: Value = self.client.get_json(&served.path_in(quota.namespace())).await?;
            // Who has no claims is asked for nothing more.
            let is_of_devices = served.group == "resource.k8s.io" && served.resource == "resourceclaims" && items(&list).next().is_some();
            let (classes, pods) = match is_of_devices {
                true => (self.client.get_json(DEVICE_CLASSES).await?, self.client.get_json(&format!("/api/v1/namespaces/{}/pods", quota.namespace())).await?),
                false => (Value::Null, Value::Null),
            };
            let pods: HashMap<&str, &Value> = items(&pods).filter_map(|pod| Some((pod["metadata"]["uid"].as_str()?, pod))).collect();
            let firsts = if is_of_devices { usage::first_made_for(items(&list)) } else { HashMap::new() };
            for object in items(&list) {
                if usage::selects(&selector, &served.group, &served.resource, object) {
                    let mut uses = usage::measure(&served.group, &served.resource, object);
                    if served.group.is_empty() && served.resource == "pods" {
                        match end_there(object) {
                            // It is there all the same.
                            Some(end) if is_past(end) => uses.retain(|name, _| name == "count/pods"),
                            end => next = next.into_iter().chain(end).min(),
                        }
                    }
                    if is_of_devices {
                        let uid = usage::made_for(object).map_or("", |(_, uid)| uid);
                        let pod = pods.get(uid).filter(|pod| usage::is_made_for(object, pod, firsts.get(uid).copied().into_iter()));
                        usage::charge_extended(&mut uses, |class| resource_named(&classes, class), pod.copied());
                    }
                    usage::add(&mut sum, &uses);
                }
            }
        }
        sum.retain(|name, _| hard.contains_key(name));
        Ok((sum, next))
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// The resource for which a class says that its devices stand.
fn resource_named(classes: &Value, class: &str) -> Option<String> {
    let class = items(classes).find(|found| found["metadata"]["name"] == class)?;
    class["spec"]["extendedResourceName"].as_str().map(str::to_owned)
}

/// Whether a class stands for another resource than before.
fn names_otherwise(change: &Delta<DeviceClass>) -> bool {
    let named = |class: &DeviceClass| class.spec.as_ref().and_then(|spec| spec.extended_resource_name.clone());
    match change {
        Delta::Updated { old, new } => named(old) != named(new),
        Delta::Added(class) | Delta::Deleted(class) => named(class).is_some(),
    }
}

/// Amounts, in whatever form they are written.
fn amounts(map: &Option<BTreeMap<String, Text>>) -> BTreeMap<String, Option<Quantity>> {
    map.iter().flatten().map(|(name, text)| (name.clone(), text.0.parse().ok())).collect()
}

/// Whether two statuses say the same amounts.
fn equal(a: &ResourceQuotaStatus, b: &ResourceQuotaStatus) -> bool {
    amounts(&a.hard) == amounts(&b.hard) && amounts(&a.used) == amounts(&b.used)
}

/// The resource that a counted name is about.
fn resource_of(name: &str) -> &str {
    if let Some(counted) = name.strip_prefix("count/") {
        return counted;
    }
    if NAMED.contains(&name) {
        return name;
    }
    match name {
        "services.nodeports" | "services.loadbalancers" => "services",
        "requests.storage" => "persistentvolumeclaims",
        name if name.contains(".storageclass.storage.k8s.io/") => "persistentvolumeclaims",
        name if name.ends_with(usage::DEVICES) => CLAIMS,
        _ => "pods",
    }
}

impl Controller for Quotas {
    const QUEUE: &'static str = "resourcequota_primary";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(quota) = self.freed.quotas.get_key(key) else { return Ok(None) };
        if let Some(rest) = self.changed.lock().get(key).and_then(|since| SETTLE.checked_sub(since.elapsed())) {
            return Ok(Some(rest));
        }
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let counted = self.counted(&hard).await?;
        counted.iter().for_each(|served| self.listen(served));
        let (used, next) = self.used(&quota, &hard, &counted).await?;
        let used: BTreeMap<String, Text> = used.into_iter().map(|(name, amount)| (name, Text(amount.to_string()))).collect();
        let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
        if quota.status.as_ref().is_some_and(|old| equal(old, &status)) {
            return Ok(next.map(until));
        }
        let mut changed = (*quota).clone();
        changed.status = Some(status);
        match self.client.namespaced::<ResourceQuota>(&key.namespace).replace_status(&key.name, &changed).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(next.map(until)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_frees_nothing_and_smaller_requests_do() {
        let pod = |node: &str, cpu: &str| -> Pod {
            let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
            serde_json::from_value(json!({"spec": {"nodeName": node, "containers": [container]}})).expect("a pod")
        };
        assert!(same_claims(&pod("", "1"), &pod("a", "1")));
        assert!(!same_claims(&pod("a", "1"), &pod("a", "500m")));
    }

    #[test]
    fn a_claim_that_asks_for_less_or_of_another_class_frees_something() {
        let claim = |size: &str, class: &str, phase: &str| -> PersistentVolumeClaim {
            let spec = json!({"resources": {"requests": {"storage": size}}, "volumeAttributesClassName": class});
            serde_json::from_value(json!({"spec": spec, "status": {"phase": phase}})).expect("a claim")
        };
        let one = claim("2Gi", "fast", "Pending");
        assert!(claims_differ(&one, &claim("1Gi", "fast", "Pending")));
        assert!(claims_differ(&one, &claim("2Gi", "slow", "Pending")));
        assert!(!claims_differ(&one, &claim("2Gi", "fast", "Bound")));
    }

    #[test]
    fn a_class_that_stands_for_another_resource_is_heard_of() {
        let class = |named: Option<&str>| -> Arc<DeviceClass> {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {"extendedResourceName": named}})).expect("a class"))
        };
        let gpu = || class(Some("example.com/gpu"));
        assert!(names_otherwise(&Delta::Updated { old: class(None), new: gpu() }) && !names_otherwise(&Delta::Updated { old: gpu(), new: gpu() }));
        assert!(names_otherwise(&Delta::Added(gpu())) && !names_otherwise(&Delta::Deleted(class(None))));
    }

    #[test]
    fn a_status_that_changed_is_looked_at_again() {
        let quota = |hard: &str, told: &str, used: &str| -> ResourceQuota {
            let value = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": hard}}, "status": {"hard": {"pods": told}, "used": {"pods": used}}});
            serde_json::from_value(value).expect("a quota")
        };
        let (one, charged) = (quota("5", "5", "1"), quota("5", "5", "2"));
        assert_eq!(look_again(&one, &charged), Some(RECOUNT), "the object may not have been stored after all");
        assert_eq!(look_again(&one, &one), None);
        let mut unsaid = one.clone();
        unsaid.status = Some(ResourceQuotaStatus::default());
        assert_eq!(look_again(&unsaid, &one), Some(SETTLE), "what was made meanwhile was charged by nobody");
        assert_eq!(look_again(&one, &quota("6", "5", "1")), Some(Duration::ZERO));
        assert_eq!(look_again(&one, &quota("5", "500", "1")), Some(FOREIGN_STATUS), "somebody else wrote it");
        assert_eq!(look_again(&one, &quota("5", "5000m", "1")), Some(RECOUNT), "only written otherwise");
    }

    #[test]
    fn a_pod_that_should_have_been_gone_is_not_charged() {
        let deleted = |ago_s: i64, grace_s: i64| {
            let at = Timestamp::from_second(client::timestamp().as_second() - ago_s).unwrap_or_default().to_string();
            json!({"metadata": {"name": "p", "deletionTimestamp": at, "deletionGracePeriodSeconds": grace_s}})
        };
        let there = json!({"metadata": {"name": "p"}});
        let is_stuck_there = |pod: &Value| end_there(pod).is_some_and(is_past);
        assert!(is_stuck_there(&deleted(100, 30)) && !is_stuck_there(&deleted(10, 30)) && !is_stuck_there(&there));
        let left = end_there(&deleted(10, 3600)).map(|end| until(end).as_secs());
        assert!(left.is_some_and(|left| (3500..=3590).contains(&left)), "looked at again when it should be gone: {left:?}");
        let pod = |value: &Value| client::typed::<Pod>(value).expect("a pod");
        let (stays, stuck) = (pod(&there), pod(&deleted(100, 30)));
        assert!(gets_stuck(&stays, &stuck) && !gets_stuck(&stuck, &stuck) && !gets_stuck(&stays, &pod(&deleted(10, 30))));
    }

    #[test]
    fn an_ear_that_ends_leaves_its_place() {
        let heard = Arc::new(Mutex::new(HashSet::from(["p".to_owned()])));
        drop(Ear { heard: heard.clone(), path: "p".to_owned() });
        assert!(heard.lock().is_empty());
    }

    #[test]
    fn every_name_is_about_a_resource() {
        for (name, want) in [
            ("pods", "pods"),
            ("requests.cpu", "pods"),
            ("limits.memory", "pods"),
            ("count/deployments.apps", "deployments.apps"),
            ("services.nodeports", "services"),
            ("requests.storage", "persistentvolumeclaims"),
            ("gold.storageclass.storage.k8s.io/requests.storage", "persistentvolumeclaims"),
            ("requests.example.com/gpu", "pods"),
        ] {
            assert_eq!(resource_of(name), want);
        }
    }
}
