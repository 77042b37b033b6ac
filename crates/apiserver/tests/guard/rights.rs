//! Who may do what by another way than its own verb, and as whom.

use crate::support::{Cluster, Reply, admin, node, pod, user};
use apiserver::PeerCertificate;
use http::{Method, Request};
use http_body_util::BodyExt;
use identity::pki::{Ca, Subject, Usage};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// Gives a user rights in the namespace `default`.
async fn grant(cluster: &Cluster, name: &str, groups: Value, resources: Value, verbs: Value) {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name},
        "rules": [{"apiGroups": groups, "resources": resources, "verbs": verbs}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}, "subjects": [{"kind": "User", "name": name}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", role).await.expect(201);
    cluster.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await.expect(201);
}

async fn apply(cluster: &Cluster, who: &str, name: &str) -> Reply {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"by": who}});
    let uri = format!("/api/v1/namespaces/default/configmaps/{name}?fieldManager={who}&force=true");
    cluster.call(&user(who, &[]), Method::PATCH, &uri, &[("content-type", "application/apply-patch+yaml")], map).await
}

#[tokio::test]
async fn what_an_apply_or_an_update_would_make_needs_the_right_to_create() {
    let cluster = Cluster::start().await;
    grant(&cluster, "patcher", json!([""]), json!(["configmaps"]), json!(["patch"])).await;
    grant(&cluster, "maker", json!([""]), json!(["configmaps"]), json!(["patch", "create"])).await;
    let refused = "configmaps \"a\" is forbidden: User \"patcher\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    assert_eq!(apply(&cluster, "patcher", "a").await.refused(403), refused);
    // What is wrong with it comes before.
    apply(&cluster, "patcher", "N_n").await.refused(422);
    cluster.get("/api/v1/namespaces/default/configmaps/a").await.expect(404);
    apply(&cluster, "maker", "a").await.expect(201);
    assert_eq!(apply(&cluster, "patcher", "a").await.expect(200)["data"]["by"], "patcher");

    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}});
    grant(&cluster, "updater", json!(["coordination.k8s.io"]), json!(["leases"]), json!(["update"])).await;
    let put = async |who: &str| cluster.call(&user(who, &[]), Method::PUT, &format!("{leases}/l"), &[], lease.clone()).await;
    put("updater").await.expect(403);
    grant(&cluster, "leaser", json!(["coordination.k8s.io"]), json!(["leases"]), json!(["update", "create"])).await;
    let made = put("leaser").await.expect(201);
    // What is there is changed by the right to change it.
    cluster.call(&user("updater", &[]), Method::PUT, &format!("{leases}/l"), &[], made).await.expect(200);
}

#[tokio::test]
async fn a_node_evicts_its_own_pods_alone_and_takes_nothing_before_that_is_known() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    for (name, node) in [("mine", "n1"), ("other", "n2")] {
        let mut pod = pod(name);
        pod["metadata"]["labels"] = json!({"app": "web"});
        pod["spec"]["nodeName"] = node.into();
        cluster.post(pods, pod).await.expect(201);
        let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        cluster.patch(&format!("{pods}/{name}/status"), status).await.expect(200);
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.post(budgets, budget).await.expect(201);
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    cluster.patch(&format!("{budgets}/b/status"), status).await.expect(200);
    let evict = async |who: &str, name: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        let who = if who == "admin" { admin() } else { node(who) };
        cluster.post_as(&who, &format!("{pods}/{name}/eviction"), eviction).await
    };
    let why = evict("n1", "other").await.refused(403);
    assert!(why.ends_with("node n1 can only evict pods with spec.nodeName set to itself"), "{why}");
    assert_eq!(cluster.get(&format!("{budgets}/b")).await.expect(200)["status"]["disruptionsAllowed"], 1);
    let other = cluster.get(&format!("{pods}/other")).await.expect(200);
    assert!(other["status"]["conditions"].as_array().expect("conditions").iter().all(|c| c["type"] != "DisruptionTarget"));
    evict("n1", "mine").await.expect(201);
    let budget = cluster.get(&format!("{budgets}/b")).await.expect(200);
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["mine"].is_string());
    let allowed = &budget["status"]["conditions"][0];
    assert_eq!((&allowed["type"], &allowed["status"], &allowed["reason"]), (&json!("DisruptionAllowed"), &json!("False"), &json!("InsufficientPods")));
    let why = evict("admin", "other").await.refused(429);
    assert_eq!(why, "Cannot evict pod as it would violate the pod's disruption budget.");
}

#[tokio::test]
async fn a_certificate_that_has_ended_or_that_no_authority_vouches_for_is_nobody_s() {
    let directory = std::env::temp_dir().join(format!("apiserver-ended-{}", std::process::id()));
    let ca = Ca::load_or_create(&directory).expect("an authority");
    let other = Ca::load_or_create(&directory.join("other")).expect("another authority");
    let trust = identity::Trust { client_ca_pem: ca.cert_pem().to_owned(), ..Default::default() };
    let cluster = Cluster::with(apiserver::Config::default(), trust).await;
    let subject = Subject { common_name: "eve".into(), organizations: vec!["system:masters".into()], names: Vec::new(), ips: Vec::new(), usage: Usage::Client };
    let long_ago = SystemTime::now() - Duration::from_secs(20 * 365 * 24 * 3600);
    let ask_as = async |ca: &Ca, made: SystemTime, token: &str| {
        let der = ca.issue(&subject, made).expect("a certificate").cert().expect("DER");
        let mut request = Request::get("/api/v1/namespaces").extension(PeerCertificate::new(der));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = cluster.api.handle(request.body(apiserver::empty()).expect("a request")).await;
        let code = answer.status().as_u16();
        (code, String::from_utf8_lossy(&answer.into_body().collect().await.expect("a body").to_bytes()).into_owned())
    };
    let ask = async |made: SystemTime, token: &str| ask_as(&ca, made, token).await;
    assert_eq!(ask(SystemTime::now(), "").await.0, 200);
    assert_eq!(ask_as(&other, SystemTime::now(), "").await.0, 401, "whatever the name in it");
    assert_eq!(ask(long_ago, "").await.0, 401, "nor is it anonymous");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = cluster.post("/api/v1/namespaces/default/serviceaccounts/default/token", request).await.expect(201);
    let (code, body) = ask(long_ago, made["status"]["token"].as_str().expect("a token")).await;
    assert!(code == 403 && body.contains("system:serviceaccount:default:default"), "{code} {body}");
    let _ = std::fs::remove_dir_all(&directory);
}

#[tokio::test]
async fn a_grace_period_of_any_length_is_one() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let delete = async |name: &str, grace: i64| {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace});
        cluster.call(&admin(), Method::DELETE, &format!("{pods}/{name}"), &[], options).await.expect(200)
    };
    for (name, grace) in [("longest", i64::MAX), ("long", i64::MAX / 1_000_000_000), ("odd", 18_446_744_074)] {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = "n".into();
        cluster.post(pods, pod).await.expect(201);
        let going = delete(name, grace).await;
        assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], grace);
        assert!(going["metadata"]["deletionTimestamp"].is_string());
        assert_eq!(delete(name, 30).await["metadata"]["deletionGracePeriodSeconds"], 30);
    }
}

#[tokio::test]
async fn a_watch_with_always_something_to_tell_ends_in_time() {
    let cluster = Cluster::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let request = Request::get(format!("{maps}?watch=true&timeoutSeconds=3")).extension(std::sync::Arc::new(admin()));
    let mut events = cluster.api.handle(request.body(apiserver::empty()).expect("a request")).await.into_body();
    let write = async {
        for n in 0_u64.. {
            cluster
                .call(&admin(), Method::POST, maps, &[], json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{n}")}}))
                .await
                .expect(201);
        }
    };
    let read = async {
        let mut count = 0;
        while let Some(frame) = events.frame().await {
            frame.expect("no error");
            count += 1;
        }
        count
    };
    let count = tokio::select! {
        count = tokio::time::timeout(Duration::from_secs(60), read) => count.expect("the watch ends"),
        () = write => 0,
    };
    assert!(count > 0);
}
