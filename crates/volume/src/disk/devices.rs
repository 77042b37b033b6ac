//! Which loop device an image is.
//!
//! An image that has a device is never given another: two mounts of one file system by two devices would destroy it, also where the
//! first is only held by a container that does not end. What a former process attached is found once, by asking the kernel of all
//! devices; later ones are remembered, and believed only after the kernel has said so again.

use std::collections::HashMap;
use std::fs::File;
use std::io;

use parking_lot::Mutex;
use runtime::block::{self, FileId, Keep, Loop};

use super::store::IMAGE;

/// The devices of this store's images.
#[derive(Debug, Default)]
pub(super) struct Devices {
    known: Mutex<Option<HashMap<FileId, u32>>>,
}

impl Devices {
    /// The device that an image is. It stays so while what is answered is held.
    pub(super) fn find(&self, image: &File) -> io::Result<Option<Loop>> {
        let id = FileId::of(image)?;
        let mut known = self.known.lock();
        let known = match &mut *known {
            Some(known) => known,
            unread => unread.insert(block::attached(IMAGE)?.into_iter().map(|(number, file)| (file, number)).collect()),
        };
        let Some(number) = known.get(&id) else { return Ok(None) };
        match Loop::open(*number) {
            Ok(device) if device.file()? == Some(id) => return Ok(Some(device)),
            // Whoever could not ask does not know: it may be this image still.
            Err(error) if !block::is_gone(&error) => return Err(error),
            _ => {}
        }
        // It was given back.
        known.remove(&id);
        Ok(None)
    }

    /// The same; one is attached where there is none.
    pub(super) fn attach(&self, image: &File, keep: Keep, block_bytes: u32) -> io::Result<Loop> {
        if let Some(device) = self.find(image)? {
            return Ok(device);
        }
        let device = Loop::attach(image, keep, block_bytes)?;
        self.known.lock().get_or_insert_default().insert(FileId::of(image)?, device.number());
        Ok(device)
    }
}
