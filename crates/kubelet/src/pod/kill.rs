//! Stopping containers: Event, preStop hook while the container still serves, its turn, stop signal, SIGKILL.
//!
//! The order and the numbers are upstream's `killContainer`: the hook's time counts against the grace period, and however long
//! the hook was, the container gets at least two seconds between the stop signal and SIGKILL. A grace period that is shortened
//! while this runs takes effect at once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use tokio::sync::watch;
use tokio::time::Instant;

use super::plan::Kind;
use crate::api::{Severity, SharedApi};
use crate::cri::{ContainerId, SharedRuntime};
use crate::hooks;
use crate::resources::is_sidecar;
use crate::util;

/// Between a pod's deletion and its hook: several times what its endpoints need to follow on a busy machine.
const OUT_OF_SERVICE: Duration = Duration::from_millis(100);
/// What every container gets between its stop signal and SIGKILL, whatever the grace period.
pub const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// Who must have ended before whom: sidecars stop after the regular containers, the last first.
#[derive(Clone, Debug)]
pub struct Turns {
    before: BTreeMap<String, BTreeSet<String>>,
    running: watch::Sender<HashSet<String>>,
}

impl Turns {
    /// The order of a pod whose containers `running` run.
    #[must_use]
    pub fn new(pod: &Pod, running: HashSet<String>) -> Self {
        let mut before = BTreeMap::new();
        if let Some(spec) = &pod.spec {
            let mut first: BTreeSet<String> = spec.containers.iter().map(|c| c.name.clone()).collect();
            for c in spec.init_containers.iter().flatten().rev().filter(|c| is_sidecar(c)) {
                before.insert(c.name.clone(), first.clone());
                first.insert(c.name.clone());
            }
        }
        Self { before, running: watch::Sender::new(running) }
    }

    /// These run now.
    pub fn update(&self, running: HashSet<String>) {
        self.running.send_if_modified(|r| {
            let changed = *r != running;
            *r = running;
            changed
        });
    }

    async fn wait(&self, name: &str) {
        let Some(first) = self.before.get(name) else { return };
        let mut running = self.running.subscribe();
        let _ = running.wait_for(|r| r.iter().all(|n| !first.contains(n))).await;
    }
}

/// What it takes to stop a container.
#[derive(Clone)]
pub struct Hands {
    /// Where it runs.
    pub runtime: SharedRuntime,
    /// Where it is told, if anywhere.
    pub api: Option<SharedApi>,
}

impl Hands {
    fn tell(&self, k: &Kill, severity: Severity, reason: &str, message: &str) {
        if let Some(api) = &self.api {
            api.pod_event(&k.pod, Some(&k.kind.field_path(&k.name)), severity, reason, message);
        }
    }
}

/// One container to stop.
pub struct Kill {
    /// Its pod.
    pub pod: Arc<Pod>,
    /// Which list it is in.
    pub kind: Kind,
    /// Its spec; none if it is no longer in the pod's.
    pub spec: Option<Spec>,
    /// The container.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// The pod's addresses, for hooks.
    pub ips: Vec<IpAddr>,
    /// The Event's message.
    pub message: String,
    /// When the grace period is over; may move earlier.
    pub deadline: watch::Receiver<Instant>,
    /// The order of stopping, when the whole pod stops.
    pub turns: Option<Turns>,
}

async fn over(deadline: &mut watch::Receiver<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            changed = deadline.changed() => if changed.is_err() {
                tokio::time::sleep_until(at).await;
                return;
            },
        }
    }
}

/// Stops the container; returns when it has ended, or when the runtime gave up.
pub async fn kill(hands: Hands, mut k: Kill) -> Result<(), String> {
    hands.tell(&k, Severity::Normal, "Killing", &k.message);
    pre_stop(&hands, &mut k).await;
    if let Some(turns) = k.turns.clone() {
        tokio::select! {
            () = turns.wait(&k.name) => {}
            () = over(&mut k.deadline) => {}
        }
    }
    stop(&hands.runtime, &mut k).await
}

/// Runs the hook until it ends or the grace period does. Its process is not waited for any longer then.
async fn pre_stop(hands: &Hands, k: &mut Kill) {
    let Some(spec) = k.spec.clone() else { return };
    let Some(handler) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return };
    if *k.deadline.borrow() <= Instant::now() {
        return;
    }
    // A pod that is deleted is out of its Services before its hook begins: the hook may tell clients to go elsewhere.
    // The node cannot see the Services' endpoints, which follow a deletion within some milliseconds; it leaves them time.
    let pause = if k.pod.metadata.deletion_timestamp.is_some() { OUT_OF_SERVICE } else { Duration::ZERO };
    let hook = async {
        tokio::time::sleep(pause).await;
        hooks::run(&hands.runtime, &k.pod, &spec, &k.id, &k.ips, handler).await
    };
    let ran = tokio::select! {
        ran = hook => ran,
        () = over(&mut k.deadline) => {
            tracing::info!(pod = %util::describe(&k.pod), container = %k.name, "preStop hook did not end within the grace period");
            // It ends with its container, and so fails; one that only waits does not.
            if handler.sleep.is_none() {
                hands.tell(k, Severity::Warning, "FailedPreStopHook", "PreStopHook failed");
            }
            return;
        }
    };
    match (ran, &hands.api) {
        (Ok(Some(told)), Some(api)) => api.pod_event(&k.pod, None, Severity::Warning, "LifecycleHTTPFallback", &told),
        (Ok(_), _) => {}
        (Err(e), _) => {
            tracing::info!(pod = %util::describe(&k.pod), container = %k.name, error = %e, "preStop hook failed");
            hands.tell(k, Severity::Warning, "FailedPreStopHook", "PreStopHook failed");
        }
    }
}

async fn stop(runtime: &SharedRuntime, k: &mut Kill) -> Result<(), String> {
    loop {
        let left = k.deadline.borrow_and_update().saturating_duration_since(Instant::now()).max(MINIMUM_GRACE);
        tokio::select! {
            done = runtime.stop_container(&k.id, left) => return match done {
                Err(crate::cri::CriError::NotFound(_)) => Ok(()),
                other => other.map_err(|e| e.to_string()),
            },
            changed = k.deadline.changed() => if changed.is_err() {
                return runtime.stop_container(&k.id, left).await.map_err(|e| e.to_string());
            },
        }
    }
}
