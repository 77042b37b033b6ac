//! A CSI driver to try clusters with, and the small programs that run beside one in its pod. Its flags are those of
//! kubernetes-csi's hostpath driver and sidecars, so that charts and suites written for those run with it:
//!
//!     driver driver --drivername=NAME --nodeid=NODE --endpoint=SOCKET [--statedir=DIR] [--maxvolumespernode=N] …
//!     driver driver --endpoint=SOCKET --proxy-endpoint=tcp://:PORT     who connects to the socket is led to who connects to the port
//!     driver registrar --csi-address=SOCKET --kubelet-registration-path=SOCKET [--registration=DIR] [--http-endpoint=:PORT]
//!     driver probe --csi-address=SOCKET --health-port=PORT
//!
//! Its volumes are directories and images below `--statedir`, which outlive it. What it is to do wrong is told by a file there
//! (`faults`), a line a call: `NodeStageVolume hang`, `NodePublishVolume lie`, `DeleteVolume 13 words of the error`.

mod controller;
mod grpc;
mod node;
mod proxy;
mod sidecars;
mod state;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use prost::Message;
use tokio::signal::unix::{SignalKind, signal};

use grpc::{Answer, Service, done, message};
use state::State;

/// Flags by their names, however many dashes they have.
pub(crate) struct Flags(BTreeMap<String, String>);

impl Flags {
    fn of(args: impl Iterator<Item = String>) -> Self {
        let flag = |arg: String| {
            let arg = arg.trim_start_matches('-');
            let (name, value) = arg.split_once('=').unwrap_or((arg, "true"));
            (name.to_owned(), value.to_owned())
        };
        Self(args.map(flag).collect())
    }

    pub(crate) fn text(&self, name: &str, otherwise: &str) -> String {
        self.0.get(name).map_or(otherwise, String::as_str).to_owned()
    }

    pub(crate) fn number(&self, name: &str) -> i64 {
        self.text(name, "0").parse().unwrap_or(0)
    }

    /// A socket, with or without its scheme.
    pub(crate) fn socket(&self, name: &str) -> io::Result<PathBuf> {
        let text = self.0.get(name).ok_or_else(|| io::Error::other(format!("--{name} is missing")))?;
        Ok(PathBuf::from(text.strip_prefix("unix://").unwrap_or(text)))
    }
}

/// The driver.
pub(crate) struct Driver {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) volumes_max: i64,
    /// Volumes are attached before they are staged, and a stage without what that gave is refused.
    pub(crate) attaches: bool,
    pub(crate) modifies: bool,
    pub(crate) accepted: Vec<String>,
    pub(crate) state: State,
}

impl Driver {
    fn of(flags: &Flags) -> io::Result<Self> {
        Ok(Self {
            name: flags.text("drivername", "hostpath.csi.k8s.io"),
            node: flags.text("nodeid", "here"),
            volumes_max: flags.number("maxvolumespernode"),
            attaches: flags.text("enable-attach", "true") == "true",
            modifies: flags.text("enable-controller-modify-volume", "false") == "true",
            accepted: flags.text("accepted-mutable-parameter-names", "").split(',').map(str::to_owned).collect(),
            state: State::open(flags.text("statedir", "/csi-data-dir").into())?,
        })
    }

    fn identity(&self, method: &str) -> Answer {
        match method {
            "GetPluginInfo" => message(&wire::PluginInfo { name: self.name.clone(), vendor_version: env!("CARGO_PKG_VERSION").to_owned() }),
            "GetPluginCapabilities" => {
                let service = |kind| wire::PluginCapability { service: Some(wire::Kind { kind }), expansion: None };
                let online = wire::PluginCapability { service: None, expansion: Some(wire::Kind { kind: 1 }) };
                message(&wire::PluginCapabilities { capabilities: vec![service(1), service(2), online] })
            }
            "Probe" => message(&wire::Probed { ready: Some(wire::Yes { value: true }) }),
            other => Err((12, format!("unknown method {other}"))),
        }
    }
}

impl Service for Driver {
    async fn answer(&self, method: &str, body: Bytes) -> Answer {
        let (service, call) = method.split_once('/').unwrap_or((method, ""));
        match self.state.fault(call).as_deref() {
            Some("hang") => std::future::pending().await,
            Some("lie") => return done(),
            Some(fault) => {
                let (code, words) = fault.split_once(' ').unwrap_or((fault, "as it was told to"));
                return Err((code.parse().unwrap_or(13), words.to_owned()));
            }
            None => {}
        }
        match service {
            "csi.v1.Identity" => self.identity(call),
            "csi.v1.Controller" => self.controller(call, body),
            "csi.v1.Node" => self.node(call, body),
            other => Err((12, format!("unknown service {other}"))),
        }
    }
}

/// A request's message.
pub(crate) fn decoded<M: Message + Default>(body: Bytes) -> Result<M, (u32, String)> {
    M::decode(body).map_err(|e| (3, e.to_string()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or_default();
    let flags = Flags::of(args);
    // Who is the first in his container is not ended by a signal that he does not take.
    let mut ends = signal(SignalKind::terminate())?;
    if what == "registrar" {
        return sidecars::register(&flags, &mut ends).await;
    }
    let served = async {
        match what.as_str() {
            "driver" if flags.0.contains_key("proxy-endpoint") => proxy::run(&flags).await,
            "driver" => grpc::serve(Driver::of(&flags)?, &flags.socket("endpoint")?).await,
            "probe" => sidecars::probe(&flags).await,
            other => Err(io::Error::other(format!("{other:?} is neither driver nor registrar nor probe"))),
        }
    };
    tokio::select! {
        served = served => served,
        _ = ends.recv() => Ok(()),
    }
}
