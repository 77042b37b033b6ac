//! The driver's volumes on disk: a directory each, by its identifier, with `size`, and `data` or an image. What is there is the truth.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use runtime::block::{self, FileId, Keep, Loop};

use crate::grpc::internal;

type Result<T> = std::result::Result<T, (u32, String)>;

/// Of a volume for which nobody asked a size.
const BYTES: u64 = 1 << 30;
/// What a device writes at once.
const SECTOR_BYTES: u32 = 512;

pub(crate) struct State {
    dir: PathBuf,
}

/// A volume that is there.
pub(crate) struct Found {
    id: String,
    dir: PathBuf,
}

impl State {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// What is to go wrong with a call.
    pub(crate) fn fault(&self, call: &str) -> Option<String> {
        let text = fs::read_to_string(self.dir.join("faults")).ok()?;
        text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == call).map(|(_, fault)| fault.to_owned())
    }

    pub(crate) fn find(&self, id: &str) -> Result<Found> {
        if id.is_empty() || id.starts_with('.') || id.contains('/') {
            return Err((3, format!("{id:?} is no volume's name")));
        }
        let dir = self.dir.join(id);
        if dir.join("size").exists() { Ok(Found { id: id.to_owned(), dir }) } else { Err((5, format!("volume {id} is not there"))) }
    }

    /// Makes a volume, or takes the one that is there.
    pub(crate) fn make(&self, id: &str, block: bool, least: u64, from: Option<&Found>) -> Result<Found> {
        match self.find(id) {
            Ok(there) if there.bytes()? < least => return Err((6, format!("volume {id} is there, and smaller"))),
            Ok(there) => return Ok(there),
            Err((5, _)) => {}
            Err(error) => return Err(error),
        }
        let bytes = if least == 0 { BYTES } else { least };
        let made = Found { id: id.to_owned(), dir: self.dir.join(id) };
        let make = || {
            // What a crash left is begun anew.
            let _ = fs::remove_dir_all(&made.dir);
            fs::create_dir_all(&made.dir)?;
            if block {
                let image = File::create(made.image())?;
                image.set_len(bytes)?;
                if let Some(from) = from {
                    let length = io::copy(&mut File::open(from.image())?, &mut &image)?;
                    image.set_len(bytes.max(length))?;
                }
            } else {
                fs::create_dir(made.data())?;
                open_to_all(&made.data())?;
                if let Some(from) = from {
                    copy(&from.data(), &made.data())?;
                }
            }
            made.note_bytes(bytes)
        };
        make().map_err(internal)?;
        Ok(made)
    }

    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        match self.find(id) {
            Ok(there) => {
                there.detach()?;
                fs::remove_dir_all(there.dir).map_err(internal)
            }
            Err((5, _)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How many volumes are attached.
    pub(crate) fn attached(&self) -> usize {
        fs::read_dir(&self.dir).into_iter().flatten().flatten().filter(|e| e.path().join("attached").exists()).count()
    }
}

fn open_to_all(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))
}

/// Copies directories and plain files.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let (entry, kind) = entry.and_then(|e| e.file_type().map(|kind| (e, kind)))?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

impl Found {
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn image(&self) -> PathBuf {
        // The kernel tells a device's file by its name.
        self.dir.join(format!("{}.img", self.id))
    }

    pub(crate) fn is_block(&self) -> bool {
        self.image().exists()
    }

    pub(crate) fn bytes(&self) -> Result<u64> {
        let text = fs::read_to_string(self.dir.join("size")).map_err(internal)?;
        text.trim().parse().map_err(internal)
    }

    fn note_bytes(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.dir.join("size.new"), bytes.to_string())?;
        fs::rename(self.dir.join("size.new"), self.dir.join("size"))
    }

    /// Makes it as large as that; never smaller.
    pub(crate) fn grow(&self, least: u64) -> Result<u64> {
        let bytes = self.bytes()?.max(least);
        if self.is_block() {
            let image = OpenOptions::new().write(true).open(self.image()).map_err(internal)?;
            image.set_len(bytes).map_err(internal)?;
        }
        self.note_bytes(bytes).map_err(internal)?;
        Ok(bytes)
    }

    pub(crate) fn note_attached(&self, is: bool) -> Result<()> {
        let note = self.dir.join("attached");
        if is {
            return fs::write(note, "").map_err(internal);
        }
        let _ = fs::remove_file(note);
        Ok(())
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.dir.join("attached").exists()
    }

    /// Its device, if it has one.
    pub(crate) fn device(&self) -> Result<Option<Loop>> {
        if !self.is_block() {
            return Ok(None);
        }
        let find = || {
            let own = FileId::of(&File::open(self.image())?)?;
            let name = format!("{}.img", self.id);
            let number = block::attached(&name)?.into_iter().find(|(_, file)| *file == own).map(|(number, _)| number);
            number.map(Loop::open).transpose()
        };
        find().map_err(internal)
    }

    pub(crate) fn attach(&self) -> Result<Loop> {
        if let Some(device) = self.device()? {
            return Ok(device);
        }
        let image = OpenOptions::new().read(true).write(true).open(self.image()).map_err(internal)?;
        Loop::attach(&image, Keep::Always, SECTOR_BYTES).map_err(internal)
    }

    pub(crate) fn detach(&self) -> Result<()> {
        self.device()?.map_or(Ok(()), |device| device.detach().map_err(internal))
    }
}
