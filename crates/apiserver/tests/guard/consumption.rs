//! `metrics.k8s.io`: what kubelets measure, in metrics-server's words; and that a metrics-server takes the group and gives it back.

use crate::{
    extension::{API_SERVICES, Act, Extension, reply},
    kubelet::World,
    support::{Cluster, PATIENCE, admin, user},
};
use apiserver::Config;
use http::Method;
use identity::Trust;
use machinery::quantity::Quantity;
use serde_json::{Value, json};
use std::time::Instant;

const ROOT: &str = "/apis/metrics.k8s.io/v1beta1";
const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";

fn served() -> Config {
    Config { resource_metrics: true, ..Config::default() }
}

fn milli(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse::<Quantity>().ok()).expect("a quantity").milli_value()
}

#[tokio::test]
async fn what_is_used_is_measured_when_it_is_asked_for() {
    let world = World::with("consumption", served()).await;
    let cluster = &world.cluster;
    cluster.patch("/api/v1/nodes/n1", json!({"metadata": {"labels": {"zone": "a"}}})).await.expect(200);
    cluster.patch("/api/v1/namespaces/default/pods/p", json!({"metadata": {"labels": {"app": "x"}}})).await.expect(200);
    // The kubelet that is played uses half a core, its container a quarter.
    // Who asks first waits two seconds for two measures; a busy machine has none by then.
    let end = Instant::now() + PATIENCE;
    let node = loop {
        let told = cluster.get(&format!("{ROOT}/nodes/n1")).await;
        if told.code != 404 || Instant::now() > end {
            break told.expect(200);
        }
    };
    assert_eq!(
        (&node["kind"], &node["apiVersion"], &node["metadata"]["labels"]),
        (&json!("NodeMetrics"), &json!("metrics.k8s.io/v1beta1"), &json!({"zone": "a"}))
    );
    assert!((495..=505).contains(&milli(&node["usage"]["cpu"])), "{node:#}");
    assert_eq!(node["usage"]["memory"], "1536Mi");
    // It is asked twice, a second apart; the kubelet tells when it looked, later after either question where the machine has others to serve.
    let window = machinery::time::parse_go_duration(node["window"].as_str().unwrap_or_default());
    assert!(window.is_ok_and(|nanos| nanos >= 500_000_000), "two measures, about a second apart or more: {node:#}");
    assert!(node["timestamp"].is_string() && node["metadata"]["creationTimestamp"].is_string());

    let pod = cluster.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!((&pod["metadata"]["name"], &pod["metadata"]["namespace"], &pod["containers"][0]["name"]), (&json!("p"), &json!("default"), &json!("c")));
    assert!((245..=255).contains(&milli(&pod["containers"][0]["usage"]["cpu"])), "{pod:#}");
    assert_eq!(pod["containers"][0]["usage"]["memory"], "12Mi");

    let names = |list: Value| -> Vec<Value> { list["items"].as_array().expect("items").iter().map(|item| item["metadata"]["name"].clone()).collect() };
    let list = cluster.get(&format!("{ROOT}/pods")).await.expect(200);
    assert_eq!(
        (&list["kind"], &list["metadata"], &list["items"][0]["kind"]),
        (&json!("PodMetricsList"), &json!({}), &Value::Null),
        "items of a list have no kind"
    );
    assert_eq!(names(list), ["p"], "the pod that waits is not measured");
    for (query, found) in [
        ("labelSelector=app%3Dx", vec!["p"]),
        ("labelSelector=app%21%3Dx", vec![]),
        ("fieldSelector=metadata.name%3Dp", vec!["p"]),
        ("fieldSelector=metadata.name%3Dwaiting", vec![]),
    ] {
        assert_eq!(names(cluster.get(&format!("{PODS}?{query}")).await.expect(200)), found, "{query}");
    }
    assert_eq!(names(cluster.get(&format!("{ROOT}/nodes?labelSelector=zone%3Da")).await.expect(200)), ["n1"]);
    assert_eq!(names(cluster.get(&format!("{ROOT}/namespaces/kube-system/pods")).await.expect(200)), Vec::<Value>::new());
    let unknown = cluster.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn1")).await.refused(400);
    assert_eq!(unknown, r#""spec.nodeName" is not a known field selector: only "metadata.name", "metadata.namespace""#);

    for (path, words) in [
        ("namespaces/default/pods/waiting", r#"podmetrics.metrics.k8s.io "default/waiting" not found"#),
        ("namespaces/default/pods/none", r#"pods "none" not found"#),
        ("nodes/none", r#"node "none" not found"#),
    ] {
        assert_eq!(cluster.get(&format!("{ROOT}/{path}")).await.refused(404), words);
    }
    cluster.post("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "unknown"}})).await.expect(201);
    assert_eq!(cluster.get(&format!("{ROOT}/nodes/unknown")).await.refused(404), r#"nodemetrics.metrics.k8s.io "unknown" not found"#);

    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = cluster.call(&admin(), Method::GET, PODS, &accept, Value::Null).await.expect(200);
    let columns: Vec<&Value> = table["columnDefinitions"].as_array().expect("columns").iter().map(|column| &column["name"]).collect();
    assert_eq!(columns, ["Name", "cpu", "memory", "Window"]);
    let cells = &table["rows"][0]["cells"];
    assert_eq!((&cells[0], &cells[2]), (&json!("p"), &json!("12Mi")));
    assert!(cells[1].as_str().is_some_and(|cpu| cpu.ends_with(['n', 'u', 'm'])) && cells[3].as_str().is_some_and(|window| window.ends_with('s')), "{cells}");
}

#[tokio::test]
async fn the_group_is_one_like_others_to_who_discovers_and_authorises() {
    let cluster = Cluster::with(served(), Trust::default()).await;
    let list = cluster.get(ROOT).await.expect(200);
    let resource =
        |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    assert_eq!(list["resources"], json!([resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)]));
    let groups = cluster.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().is_some_and(|all| all.iter().any(|group| group["name"] == "metrics.k8s.io")));
    let document = cluster.get("/openapi/v3/apis/metrics.k8s.io/v1beta1").await.expect(200);
    assert!(document["components"]["schemas"]["io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics"]["properties"]["containers"].is_object(), "{document:#}");
    assert_eq!(cluster.post(&format!("{ROOT}/nodes"), json!({})).await.code, 405);
    let packed = cluster.call(&admin(), Method::GET, &format!("{ROOT}/nodes"), &[("accept", "application/vnd.kubernetes.protobuf")], Value::Null).await;
    assert_eq!(packed.code, 406, "it has no messages");

    let jane = user("jane", &[]);
    let refused = cluster.call(&jane, Method::GET, PODS, &[], Value::Null).await.refused(403);
    assert_eq!(
        refused,
        r#"pods.metrics.k8s.io is forbidden: User "jane" cannot list resource "pods" in API group "metrics.k8s.io" in the namespace "default""#
    );
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    });
    cluster.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await.expect(201);
    cluster.call(&jane, Method::GET, PODS, &[], Value::Null).await.expect(200);

    let without = Cluster::start().await;
    assert_eq!(without.get(&format!("{ROOT}/nodes")).await.code, 404);
    without.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/system:aggregated-metrics-reader").await.expect(404);
}

#[tokio::test]
async fn a_metrics_server_takes_the_group_and_gives_it_back() {
    let cluster = Cluster::with(served(), Trust::default()).await;
    let ours = |list: &Value| list["items"] == json!([]);
    assert!(ours(&cluster.get(&format!("{ROOT}/nodes")).await.expect(200)));
    // Nothing of ours stands in the way of who makes the object, as Helm does.
    cluster.get(&format!("{API_SERVICES}/v1beta1.metrics.k8s.io")).await.expect(404);
    let server = Extension::start(|seen| match seen.path() {
        ROOT => reply(&json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1", "resources": []})),
        "/apis" | "/openapi/v3" | "/openapi/v2" => Act::Reply(404, vec![], "404 page not found".into()),
        _ => reply(&json!({"kind": "NodeMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": [{"metadata": {"name": "theirs"}}]})),
    })
    .await;
    server.register(&cluster, "v1beta1", "metrics.k8s.io").await;
    assert_eq!(cluster.get(&format!("{ROOT}/nodes")).await.expect(200)["items"][0]["metadata"]["name"], "theirs");
    cluster.delete(&format!("{API_SERVICES}/v1beta1.metrics.k8s.io")).await.expect(200);
    assert!(ours(&cluster.get(&format!("{ROOT}/nodes")).await.expect(200)));
}
