//! Nobody can give away, by writing roles and bindings, what they do not have themselves (upstream's
//! `pkg/registry/rbac/escalation_check.go` and the policybased storages).

use super::{
    Rbac, Rule, compact,
    rule::{is_covered, open_pieces},
};
use crate::{Attributes, User, user::MASTERS};
use machinery::quote::Quoted;
use machinery::tree::{items, text};
use machinery::{Value, status::Status};

const GROUP: &str = "rbac.authorization.k8s.io";
/// Bytes of what a writer has not that are kept, to be told: a role of some KB may be of a thousand million pieces.
const MISSING_BYTES_MAX: usize = 4 << 20;
/// How many pieces are looked at, each beside all that the writer has: no role that people write has a hundredth of them.
const PIECES_MAX: usize = 100_000;

/// Who writes a role or a binding, and where.
#[derive(Debug, Clone, Copy)]
pub struct Grantor<'a> {
    /// The writer.
    pub user: &'a User,
    /// The resource that is written.
    pub resource: &'a str,
    /// The namespace of the path; empty for the cluster.
    pub namespace: &'a str,
    /// The name in the path: none where something is created.
    pub name: &'a str,
}

/// Checks a create (`old` absent) or update of a role or binding, as it is before anybody has judged its form. `allowed` answers the
/// whole chain of authorisers.
///
/// # Errors
/// 403 in upstream's words if the writer would grant more than they have, and lacks the verbs `escalate` (roles) or
/// `bind` (bindings); the role of a binding is not there, or is none.
pub fn check(rbac: &Rbac, allowed: &dyn Fn(&Attributes<'_>) -> bool, by: Grantor<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    if by.user.is_in(MASTERS) || old.is_some_and(|old| is_for_the_collector(object, old)) {
        return Ok(());
    }
    let may = |verb, group, resource, name| {
        allowed(&Attributes {
            user: by.user,
            verb,
            group,
            version: "*",
            resource,
            subresource: "",
            namespace: by.namespace,
            name,
            path: "",
            is_resource: true,
            fields: None,
        })
    };
    let forbidden = |why: String| Status::forbidden(GROUP, by.resource, text(&object["metadata"], "name"), why);
    if !matches!(by.resource, "roles" | "clusterroles") {
        let role_ref = &object["roleRef"];
        let (group, kind, role) = (text(role_ref, "apiGroup"), text(role_ref, "kind"), text(role_ref, "name"));
        let resource = match kind {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            other => return Err(Status::new(500, "", format!("unsupported role reference kind: {}", Quoted(other)))),
        };
        if may("bind", group, resource, role) {
            return Ok(());
        }
        if kind == "Role" && by.namespace.is_empty() {
            return Err(Status::bad_request("Namespace parameter required."));
        }
        if role.is_empty() {
            return Err(Status::bad_request("Name parameter required."));
        }
        // Upstream's storage calls what it does not find by the resource that is asked for, which is the binding's.
        let rules = rbac.role_rules(role_ref, by.namespace).ok_or_else(|| Status::not_found(GROUP, by.resource, role))?;
        return held(rbac, by, &rules).map_err(forbidden);
    }
    if may("escalate", GROUP, by.resource, by.name) {
        return Ok(());
    }
    held(rbac, by, &Rule::of_role(object)).map_err(forbidden)?;
    let aggregates = |role: &Value| !items(&role["aggregationRule"]["clusterRoleSelectors"]).is_empty();
    // Whoever aggregates may come to have anything.
    if by.resource == "clusterroles" && (aggregates(object) || old.is_some_and(aggregates)) {
        let all = || vec!["*".to_owned()];
        let everything = [Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() }, Rule { verbs: all(), urls: all(), ..Rule::default() }];
        held(rbac, by, &everything).map_err(|_| forbidden("must have cluster-admin privileges to use the aggregationRule".into()))?;
    }
    Ok(())
}

/// Whether a change touches nothing but what the garbage collector must change for an object to go.
fn is_for_the_collector(object: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut rest = object.clone();
        if let Some(metadata) = rest["metadata"].as_object_mut() {
            metadata.retain(|field, _| !matches!(field.as_str(), "ownerReferences" | "finalizers" | "managedFields" | "selfLink"));
        }
        rest
    };
    rest(object) == rest(old)
}

/// Whether the writer has all of the rules; else what upstream tells of those that they have not.
fn held(rbac: &Rbac, by: Grantor<'_>, wanted: &[Rule]) -> Result<(), String> {
    let (owned, problems) = rbac.rules_of(by.user, by.namespace);
    let (mut bytes, mut looked_at) = (0, 0);
    let missing: Vec<Rule> = open_pieces(&owned, wanted)
        .take(PIECES_MAX + 1)
        .inspect(|_| looked_at += 1)
        .filter(|piece| !is_covered(&owned, piece))
        .take_while(|piece| {
            let is_told = bytes < MISSING_BYTES_MAX;
            let lists = [&piece.verbs, &piece.groups, &piece.resources, &piece.names, &piece.urls];
            bytes += size_of::<Rule>() + lists.into_iter().flatten().map(String::len).sum::<usize>();
            is_told
        })
        .collect();
    if missing.is_empty() && looked_at <= PIECES_MAX {
        return Ok(());
    }
    if missing.is_empty() {
        return Err(format!("the rules multiply to more than {PIECES_MAX} permissions, which are not looked at one by one: write several roles"));
    }
    let mut lines: Vec<String> = compact(&missing).iter().map(Rule::compact).collect();
    lines.sort();
    lines.dedup();
    let groups: Vec<String> = by.user.groups.iter().map(|group| Quoted(group).to_string()).collect();
    let mut why = format!(
        "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        Quoted(&by.user.name),
        groups.join(" "),
        lines.join("\n")
    );
    // Roles that are not there go by the resource that is asked for, as above.
    let mut told: Vec<String> = Vec::new();
    for problem in problems {
        let problem = problem.split_once(' ').map_or_else(|| problem.clone(), |(_, rest)| format!("{}.{GROUP} {rest}", by.resource));
        if !told.contains(&problem) {
            told.push(problem);
        }
    }
    match told.as_slice() {
        [] => {}
        [one] => why.push_str(&format!("; resolution errors: [{one}]")),
        more => why.push_str(&format!("; resolution errors: [[{}]]", more.join(", "))),
    }
    Err(why)
}
