//! Serves the API alone, over TLS, on `127.0.0.1:PORT`, and writes a kubeconfig for its administrator: for kubectl,
//! client libraries and load generators.
//!
//! ```text
//! cargo run --release -p apiserver --example serve -- 16443 /tmp/serve
//! KUBECONFIG=/tmp/serve/kubeconfig kubectl get ns
//! ```

use apiserver::{ApiServer, Config, Identity};
use identity::pki::{ClusterNames, ClusterPki};
use std::path::PathBuf;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().ok_or("usage: serve PORT DIRECTORY")?.parse()?;
    let directory = PathBuf::from(args.next().ok_or("usage: serve PORT DIRECTORY")?);
    let pki = directory.join("pki");
    std::fs::create_dir_all(&pki)?;

    let names = ClusterNames { domain: "cluster.local".into(), service_ip: "10.96.0.1".parse()?, ips: Vec::new(), names: Vec::new() };
    let keys = ClusterPki::load_or_create(&pki, &names)?;
    let store = store::Store::in_memory(&store::Options::default())?;
    let identity = Identity::new(&store, Some(&pki), "https://kubernetes.default.svc.cluster.local", keys.trust()?)?;
    let config = Config { advertise_port: port, advertise_address: Some("127.0.0.1".parse()?), ..Config::default() };
    let server = ApiServer::new(config, store, identity)?;
    server.bootstrap().await?;

    let path = directory.join("kubeconfig");
    ClusterPki::write_kubeconfig(&path, &keys.admin_kubeconfig("serve", &format!("https://127.0.0.1:{port}")))?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("serving on 127.0.0.1:{port}, pid {}, kubeconfig {}", std::process::id(), path.display());
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    server.serve(vec![listener], keys.server_config()?, shutdown).await;
    Ok(())
}
