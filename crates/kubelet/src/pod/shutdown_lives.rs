//! Pods on a machine that goes down, with time paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::lives::{Node, is_ready};
use super::tests::pod;
use crate::graceful::{Error, Lock, Logind, Source};
use crate::settings::ShutdownPeriod;
use crate::testing::{FakeRuntime, TempDir, clock, when};

/// What the test sees of logind, and how it tells what the machine does.
#[derive(Default)]
struct Machine {
    calls: Mutex<Vec<String>>,
    delay: Mutex<Duration>,
    locks: Arc<AtomicUsize>,
    turns: Mutex<Option<mpsc::UnboundedSender<bool>>>,
}

struct FakeLogind {
    machine: Arc<Machine>,
    turns: mpsc::UnboundedReceiver<bool>,
}

/// Counts among the locks while it is held.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Logind for FakeLogind {
    async fn delay(&mut self) -> Result<Duration, Error> {
        Ok(*self.machine.delay.lock())
    }
    async fn hold(&mut self, _delay: Duration) -> Result<(), Error> {
        Ok(())
    }
    async fn raise(&mut self, delay: Duration) -> Result<(), Error> {
        self.machine.call(format!("raise {}s", delay.as_secs()));
        *self.machine.delay.lock() = delay;
        Ok(())
    }
    async fn inhibit(&mut self) -> Result<Lock, Error> {
        self.machine.call("inhibit".into());
        self.machine.locks.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Counted(Arc::clone(&self.machine.locks))))
    }
    async fn turned(&mut self) -> Result<bool, Error> {
        self.turns.recv().await.ok_or(Error::Timeout)
    }
}

impl Machine {
    fn call(&self, call: String) {
        self.calls.lock().push(call);
    }

    fn source(self: &Arc<Self>) -> Source {
        let machine = Arc::clone(self);
        Source::new(move |mark| {
            let machine = Arc::clone(&machine);
            assert!(mark.starts_with("knarr-test-"));
            Box::pin(async move {
                machine.call("connect".into());
                let (sender, turns) = mpsc::unbounded_channel();
                *machine.turns.lock() = Some(sender);
                Ok(Box::new(FakeLogind { machine, turns }) as Box<dyn Logind>)
            })
        })
    }

    fn tell(&self, near: bool) {
        self.turns.lock().as_ref().expect("a connection").send(near).expect("somebody who hears");
    }

    async fn locked(&self, locks: usize) {
        for _ in 0..60_000 {
            if self.locks.load(Ordering::SeqCst) == locks {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not {locks} locks: {:?}", self.calls.lock());
    }
}

fn start(machine: &Arc<Machine>, name: &str) -> Node {
    let (clock, source) = (clock(), machine.source());
    Node::start_with(Arc::new(FakeRuntime::new(clock.clone())), clock, TempDir::new(name), move |config| {
        config.logind = source;
        config.settings.shutdown = [(0, 20), (2_000_000_000, 10)].map(|(priority, seconds)| ShutdownPeriod { priority, seconds }).into();
    })
}

fn of(name: &str, container: &str, priority: i32) -> Pod {
    let mut pod = pod(json!({"containers": [{"name": container, "image": "img:1"}], "priority": priority, "terminationGracePeriodSeconds": 30}));
    (pod.metadata.name, pod.metadata.uid) = (Some(name.into()), Some(format!("{name}-uid")));
    pod
}

impl Node {
    async fn is(&self, name: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        for _ in 0..60_000 {
            if let Some(p) = self.api.pod("n", name).filter(|p| wanted(p)) {
                return p;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{name}: {:#?}", self.api.pod("n", name));
    }
}

fn told(p: &Pod) -> [&str; 3] {
    let status = p.status.as_ref();
    let get = |f: fn(&k8s_openapi::api::core::v1::PodStatus) -> Option<&str>| status.and_then(f).unwrap_or_default();
    [get(|s| s.phase.as_deref()), get(|s| s.reason.as_deref()), get(|s| s.message.as_deref())]
}

const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

#[tokio::test(start_paused = true)]
async fn pods_end_by_priority_before_the_machine_does() {
    let machine = Arc::new(Machine::default());
    let node = start(&machine, "machine-ends");
    node.api.peopled.store(true, Ordering::Relaxed);
    for p in [of("p", "a", 0), of("critical", "b", 2_000_000_000)] {
        node.apply(&p);
        node.is(p.metadata.name.as_deref().unwrap(), is_ready).await;
    }
    machine.locked(1).await;
    assert_eq!(*machine.calls.lock(), ["connect", "raise 30s", "inhibit"]);
    machine.tell(true);
    machine.locked(0).await;
    for name in ["p", "critical"] {
        let ended = node.is(name, |p| told(p)[0] == "Failed").await;
        assert_eq!(told(&ended), ["Failed", "Terminated", MESSAGE]);
        let conditions = ended.status.unwrap().conditions.unwrap();
        let disruption = conditions.iter().find(|c| c.type_ == "DisruptionTarget").unwrap();
        assert_eq!((disruption.reason.as_deref(), disruption.message.as_deref()), (Some("TerminationByKubelet"), Some(MESSAGE)));
    }
    let stops: Vec<String> = node.runtime.calls().into_iter().filter(|c| c.starts_with("stop")).collect();
    assert_eq!(stops, ["stop a 20s", "stop b 10s"]);
    assert!(!node.api.reasons().contains(&"Terminated".to_owned()), "no Event of the pods': {:?}", node.api.reasons());
    let ready = |patch: &Value| patch["status"]["conditions"].as_array().into_iter().flatten().rfind(|c| c["type"] == "Ready").cloned().unwrap_or_default();
    let unready = loop {
        let last = node.api.storage.lock().node_patches.last().map(ready).unwrap_or_default();
        if last["status"] == "False" {
            break last;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!((&unready["reason"], &unready["message"]), (&json!("KubeletNotReady"), &json!("node is shutting down")));
    node.apply(&of("late", "c", 0));
    let late = node.is("late", |p| told(p)[0] == "Failed").await;
    assert_eq!(told(&late), ["Failed", "NodeShutdown", "Pod was rejected: Pod was rejected as the node is shutting down."]);
    // It stays after all.
    machine.tell(false);
    machine.locked(1).await;
    node.apply(&of("again", "d", 0));
    node.is("again", is_ready).await;
    let node_events = node.api.storage.lock().node_events.clone();
    let shutdowns: Vec<&str> = node_events.iter().filter(|(r, _)| r == "Shutdown").map(|(_, m)| m.as_str()).collect();
    assert_eq!(shutdowns, ["Shutdown manager detected shutdown event", "Shutdown manager detected shutdown cancellation"]);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_end_delays_the_next_by_his_own_time_alone() {
    let machine = Arc::new(Machine::default());
    let node = start(&machine, "machine-waits");
    for p in [of("p", "a", 5), of("critical", "b", 2_000_000_000)] {
        node.apply(&p);
        node.is(p.metadata.name.as_deref().unwrap(), is_ready).await;
    }
    machine.locked(1).await;
    node.runtime.stuck.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    machine.tell(true);
    node.runtime.called("stop a 20s", 1).await;
    assert!(!node.runtime.calls().contains(&"stop b 10s".to_owned()));
    node.runtime.called("stop b 10s", 1).await;
    assert!((20..22).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    machine.locked(0).await;
    assert!((30..32).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    node.runtime.stuck.store(false, Ordering::Relaxed);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_being_deleted_has_no_longer_than_the_machine() {
    let machine = Arc::new(Machine::default());
    let node = start(&machine, "machine-hurries");
    let hook = json!({"preStop": {"exec": {"command": ["drain"]}}});
    let mut p = pod(json!({"containers": [{"name": "a", "image": "img:1", "lifecycle": hook}], "terminationGracePeriodSeconds": 600}));
    node.apply(&p);
    p.status = node.until("ready", is_ready).await.status;
    machine.locked(1).await;
    node.runtime.set_exec(0, true);
    p.metadata.deletion_timestamp = Some(crate::util::time(node.runtime.now()));
    p.metadata.deletion_grace_period_seconds = Some(600);
    node.apply(&p);
    node.runtime.called("exec drain", 1).await;
    let begun = Instant::now();
    machine.tell(true);
    machine.locked(0).await;
    when("stopped", || node.runtime.calls().iter().any(|c| c.starts_with("stop a"))).await;
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_is_made_anew_and_what_was_never_there_is_not() {
    let machine = Arc::new(Machine::default());
    let node = start(&machine, "machine-speaks");
    machine.locked(1).await;
    *machine.turns.lock() = None;
    while machine.calls.lock().len() < 5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(*machine.calls.lock(), ["connect", "raise 30s", "inhibit", "connect", "inhibit"]);
    assert_eq!(machine.locks.load(Ordering::SeqCst), 1, "one is held, the new one");
    node.end().await;
    let (clock, tries) = (clock(), Arc::new(AtomicUsize::new(0)));
    let asked = Arc::clone(&tries);
    let source = Source::new(move |_| {
        asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Err(Error::Timeout) })
    });
    let node = Node::start_with(Arc::new(FakeRuntime::new(clock.clone())), clock, TempDir::new("machine-silent"), move |config| {
        config.logind = source;
        config.settings.shutdown = vec![ShutdownPeriod { priority: 0, seconds: 20 }];
    });
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(tries.load(Ordering::SeqCst), 1);
    node.end().await;
}
