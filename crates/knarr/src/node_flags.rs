//! Flags of a node, as kubelet names them: the same for a whole cluster and for a kubelet alone.

use crate::cli::label;
use clap::Args;
use kubelet::{Options, Settings};
use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Node, as kubelet has them")]
pub struct NodeFlags {
    /// Labels that the node is made with, `topology.kubernetes.io/zone=a`; of `up`, all nodes of this machine
    #[arg(long, value_delimiter = ',', value_parser = label)]
    pub node_labels: Vec<(String, String)>,
    /// Directory of static pods' files, or one such file; names that begin with a dot are not read
    #[arg(long)]
    pub pod_manifest_path: Option<PathBuf>,
    /// Below what pods are evicted: `memory.available<100Mi,nodefs.available<10%`
    #[arg(long)]
    pub eviction_hard: Vec<String>,
    /// Below what they are after a while
    #[arg(long)]
    pub eviction_soft: Vec<String>,
    /// After which: `memory.available=1m30s`
    #[arg(long)]
    pub eviction_soft_grace_period: Vec<String>,
    /// How much more is to be free then: `imagefs.available=2Gi`
    #[arg(long)]
    pub eviction_minimum_reclaim: Vec<String>,
    /// Longest grace period, in seconds, of a pod that is evicted after a while
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub eviction_max_pod_grace_period: i32,
    /// How long a shortage is told after it is over [default: 5m0s]
    #[arg(long)]
    pub eviction_pressure_transition_period: Option<String>,
    /// Let the kernel tell that memory runs short (cgroup v1)
    #[arg(long)]
    pub kernel_memcg_notification: bool,
    /// Use of the disk, in hundredths, at which unused images are removed; 100: never [default: 85]
    #[arg(long, allow_negative_numbers = true)]
    pub image_gc_high_threshold: Option<i32>,
    /// Use of the disk, in hundredths, down to which they are [default: 80]
    #[arg(long, allow_negative_numbers = true)]
    pub image_gc_low_threshold: Option<i32>,
    /// How long an image is kept at least [default: 2m0s]
    #[arg(long)]
    pub minimum_image_ttl_duration: Option<String>,
    /// How long a container's log grows before it is rotated [default: 10Mi]
    #[arg(long)]
    pub container_log_max_size: Option<String>,
    /// How many files of a log are kept [default: 5]
    #[arg(long, allow_negative_numbers = true)]
    pub container_log_max_files: Option<i32>,
    /// What is kept for the machine's own services: `cpu=200m,memory=500Mi,ephemeral-storage=1Gi,pid=1000`
    #[arg(long)]
    pub system_reserved: Vec<String>,
    /// What is kept for the cluster's
    #[arg(long)]
    pub kube_reserved: Vec<String>,
    /// CPUs that are kept for both, in the place of numbers: `0-1,4`
    #[arg(long)]
    pub reserved_cpus: Option<String>,
    /// What of that is a limit: none, pods, system-reserved, system-reserved-compressible, kube-reserved,
    /// kube-reserved-compressible [default: pods]
    #[arg(long, value_delimiter = ',')]
    pub enforce_node_allocatable: Vec<String>,
    /// The cgroup of the machine's own services
    #[arg(long)]
    pub system_reserved_cgroup: Option<String>,
    /// The cgroup of the cluster's
    #[arg(long)]
    pub kube_reserved_cgroup: Option<String>,
    /// How often the node's object is compared with what the node is [default: 10s]
    #[arg(long)]
    pub node_status_update_frequency: Option<String>,
    /// How long the node's lease stands, which is renewed four times as often [default: 40]
    #[arg(long, allow_negative_numbers = true)]
    pub node_lease_duration_seconds: Option<i32>,
    /// How long pods have to end when the machine goes down, which waits for them (systemd) [default: 0s, it does not]
    #[arg(long)]
    pub shutdown_grace_period: Option<String>,
    /// The part of it at the end that is kept for pods which the cluster cannot be without [default: 0s]
    #[arg(long)]
    pub shutdown_grace_period_critical_pods: Option<String>,
    /// In their place, seconds by the priority from which on they count: `0=20,100000=10,2000000000=5`
    #[arg(long, allow_hyphen_values = true)]
    pub shutdown_grace_period_by_pod_priority: Vec<String>,
    /// File, or directory of files, that names the programs which give logins for images (CredentialProviderConfig)
    #[arg(long)]
    pub image_credential_provider_config: Option<PathBuf>,
    /// Directory of those programs
    #[arg(long)]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
}

impl NodeFlags {
    /// The same for a further node of this machine. Files of static pods are the first one's.
    pub fn arguments(&self) -> Vec<OsString> {
        let many = [
            ("eviction-hard", &self.eviction_hard),
            ("eviction-soft", &self.eviction_soft),
            ("eviction-soft-grace-period", &self.eviction_soft_grace_period),
            ("eviction-minimum-reclaim", &self.eviction_minimum_reclaim),
            ("system-reserved", &self.system_reserved),
            ("kube-reserved", &self.kube_reserved),
            ("enforce-node-allocatable", &self.enforce_node_allocatable),
            ("shutdown-grace-period-by-pod-priority", &self.shutdown_grace_period_by_pod_priority),
        ];
        let one = [
            ("eviction-max-pod-grace-period", Some(self.eviction_max_pod_grace_period.to_string())),
            ("eviction-pressure-transition-period", self.eviction_pressure_transition_period.clone()),
            ("image-gc-high-threshold", self.image_gc_high_threshold.map(|n| n.to_string())),
            ("image-gc-low-threshold", self.image_gc_low_threshold.map(|n| n.to_string())),
            ("minimum-image-ttl-duration", self.minimum_image_ttl_duration.clone()),
            ("container-log-max-size", self.container_log_max_size.clone()),
            ("container-log-max-files", self.container_log_max_files.map(|n| n.to_string())),
            ("reserved-cpus", self.reserved_cpus.clone()),
            ("system-reserved-cgroup", self.system_reserved_cgroup.clone()),
            ("kube-reserved-cgroup", self.kube_reserved_cgroup.clone()),
            ("node-status-update-frequency", self.node_status_update_frequency.clone()),
            ("node-lease-duration-seconds", self.node_lease_duration_seconds.map(|n| n.to_string())),
            ("shutdown-grace-period", self.shutdown_grace_period.clone()),
            ("shutdown-grace-period-critical-pods", self.shutdown_grace_period_critical_pods.clone()),
        ];
        let many = many.into_iter().flat_map(|(name, values)| values.iter().map(move |value| format!("--{name}={value}")));
        let one = one.into_iter().filter_map(|(name, value)| value.map(|value| format!("--{name}={value}")));
        let told = self.kernel_memcg_notification.then(|| "--kernel-memcg-notification".to_owned());
        let paths = [
            ("image-credential-provider-config", &self.image_credential_provider_config),
            ("image-credential-provider-bin-dir", &self.image_credential_provider_bin_dir),
        ];
        let paths = paths.into_iter().filter_map(|(name, path)| {
            let mut flag = OsString::from(format!("--{name}="));
            flag.push(path.as_ref()?);
            Some(flag)
        });
        let labels = self.node_labels.iter().map(|(key, value)| format!("--node-labels={key}={value}"));
        many.chain(one).chain(told).chain(labels).map(OsString::from).chain(paths).collect()
    }

    /// The labels of a node, of which these are its own alone.
    pub fn labels(&self, own: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
        self.node_labels.iter().cloned().chain(own).collect()
    }

    /// What they say.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let own = self.clone();
        let options = Options {
            pod_manifest_path: own.pod_manifest_path,
            eviction_hard: own.eviction_hard,
            eviction_soft: own.eviction_soft,
            eviction_soft_grace_period: own.eviction_soft_grace_period,
            eviction_minimum_reclaim: own.eviction_minimum_reclaim,
            eviction_max_pod_grace_period: own.eviction_max_pod_grace_period,
            eviction_pressure_transition_period: own.eviction_pressure_transition_period,
            kernel_memcg_notification: own.kernel_memcg_notification,
            image_gc_high_threshold: own.image_gc_high_threshold,
            image_gc_low_threshold: own.image_gc_low_threshold,
            minimum_image_ttl_duration: own.minimum_image_ttl_duration,
            container_log_max_size: own.container_log_max_size,
            container_log_max_files: own.container_log_max_files,
            system_reserved: own.system_reserved,
            kube_reserved: own.kube_reserved,
            reserved_cpus: own.reserved_cpus,
            enforce_node_allocatable: own.enforce_node_allocatable,
            system_reserved_cgroup: own.system_reserved_cgroup,
            kube_reserved_cgroup: own.kube_reserved_cgroup,
            node_status_update_frequency: own.node_status_update_frequency,
            node_lease_duration_seconds: own.node_lease_duration_seconds,
            shutdown_grace_period: own.shutdown_grace_period,
            shutdown_grace_period_critical_pods: own.shutdown_grace_period_critical_pods,
            shutdown_grace_period_by_pod_priority: own.shutdown_grace_period_by_pod_priority,
            image_credential_provider_config: own.image_credential_provider_config,
            image_credential_provider_bin_dir: own.image_credential_provider_bin_dir,
        };
        options.check().map_err(|errors| anyhow::anyhow!("{}", errors.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn both_commands_take_them_and_what_is_wrong_is_told() {
        let flags = |args: &[&str]| match Cli::try_parse_from(args).unwrap().command {
            Command::Up(up) => up.node.settings(),
            Command::Kubelet(kubelet) => kubelet.node.settings(),
            _ => unreachable!(),
        };
        let path = "--pod-manifest-path=/etc/kubernetes/manifests";
        let up =
            flags(&["knarr", "up", path, "--eviction-hard=memory.available<5%", "--container-log-max-size=-1", "--enforce-node-allocatable=none"]).unwrap();
        assert!(up.static_pods.is_some() && up.eviction.thresholds.len() == 1 && up.logs.max_bytes.is_none() && !up.reserved.enforce_pods);
        assert!(flags(&["knarr", "kubelet", "--kubeconfig=x", path]).unwrap().static_pods.is_some());
        let periods = flags(&["knarr", "up", "--shutdown-grace-period=30s", "--shutdown-grace-period-critical-pods=10s"]).unwrap().shutdown;
        assert_eq!(periods.iter().map(|p| p.seconds).collect::<Vec<_>>(), [20, 10]);
        let own = [
            "--eviction-hard=memory.available<5%",
            "--system-reserved=cpu=1",
            "--container-log-max-files=3",
            "--kernel-memcg-notification",
            "--node-lease-duration-seconds=4",
            "--node-status-update-frequency=1s",
            "--node-labels=topology.kubernetes.io/zone=a,disk=",
            "--image-credential-provider-config=/etc/providers.yaml",
            "--image-credential-provider-bin-dir=/usr/lib/providers",
        ];
        let Command::Up(up) = Cli::try_parse_from(["knarr", "up", path].iter().chain(&own)).unwrap().command else { unreachable!() };
        let process = ["knarr", "node-process", "--name=c", "--data-dir=/d", "--number=2"].map(OsString::from);
        let Command::NodeProcess(worker) = Cli::try_parse_from(process.into_iter().chain(up.node.arguments())).unwrap().command else { unreachable!() };
        assert_eq!(worker.node, NodeFlags { pod_manifest_path: None, ..up.node }, "a further node is told the same, but has no static pods of its own");
        let zone = "topology.kubernetes.io/zone";
        let labels = worker.node.labels([(zone.to_owned(), "b".to_owned())]);
        assert_eq!([&labels[zone], &labels["disk"]], ["b", ""], "what was said of the one node counts");
        for not_a_nodes in ["node-role.kubernetes.io/worker=", "a=b/c", "a"] {
            assert!(Cli::try_parse_from(["knarr", "up", "--node-labels", not_a_nodes]).is_err(), "{not_a_nodes}");
        }
        let wrong = flags(&["knarr", "up", "--eviction-hard=disk<5%", "--container-log-max-files=-3"]).unwrap_err().to_string();
        assert_eq!(wrong, "invalid configuration: containerLogMaxFiles must be greater than 1\nunsupported eviction signal disk");
    }
}
