//! ClusterRoles that are the sum of others (`aggregationRule`).
//!
//! What holds it: every change of any ClusterRole looks at all sums, so rules that somebody writes into a sum are taken back, and
//! a part that changes, comes, goes or loses its label is in no sum any longer than that. A sum is applied by force, so who wrote
//! its rules before owns them no more. Roles of the cluster's own that are deleted are made at the API server's next start,
//! as in the original.

use std::sync::Arc;

use client::{Client, Informer, Meta, Patch, PatchParams};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::{Value, json};

use crate::meta::{labels, selector};
use crate::work::{Controller, Cx, Step};

/// Who owns the rules of a sum.
const MANAGER: &str = "clusterrole-aggregation-controller";

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client(MANAGER);
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
        let params = PatchParams { field_manager: MANAGER.to_owned(), force: true, ..PatchParams::default() };
        self.client.all::<ClusterRole>().patch(name, &Patch::Apply(applied(name, &rules)), &params).await.map(|_| None)
    }
}

/// The sum as it is applied: it is the rules' owner, and has no part in all else. Also when there are none: the original leaves them out then, and so
/// those stand that somebody else wrote.
fn applied(name: &str, rules: &[PolicyRule]) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
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
    use crate::fake::Fake;

    #[tokio::test]
    async fn a_sum_owns_its_rules_alone() {
        let role = |name: &str, rest: Value| {
            let mut role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name, "labels": {"to": name}}});
            role.as_object_mut().expect("an object").extend(rest.as_object().expect("an object").clone());
            serde_json::from_value::<ClusterRole>(role).expect("a role")
        };
        let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
        let rule = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "part"}}]});
        let sum = role("sum", json!({"aggregationRule": rule, "rules": [{"verbs": ["old"]}]}));
        let answer = serde_json::to_value(&sum).expect("JSON");
        let server = Fake::new(move |_, _| (200, answer.clone()));
        let roles = Informer::fixed([sum, role("part", json!({"rules": rules}))]);
        let aggregation = Aggregation { client: server.client(), roles };
        aggregation.reconcile(&"sum".to_owned()).await.expect("applied");
        let written = server.written();
        let [applied] = &written[..] else { panic!("{written:?}") };
        let (request, body) = applied.split_at(applied.find('{').expect("a body"));
        assert_eq!(request, "PATCH /apis/rbac.authorization.k8s.io/v1/clusterroles/sum ");
        let body: Value = serde_json::from_str(body).expect("JSON");
        let wanted = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "sum"}, "rules": rules});
        assert_eq!(body, wanted, "nothing but its rules");
        assert_eq!(super::applied("sum", &[])["rules"], json!([]), "none are said, too: else those of another would stay");
    }

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
