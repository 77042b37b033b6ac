//! What a client may hold by connections alone: they end when nobody uses them, and nobody has them all.

use crate::{kubelet::World, support::PATIENCE};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
/// For so long somebody is seen to stay.
const STAYS: Duration = Duration::from_millis(300);
/// Of the settings: how many streams there may be.
const STREAMS: u16 = 3;

/// The next HTTP/2 frame: what it is, and its content; none at the end.
async fn frame(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let mut body = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut body).await.ok()?;
    Some((head[3], body))
}

/// Waits for the end of a connection; how long it took.
async fn ended(mut stream: impl AsyncReadExt + Unpin) -> Duration {
    let (begun, mut bytes) = (Instant::now(), [0; 1024]);
    while !matches!(stream.read(&mut bytes).await, Ok(0) | Err(_)) {}
    begun.elapsed()
}

#[tokio::test]
async fn who_does_not_use_a_connection_loses_it() {
    let world = World::start("connections").await;
    let (silent, shaken, mut slow) = (TcpStream::connect(world.api).await.unwrap(), world.connect(false).await, world.connect(true).await);
    let mut two = world.speak_two(false).await;
    two.write_all(PREFACE).await.unwrap();
    let settings = frame(&mut two).await.expect("settings");
    assert_eq!(settings.0, SETTINGS);
    let streams = settings.1.chunks(6).find(|s| s[..2] == STREAMS.to_be_bytes()).expect("a limit of streams");
    assert_eq!(streams[2..], 100_u32.to_be_bytes(), "the original's");
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Never-Ends: ").await.unwrap();
    let mut watch = world.ask("GET /api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=600 HTTP/1.1").await;
    let mut answer = [0; 256];
    assert!(watch.read(&mut answer).await.unwrap() > 0);
    let mut used = world.ask("GET /readyz HTTP/1.1").await;
    assert!(used.read(&mut answer).await.unwrap() > 0);

    tokio::time::pause();
    let lasted = tokio::join!(ended(silent), ended(shaken), ended(slow), ended(two), ended(used));
    let seconds = |d: Duration| d.as_secs();
    assert!((9..=11).contains(&seconds(lasted.0)), "a handshake: {lasted:?}");
    for first in [lasted.1, lasted.2, lasted.3] {
        assert!((31..=40).contains(&seconds(first)), "a first request's head: {lasted:?}");
    }
    assert!((89..=100).contains(&seconds(lasted.4)), "between two requests: {lasted:?}");
    assert!(timeout(Duration::from_secs(300), ended(watch)).await.is_err(), "a watch is used as long as it lasts");
}

#[tokio::test]
async fn an_address_has_a_share_of_the_connections_and_who_is_known_keeps_his() {
    let world = World::start("shares").await;
    let mut known = world.ask("GET /readyz HTTP/1.1").await;
    let mut answer = [0; 256];
    assert!(known.read(&mut answer).await.unwrap() > 0);
    let mut silent = Vec::new();
    let full = async {
        loop {
            for _ in 0..16 {
                silent.push(TcpStream::connect(world.api).await.expect("connected"));
            }
            let last = silent.last_mut().expect("some");
            if matches!(timeout(Duration::from_millis(50), last.read(&mut [0])).await, Ok(Ok(0) | Err(_))) {
                return;
            }
        }
    };
    timeout(PATIENCE, full).await.expect("one address does not get all places");
    known.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(known.read(&mut answer).await.unwrap() > 0, "who is known is served on");
    drop(silent);
    let again = async {
        while TcpStream::connect(world.api).await.is_err() || !world.healthy().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("places are given back");
}

/// `GET /readyz` as HPACK writes it: method and scheme from its table, the path and the authority in plain.
fn get_readyz(token: bool) -> Vec<u8> {
    let mut head = vec![0x82, 0x87, 0x04, 7];
    head.extend(b"/readyz");
    head.extend([0x01, 1, b'x']);
    if token {
        head.extend([0x0f, 0x08, 8]);
        head.extend(b"Bearer x");
    }
    let mut frame = vec![0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1];
    frame.extend(head);
    frame
}

/// Reads frames, up to one that is wanted or to the connection's end.
async fn hear(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), kinds: &mut Vec<u8>, wanted: impl Fn(u8) -> bool) {
    while let Some((kind, body)) = frame(stream).await {
        kinds.push(kind);
        if kind == PING {
            // The farewell is final once it was heard.
            stream.write_all(&[&[0, 0, 8, PING, 1, 0, 0, 0, 0], &body[..]].concat()).await.expect("sent");
        }
        if wanted(kind) {
            return;
        }
    }
}

#[tokio::test]
async fn nobody_in_particular_has_one_request_on_an_http_2_connection() {
    let world = World::start("nobody").await;
    for (admin, token, leaves) in [(false, false, true), (false, true, true), (true, false, false)] {
        let mut stream = world.speak_two(admin).await;
        stream.write_all(PREFACE).await.unwrap();
        stream.write_all(&get_readyz(token)).await.unwrap();
        let mut kinds = Vec::new();
        // To the answer first, however long that takes.
        timeout(PATIENCE, hear(&mut stream, &mut kinds, |kind| kind == HEADERS)).await.expect("it is answered");
        let end = timeout(if leaves { PATIENCE } else { STAYS }, hear(&mut stream, &mut kinds, |_| false)).await;
        assert_eq!((end.is_ok(), kinds.contains(&GO_AWAY)), (leaves, leaves), "{admin} {token}: {kinds:?}");
        assert!(kinds.contains(&HEADERS), "it is answered: {kinds:?}");
    }
}

/// The head of the next answer, in small letters; its body is read, too.
async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).map_or(0, |length| length.parse().expect("a number"));
    stream.read_exact(&mut vec![0; length]).await.expect("a body");
    head
}

/// As Go's server does it, which reads 256 KiB of what nobody has read.
#[tokio::test]
async fn a_refusal_ahead_of_the_body_keeps_the_connection() {
    let world = World::start("ahead").await;
    let pods = "/api/v1/namespaces/default/pods/nobody";
    for (request, code) in
        [(format!("PATCH {pods}/log"), 405), (format!("POST {pods}/exec"), 404), (format!("POST {pods}/proxy/x"), 404), ("POST /api/v1/no".into(), 404)]
    {
        for bytes in [10, 256 * 1024 - 1] {
            let mut stream = world.connect(true).await;
            let text = format!("{request} HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\n\r\n{}", " ".repeat(bytes));
            stream.write_all(text.as_bytes()).await.expect("sent");
            let head = timeout(PATIENCE, head(&mut stream)).await.expect("an answer");
            assert!(head.starts_with(&format!("http/1.1 {code} ")), "{request}: {head}");
            assert!(!head.contains("connection: close"), "{request} {bytes}: {head}");
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
            let next = timeout(PATIENCE, self::head(&mut stream)).await.expect("an answer");
            assert!(next.starts_with("http/1.1 200 "), "{request} {bytes}: {next}");
        }
    }
    // A sender that waits to be asked for the body is not asked, and told that this is the end.
    for (more, ends) in [("Content-Length: 9\r\nExpect: 100-continue", true), ("Content-Length: 262144", true), ("Content-Length: 0", false)] {
        let mut stream = world.connect(true).await;
        stream.write_all(format!("POST /api/v1/no HTTP/1.1\r\nHost: x\r\n{more}\r\n\r\n").as_bytes()).await.expect("sent");
        let head = timeout(PATIENCE, head(&mut stream)).await.expect("an answer");
        assert_eq!((head.starts_with("http/1.1 404 "), head.contains("connection: close")), (true, ends), "{more}: {head}");
    }
}
