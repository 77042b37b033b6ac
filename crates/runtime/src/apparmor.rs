//! AppArmor: whether this host has it, and which of its profiles confines a container. Profiles are loaded by the host's
//! administrator, or by another container runtime; this program brings none, and compiles none: containerd has one made by
//! `apparmor_parser`, which such hosts need not have. So where no default profile is loaded, `runtime/default` is refused, and what names no
//! profile runs without one.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::types::APPARMOR_RUNTIME_DEFAULT;

/// The names under which container runtimes load their default profile.
const DEFAULTS: [&str; 3] = ["cri-containerd.apparmor.d", "containers-default", "docker-default"];

/// Whether the kernel enforces AppArmor.
pub fn apparmor_enabled() -> bool {
    enabled(Path::new("/sys"))
}

fn enabled(sys: &Path) -> bool {
    let said = fs::read_to_string(sys.join("module/apparmor/parameters/enabled")).unwrap_or_default();
    said.starts_with('Y') && sys.join("kernel/security/apparmor").is_dir()
}

/// Whether this host has a default profile loaded: then it confines what names none, as with containerd.
pub fn apparmor_default() -> bool {
    default_in(Path::new("/sys"))
}

fn default_in(sys: &Path) -> bool {
    enabled(sys) && resolve_in(sys, Some(APPARMOR_RUNTIME_DEFAULT)).is_ok()
}

/// The loaded profile that is meant; none for a container that is not to be confined.
pub(crate) fn resolve(wanted: Option<&str>) -> Result<Option<String>> {
    resolve_in(Path::new("/sys"), wanted)
}

fn resolve_in(sys: &Path, wanted: Option<&str>) -> Result<Option<String>> {
    let Some(wanted) = wanted else { return Ok(None) };
    if !enabled(sys) {
        return Err(Error::Invalid("Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned()));
    }
    let text = fs::read_to_string(sys.join("kernel/security/apparmor/profiles")).unwrap_or_default();
    // `NAME (enforce)`
    let loaded: Vec<&str> = text.lines().filter_map(|l| l.rsplit_once(" (").map(|(name, _)| name)).collect();
    let found = match wanted {
        APPARMOR_RUNTIME_DEFAULT => {
            let like = |name: &&str| DEFAULTS.iter().any(|d| name == d || name.strip_prefix(d).is_some_and(|rest| rest.starts_with('-')));
            loaded.iter().find(|name| like(name)).copied()
        }
        name => loaded.iter().find(|l| **l == name).copied(),
    };
    let missing = || Error::Invalid(format!("apparmor profile not found {wanted}"));
    found.map(|name| Some(name.to_owned())).ok_or_else(missing)
}

/// The kernel's name for what confines nothing.
pub(crate) const UNCONFINED: &str = "unconfined";

/// What confines the calling process's next program. In its own file of the host's `/proc`, before a container's is in sight:
/// there a link could lead the write elsewhere (CVE-2025-52881). A process that is forked afterwards inherits it.
pub(crate) fn at_next_program(profile: &str) -> std::io::Result<()> {
    let order = format!("exec {profile}");
    match fs::write("/proc/thread-self/attr/apparmor/exec", &order) {
        // Before Linux 5.8 there was one file for all such modules.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => fs::write("/proc/thread-self/attr/exec", &order),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_host_has_loaded_is_promised() {
        let sys = std::env::temp_dir().join(format!("knarr-aa-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&sys);
        fs::create_dir_all(sys.join("module/apparmor/parameters")).unwrap();
        let resolve = |wanted: Option<&str>| resolve_in(&sys, wanted).map_err(|e| e.to_string());
        assert_eq!(resolve(None), Ok(None));
        let off = Err("Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned());
        assert_eq!(resolve(Some("mine")), off);
        fs::write(sys.join("module/apparmor/parameters/enabled"), "Y\n").unwrap();
        assert_eq!(resolve(Some(APPARMOR_RUNTIME_DEFAULT)), off, "the module without its file system");
        fs::create_dir_all(sys.join("kernel/security/apparmor")).unwrap();
        fs::write(sys.join("kernel/security/apparmor/profiles"), "mine (enforce)\nwith space (complain)\n").unwrap();
        assert_eq!((resolve(Some("mine")), resolve(Some("with space"))), (Ok(Some("mine".into())), Ok(Some("with space".into()))));
        assert_eq!(resolve(Some("other")), Err("apparmor profile not found other".to_owned()));
        assert!(resolve(Some(APPARMOR_RUNTIME_DEFAULT)).is_err() && !default_in(&sys));
        fs::write(sys.join("kernel/security/apparmor/profiles"), "containers-default-0.57.4 (enforce)\n").unwrap();
        assert_eq!(resolve(Some(APPARMOR_RUNTIME_DEFAULT)), Ok(Some("containers-default-0.57.4".into())));
        assert!(default_in(&sys), "what names no profile gets this one");
        fs::write(sys.join("module/apparmor/parameters/enabled"), "N\n").unwrap();
        assert!(!default_in(&sys));
        fs::remove_dir_all(&sys).unwrap();
    }
}
