//! Who connects to the socket is led to who connects to the port: a driver outside of the cluster is reached so, through a port that is
//! forwarded. Connections of the port are made before anybody needs them, and wait in its queue.

use std::io;

use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::Flags;
use crate::grpc::listen;

pub(crate) async fn run(flags: &Flags) -> io::Result<()> {
    let here = listen(&flags.socket("endpoint")?)?;
    let port = flags.text("proxy-endpoint", "");
    let port = port.rsplit(':').next().and_then(|p| p.parse::<u16>().ok()).ok_or_else(|| io::Error::other("--proxy-endpoint has no port"))?;
    let there = TcpListener::bind(("0.0.0.0", port)).await?;
    loop {
        let (near, _) = here.accept().await?;
        let (far, _) = there.accept().await?;
        tokio::spawn(join(near, far));
    }
}

async fn join(mut near: UnixStream, mut far: TcpStream) {
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}
