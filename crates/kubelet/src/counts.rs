//! What the kubelet counts of its own work, under the original's names (`pkg/kubelet/metrics`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instruments::{Counter, Family, Histogram, Kind as Shape, Labelled, Registry, exponential};

use crate::pod::plan::Kind;

const OPERATIONS: Family =
    Family::new("kubelet_runtime_operations_total", Shape::Counter, "[ALPHA] Cumulative number of runtime operations by operation type.");
const OPERATION_TIMES: Family = Family::new(
    "kubelet_runtime_operations_duration_seconds",
    Shape::Histogram,
    "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
);
const OPERATION_ERRORS: Family =
    Family::new("kubelet_runtime_operations_errors_total", Shape::Counter, "[ALPHA] Cumulative number of runtime operation errors by operation type.");
const PODS: Family = Family::new("kubelet_started_pods_total", Shape::Counter, "[ALPHA] Cumulative number of pods started");
const POD_ERRORS: Family = Family::new("kubelet_started_pods_errors_total", Shape::Counter, "[ALPHA] Cumulative number of errors when starting pods");
const CONTAINERS: Family = Family::new("kubelet_started_containers_total", Shape::Counter, "[ALPHA] Cumulative number of containers started");
const CONTAINER_ERRORS: Family =
    Family::new("kubelet_started_containers_errors_total", Shape::Counter, "[ALPHA] Cumulative number of errors when starting containers");
const POD_STARTS: Family = Family::new(
    "kubelet_pod_start_duration_seconds",
    Shape::Histogram,
    "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
);

const PASSES: Family = Family::new(
    "kubelet_pod_worker_duration_seconds",
    Shape::Histogram,
    "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
);
const PULLS: Family = Family::new("kubelet_image_pull_duration_seconds", Shape::Histogram, "[ALPHA] Duration in seconds to pull an image.");
const PROVIDER_TIMES: Family =
    Family::new("kubelet_credential_provider_plugin_duration", Shape::Histogram, "[ALPHA] Duration of execution in seconds for credential provider plugin");
const PROVIDER_ERRORS: Family =
    Family::new("kubelet_credential_provider_plugin_errors_total", Shape::Counter, "[ALPHA] Number of errors from credential provider plugin");
const CGROUPS: Family = Family::new(
    "kubelet_cgroup_manager_duration_seconds",
    Shape::Histogram,
    "[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.",
);
const REJECTIONS: Family =
    Family::new("kubelet_admission_rejections_total", Shape::Counter, "[ALPHA] Cumulative number pod admission rejections by the Kubelet.");
const IMAGE_VOLUMES: Family = Family::new("kubelet_image_volume_requested_total", Shape::Counter, "[BETA] Number of requested image volumes.");
const IMAGE_VOLUMES_MADE: Family =
    Family::new("kubelet_image_volume_mounted_succeed_total", Shape::Counter, "[BETA] Number of successful image volume mounts.");
const IMAGE_VOLUME_ERRORS: Family = Family::new("kubelet_image_volume_mounted_errors_total", Shape::Counter, "[BETA] Number of failed image volume mounts.");
const SANDBOXES: Family = Family::new(
    "kubelet_run_podsandbox_duration_seconds",
    Shape::Histogram,
    "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
);
const SANDBOX_ERRORS: Family = Family::new(
    "kubelet_run_podsandbox_errors_total",
    Shape::Counter,
    "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
);
const USERS: Family = Family::new(
    "kubelet_started_user_namespaced_pods_total",
    Shape::Counter,
    "[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.",
);
const USER_ERRORS: Family = Family::new(
    "kubelet_started_user_namespaced_pods_errors_total",
    Shape::Counter,
    "[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.",
);
const PREEMPTIONS: Family = Family::new("kubelet_preemptions", Shape::Counter, "[ALPHA] Cumulative number of pod preemptions by preemption resource");
const CONTAINERS_PER_POD: Family = Family::new("kubelet_containers_per_pod_count", Shape::Histogram, "[ALPHA] The number of containers per pod.");
const POD_TOTALS: Family = Family::new(
    "kubelet_pod_start_total_duration_seconds",
    Shape::Histogram,
    "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
);
const POD_SLIS: Family = Family::new(
    "kubelet_pod_start_sli_duration_seconds",
    Shape::Histogram,
    "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
);
const IMAGES_COLLECTED: Family = Family::new(
    "kubelet_image_garbage_collected_total",
    Shape::Counter,
    "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
);
const STORAGE: Family = Family::new("storage_operation_duration_seconds", Shape::Histogram, "[BETA] Storage operation duration");

/// Prometheus' own ends of buckets, which the original leaves as they are.
static USUAL_ENDS_S: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
static PULL_ENDS_S: [f64; 18] = [1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0];
static STORAGE_ENDS_S: [f64; 13] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];
static CONTAINER_ENDS: [f64; 5] = exponential(1.0, 2.0);
/// The reasons of refusals that are told as they are (upstream's `admissionRejectionReasons`); of extended resources all are one.
const REASONS: [&str; 17] = [
    "AppArmor",
    "PodOSSelectorNodeLabelDoesNotMatch",
    "PodOSNotSupported",
    "InvalidNodeInfo",
    "InitContainerRestartPolicyForbidden",
    "SupplementalGroupsPolicyNotSupported",
    "UnexpectedAdmissionError",
    "UnexpectedPredicateFailureType",
    "OutOfcpu",
    "OutOfmemory",
    "OutOfephemeral-storage",
    "OutOfpods",
    "PodFeatureUnsupported",
    "Evicted",
    "SysctlForbidden",
    "NodeShutdown",
    "VolumeAttachmentLimitExceeded",
];
/// Sizes of images from which on a pull has this label, the largest first.
const SIZES: [(u64, &str); 12] = [
    (100 << 30, "GT100GB"),
    (60 << 30, "60GB-100GB"),
    (40 << 30, "40GB-60GB"),
    (30 << 30, "30GB-40GB"),
    (20 << 30, "20GB-30GB"),
    (10 << 30, "10GB-20GB"),
    (5 << 30, "5GB-10GB"),
    (1 << 30, "1GB-5GB"),
    (500 << 20, "500MB-1GB"),
    (100 << 20, "100MB-500MB"),
    (10 << 20, "10MB-100MB"),
    (0, "0-10MB"),
];
static OPERATION_ENDS_S: [f64; 14] = exponential(0.005, 2.5);
static START_ENDS_S: [f64; 25] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0,
    3600.0,
];

/// The counts. Cheap to clone.
#[derive(Clone)]
pub struct Counts {
    operations: Arc<Labelled<1, Counter>>,
    operation_times: Arc<Labelled<1, Histogram>>,
    operation_errors: Arc<Labelled<1, Counter>>,
    pods: Arc<Counter>,
    pod_errors: Arc<Counter>,
    containers: Arc<Labelled<1, Counter>>,
    container_errors: Arc<Labelled<2, Counter>>,
    pod_starts: Arc<Histogram>,
    passes: Arc<Labelled<1, Histogram>>,
    pulls: Arc<Labelled<1, Histogram>>,
    provider_times: Arc<Labelled<1, Histogram>>,
    provider_errors: Arc<Labelled<1, Counter>>,
    cgroups: Arc<Labelled<1, Histogram>>,
    storage: Arc<Labelled<4, Histogram>>,
    rejections: Arc<Labelled<1, Counter>>,
    image_volumes: [Arc<Counter>; 3],
    sandboxes: Arc<Labelled<1, Histogram>>,
    sandbox_errors: Arc<Labelled<1, Counter>>,
    users: Arc<Counter>,
    user_errors: Arc<Counter>,
    preemptions: Arc<Labelled<1, Counter>>,
    containers_per_pod: Arc<Histogram>,
    pod_totals: Arc<Histogram>,
    pod_slis: Arc<Histogram>,
    images_collected: Arc<Labelled<1, Counter>>,
}

impl Counts {
    /// Told in this registry.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            operations: registry.counters(&OPERATIONS, ["operation_type"]),
            operation_times: registry.histograms(&OPERATION_TIMES, ["operation_type"], &OPERATION_ENDS_S),
            operation_errors: registry.counters(&OPERATION_ERRORS, ["operation_type"]),
            pods: registry.counter(&PODS),
            pod_errors: registry.counter(&POD_ERRORS),
            containers: registry.counters(&CONTAINERS, ["container_type"]),
            container_errors: registry.counters(&CONTAINER_ERRORS, ["code", "container_type"]),
            pod_starts: registry.histogram(&POD_STARTS, &START_ENDS_S),
            passes: registry.histograms(&PASSES, ["operation_type"], &USUAL_ENDS_S),
            pulls: registry.histograms(&PULLS, ["image_size_in_bytes"], &PULL_ENDS_S),
            provider_times: registry.histograms(&PROVIDER_TIMES, ["plugin_name"], &USUAL_ENDS_S),
            provider_errors: registry.counters(&PROVIDER_ERRORS, ["plugin_name"]),
            cgroups: registry.histograms(&CGROUPS, ["operation_type"], &USUAL_ENDS_S),
            storage: registry.histograms(&STORAGE, ["migrated", "operation_name", "status", "volume_plugin"], &STORAGE_ENDS_S),
            rejections: registry.counters(&REJECTIONS, ["reason"]),
            image_volumes: [registry.counter(&IMAGE_VOLUMES), registry.counter(&IMAGE_VOLUMES_MADE), registry.counter(&IMAGE_VOLUME_ERRORS)],
            sandboxes: registry.histograms(&SANDBOXES, ["runtime_handler"], &USUAL_ENDS_S),
            sandbox_errors: registry.counters(&SANDBOX_ERRORS, ["runtime_handler"]),
            users: registry.counter(&USERS),
            user_errors: registry.counter(&USER_ERRORS),
            preemptions: registry.counters(&PREEMPTIONS, ["preemption_signal"]),
            containers_per_pod: registry.histogram(&CONTAINERS_PER_POD, &CONTAINER_ENDS),
            pod_totals: registry.histogram(&POD_TOTALS, &START_ENDS_S),
            pod_slis: registry.histogram(&POD_SLIS, &START_ENDS_S),
            images_collected: registry.counters(&IMAGES_COLLECTED, ["reason"]),
        }
    }

    /// The runtime did something, or failed to.
    pub fn operation(&self, what: &str, took: Duration, done: bool) {
        self.operations.with([what]).inc();
        self.operation_times.with([what]).took(took);
        if !done {
            self.operation_errors.with([what]).inc();
        }
    }

    /// A pod's sandbox was asked for, maybe one with users of its own, and came or did not.
    pub fn pod(&self, own_users: bool, made: bool) {
        self.pods.inc();
        if own_users {
            self.users.inc();
        }
        if !made {
            self.pod_errors.inc();
            if own_users {
                self.user_errors.inc();
            }
        }
    }

    /// The runtime made a sandbox, or failed to: there is one handler.
    pub fn sandbox(&self, took: Duration, made: bool) {
        self.sandboxes.with([""]).took(took);
        if !made {
            self.sandbox_errors.with([""]).inc();
        }
    }

    /// A pod with so many containers was given to this node.
    pub fn given(&self, containers: usize) {
        self.containers_per_pod.observe(containers as f64);
    }

    /// A pod was refused.
    pub fn rejected(&self, reason: &str) {
        let told = match reason {
            known if REASONS.contains(&known) => known,
            other if other.starts_with("OutOf") => "OutOfExtendedResources",
            _ => "Other",
        };
        self.rejections.with([told]).inc();
    }

    /// A pod was put out, for lack of a resource that a critical pod needs.
    pub fn preempted(&self, resource: &str) {
        self.preemptions.with([resource]).inc();
    }

    /// A volume that is an image was asked for, and is there or not.
    pub fn image_volume(&self, made: bool) {
        let [asked, succeeded, failed] = &self.image_volumes;
        asked.inc();
        if made { succeeded } else { failed }.inc();
    }

    /// An image went since the disk is short (`space`).
    pub fn image_collected(&self) {
        self.images_collected.with(["space"]).inc();
    }

    /// A container is to be started.
    pub fn container(&self, kind: Kind) {
        self.containers.with([container_type(kind)]).inc();
    }

    /// It was not, and this is the reason that its status tells.
    pub fn container_failed(&self, kind: Kind, reason: &str) {
        self.container_errors.with([reason, container_type(kind)]).inc();
    }

    /// A pod's worker saw to what it was woken for (`create`, `update`, `sync` or `kill`), and rests.
    pub fn pass(&self, what: &str, took: Duration) {
        self.passes.with([what]).took(took);
    }

    /// An image of so many bytes was brought.
    pub fn pulled(&self, bytes: u64, took: Duration) {
        let size = SIZES.iter().find(|(least, _)| bytes >= *least).map_or("0-10MB", |(_, name)| name);
        self.pulls.with([size]).took(took);
    }

    /// A program for images' logins ran, or failed to.
    pub fn provider(&self, name: &str, took: Duration, done: bool) {
        self.provider_times.with([name]).took(took);
        if !done {
            self.provider_errors.with([name]).inc();
        }
    }

    /// Cgroups were made (`create`), given their limits (`update`) or removed (`destroy`).
    pub fn cgroup(&self, what: &str, took: Duration) {
        self.cgroups.with([what]).took(took);
    }

    /// Something was done with a volume of this plugin, or was not.
    pub fn storage(&self, plugin: &str, what: &str, took: Duration, done: bool) {
        let status = if done { "success" } else { "fail-unknown" };
        self.storage.with(["false", what, status, plugin]).took(took);
    }

    /// A pod runs that was seen first at this time.
    pub fn runs(&self, first_seen: SystemTime, now: SystemTime) {
        self.pod_starts.took(now.duration_since(first_seen).unwrap_or_default());
    }

    /// It runs so long after it was created, of which this is the time of its images and init containers; a pod with volumes of its own
    /// makes no promise of how soon (upstream's `isStatefulPod`).
    pub fn started(&self, whole: Duration, beside: Duration, is_stateful: bool) {
        self.pod_totals.took(whole);
        if !is_stateful {
            self.pod_slis.took(whole.saturating_sub(beside));
        }
    }
}

fn container_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Init => "init_container",
        Kind::Regular => "container",
        Kind::Ephemeral => "ephemeral_container",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dashboards_ask_for_has_the_originals_labels() {
        let registry = Registry::default();
        let counts = Counts::new(&registry);
        counts.pulled(700 << 20, Duration::from_secs(2));
        counts.pulled(3, Duration::from_secs(1));
        counts.storage("kubernetes.io/secret", "volume_mount", Duration::from_secs(1), false);
        counts.pass("create", Duration::from_millis(7));
        counts.cgroup("update", Duration::from_millis(1));
        ["OutOfcpu", "OutOfexample.com/dongle", "NodeAffinity"].into_iter().for_each(|reason| counts.rejected(reason));
        counts.started(Duration::from_secs(5), Duration::from_millis(2500), false);
        counts.started(Duration::from_secs(5), Duration::ZERO, true);
        counts.given(3);
        let text = registry.text();
        for line in [
            r#"kubelet_image_pull_duration_seconds_count{image_size_in_bytes="500MB-1GB"} 1"#,
            r#"kubelet_image_pull_duration_seconds_count{image_size_in_bytes="0-10MB"} 1"#,
            r#"storage_operation_duration_seconds_count{migrated="false",operation_name="volume_mount",status="fail-unknown",volume_plugin="kubernetes.io/secret"} 1"#,
            r#"kubelet_pod_worker_duration_seconds_bucket{operation_type="create",le="0.01"} 1"#,
            r#"kubelet_cgroup_manager_duration_seconds_count{operation_type="update"} 1"#,
            r#"kubelet_admission_rejections_total{reason="OutOfcpu"} 1"#,
            r#"kubelet_admission_rejections_total{reason="OutOfExtendedResources"} 1"#,
            r#"kubelet_admission_rejections_total{reason="Other"} 1"#,
            r#"kubelet_pod_start_sli_duration_seconds_bucket{le="3"} 1"#,
            "kubelet_pod_start_total_duration_seconds_count 2",
            r#"kubelet_containers_per_pod_count_bucket{le="4"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
