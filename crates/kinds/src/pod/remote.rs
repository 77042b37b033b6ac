//! Volumes of storage systems: what a pod or a persistent volume says of where they are. Most of them are mounted by nobody any more,
//! and are held to their rules all the same.

use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};

/// Who has the volume.
#[derive(Clone, Copy)]
pub(crate) enum Of<'n> {
    /// A pod.
    Pod,
    /// A persistent volume of this name.
    Cluster(&'n str),
}

/// Checks a source; those of other kinds are others' business.
pub(crate) fn check(kind: &str, source: &Value, of: Of<'_>, path: &Path, errors: &mut ErrorList) {
    let in_cluster = matches!(of, Of::Cluster(_));
    let required: &[&str] = match kind {
        "awsElasticBlockStore" | "cinder" | "portworxVolume" => &["volumeID"],
        "gcePersistentDisk" => &["pdName"],
        "glusterfs" => &["endpoints", "path"],
        "rbd" => &["monitors", "image"],
        "cephfs" => &["monitors"],
        "azureFile" => &["secretName", "shareName"],
        "azureDisk" => &["diskName", "diskURI"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "flexVolume" => &["driver"],
        "iscsi" => &["targetPortal"],
        _ => &[],
    };
    for field in required {
        rules::required(source, path, field, errors);
    }
    match kind {
        "awsElasticBlockStore" | "gcePersistentDisk" => in_range(source, "partition", path, errors),
        "iscsi" => iscsi(source, of, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "flocker" => flocker(source, path, errors),
        "azureDisk" => azure_disk(source, path, errors),
        "flexVolume" => options(source, path, errors),
        "quobyte" => quobyte(source, path, errors),
        "cinder" => secret(source, in_cluster, path, errors),
        "storageos" => {
            if rules::required(source, path, "volumeName", errors) {
                label(source, "volumeName", path, errors);
            }
            label(source, "volumeNamespace", path, errors);
            secret(source, in_cluster, path, errors);
        }
        "glusterfs" if in_cluster => match source["endpointsNamespace"].as_str() {
            Some("") => {
                let detail = "if the endpointnamespace is set, it must be a valid namespace name";
                errors.push(Error::invalid(&path.child("endpointsNamespace"), "", detail));
            }
            _ => label(source, "endpointsNamespace", path, errors),
        },
        "azureFile" if in_cluster && source["secretNamespace"] == "" => errors.push(Error::required(&path.child("secretNamespace"), "")),
        _ => {}
    }
}

fn label(source: &Value, field: &str, path: &Path, errors: &mut ErrorList) {
    let text = tree::text(source, field);
    if !text.is_empty() {
        rules::name(text, &path.child(field), names::dns1123_label(text), errors);
    }
}

/// A reference to a Secret, which has a namespace where it is not the pod's.
fn secret(source: &Value, in_cluster: bool, path: &Path, errors: &mut ErrorList) {
    if source["secretRef"].is_object() {
        let fields: &[&str] = if in_cluster { &["name", "namespace"] } else { &["name"] };
        for field in fields {
            rules::required(&source["secretRef"], &path.child("secretRef"), field, errors);
        }
    }
}

fn in_range(source: &Value, field: &str, path: &Path, errors: &mut ErrorList) {
    if let Some(number) = source[field].as_i64().filter(|number| !(0..=255).contains(number)) {
        // Upstream tells another bound than it has of partitions.
        let least = i32::from(field == "partition");
        errors.push(Error::invalid(&path.child(field), number, format!("must be between {least} and 255, inclusive")));
    }
}

fn iscsi(source: &Value, of: Of<'_>, path: &Path, errors: &mut ErrorList) {
    let initiator = source["initiatorName"].as_str();
    let portal = tree::text(source, "targetPortal");
    let strange = match of {
        Of::Pod => "must be valid format starting with iqn, eui, or naa",
        Of::Cluster(name) => {
            if initiator.is_some() && name.len() + 1 + portal.len() > 64 {
                let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
                errors.push(Error::invalid(&path.child("targetportal"), portal, detail));
            }
            "must be valid format"
        }
    };
    let name = |field: &str, text: &str, errors: &mut ErrorList| {
        let known = ["iqn", "eui", "naa"].iter().any(|prefix| text.starts_with(prefix));
        if !known {
            errors.push(Error::invalid(&path.child(field), text, strange));
        } else if !is_initiator(text) {
            errors.push(Error::invalid(&path.child(field), text, "must be valid format"));
        }
    };
    if rules::required(source, path, "iqn", errors) {
        name("iqn", tree::text(source, "iqn"), errors);
    }
    in_range(source, "lun", path, errors);
    let secret = &source["secretRef"];
    if (source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true) && secret.is_null() {
        errors.push(Error::required(&path.child("secretRef"), ""));
    }
    if matches!(of, Of::Cluster(_)) && secret.is_object() {
        rules::required(secret, &path.child("secretRef"), "name", errors);
    }
    if let Some(initiator) = initiator {
        name("initiatorname", initiator, errors);
    }
}

/// `iqn.2001-04.com.example:disk`, `eui.` with 16 or `naa.` with 32 letters and digits.
fn is_initiator(text: &str) -> bool {
    let of_length = |prefix: &str, length: usize| {
        let rest = text.strip_prefix(prefix).and_then(|rest| rest.get(1..)).unwrap_or_default();
        rest.len() == length && rest.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let Some(rest) = text.strip_prefix("iqn.") else { return of_length("eui", 16) || of_length("naa", 32) };
    let date = rest.as_bytes();
    let digits = |from: usize, to: usize| date.get(from..to).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    let Some((host, disk)) = rest.get(8..).and_then(|rest| rest.split_once(':')) else { return false };
    let of_a_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    digits(0, 4)
        && date.get(4) == Some(&b'-')
        && digits(5, 7)
        && date.get(7) == Some(&b'.')
        && !host.is_empty()
        && host.bytes().all(of_a_host)
        && !disk.is_empty()
        && !disk.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n', '\r'])
}

fn fibre_channel(source: &Value, path: &Path, errors: &mut ErrorList) {
    let (targets, wide) = (tree::list(source, "targetWWNs"), tree::list(source, "wwids"));
    match (targets.is_empty(), wide.is_empty()) {
        (true, true) => errors.push(Error::required(&path.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")),
        (false, false) => {
            let detail = "targetWWNs and wwids can not be specified simultaneously";
            errors.push(Error::invalid(&path.child("targetWWNs"), targets.to_vec(), detail));
        }
        _ => {}
    }
    match (targets.is_empty(), source["lun"].is_null()) {
        (true, _) => {}
        (false, true) => errors.push(Error::required(&path.child("lun"), "lun is required if targetWWNs is specified")),
        (false, false) => in_range(source, "lun", path, errors),
    }
}

fn flocker(source: &Value, path: &Path, errors: &mut ErrorList) {
    let (name, id) = (tree::text(source, "datasetName"), tree::text(source, "datasetUUID"));
    match (name.is_empty(), id.is_empty()) {
        (true, true) => errors.push(Error::required(path, "one of datasetName and datasetUUID is required")),
        (false, false) => errors.push(Error::invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously")),
        _ => {}
    }
    if name.contains('/') {
        errors.push(Error::invalid(&path.child("datasetName"), name, "must not contain '/'"));
    }
}

fn azure_disk(source: &Value, path: &Path, errors: &mut ErrorList) {
    rules::supported(&source["cachingMode"], &path.child("cachingMode"), &["None", "ReadOnly", "ReadWrite"], errors);
    rules::supported(&source["kind"], &path.child("kind"), &["Dedicated", "Managed", "Shared"], errors);
    let (kind, place) = (source["kind"].as_str(), tree::text(source, "diskURI"));
    let (begins, form) = match kind {
        None => return,
        Some("Managed") => ("/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"),
        Some(_) => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
    };
    if !place.starts_with(begins) {
        errors.push(Error::not_supported(&path.child("diskURI"), place, &[form]));
    }
}

/// Options of drivers do not use Kubernetes' own names.
fn options(source: &Value, path: &Path, errors: &mut ErrorList) {
    for (key, _) in tree::entries(source, "options") {
        let domain = format!(".{}", key.split_once('/').map_or(key, |(domain, _)| domain).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            errors.push(Error::invalid(&path.child("options").key(key), key, "kubernetes.io and k8s.io namespaces are reserved"));
        }
    }
}

fn quobyte(source: &Value, path: &Path, errors: &mut ErrorList) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = tree::text(source, "registry");
    let is_pair = |pair: &&str| match pair.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").is_some_and(|(host, port)| !host.contains(['[', ']']) && !port.contains([':', '[', ']'])),
        None => pair.matches(':').count() == 1 && !pair.contains(['[', ']']),
    };
    if registry.is_empty() {
        errors.push(Error::required(&path.child("registry"), PAIRS));
    } else if tree::text(source, "tenant").len() >= 65 {
        errors.push(Error::required(&path.child("tenant"), "must be a UUID and may not exceed a length of 64 characters"));
    } else {
        let wrong = registry.split(',').filter(|pair| !is_pair(pair));
        errors.extend(wrong.map(|_| Error::invalid(&path.child("registry"), registry, PAIRS)));
    }
    rules::required(source, path, "volume", errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(kind: &str, source: Value, of: Of<'_>) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(kind, &source, of, &Path::root("v"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn iscsi_is_called_by_names_of_three_forms() {
        let right = ["iqn.2001-04.com.example:storage.disk2", "eui.02004567A425678D", "naa.62004567BA64678D0123456789ABCDEF"];
        for iqn in right {
            assert!(told("iscsi", json!({"targetPortal": "p", "iqn": iqn}), Of::Pod).is_empty(), "{iqn}");
        }
        for iqn in ["iqn.2001-04.com.example", "iqn.2001-4.com:x", "iqn.2001-04.com.example:a b", "eui.1", "naa.1"] {
            let expected = format!("v.iqn: Invalid value: {iqn:?}: must be valid format");
            assert_eq!(told("iscsi", json!({"targetPortal": "p", "iqn": iqn}), Of::Pod), [expected]);
        }
        let name = "v".repeat(64);
        assert_eq!(
            told("iscsi", json!({"targetPortal": "p", "iqn": "x", "initiatorName": "x", "lun": 300, "chapAuthSession": true}), Of::Cluster(&name)),
            [
                "v.targetportal: Invalid value: \"p\": Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.",
                "v.iqn: Invalid value: \"x\": must be valid format",
                "v.lun: Invalid value: 300: must be between 0 and 255, inclusive",
                "v.secretRef: Required value",
                "v.initiatorname: Invalid value: \"x\": must be valid format",
            ]
        );
    }

    #[test]
    fn others_say_what_they_need() {
        assert_eq!(told("rbd", json!({}), Of::Pod), ["v.monitors: Required value", "v.image: Required value"]);
        assert_eq!(told("fc", json!({"wwids": ["a"], "targetWWNs": ["b"], "lun": 3}), Of::Pod).len(), 1);
        assert_eq!(told("cinder", json!({"volumeID": "v", "secretRef": {"name": "s"}}), Of::Cluster("n")), ["v.secretRef.namespace: Required value"]);
        assert_eq!(told("quobyte", json!({"registry": "a:1,b", "volume": "v"}), Of::Pod).len(), 1);
        assert_eq!(
            told("flexVolume", json!({"driver": "d", "options": {"x.k8s.io/y": "z", "a": "b"}}), Of::Pod),
            ["v.options[x.k8s.io/y]: Invalid value: \"x.k8s.io/y\": kubernetes.io and k8s.io namespaces are reserved"]
        );
    }
}
