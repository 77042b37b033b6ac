use super::*;
use crate::{
    Authorizer, Decision,
    testing::{Memory, ask, user},
};
use machinery::tree::items;
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
    // Of the binding's subjects that he is the first one is told.
    let both = user("system:serviceaccount:shop:web", &["other", "team"]);
    let (_, why) = authorizer.authorize(&ask(&both, "get", "", "pods", "x", "y"));
    assert_eq!(why, r#"RBAC: allowed by ClusterRoleBinding "read" of ClusterRole "reader" to Group "team""#);
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
    assert_eq!(why, r#"rbac: RBAC: clusterrole.rbac.authorization.k8s.io "reader" not found"#);
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
    let bob = user("bob", &[]);
    let check = |by: &User, resource: &str, allowed: &dyn Fn(&Attributes<'_>) -> bool, object: &Value, old: Option<&Value>| {
        let namespace = if resource.starts_with("cluster") { "" } else { "shop" };
        check_escalation(&rbac, allowed, Grantor { user: by, resource, namespace, name: "" }, object, old)
    };
    check(&ann, "roles", &no, &role(json!(["get"])), None).expect("held already");
    let not_held = "roles.rbac.authorization.k8s.io \"new\" is forbidden: user \"ann\" (groups=[\"team\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"create\"]}";
    assert_eq!(check(&ann, "roles", &no, &role(json!(["get", "delete", "create"])), None).expect_err("not held").message, not_held);
    let two = rules(json!([{"apiGroups": [""], "resources": ["pods", "secrets"], "resourceNames": ["a"], "verbs": ["get", "list"]}]));
    let lines: Vec<String> = compact(&uncovered(&[], &two)).iter().map(Rule::compact).collect();
    let line = |resource: &str| format!("{{APIGroups:[\"\"], Resources:[{resource:?}], ResourceNames:[\"a\"], Verbs:[\"get\" \"list\"]}}");
    assert_eq!(lines, [line("pods"), line("secrets")], "one line a name");
    let same = role(json!(["delete"]));
    let mut finished = same.clone();
    finished["metadata"]["finalizers"] = json!(["a/b"]);
    check(&ann, "roles", &no, &same, Some(&finished)).expect("nothing is granted by what the collector changes");
    let mut labelled = same.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    check(&ann, "roles", &no, &same, Some(&labelled)).expect_err("who changes a role must have all of it");
    check(&ann, "roles", &|a: &Attributes<'_>| a.verb == "escalate", &same, None).expect("may escalate");
    let aggregated = json!({"metadata": {"name": "new"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let told = check(&ann, "clusterroles", &no, &aggregated, None).expect_err("may come to have anything").message;
    assert!(told.ends_with("\"new\" is forbidden: must have cluster-admin privileges to use the aggregationRule"), "{told}");
    let bound = |kind: &str, role: &str| json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}});
    check(&bob, "rolebindings", &no, &bound("ClusterRole", "reader"), None).expect_err("bob has nothing");
    check(&bob, "rolebindings", &|a: &Attributes<'_>| a.verb == "bind" && a.name == "reader", &bound("ClusterRole", "reader"), None).expect("may bind");
    let told = |resource: &str, kind: &str, role: &str| check(&bob, resource, &no, &bound(kind, role), None).expect_err("no such role").message;
    assert_eq!(told("rolebindings", "Role", "nope"), "rolebindings.rbac.authorization.k8s.io \"nope\" not found");
    assert_eq!(told("rolebindings", "Roles", "reader"), "unsupported role reference kind: \"Roles\"");
    assert_eq!(told("clusterrolebindings", "Role", "reader"), "Namespace parameter required.");
}

/// Lists of some KB, multiplied, are more than fits anywhere.
#[test]
fn of_a_vast_rule_that_nobody_has_the_beginning_is_told() {
    let rbac = Rbac::new(world());
    let ann = user("ann", &["team"]);
    let no = |_: &Attributes<'_>| false;
    let many: Vec<String> = (0..1000).map(|n| format!("x{n}")).collect();
    let rule = json!({"apiGroups": many, "resources": many, "resourceNames": many, "verbs": many});
    let role = json!({"metadata": {"name": "new", "namespace": "shop"}, "rules": [rule]});
    let by = Grantor { user: &ann, resource: "roles", namespace: "shop", name: "" };
    let told = check_escalation(&rbac, &no, by, &role, None).expect_err("not held").message;
    let first = r#"{APIGroups:["x0"], Resources:["x0"], ResourceNames:["x0"], Verbs:["x0"]}"#;
    assert!(told.contains(first) && told.len() < 8 << 20, "{} bytes", told.len());
    // What the writer has by two rules is looked at piece by piece, and not for ever.
    let apart = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get"]}, {"apiGroups": ["*"], "resources": ["*"], "verbs": ["list"]}]);
    let rbac = Rbac::new(Memory::of([
        ("/registry/clusterroles/apart", json!({"metadata": {"name": "apart"}, "rules": apart})),
        (
            "/registry/clusterrolebindings/apart",
            json!({"metadata": {"name": "apart"}, "roleRef": {"kind": "ClusterRole", "name": "apart"}, "subjects": [{"kind": "User", "name": "ann"}]}),
        ),
    ]));
    let of = |resources: &[String]| {
        let rule = json!({"apiGroups": many, "resources": resources, "verbs": ["get", "list"]});
        let role = json!({"metadata": {"name": "new", "namespace": "shop"}, "rules": [rule]});
        check_escalation(&rbac, &no, by, &role, None).map_err(|refused| refused.message)
    };
    of(&many[..10]).expect("ann has all of it");
    let told = of(&many).expect_err("two million pieces");
    assert!(told.contains("the rules multiply to more than 100000 permissions"), "{told}");
    let all = rules(json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]));
    assert!(uncovered(&all, &Rule::of_role(&role)).is_empty(), "what one rule allows is not broken down");
}

#[test]
fn aggregation_goes_through_those_that_aggregate() {
    let role = |name: &str, label: &str, selects: &str, resource: &str| {
        let rules = json!([{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]);
        json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": if selects.is_empty() { rules } else { Value::Null },
            "aggregationRule": if selects.is_empty() { Value::Null } else { json!({"clusterRoleSelectors": [{"matchLabels": {selects: "true"}}]}) }})
    };
    let rbac = Rbac::new(Memory::of([
        ("/registry/clusterroles/admin", role("admin", "to-none", "to-admin", "")),
        ("/registry/clusterroles/edit", role("edit", "to-admin", "to-edit", "")),
        ("/registry/clusterroles/view", role("view", "to-edit", "to-view", "")),
        ("/registry/clusterroles/base", role("base", "to-view", "", "pods")),
        ("/registry/clusterroles/other", role("other", "to-nobody", "", "secrets")),
        (
            "/registry/clusterrolebindings/b",
            json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "admin"}, "subjects": [{"kind": "User", "name": "ann"}]}),
        ),
    ]));
    let ann = user("ann", &[]);
    assert!(rbac.authorize(&ask(&ann, "get", "", "pods", "x", "y")).is_ok());
    assert!(rbac.authorize(&ask(&ann, "get", "", "secrets", "x", "y")).is_err());
    let no = |_: &Attributes<'_>| false;
    let bound = |role: &str| json!({"metadata": {"name": "c"}, "roleRef": {"kind": "ClusterRole", "name": role}});
    let by = Grantor { user: &ann, resource: "clusterrolebindings", namespace: "", name: "" };
    check_escalation(&rbac, &no, by, &bound("edit"), None).expect("ann has all of it");
    check_escalation(&rbac, &no, by, &bound("other"), None).expect_err("and nothing of this");
}

#[test]
fn a_change_costs_what_has_changed() {
    let memory = world();
    let rbac = Rbac::new(Arc::clone(&memory) as Arc<dyn Objects>);
    let ann = user("ann", &["team"]);
    let given = || memory.given.load(std::sync::atomic::Ordering::Relaxed);
    let before = given();
    let ask = ask(&ann, "get", "", "pods", "x", "y");
    assert!(rbac.authorize(&ask).is_ok());
    assert_eq!(given(), before, "nothing has changed");
    for n in 0..100 {
        let binding = json!({"metadata": {"name": n.to_string(), "namespace": "x"}, "roleRef": {"kind": "ClusterRole", "name": "reader"},
            "subjects": [{"kind": "User", "name": n.to_string()}]});
        memory.put(&format!("/registry/rolebindings/x/{n}"), binding);
        assert!(rbac.authorize(&ask).is_ok());
    }
    assert_eq!(given(), before + 100);
}

/// Whatever is made, changed and removed in whatever order: who follows knows what a beginner would.
#[test]
fn a_table_that_has_followed_is_one_that_was_made_now() {
    let memory = world();
    let rbac = Rbac::new(Arc::clone(&memory) as Arc<dyn Objects>);
    let mut seed = 7_u64;
    let mut next = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    for _ in 0..2000 {
        let (name, namespace) = (["a", "b", "c"][next(3) as usize], ["x", "y"][next(2) as usize]);
        let verb = ["get", "list", "delete"][next(3) as usize];
        let label = if next(2) == 0 { json!({"to-all": "true"}) } else { json!({}) };
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]);
        let rule = if next(4) == 0 { json!({"clusterRoleSelectors": [{"matchLabels": {"to-all": "true"}}]}) } else { Value::Null };
        let kind = if next(2) == 0 { "ClusterRole" } else { "Role" };
        let subjects = json!([{"kind": "User", "name": (["ann", "eve"][next(2) as usize])}, {"kind": "Group", "name": "team"}]);
        let role_ref = json!({"kind": kind, "name": (["a", "b", "c"][next(3) as usize])});
        let cluster_ref = json!({"kind": "ClusterRole", "name": role_ref["name"]});
        let (key, value) = match next(4) {
            0 => (format!("/registry/clusterroles/{name}"), json!({"metadata": {"name": name, "labels": label}, "rules": rules, "aggregationRule": rule})),
            1 => (format!("/registry/roles/{namespace}/{name}"), json!({"metadata": {"name": name, "namespace": namespace}, "rules": rules})),
            2 => (format!("/registry/clusterrolebindings/{name}"), json!({"metadata": {"name": name}, "roleRef": cluster_ref, "subjects": subjects})),
            _ => (
                format!("/registry/rolebindings/{namespace}/{name}"),
                json!({"metadata": {"name": name, "namespace": namespace}, "roleRef": role_ref, "subjects": subjects}),
            ),
        };
        if next(3) == 0 {
            memory.remove(&key)
        } else {
            memory.put(&key, value)
        }
        let fresh = Rbac::new(Arc::clone(&memory) as Arc<dyn Objects>);
        for who in [user("ann", &["team"]), user("eve", &[])] {
            for namespace in ["", "x", "y"] {
                assert_eq!(rbac.rules_of(&who, namespace), fresh.rules_of(&who, namespace));
                let asked = ask(&who, "get", "", "pods", namespace, "p");
                assert_eq!(rbac.authorize(&asked), fresh.authorize(&asked));
            }
        }
    }
}
