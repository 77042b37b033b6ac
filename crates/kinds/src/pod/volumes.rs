//! Volumes of a pod: their defaults and checks.

use super::{
    env, image, remote,
    sources::{default_source, host_path, nfs, relative},
};
use crate::{
    claim,
    groups::checks,
    internal, meta, rules,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
    quantity::Quantity,
    quote::Quoted,
};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// The mode of files from objects: 0644.
const FILE_MODE: i64 = 0o644;
/// How long a projected token is good for unless said, in seconds.
const TOKEN_EXPIRATION_S: i64 = 3600;
const BAD_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

pub(super) fn default(volume: &mut Fields) {
    if volume.iter().all(|(key, value)| key == "name" || value.is_null()) {
        volume.insert("emptyDir".into(), json!({}));
        return;
    }
    for key in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = tree::present(volume, key) {
            tree::fill(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(source) = tree::present(volume, "downwardAPI") {
        downward(source);
    }
    if let Some(source) = tree::present(volume, "projected") {
        for part in tree::each(source, "sources") {
            if let Some(token) = tree::present(part, "serviceAccountToken") {
                tree::fill(token, "expirationSeconds", TOKEN_EXPIRATION_S);
            }
            if let Some(downward_part) = tree::present(part, "downwardAPI") {
                downward(downward_part);
            }
        }
    }
    if let Some(image) = tree::present(volume, "image") {
        let reference = image.get("reference").and_then(Value::as_str).unwrap_or_default();
        let policy = if image::is_latest(reference) { "Always" } else { "IfNotPresent" };
        tree::fill_text(image, "pullPolicy", policy);
    }
    default_source(volume);
    if let Some(claim) = tree::present(volume, "ephemeral").and_then(|e| tree::present(e, "volumeClaimTemplate"))
        && let Some(spec) = tree::present(claim, "spec")
    {
        claim::default_claim_spec(spec);
    }
}

fn downward(source: &mut Fields) {
    for item in tree::each(source, "items") {
        if let Some(from) = tree::present(item, "fieldRef") {
            tree::fill_text(from, "apiVersion", "v1");
        }
    }
}

/// The well-formed volumes of a pod by name.
pub(super) type Known<'v> = HashMap<&'v str, &'v Value>;

/// Checks the volumes of a pod of a name, or of pods that have none yet; answers those that are well formed.
pub(super) fn check<'v>(spec: &'v Value, pod: &str, path: &Path, errors: &mut ErrorList) -> Known<'v> {
    let path = path.child("volumes");
    let mut known = Known::new();
    // The claims that are made for the pod, and go with it, by what follows the pod's name in theirs.
    let made: HashSet<&str> = tree::list(spec, "volumes").iter().filter(|v| !v["ephemeral"].is_null()).map(|v| tree::text(v, "name")).collect();
    for (at, volume) in tree::list(spec, "volumes").iter().enumerate() {
        let path = path.index(at);
        let before = errors.len();
        sources(volume, &path, errors);
        let name = tree::text(volume, "name");
        // Each shows the pod's name: one that is too long is shown a few times, and not once for each volume.
        let is_told = pod.len() <= names::SUBDOMAIN_MAX_BYTES || at < rules::LISTS_TOLD_MAX;
        if is_told && !pod.is_empty() && !name.is_empty() && !volume["ephemeral"].is_null() {
            let claim = format!("{pod}-{name}");
            let problems = names::dns1123_subdomain(&claim).into_iter();
            errors.extend(problems.map(|why| Error::invalid(&path.child("name"), name, format!("PVC name {}: {why}", Quoted(&claim)))));
        }
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            rules::name(name, &path.child("name"), names::dns1123_label(name), errors);
        }
        if known.contains_key(name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        if errors.len() == before {
            known.insert(name, volume);
        }
        let claim = tree::text(&volume["persistentVolumeClaim"], "claimName");
        let own = claim.strip_prefix(pod).and_then(|rest| rest.strip_prefix('-'));
        if !pod.is_empty() && own.is_some_and(|of| made.contains(of)) {
            let place = path.child("persistentVolumeClaim").child("claimName");
            errors.push(Error::invalid(&place, claim, "must not reference a PVC that gets created for an ephemeral volume"));
        }
    }
    known
}

/// The kinds of volumes in the order in which the original looks at them: of several it takes the first.
const ORDER: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

fn sources(volume: &Value, path: &Path, errors: &mut ErrorList) {
    let own = volume.as_object().into_iter().flatten().filter(|(k, v)| *k != "name" && !v.is_null());
    let mut found: Vec<(&str, &Value)> = own.map(|(k, v)| (k.as_str(), v)).collect();
    if found.len() > 1 {
        found.sort_by_key(|(key, _)| ORDER.iter().position(|k| k == key));
    }
    for (at, (key, source)) in found.iter().enumerate() {
        if at > 0 {
            // Upstream's own spelling.
            let path = path.child(match *key {
                "downwardAPI" => "downwarAPI",
                "cephfs" => "cephFS",
                key => key,
            });
            errors.push(Error::forbidden(&path, "may not specify more than 1 volume type"));
        } else {
            // So is this.
            let place = if *key == "gcePersistentDisk" { "persistentDisk" } else { *key };
            source_of(key, source, &path.child(place), errors);
        }
    }
    if found.is_empty() {
        errors.push(Error::required(path, "must specify a volume type"));
    }
}

fn source_of(key: &str, source: &Value, path: &Path, errors: &mut ErrorList) {
    match key {
        "emptyDir" if rules::quantity(&source["sizeLimit"]).is_some_and(|q| q < Quantity::ZERO) => {
            errors.push(Error::forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity"));
        }
        "hostPath" => host_path(source, path, errors),
        "secret" => {
            rules::required(source, path, "secretName", errors);
            files(source, path, errors);
        }
        "configMap" => {
            rules::required(source, path, "name", errors);
            files(source, path, errors);
        }
        "downwardAPI" => {
            mode(&source["defaultMode"], &path.child("defaultMode"), errors);
            downward_items(source, path, errors);
        }
        "projected" => projected(source, path, errors),
        "persistentVolumeClaim" => {
            rules::required(source, path, "claimName", errors);
        }
        "nfs" => nfs(source, path, errors),
        "csi" => {
            rules::driver_name(tree::text(source, "driver"), &path.child("driver"), errors);
            let secret = &source["nodePublishSecretRef"];
            if !secret.is_null() && rules::required(secret, &path.child("nodePublishSecretRef"), "name", errors) {
                // Upstream leaves the reference out of the path here.
                let name = tree::text(secret, "name");
                rules::name(name, &path.child("name"), names::dns1123_subdomain(name), errors);
            }
        }
        "image" => {
            rules::required(source, path, "reference", errors);
            rules::one_of(&source["pullPolicy"], &path.child("pullPolicy"), &["Always", "IfNotPresent", "Never"], errors);
        }
        "ephemeral" if source["volumeClaimTemplate"].is_null() => errors.push(Error::required(&path.child("volumeClaimTemplate"), "")),
        "ephemeral" => {
            let (template, path) = (&source["volumeClaimTemplate"], path.child("volumeClaimTemplate"));
            meta::template(&template["metadata"], &path.child("metadata"), errors);
            claim::check_claim_spec(&template["spec"], &path.child("spec"), errors);
        }
        "gitRepo" => {
            rules::required(source, path, "repository", errors);
            relative(tree::text(source, "directory"), &path.child("directory"), errors);
        }
        other => remote::check(other, source, remote::Of::Pod, path, errors),
    }
}

fn mode(value: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(mode) = value.as_i64().filter(|m| !(0..=0o777).contains(m)) {
        errors.push(Error::invalid(path, mode, BAD_MODE));
    }
}

/// The mode and the keys of a volume from an object.
fn files(source: &Value, path: &Path, errors: &mut ErrorList) {
    mode(&source["defaultMode"], &path.child("defaultMode"), errors);
    for (at, item) in tree::list(source, "items").iter().enumerate() {
        let path = path.child("items").index(at);
        rules::required(item, &path, "key", errors);
        if rules::required(item, &path, "path", errors) {
            below(tree::text(item, "path"), &path.child("path"), errors);
        }
        mode(&item["mode"], &path.child("mode"), errors);
    }
}

/// A path inside a volume of files that the server writes.
fn below(text: &str, path: &Path, errors: &mut ErrorList) {
    relative(text, path, errors);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.push(Error::invalid(path, text, "must not start with '..'"));
    }
}

const DOWNWARD_FIELDS: [&str; 5] = ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

fn downward_items(source: &Value, path: &Path, errors: &mut ErrorList) {
    tree::list(source, "items").iter().for_each(|item| downward_item(item, path, errors));
}

/// Upstream names the source, not the element.
fn downward_item(item: &Value, path: &Path, errors: &mut ErrorList) {
    if rules::required(item, path, "path", errors) {
        below(tree::text(item, "path"), &path.child("path"), errors);
    }
    match (item["fieldRef"].is_object(), item["resourceFieldRef"].is_object()) {
        (true, true) => {
            env::field_ref(&item["fieldRef"], &path.child("fieldRef"), &DOWNWARD_FIELDS, errors);
            errors.push(Error::invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"));
        }
        (true, false) => env::field_ref(&item["fieldRef"], &path.child("fieldRef"), &DOWNWARD_FIELDS, errors),
        (false, true) => env::resource_ref(&item["resourceFieldRef"], &path.child("resourceFieldRef"), true, errors),
        (false, false) => errors.push(Error::required(path, "one of fieldRef and resourceFieldRef is required")),
    }
    mode(&item["mode"], &path.child("mode"), errors);
}

fn projected<'v>(source: &'v Value, base: &Path, errors: &mut ErrorList) {
    mode(&source["defaultMode"], &base.child("defaultMode"), errors);
    let mut taken = HashSet::new();
    let mut place = |file: &'v str, shown: &str, errors: &mut ErrorList| {
        if !file.is_empty() && !taken.insert(file) {
            errors.push(Error::invalid(base, shown, "conflicting duplicate paths"));
        }
    };
    for (at, part) in tree::list(source, "sources").iter().enumerate() {
        let path = base.child("sources").index(at);
        let mut found = 0;
        for key in ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"] {
            let value = &part[key];
            if value.is_null() {
                continue;
            }
            found += 1;
            let path = path.child(key);
            match key {
                "secret" | "configMap" => {
                    rules::required(value, &path, "name", errors);
                    files(value, &path, errors);
                }
                "downwardAPI" => {
                    for item in tree::list(value, "items") {
                        downward_item(item, &path, errors);
                        place(tree::text(item, "path"), tree::text(item, "path"), errors);
                    }
                    continue;
                }
                "serviceAccountToken" => token(value, &path, base, errors),
                "clusterTrustBundle" => trust_bundle(value, &path, errors),
                _ => certificate(value, &path, errors),
            }
            let own = ["path"].iter().chain(&CERTIFICATE_PATHS).filter_map(|field| value[*field].as_str());
            for file in tree::list(value, "items").iter().filter_map(|i| i["path"].as_str()).chain(own) {
                let shown = if tree::empty(&value["name"]) { file } else { tree::text(value, "name") };
                place(file, shown, errors);
            }
        }
        if found > 1 {
            errors.push(Error::forbidden(&path, "may not specify more than 1 volume type per source"));
        }
    }
}

/// Trust anchors of one bundle, or of a signer's bundles.
fn trust_bundle(value: &Value, path: &Path, errors: &mut ErrorList) {
    match (value["name"].as_str(), value["signerName"].as_str()) {
        (Some(_), Some(_)) => {
            let shown = internal::text("core.ClusterTrustBundleProjection", value);
            errors.push(Error::invalid(path, value.clone(), "only one of name and signerName may be used").shown_as(shown));
        }
        (Some(name), None) => {
            let place = path.child("name");
            if name.is_empty() {
                errors.push(Error::required(&place, "must be a valid object name"));
            }
            // A bundle of a signer has the signer's name in front.
            let own = name.rsplit(':').next().unwrap_or_default();
            for problem in names::dns1123_subdomain(own) {
                errors.push(Error::invalid(&place, name, format!("not a valid clustertrustbundlename: {problem}")));
            }
            if !value["labelSelector"].is_null() {
                let detail = "labelSelector must be unset if name is specified";
                let shown = internal::text("*metav1.LabelSelector", &value["labelSelector"]);
                errors.push(Error::invalid(&path.child("labelSelector"), value["labelSelector"].clone(), detail).shown_as(shown));
            }
        }
        (None, Some(signer)) => {
            let place = path.child("signerName");
            // An empty one is told twice: here, and as the name of a signer.
            if signer.is_empty() {
                errors.push(Error::required(&place, "must be a valid signer name"));
            }
            checks::signer_name(signer, &place, errors);
            rules::label_selector(&value["labelSelector"], &path.child("labelSelector"), errors);
        }
        (None, None) => errors.push(Error::required(path, "either name or signerName must be specified")),
    }
    if rules::required(value, path, "path", errors) {
        below(tree::text(value, "path"), &path.child("path"), errors);
    }
}

/// The files of a certificate: all in one, the key, the chain.
const CERTIFICATE_PATHS: [&str; 3] = ["credentialBundlePath", "keyPath", "certificateChainPath"];
const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

/// A certificate that the kubelet asks a signer for.
fn certificate(value: &Value, path: &Path, errors: &mut ErrorList) {
    let signer = tree::text(value, "signerName");
    checks::signer_name(signer, &path.child("signerName"), errors);
    checks::user_annotations(&value["userAnnotations"], &path.child("userAnnotations"), errors);
    if !KEY_TYPES.contains(&tree::text(value, "keyType")) {
        errors.push(Error::not_supported(&path.child("keyType"), tree::text(value, "keyType"), &KEY_TYPES));
    }
    if let Some(seconds) = value["maxExpirationSeconds"].as_i64() {
        let (place, least, most) = (path.child("maxExpirationSeconds"), checks::CERTIFICATE_MIN_S, checks::certificate_max_s(signer));
        if seconds < least {
            errors.push(Error::invalid(&place, seconds, format!("if provided, maxExpirationSeconds must be >= {least}")));
        }
        if seconds > most {
            errors.push(Error::invalid(&place, seconds, format!("if provided, maxExpirationSeconds must be <= {most}")));
        }
    }
    let named: Vec<&str> = CERTIFICATE_PATHS.into_iter().filter(|field| !tree::empty(&value[*field])).collect();
    for field in &named {
        below(tree::text(value, field), &path.child(field), errors);
    }
    if named.is_empty() {
        errors.push(Error::required(path, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"));
    }
}

fn token(value: &Value, path: &Path, base: &Path, errors: &mut ErrorList) {
    match value["expirationSeconds"].as_i64() {
        Some(seconds) if seconds < 600 => {
            errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes"));
        }
        Some(seconds) if seconds > 1 << 32 => {
            errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds"));
        }
        _ => {}
    }
    // Upstream names the volume's path, not the source's.
    if rules::required(value, base, "path", errors) {
        below(tree::text(value, "path"), &base.child("path"), errors);
    }
}
