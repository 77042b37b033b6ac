//! emptyDir volumes: on the node's disk, in memory, or of huge pages.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use nix::mount::{MsFlags, mount};

use super::removal;
use crate::resources;

/// Begins the medium of huge pages, and the resources that are them.
const HUGE_PAGES: &str = "HugePages";
const HUGE_PAGES_RESOURCE: &str = "hugepages-";

/// Where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    Disk,
    /// In memory, up to so many bytes.
    Memory(i64),
    /// Of huge pages of this size.
    HugePages(String),
}

impl Medium {
    /// Where a volume of a pod lies, on a node that can give so many bytes of memory.
    ///
    /// # Errors
    /// The pod asks for no such pages, or there is no such medium.
    pub(super) fn of(v: &EmptyDirVolumeSource, pod: &Pod, node_memory: i64) -> Result<Self, String> {
        let medium = v.medium.as_deref().unwrap_or_default();
        if let Some(size) = medium.strip_prefix(HUGE_PAGES) {
            return pages(medium, size.trim_start_matches('-'), pod).map(Self::HugePages);
        }
        match medium {
            "" => return Ok(Self::Disk),
            "Memory" => {}
            other => return Err(format!("unknown storage medium {other:?}")),
        }
        // The least of what it may have, what its pod may, and what all pods may (upstream's `calculateEmptyDirMemorySize`).
        let own = v.size_limit.as_ref().map(resources::value);
        let limits = [Some(node_memory), resources::pod_limit_of_all(pod, "memory"), own];
        Ok(Self::Memory(limits.into_iter().flatten().filter(|bytes| *bytes > 0).min().unwrap_or(0)))
    }
}

/// The size of the pages: that which the medium names, or the only one that the pod asks for (upstream's `getPageSizeMountOption`).
fn pages(medium: &str, wanted: &str, pod: &Pod) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten())).map(|c| c.resources.as_ref());
    let lists = containers.chain(spec.map(|s| s.resources.as_ref())).filter_map(|r| r?.requests.as_ref());
    let bytes = |size: &str| resources::value(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(size.to_owned()));
    let mut found: Option<&str> = None;
    for size in lists.flat_map(|list| list.keys()).filter_map(|name| name.strip_prefix(HUGE_PAGES_RESOURCE)) {
        if wanted.is_empty() && found.is_some_and(|other| bytes(other) != bytes(size)) {
            return Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes"));
        }
        if wanted.is_empty() || bytes(wanted) == bytes(size) {
            found = Some(size);
        }
    }
    found.map(str::to_owned).ok_or_else(|| format!("medium {medium}: hugePages storage requested, but there is no resource request for huge pages"))
}

/// Makes it, unless it is there.
pub(super) fn make(dir: &Path, v: &EmptyDirVolumeSource, medium: &Medium, group: Option<u32>) -> io::Result<()> {
    // A tmpfs that nobody gives a mode is sticky, which upstream leaves so.
    let usual = if *medium == Medium::Disk { 0o777 } else { 0o1777 };
    let mode = v.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(usual) | if group.is_some() { 0o2070 } else { 0 };
    let (kind, size) = match medium {
        Medium::Disk => return on_disk(dir, mode, group),
        Medium::Memory(0) => ("tmpfs", String::new()),
        Medium::Memory(size) => ("tmpfs", format!(",size={size}")),
        Medium::HugePages(size) => ("hugetlbfs", format!(",pagesize={size}")),
    };
    fs::create_dir_all(dir)?;
    if removal::is_mountpoint(dir) {
        return Ok(());
    }
    // It is what it is to be from the first moment: what the pod makes of it later is the pod's, also after a restart.
    let group = group.map(|g| format!(",gid={g}")).unwrap_or_default();
    let options = format!("mode={mode:o}{group}{size}");
    mount(Some(kind), dir, Some(kind), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))?;
    if matches!(medium, Medium::HugePages(_)) {
        // Of the mode that it is told this file system takes all but the group's bit.
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn on_disk(dir: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    // It gets its name when it is what it is to be: a kubelet that is killed in between begins anew.
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name().and_then(|n| n.to_str())) else { return Ok(()) };
    let making = parent.join(format!(".{name}.making"));
    fs::create_dir_all(&making)?;
    if group.is_some() {
        chown(&making, None, group)?;
    }
    fs::set_permissions(&making, fs::Permissions::from_mode(mode))?;
    fs::rename(&making, dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::os::unix::fs::MetadataExt;

    fn volume(value: Value) -> EmptyDirVolumeSource {
        serde_json::from_value(value).unwrap()
    }

    fn pod(containers: Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn what_lies_in_memory_is_no_larger_than_its_pod_may_be() {
        let limited = pod(json!([{"name": "a", "resources": {"limits": {"memory": "64Mi"}}}]));
        let free = pod(json!([{"name": "a"}]));
        let of = |value: Value, pod: &Pod| Medium::of(&volume(value), pod, 1 << 30).unwrap();
        assert_eq!(of(json!({}), &limited), Medium::Disk);
        assert_eq!(Medium::of(&volume(json!({"medium": "Tape"})), &free, 1 << 30), Err("unknown storage medium \"Tape\"".into()));
        assert_eq!(of(json!({"medium": "Memory"}), &free), Medium::Memory(1 << 30));
        assert_eq!(of(json!({"medium": "Memory"}), &limited), Medium::Memory(64 << 20));
        assert_eq!(of(json!({"medium": "Memory", "sizeLimit": "1Mi"}), &limited), Medium::Memory(1 << 20));
        assert_eq!(of(json!({"medium": "Memory", "sizeLimit": "1Gi"}), &limited), Medium::Memory(64 << 20));
    }

    #[test]
    fn huge_pages_are_of_the_size_that_the_pod_asks_for() {
        let with = |sizes: &[&str]| {
            let requests: Value = sizes.iter().map(|size| (format!("hugepages-{size}"), json!("4Gi"))).collect::<serde_json::Map<_, _>>().into();
            pod(json!([{"name": "a", "resources": {"requests": requests}}]))
        };
        let of = |medium: &str, pod: &Pod| Medium::of(&volume(json!({"medium": medium})), pod, 0);
        assert_eq!(of("HugePages", &with(&["2Mi"])), Ok(Medium::HugePages("2Mi".into())));
        assert_eq!(of("HugePages-1Gi", &with(&["2Mi", "1Gi"])), Ok(Medium::HugePages("1Gi".into())));
        let several = of("HugePages", &with(&["2Mi", "1Gi"])).unwrap_err();
        assert_eq!(several, "medium: HugePages can't be used if container requests multiple huge page sizes");
        let none = of("HugePages-1Gi", &with(&["2Mi"])).unwrap_err();
        assert_eq!(none, "medium HugePages-1Gi: hugePages storage requested, but there is no resource request for huge pages");
    }

    #[test]
    fn what_a_pod_makes_of_its_empty_dir_stays() {
        let dir = crate::testing::TempDir::new("empty-dir");
        for (medium, mode) in [(Medium::Disk, 0o2777), (Medium::Memory(1 << 20), 0o3777)] {
            let (at, v) = (dir.path().join(format!("v{}", medium == Medium::Disk)), EmptyDirVolumeSource::default());
            let show = || fs::metadata(&at).map(|m| (m.mode() & 0o7777, m.gid())).unwrap();
            make(&at, &v, &medium, Some(4711)).unwrap();
            assert_eq!(show(), (mode, 4711), "{medium:?}");
            chown(&at, Some(99), Some(99)).unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(0o700)).unwrap();
            // A kubelet that begins anew sets its pods up again.
            make(&at, &v, &medium, Some(4711)).unwrap();
            assert_eq!(show(), (0o700, 99), "{medium:?}");
        }
        removal::purge(dir.path()).unwrap();
    }
}
