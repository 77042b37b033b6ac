//! What a driver of volumes does on a node (CSI specification 1.12, "Node Service RPC").
//!
//! Every call may come twice, also after a crash of either side between two calls, and answers the second time as it did the
//! first. A call that failed may have done its work: only [`Failure::is_final`] says that it has not.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use async_trait::async_trait;

/// What a driver can do beside publishing and unpublishing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Volumes are staged before they are published (`STAGE_UNSTAGE_VOLUME`).
    pub stage: bool,
    /// It tells how full volumes are (`GET_VOLUME_STATS`).
    pub stats: bool,
    /// It grows volumes on the node (`EXPAND_VOLUME`).
    pub expand: bool,
    /// It tells how volumes are (`VOLUME_CONDITION`).
    pub condition: bool,
    /// It knows `SINGLE_NODE_SINGLE_WRITER` and its sister (`SINGLE_NODE_MULTI_WRITER`).
    pub single_node_multi_writer: bool,
    /// It gives files to the pod's group itself (`VOLUME_MOUNT_GROUP`).
    pub mount_group: bool,
}

/// What a driver says of itself on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// The node as the driver names it.
    pub node_id: String,
    /// Volumes that the node can have at once; 0: as many as like.
    pub max_volumes: i64,
    /// Where the node is, by the driver's own keys.
    pub topology: BTreeMap<String, String>,
}

/// How a volume is used by its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As a directory.
    Filesystem {
        /// The file system that it is to have; empty: the driver's own choice.
        fs_type: String,
        /// Mount options.
        options: Vec<String>,
        /// The group whose files they are to be, where the driver gives them itself.
        group: Option<u32>,
    },
    /// As a block device.
    Block,
}

/// Who may use a volume at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// `ReadWriteOnce`: the pods of one node.
    #[default]
    SingleNodeWriter,
    /// `ReadWriteOncePod`: one pod.
    SingleNodeSingleWriter,
    /// `ReadWriteOnce` beside drivers that know the difference.
    SingleNodeMultiWriter,
    /// `ReadOnlyMany`.
    MultiNodeReaderOnly,
    /// `ReadWriteMany`.
    MultiNodeMultiWriter,
}

/// What a driver is told in confidence. It is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(pub BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

/// A volume as its driver knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The driver's name of it.
    pub handle: String,
    /// What the driver noted when it made it (`volumeAttributes`).
    pub attributes: BTreeMap<String, String>,
    /// What attaching it gave (`publish_context`); empty where nothing is attached.
    pub attached: BTreeMap<String, String>,
    /// How it is used.
    pub mode: Mode,
    /// By whom.
    pub access: Access,
}

/// A volume is to be made ready on this node, once for all its pods.
#[derive(Clone, Debug)]
pub struct Stage<'a> {
    /// Which.
    pub volume: &'a Volume,
    /// Where: a directory that is there, for a file system or for what belongs to a device.
    pub at: &'a Path,
    /// In confidence.
    pub secrets: &'a Secrets,
}

/// A volume is to be put where one pod finds it.
#[derive(Clone, Debug)]
pub struct Publish<'a> {
    /// Which.
    pub volume: &'a Volume,
    /// Where it was staged, if it was.
    pub staged: Option<&'a Path>,
    /// Where the pod's is to be. It is not there yet; its parent is. For [`Mode::Block`] it becomes a file that is the device.
    pub target: &'a Path,
    /// The pod may not write.
    pub readonly: bool,
    /// In confidence.
    pub secrets: &'a Secrets,
}

/// A volume was made larger by its controller, or is to be by the node.
#[derive(Clone, Debug)]
pub struct Expand<'a> {
    /// Which.
    pub volume: &'a Volume,
    /// Where it is published, or staged where no pod has it.
    pub at: &'a Path,
    /// Where it was staged, if it was.
    pub staged: Option<&'a Path>,
    /// What it is to hold at least, in bytes.
    pub bytes: u64,
    /// In confidence.
    pub secrets: &'a Secrets,
}

/// How much of something there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In all.
    pub total: u64,
    /// Taken.
    pub used: u64,
    /// To be had by who is not root.
    pub available: u64,
}

/// How full a volume is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes; a block device tells only how many it has.
    pub bytes: Option<Usage>,
    /// Files and directories.
    pub inodes: Option<Usage>,
    /// Why it is not well, in the driver's words; none: it is, or the driver does not say.
    pub abnormal: Option<String>,
}

/// The codes of gRPC, by their meanings in CSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Any that has no place of its own here, by its number.
    Other(u32),
    /// The call was ended by its caller.
    Canceled,
    /// The call took too long.
    DeadlineExceeded,
    /// There is no such volume.
    NotFound,
    /// It asked for what cannot be.
    InvalidArgument,
    /// Something must be done first.
    FailedPrecondition,
    /// It is asked for more than can be had.
    OutOfRange,
    /// There is no room.
    ResourceExhausted,
    /// The same is under way.
    Aborted,
    /// The driver cannot do that.
    Unimplemented,
    /// The driver broke.
    Internal,
    /// The driver is not to be reached.
    Unavailable,
}

impl fmt::Display for Code {
    /// As Go's library writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(2) => f.write_str("Unknown"),
            Self::Other(6) => f.write_str("AlreadyExists"),
            Self::Other(7) => f.write_str("PermissionDenied"),
            Self::Other(15) => f.write_str("DataLoss"),
            Self::Other(16) => f.write_str("Unauthenticated"),
            Self::Other(number) => write!(f, "Code({number})"),
            named => write!(f, "{named:?}"),
        }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Its code.
    pub code: Code,
    /// The driver's words.
    pub message: String,
}

impl Failure {
    /// A failure in words.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The failure as Go's library of gRPC writes it.
    #[must_use]
    pub fn rpc(&self) -> String {
        format!("rpc error: code = {} desc = {}", self.code, self.message)
    }

    /// Whether the call has surely not done its work, and is not doing it (upstream `isFinalError`).
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self.code, Code::Canceled | Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted | Code::Aborted)
    }
}

/// What has volumes and brings them to pods.
///
/// Calls of one volume come one after the other; those of several at once. Each ends when its future is dropped, or goes on
/// unseen: the next call of that volume must bear either.
#[async_trait]
pub trait Driver: Send + Sync {
    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// What it says of itself here.
    async fn info(&self) -> Result<Info, Failure>;

    /// Makes a volume ready on this node.
    async fn stage(&self, stage: Stage<'_>) -> Result<(), Failure>;

    /// Undoes that. The volume may be gone already.
    async fn unstage(&self, handle: &str, at: &Path) -> Result<(), Failure>;

    /// Puts a volume where a pod finds it.
    async fn publish(&self, publish: Publish<'_>) -> Result<(), Failure>;

    /// Undoes that, and removes `target`. The volume may be gone already.
    async fn unpublish(&self, handle: &str, target: &Path) -> Result<(), Failure>;

    /// Makes a volume that is in use as large as it is to be; answers its size in bytes, 0 where it does not say.
    async fn expand(&self, expand: Expand<'_>) -> Result<u64, Failure>;

    /// How full a volume is.
    async fn stats(&self, handle: &str, at: &Path, staged: Option<&Path>) -> Result<Stats, Failure>;
}
