//! Bootstrap tokens go when their time is over (`expiration` of a Secret of type `bootstrap.kubernetes.io/token` in `kube-system`).
//!
//! As with the original, it runs when it is named alone. What holds it: each token names its time when it is heard, and all are heard
//! again at a start and once a day; a token that cannot be removed is tried again, where the original waits for its next change.

use std::sync::Arc;
use std::time::Duration;

use client::{Client, DeleteParams, Informer, ListParams, Meta};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;

use crate::meta::between;
use crate::work::{Controller, Cx, Step};

/// Where tokens are.
pub(crate) const NAMESPACE: &str = "kube-system";
/// The type of their Secrets.
pub(crate) const TYPE: &str = "bootstrap.kubernetes.io/token";

/// All tokens.
pub(crate) fn informer(cx: &Cx) -> Informer<Secret> {
    cx.informers.informer_in(NAMESPACE, ListParams::fields(format!("type={TYPE}")))
}

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let controller = Arc::new(Cleaner { client: cx.client("token-cleaner"), tokens: informer(&cx) });
    cx.setup(&controller).on(&controller.tokens, |_, queue, change| queue.add(change.object().name().to_owned())).work(1).await;
}

struct Cleaner {
    client: Client,
    tokens: Informer<Secret>,
}

/// How long a token still lives; none: for ever. One whose end cannot be read has ended.
pub(crate) fn left(token: &Secret) -> Option<Duration> {
    let text = token.data.as_ref()?.get("expiration").filter(|e| !e.0.is_empty())?;
    let end = std::str::from_utf8(&text.0).ok().and_then(|text| text.parse::<Timestamp>().ok());
    Some(end.map_or(Duration::ZERO, |end| between(client::timestamp(), end)))
}

impl Controller for Cleaner {
    const QUEUE: &'static str = "token_cleaner";
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some(token) = self.tokens.get(NAMESPACE, name).filter(|t| t.type_.as_deref() == Some(TYPE)) else { return Ok(None) };
        match left(&token) {
            Some(Duration::ZERO) => {}
            again => return Ok(again),
        }
        match self.client.namespaced::<Secret>(NAMESPACE).delete(name, &DeleteParams::default().uid(token.uid())).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use k8s_openapi::ByteString;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn token(name: &str, expiration: Option<&str>, kind: &str) -> Secret {
        let mut token = Secret { type_: Some(kind.to_owned()), ..Secret::default() };
        (token.metadata.name, token.metadata.namespace) = (Some(name.to_owned()), Some(NAMESPACE.to_owned()));
        token.data = expiration.map(|e| BTreeMap::from([("expiration".to_owned(), ByteString(e.as_bytes().to_vec()))]));
        token
    }

    #[tokio::test]
    async fn what_is_over_goes_and_nothing_else() {
        let all = [
            token("over", Some("2001-01-01T00:00:00Z"), TYPE),
            token("unreadable", Some("soon"), TYPE),
            token("open", None, TYPE),
            token("empty", Some(""), TYPE),
            token("later", Some("3000-01-01T01:00:00+01:00"), TYPE),
            token("other", Some("2001-01-01T00:00:00Z"), "Opaque"),
        ];
        let fake = Fake::new(|_, _: &str| (200, json!({"kind": "Status"})));
        let names = all.each_ref().map(|t| t.name().to_owned());
        let cleaner = Cleaner { client: fake.client(), tokens: Informer::fixed(all) };
        for name in &names {
            let again = cleaner.reconcile(name).await.expect("a step");
            assert_eq!(again.is_some(), name == "later", "{name}");
        }
        let gone: Vec<String> = fake.written().iter().filter_map(|w| w.split(' ').nth(1)?.rsplit('/').next().map(str::to_owned)).collect();
        assert_eq!(gone, ["over", "unreadable"]);
    }
}
