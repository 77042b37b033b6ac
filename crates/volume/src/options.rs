//! Mount options as mount(8) knows them.

use nix::mount::MsFlags;

/// As flags, and as what is left for the file system, after what it gets anyway. What comes later counts.
#[must_use]
pub fn mount_options(options: &[String], anyway: &[&str]) -> (MsFlags, String) {
    let (mut flags, mut rest) = (MsFlags::empty(), anyway.to_vec());
    for option in options.iter().flat_map(|o| o.split(',')).map(str::trim).filter(|o| !o.is_empty()) {
        let (flag, on) = match option {
            "ro" => (MsFlags::MS_RDONLY, true),
            "rw" => (MsFlags::MS_RDONLY, false),
            "nosuid" => (MsFlags::MS_NOSUID, true),
            "suid" => (MsFlags::MS_NOSUID, false),
            "nodev" => (MsFlags::MS_NODEV, true),
            "dev" => (MsFlags::MS_NODEV, false),
            "noexec" => (MsFlags::MS_NOEXEC, true),
            "exec" => (MsFlags::MS_NOEXEC, false),
            "sync" => (MsFlags::MS_SYNCHRONOUS, true),
            "async" => (MsFlags::MS_SYNCHRONOUS, false),
            "dirsync" => (MsFlags::MS_DIRSYNC, true),
            "noatime" => (MsFlags::MS_NOATIME, true),
            "atime" => (MsFlags::MS_NOATIME, false),
            "nodiratime" => (MsFlags::MS_NODIRATIME, true),
            "diratime" => (MsFlags::MS_NODIRATIME, false),
            "relatime" => (MsFlags::MS_RELATIME, true),
            "strictatime" => (MsFlags::MS_STRICTATIME, true),
            "lazytime" => (MsFlags::MS_LAZYTIME, true),
            "nolazytime" => (MsFlags::MS_LAZYTIME, false),
            "defaults" => continue,
            other => {
                rest.push(other);
                continue;
            }
        };
        flags.set(flag, on);
    }
    (flags, rest.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_the_file_systems() {
        let own = |options: &[&str], anyway: &[&str]| mount_options(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>(), anyway);
        assert_eq!(own(&[], &[]), (MsFlags::empty(), String::new()));
        let (flags, rest) = own(&["noatime,nodev", "data=journal", "ro", "rw", "nodiscard"], &["errors=remount-ro", "discard"]);
        assert_eq!(flags, MsFlags::MS_NOATIME | MsFlags::MS_NODEV);
        assert_eq!(rest, "errors=remount-ro,discard,data=journal,nodiscard", "what comes later counts");
    }
}
