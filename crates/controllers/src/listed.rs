//! `docs/controllers.md` against the original's names, and against what runs here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::{ALL, Config, OFF, names};

const PAGE: &str = include_str!("../../../docs/controllers.md");

/// The controllers of kube-controller-manager v1.37.2 (`cmd/kube-controller-manager/names/controller_names.go`).
const ORIGINAL: [&str; 49] = [
    "serviceaccount-token-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "replicationcontroller-controller",
    "pod-garbage-collector-controller",
    "resourcequota-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "garbage-collector-controller",
    "daemonset-controller",
    "job-controller",
    "deployment-controller",
    "replicaset-controller",
    "horizontal-pod-autoscaler-controller",
    "disruption-controller",
    "statefulset-controller",
    "cronjob-controller",
    "certificatesigningrequest-signing-controller",
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "podcertificaterequest-cleaner-controller",
    "ttl-controller",
    "bootstrap-signer-controller",
    "token-cleaner-controller",
    "node-ipam-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "device-taint-eviction-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
    "clusterrole-aggregation-controller",
    "persistentvolumeclaim-protection-controller",
    "persistentvolume-protection-controller",
    "podgroup-protection-controller",
    "ttl-after-finished-controller",
    "root-ca-certificate-publisher-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "ephemeral-volume-controller",
    "storageversion-garbage-collector-controller",
    "resourceclaim-controller",
    "resourcepoolstatusrequest-controller",
    "legacy-serviceaccount-token-cleaner-controller",
    "validatingadmissionpolicy-status-controller",
    "volumeattributesclass-protection-controller",
    "service-cidr-controller",
    "storage-version-migrator-controller",
    "selinux-warning-controller",
];

/// What the original runs only when it is named (`isDisabledByDefault`).
const ORIGINAL_OFF: [&str; 3] = ["bootstrap-signer-controller", "selinux-warning-controller", "token-cleaner-controller"];

/// A line of the page: whether it is marked as off, and the module, if there is one.
struct Row<'p> {
    off: bool,
    module: Option<&'p str>,
}

fn rows() -> BTreeMap<&'static str, Row<'static>> {
    let lines = PAGE.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
            let [first, from, last] = cells[..] else { panic!("three cells: {line}") };
            let (name, mark) = first.trim_start_matches('`').split_once('`').expect("a name");
            assert!(from.starts_with("`pkg/controller/"), "where it comes from: {line}");
            let module = last.strip_prefix('`').and_then(|m| m.strip_suffix('`'));
            assert!(module.is_some() || last.contains(' '), "a module, or a reason: {line}");
            (name, Row { off: mark == " (*off*)", module })
        })
        .collect()
}

#[test]
fn every_controller_of_the_original_is_listed_and_those_with_a_module_run() {
    let (rows, original) = (rows(), BTreeSet::from(ORIGINAL));
    assert_eq!(rows.keys().copied().collect::<BTreeSet<_>>(), original);
    assert_eq!(names().filter(|name| !original.contains(name)).collect::<Vec<_>>(), [""; 0], "a name that the original does not know");
    let with_module: BTreeSet<&str> = rows.iter().filter(|(_, row)| row.module.is_some()).map(|(name, _)| *name).collect();
    assert_eq!(with_module, names().collect(), "what the page names a module for is what there is to run");
    assert_eq!(ALL.len(), with_module.len(), "each once");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for module in rows.values().filter_map(|row| row.module) {
        assert!(source.join(format!("{module}.rs")).is_file() || source.join(module).join("mod.rs").is_file(), "{module}");
    }
}

#[test]
fn what_the_original_leaves_off_is_off() {
    let off: Vec<&str> = rows().into_iter().filter(|(_, row)| row.off).map(|(name, _)| name).collect();
    assert_eq!(off, ORIGINAL_OFF);
    assert_eq!(ORIGINAL_OFF.into_iter().filter(|name| names().any(|n| n == *name)).collect::<Vec<_>>(), OFF);
    let runs = |enabled: &[&str], name: &str| Config { enabled: enabled.iter().map(|e| (*e).to_owned()).collect(), ..Config::default() }.runs(name);
    assert!(!runs(&["*"], OFF[0]) && runs(&["*", OFF[0]], OFF[0]) && runs(&["*"], "job-controller") && !runs(&["*", "-job-controller"], "job-controller"));
}

/// Whether the roles that the API makes for a controller's account allow this; in a namespace, or in the whole cluster.
fn may(account: &str, namespace: &str, verb: &str, group: &str, resource: &str) -> bool {
    let name = format!("system:controller:{account}");
    let has = |rule: &Value, list: &str, word: &str| rule[list].as_array().is_some_and(|all| all.iter().any(|w| w == word));
    machinery::resources::bootstrap_objects().iter().filter(|o| matches!(o["kind"].as_str(), Some("Role" | "ClusterRole"))).any(|role| {
        let meta = &role["metadata"];
        let here = meta["name"] == name && meta["namespace"].as_str().unwrap_or_default() == namespace;
        let mut rules = role["rules"].as_array().into_iter().flatten();
        here && rules.any(|rule| has(rule, "verbs", verb) && has(rule, "apiGroups", group) && has(rule, "resources", resource))
    })
}

#[test]
fn what_the_small_ones_write_their_accounts_may() {
    let trust = "kube-apiserver-serving-clustertrustbundle-publisher";
    for (account, namespace, verbs, group, resource) in [
        ("ttl-controller", "", "patch", "", "nodes"),
        ("bootstrap-signer", "kube-public", "update", "", "configmaps"),
        ("service-cidrs-controller", "", "patch", "networking.k8s.io", "servicecidrs"),
        ("service-cidrs-controller", "", "patch", "networking.k8s.io", "servicecidrs/status"),
        ("service-cidrs-controller", "", "create patch", "", "events"),
        (trust, "", "create update delete", "certificates.k8s.io", "clustertrustbundles"),
        (trust, "", "attest", "certificates.k8s.io", "signers"),
    ] {
        for verb in verbs.split(' ') {
            assert!(may(account, namespace, verb, group, resource), "{account}: {verb} {resource}");
        }
        assert!(!may(account, namespace, "deletecollection", group, resource));
        let accounts = machinery::resources::bootstrap_objects();
        assert!(accounts.iter().any(|o| o["kind"] == "ServiceAccount" && o["metadata"]["name"] == account), "{account}");
    }
    assert!(!may("bootstrap-signer", "", "update", "", "configmaps"), "in its own namespace alone");
}
