//! What a node's flags say, under the original's names: as they are written ([`Options`]), and checked ([`Settings`]), with its words for
//! what is wrong.

mod shutdown;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use machinery::quantity::{Format, ParseError, Quantity};
pub use machinery::time::parse_go_duration as duration;

use crate::evict::signals::{self, Threshold};
use crate::flags::{Pairs, pairs};
use crate::images::providers::config::{self, Provider};

/// Flags as they are written; what is not given has the original's default.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--pod-manifest-path`.
    pub pod_manifest_path: Option<PathBuf>,
    /// `--eviction-hard`, each time that it was given.
    pub eviction_hard: Vec<String>,
    /// `--eviction-soft`.
    pub eviction_soft: Vec<String>,
    /// `--eviction-soft-grace-period`.
    pub eviction_soft_grace_period: Vec<String>,
    /// `--eviction-minimum-reclaim`.
    pub eviction_minimum_reclaim: Vec<String>,
    /// `--eviction-max-pod-grace-period`, in seconds.
    pub eviction_max_pod_grace_period: i32,
    /// `--eviction-pressure-transition-period`.
    pub eviction_pressure_transition_period: Option<String>,
    /// `--kernel-memcg-notification`.
    pub kernel_memcg_notification: bool,
    /// `--image-gc-high-threshold`, in hundredths.
    pub image_gc_high_threshold: Option<i32>,
    /// `--image-gc-low-threshold`, in hundredths.
    pub image_gc_low_threshold: Option<i32>,
    /// `--minimum-image-ttl-duration`.
    pub minimum_image_ttl_duration: Option<String>,
    /// `--container-log-max-size`.
    pub container_log_max_size: Option<String>,
    /// `--container-log-max-files`.
    pub container_log_max_files: Option<i32>,
    /// `--system-reserved`.
    pub system_reserved: Vec<String>,
    /// `--kube-reserved`.
    pub kube_reserved: Vec<String>,
    /// `--reserved-cpus`.
    pub reserved_cpus: Option<String>,
    /// `--enforce-node-allocatable`.
    pub enforce_node_allocatable: Vec<String>,
    /// `--system-reserved-cgroup`.
    pub system_reserved_cgroup: Option<String>,
    /// `--kube-reserved-cgroup`.
    pub kube_reserved_cgroup: Option<String>,
    /// `--node-status-update-frequency`.
    pub node_status_update_frequency: Option<String>,
    /// `nodeLeaseDurationSeconds` of the original's file, which has no flag for it.
    pub node_lease_duration_seconds: Option<i32>,
    /// `shutdownGracePeriod` of the original's file, which has no flags for these.
    pub shutdown_grace_period: Option<String>,
    /// `shutdownGracePeriodCriticalPods`.
    pub shutdown_grace_period_critical_pods: Option<String>,
    /// `shutdownGracePeriodByPodPriority`: seconds by priority.
    pub shutdown_grace_period_by_pod_priority: Vec<String>,
    /// `--image-credential-provider-config`.
    pub image_credential_provider_config: Option<PathBuf>,
    /// `--image-credential-provider-bin-dir`.
    pub image_credential_provider_bin_dir: Option<PathBuf>,
}

/// Checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The files of static pods.
    pub static_pods: Option<PathBuf>,
    /// When pods make room.
    pub eviction: Eviction,
    /// When images do.
    pub images: ImagePolicy,
    /// How long logs grow.
    pub logs: LogLimits,
    /// What of the node is not the pods'.
    pub reserved: Reserved,
    /// How the node tells that it lives.
    pub heartbeat: Heartbeat,
    /// How long pods have when the machine goes down, by their priority, lowest first; none: it is not waited.
    pub shutdown: Vec<ShutdownPeriod>,
    /// The programs that give logins for images.
    pub providers: Vec<Provider>,
}

/// How a node tells that it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Between two comparisons of the object with what the node is.
    pub look: Duration,
    /// How long its lease stands, in seconds.
    pub lease_s: i32,
}

impl Heartbeat {
    /// Between two renewals of the lease (upstream's `nodeLeaseRenewIntervalFraction`).
    #[must_use]
    pub fn renew(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.lease_s).unwrap_or(0)) / 4
    }
}

/// How long pods of a priority and above have, up to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownPeriod {
    /// Where it begins.
    pub priority: i32,
    /// Seconds.
    pub seconds: i64,
}

impl ShutdownPeriod {
    /// The time.
    #[must_use]
    pub fn period(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.seconds).unwrap_or(0))
    }
}

/// When pods make room for the node.
#[derive(Clone, Debug)]
pub struct Eviction {
    /// Below what.
    pub thresholds: Vec<Threshold>,
    /// Nobody said any: the images' own count only on a file system of their own.
    pub by_default: bool,
    /// The longest grace period of a pod that goes for a soft threshold, in seconds.
    pub max_pod_grace_s: i64,
    /// How long a shortage is told after it is over.
    pub transition: Duration,
    /// Whether the kernel is to tell that memory runs short.
    pub by_kernel: bool,
}

/// When images make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImagePolicy {
    /// Share of the disk in use from which on they do, in hundredths.
    pub high_percent: u64,
    /// Share down to which.
    pub low_percent: u64,
    /// How long an image is known before it may.
    pub min_age: Duration,
}

/// How long logs grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes at which a log is rotated; none: it is not.
    pub max_bytes: Option<u64>,
    /// Files kept of a container, the current one included.
    pub max_files: usize,
}

/// Amounts of resources: thousandths of CPU, else whole units.
pub type Amounts = BTreeMap<String, i64>;

/// What of the node is not the pods'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// The machine's own services'.
    pub system: Amounts,
    /// The cluster's.
    pub kube: Amounts,
    /// Whether pods have the rest as a limit together.
    pub enforce_pods: bool,
    /// Cgroups that get what is reserved for them as a limit: what for, where, and whether CPU alone.
    pub cgroups: Vec<(Owner, String, bool)>,
}

/// Whose a reservation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The machine's services'.
    System,
    /// The cluster's.
    Kube,
}

impl Default for Settings {
    fn default() -> Self {
        Options::default().check().unwrap_or_else(|_| unreachable!("the defaults are what is checked first"))
    }
}

fn period(text: Option<&str>, usual: Duration) -> Result<i64, String> {
    text.map_or_else(|| Ok(i64::try_from(usual.as_nanos()).unwrap_or(i64::MAX)), duration)
}

fn positive(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// What is reserved by one flag (upstream's `parseResourceList`).
fn amounts(pairs: &Pairs) -> Result<Amounts, String> {
    let mut out = Amounts::new();
    for (name, text) in pairs {
        if !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pid") {
            return Err(format!("cannot reserve {name:?} resource"));
        }
        let q: Quantity = text.parse().map_err(|e: ParseError| format!("failed to parse quantity {text:?} for {name:?} resource: {e}"))?;
        if q < Quantity::ZERO {
            return Err(format!("resource quantity for {name:?} cannot be negative: {text}"));
        }
        out.insert(name.clone(), if name == "cpu" { q.milli_value() } else { q.value() });
    }
    Ok(out)
}

/// How many CPUs a list like `0-3,7` names.
fn cpus(list: &str) -> Result<usize, String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| format!("strconv.Atoi: parsing {text:?}: invalid syntax"));
    let mut all = BTreeSet::new();
    for range in list.split(',') {
        match range.split_once('-') {
            None => drop(all.insert(number(range)?)),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last || last > 0xffff {
                    return Err(format!("invalid range {range:?} ({first} > {last})"));
                }
                all.extend(first..=last);
            }
        }
    }
    Ok(all.len())
}

/// A cgroup that is named; an empty name is none.
fn named(cgroup: &Option<String>) -> Option<&String> {
    cgroup.as_ref().filter(|name| !name.is_empty())
}

impl Options {
    /// Checks all of it, also the file that it names and the programs which that names.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(&self) -> Result<Settings, Vec<String>> {
        let mut errors = Vec::new();
        let images = self.images(&mut errors);
        let logs = self.logs(&mut errors);
        let reserved = self.reserved(&mut errors);
        let eviction = self.eviction(&mut errors, reserved.enforce_pods);
        let (heartbeat, shutdown) = (self.heartbeat(&mut errors), shutdown::periods(self, &mut errors));
        let providers = self.providers(&mut errors);
        match eviction {
            Some(eviction) if errors.is_empty() => {
                Ok(Settings { static_pods: self.pod_manifest_path.clone(), eviction, images, logs, reserved, heartbeat, shutdown, providers })
            }
            _ => Err(errors),
        }
    }

    fn eviction(&self, errors: &mut Vec<String>, enforced: bool) -> Option<Eviction> {
        let usual = signals::DEFAULT_HARD.map(str::to_owned);
        let by_default = self.eviction_hard.is_empty();
        // Who names the images' disk means it, also where it is the node's.
        let named = self.eviction_soft.iter().any(|threshold| threshold.contains("imagefs."));
        let thresholds = || {
            let hard = pairs(if by_default { &usual } else { &self.eviction_hard }, '<')?;
            let (soft, grace) = (pairs(&self.eviction_soft, '<')?, pairs(&self.eviction_soft_grace_period, '=')?);
            signals::parse(&hard, &soft, &grace, &pairs(&self.eviction_minimum_reclaim, '=')?, enforced)
        };
        let (thresholds, transition) = (thresholds(), period(self.eviction_pressure_transition_period.as_deref(), Duration::from_secs(300)));
        match (thresholds, transition) {
            (Ok(thresholds), Ok(transition)) => {
                let (max_pod_grace_s, by_kernel) = (self.eviction_max_pod_grace_period.into(), self.kernel_memcg_notification);
                Some(Eviction { thresholds, by_default: by_default && !named, max_pod_grace_s, transition: positive(transition), by_kernel })
            }
            (thresholds, transition) => {
                errors.extend(thresholds.err().into_iter().chain(transition.err()));
                None
            }
        }
    }

    fn providers(&self, errors: &mut Vec<String>) -> Vec<Provider> {
        let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let (config, programs) = (given(&self.image_credential_provider_config), given(&self.image_credential_provider_bin_dir));
        // One without the other is refused for what it lacks.
        if config.is_none() && programs.is_none() {
            return Vec::new();
        }
        config::read(&config.unwrap_or_default(), &programs.unwrap_or_default()).unwrap_or_else(|why| {
            errors.push(why);
            Vec::new()
        })
    }

    fn heartbeat(&self, errors: &mut Vec<String>) -> Heartbeat {
        let look = period(self.node_status_update_frequency.as_deref(), Duration::from_secs(10)).unwrap_or_else(|e| {
            errors.push(e);
            1
        });
        // The original would look without a pause.
        if look <= 0 {
            errors.push("invalid configuration: nodeStatusUpdateFrequency (--node-status-update-frequency) must be greater than 0".into());
        }
        let lease_s = self.node_lease_duration_seconds.unwrap_or(40);
        if lease_s <= 0 {
            errors.push("invalid configuration: nodeLeaseDurationSeconds must be greater than 0".into());
        }
        Heartbeat { look: positive(look), lease_s }
    }

    fn images(&self, errors: &mut Vec<String>) -> ImagePolicy {
        let (high, low) = (self.image_gc_high_threshold.unwrap_or(85), self.image_gc_low_threshold.unwrap_or(80));
        for (field, flag, value) in
            [("imageGCHighThresholdPercent", "--image-gc-high-threshold", high), ("imageGCLowThresholdPercent", "--image-gc-low-threshold", low)]
        {
            if !(0..=100).contains(&value) {
                errors.push(format!("invalid configuration: {field} ({flag}) {value} must be between 0 and 100, inclusive"));
            }
        }
        if low >= high {
            errors.push(format!(
                "invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
            ));
        }
        let min_age = period(self.minimum_image_ttl_duration.as_deref(), Duration::from_secs(120)).unwrap_or_else(|e| {
            errors.push(e);
            0
        });
        if min_age < 0 {
            let text = self.minimum_image_ttl_duration.as_deref().unwrap_or_default();
            errors.push(format!("invalid configuration: imageMinimumGCAge {text} must not be negative"));
        }
        let percent = |value: i32| u64::try_from(value).unwrap_or(0);
        ImagePolicy { high_percent: percent(high), low_percent: percent(low), min_age: positive(min_age) }
    }

    fn logs(&self, errors: &mut Vec<String>) -> LogLimits {
        let files = self.container_log_max_files.unwrap_or(5);
        if files <= 1 {
            errors.push("invalid configuration: containerLogMaxFiles must be greater than 1".into());
        }
        let size = self.container_log_max_size.as_deref().unwrap_or("10Mi");
        let bytes = size.parse::<Quantity>().map(Quantity::value).unwrap_or_else(|e| {
            errors.push(format!("failed to parse container log max size {size:?}: {e}"));
            0
        });
        // A negative one says that nothing is rotated.
        LogLimits { max_bytes: u64::try_from(bytes).ok(), max_files: usize::try_from(files).unwrap_or(0) }
    }

    fn reserved(&self, errors: &mut Vec<String>) -> Reserved {
        let mut of = |texts: &[String], flag: &str| {
            pairs(texts, '=').and_then(|p| amounts(&p)).unwrap_or_else(|e| {
                errors.push(format!("{flag} value failed to parse: {e}"));
                Amounts::new()
            })
        };
        let (mut system, mut kube) = (of(&self.system_reserved, "--system-reserved"), of(&self.kube_reserved, "--kube-reserved"));
        if let Some(list) = self.reserved_cpus.as_deref().filter(|l| !l.is_empty()) {
            if named(&self.system_reserved_cgroup).is_some() || named(&self.kube_reserved_cgroup).is_some() {
                errors.push("invalid configuration: can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)".into());
            }
            match cpus(list) {
                // They stand in the place of both numbers of CPUs.
                Ok(number) => {
                    kube.remove("cpu");
                    system.insert("cpu".into(), i64::try_from(number).unwrap_or(0) * 1000);
                }
                Err(e) => errors.push(format!("invalid configuration: unable to parse reservedSystemCPUs (--reserved-cpus) {list}, error: {e}")),
            }
        }
        let mut out = Reserved { system, kube, ..Reserved::default() };
        self.enforce(&mut out, errors);
        out
    }

    /// Which of it is enforced (upstream's checks of `enforceNodeAllocatable`).
    fn enforce(&self, out: &mut Reserved, errors: &mut Vec<String>) {
        let flag = "enforceNodeAllocatable (--enforce-node-allocatable)";
        let usual = ["pods".to_owned()];
        let asked: &[String] = if self.enforce_node_allocatable.is_empty() { &usual } else { &self.enforce_node_allocatable };
        for owner in ["system-reserved", "kube-reserved"] {
            let both = format!("{owner}-compressible");
            if asked.iter().any(|a| a == owner) && asked.contains(&both) {
                errors.push(format!("invalid configuration: both {owner:?} and {both:?} cannot be specified together in {flag}"));
            }
        }
        let mut seen = BTreeSet::new();
        for one in asked.iter().filter(|o| !o.is_empty()) {
            if !seen.insert(one) {
                errors.push(format!("invalid configuration: duplicated enforcements {one:?} in {flag}"));
                continue;
            }
            match one.as_str() {
                "pods" => out.enforce_pods = true,
                "system-reserved" | "system-reserved-compressible" | "kube-reserved" | "kube-reserved-compressible" => {
                    let system = (Owner::System, "system", &self.system_reserved_cgroup);
                    let (owner, name, cgroup) = if one.starts_with("system") { system } else { (Owner::Kube, "kube", &self.kube_reserved_cgroup) };
                    match named(cgroup) {
                        Some(cgroup) => out.cgroups.push((owner, cgroup.clone(), one.ends_with("compressible"))),
                        None => errors.push(format!(
                            "invalid configuration: {name}ReservedCgroup (--{name}-reserved-cgroup) must be specified when \"{name}-reserved\" or \"{name}-reserved-compressible\" included in {flag}"
                        )),
                    }
                }
                "none" if asked.len() > 1 => {
                    errors.push(format!("invalid configuration: {flag} may not contain additional enforcements when \"none\" is specified"));
                }
                "none" => {}
                _ => errors.push(format!(
                    "invalid configuration: option {one:?} specified for {flag}. Valid options are \"pods\", \"system-reserved\", \"system-reserved-compressible\", \"kube-reserved\", \"kube-reserved-compressible\" or \"none\""
                )),
            }
        }
    }
}

/// An amount as upstream writes it in messages.
#[must_use]
pub fn written(name: &str, amount: i64) -> String {
    match name {
        "cpu" => Quantity::from_milli(amount, Format::Decimal).to_string(),
        "pid" => Quantity::from_value(amount, Format::Decimal).to_string(),
        _ => Quantity::from_value(amount, Format::Binary).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_originals() {
        let usual = Settings::default();
        assert_eq!(
            (usual.images, usual.logs),
            (ImagePolicy { high_percent: 85, low_percent: 80, min_age: Duration::from_secs(120) }, LogLimits { max_bytes: Some(10 << 20), max_files: 5 })
        );
        assert_eq!((usual.heartbeat.look, usual.heartbeat.lease_s, usual.heartbeat.renew()), (Duration::from_secs(10), 40, Duration::from_secs(10)));
        assert!(usual.eviction.by_default && usual.reserved.enforce_pods && usual.reserved.system.is_empty());
        assert_eq!((usual.eviction.transition, usual.eviction.max_pod_grace_s), (Duration::from_secs(300), 0));
        let none = Options {
            eviction_hard: vec![String::new()],
            enforce_node_allocatable: vec!["none".into()],
            container_log_max_size: Some("-1".into()),
            ..Options::default()
        };
        let none = none.check().unwrap();
        assert!(none.eviction.thresholds.is_empty() && !none.reserved.enforce_pods && none.logs.max_bytes.is_none());
    }

    #[test]
    fn what_is_wrong_is_told_in_the_originals_words() {
        let wrong = Options {
            image_gc_high_threshold: Some(101),
            image_gc_low_threshold: Some(101),
            container_log_max_files: Some(1),
            system_reserved: vec!["gpu=1".into()],
            kube_reserved: vec!["cpu".into()],
            enforce_node_allocatable: ["pods", "pods", "system-reserved", "all"].map(str::to_owned).into(),
            eviction_hard: vec!["memory.available=1Gi".into()],
            node_status_update_frequency: Some("0s".into()),
            node_lease_duration_seconds: Some(0),
            ..Options::default()
        };
        let flag = "enforceNodeAllocatable (--enforce-node-allocatable)";
        assert_eq!(wrong.check().unwrap_err(), [
            "invalid configuration: imageGCHighThresholdPercent (--image-gc-high-threshold) 101 must be between 0 and 100, inclusive".to_owned(),
            "invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) 101 must be between 0 and 100, inclusive".to_owned(),
            "invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) 101 must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) 101".to_owned(),
            "invalid configuration: containerLogMaxFiles must be greater than 1".to_owned(),
            "--system-reserved value failed to parse: cannot reserve \"gpu\" resource".to_owned(),
            "--kube-reserved value failed to parse: malformed pair, expect string=string".to_owned(),
            format!("invalid configuration: duplicated enforcements \"pods\" in {flag}"),
            format!("invalid configuration: systemReservedCgroup (--system-reserved-cgroup) must be specified when \"system-reserved\" or \"system-reserved-compressible\" included in {flag}"),
            format!("invalid configuration: option \"all\" specified for {flag}. Valid options are \"pods\", \"system-reserved\", \"system-reserved-compressible\", \"kube-reserved\", \"kube-reserved-compressible\" or \"none\""),
            "malformed pair, expect string<string".to_owned(),
            "invalid configuration: nodeStatusUpdateFrequency (--node-status-update-frequency) must be greater than 0".to_owned(),
            "invalid configuration: nodeLeaseDurationSeconds must be greater than 0".to_owned(),
        ]);
    }

    #[test]
    fn a_configuration_of_credential_providers_wants_their_programs() {
        let refused = |config: &str, programs: &str| {
            let path = |path: &str| Some(PathBuf::from(path));
            let options = Options { image_credential_provider_config: path(config), image_credential_provider_bin_dir: path(programs), ..Options::default() };
            options.check().map(|settings| settings.providers.len())
        };
        assert_eq!(refused("/none.yaml", ""), Err(vec!["plugin binary directory  did not exist".to_owned()]));
        assert_eq!(refused("", "/"), Err(vec!["credential provider config path is empty".to_owned()]));
        let missing = "unable to access path \"/none.yaml\": stat /none.yaml: no such file or directory";
        assert_eq!(refused("/none.yaml", "/"), Err(vec![missing.to_owned()]));
        assert_eq!(refused("", ""), Ok(0));
    }

    #[test]
    fn reserved_cpus_stand_in_the_place_of_numbers() {
        let asked = Options {
            system_reserved: vec!["cpu=200m,memory=500Mi".into(), "pid=1k".into()],
            kube_reserved: vec!["cpu=1".into()],
            reserved_cpus: Some("0-2,5".into()),
            ..Options::default()
        };
        let reserved = asked.check().unwrap().reserved;
        assert_eq!(reserved.system, Amounts::from([("cpu".into(), 4000), ("memory".into(), 500 << 20), ("pid".into(), 1000)]));
        assert!(reserved.kube.is_empty());
        let wrong = Options { reserved_cpus: Some("3-1".into()), kube_reserved_cgroup: Some("/k".into()), ..Options::default() };
        assert_eq!(wrong.check().unwrap_err().len(), 2);
    }

    #[test]
    fn durations_are_go_s() {
        assert_eq!(
            (duration("1m30s"), duration("-1.5h"), duration("0"), duration("250ms")),
            (Ok(90_000_000_000), Ok(-5_400_000_000_000), Ok(0), Ok(250_000_000))
        );
        assert_eq!(duration("5").unwrap_err(), "time: missing unit in duration \"5\"");
        assert_eq!(duration("5d").unwrap_err(), "time: unknown unit \"d\" in duration \"5d\"");
        assert_eq!(duration("").unwrap_err(), "time: invalid duration \"\"");
    }
}
