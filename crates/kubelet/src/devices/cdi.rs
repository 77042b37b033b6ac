//! What a device is for a container: the Container Device Interface (github.com/cncf-tags/container-device-interface, version 1.0), whose
//! specifications drivers put into directories of the host, as JSON or YAML.
//!
//! A device is named `VENDOR/CLASS=NAME`. One that two specifications of the same weight have is nobody's; of different weight the
//! heavier counts; a specification with anything wrong in it does not count at all. Environment, device nodes, bind mounts, groups and
//! hooks are given; network devices and Intel RDT this runtime does not have, and a device that needs them is refused.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use machinery::Value;
use machinery::json::Validation;

use crate::cri::{ContainerSpec, Device, DeviceOwner, Hook, HookMoment, Mount, Propagation};

/// Specifications that are read, and the bytes of one.
const FILES_MAX: usize = 1_000;
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The versions that there have been.
const VERSIONS: [&str; 10] = ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
/// What an edit may consist of.
const EDITS: [&str; 7] = ["env", "deviceNodes", "mounts", "hooks", "additionalGids", "intelRdt", "netDevices"];

/// The permissions of a device that is shown and no more.
const NO_PERMISSIONS: &str = "none";

/// What a container gets.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// Variables.
    pub env: Vec<(String, String)>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Further groups.
    pub groups: Vec<i64>,
    /// Programs at moments of the container's life, in their order.
    pub hooks: Vec<Hook>,
}

/// A specification, and the weight of its directory.
struct Spec {
    kind: String,
    weight: usize,
    tree: Value,
}

/// What these devices are. Blocks on the disk.
///
/// # Errors
/// One of them is not known, or cannot be given: why, in the words of container runtimes.
pub(super) fn resolve(dirs: &[&Path], ids: &[String]) -> Result<Edits, String> {
    let specs = read(dirs);
    let mut edits = Edits::default();
    let (mut unknown, mut whole) = (Vec::new(), Vec::new());
    for id in ids {
        let Some((at, device)) = find(&specs, id) else {
            unknown.push(id.as_str());
            continue;
        };
        // What a specification has for all of its devices is given once.
        if !whole.contains(&at) {
            whole.push(at);
            apply(&specs[at].tree["containerEdits"], &mut edits).map_err(|why| failed(&format!("{id}: {why}")))?;
        }
        apply(&device["containerEdits"], &mut edits).map_err(|why| failed(&format!("{id}: {why}")))?;
    }
    if unknown.is_empty() { Ok(edits) } else { Err(failed(&format!("unresolvable CDI devices {}", unknown.join(", ")))) }
}

fn failed(why: &str) -> String {
    format!("CDI device injection failed: {why}")
}

/// The specifications in these directories; what cannot be read is left out, and told.
fn read(dirs: &[&Path]) -> Vec<Spec> {
    let mut specs = Vec::new();
    for (weight, dir) in dirs.iter().enumerate() {
        let mut files: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "json" || e == "yaml"));
        files.sort();
        if files.len() > FILES_MAX {
            tracing::warn!(dir = %dir.display(), "of its specifications of devices the first {FILES_MAX} are read");
            files.truncate(FILES_MAX);
        }
        for file in files {
            match parse(&file, file.extension().is_some_and(|e| e == "json")).and_then(|tree| valid(&tree).map(|()| tree)) {
                Ok(tree) => specs.push(Spec { kind: tree["kind"].as_str().unwrap_or_default().to_owned(), weight, tree }),
                Err(error) => tracing::warn!(error, file = %file.display(), "a specification of devices cannot be read"),
            }
        }
    }
    specs
}

fn parse(file: &Path, json: bool) -> Result<Value, String> {
    let what = fs::metadata(file).map_err(|error| error.to_string())?;
    if !what.is_file() || what.len() > FILE_BYTES_MAX {
        return Err(format!("it is no file, or larger than {FILE_BYTES_MAX} bytes"));
    }
    let bytes = fs::read(file).map_err(|error| error.to_string())?;
    if json {
        return machinery::json::read(&bytes).map_err(|error| error.to_string());
    }
    machinery::yaml::decode(&bytes, None, Validation::Ignore).map(|decoded| decoded.value).map_err(|status| status.message)
}

/// Whether an object has no other fields than these, and text where text belongs: what is misspelt must not be taken for what is left out.
fn only(tree: &Value, fields: &[&str], texts: &[&str]) -> Result<(), String> {
    let Some(all) = tree.as_object() else { return if tree.is_null() { Ok(()) } else { Err("it is no object".to_owned()) } };
    if let Some(field) = all.keys().find(|field| !fields.contains(&field.as_str())) {
        return Err(format!("field {field} not found"));
    }
    match texts.iter().find(|text| !tree[**text].is_null() && !tree[**text].is_string()) {
        Some(text) => Err(format!("{text} is no text")),
        None => Ok(()),
    }
}

/// Whether a specification can be followed (upstream `pkg/cdi`, `validate`).
fn valid(tree: &Value) -> Result<(), String> {
    only(tree, &["cdiVersion", "kind", "annotations", "devices", "containerEdits"], &["cdiVersion", "kind"])?;
    let version = tree["cdiVersion"].as_str().unwrap_or_default();
    if !VERSIONS.contains(&version.strip_prefix('v').unwrap_or(version)) {
        return Err(format!("invalid version {version:?}"));
    }
    let kind = tree["kind"].as_str().unwrap_or_default();
    if !kind.split_once('/').is_some_and(|(vendor, class)| !vendor.is_empty() && !class.is_empty() && !class.contains('/')) {
        return Err(format!("invalid vendor/class {kind:?} in Spec"));
    }
    valid_edits(&tree["containerEdits"])?;
    let mut names = Vec::new();
    for device in tree["devices"].as_array().into_iter().flatten() {
        only(device, &["name", "annotations", "containerEdits"], &["name"])?;
        let name = device["name"].as_str().unwrap_or_default();
        if name.is_empty() || name.contains(['=', '/']) || names.contains(&name) {
            return Err(format!("invalid spec, device {name:?} is none, or there are several of the name"));
        }
        let edits = &device["containerEdits"];
        if EDITS.iter().all(|part| is_empty(&edits[part])) {
            return Err(format!("failed add device {name:?}: invalid device, empty device edits"));
        }
        valid_edits(edits).map_err(|why| format!("failed add device {name:?}: invalid device {name:?}: {why}"))?;
        names.push(name);
    }
    if names.is_empty() { Err("invalid spec, no devices".to_owned()) } else { Ok(()) }
}

/// Whether it is a list of texts, or not there.
fn is_texts(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(|all| all.iter().all(Value::is_string))
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn list<'t>(tree: &'t Value, field: &str) -> impl Iterator<Item = &'t Value> {
    tree[field].as_array().into_iter().flatten()
}

fn valid_edits(edits: &Value) -> Result<(), String> {
    only(edits, &EDITS, &[])?;
    if let Some(part) = EDITS.iter().find(|part| **part != "intelRdt" && !edits[**part].is_null() && !edits[**part].is_array()) {
        return Err(format!("{part} is no list"));
    }
    if list(edits, "additionalGids").any(|group| group.as_u64().is_none_or(|group| group > u64::from(u32::MAX))) {
        return Err("invalid additionalGids".to_owned());
    }
    for variable in list(edits, "env").map(|variable| variable.as_str().unwrap_or_default()) {
        if variable.find('=').is_none_or(|at| at == 0) {
            return Err(format!("invalid container edits: invalid environment variable {variable:?}"));
        }
    }
    for node in list(edits, "deviceNodes") {
        only(node, &["path", "hostPath", "type", "major", "minor", "fileMode", "permissions", "uid", "gid"], &["path", "hostPath", "type", "permissions"])?;
        let path = node["path"].as_str().unwrap_or_default();
        if path.is_empty() {
            return Err("invalid (empty) device path".to_owned());
        }
        let kind = node["type"].as_str().unwrap_or_default();
        if !["", "b", "c", "u", "p"].contains(&kind) {
            return Err(format!("device {path:?}: invalid type {kind:?}"));
        }
        if let Some(field) = ["major", "minor", "fileMode", "uid", "gid"].iter().find(|field| !node[**field].is_null() && u32_of(&node[**field]).is_none()) {
            return Err(format!("device {path:?}: {field} is no such number"));
        }
        let permissions = node["permissions"].as_str().unwrap_or_default();
        if permissions != NO_PERMISSIONS && !permissions.chars().all(|c| "rwm".contains(c)) {
            return Err(format!("device {path:?}: invalid permissions {permissions:?}"));
        }
    }
    for hook in list(edits, "hooks") {
        only(hook, &["hookName", "path", "args", "env", "timeout"], &["hookName", "path"])?;
        let name = hook["hookName"].as_str().unwrap_or_default();
        if moment(name).is_none() {
            return Err(format!("invalid hook name {name:?}"));
        }
        if hook["path"].as_str().unwrap_or_default().is_empty() {
            return Err(format!("invalid hook {name:?} with empty path"));
        }
        if !is_texts(&hook["args"]) || !is_texts(&hook["env"]) || (!hook["timeout"].is_null() && u32_of(&hook["timeout"]).is_none()) {
            return Err(format!("invalid hook {name:?}: args and env are lists of texts, timeout a number"));
        }
        if let Some(variable) = list(hook, "env").filter_map(Value::as_str).find(|v| v.find('=').is_none_or(|at| at == 0)) {
            return Err(format!("invalid hook {name:?}: invalid environment variable {variable:?}"));
        }
    }
    for mount in list(edits, "mounts") {
        only(mount, &["hostPath", "containerPath", "options", "type"], &["hostPath", "containerPath", "type"])?;
        if !is_texts(&mount["options"]) {
            return Err("options are no list of texts".to_owned());
        }
        for (field, what) in [("hostPath", "host"), ("containerPath", "container")] {
            if mount[field].as_str().unwrap_or_default().is_empty() {
                return Err(format!("invalid mount, empty {what} path"));
            }
        }
    }
    Ok(())
}

/// The one specification that counts for a device, and the device in it.
fn find<'s>(specs: &'s [Spec], id: &str) -> Option<(usize, &'s Value)> {
    let (kind, name) = id.split_once('=')?;
    let device = |spec: &'s Spec| spec.tree["devices"].as_array()?.iter().find(|device| device["name"] == name);
    let found: Vec<(usize, &Value)> =
        specs.iter().enumerate().filter(|(_, spec)| spec.kind == kind).filter_map(|(at, spec)| Some((at, device(spec)?))).collect();
    let heaviest = found.iter().map(|(at, _)| specs[*at].weight).max()?;
    let mut best = found.into_iter().filter(|(at, _)| specs[*at].weight == heaviest);
    best.next().filter(|_| best.next().is_none())
}

fn apply(edit: &Value, edits: &mut Edits) -> Result<(), String> {
    for (field, what) in [("netDevices", "network devices"), ("intelRdt", "Intel RDT")] {
        if !is_empty(&edit[field]) {
            return Err(format!("{what} are not supported by this runtime"));
        }
    }
    for (name, value) in list(edit, "env").filter_map(|variable| variable.as_str()?.split_once('=')) {
        edits.env.retain(|(known, _)| known != name);
        edits.env.push((name.to_owned(), value.to_owned()));
    }
    for node in list(edit, "deviceNodes") {
        let device = device(node)?;
        edits.devices.retain(|known| known.container != device.container);
        edits.devices.push(device);
    }
    for mount in list(edit, "mounts") {
        let mount = bind(mount)?;
        edits.mounts.retain(|known| known.container != mount.container);
        edits.mounts.push(mount);
    }
    for told in list(edit, "hooks") {
        let moment = moment(told["hookName"].as_str().unwrap_or_default()).unwrap_or_default();
        let texts = |field: &str| list(told, field).filter_map(Value::as_str).map(str::to_owned).collect();
        edits.hooks.push(Hook { moment, path: absolute(told, "path")?, args: texts("args"), env: texts("env"), timeout_s: u32_of(&told["timeout"]) });
    }
    edits.groups.extend(list(edit, "additionalGids").filter_map(Value::as_i64).filter(|group| *group != 0));
    Ok(())
}

fn moment(name: &str) -> Option<HookMoment> {
    HookMoment::ALL.into_iter().find(|moment| moment.name() == name)
}

fn u32_of(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

fn absolute(tree: &Value, field: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(tree[field].as_str().unwrap_or_default());
    if path.is_absolute() { Ok(path) } else { Err(format!("invalid {field} {:?}", path.display().to_string())) }
}

fn device(node: &Value) -> Result<Device, String> {
    let container = absolute(node, "path")?;
    let host = if node["hostPath"].as_str().is_none_or(str::is_empty) { container.clone() } else { absolute(node, "hostPath")? };
    let permissions = node["permissions"].as_str().filter(|p| !p.is_empty()).unwrap_or("rwm");
    let lost = |why: &str| format!("failed to stat CDI host device {:?}: {why}", host.display().to_string());
    let there = fs::symlink_metadata(&host);
    let there = there.map_err(|e| if e.kind() == std::io::ErrorKind::NotFound { lost("no such file or directory") } else { lost(&e.to_string()) })?;
    let kind = match there.file_type() {
        t if t.is_block_device() => "b",
        t if t.is_char_device() => "c",
        t if t.is_fifo() => "p",
        _ => return Err(lost("not a device node")),
    };
    let wanted = node["type"].as_str().unwrap_or_default();
    if !(wanted.is_empty() || wanted == kind || (wanted == "u" && kind == "c")) {
        let (container, host) = (container.display().to_string(), host.display().to_string());
        return Err(format!("CDI device ({container:?}, {host:?}), host type mismatch ({wanted}, {kind})"));
    }
    let told = ["major", "minor"].map(|part| node[part].as_u64().unwrap_or_default());
    let has = [nix::sys::stat::major(there.rdev()), nix::sys::stat::minor(there.rdev())];
    if kind != "p" && told[0] != 0 && told != has {
        return Err(format!("{}: other numbers than the host's are not supported by this runtime", host.display()));
    }
    // Who is not told is the container's own user (upstream `Apply`), and a mode that is not told is for everybody.
    let owner = DeviceOwner::Given { uid: u32_of(&node["uid"]), gid: u32_of(&node["gid"]) };
    Ok(Device { host, container, permissions: permissions.to_owned(), mode: u32_of(&node["fileMode"]), owner })
}

fn bind(mount: &Value) -> Result<Mount, String> {
    let kind = mount["type"].as_str().filter(|kind| !kind.is_empty()).unwrap_or("bind");
    if !["bind", "none"].contains(&kind) {
        return Err(format!("mounts of type {kind:?} are not supported by this runtime"));
    }
    let options: Vec<&str> = mount["options"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let propagation = if options.iter().any(|o| ["rshared", "shared"].contains(o)) {
        Propagation::Bidirectional
    } else if options.iter().any(|o| ["rslave", "slave"].contains(o)) {
        Propagation::HostToContainer
    } else {
        Propagation::default()
    };
    Ok(Mount {
        host: absolute(mount, "hostPath")?,
        container: absolute(mount, "containerPath")?,
        readonly: options.contains(&"ro") || options.contains(&"rro"),
        recursive_readonly: options.contains(&"rro"),
        noexec: options.contains(&"noexec"),
        nosuid: options.contains(&"nosuid"),
        nodev: options.contains(&"nodev"),
        propagation,
        ..Mount::default()
    })
}

impl Edits {
    /// Gives a container what it gets.
    pub fn give(self, spec: &mut ContainerSpec) {
        spec.env.retain(|(name, _)| !self.env.iter().any(|(over, _)| over == name));
        spec.env.extend(self.env);
        spec.devices.retain(|known| !self.devices.iter().any(|over| over.container == known.container));
        spec.devices.extend(self.devices);
        if !self.mounts.is_empty() {
            spec.mounts.retain(|known| !self.mounts.iter().any(|over| over.container == known.container));
            spec.mounts.extend(self.mounts);
            // What is mounted above another must not hide it.
            spec.mounts.sort_by_key(|mount| mount.container.components().count());
        }
        spec.hooks.extend(self.hooks);
        for group in self.groups {
            if !spec.security.supplemental_groups.contains(&group) {
                spec.security.supplemental_groups.push(group);
            }
        }
    }
}
