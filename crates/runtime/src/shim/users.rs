//! The users of a pod with a user namespace of its own: root of its containers is nobody on the host.
//!
//! The shim stays the host's root. The pod's other namespaces belong to its users, so that root of a container may do in them
//! what root may (its network's settings, its host name, mounts), and nothing outside. What lies on disk keeps its owners:
//! layers and volumes are shown shifted, by mounts that map ids.

use std::fs::{self, File};
use std::os::fd::OwnedFd;

use super::{Step, process};
use crate::sys;
use crate::types::IdMapping;

/// A pod's users.
pub(super) struct Users {
    namespace: OwnedFd,
    mapping: IdMapping,
}

/// The namespaces that are made with the users and belong to them.
pub(super) const OWNED: [(&str, i32); 3] = [("net", libc::CLONE_NEWNET), ("uts", libc::CLONE_NEWUTS), ("ipc", libc::CLONE_NEWIPC)];

impl Users {
    /// Makes the users' namespace and those that belong to it, and enters the latter.
    pub(super) fn make(mapping: IdMapping) -> Step<Users> {
        let fail = |e: std::io::Error| format!("cannot make a user namespace: {e}");
        let flags = OWNED.iter().fold(libc::CLONE_NEWUSER, |all, (_, kind)| all | kind);
        let (wait, go) = sys::pipe().map_err(fail)?;
        let pid = process::clone(flags).map_err(fail)?;
        if pid == 0 {
            // Holds the namespaces until the shim has them; reaped like whatever else ends.
            drop(go);
            let _ = sys::read(&wait, &mut [0]);
            process::exit_now(0);
        }
        let made = (|| {
            let map = format!("0 {} {}", mapping.host_first, mapping.length);
            for file in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{pid}/{file}"), &map).map_err(fail)?;
            }
            let open = |name: &str| File::open(format!("/proc/{pid}/ns/{name}")).map(OwnedFd::from).map_err(fail);
            let users = Users { namespace: open("user")?, mapping };
            for (name, kind) in OWNED {
                process::setns(&open(name)?, kind).map_err(fail)?;
            }
            Ok(users)
        })();
        drop(go);
        made
    }

    /// The calling process becomes root among these users.
    pub(super) fn enter(&self) -> Step<()> {
        process::setns(&self.namespace, libc::CLONE_NEWUSER)
            .and_then(|()| process::become_user(0, 0, &[]))
            .and_then(|()| process::prctl(libc::PR_SET_DUMPABLE, 0))
            .map_err(|e| format!("enter the user namespace: {e}"))
    }

    /// Shows a detached mount with the pod's ids.
    pub(super) fn show(&self, mount: &OwnedFd, recursive: bool) -> Step<()> {
        sys::map_ids(mount, &self.namespace, recursive).map_err(|e| match e.raw_os_error() {
            Some(libc::EINVAL | libc::EOPNOTSUPP) => format!("the file system cannot map ids (needed by hostUsers: false): {e}"),
            _ => format!("map ids: {e}"),
        })
    }

    /// What a user and a group of a container are on the host.
    pub(super) fn on_host(users: Option<&Users>, uid: u32, gid: u32) -> (u32, u32) {
        let first = users.map_or(0, |u| u.mapping.host_first);
        (first.saturating_add(uid), first.saturating_add(gid))
    }
}
