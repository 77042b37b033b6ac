//! Tokens without an end that were made for service accounts, and that nobody has used for a year, are first marked as invalid, and
//! go after another year (upstream's `legacy_serviceaccount_token_cleaner.go`). Those that somebody asked for stay.
//!
//! The API server notes the day of each use, and since when it does; nothing is judged before it has done so for a year. What holds
//! it: all of them are looked at once a day, as upstream does, so whatever could not be written is written the next day.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, DeleteParams, Informer, ListParams, Meta, Patch, PatchParams, Preconditions};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use k8s_openapi::jiff::{Timestamp, civil::Date, tz::TimeZone};
use machinery::pod_names;
use serde_json::json;

use crate::meta::{created, minus, plus};
use crate::token_secrets::{ACCOUNT, ACCOUNT_UID, TYPE, is_listed, noted};
use crate::work::{Controller, Cx, Step};

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long nobody may have used one (upstream `--legacy-service-account-token-clean-up-period`).
const UNUSED: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let controller = Arc::new(Cleaner {
        client: cx.client("legacy-service-account-token-cleaner"),
        tokens: cx.informers.informer_with(ListParams::fields(format!("type={TYPE}"))),
        accounts: cx.informers.informer(),
        pods: cx.informers.informer(),
    });
    let queue = client::WorkQueue::default();
    queue.add(());
    cx.setup_with(queue, &controller).reads(&controller.tokens).reads(&controller.accounts).reads(&controller.pods).work(1).await;
}

struct Cleaner {
    client: Client,
    tokens: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    pods: Informer<Pod>,
}

/// What is to happen to a token.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Mark,
    Removal,
}

fn day(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).date().to_string()
}

fn is_day(text: &str) -> bool {
    text.len() == 10 && text.parse::<Date>().is_ok()
}

fn label<'s>(secret: &'s Secret, name: &str) -> Option<&'s str> {
    secret.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

impl Cleaner {
    /// Since when uses have surely been noted; none while that is not known.
    async fn tracked_since(&self) -> client::Result<Option<Timestamp>> {
        let map = self.client.namespaced::<ConfigMap>("kube-system").get(TRACKING).await?;
        let since = map.data.as_ref().and_then(|data| data.get("since")).filter(|since| is_day(since));
        let begun = since.and_then(|since| since.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok());
        // The first day was no whole one.
        Ok(begun.map(|begun| plus(begun.timestamp(), DAY)))
    }

    /// Whether a token was made for an account, which lists it then.
    fn is_generated(&self, token: &Secret) -> bool {
        let account = self.accounts.get(token.namespace(), noted(token, ACCOUNT));
        account.is_some_and(|account| is_listed(&account, noted(token, ACCOUNT_UID), token.name()))
    }

    /// The Secrets that pods of a namespace name.
    fn named(&self, namespace: &str) -> HashSet<String> {
        let pods = self.pods.list_namespace(namespace);
        let values = pods.iter().filter_map(|pod| serde_json::to_value(&**pod).ok());
        values.flat_map(|pod| pod_names::secrets(&pod).map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// `named` is what [`Self::named`] gave for namespaces that were looked at.
    fn due(&self, token: &Secret, now: Timestamp, named: &mut HashMap<String, HashSet<String>>) -> Due {
        let before = minus(now, UNUSED);
        let young = created(token) >= before || token.is_deleting() || token.type_.as_deref() != Some(TYPE);
        let used = label(token, LAST_USED).is_some_and(|last| !is_day(last) || *last >= *day(before));
        if young || used || !self.is_generated(token) {
            return Due::Nothing;
        }
        if named.entry(token.namespace().to_owned()).or_insert_with_key(|namespace| self.named(namespace)).contains(token.name()) {
            return Due::Nothing;
        }
        match label(token, INVALID_SINCE).filter(|since| is_day(since)) {
            None => Due::Mark,
            Some(since) if *since >= *day(before) => Due::Nothing,
            Some(_) => Due::Removal,
        }
    }

    async fn act(&self, token: &Secret, now: Timestamp, named: &mut HashMap<String, HashSet<String>>) -> client::Result<()> {
        let secrets = self.client.namespaced::<Secret>(token.namespace());
        match self.due(token, now, named) {
            Due::Nothing => Ok(()),
            Due::Mark => {
                let patch = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"uid": token.uid(), "labels": {INVALID_SINCE: day(now)}}});
                secrets.patch(token.name(), &Patch::Merge(patch), &PatchParams::default()).await.map(drop)
            }
            Due::Removal => {
                let preconditions = Preconditions { uid: None, resource_version: Some(token.resource_version().to_owned()) };
                secrets.delete(token.name(), &DeleteParams { preconditions, ..DeleteParams::default() }).await
            }
        }
    }
}

impl Controller for Cleaner {
    const QUEUE: &'static str = "legacy-serviceaccount-token-cleaner-controller";
    type Key = ();

    async fn reconcile(&self, (): &()) -> Step {
        let now = client::timestamp();
        let tracked = self.tracked_since().await?;
        if tracked.is_none_or(|since| now < plus(since, UNUSED)) {
            return Ok(Some(DAY));
        }
        let mut named = HashMap::new();
        for token in self.tokens.list() {
            match self.act(&token, now, &mut named).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => {
                    tracing::warn!(namespace = token.namespace(), secret = token.name(), %error, "an unused token stays for a day more");
                }
                _ => {}
            }
        }
        Ok(Some(DAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use k8s_openapi::api::core::v1::ObjectReference;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use std::collections::BTreeMap;

    fn token(name: &str, labels: &[(&str, &str)], age: Duration, now: Timestamp) -> Secret {
        let mut token = Secret { type_: Some(TYPE.to_owned()), ..Secret::default() };
        let metadata = &mut token.metadata;
        (metadata.name, metadata.namespace) = (Some(name.to_owned()), Some("shop".to_owned()));
        metadata.resource_version = Some("7".to_owned());
        metadata.creation_timestamp = Some(Time(minus(now, age)));
        metadata.labels = Some(labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        metadata.annotations = Some(BTreeMap::from([(ACCOUNT.to_owned(), "web".to_owned())]));
        token
    }

    #[tokio::test]
    async fn what_nobody_has_used_for_a_year_is_marked_and_goes_a_year_later() {
        let now = client::timestamp();
        let (old, long_ago, recent) = (UNUSED + DAY * 2, day(minus(now, UNUSED + DAY)), day(minus(now, DAY)));
        let all = [
            token("unused", &[], old, now),
            token("used", &[(LAST_USED, &recent)], old, now),
            token("used-long-ago", &[(LAST_USED, &long_ago)], old, now),
            token("unreadable", &[(LAST_USED, "soon")], old, now),
            token("young", &[], DAY, now),
            token("marked", &[(INVALID_SINCE, &recent)], old, now),
            token("over", &[(INVALID_SINCE, &long_ago)], old, now),
            token("mounted", &[], old, now),
            token("asked-for", &[], old, now),
        ];
        let mut account = ServiceAccount::default();
        (account.metadata.name, account.metadata.namespace) = (Some("web".to_owned()), Some("shop".to_owned()));
        let listed = all.iter().filter(|t| t.name() != "asked-for");
        account.secrets = Some(listed.map(|t| ObjectReference { name: Some(t.name().to_owned()), ..ObjectReference::default() }).collect());
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "mounted"}}]},
        }))
        .expect("a pod");
        for (since, wanted) in [(day(minus(now, UNUSED)), &[][..]), (day(minus(now, old)), &["PATCH unused", "PATCH used-long-ago", "DELETE over"][..])] {
            let fake = Fake::new(move |method, _: &str| match method {
                "GET" => (200, json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": TRACKING}, "data": {"since": since}})),
                _ => (200, json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}})),
            });
            let (tokens, accounts, pods) = (Informer::fixed(all.clone()), Informer::fixed([account.clone()]), Informer::fixed([pod.clone()]));
            let cleaner = Cleaner { client: fake.client(), tokens, accounts, pods };
            assert_eq!(cleaner.reconcile(&()).await.expect("a step"), Some(DAY));
            let mut written: Vec<String> = fake
                .written()
                .iter()
                .map(|w| {
                    let mut words = w.split(' ');
                    format!("{} {}", words.next().unwrap_or_default(), words.next().and_then(|path| path.rsplit('/').next()).unwrap_or_default())
                })
                .collect();
            written.sort_unstable();
            let mut wanted = wanted.to_vec();
            wanted.sort_unstable();
            assert_eq!(written, wanted);
        }
    }
}
