//! What the runtime is told and what it tells. Shaped as the CRI (`k8s.io/cri-api` v1), without its protobuf.

mod stats;

pub use stats::*;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Where the runtime keeps its things and how it is named on the host.
#[derive(Debug, Clone)]
pub struct Config {
    /// Persistent directory: images, snapshots, containers' writable layers.
    pub root: PathBuf,
    /// The persistent directory of another runtime of this host whose images this one shares; none: it has its own.
    pub store: Option<PathBuf>,
    /// Volatile directory: shims' sockets and states. Emptied by a reboot.
    pub run: PathBuf,
    /// The mount point of the cgroup file systems; `/sys/fs/cgroup` on every host.
    pub cgroup_root: PathBuf,
    /// The cluster's name, or `CLUSTER/NODE` for a further node of it on this host: everything made on the host carries it, and the
    /// cgroup of this path holds all containers.
    pub mark: String,
    /// A `registries.yaml` in k3s's format; it may be absent.
    pub registries: Option<PathBuf>,
    /// The network namespace in which registries are reached; none: the process's own.
    pub network: Option<Arc<File>>,
    /// The program that is re-executed as `PROGRAM shim …`; `/proc/self/exe` usually.
    pub shim: PathBuf,
}

/// A sandbox (a pod's namespaces) to make.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxConfig {
    /// Unique; letters, digits, `-`, `_`, `.`; chosen by the caller.
    pub id: String,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace (the API's, not the kernel's).
    pub namespace: String,
    /// The pod's uid.
    pub uid: String,
    /// The sandbox's attempt, counted by the caller.
    pub attempt: u32,
    /// The host name in the sandbox's UTS namespace; ignored with `host_network`.
    pub hostname: String,
    /// The text of `resolv.conf`; kept for the caller, who mounts a file of it into containers.
    pub resolv_conf: String,
    /// The pod's cgroup below the cgroup root, e.g. `/knarr/kubepods/burstable/podUID`.
    pub cgroup_parent: String,
    /// Limits of the pod's cgroup as a whole.
    pub resources: Resources,
    /// The host's network (and UTS) namespace instead of an own one.
    pub host_network: bool,
    /// The host's process namespace for all containers.
    pub host_pid: bool,
    /// The host's IPC namespace.
    pub host_ipc: bool,
    /// One process namespace for all containers of the pod.
    pub share_pid: bool,
    /// Kernel parameters of the namespaces, `net.core.somaxconn` → `1024`.
    pub sysctls: BTreeMap<String, String>,
    /// Kept and given back.
    pub labels: BTreeMap<String, String>,
    /// Kept and given back.
    pub annotations: BTreeMap<String, String>,
    /// The directory below which the containers' relative `log_path`s lie.
    pub log_dir: PathBuf,
    /// Size of the pod's `/dev/shm`; 0 means 64 MiB.
    pub shm_bytes: u64,
    /// Users of its own (`hostUsers: false`): root of the containers is nobody on the host. The runtime chooses the ids, no two
    /// sandboxes of the host share one. Refused where kernel or file system cannot, and together with the host's namespaces.
    pub user_namespace: bool,
}

/// The ids of a sandbox with users of its own: its 0 is `host_first` on the host, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// The host's id of the sandbox's root.
    pub host_first: u32,
    /// How many there are.
    pub length: u32,
}

/// A sandbox that has just been made.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// As configured.
    pub id: String,
    /// The network namespace, `/proc/PID/ns/net`; valid while the shim lives.
    pub netns: PathBuf,
    /// The process that holds the namespaces and whose children the containers are.
    pub shim_pid: u32,
}

/// A sandbox as it stands.
#[derive(Debug, Clone)]
pub struct SandboxStatus {
    /// As configured.
    pub config: SandboxConfig,
    /// Whether the shim (hence the namespaces) lives.
    pub ready: bool,
    /// The network namespace, while ready.
    pub netns: PathBuf,
    /// The shim's process, while ready.
    pub shim_pid: u32,
    /// When it was made.
    pub created: SystemTime,
}

/// How mounts made on one side of a bind mount show on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    /// Neither way (`None` of the API).
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways; for privileged containers.
    Bidirectional,
}

/// A bind mount of a host's file or directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Path on the host; must exist. A path below the image's root when `image` is given.
    pub host: PathBuf,
    /// An image volume (KEP-4639): the image's root, always read-only, in place of a path on the host.
    pub image: Option<String>,
    /// Absolute path in the container; made if absent.
    pub container: PathBuf,
    /// Not writable through this mount.
    pub readonly: bool,
    /// Mounts below it are read-only too.
    pub recursive_readonly: bool,
    /// See [`Propagation`].
    pub propagation: Propagation,
    /// Nothing on it is a program.
    pub noexec: bool,
    /// Set-user-ID bits on it do not count.
    pub nosuid: bool,
    /// Device files on it are none.
    pub nodev: bool,
}

/// How the groups of the image's `/etc/group` count (KEP-3619).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// Those of the image are added to the given ones.
    #[default]
    Merge,
    /// The given ones alone.
    Strict,
}

/// Whom a container's process runs as.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// `runAsUser`; the image's user when absent, else root.
    pub uid: Option<u32>,
    /// `runAsGroup`; the user's primary group in the image when absent.
    pub gid: Option<u32>,
    /// `supplementalGroups` and `fsGroup`.
    pub supplemental: Vec<u32>,
    /// See [`SupplementalGroupsPolicy`].
    pub policy: SupplementalGroupsPolicy,
}

/// The identity that a container's process has in the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All supplementary groups, the primary one among them.
    pub groups: Vec<u32>,
}

/// The filter of system calls.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Seccomp {
    /// No filter.
    #[default]
    Unconfined,
    /// The well-known default profile of container runtimes.
    RuntimeDefault,
    /// A profile file (JSON of the OCI/Docker form) on the host.
    Localhost(PathBuf),
}

/// In place of a profile's name: the default profile of container runtimes, under whichever name this host has it loaded.
pub const APPARMOR_RUNTIME_DEFAULT: &str = "runtime/default";

/// Limits of a cgroup. `None` leaves the kernel's default (or the former value, in an update).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Relative weight, 2–262144.
    pub cpu_shares: Option<u64>,
    /// CPU time per period in µs; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// The period in µs.
    pub cpu_period: Option<u64>,
    /// Bytes; -1 is unlimited.
    pub memory_limit: Option<i64>,
    /// Number of tasks; -1 is unlimited.
    pub pids_limit: Option<i64>,
    /// `0-3,5` form.
    pub cpuset_cpus: Option<String>,
    /// `0-1` form.
    pub cpuset_mems: Option<String>,
    /// Page size as the kernel names it (`2MB`) → bytes.
    pub hugepages: BTreeMap<String, u64>,
    /// -1000 to 1000; a lowering that the host refuses is skipped.
    pub oom_score_adj: Option<i32>,
    /// Raw cgroup v2 files to write (`memory.min`, `memory.high`).
    pub unified: BTreeMap<String, String>,
}

/// A host's device given to a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Path on the host.
    pub host: PathBuf,
    /// Path in the container.
    pub container: PathBuf,
    /// Any of `r`, `w`, `m`; nothing for all of them, `none` for none (CDI's word).
    pub permissions: String,
    /// Its mode in the container; for everybody (0666) when absent.
    pub mode: Option<u32>,
    /// See [`DeviceOwner`].
    pub owner: DeviceOwner,
}

/// Whose a device is in the container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceOwner {
    /// Whose it is on the host.
    #[default]
    Host,
    /// This user's and this group's of the container; where one is not told, that of the container's process.
    Given {
        /// The user.
        uid: Option<u32>,
        /// The group.
        gid: Option<u32>,
    },
}

/// When a hook runs, and where (OCI runtime specification, `config.md`, POSIX-platform hooks).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookMoment {
    /// A program of the host, in the runtime's namespaces, when the container's file system is made and not yet its root. The
    /// specification's older name of [`HookMoment::CreateRuntime`], before which it runs.
    Prestart,
    /// As [`HookMoment::Prestart`].
    CreateRuntime,
    /// A program of the host, in the container's namespaces, after those.
    #[default]
    CreateContainer,
    /// A program of the container's own root, in its namespaces and with the rights of its program, just before that.
    StartContainer,
    /// A program of the host, in the runtime's namespaces, when the container's program runs.
    Poststart,
    /// A program of the host, in the runtime's namespaces, when the container is gone.
    Poststop,
}

impl HookMoment {
    /// All, in the order in which they come.
    pub const ALL: [HookMoment; 6] =
        [HookMoment::Prestart, HookMoment::CreateRuntime, HookMoment::CreateContainer, HookMoment::StartContainer, HookMoment::Poststart, HookMoment::Poststop];

    /// The specification's name.
    pub fn name(self) -> &'static str {
        match self {
            HookMoment::Prestart => "prestart",
            HookMoment::CreateRuntime => "createRuntime",
            HookMoment::CreateContainer => "createContainer",
            HookMoment::StartContainer => "startContainer",
            HookMoment::Poststart => "poststart",
            HookMoment::Poststop => "poststop",
        }
    }
}

impl fmt::Display for HookMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A program that runs at a moment of a container's life. It reads the container's state from its standard input.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// When and where.
    pub moment: HookMoment,
    /// The program, absolute.
    pub path: PathBuf,
    /// Its arguments, its own name first.
    pub args: Vec<String>,
    /// All of its environment, `NAME=value`.
    pub env: Vec<String>,
    /// Seconds after which it is ended, and has failed.
    pub timeout_s: Option<u32>,
}

/// A limit of a process, setrlimit(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE`, …
    pub name: String,
    /// What counts now.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// A process's sets of capabilities one by one, by names (capabilities(7)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CapabilitySets {
    /// The most that any program may gain.
    pub bounding: Vec<String>,
    /// What counts now.
    pub effective: Vec<String>,
    /// What it may make effective.
    pub permitted: Vec<String>,
    /// What a program with inheritable ones of its own keeps.
    pub inheritable: Vec<String>,
    /// What every further program keeps.
    pub ambient: Vec<String>,
}

/// A container to make.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Unique on the node; letters, digits, `-`, `_`, `.`.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    /// The restart count.
    pub attempt: u32,
    /// Reference or id (`sha256:…`) of an image that is present.
    pub image: String,
    /// In place of an image: a directory of the host that is the root file system itself. What the container writes stays there.
    pub rootfs: Option<PathBuf>,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's cmd when not empty.
    pub args: Vec<String>,
    /// Over the image's environment.
    pub env: Vec<(String, String)>,
    /// The image's when empty, else `/`. Made if absent.
    pub working_dir: String,
    /// In the order given, parents first (the runtime sorts by depth).
    pub mounts: Vec<Mount>,
    /// Devices beyond the standard ones.
    pub devices: Vec<Device>,
    /// See [`Hook`]; not in a sandbox with users of its own.
    pub hooks: Vec<Hook>,
    /// Whom to run as.
    pub user: User,
    /// Capability names to add to the default set, with or without `CAP_`; `ALL`.
    pub capabilities_add: Vec<String>,
    /// Capability names to drop; `ALL`.
    pub capabilities_drop: Vec<String>,
    /// Exactly these, in place of the default set and the two lists above.
    pub capability_sets: Option<CapabilitySets>,
    /// Limits in place of the runtime's own.
    pub rlimits: Vec<Rlimit>,
    /// All capabilities, all devices, writable `/sys`, nothing masked, no filter.
    pub privileged: bool,
    /// Nothing of the root file system can be written.
    pub readonly_rootfs: bool,
    /// `!allowPrivilegeEscalation`.
    pub no_new_privileges: bool,
    /// See [`Seccomp`].
    pub seccomp: Seccomp,
    /// The AppArmor profile to be confined by, as the kernel has it loaded, or [`APPARMOR_RUNTIME_DEFAULT`]; `None` is
    /// unconfined. A name on a host without AppArmor is refused.
    pub apparmor: Option<String>,
    /// Paths that show as empty; `None` is the default list, `Some([])` (procMount Unmasked) nothing.
    pub masked_paths: Option<Vec<String>>,
    /// Paths made read-only; `None` is the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// Limits.
    pub resources: Resources,
    /// Keeps standard input open for attach.
    pub stdin: bool,
    /// Closes standard input after the first attach ends.
    pub stdin_once: bool,
    /// A terminal.
    pub tty: bool,
    /// Below the sandbox's `log_dir`, or absolute; no log when empty.
    pub log_path: PathBuf,
    /// Kept and given back.
    pub labels: BTreeMap<String, String>,
    /// Kept and given back.
    pub annotations: BTreeMap<String, String>,
    /// Replaces the image's stop signal (`SIGTERM`, `15`).
    pub stop_signal: Option<String>,
    /// Sees the processes of this container of the same sandbox (`targetContainerName` of an ephemeral one).
    pub pid_target: Option<String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ContainerState {
    /// Prepared, not started.
    #[default]
    Created,
    /// Its process lives.
    Running,
    /// Its process ended, or could not be started.
    Exited,
}

/// A container as it stands.
#[derive(Debug, Clone)]
pub struct ContainerStatus {
    /// As configured.
    pub id: String,
    /// The sandbox's id.
    pub sandbox: String,
    /// As configured.
    pub name: String,
    /// As configured.
    pub attempt: u32,
    /// See [`ContainerState`].
    pub state: ContainerState,
    /// Its first process, in the host's numbering; 0 when none lives.
    pub pid: u32,
    /// When it was made.
    pub created: SystemTime,
    /// When its process started.
    pub started: Option<SystemTime>,
    /// When its process ended.
    pub finished: Option<SystemTime>,
    /// 128 + the signal's number when it was killed by one.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed it for want of memory.
    pub oom_killed: bool,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`; empty while it runs.
    pub reason: String,
    /// More words, when a start failed.
    pub message: String,
    /// The image as the configuration names it.
    pub image: String,
    /// The image's id, `sha256:…`.
    pub image_id: String,
    /// Absolute.
    pub log_path: PathBuf,
    /// The identity of its process.
    pub user: ResolvedUser,
    /// As configured.
    pub labels: BTreeMap<String, String>,
    /// As configured.
    pub annotations: BTreeMap<String, String>,
    /// As configured.
    pub mounts: Vec<Mount>,
    /// What was last applied.
    pub resources: Resources,
    /// The effective stop signal's number.
    pub stop_signal: i32,
}

/// A process to run in a running container.
#[derive(Debug, Clone, Default)]
pub struct ExecConfig {
    /// The command line; not empty.
    pub cmd: Vec<String>,
    /// A terminal: output and errors come as one stream.
    pub tty: bool,
    /// Whether streams are wanted.
    pub stdin: bool,
    /// Whether streams are wanted.
    pub stdout: bool,
    /// Whether streams are wanted; no effect with `tty`.
    pub stderr: bool,
}

/// What a short command said.
#[derive(Debug, Clone, Default)]
pub struct ExecResult {
    /// Its first 64 KiB.
    pub stdout: Vec<u8>,
    /// Its first 64 KiB.
    pub stderr: Vec<u8>,
    /// 128 + signal when killed.
    pub exit_code: i32,
}

/// What happened to a sandbox or container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A container's process started.
    Started {
        /// Sandbox id.
        sandbox: String,
        /// Container id.
        container: String,
    },
    /// A container's process ended.
    Exited {
        /// Sandbox id.
        sandbox: String,
        /// Container id.
        container: String,
    },
    /// The kernel killed something in a container for want of memory.
    Oom {
        /// Sandbox id.
        sandbox: String,
        /// Container id.
        container: String,
    },
    /// The shim died without being told to: all its containers are gone.
    SandboxGone {
        /// Sandbox id.
        sandbox: String,
    },
}

/// What a registry wants to know.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// For basic authentication.
    pub username: String,
    /// For basic authentication.
    pub password: String,
    /// An OAuth2 refresh token ("identity token"), instead of the two.
    pub identity_token: String,
    /// A token to be sent as it is, instead of all.
    pub registry_token: String,
    /// What an image that these open is to remember them by ([`Origin::keys`]).
    pub keys: Vec<String>,
}

impl std::fmt::Debug for Credentials {
    /// Never shows a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A step of a pull or an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The image's size is known: its layers (digest, bytes).
    Layers(Vec<(String, u64)>),
    /// So many bytes of a layer have come.
    Fetched {
        /// The layer's digest.
        layer: String,
        /// Bytes so far.
        bytes: u64,
    },
    /// A layer is unpacked (or was there already).
    Unpacked {
        /// The layer's digest.
        layer: String,
    },
}

/// Hears of a pull's progress. Called often; must be quick.
pub trait Progress: Send + Sync {
    /// A step was made.
    fn step(&self, step: Step);
}

/// For who does not want to hear.
impl Progress for () {
    fn step(&self, _: Step) {}
}

/// An image that is present and unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// `sha256:…`, the digest of its configuration.
    pub id: String,
    /// Full references with tags (`docker.io/library/nginx:1.27`).
    pub repo_tags: Vec<String>,
    /// Full references with digests (`docker.io/library/nginx@sha256:…`).
    pub repo_digests: Vec<String>,
    /// Bytes, unpacked.
    pub size: u64,
    /// What it says about running it.
    pub config: ImageConfig,
    /// The layers' directories below `layers/`, lowest first.
    pub layers: Vec<String>,
    /// How it came; none: it was written down by a version that did not say so ([`crate::Runtime::settle_origins`]).
    pub origin: Option<Origin>,
}

/// How an image came to this node. It stands in the image's own file, which is written at once: there is no image of which it is
/// not known, and it goes with the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// From an archive or from files of the host.
    pub imported: bool,
    /// From a registry that asked for no login.
    pub open: bool,
    /// From a registry with logins that are known by these.
    pub keys: BTreeSet<String>,
}

impl Origin {
    /// It was imported.
    #[must_use]
    pub fn imported() -> Self {
        Self { imported: true, ..Self::default() }
    }

    /// It was pulled with these, or with no login. Those by which nothing is remembered are everybody's.
    #[must_use]
    pub fn pulled(credentials: Option<&Credentials>) -> Self {
        let keys = credentials.iter().flat_map(|c| c.keys.iter().cloned()).collect();
        Self { imported: false, open: credentials.is_none_or(|c| c.keys.is_empty()), keys }
    }

    /// It came in another way as well.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self { imported: self.imported || other.imported, open: self.open || other.open, keys: self.keys.union(&other.keys).cloned().collect() }
    }
}

/// The `config` of an OCI image configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group`, …
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    /// First part of the command line.
    #[serde(deserialize_with = "null_as_default")]
    pub entrypoint: Vec<String>,
    /// Second part of the command line.
    #[serde(deserialize_with = "null_as_default")]
    pub cmd: Vec<String>,
    /// Where to start.
    pub working_dir: String,
    /// `SIGQUIT`, `3`.
    pub stop_signal: String,
    /// Paths that want a volume of their own.
    #[serde(deserialize_with = "null_as_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// `80/tcp`.
    #[serde(deserialize_with = "null_as_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// Kept and given back.
    #[serde(deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
}

fn null_as_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A file of an image that is made without a tar: see `Runtime::add_layer_image`.
#[derive(Debug, Clone)]
pub struct LocalFile {
    /// The source on the host; hard-linked when on the same file system, else copied.
    pub host: PathBuf,
    /// Absolute path in the image.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
}
