//! The same for the writes of a part of an object, of what has no quota and no address, and for those that make an end: what has
//! begun is done whole, whenever its client hangs up (see `dropped.rs`).

use crate::{
    admission::TEAM_CSR,
    dropped::{PODS, QUOTA, at_every_await, finished_at_every_await, hang_up, items, world},
    support::{Cluster, merged, pod},
};
use http::Method;
use serde_json::{Value, json};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const OPERATIONS: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// The kinds that have `/scale`, by their collections.
fn scaled() -> [(&'static str, Value); 4] {
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}});
    let apps = |kind: &str| {
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"labels": {"app": "x"}},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "x"}}, "template": template}})
    };
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"labels": {"app": "x"}},
        "spec": {"replicas": 1, "selector": {"app": "x"}, "template": template}});
    [
        ("/apis/apps/v1/namespaces/default/deployments", apps("Deployment")),
        ("/apis/apps/v1/namespaces/default/replicasets", apps("ReplicaSet")),
        ("/apis/apps/v1/namespaces/default/statefulsets", apps("StatefulSet")),
        ("/api/v1/namespaces/default/replicationcontrollers", controller),
    ]
}

/// Makes an object of a collection; its address.
async fn there(cluster: &Cluster, collection: &str, object: &Value, name: String) -> String {
    let object = merged(object.clone(), json!({"metadata": {"name": name}}));
    cluster.post(collection, object).await.expect(201);
    format!("{collection}/{name}")
}

#[tokio::test]
async fn a_scale_is_set_whole() {
    let world = world("scale").await;
    let cluster = &world.cluster;
    for (collection, object) in scaled() {
        let patches = [
            (Method::PATCH, MERGE, json!({"spec": {"replicas": 7}})),
            (Method::PATCH, OPERATIONS, json!([{"op": "replace", "path": "/spec/replicas", "value": 7}])),
            (Method::PATCH, APPLY, json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 7}})),
            (Method::PUT, JSON, json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 7}})),
        ];
        for (at, (method, media, body)) in patches.into_iter().enumerate() {
            let name = |n: usize| format!("s{at}-{n}");
            let ask = async |n: usize| {
                let uri = there(cluster, collection, &object, name(n)).await;
                let body = if media == OPERATIONS { body.clone() } else { merged(body.clone(), json!({"metadata": {"name": name(n)}})) };
                // Whoever made the object owns its replicas.
                let force = if media == APPLY { "&force=true" } else { "" };
                (format!("{uri}/scale?fieldManager=me{force}"), body)
            };
            let done = async |n: usize| {
                let object = cluster.get(&format!("{collection}/{}", name(n))).await.expect(200);
                assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(7), &json!(2)), "{media}");
                let owners = object["metadata"]["managedFields"].as_array().expect("owners");
                assert_eq!(owners.iter().filter(|o| o["subresource"] == "scale").count(), 1, "who has set it is noted once");
            };
            finished_at_every_await(cluster, method, media, ask, done).await;
        }
        let all = items(cluster, collection).await.len();
        assert_eq!(items(cluster, &format!("{collection}?labelSelector=app%3Dx")).await.len(), all, "the labels find what is there");
    }
}

#[tokio::test]
async fn a_status_is_set_whole() {
    let world = world("status").await;
    let cluster = &world.cluster;
    let [(deployments, deployment), ..] = scaled();
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"labels": {"a": "b"}}});
    let kinds = [
        (deployments, deployment, json!({"observedGeneration": 1, "replicas": 5})),
        (PODS, pod("x"), json!({"phase": "Running", "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}]})),
        (claims, claim, json!({"phase": "Bound"})),
        ("/api/v1/nodes", node, json!({"daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}})),
    ];
    for (collection, object, status) in kinds {
        for (at, media) in [MERGE, STRATEGIC, APPLY, JSON].into_iter().enumerate() {
            let name = |n: usize| format!("s{at}-{n}");
            let method = if media == JSON { Method::PUT } else { Method::PATCH };
            let ask = async |n: usize| {
                let uri = there(cluster, collection, &object, name(n)).await;
                let present = cluster.get(&uri).await.expect(200);
                let body = match media {
                    JSON => merged(present, json!({"status": status})),
                    APPLY => json!({"apiVersion": present["apiVersion"], "kind": present["kind"], "metadata": {"name": name(n)}, "status": status}),
                    _ => json!({"status": status}),
                };
                (format!("{uri}/status?fieldManager=me&force=true").replace("&force=true", if media == APPLY { "&force=true" } else { "" }), body)
            };
            let done = async |n: usize| {
                let object = cluster.get(&format!("{collection}/{}", name(n))).await.expect(200);
                for (field, wanted) in status.as_object().into_iter().flatten() {
                    assert_eq!(&object["status"][field], wanted, "{collection} {media} {field}");
                }
                let owners = object["metadata"]["managedFields"].as_array().unwrap_or_else(|| panic!("{media}: {object:#}"));
                assert!(owners.iter().any(|o| o["subresource"] == "status" && o["manager"] == "me"), "{collection} {media} {owners:?}");
            };
            finished_at_every_await(cluster, method, media, ask, done).await;
        }
    }
}

#[tokio::test]
async fn the_parts_of_a_pod_are_set_whole_and_charged() {
    let world = world("parts").await;
    let cluster = &world.cluster;
    cluster.patch(QUOTA, json!({"spec": {"hard": {"requests.cpu": "1000"}}})).await.expect(200);
    cluster.patch(&format!("{QUOTA}/status"), json!({"status": {"hard": {"requests.cpu": "1000"}, "used": {"requests.cpu": "0"}}})).await.expect(200);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4", "memory": "1Gi"}}});
    cluster.post("/api/v1/nodes", node).await.expect(201);
    let running = async |name: String| {
        let resources = json!({"requests": {"cpu": "100m"}});
        let mut one = pod(&name);
        one["spec"]["containers"][0]["resources"] = resources;
        one["spec"]["nodeName"] = "n".into();
        let uri = there(cluster, PODS, &one, name).await;
        cluster.patch(&format!("{uri}/status"), json!({"status": {"phase": "Running"}})).await.expect(200);
        uri
    };
    let larger = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "250m"}}}]}});
    let resize = async |n: usize| (format!("{}/resize", running(format!("larger-{n}")).await), larger.clone());
    finished_at_every_await(cluster, Method::PATCH, STRATEGIC, resize, async |n| {
        let object = cluster.get(&format!("{PODS}/larger-{n}")).await.expect(200);
        assert_eq!(object["spec"]["containers"][0]["resources"]["requests"]["cpu"], "250m");
    })
    .await;
    let put = async |n: usize| {
        let uri = running(format!("put-{n}")).await;
        let mut object = cluster.get(&uri).await.expect(200);
        object["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "300m".into();
        (format!("{uri}/resize"), object)
    };
    at_every_await(cluster, Method::PUT, JSON, put).await;
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox", "terminationMessagePolicy": "File"}]}});
    let debug = async |n: usize| (format!("{}/ephemeralcontainers", running(format!("debug-{n}")).await), debugger.clone());
    finished_at_every_await(cluster, Method::PATCH, STRATEGIC, debug, async |n| {
        let object = cluster.get(&format!("{PODS}/debug-{n}")).await.expect(200);
        assert_eq!(object["spec"]["ephemeralContainers"].as_array().map(Vec::len), Some(1));
    })
    .await;
    // A binding by its own collection; and an owner that is given to a pod.
    let bind = async |n: usize| {
        let mut one = pod(&format!("bound-{n}"));
        one["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
        there(cluster, PODS, &one, format!("bound-{n}")).await;
        let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": format!("bound-{n}")}, "target": {"kind": "Node", "name": "n"}});
        ("/api/v1/namespaces/default/bindings".to_owned(), body)
    };
    finished_at_every_await(cluster, Method::POST, JSON, bind, async |n| {
        let object = cluster.get(&format!("{PODS}/bound-{n}")).await.expect(200);
        assert_eq!((&object["spec"]["nodeName"], &object["status"]["conditions"][0]["type"]), (&json!("n"), &json!("PodScheduled")));
    })
    .await;
    let owned = async |n: usize| {
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": format!("u{n}")});
        (running(format!("owned-{n}")).await, json!({"metadata": {"ownerReferences": [owner]}}))
    };
    finished_at_every_await(cluster, Method::PATCH, STRATEGIC, owned, async |n| {
        let object = cluster.get(&format!("{PODS}/owned-{n}")).await.expect(200);
        assert_eq!(object["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));
    })
    .await;
}

#[tokio::test]
async fn approvals_and_ends_are_whole() {
    let world = world("ends").await;
    let cluster = &world.cluster;
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "spec": {"request": TEAM_CSR, "signerName": "example.com/signer", "usages": ["client auth"]}});
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "x", "message": "y"}]}});
    for (at, method) in [Method::PUT, Method::PATCH].into_iter().enumerate() {
        let approve = async |n: usize| {
            let uri = there(cluster, CSRS, &request, format!("r{at}-{n}")).await;
            let body = if method == Method::PUT { merged(cluster.get(&uri).await.expect(200), approved.clone()) } else { approved.clone() };
            (format!("{uri}/approval"), body)
        };
        let media = if method == Method::PUT { JSON } else { MERGE };
        finished_at_every_await(cluster, method.clone(), media, approve, async |n| {
            let object = cluster.get(&format!("{CSRS}/r{at}-{n}")).await.expect(200);
            assert_eq!(object["status"]["conditions"][0]["type"], "Approved");
        })
        .await;
    }
    // A namespace that is made, is to go, and goes with its finalizer.
    let named = |name: &str, n: usize| format!("/api/v1/namespaces/{name}-{n}");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace"});
    at_every_await(cluster, Method::POST, JSON, async |n| {
        ("/api/v1/namespaces".to_owned(), merged(namespace.clone(), json!({"metadata": {"name": format!("made-{n}")}})))
    })
    .await;
    let doomed = async |name: &str, n: usize| there(cluster, "/api/v1/namespaces", &namespace, format!("{name}-{n}")).await;
    finished_at_every_await(
        cluster,
        Method::DELETE,
        JSON,
        async |n| (doomed("doomed", n).await, Value::Null),
        async |n| {
            let object = cluster.get(&named("doomed", n)).await.expect(200);
            assert_eq!(object["status"]["phase"], "Terminating");
            assert!(object["metadata"]["deletionTimestamp"].is_string());
        },
    )
    .await;
    let finalize = async |n: usize| {
        let uri = doomed("final", n).await;
        let mut object = cluster.delete(&uri).await.expect(200);
        object["spec"]["finalizers"] = json!([]);
        (format!("{uri}/finalize"), object)
    };
    finished_at_every_await(cluster, Method::PUT, JSON, finalize, async |n| drop(cluster.get(&named("final", n)).await.expect(404))).await;
    // The change that takes the last finalizer is the end.
    let maps = "/api/v1/namespaces/default/configmaps";
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"finalizers": ["example.com/held"]}});
    let free = async |n: usize| {
        let uri = there(cluster, maps, &held, format!("held-{n}")).await;
        cluster.delete(&uri).await.expect(200);
        (uri, json!({"metadata": {"finalizers": null}}))
    };
    finished_at_every_await(cluster, Method::PATCH, MERGE, free, async |n| drop(cluster.get(&format!("{maps}/held-{n}")).await.expect(404))).await;
}

#[tokio::test]
async fn a_token_waits_for_nothing_and_writes_nothing() {
    let world = world("token").await;
    let cluster = &world.cluster;
    let before = cluster.store.revision();
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    assert!(hang_up(cluster, 1, Method::POST, uri, JSON, &request).await, "nobody can hang up in the middle");
    let review =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    assert!(hang_up(cluster, 1, Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", JSON, &review).await);
    assert_eq!(cluster.store.revision(), before);
}
