//! Whether the cluster's DNS answers: one question over UDP, as a pod would ask it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use tokio::net::UdpSocket;

/// Between two questions.
const RETRY: Duration = Duration::from_millis(5);
/// For one answer. What is asked before the proxy's rules are there is lost, and a start should not wait for it.
const PATIENCE: Duration = Duration::from_millis(20);
const ID: [u8; 2] = [0x6b, 0x6e];
/// Types of records: addresses of IPv4, and of IPv6.
const A: u8 = 1;
const AAAA: u8 = 28;

/// Waits until the server at this address answers for the Service `kubernetes`.
pub async fn answering(server: IpAddr, domain: &str) {
    // The Service has an address of the family that its DNS has.
    let question = question(&format!("kubernetes.default.svc.{domain}"), if server.is_ipv4() { A } else { AAAA });
    loop {
        if ask(server, &question).await.is_ok_and(|yes| yes) {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn ask(server: IpAddr, question: &[u8]) -> std::io::Result<bool> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect((server, 53)).await?;
    socket.send(question).await?;
    let mut answer = [0; 512];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    // An answer to this question, without an error, with at least one record (RFC 1035, 4.1.1).
    Ok(length > 12 && answer[..2] == ID && answer[3] & 0x0f == 0 && (answer[6], answer[7]) != (0, 0))
}

/// A question for the addresses of a name.
fn question(name: &str, kind: u8) -> Vec<u8> {
    let mut message = ID.to_vec();
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, kind, 0, 1]);
    message
}
