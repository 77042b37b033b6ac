//! Where images come from: `registries.yaml` in k3s's form.
//!
//! ```text
//! mirrors:
//!   docker.io: { endpoint: ["https://mirror.example", "http://127.0.0.1:5055"] }
//!   "*": { endpoint: ["https://everything.example"] }
//! configs:
//!   mirror.example: { auth: { username: u, password: p }, tls: { ca_file: /etc/ca.pem } }
//! ```
//!
//! Mirrors are asked in their order, the registry itself last. Loopback addresses are spoken to without TLS.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::{Context, Error, Result};
use crate::images::reference::Reference;
use crate::types::Credentials;

/// What `registries.yaml` says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, HostConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mirror {
    endpoint: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostConfig {
    auth: Option<Auth>,
    tls: Option<Tls>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    username: String,
    password: String,
    auth: String,
    identity_token: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// How a host proves who it is, and we to it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tls {
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) insecure_skip_verify: bool,
}

/// A server to ask.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// `https://host:port/v2`, perhaps with a path before `/v2`.
    pub(super) base: String,
    pub(super) credentials: Option<Credentials>,
    pub(super) tls: Tls,
}

impl Registries {
    /// Reads the file; none is an empty one.
    pub(crate) fn load(path: Option<&Path>) -> Result<Registries> {
        let Some(path) = path else { return Ok(Registries::default()) };
        let text = match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Registries::default()),
            text => text.at("cannot read", path)?,
        };
        Self::parse(&text).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))
    }

    fn parse(text: &str) -> std::result::Result<Registries, String> {
        if text.trim().is_empty() {
            return Ok(Registries::default());
        }
        serde_yaml_ng::from_str(text).map_err(|e| e.to_string())
    }

    /// The servers for an image, in the order to ask. The caller's credentials are for the registry itself alone: a
    /// mirror does not get them, unless it is that same host.
    pub(super) fn endpoints(&self, reference: &Reference, given: Option<&Credentials>) -> Vec<Endpoint> {
        let own = default_base(&reference.registry);
        let mirror = self.mirrors.get(&reference.registry).or_else(|| self.mirrors.get("*"));
        let mut bases: Vec<String> = mirror.iter().flat_map(|m| &m.endpoint).map(|e| mirror_base(e)).collect();
        if !bases.contains(&own) {
            bases.push(own.clone());
        }
        let own_host = host_of(&own).to_owned();
        let endpoint = |base: String| {
            let host = host_of(&base);
            let config = self.configs.get(host).or_else(|| (base == own).then(|| self.configs.get(&reference.registry))?);
            let configured = config.and_then(|c| c.auth.as_ref()).map(Auth::credentials);
            let given = given.filter(|_| host == own_host).cloned();
            let tls = config.and_then(|c| c.tls.clone()).unwrap_or_default();
            Endpoint { credentials: given.or(configured), tls, base }
        };
        bases.into_iter().map(endpoint).collect()
    }
}

impl Auth {
    fn credentials(&self) -> Credentials {
        let packed = STANDARD.decode(&self.auth).ok().and_then(|b| String::from_utf8(b).ok());
        let (username, password) = match packed.as_deref().and_then(|t| t.split_once(':')) {
            Some((user, password)) if self.username.is_empty() => (user.to_owned(), password.to_owned()),
            _ => (self.username.clone(), self.password.clone()),
        };
        Credentials { username, password, identity_token: self.identity_token.clone(), registry_token: String::new() }
    }
}

fn host_of(base: &str) -> &str {
    let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn default_base(registry: &str) -> String {
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    format!("{}://{host}/v2", scheme(host))
}

fn mirror_base(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    let full = if endpoint.contains("://") { endpoint.to_owned() } else { format!("{}://{endpoint}", scheme(endpoint)) };
    if full.ends_with("/v2") { full } else { format!("{full}/v2") }
}

fn scheme(host: &str) -> &'static str {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
    if name == "localhost" || address.is_ok_and(|a| a.is_loopback()) { "http" } else { "https" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_and_credentials_stay_home() {
        let text = "mirrors:\n  docker.io:\n    endpoint: [\"http://127.0.0.1:5055\", \"https://m.example/path\"]\n\
                    configs:\n  m.example:\n    auth: {username: u, password: p}\n    tls: {insecure_skip_verify: true}\n";
        let registries = Registries::parse(text).unwrap();
        let mine = Credentials { username: "me".into(), ..Credentials::default() };
        let list = registries.endpoints(&Reference::parse("nginx").unwrap(), Some(&mine));
        let shown: Vec<_> = list.iter().map(|e| (e.base.as_str(), e.credentials.as_ref().map(|c| c.username.as_str()))).collect();
        assert_eq!(shown, [("http://127.0.0.1:5055/v2", None), ("https://m.example/path/v2", Some("u")), ("https://registry-1.docker.io/v2", Some("me"))]);
        assert!(list[1].tls.insecure_skip_verify);
        let plain = |name: &str| registries.endpoints(&Reference::parse(name).unwrap(), None)[0].base.clone();
        assert_eq!((plain("localhost:5000/a"), plain("quay.io/a/b")), ("http://localhost:5000/v2".into(), "https://quay.io/v2".into()));
        assert!(Registries::parse("mirrors: 3").is_err());
    }
}
