//! The ids of sandboxes with users of their own, each for one sandbox at a time, whatever runtime of this host it belongs to.
//!
//! A range is taken by a file of its number in one directory for all clusters of the host, made by a link, so that it is
//! there with its owner's name or not at all. It is freed with the sandbox, by a purge, and at the next start of its runtime
//! when a crash came between; a reboot empties the directory.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::files;
use crate::types::IdMapping;

/// Where ranges are taken.
const BASE: &str = "/run/knarr-users";
/// Beyond what login, `/etc/subuid` and systemd's containers use.
const FIRST: u32 = 0x7000_0000;
/// All that Kubernetes gives a pod.
const LENGTH: u32 = 1 << 16;
/// Ranges up to the largest id.
const COUNT: u32 = 1 << 12;

/// The ranges that one runtime has taken.
#[derive(Debug, Clone)]
pub(crate) struct Ranges {
    base: PathBuf,
    mark: String,
}

impl Ranges {
    pub(crate) fn new(mark: &str) -> Ranges {
        Ranges { base: BASE.into(), mark: mark.to_owned() }
    }

    fn owner(&self, sandbox: &str) -> String {
        format!("{}\n{sandbox}\n", self.mark)
    }

    /// A range for this sandbox.
    pub(crate) fn take(&self, sandbox: &str) -> Result<IdMapping> {
        files::private_dir(&self.base)?;
        // Ids cannot begin with a point, nor contain what separates here.
        let claim = self.base.join(format!(".{}:{sandbox}", self.mark.replace('/', ":")));
        fs::write(&claim, self.owner(sandbox)).at("cannot write", &claim)?;
        let taken = (0..COUNT).find_map(|n| match fs::hard_link(&claim, self.base.join(n.to_string())) {
            Ok(()) => Some(Ok(IdMapping { host_first: FIRST + n * LENGTH, length: LENGTH })),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => None,
            Err(e) => Some(Err(Error::io("cannot take ids for a user namespace", e))),
        });
        let _ = fs::remove_file(&claim);
        taken.unwrap_or_else(|| Err(Error::State(format!("all {COUNT} ranges of ids for user namespaces are taken"))))
    }

    /// Frees what the sandboxes that are not known have taken.
    pub(crate) fn keep(&self, known: &HashSet<String>) {
        for entry in fs::read_dir(&self.base).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let mut lines = text.lines();
            if lines.next() == Some(&self.mark) && !lines.next().is_some_and(|id| known.contains(id)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Frees a sandbox's range.
    pub(crate) fn free(&self, sandbox: &str, mapping: IdMapping) {
        let file = self.base.join(((mapping.host_first - FIRST) / LENGTH).to_string());
        if fs::read_to_string(&file).is_ok_and(|text| text == self.owner(sandbox)) {
            let _ = fs::remove_file(file);
        }
    }
}

/// Whether this kernel can give a sandbox its own users: overlayfs takes layers that are shown shifted since Linux 5.19.
pub(crate) fn check() -> Result<()> {
    let none = |why: &str| Err(Error::State(format!("user namespaces (hostUsers: false) are not possible on this host: {why}")));
    let most: u64 = fs::read_to_string("/proc/sys/user/max_user_namespaces").ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    if most == 0 || !Path::new("/proc/self/ns/user").exists() {
        return none("the kernel has none, or they are forbidden (user.max_user_namespaces)");
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version(&release) < (5, 19) {
        return none("it needs Linux 5.19");
    }
    Ok(())
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sandboxes_share_ids() {
        let base = std::env::temp_dir().join(format!("knarr-users-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&base);
        let of = |mark: &str| Ranges { base: base.clone(), mark: mark.to_owned() };
        let (one, two) = (of("one"), of("two"));
        let (a, b, c) = (one.take("a").unwrap(), two.take("a").unwrap(), one.take("c").unwrap());
        assert_eq!([a, b, c].map(|m| (m.host_first, m.length)), [(FIRST, LENGTH), (FIRST + LENGTH, LENGTH), (FIRST + 2 * LENGTH, LENGTH)]);
        assert!(FIRST.checked_add((COUNT - 1) * LENGTH + (LENGTH - 1)).is_some_and(|last| last == i32::MAX as u32));
        // Only its own owner frees a range.
        two.free("a", a);
        assert_ne!(two.take("x").unwrap(), a);
        one.free("a", a);
        assert_eq!(one.take("d").unwrap(), a);
        // At the next start what no sandbox holds is free again, and nobody else's.
        one.keep(&HashSet::from(["c".to_owned()]));
        assert_eq!((one.take("e").unwrap(), one.take("f").unwrap().host_first), (a, FIRST + 4 * LENGTH));
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn kernels_are_told_apart() {
        assert_eq!([version("6.18.5-cloud"), version("5.4.0"), version("x")], [(6, 18), (5, 4), (0, 0)]);
    }
}
