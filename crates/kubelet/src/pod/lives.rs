//! Whole lives of pods on a runtime in memory, with time paused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::plan::Kind;
use super::tests::pod;
use crate::config::Config;
use crate::settings::Options;
use crate::testing::{FakeApi, FakeNet, FakeRuntime, TempDir, clock, when};
use crate::{Clock, PodChange, run_with};

/// What a node is told that is short of nothing, whatever the test's machine has left.
pub(super) fn roomy() -> Options {
    Options { eviction_hard: vec![String::new()], image_gc_high_threshold: Some(100), ..Options::default() }
}

/// A kubelet on fakes.
pub(super) struct Node {
    _dir: TempDir,
    cgroup_root: String,
    clock: Clock,
    pub(super) api: Arc<FakeApi>,
    pub(super) runtime: Arc<FakeRuntime>,
    pub(super) changes: mpsc::UnboundedSender<PodChange>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), crate::Error>>,
}

impl Node {
    pub(super) fn fresh(name: &str) -> Self {
        let clock = clock();
        Self::start(Arc::new(FakeRuntime::new(clock.clone())), clock, TempDir::new(name))
    }

    fn start(runtime: Arc<FakeRuntime>, clock: Clock, dir: TempDir) -> Self {
        Self::start_with(runtime, clock, dir, |_| {})
    }

    pub(super) fn start_with(runtime: Arc<FakeRuntime>, clock: Clock, dir: TempDir, set: impl FnOnce(&mut Config)) -> Self {
        let api = Arc::new(FakeApi::default());
        let (changes, receiver) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let mut config = Config::new("node-1", [127, 0, 0, 1].into(), dir.path());
        config.settings = roomy().check().unwrap();
        config.clock = clock.clone();
        // Of its own, so that tests side by side can each remove theirs.
        let cgroup_root = format!("knarr-test-{}", dir.path().file_name().and_then(|n| n.to_str()).unwrap());
        config.cgroup_root.clone_from(&cgroup_root);
        set(&mut config);
        let task = tokio::spawn(run_with(config, api.clone(), runtime.clone(), Arc::new(FakeNet), volume::Drivers::default(), receiver, stop.clone()));
        Self { _dir: dir, cgroup_root, clock, api, runtime, changes, stop, task }
    }

    /// Its directory.
    pub(super) fn dir(&self) -> &std::path::Path {
        self._dir.path()
    }

    pub(super) fn apply(&self, pod: &Pod) {
        self.api.put_pod(pod);
        self.changes.send(PodChange::Applied(Arc::new(pod.clone()))).unwrap();
    }

    /// Waits until the API's pod is as wanted; nothing here takes longer than a minute of paused time.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        for _ in 0..60_000 {
            if let Some(p) = self.api.pod("n", "p").filter(|p| wanted(p)) {
                return p;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("not {what}: {:#?}", self.api.pod("n", "p"));
    }

    pub(super) async fn end(self) -> TempDir {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        crate::cgroups::Cgroups::new("/sys/fs/cgroup", &self.cgroup_root).purge().unwrap();
        let _ = nix::mount::umount2(&self._dir.path().join("memory"), nix::mount::MntFlags::MNT_DETACH);
        self._dir
    }
}

pub(super) fn is_ready(p: &Pod) -> bool {
    p.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True")
}

#[tokio::test(start_paused = true)]
async fn a_pod_comes_up_serves_and_is_deleted_in_order() {
    let node = Node::fresh("life");
    let mut p = pod(
        json!({"containers": [{"name": "a", "image": "img:1", "lifecycle": {"preStop": {"exec": {"command": ["drain"]}}}}], "terminationGracePeriodSeconds": 30}),
    );
    node.apply(&p);
    node.changes.send(PodChange::Synced).unwrap();
    let up = node.until("ready", is_ready).await;
    assert_eq!(node.api.patches().len(), 1, "{:#?}", node.api.patches());
    assert_eq!(up.status.as_ref().unwrap().phase.as_deref(), Some("Running"));
    assert_eq!(node.api.reasons(), ["Pulled", "Created", "Started"]);
    p.metadata.deletion_timestamp = Some(crate::util::time(node.runtime.now()));
    p.metadata.deletion_grace_period_seconds = Some(30);
    p.status = up.status;
    node.apply(&p);
    node.runtime.called("stop a 29s", 1).await;
    when("gone", || node.api.pod("n", "p").is_none()).await;
    assert_eq!(node.runtime.calls(), ["sandbox", "start a", "exec drain", "stop a 29s"]);
    assert_eq!(node.api.reasons().last().unwrap(), "Killing");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hook_longer_than_the_grace_period_is_cut_and_two_seconds_remain() {
    let node = Node::fresh("hook");
    let mut p = pod(json!({"containers": [{"name": "a", "image": "img:1", "lifecycle": {"preStop": {"exec": {"command": ["drain"]}}}}]}));
    node.apply(&p);
    p.status = node.until("ready", is_ready).await.status;
    node.runtime.set_exec(0, true);
    p.metadata.deletion_timestamp = Some(crate::util::time(node.runtime.now()));
    p.metadata.deletion_grace_period_seconds = Some(5);
    let begun = tokio::time::Instant::now();
    node.apply(&p);
    node.runtime.called("stop a 2s", 1).await;
    assert_eq!(begun.elapsed().as_secs(), 5);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_kubelet_adopts_and_restarts_nothing() {
    let clock = clock();
    let runtime = Arc::new(FakeRuntime::new(clock.clone()));
    let node = Node::start(runtime.clone(), clock.clone(), TempDir::new("adopt"));
    let p = pod(json!({"containers": [{"name": "a", "image": "img:1"}]}));
    node.apply(&p);
    let up = node.until("ready", is_ready).await;
    let dir = node.end().await;
    let again = Node::start(runtime.clone(), clock, dir);
    again.apply(&up);
    again.changes.send(PodChange::Synced).unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(runtime.calls(), ["sandbox", "start a"]);
    assert!(is_ready(&again.api.pod("n", "p").unwrap()));
    for patch in again.api.patches() {
        assert!(patch["status"].get("conditions").is_none(), "{patch:#}");
    }
    again.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_missing_is_told_and_tried_again() {
    let node = Node::fresh("pull");
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "missing:1"}]})));
    let waits = |p: &Pod, reason: &str| {
        let all = p.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        all.into_iter().any(|c| c.state.as_ref().and_then(|s| s.waiting.as_ref()).is_some_and(|w| w.reason.as_deref() == Some(reason)))
    };
    node.until("ErrImagePull", |p| waits(p, "ErrImagePull")).await;
    node.until("ImagePullBackOff", |p| waits(p, "ImagePullBackOff")).await;
    let events = node.api.events();
    for want in [("Pulling", "Pulling image \"missing:1\""), ("Failed", "Error: ErrImagePull"), ("BackOff", "Back-off pulling image \"missing:1\"")] {
        assert!(events.iter().any(|(r, m)| (r.as_str(), m.as_str()) == want), "{want:?} not in {events:#?}");
    }
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_that_cannot_be_run_is_told_and_then_that_it_waits() {
    let node = Node::fresh("unstartable");
    node.runtime.unstartable.store(true, Ordering::Relaxed);
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1"}]})));
    let waits = |p: &Pod, reason: &str, times: i32| {
        let all = p.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        let waits = |c: &ContainerStatus| c.state.as_ref().and_then(|s| s.waiting.as_ref()).is_some_and(|w| w.reason.as_deref() == Some(reason));
        all.into_iter().any(|c| waits(c) && c.restart_count == times)
    };
    node.until("RunContainerError", |p| waits(p, "RunContainerError", 0)).await;
    // The first time it waits for nothing.
    node.until("CrashLoopBackOff", |p| waits(p, "CrashLoopBackOff", 1)).await;
    assert!(node.api.events().contains(&("BackOff".to_owned(), "Back-off restarting failed container a in pod p_n(u)".to_owned())), "{:?}", node.api.events());
    node.runtime.unstartable.store(false, Ordering::Relaxed);
    node.until("ready", is_ready).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_liveness_probe_that_fails_three_times_restarts_the_container() {
    let node = Node::fresh("live");
    let probe = json!({"exec": {"command": ["alive"]}, "periodSeconds": 10, "failureThreshold": 3});
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1", "livenessProbe": probe}], "terminationGracePeriodSeconds": 7})));
    node.until("ready", is_ready).await;
    let begun = tokio::time::Instant::now();
    node.runtime.set_exec(1, false);
    node.runtime.called("start a", 2).await;
    assert!((20..23).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(node.runtime.calls(), ["sandbox", "start a", "exec alive", "exec alive", "exec alive", "stop a 7s", "start a"]);
    let p = node.until("restarted", |p| p.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).any(|c| c.restart_count == 1)).await;
    assert!(!node.api.reasons().contains(&"BackOff".to_owned()), "the first restart waits for nothing, and does not say that it did");
    assert!(p.status.unwrap().container_statuses.unwrap()[0].last_state.as_ref().unwrap().terminated.is_some());
    let unhealthy = node.api.reasons().iter().filter(|r| *r == "Unhealthy").count();
    assert_eq!(unhealthy, 3);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_readiness_probe_is_asked_at_once_and_again_soon() {
    let node = Node::fresh("ready");
    node.runtime.set_exec(1, false);
    let probe = json!({"exec": {"command": ["ready"]}, "periodSeconds": 10});
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1", "readinessProbe": probe}]})));
    node.runtime.called("exec ready", 2).await;
    node.runtime.set_exec(0, false);
    let begun = tokio::time::Instant::now();
    node.until("ready", is_ready).await;
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    assert!(!node.api.reasons().contains(&"Unhealthy".to_owned()));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_runs_to_its_end_succeeds_and_keeps_its_containers() {
    let node = Node::fresh("job");
    node.apply(&pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "img:1"}]})));
    node.runtime.called("start a", 1).await;
    node.runtime.exit("a", 0);
    let p = node.until("Succeeded", |p| p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Succeeded"))).await;
    assert!(!is_ready(&p));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.runtime.pod_containers_named("a"), 1);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_fit_is_refused() {
    let node = Node::fresh("refuse");
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1", "resources": {"requests": {"cpu": "9000"}}}]})));
    let p = node.until("Failed", |p| p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Failed"))).await;
    let s = p.status.unwrap();
    assert_eq!(s.reason.as_deref(), Some("OutOfcpu"));
    assert!(s.message.unwrap().starts_with("Pod was rejected: Node didn't have enough resource: cpu, requested: 9000000, used: 0"));
    assert!(s.container_statuses.is_none());
    assert!(node.runtime.calls().is_empty());
    node.end().await;
}

#[test]
fn kinds_have_their_paths() {
    assert_eq!(Kind::Init.field_path("a"), "spec.initContainers{a}");
}

/// Lets go by what would be a loop.
pub(super) async fn a_while(seconds: u64) {
    for _ in 0..seconds * 100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_not_tried_without_a_pause_however_often_the_pod_changes() {
    let node = Node::fresh("loop");
    let from = json!({"secretKeyRef": {"name": "missing", "key": "k"}});
    let mut p = pod(json!({"containers": [{"name": "a", "image": "img:1", "env": [{"name": "X", "valueFrom": from}]}]}));
    node.apply(&p);
    let waits = |p: &Pod| {
        p.status
            .iter()
            .flat_map(|s| s.container_statuses.iter().flatten())
            .any(|c| c.state.as_ref().and_then(|s| s.waiting.as_ref()).is_some_and(|w| w.reason.as_deref() == Some("CreateContainerConfigError")))
    };
    p.status = node.until("config error", waits).await.status;
    let before = node.api.reads.load(std::sync::atomic::Ordering::Relaxed);
    for i in 0..10 {
        p.metadata.labels = Some(BTreeMap::from([("n".to_owned(), i.to_string())]));
        node.apply(&p);
        a_while(1).await;
    }
    let reads = node.api.reads.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert!((2..=25).contains(&reads), "news is worth a try, at most every half second: {reads}");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_grace_period_may_be_any_number() {
    let node = Node::fresh("grace");
    let mut p = pod(json!({"containers": [{"name": "a", "image": "img:1"}], "terminationGracePeriodSeconds": i64::MAX}));
    node.apply(&p);
    p.status = node.until("ready", is_ready).await.status;
    p.metadata.deletion_timestamp = Some(crate::util::time(node.runtime.now()));
    p.metadata.deletion_grace_period_seconds = Some(i64::MAX);
    node.apply(&p);
    when("gone", || node.api.pod("n", "p").is_none()).await;
    assert_eq!(node.runtime.calls().iter().filter(|c| c.starts_with("stop a")).count(), 1);
    assert!(!node.api.reasons().contains(&"FailedSync".to_owned()));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_is_begun_anew() {
    let node = Node::fresh("panic");
    let mut p = pod(json!({"containers": [{"name": "a", "image": "img:1"}]}));
    node.apply(&p);
    p.status = node.until("ready", is_ready).await.status;
    node.runtime.trap.store(true, std::sync::atomic::Ordering::Relaxed);
    node.apply(&p);
    when("told", || node.api.reasons().contains(&"FailedSync".to_owned())).await;
    // The new worker looks after the pod as the old one did.
    node.runtime.exit("a", 1);
    node.runtime.called("start a", 2).await;
    assert_eq!(node.runtime.calls().iter().filter(|c| *c == "sandbox").count(), 1, "what ran was taken over");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_was_to_make_room_makes_it_also_by_a_worker_that_is_begun_anew() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "img:1"}]}));
    let handle = super::Handle::new(Arc::new(pod));
    let eviction = super::Eviction { reason: "Evicted".into(), message: "m".into(), condition: None, grace: Duration::ZERO, for_room: true };
    handle.evict(eviction.clone());
    for worker in ["first, which fails", "second"] {
        assert_eq!(handle.eviction(), Some(eviction.clone()), "{worker}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_hook_of_a_pod_whose_object_is_gone_is_run() {
    let node = Node::fresh("orphan");
    let hook = json!({"preStop": {"exec": {"command": ["drain"]}}});
    let mut p = pod(json!({"containers": [{"name": "a", "image": "img:1", "lifecycle": hook}], "terminationGracePeriodSeconds": 40}));
    node.apply(&p);
    p.status = node.until("ready", is_ready).await.status;
    let (runtime, clock) = (Arc::clone(&node.runtime), node.clock.clone());
    let dir = node.end().await;
    // The next kubelet finds the pod at the runtime alone.
    let node = Node::start(runtime, clock, dir);
    node.changes.send(PodChange::Synced).unwrap();
    node.runtime.called("exec drain", 1).await;
    node.runtime.called("stop a 39s", 1).await;
    node.end().await;
}

/// A kubelet that dies while the first of those that begin anew runs leaves the others removed, and waiting.
#[tokio::test(start_paused = true)]
async fn who_was_removed_to_begin_anew_does_so_whoever_removed_him() {
    let node = Node::fresh("removed");
    let removed = json!({"terminated": {"exitCode": 137, "reason": "RestartingAllContainers"}});
    let told = json!({"phase": "Pending", "containerStatuses": [{"name": "a", "image": "img:1", "imageID": "", "ready": false, "restartCount": 1,
        "state": {"waiting": {"reason": "PodInitializing"}}, "lastState": removed}]});
    let p = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "img:1"}]}));
    node.apply(&Pod { status: serde_json::from_value(told).unwrap(), ..p });
    node.runtime.called("start a", 1).await;
    let p = node.until("ready", is_ready).await;
    assert_eq!(p.status.unwrap().container_statuses.unwrap()[0].restart_count, 1);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_to_look_into_a_container_that_is_not_there_is_not_started() {
    let node = Node::fresh("no-target");
    let looker = json!({"name": "d", "image": "img:1", "targetContainerName": "b"});
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1"}], "ephemeralContainers": [looker]})));
    let waits = |p: &Pod| p.status.as_ref()?.ephemeral_container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.clone();
    let reason = |p: &Pod| waits(p).and_then(|w| w.reason);
    let p = node.until("told", |p| is_ready(p) && reason(p).as_deref() == Some("CreateContainerConfigError")).await;
    assert_eq!(waits(&p).and_then(|w| w.message).as_deref(), Some("unable to find target container b"));
    assert!(!node.runtime.calls().contains(&"start d".to_owned()));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_to_look_into_a_container_that_has_ended_waits_for_it() {
    let node = Node::fresh("ended-target");
    let image = |name: &str| json!({"name": name, "image": "img:1"});
    let with = |lookers: serde_json::Value| pod(json!({"restartPolicy": "OnFailure", "containers": [image("a"), image("b")], "ephemeralContainers": lookers}));
    node.apply(&with(json!([])));
    node.until("ready", is_ready).await;
    node.runtime.exit("b", 0);
    let status = node.until("ended", |p| !is_ready(p)).await.status;
    let looks = |name: &str, into: &str| json!({"name": name, "image": "img:1", "targetContainerName": into});
    node.apply(&Pod { status, ..with(json!([looks("d", "b"), looks("e", "a")])) });
    let state = |p: &Pod, at: usize| p.status.as_ref()?.ephemeral_container_statuses.as_ref()?.get(at)?.state.clone();
    let p = node.until("told", |p| state(p, 0).is_some_and(|s| s.waiting.is_some()) && state(p, 1).is_some_and(|s| s.running.is_some())).await;
    let waits = state(&p, 0).and_then(|s| s.waiting).unwrap();
    assert_eq!(waits.reason.as_deref(), Some("CreateContainerError"));
    assert_eq!(waits.message.as_deref(), Some("invalid target container: container \"b\" is not running"));
    assert!(!node.runtime.calls().contains(&"start d".to_owned()));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn why_a_pod_has_failed_is_told_when_it_has_stopped() {
    let node = Node::fresh("why");
    let hooked = json!({"name": "a", "image": "img:1", "lifecycle": {"preStop": {"exec": {"command": ["drain"]}}}});
    node.apply(&pod(json!({"activeDeadlineSeconds": 5, "terminationGracePeriodSeconds": 20, "containers": [hooked]})));
    node.until("ready", is_ready).await;
    node.runtime.set_exec(0, true);
    node.runtime.called("exec drain", 1).await;
    a_while(2).await;
    let told = |p: &Pod| p.status.as_ref().map(|s| (s.phase.clone().unwrap_or_default(), s.reason.clone())).unwrap_or_default();
    assert_eq!(told(&node.api.pod("n", "p").unwrap()), ("Running".to_owned(), None));
    let p = node.until("failed", |p| told(p).0 == "Failed").await;
    assert_eq!(told(&p).1.as_deref(), Some("DeadlineExceeded"));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_another_ended_is_torn_down() {
    let node = Node::fresh("ended");
    let mut p = pod(json!({"containers": [{"name": "a", "image": "img:1"}], "terminationGracePeriodSeconds": 9}));
    node.apply(&p);
    p.status = node.until("ready", is_ready).await.status;
    p.status.as_mut().unwrap().phase = Some("Failed".into());
    p.metadata.resource_version = Some("5000".into());
    node.apply(&p);
    node.runtime.called("stop a 9s", 1).await;
    let p = node
        .until("told", |p| {
            p.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).any(|c| c.state.as_ref().is_some_and(|s| s.terminated.is_some()))
        })
        .await;
    assert_eq!(p.status.unwrap().phase.as_deref(), Some("Failed"));
    assert_eq!(node.runtime.calls().iter().filter(|c| *c == "start a").count(), 1, "it is not started again");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_counts_as_running_when_its_post_start_hook_has_ended() {
    let node = Node::fresh("hooked");
    node.runtime.set_exec(0, true);
    let hook = json!({"postStart": {"exec": {"command": ["hook"]}}});
    let probe = json!({"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1});
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1", "lifecycle": hook, "livenessProbe": probe}]})));
    node.runtime.called("exec hook", 1).await;
    a_while(20).await;
    let p = node.api.pod("n", "p").unwrap();
    assert!(!is_ready(&p));
    let c = p.status.unwrap().container_statuses.unwrap()[0].clone();
    assert_eq!(c.state.unwrap().waiting.unwrap().reason.as_deref(), Some("ContainerCreating"));
    assert_eq!(node.runtime.calls(), ["sandbox", "start a", "exec hook"], "it is not probed either");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stopped_after_its_hook_failed_is_stopped_later() {
    let node = Node::fresh("unhooked");
    node.runtime.set_exec(1, false);
    node.runtime.stuck.store(true, std::sync::atomic::Ordering::Relaxed);
    let hook = json!({"postStart": {"exec": {"command": ["hook"]}}});
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1", "lifecycle": hook}]})));
    let begun = Instant::now();
    node.runtime.called("stop a 30s", 2).await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "not without a pause: {:?}", begun.elapsed());
    node.runtime.stuck.store(false, std::sync::atomic::Ordering::Relaxed);
    node.runtime.called("start a", 2).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_be_stopped_says_so() {
    let node = Node::fresh("unstoppable");
    let mut p = pod(json!({"containers": [{"name": "a", "image": "img:1"}]}));
    node.apply(&p);
    p.status = node.until("ready", is_ready).await.status;
    node.runtime.stuck.store(true, Ordering::Relaxed);
    p.metadata.deletion_timestamp = Some(crate::util::time(node.runtime.now()));
    p.metadata.deletion_grace_period_seconds = Some(5);
    node.apply(&p);
    a_while(1).await;
    let why = r#"error killing pod: failed to "KillContainer" for "a" with KillContainerError: "no shim""#;
    assert!(node.api.events().contains(&("FailedKillPod".to_owned(), why.to_owned())), "{:?}", node.api.events());
    node.runtime.stuck.store(false, Ordering::Relaxed);
    when("gone", || node.api.pod("n", "p").is_none()).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_to_be_let_in_keeps_what_he_had() {
    let dir = TempDir::new("held");
    let (mine, other) = (dir.path().join("pods/u/volumes"), dir.path().join("pods/other/volumes"));
    for dir in [&mine, &other] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let clock = clock();
    let node = Node::start(Arc::new(FakeRuntime::new(clock.clone())), clock, dir);
    // The node's labels are not known yet, as after a reboot.
    node.api.silent.store(true, std::sync::atomic::Ordering::Relaxed);
    node.apply(&pod(json!({"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "a", "image": "img:1"}]})));
    node.changes.send(PodChange::Synced).unwrap();
    while other.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    a_while(1).await;
    assert!(mine.exists(), "what it wrote before is its own");
    let failed = |p: &Pod| p.status.as_ref().is_some_and(|s| s.reason.as_deref() == Some("NodeAffinity"));
    node.until("refused", failed).await;
    while mine.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_to_be_let_in_can_be_deleted() {
    let node = Node::fresh("held-gone");
    node.api.silent.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut p = pod(json!({"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "a", "image": "img:1"}]}));
    node.apply(&p);
    p.metadata.deletion_timestamp = Some(crate::util::time(node.runtime.now()));
    let begun = Instant::now();
    node.apply(&p);
    when("gone", || node.api.pod("n", "p").is_none()).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(node.runtime.calls().is_empty());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_makes_room_for_what_has_ended() {
    let node = Node::fresh("over");
    // More than half of the node: there is no room for two.
    let cpu = format!("{}m", std::thread::available_parallelism().map_or(1, std::num::NonZero::get) * 600);
    let big = |name: &str, priority: i32| -> Pod {
        let asks = json!({"requests": {"cpu": cpu}});
        let mut p = pod(json!({"priority": priority, "containers": [{"name": "a", "image": "img:1", "resources": asks}]}));
        (p.metadata.name, p.metadata.uid) = (Some(name.into()), Some(name.into()));
        p
    };
    node.apply(&big("p", 0));
    node.until("ready", is_ready).await;
    // It is critical, but it has ended, and nothing of it is left on the host.
    let mut over = big("over", 2_000_001_000);
    over.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
    node.apply(&over);
    a_while(5).await;
    assert_eq!(node.runtime.calls(), ["sandbox", "start a"]);
    assert!(is_ready(&node.api.pod("n", "p").unwrap()));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn logs_go_with_the_runs_that_they_are_of() {
    let node = Node::fresh("logs");
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1"}]})));
    let mut logs = Vec::new();
    for run in 1..=3 {
        node.runtime.called("start a", run).await;
        let log = node.runtime.logs_of("a").pop().unwrap();
        std::fs::write(&log, "x").unwrap();
        std::fs::write(format!("{}.1", log.display()), "rotated").unwrap();
        logs.push(log);
        node.runtime.exit("a", 1);
    }
    node.runtime.called("start a", 4).await;
    while logs[1].exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rotated = |log: &std::path::Path| std::path::PathBuf::from(format!("{}.1", log.display()));
    assert!(!logs[0].exists() && !rotated(&logs[0]).exists() && !rotated(&logs[1]).exists());
    assert!(logs[2].exists() && rotated(&logs[2]).exists(), "the run before the present one can still be read");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn directories_are_roots_alone() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::fresh("modes");
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1"}]})));
    node.until("ready", is_ready).await;
    let root = node._dir.path().to_path_buf();
    for dir in ["", "pods", "pods/u", "memory", "logs", "logs/n_p_u", "logs/n_p_u/a"] {
        let mode = std::fs::metadata(root.join(dir)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{dir}");
    }
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_cannot_be_put_is_no_verdict_and_its_command_knows_the_environment() {
    let node = Node::fresh("unknown");
    let probe = json!({"exec": {"command": ["test", "-f", "$(FILE)", "$$(FILE)", "$(OTHER)"]}, "periodSeconds": 1, "failureThreshold": 1});
    let env = json!([{"name": "FILE", "value": "/ok"}]);
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1", "livenessProbe": probe, "env": env}]})));
    node.until("ready", is_ready).await;
    node.runtime.called("exec test -f /ok $(FILE) $(OTHER)", 1).await;
    node.runtime.broken.store(true, std::sync::atomic::Ordering::Relaxed);
    a_while(20).await;
    assert!(!node.runtime.calls().iter().any(|c| c.starts_with("stop")), "{:?}", node.runtime.calls());
    let told = "Liveness probe errored and resulted in unknown state: no shim";
    assert!(node.api.events().iter().any(|(r, m)| r == "Unhealthy" && m == told));
    node.runtime.broken.store(false, std::sync::atomic::Ordering::Relaxed);
    node.runtime.set_exec(1, false);
    node.runtime.called("start a", 2).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_does_not_wait_for_the_image_of_a_volume() {
    let node = Node::fresh("stall");
    node.runtime.stalled.store(true, std::sync::atomic::Ordering::Relaxed);
    let volumes = json!([{"name": "v", "image": {"reference": "missing:1"}}]);
    let mut p = pod(json!({"containers": [{"name": "a", "image": "img:1"}], "volumes": volumes}));
    node.apply(&p);
    node.runtime.called("pull missing:1", 1).await;
    p.metadata.deletion_timestamp = Some(crate::util::time(node.runtime.now()));
    p.metadata.deletion_grace_period_seconds = Some(30);
    let begun = Instant::now();
    node.apply(&p);
    when("gone", || node.api.pod("n", "p").is_none()).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_waits_for_the_image_of_its_volume_and_says_so() {
    let node = Node::fresh("image-volume");
    let (volumes, mounts) = (json!([{"name": "v", "image": {"reference": "missing:1"}}]), json!([{"name": "v", "mountPath": "/v"}]));
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1", "volumeMounts": mounts}, {"name": "b", "image": "img:1"}], "volumes": volumes})));
    let reason = |p: &Pod, name: &str| {
        let all = p.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        all.filter(|c| c.name == name).find_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.clone())
    };
    let p = node.until("told", |p| reason(p, "a").is_some_and(|r| r == "ImagePullBackOff")).await;
    assert_eq!(reason(&p, "b").as_deref(), Some("ContainerCreating"), "which has no such volume");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sidecars_turn_comes_when_the_others_have_ended_whoever_stopped_them() {
    let node = Node::fresh("turns");
    let probe = json!({"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 5});
    let mut p = pod(json!({"initContainers": [{"name": "side", "image": "img:1", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "img:1", "livenessProbe": probe, "lifecycle": {"preStop": {"sleep": {"seconds": 3}}}}], "terminationGracePeriodSeconds": 60}));
    node.apply(&p);
    p.status = node.until("ready", is_ready).await.status;
    node.runtime.set_exec(1, false);
    when("told", || node.api.reasons().contains(&"Killing".to_owned())).await;
    // Its hook sleeps, for the probe's sake, when the pod is deleted.
    p.metadata.deletion_timestamp = Some(crate::util::time(node.runtime.now()));
    p.metadata.deletion_grace_period_seconds = Some(60);
    let begun = Instant::now();
    node.apply(&p);
    when("gone", || node.api.pod("n", "p").is_none()).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    node.end().await;
}

#[test]
fn what_volumes_show_of_a_pod_makes_them_stale() {
    let with = |cpu: &str, label: &str| {
        let mut p = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}));
        p.metadata.labels = Some(BTreeMap::from([("l".to_owned(), label.to_owned())]));
        Arc::new(p)
    };
    let handle = super::Handle::new(with("1", "x"));
    for (pod, stale) in [(with("1", "x"), false), (with("2", "x"), true), (with("2", "x"), false), (with("2", "y"), true)] {
        handle.update(pod);
        assert_eq!(handle.take_stale(), stale);
    }
}

#[test]
fn a_pod_that_the_api_no_longer_has_holds_nothing() {
    let pods = super::manager::Pods::default();
    let handle = Arc::new(super::Handle::new(Arc::new(pod(json!({"containers": [{"name": "a"}]})))));
    pods.insert(&handle);
    let nobody = crate::cri::PodUid("other".into());
    assert_eq!(pods.others(&nobody).len(), 1);
    handle.remove(None);
    assert!(pods.others(&nobody).is_empty(), "its successor has its place");
    assert!(pods.named("n", "p").is_some(), "and yet it can be looked at while it ends");
}

/// `kubectl set image` mends a pod at once, whatever the image before had to wait for.
#[tokio::test(start_paused = true)]
async fn another_image_does_not_wait_for_the_pause_of_the_one_before() {
    let soon = Duration::from_secs(3);
    let with = |image: &str, status| {
        let mut p = pod(json!({"containers": [{"name": "a", "image": image}]}));
        p.status = status;
        p
    };
    let waits = |p: &Pod, reason: &str| {
        let mut all = p.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        all.any(|c| c.state.as_ref().and_then(|s| s.waiting.as_ref()).is_some_and(|w| w.reason.as_deref() == Some(reason)))
    };
    let node = Node::fresh("set-image");
    node.apply(&with("missing:1", None));
    // The pauses have grown.
    tokio::time::sleep(Duration::from_secs(100)).await;
    let told = node.until("ImagePullBackOff", |p| waits(p, "ImagePullBackOff")).await;
    let begun = Instant::now();
    node.apply(&with("img:1", told.status));
    node.until("ready", is_ready).await;
    assert!(begun.elapsed() < soon, "{:?}", begun.elapsed());
    for starts in 1..4 {
        node.runtime.called("start a", starts).await;
        node.runtime.exit("a", 1);
    }
    let told = node.until("CrashLoopBackOff", |p| waits(p, "CrashLoopBackOff")).await;
    let begun = Instant::now();
    node.apply(&with("img:2", told.status));
    node.runtime.called("start a", 4).await;
    assert!(begun.elapsed() < soon, "{:?}", begun.elapsed());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_former_pods_left_goes_and_what_a_pod_has_stays() {
    let dir = TempDir::new("sweep");
    let of = |uid: &str| dir.path().join("pods").join(uid);
    let (former, own) = (of("former"), of("u"));
    for pod in [&former, &own] {
        std::fs::create_dir_all(pod.join("volumes/data")).unwrap();
    }
    let clock = clock();
    let node = Node::start(Arc::new(FakeRuntime::new(clock.clone())), clock, dir);
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1"}]})));
    assert!(former.exists(), "nothing is nobody's before all pods are known");
    node.changes.send(PodChange::Synced).unwrap();
    node.until("ready", is_ready).await;
    while former.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(own.join("volumes/data").exists());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_volumes_troubles_as_many_are_told_as_an_event_has_room_for() {
    let node = Node::fresh("troubles");
    let shows = |n: usize| json!({"path": "p", "resourceFieldRef": {"containerName": format!("c{n}"), "resource": "limits.cpu"}});
    let sources: Vec<_> = (0..80).map(|n| json!({"downwardAPI": {"items": [shows(n)]}})).collect();
    let volume = json!({"name": "v", "projected": {"sources": sources}});
    node.apply(&pod(json!({"containers": [{"name": "a", "image": "img:1"}], "volumes": [volume]})));
    let failed = || node.api.events().into_iter().find(|(reason, _)| reason == "FailedMount");
    node.until("told", |_| failed().is_some()).await;
    let (_, told) = failed().expect("it was told");
    assert_eq!(told.matches(" not found").count(), 64, "{told}");
    node.end().await;
}
