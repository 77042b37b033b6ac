//! What is in an image archive, and where.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek};

use serde::{Deserialize, Serialize};

use super::space::Space;
use super::tar::{Kind, Reader};
use super::unpack::{COPY_BYTES, copy, decompressed};
use crate::error::{Error, Result};

/// An archive has some members for each image in it.
const MEMBERS_MAX: usize = 200_000;
/// The names of a layout and of `docker save` have less than a hundred bytes.
const NAME_BYTES_MAX: usize = 4096;

/// An archive's members by their names.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// The archive was compressed: places are in the expanded one.
    pub(super) expanded: bool,
    /// Position and size.
    pub(super) files: HashMap<String, (u64, u64)>,
    pub(super) links: HashMap<String, String>,
}

/// Reads an archive; a compressed one is written to `expanded` first.
pub(super) fn read(file: File, mut expanded: File) -> Result<Index> {
    let bad = |e: io::Error| Error::Image(format!("no tar archive: {e}"));
    let mut magic = [0; 4];
    let n = std::os::unix::fs::FileExt::read_at(&file, &mut magic, 0).map_err(bad)?;
    let mut index = Index { expanded: super::unpack::is_compressed(&magic[..n]), ..Index::default() };
    if !index.expanded {
        list(file, &mut index).map_err(bad)?;
        return Ok(index);
    }
    let mut expand = |file: File| -> io::Result<()> {
        copy(&mut decompressed(file)?, &mut expanded, &mut vec![0; COPY_BYTES], &mut Space::default())?;
        expanded.rewind()
    };
    expand(file).map_err(|e| Error::Image(format!("it cannot be decompressed: {e}")))?;
    list(expanded, &mut index).map_err(bad)?;
    Ok(index)
}

fn list(file: File, index: &mut Index) -> io::Result<()> {
    let mut reader = Reader::new(io::BufReader::with_capacity(64 << 10, file));
    while let Some(member) = reader.next()? {
        if member.path.len() > NAME_BYTES_MAX || member.link.len() > NAME_BYTES_MAX || index.files.len() + index.links.len() >= MEMBERS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has too many or too long names"));
        }
        let name = normal(&String::from_utf8_lossy(&member.path));
        let target = String::from_utf8_lossy(&member.link);
        match member.kind {
            // A sparse file's content lies in pieces: no tool writes an image's parts so.
            Kind::File if member.sparse.is_none() => drop(index.files.insert(name, (member.position, member.stored))),
            Kind::HardLink => drop(index.links.insert(name, normal(&target))),
            Kind::Symlink => {
                let base = name.rsplit_once('/').map_or("", |(dir, _)| dir);
                let target = normal(&format!("{base}/{target}"));
                index.links.insert(name, target);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Without `.` and empty parts; `..` takes one away.
pub(super) fn normal(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
