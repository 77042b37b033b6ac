//! What the server serves, by aggregated discovery (`apidiscovery.k8s.io/v2`): one request for the core group, one for all
//! others.

use client::Client;
use serde_json::Value;

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// A resource in the version that the server prefers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Served {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
    /// Whether it has a `scale`.
    pub(crate) scales: bool,
}

impl Served {
    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The path of the collection over all namespaces.
    pub(crate) fn path(&self) -> String {
        self.path_in("")
    }

    /// The path of the collection in a namespace, or over all if that is empty.
    pub(crate) fn path_in(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        if namespace.is_empty() { format!("{root}/{}", self.resource) } else { format!("{root}/namespaces/{namespace}/{}", self.resource) }
    }
}

/// All resources, each in its preferred version; and the group versions that could not be asked (an aggregated API that is
/// down), of which nothing is known.
pub(crate) async fn resources(client: &Client) -> client::Result<(Vec<Served>, Vec<String>)> {
    let (mut all, mut stale) = (Vec::new(), Vec::new());
    for root in ["/api", "/apis"] {
        let list: Value = client.get_as(root, ACCEPT).await?;
        read(&list, &mut all, &mut stale);
    }
    Ok((all, stale))
}

fn read(list: &Value, all: &mut Vec<Served>, stale: &mut Vec<String>) {
    let array = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    for item in array(&list["items"]) {
        let group = text(&item["metadata"]["name"]);
        let first = all.len();
        for version in array(&item["versions"]) {
            let name = text(&version["version"]);
            if version["freshness"] == "Stale" {
                stale.push(format!("{group}/{name}"));
            }
            for resource in array(&version["resources"]) {
                let plural = text(&resource["resource"]);
                // The versions stand in the order of preference.
                if all[first..].iter().any(|s| s.resource == plural) {
                    continue;
                }
                let kind = &resource["responseKind"];
                all.push(Served {
                    group: group.clone(),
                    version: name.clone(),
                    resource: plural,
                    kind: text(&kind["kind"]),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: array(&resource["verbs"]).iter().map(text).collect(),
                    scales: array(&resource["subresources"]).iter().any(|sub| sub["subresource"] == "scale" && sub["responseKind"]["kind"] == "Scale"),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resource_is_taken_in_its_preferred_version() {
        let resource = |name: &str| json!({"resource": name, "responseKind": {"kind": "X"}, "scope": "Namespaced", "verbs": ["list", "delete"]});
        let scale = json!([{"subresource": "status", "responseKind": {"kind": "X"}}, {"subresource": "scale", "responseKind": {"kind": "Scale"}}]);
        let scaled = json!({"resource": "sets", "responseKind": {"kind": "X"}, "scope": "Namespaced", "verbs": [], "subresources": scale});
        let list = json!({"items": [{"metadata": {"name": "autoscaling"}, "versions": [
            {"version": "v2", "resources": [resource("hpas"), scaled]},
            {"version": "v1", "resources": [resource("hpas"), resource("older")]},
            {"version": "v0", "freshness": "Stale"},
        ]}]});
        let (mut all, mut stale) = (Vec::new(), Vec::new());
        read(&list, &mut all, &mut stale);
        let told: Vec<_> = all.iter().map(Served::path).collect();
        assert_eq!(told, ["/apis/autoscaling/v2/hpas", "/apis/autoscaling/v2/sets", "/apis/autoscaling/v1/older"]);
        assert_eq!(all.iter().map(|s| s.scales).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(all[0].path_in("n"), "/apis/autoscaling/v2/namespaces/n/hpas");
        assert_eq!(stale, ["autoscaling/v0"]);
    }
}
