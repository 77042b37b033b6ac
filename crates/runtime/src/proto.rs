//! What [`crate::Runtime`] and a shim say to each other: one JSON text per packet of a `SOCK_SEQPACKET` socket, file
//! descriptors beside it. Every packet carries the protocol's version; a knarr must drive the shims of the one before, so
//! fields and variants are only ever added. Big things (specifications) travel as files in the sandbox's directory.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::types::{ContainerConfig, ContainerState, IdMapping, ResolvedUser, SandboxConfig};

/// Raised when a packet can no longer be understood by the version before.
pub(crate) const VERSION: u32 = 1;
/// Largest packet: an exec's command line must fit in (a socket's default buffer is 208 KiB).
pub(crate) const PACKET_BYTES_MAX: usize = 160 * 1024;
/// Largest packet that is taken: what a shim of an older version could send at all.
pub(crate) const RECEIVE_BYTES_MAX: usize = 256 * 1024;
/// A first answer holds records of this size at most; the rest follows one by one.
pub(crate) const STATES_BYTES_MAX: usize = 64 * 1024;
/// Most descriptors beside a packet: standard input, output, error and one to spare.
pub(crate) const FDS_MAX: usize = 4;
/// The socket in a sandbox's directory.
pub(crate) const SOCKET: &str = "shim.sock";
/// The sandbox's configuration in its directory.
pub(crate) const SANDBOX_FILE: &str = "sandbox.json";
/// The shim's knowledge of its containers, in the sandbox's directory.
pub(crate) const STATE_FILE: &str = "state.json";

/// A packet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Packet<T> {
    pub(crate) version: u32,
    pub(crate) body: T,
}

/// Asked of a shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Answered by `States`, then by `Changed` at each change, for as long as the connection lives.
    Subscribe,
    /// Starts the container whose specification is `CONTAINER.json`.
    /// With `streams` its standard input, output and error lie beside, in place of its log. With `hold` its process stops before
    /// its program, until `Release`. With `hooks` it stops, too, when its file system is made and not yet its root: so the
    /// runtime can run hooks, and then sends `Release` or `Refuse`. A container that waits there ends with the connection.
    Start {
        container: String,
        #[serde(default)]
        hold: bool,
        #[serde(default)]
        streams: bool,
        #[serde(default)]
        hooks: bool,
    },
    /// Lets a held container go on.
    Release { container: String },
    /// Ends a container that waits for hooks, with the reason.
    Refuse { container: String, message: String },
    /// Signals the container's first process, or all of its processes.
    Kill { container: String, signal: i32, all: bool },
    /// Runs a command; beside it the wanted ones of stdin, stdout, stderr (none with `tty`: the terminal comes back).
    Exec { container: String, cmd: Vec<String>, tty: bool, stdin: bool, stdout: bool, stderr: bool },
    /// Beside it the wanted ones of stdout and stderr to write to; back come stdin or the terminal.
    Attach { container: String, stdin: bool, stdout: bool, stderr: bool },
    /// Connects to a port of the sandbox's loopback.
    PortForward { port: u16 },
    /// Opens the log file anew.
    ReopenLog { container: String },
    /// Forgets an ended container.
    Forget { container: String },
    /// Kills all and exits.
    Shutdown,
}

impl Request {
    /// What it is, for a person.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Request::Subscribe => "subscribe",
            Request::Start { .. } => "start",
            Request::Release { .. } => "release",
            Request::Refuse { .. } => "refuse",
            Request::Kill { .. } => "kill",
            Request::Exec { .. } => "exec",
            Request::Attach { .. } => "attach",
            Request::PortForward { .. } => "port-forward",
            Request::ReopenLog { .. } => "reopen log",
            Request::Forget { .. } => "forget",
            Request::Shutdown => "shutdown",
        }
    }
}

/// Said by a shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Done.
    Done,
    /// Refused.
    Failed { not_found: bool, start: bool, message: String },
    /// All containers, or as many as fit in: `Changed` tells of the others at once.
    States { pid: u32, containers: Vec<Record> },
    /// One container's new state.
    Changed { container: Record },
    /// The exec's process runs; beside it the terminal, if there is one.
    ExecStarted { pid: u32 },
    /// The exec's process ended.
    ExecExited { code: i32 },
    /// Beside it stdin (or the terminal).
    Attached { terminal: bool, stdin: bool },
    /// Beside it the connected socket.
    Connected,
}

/// A container as its shim knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) state: ContainerState,
    pub(crate) pid: u32,
    /// ns since the epoch; 0 if not yet.
    pub(crate) started_ns: u64,
    /// ns since the epoch; 0 if not yet.
    pub(crate) finished_ns: u64,
    pub(crate) exit_code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: bool,
    /// The process never ran.
    pub(crate) start_failed: bool,
    pub(crate) message: String,
}

/// A container as the runtime prepared it for its shim. Everything is resolved: the shim looks at no image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    pub(crate) config: ContainerConfig,
    pub(crate) image_id: String,
    pub(crate) created_ns: u64,
    /// `layers/` of the image store.
    pub(crate) layers_dir: PathBuf,
    /// Directories in it, lowest first.
    pub(crate) layers: Vec<String>,
    /// `upper`, `work` and `rootfs` are in it.
    pub(crate) container_dir: PathBuf,
    pub(crate) argv: Vec<String>,
    /// `NAME=value`
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: ResolvedUser,
    /// The bounding set, and root's other ones.
    pub(crate) capabilities: u64,
    /// All sets one by one, where they are told apart.
    pub(crate) capability_sets: Option<Sets>,
    /// Number, soft and hard value.
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
    /// The filter of system calls (`sock_filter`: code, jt, jf, k); empty for none.
    pub(crate) filter: Vec<(u16, u8, u8, u32)>,
    /// `SECCOMP_FILTER_FLAG_*`
    pub(crate) filter_flags: u32,
    /// The AppArmor profile, as the kernel names it.
    pub(crate) apparmor: Option<String>,
    /// The image's own volumes, without those that the pod mounts over.
    pub(crate) volumes: Vec<String>,
    pub(crate) log_path: PathBuf,
    pub(crate) stop_signal: i32,
    pub(crate) cgroup: CgroupPlan,
    /// Layers of image volumes, by index of `config.mounts`.
    pub(crate) image_mounts: Vec<(usize, Vec<String>)>,
}

/// Bit sets of capabilities, beside the bounding one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sets {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

impl Sets {
    /// The same for what counts and what may count; nothing is inheritable, hence nothing ambient.
    pub(crate) fn own(set: u64) -> Sets {
        Sets { effective: set, permitted: set, ..Sets::default() }
    }
}

/// The directories of a container's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CgroupPlan {
    /// One directory on version 2, one per hierarchy on version 1.
    pub(crate) dirs: Vec<PathBuf>,
    /// The one that counts memory.
    pub(crate) memory: Option<PathBuf>,
    pub(crate) unified: bool,
}

/// `sandbox.json`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SandboxFile {
    pub(crate) config: SandboxConfig,
    pub(crate) created_ns: u64,
    /// The ids of its own users, if it has any.
    #[serde(default)]
    pub(crate) users: Option<IdMapping>,
}
