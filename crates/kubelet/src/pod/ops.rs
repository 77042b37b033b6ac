//! Starting one container: image, environment, security, the runtime's part, and the postStart hook.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::plan::{Kind, container_hash};
use super::setup::{SetUp, hostname_path, hosts_path, resolv_path};
use crate::api::Severity;
use crate::cri::{ContainerId, ContainerSpec, CriError, Mount, annotation, label};
use crate::devices::Devices;
use crate::env::{self, expand, services};
use crate::hooks;
use crate::resources;
use crate::security;
use crate::start_error::StartError;
use crate::statics::is_static;
use crate::util;
use crate::volumes::{self, Layout};

/// What to start.
pub struct Start {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Which list it is in.
    pub kind: Kind,
    /// Its spec.
    pub spec: Spec,
    /// Restart count.
    pub attempt: u32,
    /// What was set up.
    pub set_up: SetUp,
    /// The container whose process namespace an ephemeral container joins.
    pub target: Option<Target>,
    /// Ends the pull and the hook when the pod is to stop.
    pub cancel: CancellationToken,
}

/// The container that an ephemeral one looks into.
pub struct Target {
    /// Its name.
    pub name: String,
    /// The newest run of it.
    pub run: Option<ContainerId>,
    /// Whether this runs now.
    pub running: bool,
}

impl Start {
    fn event(&self, cx: &Context, severity: Severity, reason: &str, message: &str) {
        cx.api.pod_event(&self.pod, Some(&self.kind.field_path(&self.spec.name)), severity, reason, message);
    }
}

/// Starts the container.
pub async fn start(cx: Arc<Context>, s: Start) -> Result<(), StartError> {
    let kind = s.kind;
    cx.counts.container(kind);
    let done = Box::pin(begin(Arc::clone(&cx), s)).await;
    // One that is not wanted any more did not fail.
    if let Some(e) = done.as_ref().err().filter(|e| e.reason != "ContainerCreating") {
        cx.counts.container_failed(kind, &e.reason);
    }
    done
}

async fn begin(cx: Arc<Context>, s: Start) -> Result<(), StartError> {
    let path = s.kind.field_path(&s.spec.name);
    let image = tokio::select! {
        got = cx.images.ensure(&s.pod, &s.spec, Some(&path)) => got?,
        () = s.cancel.cancelled() => return Err(StartError::new("ContainerCreating", "")),
    };
    let made = tokio::select! {
        made = config(&cx, &s, &image) => made,
        () = s.cancel.cancelled() => return Err(StartError::new("ContainerCreating", "")),
    };
    let failed = |reason: &str, message: String| {
        s.event(&cx, Severity::Warning, "Failed", &format!("Error: {message}"));
        StartError::new(reason, message)
    };
    if let Some(Target { name, run: None, .. }) = &s.target {
        return Err(failed("CreateContainerConfigError", format!("unable to find target container {name}")));
    }
    let mut spec = made.map_err(|message| failed("CreateContainerConfigError", message))?;
    // Made now it would end at once, and never begin again. So it is made when the other runs.
    if let Some(Target { name, running: false, .. }) = &s.target {
        return Err(failed("CreateContainerError", format!("invalid target container: container {name:?} is not running")));
    }
    let names = cx.devices.names(&s.pod, &s.spec).map_err(|message| failed("CreateContainerConfigError", message))?;
    // What containers get of devices is the runtime's to find out (CDI).
    Devices::edits(names).await.map_err(|message| failed("CreateContainerError", message))?.give(&mut spec);
    if s.cancel.is_cancelled() {
        return Err(StartError::new("ContainerCreating", ""));
    }
    let id = cx.runtime.create_container(&s.set_up.sandbox.id, spec).await.map_err(|e| {
        s.event(&cx, Severity::Warning, "Failed", &format!("Error: {e}"));
        StartError::new("CreateContainerError", e.to_string())
    })?;
    s.event(&cx, Severity::Normal, "Created", "Container created");
    cx.runtime.start_container(&id).await.map_err(|e: CriError| {
        s.event(&cx, Severity::Warning, "Failed", &format!("Error: {e}"));
        StartError::new("RunContainerError", e.to_string())
    })?;
    s.event(&cx, Severity::Normal, "Started", "Container started");
    post_start(&cx, &s, &id).await
}

/// Runs the postStart hook; where it fails the worker stops the container, with its preStop hook, as upstream.
async fn post_start(cx: &Arc<Context>, s: &Start, id: &ContainerId) -> Result<(), StartError> {
    let Some(handler) = s.spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
    let ran = tokio::select! {
        ran = hooks::run(&cx.runtime, &s.pod, &s.spec, id, &s.set_up.ips, handler) => ran,
        () = s.cancel.cancelled() => return Ok(()),
    };
    match ran {
        Ok(None) => {}
        Ok(Some(told)) => cx.api.pod_event(&s.pod, None, Severity::Warning, "LifecycleHTTPFallback", &told),
        Err(e) => {
            // What the hook said stays out of the Event, where more people can read it than may see the pod's secrets.
            s.event(cx, Severity::Warning, "FailedPostStartHook", "PostStartHook failed");
            return Err(StartError { unhooked: Some(id.clone()), ..StartError::new("PostStartHookError", e) });
        }
    }
    Ok(())
}

async fn config(cx: &Context, s: &Start, image: &crate::cri::Image) -> Result<ContainerSpec, String> {
    let (pod, c) = (&*s.pod, &s.spec);
    let spec = pod.spec.as_ref().ok_or("pod has no spec")?;
    let layout = Layout::new(&cx.config.root_dir, util::uid(pod));
    let ips: &[IpAddr] = &s.set_up.ips;
    let facts = cx.facts(pod, ips);
    let links = spec.enable_service_links.unwrap_or(true);
    let ns = util::namespace(pod);
    // A static pod waits for no API server.
    let by_now = is_static(pod);
    let in_default = cx.api.services("default", by_now).await;
    let kubernetes = in_default.iter().find(|s| s.metadata.name.as_deref() == Some("kubernetes"));
    let own = if links { cx.api.services(ns, by_now).await } else { Vec::new() };
    let vars = services::variables(&own, kubernetes.map(|k| &**k), links, cx.config.api_service);
    let env = env::build(&cx.api, &facts, c, vars, &layout.pod_dir.join("volumes")).await.map_err(|e| e.to_string())?;
    let mut security = security::for_container(pod, c, image)?;
    // Who made a volume may want its users to be of a group (upstream's `GetExtraSupplementalGroupsForPod`).
    for group in s.set_up.volumes.values().filter_map(|v| v.group) {
        if !security.supplemental_groups.contains(&group) {
            security.supplemental_groups.push(group);
        }
    }
    let mut mounts = {
        // Paths in volumes of the host may hang with their file systems.
        let (layout, ready, c, env) = (layout.clone(), s.set_up.volumes.clone(), c.clone(), env.clone());
        cx.looks.look(util::uid(pod), move || volumes::container_mounts(&layout, &ready, &c, &env)).await?
    };
    let (message_path, log) = {
        let (dir, attempt, log) = (layout.pod_dir.join("containers").join(&c.name), s.attempt, log_path(cx, s));
        util::blocking(move || make_files(&dir, attempt, &log).map(|message| (message, log))).await?
    };
    let taken = |at: &str| c.volume_mounts.iter().flatten().any(|m| m.mount_path.trim_end_matches('/') == at);
    for (inside, file) in
        [("/etc/hosts", hosts_path(&layout.pod_dir)), ("/etc/resolv.conf", resolv_path(&layout.pod_dir)), ("/etc/hostname", hostname_path(&layout.pod_dir))]
    {
        if !taken(inside) {
            // Of a root that is only read are those too which the original's runtime makes; the kubelet's own is not.
            let readonly = security.readonly_rootfs && inside != "/etc/hosts";
            mounts.push(Mount { host: file, container: PathBuf::from(inside), readonly, ..Mount::default() });
        }
    }
    let inside = c.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !taken(inside) {
        mounts.push(Mount { host: message_path.clone(), container: PathBuf::from(inside), ..Mount::default() });
    }
    let devices = volumes::container_devices(&s.set_up.volumes, c)?;
    Ok(ContainerSpec {
        name: c.name.clone(),
        attempt: s.attempt,
        image: if image.id.is_empty() { c.image.clone().unwrap_or_default() } else { image.id.clone() },
        command: expand::expand_all(c.command.as_deref().unwrap_or_default(), &env),
        args: expand::expand_all(c.args.as_deref().unwrap_or_default(), &env),
        env,
        working_dir: c.working_dir.clone().unwrap_or_default(),
        mounts,
        devices,
        hooks: Vec::new(),
        security,
        limits: resources::container_limits(pod, c, cx.machine.memory_bytes, &cx.machine.huge_pages),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        tty: c.tty.unwrap_or(false),
        log_path: log,
        target: s.target.as_ref().and_then(|t| t.run.clone()),
        stop_signal: c.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        labels: labels(s, &message_path),
        annotations: annotations(c),
    })
}

/// Makes the file of the termination message, and the directory of the log.
fn make_files(dir: &Path, attempt: u32, log: &Path) -> Result<PathBuf, String> {
    let file = dir.join(format!("termination-{attempt}"));
    let make = || -> std::io::Result<()> {
        util::private_dir(dir)?;
        fs::File::create(&file)?;
        // The container may run as anybody.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666))
    };
    make().map_err(|e| format!("termination message file: {e}"))?;
    let log_dir = log.parent().unwrap_or(log);
    util::private_dir(log_dir).map_err(|e| format!("create log directory {} failed: {e}", log_dir.display()))?;
    Ok(file)
}

fn log_path(cx: &Context, s: &Start) -> PathBuf {
    let pod = &s.pod;
    let dir = cx.config.pod_log_dir(util::namespace(pod), util::name(pod), util::uid(pod));
    dir.join(&s.spec.name).join(format!("{}.log", s.attempt))
}

fn annotations(c: &Spec) -> BTreeMap<String, String> {
    let mut out = BTreeMap::from([("io.kubernetes.container.image".to_owned(), c.image.clone().unwrap_or_default())]);
    // Whoever ends it when its object is gone must still run its hook.
    if let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        let json = |value: serde_json::Result<String>| value.unwrap_or_default();
        out.insert(annotation::PRE_STOP.to_owned(), json(serde_json::to_string(hook)));
        out.insert(annotation::PORTS.to_owned(), json(serde_json::to_string(&c.ports)));
    }
    out
}

fn labels(s: &Start, message_path: &std::path::Path) -> BTreeMap<String, String> {
    let pod = &s.pod;
    let grace = pod.spec.as_ref().and_then(|p| p.termination_grace_period_seconds).unwrap_or(30);
    let policy = s.spec.termination_message_policy.clone().unwrap_or_else(|| "File".into());
    [
        (label::POD_NAME, util::name(pod).to_owned()),
        (label::POD_NAMESPACE, util::namespace(pod).to_owned()),
        (label::POD_UID, util::uid(pod).to_owned()),
        (label::CONTAINER_NAME, s.spec.name.clone()),
        (label::CONTAINER_TYPE, s.kind.label().to_owned()),
        (label::CONTAINER_HASH, container_hash(&s.spec)),
        (label::RESTART_COUNT, s.attempt.to_string()),
        (label::POD_GRACE, grace.to_string()),
        (label::MESSAGE_HOST_PATH, message_path.display().to_string()),
        (label::MESSAGE_POLICY, policy),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}
