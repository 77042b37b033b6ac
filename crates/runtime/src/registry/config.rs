//! Where images come from: `registries.yaml` in k3s's form.
//!
//! ```text
//! mirrors:
//!   docker.io: { endpoint: ["https://mirror.example", "http://127.0.0.1:5055"], rewrite: { "^library/(.*)": "hub/$1" } }
//!   "*": { endpoint: ["https://everything.example"] }
//! configs:
//!   mirror.example: { auth: { username: u, password: p }, tls: { ca_file: /etc/ca.pem } }
//! ```
//!
//! Mirrors are asked in their order, the registry itself last. Loopback addresses are spoken to without TLS. A mirror is told
//! whose image is meant (`?ns=docker.io`) and asked by the name that its rewrites make of it. Keys that are not known are
//! refused: a misspelt one would be a setting that does not count.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex_lite::Regex;
use serde::Deserialize;

use super::proxy::Proxies;
use crate::error::{Context, Error, Result};
use crate::images::reference::Reference;
use crate::types::Credentials;

/// What `registries.yaml` says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, HostConfig>,
    #[serde(skip)]
    pub(super) proxies: Proxies,
    /// In which network namespace they are reached.
    #[serde(skip)]
    pub(super) network: Option<Arc<File>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mirror {
    endpoint: Vec<String>,
    #[serde(deserialize_with = "rewrites")]
    rewrite: Vec<(Regex, String)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostConfig {
    auth: Option<Auth>,
    tls: Option<Tls>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
#[serde(default, deny_unknown_fields)]
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
    /// The image's name there.
    pub(super) repository: String,
    /// The registry whose images are meant, for a server that has those of several.
    pub(super) namespace: Option<String>,
    pub(super) credentials: Option<Credentials>,
}

/// In the order of their patterns: the first one that fits counts.
fn rewrites<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<(Regex, String)>, D::Error> {
    let texts: BTreeMap<String, String> = BTreeMap::deserialize(from)?;
    let compile = |(pattern, to): (String, String)| Ok((Regex::new(&pattern).map_err(serde::de::Error::custom)?, to));
    texts.into_iter().map(compile).collect()
}

impl Mirror {
    fn rewritten(&self, repository: &str) -> String {
        let fits = self.rewrite.iter().find(|(pattern, _)| pattern.is_match(repository));
        fits.map_or_else(|| repository.to_owned(), |(pattern, to)| pattern.replace_all(repository, to.as_str()).into_owned())
    }
}

impl Registries {
    /// Reads the file; none is an empty one.
    pub(crate) fn load(path: Option<&Path>, network: Option<Arc<File>>) -> Result<Registries> {
        let text = match path.map(std::fs::read_to_string) {
            None => String::new(),
            Some(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Some(text) => text.at("cannot read", path.unwrap_or(Path::new("")))?,
        };
        let bad = |e: String| Error::Invalid(format!("{}: {e}", path.unwrap_or(Path::new("registries")).display()));
        let proxies = Proxies::from_environment().map_err(Error::Invalid)?;
        Ok(Registries { proxies, network, ..Self::parse(&text).map_err(bad)? })
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
            let configured = self.config(host, reference).and_then(|c| c.auth.as_ref()).map(Auth::credentials);
            let given = given.filter(|_| host == own_host).cloned();
            let repository = match mirror.filter(|_| base != own) {
                Some(mirror) => mirror.rewritten(&reference.repository),
                None => reference.repository.clone(),
            };
            let namespace = (host != own_host).then(|| reference.registry.clone());
            Endpoint { credentials: given.or(configured), repository, namespace, base }
        };
        bases.into_iter().map(endpoint).collect()
    }

    /// What is set for a host. Docker's registry has another name than its images.
    fn config(&self, host: &str, reference: &Reference) -> Option<&HostConfig> {
        let by_name = || self.configs.get(&reference.registry).filter(|_| host == host_of(&default_base(&reference.registry)));
        self.configs.get(host).or_else(by_name)
    }

    /// How TLS is spoken, by host: the settings of one are for no other, neither its token server nor where it redirects to.
    pub(super) fn tls(&self, reference: &Reference) -> BTreeMap<String, Tls> {
        let own = host_of(&default_base(&reference.registry)).to_owned();
        let of_own = self.config(&own, reference).and_then(|c| c.tls.clone()).map(|tls| (own, tls));
        self.configs.iter().filter_map(|(host, c)| Some((host.clone(), c.tls.clone()?))).chain(of_own).collect()
    }
}

impl Auth {
    fn credentials(&self) -> Credentials {
        let packed = STANDARD.decode(&self.auth).ok().and_then(|b| String::from_utf8(b).ok());
        let (username, password) = match packed.as_deref().and_then(|t| t.split_once(':')) {
            Some((user, password)) if self.username.is_empty() => (user.to_owned(), password.to_owned()),
            _ => (self.username.clone(), self.password.clone()),
        };
        Credentials { username, password, identity_token: self.identity_token.clone(), registry_token: String::new(), keys: Vec::new() }
    }
}

pub(super) fn host_of(base: &str) -> &str {
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
        let spaces: Vec<_> = list.iter().map(|e| e.namespace.as_deref()).collect();
        assert_eq!(spaces, [Some("docker.io"), Some("docker.io"), None], "the registry itself needs not be told");
        let tls = registries.tls(&Reference::parse("nginx").unwrap());
        assert_eq!(tls.iter().map(|(host, tls)| (host.as_str(), tls.insecure_skip_verify)).collect::<Vec<_>>(), [("m.example", true)]);
        let plain = |name: &str| registries.endpoints(&Reference::parse(name).unwrap(), None)[0].base.clone();
        assert_eq!((plain("localhost:5000/a"), plain("quay.io/a/b")), ("http://localhost:5000/v2".into(), "https://quay.io/v2".into()));
        assert!(Registries::parse("mirrors: 3").is_err());
    }

    #[test]
    fn names_are_rewritten_for_mirrors_alone_and_unknown_keys_are_refused() {
        let text = "mirrors:\n  \"*\":\n    endpoint: [\"https://m.example\"]\n    rewrite: {\"^library/(.*)\": \"hub/$1\"}\n";
        let registries = Registries::parse(text).unwrap();
        let asked = |name: &str| {
            let list = registries.endpoints(&Reference::parse(name).unwrap(), None);
            list.into_iter().map(|e| (e.repository, e.namespace)).collect::<Vec<_>>()
        };
        let hub = Some("docker.io".to_owned());
        assert_eq!(asked("nginx"), [("hub/nginx".into(), hub), ("library/nginx".into(), None)]);
        assert_eq!(asked("quay.io/a/b"), [("a/b".into(), Some("quay.io".into())), ("a/b".into(), None)]);
        for bad in [
            "mirrors: {x: {endpont: []}}",
            "mirror: {}",
            "configs: {x: {tls: {ca: y}}}",
            "configs: {x: {auth: {user: y}}}",
            "mirrors: {x: {rewrite: {\"(\": y}}}",
        ] {
            assert!(Registries::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fuzz_registries() {
        let names = ["nginx", "quay.io/a/b", "localhost:5000/x"].map(|n| Reference::parse(n).unwrap());
        crate::fuzz::run(
            "registries",
            |_| {},
            |bytes| {
                let Ok(registries) = Registries::parse(&String::from_utf8_lossy(bytes)) else { return };
                for name in &names {
                    let list = registries.endpoints(name, None);
                    assert!(list.iter().any(|e| e.base == default_base(&name.registry) && e.repository == name.repository), "the registry itself is asked");
                    registries.tls(name);
                }
            },
        );
    }
}
