//! What of the node pods get: its capacity without what is reserved for others, and without what hard eviction thresholds keep free
//! (upstream's node allocatable); and the cgroups in which that is a limit.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::api::Severity;
use crate::cri::CgroupLimits;
use crate::evict::signals::Signal;
use crate::pod::Context;
use crate::resources;
use crate::settings::{Amounts, Owner, Settings, written};
use crate::util;

/// How soon limits that could not be set are tried again (upstream's).
const RETRY: Duration = Duration::from_secs(60);

/// What hard thresholds keep free of a capacity (upstream's `hardEvictionReservation`).
fn kept_free(settings: &Settings, name: &str, capacity: i64) -> i64 {
    let signal = match name {
        "memory" => Signal::Memory,
        "ephemeral-storage" => Signal::NodeFs,
        _ => return 0,
    };
    let hard = settings.eviction.thresholds.iter().rfind(|t| t.signal == signal && t.is_hard());
    hard.map_or(0, |t| t.below.of(capacity).value())
}

fn reserved(settings: &Settings, name: &str) -> i64 {
    let of = |amounts: &Amounts| amounts.get(name).copied().unwrap_or(0);
    of(&settings.reserved.system).saturating_add(of(&settings.reserved.kube))
}

/// What pods can ask for of a resource of which there is so much.
#[must_use]
pub fn allocatable(settings: &Settings, name: &str, capacity: i64) -> i64 {
    capacity.saturating_sub(reserved(settings, name)).saturating_sub(kept_free(settings, name, capacity)).max(0)
}

/// What pods can take together before the kernel stops them: without thresholds, which are to be crossed before.
fn limit(settings: &Settings, name: &str, capacity: i64) -> i64 {
    let taken = if settings.reserved.enforce_pods { reserved(settings, name) } else { 0 };
    capacity.saturating_sub(taken).max(0)
}

/// Whether no more is reserved than there is.
pub fn check(settings: &Settings, capacity: &Amounts) -> Result<(), String> {
    let more = |(name, all): (&String, &i64)| {
        let taken = reserved(settings, name).saturating_add(kept_free(settings, name, *all));
        (taken > *all).then(|| {
            let (taken, all) = (written(name, taken), written(name, *all));
            format!("Resource {name:?} has a reservation of {taken} but capacity of {all}. Expected capacity >= reservation.")
        })
    };
    let errors: Vec<String> = capacity.iter().filter_map(more).collect();
    if errors.is_empty() { Ok(()) } else { Err(format!("invalid Node Allocatable configuration. {}", errors.join(" "))) }
}

/// The CPU shares of all pods together.
#[must_use]
pub fn pods_shares(settings: &Settings, cpu_milli: i64) -> u64 {
    resources::shares(limit(settings, "cpu", cpu_milli))
}

/// The limits of all pods together.
#[must_use]
pub fn pods_limits(settings: &Settings, capacity: &Amounts) -> (CgroupLimits, Option<i64>) {
    let of = |name: &str| capacity.get(name).map(|all| limit(settings, name, *all));
    let cpu_milli = capacity.get("cpu").copied().unwrap_or(0);
    let limits = CgroupLimits { cpu_shares: pods_shares(settings, cpu_milli), memory_limit_bytes: of("memory").unwrap_or(0), ..CgroupLimits::default() };
    (limits, of("pid"))
}

/// Gives other cgroups what is reserved for them as a limit; they must be there.
pub fn limit_others(cx: &Context) -> Result<(), String> {
    let reserved = &cx.config.settings.reserved;
    for (owner, path, cpu_alone) in &reserved.cgroups {
        let (name, short, amounts) = match owner {
            Owner::System => ("System Reserved", "system", &reserved.system),
            Owner::Kube => ("Kube Reserved", "kube", &reserved.kube),
        };
        let of = |name: &str| amounts.get(name).copied();
        let limits = CgroupLimits {
            cpu_shares: of("cpu").map_or(0, resources::shares),
            memory_limit_bytes: of("memory").filter(|_| !cpu_alone).unwrap_or(0),
            ..CgroupLimits::default()
        };
        let compressible = if *cpu_alone { " Compressible" } else { "" };
        if let Err(error) = cx.cgroups.limit_existing(path, &limits, of("pid").filter(|_| !cpu_alone)) {
            let message = format!("Failed to enforce {name}{compressible} Cgroup Limits on {path:?}: {error}");
            cx.api.node_event(Severity::Warning, "FailedNodeAllocatableEnforcement", &message);
            return Err(message);
        }
        cx.api.node_event(Severity::Normal, "NodeAllocatableEnforced", &format!("Updated limits on {short} reserved cgroup {path}"));
    }
    Ok(())
}

/// Gives all pods together their limit. It may be below what they take already: it is tried until evictions have made room.
pub async fn limit_pods(cx: Arc<Context>, stop: CancellationToken) {
    loop {
        let own = Arc::clone(&cx);
        let done = util::blocking(move || {
            let (limits, pids) = pods_limits(&own.config.settings, &own.machine.capacity());
            own.cgroups.limit_node(&limits, pids)
        });
        match done.await {
            Ok(()) => return cx.api.node_event(Severity::Normal, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods"),
            Err(error) => {
                let message = format!("Failed to update Node Allocatable Limits {:?}: {error}", cx.cgroups.node_path());
                tracing::warn!(message);
                cx.api.node_event(Severity::Warning, "FailedNodeAllocatableEnforcement", &message);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Options;

    #[test]
    fn pods_get_what_is_nobody_elses() {
        let options = Options {
            system_reserved: vec!["cpu=500m,memory=1Gi,pid=1000".into()],
            kube_reserved: vec!["memory=512Mi,ephemeral-storage=1Gi".into()],
            eviction_hard: vec!["memory.available<512Mi,nodefs.available<10%".into()],
            ..Options::default()
        };
        let settings = options.check().unwrap();
        let gib = |n: i64| n << 30;
        assert_eq!(allocatable(&settings, "cpu", 4000), 3500);
        assert_eq!(allocatable(&settings, "memory", gib(8)), gib(6));
        // A share is a float of 32 bits, as upstream's: a tenth is a little more.
        assert_eq!(allocatable(&settings, "ephemeral-storage", gib(100)), gib(99) - 10_737_418_400);
        assert_eq!(allocatable(&settings, "hugepages-2Mi", 5), 5);
        assert_eq!(allocatable(&settings, "memory", gib(1)), 0);
        let capacity = Amounts::from([("cpu".into(), 4000), ("memory".into(), gib(8)), ("pid".into(), 32_768)]);
        let (limits, pids) = pods_limits(&settings, &capacity);
        assert_eq!((limits.memory_limit_bytes, limits.cpu_shares, pids), (gib(6) + (512 << 20), 3584, Some(31_768)));
        assert_eq!(check(&settings, &capacity), Ok(()));
        let small = Amounts::from([("memory".into(), gib(1)), ("cpu".into(), 400)]);
        assert_eq!(
            check(&settings, &small).unwrap_err(),
            "invalid Node Allocatable configuration. Resource \"cpu\" has a reservation of 500m but capacity of 400m. Expected capacity >= reservation. Resource \"memory\" has a reservation of 2Gi but capacity of 1Gi. Expected capacity >= reservation."
        );
        // Who enforces nothing leaves pods all there is.
        let loose = Options { enforce_node_allocatable: vec!["none".into()], ..options }.check().unwrap();
        assert_eq!(pods_limits(&loose, &capacity).0.memory_limit_bytes, gib(8));
    }
}
