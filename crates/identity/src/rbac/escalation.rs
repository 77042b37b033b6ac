//! Nobody can give away, by writing roles and bindings, what they do not have themselves (upstream's
//! `pkg/registry/rbac/escalation_check.go` and the policybased storages).

use super::{Rbac, Rule, compact, uncovered};
use crate::{Attributes, User, user::MASTERS};
use machinery::tree::{items, text};
use machinery::{Value, status::Status};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a create (`old` absent) or update of a role or binding. `allowed` answers the whole chain of authorisers.
///
/// # Errors
/// 403 in upstream's words if the writer would grant more than they have, and lacks the verbs `escalate` (roles) or
/// `bind` (bindings).
pub fn check(rbac: &Rbac, allowed: &dyn Fn(&Attributes<'_>) -> bool, user: &User, resource: &str, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    if user.is_in(MASTERS) {
        return Ok(());
    }
    let meta = &object["metadata"];
    let (namespace, name) = (text(meta, "namespace"), text(meta, "name"));
    let asked = |verb, resource, name| Attributes {
        user,
        verb,
        group: GROUP,
        version: "v1",
        resource,
        subresource: "",
        namespace,
        name,
        path: "",
        is_resource: true,
        fields: None,
    };
    let wanted = match resource {
        "roles" | "clusterroles" => {
            let unchanged = old.is_some_and(|old| old["rules"] == object["rules"] && old["aggregationRule"] == object["aggregationRule"]);
            if unchanged || allowed(&asked("escalate", resource, name)) {
                return Ok(());
            }
            let mut wanted = Rule::of_role(object);
            if !items(&object["aggregationRule"]["clusterRoleSelectors"]).is_empty() {
                let all = || vec!["*".to_owned()];
                // Whoever aggregates may come to have anything.
                wanted.push(Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() });
                wanted.push(Rule { verbs: all(), urls: all(), ..Rule::default() });
            }
            wanted
        }
        _ => {
            if old.is_some_and(|old| old["subjects"] == object["subjects"] && old["roleRef"] == object["roleRef"]) {
                return Ok(());
            }
            let role_ref = &object["roleRef"];
            let (kind, role) = (text(role_ref, "kind"), text(role_ref, "name"));
            let role_resource = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
            if allowed(&asked("bind", role_resource, role)) {
                return Ok(());
            }
            rbac.role_rules(role_ref, namespace).ok_or_else(|| Status::not_found(GROUP, if kind == "ClusterRole" { "clusterroles" } else { "roles" }, role))?
        }
    };
    let (owned, problems) = rbac.rules_of(user, namespace);
    let missing = uncovered(&owned, &wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = compact(&missing).iter().map(Rule::compact).collect();
    lines.sort();
    lines.dedup();
    let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
    let mut why =
        format!("user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}", user.name, groups.join(" "), lines.join("\n"));
    if !problems.is_empty() {
        why.push_str(&format!("; resolution errors: [{}]", problems.join(", ")));
    }
    Err(Status::forbidden(GROUP, resource, name, why))
}
