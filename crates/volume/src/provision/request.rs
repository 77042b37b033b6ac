//! What a claim and its class ask for, or why that cannot be: in the words of external-provisioner.

use std::collections::BTreeMap;

use client::Meta;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use machinery::quantity::Quantity;

use super::words;
use crate::disk::{self, TOPOLOGY};
use crate::{Code, Failure};

/// Parameters of a class that are the provisioner's and not the driver's.
const PREFIX: &str = "csi.storage.k8s.io/";
const FS_TYPE: &str = "csi.storage.k8s.io/fstype";
/// Those that name Secrets, of which this driver needs none.
const SECRETS: [&str; 7] =
    ["secret", "provisioner-secret", "controller-publish-secret", "node-stage-secret", "node-publish-secret", "controller-expand-secret", "node-expand-secret"];
const SNAPSHOTS: &str = "snapshot.storage.k8s.io";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) bytes: u64,
    pub(super) block: bool,
}

/// Why it cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is tried again: somebody may change the class.
    Failed(String),
    /// It is tried again much later.
    Infeasible(String),
    /// Another is to fill the volume and make it known.
    Populator,
}

fn invalid(message: String) -> Refusal {
    Refusal::Infeasible(words(&Failure::new(Code::InvalidArgument, message)))
}

/// Reads them.
pub(super) fn read(claim: &PersistentVolumeClaim, class: &StorageClass, labels: &BTreeMap<String, String>) -> Result<Request, Refusal> {
    check_source(claim)?;
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.volume_attributes_class_name.is_some_and(|name| !name.is_empty()) {
        return Err(Refusal::Failed("CSI driver does not support VolumeAttributesClass: controller MODIFY_VOLUME capability is not reported".to_owned()));
    }
    if spec.selector.is_some() {
        return Err(Refusal::Failed("claim Selector is not supported".to_owned()));
    }
    let fs_type = check_parameters(class)?;
    check_topology(class, labels)?;
    if !matches!(fs_type.as_str(), "" | "ext4") {
        return Err(invalid(format!("file system {fs_type:?} is not supported: volumes of {} have ext4", disk::NAME)));
    }
    // As local-path does: volumes of a node's own disk are for one node.
    let modes = spec.access_modes.unwrap_or_default();
    if modes.iter().any(|mode| mode != "ReadWriteOnce" && mode != "ReadWriteOncePod") {
        return Err(invalid(format!("{} only supports ReadWriteOnce and ReadWriteOncePod access modes", disk::NAME)));
    }
    let asked = spec.resources.and_then(|r| r.requests).and_then(|r| r.get("storage")?.0.parse::<Quantity>().ok()).unwrap_or_default();
    Ok(Request { bytes: u64::try_from(asked.value()).unwrap_or_default(), block: spec.volume_mode.as_deref() == Some("Block") })
}

/// Volumes begin empty.
fn check_source(claim: &PersistentVolumeClaim) -> Result<(), Refusal> {
    let Some(spec) = &claim.spec else { return Ok(()) };
    let (kind, name, group) = match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), _) => (&source.kind, &source.name, source.api_group.as_deref()),
        (None, Some(source)) if source.namespace.as_ref().is_some_and(|n| !n.is_empty()) => {
            let text = "dataSourceRef namespace specified but the CrossNamespaceVolumeDataSource feature is disabled";
            return Err(Refusal::Failed(text.to_owned()));
        }
        (None, Some(source)) => (&source.kind, &source.name, source.api_group.as_deref()),
        (None, None) => return Ok(()),
    };
    let text = match (kind.as_str(), group.unwrap_or_default()) {
        _ if name.is_empty() => format!("the PVC source not found for PVC {}", claim.name()),
        ("VolumeSnapshot", SNAPSHOTS) => {
            "CSI driver does not support snapshot restore: controller CREATE_DELETE_SNAPSHOT capability is not reported".to_owned()
        }
        ("VolumeSnapshot", other) => format!("the PVC source does not belong to the right APIGroup. Expected {SNAPSHOTS}, Got {other}"),
        ("PersistentVolumeClaim", _) => "CSI driver does not support clone operations: controller CLONE_VOLUME capability is not reported".to_owned(),
        _ => return Err(Refusal::Populator),
    };
    Err(Refusal::Failed(text))
}

/// The file system that a class asks for. What the driver does not know it refuses: it would be asked for in vain.
fn check_parameters(class: &StorageClass) -> Result<String, Refusal> {
    let (mut fs_type, mut found) = (String::new(), 0);
    for (key, value) in class.parameters.iter().flatten() {
        if key.eq_ignore_ascii_case("fstype") || key == FS_TYPE {
            fs_type.clone_from(value);
            found += 1;
            continue;
        }
        match key.strip_prefix(PREFIX) {
            Some(own) if SECRETS.iter().any(|s| own.strip_prefix(s).is_some_and(|rest| matches!(rest, "-name" | "-namespace"))) => {}
            Some(_) => {
                let text = format!("failed to strip CSI Parameters of prefixed keys: found unknown parameter key \"{key}\" with reserved namespace {PREFIX}");
                return Err(Refusal::Failed(text));
            }
            None => return Err(invalid(format!("parameter {key:?} is not known to {}", disk::NAME))),
        }
    }
    if found > 1 {
        return Err(Refusal::Failed(format!("fstype specified in parameters with both \"fstype\" and \"{FS_TYPE}\" keys")));
    }
    Ok(fs_type)
}

/// Whether a class allows a node with these labels.
pub(super) fn allows(class: &StorageClass, labels: &BTreeMap<String, String>) -> bool {
    let Some(terms) = class.allowed_topologies.as_ref().filter(|terms| !terms.is_empty()) else { return true };
    terms.iter().any(|term| {
        let mut expressions = term.match_label_expressions.iter().flatten();
        expressions.all(|e| labels.get(&e.key).is_some_and(|value| e.values.contains(value)))
    })
}

fn check_topology(class: &StorageClass, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if allows(class, labels) {
        return Ok(());
    }
    let node = labels.get(TOPOLOGY).map_or("", String::as_str);
    let segments = |term: &k8s_openapi::api::core::v1::TopologySelectorTerm| -> Vec<String> {
        let each = term.match_label_expressions.iter().flatten();
        each.flat_map(|e| e.values.iter().map(|value| format!("{{{} {value}}}", e.key))).collect()
    };
    let allowed: Vec<String> = class.allowed_topologies.iter().flatten().map(|term| format!("[{}]", segments(term).join(" "))).collect();
    // The original prints a quoted name within quotes.
    Err(Refusal::Failed(format!(
        "error generating accessibility requirements: selected node '{node:?}' topology '[{{{TOPOLOGY} {node}}}]' is not in allowed topologies: [{}]",
        allowed.join(" ")
    )))
}
