//! What is mounted where, as the kernel lists it (proc_pid_mountinfo(5)).
//!
//! Names are bytes, and pods choose some of them (what of a volume a `subPath` shows): a name that is no text hides neither itself nor
//! another line.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};

/// A mount of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Major and minor number of the file system.
    pub device: (u64, u64),
    /// What of the file system is mounted.
    pub root: PathBuf,
    /// Where, by its real path.
    pub at: PathBuf,
    /// It may not be written to here.
    pub readonly: bool,
    /// What is mounted below it is seen elsewhere too.
    pub shared: bool,
    /// What it was mounted from, in the file system's own words: a device, mostly.
    pub source: PathBuf,
}

/// Changes a mount's own flags. What is forbidden there stays so: a remount takes away what it does not name (mount(2)).
///
/// # Errors
/// The kernel refuses.
pub fn remount(at: &Path, flags: MsFlags) -> io::Result<()> {
    let held = statvfs(at)?.flags();
    let all = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ];
    let kept: MsFlags = all.into_iter().filter(|(is, _)| held.contains(*is)).map(|(_, flag)| flag).collect();
    Ok(mount(None::<&str>, at, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags | kept, None::<&str>)?)
}

/// All that is mounted, in the order in which it was.
///
/// # Errors
/// The list cannot be read.
pub fn all() -> io::Result<Vec<Mounted>> {
    Ok(fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// `ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS PROPAGATION… - TYPE SOURCE OPTIONS`
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let (root, at) = (unescape(fields.next()?), unescape(fields.next()?));
    let readonly = fields.next()?.split(|byte| *byte == b',').any(|option| option == b"ro");
    let shared = fields.by_ref().take_while(|field| *field != b"-").filter(|field| field.starts_with(b"shared:")).count() > 0;
    let source = unescape(fields.nth(1)?);
    Some(Mounted { device: (major.parse().ok()?, minor.parse().ok()?), root, at, readonly, shared, source })
}

/// The octal escapes of the list.
fn unescape(field: &[u8]) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), field);
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_line_is_read_with_its_escapes() {
        let line = br"36 35 98:0 /mnt1 /mnt/a\040b\134c rw,noatime master:1 - ext4 /dev/root rw,errors=continue";
        let read =
            Mounted { device: (98, 0), root: "/mnt1".into(), at: PathBuf::from(r"/mnt/a b\c"), readonly: false, shared: false, source: "/dev/root".into() };
        assert_eq!(parse(line), Some(read));
        assert!(parse(b"36 35 7:11 / /x ro,relatime - ext4 /dev/loop11 rw").unwrap().readonly);
        assert!(parse(b"36 35 7:11 / /x rw shared:7 master:1 - ext4 /dev/loop11 rw").unwrap().shared);
        assert_eq!(parse(b"nonsense"), None);
        assert_eq!(unescape("/\u{fc}".as_bytes()), PathBuf::from("/\u{fc}"));
    }

    #[test]
    fn a_name_that_is_no_text_hides_nothing() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let base = std::env::temp_dir().join(format!("knarr-mounts-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&base);
        let (odd, plain) = (base.join(OsStr::from_bytes(b"\xff")), base.join("plain"));
        fs::create_dir_all(&odd).unwrap();
        fs::create_dir_all(&plain).unwrap();
        // The odd one is the root of one mount and the place of another; both are before the plain one.
        for (from, to) in [(&odd, &plain), (&plain, &odd), (&base, &plain)] {
            mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        }
        let found: Vec<_> = all().unwrap().into_iter().filter(|m| m.at.starts_with(&base)).map(|m| m.at).collect();
        for at in found.iter().rev() {
            umount2(at, MntFlags::MNT_DETACH).unwrap();
        }
        fs::remove_dir_all(&base).unwrap();
        assert_eq!(found, [&plain, &odd, &plain].map(Clone::clone));
    }
}
