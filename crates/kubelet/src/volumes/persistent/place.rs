//! Where persistent volumes lie on the host, by upstream's layout, and what a former process left there.
//!
//! What is on the host is the truth. `vol_data.json` stands beside a mount before its driver is called and goes when the driver
//! has undone it: whatever is killed in between, the next process finds whose it is and has it undone or done again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use super::spec::sha256;

/// The file that tells whose a volume is.
const DATA: &str = "vol_data.json";
/// More than a driver's name and a volume's handle ever take.
const DATA_BYTES_MAX: u64 = 64 << 10;
/// What upstream gives to directories that lead to volumes; those above are root's alone.
const DIR_MODE: u32 = 0o750;

/// The kubelet's directory.
#[derive(Clone, Debug)]
pub(super) struct Places {
    root: PathBuf,
}

/// What stands in `vol_data.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Data(pub(super) BTreeMap<String, String>);

impl Data {
    pub(super) fn new<const N: usize>(of: [(&str, &str); N]) -> Self {
        Self(of.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    pub(super) fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }
}

/// A volume of a pod that a former process began to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) block: bool,
    pub(super) data: Data,
}

/// A volume that a former process began to stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundStaged {
    /// Of a device: the persistent volume's name.
    pub(super) device: Option<String>,
    pub(super) data: Data,
}

impl Places {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    fn plugin(&self) -> PathBuf {
        self.root.join("plugins/kubernetes.io/csi")
    }

    fn devices(&self) -> PathBuf {
        self.plugin().join("volumeDevices")
    }

    /// Where a volume is staged for all pods.
    pub(super) fn staged(&self, driver: &str, handle: &str) -> PathBuf {
        self.plugin().join(driver).join(sha256(handle)).join("globalmount")
    }

    /// Where a volume is for a pod: a mount, or the file that is the device.
    pub(super) fn target(&self, uid: &str, name: &str, block: bool) -> PathBuf {
        if block { self.published_device(uid, name) } else { self.published(uid, name) }
    }

    /// Where a volume is published for a pod.
    pub(super) fn published(&self, uid: &str, name: &str) -> PathBuf {
        self.pods().join(uid).join("volumes/kubernetes.io~csi").join(name).join("mount")
    }

    /// Where a device is staged for all pods.
    pub(super) fn staged_device(&self, name: &str) -> PathBuf {
        self.devices().join("staging").join(name)
    }

    /// Where a device is published for a pod: a file that is the device.
    pub(super) fn published_device(&self, uid: &str, name: &str) -> PathBuf {
        self.devices().join("publish").join(name).join(uid)
    }

    /// By what a pod's directory tells that it has a device: a link to it.
    pub(super) fn device_link(&self, uid: &str, name: &str) -> PathBuf {
        self.pods().join(uid).join("volumeDevices/kubernetes.io~csi").join(name)
    }

    /// Where it is written whose a device is.
    pub(super) fn device_data(&self, name: &str) -> PathBuf {
        self.devices().join(name).join("data")
    }

    /// All that is kept of a device, once nobody has it.
    pub(super) fn device_dirs(&self, name: &str) -> [PathBuf; 5] {
        let of = self.devices().join(name);
        [self.devices().join("publish").join(name), self.staged_device(name), of.join("data"), of.join("dev"), of]
    }

    /// Where a local volume lies for a pod.
    pub(super) fn local(&self, uid: &str, name: &str) -> PathBuf {
        self.pods().join(uid).join("volumes/kubernetes.io~local-volume").join(name)
    }

    /// Where the file system of a local device is mounted for all pods.
    pub(super) fn local_device(&self, name: &str) -> PathBuf {
        self.root.join("plugins/kubernetes.io/local-volume/mounts").join(name)
    }

    /// Where an NFS export is mounted for a pod.
    pub(super) fn export(&self, uid: &str, name: &str) -> PathBuf {
        self.pods().join(uid).join("volumes/kubernetes.io~nfs").join(name)
    }

    /// The names of a pod's exports.
    pub(super) fn exports(&self, uid: &str) -> Vec<String> {
        names(&self.pods().join(uid).join("volumes/kubernetes.io~nfs"))
    }

    /// The names of a pod's local volumes.
    pub(super) fn locals(&self, uid: &str) -> Vec<String> {
        names(&self.pods().join(uid).join("volumes/kubernetes.io~local-volume"))
    }

    /// The names of the volumes whose devices' file systems may be mounted.
    pub(super) fn local_devices(&self) -> Vec<String> {
        names(&self.root.join("plugins/kubernetes.io/local-volume/mounts"))
    }

    /// The volumes of pods that were begun.
    pub(super) fn found(&self) -> Vec<Found> {
        let mut out = Vec::new();
        for uid in names(&self.pods()) {
            let of = self.pods().join(&uid);
            for name in names(&of.join("volumes/kubernetes.io~csi")) {
                if let Some(data) = load(&of.join("volumes/kubernetes.io~csi").join(&name)) {
                    out.push(Found { uid: uid.clone(), name, block: false, data });
                }
            }
            for name in names(&of.join("volumeDevices/kubernetes.io~csi")) {
                if let Some(data) = load(&self.device_data(&name)) {
                    out.push(Found { uid: uid.clone(), name, block: true, data });
                }
            }
        }
        out
    }

    /// The volumes that were staged, or may have been.
    pub(super) fn found_staged(&self) -> Vec<FoundStaged> {
        let mut out = Vec::new();
        for driver in names(&self.plugin()).into_iter().filter(|d| d != "volumeDevices") {
            let of = self.plugin().join(driver);
            out.extend(names(&of).iter().filter_map(|hash| Some(FoundStaged { device: None, data: load(&of.join(hash))? })));
        }
        for name in names(&self.devices()).into_iter().filter(|n| n != "staging" && n != "publish") {
            if let Some(data) = load(&self.device_data(&name)) {
                out.push(FoundStaged { device: Some(name), data });
            }
        }
        out
    }
}

/// The names in a directory; none of one that is not there.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut out: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    out.sort();
    out
}

/// Makes a directory and what is missing above it.
pub(super) fn make(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)
}

/// Writes whose a volume is; whole or not at all.
pub(super) fn save(dir: &Path, data: &Data) -> io::Result<()> {
    let (at, new) = (dir.join(DATA), dir.join(format!(".{DATA}.new")));
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(&data.0)?)?;
    file.write_all(b"\n")?;
    // Without a sync: what ends this process leaves it whole, and what loses it (the power) takes the mount as well.
    fs::rename(&new, &at)
}

fn load(dir: &Path) -> Option<Data> {
    let mut bytes = Vec::new();
    fs::File::open(dir.join(DATA)).ok()?.take(DATA_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(map) => Some(Data(map)),
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "what tells whose a volume is cannot be read");
            None
        }
    }
}

/// Makes the link by which a pod's directory tells that it has a device.
pub(super) fn link(at: &Path, to: &Path) -> io::Result<()> {
    if fs::read_link(at).is_ok_and(|was| was == to) {
        return Ok(());
    }
    if let Some(parent) = at.parent() {
        make(parent)?;
    }
    absent(fs::remove_file(at))?;
    symlink(to, at)
}

/// What is not there is as good as removed.
pub(super) fn absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes an empty directory, or a file that is left where a device was. Anything else in its place is an error: it may be data.
fn remove_place(at: &Path) -> io::Result<()> {
    match fs::symlink_metadata(at) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(m) if m.is_dir() => absent(fs::remove_dir(at)),
        Ok(_) => absent(fs::remove_file(at)),
    }
}

/// Removes the place of a mount and what tells whose it is, when nothing is mounted there any more (drivers are to remove the place
/// themselves; some do not). Nothing is removed while something is mounted.
pub(super) fn clear(at: &Path) -> io::Result<()> {
    if super::mounts::is_mounted(at)? {
        return Ok(());
    }
    remove_place(at)?;
    let Some(dir) = at.parent() else { return Ok(()) };
    absent(fs::remove_file(dir.join(DATA)))?;
    absent(fs::remove_file(dir.join(format!(".{DATA}.new"))))?;
    absent(fs::remove_dir(dir))
}

/// Removes the file where a device was published, if it is there and nothing is mounted on it.
pub(super) fn clear_device(at: &Path) -> io::Result<()> {
    if super::mounts::is_mounted(at)? {
        return Ok(());
    }
    remove_place(at)
}

/// Removes the place where a volume was for a pod; `link`: of a device, by what the pod's directory tells of it.
pub(super) fn clear_published(at: &Path, link: Option<&Path>) -> io::Result<()> {
    match link {
        Some(link) => clear_device(at).and_then(|()| absent(fs::remove_file(link))),
        None => clear(at),
    }
}

/// Removes what is kept of a device that nobody has.
pub(super) fn clear_devices(dirs: &[PathBuf]) -> io::Result<()> {
    for dir in dirs {
        absent(fs::remove_file(dir.join(DATA)))?;
        absent(fs::remove_file(dir.join(format!(".{DATA}.new"))))?;
        absent(fs::remove_dir(dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn what_was_begun_is_found_again_and_what_is_cleared_is_not() {
        let dir = TempDir::new("places");
        let places = Places::new(dir.path());
        let data = Data::new([("driverName", "d.example"), ("volumeHandle", "h/1")]);
        let (staged, at) = (places.staged("d.example", "h/1"), places.published("uid", "pv"));
        for place in [&staged, &at] {
            make(place).unwrap();
            save(place.parent().unwrap(), &data).unwrap();
        }
        // Two pods have the same device.
        make(&places.device_data("dev")).unwrap();
        save(&places.device_data("dev"), &data).unwrap();
        for uid in ["a", "b"] {
            link(&places.device_link(uid, "dev"), &places.published_device(uid, "dev")).unwrap();
        }
        fs::write(at.parent().unwrap().join("..garbage"), "").unwrap();
        let found = |uid: &str, name: &str, block| Found { uid: uid.into(), name: name.into(), block, data: data.clone() };
        assert_eq!(places.found(), [found("a", "dev", true), found("b", "dev", true), found("uid", "pv", false)]);
        let device = |device: Option<&str>| FoundStaged { device: device.map(str::to_owned), data: data.clone() };
        assert_eq!(places.found_staged(), [device(None), device(Some("dev"))]);
        fs::remove_file(at.parent().unwrap().join("..garbage")).unwrap();
        clear(&at).unwrap();
        clear(&at).unwrap();
        clear(&staged).unwrap();
        clear_devices(&places.device_dirs("dev")).unwrap();
        assert!(places.found().is_empty() && places.found_staged().is_empty());
        assert!(!at.parent().unwrap().exists());
    }

    #[test]
    fn data_in_the_place_of_a_mount_is_never_removed() {
        let dir = TempDir::new("places-data");
        let at = Places::new(dir.path()).published("uid", "pv");
        make(&at).unwrap();
        save(at.parent().unwrap(), &Data::default()).unwrap();
        fs::write(at.join("db"), "precious").unwrap();
        assert!(clear(&at).is_err());
        assert_eq!(fs::read_to_string(at.join("db")).unwrap(), "precious");
        assert_eq!(Places::new(dir.path()).found().len(), 1, "it is tried again");
    }
}
