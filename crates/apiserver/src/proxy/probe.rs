//! The health of another program on this machine, by its `/healthz` over TLS.

use super::{dial, forward};
use http::{Request, header};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

/// How long a program has to answer; upstream's is 20 s, which a list of three would make a minute.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How much of an answer is told.
const TEXT_MAX: usize = 1024;

/// What the program at a port says of its health; an error in the words of Go's client.
pub(crate) async fn health(port: u16) -> Result<String, String> {
    let url = format!("https://127.0.0.1:{port}/healthz");
    let told = |error: String| format!("Get {url:?}: {error}");
    let asking = async {
        let backend = dial::Backend { address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(), tls: Some(dial::unverified()?) };
        let mut sender = dial::connect(&backend).await?;
        let request = Request::get("/healthz").header(header::HOST, backend.address.to_string()).body(crate::empty()).map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = answer.status();
        let body = forward::read(answer.into_body(), TEXT_MAX).await?;
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    };
    let answered: Result<_, String> = tokio::time::timeout(ANSWER_MAX, asking).await.unwrap_or_else(|_| Err("context deadline exceeded".into()));
    match answered.map_err(told)? {
        (code, text) if code.is_success() => Ok(text),
        (_, text) => Err(text),
    }
}
