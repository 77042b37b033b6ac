//! Capabilities by name, and the default set of Kubernetes' container runtimes.

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

/// The bits of these capabilities. What no kernel knows is nothing (the OCI: "the runtime MUST log a warning"): a container runs without it.
pub(crate) fn set(names: &[String]) -> u64 {
    let known = |name: &String| {
        let bit = bit(name);
        if bit.is_none() {
            tracing::warn!(capability = name.as_str(), "an unknown capability is passed over");
        }
        bit
    };
    names.iter().filter_map(known).fold(0, |set, bit| set | bit)
}

/// The set of a container. `ALL` counts first in both lists, as in CRI: drop ALL and add one leaves that one.
pub(crate) fn resolve(add: &[String], drop: &[String], privileged: bool) -> u64 {
    if privileged {
        return ALL;
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
    let (added, dropped) = (named(add), named(drop));
    (set | added) & !dropped | if has_all(drop) { added } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn dropping_all_and_adding_one_leaves_one() {
        assert_eq!(resolve(&list(&["NET_BIND_SERVICE"]), &list(&["ALL"]), false), 1 << 10);
    }

    #[test]
    fn the_default_set_can_be_widened_and_narrowed() {
        let set = resolve(&list(&["CAP_SYS_TIME"]), &list(&["chown"]), false);
        assert_eq!((set & 1, set >> 25 & 1, set >> 10 & 1), (0, 1, 1));
        assert_eq!(resolve(&list(&["ALL"]), &list(&["SYS_ADMIN"]), false), ALL & !(1 << 21));
        assert_eq!(resolve(&list(&["NO_SUCH"]), &list(&["NOR_THIS"]), false), resolve(&[], &[], false), "what is unknown is passed over");
    }
}
