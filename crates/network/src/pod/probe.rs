//! Whether pods' packets get through: asked by sending some, from network namespaces that are thrown away again.
//!
//! What rules there are tells only as much as one can read of them: another family's, iptables' older tables, programs on
//! links and hooks refuse as well. So two namespaces are joined to the network as pods are, and one sends to the other and to
//! the node. What goes further, to the outside, nobody here can answer for.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{AttachRequest, Inner};
use crate::nft::Family;
use crate::{Error, Result, netns};

/// What is begun with this is no sandbox of a pod.
const NAME: &str = "probe-";
/// For a packet to come through; a busy machine keeps it waiting for some milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two of them.
const AGAIN: Duration = Duration::from_millis(50);

/// What gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// From one pod to another.
    pub pods: bool,
    /// From a pod to the node, where DNS and the API are.
    pub node: bool,
}

/// A namespace that is joined to the network, with a thread that keeps it.
struct Guest<'a> {
    network: &'a Inner,
    sandbox: String,
    address: IpAddr,
    path: PathBuf,
    /// Dropped, it ends the thread, and with it the namespace.
    _keep: mpsc::Sender<()>,
}

impl<'a> Guest<'a> {
    fn join(network: &'a Inner, name: &str) -> Result<Guest<'a>> {
        let sandbox = format!("{NAME}{name}-{}", std::process::id());
        let (tell, told) = mpsc::channel();
        let (keep, kept) = mpsc::channel::<()>();
        std::thread::Builder::new()
            .name("probe".into())
            .spawn(move || {
                let _ = netns::fresh(move || {
                    let _ = tell.send(nix::unistd::gettid());
                    let _ = kept.recv();
                    Ok(())
                });
            })
            .map_err(|e| Error::io("start a thread", e))?;
        let thread = told.recv().map_err(|_| Error::Closed)?;
        let path = PathBuf::from(format!("/proc/self/task/{thread}/ns/net"));
        let request = AttachRequest { sandbox_id: sandbox.clone(), host_ports: Vec::new() };
        let address = network.attach(&path, request)?.ips[0];
        Ok(Guest { network, sandbox, address, path, _keep: keep })
    }

    fn socket(&self) -> Result<UdpSocket> {
        netns::within(&self.path, || bind(Family::of(self.address).unspecified()))
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let gone = self.network.detach(&self.sandbox).and_then(|link| match link {
            Some(link) => self.network.remove_link(&self.sandbox, &link),
            None => Ok(()),
        });
        if let Err(error) = gone {
            tracing::warn!(sandbox = self.sandbox, %error, "what the network was tried with stays until the next start");
        }
    }
}

fn bind(address: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0)).and_then(|s| s.set_nonblocking(true).map(|()| s));
    socket.map_err(|e| Error::io("listen for a packet", e))
}

/// Which of these hear something from `from`.
fn heard(from: &UdpSocket, to: [(&UdpSocket, IpAddr); 2]) -> Result<[bool; 2]> {
    let port = |s: &UdpSocket| s.local_addr().map(|a| a.port()).map_err(|e| Error::io("ask for a socket's port", e));
    let at = [(to[0].1, port(to[0].0)?), (to[1].1, port(to[1].0)?)];
    let (begun, mut heard) = (Instant::now(), [false; 2]);
    while heard != [true; 2] && begun.elapsed() < PATIENCE {
        for i in (0..2).filter(|i| !heard[*i]).collect::<Vec<_>>() {
            // A refusal on the way is an answer too: it is not heard.
            let _ = from.send_to(b"?", at[i]);
            let _ = from.recv_from(&mut [0; 8]);
        }
        std::thread::sleep(AGAIN.min(begun.elapsed() / 4 + Duration::from_millis(1)));
        for i in 0..2 {
            match to[i].0.recv_from(&mut [0; 8]) {
                Ok(_) => heard[i] = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(Error::io("hear a packet", e)),
            }
        }
    }
    Ok(heard)
}

impl Inner {
    /// Sends packets as pods do. Blocks for milliseconds, or for seconds where something refuses.
    pub(super) fn probe(&self) -> Result<Passage> {
        let (a, b) = (Guest::join(self, "a")?, Guest::join(self, "b")?);
        let node = bind(self.gateway)?;
        let (from, to) = (a.socket()?, b.socket()?);
        let [pods, node] = heard(&from, [(&to, b.address), (&node, self.gateway)])?;
        Ok(Passage { pods, node })
    }
}
