//! The planner and the status as tables, and whole lives of pods on a runtime in memory, with time paused.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::plan::{self, Action, Failure, Kind, Plan, View};
use super::status;
use crate::config::Config;
use crate::cri::{Container, ContainerId, Sandbox, State};
use crate::probes::Results;
use crate::testing::{FakeApi, FakeNet, FakeRuntime, TempDir, clock, container, sandbox};
use crate::{Clock, PodChange, run_with};

fn at(s: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(s)
}

/// The same points in time by the clock that waits are measured by.
fn tick(s: u64) -> Instant {
    static ZERO: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *ZERO.get_or_init(Instant::now) + Duration::from_secs(s)
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

/// What the planner sees, with what the tables vary.
struct Scene {
    pod: Pod,
    sandbox: Option<Sandbox>,
    set_up: bool,
    containers: Vec<Container>,
    probes: HashMap<ContainerId, Results>,
    failures: BTreeMap<String, Failure>,
    backoff: Backoff,
    killing: HashSet<ContainerId>,
    again: HashSet<ContainerId>,
    now: u64,
}

impl Scene {
    fn new(spec: Value, containers: Vec<Container>) -> Self {
        let probes = containers.iter().map(|c| (c.id.clone(), Results { started: true, ready: true, ..Results::default() })).collect();
        Self {
            pod: pod(spec),
            sandbox: Some(sandbox("u", true)),
            set_up: true,
            containers,
            probes,
            failures: BTreeMap::new(),
            backoff: Backoff::default(),
            killing: HashSet::new(),
            again: HashSet::new(),
            now: 205,
        }
    }

    fn plan(&self) -> Plan {
        plan::plan(&View {
            pod: &self.pod,
            sandbox: self.sandbox.as_ref(),
            set_up: self.set_up,
            set_up_waits: None,
            containers: &self.containers,
            ended: &self.containers.iter().filter(|c| c.state == State::Exited).map(|c| (c.id.clone(), tick(200))).collect(),
            again: &self.again,
            probes: &self.probes,
            failures: &self.failures,
            backoff: &self.backoff,
            outgrown: &HashSet::new(),
            killing: &self.killing,
            busy: false,
            now: tick(self.now),
        })
    }

    /// The steps in short: `setup`, `start init 0`, `kill ID`, `finish`.
    fn steps(&self) -> Vec<String> {
        let short = |a: &Action| match a {
            Action::SetUp => "setup".to_owned(),
            Action::Start { kind, index, .. } => format!("start {} {index}", kind.label()),
            Action::Kill { id, again, .. } => format!("kill {id}{}", if *again { " and again" } else { "" }),
            Action::Reset(order) => format!("reset {}", order.iter().map(|id| id.0.as_str()).collect::<Vec<_>>().join(" ")),
            Action::Finish => "finish".to_owned(),
        };
        self.plan().actions.iter().map(short).collect()
    }
}

fn running(name: &str) -> Container {
    container(name, 0, State::Running, 0)
}

fn exited(name: &str, code: i32) -> Container {
    container(name, 0, State::Exited, code)
}

#[test]
fn init_containers_come_one_by_one_and_sidecars_count_when_started() {
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [{"name": "i1"}, {"name": "side", "restartPolicy": "Always"}, {"name": "i2"}],
        "containers": [{"name": "a"}, {"name": "b"}]});
    let steps = |containers: Vec<Container>| Scene::new(spec.clone(), containers).steps();
    assert_eq!(steps(vec![]), ["start init 0"]);
    assert_eq!(steps(vec![running("i1")]), Vec::<String>::new());
    assert_eq!(steps(vec![exited("i1", 1)]), ["finish"]);
    assert_eq!(steps(vec![exited("i1", 0)]), ["start init 1"]);
    assert_eq!(steps(vec![exited("i1", 0), running("side")]), ["start init 2"]);
    let mut waits = Scene::new(spec.clone(), vec![exited("i1", 0), running("side")]);
    waits.probes.insert(ContainerId("side-0".into()), Results::default());
    assert_eq!(waits.steps(), Vec::<String>::new(), "a sidecar's startup probe is waited for");
    let up = vec![exited("i1", 0), running("side"), exited("i2", 0)];
    assert_eq!(steps(up.clone()), ["start regular 0", "start regular 1"]);
    let both = |x: Container, y: Container| [up.clone(), vec![x, y]].concat();
    assert_eq!(steps(both(running("a"), exited("b", 1))), Vec::<String>::new());
    assert_eq!(steps(both(exited("a", 0), exited("b", 1))), ["finish"]);
    // A sidecar that ends is started again as long as the pod serves.
    let side_ended = vec![exited("i1", 0), exited("side", 1), exited("i2", 0), running("a"), running("b")];
    assert_eq!(steps(side_ended), ["start init 1"]);
}

#[test]
fn restart_policies() {
    for (policy, code, restarts) in [("Always", 0, true), ("Always", 1, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 1, false)] {
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
        let want = if restarts { "start regular 0" } else { "finish" };
        assert_eq!(Scene::new(spec, vec![exited("a", code)]).steps(), [want], "{policy} {code}");
    }
    let rules = json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]});
    assert_eq!(Scene::new(rules.clone(), vec![exited("a", 42)]).steps(), ["start regular 0"]);
    assert_eq!(Scene::new(rules, vec![exited("a", 1)]).steps(), ["finish"]);
}

#[test]
fn a_crash_loop_waits_and_says_so() {
    let mut scene = Scene::new(json!({"containers": [{"name": "a"}]}), vec![exited("a", 1)]);
    let key = plan::restart_key(&scene.pod.spec.as_ref().unwrap().containers[0]);
    scene.backoff.next(&key, tick(190), tick(190));
    let made = scene.plan();
    assert!(made.actions.is_empty());
    assert_eq!(made.wake_at, Some(tick(210)));
    let (reason, message) = &made.waiting["a"];
    assert_eq!((reason.as_str(), message.as_str()), ("CrashLoopBackOff", "back-off 10s restarting failed container=a pod=p_n(u)"));
    scene.now = 210;
    assert_eq!(scene.steps(), ["start regular 0"]);
    // Another image has not failed yet, neither to run nor to come.
    scene.now = 205;
    let failure = Failure { reason: "ImagePullBackOff".into(), message: "m".into(), image: None, retry_at: tick(999) };
    scene.failures.insert("a".into(), failure);
    assert!(scene.steps().is_empty());
    scene.pod.spec.as_mut().unwrap().containers[0].image = Some("other:2".into());
    assert_eq!(scene.steps(), ["start regular 0"]);
    assert!(scene.plan().waiting.is_empty());
}

#[test]
fn what_was_killed_to_run_again_does_whatever_its_end() {
    for (policy, kill, then) in
        [("Always", "kill a-0 and again", "start regular 0"), ("OnFailure", "kill a-0 and again", "start regular 0"), ("Never", "kill a-0", "finish")]
    {
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
        let mut scene = Scene::new(spec.clone(), vec![running("a")]);
        scene.probes.insert(ContainerId("a-0".into()), Results { started: true, liveness_failed: true, ..Results::default() });
        assert_eq!(scene.steps(), [kill], "{policy}");
        // It ended with 0 on its stop signal.
        let mut scene = Scene::new(spec, vec![exited("a", 0)]);
        if kill.ends_with("again") {
            scene.again.insert(ContainerId("a-0".into()));
            assert_eq!(status_of(&scene, &PodStatus::default(), false).phase.as_deref(), Some("Running"), "{policy}");
        }
        assert_eq!(scene.steps(), [then], "{policy}");
    }
    let mut changed = running("a");
    changed.labels.insert(crate::cri::label::CONTAINER_HASH.into(), "other".into());
    let never = json!({"restartPolicy": "Never", "containers": [{"name": "a"}]});
    assert_eq!(Scene::new(never, vec![changed]).steps(), ["kill a-0 and again"], "a changed one whatever the policy");
}

/// The runs that a reboot took, from the API's status.
fn after_reboot(spec: Value, statuses: Value) -> Scene {
    let status: PodStatus = serde_json::from_value(json!({"phase": "Running", "containerStatuses": statuses})).unwrap();
    let mut scene = Scene::new(spec, super::lost::runs(&status, &[]));
    (scene.sandbox, scene.set_up) = (None, false);
    scene.pod.status = Some(status);
    scene
}

#[test]
fn a_reboot_runs_nothing_twice_that_may_run_once() {
    let ran = |name: &str| json!({"name": name, "image": "i", "imageID": "", "ready": true, "restartCount": 2, "containerID": format!("knarr://{name}-2"), "state": {"running": {}}});
    let done = |name: &str| {
        json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "containerID": format!("knarr://{name}-0"),
        "state": {"terminated": {"exitCode": 0, "reason": "Completed", "containerID": format!("knarr://{name}-0")}}})
    };
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
    let never = after_reboot(spec("Never"), json!([ran("a"), done("b")]));
    assert_eq!(never.steps(), ["finish"]);
    let old = never.pod.status.clone().unwrap();
    assert_eq!(status_of(&never, &old, true).phase.as_deref(), Some("Failed"));
    let mut failing = after_reboot(spec("OnFailure"), json!([ran("a"), done("b")]));
    assert_eq!(failing.steps(), ["setup"]);
    let told = status_of(&failing, &old, false);
    let a = &told.container_statuses.as_ref().unwrap()[0];
    let end = a.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((end.reason.as_deref(), end.exit_code, a.restart_count), (Some("ContainerStatusUnknown"), 137, 3));
    assert!(a.state.as_ref().unwrap().waiting.is_some());
    assert_eq!(told.phase.as_deref(), Some("Running"));
    let b = &told.container_statuses.as_ref().unwrap()[1];
    assert_eq!(b.state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 0);
    // In the new sandbox what has succeeded stays so.
    (failing.sandbox, failing.set_up) = (Some(sandbox("u", true)), true);
    assert_eq!(failing.steps(), ["start regular 0"]);
    let mut always = after_reboot(spec("Always"), json!([ran("a"), done("b")]));
    (always.sandbox, always.set_up) = (Some(sandbox("u", true)), true);
    assert_eq!(always.steps(), ["start regular 0", "start regular 1"]);
}

#[test]
fn a_new_sandbox_for_nothing_is_not_made() {
    let dead = |spec: Value, containers: Vec<Container>| {
        let mut scene = Scene::new(spec, containers);
        scene.sandbox = Some(sandbox("u", false));
        scene.steps()
    };
    let two = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(dead(two("Never"), vec![exited("a", 0)]), ["finish"], "one ran and the other was not made yet");
    assert_eq!(dead(two("Never"), vec![]), ["setup"]);
    assert_eq!(dead(two("OnFailure"), vec![exited("a", 0), exited("b", 0)]), ["finish"]);
    assert_eq!(dead(two("OnFailure"), vec![exited("a", 0), exited("b", 1)]), ["setup"]);
}

#[test]
fn one_container_can_make_all_begin_anew() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [7]}}]}]});
    let mut scene = Scene::new(spec.clone(), vec![exited("i", 0), running("a"), exited("b", 7)]);
    assert_eq!(scene.steps(), ["reset a-0 i-0 b-0"], "the one that says so goes last");
    let restarting = |scene: &Scene| conditions(&status_of(scene, &PodStatus::default(), false))["AllContainersRestarting"].clone();
    assert_eq!(restarting(&scene), "True RestartAllContainersStarted");
    // They are removed: the first begins.
    scene.containers = scene.containers.iter().map(super::lost::removed).collect();
    scene.again = scene.containers.iter().map(|c| c.id.clone()).collect();
    assert_eq!(scene.steps(), ["start init 0"]);
    assert_eq!(restarting(&scene), "False");
    assert_eq!(status_of(&scene, &PodStatus::default(), false).phase.as_deref(), Some("Running"));
    assert!(Scene::new(spec, vec![exited("i", 0), running("a"), exited("b", 1)]).steps().is_empty(), "another code is another rule");
}

#[test]
fn a_phase_that_another_made_terminal_stands() {
    let mut scene = Scene::new(json!({"containers": [{"name": "a"}]}), vec![running("a")]);
    scene.pod.status = Some(serde_json::from_value(json!({"phase": "Failed", "reason": "NodeLost", "message": "m"})).unwrap());
    let ours: PodStatus = serde_json::from_value(json!({"phase": "Running"})).unwrap();
    let s = status_of(&scene, &ours, false);
    assert_eq!((s.phase.as_deref(), s.reason.as_deref()), (Some("Failed"), Some("NodeLost")));
    // A reason goes with its phase.
    scene.pod.status = None;
    let pending: PodStatus = serde_json::from_value(json!({"phase": "Pending", "reason": "old"})).unwrap();
    assert_eq!(status_of(&scene, &pending, false).reason, None);
}

#[test]
fn probes_and_changes_kill_and_a_dead_sandbox_is_made_anew() {
    let spec = json!({"containers": [{"name": "a"}]});
    let mut scene = Scene::new(spec.clone(), vec![running("a")]);
    scene.probes.insert(ContainerId("a-0".into()), Results { started: true, liveness_failed: true, ..Results::default() });
    assert_eq!(scene.steps(), ["kill a-0 and again"]);
    assert!(matches!(&scene.plan().actions[0], Action::Kill { message, .. } if message == "Container a failed liveness probe, will be restarted"));
    scene.killing.insert(ContainerId("a-0".into()));
    assert_eq!(scene.steps(), Vec::<String>::new());
    let mut changed = running("a");
    changed.labels.insert(crate::cri::label::CONTAINER_HASH.into(), "other".into());
    assert_eq!(Scene::new(spec.clone(), vec![changed]).steps(), ["kill a-0 and again"]);
    let mut dead = Scene::new(spec, vec![exited("a", 137)]);
    dead.sandbox = Some(sandbox("u", false));
    assert_eq!(dead.steps(), ["setup"]);
    dead.pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    assert_eq!(dead.steps(), ["finish"]);
}

fn status_of(scene: &Scene, old: &PodStatus, terminal: bool) -> PodStatus {
    let waiting = scene.plan().waiting;
    let ips = ["10.0.0.9".parse().unwrap()];
    let host = ["10.0.0.1".parse().unwrap()];
    status::generate(&status::View {
        pod: &scene.pod,
        old,
        sandbox: scene.sandbox.as_ref(),
        containers: &scene.containers,
        again: &scene.again,
        probes: &scene.probes,
        waiting: &waiting,
        messages: &HashMap::new(),
        applied: &HashMap::new(),
        resize: (None, None),
        host_ips: &host,
        pod_ips: if scene.set_up { &ips } else { &[] },
        set_up: scene.set_up,
        start_time: at(50),
        forced: None,
        terminal,
        scheme: "knarr",
        now: at(scene.now),
    })
}

fn conditions(s: &PodStatus) -> BTreeMap<String, String> {
    let show = |c: &k8s_openapi::api::core::v1::PodCondition| match &c.reason {
        Some(r) => format!("{} {r}", c.status),
        None => c.status.clone(),
    };
    s.conditions.iter().flatten().map(|c| (c.type_.clone(), show(c))).collect()
}

#[test]
fn phases_and_conditions() {
    let always = json!({"containers": [{"name": "a"}]});
    let never = json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]});
    let none = PodStatus::default();
    let phase = |spec: &Value, containers: Vec<Container>, terminal: bool| status_of(&Scene::new(spec.clone(), containers), &none, terminal).phase.unwrap();
    assert_eq!(phase(&always, vec![], false), "Pending");
    assert_eq!(phase(&always, vec![running("a")], false), "Running");
    assert_eq!(phase(&always, vec![exited("a", 1)], false), "Running");
    assert_eq!(phase(&never, vec![exited("a", 0), exited("b", 0)], true), "Succeeded");
    assert_eq!(phase(&never, vec![exited("a", 0), exited("b", 2)], true), "Failed");
    assert_eq!(phase(&always, vec![exited("a", 137)], true), "Failed");
    let up = status_of(&Scene::new(always.clone(), vec![running("a")]), &none, false);
    let want = ["ContainersReady", "Initialized", "PodReadyToStartContainers", "PodScheduled", "Ready"];
    assert_eq!(conditions(&up), want.iter().map(|c| ((*c).to_owned(), "True".to_owned())).collect());
    assert_eq!(up.pod_ip.as_deref(), Some("10.0.0.9"));
    assert_eq!(up.container_statuses.as_ref().unwrap()[0].container_id.as_deref(), Some("knarr://a-0"));
    let done = status_of(&Scene::new(never, vec![exited("a", 0), exited("b", 0)]), &none, true);
    assert_eq!(conditions(&done)["Ready"], "False PodCompleted");
    assert_eq!(conditions(&done)["Initialized"], "True PodCompleted");
    let t = done.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!((t.reason.as_deref(), t.exit_code), (Some("Completed"), 0));
}

#[test]
fn what_never_ran_stays_waiting_when_init_failed() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i1"}, {"name": "i2"}], "containers": [{"name": "a"}]});
    let s = status_of(&Scene::new(spec, vec![exited("i1", 1)]), &PodStatus::default(), true);
    assert_eq!(s.phase.as_deref(), Some("Failed"));
    let reason = |c: &k8s_openapi::api::core::v1::ContainerStatus| c.state.as_ref().unwrap().waiting.as_ref().and_then(|w| w.reason.clone());
    assert_eq!(reason(&s.container_statuses.unwrap()[0]).as_deref(), Some("PodInitializing"));
    assert_eq!(reason(&s.init_container_statuses.unwrap()[1]).as_deref(), Some("PodInitializing"));
    // Without init containers one that cannot be found was lost.
    let s = status_of(&Scene::new(json!({"containers": [{"name": "a"}]}), vec![]), &PodStatus::default(), true);
    assert_eq!(s.container_statuses.unwrap()[0].state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 137);
}

#[test]
fn unready_containers_are_named() {
    let mut scene = Scene::new(json!({"containers": [{"name": "a"}, {"name": "b"}]}), vec![running("a"), running("b")]);
    scene.probes.insert(ContainerId("b-0".into()), Results { started: true, ..Results::default() });
    let s = status_of(&scene, &PodStatus::default(), false);
    let ready = s.conditions.iter().flatten().find(|c| c.type_ == "Ready").unwrap().clone();
    assert_eq!((ready.reason.as_deref(), ready.message.as_deref()), (Some("ContainersNotReady"), Some("containers with unready status: [b]")));
    // A condition that stays as it was keeps its time.
    scene.now = 999;
    let later = status_of(&scene, &s, false);
    assert_eq!(later.conditions, s.conditions);
}

/// A kubelet on fakes.
struct Node {
    _dir: TempDir,
    cgroup_root: String,
    api: Arc<FakeApi>,
    runtime: Arc<FakeRuntime>,
    changes: mpsc::UnboundedSender<PodChange>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), crate::Error>>,
}

impl Node {
    fn fresh(name: &str) -> Self {
        let clock = clock();
        Self::start(Arc::new(FakeRuntime::new(clock.clone())), clock, TempDir::new(name))
    }

    fn start(runtime: Arc<FakeRuntime>, clock: Clock, dir: TempDir) -> Self {
        let api = Arc::new(FakeApi::default());
        let (changes, receiver) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let mut config = Config::new("node-1", [127, 0, 0, 1].into(), dir.path());
        config.clock = clock;
        // Of its own, so that tests side by side can each remove theirs.
        let cgroup_root = format!("knarr-test-{}", dir.path().file_name().and_then(|n| n.to_str()).unwrap());
        config.cgroup_root.clone_from(&cgroup_root);
        let task = tokio::spawn(run_with(config, api.clone(), runtime.clone(), Arc::new(FakeNet), receiver, stop.clone()));
        Self { _dir: dir, cgroup_root, api, runtime, changes, stop, task }
    }

    fn apply(&self, pod: &Pod) {
        self.api.put_pod(pod);
        self.changes.send(PodChange::Applied(Arc::new(pod.clone()))).unwrap();
    }

    /// Waits until the API's pod is as wanted; nothing here takes longer than a minute of paused time.
    async fn until(&self, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        for _ in 0..60_000 {
            if let Some(p) = self.api.pod("n", "p").filter(|p| wanted(p)) {
                return p;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("not {what}: {:#?}", self.api.pod("n", "p"));
    }

    async fn end(self) -> TempDir {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        crate::cgroups::Cgroups::new("/sys/fs/cgroup", &self.cgroup_root).purge().unwrap();
        let _ = nix::mount::umount2(&self._dir.path().join("memory"), nix::mount::MntFlags::MNT_DETACH);
        self._dir
    }
}

fn is_ready(p: &Pod) -> bool {
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
    while node.api.pod("n", "p").is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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

#[tokio::test(start_paused = true)]
async fn resources_change_in_place() {
    let node = Node::fresh("resize");
    let with = |cpu: &str| pod(json!({"containers": [{"name": "a", "image": "img:1", "resources": {"requests": {"cpu": cpu}}}]}));
    let mut p = with("100m");
    node.apply(&p);
    p.status = node.until("ready", is_ready).await.status;
    let mut more = with("200m");
    more.status = p.status;
    node.apply(&more);
    node.runtime.called("update a 204", 1).await;
    let has = |p: &Pod| p.status.as_ref()?.container_statuses.as_ref()?[0].allocated_resources.as_ref()?.get("cpu").map(|q| q.0.clone());
    more.status = node.until("resized", |p| has(p).as_deref() == Some("200m")).await.status;
    let mut too_much = with("9000");
    too_much.status = more.status;
    node.apply(&too_much);
    let p = node.until("pending", |p| p.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "PodResizePending")).await;
    assert_eq!(has(&p).as_deref(), Some("200m"));
    node.end().await;
}

#[test]
fn kinds_have_their_paths() {
    assert_eq!(Kind::Init.field_path("a"), "spec.initContainers{a}");
}

/// Lets go by what would be a loop.
async fn a_while(seconds: u64) {
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
    while node.api.pod("n", "p").is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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
    while !node.api.reasons().contains(&"FailedSync".to_owned()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The new worker looks after the pod as the old one did.
    node.runtime.exit("a", 1);
    node.runtime.called("start a", 2).await;
    assert_eq!(node.runtime.calls().iter().filter(|c| *c == "sandbox").count(), 1, "what ran was taken over");
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
