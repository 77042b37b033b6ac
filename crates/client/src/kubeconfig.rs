//! What a kubeconfig's current context says: where the server is, whom to trust, who to be.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

use crate::error::{Error, Result};

/// How to prove who one is.
#[derive(Debug, Default)]
pub struct Credentials {
    /// A client certificate (chain) and its key.
    pub certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// A bearer token.
    pub token: Option<String>,
    /// A file with a bearer token, read again as it is renewed.
    pub token_file: Option<PathBuf>,
}

/// A server, and who to be there.
#[derive(Debug)]
pub struct Endpoint {
    /// `https://HOST:PORT`, perhaps with a path.
    pub server: String,
    /// Who signs the server's certificate; empty for the public authorities, of which none is known here.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The name to check the certificate for, if it is not the host's.
    pub server_name: Option<String>,
    /// Accept any certificate. For tests against servers whose certificates are made up.
    pub insecure: bool,
    /// Who to be.
    pub credentials: Credentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    current_context: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default)]
    cluster: Cluster,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default)]
    context: Context,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    exec: Option<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

impl Endpoint {
    /// The current context of a kubeconfig file.
    ///
    /// # Errors
    /// The file, or one that it names, cannot be read; or the context, cluster or user is missing.
    pub fn from_kubeconfig(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder).map_err(|e| match e {
            Error::Config(why) => Error::Config(format!("{}: {why}", path.display())),
            other => other,
        })
    }

    /// The same from its text; relative file names are relative to `folder`.
    ///
    /// # Errors
    /// As [`Self::from_kubeconfig`].
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let file: File = serde_yaml_ng::from_str(text).map_err(|e| Error::Config(e.to_string()))?;
        let missing = |what: &str, name: &str| Error::Config(format!("there is no {what} {name:?}"));
        let context = file.contexts.iter().find(|c| c.name == file.current_context);
        let context = &context.ok_or_else(|| missing("context", &file.current_context))?.context;
        let cluster = file.clusters.iter().find(|c| c.name == context.cluster);
        let cluster = &cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
        let authorities = match data_or_file(cluster.certificate_authority_data.as_deref(), cluster.certificate_authority.as_deref(), folder)? {
            Some(pem) => certificates(&pem)?,
            None => Vec::new(),
        };
        let credentials = if context.user.is_empty() {
            Credentials::default()
        } else {
            let user = file.users.iter().find(|u| u.name == context.user);
            user.ok_or_else(|| missing("user", &context.user))?.user.credentials(folder)?
        };
        Ok(Self {
            server: cluster.server.clone(),
            authorities,
            server_name: cluster.tls_server_name.clone(),
            insecure: cluster.insecure_skip_tls_verify,
            credentials,
        })
    }
}

impl User {
    fn credentials(&self, folder: &Path) -> Result<Credentials> {
        if self.exec.is_some() {
            return Err(Error::Config("the user's credentials come from an exec plug-in, which is not supported".to_owned()));
        }
        let chain = data_or_file(self.client_certificate_data.as_deref(), self.client_certificate.as_deref(), folder)?;
        let key = data_or_file(self.client_key_data.as_deref(), self.client_key.as_deref(), folder)?;
        let certificate = match (chain, key) {
            (Some(chain), Some(key)) => {
                let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| Error::Config(format!("client key: {e}")))?;
                Some((certificates(&chain)?, key))
            }
            (None, None) => None,
            _ => return Err(Error::Config("a client certificate needs its key, and a key its certificate".to_owned())),
        };
        let token_file = self.token_file.as_deref().filter(|f| !f.is_empty()).map(|f| folder.join(f));
        Ok(Credentials { certificate, token: self.token.clone().filter(|t| !t.is_empty()), token_file })
    }
}

fn data_or_file(data: Option<&str>, file: Option<&str>, folder: &Path) -> Result<Option<Vec<u8>>> {
    if let Some(data) = data.filter(|d| !d.is_empty()) {
        let bytes = base64::engine::general_purpose::STANDARD.decode(data.trim());
        return bytes.map(Some).map_err(|e| Error::Config(format!("base64: {e}")));
    }
    let Some(file) = file.filter(|f| !f.is_empty()) else { return Ok(None) };
    let path = folder.join(file);
    std::fs::read(&path).map(Some).map_err(|e| Error::Config(format!("{}: {e}", path.display())))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let all: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.map_err(|e| Error::Config(format!("certificate: {e}")))
}
