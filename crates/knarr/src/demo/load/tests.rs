//! The load against servers that behave and servers that do not.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that answers so many requests a connection and then closes it: with a word, or without one.
async fn server(requests: usize, word: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                let mut buffer = [0; 2048];
                for n in 1.. {
                    if stream.read(&mut buffer).await.unwrap_or(0) == 0 || n > requests {
                        return;
                    }
                    let close = if word && n == requests { "connection: close\r\n" } else { "" };
                    let answer = format!("HTTP/1.1 200 OK\r\nx-shop-version: v1\r\n{close}content-length: 2\r\n\r\nok");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

async fn load(address: SocketAddr, modes: &str) -> serde_json::Value {
    let line = format!("--url http://{address}/ --rate 1000 --seconds 0.2 --quiet --connections {modes}");
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    run(Arguments::parse(&words).unwrap()).await.unwrap().json()
}

fn local<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

#[test]
fn what_behaves_loses_nothing() {
    let json = local(async { load(server(10, true).await, "new,keepalive").await });
    assert_eq!((&json["requests"], &json["failed"], &json["retried"]), (&200.into(), &0.into(), &0.into()), "{json}");
    assert_eq!((&json["connections"]["new"]["ok"], &json["versions"]["v1"]), (&100.into(), &200.into()));
}

#[test]
fn a_connection_closed_without_a_word_is_seen() {
    let json = local(async { load(server(1, false).await, "keepalive").await });
    assert_eq!(json["failed"], 0, "{json}");
    assert_ne!(json["retried"], 0, "{json}");
}

#[test]
fn nobody_there_is_a_failure_with_its_reason() {
    let json = local(async {
        let address = server(1, true).await;
        let free = SocketAddr::new(address.ip(), TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port());
        load(free, "new").await
    });
    assert_eq!((&json["ok"], &json["failed"], &json["failures"]), (&0.into(), &200.into(), &serde_json::json!({"connect: connection refused": 200})));
}
