use super::*;
use crate::testing::{Memory, ask, user};
use serde_json::json;

fn world() -> NodeAuthorizer {
    let pod = json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"nodeName": "n1", "serviceAccountName": "default",
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "by-env"}}}], "envFrom": [{"configMapRef": {"name": "settings"}}]}],
            "volumes": [{"name": "a", "secret": {"secretName": "by-volume"}}, {"name": "b", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "projected"}}]}}]},
    });
    let volume = json!({"spec": {"claimRef": {"namespace": "shop", "name": "data"}, "csi": {"nodeStageSecretRef": {"namespace": "storage", "name": "stage"}}}});
    let claim = json!({"spec": {"volumeName": "pv"}});
    NodeAuthorizer::new(Memory::of([
        ("/registry/pods/shop/web", pod),
        ("/registry/persistentvolumes/pv", volume),
        ("/registry/persistentvolumeclaims/shop/data", claim),
    ]))
}

#[test]
fn a_node_reads_what_its_pods_need_and_nothing_else() {
    let world = world();
    let (mine, other) = (user("system:node:n1", &["system:nodes"]), user("system:node:n2", &["system:nodes"]));
    let may = |who, resource, namespace, name| world.authorize(&ask(who, "get", "", resource, namespace, name)).0 == Decision::Allow;
    for (resource, namespace, name) in [
        ("secrets", "shop", "by-env"),
        ("secrets", "shop", "by-volume"),
        ("secrets", "shop", "projected"),
        ("secrets", "storage", "stage"),
        ("configmaps", "shop", "settings"),
        ("persistentvolumeclaims", "shop", "data"),
        ("persistentvolumes", "", "pv"),
        ("serviceaccounts", "shop", "default"),
    ] {
        assert!(may(&mine, resource, namespace, name), "{resource} {name}");
        assert!(!may(&other, resource, namespace, name), "{resource} {name} of another node");
    }
    assert!(!may(&mine, "secrets", "shop", "else"));
    assert!(!may(&mine, "secrets", "kube-system", "by-env"));
    let (_, why) = world.authorize(&ask(&mine, "get", "", "secrets", "shop", "else"));
    assert_eq!(why, "no relationship found between node 'n1' and this object");
    let (_, why) = world.authorize(&ask(&mine, "delete", "", "secrets", "shop", "by-env"));
    assert_eq!(why, "can only read resources of this type");
}

#[test]
fn a_node_writes_its_own_objects_only() {
    let world = world();
    let mine = user("system:node:n1", &["system:nodes"]);
    let may = |verb, group, resource, namespace, name| world.authorize(&ask(&mine, verb, group, resource, namespace, name)).0 == Decision::Allow;
    assert!(may("patch", "", "nodes/status", "", "n1"));
    // Which of them it may write, admission says (NodeRestriction), in its own words.
    assert!(may("patch", "", "nodes/status", "", "n2") && may("update", "", "nodes", "", "n2"));
    assert!(!may("delete", "", "nodes", "", "n1") && !may("get", "", "nodes/status", "", "n1") && !may("update", "", "nodes/proxy", "", "n1"));
    assert!(may("update", "coordination.k8s.io", "leases", "kube-node-lease", "n1"));
    assert!(!may("update", "coordination.k8s.io", "leases", "kube-node-lease", "n2"));
    assert!(!may("update", "coordination.k8s.io", "leases", "default", "n1"));
    assert!(may("create", "", "serviceaccounts/token", "shop", "default"));
    assert!(!may("create", "", "serviceaccounts/token", "shop", "admin"));
    assert!(may("create", "", "events", "shop", ""));
    assert!(!may("create", "", "secrets", "shop", ""));
    assert!(!may("list", "", "nodes", "", ""));
}

#[test]
fn a_node_reads_its_own_slices_only() {
    let slice = |node: &str| json!({"spec": {"driver": "d.io", "nodeName": node}});
    let world = NodeAuthorizer::new(Memory::of([("/registry/resourceslices/mine", slice("n1")), ("/registry/resourceslices/theirs", slice("n2"))]));
    let node = user("system:node:n1", &["system:nodes"]);
    let told = |verb, resource, name, fields: &str| {
        let fields = machinery::fields::FieldSelector::parse(fields).expect("a selector");
        world.authorize(&Attributes { fields: Some(&fields), ..ask(&node, verb, "resource.k8s.io", resource, "", name) })
    };
    let may = |verb, name, fields| told(verb, "resourceslices", name, fields).0 == Decision::Allow;
    for verb in ["get", "update", "patch", "delete"] {
        assert!(may(verb, "mine", "") && !may(verb, "theirs", "") && !may(verb, "none", ""), "{verb}");
    }
    assert!(may("create", "", ""));
    for verb in ["list", "watch", "deletecollection"] {
        assert!(may(verb, "", "spec.nodeName=n1") && may(verb, "", "spec.driver=d.io,spec.nodeName==n1"), "{verb}");
        for fields in ["", "spec.nodeName=n2", "spec.nodeName!=n1", "spec.driver=n1"] {
            let (decision, why) = told(verb, "resourceslices", "", fields);
            assert_eq!(decision, Decision::NoOpinion, "{verb} {fields}");
            assert_eq!(why, "can only list/watch/deletecollection resourceslices with nodeName field selector");
        }
    }
    assert_eq!(told("get", "resourceslices/status", "mine", "").1, "cannot authorize ResourceSlice subresources");
    assert!(!may("impersonate", "mine", ""));
}

#[test]
fn a_node_lists_its_own_pods_and_its_own_node_only() {
    let pod = |node: &str| json!({"spec": {"nodeName": node}});
    let world = NodeAuthorizer::new(Memory::of([("/registry/pods/shop/mine", pod("n1")), ("/registry/pods/shop/theirs", pod("n2"))]));
    let node = user("system:node:n1", &["system:nodes"]);
    let told = |verb, resource, name, fields: &str| {
        let fields = machinery::fields::FieldSelector::parse(fields).expect("a selector");
        world.authorize(&Attributes { fields: Some(&fields), ..ask(&node, verb, "", resource, "shop", name) })
    };
    for verb in ["list", "watch"] {
        assert_eq!(told(verb, "pods", "", "spec.nodeName=n1").0, Decision::Allow);
        for fields in ["", "spec.nodeName=n2", "spec.nodeName!=n1", "status.phase=Running"] {
            let why = "can only list/watch pods with spec.nodeName field selector".to_owned();
            assert_eq!(told(verb, "pods", "", fields), (Decision::NoOpinion, why), "{verb} {fields}");
        }
        assert_eq!([told(verb, "pods", "mine", "").0, told(verb, "pods", "theirs", "").0], [Decision::Allow, Decision::NoOpinion]);
        assert_eq!(told(verb, "pods", "none", "").1, "no relationship found between node 'n1' and this object", "it may come, and be another node's");
        assert_eq!(told(verb, "nodes", "", "").1, "node 'n1' cannot read all nodes, only its own Node object");
        assert_eq!(told(verb, "nodes", "n2", "").1, "node 'n1' cannot read 'n2', only its own Node object");
    }
    for (verb, resource) in [("create", "pods"), ("delete", "pods"), ("update", "pods/status"), ("patch", "pods/status"), ("create", "pods/eviction")] {
        assert_eq!(told(verb, resource, "mine", "").0, Decision::Allow, "{verb} {resource}");
    }
    for (verb, resource) in [("update", "pods"), ("deletecollection", "pods"), ("get", "pods/log"), ("create", "pods/exec"), ("create", "pods/binding")] {
        assert_eq!(told(verb, resource, "mine", "").0, Decision::NoOpinion, "{verb} {resource}");
    }
}

#[test]
fn a_refusal_has_its_reason_where_the_original_gives_one() {
    let request = |node: &str| json!({"spec": {"nodeName": node}});
    let (mine, theirs) = ("/registry/podcertificaterequests/shop/mine", "/registry/podcertificaterequests/shop/theirs");
    let world = NodeAuthorizer::new(Memory::of([(mine, request("n1")), (theirs, request("n2"))]));
    let node = user("system:node:n1", &["system:nodes"]);
    let why = |verb, group, resource, name| world.authorize(&ask(&node, verb, group, resource, "shop", name)).1;
    for name in ["n1", "n2"] {
        assert_eq!(why("delete", "", "nodes", name), "");
    }
    assert_eq!(why("get", "", "persistentvolumeclaims/status", "data"), "can only get/update/patch this type");
    assert_eq!(why("list", "", "serviceaccounts", ""), "can only create tokens for individual service accounts");
    assert_eq!(why("create", "", "serviceaccounts", "a"), "can only create token subresource of serviceaccount");
    assert_eq!(why("update", "storage.k8s.io", "csinodes/status", "n1"), "CSINode status access requires CSIVolumeHealth feature");
    let of_certificates = |verb, resource, name| why(verb, "certificates.k8s.io", resource, name);
    assert_eq!(of_certificates("get", "podcertificaterequests", "mine"), "");
    assert_eq!(of_certificates("get", "podcertificaterequests", "theirs"), "no relationship found between node 'n1' and this object");
    assert_eq!(of_certificates("list", "podcertificaterequests", ""), "can only list/watch podcertificaterequests with nodeName field selector");
    assert_eq!(of_certificates("delete", "podcertificaterequests", "mine"), "nodes may not delete podcertificaterequests");
    let status = "nodes may not access the status subresource of PodCertificateRequests";
    assert_eq!(of_certificates("update", "podcertificaterequests/status", "mine"), status);
    let nameless = user("system:node:", &["system:nodes"]);
    let why = world.authorize(&ask(&nameless, "get", "", "nodes", "", "n1")).1;
    assert_eq!(why, "unknown node for user \"system:node:\"");
}

#[test]
fn who_is_no_node_is_not_judged() {
    let stranger = user("system:node:n1", &["others"]);
    assert_eq!(world().authorize(&ask(&stranger, "get", "", "nodes", "", "n1")), (Decision::NoOpinion, String::new()));
}

#[test]
fn a_question_looks_into_what_has_changed_alone() {
    let pod = |name: &str, node: &str| json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"nodeName": node, "volumes": [{"name": "a", "secret": {"secretName": name}}]}});
    let memory = Memory::of([]);
    for n in 0..100 {
        memory.put(&format!("/registry/pods/shop/p{n}"), pod(&format!("p{n}"), if n < 5 { "n1" } else { "n2" }));
        memory.put(&format!("/registry/persistentvolumes/v{n}"), json!({"spec": {"claimRef": {"namespace": "shop", "name": "c"}}}));
    }
    let world = NodeAuthorizer::new(Arc::clone(&memory) as Arc<dyn Objects>);
    let node = user("system:node:n1", &["system:nodes"]);
    let may = |name: &str| world.authorize(&ask(&node, "get", "", "secrets", "shop", name)).0 == Decision::Allow;
    let decoded = || memory.decoded.load(std::sync::atomic::Ordering::Relaxed);
    assert!(!may("unknown") && !may("p50") && may("p4"));
    assert_eq!(decoded(), 5, "the node's own pods, once");
    memory.put("/registry/pods/shop/p0", pod("other", "n1"));
    assert!(may("other") && !may("p0"));
    assert_eq!(decoded(), 6, "what has changed");
}

#[test]
fn a_mirror_pod_gives_its_node_nothing() {
    let pod = json!({"metadata": {"name": "m", "namespace": "shop", "annotations": {"kubernetes.io/config.mirror": "x"}},
        "spec": {"nodeName": "n1", "volumes": [{"name": "a", "secret": {"secretName": "s"}}]}});
    let world = NodeAuthorizer::new(Memory::of([("/registry/pods/shop/m", pod)]));
    let node = user("system:node:n1", &["system:nodes"]);
    assert_eq!(world.authorize(&ask(&node, "get", "", "secrets", "shop", "s")).0, Decision::NoOpinion);
}
