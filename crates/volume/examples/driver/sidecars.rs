//! What kubernetes-csi's node-driver-registrar and livenessprobe do: the driver told to the kubelet, and its health to whoever asks by HTTP.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::Signal;
use volume::csi::Channel;

use crate::grpc::{self, Answer, Service, done, message};
use crate::wire::{self, Empty};
use crate::{Flags, decoded};

/// For one call.
const CALL_MAX: Duration = Duration::from_secs(10);
/// Between two questions to a driver that is not there yet.
const PAUSE: Duration = Duration::from_millis(200);

struct Registrar {
    name: String,
    endpoint: String,
}

impl Service for Registrar {
    async fn answer(&self, method: &str, body: Bytes) -> Answer {
        match method {
            "pluginregistration.Registration/GetInfo" => message(&volume::csi::wire::PluginInfo {
                kind: "CSIPlugin".into(),
                name: self.name.clone(),
                endpoint: self.endpoint.clone(),
                supported_versions: vec!["1.0.0".into()],
            }),
            "pluginregistration.Registration/NotifyRegistrationStatus" => {
                println!("{:?}", decoded::<wire::RegistrationStatus>(body)?);
                done()
            }
            other => Err((12, format!("unknown method {other}"))),
        }
    }
}

/// Until it is told to end: then its socket goes, by which the kubelet hears that the driver has gone.
pub(crate) async fn register(flags: &Flags, ends: &mut Signal) -> io::Result<()> {
    let driver = Channel::new(flags.socket("csi-address")?);
    let name = loop {
        match driver.call::<_, wire::PluginInfo>("csi.v1.Identity/GetPluginInfo", &Empty {}, CALL_MAX).await {
            Ok(told) => break told.name,
            Err(error) => println!("{error}"),
        }
        tokio::time::sleep(PAUSE).await;
    };
    let socket = Path::new(&flags.text("registration", "/registration")).join(format!("{name}-reg.sock"));
    let registrar = Registrar { name, endpoint: flags.text("kubelet-registration-path", "") };
    let port = flags.text("http-endpoint", "").rsplit(':').next().and_then(|p| p.parse().ok());
    let health = async {
        match port {
            Some(port) => answer_http(port, None).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        served = async { tokio::try_join!(grpc::serve(registrar, &socket), health) } => served.map(drop),
        _ = ends.recv() => std::fs::remove_file(&socket),
    }
}

pub(crate) async fn probe(flags: &Flags) -> io::Result<()> {
    let port = u16::try_from(flags.number("health-port")).map_err(io::Error::other)?;
    answer_http(port, Some(Channel::new(flags.socket("csi-address")?))).await
}

/// Tells by HTTP whether a driver is well; without one, that this process is.
async fn answer_http(port: u16, driver: Option<Channel>) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let driver = driver.clone();
        tokio::spawn(async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let driver = driver.clone();
                async move {
                    let well = match driver {
                        Some(driver) => driver.call::<_, wire::Probed>("csi.v1.Identity/Probe", &Empty {}, CALL_MAX).await.is_ok(),
                        None => true,
                    };
                    let mut response = Response::new(Full::new(Bytes::from(if well { "ok" } else { "the driver does not answer" })));
                    *response.status_mut() = if well { http::StatusCode::OK } else { http::StatusCode::INTERNAL_SERVER_ERROR };
                    Ok::<_, Infallible>(response)
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
