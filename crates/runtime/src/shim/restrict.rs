//! What a container must not see, and what it must not change, of the kernel's own file systems.
//!
//! Applied by the handle of the mount itself right after that is in place ([`below`]), so that no link of the image and no
//! other mount can lead a look-up past it; what lies elsewhere, or in a file system that the pod mounted there itself, comes
//! last ([`elsewhere`]). A path that does not exist needs no protection; every other failure ends the start.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::mounts::{AT_FDCWD, NO_ALL, is_directory};
use super::{Step, process};
use crate::proto::Spec;
use crate::sys;
use crate::tree::{Links, Root};

/// Shown empty unless the configuration says otherwise (the lists of the OCI runtimes).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Shown read-only unless the configuration says otherwise.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What is to be done about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    ReadOnly,
    Masked,
}

fn rules(spec: &Spec) -> Vec<(String, Rule)> {
    if spec.config.privileged {
        return Vec::new();
    }
    let list = |given: &Option<Vec<String>>, default: &[&str]| given.clone().unwrap_or_else(|| default.iter().map(|p| (*p).to_owned()).collect());
    let mut masked = list(&spec.config.masked_paths, &MASKED);
    if spec.config.masked_paths.is_none() {
        masked.extend(cpus().map(|n| format!("/sys/devices/system/cpu/cpu{n}/thermal_throttle")));
    }
    let readonly = list(&spec.config.readonly_paths, &READONLY).into_iter().map(|p| (p, Rule::ReadOnly));
    readonly.chain(masked.into_iter().map(|p| (p, Rule::Masked))).collect()
}

/// All processors that the host may have.
fn cpus() -> std::ops::Range<u64> {
    // `0-7`
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    0..last_cpu(&text).map_or(1, |last| last + 1)
}

fn last_cpu(text: &str) -> Option<u64> {
    text.trim().rsplit([',', '-']).next()?.parse().ok()
}

/// Applies the rules about what is below a mount that is the kernel's own, `/proc/` or `/sys/`.
pub(super) fn below(mount: &OwnedFd, prefix: &str, spec: &Spec) -> Step<()> {
    for (path, rule) in rules(spec) {
        let Some(inner) = path.strip_prefix(prefix) else { continue };
        let find = || sys::openat2(mount, &sys::c_str(inner)?, libc::O_PATH | libc::O_NOFOLLOW, 0, sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_SYMLINKS);
        apply(find(), &path, rule)?;
    }
    Ok(())
}

/// Applies the rules about everything else. `done` says which prefixes need no second look.
pub(super) fn elsewhere(root: &Root, spec: &Spec, done: [(&str, bool); 2]) -> Step<()> {
    for (path, rule) in rules(spec) {
        if !done.iter().any(|(prefix, done)| *done && path.starts_with(prefix)) {
            apply(root.find(&path, Links::Within, 0), &path, rule)?;
        }
    }
    Ok(())
}

fn apply(place: io::Result<OwnedFd>, path: &str, rule: Rule) -> Step<()> {
    let place = match place {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        place => place,
    };
    let cover = |place: OwnedFd| -> io::Result<()> {
        let cover = match rule {
            Rule::ReadOnly => {
                let tree = sys::open_tree(place.as_raw_fd(), c"", true)?;
                sys::mount_setattr(&tree, true, sys::MOUNT_ATTR_RDONLY, 0)?;
                tree
            }
            Rule::Masked if is_directory(&place)? => sys::new_mount(c"tmpfs", &[(c"size", Some(c"0k"))], sys::MOUNT_ATTR_RDONLY | NO_ALL)?,
            // The host's: the container has no say in what that is (CVE-2025-31133).
            Rule::Masked => sys::open_tree(process::openat(&AT_FDCWD, c"/dev/null", libc::O_PATH, 0)?.as_raw_fd(), c"", false)?,
        };
        sys::move_mount(&cover, &place)
    };
    let what = if rule == Rule::ReadOnly { "read-only" } else { "masked" };
    place.and_then(cover).map_err(|e| format!("{what} path {path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ContainerConfig;

    #[test]
    fn the_default_rules_are_those_of_the_original() {
        assert_eq!([last_cpu("0-7\n"), last_cpu("0\n"), last_cpu("0,2-5\n"), last_cpu("")], [Some(7), Some(0), Some(5), None]);
        let of = |config: ContainerConfig| rules(&Spec { config, ..Spec::default() });
        let all = of(ContainerConfig::default());
        assert!(all.contains(&("/proc/sys".into(), Rule::ReadOnly)) && all.contains(&("/proc/kcore".into(), Rule::Masked)), "{all:?}");
        assert!(all.contains(&("/sys/devices/system/cpu/cpu0/thermal_throttle".into(), Rule::Masked)), "{all:?}");
        assert!(of(ContainerConfig { privileged: true, ..ContainerConfig::default() }).is_empty());
        let unmasked = ContainerConfig { masked_paths: Some(vec![]), readonly_paths: Some(vec![]), ..ContainerConfig::default() };
        assert!(of(unmasked).is_empty());
    }
}
