//! Waiting for what a manifest asks for, until it is rolled out: by the same signs as `kubectl rollout status` for Deployments,
//! StatefulSets and DaemonSets, and a Job's end. While it waits it tells how far things are; if it waits in vain, or there is
//! nothing more to wait for, it tells what was waited for and what the pods say.

use crate::{
    manifest::{self, Object},
    progress::Steps,
};
use anyhow::bail;
use client::{Client, Delta, Informer, Informers};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    batch::v1::Job,
    core::v1::Pod,
};
use machinery::Value;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Applies the objects in order and waits until what rolls out among them has done so.
pub async fn apply(client: &Client, objects: &[Object], steps: &Steps, patience: Duration) -> anyhow::Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    let mut wanted = Vec::new();
    for object in objects {
        steps.now(&format!("applying {}", object.title()));
        let (applied, taken) = manifest::apply(client, object).await?;
        if let Some(why) = taken {
            steps.say(&format!("knarr: {}: fields of others were taken over: {why}", object.title()));
        }
        wanted.extend(Wanted::of(&applied));
    }
    steps.done(&format!("{} objects applied", objects.len()));
    if wanted.is_empty() {
        return Ok(());
    }
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let informers = Informers::new(client.clone(), stop);
    let memory = Memory::new(&informers);
    let outcome = tokio::time::timeout(patience, rolled_out(&memory, &wanted, steps)).await;
    let why = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(why)) => why,
        Err(_) => format!("the roll-out is not finished after {} s", patience.as_secs()),
    };
    bail!("{why}:\n{}", reasons(&memory, &wanted).join("\n"));
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
}

/// An object that rolls out, as it was applied.
struct Wanted {
    kind: Kind,
    namespace: String,
    name: String,
    generation: i64,
}

/// How far an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// So many pods, of so many.
    Going(i32, i32),
    /// All of them.
    Done(i32),
    /// Nothing more will happen by itself.
    Stuck(String),
}

impl Wanted {
    fn of(applied: &Value) -> Option<Wanted> {
        let kind = match (applied["apiVersion"].as_str()?, applied["kind"].as_str()?) {
            ("apps/v1", "Deployment") => Kind::Deployment,
            ("apps/v1", "StatefulSet") => Kind::StatefulSet,
            ("apps/v1", "DaemonSet") => Kind::DaemonSet,
            ("batch/v1", "Job") => Kind::Job,
            _ => return None,
        };
        let metadata = &applied["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let generation = metadata["generation"].as_i64().unwrap_or(0);
        Some(Wanted { kind, namespace: text(&metadata["namespace"]), name: text(&metadata["name"]), generation })
    }

    fn title(&self) -> String {
        let kind = match self.kind {
            // Most are; their lines stay short.
            Kind::Deployment => String::new(),
            kind => format!("{kind:?} "),
        };
        format!("{kind}{}/{}", self.namespace, self.name)
    }
}

/// The objects as they are now.
struct Memory {
    deployments: Informer<Deployment>,
    stateful_sets: Informer<StatefulSet>,
    daemon_sets: Informer<DaemonSet>,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
}

impl Memory {
    fn new(informers: &Informers) -> Memory {
        Memory {
            deployments: informers.informer(),
            stateful_sets: informers.informer(),
            daemon_sets: informers.informer(),
            jobs: informers.informer(),
            pods: informers.informer(),
        }
    }

    fn state(&self, wanted: &Wanted) -> Option<State> {
        let (namespace, name) = (&wanted.namespace, &wanted.name);
        Some(match wanted.kind {
            Kind::Deployment => deployment(&*self.deployments.get(namespace, name)?, wanted.generation),
            Kind::StatefulSet => stateful_set(&*self.stateful_sets.get(namespace, name)?, wanted.generation),
            Kind::DaemonSet => daemon_set(&*self.daemon_sets.get(namespace, name)?, wanted.generation),
            Kind::Job => job(&*self.jobs.get(namespace, name)?),
        })
    }
}

async fn rolled_out(memory: &Memory, wanted: &[Wanted], steps: &Steps) -> Result<(), String> {
    let (mut deployments, mut stateful_sets) = (memory.deployments.subscribe(), memory.stateful_sets.subscribe());
    let (mut daemon_sets, mut jobs, mut pods) = (memory.daemon_sets.subscribe(), memory.jobs.subscribe(), memory.pods.subscribe());
    let mut finished: Vec<bool> = vec![false; wanted.len()];
    loop {
        let mut now = Vec::new();
        for (at, object) in wanted.iter().enumerate() {
            if finished[at] {
                continue;
            }
            match memory.state(object) {
                Some(State::Done(of)) => {
                    finished[at] = true;
                    let what = if object.kind == Kind::Job { "completed".to_owned() } else { format!("{of} of {of} pods ready") };
                    steps.done(&format!("{}: {what}", object.title()));
                }
                Some(State::Going(done, of)) => now.push(format!("{} {done}/{of}", object.title())),
                Some(State::Stuck(why)) => return Err(format!("{}: {why}", object.title())),
                None => {}
            }
        }
        if finished.iter().all(|f| *f) {
            return Ok(());
        }
        steps.now(&now.join(", "));
        let more = tokio::select! {
            change = deployments.recv() => change.is_some(),
            change = stateful_sets.recv() => change.is_some(),
            change = daemon_sets.recv() => change.is_some(),
            change = jobs.recv() => change.is_some(),
            change = pods.recv() => { if let Some(change) = &change { tell(change, wanted, steps); } change.is_some() }
        };
        if !more {
            return Err("the API server is not heard any more".to_owned());
        }
    }
}

/// On the passing line: what a pod is waiting for.
fn tell(change: &Delta<Pod>, wanted: &[Wanted], steps: &Steps) {
    let pod = change.object();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if wanted.iter().any(|o| o.namespace == namespace)
        && let Some(why) = waiting(pod)
    {
        steps.now(&why);
    }
}

/// As `kubectl rollout status`: all updated, no old one left, all available.
fn deployment(deployment: &Deployment, generation: i64) -> State {
    let of = deployment.spec.replicas.unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation.unwrap_or(0) < generation {
        return State::Going(0, of);
    }
    let late =
        status.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some("Progressing") && c.reason.as_deref() == Some("ProgressDeadlineExceeded"));
    if late.is_some() {
        return State::Stuck("it exceeded its progress deadline".to_owned());
    }
    let (updated, available) = (status.updated_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0));
    let old = status.replicas.unwrap_or(0) > updated;
    if updated >= of && !old && available >= updated {
        return State::Done(of);
    }
    if deployment.spec.paused == Some(true) {
        return State::Stuck("it is paused".to_owned());
    }
    State::Going(updated.min(available).min(if old { of - 1 } else { of }).max(0), of)
}

fn stateful_set(set: &StatefulSet, generation: i64) -> State {
    let (spec, status) = (set.spec.clone(), set.status.clone().unwrap_or_default());
    let of = spec.replicas.unwrap_or(1);
    if status.observed_generation.unwrap_or(0) < generation {
        return State::Going(0, of);
    }
    let ready = status.ready_replicas.unwrap_or(0);
    let strategy = spec.update_strategy.unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        // Pods are updated when somebody deletes them.
        return if ready >= of { State::Done(of) } else { State::Going(ready, of) };
    }
    let partition = strategy.rolling_update.and_then(|r| r.partition).unwrap_or(0);
    let updated = status.updated_replicas.unwrap_or(0);
    let all = if partition > 0 { updated >= of - partition } else { status.update_revision == status.current_revision || updated >= of };
    if ready >= of && all { State::Done(of) } else { State::Going(ready.min(of - i32::from(!all)).max(0), of) }
}

fn daemon_set(set: &DaemonSet, generation: i64) -> State {
    let status = set.status.clone().unwrap_or_default();
    let of = status.desired_number_scheduled;
    if status.observed_generation.unwrap_or(0) < generation {
        return State::Going(0, of);
    }
    let available = status.number_available.unwrap_or(0);
    let on_delete = set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("OnDelete");
    let updated = if on_delete { of } else { status.updated_number_scheduled.unwrap_or(0) };
    if updated >= of && available >= of { State::Done(of) } else { State::Going(updated.min(available), of) }
}

fn job(job: &Job) -> State {
    let status = job.status.clone().unwrap_or_default();
    let of = job.spec.as_ref().and_then(|s| s.completions).unwrap_or(1);
    let is = |type_: &str| status.conditions.iter().flatten().find(|c| c.type_ == type_ && c.status == "True");
    if let Some(failed) = is("Failed") {
        return State::Stuck(format!("it failed: {}", failed.message.as_deref().unwrap_or("no message")));
    }
    if is("Complete").is_some() {
        return State::Done(of);
    }
    if job.spec.as_ref().is_some_and(|s| s.suspend == Some(true)) {
        return State::Stuck("it is suspended".to_owned());
    }
    State::Going(status.succeeded.unwrap_or(0), of)
}

/// Why a pod is not ready, in the words of its status.
fn waiting(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() == Some("Succeeded") {
        return None;
    }
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.clone().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        return Some(format!("{name}: {}", condition.message.as_deref().unwrap_or("is not scheduled")));
    }
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for container in containers.filter(|c| !c.ready) {
        let state = container.state.as_ref()?;
        if let Some(waiting) = &state.waiting {
            let message = waiting.message.as_deref().unwrap_or_default();
            return Some(format!("{name}/{}: {} {message}", container.name, waiting.reason.as_deref().unwrap_or("waiting")));
        }
        if let Some(ended) = &state.terminated {
            return Some(format!("{name}/{}: ended with {} ({})", container.name, ended.exit_code, ended.reason.as_deref().unwrap_or("no reason")));
        }
    }
    let ready = conditions.clone().find(|c| c.type_ == "Ready" && c.status != "True")?;
    Some(format!("{name}: {}", ready.message.as_deref().unwrap_or("is not ready")))
}

/// What was waited for and is not there, and what the pods of its namespaces that are not ready say.
fn reasons(memory: &Memory, wanted: &[Wanted]) -> Vec<String> {
    let mut all: Vec<String> = wanted
        .iter()
        .filter_map(|object| match memory.state(object) {
            Some(State::Done(_)) => None,
            Some(State::Going(done, of)) => Some(format!("  {}: {done} of {of} pods", object.title())),
            Some(State::Stuck(why)) => Some(format!("  {}: {why}", object.title())),
            None => Some(format!("  {}: it is not there", object.title())),
        })
        .collect();
    let mut namespaces: Vec<&str> = wanted.iter().map(|o| o.namespace.as_str()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let mut pods: Vec<String> = namespaces.iter().flat_map(|n| memory.pods.list_namespace(n)).filter_map(|p| waiting(&p)).collect();
    pods.sort();
    pods.dedup();
    if pods.is_empty() {
        pods.push("no pod says why; `kubectl get events -A` may".to_owned());
    }
    // What pods say comes from images and users.
    all.extend(pods.iter().map(|why| format!("  {}", crate::progress::plain(why))));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn each_kind_is_done_when_its_pods_are() {
        let web = |spec: Value, status: Value| {
            let mut spec = spec;
            spec["selector"] = json!({});
            spec["template"] = json!({});
            deployment(&of(json!({"spec": spec, "status": status})), 3)
        };
        let three = json!({"replicas": 3});
        assert_eq!(web(three.clone(), json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3})), State::Going(0, 3));
        assert_eq!(web(three.clone(), json!({"observedGeneration": 3, "replicas": 4, "updatedReplicas": 3, "availableReplicas": 4})), State::Going(2, 3));
        assert_eq!(web(three.clone(), json!({"observedGeneration": 3, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3})), State::Done(3));
        assert_eq!(web(json!({"replicas": 0}), json!({"observedGeneration": 3})), State::Done(0));
        assert_eq!(web(json!({"replicas": 3, "paused": true}), json!({"observedGeneration": 3})), State::Stuck("it is paused".into()));
        let late = json!({"observedGeneration": 3, "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]});
        assert_eq!(web(three, late), State::Stuck("it exceeded its progress deadline".into()));

        let set = |status: Value| stateful_set(&of(json!({"spec": {"replicas": 2, "selector": {}, "template": {}, "serviceName": "s"}, "status": status})), 1);
        let status = json!({"observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "updatedReplicas": 1, "currentRevision": "a", "updateRevision": "b"});
        assert_eq!(set(status), State::Going(1, 2));
        assert_eq!(set(json!({"observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "currentRevision": "a", "updateRevision": "a"})), State::Done(2));

        let each = |status: Value| {
            let counts = json!({"currentNumberScheduled": 1, "desiredNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": 1, "observedGeneration": 1});
            let mut set = json!({"spec": {"selector": {}, "template": {}}, "status": counts});
            for (name, value) in status.as_object().unwrap() {
                set["status"][name] = value.clone();
            }
            daemon_set(&of(set), 1)
        };
        assert_eq!(each(json!({"updatedNumberScheduled": 1})), State::Going(0, 1));
        assert_eq!(each(json!({"updatedNumberScheduled": 1, "numberAvailable": 1})), State::Done(1));

        let run = |status: Value| job(&of(json!({"spec": {"completions": 2, "template": {}}, "status": status})));
        assert_eq!(run(json!({"succeeded": 1})), State::Going(1, 2));
        assert_eq!(run(json!({"conditions": [{"type": "Complete", "status": "True"}]})), State::Done(2));
        assert_eq!(run(json!({"conditions": [{"type": "Failed", "status": "True", "message": "too often"}]})), State::Stuck("it failed: too often".into()));
    }
}
