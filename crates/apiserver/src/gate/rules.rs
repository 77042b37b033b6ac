//! Rules of webhooks and policies: which operations on which resources (upstream's `predicates/rules`).

use crate::read::texts;
use machinery::Value;

/// What a rule is asked of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    /// Empty for what lies in no namespace; for a Namespace its own name.
    pub(crate) namespace: &'a str,
    pub(crate) operation: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Cluster,
    Namespaced,
}

/// One rule.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<(String, String)>,
    scope: Scope,
}

impl Rule {
    /// From a rule of an object.
    pub(crate) fn of(value: &Value) -> Rule {
        let resources = texts(&value["resources"]);
        let split = |resource: &String| {
            let (name, part) = resource.split_once('/').unwrap_or((resource, ""));
            (name.to_owned(), part.to_owned())
        };
        Rule {
            operations: texts(&value["operations"]),
            groups: texts(&value["apiGroups"]),
            versions: texts(&value["apiVersions"]),
            resources: resources.iter().map(split).collect(),
            scope: match value["scope"].as_str() {
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                _ => Scope::All,
            },
        }
    }

    /// All rules of a list.
    pub(crate) fn list(value: &Value) -> Vec<Rule> {
        value.as_array().into_iter().flatten().map(Rule::of).collect()
    }

    /// Whether it may be about a resource, in whatever group and version (the same objects may be served in several) and by whatever
    /// operation.
    pub(crate) fn names(&self, resource: &str) -> bool {
        self.resources.iter().any(|(name, _)| name == "*" || name == resource)
    }

    /// Whether it may be about deletions of a resource.
    pub(crate) fn hears_deletions(&self, resource: &str) -> bool {
        self.names(resource) && self.operations.iter().any(|operation| matches!(operation.as_str(), "*" | "DELETE"))
    }

    pub(crate) fn matches(&self, asked: &Asked<'_>) -> bool {
        let among = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let is_namespace = asked.resource == "namespaces" && asked.group.is_empty();
        let in_scope = match self.scope {
            Scope::All => true,
            Scope::Namespaced => !is_namespace && !asked.namespace.is_empty(),
            Scope::Cluster => is_namespace || asked.namespace.is_empty(),
        };
        in_scope
            && among(&self.operations, asked.operation)
            && among(&self.groups, asked.group)
            && among(&self.versions, asked.version)
            && self.resources.iter().any(|(name, part)| (name == "*" || name == asked.resource) && (part == "*" || part == asked.subresource))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(rule: Value, asked: Asked<'_>) -> bool {
        Rule::of(&rule).matches(&asked)
    }

    const POD: Asked<'static> = Asked { group: "", version: "v1", resource: "pods", subresource: "", namespace: "n", operation: "CREATE" };

    #[test]
    fn each_part_of_a_rule_counts() {
        let rule = |change: fn(&mut Value)| {
            let mut rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
            change(&mut rule);
            rule
        };
        assert!(matches(rule(|_| {}), POD));
        assert!(!matches(rule(|r| r["operations"] = json!(["UPDATE", "CONNECT"])), POD));
        assert!(matches(rule(|r| r["operations"] = json!(["*"])), POD));
        assert!(!matches(rule(|r| r["apiGroups"] = json!(["apps"])), POD));
        assert!(!matches(rule(|r| r["apiVersions"] = json!(["v2"])), POD));
        for (resources, plain, status) in [
            (json!(["pods/*"]), true, true),
            (json!(["*"]), true, false),
            (json!(["*/*"]), true, true),
            (json!(["*/status"]), false, true),
            (json!(["pods/exec"]), false, false),
        ] {
            let mut rule = rule(|_| {});
            rule["resources"] = resources;
            assert_eq!(matches(rule.clone(), POD), plain, "{rule}");
            assert_eq!(matches(rule.clone(), Asked { subresource: "status", ..POD }), status, "{rule}");
        }
    }

    #[test]
    fn namespaces_are_no_namespaced_objects() {
        let rule = |scope: &str| json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "scope": scope});
        let namespace = Asked { resource: "namespaces", namespace: "n", ..POD };
        let node = Asked { resource: "nodes", namespace: "", ..POD };
        for (scope, expected) in [("*", [true, true, true]), ("Namespaced", [true, false, false]), ("Cluster", [false, true, true])] {
            assert_eq!([POD, namespace, node].map(|asked| matches(rule(scope), asked)), expected, "{scope}");
        }
    }
}
