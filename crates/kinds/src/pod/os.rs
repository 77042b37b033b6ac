//! What a pod of an operating system may not ask for (`validateOS`, `validateLinux`, `validateWindows`).

use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};

/// What the security context of a pod may not have on Windows.
const POD_SECURITY: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
/// The same of a container.
const CONTAINER_SECURITY: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];
/// What a pod as a whole may not have on Windows; these two only if they are true.
const POD: [(&str, bool); 4] = [("hostUsers", false), ("hostPID", true), ("hostIPC", true), ("shareProcessNamespace", false)];

const NOT_ON_WINDOWS: &str = "cannot be set for a windows pod";
const NOT_ON_LINUX: &str = "windows options cannot be set for a linux pod";

/// Checks the operating system and what it forbids.
pub(super) fn check(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let os = &spec["os"];
    if !os.is_object() {
        return;
    }
    match tree::text(os, "name") {
        "" => errors.push(Error::required(&path.child("os").child("name"), "")),
        "linux" => forbid(spec, path, &["windowsOptions"], &["windowsOptions"], NOT_ON_LINUX, errors),
        "windows" => {
            let security = path.child("securityContext");
            forbidden(&spec["securityContext"], &security, &POD_SECURITY, NOT_ON_WINDOWS, errors);
            for (field, only_true) in POD {
                if spec[field] == true || !only_true && spec[field].is_boolean() {
                    errors.push(Error::forbidden(&path.child(field), NOT_ON_WINDOWS));
                }
            }
            forbid(spec, path, &[], &CONTAINER_SECURITY, NOT_ON_WINDOWS, errors);
        }
        _ => rules::supported(&os["name"], &path.child("os"), &["linux", "windows"], errors),
    }
}

/// Forbids fields of the pod's security context and of those of its containers, in the order in which upstream visits them.
fn forbid(spec: &Value, path: &Path, of_pod: &[&str], of_containers: &[&str], why: &str, errors: &mut ErrorList) {
    forbidden(&spec["securityContext"], &path.child("securityContext"), of_pod, why, errors);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in tree::list(spec, list).iter().enumerate() {
            let place = path.child(list).index(at).child("securityContext");
            forbidden(&container["securityContext"], &place, of_containers, why, errors);
        }
    }
}

fn forbidden(context: &Value, path: &Path, fields: &[&str], why: &str, errors: &mut ErrorList) {
    for field in fields {
        let set = match &context[*field] {
            Value::Null => false,
            // A list without a pointer counts only if it is not empty.
            Value::Array(items) => !items.is_empty(),
            _ => true,
        };
        if set {
            errors.push(Error::forbidden(&path.child(field), why));
        }
    }
}
