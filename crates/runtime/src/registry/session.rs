//! One repository on one server: requests with the authorisation that the server asks for.
//!
//! Secrets go to nobody else: a challenge is answered only when it is the server's own (not that of a host to which it
//! redirected), and a token is fetched without TLS only for a server that is itself spoken to without.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Deserialize;

use super::config::Endpoint;
use super::http::{Http, origin, read, unreachable};
use crate::error::{Error, Result};
use crate::types::Credentials;

/// A token's document and an error's are small.
const SMALL_BYTES_MAX: usize = 1 << 20;

pub(super) struct Session {
    pub(super) base: String,
    repository: String,
    namespace: Option<String>,
    credentials: Option<Credentials>,
    http: Http,
    /// The `Authorization` that was good last.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Session {
    pub(super) fn new(endpoint: Endpoint, http: Http) -> Session {
        let ready = endpoint.credentials.as_ref().filter(|c| !c.registry_token.is_empty());
        let authorization = ready.and_then(|c| secret(&format!("Bearer {}", c.registry_token)));
        Session {
            base: endpoint.base,
            repository: endpoint.repository,
            namespace: endpoint.namespace,
            credentials: endpoint.credentials,
            http,
            authorization: Mutex::new(authorization),
        }
    }

    pub(super) fn url(&self, kind: &str, version: &str) -> String {
        let of = self.namespace.as_ref().map(|ns| format!("?{}", form(&[("ns", ns.clone())])));
        format!("{}/{}/{kind}/{version}{}", self.base, self.repository, of.unwrap_or_default())
    }

    /// GET or HEAD; asks for authorisation once when the server demands it.
    pub(super) async fn ask(&self, method: Method, url: &str, mut headers: HeaderMap) -> Result<Response<Incoming>> {
        let used = self.authorization.lock().clone();
        if let Some(value) = used.clone() {
            headers.insert(header::AUTHORIZATION, value);
        }
        let answer = self.http.send(method.clone(), url, &headers, Bytes::new()).await?;
        let response = answer.response;
        if response.status() != StatusCode::UNAUTHORIZED || answer.origin != origin(&self.base) {
            return Ok(response);
        }
        let challenge = response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<String> = challenge.iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
        let now = self.authorization.lock().clone();
        // Another request of this session may have been authorised meanwhile.
        let value = if now != used { now } else { self.authorize(&challenges).await? };
        let Some(value) = value else { return Ok(response) };
        *self.authorization.lock() = Some(value.clone());
        headers.insert(header::AUTHORIZATION, value);
        Ok(self.http.send(method, url, &headers, Bytes::new()).await?.response)
    }

    async fn authorize(&self, challenges: &[String]) -> Result<Option<HeaderValue>> {
        for challenge in challenges {
            let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                return self.token(&parse(parameters)).await.map(Some);
            }
            if scheme.eq_ignore_ascii_case("basic") {
                return Ok(self.basic());
            }
        }
        Ok(None)
    }

    fn basic(&self) -> Option<HeaderValue> {
        let c = self.credentials.as_ref().filter(|c| !c.username.is_empty())?;
        secret(&format!("Basic {}", STANDARD.encode(format!("{}:{}", c.username, c.password))))
    }

    /// The token flow of the distribution specification: anonymous, with a password, or with a refresh token.
    async fn token(&self, challenge: &[(String, String)]) -> Result<HeaderValue> {
        let field = |name: &str| challenge.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        let realm = field("realm").ok_or_else(|| Error::Image("the registry asks for a token but does not say where from".to_owned()))?;
        if !realm.starts_with("https://") && !self.base.starts_with("http://") {
            return Err(Error::Image(format!("the registry wants its token to be fetched from {realm}, which is not secure")));
        }
        let scope = field("scope").map_or_else(|| format!("repository:{}:pull", self.repository), str::to_owned);
        let mut query = vec![("scope", scope)];
        query.extend(field("service").map(|s| ("service", s.to_owned())));
        let mut headers = HeaderMap::new();
        let refresh = self.credentials.as_ref().map(|c| c.identity_token.as_str()).filter(|t| !t.is_empty());
        let response = if let Some(refresh) = refresh {
            query.extend([("grant_type", "refresh_token".into()), ("client_id", "knarr".into()), ("refresh_token", refresh.to_owned())]);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            self.http.send(Method::POST, realm, &headers, Bytes::from(form(&query))).await?.response
        } else {
            headers.extend(self.basic().map(|v| (header::AUTHORIZATION, v)));
            let join = if realm.contains('?') { '&' } else { '?' };
            self.http.send(Method::GET, &format!("{realm}{join}{}", form(&query)), &headers, Bytes::new()).await?.response
        };
        let status = response.status();
        let body = read(response, SMALL_BYTES_MAX).await.map_err(|e| unreachable(&Method::GET, realm, &e))?;
        if !status.is_success() {
            let message = format!("failed to authorize: failed to fetch oauth token: unexpected status from GET request to {realm}: {status}");
            return Err(Error::Registry { code: status.as_u16(), message });
        }
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let token: Token = serde_json::from_slice(&body).map_err(|e| Error::Image(format!("the token of {realm} cannot be read: {e}")))?;
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        secret(&format!("Bearer {token}")).ok_or_else(|| Error::Image(format!("{realm} gave a token that is none")))
    }
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `key="value"` pairs, separated by commas.
fn parse(mut text: &str) -> Vec<(String, String)> {
    let mut list = Vec::new();
    while let Some((key, rest)) = text.split_once('=') {
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        list.push((key.trim_start_matches([',', ' ']).trim().to_ascii_lowercase(), value.to_owned()));
        text = rest;
    }
    list
}

fn form(pairs: &[(&str, String)]) -> String {
    let encode = |text: &str| -> String {
        let one = |b: u8| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (b as char).to_string(),
            b => format!("%{b:02X}"),
        };
        text.bytes().map(one).collect()
    };
    pairs.iter().map(|(k, v)| format!("{k}={}", encode(v))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::proxy::Proxies;
    use super::*;

    fn session(base: &str) -> Session {
        let endpoint = Endpoint { base: base.to_owned(), repository: "a".to_owned(), namespace: Some("docker.io".to_owned()), credentials: None };
        Session::new(endpoint, Http::new(BTreeMap::new(), Proxies::default(), None))
    }

    #[tokio::test]
    async fn a_secure_registrys_token_is_fetched_with_tls() {
        let challenge = parse(r#"realm="http://127.0.0.1:1/token",service="r""#);
        let error = session("https://r.example/v2").token(&challenge).await.unwrap_err().to_string();
        assert!(error.contains("not secure"), "{error}");
        let error = session("http://127.0.0.1:1/v2").token(&challenge).await.unwrap_err().to_string();
        assert!(error.contains("connection refused"), "a plain one's may be plain: {error}");
        assert_eq!(session("https://m.example/v2").url("manifests", "v1"), "https://m.example/v2/a/manifests/v1?ns=docker.io");
    }

    #[test]
    fn challenges_are_read() {
        let list = parse(r#"realm="https://auth.example/token",service="r",scope="repository:a/b:pull,push""#);
        let expected = [("realm", "https://auth.example/token"), ("service", "r"), ("scope", "repository:a/b:pull,push")];
        assert_eq!(list, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(form(&[("scope", "a:b/c".into())]), "scope=a%3Ab%2Fc");
    }

    #[test]
    fn fuzz_challenges() {
        crate::fuzz::run(
            "challenges",
            |_| {},
            |bytes| {
                let text = String::from_utf8_lossy(bytes);
                let list = parse(&text);
                assert!(list.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() <= text.len());
            },
        );
    }
}
