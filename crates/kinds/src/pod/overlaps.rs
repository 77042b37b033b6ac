//! Files of one volume whose paths lie in each other's way (upstream's `warningsForOverlappingVirtualPaths`).

use crate::tree;
use machinery::{Value, quote::Quoted};

/// A path, and whose it is, where that is told.
#[derive(PartialEq)]
struct File {
    path: String,
    source: String,
}

impl File {
    fn told(&self) -> String {
        let path = Quoted(&self.path);
        if self.source.is_empty() { path.to_string() } else { format!("{path} ({})", self.source) }
    }

    fn meets(&self, other: &File) -> bool {
        let (own, theirs) = (format!("{}/", self.path), format!("{}/", other.path));
        !self.path.is_empty() && !other.path.is_empty() && (own.starts_with(&theirs) || theirs.starts_with(&own))
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
            let told = collisions(items(source, ""));
            out.extend(told.into_iter().map(|pair| format!("volume {name} ({what}): overlapping paths: {pair}")));
        }
        let mut all = Vec::new();
        for source in tree::list(&volume["projected"], "sources") {
            if tree::empty(source) {
                out.push(format!("volume {name} (Projected) has no sources provided"));
                continue;
            }
            for file in projected(source) {
                out.extend(met(&all, &file).into_iter().map(|pair| format!("volume {name} (Projected): overlapping paths: {pair}")));
                all.push(file);
            }
        }
    }
}

fn file(path: &str, source: impl Into<String>) -> File {
    File { path: path.trim_end_matches('/').to_owned(), source: source.into() }
}

fn items(source: &Value, named: &str) -> Vec<File> {
    tree::list(source, "items").iter().map(|item| file(tree::text(item, "path"), named)).collect()
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

fn collisions(files: Vec<File>) -> Vec<String> {
    let (mut all, mut out) = (Vec::new(), Vec::new());
    for file in files {
        out.extend(met(&all, &file));
        all.push(file);
    }
    out
}

/// A file with each of the others that it meets.
fn met(others: &[File], file: &File) -> Vec<String> {
    others.iter().filter(|other| file.meets(other)).map(|other| format!("{} with {}", file.told(), other.told())).collect()
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
