//! What the sources of volumes share, a pod's and a persistent volume's, and the paths in them.

use crate::{
    rules,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};
use serde_json::json;

/// The defaults of sources that pods and persistent volumes share.
pub(crate) fn default_source(volume: &mut Fields) {
    if let Some(path) = tree::present(volume, "hostPath") {
        tree::fill(path, "type", "");
    }
    if let Some(iscsi) = tree::present(volume, "iscsi") {
        tree::fill_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(disk) = tree::present(volume, "azureDisk") {
        for (key, value) in [("cachingMode", json!("ReadWrite")), ("kind", json!("Shared")), ("fsType", json!("ext4")), ("readOnly", json!(false))] {
            tree::fill(disk, key, value);
        }
    }
    if let Some(rbd) = tree::present(volume, "rbd") {
        for (key, value) in [("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")] {
            tree::fill_text(rbd, key, value);
        }
    }
}

/// Checks a directory of a file server.
pub(crate) fn nfs(source: &Value, path: &Path, errors: &mut ErrorList) {
    rules::required(source, path, "server", errors);
    rules::required(source, path, "path", errors);
    if !tree::text(source, "path").starts_with('/') {
        errors.push(Error::invalid(&path.child("path"), tree::text(source, "path"), "must be an absolute path"));
    }
}

/// Checks a path on the node.
pub(crate) fn host_path(source: &Value, path: &Path, errors: &mut ErrorList) {
    let text = tree::text(source, "path");
    if text.is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
        return;
    }
    no_backsteps(text, &path.child("path"), errors);
    let kinds = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let kind = tree::text(source, "type");
    if !kinds.contains(&kind) {
        errors.push(rules::not_supported(&path.child("type"), kind, &kinds));
    }
}

/// A path that stays below where it begins.
pub(super) fn relative(text: &str, path: &Path, errors: &mut ErrorList) {
    if text.starts_with('/') {
        errors.push(Error::invalid(path, text, "must be a relative path"));
    }
    no_backsteps(text, path, errors);
}

/// A path that never goes up.
pub(crate) fn no_backsteps(text: &str, path: &Path, errors: &mut ErrorList) {
    if text.split('/').any(|part| part == "..") {
        errors.push(Error::invalid(path, text, "must not contain '..'"));
    }
}
