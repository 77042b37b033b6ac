//! A block device that is to have a file system and has none yet, as upstream's `FormatAndMount` finds out by blkid and mends by mkfs.
//!
//! Where every known file system, partition table and member of an array has its marks there must be nothing but zeros: what is
//! not known here is never written over. Of stale data further in, only what the new file system reads is made zero.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use runtime::block;

use crate::ext4::{self, Geometry, Identity};

/// The marks lie within so many bytes of a device's begin, or of its end.
const HEAD_BYTES: u64 = 1 << 20;
const TAIL_BYTES: u64 = 1 << 18;
/// Read at once.
const PIECE_BYTES: u64 = 1 << 16;

/// Whether nothing is on a device.
///
/// # Errors
/// It cannot be read.
pub fn is_blank(device: &File) -> io::Result<bool> {
    let bytes = block::device_bytes(device)?;
    Ok(is_zero(device, 0, bytes.min(HEAD_BYTES))? && is_zero(device, bytes.saturating_sub(TAIL_BYTES), bytes)?)
}

fn is_zero(device: &File, from: u64, to: u64) -> io::Result<bool> {
    let mut piece = vec![0; PIECE_BYTES as usize];
    let mut at = from;
    while at < to {
        let part = &mut piece[..(to - at).min(PIECE_BYTES) as usize];
        device.read_exact_at(part, at)?;
        if part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += part.len() as u64;
    }
    Ok(true)
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(format!("no random bytes: {error}")))?;
    Ok(bytes)
}

/// What makes a file system another than all others; with a directory in it, or without.
pub(crate) fn identity(directory: &str) -> io::Result<Identity> {
    let (mut uuid, hash_seed) = (random()?, random()?);
    // RFC 9562: version 4, of the usual variant.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let made_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(Identity { uuid, hash_seed, made_s, directory: directory.to_owned() })
}

/// Writes to a device all but its head, which is kept for the end.
struct Rest<'d> {
    device: &'d File,
    head: Vec<u8>,
    at: u64,
}

impl Write for Rest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = match self.head.get_mut(self.at as usize..) {
            Some(head) if !head.is_empty() => {
                let length = bytes.len().min(head.len());
                head[..length].copy_from_slice(&bytes[..length]);
                length
            }
            _ => self.device.write_at(bytes, self.at)?,
        };
        self.at += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Rest<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(at) => self.at = at,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(self.at)
    }
}

/// Gives a device an empty ext4. Its head comes last, in one piece: a device on which this was cut off is still blank, and begun anew.
///
/// # Errors
/// It cannot be written, or has a size that no ext4 has.
pub fn make_ext4(device: &File) -> io::Result<()> {
    let bytes = block::device_bytes(device)?;
    let geometry = Geometry::of(bytes).map_err(|_| io::Error::other(format!("no ext4 has {bytes} bytes")))?;
    let identity = identity("")?;
    for (at, length) in ext4::taken(&geometry, &identity) {
        block::zero_out(device, at, length)?;
    }
    let mut rest = Rest { device, head: vec![0; bytes.min(HEAD_BYTES) as usize], at: 0 };
    ext4::format(&mut rest, &geometry, &identity)?;
    device.sync_all()?;
    device.write_all_at(&rest.head, 0)?;
    device.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::block::{Keep, Loop};
    use std::fs::OpenOptions;
    use std::process::Command;

    #[test]
    fn what_is_on_a_device_is_seen_and_an_empty_one_gets_a_file_system() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root has devices");
            return;
        }
        let path = std::env::temp_dir().join(format!("knarr-blank-{}", std::process::id()));
        let image = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        image.set_len(300 << 20).unwrap();
        let device = Loop::attach(&image, Keep::WhileHeld, 512).unwrap();
        let disk = OpenOptions::new().read(true).write(true).open(device.path()).unwrap();
        assert!(is_blank(&disk).unwrap());
        for at in [0, 510, 0x438, 0x1_0040, (300 << 20) - 8192] {
            disk.write_all_at(b"x", at).unwrap();
            assert!(!is_blank(&disk).unwrap(), "{at}");
            disk.write_all_at(b"\0", at).unwrap();
        }
        // What somebody left further in is in nobody's way.
        for at in (2..299).map(|mib| mib << 20) {
            disk.write_all_at(&[0xff; 8192], at).unwrap();
        }
        assert!(is_blank(&disk).unwrap());
        make_ext4(&disk).unwrap();
        assert!(!is_blank(&disk).unwrap());
        drop((disk, device));
        if let Ok(said) = Command::new("e2fsck").args(["-fn"]).arg(&path).output() {
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
        }
        std::fs::remove_file(path).unwrap();
    }
}
