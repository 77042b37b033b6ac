//! An API server in memory, for the examples: on `127.0.0.1`, over TLS, with a kubeconfig for its administrator.

use apiserver::{ApiServer, Config, Identity};
use identity::pki::{ClusterNames, ClusterPki};
use std::path::PathBuf;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub type Error = Box<dyn std::error::Error>;

pub struct Alone {
    pub server: ApiServer,
    keys: ClusterPki,
    port: u16,
    kubeconfig: PathBuf,
}

impl Alone {
    /// A new server on the port, and with its keys in the directory, that the example's arguments name.
    pub async fn from_args(example: &str) -> Result<Self, Error> {
        let mut args = std::env::args().skip(1);
        let mut argument = || args.next().ok_or_else(|| format!("usage: {example} PORT DIRECTORY"));
        let port: u16 = argument()?.parse()?;
        let directory = PathBuf::from(argument()?);
        let pki = directory.join("pki");
        std::fs::create_dir_all(&pki)?;
        let names = ClusterNames { domain: "cluster.local".into(), service_ip: "10.96.0.1".parse()?, ips: Vec::new(), names: Vec::new() };
        let keys = ClusterPki::load_or_create(&pki, &names)?;
        let store = store::Store::in_memory(&store::Options::default())?;
        let identity = Identity::new(&store, Some(&pki), "https://kubernetes.default.svc.cluster.local", keys.trust()?)?;
        let config = Config { advertise_port: port, advertise_address: Some("127.0.0.1".parse()?), ..Config::default() };
        let server = ApiServer::new(config, store, identity)?;
        server.bootstrap().await?;
        let kubeconfig = directory.join("kubeconfig");
        ClusterPki::write_kubeconfig(&kubeconfig, &keys.admin_kubeconfig(example, &format!("https://127.0.0.1:{port}")))?;
        Ok(Self { server, keys, port, kubeconfig })
    }

    /// Serves until Ctrl-C, which also ends what else waits for `stop`.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), Error> {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await?;
        println!("serving on 127.0.0.1:{}, pid {}, kubeconfig {}", self.port, std::process::id(), self.kubeconfig.display());
        tokio::spawn({
            let stop = stop.clone();
            async move {
                if tokio::signal::ctrl_c().await.is_ok() {
                    stop.cancel();
                }
            }
        });
        self.server.serve(vec![listener], self.keys.server_config()?, stop).await;
        Ok(())
    }
}
