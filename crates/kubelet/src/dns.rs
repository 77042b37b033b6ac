//! `/etc/resolv.conf`, `/etc/hosts` and the host name of a pod.

use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::config::Config;
use crate::util;

/// Longest host name the kernel takes (`HOST_NAME_MAX`).
const MAX_HOSTNAME: usize = 63;
/// Name servers a resolver reads; more are left out, as upstream does.
const MAX_NAMESERVERS: usize = 3;
/// Search domains upstream keeps.
const MAX_SEARCHES: usize = 32;
/// Bytes of the search line upstream keeps.
const MAX_SEARCH_BYTES: usize = 2048;
/// Bytes of a search domain; some resolvers abort at a longer one.
const MAX_DOMAIN_BYTES: usize = 253;
/// Where systemd-resolved names the servers that it asks itself.
pub const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// Heads the hosts file, in upstream's words since tests look for it.
const HOSTS_HEAD: &str = "# Kubernetes-managed hosts file.\n";
const HOSTS_HEAD_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";

/// What a resolver file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options as written.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a resolver file; lines that are not understood are left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let line = line.trim();
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
                Some("search") => out.searches = words.filter(|w| *w != ".").map(|w| w.trim_end_matches('.').to_owned()).collect(),
                Some("options") => out.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        out
    }

    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            out += &format!("search {}\n", self.searches.join(" "));
        }
        for s in &self.servers {
            out += &format!("nameserver {s}\n");
        }
        if !self.options.is_empty() {
            out += &format!("options {}\n", self.options.join(" "));
        }
        out
    }

    /// What a resolver file says now; nothing if it cannot be read.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        std::fs::read_to_string(file).map(|t| Self::parse(&t)).unwrap_or_default()
    }

    /// Whether there is a server that is reached from elsewhere than the host itself.
    fn reachable(&self) -> bool {
        self.servers.iter().any(|s| s.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback()))
    }

    /// Leaves out what is too much, and says so.
    fn bound(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.servers.len() > MAX_NAMESERVERS {
            self.servers.truncate(MAX_NAMESERVERS);
            let rest = self.servers.join(" ");
            warnings.push(format!("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {rest}"));
        }
        let before = self.searches.len();
        self.searches.truncate(MAX_SEARCHES);
        self.searches.retain(|s| s.len() <= MAX_DOMAIN_BYTES);
        while self.searches.iter().map(|s| s.len() + 1).sum::<usize>() > MAX_SEARCH_BYTES + 1 {
            self.searches.pop();
        }
        if self.searches.len() < before {
            let rest = self.searches.join(" ");
            warnings.push(format!("Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {rest}"));
        }
        warnings
    }
}

fn push_new(to: &mut Vec<String>, items: impl IntoIterator<Item = String>) {
    for i in items {
        if !to.contains(&i) {
            to.push(i);
        }
    }
}

/// The resolver of a pod, from the host's file as it is now. A loopback server is the pod's own loopback in the pod: where the
/// host has no other, the servers that systemd-resolved asks stand in (kubeadm configures its kubelets so), else the cluster's,
/// with a warning. There are warnings of what had to be left out, too.
#[must_use]
pub fn for_pod(pod: &Pod, config: &Config, resolved: &Path) -> (Resolver, Vec<String>) {
    let mut host = Resolver::read(&config.resolv_conf);
    if util::host_network(pod) || host.servers.is_empty() || host.reachable() {
        host.servers.retain(|s| util::host_network(pod) || !s.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()));
        return resolver(pod, config, &host);
    }
    let asked = Resolver::read(resolved);
    if asked.reachable() {
        return resolver(pod, config, &asked);
    }
    host.servers = config.cluster_dns.iter().map(IpAddr::to_string).collect();
    let of_host = pod.spec.as_ref().is_some_and(|s| s.dns_policy.as_deref() == Some("Default"));
    let (made, mut warnings) = resolver(pod, config, &host);
    if of_host {
        let file = config.resolv_conf.display();
        warnings.push(format!("{file} of the node names no server but loopback addresses, which a pod cannot reach: the cluster's DNS is used"));
    }
    (made, warnings)
}

/// The resolver of a pod by its `dnsPolicy` and `dnsConfig`, and what had to be left out; `host` is the node's own.
#[must_use]
pub fn resolver(pod: &Pod, config: &Config, host: &Resolver) -> (Resolver, Vec<String>) {
    let Some(spec) = &pod.spec else { return (host.clone(), Vec::new()) };
    let cluster = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => None,
        "Default" => Some(false),
        "ClusterFirstWithHostNet" => Some(true),
        _ => Some(!util::host_network(pod)),
    };
    let mut out = match cluster {
        None => Resolver::default(),
        Some(true) if !config.cluster_dns.is_empty() => {
            let (ns, domain) = (util::namespace(pod), &config.cluster_domain);
            let mut searches = vec![format!("{ns}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            push_new(&mut searches, host.searches.iter().cloned());
            Resolver { servers: config.cluster_dns.iter().map(IpAddr::to_string).collect(), searches, options: vec!["ndots:5".into()] }
        }
        Some(_) => host.clone(),
    };
    if let Some(extra) = &spec.dns_config {
        push_new(&mut out.servers, extra.nameservers.iter().flatten().cloned());
        push_new(&mut out.searches, extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else { continue };
            out.options.retain(|o| o.split(':').next() != Some(name));
            out.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(v) => format!("{name}:{v}"),
                None => name.to_owned(),
            });
        }
    }
    let warnings = out.bound();
    (out, warnings)
}

/// Host name and, with a subdomain, the domain of a pod.
#[must_use]
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let Some(spec) = &pod.spec else { return (String::new(), String::new()) };
    // The kernel takes no longer one, whoever has chosen it; a whole one stands as it is.
    let short = |host: &str| match util::truncate(host, MAX_HOSTNAME) {
        cut if cut.len() < host.len() => cut.trim_end_matches(['-', '.']).to_owned(),
        whole => whole.to_owned(),
    };
    if let Some(over) = spec.hostname_override.as_deref().filter(|h| !h.is_empty()) {
        return (short(over), String::new());
    }
    let host = short(spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or_else(|| util::name(pod)));
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(sub) => format!("{sub}.{}.svc.{cluster_domain}", util::namespace(pod)),
        None => String::new(),
    };
    (host, domain)
}

/// The name the kernel gets: the FQDN with `setHostnameAsFQDN`. An FQDN that is too long is an error, as upstream.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (host, domain) = hostname_and_domain(pod, cluster_domain);
    let as_fqdn = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false);
    if as_fqdn && !domain.is_empty() {
        let fqdn = format!("{host}.{domain}");
        if fqdn.len() > 64 {
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long (64 characters is the max, {} characters requested)",
                fqdn.len()
            ));
        }
        return Ok(fqdn);
    }
    Ok(host)
}

/// The node's own hosts file, by the machine's: a further node of a machine is called otherwise than that, and pods with its network look up
/// what their host is called.
#[must_use]
pub fn node_hosts(mut machine: String, config: &Config) -> String {
    let name = &config.node_name;
    let words = |line: &str| line.split('#').next().unwrap_or_default().split_whitespace().skip(1).any(|word| word == name);
    if config.apart.is_some() && !machine.lines().any(words) {
        if !machine.is_empty() && !machine.ends_with('\n') {
            machine.push('\n');
        }
        machine.extend(config.node_ips.iter().map(|ip| format!("{ip}\t{name}\n")));
    }
    machine
}

/// The hosts file of a pod. `host_file` is the node's own, used with the host's network.
#[must_use]
pub fn hosts_file(pod: &Pod, ips: &[IpAddr], cluster_domain: &str, host_file: Option<&str>) -> String {
    let mut out = String::new();
    match host_file {
        Some(text) => {
            out += HOSTS_HEAD_HOST_NETWORK;
            out += text;
        }
        None => {
            out += HOSTS_HEAD;
            out += "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
            let (host, domain) = hostname_and_domain(pod, cluster_domain);
            for ip in ips {
                if domain.is_empty() {
                    out += &format!("{ip}\t{host}\n");
                } else {
                    out += &format!("{ip}\t{host}.{domain}\t{host}\n");
                }
            }
        }
    }
    let aliases: &[HostAlias] = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        out += "\n# Entries added by HostAliases.\n";
        for a in aliases {
            out += &format!("{}\t{}\n", a.ip, a.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec})).unwrap()
    }

    fn config() -> Config {
        let mut c = Config::new("n", "10.0.0.1".parse().unwrap(), "/nowhere");
        c.cluster_dns = vec!["10.96.0.10".parse().unwrap()];
        c
    }

    #[test]
    fn cluster_first_searches_the_namespace_first() {
        let host = Resolver::parse("nameserver 1.1.1.1\nsearch example.org.\n");
        let (r, warnings) = resolver(&pod(json!({"containers": []})), &config(), &host);
        assert!(warnings.is_empty());
        assert_eq!(r.text(), "search shop.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\noptions ndots:5\n");
    }

    #[test]
    fn loopback_servers_of_the_host_are_not_a_pods() {
        let dir = crate::testing::TempDir::new("resolv");
        let (file, resolved) = (dir.path().join("resolv.conf"), dir.path().join("resolved.conf"));
        std::fs::write(&file, "nameserver 127.0.0.53\nsearch example.org\n").unwrap();
        let config = Config { resolv_conf: file, ..config() };
        let default = pod(json!({"containers": [], "dnsPolicy": "Default"}));
        let (r, warnings) = for_pod(&default, &config, &resolved);
        assert_eq!((r.servers, r.searches), (vec!["10.96.0.10".to_owned()], vec!["example.org".to_owned()]));
        assert!(warnings[0].contains("names no server but loopback addresses"));
        std::fs::write(&resolved, "nameserver 9.9.9.9\n").unwrap();
        let (r, warnings) = for_pod(&default, &config, &resolved);
        assert_eq!((r.servers, warnings), (vec!["9.9.9.9".to_owned()], vec![]));
        let on_host = pod(json!({"containers": [], "dnsPolicy": "Default", "hostNetwork": true}));
        assert_eq!(for_pod(&on_host, &config, &resolved).0.servers, ["127.0.0.53"], "on the host's network it is the host's loopback");
    }

    #[test]
    fn host_network_pods_use_the_hosts_resolver_unless_asked() {
        let host = Resolver::parse("nameserver 1.1.1.1");
        let p = pod(json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirst"}));
        assert_eq!(resolver(&p, &config(), &host).0, host);
        let p = pod(json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}));
        assert_eq!(resolver(&p, &config(), &host).0.servers, ["10.96.0.10"]);
    }

    #[test]
    fn dns_config_adds_and_overrides() {
        let p = pod(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.1.1.1", "1.1.1.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}));
        assert_eq!(resolver(&p, &config(), &Resolver::default()).0.text(), "search a.b\nnameserver 1.1.1.1\noptions ndots:2 edns0\n");
        let p = pod(json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}));
        assert_eq!(resolver(&p, &config(), &Resolver::default()).0.options, ["ndots:2"]);
    }

    #[test]
    fn what_is_left_out_is_told() {
        let long = "x".repeat(254);
        let p = pod(json!({"containers": [], "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"], "searches": [".", long, "c.d."]}}));
        let (r, warnings) = resolver(&p, &config(), &Resolver::default());
        assert_eq!(r.text(), "search . c.d.\nnameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\n");
        let omitted = |what: &str, rest: &str| format!("{what}s have been omitted, the applied {rest}");
        let servers = omitted("Nameserver limits were exceeded, some nameserver", "nameserver line is: 1.1.1.1 2.2.2.2 3.3.3.3");
        assert_eq!(warnings, [servers, omitted("Search Line limits were exceeded, some search path", "search line is: . c.d.")]);
    }

    #[test]
    fn a_further_node_of_a_machine_is_in_its_hosts_file() {
        let of = |apart: Option<&str>, text: &str| {
            let node_ips = ["10.244.1.1", "fd00:1::1"].map(|ip| ip.parse().unwrap()).to_vec();
            node_hosts(text.to_owned(), &Config { node_name: "m-2".into(), node_ips, apart: apart.map(str::to_owned), ..config() })
        };
        let machine = "127.0.0.1 localhost\n127.0.1.1 m # m-2";
        assert_eq!(of(None, machine), machine);
        assert_eq!(of(Some("c/node-2"), machine), format!("{machine}\n10.244.1.1\tm-2\nfd00:1::1\tm-2\n"));
        let named = "10.9.9.9 m-2\n";
        assert_eq!(of(Some("c/node-2"), named), named, "the administrator's word");
    }

    #[test]
    fn names_that_are_too_long_for_the_kernel_are_cut_also_those_that_override() {
        let long = format!("{}.{}", "a".repeat(62), "b");
        for name in ["hostname", "hostnameOverride"] {
            let p = pod(json!({"containers": [], name: long, "subdomain": "sub"}));
            assert_eq!(hostname_and_domain(&p, "cluster.local").0, "a".repeat(62), "{name}");
        }
        let p = pod(json!({"containers": [], "hostnameOverride": "b.example", "subdomain": "sub"}));
        assert_eq!(hostname_and_domain(&p, "cluster.local"), ("b.example".to_owned(), String::new()));
    }

    #[test]
    fn names_of_pods_with_a_subdomain() {
        let p = pod(json!({"containers": [], "hostname": "h", "subdomain": "sub", "setHostnameAsFQDN": true}));
        assert_eq!(kernel_hostname(&p, "cluster.local").unwrap(), "h.sub.shop.svc.cluster.local");
        let hosts = hosts_file(&p, &["10.1.1.1".parse().unwrap()], "cluster.local", None);
        assert!(hosts.starts_with("# Kubernetes-managed hosts file.\n"));
        assert!(hosts.contains("10.1.1.1\th.sub.shop.svc.cluster.local\th\n"));
    }
}
