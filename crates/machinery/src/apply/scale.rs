//! Whose the replicas are, told of a Scale: upstream's `ScaleHandler`.
//!
//! A Scale has no managers of its own. Those of the object whose field is its replicas are told in the Scale's version; a write of the
//! Scale is judged by these, and what comes of it is put back. An owner by update is another in another version, so that one who
//! writes the Scale has an entry for the replicas alone, without a time, beside the one that he may have for all else.

use super::{Entry, FieldSet, managers::Managers};
use crate::{Value, gvk::parse_api_version};

/// The version of a Scale.
const VERSION: &str = "autoscaling/v1";
/// Its replicas.
const REPLICAS: [&str; 2] = ["spec", "replicas"];

/// Where the replicas of a kind stand.
#[derive(Debug, Clone, Copy)]
pub struct Scaled<'a> {
    /// The version in which the object is written.
    pub api_version: &'a str,
    /// The names that lead to its replicas.
    pub path: &'a [&'a str],
    /// The replicas in each version of a custom kind; nothing where a version has no scale. Where this is not said, all versions of the
    /// group have theirs in the same place.
    pub versions: Option<&'a [(String, FieldSet)]>,
}

impl Scaled<'_> {
    fn replicas(&self) -> FieldSet {
        FieldSet::from_paths(&[self.path])
    }

    /// The replicas as an entry's version has them. What is written in no version of the kind is dropped.
    fn of(&self, entry: &Entry) -> Option<FieldSet> {
        match self.versions {
            Some(versions) => versions.iter().find(|(version, _)| *version == entry.api_version).map(|(_, replicas)| replicas.clone()),
            None => (parse_api_version(&entry.api_version).0 == parse_api_version(self.api_version).0).then(|| self.replicas()),
        }
    }

    /// Tells a Scale whose the replicas of its object are.
    pub fn tell(&self, object: &Value, scale: &mut Value) {
        let owners = Managers::of(Some(object)).0.into_iter().filter(|entry| self.of(entry).is_some_and(|replicas| owns(entry, &replicas)));
        let told = owners.map(|entry| Entry { api_version: VERSION.to_owned(), set: FieldSet::from_paths(&[&REPLICAS]), ..entry });
        Managers(told.collect()).write(scale);
    }

    /// Takes over what a written Scale says of its owners.
    pub fn take(&self, scale: &Value, object: &mut Value) {
        let in_scale = FieldSet::from_paths(&[&REPLICAS]);
        let mut told = Managers::of(Some(scale)).0;
        let mut owners = Vec::new();
        for entry in Managers::of(Some(object)).0 {
            let Some(replicas) = self.of(&entry) else { continue };
            let keeps = !owns(&entry, &replicas) || {
                let before = told.len();
                told.retain(|other| !other.is_same_owner(&entry));
                told.len() < before
            };
            owners.push(if keeps { entry } else { Entry { set: entry.set.without(&replicas), ..entry } });
        }
        let told = told.into_iter().filter(|entry| in_scale.is_within(&entry.set));
        owners.extend(told.map(|entry| Entry { api_version: self.api_version.to_owned(), time: String::new(), set: self.replicas(), ..entry }));
        Managers(owners).write(object);
    }
}

/// Whether the replicas are an entry's, if there are some.
fn owns(entry: &Entry, replicas: &FieldSet) -> bool {
    !replicas.is_empty() && replicas.is_within(&entry.set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_writes_a_scale_owns_its_replicas_by_an_entry_without_a_time() {
        let scaled = Scaled { api_version: "g/v1", path: &["spec", "n"], versions: None };
        let entry = |manager: &str, operation: &str, fields: Value| json!({"manager": manager, "operation": operation, "apiVersion": "g/v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields});
        let both = json!({"f:spec": {"f:n": {}, "f:x": {}}});
        let mut object = json!({"metadata": {"managedFields": [entry("a", "Apply", both.clone()), entry("u", "Update", both), {"manager": "o", "operation": "Update",
            "apiVersion": "other/v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:n": {}}}}]}});
        let mut scale = json!({});
        scaled.tell(&object, &mut scale);
        let told = scale["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(told.iter().map(|entry| entry["manager"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "u"]);
        assert!(told.iter().all(|entry| entry["apiVersion"] == VERSION && entry["fieldsV1"] == json!({"f:spec": {"f:replicas": {}}})));
        scaled.take(&scale, &mut object);
        let owners = object["metadata"]["managedFields"].as_array().unwrap();
        let seen: Vec<_> = owners.iter().map(|entry| (entry["manager"].as_str().unwrap(), entry["time"].is_string(), entry["fieldsV1"].clone())).collect();
        let (n, x) = (json!({"f:spec": {"f:n": {}}}), json!({"f:spec": {"f:x": {}}}));
        assert_eq!(seen, [("a", true, json!({"f:spec": {"f:n": {}, "f:x": {}}})), ("u", false, n), ("u", true, x)]);
    }

    #[test]
    fn a_version_without_scales_keeps_its_owners() {
        let versions = [("g/v1".to_owned(), FieldSet::new()), ("g/v2".to_owned(), FieldSet::from_paths(&[&["spec", "n"]]))];
        let scaled = Scaled { api_version: "g/v2", path: &["spec", "n"], versions: Some(&versions) };
        let entry = |version: &str| json!({"manager": version, "operation": "Update", "apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:n": {}}}});
        let mut object = json!({"metadata": {"managedFields": [entry("g/v1"), entry("g/v3")]}});
        let mut scale = json!({});
        scaled.tell(&object, &mut scale);
        assert!(scale["metadata"]["managedFields"].as_array().is_none_or(Vec::is_empty), "{scale}");
        scaled.take(&scale, &mut object);
        assert_eq!(object["metadata"]["managedFields"], json!([entry("g/v1")]), "what no version has is dropped");
    }
}
