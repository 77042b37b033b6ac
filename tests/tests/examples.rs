//! `examples/daemonset.yaml` and `examples/cronjob.yaml`.

use client::{Event, ListParams};
use cluster_tests::{Cluster, example, http};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use std::time::Duration;

/// To the next minute, and the work.
const MINUTE: Duration = Duration::from_secs(120);

/// The name and the UID of the node's agent.
fn agent(cluster: &Cluster) -> (String, String) {
    let list = cluster.json("-n everywhere get pods");
    let pods = list["items"].as_array().expect("pods");
    assert_eq!(pods.len(), 1, "{list:#}");
    let text = |key: &str| pods[0]["metadata"][key].as_str().expect("text").to_owned();
    (text("name"), text("uid"))
}

#[test]
fn a_pod_is_on_every_node_and_work_is_done_every_minute() {
    let cluster = Cluster::up("more", &[example("daemonset.yaml"), example("cronjob.yaml")]);
    let service = cluster.value("-n everywhere get service agent", "{.spec.clusterIP}:{.spec.ports[0].port}");
    let who = || http::answered(&service, "/whoami").body.trim().to_owned();
    let (name, old) = agent(&cluster);
    assert_eq!(who(), format!("v1 {name}"));

    // Nobody else comes to a node like this one.
    cluster.kubectl("taint nodes --all kept=free:NoSchedule");
    cluster.kubectl("cordon -l kubernetes.io/os=linux");
    cluster.kubectl(&format!("-n everywhere delete pod {name} --timeout=50s"));
    let pods = cluster.client().namespaced::<Pod>("everywhere");
    cluster.until(&pods, &ListParams::default(), "another agent", |event| {
        let (Event::Added(pod) | Event::Modified(pod)) = event else { return false };
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        pod.metadata.uid.as_ref() != Some(&old) && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    });
    cluster.kubectl("uncordon -l kubernetes.io/os=linux");
    cluster.kubectl("taint nodes --all kept-");
    cluster.kubectl("-n everywhere set image daemonset/agent agent=knarr.local/shop:v2");
    cluster.kubectl("-n everywhere rollout status daemonset/agent --timeout=50s");
    assert!(who().starts_with("v2 agent-"), "{}", who());

    cluster.kubectl("-n chores create job --from=cronjob/minute now");
    cluster.kubectl("-n chores wait --for=condition=Complete job/now --timeout=50s");
    let jobs = cluster.client().namespaced::<Job>("chores");
    cluster.until_within(MINUTE, &jobs, &ListParams::default(), "the work of a minute", |event| {
        let (Event::Added(job) | Event::Modified(job)) = event else { return false };
        let of_a_minute = job.metadata.name.as_deref().is_some_and(|name| name.starts_with("minute-"));
        of_a_minute && job.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Complete" && c.status == "True")
    });
    let minute = cluster.json("-n chores get cronjob minute");
    assert!(minute["status"]["lastScheduleTime"].as_str().is_some_and(|time| time.ends_with(":00Z")), "{minute:#}");
}
