//! Webhook configurations, compiled.

use super::{
    policies::{self, Condition, Heavy},
    rules::Rule,
};
use crate::hooks::{Address, ClientConfig, Credentials, Pools};
use kubecel::regex::Patterns;
use machinery::{Value, labels::Selector};
use std::{collections::HashMap, time::Duration};

/// The time of a webhook that names none (the original's default).
const TIMEOUT_S: u64 = 10;

/// The versions of a review that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Review {
    V1,
    V1beta1,
}

/// One webhook of a configuration.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub(crate) name: String,
    /// Configuration, name and which of that name: what tells it from all others.
    pub(crate) uid: String,
    pub(crate) rules: Vec<Rule>,
    /// `matchPolicy: Equivalent`.
    pub(crate) equivalent: bool,
    /// `failurePolicy: Ignore`.
    pub(crate) ignore: bool,
    pub(crate) namespaces: Result<Selector, String>,
    pub(crate) objects: Result<Selector, String>,
    /// It may be asked about what is not stored; none if it does not say.
    pub(crate) dry_run: Option<bool>,
    pub(crate) timeout: Duration,
    /// The first version of a review that both know.
    pub(crate) review: Option<Review>,
    /// `reinvocationPolicy: IfNeeded`.
    pub(crate) reinvoked: bool,
    pub(crate) conditions: Vec<Condition>,
    /// Its conditions may take longer than a moment.
    pub(crate) heavy: Heavy,
    pub(crate) address: Address,
}

/// The webhooks of a configuration, in its order, with their servers' connections among these.
pub(crate) fn compile(configuration: &Value, mutating: bool, credentials: &Credentials, pools: &Pools) -> Vec<Webhook> {
    let own = configuration["metadata"]["name"].as_str().unwrap_or_default();
    let mut names: HashMap<&str, usize> = HashMap::new();
    let patterns = Patterns::default();
    let hooks = configuration["webhooks"].as_array().into_iter().flatten();
    hooks
        .map(|hook| {
            let name = hook["name"].as_str().unwrap_or_default();
            let count = names.entry(name).or_default();
            let uid = format!("{own}/{name}/{count}");
            *count += 1;
            let address = Address::new(ClientConfig::of(&hook["clientConfig"]), credentials.clone(), pools.clone());
            one(hook, name, uid, mutating, address, &patterns)
        })
        .collect()
}

fn one(hook: &Value, name: &str, uid: String, mutating: bool, address: Address, patterns: &Patterns) -> Webhook {
    let versions = hook["admissionReviewVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let selector = |field: &str| if hook[field].is_null() { Ok(Selector::nothing()) } else { Selector::from_label_selector(&hook[field]) };
    let conditions = policies::conditions(hook, patterns);
    Webhook {
        name: name.to_owned(),
        uid,
        rules: Rule::list(&hook["rules"]),
        equivalent: hook["matchPolicy"] == "Equivalent",
        ignore: hook["failurePolicy"] == "Ignore",
        namespaces: selector("namespaceSelector"),
        objects: selector("objectSelector"),
        dry_run: hook["sideEffects"].as_str().map(|effects| matches!(effects, "None" | "NoneOnDryRun")),
        timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_S)),
        review: { versions }.find_map(|version| match version {
            "v1" => Some(Review::V1),
            "v1beta1" => Some(Review::V1beta1),
            _ => None,
        }),
        reinvoked: mutating && hook["reinvocationPolicy"] == "IfNeeded",
        heavy: Heavy::of(conditions.iter().map(|condition| &condition.expression)),
        conditions,
        address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn webhook(condition: &str) -> Webhook {
        let conditions = json!([{"name": "c", "expression": condition}]);
        let hook = json!({"name": "h", "clientConfig": {"url": "https://127.0.0.1/"}, "matchConditions": conditions});
        compile(&json!({"metadata": {"name": "w"}, "webhooks": [hook]}), true, &Credentials::default(), &Pools::default()).remove(0)
    }

    #[test]
    fn conditions_that_may_take_long_are_told() {
        let heavy = |condition: &str| {
            let heavy = webhook(condition).heavy;
            [heavy.any, heavy.small]
        };
        assert_eq!(heavy("true"), [false, false]);
        assert_eq!(heavy("object.data.all(k, k != 'a' && object.data[k].size() < 10)"), [true, false], "of a small object it is known how long it takes");
        assert_eq!(heavy("object.a.all(a, object.b.all(b, object.c.all(c, a == b && b == c)))"), [true, true]);
        assert_eq!(heavy("request.userInfo.groups.all(g, g != 'a')"), [true, true], "who asks may be in many groups");
    }
}
