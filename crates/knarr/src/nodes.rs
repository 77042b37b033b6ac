//! `knarr node`: the nodes of a cluster on this machine. Commands change what is wished for (`cluster/nodes.rs`); the cluster's process
//! does it, and is waited for. Here, too, is what makes the first node the control plane's: its role, and its taint where it is asked for.

use crate::{
    cli::{ControlPlane, Node, Which},
    cluster::{
        Cluster, LOG, Plan,
        nodes::{self, FIRST},
    },
    log::log,
    node, preflight,
    progress::Steps,
    reach, volumes,
};
use anyhow::{Context as _, anyhow, bail};
use client::{Client, Informer, Informers, ListParams, Meta as _, Patch, PatchParams};
use k8s_openapi::api::core::v1::{self, Pod, Taint};
use machinery::Value;
use network::Net;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The role of the control plane's node, as kubeadm labels and taints it.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// Balancers outside send nothing to a node with this label. kubeadm gives it to those of the control plane, to which no pods come.
const NO_BALANCERS: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const NO_SCHEDULE: &str = "NoSchedule";
/// Marks a pod that stands for a file of its node.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// For a node that was added to be Ready.
const READY: Duration = Duration::from_secs(60);
/// Before an eviction that a budget refused is asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two looks whether the cluster's process has done what is wished.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the command.
pub async fn run(command: Node) -> anyhow::Result<()> {
    log();
    preflight::root()?;
    match command {
        Node::List { which } => list(&find(&which)?),
        Node::Add { count, labels, which } => add(&find(&which)?, count, labels.into_iter().collect()).await,
        Node::Rm { node, force, timeout, which } => remove(&find(&which)?, &node, force, Duration::from_secs(timeout)).await,
    }
}

fn find(which: &Which) -> anyhow::Result<Cluster> {
    let cluster = Cluster::find(&which.name, which.data_dir.as_deref())?;
    if !cluster.exists()? {
        bail!("there is no cluster {:?}: nothing in {} and {}", cluster.name, cluster.data.display(), cluster.run.display());
    }
    if cluster.is_agent() {
        bail!("{} is the place of a node of another cluster (`knarr agent`): ask where the control plane is", cluster.data.display());
    }
    Ok(cluster)
}

fn plan(cluster: &Cluster) -> anyhow::Result<Plan> {
    cluster.kept().with_context(|| format!("the addresses of the cluster {:?} are not known: has it been started?", cluster.name))
}

/// The administrator of a cluster that runs.
pub fn admin(cluster: &Cluster) -> anyhow::Result<Client> {
    if cluster.running().is_none() {
        bail!("the cluster {:?} does not run: start it by `knarr up`", cluster.name);
    }
    Ok(Client::from_kubeconfig(cluster.data.join("kubeconfig/admin.conf"))?)
}

fn list(cluster: &Cluster) -> anyhow::Result<()> {
    let plan = plan(cluster)?;
    let line = |name: &str, role: &str, number: u32, home: &Cluster, leaving: bool| {
        let process = match home.running() {
            Some(pid) if leaving => format!("{pid} (leaving)"),
            Some(pid) => pid.to_string(),
            None => "-".to_owned(),
        };
        let parts = plan.parts(number).unwrap_or_default();
        let addresses = parts.iter().map(|part| part.node_ip().to_string()).collect::<Vec<_>>().join(",");
        let ranges = parts.iter().map(|part| part.pod_cidr.to_string()).collect::<Vec<_>>().join(",");
        [name.to_owned(), role.to_owned(), addresses, ranges, process]
    };
    let head = ["NODE", "ROLE", "ADDRESS", "PODS", "PROCESS"].map(str::to_owned);
    let mut lines = vec![head, line(&plan.node, "control-plane", FIRST, cluster, false)];
    lines.extend(cluster.wishes()?.iter().map(|wish| line(&wish.name, "worker", wish.number, &cluster.node(wish.number), wish.leaving)));
    // Addresses of IPv6 may be long.
    let width = |column: usize, least: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or_default().max(least);
    let (addresses, ranges) = (width(2, 16), width(3, 19));
    for [name, role, address, range, process] in &lines {
        println!("{name:<30} {role:<15} {address:<addresses$} {range:<ranges$} {process}");
    }
    Ok(())
}

/// What nodes that joined otherwise have of what a further node of this machine would be given.
struct Taken {
    names: BTreeSet<String>,
    ranges: Vec<Net>,
}

impl Taken {
    async fn now(admin: &Client) -> anyhow::Result<Taken> {
        Ok(Self::by(admin.all::<v1::Node>().list(&ListParams::default()).await.context("which nodes there are")?.items()))
    }

    fn by(nodes: &[v1::Node]) -> Taken {
        let ranges = nodes.iter().filter_map(|node| node.spec.as_ref()).flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
        Taken { names: nodes.iter().map(|node| node.name().to_owned()).collect(), ranges: ranges.filter_map(|range| range.parse().ok()).collect() }
    }

    /// Whether a node of this number can be.
    fn leaves(&self, plan: &Plan, number: u32) -> bool {
        let is_free = |range: Net| !self.ranges.iter().any(|taken| taken.overlaps(range));
        let parts = plan.parts(number);
        !self.names.contains(&nodes::name(&plan.node, number)) && parts.is_ok_and(|parts| parts.iter().all(|part| is_free(part.pod_cidr)))
    }
}

/// Wishes for so many nodes in all, now that it is known who has joined (`up --nodes`).
pub async fn at_least(cluster: &Cluster, plan: &Plan, admin: &Client, nodes: u32) -> anyhow::Result<()> {
    let taken = Taken::now(admin).await?;
    cluster.change_wishes(|wishes| nodes::at_least(wishes, nodes, &plan.node, |number| taken.leaves(plan, number)))
}

async fn add(cluster: &Cluster, count: u32, labels: BTreeMap<String, String>) -> anyhow::Result<()> {
    let (steps, plan, admin) = (Steps::new(), plan(cluster)?, admin(cluster)?);
    let taken = Taken::now(&admin).await?;
    let names = cluster.change_wishes(|wishes| nodes::add(wishes, count, &plan.node, &labels, |number| taken.leaves(&plan, number)))?;
    let stop = CancellationToken::new();
    let informers = &Informers::new(admin, stop.clone());
    let steps = &steps;
    let plan = &plan;
    let came = futures_util::future::join_all(names.iter().map(|(number, name)| async move {
        let home = cluster.node(*number);
        let ready = tokio::time::timeout(READY, node::ready(informers, name)).await;
        if let Err(why) = reach::api(&home, plan).await {
            bail!("node {name} cannot be used: {why:#}");
        }
        ready.map_err(|_| {
            anyhow!("node {name} was not Ready after {} s, and is still being tried: {} may tell why", READY.as_secs(), home.data.join(LOG).display())
        })?;
        steps.done(&format!("node {name} Ready"));
        Ok(())
    }))
    .await;
    stop.cancel();
    came.into_iter().collect()
}

async fn remove(cluster: &Cluster, name: &str, force: bool, timeout: Duration) -> anyhow::Result<()> {
    let (steps, admin) = (Steps::new(), admin(cluster)?);
    let Some(wish) = cluster.wishes()?.into_iter().find(|wish| wish.name == name) else {
        if cluster.kept().is_some_and(|plan| plan.node == name) {
            bail!("node {name} has the control plane: `knarr down` removes the whole cluster");
        }
        if admin.all::<v1::Node>().get_opt(name).await?.is_some() {
            bail!("node {name} is another machine's: `kubectl drain {name}`, `knarr agent --reset` there, and `kubectl delete node {name}` take it away");
        }
        bail!("the cluster {:?} has no node {name} on this machine", cluster.name);
    };
    let volumes = volume::disk::list(&volumes::directory(&cluster.node(wish.number).data));
    match volumes.as_deref() {
        Err(error) if force => steps.say(&format!("knarr: the volumes of node {name} go unread ({error}): their PersistentVolumes stay")),
        Err(error) => bail!("the volumes of node {name}, which would go with it, cannot be read: {error}; --force removes it all the same"),
        Ok(all @ [first, ..]) if !force => {
            let claim = &first.meta.claim;
            bail!("node {name} has volumes of {} claims ({}/{}, …) that would go with it: --force", all.len(), claim.namespace, claim.name);
        }
        Ok(_) => {}
    }
    if !force {
        let mut held = Held::default();
        match tokio::time::timeout(timeout, drain(&admin, name, &steps, &mut held)).await {
            Ok(drained) => drained?,
            Err(_) => bail!("node {name} was not drained within {} s and stays, cordoned: {}", timeout.as_secs(), held.told()),
        }
    }
    cluster.change_wishes(|wishes| {
        wishes.iter_mut().filter(|wish| wish.name == name).for_each(|wish| wish.leaving = true);
        Ok(())
    })?;
    steps.now(&format!("removing node {name}"));
    while cluster.wishes()?.iter().any(|wish| wish.name == name) {
        if cluster.running().is_none() {
            bail!("the cluster was ended meanwhile; node {name} goes when it is started again");
        }
        tokio::time::sleep(LOOK).await;
    }
    steps.done(&format!("node {name} removed"));
    Ok(())
}

/// Whether a pod goes with its node, and need not be moved.
fn stays(pod: &Pod) -> bool {
    pod.annotation(MIRROR).is_some() || pod.controller().is_some_and(|owner| owner.kind == "DaemonSet")
}

/// Pods that hold up a drain, and how.
#[derive(Debug, Default)]
struct Held(BTreeMap<String, String>);

impl Held {
    /// Of the first of them, with the number of the others.
    fn told(&self) -> String {
        const TOLD: usize = 3;
        let first = self.0.iter().take(TOLD).map(|(pod, why)| format!("pod {pod}: {why}"));
        let more = self.0.len().saturating_sub(TOLD);
        let rest = (more > 0).then(|| format!("and {more} more pods"));
        let all: Vec<String> = first.chain(rest).collect();
        if all.is_empty() { "its pods could not be listed".to_owned() } else { all.join("; ") }
    }
}

/// Cordons a node and evicts its pods, as `kubectl drain` does. At each moment `held` has who is left.
async fn drain(admin: &Client, name: &str, steps: &Steps, held: &mut Held) -> anyhow::Result<()> {
    let node = admin.all::<v1::Node>();
    match node.patch(name, &Patch::Merge(json!({"spec": {"unschedulable": true}})), &PatchParams::default()).await {
        // It has never come.
        Err(error) if error.is_not_found() => return Ok(()),
        other => drop(other?),
    }
    let stop = CancellationToken::new();
    let informers = Informers::new(admin.clone(), stop.clone());
    let _end = stop.drop_guard();
    let pods: Informer<Pod> = informers.informer_with(ListParams::fields(format!("spec.nodeName={name}")));
    let mut changes = pods.subscribe();
    pods.synced().await;
    let left = || pods.list().into_iter().filter(|pod| !stays(pod)).collect::<Vec<_>>();
    let ended = |pod: &Pod| matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    if let Some(pod) = left().iter().find(|pod| pod.controller().is_none() && !ended(pod)) {
        bail!("pod {}/{} has no controller that would start it elsewhere: delete it, or remove the node by --force", pod.namespace(), pod.name());
    }
    let mut asked = BTreeSet::new();
    loop {
        let left = left();
        if left.is_empty() {
            steps.done(&format!("node {name} drained"));
            return Ok(());
        }
        steps.now(&format!("{} pods leave node {name}", left.len()));
        let full = |pod: &Pod| format!("{}/{}", pod.namespace(), pod.name());
        held.0.retain(|of, _| left.iter().any(|pod| full(pod) == *of));
        for pod in left.iter().filter(|pod| !asked.contains(pod.uid())).collect::<Vec<_>>() {
            let why = evict(admin, pod).await?;
            if why.is_none() {
                asked.insert(pod.uid().to_owned());
            }
            held.0.insert(full(pod), why.unwrap_or_else(|| "it was asked to end and has not yet".to_owned()));
        }
        tokio::select! {
            _ = changes.recv() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Asks for a pod's eviction; else why it is refused for now, mostly by a budget.
async fn evict(admin: &Client, pod: &Pod) -> anyhow::Result<Option<String>> {
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod.name(), "namespace": pod.namespace()},
        "deleteOptions": {"preconditions": {"uid": pod.uid()}}
    });
    match admin.namespaced::<Pod>(pod.namespace()).create_subresource::<_, Value>(pod.name(), "eviction", &eviction).await {
        Ok(_) => Ok(None),
        Err(error) if error.is_not_found() => Ok(None),
        // It was changed meanwhile, or is another pod of the name: what is left will be told.
        Err(error) if error.is_conflict() => Ok(Some(error.to_string())),
        Err(client::Error::Api(status)) if status.code == 429 => Ok(Some(status.message)),
        Err(error) => Err(error).with_context(|| format!("pod {}/{} cannot be evicted", pod.namespace(), pod.name())),
    }
}

/// Gives the first node its role, when it is there, and the taint that is asked for. Others' labels and taints stay.
pub async fn control_plane(admin: &Client, informers: &Informers, name: &str, wanted: Option<ControlPlane>) -> anyhow::Result<()> {
    let nodes: Informer<v1::Node> = informers.informer();
    let mut changes = nodes.subscribe();
    loop {
        match changes.recv().await {
            Some(change) if change.object().name() == name => break,
            Some(_) => {}
            None => return Ok(()),
        }
    }
    let nodes = admin.all::<v1::Node>();
    loop {
        let patch = role(&nodes.get(name).await?, wanted);
        if patch.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(());
        }
        match nodes.patch(name, &Patch::Merge(patch), &PatchParams::default()).await {
            // The kubelet writes to it, too.
            Err(error) if error.is_conflict() => {}
            other => return other.map(drop).with_context(|| format!("node {name} cannot be given its role")),
        }
    }
}

/// What is to be changed of the first node.
fn role(node: &v1::Node, wanted: Option<ControlPlane>) -> Value {
    let mut patch = json!({});
    if node.label(CONTROL_PLANE).is_none() {
        patch["metadata"]["labels"][CONTROL_PLANE] = "".into();
    }
    let mut taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let ours = |taint: &Taint| taint.key == CONTROL_PLANE && taint.effect == NO_SCHEDULE;
    let is_tainted = taints.iter().any(ours);
    match (wanted, node.label(NO_BALANCERS)) {
        (Some(ControlPlane::Taint), None) => patch["metadata"]["labels"][NO_BALANCERS] = "".into(),
        // It goes with the taint; without that it is somebody's own.
        (Some(ControlPlane::Schedule), Some(_)) if is_tainted => patch["metadata"]["labels"][NO_BALANCERS] = Value::Null,
        _ => {}
    }
    match (wanted, is_tainted) {
        (Some(ControlPlane::Taint), false) => taints.push(Taint { key: CONTROL_PLANE.into(), effect: NO_SCHEDULE.into(), ..Taint::default() }),
        (Some(ControlPlane::Schedule), true) => taints.retain(|taint| !ours(taint)),
        _ => return patch,
    }
    // A list is replaced as a whole: it must be the one that was looked at.
    patch["metadata"]["resourceVersion"] = node.resource_version().into();
    patch["spec"]["taints"] = json!(taints);
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(value: Value) -> v1::Node {
        client::typed(&value).unwrap()
    }

    #[test]
    fn the_first_node_has_its_role_and_the_taint_that_was_asked_for() {
        let plain = node(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "resourceVersion": "7"}, "spec": {}}));
        assert_eq!(role(&plain, None), json!({"metadata": {"labels": {CONTROL_PLANE: ""}}}));
        let tainted = role(&plain, Some(ControlPlane::Taint));
        assert_eq!(tainted["spec"]["taints"], json!([{"key": CONTROL_PLANE, "effect": NO_SCHEDULE}]));
        assert_eq!(tainted["metadata"], json!({"labels": {CONTROL_PLANE: "", NO_BALANCERS: ""}, "resourceVersion": "7"}));
        let done = node(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "resourceVersion": "8", "labels": {CONTROL_PLANE: "", NO_BALANCERS: ""}},
            "spec": {"taints": [{"key": "mine", "effect": "NoExecute"}, {"key": CONTROL_PLANE, "effect": NO_SCHEDULE}]}}),
        );
        assert_eq!((role(&done, None), role(&done, Some(ControlPlane::Taint))), (json!({}), json!({})));
        let schedules =
            json!({"metadata": {"labels": {NO_BALANCERS: null}, "resourceVersion": "8"}, "spec": {"taints": [{"key": "mine", "effect": "NoExecute"}]}});
        assert_eq!(role(&done, Some(ControlPlane::Schedule)), schedules);
        let own = node(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {CONTROL_PLANE: "", NO_BALANCERS: "mine"}}, "spec": {}}));
        assert_eq!(role(&own, Some(ControlPlane::Schedule)), json!({}), "what was not given with the taint stays");
    }

    #[test]
    fn who_holds_up_a_drain_is_told_and_how_many_more() {
        let held = |names: &[&str]| Held(names.iter().map(|name| (format!("default/{name}"), "a budget".to_owned())).collect()).told();
        assert_eq!(held(&["b", "a"]), "pod default/a: a budget; pod default/b: a budget");
        assert!(held(&["a", "b", "c", "d", "e"]).ends_with("pod default/c: a budget; and 2 more pods"));
        assert!(!held(&[]).is_empty());
    }

    #[test]
    fn what_others_have_is_not_wished_for() {
        let plan: Plan =
            serde_json::from_str(r#"{"name": "m", "data": "/", "pods": "10.244.0.0", "services": "10.96.0.0", "port": 6443, "node": "h"}"#).unwrap();
        let all = [("other", "10.244.1.0/24"), ("wide", "10.244.4.0/23"), ("h-3", ""), ("odd", "somewhere")];
        let all = all.map(|(name, range)| {
            node(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": [range]}}))
        });
        let taken = Taken::by(&all);
        assert_eq!((2..9).filter(|number| taken.leaves(&plan, *number)).collect::<Vec<_>>(), [4, 7, 8]);
        assert!(!taken.leaves(&plan, 300), "there is no such range");
        let mut wishes = Vec::new();
        nodes::at_least(&mut wishes, 3, &plan.node, |number| taken.leaves(&plan, number)).unwrap();
        assert_eq!(wishes.iter().map(|wish| wish.number).collect::<Vec<_>>(), [4, 7]);
    }

    #[test]
    fn pods_of_daemon_sets_and_of_files_go_with_their_node() {
        let pod =
            |metadata: Value| -> Pod { client::typed(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}})).unwrap() };
        let owned =
            |kind: &str| pod(json!({"name": "p", "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true}]}));
        assert!(stays(&owned("DaemonSet")) && stays(&pod(json!({"name": "p", "annotations": {MIRROR: "x"}}))));
        assert!(!stays(&owned("ReplicaSet")) && !stays(&pod(json!({"name": "p"}))));
    }
}
