//! What a client of exec, attach and port-forward may send instead of SPDY or WebSocket frames: it must end, without a panic,
//! in bounded time and memory. The mutations are those of the runtime's targets (`crates/runtime/src/fuzz.rs` says how to run
//! them for longer), the corpora are in `crates/kubelet/fuzz/corpus`.

#[path = "../../../runtime/src/fuzz.rs"]
mod mutations;

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::spdy::{DICTIONARY, Decoder, Frame};
use super::spdy_conn;
use super::websocket::{Channels, RESIZE, STDIN};

/// Virtual time in which every connection has ended whose client is gone.
const END_MAX: Duration = Duration::from_secs(60);

/// A machine whose clock goes on when nothing else does.
fn with_paused_time(work: impl Future<Output = ()>) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio.block_on(async { tokio::time::timeout(END_MAX, work).await.expect("it does not end") });
}

#[test]
fn fuzz_spdy() {
    mutations::run(
        "spdy",
        |_| {},
        |bytes| {
            let (mut decoder, mut wire) = (Decoder::default(), BytesMut::new());
            'all: for part in bytes.chunks(bytes.len() / 3 + 1) {
                wire.extend_from_slice(part);
                loop {
                    match decoder.decode(&mut wire) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'all,
                    }
                }
            }
            with_paused_time(async {
                let (client, server) = tokio::io::duplex(1 << 20);
                let mut streams = spdy_conn::serve(server);
                let (mut read, mut write) = tokio::io::split(client);
                write.write_all(bytes).await.unwrap();
                drop(write.shutdown().await);
                tokio::spawn(async move { drop(tokio::io::copy(&mut read, &mut tokio::io::sink()).await) });
                while let Some(mut stream) = streams.recv().await {
                    tokio::io::copy(&mut stream.reader, &mut tokio::io::sink()).await.unwrap();
                }
            });
        },
    );
}

/// What is inside a header block, behind its compression.
#[test]
fn fuzz_spdy_headers() {
    mutations::run(
        "spdy-headers",
        |_| {},
        |bytes| {
            let mut packer = Compress::new(Compression::fast(), true);
            packer.set_dictionary(DICTIONARY).unwrap();
            let mut packed = Vec::with_capacity(bytes.len() + 1024);
            packer.compress_vec(bytes, &mut packed, FlushCompress::Sync).unwrap();
            let mut wire = BytesMut::new();
            wire.put_u32(0x8003_0001);
            wire.put_u32(10 + u32::try_from(packed.len()).unwrap());
            wire.put_slice(&[0; 10]);
            wire.put_slice(&packed);
            if let Ok(Some(Frame::SynStream { headers, .. })) = Decoder::default().decode(&mut wire) {
                let held: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
                assert!(held <= 1 << 20, "{held} bytes of headers out of {}", bytes.len());
            }
        },
    );
}

#[test]
fn fuzz_websocket() {
    mutations::run(
        "websocket",
        |_| {},
        |bytes| {
            for base64 in [false, true] {
                with_paused_time(async {
                    let (client, server) = tokio::io::duplex(1 << 20);
                    let socket = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
                    let inputs: Vec<_> = [STDIN, RESIZE].map(|channel| (channel, tokio::io::duplex(1024))).into();
                    let (readers, writers): (Vec<_>, Vec<_>) = inputs.into_iter().map(|(channel, (ours, theirs))| (ours, (channel, theirs))).unzip();
                    let channels = Channels::start(socket, base64, writers);
                    let reading = readers.into_iter().map(|mut r| tokio::spawn(async move { r.read_to_end(&mut Vec::new()).await }));
                    let reading: Vec<_> = reading.collect();
                    let (mut read, mut write) = tokio::io::split(client);
                    tokio::spawn(async move { drop(tokio::io::copy(&mut read, &mut tokio::io::sink()).await) });
                    write.write_all(bytes).await.unwrap();
                    drop(write.shutdown().await);
                    channels.closed().cancelled().await;
                    channels.close().await;
                    for one in reading {
                        drop(one.await);
                    }
                });
            }
        },
    );
}
