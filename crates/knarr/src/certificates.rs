//! The cluster's certificates while it runs: a look a day, and what ends soon is made anew.
//!
//! A start makes anew what has less than sixty days; a process that runs on looks every day and does the same. What is shown
//! by servers and clients of this process is swapped where it stands, so that no listener and no connection ends; the
//! administrator's kubeconfigs are written again.

use crate::{
    cluster::{Cluster, DOMAIN, Plan},
    host, kubeconfig,
};
use anyhow::Context as _;
use identity::pki::{ClusterNames, ClusterPki, NodePki};
use std::{
    convert::Infallible,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(24 * 60 * 60);
/// The administrator's kubeconfig in the data directory.
const ADMIN: &str = "kubeconfig/admin.conf";

/// A certificate as a PEM block (RFC 7468: lines of 64 characters).
pub fn pem(der: &[u8]) -> String {
    identity::pki::armoured("CERTIFICATE", der)
}

/// What the API server's certificate says: its own addresses, what was asked for, and where it listens on all addresses
/// the host's.
pub fn names(plan: &Plan, listen: &[IpAddr], asked: &[String]) -> anyhow::Result<ClusterNames> {
    let mut ips: Vec<IpAddr> = [plan.node_ip()].into_iter().chain(listen.iter().copied().filter(|ip| !ip.is_unspecified())).collect();
    let mut names = Vec::new();
    if listen.iter().any(IpAddr::is_unspecified) {
        ips.extend(host::addresses().context("this host's addresses")?);
        names.extend(Some(host::called()).filter(|called| can_be_said(called)));
    }
    for name in asked {
        match name.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => names.push(name.to_ascii_lowercase()),
        }
    }
    Ok(ClusterNames { domain: DOMAIN.into(), service_ip: plan.api_ip(), ips, names })
}

/// Whether a certificate may say what the host is called: it has no letters but ASCII's, and clients refuse one with a name that cannot be.
fn can_be_said(called: &str) -> bool {
    called.split('.').all(|label| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// Keeps the certificates of a running cluster.
pub struct Keeper {
    cluster: Cluster,
    plan: Plan,
    pki: ClusterPki,
    node: Option<(String, NodePki)>,
    names: ClusterNames,
    user: PathBuf,
}

impl Keeper {
    /// Of the cluster that was just started; `user` is the user's kubeconfig.
    pub fn new(cluster: &Cluster, plan: &Plan, user: &Path, pki: ClusterPki, node: Option<(String, NodePki)>, names: ClusterNames) -> Keeper {
        Keeper { cluster: cluster.clone(), plan: plan.clone(), pki, node, names, user: user.to_owned() }
    }

    /// The context's name.
    pub fn name(&self) -> &str {
        &self.cluster.name
    }

    /// What to do where the user's kubeconfig cannot be written.
    pub fn otherwise(&self) -> String {
        format!("The cluster's own is {}.", self.cluster.data.join(ADMIN).display())
    }

    /// Writes the administrator's kubeconfig beside the data, and its context into the user's.
    pub fn write_contexts(&mut self) -> anyhow::Result<()> {
        let text = self.pki.admin_kubeconfig(&self.cluster.name, &format!("https://127.0.0.1:{}", self.plan.port));
        let own = self.cluster.data.join(ADMIN);
        ClusterPki::write_kubeconfig(&own, &text).with_context(|| own.display().to_string())?;
        // First remembered, then written: a context that a crash leaves is known to be ours.
        kubeconfig::remember(&mut self.plan.contexts, &self.user, &text)?;
        self.cluster.keep(&self.plan)?;
        kubeconfig::merge(&self.user, &text, &self.plan.contexts)
    }

    /// Looks every day.
    pub async fn keep(&mut self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.look(SystemTime::now()) {
                tracing::error!("certificates that end soon cannot be made anew: {error:#}");
            }
        }
    }

    fn look(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let node_ends = self.node.as_ref().is_some_and(|(_, own)| own.ends_soon(now));
        if !self.pki.ends_soon(now) && !node_ends {
            return Ok(());
        }
        self.pki.renew(&self.names)?;
        if let Some((name, own)) = &mut self.node {
            self.pki.renew_node(own, name, &self.plan.node_ips())?;
        }
        tracing::warn!("certificates that would have ended soon were made anew");
        self.write_contexts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::pki::{Credential, Subject, Usage};

    fn plan(data: &std::path::Path) -> Plan {
        let plan = r#"{"name": "certs", "data": "/", "pods": "10.244.0.0", "services": "10.96.0.0", "port": 6443}"#;
        Plan { data: data.to_owned(), ..serde_json::from_str(plan).unwrap() }
    }

    #[test]
    fn what_was_asked_for_is_in_the_certificate_and_the_hosts_addresses_where_it_listens_on_all() {
        let directory = std::env::temp_dir().join(format!("knarr-san-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&directory);
        let (plan, any) = (plan(&directory), IpAddr::from([0, 0, 0, 0]));
        let asked = ["Api.Example.COM".to_owned(), "203.0.113.9".to_owned()];
        let some = names(&plan, &[[192, 0, 2, 1].into()], &asked).unwrap();
        assert_eq!(some.names, ["api.example.com"]);
        assert_eq!(some.ips, [IpAddr::from([10, 244, 0, 1]), [192, 0, 2, 1].into(), [203, 0, 113, 9].into()]);
        let all = names(&plan, &[any], &[]).unwrap();
        assert!(all.names == [host::called()] && !all.ips.contains(&any) && !all.ips.iter().any(IpAddr::is_loopback), "{all:?}");
        let has = |pki: &ClusterPki, text: &[u8]| pki.apiserver.cert().unwrap().windows(text.len()).any(|w| w == text);
        let pki = ClusterPki::load_or_create(&directory, &some).unwrap();
        assert!(has(&pki, b"api.example.com") && has(&pki, &[203, 0, 113, 9]));
        // Another start that is asked for another name says that one, and not the former.
        let other = ClusterPki::load_or_create(&directory, &names(&plan, &[], &["b.example".to_owned()]).unwrap()).unwrap();
        assert!(has(&other, b"b.example") && !has(&other, b"api.example.com"));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_host_may_be_called_what_no_certificate_says() {
        assert!(["laptop", "my_laptop", "a.example.com"].into_iter().all(can_be_said));
        assert!(!["", "büro", "b\u{fffd}ro", "my laptop", "laptop.", "a..b"].into_iter().any(can_be_said));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_runs_on_makes_anew_what_ends_soon_and_writes_the_kubeconfigs() {
        let folder = std::env::temp_dir().join(format!("knarr-renewal-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&folder);
        let cluster = Cluster { name: "certs".into(), data: folder.join("data"), run: folder.join("run") };
        std::fs::create_dir_all(&cluster.data).unwrap();
        std::fs::create_dir_all(&cluster.run).unwrap();
        let (plan, user) = (plan(&cluster.data), folder.join("config"));
        let names = names(&plan, &[], &[]).unwrap();
        let pki = ClusterPki::load_or_create(&cluster.data.join("pki"), &names).unwrap();
        let mut keeper = Keeper { cluster, plan, node: None, names, user: user.clone(), pki };
        keeper.write_contexts().unwrap();
        let shown = |keeper: &Keeper| (std::fs::read_to_string(&user).unwrap(), keeper.pki.admin.cert_pem.clone());
        let first = shown(&keeper);
        let days = async |keeper: &mut Keeper, days: u32| tokio::time::timeout(LOOK * days + LOOK / 2, keeper.keep()).await.unwrap_err();
        days(&mut keeper, 3).await;
        assert_eq!(shown(&keeper), first, "what has time left stays");
        // As it is eleven months later: fifty days are left.
        let subject =
            Subject { common_name: "kubernetes-admin".into(), organizations: vec!["system:masters".into()], names: vec![], ips: vec![], usage: Usage::Client };
        let old: Credential = keeper.pki.ca.issue(&subject, SystemTime::now() - Duration::from_secs(315 * 24 * 3600)).unwrap();
        std::fs::write(keeper.pki.directory().join("admin.crt"), &old.cert_pem).unwrap();
        std::fs::write(keeper.pki.directory().join("admin.key"), &old.key_pem).unwrap();
        keeper.pki.admin = old.clone();
        days(&mut keeper, 1).await;
        let (config, admin) = shown(&keeper);
        assert!(admin != old.cert_pem && admin != first.1 && config != first.0, "it was made anew and written");
        assert!(!keeper.pki.ends_soon(SystemTime::now()));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
