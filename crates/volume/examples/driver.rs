//! A CSI driver of one file, to try the kubelet's side with: its volumes are file systems in memory, one a handle.
//!
//! `driver NAME [DIRECTORY]` serves the node service at `DIRECTORY/plugins/NAME/csi.sock` and registers by
//! `DIRECTORY/plugins_registry/NAME-reg.sock`; the directory is `/var/lib/kubelet`. In a pod it wants to be privileged, with the directory's
//! `pods` and `plugins` mounted from the host with propagation `Bidirectional`, and `plugins_registry` as it is.

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
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;
use prost::Message;
use tokio::net::UnixListener;
use volume::csi::wire;

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

fn decoded<M: Message + Default>(body: Bytes) -> Result<M, (u32, String)> {
    M::decode(body).map_err(|e| (3, e.to_string()))
}

fn is_mounted(at: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().any(|l| l.split(' ').nth(4) == at.to_str())
}

fn gone(at: &Path) -> Answer {
    while is_mounted(at) {
        umount2(at, MntFlags::empty()).map_err(internal)?;
    }
    Ok(Vec::new())
}

impl Driver {
    fn answer(&self, method: &str, body: Bytes) -> Answer {
        match method {
            "pluginregistration.Registration/GetInfo" => {
                let endpoint = self.endpoint.display().to_string();
                Ok(wire::PluginInfo { kind: "CSIPlugin".into(), name: self.name.clone(), endpoint, supported_versions: vec!["1.0.0".into()] }.encode_to_vec())
            }
            "pluginregistration.Registration/NotifyRegistrationStatus" => {
                println!("{:?}", decoded::<wire::RegistrationStatus>(body)?);
                Ok(Vec::new())
            }
            "csi.v1.Node/NodeGetCapabilities" => {
                let one = |kind| wire::NodeServiceCapability { rpc: Some(wire::Rpc { kind }) };
                Ok(wire::NodeGetCapabilitiesResponse { capabilities: vec![one(1), one(2), one(3)] }.encode_to_vec())
            }
            "csi.v1.Node/NodeGetInfo" => {
                Ok(wire::NodeGetInfoResponse { node_id: "here".into(), max_volumes_per_node: 16, ..wire::NodeGetInfoResponse::default() }.encode_to_vec())
            }
            _ => self.volume(method, body),
        }
    }

    fn volume(&self, method: &str, body: Bytes) -> Answer {
        match method {
            "csi.v1.Node/NodeStageVolume" => {
                let asked: wire::NodeStageVolumeRequest = decoded(body)?;
                let at = Path::new(&asked.staging_target_path);
                if !is_mounted(at) {
                    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=16m,mode=0755")).map_err(internal)?;
                }
                Ok(Vec::new())
            }
            "csi.v1.Node/NodeUnstageVolume" => gone(Path::new(&decoded::<wire::NodeUnstageVolumeRequest>(body)?.staging_target_path)),
            "csi.v1.Node/NodePublishVolume" => {
                let asked: wire::NodePublishVolumeRequest = decoded(body)?;
                let at = Path::new(&asked.target_path);
                fs::create_dir_all(at).map_err(internal)?;
                if is_mounted(at) {
                    return Ok(Vec::new());
                }
                // What lives with its pod was never staged.
                match asked.staging_target_path.as_str() {
                    "" => mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=16m,mode=0755")).map_err(internal)?,
                    from => mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(internal)?,
                }
                Ok(Vec::new())
            }
            "csi.v1.Node/NodeUnpublishVolume" => {
                let at = decoded::<wire::NodeUnpublishVolumeRequest>(body)?.target_path;
                gone(Path::new(&at))?;
                let _ = fs::remove_dir(&at);
                Ok(Vec::new())
            }
            "csi.v1.Node/NodeExpandVolume" => {
                let asked: wire::NodeExpandVolumeRequest = decoded(body)?;
                let bytes = asked.capacity_range.map_or(0, |c| c.required_bytes);
                let (at, size) = (Path::new(&asked.volume_path), format!("size={bytes}"));
                mount(None::<&str>, at, None::<&str>, MsFlags::MS_REMOUNT, Some(size.as_str())).map_err(internal)?;
                Ok(wire::NodeExpandVolumeResponse { capacity_bytes: bytes }.encode_to_vec())
            }
            "csi.v1.Node/NodeGetVolumeStats" => {
                let asked: wire::NodeGetVolumeStatsRequest = decoded(body)?;
                let s = statvfs(Path::new(&asked.volume_path)).map_err(internal)?;
                let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                let bytes = |blocks: u64| number(blocks.saturating_mul(s.fragment_size()));
                let used = bytes(s.blocks() - s.blocks_free());
                let usage = vec![
                    wire::VolumeUsage { total: bytes(s.blocks()), used, available: bytes(s.blocks_available()), unit: 1 },
                    wire::VolumeUsage { total: number(s.files()), used: number(s.files() - s.files_free()), available: number(s.files_free()), unit: 2 },
                ];
                Ok(wire::NodeGetVolumeStatsResponse { usage }.encode_to_vec())
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
    let name = args.next().ok_or_else(|| io::Error::other("driver NAME [DIRECTORY]"))?;
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "/var/lib/kubelet".into()));
    let endpoint = dir.join("plugins").join(&name).join("csi.sock");
    let registration = dir.join("plugins_registry").join(format!("{name}-reg.sock"));
    let driver = Driver { name, endpoint: endpoint.clone() };
    tokio::try_join!(serve(driver.clone(), endpoint), serve(driver, registration)).map(drop)
}
