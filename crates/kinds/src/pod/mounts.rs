//! Where a container sees the pod's volumes: mounts and block devices.

use super::{sources, volumes::Known};
use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};
use std::collections::{HashMap, HashSet};

/// Checks mounts and devices.
pub(super) fn check(c: &Value, volumes: &Known<'_>, path: &Path, errors: &mut ErrorList) {
    let mounts = tree::list(c, "volumeMounts");
    let devices = tree::list(c, "volumeDevices");
    if !mounts.is_empty() {
        let taken: HashMap<&str, &str> = devices.iter().map(|d| (tree::text(d, "name"), tree::text(d, "devicePath"))).collect();
        mount_list(c, mounts, &taken, volumes, &path.child("volumeMounts"), errors);
    }
    if !devices.is_empty() {
        let taken: HashMap<&str, &str> = mounts.iter().map(|m| (tree::text(m, "name"), tree::text(m, "mountPath"))).collect();
        device_list(devices, &taken, volumes, &path.child("volumeDevices"), errors);
    }
}

fn mount_list(c: &Value, mounts: &[Value], devices: &HashMap<&str, &str>, volumes: &Known<'_>, list: &Path, errors: &mut ErrorList) {
    let mut targets = HashSet::new();
    let paths: HashSet<&str> = devices.values().copied().collect();
    for (at, mount) in mounts.iter().enumerate() {
        let path = list.index(at);
        let (name, target) = (tree::text(mount, "name"), tree::text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        }
        if !volumes.contains_key(name) {
            errors.push(Error::not_found(&path.child("name"), name));
        }
        if target.is_empty() {
            errors.push(Error::required(&path.child("mountPath"), ""));
        }
        if !targets.insert(target) {
            errors.push(Error::invalid(&path.child("mountPath"), target, "must be unique"));
        }
        if devices.contains_key(name) {
            errors.push(Error::invalid(&path.child("name"), name, "must not already exist in volumeDevices"));
        }
        if paths.contains(target) {
            errors.push(Error::invalid(&path.child("mountPath"), target, "must not already exist as a path in volumeDevices"));
        }
        // In the rest upstream names the list, not the element.
        let (sub, expr) = (tree::text(mount, "subPath"), tree::text(mount, "subPathExpr"));
        if !sub.is_empty() {
            sources::relative(sub, &list.child("subPath"), errors);
        }
        if !expr.is_empty() {
            if !sub.is_empty() {
                errors.push(Error::invalid(&path.child("subPathExpr"), expr, "subPathExpr and subPath are mutually exclusive"));
            }
            sources::relative(expr, &list.child("subPathExpr"), errors);
        }
        propagation(c, mount, list, errors);
    }
}

fn propagation(c: &Value, mount: &Value, list: &Path, errors: &mut ErrorList) {
    let (mode, privileged) = (mount["mountPropagation"].as_str(), c["securityContext"]["privileged"] == true);
    if let Some(mode) = mode {
        let path = list.child("mountPropagation");
        let all = ["Bidirectional", "HostToContainer", "None"];
        if !all.contains(&mode) {
            errors.push(rules::not_supported(&path, mode, &all));
        }
        if mode == "Bidirectional" && !privileged {
            errors.push(Error::forbidden(&path, "Bidirectional mount propagation is available only to privileged containers"));
        }
    }
    let path = list.child("recursiveReadOnly");
    match mount["recursiveReadOnly"].as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount["readOnly"] != true {
                errors.push(Error::forbidden(&path, "may only be specified when readOnly is true"));
            }
            if mode.is_some_and(|m| m != "None") {
                errors.push(Error::forbidden(&path, "may only be specified when mountPropagation is None or not specified"));
            }
        }
        Some(other) => errors.push(rules::not_supported(&path, other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

fn device_list(devices: &[Value], mounts: &HashMap<&str, &str>, volumes: &Known<'_>, list: &Path, errors: &mut ErrorList) {
    let (mut seen, mut targets) = (HashSet::new(), HashSet::new());
    let paths: HashSet<&str> = mounts.values().copied().collect();
    for (at, device) in devices.iter().enumerate() {
        let path = list.index(at);
        let (name, target) = (tree::text(device, "name"), tree::text(device, "devicePath"));
        let (named, placed) = (path.child("name"), path.child("devicePath"));
        if name.is_empty() {
            errors.push(Error::required(&named, ""));
        } else if !seen.insert(name) {
            errors.push(Error::invalid(&named, name, "must be unique"));
        }
        match volumes.get(name) {
            None => errors.push(Error::not_found(&named, name)),
            Some(volume) if !volume["persistentVolumeClaim"].is_object() && !volume["ephemeral"].is_object() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(Error::invalid(&named, name, detail));
            }
            Some(_) => {}
        }
        if target.is_empty() {
            errors.push(Error::required(&placed, ""));
        }
        if targets.contains(target) {
            errors.push(Error::invalid(&placed, target, "must be unique"));
        }
        if target.split('/').any(|part| part == "..") {
            errors.push(Error::invalid(&placed, target, "can not contain backsteps ('..')"));
        } else {
            targets.insert(target);
        }
        if mounts.contains_key(name) {
            errors.push(Error::invalid(&named, name, "must not already exist in volumeMounts"));
        }
        if paths.contains(target) {
            errors.push(Error::invalid(&placed, target, "must not already exist as a path in volumeMounts"));
        }
    }
}
