//! A cluster without containers, for kubectl: the API server, all controllers, and nodes that only say that their pods run.
//!
//! ```text
//! cargo run -p controllers --example cluster -- 16444 /tmp/hollow
//! KUBECONFIG=/tmp/hollow/kubeconfig kubectl create deployment web --image=web --replicas=3
//! ```

#[allow(dead_code)]
#[path = "../tests/cluster/support.rs"]
mod support;

use apiserver::{ApiServer, Config, Identity};
use identity::pki::{ClusterNames, ClusterPki};
use std::path::PathBuf;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    support::log();
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().ok_or("usage: cluster PORT DIRECTORY")?.parse()?;
    let directory = PathBuf::from(args.next().ok_or("usage: cluster PORT DIRECTORY")?);
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
    ClusterPki::write_kubeconfig(&path, &keys.admin_kubeconfig("hollow", &format!("https://127.0.0.1:{port}")))?;
    let stop = CancellationToken::new();
    // The nodes have no kubelet that would renew their leases.
    let config = controllers::Config { node_monitor_grace_s: u32::MAX, root_ca: "the authority".into(), cluster_cidr: Some("10.244.0.0/16".into()), ..Default::default() };
    let informers = support::controllers(&server, config, &stop);
    support::hollow(&support::local(&server, "admin", &["system:masters"]), &informers, &["a", "b"]).await?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("serving on 127.0.0.1:{port}, pid {}, kubeconfig {}", std::process::id(), path.display());
    tokio::spawn({
        let stop = stop.clone();
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.cancel();
            }
        }
    });
    server.serve(vec![listener], keys.server_config()?, stop).await;
    Ok(())
}
