//! What the process may have of the machine: descriptors, and its life when memory runs out.
//!
//! The soft limit is 1024 for a service or a shell, for programs that still use `select`; whoever does not is to raise it (as
//! Go's runtime does at its start). A shim gets it back as it was; containers' limits the runtime sets.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// As systemd's default for services.
const SOFT: u64 = 1024;
/// Connections to the API, shims, watches and pulls of a full node.
const ENOUGH: u64 = 65_536;

/// Raises the soft limit to the hard one, and that to what a node needs if this process may.
pub fn raise() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let higher = hard.max(ENOUGH);
    if soft < hard || hard < higher {
        // A refusal leaves less; what then fails is told where it does.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, higher, higher).or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    }
}

/// Gives back the soft limit.
pub fn lower() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, SOFT.min(hard), hard);
    }
}

/// As upstream's kubelet and proxy have themselves (`--oom-score-adj`): whatever a pod may have (-997) goes before.
const SPARED: &str = "-999";

/// Asks the kernel to end others first when memory runs out: else pods that take all of it would end who evicts them. Shims, unpackers and
/// containers that come of this process say for themselves what they are.
pub fn spare() {
    // Who may not lower it is as mortal as everybody.
    let _ = std::fs::write("/proc/self/oom_score_adj", SPARED);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_raised_to_the_hard_limit() {
        let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        lower();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, SOFT.min(hard));
        raise();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft == hard && soft >= before, "{soft} of {hard}");
    }
}
