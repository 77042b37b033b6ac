//! Port-forward: SPDY streams in pairs (`error` and `data`), each pair a connection to a port of the pod.
//!
//! Comes as SPDY itself, as SPDY inside the messages of a WebSocket (`SPDY/3.1+portforward.k8s.io`, kubectl's default since
//! 1.31), and as plain WebSocket channels (`v4.channel.k8s.io`, two channels a port).

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::spdy_conn::{self, Stream, StreamWriter};
use super::websocket::{self, Channels};
use super::{Answer, Call, Server, remote, text};
use crate::cri::{SandboxId, SharedRuntime};

/// Protocol of the streams.
const PROTOCOL: &str = "portforward.k8s.io";
/// SPDY in a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Plain WebSocket channels.
const CHANNELS: [&str; 4] = [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];
/// Bytes in the pipes.
const PIPE: usize = 64 << 10;
/// How long a pod may be silent after the client has ended its half.
const HALF_OPEN_MAX: Duration = Duration::from_secs(1);
/// Halves of pairs whose other half has not come.
const MAX_HALVES: usize = 256;

/// `/portForward/NAMESPACE/POD[/UID]`.
pub(super) async fn serve(server: &Server, mut call: Call) -> Answer {
    let (ns, pod, uid) = match call.parts.as_slice() {
        [_, ns, pod] => (ns, pod, None),
        [_, ns, pod, uid] => (ns, pod, Some(uid.as_str())),
        _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    let handle = match server.pod(ns, pod, uid) {
        Ok(h) => h,
        Err(answer) => return answer,
    };
    let sandbox = server.cx.runtime.pod_sandboxes(&handle.uid).into_iter().filter(|s| s.ready).max_by_key(|s| s.created);
    let Some(sandbox) = sandbox.map(|s| s.id) else { return text(StatusCode::NOT_FOUND, format!("pod {pod:?} has no running sandbox\n")) };
    let runtime = server.cx.runtime.clone();
    if websocket::wanted(call.request.headers()) {
        let ports: Vec<u16> =
            call.query.iter().filter(|(n, _)| n == "port" || n == "ports").flat_map(|(_, v)| v.split(',')).filter_map(|p| p.parse().ok()).collect();
        return match websocket::accept(&mut call.request, &CHANNELS) {
            Ok((protocol, answer, upgrade)) => {
                tokio::spawn(async move {
                    let Some(socket) = websocket::open(upgrade).await else { return };
                    if protocol == TUNNEL {
                        pairs(spdy_conn::serve(tunnel(socket)), &runtime, &sandbox).await;
                    } else {
                        channels(socket, protocol.contains("base64"), ports, &runtime, &sandbox).await;
                    }
                });
                answer
            }
            Err(answer) => answer,
        };
    }
    match remote::spdy_upgrade(&mut call, &[PROTOCOL], "X-Stream-Protocol-Version") {
        Ok((answer, upgrade)) => {
            tokio::spawn(async move {
                if let Ok(upgraded) = upgrade.await {
                    pairs(spdy_conn::serve(TokioIo::new(upgraded)), &runtime, &sandbox).await;
                }
            });
            answer
        }
        Err(answer) => answer,
    }
}

/// The bytes inside a WebSocket's binary messages as one pipe.
fn tunnel(socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let (mut read, mut write) = tokio::io::split(ours);
    let (mut sink, mut source) = socket.split();
    let up = tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(b) if write.write_all(&b).await.is_err() => break,
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; PIPE];
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            if sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                // The other way may wait for room that nobody makes any more: the pipe ends on both.
                up.abort();
                return;
            }
        }
        let _ = sink.send(websocket::goodbye()).await;
    });
    theirs
}

/// Joins the halves of pairs by their request and forwards each pair.
async fn pairs(mut incoming: mpsc::Receiver<Stream>, runtime: &SharedRuntime, sandbox: &SandboxId) {
    let mut halves: HashMap<String, Stream> = HashMap::new();
    while let Some(stream) = incoming.recv().await {
        let port = stream.header("port").unwrap_or_default().to_owned();
        let kind = stream.header("streamtype").unwrap_or_default().to_owned();
        // Old clients give no request: the data stream follows the error stream.
        let request = stream
            .header("requestid")
            .map_or_else(|| if kind == "error" { stream.id.to_string() } else { stream.id.saturating_sub(2).to_string() }, str::to_owned);
        let Some(other) = halves.remove(&request) else {
            if halves.len() >= MAX_HALVES {
                stream.writer.reset().await;
            } else {
                halves.insert(request, stream);
            }
            continue;
        };
        let (error, data) = if kind == "data" { (other, stream) } else { (stream, other) };
        let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
        tokio::spawn(async move { forward(error, data, &port, &runtime, &sandbox).await });
    }
}

/// Sends what the pod says. When the client has ended its half the pod is heard as long as it goes on, and no longer than a
/// moment when it is silent: many servers do not close when the client does.
async fn down(mut from: impl AsyncRead + Unpin, to: StreamWriter, over: CancellationToken) {
    let mut block = BytesMut::with_capacity(PIPE);
    loop {
        let got = tokio::select! {
            got = from.read_buf(&mut block) => got,
            () = async { over.cancelled().await; tokio::time::sleep(HALF_OPEN_MAX).await } => return,
        };
        if !matches!(got, Ok(1..)) || to.send(block.split().freeze()).await.is_err() {
            return;
        }
        block.reserve(PIPE);
    }
}

async fn forward(error: Stream, data: Stream, port: &str, runtime: &SharedRuntime, sandbox: &SandboxId) {
    let connected = match port.parse::<u16>().ok().filter(|p| *p > 0) {
        Some(p) => runtime.port_forward(sandbox, p).await.map_err(|e| e.to_string()),
        None => Err(format!("unable to parse {port:?} as a port")),
    };
    match connected {
        Ok(connection) => {
            let (read, mut write) = tokio::io::split(connection);
            let Stream { mut reader, writer, gone, .. } = data;
            let over = CancellationToken::new();
            let up = async {
                let _ = tokio::io::copy(&mut reader, &mut write).await;
                let _ = write.shutdown().await;
                over.cancel();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = up => {}
                // When the pod's side has ended there is nobody left to hear the client.
                () = down(read, writer.clone(), over.clone()) => {}
                () = gone.cancelled() => {}
            }
            writer.close().await;
            error.writer.close().await;
        }
        Err(e) => {
            let _ = error.writer.send(format!("error forwarding port {port} to pod: {e}").into()).await;
            error.writer.close().await;
            data.writer.close().await;
        }
    }
}

/// Two channels a port: data and errors. Each begins with the port's number, little-endian.
async fn channels(socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>, base64: bool, ports: Vec<u16>, runtime: &SharedRuntime, sandbox: &SandboxId) {
    /// Ports in one connection; channels are numbered by a byte.
    const MAX_PORTS: usize = 100;
    let ports: Vec<u16> = ports.into_iter().take(MAX_PORTS).collect();
    let (mut inputs, mut pipes) = (Vec::new(), Vec::new());
    for i in 0..ports.len() {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        inputs.push((u8::try_from(2 * i).unwrap_or(u8::MAX), ours));
        pipes.push(theirs);
    }
    let channels = Channels::start(socket, base64, inputs);
    // What a pod does not read must not outlive who sends it: both directions end with the connection.
    let (mut ends, mut ups) = (JoinSet::new(), JoinSet::new());
    for (i, (port, mut from_client)) in ports.into_iter().zip(pipes).enumerate() {
        let data = u8::try_from(2 * i).unwrap_or(u8::MAX);
        let error = data.saturating_add(1);
        for c in [data, error] {
            let _ = channels.send(c, &port.to_le_bytes()).await;
        }
        match runtime.port_forward(sandbox, port).await {
            Ok(connection) => {
                let (read, mut write) = tokio::io::split(connection);
                ups.spawn(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut write).await;
                    let _ = write.shutdown().await;
                });
                ends.spawn(channels.pump(data, read));
            }
            Err(e) => {
                let _ = channels.send(error, format!("error forwarding port {port} to pod: {e}").as_bytes()).await;
            }
        }
    }
    let closed = channels.closed();
    tokio::select! {
        () = async { while ends.join_next().await.is_some() {} } => channels.close().await,
        () = closed.cancelled() => channels.hang_up(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::spdy::{Encoder, Frame, Headers};

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_silent_is_not_heard_for_ever_after_its_client() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut incoming = spdy_conn::serve(server);
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        encoder.encode(&Frame::SynStream { id: 1, fin: true, headers: Headers::new() }, &mut out);
        client.write_all(&out).await.unwrap();
        let stream = incoming.recv().await.unwrap();
        let (mut pod, ours) = tokio::io::duplex(64);
        let (over, begun) = (CancellationToken::new(), tokio::time::Instant::now());
        let heard = tokio::spawn(down(ours, stream.writer.clone(), over.clone()));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!heard.is_finished(), "as long as the client may speak the pod may think");
        over.cancel();
        // What it still says is told.
        for _ in 0..3 {
            tokio::time::sleep(HALF_OPEN_MAX / 2).await;
            pod.write_all(b"x").await.unwrap();
        }
        heard.await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 62);
    }
}
