//! The planner and the status as tables.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::plan::{self, Action, Failure, Plan, View};
use super::status;
use crate::cri::{Container, ContainerId, Sandbox, State};
use crate::probes::results::Results;
use crate::testing::{container, sandbox};

fn at(s: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(s)
}

/// The same points in time by the clock that waits are measured by.
fn tick(s: u64) -> Instant {
    static ZERO: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *ZERO.get_or_init(Instant::now) + Duration::from_secs(s)
}

pub(super) fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

/// What the planner sees, with what the tables vary.
struct Scene {
    pod: Pod,
    sandbox: Option<Sandbox>,
    set_up: bool,
    containers: Vec<Container>,
    removed: Vec<Container>,
    probes: HashMap<ContainerId, Results>,
    failures: BTreeMap<String, Failure>,
    lacking: BTreeMap<String, (String, String)>,
    backoff: Backoff,
    starting: Option<&'static str>,
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
            removed: Vec::new(),
            probes,
            failures: BTreeMap::new(),
            lacking: BTreeMap::new(),
            backoff: Backoff::default(),
            starting: None,
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
            lacking: &self.lacking,
            backoff: &self.backoff,
            starting: self.starting,
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
    // One that ends when a later one has been come to holds nobody up: it may crash for ever.
    assert_eq!(steps(vec![exited("i1", 0), exited("side", 1), running("i2")]), ["start init 1"]);
    assert_eq!(steps(vec![exited("i1", 0), exited("side", 1), exited("i2", 0)]), ["start init 1", "start regular 0", "start regular 1"]);
    assert_eq!(steps(vec![exited("i1", 0), exited("side", 1)]), ["start init 1"]);
    // A sidecar that ends is started again as long as the pod serves.
    let side_ended = vec![exited("i1", 0), exited("side", 1), exited("i2", 0), running("a"), running("b")];
    assert_eq!(steps(side_ended), ["start init 1"]);
}

#[test]
fn a_change_that_waits_takes_nothing_from_others() {
    let asks = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "100"}}}]});
    let told = |condition: &str| -> PodStatus {
        let has = json!({"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "resources": {"requests": {"cpu": "1"}}});
        serde_json::from_value(json!({"containerStatuses": [has], "conditions": [{"type": condition, "status": "True"}]})).unwrap()
    };
    let counted = |condition: &str| {
        let mut pod = pod(asks.clone());
        pod.status = Some(told(condition));
        let pods = super::manager::Pods::default();
        pods.insert(&std::sync::Arc::new(super::Handle::new(std::sync::Arc::new(pod))));
        let others = pods.others(&crate::cri::PodUid("other".into()));
        crate::resources::pod_requests(others[0].spec.as_ref().unwrap())["cpu"]
    };
    assert_eq!((counted("PodResizePending"), counted("PodResizeInProgress")), (1000, 100_000));
    // Nor what the pod asks for as a whole.
    let mut whole = pod(json!({"containers": [{"name": "a"}], "resources": {"requests": {"cpu": "100"}}}));
    let status = json!({"resources": {"requests": {"cpu": "2"}}, "conditions": [{"type": "PodResizePending", "status": "True"}]});
    whole.status = serde_json::from_value(status).unwrap();
    let given = super::Handle::new(std::sync::Arc::new(whole)).granted();
    assert_eq!(crate::resources::pod_requests(given.spec.as_ref().unwrap())["cpu"], 2000);
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
    scene.backoff.next(&key, tick(190));
    let made = scene.plan();
    assert!(made.actions.is_empty());
    assert_eq!(made.wake_at, Some(tick(210)));
    let (reason, message) = &made.waiting["a"];
    assert_eq!((reason.as_str(), message.as_str()), ("CrashLoopBackOff", "back-off 10s restarting failed container=a pod=p_n(u)"));
    scene.now = 210;
    assert_eq!(scene.steps(), ["start regular 0"]);
    // Its start begins the next wait, which is not told before that run has ended too.
    scene.backoff.next(&key, tick(210));
    scene.starting = Some("a");
    assert!(scene.plan().waiting.is_empty());
    scene.starting = None;
    assert!(scene.plan().waiting["a"].1.starts_with("back-off 20s"));
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
        [("Always", "kill a-0 and again", "start regular 0"), ("OnFailure", "kill a-0 and again", "start regular 0"), ("Never", "finish", "finish")]
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
    // Beside one that stays it is killed alone.
    let two = json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]});
    let mut scene = Scene::new(two, vec![running("a"), running("b")]);
    scene.probes.insert(ContainerId("a-0".into()), Results { started: true, liveness_failed: true, ..Results::default() });
    assert_eq!(scene.steps(), ["kill a-0"]);
    // So is one whose rules may begin it anew when it has ended.
    let rules = json!({"containers": [{"name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [143]}}]}]});
    let mut scene = Scene::new(rules.clone(), vec![running("a")]);
    scene.probes.insert(ContainerId("a-0".into()), Results { started: true, liveness_failed: true, ..Results::default() });
    assert_eq!(scene.steps(), ["kill a-0"]);
    assert_eq!(Scene::new(rules, vec![exited("a", 143)]).steps(), ["start regular 0"]);
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
    let told = status_of(&scene, &PodStatus::default(), false).container_statuses.unwrap();
    let last = |at: usize| told[at].last_state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| (t.exit_code, t.reason.clone().unwrap()));
    assert_eq!((last(0), last(1)), (Some((137, "RestartingAllContainers".to_owned())), Some((137, "RestartingAllContainers".to_owned()))));
    assert_eq!(status_of(&scene, &PodStatus::default(), false).phase.as_deref(), Some("Running"));
    // The first has begun and ended before anybody was told of that: its last run is still the one that was removed.
    scene.removed = scene.containers.extract_if(.., |c| c.name == "i").collect();
    scene.containers.push(Container { attempt: 1, id: ContainerId("i-1".into()), ..exited("i", 0) });
    let told = status_of(&scene, &PodStatus::default(), false).init_container_statuses.unwrap();
    let last = told[0].last_state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    assert_eq!((told[0].restart_count, last), (1, Some(137)));
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
    resizing_status_of(scene, old, terminal, (None, None), None)
}

type Resize<'a> = (Option<&'a super::resize::Pending>, Option<Option<&'a str>>);

fn resizing_status_of(scene: &Scene, old: &PodStatus, terminal: bool, resize: Resize<'_>, resizing: Option<i64>) -> PodStatus {
    let waiting = scene.plan().waiting;
    let ips = ["10.0.0.9".parse().unwrap()];
    let host = ["10.0.0.1".parse().unwrap()];
    status::generate(&status::View {
        pod: &scene.pod,
        old,
        sandbox: scene.sandbox.as_ref(),
        containers: &scene.containers,
        removed: &scene.removed,
        again: &scene.again,
        probes: &scene.probes,
        waiting: &waiting,
        messages: &HashMap::new(),
        applied: &HashMap::new(),
        of_all: None,
        resize,
        resizing,
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
fn conditions_of_a_resize_are_of_its_generation_and_another_reason_is_another_transition() {
    let mut scene = Scene::new(json!({"containers": [{"name": "a"}]}), vec![running("a")]);
    scene.pod.metadata.generation = Some(3);
    let (deferred, infeasible) = (("Deferred", "no room".to_owned()), ("Infeasible", "too much".to_owned()));
    let of = |scene: &Scene, old: &PodStatus, pending: &super::resize::Pending, terminal: bool| {
        let status = resizing_status_of(scene, old, terminal, (Some(pending), Some(None)), Some(2));
        let resizes = status.conditions.iter().flatten().filter(|c| c.type_.starts_with("PodResize")).cloned().collect::<Vec<_>>();
        (status, resizes)
    };
    let (first, told) = of(&scene, &PodStatus::default(), &deferred, false);
    assert_eq!(told.iter().map(|c| c.observed_generation).collect::<Vec<_>>(), [Some(3), Some(2)]);
    scene.now += 7;
    let (second, again) = of(&scene, &first, &deferred, false);
    assert_eq!(again, told, "nothing new is told");
    let (_, other) = of(&scene, &second, &infeasible, false);
    assert_ne!(other[0].last_transition_time, told[0].last_transition_time);
    assert_eq!(other[1], told[1]);
    assert!(of(&scene, &second, &infeasible, true).1.is_empty(), "the pod has ended");
}

#[test]
fn an_ephemeral_container_waits_in_the_words_of_its_pod() {
    let waits = |spec: Value| {
        let status = status_of(&Scene::new(spec, vec![]), &PodStatus::default(), false);
        status.ephemeral_container_statuses.unwrap().remove(0).state.unwrap().waiting.unwrap().reason
    };
    let with = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]});
    assert_eq!(waits(with).as_deref(), Some("PodInitializing"));
    assert_eq!(waits(json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]})).as_deref(), Some("ContainerCreating"));
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

/// A kubelet that dies between making a container and starting it leaves one that never ran.
#[test]
fn what_was_made_and_never_begun_is_no_run_before() {
    let made = |attempt| container("a", attempt, State::Created, 0);
    let mut scene = Scene::new(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}), vec![made(0), made(1)]);
    let told = status_of(&scene, &PodStatus::default(), false);
    assert_eq!(told.phase.as_deref(), Some("Pending"));
    assert_eq!(told.container_statuses.as_ref().unwrap()[0].last_state.as_ref().unwrap().terminated, None);
    scene.containers[1] = container("a", 1, State::Exited, 0);
    assert_eq!(status_of(&scene, &told, true).phase.as_deref(), Some("Succeeded"));
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
fn what_is_initialised_stays_so_and_a_sandbox_that_is_not_ready_is_told_why() {
    let mut scene = Scene::new(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}), vec![]);
    scene.sandbox = None;
    let first = status_of(&scene, &PodStatus::default(), false);
    assert_eq!(conditions(&first)["Initialized"], "False ContainersNotInitialized");
    assert_eq!(conditions(&first)["PodReadyToStartContainers"], "False PodSandboxNotReady");
    let why = |s: &PodStatus| s.conditions.iter().flatten().find(|c| c.type_ == "PodReadyToStartContainers").and_then(|c| c.message.clone());
    assert_eq!(why(&first).as_deref(), Some("no pod sandbox exists"));
    // All of its containers are gone, as when they are to begin anew.
    let done: PodStatus = serde_json::from_value(json!({"conditions": [{"type": "Initialized", "status": "True"}]})).unwrap();
    scene.sandbox = Some(sandbox("u", false));
    let again = status_of(&scene, &done, false);
    assert_eq!(conditions(&again)["Initialized"], "True");
    assert_eq!(why(&again).as_deref(), Some("pod sandbox is not ready"));
}

#[test]
fn what_containers_say_as_they_end_is_cut_to_their_share() {
    let containers: Vec<Value> = (0..4).map(|n| json!({"name": format!("c{n}")})).collect();
    let said = |n: i32| Container { message: "x".repeat(4096), ..exited(&format!("c{n}"), 1) };
    let scene = Scene::new(json!({"restartPolicy": "Never", "containers": containers}), (0..4).map(said).collect());
    let told = status_of(&scene, &PodStatus::default(), true);
    let lengths = told.container_statuses.iter().flatten().map(|c| c.state.as_ref().unwrap().terminated.as_ref().unwrap().message.as_ref().unwrap().len());
    assert_eq!(lengths.collect::<Vec<_>>(), [3072; 4]);
}

#[test]
fn unready_containers_are_named() {
    let mut scene = Scene::new(json!({"containers": [{"name": "a"}, {"name": "b"}]}), vec![running("a"), running("b")]);
    scene.probes.insert(ContainerId("b-0".into()), Results { started: true, ..Results::default() });
    let s = status_of(&scene, &PodStatus::default(), false);
    let ready = s.conditions.iter().flatten().find(|c| c.type_ == "Ready").unwrap().clone();
    assert_eq!((ready.reason.as_deref(), ready.message.as_deref()), (Some("ContainersNotReady"), Some("containers with unready status: [b]")));
    // By name in the status, in the spec's order in messages.
    let turned = Scene::new(json!({"containers": [{"name": "b"}, {"name": "a"}]}), vec![]);
    let told = status_of(&turned, &PodStatus::default(), false);
    assert_eq!(told.container_statuses.iter().flatten().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let unready = told.conditions.iter().flatten().find(|c| c.type_ == "ContainersReady").unwrap();
    assert_eq!(unready.message.as_deref(), Some("containers with unready status: [b a]"));
    // A condition that stays as it was keeps its time.
    scene.now = 999;
    let later = status_of(&scene, &s, false);
    assert_eq!(later.conditions, s.conditions);
}

#[test]
fn what_has_ended_for_good_waits_for_no_image_of_a_volume() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]});
    let waits = |containers: Vec<Container>| {
        let mut scene = Scene::new(spec.clone(), containers);
        scene.set_up = false;
        scene.lacking = ["i", "a"].map(|name| (name.to_owned(), ("ErrImagePull".to_owned(), "why".to_owned()))).into();
        scene.plan().waiting.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(waits(vec![]), ["a", "i"]);
    assert_eq!(waits(vec![exited("i", 0)]), ["a"]);
    assert_eq!(waits(vec![running("b")]), ["a"], "init containers are history");
    assert!(waits(vec![exited("i", 0), exited("a", 0), running("b")]).is_empty());
}

#[test]
fn what_is_killed_to_run_again_waits_by_the_run_before_it() {
    let mut scene = Scene::new(json!({"containers": [{"name": "a"}]}), vec![exited("a", 137)]);
    scene.again.insert(ContainerId("a-0".into()));
    let after = |scene: &Scene| scene.plan().actions.iter().find_map(|a| if let Action::Start { after, .. } = a { Some(*after) } else { None });
    assert_eq!(after(&scene), Some(None), "the first is started at once, and counts for nothing");
    scene.containers.push(container("a", 1, State::Exited, 137));
    scene.again.insert(ContainerId("a-1".into()));
    assert_eq!(after(&scene), Some(Some(tick(200))), "the second, too, and counts");
    let key = plan::restart_key(&scene.pod.spec.as_ref().unwrap().containers[0]);
    scene.backoff.next(&key, tick(200));
    assert_eq!(after(&scene), None, "the third waits");
    assert_eq!(scene.plan().wake_at, Some(tick(210)));
    assert_eq!(scene.backoff.next(&key, tick(200) + 3 * super::backoff::MAX), super::backoff::INITIAL, "what was counted long ago is forgotten");
}
