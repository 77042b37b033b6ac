//! `/configz`: how this kubelet is set up, as a KubeletConfiguration of `kubelet.config.k8s.io/v1beta1`. Tools and the original's own tests
//! read there what holds on a node, and not only what somebody wrote. What has no counterpart here has the original's default.

use std::time::Duration;

use machinery::time::go_duration;
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::evict::signals::{Amount, Signal, Threshold};
use crate::settings::{Owner, Settings, written};

/// What is answered.
pub(super) fn answer(config: &Config) -> Value {
    let mut all = json!({"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1"});
    let parts = [server(config), node(config), containers(config), resources(&config.settings), shutdown(&config.settings)];
    for part in parts {
        if let (Value::Object(all), Value::Object(part)) = (&mut all, part) {
            all.extend(part.into_iter().filter(|(_, value)| !value.is_null()));
        }
    }
    json!({"kubeletconfig": all})
}

/// Its own API, and that of the cluster.
fn server(config: &Config) -> Value {
    let webhook = json!({"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"});
    json!({
        "enableServer": config.tls.is_some(),
        "address": config.listen.ip(),
        "port": config.listen.port(),
        "authentication": {"x509": {}, "webhook": {"enabled": true, "cacheTTL": "2m0s"}, "anonymous": {"enabled": false}},
        "authorization": {"mode": "Webhook", "webhook": webhook},
        "enableDebuggingHandlers": true,
        "enableSystemLogHandler": true,
        "streamingConnectionIdleTimeout": "4h0m0s",
        "eventRecordQPS": 50,
        "eventBurst": 100,
        "contentType": "application/json",
        "kubeAPIQPS": 50,
        "kubeAPIBurst": 100,
        "logging": {"format": "text", "flushFrequency": "5s", "verbosity": 0},
    })
}

/// The node, and what the cluster says of it.
fn node(config: &Config) -> Value {
    let heartbeat = &config.settings.heartbeat;
    let resolver = config.resolv_conf.to_string_lossy();
    json!({
        "staticPodPath": config.settings.static_pods.as_ref().map(|path| path.to_string_lossy()),
        "podLogsDir": config.pod_logs_dir.to_string_lossy(),
        "syncFrequency": "1m0s",
        "fileCheckFrequency": "20s",
        "httpCheckFrequency": "20s",
        "clusterDomain": config.cluster_domain,
        "clusterDNS": Some(&config.cluster_dns).filter(|all| !all.is_empty()),
        "nodeStatusUpdateFrequency": go_duration(heartbeat.look),
        "nodeStatusReportFrequency": "5m0s",
        "nodeLeaseDurationSeconds": heartbeat.lease_s,
        "nodeStatusMaxImages": 50,
        "volumeStatsAggPeriod": "1m0s",
        "enableControllerAttachDetach": true,
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        "resolvConf": resolver,
        "maxPods": config.max_pods,
        "registerNode": true,
    })
}

/// Images and containers.
fn containers(config: &Config) -> Value {
    let (images, logs) = (&config.settings.images, &config.settings.logs);
    let log_size = logs.max_bytes.and_then(|bytes| i64::try_from(bytes).ok()).map_or_else(|| "-1".to_owned(), |bytes| written("memory", bytes));
    json!({
        "registryPullQPS": 5,
        "registryBurst": 10,
        "serializeImagePulls": true,
        "imagePullCredentialsVerificationPolicy": "NeverVerifyPreloadedImages",
        "imageMinimumGCAge": go_duration(images.min_age),
        "imageMaximumGCAge": "0s",
        "imageGCHighThresholdPercent": images.high_percent,
        "imageGCLowThresholdPercent": images.low_percent,
        "containerLogMaxSize": log_size,
        "containerLogMaxFiles": logs.max_files,
        "containerLogMaxWorkers": 1,
        "containerLogMonitorInterval": "10s",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "5m0s"},
        "runtimeRequestTimeout": "2m0s",
        "seccompDefault": false,
        "podPidsLimit": -1,
        "cpuCFSQuota": true,
        "cpuCFSQuotaPeriod": "100ms",
    })
}

/// What of the machine is whose, and when pods make room.
fn resources(settings: &Settings) -> Value {
    let (eviction, reserved) = (&settings.eviction, &settings.reserved);
    let (hard, soft): (Vec<&Threshold>, Vec<&Threshold>) =
        eviction.thresholds.iter().filter(|t| t.signal != Signal::AllocatableMemory).partition(|t| t.is_hard());
    let below = |all: &[&Threshold]| by_signal(all, |t| Some(amount(t.below)));
    let amounts = |of: &crate::settings::Amounts| some(of.iter().map(|(name, amount)| (name.clone(), written(name, *amount).into())).collect());
    let of_owner = |owner: Owner| reserved.cgroups.iter().find(|(whose, ..)| *whose == owner);
    let enforced = |(owner, _, compressible): &(Owner, String, bool)| {
        let name = if *owner == Owner::System { "system-reserved" } else { "kube-reserved" };
        if *compressible { format!("{name}-compressible") } else { name.to_owned() }
    };
    let mut enforce: Vec<String> = reserved.enforce_pods.then(|| "pods".to_owned()).into_iter().chain(reserved.cgroups.iter().map(enforced)).collect();
    if enforce.is_empty() {
        enforce.push("none".to_owned());
    }
    json!({
        "evictionHard": below(&hard),
        "evictionSoft": below(&soft),
        "evictionSoftGracePeriod": by_signal(&soft, |t| Some(go_duration(t.grace))),
        "evictionMinimumReclaim": by_signal(&hard, |t| t.reclaim.map(amount)),
        "evictionPressureTransitionPeriod": go_duration(eviction.transition),
        "evictionMaxPodGracePeriod": eviction.max_pod_grace_s,
        "mergeDefaultEvictionSettings": false,
        "kernelMemcgNotification": eviction.by_kernel,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": true,
        "cpuManagerPolicy": "none",
        "cpuManagerReconcilePeriod": "10s",
        "memoryManagerPolicy": "None",
        "topologyManagerPolicy": "none",
        "topologyManagerScope": "container",
        "systemReserved": amounts(&reserved.system),
        "kubeReserved": amounts(&reserved.kube),
        "systemReservedCgroup": of_owner(Owner::System).map(|(_, cgroup, _)| cgroup),
        "kubeReservedCgroup": of_owner(Owner::Kube).map(|(_, cgroup, _)| cgroup),
        "enforceNodeAllocatable": enforce,
        "localStorageCapacityIsolation": true,
        "failSwapOn": false,
        "failCgroupV1": false,
        "memorySwap": {},
        // No memory is kept for anybody by the kernel, as the original's default has it (KEP-2570).
        "memoryReservationPolicy": "None",
    })
}

/// How long pods have when the machine goes down.
fn shutdown(settings: &Settings) -> Value {
    let periods: Vec<Value> = settings.shutdown.iter().map(|p| json!({"priority": p.priority, "shutdownGracePeriodSeconds": p.seconds})).collect();
    let zero = go_duration(Duration::ZERO);
    json!({
        "shutdownGracePeriod": zero,
        "shutdownGracePeriodCriticalPods": zero,
        "shutdownGracePeriodByPodPriority": Some(periods).filter(|all| !all.is_empty()),
    })
}

/// A map that is left out when it is empty.
fn some(map: Map<String, Value>) -> Option<Map<String, Value>> {
    Some(map).filter(|map| !map.is_empty())
}

fn by_signal(all: &[&Threshold], what: impl Fn(&Threshold) -> Option<String>) -> Option<Map<String, Value>> {
    some(all.iter().filter_map(|&t| Some((t.signal.as_str().to_owned(), what(t)?.into()))).collect())
}

/// As flags have it.
fn amount(amount: Amount) -> String {
    match amount {
        Amount::Quantity(quantity) => quantity.to_string(),
        // Of a number that was read from two digits or so.
        Amount::Share(share) => format!("{}%", (f64::from(share) * 10_000.0).round() / 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Options;

    #[test]
    fn it_tells_what_holds() {
        let mut config = Config::new("n", std::net::IpAddr::from([10, 0, 0, 1]), "/data");
        config.cluster_dns = vec![std::net::IpAddr::from([10, 96, 0, 10])];
        let usual = answer(&config);
        let usual = &usual["kubeletconfig"];
        assert_eq!(
            usual["evictionHard"],
            json!({"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%"})
        );
        assert_eq!((&usual["clusterDNS"], &usual["nodeStatusUpdateFrequency"]), (&json!(["10.96.0.10"]), &json!("10s")));
        assert_eq!((&usual["containerLogMaxSize"], &usual["imageMinimumGCAge"], &usual["port"]), (&json!("10Mi"), &json!("2m0s"), &json!(10250)));
        assert_eq!((&usual["memoryReservationPolicy"], &usual["failCgroupV1"]), (&json!("None"), &json!(false)));
        assert!(usual.get("systemReserved").is_none() && usual.get("staticPodPath").is_none() && usual.get("evictionSoft").is_none());
        let asked = Options {
            eviction_hard: vec!["memory.available<1Gi".into()],
            eviction_soft: vec!["nodefs.available<12.5%".into()],
            eviction_soft_grace_period: vec!["nodefs.available=1m30s".into()],
            system_reserved: vec!["cpu=500m,memory=1Gi".into()],
            ..Options::default()
        };
        config.settings = asked.check().expect("right");
        let asked = answer(&config);
        let asked = &asked["kubeletconfig"];
        assert_eq!(asked["evictionHard"], json!({"memory.available": "1Gi"}));
        assert_eq!((&asked["evictionSoft"], &asked["evictionSoftGracePeriod"]), (&json!({"nodefs.available": "12.5%"}), &json!({"nodefs.available": "1m30s"})));
        assert_eq!((&asked["systemReserved"], &asked["enforceNodeAllocatable"]), (&json!({"cpu": "500m", "memory": "1Gi"}), &json!(["pods"])));
    }
}
