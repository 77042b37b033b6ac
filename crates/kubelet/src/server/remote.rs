//! Exec and attach: the streams of a process, over WebSocket channels or SPDY streams; and `run`, which answers at once.
//!
//! A connection ends with its client, whatever becomes of the command: one without a terminal runs on, without the connection, and
//! only so many of them for each container ([`Orphans`]).

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::orphans::Orphans;
use super::spdy_conn::{self, Stream};
use super::websocket::{self, Channels};
use super::{Answer, Call, Server, text};
use crate::cri::{Container, ContainerId, CriError, SharedRuntime, Streams};
use crate::pod::plan::find_spec;

/// Bytes in the pipes between process and connection.
const PIPE: usize = 64 << 10;
/// Time in which a client must open the SPDY streams it announced (upstream's default).
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// Protocols over WebSocket, and over SPDY, that carry a status object.
const WEBSOCKET: [&str; 7] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v5.base64.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io", ""];
const SPDY: [&str; 3] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];
/// Longest run of `/run`.
const RUN_TIMEOUT: Duration = Duration::from_secs(600);

/// What is to run.
#[derive(Clone)]
enum Job {
    Exec(Vec<String>),
    Attach,
}

#[derive(Clone, Copy)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

fn wanted(call: &Call) -> Result<Wanted, Answer> {
    let tty = call.flag("tty");
    let w = Wanted {
        stdin: call.flag("input") || call.flag("stdin"),
        stdout: call.flag("output") || call.flag("stdout"),
        stderr: (call.flag("error") || call.flag("stderr")) && !tty,
        tty,
    };
    if w.stdin || w.stdout || w.stderr { Ok(w) } else { Err(text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr")) }
}

/// The container of `/VERB/NAMESPACE/POD[/UID]/CONTAINER`.
fn target(server: &Server, call: &Call) -> Result<Container, Answer> {
    let (ns, pod, uid, name) = match call.parts.as_slice() {
        [_, ns, pod, name] => (ns, pod, None, name),
        [_, ns, pod, uid, name] => (ns, pod, Some(uid.as_str()), name),
        _ => return Err(text(StatusCode::NOT_FOUND, "404 page not found\n")),
    };
    let handle = server.pod(ns, pod, uid)?;
    server.running(&handle, name)
}

/// `/exec/…`.
pub(super) async fn exec(server: &Server, call: Call) -> Answer {
    let command = call.all("command");
    start(server, call, Job::Exec(command)).await
}

/// `/attach/…`.
pub(super) async fn attach(server: &Server, call: Call) -> Answer {
    start(server, call, Job::Attach).await
}

/// `POST /checkpoint/NAMESPACE/POD/CONTAINER`: this runtime takes none, and says so to who names a container that is there.
pub(super) fn checkpoint(server: &Server, call: &Call) -> Answer {
    let [_, ns, pod, name] = call.parts.as_slice() else { return text(StatusCode::NOT_FOUND, "404: Page Not Found") };
    let handle = match server.pod(ns, pod, None) {
        Ok(handle) => handle,
        Err(answer) => return answer,
    };
    if find_spec(&handle.pod(), name).is_none() {
        return text(StatusCode::NOT_FOUND, format!("container {name} does not exist"));
    }
    let why = "rpc error: code = Unimplemented desc = method CheckpointContainer not implemented";
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("checkpointing of {ns}/{pod}/{name} failed ({why})"))
}

/// `POST /run/NAMESPACE/POD[/UID]/CONTAINER?cmd=…`: output and errors in one body.
pub(super) async fn run(server: &Server, call: Call) -> Answer {
    let container = match target(server, &call) {
        Ok(c) => c,
        Err(answer) => return answer,
    };
    let command: Vec<String> = call.param("cmd").unwrap_or_default().split(' ').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    match server.cx.runtime.exec_sync(&container.id, command.clone(), Some(RUN_TIMEOUT)).await {
        Ok(out) if out.exit_code != 0 => {
            let why = format!("command '{}' exited with {}: {}", command.join(" "), out.exit_code, String::from_utf8_lossy(&out.stderr));
            text(StatusCode::INTERNAL_SERVER_ERROR, why)
        }
        Ok(out) => text(StatusCode::OK, [out.stdout, out.stderr].concat()),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

async fn start(server: &Server, mut call: Call, job: Job) -> Answer {
    let (wanted, container) = match wanted(&call).and_then(|w| Ok((w, target(server, &call)?))) {
        Ok(both) => both,
        Err(answer) => return answer,
    };
    if matches!(&job, Job::Exec(command) if command.is_empty()) {
        return text(StatusCode::BAD_REQUEST, "you must specify a command\n");
    }
    let runtime = server.cx.runtime.clone();
    let session = Session { runtime, id: container.id, job, wanted, orphans: server.orphans.clone() };
    if websocket::wanted(call.request.headers()) {
        return match websocket::accept(&mut call.request, &WEBSOCKET) {
            Ok((protocol, answer, upgrade)) => {
                tokio::spawn(async move {
                    if let Some(socket) = websocket::open(upgrade).await {
                        over_websocket(session, socket, protocol).await;
                    }
                });
                answer
            }
            Err(answer) => answer,
        };
    }
    match spdy_upgrade(&mut call, &SPDY, "X-Stream-Protocol-Version") {
        Ok((answer, upgrade)) => {
            tokio::spawn(async move {
                if let Ok(upgraded) = upgrade.await {
                    over_spdy(session, TokioIo::new(upgraded)).await;
                }
            });
            answer
        }
        Err(answer) => answer,
    }
}

/// Answers an upgrade to SPDY/3.1 with the first protocol version that both know.
pub(super) fn spdy_upgrade(call: &mut Call, known: &[&'static str], header: &'static str) -> Result<(Answer, hyper::upgrade::OnUpgrade), Answer> {
    let request = &mut call.request;
    if !dial::websocket::upgrade_wanted(request.headers()) {
        return Err(text(StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required\n"));
    }
    let spdy = request.headers().get("upgrade").and_then(|u| u.to_str().ok()).is_some_and(|u| u.eq_ignore_ascii_case("SPDY/3.1"));
    if !spdy {
        return Err(text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request\n"));
    }
    let offered: Vec<String> =
        request.headers().get_all(header).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(|v| v.trim().to_owned()).collect();
    let chosen = known.iter().find(|k| offered.iter().any(|o| o == *k)).copied();
    if chosen.is_none() && !offered.is_empty() {
        return Err(text(
            StatusCode::FORBIDDEN,
            format!("unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {known:?}\n"),
        ));
    }
    let upgrade = hyper::upgrade::on(request);
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert("connection", HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
    if let Some(v) = chosen {
        answer.headers_mut().insert(header, HeaderValue::from_static(v));
    }
    Ok((answer, upgrade))
}

struct Session {
    runtime: SharedRuntime,
    id: ContainerId,
    job: Job,
    wanted: Wanted,
    orphans: Orphans,
}

impl Session {
    /// Runs to the end; none when `gone` resolves first: then there is nobody to be told, and the connection is to be dropped at
    /// once. A command without a terminal runs on without it, as with other runtimes, if there is a place for it: it ends by
    /// itself when it writes to nobody.
    async fn run(self, streams: Streams, gone: impl Future<Output = ()>) -> Option<Value> {
        let bound = self.wanted.tty || matches!(self.job, Job::Attach);
        let (id, orphans) = (self.id.clone(), self.orphans);
        let mut work = Box::pin(async move {
            match self.job {
                Job::Exec(command) => self.runtime.exec(&self.id, command, streams).await,
                Job::Attach => self.runtime.attach(&self.id, streams).await.map(|()| 0),
            }
        });
        tokio::select! {
            biased;
            done = &mut work => return Some(status(done)),
            () = gone => {}
        }
        // Who has no place is ended: dropped, it is killed.
        if let Some(place) = orphans.enter(&id).filter(|_| !bound) {
            tokio::spawn(async move {
                let _place = place;
                if let Err(error) = work.await {
                    tracing::debug!(%error, "a command whose client had gone");
                }
            });
        }
        None
    }
}

/// The status object that ends a session, as upstream writes it.
fn status(done: Result<i32, CriError>) -> Value {
    match done {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
        Err(e) => json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: error executing command in container: {e}"), "details": {"causes": [{"message": e.to_string()}]}}),
    }
}

/// Terminal sizes, each a JSON object `{"Width":80,"Height":24}`.
fn sizes(from: impl AsyncRead + Unpin + Send + 'static) -> mpsc::Receiver<(u16, u16)> {
    /// Longest object.
    const MAX: usize = 4096;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut from = from;
        let mut held = Vec::new();
        let mut part = [0; 512];
        while let Ok(n @ 1..) = from.read(&mut part).await {
            held.extend_from_slice(&part[..n]);
            let mut objects = serde_json::Deserializer::from_slice(&held).into_iter::<Value>();
            let mut newest = None;
            while let Some(Ok(v)) = objects.next() {
                let get = |name: &str| {
                    // As Go reads a struct's fields: in whatever letters.
                    let (_, value) = v.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                    value.as_u64().and_then(|n| u16::try_from(n).ok())
                };
                // A client that has no size says zero: the terminal, which may be others' as well, stays as it is (containerd's `handleResizing`).
                newest = get("Width").zip(get("Height")).filter(|(width, height)| *width > 0 && *height > 0).or(newest);
            }
            let used = objects.byte_offset();
            held.drain(..used);
            if held.len() > MAX {
                return;
            }
            if let Some(size) = newest
                && sender.send(size).await.is_err()
            {
                return;
            }
        }
    });
    receiver
}

fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(PIPE)
}

async fn over_websocket<S>(session: Session, socket: tokio_tungstenite::WebSocketStream<S>, protocol: &str)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let w = session.wanted;
    let mut inputs = Vec::new();
    let mut streams = Streams { stdin: None, stdout: None, stderr: None, resize: None, tty: w.tty };
    if w.stdin {
        let (ours, theirs) = pipe();
        inputs.push((websocket::STDIN, ours));
        streams.stdin = Some(Box::new(theirs));
    }
    if w.tty {
        let (ours, theirs) = pipe();
        inputs.push((websocket::RESIZE, ours));
        streams.resize = Some(sizes(theirs));
    }
    let channels = Channels::start(socket, protocol.contains("base64"), inputs);
    let mut pumps = JoinSet::new();
    if w.stdout {
        // An empty message tells the client that the connection stands.
        let _ = channels.send(websocket::STDOUT, &[]).await;
        let (ours, theirs) = pipe();
        streams.stdout = Some(Box::new(theirs));
        pumps.spawn(channels.pump(websocket::STDOUT, ours));
    }
    if w.stderr {
        let (ours, theirs) = pipe();
        streams.stderr = Some(Box::new(theirs));
        pumps.spawn(channels.pump(websocket::STDERR, ours));
    }
    let closed = channels.closed();
    let Some(end) = session.run(streams, closed.cancelled_owned()).await else { return channels.hang_up() };
    while pumps.join_next().await.is_some() {}
    // Before version 4 the channel carried words, and those only of an error.
    let last = if protocol.starts_with('v') { end.to_string() } else { end["message"].as_str().unwrap_or_default().to_owned() };
    if !last.is_empty() {
        let _ = channels.send(websocket::ERROR, last.as_bytes()).await;
    }
    channels.close().await;
}

async fn over_spdy(session: Session, io: impl AsyncRead + AsyncWrite + Send + 'static) {
    let w = session.wanted;
    let mut incoming = spdy_conn::serve(io);
    let expected = 1 + usize::from(w.stdin) + usize::from(w.stdout) + usize::from(w.stderr) + usize::from(w.tty);
    let mut got: Vec<Stream> = Vec::new();
    let all = async {
        while got.len() < expected {
            match incoming.recv().await {
                Some(s) => got.push(s),
                None => return,
            }
        }
    };
    if tokio::time::timeout(STREAMS_TIMEOUT, all).await.is_err() || got.len() < expected {
        return;
    }
    let mut take = |kind: &str| got.iter().position(|s| s.header("streamtype") == Some(kind)).map(|i| got.swap_remove(i));
    let error = take("error");
    let mut streams = Streams { stdin: None, stdout: None, stderr: None, resize: None, tty: w.tty };
    // Dropped, the pumps end: nothing of the connection is left then.
    let (mut keep, mut pumps) = (Vec::new(), JoinSet::new());
    if let Some(s) = take("stdin").filter(|_| w.stdin) {
        streams.stdin = Some(Box::new(s.reader));
        keep.push(s.writer);
    }
    if let Some(s) = take("resize").filter(|_| w.tty) {
        streams.resize = Some(sizes(s.reader));
        keep.push(s.writer);
    }
    for (kind, wanted) in [("stdout", w.stdout), ("stderr", w.stderr)] {
        if let Some(s) = take(kind).filter(|_| wanted) {
            let (ours, theirs) = pipe();
            if kind == "stdout" {
                streams.stdout = Some(Box::new(theirs));
            } else {
                streams.stderr = Some(Box::new(theirs));
            }
            pumps.spawn(s.writer.pump(ours));
        }
    }
    // Whatever else the client opens is of no use; the end of the connection is what is waited for.
    let gone = async { while incoming.recv().await.is_some() {} };
    let Some(end) = session.run(streams, gone).await else { return };
    while pumps.join_next().await.is_some() {}
    if let Some(e) = error {
        let _ = e.writer.send(end.to_string().into()).await;
        e.writer.close().await;
    }
    for writer in keep {
        writer.close().await;
    }
    drop(incoming);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use futures_util::StreamExt;
    use tokio::io::AsyncWriteExt;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    #[test]
    fn the_exit_code_is_a_cause() {
        let v = status(Ok(3));
        assert_eq!(v["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(v["reason"], "NonZeroExitCode");
        assert_eq!(status(Ok(0))["status"], "Success");
    }

    /// How many run on, at one container, after so many clients have gone.
    async fn run_on(tty: bool, clients: usize) -> usize {
        let (orphans, runtime) = (Orphans::default(), Arc::new(crate::testing::FakeRuntime::new(crate::config::Clock::default())));
        runtime.set_exec(0, true);
        for _ in 0..clients {
            let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty };
            let (id, job) = (ContainerId("c".into()), Job::Exec(vec!["sleep".into()]));
            let session = Session { runtime: runtime.clone(), id, job, wanted, orphans: orphans.clone() };
            let (client, server) = tokio::io::duplex(1 << 16);
            let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
            let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
            let before = runtime.execs();
            let serving = tokio::spawn(over_websocket(session, server, "v5.channel.k8s.io"));
            while runtime.execs() == before {
                tokio::task::yield_now().await;
            }
            client.close(None).await.unwrap();
            serving.await.unwrap();
            // Nothing is left of the connection, though the command runs on.
            while let Some(Ok(_)) = client.next().await {}
        }
        runtime.execs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_with_its_client_and_few_commands_run_on() {
        assert_eq!(run_on(false, 3).await, 3);
        assert_eq!(run_on(false, 40).await, 16);
        assert_eq!(run_on(true, 3).await, 0, "with a terminal it ends with its client");
    }

    #[tokio::test]
    async fn sizes_may_come_in_pieces() {
        let (mut write, read) = tokio::io::duplex(256);
        let mut sizes = sizes(read);
        write.write_all(b"{\"Width\":80,\"Hei").await.unwrap();
        write.write_all(b"ght\":24}\n").await.unwrap();
        assert_eq!(sizes.recv().await, Some((80, 24)));
        write.write_all(b"{\"Width\":100,\"Height\":30}").await.unwrap();
        assert_eq!(sizes.recv().await, Some((100, 30)));
        write.write_all(b"{\"height\":33,\"width\":44}").await.unwrap();
        assert_eq!(sizes.recv().await, Some((44, 33)));
        write.write_all(b"{\"Width\":0,\"Height\":0}{\"Width\":0,\"Height\":9}").await.unwrap();
        drop(write);
        assert_eq!(sizes.recv().await, None, "a terminal has lines and columns");
    }
}
