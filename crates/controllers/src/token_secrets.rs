//! Tokens that live in Secrets (type `kubernetes.io/service-account-token`) go with their ServiceAccounts (upstream
//! `serviceaccount/tokens_controller.go`).
//!
//! The token itself is given by the API server, whenever such a Secret is written and its account is there. What is left is done here: a
//! Secret whose account is gone, or is another one of the same name by now, is deleted; an authority that is not today's is replaced, and
//! what is missing is asked for by another write; an account lists no Secret that is gone.
//!
//! What holds it: Secrets and accounts are heard, so an account that goes has its Secrets looked at, and a start looks at all of them. Before
//! a Secret is deleted the server is asked whether its account is not there: the two come by different watches.

use std::sync::Arc;

use client::{Client, DeleteParams, Delta, Informer, ListParams, Meta, ObjectKey, WorkQueue};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};

use crate::work::{Controller, Cx, Step, user_agent};

pub(crate) const TYPE: &str = "kubernetes.io/service-account-token";
pub(crate) const ACCOUNT: &str = "kubernetes.io/service-account.name";
pub(crate) const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Upstream `--concurrent-serviceaccount-token-syncs`.
const WORKERS: usize = 5;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let controller = Arc::new(Tokens {
        // There is no account for it: it writes as all controllers read, as the original does.
        client: cx.informers.client().clone().user_agent(&user_agent("tokens-controller")),
        root_ca: cx.config.root_ca.clone(),
        secrets: cx.informers.informer_with(ListParams::fields(format!("type={TYPE}"))),
        accounts: cx.informers.informer(),
    });
    cx.setup(&controller).on(&controller.secrets, Tokens::heard).on(&controller.accounts, Tokens::heard_account).work(WORKERS).await;
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Secret(ObjectKey),
    /// A Secret that is gone, and the account that it was for, by name and UID.
    Gone {
        secret: ObjectKey,
        account: String,
        uid: String,
    },
}

struct Tokens {
    client: Client,
    root_ca: String,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
}

pub(crate) fn noted<'s>(secret: &'s Secret, key: &str) -> &'s str {
    secret.annotation(key).unwrap_or_default()
}

/// Whether an account is the one that a Secret names; without a UID any of the name is.
fn is_meant(account: &ServiceAccount, uid: &str) -> bool {
    uid.is_empty() || account.uid() == uid
}

/// Whether an account is the one that is meant, and lists a Secret of this name.
pub(crate) fn is_listed(account: &ServiceAccount, uid: &str, secret: &str) -> bool {
    is_meant(account, uid) && account.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(secret))
}

/// The Secret with today's authority and its namespace; none if it has them, and a token.
fn completed(secret: &Secret, root_ca: &str) -> Option<Secret> {
    let held = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
    let is_outdated = !root_ca.is_empty() && held("ca.crt") != root_ca.as_bytes();
    let is_bare = held("namespace").is_empty();
    if !is_outdated && !is_bare && !held("token").is_empty() {
        return None;
    }
    let mut next = secret.clone();
    let data = next.data.get_or_insert_default();
    if is_outdated {
        data.insert("ca.crt".to_owned(), ByteString(root_ca.as_bytes().to_vec()));
    }
    if is_bare {
        data.insert("namespace".to_owned(), ByteString(secret.namespace().as_bytes().to_vec()));
    }
    Some(next)
}

/// What somebody else has changed is heard of, what is gone needs nothing, and what its owner has made immutable stays as it is.
fn settled<T>(written: client::Result<T>) -> Step {
    match written {
        Err(error) if !error.is_not_found() && !error.is_conflict() && !error.is_invalid() => Err(error),
        _ => Ok(None),
    }
}

impl Tokens {
    fn heard(&self, queue: &WorkQueue<Key>, change: &Delta<Secret>) {
        let secret = change.object();
        let account = noted(secret, ACCOUNT);
        if account.is_empty() {
            return;
        }
        queue.add(match change {
            Delta::Deleted(_) => Key::Gone { secret: secret.key(), account: account.to_owned(), uid: noted(secret, ACCOUNT_UID).to_owned() },
            Delta::Added(_) | Delta::Updated { .. } => Key::Secret(secret.key()),
        });
    }

    /// The tokens of an account that is gone, or that another of its name has replaced, are looked at.
    fn heard_account(&self, queue: &WorkQueue<Key>, change: &Delta<ServiceAccount>) {
        let account = match change {
            Delta::Deleted(account) => account,
            Delta::Updated { old, new } if old.uid() != new.uid() => new,
            Delta::Added(_) | Delta::Updated { .. } => return,
        };
        let secrets = self.secrets.list_namespace(account.namespace());
        secrets.iter().filter(|s| noted(s, ACCOUNT) == account.name()).for_each(|s| queue.add(Key::Secret(s.key())));
    }

    /// Whether the account of a Secret is there, under the UID that the Secret says.
    async fn has_account(&self, secret: &Secret) -> client::Result<bool> {
        let (name, uid) = (noted(secret, ACCOUNT), noted(secret, ACCOUNT_UID));
        if self.accounts.get(secret.namespace(), name).is_some_and(|account| is_meant(&account, uid)) {
            return Ok(true);
        }
        let live = self.client.namespaced::<ServiceAccount>(secret.namespace()).get_opt(name).await?;
        Ok(live.is_some_and(|account| is_meant(&account, uid)))
    }

    async fn look(&self, key: &ObjectKey) -> Step {
        let Some(secret) = self.secrets.get_key(key).filter(|s| s.type_.as_deref() == Some(TYPE) && !noted(s, ACCOUNT).is_empty()) else {
            return Ok(None);
        };
        let api = self.client.namespaced::<Secret>(&key.namespace);
        if !self.has_account(&secret).await? {
            return settled(api.delete(&key.name, &DeleteParams::default().uid(secret.uid())).await);
        }
        match completed(&secret, &self.root_ca) {
            Some(next) => settled(api.replace(&key.name, &next).await),
            None => Ok(None),
        }
    }

    /// An account does not list a Secret that is gone.
    async fn unlist(&self, secret: &ObjectKey, account: &str, uid: &str) -> Step {
        let lists = |account: &ServiceAccount| is_listed(account, uid, &secret.name);
        if !self.accounts.get(&secret.namespace, account).is_some_and(|account| lists(&account)) {
            return Ok(None);
        }
        let api = self.client.namespaced::<ServiceAccount>(&secret.namespace);
        let Some(mut live) = api.get_opt(account).await?.filter(|live| lists(live)) else { return Ok(None) };
        live.secrets.get_or_insert_default().retain(|s| s.name.as_ref() != Some(&secret.name));
        match api.replace(account, &live).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}

impl Controller for Tokens {
    const QUEUE: &'static str = "serviceaccount_tokens_service";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Step {
        match key {
            Key::Secret(key) => self.look(key).await,
            Key::Gone { secret, account, uid } => self.unlist(secret, account, uid).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, refusal};
    use serde_json::{Value, json};

    fn account(name: &str) -> Value {
        let secrets = [json!({"name": "kept"}), json!({"name": "gone"})];
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "shop", "uid": format!("U-{name}")}, "secrets": secrets})
    }

    fn secret(name: &str, account: &str, uid: &str, data: Value) -> Secret {
        client::typed(&json!({
            "metadata": {"name": name, "namespace": "shop", "uid": format!("U-{name}"), "annotations": {ACCOUNT: account, ACCOUNT_UID: uid}},
            "type": TYPE,
            "data": data,
        }))
        .expect("a Secret")
    }

    /// What steps about these keys write: method, path and, of a Secret, its data.
    async fn written(keys: &[Key], secrets: &[Secret]) -> Vec<String> {
        let fake = Fake::new(|method, path: &str| match (method, path.rsplit('/').next()) {
            ("GET", Some(name @ ("web" | "late"))) => (200, account(name)),
            ("GET", _) => refusal(404, "NotFound"),
            _ if path.contains("/serviceaccounts/") => (200, account("web")),
            _ => (200, json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}})),
        });
        let web: ServiceAccount = client::typed(&account("web")).expect("an account");
        let (secrets, accounts) = (Informer::fixed(secrets.to_vec()), Informer::fixed([web]));
        let tokens = Tokens { client: fake.client(), root_ca: "CA".to_owned(), secrets, accounts };
        for key in keys {
            assert_eq!(tokens.reconcile(key).await.expect("a step"), None);
        }
        fake.written()
    }

    #[tokio::test]
    async fn tokens_go_with_their_account() {
        // "CA", "shop" and "t" in base64.
        let whole = || json!({"ca.crt": "Q0E=", "namespace": "c2hvcA==", "token": "dA=="});
        let secrets = [
            secret("kept", "web", "U-web", whole()),
            secret("unnamed", "web", "", whole()),
            secret("late", "late", "U-late", whole()),
            secret("orphan", "nobody", "U-nobody", whole()),
            secret("former", "web", "U-before", whole()),
        ];
        let keys: Vec<Key> = secrets.iter().map(|s| Key::Secret(s.key())).collect();
        let all = written(&keys, &secrets).await;
        let gone = |line: &String| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let path = "DELETE /api/v1/namespaces/shop/secrets";
        assert_eq!(all.iter().map(gone).collect::<Vec<_>>(), [format!("{path}/orphan"), format!("{path}/former")]);
        assert!(all[0].contains(r#""preconditions":{"uid":"U-orphan"}"#), "{all:?}");
    }

    #[tokio::test]
    async fn what_a_token_lacks_is_written() {
        let secrets =
            [secret("old", "web", "U-web", json!({"ca.crt": "b2xk", "namespace": "c2hvcA==", "token": "dA=="})), secret("bare", "web", "", Value::Null)];
        let keys: Vec<Key> = secrets.iter().map(|s| Key::Secret(s.key())).collect();
        let all = written(&keys, &secrets).await;
        assert!(all.len() == 2 && all.iter().all(|w| w.starts_with("PUT ") && w.contains(r#""ca.crt":"Q0E=""#)), "{all:?}");
        assert!(all[1].contains(r#""namespace":"c2hvcA==""#), "{all:?}");
    }

    #[tokio::test]
    async fn an_account_does_not_list_what_is_gone() {
        let gone = |name: &str, uid: &str| Key::Gone { secret: ObjectKey::new("shop", name), account: "web".to_owned(), uid: uid.to_owned() };
        let all = written(&[gone("gone", "U-before"), gone("unknown", ""), gone("gone", "U-web")], &[]).await;
        assert!(all.len() == 1 && all[0].starts_with("PUT /api/v1/namespaces/shop/serviceaccounts/web "), "{all:?}");
        assert!(all[0].contains(r#""name":"kept""#) && !all[0].contains(r#""name":"gone""#), "{all:?}");
    }

    #[tokio::test]
    async fn an_account_that_goes_has_its_tokens_looked_at() {
        let secrets = [secret("a", "web", "U-web", Value::Null), secret("b", "other", "", Value::Null)];
        let fake = Fake::new(|_, _: &str| refusal(404, "NotFound"));
        let tokens = Tokens { client: fake.client(), root_ca: String::new(), secrets: Informer::fixed(secrets), accounts: Informer::fixed([]) };
        let (queue, web) = (WorkQueue::default(), Arc::new(client::typed::<ServiceAccount>(&account("web")).expect("an account")));
        tokens.heard_account(&queue, &Delta::Added(web.clone()));
        assert_eq!(queue.len(), 0);
        tokens.heard_account(&queue, &Delta::Deleted(web));
        assert_eq!(queue.len(), 1);
    }
}
