use crate::support::{Cluster, admin, user};
use apiserver::Config;
use serde_json::{Value, json};

/// Plural names by kind, of the kinds that the API server makes objects of.
const RESOURCES: [(&str, &str); 9] = [
    ("Namespace", "namespaces"),
    ("ClusterRole", "clusterroles"),
    ("ClusterRoleBinding", "clusterrolebindings"),
    ("Role", "roles"),
    ("RoleBinding", "rolebindings"),
    ("PriorityClass", "priorityclasses"),
    ("FlowSchema", "flowschemas"),
    ("PriorityLevelConfiguration", "prioritylevelconfigurations"),
    ("APIService", "apiservices"),
];
const ROLES: (&str, &str, &str) = ("rbac.authorization.k8s.io", "v1", "clusterroles");
const BINDINGS: (&str, &str, &str) = ("rbac.authorization.k8s.io", "v1", "clusterrolebindings");

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value["metadata"][key].as_str().unwrap_or_default()
}

/// Whether an object says all that another says.
fn says(have: &Value, want: &Value) -> bool {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => want.iter().all(|(k, w)| have.get(k).is_some_and(|h| says(h, w))),
        (Value::Array(have), Value::Array(want)) => have.len() == want.len() && have.iter().zip(want).all(|(h, w)| says(h, w)),
        (have, want) => have == want,
    }
}

#[tokio::test]
async fn what_the_original_makes_is_made_as_it_makes_it() {
    let cluster = Cluster::start().await;
    let mut compared = 0;
    for mut object in machinery::resources::bootstrap_objects() {
        // What a role is the sum of, its controller fills in.
        if object["aggregationRule"].is_object() {
            object["rules"] = Value::Null;
        }
        let kind = object["kind"].as_str().unwrap_or_default();
        let Some((_, resource)) = RESOURCES.iter().find(|(k, _)| *k == kind) else { continue };
        let is_rbac = object["apiVersion"] == "rbac.authorization.k8s.io/v1";
        if is_rbac && object["metadata"]["labels"]["kubernetes.io/bootstrapping"] != "rbac-defaults" {
            continue;
        }
        let (group, version) = object["apiVersion"].as_str().unwrap_or_default().split_once('/').unwrap_or(("", "v1"));
        let made = cluster.api.read(&(group, version, *resource), text(&object, "namespace"), text(&object, "name"));
        let made = made.unwrap_or_else(|e| panic!("{kind} {}: {e}", text(&object, "name")));
        assert!(says(&made, &object), "{kind} {}:\n{made:#}\n{object:#}", text(&object, "name"));
        if is_rbac {
            for field in ["rules", "aggregationRule", "subjects", "roleRef"] {
                assert_eq!(made[field], object[field], "{field} of {kind} {}", text(&object, "name"));
            }
            for field in ["labels", "annotations"] {
                assert_eq!(made["metadata"][field], object["metadata"][field], "{field} of {kind} {}", text(&object, "name"));
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 188, "4 namespaces, 73 + 54 cluster roles and bindings, 7 + 7 roles and bindings, 2 classes, 19 of flow control, 22 API services");
}

#[tokio::test]
async fn clients_inside_find_the_server() {
    let request_headers = identity::RequestHeaders {
        allowed_names: vec!["front".into()],
        username: vec!["X-User".into(), "X-Remote-User".into()],
        uid: Vec::new(),
        group: Vec::new(),
        ..Default::default()
    };
    let trust = identity::Trust { client_ca_pem: "CA".into(), front_proxy_ca_pem: "FRONT".into(), request_headers, ..Default::default() };
    let config = Config { advertise_address: Some([192, 168, 7, 1].into()), advertise_port: 7443, ..Config::default() };
    let cluster = Cluster::with(config, trust).await;
    let service = cluster.get("/api/v1/namespaces/default/services/kubernetes").await.expect(200);
    assert_eq!((service["spec"]["clusterIP"].as_str(), service["spec"]["ports"][0]["targetPort"].as_i64()), (Some("10.96.0.1"), Some(7443)));
    cluster.get("/apis/networking.k8s.io/v1/ipaddresses/10.96.0.1").await.expect(200);
    let endpoints = cluster.get("/api/v1/namespaces/default/endpoints/kubernetes").await.expect(200);
    assert_eq!(endpoints["subsets"], json!([{"addresses": [{"ip": "192.168.7.1"}], "ports": [{"name": "https", "port": 7443, "protocol": "TCP"}]}]));
    let slice = cluster.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.expect(200);
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.168.7.1"]));
    let range = cluster.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.expect(200);
    assert_eq!((&range["spec"]["cidrs"], &range["status"]["conditions"][0]["status"]), (&json!(["10.96.0.0/16"]), &json!("True")));
    let map = cluster.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.expect(200);
    assert_eq!((&map["data"]["client-ca-file"], &map["data"]["requestheader-client-ca-file"]), (&json!("CA"), &json!("FRONT")));
    let said = ["allowed-names", "username-headers", "uid-headers", "group-headers", "extra-headers-prefix"]
        .map(|key| map["data"][format!("requestheader-{key}")].as_str());
    assert_eq!(said, [Some(r#"["front"]"#), Some(r#"["X-User","X-Remote-User"]"#), None, Some("[]"), Some(r#"["X-Remote-Extra-"]"#)]);
    // Another start of the same cluster at another address.
    let moved = cluster.store.clone();
    let identity = apiserver::Identity::new(&moved, None, "https://kubernetes.default.svc", Default::default()).expect("keys");
    let config = Config { advertise_address: Some([192, 168, 7, 2].into()), ..Config::default() };
    let api = apiserver::ApiServer::new(config, moved, identity).expect("a server");
    api.bootstrap().await.expect("bootstrap");
    let endpoints = api.read(&("", "v1", "endpoints"), "default", "kubernetes").expect("endpoints");
    assert_eq!(endpoints["subsets"][0]["addresses"], json!([{"ip": "192.168.7.2"}]));
    let service = api.read(&("", "v1", "services"), "default", "kubernetes").expect("a service");
    assert_eq!((&service["spec"]["clusterIP"], &service["spec"]["ports"][0]["targetPort"]), (&json!("10.96.0.1"), &json!(6443)));
}

#[tokio::test]
async fn what_is_always_so_is_said_at_once() {
    let cluster = Cluster::start().await;
    let service = cluster.get("/apis/apiregistration.k8s.io/v1/apiservices/v1.apps").await.expect(200);
    let said = &service["status"]["conditions"][0];
    assert_eq!((&said["type"], &said["status"], &said["reason"]), (&json!("Available"), &json!("True"), &json!("Local")));
    let schema = cluster.get("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/probes").await.expect(200);
    let said = &schema["status"]["conditions"][0];
    assert_eq!((&said["type"], &said["status"], &said["reason"]), (&json!("Dangling"), &json!("False"), &json!("Found")));
}

#[tokio::test]
async fn a_second_start_changes_nothing() {
    let cluster = Cluster::start().await;
    let before = cluster.store.revision();
    cluster.api.bootstrap().await.expect("bootstrap");
    assert_eq!(cluster.store.revision(), before);
}

#[tokio::test]
async fn what_is_missing_comes_back_and_what_was_added_stays() {
    let cluster = Cluster::start().await;
    let api = &cluster.api;
    let mut role = (*api.read(&ROLES, "", "system:node-proxier").expect("a role")).clone();
    let rules = role["rules"].as_array_mut().expect("rules");
    let taken = rules.remove(0);
    rules.push(json!({"apiGroups": ["x"], "resources": ["y"], "verbs": ["get"]}));
    api.update(&ROLES, "", "system:node-proxier", role).await.expect("changed");
    let mut own = (*api.read(&ROLES, "", "system:kube-dns").expect("a role")).clone();
    own["rules"] = json!([]);
    own["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = json!("false");
    api.update(&ROLES, "", "system:kube-dns", own).await.expect("changed");
    let mut binding = (*api.read(&BINDINGS, "", "cluster-admin").expect("a binding")).clone();
    binding["subjects"] = json!([{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"}]);
    api.update(&BINDINGS, "", "cluster-admin", binding).await.expect("changed");
    api.delete(&BINDINGS, "", "system:basic-user").await.expect("deleted");
    let other = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "system:basic-user"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}, "subjects": []});
    api.create(&BINDINGS, "", other).await.expect("another role");
    let levels = ("flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations");
    let mut level = (*api.read(&levels, "", "workload-low").expect("a level")).clone();
    level["spec"]["limited"]["nominalConcurrencyShares"] = json!(7);
    api.update(&levels, "", "workload-low", level).await.expect("changed");

    api.bootstrap().await.expect("bootstrap");
    let role = api.read(&ROLES, "", "system:node-proxier").expect("a role");
    let granted = identity::rbac::Rule::of_role(&role);
    assert!(identity::rbac::uncovered(&granted, &[identity::rbac::Rule::from_value(&taken)]).is_empty(), "what was taken is back: {role:#}");
    assert!(granted.iter().any(|r| r.groups == ["x"]), "what was added stays");
    assert_eq!(api.read(&ROLES, "", "system:kube-dns").expect("a role")["rules"], Value::Null, "told to leave it");
    let binding = api.read(&BINDINGS, "", "cluster-admin").expect("a binding");
    assert_eq!(binding["subjects"].as_array().map(Vec::len), Some(2));
    assert_eq!(api.read(&BINDINGS, "", "system:basic-user").expect("a binding")["roleRef"]["name"], "system:basic-user");
    assert_eq!(api.read(&levels, "", "workload-low").expect("a level")["spec"]["limited"]["nominalConcurrencyShares"], 100);
}

#[tokio::test]
async fn the_roles_count() {
    let cluster = Cluster::start().await;
    let scheduler = user("system:kube-scheduler", &[]);
    let get = |who, uri: &'static str| cluster.call(who, http::Method::GET, uri, &[], Value::Null);
    get(&scheduler, "/api/v1/pods").await.expect(200);
    assert_eq!(
        get(&scheduler, "/api/v1/secrets").await.refused(403),
        "secrets is forbidden: User \"system:kube-scheduler\" cannot list resource \"secrets\" in API group \"\" at the cluster scope"
    );
    let nobody = identity::User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..Default::default() };
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        get(&nobody, path).await.expect(200);
    }
    for path in ["/api", "/metrics", "/api/v1/namespaces", "/openapi/v2"] {
        get(&nobody, path).await.expect(403);
    }
    assert_eq!(get(&nobody, "/metrics").await.refused(403), "forbidden: User \"system:anonymous\" cannot get path \"/metrics\"");
}

/// Upstream's loops put these right while the server runs; roles wait for its next start.
#[tokio::test]
async fn what_somebody_takes_of_the_cluster_s_own_objects_comes_back_while_it_runs() {
    let cluster = Cluster::start().await;
    let before = cluster.store.revision();
    cluster.api.keep().await;
    assert_eq!(cluster.store.revision(), before, "what is as it should be is not written");
    let service = cluster.get("/api/v1/namespaces/default/services/kubernetes").await.expect(200);
    let gone = [
        "/api/v1/namespaces/default/services/kubernetes",
        "/api/v1/namespaces/default/endpoints/kubernetes",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/system-nodes",
        "/apis/apiregistration.k8s.io/v1/apiservices/v1.apps",
    ];
    for uri in gone {
        cluster.delete(uri).await.expect(200);
        cluster.get(uri).await.expect(404);
    }
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/view";
    cluster.delete(role).await.expect(200);
    let endpoints = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    cluster.api.keep().await;
    for uri in gone {
        cluster.get(uri).await.expect(200);
    }
    cluster.get(role).await.expect(404);
    let again = cluster.get("/api/v1/namespaces/default/services/kubernetes").await.expect(200);
    assert_eq!(again["spec"]["clusterIP"], service["spec"]["clusterIP"]);
    let right = cluster.get(endpoints).await.expect(200);
    cluster.patch(endpoints, json!({"endpoints": [{"addresses": ["192.0.2.66"]}]})).await.expect(200);
    cluster.api.keep().await;
    assert_eq!(cluster.get(endpoints).await.expect(200)["endpoints"], right["endpoints"], "nobody else says where the server is");
    let before = cluster.store.revision();
    cluster.api.keep().await;
    assert_eq!(cluster.store.revision(), before);
}

/// What Go cannot leave out was not written by earlier releases, and is no change of what may not change.
#[tokio::test]
async fn what_an_earlier_release_stored_can_still_be_changed() {
    let cluster = Cluster::start().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Mi"}},
        "dataSource": {"kind": "PersistentVolumeClaim", "name": "other"}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": spec});
    let mut old = cluster.post(claims, claim).await.expect(201);
    let source = |claim: &Value| claim["spec"]["dataSource"].as_object().and_then(|source| source.get("apiGroup").cloned());
    assert_eq!(source(&old), Some(Value::Null));
    let revision = text(&old, "resourceVersion").parse().expect("a revision");
    for part in ["dataSource", "dataSourceRef"] {
        old["spec"][part].as_object_mut().expect("a source").remove("apiGroup");
    }
    let key = "/registry/persistentvolumeclaims/default/c";
    let (bucket, draft) = (cluster.store.bucket("/registry/persistentvolumeclaims/"), store::Draft::new(old, None, Vec::new()));
    cluster.store.put(&bucket, key, store::Expect::Revision(revision), draft).await.expect("a write");
    assert_eq!(source(&cluster.get(&format!("{claims}/c")).await.expect(200)), None);
    let changed = cluster.patch(&format!("{claims}/c"), json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(source(&changed), Some(Value::Null));
    let other = json!({"spec": {"dataSource": {"name": "another"}}});
    assert!(cluster.patch(&format!("{claims}/c"), other).await.refused(422).contains("spec is immutable"));
}

#[tokio::test]
async fn what_its_controller_says_of_the_range_stays() {
    let cluster = Cluster::start().await;
    let uri = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
    let mut range = cluster.get(uri).await.expect(200);
    range["status"]["conditions"][0]["message"] = json!("Kubernetes Service CIDR is ready");
    cluster.call(&admin(), http::Method::PUT, &format!("{uri}/status"), &[], range).await.expect(200);
    let before = cluster.store.revision();
    cluster.api.bootstrap().await.expect("bootstrap");
    assert_eq!(cluster.store.revision(), before);
}
