//! Who the server is at its hooks: the users of a kubeconfig, chosen by the hook's host (upstream's
//! `defaultAuthenticationInfoResolver`). Without one it is nobody.

use super::ClientConfig;
use base64::Engine as _;
use http::HeaderValue;
use machinery::Value;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The users of a kubeconfig by name.
#[derive(Debug, Default, Clone)]
pub(crate) struct Credentials {
    users: BTreeMap<String, Value>,
    current: Option<String>,
    folder: PathBuf,
}

/// Who to be at one hook.
#[derive(Debug, Default)]
pub(super) struct Who {
    pub(super) authorization: Option<HeaderValue>,
    pub(super) certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Credentials {
    /// Those of a kubeconfig file.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn load(file: &Path) -> Result<Credentials, String> {
        Ok(Credentials::of_value(&read(file)?, file))
    }

    /// Those of a kubeconfig file, with the cluster that it names as a hook.
    ///
    /// # Errors
    /// It cannot be read, or names no cluster.
    pub(crate) fn with_cluster(file: &Path) -> Result<(ClientConfig, Credentials), String> {
        let value = read(file)?;
        let mut credentials = Credentials::of_value(&value, file);
        let context = named(&value, "contexts", "context").remove(value["current-context"].as_str().unwrap_or_default()).unwrap_or_default();
        let mut clusters = named(&value, "clusters", "cluster");
        let cluster = match (context["cluster"].as_str(), clusters.len()) {
            (None, 1) => clusters.pop_first().map(|(_, cluster)| cluster),
            (name, _) => clusters.remove(name.unwrap_or_default()),
        };
        let cluster = cluster.unwrap_or_default();
        let text = |field: &str| cluster[field].as_str().filter(|text| !text.is_empty());
        let server = text("server").ok_or("invalid configuration: no configuration has been provided, try setting KUBERNETES_MASTER environment variable")?;
        if !server.starts_with("https://") {
            return Err(format!("{server:?} is not asked: it must begin with https://"));
        }
        if credentials.current.is_none() && credentials.users.len() == 1 {
            credentials.current = credentials.users.keys().next().cloned();
        }
        let ca_bundle = credentials.data_or_file(text("certificate-authority-data"), text("certificate-authority"))?.unwrap_or_default();
        Ok((ClientConfig { url: Some(server.to_owned()), service: None, ca_bundle }, credentials))
    }

    fn of_value(value: &Value, file: &Path) -> Credentials {
        let current = value["current-context"].as_str().unwrap_or_default();
        let current = named(value, "contexts", "context").get(current).and_then(|context| context["user"].as_str()).map(str::to_owned);
        Credentials { users: named(value, "users", "user"), current, folder: file.parent().unwrap_or(Path::new(".")).to_owned() }
    }

    /// Whether a user's token or certificate lies in a file of its own, which may be replaced.
    pub(crate) fn has_files(&self) -> bool {
        let text = |user: &Value, field: &str| user[field].as_str().is_some_and(|text| !text.is_empty());
        self.users.values().any(|user| ["tokenFile", "client-certificate", "client-key"].iter().any(|field| text(user, field)))
    }

    /// Who to be at `host:port`: a user of that name, of `*.` and the end of the name, the same without the usual port, `*`, or the
    /// current context's.
    pub(super) fn of(&self, target: &str) -> Result<Who, String> {
        let bare = target.strip_suffix(":443");
        let found = self.matching(target).or_else(|| bare.and_then(|bare| self.matching(bare)));
        let found = found.or_else(|| self.users.get("*")).or_else(|| self.current.as_ref().and_then(|name| self.users.get(name)));
        found.map_or_else(|| Ok(Who::default()), |user| self.who(user))
    }

    fn matching(&self, target: &str) -> Option<&Value> {
        let ends = target.match_indices('.').map(|(at, _)| format!("*{}", target.get(at..).unwrap_or_default()));
        std::iter::once(target.to_owned()).chain(ends).find_map(|name| self.users.get(&name))
    }

    fn who(&self, user: &Value) -> Result<Who, String> {
        let text = |field: &str| user[field].as_str().filter(|text| !text.is_empty());
        let token = match (text("token"), text("tokenFile")) {
            (Some(token), _) => Some(token.to_owned()),
            (None, Some(file)) => Some(String::from_utf8_lossy(&self.file(file)?).trim().to_owned()),
            (None, None) => None,
        };
        let basic = || {
            let pair = format!("{}:{}", text("username").unwrap_or_default(), text("password").unwrap_or_default());
            (pair.len() > 1).then(|| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
        };
        let authorization = token.map(|token| format!("Bearer {token}")).or_else(basic);
        let mut authorization = authorization.map(|text| HeaderValue::from_str(&text)).transpose().map_err(|error| error.to_string())?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        let chain = self.data_or_file(text("client-certificate-data"), text("client-certificate"))?;
        let key = self.data_or_file(text("client-key-data"), text("client-key"))?;
        let certificate = match (chain, key) {
            (Some(chain), Some(key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
                let chain = chain.map_err(|error| error.to_string())?;
                Some((chain, PrivateKeyDer::from_pem_slice(&key).map_err(|error| error.to_string())?))
            }
            _ => None,
        };
        Ok(Who { authorization, certificate })
    }

    fn data_or_file(&self, data: Option<&str>, file: Option<&str>) -> Result<Option<Vec<u8>>, String> {
        match (data, file) {
            (Some(data), _) => base64::engine::general_purpose::STANDARD.decode(data.trim()).map(Some).map_err(|error| error.to_string()),
            (None, Some(file)) => self.file(file).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, String> {
        let path = self.folder.join(name);
        std::fs::read(&path).map_err(|error| super::file_error(&path, &error))
    }
}

fn read(file: &Path) -> Result<Value, String> {
    let text = std::fs::read(file).map_err(|error| super::file_error(file, &error))?;
    Ok(machinery::yaml::decode(&text, None, machinery::json::Validation::Ignore).map_err(|status| status.message)?.value)
}

/// The parts of a kubeconfig's list by name.
fn named(value: &Value, list: &str, part: &str) -> BTreeMap<String, Value> {
    let all = value[list].as_array().into_iter().flatten();
    all.filter_map(|item| Some((item["name"].as_str()?.to_owned(), item[part].clone()))).collect()
}
