//! A driver of ours behind a socket, which speaks the same messages over the same protocol, and lies where it is asked to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::wire::{self, Empty};
use super::*;
use crate::driver::{Access, Code, Driver, Failure, Info, Mode, Publish, Secrets, Stage, Volume};
use crate::drivers::Drivers;

/// What a call is answered with: a message, or a code and words.
type Answer = Result<Vec<u8>, (u32, String)>;
/// Answers calls by their methods.
type Answers = dyn Fn(&str, Bytes) -> Answer + Send + Sync;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("knarr-csi-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Serves gRPC at a socket until it is dropped.
struct Server(tokio::task::JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn serve(at: &Path, answers: impl Fn(&str, Bytes) -> Answer + Send + Sync + 'static) -> Server {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(at).unwrap();
    let answers: Arc<Answers> = Arc::new(answers);
    Server(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(Arc::clone(&answers), request));
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }))
}

async fn answer(answers: Arc<Answers>, request: Request<Incoming>) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes().slice(5..);
    let mut trailers = HeaderMap::new();
    let mut bytes = BytesMut::new();
    match answers(&method, body) {
        Ok(message) => {
            bytes.put_u8(0);
            bytes.put_u32(u32::try_from(message.len()).unwrap());
            bytes.extend_from_slice(&message);
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        Err((0, _)) => std::future::pending().await,
        Err((code, words)) => {
            trailers.insert("grpc-status", code.into());
            trailers.insert("grpc-message", HeaderValue::from_str(&words).unwrap());
        }
    }
    let body = Full::new(bytes.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    Ok(Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap())
}

fn capabilities(kinds: &[i32]) -> Vec<u8> {
    let one = |kind: &i32| wire::NodeServiceCapability { rpc: Some(wire::Rpc { kind: *kind }) };
    wire::NodeGetCapabilitiesResponse { capabilities: kinds.iter().map(one).collect() }.encode_to_vec()
}

fn volume() -> Volume {
    let map = |k: &str, v: &str| BTreeMap::from([(k.to_owned(), v.to_owned())]);
    let mode = Mode::Filesystem { fs_type: "xfs".into(), options: vec!["noatime".into()], group: Some(7) };
    Volume { handle: "h".into(), attributes: map("a", "1"), attached: map("lun", "2"), mode, access: Access::SingleNodeMultiWriter }
}

#[tokio::test]
async fn calls_are_told_in_the_specifications_words_and_by_the_charts_paths() {
    let dir = Dir::new("calls");
    let socket = dir.0.join("csi.sock");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let _server = serve(&socket, move |method, body| {
        hears.lock().push((method.to_owned(), body));
        match method {
            "csi.v1.Node/NodeGetCapabilities" => Ok(capabilities(&[1, 2, 3, 5, 6, 99])),
            "csi.v1.Node/NodePublishVolume" => Err((9, "not%20now: %C3%BC".into())),
            "csi.v1.Node/NodeGetVolumeStats" => {
                let usage = |unit, total| wire::VolumeUsage { available: 1, total, used: -5, unit };
                Ok(wire::NodeGetVolumeStatsResponse { usage: vec![usage(1, 9), usage(2, 8), usage(7, 7)] }.encode_to_vec())
            }
            _ => Ok(Vec::new()),
        }
    });
    let root = Root(dir.0.clone());
    let driver = Remote::meet(&socket, &root).await.unwrap();
    let can = driver.abilities();
    assert!(can.stage && can.stats && can.expand && can.single_node_multi_writer && can.mount_group && !can.condition);
    let secrets = Secrets(BTreeMap::from([("password".to_owned(), "x".to_owned())]));
    let (at, target) = (dir.0.join("plugins/g"), dir.0.join("pods/u/mount"));
    driver.stage(Stage { volume: &volume(), at: &at, secrets: &secrets }).await.unwrap();
    let failure = driver.publish(Publish { volume: &volume(), staged: Some(&at), target: &target, readonly: true, secrets: &secrets }).await.unwrap_err();
    assert_eq!(failure, Failure::new(Code::FailedPrecondition, "not now: ü"));
    let stats = driver.stats("h", &target, None).await.unwrap();
    assert_eq!((stats.bytes.unwrap().total, stats.bytes.unwrap().used, stats.inodes.unwrap().total), (9, 0, 8), "what makes no sense is nothing");
    let heard = heard.lock();
    let staged = wire::NodeStageVolumeRequest::decode(heard[1].1.clone()).unwrap();
    assert_eq!(staged.staging_target_path, "/var/lib/kubelet/plugins/g");
    let mount = wire::MountVolume { fs_type: "xfs".into(), mount_flags: vec!["noatime".into()], volume_mount_group: "7".into() };
    let capability = wire::VolumeCapability { access_type: Some(wire::AccessType::Mount(mount)), access_mode: Some(wire::AccessMode { mode: 7 }) };
    assert_eq!(staged.volume_capability, Some(capability));
    assert_eq!((staged.publish_context["lun"].as_str(), staged.volume_context["a"].as_str(), staged.secrets["password"].as_str()), ("2", "1", "x"));
    let published = wire::NodePublishVolumeRequest::decode(heard[2].1.clone()).unwrap();
    assert_eq!(
        (published.target_path.as_str(), published.staging_target_path.as_str(), published.readonly),
        ("/var/lib/kubelet/pods/u/mount", "/var/lib/kubelet/plugins/g", true)
    );
}

#[test]
fn the_kubelets_directory_has_two_names() {
    let root = Root("/data/kubelet".into());
    assert_eq!(root.shown(Path::new("/data/kubelet/pods/u")), Path::new("/var/lib/kubelet/pods/u"));
    assert_eq!(root.real(Path::new("/var/lib/kubelet/plugins/x/csi.sock")), Path::new("/data/kubelet/plugins/x/csi.sock"));
    assert_eq!(root.real(Path::new("/var/lib/kubelet")), Path::new("/data/kubelet"));
    for elsewhere in ["/var/lib/kubelet2/x", "/srv", "relative"] {
        assert_eq!((root.real(Path::new(elsewhere)), root.shown(Path::new(elsewhere))), (elsewhere.into(), elsewhere.into()));
    }
}

#[tokio::test]
async fn a_driver_that_lies_or_hangs_fails_and_costs_nothing() {
    let dir = Dir::new("lies");
    let at = |name: &str| dir.0.join(name);
    let ask_for = |name: &str, limit: Duration| {
        let channel = Channel::new(at(name));
        async move { channel.call::<_, wire::NodeGetInfoResponse>("csi.v1.Node/NodeGetInfo", &Empty {}, limit).await.unwrap_err() }
    };
    let ask = |name: &str| ask_for(name, Duration::from_secs(60));
    let _huge = serve(&at("huge"), |_, _| Ok(vec![0; 5 << 20]));
    let huge = ask("huge").await;
    assert_eq!(huge.code, Code::ResourceExhausted);
    assert!(huge.message.starts_with("grpc: received message larger than max ("), "{huge}");
    let _garbage = serve(&at("garbage"), |_, _| Ok(vec![0xff; 9]));
    assert_eq!(ask("garbage").await.code, Code::Internal);
    let _silent = serve(&at("silent"), |_, _| Err((0, String::new())));
    assert_eq!(ask_for("silent", Duration::from_millis(500)).await, Failure::new(Code::DeadlineExceeded, "context deadline exceeded"));
    let _wordy = serve(&at("wordy"), |_, _| Err((13, "x".repeat(20_000))));
    assert_eq!(ask("wordy").await.message.len(), 4096);
    let refused = ask("nobody").await;
    assert_eq!(refused.code, Code::Unavailable);
    assert!(refused.message.ends_with("connect: no such file or directory\""), "{refused}");
    // Who closes the connection without a word; and who speaks another language.
    let listener = UnixListener::bind(at("closes")).unwrap();
    let closes = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    assert_eq!(ask("closes").await.code, Code::Unavailable);
    closes.abort();
    let long = dir.0.join("d".repeat(120)).join("csi.sock");
    std::fs::create_dir_all(long.parent().unwrap()).unwrap();
    let short = at("s");
    let _far = serve(&short, |_, _| Ok(Vec::new()));
    std::fs::rename(&short, &long).unwrap();
    Channel::new(&long).call::<_, Empty>("x/Y", &Empty {}, Duration::from_secs(60)).await.unwrap();
}

/// What the cluster is told.
#[derive(Default)]
struct Cluster {
    told: watch::Sender<Vec<String>>,
    refuses: Mutex<Option<String>>,
    hangs: bool,
}

#[async_trait]
impl Installs for Cluster {
    async fn install(&self, driver: &str, info: &Info) -> Result<(), String> {
        self.told.send_modify(|all| all.push(format!("+{driver} {}", info.node_id)));
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.refuses.lock().take().map_or(Ok(()), Err)
    }
    async fn uninstall(&self, driver: &str) {
        self.told.send_modify(|all| all.push(format!("-{driver}")));
    }
}

/// A driver with its registrar, as one program.
fn plugin(dir: &Path, file: &str, kind: &str, name: &str, told: watch::Sender<Vec<wire::RegistrationStatus>>) -> [Server; 2] {
    let version = if kind == "DRAPlugin" { "v1.DRAPlugin" } else { "1.0.0" };
    plugin_of(dir, file, (kind, name, version), told)
}

/// One that speaks a version.
fn plugin_of(dir: &Path, file: &str, (kind, name, version): (&str, &str, &str), told: watch::Sender<Vec<wire::RegistrationStatus>>) -> [Server; 2] {
    let endpoint = format!("{SHOWN}/plugins/{file}/csi.sock");
    let node = serve(&dir.join("plugins").join(file).join("csi.sock"), |method, _| match method {
        "csi.v1.Node/NodeGetCapabilities" => Ok(capabilities(&[1])),
        "csi.v1.Node/NodeGetInfo" => Ok(wire::NodeGetInfoResponse { node_id: "n".into(), ..wire::NodeGetInfoResponse::default() }.encode_to_vec()),
        _ => Err((12, String::new())),
    });
    let info = wire::PluginInfo { kind: kind.into(), name: name.into(), endpoint, supported_versions: vec![version.into()] };
    let registrar = serve(&dir.join("plugins_registry").join(format!("{file}-reg.sock")), move |method, body| match method {
        "pluginregistration.Registration/GetInfo" => Ok(info.encode_to_vec()),
        _ => {
            told.send_modify(|all| all.push(wire::RegistrationStatus::decode(body).unwrap()));
            Ok(Vec::new())
        }
    });
    [node, registrar]
}

#[tokio::test]
async fn plugins_come_and_go_with_their_sockets() {
    let dir = Dir::new("registry");
    let (drivers, cluster, stop) = (Drivers::default(), Arc::new(Cluster::default()), CancellationToken::new());
    let statuses = watch::Sender::default();
    let mut heard = statuses.subscribe();
    let mut told = cluster.told.subscribe();
    // One was there before.
    let first = plugin(&dir.0, "first", "CSIPlugin", "first.example", statuses.clone());
    let registry = Registry::new(&dir.0, drivers.clone(), cluster.clone());
    let running = tokio::spawn(registry.run(stop.clone()));
    heard.wait_for(|all| all.len() == 1).await.unwrap();
    assert!(heard.borrow()[0].plugin_registered && drivers.get("first.example").unwrap().abilities().stage);
    assert_eq!(*told.borrow(), ["+first.example n"]);
    // One comes later, is refused by the cluster at first, and tries again.
    *cluster.refuses.lock() = Some("detected topology value collision".into());
    let _second = plugin(&dir.0, "second", "CSIPlugin", "second.example", statuses.clone());
    heard.wait_for(|all| all.len() == 3).await.unwrap();
    assert_eq!(heard.borrow()[1].error, "RegisterPlugin error -- plugin registration failed with err: detected topology value collision");
    assert!(heard.borrow()[2].plugin_registered);
    // Others are told why they are not taken in.
    let _other = plugin(&dir.0, "other", "DRAPlugin", "other.example", statuses.clone());
    let at = dir.0.join("plugins_registry/other-reg.sock");
    heard.wait_for(|all| all.len() == 4).await.unwrap();
    assert_eq!(heard.borrow()[3].error, format!("RegisterPlugin error -- no handler registered for plugin type: DRAPlugin at socket {}", at.display()));
    drop(std::fs::remove_file(&at));
    let _double = plugin(&dir.0, "double", "CSIPlugin", "first.example", statuses.clone());
    heard.wait_for(|all| all.iter().any(|s| s.error.contains("Another driver with the same name"))).await.unwrap();
    // With its socket the driver goes, and its name is free for the other.
    drop(first);
    std::fs::remove_file(dir.0.join("plugins_registry/first-reg.sock")).unwrap();
    told.wait_for(|all| all.contains(&"-first.example".to_owned())).await.unwrap();
    told.wait_for(|all| all.iter().filter(|t| *t == "+first.example n").count() == 2).await.unwrap();
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_driver_that_another_has_replaced_takes_nothing_along() {
    let dir = Dir::new("replaced");
    let (drivers, cluster, stop) = (Drivers::default(), Arc::new(Cluster::default()), CancellationToken::new());
    let statuses = watch::Sender::default();
    let mut heard = statuses.subscribe();
    let _old = plugin(&dir.0, "old", "CSIPlugin", "d.example", statuses.clone());
    let running = tokio::spawn(Registry::new(&dir.0, drivers.clone(), cluster.clone()).run(stop.clone()));
    heard.wait_for(|all| all.len() == 1).await.unwrap();
    let _new = plugin_of(&dir.0, "new", ("CSIPlugin", "d.example", "1.1.0"), statuses.clone());
    heard.wait_for(|all| all.len() == 2).await.unwrap();
    std::fs::remove_file(dir.0.join("plugins_registry/old-reg.sock")).unwrap();
    // What is looked at after the old one went has come, too.
    let _last = plugin(&dir.0, "last", "CSIPlugin", "last.example", statuses.clone());
    heard.wait_for(|all| all.len() == 3).await.unwrap();
    assert_eq!(*cluster.told.borrow(), ["+d.example n", "+d.example n", "+last.example n"]);
    assert!(drivers.get("d.example").is_some());
    // And with the new one it goes.
    std::fs::remove_file(dir.0.join("plugins_registry/new-reg.sock")).unwrap();
    cluster.told.subscribe().wait_for(|all| all.contains(&"-d.example".to_owned())).await.unwrap();
    assert!(drivers.get("d.example").is_none());
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_goes_while_the_cluster_is_told_is_taken_back() {
    let dir = Dir::new("half");
    let (drivers, cluster, stop) = (Drivers::default(), Arc::new(Cluster { hangs: true, ..Cluster::default() }), CancellationToken::new());
    let mut told = cluster.told.subscribe();
    let _half = plugin(&dir.0, "half", "CSIPlugin", "half.example", watch::Sender::default());
    let running = tokio::spawn(Registry::new(&dir.0, drivers.clone(), cluster.clone()).run(stop.clone()));
    told.wait_for(|all| all.len() == 1).await.unwrap();
    std::fs::remove_file(dir.0.join("plugins_registry/half-reg.sock")).unwrap();
    let undone = tokio::time::timeout(Duration::from_secs(60), told.wait_for(|all| all.len() == 2)).await.expect("in time").unwrap().clone();
    assert_eq!(undone, ["+half.example n", "-half.example"]);
    assert!(drivers.get("half.example").is_none());
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Who is told of drivers of devices: their sockets as they come and go.
#[derive(Default)]
struct Devices(watch::Sender<Vec<String>>);

impl DevicePlugins for Devices {
    fn come(&self, driver: &str, plugin: DevicePlugin) -> Result<(), String> {
        let at = format!("{driver} {}", plugin.endpoint().display());
        if self.0.borrow().contains(&at) {
            return Err("it is there".to_owned());
        }
        self.0.send_modify(|all| all.push(at));
        Ok(())
    }

    fn gone(&self, driver: &str, endpoint: &Path) {
        let at = format!("{driver} {}", endpoint.display());
        self.0.send_modify(|all| all.retain(|known| *known != at));
    }
}

#[tokio::test]
async fn drivers_of_devices_come_and_go_with_their_sockets() {
    let dir = Dir::new("devices");
    let (devices, stop) = (Arc::new(Devices::default()), CancellationToken::new());
    let (statuses, mut known) = (watch::Sender::default(), devices.0.subscribe());
    let mut heard = statuses.subscribe();
    let old = plugin(&dir.0, "old", "DRAPlugin", "d.example", statuses.clone());
    let registry = Registry::new(&dir.0, Drivers::default(), Arc::new(Cluster::default())).with_devices(devices.clone());
    let running = tokio::spawn(registry.run(stop.clone()));
    heard.wait_for(|all| all.len() == 1).await.unwrap();
    assert!(heard.borrow()[0].plugin_registered);
    let at = |file: &str| format!("d.example {}", dir.0.join("plugins").join(file).join("csi.sock").display());
    assert_eq!(*known.borrow(), [at("old")]);
    // While one is replaced there are two; the socket that goes takes its own along.
    let _new = plugin(&dir.0, "new", "DRAPlugin", "d.example", statuses.clone());
    heard.wait_for(|all| all.len() == 2).await.unwrap();
    assert_eq!(*known.borrow(), [at("old"), at("new")]);
    drop(old);
    std::fs::remove_file(dir.0.join("plugins_registry/old-reg.sock")).unwrap();
    known.wait_for(|all| *all == [at("new")]).await.unwrap();
    // It comes back under its name.
    std::fs::remove_file(dir.0.join("plugins/old/csi.sock")).unwrap();
    let _again = plugin(&dir.0, "old", "DRAPlugin", "d.example", statuses.clone());
    known.wait_for(|all| *all == [at("new"), at("old")]).await.unwrap();
    // Another cannot have that socket; it is told why.
    let info = wire::PluginInfo {
        kind: "DRAPlugin".into(),
        name: "d.example".into(),
        endpoint: format!("{SHOWN}/plugins/new/csi.sock"),
        supported_versions: vec!["v1.DRAPlugin".into()],
    };
    let told = statuses.clone();
    let _thief = serve(&dir.0.join("plugins_registry/thief-reg.sock"), move |method, body| match method {
        "pluginregistration.Registration/GetInfo" => Ok(info.encode_to_vec()),
        _ => {
            told.send_modify(|all| all.push(wire::RegistrationStatus::decode(body).unwrap()));
            Ok(Vec::new())
        }
    });
    let why = "RegisterPlugin error -- plugin registration failed with err: it is there";
    heard.wait_for(|all| all.iter().any(|status| !status.plugin_registered && status.error == why)).await.unwrap();
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_may_have_several_answers_and_a_connection_is_held() {
    let dir = Dir::new("follow");
    let at = dir.0.join("s");
    // Two messages in one frame: as a stream they may come in any pieces.
    let two = |size: usize| [&[0, 0, 0, 0, 2, 8, 1][..], &[0, 0, 0, 0, 2, 8, 2][..], &vec![0; size]].concat();
    let (bytes, many) = (two(0), two(3));
    let raw = Arc::new(Mutex::new(bytes));
    let (listener, sends) = (UnixListener::bind(&at).unwrap(), Arc::clone(&raw));
    let server = tokio::spawn(async move {
        let mut open = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let sends = Arc::clone(&sends);
            open.spawn(async move {
                let service = service_fn(move |_: Request<Incoming>| {
                    let body = Full::new(Bytes::from(sends.lock().clone()));
                    let end: HeaderMap = [(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))].into_iter().collect();
                    let body = body.with_trailers(std::future::ready(Some(Ok(end))));
                    async move { Ok::<_, Infallible>(Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()) }
                });
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let channel = Channel::new(&at);
    let mut heard = Vec::new();
    channel.follow("x/Y", &Empty {}, |capability: wire::Rpc| heard.push(capability.kind)).await.unwrap();
    assert_eq!(heard, [1, 2]);
    // What is cut off in the middle of a message is no message, and the call ended well all the same: the trailers say so.
    *raw.lock() = many;
    channel.follow("x/Y", &Empty {}, |capability: wire::Rpc| heard.push(capability.kind)).await.unwrap();
    assert_eq!(heard, [1, 2, 1, 2]);
    *raw.lock() = [&[0, 0xff, 0xff, 0xff, 0xff][..]].concat();
    let huge = channel.follow("x/Y", &Empty {}, |_: wire::Rpc| ()).await.unwrap_err();
    assert_eq!(huge.code, Code::ResourceExhausted);
    let (connected, said) = tokio::sync::oneshot::channel();
    let held = tokio::spawn(async move { channel.hold(move || connected.send(()).unwrap()).await });
    said.await.unwrap();
    assert!(!held.is_finished());
    server.abort();
    held.await.unwrap().unwrap();
    assert_eq!(Channel::new(dir.0.join("nobody")).hold(|| ()).await.unwrap_err().code, Code::Unavailable);
}

#[tokio::test]
async fn what_is_built_in_keeps_its_name() {
    let dir = Dir::new("built-in");
    let (drivers, cluster, stop) = (Drivers::default(), Arc::new(Cluster::default()), CancellationToken::new());
    let statuses = watch::Sender::default();
    let mut heard = statuses.subscribe();
    let socket = dir.0.join("own.sock");
    let _own = serve(&socket, |_, _| Ok(capabilities(&[])));
    drivers.add("own.example", Arc::new(Remote::meet(&socket, &Root(dir.0.clone())).await.unwrap()));
    let _thief = plugin(&dir.0, "thief", "CSIPlugin", "own.example", statuses.clone());
    let running = tokio::spawn(Registry::new(&dir.0, drivers.clone(), cluster.clone()).run(stop.clone()));
    heard.wait_for(|all| !all.is_empty()).await.unwrap();
    assert!(!heard.borrow()[0].plugin_registered && heard.borrow()[0].error.contains("Another driver with the same name is already registered"));
    assert!(!drivers.get("own.example").unwrap().abilities().stage && cluster.told.borrow().is_empty());
    stop.cancel();
    running.await.unwrap().unwrap();
}
