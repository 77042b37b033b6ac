//! Bootstrap tokens: who joins a cluster shows one (`ID.SECRET`) until it has a certificate of its own (KEP-130).
//!
//! A token is a Secret of type `bootstrap.kubernetes.io/token` in `kube-system` and as good as that Secret is now; nothing of it
//! is remembered. As upstream's authenticator, this one says nothing of a token that it does not take: others may know it.

use crate::{Objects, User, user::AUTHENTICATED};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use machinery::{Value, time, tree::text};
use std::{collections::BTreeSet, time::SystemTime};

/// The type of the Secrets.
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Where they are; the token's ID follows.
const KEY: &str = "/registry/secrets/kube-system/bootstrap-token-";
/// Before the ID, in a user's name.
const USER: &str = "system:bootstrap:";
/// The group of all who show such a token, and what the names of further ones begin with.
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const ID_LEN: usize = 6;
const SECRET_LEN: usize = 16;
/// Characters of a further group behind `system:bootstrappers:`.
const GROUP_MAX: usize = 256;

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// ID and secret of a text that has the form of such a token.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let is = |text: &str, len: usize| text.len() == len && text.bytes().all(is_lower);
    (is(id, ID_LEN) && is(secret, SECRET_LEN)).then_some((id, secret))
}

/// Whose token it is, if it is a bootstrap token that is good now.
pub(crate) fn user(objects: &dyn Objects, token: &str, now: SystemTime) -> Option<User> {
    let (id, secret) = parts(token)?;
    let found = objects.get(&format!("{KEY}{id}"))?;
    let data = |key: &str| field(&found, key);
    let is_there = found["metadata"]["deletionTimestamp"].is_null() && text(&found, "type") == TYPE;
    if !is_there || !equal(data("token-secret")?.as_bytes(), secret.as_bytes()) || data("token-id")? != id {
        return None;
    }
    if data("usage-bootstrap-authentication")? != "true" || has_ended(&found, now) {
        return None;
    }
    Some(User { name: format!("{USER}{id}"), groups: groups(&data("auth-extra-groups").unwrap_or_default())?, ..User::default() })
}

/// The text of a key of a Secret; none if it is not there or empty.
fn field(secret: &Value, key: &str) -> Option<String> {
    let bytes = STANDARD.decode(secret["data"][key].as_str()?).ok()?;
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

/// Whether a token's time is over; one whose end cannot be read has ended.
fn has_ended(secret: &Value, now: SystemTime) -> bool {
    if secret["data"]["expiration"].as_str().is_none_or(str::is_empty) {
        return false;
    }
    field(secret, "expiration").and_then(|text| time::parse(&text).ok()).is_none_or(|end| end <= now)
}

/// Whether a token may have this group beside those that all have: `system:bootstrappers:`, and then lower-case letters, digits, colons and
/// hyphens (upstream's rule).
#[must_use]
pub fn is_bootstrap_group(name: &str) -> bool {
    let rest = name.strip_prefix(BOOTSTRAPPERS).and_then(|rest| rest.strip_prefix(':'));
    rest.is_some_and(|rest| {
        (1..=GROUP_MAX).contains(&rest.len()) && rest.bytes().all(|b| is_lower(b) || matches!(b, b':' | b'-')) && rest.bytes().last().is_some_and(is_lower)
    })
}

/// All groups, in order; none if one that is asked for is not of bootstrappers.
fn groups(further: &str) -> Option<Vec<String>> {
    let mut all = BTreeSet::from([BOOTSTRAPPERS]);
    if !further.is_empty() {
        for name in further.split(',') {
            if !is_bootstrap_group(name) {
                return None;
            }
            all.insert(name);
        }
    }
    Some(all.into_iter().chain([AUTHENTICATED]).map(str::to_owned).collect())
}

/// Whether two texts are the same, in a time that tells nothing of where they differ.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && std::hint::black_box(one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;
    use serde_json::json;
    use std::time::Duration;

    const TOKEN: &str = "abcdef.0123456789abcdef";
    const SECRET: &str = "/registry/secrets/kube-system/bootstrap-token-abcdef";

    fn secret(changed: &[(&str, &str)]) -> Value {
        let usual = [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-authentication", "true")];
        let mut secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": TYPE});
        for (key, value) in usual.iter().chain(changed) {
            secret["data"][*key] = STANDARD.encode(value).into();
        }
        secret
    }

    fn of(secret: Value) -> Option<User> {
        user(&*Memory::of([(SECRET, secret)]), TOKEN, SystemTime::now())
    }

    #[test]
    fn a_good_token_names_its_user_and_groups() {
        let plain = of(secret(&[])).expect("a user");
        assert_eq!((plain.name.as_str(), plain.groups), ("system:bootstrap:abcdef", vec![BOOTSTRAPPERS.to_owned(), AUTHENTICATED.to_owned()]));
        let further = of(secret(&[("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token")])).expect("a user");
        assert_eq!(further.groups, [BOOTSTRAPPERS, "system:bootstrappers:kubeadm:default-node-token", AUTHENTICATED]);
        let in_an_hour = time::rfc3339(SystemTime::now() + Duration::from_secs(3600));
        assert!(of(secret(&[("expiration", &in_an_hour)])).is_some() && of(secret(&[("expiration", "")])).is_some());
    }

    #[test]
    fn what_is_wrong_with_a_token_makes_it_nobodys() {
        let refused = [
            ("token-secret", "0123456789abcdeg"),
            ("token-id", "abcdeg"),
            ("token-id", ""),
            ("usage-bootstrap-authentication", "yes"),
            ("expiration", "2001-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:"),
            ("auth-extra-groups", "system:bootstrappers:a-"),
            ("auth-extra-groups", "system:bootstrappers:a,"),
        ];
        for (key, value) in refused {
            assert_eq!(of(secret(&[(key, value)])), None, "{key}: {value}");
        }
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        assert_eq!(of(other), None);
        let mut going = secret(&[]);
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(of(going), None);
        let memory = Memory::of([(SECRET, secret(&[]))]);
        for token in ["abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef.", "bcdefg.0123456789abcdef"] {
            assert_eq!(user(&*memory, token, SystemTime::now()), None, "{token}");
        }
    }
}
