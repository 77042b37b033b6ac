use crate::support::{Cluster, admin, merged, node, pod, user};
use http::Method;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}

#[tokio::test]
async fn nothing_is_made_where_no_namespace_is() {
    let cluster = Cluster::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    assert_eq!(cluster.post("/api/v1/namespaces/none/configmaps", map.clone()).await.refused(404), "namespaces \"none\" not found");
    cluster.namespace("going").await;
    cluster.delete("/api/v1/namespaces/going").await.expect(200);
    let refused = cluster.post("/api/v1/namespaces/going/configmaps", map).await.expect(403);
    let why = "configmaps \"m\" is forbidden: unable to create new content in namespace going because it is being terminated";
    assert_eq!(refused["message"], why);
    assert_eq!(
        refused["details"]["causes"],
        json!([{"reason": "NamespaceTerminating", "message": "namespace going is being terminated", "field": "metadata.namespace"}])
    );
    for name in ["default", "kube-system", "kube-public"] {
        let refused = cluster.delete(&format!("/api/v1/namespaces/{name}")).await.refused(403);
        assert_eq!(refused, format!("namespaces {name:?} is forbidden: this namespace may not be deleted"));
    }
}

#[tokio::test]
async fn a_pod_gets_its_account_s_token() {
    let cluster = Cluster::start().await;
    let made = cluster.post(PODS, pod("p")).await.expect(201);
    let spec = &made["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
    let volume = &spec["volumes"][0];
    let name = volume["name"].as_str().expect("a volume");
    assert!(name.starts_with("kube-api-access-") && name.len() == "kube-api-access-".len() + 5, "{name}");
    let mount = json!({"name": name, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    assert_eq!(spec["containers"][0]["volumeMounts"], json!([mount]));
    let sources = &volume["projected"]["sources"];
    assert_eq!(sources[0], json!({"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}));
    assert_eq!(sources[1]["configMap"]["name"], "kube-root-ca.crt");
    assert_eq!(sources[2]["downwardAPI"]["items"][0]["path"], "namespace");
    assert_eq!(volume["projected"]["defaultMode"], 420);

    let quiet = cluster.post(PODS, merged(pod("quiet"), json!({"spec": {"automountServiceAccountToken": false}}))).await.expect(201);
    assert!(quiet["spec"]["volumes"].is_null());
    let silent = merged(account("silent"), json!({"automountServiceAccountToken": false, "imagePullSecrets": [{"name": "pull"}]}));
    cluster.post("/api/v1/namespaces/default/serviceaccounts", silent).await.expect(201);
    let made = cluster.post(PODS, merged(pod("silent"), json!({"spec": {"serviceAccountName": "silent"}}))).await.expect(201);
    assert_eq!((&made["spec"]["volumes"], &made["spec"]["imagePullSecrets"]), (&Value::Null, &json!([{"name": "pull"}])));
    let none = cluster.post(PODS, merged(pod("none"), json!({"spec": {"serviceAccountName": "none"}}))).await.refused(403);
    assert_eq!(none, "pods \"none\" is forbidden: error looking up service account default/none: serviceaccount \"none\" not found");
    for (name, why) in [("a\u{1}", r#"serviceaccount "a\x01" not found"#), ("a/\u{1}", r#"invalid resource name "a/\x01": [may not contain '/']"#)] {
        let odd = cluster.post(PODS, merged(pod("none"), json!({"spec": {"serviceAccountName": name}}))).await.refused(403);
        assert_eq!(odd, format!("pods \"none\" is forbidden: error looking up service account default/{name}: {why}"));
    }
    let own = json!({"spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}],
        "volumes": [{"name": "v", "emptyDir": {}}]}});
    let made = cluster.post(PODS, merged(pod("own"), own)).await.expect(201);
    assert_eq!(made["spec"]["volumes"].as_array().map(Vec::len), Some(1), "what is mounted there already stays");
}

#[tokio::test]
async fn a_pod_waits_for_the_account_of_a_new_namespace() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}})).await.expect(201);
    let (made, account) =
        tokio::join!(cluster.post("/api/v1/namespaces/new/pods", pod("p")), cluster.post("/api/v1/namespaces/new/serviceaccounts", account("default")));
    account.expect(201);
    made.expect(201);
}

#[tokio::test]
async fn a_pod_gets_a_priority_and_tolerations() {
    let cluster = Cluster::start().await;
    let made = cluster.post(PODS, pod("p")).await.expect(201);
    assert_eq!((&made["spec"]["priority"], &made["spec"]["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
    let tolerates = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    assert_eq!(made["spec"]["tolerations"], json!([tolerates("node.kubernetes.io/not-ready"), tolerates("node.kubernetes.io/unreachable")]));
    let own = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
    let made = cluster.post(PODS, merged(pod("all"), own.clone())).await.expect(201);
    assert_eq!(made["spec"]["tolerations"], own["spec"]["tolerations"]);

    let none = cluster.post(PODS, merged(pod("none"), json!({"spec": {"priorityClassName": "none"}}))).await.refused(403);
    assert_eq!(none, "pods \"none\" is forbidden: no PriorityClass with name none was found");
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000, "globalDefault": true, "preemptionPolicy": "Never"});
    cluster.post("/apis/scheduling.k8s.io/v1/priorityclasses", class.clone()).await.expect(201);
    let second = merged(class, json!({"metadata": {"name": "other"}}));
    let refused = cluster.post("/apis/scheduling.k8s.io/v1/priorityclasses", second).await.refused(403);
    assert_eq!(
        refused,
        "priorityclasses.scheduling.k8s.io \"other\" is forbidden: PriorityClass high is already marked as default. Only one default can exist"
    );
    let made = cluster.post(PODS, pod("default-class")).await.expect(201);
    let spec = &made["spec"];
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"], &spec["priorityClassName"]), (&json!(1000), &json!("Never"), &json!("high")));
    let given = cluster.post(PODS, merged(pod("given"), json!({"spec": {"priority": 5}}))).await.refused(403);
    assert!(given.contains("the integer value of priority (5) must not be provided in pod spec"), "{given}");
}

#[tokio::test]
async fn a_runtime_class_adds_its_overhead_and_places() {
    let cluster = Cluster::start().await;
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "vm"}, "handler": "vm",
        "overhead": {"podFixed": {"cpu": "100m"}}, "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}});
    cluster.post("/apis/node.k8s.io/v1/runtimeclasses", class).await.expect(201);
    let made = cluster.post(PODS, merged(pod("p"), json!({"spec": {"runtimeClassName": "vm"}}))).await.expect(201);
    assert_eq!((&made["spec"]["overhead"], &made["spec"]["nodeSelector"]), (&json!({"cpu": "100m"}), &json!({"vm": "yes"})));
    assert!(made["spec"]["tolerations"].as_array().is_some_and(|l| l.iter().any(|t| t["key"] == "vm")));
    let none = cluster.post(PODS, merged(pod("q"), json!({"spec": {"runtimeClassName": "none"}}))).await.refused(403);
    assert_eq!(none, "pods \"q\" is forbidden: pod rejected: RuntimeClass \"none\" not found");
    let odd = json!({"spec": {"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}});
    let conflict = "pods \"r\" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no";
    assert_eq!(cluster.post(PODS, merged(pod("r"), odd)).await.refused(403), conflict);
}

#[tokio::test]
async fn a_node_writes_what_is_its_own() {
    let cluster = Cluster::start().await;
    let object = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let refused = cluster.post_as(&node("n1"), "/api/v1/nodes", object("n2", json!({}))).await.refused(403);
    assert_eq!(refused, "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\"");
    let refused = cluster.post_as(&node("n1"), "/api/v1/nodes", object("n1", json!({"node-restriction.kubernetes.io/x": "1"}))).await.refused(403);
    assert_eq!(refused, "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: node-restriction.kubernetes.io/x");
    let made = cluster.post_as(&node("n1"), "/api/v1/nodes", object("n1", json!({"kubernetes.io/hostname": "n1"}))).await.expect(201);
    assert_eq!(made["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
    let refused = cluster.patch_as(&node("n1"), "/api/v1/nodes/n1", json!({"spec": {"taints": null}})).await.refused(403);
    assert_eq!(refused, "nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify taints");
    let labels = json!({"metadata": {"labels": {"node-role.kubernetes.io/x": ""}}});
    let refused = cluster.patch_as(&node("n1"), "/api/v1/nodes/n1", labels).await.refused(403);
    assert_eq!(refused, "nodes \"n1\" is forbidden: is not allowed to modify labels: node-role.kubernetes.io/x");
    let owners = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n0", "uid": "u"}]}});
    let refused = cluster.patch_as(&node("n1"), "/api/v1/nodes/n1", owners).await.refused(403);
    assert_eq!(refused, "nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify ownerReferences");
    let source = json!({"spec": {"configSource": {"configMap": {"namespace": "default", "name": "c", "kubeletConfigKey": "k"}}}});
    let refused = cluster.patch_as(&node("n1"), "/api/v1/nodes/n1", source).await.refused(403);
    assert_eq!(refused, "nodes \"n1\" is forbidden: node \"n1\" is not allowed to update configSource to a new non-nil configSource");

    // Who brings a range along takes nobody's; what controllers write is theirs to know.
    let ranged = |name: &str, range: &str| merged(object(name, json!({})), json!({"spec": {"podCIDR": range, "podCIDRs": [range]}}));
    cluster.post_as(&node("r1"), "/api/v1/nodes", ranged("r1", "10.244.1.0/24")).await.expect(201);
    let refused = cluster.post_as(&node("r2"), "/api/v1/nodes", ranged("r2", "10.244.0.0/16")).await.refused(403);
    assert_eq!(refused, "nodes \"r2\" is forbidden: node \"r2\" is not allowed to have a range of pods that has addresses of that of the node \"r1\"");
    cluster.post_as(&node("r2"), "/api/v1/nodes", object("r2", json!({}))).await.expect(201);
    let later = json!({"spec": {"podCIDR": "10.244.1.0/25", "podCIDRs": ["10.244.1.0/25"]}});
    cluster.patch_as(&node("r2"), "/api/v1/nodes/r2", later).await.refused(403);
    cluster.patch_as(&node("r2"), "/api/v1/nodes/r2", json!({"metadata": {"annotations": {"a": "b"}}})).await.expect(200);

    let mine = json!({"spec": {"nodeName": "n1"}});
    cluster.post(PODS, merged(pod("mine"), mine)).await.expect(201);
    cluster.post(PODS, merged(pod("theirs"), json!({"spec": {"nodeName": "n2"}}))).await.expect(201);
    let status = json!({"status": {"phase": "Running"}});
    cluster.patch_as(&node("n1"), &format!("{PODS}/mine/status"), status.clone()).await.expect(200);
    let refused = cluster.patch_as(&node("n1"), &format!("{PODS}/theirs/status"), status).await.refused(403);
    assert_eq!(refused, "pods \"theirs\" is forbidden: node \"n1\" can only update pod status for pods with spec.nodeName set to itself");
    let refused = cluster.post_as(&node("n1"), PODS, pod("made")).await.refused(403);
    assert!(refused.contains("pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods"), "{refused}");
    let uid = &made["metadata"]["uid"];
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true});
    let mirror = |name: &str, other: Value| {
        let own = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [owner]}, "spec": {"nodeName": "n1"}});
        merged(merged(pod(name), own), other)
    };
    cluster.post_as(&node("n1"), PODS, mirror("mirror", json!({}))).await.expect(201);
    let orphan = mirror("orphan", json!({"metadata": {"ownerReferences": null}}));
    let refused = cluster.post_as(&node("n1"), PODS, orphan).await.refused(403);
    assert!(refused.ends_with("node \"n1\" can only create pods with an owner reference set to itself"), "{refused}");
    for (volume, what) in [
        (json!({"secret": {"secretName": "s"}}), "a mirror pod may not reference secrets"),
        (json!({"projected": {"sources": [{"configMap": {"name": "m"}}]}}), "node \"n1\" can not create pods that reference configmaps"),
        (json!({"csi": {"driver": "d.example.com"}}), "node \"n1\" can not create pods that reference csidrivers (via CSI volumes)"),
        (
            json!({"iscsi": {"targetPortal": "1.2.3.4", "iqn": "iqn.2001-04.com.example:s", "lun": 0, "secretRef": {"name": "s"}}}),
            "a mirror pod may not reference secrets",
        ),
    ] {
        let volume = merged(volume, json!({"name": "v"}));
        let refused = cluster.post_as(&node("n1"), PODS, mirror("reads", json!({"spec": {"volumes": [volume]}}))).await.refused(403);
        assert!(refused.ends_with(what), "{refused}");
    }
    // Nor may anybody else show a node's pod with what the API keeps.
    let refused = cluster.post(PODS, mirror("keeps", json!({"spec": {"imagePullSecrets": [{"name": "s"}]}}))).await.refused(403);
    assert_eq!(refused, "pods \"keeps\" is forbidden: a mirror pod may not reference secrets");
    let refused = cluster.call(&node("n1"), http::Method::DELETE, &format!("{PODS}/theirs"), &[], Value::Null).await.refused(403);
    assert!(refused.ends_with("node \"n1\" can only delete pods with spec.nodeName set to itself"), "{refused}");
    cluster.call(&node("n1"), http::Method::DELETE, &format!("{PODS}/mine?gracePeriodSeconds=0"), &[], Value::Null).await.expect(200);

    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n2"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let refused = cluster.post_as(&node("n1"), leases, lease.clone()).await.refused(403);
    assert_eq!(refused, "leases.coordination.k8s.io \"n2\" is forbidden: can only access node lease with the same name as the requesting node");
    cluster.post_as(&node("n2"), leases, lease).await.expect(201);
}

#[tokio::test]
async fn claims_get_the_default_class_and_protection() {
    let cluster = Cluster::start().await;
    let class = |name: &str, expands: bool| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "x/y", "allowVolumeExpansion": expands,
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}})
    };
    cluster.post("/apis/storage.k8s.io/v1/storageclasses", class("slow", false)).await.expect(201);
    let claim = |name: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let made = cluster.post(claims, claim("c")).await.expect(201);
    assert_eq!((&made["spec"]["storageClassName"], &made["metadata"]["finalizers"]), (&json!("slow"), &json!(["kubernetes.io/pvc-protection"])));
    let none = cluster.post(claims, merged(claim("none"), json!({"spec": {"storageClassName": ""}}))).await.expect(201);
    assert_eq!(none["spec"]["storageClassName"], "");
    cluster.patch(&format!("{claims}/c/status"), json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}})).await.expect(200);
    let larger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = cluster.patch(&format!("{claims}/c"), larger).await;
    assert!(refused.code == 403 || refused.code == 422, "neither bound to a volume nor expandable: {}", refused.code);
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let cluster = Cluster::start().await;
    let rule = |group: &str, resource: &str, verb: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
    let hers = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "hers"},
        "rules": [rule("rbac.authorization.k8s.io", "roles", "create"), rule("", "pods", "get")]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", hers).await.expect(201);
    let bind = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "ann"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "hers"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", bind).await.expect(201);
    let role = |resource: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": resource},
        "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]})
    };
    let ann = user("ann", &[]);
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    cluster.post_as(&ann, roles, role("pods")).await.expect(201);
    let refused = cluster.post_as(&ann, roles, role("nodes")).await.refused(403);
    assert_eq!(
        refused,
        "roles.rbac.authorization.k8s.io \"nodes\" is forbidden: user \"ann\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions \
         not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"
    );
    cluster.post_as(&admin(), roles, role("nodes")).await.expect(201);
}

#[tokio::test]
async fn a_secret_of_an_account_is_filled() {
    let cluster = Cluster::start().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "default"}}});
    let made = cluster.post("/api/v1/namespaces/default/secrets", secret).await.expect(201);
    assert_eq!(made["data"]["namespace"], "ZGVmYXVsdA==");
    assert!(made["data"]["token"].is_string() && made["metadata"]["annotations"]["kubernetes.io/service-account.uid"].is_string());
}

/// What kube-apiserver 1.37.2 notes of such tokens.
#[tokio::test]
async fn the_use_of_a_token_without_an_end_is_noted_by_the_day() {
    const SECRET: &str = "/api/v1/namespaces/default/secrets/t";
    const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
    let cluster = Cluster::start().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "default"}}});
    let made = cluster.post("/api/v1/namespaces/default/secrets", secret).await.expect(201);
    let token = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, made["data"]["token"].as_str().expect("a token")).expect("base64");
    let bearer = format!("Bearer {}", String::from_utf8(token).expect("UTF-8"));
    let used = async || cluster.call_by(None, Method::GET, "/api/v1/namespaces/default/pods", &[("authorization", &bearer)], Value::Null).await;
    // What is noted is the same all day; who runs this over midnight has two.
    let day = || machinery::time::rfc3339(std::time::SystemTime::now())[..10].to_owned();
    let first = day();
    assert_eq!(used().await.code, 403);
    let noted = cluster.get(SECRET).await.expect(200);
    let today = noted["metadata"]["labels"][LAST_USED].as_str().expect("a day").to_owned();
    assert!([&first, &day()].contains(&&today), "{today}");
    let entry = noted["metadata"]["managedFields"].as_array().into_iter().flatten().find(|entry| entry["manager"] == "kube-apiserver").expect("its owner");
    assert_eq!(entry["fieldsV1"], json!({"f:metadata": {"f:labels": {".": {}, format!("f:{LAST_USED}"): {}}}}));
    // Once a day, though it is used again.
    assert!(used().await.warnings.is_empty());
    let again = cluster.get(SECRET).await.expect(200);
    assert!(again["metadata"]["resourceVersion"] == noted["metadata"]["resourceVersion"] || day() != first, "{again}");

    cluster.patch("/api/v1/namespaces/default/serviceaccounts/default", json!({"secrets": [{"name": "t"}]})).await.expect(200);
    let told = used().await.warnings;
    assert!(told.len() == 1 && told[0].contains("instead of auto-generated secret-based tokens."), "{told:?}");
    let marked = json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": today, LAST_USED: "2020-01-01"}}});
    cluster.patch(SECRET, marked).await.expect(200);
    assert_eq!(used().await.code, 401);
    let last = cluster.get(SECRET).await.expect(200)["metadata"]["labels"][LAST_USED].clone();
    assert!(last == today || last == day(), "a use that is refused is one: {last}");
}

#[tokio::test]
async fn an_ingress_gets_the_default_class() {
    let cluster = Cluster::start().await;
    let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "web",
        "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}, "spec": {"controller": "x.y/z"}});
    cluster.post("/apis/networking.k8s.io/v1/ingressclasses", class).await.expect(201);
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"},
        "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let made = cluster.post("/apis/networking.k8s.io/v1/namespaces/default/ingresses", ingress).await.expect(201);
    assert_eq!(made["spec"]["ingressClassName"], "web");
}

#[tokio::test]
async fn containers_get_a_namespace_s_limits_and_keep_to_them() {
    let cluster = Cluster::start().await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "500m"}, "min": {"cpu": "50m"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}, "min": {"storage": "1Mi"}}]}});
    cluster.post("/api/v1/namespaces/default/limitranges", range).await.expect(201);
    let made = cluster.post(PODS, pod("p")).await.expect(201);
    assert_eq!(made["spec"]["containers"][0]["resources"], json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}));
    let note = "LimitRanger plugin set: cpu request for container c; cpu limit for container c";
    assert_eq!(made["metadata"]["annotations"]["kubernetes.io/limit-ranger"], note);
    let with = |requests: &str, limits: &str| json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": requests}, "limits": {"cpu": limits}}}]}});
    let much = cluster.post(PODS, merged(pod("much"), with("100m", "1"))).await.refused(403);
    assert_eq!(much, "pods \"much\" is forbidden: maximum cpu usage per Container is 500m, but limit is 1");
    let little = cluster.post(PODS, merged(pod("little"), with("10m", "400m"))).await.refused(403);
    assert_eq!(little, "pods \"little\" is forbidden: minimum cpu usage per Container is 50m, but request is 10m");
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
    let large = cluster.post("/api/v1/namespaces/default/persistentvolumeclaims", claim).await.refused(403);
    assert_eq!(large, "persistentvolumeclaims \"c\" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi");
}

#[tokio::test]
async fn a_quota_is_charged_and_never_exceeded() {
    let cluster = Cluster::start().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let hard = json!({"pods": "2", "requests.cpu": "250m", "count/configmaps": "1"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    cluster.post(quotas, quota).await.expect(201);
    // What the controller does.
    let status = json!({"status": {"hard": hard, "used": {"pods": "0", "requests.cpu": "0", "count/configmaps": "0"}}});
    cluster.patch(&format!("{quotas}/q/status"), status).await.expect(200);
    let asking =
        |name: &str, cpu: &str| merged(pod(name), json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}}));
    assert_eq!(cluster.post(PODS, pod("silent")).await.refused(403), "pods \"silent\" is forbidden: failed quota: q: must specify requests.cpu for: c");
    cluster.post(&format!("{PODS}?dryRun=All"), asking("dry", "100m")).await.expect(201);
    cluster.post(PODS, asking("a", "100m")).await.expect(201);
    let used = cluster.get(&format!("{quotas}/q")).await.expect(200)["status"]["used"].clone();
    assert_eq!(used, json!({"pods": "1", "requests.cpu": "100m", "count/configmaps": "0"}));
    assert_eq!(
        cluster.post(PODS, asking("b", "200m")).await.refused(403),
        "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=200m, used: requests.cpu=100m, limited: requests.cpu=250m"
    );
    cluster.post(PODS, asking("a", "100m")).await.expect(409);
    assert_eq!(cluster.get(&format!("{quotas}/q")).await.expect(200)["status"]["used"], used, "what is there is not charged again");
    let mut huge = asking("huge", "100m");
    huge["spec"]["containers"][0]["env"] = json!([{"name": "E", "value": "x".repeat(1600 * 1024)}]);
    assert_eq!(cluster.post(PODS, huge).await.refused(500), "etcdserver: request is too large");
    assert_eq!(cluster.get(&format!("{quotas}/q")).await.expect(200)["status"]["used"], used, "what the store refuses is not charged");
    // Of many at once only as many as fit are let in.
    let many = (0..8).map(|n| cluster.post(PODS, asking(&format!("m{n}"), "10m")));
    let made = futures_util::future::join_all(many).await.into_iter().filter(|r| r.code == 201).count();
    assert_eq!(made, 1);
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    cluster.post("/api/v1/namespaces/default/configmaps", map("one")).await.expect(201);
    let refused = cluster.post("/api/v1/namespaces/default/configmaps", map("two")).await.refused(403);
    assert_eq!(
        refused,
        "configmaps \"two\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1"
    );
}

#[tokio::test]
async fn a_namespace_asks_for_a_standard() {
    let cluster = Cluster::start().await;
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}}});
    cluster.patch("/api/v1/namespaces/default", labels).await.expect(200);
    cluster.post(PODS, pod("p")).await.expect(201);
    let refused = cluster.post(PODS, merged(pod("host"), json!({"spec": {"hostNetwork": true}}))).await.refused(403);
    assert_eq!(refused, "pods \"host\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)");
}

/// A request for O=system:masters, CN=eve; and one for O=team, CN=eve.
const MASTERS_CSR: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIak1JR0pBZ0VBTUNjeEZ6QVZCZ05WQkFvTURuTjVjM1JsYlRwdFlYTjBaWEp6TVF3d0NnWURWUVFEREFObApkbVV3V1RBVEJnY3Foa2pPUFFJQkJnZ3Foa2pPUFFNQkJ3TkNBQVQ4bXUvREZ4WlJTbWRZNXpkRTVGRmkwUWxrCjFZczJScHFGK2hsQ2JXV2RQbktoZ3FWV090S2JQZ2h5YjZJTzZQWnV0UldQbDNqZUNOMTF2eEd2SDBaL29BQXcKQ2dZSUtvWkl6ajBFQXdJRFNRQXdSZ0loQU9EVTVwazBlT1p3MzMrTWcwQnMybVNRdmVqRGthYmllajE0ZlJxVwp2a3VpQWlFQWxwZzBwQnJ2cDY1NURMOE5TNU1QY21VSHNuajJUN0F3VHZtbGF6VWdyNlk9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";
pub(crate) const TEAM_CSR: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIWE1IOENBUUF3SFRFTk1Bc0dBMVVFQ2d3RWRHVmhiVEVNTUFvR0ExVUVBd3dEWlhabE1Ga3dFd1lIS29aSQp6ajBDQVFZSUtvWkl6ajBEQVFjRFFnQUVjY2d5K3piaVNHWC9TelI2TEpmN1hMNXZWWjB6bHFMSGM3b05DeW1YClZIMVBaZlNMNjlad2o0UWVuZncyeCtIVUpMaFlNYkZQSUcxbmxwSGxRL0ZFMEtBQU1Bb0dDQ3FHU000OUJBTUMKQTBnQU1FVUNJUUM0eStzM2tMSE4rZVRPbG80NnpSaCtHUXAyTm5sWUFXbmc1V3l4K1BpSWlRSWdaUTF3R2xaUgpzWGhXKy9aZHFnZTRkNnBWZWpMREZzNm5oVjBBK1IxVlB3az0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";

#[tokio::test]
async fn certificates_are_approved_by_who_may() {
    let cluster = Cluster::start().await;
    let uri = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let csr = |name: &str, request: &str| {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": request, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}})
    };
    let refused = cluster.post(uri, csr("root", MASTERS_CSR)).await.refused(403);
    let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    assert_eq!(refused, format!("certificatesigningrequests.certificates.k8s.io \"root\" is forbidden: {why}"));
    cluster.post(uri, csr("eve", TEAM_CSR)).await.expect(201);
    let rules = json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["patch"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "approver"}, "rules": rules});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await.expect(201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "approver"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "approver"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.expect(201);
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "x", "message": "y"}]}});
    let refused = cluster.patch_as(&user("ann", &[]), &format!("{uri}/eve/approval"), approved.clone()).await.refused(403);
    let why = "user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\"";
    assert!(refused.ends_with(why), "{refused}");
    let signers = json!({"rules": [rules[0], {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["kubernetes.io/*"], "verbs": ["approve"]}]});
    cluster.patch("/apis/rbac.authorization.k8s.io/v1/clusterroles/approver", signers).await.expect(200);
    cluster.patch_as(&user("ann", &[]), &format!("{uri}/eve/approval"), approved).await.expect(200);
}

#[tokio::test]
async fn a_pod_s_certificate_is_of_the_key_that_asked_and_of_who_may_sign() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let cluster = Cluster::start().await;
    let uri = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
    let (key, other) = (rcgen::KeyPair::generate().expect("a key"), rcgen::KeyPair::generate().expect("a key"));
    let stub = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
    let ask = |name: &str, request: &[u8]| {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest", "metadata": {"name": name},
            "spec": {"signerName": "example.com/signer", "podName": "p", "podUID": "u", "serviceAccountName": "default", "serviceAccountUID": "u",
                "nodeName": "n", "nodeUID": "u", "maxExpirationSeconds": 86400, "stubPKCS10Request": STANDARD.encode(request)}})
    };
    let refused = cluster.post(uri, ask("bad", b"nothing")).await.refused(422);
    assert!(refused.contains("spec.stubPKCS10Request: Invalid value: must be a valid PKCS#10 CSR"), "{refused}");
    let mut forged = stub.der().to_vec();
    *forged.last_mut().expect("a signature") ^= 1;
    let refused = cluster.post(uri, ask("forged", &forged)).await.refused(422);
    assert!(refused.contains("invalid signature"), "{refused}");
    let stranger = cluster.post_as(&node("n1"), uri, ask("stranger", stub.der())).await.refused(403);
    assert!(stranger.ends_with("PodCertificateRequest.Spec.NodeName=\"n\", which is not the requesting node \"n1\""), "{stranger}");
    cluster.post(uri, ask("r", stub.der())).await.expect(201);
    let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()).expect("a time");
    let text = |at: i64| machinery::time::rfc3339(std::time::UNIX_EPOCH + std::time::Duration::from_secs(at.unsigned_abs()));
    let issue = |key: &rcgen::KeyPair, begins: i64, hours: i64, refresh: i64| {
        let mut params = rcgen::CertificateParams::default();
        let at = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds.unsigned_abs());
        (params.not_before, params.not_after) = (at(begins), at(begins + hours * 3600));
        let chain = params.self_signed(key).expect("a certificate").pem();
        json!({"status": {"certificateChain": chain, "notBefore": text(begins), "notAfter": text(begins + hours * 3600), "beginRefreshAt": text(refresh),
            "conditions": [{"type": "Issued", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": text(now)}]}})
    };
    let status = format!("{uri}/r/status");
    for (answer, why) in [
        (issue(&other, now, 24, now + 3600), "leaf certificate was not issued to the requested public key"),
        (issue(&key, now - 600, 24, now + 3600), "must be set to within 5 minutes of kube-apiserver's current time"),
        (issue(&key, now, 25, now + 3600), "leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)"),
        (issue(&key, now, 24, now + 60), "must be at least 10 minutes after status.notBefore"),
    ] {
        let refused = cluster.patch(&status, answer).await.refused(422);
        assert!(refused.contains(why), "{refused}");
    }
    let good = issue(&key, now - 60, 24, now + 3600);
    let rules = json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["podcertificaterequests/status"], "verbs": ["patch"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "answers"}, "rules": rules});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await.expect(201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "answers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "answers"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.expect(201);
    let refused = cluster.patch_as(&user("ann", &[]), &status, good.clone()).await.refused(422);
    assert!(refused.contains(r#"spec.signerName: Forbidden: User "ann" is not permitted to "sign" for signer "example.com/signer""#), "{refused}");
    cluster.patch(&status, good.clone()).await.expect(200);
    cluster.patch(&status, issue(&key, now, 24, now + 3600)).await.refused(422);
    cluster.patch(&format!("{uri}/r"), json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
}

#[tokio::test]
async fn a_bound_pod_learns_where_its_node_stands() {
    let cluster = Cluster::start().await;
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}});
    cluster.post("/api/v1/nodes", object).await.expect(201);
    cluster.post(PODS, pod("p")).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    cluster.post(&format!("{PODS}/p/binding"), binding).await.expect(201);
    let bound = cluster.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!((&bound["spec"]["nodeName"], &bound["metadata"]["labels"]["topology.kubernetes.io/zone"]), (&json!("n1"), &json!("z1")));
    let placed = cluster.post("/api/v1/namespaces/default/pods", merged(pod("placed"), json!({"spec": {"nodeName": "n1"}}))).await.expect(201);
    assert_eq!(placed["metadata"]["labels"]["topology.kubernetes.io/zone"], "z1", "so does one that is made for it");
}
