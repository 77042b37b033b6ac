//! What of systemd's logind a node needs: to be asked before the machine goes down (its inhibitors, mode `delay`), and to hear of it.
//!
//! Where logind waits for less time than was asked for, its limit is raised by a file of its own below `/run`: it goes with `knarr down` and
//! with the machine's next start (the original leaves one in `/etc`). Of several files the last by name counts, so a name begins with the
//! limit in it, then tells the cluster and the node: whoever needs the longest time has it, whoever else writes or goes.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use io::Write as _;

use super::bus::Bus;
use super::wire::{Arg, Call};
use super::{Error, Lock, Logind};
use crate::util;

const SERVICE: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const SIGNAL: &str = "PrepareForShutdown";
/// Where the system's bus is, and what may say otherwise.
const SOCKET: &str = "/var/run/dbus/system_bus_socket";
const ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";
/// Where files of logind's settings lie that do not outlive the machine's run.
const SETTINGS: &str = "/run/systemd/logind.conf.d";
const SIGHUP: i32 = 1;

/// What the names of our files there begin with, after which come the limit, whose it is, and the end.
const FILE: &str = "99-knarr";
/// Stands between the parts of a name; no cluster's name has it.
const BETWEEN: char = '+';
const FILE_END: &str = ".conf";

/// logind behind the system's bus.
struct Behind {
    bus: Bus,
    /// Of this node, as files name it.
    owner: String,
}

/// The socket that an address names.
fn socket(address: Option<&str>) -> PathBuf {
    let named = address.unwrap_or_default().split(';').find_map(|one| one.strip_prefix("unix:")?.split(',').find_map(|pair| pair.strip_prefix("path=")));
    PathBuf::from(named.unwrap_or(SOCKET))
}

/// A node (`CLUSTER` or `CLUSTER/NODE`) as files name it.
fn owner(mark: &str) -> String {
    mark.trim_matches('/').replace('/', &BETWEEN.to_string())
}

/// The file of a node for a limit: a longer one comes later.
fn file_name(seconds: u64, owner: &str) -> String {
    format!("{FILE}{BETWEEN}{seconds:010}{BETWEEN}{owner}{FILE_END}")
}

/// Our files in a directory, with whose they are.
fn files(directory: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let ours = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (_, owner) = name.strip_prefix(FILE)?.strip_prefix(BETWEEN)?.strip_suffix(FILE_END)?.split_once(BETWEEN)?;
        Some((entry.path(), owner.to_owned()))
    });
    Ok(ours.collect())
}

/// Removes what a node has set (`CLUSTER/NODE`), or all nodes of a cluster (`CLUSTER`).
///
/// # Errors
/// It cannot be removed.
pub fn purge(mark: &str) -> io::Result<()> {
    remove(Path::new(SETTINGS), at_or_below(mark))
}

/// Whether a file's owner is this node or cluster, or a node of it.
fn at_or_below(mark: &str) -> impl FnMut(&str) -> bool {
    let own = owner(mark);
    move |of| of.strip_prefix(&own).is_some_and(|rest| rest.is_empty() || rest.starts_with(BETWEEN))
}

fn remove(directory: &Path, mut whose: impl FnMut(&str) -> bool) -> io::Result<()> {
    for (file, _) in files(directory)?.into_iter().filter(|(_, owner)| whose(owner)) {
        match fs::remove_file(file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Connects to logind of this machine.
pub(super) async fn connect(mark: String) -> Result<Box<dyn Logind>, Error> {
    let mut bus = Bus::connect(&socket(std::env::var(ADDRESS).ok().as_deref())).await?;
    bus.follow(&format!("type='signal',sender='{SERVICE}',interface='{MANAGER}',member='{SIGNAL}',path='{PATH}'")).await?;
    Ok(Box::new(Behind { bus, owner: owner(&mark) }))
}

#[async_trait]
impl Logind for Behind {
    async fn delay(&mut self) -> Result<Duration, Error> {
        let args = [Arg::Text(MANAGER), Arg::Text("InhibitDelayMaxUSec")];
        let call = Call { to: SERVICE, path: PATH, interface: "org.freedesktop.DBus.Properties", member: "Get", args: &args };
        let (answer, _) = self.bus.call(&call).await?;
        answer.long_variant().map(Duration::from_micros).ok_or_else(|| Error::Refused("InhibitDelayMaxUSec from logind is not a uint64 as expected".into()))
    }

    async fn hold(&mut self, delay: Duration) -> Result<(), Error> {
        let (owner, seconds) = (self.owner.clone(), delay.as_secs());
        util::blocking(move || stand_by(Path::new(SETTINGS), seconds, &owner)).await.map_err(Into::into)
    }

    async fn raise(&mut self, delay: Duration) -> Result<(), Error> {
        let (owner, seconds) = (self.owner.clone(), delay.as_secs());
        util::blocking(move || set(Path::new(SETTINGS), seconds, &owner)).await?;
        let args = [Arg::Text("systemd-logind.service"), Arg::Text("all"), Arg::Number(SIGHUP)];
        let (to, path) = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1");
        self.bus.call(&Call { to, path, interface: "org.freedesktop.systemd1.Manager", member: "KillUnit", args: &args }).await.map(drop)
    }

    async fn inhibit(&mut self) -> Result<Lock, Error> {
        let args = ["shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"].map(Arg::Text);
        let (answer, mut handles) = self.bus.call(&Call { to: SERVICE, path: PATH, interface: MANAGER, member: "Inhibit", args: &args }).await?;
        match answer.handle() {
            Some(at) if at < handles.len() => Ok(Box::new(handles.swap_remove(at))),
            _ => Err(Error::Refused("logind gave no lock".into())),
        }
    }

    async fn turned(&mut self) -> Result<bool, Error> {
        loop {
            let signal = self.bus.signal().await?;
            if let Some(begins) = signal.is_signal(PATH, MANAGER, SIGNAL).then(|| signal.truth()).flatten() {
                return Ok(begins);
            }
        }
    }
}

/// Writes a node's limit, whole or not at all, in the place of a former one. Everybody may read it.
fn set(directory: &Path, seconds: u64, owner: &str) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let path = directory.join(file_name(seconds, owner));
    let draft = directory.join(format!("{FILE}{BETWEEN}{owner}.new"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&draft)?;
    file.write_all(format!("# Made by knarr, for pods to end in time.\n[Login]\nInhibitDelayMaxSec={seconds}\n").as_bytes())?;
    fs::rename(&draft, &path)?;
    for (former, _) in files(directory)?.into_iter().filter(|(file, of)| of == owner && *file != path) {
        fs::remove_file(former)?;
    }
    Ok(())
}

/// Logind waits long enough now: should that be because of another node's file, which may go, this one's stands beside it.
fn stand_by(directory: &Path, seconds: u64, owner: &str) -> io::Result<()> {
    if files(directory)?.is_empty() { Ok(()) } else { set(directory, seconds, owner) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_is_where_the_address_says() {
        for (address, path) in
            [(None, SOCKET), (Some("unix:path=/x/y"), "/x/y"), (Some("tcp:host=h;unix:guid=1,path=/z"), "/z"), (Some("unix:abstract=a"), SOCKET)]
        {
            assert_eq!(socket(address), Path::new(path), "{address:?}");
        }
    }

    #[test]
    fn the_longest_limit_counts_whoever_comes_and_goes() {
        let dir = crate::testing::TempDir::new("logind");
        let settings = dir.path().join("logind.conf.d");
        let names = || {
            let mut names: Vec<String> =
                fs::read_dir(&settings).into_iter().flatten().flatten().map(|e| e.file_name().into_string().expect("a name")).collect();
            names.sort();
            names
        };
        stand_by(&settings, 30, "a").expect("nobody has a file");
        assert!(names().is_empty(), "the machine's own limit is long enough");
        set(&settings, 60, "b").expect("written");
        set(&settings, 90, "a").expect("written");
        assert_eq!(names(), ["99-knarr+0000000060+b.conf", "99-knarr+0000000090+a.conf"]);
        // A node of a whose limit is long enough because of another's file has its own as well, one at a time.
        set(&settings, 20, &owner("a/node-2")).expect("written");
        stand_by(&settings, 40, "a+node-2").expect("written");
        assert_eq!(names(), ["99-knarr+0000000040+a+node-2.conf", "99-knarr+0000000060+b.conf", "99-knarr+0000000090+a.conf"]);
        assert!(fs::read_to_string(settings.join("99-knarr+0000000090+a.conf")).expect("a text").ends_with("\n[Login]\nInhibitDelayMaxSec=90\n"));
        set(&settings, 70, "ab").expect("written");
        remove(&settings, at_or_below("/a/node-2")).expect("removed");
        assert_eq!(names(), ["99-knarr+0000000060+b.conf", "99-knarr+0000000070+ab.conf", "99-knarr+0000000090+a.conf"]);
        set(&settings, 20, &owner("a/node-2")).expect("written");
        remove(&settings, at_or_below("a")).expect("removed");
        assert_eq!(names(), ["99-knarr+0000000060+b.conf", "99-knarr+0000000070+ab.conf"]);
    }
}
