//! The admission plug-ins that are off unless somebody wants them.

use crate::{
    hook::{Act, Hook},
    support::{Cluster, merged, pod, user},
};
use apiserver::{AdmissionOptions, Config};
use identity::Trust;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn cluster(name: &str, enable: &[&str], disable: &[&str], settings: &str) -> Cluster {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let file = std::env::temp_dir().join(format!("knarr-plugins-{name}-{}.yaml", std::process::id()));
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n";
    std::fs::write(&file, format!("{head}{settings}")).unwrap();
    let config_file = (!settings.is_empty()).then(|| file.clone());
    let admission = AdmissionOptions { enable: owned(enable), disable: owned(disable), config_file }.check().unwrap();
    std::fs::remove_file(&file).unwrap();
    Cluster::with(Config { admission, ..Config::default() }, Trust::default()).await
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

#[tokio::test]
async fn plug_ins_are_on_and_off_as_asked() {
    let cluster = cluster("off", &["AlwaysAdmit"], &["Priority", "LimitRanger", "NamespaceLifecycle"], "").await;
    let made = cluster.post(PODS, pod("p")).await.expect(201);
    assert!(made["spec"]["priority"].is_null());
    cluster.post("/api/v1/namespaces/nowhere/configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}})).await.expect(201);
    let pods = json!({"tolerations": made["spec"]["tolerations"].as_array().unwrap().len()});
    assert_eq!(pods["tolerations"], 2, "what is on by itself stays on");
}

#[tokio::test]
async fn images_are_always_pulled_and_topology_is_the_host() {
    let cluster = cluster("pods", &["AlwaysPullImages", "LimitPodHardAntiAffinityTopology", "ExtendedResourceToleration"], &[], "").await;
    let extended = json!({"spec": {"containers": [{"name": "c", "image": "i:v1", "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}}}]}});
    let made = cluster.post(PODS, merged(pod("a"), extended)).await.expect(201);
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
    let tolerated = made["spec"]["tolerations"].as_array().unwrap();
    assert!(tolerated.contains(&json!({"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"})), "{tolerated:?}");
    let term = |key: &str| json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key, "labelSelector": {}}]}}}});
    cluster.post(PODS, merged(pod("b"), term("kubernetes.io/hostname"))).await.expect(201);
    let refused = cluster.post(PODS, merged(pod("c"), term("zone"))).await.refused(403);
    assert!(
        refused.ends_with("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed"),
        "{refused}"
    );
}

#[tokio::test]
async fn namespaces_are_made_or_missed() {
    let providing = cluster("provide", &["NamespaceAutoProvision"], &[], "").await;
    providing.post("/api/v1/namespaces/new/configmaps", map("m")).await.expect(201);
    assert_eq!(providing.get("/api/v1/namespaces/new").await.expect(200)["status"]["phase"], "Active");
    providing.post("/api/v1/namespaces/dry/configmaps?dryRun=All", map("m")).await.expect(404);
    let exists = cluster("exists", &["NamespaceExists"], &["NamespaceLifecycle"], "").await;
    assert_eq!(exists.post("/api/v1/namespaces/new/configmaps", map("m")).await.refused(404), "namespaces \"new\" not found");
}

#[tokio::test]
async fn services_take_no_addresses_and_owners_are_not_held_by_strangers() {
    let cluster = cluster("deny", &["DenyServiceExternalIPs", "OwnerReferencesPermissionEnforcement"], &[], "").await;
    let service = |ips: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "externalIPs": ips}});
    let services = "/api/v1/namespaces/default/services";
    let refused = cluster.post(services, service(json!(["192.0.2.1"]))).await.refused(403);
    assert_eq!(refused, "services \"s\" is forbidden: Use of external IPs is denied by admission control");
    cluster.post(services, service(json!([]))).await.expect(201);
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "update", "patch", "get"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "writer"}, "rules": rules});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await.expect(201);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "writer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "writer"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "writer"}],
    });
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.expect(201);
    let writer = user("writer", &[]);
    let owned = |block: bool| json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u", "blockOwnerDeletion": block}]}});
    cluster.post_as(&writer, MAPS, merged(map("a"), owned(false))).await.expect(201);
    let held = cluster.post_as(&writer, MAPS, merged(map("b"), owned(true))).await.refused(403);
    assert!(
        held.starts_with(
            "configmaps \"b\" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: "
        ),
        "{held}"
    );
    cluster.post(MAPS, merged(map("b"), owned(true))).await.expect(201);
    cluster.post_as(&writer, MAPS, map("c")).await.expect(201);
    let taken = cluster.patch_as(&writer, &format!("{MAPS}/c"), owned(false)).await.refused(403);
    assert!(taken.starts_with("configmaps \"c\" is forbidden: cannot set an ownerRef on a resource you can't delete: "), "{taken}");
}

#[tokio::test]
async fn settings_of_plug_ins_are_heard() {
    let settings = r#"
- name: PodNodeSelector
  configuration: {podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: "disk=ssd", default: "disk=ssd,zone=a"}}
- name: PodTolerationRestriction
  configuration: {apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1, kind: Configuration, default: [{key: own, operator: Exists}]}
- name: EventRateLimit
  configuration: {apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: [{type: Namespace, qps: 1, burst: 1}]}
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline}
    exemptions: {usernames: [trusted], namespaces: [kube-system]}
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources: [{resource: persistentvolumeclaims, matchContains: [gold.storageclass]}]
"#;
    let cluster = cluster("settings", &["PodNodeSelector", "PodTolerationRestriction", "EventRateLimit"], &[], settings).await;
    let made = cluster.post(PODS, pod("p")).await.expect(201);
    assert_eq!(made["spec"]["nodeSelector"], json!({"disk": "ssd"}));
    assert!(made["spec"]["tolerations"].as_array().unwrap().iter().any(|toleration| toleration["key"] == "own"));
    let other = cluster.post(PODS, merged(pod("q"), json!({"spec": {"nodeSelector": {"disk": "hdd"}}}))).await.refused(403);
    assert_eq!(other, "pods \"q\" is forbidden: pod node label selector conflicts with its namespace node label selector");
    let outside = cluster.post(PODS, merged(pod("q"), json!({"spec": {"nodeSelector": {"rack": "1"}}}))).await.refused(403);
    assert_eq!(outside, "pods \"q\" is forbidden: pod node label selector labels conflict with its namespace whitelist");
    let host = json!({"spec": {"hostNetwork": true}});
    let refused = cluster.post(PODS, merged(pod("h"), host.clone())).await.refused(403);
    assert!(refused.contains("violates PodSecurity \"baseline:latest\": host namespaces"), "{refused}");
    let trusted = user("trusted", &["system:masters"]);
    cluster.post_as(&trusted, PODS, merged(pod("h"), host)).await.expect(201);
    let event = |name: &str| json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": {"namespace": "default"}});
    let events = "/api/v1/namespaces/default/events";
    cluster.post(events, event("one")).await.expect(201);
    assert_eq!(cluster.post(events, event("two")).await.refused(429), "Too many requests: limit reached on type Namespace for key default");
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
    let uncovered = cluster.post("/api/v1/namespaces/default/persistentvolumeclaims", claim).await.refused(403);
    assert!(
        uncovered.starts_with("persistentvolumeclaims \"c\" is forbidden: insufficient quota to consume: gold.storageclass.storage.k8s.io/"),
        "{uncovered}"
    );
}

#[tokio::test]
async fn everything_is_denied_where_that_is_wanted() {
    let admission = AdmissionOptions { enable: vec!["AlwaysDeny".into()], ..AdmissionOptions::default() }.check().unwrap();
    let cluster = Cluster::bare(Config { admission, ..Config::default() }, Trust::default());
    let refused = cluster.post("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).await.refused(403);
    assert_eq!(refused, "nodes \"n\" is forbidden: admission control is denying all modifications");
}

#[tokio::test]
async fn a_backend_says_which_images_are_run() {
    let hook = Hook::start(|_, review| {
        let image = review["containers"][0]["image"].as_str().unwrap_or_default();
        let status = json!({"allowed": image.starts_with("good"), "reason": format!("not {image}")});
        Act::Body(json!({"kind": "ImageReview", "apiVersion": "imagepolicy.k8s.io/v1alpha1", "status": status}).to_string())
    })
    .await;
    let folder = std::env::temp_dir().join(format!("knarr-images-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("ca.pem"), &hook.ca).unwrap();
    let at = |port: u16, name: &str| {
        let cluster = format!("{{server: \"https://127.0.0.1:{port}/images\", certificate-authority: ca.pem}}");
        std::fs::write(folder.join(name), format!("clusters: [{{name: c, cluster: {cluster}}}]\n")).unwrap();
        folder.join(name).display().to_string()
    };
    let settings =
        |file: String, open: bool| format!("- name: ImagePolicyWebhook\n  configuration: {{imagePolicy: {{kubeConfigFile: {file}, defaultAllow: {open}}}}}\n");
    let asking = cluster("images", &["ImagePolicyWebhook"], &[], &settings(at(hook.port, "here"), false)).await;
    let with = |image: &str| json!({"spec": {"containers": [{"name": "c", "image": image}]}});
    asking.post(PODS, merged(pod("a"), with("good:1"))).await.expect(201);
    asking.post(PODS, merged(pod("b"), with("good:1"))).await.expect(201);
    let refused = asking.post(PODS, merged(pod("c"), with("bad:1"))).await.refused(403);
    assert_eq!(refused, "pods \"c\" is forbidden: image policy webhook backend denied one or more images: not bad:1");
    let reviews: Vec<Value> = hook.seen.lock().unwrap().iter().map(|(_, review)| review["spec"].clone()).collect();
    let spec = |image: &str| json!({"containers": [{"image": image}], "namespace": "default"});
    assert_eq!(reviews, [spec("good:1"), spec("bad:1")], "what was said is remembered");
    let nobody = hook.port;
    drop(hook);
    let open = cluster("open", &["ImagePolicyWebhook"], &[], &settings(at(nobody, "open"), true)).await;
    open.post(PODS, merged(pod("a"), with("bad:1"))).await.expect(201);
    let closed = cluster("closed", &["ImagePolicyWebhook"], &[], &settings(at(nobody, "closed"), false)).await;
    let refused = closed.post(PODS, merged(pod("a"), with("good:1"))).await.refused(403);
    assert!(refused.contains("Post \"https://127.0.0.1:") && refused.ends_with("connection refused"), "{refused}");
    let bare = AdmissionOptions { enable: vec!["ImagePolicyWebhook".into()], ..AdmissionOptions::default() }.check().unwrap_err();
    assert_eq!(bare, ["couldn't init admission plugin \"ImagePolicyWebhook\": no config specified"]);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_pod_is_changed_into_what_its_node_declares() {
    let cluster = Cluster::start().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4", "memory": "1Gi"}}});
    cluster.post("/api/v1/nodes", node).await.expect(201);
    let mut one = merged(pod("p"), json!({"spec": {"nodeName": "n"}}));
    one["spec"]["resources"] = json!({"requests": {"cpu": "1"}});
    cluster.post(PODS, one).await.expect(201);
    let larger = json!({"spec": {"resources": {"requests": {"cpu": "2"}}}});
    let refused = cluster.patch(&format!("{PODS}/p/resize"), larger.clone()).await.refused(403);
    let why = "pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node \"n\"";
    assert_eq!(refused, format!("pods \"p\" is forbidden: {why}"));
    cluster.patch("/api/v1/nodes/n/status", json!({"status": {"declaredFeatures": ["InPlacePodLevelResourcesVerticalScaling"]}})).await.expect(200);
    cluster.patch(&format!("{PODS}/p/resize"), larger).await.expect(200);
}

/// Manifest-based admission: policies of files come before those of the API, and are asked about these, too.
#[tokio::test]
async fn files_say_what_nobody_changes() {
    let folder = std::env::temp_dir().join(format!("knarr-static-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let own = |kind: &str, name: &str, spec: &str| {
        format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy{kind}\nmetadata: {{name: {name}.static.k8s.io}}\nspec: {spec}\n---\n"
        )
    };
    let rule = "{apiGroups: ['*'], apiVersions: [v1], resources: [configmaps, validatingadmissionpolicies], operations: [CREATE]}";
    let validation = "{expression: 'object.metadata.name != \"forbidden\"', message: so the files say}";
    let policy = own("", "a", &format!("{{matchConstraints: {{resourceRules: [{rule}]}}, validations: [{validation}]}}"));
    let binding = own("Binding", "b", "{policyName: a.static.k8s.io, validationActions: [Deny]}");
    std::fs::write(folder.join("all.yaml"), format!("{policy}{binding}")).unwrap();
    let configuration =
        format!("apiVersion: apiserver.config.k8s.io/v1, kind: ValidatingAdmissionPolicyConfiguration, staticManifestsDir: {}", folder.display());
    let cluster = cluster("static", &[], &[], &format!("- name: ValidatingAdmissionPolicy\n  configuration: {{{configuration}}}\n")).await;

    let denied = "ValidatingAdmissionPolicy 'a.static.k8s.io' with binding 'b.static.k8s.io' denied request: so the files say";
    assert!(cluster.post(MAPS, map("forbidden")).await.refused(422).ends_with(denied));
    cluster.post(MAPS, map("fine")).await.expect(201);
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let of_the_api = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "forbidden"},
        "spec": {"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}]},
            "validations": [{"expression": "true"}]}});
    assert!(cluster.post(policies, of_the_api.clone()).await.refused(422).ends_with(denied));
    assert_eq!(cluster.get(policies).await.expect(200)["items"], json!([]), "they are none of the API's");

    // What is wrong changes nothing; what is gone does.
    std::fs::write(folder.join("more.yaml"), "kind: Pod\n").unwrap();
    cluster.api.keep().await;
    assert!(cluster.post(MAPS, map("forbidden")).await.refused(422).ends_with(denied));
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::create_dir_all(&folder).unwrap();
    cluster.api.keep().await;
    cluster.post(MAPS, map("forbidden")).await.expect(201);
    cluster.post(policies, of_the_api).await.expect(201);
    std::fs::remove_dir_all(&folder).unwrap();
}
