//! Files of one volume whose paths lie in each other's way (upstream's `warningsForOverlappingVirtualPaths`).

use crate::tree;
use machinery::{Value, quote::Quoted};
use std::rc::Rc;

/// Warnings of a pod that are made: a header, which has 4,096 characters, holds fewer.
pub(super) const TOLD_MAX: usize = 256;
/// Bytes of them beyond which no other is made: names of what is mounted have no bound.
const TOLD_BYTES_MAX: usize = 1 << 20;
/// Files of a volume that those behind them are held against.
const FILES_MAX: usize = 1024;

/// A path, and whose it is, where that is told.
#[derive(PartialEq)]
struct File {
    path: String,
    source: Rc<str>,
}

impl File {
    fn told(&self) -> String {
        let path = Quoted(&self.path);
        if self.source.is_empty() { path.to_string() } else { format!("{path} ({})", self.source) }
    }

    fn meets(&self, other: &File) -> bool {
        let holds = |above: &str, path: &str| path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        !self.path.is_empty() && !other.path.is_empty() && (holds(&self.path, &other.path) || holds(&other.path, &self.path))
    }
}

/// The warnings of a pod's volumes.
pub(super) fn of(spec: &Value, out: &mut Vec<String>) {
    for volume in tree::list(spec, "volumes") {
        let name = Quoted(tree::text(volume, "name"));
        let (map, secret, own) = (&volume["configMap"], &volume["secret"], &volume["downwardAPI"]);
        let kinds = [
            (map, format!("ConfigMap {}", Quoted(tree::text(map, "name")))),
            (secret, format!("Secret {}", Quoted(tree::text(secret, "secretName")))),
            (own, "DownwardAPI".to_owned()),
        ];
        for (source, what) in kinds {
            let (place, mut all) = (format!("volume {name} ({what})"), Vec::new());
            for file in items(source, "") {
                tell(&mut all, file, &place, out);
            }
        }
        let (place, mut all) = (format!("volume {name} (Projected)"), Vec::new());
        for source in tree::list(&volume["projected"], "sources") {
            if tree::empty(source) {
                out.push(format!("{place} has no sources provided"));
                continue;
            }
            for file in projected(source) {
                tell(&mut all, file, &place, out);
            }
        }
    }
}

fn file(path: &str, source: impl Into<Rc<str>>) -> File {
    File { path: path.trim_end_matches('/').to_owned(), source: source.into() }
}

fn items(source: &Value, named: &str) -> Vec<File> {
    let named: Rc<str> = named.into();
    tree::list(source, "items").iter().map(|item| file(tree::text(item, "path"), Rc::clone(&named))).collect()
}

/// The files of one source of a projected volume.
fn projected(source: &Value) -> Vec<File> {
    let (map, secret, own) = (&source["configMap"], &source["secret"], &source["downwardAPI"]);
    let (token, bundle, certificate) = (&source["serviceAccountToken"], &source["clusterTrustBundle"], &source["podCertificate"]);
    let has = |source: &Value| source["items"].is_array();
    if has(map) {
        items(map, &format!("ConfigMap {}", Quoted(tree::text(map, "name"))))
    } else if has(secret) {
        items(secret, &format!("Secret {}", Quoted(tree::text(secret, "name"))))
    } else if has(own) {
        items(own, "DownwardAPI")
    } else if token.is_object() {
        vec![file(tree::text(token, "path"), "ServiceAccountToken")]
    } else if bundle.is_object() {
        let name = bundle["name"].as_str().unwrap_or_else(|| tree::text(bundle, "signerName"));
        vec![file(tree::text(bundle, "path"), format!("ClusterTrustBundle {}", Quoted(name)))]
    } else {
        let parts = [("certificateChainPath", "chain"), ("keyPath", "key"), ("credentialBundlePath", "credential bundle")];
        let of = |(field, what): (&str, &str)| file(tree::text(certificate, field), format!("PodCertificate {what}"));
        parts.into_iter().filter(|(field, _)| !tree::text(certificate, field).is_empty()).map(of).collect()
    }
}

/// Tells of each of the files before it that one meets, and puts it to them.
fn tell(all: &mut Vec<File>, file: File, place: &str, out: &mut Vec<String>) {
    if out.len() >= TOLD_MAX {
        return;
    }
    let mut bytes: usize = out.iter().map(String::len).sum();
    for other in all.iter().filter(|other| file.meets(other)) {
        if out.len() >= TOLD_MAX || bytes > TOLD_BYTES_MAX {
            return;
        }
        let told = format!("{place}: overlapping paths: {} with {}", file.told(), other.told());
        bytes += told.len();
        out.push(told);
    }
    if all.len() < FILES_MAX {
        all.push(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_in_each_other_s_way_are_told() {
        let spec = json!({"volumes": [
            {"name": "a", "configMap": {"name": "m", "items": [{"path": "x"}, {"path": "x/y"}, {"path": "xy"}]}},
            {"name": "b", "projected": {"sources": [{}, {"serviceAccountToken": {"path": "t"}}, {"secret": {"name": "s", "items": [{"path": "t/"}]}}]}},
        ]});
        let items: Vec<Value> = (0..TOLD_MAX).map(|_| json!({"path": "x"})).collect();
        let mut many = Vec::new();
        of(&json!({"volumes": [{"name": "a", "configMap": {"name": "m", "items": items}}]}), &mut many);
        assert_eq!(many.len(), TOLD_MAX, "no more than can be told");
        let mut out = Vec::new();
        of(&spec, &mut out);
        assert_eq!(
            out,
            [
                "volume \"a\" (ConfigMap \"m\"): overlapping paths: \"x/y\" with \"x\"",
                "volume \"b\" (Projected) has no sources provided",
                "volume \"b\" (Projected): overlapping paths: \"t\" (Secret \"s\") with \"t\" (ServiceAccountToken)",
            ]
        );
    }
}
