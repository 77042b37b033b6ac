//! A bundle in the runtime's own words. The runtime is made for pods: what a bundle may ask for beyond that (file systems of
//! its choice, namespaces of others, device files by number, ids of its choice) is refused, with what it is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use runtime::{ContainerConfig, Device, DeviceOwner, Hook, Mount, Propagation, Resources, Rlimit, SandboxConfig, Seccomp, SupplementalGroupsPolicy, User};
use serde_json::Value;

use crate::config::{self, Bundle, DeviceRule, Linux, Process};

/// What is wrong, for a person.
type Refused = Box<dyn std::error::Error>;

/// The file systems that every container has: where, of what kind.
const STANDARD: [(&str, &str); 7] = [
    ("/proc", "proc"),
    ("/dev", "tmpfs"),
    ("/dev/pts", "devpts"),
    ("/dev/shm", "tmpfs"),
    ("/dev/mqueue", "mqueue"),
    ("/sys", "sysfs"),
    ("/sys/fs/cgroup", "cgroup"),
];

fn refuse<T>(what: impl std::fmt::Display) -> Result<T, Refused> {
    Err(format!("{what} cannot be given by this runtime").into())
}

/// The container's id in its sandbox; both are alone in a runtime of their own.
pub(crate) const CONTAINER: &str = "main";

pub(crate) fn sandbox(id: &str, mark: &str, bundle: &Bundle) -> Result<SandboxConfig, Refused> {
    let linux = &bundle.linux;
    let mut has: BTreeMap<&str, bool> = ["pid", "network", "ipc", "uts", "mount"].map(|kind| (kind, false)).into();
    for namespace in &linux.namespaces {
        if !namespace.path.is_empty() {
            return refuse(format!("the {} namespace of another ({})", namespace.kind, namespace.path));
        }
        match has.get_mut(namespace.kind.as_str()) {
            Some(true) => return Err(format!("two namespaces of kind {}", namespace.kind).into()),
            Some(has) => *has = true,
            None => return refuse(format!("a namespace of kind {:?}", namespace.kind)),
        }
    }
    if !has["mount"] {
        return refuse("the mounts of the host");
    }
    if has["network"] != has["uts"] {
        return refuse("one of the network and UTS namespaces without the other");
    }
    if bundle.domainname.as_deref().is_some_and(|name| !name.is_empty()) {
        return refuse("domainname");
    }
    let hostname = bundle.hostname.clone().unwrap_or_default();
    if !has["uts"] && !hostname.is_empty() {
        return Err("a host name wants a UTS namespace".into());
    }
    let resources = resources(&linux.resources)?;
    let cgroup = if linux.cgroups_path.is_empty() { format!("/{mark}/{id}") } else { linux.cgroups_path.clone() };
    if cgroup.contains(':') || cgroup.split('/').any(|part| part == "..") {
        return refuse(format!("the cgroup {cgroup:?}"));
    }
    Ok(SandboxConfig {
        id: "bundle".into(),
        name: id.into(),
        hostname,
        cgroup_parent: if cgroup.starts_with('/') { cgroup } else { format!("/{mark}/{cgroup}") },
        resources,
        host_network: !has["network"],
        host_pid: !has["pid"],
        host_ipc: !has["ipc"],
        sysctls: linux.sysctl.clone(),
        annotations: bundle.annotations.clone(),
        ..SandboxConfig::default()
    })
}

/// `seccomp` is where the profile is written for the runtime to read.
pub(crate) fn container(dir: &Path, bundle: &Bundle, seccomp: &Path) -> Result<ContainerConfig, Refused> {
    let root = bundle.root.as_ref().ok_or("config.json: no root")?;
    let process = bundle.process.as_ref().ok_or("config.json: no process")?;
    let linux = &bundle.linux;
    refuse_others(process, linux)?;
    if !matches!(linux.rootfs_propagation.as_str(), "" | "private" | "rprivate") {
        return refuse(format!("rootfsPropagation {:?}", linux.rootfs_propagation));
    }
    let mut mounts = Vec::new();
    for mount in &bundle.mounts {
        mounts.extend(self::mount(dir, mount)?);
    }
    let filter = match &linux.seccomp {
        Some(profile) => {
            fs::write(seccomp, profile.to_string())?;
            Seccomp::Localhost(seccomp.to_owned())
        }
        None => Seccomp::Unconfined,
    };
    let env = process.env.iter().map(|entry| entry.split_once('=').unwrap_or((entry, "")));
    Ok(ContainerConfig {
        id: CONTAINER.into(),
        name: CONTAINER.into(),
        rootfs: Some(fs::canonicalize(dir.join(&root.path)).map_err(|e| format!("root {:?}: {e}", root.path))?),
        readonly_rootfs: root.readonly,
        command: process.args.clone(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        working_dir: process.cwd.clone(),
        mounts,
        devices: linux.devices.iter().map(device).collect::<Result<_, _>>()?,
        hooks: bundle.hooks.create_container.iter().map(hook).collect(),
        user: User {
            uid: Some(process.user.uid),
            gid: Some(process.user.gid),
            supplemental: process.user.additional_gids.clone(),
            policy: SupplementalGroupsPolicy::Strict,
        },
        capability_sets: Some(process.capabilities.clone()),
        rlimits: process.rlimits.iter().map(|l| Rlimit { name: l.name.clone(), soft: l.soft, hard: l.hard }).collect(),
        no_new_privileges: process.no_new_privileges,
        seccomp: filter,
        apparmor: Some(process.apparmor_profile.clone()).filter(|profile| !profile.is_empty()),
        masked_paths: Some(linux.masked_paths.clone()),
        readonly_paths: Some(linux.readonly_paths.clone()),
        resources: Resources { oom_score_adj: process.oom_score_adj, ..resources(&linux.resources)? },
        annotations: bundle.annotations.clone(),
        ..ContainerConfig::default()
    })
}

/// Properties that the specification has and this runtime does not.
fn refuse_others(process: &Process, linux: &Linux) -> Result<(), Refused> {
    if process.args.is_empty() {
        return Err("process.args is empty".into());
    }
    if !process.cwd.starts_with('/') {
        return Err(format!("process.cwd {:?} is not absolute", process.cwd).into());
    }
    if process.terminal {
        return refuse("process.terminal");
    }
    if process.user.umask.is_some_and(|mask| mask != 0o22) {
        return refuse("process.user.umask");
    }
    let given = |others: &BTreeMap<String, Value>, names: &[&str]| -> Option<String> {
        let empty = |v: &Value| v.is_null() || v.as_str() == Some("") || v.as_array().is_some_and(Vec::is_empty);
        names.iter().find(|name| others.get(**name).is_some_and(|v| !empty(v))).map(|name| (*name).to_owned())
    };
    if let Some(name) = given(&process.others, &["selinuxLabel", "scheduler", "ioPriority", "execCPUAffinity"]) {
        return refuse(format!("process.{name}"));
    }
    let names = ["uidMappings", "gidMappings", "mountLabel", "intelRdt", "personality", "timeOffsets", "memoryPolicy", "netDevices"];
    match given(&linux.others, &names) {
        Some(name) => refuse(format!("linux.{name}")),
        None => Ok(()),
    }
}

/// None for what every container has anyway.
fn mount(dir: &Path, mount: &config::Mount) -> Result<Option<Mount>, Refused> {
    let options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
    let at = &mount.destination;
    if let Some((_, kind)) = STANDARD.iter().find(|(path, _)| Path::new(path) == at) {
        let readonly = options.contains(&"ro");
        if mount.kind == *kind && (readonly || *kind != "sysfs") {
            return Ok(None);
        }
    }
    let bind = options.iter().any(|o| matches!(*o, "bind" | "rbind")) || mount.kind == "bind";
    if !bind {
        return refuse(format!("a mount of kind {:?} at {at:?}", mount.kind));
    }
    let mut made = Mount { host: dir.join(&mount.source), container: at.clone(), ..Mount::default() };
    for option in options {
        match option {
            "bind" | "rbind" | "rw" | "private" | "rprivate" => {}
            "ro" => made.readonly = true,
            "noexec" => made.noexec = true,
            "nosuid" => made.nosuid = true,
            "nodev" => made.nodev = true,
            "rro" => (made.readonly, made.recursive_readonly) = (true, true),
            "rslave" => made.propagation = Propagation::HostToContainer,
            "rshared" => made.propagation = Propagation::Bidirectional,
            other => return refuse(format!("the option {other:?} of a bind mount at {at:?}")),
        }
    }
    Ok(Some(made))
}

fn hook(hook: &config::Hook) -> Hook {
    let timeout_s = hook.timeout.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
    Hook { path: hook.path.clone(), args: hook.args.clone(), env: hook.env.clone(), timeout_s, ..Hook::default() }
}

/// The runtime gives the host's device files.
fn device(device: &config::Device) -> Result<Device, Refused> {
    let meta = fs::metadata(&device.path).ok();
    let same = meta.is_some_and(|meta| {
        let kind = if meta.file_type().is_block_device() { "b" } else { "c" };
        let numbers = (u64::from(device.major), u64::from(device.minor));
        let wanted = if device.kind == "u" { "c" } else { &device.kind };
        wanted == kind && numbers == (u64::from(libc::major(meta.rdev())), u64::from(libc::minor(meta.rdev())))
    });
    if !same {
        return refuse(format!("a device file {:?} other than the host's", device.path));
    }
    // Root's where nothing is said, as with runc.
    let owner = DeviceOwner::Given { uid: Some(device.uid.unwrap_or(0)), gid: Some(device.gid.unwrap_or(0)) };
    Ok(Device { host: device.path.clone(), container: device.path.clone(), permissions: "rwm".into(), mode: device.file_mode, owner })
}

fn resources(given: &config::Resources) -> Result<Resources, Refused> {
    // A refusal of all devices is what the runtime begins with.
    let all = |rule: &DeviceRule| !rule.allow && matches!(rule.kind.as_str(), "" | "a") && rule.major.or(rule.minor).is_none_or(|n| n < 0);
    if !given.devices.iter().all(all) {
        return refuse("a rule about devices other than the refusal of all");
    }
    if let Some(name) = given.others.iter().find(|(_, v)| !v.is_null()).map(|(name, _)| name) {
        return refuse(format!("resources.{name}"));
    }
    let mut made = Resources { unified: given.unified.clone(), ..Resources::default() };
    made.hugepages = given.hugepage_limits.iter().map(|limit| (limit.page_size.clone(), limit.limit)).collect();
    let number = |of: &str, name: &str, v: &Value| v.as_i64().ok_or_else(|| format!("resources.{of}.{name}: {v} is no number"));
    for (name, value) in given.cpu.iter().filter(|(_, v)| !v.is_null()) {
        match name.as_str() {
            "shares" => made.cpu_shares = Some(u64::try_from(number("cpu", name, value)?)?),
            "quota" => made.cpu_quota = Some(number("cpu", name, value)?),
            "period" => made.cpu_period = Some(u64::try_from(number("cpu", name, value)?)?),
            "cpus" => made.cpuset_cpus = value.as_str().map(str::to_owned),
            "mems" => made.cpuset_mems = value.as_str().map(str::to_owned),
            other => return refuse(format!("resources.cpu.{other}")),
        }
    }
    for (name, value) in given.memory.iter().filter(|(_, v)| !v.is_null()) {
        match name.as_str() {
            "limit" => made.memory_limit = Some(number("memory", name, value)?),
            "disableOOMKiller" if *value == Value::Bool(false) => {}
            other => return refuse(format!("resources.memory.{other}")),
        }
    }
    for (name, value) in given.pids.iter().filter(|(_, v)| !v.is_null()) {
        match name.as_str() {
            "limit" => made.pids_limit = Some(number("pids", name, value)?),
            other => return refuse(format!("resources.pids.{other}")),
        }
    }
    Ok(made)
}

/// Versions that this reads: all of the first one.
pub(crate) fn check_version(version: &str) -> Result<(), Refused> {
    let number = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<u32> = number.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| format!("ociVersion {version:?} is no version"))?;
    if parts.len() == 3 && parts[0] == 1 { Ok(()) } else { Err(format!("ociVersion {version:?} is not supported: 1.x.y is").into()) }
}

/// A path as the bundle's folder has it.
pub(crate) fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}
