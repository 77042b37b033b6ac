//! Pods as users write them, and what becomes of them.

use super::*;
use machinery::{defaulting, gvk::Gvk, schema};
use std::time::{Duration, Instant, SystemTime};

const FOREIGN: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
    `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
    (allow it to be set to 1 if it was previously negative)";

fn cx() -> Context {
    Context::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), "admin")
}

/// Defaults as the path adds them: the schema's, then the kind's.
fn defaulted(mut obj: Value) -> Value {
    let ty = schema::builtin().kind(&Gvk::parse("v1", "Pod")).unwrap();
    defaulting::apply(ty, &mut obj);
    Pods.default(&mut obj);
    obj
}

fn pod(spec: Value) -> Value {
    defaulted(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "n"}, "spec": spec}))
}

fn created(spec: Value) -> Value {
    let mut obj = pod(spec);
    Pods.prepare_create(&cx(), &mut obj);
    obj
}

fn problems(spec: Value) -> Vec<String> {
    Pods.validate(&created(spec)).iter().map(ToString::to_string).collect()
}

fn container(extra: Value) -> Value {
    let mut out = json!({"name": "c", "image": "nginx:1"});
    out.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"containers": [out]})
}

#[test]
fn a_domain_to_search_is_not_too_long() {
    let told = |domain: &str| {
        let mut spec = container(json!({}));
        spec["dnsConfig"] = json!({"searches": [domain]});
        problems(spec)
    };
    let long = "a".repeat(254);
    let too_long = |domain: &str| format!("spec.dnsConfig.searches[0]: Invalid value: {domain:?}: must be no more than 253 characters");
    assert_eq!(told(&format!("_{}.", &long[2..])), Vec::<String>::new());
    assert_eq!(told(&long), [too_long(&long)]);
    let with_underscore = format!("_{}", &long[1..]);
    assert_eq!(told(&with_underscore), [too_long(&with_underscore)]);
    let both = told(&long.to_uppercase());
    assert_eq!((both.len(), &both[0]), (2, &too_long(&long.to_uppercase())));
}

#[test]
fn a_plain_pod_is_completed_and_accepted() {
    let obj = created(json!({"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}]}]}));
    assert_eq!(Pods.validate(&obj), vec![]);
    assert_eq!(
        obj["spec"],
        json!({
            "containers": [{"name": "c", "image": "nginx", "imagePullPolicy": "Always", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30
        })
    );
    assert_eq!(obj["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(obj["metadata"]["generation"], 1);
    let again = defaulted(obj.clone());
    assert_eq!(again, obj, "defaults are added once");
}

#[test]
fn the_class_follows_requests_and_limits() {
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "100m"}}), "Burstable"),
        (json!({"limits": {"cpu": "100m", "memory": "1Mi"}}), "Guaranteed"),
        (json!({"requests": {"memory": "1Mi"}, "limits": {"cpu": "1", "memory": "2Mi"}}), "Burstable"),
        (json!({"limits": {"cpu": "-1"}}), "Burstable"),
    ] {
        assert_eq!(created(container(json!({"resources": resources})))["status"]["qosClass"], class);
    }
}

/// A spec with a projected volume of trust anchors.
fn bundle(source: Value) -> Value {
    json!({"containers": [{"name": "c", "image": "x"}], "volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": source}]}}]})
}

/// A spec with a projected volume of a certificate, with this changed.
fn certificate(change: Value) -> Value {
    let mut source = json!({"signerName": "example.com/s", "keyType": "ED25519", "credentialBundlePath": "all.pem"});
    for (key, value) in change.as_object().into_iter().flatten() {
        source[key] = value.clone();
    }
    json!({"containers": [{"name": "c", "image": "x"}], "volumes": [{"name": "v", "projected": {"sources": [{"podCertificate": source}]}}]})
}

#[test]
fn certificates_of_pods_are_asked_for_within_bounds() {
    let at = "spec.volumes[0].projected.sources[0].podCertificate";
    for (change, wrong) in [
        (json!({"maxExpirationSeconds": 3600}), None),
        (json!({"maxExpirationSeconds": 7_862_400, "userAnnotations": {"example.com/Path": "a"}}), None),
        (
            json!({"maxExpirationSeconds": 3599}),
            Some(format!("{at}.maxExpirationSeconds: Invalid value: 3599: if provided, maxExpirationSeconds must be >= 3600")),
        ),
        (
            json!({"maxExpirationSeconds": 7_862_401}),
            Some(format!("{at}.maxExpirationSeconds: Invalid value: 7862401: if provided, maxExpirationSeconds must be <= 7862400")),
        ),
        (
            json!({"maxExpirationSeconds": 86_401, "signerName": "kubernetes.io/s"}),
            Some(format!("{at}.maxExpirationSeconds: Invalid value: 86401: if provided, maxExpirationSeconds must be <= 86400")),
        ),
        (
            json!({"keyType": "RSA1024"}),
            Some(format!(
                "{at}.keyType: Unsupported value: \"RSA1024\": supported values: \"RSA3072\", \"RSA4096\", \"ECDSAP256\", \"ECDSAP384\", \"ECDSAP521\", \"ED25519\""
            )),
        ),
        (
            json!({"credentialBundlePath": ""}),
            Some(format!("{at}: Required value: specify at least one of credentialBundlePath, keyPath, and certificateChainPath")),
        ),
        (json!({"keyPath": "/k"}), Some(format!("{at}.keyPath: Invalid value: \"/k\": must be a relative path"))),
        (json!({"keyPath": "all.pem"}), Some("spec.volumes[0].projected: Invalid value: \"all.pem\": conflicting duplicate paths".to_owned())),
        (
            json!({"userAnnotations": {"plain": "a"}}),
            Some(format!("{at}.userAnnotations: Invalid value: \"plain\": must be a domain-prefixed key (such as \"acme.io/foo\")")),
        ),
    ] {
        let errors: Vec<String> = problems(certificate(change));
        assert_eq!(errors, wrong.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn what_is_wrong_is_said_in_the_originals_words() {
    let cases = [
        (json!({}), "spec.containers: Required value"),
        (
            json!({"containers": [{"name": "A_b", "image": "x"}]}),
            "spec.containers[0].name: Invalid value: \"A_b\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        (
            container(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            container(json!({"resources": {"requests": {"example.com/gpu": "1"}}})),
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})), "spec.containers[0].volumeMounts[0].name: Not found: \"v\""),
        (
            container(json!({"env": [{"name": "A", "valueFrom": {}}]})),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        (container(json!({"livenessProbe": {}})), "spec.containers[0].livenessProbe: Required value: must specify a handler type"),
        (container(json!({"image": ""})), "spec.containers[0].image: Required value"),
        (
            container(json!({"imagePullPolicy": "Sometimes"})),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (json!({"containers": [{"name": "c", "image": "x"}, {"name": "c", "image": "x"}]}), "spec.containers[1].name: Duplicate value: \"c\""),
        (
            json!({"containers": [{"name": "c", "image": "x"}], "restartPolicy": "Foo"}),
            "spec.restartPolicy: Unsupported value: \"Foo\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "x"}], "ephemeralContainers": [{"name": "e", "image": "x"}]}),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            json!({"containers": [{"name": "c", "image": "x"}], "nodeName": "n", "schedulingGates": [{"name": "a.b/c"}]}),
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ),
        (
            json!({"containers": [{"name": "c", "image": "x"}], "initContainers": [{"name": "i", "image": "x", "readinessProbe": {"exec": {"command": ["a"]}}}]}),
            "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (json!({"containers": [{"name": "c", "image": "x"}], "volumes": [{"name": "v", "secret": {}}]}), "spec.volumes[0].secret.secretName: Required value"),
        (bundle(json!({"path": "p"})), "spec.volumes[0].projected.sources[0].clusterTrustBundle: Required value: either name or signerName must be specified"),
        (
            bundle(json!({"path": "../p", "name": "a"})),
            "spec.volumes[0].projected.sources[0].clusterTrustBundle.path: Invalid value: \"../p\": must not contain '..'",
        ),
        (
            bundle(json!({"path": "p", "name": "a", "labelSelector": {}})),
            "spec.volumes[0].projected.sources[0].clusterTrustBundle.labelSelector: Invalid value: {}: labelSelector must be unset if name is specified",
        ),
        (
            bundle(json!({"path": "p", "signerName": "x"})),
            "spec.volumes[0].projected.sources[0].clusterTrustBundle.signerName: Invalid value: \"x\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ),
        (bundle(json!({"name": "example.com:s:a", "labelSelector": null})), "spec.volumes[0].projected.sources[0].clusterTrustBundle.path: Required value"),
        (
            json!({"containers": [{"name": "c", "image": "x", "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name['a']"}}}]}]}),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.name['a']\": error converting fieldPath: field label does not support subscript: metadata.name['a']",
        ),
        (
            json!({"containers": [{"name": "c", "image": "x"}], "securityContext": {"sysctls": [{"name": "foo-"}]}}),
            "spec.securityContext.sysctls[0].name: Invalid value: \"foo-\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
        ),
        (
            json!({"containers": [{"name": "c", "image": "x", "lifecycle": {"preStop": {"sleep": {"seconds": 60}}}}]}),
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 60: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(problems(spec.clone()), vec![expected.to_owned()], "{spec}");
    }
}

#[test]
fn an_update_may_change_images_and_little_else() {
    let old = created(container(json!({})));
    let change = |f: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        f(&mut new);
        let found: Vec<String> = Pods.validate_update(&new, &old).iter().map(ToString::to_string).collect();
        found
    };
    assert_eq!(change(&|p| p["spec"]["containers"][0]["image"] = "nginx:2".into()), Vec::<String>::new());
    assert_eq!(change(&|p| p["spec"]["activeDeadlineSeconds"] = 5.into()), Vec::<String>::new());
    let found = change(&|p| p["spec"]["nodeSelector"] = json!({"a": "b"}));
    let [told] = found.as_slice() else { panic!("{found:?}") };
    let changed = "\n- \"NodeSelector\": null,\n+ \"NodeSelector\": {\n+  \"a\": \"b\"\n+ },\n";
    assert!(told.starts_with(&format!("spec: Forbidden: {FOREIGN}\n@@ ")) && told.contains(changed), "{told}");
    let found = change(&|p| p["spec"]["containers"] = json!([]));
    assert!(found.contains(&"spec.containers: Forbidden: pod updates may not add or remove containers".to_owned()), "{found:?}");
}

#[test]
fn a_gated_pod_is_narrowed_only() {
    let mut spec = container(json!({}));
    spec["schedulingGates"] = json!([{"name": "a.b/c"}]);
    spec["nodeSelector"] = json!({"a": "b"});
    let old = created(spec);
    assert_eq!(old["status"]["conditions"][0]["reason"], "SchedulingGated");
    let mut new = old.clone();
    new["spec"]["nodeSelector"]["c"] = "d".into();
    new["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "k", "operator": "Exists"}]}]}}});
    assert_eq!(Pods.validate_update(&new, &old), vec![]);
    new["spec"]["nodeSelector"] = json!({});
    let found = Pods.validate_update(&new, &old);
    assert_eq!(found[0].detail, "only additions to spec.nodeSelector are allowed (no mutations or deletions)");
}

#[test]
fn status_writers_leave_the_rest_alone() {
    let old = created(container(json!({})));
    let mut new = old.clone();
    new["spec"]["nodeName"] = "elsewhere".into();
    new["metadata"]["labels"] = json!({"a": "b"});
    new["status"] = json!({"phase": "Running", "podIP": "10.0.0.1"});
    let mut new = defaulted(new);
    Pods.prepare_status(&cx(), &mut new, &old);
    assert_eq!(Pods.validate_status(&new, &old), vec![]);
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(new["status"], json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "qosClass": "BestEffort"}));
    new["status"]["qosClass"] = "Burstable".into();
    assert_eq!(Pods.validate_status(&new, &old)[0].to_string(), "status.qosClass: Invalid value: \"Burstable\": field is immutable");
}

#[test]
fn what_has_ended_does_not_run_again() {
    let mut old = created(json!({"containers": [{"name": "c", "image": "x:1"}], "restartPolicy": "Never"}));
    old["status"]["containerStatuses"] = json!([{"name": "c", "state": {"terminated": {"exitCode": 1}}}]);
    let mut new = old.clone();
    new["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
    let found = Pods.validate_status(&new, &old);
    assert_eq!(found[0].to_string(), "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state");
    old["spec"]["restartPolicy"] = "OnFailure".into();
    assert_eq!(Pods.validate_status(&new, &old), vec![]);
}

#[test]
fn a_sysctl_may_be_told_in_both_spellings() {
    let told = |host: &str, names: &[&str]| {
        let sysctls: Vec<Value> = names.iter().map(|name| json!({"name": name, "value": "1"})).collect();
        let spec = json!({"containers": [{"name": "c", "image": "x"}], host: true, "securityContext": {"sysctls": sysctls}});
        Pods.validate(&created(spec)).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(told("hostPID", &["kernel.shmmax", "kernel/shmmax", "net/a.b", "net/a/b"]).is_empty());
    assert_eq!(told("hostPID", &["kernel.sem", "kernel.sem"]), ["spec.securityContext.sysctls[1].name: Duplicate value: \"kernel.sem\""]);
    let refused =
        |name: &str, host: &str| vec![format!("spec.securityContext.sysctls[0].name: Invalid value: \"{name}\": may not be specified when '{host}' is true")];
    assert_eq!(told("hostNetwork", &["net/ipv4/conf/eth0.100/rp_filter"]), refused("net/ipv4/conf/eth0.100/rp_filter", "hostNetwork"));
    assert!(told("hostNetwork", &["kernel.sem", "net/a.b"]).len() == 1, "of the namespaces that it has one is the host's");
    for name in ["kernel.sem", "kernel/msgmax", "fs.mqueue.msg_max"] {
        assert_eq!(told("hostIPC", &[name]), refused(name, "hostIPC"));
    }
    assert!(told("hostIPC", &["kernel.shmlike", "user.max_ipc_namespaces"]).is_empty());
}

#[test]
fn a_resize_changes_amounts_and_not_the_class() {
    let old = created(container(json!({"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}})));
    let mut new = old.clone();
    new["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "300m".into();
    new["spec"]["containers"][0]["image"] = "other:1".into();
    new["metadata"]["labels"] = json!({"new": "one"});
    Pods.prepare_through(&cx(), "resize", &mut new, &old);
    assert_eq!(Pods.validate_through("resize", &new, &old), vec![]);
    assert_eq!(new["spec"]["containers"][0]["image"], "nginx:1", "a resize changes nothing else");
    assert_eq!(new["metadata"].get("labels"), None);
    assert_eq!(new["metadata"]["generation"], 2);
    new["spec"]["containers"][0]["resources"] = json!({});
    let found: Vec<String> = Pods.validate_through("resize", &new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(found[0], "spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing".replace("BestEffort", "Burstable"));
    assert!(found.contains(&"spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed".to_owned()), "{found:?}");
    new["spec"]["containers"][0]["resources"] = Value::Null;
    let gone: Vec<String> = Pods.validate_through("resize", &new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(gone, found, "whether they are empty or gone");
    let mut none = json!({"metadata": old["metadata"], "spec": {}});
    Pods.prepare_through(&cx(), "resize", &mut none, &old);
    assert!(none["status"].is_null(), "what has other containers is judged as it is");
}

#[test]
fn a_resize_of_the_whole_pod_has_amounts() {
    let told = |old: &Value, own: Value| {
        let mut new = old.clone();
        new["spec"]["resources"] = own;
        Pods.prepare_through(&cx(), "resize", &mut new, old);
        Pods.validate_through("resize", &new, old).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let plain = created(container(json!({"resources": {"requests": {"cpu": "100m"}}})));
    for empty in [json!({}), json!({"limits": {}}), json!({"requests": {}, "limits": {}})] {
        assert_eq!(told(&plain, empty), ["spec: Forbidden: only cpu and memory resources are mutable"]);
    }
    assert_eq!(told(&plain, Value::Null), Vec::<String>::new());
    assert_eq!(told(&plain, json!({"requests": {"cpu": "200m"}})), Vec::<String>::new());
    let claims = told(&plain, json!({"claims": [{"name": "x"}]}));
    assert!(!claims.is_empty() && !claims.iter().any(|line| line.starts_with("spec: ")), "{claims:?}");
    let mut empty = plain.clone();
    empty["spec"]["resources"] = json!({});
    assert_eq!(told(&empty, json!({"limits": {}})), Vec::<String>::new());
    let mut whole = plain.clone();
    whole["spec"]["resources"] = json!({"requests": {"cpu": "200m"}});
    assert!(told(&whole, json!({"requests": {}})).contains(&"spec.resources.requests: Forbidden: pod-level resource requests cannot be removed".to_owned()));
}

#[test]
fn what_ends_is_not_resized_by_another_start() {
    let of = |more: Value| {
        let mut spec = container(more);
        spec["initContainers"] = spec["containers"].clone();
        spec["initContainers"][0]["name"] = "i".into();
        spec["containers"] = container(json!({}))["containers"].clone();
        let old = created(spec);
        let mut new = old.clone();
        new["spec"]["initContainers"][0]["resizePolicy"] = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
        Pods.validate_through("resize", &new, &old).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    const MORE: &str = "spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable";
    const ENDS: &str = "spec.initContainers[0]: Forbidden: non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
    let (ends, sidecar) = (of(json!({})), of(json!({"restartPolicy": "Always"})));
    assert!(ends.ends_with(&[MORE.to_owned(), ENDS.to_owned()]), "{ends:?}");
    assert!(sidecar.ends_with(&[MORE.to_owned()]), "{sidecar:?}");
}

#[test]
fn ephemeral_containers_are_only_added() {
    let check = |new: &Value, old: &Value| Pods.validate_through("ephemeralcontainers", new, old);
    let old = created(container(json!({})));
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "busybox:1", "targetContainerName": "c"}]);
    let mut new = defaulted(new);
    new["spec"]["nodeName"] = "other".into();
    Pods.prepare_through(&cx(), "ephemeralcontainers", &mut new, &old);
    assert_eq!((new["spec"].get("nodeName"), &new["metadata"]["generation"]), (None, &json!(2)), "nothing else changes");
    assert_eq!(check(&new, &old), vec![]);
    let mut bad = new.clone();
    bad["spec"]["ephemeralContainers"][0]["ports"] = json!([{"containerPort": 1, "protocol": "TCP"}]);
    let found: Vec<String> = check(&bad, &old).iter().map(ToString::to_string).collect();
    assert_eq!(found, vec!["spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container"]);
    let found = check(&old, &new);
    assert_eq!(found[0].to_string(), "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n");
    let mut changed = new.clone();
    changed["spec"]["ephemeralContainers"][0]["image"] = "busybox:2".into();
    let found = check(&changed, &new)[0].to_string();
    assert!(found.starts_with("spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be changed\n"), "{found}");
}

#[test]
fn an_annotation_of_old_says_what_its_field_says() {
    let pod = json!({"metadata": {"annotations": {
        "seccomp.security.alpha.kubernetes.io/pod": "localhost/a",
        "container.seccomp.security.alpha.kubernetes.io/c": "docker/default",
        "container.apparmor.security.beta.kubernetes.io/c": "unconfined",
    }}, "spec": {
        "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "b"}, "appArmorProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}],
    }});
    let mut errors = Vec::new();
    super::annotations_agree(&pod, &Path::root("spec"), &mut errors);
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "spec.securityContext.seccompProfile.localhostProfile: Forbidden: seccomp profile in annotation and field must match",
            "spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"
        ]
    );
}

#[test]
fn a_disk_of_gce_is_told_of_by_upstreams_name() {
    let told = |problems: Vec<machinery::field::Error>| problems.iter().map(|error| error.path.to_string()).collect::<Vec<_>>();
    let mut errors = Vec::new();
    super::volumes::check(&json!({"volumes": [{"name": "v", "gcePersistentDisk": {"pdName": ""}}]}), "", &Path::root("spec"), &mut errors);
    assert_eq!(told(errors), ["spec.volumes[0].persistentDisk.pdName"]);
}

#[test]
fn a_claim_that_is_made_for_a_pod_is_no_claim_to_refer_to() {
    let claim = json!({"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}});
    let spec = json!({"volumes": [{"name": "v", "ephemeral": claim}, {"name": "w", "persistentVolumeClaim": {"claimName": "p-v"}}]});
    let told = |pod: &str| {
        let mut errors = Vec::new();
        super::volumes::check(&spec, pod, &Path::root("spec"), &mut errors);
        errors.iter().map(|error| error.path.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told("p"), ["spec.volumes[1].persistentVolumeClaim.claimName"]);
    assert_eq!(told("P"), ["spec.volumes[0].name"]);
    assert!(told("").is_empty());
}

#[test]
fn the_long_name_of_a_pod_is_not_shown_for_each_volume() {
    let volumes: Vec<Value> = (0..100).map(|n| json!({"name": format!("v{n}"), "ephemeral": {}})).collect();
    let spec = json!({ "volumes": volumes });
    let told = |pod: &str| {
        let mut errors = Vec::new();
        super::volumes::check(&spec, pod, &Path::root("spec"), &mut errors);
        errors.iter().map(ToString::to_string).filter(|line| line.contains("PVC name")).count()
    };
    assert_eq!(told(&"p".repeat(1000)), crate::rules::LISTS_TOLD_MAX);
    assert_eq!(told(&"p".repeat(252)), 100, "each is told");
}

#[test]
fn a_pod_requests_the_huge_pages_that_limit_it() {
    let own = json!({"limits": {"hugepages-2Mi": "2Mi", "cpu": "1"}, "requests": {"hugepages-2Mi": "2Mi", "cpu": "1"}});
    let mut spec = json!({"resources": {"limits": {"hugepages-2Mi": "4Mi", "cpu": "2"}}, "containers": [{"resources": own}]});
    super::defaults::pod_level_requests(&mut spec);
    assert_eq!(spec["resources"]["requests"], json!({"hugepages-2Mi": "4Mi", "cpu": "1"}));
}

#[test]
fn grace_is_the_pods_unless_it_never_ran() {
    let mut obj = created(container(json!({})));
    assert_eq!(Pods.grace_period(&obj, None), 0, "not scheduled");
    obj["spec"]["nodeName"] = "n".into();
    assert_eq!(Pods.grace_period(&obj, None), 30);
    assert_eq!(Pods.grace_period(&obj, Some(-1)), 1);
    assert_eq!(Pods.grace_period(&obj, Some(0)), 0);
    obj["status"]["phase"] = "Succeeded".into();
    assert_eq!(Pods.grace_period(&obj, Some(9)), 0, "over");
}

#[test]
fn own_labels_go_into_the_selectors_that_ask_for_them() {
    let mut obj = pod(json!({"containers": [{"name": "c", "image": "x:1"}], "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}, "matchLabelKeys": ["hash", "absent"]}]}));
    obj["metadata"]["labels"] = json!({"hash": "1"});
    Pods.prepare_create(&cx(), &mut obj);
    assert_eq!(Pods.validate(&obj), vec![]);
    let selector = &obj["spec"]["topologySpreadConstraints"][0]["labelSelector"];
    assert_eq!(*selector, json!({"matchExpressions": [{"key": "hash", "operator": "In", "values": ["1"]}]}));
}

#[test]
fn warnings_name_what_does_nothing() {
    let obj = created(container(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
        "ports": [{"containerPort": 80}, {"containerPort": 80}]})));
    assert_eq!(
        Pods.warnings(&obj, None),
        vec![
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        ]
    );
}

#[test]
fn an_annotation_that_a_field_repeats_is_not_warned_of() {
    let told = |context: Value, os: &str| {
        let mut obj = pod(container(json!({"securityContext": context})));
        let key = "container.apparmor.security.beta.kubernetes.io/c";
        (obj["metadata"]["annotations"], obj["spec"]["os"]) = (json!({key: "runtime/default"}), json!({"name": os}));
        let told = Pods.preparing(&obj);
        Pods.prepare_create(&cx(), &mut obj);
        assert!(Pods.warnings(&obj, None).is_empty(), "it is told while it is readied");
        told
    };
    let alone = "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead";
    assert_eq!(told(json!({}), "linux"), [alone]);
    assert!(told(json!({}), "windows").is_empty());
    assert!(told(json!({"appArmorProfile": {"type": "RuntimeDefault"}}), "linux").is_empty());
}

/// Not a promise about the machine: a guard against a change of the order of growth. The budget of a release build is 100 µs.
#[test]
fn a_create_costs_little() {
    let spec = json!({"containers": [{"name": "c", "image": "nginx:1", "env": [{"name": "A", "value": "b"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "readinessProbe": {"httpGet": {"port": 80}}, "ports": [{"name": "web", "containerPort": 80}], "volumeMounts": [{"name": "t", "mountPath": "/t"}]}],
        "volumes": [{"name": "t", "emptyDir": {}}]});
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "n"}, "spec": spec});
    let rounds = 2000;
    let begun = Instant::now();
    for _ in 0..rounds {
        let mut obj = body.clone();
        Pods.default(&mut obj);
        Pods.prepare_create(&cx(), &mut obj);
        std::hint::black_box(Pods.validate(&obj));
    }
    let each = begun.elapsed() / rounds;
    println!("default, prepare and validate: {each:?}");
    assert!(each < Duration::from_millis(200), "{each:?}");
}

#[test]
fn an_operating_system_forbids_what_it_has_not() {
    let windows = json!({
        "os": {"name": "windows"}, "hostPID": true, "hostIPC": false, "hostUsers": true, "shareProcessNamespace": false,
        "resources": {"limits": {"cpu": "1"}},
        "securityContext": {"runAsUser": 1, "fsGroup": 1, "supplementalGroups": [], "sysctls": [], "windowsOptions": {"runAsUserName": "u"}},
        "containers": [{"name": "c", "image": "i", "securityContext": {"privileged": false, "runAsGroup": 1}}]
    });
    let forbidden = |field: &str| format!("spec.{field}: Forbidden: cannot be set for a windows pod");
    let told = problems(windows);
    for field in [
        "securityContext.runAsUser",
        "securityContext.fsGroup",
        "hostUsers",
        "hostPID",
        "shareProcessNamespace",
        "containers[0].securityContext.privileged",
        "containers[0].securityContext.runAsGroup",
    ] {
        assert!(told.contains(&forbidden(field)), "{field}: {told:?}");
    }
    assert!(told.contains(&"spec.resources: Forbidden: may not be set for a windows pod".to_owned()), "{told:?}");
    for field in ["hostIPC", "securityContext.sysctls", "securityContext.supplementalGroups", "securityContext.windowsOptions"] {
        assert!(!told.contains(&forbidden(field)), "{field}: {told:?}");
    }
    let mut linux = container(json!({"securityContext": {"windowsOptions": {"runAsUserName": "u"}}}));
    linux["os"] = json!({"name": "linux"});
    assert_eq!(problems(linux.clone()), ["spec.containers[0].securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod"]);
    linux["os"] = json!({"name": "beos"});
    assert_eq!(problems(linux), ["spec.os: Unsupported value: \"beos\": supported values: \"linux\", \"windows\""]);
}

#[test]
fn claims_of_a_pod_as_a_whole_are_looked_up_too() {
    let mut spec = container(json!({}));
    spec["resources"] = json!({"claims": [{"name": "x"}]});
    assert_eq!(
        problems(spec),
        [
            "spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level",
            "spec.resources.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is empty"
        ]
    );
}

#[test]
fn an_address_in_a_status_means_the_same_to_everybody() {
    let old = created(container(json!({})));
    let told = |ip: &str| {
        let mut new = old.clone();
        new["status"]["podIP"] = ip.into();
        new["status"]["podIPs"] = json!([{"ip": ip}]);
        Pods.validate_status(&new, &old).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told("10.0.0.1"), [""; 0]);
    for (ip, why) in [
        ("::ffff:127.0.0.1", "must not be an IPv4-mapped IPv6 address"),
        ("010.0.0.1", "must not have leading 0s"),
        ("10.0.0", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
    ] {
        assert_eq!(told(ip), [format!("status.podIPs[0]: Invalid value: {ip:?}: {why}")]);
    }
}

#[test]
fn ephemeral_containers_have_nothing_of_what_keeps_others() {
    let mut spec = container(json!({}));
    spec["ephemeralContainers"] = json!([{"name": "e", "image": "i", "lifecycle": {}, "restartPolicy": "", "ports": [], "resources": {}}]);
    let told: Vec<String> = problems(spec).into_iter().map(|why| why.split(": ").next().unwrap_or_default().to_owned()).collect();
    let of = |field: &str| format!("spec.ephemeralContainers[0].{field}");
    assert_eq!(told, [of("ports"), of("restartPolicy"), of("lifecycle"), "spec.ephemeralContainers".to_owned()]);
}

#[test]
fn a_status_names_the_claims_of_its_pod() {
    let old = created(container(json!({"resources": {"limits": {"example.com/a": "1"}}})));
    let told = |status: Value| {
        let (mut new, mut errors) = (old.clone(), ErrorList::new());
        new["status"] = status;
        super::status::check(&new, &new, &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        told(json!({"resourceClaimStatuses": [{"name": "a"}, {"name": "a"}], "extendedResourceClaimStatus": {"requestMappings": []}})),
        [
            "status.resourceClaimStatuses[0].name: Invalid value: \"a\": must match the name of an entry in `spec.resourceClaims`",
            "status.resourceClaimStatuses[1].name: Invalid value: \"a\": must match the name of an entry in `spec.resourceClaims`",
            "status.resourceClaimStatuses[1].name: Duplicate value: \"a\"",
            "status.extendedResourceClaimStatus.requestMappings: Required value: at least one request mapping is required",
            "status.extendedResourceClaimStatus.resourceClaimName: Required value",
        ]
    );
    let mapping = |name: &str| {
        let mapping = json!({"containerName": name, "resourceName": "example.com/a", "requestName": "r"});
        json!({"extendedResourceClaimStatus": {"resourceClaimName": "r", "requestMappings": [mapping]}})
    };
    assert!(told(mapping("c")).is_empty() && told(mapping("d")).len() == 1);
}

#[test]
fn values_that_no_label_has_are_told_where_they_are_preferred_and_refused_where_required() {
    let term = json!({"matchExpressions": [{"key": "k", "operator": "In", "values": ["-"]}]});
    let with = |node: Value| {
        let mut spec = container(json!({}));
        spec["affinity"] = json!({"nodeAffinity": node});
        created(spec)
    };
    let preferred = with(json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": term}]}));
    assert_eq!(Pods.validate(&preferred), vec![]);
    let told = Pods.warnings(&preferred, None);
    let place = "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values[0]: - is invalid, ";
    assert!(told.len() == 1 && told[0].starts_with(place), "{told:?}");
    let required = with(json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}));
    assert_eq!(Pods.validate(&required).len(), 1);
    let many: Vec<&str> = vec!["-"; 10_000];
    let many = json!({"matchExpressions": [{"key": "k", "operator": "In", "values": many}]});
    let many = with(json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": many}]}));
    assert_eq!(Pods.warnings(&many, None).len(), super::overlaps::TOLD_MAX, "no more than can be told");
}

#[test]
fn who_limits_nothing_requests_nothing() {
    let mut pod = json!({"spec": {"containers": [{"resources": {"limits": {}}}, {"resources": {}}]}});
    Pods.complete(&mut pod);
    assert_eq!(pod["spec"]["containers"], json!([{"resources": {"limits": {}, "requests": {}}}, {"resources": {}}]));
}

#[test]
fn addresses_of_a_status_should_be_written_in_one_way() {
    let told = super::warnings::of_status(&json!({"podIPs": [{"ip": "FD00::1"}], "hostIPs": [{"ip": "10.0.0.1"}]}));
    assert_eq!(told, [r#"status.podIPs[0].ip: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")"#]);
}

#[test]
fn a_key_of_a_file_must_be_there() {
    let env = json!([{"name": "E", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}}]);
    let made = pod(json!({"containers": [{"name": "c", "image": "x", "env": env}]}));
    assert_eq!(made["spec"]["containers"][0]["env"][0]["valueFrom"]["fileKeyRef"]["optional"], false);
}

#[test]
fn no_name_is_no_name_twice() {
    let spec = json!({"containers": [{"image": "x"}, {"image": "x"}], "initContainers": [{"image": "x"}]});
    let found: Vec<String> = Pods.validate(&created(spec)).iter().map(ToString::to_string).filter(|line| line.contains("Duplicate")).collect();
    assert_eq!(found, [r#"spec.containers[1].name: Duplicate value: """#, r#"spec.initContainers[0].name: Duplicate value: """#]);
}

#[test]
fn a_mirror_pod_has_no_claims() {
    let mut pod = created(json!({"containers": [{"name": "c", "image": "x"}], "nodeName": "n", "resourceClaims": [{"name": "c", "resourceClaimName": "d"}]}));
    let told = |pod: &Value| Pods.validate(pod).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told(&pod), Vec::<String>::new());
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(told(&pod), ["[]: Forbidden: static pods do not support resource claims"]);
}
