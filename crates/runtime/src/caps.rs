//! Capabilities by name, and the default set of Kubernetes' container runtimes.

use crate::error::{Error, Result};

/// In the kernel's numbering (capabilities(7), `linux/capability.h`).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has when nothing is added or dropped: the set of containerd and Docker.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability there is.
pub(crate) const ALL: u64 = (1 << NAMES.len()) - 1;

/// The bit of a capability, by its name with or without `CAP_`.
pub(crate) fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| *n == short).map(|at| 1 << at)
}

/// The bits of these capabilities.
pub(crate) fn set(names: &[String]) -> Result<u64> {
    names.iter().map(|n| bit(n).ok_or_else(|| Error::Invalid(format!("unknown capability {n:?}")))).try_fold(0, |set, bit| Ok(set | bit?))
}

/// The set of a container. `ALL` counts first in both lists, as in CRI: drop ALL and add one leaves that one.
pub(crate) fn resolve(add: &[String], drop: &[String], privileged: bool) -> Result<u64> {
    if privileged {
        return Ok(ALL);
    }
    let has_all = |list: &[String]| list.iter().any(|n| n.eq_ignore_ascii_case("ALL"));
    let mut set = DEFAULT.iter().filter_map(|n| bit(n)).fold(0, |set, bit| set | bit);
    if has_all(add) {
        set = ALL;
    }
    if has_all(drop) {
        set = 0;
    }
    let named = |list: &[String]| self::set(&list.iter().filter(|n| !n.eq_ignore_ascii_case("ALL")).cloned().collect::<Vec<_>>());
    set |= named(add)?;
    Ok(set & !named(drop)? | if has_all(drop) { named(add)? } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn dropping_all_and_adding_one_leaves_one() {
        assert_eq!(resolve(&list(&["NET_BIND_SERVICE"]), &list(&["ALL"]), false).unwrap(), 1 << 10);
    }

    #[test]
    fn the_default_set_can_be_widened_and_narrowed() {
        let set = resolve(&list(&["CAP_SYS_TIME"]), &list(&["chown"]), false).unwrap();
        assert_eq!((set & 1, set >> 25 & 1, set >> 10 & 1), (0, 1, 1));
        assert_eq!(resolve(&list(&["ALL"]), &list(&["SYS_ADMIN"]), false).unwrap(), ALL & !(1 << 21));
        assert!(resolve(&list(&["NO_SUCH"]), &[], false).is_err());
    }
}
