//! `--requestheader-*` and `--proxy-client-*`: who may say who asks, and what this server shows to aggregated ones, as kube-apiserver
//! is told it. Without them the cluster's own front proxy is meant, whose authority and client are made with its other keys.

use anyhow::{Context as _, anyhow};
use clap::Args;
use identity::{RequestHeaders, Trust, pki::Credential};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Front proxy")]
pub struct FrontProxyFlags {
    /// Authorities of clients that may say who asks, in place of the cluster's own front proxy; give --proxy-client-* by it too
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Names of clients that may say who asks; with an authority of yours and without a name, all of its clients
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Option<Vec<String>>,
    /// Headers in which users are named [default: X-Remote-User for the cluster's own front proxy]
    #[arg(long, value_delimiter = ',')]
    pub requestheader_username_headers: Option<Vec<String>>,
    /// Headers in which users' UIDs stand [default: X-Remote-Uid for the cluster's own front proxy]
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Option<Vec<String>>,
    /// Headers in which users' groups stand [default: X-Remote-Group for the cluster's own front proxy]
    #[arg(long, value_delimiter = ',')]
    pub requestheader_group_headers: Option<Vec<String>>,
    /// How headers begin in which more is said of a user [default: X-Remote-Extra- for the cluster's own front proxy]
    #[arg(long, value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Option<Vec<String>>,
    /// What is shown to aggregated API servers: a certificate
    #[arg(long)]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    pub proxy_client_key_file: Option<PathBuf>,
}

impl FrontProxyFlags {
    /// Sets what they say.
    ///
    /// # Errors
    /// A file cannot be read or is no such; a list that upstream refuses.
    pub fn apply(&self, trust: &mut Trust) -> anyhow::Result<()> {
        let default = match &self.requestheader_client_ca_file {
            Some(_) => RequestHeaders::none(),
            None => RequestHeaders::default(),
        };
        let own = |given: &Option<Vec<String>>, default: Vec<String>| given.clone().unwrap_or(default);
        let headers = RequestHeaders {
            allowed_names: own(&self.requestheader_allowed_names, default.allowed_names),
            username: own(&self.requestheader_username_headers, default.username),
            uid: own(&self.requestheader_uid_headers, default.uid),
            group: own(&self.requestheader_group_headers, default.group),
            extra_prefix: own(&self.requestheader_extra_headers_prefix, default.extra_prefix),
        };
        let (errors, warnings) = headers.problems();
        if !errors.is_empty() {
            return Err(anyhow!("{}", errors.join("\n")));
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        if let Some(path) = &self.requestheader_client_ca_file {
            let text = read(path)?;
            let all = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>()?;
            if all.is_empty() {
                return Err(anyhow!("data does not contain any valid RSA or ECDSA certificates: {}", path.display()));
            }
            // As upstream: else whoever has a certificate of the cluster could say who he is.
            let mut own = CertificateDer::pem_slice_iter(trust.client_ca_pem.as_bytes()).filter_map(Result::ok);
            if headers.allowed_names.is_empty() && own.any(|own| all.contains(&own)) {
                return Err(anyhow!(
                    "--requestheader-client-ca-file and --client-ca-file contain overlapping certificates; --requestheader-allowed-names must be \
                     specified to ensure regular client certificates cannot set authenticating proxy headers for arbitrary users"
                ));
            }
            // Nothing else of the file is to be published: a key may stand in it.
            trust.front_proxy_ca_pem = all.iter().map(|certificate| crate::certificates::pem(certificate)).collect();
        }
        // As for the original, one of the two is none.
        if let (Some(cert), Some(key)) = (&self.proxy_client_cert_file, &self.proxy_client_key_file) {
            let shown = Credential { cert_pem: read(cert)?, key_pem: read(key)? };
            shown.cert().and_then(|_| shown.key()).with_context(|| format!("{} and {}", cert.display(), key.display()))?;
            trust.front_proxy_client = Some(shown);
        }
        trust.request_headers = headers;
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_of_the_user_s_takes_the_place_of_the_cluster_s() {
        let directory = std::env::temp_dir().join(format!("knarr-front-proxy-{}", std::process::id()));
        let ca = identity::pki::Ca::load_or_create(&directory).expect("an authority");
        let client = ca.client_cert("client", "somebody", &[]).expect("a client");
        let [ca_file, cert, key] = ["authority", "shown", "secret"].map(|name| directory.join(name));
        for (path, text) in [(&ca_file, ca.cert_pem()), (&cert, &client.cert_pem), (&key, &client.key_pem)] {
            fs::write(path, text).expect("a file");
        }
        let settled = |flags: FrontProxyFlags| {
            let mut trust = Trust { front_proxy_ca_pem: "own".into(), ..Trust::default() };
            flags.apply(&mut trust).map(|()| trust)
        };
        let none = FrontProxyFlags::default();
        let own = settled(none.clone()).expect("nothing is wrong");
        assert_eq!((own.front_proxy_ca_pem.as_str(), own.request_headers), ("own", RequestHeaders::default()));
        let named = settled(FrontProxyFlags { requestheader_allowed_names: Some(vec!["a".into()]), ..none.clone() }).expect("nothing is wrong");
        assert_eq!(named.request_headers, RequestHeaders { allowed_names: vec!["a".into()], ..RequestHeaders::default() });
        let theirs = FrontProxyFlags {
            requestheader_client_ca_file: Some(ca_file.clone()),
            requestheader_username_headers: Some(vec!["X-Remote-User".into()]),
            proxy_client_cert_file: Some(cert.clone()),
            proxy_client_key_file: Some(key),
            ..none.clone()
        };
        let theirs = settled(theirs).expect("nothing is wrong");
        assert_eq!(theirs.request_headers, RequestHeaders { username: vec!["X-Remote-User".into()], ..RequestHeaders::none() });
        assert_eq!((theirs.front_proxy_ca_pem.as_str(), theirs.front_proxy_client.map(|shown| shown.cert_pem)), (ca.cert_pem(), Some(client.cert_pem.clone())));

        // With its key in the file: only the certificate is told to anybody.
        fs::write(&ca_file, format!("{}{}", client.key_pem, ca.cert_pem())).expect("a file");
        let beside =
            FrontProxyFlags { requestheader_client_ca_file: Some(ca_file), requestheader_username_headers: Some(vec!["X-Remote-User".into()]), ..none.clone() };
        assert_eq!(settled(beside.clone()).expect("nothing is wrong").front_proxy_ca_pem, ca.cert_pem());
        // Clients of the cluster would be front proxies.
        let mut of_the_cluster = Trust { client_ca_pem: ca.cert_pem().to_owned(), ..Trust::default() };
        let why = beside.apply(&mut of_the_cluster).expect_err("the same authority").to_string();
        assert!(why.starts_with("--requestheader-client-ca-file and --client-ca-file contain overlapping certificates"), "{why}");
        let named = FrontProxyFlags { requestheader_allowed_names: Some(vec!["front".into()]), ..beside };
        named.apply(&mut of_the_cluster).expect("only one of them is");

        let refused = |flags: FrontProxyFlags| settled(flags).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused(FrontProxyFlags { requestheader_client_ca_file: Some(directory.join("none")), ..none.clone() }).ends_with("none cannot be read"));
        assert_eq!(
            refused(FrontProxyFlags { requestheader_group_headers: Some(vec![String::new()]), ..none.clone() }),
            r#"empty value in "requestheader-group-headers""#
        );
        let no_authority = directory.join("no-authority");
        fs::write(&no_authority, "hello").expect("a file");
        assert!(
            refused(FrontProxyFlags { requestheader_client_ca_file: Some(no_authority), ..none })
                .starts_with("data does not contain any valid RSA or ECDSA certificates")
        );
        fs::remove_dir_all(&directory).expect("clean");
    }
}
