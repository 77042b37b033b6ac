//! A file that describes a static pod.
//!
//! What it says is decoded, defaulted and checked as the API would (by the same functions), given the node's name, and known by a hash
//! over all of that and the file's path: the same file is the same pod after a restart, and another file another one.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use machinery::Value;
use machinery::gvk::Gvk;
use machinery::json::Validation;
use machinery::tree::text;
use machinery::{defaulting, schema, yaml};
use nix::fcntl::OFlag;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{FILE, HASH, MIRROR, SEEN, SOURCE};

/// Longest file that is read (upstream's `maxConfigLength`).
const BYTES_MAX: u64 = 10 << 20;
/// Longest UID that a file may give its pod.
const UID_BYTES_MAX: usize = 64;

/// The bytes of a regular file. Anything else is refused without being read: a pipe would be waited for.
pub fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let regular = |meta: fs::Metadata| match () {
        () if meta.is_file() => Ok(()),
        () if meta.is_dir() => Err("Provided manifest path is a directory, not recursing into manifest path".to_owned()),
        () => Err("Manifest path is not a directory or file".to_owned()),
    };
    // Before it is opened, since opening a device may do something, and after, since it may have become another.
    regular(fs::metadata(path).map_err(|e| e.to_string())?)?;
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(|e| e.to_string())?;
    regular(file.metadata().map_err(|e| e.to_string())?)?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err("the read limit is reached".into());
    }
    Ok(bytes)
}

fn fields<'v>(value: &'v mut Value, key: &str) -> Option<&'v mut machinery::Map<String, Value>> {
    let value = value.as_object_mut()?.entry(key).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

/// The pod that a file describes, of this node, seen then.
pub fn pod(bytes: &[u8], path: &Path, node: &str, seen: &str) -> Result<Pod, String> {
    let refused = |why: String| format!("{}: couldn't parse as pod({why}), please check config file", path.display());
    let ty = schema::builtin().kind(&Gvk::new("", "v1", "Pod")).ok_or("no schema of pods")?;
    // As it says itself what it is: a body of the API may leave that to its path.
    let said = yaml::decode(bytes, None, Validation::Ignore).map_err(|e| refused(e.message))?.value;
    if text(&said, "apiVersion") != "v1" || text(&said, "kind") != "Pod" {
        return Err(refused(format!("invalid pod: {}, Kind={}", text(&said, "apiVersion"), text(&said, "kind"))));
    }
    let mut value = yaml::decode(bytes, Some(ty), Validation::Ignore).map_err(|e| refused(e.message))?.value;
    let strategy = kinds::strategy("", "pods");
    defaulting::apply(ty, &mut value);
    strategy.default(&mut value);
    if text(&value["metadata"], "name").is_empty() {
        return Err("invalid pod: name is needed for the pod".into());
    }
    let uid = text(&value["metadata"], "uid");
    // It names directories, logs and cgroups of this node.
    if uid.len() > UID_BYTES_MAX || !uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(format!("invalid pod: metadata.uid {uid:?} may only have letters, digits and '-', {UID_BYTES_MAX} at most"));
    }
    place(&mut value, path, node, seen).ok_or("invalid pod: no object")?;
    let mut errors = kinds::validate_meta(&value, true, strategy);
    errors.extend(strategy.validate(&value));
    if !errors.is_empty() {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(format!("invalid pod: [{}]", errors.join(", ")));
    }
    match kinds::api_references(&value) {
        Ok(None) => {}
        Ok(Some(what)) => return Err(format!("static pods may not reference {what}")),
        Err(why) => return Err(why),
    }
    serde_json::from_value(value).map_err(|e| refused(e.to_string()))
}

/// Makes it a pod of this node (upstream's `applyDefaults`).
fn place(value: &mut Value, path: &Path, node: &str, seen: &str) -> Option<()> {
    let uid = match text(&value["metadata"], "uid") {
        "" => {
            let mut hash = Sha256::new();
            hash.update(machinery::json::encode(value));
            hash.update(format!("host:{node}file:{}", path.display()));
            hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
        }
        own => own.to_owned(),
    };
    let name = format!("{}-{}", text(&value["metadata"], "name"), node.to_lowercase());
    let metadata = fields(value, "metadata")?;
    metadata.insert("name".into(), name.into());
    if metadata.get("namespace").and_then(Value::as_str).is_none_or(str::is_empty) {
        metadata.insert("namespace".into(), "default".into());
    }
    metadata.insert("uid".into(), uid.clone().into());
    // Nobody asks for the end of it here but by taking the file away.
    metadata.remove("deletionTimestamp");
    let annotations = fields(value.get_mut("metadata")?, "annotations")?;
    annotations.remove(MIRROR);
    for (key, text) in [(HASH, uid.as_str()), (SOURCE, FILE), (SEEN, seen)] {
        annotations.insert(key.into(), text.into());
    }
    // Whatever becomes of the node, its own pods stay.
    let stays = json!({"operator": "Exists", "effect": "NoExecute"});
    let spec = fields(value, "spec")?;
    spec.insert("nodeName".into(), node.into());
    match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
        // One that bears the same for some seconds makes room for it.
        Some(list) => {
            list.retain(|t| !["key", "operator", "effect", "value"].iter().all(|key| text(t, key) == text(&stays, key)));
            list.push(stays);
        }
        None => drop(spec.insert("tolerations".into(), json!([stays]))),
    }
    value.as_object_mut()?.insert("status".into(), json!({"phase": "Pending"}));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use crate::util;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: c\n    image: web:1\n";

    fn of(text: &str, path: &str, node: &str) -> Result<Pod, String> {
        pod(text.as_bytes(), Path::new(path), node, "2026-01-01T00:00:00Z")
    }

    #[test]
    fn a_file_is_a_pod_of_its_node() {
        let web = of(WEB, "/m/web.yaml", "node-1").unwrap();
        assert_eq!((util::namespace(&web), util::name(&web)), ("default", "web-node-1"));
        let spec = web.spec.as_ref().unwrap();
        assert_eq!((spec.node_name.as_deref(), spec.restart_policy.as_deref()), (Some("node-1"), Some("Always")), "as the API would have it");
        let tolerations = serde_json::to_value(&spec.tolerations).unwrap();
        assert_eq!(tolerations, json!([{"effect": "NoExecute", "operator": "Exists"}]));
        let annotations = web.metadata.annotations.as_ref().unwrap();
        assert_eq!((annotations[HASH].as_str(), annotations[SOURCE].as_str()), (util::uid(&web), "file"));
        assert_eq!(util::uid(&web).len(), 32);
        assert!(super::super::is_static(&web) && !super::super::is_mirror(&web));
        // The same file is the same pod, also with other blanks; another text, file or node is another.
        let uid = |text: &str, path: &str, node: &str| of(text, path, node).unwrap().metadata.uid.unwrap();
        assert_eq!(uid(&WEB.replace("web:1", "\"web:1\""), "/m/web.yaml", "node-1"), util::uid(&web));
        for other in [uid(&WEB.replace("web:1", "web:2"), "/m/web.yaml", "node-1"), uid(WEB, "/m/b.yaml", "node-1"), uid(WEB, "/m/web.yaml", "node-2")] {
            assert_ne!(other, util::uid(&web));
        }
        let own = WEB.replace("name: web\n", "name: web\n  uid: own\n  namespace: kube-system\n  annotations: {kubernetes.io/config.mirror: x}\n");
        let own = of(&own, "/m/web.yaml", "n").unwrap();
        assert_eq!((util::uid(&own), util::namespace(&own)), ("own", "kube-system"));
        assert!(!super::super::is_mirror(&own));
    }

    #[test]
    fn what_is_no_pod_for_a_node_alone_is_refused() {
        let refused = |text: &str| of(text, "/m/a.yaml", "n").unwrap_err();
        assert!(refused("kind: Pod").starts_with("/m/a.yaml: couldn't parse as pod("));
        assert!(refused("{").starts_with("/m/a.yaml: couldn't parse as pod("));
        assert!(refused("apiVersion: v1\nkind: Service\nmetadata: {name: a}").contains("couldn't parse as pod("));
        assert_eq!(refused(&WEB.replace("name: web", "labels: {a: b}")), "invalid pod: name is needed for the pod");
        assert!(refused(&WEB.replace("name: c", "name: C")).starts_with("invalid pod: [spec.containers[0].name: Invalid value: \"C\""));
        assert_eq!(refused(&WEB.replace("spec:", "spec:\n  serviceAccountName: x")), "static pods may not reference serviceaccounts");
        for uid in ["/etc", "../x", "a_b", &"a".repeat(UID_BYTES_MAX + 1)] {
            let named = WEB.replace("name: web\n", &format!("name: web\n  uid: {uid}\n"));
            assert!(refused(&named).contains("metadata.uid"), "{uid}");
        }
        let volume = "spec:\n  volumes: [{name: v, configMap: {name: m}}]";
        assert_eq!(refused(&WEB.replace("spec:", volume)), "static pods may not reference configmaps");
    }

    #[test]
    fn only_files_of_some_size_are_read() {
        let dir = TempDir::new("static-files");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a"), "x").unwrap();
        assert_eq!(bytes(&at("a")).unwrap(), b"x");
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(bytes(&at("pipe")).unwrap_err(), "Manifest path is not a directory or file");
        fs::create_dir(at("dir")).unwrap();
        assert!(bytes(&at("dir")).unwrap_err().contains("is a directory"));
        File::create(at("huge")).unwrap().set_len(BYTES_MAX + 1).unwrap();
        assert_eq!(bytes(&at("huge")).unwrap_err(), "the read limit is reached");
        assert!(bytes(&at("none")).is_err());
    }
}
