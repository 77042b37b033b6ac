//! A driver of devices of one file, to try the kubelet's side with: whatever claim it is asked to prepare gets a variable `DEVICE` with the
//! claim's name, and `/dev/device`, which is the host's `/dev/null`.
//!
//! `devices NAME [DIRECTORY]` serves at `DIRECTORY/plugins/NAME/dra.sock` and registers by `DIRECTORY/plugins_registry/NAME-reg.sock`; the
//! directory is `/var/lib/kubelet`. Specifications are written to `/var/run/cdi`. Its slices somebody else must publish.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::json;
use tokio::net::UnixListener;
use volume::csi::{Claims, PreparedAll, PreparedClaim, PreparedDevice, UnpreparedAll, UnpreparedClaim, wire};

/// A message, or a code of gRPC and words.
type Answer = Result<Vec<u8>, (u32, String)>;

#[derive(Clone)]
struct Driver {
    name: String,
    endpoint: PathBuf,
}

fn internal(e: impl std::fmt::Display) -> (u32, String) {
    (13, e.to_string())
}

impl Driver {
    fn file(&self, uid: &str) -> PathBuf {
        Path::new("/var/run/cdi").join(format!("{}-{uid}.json", self.name))
    }

    fn prepare(&self, claim: &volume::DeviceClaim) -> Result<PreparedClaim, (u32, String)> {
        let edits = json!({"env": [format!("DEVICE={}", claim.name)], "deviceNodes": [{"path": "/dev/device", "hostPath": "/dev/null"}]});
        let kind = format!("{}/claim", self.name);
        let spec = json!({"cdiVersion": "0.6.0", "kind": kind, "devices": [{"name": claim.uid, "containerEdits": edits}]});
        fs::create_dir_all("/var/run/cdi").map_err(internal)?;
        fs::write(self.file(&claim.uid), spec.to_string()).map_err(internal)?;
        let device = PreparedDevice { cdi: vec![format!("{kind}={}", claim.uid)], ..PreparedDevice::default() };
        Ok(PreparedClaim { devices: vec![device], error: String::new() })
    }

    fn answer(&self, method: &str, body: Bytes) -> Answer {
        let claims = || Claims::decode(body.clone()).map(|all| all.claims).map_err(internal);
        match method.rsplit('/').next().unwrap_or_default() {
            "GetInfo" => {
                let endpoint = self.endpoint.display().to_string();
                let supported_versions = vec!["v1.DRAPlugin".to_owned()];
                Ok(wire::PluginInfo { kind: "DRAPlugin".into(), name: self.name.clone(), endpoint, supported_versions }.encode_to_vec())
            }
            "NotifyRegistrationStatus" => Ok(Vec::new()),
            "NodePrepareResources" => {
                let prepared = claims()?.into_iter().map(|claim| Ok((claim.uid.clone(), self.prepare(&claim)?)));
                Ok(PreparedAll { claims: prepared.collect::<Result<_, _>>()? }.encode_to_vec())
            }
            "NodeUnprepareResources" => {
                let claims = claims()?;
                claims.iter().for_each(|claim| drop(fs::remove_file(self.file(&claim.uid))));
                Ok(UnpreparedAll { claims: claims.into_iter().map(|claim| (claim.uid, UnpreparedClaim::default())).collect() }.encode_to_vec())
            }
            other => Err((12, format!("unknown method {other}"))),
        }
    }
}

async fn answer(driver: Driver, request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let answer = driver.answer(&method, body.slice(body.len().min(5)..));
    println!("{method}: {:?}", answer.as_ref().map(Vec::len));
    let (mut trailers, mut bytes) = (HeaderMap::new(), BytesMut::new());
    match answer {
        Ok(message) => {
            bytes.put_u8(0);
            bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
            bytes.extend_from_slice(&message);
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        Err((code, words)) => {
            trailers.insert("grpc-status", code.into());
            trailers.insert("grpc-message", HeaderValue::from_str(&words).unwrap_or(HeaderValue::from_static("?")));
        }
    }
    let body = Full::new(bytes.freeze()).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed();
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

async fn serve(driver: Driver, at: PathBuf) -> io::Result<()> {
    if let Some(dir) = at.parent() {
        fs::create_dir_all(dir)?;
    }
    let _ = fs::remove_file(&at);
    let listener = UnixListener::bind(&at)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let driver = driver.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(driver.clone(), request));
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().ok_or_else(|| io::Error::other("devices NAME [DIRECTORY]"))?;
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "/var/lib/kubelet".into()));
    let endpoint = dir.join("plugins").join(&name).join("dra.sock");
    let registration = dir.join("plugins_registry").join(format!("{name}-reg.sock"));
    let driver = Driver { name, endpoint: endpoint.clone() };
    tokio::try_join!(serve(driver.clone(), endpoint), serve(driver, registration)).map(drop)
}
