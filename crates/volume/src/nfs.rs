//! What the kernel is told to mount an NFS export, without a program of the host: mount.nfs(8) resolves the server's name, settles the
//! protocol's version and drops what is for itself; the kernel does all else.

use nix::errno::Errno;
use nix::mount::MsFlags;
use std::net::IpAddr;

use crate::mount_options;

/// The versions that are tried one after the other, where the options name none. Version 3 needs a daemon of the host for its locks.
const VERSIONS: [&str; 3] = ["vers=4.2", "vers=4.1", "vers=4.0"];

/// A mount of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// As the kernel's list of mounts shows it.
    pub source: String,
    /// Flags of the mount.
    pub flags: MsFlags,
    /// What the file system is told, in the order in which it is tried.
    pub data: Vec<String>,
}

/// What is for mount.nfs, and unknown to the kernel.
fn is_programs_own(option: &str) -> bool {
    let name = option.split_once('=').map_or(option, |(name, _)| name);
    matches!(name, "bg" | "fg" | "retry" | "_netdev" | "nofail" | "auto" | "noauto" | "user" | "nouser" | "users" | "group" | "owner" | "comment")
        || name.starts_with("x-")
}

fn names_version(option: &str) -> bool {
    option.starts_with("vers=") || option.starts_with("nfsvers=") || matches!(option, "v2" | "v3" | "v4" | "v4.0" | "v4.1" | "v4.2")
}

fn is_version_3(option: &str) -> bool {
    matches!(option, "v3" | "vers=3" | "nfsvers=3")
}

impl Export {
    /// Of a server at this address.
    #[must_use]
    pub fn new(server: &str, path: &str, address: IpAddr, options: &[String], readonly: bool) -> Self {
        let (mut flags, rest) = mount_options(options, &[]);
        flags.set(MsFlags::MS_RDONLY, readonly || flags.contains(MsFlags::MS_RDONLY));
        let rest: Vec<&str> = rest.split(',').filter(|o| !o.is_empty() && !is_programs_own(o) && !o.starts_with("addr=")).collect();
        let mut own = rest.iter().map(|o| (*o).to_owned()).chain([format!("addr={address}")]).collect::<Vec<_>>();
        // The server's other program, which version 3 is mounted by, is where this one is.
        if rest.iter().any(|o| is_version_3(o)) && !rest.iter().any(|o| o.starts_with("mountaddr=")) {
            own.push(format!("mountaddr={address}"));
        }
        let own = own.join(",");
        let data = match rest.iter().any(|o| names_version(o)) {
            true => vec![own],
            false => VERSIONS.iter().map(|version| format!("{version},{own}")).collect(),
        };
        let host = if server.contains(':') && !server.starts_with('[') { format!("[{server}]") } else { server.to_owned() };
        Self { source: format!("{host}:{path}"), flags, data }
    }

    /// Whether the next way is worth trying after this answer: the version is known to the kernel, or to the server, no more.
    #[must_use]
    pub fn is_of_version(error: Errno) -> bool {
        matches!(error, Errno::EPROTONOSUPPORT | Errno::EINVAL | Errno::EPROTO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(server: &str, options: &[&str], readonly: bool) -> Export {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        Export::new(server, "/export/a", IpAddr::from([192, 0, 2, 7]), &options, readonly)
    }

    #[test]
    fn versions_are_tried_unless_one_is_named() {
        let plain = of("files.example", &[], false);
        assert_eq!((plain.source.as_str(), plain.flags), ("files.example:/export/a", MsFlags::empty()));
        assert_eq!(plain.data, ["vers=4.2,addr=192.0.2.7", "vers=4.1,addr=192.0.2.7", "vers=4.0,addr=192.0.2.7"]);
        for version in ["vers=4.1", "nfsvers=4", "v4.2"] {
            assert_eq!(of("a", &[version, "hard"], false).data, [format!("{version},hard,addr=192.0.2.7")]);
        }
        assert_eq!(of("a", &["vers=3,nolock"], false).data, ["vers=3,nolock,addr=192.0.2.7,mountaddr=192.0.2.7"]);
        assert!(Export::is_of_version(Errno::EPROTONOSUPPORT) && !Export::is_of_version(Errno::EACCES));
    }

    #[test]
    fn options_are_the_kernels() {
        let export = of("fd00::1", &["noatime,nosuid", "bg", "retry=3", "_netdev", "x-systemd.automount", "timeo=50", "addr=198.51.100.9"], true);
        assert_eq!(export.source, "[fd00::1]:/export/a");
        assert_eq!(export.flags, MsFlags::MS_NOATIME | MsFlags::MS_NOSUID | MsFlags::MS_RDONLY);
        assert_eq!(export.data[0], "vers=4.2,timeo=50,addr=192.0.2.7", "who says where the server is, is not asked");
        assert_eq!(of("[fd00::1]", &[], false).source, "[fd00::1]:/export/a");
    }
}
