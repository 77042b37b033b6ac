//! What nobody may configure of admission, and what has no effect: names that are kept for what is configured by files, and rules for
//! requests about which no webhook is asked.

use super::checks::{has_wildcard, texts};
use crate::tree;
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};
use std::collections::HashSet;

/// How the names of what is configured by files end (`StaticConfigSuffix`).
const STATIC: &str = ".static.k8s.io";

/// Reviews, by their groups: whoever intercepts them may break the cluster (`exclusion.Excluded`).
const UNASKED: [(&str, &[&str]); 2] = [
    ("authentication.k8s.io", &["selfsubjectreviews", "tokenreviews"]),
    ("authorization.k8s.io", &["localsubjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews", "subjectaccessreviews"]),
];

fn is_static(obj: &Value) -> Option<&str> {
    Some(tree::text(&obj["metadata"], "name")).filter(|name| name.ends_with(STATIC))
}

fn reserved() -> String {
    format!("names ending with {STATIC:?} are reserved for static manifest-based configurations and cannot be managed via the API")
}

/// A new object is not named like what is configured by files.
pub(super) fn check_name(obj: &Value, errors: &mut ErrorList) {
    if let Some(name) = is_static(obj) {
        errors.push(Error::invalid(&Path::root("metadata").child("name"), name, reserved()));
    }
}

/// One that was made before that was so may be changed.
pub(super) fn name_warnings(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let named = old.and_then(|_| is_static(obj));
    named.map(|_| format!("metadata.name: {}", reserved())).into_iter().collect()
}

/// Rules that name, and not only match, what webhooks are not asked about.
pub(super) fn rule_warnings(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for (at, hook) in tree::list(obj, "webhooks").iter().enumerate() {
        for (nth, rule) in tree::list(hook, "rules").iter().enumerate() {
            if has_wildcard(rule, "apiGroups") || has_wildcard(rule, "resources") {
                continue;
            }
            // The resources are looked at once for each known group, and not for each that is written: both lists may be long.
            let known = texts(rule, "apiGroups").filter_map(|(_, text)| UNASKED.into_iter().find(|(group, _)| *group == text));
            let mut groups = HashSet::new();
            for (group, unasked) in known.filter(|(group, _)| groups.insert(*group)) {
                let mut seen = HashSet::new();
                for (_, resource) in texts(rule, "resources").filter(|(_, resource)| unasked.contains(resource) && seen.insert(*resource)) {
                    out.push(format!("webhooks[{at}].rules[{nth}]: {resource}.{group} is excluded from admission webhooks; this rule will have no effect"));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_for_reviews_have_no_effect() {
        let of = |groups: Value, resources: Value| rule_warnings(&json!({"webhooks": [{"rules": [{"apiGroups": groups, "resources": resources}]}]}));
        let told = of(json!(["authentication.k8s.io", "authorization.k8s.io"]), json!(["pods", "tokenreviews", "tokenreviews"]));
        assert_eq!(told, ["webhooks[0].rules[0]: tokenreviews.authentication.k8s.io is excluded from admission webhooks; this rule will have no effect"]);
        assert!(of(json!(["*"]), json!(["tokenreviews"])).is_empty());
        let long = of(json!(vec!["authentication.k8s.io"; 100_000]), json!(vec!["tokenreviews"; 100_000]));
        assert_eq!(long.len(), 1, "the lists are not multiplied");
    }

    #[test]
    fn names_of_what_files_configure_are_taken() {
        let object = json!({"metadata": {"name": "a.static.k8s.io"}});
        let mut errors = ErrorList::new();
        check_name(&object, &mut errors);
        assert_eq!((errors.len(), name_warnings(&object, None).len(), name_warnings(&object, Some(&object)).len()), (1, 0, 1));
    }
}
