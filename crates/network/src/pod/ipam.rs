//! Who has which address: one small file per address of the first family in the node's volatile directory. (Of a second family a pod has
//! the address at the same place of that range.)
//!
//! A file is made (exclusively) before its address is used and removed after it is free again, so that a process killed at any
//! moment finds what it gave away. Addresses are given in turn, so that one which was freed comes last: what still talks
//! to the pod that had it does not reach another.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::HostPort;
use crate::cidr::Net;
use crate::{Error, Result};

/// Name of the file that says which address was given last.
const LAST: &str = "last";

/// What is known of an address that is given away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The sandbox that has it.
    pub(super) sandbox: String,
    /// The host's end of its link.
    pub(super) link: String,
    /// It has an address of the second family as well. (Versions that knew IPv6 as such alone called it so.)
    #[serde(default, alias = "ipv6", skip_serializing_if = "std::ops::Not::not")]
    pub(super) both: bool,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<HostPort>,
    /// Everything is in place.
    #[serde(default)]
    pub(super) ready: bool,
}

/// The addresses of a node's range.
#[derive(Debug)]
pub(super) struct Ipam {
    dir: PathBuf,
    range: Net,
    /// The highest place that a pod gets.
    highest: u32,
    records: BTreeMap<IpAddr, Record>,
    sandboxes: HashMap<String, IpAddr>,
    last: u32,
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = format!("{what} {}", path.display());
    move |e| Error::io(what, e)
}

impl Ipam {
    /// Reads what was given away before. Files that a crash left half-written belong to no answered attachment.
    /// `highest`: the highest place that a pod gets.
    pub(super) fn open(dir: PathBuf, range: Net, highest: u32) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed("make", &dir))?;
        let mut this = Self { dir, range, highest, records: BTreeMap::new(), sandboxes: HashMap::new(), last: 1 };
        for entry in fs::read_dir(&this.dir).map_err(failed("read", &this.dir))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name == LAST {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                this.last = text.trim().parse().ok().and_then(|a| range.offset(a)).unwrap_or(1);
                continue;
            }
            let record: Option<Record> = fs::read(entry.path()).ok().and_then(|b| serde_json::from_slice(&b).ok());
            match (name.parse::<IpAddr>(), record) {
                (Ok(address), Some(record)) if range.contains(address) => {
                    this.sandboxes.insert(record.sandbox.clone(), address);
                    this.records.insert(address, record);
                }
                _ => fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?,
            }
        }
        Ok(this)
    }

    /// The address of a sandbox.
    pub(super) fn find(&self, sandbox: &str) -> Option<(IpAddr, &Record)> {
        let address = self.sandboxes.get(sandbox)?;
        Some((*address, self.records.get(address)?))
    }

    /// Who has an address.
    pub(super) fn get(&self, address: IpAddr) -> Option<&Record> {
        self.records.get(&address)
    }

    /// All that is given away.
    pub(super) fn records(&self) -> impl Iterator<Item = (IpAddr, &Record)> {
        self.records.iter().map(|(a, r)| (*a, r))
    }

    /// Gives a sandbox the next free address. The first two and the last of the range are never a pod's.
    pub(super) fn allocate(&mut self, record: Record) -> Result<IpAddr> {
        let mut at = self.last;
        for _ in 2..=self.highest {
            at = if at >= self.highest { 2 } else { at + 1 };
            let Some(address) = self.range.nth(at) else { break };
            if self.records.contains_key(&address) {
                continue;
            }
            // First of all: whatever becomes of this address, the next attempt is at the next.
            self.last = at;
            match self.write(address, &record) {
                // A file that nobody here made: somebody's who died between making and filling it.
                Err(e) if e.errno() == Some(libc::EEXIST) => continue,
                other => other?,
            }
            if let Err(e) = self.keep_last(address) {
                let _ = fs::remove_file(self.dir.join(address.to_string()));
                return Err(e);
            }
            self.sandboxes.insert(record.sandbox.clone(), address);
            self.records.insert(address, record);
            return Ok(address);
        }
        Err(Error::Exhausted(self.range.to_string()))
    }

    /// In one step: whoever starts after a crash begins behind this address or the one before.
    fn keep_last(&self, address: IpAddr) -> Result<()> {
        let (path, new) = (self.dir.join(LAST), self.dir.join(format!("{LAST}.new")));
        fs::write(&new, address.to_string()).map_err(failed("write", &new))?;
        fs::rename(&new, &path).map_err(failed("replace", &path))
    }

    fn write(&self, address: IpAddr, record: &Record) -> Result<()> {
        let path = self.dir.join(address.to_string());
        let text = serde_json::to_vec(record).map_err(|e| Error::Config(e.to_string()))?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed("make", &path))?;
        file.write_all(&text).map_err(failed("write", &path)).inspect_err(|_| drop(fs::remove_file(&path)))
    }

    /// Changes what is known of an address, in one step for whoever reads the file.
    pub(super) fn update(&mut self, address: IpAddr, record: Record) -> Result<()> {
        let (path, new) = (self.dir.join(address.to_string()), self.dir.join(format!("{address}.new")));
        let text = serde_json::to_vec(&record).map_err(|e| Error::Config(e.to_string()))?;
        fs::write(&new, text).map_err(failed("write", &new))?;
        fs::rename(&new, &path).map_err(failed("replace", &path))?;
        self.records.insert(address, record);
        Ok(())
    }

    /// Frees an address.
    pub(super) fn free(&mut self, address: IpAddr) -> Result<()> {
        let path = self.dir.join(address.to_string());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(e)),
            _ => {}
        }
        if let Some(record) = self.records.remove(&address) {
            self.sandboxes.remove(&record.sandbox);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sandbox: &str) -> Record {
        Record { sandbox: sandbox.into(), link: format!("kn{sandbox}"), both: false, ports: Vec::new(), ready: false }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn open(dir: &Path, range: &str) -> Ipam {
        let range: Net = range.parse().unwrap();
        Ipam::open(dir.to_owned(), range, range.last_place()).unwrap()
    }

    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("knarr-ipam-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn addresses_come_in_turn_and_outlive_the_process() {
        let (dir, range) = (directory("turn"), "10.1.0.0/29");
        let mut ipam = open(&dir, range);
        let first = ipam.allocate(record("a")).unwrap();
        assert_eq!(first, ip("10.1.0.2"));
        ipam.allocate(record("b")).unwrap();
        ipam.free(first).unwrap();
        fs::write(dir.join("10.1.0.6"), b"{\"sandb").unwrap();

        let mut ipam = open(&dir, range);
        assert_eq!(ipam.find("b").unwrap().0, ip("10.1.0.3"));
        assert!(ipam.find("a").is_none());
        let rest = ["c", "d", "e", "f"].map(|s| ipam.allocate(record(s)).unwrap());
        assert_eq!(rest, ["10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.2"].map(ip), "the freed one comes last; the half-written one is free");
        assert!(matches!(ipam.allocate(record("g")), Err(Error::Exhausted(_))));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_update_is_found_again() {
        let (dir, range) = (directory("update"), "10.1.0.0/24");
        let mut ipam = open(&dir, range);
        let address = ipam.allocate(record("a")).unwrap();
        ipam.update(address, Record { ready: true, ..record("a") }).unwrap();
        assert!(open(&dir, range).find("a").unwrap().1.ready);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_cannot_be_written_keeps_no_address() {
        let (dir, range) = (directory("full"), "10.1.0.0/29");
        let mut ipam = open(&dir, range);
        // Of an unknown hand: passed over.
        fs::write(dir.join("10.1.0.2"), "").unwrap();
        assert_eq!(ipam.allocate(record("a")).unwrap(), ip("10.1.0.3"));
        // As a full disk: the last step fails, since a directory is in its place.
        fs::create_dir(dir.join("last.new")).unwrap();
        ipam.allocate(record("b")).unwrap_err();
        assert!(!dir.join("10.1.0.4").exists() && ipam.find("b").is_none());
        fs::remove_dir(dir.join("last.new")).unwrap();
        assert_eq!(ipam.allocate(record("b")).unwrap(), ip("10.1.0.5"), "and the next one works");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_range_of_ipv6_ends_where_the_second_familys_does() {
        let dir = directory("six");
        let range: Net = "fd00:1::/64".parse().unwrap();
        let mut ipam = Ipam::open(dir.clone(), range, 3).unwrap();
        let given = ["a", "b"].map(|s| ipam.allocate(record(s)).unwrap());
        assert_eq!(given, ["fd00:1::2", "fd00:1::3"].map(ip));
        assert!(matches!(ipam.allocate(record("c")), Err(Error::Exhausted(_))));
        // A former version's word for it.
        fs::write(dir.join("fd00:1::9"), br#"{"sandbox": "old", "link": "kn", "ipv6": true, "ready": true}"#).unwrap();
        let mut ipam = open(&dir, "fd00:1::/64");
        assert_eq!(ipam.find("old").map(|(ip, record)| (ip, record.both)), Some((ip("fd00:1::9"), true)));
        assert_eq!(ipam.allocate(record("c")).unwrap(), ip("fd00:1::4"));
        fs::remove_dir_all(dir).unwrap();
    }
}
