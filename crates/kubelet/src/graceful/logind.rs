//! What of systemd's logind a node needs: to be asked before the machine goes down (its inhibitors, mode `delay`), and to hear of it.
//!
//! Where logind waits for less time than was asked for, its limit is raised by a file of its own below `/run`, which names the cluster: it
//! goes with `knarr down` and with the machine's next start (the original leaves one in `/etc`).

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

/// logind behind the system's bus.
struct Behind {
    bus: Bus,
    settings: PathBuf,
}

/// The socket that an address names.
fn socket(address: Option<&str>) -> PathBuf {
    let named = address.unwrap_or_default().split(';').find_map(|one| one.strip_prefix("unix:")?.split(',').find_map(|pair| pair.strip_prefix("path=")));
    PathBuf::from(named.unwrap_or(SOCKET))
}

/// The file of a cluster's, which is that of all its nodes on this machine (`CLUSTER/NODE`).
fn file(mark: &str) -> PathBuf {
    Path::new(SETTINGS).join(format!("99-knarr-{}.conf", mark.split('/').next().unwrap_or(mark)))
}

/// Removes what a cluster has set.
///
/// # Errors
/// It cannot be removed.
pub fn purge(mark: &str) -> io::Result<()> {
    match fs::remove_file(file(mark)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Connects to logind of this machine.
pub(super) async fn connect(mark: String) -> Result<Box<dyn Logind>, Error> {
    let mut bus = Bus::connect(&socket(std::env::var(ADDRESS).ok().as_deref())).await?;
    bus.follow(&format!("type='signal',sender='{SERVICE}',interface='{MANAGER}',member='{SIGNAL}',path='{PATH}'")).await?;
    Ok(Box::new(Behind { bus, settings: file(&mark) }))
}

#[async_trait]
impl Logind for Behind {
    async fn delay(&mut self) -> Result<Duration, Error> {
        let args = [Arg::Text(MANAGER), Arg::Text("InhibitDelayMaxUSec")];
        let call = Call { to: SERVICE, path: PATH, interface: "org.freedesktop.DBus.Properties", member: "Get", args: &args };
        let (answer, _) = self.bus.call(&call).await?;
        answer.long_variant().map(Duration::from_micros).ok_or_else(|| Error::Refused("InhibitDelayMaxUSec from logind is not a uint64 as expected".into()))
    }

    async fn raise(&mut self, delay: Duration) -> Result<(), Error> {
        let (path, text) = (self.settings.clone(), format!("# Made by knarr, for pods to end in time.\n[Login]\nInhibitDelayMaxSec={}\n", delay.as_secs()));
        util::blocking(move || set(&path, &text)).await?;
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

/// Writes a file of settings, whole or not at all. Everybody may read those.
fn set(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new(SETTINGS));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let draft = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&draft)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&draft, path)
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
}
