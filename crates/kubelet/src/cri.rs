//! What the kubelet asks of a container runtime and of the pod network.
//!
//! Two narrow traits, shaped like CRI, so that pods can be synced against the built-in runtime, against a CRI runtime on
//! a socket, and against fakes in tests. Every identifier is a type of its own. The runtime knows nothing of the API:
//! what the kubelet must find again after a restart travels as labels and annotations on sandboxes and containers.
//!
//! The specs look like the built-in runtime's configs and are not them, on purpose. A spec is written by whoever knows the
//! pod: it has no identifier yet, its user and groups are the API's wide numbers, a limit of 0 is none, and it says what the
//! API asks (`unmasked_proc`, `merge_groups`). A config is what the runtime keeps on disk and makes: the identifier is chosen, ids
//! are the kernel's, a limit that is absent leaves the present one, and there are devices, root file systems and limits of
//! processes that no pod can ask for. Shared, either side would have fields that it must not fill. `real/runtime.rs` turns
//! the one into the other, in one place.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc};

// Values that mean the same to every runtime are those of the built-in one. What names things or bounds them is the kubelet's
// own, below: each runtime chooses its identifiers, and the kubelet's numbers are the API's.
pub use ::runtime::{APPARMOR_RUNTIME_DEFAULT, apparmor_default, apparmor_enabled};
pub use ::runtime::{Bandwidth, BlockDevice, Detail, Pressure, Pressures, Stall, Stats, Throughput};
pub use ::runtime::{ContainerState as State, Credentials, Device, DeviceOwner, ExecResult, Hook, HookMoment, Mount, Origin, Propagation, Seccomp};

/// Labels on sandboxes and containers, by which pods are found again after a restart. The names are those of CRI.
pub mod label {
    /// The pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The pod's UID.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// The container's name in the pod's spec.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// `regular`, `init` or `ephemeral`.
    pub const CONTAINER_TYPE: &str = "io.kubernetes.container.type";
    /// Hash of the parts of the container's spec whose change restarts it.
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    /// The restart count this container stands for.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Grace period of the pod in seconds when the container was made.
    pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// Where the termination message is on the host.
    pub const MESSAGE_HOST_PATH: &str = "io.kubernetes.container.terminationMessageHostPath";
    /// The termination message policy.
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
}

/// Annotations on containers: what may be long, and is needed when the pod's object is gone.
pub mod annotation {
    /// The preStop hook, as JSON.
    pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
    /// The container's ports, which a hook may name, as JSON.
    pub const PORTS: &str = "io.kubernetes.container.ports";
}

/// A sandbox as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxId(pub String);

/// A container as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub String);

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The UID of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(pub String);

/// Why the runtime or the network refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CriError {
    /// The thing does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The image reference cannot be parsed.
    #[error("{0}")]
    InvalidImage(String),
    /// The registry is not to be reached at present.
    #[error("{0}")]
    RegistryUnavailable(String),
    /// Took longer than allowed.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// Anything else, in the runtime's words.
    #[error("{0}")]
    Other(String),
}

/// A pod's sandbox to be made.
#[derive(Clone, Debug, Default)]
pub struct SandboxSpec {
    /// Pod name, namespace and UID.
    pub name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// UID of the pod.
    pub uid: String,
    /// How often a sandbox was made for this pod before.
    pub attempt: u32,
    /// The host name inside.
    pub hostname: String,
    /// The text of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// The cgroup below which the containers' cgroups are made; the runtime makes it, with `limits`.
    pub cgroup_parent: String,
    /// Limits of the pod as a whole.
    pub limits: CgroupLimits,
    /// Use the host's network namespace.
    pub host_network: bool,
    /// Use the host's PID namespace.
    pub host_pid: bool,
    /// Use the host's IPC namespace.
    pub host_ipc: bool,
    /// One PID namespace for all containers of the pod.
    pub share_pid: bool,
    /// Users of its own (`hostUsers: false`).
    pub user_namespace: bool,
    /// Kernel parameters of the namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Labels, see [`label`].
    pub labels: BTreeMap<String, String>,
    /// Free annotations.
    pub annotations: BTreeMap<String, String>,
    /// Directory of the containers' logs.
    pub log_dir: PathBuf,
}

/// A sandbox that exists.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Its identifier.
    pub id: SandboxId,
    /// Whether it is up.
    pub ready: bool,
    /// Attempt it was made with.
    pub attempt: u32,
    /// When it was made.
    pub created: SystemTime,
    /// The file of its network namespace; none on the host network.
    pub netns: Option<PathBuf>,
    /// Labels it was made with.
    pub labels: BTreeMap<String, String>,
}

/// Cgroup numbers of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// `cpu.shares` (v1 scale: 1024 is one CPU).
    pub cpu_shares: u64,
    /// Microseconds of CPU per period; 0: unlimited.
    pub cpu_quota_us: i64,
    /// Length of the period in microseconds.
    pub cpu_period_us: u64,
    /// Bytes of memory; 0: unlimited.
    pub memory_limit_bytes: i64,
    /// `oom_score_adj` of the first process.
    pub oom_score_adj: i32,
    /// Bytes of huge pages by the kernel's name of their size (`2MB`); a size that is not named is not limited.
    pub huge_pages: BTreeMap<String, u64>,
}

/// Who a container runs as, and with which powers.
#[derive(Clone, Debug, Default)]
pub struct SecuritySpec {
    /// UID; none: the image's user.
    pub uid: Option<i64>,
    /// GID; none: of the image's user.
    pub gid: Option<i64>,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// Whether the image's own group memberships count (`Merge`) or not (`Strict`).
    pub merge_groups: bool,
    /// Capabilities to add, without the prefix `CAP_`; `ALL` means all.
    pub add_capabilities: Vec<String>,
    /// Capabilities to drop.
    pub drop_capabilities: Vec<String>,
    /// All devices and capabilities.
    pub privileged: bool,
    /// Root file system is read-only.
    pub readonly_rootfs: bool,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Seccomp filter.
    pub seccomp: Seccomp,
    /// The AppArmor profile: the runtime's default, or one by name; none: unconfined.
    pub apparmor: Option<String>,
    /// `/proc` unmasked (`procMount: Unmasked`).
    pub unmasked_proc: bool,
}

/// A container to be made.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    /// Name in the pod's spec.
    pub name: String,
    /// Restart count.
    pub attempt: u32,
    /// Image reference or ID as the runtime knows it.
    pub image: String,
    /// Entry point; empty: the image's.
    pub command: Vec<String>,
    /// Arguments; empty: the image's, unless `command` is set.
    pub args: Vec<String>,
    /// Environment in order.
    pub env: Vec<(String, String)>,
    /// Working directory; empty: the image's.
    pub working_dir: String,
    /// Mounts in order.
    pub mounts: Vec<Mount>,
    /// Devices of volumes; those of the host are for privileged containers only.
    pub devices: Vec<Device>,
    /// Programs of the host that finish its file system, as specifications of devices name them.
    pub hooks: Vec<Hook>,
    /// Who it runs as.
    pub security: SecuritySpec,
    /// Limits.
    pub limits: CgroupLimits,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close standard input after the first attach ends.
    pub stdin_once: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// The log file, in CRI's format.
    pub log_path: PathBuf,
    /// The process whose PID namespace to join (ephemeral containers with a target).
    pub target: Option<ContainerId>,
    /// Signal that stops it, by name; none: the image's.
    pub stop_signal: Option<String>,
    /// Labels, see [`label`].
    pub labels: BTreeMap<String, String>,
    /// Free annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A container that exists.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its identifier.
    pub id: ContainerId,
    /// The sandbox it is in.
    pub sandbox: SandboxId,
    /// Name in the pod's spec.
    pub name: String,
    /// Restart count.
    pub attempt: u32,
    /// State.
    pub state: State,
    /// When it was made.
    pub created: SystemTime,
    /// When it was started.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub finished: Option<SystemTime>,
    /// Exit code; 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// Ended by the kernel for want of memory.
    pub oom_killed: bool,
    /// The runtime's word for the end, if it has a special one (`StartError`, …).
    pub reason: String,
    /// The runtime's message for the end.
    pub message: String,
    /// The image as asked for.
    pub image: String,
    /// Digest reference or ID of the image.
    pub image_id: String,
    /// Labels it was made with.
    pub labels: BTreeMap<String, String>,
    /// Annotations it was made with, see [`annotation`].
    pub annotations: BTreeMap<String, String>,
    /// Its log file.
    pub log_path: PathBuf,
    /// UID, GID and groups of its first process, if known.
    pub user: Option<(i64, i64, Vec<i64>)>,
}

impl Container {
    /// The UID of the pod it belongs to.
    #[must_use]
    pub fn pod_uid(&self) -> Option<PodUid> {
        self.labels.get(label::POD_UID).cloned().map(PodUid)
    }

    /// Whether it is running.
    #[must_use]
    pub fn running(&self) -> bool {
        self.state == State::Running
    }
}

/// An image on the node.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Tags.
    pub repo_tags: Vec<String>,
    /// Digest references.
    pub repo_digests: Vec<String>,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// `User` of its configuration.
    pub user: String,
    /// How it came; none: nobody wrote it down.
    pub origin: Option<Origin>,
}

/// A reader of bytes, boxed.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// A writer of bytes, boxed.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;
/// A two-way stream of bytes.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The streams of an exec or attach.
pub struct Streams {
    /// Standard input of the process, if any.
    pub stdin: Option<Reader>,
    /// Where its output goes.
    pub stdout: Option<Writer>,
    /// Where its errors go; none with a terminal.
    pub stderr: Option<Writer>,
    /// Terminal sizes (columns, rows) as they change.
    pub resize: Option<mpsc::Receiver<(u16, u16)>>,
    /// A terminal is wanted.
    pub tty: bool,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// A container.
    Container(ContainerId),
    /// A cgroup, by its path from the root of the hierarchy.
    Cgroup(String),
}

/// What was used.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// What every reading has.
    pub stats: Stats,
    /// What there is beside, if it was asked for.
    pub detail: Option<Detail>,
}

/// Something changed; the receiver looks for itself what.
#[derive(Clone, Debug)]
pub struct RuntimeEvent {
    /// The pod it happened to; none: nobody knows, so all look.
    pub pod: Option<PodUid>,
}

/// The runtime, as the kubelet needs it. Reads are from memory and cheap; the rest is asynchronous.
#[async_trait]
pub trait ContainerRuntime: Send + Sync {
    /// Name and version, as shown in the node's status: `name://version`.
    fn version(&self) -> String;
    /// Whether pods can have users of their own here; the error says why not. May look at the kernel's files.
    fn user_namespaces(&self) -> Result<(), CriError> {
        Err(CriError::Other("the runtime has no user namespaces".into()))
    }
    /// All sandboxes of this node.
    fn sandboxes(&self) -> Vec<Sandbox>;
    /// All containers of this node, also ended ones.
    fn containers(&self) -> Vec<Container>;
    /// The sandboxes of one pod.
    fn pod_sandboxes(&self, uid: &PodUid) -> Vec<Sandbox> {
        self.sandboxes().into_iter().filter(|s| s.labels.get(label::POD_UID) == Some(&uid.0)).collect()
    }
    /// The containers of one pod.
    fn pod_containers(&self, uid: &PodUid) -> Vec<Container> {
        self.containers().into_iter().filter(|c| c.labels.get(label::POD_UID) == Some(&uid.0)).collect()
    }
    /// Changes from now on.
    fn events(&self) -> broadcast::Receiver<RuntimeEvent>;
    /// Makes a sandbox and waits until it is up.
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, CriError>;
    /// Ends all processes of a sandbox and frees its namespaces.
    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), CriError>;
    /// Forgets a stopped sandbox and its containers.
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), CriError>;
    /// Makes a container without starting it.
    async fn create_container(&self, sandbox: &SandboxId, spec: ContainerSpec) -> Result<ContainerId, CriError>;
    /// Starts a container that was made.
    async fn start_container(&self, id: &ContainerId) -> Result<(), CriError>;
    /// Stop signal, and after `grace` SIGKILL; returns when the container has ended.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), CriError>;
    /// Forgets a container that has ended.
    async fn remove_container(&self, id: &ContainerId) -> Result<(), CriError>;
    /// Runs a command to its end.
    async fn exec_sync(&self, id: &ContainerId, command: Vec<String>, timeout: Option<Duration>) -> Result<ExecResult, CriError>;
    /// Runs a command with streams; answers its exit code.
    async fn exec(&self, id: &ContainerId, command: Vec<String>, streams: Streams) -> Result<i32, CriError>;
    /// Joins the streams of the container's first process until they end.
    async fn attach(&self, id: &ContainerId, streams: Streams) -> Result<(), CriError>;
    /// Connects to a port on the sandbox's loopback.
    async fn port_forward(&self, sandbox: &SandboxId, port: u16) -> Result<Box<dyn Duplex>, CriError>;
    /// Gives a container that exists new limits.
    async fn update_resources(&self, id: &ContainerId, limits: CgroupLimits) -> Result<(), CriError>;
    /// Makes the runtime open the log file anew after it was moved away.
    async fn reopen_log(&self, id: &ContainerId) -> Result<(), CriError>;
    /// What a container's writable layer takes.
    async fn disk_usage(&self, id: &ContainerId) -> Result<runtime::DiskUsage, CriError>;
    /// Present use.
    async fn stats(&self, id: &ContainerId) -> Result<Stats, CriError>;
    /// The same of many at once, in their order, with all that is known of each if `whole`; none for what is gone.
    async fn readings(&self, of: Vec<Measure>, whole: bool) -> Vec<Option<Reading>>;
    /// An image by reference or ID, if it is on the node.
    fn image(&self, reference: &str) -> Option<Image>;
    /// All images.
    fn images(&self) -> Vec<Image>;
    /// Fetches an image.
    async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Image, CriError>;
    /// Says how those images came (by their IDs) that were written down without it. Blocks on the disk.
    fn settle_origins(&self, origin: &dyn Fn(&str) -> Origin) -> Result<(), CriError>;
    /// Removes an image.
    async fn remove_image(&self, reference: &str) -> Result<(), CriError>;
}

/// A port of the host that leads into a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Address of the host; none: all.
    pub host_ip: Option<IpAddr>,
    /// Port of the host.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// The pod network, as the kubelet needs it.
#[async_trait]
pub trait PodNet: Send + Sync {
    /// Joins a sandbox to the pod network; answers its addresses, the first being the pod's IP. Idempotent.
    async fn attach(&self, sandbox: &SandboxId, netns: &std::path::Path, host_ports: Vec<HostPort>) -> Result<Vec<IpAddr>, CriError>;
    /// Takes a sandbox off the network and frees its addresses. Idempotent.
    async fn detach(&self, sandbox: &SandboxId) -> Result<(), CriError>;
    /// After a restart: of the sandboxes that are attached only these still live; the addresses of the others are freed.
    async fn adopt(&self, live: &HashSet<SandboxId>) -> Result<(), CriError>;
}

/// Shared handle to a runtime.
pub type SharedRuntime = Arc<dyn ContainerRuntime>;
/// Shared handle to a pod network.
pub type SharedNet = Arc<dyn PodNet>;
