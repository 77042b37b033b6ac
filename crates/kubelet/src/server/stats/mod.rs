//! Statistics, measured when asked: `/stats/summary`, `/metrics` and its parts (`resource`, `cadvisor`, `probes`).
//!
//! A measure is one step on a thread that may block, for all pods at once: it opens some files of the kernel for each container, so its
//! costs grow with what runs and not with who asks how often. What is costly to find out (space on disk) is kept for a minute ([`crate::walks`]).
//!
//! The parts: [`summary`] as JSON · [`resource`] for the Metrics API · [`cadvisor`] all that is known of cgroups. The text format is [`instruments`]'.

mod cadvisor;
mod rates;
mod resource;
mod summary;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::Pod;

pub(super) use cadvisor::metrics as cadvisor_metrics;
pub(super) use rates::Rates;
pub(super) use resource::metrics as resource_metrics;
pub(super) use summary::summary;

use super::{Answer, text};
use crate::cri::{Container, Detail, Measure, Reading, Sandbox, State, Stats, label};
use crate::devices::{Devices, metrics as device_counts};
use crate::pod::manager::Pods;
use crate::pod::{Context, Handle};
use crate::probes::counts;
use crate::statics::is_static;
use crate::util;
use crate::volumes::{self, persistent};
use http::StatusCode;
use instruments::{Families, Family, Kind, process};

/// A container that runs.
struct MeasuredContainer {
    container: Container,
    reading: Reading,
}

/// A pod of which anything runs.
struct MeasuredPod {
    pod: Arc<Pod>,
    sandbox: Option<Sandbox>,
    /// Of its cgroup, which holds those of its containers.
    cgroup: Option<Reading>,
    containers: Vec<MeasuredContainer>,
}

/// All of a node at one time.
struct Measured {
    at: SystemTime,
    node: (Stats, Detail),
    /// Of the cgroups above the pods', by their paths.
    classes: Vec<(String, Reading)>,
    pods: Vec<MeasuredPod>,
}

/// Measures everything; all that a cgroup tells if `whole`.
async fn measure(cx: &Context, pods: &Pods, whole: bool) -> Measured {
    let handles = pods.all();
    let mut running: HashMap<String, Vec<Container>> = HashMap::new();
    for container in cx.runtime.containers().into_iter().filter(Container::running) {
        let uid = container.labels.get(label::POD_UID).cloned().unwrap_or_default();
        running.entry(uid).or_default().push(container);
    }
    let mut sandboxes: HashMap<String, Sandbox> = HashMap::new();
    for sandbox in cx.runtime.sandboxes().into_iter().filter(|s| s.ready) {
        sandboxes.insert(sandbox.labels.get(label::POD_UID).cloned().unwrap_or_default(), sandbox);
    }
    let classes = cx.cgroups.class_paths();
    let mut wanted: Vec<Measure> = classes.iter().map(|path| Measure::Cgroup(path.clone())).collect();
    let mut all = Vec::new();
    for handle in handles {
        let pod = handle.pod();
        let (mut containers, sandbox) = (running.remove(&handle.uid.0).unwrap_or_default(), sandboxes.remove(&handle.uid.0));
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        wanted.push(Measure::Cgroup(cx.cgroups.pod_path(&pod)));
        wanted.extend(containers.iter().map(|c| Measure::Container(c.id.clone())));
        all.push((pod, sandbox, containers));
    }
    let at = cx.now();
    let (readings, node) = tokio::join!(cx.runtime.readings(wanted, whole), util::blocking(|| runtime::of_machine(Path::new("/proc"))));
    let mut readings = readings.into_iter();
    let mut next = || readings.next().flatten();
    let classes = classes.into_iter().filter_map(|path| Some((path, next()?))).collect();
    let pods = all.into_iter().map(|(pod, sandbox, containers)| {
        let cgroup = next();
        let containers = containers.into_iter().filter_map(|container| Some(MeasuredContainer { container, reading: next()? }));
        MeasuredPod { containers: containers.collect(), pod, sandbox, cgroup }
    });
    Measured { at, node, classes, pods: pods.collect() }
}

impl MeasuredContainer {
    /// When the present run began.
    fn started(&self) -> SystemTime {
        self.container.started.unwrap_or(self.container.created)
    }
}

const NODE_NAME: Family = Family::new("kubelet_node_name", Kind::Gauge, "[ALPHA] The node's name. The count is always 1.");
const RUNNING_PODS: Family = Family::new("kubelet_running_pods", Kind::Gauge, "[ALPHA] Number of pods that have a running pod sandbox");
const RUNNING_CONTAINERS: Family = Family::new("kubelet_running_containers", Kind::Gauge, "[ALPHA] Number of containers currently running");
const DESIRED_PODS: Family = Family::new(
    "kubelet_desired_pods",
    Kind::Gauge,
    "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
);

const ACTIVE_PODS: Family = Family::new(
    "kubelet_active_pods",
    Kind::Gauge,
    "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
);
const MIRROR_PODS: Family =
    Family::new("kubelet_mirror_pods", Kind::Gauge, "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)");
const EPHEMERAL: Family =
    Family::new("kubelet_managed_ephemeral_containers", Kind::Gauge, "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.");
const CGROUP_VERSION: Family = Family::new("kubelet_cgroup_version", Kind::Gauge, "[ALPHA] cgroup version on the hosts.");

const VOLUMES: Family = Family::new("volume_manager_total_volumes", Kind::Gauge, "[ALPHA] Number of volumes in Volume Manager");

const EVICTIONS: Family = Family::new("kubelet_evictions", Kind::Counter, "[ALPHA] Cumulative number of pod evictions by eviction signal");
const SHUTDOWN_START: Family =
    Family::new("kubelet_graceful_shutdown_start_time_seconds", Kind::Gauge, "[ALPHA] Last graceful shutdown start time since unix epoch in seconds");
const SHUTDOWN_END: Family =
    Family::new("kubelet_graceful_shutdown_end_time_seconds", Kind::Gauge, "[ALPHA] Last graceful shutdown end time since unix epoch in seconds");

/// Seconds of nanoseconds.
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// `GET /metrics`: what the kubelet itself counts, and what it tells of volumes.
pub(super) fn metrics(cx: &Arc<Context>, pods: &Pods, volumes: &str) -> Answer {
    let count = |number: usize| number as f64;
    let mut out = Families::default();
    process::tell_build(&mut out, &cx.config.version);
    out.add(&NODE_NAME, &[("node", &cx.config.node_name)], 1.0, None);
    out.add(&RUNNING_PODS, &[], count(cx.runtime.sandboxes().iter().filter(|s| s.ready).count()), None);
    let containers = cx.runtime.containers();
    for (name, state) in [("created", State::Created), ("exited", State::Exited), ("running", State::Running)] {
        let number = containers.iter().filter(|c| c.state == state).count();
        if number > 0 {
            out.add(&RUNNING_CONTAINERS, &[("container_state", name)], count(number), None);
        }
    }
    let all = pods.all();
    let statics = all.iter().filter(|h| is_static(&h.pod())).count();
    out.add(&DESIRED_PODS, &[("static", "")], count(all.len() - statics), None);
    out.add(&DESIRED_PODS, &[("static", "true")], count(statics), None);
    let (active_statics, active): (Vec<_>, Vec<_>) = all.iter().filter(|h| !h.ended()).map(|h| h.pod()).partition(|pod| is_static(pod));
    out.add(&ACTIVE_PODS, &[("static", "")], count(active.len()), None);
    out.add(&ACTIVE_PODS, &[("static", "true")], count(active_statics.len()), None);
    out.add(&MIRROR_PODS, &[], count(all.iter().filter(|h| h.mirror().is_some()).count()), None);
    let added = all.iter().map(|h| h.pod().spec.as_ref().and_then(|s| s.ephemeral_containers.as_ref()).map_or(0, Vec::len)).sum::<usize>();
    out.add(&EPHEMERAL, &[], count(added), None);
    out.add(&CGROUP_VERSION, &[], f64::from(cx.cgroups.version()), None);
    for ((plugin, state), number) in volumes_of(&all) {
        out.add(&VOLUMES, &[("plugin_name", &plugin), ("state", state)], count(number), None);
    }
    for (signal, number) in cx.pressure.evictions() {
        out.add(&EVICTIONS, &[("eviction_signal", signal)], number as f64, None);
    }
    let stamp = |time: Option<SystemTime>| time.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok()).map_or(0.0, |d| d.as_secs() as f64);
    let (begun, done) = cx.ending.times();
    out.add(&SHUTDOWN_START, &[], stamp(begun), None);
    out.add(&SHUTDOWN_END, &[], stamp(done), None);
    devices(&cx.devices, &mut out);
    for (name, version, number) in cx.pod_resources.all() {
        if let Some(family) = POD_RESOURCES.iter().find(|family| family.name.ends_with(name)) {
            out.add(family, &[("server_api_version", version)], number as f64, None);
        }
    }
    cx.config.metrics.tell(&mut out);
    process::tell(&mut out);
    exposed_text(out.finish() + volumes)
}

/// How many volumes pods have and are to have, by plugin (upstream's `totalVolumesCollector`). What a claim is, only its volume tells: before it is
/// there, nobody knows (`N/A`, as upstream).
fn volumes_of(pods: &[Arc<Handle>]) -> BTreeMap<(String, &'static str), usize> {
    let mut all = BTreeMap::new();
    for handle in pods.iter().filter(|handle| !handle.is_emptied()) {
        let (pod, has) = (handle.pod(), handle.mounted());
        let mut wants = has.clone();
        if has.is_empty() {
            let asked = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter(|volume| persistent::is_used(&pod, &volume.name));
            wants.extend(asked.map(|volume| volumes::plugin(volume).unwrap_or_else(|| "N/A".to_owned())));
        }
        for (plugins, state) in [(wants, "desired_state_of_world"), (has, "actual_state_of_world")] {
            plugins.into_iter().for_each(|plugin| *all.entry((plugin, state)).or_default() += 1);
        }
    }
    all
}

const POD_RESOURCES: [Family; 5] = [
    Family::new(
        "kubelet_pod_resources_endpoint_requests_total",
        Kind::Counter,
        "[ALPHA] Cumulative number of requests to the PodResource endpoint. Broken down by server api version.",
    ),
    Family::new(
        "kubelet_pod_resources_endpoint_requests_list",
        Kind::Counter,
        "[ALPHA] Number of requests to the PodResource List endpoint. Broken down by server api version.",
    ),
    Family::new(
        "kubelet_pod_resources_endpoint_requests_get",
        Kind::Counter,
        "[ALPHA] Number of requests to the PodResource Get endpoint. Broken down by server api version.",
    ),
    Family::new(
        "kubelet_pod_resources_endpoint_errors_get",
        Kind::Counter,
        "[ALPHA] Number of requests to the PodResource Get endpoint which returned error. Broken down by server api version.",
    ),
    Family::new(
        "kubelet_pod_resources_endpoint_requests_get_allocatable",
        Kind::Counter,
        "[ALPHA] Number of requests to the PodResource GetAllocatableResources endpoint. Broken down by server api version.",
    ),
];

const DEVICE_OPERATIONS: Family = Family::new(
    "dra_operations_duration_seconds",
    Kind::Histogram,
    "[ALPHA] Latency histogram in seconds for the duration of handling all ResourceClaims referenced by a pod when the pod starts or stops. Identified by the name of the operation (PrepareResources or UnprepareResources) and separated by the success of the operation. The number of failed operations is provided through the histogram's overall count.",
);
const DEVICE_CALLS: Family = Family::new("dra_grpc_operations_duration_seconds", Kind::Histogram, "[ALPHA] Duration in seconds of the DRA gRPC operations");
const DEVICE_CLAIMS: Family = Family::new(
    "dra_resource_claims_in_use",
    Kind::Gauge,
    "[ALPHA] The number of ResourceClaims that are currently in use on the node, by driver name (driver_name label value) and across all drivers (special value <any> for driver_name). Note that the sum of all by-driver counts is not the total number of in-use ResourceClaims because the same ResourceClaim might use devices from different drivers. Instead, use the count for the <any> driver_name.",
);

/// What is counted of devices.
fn devices(devices: &Devices, out: &mut Families) {
    let ends = &device_counts::BUCKETS_S;
    for ((name, is_error), spread) in devices.counts().operations() {
        let labels = [("is_error", if is_error { "true" } else { "false" }), ("operation_name", name)];
        out.add_histogram(&DEVICE_OPERATIONS, &labels, ends, &spread.buckets, spread.sum_s);
    }
    for ((driver, method, code), spread) in devices.counts().calls() {
        let labels = [("driver_name", driver.as_str()), ("grpc_status_code", &code), ("method_name", &method)];
        out.add_histogram(&DEVICE_CALLS, &labels, ends, &spread.buckets, spread.sum_s);
    }
    let (drivers, all) = devices.in_use();
    out.add(&DEVICE_CLAIMS, &[("driver_name", "<any>")], all as f64, None);
    for (driver, count) in drivers {
        out.add(&DEVICE_CLAIMS, &[("driver_name", &driver)], count as f64, None);
    }
}

const PROBE_TOTAL: Family =
    Family::new("prober_probe_total", Kind::Counter, "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.");
const PROBE_DURATION: Family = Family::new("prober_probe_duration_seconds", Kind::Histogram, "[ALPHA] Duration in seconds for a probe response.");

/// `GET /metrics/probes`: what probes of the present pods came to.
pub(super) fn probe_metrics(cx: &Context) -> Answer {
    let mut out = Families::default();
    cx.probed.each(|of, count| {
        let base = [("container", of.container.as_str()), ("namespace", &of.namespace), ("pod", &of.pod), ("probe_type", of.probe)];
        for (result, number) in count.results() {
            let labels = [base[0], base[1], base[2], ("pod_uid", &of.pod_uid), base[3], ("result", result)];
            out.add(&PROBE_TOTAL, &labels, number as f64, None);
        }
        if let Some((buckets, sum_s)) = count.durations() {
            out.add_histogram(&PROBE_DURATION, &base, &counts::BUCKETS_S, buckets, sum_s);
        }
    });
    exposed(out)
}

pub(super) fn exposed(families: Families) -> Answer {
    exposed_text(families.finish())
}

fn exposed_text(told: String) -> Answer {
    let mut answer = text(StatusCode::OK, told);
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores"));
    answer
}
