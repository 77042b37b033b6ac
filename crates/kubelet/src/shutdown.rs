//! The end of all pods of a node whose cluster ends: as if each were deleted, with its hook, its turn and its grace period, but
//! their objects stay, and whoever starts the cluster again starts them again.
//!
//! The kubelet itself has ended before, or it would start what is stopped here; the API, DNS and the proxy have not, so that
//! hooks find them. (Upstream's graceful node shutdown likewise stops pods by their own grace periods, and marks them as
//! failed, which is for a node that does not come back with them.)

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cri::{Container, PodUid, SandboxId, SharedRuntime};
use crate::pod::kill::{Hands, Kill, Turns, kill};
use crate::pod::plan::find_spec;
use crate::pod::remains;
use crate::pod::worker::grace_of;
use crate::real::RealRuntime;

/// Ends the containers of all pods of a runtime; returns when none runs any more. `ips` knows the pods' addresses, for hooks.
pub async fn end_pods(runtime: runtime::Runtime, ips: impl Fn(&str) -> Vec<IpAddr>) {
    end_all(Arc::new(RealRuntime::new(runtime)), |sandbox| ips(&sandbox.0)).await;
}

/// The same on any runtime.
async fn end_all(runtime: SharedRuntime, ips: impl Fn(&SandboxId) -> Vec<IpAddr>) {
    let mut pods: BTreeMap<PodUid, (Pod, Vec<Container>)> = BTreeMap::new();
    let mut running: Vec<Container> = runtime.containers().into_iter().filter(Container::running).collect();
    running.sort_by_key(|c| c.created);
    for c in running {
        let Some(uid) = c.pod_uid() else { continue };
        let (pod, containers) = pods.entry(uid.clone()).or_insert_with(|| (remains::pod(&uid, &c.labels), Vec::new()));
        remains::add(pod, &c);
        containers.push(c);
    }
    let mut ends = JoinSet::new();
    for (pod, containers) in pods.into_values() {
        let addresses = containers.first().map(|c| ips(&c.sandbox)).unwrap_or_default();
        ends.spawn(end(Arc::clone(&runtime), Arc::new(pod), containers, addresses));
    }
    while ends.join_next().await.is_some() {}
}

async fn end(runtime: SharedRuntime, pod: Arc<Pod>, containers: Vec<Container>, ips: Vec<IpAddr>) {
    let mut running: HashSet<String> = containers.iter().map(|c| c.name.clone()).collect();
    let turns = Turns::new(&pod, running.clone());
    // Never moved, and held until all have ended.
    let (_deadline, deadline) = watch::channel(Instant::now() + grace_of(&pod));
    let mut kills = JoinSet::new();
    for c in containers {
        let Some((kind, spec)) = find_spec(&pod, &c.name) else { continue };
        let hands = Hands { runtime: Arc::clone(&runtime), api: None };
        let one = Kill {
            pod: Arc::clone(&pod),
            kind,
            spec: Some(spec),
            id: c.id,
            name: c.name.clone(),
            ips: ips.clone(),
            message: String::new(),
            deadline: deadline.clone(),
            turns: Some(turns.clone()),
        };
        kills.spawn(async move {
            if let Err(error) = kill(hands, one).await {
                tracing::warn!(container = c.name, error, "a container could not be stopped");
            }
            c.name
        });
    }
    while let Some(done) = kills.join_next().await {
        if let Ok(name) = done {
            running.remove(&name);
            turns.update(running.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::{ContainerRuntime, ContainerSpec, annotation, label};
    use crate::testing::{FakeRuntime, clock};

    async fn run(runtime: &FakeRuntime, name: &str, kind: &str, hook: &str) {
        let text = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
        let spec = ContainerSpec {
            name: name.into(),
            labels: text(&[(label::POD_UID, "u"), (label::POD_NAME, "p"), (label::POD_GRACE, "40"), (label::CONTAINER_TYPE, kind)]),
            annotations: text(&[(annotation::PRE_STOP, hook)]),
            ..ContainerSpec::default()
        };
        let id = runtime.create_container(&SandboxId("s".into()), spec).await.unwrap();
        runtime.start_container(&id).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_pod_has_its_hook_its_turn_and_its_time() {
        let runtime = Arc::new(FakeRuntime::new(clock()));
        run(&runtime, "side", "init", "null").await;
        run(&runtime, "main", "regular", r#"{"exec": {"command": ["drain"]}}"#).await;
        run(&runtime, "slow", "regular", r#"{"sleep": {"seconds": 5}}"#).await;
        end_all(runtime.clone(), |_| Vec::new()).await;
        let calls: Vec<String> = runtime.calls().into_iter().filter(|c| !c.starts_with("start")).collect();
        assert_eq!(calls, ["exec drain", "stop main 39s", "stop slow 34s", "stop side 34s"]);
    }
}
