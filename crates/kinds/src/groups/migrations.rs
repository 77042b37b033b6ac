//! What the status of a migration of stored versions may become (`storagemigration/validation`): it ends once, and in one way.

use super::checks;
use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    gvk::Gvk,
    json, schema,
};

/// The conditions that end a migration, and how the original calls them.
const ENDS: [(&str, &str); 2] = [("Succeeded", "Success"), ("Failed", "Failed")];

/// What is wrong with a new status.
pub(super) fn check_status(status: &Value, old: &Value) -> ErrorList {
    let (mut errors, path) = (ErrorList::new(), Path::root("status"));
    let (version, place) = (tree::text(status, "resourceVersion"), path.child("resourceVersion"));
    if !version.is_empty() && (version.starts_with('0') || !version.bytes().all(|byte| byte.is_ascii_digit())) {
        errors.push(Error::invalid(&place, version, format!("resource version is not well formed: {version}")));
    }
    checks::conditions(status, &path, &mut errors);
    if !tree::empty(&old["resourceVersion"]) {
        rules::immutable(&version.into(), &old["resourceVersion"], &place, &mut errors);
    }
    let place = path.child("conditions");
    let mut wrong = |detail: String| errors.push(Error::invalid(&place, status["conditions"].clone(), detail).shown_as(shown(&status["conditions"])));
    if ENDS.iter().all(|(end, _)| holds(status, end)) {
        wrong("Both success and failed conditions cannot be true at the same time".to_owned());
    }
    for (end, called) in ENDS {
        if holds(old, end) && !holds(status, end) {
            wrong(format!("{called} condition cannot be set to false once it is true"));
        }
    }
    errors
}

fn holds(status: &Value, condition: &str) -> bool {
    tree::list(status, "conditions").iter().any(|one| one["type"] == condition && one["status"] == "True")
}

/// Conditions with their fields in the order of their type.
fn shown(conditions: &Value) -> String {
    let kind = schema::builtin().kind(&Gvk::new("storagemigration.k8s.io", "v1beta1", "StorageVersionMigration"));
    let ty = kind.and_then(|kind| kind.child("status")?.child("conditions"));
    String::from_utf8(json::encode_as(ty, conditions)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_migration_ends_once_and_in_one_way() {
        let status = |succeeded: &str, failed: &str| {
            let one =
                |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z", "message": ""});
            json!({"resourceVersion": "7", "conditions": [one("Succeeded", succeeded), one("Failed", failed)]})
        };
        let wrong = |new: Value, old: Value| check_status(&new, &old).into_iter().map(|error| error.detail.clone()).collect::<Vec<_>>();
        assert!(wrong(status("True", "False"), status("False", "False")).is_empty());
        assert_eq!(wrong(status("True", "True"), json!({})), ["Both success and failed conditions cannot be true at the same time"]);
        assert_eq!(wrong(status("False", "False"), status("True", "False")), ["Success condition cannot be set to false once it is true"]);
        assert_eq!(wrong(status("False", "Unknown"), status("False", "True")), ["Failed condition cannot be set to false once it is true"]);
        assert_eq!(wrong(json!({"resourceVersion": "07"}), json!({})), ["resource version is not well formed: 07"]);
        assert_eq!(wrong(json!({"resourceVersion": "8"}), status("False", "False")), [rules::IMMUTABLE]);
    }
}
