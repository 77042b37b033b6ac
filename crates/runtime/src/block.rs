//! Files as block devices (loop(4)), and the growing of a mounted ext4.
//!
//! A device is its file's by what the kernel says (device and inode number), never by a name: names are cut, escaped, and anybody's
//! to choose. It is asked through an open descriptor of the device, which keeps it that file's while it is held. One that is
//! attached for a mount detaches itself when nobody holds it any more ([`Keep::WhileHeld`]), so that a crash leaves none. The name of
//! its file says only which devices are not worth asking: opening one whose file lies on a dead server may never end.
//!
//! That a device could not be asked says nothing of whose it is: only what the kernel calls gone is ([`is_gone`]).
//!
//! Every `unsafe` of this module is an ioctl: it passes an integer, or a pointer to a live local value of the kernel's own layout.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::check;

/// The kernel's number for loop devices.
pub const LOOP_MAJOR: u64 = 7;
/// A free device may be another's before we have it; so often it is tried.
const TRIES: usize = 64;
/// Into how many minor numbers of partitions the kernel's module cuts a device's: 0 where they are the numbers of devices.
const MAX_PART: &str = "/sys/module/loop/parameters/max_part";

const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_SET_CAPACITY: libc::c_ulong = 0x4C07;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
/// `_IOW('f', 16, __u64)`
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
const BLKZEROOUT: libc::c_ulong = 0x127F;

const FLAG_AUTOCLEAR: u32 = 4;
const FLAG_DIRECT_IO: u32 = 16;

/// `struct loop_info64`
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`
#[repr(C)]
struct Configuration {
    fd: u32,
    block_bytes: u32,
    info: Info,
    reserved: [u64; 8],
}

const NO_INFO: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// How long a device stays its file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// While it is open or mounted.
    WhileHeld,
    /// Until it is detached.
    Always,
}

/// Which file a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device that the file lies on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
}

impl FileId {
    /// Of an open file.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }
}

/// A loop device that is held open.
#[derive(Debug)]
pub struct Loop {
    number: u32,
    device: File,
}

impl Loop {
    /// Attaches a file to a device that is free. Direct I/O is used where the file's own file system can do that; `block_bytes` are
    /// those of what can be written at once.
    ///
    /// # Errors
    /// There is no device, or the kernel refuses the file.
    pub fn attach(file: &File, keep: Keep, block_bytes: u32) -> io::Result<Loop> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        let mut last = io::Error::from_raw_os_error(libc::EBUSY);
        for _ in 0..TRIES {
            // SAFETY: no argument.
            let number = check(libc::c_long::from(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) }))? as u32;
            let found = Loop::open_as(number, true)?;
            match found.configure(file, keep, block_bytes) {
                Ok(()) => return Ok(found),
                // Somebody was quicker.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn configure(&self, file: &File, keep: Keep, block_bytes: u32) -> io::Result<()> {
        let kept = if keep == Keep::WhileHeld { FLAG_AUTOCLEAR } else { 0 };
        let attempt = |direct: u32| {
            let info = Info { flags: kept | direct, ..NO_INFO };
            let configuration = Configuration { fd: file.as_raw_fd() as u32, block_bytes, info, reserved: [0; 8] };
            // SAFETY: the structure has the kernel's layout and lives through the call.
            check(libc::c_long::from(unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const configuration) })).map(drop)
        };
        match attempt(FLAG_DIRECT_IO) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => attempt(0),
            done => done,
        }
    }

    /// Opens a device by its number, to ask it: it can be opened so whatever others do with it.
    ///
    /// # Errors
    /// There is none ([`is_gone`]), or it cannot be asked.
    pub fn open(number: u32) -> io::Result<Loop> {
        Loop::open_as(number, false)
    }

    fn open_as(number: u32, write: bool) -> io::Result<Loop> {
        whole_numbers(&read_or_none(Path::new(MAX_PART))?.unwrap_or_default())?;
        let mut options = OpenOptions::new();
        options.read(true).write(write);
        let device = match usual_node(number) {
            Some(path) => options.open(path)?,
            None => open_without_node(number, &options)?,
        };
        Ok(Loop { number, device })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// A path to the device for as long as this is held, for mounting.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        usual_node(self.number).unwrap_or_else(|| PathBuf::from(format!("/proc/self/fd/{}", self.device.as_raw_fd())))
    }

    /// Which file it is; none: it is nobody's.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn file(&self) -> io::Result<Option<FileId>> {
        let mut info = NO_INFO;
        // SAFETY: room for what the kernel writes, which lives through the call.
        let asked = check(libc::c_long::from(unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) }));
        match asked {
            Ok(_) => Ok(Some(FileId { device: info.device, inode: info.inode })),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn bytes(&self) -> io::Result<u64> {
        device_bytes(&self.device)
    }

    /// Gives the device the size that its file has now.
    ///
    /// # Errors
    /// It has no file.
    pub fn take_size(&self) -> io::Result<()> {
        // SAFETY: no argument.
        check(libc::c_long::from(unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_SET_CAPACITY as _) })).map(drop)
    }

    /// Takes the file from it: at once, or when nobody else holds it any more. One that has no file is left as it is.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach(self) -> io::Result<()> {
        // SAFETY: no argument.
        match check(libc::c_long::from(unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_CLR_FD as _) })) {
            Err(error) if error.raw_os_error() != Some(libc::ENXIO) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The devices that have a file whose name is this, with which it is.
///
/// # Errors
/// The kernel's list cannot be read, or a device cannot be asked now.
pub fn attached(name: &str) -> io::Result<Vec<(u32, FileId)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
        let Some(number) = number else { continue };
        // Only one that has a file has this.
        let wanted = match read_or_none(&entry.path().join("loop/backing_file")) {
            Ok(backing) => backing.is_some_and(|backing| is_named(&backing, name.as_bytes())),
            Err(error) if is_passing(&error) => return Err(error),
            // A path that is too long for the kernel to write.
            Err(_) => true,
        };
        if !wanted {
            continue;
        }
        match Loop::open(number).and_then(|device| device.file()) {
            Ok(file) => all.extend(file.map(|file| (number, file))),
            Err(error) if is_passing(&error) => return Err(error),
            // One that is gone meanwhile is nobody's; one that we may not open was not attached here.
            Err(_) => {}
        }
    }
    Ok(all)
}

/// Whether a device is not there any more, as far as an error says.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV | libc::ENOENT))
}

/// Whether an error is of this moment and of ourselves: it says nothing of the device.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EBUSY | libc::EINTR))
}

/// Whether the file behind a device, as the kernel writes its path, has this name.
fn is_named(backing: &[u8], name: &[u8]) -> bool {
    let path = backing.strip_suffix(b"\n").unwrap_or(backing);
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    path.rsplit(|byte| *byte == b'/').next() == Some(name)
}

/// What is in a file of the kernel's; none where it is not, or not any more.
fn read_or_none(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if is_gone(&error) => Ok(None),
        text => text.map(Some),
    }
}

/// Refuses a host whose minor numbers are not those of its loop devices: another's device would be taken for ours.
fn whole_numbers(max_part: &[u8]) -> io::Result<()> {
    match max_part.trim_ascii() {
        b"" | b"0" => Ok(()),
        parts => {
            let parts = String::from_utf8_lossy(parts);
            Err(io::Error::other(format!("loop devices with partitions are not supported: {MAX_PART} is {parts}, and must be 0")))
        }
    }
}

/// The bytes of an open block device.
///
/// # Errors
/// It is none.
pub fn device_bytes(device: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: room for what the kernel writes, which lives through the call.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64 as _, &raw mut bytes) }))?;
    Ok(bytes)
}

/// Makes bytes of an open block device zero, as cheaply as it can be done; where and how many are multiples of its sectors.
///
/// # Errors
/// It cannot be written.
pub fn zero_out(device: &File, at: u64, bytes: u64) -> io::Result<()> {
    let range = [at, bytes];
    // SAFETY: the two numbers live through the call.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), BLKZEROOUT as _, &raw const range) })).map(drop)
}

/// Grows the mounted ext4 in which a file or directory lies to so many blocks; one that has as many is left as it is.
///
/// # Errors
/// It cannot grow, or is larger.
pub fn grow_ext4(inside: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the number lives through the call.
    check(libc::c_long::from(unsafe { libc::ioctl(inside.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &raw const blocks) })).map(drop)
}

/// Makes the file of a loop device, for its owner alone.
///
/// # Errors
/// The kernel refuses.
pub fn make_node(path: &Path, number: u32) -> io::Result<()> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    Ok(mknod(path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, makedev(LOOP_MAJOR, u64::from(number)))?)
}

/// Whether a file is that of a loop device, and of which.
#[must_use]
pub fn node_number(path: &Path) -> Option<u32> {
    let meta = fs::metadata(path).ok().filter(|m| m.file_type().is_block_device())?;
    let rdev = meta.rdev();
    (nix::sys::stat::major(rdev) == LOOP_MAJOR).then(|| nix::sys::stat::minor(rdev) as u32)
}

/// The host's own file of a device, if it has one.
fn usual_node(number: u32) -> Option<PathBuf> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    (node_number(&path) == Some(number)).then_some(path)
}

/// Opens a device of which the host has no file (in a container `/dev` is not the kernel's own): one is made for the moment, where
/// devices may be opened.
fn open_without_node(number: u32, options: &OpenOptions) -> io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Another thread may open the same.
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(format!("/dev/.knarr-loop{number}-{}-{count}", std::process::id()));
    // One that a crash left has the right number: it is in the name.
    match make_node(&path, number) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let device = options.open(&path);
    let _ = fs::remove_file(&path);
    device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_calls_gone_is() {
        let of = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            (is_gone(&error), is_passing(&error))
        };
        for errno in [libc::ENXIO, libc::ENODEV, libc::ENOENT] {
            assert_eq!(of(errno), (true, false), "{errno}");
        }
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EBUSY, libc::EINTR] {
            assert_eq!(of(errno), (false, true), "{errno}");
        }
        assert_eq!(of(libc::EPERM), (false, false));
    }

    #[test]
    fn a_device_is_asked_only_if_its_file_has_the_name() {
        for (backing, named) in [
            ("/data/volumes/a/image\n", true),
            ("/data/volumes/.going-a/image (deleted)\n", true),
            ("image", true),
            ("/srv/other-image\n", false),
            ("/srv/image/disk\n", false),
            ("/srv/image (deleted)x\n", false),
            ("\n", false),
        ] {
            assert_eq!(is_named(backing.as_bytes(), b"image"), named, "{backing:?}");
        }
    }

    #[test]
    fn minor_numbers_that_are_not_those_of_devices_are_refused() {
        assert!(whole_numbers(b"").is_ok() && whole_numbers(b"0\n").is_ok());
        assert!(whole_numbers(b"15\n").unwrap_err().to_string().ends_with("max_part is 15, and must be 0"));
    }
}
