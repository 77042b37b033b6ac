//! What a pod needs before its first container: devices, directories, cgroup, volumes, sandbox, network.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::plan::Kind;
use super::{Context, refusals};
use crate::api::Severity;
use crate::cri::{CgroupLimits, HostPort, Sandbox, SandboxSpec, label};
use crate::dns::{self, Resolver};
use crate::resources;
use crate::util;
use crate::volumes::payload::Source;
use crate::volumes::persistent::EXHAUSTED;
use crate::volumes::tokens::Proofs;
use crate::volumes::{self, Layout, Ready};

/// All that is ready.
#[derive(Clone, Debug)]
pub struct SetUp {
    /// Volumes by name.
    pub volumes: BTreeMap<String, Ready>,
    /// The sandbox, up.
    pub sandbox: Sandbox,
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
}

/// Why it is not; told by an Event already.
#[derive(Clone, Debug)]
pub struct SetUpError {
    /// In words.
    pub message: String,
    /// What containers wait for besides: by their names, reason and message.
    pub waiting: BTreeMap<String, (String, String)>,
    /// It never will be on this node, for this reason: the pod is to end. No Event has told it.
    pub rejects: Option<&'static str>,
}

impl SetUpError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), waiting: BTreeMap::new(), rejects: None }
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    sandbox: String,
    ips: Vec<IpAddr>,
}

fn record_path(pod_dir: &Path) -> PathBuf {
    pod_dir.join("sandbox.json")
}

/// The addresses that a former process gave to this sandbox.
#[must_use]
pub fn recorded_ips(pod_dir: &Path, sandbox: &Sandbox) -> Option<Vec<IpAddr>> {
    let record: Record = serde_json::from_slice(&fs::read(record_path(pod_dir)).ok()?).ok()?;
    (record.sandbox == sandbox.id.0).then_some(record.ips)
}

/// The hosts file that is mounted into the pod's containers.
#[must_use]
pub fn hosts_path(pod_dir: &Path) -> PathBuf {
    pod_dir.join("etc-hosts")
}

/// The resolver file that is mounted into the pod's containers.
#[must_use]
pub fn resolv_path(pod_dir: &Path) -> PathBuf {
    pod_dir.join("etc-resolv.conf")
}

/// The host name file that is mounted into the pod's containers.
#[must_use]
pub fn hostname_path(pod_dir: &Path) -> PathBuf {
    pod_dir.join("etc-hostname")
}

/// Sets up what is missing. Idempotent: what a former try or process made is used. Volumes and sandbox are made at the same
/// time, since neither needs the other; a sandbox whose pod's volumes fail is kept for the next try. `cancel` ends the waiting
/// for images, volumes and the API; a sandbox that is being made is made, so that somebody knows of it.
pub async fn set_up(
    cx: Arc<Context>,
    pod: Arc<Pod>,
    proofs: Arc<Proofs>,
    existing: Option<Sandbox>,
    attempt: u32,
    cancel: CancellationToken,
) -> Result<SetUp, SetUpError> {
    let layout = Layout::new(&cx.config.root_dir, util::uid(&pod));
    let log_dir = cx.config.pod_log_dir(util::namespace(&pod), util::name(&pod), util::uid(&pod));
    let fail = |reason: &str, message: String| {
        cx.api.pod_event(&pod, None, Severity::Warning, reason, &message);
        SetUpError::new(message)
    };
    let ended = || SetUpError::new("the pod is to stop");
    let refused = tokio::select! {
        refused = refusals::check(&cx, &pod) => refused,
        () = cancel.cancelled() => return Err(ended()),
    };
    refused.map_err(|r| fail(r.reason, r.message))?;
    // A pod that has a sandbox has its devices, whatever has become of their drivers since.
    let devices = if existing.as_ref().is_some_and(|s| s.ready) { Ok(()) } else { cx.devices.prepare(&pod, &cancel).await };
    if cancel.is_cancelled() {
        return Err(ended());
    }
    devices.map_err(|e| fail("FailedPrepareDynamicResources", format!("Failed to prepare dynamic resources: {e}")))?;
    let prepared = util::blocking({
        let (cx, pod, layout, log_dir) = (Arc::clone(&cx), Arc::clone(&pod), layout.clone(), log_dir.clone());
        move || prepare(&cx, &pod, &layout, &log_dir)
    });
    let (cgroup_parent, (resolver, warnings)) = prepared.await.map_err(|e| fail("FailedCreatePodContainer", e))?;
    for warning in warnings {
        cx.api.pod_event(&pod, None, Severity::Warning, "DNSConfigForming", &warning);
    }
    let facts = cx.facts(&pod, &[]);
    let node = cx.node.read().clone();
    let source =
        Source { api: &cx.api, watches: &cx.watches, looks: &cx.looks, persistent: &cx.persistent, pod: &pod, node: node.as_deref(), proofs: &proofs, facts };
    let content = async {
        tokio::select! {
            made = async { tokio::join!(volumes::set_up(&source, &layout), image_volumes(&cx, &pod)) } => Some(made),
            () = cancel.cancelled() => None,
        }
    };
    let (content, joined) = tokio::join!(content, up(&cx, &pod, &layout, existing, attempt, cgroup_parent, log_dir, &resolver));
    let (sandbox, ips) = joined.map_err(|e| fail("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {e}")))?;
    let written = util::blocking({
        let (cx, pod, layout, sandbox, ips) = (Arc::clone(&cx), Arc::clone(&pod), layout.clone(), sandbox.clone(), ips.clone());
        move || write_files(&cx, &pod, &layout, &sandbox, &ips, &resolver)
    });
    written.await.map_err(|e| fail("FailedCreatePodContainer", format!("unable to write the pod's files: {e}")))?;
    let (ready, images) = content.ok_or_else(ended)?;
    let mut ready = ready.map_err(|mut errors| {
        if let Some(at) = errors.iter().position(|e| e.reason == EXHAUSTED) {
            let last = errors.swap_remove(at);
            return SetUpError { rejects: Some(last.reason), ..SetUpError::new(last.message) };
        }
        let told: Vec<String> = errors.into_iter().map(|e| fail(e.reason, e.message).message).collect();
        SetUpError::new(told.join("; "))
    })?;
    for (volume, image) in images? {
        if let Some(r) = ready.get_mut(&volume) {
            r.image = Some(image);
        }
    }
    Ok(SetUp { volumes: ready, sandbox, ips })
}

/// Directories, the cgroup of the pod's class, and what the pod's resolver is to be.
fn prepare(cx: &Context, pod: &Pod, layout: &Layout, log_dir: &Path) -> Result<(String, (Resolver, Vec<String>)), String> {
    for dir in [&layout.pod_dir, log_dir] {
        util::private_dir(dir).map_err(|e| format!("unable to make pod directory {}: {e}", dir.display()))?;
    }
    let parent = cx.cgroups.ensure_class(pod).map_err(|e| format!("unable to ensure pod container exists: {e}"))?;
    cx.balance(None);
    Ok((parent, dns::for_pod(pod, &cx.config, Path::new(dns::RESOLVED))))
}

fn write_files(cx: &Context, pod: &Pod, layout: &Layout, sandbox: &Sandbox, ips: &[IpAddr], resolver: &Resolver) -> std::io::Result<()> {
    let record = Record { sandbox: sandbox.id.0.clone(), ips: ips.to_vec() };
    fs::write(record_path(&layout.pod_dir), serde_json::to_vec(&record).unwrap_or_default())?;
    let host = util::host_network(pod).then(|| dns::node_hosts(fs::read_to_string("/etc/hosts").unwrap_or_default(), &cx.config));
    // Containers read these as whoever they are, whatever this process's umask is.
    let shown = [
        (hosts_path(&layout.pod_dir), dns::hosts_file(pod, ips, &cx.config.cluster_domain, host.as_deref())),
        (resolv_path(&layout.pod_dir), resolver.text()),
        (hostname_path(&layout.pod_dir), format!("{}\n", hostname(cx, pod).unwrap_or_default())),
    ];
    for (path, text) in shown {
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// The containers of a pod that come first and mount a volume: those wait for its image.
fn first_with<'p>(pod: &'p Pod, volume: &str) -> Vec<(Kind, &'p Container)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mounts = |c: &Container| c.volume_mounts.iter().flatten().any(|m| m.name == volume);
    let first = match spec.init_containers.as_deref().unwrap_or_default() {
        [init, ..] => vec![(Kind::Init, init)],
        [] => spec.containers.iter().map(|c| (Kind::Regular, c)).collect(),
    };
    first.into_iter().filter(|(_, c)| mounts(c)).collect()
}

/// The images of image volumes, by the volume's name; fetched by their pull policy. Errors are told by Events already.
async fn image_volumes(cx: &Context, pod: &Pod) -> Result<Vec<(String, String)>, SetUpError> {
    let mut out = Vec::new();
    for v in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let Some(source) = &v.image else { continue };
        let like = Container { name: v.name.clone(), image: source.reference.clone(), image_pull_policy: source.pull_policy.clone(), ..Container::default() };
        let ensured = cx.images.ensure(pod, &like, None).await;
        cx.counts.image_volume(ensured.is_ok());
        let image = ensured.map_err(|e| {
            let mut failed = SetUpError::new(e.message.clone());
            for (kind, c) in first_with(pod, &v.name) {
                let path = kind.field_path(&c.name);
                cx.api.pod_event(pod, Some(&path), Severity::Warning, "Failed", &format!("Error: {}", e.reason));
                failed.waiting.insert(c.name.clone(), (e.reason.clone(), e.message.clone()));
            }
            failed
        })?;
        out.push((v.name.clone(), image.id));
    }
    Ok(out)
}

/// The sandbox, up and on the network: the one that exists, or a new one.
#[allow(clippy::too_many_arguments)] // Each is a different thing, used once.
async fn up(
    cx: &Context,
    pod: &Pod,
    layout: &Layout,
    existing: Option<Sandbox>,
    attempt: u32,
    cgroup_parent: String,
    log_dir: PathBuf,
    resolver: &Resolver,
) -> Result<(Sandbox, Vec<IpAddr>), String> {
    if let Some(s) = existing.filter(|s| s.ready) {
        let ips = match recorded_ips(&layout.pod_dir, &s) {
            Some(ips) => ips,
            None => join_network(cx, pod, &s).await?,
        };
        return Ok((s, ips));
    }
    let s = sandbox(cx, pod, attempt, cgroup_parent, log_dir, resolver).await?;
    match join_network(cx, pod, &s).await {
        Ok(ips) => Ok((s, ips)),
        Err(e) => {
            let _ = cx.runtime.stop_sandbox(&s.id).await;
            let _ = cx.runtime.remove_sandbox(&s.id).await;
            Err(format!("failed to set up sandbox network: {e}"))
        }
    }
}

/// The name that the kernel gets; the host's own on the host's network.
fn hostname(cx: &Context, pod: &Pod) -> Result<String, String> {
    let over = pod.spec.as_ref().is_some_and(|s| s.hostname_override.is_some());
    if util::host_network(pod) && !over {
        return Ok(nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default());
    }
    dns::kernel_hostname(pod, &cx.config.cluster_domain)
}

async fn sandbox(cx: &Context, pod: &Pod, attempt: u32, cgroup_parent: String, log_dir: PathBuf, resolver: &Resolver) -> Result<Sandbox, String> {
    let spec = pod.spec.as_ref().ok_or("pod has no spec")?;
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert(label::POD_NAME.into(), util::name(pod).into());
    labels.insert(label::POD_NAMESPACE.into(), util::namespace(pod).into());
    labels.insert(label::POD_UID.into(), util::uid(pod).into());
    let hostname = hostname(cx, pod)?;
    // In one spelling: of one that is there in both the last counts.
    let sysctls = spec.security_context.as_ref().and_then(|s| s.sysctls.as_ref()).into_iter().flatten();
    let sysctls = sysctls.map(|s| (kinds::dotted_sysctl(&s.name), s.value.clone())).collect();
    let spec = SandboxSpec {
        name: util::name(pod).into(),
        namespace: util::namespace(pod).into(),
        uid: util::uid(pod).into(),
        attempt,
        hostname,
        resolv_conf: resolver.text(),
        cgroup_parent,
        limits: CgroupLimits { huge_pages: resources::pod_pages(pod, &cx.machine.huge_pages), ..resources::pod_limits(pod) },
        host_network: util::host_network(pod),
        host_pid: spec.host_pid.unwrap_or(false),
        host_ipc: spec.host_ipc.unwrap_or(false),
        share_pid: spec.share_process_namespace.unwrap_or(false),
        user_namespace: spec.host_users == Some(false),
        sysctls,
        labels,
        annotations: BTreeMap::new(),
        log_dir,
    };
    let own_users = spec.user_namespace;
    let made = cx.runtime.create_sandbox(spec).await;
    cx.counts.pod(own_users, made.is_ok());
    made.map_err(|e| e.to_string())
}

async fn join_network(cx: &Context, pod: &Pod, sandbox: &Sandbox) -> Result<Vec<IpAddr>, String> {
    if util::host_network(pod) {
        return Ok(cx.machine.host_ips.clone());
    }
    let netns = sandbox.netns.as_ref().ok_or("sandbox has no network namespace")?;
    cx.net.attach(&sandbox.id, netns, host_ports(pod)).await.map_err(|e| e.to_string())
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    resources::held_ports(pod)
        .filter_map(|p| {
            Some(HostPort {
                host_ip: match p.host_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "0.0.0.0" && *ip != "::") {
                    None => None,
                    // An address of another family is opened nowhere, and not everywhere.
                    Some(ip) => Some(ip.parse().ok()?),
                },
                host_port: u16::try_from(p.host_port?).ok().filter(|n| *n > 0)?,
                container_port: u16::try_from(p.container_port).ok()?,
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            })
        })
        .collect()
}
