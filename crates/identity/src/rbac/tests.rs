use super::*;
use crate::{
    Authorizer, Decision,
    testing::{Memory, ask, user},
};
use serde_json::json;

fn rules(value: Value) -> Vec<Rule> {
    items(&value).iter().map(Rule::from_value).collect()
}

fn world() -> Arc<Memory> {
    Memory::of([
        (
            "/registry/clusterroles/reader",
            json!({"metadata": {"name": "reader", "labels": {"to-all": "true"}}, "rules": [
                {"apiGroups": [""], "resources": ["pods", "*/scale"], "verbs": ["get", "list"]},
                {"nonResourceURLs": ["/healthz/*", "/version"], "verbs": ["get"]}]}),
        ),
        (
            "/registry/clusterroles/all",
            json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-all": "true"}}]}, "rules": []}),
        ),
        (
            "/registry/roles/shop/keeper",
            json!({"metadata": {"name": "keeper", "namespace": "shop"}, "rules": [
                {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["*"]}]}),
        ),
        (
            "/registry/clusterrolebindings/read",
            json!({"metadata": {"name": "read"}, "roleRef": {"kind": "ClusterRole", "name": "reader"},
                "subjects": [{"kind": "Group", "name": "team"}, {"kind": "ServiceAccount", "namespace": "shop", "name": "web"}]}),
        ),
        (
            "/registry/clusterrolebindings/aggregated",
            json!({"metadata": {"name": "aggregated"}, "roleRef": {"kind": "ClusterRole", "name": "all"}, "subjects": [{"kind": "User", "name": "eve"}]}),
        ),
        (
            "/registry/rolebindings/shop/keep",
            json!({"metadata": {"name": "keep", "namespace": "shop"}, "roleRef": {"kind": "Role", "name": "keeper"},
                "subjects": [{"kind": "User", "name": "ann"}]}),
        ),
    ])
}

#[test]
fn decisions_are_explained_as_upstream_explains_them() {
    let authorizer = Authorizer::new(world());
    let ann = user("ann", &["team"]);
    let (decision, why) = authorizer.authorize(&ask(&ann, "list", "", "pods", "x", ""));
    assert_eq!(decision, Decision::Allow);
    assert_eq!(why, r#"RBAC: allowed by ClusterRoleBinding "read" of ClusterRole "reader" to Group "team""#);
    let (_, why) = authorizer.authorize(&ask(&ann, "delete", "", "secrets", "shop", "one"));
    assert_eq!(why, r#"RBAC: allowed by RoleBinding "keep/shop" of Role "keeper" to User "ann""#);
    let web = user("system:serviceaccount:shop:web", &[]);
    let (_, why) = authorizer.authorize(&ask(&web, "get", "", "pods", "x", "y"));
    assert_eq!(why, r#"RBAC: allowed by ClusterRoleBinding "read" of ClusterRole "reader" to ServiceAccount "web/shop""#);
}

#[test]
fn names_subresources_and_scopes_are_minded() {
    let authorizer = Authorizer::new(world());
    let ann = user("ann", &["team"]);
    let may = |verb, resource, namespace, name| authorizer.allows(&ask(&ann, verb, "", resource, namespace, name));
    assert!(!may("get", "secrets", "shop", "two"), "another name");
    assert!(!may("list", "secrets", "shop", ""), "a list has no name");
    assert!(!may("get", "secrets", "other", "one"), "another namespace");
    assert!(may("get", "deployments/scale", "x", "y"), "*/scale");
    assert!(!may("get", "pods/log", "x", "y"), "pods are not their subresources");
    assert!(!may("delete", "pods", "x", "y"));
    let path = |path| authorizer.allows(&Attributes { path, is_resource: false, ..ask(&ann, "get", "", "", "", "") });
    assert!(path("/healthz/etcd"));
    assert!(path("/version"));
    assert!(!path("/metrics"));
}

#[test]
fn a_change_of_a_role_counts_at_once() {
    let memory = world();
    let authorizer = Authorizer::new(Arc::clone(&memory) as Arc<dyn Objects>);
    let eve = user("eve", &[]);
    assert!(authorizer.allows(&ask(&eve, "get", "", "pods", "x", "y")), "aggregated");
    memory.remove("/registry/clusterroles/reader");
    assert!(!authorizer.allows(&ask(&eve, "get", "", "pods", "x", "y")));
    let ann = user("ann", &["team"]);
    let (_, why) = authorizer.authorize(&ask(&ann, "get", "", "pods", "x", "y"));
    assert_eq!(why, r#"RBAC: clusterrole.rbac.authorization.k8s.io "reader" not found"#);
}

#[test]
fn rules_cover_rules() {
    let own = rules(json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}, {"nonResourceURLs": ["/a/*"], "verbs": ["*"]}]));
    assert!(uncovered(&own, &rules(json!([{"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get"]}]))).is_empty());
    assert!(uncovered(&own, &rules(json!([{"nonResourceURLs": ["/a/b"], "verbs": ["get"]}]))).is_empty());
    assert!(!uncovered(&own, &rules(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]))).is_empty(), "a star needs a star");
    let named = rules(json!([{"apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"], "verbs": ["get"]}]));
    assert!(!uncovered(&named, &rules(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]))).is_empty(), "all names need all names");
}

#[test]
fn nobody_grants_what_they_do_not_have() {
    let rbac = Rbac::new(world());
    let ann = user("ann", &["team"]);
    let no = |_: &Attributes<'_>| false;
    let role = |verbs: Value| json!({"metadata": {"name": "new", "namespace": "shop"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]});
    check_escalation(&rbac, &no, &ann, "roles", &role(json!(["get"])), None).expect("held already");
    let error = check_escalation(&rbac, &no, &ann, "roles", &role(json!(["get", "delete", "create"])), None).expect_err("not held");
    assert_eq!(
        error.message,
        "roles.rbac.authorization.k8s.io \"new\" is forbidden: user \"ann\" (groups=[\"team\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"create\"]}"
    );
    let same = role(json!(["delete"]));
    check_escalation(&rbac, &no, &ann, "roles", &same, Some(&same)).expect("nothing is granted by changing a label");
    check_escalation(&rbac, &|a: &Attributes<'_>| a.verb == "escalate", &ann, "roles", &same, None).expect("may escalate");
    let binding = json!({"metadata": {"name": "b", "namespace": "shop"}, "roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": []});
    check_escalation(&rbac, &no, &user("bob", &[]), "rolebindings", &binding, None).expect_err("bob has nothing");
    check_escalation(&rbac, &|a: &Attributes<'_>| a.verb == "bind" && a.name == "reader", &user("bob", &[]), "rolebindings", &binding, None).expect("may bind");
}
