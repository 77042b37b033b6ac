//! Persistent volumes and the claims on them (`pkg/apis/core/validation`, `pkg/registry/core/persistentvolume*`).

use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};

/// Checks the spec of a claim, also of one that a pod or a set makes.
pub(crate) fn check_claim_spec(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let modes = tree::list(spec, "accessModes");
    if modes.is_empty() {
        errors.push(Error::required(&path.child("accessModes"), "at least 1 access mode is required"));
    }
    rules::label_selector(&spec["selector"], &path.child("selector"), errors);
}
