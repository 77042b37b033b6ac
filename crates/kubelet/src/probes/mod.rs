//! Probes: one task for each probe of each running container, which ends with the container.
//!
//! A task sleeps between its probes and tells only news: the pod's worker is woken when readiness changes, when a container
//! has started, or when one must be killed. The first probe runs at once (after `initialDelaySeconds`, counted from the
//! container's start), so a pod whose server answers is ready without waiting for a period.

pub mod counts;
pub mod grpc;
pub mod http;
pub mod results;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container as Spec, Pod, Probe};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::api::Severity;
use crate::cri::{Container, ContainerId, CriError};
use crate::env::expand;
use crate::pod::plan::find_spec;
use crate::pod::{Context, Handle};
use crate::util;
use counts::Which;
use http::Request;
use results::Results;

/// How long a container that has just started is asked in quick succession.
const EARLY: Duration = Duration::from_secs(1);
/// First pause between those tries; each is twice as long as the one before. A command costs more than a request.
const EARLY_PAUSE: Duration = Duration::from_millis(4);
const EARLY_PAUSE_EXEC: Duration = Duration::from_millis(32);
/// Most bytes of a probe's output in an Event (upstream's `maxRespBodyLength`).
const MAX_OUTPUT: usize = 10 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What one try found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Good,
    /// Good, with a word of warning: the answer was a redirect elsewhere.
    Warned(String),
    /// The container's own verdict, in its words.
    Bad(String),
    /// None: the question could not be put. It counts for nothing (upstream's `probe.Unknown`).
    Unknown(String),
}

/// How often a question that could not be put is put again at once (upstream's `maxProbeRetries`).
const TRIES: usize = 3;

struct Probed {
    tasks: Vec<(Kind, AbortHandle)>,
}

/// The probes of one pod.
pub struct Probes {
    cx: Arc<Context>,
    handle: Arc<Handle>,
    running: HashMap<ContainerId, Probed>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop();
        self.cx.probed.forget(&self.handle.uid.0);
    }
}

impl Probes {
    /// No probes yet.
    #[must_use]
    pub fn new(cx: Arc<Context>, handle: Arc<Handle>) -> Self {
        Self { cx, handle, running: HashMap::new() }
    }

    /// Starts the probes of containers that run, ends those of containers that do not. While the pod terminates only
    /// readiness is probed, as upstream.
    pub fn sync(&mut self, pod: &Arc<Pod>, containers: &[Container], ips: &[IpAddr], terminating: bool) {
        let alive = |id: &ContainerId| containers.iter().any(|c| c.id == *id && c.running());
        self.running.retain(|id, p| {
            let keep = alive(id);
            p.tasks.retain(|(kind, task)| {
                let end = !keep || (terminating && *kind != Kind::Readiness);
                if end {
                    task.abort();
                }
                !end
            });
            keep
        });
        for c in containers.iter().filter(|c| c.running()) {
            if self.running.contains_key(&c.id) {
                continue;
            }
            let Some((kind, spec)) = find_spec(pod, &c.name) else { continue };
            let probed = self.begin(pod, c, &spec, &kind.field_path(&c.name), ips, terminating);
            self.running.insert(c.id.clone(), probed);
        }
    }

    /// Ends all probes.
    pub fn stop(&mut self) {
        for (_, p) in self.running.drain() {
            for (_, task) in p.tasks {
                task.abort();
            }
        }
    }

    fn begin(&self, pod: &Arc<Pod>, c: &Container, spec: &Spec, path: &str, ips: &[IpAddr], terminating: bool) -> Probed {
        let (started, ready) = self.known(pod, c);
        let started = started || spec.startup_probe.is_none();
        let ready = ready || spec.readiness_probe.is_none();
        self.handle.set_result(&c.id, |r| *r = Results { started, ready, ..Results::default() });
        let gate = watch::Sender::new(started);
        let mut tasks = Vec::new();
        let probes = [(Kind::Startup, &spec.startup_probe), (Kind::Liveness, &spec.liveness_probe), (Kind::Readiness, &spec.readiness_probe)];
        for (kind, probe) in probes {
            let Some(probe) = probe else { continue };
            if (kind == Kind::Startup && started) || (terminating && kind != Kind::Readiness) {
                continue;
            }
            let worker = Prober {
                cx: Arc::clone(&self.cx),
                handle: Arc::clone(&self.handle),
                pod: Arc::clone(pod),
                spec: spec.clone(),
                path: path.to_owned(),
                id: c.id.clone(),
                begun: c.started.unwrap_or_else(|| self.cx.now()),
                ip: ips.first().copied(),
                kind,
                which: Which {
                    probe: kind.as_str(),
                    container: c.name.clone(),
                    pod: util::name(pod).to_owned(),
                    namespace: util::namespace(pod).to_owned(),
                    pod_uid: self.handle.uid.0.clone(),
                },
                probe: probe.clone(),
                gate: gate.clone(),
                ready,
            };
            tasks.push((kind, tokio::spawn(worker.run()).abort_handle()));
        }
        Probed { tasks }
    }

    /// What the API says of a container that ran before this process: its readiness stands until a probe says otherwise.
    fn known(&self, pod: &Pod, c: &Container) -> (bool, bool) {
        if c.started.is_none_or(|s| s >= self.cx.started) {
            return (false, false);
        }
        let id = format!("{}://{}", self.cx.scheme, c.id);
        let status = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()));
        status.into_iter().find(|s| s.container_id.as_deref() == Some(&id)).map_or((false, false), |s| (s.started == Some(true), s.ready))
    }
}

struct Prober {
    cx: Arc<Context>,
    handle: Arc<Handle>,
    pod: Arc<Pod>,
    spec: Spec,
    path: String,
    id: ContainerId,
    begun: SystemTime,
    ip: Option<IpAddr>,
    kind: Kind,
    which: Which,
    probe: Probe,
    gate: watch::Sender<bool>,
    ready: bool,
}

fn positive(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
}

impl Prober {
    async fn run(self) {
        let delay = Duration::from_secs(u64::from(positive(self.probe.initial_delay_seconds, 0)));
        // Upstream sees a container about a second after its start; nobody should be killed for being asked earlier than there.
        let delay = if self.kind == Kind::Liveness { delay.max(EARLY) } else { delay };
        let over = (self.begun + delay).duration_since(self.cx.now()).unwrap_or_default();
        tokio::time::sleep(over).await;
        if self.kind != Kind::Startup && self.gate.subscribe().wait_for(|started| *started).await.is_err() {
            return;
        }
        let period = Duration::from_secs(u64::from(positive(self.probe.period_seconds, 10)));
        let needed_good = positive(self.probe.success_threshold, 1);
        let needed_bad = positive(self.probe.failure_threshold, 3);
        let mut tell = self.ready;
        let (mut good, mut bad) = (0_u32, 0_u32);
        let mut first = Instant::now();
        if self.kind != Kind::Liveness && !tell && self.early().await {
            good = 1;
            first = Instant::now() + period;
            if needed_good <= 1 && self.succeeded(&mut tell) {
                return;
            }
        }
        let mut ticks = tokio::time::interval_at(first, period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = Instant::now();
            let found = self.asked().await;
            self.cx.probed.add(&self.which, &found, asked.elapsed());
            match found {
                Found::Good => (good, bad) = (good.saturating_add(1), 0),
                Found::Warned(output) => {
                    (good, bad) = (good.saturating_add(1), 0);
                    self.warn(&output);
                }
                Found::Bad(output) => {
                    (good, bad) = (0, bad.saturating_add(1));
                    self.tell("Unhealthy", &format!("failed: {}", util::truncate(&output, MAX_OUTPUT)));
                }
                Found::Unknown(error) => {
                    self.tell("Unhealthy", &format!("errored and resulted in unknown state: {}", util::truncate(&error, MAX_OUTPUT)));
                    continue;
                }
            }
            if good >= needed_good && self.succeeded(&mut tell) {
                return;
            }
            if bad >= needed_bad && self.failed(&mut tell) {
                return;
            }
        }
    }

    /// Asks in quick succession for a moment, until it succeeds: a server needs some milliseconds after its start, not a whole
    /// period. These tries count for nothing when they fail, and nobody is told of them.
    async fn early(&self) -> bool {
        let until = Instant::now() + EARLY;
        let mut pause = if self.probe.exec.is_some() { EARLY_PAUSE_EXEC } else { EARLY_PAUSE };
        loop {
            let asked = Instant::now();
            let found = self.once().await;
            if let Found::Warned(output) = &found {
                self.warn(output);
            }
            if matches!(found, Found::Good | Found::Warned(_)) {
                self.cx.probed.add(&self.which, &found, asked.elapsed());
                return true;
            }
            if Instant::now() + pause >= until {
                tokio::time::sleep_until(until).await;
                return false;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// True if this probe has nothing more to do.
    fn succeeded(&self, tell: &mut bool) -> bool {
        match self.kind {
            Kind::Startup => {
                self.handle.set_result(&self.id, |r| r.started = true);
                self.gate.send_replace(true);
                return true;
            }
            Kind::Readiness if !*tell => {
                *tell = true;
                self.handle.set_result(&self.id, |r| r.ready = true);
            }
            _ => {}
        }
        false
    }

    fn failed(&self, tell: &mut bool) -> bool {
        match self.kind {
            Kind::Startup => self.handle.set_result(&self.id, |r| r.startup_failed = true),
            Kind::Liveness => self.handle.set_result(&self.id, |r| r.liveness_failed = true),
            Kind::Readiness => {
                if *tell {
                    *tell = false;
                    self.handle.set_result(&self.id, |r| r.ready = false);
                }
                return false;
            }
        }
        true
    }

    fn warn(&self, output: &str) {
        self.tell("ProbeWarning", &format!("warning: {}", util::truncate(output, MAX_OUTPUT)));
    }

    fn tell(&self, reason: &str, what: &str) {
        let text = format!("{} probe {what}", self.kind.as_str());
        self.cx.api.pod_event(&self.pod, Some(&self.path), Severity::Warning, reason, &text);
    }

    /// One question, put again if it could not be.
    async fn asked(&self) -> Found {
        let mut found = self.once().await;
        for _ in 1..TRIES {
            if !matches!(found, Found::Unknown(_)) {
                break;
            }
            found = self.once().await;
        }
        found
    }

    async fn once(&self) -> Found {
        let timeout = Duration::from_secs(u64::from(positive(self.probe.timeout_seconds, 1)));
        match self.put(timeout).await {
            Ok(Ok(None)) => Found::Good,
            Ok(Ok(Some(output))) => Found::Warned(output),
            Ok(Err(output)) => Found::Bad(output),
            Err(error) => Found::Unknown(error),
        }
    }

    /// Puts the question: the container's verdict (a success may come with a warning), or why there is none.
    async fn put(&self, timeout: Duration) -> Result<Result<Option<String>, String>, String> {
        if let Some(e) = &self.probe.exec {
            // Of the environment what stands in the spec (upstream's `ExpandContainerCommandOnlyStatic`).
            let env: Vec<(String, String)> = self.spec.env.iter().flatten().map(|v| (v.name.clone(), v.value.clone().unwrap_or_default())).collect();
            let command = expand::expand_all(e.command.as_deref().unwrap_or_default(), &env);
            let shown = command.join(" ");
            return match self.cx.runtime.exec_sync(&self.id, command, Some(timeout)).await {
                Ok(out) if out.exit_code == 0 => Ok(Ok(None)),
                Ok(out) => Ok(Err(String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())),
                Err(CriError::DeadlineExceeded(_)) => Ok(Err(format!("command timed out: {shown:?} timed out after {}s", timeout.as_secs()))),
                Err(e) => Err(e.to_string()),
            };
        }
        if let Some(h) = &self.probe.http_get {
            let request = Request::from_action(h, &self.spec, self.ip)?;
            return Ok(http::probe(&request, timeout).await);
        }
        if let Some(t) = &self.probe.tcp_socket {
            let port = util::port(&t.port, &self.spec)?;
            let host = http::host(t.host.as_deref(), self.ip)?;
            let at = http::authority(&host, port);
            return Ok(match tokio::time::timeout(timeout, util::connect(&host, port)).await {
                Ok(Ok(_)) => Ok(None),
                Ok(Err(e)) => Err(format!("dial tcp {at}: {}", http::go_error(&e))),
                Err(_) => Err(format!("dial tcp {at}: i/o timeout")),
            });
        }
        if let Some(g) = &self.probe.grpc {
            let port = u16::try_from(g.port).map_err(|_| format!("invalid port number: {}", g.port))?;
            let host = http::host(None, self.ip)?;
            return Ok(grpc::check(&host, port, g.service.as_deref().unwrap_or_default(), timeout).await.map(|()| None));
        }
        Err("missing probe handler".into())
    }
}
