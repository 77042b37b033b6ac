//! What is counted of slices and their controllers (upstream `endpointslice/metrics` and `endpointslicemirroring/metrics`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey};
use instruments::{Collect, Counter, Families, Family, Histogram, Kind, Labelled, Registry, exponential};
use k8s_openapi::api::core::v1::Service;
use parking_lot::Mutex;

use super::plan::Plan;
use super::selects;

/// The names of a controller's families, which differ by the controller's own alone.
pub(super) struct Names {
    added: Family,
    removed: Family,
    desired: Family,
    slices: Family,
    wanted_slices: Family,
    changes: Family,
}

pub(super) static OF_SERVICES: Names = Names {
    added: Family::new("endpoint_slice_controller_endpoints_added_per_sync", Kind::Histogram, "[BETA] Number of endpoints added on each Service sync"),
    removed: Family::new("endpoint_slice_controller_endpoints_removed_per_sync", Kind::Histogram, "[BETA] Number of endpoints removed on each Service sync"),
    desired: Family::new("endpoint_slice_controller_endpoints_desired", Kind::Gauge, "[BETA] Number of endpoints desired"),
    slices: Family::new("endpoint_slice_controller_num_endpoint_slices", Kind::Gauge, "[BETA] Number of EndpointSlices"),
    wanted_slices: Family::new(
        "endpoint_slice_controller_desired_endpoint_slices",
        Kind::Gauge,
        "[BETA] Number of EndpointSlices that would exist with perfect endpoint allocation",
    ),
    changes: Family::new("endpoint_slice_controller_changes", Kind::Counter, "[ALPHA] Number of EndpointSlice changes"),
};
pub(super) static OF_ENDPOINTS: Names = Names {
    added: Family::new(
        "endpoint_slice_mirroring_controller_endpoints_added_per_sync",
        Kind::Histogram,
        "[ALPHA] Number of endpoints added on each Endpoints sync",
    ),
    removed: Family::new(
        "endpoint_slice_mirroring_controller_endpoints_removed_per_sync",
        Kind::Histogram,
        "[ALPHA] Number of endpoints removed on each Endpoints sync",
    ),
    desired: Family::new("endpoint_slice_mirroring_controller_endpoints_desired", Kind::Gauge, "[ALPHA] Number of endpoints desired"),
    slices: Family::new("endpoint_slice_mirroring_controller_num_endpoint_slices", Kind::Gauge, "[ALPHA] Number of EndpointSlices"),
    wanted_slices: Family::new(
        "endpoint_slice_mirroring_controller_desired_endpoint_slices",
        Kind::Gauge,
        "[ALPHA] Number of EndpointSlices that would exist with perfect endpoint allocation",
    ),
    changes: Family::new("endpoint_slice_mirroring_controller_changes", Kind::Counter, "[ALPHA] Number of EndpointSlice changes"),
};
const SYNCS: Family = Family::new("endpoint_slice_controller_syncs", Kind::Counter, "[ALPHA] Number of EndpointSlice syncs");
const CHANGED: Family =
    Family::new("endpoint_slice_controller_endpointslices_changed_per_sync", Kind::Histogram, "[ALPHA] Number of EndpointSlices changed on each Service sync");

const DISTRIBUTIONS: Family = Family::new(
    "endpoint_slice_controller_services_count_by_traffic_distribution",
    Kind::Gauge,
    "[BETA] Number of Services using some specific trafficDistribution",
);
const SKIPPED: Family = Family::new(
    "endpoint_slice_mirroring_controller_addresses_skipped_per_sync",
    Kind::Histogram,
    "[ALPHA] Number of addresses skipped on each Endpoints sync due to being invalid or exceeding MaxEndpointsPerSubset",
);
const MIRRORING: Family =
    Family::new("endpoint_slice_mirroring_controller_endpoints_sync_duration", Kind::Histogram, "[ALPHA] Duration of syncEndpoints() in seconds");

static MIRRORING_S: [f64; 15] = exponential(0.001, 2.0);
static PER_SYNC: [f64; 15] = exponential(2.0, 2.0);
/// The ends that Go's client library takes where none are said.
static USUAL: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How many endpoints one owner has, in how many slices, and how many it would take.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    endpoints: usize,
    slices: usize,
    wanted_slices: usize,
}

/// What is counted of one controller's slices.
pub(super) struct Metrics {
    added: Arc<Labelled<0, Histogram>>,
    removed: Arc<Labelled<0, Histogram>>,
    changes: Arc<Labelled<1, Counter>>,
    sizes: Arc<Mutex<HashMap<ObjectKey, Size>>>,
}

impl Metrics {
    pub(super) fn new(registry: &Registry, names: &'static Names) -> Self {
        let sizes = Arc::<Mutex<HashMap<ObjectKey, Size>>>::default();
        registry.register(Arc::new(Told { names, sizes: sizes.clone() }));
        Self {
            added: registry.histograms(&names.added, [], &PER_SYNC),
            removed: registry.histograms(&names.removed, [], &PER_SYNC),
            changes: registry.counters(&names.changes, ["operation"]),
            sizes,
        }
    }

    /// What is to be written for an owner that has so many slices now.
    pub(super) fn planned(&self, key: &ObjectKey, plan: &Plan, existing: usize) {
        self.added.with([]).observe(plan.added as f64);
        self.removed.with([]).observe(plan.removed as f64);
        let slices = (existing + plan.create.len()).saturating_sub(plan.delete.len());
        let size = Size { endpoints: plan.desired, slices, wanted_slices: plan.wanted_slices };
        self.sizes.lock().insert(key.clone(), size);
    }

    /// A slice was created, updated or deleted.
    pub(super) fn changed(&self, operation: &'static str) {
        self.changes.with([operation]).inc();
    }

    /// The owner is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        self.sizes.lock().remove(key);
    }
}

/// The sums over all owners.
struct Told {
    names: &'static Names,
    sizes: Arc<Mutex<HashMap<ObjectKey, Size>>>,
}

impl Collect for Told {
    fn collect(&self, out: &mut Families) {
        let sizes = self.sizes.lock();
        // None is told before the first owner is looked at, as with the original.
        if sizes.is_empty() {
            return;
        }
        let sum = |of: fn(&Size) -> usize| sizes.values().map(of).sum::<usize>() as f64;
        out.add(&self.names.desired, &[], sum(|size| size.endpoints), None);
        out.add(&self.names.slices, &[], sum(|size| size.slices), None);
        out.add(&self.names.wanted_slices, &[], sum(|size| size.wanted_slices), None);
    }

    fn declare(&self, show: &mut dyn FnMut(&'static Family, &[&'static str])) {
        [&self.names.desired, &self.names.slices, &self.names.wanted_slices].into_iter().for_each(|family| show(family, &[]));
    }
}

/// How the passes over Services end.
pub(super) struct Syncs {
    syncs: Arc<Labelled<1, Counter>>,
    changed: Arc<Labelled<2, Histogram>>,
}

/// How the passes over Endpoints that are mirrored go.
pub(super) struct Mirrored {
    skipped: Arc<Labelled<0, Histogram>>,
    took: Arc<Labelled<0, Histogram>>,
}

impl Mirrored {
    pub(super) fn new(registry: &Registry) -> Self {
        Self { skipped: registry.histograms(&SKIPPED, [], &PER_SYNC), took: registry.histograms(&MIRRORING, [], &MIRRORING_S) }
    }

    /// A pass left out so many addresses, and took so long.
    pub(super) fn ended(&self, skipped: usize, took: Duration) {
        self.skipped.with([]).observe(skipped as f64);
        self.took.with([]).took(took);
    }
}

fn tell_distributions(services: &[Arc<Service>], out: &mut Families) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for service in services.iter().filter(|service| selects(service)) {
        if let Some(distribution) = service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref()) {
            *counts.entry(distribution).or_default() += 1;
        }
    }
    for (distribution, count) in counts {
        out.add(&DISTRIBUTIONS, &[("traffic_distribution", distribution)], count as f64, None);
    }
}

impl Syncs {
    pub(super) fn new(registry: &Registry, services: &Informer<Service>) -> Self {
        let services = services.clone();
        registry.collect(&[(&DISTRIBUTIONS, &["traffic_distribution"])], move |out| tell_distributions(&services.list(), out));
        Self { syncs: registry.counters(&SYNCS, ["result"]), changed: registry.histograms(&CHANGED, ["topology", "traffic_distribution"], &USUAL) }
    }

    /// A pass over a Service changed so many slices; how its endpoints get their hints: by which mode of topology, and by which
    /// `trafficDistribution`.
    pub(super) fn changed(&self, hints: (&str, &str), count: usize) {
        self.changed.with([hints.0, hints.1]).observe(count as f64);
    }

    /// A pass over a Service ended.
    pub(super) fn ended(&self, is_error: bool) {
        self.syncs.with([if is_error { "error" } else { "success" }]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_owners_are_told_together_until_they_are_gone() {
        let registry = Registry::default();
        let metrics = Metrics::new(&registry, &OF_SERVICES);
        assert_eq!(registry.text(), "");
        let plan = |desired, added| Plan { desired, added, wanted_slices: 1, create: vec![Default::default()], ..Plan::default() };
        let (a, b) = (ObjectKey::new("n", "a"), ObjectKey::new("n", "b"));
        metrics.planned(&a, &plan(3, 3), 0);
        metrics.planned(&b, &plan(5, 1), 1);
        metrics.changed("create");
        let has = |line: &str| registry.text().lines().any(|l| l == format!("endpoint_slice_controller_{line}"));
        assert!(has("endpoints_desired 8") && has("num_endpoint_slices 3") && has("desired_endpoint_slices 2"), "{}", registry.text());
        assert!(has("endpoints_added_per_sync_sum 4") && has("changes{operation=\"create\"} 1"), "{}", registry.text());
        metrics.forget(&b);
        assert!(has("endpoints_desired 3"), "{}", registry.text());
        let spec = serde_json::json!({"selector": {"a": "b"}, "trafficDistribution": "PreferSameNode"});
        let services = Informer::fixed([client::typed::<Service>(&serde_json::json!({"spec": spec})).unwrap()]);
        let syncs = Syncs::new(&registry, &services);
        syncs.changed(("Disabled", "PreferSameZone"), 2);
        syncs.ended(false);
        assert!(has("services_count_by_traffic_distribution{traffic_distribution=\"PreferSameNode\"} 1"), "{}", registry.text());
        assert!(has("syncs{result=\"success\"} 1"));
        assert!(has("endpointslices_changed_per_sync_sum{topology=\"Disabled\",traffic_distribution=\"PreferSameZone\"} 2"), "{}", registry.text());
    }
}
