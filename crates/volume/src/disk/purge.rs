//! What volumes left on the host, taken away when their cluster is: mounts and loop devices of the images in its directory, by what
//! the kernel says of them, and of nothing else. The images stay.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use runtime::block::{self, FileId, LOOP_MAJOR, Loop};

use super::store;

/// Somebody who looks at devices (udev) may have one open for a moment: until then it is only marked. For so long that is waited for,
/// and so often looked at.
const CLOSE_MAX: Duration = Duration::from_secs(5);
const CLOSE_LOOK: Duration = Duration::from_millis(50);

/// Takes them away; how many devices there were. Nobody uses the volumes any more.
///
/// # Errors
/// The kernel refuses, or a volume is in use still.
pub fn purge(dir: &Path) -> io::Result<usize> {
    let images: HashMap<FileId, String> = store::images(dir)?.into_iter().map(|(name, file)| Ok((FileId::of(&file)?, name))).collect::<io::Result<_>>()?;
    if images.is_empty() {
        return Ok(0);
    }
    let devices: Vec<u32> = block::attached(store::IMAGE)?.into_iter().filter(|(_, file)| images.contains_key(file)).map(|(number, _)| number).collect();
    // The latest first: mounts may lie on one another. Of a device without a file system it is the file that is mounted: its own
    // place is the kubelet's, which has taken it away.
    for mounted in runtime::mounts::all()?.iter().rev() {
        if mounted.device.0 == LOOP_MAJOR && devices.iter().any(|number| u64::from(*number) == mounted.device.1) {
            umount2(&mounted.at, MntFlags::MNT_DETACH)?;
        }
    }
    for number in &devices {
        // With its last mount it may be gone, and be somebody else's: it is detached only if it is one of ours.
        let device = match Loop::open(*number) {
            Err(error) if block::is_gone(&error) => continue,
            device => device?,
        };
        if device.file()?.is_some_and(|file| images.contains_key(&file)) {
            device.detach()?;
        }
    }
    let until = Instant::now() + CLOSE_MAX;
    loop {
        match block::attached(store::IMAGE)?.into_iter().find_map(|(_, file)| images.get(&file)) {
            None => return Ok(devices.len()),
            Some(name) if Instant::now() >= until => return Err(io::Error::other(format!("volume {name:?} is in use still"))),
            Some(_) => std::thread::sleep(CLOSE_LOOK),
        }
    }
}
