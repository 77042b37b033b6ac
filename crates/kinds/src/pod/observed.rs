//! What is reported of containers: whose their processes are, and how the resources fare that they were given (`ValidatePodStatusUpdate`).

use super::security::id;
use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};
use std::collections::{HashMap, HashSet};

/// The largest user in Linux, which a runtime may report though no pod may ask for it.
const USER_MAX: i64 = 0xffff_ffff;
/// Bytes of what is said of a resource's health.
const MESSAGE_BYTES_MAX: usize = 1024;
/// The beginning of a resource's name that means a claim.
const CLAIM: &str = "claim:";

/// Checks the statuses of all containers.
pub(super) fn check(status: &Value, spec: &Value, path: &Path, errors: &mut ErrorList) {
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        users(tree::list(status, list), &spec["os"], &path.child(list), errors);
    }
    for (list, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        given(status, list, tree::list(spec, containers), &path.child(list), errors);
    }
    let list = "ephemeralContainerStatuses";
    for (at, _) in tree::list(status, list).iter().enumerate().filter(|(_, one)| !tree::list(one, "allocatedResourcesStatus").is_empty()) {
        let place = path.child(list).index(at).child("allocatedResourcesStatus");
        errors.push(Error::forbidden(&place, "must not be specified in container status"));
    }
}

fn users(statuses: &[Value], os: &Value, list: &Path, errors: &mut ErrorList) {
    let os = if os.is_null() { "linux" } else { tree::text(os, "name") };
    for (at, user) in statuses.iter().map(|status| &status["user"]["linux"]).enumerate().filter(|(_, user)| user.is_object()) {
        let path = list.index(at).child("user").child("linux");
        match os {
            "windows" => errors.push(Error::forbidden(&path, "cannot be set for a windows pod")),
            "linux" => {
                if let Some(number) = user["uid"].as_i64().filter(|number| !(0..=USER_MAX).contains(number)) {
                    errors.push(Error::invalid(&path.child("uid"), number, format!("must be between 0 and {USER_MAX}, inclusive")));
                }
                id(&user["gid"], &path.child("gid"), errors);
                for (nth, group) in tree::list(user, "supplementalGroups").iter().enumerate() {
                    id(group, &path.child("supplementalGroups").index(nth), errors);
                }
            }
            _ => {}
        }
    }
}

/// What a container has asked for: resources, and claims with what is requested of them.
struct Asked<'v> {
    resources: &'v Value,
    claims: HashSet<(&'v str, &'v str)>,
}

/// What the containers were given is among what they have asked for.
fn given(pod: &Value, list: &str, containers: &[Value], path: &Path, errors: &mut ErrorList) {
    let statuses = tree::list(pod, list);
    if statuses.iter().all(|status| tree::list(status, "allocatedResourcesStatus").is_empty()) {
        return;
    }
    let asked = asked(containers, &pod["extendedResourceClaimStatus"]);
    for (at, status) in statuses.iter().enumerate() {
        let (path, container) = (path.index(at).child("allocatedResourcesStatus"), asked.get(tree::text(status, "name")));
        for (nth, resource) in tree::list(status, "allocatedResourcesStatus").iter().enumerate() {
            let (path, name) = (path.index(nth), tree::text(resource, "name"));
            if let Some(detail) = container.and_then(|container| container.lacks(name)) {
                errors.push(Error::invalid(&path.child("name"), name, detail));
            }
            health(resource, &path.child("resources"), errors);
        }
    }
}

/// What each container has asked for, the requests of the claim that stands for the pod's extended resources among it.
fn asked<'v>(containers: &'v [Value], extended: &'v Value) -> HashMap<&'v str, Asked<'v>> {
    let mut asked: HashMap<&'v str, Asked<'v>> = HashMap::with_capacity(containers.len());
    for container in containers {
        let claims = tree::list(&container["resources"], "claims").iter().map(|own| (tree::text(own, "name"), tree::text(own, "request"))).collect();
        asked.entry(tree::text(container, "name")).or_insert(Asked { resources: &container["resources"]["requests"], claims });
    }
    let claim = tree::text(extended, "resourceClaimName");
    for mapping in tree::list(extended, "requestMappings") {
        let (request, resource) = (tree::text(mapping, "requestName"), tree::text(mapping, "resourceName"));
        if !claim.is_empty()
            && !request.is_empty()
            && let Some(container) = asked.get_mut(tree::text(mapping, "containerName"))
            && rules::quantity(&container.resources[resource]).is_some_and(|quantity| !quantity.is_zero())
        {
            container.claims.insert((claim, request));
        }
    }
    asked
}

impl Asked<'_> {
    /// What is wrong with a resource that is none of them.
    fn lacks(&self, name: &str) -> Option<&'static str> {
        let Some(claim) = name.strip_prefix(CLAIM) else {
            return self.resources[name].is_null().then_some("must match one of the container's resource requests");
        };
        let is_there = match claim.split_once('/') {
            Some((own, request)) => !request.is_empty() && self.claims.contains(&(own, request)),
            None => self.claims.contains(&(claim, "")),
        };
        (!is_there).then_some(
            "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty",
        )
    }
}

fn health(resource: &Value, list: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (at, one) in tree::list(resource, "resources").iter().enumerate() {
        let (path, health, id) = (list.index(at), tree::text(one, "health"), tree::text(one, "resourceID"));
        let known = ["Healthy", "Unhealthy", "Unknown"];
        if !known.contains(&health) {
            errors.push(rules::not_supported(&path.child("health"), health, &known));
        }
        match one["message"].as_str() {
            Some("") => errors.push(Error::required(&path.child("message"), "must be non-empty if specified")),
            Some(message) if message.len() > MESSAGE_BYTES_MAX => errors.push(Error::too_long(&path.child("message"), MESSAGE_BYTES_MAX)),
            _ => {}
        }
        if !seen.insert(id) {
            errors.push(Error::duplicate(&path.child("resourceID"), id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_is_given_what_it_asks_for() {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"a.b/c": "1"}, "claims": [{"name": "k"}, {"name": "l", "request": "r"}]}}]});
        let of = |name: &str| {
            let status = json!({
                "containerStatuses": [{"name": "c", "allocatedResourcesStatus": [{"name": name, "resources": [{"resourceID": "1", "health": "Healthy"}]}]}],
                "extendedResourceClaimStatus": {"resourceClaimName": "x", "requestMappings": [
                    {"containerName": "c", "resourceName": "a.b/c", "requestName": "r0"},
                    {"containerName": "d", "resourceName": "a.b/c", "requestName": "r1"},
                    {"containerName": "c", "resourceName": "a.b/d", "requestName": "r2"}
                ]}
            });
            let mut errors = ErrorList::new();
            check(&status, &spec, &Path::root("status"), &mut errors);
            errors.iter().map(|error| error.path.as_str().to_owned()).collect::<Vec<_>>()
        };
        for right in ["a.b/c", "claim:k", "claim:l/r", "claim:x/r0"] {
            assert!(of(right).is_empty(), "{right}");
        }
        for wrong in ["cpu", "claim:l", "claim:k/r", "claim:x", "claim:x/", "claim:x/r1", "claim:x/r2"] {
            assert_eq!(of(wrong), ["status.containerStatuses[0].allocatedResourcesStatus[0].name"], "{wrong}");
        }
    }

    #[test]
    fn users_and_health_are_within_their_bounds() {
        let status = json!({
            "containerStatuses": [{"user": {"linux": {"uid": 4_294_967_295_i64, "gid": -1}}}],
            "initContainerStatuses": [{"allocatedResourcesStatus": [{"resources": [{"resourceID": "1", "health": "Fine"}, {"resourceID": "1", "health": "Unknown", "message": ""}]}]}],
            "ephemeralContainerStatuses": [{"allocatedResourcesStatus": [{"name": "a"}]}]
        });
        let mut errors = ErrorList::new();
        check(&status, &json!({}), &Path::root("status"), &mut errors);
        let found: Vec<_> = errors.iter().map(|error| error.path.as_str().trim_start_matches("status.")).collect();
        assert_eq!(
            found,
            [
                "containerStatuses[0].user.linux.gid",
                "initContainerStatuses[0].allocatedResourcesStatus[0].resources[0].health",
                "initContainerStatuses[0].allocatedResourcesStatus[0].resources[1].message",
                "initContainerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID",
                "ephemeralContainerStatuses[0].allocatedResourcesStatus",
            ]
        );
    }
}
