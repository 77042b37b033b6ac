//! ClusterRoles that are the sum of others (`aggregationRule`).
//!
//! What holds it: every change of any ClusterRole looks at all sums, so rules that somebody writes into a sum are taken back, and
//! a part that changes, comes, goes or loses its label is in no sum any longer than that. A sum that is written while another
//! writes it answers 409 and is reckoned anew. Roles of the cluster's own that are deleted are made at the API server's next start,
//! as in the original.

use std::sync::Arc;

use client::{Client, Informer, Meta};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::meta::{labels, selector};
use crate::work::{Controller, Cx, Step};

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("clusterrole-aggregation-controller");
    let controller = Arc::new(Aggregation { client, roles: cx.informers.informer() });
    cx.setup(&controller)
        .on(&controller.roles, |c, queue, _| c.roles.list().iter().filter(|r| r.aggregation_rule.is_some()).for_each(|r| queue.add(r.name().to_owned())))
        .work(2)
        .await;
}

struct Aggregation {
    client: Client,
    roles: Informer<ClusterRole>,
}

impl Controller for Aggregation {
    const QUEUE: &'static str = "ClusterRoleAggregator";
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some(role) = self.roles.get("", name) else { return Ok(None) };
        let Some(rules) = sum(&role, &self.roles.list()) else { return Ok(None) };
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(None);
        }
        let mut changed = (*role).clone();
        changed.rules = Some(rules);
        match self.client.all::<ClusterRole>().replace(name, &changed).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}

/// The rules of all roles that one selects, each rule once; none if it selects in no way.
fn sum(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for wanted in selectors.iter().map(selector) {
        // The informer lists by name.
        for other in all.iter().filter(|r| r.name() != role.name() && wanted.matches_map(labels(&***r))) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_aggregate_is_the_sum_without_repetition() {
        let role = |value| Arc::new(serde_json::from_value::<ClusterRole>(value).unwrap_or_default());
        let part = |name: &str, verbs: &[&str]| {
            let rules: Vec<_> = verbs.iter().map(|v| json!({"verbs": [v], "apiGroups": [""], "resources": ["pods"]})).collect();
            role(json!({"metadata": {"name": name, "labels": {"to": "view"}}, "rules": rules}))
        };
        let view = role(json!({"metadata": {"name": "view", "labels": {"to": "view"}}, "rules": [{"verbs": ["old"]}],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}}));
        let all = [part("a", &["get", "list"]), part("b", &["list", "watch"]), view.clone()];
        let verbs: Vec<String> = sum(&view, &all).unwrap_or_default().into_iter().flat_map(|r| r.verbs).collect();
        assert_eq!(verbs, ["get", "list", "watch"]);
        assert!(sum(&part("c", &[]), &all).is_none());
    }
}
