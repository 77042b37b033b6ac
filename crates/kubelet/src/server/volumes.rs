//! `kubelet_volume_stats_*`: how full the volumes of claims are (upstream's `volumeStatsCollector`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use serde_json::Value;
use tokio::time::Instant;

use crate::pod::Context;
use crate::pod::manager::Pods;
use crate::util;
use crate::volumes::persistent::VolumeStats;

/// Names, the summary's fields and what they are.
const GAUGES: [(&str, &str, &str); 6] = [
    ("available_bytes", "availableBytes", "Number of available bytes in the volume"),
    ("capacity_bytes", "capacityBytes", "Capacity in bytes of the volume"),
    ("inodes", "inodes", "Maximum number of inodes in the volume"),
    ("inodes_free", "inodesFree", "Number of free inodes in the volume"),
    ("inodes_used", "inodesUsed", "Number of used inodes in the volume"),
    ("used_bytes", "usedBytes", "Number of used bytes in the volume"),
];

/// How long the answer waits for drivers.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The metrics' text.
pub(super) async fn metrics(cx: &Arc<Context>, pods: &Pods) -> String {
    let until = Instant::now() + ANSWER_MAX;
    // All are asked at once: a driver that takes long delays nobody but to the end of the time.
    let all = pods.all().into_iter().map(|handle| async move {
        let pod = handle.pod();
        let stats = tokio::time::timeout_at(until, cx.persistent.stats(&pod)).await.unwrap_or_default();
        (pod, stats)
    });
    let mut claims = BTreeMap::new();
    for (pod, stats) in future::join_all(all).await {
        for one in stats {
            if let Some(claim) = &one.claim {
                // A claim that several pods use is told once.
                claims.entry((util::namespace(&pod).to_owned(), claim.clone())).or_insert_with(|| summary(util::namespace(&pod), one));
            }
        }
    }
    text(&claims)
}

fn text(claims: &BTreeMap<(String, String), Value>) -> String {
    let mut out = String::new();
    for (name, field, help) in GAUGES.iter().filter(|_| !claims.is_empty()) {
        let _ = write!(out, "# HELP kubelet_volume_stats_{name} [ALPHA] {help}\n# TYPE kubelet_volume_stats_{name} gauge\n");
        for ((namespace, claim), volume) in claims {
            let value = volume[field].as_u64().unwrap_or(0);
            let _ = writeln!(out, "kubelet_volume_stats_{name}{{namespace={namespace:?},persistentvolumeclaim={claim:?}}} {value}");
        }
    }
    out
}

/// A volume in the summary.
pub(super) fn summary(namespace: &str, of: VolumeStats) -> Value {
    let mut out = serde_json::json!({
        "time": machinery::time::rfc3339(std::time::SystemTime::now()),
        "name": of.name,
        "availableBytes": of.bytes.available,
        "capacityBytes": of.bytes.total,
        "usedBytes": of.bytes.used,
        "inodesFree": of.inodes.available,
        "inodes": of.inodes.total,
        "inodesUsed": of.inodes.used,
    });
    if let Some(claim) = of.claim {
        out["pvcRef"] = serde_json::json!({"name": claim, "namespace": namespace});
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use volume::Usage;

    #[test]
    fn a_claim_is_told_under_the_originals_names() {
        assert_eq!(text(&BTreeMap::new()), "");
        let of = VolumeStats {
            name: "data".into(),
            claim: Some("c".into()),
            bytes: Usage { total: 30, used: 10, available: 20 },
            inodes: Usage { total: 3, used: 1, available: 2 },
        };
        let shown = summary("n", of);
        assert_eq!(shown["pvcRef"], serde_json::json!({"name": "c", "namespace": "n"}));
        let told = text(&BTreeMap::from([(("n".to_owned(), "c".to_owned()), shown)]));
        for line in [
            "# HELP kubelet_volume_stats_capacity_bytes [ALPHA] Capacity in bytes of the volume",
            "# TYPE kubelet_volume_stats_capacity_bytes gauge",
            "kubelet_volume_stats_capacity_bytes{namespace=\"n\",persistentvolumeclaim=\"c\"} 30",
            "kubelet_volume_stats_available_bytes{namespace=\"n\",persistentvolumeclaim=\"c\"} 20",
            "kubelet_volume_stats_inodes_used{namespace=\"n\",persistentvolumeclaim=\"c\"} 1",
        ] {
            assert!(told.lines().any(|l| l == line), "{line} in\n{told}");
        }
    }
}
