use super::*;
use crate::testing::Memory;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn world() -> (Arc<Memory>, Tokens) {
    let memory = Memory::of([
        ("/registry/serviceaccounts/shop/web", json!({"metadata": {"name": "web", "uid": "sa-1"}})),
        ("/registry/pods/shop/web-0", json!({"metadata": {"name": "web-0", "uid": "pod-1"}})),
    ]);
    let tokens = Tokens::ephemeral(ISSUER, Arc::clone(&memory) as Arc<dyn Objects>).expect("tokens");
    (memory, tokens)
}

fn spec() -> TokenSpec {
    TokenSpec {
        namespace: "shop".into(),
        account: "web".into(),
        account_uid: "sa-1".into(),
        expiration_seconds: 600,
        pod: Some(Bound { name: "web-0".into(), uid: "pod-1".into() }),
        node: Some(Bound { name: "n1".into(), uid: "node-1".into() }),
        ..TokenSpec::default()
    }
}

#[test]
fn a_token_names_its_account_pod_and_node() {
    let (_, tokens) = world();
    let now = SystemTime::now();
    let (token, end) = tokens.issue(&spec(), now).expect("a token");
    assert_eq!(end, now + Duration::from_secs(600));
    let user = tokens.verify(&token, &[], now).expect("a good token").user;
    assert_eq!(user.name, "system:serviceaccount:shop:web");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["web-0"]);
    assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n1"], "a pod's token does not need its node to be there");
}

#[test]
fn a_token_dies_with_what_it_is_bound_to() {
    let (memory, tokens) = world();
    let now = SystemTime::now();
    let (token, _) = tokens.issue(&spec(), now).expect("a token");
    tokens.verify(&token, &[], now).expect("good, and remembered");
    memory.put("/registry/pods/shop/web-0", json!({"metadata": {"name": "web-0", "uid": "pod-2"}}));
    let told = |error: Error| error.to_string();
    let error = tokens.verify(&token, &[], now).expect_err("another pod of the same name");
    assert_eq!(told(error), "pod UID (pod-2) does not match service account pod ref claim (pod-1)");
    memory.put("/registry/pods/shop/web-0", json!({"metadata": {"uid": "pod-1", "deletionTimestamp": machinery::time::rfc3339(now)}}));
    tokens.verify(&token, &[], now + Duration::from_secs(30)).expect("a terminating pod may still speak");
    let error = tokens.verify(&token, &[], now + Duration::from_secs(90)).expect_err("not for ever");
    assert_eq!(told(error), "service account token has been invalidated");
    memory.put("/registry/serviceaccounts/shop/web", json!({"metadata": {"name": "web", "uid": "sa-2"}}));
    let error = tokens.verify(&token, &[], now).expect_err("another account of the same name");
    assert_eq!(told(error), "service account UID (sa-2) does not match claim (sa-1)");
    memory.remove("/registry/serviceaccounts/shop/web");
    assert_eq!(told(tokens.verify(&token, &[], now).expect_err("no account")), "serviceaccounts \"web\" not found");
}

#[test]
fn a_token_is_good_for_its_time_and_audience_only() {
    let (_, tokens) = world();
    let now = SystemTime::now();
    let vault = TokenSpec { audiences: vec!["vault".into()], ..spec() };
    let (token, _) = tokens.issue(&vault, now).expect("a token");
    let error = tokens.verify(&token, &[], now).expect_err("for vault, not for us");
    assert_eq!(error.to_string(), format!("token audiences [\"vault\"] is invalid for the target audiences [{ISSUER:?}]"));
    assert_eq!(tokens.verify(&token, &["vault".into(), "x".into()], now).expect("for vault").audiences, ["vault"]);
    let (token, _) = tokens.issue(&spec(), now).expect("a token");
    // A minute of grace, as upstream: the asker's clock may be another.
    let at = |after_s: i64| tokens.verify(&token, &[], SystemTime::UNIX_EPOCH + Duration::from_secs((seconds(now) + after_s).unsigned_abs()));
    at(660).expect("a minute more");
    at(-60).expect("a minute before");
    assert_eq!(at(661).expect_err("expired").to_string(), "service account token has expired");
    assert_eq!(at(-61).expect_err("early").to_string(), "service account token is not valid yet");
}

#[test]
fn a_pod_s_usual_token_lives_a_year_and_says_when_it_should_have_ended() {
    let (_, tokens) = world();
    let now = SystemTime::now();
    let usual = TokenSpec { expiration_seconds: EXTENDABLE_S, may_extend: true, ..spec() };
    let (token, end) = tokens.issue(&usual, now).expect("a token");
    assert_eq!(end, now + Duration::from_secs(3607));
    tokens.verify(&token, &[], now + Duration::from_secs(300 * 24 * 3600)).expect("still good");
}

#[test]
fn what_is_changed_or_signed_by_others_is_refused() {
    let (memory, tokens) = world();
    let now = SystemTime::now();
    let (token, _) = tokens.issue(&spec(), now).expect("a token");
    let mut bytes = token.clone().into_bytes();
    let middle = token.find('.').expect("a dot") + 5;
    bytes[middle] = if bytes[middle] == b'A' { b'B' } else { b'A' };
    let mut parts = token.split('.');
    let (header, claims) = (parts.next().expect("a header"), parts.next().expect("claims"));
    let others = Tokens::ephemeral(ISSUER, Arc::clone(&memory) as Arc<dyn Objects>).expect("tokens");
    let unsigned = "AAAA".repeat(21) + "AA";
    let wrong = "go-jose/go-jose: error in cryptographic primitive";
    let none = "invalid signature, no keys found";
    for (verifier, token, why) in [(&tokens, format!("{header}.{claims}.{unsigned}"), wrong), (&others, token.clone(), none)] {
        let error = verifier.verify(&token, &[], now).expect_err("signed by nobody, or by another key").to_string();
        assert_eq!(error, why);
    }
    // Of what is no token of this issuer nothing is said.
    let stranger = Tokens::ephemeral("https://issuer.example", memory).expect("tokens");
    assert!(matches!(stranger.verify(&token, &[], now), Err(Error::Foreign(_))));
    let changed = String::from_utf8(bytes).expect("text");
    for junk in ["", "a.b", "a.b.c", "....", "é.é.é", changed.as_str()] {
        assert!(matches!(tokens.verify(junk, &[], now), Err(Error::Foreign(_) | Error::Token(_))), "{junk}");
    }
}

#[test]
fn a_secret_s_token_is_good_while_the_secret_holds_it() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let (memory, tokens) = world();
    let now = SystemTime::now();
    let token = tokens.issue_legacy("shop", "web", "sa-1", "web-token").expect("a token");
    tokens.verify(&token, &[], now).expect_err("no such secret");
    memory.put("/registry/secrets/shop/web-token", json!({"metadata": {"name": "web-token"}, "data": {"token": STANDARD.encode(&token)}}));
    let review = tokens.verify(&token, &[], now).expect("good");
    assert_eq!(
        (review.user.name.as_str(), review.used.map(|used| (used.secret, used.is_generated))),
        ("system:serviceaccount:shop:web", Some(("web-token".into(), false)))
    );
    let marked = json!({"metadata": {"name": "web-token", "labels": {legacy::INVALID_SINCE: "2026-11-29"}}, "data": {"token": STANDARD.encode(&token)}});
    memory.put("/registry/secrets/shop/web-token", marked);
    let refused = tokens.verify(&token, &[], now).expect_err("marked");
    let why = "the token in secret shop/web-token for service account shop/web has been marked invalid. ";
    assert!(matches!(&refused, Error::Invalidated(_, used) if used.secret == "web-token") && refused.to_string().starts_with(why), "{refused}");
    memory.remove("/registry/secrets/shop/web-token");
    tokens.verify(&token, &[], now).expect_err("revoked");
}

#[test]
fn keys_are_where_the_server_is_reached() {
    let (_, tokens) = world();
    let told = tokens.openid_configuration("192.0.2.1:6443");
    assert_eq!(told["issuer"], ISSUER);
    assert_eq!(told["jwks_uri"], "https://192.0.2.1:6443/openid/v1/jwks");
}
