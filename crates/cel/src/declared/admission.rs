//! What expressions of policies, match conditions and webhooks see of a request (`k8s.io/apiserver/pkg/admission/plugin/cel`), and
//! the types by which a policy writes its changes (`k8s.io/apiserver/pkg/cel/mutation`).

use super::Declared;
use crate::types::Type;

/// A list or map whose size nobody knows.
const ANY_SIZE: i64 = -1;

/// `request`.
pub fn request() -> Declared {
    let kind = Declared::object("kubernetes.GroupVersionKind", strings(["group", "version", "kind"]));
    let resource = Declared::object("kubernetes.GroupVersionResource", strings(["group", "version", "resource"]));
    let user = Declared::object(
        "kubernetes.UserInfo",
        strings(["username", "uid"]).into_iter().chain([("groups", string_list()), ("extra", Declared::map(string_list(), ANY_SIZE))]),
    );
    let texts = strings(["subResource", "requestSubResource", "name", "namespace", "operation"]);
    let others = [
        ("kind", kind.clone()),
        ("resource", resource.clone()),
        ("requestKind", kind),
        ("requestResource", resource),
        ("userInfo", user),
        ("dryRun", Declared::simple(Type::Bool, 4)),
        ("options", Declared::simple(Type::Dyn, 1)),
    ];
    Declared::object("kubernetes.AdmissionRequest", texts.into_iter().chain(others))
}

/// `namespaceObject`.
pub fn namespace() -> Declared {
    let time = || Declared::simple(Type::Timestamp, 12);
    let int = || Declared::simple(Type::Int, 1);
    let labels = || Declared::map(Declared::string(), ANY_SIZE);
    let spec = Declared::object("kubernetes.NamespaceSpec", [("finalizers", string_list())]);
    let condition =
        Declared::object("kubernetes.NamespaceCondition", strings(["status", "type", "message", "reason"]).into_iter().chain([("lastTransitionTime", time())]));
    let status = Declared::object("kubernetes.NamespaceStatus", [("conditions", Declared::list(condition, ANY_SIZE)), ("phase", Declared::string())]);
    let metadata = Declared::object(
        "kubernetes.NamespaceMetadata",
        strings(["name", "generateName", "namespace", "UID", "resourceVersion"]).into_iter().chain([
            ("labels", labels()),
            ("annotations", labels()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", int()),
            ("deletionTimestamp", time()),
            ("generation", int()),
            ("finalizers", string_list()),
        ]),
    );
    Declared::object("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
}

fn strings<const N: usize>(names: [&'static str; N]) -> [(&'static str, Declared); N] {
    names.map(|name| (name, Declared::string()))
}

fn string_list() -> Declared {
    Declared::list(Declared::string(), ANY_SIZE)
}

/// Which of the variables and types that not every expression has, an expression has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Optional {
    pub params: bool,
    pub authorizer: bool,
    /// The types of patches: [`patch_field`].
    pub patches: bool,
}

/// The type that a name means where patches are made: `JSONPatch`, `Object` and its parts (`Object.spec.template`).
pub(crate) fn patch_type(name: &str) -> Option<Type> {
    (name == "JSONPatch" || name == "Object" || name.starts_with("Object.")).then(|| Type::object(name))
}

/// The type of a field of those: parts of objects may be anything.
pub(crate) fn patch_field(object: &str, field: &str) -> Option<Type> {
    patch_type(object)?;
    match (object, field) {
        ("JSONPatch", "op" | "path" | "from") => Some(Type::String),
        ("JSONPatch", "value") => Some(Type::Dyn),
        ("JSONPatch", _) => None,
        _ => Some(Type::Dyn),
    }
}
