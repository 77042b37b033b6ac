//! Small things that several rooms of the kubelet need.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use tokio::net::TcpStream;

/// A point in time as the API writes it: in whole seconds, so that what is read back equals what was written.
#[must_use]
pub fn time(at: SystemTime) -> Time {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0));
    Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Connects to a host by its address or its name, as the node finds it.
pub async fn connect(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let found = dial::addresses(host, dial::ANSWER_MAX).await?;
    let stream = TcpStream::connect(found.iter().map(|ip| SocketAddr::new(*ip, port)).collect::<Vec<_>>().as_slice()).await?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Runs what may wait for a disk beside the workers that everything else runs on. A panic in it is the caller's.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The program ends: nobody waits for the answer any more.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Makes a directory that is root's alone, and those above it that are missing; one that exists becomes so.
pub fn private_dir(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

/// Writes a file that its owner alone may read; after a crash, also of the machine, the former or this one is there.
pub fn write_private(file: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let fresh = file.with_extension("new");
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(&fresh, file)?;
    std::fs::File::open(file.parent().unwrap_or(std::path::Path::new("/")))?.sync_all()
}

/// A time between half and one and a half of `around`, so that many do not look at the same moment.
#[must_use]
pub fn jittered(around: std::time::Duration) -> std::time::Duration {
    let mut byte = [128_u8];
    let _ = getrandom::fill(&mut byte);
    around / 2 + around * u32::from(byte[0]) / 255
}

/// Random bytes as hexadecimal: an identifier that nobody else has.
#[must_use]
pub fn random_id() -> String {
    let mut bytes = [0_u8; 32];
    if getrandom::fill(&mut bytes).is_err() {
        // Only before the kernel's pool is filled; the time is unique enough for a node then.
        let ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        bytes[..16].copy_from_slice(&ns.to_be_bytes());
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A point in time as the system writes it.
#[must_use]
pub fn system_time(at: &Time) -> SystemTime {
    u64::try_from(at.0.as_millisecond()).map_or(UNIX_EPOCH, |ms| UNIX_EPOCH + std::time::Duration::from_millis(ms))
}

/// What names a pod for people: `name_namespace(uid)`, the wording of upstream's messages.
#[must_use]
pub fn describe(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The pod's name.
#[must_use]
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
#[must_use]
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// The pod's UID.
#[must_use]
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Whether the pod uses the host's network.
#[must_use]
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

/// An ephemeral container seen as a container: the fields are the same.
#[must_use]
pub fn ephemeral_as_container(e: &EphemeralContainer) -> Container {
    Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        name: e.name.clone(),
        resources: e.resources.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_devices: e.volume_devices.clone(),
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
        ..Container::default()
    }
}

/// A port given by number or by the name of one of the container's ports.
pub fn port(of: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match of {
        IntOrString::Int(n) => *n,
        IntOrString::String(s) => match container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(s)) {
            Some(p) => p.container_port,
            None => return Err(format!("port {s:?} not found")),
        },
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// Why the system refused something, in Go's words.
#[must_use]
pub fn words(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| nix::errno::Errno::from_raw(number).desc().to_lowercase())
}

/// `len` bytes of `text` at most, cut at a character.
#[must_use]
pub fn truncate(text: &str, len: usize) -> &str {
    &text[..text.floor_char_boundary(len)]
}

/// Hash of anything that serialises, as hexadecimal, stable over restarts and versions of the program.
pub fn stable_hash<T: serde::Serialize>(of: &T) -> String {
    use sha2::{Digest, Sha256};
    let bytes = serde_json::to_vec(of).unwrap_or_default();
    Sha256::digest(&bytes)[..8].iter().map(|b| format!("{b:02x}")).collect()
}
