//! Every key and certificate that a cluster needs before its first request, in one directory.
//!
//! Loading costs reading the files; what is absent, says something else than it should, or ends soon is made anew. Only the
//! authorities must survive a crash right after they were made: everything else can be issued again, so it is not synced.

use super::{Ca, Credential, DAY, Kubelets, Renewable, Subject, Usage, files, kubeconfig};
use crate::{Error, RequestHeaders, Trust};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How long a certificate is good that a signer of certificates.k8s.io gives (upstream's `--cluster-signing-duration`).
pub const SIGNING_LIFE: Duration = DAY.saturating_mul(365);

/// What the certificates of a cluster must say.
#[derive(Debug, Clone)]
pub struct ClusterNames {
    /// The cluster's DNS domain (`cluster.local`).
    pub domain: String,
    /// The address of the Service `kubernetes`: the first of the range.
    pub service_ip: IpAddr,
    /// Further addresses of the API server: those that it listens on, the node's.
    pub ips: Vec<IpAddr>,
    /// Further names of the API server.
    pub names: Vec<String>,
}

impl ClusterNames {
    /// All names and addresses of the API server, as its certificate has them.
    pub fn all(&self) -> Vec<String> {
        self.dns().into_iter().chain(self.addresses().iter().map(ToString::to_string)).collect()
    }

    fn dns(&self) -> Vec<String> {
        let service = "kubernetes.default.svc";
        let own = ["kubernetes", "kubernetes.default", service, "localhost"].map(str::to_owned);
        let mut all: Vec<String> = own.into_iter().chain([format!("{service}.{}", self.domain)]).chain(self.names.iter().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = [self.service_ip, IpAddr::from([127, 0, 0, 1])].into_iter().chain(self.ips.iter().copied()).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// The keys and certificates of a cluster's control plane, by their usual file names.
pub struct ClusterPki {
    /// `ca`: signs every certificate of the cluster but those of the front proxy.
    pub ca: Ca,
    /// `front-proxy-ca`: what aggregated API servers trust.
    pub front_proxy_ca: Ca,
    /// `apiserver`: the API server's serving certificate.
    pub apiserver: Credential,
    /// `apiserver-kubelet-client`: shown to kubelets.
    pub kubelet_client: Credential,
    /// `front-proxy-client`: shown to aggregated API servers.
    pub front_proxy_client: Credential,
    /// `admin`: the administrator, in `system:masters`.
    pub admin: Credential,
    /// `scheduler`.
    pub scheduler: Credential,
    /// `controller-manager`.
    pub controller_manager: Credential,
    /// `kube-proxy`.
    pub proxy: Credential,
    /// What the API server shows to its clients now, and to kubelets.
    shown: Arc<Renewable>,
    shown_to_kubelets: Arc<Renewable>,
    directory: PathBuf,
}

/// The certificates of one node.
#[derive(Debug, Clone)]
pub struct NodePki {
    /// `node-NAME`: the kubelet as a client, `system:node:NAME`.
    pub client: Credential,
    /// `kubelet-NAME`: the kubelet's own API.
    pub serving: Credential,
    shown: Arc<Renewable>,
}

impl NodePki {
    /// What the kubelet's own API shows: it stays so when the certificate is renewed.
    pub fn shown(&self) -> Arc<Renewable> {
        Arc::clone(&self.shown)
    }

    /// As [`ClusterPki::ends_soon`].
    pub fn ends_soon(&self, now: SystemTime) -> bool {
        [&self.client, &self.serving].into_iter().any(|credential| super::ends_soon(credential, now))
    }
}

impl ClusterPki {
    /// Reads everything from a directory and makes what is missing there, with mode 0600.
    ///
    /// # Errors
    /// The files cannot be read, written or understood.
    pub fn load_or_create(directory: &Path, names: &ClusterNames) -> Result<ClusterPki, Error> {
        // The two authorities wait for the disk at the same time.
        let (ca, front_proxy_ca) = std::thread::scope(|scope| {
            let other = scope.spawn(|| Ca::load_or_create_named(directory, "front-proxy-ca", "front-proxy-ca"));
            let ca = Ca::load_or_create(directory);
            (ca, other.join().unwrap_or_else(|_| Err(Error::Key("making the front proxy's authority panicked".into()))))
        });
        let (ca, front_proxy_ca) = (ca?, front_proxy_ca?);
        let client = |file, user, groups: &[&str]| ca.client_cert(file, user, groups);
        let apiserver = ca.server_cert("apiserver", "kube-apiserver", &names.dns(), &names.addresses())?;
        let kubelet_client = client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"])?;
        Ok(ClusterPki {
            shown: Renewable::new(&apiserver)?,
            shown_to_kubelets: Renewable::new(&kubelet_client)?,
            apiserver,
            kubelet_client,
            front_proxy_client: front_proxy_ca.client_cert("front-proxy-client", "front-proxy-client", &[])?,
            admin: client("admin", "kubernetes-admin", &["system:masters"])?,
            scheduler: client("scheduler", "system:kube-scheduler", &[])?,
            controller_manager: client("controller-manager", "system:kube-controller-manager", &[])?,
            proxy: client("kube-proxy", "system:kube-proxy", &[])?,
            ca,
            front_proxy_ca,
            directory: directory.to_owned(),
        })
    }

    /// The directory: also where [`crate::Tokens::load_or_create`] keeps its key (`sa.key`).
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes anew what ends soon, and shows it in the place of the former: servers and clients that were made from this need
    /// not be told.
    ///
    /// # Errors
    /// As [`ClusterPki::load_or_create`]; nothing has changed then.
    pub fn renew(&mut self, names: &ClusterNames) -> Result<(), Error> {
        let (shown, shown_to_kubelets) = (Arc::clone(&self.shown), Arc::clone(&self.shown_to_kubelets));
        let new = ClusterPki::load_or_create(&self.directory, names)?;
        shown.replace(&new.apiserver)?;
        shown_to_kubelets.replace(&new.kubelet_client)?;
        *self = ClusterPki { shown, shown_to_kubelets, ..new };
        Ok(())
    }

    /// The same for a node's.
    ///
    /// # Errors
    /// As [`ClusterPki::load_or_create`].
    pub fn renew_node(&self, node: &mut NodePki, name: &str, ips: &[IpAddr]) -> Result<(), Error> {
        let new = self.node(name, ips)?;
        node.shown.replace(&new.serving)?;
        *node = NodePki { shown: Arc::clone(&node.shown), ..new };
        Ok(())
    }

    /// The certificates of a node of this cluster.
    ///
    /// # Errors
    /// As [`ClusterPki::load_or_create`].
    pub fn node(&self, name: &str, ips: &[IpAddr]) -> Result<NodePki, Error> {
        let client = self.ca.client_cert(&format!("node-{name}"), &format!("system:node:{name}"), &["system:nodes"])?;
        let serving = Subject {
            common_name: format!("system:node:{name}"),
            organizations: vec!["system:nodes".into()],
            names: vec![name.to_owned()],
            ips: ips.to_vec(),
            usage: Usage::Server,
        };
        let serving = self.ca.load_or_issue(&format!("kubelet-{name}"), &serving)?;
        Ok(NodePki { client, shown: Renewable::new(&serving)?, serving })
    }

    /// The TLS settings that the API server serves with: clients are asked for certificates of the cluster's authority or of the front
    /// proxy's, and may show any. Whether somebody vouches for one, and who, only [`crate::Authenticator`] finds out.
    ///
    /// # Errors
    /// The certificate is not usable.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        self.server_config_trusting(self.front_proxy_ca.cert_pem())
    }

    /// The same where the front proxy has other authorities, as PEM.
    ///
    /// # Errors
    /// A certificate is not usable.
    pub fn server_config_trusting(&self, front_proxy_ca_pem: &str) -> Result<Arc<ServerConfig>, Error> {
        let front: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(front_proxy_ca_pem.as_bytes()).filter_map(Result::ok).collect();
        let all: Vec<&CertificateDer<'_>> = std::iter::once(self.ca.cert()).chain(&front).collect();
        let verifier = super::verifier(&all)?;
        super::server_config_by(dial::requested(verifier), Arc::clone(&self.shown))
    }

    /// The TLS settings of somebody who answers in the place of a node's kubelet: clients are verified in the handshake.
    ///
    /// # Errors
    /// The certificate is not usable.
    pub fn kubelet_server_config(&self, node: &NodePki) -> Result<Arc<ServerConfig>, Error> {
        super::server_config_of(&[self.ca.cert()], Arc::clone(&node.shown))
    }

    /// What the API server shows and trusts.
    ///
    /// # Errors
    /// A certificate is not usable.
    pub fn trust(&self) -> Result<Trust, Error> {
        Ok(Trust {
            client_ca_pem: self.ca.cert_pem().to_owned(),
            front_proxy_ca_pem: self.front_proxy_ca.cert_pem().to_owned(),
            kubelets: Some(Arc::new(Kubelets::new(self.ca.cert(), Arc::clone(&self.shown_to_kubelets))?)),
            front_proxy_client: Some(self.front_proxy_client.clone()),
            request_headers: RequestHeaders::default(),
        })
    }

    /// The administrator's kubeconfig, with one context of this name.
    pub fn admin_kubeconfig(&self, context: &str, server: &str) -> String {
        kubeconfig(context, server, self.ca.cert_pem(), &format!("{context}-admin"), &self.admin)
    }

    /// A kubeconfig for one of the cluster's other parts.
    pub fn kubeconfig(&self, user: &str, server: &str, own: &Credential) -> String {
        kubeconfig("kubernetes", server, self.ca.cert_pem(), user, own)
    }

    /// Writes a kubeconfig with mode 0600.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_kubeconfig(path: &Path, text: &str) -> Result<(), Error> {
        files::write_secret(path, text.as_bytes(), files::Durability::Synced)
    }

    /// Whether one of the certificates ends so soon that loading again would renew it: a long-running server's reason to
    /// do that.
    pub fn ends_soon(&self, now: SystemTime) -> bool {
        let all = [&self.apiserver, &self.kubelet_client, &self.front_proxy_client, &self.admin, &self.scheduler, &self.controller_manager, &self.proxy];
        all.into_iter().any(|credential| super::ends_soon(credential, now))
    }
}
