//! `rbac.authorization.k8s.io`: roles, and bindings of subjects to them.

use crate::{NameRule, Strategy, internal, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The strategy of roles; those of the whole cluster may speak of paths and gather other roles.
pub(super) struct Roles {
    pub(super) cluster: bool,
}

impl Strategy for Roles {
    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        for (at, rule) in tree::list(obj, "rules").iter().enumerate() {
            check_rule(rule, !self.cluster, &Path::root("rules").index(at), errors);
        }
        self.check_gathered(obj, errors);
        // What upstream has as marks of its types comes last.
        for (at, rule) in tree::list(obj, "rules").iter().enumerate() {
            if tree::list(rule, "verbs").is_empty() {
                errors.push(Error::required(&Path::root("rules").index(at).child("verbs"), ""));
            }
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    /// What it gives is held against all that its writer has.
    fn judges_at_length(&self) -> bool {
        true
    }
}

impl Roles {
    fn check_gathered(&self, obj: &Value, errors: &mut ErrorList) {
        let gathered = &obj["aggregationRule"];
        if self.cluster && !gathered.is_null() {
            let (selectors, path) = (tree::list(gathered, "clusterRoleSelectors"), Path::root("aggregationRule").child("clusterRoleSelectors"));
            if selectors.is_empty() {
                errors.push(Error::required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil"));
            }
            for (at, selector) in selectors.iter().enumerate() {
                rules::label_selector(selector, &path.index(at), errors);
                if machinery::labels::Selector::from_label_selector(selector).is_err() {
                    errors.push(Error::invalid(&path.index(at), Value::Null, "invalid label selector."));
                }
            }
        }
    }
}

fn check_rule(rule: &Value, namespaced: bool, path: &Path, errors: &mut ErrorList) {
    let empty = |key: &str| tree::list(rule, key).is_empty();
    if !empty("nonResourceURLs") {
        let place = path.child("nonResourceURLs");
        let mut bad = |detail: &str| errors.push(Error::invalid(&place, rule["nonResourceURLs"].clone(), detail));
        if namespaced {
            bad("namespaced rules cannot apply to non-resource URLs");
        }
        if !["apiGroups", "resources", "resourceNames"].into_iter().all(empty) {
            bad("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if empty("apiGroups") {
        errors.push(Error::required(&path.child("apiGroups"), "resource rules must supply at least one api group"));
    }
    if empty("resources") {
        errors.push(Error::required(&path.child("resources"), "resource rules must supply at least one resource"));
    }
}

const ROLE: &str = "rbac.RoleRef";

/// The strategy of bindings; those of the whole cluster bind cluster roles alone.
pub(super) struct Bindings {
    pub(super) cluster: bool,
}

impl Strategy for Bindings {
    fn default(&self, obj: &mut Value) {
        if let Some(role) = tree::at(obj, &["roleRef"]) {
            tree::fill_text(role, "apiGroup", GROUP);
        }
        let Some(fields) = obj.as_object_mut() else { return };
        for subject in tree::each(fields, "subjects") {
            if subject.get("kind").is_some_and(|k| k == "User" || k == "Group") {
                tree::fill_text(subject, "apiGroup", GROUP);
            }
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        self.check_written(obj, false, errors);
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        rules::immutable_part(ROLE, &obj["roleRef"], &old["roleRef"], &Path::root("roleRef"), errors);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(obj, &mut errors);
        check_declared(obj, false, &mut errors);
        errors
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let moved = !internal::same(ROLE, &obj["roleRef"], &old["roleRef"]);
        self.check_written(obj, moved, &mut errors);
        self.check_update(obj, old, &mut errors);
        check_declared(obj, moved, &mut errors);
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    /// What it gives is held against all that its writer has.
    fn judges_at_length(&self) -> bool {
        true
    }
}

impl Bindings {
    /// What upstream's validation says in code. `moved`: the role is another than it was, at which its marks of types stop.
    fn check_written(&self, obj: &Value, moved: bool, errors: &mut ErrorList) {
        let (role, path) = (&obj["roleRef"], Path::root("roleRef"));
        if role["apiGroup"] != GROUP {
            errors.push(Error::not_supported(&path.child("apiGroup"), tree::text(role, "apiGroup"), &[GROUP]));
        }
        let kinds: &[&str] = if self.cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        let kind = tree::text(role, "kind");
        if !kinds.contains(&kind) {
            errors.push(Error::not_supported(&path.child("kind"), kind, kinds));
        }
        if moved {
            rules::required(role, &path, "name", errors);
        }
        let name = tree::text(role, "name");
        rules::name(name, &path.child("name"), names::path_segment(name), errors);
        for (at, subject) in tree::list(obj, "subjects").iter().enumerate() {
            check_subject(subject, !self.cluster, &Path::root("subjects").index(at), errors);
        }
    }
}

/// What upstream has as marks of the types of bindings comes last.
fn check_declared(obj: &Value, moved: bool, errors: &mut ErrorList) {
    for (at, subject) in tree::list(obj, "subjects").iter().enumerate() {
        rules::required(subject, &Path::root("subjects").index(at), "name", errors);
    }
    if !moved {
        rules::required(&obj["roleRef"], &Path::root("roleRef"), "name", errors);
    }
}

fn check_subject(subject: &Value, namespaced: bool, path: &Path, errors: &mut ErrorList) {
    let (name, group) = (tree::text(subject, "name"), tree::text(subject, "apiGroup"));
    match tree::text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                rules::name(name, &path.child("name"), names::dns1123_subdomain(name), errors);
            }
            if !group.is_empty() {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[""]));
            }
            if !namespaced {
                rules::required(subject, path, "namespace", errors);
            }
        }
        "User" | "Group" if group != GROUP => errors.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP])),
        "User" | "Group" => {}
        other => errors.push(Error::not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_gathered_selector_is_one_of_labels() {
        let of = |operator: &str| json!({"aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": operator, "values": ["1"]}]}]}});
        assert!(Roles { cluster: true }.validate(&of("In")).is_empty());
        for operator in ["Gt", "Lt", "Like"] {
            let errors = Roles { cluster: true }.validate(&of(operator));
            let selector = "aggregationRule.clusterRoleSelectors[0]";
            let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
            let wrong = format!("{selector}.matchExpressions[0].operator: Invalid value: {operator:?}: not a valid selector operator");
            assert_eq!(told, [wrong, format!("{selector}: Invalid value: null: invalid label selector.")]);
        }
    }

    #[test]
    fn bindings_are_completed_and_keep_their_role() {
        let mut obj = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]});
        let strategy = Bindings { cluster: false };
        strategy.default(&mut obj);
        assert_eq!(obj["subjects"][0]["apiGroup"], GROUP);
        assert!(obj["subjects"][1]["apiGroup"].is_null() && strategy.validate(&obj).is_empty());
        assert_eq!(Bindings { cluster: true }.validate(&obj).len(), 2);
        let mut other = obj.clone();
        other["roleRef"]["name"] = "x".into();
        let errors = strategy.validate_update(&other, &obj);
        assert_eq!(errors.iter().map(|e| e.detail.as_str()).collect::<Vec<_>>(), ["field is immutable"]);
        other["subjects"][0]["name"] = "".into();
        let errors = strategy.validate_update(&other, &obj);
        assert_eq!(errors.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), ["roleRef", "subjects[0].name"]);
        other["roleRef"]["name"] = "".into();
        let errors = strategy.validate_update(&other, &obj);
        let places: Vec<_> = errors.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(places, ["roleRef.name", "roleRef", "subjects[0].name"], "what is declared of the role stops at its change");
    }
}
