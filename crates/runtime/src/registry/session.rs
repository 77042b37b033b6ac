//! One repository on one server: requests with the authorisation that the server asks for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Deserialize;

use super::config::Endpoint;
use super::http::{Http, unreachable};
use crate::error::{Error, Result};
use crate::types::Credentials;

/// A token's document and an error's are small.
const SMALL_BYTES_MAX: usize = 1 << 20;

pub(super) struct Session {
    pub(super) base: String,
    pub(super) repository: String,
    credentials: Option<Credentials>,
    http: Http,
    /// The `Authorization` that was good last.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Session {
    pub(super) fn new(endpoint: Endpoint, repository: &str) -> Session {
        let ready = endpoint.credentials.as_ref().filter(|c| !c.registry_token.is_empty());
        let authorization = ready.and_then(|c| secret(&format!("Bearer {}", c.registry_token)));
        Session {
            base: endpoint.base,
            repository: repository.to_owned(),
            credentials: endpoint.credentials,
            http: Http::new(endpoint.tls),
            authorization: Mutex::new(authorization),
        }
    }

    pub(super) fn url(&self, kind: &str, version: &str) -> String {
        format!("{}/{}/{kind}/{version}", self.base, self.repository)
    }

    /// GET; asks for authorisation once when the server demands it.
    pub(super) async fn get(&self, url: &str, mut headers: HeaderMap) -> Result<Response<Incoming>> {
        let used = self.authorization.lock().clone();
        if let Some(value) = used.clone() {
            headers.insert(header::AUTHORIZATION, value);
        }
        let response = self.http.send(Method::GET, url, &headers, Bytes::new()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
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
        self.http.send(Method::GET, url, &headers, Bytes::new()).await
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
        let scope = field("scope").map_or_else(|| format!("repository:{}:pull", self.repository), str::to_owned);
        let mut query = vec![("scope", scope)];
        query.extend(field("service").map(|s| ("service", s.to_owned())));
        let mut headers = HeaderMap::new();
        let refresh = self.credentials.as_ref().map(|c| c.identity_token.as_str()).filter(|t| !t.is_empty());
        let response = if let Some(refresh) = refresh {
            query.extend([("grant_type", "refresh_token".into()), ("client_id", "knarr".into()), ("refresh_token", refresh.to_owned())]);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            self.http.send(Method::POST, realm, &headers, Bytes::from(form(&query))).await?
        } else {
            headers.extend(self.basic().map(|v| (header::AUTHORIZATION, v)));
            let join = if realm.contains('?') { '&' } else { '?' };
            self.http.send(Method::GET, &format!("{realm}{join}{}", form(&query)), &headers, Bytes::new()).await?
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

/// Reads a body of a limited size.
pub(super) async fn read(response: Response<Incoming>, max: usize) -> Result<Bytes, String> {
    Limited::new(response.into_body(), max).collect().await.map(http_body_util::Collected::to_bytes).map_err(|e| e.to_string())
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
    use super::*;

    #[test]
    fn challenges_are_read() {
        let list = parse(r#"realm="https://auth.example/token",service="r",scope="repository:a/b:pull,push""#);
        let expected = [("realm", "https://auth.example/token"), ("service", "r"), ("scope", "repository:a/b:pull,push")];
        assert_eq!(list, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(form(&[("scope", "a:b/c".into())]), "scope=a%3Ab%2Fc");
    }
}
