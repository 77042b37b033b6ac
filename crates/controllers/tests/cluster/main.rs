//! The controllers against the real API server, in one process.

mod attach;
mod support;
mod volumes;

use client::Meta;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use support::Cluster;

const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]}})
}

fn deployment(replicas: u32, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(image)}})
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn condition<'v>(object: &'v Value, kind: &str) -> &'v Value {
    let all = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

fn done(d: &Value, replicas: u32) -> bool {
    let s = &d["status"];
    s["observedGeneration"] == d["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"].iter().all(|f| s[*f] == replicas)
        && condition(d, "Progressing")["reason"] == "NewReplicaSetAvailable"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_and_its_service_follows() {
    let c = Cluster::start().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    c.create("/api/v1/namespaces/default/services", service).await;
    c.create(DEPLOYMENTS, deployment(3, "v1")).await;
    let path = format!("{DEPLOYMENTS}/web");
    let first = c.until(&path, |d| done(d, 3)).await;
    assert_eq!(first["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    let of = |object: &Value| -> Vec<Value> {
        let all = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        all.iter().map(|entry| json!([entry["manager"], entry["subresource"]])).collect()
    };
    assert!(of(&first).contains(&json!(["kube-controller-manager", "status"])), "{:?}", of(&first));
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dweb";
    let ready = |l: &Value| -> usize {
        let endpoints = items(l).iter().flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default());
        endpoints.filter(|e| e["conditions"]["ready"] == true).count()
    };
    // The empty slice from before there were pods goes a moment later.
    let list = c.until(slices, |l| ready(l) == 3 && items(l).len() == 1).await;
    assert_eq!(items(&list)[0]["ports"][0]["port"], 8080);
    let endpoints = c.until("/api/v1/namespaces/default/endpoints/web", |e| e["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 3)).await;
    assert_eq!(endpoints["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"], "endpoint-controller");

    let mut pods = c.informers.informer::<Pod>().subscribe();
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    c.merge(&path, image).await;
    c.until(&path, |d| done(d, 3) && d["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2").await;
    let sets = c.get(SETS).await.unwrap_or_default();
    let mut sizes: Vec<_> =
        items(&sets).iter().map(|s| (s["metadata"]["annotations"]["deployment.kubernetes.io/revision"].clone(), s["spec"]["replicas"].clone())).collect();
    sizes.sort_by_key(|(r, _)| r.to_string());
    assert_eq!(sizes, [(json!("1"), json!(0)), (json!("2"), json!(3))]);
    c.until(slices, |l| ready(l) == 3 && items(l).iter().flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default()).count() == 3).await;
    c.until(PODS, |l| items(l).len() == 3).await;
    // Who is counted on is there at every moment: none may be unavailable.
    let (mut serving, mut begun) = (std::collections::BTreeSet::new(), false);
    while let Ok(change) = pods.try_recv() {
        let pod = change.object();
        let ready = pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
        let serves = ready && !pod.is_deleting() && !matches!(change, client::Delta::Deleted(_));
        if serves {
            serving.insert(pod.name().to_owned())
        } else {
            serving.remove(pod.name())
        };
        begun |= serving.len() >= 3;
        assert!(!begun || serving.len() >= 3, "too few serve: {serving:?}");
    }
    assert!(begun);
    let events = c.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.kind%3DDeployment").await.unwrap_or_default();
    let told: Vec<_> = items(&events).iter().map(|e| e["message"].as_str().unwrap_or_default()).collect();
    assert!(told.iter().any(|m| m.starts_with("Scaled up replica set web-") && m.ends_with(" from 0 to 3")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreate_never_runs_two_templates_at_once() {
    let c = Cluster::start().await;
    let mut d = deployment(3, "v1");
    d["spec"]["strategy"] = json!({"type": "Recreate"});
    c.create(DEPLOYMENTS, d).await;
    let path = format!("{DEPLOYMENTS}/web");
    c.until(&path, |d| done(d, 3)).await;
    let mut pods = c.informers.informer::<Pod>().subscribe();
    c.merge(&path, json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}})).await;
    c.until(&path, |d| done(d, 3) && d["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2").await;
    // The informer may be behind the API: until it has told of the new template's pods, nothing has been shown.
    let mut images = std::collections::BTreeMap::new();
    while images.values().filter(|i: &&Option<String>| i.as_deref() == Some("v2")).count() < 3 {
        let Some(change) = pods.recv().await else { panic!("the informers ended") };
        let pod = change.object();
        if matches!(change, client::Delta::Deleted(_)) {
            images.remove(pod.name());
        } else {
            images.insert(pod.name().to_owned(), pod.spec.as_ref().and_then(|s| s.containers[0].image.clone()));
        }
        let kinds: std::collections::BTreeSet<_> = images.values().collect();
        assert!(kinds.len() <= 1, "{images:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sets_adopt_release_and_replace() {
    let c = Cluster::start().await;
    let lone = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lone", "labels": {"app": "web"}}, "spec": template("v1")["spec"]});
    // The controllers hear of pods and of sets on two watches: a set that is known before the pod is would be given two of its own.
    let mut pods = c.informers.informer::<Pod>().subscribe();
    c.create(PODS, lone).await;
    while pods.recv().await.expect("the informers run").object().name() != "lone" {}
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "s"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("v1")}});
    let made = c.create(SETS, set).await;
    c.until(&format!("{SETS}/s"), |s| s["status"]["availableReplicas"] == 2).await;
    let adopted = c.get(&format!("{PODS}/lone")).await.unwrap_or_default();
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["uid"], made["metadata"]["uid"]);
    assert_eq!(items(&c.get(PODS).await.unwrap_or_default()).len(), 2, "the adopted one counts");
    c.merge(&format!("{PODS}/lone"), json!({"metadata": {"labels": {"app": "other"}}})).await;
    c.until(&format!("{PODS}/lone"), |p| p["metadata"]["ownerReferences"].is_null()).await;
    c.until(PODS, |l| items(l).len() == 3).await;
    c.merge(&format!("{SETS}/s"), json!({"spec": {"replicas": 0}})).await;
    c.until(PODS, |l| items(l).len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collector_deletes_waits_and_sets_free() {
    let c = Cluster::start().await;
    let map = |name: &str, owners: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": owners}});
    let owned = |by: &Value, blocks: bool| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": by["metadata"]["name"], "uid": by["metadata"]["uid"], "blockOwnerDeletion": blocks}]);
    let gone = |v: &Value| v.is_null();

    let top = c.create(MAPS, map("top", json!([]))).await;
    let mid = c.create(MAPS, map("mid", owned(&top, true))).await;
    c.create(MAPS, map("low", owned(&mid, true))).await;
    c.delete(&format!("{MAPS}/top"), "Background").await;
    c.until(&format!("{MAPS}/low"), gone).await;

    let top = c.create(MAPS, map("top", json!([]))).await;
    let mut held = map("held", owned(&top, true));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    c.create(MAPS, held).await;
    c.delete(&format!("{MAPS}/top"), "Foreground").await;
    c.until(&format!("{MAPS}/held"), |v| v["metadata"]["deletionTimestamp"].is_string()).await;
    assert!(c.get(&format!("{MAPS}/top")).await.is_some(), "it waits for what blocks it");
    c.merge(&format!("{MAPS}/held"), json!({"metadata": {"finalizers": null}})).await;
    c.until(&format!("{MAPS}/top"), gone).await;

    let top = c.create(MAPS, map("top", json!([]))).await;
    c.create(MAPS, map("child", owned(&top, true))).await;
    c.delete(&format!("{MAPS}/top"), "Orphan").await;
    c.until(&format!("{MAPS}/top"), gone).await;
    // What it watches of everything is shared with whoever has the objects whole.
    assert_eq!(c.informers.held_twice(), Vec::<String>::new());
    let child = c.until(&format!("{MAPS}/child"), |v| v["metadata"]["ownerReferences"].is_null()).await;
    assert!(child["metadata"]["deletionTimestamp"].is_null());

    let nobody = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "0"}]);
    c.create(MAPS, map("lost", nobody)).await;
    c.until(&format!("{MAPS}/lost"), gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_addresses_and_nodes_are_told_how_they_are() {
    let c = Cluster::start().await;
    let ranges = "/apis/networking.k8s.io/v1/servicecidrs";
    c.until(&format!("{ranges}/kubernetes"), |r| r["status"]["conditions"][0]["message"] == "Kubernetes Service CIDR is ready").await;
    let extra = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "extra"}, "spec": {"cidrs": ["172.31.0.0/24"]}});
    c.create(ranges, extra).await;
    let is_ready = |r: &Value| r["status"]["conditions"][0]["message"] == "Kubernetes Service CIDR is ready";
    c.until(&format!("{ranges}/extra"), |r| r["metadata"]["finalizers"] == json!(["networking.k8s.io/service-cidr-finalizer"]) && is_ready(r)).await;
    c.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "told"}})).await;
    c.until("/api/v1/nodes/told", |n| n["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] == "0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_gets_its_things_and_loses_everything() {
    let c = Cluster::start().await;
    c.create("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}})).await;
    c.until("/api/v1/namespaces/x/serviceaccounts/default", |a| !a.is_null()).await;
    let ca = c.until("/api/v1/namespaces/x/configmaps/kube-root-ca.crt", |m| !m.is_null()).await;
    assert_eq!(ca["data"]["ca.crt"], "the authority");
    let mut d = deployment(2, "v1");
    d["metadata"]["namespace"] = "x".into();
    c.create("/apis/apps/v1/namespaces/x/deployments", d).await;
    c.until("/apis/apps/v1/namespaces/x/deployments/web", |d| done(d, 2)).await;
    let held = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    c.create("/api/v1/namespaces/x/secrets", held).await;
    c.delete("/api/v1/namespaces/x", "Background").await;
    let left = c.until("/api/v1/namespaces/x", |ns| condition(ns, "NamespaceFinalizersRemaining")["status"] == "True").await;
    assert_eq!(condition(&left, "NamespaceContentRemaining")["message"], "Some resources are remaining: secrets. has 1 resource instances");
    c.merge("/api/v1/namespaces/x/secrets/held", json!({"metadata": {"finalizers": null}})).await;
    c.until("/api/v1/namespaces/x", Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_get_ranges_and_lose_their_taints() {
    let c = Cluster::start().await;
    let mut ranges = Vec::new();
    for name in ["a", "b"] {
        let node = c.until(&format!("/api/v1/nodes/{name}"), |n| n["spec"]["podCIDR"].is_string() && n["spec"]["taints"].is_null()).await;
        ranges.push(node["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned());
    }
    ranges.sort();
    assert_eq!(ranges, ["10.244.0.0/24", "10.244.1.0/24"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_nodes_are_unknown_and_their_pods_not_ready() {
    // Time enough for the pod to be ready before.
    let c = Cluster::with_grace(5).await;
    let lone = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lone"}, "spec": template("v1")["spec"]});
    c.create(PODS, lone).await;
    c.until(&format!("{PODS}/lone"), |p| condition(p, "Ready")["status"] == "True").await;
    let node = c.until("/api/v1/nodes/a", |n| condition(n, "Ready")["status"] == "Unknown").await;
    assert_eq!(condition(&node, "Ready")["message"], "Kubelet stopped posting node status.");
    c.until(&format!("{PODS}/lone"), |p| condition(p, "Ready")["status"] == "False").await;
    // No node is ready, so it may be this side that is cut off: nobody is evicted.
    let only = json!(["node.kubernetes.io/unreachable:NoSchedule"]);
    c.until("/api/v1/nodes/b", |n| {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let told = n["spec"]["taints"].as_array().cloned().unwrap_or_default();
        json!(told.iter().map(|t| format!("{}:{}", text(&t["key"]), text(&t["effect"]))).collect::<Vec<_>>()) == only
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_count_their_pods_and_sets_roll() {
    let c = Cluster::start().await;
    let ends =
        |how: &str| json!({"metadata": {"annotations": {"test/ends": how}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}});
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    c.create(jobs, json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "good"}, "spec": {"completions": 5, "parallelism": 2, "ttlSecondsAfterFinished": 1, "template": ends("Succeeded")}})).await;
    c.create(jobs, json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "bad"}, "spec": {"backoffLimit": 0, "template": ends("Failed")}}))
        .await;
    let good = c.until(&format!("{jobs}/good"), |j| condition(j, "Complete")["status"] == "True").await;
    assert_eq!(good["status"]["succeeded"], 5);
    let bad = c.until(&format!("{jobs}/bad"), |j| condition(j, "Failed")["status"] == "True").await;
    assert_eq!((&bad["status"]["failed"], &condition(&bad, "Failed")["reason"]), (&json!(1), &json!("BackoffLimitExceeded")));
    c.until(&format!("{jobs}/good"), Value::is_null).await;

    let sets = "/apis/apps/v1/namespaces/default/statefulsets";
    c.create(
        sets,
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"},
        "spec": {"replicas": 3, "serviceName": "s", "selector": {"matchLabels": {"app": "web"}}, "template": template("v1")}}),
    )
    .await;
    let up = |s: &Value| s["status"]["availableReplicas"] == 3 && s["status"]["currentRevision"] == s["status"]["updateRevision"];
    let first = c.until(&format!("{sets}/s"), up).await;
    c.merge(&format!("{sets}/s"), json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}})).await;
    let second = c.until(&format!("{sets}/s"), |s| up(s) && s["status"]["currentRevision"] != first["status"]["currentRevision"]).await;
    let pod = c.get(&format!("{PODS}/s-0")).await.unwrap_or_default();
    assert_eq!(
        (&pod["spec"]["containers"][0]["image"], &pod["metadata"]["labels"]["controller-revision-hash"]),
        (&json!("v2"), &second["status"]["currentRevision"])
    );

    let daemons = "/apis/apps/v1/namespaces/default/daemonsets";
    let one = json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    c.create(
        daemons,
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": one}}),
    )
    .await;
    c.until(&format!("{daemons}/d"), |d| d["status"]["numberAvailable"] == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_get_back_what_goes() {
    let c = Cluster::start().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    c.create(quotas, json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "3", "requests.cpu": "1", "count/configmaps": "5"}}})).await;
    let used = |q: &Value, what: &str| q["status"]["used"][what].as_str().unwrap_or_default().to_owned();
    c.until(&format!("{quotas}/q"), |q| used(q, "pods") == "0").await;
    let mut spec = template("v1")["spec"].clone();
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "250m"}});
    for name in ["a", "b"] {
        c.create(PODS, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})).await;
    }
    c.create(MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}})).await;
    c.until(&format!("{quotas}/q"), |q| used(q, "requests.cpu") == "500m" && used(q, "count/configmaps") == "2").await;
    c.delete(&format!("{PODS}/a"), "Background").await;
    c.delete(&format!("{MAPS}/m"), "Background").await;
    let left = c.until(&format!("{quotas}/q"), |q| used(q, "pods") == "1" && used(q, "count/configmaps") == "1").await;
    assert_eq!(used(&left, "requests.cpu"), "250m");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_with_scopes_count_what_they_select() {
    let c = Cluster::start().await;
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000});
    c.create("/apis/scheduling.k8s.io/v1/priorityclasses", class).await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let classes = |operator: &str| json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]});
    let (few, cpu) = (json!({"pods": "5"}), json!({"pods": "5", "requests.cpu": "2"}));
    for (name, spec) in [
        ("idle", json!({"hard": few, "scopes": ["BestEffort"]})),
        ("brief", json!({"hard": cpu, "scopes": ["Terminating"]})),
        ("lasting", json!({"hard": cpu, "scopes": ["NotTerminating", "NotBestEffort"]})),
        ("high", json!({"hard": cpu, "scopeSelector": classes("In")})),
        ("low", json!({"hard": few, "scopeSelector": classes("NotIn")})),
    ] {
        c.create(quotas, json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec})).await;
        c.until(&format!("{quotas}/{name}"), |q| q["status"]["used"]["pods"] == "0").await;
    }
    let pod = |name: &str, cpu: Value, spec: Value| {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": cpu}});
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        pod["spec"]["containers"] = json!([container]);
        pod
    };
    c.create(PODS, pod("idle", json!({}), json!({}))).await;
    c.create(PODS, pod("brief", json!({"cpu": "100m"}), json!({"activeDeadlineSeconds": 1000}))).await;
    c.create(PODS, pod("high", json!({"cpu": "500m"}), json!({"priorityClassName": "high"}))).await;
    c.create(PODS, pod("both", json!({"cpu": "200m"}), json!({"priorityClassName": "high", "activeDeadlineSeconds": 1000}))).await;
    let used = |q: &Value, pods: &str, cpu: &Value| q["status"]["used"]["pods"] == pods && q["status"]["used"]["requests.cpu"] == *cpu;
    for (name, pods, cpu) in
        [("idle", "1", Value::Null), ("brief", "2", json!("300m")), ("lasting", "1", json!("500m")), ("high", "2", json!("700m")), ("low", "2", Value::Null)]
    {
        c.until(&format!("{quotas}/{name}"), |q| used(q, pods, &cpu)).await;
    }
    // What is charged by admission is counted anew when something goes.
    c.delete(&format!("{PODS}/both"), "Background").await;
    for (name, pods, cpu) in [("brief", "1", json!("100m")), ("high", "1", json!("500m")), ("lasting", "1", json!("500m")), ("low", "2", Value::Null)] {
        c.until(&format!("{quotas}/{name}"), |q| used(q, pods, &cpu)).await;
    }
}

/// A rolling update loses no request because of this: a pod that begins to end is told as such a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_follow_their_pods_at_once() {
    let c = Cluster::start().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    c.create("/api/v1/namespaces/default/services", service).await;
    c.create(DEPLOYMENTS, deployment(1, "v1")).await;
    c.until(&format!("{DEPLOYMENTS}/web"), |d| done(d, 1)).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let pods = c.until(PODS, |l| items(l).len() == 1 && items(l)[0]["metadata"]["deletionTimestamp"].is_null()).await;
        let name = items(&pods)[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let ready = |slice: &EndpointSlice| {
            let mut all = slice.endpoints.iter().flatten();
            all.any(|e| e.target_ref.as_ref().and_then(|t| t.name.as_deref()) == Some(&name) && e.conditions.as_ref().and_then(|c| c.ready) == Some(true))
        };
        let mut slices = c.informers.informer::<EndpointSlice>().subscribe();
        let mut follow = async |wanted: bool| {
            while let Some(change) = slices.recv().await {
                if change.object().label("kubernetes.io/service-name") == Some("web") && ready(change.object()) == wanted {
                    break;
                }
            }
        };
        follow(true).await;
        let begun = std::time::Instant::now();
        c.delete(&format!("{PODS}/{name}"), "Background").await;
        follow(false).await;
        times.push(begun.elapsed());
    }
    times.sort();
    println!("from the deletion to the slice: half within {:?}, all within {:?}", times[10], times[19]);
    // A few milliseconds; what waits for a timer takes longer than this.
    assert!(times[10].as_secs() < 5, "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_stays_while_it_is_used() {
    let c = Cluster::start().await;
    let class =
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": "fast"}, "driverName": "d", "parameters": {"a": "b"}});
    c.create("/apis/storage.k8s.io/v1/volumeattributesclasses", class).await;
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeAttributesClassName": "fast"}});
    c.create("/api/v1/namespaces/default/persistentvolumeclaims", claim).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"}, "spec": {"nodeName": "a",
        "containers": [{"name": "c", "image": "v1"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    c.create(PODS, pod).await;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "free"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/v"}}});
    c.create("/api/v1/persistentvolumes", volume).await;
    let (claim, class) = ("/api/v1/namespaces/default/persistentvolumeclaims/data", "/apis/storage.k8s.io/v1/volumeattributesclasses/fast");
    c.delete("/api/v1/persistentvolumes/free", "Background").await;
    c.until("/api/v1/persistentvolumes/free", Value::is_null).await;
    c.delete(claim, "Background").await;
    c.delete(class, "Background").await;
    // Both hear of the pod's end; until then they are there, marked.
    for path in [claim, class] {
        assert!(c.get(path).await.is_some_and(|o| o["metadata"]["deletionTimestamp"].is_string()), "{path}");
    }
    c.delete(&format!("{PODS}/user"), "Background").await;
    for path in [claim, class] {
        c.until(path, Value::is_null).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_follow_the_policy_of_their_set_and_are_made_anew() {
    let c = Cluster::start().await;
    let (stateful, claims) = ("/apis/apps/v1/namespaces/default/statefulsets", "/api/v1/namespaces/default/persistentvolumeclaims");
    let data = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"}, "spec": {"replicas": 2, "serviceName": "s",
        "selector": {"matchLabels": {"app": "web"}}, "template": template("v1"), "volumeClaimTemplates": [data],
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"}}});
    c.create(stateful, set).await;
    let path = format!("{stateful}/s");
    c.until(&path, |s| s["status"]["readyReplicas"] == 2).await;
    let owner = |claim: &Value| claim["metadata"]["ownerReferences"][0]["kind"].as_str().unwrap_or_default().to_owned();
    c.until(claims, |l| items(l).len() == 2 && items(l).iter().all(|p| owner(p) == "StatefulSet")).await;
    // Taken back, so that the set's deletion leaves the data.
    c.merge(&path, json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"}}})).await;
    c.until(claims, |l| items(l).iter().all(|p| owner(p).is_empty())).await;
    // A replica too many takes its claim with it, and no other's.
    c.merge(&path, json!({"spec": {"replicas": 1}})).await;
    let left = c.until(claims, |l| items(l).len() == 1).await;
    assert_eq!(items(&left)[0]["metadata"]["name"], "data-s-0");
    // A replica is wiped: its claim goes, then its pod; it comes back with a claim of its own, not with the one that goes.
    let old = items(&left)[0]["metadata"]["uid"].clone();
    c.delete(&format!("{claims}/data-s-0"), "Background").await;
    c.delete(&format!("{PODS}/s-0"), "Background").await;
    c.until(claims, |l| items(l).len() == 1 && items(l)[0]["metadata"]["uid"] != old).await;
    c.until(&format!("{PODS}/s-0"), |p| p["status"]["phase"] == "Running" && p["metadata"]["deletionTimestamp"].is_null()).await;
    c.delete(&path, "Background").await;
    c.until(PODS, |l| items(l).is_empty()).await;
    let kept = c.get(claims).await.unwrap_or_default();
    assert!(items(&kept).iter().all(|p| p["metadata"]["deletionTimestamp"].is_null()) && items(&kept).len() == 1, "{kept}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_told_what_the_types_say() {
    let c = Cluster::start().await;
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let policy = |name: &str, expression: &str| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": {
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConstraints": {"resourceRules": [{"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments", "statefulsets/scale"]}]},
            "validations": [{"expression": expression}],
        }})
    };
    let right = "object.spec.replicas > 1 && object.spec.template.spec.containers.all(c, c.name != params.data.name) && object.metadata.name != ''";
    c.create(policies, policy("right", right)).await;
    c.create(policies, policy("wrong", "object.spec.replicas > params.data.max")).await;
    let checked = |p: &Value| p["status"]["observedGeneration"] == 1;
    let right = c.until(&format!("{policies}/right"), checked).await;
    assert_eq!(right["status"]["typeChecking"], json!({}));
    let wrong = c.until(&format!("{policies}/wrong"), checked).await;
    let warning = &wrong["status"]["typeChecking"]["expressionWarnings"][0];
    assert_eq!(warning["fieldRef"], "spec.validations[0].expression");
    let told = warning["warning"].as_str().unwrap();
    assert!(told.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n"), "{told}");
    c.merge(&format!("{policies}/wrong"), json!({"spec": {"validations": [{"expression": "object.spec.replicas > int(params.data.max)"}]}})).await;
    let mended = c.until(&format!("{policies}/wrong"), |p| p["status"]["observedGeneration"] == 2).await;
    assert!(mended["status"]["typeChecking"]["expressionWarnings"].is_null(), "{mended:#}");
}

const MIGRATIONS: &str = "/apis/storagemigration.k8s.io/v1/storageversionmigrations";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// A migration of widgets.
fn migration(name: &str) -> Value {
    let resource = json!({"group": "example.com", "resource": "widgets"});
    json!({"apiVersion": "storagemigration.k8s.io/v1", "kind": "StorageVersionMigration", "metadata": {"name": name}, "spec": {"resource": resource}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_written_in_the_version_that_is_stored_today() {
    let c = Cluster::start().await;
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";
    let version = |name: &str, storage: bool| {
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        json!({"name": name, "served": true, "storage": storage, "schema": schema})
    };
    let spec = json!({"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [version("v1", true), version("v2", false)]});
    let made = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"}, "spec": spec});
    c.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", made).await;
    c.until(definition, |d| condition(d, "Established")["status"] == "True").await;
    for name in ["a", "b"] {
        c.create(WIDGETS, json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 1}})).await;
    }
    c.merge(definition, json!({"spec": {"versions": [version("v1", false), version("v2", true)]}})).await;
    let both = c.until(definition, |d| d["status"]["storedVersions"] == json!(["v1", "v2"])).await;
    let stored = |name: &str| {
        let entry = c.stored(&format!("/registry/example.com/widgets/default/{name}"));
        entry["apiVersion"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!((stored("a"), stored("b")), ("example.com/v1".to_owned(), "example.com/v1".to_owned()));

    // One at a time: the second runs when the first is over, and finds nothing to do.
    c.create(MIGRATIONS, migration("first")).await;
    c.create(MIGRATIONS, migration("second")).await;
    for name in ["first", "second"] {
        let over = |m: &Value| condition(m, "Succeeded")["status"] == "True" && condition(m, "Running")["status"] == "False";
        let migration = c.until(&format!("{MIGRATIONS}/{name}"), over).await;
        assert_eq!(condition(&migration, "Succeeded")["message"], "Migration completed");
        assert!(migration["status"]["resourceVersion"].as_str().is_some_and(|noted| !noted.is_empty()));
    }
    assert_eq!((stored("a"), stored("b")), ("example.com/v2".to_owned(), "example.com/v2".to_owned()));
    let told = c.until(definition, |d| condition(d, "StorageMigrating")["status"] == "False").await;
    let message = "The migration has succeeded and the stored versions have been updated";
    assert_eq!((&condition(&told, "StorageMigrating")["message"], &told["status"]["storedVersions"]), (&json!(message), &json!(["v2"])));
    assert_eq!(told["metadata"]["generation"], both["metadata"]["generation"], "only its status was written");
    let widget = c.get(&format!("{WIDGETS}/a")).await.unwrap_or_default();
    assert_eq!((&widget["spec"]["size"], &widget["metadata"]["generation"]), (&json!(1), &json!(1)));

    // A former version may go now; a migration of which every object lies in its version already keeps the list.
    c.merge(definition, json!({"spec": {"versions": [version("v2", true)]}})).await;
    c.create(MIGRATIONS, migration("third")).await;
    let third = c.until(&format!("{MIGRATIONS}/third"), |m| condition(m, "Running")["status"] == "False").await;
    assert_eq!(condition(&third, "Succeeded")["status"], "True");
    let last = c.get(definition).await.unwrap_or_default();
    assert_eq!(last["status"]["storedVersions"], json!(["v2"]));

    c.create(MIGRATIONS, {
        let mut built_in = migration("maps");
        built_in["spec"]["resource"] = json!({"resource": "configmaps"});
        built_in
    })
    .await;
    let maps = c.until(&format!("{MIGRATIONS}/maps"), |m| condition(m, "Running")["status"] == "False").await;
    assert_eq!(condition(&maps, "Succeeded")["status"], "True");
}
