//! Who may say what a policy's parameters are. They are read with the server's own rights, and what a policy tells of them comes to
//! whoever is refused by it; so whoever names them must be able to read them (upstream's `authz.go` beside the strategies of these
//! kinds, which ask when all else is in order).

use super::{
    super::{Plugin, World, text},
    params,
};
use crate::{Operation, Write, errors};
use identity::{Attributes, User};
use machinery::{
    Value,
    field::{Error, Path},
    status::Status,
};

const GROUP: &str = "admissionregistration.k8s.io";

pub(in crate::admission) struct ParamRights;

impl Plugin for ParamRights {
    fn name(&self) -> &'static str {
        "params of policies"
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        let resource = &write.row.resource;
        let is_written = matches!(write.operation, Operation::Create | Operation::Update) && write.subresource.is_empty();
        if resource.group != GROUP || !is_written {
            return Ok(());
        }
        let (field, why) = match resource.resource.as_str() {
            "validatingadmissionpolicies" | "mutatingadmissionpolicies" => ("paramKind", of_policy(world, write, object)),
            "validatingadmissionpolicybindings" => ("paramRef", of_binding(world, write, object, "validatingadmissionpolicies")),
            "mutatingadmissionpolicybindings" => ("paramRef", of_binding(world, write, object, "mutatingadmissionpolicies")),
            _ => return Ok(()),
        };
        match why {
            None => Ok(()),
            Some(why) => Err(errors::invalid(write.row, text(&object["metadata"], "name"), vec![Error::forbidden(&Path::root("spec").child(field), why)])),
        }
    }
}

/// Whoever names a kind must be able to read all objects of it.
fn of_policy(world: &World, write: &Write<'_>, policy: &Value) -> Option<String> {
    let kind = &policy["spec"]["paramKind"];
    if kind.is_null() || write.old.is_some_and(|old| old["spec"]["paramKind"] == *kind) {
        return None;
    }
    let (api, name) = (text(kind, "apiVersion"), text(kind, "kind"));
    let resource = params::row(world, api, name).map_or_else(|| "*".to_owned(), |row| row.resource.resource.clone());
    if may(world, write, "get", (api, resource.as_str()), ("*", "*")) {
        return None;
    }
    let user = shown(&write.cx.user);
    Some(format!("user {user} must have \"get\" permission on all objects of the referenced paramKind (kind={name}, apiVersion={api})"))
}

/// Whoever names objects must be able to read them; of a kind that is not known, everything. Upstream compares what is named with what was
/// by address, so it asks at each change.
fn of_binding(world: &World, write: &Write<'_>, binding: &Value, policies: &str) -> Option<String> {
    let wanted = &binding["spec"]["paramRef"];
    if wanted.is_null() {
        return None;
    }
    let (name, namespace) = (text(wanted, "name"), text(wanted, "namespace"));
    let verb = if name.is_empty() { "list" } else { "get" };
    let policy_name = text(&binding["spec"], "policyName");
    let policy = world.get((GROUP, "v1", policies), "", policy_name);
    let kind = policy.as_ref().map(|policy| &policy["spec"]["paramKind"]).filter(|kind| !kind.is_null());
    let (api, kind) = kind.map_or(("*/*", None), |kind| (text(kind, "apiVersion"), Some(text(kind, "kind"))));
    let row = kind.and_then(|kind| params::row(world, api, kind));
    let resource = row.as_ref().map_or("*", |row| row.resource.resource.as_str());
    if may(world, write, verb, (api, resource), (namespace, name)) {
        return None;
    }
    let user = shown(&write.cx.user);
    let lacks = format!("user {user} does not have \"{verb}\" permission");
    let everything = format!("to determine minimum required permissions and {lacks} for all groups, versions and resources");
    Some(match (policy.is_some(), kind, row.is_some()) {
        (false, ..) => format!("unable to get policy {policy_name} {everything}"),
        (true, Some(kind), false) => format!("unable to resolve paramKind &{{{api} {kind}}} {everything}"),
        // Upstream puts the two the other way about for the policies that change objects.
        _ if policies.starts_with("mutating") => format!("user {verb} does not have \"{user}\" permission on the object referenced by paramRef"),
        _ => format!("{lacks} on the object referenced by paramRef"),
    })
}

/// Whether the writer may, of a resource in an API (`*` for all), read what has this namespace and name.
fn may(world: &World, write: &Write<'_>, verb: &str, (api, resource): (&str, &str), (namespace, name): (&str, &str)) -> bool {
    let (group, version) = api.split_once('/').unwrap_or(("", api));
    world.identity().authorizer.allows(&Attributes {
        user: &write.cx.user,
        verb,
        group,
        version,
        resource,
        subresource: "",
        namespace,
        name,
        path: "",
        is_resource: true,
        fields: None,
    })
}

/// A user as Go shows it (`%v` of `*user.DefaultInfo`).
fn shown(user: &User) -> String {
    let extra: Vec<String> = user.extra.iter().map(|(key, values)| format!("{key}:[{}]", values.join(" "))).collect();
    format!("&{{{} {} [{}] map[{}]}}", user.name, user.uid, user.groups.join(" "), extra.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_shown_as_go_shows_it() {
        let mut user = User { name: "pia".into(), groups: vec!["a".into(), "b".into()], ..User::default() };
        assert_eq!(shown(&user), "&{pia  [a b] map[]}");
        user.uid = "7".into();
        user.extra = [("k".to_owned(), vec!["x".to_owned(), "y".to_owned()]), ("l".to_owned(), Vec::new())].into();
        assert_eq!(shown(&user), "&{pia 7 [a b] map[k:[x y] l:[]]}");
    }
}
